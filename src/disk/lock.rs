//! Advisory locks between processes.

use std::fs::File;
use std::path::Path;

use crate::error::Result;

/// An exclusive `flock` on a file, released when dropped (or when the process dies).
#[derive(Debug)]
pub struct FileLock {
    _file: File,
}

impl FileLock {
    /// Creates the file if need be and tries to lock it; `None` if another process holds it.
    ///
    /// After locking, the path is checked to still name the locked file, so that a lock file that its former holder
    /// removed is never taken for the present one.
    ///
    /// # Errors
    /// [`crate::Error::Io`] when the file cannot be opened.
    pub fn try_exclusive(_path: &Path) -> Result<Option<Self>> {
        todo!()
    }

    /// The locked file, for reading and writing.
    #[must_use]
    pub fn file(&self) -> &File {
        &self._file
    }

    /// Who holds the lock, as a person would say it ("process 4711 (llorch-models, user alice)"), as far as
    /// `/proc/locks` tells; "another process" otherwise.
    #[must_use]
    pub fn holder(_path: &Path) -> String {
        todo!()
    }
}
