//! The work of each kind of job, done by the provisioner and the inventory.

mod convert;
mod delete;
mod download;
mod quiet;
mod room;
mod sweep;
mod verify;

use std::path::PathBuf;

use futures_util::future::BoxFuture;

use self::quiet::Traffic;
use self::room::Room;
use super::JobSpec;
use super::deletion_log::DeletionLog;
use super::home::Home;
use super::runner::{Done, Run, Runner};
use crate::error::{Error, Result};
use crate::provisioner::{Inventory, ModelProvisioner};
use crate::transfer::Options;

/// Does the work. Cheap to clone.
#[derive(Clone)]
pub(super) struct Performer {
    provisioner: ModelProvisioner,
    inventory: Inventory,
    transfer: Options,
    deletion_log: Option<DeletionLog>,
    /// The queue on disk, whose jobs go on with partial files.
    queue_file: Option<PathBuf>,
    room: Room,
    traffic: Traffic,
}

impl Performer {
    pub(super) fn new(
        provisioner: ModelProvisioner,
        inventory: Inventory,
        transfer: Options,
        deletion_log: Option<PathBuf>,
        queue_file: Option<PathBuf>,
    ) -> Self {
        let deletion_log = deletion_log.map(DeletionLog::new);
        Self {
            provisioner,
            inventory,
            transfer,
            deletion_log,
            queue_file,
            room: Room::default(),
            traffic: Traffic::default(),
        }
    }

    /// Whether downloads wait for what is missing instead of failing.
    fn waits(&self) -> bool {
        self.transfer.patience.is_none()
    }
}

impl Runner for Performer {
    fn run(&self, run: Run) -> BoxFuture<'static, Result<Done>> {
        let this = self.clone();
        Box::pin(async move {
            match &run.spec {
                JobSpec::Download(request) => this.fetch(request, &run).await,
                JobSpec::Convert(request) => this.convert(request.clone(), &run).await,
                JobSpec::Verify { models, quick } => this.verify(models.clone(), *quick, &run).await,
                JobSpec::Delete { plan, basis } => this.delete(plan.clone(), basis.clone(), &run).await,
                JobSpec::Sweep { plan, items } => this.sweep(plan.clone(), items.clone(), &run).await,
            }
        })
    }

    fn discard(&self, spec: JobSpec, home: Option<Home>) -> BoxFuture<'static, Result<()>> {
        // No hub is asked, so that another one's token is not needed.
        let provisioner = match home {
            None => self.provisioner.clone(),
            Some(home) => {
                let there = ModelProvisioner::builder(home.models_dir().to_owned())
                    .endpoint(home.endpoint())
                    .catalog(self.provisioner.catalog().clone());
                home.hf_cache().map_or(there.clone(), |cache| there.hf_cache(cache)).build()
            }
        };
        Box::pin(async move {
            match spec {
                JobSpec::Download(request) => provisioner.discard(&request).await,
                JobSpec::Verify { .. } | JobSpec::Delete { .. } | JobSpec::Sweep { .. } | JobSpec::Convert(_) => Ok(()),
            }
        })
    }

    fn set_limit(&self, limit: Option<u64>) {
        self.transfer.throttle.set_limit(limit);
    }
}

/// Runs `work` on a thread that may block; its panic goes on in the job.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => Ok(value),
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(Error::Cancelled),
        },
    }
}
