//! What a GGUF file is, is told by its header: projectors, adapters, importance matrices and vocabularies under any name.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use std::fs;
use std::path::Path;

use rbee_hive::format::Kind;
use rbee_hive::format::gguf::{TensorType, Writer};
use rbee_hive::model::{ModelKind, Plan, Quantization, Role};
use rbee_hive::provisioner::ModelProvisioner;
use rbee_hive::store::flat::FlatStore;
use rbee_hive::store::lm_studio::LmStudioStore;
use rbee_hive::store::{Details, Part, Store, Target};
use support::hf_cache::{Cache, commit};

fn bytes(writer: &Writer) -> Vec<u8> {
    let mut bytes = Vec::new();
    writer.write_to(&mut bytes, 1).unwrap();
    bytes
}

fn model() -> Vec<u8> {
    let writer = Writer::new("llama")
        .key("general.file_type", 15_u32)
        .key("llama.block_count", 1_u32)
        .key("llama.embedding_length", 256_u32)
        .key("llama.attention.head_count", 4_u32);
    bytes(&writer.tensor("token_embd.weight", &[256, 512], TensorType::Q4_K))
}

/// A sidecar under a name of its own and under one that says nothing.
struct Sidecar {
    kind: Kind,
    names: [&'static str; 2],
    role: Role,
    bytes: Vec<u8>,
    parameters: Option<u64>,
}

fn sidecars() -> Vec<Sidecar> {
    let typed = |kind: &str| Writer::bare().key("general.type", kind);
    let f32 = TensorType::F32;
    let sidecar = |kind, names, role, parameters: u64, writer: Writer| Sidecar {
        kind,
        names,
        role,
        bytes: bytes(&writer),
        parameters: Some(parameters).filter(|n| *n > 0),
    };
    vec![
        sidecar(
            Kind::Projector,
            ["mmproj-f16.gguf", "vision-model.gguf"],
            Role::Mmproj,
            8192,
            Writer::new("clip").tensor("v.patch", &[256, 32], TensorType::F16),
        ),
        sidecar(
            Kind::Adapter,
            ["m-lora.gguf", "style.gguf"],
            Role::Other,
            2048,
            typed("adapter").tensor("blk.0.a.lora_a", &[256, 8], f32),
        ),
        sidecar(
            Kind::ControlVector,
            ["m-lora.gguf", "cv.gguf"],
            Role::Other,
            256,
            Writer::new("controlvector").tensor("direction.1", &[256], f32),
        ),
        sidecar(
            Kind::Imatrix,
            ["imatrix.gguf", "calibration.gguf"],
            Role::Other,
            257,
            typed("imatrix").tensor("b.in_sum2", &[256], f32).tensor("b.counts", &[1], f32),
        ),
        sidecar(
            Kind::Vocabulary,
            ["ggml-vocab.gguf", "words.gguf"],
            Role::Tokenizer,
            0,
            Writer::new("llama").key("tokenizer.ggml.tokens", vec!["a", "b"]),
        ),
    ]
}

fn put(folder: &Path, files: &[(&str, &[u8])]) {
    fs::create_dir_all(folder).unwrap();
    files.iter().for_each(|(name, bytes)| fs::write(folder.join(name), bytes).unwrap());
}

fn role_of(details: &Details, name: &str) -> Role {
    details.files.iter().find(|file| file.path == name).unwrap().role
}

#[test]
fn beside_a_model_they_are_no_weights_of_it_whatever_they_are_called() {
    for sidecar in sidecars() {
        for name in sidecar.names {
            let files = [("m-Q4_K_M.gguf", model()), (name, sidecar.bytes.clone())];
            let files: Vec<(&str, &[u8])> = files.iter().map(|(name, bytes)| (*name, bytes.as_slice())).collect();
            let scratch = tempfile::tempdir().unwrap();
            put(&scratch.path().join("m"), &files);
            let cache = Cache::new();
            for (name, bytes) in &files {
                cache.file("models--org--m", &commit('1'), name, bytes);
            }
            cache.reference("models--org--m", "main", &commit('1'));
            let flat = FlatStore::new(scratch.path().to_owned(), Vec::new()).details("m").unwrap();
            let hf = cache.store().details("org/m").unwrap();
            for told in [flat, hf] {
                let metadata = told.metadata.as_ref().unwrap();
                assert_eq!((metadata.kind, metadata.sidecar), (Kind::Model, false), "{name}");
                assert_eq!((role_of(&told, "m-Q4_K_M.gguf"), role_of(&told, name)), (Role::Weights, sidecar.role));
                let labels: Vec<&str> = told.model.quantizations.iter().map(Quantization::as_str).collect();
                assert_eq!((labels, told.model.parameters), (vec!["Q4_K_M"], Some(256 * 512)), "{name}");
                // Only the projector is loaded with it.
                let extra = if sidecar.kind == Kind::Projector { 16_384 } else { 0 };
                assert_eq!(told.loads.extra_bytes, extra, "{name}");
            }
            let provisioner = ModelProvisioner::builder(scratch.path().to_owned()).build();
            assert_eq!(provisioner.find_local_model("m"), Some(scratch.path().join("m/m-Q4_K_M.gguf")), "{name}");
        }
    }
}

#[test]
fn alone_they_are_what_they_are_and_no_model() {
    for sidecar in sidecars() {
        for name in sidecar.names {
            let scratch = tempfile::tempdir().unwrap();
            put(&scratch.path().join("m"), &[(name, &sidecar.bytes)]);
            let told = FlatStore::new(scratch.path().to_owned(), Vec::new()).details("m").unwrap();
            let metadata = told.metadata.as_ref().unwrap();
            assert_eq!((metadata.kind, metadata.sidecar), (sidecar.kind, true), "{name}");
            assert_eq!(told.model.parameters, sidecar.parameters, "{name}");
            assert_eq!(role_of(&told, name), sidecar.role, "{name}");
            let named = metadata.facts().into_iter().find(|(fact, _)| *fact == "kind").unwrap().1;
            if sidecar.kind == Kind::Adapter {
                assert_eq!((told.model.kind, named.contains("adapter")), (ModelKind::Model, true), "{named}");
            } else {
                let line = format!("holds no model, but {}", sidecar.kind.with_article());
                assert_eq!((told.model.kind, named), (ModelKind::Other, sidecar.kind.to_string()), "{name}");
                assert!(told.model.warnings.contains(&line), "{:?}", told.model.warnings);
            }
        }
    }
}

/// The same files as a model of each store that keeps several quantizations of one.
fn each_store(files: &[(&str, Vec<u8>)], look: &dyn Fn(&dyn Store, &str)) {
    let scratch = tempfile::tempdir().unwrap();
    let files: Vec<(&str, &[u8])> = files.iter().map(|(name, bytes)| (*name, bytes.as_slice())).collect();
    put(&scratch.path().join("flat/m"), &files);
    put(&scratch.path().join("lmstudio/org/m"), &files);
    let cache = Cache::new();
    for (name, bytes) in &files {
        cache.file("models--org--m", &commit('1'), name, bytes);
    }
    cache.reference("models--org--m", "main", &commit('1'));
    look(&FlatStore::new(scratch.path().join("flat"), Vec::new()), "m");
    look(&LmStudioStore::new(&scratch.path().join("lmstudio")), "org/m");
    look(&cache.store(), "org/m");
}

fn without(store: &dyn Store, id: &str, labels: &[&str]) -> rbee_hive::error::Result<Plan> {
    let target = |label: &&str| Target { id: id.to_owned(), part: Part::Quantization((*label).to_owned()) };
    store.plan_deletion(&labels.iter().map(target).collect::<Vec<_>>())
}

/// The names of GGUF files that go.
fn gone(plan: &Plan) -> Vec<String> {
    let names = plan.steps.iter().map(|step| step.name.to_string_lossy().into_owned());
    let mut names: Vec<String> = names.filter(|name| name.ends_with(".gguf")).collect();
    names.sort();
    names
}

#[test]
fn a_quantization_takes_along_nothing_that_is_no_model() {
    for sidecar in sidecars() {
        let mut other = model();
        other.push(0);
        let files = [("m-Q4_K_M.gguf", model()), ("m-Q8_0.gguf", other), ("x-Q8_0.gguf", sidecar.bytes.clone())];
        each_store(&files, &|store, id| {
            let labels = store.details(id).unwrap().model.selects;
            assert_eq!(labels.iter().map(Quantization::as_str).collect::<Vec<_>>(), ["Q4_K_M", "Q8_0"]);
            let plan = without(store, id, &["Q8_0"]).unwrap();
            assert_eq!((gone(&plan), plan.notes.len()), (vec!["m-Q8_0.gguf".to_owned()], 0), "{}", sidecar.kind);
            if store.root().ends_with("flat") {
                let kept = plan.keep.iter().find(|kept| kept.path.ends_with("x-Q8_0.gguf")).unwrap();
                assert_eq!(kept.because, "also used by m-Q4_K_M.gguf");
            }
        });
    }
}

#[test]
fn the_last_quantization_takes_only_what_serves_it() {
    for sidecar in sidecars() {
        for name in ["x-Q8_0.gguf", sidecar.names[0]] {
            let files = [("m-Q4_K_M.gguf", model()), (name, sidecar.bytes.clone())];
            each_store(&files, &|store, id| {
                let mut all = vec!["m-Q4_K_M.gguf".to_owned()];
                all.extend((sidecar.kind == Kind::Projector).then(|| name.to_owned()));
                assert_eq!(gone(&without(store, id, &["Q4_K_M"]).unwrap()), all, "{} {name}", sidecar.kind);
            });
        }
    }
}

#[test]
fn a_label_that_names_no_model_says_what_it_names() {
    for sidecar in sidecars() {
        let files = [("m-Q4_K_M.gguf", model()), ("x-Q8_0.gguf", sidecar.bytes.clone())];
        each_store(&files, &|store, id| {
            let plan = without(store, id, &["Q8_0"]);
            if sidecar.kind == Kind::Projector {
                // The model that stays loads it.
                assert!(plan.is_err());
                return;
            }
            let plan = plan.unwrap();
            assert_eq!(gone(&plan), ["x-Q8_0.gguf"]);
            let line = format!("no model here is called Q8_0: it names {}", sidecar.kind.with_article());
            assert_eq!(plan.notes, [line]);
        });
    }
}
