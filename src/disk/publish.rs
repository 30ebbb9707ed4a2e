//! Files that appear whole or not at all.

use std::path::Path;

use crate::error::Result;

/// Writes `bytes` to a temporary file beside `path`, syncs it, renames it over `path` and syncs the folder.
/// Missing folders are created; the mode follows the umask; as root a new file takes the folder's owner.
///
/// # Errors
/// [`crate::Error::Io`] or [`crate::Error::NoSpace`]; the old content then still stands and nothing is left over.
pub fn write_atomically(_path: &Path, _bytes: &[u8]) -> Result<()> {
    todo!()
}

/// Moves the finished `staged` file to its final name in the same file system: sync, rename, sync of the folder.
///
/// # Errors
/// [`crate::Error::Io`]; `staged` then still stands.
pub fn publish(_staged: &Path, _target: &Path) -> Result<()> {
    todo!()
}
