//! What the threads report, put together on the thread of the caller.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use super::check::Checked;
use super::work::{Report, Work};
use super::{Event, TICK, sets};
use crate::error::{Error, Result};
use crate::model::{FileCheck, Verification};

/// How long a cancelled verification waits for threads that read. One that hangs on a dead disk is left behind.
const PATIENCE: Duration = Duration::from_secs(2);

/// Puts together what the threads report, on the thread of the caller.
pub(super) struct Collector<'a> {
    work: &'a Work,
    checked: Vec<Vec<Option<Checked>>>,
    left: Vec<usize>,
    results: Vec<Option<Verification>>,
    running: BTreeSet<usize>,
    /// Bytes read of jobs that are done.
    settled: u64,
    told: u64,
}

impl<'a> Collector<'a> {
    pub(super) fn new(work: &'a Work) -> Self {
        Self {
            work,
            checked: work.tasks.iter().map(|task| task.files.iter().map(|_| None).collect()).collect(),
            left: work.tasks.iter().map(|task| task.files.len()).collect(),
            results: work.tasks.iter().map(|_| None).collect(),
            running: BTreeSet::new(),
            settled: 0,
            told: 0,
        }
    }

    pub(super) fn collect(
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
            self.settled += self.work.done[job].fetch_max(bytes, Ordering::Relaxed).max(bytes);
            sink(Event::Read { task, file: &self.work.expected(job).path, bytes, total: bytes });
            self.tell_progress(sink);
        }
        for &(task, file) in &self.work.jobs[job].also {
            let expected = &self.work.tasks[task].files[file];
            let mut check = checked.check.clone();
            check.path.clone_from(&expected.path);
            check.commit.clone_from(&expected.commit);
            check.revisions.clone_from(&expected.revisions);
            self.keep(task, file, Checked { check, split: checked.split.clone() }, sink);
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
        let running: u64 = self.running.iter().map(|job| self.work.done[*job].load(Ordering::Relaxed)).sum();
        self.told = self.told.max(self.settled + running);
        sink(Event::Progress { bytes: self.told, total: self.work.total.max(self.told) });
    }

    fn finish(&mut self, task: usize, sink: &mut dyn FnMut(Event<'_>)) {
        let work = &self.work.tasks[task];
        let checked: Vec<Checked> = std::mem::take(&mut self.checked[task]).into_iter().flatten().collect();
        let splits: Vec<_> = checked.iter().map(|checked| checked.split.clone()).collect();
        let mut files: Vec<FileCheck> = checked.into_iter().map(|checked| checked.check).collect();
        if work.whole {
            sets::compare(&work.root, &work.files, &splits, &mut files, &self.work.cancel);
        }
        let ok = files.iter().all(FileCheck::is_ok);
        let verification = Verification { model: work.model.clone(), ok, files };
        sink(Event::Finished { task, verification: &verification });
        self.results[task] = Some(verification);
    }
}
