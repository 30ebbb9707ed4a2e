//! safetensors headers.

use std::collections::BTreeMap;

use proptest::prelude::*;
use rbee_hive::format::safetensors::{Error, Header};
use rbee_hive::format::{Structure, read_metadata, read_summary};
use rbee_hive::model::{Format, Quantization};

use crate::memory::peak_of;
use crate::support::file;

fn with_header(json: &str, data: usize) -> Vec<u8> {
    let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(json.as_bytes());
    bytes.resize(bytes.len() + data, 7);
    bytes
}

fn read(json: &str, data: usize) -> Result<Header, Error> {
    let bytes = with_header(json, data);
    Header::read(bytes.as_slice(), bytes.len() as u64)
}

const TWO: &str = r#"{"__metadata__":{"format":"pt"},"b":{"dtype":"I64","shape":[1,2],"data_offsets":[24,40]},"a":{"dtype":"BF16","shape":[3,4],"data_offsets":[0,24]}}  "#;

#[test]
fn a_good_file_is_told_to_the_byte() {
    let bytes = with_header(TWO, 40);
    let told = read_metadata(&file(&bytes), "model.safetensors").unwrap();
    assert_eq!((told.format, told.structure), (Format::Safetensors, Structure::Whole));
    assert_eq!((told.parameters, told.tensor_bytes, told.tensors), (Some(14), Some(40), Some(2)));
    assert_eq!((told.quantization, told.quantization_guessed), (Some(Quantization::new("BF16")), true));
    assert_eq!(told.warnings, [""; 0]);
    let header = Header::read(bytes.as_slice(), bytes.len() as u64).unwrap();
    assert_eq!(header.tensors().map(|t| t.name).collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(header.metadata()["format"], "pt");
    let structure = |length: usize, more: usize| {
        let mut bytes = bytes[..length].to_vec();
        bytes.resize(bytes.len() + more, 0);
        read_metadata(&file(&bytes), "model.safetensors").unwrap().structure
    };
    assert_eq!(structure(bytes.len() - 1, 0), Structure::Truncated { missing: Some(1) });
    assert_eq!(structure(bytes.len(), 5), Structure::Extra { bytes: 5 });
    assert_eq!(structure(8 + TWO.len(), 0), Structure::Truncated { missing: Some(40) });
    assert_eq!(structure(30, 0), Structure::Truncated { missing: None });
}

#[test]
fn a_cut_at_any_byte_is_told() {
    let bytes = with_header(TWO, 40);
    for cut in 0..bytes.len() {
        match read_metadata(&file(&bytes[..cut]), "model.safetensors") {
            Ok(told) => assert!(cut >= 9 && matches!(told.structure, Structure::Truncated { .. }), "{cut}"),
            Err(line) => assert!(cut < 9 && line.starts_with("not a safetensors file"), "{cut}: {line}"),
        }
    }
}

#[test]
fn empty_and_single_numbers_are_valid() {
    let header =
        read(r#"{"n":{"dtype":"F32","shape":[],"data_offsets":[0,4]},"e":{"dtype":"F32","shape":[0,3],"data_offsets":[0,0]}}"#, 4)
            .unwrap();
    assert_eq!((header.elements(), header.structure()), (1, Structure::Whole));
    assert_eq!(read("{}", 0).unwrap().structure(), Structure::Whole);
}

#[test]
fn a_new_type_is_a_warning() {
    let json = r#"{"a":{"dtype":"F2_NEW","shape":[16],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#;
    let told = read_metadata(&file(&with_header(json, 8)), "model.safetensors").unwrap();
    assert_eq!((told.structure, told.tensor_bytes, told.parameters), (Structure::Whole, Some(8), Some(17)));
    assert_eq!(told.warnings, ["1 tensor of unknown type F2_NEW: a newer reader is needed"]);
    let cut = read_metadata(&file(&with_header(json, 7)), "model.safetensors").unwrap();
    assert_eq!(cut.structure, Structure::Truncated { missing: Some(1) });
}

#[test]
fn adapters_are_sidecars() {
    let json = r#"{"q.lora_A.weight":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"q.lora_B.weight":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#;
    let told = read_metadata(&file(&with_header(json, 8)), "adapter_model.safetensors").unwrap();
    assert!(told.sidecar);
    assert_eq!((told.parameters, told.facts()[0].1.as_str()), (Some(2), "LoRA adapter"));
    // Layers that were trained whole may lie beside the factors.
    let json = r#"{"q.lora_A.weight":{"dtype":"F32","shape":[8,1],"data_offsets":[0,32]},"embed.weight":{"dtype":"F32","shape":[1],"data_offsets":[32,36]}}"#;
    let told = read_metadata(&file(&with_header(json, 36)), "adapter_model.safetensors").unwrap();
    assert_eq!((told.sidecar, told.facts()[0].1.as_str()), (true, "LoRA adapter, rank 8"));
    assert!(!read_metadata(&file(&with_header(json, 36)), "model.safetensors").unwrap().sidecar);
}

#[test]
fn what_the_format_forbids_is_malformed() {
    let cases = [
        r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#,
        r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[2,6]}}"#,
        r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}}"#,
        r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}"#,
        r#"{"a":{"dtype":"F4","shape":[3],"data_offsets":[0,1]}}"#,
        r#"{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}}"#,
        r#"{"a":{"dtype":"F32","shape":[9223372036854775807],"data_offsets":[0,0]}}"#,
        r#"{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}"#,
        r#"{"a":{"dtype":"F32","data_offsets":[0,4]}}"#,
        r#"{"a":7}"#,
        r#"{"__metadata__":{"a":7}}"#,
        r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}"#,
        r#"{} x"#,
        "{\u{1b}[2J",
    ];
    for json in cases {
        let error = read(json, 8).unwrap_err();
        assert!(matches!(error, Error::Malformed(_)), "{json}: {error}");
        assert!(!error.to_string().chars().any(char::is_control), "{error:?}");
    }
    for length in [0u64, 1, 100_000_001, 1 << 63, u64::MAX] {
        let bytes = [length.to_le_bytes().as_slice(), b"{}"].concat();
        assert!(matches!(Header::read(bytes.as_slice(), bytes.len() as u64), Err(Error::NotSafetensors)), "{length}");
    }
    assert!(matches!(read(" []", 0), Err(Error::NotSafetensors)));
}

/// Headers that no writer makes and the crate may read, each of eight bytes of data.
pub fn odd_headers() -> Vec<String> {
    let tensor = r#"{"dtype":"F32","shape":[2],"data_offsets":[0,8]}"#;
    let with = |dimensions: usize| {
        let shape = vec!["1"; dimensions - 1].join(",");
        format!(r#"{{"a":{{"dtype":"F32","shape":[{shape},2],"data_offsets":[0,8]}}}}"#)
    };
    let unknown: String = (0..100).map(|at| format!(r#","x{at}":[1,{{}}]"#)).collect();
    vec![
        format!(r#"{{"a":{tensor}}}"#),
        format!(r#"{{"__metadata__":null,"a":{tensor}}}"#),
        format!(r#"{{"a":{tensor},"__metadata__":{{"format":"pt"}}}}"#),
        format!(r#"{{"__metadata__":{{"k":"1","k":"2"}},"a":{tensor}}}"#),
        format!(r#"{{"__metadata__":null,"__metadata__":null,"a":{tensor}}}"#),
        format!(r#"{{"__metadata__":[],"a":{tensor}}}"#),
        format!(r#"{{"__metadata__":{{"a":null}},"a":{tensor}}}"#),
        r#"{"a":["F32",[2],[0,8]]}"#.to_owned(),
        r#"{"a":[ "F32" , [2] , [0,8] ]}"#.to_owned(),
        r#"{"a":["F32",[2],[0,8],1]}"#.to_owned(),
        r#"{"a":["F32",[2]]}"#.to_owned(),
        r#"{"a":[]}"#.to_owned(),
        with(17),
        with(64),
        with(65),
        with(300),
        format!(r#" {{"a":{tensor}}}"#),
        format!("\n\t\r {{\"a\":{tensor}}}  "),
        format!("{{\"a\":{tensor}}}\0"),
        format!("\u{feff}{{\"a\":{tensor}}}"),
        format!(r#"{{"a":{tensor},"a":{tensor}}}"#),
        format!(r#"{{"a":{{"dtype":"F32","shape":[9],"data_offsets":[0,36]}},"\u0061":{tensor}}}"#),
        format!(r#"{{"a":{{"dtype":"F32","shape":[9],"data_offsets":[0,36]}},"b":["F32",[0],[0,0]],"a":{tensor}}}"#),
        format!(r#"{{"a":{tensor},"b":null}}"#),
        r#"{"a":{"dtype":{"F32":null},"shape":[2],"data_offsets":[0,8]}}"#.to_owned(),
        format!(r#"{{"a":{{"dtype":"F32","shape":[2],"data_offsets":[0,8]{unknown}}}}}"#),
        r#"{"a":{"dtype":"F32","shape":[2.0],"data_offsets":[0,8]}}"#.to_owned(),
        r#"{"a":{"dtype":"F32","shape":null,"data_offsets":[0,8]}}"#.to_owned(),
        r#"{"a":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#.to_owned(),
        r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8],"x":NaN}}"#.to_owned(),
    ]
}

/// Names with shapes, and what the metadata says.
type Content = (Vec<(String, Vec<u64>)>, BTreeMap<String, String>);

/// What is told of a header with eight bytes behind it: whether it is one, and if it is read its tensors and its metadata.
pub fn verdict(json: &str) -> (bool, Option<Content>) {
    match read(json, 8) {
        Ok(header) => {
            assert_eq!(header.structure(), Structure::Whole, "{json}");
            let mut tensors: Vec<_> =
                header.tensors().map(|tensor| (tensor.name.to_owned(), tensor.shape.to_vec())).collect();
            tensors.sort();
            (true, Some((tensors, header.metadata().clone())))
        }
        // Not read is no verdict on the file.
        Err(Error::TooMuch(_)) => (true, None),
        Err(_) => (false, None),
    }
}

#[test]
fn what_the_crate_reads_is_read_or_said_not_to_be() {
    let mut unread = 0;
    for json in odd_headers() {
        let mut bytes = with_header(&json, 0);
        bytes.extend([0; 8]);
        let theirs = ::safetensors::SafeTensors::deserialize(&bytes);
        let (is_one, told) = verdict(&json);
        assert_eq!(is_one, theirs.is_ok(), "{json}: {:?}", theirs.err());
        if let (Some((tensors, _)), Ok(theirs)) = (&told, theirs) {
            let mut theirs: Vec<(String, Vec<u64>)> = theirs
                .tensors()
                .into_iter()
                .map(|(name, view)| (name, view.shape().iter().map(|&n| n as u64).collect()))
                .collect();
            theirs.sort();
            assert_eq!(*tensors, theirs, "{json}");
        }
        unread += usize::from(is_one && told.is_none());
        // No working model is called damaged.
        let as_file = read_metadata(&file(&bytes), "model.safetensors");
        assert_eq!(as_file.is_ok(), is_one, "{json}: {as_file:?}");
    }
    assert_eq!(unread, 4, "types that are objects, very many dimensions, very many unknown keys");
}

#[test]
fn a_summary_reads_small_headers_only() {
    let small = file(&with_header(TWO, 40));
    assert_eq!(read_summary(&small, "model.safetensors"), read_metadata(&small, "model.safetensors"));
    let padded = format!("{TWO}{}", " ".repeat(100_000));
    let told = read_summary(&file(&with_header(&padded, 40)), "model-F16.safetensors").unwrap();
    assert!(told.partly_read);
    assert_eq!((told.structure, told.parameters), (Structure::Partial, None));
    assert_eq!(told.quantization, None);
}

#[test]
fn a_long_header_is_read_but_not_kept() {
    let mut json = String::from("{\"__metadata__\":{");
    for at in 0..100_000 {
        json.push_str(&format!("\"{at}\":\"{}\",", "x".repeat(80)));
    }
    json.push_str("\"last\":\"\"}}");
    let bytes = with_header(&json, 0);
    let (header, peak) = peak_of(|| Header::read(bytes.as_slice(), bytes.len() as u64).unwrap());
    assert!(header.metadata().len() <= 256);
    assert!(json.len() > 8 << 20 && peak < json.len() + (1 << 20), "{peak} of {}", json.len());
    // What no other reader would fetch is not read.
    let mut hole = 100_000_000u64.to_le_bytes().to_vec();
    hole.push(b'{');
    let handle = file(&hole);
    handle.set_len(200_000_000).unwrap();
    let (result, peak) = peak_of(|| read_metadata(&handle, "x.safetensors"));
    let told = result.unwrap();
    assert_eq!((told.structure, told.parameters), (Structure::Partial, None));
    assert!(told.warnings[0].contains("100000000 bytes, more than that of any model"), "{:?}", told.warnings);
    assert!(peak < 1 << 20, "{peak}");
}

proptest! {
    /// The crate's verdict on the same header is the same.
    #[test]
    fn the_crate_agrees(tensors in prop::collection::vec((0usize..4, prop::collection::vec(0u64..4, 0..3), -1i64..2), 0..4)) {
        let (mut json, mut at) = (String::from("{"), 0i64);
        for (index, (kind, shape, shift)) in tensors.iter().enumerate() {
            let (dtype, bits) = [("F32", 32), ("BF16", 16), ("F4", 4), ("U8", 8)][*kind];
            let bytes = i64::try_from(shape.iter().product::<u64>() * bits / 8).unwrap();
            let end = (at + bytes + if *shift == 1 { 4 } else { 0 }).max(0);
            let comma = if index > 0 { "," } else { "" };
            json.push_str(&format!("{comma}\"t{index}\":{{\"dtype\":\"{dtype}\",\"shape\":{shape:?},\"data_offsets\":[{at},{end}]}}"));
            at = (end + if *shift == -1 { -1 } else { 0 }).max(0);
        }
        json.push('}');
        let theirs: Result<::safetensors::tensor::Metadata, _> = serde_json::from_str(&json);
        let ours = read(&json, 0);
        prop_assert_eq!(ours.is_ok(), theirs.is_ok(), "{} {:?} {:?}", json, ours, theirs);
        if let (Ok(ours), Ok(theirs)) = (ours, theirs) {
            prop_assert_eq!(ours.data_bytes(), theirs.data_len() as u64);
        }
    }
}
