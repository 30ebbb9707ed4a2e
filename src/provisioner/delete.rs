//! `delete_model`: a plan, then its run.

use tokio_util::sync::CancellationToken;

use super::ModelProvisioner;
use super::info::shown;
use crate::disk::deletion::{self, NoHook};
use crate::error::{Error, Result};
use crate::model::Plan;
use crate::store::{Store, Target};

impl ModelProvisioner {
    /// What deleting `reference` would do. Nothing is changed.
    ///
    /// # Errors
    /// [`Error::ModelNotFound`], [`Error::InvalidReference`], [`Error::Io`].
    pub fn plan_deletion(&self, reference: &str) -> Result<Plan> {
        let resolved = self.resolve(reference)?;
        self.store().plan_deletion(&[Target { id: resolved.id, part: resolved.part }])
    }

    /// Deletes exactly the model that `reference` names: its files, and its folder when only bookkeeping is left.
    ///
    /// # Errors
    /// [`Error::ModelNotFound`] ("… not found …"); [`Error::DeletionRefused`] when something forbids it (nothing was removed
    /// then) or a file could not be removed.
    pub fn delete_model(&self, reference: &str) -> Result<()> {
        let plan = self.plan_deletion(reference)?;
        if let Some(blocked) = plan.blocked.first() {
            return Err(Error::DeletionRefused { what: shown(&blocked.path), reason: blocked.because.clone() });
        }
        if let Some(broken) = plan.breaks.first() {
            return Err(Error::DeletionRefused {
                what: crate::model::text::printable(reference),
                reason: format!("{} links to it at {}; nothing was removed", broken.model, shown(&broken.path)),
            });
        }
        run(&plan)
    }
}

/// Runs a plan as it is; whether it may run is the caller's question. The first failure is the error.
pub(super) fn run(plan: &Plan) -> Result<()> {
    // Nobody reads here what processes still keep open.
    let report = deletion::run(plan, &mut NoHook, &|_| false, &mut |_, _| {}, &CancellationToken::new());
    match report.failed.first() {
        Some(failure) => Err(Error::DeletionRefused { what: shown(&failure.path), reason: failure.error.clone() }),
        None => Ok(()),
    }
}
