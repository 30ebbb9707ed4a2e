//! The same figures as the Python package `gguf`, both ways. Needs an interpreter that has it, so it runs on request only:
//! `LLORCH_TEST_PYTHON=/path/to/python cargo test --test formats -- --ignored`.

use std::path::Path;
use std::process::Command;

use rbee_hive::format::gguf::{Depth, Header, TensorType, Writer};
use rbee_hive::format::{Structure, read_metadata};
use serde_json::{Value as Json, json};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/formats/interop.py");

fn python(command: &str, folder: &Path) -> Json {
    run_python(SCRIPT, command, folder)
}

/// What a script says of a folder.
pub fn run_python(script: &str, command: &str, folder: &Path) -> Json {
    let interpreter = std::env::var_os("LLORCH_TEST_PYTHON").unwrap_or_else(|| "python3".into());
    let output = Command::new(interpreter).arg(script).arg(command).arg(folder).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// What both sides tell of a file.
fn ours(path: &Path) -> Json {
    let file = std::fs::File::open(path).unwrap();
    let header = Header::read(&file, file.metadata().unwrap().len(), Depth::Tensors).unwrap();
    let told = read_metadata(&file, path.file_name().unwrap().to_str().unwrap()).unwrap();
    assert_eq!(told.structure, Structure::Whole, "{}", path.display());
    json!({
        "figures": {
            "name": told.name,
            // Without the key it is a guess, which the package does not make.
            "quantization": header.get("general.file_type").and(told.quantization.as_ref()).map(ToString::to_string),
            "bits_per_weight": told.bits_per_weight().map(|bits| (bits * 1e4).round() / 1e4),
            "context_length": told.context_length,
            "layers": told.layers,
            "embedding_length": told.embedding_length,
            "heads": told.heads,
            "heads_kv": told.heads_kv,
            "experts": told.experts,
            "experts_used": told.experts_used,
            "vocabulary": told.shape.vocabulary,
            "chat_template": told.chat_template == Some(true),
            "tokenizer": told.tokenizer,
            "licence": told.licence,
            "base_model": told.base_model,
            "quantized_by": told.quantized_by,
        },
        "big_endian": header.big_endian,
        "keys": header.keys.iter().map(|(key, _)| key).collect::<Vec<_>>(),
        "architecture": told.architecture,
        "data_start": (header.tensor_count > 0).then(|| header.layout.unwrap().start),
        "parameters": told.parameters,
        "tensor_bytes": told.tensor_bytes,
        "tensors": header.tensors.iter().map(|tensor| {
            json!([tensor.name, tensor.dimensions, tensor.kind.0, tensor.offset, tensor.bytes()])
        }).collect::<Vec<_>>(),
    })
}

fn compare(folder: &Path) {
    let theirs = python("read", folder);
    let theirs = theirs.as_object().unwrap();
    assert!(!theirs.is_empty());
    let mut different = Vec::new();
    for (name, theirs) in theirs {
        let mut theirs = theirs.clone();
        // Shown as text that no terminal takes for a command.
        if let Some(name) = theirs["figures"]["name"].as_str() {
            theirs["figures"]["name"] = rbee_hive::model::text::printable(name).into();
        }
        let ours = ours(&folder.join(name));
        if ours != theirs {
            let keys = theirs.as_object().unwrap().keys();
            let differ = keys.filter(|key| ours[key.as_str()] != theirs[key.as_str()]);
            let lines =
                differ.map(|key| format!("  {key}: here {}\n  there {}", ours[key.as_str()], theirs[key.as_str()]));
            different.push(format!("{name}\n{}", lines.collect::<Vec<_>>().join("\n")));
        }
    }
    assert!(different.is_empty(), "{}", different.join("\n"));
}

/// Files that lie in the folder `LLORCH_TEST_MODELS`: models as they were published.
#[test]
#[ignore = "needs Python with the package gguf"]
fn published_files_read_the_same_as_in_python() {
    if let Some(folder) = std::env::var_os("LLORCH_TEST_MODELS") {
        compare(Path::new(&folder));
    }
}

#[test]
#[ignore = "needs Python with the package gguf"]
fn what_python_writes_reads_the_same_here() {
    let folder = tempfile::tempdir().unwrap();
    python("write", folder.path());
    compare(folder.path());
}

#[test]
#[ignore = "needs Python with the package gguf"]
fn what_is_written_here_reads_the_same_in_python() {
    let folder = tempfile::tempdir().unwrap();
    let save = |name: &str, writer: &Writer| {
        writer.write_to(&mut std::fs::File::create(folder.path().join(name)).unwrap(), 3).unwrap();
    };
    let mut all = Writer::new("command-r")
        .key("general.name", "Größe")
        .key("general.alignment", 64u32)
        .key("a.numbers", vec![1u32, 2, 3])
        .key("a.texts", vec!["eins", "zwei"])
        .key("a.flags", vec![true, false])
        .key("a.float", 0.5f64)
        .key("a.small", -3i8);
    // The package gives Q8_1 a size of its own and does not know the newest type.
    for kind in TensorType::all().filter(|kind| ![TensorType::Q8_1, TensorType::Q2_0].contains(kind)) {
        all = all.tensor(&format!("t.{kind}"), &[256, 3], kind);
    }
    save("all.gguf", &all);
    save("big.gguf", &all.clone().big_endian());
    save("vocabulary.gguf", &Writer::new("llama").key("tokenizer.ggml.tokens", vec!["a", "b"]));
    for (at, shard) in all.into_shards(3).iter().enumerate() {
        save(&format!("shards-{:05}-of-00003.gguf", at + 1), shard);
    }
    compare(folder.path());
}
