//! What a header tells about a model, whatever its format.

use std::fs::File;

use serde::Serialize;

use crate::model::{Format, Quantization};

/// What the header of one file says about its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "state")]
pub enum Structure {
    /// Long enough for everything that the header names.
    Whole,
    /// Cut short.
    Truncated {
        /// Bytes that are missing; `None` when the header itself is cut.
        missing: Option<u64>,
    },
    /// Longer than the header and its padding account for.
    Extra {
        /// Bytes too many.
        bytes: u64,
    },
    /// The header has a type of unknown size: as far as it could be checked, whole.
    Partial,
}

/// What a header tells. Unknown values are `None`, never guesses, except where a field says so.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Metadata {
    /// Format of the file.
    pub format: Format,
    /// `general.architecture`.
    pub architecture: Option<String>,
    /// `general.name`, made printable.
    pub name: Option<String>,
    /// Quantization: from `general.file_type`, else from the name, else the most frequent tensor type.
    pub quantization: Option<Quantization>,
    /// Whether `quantization` is a guess from the tensors.
    pub quantization_guessed: bool,
    /// Parameters of this file: the sum over its tensors.
    pub parameters: Option<u64>,
    /// Bytes of its tensors.
    pub tensor_bytes: Option<u64>,
    /// Training context in tokens.
    pub context_length: Option<u64>,
    /// Layers.
    pub layers: Option<u64>,
    /// Attention heads.
    pub heads: Option<u64>,
    /// Key and value heads.
    pub heads_kv: Option<u64>,
    /// Embedding length.
    pub embedding_length: Option<u64>,
    /// Experts.
    pub experts: Option<u64>,
    /// Experts used for a token.
    pub experts_used: Option<u64>,
    /// Whether a chat template is there.
    pub chat_template: bool,
    /// Kind of tokenizer.
    pub tokenizer: Option<String>,
    /// Licence.
    pub licence: Option<String>,
    /// The model that this one was made from.
    pub base_model: Option<String>,
    /// Who quantized it.
    pub quantized_by: Option<String>,
    /// `split.count`.
    pub split_count: Option<u64>,
    /// Whether it is a sidecar (projector, adapter, importance matrix, vocabulary) and no model.
    pub sidecar: bool,
    /// What the header says about the file's length.
    pub structure: Structure,
    /// What is odd about the header, one line each, made printable.
    pub warnings: Vec<String>,
}

/// Reads the header of an open regular file, whose name helps where the header is silent. The magic decides the format,
/// not the name.
///
/// # Errors
/// A line that says what is wrong ("not a GGUF file: HTML", "malformed: key count 2^63"): a warning on a row, never the end of a scan.
pub fn read_metadata(_file: &File, _name: &str) -> Result<Metadata, String> {
    todo!()
}
