//! What headers tell about memory, for models whose cache llama.cpp printed.

use rbee_hive::format::Metadata;
use rbee_hive::format::config_json::Config;
use rbee_hive::format::gguf::{TensorType, Value, Writer};
use rbee_hive::model::Format;
use rbee_hive::model::memory::{CacheLayers, CacheType, Conditions, Need, Shape, Weights, need};

use crate::support::{metadata, written};

const MIB: u64 = 1 << 20;

fn model(architecture: &str, keys: &[(&str, Value)]) -> Shape {
    let mut writer = Writer::new(architecture);
    for (key, value) in keys {
        writer = writer.key(&format!("{architecture}.{key}"), value.clone());
    }
    metadata(&written(&writer.tensor("blk.0.attn_q.weight", &[32, 2], TensorType::F16))).unwrap().shape
}

fn at(shape: &Shape, context: u64, conditions: Conditions) -> Result<Need, String> {
    let conditions = Conditions { context: Some(context), ..conditions };
    need(shape, Weights { bytes: 1000, extra_bytes: 0 }, Some(32), None, &conditions)
}

fn cache(shape: &Shape, context: u64) -> u64 {
    at(shape, context, Conditions::default()).unwrap().cache_bytes
}

fn keys(layers: u32, heads: u32, heads_kv: u32, embedding: u32) -> Vec<(&'static str, Value)> {
    vec![
        ("block_count", layers.into()),
        ("attention.head_count", heads.into()),
        ("attention.head_count_kv", heads_kv.into()),
        ("embedding_length", embedding.into()),
    ]
}

fn with(mut keys: Vec<(&'static str, Value)>, more: &[(&'static str, Value)]) -> Vec<(&'static str, Value)> {
    keys.extend(more.iter().cloned());
    keys
}

#[test]
fn plain_models_are_computed_from_embedding_and_heads_or_from_what_the_file_says() {
    let llama = model("llama", &with(keys(32, 32, 8, 4096), &[("vocab_size", 128_256_u32.into())]));
    assert_eq!(cache(&llama, 8192), 1024 * MIB);
    assert_eq!((llama.vocabulary, llama.embedding_length, llama.heads), (Some(128_256), Some(4096), Some(32)));
    assert_eq!(cache(&model("qwen2", &keys(28, 28, 4, 3584)), 32_768), 1792 * MIB);
    // Heads of 128 although embedding / heads is 64.
    let sizes = [("attention.key_length", 128_u32.into()), ("attention.value_length", 128_u32.into())];
    let qwen3 = model("qwen3moe", &with(keys(48, 32, 4, 2048), &sizes));
    assert_eq!((cache(&qwen3, 4096), cache(&qwen3, 40_960)), (384 * MIB, 3840 * MIB));
    assert_eq!(cache(&qwen3, 40_960) - cache(&qwen3, 4096), 3456 * MIB);
    // The recipe of one layer.
    let one = model("llama", &keys(1, 4, 1, 128));
    assert_eq!(cache(&one, 4096), 524_288);
    let small = Conditions { cache_type: CacheType::Q8_0, ..Conditions::default() };
    assert_eq!(at(&one, 4096, small).unwrap().cache_bytes, 278_528);
    // Without a number of its own, as many key and value heads as heads.
    let without =
        [("block_count", 1_u32.into()), ("attention.head_count", 4_u32.into()), ("embedding_length", 128_u32.into())];
    assert_eq!(cache(&model("llama", &without), 4096), 4 * 524_288);
}

#[test]
fn a_number_that_makes_no_sense_makes_the_need_unknown_never_small() {
    let fits = |keys: &[(&str, Value)]| at(&model("llama", keys), 4096, Conditions::default());
    let plain = keys(4, 8, 2, 512);
    assert!(fits(&plain).is_ok());
    let number = |n: u64| Value::from(n);
    for (key, value) in [
        ("embedding_length", number(0)),
        ("embedding_length", number(3)),
        ("embedding_length", number(u64::MAX)),
        ("embedding_length", Value::I32(-512)),
        ("attention.head_count", number(0)),
        ("attention.key_length", number(0)),
        ("attention.value_length", number(0)),
        ("vocab_size", number(0)),
        ("vocab_size", number(u64::MAX)),
        ("vocab_size", "many".into()),
        ("ssm.inner_size", number(0)),
        ("wkv.head_size", number(0)),
    ] {
        let mut keys: Vec<_> = plain.iter().filter(|(known, _)| *known != key).cloned().collect();
        keys.push((key, value.clone()));
        assert!(fits(&keys).is_err(), "{key} {value:?}");
        // Nor where the length of the heads does not follow from it.
        if !key.ends_with("y_length") && !key.ends_with("value_length") {
            keys.extend([("attention.key_length", number(64)), ("attention.value_length", number(64))]);
            assert!(fits(&keys).is_err(), "{key} {value:?} with lengths");
        }
    }
    let heads = [("attention.key_length", number(0)), ("attention.value_length", number(0))];
    assert!(fits(&with(keys(4, 8, 2, 512), &heads)).is_err());
}

#[test]
fn the_vocabulary_is_the_largest_that_the_file_has() {
    let of = |size: Option<u32>, tokens: usize, rows: u64| {
        let mut writer = Writer::new("llama");
        for (key, value) in keys(4, 8, 2, 512) {
            writer = writer.key(&format!("llama.{key}"), value);
        }
        if let Some(size) = size {
            writer = writer.key("llama.vocab_size", size);
        }
        if tokens > 0 {
            writer = writer.key("tokenizer.ggml.tokens", vec!["t".to_owned(); tokens]);
        }
        let shape =
            metadata(&written(&writer.tensor("token_embd.weight", &[32, rows], TensorType::F16))).unwrap().shape;
        (shape.vocabulary, at(&shape, 4096, Conditions::default()).map(|need| need.compute_bytes).ok())
    };
    let bytes = |tokens: u64| (Some(tokens), Some((tokens + 512) * 512 * 4));
    assert_eq!(of(Some(0), 320, 2), bytes(320));
    assert_eq!(of(Some(400), 320, 2), bytes(400));
    assert_eq!(of(None, 320, 384), bytes(384));
    assert_eq!(of(None, 0, 384), bytes(384));
    assert_eq!(of(Some(1), 0, 384), bytes(384));
}

#[test]
fn models_without_attention_need_no_heads() {
    let mamba = model(
        "mamba",
        &[
            ("block_count", 24_u32.into()),
            ("embedding_length", 768_u32.into()),
            ("ssm.conv_kernel", 4_u32.into()),
            ("ssm.inner_size", 1536_u32.into()),
            ("ssm.state_size", 16_u32.into()),
        ],
    );
    assert_eq!((mamba.cache.as_deref(), mamba.state_bytes), (Some(&[][..]), 24 * (3 * 1536 + 16 * 1536) * 4));
    let rwkv = model(
        "rwkv7",
        &[("block_count", 2_u32.into()), ("embedding_length", 768_u32.into()), ("wkv.head_size", 64_u32.into())],
    );
    assert_eq!((rwkv.cache.as_deref(), rwkv.state_bytes), (Some(&[][..]), 2 * (2 * 768 + 768 * 64) * 4));
    // A model with attention in some layers says in which.
    let hybrid = model(
        "jamba",
        &[("block_count", 2_u32.into()), ("ssm.inner_size", 8_u32.into()), ("ssm.state_size", 8_u32.into())],
    );
    assert_eq!(hybrid.cache, None);
}

#[test]
fn every_integer_type_and_a_list_give_the_same_answer() {
    let plain = model("llama", &keys(4, 4, 2, 128));
    for value in [Value::U8(2), Value::U16(2), Value::U64(2), Value::I32(2), Value::I64(2), vec![2_u32; 4].into()] {
        let mut keys = keys(4, 4, 2, 128);
        keys[2].1 = value.clone();
        assert_eq!(model("llama", &keys), plain, "{value:?}");
    }
    let dashed = model("command-r", &keys(4, 4, 2, 128));
    assert_eq!(dashed.cache, plain.cache);
}

#[test]
fn windows_follow_the_architecture_or_the_file() {
    let sizes = [
        ("attention.key_length", 256_u32.into()),
        ("attention.value_length", 256_u32.into()),
        ("attention.sliding_window", 1024_u32.into()),
    ];
    let gemma = with(keys(34, 8, 4, 2560), &sizes);
    let shape = model("gemma3", &gemma);
    assert_eq!((cache(&shape, 8192), cache(&shape, 32_768)), (334 * MIB, 814 * MIB));
    assert!(!shape.at_most);
    let four = Conditions { sequences: 4, ..Conditions::default() };
    assert_eq!(at(&shape, 32_768, four).unwrap().cache_bytes, 1162 * MIB);
    // The same written into the file, as a number and as a list.
    let list: Vec<bool> = (0..34).map(|layer| layer % 6 != 5).collect();
    for pattern in [Value::U32(6), list.into()] {
        let keys = with(gemma.clone(), &[("attention.sliding_window_pattern", pattern)]);
        assert_eq!(model("new-architecture", &keys).cache, shape.cache);
    }
    // Nobody knows which layers: all of them as a whole, which is said.
    let unknown = model("new-architecture", &gemma);
    assert!(unknown.at_most);
    assert_eq!(cache(&unknown, 8192), 34 * 4 * 512 * 2 * 8192);
    // llama.cpp keeps everything for these.
    assert!(!model("llama", &gemma).at_most);
}

#[test]
fn latent_attention_keeps_keys_alone() {
    let lite = with(
        keys(27, 16, 1, 2048),
        &[
            ("attention.key_length", 576_u32.into()),
            ("attention.value_length", 512_u32.into()),
            ("attention.key_length_mla", 192_u32.into()),
            ("attention.value_length_mla", 128_u32.into()),
        ],
    );
    assert_eq!(cache(&model("deepseek2", &lite), 8192), 243 * MIB);
}

#[test]
fn layers_without_attention_keep_a_state_instead() {
    let ssm = [
        ("ssm.inner_size", 2048_u32.into()),
        ("ssm.conv_kernel", 4_u32.into()),
        ("ssm.state_size", 128_u32.into()),
        ("ssm.group_count", 1_u32.into()),
    ];
    let state = 4 * (3 * (2048 + 2 * 128) + 128 * 2048);
    let mut hybrid = with(keys(4, 8, 0, 1024), &ssm);
    hybrid[2].1 = vec![0_u32, 0, 2, 0].into();
    let shape = model("granitehybrid", &hybrid);
    assert_eq!(shape.cached_layers(), 1);
    assert_eq!((shape.state_bytes, cache(&shape, 4096)), (3 * state, 2 * 256 * 2 * 4096));
    let mut mamba = with(keys(4, 0, 0, 1024), &ssm);
    mamba.remove(2);
    let shape = model("mamba2", &mamba);
    assert_eq!((shape.cache, shape.state_bytes), (Some(Vec::new()), 4 * state));
}

#[test]
fn what_reads_a_text_at_once_keeps_nothing() {
    let bert = with(keys(12, 12, 12, 384), &[("attention.causal", false.into())]);
    assert_eq!(model("bert", &bert).cache, Some(Vec::new()));
    let pooled = with(keys(12, 12, 12, 384), &[("pooling_type", 1_u32.into())]);
    assert_eq!(model("bert", &pooled).cache, Some(Vec::new()));
}

#[test]
fn numbers_that_make_no_sense_leave_the_cache_unknown() {
    for (place, value) in [
        (1, Value::U32(0)),
        (0, Value::U64(u64::MAX)),
        (1, Value::U64(u64::MAX)),
        (2, Value::U64(u64::MAX)),
        (2, Value::I32(-1)),
        (2, Value::from("8")),
        (0, Value::from("32")),
        (0, Value::U32(0)),
        (2, vec![2_u32, 2].into()),
        (2, vec![-1_i32; 4].into()),
        (2, Value::U32(0)),
    ] {
        let mut keys = keys(4, 4, 2, 128);
        keys[place].1 = value.clone();
        if place == 1 {
            keys.remove(2);
        }
        let shape = model("llama", &keys);
        assert!(at(&shape, 4096, Conditions::default()).is_err(), "{place} {value:?}: {shape:?}");
    }
    assert_eq!(model("llama", &[]).cache, None);
}

#[test]
fn tables_of_tokens_are_told_apart_from_the_rest() {
    let base = Writer::new("llama").tensor("token_embd.weight", &[32, 4], TensorType::F16);
    let tied = metadata(&written(&base)).unwrap().shape;
    assert_eq!((tied.embedding_bytes, tied.output), (256, false));
    let own = metadata(&written(&base.tensor("output.weight", &[32, 4], TensorType::F16))).unwrap().shape;
    assert_eq!((own.embedding_bytes, own.output), (256, true));
    let words = Writer::new("llama").key("tokenizer.ggml.tokens", vec!["a", "b", "c"]);
    assert_eq!(metadata(&written(&words)).unwrap().shape.vocabulary, Some(3));
}

#[test]
fn parts_add_up() {
    let whole = Writer::new("llama").key("llama.block_count", 2_u32).key("llama.attention.head_count", 4_u32);
    let whole = whole.key("llama.embedding_length", 128_u32);
    let whole = whole
        .tensor("token_embd.weight", &[32, 4], TensorType::F16)
        .tensor("a", &[32, 4], TensorType::F32)
        .tensor("output.weight", &[32, 4], TensorType::F16);
    let one = metadata(&written(&whole)).unwrap();
    let mut parts = whole.into_shards(3).into_iter().map(|part| metadata(&written(&part)).unwrap());
    let mut sum = parts.next().unwrap();
    for part in parts {
        sum.add_part(&part);
    }
    assert_eq!((sum.parts, sum.parameters, sum.tensor_bytes), (3, one.parameters, one.tensor_bytes));
    assert_eq!((sum.tensors, &sum.shape), (one.tensors, &one.shape));
}

fn configured(text: &str) -> Shape {
    let mut metadata = Metadata::unknown(Format::Safetensors);
    Config::parse(text.as_bytes()).unwrap().complete(&mut metadata);
    metadata.shape
}

#[test]
fn a_config_tells_the_same() {
    let llama = r#"{"model_type":"llama","num_hidden_layers":32,"num_attention_heads":32,"num_key_value_heads":8,"hidden_size":4096,"vocab_size":128256,"head_dim":null}"#;
    let shape = configured(llama);
    assert_eq!((cache(&shape, 8192), shape.vocabulary), (1024 * MIB, Some(128_256)));
    let qwen3 = r#"{"model_type":"qwen3_moe","num_hidden_layers":48,"num_attention_heads":32,"num_key_value_heads":4,"hidden_size":2048,"head_dim":128,"sliding_window":4096,"use_sliding_window":false}"#;
    assert_eq!(cache(&configured(qwen3), 4096), 384 * MIB);
    assert!(!configured(qwen3).at_most);
    let latent = r#"{"model_type":"deepseek_v2","num_hidden_layers":27,"num_attention_heads":16,"hidden_size":2048,"kv_lora_rank":512,"qk_rope_head_dim":64}"#;
    assert_eq!(cache(&configured(latent), 8192), 243 * MIB);
    let nested = r#"{"model_type":"gemma3","text_config":{"model_type":"gemma3_text","num_hidden_layers":34,"num_attention_heads":8,"num_key_value_heads":4,"hidden_size":2560,"head_dim":256,"sliding_window":1024}}"#;
    assert_eq!(cache(&configured(nested), 8192), 334 * MIB);
    let types = r#"{"model_type":"x","num_hidden_layers":3,"num_attention_heads":4,"hidden_size":128,"sliding_window":256,"layer_types":["sliding_attention","linear_attention","full_attention"]}"#;
    let layer = |window| CacheLayers { layers: 1, heads_kv: 4, key_length: 32, value_length: 32, window };
    assert_eq!(configured(types).cache, Some(vec![layer(Some(256)), layer(None)]));
    let gpt2 = r#"{"model_type":"gpt2","n_layer":12,"n_head":12,"n_embd":768,"n_positions":1024,"vocab_size":50257}"#;
    assert_eq!(cache(&configured(gpt2), 1024), 36 * MIB);
    assert_eq!(configured(r#"{"model_type":"bert","num_hidden_layers":6}"#).cache, Some(Vec::new()));
    for nonsense in
        ["{}", r#"{"num_hidden_layers":1e9}"#, r#"{"num_hidden_layers":4,"num_attention_heads":0,"hidden_size":4}"#]
    {
        assert_eq!(configured(nonsense).cache, None, "{nonsense}");
    }
    // MiniMax-M2 with one byte a number.
    let minimax = r#"{"model_type":"minimax_m2","num_hidden_layers":62,"num_attention_heads":48,"num_key_value_heads":8,"head_dim":128,"hidden_size":3072}"#;
    let bytes = Conditions { cache_type: CacheType::F8, ..Conditions::default() };
    assert_eq!(at(&configured(minimax), 196_608, bytes).unwrap().cache_bytes, 24_964_497_408);
}
