//! One connection of a file: from piece to piece, and what it does after a failure.

use std::time::{Duration, Instant};

use super::piece::Problem;
use super::segments::Segments;
use super::tell;
use crate::error::Error;
use crate::machine::random;
use crate::transfer::connections::Permit;
use crate::transfer::growth::Failure;
use crate::transfer::pieces::Piece;
use crate::transfer::retry::now;
use crate::transfer::{Opening, TransferEvent};

/// A connection that fails so often in a row while others do not is not opened again.
const TRIES: u32 = 4;
/// A pause that is longer gives the connection to others.
const SHORT_PAUSE: Duration = Duration::from_secs(1);

/// How one connection came to its end.
pub(super) enum End {
    /// There is nothing for it to do, or it is one too many.
    Idle,
    Again(Option<Box<Opening>>),
    Failed(Error),
}

/// What a connection does after a failure.
enum After {
    /// The file fails.
    Give,
    /// Others go on without it.
    Retire,
    Pause(Duration),
}

impl Segments<'_, '_> {
    /// One connection from its first piece to its last.
    pub(super) async fn connection(&self, permit: Permit, ready: Option<Opening>) -> End {
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
                permit.goes(&self.run.route(self.file));
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
        let worth = beside || self.with_budget(|budget| budget.weigh(error));
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
    fn next(&self) -> Result<Option<Piece>, ()> {
        let short = self.run.options.connections.is_short(&self.run.route(self.file));
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
}
