//! Conversion of safetensors to GGUF through the program, with scripts in the place of llama.cpp's converter.
#![cfg(all(feature = "cli", feature = "tui"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rbee_hive::format::gguf::{TensorType, Writer};
use serde_json::Value;
use support::program::{Bench, Ran};

const REPOSITORY: &str = "openai-community/gpt2";
const RESULT: &str = "gpt2/gpt2-fp32.gguf";

/// A safetensors file with one tensor of 64 x 32 numbers.
fn safetensors() -> Vec<u8> {
    let header = br#"{"wte.weight":{"dtype":"F32","shape":[64,32],"data_offsets":[0,8192]}}"#;
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header);
    bytes.extend(std::iter::repeat_n(0, 8192));
    bytes
}

fn gguf(layers: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    Writer::new("gpt2")
        .key("gpt2.block_count", layers)
        .key("gpt2.embedding_length", 32_u32)
        .tensor("token_embd.weight", &[32, 64], TensorType::F32)
        .write_to(&mut bytes, 1)
        .unwrap();
    bytes
}

fn bench() -> Bench {
    let bench = Bench::new();
    bench.hub.put(REPOSITORY, "model.safetensors", &safetensors());
    bench.hub.put(REPOSITORY, "config.json", br#"{"model_type":"gpt2","n_layer":2,"n_embd":32,"n_head":4}"#);
    bench.hub.put(REPOSITORY, "tokenizer.json", b"{}");
    fs::write(bench.scratch.path().join("good.gguf"), gguf(2)).unwrap();
    bench
}

/// A converter that does `body` with `$src`, `$out` and `$type` set.
fn converter(bench: &Bench, body: &str) -> PathBuf {
    let path = bench.scratch.path().join("convert_hf_to_gguf.py");
    let good = bench.scratch.path().join("good.gguf");
    let script = format!(
        "#!/bin/sh\nsrc=$1; out=$3; type=$5\nGOOD='{}'; LOG='{}'\n{body}\n",
        good.display(),
        bench.scratch.path().join("log").display()
    );
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

fn run(bench: &Bench, converter: Option<&Path>, line: &str) -> Ran {
    let mut command = bench.command(line);
    command.env("HF_TOKEN", "hf_secret").env("SECRET", "1");
    if let Some(converter) = converter {
        command.env("LLORCH_CONVERTER", converter);
    }
    bench.finish(command)
}

/// Nothing under the final name, nothing staged, and the source still there.
fn nothing_published(bench: &Bench) {
    let mut names: Vec<String> = fs::read_dir(bench.model("gpt2"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .filter(|name| !name.starts_with('.'))
        .collect();
    names.sort();
    assert_eq!(names, ["config.json", "model.safetensors", "tokenizer.json"]);
}

fn gpt2_in_catalog(bench: &Bench) -> Value {
    let catalog = bench.run("catalog --json").expect(0).json();
    catalog.as_array().unwrap().iter().find(|entry| entry["alias"] == "gpt2").unwrap().clone()
}

#[test]
fn a_catalog_entry_is_fetched_converted_recorded_and_verified() {
    let bench = bench();
    let script = converter(
        &bench,
        "env > \"$LOG\"; echo \"$src $out $type\" >> \"$LOG\"; echo 'writing tensors'; echo 'half way' >&2; \
         cp \"$GOOD\" \"$out\"; pwd >> \"$LOG\"",
    );
    let ran = run(&bench, Some(&script), "download gpt2 --json").expect(0);
    let events: Vec<Value> = ran.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let printed: Vec<&str> = events.iter().filter_map(|event| event["line"].as_str()).collect();
    assert!(printed.contains(&"writing tensors") && printed.contains(&"half way"), "{printed:?}");
    let last = events.last().unwrap();
    assert_eq!(last["event"], "finished");
    assert!(last["path"].as_str().unwrap().ends_with(RESULT), "{last}");
    assert_eq!(fs::read(bench.model(RESULT)).unwrap(), gguf(2));
    assert_eq!(gpt2_in_catalog(&bench)["installed"], true);

    let log = fs::read_to_string(bench.scratch.path().join("log")).unwrap();
    assert!(!log.contains("hf_secret") && !log.contains("SECRET=") && !log.contains("HF_ENDPOINT"), "{log}");
    assert!(log.contains("HF_HUB_OFFLINE=1") && log.contains(".llorch f32"), "{log}");
    let scratch = log.lines().last().unwrap();
    assert!(scratch.contains("convert-") && !Path::new(scratch).exists(), "{scratch}");

    let verified = bench.run("verify gpt2 --json").expect(0).json();
    let files = verified["models"][0]["files"].as_array().unwrap();
    let of = |name: &str| files.iter().find(|file| file["path"] == name).unwrap();
    assert_eq!(
        (of("gpt2-fp32.gguf")["status"].as_str(), of("gpt2-fp32.gguf")["algorithm"].as_str()),
        (Some("ok"), Some("sha256"))
    );

    // A second time nothing is done, and nobody is asked.
    bench.hub.forget();
    let again = run(&bench, None, "download gpt2").expect(0);
    assert!(again.stderr.contains("already") && again.stdout.trim_end().ends_with(RESULT), "{again:?}");
    assert_eq!(bench.hub.count("/"), 0);
}

#[test]
fn without_a_converter_the_way_out_is_said_and_the_rest_is_kept() {
    let bench = bench();
    let ran = run(&bench, None, "download gpt2").expect(1);
    let line = ran.stderr.lines().last().unwrap();
    for part in ["'gpt2' needs a conversion", "git clone", "pip install -r", "converter = ", "config.toml"] {
        assert!(line.contains(part), "{part}: {line}");
    }
    let first = ran.stderr.lines().next().unwrap();
    assert!(first.contains("'gpt2' needs a conversion") && first.ends_with("fetched now and kept"), "{ran:?}");
    nothing_published(&bench);
    assert_eq!(gpt2_in_catalog(&bench)["installed"], false);
    // Later it goes on from there, without the hub.
    bench.hub.forget();
    let script = converter(&bench, "cp \"$GOOD\" \"$out\"");
    run(&bench, Some(&script), "download gpt2").expect(0);
    assert_eq!(bench.hub.count("/resolve/"), 0);
    assert!(bench.model(RESULT).exists());
}

#[test]
fn what_goes_wrong_is_one_clear_line_and_nothing_is_published() {
    let bench = bench();
    let other = bench.scratch.path().join("other.gguf");
    fs::write(&other, gguf(3)).unwrap();
    let other = other.display();
    let cases = [
        ("echo 'Model SomethingNew is not supported' >&2; exit 1".to_owned(), "does not know this architecture"),
        (
            "echo \"ModuleNotFoundError: No module named 'torch'\" >&2; exit 1".to_owned(),
            "lacks the Python module 'torch'",
        ),
        ("echo 'boom' >&2; exit 7".to_owned(), "ended with status 7: boom"),
        ("kill -9 $$".to_owned(), "was ended by signal 9"),
        (
            "echo 'OSError: [Errno 28] No space left on device' >&2; head -c 100 \"$GOOD\" > \"$out\"; exit 1"
                .to_owned(),
            "is full",
        ),
        ("exit 0".to_owned(), "wrote no file"),
        ("echo '<html>' > \"$out\"".to_owned(), "no model: not a GGUF file"),
        ("head -c 200 \"$GOOD\" > \"$out\"".to_owned(), "cut short"),
        ("cat \"$GOOD\" \"$GOOD\" > \"$out\"".to_owned(), "longer than its header says"),
        (format!("cp '{other}' \"$out\""), "3 layers, its source 2"),
        ("ln -s \"$GOOD\" \"$out\"".to_owned(), "wrote no file"),
    ];
    for (body, expected) in cases {
        let script = converter(&bench, &body);
        let ran = run(&bench, Some(&script), "download gpt2").expect(1);
        let line = ran.stderr.lines().last().unwrap();
        assert!(line.contains(expected) && line.contains("gpt2"), "{body}: {line}");
        nothing_published(&bench);
    }
    assert_eq!(gpt2_in_catalog(&bench)["installed"], false);
}

#[test]
fn a_converter_that_hangs_is_stopped_with_all_it_has_started() {
    let bench = bench();
    let script = converter(&bench, "sleep 300 & echo $! > \"$LOG\"; wait");
    let config = bench.scratch.path().join("config.toml");
    fs::write(&config, "converter_patience = 10\n").unwrap();
    let ran = run(&bench, Some(&script), &format!("download gpt2 --config {}", config.display())).expect(1);
    assert!(ran.stderr.contains("did nothing for 10 s"), "{ran:?}");
    nothing_published(&bench);
    let child = fs::read_to_string(bench.scratch.path().join("log")).unwrap();
    let child = child.trim().parse().unwrap();
    bench.wait_for("the child's child has ended", || support::pty::is_gone(child));
}

#[test]
fn an_interruption_ends_the_converter_and_leaves_nothing() {
    let bench = bench();
    let script = converter(&bench, "cp \"$GOOD\" \"$out\"; echo 'now' >&2; echo $$ > \"$LOG\"; sleep 300");
    let mut command = bench.command("download gpt2");
    command.env("LLORCH_CONVERTER", &script);
    let child = command.spawn().unwrap();
    let log = bench.scratch.path().join("log");
    bench.wait_for("the converter has begun", || fs::read_to_string(&log).is_ok_and(|text| !text.trim().is_empty()));
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(143), "{output:?}");
    nothing_published(&bench);
    let converter = fs::read_to_string(&log).unwrap();
    assert!(!Path::new(&format!("/proc/{}", converter.trim())).exists(), "it has ended");
}

#[test]
fn a_kill_ends_the_converter_with_all_it_has_started() {
    let bench = bench();
    let script = converter(
        &bench,
        "trap '' TERM HUP INT; sleep 300 & echo $$ $! > \"$LOG.new\"; mv \"$LOG.new\" \"$LOG\"; wait",
    );
    let mut command = bench.command("download gpt2");
    command.env("LLORCH_CONVERTER", &script);
    let running = support::program::Running(command.spawn().unwrap());
    let log = bench.scratch.path().join("log");
    bench.wait_for("the converter has begun", || log.exists());
    let started: Vec<u32> =
        fs::read_to_string(&log).unwrap().split_whitespace().map(|pid| pid.parse().unwrap()).collect();
    assert_eq!(started.len(), 2);
    running.kill();
    bench.wait_for("all of it is gone", || started.iter().all(|pid| support::pty::is_gone(*pid)));
    // The next one does it.
    let script = converter(&bench, "cp \"$GOOD\" \"$out\"");
    run(&bench, Some(&script), "download gpt2").expect(0);
    nothing_staged(&bench);
}

/// No file that is on its way to its name.
fn nothing_staged(bench: &Bench) {
    let left: Vec<String> =
        bench.tree().into_iter().filter(|path| path.contains(".llorch.") || path.ends_with(".llorch")).collect();
    assert_eq!(left, [""; 0]);
}

#[test]
fn what_is_not_here_is_said_with_a_way_out() {
    let bench = bench();
    let ran = run(&bench, None, "convert nope").expect(1);
    assert!(ran.error().contains("nope") && ran.error().contains("`llorch-models list`"), "{ran:?}");
}

#[test]
fn a_model_that_is_here_is_converted_beside_itself() {
    let bench = bench();
    run(&bench, None, &format!("download {REPOSITORY}")).expect(0);
    let script = converter(&bench, "test \"$type\" = q8_0 || exit 9; cp \"$GOOD\" \"$out\"");
    let ran = run(&bench, Some(&script), "convert gpt2 --outtype q8_0").expect(0);
    assert!(ran.stdout.trim_end().ends_with("gpt2/gpt2-Q8_0.gguf"), "{ran:?}");
    assert!(bench.model("gpt2/gpt2-Q8_0.gguf").is_file());
    let ran = run(&bench, Some(&script), "convert flat:gpt2 --outtype q8_0").expect(0);
    assert!(ran.stderr.contains("already"), "{ran:?}");
    // What somebody else put there is not replaced.
    fs::write(bench.model("gpt2/gpt2-F16.gguf"), b"mine").unwrap();
    let ran = run(&bench, Some(&script), "convert gpt2").expect(1);
    assert!(ran.stderr.contains("--force"), "{ran:?}");
    assert_eq!(fs::read(bench.model("gpt2/gpt2-F16.gguf")).unwrap(), b"mine");
    // Of a folder that nobody recorded, the configuration is the model's own, and what was made is known again.
    fs::create_dir_all(bench.model("copied/1_Pooling")).unwrap();
    for entry in fs::read_dir(bench.model("gpt2")).unwrap().flatten() {
        let name = entry.file_name().into_string().unwrap();
        if entry.path().is_file() && !name.starts_with('.') && !name.ends_with(".gguf") {
            fs::copy(entry.path(), bench.model("copied").join(name)).unwrap();
        }
    }
    fs::write(bench.model("copied/1_Pooling/config.json"), b"{}").unwrap();
    let script = converter(&bench, "cp \"$GOOD\" \"$out\"");
    run(&bench, Some(&script), "convert copied").expect(0);
    let ran = run(&bench, Some(&script), "convert copied").expect(0);
    assert!(ran.stderr.contains("already"), "{ran:?}");
}

#[test]
fn a_conversion_that_comes_to_nothing_leaves_no_folder() {
    let bench = bench();
    run(&bench, None, &format!("download {REPOSITORY} --to hf")).expect(0);
    let before = bench.tree();
    run(&bench, None, &format!("convert hf:{REPOSITORY}")).expect(1);
    assert_eq!(bench.tree(), before);
    let script = converter(&bench, "exit 7");
    run(&bench, Some(&script), &format!("convert hf:{REPOSITORY}")).expect(1);
    let (after, added): (Vec<_>, Vec<_>) = bench.tree().into_iter().partition(|path| before.contains(path));
    assert_eq!(after, before);
    assert!(added.iter().all(|path| !path.contains("models/")), "{added:?}");
}

#[test]
fn an_output_type_is_one_that_is_known() {
    let bench = bench();
    run(&bench, None, &format!("download {REPOSITORY}")).expect(0);
    let ran = run(&bench, None, "convert gpt2 --outtype f99").expect(2);
    assert!(ran.stderr.contains("f99"), "{ran:?}");
}

#[test]
fn a_converted_file_is_no_file_of_the_hub() {
    let bench = bench();
    let script = converter(&bench, "cp \"$GOOD\" \"$out\"");
    run(&bench, Some(&script), "download gpt2").expect(0);
    assert_eq!(bench.run("updates --json").expect(0).json(), serde_json::json!([]));
    bench.hub.put(REPOSITORY, "config.json", br#"{"model_type":"gpt2","n_layer":2,"n_embd":32,"n_head":4,"more":1}"#);
    let updates = bench.run("updates --json").expect(0).json();
    let files: Vec<&Value> = updates[0]["files"].as_array().unwrap().iter().map(|file| &file["path"]).collect();
    assert_eq!(files, ["config.json"], "{updates}");
    // Fetching that anew leaves the record of what was made here.
    run(&bench, Some(&script), &format!("download {REPOSITORY} --force")).expect(0);
    assert_eq!(bench.run("updates --json").expect(0).json(), serde_json::json!([]));
    bench.hub.put(REPOSITORY, "config.json", br#"{"model_type":"gpt2","n_layer":2,"n_embd":32,"n_head":4,"more":2}"#);
    let updates = bench.run("updates --json").expect(0).json();
    assert_eq!(updates[0]["files"].as_array().unwrap().len(), 1, "{updates}");
}

#[test]
fn a_model_of_the_cache_is_converted_into_a_folder_and_checked() {
    let bench = bench();
    run(&bench, None, &format!("download {REPOSITORY} --to hf")).expect(0);
    let script = converter(&bench, "test -e \"$src/config.json\" || exit 9; cp \"$GOOD\" \"$out\"");
    let ran = run(&bench, Some(&script), &format!("convert hf:{REPOSITORY}")).expect(0);
    let path = PathBuf::from(ran.stdout.trim_end());
    assert_eq!(fs::read(&path).unwrap(), gguf(2), "{ran:?}");
    let folder = path.parent().unwrap().file_name().unwrap().to_str().unwrap();
    let verified = bench.run(&format!("verify flat:{folder} --json")).expect(0).json();
    assert_eq!(verified["models"][0]["files"][0]["algorithm"], "sha256", "what was made has a checksum: {verified}");
    bench.run(&format!("verify hf:{REPOSITORY}")).expect(0);

    // A result that does not agree with the cache's configuration is not published.
    fs::write(bench.scratch.path().join("good.gguf"), gguf(7)).unwrap();
    let ran = run(&bench, Some(&script), &format!("convert hf:{REPOSITORY} --outtype q8_0")).expect(1);
    assert!(ran.stderr.contains("nothing was published"), "{ran:?}");
    assert!(
        !fs::read_dir(path.parent().unwrap())
            .unwrap()
            .any(|entry| { entry.unwrap().file_name().to_string_lossy().contains("Q8_0") })
    );
}

/// Small models that llama.cpp's own converter knows, in folders named as the aliases of the catalog: `LLORCH_TEST_MODELS`. Its
/// folder is `LLORCH_TEST_CONVERTER`.
#[test]
fn the_real_converter_makes_what_its_own_reader_reads() {
    let (Some(converter), Some(models)) =
        (std::env::var_os("LLORCH_TEST_CONVERTER"), std::env::var_os("LLORCH_TEST_MODELS"))
    else {
        eprintln!("skipped: LLORCH_TEST_CONVERTER and LLORCH_TEST_MODELS name no converter and no models");
        return;
    };
    let converter = PathBuf::from(converter);
    for (alias, repository, file) in [
        ("gpt2", REPOSITORY, "gpt2-fp32.gguf"),
        ("granite", "ibm-granite/granite-4.0-micro", "granite-4.0-micro-fp32.gguf"),
    ] {
        let bench = Bench::new();
        for entry in fs::read_dir(Path::new(&models).join(alias)).unwrap() {
            let entry = entry.unwrap();
            bench.hub.put(repository, entry.file_name().to_str().unwrap(), &fs::read(entry.path()).unwrap());
        }
        let ran = run(&bench, Some(&converter), &format!("download {alias}")).expect(0);
        let path = PathBuf::from(ran.stdout.trim_end());
        assert_eq!(path.file_name().unwrap(), file, "{ran:?}");
        bench.run(&format!("verify {alias}")).expect(0);
        let info = bench.run(&format!("info {alias} --json")).expect(0).json();
        assert_eq!(info["metadata"]["layers"], 2, "{info}");

        // From both stores, in another type.
        run(&bench, Some(&converter), &format!("convert {alias} --outtype q8_0")).expect(0);
        run(&bench, None, &format!("download {repository} --to hf")).expect(0);
        let ran = run(&bench, Some(&converter), &format!("convert hf:{repository} --outtype bf16")).expect(0);
        let made = PathBuf::from(ran.stdout.trim_end());
        let python = fs::read_dir(converter.join(".venv/bin")).map(|_| converter.join(".venv/bin/python"));
        for made in [&path, &made] {
            let read = std::process::Command::new(python.as_deref().unwrap_or(Path::new("python3")))
                .args(["-c", "import sys, gguf; print(len(gguf.GGUFReader(sys.argv[1]).tensors))"])
                .arg(made)
                .output()
                .unwrap();
            assert!(read.status.success(), "{made:?}: {}", String::from_utf8_lossy(&read.stderr));
        }
        bench.run("verify --all").expect(0);
        nothing_staged(&bench);
    }
}
