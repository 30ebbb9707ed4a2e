//! What was found right, so that nobody has to read it again to know.
//!
//! A file is known by device, inode, length, modification and change time: whatever is done to its content changes one of
//! them. Several processes keep one file of results; each adds what it found under a lock.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock, RwLockWriteGuard};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::verify::Expected;
use crate::disk::lock::FileLock;
use crate::disk::{publish, regular};
use crate::error::{Error, Result};
use crate::model::{Digest, FileStatus, Inode, Model, ModelId, text};

/// Most files that are remembered; the oldest results go first.
const MAX_FILES: usize = 32_768;

/// Most models that are remembered, and most files of one of them.
const MAX_MODELS: usize = 8_192;
const MAX_MODEL_FILES: usize = 16_384;

/// Longest file of results that is read.
const MAX_BYTES: u64 = 64 << 20;

/// Version of that file. One of another version is not used, and replaced.
const VERSION: u32 = 1;

/// How long another process may hold the lock; it holds it for one small write.
const PATIENCE: Duration = Duration::from_secs(3);

/// A change within this time before a file was read may have the same time as a change after it.
const TICK: Duration = Duration::from_millis(20);

/// The same for file systems that count whole seconds.
const COARSE_TICK: Duration = Duration::from_secs(2);

/// Which content a result is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Fingerprint {
    /// `st_dev` and `st_ino`.
    #[serde(flatten)]
    pub inode: Inode,
    /// `st_size`.
    #[serde(rename = "size")]
    pub size_bytes: u64,
    /// `st_mtim`: seconds and nanoseconds.
    #[serde(rename = "mtime")]
    pub modified: (i64, i64),
    /// `st_ctim`: seconds and nanoseconds.
    #[serde(rename = "ctime")]
    pub changed: (i64, i64),
}

impl Fingerprint {
    /// Of an open file.
    ///
    /// # Errors
    /// Those of `fstat`.
    pub fn of(file: &File) -> io::Result<Self> {
        file.metadata().map(|status| Self::new(&status))
    }

    fn new(status: &fs::Metadata) -> Self {
        Self {
            inode: Inode { device: status.dev(), inode: status.ino() },
            size_bytes: status.len(),
            modified: (status.mtime(), status.mtime_nsec()),
            changed: (status.ctime(), status.ctime_nsec()),
        }
    }

    /// Of the regular file at `path`; a link is not followed.
    fn at(path: &Path) -> Option<Self> {
        path.symlink_metadata().ok().filter(fs::Metadata::is_file).map(|status| Self::new(&status))
    }

    /// Whether a change that came right after now could leave the fingerprint as it is.
    fn is_fresh(&self) -> bool {
        let Ok(seconds) = u64::try_from(self.changed.0) else { return false };
        let changed = SystemTime::UNIX_EPOCH + Duration::new(seconds, u32::try_from(self.changed.1).unwrap_or(0));
        let tick = if self.changed.1 == 0 { COARSE_TICK } else { TICK };
        SystemTime::now().duration_since(changed).is_ok_and(|age| age < tick)
    }
}

/// A good result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Good {
    #[serde(flatten)]
    fingerprint: Fingerprint,
    digest: Digest,
    when: Timestamp,
}

/// What is known of a whole row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Known {
    #[serde(flatten)]
    model: ModelId,
    when: Timestamp,
    /// Of the row, so that files which came later are noticed.
    file_count: u64,
    size_bytes: u64,
    files: Vec<KnownFile>,
    /// Files with other bytes than promised; none when the model is right.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    corrupt: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct KnownFile {
    #[serde(with = "text::escaped")]
    location: PathBuf,
    #[serde(flatten)]
    fingerprint: Fingerprint,
}

#[derive(Default, Serialize, Deserialize)]
struct Stored {
    version: u32,
    files: Vec<Good>,
    models: Vec<Known>,
}

/// Good results. Clones share their memory.
#[derive(Clone, Debug, Default)]
pub struct Remembered(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    file: Option<PathBuf>,
    memory: RwLock<Memory>,
}

#[derive(Debug, Default)]
struct Memory {
    files: HashMap<Inode, Good>,
    models: BTreeMap<ModelId, Known>,
    /// What this process found since the last writing; `None` is a result that no longer holds.
    new_files: HashMap<Inode, Option<Good>>,
    new_models: BTreeMap<ModelId, Option<Known>>,
    /// Which content of the file is in here.
    read: Option<Fingerprint>,
}

impl Remembered {
    /// A memory that outlasts the program in `file`. One that is missing, damaged or of another version knows nothing.
    #[must_use]
    pub fn in_file(file: PathBuf) -> Self {
        Self(Arc::new(Shared { file: Some(file), memory: RwLock::default() }))
    }

    fn memory(&self) -> RwLockWriteGuard<'_, Memory> {
        // A poisoned map is still a map of whole entries.
        self.0.memory.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in what other processes have found since.
    pub fn refresh(&self) {
        let Some(path) = &self.0.file else { return };
        let now = Fingerprint::at(path);
        if self.0.memory.read().unwrap_or_else(PoisonError::into_inner).read == now {
            return;
        }
        let stored = read(path);
        let mut memory = self.memory();
        memory.take(stored);
        memory.read = now;
    }

    /// When the file was last found to have `digest`, if it has not changed since.
    #[must_use]
    pub fn good(&self, fingerprint: &Fingerprint, digest: Digest) -> Option<Timestamp> {
        let memory = self.0.memory.read().unwrap_or_else(PoisonError::into_inner);
        let good = memory.files.get(&fingerprint.inode)?;
        (good.fingerprint == *fingerprint && good.digest == digest).then_some(good.when)
    }

    /// Notes that the file has this digest. One that changed a moment ago is not noted: it may change again unnoticed.
    pub fn remember(&self, fingerprint: &Fingerprint, digest: Digest) {
        if fingerprint.is_fresh() {
            return self.forget(fingerprint);
        }
        self.note(fingerprint, digest);
    }

    /// Notes that a file, which nobody but this process has written, was published with this digest.
    pub fn published(&self, path: &Path, digest: Digest) {
        let status = fs::metadata(path).ok().filter(fs::Metadata::is_file);
        if let Some(status) = status {
            self.note(&Fingerprint::new(&status), digest);
        }
    }

    fn note(&self, fingerprint: &Fingerprint, digest: Digest) {
        let good = Good { fingerprint: *fingerprint, digest, when: now() };
        let mut memory = self.memory();
        memory.files.insert(fingerprint.inode, good);
        memory.new_files.insert(fingerprint.inode, Some(good));
    }

    /// Forgets what was known of a file.
    pub fn forget(&self, fingerprint: &Fingerprint) {
        let mut memory = self.memory();
        memory.files.remove(&fingerprint.inode);
        memory.new_files.insert(fingerprint.inode, None);
    }

    /// Notes what is known of a whole row from its files: `expected` are all of them, `corrupt` those that were found with
    /// other bytes than promised.
    pub fn note_model(&self, model: &Model, root: &Path, expected: &[Expected], corrupt: Vec<String>) {
        let known = self.judge(model, root, expected, corrupt);
        let mut memory = self.memory();
        match &known {
            Some(known) => memory.models.insert(model.identity.clone(), known.clone()),
            None => memory.models.remove(&model.identity),
        };
        memory.new_models.insert(model.identity.clone(), known);
    }

    /// The files of a row that were found with other bytes than promised.
    #[must_use]
    pub fn corrupt(&self, model: &ModelId) -> Vec<String> {
        let memory = self.0.memory.read().unwrap_or_else(PoisonError::into_inner);
        memory.models.get(model).map_or_else(Vec::new, |known| known.corrupt.clone())
    }

    fn judge(&self, model: &Model, root: &Path, expected: &[Expected], corrupt: Vec<String>) -> Option<Known> {
        if expected.len() > MAX_MODEL_FILES {
            return None;
        }
        let mut when: Option<Timestamp> = None;
        let mut files = Vec::with_capacity(expected.len());
        for file in expected {
            // What is missing is seen by everybody who looks.
            let Some(fingerprint) = Fingerprint::at(&root.join(&file.location)) else {
                if corrupt.is_empty() {
                    return None;
                } else {
                    continue;
                };
            };
            let promises = file.digest.into_iter().chain(file.others.iter().map(|promise| promise.digest));
            let good = promises.filter_map(|digest| self.good(&fingerprint, digest)).max();
            if file.digest.is_some() && corrupt.is_empty() {
                // The oldest result is how old the whole is.
                let good = good?;
                when = Some(when.map_or(good, |when| when.min(good)));
            }
            files.push(KnownFile { location: file.location.clone(), fingerprint });
        }
        let when = if corrupt.is_empty() { when? } else { now() };
        let (file_count, size_bytes) = (model.file_count, model.size_bytes);
        Some(Known { model: model.identity.clone(), when, file_count, size_bytes, files, corrupt })
    }

    /// Adds to a row what is known of it, as long as no file of it has changed.
    pub fn annotate(&self, model: &mut Model) {
        let known = {
            let memory = self.0.memory.read().unwrap_or_else(PoisonError::into_inner);
            memory.models.get(&model.identity).cloned()
        };
        let Some(known) = known else { return };
        let root = &model.identity.store_path;
        let holds = (known.file_count, known.size_bytes) == (model.file_count, model.size_bytes)
            && known.files.iter().all(|file| Fingerprint::at(&root.join(&file.location)) == Some(file.fingerprint));
        if !holds {
            return;
        }
        if known.corrupt.is_empty() {
            model.verified = Some(known.when);
            return;
        }
        model.note_damage(FileStatus::Corrupt);
        let when = known.when.strftime("%Y-%m-%d %H:%M UTC");
        for path in known.corrupt.iter().take(8) {
            model.warnings.push(format!("{} is corrupt: verified on {when}", text::printable(path)));
        }
        if known.corrupt.len() > 8 {
            model.warnings.push(format!("{} more files are corrupt", known.corrupt.len() - 8));
        }
    }

    /// Writes what this process found to the file, if it has one and there is anything new, together with what others have
    /// written there. Without room or right to write, it is only known here.
    pub fn keep(&self) {
        let Some(path) = &self.0.file else { return };
        let (files, models) = {
            let mut memory = self.memory();
            if memory.new_files.is_empty() && memory.new_models.is_empty() {
                return;
            }
            (std::mem::take(&mut memory.new_files), std::mem::take(&mut memory.new_models))
        };
        let written = merge(path, &files, &models);
        let mut memory = self.memory();
        match written {
            Ok(merged) => {
                // What was found meanwhile is newer.
                memory.take(Some(merged));
                memory.read = Fingerprint::at(path);
            }
            Err(error) => {
                tracing::warn!("results of verifying are not remembered: {error}");
                for (inode, good) in files {
                    memory.new_files.entry(inode).or_insert(good);
                }
                for (model, known) in models {
                    memory.new_models.entry(model).or_insert(known);
                }
            }
        }
    }
}

impl Memory {
    /// What the file has, with what this process has found and not yet written over it.
    fn take(&mut self, stored: Option<Stored>) {
        let stored = stored.unwrap_or_default();
        self.files = stored.files.into_iter().map(|good| (good.fingerprint.inode, good)).collect();
        self.models = stored.models.into_iter().map(|known| (known.model.clone(), known)).collect();
        for (inode, good) in &self.new_files {
            match good {
                Some(good) => self.files.insert(*inode, *good),
                None => self.files.remove(inode),
            };
        }
        for (model, known) in &self.new_models {
            match known {
                Some(known) => self.models.insert(model.clone(), known.clone()),
                None => self.models.remove(model),
            };
        }
    }
}

fn now() -> Timestamp {
    let now = Timestamp::now();
    Timestamp::from_second(now.as_second()).unwrap_or(now)
}

fn read(path: &Path) -> Option<Stored> {
    let bytes = regular::read(path, MAX_BYTES).ok()??;
    let stored: Stored = serde_json::from_slice(&bytes).ok()?;
    (stored.version == VERSION).then_some(stored)
}

/// Adds to the file under its lock, and gives what it holds then.
fn merge(
    path: &Path,
    files: &HashMap<Inode, Option<Good>>,
    models: &BTreeMap<ModelId, Option<Known>>,
) -> Result<Stored> {
    let mut lock_path = path.as_os_str().to_owned();
    lock_path.push(".lock");
    let lock_path = PathBuf::from(lock_path);
    publish::create_folders(path.parent().unwrap_or(Path::new(".")))?;
    let _lock = wait_for(&lock_path)?;
    let mut memory = Memory { new_files: files.clone(), new_models: models.clone(), ..Memory::default() };
    memory.take(read(path));
    let mut stored = Stored {
        version: VERSION,
        files: memory.files.into_values().collect(),
        models: memory.models.into_values().collect(),
    };
    // The newest stay, in an order of their own so that equal results are equal files.
    stored.files.sort_by_key(|good| (std::cmp::Reverse(good.when), good.fingerprint.inode));
    stored.files.truncate(MAX_FILES);
    stored.models.sort_by(|a, b| b.when.cmp(&a.when).then_with(|| a.model.cmp(&b.model)));
    stored.models.truncate(MAX_MODELS);
    let bytes = serde_json::to_vec(&stored)
        .map_err(|error| Error::Damaged(format!("results of verifying cannot be written as JSON: {error}")))?;
    publish::write_atomically(path, &bytes)?;
    Ok(stored)
}

fn wait_for(path: &Path) -> Result<FileLock> {
    let started = Instant::now();
    loop {
        if let Some(lock) = FileLock::try_exclusive(path)? {
            return Ok(lock);
        }
        if started.elapsed() > PATIENCE {
            return Err(Error::Locked { path: path.to_owned(), holder: FileLock::holder(path) });
        }
        thread::sleep(Duration::from_millis(5));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(byte: &str) -> Digest {
        Digest::parse(&byte.repeat(32)).unwrap()
    }

    /// A file that nobody has touched for a while.
    fn old(path: &Path) -> Fingerprint {
        fs::write(path, b"bytes").unwrap();
        let begin = Instant::now();
        loop {
            let fingerprint = Fingerprint::at(path).unwrap();
            if !fingerprint.is_fresh() {
                return fingerprint;
            }
            assert!(begin.elapsed() < Duration::from_secs(60));
            thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn what_one_process_found_another_knows_until_the_file_changes() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("state/verified.json");
        let (one, two) = (Remembered::in_file(path.clone()), Remembered::in_file(path.clone()));
        let a = old(&scratch.path().join("a"));
        let b = old(&scratch.path().join("b"));
        one.remember(&a, digest("aa"));
        two.remember(&b, digest("bb"));
        one.keep();
        two.keep();
        one.refresh();
        for memory in [&one, &two, &Remembered::in_file(path.clone())] {
            memory.refresh();
            assert!(memory.good(&a, digest("aa")).is_some() && memory.good(&b, digest("bb")).is_some());
            assert_eq!(memory.good(&a, digest("bb")), None, "another promise is another question");
        }
        // A bad result takes the good one away, for everybody.
        two.forget(&a);
        two.keep();
        one.refresh();
        assert_eq!(one.good(&a, digest("aa")), None);
        fs::write(scratch.path().join("b"), b"other").unwrap();
        let changed = Fingerprint::at(&scratch.path().join("b")).unwrap();
        assert_eq!(one.good(&changed, digest("bb")), None);
    }

    #[test]
    fn many_processes_lose_nothing_of_each_other() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("verified.json");
        let files: Vec<Fingerprint> = (0..16).map(|number| old(&scratch.path().join(number.to_string()))).collect();
        thread::scope(|scope| {
            for file in &files {
                let path = path.clone();
                scope.spawn(move || {
                    let memory = Remembered::in_file(path);
                    memory.remember(file, digest("aa"));
                    memory.keep();
                });
            }
        });
        let memory = Remembered::in_file(path);
        memory.refresh();
        assert!(files.iter().all(|file| memory.good(file, digest("aa")).is_some()));
    }

    #[test]
    fn what_changed_a_moment_ago_is_not_remembered() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("f");
        let fingerprint = old(&path);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        let fresh = Fingerprint { changed: (i64::try_from(now.as_secs()).unwrap() + 1, 5), ..fingerprint };
        assert!(!fresh.is_fresh(), "a time that has not come yet says nothing");
        let fresh = Fingerprint { changed: (i64::try_from(now.as_secs()).unwrap(), 0), ..fingerprint };
        let memory = Remembered::default();
        memory.remember(&fresh, digest("aa"));
        assert_eq!(memory.good(&fresh, digest("aa")), None);
        memory.remember(&fingerprint, digest("aa"));
        assert!(memory.good(&fingerprint, digest("aa")).is_some());
    }

    #[test]
    fn damaged_results_and_no_place_to_write_are_no_trouble() {
        let scratch = tempfile::tempdir().unwrap();
        let file = old(&scratch.path().join("f"));
        for content in ["", "{", "{\"version\":99,\"files\":[],\"models\":[]}"] {
            let path = scratch.path().join("verified.json");
            fs::write(&path, content).unwrap();
            let memory = Remembered::in_file(path.clone());
            memory.refresh();
            memory.remember(&file, digest("aa"));
            memory.keep();
            let again = Remembered::in_file(path);
            again.refresh();
            assert!(again.good(&file, digest("aa")).is_some(), "{content}");
        }
        let memory = Remembered::in_file(scratch.path().join("f/verified.json"));
        memory.remember(&file, digest("aa"));
        memory.keep();
        assert!(memory.good(&file, digest("aa")).is_some(), "it is known in this process all the same");
    }
}
