//! Whether rows fit: which of several quantizations is judged, and that the table, the details and `info` say the same.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use std::fs;
use std::path::Path;

use rbee_hive::format::gguf::{TensorType, Writer};
use rbee_hive::model::FileStatus;
use rbee_hive::model::memory::{Conditions, Device, HostMemory, Ram, Verdict};
use rbee_hive::store::fit::{FitReport, fit_of_row, report};
use rbee_hive::store::flat::FlatStore;
use rbee_hive::store::lm_studio::LmStudioStore;
use rbee_hive::store::{Details, Row, Store};
use support::hf_cache::{Cache, commit};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

const MIB: u64 = 1 << 20;

/// Weights of so many rows of 256 numbers, whose cache takes next to nothing.
fn gguf(kind: TensorType, file_type: u32, rows: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    Writer::new("llama")
        .key("general.file_type", file_type)
        .key("llama.context_length", 2048_u32)
        .key("llama.block_count", 1_u32)
        .key("llama.embedding_length", 256_u32)
        .key("llama.attention.head_count", 1_u32)
        .tensor("blk.0.weight", &[256, rows], kind)
        .write_to(&mut bytes, 1)
        .unwrap();
    bytes
}

fn files() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("m-Q4_K_M.gguf", gguf(TensorType::Q4_K, 15, 8192)),
        ("m-Q8_0.gguf", gguf(TensorType::Q8_0, 7, 8192)),
        ("mmproj-f16.gguf", vec![7; 3 << 20]),
        ("mmproj-f32.gguf", vec![7; 6 << 20]),
        ("m-imatrix.gguf", vec![7; 5 << 20]),
    ]
}

fn host(gpu_mib: u64) -> HostMemory {
    let gpu = Device {
        label: "GPU0".to_owned(),
        free_bytes: Some(gpu_mib * MIB),
        total_bytes: Some(1 << 40),
        ..Device::default()
    };
    HostMemory {
        gpus: vec![gpu],
        ram: Some(Ram { total_bytes: 1 << 40, available_bytes: 1 << 40 }),
        ..HostMemory::default()
    }
}

fn row(store: &dyn Store) -> (Row, Details) {
    let mut rows = Vec::new();
    store.scan(&mut |row| rows.push(row), &CancellationToken::new());
    assert_eq!(rows.len(), 1, "{rows:?}");
    let row = rows.remove(0);
    let details = store.details(&row.model.identity.id).unwrap();
    (row, details)
}

/// What the details and `info` say, after it was compared with what the table says.
fn judged(store: &dyn Store, host: &HostMemory) -> FitReport {
    let (row, details) = row(store);
    let conditions = Conditions::default();
    let table = fit_of_row(&row.model, row.metadata.as_deref(), &row.loads, host, &conditions).unwrap();
    let told = report(&details.model, details.metadata.as_deref(), &details.loads, host, &conditions).unwrap();
    assert_eq!(table, told.fit);
    told
}

fn flat(files: &[(&str, Vec<u8>)]) -> (TempDir, FlatStore) {
    let scratch = tempfile::tempdir().unwrap();
    put(&scratch.path().join("m"), files);
    let store = FlatStore::new(scratch.path().to_owned(), Vec::new());
    (scratch, store)
}

fn put(folder: &Path, files: &[(&str, Vec<u8>)]) {
    fs::create_dir_all(folder).unwrap();
    for (name, bytes) in files {
        fs::write(folder.join(name), bytes).unwrap();
    }
}

fn cache(files: &[(&str, Vec<u8>)]) -> Cache {
    let cache = Cache::new();
    for (name, bytes) in files {
        cache.file("models--org--a", &commit('1'), name, bytes);
    }
    cache
}

#[test]
fn the_quantization_that_fits_best_is_judged_with_one_projector() {
    let (_scratch, flat) = flat(&files());
    let cache = cache(&files());
    let lm_studio = tempfile::tempdir().unwrap();
    put(&lm_studio.path().join("p/m"), &files());
    let lm_studio = (LmStudioStore::new(lm_studio.path()), lm_studio);
    let stores: [&dyn Store; 3] = [&flat, &cache.store(), &lm_studio.0];
    for store in stores {
        // Both fit: the smaller one is named.
        let told = judged(store, &host(100_000));
        assert_eq!((told.quantization.as_deref(), told.fit.verdict), (Some("Q4_K_M"), Verdict::Fits));
        assert_eq!(told.fit.need.as_ref().unwrap().projector_bytes, 3 * MIB, "one projector, and no matrix");
        assert_eq!(told.fit.need.as_ref().unwrap().weights_bytes, 8192 * 144);
        let all: Vec<_> =
            told.quantizations.iter().map(|each| (each.quantization.as_str(), each.fit.verdict)).collect();
        assert_eq!(all, [("Q4_K_M", Verdict::Fits), ("Q8_0", Verdict::Fits)]);
        assert!(told.answer().starts_with("Q4_K_M: fits, "), "{}", told.answer());

        // Room for the smaller one alone.
        let (small, large) = (&told.quantizations[0].fit, &told.quantizations[1].fit);
        let between = (small.need_bytes.unwrap() + large.need_bytes.unwrap()) / 2;
        let mut narrow = host(0);
        narrow.gpus[0].free_bytes = Some(between);
        let told = judged(store, &narrow);
        assert_eq!((told.quantization.as_deref(), told.fit.verdict), (Some("Q4_K_M"), Verdict::Tight));
        assert_eq!(told.quantizations[1].fit.verdict, Verdict::CpuOnly);
    }
}

#[test]
fn a_quantization_that_is_not_whole_is_not_the_one_that_fits() {
    let mut files = files();
    files[0].0 = "m-Q4_K_M-00001-of-00002.gguf";
    let (_scratch, flat) = flat(&files);
    let cache = cache(&files);
    let stores: [&dyn Store; 2] = [&flat, &cache.store()];
    for store in stores {
        let told = judged(store, &host(100_000));
        assert_eq!((told.quantization.as_deref(), told.fit.verdict), (Some("Q8_0"), Verdict::Fits));
        assert_eq!(told.quantizations[0].fit.verdict, Verdict::Unknown);
        assert_eq!(told.quantizations[0].fit.because.as_deref(), Some("not all of its weights are here"));
    }
}

#[test]
fn a_single_quantization_is_not_named() {
    let files: Vec<_> = files().into_iter().filter(|(name, _)| !name.contains("Q8_0")).collect();
    let (_scratch, flat) = flat(&files);
    let told = judged(&flat, &host(100_000));
    assert_eq!((told.quantization, told.quantizations.len()), (None, 0));
    assert_eq!(told.fit.need.unwrap().projector_bytes, 3 * MIB);
}

#[test]
fn a_row_that_is_damaged_does_not_fit() {
    let single: Vec<_> = files().into_iter().filter(|(name, _)| !name.contains("Q8_0")).collect();
    for files in [single, files()] {
        let (_scratch, flat) = flat(&files);
        let (mut row, _) = row(&flat);
        let judge = |row: &Row| {
            let (model, metadata) = (&row.model, row.metadata.as_deref());
            fit_of_row(model, metadata, &row.loads, &host(100_000), &Conditions::default()).unwrap()
        };
        assert_eq!(judge(&row).verdict, Verdict::Fits);
        row.model.note_damage(FileStatus::Corrupt);
        let answer = judge(&row);
        assert_eq!((answer.verdict, answer.need_bytes), (Verdict::Unknown, None));
        assert_eq!(answer.because.as_deref(), Some("some of its files are corrupt"));
    }
}
