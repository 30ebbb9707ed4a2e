//! From a reference to files: what a download takes, and where it goes.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::hub::Repository;
pub use crate::model::DestinationKind;
use crate::model::{Quantization, RemoteFile, RepoPath};
use crate::store::remembered::Bad;

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
    /// Those of the files that lie here and were found to be wrong: they are fetched again, and stay until then.
    pub damaged: Vec<(RepoPath, Bad)>,
    /// The complete listing of the repository; empty when no hub was asked.
    pub listing: Vec<RemoteFile>,
}

impl DownloadPlan {
    /// Most damaged files that are named one by one.
    const NAMED: usize = 8;

    /// Lines that say why something that lies here is fetched again.
    #[must_use]
    pub fn damage_lines(&self) -> Vec<String> {
        let line = |(path, bad): &(RepoPath, Bad)| {
            format!("{path} was {} (verified on {}); fetched again", bad.status.name(), bad.since())
        };
        let mut lines: Vec<String> = self.damaged.iter().take(Self::NAMED).map(line).collect();
        if self.damaged.len() > Self::NAMED {
            lines.push(format!("{} more files are fetched again", self.damaged.len() - Self::NAMED));
        }
        lines
    }

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
