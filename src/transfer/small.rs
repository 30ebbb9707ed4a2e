//! Small files: fetched whole into memory, compared there, written and published in groups.
//!
//! A file of the size that a connection brings in one go needs no journal: after a crash it is fetched again. What is
//! under its final name is whole, compared and synced as every other file is.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::batch::{Batch, Coming, Staged};
use super::engine::Run;
use super::file::{acquire, locked, remove_both};
use super::hash::Hasher;
use super::partial::write_error;
use super::retry::{Budget, now};
use super::{Destination, Staging, TransferEvent};
use crate::disk::lock::FileLock;
use crate::disk::publish::remove_if_there;
use crate::error::{Error, Result};
use crate::machine::random;
use crate::model::RemoteFile;

/// The largest small file.
const SMALL: u64 = 1024 * 1024;

/// Places of files that are made at once.
const PREPARED_AT_ONCE: usize = 2;

/// Where the small files of a request queue up, in their order.
pub(super) struct Desk {
    /// For their place on the disk: the first can be asked for while the others still wait for the disk.
    preparing: Semaphore,
    /// For a connection: no more are woken by a free one than could use it.
    asking: Semaphore,
}

impl Desk {
    pub(super) fn new(connections: usize) -> Self {
        Self { preparing: Semaphore::new(PREPARED_AT_ONCE), asking: Semaphore::new(connections) }
    }
}

pub(super) fn is_small(file: &RemoteFile) -> bool {
    file.size <= SMALL
}

/// Fetches `file` and publishes it with others of its kind.
pub(super) async fn fetch(run: &Run<'_>, file: &RemoteFile, desk: &Desk, batch: &Batch) -> Result<PathBuf> {
    let coming = batch.awaited();
    let (staging, claimed) = prepare(run, file, desk).await?;
    let lock = match claimed {
        Claimed::Published(path) => {
            run.tell(TransferEvent::FileFinished { file: file.path.clone(), path: path.clone(), fetched: 0 });
            return Ok(path);
        }
        // Somebody put a part of it there, with a journal: it is continued as a large one is.
        Claimed::Begun(lock) => return locked(run, file, &staging, lock, None).await,
        Claimed::Fresh(lock) => lock,
    };
    run.tell(TransferEvent::FileStarted { file: file.path.clone(), bytes: 0, total: file.size });
    let mut fetched = 0;
    let path = match compared(run, file, desk, &mut fetched).await {
        Ok(bytes) => put(run, file, &staging, lock, bytes, (batch, coming)).await?,
        Err(error) => {
            run.blocking(move || remove_both(&staging, lock)).await?;
            return Err(error);
        }
    };
    run.tell(TransferEvent::FileFinished { file: file.path.clone(), path: path.clone(), fetched });
    Ok(path)
}

/// What there is of a file once its place is locked.
enum Claimed {
    /// Whoever had the lock has published it.
    Published(PathBuf),
    /// A part of it, with a journal.
    Begun(FileLock),
    Fresh(FileLock),
}

/// Makes and locks the place of the file.
async fn prepare(run: &Run<'_>, file: &RemoteFile, desk: &Desk) -> Result<(Staging, Claimed)> {
    let tried = {
        // The semaphore is never closed.
        let _place = desk.preparing.acquire().await.map_err(|_| Error::Cancelled)?;
        let (destination, file) = (Arc::clone(run.destination), file.clone());
        run.blocking(move || {
            let staging = destination.stage(&file)?;
            let claimed = match FileLock::try_exclusive(&staging.journal)? {
                Some(lock) => Some(claim(&*destination, &file, &staging, lock)?),
                None => None,
            };
            Ok((staging, claimed))
        })
        .await?
    };
    match tried {
        (staging, Some(claimed)) => Ok((staging, claimed)),
        (staging, None) => {
            let lock = acquire(run, file, &staging).await?;
            let (destination, file, place) = (Arc::clone(run.destination), file.clone(), staging.clone());
            let claimed = run.blocking(move || claim(&*destination, &file, &place, lock)).await?;
            Ok((staging, claimed))
        }
    }
}

fn claim(destination: &dyn Destination, file: &RemoteFile, staging: &Staging, lock: FileLock) -> Result<Claimed> {
    if let Some(path) = destination.present(file)? {
        remove_both(staging, lock)?;
        return Ok(Claimed::Published(path));
    }
    let begun = lock.file().metadata().is_ok_and(|journal| journal.len() > 0);
    Ok(if begun { Claimed::Begun(lock) } else { Claimed::Fresh(lock) })
}

/// The bytes of the file; fetched once more when their checksum is wrong.
async fn compared(run: &Run<'_>, file: &RemoteFile, desk: &Desk, fetched: &mut u64) -> Result<Vec<u8>> {
    let mut again = false;
    loop {
        let bytes = tried(run, file, desk, fetched).await?;
        run.tell(TransferEvent::Verifying { file: file.path.clone() });
        let Some(expected) = file.digest else { return Ok(bytes) };
        let mut hasher = Hasher::new(expected.algorithm(), file.size);
        hasher.update(&bytes);
        let actual = hasher.finish();
        if actual == expected {
            return Ok(bytes);
        }
        if again {
            return Err(Error::ChecksumMismatch {
                file: file.path.as_str().to_owned(),
                expected: expected.to_string(),
                actual: actual.to_string(),
            });
        }
        again = true;
        run.tell(TransferEvent::Retrying {
            file: file.path.clone(),
            attempt: 1,
            after: Duration::ZERO,
            error: format!("wrong checksum: expected {expected}, got {actual}; fetching it again from the start"),
        });
    }
}

/// The bytes of the file, asked for again for as long as that is worth it.
async fn tried(run: &Run<'_>, file: &RemoteFile, desk: &Desk, fetched: &mut u64) -> Result<Vec<u8>> {
    if file.size == 0 {
        return Ok(Vec::new());
    }
    let budget = Mutex::new(run.budget());
    loop {
        let waited = Instant::now();
        let asking = tokio::select! {
            biased;
            () = run.cancel.cancelled() => return Err(Error::Cancelled),
            asking = desk.asking.acquire() => asking,
        };
        run.with_budget(&budget, |budget| budget.waited(waited.elapsed(), now()));
        let permit = (asking, run.connection(file, &budget, run.cancel).await?);
        run.tell(TransferEvent::FileProgress { file: file.path.clone(), bytes: 0, total: file.size, connections: 1 });
        let error = match once(run, file, &budget, fetched).await {
            Ok(bytes) => return Ok(bytes),
            Err(error) => error,
        };
        drop(permit);
        run.refused(file, &error);
        if !run.with_budget(&budget, |budget| budget.weigh(&error)) {
            return Err(error);
        }
        let asked = match &error {
            Error::RateLimited { retry_after, .. } => *retry_after,
            _ => None,
        };
        let policy = run.options.retry;
        let next = run.with_budget(&budget, |budget| budget.failed(&policy, asked, random(), now()));
        let Some((attempt, after)) = next else { return Err(error) };
        let (path, error) = (file.path.clone(), error.in_short());
        run.tell(TransferEvent::Retrying { file: path, attempt, after, error });
        tokio::select! {
            () = run.cancel.cancelled() => return Err(Error::Cancelled),
            () = tokio::time::sleep(after) => {}
        }
    }
}

/// One request and its answer.
async fn once(run: &Run<'_>, file: &RemoteFile, budget: &Mutex<Budget>, fetched: &mut u64) -> Result<Vec<u8>> {
    let cancelled = run.cancel.cancelled();
    tokio::pin!(cancelled);
    let url = || run.request.endpoint.clone();
    let opening = tokio::select! {
        biased;
        () = &mut cancelled => return Err(Error::Cancelled),
        opening = run.answer(budget, run.source.open(file, 0..file.size, None)) => opening?,
    };
    let left = run.with_budget(budget, |budget| budget.left(now())).unwrap_or(Duration::MAX);
    let limit = run.options.stall.min(left.max(Duration::from_millis(1)));
    if opening.size != file.size {
        // The bytes of a digest have one length: another one is an accident of this answer.
        return Err(match file.digest {
            None => Error::Changed { file: file.path.as_str().to_owned() },
            Some(_) => {
                let reason = format!("a file of {} bytes came as one of {}", file.size, opening.size);
                Error::BadAnswer { url: url(), reason }
            }
        });
    }
    if opening.from != 0 || opening.to < file.size {
        let reason = format!("asked for all of it, it sent the bytes from {} to {}", opening.from, opening.to);
        return Err(Error::BadAnswer { url: url(), reason });
    }
    let mut stream = opening.stream;
    let size = usize::try_from(file.size).unwrap_or(usize::MAX);
    let mut bytes = Vec::with_capacity(size);
    while bytes.len() < size {
        let next = tokio::select! {
            biased;
            () = &mut cancelled => return Err(Error::Cancelled),
            next = timeout(limit, stream.next()) => next.map_err(|_| run.silent("no byte", limit))?,
        };
        let Some(piece) = next.transpose()? else {
            let reason = format!("the connection closed {} bytes too early", size - bytes.len());
            return Err(Error::Unreachable { url: url(), reason });
        };
        run.count(piece.len() as u64);
        *fetched += piece.len() as u64;
        tokio::select! {
            biased;
            () = &mut cancelled => return Err(Error::Cancelled),
            () = run.passes(piece.len() as u64) => {}
        }
        // A second answer of the same length is no progress: it would keep a file alive that always breaks.
        run.has_arrived();
        bytes.extend_from_slice(&piece[..piece.len().min(size - bytes.len())]);
    }
    // Only an answer that is read to its end leaves its connection to the next one.
    let _ = timeout(Duration::from_millis(50), stream.next()).await;
    // Its task puts it back; whoever comes before that opens another one.
    for _ in 0..8 {
        tokio::task::yield_now().await;
    }
    Ok(bytes)
}

/// Writes the bytes beside the target and publishes them with others.
async fn put(
    run: &Run<'_>,
    file: &RemoteFile,
    staging: &Staging,
    lock: FileLock,
    bytes: Vec<u8>,
    (batch, coming): (&Batch, Coming<'_>),
) -> Result<PathBuf> {
    let place = staging.clone();
    let (written, lock) = run
        .blocking(move || match write(&place, &bytes) {
            Ok(written) => Ok((written, lock)),
            Err(error) => {
                remove_both(&place, lock)?;
                Err(error)
            }
        })
        .await?;
    batch.add(run, Staged { file: file.clone(), staging: staging.clone(), written, lock }, coming).await
}

/// Under a file of its own, whatever has the name: where locks do not reach (some network file systems) another process may
/// be writing the one that is there, and would go on after it was published.
fn write(staging: &Staging, bytes: &[u8]) -> Result<(u64, u64)> {
    let path = &staging.partial;
    let create = || File::options().write(true).create_new(true).open(path);
    let created = match create() {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            if !path.symlink_metadata().is_ok_and(|found| found.is_file()) {
                let reason = io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file");
                return Err(Error::io("write", path)(reason));
            }
            remove_if_there(path)?;
            create()
        }
        created => created,
    };
    let mut file = created.map_err(|error| write_error("create", path, bytes.len() as u64, error))?;
    file.write_all(bytes).map_err(|error| write_error("write", path, bytes.len() as u64, error))?;
    let found = file.metadata().map_err(Error::io("read", path))?;
    Ok((found.dev(), found.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_another_writes_under_the_same_name_is_another_file() {
        let scratch = tempfile::tempdir().unwrap();
        let staging =
            Staging { partial: scratch.path().join("x.llorch"), journal: scratch.path().join("x.llorch.json") };
        let first = write(&staging, b"whole").unwrap();
        let theirs = File::options().write(true).open(&staging.partial).unwrap();
        let second = write(&staging, b"whole").unwrap();
        assert_ne!(first, second, "who was first sees that it was replaced");
        theirs.set_len(0).unwrap();
        assert_eq!(std::fs::read(&staging.partial).unwrap(), b"whole");
        std::fs::remove_file(&staging.partial).unwrap();
        std::fs::create_dir(&staging.partial).unwrap();
        write(&staging, b"whole").unwrap_err();
    }
}
