//! One file of a model, here or on the hub.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Digest, FileName, Piece, RepoPath, text};

/// What a file is for, told by its name (a header read later may say it for sure).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Weights in one file.
    Weights,
    /// One of several files that make up the weights.
    Shard,
    /// A multimodal projector or another sidecar that a model loads beside its weights.
    Mmproj,
    /// `config.json` and its relatives, the index of sharded weights.
    Config,
    /// A vocabulary, merges, a chat template.
    Tokenizer,
    /// A licence, a readme, anything else.
    Other,
}

impl Role {
    /// The role that a file's name tells.
    #[must_use]
    pub fn of(file_name: &str) -> Self {
        let name = FileName::parse(file_name);
        let lower = file_name.to_ascii_lowercase();
        if name.is_gguf() && name.is_sidecar() {
            return Self::Mmproj;
        }
        if name.is_weights() {
            return if name.shard().is_some() { Self::Shard } else { Self::Weights };
        }
        if Piece::parse(file_name).is_some() {
            return Self::Shard;
        }
        match lower.as_str() {
            "tokenizer.json"
            | "tokenizer_config.json"
            | "tokenizer.model"
            | "vocab.json"
            | "vocab.txt"
            | "merges.txt"
            | "special_tokens_map.json"
            | "added_tokens.json"
            | "chat_template.jinja"
            | "chat_template.json" => Self::Tokenizer,
            "config.json"
            | "generation_config.json"
            | "preprocessor_config.json"
            | "processor_config.json"
            | "adapter_config.json"
            | "hf_quant_config.json"
            | "quantize_config.json" => Self::Config,
            _ if lower.ends_with(".safetensors.index.json") => Self::Config,
            _ if lower.ends_with(".model") || lower.ends_with(".tiktoken") => Self::Tokenizer,
            _ => Self::Other,
        }
    }
}

/// A file on disk as part of a model.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ModelFile {
    /// Path inside the model, [`text::escape`]d.
    pub path: String,
    /// Where it lies.
    #[serde(skip)]
    pub absolute: PathBuf,
    /// Length of the content.
    pub size_bytes: u64,
    /// Blocks that it takes on disk, in bytes.
    pub disk_bytes: u64,
    /// What it is for.
    pub role: Role,
    /// The SHA-256 that a record or sidecar promises; not computed here.
    #[serde(serialize_with = "sha256_only")]
    pub sha256: Option<Digest>,
}

fn sha256_only<S: serde::Serializer>(digest: &Option<Digest>, serializer: S) -> Result<S::Ok, S::Error> {
    match digest {
        Some(digest @ Digest::Sha256(_)) => serializer.collect_str(digest),
        _ => serializer.serialize_none(),
    }
}

impl ModelFile {
    /// The path inside the model, made printable.
    #[must_use]
    pub fn label(&self) -> String {
        text::printable(&self.path)
    }
}

/// A file as the hub lists it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoteFile {
    /// Path in the repository.
    pub path: RepoPath,
    /// Length in bytes.
    pub size: u64,
    /// What checks the content: SHA-256 for large files, git SHA-1 for small ones; none from a server that tells none.
    pub digest: Option<Digest>,
    /// Git's id of the blob as the listing gives it (of the pointer text for large files); kept for `trees/<commit>.json`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blob_id: Option<String>,
    /// The Xet hash, if the hub stores the file so; never a checksum of the bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub xet_hash: Option<String>,
}

/// What tells later that remote bytes are still the same: the strong `ETag` of the server that sent them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Validator(pub String);
