//! Small files that are published together, so that many of them share the cost of a sync.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::time::timeout;

use super::Staging;
use super::engine::Run;
use crate::disk::lock::FileLock;
use crate::disk::publish::remove_if_there;
use crate::error::{Error, Result};
use crate::model::RemoteFile;

/// So many are published at once.
const MOST: usize = 64;
/// So long a group gathers: files that were asked for together arrive together, and the next ones are asked for before the
/// disk gets its work.
const GATHER: Duration = Duration::from_millis(10);

/// A file that is whole, compared and written, but not synced.
pub(super) struct Staged {
    pub(super) file: RemoteFile,
    pub(super) staging: Staging,
    /// Device and inode of what was written.
    pub(super) written: (u64, u64),
    pub(super) lock: FileLock,
}

impl Staged {
    fn is_in_place(&self) -> bool {
        std::fs::symlink_metadata(&self.staging.partial).is_ok_and(|found| {
            found.is_file() && found.len() == self.file.size && (found.dev(), found.ino()) == self.written
        })
    }
}

type Answer = oneshot::Sender<Result<PathBuf>>;

/// What waits to be published.
pub(super) struct Batch {
    state: Mutex<State>,
    changed: Notify,
    /// The last file has come.
    last: Notify,
}

#[derive(Default)]
struct State {
    waiting: Vec<(Staged, Answer)>,
    /// Files that may still come.
    coming: usize,
    closed: bool,
}

/// A file that may come; it does not any more when this is dropped.
pub(super) struct Coming<'b>(&'b Batch);

impl Drop for Coming<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.coming = state.coming.saturating_sub(1);
        if state.coming == 0 {
            self.0.last.notify_one();
        }
    }
}

impl Batch {
    /// For so many files; each is [`Self::awaited`] once.
    pub(super) fn new(files: usize) -> Self {
        let state = Mutex::new(State { coming: files, ..State::default() });
        Self { state, changed: Notify::new(), last: Notify::new() }
    }

    /// One of the files.
    pub(super) fn awaited(&self) -> Coming<'_> {
        Coming(self)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Publishes a file; others may come first.
    pub(super) async fn add(&self, run: &Run<'_>, staged: Staged, coming: Coming<'_>) -> Result<PathBuf> {
        let path = staged.staging.partial.clone();
        let (answer, published) = oneshot::channel();
        self.lock().waiting.push((staged, answer));
        drop(coming);
        self.changed.notify_one();
        match published.await {
            Ok(result) => result,
            Err(_) if run.cancel.is_cancelled() => Err(Error::Cancelled),
            Err(_) => Err(Error::io("publish", path)(io::Error::other("its group was given up"))),
        }
    }

    /// No more will come.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_one();
    }

    /// Publishes what is added until nothing more comes: while one group is on its way to the disk, the next gathers.
    pub(super) async fn publish(&self, run: &Run<'_>) {
        loop {
            let gathering = {
                let state = self.lock();
                state.coming > 0 && (1..MOST).contains(&state.waiting.len())
            };
            if gathering {
                // It ends early when nothing more can come.
                let _ = timeout(GATHER, self.last.notified()).await;
            }
            let (group, closed) = {
                let mut state = self.lock();
                let count = state.waiting.len().min(MOST);
                (state.waiting.drain(..count).collect::<Vec<_>>(), state.closed)
            };
            if group.is_empty() {
                if closed {
                    return;
                }
                self.changed.notified().await;
                continue;
            }
            let destination = Arc::clone(run.destination);
            let (staged, answers): (Vec<Staged>, Vec<Answer>) = group.into_iter().unzip();
            let published = run.blocking(move || {
                let there: Vec<bool> = staged.iter().map(Staged::is_in_place).collect();
                let files: Vec<_> = staged
                    .iter()
                    .zip(&there)
                    .filter(|(_, there)| **there)
                    .map(|(one, _)| (&one.file, &one.staging))
                    .collect();
                let mut published = destination.publish_all(&files).into_iter();
                let results: Vec<Result<PathBuf>> = staged
                    .iter()
                    .zip(&there)
                    .map(|(one, there)| {
                        let next = if *there { published.next() } else { None };
                        next.unwrap_or_else(|| {
                            let reason = io::Error::other("another program replaced it while it was being fetched");
                            Err(Error::io("publish", &one.staging.partial)(reason))
                        })
                    })
                    .collect();
                for (one, result) in staged.into_iter().zip(&results) {
                    let partial = result.is_err().then_some(&one.staging.partial);
                    for path in partial.into_iter().chain([&one.staging.journal]) {
                        if let Err(error) = remove_if_there(path) {
                            tracing::warn!("{} stays behind: {error}", path.display());
                        }
                    }
                    drop(one.lock);
                }
                Ok(results)
            });
            match published.await {
                Ok(results) => {
                    for (answer, result) in answers.into_iter().zip(results) {
                        // Whoever asked may have been cancelled.
                        let _ = answer.send(result);
                    }
                }
                Err(error) => {
                    let mut answers = answers.into_iter();
                    if let Some(first) = answers.next() {
                        let _ = first.send(Err(error));
                    }
                }
            }
        }
    }
}
