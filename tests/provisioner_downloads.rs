//! Downloads from a reference to published files, against a hub on loopback.
#![cfg(feature = "mirror")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use rbee_hive::Error;
use rbee_hive::mirror::{Facts, Gate};
use rbee_hive::provisioner::{DestinationKind, DownloadRequest, Downloaded, ModelProvisioner};
use rbee_hive::transfer::{EventSink, Options, TransferEvent};
use support::hub::{Fault, TestHub, What, noise};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

const REPOSITORY: &str = "org/Model-GGUF";

/// A hub and an empty base folder beside it.
struct Bench {
    hub: TestHub,
    scratch: TempDir,
    provisioner: ModelProvisioner,
}

impl Bench {
    async fn new() -> Self {
        Self::with(TestHub::start().await, None)
    }

    fn with(hub: TestHub, token: Option<&str>) -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let base = scratch.path().join("models");
        let provisioner =
            ModelProvisioner::builder(base).endpoint(hub.endpoint()).token(token).transfer(impatient()).build();
        Self { hub, scratch, provisioner }
    }

    fn base(&self) -> PathBuf {
        self.scratch.path().join("models")
    }

    /// The same base folder with a hub that nobody answers at.
    fn without_network(&self) -> ModelProvisioner {
        let gone = self.hub.endpoint();
        ModelProvisioner::builder(self.base()).endpoint(gone).offline(true).build()
    }

    async fn run(&self, request: &DownloadRequest) -> Result<Downloaded, Error> {
        self.run_watched(request, &(Arc::new(|_| {}) as EventSink), &CancellationToken::new()).await
    }

    async fn run_watched(
        &self,
        request: &DownloadRequest,
        events: &EventSink,
        cancel: &CancellationToken,
    ) -> Result<Downloaded, Error> {
        let plan = self.provisioner.plan_download(request).await?;
        self.provisioner.download(&plan, &impatient(), events, cancel).await
    }

    /// Runs a download from a slow hub and cancels it when so many bytes are there.
    async fn cancelled_after(&self, request: &DownloadRequest, enough: u64) -> Result<Downloaded, Error> {
        self.hub.fault(Fault::on("", What::Slow(4 << 20)).at_bytes());
        let cancel = CancellationToken::new();
        let sink: EventSink = {
            let cancel = cancel.clone();
            Arc::new(move |event| {
                if matches!(event, TransferEvent::FileProgress { bytes, .. } if bytes >= enough) {
                    cancel.cancel();
                }
            })
        };
        self.run_watched(request, &sink, &cancel).await
    }

    async fn fetch(&self, reference: &str) -> PathBuf {
        self.provisioner.download_model(reference, "hf").await.unwrap()
    }

    async fn refusal(&self, reference: &str) -> Error {
        self.provisioner.download_model(reference, "hf").await.unwrap_err()
    }

    /// Every file below the base folder that is no bookkeeping, relative to it.
    fn files(&self) -> Vec<String> {
        files_below(&self.base(), false)
    }

    fn nothing_was_written(&self) {
        assert_eq!(files_below(&self.base(), true), Vec::<String>::new());
    }
}

/// What a test can wait for.
fn impatient() -> Options {
    let minute = std::time::Duration::from_secs(60);
    Options { first_byte: Some(minute), stall: minute, patience: Some(minute), ..Options::default() }
}

fn files_below(root: &Path, hidden: bool) -> Vec<String> {
    fn walk(root: &Path, folder: &Path, hidden: bool, out: &mut Vec<String>) {
        let Ok(entries) = fs::read_dir(folder) else { return };
        for entry in entries {
            let entry = entry.unwrap();
            let is_hidden = entry.file_name().to_str().is_some_and(|name| name.starts_with('.'));
            if entry.file_type().unwrap().is_dir() {
                if hidden || !is_hidden {
                    walk(root, &entry.path(), hidden, out);
                }
            } else {
                out.push(entry.path().strip_prefix(root).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    let mut out = Vec::new();
    walk(root, root, hidden, &mut out);
    out.sort();
    out
}

fn request(reference: &str) -> DownloadRequest {
    DownloadRequest::new(reference)
}

#[tokio::test]
async fn a_sharded_quantization_in_a_subfolder_is_one_download() {
    let bench = Bench::new().await;
    let first = bench.hub.put_noise(REPOSITORY, "Q8_0/m-Q8_0-00001-of-00002.gguf", 20_000);
    bench.hub.put_noise(REPOSITORY, "Q8_0/m-Q8_0-00002-of-00002.gguf", 10_000);
    bench.hub.put_noise(REPOSITORY, "m-Q4_K_M.gguf", 5_000);
    bench.hub.put_noise(REPOSITORY, "mmproj-F16.gguf", 5_000);
    let path = bench.fetch(&format!("{REPOSITORY}:q8_0")).await;
    assert!(path.ends_with("model-gguf/Q8_0/m-Q8_0-00001-of-00002.gguf"), "{}", path.display());
    assert_eq!(fs::read(&path).unwrap(), first);
    assert_eq!(
        bench.files(),
        ["model-gguf/Q8_0/m-Q8_0-00001-of-00002.gguf", "model-gguf/Q8_0/m-Q8_0-00002-of-00002.gguf"]
    );
    assert_eq!(bench.provisioner.find_local_model(REPOSITORY), Some(path));
    let checked = bench.provisioner.verify_checksums(REPOSITORY, &mut |_| {}, &CancellationToken::new()).unwrap();
    assert!(checked.ok && checked.files.len() == 2, "{checked:?}");
}

#[tokio::test]
async fn the_default_is_q4_k_m_and_its_record_says_where_it_came_from() {
    let bench = Bench::new().await;
    for name in ["m-Q2_K.gguf", "m-Q4_K_M.gguf", "m-Q8_0.gguf"] {
        bench.hub.put_noise(REPOSITORY, name, 5_000);
    }
    bench.fetch(REPOSITORY).await;
    assert_eq!(bench.files(), ["model-gguf/m-Q4_K_M.gguf"]);
    let folder = bench.base().join("model-gguf");
    let record = fs::read_to_string(folder.join(".cache/llorch-models/source.json")).unwrap();
    let record: serde_json::Value = serde_json::from_str(&record).unwrap();
    assert_eq!(record["repository"], REPOSITORY);
    assert_eq!(record["revision"], "main");
    assert_eq!(record["endpoint"], bench.hub.endpoint());
    assert_eq!(record["files"][0]["path"], "m-Q4_K_M.gguf");
    assert!(folder.join(".cache/huggingface/download/m-Q4_K_M.gguf.metadata").exists());
    let tree = folder.join(format!(".cache/huggingface/trees/{}.json", record["commit"].as_str().unwrap()));
    let tree: serde_json::Value = serde_json::from_str(&fs::read_to_string(tree).unwrap()).unwrap();
    assert_eq!(tree["files"].as_object().unwrap().len(), 3, "the listing is complete");
}

#[tokio::test]
async fn a_safetensors_repository_gives_weights_configuration_and_tokenizer() {
    let bench = Bench::new().await;
    for name in ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "pytorch_model.bin"] {
        bench.hub.put_noise("org/base", name, 5_000);
    }
    for name in ["config.json", "tokenizer.json", "model.safetensors.index.json", "original/params.json", "README.md"] {
        bench.hub.put("org/base", name, b"{}");
    }
    let path = bench.fetch("org/base").await;
    assert!(path.ends_with("base/model.safetensors.index.json"), "{}", path.display());
    assert_eq!(
        bench.files(),
        [
            "base/config.json",
            "base/model-00001-of-00002.safetensors",
            "base/model-00002-of-00002.safetensors",
            "base/model.safetensors.index.json",
            "base/tokenizer.json"
        ]
    );
    assert_eq!(bench.provisioner.find_local_model("org/base"), Some(path));
}

#[tokio::test]
async fn what_is_whole_fetches_nothing_and_needs_no_hub() {
    let bench = Bench::new().await;
    bench.hub.put_noise(REPOSITORY, "m-Q2_K.gguf", 5_000);
    bench.hub.put_noise(REPOSITORY, "m-Q6_K.gguf", 5_000);
    let path = bench.fetch(REPOSITORY).await;
    bench.hub.forget();
    assert_eq!(bench.fetch(REPOSITORY).await, path);
    assert_eq!(bench.hub.seen().len(), 0, "no request at all");
    for reference in [REPOSITORY, "org/Model-GGUF:Q2_K", "model-gguf"] {
        let path_again = bench.without_network().download_model(reference, "hf").await.unwrap();
        assert_eq!(path_again, path, "{reference}");
    }
    // What the record cannot prove needs the hub.
    assert!(matches!(
        bench.without_network().download_model("org/Model-GGUF:Q6_K", "hf").await,
        Err(Error::Offline { .. })
    ));
    let finished = Arc::new(Mutex::new(Vec::new()));
    let sink: EventSink = {
        let finished = Arc::clone(&finished);
        Arc::new(move |event| finished.lock().unwrap().push(event))
    };
    let done = bench.run_watched(&request(REPOSITORY), &sink, &CancellationToken::new()).await.unwrap();
    assert_eq!((done.fetched, done.path), (0, path));
    let events = finished.lock().unwrap();
    assert!(
        matches!(
            events.as_slice(),
            [TransferEvent::Started { total: 5_000, .. }, TransferEvent::FileFinished { fetched: 0, .. }]
        ),
        "{events:?}"
    );
}

#[tokio::test]
async fn a_revision_asks_the_hub_and_fetches_nothing_when_it_is_the_same() {
    let bench = Bench::new().await;
    bench.hub.put_noise(REPOSITORY, "m-Q4_K_M.gguf", 5_000);
    bench.fetch(REPOSITORY).await;
    bench.hub.forget();
    let done = bench.run(&request("org/Model-GGUF@main")).await.unwrap();
    assert_eq!(done.fetched, 0);
    assert!(bench.hub.count("/api/models/") > 0);
    assert_eq!(bench.hub.file_bytes_sent(), 0);
}

#[tokio::test]
async fn force_fetches_again() {
    let bench = Bench::new().await;
    let bytes = bench.hub.put_noise(REPOSITORY, "m-Q4_K_M.gguf", 50_000);
    let path = bench.fetch(REPOSITORY).await;
    let done = bench.run(&DownloadRequest { force: true, ..request(REPOSITORY) }).await.unwrap();
    assert_eq!(done.fetched, 50_000);
    assert_eq!(fs::read(path).unwrap(), bytes);
}

#[tokio::test]
async fn a_cancelled_download_goes_on_where_it_stopped() {
    const SIZE: usize = 3 << 20;
    let bench = Bench::new().await;
    let bytes = bench.hub.put_noise(REPOSITORY, "m-Q4_K_M.gguf", SIZE);
    let ended = bench.cancelled_after(&request(REPOSITORY), 1 << 20).await;
    assert!(ended.as_ref().is_err_and(Error::is_cancelled), "{ended:?}");
    assert!(!bench.base().join("model-gguf/m-Q4_K_M.gguf").exists());
    assert!(bench.files().iter().any(|file| file.ends_with(".llorch")), "{:?}", bench.files());
    let done = bench.run(&request(REPOSITORY)).await.unwrap();
    assert!(done.fetched <= (SIZE as u64) - (1 << 19), "{} bytes were fetched again", done.fetched);
    assert_eq!(fs::read(done.path).unwrap(), bytes);
    assert_eq!(bench.files(), ["model-gguf/m-Q4_K_M.gguf"]);
}

/// The one partial file below the base folder.
fn partial(bench: &Bench) -> PathBuf {
    let name = bench.files().into_iter().find(|file| file.ends_with(".llorch")).unwrap();
    bench.base().join(name)
}

#[tokio::test]
async fn bytes_beyond_the_end_of_a_partial_are_never_published() {
    const SIZE: usize = 3 << 20;
    let bench = Bench::new().await;
    let bytes = bench.hub.put_noise(REPOSITORY, "m-Q4_K_M.gguf", SIZE);
    bench.cancelled_after(&request(REPOSITORY), 1 << 20).await.unwrap_err();
    fs::OpenOptions::new().write(true).open(partial(&bench)).unwrap().set_len(SIZE as u64 + 5_000).unwrap();
    let done = bench.run(&request(REPOSITORY)).await.unwrap();
    assert!(fs::read(done.path).unwrap() == bytes);
}

#[tokio::test]
async fn the_partial_of_an_older_version_goes_when_the_new_one_is_there() {
    let bench = Bench::new().await;
    bench.hub.put_noise(REPOSITORY, "m-Q4_K_M.gguf", 3 << 20);
    bench.cancelled_after(&request(REPOSITORY), 1 << 20).await.unwrap_err();
    let old = partial(&bench);
    let bytes = noise(3 << 20, "another version");
    bench.hub.put(REPOSITORY, "m-Q4_K_M.gguf", &bytes);
    let done = bench.run(&request(REPOSITORY)).await.unwrap();
    assert!(fs::read(&done.path).unwrap() == bytes);
    assert_eq!(bench.files(), ["model-gguf/m-Q4_K_M.gguf"]);

    // Left by a crash after the file was published: the next look takes it away, too.
    fs::write(old.with_extension("llorch.json"), b"").unwrap();
    assert_eq!(bench.run(&request(REPOSITORY)).await.unwrap().fetched, 0);
    assert_eq!(bench.files(), ["model-gguf/m-Q4_K_M.gguf"]);
}

#[tokio::test]
async fn what_a_stop_between_two_files_leaves_is_recorded_truthfully() {
    let bench = Bench::new().await;
    for name in ["a.safetensors", "b.safetensors"] {
        // Small files would be fetched beside each other.
        bench.hub.put_noise("org/base", name, 2 << 20);
    }
    bench.hub.fault(Fault::on("b.safetensors", What::Stall(0)).at_bytes());
    let cancel = CancellationToken::new();
    let sink: EventSink = {
        let cancel = cancel.clone();
        Arc::new(move |event| {
            if matches!(event, TransferEvent::FileFinished { .. }) {
                cancel.cancel();
            }
        })
    };
    let ended = bench.run_watched(&request("org/base"), &sink, &cancel).await;
    assert!(ended.as_ref().is_err_and(Error::is_cancelled), "{ended:?}");
    let published: Vec<String> = bench.files().into_iter().filter(|file| !file.contains(".llorch")).collect();
    assert_eq!(published, ["base/a.safetensors"]);
    let record = fs::read_to_string(bench.base().join("base/.cache/llorch-models/source.json")).unwrap();
    let record: serde_json::Value = serde_json::from_str(&record).unwrap();
    let recorded: Vec<&str> =
        record["files"].as_array().unwrap().iter().map(|file| file["path"].as_str().unwrap()).collect();
    assert_eq!(recorded, ["a.safetensors"]);
    let done = bench.run(&request("org/base")).await.unwrap();
    assert_eq!(done.fetched, 2 << 20, "only the other file is fetched");
    assert_eq!(bench.without_network().download_model("org/base", "hf").await.unwrap(), done.path);
}

#[tokio::test]
async fn discarding_takes_the_partial_and_an_empty_folder_away() {
    let bench = Bench::new().await;
    bench.hub.put_noise(REPOSITORY, "m-Q4_K_M.gguf", 2 << 20);
    bench.cancelled_after(&request(REPOSITORY), 1).await.unwrap_err();
    assert!(bench.files().iter().any(|file| file.ends_with(".llorch.json")), "{:?}", bench.files());
    bench.without_network().discard(&request(REPOSITORY)).await.unwrap();
    assert_eq!(bench.files(), Vec::<String>::new());
    assert!(!bench.base().join("model-gguf").exists());
    bench.without_network().discard(&request(REPOSITORY)).await.unwrap();
}

#[tokio::test]
async fn two_repositories_with_the_same_last_part_get_two_folders() {
    let bench = Bench::new().await;
    let alice = bench.hub.put_noise("alice/Model-GGUF", "m-Q4_K_M.gguf", 5_000);
    let bob = noise(6_000, "bob");
    bench.hub.put("bob/Model-GGUF", "m-Q4_K_M.gguf", &bob);
    let of_alice = bench.fetch("alice/Model-GGUF").await;
    let of_bob = bench.fetch("bob/Model-GGUF").await;
    assert_ne!(of_alice.parent(), of_bob.parent());
    assert_eq!(fs::read(&of_alice).unwrap(), alice);
    assert_eq!(fs::read(&of_bob).unwrap(), bob);
    assert_eq!(bench.provisioner.find_local_model("bob/Model-GGUF"), Some(of_bob.clone()));
    bench.provisioner.delete_model("alice/Model-GGUF").unwrap();
    assert!(!of_alice.exists() && of_bob.exists());
    assert_eq!(bench.provisioner.find_local_model("alice/Model-GGUF"), None);
}

const QWEN: &str = "Qwen/Qwen2.5-0.5B-Instruct-GGUF";
const QWEN_FP16: &str = "qwen2.5-0.5b-instruct-fp16.gguf";

#[tokio::test]
async fn the_file_of_an_alias_in_an_old_shared_folder_is_recognised() {
    let bench = Bench::new().await;
    let bytes = bench.hub.put_noise(QWEN, QWEN_FP16, 9_000);
    let old = bench.base().join("qwen").join(QWEN_FP16);
    fs::create_dir_all(old.parent().unwrap()).unwrap();
    fs::write(&old, &bytes).unwrap();
    let done = bench.run(&request("qwen-fp16")).await.unwrap();
    assert_eq!((done.path, done.fetched), (old, 0));
    assert_eq!(bench.files(), [format!("qwen/{QWEN_FP16}")]);
}

#[tokio::test]
async fn a_new_download_of_an_alias_goes_to_its_own_folder() {
    let bench = Bench::new().await;
    bench.hub.put_noise(QWEN, QWEN_FP16, 9_000);
    bench.hub.put_noise(QWEN, "qwen2.5-0.5b-instruct-q4_k_m.gguf", 9_000);
    bench.fetch("qwen-fp16").await;
    bench.fetch("qwen").await;
    assert_eq!(bench.files(), ["qwen-fp16/qwen2.5-0.5b-instruct-fp16.gguf", "qwen/qwen2.5-0.5b-instruct-q4_k_m.gguf"]);
    bench.provisioner.delete_model("qwen").unwrap();
    assert!(bench.provisioner.find_local_model("qwen-fp16").is_some());
}

#[tokio::test]
async fn an_alias_finds_its_file_where_the_repository_was_downloaded() {
    let bench = Bench::new().await;
    bench.hub.put_noise(QWEN, QWEN_FP16, 9_000);
    bench.hub.put_noise(QWEN, "qwen2.5-0.5b-instruct-q4_k_m.gguf", 9_000);
    let path = bench.fetch(QWEN).await;
    assert_eq!(bench.provisioner.find_local_model("qwen").unwrap(), path);
    let done = bench.run(&request("qwen")).await.unwrap();
    assert_eq!((done.path, done.fetched), (path, 0));
    assert_eq!(bench.provisioner.find_local_model("qwen-fp16"), None);
    bench.fetch(&format!("{QWEN}:F16")).await;
    bench.provisioner.delete_model("qwen").unwrap();
    assert_eq!(bench.files(), [format!("qwen2.5-0.5b-instruct-gguf/{QWEN_FP16}")]);
}

#[tokio::test]
async fn a_hostile_listing_is_refused_whole_and_nothing_is_written() {
    let listings = [
        ("../escape-Q4_K_M.gguf", "m-Q4_K_M.gguf", "*"),
        ("/etc/cron.d/m-Q4_K_M.gguf", "m-Q4_K_M.gguf", ""),
        ("..\\m-Q4_K_M.gguf", "m-Q4_K_M.gguf", ""),
        (".cache/llorch-models/source.json", "m-Q4_K_M.gguf", "*"),
        ("M-Q4_K_M.GGUF", "m-Q4_K_M.gguf", "*"),
        ("m-Q4_K_M.gguf/inside.gguf", "m-Q4_K_M.gguf", "*"),
        ("m-Q4_K_M.gguf.0123456789abcdef.llorch", "m-Q4_K_M.gguf", "*"),
    ];
    for (hostile, good, pattern) in listings {
        let bench = Bench::new().await;
        bench.hub.put_noise(REPOSITORY, "m-Q4_K_M.gguf", 5_000);
        let entry = |path: &str| {
            let path = serde_json::to_string(path).unwrap();
            format!(r#"{{"type":"file","oid":"{}","size":3,"path":{path}}}"#, "a".repeat(40))
        };
        let listing = format!("[{},{}]", entry(hostile), entry(good));
        bench.hub.fault(Fault::on("/tree/", What::json(&listing)).always());
        let files = if pattern.is_empty() { Vec::new() } else { vec![pattern.to_owned()] };
        let error = bench.run(&DownloadRequest { files, ..request(REPOSITORY) }).await.unwrap_err();
        assert!(matches!(error, Error::UnsafePath { .. }), "{hostile}: {error}");
        assert!(error.to_string().contains("nothing was written"), "{error}");
        bench.nothing_was_written();
    }
}

#[tokio::test]
async fn a_path_of_more_folders_than_the_store_reads_is_refused() {
    for (to, most) in [(DestinationKind::Flat, 64), (DestinationKind::Hf, 32)] {
        let bench = Bench::new().await;
        let path = format!("{}m-Q4_K_M.gguf", "d/".repeat(most));
        let entry = format!(r#"[{{"type":"file","oid":"{}","size":3,"path":"{path}"}}]"#, "a".repeat(40));
        bench.hub.put_noise(REPOSITORY, "m-Q4_K_M.gguf", 5_000);
        bench.hub.fault(Fault::on("/tree/", What::json(&entry)).always());
        let asked = DownloadRequest { files: vec!["*".to_owned()], to, ..request(REPOSITORY) };
        let scratch = tempfile::tempdir().unwrap();
        let builder = ModelProvisioner::builder(bench.base()).endpoint(bench.hub.endpoint());
        let provisioner = builder.hf_cache(scratch.path().join("hub")).build();
        let error = provisioner.plan_download(&asked).await.unwrap_err();
        assert!(matches!(error, Error::UnsafePath { .. }), "{error}");
        assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 0);
        assert!(error.to_string().contains(&format!("more than {} folders", most - 1)), "{error}");
        bench.nothing_was_written();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_web_page_in_place_of_a_file_without_a_checksum_is_refused() {
    let bench = Bench::new().await;
    let bytes = bench.hub.put_noise(REPOSITORY, "m-Q4_K_M.gguf", 5_000);
    let entry = r#"[{"type":"file","size":5000,"path":"m-Q4_K_M.gguf"}]"#;
    bench.hub.fault(Fault::on("/tree/", What::json(entry)).always());
    bench.hub.fault(Fault::on("m-Q4_K_M.gguf", What::html()).always());
    let plan = bench.provisioner.plan_download(&request(REPOSITORY)).await.unwrap();
    assert!(plan.files.iter().all(|file| file.digest.is_none()), "{plan:?}");
    let error = bench.run(&request(REPOSITORY)).await.unwrap_err();
    assert!(error.to_string().contains("web page"), "{error}");
    assert!(bench.files().iter().all(|path| !path.ends_with(".gguf")), "{:?}", bench.files());
    // What is the file is taken without a checksum, too.
    bench.hub.clear_faults();
    bench.hub.fault(Fault::on("/tree/", What::json(entry)).always());
    let done = bench.run(&request(REPOSITORY)).await.unwrap();
    assert!(fs::read(done.path).unwrap() == bytes);
}

#[tokio::test]
async fn what_is_wrong_is_one_clear_line() {
    let bench = Bench::new().await;
    bench.hub.put_noise(REPOSITORY, "m-Q4_K_M.gguf", 5_000);
    bench.hub.put_noise("org/gated", "m-Q4_K_M.gguf", 5_000);
    bench.hub.set_facts("org/gated", Facts { gate: Gate::Manual, ..Facts::default() });
    bench.hub.put_noise("org/incomplete", "m-Q4_K_M-00001-of-00003.gguf", 5_000);
    bench.hub.put_noise("org/incomplete", "m-Q4_K_M-00003-of-00003.gguf", 5_000);
    let page = format!("ask for access at {}/org/gated", bench.hub.endpoint());
    let cases = [
        ("no-such-alias", vec!["'no-such-alias' not found in the catalog", "org/name", "tinyllama"]),
        ("gpt2", vec!["'gpt2' needs a conversion"]),
        ("org/Model-GGUF:Q3_K_S", vec!["org/Model-GGUF has no quantization 'Q3_K_S'", "Q4_K_M"]),
        ("org/gated", vec!["org/gated is gated", &page, "HF_TOKEN"]),
        ("org/incomplete", vec!["m-Q4_K_M-00002-of-00003.gguf"]),
        ("org/Model-GGUF@no-such-branch", vec!["org/Model-GGUF has no revision 'no-such-branch'"]),
        ("../x", vec!["invalid reference '../x'"]),
    ];
    for (reference, parts) in cases {
        let error = bench.refusal(reference).await.to_string();
        for part in parts {
            assert!(error.contains(part), "{reference}: {error}");
        }
        assert!(!error.contains('\n'), "{error}");
    }
    let missing = bench.refusal("org/missing").await;
    assert!(matches!(missing, Error::RepositoryNotFound { .. } | Error::SignIn { .. }), "{missing}");
    bench.nothing_was_written();
    assert_eq!(bench.hub.file_bytes_sent(), 0);
}

#[tokio::test]
async fn no_network_and_a_wrong_token_are_told_apart() {
    let scratch = tempfile::tempdir().unwrap();
    // A port that was free a moment ago: nobody answers there.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let lonely = ModelProvisioner::builder(scratch.path().join("models"))
        .endpoint(format!("http://127.0.0.1:{port}"))
        .transfer(impatient())
        .build();
    let error = lonely.download_model(REPOSITORY, "hf").await.unwrap_err();
    assert!(matches!(&error, Error::Unreachable { .. }), "{error}");
    assert!(error.to_string().contains("127.0.0.1"), "{error}");
    assert!(!scratch.path().join("models").exists());

    let hub = TestHub::with_token("hf_right").await;
    hub.put_noise(REPOSITORY, "m-Q4_K_M.gguf", 5_000);
    let bench = Bench::with(hub, Some("hf_wrong"));
    let error = bench.refusal(REPOSITORY).await;
    assert!(matches!(&error, Error::SignIn { .. }), "{error}");
    assert!(!error.to_string().contains("hf_wrong"), "{error}");
    bench.nothing_was_written();
    let right = ModelProvisioner::builder(bench.base()).endpoint(bench.hub.endpoint()).token(Some("hf_right")).build();
    right.download_model(REPOSITORY, "hf").await.unwrap();
}

#[tokio::test]
async fn a_file_that_came_from_nowhere_known_is_never_replaced() {
    let bench = Bench::new().await;
    let theirs = bench.hub.put_noise(REPOSITORY, "m-Q4_K_M.gguf", 5_000);
    let file = bench.base().join("model-gguf/m-Q4_K_M.gguf");
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(&file, b"years of work").unwrap();
    let error = bench.run(&request(REPOSITORY)).await.unwrap_err();
    assert!(matches!(error, Error::Occupied { .. }), "{error}");
    assert_eq!(fs::read(&file).unwrap(), b"years of work");
    bench.run(&DownloadRequest { force: true, ..request(REPOSITORY) }).await.unwrap();
    assert_eq!(fs::read(&file).unwrap(), theirs);
}

#[tokio::test]
async fn a_damaged_file_that_we_fetched_is_fetched_again() {
    let bench = Bench::new().await;
    let bytes = bench.hub.put_noise(REPOSITORY, "m-Q4_K_M.gguf", 5_000);
    let file = bench.fetch(REPOSITORY).await;
    let mut damaged = bytes.clone();
    damaged[100] ^= 1;
    fs::write(&file, damaged).unwrap();
    let later = std::time::SystemTime::now() + std::time::Duration::from_secs(60);
    fs::File::options().write(true).open(&file).unwrap().set_modified(later).unwrap();
    let checked = bench.provisioner.verify_checksums(REPOSITORY, &mut |_| {}, &CancellationToken::new()).unwrap();
    assert!(!checked.ok, "{checked:?}");
    bench.fetch(REPOSITORY).await;
    assert_eq!(fs::read(&file).unwrap(), bytes);
}

#[tokio::test]
async fn wrong_bytes_are_never_published() {
    let bench = Bench::new().await;
    bench.hub.put_noise(REPOSITORY, "m-Q4_K_M.gguf", 50_000);
    bench.hub.fault(Fault::on("", What::Damaged(1000)).at_bytes().always());
    let error = bench.refusal(REPOSITORY).await;
    assert!(matches!(error, Error::ChecksumMismatch { .. }), "{error}");
    assert!(!bench.base().join("model-gguf").exists(), "nothing is left of it");
    bench.hub.clear_faults();
    bench.fetch(REPOSITORY).await;
}

#[tokio::test]
async fn patterns_and_pages_choose_files() {
    let bench = Bench::new().await;
    for name in ["a-Q4_K_M.gguf", "sub/mmproj-F16.gguf", "README.md"] {
        bench.hub.put_noise(REPOSITORY, name, 5_000);
    }
    let all = DownloadRequest { files: vec!["*".to_owned()], ..request(REPOSITORY) };
    assert_eq!(bench.run(&all).await.unwrap().paths.len(), 3);
    bench.provisioner.delete_model(REPOSITORY).unwrap();
    let page = format!("https://huggingface.co/{REPOSITORY}/blob/main/sub/mmproj-F16.gguf");
    bench.fetch(&page).await;
    assert_eq!(bench.files(), ["model-gguf/sub/mmproj-F16.gguf"]);
}

#[tokio::test]
async fn several_downloads_run_at_once_and_fail_alone() {
    let bench = Bench::new().await;
    let names = ["org/a", "org/b", "org/c"];
    for name in names {
        bench.hub.put_noise(name, "m-Q4_K_M.gguf", 20_000);
    }
    let requests: Vec<DownloadRequest> =
        ["org/a", "nobody:here@", "org/b", "org/c", "org/a"].into_iter().map(request).collect();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let events = {
        let seen = Arc::clone(&seen);
        Arc::new(move |index: usize, event: TransferEvent| {
            if let TransferEvent::FileFinished { .. } = event {
                seen.lock().unwrap().push(index);
            }
        })
    };
    let cancel = CancellationToken::new();
    let results = bench.provisioner.download_many(&requests, 2, &impatient(), events, &cancel).await;
    let right: Vec<bool> = results.iter().map(Result::is_ok).collect();
    assert_eq!(right, [true, false, true, true, true], "{results:?}");
    let mut seen = seen.lock().unwrap().clone();
    seen.sort_unstable();
    assert_eq!(seen, [0, 2, 3, 4]);
    assert_eq!(bench.hub.file_bytes_sent(), 60_000, "the same model is fetched once");
    cancel.cancel();
    let results = bench.provisioner.download_many(&requests, 2, &impatient(), Arc::new(|_, _| {}), &cancel).await;
    assert!(results.iter().all(|result| result.as_ref().is_err_and(Error::is_cancelled)));
}

#[tokio::test]
async fn updates_name_the_files_that_changed() {
    let bench = Bench::new().await;
    bench.hub.put_noise(REPOSITORY, "m-Q4_K_M.gguf", 5_000);
    bench.hub.put_noise("org/still", "s-Q4_K_M.gguf", 5_000);
    bench.fetch(REPOSITORY).await;
    bench.fetch("org/still").await;
    let cancel = CancellationToken::new();
    assert_eq!(bench.provisioner.updates(&[], &cancel).await.unwrap(), []);
    let newer = noise(7_000, "newer");
    bench.hub.put(REPOSITORY, "m-Q4_K_M.gguf", &newer);
    let updates = bench.provisioner.updates(&[], &cancel).await.unwrap();
    assert_eq!(updates.len(), 1);
    assert_eq!(updates[0].model.id, "model-gguf");
    assert_ne!(updates[0].pinned, updates[0].current);
    assert_eq!((updates[0].fetch_bytes, updates[0].free_bytes), (7_000, 5_000));
    assert_eq!(updates[0].files[0].path.as_str(), "m-Q4_K_M.gguf");
    let named = bench.provisioner.updates(&["org/still".to_owned()], &cancel).await.unwrap();
    assert_eq!(named, []);
    // Asking for the branch fetches the new version in place of ours.
    let done = bench.run(&request("org/Model-GGUF@main")).await.unwrap();
    assert_eq!(fs::read(done.path).unwrap(), newer);
    assert_eq!(bench.provisioner.updates(&[], &cancel).await.unwrap(), []);
}

#[tokio::test]
async fn looking_at_a_repository_marks_what_a_download_would_take() {
    let bench = Bench::new().await;
    for name in ["m-Q2_K.gguf", "m-Q4_K_M.gguf", "README.md"] {
        bench.hub.put_noise(REPOSITORY, name, 5_000);
    }
    let model = bench.provisioner.remote_files(REPOSITORY).await.unwrap();
    assert_eq!(model.files.len(), 3);
    assert_eq!(model.marked.iter().map(rbee_hive::model::RepoPath::as_str).collect::<Vec<_>>(), ["m-Q4_K_M.gguf"]);
    let model = bench.provisioner.remote_files("org/Model-GGUF:Q5_0").await.unwrap();
    assert_eq!(model.marked, []);
    assert!(model.why_unmarked.unwrap().contains("Q5_0"));
    bench.nothing_was_written();
}
