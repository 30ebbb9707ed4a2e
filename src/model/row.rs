//! One row of the table: a deletable unit of a store, with what it really costs.

use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{ModelId, ModelKind, Quantization, text};

/// The format of the weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// GGUF.
    Gguf,
    /// safetensors.
    Safetensors,
    /// Something else, or nothing.
    Other,
}

impl Format {
    /// The name in JSON and on screens.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Gguf => "gguf",
            Self::Safetensors => "safetensors",
            Self::Other => "other",
        }
    }
}

/// A process that holds a file of a model.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Holder {
    /// The process.
    pub pid: u32,
    /// Its owner; the number where no name is known.
    pub user: String,
    /// Its command line, made printable and cut.
    pub command: String,
}

/// A row: one deletable unit. Serialises as the object of `list --json`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Model {
    /// Store kind, store root and id.
    #[serde(flatten)]
    pub identity: ModelId,
    /// What it holds.
    pub kind: ModelKind,
    /// `org/name` it came from, if a record, a cache or a catalog says so.
    pub reference: Option<String>,
    /// Where it lies.
    #[serde(with = "text::escaped")]
    pub path: PathBuf,
    /// User who owns it.
    pub owner: Option<String>,
    /// Mount point of its file system.
    #[serde(with = "text::escaped_option")]
    pub mount: Option<PathBuf>,
    /// Format of the weights.
    pub format: Option<Format>,
    /// Its quantization; `None` when there are several or none is known.
    pub quantization: Option<Quantization>,
    /// Every quantization in it.
    pub quantizations: Vec<Quantization>,
    /// `general.architecture`, or `model_type`.
    pub architecture: Option<String>,
    /// Parameters, summed over the shards of one quantization.
    pub parameters: Option<u64>,
    /// Training context in tokens.
    pub context_length: Option<u64>,
    /// Files without bookkeeping.
    pub file_count: u64,
    /// `st_size` over its distinct files without bookkeeping.
    pub size_bytes: u64,
    /// `st_blocks * 512` over every regular file of it, an inode once, bookkeeping included.
    pub disk_bytes: u64,
    /// What deleting it would free.
    pub reclaimable_bytes: u64,
    /// Newest modification of its files.
    pub modified: Option<Timestamp>,
    /// Last use as far as the file system tells.
    pub accessed: Option<Timestamp>,
    /// Whether no weights are missing, cut short or still being fetched.
    pub complete: bool,
    /// Processes that hold it; `None` when nobody looked.
    pub in_use_by: Option<Vec<Holder>>,
    /// When its content was last found right by checksum; `None` when that is not known, or a file has changed since.
    pub verified: Option<Timestamp>,
    /// What is wrong or worth knowing, one line each, made printable.
    pub warnings: Vec<String>,
    /// Whether the protect list of the configuration keeps it out of every plan.
    pub protected: bool,
    /// Whether one of its large files is in another place of this host, too; false until all rows were compared.
    pub duplicate: bool,
}

impl Model {
    /// The id, made printable.
    #[must_use]
    pub fn label(&self) -> String {
        text::printable(&self.identity.id)
    }

    /// The quantizations as people read them: one label, or several joined by a comma.
    #[must_use]
    pub fn quantization_label(&self) -> String {
        self.quantizations.iter().map(Quantization::as_str).collect::<Vec<_>>().join(",")
    }
}

/// What a store as a whole holds. Serialises as an element of `stores` in `list --json`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StoreSummary {
    /// The kind.
    pub store: super::StoreKind,
    /// The root.
    #[serde(with = "text::escaped")]
    pub path: PathBuf,
    /// `st_blocks * 512` of the whole store, an inode once.
    pub disk_bytes: u64,
    /// Rows in it.
    pub models: u64,
    /// What is wrong with the store as a whole.
    pub warnings: Vec<String>,
}
