//! A sweep: the plan that a person has seen, less what is not dead any more.

use std::collections::BTreeSet;

use jiff::Timestamp;

use super::{Done, Performer, Run, blocking};
use crate::disk::deletion::NoHook;
use crate::error::{Error, Result};
use crate::jobs::{JobOutcome, sweep_context};
use crate::machine::find_holders;
use crate::model::{Inode, Plan, SweepItem};

impl Performer {
    pub(super) async fn sweep(&self, plan: Plan, items: Vec<SweepItem>, run: &Run) -> Result<Done> {
        let (inventory, log, cancel) = (self.inventory.clone(), self.deletion_log.clone(), run.cancel.clone());
        let (provisioner, queue_file) = (self.provisioner.clone(), self.queue_file.clone());
        let report = blocking(move || {
            // A person reads for minutes, and what is dead is told by what is not there.
            let context = sweep_context(&provisioner, queue_file.as_deref(), &[], Timestamp::now());
            let (plan, alive) = inventory.still_dead(&plan, &context, &cancel);
            if cancel.is_cancelled() {
                return None;
            }
            let files = plan.steps.iter().filter(|step| step.operation.is_file());
            let targets: BTreeSet<Inode> = files.map(|step| step.target).collect();
            let held = find_holders(&targets, &[]).by_file;
            let still_open = |inode| held.contains_key(&inode);
            let mut report = inventory.run_deletion(&plan, &mut NoHook, &still_open, &mut |_, _| (), &cancel);
            report.failed.extend(alive);
            if let Some(log) = log {
                log.note_sweep(&items, &mut report);
            }
            Some(report)
        })
        .await?;
        self.room.ring();
        match report {
            Some(report) if !(run.cancel.is_cancelled() && report.removed.is_empty() && report.failed.is_empty()) => {
                Ok(Done { path: None, outcome: Some(JobOutcome::Deleted(report)) })
            }
            _ => Err(Error::Cancelled),
        }
    }
}
