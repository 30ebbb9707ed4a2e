//! What was found right, so that nobody has to read it again to know; and what was found wrong, so that nobody takes it for right.
//!
//! A file is known by device, inode, length, modification and change time: whatever is done to its content changes one of
//! them. Several processes keep one file of results; each adds what it found under a lock.

mod bad;

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

pub use self::bad::Bad;
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

/// Most files that a row names one by one.
const MAX_LINES: usize = 8;

/// Version of that file. One of another version is not used, and replaced.
const VERSION: u32 = 2;

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

/// A whole row that was found right.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Known {
    #[serde(flatten)]
    model: ModelId,
    when: Timestamp,
    /// Of the row, so that files which came later are noticed.
    file_count: u64,
    size_bytes: u64,
    files: Vec<KnownFile>,
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
    bad: Vec<Bad>,
    models: Vec<Known>,
}

/// Results, good and bad. Clones share their memory.
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
    bad: HashMap<Inode, Bad>,
    models: BTreeMap<ModelId, Known>,
    new: News,
    /// Which content of the file is in here.
    read: Option<Fingerprint>,
}

/// What this process found since the last writing; `None` is a result that no longer holds.
#[derive(Clone, Debug, Default)]
struct News {
    files: HashMap<Inode, Option<Good>>,
    bad: HashMap<Inode, Option<Bad>>,
    models: BTreeMap<ModelId, Option<Known>>,
}

impl News {
    fn is_empty(&self) -> bool {
        self.files.is_empty() && self.bad.is_empty() && self.models.is_empty()
    }

    /// Adds what was found before, where nothing newer is known.
    fn add_older(&mut self, older: Self) {
        for (inode, good) in older.files {
            self.files.entry(inode).or_insert(good);
        }
        for (inode, bad) in older.bad {
            self.bad.entry(inode).or_insert(bad);
        }
        for (model, known) in older.models {
            self.models.entry(model).or_insert(known);
        }
    }
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

    /// What the file was last found to be, if that was wrong, it has not changed since, and `promises` (what whoever asks expects
    /// of it, all of the same weight) do not say that it is right. Without promises what others found counts.
    #[must_use]
    pub fn bad(&self, fingerprint: &Fingerprint, promises: &[Digest]) -> Option<Bad> {
        let bad = {
            let memory = self.0.memory.read().unwrap_or_else(PoisonError::into_inner);
            *memory.bad.get(&fingerprint.inode).filter(|bad| bad.fingerprint == *fingerprint)?
        };
        let breaks = bad.breaks(promises);
        let is_bad = breaks.unwrap_or_else(|| promises.iter().all(|digest| self.good(fingerprint, *digest).is_none()));
        is_bad.then_some(bad)
    }

    /// [`Self::bad`] of the regular file at `path`; a link is not followed.
    #[must_use]
    pub fn bad_at(&self, path: &Path, promises: &[Digest]) -> Option<Bad> {
        if self.knows_none_bad() {
            return None;
        }
        self.bad(&Fingerprint::at(path)?, promises)
    }

    /// Whether nothing is known to be wrong: then there is nothing to look at.
    #[must_use]
    pub fn knows_none_bad(&self) -> bool {
        self.0.memory.read().unwrap_or_else(PoisonError::into_inner).bad.is_empty()
    }

    /// Whether one of these files may be known to be wrong. No disk is asked: [`Self::bad`] tells.
    #[must_use]
    pub fn suspects(&self, mut files: impl Iterator<Item = Inode>) -> bool {
        let memory = self.0.memory.read().unwrap_or_else(PoisonError::into_inner);
        !memory.bad.is_empty() && files.any(|inode| memory.bad.contains_key(&inode))
    }

    /// Notes that the file has this digest. One that changed a moment ago is not noted: it may change again unnoticed.
    pub fn remember(&self, fingerprint: &Fingerprint, digest: Digest) {
        if fingerprint.is_fresh() {
            self.forget(fingerprint);
            return self.memory().disprove(fingerprint, digest);
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
        memory.disprove(fingerprint, digest);
        memory.files.insert(fingerprint.inode, good);
        memory.new.files.insert(fingerprint.inode, Some(good));
    }

    /// Notes that the file has other bytes than promised. One that changed a moment ago is noted, too: to look at it once more
    /// costs less than to take it for right.
    pub fn remember_bad(&self, fingerprint: &Fingerprint, promised: Digest, actual: Digest, status: FileStatus) {
        let bad = Bad { fingerprint: *fingerprint, promised, actual, status, when: now() };
        let mut memory = self.memory();
        memory.bad.insert(fingerprint.inode, bad);
        memory.new.bad.insert(fingerprint.inode, Some(bad));
    }

    /// Notes that a file has lost another name: that changes its times and not a byte of it. `now` is the file as it is since then,
    /// by whatever name or handle; what else has changed it is not the same file.
    pub fn lost_a_name(&self, before: &Fingerprint, now: &Fingerprint) {
        if (Fingerprint { changed: before.changed, ..*now }) != *before {
            return;
        }
        let mut memory = self.memory();
        if let Some(bad) = memory.bad.get(&before.inode).filter(|bad| bad.fingerprint == *before).copied() {
            let bad = Bad { fingerprint: *now, ..bad };
            memory.bad.insert(now.inode, bad);
            memory.new.bad.insert(now.inode, Some(bad));
        }
    }

    /// Forgets that a file was found right.
    pub fn forget(&self, fingerprint: &Fingerprint) {
        let mut memory = self.memory();
        memory.files.remove(&fingerprint.inode);
        memory.new.files.insert(fingerprint.inode, None);
    }

    /// Notes what is known of a whole row from its files: `expected` are all of them.
    pub fn note_model(&self, model: &Model, root: &Path, expected: &[Expected]) {
        let known = self.judge(model, root, expected);
        let mut memory = self.memory();
        match &known {
            Some(known) => memory.models.insert(model.identity.clone(), known.clone()),
            None => memory.models.remove(&model.identity),
        };
        memory.new.models.insert(model.identity.clone(), known);
    }

    fn judge(&self, model: &Model, root: &Path, expected: &[Expected]) -> Option<Known> {
        if expected.len() > MAX_MODEL_FILES {
            return None;
        }
        let mut when: Option<Timestamp> = None;
        let mut files = Vec::with_capacity(expected.len());
        for file in expected {
            // What is missing is seen by everybody who looks.
            let fingerprint = Fingerprint::at(&root.join(&file.location))?;
            let promises = file.digest.into_iter().chain(file.others.iter().map(|promise| promise.digest));
            let good = promises.filter_map(|digest| self.good(&fingerprint, digest)).max();
            if file.digest.is_some() {
                // The oldest result is how old the whole is.
                let good = good?;
                when = Some(when.map_or(good, |when| when.min(good)));
            }
            files.push(KnownFile { location: file.location.clone(), fingerprint });
        }
        let (file_count, size_bytes) = (model.file_count, model.size_bytes);
        Some(Known { model: model.identity.clone(), when: when?, file_count, size_bytes, files })
    }

    /// Adds to a row when it was found right, as long as no file of it has changed.
    pub fn annotate(&self, model: &mut Model) {
        let known = {
            let memory = self.0.memory.read().unwrap_or_else(PoisonError::into_inner);
            memory.models.get(&model.identity).cloned()
        };
        let Some(known) = known else { return };
        let root = &model.identity.store_path;
        let holds = (known.file_count, known.size_bytes) == (model.file_count, model.size_bytes)
            && known.files.iter().all(|file| Fingerprint::at(&root.join(&file.location)) == Some(file.fingerprint));
        if holds {
            model.verified = Some(known.when);
        }
    }

    /// Adds to a row which of its files are known to be wrong, from whichever row that was found; `expected` are all of them.
    /// They are looked up by where they lie, so that other names of the same bytes tell the same.
    pub fn annotate_damage(&self, model: &mut Model, root: &Path, expected: &[Expected]) {
        let wrong: BTreeMap<&str, Bad> = expected
            .iter()
            .filter_map(|file| Some((file.path.as_str(), self.bad_at(&root.join(&file.location), &file.promises())?)))
            .collect();
        if wrong.is_empty() {
            return;
        }
        model.verified = None;
        for (path, bad) in wrong.iter().take(MAX_LINES) {
            model.warnings.push(bad.line(path));
        }
        if wrong.len() > MAX_LINES {
            model.warnings.push(format!("{} more files are corrupt", wrong.len() - MAX_LINES));
        }
        wrong.values().for_each(|bad| model.note_damage(bad.status));
    }

    /// Writes what this process found to the file, if it has one and there is anything new, together with what others have
    /// written there. Without room or right to write, it is only known here.
    pub fn keep(&self) {
        let Some(path) = &self.0.file else { return };
        let new = {
            let mut memory = self.memory();
            if memory.new.is_empty() {
                return;
            }
            std::mem::take(&mut memory.new)
        };
        let written = merge(path, &new);
        let mut memory = self.memory();
        match written {
            Ok(merged) => {
                // What was found meanwhile is newer.
                memory.take(Some(merged));
                memory.read = Fingerprint::at(path);
            }
            Err(error) => {
                tracing::warn!("results of verifying are not remembered: {error}");
                memory.new.add_older(new);
            }
        }
    }
}

impl Memory {
    /// What the file has, with what this process has found and not yet written over it.
    fn take(&mut self, stored: Option<Stored>) {
        let stored = stored.unwrap_or_default();
        self.files = stored.files.into_iter().map(|good| (good.fingerprint.inode, good)).collect();
        self.bad = stored.bad.into_iter().map(|bad| (bad.fingerprint.inode, bad)).collect();
        self.models = stored.models.into_iter().map(|known| (known.model.clone(), known)).collect();
        for (inode, good) in &self.new.files {
            match good {
                Some(good) => self.files.insert(*inode, *good),
                None => self.files.remove(inode),
            };
        }
        for (inode, bad) in &self.new.bad {
            match bad {
                Some(bad) => self.bad.insert(*inode, *bad),
                None => self.bad.remove(inode),
            };
        }
        for (model, known) in &self.new.models {
            match known {
                Some(known) => self.models.insert(model.clone(), known.clone()),
                None => self.models.remove(model),
            };
        }
    }

    /// A file was found to have `digest`: a bad result that says otherwise no longer holds.
    fn disprove(&mut self, fingerprint: &Fingerprint, digest: Digest) {
        let inode = fingerprint.inode;
        if self.bad.get(&inode).is_some_and(|bad| bad.is_disproved_by(fingerprint, digest)) {
            self.bad.remove(&inode);
            self.new.bad.insert(inode, None);
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
fn merge(path: &Path, new: &News) -> Result<Stored> {
    let mut lock_path = path.as_os_str().to_owned();
    lock_path.push(".lock");
    let lock_path = PathBuf::from(lock_path);
    publish::create_folders(path.parent().unwrap_or(Path::new(".")))?;
    let _lock = wait_for(&lock_path)?;
    let mut memory = Memory { new: new.clone(), ..Memory::default() };
    memory.take(read(path));
    let mut stored = Stored {
        version: VERSION,
        files: memory.files.into_values().collect(),
        bad: memory.bad.into_values().collect(),
        models: memory.models.into_values().collect(),
    };
    // The newest stay, in an order of their own so that equal results are equal files.
    stored.files.sort_by_key(|good| (std::cmp::Reverse(good.when), good.fingerprint.inode));
    stored.files.truncate(MAX_FILES);
    stored.bad.sort_by_key(|bad| (std::cmp::Reverse(bad.when), bad.fingerprint.inode));
    stored.bad.truncate(MAX_FILES);
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
    fn what_is_wrong_is_wrong_for_all_whose_promise_is_another() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("f");
        let file = old(&path);
        let (promised, actual, third) = (digest("aa"), digest("bb"), digest("cc"));
        let git = Digest::parse(&"dd".repeat(20)).unwrap();
        let kept = scratch.path().join("verified.json");
        let memory = Remembered::in_file(kept.clone());
        memory.remember_bad(&file, promised, actual, FileStatus::Corrupt);
        memory.keep();
        let other = Remembered::in_file(kept);
        other.refresh();
        for memory in [&memory, &other] {
            let is_bad = |promises: &[Digest]| memory.bad(&file, promises).is_some();
            assert!(is_bad(&[promised]) && is_bad(&[third]) && is_bad(&[]) && is_bad(&[git]));
            assert!(!is_bad(&[actual]) && !is_bad(&[promised, actual]), "it is what this one promises");
            assert!(memory.suspects(std::iter::once(file.inode)));
        }
        // A digest of another kind that was right says more than one that cannot be compared.
        memory.remember(&file, git);
        assert!(memory.bad(&file, &[git]).is_none() && memory.bad(&file, &[promised]).is_some());
        // One that is what was found contradicts nothing.
        memory.remember(&file, actual);
        assert!(memory.bad(&file, &[promised]).is_some());
        // Another name of it goes.
        fs::hard_link(&path, scratch.path().join("g")).unwrap();
        fs::remove_file(scratch.path().join("g")).unwrap();
        let touched = Fingerprint::at(&path).unwrap();
        assert!(memory.bad(&touched, &[promised]).is_none(), "nobody knows why it changed");
        memory.lost_a_name(&file, &touched);
        assert!(memory.bad(&touched, &[promised]).is_some());
        memory.lost_a_name(&touched, &Fingerprint { size_bytes: 1, ..touched });
        assert!(memory.bad(&touched, &[promised]).is_some(), "what has another length is not the same file");
        // Found right after all.
        memory.remember(&touched, promised);
        assert!(memory.bad(&touched, &[promised]).is_none());
        memory.keep();
        other.refresh();
        assert!(other.knows_none_bad());
    }

    #[test]
    fn damaged_results_and_no_place_to_write_are_no_trouble() {
        let scratch = tempfile::tempdir().unwrap();
        let file = old(&scratch.path().join("f"));
        for content in ["", "{", "{\"version\":99,\"files\":[],\"bad\":[],\"models\":[]}"] {
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
