//! Runs a request: which files when, from staging to publication.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::batch::Batch;
use super::connections::{Permit, Route, origin};
use super::partial::held;
use super::retry::{Budget, now};
use super::small::Desk;
use super::throttle::Lane;
use super::{Connections, Courtesy, Destination, EventSink, RetryPolicy, Source, Throttle, TransferEvent, file, small};
use crate::disk::space::space;
use crate::error::{Error, Result};
use crate::model::{Digest, RemoteFile};

/// Small files that wait for the disk while others are fetched.
const BESIDE: usize = 64;

/// Files of one repository at one commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Base address of the hub; part of what a partial file belongs to.
    pub endpoint: String,
    /// `org/name`.
    pub repository: String,
    /// The commit.
    pub commit: String,
    /// What to fetch. The largest is fetched first, small ones beside it.
    pub files: Vec<RemoteFile>,
}

/// How to fetch.
#[derive(Clone, Debug)]
pub struct Options {
    /// The speed limit. Everything that holds a clone of the same one shares its bytes per second, and
    /// [`Throttle::set_limit`] changes it while transfers run.
    pub throttle: Throttle,
    /// How many connections there are at most. Everything that holds a clone of the same one shares them; how many of
    /// them a file gets is found out while it is fetched.
    pub connections: Connections,
    /// Leaves the link to others while it fills up; none takes what there is. Shared as `throttle` is.
    pub courtesy: Option<Courtesy>,
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
    /// What a foreground command does: no limit, at most eight connections, 30 s for the first byte, then 10 minutes of patience.
    fn default() -> Self {
        Self {
            throttle: Throttle::default(),
            connections: Connections::default(),
            courtesy: None,
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
    let stop = cancel.child_token();
    let run = Run {
        request,
        source,
        destination,
        options,
        events,
        cancel: &stop,
        arrived: AtomicBool::new(false),
        fetched: AtomicU64::new(0),
        slowest: AtomicU64::new(0),
        elsewhere: Mutex::default(),
        lanes: (options.throttle.lane(), options.courtesy.as_ref().map(|courtesy| courtesy.throttle().lane())),
    };
    run.tell(TransferEvent::Started {
        files: request.files.iter().map(|file| (file.path.clone(), file.size)).collect(),
        total: request.files.iter().fold(0, |total, file| total.saturating_add(file.size)),
    });
    let present = run.look().await?;
    run.check_space(&present).await?;
    let paths = run.all(present).await?;
    let (finished, files) = (Arc::clone(destination), request.files.clone());
    run.blocking(move || finished.finish(&files)).await?;
    Ok(Outcome { paths, fetched: run.fetched.load(Ordering::Relaxed) })
}

/// Whether a hub keeps the file in a store of its own: those are known by another checksum than what git keeps.
fn is_stored(file: &RemoteFile) -> bool {
    matches!(file.digest, Some(Digest::Sha256(_)))
}

/// Who refused bytes other than the endpoint.
#[derive(Default)]
struct Elsewhere {
    /// Of files that lie in a store of their own.
    stored: Option<Arc<str>>,
    /// Of those that do not.
    plain: Option<Arc<str>>,
}

impl Elsewhere {
    fn of(&mut self, file: &RemoteFile) -> &mut Option<Arc<str>> {
        if is_stored(file) { &mut self.stored } else { &mut self.plain }
    }
}

/// A request while it runs.
pub(super) struct Run<'a> {
    pub(super) request: &'a Request,
    pub(super) source: &'a Arc<dyn Source>,
    pub(super) destination: &'a Arc<dyn Destination>,
    pub(super) options: &'a Options,
    pub(super) events: &'a EventSink,
    /// Cancelled by the caller, or because a file failed.
    pub(super) cancel: &'a CancellationToken,
    /// Whether a byte has arrived, of whatever file.
    arrived: AtomicBool,
    /// Bytes that came over the network.
    fetched: AtomicU64,
    /// The longest that an answer took, in milliseconds.
    slowest: AtomicU64,
    elsewhere: Mutex<Elsewhere>,
    /// Its shares in the speed limit and in what courtesy leaves.
    lanes: (Lane, Option<Lane>),
}

impl Run<'_> {
    pub(super) fn tell(&self, event: TransferEvent) {
        (self.events)(event);
    }

    /// How long a file may fail.
    pub(super) fn budget(&self) -> Budget {
        Budget::new(self.options.first_byte, self.options.patience, now())
    }

    /// Works on the budget of a file, with what others have found out.
    pub(super) fn with_budget<T>(&self, budget: &Mutex<Budget>, work: impl FnOnce(&mut Budget) -> T) -> T {
        let mut budget = budget.lock().unwrap_or_else(PoisonError::into_inner);
        if self.arrived.load(Ordering::Relaxed) {
            budget.arrives();
        }
        work(&mut budget)
    }

    /// A byte has arrived.
    pub(super) fn has_arrived(&self) {
        self.arrived.store(true, Ordering::Relaxed);
    }

    /// Which servers the next request for `file` goes to.
    pub(super) fn route(&self, file: &RemoteFile) -> Route {
        if let Some(origin) = self.source.origin(file) {
            return Route::new(&origin, &origin);
        }
        let mut elsewhere = self.elsewhere.lock().unwrap_or_else(PoisonError::into_inner);
        let endpoint = &self.request.endpoint;
        Route::new(endpoint, elsewhere.of(file).as_deref().unwrap_or(endpoint))
    }

    /// Notes what a refusal says of the server that refused; others do not try what would be refused as well.
    pub(super) fn refused(&self, file: &RemoteFile, error: &Error) {
        let (by, wait) = match error {
            Error::RateLimited { endpoint, retry_after } => (endpoint, *retry_after),
            Error::Refused { url, .. } => (url, None),
            _ => return,
        };
        self.options.connections.refused(by);
        if let Some(wait) = wait {
            self.options.connections.pause(by, wait);
        }
        if origin(by) != origin(&self.request.endpoint) {
            let mut elsewhere = self.elsewhere.lock().unwrap_or_else(PoisonError::into_inner);
            *elsewhere.of(file) = Some(by.as_str().into());
        }
    }

    /// Waits for a first connection for `file`. That is no failure of the server's, unless it asked for it.
    pub(super) async fn connection(
        &self,
        file: &RemoteFile,
        budget: &Mutex<Budget>,
        stop: &CancellationToken,
    ) -> Result<Permit> {
        let (waited, route) = (Instant::now(), self.route(file));
        let paused = self.options.connections.paused(&route);
        if let Some((wait, who)) = &paused
            && self.with_budget(budget, |budget| budget.left(now())).is_some_and(|left| *wait > left)
        {
            return Err(Error::RateLimited { endpoint: who.to_string(), retry_after: Some(*wait) });
        }
        if let Some((wait, who)) = paused.as_ref().filter(|(wait, _)| wait.as_secs() > 0) {
            let why = format!("requests limited by {who}; it goes on in {} s", wait.as_secs());
            self.tell(TransferEvent::Waiting { file: file.path.clone(), why });
        }
        let permit = tokio::select! {
            biased;
            () = stop.cancelled() => return Err(Error::Cancelled),
            permit = self.options.connections.first(&route) => permit,
        };
        if paused.is_none() {
            self.with_budget(budget, |budget| budget.waited(waited.elapsed(), now()));
        }
        Ok(permit)
    }

    /// Counts bytes that came over the network.
    pub(super) fn count(&self, bytes: u64) {
        self.fetched.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Waits until so many bytes that have arrived may pass.
    pub(super) async fn passes(&self, bytes: u64) {
        self.lanes.0.take(bytes).await;
        if let (Some(courtesy), Some(lane)) = (&self.options.courtesy, &self.lanes.1) {
            courtesy.arrived(bytes);
            lane.take(bytes).await;
        }
    }

    /// What `request` is answered with, if that does not take too long.
    pub(super) async fn answer<T>(
        &self,
        budget: &Mutex<Budget>,
        request: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let slowest = Duration::from_millis(self.slowest.load(Ordering::Relaxed));
        let limit = self.with_budget(budget, |budget| budget.answer_within(self.options.stall, slowest, now()));
        let begun = Instant::now();
        let answer = timeout(limit, request).await.unwrap_or_else(|_| {
            self.with_budget(budget, Budget::unanswered);
            Err(self.silent("no answer", limit))
        })?;
        self.slowest.fetch_max(u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
        Ok(answer)
    }

    /// The hub said nothing for so long.
    pub(super) fn silent(&self, what: &str, limit: Duration) -> Error {
        let reason = format!("{what} for {:.0} s", limit.as_secs_f64().max(1.0));
        Error::Unreachable { url: self.request.endpoint.clone(), reason }
    }

    /// A request was answered after `delay`.
    pub(super) fn answered(&self, delay: Duration) {
        if let Some(courtesy) = &self.options.courtesy {
            courtesy.answered(delay);
        }
    }

    /// Fetches every file that is not there: the large ones one after another, the largest first, and the small ones
    /// beside them. When one fails the others stop, and keep what they have.
    async fn all(&self, present: Vec<Option<PathBuf>>) -> Result<Vec<PathBuf>> {
        let mut paths = present;
        let mut missing = Vec::new();
        for (index, (file, there)) in self.request.files.iter().zip(&paths).enumerate() {
            match there {
                Some(path) => {
                    let (file, path) = (file.path.clone(), path.clone());
                    self.tell(TransferEvent::FileFinished { file, path, fetched: 0 });
                }
                None => missing.push((index, file)),
            }
        }
        let (small, mut large): (Vec<_>, Vec<_>) = missing.into_iter().partition(|(_, file)| small::is_small(file));
        large.sort_by_key(|(_, file)| std::cmp::Reverse(file.size));
        let done = Mutex::new(Vec::new());
        let failed = Mutex::new(None);
        let note = |index: usize, result: Result<PathBuf>| match result {
            Ok(path) => done.lock().unwrap_or_else(PoisonError::into_inner).push((index, path)),
            Err(error) => {
                failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                self.cancel.cancel();
            }
        };

        let large = async {
            // The next one begins when all of the one before is on its way.
            let turns = Arc::new(Semaphore::new(1));
            let mut files = FuturesUnordered::new();
            for (index, file) in large {
                files.push(self.large(index, file, Arc::clone(&turns)));
            }
            while let Some((index, result)) = files.next().await {
                note(index, result);
            }
        };
        let batch = Batch::new(small.len());
        let desk = Desk::new(self.options.connections.most());
        let small = async {
            // More than connections: while some are on their way, others are put on disk, and hold no bytes in memory.
            let width = 2 * self.options.connections.most() + BESIDE;
            let mut waiting = small.into_iter();
            let mut files = FuturesUnordered::new();
            for (index, file) in waiting.by_ref().take(width) {
                files.push(self.small(index, file, &desk, &batch));
            }
            while let Some((index, result)) = files.next().await {
                note(index, result);
                if let Some((index, file)) = waiting.next().filter(|_| !self.cancel.is_cancelled()) {
                    files.push(self.small(index, file, &desk, &batch));
                }
            }
            batch.close();
        };
        tokio::join!(large, small, batch.publish(self));
        if let Some(error) = failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(error);
        }
        for (index, path) in done.into_inner().unwrap_or_else(PoisonError::into_inner) {
            if let Some(place) = paths.get_mut(index) {
                *place = Some(path);
            }
        }
        // Who was cancelled between two files has nothing that failed.
        paths.into_iter().collect::<Option<_>>().ok_or(Error::Cancelled)
    }

    fn large<'f>(
        &'f self,
        index: usize,
        file: &'f RemoteFile,
        turns: Arc<Semaphore>,
    ) -> BoxFuture<'f, (usize, Result<PathBuf>)> {
        Box::pin(async move {
            let turn = tokio::select! {
                biased;
                () = self.cancel.cancelled() => return (index, Err(Error::Cancelled)),
                turn = turns.acquire_owned() => turn.ok(),
            };
            (index, file::fetch(self, file, turn).await)
        })
    }

    fn small<'f>(
        &'f self,
        index: usize,
        file: &'f RemoteFile,
        desk: &'f Desk,
        batch: &'f Batch,
    ) -> BoxFuture<'f, (usize, Result<PathBuf>)> {
        Box::pin(async move {
            if self.cancel.is_cancelled() {
                return (index, Err(Error::Cancelled));
            }
            (index, small::fetch(self, file, desk, batch).await)
        })
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
                return Err(Error::NoSpace { path: destination.folder().to_owned(), needed, available, advice: None });
            }
            Ok(())
        })
        .await
    }
}
