//! The queue as values: the one reducer of events into what every front end shows.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{JobEvent, JobId, JobOutcome, JobSpec};
use crate::model::text;

/// What a job is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JobState {
    /// Waits for its turn.
    Queued,
    /// Runs.
    Running,
    /// Runs, and compares checksums.
    Verifying,
    /// Cannot go on by itself: another process, no room, no network. `why` says what for.
    Waiting,
    /// Failed and will try again. `why` says what failed.
    Retrying,
    /// Stopped by a person, keeps its place.
    Paused,
    /// Done.
    Finished,
    /// Ended by an error. `why` has it.
    Failed,
    /// Ended by a person.
    Cancelled,
}

impl JobState {
    /// Whether nothing more happens to it by itself.
    #[must_use]
    pub fn has_ended(self) -> bool {
        matches!(self, Self::Finished | Self::Failed | Self::Cancelled)
    }

    /// Whether work is under way that quitting would interrupt.
    #[must_use]
    pub fn is_active(self) -> bool {
        matches!(self, Self::Running | Self::Verifying | Self::Waiting | Self::Retrying)
    }

    /// The word on screens and in JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Verifying => "verifying",
            Self::Waiting => "waiting",
            Self::Retrying => "retrying",
            Self::Paused => "paused",
            Self::Finished => "finished",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

/// One job of the queue.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobStatus {
    /// Its number.
    pub id: JobId,
    /// What it does.
    pub spec: JobSpec,
    /// What it is doing.
    pub state: JobState,
    /// Why it waits, retries or failed.
    pub why: Option<String>,
    /// Bytes that are there.
    pub bytes: u64,
    /// All bytes, once known.
    pub total: Option<u64>,
    /// Bytes per second, measured.
    pub rate: Option<u64>,
    /// Seconds left.
    pub eta_s: Option<u64>,
    /// The result.
    #[serde(with = "text::escaped_option")]
    pub path: Option<PathBuf>,
    /// What it came to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Box<JobOutcome>>,
    /// Files, in the order in which they began.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<FileProgress>,
}

/// One file of a job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FileProgress {
    /// Path in the repository.
    pub file: String,
    /// Bytes that are there.
    pub bytes: u64,
    /// Its size.
    pub total: u64,
    /// Whether it is published.
    pub finished: bool,
}

/// The queue at one moment: jobs in order, ended ones first, then running, then waiting.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Number of the last event that is in it.
    pub number: u64,
    /// Every job.
    pub jobs: Vec<JobStatus>,
    /// Bytes per second over all downloads.
    pub limit: Option<u64>,
    /// What is wrong with the queue itself (its file cannot be written).
    pub warnings: Vec<String>,
}

impl Snapshot {
    /// Folds one event in. The worker, the screen and the progress bar all use this, so that they always agree.
    /// An event that is older than the snapshot changes nothing.
    pub fn apply(&mut self, _event: &JobEvent) {
        todo!()
    }

    /// The job of that number.
    #[must_use]
    pub fn job(&self, id: JobId) -> Option<&JobStatus> {
        self.jobs.iter().find(|job| job.id == id)
    }
}
