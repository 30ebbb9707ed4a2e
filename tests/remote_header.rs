//! What a model on the hub is, told by its header alone.
#![cfg(feature = "mirror")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use std::path::Path;
use std::time::Duration;

use rbee_hive::Error;
use rbee_hive::format::gguf::{TensorType, Writer};
use rbee_hive::model::memory::{Conditions, Device, HostMemory, Verdict};
use rbee_hive::provisioner::{ModelProvisioner, RemoteHeader};
use rbee_hive::store::fit::fit_of_choice;
use support::hub::{Fault, TestHub, What};

const REPOSITORY: &str = "acme/tiny";
const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// A model with a long vocabulary, which stands before `general.license` and after everything that counts.
fn gguf(layers: u32, words: usize, tensor: u64) -> Vec<u8> {
    let vocabulary: Vec<String> = (0..words).map(|word| format!("a long word of the vocabulary {word}")).collect();
    let mut bytes = Vec::new();
    Writer::new("llama")
        .key("llama.block_count", layers)
        .key("llama.context_length", 4096_u32)
        .key("llama.embedding_length", 128_u32)
        .key("llama.attention.head_count", 4_u32)
        .key("llama.attention.head_count_kv", 1_u32)
        .key("tokenizer.ggml.tokens", vocabulary)
        .key("general.license", "mit")
        .tensor("blk.0.weight", &[32, tensor / 64], TensorType::F16)
        .write_to(&mut bytes, 7)
        .unwrap();
    bytes
}

fn provisioner(hub: &TestHub, base: &Path) -> ModelProvisioner {
    ModelProvisioner::builder(base.to_owned()).endpoint(hub.endpoint()).build()
}

async fn header(provisioner: &ModelProvisioner) -> RemoteHeader {
    let hub = provisioner.hub().unwrap();
    let repository = hub.repository(REPOSITORY, None).await.unwrap();
    let files = hub.listing(&repository).await.unwrap().files;
    RemoteHeader::of(&repository, &files).unwrap()
}

#[tokio::test]
async fn one_header_tells_for_all_quantizations_and_no_weights_are_fetched() {
    let hub = TestHub::start().await;
    hub.put(REPOSITORY, "tiny.Q8_0.gguf", &gguf(1, 40_000, 12 * MIB));
    hub.put(REPOSITORY, "tiny.Q4_K_M.gguf", &gguf(1, 40_000, 8 * MIB));
    hub.put(REPOSITORY, "mmproj-f16.gguf", &gguf(9, 1, 64 * KIB));
    let base = tempfile::tempdir().unwrap();
    let provisioner = provisioner(&hub, base.path());
    let header = header(&provisioner).await;
    assert_eq!(header.file.path.as_str(), "tiny.Q4_K_M.gguf");
    hub.forget();
    let metadata = provisioner.remote_metadata(&header).await.unwrap();
    assert_eq!((metadata.layers, metadata.context_length, metadata.partly_read), (Some(1), Some(4096), false));
    // What stands behind the vocabulary is known, too.
    assert_eq!((metadata.licence.as_deref(), metadata.parameters), (Some("mit"), Some(4 * MIB)));
    assert_eq!(metadata.shape.vocabulary, Some(40_000));
    // And the header of the projector.
    assert!(hub.file_bytes_sent() <= 320 * KIB, "{}", hub.file_bytes_sent());
    let need = fit_of_choice(1000, &metadata, &HostMemory::default(), &Conditions::default()).unwrap();
    assert_eq!(need.need.unwrap().cache_bytes, 524_288);
    // A second question asks nobody.
    hub.forget();
    assert_eq!(provisioner.remote_metadata(&header).await.unwrap(), metadata);
    assert_eq!(hub.count(REPOSITORY), 0);
    let gpu = Device { label: "GPU0".to_owned(), free_bytes: Some(8 << 30), ..Device::default() };
    let host = HostMemory { gpus: vec![gpu], ..HostMemory::default() };
    let verdict = |bytes| fit_of_choice(bytes, &metadata, &host, &Conditions::default()).unwrap().verdict;
    assert_eq!((verdict(4 << 30), verdict(9 << 30)), (Verdict::Fits, Verdict::No));
}

#[tokio::test]
async fn a_server_that_ignores_ranges_is_not_read_to_its_end() {
    let hub = TestHub::start().await;
    hub.put(REPOSITORY, "tiny.Q8_0.gguf", &gguf(3, 10, 24 * MIB));
    hub.fault(Fault::on("tiny.Q8_0.gguf", What::NoRange).at_bytes().always());
    let base = tempfile::tempdir().unwrap();
    let provisioner = provisioner(&hub, base.path());
    let metadata = provisioner.remote_metadata(&header(&provisioner).await).await.unwrap();
    assert_eq!((metadata.layers, metadata.licence.as_deref()), (Some(3), Some("mit")));
}

#[tokio::test]
async fn safetensors_tell_with_their_config() {
    let hub = TestHub::start().await;
    let json = br#"{"a":{"dtype":"F16","shape":[2,2],"data_offsets":[0,8]}}"#;
    let bytes = [&(json.len() as u64).to_le_bytes()[..], json, &[0; 8]].concat();
    hub.put(REPOSITORY, "model.safetensors", &bytes);
    hub.put(
        REPOSITORY,
        "config.json",
        br#"{"model_type":"llama","num_hidden_layers":1,"num_attention_heads":4,"num_key_value_heads":1,"hidden_size":128}"#,
    );
    let base = tempfile::tempdir().unwrap();
    let told = provisioner(&hub, base.path());
    let metadata = told.remote_metadata(&header(&told).await).await.unwrap();
    assert_eq!((metadata.architecture.as_deref(), metadata.parameters), (Some("llama"), Some(4)));
    assert!(metadata.shape.cache.is_some());
}

#[tokio::test]
async fn packed_weights_are_counted_before_they_are_fetched() {
    let hub = TestHub::start().await;
    let json = br#"{"l.weight_packed":{"dtype":"I32","shape":[16,2],"data_offsets":[0,128]},"l.weight_scale":{"dtype":"F16","shape":[16,1],"data_offsets":[128,160]}}"#;
    let bytes = [&(json.len() as u64).to_le_bytes()[..], json, &[0; 160]].concat();
    hub.put(REPOSITORY, "model.safetensors", &bytes);
    let config =
        br#"{"model_type":"llama","quantization_config":{"quant_method":"compressed-tensors","format":"pack-quantized",
        "config_groups":{"group_0":{"weights":{"num_bits":4,"type":"int"},"input_activations":null}}}}"#;
    hub.put(REPOSITORY, "config.json", config);
    let base = tempfile::tempdir().unwrap();
    let told = provisioner(&hub, base.path());
    let metadata = told.remote_metadata(&header(&told).await).await.unwrap();
    assert_eq!(metadata.parameters, Some(256));
    assert_eq!(metadata.quantization.as_ref().map(ToString::to_string).as_deref(), Some("W4A16"));
}

#[tokio::test]
async fn what_is_no_model_is_an_error_of_one_line() {
    for bytes in [&b"<html>not here</html> and more"[..], b"GGUF\xff\xff\xff\xff and more of it", &[0; 100_000]] {
        let hub = TestHub::start().await;
        hub.put(REPOSITORY, "tiny.Q8_0.gguf", bytes);
        let base = tempfile::tempdir().unwrap();
        let provisioner = provisioner(&hub, base.path());
        let error = provisioner.remote_metadata(&header(&provisioner).await).await.unwrap_err().to_string();
        assert!(error.contains("tiny.Q8_0.gguf") && !error.contains('\n'), "{error}");
    }
}

#[tokio::test]
async fn a_header_that_stops_on_its_way_is_not_waited_for_forever() {
    let hub = TestHub::start().await;
    hub.put(REPOSITORY, "tiny.Q4_K_M.gguf", &gguf(1, 40_000, 8 * MIB));
    let base = tempfile::tempdir().unwrap();
    let provisioner = provisioner(&hub, base.path());
    let header = header(&provisioner).await;
    hub.fault(Fault::on("tiny.Q4_K_M.gguf", What::Stall(KIB)).always());
    let passes = async {
        while hub.count("tiny.Q4_K_M.gguf") == 0 {
            tokio::task::yield_now().await;
        }
        tokio::time::pause();
        tokio::time::advance(Duration::from_secs(120)).await;
    };
    let (told, ()) = tokio::join!(provisioner.remote_metadata(&header), passes);
    assert!(matches!(told, Err(Error::Unreachable { .. })), "{told:?}");
}

#[tokio::test]
async fn a_set_is_all_of_its_files_however_they_are_counted() {
    let many: Vec<String> = (1..=11).map(|number| format!("model-{number:05}-of-000011.safetensors")).collect();
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let cases = [
        (many, 11),
        (
            names(&[
                "model-00000-of-00002.safetensors",
                "model-00001-of-00002.safetensors",
                "model-00002-of-00002.safetensors",
            ]),
            3,
        ),
        ((1..=11).map(|number| format!("model-{number}-of-11.safetensors")).collect(), 11),
        (
            names(&[
                "model.safetensors.index.json",
                "model_layer_0.safetensors",
                "model_layer_1.safetensors",
                "other.safetensors",
            ]),
            3,
        ),
        (names(&["model.safetensors", "model.fp16.safetensors", "onnx/x.safetensors"]), 1),
        (names(&["consolidated.safetensors", "model-1-of-2.safetensors", "model-2-of-2.safetensors"]), 2),
        (names(&["model_index.json", "unet/a.safetensors", "vae/b.safetensors"]), 2),
        (
            names(&[
                "m-Q4_K_M-00001-of-00002.gguf",
                "m-Q4_K_M-00002-of-00002.gguf",
                "m-Q8_0-with-more-bytes-than-the-others.gguf",
            ]),
            2,
        ),
    ];
    for (names, count) in cases {
        let hub = TestHub::start().await;
        for name in &names {
            hub.put(REPOSITORY, name, name.as_bytes());
        }
        let base = tempfile::tempdir().unwrap();
        let header = header(&provisioner(&hub, base.path())).await;
        let set: Vec<&str> = header.set.iter().map(|file| file.path.as_str()).collect();
        assert_eq!(set.len(), count, "{names:?}: {set:?}");
        assert!(set.contains(&header.file.path.as_str()), "{set:?}");
        assert_eq!(header.set_bytes(), set.iter().map(|name| name.len() as u64).sum::<u64>());
    }
}
