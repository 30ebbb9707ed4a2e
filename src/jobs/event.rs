//! What a job tells. One type feeds the queue pane, the progress bar, `--json` lines and later the socket.

use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{JobId, JobSpec};
use crate::model::{DeletionReport, Verification, text};

/// Version of the serialised form; it changes when a field changes its meaning, not when one is added.
pub const EVENT_VERSION: u16 = 1;

/// One change of one job. Serialises as one line of `download --json`: `job` is text, and `file`, `bytes`, `total`, `rate`,
/// `eta_s`, `path` and `error` are always there, null where they say nothing.
///
/// Order for one job: `Queued`, then any number of `Started` … `Paused` rounds, then exactly one of `Finished`, `Failed`,
/// `Cancelled`, which is the last unless the job is retried (which begins again with `Queued`) or cleared. A `Queued`
/// in between says that the job moved, or goes on after a pause.
///
/// Between `Started` and `Paused` or the end, in any order and any number: `Progress`, `Verifying`, `Waiting`, `Retrying` and
/// `Output`, of the job and of its files, and `Started` of each file that begins. What holds the job up lasts until its
/// next `Progress`: nobody says that a wait is over but the bytes that come after it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(into = "Line", try_from = "Line")]
pub struct JobEvent {
    /// [`EVENT_VERSION`].
    pub version: u16,
    /// Counts up by one over all jobs of a worker.
    pub number: u64,
    /// The job.
    pub job: JobId,
    /// What happened.
    pub kind: JobEventKind,
}

/// What happened to a job.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum JobEventKind {
    /// It is in the queue at `position` (0 is next).
    Queued {
        /// What it will do.
        spec: Box<JobSpec>,
        /// Its place among the jobs that wait or are paused.
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
    /// Bytes so far; at most four times a second for a job, and for each of its files.
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
        /// Where the file is, once it is published.
        path: Option<PathBuf>,
        /// Connections through which its bytes come; null for what needs none.
        connections: Option<usize>,
        /// Bytes per second that courtesy holds all downloads together to; null while the link has room, and for a file.
        courtesy: Option<u64>,
    },
    /// Checksums are compared.
    Verifying {
        /// The file, else the job.
        file: Option<String>,
    },
    /// A program that works for it has printed this, made printable; or what there is to say of what it does: that a file is
    /// fetched again because it was found to be corrupt.
    Output {
        /// The line.
        line: String,
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
        /// Which retry comes next, from 1; progress begins the count anew.
        attempt: Option<u32>,
        /// When it comes; the worker notes it when the event is told.
        until: Option<Timestamp>,
    },
    /// It keeps its place and does nothing.
    Paused,
    /// Done.
    Finished {
        /// The model's first file.
        path: Option<PathBuf>,
        /// What it came to.
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

impl JobEventKind {
    /// Of a job's own progress: bytes per second that courtesy holds it to, if that is what keeps it from being faster.
    #[must_use]
    pub fn held(&self) -> Option<u64> {
        match self {
            Self::Progress { file: None, rate: Some(rate), courtesy: Some(limit), .. } => {
                super::snapshot::held(*limit, *rate)
            }
            _ => None,
        }
    }

    /// Bytes of a file or, without one, of the job, of which nothing more is known.
    #[must_use]
    pub fn progress(file: Option<String>, bytes: u64, total: u64) -> Self {
        Self::Progress { file, bytes, total, rate: None, eta_s: None, path: None, connections: None, courtesy: None }
    }

    /// Whether the job has come to its end.
    #[must_use]
    pub fn is_end(&self) -> bool {
        matches!(self, Self::Finished { .. } | Self::Failed { .. } | Self::Cancelled)
    }
}

/// What a finished job came to, beyond a path.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum JobOutcome {
    /// Of a deletion; what could not be removed is in it.
    Deleted(DeletionReport),
    /// Of a verification; damaged models are in it.
    Verified(Vec<Verification>),
    /// Of a download: bytes that came over the network.
    Fetched(u64),
    /// Of a conversion: length of the result; 0 if it was there already.
    Converted(u64),
}

/// The serialised form: flat, with the keys that a script may rely on in every line.
#[derive(Serialize, Deserialize)]
struct Line {
    event: Name,
    job: JobId,
    #[serde(default)]
    file: Option<String>,
    #[serde(default)]
    bytes: Option<u64>,
    #[serde(default)]
    total: Option<u64>,
    #[serde(default)]
    rate: Option<u64>,
    #[serde(default)]
    eta_s: Option<u64>,
    #[serde(default, with = "text::escaped_option")]
    path: Option<PathBuf>,
    #[serde(default)]
    error: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    connections: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    courtesy: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    line: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    after_s: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    attempt: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    until: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    position: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    spec: Option<Box<JobSpec>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    outcome: Option<Box<JobOutcome>>,
    number: u64,
    version: u16,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Name {
    Queued,
    Started,
    Progress,
    Verifying,
    Output,
    Waiting,
    Retrying,
    Paused,
    Finished,
    Failed,
    Cancelled,
    Cleared,
}

impl From<JobEvent> for Line {
    fn from(event: JobEvent) -> Self {
        let mut line = Self {
            event: Name::Paused,
            job: event.job,
            file: None,
            bytes: None,
            total: None,
            rate: None,
            eta_s: None,
            path: None,
            error: None,
            connections: None,
            courtesy: None,
            line: None,
            after_s: None,
            attempt: None,
            until: None,
            position: None,
            spec: None,
            outcome: None,
            number: event.number,
            version: event.version,
        };
        line.event = match event.kind {
            JobEventKind::Queued { spec, position } => {
                (line.spec, line.position) = (Some(spec), Some(position));
                Name::Queued
            }
            JobEventKind::Started { file, bytes, total } => {
                (line.file, line.bytes, line.total) = (file, bytes, total);
                Name::Started
            }
            JobEventKind::Progress { file, bytes, total, rate, eta_s, path, connections, courtesy } => {
                (line.file, line.bytes, line.total) = (file, Some(bytes), Some(total));
                (line.rate, line.eta_s, line.path) = (rate, eta_s, path);
                (line.connections, line.courtesy) = (connections, courtesy);
                Name::Progress
            }
            JobEventKind::Verifying { file } => {
                line.file = file;
                Name::Verifying
            }
            JobEventKind::Output { line: printed } => {
                line.line = Some(printed);
                Name::Output
            }
            JobEventKind::Waiting { file, error } => {
                (line.file, line.error) = (file, Some(error));
                Name::Waiting
            }
            JobEventKind::Retrying { file, error, after_s, attempt, until } => {
                (line.file, line.error, line.after_s) = (file, Some(error), Some(after_s));
                (line.attempt, line.until) = (attempt, until);
                Name::Retrying
            }
            JobEventKind::Paused => Name::Paused,
            JobEventKind::Finished { path, outcome } => {
                (line.path, line.outcome) = (path, outcome);
                Name::Finished
            }
            JobEventKind::Failed { error } => {
                line.error = Some(error);
                Name::Failed
            }
            JobEventKind::Cancelled => Name::Cancelled,
            JobEventKind::Cleared => Name::Cleared,
        };
        line
    }
}

impl TryFrom<Line> for JobEvent {
    type Error = String;

    fn try_from(line: Line) -> Result<Self, String> {
        let missing = |what: &str| format!("the event lacks '{what}'");
        let kind = match line.event {
            Name::Queued => JobEventKind::Queued {
                spec: line.spec.ok_or_else(|| missing("spec"))?,
                position: line.position.ok_or_else(|| missing("position"))?,
            },
            Name::Started => JobEventKind::Started { file: line.file, bytes: line.bytes, total: line.total },
            Name::Progress => JobEventKind::Progress {
                file: line.file,
                bytes: line.bytes.ok_or_else(|| missing("bytes"))?,
                total: line.total.ok_or_else(|| missing("total"))?,
                rate: line.rate,
                eta_s: line.eta_s,
                path: line.path,
                connections: line.connections,
                courtesy: line.courtesy,
            },
            Name::Verifying => JobEventKind::Verifying { file: line.file },
            Name::Output => JobEventKind::Output { line: line.line.ok_or_else(|| missing("line"))? },
            Name::Waiting => {
                JobEventKind::Waiting { file: line.file, error: line.error.ok_or_else(|| missing("error"))? }
            }
            Name::Retrying => JobEventKind::Retrying {
                file: line.file,
                error: line.error.ok_or_else(|| missing("error"))?,
                after_s: line.after_s.unwrap_or_default(),
                attempt: line.attempt,
                until: line.until,
            },
            Name::Paused => JobEventKind::Paused,
            Name::Finished => JobEventKind::Finished { path: line.path, outcome: line.outcome },
            Name::Failed => JobEventKind::Failed { error: line.error.ok_or_else(|| missing("error"))? },
            Name::Cancelled => JobEventKind::Cancelled,
            Name::Cleared => JobEventKind::Cleared,
        };
        Ok(Self { version: line.version, number: line.number, job: line.job, kind })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provisioner::{DestinationKind, DownloadRequest};

    fn event(kind: JobEventKind) -> JobEvent {
        JobEvent { version: EVENT_VERSION, number: 7, job: JobId(3), kind }
    }

    #[test]
    fn every_line_has_the_keys_that_scripts_rely_on() {
        let line = serde_json::to_value(event(JobEventKind::Paused)).unwrap();
        for key in ["file", "bytes", "total", "rate", "eta_s", "path", "error"] {
            assert!(line.get(key).is_some_and(serde_json::Value::is_null), "{key}: {line}");
        }
        assert_eq!(line["event"], "paused");
        assert_eq!(line["job"], "3");
    }

    #[test]
    fn an_event_reads_back() {
        let spec = JobSpec::Download(DownloadRequest {
            reference: "org/name".into(),
            files: vec!["*.gguf".into()],
            to: DestinationKind::Flat,
            force: false,
            mmproj: false,
        });
        for kind in [
            JobEventKind::Queued { spec: Box::new(spec), position: 2 },
            JobEventKind::Started { file: Some("a".into()), bytes: Some(1), total: None },
            JobEventKind::Progress {
                file: None,
                bytes: 1,
                total: 2,
                rate: Some(3),
                eta_s: None,
                path: Some("/m/a".into()),
                connections: Some(8),
                courtesy: Some(1 << 20),
            },
            JobEventKind::Verifying { file: None },
            JobEventKind::Output { line: "writing tensors".into() },
            JobEventKind::Waiting { file: None, error: "no room".into() },
            JobEventKind::Retrying {
                file: None,
                error: "no answer".into(),
                after_s: 5,
                attempt: Some(2),
                until: Some(Timestamp::from_second(1_790_000_000).unwrap()),
            },
            JobEventKind::Paused,
            JobEventKind::Finished {
                path: Some("/m/a".into()),
                outcome: Some(Box::new(JobOutcome::Deleted(DeletionReport::default()))),
            },
            JobEventKind::Failed { error: "it broke".into() },
            JobEventKind::Cancelled,
            JobEventKind::Cleared,
        ] {
            let event = event(kind);
            let text = serde_json::to_string(&event).unwrap();
            assert_eq!(serde_json::from_str::<JobEvent>(&text).unwrap(), event, "{text}");
        }
    }

    #[test]
    fn a_line_without_what_it_needs_is_refused() {
        let text = r#"{"event":"progress","job":"1","number":1,"version":1}"#;
        assert!(serde_json::from_str::<JobEvent>(text).is_err());
    }
}
