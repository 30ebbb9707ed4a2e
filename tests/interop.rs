//! What the official client makes of what is written here, and the other way round.
#![cfg(feature = "mirror")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use std::fs;
use std::path::Path;

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
