//! What a job may not share while it runs, and so which jobs run beside each other.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::{Running, State, Worker};
use crate::jobs::JobSpec;
use crate::jobs::slot::Hold;

/// What a job may not share while it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Claim {
    /// One of the slots for downloads.
    Download,
    /// The reading of checksums: two at a time would only slow each other down.
    Verify,
    /// The disk and a core for a long time: one at a time.
    Convert,
    /// Stores that something is deleted from.
    Delete(Vec<PathBuf>),
    /// Nothing: the removal of a partial.
    Nothing,
}

impl Claim {
    pub(super) fn of(spec: &JobSpec) -> Self {
        match spec {
            JobSpec::Download(_) => Self::Download,
            JobSpec::Verify { .. } => Self::Verify,
            JobSpec::Convert(_) => Self::Convert,
            JobSpec::Delete { plan, .. } => {
                Self::Delete(plan.models.iter().map(|model| model.store_path.clone()).collect())
            }
            JobSpec::Sweep { plan, .. } => {
                let roots: BTreeSet<PathBuf> = plan.steps.iter().map(|step| step.root.clone()).collect();
                Self::Delete(roots.into_iter().collect())
            }
        }
    }
}

impl Worker {
    pub(super) fn may_run(&self, state: &State, claim: &Claim, blocked: &[PathBuf]) -> bool {
        let mut running = state.runs.values().map(|run| &run.claim);
        match claim {
            Claim::Download => {
                // One that had given its slot away has the first that is free.
                let taken = |run: &&Running| run.claim == Claim::Download && run.hold != Hold::Left;
                state.runs.values().filter(taken).count() < self.downloads
            }
            Claim::Verify | Claim::Convert => !running.any(|other| other == claim),
            Claim::Nothing => true,
            Claim::Delete(stores) => {
                let taken = |store: &PathBuf| {
                    blocked.contains(store)
                        || state
                            .runs
                            .values()
                            .any(|run| matches!(&run.claim, Claim::Delete(those) if those.contains(store)))
                };
                !stores.iter().any(taken)
            }
        }
    }
}
