//! What a mirror serves.

use std::fs::File;

use crate::error::Result;
use crate::model::{Digest, RepoPath};

/// Repositories and their files. Methods block on the disk.
pub trait Content: Send + Sync {
    /// The ids (`org/name`) of every repository, sorted.
    ///
    /// # Errors
    /// When the disk cannot be read.
    fn repositories(&self) -> Result<Vec<String>>;

    /// The files of a repository, sorted by path; `None` if there is no such repository.
    ///
    /// # Errors
    /// When the disk cannot be read.
    fn files(&self, id: &str) -> Result<Option<Vec<ServedFile>>>;

    /// Opens a file that [`Self::files`] named, following no link.
    ///
    /// # Errors
    /// When it is gone, or is no regular file any more.
    fn open(&self, id: &str, path: &RepoPath) -> Result<File>;

    /// What is known of a repository beside its files.
    fn facts(&self, id: &str) -> Facts;
}

/// A file that is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServedFile {
    /// Path in the repository.
    pub path: RepoPath,
    /// Length in bytes.
    pub size: u64,
    /// Tells, together with the size, whether the content may have changed: device, inode, seconds and nanoseconds of
    /// the last modification and the last change.
    pub stamp: [i64; 6],
    /// The SHA-256 that a record vouches for; computed from the bytes if there is none.
    pub sha256: Option<Digest>,
}

/// What is told of a repository beside its files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Downloads of the last month.
    pub downloads: u64,
    /// Likes.
    pub likes: u64,
    /// Tags beside those that the files tell (`gguf`, `safetensors`).
    pub tags: Vec<String>,
    /// Whether its files are for accounts with access only.
    pub gate: Gate,
    /// The commit to tell instead of the one made from the content.
    pub commit: Option<String>,
    /// Branches and tags beside `main` that mean the same commit.
    pub revisions: Vec<String>,
}

/// How access to the files of a repository is got.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Gate {
    /// By everybody.
    #[default]
    Open,
    /// By accounts that accepted the terms.
    Auto,
    /// By accounts that were approved.
    Manual,
}
