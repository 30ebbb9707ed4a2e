//! What another user sees of stores that may not be read: unknown is not empty, and a plan does not orphan what it cannot see.
#![cfg(all(feature = "cli", feature = "tui", feature = "mirror"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use std::fs::{Permissions, set_permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;

use serde_json::Value;
use sha2::{Digest, Sha256};
use support::program::{Bench, gguf};

const NOBODY: u32 = 65534;

fn mode(path: &Path, mode: u32) {
    set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// The program's JSON as another user; `None` where that user may not run it.
fn as_nobody(bench: &Bench, line: &str) -> Option<Value> {
    let mut command = bench.command(line);
    command.uid(NOBODY).gid(NOBODY);
    let ran = command.output().ok()?;
    let out = String::from_utf8(ran.stdout).unwrap();
    Some(serde_json::from_str(&out).unwrap_or_else(|_| panic!("{line}: {}", String::from_utf8_lossy(&ran.stderr))))
}

fn give(bench: &Bench) {
    for entry in walkdir::WalkDir::new(bench.scratch.path()) {
        std::os::unix::fs::lchown(entry.unwrap().path(), Some(NOBODY), Some(NOBODY)).unwrap();
    }
    chown(bench.scratch.path(), Some(NOBODY), Some(NOBODY)).unwrap();
}

fn warnings(list: &Value, id: &str) -> String {
    let rows = list["models"].as_array().unwrap();
    let row = rows.iter().find(|row| row["id"] == id).unwrap_or_else(|| panic!("{id}: {list}"));
    row["warnings"].to_string()
}

#[test]
fn blobs_of_ollama_that_may_not_be_read_are_unknown_and_keep_their_name() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let bench = Bench::new();
    let root = bench.scratch.path().join("home/.ollama/models");
    let blobs = root.join("blobs");
    std::fs::create_dir_all(&blobs).unwrap();
    let blob = |bytes: &[u8]| {
        let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        std::fs::write(blobs.join(format!("sha256-{hex}")), bytes).unwrap();
        serde_json::json!({ "digest": format!("sha256:{hex}"), "size": bytes.len() })
    };
    let (mut weights, mut config) = (blob(&gguf(8, "o")), blob(b"{}"));
    weights["mediaType"] = "application/vnd.ollama.image.model".into();
    config["mediaType"] = "application/vnd.docker.container.image.v1+json".into();
    let manifest = serde_json::json!({ "schemaVersion": 2, "config": config, "layers": [weights] });
    let names = root.join("manifests/registry.ollama.ai/library/l3");
    std::fs::create_dir_all(&names).unwrap();
    std::fs::write(names.join("latest"), manifest.to_string()).unwrap();
    give(&bench);
    let Some(plan) = as_nobody(&bench, "delete --dry-run --json ollama:l3:latest") else { return };
    assert!(plan["blocked"].as_array().unwrap().is_empty(), "{plan}");
    mode(&blobs, 0);
    let list = as_nobody(&bench, "list --json").unwrap();
    let said = warnings(&list, "l3:latest");
    assert!(said.contains("cannot be read") && !said.contains("is missing"), "{said}");
    let plan = as_nobody(&bench, "delete --dry-run --json ollama:l3:latest").unwrap();
    assert_eq!((&plan["expected_bytes"], &plan["remove"]), (&0.into(), &Value::Array(Vec::new())), "{plan}");
    assert!(plan["blocked"][0]["because"].as_str().unwrap().contains("cannot be read"), "{plan}");
    mode(&blobs, 0o755);
}

#[test]
fn blobs_of_the_cache_that_may_not_be_searched_are_not_missing() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let bench = Bench::new();
    let repository = bench.scratch.path().join("home/.cache/huggingface/hub/models--org--a");
    let snapshot = repository.join("snapshots").join("1".repeat(40));
    std::fs::create_dir_all(repository.join("blobs")).unwrap();
    std::fs::create_dir_all(&snapshot).unwrap();
    std::fs::write(repository.join("blobs/abc"), gguf(8, "b")).unwrap();
    std::os::unix::fs::symlink("../../blobs/abc", snapshot.join("b.gguf")).unwrap();
    give(&bench);
    mode(&repository.join("blobs"), 0o444);
    let Some(list) = as_nobody(&bench, "list --json") else { return };
    let said = warnings(&list, "org/a");
    assert!(said.contains("cannot be read") && !said.contains("missing weights"), "{said}");
    let plan = as_nobody(&bench, "delete --dry-run --json org/a").unwrap();
    assert_eq!(plan["expected_bytes"].as_u64().unwrap_or(0) / 100_000, 0, "{plan}");
    mode(&repository.join("blobs"), 0o755);
}

#[test]
fn what_could_not_be_looked_into_is_not_verified() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let bench = Bench::new();
    let repository = bench.scratch.path().join("home/.cache/huggingface/hub/models--org--a");
    let flat = bench.scratch.path().join("models/m");
    for folder in [&repository.join("blobs"), &repository.join("snapshots").join("1".repeat(40)), &flat.join("deep")] {
        std::fs::create_dir_all(folder).unwrap();
    }
    std::fs::write(repository.join("blobs").join(format!("{}.incomplete", "7".repeat(64))), b"begun").unwrap();
    std::fs::write(flat.join("m.gguf"), gguf(8, "m")).unwrap();
    give(&bench);
    let closed = [repository.join("snapshots"), flat.join("deep")];
    closed.iter().for_each(|folder| mode(folder, 0));
    let Some(verified) = as_nobody(&bench, "verify --all --json") else { return };
    let mut command = bench.command("verify --all");
    let said = command.uid(NOBODY).gid(NOBODY).output().unwrap();
    closed.iter().for_each(|folder| mode(folder, 0o755));
    for (id, path) in [("org/a", "snapshots"), ("m", "deep")] {
        let models = verified["models"].as_array().unwrap();
        let model = models.iter().find(|model| model["id"] == id).unwrap_or_else(|| panic!("{id}: {verified}"));
        let file = model["files"].as_array().unwrap().iter().find(|file| file["path"] == path).unwrap();
        assert_eq!((&model["ok"], &file["status"]), (&false.into(), &"unreadable".into()), "{model}");
        assert!(file["actual"].as_str().unwrap().contains("denied"), "{file}");
    }
    // Neither a fetch opens a folder, nor has a payload without a name one to be asked for by.
    let said = String::from_utf8(said.stderr).unwrap();
    assert!(!said.contains("download org/a") && said.contains("llorch-models sweep"), "{said}");
}
