//! The buffer of one connection that is being filled.

use std::ops::Range;
use std::time::{Duration, Instant};

use super::writer::{BUFFER, Pipeline};
use crate::error::Result;

/// A buffer that is not full waits at most so long; progress is told at most so often.
pub(super) const TICK: Duration = Duration::from_millis(250);

/// A buffer, and where its bytes belong.
pub(super) struct Filling {
    buffer: Option<Vec<u8>>,
    start: u64,
    flushed: Instant,
}

impl Filling {
    pub(super) fn new(start: u64) -> Self {
        Self { buffer: None, start, flushed: Instant::now() }
    }

    /// Where the next byte belongs.
    pub(super) fn end(&self) -> u64 {
        self.start + self.buffer.as_ref().map_or(0, |buffer| buffer.len() as u64)
    }

    /// Blocks end at multiples of their length, so that all but the first begin on a page.
    fn room(&self) -> usize {
        BUFFER - usize::try_from(self.start % BUFFER as u64).unwrap_or(0)
    }

    /// Copies as many of `bytes` as there is room for; waits for an empty buffer first if need be.
    pub(super) async fn take(&mut self, pipeline: &Pipeline, bytes: &[u8]) -> Result<usize> {
        let mut buffer = match self.buffer.take() {
            Some(buffer) => buffer,
            None => pipeline.buffer().await?,
        };
        let taken = bytes.len().min(self.room() - buffer.len());
        buffer.extend_from_slice(&bytes[..taken]);
        self.buffer = Some(buffer);
        Ok(taken)
    }

    /// Whether no more fits.
    pub(super) fn is_full(&self) -> bool {
        self.buffer.as_ref().is_some_and(|buffer| buffer.len() >= self.room())
    }

    /// Whether it has waited for long.
    pub(super) fn is_due(&self) -> bool {
        self.buffer.is_some() && self.flushed.elapsed() >= TICK
    }

    /// Sends what is there; gives which bytes that were.
    pub(super) fn flush(&mut self, pipeline: &Pipeline) -> Option<Range<u64>> {
        self.flushed = Instant::now();
        let buffer = self.buffer.take()?;
        let range = self.start..self.start + buffer.len() as u64;
        self.start = range.end;
        pipeline.send(range.start, buffer);
        Some(range)
    }
}
