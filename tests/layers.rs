//! How many layers a GGUF file has is told by a key and by its tensors: where they differ, the row says so.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use rbee_hive::format::gguf::{TensorType, Writer};
use rbee_hive::model::memory::CacheLayers;
use rbee_hive::store::flat::FlatStore;
use rbee_hive::store::{Row, Store};
use tokio_util::sync::CancellationToken;

/// A part that begins at block `from` and ends before `to`.
fn part(keys: impl Fn(Writer) -> Writer, from: u64, to: u64) -> Vec<u8> {
    let mut writer = keys(Writer::new("llama"));
    for block in from..to {
        writer = writer.tensor(&format!("blk.{block}.attn_q.weight"), &[32, 2], TensorType::F16);
    }
    let mut bytes = Vec::new();
    writer.write_to(&mut bytes, 1).unwrap();
    bytes
}

fn keys(layers: u32, ahead: u32) -> impl Fn(Writer) -> Writer {
    move |writer| {
        let writer = writer
            .key("llama.block_count", layers)
            .key("llama.context_length", 4096_u32)
            .key("llama.embedding_length", 128_u32)
            .key("llama.attention.head_count", 4_u32)
            .key("llama.attention.head_count_kv", 1_u32);
        if ahead > 0 { writer.key("llama.nextn_predict_layers", ahead) } else { writer }
    }
}

fn row(files: &[(&str, Vec<u8>)]) -> Row {
    let base = tempfile::tempdir().unwrap();
    std::fs::create_dir(base.path().join("m")).unwrap();
    for (name, bytes) in files {
        std::fs::write(base.path().join("m").join(name), bytes).unwrap();
    }
    let mut rows = Vec::new();
    FlatStore::new(base.path().to_owned(), Vec::new()).scan(&mut |row| rows.push(row), &CancellationToken::new());
    rows.remove(0)
}

fn told(row: &Row) -> (Option<u64>, Option<String>) {
    let shape = &row.metadata.as_ref().unwrap().shape;
    let layers = shape.cache.as_ref().map(|cache| cache.iter().map(|CacheLayers { layers, .. }| layers).sum());
    (layers, row.model.warnings.iter().find(|line| line.contains("block_count")).cloned())
}

#[test]
fn a_key_that_disagrees_with_the_tensors_is_noticed() {
    let one = |layers, ahead, blocks| told(&row(&[("m.gguf", part(keys(layers, ahead), 0, blocks))]));
    assert_eq!(one(4, 0, 4), (Some(4), None));
    let (cache, line) = one(2, 0, 6);
    assert_eq!(cache, Some(6));
    assert!(line.unwrap().contains("block_count says 2 layers, its tensors are those of 6 layers"));
    let (cache, line) = one(6, 0, 2);
    assert_eq!(cache, Some(6));
    assert!(line.unwrap().contains("block_count says 6 layers, its tensors are those of 2 layers"));
    // A layer that guesses ahead may be counted, or not, or lie elsewhere.
    for (layers, blocks) in [(5, 5), (4, 5), (5, 4)] {
        assert_eq!(one(layers, 1, blocks).1, None, "{layers} {blocks}");
    }
    assert_eq!(one(5, 1, 5).0, Some(4));
    assert!(one(5, 1, 7).1.is_some() && one(5, 1, 3).1.is_some());
    // No tensors, or none with a number, tell nothing.
    assert_eq!(one(4, 0, 0).1, None);
}

#[test]
fn the_tensors_of_later_parts_count() {
    let split = |number: u16, first: bool| {
        move |writer: Writer| {
            let writer = if first { keys(4, 0)(writer) } else { writer };
            writer.key("split.no", number).key("split.count", 2_u16)
        }
    };
    let (first, second) = ("m-00001-of-00002.gguf", "m-00002-of-00002.gguf");
    let whole = [(first, part(split(0, true), 0, 1)), (second, part(split(1, false), 1, 4))];
    assert_eq!(told(&row(&whole)), (Some(4), None));
    // What is in a part that is missing is not known.
    assert_eq!(told(&row(&whole[..1])).1, None);
    let longer = [(first, part(split(0, true), 0, 1)), (second, part(split(1, false), 1, 9))];
    let (cache, line) = told(&row(&longer));
    assert!(cache == Some(9) && line.is_some());
}

#[test]
fn numbers_that_are_none_are_no_layers() {
    let mut writer = keys(2, 0)(Writer::new("llama"));
    for name in
        ["blk.0.a", "blk.1.a", "blk.x.a", "blk..a", "blk.99999999999999999999.a", "blk.12", "v.blk.77.a", "blk.-1.a"]
    {
        writer = writer.tensor(name, &[32], TensorType::F32);
    }
    let mut bytes = Vec::new();
    writer.write_to(&mut bytes, 1).unwrap();
    assert_eq!(told(&row(&[("m.gguf", bytes)])), (Some(2), None));
}
