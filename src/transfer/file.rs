//! One file: locked, fetched, compared, published.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;

use super::engine::Run;
use super::hash::Hasher;
use super::journal::{Identity, Journal};
use super::partial::Partial;
use super::receive::receive;
use super::retry::now;
use super::{Staging, TransferEvent};
use crate::disk::lock::FileLock;
use crate::disk::publish::remove_if_there;
use crate::error::{Error, Result};
use crate::model::RemoteFile;

/// How often a lock that another holds is tried.
const LOCK_INTERVAL: Duration = Duration::from_millis(200);

/// Removes what an unfinished transfer left: the partial, then its journal.
///
/// Blocks on the disk. Nothing there is no error.
///
/// # Errors
/// [`Error::Locked`] while a transfer works on it, [`Error::Io`] when it cannot be removed.
pub fn discard(staging: &Staging) -> Result<()> {
    let there = |path: &PathBuf| path.symlink_metadata().is_ok();
    if !there(&staging.partial) && !there(&staging.journal) {
        return Ok(());
    }
    let Some(lock) = FileLock::try_exclusive(&staging.journal)? else {
        return Err(Error::Locked { path: staging.partial.clone(), holder: FileLock::holder(&staging.journal) });
    };
    remove_both(staging, lock)
}

/// The path in its repository of the file that a journal is about; `None` without a journal that can be read.
#[must_use]
pub fn staged_path(staging: &Staging) -> Option<String> {
    Journal::path_of(&staging.journal)
}

/// Removes a partial, then its journal, and only then lets go of the lock.
pub(super) fn remove_both(staging: &Staging, lock: FileLock) -> Result<()> {
    remove_if_there(&staging.partial)?;
    remove_if_there(&staging.journal)?;
    drop(lock);
    Ok(())
}

/// Fetches and publishes `file`. `turn` is given up when all that is left of it is on its way.
pub(super) async fn fetch(run: &Run<'_>, file: &RemoteFile, turn: Option<OwnedSemaphorePermit>) -> Result<PathBuf> {
    let staging = {
        let (destination, file) = (Arc::clone(run.destination), file.clone());
        run.blocking(move || destination.stage(&file)).await?
    };
    let lock = acquire(run, file, &staging).await?;
    locked(run, file, &staging, lock, turn).await
}

/// The rest of [`fetch`], with the lock.
pub(super) async fn locked(
    run: &Run<'_>,
    file: &RemoteFile,
    staging: &Staging,
    lock: FileLock,
    turn: Option<OwnedSemaphorePermit>,
) -> Result<PathBuf> {
    let mut fetched = 0;
    let path = match look_again(run, file, staging, lock).await? {
        Found::There(path) => path,
        Found::Missing(partial) => complete(run, file, staging, *partial, turn, &mut fetched).await?,
    };
    run.tell(TransferEvent::FileFinished { file: file.path.clone(), path: path.clone(), fetched });
    Ok(path)
}

/// Waits until nobody else works on the file.
pub(super) async fn acquire(run: &Run<'_>, file: &RemoteFile, staging: &Staging) -> Result<FileLock> {
    let mut told = None;
    let mut seen = None;
    loop {
        let journal = staging.journal.clone();
        let tried = run.blocking(move || {
            Ok(match FileLock::try_exclusive(&journal)? {
                Some(lock) => Ok(lock),
                None => Err(FileLock::holder(&journal)),
            })
        });
        let holder = match tried.await? {
            Ok(lock) => return Ok(lock),
            Err(holder) => holder,
        };
        // Just when the lock changes hands nobody can be named: a new name is told when it is seen again.
        let settled = told.is_none() || seen.as_ref() == Some(&holder);
        if settled && told.as_ref() != Some(&holder) {
            run.tell(TransferEvent::Waiting { file: file.path.clone(), why: format!("{holder} is fetching it") });
            told = Some(holder.clone());
        }
        seen = Some(holder);
        tokio::select! {
            () = tokio::time::sleep(LOCK_INTERVAL) => {}
            () = run.cancel.cancelled() => return Err(Error::Cancelled),
        }
    }
}

enum Found {
    /// Whoever had the lock has published it.
    There(PathBuf),
    Missing(Box<Partial>),
}

/// With the lock: looks whether the file came meanwhile, else opens the partial.
async fn look_again(run: &Run<'_>, file: &RemoteFile, staging: &Staging, lock: FileLock) -> Result<Found> {
    let identity = Identity::of(run.request, file);
    let (destination, file, staging) = (Arc::clone(run.destination), file.clone(), staging.clone());
    run.blocking(move || {
        if let Some(path) = destination.present(&file)? {
            remove_both(&staging, lock)?;
            return Ok(Found::There(path));
        }
        Ok(Found::Missing(Box::new(Partial::open(&staging, lock, &identity)?)))
    })
    .await
}

/// Fetches what is missing and publishes the file when its checksum is right. Another try from the start follows a
/// wrong checksum once: bytes that a crash or another program damaged are gone then.
async fn complete(
    run: &Run<'_>,
    file: &RemoteFile,
    staging: &Staging,
    partial: Partial,
    turn: Option<OwnedSemaphorePermit>,
    fetched: &mut u64,
) -> Result<PathBuf> {
    let turn = Mutex::new(turn);
    let budget = Mutex::new(run.budget());
    run.tell(TransferEvent::FileStarted {
        file: file.path.clone(),
        bytes: partial.ranges().covered(),
        total: file.size,
    });
    let mut partial = partial;
    let mut again = false;
    loop {
        let (kept, received) = receive(run, file, &budget, partial, &turn, fetched).await;
        let Some(mut kept) = kept else {
            return Err(received.err().unwrap_or(Error::Cancelled));
        };
        let digest = match received {
            Ok(digest) => digest,
            Err(error) => {
                let expected = file.digest;
                let kept = run.blocking(move || kept.forget_touched(expected).map(|()| kept)).await?;
                let empty = kept.ranges().is_empty();
                run.tell(TransferEvent::FileProgress {
                    file: file.path.clone(),
                    bytes: kept.ranges().covered(),
                    total: file.size,
                    connections: 0,
                });
                run.blocking(move || if empty { kept.remove() } else { Ok(()) }).await?;
                return Err(error);
            }
        };
        let digest = match digest {
            // What came is right, but what lies there may be another thing by now.
            Some(digest) if Some(digest) == file.digest && !kept.watch().is_untouched(kept.file()) => {
                let cancel = run.cancel.clone();
                let (hasher, path) = (Hasher::new(digest.algorithm(), file.size), &file.path);
                tracing::warn!("another program writes to the partial of {path}: what lies there is hashed again");
                let hashed = run.blocking(move || Ok((kept.hash(hasher, &cancel)?, kept)));
                let (hashed, back) = hashed.await?;
                kept = back;
                Some(hashed.ok_or(Error::Cancelled)?)
            }
            digest => digest,
        };
        let (Some(expected), Some(actual)) = (file.digest, digest) else {
            return publish(run, file, staging, kept).await;
        };
        if expected == actual {
            return publish(run, file, staging, kept).await;
        }
        let error = Error::ChecksumMismatch {
            file: file.path.as_str().to_owned(),
            expected: expected.to_string(),
            actual: actual.to_string(),
        };
        if again {
            run.blocking(move || kept.remove()).await?;
            return Err(error);
        }
        let doubtful;
        (doubtful, partial) = run
            .blocking(move || {
                let doubtful = kept.forget_doubtful()?;
                if !doubtful {
                    kept.reset()?;
                }
                Ok((doubtful, kept))
            })
            .await?;
        again = !doubtful;
        let what = if doubtful { "what a crash may have damaged" } else { "it again from the start" };
        run.tell(TransferEvent::Retrying {
            file: file.path.clone(),
            attempt: 1,
            after: Duration::ZERO,
            error: format!("wrong checksum: expected {expected}, got {actual}; fetching {what}"),
        });
        run.with_budget(&budget, |budget| budget.restart_clock(now()));
    }
}

async fn publish(run: &Run<'_>, file: &RemoteFile, staging: &Staging, partial: Partial) -> Result<PathBuf> {
    let (destination, file, staging) = (Arc::clone(run.destination), file.clone(), staging.clone());
    let mut partial = partial;
    run.blocking(move || {
        if !partial.is_in_place() {
            partial.forget_touched(file.digest)?;
            let reason = std::io::Error::other("another program replaced it or wrote to it while it was being fetched");
            return Err(Error::io("publish", &staging.partial)(reason));
        }
        let path = destination.publish(&file, &staging)?;
        partial.published();
        Ok(path)
    })
    .await
}
