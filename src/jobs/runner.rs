//! What the worker needs from whatever does the work; the queue itself knows neither hub nor disk.

use std::path::PathBuf;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use tokio_util::sync::CancellationToken;

use super::home::Home;
use super::slot::Slot;
use super::{JobEventKind, JobOutcome, JobSpec};
use crate::error::Result;

/// Takes what a running job tells. It returns at once and may be called from any thread.
pub(super) type Tell = Arc<dyn Fn(JobEventKind) + Send + Sync>;

/// One run of a job.
pub(super) struct Run {
    /// What to do.
    pub(super) spec: JobSpec,
    /// Progress goes here; the end does not, for the result tells it.
    pub(super) tell: Tell,
    /// Ends the run; what is on disk stays.
    pub(super) cancel: CancellationToken,
    /// Of a download: given away while it waits for room.
    pub(super) slot: Slot,
}

/// What a job came to.
#[derive(Debug, Default)]
pub(super) struct Done {
    pub(super) path: Option<PathBuf>,
    pub(super) outcome: Option<JobOutcome>,
}

/// Does the work of jobs.
pub(super) trait Runner: Send + Sync + 'static {
    /// Runs a job to its end. [`crate::Error::Cancelled`] when it ended because of the token.
    fn run(&self, run: Run) -> BoxFuture<'static, Result<Done>>;

    /// Removes what an unfinished job has left on disk; `home` where it belongs to another models folder or hub.
    fn discard(&self, spec: JobSpec, home: Option<Home>) -> BoxFuture<'static, Result<()>>;

    /// Bytes per second over all downloads, from now on.
    fn set_limit(&self, limit: Option<u64>);
}
