//! The network's side of one file: connections, one after another, until nothing is missing.

use std::ops::Range;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use tokio::time::timeout;

use super::engine::Run;
use super::hash::Hasher;
use super::partial::Partial;
use super::ranges::RangeSet;
use super::retry::{random, worth_another_try};
use super::writer::{BUFFER, Pipeline};
use super::{Opening, TransferEvent};
use crate::error::{Error, Result};
use crate::model::{Digest, RemoteFile, Validator};

/// Progress is told at most so often, and a buffer that is not full waits at most so long.
const TICK: Duration = Duration::from_millis(250);

/// What became of a partial. It is lost (closed, its lock given back) only when a thread died.
pub(super) type Received = (Option<Partial>, Result<Option<Digest>>);

/// Fetches what `partial` lacks of `file` and computes the digest of the whole.
pub(super) async fn receive(run: &mut Run<'_>, file: &RemoteFile, partial: Partial) -> Received {
    let here = partial.ranges().clone();
    let validator = partial.validator().cloned();
    let pipeline = match start(file, partial) {
        Ok(pipeline) => pipeline,
        Err(error) => return (None, Err(error)),
    };
    let best = here.covered();
    let mut receiver = Receiver { run, file, here, validator, best, told: Instant::now() };
    let (pipeline, result) = receiver.fill(pipeline).await;
    let Some(pipeline) = pipeline else { return (None, result.map(|()| None)) };
    let cancel = receiver.run.cancel;
    match result {
        Ok(()) => {
            receiver.tell(&pipeline);
            run.tell(TransferEvent::Verifying { file: file.path.clone() });
            pipeline.finish(cancel).await
        }
        Err(error) => {
            receiver.tell(&pipeline);
            let (partial, stopped) = pipeline.stop().await;
            // What broke the disk's side explains more than what it made of the network's.
            (partial, Err(stopped.err().unwrap_or(error)))
        }
    }
}

fn start(file: &RemoteFile, partial: Partial) -> Result<Pipeline> {
    let hasher = file.digest.map(|digest| Hasher::new(digest.algorithm(), file.size));
    Pipeline::start(partial, hasher)
}

struct Receiver<'a, 'r> {
    run: &'a mut Run<'r>,
    file: &'a RemoteFile,
    /// What was there or was sent to the pipeline.
    here: RangeSet,
    validator: Option<Validator>,
    /// The most that was ever here: only more than that is progress, so that a server that always starts again
    /// does not keep a transfer alive for ever.
    best: u64,
    /// When progress was told last.
    told: Instant,
}

impl Receiver<'_, '_> {
    /// Opens connection after connection until nothing is missing. The pipeline comes back unless it was lost.
    async fn fill(&mut self, mut pipeline: Pipeline) -> (Option<Pipeline>, Result<()>) {
        let mut ready: Option<Opening> = None;
        loop {
            let Some(gap) = self.here.gaps(self.file.size).next() else { return (Some(pipeline), Ok(())) };
            // Without a digest nothing but a validator can tell that two halves belong together.
            if !self.here.is_empty() && self.file.digest.is_none() && self.validator.is_none() {
                pipeline = match self.start_again(pipeline).await {
                    Ok(pipeline) => pipeline,
                    Err(error) => return (None, Err(error)),
                };
                continue;
            }
            let opening = match ready.take() {
                Some(opening) => Ok(opening),
                None => self.open(gap.clone()).await,
            };
            let result = match opening {
                Err(error) => Err(error),
                Ok(opening) if opening.size != self.file.size => {
                    Err(Error::Changed { file: self.file.path.as_str().to_owned() })
                }
                Ok(opening) if self.is_another(&opening, &gap) => {
                    pipeline = match self.start_again(pipeline).await {
                        Ok(pipeline) => pipeline,
                        Err(error) => return (None, Err(error)),
                    };
                    ready = Some(opening).filter(|opening| opening.from == 0);
                    continue;
                }
                Ok(opening) if opening.from != gap.start => Err(Error::BadAnswer {
                    url: self.url(),
                    reason: format!("asked for bytes from {}, it sent them from {}", gap.start, opening.from),
                }),
                Ok(opening) => {
                    if opening.validator.is_some() {
                        self.validator = opening.validator;
                        pipeline.set_validator(self.validator.clone());
                    }
                    self.pump(&pipeline, opening.stream, gap).await
                }
            };
            let Err(error) = result else { continue };
            if !worth_another_try(&error, &self.run.budget) {
                return (Some(pipeline), Err(error));
            }
            let asked = match &error {
                Error::RateLimited { retry_after, .. } => *retry_after,
                _ => None,
            };
            let policy = self.run.options.retry;
            let Some((attempt, after)) = self.run.budget.failed(&policy, asked, random(), now()) else {
                return (Some(pipeline), Err(error));
            };
            self.tell(&pipeline);
            self.run.tell(TransferEvent::Retrying {
                file: self.file.path.clone(),
                attempt,
                after,
                error: error.to_string(),
            });
            tokio::select! {
                () = tokio::time::sleep(after) => {}
                () = self.run.cancel.cancelled() => return (Some(pipeline), Err(Error::Cancelled)),
            }
        }
    }

    /// Whether the server sends a file that does not continue what is here.
    fn is_another(&self, opening: &Opening, gap: &Range<u64>) -> bool {
        let from_the_start = opening.from == 0 && gap.start > 0;
        let other_bytes = match (&self.validator, &opening.validator) {
            (Some(known), Some(now)) => known != now && !self.here.is_empty(),
            // A server that no longer tells could send anything, and without a checksum nobody would notice.
            (Some(_), None) => self.file.digest.is_none() && !self.here.is_empty(),
            _ => false,
        };
        from_the_start || other_bytes
    }

    async fn open(&mut self, gap: Range<u64>) -> Result<Opening> {
        let limit = self.patience();
        let opening = self.run.source.open(self.file, gap, self.validator.as_ref());
        tokio::select! {
            biased;
            () = self.run.cancel.cancelled() => Err(Error::Cancelled),
            opening = timeout(limit, opening) => opening.unwrap_or_else(|_| Err(self.silent("no answer", limit))),
        }
    }

    /// How long to wait for the next sign of life.
    fn patience(&self) -> Duration {
        let left = self.run.budget.left(now()).unwrap_or(Duration::MAX);
        self.run.options.stall.min(left.max(Duration::from_millis(1)))
    }

    /// Takes the bytes of `gap` from `stream` and sends them on.
    async fn pump(
        &mut self,
        pipeline: &Pipeline,
        mut stream: BoxStream<'static, Result<Bytes>>,
        gap: Range<u64>,
    ) -> Result<()> {
        let cancel = self.run.cancel;
        let cancelled = cancel.cancelled();
        tokio::pin!(cancelled);
        let mut block = Filling { buffer: None, start: gap.start, flushed: Instant::now() };
        let mut at = gap.start;
        let result = loop {
            if at >= gap.end {
                break Ok(());
            }
            let limit = self.patience();
            let next = tokio::select! {
                biased;
                () = &mut cancelled => break Err(Error::Cancelled),
                next = timeout(limit, stream.next()) => next,
            };
            let bytes = match next {
                Ok(Some(Ok(bytes))) => bytes,
                Ok(Some(Err(error))) => break Err(error),
                Ok(None) => break Err(self.ended_early(at, gap.end)),
                Err(_) => break Err(self.silent("no byte", limit)),
            };
            self.run.fetched += bytes.len() as u64;
            tokio::select! {
                biased;
                () = &mut cancelled => break Err(Error::Cancelled),
                () = self.run.options.throttle.take(bytes.len() as u64) => {}
            }
            // What a server sends beyond the range is not asked for.
            let wanted = usize::try_from(gap.end - at).map_or(bytes.len(), |room| room.min(bytes.len()));
            let stored = tokio::select! {
                biased;
                () = &mut cancelled => Err(Error::Cancelled),
                stored = block.take(pipeline, &bytes[..wanted]) => stored,
            };
            at = block.end();
            self.here.insert(gap.start..at);
            if let Err(error) = stored {
                break Err(error);
            }
            let covered = self.here.covered();
            if covered > self.best {
                self.best = covered;
                self.run.budget.progress(now());
            }
            if self.told.elapsed() >= TICK {
                self.tell(pipeline);
            }
        };
        block.flush(pipeline);
        result
    }

    /// Forgets what is here and begins at 0.
    async fn start_again(&mut self, pipeline: Pipeline) -> Result<Pipeline> {
        let (partial, stopped) = pipeline.stop().await;
        stopped?;
        let Some(mut partial) = partial else { return Err(Error::Cancelled) };
        let partial = self
            .run
            .blocking(move || {
                partial.reset()?;
                Ok(partial)
            })
            .await?;
        self.here = RangeSet::default();
        self.validator = None;
        start(self.file, partial)
    }

    /// Tells how many bytes are written.
    fn tell(&mut self, pipeline: &Pipeline) {
        self.told = Instant::now();
        self.run.tell(TransferEvent::FileProgress {
            file: self.file.path.clone(),
            bytes: pipeline.written(),
            total: self.file.size,
        });
    }

    fn url(&self) -> String {
        self.run.request.endpoint.clone()
    }

    fn silent(&self, what: &str, limit: Duration) -> Error {
        Error::Unreachable { url: self.url(), reason: format!("{what} for {:.0} s", limit.as_secs_f64().max(1.0)) }
    }

    fn ended_early(&self, at: u64, end: u64) -> Error {
        Error::Unreachable { url: self.url(), reason: format!("the connection closed {} bytes too early", end - at) }
    }
}

/// The time by the runtime's clock, which tests can move.
pub(super) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// The buffer that is being filled.
struct Filling {
    buffer: Option<Vec<u8>>,
    start: u64,
    flushed: Instant,
}

impl Filling {
    /// Where the next byte belongs.
    fn end(&self) -> u64 {
        self.start + self.buffer.as_ref().map_or(0, |buffer| buffer.len() as u64)
    }

    /// Copies `bytes` into buffers and sends those that are full, or that wait for long.
    async fn take(&mut self, pipeline: &Pipeline, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let mut buffer = match self.buffer.take() {
                Some(buffer) => buffer,
                None => pipeline.buffer().await?,
            };
            // Blocks end at multiples of their length, so that all but the first begin on a page.
            let aligned = BUFFER - usize::try_from(self.start % BUFFER as u64).unwrap_or(0);
            let (now, later) = bytes.split_at(bytes.len().min(aligned - buffer.len()));
            buffer.extend_from_slice(now);
            bytes = later;
            let full = buffer.len() == aligned;
            self.buffer = Some(buffer);
            if full {
                self.flush(pipeline);
            }
        }
        if self.flushed.elapsed() >= TICK {
            self.flush(pipeline);
        }
        Ok(())
    }

    /// Sends what is there.
    fn flush(&mut self, pipeline: &Pipeline) {
        self.flushed = Instant::now();
        if let Some(buffer) = self.buffer.take() {
            let length = buffer.len() as u64;
            pipeline.send(self.start, buffer);
            self.start += length;
        }
    }
}
