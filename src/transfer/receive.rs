//! The network's side of one file: several connections, each with a piece of it, until nothing is missing.

use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::{BoxStream, FuturesUnordered};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use super::connections::Permit;
use super::engine::Run;
use super::filling::{Filling, TICK};
use super::growth::{Failure, Growth, Sample, WINDOW};
use super::hash::Hasher;
use super::partial::Partial;
use super::pieces::{Piece, Pieces};
use super::retry::{Budget, random, worth_another_try};
use super::writer::Pipeline;
use super::{Courtesy, Opening, TransferEvent};
use crate::error::{Error, Result};
use crate::model::{Digest, RemoteFile, Validator};

/// A file from this size on begins with two connections.
const LARGE: u64 = 32 * 1024 * 1024;
/// So many answers in a row that are not what was asked for are taken for accidents.
const ACCIDENTS: u32 = 2;
/// So often a file with a checksum begins anew because its validator changed; from then on the checksum alone decides.
const RESTARTS: u32 = 2;
/// A connection that fails so often in a row while others do not is not opened again.
const TRIES: u32 = 4;
/// A pause that is longer gives the connection to others.
const SHORT_PAUSE: Duration = Duration::from_secs(1);

/// What became of a partial. It is lost (closed, its lock given back) only when a thread died.
pub(super) type Received = (Option<Partial>, Result<Option<Digest>>);

/// Fetches what `partial` lacks of `file` and computes the digest of the whole. `turn` is given up when all that is left
/// is on its way.
pub(super) async fn receive(
    run: &Run<'_>,
    file: &RemoteFile,
    budget: &Mutex<Budget>,
    mut partial: Partial,
    turn: &Mutex<Option<OwnedSemaphorePermit>>,
    fetched: &mut u64,
) -> Received {
    let mut best = partial.ranges().covered();
    let mut ready = None;
    let mut restarts = 0;
    loop {
        let here = partial.ranges().clone();
        let validator = partial.validator().cloned();
        let hasher = file.digest.map(|digest| Hasher::new(digest.algorithm(), file.size));
        let pipeline = match Pipeline::start(partial, hasher, run.options.connections.most()) {
            Ok(pipeline) => pipeline,
            Err(error) => return (None, Err(error)),
        };
        let segments = Segments::new(run, file, &pipeline, budget, turn, here, validator, best, restarts);
        let ended = segments.fill(ready.take()).await;
        best = segments.lock().best;
        if file.size >= LARGE && matches!(ended, Ended::Whole) {
            run.options.connections.set_hint(segments.lock().growth.target());
        }
        *fetched += segments.lock().fetched;
        drop(segments);
        match ended {
            Ended::Whole => {
                tell(run, file, &pipeline);
                run.tell(TransferEvent::Verifying { file: file.path.clone() });
                return pipeline.finish(run.cancel).await;
            }
            Ended::Failed(error) => {
                tell(run, file, &pipeline);
                let (partial, stopped) = pipeline.stop().await;
                // What broke the disk's side explains more than what it made of the network's.
                return (partial, Err(stopped.err().unwrap_or(error)));
            }
            Ended::Again(opening) => {
                let (stopped, result) = pipeline.stop().await;
                let Some(mut stopped) = stopped else { return (None, result.map(|()| None)) };
                if let Err(error) = result {
                    return (Some(stopped), Err(error));
                }
                let reset = run.blocking(move || {
                    stopped.reset()?;
                    Ok(stopped)
                });
                partial = match reset.await {
                    Ok(partial) => partial,
                    Err(error) => return (None, Err(error)),
                };
                ready = opening.map(|opening| *opening);
                restarts += 1;
            }
        }
    }
}

/// Tells how many bytes are written.
fn tell(run: &Run<'_>, file: &RemoteFile, pipeline: &Pipeline) {
    run.tell(TransferEvent::FileProgress {
        file: file.path.clone(),
        bytes: pipeline.written(),
        total: file.size,
        connections: 0,
    });
}

/// How the connections of a file came to their end.
enum Ended {
    /// Every byte was sent to the pipeline.
    Whole,
    /// What is here belongs to something else: from the start, with this answer if it begins there.
    Again(Option<Box<Opening>>),
    Failed(Error),
}

/// How one connection came to its end.
enum End {
    /// There is nothing for it to do, or it is one too many.
    Idle,
    Again(Option<Box<Opening>>),
    Failed(Error),
}

/// Why a piece was not brought.
enum Problem {
    Again(Option<Box<Opening>>),
    Error(Error),
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

struct State {
    pieces: Pieces,
    growth: Growth,
    validator: Option<Validator>,
    /// Bytes that are here or in a buffer; with what was here before.
    arrived: u64,
    /// The most that was ever here: only more than that is progress, so that a server that always starts again
    /// does not keep a transfer alive for ever.
    best: u64,
    /// Bytes that came over the network.
    fetched: u64,
    /// Connections that are used, and those of them through which bytes come.
    alive: usize,
    moving: usize,
    /// One stream brings the whole rest: nothing else tells that two parts belong together, or ranges are ignored.
    serial: bool,
    /// Answers in a row that were not what was asked for.
    strange: u32,
    /// Time that connections waited for this host since the last sample.
    held_up: Duration,
    sampled: Instant,
    told: Instant,
    /// Bytes per second in the last window.
    rate: u64,
    last_arrived: u64,
}

/// The connections of one file.
struct Segments<'a, 'r> {
    run: &'a Run<'r>,
    file: &'a RemoteFile,
    pipeline: &'a Pipeline,
    budget: &'a Mutex<Budget>,
    turn: &'a Mutex<Option<OwnedSemaphorePermit>>,
    /// Ends every connection after it has sent what it has.
    stop: CancellationToken,
    begun: Instant,
    /// Whether a validator that differs means other bytes; after some restarts only the checksum does.
    strict: bool,
    state: Mutex<State>,
}

impl<'a, 'r> Segments<'a, 'r> {
    #[allow(clippy::too_many_arguments)]
    fn new(
        run: &'a Run<'r>,
        file: &'a RemoteFile,
        pipeline: &'a Pipeline,
        budget: &'a Mutex<Budget>,
        turn: &'a Mutex<Option<OwnedSemaphorePermit>>,
        here: super::ranges::RangeSet,
        validator: Option<Validator>,
        best: u64,
        restarts: u32,
    ) -> Self {
        let connections = &run.options.connections;
        let start = if file.size >= LARGE { connections.hint().unwrap_or(2) } else { 1 };
        let arrived = here.covered();
        let begun = Instant::now();
        Self {
            run,
            file,
            pipeline,
            budget,
            turn,
            stop: run.cancel.child_token(),
            begun,
            strict: file.digest.is_none() || restarts < RESTARTS,
            state: Mutex::new(State {
                pieces: Pieces::new(file.size, here),
                growth: Growth::new(start, connections.most()),
                serial: file.digest.is_none() && validator.is_none(),
                validator,
                arrived,
                best,
                fetched: 0,
                alive: 0,
                moving: 0,
                strange: 0,
                held_up: Duration::ZERO,
                sampled: begun,
                told: begun,
                rate: 0,
                last_arrived: arrived,
            }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Works on the budget, with what other files have found out.
    fn with_budget<T>(&self, work: impl FnOnce(&mut Budget) -> T) -> T {
        self.run.with_budget(self.budget, work)
    }

    /// Opens connections until nothing is missing.
    async fn fill(&self, ready: Option<Opening>) -> Ended {
        let mut ready = ready;
        let mut workers = FuturesUnordered::new();
        let mut failure = None;
        let mut ticks = interval(WINDOW);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.give_up_turn();
            if failure.is_none() && self.lock().pieces.is_done() {
                return Ended::Whole;
            }
            if workers.is_empty() {
                if let Some(error) = failure {
                    return Ended::Failed(error);
                }
                match self.first().await {
                    Ok(permit) => workers.push(self.connection(permit, ready.take())),
                    Err(error) => return Ended::Failed(error),
                }
            }
            tokio::select! {
                ended = workers.next() => match ended {
                    Some(End::Again(opening)) => return Ended::Again(opening),
                    Some(End::Failed(error)) => {
                        failure.get_or_insert(error);
                        self.stop.cancel();
                    }
                    Some(End::Idle) | None => {}
                },
                _ = ticks.tick() => {
                    let way = self.run.way(self.file);
                    for _ in 0..self.sample() {
                        let Some(permit) = self.run.options.connections.more(&way) else { break };
                        workers.push(self.connection(permit, None));
                    }
                }
            }
        }
    }

    /// Waits for the first connection.
    async fn first(&self) -> Result<Permit> {
        self.run.connection(self.file, self.budget, &self.stop).await
    }

    /// Lets the next file begin when all of this one is on its way.
    fn give_up_turn(&self) {
        let mut turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        if turn.is_some() {
            let state = self.lock();
            if state.serial || !state.pieces.has_unassigned() {
                turn.take();
            }
        }
    }

    /// Looks at the throughput; gives how many connections to add.
    fn sample(&self) -> usize {
        let mut guard = self.lock();
        let state = &mut *guard;
        let took = state.sampled.elapsed();
        if took >= WINDOW / 2 {
            state.sampled = Instant::now();
            let (open, moving) = (state.alive, state.moving);
            let held_up = state.held_up.as_secs_f64() / (took.as_secs_f64() * open.max(1) as f64);
            state.held_up = Duration::ZERO;
            state.rate = ((state.arrived.saturating_sub(state.last_arrived)) as f64 / took.as_secs_f64()) as u64;
            state.last_arrived = state.arrived;
            let sample =
                Sample { now: self.begun.elapsed(), bytes: state.arrived, held_up: held_up.min(1.0), open: moving };
            state.growth.sample(sample);
        }
        let told = state.told.elapsed() >= TICK;
        if told {
            state.told = Instant::now();
        }
        let more = if state.serial || self.stop.is_cancelled() {
            0
        } else if self.is_rescued(state) {
            1
        } else if state.moving == 0 {
            0
        } else {
            state.growth.target().saturating_sub(state.alive)
        };
        let connections = state.moving;
        drop(guard);
        if told {
            self.run.tell(TransferEvent::FileProgress {
                file: self.file.path.clone(),
                bytes: self.pipeline.written(),
                total: self.file.size,
                connections,
            });
        }
        more
    }

    /// Whether one connection more than there should be takes over from those that all went silent.
    fn is_rescued(&self, state: &State) -> bool {
        let held = self.run.options.throttle.limit().or(self.run.options.courtesy.as_ref().and_then(Courtesy::limit));
        state.alive == state.growth.target() && held.is_none() && state.pieces.is_stuck(Instant::now())
    }

    /// One connection from its first piece to its last.
    async fn connection(&self, permit: Permit, ready: Option<Opening>) -> End {
        let uses = |change: fn(&mut usize)| {
            let mut state = self.lock();
            change(&mut state.alive);
            self.pipeline.set_connections(state.alive);
        };
        uses(|alive| *alive += 1);
        let end = self.pieces(permit, ready).await;
        uses(|alive| *alive -= 1);
        end
    }

    async fn pieces(&self, permit: Permit, mut ready: Option<Opening>) -> End {
        let mut permit = Some(permit);
        let mut failures = 0;
        loop {
            if self.stop.is_cancelled() {
                return End::Failed(Error::Cancelled);
            }
            let piece = match self.next() {
                Ok(Some(piece)) => piece,
                Ok(None) => return End::Idle,
                Err(()) => return End::Again(None),
            };
            if let Some(permit) = &mut permit {
                permit.goes(&self.run.way(self.file));
            }
            let before = self.lock().arrived;
            let brought = self.bring(&piece, ready.take()).await;
            self.lock().pieces.release(piece.id);
            let error = match brought {
                Ok(()) => {
                    failures = 0;
                    continue;
                }
                Err(Problem::Again(opening)) => return End::Again(opening),
                Err(Problem::Error(error)) => error,
            };
            if error.is_cancelled() || self.stop.is_cancelled() {
                return End::Failed(Error::Cancelled);
            }
            let (others, progress) = {
                let state = self.lock();
                (state.alive > 1, state.arrived > before)
            };
            failures = if progress { 1 } else { failures + 1 };
            match self.after(&error, others, failures) {
                After::Give => return End::Failed(error),
                After::Retire => return End::Idle,
                After::Pause(pause) => {
                    if pause > SHORT_PAUSE {
                        permit = None;
                    }
                    tokio::select! {
                        biased;
                        () = self.stop.cancelled() => return End::Failed(Error::Cancelled),
                        () = tokio::time::sleep(pause) => {}
                    }
                    if permit.is_none() {
                        match self.first().await {
                            Ok(again) => permit = Some(again),
                            Err(error) => return End::Failed(error),
                        }
                    }
                }
            }
        }
    }

    /// What to do after a failure: the last connection tries for as long as the budget lasts, the others only while
    /// that costs little.
    fn after(&self, error: &Error, others: bool, failures: u32) -> After {
        let refused = matches!(error, Error::RateLimited { .. } | Error::Refused { .. });
        let failure = if refused { Failure::Refused } else { Failure::Broke };
        self.lock().growth.failed(failure, self.begun.elapsed());
        if refused {
            self.run.refused(self.file, error);
        }
        // Those that fail beside others fail together: only what the last one hears counts as said again.
        let beside = others && matches!(error, Error::Refused { .. } | Error::BadAnswer { .. });
        let worth = beside || self.with_budget(|budget| worth_another_try(error, budget));
        tracing::debug!(file = %self.file.path, failures, others, "a connection failed: {error}");
        if others && worth {
            return if refused || failures >= TRIES {
                After::Retire
            } else {
                After::Pause(self.run.options.retry.pause(failures, None, random()))
            };
        }
        if !worth {
            return After::Give;
        }
        let asked = match error {
            Error::RateLimited { retry_after, .. } => *retry_after,
            _ => None,
        };
        let policy = self.run.options.retry;
        let next = self.with_budget(|budget| budget.failed(&policy, asked, random(), now()));
        let Some((attempt, after)) = next else { return After::Give };
        tell(self.run, self.file, self.pipeline);
        self.run.tell(TransferEvent::Retrying {
            file: self.file.path.clone(),
            attempt,
            after,
            error: error.in_short(),
        });
        After::Pause(after)
    }

    /// The next piece for a connection; none when there is nothing to do or the connection is one too many. `Err` when
    /// nothing tells that what is here and what would come belong together.
    fn next(&self) -> std::result::Result<Option<Piece>, ()> {
        let short = self.run.options.connections.is_short(&self.run.way(self.file));
        let mut state = self.lock();
        if state.pieces.is_done() {
            return Ok(None);
        }
        let here = !state.pieces.here().is_empty();
        if here && self.file.digest.is_none() && state.validator.is_none() {
            return if state.alive > 1 { Ok(None) } else { Err(()) };
        }
        let rescued = state.alive > 1 && state.pieces.is_stuck(Instant::now());
        let target = if state.serial { 1 } else { state.growth.target() + usize::from(rescued) };
        if state.alive > 1 && (short || state.alive > target) {
            return Ok(None);
        }
        let now = Instant::now();
        if state.serial {
            let gap = state.pieces.here().gaps(self.file.size).next();
            return Ok(gap.map(|gap| state.pieces.take_all_from(gap.start, now)));
        }
        let piece = state.pieces.take(target, now);
        Ok(piece.or_else(|| state.pieces.split(now)))
    }

    /// Asks for a piece and sends what comes to the pipeline.
    async fn bring(&self, piece: &Piece, ready: Option<Opening>) -> std::result::Result<(), Problem> {
        let size = self.file.size;
        let (validator, strange) = {
            let state = self.lock();
            (state.validator.clone().filter(|_| self.strict), state.strange)
        };
        // A server that keeps sending other ranges may still send the whole.
        let range = if strange > ACCIDENTS { 0..size } else { piece.range.clone() };
        let fresh = ready.is_none();
        let asked = Instant::now();
        let opening = match ready {
            Some(opening) => opening,
            None => self.open(range, validator.as_ref()).await?,
        };
        if fresh {
            self.run.answered(asked.elapsed());
        }
        if opening.size != size {
            return Err(Error::Changed { file: self.file.path.as_str().to_owned() }.into());
        }
        let whole = opening.from == 0 && opening.to >= size;
        let mut piece = piece.clone();
        {
            let mut guard = self.lock();
            let state = &mut *guard;
            let untouched = state.pieces.here().is_empty() && state.arrived == 0;
            if !untouched && self.is_another(state.validator.as_ref(), opening.validator.as_ref()) {
                // One server of many may be behind or ahead; where a checksum decides in the end, another try costs less
                // than all that is here.
                if self.file.digest.is_some() && state.strange < ACCIDENTS {
                    state.strange += 1;
                    let reason = "it sent another version of the file than before".to_owned();
                    return Err(Error::Unreachable { url: self.url(), reason }.into());
                }
                return Err(Problem::Again(whole.then(|| Box::new(opening))));
            }
            if whole && piece.range != (0..size) {
                if untouched && piece.range.start == 0 {
                    piece = state.pieces.take_all_from(0, Instant::now());
                    state.serial = true;
                } else if strange >= ACCIDENTS {
                    return Err(Problem::Again(Some(Box::new(opening))));
                } else {
                    state.strange += 1;
                    let reason = "it sent the whole file instead of a part of it".to_owned();
                    return Err(Error::Unreachable { url: self.url(), reason }.into());
                }
            } else if opening.from != piece.range.start || opening.to < piece.range.end {
                state.strange += 1;
                let (start, end) = (piece.range.start, piece.range.end);
                let reason = if opening.to > opening.from {
                    let (from, to) = (opening.from, opening.to);
                    format!("asked for the bytes from {start} to {end}, it sent those from {from} to {to}")
                } else {
                    format!("asked for the bytes from {start} to {end}, it sent others")
                };
                return Err(Error::Unreachable { url: self.url(), reason }.into());
            } else {
                state.strange = 0;
                state.serial &=
                    opening.validator.is_none() && self.file.digest.is_none() || whole && piece.range.start == 0;
            }
            if opening.validator.is_some() && opening.validator != state.validator {
                state.validator.clone_from(&opening.validator);
                self.pipeline.set_validator(opening.validator);
            }
            state.moving += 1;
        }
        let result = self.pump(&piece, opening.stream).await;
        let mut state = self.lock();
        state.moving -= 1;
        state.pieces.release(piece.id);
        result.map_err(Problem::Error)
    }

    /// Whether a validator tells of other bytes than those that are here.
    fn is_another(&self, known: Option<&Validator>, now: Option<&Validator>) -> bool {
        match (known, now) {
            (Some(known), Some(now)) => self.strict && known != now,
            // A server that no longer tells could send anything, and without a checksum nobody would notice.
            (Some(_), None) => self.file.digest.is_none(),
            _ => false,
        }
    }

    async fn open(&self, range: Range<u64>, validator: Option<&Validator>) -> Result<Opening> {
        let opening = self.run.source.open(self.file, range, validator);
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Err(Error::Cancelled),
            opening = self.run.answer(self.budget, opening) => opening,
        }
    }

    /// How long to wait for the next sign of life.
    fn patience(&self) -> Duration {
        let left = self.with_budget(|budget| budget.left(now())).unwrap_or(Duration::MAX);
        self.run.options.stall.min(left.max(Duration::from_millis(1)))
    }

    /// Takes the bytes of a piece from `stream` and sends them on. Whatever comes of it, what has arrived is sent.
    async fn pump(&self, piece: &Piece, mut stream: BoxStream<'static, Result<Bytes>>) -> Result<()> {
        let stopped = self.stop.cancelled();
        tokio::pin!(stopped);
        let mut block = Filling::new(piece.range.start);
        let mut limit = self.patience();
        let mut heard = Instant::now();
        let result = loop {
            let at = block.end();
            let Some(end) = self.lock().pieces.end(piece.id).filter(|end| at < *end) else { break Ok(()) };
            let next = tokio::select! {
                biased;
                () = &mut stopped => break Err(Error::Cancelled),
                next = timeout(TICK.min(limit), stream.next()) => next,
            };
            let bytes = match next {
                Ok(Some(Ok(bytes))) => bytes,
                Ok(Some(Err(error))) => break Err(error),
                Ok(None) => break Err(self.ended_early(at, end)),
                Err(_) if heard.elapsed() >= limit => break Err(self.run.silent("no byte", limit)),
                Err(_) => {
                    self.send(&mut block, piece.id);
                    continue;
                }
            };
            let waited = Instant::now();
            tokio::select! {
                biased;
                () = &mut stopped => break Err(Error::Cancelled),
                () = self.run.passes(bytes.len() as u64) => {}
            }
            // What a server sends beyond the piece is not asked for, or another connection has got it.
            let wanted = usize::try_from(end - at).map_or(bytes.len(), |room| room.min(bytes.len()));
            let mut rest = &bytes[..wanted];
            let stored = loop {
                if rest.is_empty() {
                    break Ok(());
                }
                let taken = tokio::select! {
                    biased;
                    () = &mut stopped => Err(Error::Cancelled),
                    taken = block.take(self.pipeline, rest) => taken,
                };
                match taken {
                    Ok(taken) => rest = &rest[taken..],
                    Err(error) => break Err(error),
                }
                if block.is_full() {
                    self.send(&mut block, piece.id);
                }
            };
            let taken = block.end() - at;
            heard = Instant::now();
            let progress = {
                let mut state = self.lock();
                state.held_up += heard.saturating_duration_since(waited);
                state.pieces.arrive(piece.id, block.end(), heard);
                state.arrived += taken;
                state.fetched += bytes.len() as u64;
                let progress = state.arrived > state.best;
                state.best = state.best.max(state.arrived);
                progress
            };
            self.run.count(bytes.len() as u64);
            if progress {
                self.with_budget(|budget| budget.progress(now()));
                self.run.has_arrived();
                limit = self.run.options.stall.min(self.run.options.patience.unwrap_or(Duration::MAX));
            }
            if let Err(error) = stored {
                break Err(error);
            }
            if block.is_due() {
                self.send(&mut block, piece.id);
            }
        };
        self.send(&mut block, piece.id);
        result
    }

    /// Sends the buffer to the pipeline.
    fn send(&self, block: &mut Filling, id: u64) {
        if let Some(range) = block.flush(self.pipeline) {
            self.lock().pieces.sent(id, range);
        }
    }

    fn url(&self) -> String {
        self.run.request.endpoint.clone()
    }

    fn ended_early(&self, at: u64, end: u64) -> Error {
        Error::Unreachable { url: self.url(), reason: format!("the connection closed {} bytes too early", end - at) }
    }
}

/// What a connection does after a failure.
enum After {
    /// The file fails.
    Give,
    /// Others go on without it.
    Retire,
    Pause(Duration),
}

/// The time by the runtime's clock, which tests can move.
pub(super) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
