//! Damage that was found once: every row and every command that meets the file knows of it, until the file is another.
#![cfg(all(feature = "cli", feature = "tui", feature = "mirror"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde_json::Value;
use support::hf_cache::{noise, sha256};
use support::program::{Bench, gguf};
use support::stores::{Ollama, small_gguf};

const REPOSITORY: &str = "org/M-GGUF";
const NAME: &str = "m-Q4_K_M.gguf";
const FILE: &str = "m-gguf/m-Q4_K_M.gguf";

/// Changes bytes in the middle and puts the modification time back, as a disk that rots does.
fn rot(path: &Path) {
    let before = fs::metadata(path).unwrap();
    let mut bytes = fs::read(path).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(path, bytes).unwrap();
    let file = fs::File::options().write(true).open(path).unwrap();
    file.set_modified(before.modified().unwrap()).unwrap();
    assert_eq!(file.metadata().unwrap().ino(), before.ino());
}

fn row(bench: &Bench, id: &str) -> Value {
    let listed = bench.run("list --json").expect(0).json();
    let rows = listed["models"].as_array().unwrap();
    rows.iter().find(|row| row["id"] == id).unwrap_or_else(|| panic!("{id}: {listed}")).clone()
}

fn is_corrupt(bench: &Bench, id: &str) -> bool {
    let row = row(bench, id);
    let says = row["warnings"].to_string().contains("is corrupt: verified on");
    assert_eq!(row["damage"] == "corrupt", says, "{row}");
    assert_eq!(row["complete"], !says, "{row}");
    says
}

fn statuses(verified: &Value) -> Vec<&str> {
    let models = verified["models"].as_array().unwrap();
    models.iter().flat_map(|model| model["files"].as_array().unwrap()).map(|f| f["status"].as_str().unwrap()).collect()
}

fn hub_cache(bench: &Bench) -> PathBuf {
    bench.scratch.path().join("home/.cache/huggingface/hub")
}

#[test]
fn a_download_fetches_what_was_found_corrupt_and_says_why() {
    let bench = Bench::new();
    let bytes = bench.offer(REPOSITORY, NAME);
    bench.run("download org/M-GGUF").expect(0);
    let path = bench.model(FILE);
    rot(&path);
    // Nothing is known yet, and nobody reads it on suspicion.
    assert!(bench.run("download org/M-GGUF").expect(0).stderr.contains("it was there already"));
    bench.run("verify m-gguf").expect(1);
    assert!(is_corrupt(&bench, "m-gguf"));

    let ran = bench.run("download org/M-GGUF").expect(0);
    assert!(ran.stderr.contains("m-Q4_K_M.gguf was corrupt (verified on "), "{ran:?}");
    assert!(ran.stderr.contains("fetched again") && !ran.stderr.contains("already"), "{ran:?}");
    assert_eq!(fs::read(&path).unwrap(), bytes);
    let mended = row(&bench, "m-gguf");
    assert!(mended["verified"].is_string() && mended["complete"] == true, "{mended}");
    bench.run("verify m-gguf --quick").expect(0);
    assert!(bench.run("download org/M-GGUF").expect(0).stderr.contains("it was there already"));
}

#[test]
fn the_old_file_stays_until_the_new_one_is_right() {
    let bench = Bench::new();
    bench.offer(REPOSITORY, NAME);
    bench.run("download org/M-GGUF").expect(0);
    let path = bench.model(FILE);
    rot(&path);
    bench.run("verify m-gguf").expect(1);
    let rotten = fs::read(&path).unwrap();
    let mut command = bench.command("download org/M-GGUF");
    command.env("HF_HUB_OFFLINE", "1");
    let ran = bench.finish(command).expect(1);
    assert!(!ran.stderr.contains("already"), "{ran:?}");
    assert_eq!(fs::read(&path).unwrap(), rotten);
    assert!(is_corrupt(&bench, "m-gguf"));
}

#[test]
fn one_damaged_file_of_several_is_fetched_alone() {
    let bench = Bench::new();
    bench.hub.put(REPOSITORY, NAME, &gguf(8, "m"));
    bench.hub.put(REPOSITORY, "config.json", b"{\"model_type\":\"llama\"}");
    let line = ["download", REPOSITORY, "--file", "*"].join(" ");
    bench.run(&line).expect(0);
    rot(&bench.model("m-gguf/config.json"));
    bench.run("verify m-gguf").expect(1);
    bench.hub.forget();
    let ran = bench.run(&line).expect(0);
    assert!(ran.stderr.contains("config.json was corrupt"), "{ran:?}");
    assert_eq!(bench.hub.count("resolve"), 1, "{:?}", bench.hub.seen());
    assert!(!is_corrupt(&bench, "m-gguf"));
}

#[test]
fn in_the_cache_the_blob_is_replaced_and_every_name_of_it_is_sound() {
    let bench = Bench::new();
    let bytes = bench.offer(REPOSITORY, NAME);
    bench.run("download org/M-GGUF --to hf").expect(0);
    let blob = hub_cache(&bench).join("models--org--M-GGUF/blobs").join(sha256(&bytes));
    // Another name of the same bytes, in a store that knows nothing of the hub.
    fs::create_dir_all(bench.model("linked")).unwrap();
    fs::hard_link(&blob, bench.model("linked/other.gguf")).unwrap();
    rot(&blob);
    bench.run("verify hf:org/M-GGUF").expect(1);
    assert!(is_corrupt(&bench, "org/M-GGUF"));
    assert!(is_corrupt(&bench, "linked"), "the bytes are the same");
    assert_eq!(statuses(&bench.run("verify linked --json").expect(1).json()), ["corrupt"], "and so is the answer");

    let ran = bench.run("download org/M-GGUF --to hf").expect(0);
    assert!(ran.stderr.contains("was corrupt") && ran.stderr.contains("fetched again"), "{ran:?}");
    assert_eq!(fs::read(&blob).unwrap(), bytes);
    assert!(!is_corrupt(&bench, "org/M-GGUF"));
    assert!(row(&bench, "org/M-GGUF")["verified"].is_string());
    assert!(bench.run("download org/M-GGUF --to hf").expect(0).stderr.contains("already"));
    assert!(is_corrupt(&bench, "linked"), "the old bytes are still there under the other name");
    // Replaced there too, nothing is left of it.
    fs::copy(&blob, bench.model("linked/new")).unwrap();
    fs::rename(bench.model("linked/new"), bench.model("linked/other.gguf")).unwrap();
    assert!(!is_corrupt(&bench, "linked"));
}

#[test]
fn a_quick_look_believes_what_reading_found() {
    let bench = Bench::new();
    bench.offer(REPOSITORY, NAME);
    bench.run("download org/M-GGUF").expect(0);
    rot(&bench.model(FILE));
    assert_eq!(statuses(&bench.run("verify m-gguf --quick --json").expect(0).json()), ["ok"], "nobody has read it");
    bench.run("verify m-gguf").expect(1);
    let quick = bench.run("verify m-gguf --quick --json").expect(1).json();
    let check = &quick["models"][0]["files"][0];
    assert_eq!((check["status"].as_str(), check["algorithm"].as_str()), (Some("corrupt"), Some("sha256")), "{check}");
    assert_ne!(check["expected"], check["actual"]);
    assert!(check["note"].as_str().unwrap().starts_with("found on "), "{check}");
    assert_eq!(quick["models"][0]["ok"], false);
    let text = bench.run("verify --all --quick").expect(1).stdout;
    assert!(text.contains("corrupt") && text.contains("it has not changed since"), "{text}");
    // What trusts good results reads what is not known to be good.
    for _ in 0..2 {
        assert_eq!(statuses(&bench.run("verify m-gguf --changed --json").expect(1).json()), ["corrupt"]);
    }
    // The bytes come back: only reading them tells, and all see it then.
    rot(&bench.model(FILE));
    assert_eq!(statuses(&bench.run("verify m-gguf --quick --json").expect(0).json()), ["ok"]);
    bench.run("verify m-gguf").expect(0);
    assert!(!is_corrupt(&bench, "m-gguf"));
}

#[test]
fn every_tag_with_the_blob_shows_what_was_found_in_one() {
    let bench = Bench::new();
    let store = Ollama(bench.scratch.path().join("home/.ollama/models"));
    let weights = small_gguf(15, 64, 1);
    let (config, license) = (Ollama::config("Q4_K_M"), noise(5000, 3));
    let layers: [(&str, &[u8]); 2] = [("model", &weights), ("license", &license)];
    let manifest = store.manifest(&config, &layers);
    store.tag("registry.ollama.ai/library/llama3.2/3b", &manifest);
    store.tag("registry.ollama.ai/library/llama3.2/latest", &manifest);
    let other = small_gguf(15, 64, 2);
    store.tag("registry.ollama.ai/library/sound/latest", &store.manifest(&config, &[("model", &other[..])]));
    rot(&store.blob_path(&sha256(&weights)));
    bench.run("verify ollama:llama3.2:3b").expect(1);
    assert!(is_corrupt(&bench, "llama3.2:3b") && is_corrupt(&bench, "llama3.2:latest"));
    assert!(!is_corrupt(&bench, "sound:latest"));
    let info = bench.run("info ollama:llama3.2:latest --json").expect(0).json();
    assert_eq!((info["damage"].as_str(), info["complete"].as_bool()), (Some("corrupt"), Some(false)), "{info}");
    let listed = bench.run("list --filter damaged --json").expect(0).json();
    assert_eq!(listed["models"].as_array().unwrap().len(), 2, "{listed}");
    let quick = bench.run("verify --all --quick --json").expect(1).json();
    let bad = quick["models"].as_array().unwrap().iter().filter(|model| model["ok"] == false).count();
    assert_eq!(bad, 2, "{quick}");
}

#[test]
fn what_can_be_done_is_said_in_every_store() {
    let bench = Bench::new();
    let store = Ollama(bench.scratch.path().join("home/.ollama/models"));
    let weights = small_gguf(15, 64, 1);
    store.tag(
        "registry.ollama.ai/library/llama3.2/3b",
        &store.manifest(&Ollama::config("Q4_K_M"), &[("model", &weights[..])]),
    );
    rot(&store.blob_path(&sha256(&weights)));
    let ran = bench.run("verify ollama:llama3.2:3b").expect(1);
    assert!(
        ran.stderr.contains("ollama rm llama3.2:3b") && ran.stderr.contains("then ollama pull llama3.2:3b"),
        "{ran:?}"
    );
    assert!(bench.run("info ollama:llama3.2:3b").expect(0).stdout.contains("ollama pull llama3.2:3b"));
    fs::remove_file(store.blob_path(&sha256(&weights))).unwrap();
    let ran = bench.run("verify ollama:llama3.2:3b").expect(1);
    assert!(ran.stderr.contains("to fetch what is missing: ollama pull llama3.2:3b"), "{ran:?}");

    // Nothing says where it came from.
    fs::create_dir_all(bench.model("own")).unwrap();
    fs::write(bench.model("own/m.gguf"), &gguf(8, "own")[..4000]).unwrap();
    let ran = bench.run("verify own").expect(1);
    assert!(ran.stderr.contains("own: nothing says where it came from: delete it and fetch it again"), "{ran:?}");
}

#[test]
fn a_few_more_ways_out_are_told_rather_than_counted() {
    let bench = Bench::new();
    let damage = |number: usize| {
        fs::create_dir_all(bench.model(&format!("own-{number:02}"))).unwrap();
        fs::write(bench.model(&format!("own-{number:02}/m.gguf")), &gguf(8, "own")[..4000]).unwrap();
    };
    (0..9).for_each(damage);
    let told = |ran: &str| ran.matches("nothing says where it came from").count();
    let ran = bench.run("verify --all").expect(1);
    assert_eq!(told(&ran.stderr), 9, "{ran:?}");
    (9..20).for_each(damage);
    let ran = bench.run("verify --all").expect(1);
    assert_eq!(told(&ran.stderr), 8, "{ran:?}");
    assert!(ran.stderr.contains("and 12 more are damaged; verify them by name for the way out"), "{ran:?}");
}
