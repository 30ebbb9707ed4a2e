//! Downloads into the Hugging Face cache, judged by the official client, and the other way round.
#![cfg(feature = "mirror")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rbee_hive::disk::lock::FileLock;
use rbee_hive::error::Error;
use rbee_hive::model::DestinationKind;
use rbee_hive::provisioner::{DownloadRequest, Downloaded, ModelProvisioner};
use rbee_hive::transfer::{EventSink, Options, TransferEvent};
use support::hub::{Fault, TestHub, What};
use support::official::{Official, stdout};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

const REPOSITORY: &str = "org/Judged-GGUF";
const FOLDER: &str = "models--org--Judged-GGUF";
const FILE: &str = "judged-Q4_K_M.gguf";
const CONFIG: &[u8] = b"{\"model_type\":\"llama\"}";

struct Bench {
    hub: TestHub,
    home: TempDir,
    weights: Vec<u8>,
    official: Option<Arc<Official>>,
}

impl Bench {
    async fn new() -> Self {
        let hub = TestHub::start().await;
        hub.put(REPOSITORY, "config.json", CONFIG);
        hub.put(REPOSITORY, "sub/deeper/tokenizer.json", b"{\"tokens\": []}");
        // Large enough to be kept when it is cancelled.
        let weights = hub.put_noise(REPOSITORY, FILE, 1_500_000);
        hub.put_noise(REPOSITORY, "judged-Q8_0.gguf", 300_000);
        Self { hub, home: tempfile::tempdir().unwrap(), weights, official: Official::find().map(Arc::new) }
    }

    fn cache(&self) -> PathBuf {
        self.home.path().join("hf/hub")
    }

    fn repository(&self) -> PathBuf {
        self.cache().join(FOLDER)
    }

    fn provisioner(&self) -> ModelProvisioner {
        self.configured(|builder| builder)
    }

    fn configured(
        &self,
        configure: impl FnOnce(rbee_hive::provisioner::Builder) -> rbee_hive::provisioner::Builder,
    ) -> ModelProvisioner {
        let builder = ModelProvisioner::builder(self.home.path().join("models"))
            .endpoint(self.hub.endpoint())
            .hf_cache(self.cache());
        configure(builder).build()
    }

    async fn download(&self, request: &DownloadRequest) -> Result<Downloaded, Error> {
        download(&self.provisioner(), request, &(Arc::new(|_| {}) as EventSink)).await
    }

    /// Runs the official client, which must succeed; gives what it printed.
    async fn hf(&self, arguments: &[&str]) -> String {
        let (official, home, endpoint) =
            (self.official.clone().unwrap(), self.home.path().to_owned(), self.hub.endpoint());
        let arguments: Vec<String> = arguments.iter().map(|&argument| argument.to_owned()).collect();
        blocking(move || {
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            stdout(&official.hf(&home, &endpoint, &arguments))
        })
        .await
    }

    async fn python(&self, script: &'static str, argument: &str) -> String {
        let (official, home, argument) =
            (self.official.clone().unwrap(), self.home.path().to_owned(), argument.to_owned());
        blocking(move || stdout(&official.python(&home, script, &[&argument]))).await
    }

    /// What the client says of the cache: ids, and no warning.
    async fn listed(&self) -> Vec<String> {
        let script = "import json; from huggingface_hub import scan_cache_dir; found = scan_cache_dir(); \
            print(json.dumps([[r.repo_id for r in found.repos], [str(w) for w in found.warnings]]))";
        let (ids, warnings): (Vec<String>, Vec<String>) = serde_json::from_str(&self.python(script, "").await).unwrap();
        assert_eq!(warnings, [] as [&str; 0]);
        ids
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

async fn download(
    provisioner: &ModelProvisioner,
    request: &DownloadRequest,
    events: &EventSink,
) -> Result<Downloaded, Error> {
    let plan = provisioner.plan_download(request).await?;
    provisioner.download(&plan, &Options::default(), events, &CancellationToken::new()).await
}

fn to_hf(reference: &str) -> DownloadRequest {
    DownloadRequest { to: DestinationKind::Hf, ..DownloadRequest::new(reference) }
}

fn everything() -> DownloadRequest {
    DownloadRequest { files: vec!["*".to_owned()], ..to_hf(REPOSITORY) }
}

/// Every path below `root` with what it is: the text of a link, or the bytes and the mode of a file.
fn tree(root: &Path) -> BTreeMap<String, String> {
    let mut tree = BTreeMap::new();
    for entry in walkdir::WalkDir::new(root).sort_by_file_name().into_iter().map(Result::unwrap) {
        let name = entry.path().strip_prefix(root).unwrap().display().to_string();
        let kind = entry.file_type();
        let what = if kind.is_symlink() {
            format!("-> {}", fs::read_link(entry.path()).unwrap().display())
        } else if kind.is_dir() {
            "folder".to_owned()
        } else {
            let bytes = fs::read(entry.path()).unwrap();
            let text = String::from_utf8(bytes.clone()).unwrap_or_else(|_| format!("{} bytes", bytes.len()));
            // The client gives the listing to its owner alone, by an accident of `mkstemp`.
            let mode =
                if name.contains("/trees/") { 0 } else { entry.metadata().unwrap().permissions().mode() & 0o777 };
            format!("{mode:o} {text}")
        };
        tree.insert(name, what);
    }
    tree
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_repository_is_written_byte_for_byte_as_the_official_client_does() {
    let ours = Bench::new().await;
    if ours.official.is_none() {
        return;
    }
    ours.download(&everything()).await.unwrap();
    let written = tree(&ours.cache());
    fs::rename(ours.cache(), ours.home.path().join("ours")).unwrap();
    ours.hf(&["download", REPOSITORY]).await;
    assert_eq!(written, tree(&ours.cache()));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_here_is_whole_for_the_official_client() {
    let bench = Bench::new().await;
    let done = bench.download(&to_hf(REPOSITORY)).await.unwrap();
    let commit = fs::read_to_string(bench.repository().join("refs/main")).unwrap();
    assert_eq!(done.path, bench.repository().join("snapshots").join(&commit).join(FILE));
    assert_eq!(fs::read(&done.path).unwrap(), bench.weights);
    assert!(!bench.repository().join("trees").exists(), "a listing would make the client refuse this snapshot offline");
    if bench.official.is_none() {
        return;
    }
    let before = bench.hub.file_bytes_sent();
    let local = "import sys; from huggingface_hub import snapshot_download; \
        print(snapshot_download(sys.argv[1], local_files_only=True))";
    let snapshot = bench.python(local, REPOSITORY).await;
    assert_eq!(Path::new(snapshot.trim()), done.path.parent().unwrap());
    bench.hf(&["download", REPOSITORY, FILE]).await;
    assert_eq!(bench.hub.file_bytes_sent(), before, "the client fetched again what was there");
    assert_eq!(bench.listed().await, [REPOSITORY]);
    bench.hf(&["cache", "verify", REPOSITORY, "--fail-on-extra-files"]).await;

    bench.download(&everything()).await.unwrap();
    bench.hf(&["cache", "verify", REPOSITORY, "--fail-on-missing-files", "--fail-on-extra-files"]).await;
    let before = bench.hub.file_bytes_sent();
    bench.hf(&["download", REPOSITORY]).await;
    assert_eq!(bench.hub.file_bytes_sent(), before);
    bench.python(local, REPOSITORY).await;
    assert_eq!(bench.listed().await, [REPOSITORY]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_official_client_wrote_is_not_fetched_again() {
    let bench = Bench::new().await;
    if bench.official.is_none() {
        return;
    }
    bench.hf(&["download", REPOSITORY]).await;
    let (before, written) = (bench.hub.file_bytes_sent(), tree(&bench.cache()));
    for request in [everything(), to_hf(REPOSITORY), to_hf(&format!("{REPOSITORY}:Q8_0"))] {
        let done = bench.download(&request).await.unwrap();
        assert_eq!(done.fetched, 0);
    }
    assert_eq!(bench.hub.file_bytes_sent(), before);
    assert_eq!(tree(&bench.cache()), written, "nothing was to be changed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_of_another_revision_gets_a_name_and_no_byte_is_fetched() {
    let bench = Bench::new().await;
    bench.download(&everything()).await.unwrap();
    let first = fs::read_to_string(bench.repository().join("refs/main")).unwrap();
    bench.hub.put(REPOSITORY, "config.json", b"{\"model_type\":\"llama\", \"changed\": true}");
    let before = bench.hub.file_bytes_sent();
    let done = bench.download(&to_hf(REPOSITORY)).await.unwrap();
    let second = fs::read_to_string(bench.repository().join("refs/main")).unwrap();
    assert_ne!(first, second);
    assert_eq!((done.fetched, bench.hub.file_bytes_sent()), (0, before));
    assert_eq!(fs::read(&done.path).unwrap(), bench.weights);
    assert!(done.path.starts_with(bench.repository().join("snapshots").join(second)));
    // A blob that only has the right name and length is no proof for a new name.
    bench.hub.put(REPOSITORY, "config.json", b"{\"model_type\":\"llama\", \"changed\": 2}");
    let blob = fs::canonicalize(&done.path).unwrap();
    let mut wrong = bench.weights.clone();
    wrong[1000] ^= 1;
    fs::write(&blob, &wrong).unwrap();
    let done = bench.download(&to_hf(REPOSITORY)).await.unwrap();
    assert_eq!((done.fetched, fs::read(&done.path).unwrap()), (bench.weights.len() as u64, bench.weights.clone()));
    if bench.official.is_some() {
        bench.listed().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn force_replaces_the_blob_in_one_step_and_keeps_every_link() {
    let bench = Bench::new().await;
    let done = bench.download(&to_hf(REPOSITORY)).await.unwrap();
    let held = fs::File::open(&done.path).unwrap();
    let before = held.metadata().unwrap().ino();
    let done = bench.download(&DownloadRequest { force: true, ..to_hf(REPOSITORY) }).await.unwrap();
    assert_eq!(done.fetched, bench.weights.len() as u64);
    assert_ne!(fs::metadata(&done.path).unwrap().ino(), before);
    assert_eq!(held.metadata().unwrap().len(), bench.weights.len() as u64, "who has it open goes on reading");
    assert_eq!(fs::read(&done.path).unwrap(), bench.weights);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_links_the_snapshot_has_the_files_as_the_official_client_makes_them() {
    let bench = Bench::new().await;
    let provisioner = bench.configured(|builder| builder.symlinks(false));
    let silent: EventSink = Arc::new(|_| {});
    download(&provisioner, &everything(), &silent).await.unwrap();
    let blobs: Vec<_> = fs::read_dir(bench.repository().join("blobs")).unwrap().collect();
    assert!(blobs.is_empty(), "{blobs:?}");
    let written = tree(&bench.cache());
    assert!(!written.values().any(|what| what.starts_with("->")), "{written:?}");
    let again = download(&provisioner, &everything(), &silent).await.unwrap();
    assert_eq!(again.fetched, 0);
    assert_eq!(tree(&bench.cache()), written);
    if bench.official.is_some() {
        let before = bench.hub.file_bytes_sent();
        bench.hf(&["download", REPOSITORY]).await;
        assert_eq!(bench.hub.file_bytes_sent(), before);
        bench.hf(&["cache", "verify", REPOSITORY, "--fail-on-missing-files", "--fail-on-extra-files"]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn offline_what_is_here_is_enough() {
    let bench = Bench::new().await;
    bench.download(&to_hf(REPOSITORY)).await.unwrap();
    let offline = bench.configured(|builder| builder.offline(true));
    let silent: EventSink = Arc::new(|_| {});
    let requests = bench.hub.seen().len();
    for reference in [REPOSITORY.to_owned(), format!("{REPOSITORY}:Q4_K_M")] {
        assert_eq!(download(&offline, &to_hf(&reference), &silent).await.unwrap().fetched, 0);
    }
    let error = download(&offline, &to_hf(&format!("{REPOSITORY}:Q8_0")), &silent).await.unwrap_err();
    assert!(matches!(error, Error::Offline { .. }), "{error}");
    assert_eq!(bench.hub.seen().len(), requests);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_clients_lock_on_a_blob_is_waited_for_and_named() {
    let bench = Bench::new().await;
    let done = bench.download(&to_hf(REPOSITORY)).await.unwrap();
    let blob = fs::canonicalize(&done.path).unwrap();
    let etag = blob.file_name().unwrap().to_str().unwrap().to_owned();
    let lock = bench.cache().join(".locks").join(FOLDER).join(format!("{etag}.lock"));
    assert_eq!(fs::metadata(&lock).unwrap().permissions().mode() & 0o777, 0o664);
    fs::remove_file(&blob).unwrap();
    let held = FileLock::try_exclusive(&lock).unwrap().unwrap();
    let (told, mut heard) = tokio::sync::mpsc::unbounded_channel();
    let events: EventSink = Arc::new(move |event| {
        let _ = told.send(event);
    });
    let provisioner = bench.provisioner();
    let fetching = tokio::spawn(async move { download(&provisioner, &to_hf(REPOSITORY), &events).await });
    loop {
        if let TransferEvent::Waiting { why, .. } = heard.recv().await.unwrap() {
            assert!(why.ends_with("is fetching it"), "{why}");
            break;
        }
    }
    drop(held);
    assert_eq!(fetching.await.unwrap().unwrap().fetched, bench.weights.len() as u64);
    assert!(lock.exists(), "it stays after use");
}

#[tokio::test(flavor = "multi_thread")]
async fn both_at_once_fetch_every_byte_once() {
    let bench = Bench::new().await;
    if bench.official.is_none() {
        return;
    }
    // So slow that the client starts while the download runs.
    bench.hub.fault(Fault::on(FILE, What::Slow(150_000)).at_bytes());
    let provisioner = bench.provisioner();
    let (told, mut heard) = tokio::sync::mpsc::unbounded_channel();
    let events: EventSink = Arc::new(move |event| {
        let _ = told.send(event);
    });
    let ours = tokio::spawn(async move { download(&provisioner, &to_hf(REPOSITORY), &events).await });
    while !matches!(heard.recv().await.unwrap(), TransferEvent::FileStarted { .. }) {}
    let before = bench.hub.file_bytes_sent();
    bench.hf(&["download", REPOSITORY, FILE]).await;
    ours.await.unwrap().unwrap();
    let sent = bench.hub.file_bytes_sent();
    assert!(sent <= before.max(1) + bench.weights.len() as u64, "{sent} bytes were sent for {}", bench.weights.len());
    bench.hf(&["cache", "verify", REPOSITORY]).await;
    assert_eq!(bench.listed().await, [REPOSITORY]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_download_leaves_a_cache_without_fault_and_goes_on() {
    let bench = Bench::new().await;
    bench.hub.fault(Fault::on(FILE, What::Slow(150_000)).at_bytes().always());
    let provisioner = bench.provisioner();
    let plan = provisioner.plan_download(&to_hf(REPOSITORY)).await.unwrap();
    let cancel = CancellationToken::new();
    let stop = cancel.clone();
    let events: EventSink = Arc::new(move |event| {
        if matches!(event, TransferEvent::FileProgress { bytes, .. } if bytes > 100_000) {
            stop.cancel();
        }
    });
    let error = provisioner.download(&plan, &Options::default(), &events, &cancel).await.unwrap_err();
    assert!(error.is_cancelled(), "{error}");
    let partials = || {
        let names = fs::read_dir(bench.repository().join("blobs")).unwrap().map(|entry| entry.unwrap().file_name());
        names.filter(|name| name.to_str().unwrap().ends_with(".llorch")).count()
    };
    assert_eq!(partials(), 1);
    assert!(!bench.repository().join("refs").exists());
    if bench.official.is_some() {
        bench.listed().await;
        bench.hf(&["cache", "ls"]).await;
    }
    bench.hub.clear_faults();
    let before = bench.hub.file_bytes_sent();
    bench.download(&to_hf(REPOSITORY)).await.unwrap();
    assert!(bench.hub.file_bytes_sent() - before < bench.weights.len() as u64);
    assert_eq!(partials(), 0);

    fs::remove_dir_all(bench.repository()).unwrap();
    bench.hub.fault(Fault::on(FILE, What::Slow(150_000)).at_bytes().always());
    let cancel = CancellationToken::new();
    let stop = cancel.clone();
    let events: EventSink = Arc::new(move |event| {
        if matches!(event, TransferEvent::FileProgress { bytes, .. } if bytes > 100_000) {
            stop.cancel();
        }
    });
    provisioner.download(&plan, &Options::default(), &events, &cancel).await.unwrap_err();
    provisioner.discard(&to_hf(REPOSITORY)).await.unwrap();
    assert!(!bench.repository().exists(), "nothing but empty folders was left");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_did_not_come_from_a_hub_is_not_replaced() {
    let bench = Bench::new().await;
    let done = bench.download(&to_hf(REPOSITORY)).await.unwrap();
    fs::remove_file(&done.path).unwrap();
    fs::write(&done.path, b"my own").unwrap();
    let error = bench.download(&to_hf(REPOSITORY)).await.unwrap_err();
    assert!(matches!(&error, Error::Occupied { path, .. } if *path == done.path), "{error}");
    assert_eq!(fs::read(&done.path).unwrap(), b"my own");
    bench.download(&DownloadRequest { force: true, ..to_hf(REPOSITORY) }).await.unwrap();
    assert_eq!(fs::read(&done.path).unwrap(), bench.weights);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_in_the_shared_store_counts_as_there() {
    let bench = Bench::new().await;
    let done = bench.download(&to_hf(REPOSITORY)).await.unwrap();
    let blob = fs::canonicalize(&done.path).unwrap();
    let hash = format!("ab{}", "0".repeat(62));
    let shared = bench.cache().join("blobs/ab");
    fs::create_dir_all(&shared).unwrap();
    fs::write(bench.cache().join("blobs/.huggingface-shared-blobs"), "1\n").unwrap();
    fs::rename(&blob, shared.join(&hash)).unwrap();
    std::os::unix::fs::symlink(format!("../../blobs/ab/{hash}"), &blob).unwrap();
    let before = tree(&bench.cache());
    assert_eq!(bench.download(&to_hf(REPOSITORY)).await.unwrap().fetched, 0);
    // Also for another revision, which gets the name.
    fs::remove_file(&done.path).unwrap();
    assert_eq!(bench.download(&to_hf(REPOSITORY)).await.unwrap().fetched, 0);
    assert_eq!(tree(&bench.cache()), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_newer_on_the_hub_is_told_for_the_cache_too() {
    let bench = Bench::new().await;
    bench.download(&everything()).await.unwrap();
    let provisioner = bench.provisioner();
    let never = CancellationToken::new();
    assert_eq!(provisioner.updates(&[], &never).await.unwrap(), []);
    let pinned = fs::read_to_string(bench.repository().join("refs/main")).unwrap();
    bench.hub.put(REPOSITORY, "config.json", b"{\"model_type\":\"llama\", \"changed\": true}");
    for names in [vec![], vec![REPOSITORY.to_owned()], vec![format!("hf:{REPOSITORY}")]] {
        let updates = provisioner.updates(&names, &never).await.unwrap();
        let [update] = &updates[..] else { panic!("{names:?}: {updates:?}") };
        assert_eq!((update.model.id.as_str(), &update.pinned), (REPOSITORY, &pinned));
        assert_eq!(update.files.iter().map(|file| file.path.as_str()).collect::<Vec<_>>(), ["config.json"]);
    }
    assert!(matches!(
        provisioner.updates(&["hf:org/unknown".to_owned()], &never).await,
        Err(Error::ModelNotFound { .. })
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_projector_comes_along_when_it_is_wanted() {
    let bench = Bench::new().await;
    bench.hub.put_noise(REPOSITORY, "mmproj-F16.gguf", 50_000);
    bench.hub.put_noise(REPOSITORY, "mmproj-F32.gguf", 90_000);
    for to in [DestinationKind::Hf, DestinationKind::Flat] {
        let request = DownloadRequest { to, ..DownloadRequest::new(REPOSITORY) };
        let names = |done: Downloaded| -> Vec<String> {
            done.paths.iter().map(|path| path.file_name().unwrap().to_str().unwrap().to_owned()).collect()
        };
        assert_eq!(names(bench.download(&request).await.unwrap()), [FILE]);
        let request = DownloadRequest { mmproj: true, ..request };
        let done = bench.download(&request).await.unwrap();
        assert_eq!((done.path.file_name().unwrap().to_str(), done.fetched), (Some(FILE), 50_000));
        assert_eq!(names(done), [FILE, "mmproj-F16.gguf"]);
        assert_eq!(bench.download(&request).await.unwrap().fetched, 0);
    }
}
