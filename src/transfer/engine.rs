//! Runs a request: file by file, from staging to publication.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::partial::held;
use super::receive::now;
use super::retry::Budget;
use super::{Destination, EventSink, RetryPolicy, Source, Throttle, TransferEvent, file};
use crate::disk::space::space;
use crate::error::{Error, Result};
use crate::model::RemoteFile;

/// Files of one repository at one commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Base address of the hub; part of what a partial file belongs to.
    pub endpoint: String,
    /// `org/name`.
    pub repository: String,
    /// The commit.
    pub commit: String,
    /// What to fetch, in this order.
    pub files: Vec<RemoteFile>,
}

/// How to fetch.
#[derive(Clone, Debug)]
pub struct Options {
    /// The speed limit. Everything that holds a clone of the same one shares its bytes per second, and
    /// [`Throttle::set_limit`] changes it while transfers run.
    pub throttle: Throttle,
    /// Give up when no first byte arrived for so long; `None` never gives up. A foreground command has a bound here,
    /// a queue has none.
    pub first_byte: Option<Duration>,
    /// A connection without a byte for so long is dropped and opened again.
    pub stall: Duration,
    /// After the first byte: give up after failing for so long without progress; `None` never gives up.
    pub patience: Option<Duration>,
    /// Pauses between tries.
    pub retry: RetryPolicy,
}

impl Default for Options {
    /// What a foreground command does: no limit, 30 s for the first byte, then 10 minutes of patience.
    fn default() -> Self {
        Self {
            throttle: Throttle::default(),
            first_byte: Some(Duration::from_secs(30)),
            stall: Duration::from_secs(20),
            patience: Some(Duration::from_secs(600)),
            retry: RetryPolicy::default(),
        }
    }
}

/// What a transfer did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// The published files, in the order of the request.
    pub paths: Vec<PathBuf>,
    /// Bytes that came over the network.
    pub fetched: u64,
}

/// Fetches every file of `request` that `destination` does not have yet.
///
/// Space is checked first. Each file is put together in its staging place while its journal says which ranges are
/// synced; a later run of the same request continues there. It is published only when its checksum is right.
///
/// # Errors
/// [`Error::Cancelled`] keeps the partial. [`Error::NoSpace`] before anything is written, or when the disk fills
/// (the partial is kept). [`Error::ChecksumMismatch`] after a second fetch was wrong too (the partial is removed).
pub async fn run(
    request: &Request,
    source: &Arc<dyn Source>,
    destination: &Arc<dyn Destination>,
    options: &Options,
    events: &EventSink,
    cancel: &CancellationToken,
) -> Result<Outcome> {
    let budget = Budget::new(options.first_byte, options.patience, now());
    let mut run = Run { request, source, destination, options, events, cancel, budget, fetched: 0 };
    run.tell(TransferEvent::Started {
        files: request.files.iter().map(|file| (file.path.clone(), file.size)).collect(),
        total: request.files.iter().fold(0, |total, file| total.saturating_add(file.size)),
    });
    let present = run.look().await?;
    run.check_space(&present).await?;

    let mut paths = Vec::with_capacity(request.files.len());
    for (file, there) in request.files.iter().zip(present) {
        if cancel.is_cancelled() {
            return Err(Error::Cancelled);
        }
        match there {
            Some(path) => {
                run.tell(TransferEvent::FileFinished { file: file.path.clone(), path: path.clone(), fetched: 0 });
                paths.push(path);
            }
            None => paths.push(file::fetch(&mut run, file).await?),
        }
    }
    let (finished, files) = (Arc::clone(destination), request.files.clone());
    run.blocking(move || finished.finish(&files)).await?;
    Ok(Outcome { paths, fetched: run.fetched })
}

/// A request while it runs.
pub(super) struct Run<'a> {
    pub(super) request: &'a Request,
    pub(super) source: &'a Arc<dyn Source>,
    pub(super) destination: &'a Arc<dyn Destination>,
    pub(super) options: &'a Options,
    pub(super) events: &'a EventSink,
    pub(super) cancel: &'a CancellationToken,
    pub(super) budget: Budget,
    /// Bytes that came over the network.
    pub(super) fetched: u64,
}

impl Run<'_> {
    pub(super) fn tell(&self, event: TransferEvent) {
        (self.events)(event);
    }

    /// Runs work that blocks on the disk on a thread that may block.
    pub(super) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        match tokio::task::spawn_blocking(work).await {
            Ok(result) => result,
            Err(error) if error.is_cancelled() => Err(Error::Cancelled),
            Err(_) => Err(Error::io("work on", self.destination.folder())(io::Error::other("a task panicked"))),
        }
    }

    /// Which files are there already; what a former run left of those is removed.
    async fn look(&self) -> Result<Vec<Option<PathBuf>>> {
        let (destination, cancel) = (Arc::clone(self.destination), self.cancel.clone());
        let files = self.request.files.clone();
        self.blocking(move || {
            let mut present = Vec::with_capacity(files.len());
            for file in &files {
                if cancel.is_cancelled() {
                    return Err(Error::Cancelled);
                }
                let path = destination.present(file)?;
                if path.is_some()
                    && let Err(error) = file::discard(&destination.staging(file))
                {
                    // Whoever works on it will see that it is there; what cannot be removed harms no one.
                    tracing::warn!("a partial of {} stays behind: {error}", file.path);
                }
                present.push(path);
            }
            Ok(present)
        })
        .await
    }

    /// Fails when what is missing does not fit on the disk.
    async fn check_space(&self, present: &[Option<PathBuf>]) -> Result<()> {
        let destination = Arc::clone(self.destination);
        let missing: Vec<RemoteFile> = self
            .request
            .files
            .iter()
            .zip(present)
            .filter(|(_, there)| there.is_none())
            .map(|(file, _)| file.clone())
            .collect();
        self.blocking(move || {
            let lacking = |file: &RemoteFile| file.size - held(&destination.staging(file), file.size);
            let needed = missing.iter().map(lacking).fold(0, u64::saturating_add);
            if needed == 0 {
                return Ok(());
            }
            let available = space(destination.folder())?.available;
            if needed > available {
                return Err(Error::NoSpace { path: destination.folder().to_owned(), needed, available });
            }
            Ok(())
        })
        .await
    }
}
