//! Checking rows of any store, and remembering what was found.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use tokio_util::sync::CancellationToken;

use super::{Inventory, PlanTarget};
use crate::config::VerifySettings;
use crate::error::{Error, Result};
use crate::model::{Digest, FileCheck, FileStatus, Inode, Model, ModelId, StoreKind, Verification, text};
use crate::store::remembered::Remembered;
use crate::store::verify::{self, Depth, Event, Options, Progress, Task};
use crate::store::{Part, Store, Target};

/// Rows of a store that are asked for together; between two lots it can be cancelled.
const TOGETHER: usize = 256;

impl Inventory {
    /// Remembers results, and shows in every row what is remembered of it.
    #[must_use]
    pub fn remembering(self, memory: Remembered) -> Self {
        Self { memory, ..self }
    }

    /// Verifies at this pace.
    #[must_use]
    pub fn pacing(self, pace: VerifySettings) -> Self {
        Self { pace, ..self }
    }

    /// Checks one row or a part of it.
    ///
    /// # Errors
    /// [`Error::ModelNotFound`], [`Error::Cancelled`]. What is wrong with a file is its status, never an error.
    pub fn verify(
        &self,
        target: &PlanTarget,
        depth: Depth,
        progress: &mut dyn FnMut(Progress<'_>),
        cancel: &CancellationToken,
    ) -> Result<Verification> {
        let (mut current, mut seen, mut whole) = (String::new(), 0, 0);
        let mut sink = |event: Event<'_>| {
            match event {
                Event::Started { file, .. } => file.clone_into(&mut current),
                Event::Progress { bytes, total } => (seen, whole) = (bytes, total),
                _ => return,
            }
            progress(Progress { file: &current, bytes: seen, total: whole });
        };
        let results = self.verify_all(std::slice::from_ref(target), depth, &mut sink, cancel)?;
        results.into_iter().next().ok_or(Error::Cancelled)
    }

    /// Checks rows or parts of them, several files at once. The indices in the events are those of `targets`; the results are
    /// in their order.
    ///
    /// # Errors
    /// [`Error::ModelNotFound`], before anything is read; [`Error::Cancelled`]. What is wrong with a file is its status, never
    /// an error.
    pub fn verify_all(
        &self,
        targets: &[PlanTarget],
        depth: Depth,
        sink: &mut dyn FnMut(Event<'_>),
        cancel: &CancellationToken,
    ) -> Result<Vec<Verification>> {
        self.memory.refresh();
        let mut tasks: Vec<Task> = Vec::with_capacity(targets.len());
        let mut of_task: Vec<usize> = Vec::with_capacity(targets.len());
        let mut results: Vec<Option<Verification>> = targets.iter().map(|_| None).collect();
        for (index, (target, task)) in targets.iter().zip(self.tasks(targets, cancel)?).enumerate() {
            match task {
                Ok(task) => {
                    tasks.push(task);
                    of_task.push(index);
                }
                // What the model is made of cannot be read: that is damage of this one, and no reason to leave out the others.
                Err(ref error @ Error::Io { ref path, .. }) => {
                    let verification = unreadable(&target.model, path, error);
                    sink(Event::Finished { task: index, verification: &verification });
                    results[index] = Some(verification);
                }
                Err(error) => return Err(error),
            }
        }
        let options = Options {
            reads: self.pace.reads,
            limit: self.pace.limit,
            memory: self.memory.clone(),
            ..Options::new(depth)
        };
        let mut mapped = |event: Event<'_>| {
            let of = |task: usize| of_task.get(task).copied().unwrap_or(task);
            sink(match event {
                Event::Started { task, file, total } => Event::Started { task: of(task), file, total },
                Event::Read { task, file, bytes, total } => Event::Read { task: of(task), file, bytes, total },
                Event::Progress { bytes, total } => Event::Progress { bytes, total },
                Event::Checked { task, check } => Event::Checked { task: of(task), check },
                Event::Finished { task, verification } => {
                    if depth != Depth::Quick
                        && let Some(target) = targets.get(of(task))
                    {
                        self.note(&target.model);
                    }
                    Event::Finished { task: of(task), verification }
                }
            });
        };
        for (verification, index) in verify::run_all(tasks, &options, &mut mapped, cancel)?.into_iter().zip(of_task) {
            results[index] = Some(verification);
        }
        Ok(results.into_iter().flatten().collect())
    }

    /// What is to be checked of each target, in their order. Those of one store are asked for together.
    fn tasks(&self, targets: &[PlanTarget], cancel: &CancellationToken) -> Result<Vec<Result<Task>>> {
        let mut of_store: BTreeMap<(StoreKind, &Path), Vec<usize>> = BTreeMap::new();
        for (index, target) in targets.iter().enumerate() {
            of_store.entry((target.model.store, &target.model.store_path)).or_default().push(index);
        }
        let mut tasks: BTreeMap<usize, Result<Task>> = BTreeMap::new();
        for indices in of_store.values().flat_map(|indices| indices.chunks(TOGETHER)) {
            if cancel.is_cancelled() {
                return Err(Error::Cancelled);
            }
            let Some(store) = indices.first().and_then(|first| targets.get(*first)) else { continue };
            let store = self.store(&store.model)?;
            let chosen: Vec<&PlanTarget> = indices.iter().filter_map(|index| targets.get(*index)).collect();
            let wanted: Vec<Target> =
                chosen.iter().map(|target| Target { id: target.model.id.clone(), part: target.part.clone() }).collect();
            for ((index, target), files) in indices.iter().zip(chosen).zip(store.expected_of_each(&wanted)) {
                let whole = !matches!(target.part, Part::Files(_));
                let task = |files| Task { model: target.model.clone(), root: store.root().to_owned(), files, whole };
                tasks.insert(*index, files.map(task));
            }
        }
        Ok(tasks.into_values().collect())
    }

    /// Notes that a download has published these files with these digests, in the row with them. It reads no content.
    pub fn note_published(&self, files: &[(PathBuf, Digest)], folder: &Path, repository: &str) {
        for (path, digest) in files {
            self.memory.published(path, *digest);
        }
        let holds = |root: &Path| folder.starts_with(root) && folder != root;
        for store in self.stores().iter().filter(|store| holds(store.root())) {
            let id = match store.kind() {
                StoreKind::Flat => folder.strip_prefix(store.root()).ok().map(|id| text::escape(id.as_os_str())),
                StoreKind::Hf => Some(repository.to_owned()),
                _ => None,
            };
            if let Some(id) = id {
                self.note(&ModelId { store: store.kind(), store_path: store.root().to_owned(), id });
            }
        }
        self.memory.keep();
    }

    /// Notes what is known of a row after its files were checked or published.
    fn note(&self, model: &ModelId) {
        let Ok(store) = self.store(model) else { return };
        let whole = Target { id: model.id.clone(), part: Part::Whole };
        // A row that is gone by now needs no note.
        let (Ok(details), Ok(expected)) = (store.details(&model.id), store.expected(&whole)) else { return };
        self.memory.note_model(&details.model, store.root(), &expected);
    }

    /// Adds to a row what is remembered of it: when it was found right, or what is wrong with `files`, the inodes that it has,
    /// whichever row that was found in.
    pub(super) fn recall(&self, store: &dyn Store, part: Part, model: &mut Model, files: impl Iterator<Item = Inode>) {
        if part == Part::Whole {
            self.memory.annotate(model);
        }
        if !self.memory.suspects(files) {
            return;
        }
        match store.expected(&Target { id: model.identity.id.clone(), part }) {
            Ok(expected) => self.memory.annotate_damage(model, store.root(), &expected),
            Err(error) => model.warnings.push(format!("one of its files is known to be damaged; which one: {error}")),
        }
    }
}

fn unreadable(model: &ModelId, path: &Path, error: &Error) -> Verification {
    let mut check = FileCheck::new(text::escape(path.as_os_str()), FileStatus::Unreadable);
    check.actual = Some(error.to_string());
    Verification { model: model.clone(), ok: false, files: vec![check] }
}
