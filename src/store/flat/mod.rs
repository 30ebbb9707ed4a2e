//! The flat store: one folder a model under a base folder.

pub mod record;
pub mod sidecar;
pub mod staging;
pub mod tree;

use std::path::{Path, PathBuf};

use tokio_util::sync::CancellationToken;

pub use record::{Record, RecordedFile};

use super::verify::Expected;
use super::{Details, Part, Row, Store, Target};
use crate::error::Result;
use crate::model::{ModelFile, Plan, Reference, StoreKind, StoreSummary};

/// A catalog entry as far as this store needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alias {
    /// The short name.
    pub alias: String,
    /// `org/name`.
    pub repository: String,
    /// Its file, by the path in the repository (which is the path in the folder).
    pub file: String,
    /// The folder that new downloads go to.
    pub folder: String,
    /// Folders in which earlier tools kept the file.
    pub former_folders: Vec<String>,
}

/// What a reference means here now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// The folder, absolute. The base folder itself for a weights file that lies directly in it.
    pub folder: PathBuf,
    /// Id of the row.
    pub id: String,
    /// Which part of the row is meant.
    pub part: Part,
    /// The folder's record, if it has one.
    pub record: Option<Record>,
}

/// A base folder with one folder a model.
#[derive(Clone, Debug)]
pub struct FlatStore {
    root: PathBuf,
    aliases: Vec<Alias>,
}

impl FlatStore {
    /// The store under `root`, which need not exist. Links on the way to `root` are resolved once, here.
    #[must_use]
    pub fn new(root: PathBuf, aliases: Vec<Alias>) -> Self {
        Self { root, aliases }
    }

    /// What `reference` means here now; `None` when that is not here.
    ///
    /// # Errors
    /// [`crate::Error::Ambiguous`] when several folders are equally meant, [`crate::Error::Io`] when the base folder cannot be read.
    pub fn resolve(&self, _reference: &Reference) -> Result<Option<Resolved>> {
        todo!()
    }

    /// The folder that a download of `repository` by `reference` goes to: where the reference's files are already, else the
    /// alias's folder, else the last part of the repository's name in lower case, else `org--name`. Never one that belongs to
    /// another repository. It may not exist yet.
    ///
    /// # Errors
    /// [`crate::Error::Io`] when the base folder cannot be read; [`crate::Error::UnsafePath`] when every candidate is taken.
    pub fn target_folder(&self, _reference: &Reference, _repository: &str) -> Result<PathBuf> {
        todo!()
    }

    /// The files that are meant, weights first, then by path; every depth, dot-folders skipped.
    ///
    /// # Errors
    /// [`crate::Error::Io`] when the folder cannot be read.
    pub fn files(&self, _resolved: &Resolved) -> Result<Vec<ModelFile>> {
        todo!()
    }

    /// What [`super::verify::run`] is to check of a row or a part of it, missing files included.
    ///
    /// # Errors
    /// [`crate::Error::ModelNotFound`] when there is no such row.
    pub fn expected(&self, _target: &Target) -> Result<Vec<Expected>> {
        todo!()
    }
}

impl Store for FlatStore {
    fn kind(&self) -> StoreKind {
        StoreKind::Flat
    }

    fn root(&self) -> &Path {
        &self.root
    }

    fn scan(&self, _sink: &mut dyn FnMut(Row), _cancel: &CancellationToken) -> StoreSummary {
        let _ = &self.aliases;
        todo!()
    }

    fn details(&self, _id: &str) -> Result<Details> {
        todo!()
    }

    fn plan_deletion(&self, _targets: &[Target]) -> Result<Plan> {
        todo!()
    }

    fn find(&self, reference: &Reference) -> Result<Option<Target>> {
        Ok(self.resolve(reference)?.map(|resolved| Target { id: resolved.id, part: resolved.part }))
    }

    fn expected(&self, target: &Target) -> Result<Vec<Expected>> {
        Self::expected(self, target)
    }
}
