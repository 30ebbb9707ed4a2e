//! Checking files against what records, headers and shard numbers promise; the same for every store.
//!
//! Files are read by as many threads as there are cores, each file by one; a single file is read and hashed by two. How many
//! are read at once from one file system is bounded where more would only be slower.

mod check;
mod hash;
mod pace;
mod resident;
mod sets;

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use self::check::Checked;
use self::pace::{Pace, Slots};
use super::remembered::Remembered;
use crate::error::{Error, Result};
use crate::model::{Digest, FileCheck, FileStatus, ModelId, Verification};

/// Between two events about progress.
const TICK: Duration = Duration::from_millis(100);

/// How long a cancelled verification waits for threads that read. One that hangs on a dead disk is left behind.
const PATIENCE: Duration = Duration::from_secs(2);

/// Most threads.
const MAX_THREADS: usize = 64;

/// Who knows a digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// The record of the folder.
    Record,
    /// What the official client left beside the file.
    Sidecar,
    /// The listing of a commit, `trees/<commit>.json`.
    Listing,
    /// The name of the blob.
    BlobName,
    /// A manifest of the store.
    Manifest,
}

impl Source {
    /// In words.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Record => "the record",
            Self::Sidecar => "the sidecar",
            Self::Listing => "the listing of its commit",
            Self::BlobName => "the blob's name",
            Self::Manifest => "a manifest",
        }
    }
}

/// A digest that somebody promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Promise {
    /// Who.
    pub source: Source,
    /// What.
    pub digest: Digest,
}

/// A file that belongs to a model, with what is known of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expected {
    /// Path inside the model, escaped.
    pub path: String,
    /// Where it should lie, relative to the root of the store.
    pub location: PathBuf,
    /// Its recorded length.
    pub size: Option<u64>,
    /// The digest that counts.
    pub digest: Option<Digest>,
    /// Who promises that.
    pub source: Option<Source>,
    /// What others promise, as far as it is something else. One from the same source counts as much as `digest`.
    pub others: Vec<Promise>,
    /// What is known of the file that no digest says.
    pub note: Option<String>,
    /// The commits whose file it is, where the model keeps several and it is not the file of all.
    pub revisions: Vec<String>,
    /// Why the place could not be looked into. It is a folder then, whose files are not known.
    pub unread: Option<String>,
}

impl Expected {
    /// Whether a look at the bytes of one tells the same of both. The name of a shard says something of its own.
    fn promises_as(&self, other: &Self) -> bool {
        let of_set = |file: &Self| {
            let name = file.path.rsplit('/').next().unwrap_or_default();
            crate::model::FileName::parse(name).shard().is_some()
        };
        let all = |file: &Self| (file.size, file.digest, file.source, file.others.clone(), file.note.clone());
        all(self) == all(other) && !of_set(self) && !of_set(other)
    }

    /// Takes over what several sources promise, the one that counts first.
    #[must_use]
    pub fn promised(mut self, promises: impl IntoIterator<Item = Promise>) -> Self {
        for promise in promises {
            match self.digest {
                None => (self.digest, self.source) = (Some(promise.digest), Some(promise.source)),
                Some(first) if first != promise.digest && !self.others.contains(&promise) => self.others.push(promise),
                Some(_) => {}
            }
        }
        self
    }
}

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
/// [`Error::Cancelled`]. What is wrong with a file is its status, never an error.
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
/// [`Error::Cancelled`].
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
/// [`Error::Cancelled`]; what was found until then is remembered. What is wrong with a file is its status, never an error.
pub fn run_all(
    tasks: Vec<Task>,
    options: &Options,
    sink: &mut dyn FnMut(Event<'_>),
    cancel: &CancellationToken,
) -> Result<Vec<Verification>> {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let threads = options.threads.unwrap_or(cores).clamp(1, MAX_THREADS);
    let (jobs, total) = jobs(&tasks, options, threads);
    let threads = threads.min(jobs.len()).max(1);
    let work = Arc::new(Work {
        done: jobs.iter().map(|_| AtomicU64::new(0)).collect(),
        tasks,
        options: options.clone(),
        pace: Pace::new(options.limit),
        cancel: cancel.clone(),
        cores,
        reading: AtomicUsize::new(0),
        queue: Mutex::new(Queue { next: 0, taken: vec![false; jobs.len()], busy: BTreeMap::new() }),
        freed: Condvar::new(),
        jobs,
    });
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
    let results = Collector::new(&work, total).collect(&arriving, sink);
    options.memory.keep();
    results
}

/// A file to check.
struct Job {
    task: usize,
    file: usize,
    /// Bytes that will be read of it, its header not counted.
    bytes: u64,
    /// Its file system, and how many files may be read from there at once.
    place: Option<(u64, usize)>,
    /// Its number there, where bytes will be read.
    inode: Option<u64>,
    /// Other names of the same bytes, as tasks and files, of which the same is promised: they are read once.
    also: Vec<(usize, usize)>,
}

/// In the order of the models, the largest file of each first, so that none is begun when the others are done.
fn jobs(tasks: &[Task], options: &Options, threads: usize) -> (Vec<Job>, u64) {
    let mut slots = Slots::new(options.reads);
    let mut jobs: Vec<Job> = Vec::new();
    for (task, work) in tasks.iter().enumerate() {
        let begin = jobs.len();
        for (file, expected) in work.files.iter().enumerate() {
            let path = work.root.join(&expected.location);
            // A length that cannot be asked for counts as none; the file's own check says why.
            let status = path.symlink_metadata().ok().filter(std::fs::Metadata::is_file);
            let is_read = options.depth != Depth::Quick && expected.digest.is_some();
            let status = status.filter(|status| is_read && expected.size.is_none_or(|size| size == status.len()));
            let place = status.as_ref().map(|status| (status.dev(), slots.of(status.dev(), &path).min(threads)));
            let inode = status.as_ref().map(MetadataExt::ino);
            jobs.push(Job {
                task,
                file,
                bytes: status.map_or(0, |status| status.len()),
                place,
                inode,
                also: Vec::new(),
            });
        }
        jobs[begin..].sort_by_key(|job| std::cmp::Reverse(job.bytes));
    }
    let jobs = once_each(tasks, jobs);
    let total = jobs.iter().map(|job| job.bytes).sum();
    (jobs, total)
}

/// Puts names of the same bytes together: two files of a repository that are alike are one blob.
fn once_each(tasks: &[Task], jobs: Vec<Job>) -> Vec<Job> {
    let expected = |job: &Job| &tasks[job.task].files[job.file];
    let mut distinct: Vec<Job> = Vec::with_capacity(jobs.len());
    let mut known: BTreeMap<(u64, u64), usize> = BTreeMap::new();
    for job in jobs {
        let Some(key) = job.place.map(|(device, _)| device).zip(job.inode).filter(|_| job.bytes > 0) else {
            distinct.push(job);
            continue;
        };
        match known.get(&key).and_then(|&at| distinct.get_mut(at)) {
            Some(first) if first.bytes == job.bytes && expected(first).promises_as(expected(&job)) => {
                first.also.push((job.task, job.file));
            }
            _ => {
                known.insert(key, distinct.len());
                distinct.push(job);
            }
        }
    }
    distinct
}

/// What the threads share.
struct Work {
    tasks: Vec<Task>,
    jobs: Vec<Job>,
    /// Bytes read of each job.
    done: Vec<AtomicU64>,
    options: Options,
    pace: Pace,
    cancel: CancellationToken,
    cores: usize,
    /// Files that are being read.
    reading: AtomicUsize,
    queue: Mutex<Queue>,
    freed: Condvar,
}

struct Queue {
    /// Every job before this one is taken.
    next: usize,
    taken: Vec<bool>,
    /// Files that are being read from each file system.
    busy: BTreeMap<u64, usize>,
}

enum Report {
    Started(usize),
    Done(usize, Box<Checked>),
    /// Not done: it was cancelled.
    Left,
}

impl Work {
    fn expected(&self, job: usize) -> &Expected {
        let job = &self.jobs[job];
        &self.tasks[job.task].files[job.file]
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, reports: &mpsc::SyncSender<Report>) {
        while let Some(job) = self.take() {
            if self.jobs[job].bytes > 0 && reports.send(Report::Started(job)).is_err() {
                return;
            }
            let checked = self.check(job);
            self.give_back(job);
            let report = checked.map_or(Report::Left, |checked| Report::Done(job, Box::new(checked)));
            if reports.send(report).is_err() {
                return;
            }
        }
    }

    fn check(&self, job: usize) -> Result<Checked> {
        let reading = self.reading.fetch_add(1, Ordering::Relaxed) + 1;
        let reading = hash::Reading {
            pace: &self.pace,
            cancel: &self.cancel,
            done: &self.done[job],
            overlap: 2 * reading <= self.cores,
        };
        let root = &self.tasks[self.jobs[job].task].root;
        let checked = check::check(root, self.expected(job), &self.options, &reading);
        self.reading.fetch_sub(1, Ordering::Relaxed);
        checked
    }

    /// The next job whose file system has room for it; `None` when there is none left, or it was cancelled.
    fn take(&self) -> Option<usize> {
        let mut queue = self.lock();
        loop {
            if self.cancel.is_cancelled() {
                return None;
            }
            while queue.taken.get(queue.next) == Some(&true) {
                queue.next += 1;
            }
            if queue.next >= self.jobs.len() {
                return None;
            }
            let free = (queue.next..self.jobs.len()).find(|&at| {
                let has_room = |(device, slots): (u64, usize)| queue.busy.get(&device).is_none_or(|busy| *busy < slots);
                !queue.taken[at] && self.jobs[at].place.is_none_or(has_room)
            });
            if let Some(job) = free {
                queue.taken[job] = true;
                if let Some((device, _)) = self.jobs[job].place {
                    *queue.busy.entry(device).or_default() += 1;
                }
                return Some(job);
            }
            queue = self.freed.wait_timeout(queue, TICK).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn give_back(&self, job: usize) {
        if let Some((device, _)) = self.jobs[job].place {
            if let Some(busy) = self.lock().busy.get_mut(&device) {
                *busy = busy.saturating_sub(1);
            }
            self.freed.notify_all();
        }
    }
}

/// Puts together what the threads report, on the thread of the caller.
struct Collector<'a> {
    work: &'a Work,
    total: u64,
    checked: Vec<Vec<Option<Checked>>>,
    left: Vec<usize>,
    results: Vec<Option<Verification>>,
    running: BTreeSet<usize>,
    told: u64,
}

impl<'a> Collector<'a> {
    fn new(work: &'a Work, total: u64) -> Self {
        Self {
            work,
            total,
            checked: work.tasks.iter().map(|task| task.files.iter().map(|_| None).collect()).collect(),
            left: work.tasks.iter().map(|task| task.files.len()).collect(),
            results: work.tasks.iter().map(|_| None).collect(),
            running: BTreeSet::new(),
            told: 0,
        }
    }

    fn collect(
        mut self,
        arriving: &mpsc::Receiver<Report>,
        sink: &mut dyn FnMut(Event<'_>),
    ) -> Result<Vec<Verification>> {
        for task in 0..self.left.len() {
            if self.left[task] == 0 {
                self.finish(task, sink);
            }
        }
        let mut ticked = Instant::now();
        let mut cancelled: Option<Instant> = None;
        loop {
            match arriving.recv_timeout(TICK) {
                Ok(Report::Started(job)) => {
                    self.running.insert(job);
                    let (task, total) = (self.work.jobs[job].task, self.work.jobs[job].bytes);
                    sink(Event::Started { task, file: &self.work.expected(job).path, total });
                    self.tell_progress(sink);
                }
                Ok(Report::Done(job, checked)) => self.take(job, *checked, sink),
                Ok(Report::Left) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if ticked.elapsed() >= TICK {
                ticked = Instant::now();
                self.tick(sink);
            }
            if self.work.cancel.is_cancelled() && cancelled.get_or_insert_with(Instant::now).elapsed() > PATIENCE {
                return Err(Error::Cancelled);
            }
        }
        if self.results.iter().any(Option::is_none) {
            return Err(Error::Cancelled);
        }
        Ok(self.results.into_iter().flatten().collect())
    }

    fn take(&mut self, job: usize, checked: Checked, sink: &mut dyn FnMut(Event<'_>)) {
        let (task, file) = (self.work.jobs[job].task, self.work.jobs[job].file);
        if self.running.remove(&job) {
            let bytes = self.work.jobs[job].bytes;
            // What was not read after all needs no waiting for.
            self.work.done[job].fetch_max(bytes, Ordering::Relaxed);
            sink(Event::Read { task, file: &self.work.expected(job).path, bytes, total: bytes });
            self.tell_progress(sink);
        }
        for &(task, file) in &self.work.jobs[job].also {
            let expected = &self.work.tasks[task].files[file];
            let mut check = checked.check.clone();
            check.path.clone_from(&expected.path);
            check.revisions.clone_from(&expected.revisions);
            self.keep(task, file, Checked { check, split: checked.split }, sink);
        }
        self.keep(task, file, checked, sink);
    }

    fn keep(&mut self, task: usize, file: usize, checked: Checked, sink: &mut dyn FnMut(Event<'_>)) {
        sink(Event::Checked { task, check: &checked.check });
        self.checked[task][file] = Some(checked);
        self.left[task] -= 1;
        if self.left[task] == 0 {
            self.finish(task, sink);
        }
    }

    fn tick(&mut self, sink: &mut dyn FnMut(Event<'_>)) {
        for &job in &self.running {
            let (task, total) = (self.work.jobs[job].task, self.work.jobs[job].bytes);
            let bytes = self.work.done[job].load(Ordering::Relaxed).min(total);
            sink(Event::Read { task, file: &self.work.expected(job).path, bytes, total });
        }
        if !self.running.is_empty() {
            self.tell_progress(sink);
        }
    }

    fn tell_progress(&mut self, sink: &mut dyn FnMut(Event<'_>)) {
        // A file may grow while it is read; what is told never falls.
        let bytes: u64 = self.work.done.iter().map(|done| done.load(Ordering::Relaxed)).sum();
        self.told = self.told.max(bytes);
        sink(Event::Progress { bytes: self.told, total: self.total.max(self.told) });
    }

    fn finish(&mut self, task: usize, sink: &mut dyn FnMut(Event<'_>)) {
        let work = &self.work.tasks[task];
        let checked: Vec<Checked> = std::mem::take(&mut self.checked[task]).into_iter().flatten().collect();
        let splits: Vec<_> = checked.iter().map(|checked| checked.split).collect();
        let mut files: Vec<FileCheck> = checked.into_iter().map(|checked| checked.check).collect();
        if work.whole {
            sets::compare(&work.root, &work.files, &splits, &mut files);
        }
        let ok = files.iter().all(|check: &FileCheck| FileStatus::is_ok(check.status));
        let verification = Verification { model: work.model.clone(), ok, files };
        sink(Event::Finished { task, verification: &verification });
        self.results[task] = Some(verification);
    }
}

#[cfg(test)]
mod tests {
    use sha2::Digest as _;
    use sha2::Sha256;

    use super::hash::BUFFER;
    use super::*;
    use crate::model::StoreKind;

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
        assert_eq!(verification.ok, verification.files.iter().all(|file| file.status.is_ok()));
        verification.files.iter().map(|file| file.status).collect()
    }

    const HELLO_SHA256: &str = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
    const HELLO_GIT: &str = "b6fc4c620b67d95f953a5c1c1230aaab5db5a1b0";

    #[test]
    fn both_digests_are_the_hubs() {
        let scratch = tempfile::tempdir().unwrap();
        std::fs::write(scratch.path().join("f"), b"hello").unwrap();
        let files = [
            expected("f", Some(5), Some(HELLO_SHA256)),
            expected("f", None, Some(HELLO_GIT)),
            expected("f", Some(5), Some(&"00".repeat(32))),
            expected("f", None, None),
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
