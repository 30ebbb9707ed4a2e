//! From a reference to files: what a download takes, and where it goes.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::hub::Repository;
use crate::model::{Quantization, RemoteFile};

/// Into which kind of store a download goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DestinationKind {
    /// A folder of the flat store.
    #[default]
    Flat,
    /// The Hugging Face cache.
    Hf,
}

/// What a person asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DownloadRequest {
    /// The reference as typed.
    pub reference: String,
    /// Patterns over whole paths instead of the default selection.
    pub files: Vec<String>,
    /// Where to.
    pub to: DestinationKind,
    /// Fetch also what is there already, and replace what is in the way.
    pub force: bool,
}

impl DownloadRequest {
    /// Asks for what `reference` means, in the flat store.
    pub fn new(reference: impl Into<String>) -> Self {
        Self { reference: reference.into(), files: Vec::new(), to: DestinationKind::Flat, force: false }
    }
}

/// What a download will fetch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DownloadPlan {
    /// The request.
    pub request: DownloadRequest,
    /// The repository, pinned.
    pub repository: Repository,
    /// The branch, tag or commit that was asked for.
    pub revision: String,
    /// What will be fetched, weights first.
    pub files: Vec<RemoteFile>,
    /// The quantization, if one was named or chosen.
    pub quantization: Option<Quantization>,
    /// The folder.
    pub folder: PathBuf,
    /// Sum of the sizes.
    pub total: u64,
    /// Whether the folder's record proves that everything is there: then nothing is fetched, and no hub was asked.
    pub whole: bool,
    /// The complete listing of the repository; empty when no hub was asked.
    pub listing: Vec<RemoteFile>,
}

/// A finished download.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Downloaded {
    /// The first shard, the GGUF, or for safetensors the index or the first file.
    pub path: PathBuf,
    /// Every file.
    pub paths: Vec<PathBuf>,
    /// Bytes that came over the network.
    pub fetched: u64,
}
