//! A host that several people and programs share: links from one store into another, who uses what, whose it is.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use rbee_hive::config::{Environment, Overrides, Settings};
use rbee_hive::model::{ModelId, Plan, StoreKind};
use rbee_hive::provisioner::{Inventory, PlanTarget};
use rbee_hive::store::flat::FlatStore;
use support::hf_cache::{Cache, commit, noise};
use tokio_util::sync::CancellationToken;

/// A host in a folder of its own.
struct Host {
    scratch: tempfile::TempDir,
    variables: Vec<(&'static str, PathBuf)>,
}

impl Host {
    fn new() -> Self {
        let scratch = tempfile::tempdir().unwrap();
        fs::create_dir_all(scratch.path().join("home/me")).unwrap();
        Self { scratch, variables: Vec::new() }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.scratch.path().canonicalize().unwrap().join(path)
    }

    fn put(&self, path: &str, bytes: &[u8]) -> PathBuf {
        let path = self.at(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        path
    }

    fn inventory(&self, all_users: bool) -> Inventory {
        let home = [("HOME", self.at("home/me"))];
        let environment = Environment::from_pairs(home.into_iter().chain(self.variables.iter().cloned()));
        let overrides = Overrides { all_users, ..Overrides::default() };
        let mut settings = Settings::load_with(&environment, "host", None, &overrides).unwrap();
        settings.paths.system = self.at("");
        let own = FlatStore::new(settings.models_dir.clone(), Vec::new());
        Inventory::of_host(&own, &settings)
    }

    /// A tag of Ollama with one layer below a models folder.
    fn tag(&self, models: &str, name: &str, bytes: &[u8]) -> PathBuf {
        let hex = support::hf_cache::sha256(bytes);
        let blob = self.put(&format!("{models}/blobs/sha256-{hex}"), bytes);
        let manifest = format!(
            r#"{{"schemaVersion":2,"config":{{"digest":"sha256:{hex}","size":{0}}},"layers":[{{"mediaType":"application/vnd.ollama.image.model","digest":"sha256:{hex}","size":{0}}}]}}"#,
            bytes.len()
        );
        self.put(&format!("{models}/manifests/registry.ollama.ai/library/{name}/latest"), manifest.as_bytes());
        blob
    }
}

fn ids(inventory: &Inventory) -> Vec<String> {
    let (rows, _) = inventory.scan_all(&CancellationToken::new());
    rows.into_iter().map(|row| row.model.identity.to_string()).collect()
}

fn plan(inventory: &Inventory, store: StoreKind, id: &str) -> Plan {
    inventory.plan_deletion(&[PlanTarget::whole(identity(inventory, store, id))]).unwrap()
}

fn identity(inventory: &Inventory, store: StoreKind, id: &str) -> ModelId {
    let (rows, _) = inventory.scan_all(&CancellationToken::new());
    let found = rows.into_iter().map(|row| row.model.identity).find(|model| model.store == store && model.id == id);
    found.unwrap_or_else(|| panic!("no {store}:{id}"))
}

#[test]
fn other_peoples_models_are_shown_when_asked_for_and_can_be_planned() {
    let host = Host::new();
    host.put("home/me/.local/share/llorch-models/models/mine/m.Q4_K_M.gguf", &noise(5000, 1));
    host.put("home/bob/.local/share/llorch-models/models/his/h.Q4_K_M.gguf", &noise(5000, 2));
    host.put("home/bob/.lmstudio/models/org/repo/r.Q4_K_M.gguf", &noise(5000, 3));
    host.tag("home/bob/.ollama/models", "tiny", &noise(5000, 4));
    host.put("home/bob/.cache/llama.cpp/flat.gguf", &noise(5000, 5));
    host.tag("usr/share/ollama/.ollama/models", "service", &noise(5000, 6));
    let inventory = host.inventory(false);
    assert_eq!(ids(&inventory), ["flat:mine", "ollama:service:latest"], "the service's store is always looked at");
    inventory.set_all_users(true);
    let all = ids(&inventory);
    for id in
        ["flat:mine", "flat:his", "lmstudio:org/repo", "ollama:tiny:latest", "llamacpp:flat", "ollama:service:latest"]
    {
        assert!(all.iter().any(|found| found == id), "{id} is not in {all:?}");
    }
    assert_eq!(all.len(), 6, "one folder is one store: {all:?}");
    let clone = inventory.clone();
    assert_eq!(plan(&clone, StoreKind::LmStudio, "org/repo").steps.iter().filter(|s| s.operation.is_file()).count(), 1);
    inventory.set_all_users(false);
    assert_eq!(ids(&clone).len(), 2);
    assert_eq!(ids(&host.inventory(true)).len(), 6);
}

#[test]
fn a_folder_given_as_two_kinds_is_shown_once_and_says_as_which() {
    let mut host = Host::new();
    let hub = host.at("hub");
    host.put("hub/models--org--name/refs/main", commit('1').as_bytes());
    host.variables = vec![("HF_HUB_CACHE", hub.clone()), ("LLORCH_MODEL_BASE_DIR", hub.clone())];
    let inventory = host.inventory(false);
    assert_eq!(inventory.stores().len(), 1);
    let (_, stores) = inventory.scan_all(&CancellationToken::new());
    assert_eq!(stores[0].store, StoreKind::Hf);
    assert!(stores[0].warnings.iter().any(|line| line.contains("two kinds of store, hf and flat")), "{stores:?}");

    // Under another path it is the same folder; llama.cpp shares its cache with the hub's form.
    let link = host.at("link");
    symlink(&hub, &link).unwrap();
    host.variables = vec![("HF_HUB_CACHE", hub.clone()), ("LLAMA_CACHE", link)];
    let kinds: Vec<StoreKind> = host.inventory(false).stores().iter().map(|store| store.kind()).collect();
    assert_eq!(kinds, [StoreKind::Flat, StoreKind::Hf, StoreKind::LlamaCpp]);
}

#[test]
fn links_from_another_store_break_and_hard_links_do_not() {
    let mut host = Host::new();
    let cache = Cache::new();
    host.variables = vec![("HF_HUB_CACHE", cache.hub.clone())];
    let hub_blob = cache.file("models--org--a", &commit('1'), "a.Q4_K_M.gguf", &noise(9000, 1));
    let ollama_blob = host.tag("usr/share/ollama/.ollama/models", "tiny", &noise(9000, 2));
    // What older tools leave: links from LM Studio into Ollama, from a local folder and from llama.cpp into the hub's cache.
    let studio = host.at("home/me/.lmstudio/models/org/tiny/tiny.Q4_K_M.gguf");
    fs::create_dir_all(studio.parent().unwrap()).unwrap();
    symlink(&ollama_blob, &studio).unwrap();
    let local = host.at("home/bob/.local/share/llorch-models/models/local/a.Q4_K_M.gguf");
    fs::create_dir_all(local.parent().unwrap()).unwrap();
    symlink(cache.hub.join("models--org--a/snapshots").join(commit('1')).join("a.Q4_K_M.gguf"), &local).unwrap();
    let flat = host.at("home/me/.cache/llama.cpp/a.gguf");
    fs::create_dir_all(flat.parent().unwrap()).unwrap();
    symlink(&hub_blob, &flat).unwrap();
    let hard = host.at("home/me/.lmstudio/models/org/hard/hard.Q4_K_M.gguf");
    fs::create_dir_all(hard.parent().unwrap()).unwrap();
    fs::hard_link(&hub_blob, &hard).unwrap_or_else(|_| {
        fs::copy(&hub_blob, &hard).unwrap();
    });

    let inventory = host.inventory(true);
    let breaks = |plan: &Plan| {
        let mut paths: Vec<PathBuf> = plan.breaks.iter().map(|broken| broken.path.clone()).collect();
        paths.sort();
        paths
    };
    let tag = plan(&inventory, StoreKind::Ollama, "tiny:latest");
    assert_eq!(breaks(&tag), [studio.clone()]);
    assert_eq!(tag.breaks[0].model.store, StoreKind::LmStudio);
    let hub = plan(&inventory, StoreKind::Hf, "org/a");
    let mut expected = vec![local.clone(), flat.clone()];
    expected.sort();
    assert_eq!(breaks(&hub), expected);
    // Nobody looks where nobody asked to.
    inventory.set_all_users(false);
    assert_eq!(breaks(&plan(&inventory, StoreKind::Hf, "org/a")), [flat]);
    // The link itself goes alone, and what goes together breaks nothing.
    let both = [
        PlanTarget::whole(identity(&inventory, StoreKind::Ollama, "tiny:latest")),
        PlanTarget::whole(identity(&inventory, StoreKind::LmStudio, "org/tiny")),
    ];
    assert!(inventory.plan_deletion(&both).unwrap().breaks.is_empty());
    assert!(plan(&inventory, StoreKind::LmStudio, "org/tiny").breaks.is_empty());
}

/// Keeps a file open in another process until it is dropped.
struct Open(std::process::Child);

impl Open {
    fn file(path: &Path) -> Self {
        use std::io::{BufRead, BufReader};
        let mut child = std::process::Command::new("sh")
            .args(["-c", "exec 9<\"$1\"; echo ready; read line", "sh"])
            .arg(path)
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        Self(child)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn what_was_seen_open_counts_as_used_by_every_look_and_by_other_processes() {
    let host = Host::new();
    let weights = host.put("home/me/.local/share/llorch-models/models/mine/m.Q4_K_M.gguf", &noise(5000, 1));
    let long_ago = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
    fs::File::open(&weights)
        .unwrap()
        .set_times(fs::FileTimes::new().set_accessed(long_ago).set_modified(long_ago))
        .unwrap();
    let accessed = |inventory: &Inventory| inventory.scan_all(&CancellationToken::new()).0[0].model.accessed;
    let inventory = host.inventory(false);
    // A file system may note nothing at all; then nothing is known yet.
    assert!(accessed(&inventory).is_none_or(|then| then.as_second() == 1_000_000_000));
    let details = inventory.details(&identity(&inventory, StoreKind::Flat, "mine")).unwrap();
    assert_eq!(details.model.in_use_by.as_deref(), Some([].as_slice()));
    assert!(details.evidence.access_times.is_some() && details.evidence.unreadable_processes.is_some());

    let open = Open::file(&weights);
    let plan = plan(&inventory, StoreKind::Flat, "mine");
    assert_eq!(plan.in_use_by.iter().map(|holder| holder.pid).collect::<Vec<_>>(), [open.0.id()]);
    drop(open);
    let now = jiff::Timestamp::now().as_second();
    for inventory in [inventory, host.inventory(false)] {
        let then = accessed(&inventory).unwrap().as_second();
        assert!((now - 60..=now).contains(&then), "{then}");
    }
}

#[test]
fn no_place_to_remember_is_no_reason_to_stop() {
    let mut host = Host::new();
    let weights = host.put("home/me/.local/share/llorch-models/models/mine/m.Q4_K_M.gguf", &noise(5000, 1));
    host.put("file", b"");
    host.variables = vec![("XDG_STATE_HOME", host.at("file/state"))];
    let inventory = host.inventory(false);
    let _open = Open::file(&weights);
    let mut rows = inventory.scan_all(&CancellationToken::new()).0;
    inventory.look_for_holders(&mut rows);
    assert_eq!(rows[0].model.in_use_by.as_ref().unwrap().len(), 1);
}
