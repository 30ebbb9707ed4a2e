//! Headers of weights files, each read once while the file stays the same.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;

use crate::disk::folder::Status;
use crate::disk::safe;
use crate::format::{Metadata, read_metadata};
use crate::model::{Inode, text};

/// Most headers that are remembered; beyond that the memory starts anew.
const MAX_REMEMBERED: usize = 65_536;

/// What a header told, or what is wrong with it.
pub type Header = Arc<Result<Metadata, String>>;

/// Which content a header belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    inode: Inode,
    size_bytes: u64,
    modified: Option<Timestamp>,
}

/// Remembers headers by inode, length and modification time. Clones share their memory.
#[derive(Clone, Debug, Default)]
pub struct Headers(Arc<Mutex<HashMap<Key, Header>>>);

impl Headers {
    /// The header of the regular file at `location` below `root`, whose metadata is `status`.
    #[must_use]
    pub fn get(&self, root: &Path, location: &Path, status: &Status) -> Header {
        let key = Key { inode: status.inode, size_bytes: status.size_bytes, modified: status.modified };
        // A poisoned map is still a map of whole entries.
        if let Some(known) = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return Arc::clone(known);
        }
        let name = text::escape(location.file_name().unwrap_or_default());
        let header = match safe::open_below(root, location) {
            Ok(file) => Arc::new(read_metadata(&file, &name)),
            // Rights change without a new modification time, so a failure to open is not remembered.
            Err(error) => return Arc::new(Err(error.to_string())),
        };
        let mut map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if map.len() >= MAX_REMEMBERED {
            map.clear();
        }
        map.insert(key, Arc::clone(&header));
        header
    }
}
