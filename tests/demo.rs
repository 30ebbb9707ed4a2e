//! What the demonstration sets up, used as a person would.
#![cfg(feature = "mirror")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::time::Instant;

use rbee_hive::hub::SearchQuery;
use rbee_hive::mirror::Demo;
use rbee_hive::model::FileStatus;
use rbee_hive::provisioner::{DownloadRequest, ModelProvisioner};
use tokio_util::sync::CancellationToken;

#[tokio::test]
async fn the_demonstration_is_a_store_and_a_hub_and_leaves_nothing() {
    let temp = tempfile::tempdir().unwrap();
    let started = Instant::now();
    let demo = Demo::start(temp.path()).await.unwrap();
    eprintln!("ready after {:?}", started.elapsed());

    let provisioner = ModelProvisioner::builder(demo.base_dir()).endpoint(demo.endpoint()).proxies(false).build();
    let models = provisioner.list_models().unwrap();
    assert!(models.len() >= 7, "{models:?}");
    assert!(provisioner.get_total_disk_usage().unwrap() < 100 << 20);
    let info = provisioner.get_model_info("bartowski/Mixtral-8x7B-Instruct-v0.1-GGUF").unwrap();
    assert_eq!(info.gguf_files.len(), 3);
    let metadata = provisioner.metadata("tinyllama").unwrap();
    assert_eq!(metadata.architecture.as_deref(), Some("llama"));
    assert!(metadata.warnings.is_empty(), "{:?}", metadata.warnings);

    let cancel = CancellationToken::new();
    for (name, status) in
        [("tinyllama", FileStatus::Ok), ("smollm2-135m", FileStatus::Ok), ("phi3", FileStatus::Truncated)]
    {
        let checked = provisioner.verify_checksums(name, &mut |_| {}, &cancel).unwrap();
        assert!(checked.files.iter().all(|file| file.status == status), "{name}: {:?}", checked.files);
    }

    let hits = provisioner.search(&SearchQuery { text: "gguf".to_owned(), limit: 50 }).await.unwrap();
    assert!(hits.len() >= 9 && hits[0].gated, "{hits:?}");
    let plan = provisioner.plan_download(&DownloadRequest::new("llama3")).await.unwrap();
    assert!((20 << 20..100 << 20).contains(&plan.total), "{}", plan.total);
    let plan = provisioner.plan_download(&DownloadRequest::new("unsloth/Qwen3-30B-A3B-GGUF:Q4_K_M")).await.unwrap();
    assert_eq!(plan.files.len(), 3);
    let path = provisioner.download_model("Qwen/Qwen2.5-0.5B-Instruct-GGUF:Q8_0", "hf").await.unwrap();
    assert!(path.starts_with(demo.base_dir()));

    drop(demo);
    assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 0);
}
