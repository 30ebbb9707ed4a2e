//! Headers of weights files, each read once while the file stays the same.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock, RwLockWriteGuard};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::disk::folder::Status;
use crate::disk::{publish, safe};
use crate::format::{Metadata, UNREADABLE, read_metadata};
use crate::model::{Inode, text};

/// Most headers that are remembered; beyond that the memory starts anew.
const MAX_REMEMBERED: usize = 65_536;

/// Longest file of remembered headers that is read.
const MAX_FILE: u64 = 128 << 20;

/// Version of that file. A file of another version, or of another release, which may read headers otherwise, is not used.
const VERSION: &str = concat!("2 ", env!("CARGO_PKG_VERSION"));

/// What a header told, or what is wrong with it. In a box, because a long value that is not there takes as much room as one that is.
pub type Header = Arc<Result<Box<Metadata>, String>>;

/// Which content a header belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    inode: Inode,
    size_bytes: u64,
    modified: Option<Timestamp>,
}

#[derive(Debug)]
struct Known {
    header: Header,
    /// Whether it was asked for in this run: the file may be gone if not.
    used: AtomicBool,
}

#[derive(Debug, Default)]
struct Memory {
    known: HashMap<Key, Known>,
    /// Whether there is more than the file has.
    changed: bool,
}

/// Remembers headers by inode, length and modification time. Clones share their memory.
#[derive(Clone, Debug, Default)]
pub struct Headers(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    file: Option<PathBuf>,
    loaded: OnceLock<()>,
    memory: RwLock<Memory>,
}

/// The file.
#[derive(Serialize, Deserialize)]
struct Stored<H> {
    version: String,
    headers: Vec<H>,
}

/// Device, inode, length, modification time, and what the header told. A list, because there are very many.
#[derive(Deserialize)]
struct Read(u64, u64, u64, Option<Timestamp>, Result<Box<Metadata>, String>);

/// The same for writing.
#[derive(Serialize)]
struct Written<'a>(u64, u64, u64, Option<Timestamp>, &'a Result<Box<Metadata>, String>);

impl Headers {
    /// A memory that outlasts the program in `file`, read when the first header is asked for. A file that is missing, damaged
    /// or of another release only means that headers are read again.
    #[must_use]
    pub fn remembered_in(file: PathBuf) -> Self {
        Self(Arc::new(Shared { file: Some(file), ..Shared::default() }))
    }

    /// The header of the regular file at `location` below `root`, whose metadata is `status`.
    #[must_use]
    pub fn get(&self, root: &Path, location: &Path, status: &Status) -> Header {
        self.get_named(root, location, &text::escape(location.file_name().unwrap_or_default()), status)
    }

    /// The same where the model calls the file `name`, which tells what its header may not.
    #[must_use]
    pub fn get_named(&self, root: &Path, location: &Path, name: &str, status: &Status) -> Header {
        self.remember(root, location, status, |file| read_metadata(file, name))
    }

    /// What the `config.json` at `location` below `root` tells of the weights beside it.
    #[must_use]
    pub fn config(&self, root: &Path, location: &Path, status: &Status) -> Header {
        self.remember(root, location, status, Metadata::of_config)
    }

    fn remember(
        &self,
        root: &Path,
        location: &Path,
        status: &Status,
        read: impl FnOnce(&File) -> Result<Metadata, String>,
    ) -> Header {
        let key = Key { inode: status.inode, size_bytes: status.size_bytes, modified: status.modified };
        self.load();
        if let Some(known) = self.0.memory.read().unwrap_or_else(PoisonError::into_inner).known.get(&key) {
            known.used.store(true, Ordering::Relaxed);
            return Arc::clone(&known.header);
        }
        let header = match safe::open_below(root, location) {
            Ok(file) => Arc::new(read(&file).map(Box::new)),
            Err(error) => return Arc::new(Err(error.to_string())),
        };
        // Rights and disks change without a new modification time, so what could not be read is not remembered.
        if header.as_ref().as_ref().is_err_and(|why| why.starts_with(UNREADABLE)) {
            return header;
        }
        let mut memory = self.memory();
        if memory.known.len() >= MAX_REMEMBERED {
            memory.known.retain(|_, known| known.used.load(Ordering::Relaxed));
        }
        if memory.known.len() >= MAX_REMEMBERED {
            memory.known.clear();
        }
        memory.known.insert(key, Known { header: Arc::clone(&header), used: AtomicBool::new(true) });
        memory.changed = true;
        header
    }

    /// Writes the memory to its file, if it has one and there is anything new. Without room or right to write, nothing is
    /// remembered: the headers are read again next time.
    pub fn keep(&self) {
        let Some(file) = &self.0.file else { return };
        let mut memory = self.memory();
        if !memory.changed {
            return;
        }
        memory.changed = false;
        let headers = memory
            .known
            .iter()
            .map(|(key, known)| Written(key.inode.device, key.inode.inode, key.size_bytes, key.modified, &known.header))
            .collect();
        let bytes = serde_json::to_vec(&Stored { version: VERSION.to_owned(), headers });
        drop(memory);
        let written = bytes
            .map_err(|error| error.to_string())
            .and_then(|bytes| publish::write_atomically(file, &bytes).map_err(|error| error.to_string()));
        if let Err(error) = written {
            tracing::warn!("headers are not remembered: {error}");
        }
    }

    /// A poisoned map is still a map of whole entries.
    fn memory(&self) -> RwLockWriteGuard<'_, Memory> {
        self.0.memory.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in what the file has, once.
    fn load(&self) {
        self.0.loaded.get_or_init(|| {
            let Some(stored) = self.0.file.as_deref().and_then(load) else { return };
            let mut memory = self.memory();
            memory.known.reserve(stored.len().min(MAX_REMEMBERED));
            for Read(device, inode, size_bytes, modified, header) in stored.into_iter().take(MAX_REMEMBERED) {
                let key = Key { inode: Inode { device, inode }, size_bytes, modified };
                let known = Known { header: Arc::new(header), used: AtomicBool::new(false) };
                memory.known.entry(key).or_insert(known);
            }
        });
    }
}

fn load(path: &Path) -> Option<Vec<Read>> {
    let file = File::open(path).ok().filter(|file| file.metadata().is_ok_and(|status| status.is_file()))?;
    let mut bytes = Vec::new();
    file.take(MAX_FILE).read_to_end(&mut bytes).ok()?;
    let stored: Stored<Read> = serde_json::from_slice(&bytes).ok()?;
    (stored.version == VERSION).then_some(stored.headers)
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::*;
    use crate::disk::folder::Folder;

    fn status(root: &Path) -> Status {
        Folder::open(root).unwrap().status(OsStr::new("m.gguf")).unwrap()
    }

    #[test]
    fn what_one_run_read_the_next_one_knows() {
        let scratch = tempfile::tempdir().unwrap();
        let (root, file) = (scratch.path(), scratch.path().join("cache/headers.json"));
        let mut bytes = Vec::new();
        crate::format::gguf::Writer::new("llama").write_to(&mut bytes, 1).unwrap();
        std::fs::write(root.join("m.gguf"), &bytes).unwrap();
        let (name, seen) = (Path::new("m.gguf"), status(root));
        let headers = Headers::remembered_in(file.clone());
        let first = headers.get(root, name, &seen);
        assert_eq!(first.as_ref().as_ref().unwrap().architecture.as_deref(), Some("llama"));
        headers.keep();
        // Gone, and still known: nothing is opened.
        std::fs::remove_file(root.join("m.gguf")).unwrap();
        assert_eq!(Headers::remembered_in(file.clone()).get(root, name, &seen), first);
        // What is wrong with a file is known as well; another content is another file.
        std::fs::write(root.join("m.gguf"), b"no header here").unwrap();
        let seen = status(root);
        let headers = Headers::remembered_in(file.clone());
        let wrong = headers.get(root, name, &seen);
        assert!(wrong.is_err());
        headers.keep();
        std::fs::remove_file(root.join("m.gguf")).unwrap();
        assert_eq!(Headers::remembered_in(file.clone()).get(root, name, &seen), wrong);

        for damaged in [&b"{"[..], b"{\"version\":\"0\",\"headers\":[]}", b""] {
            std::fs::write(&file, damaged).unwrap();
            assert_ne!(Headers::remembered_in(file.clone()).get(root, name, &seen), wrong);
        }
    }

    #[test]
    fn without_a_place_to_write_nothing_is_lost_but_time() {
        let scratch = tempfile::tempdir().unwrap();
        std::fs::write(scratch.path().join("m.gguf"), b"no header here").unwrap();
        std::fs::write(scratch.path().join("file"), b"").unwrap();
        let headers = Headers::remembered_in(scratch.path().join("file/headers.json"));
        assert!(headers.get(scratch.path(), Path::new("m.gguf"), &status(scratch.path())).is_err());
        headers.keep();
    }
}
