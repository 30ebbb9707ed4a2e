//! What the files beside safetensors tell of a row, in a flat folder and in the Hugging Face cache alike.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use std::fs;
use std::sync::Arc;

use rbee_hive::format::Metadata;
use rbee_hive::model::Model;
use rbee_hive::store::Store;
use rbee_hive::store::flat::FlatStore;
use support::hf_cache::{Cache, commit};
use tokio_util::sync::CancellationToken;

/// A header with these tensors, and their data.
fn safetensors(tensors: &[(&str, &str, &[u64], u64)]) -> Vec<u8> {
    let (mut json, mut at) = (String::from("{"), 0);
    for (index, (name, dtype, shape, bytes)) in tensors.iter().enumerate() {
        let comma = if index > 0 { "," } else { "" };
        let end = at + bytes;
        json.push_str(&format!(
            r#"{comma}"{name}":{{"dtype":"{dtype}","shape":{shape:?},"data_offsets":[{at},{end}]}}"#
        ));
        at = end;
    }
    json.push('}');
    let mut bytes = [&(json.len() as u64).to_le_bytes()[..], json.as_bytes()].concat();
    bytes.resize(bytes.len() + usize::try_from(at).unwrap(), 1);
    bytes
}

fn plain() -> Vec<u8> {
    safetensors(&[("w", "BF16", &[4, 4], 32)])
}

/// The same files as a row of each store.
fn rows(files: &[(&str, &[u8])]) -> [(Model, Arc<Metadata>); 2] {
    let cache = Cache::new();
    let flat = tempfile::tempdir().unwrap();
    for (path, bytes) in files {
        cache.file("models--org--a", &commit('1'), path, bytes);
        let to = flat.path().join("a").join(path);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::write(to, bytes).unwrap();
    }
    cache.reference("models--org--a", "main", &commit('1'));
    let hf = cache.store();
    let flat = FlatStore::new(flat.path().to_owned(), Vec::new());
    let stores: [(&dyn Store, &str); 2] = [(&hf, "org/a"), (&flat, "a")];
    stores.map(|(store, id)| {
        let mut rows = Vec::new();
        store.scan(&mut |row| rows.push(row), &CancellationToken::new());
        let row = rows.into_iter().find(|row| row.model.identity.id == id).unwrap();
        let details = store.details(id).unwrap();
        assert_eq!(details.metadata, row.metadata);
        (row.model, details.metadata.unwrap())
    })
}

#[test]
fn a_chat_template_is_found_wherever_it_lies() {
    for (file, bytes, there) in [
        ("chat_template.jinja", &b"{{ messages }}"[..], true),
        ("chat_template.jinja", b"", false),
        ("chat_template.json", br#"{"chat_template":"{{ messages }}"}"#, true),
        ("tokenizer_config.json", br#"{"chat_template":"{{ messages }}"}"#, true),
        ("tokenizer_config.json", br#"{"chat_template":[{"name":"default","template":"x"}]}"#, true),
        ("tokenizer_config.json", br#"{"chat_template":null}"#, false),
        ("generation_config.json", b"{}", false),
    ] {
        for (model, metadata) in rows(&[("model.safetensors", &plain()), (file, bytes)]) {
            let store = model.identity.store;
            assert_eq!(metadata.chat_template, Some(there), "{store}: {file}");
            let told = metadata.facts().into_iter().find(|(name, _)| *name == "chat template").unwrap().1;
            assert_eq!(told, if there { "yes" } else { "no" }, "{store}: {file}");
        }
    }
}

#[test]
fn a_tokenizer_is_told_by_the_best_file_that_there_is() {
    let model = br#"{"model":{"type":"BPE","vocab":{"a":0}}}"#;
    for (files, kind) in [
        (&[("tokenizer.json", &model[..])][..], Some("BPE")),
        (
            &[("tokenizer_config.json", br#"{"tokenizer_class":"GemmaTokenizer"}"#), ("tokenizer.model", b"x")],
            Some("GemmaTokenizer"),
        ),
        (&[("tokenizer.model", b"x")], Some("SentencePiece")),
        (&[("vocab.json", b"{}"), ("merges.txt", b"a b")], Some("BPE")),
        (&[("vocab.json", b"{}")], None),
    ] {
        let weights = plain();
        let all: Vec<(&str, &[u8])> =
            [("model.safetensors", &weights[..])].into_iter().chain(files.iter().copied()).collect();
        for (_, metadata) in rows(&all) {
            assert_eq!(metadata.tokenizer.as_deref(), kind, "{files:?}");
        }
    }
}

#[test]
fn licence_and_base_model_are_told() {
    let apache =
        b"                                 Apache License\n                           Version 2.0, January 2004\n";
    for (files, licence, base) in [
        (&[("README.md", &b"---\nlicense: mit\nbase_model: org/base\n---\n"[..])][..], Some("mit"), Some("org/base")),
        (
            &[("README.md", b"---\nbase_model:\n- a/b\n- c/d\n---\n"), ("LICENSE", apache)],
            Some("apache-2.0"),
            Some("a/b, c/d"),
        ),
        (&[("README.md", b"---\nlicense: mit\n---\n"), ("LICENSE", apache)], Some("mit"), None),
        (&[("README.md", b"# A model\n"), ("LICENSE.txt", b"\nMIT License\n\nCopyright\n")], Some("mit"), None),
        (&[("config.json", b"{}")], None, None),
    ] {
        let weights = plain();
        let all: Vec<(&str, &[u8])> =
            [("model.safetensors", &weights[..])].into_iter().chain(files.iter().copied()).collect();
        for (model, metadata) in rows(&all) {
            assert_eq!((metadata.licence.as_deref(), metadata.base_model.as_deref()), (licence, base), "{files:?}");
            assert!(model.warnings.iter().all(|warning| warning == "origin unknown"), "{:?}", model.warnings);
        }
    }
}

#[test]
fn an_adapter_says_what_it_belongs_to() {
    let factors = safetensors(&[
        ("base_model.model.q.lora_A.weight", "F32", &[8, 16], 512),
        ("base_model.model.q.lora_B.weight", "F32", &[16, 8], 512),
    ]);
    let config = br#"{"base_model_name_or_path":"org/base","peft_type":"LORA","r":8,"lora_alpha":16}"#;
    for (model, metadata) in rows(&[
        ("adapter_model.safetensors", &factors),
        ("adapter_config.json", config),
        ("README.md", b"---\nbase_model: other/words\nlicense: mit\n---\n"),
    ]) {
        assert_eq!(model.parameters, Some(256));
        assert!(metadata.sidecar);
        assert_eq!(metadata.facts()[0], ("kind", "LoRA adapter, rank 8, alpha 16".to_owned()));
        assert_eq!((metadata.base_model.as_deref(), metadata.licence.as_deref()), (Some("org/base"), Some("mit")));
    }
    // Without its configuration the tensors tell.
    for (_, metadata) in rows(&[("adapter_model.safetensors", &factors)]) {
        assert_eq!(metadata.facts()[0], ("kind", "LoRA adapter, rank 8".to_owned()));
    }
    // Beside a model it is not what the row is.
    let both: [(&str, &[u8]); 3] =
        [("adapter_model.safetensors", &factors), ("adapter_config.json", config), ("model.safetensors", &plain())];
    for (model, metadata) in rows(&both) {
        assert_eq!((model.parameters, metadata.sidecar, metadata.base_model.as_deref()), (Some(16), false, None));
    }
    // What is damaged is a warning.
    let damaged: [(&str, &[u8]); 2] = [("adapter_model.safetensors", &factors), ("adapter_config.json", b"{\"r\":")];
    for (model, metadata) in rows(&damaged) {
        assert!(metadata.sidecar);
        assert!(model.warnings.iter().any(|line| line.starts_with("adapter_config.json: ")), "{:?}", model.warnings);
    }
}

#[test]
fn the_configuration_of_packed_weights_may_lie_in_a_file_of_its_own() {
    let layer = |name: &str| safetensors(&[(name, "I32", &[16, 256], 16_384), ("norm.weight", "F16", &[256], 512)]);
    let old = br#"{"bits":4,"group_size":128,"desc_act":false}"#;
    for (model, _) in rows(&[
        ("model.safetensors", &layer("l.qweight")),
        ("config.json", br#"{"model_type":"llama"}"#),
        ("quantize_config.json", old),
    ]) {
        assert_eq!((model.parameters, model.quantization_label().as_str()), (Some(32_768 + 256), "GPTQ-INT4"));
    }
    let fp8 = safetensors(&[("l.weight", "F8_E4M3", &[4, 4], 16), ("l.weight_scale", "F32", &[], 4)]);
    let producer =
        br#"{"producer":{"name":"modelopt"},"quantization":{"quant_algo":"FP8","kv_cache_quant_algo":"FP8"}}"#;
    for (model, _) in rows(&[("model.safetensors", &fp8), ("hf_quant_config.json", producer)]) {
        assert_eq!((model.parameters, model.quantization_label().as_str()), (Some(16), "FP8"));
    }
    // Two parts, of which the second has all that is packed.
    let config = br#"{"model_type":"llama","quantization_config":{"quant_method":"gptq","bits":4}}"#;
    for (model, metadata) in rows(&[
        ("model-00001-of-00002.safetensors", &plain()),
        ("model-00002-of-00002.safetensors", &layer("l.qweight")),
        ("config.json", config),
    ]) {
        assert_eq!((model.parameters, metadata.parameters), (Some(16 + 32_768 + 256), Some(16 + 32_768 + 256)));
        assert_eq!(model.quantization_label(), "GPTQ-INT4");
        assert_eq!(metadata.bits_per_weight(), Some((32 + 16_384 + 512) as f64 * 8.0 / (16 + 32_768 + 256) as f64));
    }
}
