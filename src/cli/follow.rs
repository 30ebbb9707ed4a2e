//! A job from its beginning to its end, in the foreground.

use tokio_util::sync::CancellationToken;

use super::exit::Stop;
use crate::jobs::{Control, JobEvent, JobId, JobStatus, Jobs, LocalJobs, Snapshot, Subscription, Update};

/// Follows `job` until it has ended; `each` gets its events. Cancelling cancels the job, which then ends in its own time.
/// None when the worker ended before the job did.
pub(super) async fn to_end(
    jobs: &LocalJobs,
    updates: &mut Subscription,
    job: JobId,
    cancel: &CancellationToken,
    each: &mut dyn FnMut(&JobEvent) -> Result<(), Stop>,
) -> Result<Option<JobStatus>, Stop> {
    let mut seen = Snapshot::default();
    let mut asked = false;
    loop {
        tokio::select! {
            update = updates.next() => match update {
                Some(Update::Snapshot(snapshot)) => seen = snapshot,
                Some(Update::Event(event)) => {
                    seen.apply(&event);
                    if event.job == job {
                        each(&event)?;
                    }
                }
                None => return Ok(None),
            },
            () = cancel.cancelled(), if !asked => {
                asked = true;
                // It may have ended by itself in this moment; then there is nothing to cancel.
                let _ = jobs.control(job, Control::Cancel);
            }
        }
        if let Some(status) = seen.job(job).filter(|status| status.state.has_ended()) {
            return Ok(Some(status.clone()));
        }
    }
}
