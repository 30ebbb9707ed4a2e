//! Headers of weights files, each read once while the file stays the same.

use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock, RwLockWriteGuard};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::beside::Companion;
use super::memory::{Key, MAX_KEYS, Stored, Writer};
use crate::disk::fast_map::FastMap;
use crate::disk::folder::Status;
use crate::disk::lock::FileLock;
use crate::disk::{publish, safe};
use crate::error::Result as Outcome;
use crate::format::{Kind, Metadata, Named, UNREADABLE, read_metadata_as, read_summary_as};
use crate::model::{FileName, Format, Role, text};

/// A file of another version, or of another release, which may read headers otherwise, is not used.
const VERSION: &str = concat!("llorch-models headers 15 ", env!("CARGO_PKG_VERSION"), "\n");

/// Tags of what was read as weights: with the number of what their name says. Those of [`Companion`]s are below.
const NAMED: u8 = 0x20;

/// How long another process that writes the file is waited for: it takes milliseconds.
const PATIENCE: Duration = Duration::from_millis(500);

/// What a header told, or what is wrong with it.
pub type Header = Result<Arc<Metadata>, Arc<str>>;

#[derive(Debug, Default)]
struct Memory {
    known: FastMap<Key, Header>,
    /// Whether there is more than the file has.
    changed: bool,
}

/// Remembers headers by inode, length and times. Clones share their memory.
#[derive(Clone, Debug, Default)]
pub struct Headers {
    shared: Arc<Shared>,
    /// Set for a first look, and true once a header was not read to its end.
    glance: Option<Arc<AtomicBool>>,
    cancel: CancellationToken,
}

#[derive(Debug, Default)]
struct Shared {
    file: Option<PathBuf>,
    /// What the file had when the first header was asked for.
    stored: OnceLock<Texts>,
    /// What was read since.
    memory: RwLock<Memory>,
    /// Whether a file could not be written, which is said once.
    told: AtomicBool,
}

/// The file, and what was parsed of it: each text is the JSON of what a header told or of what is wrong with it.
#[derive(Debug, Default)]
struct Texts {
    stored: Stored,
    /// `None` inside when a text cannot be parsed.
    parsed: Box<[OnceLock<Option<Header>>]>,
}

impl Texts {
    fn read(file: &Path) -> Self {
        let stored = Stored::read(file, VERSION);
        let parsed = (0..stored.texts()).map(|_| OnceLock::new()).collect();
        Self { stored, parsed }
    }

    fn get(&self, key: &Key) -> Option<Header> {
        let number = self.stored.find(key)?;
        self.parsed.get(number)?.get_or_init(|| parse(self.stored.text(number)?)).clone()
    }
}

impl Headers {
    /// A memory that outlasts the program in `file`, read when the first header is asked for. A file that is missing, damaged
    /// or of another release only means that headers are read again.
    #[must_use]
    pub fn remembered_in(file: PathBuf) -> Self {
        Self { shared: Arc::new(Shared { file: Some(file), ..Shared::default() }), ..Self::default() }
    }

    /// The same memory for a first look: of a header that is not known, no more than the first 64 KiB are read. `missed` becomes
    /// true where that was not all of it; what it told is not remembered.
    #[must_use]
    pub fn at_a_glance(&self, missed: &Arc<AtomicBool>) -> Self {
        Self { glance: Some(Arc::clone(missed)), ..self.clone() }
    }

    /// The same memory for a scan that may be cancelled: what takes more than a header is then not read to its end.
    #[must_use]
    pub fn until(&self, cancel: &CancellationToken) -> Self {
        Self { cancel: cancel.clone(), ..self.clone() }
    }

    /// The header of the regular file at `location` below `root`, whose metadata is `status`.
    pub fn get(&self, root: &Path, location: &Path, status: &Status) -> Header {
        self.get_named(root, status, || location.to_owned(), location.file_name().unwrap_or_default())
    }

    /// The same where the model calls the file `name`, which tells what its header may not. Where it lies is asked for only if its
    /// header is not known.
    pub fn get_named(&self, root: &Path, status: &Status, location: impl FnOnce() -> PathBuf, name: &OsStr) -> Header {
        let read = if self.glance.is_some() { read_summary_as } else { read_metadata_as };
        // A file may have several names, and what is told of one of them is not told of another that says something else.
        let named = name.to_str().map_or_else(|| Named::of(&text::escape(name)), Named::of);
        self.remember_as(NAMED | named.number(), root, location, status, |file| read(file, named))
    }

    /// What a file of a row is for: what its header says of a GGUF file, else what its name does.
    pub(super) fn role(&self, root: &Path, location: &Path, status: &Status, by_name: Role) -> Role {
        let name = text::escape(location.file_name().unwrap_or_default());
        self.role_named(root, status, || location.to_owned(), &name, by_name)
    }

    /// The same where the model calls the file `name`.
    pub(super) fn role_named(
        &self,
        root: &Path,
        status: &Status,
        location: impl FnOnce() -> PathBuf,
        name: &str,
        by_name: Role,
    ) -> Role {
        let parsed = FileName::parse(name);
        if !parsed.is_gguf() || status.size_bytes == 0 {
            return by_name;
        }
        match self.get_named(root, status, location, name.as_ref()) {
            Ok(told) if told.partly_read && told.kind == Kind::Model => by_name,
            Ok(told) => told.kind.role().unwrap_or(match parsed.shard() {
                Some(_) => Role::Shard,
                None => Role::Weights,
            }),
            Err(_) => by_name,
        }
    }

    /// What a file at `location` below `root` tells of the weights that it lies beside.
    pub fn beside(&self, root: &Path, location: &Path, status: &Status, kind: Companion) -> Header {
        // A vocabulary is tens of megabytes.
        let kind = match &self.glance {
            Some(missed) if kind == Companion::Vocabulary => {
                if let Some(known) = self.known(&Key::of(status).tagged(kind.tag())) {
                    return known;
                }
                missed.store(true, Ordering::Relaxed);
                Companion::Tokenizer
            }
            // So is the index of the largest models.
            Some(missed) if kind == Companion::Index => {
                if let Some(known) = self.known(&Key::of(status).tagged(kind.tag())) {
                    return known;
                }
                missed.store(true, Ordering::Relaxed);
                return Ok(Arc::new(Metadata::unknown(Format::Safetensors)));
            }
            _ => kind,
        };
        self.remember_as(kind.tag(), root, || location.to_owned(), status, |file| kind.read(file))
    }

    /// `tag` tells apart the ways in which a file is read: caches keep files of equal content as one.
    fn remember_as(
        &self,
        tag: u8,
        root: &Path,
        location: impl FnOnce() -> PathBuf,
        status: &Status,
        read: impl FnOnce(&File) -> Result<Metadata, String>,
    ) -> Header {
        let key = Key::of(status).tagged(tag);
        if let Some(header) = self.known(&key) {
            return header;
        }
        let header = match safe::open_below(root, &location()) {
            Ok(file) => read(&file).map(Arc::new).map_err(Arc::from),
            Err(error) => return Err(error.to_string().into()),
        };
        // Rights and disks change without a new modification time, so what could not be read is not remembered.
        if header.as_ref().is_err_and(|why: &Arc<str>| why.starts_with(UNREADABLE)) {
            return header;
        }
        if let (Some(missed), Ok(told)) = (&self.glance, &header)
            && told.partly_read
        {
            missed.store(true, Ordering::Relaxed);
            return header;
        }
        self.remember(key, header.clone());
        header
    }

    /// Remembers what was found out.
    pub(super) fn remember(&self, key: Key, header: Header) {
        let mut memory = self.memory();
        if memory.known.len() >= MAX_KEYS {
            memory.known.clear();
        }
        memory.known.insert(key, header);
        memory.changed = true;
    }

    /// Whether what is not known is read at all, which it is not for a first look: that will know that there was more.
    pub(super) fn may_read(&self) -> bool {
        if let Some(missed) = &self.glance {
            missed.store(true, Ordering::Relaxed);
        }
        self.glance.is_none()
    }

    /// Cancelled when nobody waits any more for what takes long.
    pub(super) fn cancel(&self) -> &CancellationToken {
        &self.cancel
    }

    /// What is remembered.
    pub(super) fn known(&self, key: &Key) -> Option<Header> {
        let memory = || self.shared.memory.read().unwrap_or_else(PoisonError::into_inner).known.get(key).cloned();
        self.stored().get(key).or_else(memory)
    }

    /// Writes the memory to its file, if it has one and there is anything new. What other processes wrote meanwhile stays. Without
    /// room or right to write, nothing is remembered: the headers are read again next time.
    pub fn keep(&self) {
        let Some(file) = &self.shared.file else { return };
        if !std::mem::take(&mut self.memory().changed) {
            return;
        }
        if let Err(error) = self.write(file) {
            // The next call tries again, and says no more.
            self.memory().changed = true;
            if !self.shared.told.swap(true, Ordering::Relaxed) {
                tracing::warn!("headers are not remembered: {error}");
            }
        }
    }

    fn write(&self, file: &Path) -> Outcome<()> {
        publish::create_folders(file.parent().unwrap_or(Path::new("/")))?;
        let lock = file.with_extension("lock");
        let began = Instant::now();
        // Only who holds the lock writes, so that nobody's headers are lost.
        let _lock = loop {
            match FileLock::try_exclusive(&lock)? {
                Some(lock) => break lock,
                None if began.elapsed() > PATIENCE => {
                    let held = format!("{} holds it", FileLock::holder(&lock));
                    return Err(crate::Error::io("lock", &lock)(std::io::Error::other(held)));
                }
                None => thread::sleep(Duration::from_millis(5)),
            }
        };
        let mut writer = Writer::default();
        for (key, header) in &self.shared.memory.read().unwrap_or_else(PoisonError::into_inner).known {
            if let Some(text) = text_of(header) {
                writer.add(key, &text);
            }
        }
        let stored = &self.stored().stored;
        stored.iter().filter(|(.., used)| *used).for_each(|(key, text, _)| writer.add(key, text));
        // What nobody asked for in this run may belong to stores that another one sees; where there is no room, it goes first.
        let now = Stored::read(file, VERSION);
        now.iter().for_each(|(key, text, _)| writer.add(key, text));
        publish::write_atomically(file, &writer.finish(VERSION))
    }

    /// A poisoned map is still a map of whole entries.
    fn memory(&self) -> RwLockWriteGuard<'_, Memory> {
        self.shared.memory.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the file has, read once.
    fn stored(&self) -> &Texts {
        self.shared.stored.get_or_init(|| self.shared.file.as_deref().map(Texts::read).unwrap_or_default())
    }
}

/// The text of a header; values that are not known are left out.
fn text_of(header: &Header) -> Option<Vec<u8>> {
    let value = match header {
        Ok(metadata) => {
            let mut value = serde_json::to_value(&**metadata).ok()?;
            if let Value::Object(fields) = &mut value {
                fields.retain(|_, value| !value.is_null());
            }
            value
        }
        Err(why) => Value::String(why.to_string()),
    };
    serde_json::to_vec(&value).ok()
}

fn parse(text: &[u8]) -> Option<Header> {
    if text.first() == Some(&b'"') {
        return serde_json::from_slice::<String>(text).ok().map(|why| Err(why.into()));
    }
    serde_json::from_slice::<Metadata>(text).ok().map(|metadata| Ok(Arc::new(metadata)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::folder::Folder;

    fn status(root: &Path) -> Status {
        Folder::open(root).unwrap().status(OsStr::new("m.gguf")).unwrap()
    }

    #[test]
    fn what_one_run_read_the_next_one_knows() {
        let scratch = tempfile::tempdir().unwrap();
        let (root, file) = (scratch.path(), scratch.path().join("cache/headers"));
        let mut bytes = Vec::new();
        crate::format::gguf::Writer::new("llama").write_to(&mut bytes, 1).unwrap();
        std::fs::write(root.join("m.gguf"), &bytes).unwrap();
        let (name, seen) = (Path::new("m.gguf"), status(root));
        let headers = Headers::remembered_in(file.clone());
        let first = headers.get(root, name, &seen);
        assert_eq!(first.as_ref().unwrap().architecture.as_deref(), Some("llama"));
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

        // Cut anywhere, or with another bit anywhere, it is as good as none.
        let whole = std::fs::read(&file).unwrap();
        let cut = (0..whole.len()).map(|end| whole[..end].to_vec());
        let flipped = (0..whole.len()).map(|at| {
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << (at % 8);
            bytes
        });
        for damaged in cut.chain(flipped) {
            std::fs::write(&file, damaged).unwrap();
            assert_ne!(Headers::remembered_in(file.clone()).get(root, name, &seen), wrong);
        }
    }

    #[test]
    fn claims_that_the_file_cannot_hold_are_no_reason_to_ask_for_memory() {
        let scratch = tempfile::tempdir().unwrap();
        let file = scratch.path().join("headers");
        let whole = Writer::default().finish(VERSION);
        let claims = whole.len() - 8;
        for at in [claims, claims + 4] {
            let mut bytes = whole.clone();
            bytes[at..at + 4].copy_from_slice(&u32::MAX.to_le_bytes());
            crate::store::memory::seal(&mut bytes, VERSION);
            std::fs::write(&file, &bytes).unwrap();
            assert_eq!(Stored::read(&file, VERSION).iter().count(), 0);
        }
    }

    #[test]
    fn a_changed_inode_is_another_content_even_with_the_old_times() {
        let scratch = tempfile::tempdir().unwrap();
        let (root, name) = (scratch.path(), Path::new("m.gguf"));
        std::fs::write(root.join(name), b"no header here").unwrap();
        let before = status(root);
        let headers = Headers::default();
        let wrong = headers.get(root, name, &before);
        std::fs::write(root.join(name), b"<!DOCTYPE html").unwrap();
        let time = std::time::SystemTime::from(before.modified.unwrap());
        File::options().write(true).open(root.join(name)).unwrap().set_modified(time).unwrap();
        let after = status(root);
        assert_eq!((before.inode, before.size_bytes, before.modified), (after.inode, after.size_bytes, after.modified));
        // The clock of a file system may tick as slowly as a hundred times a second.
        if before.changed != after.changed {
            assert_ne!(headers.get(root, name, &after), wrong);
        }
    }

    #[test]
    fn what_one_name_of_a_file_tells_is_not_told_of_another() {
        let scratch = tempfile::tempdir().unwrap();
        let (root, file) = (scratch.path(), scratch.path().join("cache/headers"));
        let mut bytes = Vec::new();
        let writer = crate::format::gguf::Writer::new("llama");
        let writer = writer.tensor("token_embd.weight", &[32, 4], crate::format::gguf::TensorType(0));
        writer.write_to(&mut bytes, 1).unwrap();
        std::fs::write(root.join("mtp-m.gguf"), &bytes).unwrap();
        for name in ["m.gguf", "n.gguf", "mmproj-m.gguf", "m.safetensors"] {
            std::fs::hard_link(root.join("mtp-m.gguf"), root.join(name)).unwrap();
        }
        let seen = status(root);
        let told = |headers: &Headers, name: &str| headers.get(root, Path::new(name), &seen).unwrap();
        // In one run, and in the next, whichever name comes first.
        for names in [["mtp-m.gguf", "m.gguf", "mmproj-m.gguf"], ["m.gguf", "mmproj-m.gguf", "mtp-m.gguf"]] {
            let headers = Headers::remembered_in(file.clone());
            for name in names {
                let kind = match name {
                    "mtp-m.gguf" => Kind::Draft,
                    "mmproj-m.gguf" => Kind::Projector,
                    _ => Kind::Model,
                };
                assert_eq!((told(&headers, name).kind, name), (kind, name));
            }
            assert!(Arc::ptr_eq(&told(&headers, "m.gguf"), &told(&headers, "n.gguf")), "read once");
            assert_eq!(told(&headers, "m.safetensors").warnings.len(), 1);
            assert_eq!(told(&headers, "m.gguf").warnings.len(), 0);
            headers.keep();
        }
    }

    #[test]
    fn two_memories_that_write_at_once_lose_nothing() {
        let scratch = tempfile::tempdir().unwrap();
        let (root, file) = (scratch.path(), scratch.path().join("cache/headers"));
        let one = |index: usize| {
            let name = format!("m{index}.gguf");
            std::fs::write(root.join(&name), format!("no header {index}")).unwrap();
            let status = Folder::open(root).unwrap().status(OsStr::new(&name)).unwrap();
            // Each is a process of its own as far as the memory goes.
            let headers = Headers::remembered_in(file.clone());
            drop(headers.get(root, Path::new(&name), &status));
            // Tries again where a slow disk let the others hold the lock for too long.
            (0..20).for_each(|_| headers.keep());
        };
        thread::scope(|scope| {
            (0..8).for_each(|index| drop(scope.spawn(move || one(index))));
        });
        assert_eq!(Stored::read(&file, VERSION).iter().count(), 8);
    }

    #[test]
    fn without_a_place_to_write_nothing_is_lost_but_time() {
        let scratch = tempfile::tempdir().unwrap();
        std::fs::write(scratch.path().join("m.gguf"), b"no header here").unwrap();
        std::fs::write(scratch.path().join("file"), b"").unwrap();
        let headers = Headers::remembered_in(scratch.path().join("file/headers"));
        assert!(headers.get(scratch.path(), Path::new("m.gguf"), &status(scratch.path())).is_err());
        headers.keep();
    }
}
