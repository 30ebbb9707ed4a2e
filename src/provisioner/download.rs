//! From a reference to files: what a download takes, and where it goes.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::hub::Repository;
pub use crate::model::DestinationKind;
use crate::model::{Quantization, RemoteFile};

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
    /// Fetch also the vision projector (`mmproj`) of a GGUF model.
    #[serde(default)]
    pub mmproj: bool,
}

impl DownloadRequest {
    /// Asks for what `reference` means, in the flat store.
    pub fn new(reference: impl Into<String>) -> Self {
        Self { reference: reference.into(), files: Vec::new(), to: DestinationKind::Flat, force: false, mmproj: false }
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
    /// The folder of the model: in the Hugging Face cache that of the repository.
    pub folder: PathBuf,
    /// Sum of the sizes.
    pub total: u64,
    /// Whether the folder's record proves that everything is there: then nothing is fetched, and no hub was asked.
    pub whole: bool,
    /// The complete listing of the repository; empty when no hub was asked.
    pub listing: Vec<RemoteFile>,
}

impl DownloadPlan {
    /// The folder below which the files get their names: the model's own, or the snapshot of the commit.
    #[must_use]
    pub fn base(&self) -> PathBuf {
        match self.request.to {
            DestinationKind::Flat => self.folder.clone(),
            DestinationKind::Hf => self.folder.join("snapshots").join(&self.repository.commit),
        }
    }
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
