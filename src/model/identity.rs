//! Which row is which: the identity that marks, plans and commands hold.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::text;

/// The kinds of store. The order is the order in which they are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StoreKind {
    /// One folder a model under a base folder.
    Flat,
    /// The Hugging Face hub cache.
    Hf,
    /// Ollama's manifests and blobs.
    Ollama,
    /// LM Studio's `publisher/repo` folders.
    LmStudio,
    /// llama.cpp's flat cache.
    LlamaCpp,
}

impl StoreKind {
    /// Every kind.
    pub const ALL: [Self; 5] = [Self::Flat, Self::Hf, Self::Ollama, Self::LmStudio, Self::LlamaCpp];

    /// The name in JSON, on the command line and in filters.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Flat => "flat",
            Self::Hf => "hf",
            Self::Ollama => "ollama",
            Self::LmStudio => "lmstudio",
            Self::LlamaCpp => "llamacpp",
        }
    }
}

impl fmt::Display for StoreKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for StoreKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|kind| kind.name() == text).ok_or_else(|| {
            format!("'{}' is no store; use one of flat, hf, ollama, lmstudio, llamacpp", text::printable(text))
        })
    }
}

/// What a row holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ModelKind {
    /// Weights and what belongs to them.
    Model,
    /// A dataset of the hub.
    Dataset,
    /// A space of the hub.
    Space,
    /// Anything else that a store holds.
    Other,
}

/// The identity of a row: store kind, store root and the id within it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ModelId {
    /// The kind of store.
    pub store: StoreKind,
    /// The root of the store, resolved.
    #[serde(with = "text::escaped")]
    pub store_path: PathBuf,
    /// The id in the store's own form, [`text::escape`]d: a folder, `org/name`, `model:tag`, a file stem.
    pub id: String,
}

impl fmt::Display for ModelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.store, text::printable(&self.id))
    }
}
