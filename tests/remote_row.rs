//! A model on the hub is known by the headers of all of its files: what they tell is what a row of the same files tells here.
#![cfg(feature = "mirror")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rbee_hive::format::gguf::{TensorType, Writer};
use rbee_hive::model::memory::{Conditions, Device, HostMemory, Ram};
use rbee_hive::model::{FileStatus, Model};
use rbee_hive::provisioner::{Bounds, ModelProvisioner, RemoteHeader};
use rbee_hive::store::fit::fit_of_row;
use rbee_hive::store::flat::FlatStore;
use rbee_hive::store::remote::RemoteRow;
use rbee_hive::store::{Details, Row, Store};
use support::hub::{Fault, TestHub, What};
use tokio_util::sync::CancellationToken;

const REPOSITORY: &str = "acme/tiny";
const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

type Files = Vec<(String, Vec<u8>)>;

/// A file of tensors: their names, types and shapes.
fn safetensors(tensors: &[(String, &str, Vec<u64>)]) -> Vec<u8> {
    let mut at = 0;
    let entry = |(name, kind, shape): &(String, &str, Vec<u64>)| {
        let bytes = match *kind {
            "F32" | "I32" => 4,
            "F16" | "BF16" => 2,
            "I64" => 8,
            _ => 1,
        };
        let begin = at;
        at += shape.iter().product::<u64>() * bytes;
        format!(r#""{name}":{{"dtype":"{kind}","shape":{shape:?},"data_offsets":[{begin},{at}]}}"#)
    };
    let json = format!("{{{}}}", tensors.iter().map(entry).collect::<Vec<_>>().join(","));
    let mut file = (json.len() as u64).to_le_bytes().to_vec();
    file.extend(json.as_bytes());
    file.resize(file.len() + usize::try_from(at).unwrap(), 0);
    file
}

const CONFIG: &str = r#"{"model_type":"llama","architectures":["LlamaForCausalLM"],"num_hidden_layers":6,"hidden_size":64,
    "num_attention_heads":8,"num_key_value_heads":2,"max_position_embeddings":8192,"vocab_size":320,
    "num_local_experts":8,"num_experts_per_tok":2,"torch_dtype":"bfloat16"}"#;

fn text(name: &str, text: &str) -> (String, Vec<u8>) {
    (name.to_owned(), text.as_bytes().to_vec())
}

/// What lies beside the weights of nearly every repository.
fn beside() -> Files {
    vec![
        text("config.json", CONFIG),
        text("README.md", "---\nlicense: llama3.1\nbase_model: acme/larger\n---\n# Tiny\n"),
        text(
            "tokenizer.json",
            r#"{"added_tokens":[{"id":1,"content":"<s>","special":true}],"model":{"type":"BPE","vocab":{"a":0}}}"#,
        ),
        text("tokenizer_config.json", r#"{"tokenizer_class":"LlamaTokenizerFast","chat_template":"{{ messages }}"}"#),
    ]
}

/// So many shards, each with two layers, and the index that names them.
fn shards(count: usize) -> Files {
    let name = |number: usize| format!("model-{number:05}-of-{count:05}.safetensors");
    let mut map = Vec::new();
    let mut files: Files = Vec::new();
    let mut total = 0;
    for number in 1..=count {
        let tensor = |leaf: &str, rows: u64| (format!("model.layers.{number}.{leaf}.weight"), "BF16", vec![rows, 64]);
        let tensors = vec![tensor("self_attn.q_proj", 64), tensor("mlp.up_proj", 128 + number as u64)];
        for (tensor, _, shape) in &tensors {
            map.push(format!(r#""{tensor}":"{}""#, name(number)));
            total += shape.iter().product::<u64>() * 2;
        }
        files.push((name(number), safetensors(&tensors)));
    }
    let index = format!(r#"{{"metadata":{{"total_size":{total}}},"weight_map":{{{}}}}}"#, map.join(","));
    files.push(("model.safetensors.index.json".to_owned(), index.into_bytes()));
    files
}

fn gguf(keys: impl Fn(Writer) -> Writer, tensors: &[(&str, &[u64], TensorType)]) -> Vec<u8> {
    let mut writer = keys(Writer::new("llama"));
    for (name, dimensions, kind) in tensors {
        writer = writer.tensor(name, dimensions, *kind);
    }
    let mut bytes = Vec::new();
    writer.write_to(&mut bytes, 1).unwrap();
    bytes
}

fn keys(writer: Writer) -> Writer {
    base_keys(writer)
        .key("tokenizer.ggml.tokens", vec!["a".to_owned(), "b".to_owned()])
        .key("tokenizer.chat_template", "{{ messages }}")
}

fn base_keys(writer: Writer) -> Writer {
    writer
        .key("general.file_type", 1_u32)
        .key("general.license", "mit")
        .key("llama.block_count", 2_u32)
        .key("llama.context_length", 4096_u32)
        .key("llama.embedding_length", 64_u32)
        .key("llama.attention.head_count", 4_u32)
        .key("llama.attention.head_count_kv", 1_u32)
        .key("llama.expert_count", 4_u32)
        .key("tokenizer.ggml.model", "gpt2")
}

fn split() -> Files {
    let part = |number: u16, first: bool, tensors: &[(&str, &[u64], TensorType)]| {
        let of = |writer: Writer| {
            let writer = if first { keys(writer) } else { writer };
            writer.key("split.no", number).key("split.count", 3_u16).key("split.tensors.count", 4_i32)
        };
        (format!("tiny-F16-{:05}-of-00003.gguf", number + 1), gguf(of, tensors))
    };
    vec![
        part(0, true, &[("token_embd.weight", &[64, 320], TensorType::F16)]),
        part(
            1,
            false,
            &[("blk.0.attn_q.weight", &[64, 64], TensorType::F16), ("output_norm.weight", &[64], TensorType::F32)],
        ),
        part(2, false, &[("blk.1.attn_q.weight", &[64, 64], TensorType::F16)]),
        text("README.md", "---\nbase_model: acme/larger\n---\n"),
    ]
}

fn put(hub: &TestHub, files: &Files) {
    files.iter().for_each(|(name, bytes)| drop(hub.put(REPOSITORY, name, bytes)));
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

/// The row on the hub, and how many requests for files it took.
async fn remote(hub: &TestHub) -> (Arc<RemoteRow>, usize) {
    let base = tempfile::tempdir().unwrap();
    let provisioner = provisioner(hub, base.path());
    let header = header(&provisioner).await;
    hub.forget();
    let row = provisioner.remote_row(&header, &Bounds::LOOK, |_| {}).await.unwrap();
    (row, hub.seen().len())
}

/// The row of the same files here.
fn local(files: &Files) -> (Row, Details) {
    let base = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        let path = base.path().join("tiny").join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
    let store = FlatStore::new(base.path().to_owned(), Vec::new());
    let mut rows = Vec::new();
    store.scan(&mut |row| rows.push(row), &CancellationToken::new());
    let row = rows.remove(0);
    let details = store.details(&row.model.identity.id).unwrap();
    (row, details)
}

fn host() -> HostMemory {
    let gpu = Device { label: "GPU0".to_owned(), free_bytes: Some(2 << 30), ..Device::default() };
    HostMemory {
        gpus: vec![gpu],
        ram: Some(Ram { total_bytes: 8 << 30, available_bytes: 4 << 30 }),
        ..HostMemory::default()
    }
}

fn same(files: &Files, remote: &RemoteRow) {
    let (row, details) = local(files);
    let of = |model: &Model| {
        let Model { format, quantization, quantizations, architecture, parameters, context_length, .. } = model.clone();
        (format, quantization, quantizations, architecture, parameters, context_length, model.complete, model.damage)
    };
    assert_eq!(of(&remote.model), of(&row.model));
    assert_eq!(remote.metadata, details.metadata);
    let warnings: Vec<_> = row.model.warnings.iter().filter(|line| *line != "origin unknown").collect();
    assert_eq!(remote.model.warnings.iter().collect::<Vec<_>>(), warnings);
    if row.model.complete {
        let here = fit_of_row(&row.model, row.metadata.as_deref(), &row.loads, &host(), &Conditions::default());
        let with_projector = remote.projector_bytes.is_some();
        assert_eq!(remote.fit(remote.set_bytes, with_projector, &host(), &Conditions::default()), here);
        assert!(here.is_some());
    }
}

#[tokio::test]
async fn what_the_hub_shows_is_what_a_row_shows() {
    let pipeline = || {
        let part = |name: &str, rows: u64| {
            let tensors = [(format!("{name}.weight"), "F16", vec![rows, 64])];
            (format!("{name}/diffusion_pytorch_model.safetensors"), safetensors(&tensors))
        };
        vec![
            text("model_index.json", r#"{"_class_name":"StableDiffusionPipeline"}"#),
            part("unet", 300),
            text("unet/config.json", r#"{"sample_size":64}"#),
            part("vae", 30),
        ]
    };
    let packed = || {
        let tensor = |name: &str, kind: &'static str, shape: &[u64]| (name.to_owned(), kind, shape.to_vec());
        let first = [
            tensor("l.q.weight_packed", "I32", &[64, 8]),
            tensor("l.q.weight_scale", "BF16", &[64, 2]),
            tensor("l.q.weight_shape", "I64", &[2]),
        ];
        let second = [tensor("head.weight", "BF16", &[320, 64])];
        let mut files = beside();
        files[0] = text(
            "config.json",
            r#"{"model_type":"llama","quantization_config":{"quant_method":"compressed-tensors","format":"pack-quantized",
            "config_groups":{"group_0":{"weights":{"num_bits":4,"type":"int"},"input_activations":null}}}}"#,
        );
        files.push(("model-00001-of-00002.safetensors".to_owned(), safetensors(&first)));
        files.push(("model-00002-of-00002.safetensors".to_owned(), safetensors(&second)));
        files
    };
    let missing = || {
        let mut files = [beside(), shards(4)].concat();
        files.retain(|(name, _)| name != "model-00003-of-00004.safetensors");
        files
    };
    let with_projector = || {
        let clip = |writer: Writer| writer.key("general.type", "mmproj").key("clip.has_vision_encoder", true);
        vec![
            (
                "tiny-F16.gguf".to_owned(),
                gguf(
                    keys,
                    &[
                        ("blk.0.attn_q.weight", &[64, 640], TensorType::F16),
                        ("blk.1.attn_q.weight", &[64, 64], TensorType::F16),
                    ],
                ),
            ),
            ("mmproj-F16.gguf".to_owned(), gguf(clip, &[("v.blk.0.weight", &[64, 64], TensorType::F16)])),
        ]
    };
    let long = || {
        let vocabulary: Vec<String> = (0..60_000).map(|n| format!("word {:x}", n * 7919)).collect();
        let merges: Vec<String> = (0..90_000).map(|n| format!("a{n:x} b{n:x}")).collect();
        let with = |writer: Writer| {
            base_keys(writer)
                .key("tokenizer.ggml.tokens", vocabulary.clone())
                .key("tokenizer.ggml.token_type", vec![1_i32; 60_000])
                .key("tokenizer.ggml.merges", merges.clone())
                .key("tokenizer.chat_template", "{{ messages }}")
                .key("general.quantized_by", "someone")
        };
        let tensors: &[(&str, &[u64], TensorType)] = &[
            ("blk.0.attn_q.weight", &[64, 640], TensorType::F16),
            ("blk.1.attn_q.weight", &[64, 64], TensorType::F16),
        ];
        vec![("tiny-F16.gguf".to_owned(), gguf(with, tensors))]
    };
    let cases: [(&str, Files); 8] = [
        ("gguf with a long vocabulary", long()),
        ("one file", [beside(), shards(1)].concat()),
        ("ten shards", [beside(), shards(10)].concat()),
        ("packed", packed()),
        ("a shard is missing", missing()),
        ("a pipeline", pipeline()),
        ("gguf in parts", split()),
        ("gguf and a projector", with_projector()),
    ];
    for (what, files) in cases {
        eprintln!("{what}");
        let hub = TestHub::start().await;
        put(&hub, &files);
        let (row, _) = remote(&hub).await;
        assert!(row.is_whole() && row.why_partial.is_none() && !row.coming, "{what}: {row:?}");
        same(&files, &row);
    }
}

#[tokio::test]
async fn headers_alone_are_fetched_and_the_first_answer_comes_early() {
    for (count, most) in [(1, 16), (10, 36), (163, 360)] {
        let hub = TestHub::start().await;
        put(&hub, &[beside(), shards(count)].concat());
        let base = tempfile::tempdir().unwrap();
        let provisioner = provisioner(&hub, base.path());
        let header = header(&provisioner).await;
        hub.forget();
        let mut early = Vec::new();
        let row = provisioner.remote_row(&header, &Bounds::LOOK, |row| early.push(Arc::clone(row))).await.unwrap();
        assert!(row.is_whole(), "{:?}", row.why_partial);
        let sum: u64 = (1..=count as u64).map(|number| 64 * 64 + (128 + number) * 64).sum();
        assert_eq!(row.model.parameters, Some(sum));
        let first = early.first().unwrap();
        assert!(first.coming && first.read == 1);
        assert_eq!((first.model.architecture.as_deref(), first.model.context_length), (Some("llama"), Some(8192)));
        if count > 1 {
            assert_eq!(first.model.parameters, None);
            assert!(first.parameters_line().unwrap().contains(&format!("by 1 of {count} headers")));
        }
        let requests = hub.seen().len();
        assert!(requests <= most, "{count} shards: {requests} requests");
        eprintln!("{count} shards: {requests} requests, {} bytes", hub.file_bytes_sent());
    }
}

#[tokio::test]
async fn what_is_asked_for_is_bounded_and_the_rest_is_said_to_be_unknown() {
    let hub = TestHub::start().await;
    put(&hub, &[beside(), shards(20)].concat());
    let base = tempfile::tempdir().unwrap();
    let provisioner = provisioner(&hub, base.path());
    let header = header(&provisioner).await;
    let bounds = Bounds { headers: 5, ..Bounds::LOOK };
    let row = provisioner.remote_row(&header, &bounds, |_| {}).await.unwrap();
    assert_eq!((row.read, row.of, row.model.parameters), (5, 20, None));
    assert!(row.why_partial.as_deref().unwrap().contains("5 headers"));
    assert!(row.parameters_line().unwrap().starts_with("at least "));
    // What does not depend on all of them is known.
    assert_eq!(row.model.quantization.as_ref().unwrap().as_str(), "BF16");
    assert!(row.fit(row.set_bytes, false, &host(), &Conditions::default()).unwrap().need_bytes.is_some());
    hub.forget();
    let bounds = Bounds { bytes: 64 * KIB, ..Bounds::LOOK };
    let row = provisioner.remote_row(&header, &bounds, |_| {}).await.unwrap();
    assert!(!row.is_whole());
    assert_eq!(row.why_partial.as_deref(), Some("no more than 64.0 KiB are fetched"));
    assert!(hub.file_bytes_sent() <= 64 * KIB, "{}", hub.file_bytes_sent());
    assert!(row.fetched_bytes <= 64 * KIB, "{}", row.fetched_bytes);
    // A closer look is not answered with what a brief one found.
    assert!(provisioner.remote_row(&header, &Bounds::LOOK, |_| {}).await.unwrap().is_whole());
}

#[tokio::test]
async fn servers_that_lie_or_drip_cost_no_weights_and_no_patience() {
    let last = "model-00003-of-00003.safetensors";
    let large = |files: &mut Files| {
        let bytes = safetensors(&[("model.layers.3.mlp.weight".to_owned(), "BF16", vec![1024, 4096])]);
        files.retain(|(name, _)| name != last);
        files.push((last.to_owned(), bytes));
    };
    let lies = [
        What::NoRange,
        What::Header("content-range", Some("bytes 5-99/1000000".to_owned())),
        What::Header("content-range", None),
        What::status(503),
        What::status(403),
        What::html(),
        What::Reset(100),
        What::Stall(100),
        What::Slow(200),
        What::Silence,
    ];
    for what in lies {
        let hub = TestHub::start().await;
        let mut files = [beside(), shards(3)].concat();
        large(&mut files);
        put(&hub, &files);
        let base = tempfile::tempdir().unwrap();
        let provisioner = provisioner(&hub, base.path());
        let header = header(&provisioner).await;
        hub.forget();
        hub.fault(Fault::on(last, what.clone()).always());
        let bounds = Bounds { time: Duration::from_secs(3), ..Bounds::LOOK };
        let began = std::time::Instant::now();
        let row = provisioner.remote_row(&header, &bounds, |_| {}).await.unwrap();
        assert!(began.elapsed() < Duration::from_secs(6), "{what:?}: {:?}", began.elapsed());
        assert!(row.fetched_bytes < MIB, "{what:?}: {}", row.fetched_bytes);
        assert!(row.read >= 2, "{what:?}: {row:?}");
        // Either it is known, or it is said why not.
        assert_eq!(row.model.parameters.is_some(), row.is_whole() && row.why_partial.is_none(), "{what:?}: {row:?}");
        assert!(row.is_whole() || row.why_partial.is_some(), "{what:?}");
    }
}

#[tokio::test]
async fn a_shard_that_is_none_is_a_warning() {
    let absurd = [&(1_u64 << 63).to_le_bytes()[..], &b"{\"a\":1}          "[..]].concat();
    let long = [&(90_000_000_u64).to_le_bytes()[..], &b"{\"a\":{\"dtype\"    "[..]].concat();
    for bytes in [absurd, b"<html>not here</html> and more".to_vec(), vec![0; 100_000], long] {
        let hub = TestHub::start().await;
        let mut files = [beside(), shards(3)].concat();
        files.retain(|(name, _)| name != "model-00002-of-00003.safetensors");
        files.push(("model-00002-of-00003.safetensors".to_owned(), bytes));
        put(&hub, &files);
        let (row, _) = remote(&hub).await;
        assert_eq!(row.model.parameters, None);
        assert!(row.fetched_bytes < MIB);
        same(&files, &row);
    }
}

#[tokio::test]
async fn a_gated_model_is_told_by_what_the_hub_says() {
    let hub = TestHub::start().await;
    put(&hub, &[beside(), shards(3)].concat());
    let sha = "c".repeat(40);
    let info = format!(
        r#"{{"id":"{REPOSITORY}","sha":"{sha}","gated":"manual","safetensors":{{"parameters":{{"BF16":70}},"total":70}},
        "gguf":null}}"#
    );
    let base = tempfile::tempdir().unwrap();
    let provisioner = provisioner(&hub, base.path());
    let client = provisioner.hub().unwrap();
    let repository = client.repository(REPOSITORY, None).await.unwrap();
    let files = client.listing(&repository).await.unwrap().files;
    hub.fault(Fault::on("/api/models/acme/tiny", What::json(&info)));
    let repository = client.repository(REPOSITORY, None).await.unwrap();
    assert_eq!(repository.summary.parameters, Some(70));
    let header = RemoteHeader::of(&repository, &files).unwrap();
    assert_eq!(header.summary.parameters, Some(70));
    let refusal = || {
        let headers = vec![("x-error-code", "GatedRepo".to_owned())];
        What::Answer(401, headers, "Access to model acme/tiny is restricted.".to_owned())
    };
    hub.fault(Fault::on("/resolve/", refusal()).always());
    hub.forget();
    let error = provisioner.remote_row(&header, &Bounds::LOOK, |_| {}).await.unwrap_err();
    assert!(error.to_string().contains("acme/tiny"), "{error}");
    assert!(hub.seen().len() <= 4, "{}", hub.seen().len());
}

#[tokio::test]
async fn what_the_hub_counts_is_said_to_be_its_count() {
    let hub = TestHub::start().await;
    put(&hub, &[beside(), shards(20)].concat());
    let base = tempfile::tempdir().unwrap();
    let provisioner = provisioner(&hub, base.path());
    let mut header = header(&provisioner).await;
    header.summary.parameters = Some(12_000_000);
    let row = provisioner.remote_row(&header, &Bounds { headers: 5, ..Bounds::LOOK }, |_| {}).await.unwrap();
    assert_eq!(row.model.parameters, None);
    assert_eq!(row.parameters_line().as_deref(), Some("12M by the count of the hub"));
    let row = provisioner.remote_row(&header, &Bounds::LOOK, |_| {}).await.unwrap();
    assert!(row.model.parameters.is_some() && row.stated.is_none());
}

#[tokio::test]
async fn the_token_stays_at_the_hub() {
    let hub = TestHub::with_token("hf_secret").await;
    put(&hub, &[beside(), shards(3)].concat());
    // Large enough to be sent from another origin.
    let bytes = safetensors(&[("model.layers.9.mlp.weight".to_owned(), "BF16", vec![8192, 1024])]);
    hub.put(REPOSITORY, "model-00002-of-00003.safetensors", &bytes);
    let base = tempfile::tempdir().unwrap();
    let provisioner =
        ModelProvisioner::builder(base.path().to_owned()).endpoint(hub.endpoint()).token(Some("hf_secret")).build();
    let header = header(&provisioner).await;
    let row = provisioner.remote_row(&header, &Bounds::LOOK, |_| {}).await.unwrap();
    assert!(row.is_whole(), "{:?}", row.why_partial);
    let there = hub.seen().into_iter().filter(|seen| seen.origin == rbee_hive::mirror::Origin::Bytes);
    let there: Vec<_> = there.collect();
    assert!(!there.is_empty() && there.iter().all(|seen| seen.authorization.is_none()));
}

#[tokio::test]
async fn who_moves_on_is_not_waited_for() {
    let hub = TestHub::start().await;
    put(&hub, &[beside(), shards(40)].concat());
    let base = tempfile::tempdir().unwrap();
    let provisioner = provisioner(&hub, base.path());
    let header = header(&provisioner).await;
    hub.forget();
    hub.fault(Fault::on("model-00030", What::Silence).always());
    let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
    let task = tokio::spawn(async move {
        let told = |row: &Arc<RemoteRow>| drop(sender.send(Arc::clone(row)));
        provisioner.remote_row(&header, &Bounds::LOOK, told).await
    });
    assert!(receiver.recv().await.unwrap().coming);
    task.abort();
    assert!(task.await.unwrap_err().is_cancelled());
    let asked = hub.seen().len();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(hub.seen().len() <= asked + 8, "{asked}, then {}", hub.seen().len());
}

#[tokio::test]
async fn a_damaged_row_on_the_hub_is_damaged_here() {
    let mut files = [beside(), shards(3)].concat();
    for (name, bytes) in &mut files {
        if name == "model-00002-of-00003.safetensors" {
            bytes.truncate(bytes.len() - 10);
        }
    }
    let hub = TestHub::start().await;
    put(&hub, &files);
    let (row, _) = remote(&hub).await;
    assert_eq!(row.model.damage, Some(FileStatus::Truncated));
    same(&files, &row);
}
