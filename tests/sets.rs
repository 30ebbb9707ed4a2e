//! Sets of weights in several files: what their names, their index and their headers say of each other, in tables and in
//! verification alike.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use rbee_hive::format::gguf::{TensorType, Writer};
use rbee_hive::model::memory::{Conditions, Device, HostMemory, Verdict};
use rbee_hive::model::{FileStatus, Model, ModelId, StoreKind};
use rbee_hive::store::fit::fit_of_row;
use rbee_hive::store::flat::FlatStore;
use rbee_hive::store::hf::HfStore;
use rbee_hive::store::verify::{self, Depth, Options, Task};
use rbee_hive::store::{Row, Store};
use support::hf_cache::{Cache, commit, whole};
use tokio_util::sync::CancellationToken;

const INDEX: &str = "model.safetensors.index.json";
const CONFIG: &str = r#"{"model_type":"llama","num_hidden_layers":1,"num_attention_heads":4,"num_key_value_heads":1,"hidden_size":128,"vocab_size":10}"#;

type Files = Vec<(String, Vec<u8>)>;

/// A safetensors file with one F16 tensor of so many numbers for each name.
fn shard(tensors: &[(&str, usize)]) -> Vec<u8> {
    let (mut entries, mut end) = (Vec::new(), 0);
    for (name, count) in tensors {
        let begin = end;
        end += count * 2;
        entries.push(format!(r#""{name}":{{"dtype":"F16","shape":[{count}],"data_offsets":[{begin},{end}]}}"#));
    }
    let header = format!("{{{}}}", entries.join(","));
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.resize(bytes.len() + end, 1);
    bytes
}

/// One tensor of 10 numbers a file, and the index that names them.
fn set(names: &[String]) -> Files {
    let tensor = |at: usize| format!("t{at}");
    let map: BTreeMap<String, &String> = names.iter().enumerate().map(|(at, name)| (tensor(at), name)).collect();
    let index = serde_json::json!({"metadata": {"total_size": 20 * names.len()}, "weight_map": map}).to_string();
    let mut files: Files =
        names.iter().enumerate().map(|(at, name)| (name.clone(), shard(&[(&tensor(at), 10)]))).collect();
    files.push((INDEX.to_owned(), index.into_bytes()));
    files.push(("config.json".to_owned(), CONFIG.as_bytes().to_vec()));
    files
}

/// What a store says of a model that consists of these files, and what verification finds.
struct Told {
    row: Row,
    quick: BTreeMap<String, FileStatus>,
    full: BTreeMap<String, FileStatus>,
}

impl Told {
    fn of(store: &dyn Store, root: &Path, id: &str) -> Self {
        let mut rows = Vec::new();
        store.scan(&mut |row| rows.push(row), &CancellationToken::new());
        let row = rows.into_iter().find(|row| row.model.identity.id == id).unwrap();
        let check = |depth| {
            let model = ModelId { store: StoreKind::Flat, store_path: root.to_owned(), id: id.to_owned() };
            let files = store.expected(&whole(id)).unwrap();
            let task = Task { model, root: root.to_owned(), files, whole: true };
            let found = verify::one(task, &Options::new(depth), &mut |_| {}, &CancellationToken::new()).unwrap();
            found
                .files
                .into_iter()
                .filter(|check| !check.status.is_ok())
                .map(|check| (check.path, check.status))
                .collect()
        };
        Self { row, quick: check(Depth::Quick), full: check(Depth::Full) }
    }

    fn model(&self) -> &Model {
        &self.row.model
    }

    /// Its warnings without the one that every folder has that was not downloaded here.
    fn warnings(&self) -> Vec<&str> {
        self.model().warnings.iter().map(String::as_str).filter(|line| *line != "origin unknown").collect()
    }

    fn verdict(&self) -> (Verdict, Option<String>) {
        let gpu = Device { label: "GPU0".to_owned(), free_bytes: Some(8 << 30), ..Device::default() };
        let host = HostMemory { gpus: vec![gpu], ..HostMemory::default() };
        let Row { model, metadata, loads, .. } = &self.row;
        let fit = fit_of_row(model, metadata.as_deref(), loads, &host, &Conditions::default()).unwrap();
        (fit.verdict, fit.because)
    }
}

/// The same model in a folder and in a cache.
fn both(files: &Files) -> [Told; 2] {
    let base = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        let path = base.path().join("m").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    let flat = FlatStore::new(base.path().to_owned(), Vec::new());
    let cache = Cache::new();
    for (name, bytes) in files {
        cache.file("models--org--m", &commit('c'), name, bytes);
    }
    cache.reference("models--org--m", "main", &commit('c'));
    let hf: HfStore = cache.store();
    [Told::of(&flat, flat.root(), "m"), Told::of(&hf, hf.root(), "org/m")]
}

fn without(mut files: Files, name: &str) -> Files {
    files.retain(|(known, _)| known != name);
    files
}

fn counted(numbers: impl Iterator<Item = u32>, name: impl Fn(u32) -> String) -> Vec<String> {
    numbers.map(name).collect()
}

#[test]
fn a_set_is_what_its_names_count_or_its_index_names() {
    let layers = ["model_layer_0", "model_layer_1", "model-non-layer"].map(|stem| format!("{stem}.safetensors"));
    let cases = [
        (counted(1..=12, |n| format!("model-{n:05}-of-000012.safetensors")), 4, "shard 5 of 12 is missing"),
        (counted(1..=12, |n| format!("model-{n}-of-12.safetensors")), 9, "shard 10 of 12 is missing"),
        // One more than their names say, and from 0.
        (counted(0..=2, |n| format!("model-{n:05}-of-00002.safetensors")), 0, "shard 0 of 2 is missing"),
        (counted(0..=2, |n| format!("model-{n:05}-of-00002.safetensors")), 2, "shard 2 of 2 is missing"),
        (layers.to_vec(), 1, "model_layer_1.safetensors is missing, named by model.safetensors.index.json"),
    ];
    for (names, gone, words) in cases {
        let files = set(&names);
        for told in both(&files) {
            let model = told.model();
            assert_eq!((model.complete, model.parameters), (true, Some(10 * names.len() as u64)), "{names:?}");
            assert_eq!(told.warnings(), [""; 0], "{names:?}");
            assert_eq!((told.quick.len(), told.full.len()), (0, 0), "{names:?}");
            assert_eq!(told.verdict().0, Verdict::Fits);
        }
        for told in both(&without(files, &names[gone])) {
            let model = told.model();
            let least = 10 * (names.len() as u64 - 1);
            assert_eq!((model.complete, model.parameters, model.parameters_at_least), (false, None, Some(least)));
            assert_eq!(model.damage, Some(FileStatus::Missing));
            let warnings = told.warnings();
            assert!(warnings.len() == 1 && warnings[0].contains(words), "{warnings:?}");
            assert!(warnings[0].contains(&names[gone]), "{warnings:?}");
            let missing = BTreeMap::from([(names[gone].clone(), FileStatus::Missing)]);
            assert_eq!((&told.quick, &told.full), (&missing, &missing));
            let (verdict, because) = told.verdict();
            assert_eq!((verdict, because.as_deref()), (Verdict::Unknown, Some("not all of its weights are here")));
        }
    }
}

#[test]
fn without_an_index_the_names_count() {
    let names = counted(0..=1, |n| format!("model-{n}-of-2.safetensors"));
    for told in both(&without(set(&names), INDEX)) {
        assert_eq!((told.model().complete, told.model().parameters, told.full.len()), (true, Some(20), 0));
    }
    let names = counted(1..=4, |n| format!("model-{n}-of-4.safetensors"));
    let files = without(without(without(set(&names), INDEX), &names[1]), &names[2]);
    for told in both(&files) {
        let words = "model: shards 2-3 of 4 are missing (model-2-of-4.safetensors, model-3-of-4.safetensors)";
        assert_eq!(told.warnings(), [words]);
        // What a cache has is what its links name: nobody promised the others.
        assert_eq!(told.full.len(), 2, "{:?}", told.full);
    }
}

#[test]
fn the_index_is_compared_with_the_headers() {
    let names = counted(1..=2, |n| format!("model-{n:05}-of-00002.safetensors"));
    let (a, b) = (shard(&[("a", 10)]), shard(&[("b", 20)]));
    let with = |first: &[u8], second: &[u8], map: &str, total: u64| -> Files {
        let index = format!(r#"{{"metadata":{{"total_size":{total}}},"weight_map":{map}}}"#);
        vec![
            (names[0].clone(), first.to_vec()),
            (names[1].clone(), second.to_vec()),
            (INDEX.to_owned(), index.into_bytes()),
            ("config.json".to_owned(), CONFIG.as_bytes().to_vec()),
        ]
    };
    let map = format!(r#"{{"a":"{}","b":"{}"}}"#, names[0], names[1]);
    let damaged = |files: &Files, lines: usize, words: &str| {
        for told in both(files) {
            assert!(!told.model().complete && told.model().damage == Some(FileStatus::Corrupt), "{words}");
            let warnings = told.warnings();
            assert!(warnings.len() == lines && warnings[0].contains(words), "{warnings:?}");
            assert_eq!(told.quick.values().collect::<Vec<_>>(), vec![&FileStatus::Corrupt; lines], "{:?}", told.quick);
            assert_eq!(told.full, told.quick);
        }
    };
    damaged(&with(&b, &a, &map, 60), 2, "it has the tensors that model.safetensors.index.json says are in");
    let more = format!(r#"{{"a":"{0}","b":"{1}","c":"{1}"}}"#, names[0], names[1]);
    damaged(&with(&a, &b, &more, 60), 1, "says that tensor 'c' is in it, which it is not");
    damaged(&with(&a, &b, r#"{"a":"../x"}"#, 60), 1, "no plain file name");
    // What nobody misses, and a wrong sum.
    let both_there = shard(&[("b", 20), ("z", 5)]);
    for (files, words) in [
        (with(&a, &both_there, &map, 70), None),
        (with(&a, &b, &map, 999), Some("it says that all tensors take 999 bytes, they take 60")),
    ] {
        for told in both(&files) {
            assert!(told.model().complete && told.full.is_empty(), "{:?}", told.warnings());
            let warnings = told.warnings();
            assert_eq!(warnings.len(), usize::from(words.is_some()), "{warnings:?}");
            assert!(words.is_none_or(|words| warnings[0].contains(words)), "{warnings:?}");
        }
    }
}

#[test]
fn an_index_may_name_files_in_folders_below_it_and_idle_ones_are_passed_over() {
    let names = counted(1..=2, |n| format!("sub/model-{n:05}-of-00002.safetensors"));
    for told in both(&set(&names)) {
        assert_eq!((told.model().complete, told.model().parameters), (true, Some(20)), "{:?}", told.warnings());
        assert!(told.full.is_empty(), "{:?}", told.full);
    }
    let mut files = set(&counted(1..=2, |n| format!("model-{n:05}-of-00002.safetensors")));
    files.retain(|(name, _)| !name.ends_with("00002.safetensors"));
    files.push(("model.safetensors".to_owned(), shard(&[("all", 20)])));
    for told in both(&files) {
        assert!(told.model().complete && told.full.is_empty(), "{:?} {:?}", told.warnings(), told.full);
        assert!(told.warnings()[0].contains("names files that are not here"), "{:?}", told.warnings());
    }
}

#[test]
fn a_pipeline_has_the_parameters_of_all_its_parts() {
    let file = |name: &str, bytes: Vec<u8>| (name.to_owned(), bytes);
    let files = vec![
        file("model_index.json", br#"{"_class_name":"StableDiffusionPipeline"}"#.to_vec()),
        file("unet/diffusion_pytorch_model.safetensors", shard(&[("u", 1000)])),
        file("unet/diffusion_pytorch_model.fp16.safetensors", shard(&[("u", 1000)])),
        file("vae/diffusion_pytorch_model.safetensors", shard(&[("v", 50)])),
        file("text_encoder/model.safetensors", shard(&[("t", 300)])),
        file("text_encoder/config.json", CONFIG.as_bytes().to_vec()),
    ];
    for told in both(&files) {
        assert_eq!((told.model().complete, told.model().parameters), (true, Some(1350)), "{:?}", told.warnings());
        // What a text encoder keeps in memory says nothing of the others.
        assert_eq!(told.verdict().0, Verdict::Unknown);
    }
}

fn part(number: u16, count: u16, all: i32, tensors: &[&str]) -> Vec<u8> {
    let writer = if number == 0 { Writer::new("llama").key("llama.block_count", 1_u32) } else { Writer::bare() };
    let writer = writer.key("split.no", number).key("split.count", count).key("split.tensors.count", all);
    let writer = tensors.iter().fold(writer, |writer, name| writer.tensor(name, &[256, 4], TensorType::F16));
    let mut bytes = Vec::new();
    writer.write_to(&mut bytes, 1).unwrap();
    bytes
}

#[test]
fn parts_of_gguf_agree_with_their_names_and_with_each_other() {
    let name = |number: u32| format!("m-{number:05}-of-00002.gguf");
    let of = |first: Vec<u8>, second: Vec<u8>| -> Files { vec![(name(1), first), (name(2), second)] };
    let damaged = [
        (of(part(0, 2, 5, &["a"]), part(1, 2, 5, &["b"])), "the shards have 2 tensors together, their headers say 5"),
        (of(part(1, 2, 2, &["a"]), part(0, 2, 2, &["b"])), "shard 1 of 2 by its name, 2 of 2 by its header"),
        (of(part(0, 3, 2, &["a"]), part(1, 3, 2, &["b"])), "shard 1 of 2 by its name, 1 of 3 by its header"),
        (vec![("m.gguf".to_owned(), part(0, 3, 1, &["a"]))], "its header says that it is shard 1 of 3"),
        (vec![("m.gguf".to_owned(), part(7, 3, 1, &["a"]))], "its header says that it is one of 3 shards"),
    ];
    for (files, words) in damaged {
        for told in both(&files) {
            assert!(!told.model().complete && !told.quick.is_empty() && !told.full.is_empty(), "{words}");
            assert!(told.quick.values().all(|status| *status == FileStatus::Corrupt), "{words}: {:?}", told.quick);
            let warnings = told.warnings();
            assert_eq!(
                warnings.iter().filter(|line| line.contains("its header") || line.contains("together")).count(),
                1
            );
            assert!(warnings.iter().any(|line| line.contains(words)), "{warnings:?}");
        }
    }
    // Keys alone in the first part: the others tell the type of the weights.
    for told in both(&of(part(0, 2, 1, &[]), part(1, 2, 1, &["b"]))) {
        let model = told.model();
        assert!(model.complete && told.full.is_empty(), "{:?}", told.warnings());
        assert_eq!((model.quantization_label().as_str(), model.parameters), ("F16?", Some(1024)));
    }
    for told in both(&of(part(0, 2, 2, &["same"]), part(1, 2, 2, &["same"]))) {
        // No loader takes a tensor twice.
        assert_eq!((told.model().complete, told.model().damage), (false, Some(FileStatus::Corrupt)));
        assert!(!told.quick.is_empty() && !told.full.is_empty());
        assert_eq!(told.warnings(), [format!("{}: 1 tensor of it is in {} as well", name(2), name(1))]);
    }
    let cut = |bytes: Vec<u8>| bytes[..bytes.len() - 1].to_vec();
    for told in both(&of(part(0, 2, 2, &["a"]), cut(part(1, 2, 2, &["b"])))) {
        assert_eq!(told.warnings(), [format!("{} is cut short, 1 byte is missing", name(2))]);
        let (verdict, because) = told.verdict();
        assert!(verdict == Verdict::Unknown && because.unwrap().contains("cut short"));
        assert_eq!(told.model().parameters, Some(2048), "the headers name all tensors");
    }
}

#[test]
fn pieces_of_a_file_are_weights_that_have_to_be_joined() {
    let mut whole = Vec::new();
    let writer = Writer::new("llama").key("llama.context_length", 4096_u32).key("general.file_type", 1_u32);
    writer.tensor("t", &[256, 64], TensorType::F16).write_to(&mut whole, 1).unwrap();
    let cut = |names: &[&str], kept: &[usize]| -> Files {
        let length = whole.len().div_ceil(names.len());
        let pieces = names.iter().zip(whole.chunks(length)).enumerate().filter(|(at, _)| kept.contains(at));
        pieces.map(|(_, (name, bytes))| ((*name).to_owned(), bytes.to_vec())).collect()
    };
    for names in [
        ["m.gguf-split-a", "m.gguf-split-b", "m.gguf-split-c"],
        ["m.gguf.part1of3", "m.gguf.part2of3", "m.gguf.part3of3"],
        ["m.gguf.part00", "m.gguf.part01", "m.gguf.part02"],
    ] {
        for told in both(&cut(&names, &[0, 1, 2])) {
            let model = told.model();
            assert_eq!((model.complete, model.parameters), (true, Some(16_384)), "{:?}", told.warnings());
            assert_eq!((model.architecture.as_deref(), model.context_length), (Some("llama"), Some(4096)));
            assert_eq!(
                told.warnings(),
                ["m.gguf is here in 3 pieces, which nothing loads before they are joined in one file"]
            );
            assert!(told.quick.is_empty() && told.full.is_empty(), "{:?}", told.full);
        }
        for told in both(&cut(&names, &[0, 2])) {
            assert!(!told.model().complete && told.model().damage.is_some());
            assert!(told.warnings().iter().any(|line| line.contains(names[1])), "{:?}", told.warnings());
            assert_eq!(told.full, BTreeMap::from([(names[1].to_owned(), FileStatus::Missing)]));
            assert_eq!(told.quick, told.full);
        }
        for told in both(&cut(&names, &[0, 1])) {
            assert!(!told.model().complete, "{names:?}: {:?}", told.warnings());
            assert_eq!(told.full.len(), 1, "{:?}", told.full);
        }
        for told in both(&cut(&names, &[1, 2])) {
            assert!(!told.model().complete && !told.full.is_empty(), "{names:?}: {:?}", told.warnings());
        }
    }
}

#[test]
fn what_a_name_claims_to_be_missing_is_counted_and_not_listed() {
    let base = tempfile::tempdir().unwrap();
    let header = [b"GGUF\x03\0\0\0".as_slice(), &[0; 16]].concat();
    fs::create_dir(base.path().join("m")).unwrap();
    const SETS: usize = 40;
    for set in 0..SETS {
        fs::write(base.path().join(format!("m/m{set}-00001-of-65535.gguf")), &header).unwrap();
    }
    // A second name of one of them is there by a link.
    std::os::unix::fs::symlink("m0-00001-of-65535.gguf", base.path().join("m/m0-00009-of-65535.gguf")).unwrap();
    let store = FlatStore::new(base.path().to_owned(), Vec::new());
    let files = store.expected(&whole("m")).unwrap();
    assert!(files.len() < 1300, "{}", files.len());
    let model = ModelId { store: StoreKind::Flat, store_path: base.path().to_owned(), id: "m".to_owned() };
    let task = Task { model, root: base.path().to_owned(), files, whole: true };
    let found = verify::one(task, &Options::new(Depth::Quick), &mut |_| {}, &CancellationToken::new()).unwrap();
    let missing: Vec<_> = found.files.iter().filter(|check| check.status == FileStatus::Missing).collect();
    assert!((1000..1300).contains(&missing.len()), "{}", missing.len());
    let all = missing.len() as u64 + missing.iter().map(|check| check.more_missing).sum::<u64>();
    assert_eq!(all, SETS as u64 * 65_534 - 1);
    for set in 0..SETS {
        let of_set = |check: &&&rbee_hive::model::FileCheck| check.path.starts_with(&format!("m{set}-"));
        assert!(
            missing.iter().filter(of_set).count() >= 3 && missing.iter().filter(of_set).any(|c| c.more_missing > 0)
        );
    }
    let row = store.details("m").unwrap().model;
    let line = "m1: shards 2-65535 of 65535 are missing (m1-00002-of-65535.gguf, m1-00003-of-65535.gguf, \
                m1-00004-of-65535.gguf, 65531 more)";
    assert!(row.warnings.iter().any(|warning| warning == line), "{:?}", row.warnings);
}

#[test]
fn without_its_first_shard_nobody_knows_of_a_chat_template() {
    let of = |number: u16| part(number, 3, 3, &[["a", "b", "c"][usize::from(number)]]);
    for (numbers, template) in [(&[1_u16, 2][..], None), (&[0, 2], Some(false)), (&[0, 1, 2], Some(false))] {
        let files: Files =
            numbers.iter().map(|number| (format!("m-{:05}-of-00003.gguf", number + 1), of(*number))).collect();
        for told in both(&files) {
            let metadata = told.row.metadata.as_ref().unwrap();
            assert_eq!(metadata.chat_template, template, "{numbers:?}");
            assert_eq!(metadata.facts().iter().any(|(name, _)| *name == "chat template"), template.is_some());
        }
    }
}

#[test]
fn a_guessed_label_gives_way_to_the_tensors() {
    for (file_type, kind, shown) in
        [(1024 | 1, TensorType::Q4_K, "Q4_K?"), (1024 | 15, TensorType::Q4_K, "Q4_K_M?"), (1, TensorType::Q4_K, "F16")]
    {
        let mut bytes = Vec::new();
        let writer = Writer::new("llama").key("general.file_type", file_type as u32);
        writer.tensor("t", &[256, 64], kind).write_to(&mut bytes, 1).unwrap();
        for told in both(&vec![("m.gguf".to_owned(), bytes.clone())]) {
            assert_eq!(told.model().quantization_label(), shown);
        }
    }
}
