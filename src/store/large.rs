//! The large files of a row and the checksums that are known of them without reading a byte: what tells copies.

use std::path::{Path, PathBuf};

use super::Row;
use crate::model::{Digest, Inode, StoreKind};

/// Files from this length on are compared; copies of smaller ones are not worth a word.
pub const LARGE: u64 = 1 << 20;

/// A file of at least [`LARGE`] bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LargeFile {
    /// The file.
    pub inode: Inode,
    /// `st_size`.
    pub size_bytes: u64,
    /// What a name, a record or a manifest says of its content.
    pub digest: Option<Digest>,
    /// Where it lies, relative to the root of the store. `None` for a blob that its digest names, of which there may be very many.
    pub path: Option<Box<Path>>,
}

impl Row {
    /// Where one of its large files lies.
    #[must_use]
    pub fn place_of(&self, file: &LargeFile) -> PathBuf {
        let root = &self.model.identity.store_path;
        match (&file.path, file.digest) {
            (Some(path), _) => root.join(path),
            (None, Some(digest)) if self.model.identity.store == StoreKind::Ollama => {
                root.join(format!("blobs/sha256-{digest}"))
            }
            (None, Some(digest)) => self.model.path.join(format!("blobs/{digest}")),
            (None, None) => self.model.path.clone(),
        }
    }
}
