//! `ModelProvisioner` and how one is made.

use std::path::{Path, PathBuf};

use tokio_util::sync::CancellationToken;

use super::{DownloadPlan, DownloadRequest, Downloaded};
use crate::error::Result;
use crate::hub::{Catalog, HubClient};
use crate::transfer::{EventSink, Options};

/// What a model takes, and its GGUF files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelInfo {
    /// The reference as given.
    pub reference: String,
    /// The folder that it lies in.
    pub model_dir: PathBuf,
    /// Bytes of its files, bookkeeping left out.
    pub total_size: i64,
    /// Number of its files, bookkeeping left out.
    pub file_count: usize,
    /// Its GGUF files, sorted.
    pub gguf_files: Vec<PathBuf>,
}

/// Makes a [`ModelProvisioner`]; reads nothing from the environment.
#[derive(Clone, Debug)]
pub struct Builder {
    _base_dir: PathBuf,
}

/// Models under one base folder, and the hub that they come from. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ModelProvisioner {
    _base_dir: PathBuf,
}

impl ModelProvisioner {
    /// The checksums, files and place of what `request` would fetch. Nothing is written.
    ///
    /// # Errors
    /// As [`Self::download`], before the first byte.
    pub async fn plan_download(&self, _request: &DownloadRequest) -> Result<DownloadPlan> {
        todo!()
    }

    /// Fetches what `plan` says.
    ///
    /// # Errors
    /// Those of the hub and of the transfer.
    pub async fn download(
        &self,
        _plan: &DownloadPlan,
        _options: &Options,
        _events: &EventSink,
        _cancel: &CancellationToken,
    ) -> Result<Downloaded> {
        todo!()
    }

    /// Removes what an unfinished download of `request` has left on disk. Nothing there is no error.
    ///
    /// # Errors
    /// As [`Self::plan_download`]; [`crate::Error::Locked`] while a transfer works on it.
    pub async fn discard(&self, _request: &DownloadRequest) -> Result<()> {
        todo!()
    }

    /// The base folder.
    #[must_use]
    pub fn base_dir(&self) -> &Path {
        todo!()
    }

    /// The hub client.
    ///
    /// # Errors
    /// When the endpoint is no address.
    pub fn hub(&self) -> Result<HubClient> {
        todo!()
    }

    /// The catalog.
    #[must_use]
    pub fn catalog(&self) -> &Catalog {
        todo!()
    }
}
