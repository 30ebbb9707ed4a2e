//! The queue as values: the one reducer of events into what every front end shows.

use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{JobEvent, JobEventKind, JobId, JobOutcome, JobSpec};
use crate::model::text;

/// Lines of output that are kept.
const OUTPUT: usize = 12;

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
    /// Cannot go on by itself: another process, no room, no byte. `why` says what for.
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
    /// Which retry comes next, from 1; only while it retries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
    /// When it tries again; only while it retries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// Bytes that are there.
    pub bytes: u64,
    /// All bytes, once known.
    pub total: Option<u64>,
    /// Bytes per second, measured.
    pub rate: Option<u64>,
    /// Seconds left.
    pub eta_s: Option<u64>,
    /// Connections through which bytes come; `None` for what needs none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections: Option<usize>,
    /// Bytes per second that courtesy holds all downloads together to; `None` while the link has room.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub courtesy: Option<u64>,
    /// The result.
    #[serde(with = "text::escaped_option")]
    pub path: Option<PathBuf>,
    /// What it came to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Box<JobOutcome>>,
    /// Files, in the order in which they began.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<FileProgress>,
    /// What a program that works for it printed last, a few lines.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub output: Vec<String>,
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
    /// Connections through which bytes of it come.
    #[serde(default)]
    pub connections: usize,
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
    pub fn apply(&mut self, event: &JobEvent) {
        if event.number <= self.number {
            return;
        }
        self.number = event.number;
        match &event.kind {
            JobEventKind::Queued { spec, position } => self.queue(event.job, spec, *position),
            JobEventKind::Cleared => self.jobs.retain(|job| job.id != event.job),
            kind => {
                let Some(at) = self.jobs.iter().position(|job| job.id == event.job) else { return };
                let before = Group::of(self.jobs[at].state);
                self.jobs[at].apply(kind);
                let after = Group::of(self.jobs[at].state);
                if before != after {
                    let job = self.jobs.remove(at);
                    // What stops running is next; what begins or ends comes after those before it.
                    let place = if after == Group::Waiting { self.start_of(after) } else { self.end_of(after) };
                    self.jobs.insert(place, job);
                }
            }
        }
    }

    fn queue(&mut self, id: JobId, spec: &JobSpec, position: usize) {
        let mut job = match self.jobs.iter().position(|job| job.id == id) {
            Some(at) => self.jobs.remove(at),
            None => JobStatus::new(id, spec.clone()),
        };
        job.begin_again(spec);
        let place = (self.start_of(Group::Waiting) + position).min(self.jobs.len());
        self.jobs.insert(place, job);
    }

    fn start_of(&self, group: Group) -> usize {
        self.jobs.iter().take_while(|job| Group::of(job.state) < group).count()
    }

    fn end_of(&self, group: Group) -> usize {
        self.jobs.iter().take_while(|job| Group::of(job.state) <= group).count()
    }

    /// The job of that number.
    #[must_use]
    pub fn job(&self, id: JobId) -> Option<&JobStatus> {
        self.jobs.iter().find(|job| job.id == id)
    }

    /// Its place among the jobs that wait or are paused; `None` for one that runs or has ended.
    #[must_use]
    pub fn position(&self, id: JobId) -> Option<usize> {
        self.jobs.iter().filter(|job| Group::of(job.state) == Group::Waiting).position(|job| job.id == id)
    }

    /// How many jobs of its kind have their turn before it; `None` for one that does not wait for its turn.
    #[must_use]
    pub fn turn(&self, id: JobId) -> Option<usize> {
        let job = self.job(id).filter(|job| job.state == JobState::Queued)?;
        let before = self.jobs.iter().take_while(|other| other.id != id);
        Some(before.filter(|other| other.state == JobState::Queued && other.spec.kind() == job.spec.kind()).count())
    }

    /// Bytes per second that courtesy holds all downloads together to, rounded down so that it does not change all the
    /// time; `None` while they are not even near it.
    #[must_use]
    pub fn held(&self) -> Option<u64> {
        let limit = self.jobs.iter().filter_map(|job| job.courtesy).min()?;
        held(limit, self.jobs.iter().filter_map(|job| job.rate).fold(0, u64::saturating_add))
    }

    /// How many jobs wait or are paused.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.jobs.iter().filter(|job| Group::of(job.state) == Group::Waiting).count()
    }
}

/// The limit of courtesy in round figures, if it is what keeps `rate` bytes per second from being more.
pub(super) fn held(limit: u64, rate: u64) -> Option<u64> {
    let step = (limit.next_power_of_two() / 16).max(1 << 17);
    (rate.saturating_mul(4) >= limit.saturating_mul(3)).then(|| (limit - limit % step).max(step))
}

/// The sections of the queue, in the order in which they are shown.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Group {
    Ended,
    Active,
    Waiting,
}

impl Group {
    fn of(state: JobState) -> Self {
        if state.has_ended() {
            Self::Ended
        } else if state.is_active() {
            Self::Active
        } else {
            Self::Waiting
        }
    }
}

impl JobStatus {
    /// A job that nothing has happened to yet.
    #[must_use]
    pub fn new(id: JobId, spec: JobSpec) -> Self {
        Self {
            id,
            spec,
            state: JobState::Queued,
            why: None,
            attempt: None,
            until: None,
            bytes: 0,
            total: None,
            rate: None,
            eta_s: None,
            connections: None,
            courtesy: None,
            path: None,
            outcome: None,
            files: Vec::new(),
            output: Vec::new(),
        }
    }

    /// Back in the queue. What is known of its bytes stays, for the partial does.
    fn begin_again(&mut self, spec: &JobSpec) {
        self.spec = spec.clone();
        (self.path, self.outcome) = (None, None);
        self.output.clear();
        self.rest(JobState::Queued, None);
    }

    /// A state in which nothing moves: there is no rate to show.
    fn rest(&mut self, state: JobState, why: Option<&str>) {
        self.state = state;
        self.why = why.map(str::to_owned);
        (self.attempt, self.until) = (None, None);
        (self.rate, self.eta_s) = (None, None);
        (self.connections, self.courtesy) = (None, None);
        self.files.iter_mut().for_each(|file| file.connections = 0);
    }

    fn apply(&mut self, kind: &JobEventKind) {
        match kind {
            JobEventKind::Started { file, bytes, total } => {
                self.rest(JobState::Running, None);
                match file {
                    Some(file) => self.file(file, bytes.unwrap_or(0), total.unwrap_or(0), false, 0),
                    None => {
                        self.bytes = bytes.unwrap_or(self.bytes);
                        self.total = total.or(self.total);
                    }
                }
            }
            JobEventKind::Progress { file, bytes, total, rate, eta_s, path, connections, courtesy } => {
                match file {
                    Some(file) => self.file(file, *bytes, *total, path.is_some(), connections.unwrap_or(0)),
                    None => {
                        (self.bytes, self.total) = (*bytes, Some(*total));
                        (self.rate, self.eta_s) = (*rate, *eta_s);
                        (self.connections, self.courtesy) = (*connections, *courtesy);
                    }
                }
                self.state = JobState::Running;
                self.why = None;
                (self.attempt, self.until) = (None, None);
            }
            JobEventKind::Verifying { file } if self.others_move(file.as_deref()) => {}
            JobEventKind::Verifying { .. } => self.rest(JobState::Verifying, None),
            JobEventKind::Output { line } => {
                if self.output.len() >= OUTPUT {
                    self.output.remove(0);
                }
                self.output.push(line.clone());
            }
            JobEventKind::Waiting { file, .. } | JobEventKind::Retrying { file, .. }
                if self.others_move(file.as_deref()) => {}
            JobEventKind::Waiting { error, .. } => self.rest(JobState::Waiting, Some(error)),
            JobEventKind::Retrying { error, attempt, until, .. } => {
                self.rest(JobState::Retrying, Some(error));
                (self.attempt, self.until) = (*attempt, *until);
            }
            JobEventKind::Paused => self.rest(JobState::Paused, None),
            JobEventKind::Finished { path, outcome } => {
                self.rest(JobState::Finished, None);
                self.path.clone_from(path);
                self.outcome.clone_from(outcome);
                if let Some(total) = self.total {
                    self.bytes = total;
                }
            }
            JobEventKind::Failed { error } => self.rest(JobState::Failed, Some(error)),
            JobEventKind::Cancelled => self.rest(JobState::Cancelled, None),
            JobEventKind::Queued { .. } | JobEventKind::Cleared => {}
        }
    }

    /// A file stands still. Whether bytes of another one come all the same: then the job itself goes on.
    fn others_move(&mut self, file: Option<&str>) -> bool {
        let Some(file) = file else { return false };
        if let Some(known) = self.files.iter_mut().find(|known| known.file == file) {
            known.connections = 0;
        }
        self.files.iter().any(|known| !known.finished && known.connections > 0)
    }

    fn file(&mut self, file: &str, bytes: u64, total: u64, finished: bool, connections: usize) {
        let progress = FileProgress { file: file.to_owned(), bytes, total, finished, connections };
        match self.files.iter_mut().find(|known| known.file == file) {
            Some(known) => *known = progress,
            None => self.files.push(progress),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::jobs::EVENT_VERSION;
    use crate::provisioner::{DestinationKind, DownloadRequest};

    fn spec() -> JobSpec {
        JobSpec::Download(DownloadRequest {
            reference: "org/name".into(),
            files: Vec::new(),
            to: DestinationKind::Flat,
            force: false,
            mmproj: false,
        })
    }

    fn play(events: &[(u64, JobEventKind)]) -> Snapshot {
        let mut snapshot = Snapshot::default();
        for (number, (job, kind)) in (1..).zip(events) {
            let event = JobEvent { version: EVENT_VERSION, number, job: JobId(*job), kind: kind.clone() };
            snapshot.apply(&event);
        }
        snapshot
    }

    fn queued(position: usize) -> JobEventKind {
        JobEventKind::Queued { spec: Box::new(spec()), position }
    }

    fn started() -> JobEventKind {
        JobEventKind::Started { file: None, bytes: None, total: None }
    }

    fn order(snapshot: &Snapshot) -> Vec<u64> {
        snapshot.jobs.iter().map(|job| job.id.0).collect()
    }

    #[test]
    fn ended_jobs_come_first_then_running_then_waiting() {
        let finished = JobEventKind::Finished { path: None, outcome: None };
        let snapshot = play(&[
            (1, queued(0)),
            (2, queued(1)),
            (3, queued(2)),
            (4, queued(3)),
            (1, started()),
            (2, started()),
            (2, finished),
            (4, queued(0)),
        ]);
        assert_eq!(order(&snapshot), [2, 1, 4, 3]);
        assert_eq!(snapshot.position(JobId(3)), Some(1));
        assert_eq!(snapshot.position(JobId(1)), None);
    }

    #[test]
    fn a_job_that_pauses_while_it_runs_is_next() {
        let snapshot = play(&[(1, queued(0)), (2, queued(1)), (1, started()), (1, JobEventKind::Paused)]);
        assert_eq!(order(&snapshot), [1, 2]);
        assert_eq!(snapshot.jobs[0].state, JobState::Paused);
    }

    #[test]
    fn what_does_not_move_has_no_rate() {
        let progress = JobEventKind::Progress {
            file: None,
            bytes: 5,
            total: 10,
            rate: Some(5),
            eta_s: Some(1),
            path: None,
            connections: Some(3),
            courtesy: Some(5),
        };
        let moving = play(&[(1, queued(0)), (1, started()), (1, progress.clone())]);
        assert_eq!((moving.jobs[0].connections, moving.jobs[0].courtesy), (Some(3), Some(5)));
        let waiting = JobEventKind::Waiting { file: None, error: "no room".into() };
        let snapshot = play(&[(1, queued(0)), (1, started()), (1, progress), (1, waiting)]);
        let job = snapshot.job(JobId(1)).unwrap();
        assert_eq!((job.bytes, job.rate, job.eta_s, job.why.as_deref()), (5, None, None, Some("no room")));
        assert_eq!((job.connections, job.courtesy), (None, None));
    }

    #[test]
    fn courtesy_is_told_only_while_it_is_what_holds_the_downloads_back() {
        const MIB: u64 = 1 << 20;
        let progress = |rate: u64, courtesy| JobEventKind::Progress {
            file: None,
            bytes: 5,
            total: 10,
            rate: Some(rate),
            eta_s: None,
            path: None,
            connections: Some(1),
            courtesy,
        };
        let held = |first: u64, second: u64, courtesy| {
            let began = [(1, queued(0)), (2, queued(1)), (1, started()), (2, started())];
            let moved = [(1, progress(first, courtesy)), (2, progress(second, courtesy))];
            play(&[began, [moved[0].clone(), moved[1].clone(), (3, queued(0)), (3, started())]].concat()).held()
        };
        assert_eq!(held(5 * MIB, 5 * MIB, None), None);
        assert_eq!(held(MIB, MIB, Some(10 * MIB)), None, "something else is slower");
        assert_eq!(held(5 * MIB, 4 * MIB, Some(10 * MIB + 70_000)), Some(10 * MIB));
        assert_eq!(held(5 * MIB, 4 * MIB, Some(10 * MIB + 90_000)), Some(10 * MIB), "small changes are none");
        assert_eq!(held(40_000, 0, Some(50_000)), Some(1 << 17));
    }

    #[test]
    fn a_retried_job_begins_without_the_old_error() {
        let failed = JobEventKind::Failed { error: "it broke".into() };
        let snapshot = play(&[(1, queued(0)), (1, started()), (1, failed), (1, queued(0))]);
        assert_eq!((snapshot.jobs[0].state, snapshot.jobs[0].why.as_deref()), (JobState::Queued, None));
    }

    fn any_kind() -> impl Strategy<Value = JobEventKind> {
        let file = prop::option::of(prop::sample::select(vec!["a".to_owned(), "b".to_owned()]));
        prop_oneof![
            (0..6_usize).prop_map(queued),
            (file.clone(), any::<Option<u16>>()).prop_map(|(file, bytes)| JobEventKind::Started {
                file,
                bytes: bytes.map(u64::from),
                total: None
            }),
            (file.clone(), any::<u16>(), any::<Option<u16>>()).prop_map(|(file, bytes, rate)| JobEventKind::Progress {
                file,
                bytes: bytes.into(),
                total: 70_000,
                rate: rate.map(u64::from),
                eta_s: None,
                path: None,
                connections: None,
                courtesy: None,
            }),
            file.clone().prop_map(|file| JobEventKind::Verifying { file }),
            file.prop_map(|file| JobEventKind::Retrying {
                file,
                error: "x".into(),
                after_s: 1,
                attempt: Some(1),
                until: None,
            }),
            Just(JobEventKind::Paused),
            Just(JobEventKind::Finished { path: None, outcome: None }),
            Just(JobEventKind::Failed { error: "x".into() }),
            Just(JobEventKind::Cancelled),
            Just(JobEventKind::Cleared),
        ]
    }

    proptest! {
        #[test]
        fn whatever_happens_the_sections_stay_in_order(events in prop::collection::vec((0..5_u64, any_kind()), 0..60)) {
            let snapshot = play(&events);
            let groups: Vec<_> = snapshot.jobs.iter().map(|job| Group::of(job.state)).collect();
            prop_assert!(groups.is_sorted());
            let mut ids = order(&snapshot);
            ids.sort_unstable();
            ids.dedup();
            prop_assert_eq!(ids.len(), snapshot.jobs.len());
        }

        #[test]
        fn old_events_change_nothing(events in prop::collection::vec((0..5_u64, any_kind()), 1..40), at in any::<prop::sample::Index>()) {
            let mut snapshot = play(&events);
            let before = snapshot.clone();
            let at = at.index(events.len());
            let (job, kind) = events[at].clone();
            snapshot.apply(&JobEvent { version: EVENT_VERSION, number: at as u64 + 1, job: JobId(job), kind });
            prop_assert_eq!(snapshot, before);
        }

        #[test]
        fn a_snapshot_taken_anywhere_and_the_events_after_it_give_the_same(events in prop::collection::vec((0..5_u64, any_kind()), 0..40), at in 0..40_usize) {
            let whole = play(&events);
            let mut late = play(&events[..at.min(events.len())]);
            let text = serde_json::to_string(&late).unwrap();
            late = serde_json::from_str(&text).unwrap();
            for (number, (job, kind)) in (1..).zip(&events) {
                late.apply(&JobEvent { version: EVENT_VERSION, number, job: JobId(*job), kind: kind.clone() });
            }
            prop_assert_eq!(late, whole);
        }
    }
}
