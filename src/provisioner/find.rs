//! `find_local_model`: from a reference to the file that a server loads.

use std::io::ErrorKind;
use std::path::PathBuf;

use tokio_util::sync::CancellationToken;

use super::ModelProvisioner;
use crate::error::{Error, Result};
use crate::hub::CatalogEntry;
use crate::model::selection::{missing_shards, principal};
use crate::model::{FileName, FileStatus, ModelFile, ModelId, Reference, Role, StoreKind};
use crate::store::verify::{self, Depth};
use crate::store::{Store, Target};

impl ModelProvisioner {
    /// The file to load: the first shard or file by name, never a sidecar or a middle shard; `:QUANT` is respected. For
    /// safetensors the index or the first file. `None` when the model is not here, has no weights, or `reference` is none.
    #[must_use]
    pub fn find_local_model(&self, reference: &str) -> Option<PathBuf> {
        let resolved = self.resolve(reference).ok()?;
        let files = self.store().files(&resolved).ok()?;
        loadable(&files).map(|file| file.absolute.clone())
    }

    /// [`Self::find_local_model`] that tells why there is none.
    ///
    /// # Errors
    /// [`crate::Error::InvalidReference`], [`crate::Error::ModelNotFound`] (also for a model without weights that can be
    /// loaded), [`crate::Error::Ambiguous`], [`crate::Error::Io`].
    pub fn find_model_file(&self, reference: &str) -> Result<PathBuf> {
        let resolved = self.resolve(reference)?;
        let files = self.store().files(&resolved)?;
        loadable(&files).map(|file| file.absolute.clone()).ok_or_else(|| self.not_found(reference))
    }

    /// Whether the file of a catalog entry is here, with every shard of its set, and as long as its record and its header say. Another model in the entry's folder
    /// does not count.
    ///
    /// # Errors
    /// [`crate::Error::Io`] when the base folder cannot be read.
    pub fn is_installed(&self, entry: &CatalogEntry) -> Result<bool> {
        let resolved = match self.store().resolve(&Reference::parse(&entry.alias)?) {
            // A base folder below a file cannot be there.
            Err(Error::Io { source, .. }) if source.kind() == ErrorKind::NotADirectory => return Ok(false),
            other => other?,
        };
        let Some(resolved) = resolved else { return Ok(false) };
        let files = self.store().files(&resolved)?;
        let is_entry = |file: &ModelFile| file.path == entry.file;
        let complete = || missing_shards(files.iter().map(|file| file.path.as_str())).is_empty();
        if !files.iter().any(is_entry) || !complete() {
            return Ok(false);
        }
        let target = Target { id: resolved.id.clone(), part: resolved.part.clone() };
        let model = ModelId { store: StoreKind::Flat, store_path: self.store().root().to_owned(), id: resolved.id };
        let expected: Vec<_> =
            self.store().expected(&target)?.into_iter().filter(|file| file.path == entry.file).collect();
        let never = CancellationToken::new();
        let found = verify::run(&model, self.store().root(), &expected, Depth::Quick, &mut |_| (), &never)?;
        let wrong_size = |file: &ModelFile| {
            is_entry(file) && expected.iter().any(|known| known.size.is_some_and(|size| size != file.size_bytes))
        };
        Ok(!files.iter().any(wrong_size) && !found.files.iter().any(|file| file.status == FileStatus::Truncated))
    }
}

/// The file that a loader is given, if there are weights at all and their set begins here.
pub(super) fn loadable(files: &[ModelFile]) -> Option<&ModelFile> {
    let has_weights = files.iter().any(|file| {
        let name = FileName::parse(file.path.rsplit('/').next().unwrap_or(&file.path));
        matches!(file.role, Role::Weights | Role::Shard) && name.shard().is_none_or(|shard| shard.is_first())
    });
    // What lies beside weights may have the name of some.
    let is_sidecar = |file: &&ModelFile| {
        file.path.to_ascii_lowercase().ends_with(".gguf") && !matches!(file.role, Role::Weights | Role::Shard)
    };
    let paths = files.iter().filter(|file| !is_sidecar(file)).map(|file| file.path.as_str());
    let path = principal(paths).filter(|_| has_weights)?;
    files.iter().find(|file| file.path == path)
}
