//! What hostile files cannot do: no panic, no hang, no memory by a number in the file.

use std::time::{Duration, Instant};

use rbee_hive::format::gguf::{Depth, Error, TensorType, Value, Writer};
use rbee_hive::format::{LookAlike, Structure, read_metadata, read_summary};

use rbee_hive::model::Quantization;

use crate::memory::peak_of;
use crate::support::{Pack, file, header, in_time, metadata, written};

/// Memory that a reader may hold for a small file: its buffer and little else.
const LITTLE: usize = 512 << 10;

/// Reads a small hostile file in every way.
fn all_ways(bytes: &[u8]) -> Result<rbee_hive::format::Metadata, String> {
    let started = Instant::now();
    let read = || {
        for depth in [Depth::Start, Depth::Tensors] {
            let _ = header(bytes, depth);
        }
        let file = file(bytes);
        let _ = read_summary(&file, "model.gguf");
        read_metadata(&file, "model.gguf")
    };
    let (result, peak) = peak_of(read);
    assert!(peak < LITTLE, "{peak} bytes held for a file of {}", bytes.len());
    // Generous, so that only a hang or a loop over a claimed number fails on a busy machine.
    in_time(Duration::from_secs(5), started, || drop(read()), || format!("a file of {}", bytes.len()));
    if let Err(line) = &result {
        assert!(!line.chars().any(char::is_control) && !line.is_empty(), "{line:?}");
    }
    result
}

#[track_caller]
fn malformed(bytes: &[u8]) {
    let error = header(bytes, Depth::Whole).unwrap_err();
    assert!(matches!(error, Error::Malformed(_)), "{error}");
    assert!(all_ways(bytes).unwrap_err().starts_with("malformed GGUF: "));
}

#[track_caller]
fn truncated(bytes: &[u8]) {
    assert!(matches!(all_ways(bytes).unwrap().structure, Structure::Truncated { .. }));
}

#[test]
fn other_files_are_named() {
    let cases: [(&[u8], LookAlike); 9] = [
        (b"", LookAlike::Empty),
        (b"GGU", LookAlike::Short { bytes: 3 }),
        (b"ggml\x01\0\0\0", LookAlike::OldGgml),
        (b"FUGG\x03\0\0\0", LookAlike::Unknown(*b"FUGG")),
        (&[0; 4096], LookAlike::Zeros),
        (b"<!DOCTYPE html><html>", LookAlike::Html),
        (b"version https://git-lfs.github.com/spec/v1\n", LookAlike::LfsPointer),
        (b"{\"error\":\"not found\"}", LookAlike::Text),
        (b"\x02\0\0\0\0\0\0\0{}", LookAlike::Safetensors),
    ];
    for (bytes, what) in cases {
        match header(bytes, Depth::Whole) {
            Err(Error::NotGguf(found)) => assert_eq!(found, what),
            other => panic!("{what:?}: {other:?}"),
        }
        match all_ways(bytes) {
            Ok(told) => assert_eq!((what, told.warnings.len()), (LookAlike::Safetensors, 1)),
            Err(line) => assert_eq!(line, format!("not a GGUF file: {what}")),
        }
    }
    let other = file(b"GIF89a");
    assert_eq!(read_metadata(&other, "x.bin").unwrap_err(), "neither GGUF nor safetensors: it begins with \"GIF8\"");
    let other = read_metadata(&other, "x.safetensors").unwrap_err();
    assert_eq!(other, "not a safetensors file: it begins with \"GIF8\"");
}

#[test]
fn folders_and_pipes_are_not_read() {
    let folder = tempfile::tempdir().unwrap();
    let opened = std::fs::File::open(folder.path()).unwrap();
    assert_eq!(read_metadata(&opened, "x.gguf").unwrap_err(), "not a regular file");
    let (reader, _writer) = std::io::pipe().unwrap();
    let pipe = std::fs::File::from(std::os::fd::OwnedFd::from(reader));
    assert_eq!(read_metadata(&pipe, "x.gguf").unwrap_err(), "not a regular file");
}

#[test]
fn a_cut_at_any_byte_is_told() {
    let writer = Writer::new("llama")
        .key("a.number", 7u32)
        .key("a.float", 0.5f64)
        .key("a.flag", true)
        .key("a.list", vec![1u16, 2, 3])
        .key("a.texts", vec!["one", "two"])
        .key("general.alignment", 64u32)
        .tensor("first", &[32, 3], TensorType::Q8_0)
        .tensor("second", &[5], TensorType::F32);
    let infos_end = {
        // Without its padding: the second tensor's info is the last thing before the data.
        let bytes = writer.header().unwrap();
        bytes.iter().rposition(|byte| *byte != 0).unwrap();
        header(&bytes, Depth::Whole).unwrap().layout.unwrap().start
    };
    for bytes in [written(&writer), written(&writer.big_endian())] {
        let whole = header(&bytes, Depth::Whole).unwrap().layout.unwrap();
        for cut in 0..bytes.len() {
            let part = &bytes[..cut];
            match all_ways(part) {
                Err(line) => assert!(cut < 4 && line.starts_with("not a GGUF file"), "{cut}: {line}"),
                Ok(told) => match told.structure {
                    Structure::Truncated { missing: None } => {
                        assert!((cut as u64) < infos_end, "{cut}");
                        let line = told.warnings.last().unwrap();
                        assert!(line.starts_with("truncated in its header ("), "{line}");
                    }
                    Structure::Truncated { missing: Some(missing) } => assert_eq!(missing, whole.need - cut as u64),
                    other => assert!(other == Structure::Whole && cut as u64 >= whole.need, "{cut}: {other:?}"),
                },
            }
        }
    }
}

#[test]
fn other_versions_are_named() {
    for (version, name) in [(0, "0"), (4, "4"), (u32::MAX, "4294967295"), (4u32.swap_bytes(), "4")] {
        let line = all_ways(&Pack::new(version, 0, 0).0).unwrap_err();
        assert_eq!(line, format!("unsupported GGUF version {name}"));
    }
}

#[test]
fn absurd_counts_are_turned_away_at_once() {
    for count in [1 << 32, 1 << 63, u64::MAX] {
        malformed(&Pack::new(3, 0, count).zeros(76).0);
        malformed(&Pack::new(3, count, 0).zeros(76).0);
        malformed(&Pack::new(3, count, count).zeros(76).0);
    }
    // Counts that a file can have, in a file that is too short for them.
    truncated(&Pack::new(3, 0, 60_000).zeros(76).0);
    truncated(&Pack::new(3, 100_000, 0).zeros(76).0);
}

#[test]
fn absurd_lengths_of_texts_are_malformed() {
    for length in [(1 << 63) - 1, 1 << 63, u64::MAX - 7, u64::MAX, 70_000] {
        malformed(&Pack::new(3, 0, 1).u64(length).zeros(64).0);
        malformed(&Pack::new(3, 1, 0).u64(length).zeros(64).0);
    }
    for length in [(1 << 63) - 1, 1 << 63, u64::MAX - 7, u64::MAX, 65 << 20] {
        malformed(&Pack::new(3, 0, 1).key("k", 8).u64(length).zeros(64).0);
        malformed(&Pack::new(3, 0, 1).key("k", 9).u32(8).u64(2).string(b"x").u64(length).zeros(64).0);
    }
    truncated(&Pack::new(3, 0, 1).key("k", 8).u64(1000).zeros(64).0);
    truncated(&Pack::new(3, 0, 1).key("k", 9).u32(8).u64(2).string(b"x").u64(1000).zeros(64).0);
}

#[test]
fn absurd_arrays_are_malformed() {
    for (element, count) in [(10, 1 << 61), (0, 1 << 63), (0, u64::MAX), (8, 1 << 61), (12, (1 << 61) + 1)] {
        malformed(&Pack::new(3, 0, 1).key("k", 9).u32(element).u64(count).zeros(64).0);
    }
    truncated(&Pack::new(3, 0, 1).key("k", 9).u32(10).u64(1 << 30).zeros(64).0);
    for depth in [10, 1_000, 100_000] {
        let mut pack = Pack::new(3, 0, 1).key("k", 9);
        for _ in 0..depth {
            pack = pack.u32(9).u64(1);
        }
        let bytes = pack.u32(0).u64(1).zeros(64).0;
        let error = header(&bytes, Depth::Whole).unwrap_err().to_string();
        assert!(error.contains("nested"), "{error}");
    }
    let nested = Pack::new(3, 0, 1).key("k", 9).u32(9).u64(2).u32(0).u64(3).raw(b"abc").u32(8).u64(1).string(b"x").0;
    assert_eq!(metadata(&nested).unwrap().structure, Structure::Whole, "nesting that the text allows is passed over");
}

#[test]
fn unknown_kinds_of_values_are_malformed() {
    for kind in [13, 255, u32::MAX] {
        malformed(&Pack::new(3, 0, 1).key("k", kind).zeros(64).0);
        malformed(&Pack::new(3, 0, 1).key("k", 9).u32(kind).u64(1).zeros(64).0);
    }
}

#[test]
fn absurd_tensors_are_malformed() {
    let tensor =
        |dimensions: &[u64], kind, offset| Pack::new(3, 1, 0).tensor("t", dimensions, kind, offset).zeros(256).0;
    malformed(&tensor(&[1, 1, 1, 1, 1], 0, 0));
    malformed(&Pack::new(3, 1, 0).string(b"t").u32(u32::MAX).zeros(256).0);
    malformed(&tensor(&[1 << 32, 1 << 32], 0, 0));
    malformed(&tensor(&[1 << 62], 0, 0));
    malformed(&tensor(&[u64::MAX], 24, 0));
    malformed(&tensor(&[100, 4], 12, 0));
    malformed(&tensor(&[], 12, 0));
    for offset in [7, 1 << 63, u64::MAX - 31] {
        malformed(&tensor(&[8], 0, offset));
    }
    malformed(&Pack::new(3, 2, 0).tensor("a", &[16], 0, 0).tensor("b", &[16], 0, 32).zeros(256).0);
    malformed(&tensor(&[1 << 60], 24, (1 << 63) - 32));
    let many = (0..20).fold(Pack::new(3, 20, 0), |pack, at| pack.tensor(&format!("{at}"), &[1 << 61], 43, 0));
    malformed(&many.zeros(64).0);
}

#[test]
fn claimed_data_that_is_not_there_is_missing() {
    let bytes = Pack::new(3, 1, 0).tensor("t", &[1 << 39], 0, 0).zeros(4096).0;
    let need = 64 + (1u64 << 41);
    let told = all_ways(&bytes).unwrap();
    assert_eq!(told.structure, Structure::Truncated { missing: Some(need - bytes.len() as u64) });
}

#[test]
fn unknown_types_have_no_made_up_size() {
    for kind in [4, 5, 31, 38, 43, u32::MAX] {
        let told = all_ways(&Pack::new(3, 1, 0).tensor("t", &[100], kind, 0).zeros(256).0).unwrap();
        assert_eq!((told.structure, told.tensor_bytes), (Structure::Partial, None), "{kind}");
        assert!(told.warnings[0].contains(&format!("type {kind}")), "{:?}", told.warnings);
    }
    let many = (0..5000u32).fold(Pack::new(3, 5000, 0), |pack, at| pack.tensor(&format!("{at}"), &[1], 100 + at, 0));
    let told = metadata(&many.zeros(64).0).unwrap();
    assert!(told.warnings.iter().all(|line| line.len() < 300), "{:?}", told.warnings);
}

#[test]
fn alignments_that_are_none_are_malformed() {
    let with = |kind: u32, value: &[u8]| Pack::new(3, 0, 1).key("general.alignment", kind).raw(value).zeros(64).0;
    for value in [0u32, 3, 1 << 31] {
        malformed(&with(4, &value.to_le_bytes()));
    }
    malformed(&with(5, &(-32i32).to_le_bytes()));
    malformed(&with(8, b"\x02\0\0\0\0\0\0\x0032"));
    malformed(&with(10, &32u64.to_le_bytes()));
    malformed(&with(6, &32f32.to_le_bytes()));
    for value in [1u32, 8, 1 << 20] {
        let bytes = written(&Writer::new("llama").key("general.alignment", value).tensor("t", &[3], TensorType::F32));
        assert_eq!(metadata(&bytes).unwrap().structure, Structure::Whole, "{value}");
    }
}

#[test]
fn doubles_and_odd_names_are_warned_of() {
    let tensors = |pack: Pack| pack.tensor("t", &[8], 0, 0).tensor("t", &[8], 0, 32).zeros(128).0;
    let bytes = tensors(
        Pack::new(3, 2, 4).text("general.name", "first").text("general.name", "second").text("", "x").text("", "y"),
    );
    let told = all_ways(&bytes).unwrap();
    assert_eq!(told.name.as_deref(), Some("first"));
    for part in ["2 keys ('general.name') twice", "2 keys without a name", "1 tensor name ('t') twice"] {
        assert!(told.warnings.iter().any(|line| line.contains(part)), "{part}: {:?}", told.warnings);
    }
    let long = "n".repeat(64);
    let told = metadata(&written(&Writer::new("llama").tensor(&long, &[8], TensorType::F32))).unwrap();
    assert!(told.warnings[0].contains("longer than llama.cpp allows"), "{:?}", told.warnings);
}

#[test]
fn senseless_figures_are_unknown_and_the_file_is_listed() {
    let keys = [
        "context_length",
        "block_count",
        "embedding_length",
        "attention.head_count",
        "attention.head_count_kv",
        "expert_count",
        "expert_used_count",
    ];
    for value in
        [Value::U64(u64::MAX), Value::I64(-1), Value::from("many"), Value::F64(f64::NAN), Value::from(vec!["x"])]
    {
        let mut writer = Writer::new("llama").tensor("t", &[8], TensorType::F32);
        for key in keys {
            writer = writer.key(&format!("llama.{key}"), value.clone());
        }
        let told = all_ways(&written(&writer)).unwrap();
        assert_eq!(
            [
                told.context_length,
                told.layers,
                told.embedding_length,
                told.heads,
                told.heads_kv,
                told.experts,
                told.experts_used
            ],
            [None; 7],
            "{value:?}"
        );
        assert_eq!(told.warnings.len(), keys.len(), "{:?}", told.warnings);
    }
    let writer =
        Writer::new("llama").key("llama.block_count", 4u32).key("llama.attention.head_count_kv", vec![8u32, 4]);
    let told = metadata(&written(&writer.tensor("t", &[8], TensorType::F32))).unwrap();
    assert_eq!(told.heads_kv, Some(8));
    assert!(told.warnings[0].contains("fewer values than layers"), "{:?}", told.warnings);
    let zero = Writer::new("llama").key("llama.attention.head_count", 0u32).tensor("t", &[8], TensorType::F32);
    assert_eq!(metadata(&written(&zero)).unwrap().heads, Some(0));
}

#[test]
fn senseless_splits_are_warned_of() {
    let with = |number: Value, count: Value| {
        let writer = Writer::new("llama").key("split.no", number).key("split.count", count);
        all_ways(&written(&writer.tensor("t", &[8], TensorType::F32))).unwrap()
    };
    let past = with(2u16.into(), 2u16.into());
    assert_eq!((past.split_no, past.split_count), (None, Some(2)));
    for told in
        [past, with(0u16.into(), 65_535u16.into()), with(0u16.into(), 0u16.into()), with("0".into(), "2".into())]
    {
        assert!(
            told.warnings.iter().any(|line| line.contains("part") || line.contains("split.no")),
            "{:?}",
            told.warnings
        );
    }
}

#[test]
fn kept_text_is_bounded() {
    // 40 texts of 1 MiB each, and then more keys than are kept.
    let mut writer = Writer::new("llama");
    for at in 0..40 {
        writer = writer.key(&format!("text.{at}"), "\u{fffd}".repeat(1 << 20));
    }
    for at in 0..20_000u32 {
        writer = writer.key(&format!("number.{at}"), vec![at; 20]);
    }
    let bytes = written(&writer.tensor("t", &[8], TensorType::F32));
    let (told, peak) = peak_of(|| metadata(&bytes).unwrap());
    assert!(told.warnings.iter().any(|line| line.contains("passed over: too many to keep")), "{:?}", told.warnings);
    assert!(peak < 24 << 20, "{peak}");
}

#[test]
fn a_header_of_holes_ends() {
    // 60,000 arrays of 64 MiB in a file without any data: each makes the reader skip and read on.
    let handle = tempfile::tempfile().unwrap();
    let start = Pack::new(3, 0, 60_000).key("k", 9).u32(0).u64(1 << 30).0;
    std::os::unix::fs::FileExt::write_all_at(&handle, &start, 0).unwrap();
    handle.set_len(1 << 40).unwrap();
    let (result, peak) = peak_of(|| read_metadata(&handle, "x.gguf"));
    // The bytes after the first array are zeros: an empty key of type u8, again and again.
    let told = result.unwrap();
    assert!(told.warnings.iter().any(|line| line.contains("twice")), "{:?}", told.warnings);
    assert!(peak < 16 << 20, "{peak}");
}

#[test]
fn keys_of_no_meaning_take_no_room_from_those_that_tell_something() {
    let mut writer = Writer::bare();
    for number in 0..60_000_u32 {
        writer = writer.key(&format!("junk.key.{number}"), "v");
    }
    let writer = writer
        .key("general.architecture", "llama")
        .key("general.file_type", 15_u32)
        .key("llama.context_length", 4096_u32)
        .key("llama.block_count", 2_u32)
        .tensor("a", &[256], TensorType::Q4_K);
    let told = metadata(&written(&writer)).unwrap();
    assert_eq!((told.architecture.as_deref(), told.context_length, told.layers), (Some("llama"), Some(4096), Some(2)));
    assert_eq!(told.quantization.as_ref().map(Quantization::as_str), Some("Q4_K_M"));
    assert!(told.warnings.iter().any(|line| line.contains("passed over")), "{:?}", told.warnings);
}

#[test]
fn more_than_is_read_is_a_limit_and_no_damage() {
    let mut writer = Writer::new("llama").key("llama.context_length", 4096_u32);
    for number in 0..132_000 {
        writer = writer.tensor(&format!("{number}"), &[], TensorType::F32);
    }
    let told = metadata(&written(&writer)).unwrap();
    assert_eq!((told.architecture.as_deref(), told.context_length, told.parameters), (Some("llama"), Some(4096), None));
    assert_eq!(told.structure, Structure::Partial);
    assert!(told.warnings.iter().any(|line| line.contains("larger than this program reads: 132000 tensors")));
}
