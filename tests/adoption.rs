//! Unfinished downloads of other programs: their bytes are not fetched again, and their files stay.
#![cfg(feature = "mirror")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use rbee_hive::model::DestinationKind;
use rbee_hive::provisioner::{DownloadRequest, Downloaded, ModelProvisioner};
use rbee_hive::transfer::{EventSink, Options};
use sha1::{Digest as _, Sha1};
use sha2::Sha256;
use support::hub::TestHub;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

const REPOSITORY: &str = "org/Begun-GGUF";
const FILE: &str = "begun-Q4_K_M.gguf";
const SIZE: usize = 900_000;
const HAD: usize = 600_000;

struct Bench {
    hub: TestHub,
    home: TempDir,
    weights: Vec<u8>,
    etag: String,
}

impl Bench {
    async fn new() -> Self {
        let hub = TestHub::start().await;
        let weights = hub.put_noise(REPOSITORY, FILE, SIZE);
        let etag = hex(&Sha256::digest(&weights));
        Self { hub, home: tempfile::tempdir().unwrap(), weights, etag }
    }

    fn blobs(&self) -> PathBuf {
        self.home.path().join("hub/models--org--Begun-GGUF/blobs")
    }

    fn folder(&self) -> PathBuf {
        self.home.path().join("models/begun-gguf")
    }

    /// Downloads, checks the result, and gives the bytes that came over the network.
    async fn fetched(&self, to: DestinationKind) -> u64 {
        let provisioner = ModelProvisioner::builder(self.home.path().join("models"))
            .endpoint(self.hub.endpoint())
            .hf_cache(self.home.path().join("hub"))
            .build();
        let request = DownloadRequest { to, ..DownloadRequest::new(REPOSITORY) };
        let silent: EventSink = Arc::new(|_| {});
        let plan = provisioner.plan_download(&request).await.unwrap();
        let Downloaded { path, fetched, .. } =
            provisioner.download(&plan, &Options::default(), &silent, &CancellationToken::new()).await.unwrap();
        assert_eq!(fs::read(path).unwrap(), self.weights);
        fetched
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn put(path: &Path, bytes: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_clients_of_the_cache_began_is_gone_on_with() {
    for suffix in ["incomplete", "part", "downloadInProgress"] {
        let bench = Bench::new().await;
        let theirs = bench.blobs().join(format!("{}.{suffix}", bench.etag));
        put(&theirs, &bench.weights[..HAD]);
        assert_eq!(bench.fetched(DestinationKind::Hf).await, (SIZE - HAD) as u64, "{suffix}");
        assert_eq!(fs::read(&theirs).unwrap(), &bench.weights[..HAD], "{suffix}: it is not ours to change");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_hf_and_llama_cpp_began_in_a_folder_is_gone_on_with() {
    let bench = Bench::new().await;
    let names = [
        format!("{FILE}.downloadInProgress"),
        format!(".cache/huggingface/download/{FILE}.{}.incomplete", bench.etag),
        format!(".huggingface/download/{FILE}.{}.incomplete", bench.etag),
    ];
    for name in names {
        let bench = Bench::new().await;
        put(&bench.folder().join(&name), &bench.weights[..HAD]);
        assert_eq!(bench.fetched(DestinationKind::Flat).await, (SIZE - HAD) as u64, "{name}");
        assert!(bench.folder().join(&name).exists(), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_prefix_is_left_alone_or_found_out() {
    let left_alone = |bytes: Vec<u8>, suffix: &'static str| async move {
        let bench = Bench::new().await;
        put(&bench.blobs().join(format!("{}.{suffix}", bench.etag)), &bytes);
        bench.fetched(DestinationKind::Hf).await
    };
    let weights = Bench::new().await.weights;
    assert_eq!(left_alone(weights[..HAD].to_vec(), "sync.part").await, SIZE as u64);
    assert_eq!(left_alone(weights[..HAD].to_vec(), "0123abcd.incomplete").await, SIZE as u64);
    assert_eq!(left_alone(weights.clone(), "incomplete").await, SIZE as u64, "nothing is missing of it");
    // Wrong bytes are found out in the end, and everything is fetched anew, once.
    let mut wrong = weights[..HAD].to_vec();
    wrong[7] ^= 1;
    assert_eq!(left_alone(wrong, "incomplete").await, (SIZE - HAD + SIZE) as u64);

    let bench = Bench::new().await;
    let sparse = bench.blobs().join(format!("{}.incomplete", bench.etag));
    put(&sparse, b"");
    fs::File::options().write(true).open(&sparse).unwrap().set_len(HAD as u64).unwrap();
    assert_eq!(bench.fetched(DestinationKind::Hf).await, SIZE as u64, "bytes that never came");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_process_holds_or_locks_is_left_alone() {
    let bench = Bench::new().await;
    let theirs = bench.blobs().join(format!("{}.incomplete", bench.etag));
    put(&theirs, &bench.weights[..HAD]);
    let file = fs::File::open(&theirs).unwrap();
    let mut holder = Command::new("sleep").arg("600").stdin(Stdio::from(file)).spawn().unwrap();
    let fetched = bench.fetched(DestinationKind::Hf).await;
    holder.kill().unwrap();
    holder.wait().unwrap();
    assert_eq!(fetched, SIZE as u64);

    let bench = Bench::new().await;
    put(&bench.blobs().join(format!("{}.part", bench.etag)), &bench.weights[..HAD]);
    let lock = bench.blobs().join(format!("{}.lock", bench.etag));
    let _held = rbee_hive::disk::lock::FileLock::try_exclusive(&lock).unwrap().unwrap();
    assert_eq!(bench.fetched(DestinationKind::Hf).await, SIZE as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_name_that_hf_gives_a_partial_in_a_folder_is_known() {
    let bench = Bench::new().await;
    let key = Sha1::digest(format!("{FILE}.metadata"));
    let name = format!("{}.{}.incomplete", base64(&key), bench.etag);
    put(&bench.folder().join(".cache/huggingface/download").join(name), &bench.weights[..HAD]);
    assert_eq!(bench.fetched(DestinationKind::Flat).await, (SIZE - HAD) as u64);
}

/// By the tool that every system has, so that it is not our own reading of the format that is tested.
fn base64(bytes: &[u8]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x");
    fs::write(&path, bytes).unwrap();
    let output = Command::new("base64").arg("-w0").arg(&path).output().unwrap();
    String::from_utf8(output.stdout).unwrap().replace('+', "-").replace('/', "_")
}
