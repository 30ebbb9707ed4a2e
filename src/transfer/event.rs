//! What a transfer tells while it runs.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::model::RepoPath;

/// One event of a transfer.
///
/// Order: `Started` once, first; then for each file `FileStarted`, any number of `FileProgress`, `Retrying` and `Waiting`,
/// `Verifying`, `FileFinished`, in this order. Several files are fetched at once, so the events of one lie between those
/// of another, and files finish in any order: the largest begins first. Nothing follows the last `FileFinished`: the
/// result of [`super::run`] tells the end, also when it fails or is cancelled. A file that is there already has only
/// `FileFinished`. `Waiting` may come before `FileStarted`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TransferEvent {
    /// What will be fetched.
    Started {
        /// Every file with its size.
        files: Vec<(RepoPath, u64)>,
        /// Sum of the sizes.
        total: u64,
    },
    /// A file begins, with what a former run left of it.
    FileStarted {
        /// The file.
        file: RepoPath,
        /// Bytes that are there already.
        bytes: u64,
        /// Its size.
        total: u64,
    },
    /// Bytes of a file that are written; at most four times a second for each file. May go back after a restart. Also told
    /// once more when the file stops before its end: what is kept of it.
    FileProgress {
        /// The file.
        file: RepoPath,
        /// Bytes that are there.
        bytes: u64,
        /// Its size.
        total: u64,
        /// Connections through which bytes of it come; 0 when it stands still.
        connections: usize,
    },
    /// The only connection of the file failed and is tried again. While others bring bytes, one that fails is not told.
    Retrying {
        /// The file.
        file: RepoPath,
        /// Which try comes next, from 1.
        attempt: u32,
        /// After this time.
        after: Duration,
        /// What went wrong, in a line.
        error: String,
    },
    /// Nothing happens until something else does: another process has the file, the disk is full.
    Waiting {
        /// The file.
        file: RepoPath,
        /// For what, in words.
        why: String,
    },
    /// All bytes are there and their checksum is compared.
    Verifying {
        /// The file.
        file: RepoPath,
    },
    /// The file is published, or was there already.
    FileFinished {
        /// The file.
        file: RepoPath,
        /// Where it is.
        path: PathBuf,
        /// Bytes that came over the network for it in this run.
        fetched: u64,
    },
}

/// Takes events. It is called from the transfer's own tasks and must return at once: put the event into a channel
/// or a shared value.
pub type EventSink = Arc<dyn Fn(TransferEvent) + Send + Sync>;
