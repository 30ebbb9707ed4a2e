//! The connections of one file together: how many there are, what they have brought, and when they are done.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::LARGE;
use super::connection::End;
use crate::error::{Error, Result};
use crate::model::{RemoteFile, Validator};
use crate::transfer::connections::Permit;
use crate::transfer::engine::Run;
use crate::transfer::filling::TICK;
use crate::transfer::growth::{Growth, Sample, WINDOW};
use crate::transfer::pieces::Pieces;
use crate::transfer::ranges::RangeSet;
use crate::transfer::retry::Budget;
use crate::transfer::writer::Pipeline;
use crate::transfer::{Courtesy, Opening, TransferEvent};

/// So often a file with a checksum begins anew because its validator changed; from then on the checksum alone decides.
const RESTARTS: u32 = 2;

/// How the connections of a file came to their end.
pub(super) enum Ended {
    /// Every byte was sent to the pipeline.
    Whole,
    /// What is here belongs to something else: from the start, with this answer if it begins there.
    Again(Option<Box<Opening>>),
    Failed(Error),
}

/// What is known of a file when its connections begin.
pub(super) struct Start {
    /// What is here already.
    pub(super) here: RangeSet,
    pub(super) validator: Option<Validator>,
    /// The most that was ever here.
    pub(super) best: u64,
    /// So often it began anew.
    pub(super) restarts: u32,
}

/// What the connections share.
pub(super) struct State {
    pub(super) pieces: Pieces,
    pub(super) growth: Growth,
    pub(super) validator: Option<Validator>,
    /// Bytes that are here or in a buffer; with what was here before.
    pub(super) arrived: u64,
    /// The most that was ever here: only more than that is progress, so that a server that always starts again
    /// does not keep a transfer alive for ever.
    pub(super) best: u64,
    /// Bytes that came over the network.
    pub(super) fetched: u64,
    /// Connections that are used, and those of them through which bytes come.
    pub(super) alive: usize,
    pub(super) moving: usize,
    /// One stream brings the whole rest: nothing else tells that two parts belong together, or ranges are ignored.
    pub(super) serial: bool,
    /// Answers in a row that were not what was asked for.
    pub(super) strange: u32,
    /// Time that connections waited for this host since the last sample.
    pub(super) held_up: Duration,
    sampled: Instant,
    told: Instant,
}

/// The connections of one file.
pub(super) struct Segments<'a, 'r> {
    pub(super) run: &'a Run<'r>,
    pub(super) file: &'a RemoteFile,
    pub(super) pipeline: &'a Pipeline,
    pub(super) budget: &'a Mutex<Budget>,
    turn: &'a Mutex<Option<OwnedSemaphorePermit>>,
    /// Ends every connection after it has sent what it has.
    pub(super) stop: CancellationToken,
    pub(super) begun: Instant,
    /// Whether a validator that differs means other bytes; after some restarts only the checksum does.
    pub(super) strict: bool,
    state: Mutex<State>,
}

impl<'a, 'r> Segments<'a, 'r> {
    pub(super) fn new(
        run: &'a Run<'r>,
        file: &'a RemoteFile,
        pipeline: &'a Pipeline,
        budget: &'a Mutex<Budget>,
        turn: &'a Mutex<Option<OwnedSemaphorePermit>>,
        start: Start,
    ) -> Self {
        let Start { here, validator, best, restarts } = start;
        let connections = &run.options.connections;
        let first = if file.size >= LARGE { connections.hint().unwrap_or(2) } else { 1 };
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
                growth: Growth::new(first, connections.most()),
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
            }),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Works on the budget, with what other files have found out.
    pub(super) fn with_budget<T>(&self, work: impl FnOnce(&mut Budget) -> T) -> T {
        self.run.with_budget(self.budget, work)
    }

    /// Opens connections until nothing is missing.
    pub(super) async fn fill(&self, ready: Option<Opening>) -> Ended {
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
                    let route = self.run.route(self.file);
                    for _ in 0..self.sample() {
                        let Some(permit) = self.run.options.connections.more(&route) else { break };
                        workers.push(self.connection(permit, None));
                    }
                }
            }
        }
    }

    /// Waits for the first connection.
    pub(super) async fn first(&self) -> Result<Permit> {
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
}
