//! What a job tells. One type feeds the queue pane, the progress bar, `--json` lines and later the socket.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{JobId, JobSpec};
use crate::model::{DeletionReport, Verification, text};

/// Version of the serialised form; it changes when a field changes its meaning, not when one is added.
pub const EVENT_VERSION: u16 = 1;

/// One change of one job. Serialises as one line of `download --json` (`job` as text, absent values as null).
///
/// Order for one job: `Queued`, then any number of `Started` … `Paused` rounds, then exactly one of `Finished`, `Failed`,
/// `Cancelled`, which has no `file` and is the last unless the job is retried (which begins again with `Queued`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobEvent {
    /// [`EVENT_VERSION`].
    pub version: u16,
    /// Counts up by one over all jobs of a worker.
    pub number: u64,
    /// The job.
    pub job: JobId,
    /// What happened.
    #[serde(flatten)]
    pub kind: JobEventKind,
}

/// What happened to a job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "event")]
#[non_exhaustive]
pub enum JobEventKind {
    /// It is in the queue at `position` (0 is next).
    Queued {
        /// What it will do.
        spec: Box<JobSpec>,
        /// Its place.
        position: usize,
    },
    /// It runs; for a file: the file begins.
    Started {
        /// The file, else the job.
        file: Option<String>,
        /// Bytes that are there already.
        bytes: Option<u64>,
        /// All bytes.
        total: Option<u64>,
    },
    /// Bytes so far; at most four times a second for a job.
    Progress {
        /// The file, else the job.
        file: Option<String>,
        /// Bytes that are there.
        bytes: u64,
        /// All bytes.
        total: u64,
        /// Bytes per second, measured; null before there is anything to measure.
        rate: Option<u64>,
        /// Seconds left at that rate; null when nothing moves.
        eta_s: Option<u64>,
    },
    /// Checksums are compared.
    Verifying {
        /// The file, else the job.
        file: Option<String>,
    },
    /// Nothing happens until something else does.
    Waiting {
        /// The file, else the job.
        file: Option<String>,
        /// For what, in words.
        error: String,
    },
    /// Something failed and is tried again.
    Retrying {
        /// The file, else the job.
        file: Option<String>,
        /// What failed.
        error: String,
        /// Seconds until the next try.
        after_s: u64,
    },
    /// It keeps its place and does nothing.
    Paused,
    /// Done. With `file`: that file is published.
    Finished {
        /// The file, else the job.
        file: Option<String>,
        /// The published file, or the model's first one.
        #[serde(with = "text::escaped_option")]
        path: Option<PathBuf>,
        /// What it came to.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        outcome: Option<Box<JobOutcome>>,
    },
    /// It failed for good.
    Failed {
        /// One line: the thing, the cause, the way out.
        error: String,
    },
    /// A person stopped it.
    Cancelled,
    /// It was taken out of the list.
    Cleared,
}

/// What a finished job came to, beyond a path.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum JobOutcome {
    /// Of a deletion.
    Deleted(DeletionReport),
    /// Of a verification.
    Verified(Vec<Verification>),
    /// Of a download: bytes that came over the network.
    Fetched(u64),
}
