//! The commands, as a person or a script runs them: output, exit codes, what they change and what they leave alone.
#![cfg(all(feature = "cli", feature = "tui"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use std::fs;

use serde_json::{Value, json};
use support::hub::{Fault, TestHub, What};
use support::program::{Bench, Ran, gguf, tree};

const REPOSITORY: &str = "org/Small-GGUF";
const FILE: &str = "small.F16.gguf";

/// A bench with one model on the hub.
fn bench() -> Bench {
    let bench = Bench::new();
    bench.offer(REPOSITORY, FILE);
    bench
}

/// A bench with that model also on the disk.
fn installed() -> Bench {
    let bench = bench();
    bench.run(&format!("download {REPOSITORY}")).expect(0);
    bench.hub.forget();
    bench
}

/// Takes out what differs from run to run and from machine to machine.
fn stable(bench: &Bench, text: &str) -> String {
    let text = text
        .replace(&bench.scratch.path().canonicalize().unwrap().to_string_lossy().into_owned(), "[scratch]")
        .replace(&bench.hub.endpoint(), "[hub]");
    let text = commits(&text);
    let mut value: Value = match serde_json::from_str(&text) {
        Ok(value) => value,
        Err(_) => return text,
    };
    neutral(&mut value);
    serde_json::to_string_pretty(&value).unwrap()
}

/// Puts a word in place of every commit: 40 hexadecimal digits.
fn commits(text: &str) -> String {
    let mut out = String::new();
    let mut run = String::new();
    for c in text.chars().chain(['\n']) {
        if matches!(c, '0'..='9' | 'a'..='f') {
            run.push(c);
            continue;
        }
        out.push_str(if run.len() == 40 { "[commit]" } else { &run });
        run.clear();
        out.push(c);
    }
    out
}

fn neutral(value: &mut Value) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                let replacement = match key.as_str() {
                    "disk_bytes" | "reclaimable_bytes" | "expected_bytes" | "freed_bytes" | "models_bytes"
                    | "total_bytes" | "free_bytes" => "[bytes]",
                    "modified" | "accessed" | "updated" | "verified" => "[time]",
                    "unreadable_processes" => "[count]",
                    "mount" => "[mount]",
                    "access_times" => "[how]",
                    "memory" => "[memory]",
                    "owner" => "[user]",
                    "commit" | "pinned" | "current" => "[commit]",
                    "rate" | "eta_s" => "[speed]",
                    _ => {
                        neutral(value);
                        continue;
                    }
                };
                if !value.is_null() {
                    *value = json!(replacement);
                }
            }
        }
        Value::Array(values) => values.iter_mut().for_each(neutral),
        _ => {}
    }
}

macro_rules! snapshot {
    ($name:literal, $bench:expr, $text:expr) => {
        insta::assert_snapshot!($name, stable($bench, $text));
    };
}

mod shapes {
    use super::*;

    #[test]
    fn list() {
        let bench = installed();
        snapshot!("list", &bench, &bench.run("list --json --fit").expect(0).stdout);
        let table = bench.run("list").expect(0).stdout;
        assert!(table.starts_with("NAME ") && table.contains("small-gguf") && table.contains("1 model, "), "{table}");
        assert!(!table.contains('\u{1b}'), "a pipe gets no colours");
        let coloured = bench.run("list --color always").expect(0).stdout;
        assert!(coloured.contains('\u{1b}'));
    }

    #[test]
    fn list_of_nothing() {
        let bench = bench();
        let ran = bench.run("list --json").expect(0);
        assert_eq!(ran.json()["models"], json!([]));
        assert_eq!(ran.json()["totals"], json!({"disk_bytes": 0, "models": 0}));
        let ran = bench.run("list").expect(0);
        assert_eq!(ran.stdout, "");
        assert!(ran.stderr.contains("no models"), "{ran:?}");
        assert!(!bench.models().exists(), "looking creates nothing");
    }

    #[test]
    fn filters_and_order() {
        let bench = installed();
        bench.offer("org/Other-GGUF", "other-Q8_0.gguf");
        bench.run("download org/Other-GGUF").expect(0);
        let ids = |line: &str| -> Vec<String> {
            let listed = bench.run(line).expect(0).json();
            let models = listed["models"].as_array().unwrap().iter();
            models.map(|model| model["id"].as_str().unwrap().to_owned()).collect()
        };
        assert_eq!(ids("list --json"), ["other-gguf", "small-gguf"]);
        assert_eq!(ids("list --json --filter small"), ["small-gguf"]);
        assert_eq!(ids("list --json --filter size>1G"), Vec::<String>::new());
        assert_eq!(ids("list --json --store flat").len(), 2);
        assert_eq!(ids("list --json --sort modified").len(), 2);
        let listed = bench.run("list --json --in-use").expect(0).json();
        assert_eq!(listed["models"][0]["in_use_by"], json!([]), "looked for and not found is no null");
    }

    #[test]
    fn info() {
        let bench = installed();
        snapshot!("info", &bench, &bench.run(&format!("info {REPOSITORY} --json")).expect(0).stdout);
        let text = bench.run("info flat:small-gguf").expect(0).stdout;
        for word in ["quantization", "F16", "architecture", "llama", FILE] {
            assert!(text.contains(word), "{word}: {text}");
        }
    }

    #[test]
    fn verify() {
        let bench = installed();
        snapshot!("verify", &bench, &bench.run(&format!("verify {REPOSITORY} --json")).expect(0).stdout);
        assert!(bench.run("verify --all").expect(0).stdout.starts_with("ok "));
    }

    #[test]
    fn delete() {
        let bench = installed();
        snapshot!("delete_dry_run", &bench, &bench.run("delete small-gguf --dry-run --json").expect(0).stdout);
        let deleted = bench.run("delete small-gguf --yes --json").expect(0);
        assert_eq!(deleted.json()["freed_bytes"], deleted.json()["expected_bytes"]);
        snapshot!("delete", &bench, &deleted.stdout);
    }

    #[test]
    fn download() {
        let bench = bench();
        let ran = bench.run(&format!("download {REPOSITORY} --json")).expect(0);
        let lines: Vec<Value> = ran.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        for line in &lines {
            for key in ["event", "job", "file", "bytes", "total", "rate", "eta_s", "path", "error"] {
                assert!(line.get(key).is_some(), "{key} is in every line: {line}");
            }
            assert!(line["job"].is_string());
        }
        let ends: Vec<usize> = (0..lines.len())
            .filter(|at| matches!(lines[*at]["event"].as_str(), Some("finished" | "failed" | "cancelled")))
            .collect();
        assert_eq!(ends, [lines.len() - 1], "one end, and it is the last line");
        let last = lines.last().unwrap();
        assert_eq!((&last["event"], &last["file"]), (&json!("finished"), &Value::Null));
        snapshot!("download_first", &bench, &lines[0].to_string());
        snapshot!("download_last", &bench, &last.to_string());
        assert_eq!(ran.stderr, "");
    }

    #[test]
    fn disk_usage() {
        let bench = installed();
        snapshot!("disk_usage", &bench, &bench.run("disk-usage --json").expect(0).stdout);
        assert!(bench.run("disk-usage").expect(0).stdout.contains("1 model, "));
    }

    #[test]
    fn catalog() {
        let bench = bench();
        snapshot!("catalog", &bench, &bench.run("catalog --json").expect(0).stdout);
        assert!(bench.run("catalog").expect(0).stdout.contains("tinyllama"));
    }

    #[test]
    fn search() {
        let bench = bench();
        snapshot!("search", &bench, &bench.run("search small --json").expect(0).stdout);
        snapshot!("search_files", &bench, &bench.run("search small --files --json").expect(0).stdout);
        assert!(bench.run("search small").expect(0).stdout.contains(REPOSITORY));
        let none = bench.run("search nothing-like-that").expect(0);
        assert!(none.stdout.is_empty() && none.stderr.contains("no model"), "{none:?}");
    }

    #[test]
    fn safetensors_on_the_hub_are_judged_by_their_header_and_configuration() {
        let bench = bench();
        let json = br#"{"a":{"dtype":"BF16","shape":[2,2],"data_offsets":[0,8]}}"#;
        let weights = [&(json.len() as u64).to_le_bytes()[..], json, &[0; 8]].concat();
        let config = br#"{"model_type":"llama","num_hidden_layers":1,"num_attention_heads":4,"num_key_value_heads":1,
            "hidden_size":128,"vocab_size":100,"max_position_embeddings":2048}"#;
        for name in ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"] {
            bench.hub.put("org/plain", name, &weights);
        }
        bench.hub.put("org/plain", "other/model.safetensors", &weights);
        bench.hub.put("org/plain", "config.json", config);
        let hits = bench.run("search plain --files --json").expect(0).json();
        let offer = &hits[0]["quantizations"][0];
        assert_eq!((hits[0]["architecture"].as_str(), offer["name"].as_str()), (Some("llama"), Some("BF16")), "{hits}");
        assert_eq!(offer["size_bytes"].as_u64(), Some(2 * weights.len() as u64), "{hits}");
        assert!(offer["fit"]["need_bytes"].is_u64(), "{hits}");
        let need = &offer["fit"]["need"];
        assert_eq!((&need["context"], &need["beyond_training"]), (&json!(2048), &Value::Null));
        let asked = bench.run("search plain --files --json --context 32k --cache-type q8_0").expect(0).json();
        let need = &asked[0]["quantizations"][0]["fit"]["need"];
        assert_eq!((&need["context"], &need["beyond_training"]), (&json!(32_768), &json!(2048)), "{asked}");
        let text = bench.run("search plain --files --context 32k").expect(0).stdout;
        assert!(text.contains("trained for 2,048 tokens only") && text.contains("32,768 tokens of context"), "{text}");
        assert!(bench.run("search plain --context 32k").expect(2).error().contains("--files"));
    }

    #[test]
    fn each_quantization_of_a_hit_has_a_line_of_its_own() {
        let bench = bench();
        let weights = gguf(16, "m");
        for (name, more) in [("m-Q8_0.gguf", 9000), ("m-Q4_K_M.gguf", 100), ("m-Q5_K_M.gguf", 4000)] {
            bench.hub.put("org/many-GGUF", name, &[&weights[..], &vec![0; more]].concat());
        }
        let text = bench.run("search many --files").expect(0).stdout;
        let lines: Vec<&str> = text.lines().collect();
        let names: Vec<&str> = lines.iter().filter_map(|line| line.split_whitespace().next()).take(5).collect();
        assert_eq!(names, ["QUANT", "org/many-GGUF", "Q4_K_M", "Q5_K_M", "Q8_0"], "{text}");
        assert!(lines[2].starts_with("  Q4_K_M") && lines[2].contains(" KiB"), "{text}");
        assert!(lines.iter().skip(2).take(3).all(|line| line.len() < 80), "{text}");
    }

    #[test]
    fn updates() {
        let bench = installed();
        assert_eq!(bench.run("updates --json").expect(0).json(), json!([]));
        bench.hub.put(REPOSITORY, FILE, &gguf(16, "new"));
        snapshot!("updates", &bench, &bench.run("updates --json").expect(0).stdout);
    }

    #[test]
    fn completions() {
        let bench = bench();
        for shell in ["bash", "zsh", "fish"] {
            assert!(bench.run(&format!("completions {shell}")).expect(0).stdout.contains("disk-usage"), "{shell}");
        }
    }
}

mod streams {
    use super::*;

    #[test]
    fn without_a_terminal_there_is_no_screen() {
        let ran = bench().run("").expect(64);
        assert!(ran.error().contains("llorch-models list"), "{ran:?}");
        assert!(ran.stdout.is_empty());
    }

    #[test]
    fn what_is_not_here_is_asked_of_the_hub() {
        let bench = bench();
        let error = bench.run("info org/not-here:Q4_K_M --context 32k").expect(1).error().to_owned();
        assert!(error.contains("`llorch-models search --files not-here --context 32768`"), "{error}");
        let alias = bench.run("info not-here").expect(1).error().to_owned();
        assert!(!alias.contains("search --files"), "{alias}");
    }

    #[test]
    fn wrong_usage_is_one_line_and_two() {
        let bench = bench();
        for line in ["bogus", "list --bogus", "verify", "delete", "list --store olama", "download x --limit fast"] {
            assert!(bench.run(line).expect(2).error().ends_with("--help`"), "{line}");
        }
        assert!(bench.run("--help").expect(0).stdout.contains("Exit codes"));
        assert!(bench.run("--version").expect(0).stdout.starts_with("llorch-models 0"));
    }

    #[test]
    fn a_closed_pipe_is_no_error() {
        let bench = installed();
        for line in
            ["list", "list --json", "catalog", "completions bash", "--help", &format!("download {REPOSITORY} --json")]
        {
            let (reader, writer) = std::io::pipe().unwrap();
            drop(reader);
            let mut command = bench.command(line);
            command.stdout(writer);
            let ran = bench.finish(command).expect(0);
            assert_eq!(ran.stderr, "", "{line}");
        }
    }

    #[test]
    fn both_streams_closed_change_nothing_about_a_download() {
        let bench = bench();
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = bench.command(&format!("download {REPOSITORY}"));
        command.stderr(writer.try_clone().unwrap()).stdout(writer);
        bench.finish(command).expect(0);
        assert!(bench.model("small-gguf").join(FILE).is_file());
    }

    #[test]
    fn a_full_disk_behind_standard_output_is_an_error() {
        let bench = bench();
        let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let mut command = bench.command("catalog --json");
        command.stdout(full);
        assert!(bench.finish(command).expect(1).error().contains("standard output"));
    }

    #[test]
    fn no_bars_into_a_pipe() {
        let bench = bench();
        let ran = bench.run(&format!("download {REPOSITORY}")).expect(0);
        let path = bench.model("small-gguf").canonicalize().unwrap().join(FILE);
        assert_eq!(ran.stdout, format!("{}\n", path.display()));
        assert!(!ran.stderr.contains(['\r', '\u{1b}']), "{ran:?}");
        assert_eq!(ran.stderr.lines().count(), 1, "{ran:?}");
    }

    #[test]
    fn a_log_file_never_holds_the_token() {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let hub = runtime.block_on(TestHub::with_token("hf_secretsecretsecret"));
        let bench = Bench::with(runtime, hub);
        bench.offer(REPOSITORY, FILE);
        let log = bench.scratch.path().join("log");
        let mut command = bench.command(&format!("download {REPOSITORY} -vvv --log-file {}", log.display()));
        command.env("HF_TOKEN", "hf_secretsecretsecret");
        let ran = bench.finish(command).expect(0);
        let log = fs::read_to_string(log).unwrap();
        for text in [&log, &ran.stdout, &ran.stderr] {
            assert!(!text.contains("secretsecret"), "{text}");
        }
        let mut command = bench.command(&format!("download {REPOSITORY} --force"));
        command.env("HF_TOKEN", "hf_wrongwrongwrong");
        let ran = bench.finish(command).expect(1);
        assert!(ran.error().contains("HF_TOKEN") && !ran.stderr.contains("wrongwrong"), "{ran:?}");
    }

    #[test]
    fn a_log_that_cannot_be_written_stops_nothing() {
        let ran = bench().run("list --json --log-file /nowhere/log").expect(0);
        assert!(ran.stderr.contains("nothing is logged"), "{ran:?}");
        assert!(ran.stderr.contains("models does not exist"), "{ran:?}");
    }
}

mod refusals {
    use super::*;

    #[test]
    fn bad_input_is_one_clear_line() {
        let bench = installed();
        bench.offer("org/Two", "two-Q4_K_M.gguf");
        let before = bench.tree();
        let cases = [
            ("download nosuchalias", "nosuchalias"),
            ("download org/nothing", "org/nothing"),
            ("download org/Two:Q8_0", "Q8_0"),
            ("download org/Two --file nothing*", "nothing*"),
            ("download org/Two@nobranch", "nobranch"),
            ("info nosuch", "nosuch"),
            ("verify nosuch", "nosuch"),
            ("delete nosuch --yes", "nosuch"),
            ("delete small-gguf:Q2_K --yes", "Q2_K"),
            ("delete hf:org/name --yes", "org/name"),
            ("delete smal --yes", "smal"),
            ("delete small-gguf nosuch --yes", "nosuch"),
        ];
        for (line, word) in cases {
            let ran = bench.run(line).expect(1);
            assert!(ran.error().contains(word), "{line}: {ran:?}");
            assert_eq!(ran.stdout, "", "{line}");
        }
        assert_eq!(bench.tree(), before, "nothing was lost or left over");
    }

    #[test]
    fn hostile_references_never_reach_the_disk_or_the_hub() {
        let bench = installed();
        let before = bench.tree();
        for reference in ["../x", "/etc", "..", ".", "a/../b", "a\\b", "org/.git", "a/b/c", "https://evil.example/a/b"]
        {
            for command in ["download", "info", "verify", "delete --yes"] {
                let ran = bench.run(&format!("{command} {reference}")).expect(1);
                assert!(ran.error().contains("invalid reference"), "{command} {reference}: {ran:?}");
            }
        }
        let mut command = bench.command("download");
        command.arg("\u{1b}[31mred\u{7}");
        let ran = bench.finish(command).expect(1);
        assert!(!ran.error().chars().any(char::is_control), "{ran:?}");
        let mut command = bench.command("delete --yes");
        command.arg("");
        bench.finish(command).expect(1);
        assert_eq!(bench.tree(), before);
        assert!(bench.hub.seen().iter().all(|seen| !seen.target.contains("..")));
    }

    #[test]
    fn a_hostile_listing_is_refused_whole() {
        let bench = bench();
        let page = json!([
            {"type": "file", "oid": "0".repeat(40), "size": 4, "path": "ok-Q4_K_M.gguf"},
            {"type": "file", "oid": "1".repeat(40), "size": 4, "path": "../../evil-Q4_K_M.gguf"},
        ]);
        bench.hub.fault(Fault::on("/tree/", What::json(&page.to_string())).always());
        let mut command = bench.command(&format!("download {REPOSITORY} --file"));
        command.arg("*");
        let ran = bench.finish(command).expect(1);
        assert!(ran.error().contains("evil"), "{ran:?}");
        assert_eq!(bench.tree(), Vec::<String>::new());
    }

    #[test]
    fn servers_that_are_no_hub_are_named() {
        let bench = bench();
        bench.hub.fault(Fault::on("/api/", What::html()).always());
        let ran = bench.run(&format!("download {REPOSITORY}")).expect(1);
        assert!(ran.error().contains("did not answer like a model hub"), "{ran:?}");
        let ran = bench.run(&format!("download {REPOSITORY} --endpoint nonsense")).expect(1);
        assert!(ran.error().contains("endpoint"), "{ran:?}");
        assert_eq!(bench.tree(), Vec::<String>::new());
    }

    #[test]
    fn without_a_network_there_is_one_line() {
        let bench = bench();
        // A port that was free a moment ago: nobody listens there.
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let ran = bench.run(&format!("search x --endpoint http://127.0.0.1:{port}")).expect(1);
        assert!(ran.error().contains("cannot reach"), "{ran:?}");
        let mut command = bench.command(&format!("download {REPOSITORY}"));
        command.env("HF_HUB_OFFLINE", "1");
        let ran = bench.finish(command).expect(1);
        assert!(ran.error().contains("HF_HUB_OFFLINE"), "{ran:?}");
        assert_eq!(bench.tree(), Vec::<String>::new());
    }

    #[test]
    fn an_error_in_the_configuration_is_named() {
        let bench = bench();
        let config = bench.scratch.path().join("config.toml");
        fs::write(&config, "colour = 1\n").unwrap();
        let ran = bench.run(&format!("list --config {}", config.display())).expect(1);
        assert!(ran.error().contains("config.toml") && ran.error().contains("colour"), "{ran:?}");
        bench.run("list --config /nowhere.toml").expect(1);
    }
}

mod deletion {
    use super::*;

    fn walkdir_names(folder: &std::path::Path) -> Vec<String> {
        let entries = walkdir::WalkDir::new(folder).into_iter().flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn a_dry_run_changes_nothing() {
        let bench = installed();
        let before = bench.tree();
        let text = bench.run("delete small-gguf --dry-run").expect(0).stdout;
        assert!(text.contains("remove") && text.contains(FILE), "{text}");
        assert_eq!(bench.tree(), before);
        let state = walkdir_names(&bench.scratch.path().join("home/.local"));
        assert!(!state.iter().any(|name| name.contains("deletions")), "not even a note of it: {state:?}");
    }

    #[test]
    fn without_a_terminal_it_wants_yes() {
        let bench = installed();
        let before = bench.tree();
        assert!(bench.run("delete small-gguf").expect(2).error().contains("--yes"));
        assert_eq!(bench.tree(), before);
    }

    #[test]
    fn what_goes_is_noted_with_its_checksum() {
        let bench = installed();
        let ran = bench.run("delete small-gguf --yes").expect(0);
        assert!(ran.stdout.contains("freed") && ran.stderr.is_empty(), "{ran:?}");
        assert_eq!(bench.tree(), Vec::<String>::new());
        assert!(!bench.model("small-gguf").exists());
        let state = bench.scratch.path().join("home/.local/state/llorch-models");
        let notes = walkdir::WalkDir::new(state).into_iter().filter_map(Result::ok);
        let log = notes.map(walkdir::DirEntry::into_path).find(|path| path.ends_with("deletions.jsonl")).unwrap();
        let note: Value = serde_json::from_str(fs::read_to_string(log).unwrap().lines().next().unwrap()).unwrap();
        assert_eq!(note["models"][0]["reference"], REPOSITORY);
        let files = note["models"][0]["files"].as_array().unwrap();
        assert_eq!(note["models"][0]["endpoint"], bench.hub.endpoint());
        assert_eq!(note["models"][0]["commits"][0].as_str().unwrap().len(), 40);
        assert!(files.iter().any(|file| file["checksum"].as_str().is_some_and(|text| text.len() == 64)), "{note}");
    }

    #[test]
    fn what_is_in_use_needs_force() {
        let bench = installed();
        let path = bench.model("small-gguf").join(FILE);
        let held = fs::File::open(&path).unwrap();
        let ran = bench.run("delete small-gguf --yes").expect(1);
        assert!(ran.error().contains(&std::process::id().to_string()) && ran.error().contains("--force"), "{ran:?}");
        assert!(path.exists());
        let refused = bench.run("delete small-gguf --yes --json").expect(1).json();
        assert_eq!(refused["in_use_by"][0]["pid"], std::process::id());
        assert_eq!((refused["freed_bytes"].as_u64(), refused["dry_run"].as_bool()), (Some(0), Some(false)));
        let info = bench.run("info small-gguf --json").expect(0).json();
        assert_eq!(info["in_use_by"][0]["pid"], std::process::id());
        let ran = bench.run("delete small-gguf --yes --force --json").expect(0).json();
        assert!(ran["held_bytes"].as_u64().unwrap() > 0, "{ran}");
        assert!(!path.exists());
        drop(held);
    }

    #[test]
    fn one_quantization_goes_and_the_other_stays() {
        let bench = bench();
        bench.offer("org/Two", "two-Q4_K_M.gguf");
        bench.offer("org/Two", "two-Q8_0.gguf");
        let mut command = bench.command("download org/Two --file");
        command.arg("*");
        bench.finish(command).expect(0);
        bench.run("delete two:q4_k_m --yes").expect(0);
        assert!(!bench.model("two/two-Q4_K_M.gguf").exists() && bench.model("two/two-Q8_0.gguf").exists());
        bench.run("verify org/Two").expect(0);
    }

    #[test]
    fn a_name_of_several_models_is_never_guessed() {
        let bench = installed();
        fs::create_dir_all(bench.model("other/nested")).unwrap();
        fs::write(bench.model("other/nested/x-Q8_0.gguf"), gguf(4, "x")).unwrap();
        let before = bench.tree();
        for line in ["delete nested --yes", "delete small --yes", "delete gguf --yes", "delete flat: --yes"] {
            bench.run(line).expect(1);
        }
        assert_eq!(bench.tree(), before);
    }
}

mod verification {
    use super::*;

    #[test]
    fn damage_is_found_and_fetched_again() {
        let bench = installed();
        let path = bench.model("small-gguf").join(FILE);
        let whole = fs::read(&path).unwrap();
        let mut damaged = whole.clone();
        *damaged.last_mut().unwrap() ^= 1;
        fs::write(&path, &damaged).unwrap();
        let ran = bench.run("verify small-gguf --json").expect(1);
        assert_eq!(ran.json()["models"][0]["ok"], false);
        let files = ran.json()["models"][0]["files"].clone();
        let file = files.as_array().unwrap().iter().find(|file| file["path"] == FILE).unwrap().clone();
        assert_eq!((&file["status"], &file["algorithm"]), (&json!("corrupt"), &json!("sha256")));
        assert!(bench.run("verify small-gguf").expect(1).stdout.contains("corrupt"));

        fs::write(&path, &whole[..whole.len() / 2]).unwrap();
        let ran = bench.run("verify small-gguf --quick --json").expect(1).json();
        assert_eq!(ran["models"][0]["files"][0]["status"], "truncated", "{ran}");
        bench.run(&format!("download {REPOSITORY} --force")).expect(0);
        assert_eq!(fs::read(&path).unwrap(), whole);
        bench.run("verify small-gguf").expect(0);
    }
}

mod interruptions {
    use rustix::process::Signal;

    use super::*;

    const BIG: &str = "org/Big-GGUF";
    const BIG_FILE: &str = "big-F16.gguf";
    const MIB: u64 = 1 << 20;

    /// A bench whose hub has a model of `mib` MiB; its bytes.
    fn big(mib: u64) -> (Bench, Vec<u8>) {
        let bench = Bench::new();
        let bytes = gguf(mib * 1024, "big");
        bench.hub.put(BIG, BIG_FILE, &bytes);
        (bench, bytes)
    }

    fn published(bench: &Bench) -> std::path::PathBuf {
        bench.model("big-gguf").join(BIG_FILE)
    }

    fn staged(bench: &Bench) -> Vec<String> {
        bench.tree().into_iter().filter(|path| path.contains(".llorch")).collect()
    }

    /// Bytes that lie in the kernel between the hub and the program: sent, but never fetched by a program that is stopped.
    /// `None` while some of them are on their way from the one queue to the other, and may count twice.
    fn on_the_way(port: u16) -> Option<u64> {
        /// The timer of a sender whose receiver takes no more: nothing is on the wire.
        const PROBES: &str = "04";
        let port = format!(":{port:04X}");
        let table = fs::read_to_string("/proc/net/tcp").unwrap();
        let queues = table.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
        let ours = queues.filter(|cells| cells[1].ends_with(&port) || cells[2].ends_with(&port));
        let bytes = |queue: &str| u64::from_str_radix(queue, 16).unwrap();
        // The queue of the sender, then that of the receiver; established connections only.
        ours.filter(|cells| cells[3] == "01")
            .map(|cells| {
                let (sent, got) = cells[4].split_once(':').unwrap();
                let (sent, got) = (bytes(sent), bytes(got));
                (sent == 0 || cells[5].starts_with(PROBES)).then_some(sent + got)
            })
            .sum()
    }

    /// Whether every thread of a process is stopped.
    fn is_stopped(pid: u32) -> bool {
        let states = fs::read_dir(format!("/proc/{pid}/task")).unwrap().map(|task| {
            let stat = fs::read_to_string(task.unwrap().path().join("stat")).unwrap_or_default();
            stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('T'))
        });
        states.into_iter().all(|stopped| stopped)
    }

    #[test]
    fn killed_again_and_again_it_fetches_little_twice_and_leaves_nothing_over() {
        let (bench, bytes) = big(96);
        let mut on_the_way_at_kills = 0;
        let kills = 4;
        for part in 1..=kills {
            let running = bench.spawn(&format!("download {BIG} --limit 16M"));
            let sent = bench.hub.file_bytes_sent();
            bench.wait_for_bytes(sent.max(part * 16 * MIB) + 2 * MIB);
            running.signal(Signal::STOP);
            let (pid, found) = (running.0.id(), std::cell::Cell::new(0));
            bench.wait_for("what is on the way can be counted", || {
                let before = bench.hub.file_bytes_sent();
                let queues: Option<u64> = bench.hub.ports().into_iter().map(on_the_way).sum();
                let same = is_stopped(pid) && before == bench.hub.file_bytes_sent();
                found.set(before - queues.unwrap_or(0).min(before));
                same && queues.is_some()
            });
            running.kill();
            // What the hub has sent to a program that was stopped never came.
            on_the_way_at_kills += bench.hub.file_bytes_sent() - found.get();
            assert!(!published(&bench).exists(), "nothing is published before it is whole");
        }
        bench.run(&format!("download {BIG}")).expect(0);
        assert!(fs::read(published(&bench)).unwrap() == bytes, "every byte is right");
        assert_eq!(staged(&bench), Vec::<String>::new());
        let fetched = bench.hub.file_bytes_sent() - on_the_way_at_kills;
        let twice = fetched.saturating_sub(bytes.len() as u64);
        eprintln!("{} KiB were fetched twice for {kills} kills", twice / 1024);
        assert!(twice <= kills * 8 * MIB, "{} KiB were fetched twice for {kills} kills", twice / 1024);
        bench.run("verify --all").expect(0);
    }

    #[test]
    fn two_at_once_fetch_one_file_once() {
        let (bench, bytes) = big(24);
        let first = bench.spawn(&format!("download {BIG} --limit 20M"));
        bench.wait_for_bytes(MIB);
        // Held until the second has met it.
        first.signal(Signal::STOP);
        let said = bench.scratch.path().join("said");
        let mut command = bench.command(&format!("download {BIG} --json"));
        command.stdout(fs::File::create(&said).unwrap());
        let second = support::program::Running(command.spawn().unwrap());
        bench.wait_for("the second says what it waits for", || {
            fs::read_to_string(&said).unwrap().contains(r#""event":"waiting""#)
        });
        first.signal(Signal::CONT);
        let (first, second) = (first.wait(), second.wait());
        assert_eq!((first.code, second.code), (Some(0), Some(0)), "{first:?} {second:?}");
        assert!(fs::read(published(&bench)).unwrap() == bytes);
        assert_eq!(bench.hub.file_bytes_sent(), bytes.len() as u64, "no byte twice");
        assert_eq!(staged(&bench), Vec::<String>::new());
    }

    #[test]
    fn a_file_that_changed_meanwhile_is_never_mixed() {
        let (bench, old) = big(24);
        let running = bench.spawn(&format!("download {BIG} --limit 3M"));
        bench.wait_for_bytes(12 * MIB);
        running.kill();
        let new = gguf(24 * 1024, "other");
        assert!(new.len() == old.len() && new != old);
        bench.hub.put(BIG, BIG_FILE, &new);
        bench.run(&format!("download {BIG}")).expect(0);
        assert!(fs::read(published(&bench)).unwrap() == new);
        bench.run("verify --all").expect(0);
    }

    #[test]
    fn a_signal_ends_a_question_to_a_silent_hub_at_once() {
        let bench = installed();
        bench.hub.fault(Fault::on("/api/models", What::Stall(0)).always());
        for command in ["search small", "updates"] {
            bench.hub.forget();
            let running = bench.spawn(command);
            bench.wait_for("the hub was asked", || bench.hub.count("/api/models") > 0);
            let began = std::time::Instant::now();
            running.signal(Signal::INT);
            running.wait().expect(130);
            // The grace for work that has to tidy up is ten seconds; this has nothing to tidy up.
            assert!(began.elapsed() < std::time::Duration::from_secs(9), "{command}");
        }
    }

    #[test]
    fn a_signal_keeps_the_partial_and_says_so() {
        let (bench, bytes) = big(24);
        for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143), (Signal::HUP, 129)] {
            let running = bench.spawn(&format!("download {BIG} --limit 2M"));
            let sent = bench.hub.file_bytes_sent();
            bench.wait_for_bytes(sent + 2 * MIB);
            // What the hub sent may still lie in the kernel, and an empty partial is not kept.
            let journalled =
                |path: &String| fs::read_to_string(bench.model(path)).is_ok_and(|text| text.contains("[["));
            bench.wait_for("bytes are on disk", || staged(&bench).iter().any(journalled));
            running.signal(signal);
            let ran = running.wait().expect(code);
            assert!(ran.stderr.contains("cancelled; ") && ran.stderr.contains("kept"), "{ran:?}");
            assert!(ran.stdout.is_empty() && !staged(&bench).is_empty(), "{ran:?} {:?}", bench.tree());
        }
        let ran = bench.run(&format!("download {BIG} --json")).expect(0);
        assert!(fs::read(published(&bench)).unwrap() == bytes);
        let last: Value = serde_json::from_str(ran.stdout.lines().last().unwrap()).unwrap();
        let fetched = last["outcome"]["fetched"].as_u64().unwrap();
        assert!(fetched < bytes.len() as u64, "{fetched} were fetched at last: the rest was there");
    }

    #[test]
    fn a_cancelled_download_ends_its_lines_with_cancelled() {
        let (bench, _) = big(24);
        let running = bench.spawn(&format!("download {BIG} --limit 2M --json"));
        bench.wait_for_bytes(2 * MIB);
        running.signal(Signal::INT);
        let ran = running.wait().expect(130);
        let last: Value = serde_json::from_str(ran.stdout.lines().last().unwrap()).unwrap();
        assert_eq!(last["event"], "cancelled");
    }

    #[test]
    fn who_ignores_hangups_is_not_hung_up() {
        let (bench, bytes) = big(24);
        let mut command = std::process::Command::new("nohup");
        command.arg(env!("CARGO_BIN_EXE_llorch-models"));
        bench.prepare(&mut command);
        command.args(["download", BIG, "--limit", "20M"]);
        let running = support::program::Running(command.spawn().unwrap());
        bench.wait_for_bytes(2 * MIB);
        running.signal(Signal::HUP);
        running.wait().expect(0);
        assert_eq!(fs::metadata(published(&bench)).unwrap().len(), bytes.len() as u64);
    }

    #[test]
    fn what_is_whole_is_not_fetched_again() {
        let (bench, bytes) = big(2);
        bench.run(&format!("download {BIG}")).expect(0);
        bench.hub.forget();
        let ran = bench.run(&format!("download {BIG}")).expect(0);
        assert!(ran.stderr.contains("there already"), "{ran:?}");
        assert_eq!(bench.hub.file_bytes_sent(), 0);
        bench.run(&format!("download {BIG} --force")).expect(0);
        assert_eq!(bench.hub.file_bytes_sent(), bytes.len() as u64);
    }
}

mod machine {
    use super::*;

    /// A small file system of its own, if this machine lets us mount one.
    struct Small(std::path::PathBuf);

    impl Small {
        fn mount(bench: &Bench, size: &str) -> Option<Self> {
            let path = bench.models();
            fs::create_dir_all(&path).unwrap();
            let mount = std::process::Command::new("mount")
                .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
                .arg(&path)
                .output();
            mount.is_ok_and(|output| output.status.success()).then_some(Self(path))
        }
    }

    impl Drop for Small {
        fn drop(&mut self) {
            let _ = std::process::Command::new("umount").arg("-l").arg(&self.0).status();
        }
    }

    #[test]
    fn what_cannot_fit_is_refused_before_the_first_byte() {
        let bench = Bench::new();
        bench.hub.put("org/Big-GGUF", "big-F16.gguf", &gguf(8 * 1024, "big"));
        let Some(_small) = Small::mount(&bench, "4m") else {
            eprintln!("not shown: this machine does not let the test mount a small file system");
            return;
        };
        let ran = bench.run("download org/Big-GGUF").expect(1);
        assert!(ran.error().contains("not enough space") && ran.error().contains("short"), "{ran:?}");
        assert!(ran.error().contains("no idle model there could make room"), "{ran:?}");
        assert_eq!(bench.hub.file_bytes_sent(), 0);
        assert!(bench.tree().iter().all(|path| !path.ends_with(".gguf")), "{:?}", bench.tree());
    }

    #[test]
    fn a_disk_that_is_full_still_lists_and_deletes() {
        let bench = bench();
        let Some(small) = Small::mount(&bench, "1m") else {
            eprintln!("not shown: this machine does not let the test mount a small file system");
            return;
        };
        bench.run(&format!("download {REPOSITORY}")).expect(0);
        let mut command = bench.command("list --json");
        // State, log and cache on the full disk too.
        fs::write(small.0.join("ballast"), vec![1; 2 << 20]).expect_err("the file system is full now");
        command.env("XDG_STATE_HOME", small.0.join("state")).arg("--log-file").arg(small.0.join("log"));
        bench.finish(command).expect(0);
        let mut command = bench.command("delete small-gguf --yes");
        command.env("XDG_STATE_HOME", small.0.join("state"));
        let ran = bench.finish(command).expect(0);
        assert!(ran.stdout.contains("freed"), "{ran:?}");
    }

    /// Runs the program as a user without rights; none when this machine cannot.
    fn as_nobody(bench: &Bench, line: &str) -> Option<Ran> {
        use std::os::unix::fs::PermissionsExt;
        for path in [bench.scratch.path().to_owned(), bench.scratch.path().join("home")] {
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        let drop = ["--reuid=65534", "--regid=65534", "--clear-groups"];
        let can = std::process::Command::new("setpriv")
            .args(drop)
            .args([env!("CARGO_BIN_EXE_llorch-models"), "--version"])
            .output();
        if !can.is_ok_and(|output| output.status.success()) {
            eprintln!("not shown: this machine does not let the test drop its rights");
            return None;
        }
        let mut command = std::process::Command::new("setpriv");
        bench.prepare(&mut command);
        command.args(drop).arg(env!("CARGO_BIN_EXE_llorch-models")).args(line.split(' '));
        Some(bench.finish(command))
    }

    #[test]
    fn a_folder_that_may_not_be_written_is_named() {
        let bench = bench();
        fs::create_dir(bench.models()).unwrap();
        let Some(ran) = as_nobody(&bench, &format!("download {REPOSITORY}")) else { return };
        let ran = ran.expect(1);
        assert!(ran.error().contains("permission denied"), "{ran:?}");
        assert_eq!(tree(&bench.models()), Vec::<String>::new());
    }

    #[test]
    fn what_may_not_be_deleted_is_known_before() {
        let bench = installed();
        let before = bench.tree();
        let Some(ran) = as_nobody(&bench, "delete small-gguf --dry-run --json") else { return };
        let plan = ran.expect(0).json();
        assert!(!plan["blocked"].as_array().unwrap().is_empty(), "{plan}");
        let ran = as_nobody(&bench, "delete small-gguf --yes").unwrap().expect(1);
        assert!(ran.error().contains("cannot be deleted") || ran.error().contains("can be deleted"), "{ran:?}");
        assert_eq!(bench.tree(), before);
        as_nobody(&bench, "list --json").unwrap().expect(0);
    }
}

mod questions {
    use std::io::{Read, Write};

    use portable_pty::{CommandBuilder, PtySize, native_pty_system};

    use super::*;

    /// Runs a command on a terminal and types `answer` when it asks.
    fn on_a_terminal(bench: &Bench, line: &str, answer: &str) -> (u32, String) {
        on_a_terminal_after(bench, line, "[y/N]", answer)
    }

    /// Runs a command on a terminal and types `answer` once `sign` is on it.
    fn on_a_terminal_after(bench: &Bench, line: &str, sign: &str, answer: &str) -> (u32, String) {
        let pair =
            native_pty_system().openpty(PtySize { rows: 24, cols: 80, pixel_width: 0, pixel_height: 0 }).unwrap();
        let mut command = CommandBuilder::new(env!("CARGO_BIN_EXE_llorch-models"));
        command.env_clear();
        command.env("HOME", bench.scratch.path().join("home"));
        command.env("TMPDIR", bench.scratch.path());
        command.env("LLORCH_MODEL_BASE_DIR", bench.models());
        command.env("HF_ENDPOINT", bench.hub.endpoint());
        command.env("TERM", "xterm");
        command.cwd(bench.scratch.path());
        command.args(line.split(' ').filter(|word| !word.is_empty()));
        let mut child = pair.slave.spawn_command(command).unwrap();
        drop(pair.slave);
        let (mut reader, mut writer) = (pair.master.try_clone_reader().unwrap(), pair.master.take_writer().unwrap());
        let mut screen = Vec::new();
        let mut piece = [0; 4096];
        let mut answered = false;
        // A terminal that nobody holds any more answers with an error.
        while let Ok(count @ 1..) = reader.read(&mut piece) {
            screen.extend_from_slice(&piece[..count]);
            if !answered && String::from_utf8_lossy(&screen).contains(sign) {
                answered = true;
                writer.write_all(answer.as_bytes()).unwrap();
            }
        }
        (child.wait().unwrap().exit_code(), String::from_utf8_lossy(&screen).into_owned())
    }

    #[test]
    fn the_demo_needs_nothing_and_leaves_nothing() {
        let bench = bench();
        let (code, screen) = on_a_terminal_after(&bench, "demo", "tinyllama", "q");
        assert_eq!(code, 0, "{screen}");
        let left: Vec<_> =
            fs::read_dir(bench.scratch.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["home"], "nothing is left over");
        assert_eq!(fs::read_dir(bench.scratch.path().join("home")).unwrap().count(), 0);
        assert!(bench.hub.seen().is_empty(), "and nothing was asked for elsewhere");
        assert!(bench.run("demo").expect(64).error().contains("terminal"));
    }

    #[test]
    fn only_yes_deletes_and_the_plan_is_shown_before() {
        let bench = installed();
        let before = bench.tree();
        for answer in ["\r", "n\r", "x\r", "no\r"] {
            let (code, screen) = on_a_terminal(&bench, "delete small-gguf", answer);
            assert_eq!(code, 1, "{screen}");
            assert!(screen.contains(FILE) && screen.contains("nothing was deleted"), "{screen}");
            assert_eq!(bench.tree(), before);
        }
        let (code, screen) = on_a_terminal(&bench, "delete small-gguf", "\u{3}");
        assert_eq!(code, 130, "{screen}");
        assert_eq!(bench.tree(), before);
        let (code, screen) = on_a_terminal(&bench, "delete small-gguf", "y\r");
        assert_eq!(code, 0, "{screen}");
        assert_eq!(bench.tree(), Vec::<String>::new());
    }

    #[test]
    fn a_terminal_gets_a_bar_and_a_table_that_fits() {
        let bench = bench();
        bench.hub.put("org/Big-GGUF", "big-F16.gguf", &gguf(8 * 1024, "big"));
        let (code, screen) = on_a_terminal(&bench, "download org/Big-GGUF --limit 4M", "");
        assert_eq!(code, 0, "{screen}");
        assert!(screen.contains("MiB/s") && screen.contains("8.00 MiB"), "{screen:?}");
        let (code, screen) = on_a_terminal(&bench, "list", "");
        assert_eq!(code, 0);
        assert!(screen.contains("big-gguf") && screen.contains("\u{1b}[1m"), "{screen:?}");
    }
}

mod fits {
    use rbee_hive::format::gguf::{TensorType, Writer};

    use super::*;

    /// A model whose header tells what it needs, and one that is cut short.
    fn two() -> Bench {
        let bench = bench();
        for (name, missing) in [("small", 0), ("cut", 1)] {
            let mut bytes = Vec::new();
            Writer::new("llama")
                .key("general.file_type", 1_u32)
                .key("llama.context_length", 2048_u32)
                .key("llama.block_count", 1_u32)
                .key("llama.embedding_length", 256_u32)
                .key("llama.attention.head_count", 4_u32)
                .tensor("blk.0.weight", &[256, 64], TensorType::F16)
                .write_to(&mut bytes, 1)
                .unwrap();
            bytes.truncate(bytes.len() - missing);
            fs::create_dir_all(bench.model(name)).unwrap();
            fs::write(bench.model(name).join(format!("{name}-F16.gguf")), bytes).unwrap();
        }
        bench
    }

    #[test]
    fn a_list_says_what_fits_and_shows_only_that() {
        let bench = two();
        let list = bench.run("list --json --fit").expect(0).json();
        let ids: Vec<&str> = list["models"].as_array().unwrap().iter().filter_map(|row| row["id"].as_str()).collect();
        assert_eq!(ids, ["cut", "small"], "{list}");
        let fit = &list["models"][1]["fit"];
        let info = bench.run("info small --json").expect(0).json();
        for key in ["verdict", "need_bytes", "devices", "because", "quantization"] {
            assert_eq!(fit[key], info["fit"][key], "{key}");
        }
        assert!(fit["need_bytes"].is_u64() && fit.get("need").is_none() && fit.get("memory").is_none(), "{fit}");
        let plain = bench.run("list --json").expect(0).json();
        assert!(plain["models"][1]["fit"].is_null(), "who does not ask waits for no driver");
        // It is cut, so nobody can tell.
        assert_eq!(list["models"][0]["fit"]["verdict"], "unknown");
        let word = fit["verdict"].as_str().unwrap();
        let text = bench.run("list --fit").expect(0).stdout;
        assert!(text.contains("FITS") && text.contains(word), "{text}");
        assert!(!bench.run("list").expect(0).stdout.contains("FITS"));
        let shown = |filter: &str| bench.run(&format!("list --filter {filter}")).expect(0).stdout;
        assert!(shown("fits").contains("small") && !shown("fits").contains("cut"));
        assert!(shown("fits:unknown").contains("cut") && !shown("fits:unknown").contains("small"));
        assert_eq!(shown("fits:no"), "");
        let wrong = bench.run("list --filter fit:no").expect(2);
        assert!(wrong.error().contains("is no filter"), "{wrong:?}");
    }
}
