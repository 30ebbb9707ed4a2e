//! Checking files against what records, headers and shard numbers promise; the same for every store.
//!
//! Files are read by as many threads as there are cores, each file by one; a single file is read and hashed by two. How many
//! are read at once from one file system is bounded where more would only be slower.

mod check;
mod collect;
mod expected;
mod hash;
mod pace;
mod resident;
mod sets;
mod work;

use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use self::collect::Collector;
pub use self::expected::{Expected, Promise, Source};
pub(super) use self::sets::most_named;
use self::work::Work;
use super::remembered::Remembered;
use crate::error::Result;
use crate::model::{FileCheck, ModelId, Verification};

/// Between two events about progress.
const TICK: Duration = Duration::from_millis(100);

/// Most threads.
const MAX_THREADS: usize = 64;

/// How much is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Presence, recorded lengths, and the length that a header implies.
    Quick,
    /// Every byte of what has a digest, except where a good result is remembered and the file has not changed since.
    Changed,
    /// Every byte of what has a digest.
    Full,
}

/// How far a verification is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress<'a> {
    /// A file that is being read, as [`Expected::path`].
    pub file: &'a str,
    /// Bytes read of all files.
    pub bytes: u64,
    /// Bytes that will be read.
    pub total: u64,
}

/// The files of one model.
#[derive(Clone, Debug)]
pub struct Task {
    /// The row.
    pub model: ModelId,
    /// The root of its store.
    pub root: PathBuf,
    /// What it should consist of.
    pub files: Vec<Expected>,
    /// Whether that is all of the row, so that shards which are not among them are missing.
    pub whole: bool,
}

/// How a verification works.
#[derive(Clone, Debug)]
pub struct Options {
    /// How much is read.
    pub depth: Depth,
    /// Threads; `None` is one for each core.
    pub threads: Option<usize>,
    /// Files that are read at once from one file system. `None` is as many as there are threads, and few from rotating disks
    /// and over the network.
    pub reads: Option<usize>,
    /// Bytes per second over all threads.
    pub limit: Option<u64>,
    /// Where good results are remembered.
    pub memory: Remembered,
}

impl Options {
    /// As fast as it goes, remembering nothing.
    #[must_use]
    pub fn new(depth: Depth) -> Self {
        Self { depth, threads: None, reads: None, limit: None, memory: Remembered::default() }
    }
}

/// What happens during a verification. For one file: `Started`, any number of `Read`, `Checked`; `Started` and `Read` only
/// where bytes are read. `Finished` comes after the last file of a model, in whichever order models end.
#[derive(Debug)]
pub enum Event<'a> {
    /// A file begins to be read.
    Started {
        /// Index of the task.
        task: usize,
        /// Its path in the model.
        file: &'a str,
        /// Its length.
        total: u64,
    },
    /// So much of a file has been read.
    Read {
        /// Index of the task.
        task: usize,
        /// Its path in the model.
        file: &'a str,
        /// Bytes of it so far.
        bytes: u64,
        /// Its length.
        total: u64,
    },
    /// So much of all files has been read.
    Progress {
        /// Bytes so far.
        bytes: u64,
        /// All that will be read.
        total: u64,
    },
    /// A file is done.
    Checked {
        /// Index of the task.
        task: usize,
        /// What was found.
        check: &'a FileCheck,
    },
    /// A model is done.
    Finished {
        /// Index of the task.
        task: usize,
        /// What was found.
        verification: &'a Verification,
    },
}

/// Checks `files`, which lie below `root`; follows no link below it. `progress` is called at the start of each file that is
/// read, several times a second while files are read, and at their end.
///
/// # Errors
/// [`crate::Error::Cancelled`]. What is wrong with a file is its status, never an error.
pub fn run(
    model: &ModelId,
    root: &Path,
    files: &[Expected],
    depth: Depth,
    progress: &mut dyn FnMut(Progress<'_>),
    cancel: &CancellationToken,
) -> Result<Verification> {
    let task = Task { model: model.clone(), root: root.to_owned(), files: files.to_vec(), whole: false };
    one(task, &Options::new(depth), progress, cancel)
}

/// [`run_all`] for one model.
///
/// # Errors
/// [`crate::Error::Cancelled`].
pub fn one(
    task: Task,
    options: &Options,
    progress: &mut dyn FnMut(Progress<'_>),
    cancel: &CancellationToken,
) -> Result<Verification> {
    let empty = Verification { model: task.model.clone(), ok: true, files: Vec::new() };
    let (mut current, mut seen, mut whole) = (String::new(), 0, 0);
    let mut sink = |event: Event<'_>| {
        match event {
            Event::Started { file, .. } => file.clone_into(&mut current),
            Event::Progress { bytes, total } => (seen, whole) = (bytes, total),
            _ => return,
        }
        progress(Progress { file: &current, bytes: seen, total: whole });
    };
    let results = run_all(vec![task], options, &mut sink, cancel)?;
    Ok(results.into_iter().next().unwrap_or(empty))
}

/// Checks the files of several models. Events come as things happen; the results are in the order of `tasks`, the files of
/// each in the order of [`Task::files`], with missing shards after them.
///
/// # Errors
/// [`crate::Error::Cancelled`]; what was found until then is remembered. What is wrong with a file is its status, never an error.
pub fn run_all(
    tasks: Vec<Task>,
    options: &Options,
    sink: &mut dyn FnMut(Event<'_>),
    cancel: &CancellationToken,
) -> Result<Vec<Verification>> {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let threads = options.threads.unwrap_or(cores).clamp(1, MAX_THREADS);
    let work = Arc::new(Work::new(tasks, options, threads, cores, cancel));
    let threads = threads.min(work.jobs.len()).max(1);
    let (reports, arriving) = mpsc::sync_channel(threads * 2);
    let mut alive = 0;
    for number in 0..threads {
        let (worker, reports) = (Arc::clone(&work), reports.clone());
        let spawned = thread::Builder::new().name(format!("verify-{number}")).spawn(move || worker.run(&reports));
        match spawned {
            Ok(_) => alive += 1,
            Err(error) => tracing::warn!("a thread less to verify with: {error}"),
        }
    }
    if alive == 0 {
        work.run(&reports);
    }
    drop(reports);
    let results = Collector::new(&work).collect(&arriving, sink);
    options.memory.keep();
    results
}

#[cfg(test)]
mod tests {
    use sha2::Digest as _;
    use sha2::Sha256;

    use super::hash::BUFFER;
    use super::*;
    use crate::error::Error;
    use crate::model::{Digest, FileStatus, StoreKind};

    fn model() -> ModelId {
        ModelId { store: StoreKind::Flat, store_path: "/x".into(), id: "m".to_owned() }
    }

    fn expected(path: &str, size: Option<u64>, digest: Option<&str>) -> Expected {
        Expected {
            path: path.to_owned(),
            location: path.into(),
            size,
            digest: digest.map(|digest| Digest::parse(digest).unwrap()),
            ..Expected::default()
        }
    }

    fn statuses(root: &Path, files: &[Expected], depth: Depth) -> Vec<FileStatus> {
        let verification = run(&model(), root, files, depth, &mut |_| {}, &CancellationToken::new()).unwrap();
        assert_eq!(verification.ok, verification.files.iter().all(FileCheck::is_ok));
        verification.files.iter().map(|file| file.status).collect()
    }

    const HELLO_SHA256: &str = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
    const HELLO_GIT: &str = "b6fc4c620b67d95f953a5c1c1230aaab5db5a1b0";

    #[test]
    fn both_digests_are_the_hubs() {
        let scratch = tempfile::tempdir().unwrap();
        // Of names of one file, what is found of one may be known when the others are looked at.
        ["f", "g", "h"].iter().for_each(|name| std::fs::write(scratch.path().join(name), b"hello").unwrap());
        let files = [
            expected("f", Some(5), Some(HELLO_SHA256)),
            expected("f", None, Some(HELLO_GIT)),
            expected("g", Some(5), Some(&"00".repeat(32))),
            expected("h", None, None),
        ];
        use FileStatus::{Corrupt, NoChecksum, Ok};
        assert_eq!(statuses(scratch.path(), &files, Depth::Full), [Ok, Ok, Corrupt, NoChecksum]);
        assert_eq!(statuses(scratch.path(), &files, Depth::Quick), [Ok, Ok, Ok, NoChecksum]);
    }

    #[test]
    fn lengths_absence_and_links_are_told_apart() {
        let scratch = tempfile::tempdir().unwrap();
        std::fs::write(scratch.path().join("f"), b"hello").unwrap();
        std::os::unix::fs::symlink("f", scratch.path().join("link")).unwrap();
        std::fs::create_dir(scratch.path().join("folder")).unwrap();
        let files = [
            expected("f", Some(6), Some(HELLO_SHA256)),
            expected("f", Some(4), Some(HELLO_SHA256)),
            expected("gone", Some(5), None),
            expected("link", Some(5), None),
            expected("folder", None, None),
        ];
        use FileStatus::{Extra, Missing, Truncated, Unreadable};
        let found = [Truncated, Extra, Missing, Unreadable, Unreadable];
        assert_eq!(statuses(scratch.path(), &files, Depth::Full), found);
        assert_eq!(statuses(scratch.path(), &files, Depth::Quick), found);
    }

    #[test]
    fn empty_and_foreign_weights_are_seen_without_a_record() {
        let scratch = tempfile::tempdir().unwrap();
        std::fs::write(scratch.path().join("empty.gguf"), b"").unwrap();
        std::fs::write(scratch.path().join("page.gguf"), b"<!doctype html><html>not found</html>").unwrap();
        let files = [expected("empty.gguf", None, None), expected("page.gguf", None, None)];
        assert_eq!(statuses(scratch.path(), &files, Depth::Quick), [FileStatus::Truncated, FileStatus::Corrupt]);
    }

    #[test]
    fn large_files_are_hashed_whole_and_progress_reaches_the_total() {
        let scratch = tempfile::tempdir().unwrap();
        let bytes: Vec<u8> = (0..BUFFER * 9 + 17).map(|at| (at % 251) as u8).collect();
        std::fs::write(scratch.path().join("f"), &bytes).unwrap();
        let digest = Digest::Sha256(Sha256::digest(&bytes).into()).to_string();
        let mut last = (0, 0);
        let files = [expected("f", None, Some(&digest))];
        let verification = run(
            &model(),
            scratch.path(),
            &files,
            Depth::Full,
            &mut |progress| {
                assert!(progress.bytes >= last.0);
                last = (progress.bytes, progress.total);
            },
            &CancellationToken::new(),
        )
        .unwrap();
        assert!(verification.ok);
        assert_eq!(last, (bytes.len() as u64, bytes.len() as u64));
    }

    #[test]
    fn names_of_the_same_bytes_are_read_once_unless_something_else_is_promised() {
        let scratch = tempfile::tempdir().unwrap();
        std::fs::write(scratch.path().join("a"), b"hello").unwrap();
        std::fs::hard_link(scratch.path().join("a"), scratch.path().join("b")).unwrap();
        let files = [
            expected("a", Some(5), Some(HELLO_SHA256)),
            expected("b", Some(5), Some(HELLO_SHA256)),
            expected("b", Some(5), Some(&"00".repeat(32))),
        ];
        let mut total = 0;
        let verification = run(
            &model(),
            scratch.path(),
            &files,
            Depth::Full,
            &mut |progress| total = progress.total,
            &CancellationToken::new(),
        )
        .unwrap();
        use FileStatus::{Corrupt, Ok};
        let found: Vec<_> = verification.files.iter().map(|file| (file.path.as_str(), file.status)).collect();
        assert_eq!(found, [("a", Ok), ("b", Ok), ("b", Corrupt)]);
        assert_eq!(total, 10, "twice, not three times");
    }

    #[test]
    fn cancelled_is_neither_right_nor_wrong() {
        let scratch = tempfile::tempdir().unwrap();
        // Sparse, and more than anybody hashes before the first progress is told.
        std::fs::File::create(scratch.path().join("f")).unwrap().set_len(64 << 30).unwrap();
        let cancel = CancellationToken::new();
        let files = [expected("f", None, Some(HELLO_SHA256))];
        let result = run(&model(), scratch.path(), &files, Depth::Full, &mut |_| cancel.cancel(), &cancel);
        assert!(matches!(result, Err(Error::Cancelled)));
    }
}
