//! Work that goes on while nobody waits: what is asked for, what is told, and the queue between.
//!
//! Front ends speak to work only through [`Jobs`]. The worker here runs in the same process; one in another process
//! later changes no front end, for specs, controls and events all serialise.

mod deletion_log;
mod event;
mod home;
mod local;
mod perform;
mod queue_file;
mod runner;
mod slot;
mod snapshot;
mod spec;
mod sweeping;
mod tracker;
mod worker;

pub use event::{EVENT_VERSION, JobEvent, JobEventKind, JobOutcome};
pub use local::{LocalJobs, LocalJobsOptions};
pub use snapshot::{FileProgress, JobState, JobStatus, Snapshot};
pub use spec::{Basis, JobId, JobSpec};
pub use sweeping::sweep_context;

use serde::{Deserialize, Serialize};

use crate::error::Result;

/// What a person does to a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Control {
    /// Stop for now and keep the place; the partial stays.
    Pause,
    /// Go on after a pause.
    Resume,
    /// Stop for good; the partial stays, so that the same download later continues.
    Cancel,
    /// Stop for good and remove the partial.
    Discard,
    /// Put a failed or cancelled job back into the queue.
    Retry,
    /// Move among the jobs that wait: 0 is next. A download that runs goes back among them, its partial kept, and its place goes
    /// to the next one.
    MoveTo(usize),
    /// Run before every other: where all places are taken, the download that began last goes back to the front of those that
    /// wait, its partial kept.
    RunNow,
}

/// What the subscriber gets next.
#[derive(Clone, Debug, PartialEq)]
pub enum Update {
    /// The state of everything: the first update, and again whenever the subscriber was too slow for single events.
    Snapshot(Snapshot),
    /// One event after the snapshot, in order of its number.
    Event(JobEvent),
}

/// A subscription: a snapshot, then events.
#[derive(Debug)]
pub struct Subscription {
    pub(crate) updates: tokio::sync::mpsc::Receiver<Update>,
}

impl Subscription {
    /// The next update; `None` when the worker is gone.
    pub async fn next(&mut self) -> Option<Update> {
        self.updates.recv().await
    }

    /// The next update if one is ready.
    pub fn try_next(&mut self) -> Option<Update> {
        self.updates.try_recv().ok()
    }
}

/// Work, as front ends see it. Calls return at once.
pub trait Jobs: Send + Sync {
    /// Puts a job at the end of the queue.
    ///
    /// # Errors
    /// When the spec cannot be taken; a queue file that cannot be written is a warning in the snapshot, not an error.
    fn submit(&self, spec: JobSpec) -> Result<JobId>;

    /// Does something to a job.
    ///
    /// # Errors
    /// [`crate::Error::Job`] when there is no such job, or it cannot do that in its state.
    fn control(&self, job: JobId, control: Control) -> Result<()>;

    /// Removes every job that has ended from the queue.
    fn clear(&self);

    /// Bytes per second over all downloads; `None` is no limit.
    fn set_limit(&self, limit: Option<u64>);

    /// Everything as it is now, then every change. A slow subscriber loses single events and gets a new snapshot instead.
    fn subscribe(&self) -> Subscription;
}
