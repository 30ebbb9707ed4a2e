//! The record of a folder: which repository it was filled from, and with what.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::model::{Digest, RepoPath};

/// Where a record lies in its folder.
pub const RECORD: &str = ".cache/llorch-models/source.json";

/// Which repository a folder was filled from, and with what. Lies at [`RECORD`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Version of this format: 1.
    pub version: u32,
    /// Base address of the hub.
    pub endpoint: String,
    /// `org/name`.
    pub repository: String,
    /// The branch, tag or commit that was asked for last.
    pub revision: String,
    /// The commit that it was then.
    pub commit: String,
    /// Every file that was published here.
    pub files: Vec<RecordedFile>,
}

/// A published file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordedFile {
    /// Path in the repository and in the folder.
    pub path: RepoPath,
    /// Length in bytes.
    pub size: u64,
    /// What checks its content.
    pub digest: Option<Digest>,
}

impl Record {
    /// The version that this program writes.
    pub const VERSION: u32 = 1;

    /// The record of `folder`; `None` when it has none.
    ///
    /// # Errors
    /// [`crate::Error::Damaged`] when it is no record, [`crate::Error::Io`] or [`crate::Error::UnsafePath`] when it cannot be read.
    pub fn read(_folder: &Path) -> Result<Option<Self>> {
        todo!()
    }

    /// Writes this record as the record of `folder`, joined with the one that is there: endpoint, revision and commit are
    /// this one's, files of the same path too, the other files stay (if they are still there). Call it without files before the
    /// first byte of a download: that claims the folder for the repository.
    ///
    /// # Errors
    /// [`crate::Error::DeletionRefused`] never; [`crate::Error::UnsafePath`] when the folder belongs to another repository;
    /// [`crate::Error::Io`], [`crate::Error::NoSpace`].
    pub fn merge(&self, _folder: &Path) -> Result<()> {
        todo!()
    }

    /// The path of the record of `folder`.
    #[must_use]
    pub fn path(folder: &Path) -> PathBuf {
        folder.join(RECORD)
    }
}
