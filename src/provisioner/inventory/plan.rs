//! One deletion plan over several stores.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use tokio_util::sync::CancellationToken;

use super::{Inventory, PlanTarget, holders};
use crate::error::Result;
use crate::model::{Blocked, Broken, Inode, Model, ModelId, Plan, Step, StoreKind};
use crate::store::planning::way_of_link;
use crate::store::{Row, Store, StoreLink, Target};

/// Targets of a store from which on one look at all of it is cheaper than one at each.
const MANY: usize = 4;

/// Targets with the paths of their rows.
type Protected<'a> = Vec<(&'a PlanTarget, PathBuf)>;

impl Inventory {
    /// One plan for everything in `targets`, with the processes that hold what would go noted in it. A protected row
    /// is `blocked` and nothing of it goes.
    ///
    /// # Errors
    /// [`crate::Error::ModelNotFound`] when one is gone.
    pub fn plan_deletion(&self, targets: &[PlanTarget]) -> Result<Plan> {
        let mut plan = Plan::default();
        let mut seen: HashSet<&PlanTarget> = HashSet::new();
        let wanted: Vec<&PlanTarget> = targets.iter().filter(|target| seen.insert(target)).collect();
        let (protected, allowed) = self.protected(&wanted)?;
        for (target, path) in protected {
            plan.blocked.push(Blocked {
                path,
                because: "it is on the protect list of the configuration; take it off there first".to_owned(),
            });
            plan.models.push(target.model.clone());
        }
        let mut planned = Vec::new();
        for store in self.stores().iter() {
            let wanted: Vec<Target> = allowed
                .iter()
                .filter(|target| target.model.store == store.kind() && target.model.store_path == store.root())
                .map(|target| Target { id: target.model.id.clone(), part: target.part.clone() })
                .collect();
            if !wanted.is_empty() {
                append(&mut plan, store.plan_deletion(&wanted)?);
                planned.push(store.clone());
            }
        }
        if planned.len() > 1 {
            count_shared(&mut plan);
        }
        let looked = match planned.as_slice() {
            [one] if one.plans_with_links() => Some(one.as_ref()),
            _ => None,
        };
        self.note_breaks(&mut plan, looked);
        self.note_holders(&mut plan);
        Ok(plan)
    }

    /// Names the rows of any store whose links would lead to nothing. Each store has noted its own already; `looked` has seen
    /// all of its links with all that goes.
    fn note_breaks(&self, plan: &mut Plan, looked: Option<&dyn Store>) {
        let going: BTreeSet<PathBuf> = plan.steps.iter().map(Step::path).collect();
        if going.is_empty() {
            return;
        }
        let inside = |end: &PathBuf| going.range(end.clone()..).next().is_some_and(|path| path.starts_with(end));
        let is_looked = |store: &dyn Store| {
            looked.is_some_and(|looked| looked.kind() == store.kind() && looked.root() == store.root())
        };
        for store in self.stores().iter().filter(|store| !is_looked(store.as_ref())) {
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

impl Inventory {
    /// Those of `targets` that may not go, with their paths, and the others.
    fn protected<'a>(&self, targets: &[&'a PlanTarget]) -> Result<(Protected<'a>, Vec<&'a PlanTarget>)> {
        let (mut protected, mut allowed) = (Vec::new(), Vec::new());
        let mut by_store: BTreeMap<(StoreKind, &Path), Vec<&'a PlanTarget>> = BTreeMap::new();
        for target in targets {
            by_store.entry((target.model.store, &target.model.store_path)).or_default().push(target);
        }
        for targets in by_store.into_values() {
            let Some(first) = targets.first() else { continue };
            let store = self.store(&first.model)?;
            // Without a list nothing is protected; the store itself says which targets are not there.
            if self.protect.is_empty() {
                allowed.extend(targets);
                continue;
            }
            let mut known: HashMap<String, Model> = HashMap::new();
            if targets.len() >= MANY {
                let ids: HashSet<&str> = targets.iter().map(|target| target.model.id.as_str()).collect();
                let mut keep = |row: Row| {
                    if ids.contains(row.model.identity.id.as_str()) {
                        known.insert(row.model.identity.id.clone(), row.model);
                    }
                };
                store.scan(&mut keep, &CancellationToken::new());
            }
            for target in targets {
                let id = &target.model.id;
                if !known.contains_key(id) {
                    known.insert(id.clone(), store.details(id)?.model);
                }
                let Some(model) = known.get(id) else { continue };
                if self.is_protected(model) {
                    protected.push((target, model.path.clone()));
                } else {
                    allowed.push(target);
                }
            }
        }
        Ok((protected, allowed))
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
    plan.notes.extend(more.notes);
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
