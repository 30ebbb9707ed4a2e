//! The slot of a download: one that waits for room gives it to another that may fit.

use std::sync::{Arc, Weak};

use tokio::sync::Notify;

use super::JobId;
use super::worker::Worker;

/// The slot of one run among the downloads that may run at once.
#[derive(Clone)]
pub(super) struct Slot {
    worker: Weak<Worker>,
    job: JobId,
    /// Rung when a slot may be free.
    freed: Arc<Notify>,
}

/// How a run stands to its slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hold {
    /// It has it.
    Held,
    /// It gave it away.
    Left,
    /// It waits for one to be free again; later jobs do not get that before it.
    Wanted,
}

impl Slot {
    pub(super) fn new(worker: Weak<Worker>, job: JobId, freed: Arc<Notify>) -> Self {
        Self { worker, job, freed }
    }

    /// Gives the slot to whatever waits for one.
    pub(super) fn leave(&self) {
        if let Some(worker) = self.worker.upgrade() {
            worker.leave_slot(self.job);
        }
    }

    /// Whether the slot is taken back at once. If not, it is the run's as soon as one is free: see [`Self::taken`].
    pub(super) fn take(&self) -> bool {
        self.worker.upgrade().is_none_or(|worker| worker.take_slot(self.job))
    }

    /// Waits until [`Self::take`] gave the slot.
    pub(super) async fn taken(&self) {
        loop {
            let freed = self.freed.notified();
            tokio::pin!(freed);
            freed.as_mut().enable();
            if self.take() {
                return;
            }
            freed.await;
        }
    }
}
