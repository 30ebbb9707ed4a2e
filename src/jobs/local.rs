//! The worker in this process.

use std::path::PathBuf;
use std::sync::Arc;

use super::{Control, JobId, JobSpec, Jobs, Subscription};
use crate::error::Result;
use crate::provisioner::{Inventory, ModelProvisioner};

/// How the worker works.
#[derive(Clone, Debug)]
pub struct LocalJobsOptions {
    /// Downloads at once; at least 1.
    pub downloads: usize,
    /// Bytes per second over all of them.
    pub limit: Option<u64>,
    /// The queue file; `None` keeps the queue in memory.
    pub queue_file: Option<PathBuf>,
    /// How long a download tries: a foreground command gives up, a queue waits.
    pub transfer: crate::transfer::Options,
}

/// Runs jobs as tasks of the tokio runtime that it is made in. Cheap to clone. Dropping the last one cancels the tasks.
#[derive(Clone, Debug)]
pub struct LocalJobs {
    _inner: Arc<()>,
}

impl LocalJobs {
    /// Starts the worker and brings back the downloads of the queue file.
    #[must_use]
    pub fn start(_provisioner: ModelProvisioner, _inventory: Inventory, _options: LocalJobsOptions) -> Self {
        todo!()
    }

    /// Stops every job, keeps partials and places in the queue file, and waits until all is synced.
    pub async fn shut_down(&self) {
        todo!()
    }
}

impl Jobs for LocalJobs {
    fn submit(&self, _spec: JobSpec) -> Result<JobId> {
        todo!()
    }

    fn control(&self, _job: JobId, _control: Control) -> Result<()> {
        todo!()
    }

    fn clear(&self) {
        todo!()
    }

    fn set_limit(&self, _limit: Option<u64>) {
        todo!()
    }

    fn subscribe(&self) -> Subscription {
        todo!()
    }
}
