//! A deletion: exactly the plan that a person has seen, and a note of what went.

use std::collections::BTreeSet;

use super::{Done, Performer, Run, blocking};
use crate::disk::deletion::NoHook;
use crate::error::{Error, Result};
use crate::jobs::deletion_log::Origin;
use crate::jobs::{Basis, JobOutcome};
use crate::machine::find_holders;
use crate::model::{DeletionReport, Inode, Plan, text};
use crate::provisioner::{Inventory, PlanTarget};

impl Performer {
    pub(super) async fn delete(&self, plan: Plan, basis: Basis, run: &Run) -> Result<Done> {
        let (inventory, log, cancel) = (self.inventory.clone(), self.deletion_log.clone(), run.cancel.clone());
        let report = blocking(move || {
            // A person reads for minutes and a job waits: what came to need a payload meanwhile is in no step's own check.
            let plan = match basis {
                Basis::JustMade => plan,
                Basis::Seen(targets) => remade(&inventory, &plan, &targets)?,
            };
            if cancel.is_cancelled() {
                return Ok(DeletionReport::default());
            }
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
            Ok(report)
        })
        .await??;
        self.room.ring();
        if run.cancel.is_cancelled() && report.removed.is_empty() && report.failed.is_empty() {
            return Err(Error::Cancelled);
        }
        Ok(Done { path: None, outcome: Some(JobOutcome::Deleted(report)) })
    }
}

/// `seen`, made anew.
///
/// # Errors
/// [`Error::DeletionRefused`] when it says something else by now.
fn remade(inventory: &Inventory, seen: &Plan, targets: &[PlanTarget]) -> Result<Plan> {
    let refused = |reason: String| {
        let what = match seen.models.as_slice() {
            [one] => text::printable(&one.to_string()),
            many => format!("{} models", many.len()),
        };
        Error::DeletionRefused { what, reason }
    };
    match inventory.plan_deletion(targets) {
        Ok(again) if seen.covers(&again) => Ok(again),
        Ok(_) => Err(refused(CHANGED.to_owned())),
        Err(error) => Err(refused(format!("{CHANGED} ({error})"))),
    }
}

const CHANGED: &str = "the store has changed; look at the plan again; nothing was removed";
