//! What good files tell.

use std::io::{Cursor, Read, Seek, SeekFrom};

use rbee_hive::format::gguf::{Array, Depth, Error, Header, TensorType, Value, ValueType, Writer};
use rbee_hive::format::{Structure, read_metadata, read_summary};
use rbee_hive::model::{Format, Quantization};

use crate::memory::peak_of;
use crate::support::{Pack, file, header, metadata, written};

fn one_tensor() -> Writer {
    Writer::new("llama").tensor("a", &[8], TensorType::F32)
}

fn label(bytes: &[u8], name: &str) -> (Option<String>, bool) {
    let metadata = read_metadata(&file(bytes), name).unwrap();
    (metadata.quantization.map(|q| q.to_string()), metadata.quantization_guessed)
}

#[test]
fn one_tensor_ends_where_its_data_ends() {
    let bytes = written(&one_tensor());
    assert_eq!(bytes.len(), 160);
    let header = header(&bytes, Depth::Tensors).unwrap();
    let layout = header.layout.unwrap();
    assert_eq!((layout.start, layout.need, layout.structure), (128, 160, Structure::Whole));
    assert_eq!((header.tally.parameters, header.tally.bits_per_weight()), (8, Some(32.0)));
    assert_eq!(header.tensors[0].name, "a");
    assert_eq!(header.architecture(), Some("llama"));
    let metadata = metadata(&bytes).unwrap();
    assert_eq!((metadata.format, metadata.tensors, metadata.parameters), (Format::Gguf, Some(1), Some(8)));
    assert_eq!(metadata.structure, Structure::Whole);
    assert!(!metadata.sidecar && !metadata.partly_read);
    assert_eq!(metadata.warnings, [""; 0]);
}

#[test]
fn a_cut_is_told_to_the_byte() {
    let bytes = written(&one_tensor());
    match header(&bytes[..101], Depth::Whole) {
        Err(Error::Truncated { at, missing: Some(1) }) => assert_eq!(at, "tensor 0 'a': offset"),
        other => panic!("{other:?}"),
    }
    let cut = metadata(&bytes[..101]).unwrap();
    assert_eq!(cut.structure, Structure::Truncated { missing: None });
    assert_eq!(cut.architecture.as_deref(), Some("llama"), "what comes before the cut is told");
    assert_eq!(metadata(&bytes[..128]).unwrap().structure, Structure::Truncated { missing: Some(32) });
    assert_eq!(metadata(&bytes[..159]).unwrap().structure, Structure::Truncated { missing: Some(1) });
}

#[test]
fn sizes_follow_from_types_blocks_and_padding() {
    let three = written(
        &Writer::new("llama")
            .tensor("token_embd.weight", &[128, 32], TensorType::F16)
            .tensor("blk.0.attn_q.weight", &[128, 128], TensorType::Q8_0)
            .tensor("output_norm.weight", &[128], TensorType::F32),
    );
    let told = metadata(&three).unwrap();
    assert_eq!((told.parameters, told.tensor_bytes), (Some(20_608), Some(26_112)));
    assert_eq!((header(&three, Depth::Whole).unwrap().layout.unwrap().start, three.len()), (256, 26_368));

    let blocks = written(&Writer::new("llama").tensor("x", &[256, 4], TensorType::Q4_K).tensor(
        "y",
        &[512, 3],
        TensorType::Q6_K,
    ));
    let layout = header(&blocks, Depth::Whole).unwrap().layout.unwrap();
    assert_eq!((layout.start, layout.need, blocks.len()), (160, 1996, 2016));
    assert_eq!(metadata(&blocks[..1996]).unwrap().structure, Structure::Whole);
    assert_eq!(metadata(&blocks[..1995]).unwrap().structure, Structure::Truncated { missing: Some(1) });
    let longer = [blocks.as_slice(), &[0; 64]].concat();
    assert_eq!(metadata(&longer).unwrap().structure, Structure::Extra { bytes: 84 });

    let aligned =
        written(&Writer::new("llama").key("general.alignment", 128u32).tensor("p", &[5], TensorType::F32).tensor(
            "q",
            &[3],
            TensorType::F32,
        ));
    let header = header(&aligned, Depth::Tensors).unwrap();
    let layout = header.layout.unwrap();
    assert_eq!((layout.start, header.tensors[1].offset, layout.need, aligned.len()), (256, 128, 396, 512));
}

#[test]
fn every_type_is_written_and_read_at_its_size() {
    for kind in TensorType::all() {
        let bytes = written(&Writer::new("llama").tensor("t", &[256, 3], kind));
        let header = header(&bytes, Depth::Whole).unwrap();
        assert_eq!(header.layout.unwrap().structure, Structure::Whole, "{kind}");
        assert_eq!(header.tally.bytes, 768 / kind.block_elements().unwrap() * kind.block_bytes().unwrap(), "{kind}");
    }
}

#[test]
fn what_a_model_says_about_itself_is_told() {
    let bytes = written(
        &Writer::new("command-r")
            .key("general.name", "Command\u{1b}[31m\nR\u{202e}")
            .key("general.file_type", 15u32)
            .key("general.license", "other")
            .key("general.license.name", "cc-by-nc")
            .key("general.quantized_by", "someone")
            .key("general.base_model.count", 1u32)
            .key("general.base_model.0.name", "Base")
            .key("general.base_model.0.repo_url", "https://huggingface.co/Org/Base")
            .key("command-r.context_length", 131_072u64)
            .key("command-r.block_count", 2u16)
            .key("command-r.embedding_length", 256i64)
            .key("command-r.attention.head_count", 4u8)
            .key("command-r.attention.head_count_kv", vec![2u32, 0])
            .key("command-r.expert_count", 8u32)
            .key("command-r.expert_used_count", 2u32)
            .key("tokenizer.ggml.model", "gpt2")
            .key("tokenizer.chat_template", "{{ messages }}")
            .tensor("blk.0.attn_q.weight", &[256, 4], TensorType::Q4_K),
    );
    let told = metadata(&bytes).unwrap();
    assert_eq!(told.architecture.as_deref(), Some("command-r"));
    assert_eq!(told.name.as_deref(), Some("Command\\u{1b}[31m\\nR\\u{202e}"));
    assert_eq!((told.quantization, told.quantization_guessed), (Some(Quantization::new("Q4_K_M")), false));
    assert_eq!((told.context_length, told.layers, told.embedding_length), (Some(131_072), Some(2), Some(256)));
    assert_eq!((told.heads, told.heads_kv), (Some(4), Some(2)));
    assert_eq!((told.experts, told.experts_used), (Some(8), Some(2)));
    assert_eq!((told.tokenizer.as_deref(), told.chat_template), (Some("gpt2"), Some(true)));
    assert_eq!((told.licence.as_deref(), told.quantized_by.as_deref()), (Some("cc-by-nc"), Some("someone")));
    assert_eq!(told.base_model.as_deref(), Some("Org/Base"));
    assert_eq!(told.warnings, [""; 0]);
}

#[test]
fn key_value_heads_are_as_many_as_heads_when_nothing_is_said() {
    let bytes = written(&one_tensor().key("llama.attention.head_count", 4u32));
    assert_eq!(metadata(&bytes).unwrap().heads_kv, Some(4));
}

#[test]
fn every_kind_of_value_comes_back_as_it_was_written() {
    let values = [
        Value::U8(250),
        Value::I8(-3),
        Value::U16(65_000),
        Value::I16(-300),
        Value::U32(4_000_000_000),
        Value::I32(-70_000),
        Value::F32(1.5),
        Value::Bool(true),
        Value::from("text"),
        Value::U64(u64::MAX),
        Value::I64(i64::MIN),
        Value::F64(-0.25),
        Value::from(vec![1u32, 2, 3]),
        Value::from(vec![true, false]),
        Value::from(vec![0.5f32]),
    ];
    for big_endian in [false, true] {
        let mut writer = Writer::new("llama");
        for (at, value) in values.iter().enumerate() {
            writer = writer.key(&format!("k.{at}"), value.clone());
        }
        let bytes = written(&if big_endian { writer.big_endian() } else { writer });
        let header = header(&bytes, Depth::Whole).unwrap();
        assert_eq!(header.big_endian, big_endian);
        for (at, value) in values.iter().enumerate() {
            assert_eq!(header.get(&format!("k.{at}")), Some(value), "big-endian: {big_endian}");
        }
    }
}

#[test]
fn lists_of_texts_are_counted_not_kept() {
    let tokens: Vec<String> = (0..3000).map(|n| format!("token {n}")).collect();
    let bytes = written(&one_tensor().key("tokenizer.ggml.tokens", tokens).key("after", 7u32));
    let header = header(&bytes, Depth::Whole).unwrap();
    let counted = Array { element: ValueType::String, count: 3000, kept: vec![] };
    assert_eq!(header.get("tokenizer.ggml.tokens"), Some(&Value::Array(counted)));
    assert_eq!(header.get("after"), Some(&Value::U32(7)));
}

#[test]
fn the_label_comes_from_the_header_and_no_name() {
    let writer = Writer::new("llama")
        .tensor("a", &[256, 4], TensorType::Q5_K)
        .tensor("b", &[256, 4], TensorType::Q5_K)
        .tensor("c", &[256, 4], TensorType::Q6_K)
        .tensor("n1", &[256], TensorType::F32)
        .tensor("n2", &[256], TensorType::F32)
        .tensor("n3", &[256], TensorType::F32);
    let silent = written(&writer);
    assert_eq!(label(&silent, "model.gguf"), (Some("Q5_K".into()), true));
    assert_eq!(label(&silent, "model-Q8_0.gguf"), (Some("Q5_K".into()), true));
    let labelled = written(&writer.clone().key("general.file_type", 16u32));
    assert_eq!(label(&labelled, "model-Q5_K_M.gguf"), (Some("Q5_K_S".into()), false));
    let guessed = written(&writer.clone().key("general.file_type", 1024u32 + 17));
    assert_eq!(label(&guessed, "model.gguf"), (Some("Q5_K_M".into()), true));
    let unknown = written(&writer.key("general.file_type", 999u32));
    assert_eq!(label(&unknown, "model.gguf"), (Some("Q5_K".into()), true));
}

#[test]
fn a_label_that_the_tensors_contradict_is_pointed_out() {
    let of = |file_type: u32, kind| {
        let writer = Writer::new("llama").key("general.file_type", file_type).tensor("a", &[256, 4], kind);
        metadata(&written(&writer)).unwrap()
    };
    let wrong = of(2, TensorType::Q8_0);
    assert_eq!(wrong.quantization, Some(Quantization::new("Q4_0")));
    assert_eq!(wrong.warnings, ["labelled Q4_0, but its tensors take 8.50 bits a parameter"]);
    assert_eq!(of(7, TensorType::Q8_0).warnings, [""; 0]);
    // A small model whose rows are no whole blocks of its own type legitimately has others.
    assert_eq!(of(15, TensorType::Q5_0).warnings, [""; 0]);
}

#[test]
fn other_versions_and_the_other_byte_order_tell_the_same() {
    let bytes = written(&one_tensor().key("llama.context_length", 2048u32));
    let same = |bytes: &[u8], note: &str| {
        let told = metadata(bytes).unwrap();
        assert_eq!((told.architecture.as_deref(), told.context_length), (Some("llama"), Some(2048)), "{note}");
        assert_eq!((told.parameters, told.structure), (Some(8), Structure::Whole), "{note}");
        assert_eq!(told.warnings.iter().filter(|line| line.contains(note)).count(), usize::from(!note.is_empty()));
    };
    let mut second = bytes.clone();
    second[4] = 2;
    same(&second, "");
    same(&written(&one_tensor().key("llama.context_length", 2048u32).big_endian()), "big-endian");
    // Version 1 has 32 bits where the others have 64.
    let short = |pack: Pack, text: &str| pack.u32(u32::try_from(text.len()).unwrap()).raw(text.as_bytes());
    let mut first = Pack::default().raw(b"GGUF").u32(1).u32(1).u32(3);
    first = short(short(first, "general.architecture").u32(8), "llama");
    first = short(first, "llama.context_length").u32(4).u32(2048);
    first = short(short(first, "tokenizer.ggml.tokens").u32(9).u32(8).u32(1), "x");
    first = short(first, "a").u32(1).u32(8).u32(0).u64(0);
    let padding = first.0.len().next_multiple_of(32) - first.0.len();
    same(&first.zeros(padding + 32).0, "version 1");
}

#[test]
fn shards_say_which_they_are() {
    let writer = Writer::new("llama")
        .key("llama.block_count", 3u32)
        .tensor("a", &[32, 4], TensorType::F32)
        .tensor("b", &[32, 4], TensorType::F32)
        .tensor("c", &[32, 4], TensorType::F32);
    let shards = writer.into_shards(2);
    let tell = |at: usize, name: &str| read_metadata(&file(&written(&shards[at])), name).unwrap();
    let (first, second) = (tell(0, "m-00001-of-00002.gguf"), tell(1, "m-00002-of-00002.gguf"));
    assert_eq!((first.split_no, first.split_count, first.split_tensors), (Some(0), Some(2), Some(3)));
    assert_eq!((second.split_no, second.split_count, second.split_tensors), (Some(1), Some(2), Some(3)));
    assert_eq!((first.tensors, second.tensors), (Some(2), Some(1)));
    assert_eq!((first.architecture.as_deref(), second.architecture), (Some("llama"), None));
    for shard in [&first.warnings, &second.warnings] {
        assert_eq!(shard, &[""; 0]);
    }
    assert!(!first.sidecar && !second.sidecar);
}

#[test]
fn a_first_shard_may_hold_the_keys_only() {
    let bytes = written(&Writer::new("llama").key("split.no", 0u16).key("split.count", 2u16));
    let told = read_metadata(&file(&bytes), "m-00001-of-00002.gguf").unwrap();
    assert_eq!((told.sidecar, told.structure, told.parameters), (false, Structure::Whole, Some(0)));
}

#[test]
fn what_is_no_model_is_a_sidecar() {
    let tensor = |writer: Writer, name: &str| writer.tensor(name, &[32], TensorType::F32);
    let cases = [
        (tensor(Writer::new("clip").key("general.type", "mmproj"), "v.blk.0"), "x.gguf", true),
        (tensor(Writer::new("clip"), "v.blk.0"), "x.gguf", true),
        (tensor(Writer::new("controlvector"), "direction.1"), "x.gguf", true),
        (tensor(Writer::new("llama").key("general.type", "adapter"), "a"), "x.gguf", true),
        (tensor(tensor(Writer::new("llama"), "blk.0.lora_a"), "blk.0.lora_b"), "x.gguf", true),
        (tensor(tensor(Writer::bare(), "blk.0.in_sum2"), "blk.0.counts"), "x.gguf", true),
        (Writer::new("llama").key("tokenizer.ggml.model", "llama"), "x.gguf", true),
        (tensor(Writer::new("llama"), "a"), "mtp-x.gguf", true),
        (tensor(Writer::new("llama").key("general.type", "model"), "a"), "x.gguf", false),
        (tensor(Writer::new("llama"), "a"), "not-an-imatrix-x.gguf", false),
    ];
    for (at, (writer, name, sidecar)) in cases.iter().enumerate() {
        let told = read_metadata(&file(&written(writer)), name).unwrap();
        assert_eq!(told.sidecar, *sidecar, "case {at}: {name}");
    }
}

#[test]
fn unknown_types_are_named_and_the_check_is_partial() {
    let bytes =
        Pack::new(3, 3, 0).tensor("a", &[8], 0, 0).tensor("b", &[8], 43, 32).tensor("c", &[8], 0, 96).zeros(256).0;
    let told = metadata(&bytes).unwrap();
    assert_eq!((told.structure, told.parameters, told.tensor_bytes), (Structure::Partial, Some(24), None));
    assert!(told.warnings.iter().any(|line| line.contains("type 43")), "{:?}", told.warnings);
}

#[test]
fn a_large_vocabulary_costs_no_memory() {
    let tokens: Vec<String> = (0..150_000).map(|n| format!("token number {n}")).collect();
    let merges: Vec<String> = (0..300_000).map(|n| format!("aa bb{n}")).collect();
    let writer = Writer::new("llama").key("tokenizer.ggml.tokens", tokens).key("tokenizer.ggml.merges", merges);
    let bytes = written(&writer);
    let (told, peak) = peak_of(|| metadata(&bytes).unwrap());
    assert_eq!((told.structure, told.sidecar, told.tensors), (Structure::Whole, true, Some(0)));
    assert!(peak < 256 << 10, "{peak} bytes held for a vocabulary of {} bytes", bytes.len());
}

/// Counts what is read, and where from.
struct Counting<'a> {
    inner: Cursor<&'a [u8]>,
    read: u64,
}

impl Read for Counting<'_> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        // Short reads happen: a reader must not take one for the end.
        let most = out.len().min(10_000);
        let count = self.inner.read(&mut out[..most])?;
        self.read += count as u64;
        Ok(count)
    }
}

impl Seek for Counting<'_> {
    fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
        self.inner.seek(to)
    }
}

#[test]
fn no_more_is_read_than_is_needed() {
    let tokens: Vec<String> = (0..50_000).map(|n| format!("token number {n}")).collect();
    let writer = Writer::new("llama")
        .key("llama.context_length", 2048u32)
        .key("tokenizer.ggml.scores", vec![0.5f32; 500_000])
        .key("tokenizer.ggml.tokens", tokens)
        .key("general.file_type", 1u32)
        .tensor("a", &[1024, 1024], TensorType::F16);
    let bytes = written(&writer);
    let header_bytes = writer.header().unwrap().len() as u64;
    let read = |depth| {
        let mut reader = Counting { inner: Cursor::new(&bytes), read: 0 };
        let header = Header::read(&mut reader, bytes.len() as u64, depth).unwrap();
        assert_eq!(header.bytes_read, reader.read);
        header
    };
    let whole = read(Depth::Whole);
    assert!(whole.bytes_read < header_bytes - 2_000_000 + (128 << 10), "{} of {header_bytes}", whole.bytes_read);
    assert_eq!(whole.layout.unwrap().structure, Structure::Whole);
    let start = read(Depth::Start);
    assert!(start.bytes_read <= 64 << 10 && start.stopped && start.layout.is_none());
    assert_eq!(start.get("llama.context_length"), Some(&Value::U32(2048)));
    assert_eq!(start.get("general.file_type"), None);
}

#[test]
fn a_summary_tells_what_stands_first_and_says_that_it_is_one() {
    let tokens: Vec<String> = (0..50_000).map(|n| format!("token number {n}")).collect();
    let writer = Writer::new("llama")
        .key("general.file_type", 15u32)
        .key("llama.context_length", 2048u32)
        .key("tokenizer.ggml.tokens", tokens)
        .tensor("a", &[256, 4], TensorType::Q4_K);
    let told = read_summary(&file(&written(&writer)), "x.gguf").unwrap();
    assert!(told.partly_read);
    assert_eq!((told.context_length, told.quantization), (Some(2048), Some(Quantization::new("Q4_K_M"))));
    assert_eq!((told.parameters, told.structure, told.sidecar), (None, Structure::Partial, false));
    let small = file(&written(&one_tensor()));
    assert_eq!(read_summary(&small, "x.gguf"), read_metadata(&small, "x.gguf"));
    assert!(!read_summary(&small, "x.gguf").unwrap().partly_read);
}

#[test]
fn many_keys_and_tensors_are_fine() {
    let mut pack = Pack::new(3, 40_000, 60_001).key("some.bytes", 9).u32(0).u64(16 << 20).zeros(16 << 20);
    for at in 0..60_000 {
        pack = pack.key(&format!("some.key.{at}"), 4).u32(at);
    }
    for at in 0..40_000 {
        pack = pack.tensor(&format!("blk.{at}.weight"), &[8], 0, at * 32);
    }
    let bytes = pack.zeros(32 + 40_000 * 32).0;
    let (told, peak) = peak_of(|| metadata(&bytes).unwrap());
    assert_eq!((told.tensors, told.parameters), (Some(40_000), Some(320_000)));
    assert!(!matches!(told.structure, Structure::Truncated { .. }), "{:?}", told.structure);
    assert!(peak < 16 << 20, "{peak}");
}

#[test]
fn what_no_reader_would_take_is_not_written() {
    let wrong = [
        Writer::new("llama").tensor("a", &[100], TensorType::Q4_K),
        Writer::new("llama").tensor("a", &[1, 1, 1, 1, 1], TensorType::F32),
        Writer::new("llama").tensor("a", &[8], TensorType(43)),
        Writer::new("llama").tensor("a", &[1 << 40, 1 << 40], TensorType::F32),
        Writer::new("llama").key("general.alignment", 3u32).tensor("a", &[8], TensorType::F32),
        Writer::new("llama").key("x", vec![Value::U8(1), Value::U16(1)]),
    ];
    for (at, writer) in wrong.iter().enumerate() {
        let error = writer.write_to(&mut Vec::new(), 0).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput, "case {at}");
    }
}

#[test]
fn data_depends_on_the_seed_only() {
    let bytes = |seed| {
        let mut out = Vec::new();
        one_tensor().write_to(&mut out, seed).unwrap();
        out
    };
    assert_eq!(bytes(1), bytes(1));
    assert_ne!(bytes(1), bytes(2));
}
