//! One piece of a file: asked for, compared with what was asked for, and sent on as it comes.

use std::ops::Range;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use tokio::time::timeout;

use super::segments::Segments;
use crate::error::{Error, Result};
use crate::model::Validator;
use crate::transfer::Opening;
use crate::transfer::filling::{Filling, TICK};
use crate::transfer::pieces::Piece;
use crate::transfer::retry::now;

/// So many answers in a row that are not what was asked for are taken for accidents.
const ACCIDENTS: u32 = 2;

/// Why a piece was not brought.
pub(super) enum Problem {
    Again(Option<Box<Opening>>),
    Error(Error),
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

impl Segments<'_, '_> {
    /// Asks for a piece and sends what comes to the pipeline.
    pub(super) async fn bring(&self, piece: &Piece, ready: Option<Opening>) -> std::result::Result<(), Problem> {
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
