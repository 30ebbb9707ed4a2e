//! Downloads: one, and several at once.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::builder::join;
use super::convert::OutputSink;
use super::destination::{FlatDestination, HfDestination, Place, discard_partials_of};
use super::source::HubSource;
use super::{DestinationKind, DownloadPlan, DownloadRequest, Downloaded, ModelProvisioner};
use crate::error::{Error, Result};
use crate::model::selection::principal;
use crate::store::Store;
use crate::transfer::{self, Destination, EventSink, Options, Request, Source, TransferEvent};

impl ModelProvisioner {
    /// Fetches a model and gives its first shard, its GGUF, or for safetensors the index or the first file. What is there
    /// already is not fetched again; what an earlier try left is continued.
    ///
    /// # Errors
    /// [`Error::UnknownProvider`] for anything but "hf"; [`Error::InvalidReference`]; and what [`Self::plan_download`] and
    /// [`Self::download`] say.
    pub async fn download_model(&self, reference: &str, provider: &str) -> Result<PathBuf> {
        if provider != "hf" {
            return Err(Error::UnknownProvider { provider: crate::model::text::printable(provider) });
        }
        let request = DownloadRequest::new(reference);
        let entry = self.conversion_of(&request).cloned();
        if let Some(entry) = &entry {
            // Nobody waits for gigabytes to hear that they cannot be used.
            self.converter_of(entry)?;
        }
        let plan = self.plan_download(&request).await?;
        let silent: EventSink = Arc::new(|_| {});
        let cancel = CancellationToken::new();
        let done = self.download(&plan, self.transfer_options(), &silent, &cancel).await?;
        let Some(entry) = entry else { return Ok(done.path) };
        let conversion = self.conversion_of_download(&entry, &plan)?;
        self.blocking(move |this| {
            let silent: OutputSink = Arc::new(|_| {});
            this.convert(&conversion, &silent, &cancel).map(|converted| converted.path)
        })
        .await
    }

    /// Fetches what `plan` says. Each file appears under its name only when it is whole and its checksum is right;
    /// cancelling keeps what is there of the rest for the next time.
    ///
    /// # Errors
    /// Those of the hub and of the transfer: [`Error::NoSpace`] before anything is written, [`Error::Unreachable`] when
    /// trying again did not help, [`Error::ChecksumMismatch`], [`Error::Occupied`], [`Error::Cancelled`], …
    pub async fn download(
        &self,
        plan: &DownloadPlan,
        options: &Options,
        events: &EventSink,
        cancel: &CancellationToken,
    ) -> Result<Downloaded> {
        if plan.whole {
            if plan.request.to == DestinationKind::Flat {
                let targets: Vec<PathBuf> = plan.files.iter().map(|file| file.path.below(&plan.folder)).collect();
                let swept = tokio::task::spawn_blocking(move || discard_partials_of(&targets));
                if let Err(error) = swept.await {
                    tracing::warn!("looking for old partials failed: {error}");
                }
            }
            return Ok(tell_whole(plan, events));
        }
        let hub = self.hub()?;
        let request = Request {
            endpoint: hub.endpoint().to_owned(),
            repository: plan.repository.id.clone(),
            commit: plan.repository.commit.clone(),
            files: plan.files.clone(),
        };
        let source: Arc<dyn Source> = Arc::new(HubSource::new(hub, &plan.repository));
        let place = self.place(plan, events, cancel.child_token())?;
        let destination: Arc<dyn Destination> = Arc::<dyn Place>::clone(&place);
        let outcome = match transfer::run(&request, &source, &destination, options, events, cancel).await {
            Ok(outcome) => outcome,
            Err(error) => {
                let changed = place.has_changed();
                if changed {
                    let settled = Arc::clone(&place);
                    if let Ok(Err(error)) = tokio::task::spawn_blocking(move || settled.settle()).await {
                        tracing::warn!("the record stays behind: {error}");
                    }
                }
                // Locks go with it.
                drop((destination, place));
                if changed {
                    self.leave_no_empty_folder(plan).await;
                }
                return Err(error);
            }
        };
        Ok(Downloaded { path: first_path(plan), paths: outcome.paths, fetched: outcome.fetched })
    }

    /// Where the files of `plan` go.
    pub(super) fn place(
        &self,
        plan: &DownloadPlan,
        events: &EventSink,
        cancel: CancellationToken,
    ) -> Result<Arc<dyn Place>> {
        let endpoint = self.hub()?.endpoint().to_owned();
        Ok(match plan.request.to {
            DestinationKind::Hf => {
                let writer = self.hf_writer(&plan.repository.id)?;
                Arc::new(HfDestination::new(writer, &endpoint, plan, self.memory(), events, cancel))
            }
            DestinationKind::Flat => {
                Arc::new(FlatDestination::new(self.store().root(), &endpoint, plan, self.memory(), cancel))
            }
        })
    }

    /// Plans and fetches several models, at most `parallel` at once (at least one). The results are in the order of
    /// `requests`; one that fails does not stop the others. `events` gets the index of the request with each event.
    pub async fn download_many(
        &self,
        requests: &[DownloadRequest],
        parallel: usize,
        options: &Options,
        events: Arc<dyn Fn(usize, TransferEvent) + Send + Sync>,
        cancel: &CancellationToken,
    ) -> Vec<Result<Downloaded>> {
        let slots = Arc::new(Semaphore::new(parallel.max(1)));
        let mut tasks = JoinSet::new();
        for (index, request) in requests.iter().cloned().enumerate() {
            let (this, slots, events) = (self.clone(), Arc::clone(&slots), Arc::clone(&events));
            let (options, cancel) = (options.clone(), cancel.clone());
            tasks.spawn(async move {
                let sink: EventSink = Arc::new(move |event| events(index, event));
                let work = async {
                    // The semaphore is never closed.
                    let _slot = slots.acquire().await.map_err(|_| Error::Cancelled)?;
                    if cancel.is_cancelled() {
                        return Err(Error::Cancelled);
                    }
                    let plan = this.plan_download(&request).await?;
                    this.download(&plan, &options, &sink, &cancel).await
                };
                (index, work.await)
            });
        }
        let mut results: Vec<Result<Downloaded>> = requests.iter().map(|_| Err(Error::Cancelled)).collect();
        while let Some(ended) = tasks.join_next().await {
            if let Ok((index, result)) = join(ended.map(Ok))
                && let Some(place) = results.get_mut(index)
            {
                *place = result;
            }
        }
        results
    }
}

fn first_path(plan: &DownloadPlan) -> PathBuf {
    let first = principal(plan.files.iter().map(|file| file.path.as_str()));
    let base = plan.base();
    first.map_or_else(|| base.clone(), |path| base.join(path))
}

fn tell_whole(plan: &DownloadPlan, events: &EventSink) -> Downloaded {
    events(TransferEvent::Started {
        files: plan.files.iter().map(|file| (file.path.clone(), file.size)).collect(),
        total: plan.total,
    });
    let base = plan.base();
    let mut paths = Vec::with_capacity(plan.files.len());
    for file in &plan.files {
        let path = file.path.below(&base);
        events(TransferEvent::FileFinished { file: file.path.clone(), path: path.clone(), fetched: 0 });
        paths.push(path);
    }
    Downloaded { path: first_path(plan), paths, fetched: 0 }
}
