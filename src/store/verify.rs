//! Checking files against what records, headers and shard numbers promise; the same for every store.

use std::path::{Path, PathBuf};

use tokio_util::sync::CancellationToken;

use crate::error::Result;
use crate::model::{Digest, ModelId, Verification};

/// A file that belongs to a model, with what is known of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    /// Path inside the model, escaped.
    pub path: String,
    /// Where it should lie, relative to the root of the store.
    pub location: PathBuf,
    /// Its recorded length.
    pub size: Option<u64>,
    /// Its recorded digest.
    pub digest: Option<Digest>,
}

/// How much is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Presence, recorded lengths, and the length that a header implies.
    Quick,
    /// Every byte of what has a digest.
    Full,
}

/// How far a verification is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress<'a> {
    /// The file that is being read, as [`Expected::path`].
    pub file: &'a str,
    /// Bytes read of all files.
    pub bytes: u64,
    /// Bytes that will be read.
    pub total: u64,
}

/// Checks `files`, which lie below `root`; follows no link below it.
///
/// # Errors
/// [`crate::Error::Cancelled`]. What is wrong with a file is its status, never an error.
pub fn run(
    _model: &ModelId,
    _root: &Path,
    _files: &[Expected],
    _depth: Depth,
    _progress: &mut dyn FnMut(Progress<'_>),
    _cancel: &CancellationToken,
) -> Result<Verification> {
    todo!()
}
