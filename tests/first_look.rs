//! The first look of a screen at headers that nobody has read: rows do not wait for vocabularies.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::slice;
use std::sync::{Arc, Mutex};

use rbee_hive::format::gguf::{TensorType, Writer};
use rbee_hive::provisioner::{Inventory, ScanEvent};
use rbee_hive::store::Store;
use rbee_hive::store::flat::FlatStore;
use rbee_hive::store::headers::Headers;
use rbee_hive::store::hf::HfStore;
use rbee_hive::store::llama_cpp::LlamaCppStore;
use rbee_hive::store::lm_studio::LmStudioStore;
use rbee_hive::store::ollama::OllamaStore;
use support::stores::{Ollama, put, sha256};
use tokio_util::sync::CancellationToken;

/// A model whose header is longer than what a first look reads, for a vocabulary of that many tokens.
fn model(tokens: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    Writer::new("llama")
        .key("llama.context_length", 4096_u32)
        .key("tokenizer.ggml.tokens", (0..tokens).map(|n| format!("token {n:06}")).collect::<Vec<_>>())
        .tensor("token_embd.weight", &[256, 4], TensorType::Q4_K)
        .write_to(&mut bytes, tokens as u64)
        .unwrap();
    bytes
}

/// Every kind of store with a model or two in it, whose headers are remembered in a file of `root`.
fn stores(root: &Path) -> Vec<Arc<dyn Store>> {
    let headers = Headers::remembered_in(root.join("cache/headers"));
    let at = |name: &str| root.join(name);
    vec![
        Arc::new(FlatStore::new(at("flat"), Vec::new()).with_headers(headers.clone())),
        Arc::new(HfStore::new(at("hf")).with_headers(headers.clone())),
        Arc::new(OllamaStore::new(&at("ollama")).with_headers(headers.clone())),
        Arc::new(LmStudioStore::new(&at("lmstudio")).with_headers(headers.clone())),
        Arc::new(LlamaCppStore::new(&at("llamacpp")).with_headers(headers)),
    ]
}

fn fill(root: &Path, tokens: usize) {
    let bytes = model(tokens);
    put(root.join("flat/one/one-Q4_K_M.gguf"), &bytes);
    put(root.join("lmstudio/org/one/one-Q4_K_M.gguf"), &bytes);
    put(root.join("llamacpp/one-Q4_K_M.gguf"), &bytes);
    let ollama = Ollama(root.join("ollama"));
    ollama.tag("library/one/8b", &ollama.manifest(&Ollama::config("Q4_K_M"), &[("model", &bytes)]));
    let repository = root.join("hf/models--org--one");
    let (hex, commit) = (sha256(&bytes), "0123456789012345678901234567890123456789");
    put(repository.join("blobs").join(&hex), &bytes);
    put(repository.join("refs/main"), commit.as_bytes());
    let snapshot = repository.join("snapshots").join(commit);
    fs::create_dir_all(&snapshot).unwrap();
    symlink(format!("../../blobs/{hex}"), snapshot.join("one-Q4_K_M.gguf")).unwrap();
}

/// Architecture and parameters.
type Told = (Option<String>, Option<u64>);

/// What each row told, in the order in which it was given.
fn look(stores: Vec<Arc<dyn Store>>) -> BTreeMap<String, Vec<Told>> {
    let told = Mutex::new((BTreeMap::<_, Vec<_>>::new(), 0));
    let count = stores.len();
    let add = |event| {
        let mut told = told.lock().unwrap();
        match event {
            ScanEvent::Row(row) => told
                .0
                .entry(row.model.identity.store.to_string())
                .or_default()
                .push((row.model.architecture.clone(), row.model.parameters)),
            ScanEvent::Store(summary) => {
                assert_eq!(summary.models, 1, "{}", summary.store);
                told.1 += 1;
            }
        }
    };
    Inventory::new(stores, Vec::new()).scan_at_a_glance_first(&add, &CancellationToken::new());
    let (rows, summaries) = told.into_inner().unwrap();
    assert_eq!((summaries, rows.len()), (count, count));
    rows
}

/// Bytes that this process has read.
fn read_so_far() -> u64 {
    let told = fs::read_to_string("/proc/self/io").unwrap();
    told.lines().find_map(|line| line.strip_prefix("rchar: ")).unwrap().parse().unwrap()
}

/// One test, so that nothing else in this process reads meanwhile.
#[test]
fn a_first_look_waits_for_no_vocabulary_and_a_second_start_reads_no_header() {
    let (start, whole) = ((Some("llama".to_owned()), None), (Some("llama".to_owned()), Some(1024)));

    let scratch = tempfile::tempdir().unwrap();
    fill(scratch.path(), 10);
    for (store, told) in look(stores(scratch.path())) {
        assert_eq!(told, slice::from_ref(&whole), "{store}: a short header is read once");
    }

    let scratch = tempfile::tempdir().unwrap();
    fill(scratch.path(), 20_000);
    let (header, before) = (model(20_000).len() as u64, read_so_far());
    for (store, told) in look(stores(scratch.path())) {
        assert_eq!(told, [start.clone(), whole.clone()], "{store}: a long one is looked at first");
    }
    let first = read_so_far() - before;
    assert!(first > 5 * header, "{first} bytes read for five headers of {header}");

    let before = read_so_far();
    for (store, told) in look(stores(scratch.path())) {
        assert_eq!(told, slice::from_ref(&whole), "{store}: what is known is given at once");
    }
    let second = read_so_far() - before;
    assert!(second < header / 4, "{second} bytes read by a second start");

    let before = read_so_far();
    let (rows, _) = Inventory::new(stores(scratch.path()), Vec::new()).scan_all(&CancellationToken::new());
    assert_eq!(rows.iter().filter(|row| row.model.parameters == whole.1).count(), 5);
    let list = read_so_far() - before;
    assert!(list < header / 4, "{list} bytes read by a second start");
}
