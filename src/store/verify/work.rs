//! What the threads do: the files in their order, and who reads which when.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError, mpsc};

use tokio_util::sync::CancellationToken;

use super::check::{self, Checked};
use super::hash;
use super::pace::{Pace, Slots};
use super::{Depth, Expected, Options, TICK, Task};
use crate::error::Result;

/// A file to check.
pub(super) struct Job {
    pub(super) task: usize,
    pub(super) file: usize,
    /// Bytes that will be read of it, its header not counted.
    pub(super) bytes: u64,
    /// Its file system, and how many files may be read from there at once.
    place: Option<(u64, usize)>,
    /// Its number there, where bytes will be read.
    inode: Option<u64>,
    /// Other names of the same bytes, as tasks and files, of which the same is promised: they are read once.
    pub(super) also: Vec<(usize, usize)>,
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
pub(super) struct Work {
    pub(super) tasks: Vec<Task>,
    pub(super) jobs: Vec<Job>,
    /// Bytes read of each job.
    pub(super) done: Vec<AtomicU64>,
    /// Bytes that will be read of all.
    pub(super) total: u64,
    options: Options,
    pace: Pace,
    pub(super) cancel: CancellationToken,
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

pub(super) enum Report {
    Started(usize),
    Done(usize, Box<Checked>),
    /// Not done: it was cancelled.
    Left,
}

impl Work {
    /// The work on `tasks` for at most so many threads.
    pub(super) fn new(
        tasks: Vec<Task>,
        options: &Options,
        threads: usize,
        cores: usize,
        cancel: &CancellationToken,
    ) -> Self {
        let (jobs, total) = jobs(&tasks, options, threads);
        Self {
            done: jobs.iter().map(|_| AtomicU64::new(0)).collect(),
            total,
            tasks,
            options: options.clone(),
            pace: Pace::new(options.limit),
            cancel: cancel.clone(),
            cores,
            reading: AtomicUsize::new(0),
            queue: Mutex::new(Queue { next: 0, taken: vec![false; jobs.len()], busy: BTreeMap::new() }),
            freed: Condvar::new(),
            jobs,
        }
    }

    pub(super) fn expected(&self, job: usize) -> &Expected {
        let job = &self.jobs[job];
        &self.tasks[job.task].files[job.file]
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn run(&self, reports: &mpsc::SyncSender<Report>) {
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
