//! What a download has still to write, asked again and again while it runs.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::destination::Place;
use super::{DownloadPlan, ModelProvisioner};
use crate::error::Result;
use crate::model::RemoteFile;
use crate::transfer::EventSink;

/// Counts the bytes of a download that have no place on the disk yet. Cheap to clone.
#[derive(Clone)]
pub struct Outstanding {
    place: Arc<dyn Place>,
    files: Arc<[RemoteFile]>,
}

impl Outstanding {
    /// A folder on the file system that the bytes go to.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.place.folder()
    }

    /// Bytes for which blocks have still to be found: files that are there and blocks that partials hold already need none.
    /// Blocks on the disk; no byte is read.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| self.lacking(file)).fold(0, u64::saturating_add)
    }

    fn lacking(&self, file: &RemoteFile) -> u64 {
        if self.place.is_there(file) {
            return 0;
        }
        let held = fs::symlink_metadata(self.place.staging(file).partial)
            .map_or(0, |found| if found.is_file() { found.blocks().saturating_mul(512) } else { 0 });
        file.size.saturating_sub(held)
    }
}

impl ModelProvisioner {
    /// What of `plan` has still to be written.
    ///
    /// # Errors
    /// When the destination or the hub is not configured.
    pub fn outstanding(&self, plan: &DownloadPlan) -> Result<Outstanding> {
        let silent: EventSink = Arc::new(|_| {});
        let place = self.place(plan, &silent, CancellationToken::new())?;
        let files = if plan.whole { Arc::default() } else { plan.files.clone().into() };
        Ok(Outstanding { place, files })
    }
}
