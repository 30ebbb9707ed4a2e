//! The queue, as the worker tells it, and the job under the cursor.

use super::Line;
use crate::jobs::{JobId, JobStatus, Snapshot};

/// The queue pane.
#[derive(Clone, Debug, Default)]
pub struct Queue {
    /// Every job.
    pub snapshot: Snapshot,
    /// Whether the first snapshot has come.
    pub known: bool,
    /// Whether a person has moved the cursor: until then it stays on the first job that has not ended.
    pub moved: bool,
    /// The job that keys go to.
    pub cursor: Option<JobId>,
    /// The first job on the screen.
    pub offset: usize,
    /// The filter as typed: words that must occur in name or state.
    pub filter: Line,
    /// Whether the filter is being typed.
    pub filtering: bool,
}

impl Queue {
    /// The jobs that the filter lets through, in the order of the queue; those that have ended stand behind the others.
    #[must_use]
    pub fn shown(&self) -> Vec<&JobStatus> {
        let words: Vec<String> = self.filter.text().split_whitespace().map(str::to_lowercase).collect();
        let matches = |job: &&JobStatus| {
            let text = format!("{} {} {}", job.spec.subject(), job.spec.kind(), job.state.name()).to_lowercase();
            words.iter().all(|word| text.contains(word))
        };
        let mut shown: Vec<&JobStatus> = self.snapshot.jobs.iter().filter(matches).collect();
        shown.sort_by_key(|job| job.state.has_ended());
        shown
    }

    /// The job under the cursor, if it is shown.
    #[must_use]
    pub fn current(&self) -> Option<&JobStatus> {
        let cursor = self.cursor?;
        self.shown().into_iter().find(|job| job.id == cursor)
    }

    /// Place of the cursor among the shown jobs.
    #[must_use]
    pub fn position(&self) -> Option<usize> {
        let cursor = self.cursor?;
        self.shown().iter().position(|job| job.id == cursor)
    }

    /// Puts the cursor on the shown job of that place, or the last one before it.
    pub fn place(&mut self, position: usize) {
        let shown = self.shown();
        let last = shown.len().saturating_sub(1);
        self.cursor = shown.get(position.min(last)).map(|job| job.id);
    }

    /// Keeps the cursor on a job that is shown.
    pub fn settle(&mut self) {
        if !self.moved {
            let shown = self.shown();
            let first = shown.iter().find(|job| !job.state.has_ended()).or(shown.last());
            self.cursor = first.map(|job| job.id);
        } else if self.position().is_none() {
            self.place(self.offset);
        }
    }

    /// Whether a job has ended and stands in the list all the same.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.snapshot.jobs.iter().any(|job| job.state.has_ended())
    }

    /// Jobs of which the work would stop, and those that wait for their turn.
    #[must_use]
    pub fn unfinished(&self) -> (usize, usize) {
        let count = |test: fn(&JobStatus) -> bool| self.snapshot.jobs.iter().filter(|job| test(job)).count();
        (count(|job| job.state.is_active()), count(|job| job.state == crate::jobs::JobState::Queued))
    }
}
