//! `verify_model` with its three quick checks, and the deep check beside it.

use tokio_util::sync::CancellationToken;

use super::ModelProvisioner;
use super::info::{gguf_files, shown};
use crate::error::{Error, Result};
use crate::model::{ModelId, StoreKind, Verification};
use crate::store::verify::{self, Depth, Options, Progress, Task};
use crate::store::{Part, Store, Target};

impl ModelProvisioner {
    /// Checks that the model's folder exists, that it has GGUF files, and that none of them is empty. It reads no
    /// content: [`Self::verify_checksums`] does.
    ///
    /// # Errors
    /// [`Error::ModelNotFound`]; [`Error::Damaged`] with "No .gguf files …" or "Empty .gguf file …".
    pub fn verify_model(&self, reference: &str) -> Result<()> {
        let resolved = self.resolve(reference)?;
        let files = self.store().files(&resolved)?;
        let mut gguf = gguf_files(&files).peekable();
        if gguf.peek().is_none() {
            return Err(Error::Damaged(format!("No .gguf files found in {}", shown(&resolved.folder))));
        }
        match gguf.find(|file| file.size_bytes == 0) {
            Some(empty) => Err(Error::Damaged(format!("Empty .gguf file: {}", shown(&empty.absolute)))),
            None => Ok(()),
        }
    }

    /// Checks every file of the model against its recorded length and digest and against what its header says of its
    /// length; reads every byte that has a digest. What is wrong is in the result, not an error.
    ///
    /// # Errors
    /// [`Error::ModelNotFound`], [`Error::InvalidReference`], [`Error::Cancelled`].
    pub fn verify_checksums(
        &self,
        reference: &str,
        progress: &mut dyn FnMut(Progress<'_>),
        cancel: &CancellationToken,
    ) -> Result<Verification> {
        let resolved = self.resolve(reference)?;
        let store = self.store();
        let model = ModelId { store: StoreKind::Flat, store_path: store.root().to_owned(), id: resolved.id.clone() };
        let whole = !matches!(resolved.part, Part::Files(_));
        let files = store.expected(&Target { id: resolved.id, part: resolved.part })?;
        let task = Task { model, root: store.root().to_owned(), files, whole };
        self.memory().refresh();
        let options = Options { memory: self.memory().clone(), ..Options::new(Depth::Full) };
        verify::one(task, &options, progress, cancel)
    }
}
