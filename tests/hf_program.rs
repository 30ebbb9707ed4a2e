//! The Hugging Face cache through the program: listed, chosen, checked, deleted.
#![cfg(all(feature = "cli", feature = "tui", feature = "mirror"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use std::fs;
use std::path::PathBuf;

use serde_json::Value;
use support::hf_cache::{Cache, commit, du};
use support::program::{Bench, Ran, gguf};

const A: &str = "models--org--a";

struct Host {
    bench: Bench,
    cache: Cache,
}

impl Host {
    fn new() -> Self {
        let cache = Cache::new();
        cache.file(A, &commit('1'), "a-F16.gguf", &gguf(4, "a"));
        cache.reference(A, "main", &commit('1'));
        cache.shared("models--org--b", &commit('2'), "b-F16.gguf", &gguf(8, "b"));
        cache.shared("models--org--c", &commit('3'), "b-F16.gguf", &gguf(8, "b"));
        cache.file("datasets--org--d", &commit('4'), "train.parquet", b"rows");
        let bench = Bench::new();
        fs::create_dir_all(bench.model("tiny")).unwrap();
        fs::write(bench.model("tiny/tiny-F16.gguf"), gguf(2, "t")).unwrap();
        Self { bench, cache }
    }

    fn run(&self, line: &str) -> Ran {
        let mut command = self.bench.command(line);
        command.env("HF_HUB_CACHE", &self.cache.hub);
        self.bench.finish(command)
    }

    fn json(&self, line: &str) -> Value {
        self.run(line).expect(0).json()
    }

    fn ids(&self, line: &str) -> Vec<String> {
        let rows = self.json(line)["models"].as_array().unwrap().clone();
        rows.iter().map(|row| format!("{}:{}", row["store"].as_str().unwrap(), row["id"].as_str().unwrap())).collect()
    }
}

#[test]
fn both_stores_are_listed_and_filtered() {
    let host = Host::new();
    let all = ["hf:datasets/org/d", "hf:org/a", "hf:org/b", "hf:org/c", "flat:tiny"];
    let mut found = host.ids("list --json");
    found.sort();
    let mut expected: Vec<String> = all.iter().map(|&id| id.to_owned()).collect();
    expected.sort();
    assert_eq!(found, expected);
    assert_eq!(host.ids("list --json --store hf --filter kind:dataset"), ["hf:datasets/org/d"]);
    assert_eq!(host.ids("list --json --filter store:flat"), ["flat:tiny"]);
    let line = format!("list --json --store-path {}", host.cache.hub.display());
    assert_eq!(host.ids(&line).len(), 4);
    let listed = host.json("list --json --fit");
    let stores = listed["stores"].as_array().unwrap();
    assert_eq!(stores.len(), 2);
    let hf = stores.iter().find(|store| store["store"] == "hf").unwrap();
    assert_eq!((hf["models"].as_u64(), hf["disk_bytes"].as_u64()), (Some(4), Some(du(&host.cache.hub))));
    // Payloads that two rows share count once.
    let rows: u64 =
        du(&host.cache.hub) + du(&host.bench.models()) - du(&host.cache.hub.join("blobs/.huggingface-shared-blobs"));
    assert_eq!(listed["totals"]["disk_bytes"].as_u64(), Some(rows));
    // Headers are known from the first look.
    assert!(host.bench.scratch.path().join("home/.cache/llorch-models/headers").is_file());
    assert_eq!(host.json("list --json --fit"), listed);
    // A cache that is not there is no store.
    let mut command = host.bench.command("list --json");
    command.env("HF_HUB_CACHE", host.cache.scratch.path().join("none"));
    assert_eq!(host.bench.finish(command).expect(0).json()["stores"].as_array().unwrap().len(), 1);
}

#[test]
fn a_model_is_planned_and_deleted_to_the_byte() {
    let host = Host::new();
    let planned = host.json("delete hf:org/a --dry-run --json");
    let expected = planned["expected_bytes"].as_u64().unwrap();
    assert_eq!(expected, du(&host.cache.hub.join(A)));
    assert_eq!((planned["freed_bytes"].clone(), planned["dry_run"].clone()), (Value::Null, Value::Bool(true)));
    let before = du(&host.cache.hub);
    let done = host.json("delete hf:org/a --yes --json");
    assert_eq!(done["freed_bytes"].as_u64(), Some(expected));
    assert_eq!(before - du(&host.cache.hub), expected);
    assert!(!host.cache.hub.join(A).exists());
    assert!(host.run("delete hf:org/a --yes").expect(1).error().contains("org/a"));
    let done = host.json("delete hf:org/b hf:org/c --yes --json");
    assert!(done["freed_bytes"].as_u64().unwrap() > gguf(8, "b").len() as u64);
    assert_eq!(host.ids("list --json --store hf"), ["hf:datasets/org/d"]);
}

#[test]
fn a_part_of_a_model_is_chosen_by_revision_or_quantization() {
    let host = Host::new();
    host.cache.file(A, &commit('5'), "a-Q8_0.gguf", &gguf(3, "q"));
    let info = host.json("info hf:org/a --json");
    assert_eq!(info["revisions"].as_array().unwrap().len(), 2);
    assert_eq!(info["files"].as_array().unwrap().len(), 2);
    host.json("delete org/a:Q8_0 --yes --json");
    assert_eq!(host.json("info org/a --json")["quantizations"], serde_json::json!(["F16"]));
    host.json("delete org/a@main --yes --json");
    assert!(!host.cache.hub.join(A).join("snapshots").join(commit('1')).exists());
}

#[test]
fn a_damaged_blob_is_found() {
    let host = Host::new();
    host.run("verify hf:org/a").expect(0);
    assert_eq!(host.json("verify hf:org/b --json")["models"][0]["files"][0]["algorithm"], "sha256");
    let blob: PathBuf = fs::read_dir(host.cache.hub.join(A).join("blobs")).unwrap().next().unwrap().unwrap().path();
    let mut bytes = fs::read(&blob).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&blob, bytes).unwrap();
    let found = host.run("verify hf:org/a --json").expect(1).json();
    assert_eq!(found["models"][0]["files"][0]["status"], "corrupt");
}

#[test]
fn a_name_in_two_stores_is_asked_back() {
    let host = Host::new();
    fs::create_dir_all(host.bench.model("a/.cache/llorch-models")).unwrap();
    fs::write(host.bench.model("a/a-F16.gguf"), gguf(2, "x")).unwrap();
    let record = serde_json::json!({
        "version": 1, "endpoint": "https://huggingface.co", "repository": "org/a", "revision": "main",
        "commit": commit('1'), "files": []
    });
    fs::write(host.bench.model("a/.cache/llorch-models/source.json"), record.to_string()).unwrap();
    let ran = host.run("delete org/a --yes").expect(1);
    assert!(ran.stderr.contains("flat:a") && ran.stderr.contains("hf:org/a"), "{ran:?}");
    host.run("delete hf:org/a --yes").expect(0);
    host.run("info org/a").expect(0);
}

#[test]
fn what_is_open_or_protected_stays() {
    let host = Host::new();
    let blob: PathBuf = fs::read_dir(host.cache.hub.join(A).join("blobs")).unwrap().next().unwrap().unwrap().path();
    let open = fs::File::open(&blob).unwrap();
    let info = host.json("info hf:org/a --json");
    assert_eq!(info["in_use_by"][0]["pid"].as_u64(), Some(std::process::id().into()));
    host.run("delete hf:org/a --yes").expect(1);
    assert!(blob.exists());
    drop(open);
    let config = host.bench.scratch.path().join("home/.config/llorch-models/config.toml");
    fs::create_dir_all(config.parent().unwrap()).unwrap();
    fs::write(&config, "protect = [\"hf:org/*\"]\n").unwrap();
    host.run("delete hf:org/a --yes").expect(1);
    assert!(blob.exists());
    fs::remove_file(config).unwrap();
    host.run("delete hf:org/a --yes").expect(0);
}
