//! The worker in this process.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use super::home::Home;
use super::perform::Performer;
use super::queue_file::{Opened, QueueFile};
use super::runner::Runner;
use super::worker::Worker;
use super::{Control, JobId, JobSpec, Jobs, Subscription};
use crate::error::Result;
use crate::provisioner::{Inventory, ModelProvisioner};
use crate::store::Store;

/// How the worker works.
#[derive(Clone, Debug)]
pub struct LocalJobsOptions {
    /// Downloads at once; at least 1.
    pub downloads: usize,
    /// Bytes per second over all of them, where the queue file has no limit that a person chose.
    pub limit: Option<u64>,
    /// The queue file; `None` keeps the queue in memory.
    pub queue_file: Option<PathBuf>,
    /// The file in which every deletion is noted: what went, where it came from, its checksum. `None` notes nothing.
    pub deletion_log: Option<PathBuf>,
    /// How a download tries. With [`crate::transfer::Options::patience`] it fails when that is used up, or when there is
    /// no room; without, it waits for what is missing and says for what.
    pub transfer: crate::transfer::Options,
}

/// Runs jobs as tasks of the tokio runtime that it is made in. Cheap to clone. Dropping the last one cancels the tasks.
///
/// At most [`LocalJobsOptions::downloads`] downloads run at once, the rest waits in order. Verifications and deletions run
/// beside them on blocking threads: one verification at a time, one deletion at a time in each store.
#[derive(Clone)]
pub struct LocalJobs {
    handle: Arc<Handle>,
}

struct Handle(Arc<Worker>);

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.stop();
    }
}

impl fmt::Debug for LocalJobs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalJobs").finish_non_exhaustive()
    }
}

impl LocalJobs {
    /// Starts the worker and brings back the downloads of the queue file.
    ///
    /// What waited or ran goes on by itself: a person asked for it, and a lost connection is no reason to ask again.
    /// What was paused stays paused. A download that was asked for with another models folder or hub stays in the file and
    /// does not run: it is paused, and says why. What is wrong with the queue file is a warning in the snapshot.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    #[must_use]
    pub fn start(provisioner: ModelProvisioner, inventory: Inventory, options: LocalJobsOptions) -> Self {
        let LocalJobsOptions { downloads, limit, queue_file, deletion_log, transfer } = options;
        let cache = provisioner.hf_store().ok().map(Store::root);
        let home = Home::new(provisioner.store().root(), provisioner.endpoint()).with_hf_cache(cache);
        let runner = Performer::new(provisioner, inventory, transfer, deletion_log, queue_file.clone());
        Self::with_runner(Arc::new(runner), downloads, limit, queue_file, Some(home))
    }

    fn with_runner(
        runner: Arc<dyn Runner>,
        downloads: usize,
        limit: Option<u64>,
        queue_file: Option<PathBuf>,
        home: Option<Home>,
    ) -> Self {
        let Opened { file, saved, warnings } = queue_file.map(|path| QueueFile::open(&path, home)).unwrap_or_default();
        let worker = Worker::start(runner, downloads, limit, file, saved, warnings);
        Self { handle: Arc::new(Handle(worker)) }
    }

    /// Stops every job, keeps partials and places in the queue file, and waits until all is synced.
    pub async fn shut_down(&self) {
        self.handle.0.shut_down().await;
    }
}

impl Jobs for LocalJobs {
    fn submit(&self, spec: JobSpec) -> Result<JobId> {
        self.handle.0.submit(spec)
    }

    fn control(&self, job: JobId, control: Control) -> Result<()> {
        self.handle.0.control(job, control)
    }

    fn clear(&self) {
        self.handle.0.clear();
    }

    fn set_limit(&self, limit: Option<u64>) {
        self.handle.0.set_limit(limit);
    }

    fn subscribe(&self) -> Subscription {
        self.handle.0.subscribe()
    }
}

#[cfg(test)]
mod tests;
