//! Readers on bytes that nobody thought of.

use proptest::prelude::*;
use rbee_hive::format::card::Card;
use rbee_hive::format::config_json::Config;
use rbee_hive::format::gguf::{Depth, TensorType, Writer};
use rbee_hive::format::safetensors::{Header, Index};
use rbee_hive::format::tokenizer::{Extent, Tokenizer, TokenizerConfig};
use rbee_hive::format::{read_metadata, read_summary};

use crate::memory::peak_of;
use crate::support::{file, header, written};

/// Memory that a reader may hold for a file of a few KB.
const LITTLE: usize = 1 << 20;

/// Reads in every way; what comes out is printable and small.
fn survives(bytes: &[u8]) -> Result<(), TestCaseError> {
    let (result, peak) = peak_of(|| {
        for depth in [Depth::Start, Depth::Whole, Depth::Tensors] {
            let _ = header(bytes, depth);
        }
        let _ = Header::read(bytes, bytes.len() as u64);
        let file = file(bytes);
        let _ = read_summary(&file, "x.gguf");
        read_metadata(&file, "x.gguf")
    });
    prop_assert!(peak < LITTLE, "{} bytes held", peak);
    let lines = match result {
        Ok(told) => told.warnings.into_iter().chain(told.name).chain(told.architecture).chain(told.licence).collect(),
        Err(line) => vec![line],
    };
    for line in lines {
        prop_assert!(line.chars().count() < 1000 && !line.chars().any(char::is_control), "{:?}", line);
    }
    Ok(())
}

fn good() -> Vec<u8> {
    written(
        &Writer::new("llama")
            .key("general.name", "name")
            .key("general.alignment", 32u32)
            .key("general.file_type", 15u32)
            .key("llama.block_count", 2u32)
            .key("llama.attention.head_count_kv", vec![4u32, 2])
            .key("tokenizer.ggml.tokens", vec!["<s>", "</s>", "a"])
            .key("tokenizer.ggml.scores", vec![0.0f32, 1.0, 2.0])
            .tensor("token_embd.weight", &[256, 3], TensorType::Q4_K)
            .tensor("output_norm.weight", &[256], TensorType::F32),
    )
}

fn extreme() -> impl Strategy<Value = u64> {
    prop_oneof![
        Just(0),
        Just(1),
        Just(u64::from(u32::MAX)),
        Just(1 << 32),
        Just(1 << 40),
        Just((1 << 63) - 1),
        Just(1 << 63),
        Just(u64::MAX - 7),
        Just(u64::MAX),
        0u64..64,
        any::<u64>(),
    ]
}

proptest! {
    #[test]
    fn random_bytes(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
        survives(&bytes)?;
    }

    #[test]
    fn random_bytes_behind_the_magic(version in 0u32..5, bytes in prop::collection::vec(any::<u8>(), 0..512)) {
        survives(&[b"GGUF".as_slice(), &version.to_le_bytes(), &bytes].concat())?;
    }

    #[test]
    fn random_bytes_behind_plausible_counts(tensors in 0u64..4, keys in 0u64..4, bytes in prop::collection::vec(0u8..16, 0..512)) {
        survives(&[b"GGUF\x03\0\0\0".as_slice(), &tensors.to_le_bytes(), &keys.to_le_bytes(), &bytes].concat())?;
    }

    #[test]
    fn good_headers_with_numbers_replaced(at in prop::collection::vec((any::<prop::sample::Index>(), extreme()), 1..4), cut in any::<prop::sample::Index>()) {
        let mut bytes = good();
        for (at, number) in at {
            let at = at.index(bytes.len() - 8);
            bytes[at..at + 8].copy_from_slice(&number.to_le_bytes());
        }
        survives(&bytes)?;
        survives(&bytes[..cut.index(bytes.len())])?;
    }

    #[test]
    fn good_headers_with_bytes_flipped(at in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)) {
        let mut bytes = good();
        for (at, byte) in at {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        survives(&bytes)?;
    }

    #[test]
    fn random_json_headers(text in "[\\[\\]{}\",:0-9a-z_.F \\\\-]{0,200}") {
        let mut bytes = ((text.len() + 1) as u64).to_le_bytes().to_vec();
        bytes.push(b'{');
        bytes.extend_from_slice(text.as_bytes());
        survives(&bytes)?;
        let _ = Config::parse(text.as_bytes());
        let _ = Index::parse(text.as_bytes());
        for extent in [Extent::Start, Extent::Whole] {
            let _ = Tokenizer::read(text.as_bytes(), extent);
        }
        let _ = TokenizerConfig::read(text.as_bytes());
        let _ = Card::read(text.as_bytes());
    }
}
