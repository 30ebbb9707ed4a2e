//! The network's side of one file: several connections, each with a piece of it, until nothing is missing.

mod connection;
mod piece;
mod segments;

use std::sync::Mutex;

use tokio::sync::OwnedSemaphorePermit;

use self::segments::{Ended, Segments, Start};
use super::TransferEvent;
use super::engine::Run;
use super::hash::Hasher;
use super::partial::Partial;
use super::retry::Budget;
use super::writer::Pipeline;
use crate::error::Result;
use crate::model::{Digest, RemoteFile};

/// A file from this size on begins with two connections.
const LARGE: u64 = 32 * 1024 * 1024;

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
        let start = Start { here, validator, best, restarts };
        let segments = Segments::new(run, file, &pipeline, budget, turn, start);
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
