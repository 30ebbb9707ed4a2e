//! One deletion plan over several stores.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use super::{Inventory, PlanTarget, holders};
use crate::error::Result;
use crate::model::{Blocked, Broken, Inode, ModelId, Plan, Step};
use crate::store::planning::way_of_link;
use crate::store::{StoreLink, Target};

impl Inventory {
    /// One plan for everything in `targets`, with the processes that hold what would go noted in it. A protected row
    /// is `blocked` and nothing of it goes.
    ///
    /// # Errors
    /// [`crate::Error::ModelNotFound`] when one is gone.
    pub fn plan_deletion(&self, targets: &[PlanTarget]) -> Result<Plan> {
        let mut plan = Plan::default();
        let mut allowed: Vec<&PlanTarget> = Vec::new();
        for target in targets {
            let details = self.store(&target.model)?.details(&target.model.id)?;
            if self.is_protected(&details.model) {
                plan.blocked.push(Blocked {
                    path: details.model.path,
                    because: "it is on the protect list of the configuration; take it off there first".to_owned(),
                });
                plan.models.push(target.model.clone());
            } else if !allowed.contains(&target) {
                allowed.push(target);
            }
        }
        let mut parts = 0;
        for store in self.stores().iter() {
            let wanted: Vec<Target> = allowed
                .iter()
                .filter(|target| target.model.store == store.kind() && target.model.store_path == store.root())
                .map(|target| Target { id: target.model.id.clone(), part: target.part.clone() })
                .collect();
            if !wanted.is_empty() {
                append(&mut plan, store.plan_deletion(&wanted)?);
                parts += 1;
            }
        }
        if parts > 1 {
            count_shared(&mut plan);
        }
        self.note_breaks(&mut plan);
        self.note_holders(&mut plan);
        Ok(plan)
    }

    /// Names the rows of any store whose links would lead to nothing. Each store has noted its own already.
    fn note_breaks(&self, plan: &mut Plan) {
        let going: BTreeSet<PathBuf> = plan.steps.iter().map(Step::path).collect();
        if going.is_empty() {
            return;
        }
        let inside = |end: &PathBuf| going.range(end.clone()..).next().is_some_and(|path| path.starts_with(end));
        for store in self.stores().iter() {
            for StoreLink { id, path } in store.links() {
                let known = plan.breaks.iter().any(|broken| broken.path == path)
                    || plan.keep.iter().any(|kept| kept.path == path);
                if known || going.contains(&path) {
                    continue;
                }
                let way = way_of_link(&path);
                if way.iter().skip(1).any(|stop| going.contains(stop)) || way.last().is_some_and(inside) {
                    let model = ModelId { store: store.kind(), store_path: store.root().to_owned(), id };
                    plan.breaks.push(Broken { model, path });
                }
            }
        }
    }

    /// Names the processes that hold what goes, and counts those that could not be looked into.
    fn note_holders(&self, plan: &mut Plan) {
        let files = plan.steps.iter().filter(|step| step.operation.is_file());
        let (inodes, paths): (BTreeSet<Inode>, Vec<PathBuf>) = files.map(|step| (step.target, step.path())).unzip();
        if inodes.is_empty() {
            return;
        }
        let found = self.look(&inodes, &paths);
        for holder in holders::of(&found, inodes.into_iter()) {
            if !plan.in_use_by.iter().any(|known| known.pid == holder.pid) {
                plan.in_use_by.push(holder);
            }
        }
        let loaded = self.loaded(plan.models.iter());
        for holder in loaded.into_values() {
            if !plan.in_use_by.iter().any(|known| known.pid == holder.pid) {
                plan.in_use_by.push(holder);
            }
        }
        plan.in_use_by.sort_by_key(|holder| holder.pid);
        plan.unreadable_processes = found.unreadable;
    }
}

/// Puts `more` after what `plan` has; steps refer to others by their place.
fn append(plan: &mut Plan, more: Plan) {
    let offset = plan.steps.len();
    plan.models.extend(more.models);
    plan.steps.extend(more.steps.into_iter().map(|mut step| {
        step.requires.iter_mut().for_each(|index| *index += offset);
        step
    }));
    plan.asks.extend(more.asks.into_iter().map(|mut ask| {
        ask.names.iter_mut().chain(&mut ask.steps).for_each(|index| *index += offset);
        ask
    }));
    plan.keep.extend(more.keep);
    plan.blocked.extend(more.blocked);
    plan.breaks.extend(more.breaks);
    for holder in more.in_use_by {
        if !plan.in_use_by.contains(&holder) {
            plan.in_use_by.push(holder);
        }
    }
    plan.expected_bytes = plan.expected_bytes.saturating_add(more.expected_bytes);
}

/// Files with names in several stores: each store sees a name elsewhere and expects nothing. Where all names go, the last
/// removal frees the bytes.
fn count_shared(plan: &mut Plan) {
    let mut steps: BTreeMap<Inode, Vec<usize>> = BTreeMap::new();
    for (index, step) in plan.steps.iter().enumerate() {
        if step.operation.is_file() {
            steps.entry(step.target).or_default().push(index);
        }
    }
    for (inode, indices) in steps {
        let counted = indices.iter().any(|index| plan.steps[*index].bytes > 0);
        let Some(last) = indices.last().filter(|_| indices.len() > 1 && !counted) else { continue };
        let Ok(status) = fs::symlink_metadata(plan.steps[*last].path()) else { continue };
        let same = status.is_file() && Inode { device: status.dev(), inode: status.ino() } == inode;
        if same && status.nlink() <= indices.len() as u64 {
            let bytes = status.blocks() * 512;
            plan.steps[*last].bytes = bytes;
            plan.expected_bytes = plan.expected_bytes.saturating_add(bytes);
        }
    }
}
