//! What is dead in every store at once.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use tokio_util::sync::CancellationToken;

use super::Inventory;
use crate::error::{Error, Result};
use crate::machine;
use crate::model::{Failure, Garbage, Inode, ModelId, Plan, Step, Sweep, SweepItem, text};
use crate::provisioner::{DestinationKind, DownloadRequest, ModelProvisioner};
use crate::store::planning::way_of_link;
use crate::store::sweep::SweepContext;

impl Inventory {
    /// Looks for what nothing can use any more, in every store on a thread of its own. What a process holds open, what another
    /// store links to and what belongs to a protected row is told in [`Sweep::kept`] and not offered.
    ///
    /// [`Sweep::plan`] makes a choice of it into a plan, which runs like every other plan. A cancelled look finds nothing.
    ///
    /// ```
    /// use rbee_hive::provisioner::ModelProvisioner;
    /// use rbee_hive::provisioner::Inventory;
    /// use rbee_hive::store::sweep::SweepContext;
    /// use tokio_util::sync::CancellationToken;
    ///
    /// # let scratch = tempfile::tempdir().unwrap();
    /// # let base_dir = scratch.path().to_owned();
    /// let provisioner = ModelProvisioner::builder(base_dir).build();
    /// let inventory = Inventory::new(vec![std::sync::Arc::new(provisioner.store().clone())], Vec::new());
    /// let context = SweepContext::at(jiff::Timestamp::now());
    /// let sweep = inventory.sweep(&context, &CancellationToken::new());
    /// for item in &sweep.items {
    ///     println!("{}: {} ({}, {} bytes)", item.path.display(), item.why, item.certainty, item.bytes);
    /// }
    /// let plan = sweep.plan(&sweep.usual());
    /// assert_eq!(plan.expected_bytes, 0);
    /// ```
    #[must_use]
    pub fn sweep(&self, context: &SweepContext, cancel: &CancellationToken) -> Sweep {
        let mut sweep = Sweep::default();
        let stores = self.stores();
        let found: Vec<Sweep> = std::thread::scope(|scope| {
            let threads: Vec<_> = stores.iter().map(|store| scope.spawn(|| store.sweep(context, cancel))).collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
                .collect()
        });
        if cancel.is_cancelled() {
            return sweep;
        }
        found.into_iter().for_each(|found| sweep.append(found));
        self.withhold_protected(&mut sweep);
        withhold_linked(&mut sweep);
        withhold_held(&mut sweep);
        sweep
    }

    /// `plan`, which a sweep made a while ago, without what is not dead any more, and why each of that is not.
    #[must_use]
    pub fn still_dead(&self, plan: &Plan, context: &SweepContext, cancel: &CancellationToken) -> (Plan, Vec<Failure>) {
        let now = self.sweep(context, cancel);
        let key = |step: &Step| (step.path(), step.target);
        let dead: BTreeSet<(PathBuf, Inode)> = now.steps.iter().map(|found| key(&found.step)).collect();
        let mut places: Vec<Option<usize>> = Vec::with_capacity(plan.steps.len());
        let mut alive = Vec::new();
        let mut rest = Plan { steps: Vec::new(), ..plan.clone() };
        for step in &plan.steps {
            let requires: Option<Vec<usize>> =
                step.requires.iter().map(|required| places.get(*required).copied().flatten()).collect();
            if let Some(requires) = requires.filter(|_| dead.contains(&key(step))) {
                places.push(Some(rest.steps.len()));
                rest.steps.push(Step { requires, ..step.clone() });
                continue;
            }
            places.push(None);
            // A folder stays with what is in it, which is no failure of its own.
            if step.operation.is_file() {
                let path = step.path();
                let reason = now.kept.iter().find(|kept| kept.path == path).map(|kept| kept.because.clone());
                let error = reason.unwrap_or_else(|| "it is gone, changed or used by now; look again".to_owned());
                alive.push(Failure { path, error });
            }
        }
        rest.expected_bytes = rest.steps.iter().map(|step| step.bytes).sum();
        (rest, alive)
    }

    fn withhold_protected(&self, sweep: &mut Sweep) {
        if self.protect.is_empty() {
            return;
        }
        let mut known: BTreeMap<ModelId, bool> = BTreeMap::new();
        sweep.withhold(|at, sweep| {
            let item = &sweep.items[at];
            let id = item.id.clone()?;
            let model = ModelId { store: item.store, store_path: item.store_path.clone(), id };
            let protected = *known.entry(model).or_insert_with_key(|model| self.is_id_protected(model));
            let name = text::printable(item.id.as_deref().unwrap_or_default());
            protected.then(|| format!("{name} is on the protect list of the configuration"))
        });
    }

    fn is_id_protected(&self, model: &ModelId) -> bool {
        let details = self.store(model).and_then(|store| store.details(&model.id));
        match details {
            Ok(details) => self.is_protected(&details.model),
            // What is no row by itself still has its name.
            Err(_) => self.protect.iter().any(|pattern| {
                [model.id.as_str(), &model.to_string()].iter().any(|name| crate::model::matches_pattern(name, pattern))
            }),
        }
    }
}

/// What is offered only because nothing names it, or what it names is not there.
fn is_dead_by_absence(kind: Garbage) -> bool {
    !matches!(kind, Garbage::Partial | Garbage::Temporary)
}

/// Keeps what a living link of any store leads to.
fn withhold_linked(sweep: &mut Sweep) {
    let mut stops: BTreeMap<PathBuf, PathBuf> = BTreeMap::new();
    let mut ends: BTreeMap<PathBuf, PathBuf> = BTreeMap::new();
    for link in std::mem::take(&mut sweep.links) {
        let mut way = way_of_link(&link).into_iter().skip(1);
        let mut last = None;
        for stop in way.by_ref() {
            last = Some(stop.clone());
            stops.entry(stop).or_insert_with(|| link.clone());
        }
        if let Some(last) = last {
            ends.entry(last).or_insert(link);
        }
    }
    if stops.is_empty() {
        return;
    }
    let mut paths: BTreeMap<usize, Vec<PathBuf>> = BTreeMap::new();
    for found in &sweep.steps {
        for item in found.items.iter().chain(&found.with) {
            paths.entry(*item).or_default().push(found.step.path());
        }
    }
    sweep.withhold(|at, sweep| {
        let item = &sweep.items[at];
        let linked = |path: &Path| {
            stops.get(path).or_else(|| {
                let mut around = path.ancestors().skip(1).take_while(|folder| *folder != item.store_path);
                around.find_map(|folder| ends.get(folder).filter(|_| is_dead_by_absence(item.kind)))
            })
        };
        let link = paths.get(&at)?.iter().find_map(|path| linked(path).cloned())?;
        Some(format!("{} leads to it", text::printable_path(&link)))
    });
}

/// Keeps what a process holds open, and in the same place what is dead only because nothing names it yet.
fn withhold_held(sweep: &mut Sweep) {
    let files: BTreeSet<Inode> =
        sweep.steps.iter().filter(|found| found.step.operation.is_file()).map(|found| found.step.target).collect();
    let paths: Vec<PathBuf> = sweep.items.iter().map(|item| item.path.clone()).collect();
    let held = machine::find_holders(&files, &paths);
    sweep.unreadable_processes = held.unreadable;
    if held.hidden {
        sweep
            .warnings
            .push("this host does not show the processes of other users; what they hold is not known".to_owned());
    }
    if held.by_file.is_empty() && held.by_path.is_empty() {
        return;
    }
    let mut targets: BTreeMap<usize, Vec<Inode>> = BTreeMap::new();
    for found in sweep.steps.iter().filter(|found| found.step.operation.is_file()) {
        for item in found.items.iter().chain(&found.with) {
            targets.entry(*item).or_default().push(found.step.target);
        }
    }
    let place = |item: &SweepItem| (item.store_path.clone(), item.id.clone());
    let holder = |at: usize, item: &SweepItem| {
        let files = targets.get(&at).map(Vec::as_slice).unwrap_or_default();
        held.of(files, &item.path).into_iter().next()
    };
    let busy: BTreeSet<(PathBuf, Option<String>)> = sweep
        .items
        .iter()
        .enumerate()
        .filter(|(at, item)| !is_dead_by_absence(item.kind) && holder(*at, item).is_some())
        .map(|(_, item)| place(item))
        .collect();
    sweep.withhold(|at, sweep| {
        let item = &sweep.items[at];
        if let Some(holder) = holder(at, item) {
            let command = text::printable(&holder.command);
            return Some(format!("process {} ({}: {command}) holds it", holder.pid, text::printable(&holder.user)));
        }
        let waits = is_dead_by_absence(item.kind) && busy.contains(&place(item));
        waits.then(|| "a process downloads in the same place, and may need it in a moment".to_owned())
    });
}

impl ModelProvisioner {
    /// The folder with the partial files that a download of `request` goes on with; `None` when it cannot have any, for it
    /// names nothing.
    ///
    /// # Errors
    /// [`Error::Io`] when the models folder cannot be read.
    pub fn partial_folder(&self, request: &DownloadRequest) -> Result<Option<PathBuf>> {
        let folder = self.meaning(request).and_then(|meaning| match request.to {
            DestinationKind::Flat => self.store().target_folder(&meaning.reference, &meaning.repository),
            DestinationKind::Hf => Ok(self.hf_writer(&meaning.repository)?.folder()),
        });
        match folder {
            Ok(folder) => Ok(Some(folder)),
            Err(error @ Error::Io { .. }) => Err(error),
            Err(_) => Ok(None),
        }
    }
}
