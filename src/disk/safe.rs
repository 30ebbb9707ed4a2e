//! Paths below a root, reached without following a link.

use std::fs::File;
use std::path::{Path, PathBuf};

use crate::error::Result;
use crate::model::RepoPath;

/// Opens a regular file below `root` for reading; follows no link below `root`, never blocks on a pipe.
///
/// # Errors
/// [`crate::Error::UnsafePath`] for what is no regular file or lies behind a link, [`crate::Error::Io`] otherwise.
pub fn open_below(_root: &Path, _path: &Path) -> Result<File> {
    todo!()
}

/// Creates the folders that hold `path` below `root` (which may not exist yet either) and gives the full path of
/// the file. No folder on the way below `root` may be a link.
///
/// # Errors
/// [`crate::Error::UnsafePath`] when a part of the way is a link or no folder, [`crate::Error::Io`] otherwise.
pub fn prepare_below(_root: &Path, _path: &RepoPath) -> Result<PathBuf> {
    todo!()
}
