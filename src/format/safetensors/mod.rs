//! safetensors: a JSON header, then the data of the tensors.
//!
//! Only the header is read. Types are those of the crate `safetensors`; a type that it does not know is a warning here, not
//! a failure, because the header says where each tensor's data ends whatever its type is.
//!
//! Source of the format: `safetensors/safetensors/src/tensor.rs` and the format text beside it.

mod header;
mod index;
mod packed;
mod parse;

use std::io::{Read, Seek};

pub use header::{Error, Header, TensorInfo};
pub use index::Index;
pub use packed::Packed;

use super::adapter::Adapter;
use super::named::Named;
use super::warnings::Warnings;
use super::{Kind, Metadata, Structure};
use crate::model::{Format, Quantization};

/// The header that the crate accepts at most.
const LONGEST_HEADER: u64 = 100_000_000;
/// The header that a summary reads at most.
const SUMMARY_HEADER: u64 = (64 << 10) - 1024;

/// Whether a file that begins so can be a safetensors file: a sensible length, then a JSON object.
pub(super) fn starts_like_one(head: &[u8]) -> bool {
    let Some((length, rest)) = head.split_first_chunk::<8>() else { return false };
    let first = rest.iter().find(|byte| !parse::is_white(**byte));
    (2..=LONGEST_HEADER).contains(&u64::from_le_bytes(*length))
        && (first == Some(&b'{') || first.is_none() && !rest.is_empty())
}

/// What the header of a file of `length` bytes tells. With `start_only`, larger headers are not read.
pub(super) fn metadata(
    mut reader: impl Read + Seek,
    length: u64,
    named: Named,
    start_only: bool,
) -> Result<Metadata, String> {
    let mut warnings = Warnings::default();
    let header = if start_only && header::header_length(&mut reader).map_err(|e| e.to_string())? > SUMMARY_HEADER {
        None
    } else {
        reader.rewind().map_err(|error| Error::Io(error).to_string())?;
        match Header::read(reader, length) {
            Ok(header) => Some(header),
            Err(error @ Error::Truncated { .. }) => {
                warnings.add(error.to_string());
                return Ok(empty(None, Structure::Truncated { missing: None }, false, warnings));
            }
            Err(error @ (Error::TooLong { .. } | Error::TooMuch(_))) => {
                warnings.add(error.to_string());
                return Ok(empty(None, Structure::Partial, false, warnings));
            }
            Err(error) => return Err(error.to_string()),
        }
    };
    let Some(header) = header else { return Ok(empty(None, Structure::Partial, true, warnings)) };
    for line in header.warnings() {
        warnings.add(line.as_str());
    }
    let found = packed::look(&header);
    let is_sure = found.as_ref().is_some_and(|found| found.is_sure);
    let (packed, layout) = found.map_or((None, None), |found| (Some(found.packed), found.label));
    let tensor_bytes = Some(header.data_bytes());
    // A tensor's type is no label where it holds several weights.
    let several = packed.as_ref().is_some_and(|packed| packed.several || packed.parameters(tensor_bytes).is_none());
    let guessed = layout.as_deref().or_else(|| header.most_frequent().filter(|_| !several)).map(Quantization::new);
    let rank = header.adapter_rank();
    let method = (rank.is_some() || header.is_adapter()).then(|| "LORA".to_owned());
    let is_one = header.is_adapter() || named.adapter;
    let adapter = is_one.then(|| Adapter::new(method, rank, None));
    Ok(Metadata {
        parameters: match &packed {
            Some(packed) => packed.parameters(tensor_bytes),
            None => Some(header.elements()),
        },
        packed,
        tensor_bytes,
        tensors: Some(header.tensors().len() as u64),
        names: Some(header.names()),
        sidecar: adapter.is_some(),
        kind: if adapter.is_some() { Kind::Adapter } else { Kind::Model },
        adapter,
        quantization_guessed: guessed.is_some() && !is_sure,
        ..empty(guessed, header.structure(), false, warnings)
    })
}

/// Whether a file is named as PEFT names adapters, which may hold whole layers as well.
pub(super) fn is_adapter_name(name: &str) -> bool {
    name.starts_with("adapter_model.") || name.starts_with("adapter_model-")
}

fn empty(quantization: Option<Quantization>, structure: Structure, partly_read: bool, warnings: Warnings) -> Metadata {
    Metadata {
        quantization,
        structure,
        partly_read,
        warnings: warnings.into_lines(),
        ..Metadata::unknown(Format::Safetensors)
    }
}
