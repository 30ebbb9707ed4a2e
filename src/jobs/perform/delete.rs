//! A deletion: exactly the plan that a person has seen, and a note of what went.

use std::collections::BTreeSet;

use super::{Done, Performer, Run, blocking};
use crate::disk::deletion::NoHook;
use crate::error::{Error, Result};
use crate::jobs::JobOutcome;
use crate::jobs::deletion_log::Origin;
use crate::machine::find_holders;
use crate::model::{Inode, Plan};

impl Performer {
    pub(super) async fn delete(&self, plan: Plan, run: &Run) -> Result<Done> {
        let (inventory, log, cancel) = (self.inventory.clone(), self.deletion_log.clone(), run.cancel.clone());
        let report = blocking(move || {
            // Asked before anything goes: afterwards nobody knows where it came from.
            let origins: Vec<Origin> = match &log {
                Some(_) => plan.models.iter().map(|model| Origin::of(model, &inventory)).collect(),
                None => Vec::new(),
            };
            let files = plan.steps.iter().filter(|step| step.operation.is_file());
            let targets: BTreeSet<Inode> = files.map(|step| step.target).collect();
            let held = find_holders(&targets, &[]).by_file;
            let still_open = |inode| held.contains_key(&inode);
            let mut report = inventory.run_deletion(&plan, &mut NoHook, &still_open, &mut |_, _| (), &cancel);
            if let Some(log) = log {
                log.note(&origins, &mut report);
            }
            report
        })
        .await?;
        self.room.ring();
        if run.cancel.is_cancelled() && report.removed.is_empty() && report.failed.is_empty() {
            return Err(Error::Cancelled);
        }
        Ok(Done { path: None, outcome: Some(JobOutcome::Deleted(report)) })
    }
}
