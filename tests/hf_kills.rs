//! A download into the Hugging Face cache, killed at its system calls one after the other: whatever it was doing, the cache is
//! without a fault to the official client, and the same command finishes it.
#![cfg(all(feature = "cli", feature = "tui", feature = "mirror", target_os = "linux"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use support::official::{Official, stdout};
use support::program::Bench;

const REPOSITORY: &str = "org/Killed-GGUF";
/// What gives something its name or takes one away, or makes it last.
const CALLS: [&str; 6] =
    ["mkdir,mkdirat", "rename,renameat,renameat2", "symlink,symlinkat", "link,linkat", "unlink,unlinkat", "fsync"];
/// Of each kind, so many calls of one thread are tried at most.
const MOST: usize = 12;

fn download(bench: &Bench, home: &Path, inject: Option<&str>) -> Option<i32> {
    let program = bench.command("");
    let mut command = match inject {
        Some(inject) => {
            let mut command = Command::new("strace");
            command.args(["-f", "-qq", "-o", "/dev/null", "-e", "signal=none", "-e", inject]);
            command.arg(program.get_program()).args(program.get_args());
            command
        }
        None => bench.command(""),
    };
    bench.prepare(&mut command);
    command.args(["download", REPOSITORY, "--file", "*", "--to", "hf"]).env("HF_HOME", home.join("hf"));
    bench.finish(command).code
}

/// Every link of the snapshots leads to a file, and every reference to a snapshot.
fn assert_sound(hub: &Path, moment: &str) {
    if !hub.exists() {
        // It was killed before the first folder.
        return;
    }
    for entry in walkdir::WalkDir::new(hub) {
        let entry = entry.unwrap();
        let path = entry.path();
        // A link that has no name yet waits among the locks, where nobody follows it.
        if entry.path_is_symlink() && !path.starts_with(hub.join(".locks")) {
            assert!(
                fs::metadata(path).is_ok_and(|found| found.is_file()),
                "{moment}: {} leads nowhere",
                path.display()
            );
        }
        if path.parent().is_some_and(|parent| parent.ends_with("refs")) {
            let commit = fs::read_to_string(path).unwrap();
            let snapshot = path.parent().unwrap().with_file_name("snapshots").join(&commit);
            assert!(snapshot.is_dir(), "{moment}: no snapshot {commit}");
        }
    }
}

#[test]
fn a_kill_at_any_step_leaves_a_cache_without_a_fault() {
    let traced = Command::new("strace").args(["-f", "-qq", "-o", "/dev/null", "true"]).status();
    if !traced.is_ok_and(|status| status.success()) {
        eprintln!("skipped: there is no strace that may trace here");
        return;
    }
    let bench = Bench::new();
    bench.hub.put(REPOSITORY, "config.json", b"{\"model_type\":\"llama\"}");
    bench.hub.put(REPOSITORY, "sub/tokenizer.json", b"{}");
    bench.hub.put_noise(REPOSITORY, "killed-Q4_K_M.gguf", 1_500_000);
    let mut killed: Vec<(String, PathBuf)> = Vec::new();
    for calls in CALLS {
        for number in 1..=MOST {
            let moment = format!("{calls} {number}");
            let home = bench.scratch.path().join(format!("killed-{}", killed.len()));
            fs::create_dir_all(&home).unwrap();
            let code = download(&bench, &home, Some(&format!("inject={calls}:signal=KILL:when={number}")));
            if code == Some(0) {
                // No thread makes so many calls of the kind.
                fs::remove_dir_all(&home).unwrap();
                break;
            }
            assert_eq!(code, None, "{moment}: it was killed");
            assert_sound(&home.join("hf/hub"), &moment);
            killed.push((moment, home));
        }
    }
    eprintln!("killed at {} calls", killed.len());
    assert!(killed.len() >= 15, "{killed:?}");
    if let Some(official) = Official::find() {
        let hubs: Vec<PathBuf> =
            killed.iter().map(|(_, home)| home.join("hf/hub")).filter(|hub| hub.exists()).collect();
        let hubs: Vec<&str> = hubs.iter().map(|hub| hub.to_str().unwrap()).collect();
        let scan = "import json, sys; from huggingface_hub import scan_cache_dir; \
            print(json.dumps({hub: [str(w) for w in scan_cache_dir(hub).warnings] for hub in sys.argv[1:]}))";
        let found: std::collections::BTreeMap<String, Vec<String>> =
            serde_json::from_str(&stdout(&official.python(bench.scratch.path(), scan, &hubs))).unwrap();
        assert_eq!(found.len(), hubs.len());
        assert!(found.values().all(Vec::is_empty), "{found:#?}");
    }
    for (moment, home) in &killed {
        assert_eq!(download(&bench, home, None), Some(0), "{moment}: the same command goes on");
        assert_sound(&home.join("hf/hub"), moment);
        let tree = support::program::tree(&home.join("hf/hub"));
        for name in ["config.json", "sub/tokenizer.json", "killed-Q4_K_M.gguf"] {
            assert!(tree.iter().any(|path| path.contains("/snapshots/") && path.ends_with(name)), "{moment}: {tree:?}");
        }
        assert!(!tree.iter().any(|path| path.contains(".llorch") && !path.contains(".locks/")), "{moment}: {tree:?}");
    }
}
