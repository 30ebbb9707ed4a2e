//! Every store of this host at once: what the table, `list` and `disk-usage` show, and plans over them.

mod delete;
mod detect;
mod duplicates;
mod everyone;
mod find;
mod holders;
mod idle;
mod ollama;
mod parts;
mod plan;
mod scan;
mod seen;
mod sweep;
#[cfg(test)]
mod tests;
mod totals;
mod verify;

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use serde::{Deserialize, Serialize};

use crate::config::VerifySettings;
use crate::error::{Error, Result};
use crate::model::{Model, ModelId, StoreKind, StoreSummary, text};
use crate::store::ollama::Server;
use crate::store::remembered::Remembered;
use crate::store::{Details, Part, Row, Store, Target};

use detect::Host;
pub use detect::stores;
pub use duplicates::{Duplicate, FileCopy, duplicates, mark_duplicates};
pub use idle::IdleModel;
pub use totals::Totals;

/// What a scan gives, as it goes.
#[derive(Clone, Debug, PartialEq)]
pub enum ScanEvent {
    /// A row, as soon as it is known.
    Row(Box<Row>),
    /// A store is done.
    Store(StoreSummary),
}

/// One row, or a part of it: to delete, to check.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PlanTarget {
    /// The row.
    pub model: ModelId,
    /// Which part.
    pub part: Part,
}

impl PlanTarget {
    /// All of a row.
    #[must_use]
    pub fn whole(model: ModelId) -> Self {
        Self { model, part: Part::Whole }
    }

    /// The row, or what part of it, as a screen names it; made printable.
    #[must_use]
    pub fn name(&self) -> String {
        let id = text::printable(&self.model.id);
        match &self.part {
            Part::Whole => id,
            Part::Quantization(label) => format!("{} of {id}", text::printable(label)),
            Part::Revision(commit) => {
                format!("revision {} of {id}", text::printable(commit).chars().take(10).collect::<String>())
            }
            Part::QuantizationOf { quantization, revision } => {
                let revision: String = text::printable(revision).chars().take(10).collect();
                format!("{} in revision {revision} of {id}", text::printable(quantization))
            }
            Part::Files(files) => format!("{} of {id}", text::printable(&files.join(", "))),
        }
    }
}

/// The stores of this host. Cheap to clone, and clones look at the same stores, whichever of them changed that; its methods
/// block on the disk, so call them on a blocking thread.
#[derive(Clone, Debug)]
pub struct Inventory {
    known: Arc<RwLock<Arc<Known>>>,
    /// How to find the stores of this host; `None` for a fixed set.
    host: Option<Arc<Host>>,
    protect: Arc<[String]>,
    seen: seen::Seen,
    /// How Ollama's server is asked.
    ollama: Option<Arc<dyn Server>>,
    memory: Remembered,
    pace: VerifySettings,
}

/// The stores, and what is to be said about them.
#[derive(Debug, Default)]
struct Known {
    stores: Arc<[Arc<dyn Store>]>,
    /// What the summary of a store says beside what it says itself.
    remarks: Vec<Remark>,
    /// What concerns no store: homes that could not be looked into.
    notes: Vec<String>,
    /// Whether the stores of every user are among them.
    everyone: bool,
}

/// A line about a store.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Remark {
    kind: StoreKind,
    root: PathBuf,
    line: String,
}

impl Inventory {
    /// The given stores; names on `protect` (ids, `STORE:ID`, `org/name`, with `*` for any text) are kept out of every
    /// plan.
    #[must_use]
    pub fn new(stores: Vec<Arc<dyn Store>>, protect: Vec<String>) -> Self {
        let known = Known { stores: stores.into(), ..Known::default() };
        Self {
            known: Arc::new(RwLock::new(Arc::new(known))),
            host: None,
            protect: protect.into(),
            seen: seen::Seen::default(),
            ollama: None,
            memory: Remembered::default(),
            pace: VerifySettings::default(),
        }
    }

    /// With another way to ask Ollama's server. The stores keep their own.
    #[must_use]
    pub fn with_ollama(self, server: Arc<dyn Server>) -> Self {
        Self { ollama: Some(server), ..self }
    }

    /// The stores, as they are now.
    #[must_use]
    pub fn stores(&self) -> Arc<[Arc<dyn Store>]> {
        Arc::clone(&self.known().stores)
    }

    fn known(&self) -> Arc<Known> {
        Arc::clone(&self.known.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn set_known(&self, known: Known) {
        *self.known.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(known);
    }

    /// What the store itself says about one row; nobody looks at the processes.
    ///
    /// # Errors
    /// [`Error::ModelNotFound`].
    pub fn contents(&self, model: &ModelId) -> Result<Details> {
        self.store(model)?.details(&model.id)
    }

    /// Everything about one row, with the processes that hold it.
    ///
    /// # Errors
    /// [`Error::ModelNotFound`].
    pub fn details(&self, model: &ModelId) -> Result<Details> {
        self.details_of(&PlanTarget::whole(model.clone()))
    }

    /// [`Self::details`] of a part of a row: its files, figures and headers.
    ///
    /// # Errors
    /// [`Error::ModelNotFound`]; [`Error::FileNotFound`] when the row has no such part.
    pub fn details_of(&self, target: &PlanTarget) -> Result<Details> {
        let store = self.store(&target.model)?;
        let in_store = Target { id: target.model.id.clone(), part: target.part.clone() };
        let mut details = store.details_of(&in_store)?;
        match &target.part {
            Part::Whole => parts::add(store.as_ref(), &mut details),
            part => parts::narrow(store.as_ref(), part, &mut details),
        }
        let inodes = self.add_evidence(&mut details);
        self.memory.refresh();
        self.recall(store.as_ref(), target.part.clone(), &mut details.model, inodes.into_iter());
        details.model.protected = self.is_protected(&details.model);
        Ok(details)
    }

    /// The store of a row.
    fn store(&self, model: &ModelId) -> Result<Arc<dyn Store>> {
        self.stores()
            .iter()
            .find(|store| store.kind() == model.store && store.root() == model.store_path)
            .cloned()
            .ok_or_else(|| Error::ModelNotFound { reference: model.to_string(), place: shown(&model.store_path) })
    }

    /// Whether a plan may not contain the row.
    fn is_protected(&self, model: &Model) -> bool {
        if self.protect.is_empty() {
            return false;
        }
        let full = model.identity.to_string();
        let mut names = vec![model.identity.id.clone(), full];
        names.extend(model.reference.clone());
        if model.identity.store == StoreKind::Flat {
            match model.identity.id.split_once('/') {
                // What names a group means every model in it.
                Some((group, _)) => names.extend([group.to_owned(), format!("{}:{group}", StoreKind::Flat)]),
                None => names.extend(self.folders_named(model)),
            }
        }
        self.protect.iter().any(|pattern| names.iter().any(|name| crate::model::matches_pattern(name, pattern)))
    }

    /// Folders in that of the model that may be rows at another time, as far as the protect list names one of its folders: a
    /// group with one model left may be told from a model no more.
    fn folders_named(&self, model: &Model) -> Vec<String> {
        let id = &model.identity.id;
        let start = format!("{id}/");
        let below = |pattern: &String| {
            let pattern = pattern.strip_prefix("flat:").unwrap_or(pattern);
            let (fixed, any) = pattern.split_once('*').map_or((pattern, false), |(fixed, _)| (fixed, true));
            fixed.starts_with(&start) || (any && start.starts_with(fixed))
        };
        if !self.protect.iter().any(below) {
            return Vec::new();
        }
        let entries = std::fs::read_dir(&model.path).into_iter().flatten().flatten();
        let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        let names = folders.map(|entry| format!("{id}/{}", text::escape(&entry.file_name())));
        names.flat_map(|name| [format!("{}:{name}", StoreKind::Flat), name]).collect()
    }
}

fn shown(path: &Path) -> String {
    text::printable_path(path)
}
