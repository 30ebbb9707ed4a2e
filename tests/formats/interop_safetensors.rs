//! The same figures as the Python package `safetensors`, and the parameters that were there before quantization. Needs an
//! interpreter that has it, with `huggingface_hub` and `numpy`, so it runs on request only:
//! `LLORCH_TEST_PYTHON=/path/to/python cargo test --test formats -- --ignored`.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

use rbee_hive::format::safetensors::{Header, Index};
use rbee_hive::format::{Structure, read_metadata};
use rbee_hive::model::Model;
use rbee_hive::store::Store;
use rbee_hive::store::flat::FlatStore;
use serde_json::{Value as Json, json};
use tokio_util::sync::CancellationToken;

use crate::interop::run_python;
use crate::safetensors::{odd_headers, verdict};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/formats/interop_safetensors.py");

fn python(command: &str, folder: &Path) -> Json {
    run_python(SCRIPT, command, folder)
}

fn ours(path: &Path) -> Json {
    let file = File::open(path).unwrap();
    let length = file.metadata().unwrap().len();
    let header = Header::read(&file, length).unwrap();
    assert_eq!(header.structure(), Structure::Whole, "{}", path.display());
    let told = read_metadata(&file, path.file_name().unwrap().to_str().unwrap()).unwrap();
    assert_eq!((told.structure, told.tensor_bytes), (Structure::Whole, Some(header.data_bytes())));
    assert_eq!(told.tensors, Some(header.tensors().len() as u64));
    // Where each number is a parameter, there are as many.
    if told.packed.is_none() {
        assert_eq!(told.parameters, Some(header.elements()), "{}", path.display());
    }
    json!({
        "metadata": header.metadata(),
        "tensors": header.tensors().map(|tensor| {
            json!([tensor.name, tensor.dtype, tensor.shape, tensor.bytes()])
        }).collect::<Vec<_>>(),
        "elements": header.elements(),
        "bytes": header.data_bytes(),
    })
}

fn rows(base: &Path) -> BTreeMap<String, (Model, Option<u64>)> {
    let store = FlatStore::new(base.to_owned(), Vec::new());
    let mut rows = BTreeMap::new();
    let mut sink = |row: rbee_hive::store::Row| {
        let bytes = row.metadata.as_ref().and_then(|metadata| metadata.tensor_bytes);
        rows.insert(row.model.identity.id.clone(), (row.model, bytes));
    };
    store.scan(&mut sink, &CancellationToken::new());
    rows
}

#[test]
#[ignore = "needs Python with the package safetensors"]
fn odd_headers_that_the_package_reads_are_no_damage() {
    let folder = tempfile::tempdir().unwrap();
    let headers = odd_headers();
    for (at, json) in headers.iter().enumerate() {
        let bytes = [&(json.len() as u64).to_le_bytes()[..], json.as_bytes(), &[0; 8]].concat();
        std::fs::write(folder.path().join(at.to_string()), bytes).unwrap();
    }
    let theirs = python("try", folder.path());
    assert_eq!(theirs.as_object().unwrap().len(), headers.len());
    for (at, header) in headers.iter().enumerate() {
        let theirs = &theirs[at.to_string()];
        let (is_one, told) = verdict(header);
        assert_eq!(is_one, !theirs.is_null(), "{header}");
        if let Some(told) = told {
            assert_eq!(json!(told), *theirs, "{header}");
        }
    }
}

#[test]
#[ignore = "needs Python with the package safetensors"]
fn what_the_package_writes_reads_the_same_here() {
    let folder = tempfile::tempdir().unwrap();
    python("write", folder.path());
    let theirs = python("read", folder.path());
    let theirs = theirs.as_object().unwrap();
    assert!(theirs.len() > 150);
    let mut sums: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    for (name, told) in theirs {
        let mut told = told.clone();
        let mut here = ours(&folder.path().join(name));
        // Empty tensors begin where others begin, so their order is anybody's.
        for told in [&mut told, &mut here] {
            told["tensors"].as_array_mut().unwrap().sort_by_key(ToString::to_string);
        }
        assert_eq!(here, told, "{name}");
        if let Some((set, _)) = name.split_once('/') {
            let sum = sums.entry(set.to_owned()).or_default();
            sum.0 += told["elements"].as_u64().unwrap();
            sum.1 += told["bytes"].as_u64().unwrap();
        }
    }
    // As a row, a set is what its files are together, and what the index says of it.
    let rows = rows(folder.path());
    assert_eq!(sums.len(), 20);
    let mut sharded = 0;
    for (set, (elements, bytes)) in sums {
        let (row, told) = &rows[&set];
        assert_eq!((row.parameters.unwrap_or(0), told.unwrap()), (elements, bytes), "{set}: {:?}", row.warnings);
        assert!(row.complete, "{set}: {:?}", row.warnings);
        if let Ok(file) = File::open(folder.path().join(&set).join("model.safetensors.index.json")) {
            let index = Index::read(file).unwrap();
            assert_eq!(index.total_size(), Some(bytes), "{set}");
            for file in index.files() {
                let told = &theirs[&format!("{set}/{file}")]["tensors"];
                assert_eq!(index.tensors_of(file), told.as_array().unwrap().len() as u64, "{set}/{file}");
            }
            sharded += 1;
        }
    }
    assert!(sharded >= 5, "{sharded}");
}

#[test]
#[ignore = "needs Python with the package safetensors"]
fn packed_weights_have_the_parameters_that_were_packed() {
    let folder = tempfile::tempdir().unwrap();
    let theirs = python("pack", folder.path());
    let theirs = theirs.as_object().unwrap();
    let rows = rows(folder.path());
    assert!(theirs.len() >= 30 && rows.len() == theirs.len());
    let mut different = Vec::new();
    for (name, told) in theirs {
        let (row, bytes) = &rows[name];
        let here = json!({
            "parameters": row.parameters,
            "label": row.quantization.as_ref().map(ToString::to_string),
            "bytes": bytes,
            "files": row.file_count - 1 - u64::from(folder.path().join(name).join("model.safetensors.index.json").exists()),
        });
        if here != *told {
            different.push(format!("{name}: here {here}, there {told}"));
        }
        assert_eq!(row.warnings, ["origin unknown"], "{name}");
    }
    assert!(different.is_empty(), "{}", different.join("\n"));
}
