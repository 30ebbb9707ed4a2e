//! What the official client leaves beside downloaded files: `.cache/huggingface/` with one `.metadata` a file.

use std::path::Path;

use crate::error::Result;
use crate::model::{RemoteFile, RepoPath};

/// What a `.metadata` file says about its file.
#[derive(Clone, Debug, PartialEq)]
pub struct Metadata {
    /// The commit that it came from.
    pub commit: String,
    /// SHA-256 or git's blob id in hexadecimal from the hub; anything from other servers.
    pub etag: String,
    /// When this was true, in seconds since 1970.
    pub time: f64,
}

impl Metadata {
    /// The sidecar of `file` in `folder`, if there is one, it can be read, and the file was not changed since.
    #[must_use]
    pub fn read(_folder: &Path, _file: &RepoPath) -> Option<Self> {
        todo!()
    }
}

/// Writes the sidecar of a file that was just published (its time is now), and what the official client puts beside it:
/// `CACHEDIR.TAG` and `.gitignore`.
///
/// # Errors
/// [`crate::Error::Io`], [`crate::Error::NoSpace`], [`crate::Error::UnsafePath`].
pub fn write(_folder: &Path, _file: &RepoPath, _commit: &str, _etag: &str) -> Result<()> {
    todo!()
}

/// Writes `trees/<commit>.json`. `files` must be the complete listing of the repository at `commit`: the official client
/// takes it for the whole truth.
///
/// # Errors
/// [`crate::Error::Io`], [`crate::Error::NoSpace`], [`crate::Error::UnsafePath`].
pub fn write_tree(_folder: &Path, _commit: &str, _files: &[RemoteFile]) -> Result<()> {
    todo!()
}
