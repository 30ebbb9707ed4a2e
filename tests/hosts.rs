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
    assert_eq!(breaks(&tag), [studio]);
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

/// What a made-up server of Ollama does with a request for a deletion.
#[derive(Clone, Copy, PartialEq)]
enum Deletes {
    Everything,
    OnlyTheName,
    Nothing,
    Refuses,
}

/// A server of Ollama in this process, over a models folder; it answers on a port of its own.
struct Fake {
    port: u16,
    asked: std::sync::Arc<std::sync::Mutex<Vec<String>>>,
}

impl Fake {
    fn new(models: &Path, deletes: Deletes, loaded: bool) -> Self {
        use std::io::{Read, Write};
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        let asked = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
        let (models, told) = (models.to_owned(), std::sync::Arc::clone(&asked));
        std::thread::spawn(move || {
            for stream in socket.incoming() {
                let Ok(mut stream) = stream else { return };
                let mut request = Vec::new();
                let mut buffer = [0; 4096];
                let text = loop {
                    let read = stream.read(&mut buffer).unwrap_or(0);
                    request.extend_from_slice(&buffer[..read]);
                    let text = String::from_utf8_lossy(&request).into_owned();
                    let whole = text.split_once("\r\n\r\n").is_some_and(|(head, body)| {
                        let length = head.lines().find_map(|line| {
                            let (name, value) = line.split_once(':')?;
                            name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().unwrap())
                        });
                        body.len() >= length.unwrap_or(0)
                    });
                    if whole || read == 0 {
                        break text;
                    }
                };
                let line = text.lines().next().unwrap_or_default().to_owned();
                told.lock().unwrap().push(line.clone());
                let (status, body) = answer(&models, &line, deletes, loaded);
                let _ = write!(
                    stream,
                    "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                    body.len()
                );
            }
        });
        Self { port, asked }
    }

    fn deletions(&self) -> usize {
        self.asked.lock().unwrap().iter().filter(|line| line.starts_with("DELETE /api/delete ")).count()
    }
}

fn answer(models: &Path, line: &str, deletes: Deletes, loaded: bool) -> (&'static str, String) {
    let manifest = models.join("manifests/registry.ollama.ai/library/tiny/latest");
    let digest = support::hf_cache::sha256(&fs::read(&manifest).unwrap_or_default());
    let listed = format!(r#"{{"models":[{{"name":"tiny:latest","model":"tiny:latest","digest":"{digest}"}}]}}"#);
    match line.split(' ').nth(1).unwrap_or_default() {
        "/api/tags" => ("200 OK", listed),
        "/api/ps" if loaded => ("200 OK", listed),
        "/api/ps" => ("200 OK", r#"{"models":[]}"#.to_owned()),
        "/api/version" => ("200 OK", r#"{"version":"0.40.1"}"#.to_owned()),
        "/api/delete" => match deletes {
            Deletes::Refuses => ("500 Internal Server Error", "no".to_owned()),
            Deletes::Nothing => ("200 OK", String::new()),
            Deletes::OnlyTheName | Deletes::Everything => {
                fs::remove_file(&manifest).unwrap();
                if deletes == Deletes::Everything {
                    fs::remove_dir_all(models.join("blobs")).unwrap();
                }
                ("200 OK", String::new())
            }
        },
        _ => ("404 Not Found", String::new()),
    }
}

/// A system whose `/proc` is this one's but for what the environment of this process says.
fn proc_of(host: &Host, models: &Path) {
    let own = PathBuf::from(format!("/proc/{}", std::process::id()));
    let made_up = host.at("proc").join(std::process::id().to_string());
    fs::create_dir_all(&made_up).unwrap();
    for name in ["fd", "comm", "cmdline", "ns"] {
        symlink(own.join(name), made_up.join(name)).unwrap();
    }
    fs::create_dir_all(host.at("proc/self")).unwrap();
    symlink(own.join("ns"), host.at("proc/self/ns")).unwrap();
    symlink(own.join("net"), host.at("proc/net")).unwrap();
    fs::write(made_up.join("environ"), format!("PATH=/bin\0OLLAMA_MODELS={}\0", models.display())).unwrap();
}

fn delete(inventory: &Inventory, plan: &Plan) -> rbee_hive::model::DeletionReport {
    let mut hook = rbee_hive::disk::deletion::NoHook;
    inventory.run_deletion(plan, &mut hook, &|_| false, &mut |_, _| (), &CancellationToken::new())
}

fn served(deletes: Deletes) -> (Host, Inventory, Fake, PathBuf) {
    let mut host = Host::new();
    let blob = host.tag("home/me/.ollama/models", "tiny", &noise(50_000, 1));
    let models = host.at("home/me/.ollama/models");
    let fake = Fake::new(&models, deletes, false);
    proc_of(&host, &models);
    host.variables = vec![("OLLAMA_HOST", PathBuf::from(format!("127.0.0.1:{}", fake.port)))];
    let inventory = host.inventory(false);
    (host, inventory, fake, blob)
}

#[test]
fn a_running_server_deletes_its_own_models_and_what_went_is_measured() {
    let (_host, inventory, fake, blob) = served(Deletes::Everything);
    let bytes = support::hf_cache::blocks(&blob);
    let plan = plan(&inventory, StoreKind::Ollama, "tiny:latest");
    assert_eq!(plan.asks.len(), 1, "{plan:?}");
    assert_eq!((plan.asks[0].name.as_str(), fake.deletions()), ("tiny:latest", 0), "a plan asks for nothing");
    let report = delete(&inventory, &plan);
    assert_eq!(fake.deletions(), 1);
    assert!(report.failed.is_empty(), "{report:?}");
    assert!(report.freed_bytes >= bytes && report.freed_bytes == plan.expected_bytes, "{report:?} {plan:?}");
    assert!(ids(&inventory).is_empty());
}

#[test]
fn what_a_server_leaves_or_refuses_is_told_or_done_on_the_files() {
    let (_host, inventory, fake, blob) = served(Deletes::OnlyTheName);
    let report = delete(&inventory, &plan(&inventory, StoreKind::Ollama, "tiny:latest"));
    assert_eq!((fake.deletions(), report.failed.len()), (1, 1), "{report:?}");
    assert!(blob.exists() && report.failed[0].path == blob && report.failed[0].error.contains("left this"));

    for deletes in [Deletes::Nothing, Deletes::Refuses] {
        let (_host, inventory, fake, blob) = served(deletes);
        let plan = plan(&inventory, StoreKind::Ollama, "tiny:latest");
        let report = delete(&inventory, &plan);
        assert_eq!(fake.deletions(), 1);
        assert!(report.failed.is_empty() && report.freed_bytes == plan.expected_bytes, "{report:?}");
        assert!(!blob.exists());
    }
}

#[test]
fn a_server_of_another_folder_or_none_is_not_used() {
    let (host, inventory, fake, _) = served(Deletes::Everything);
    fs::write(host.at("proc").join(std::process::id().to_string()).join("environ"), "OLLAMA_MODELS=/elsewhere\0")
        .unwrap();
    let plan_elsewhere = plan(&inventory, StoreKind::Ollama, "tiny:latest");
    assert!(plan_elsewhere.asks.is_empty());
    assert!(delete(&inventory, &plan_elsewhere).failed.is_empty());
    assert_eq!(fake.deletions(), 0);

    // One that was there when the plan was made, and is another's by now.
    let (host, inventory, fake, _) = served(Deletes::Everything);
    let plan = plan(&inventory, StoreKind::Ollama, "tiny:latest");
    assert_eq!(plan.asks.len(), 1);
    fs::remove_dir_all(host.at("proc")).unwrap();
    let report = delete(&inventory, &plan);
    assert!(report.failed.is_empty() && report.freed_bytes == plan.expected_bytes, "{report:?}");
    assert_eq!(fake.deletions(), 0);
}

#[test]
fn a_model_that_the_server_has_loaded_is_in_use() {
    let mut host = Host::new();
    host.tag("home/me/.ollama/models", "tiny", &noise(5000, 1));
    let models = host.at("home/me/.ollama/models");
    let fake = Fake::new(&models, Deletes::Nothing, true);
    proc_of(&host, &models);
    host.variables = vec![("OLLAMA_HOST", PathBuf::from(format!("127.0.0.1:{}", fake.port)))];
    let inventory = host.inventory(false);
    let model = identity(&inventory, StoreKind::Ollama, "tiny:latest");
    let plan = plan(&inventory, StoreKind::Ollama, "tiny:latest");
    let details = inventory.details(&model).unwrap();
    let mut rows = inventory.scan_all(&CancellationToken::new()).0;
    inventory.look_for_holders(&mut rows);
    for holders in
        [&plan.in_use_by, details.model.in_use_by.as_ref().unwrap(), rows[0].model.in_use_by.as_ref().unwrap()]
    {
        assert_eq!(holders.len(), 1);
        assert_eq!(holders[0].pid, std::process::id());
        assert!(holders[0].command.contains("has it loaded"));
    }
}
