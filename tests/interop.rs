//! What the official client makes of what is written here, and the other way round.
#![cfg(feature = "mirror")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use std::fs;
use std::path::Path;

use rbee_hive::disk::deletion::{self, NoHook};
use rbee_hive::format::gguf::{TensorType, Writer};
use rbee_hive::model::FileStatus;
use rbee_hive::provisioner::ModelProvisioner;
use support::hub::TestHub;
use support::official::{Official, stdout};
use tokio_util::sync::CancellationToken;

const REPOSITORY: &str = "org/Judged-GGUF";
const FILE: &str = "judged-Q4_K_M.gguf";

async fn hub() -> (TestHub, Vec<u8>) {
    let hub = TestHub::start().await;
    hub.put(REPOSITORY, "config.json", b"{\"model_type\":\"llama\"}");
    let weights = hub.put_noise(REPOSITORY, FILE, 3_000_000);
    (hub, weights)
}

/// Runs something that blocks while the hub goes on serving.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_mirror_is_a_hub_to_the_official_client() {
    let Some(official) = Official::find() else { return };
    let (hub, weights) = hub().await;
    let scratch = tempfile::tempdir().unwrap();
    let (endpoint, home, target) = (hub.endpoint(), scratch.path().to_owned(), scratch.path().join("target"));
    let folder = target.clone();
    blocking(move || {
        stdout(&official.hf(&home, &endpoint, &["download", REPOSITORY, "--local-dir", folder.to_str().unwrap()]));
        stdout(&official.hf(&home, &endpoint, &["download", REPOSITORY]));
    })
    .await;
    assert_eq!(fs::read(target.join(FILE)).unwrap(), weights);
    assert_eq!(fs::read(target.join("config.json")).unwrap(), b"{\"model_type\":\"llama\"}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_was_filled_here_is_up_to_date_for_the_official_client() {
    let Some(official) = Official::find() else { return };
    let (hub, _) = hub().await;
    let scratch = tempfile::tempdir().unwrap();
    let base = scratch.path().join("models");
    let provisioner = ModelProvisioner::builder(base).endpoint(hub.endpoint()).build();
    let path = provisioner.download_model(REPOSITORY, "hf").await.unwrap();
    let before = hub.file_bytes_sent();
    let (endpoint, home) = (hub.endpoint(), scratch.path().to_owned());
    let folder = path.parent().unwrap().to_str().unwrap().to_owned();
    blocking(move || stdout(&official.hf(&home, &endpoint, &["download", REPOSITORY, FILE, "--local-dir", &folder])))
        .await;
    assert_eq!(hub.file_bytes_sent(), before, "the official client fetched again what was there");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_the_official_client_filled_is_verified_and_not_fetched_again() {
    let Some(official) = Official::find() else { return };
    let (hub, _) = hub().await;
    let scratch = tempfile::tempdir().unwrap();
    let base = scratch.path().join("models");
    let folder = base.join("judged-gguf");
    let (endpoint, home, target) = (hub.endpoint(), scratch.path().to_owned(), folder.clone());
    blocking(move || {
        stdout(&official.hf(&home, &endpoint, &["download", REPOSITORY, "--local-dir", target.to_str().unwrap()]))
    })
    .await;

    let provisioner = ModelProvisioner::builder(base).endpoint(hub.endpoint()).build();
    let checked = provisioner.clone();
    let verification =
        blocking(move || checked.verify_checksums("judged-gguf", &mut |_| {}, &CancellationToken::new()).unwrap())
            .await;
    let weights = verification.files.iter().find(|file| file.path == FILE).unwrap();
    assert_eq!((weights.status, weights.algorithm.as_deref()), (FileStatus::Ok, Some("sha256")), "{verification:?}");

    let before = hub.file_bytes_sent();
    let path = provisioner.download_model(REPOSITORY, "hf").await.unwrap();
    assert_eq!(path, folder.join(FILE));
    assert_eq!(hub.file_bytes_sent(), before, "a file that was there was fetched again");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_python_reader_agrees_with_the_header_reader() {
    let Some(official) = Official::find() else { return };
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("agreed-Q8_0.gguf");
    write_model(&path);
    let header = rbee_hive::format::read_metadata(&fs::File::open(&path).unwrap(), "agreed-Q8_0.gguf").unwrap();
    let script = "import sys, gguf; r = gguf.GGUFReader(sys.argv[1]); \
        print(sum(int(t.n_elements) for t in r.tensors), sum(int(t.n_bytes) for t in r.tensors), \
        r.fields['general.architecture'].contents(), r.fields['llama.context_length'].contents())";
    let home = scratch.path().to_owned();
    let text = blocking(move || stdout(&official.python(&home, script, &[path.to_str().unwrap()]))).await;
    let expected = format!(
        "{} {} {} {}",
        header.parameters.unwrap(),
        header.tensor_bytes.unwrap(),
        header.architecture.unwrap(),
        header.context_length.unwrap()
    );
    assert_eq!(text.trim(), expected);
}

fn write_model(path: &Path) {
    const Q8_0: TensorType = TensorType::Q8_0;
    const F32: TensorType = TensorType::F32;
    let mut file = fs::File::create(path).unwrap();
    Writer::new("llama")
        .key("llama.context_length", 4096_u32)
        .key("general.file_type", 7_u32)
        .tensor("token_embd.weight", &[128, 64], Q8_0)
        .tensor("output_norm.weight", &[128], F32)
        .write_to(&mut file, 7)
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cache_that_the_official_client_filled_is_counted_and_emptied_without_a_fault() {
    use rbee_hive::store::hf::HfStore;
    use rbee_hive::store::{Part, Store, Target};

    let Some(official) = Official::find() else { return };
    const OTHER: &str = "org/Bystander";
    let hub = TestHub::start().await;
    hub.put_noise(REPOSITORY, FILE, 700_000);
    hub.put(REPOSITORY, "config.json", b"{\"model_type\":\"llama\"}");
    hub.put_noise(OTHER, "model.bin", 300_000);
    hub.put(OTHER, "sub/config.json", b"{}");
    let scratch = tempfile::tempdir().unwrap();
    let home = scratch.path().canonicalize().unwrap();
    let official = std::sync::Arc::new(official);
    let hf = |arguments: &[&str]| {
        let (official, home, endpoint) = (official.clone(), home.clone(), hub.endpoint());
        let arguments: Vec<String> = arguments.iter().map(|&argument| argument.to_owned()).collect();
        blocking(move || {
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            stdout(&official.hf(&home, &endpoint, &arguments))
        })
    };
    hf(&["download", REPOSITORY]).await;
    hf(&["download", OTHER]).await;
    // A second revision: one file changes, one stays, one is new. The first is then detached.
    hub.put(REPOSITORY, "config.json", b"{\"model_type\":\"llama\", \"changed\": true}");
    hub.put_noise(REPOSITORY, "other-Q8_0.gguf", 500_000);
    hf(&["download", REPOSITORY]).await;

    let root = home.join("hf/hub");
    let store = HfStore::new(root.clone());
    let rows = || {
        let mut rows = std::collections::BTreeMap::new();
        let mut sink = |row: rbee_hive::store::Row| drop(rows.insert(row.model.identity.id.clone(), row.model));
        let summary = store.scan(&mut sink, &CancellationToken::new());
        assert_eq!(summary.warnings, [] as [String; 0]);
        rows
    };
    // What `hf cache ls` prints is rounded; this is where it has it from.
    let scan = "import json; from huggingface_hub import scan_cache_dir; found = scan_cache_dir(); \
        print(json.dumps([{r.repo_id: r.size_on_disk for r in found.repos}, [str(w) for w in found.warnings]]))";
    let listed = || {
        let (official, home) = (official.clone(), home.clone());
        blocking(move || {
            let text = stdout(&official.python(&home, scan, &[]));
            let (sizes, warnings): (std::collections::BTreeMap<String, u64>, Vec<String>) =
                serde_json::from_str(&text).unwrap();
            assert_eq!(warnings, [] as [String; 0]);
            sizes
        })
    };
    let check = async |what: &str| {
        let theirs = listed().await;
        let ours = rows().into_iter().map(|(id, row)| (id, row.size_bytes)).collect();
        assert_eq!(theirs, ours, "{what}");
        let names: Vec<serde_json::Value> =
            serde_json::from_str(&hf(&["cache", "ls", "--show-warnings", "--format", "json"]).await).unwrap();
        assert_eq!(names.len(), theirs.len(), "{names:?}");
        for id in theirs.keys() {
            hf(&["cache", "verify", id, "--fail-on-missing-files", "--fail-on-extra-files"]).await;
        }
    };
    check("as downloaded").await;
    let details = store.details(REPOSITORY).unwrap();
    assert_eq!(details.revisions.len(), 2);
    let detached = details.revisions.iter().find(|revision| revision.refs.is_empty()).unwrap().clone();

    let delete = |target: Target| {
        let plan = store.plan_deletion(&[target]).unwrap();
        let report = deletion::run(&plan, &mut NoHook, &|_| false, &mut |_, _| {}, &CancellationToken::new());
        assert_eq!((report.failed.len(), report.freed_bytes), (0, plan.expected_bytes));
        assert!(report.freed_bytes > 0);
    };
    delete(Target { id: REPOSITORY.to_owned(), part: Part::Revision(detached.commit) });
    assert_eq!(store.details(REPOSITORY).unwrap().revisions.len(), 1);
    check("without the detached revision").await;
    delete(Target { id: REPOSITORY.to_owned(), part: Part::Whole });
    check("without the repository").await;
    assert_eq!(rows().into_keys().collect::<Vec<_>>(), [OTHER]);
}
