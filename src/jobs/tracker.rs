//! From what a transfer tells to what a job tells: sums over files, a measured rate, few events.

use std::collections::HashMap;
use std::time::Duration;

use super::JobEventKind;
use crate::model::RepoPath;
use crate::model::size::Meter;
use crate::transfer::TransferEvent;

/// Between two events about progress.
pub(super) const TICK: Duration = Duration::from_millis(250);
/// Over which a rate is measured: long enough to be steady, short enough that a stall shows.
const WINDOW: Duration = Duration::from_secs(3);
/// Seconds without a byte after which that is told, and told again, so that what is said of the time stays about right.
const QUIET: [u64; 9] = [4, 10, 30, 60, 120, 300, 600, 1800, 3600];

/// The progress of one run of a download. Time is a value: the time since the run began.
#[derive(Debug)]
pub(super) struct Tracker {
    files: Vec<FileState>,
    /// Where each file stands among them: there may be thousands, and every event names one.
    places: HashMap<RepoPath, usize>,
    total: u64,
    /// Sum over the files.
    bytes: u64,
    meter: Meter,
    /// Bytes that moved in this run; what was there before it never counts as speed.
    moved: u64,
    /// Files that move. Between a retry, a wait or a checksum and its next byte a file does not; when none moves, nothing
    /// says that bytes arrive.
    moving: usize,
    /// Sum over the files.
    connections: usize,
    /// What courtesy holds all downloads to.
    courtesy: Option<u64>,
    told: Option<Told>,
    /// Since when no new byte came.
    quiet: Duration,
    /// How often that was told.
    quiet_told: usize,
    /// New bytes that nobody has asked for yet.
    fresh: u64,
    /// Whether any byte came that was not there when its file began.
    arrived: bool,
}

#[derive(Debug)]
struct FileState {
    path: RepoPath,
    bytes: u64,
    /// What was there when it began.
    begun: Option<u64>,
    total: u64,
    moves: bool,
    /// Whether it failed or waits: what lasts until its next byte.
    held_up: bool,
    connections: usize,
    /// What the last event said.
    told: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Told {
    at: Duration,
    bytes: u64,
    rate: Option<u64>,
    eta_s: Option<u64>,
    connections: usize,
    courtesy: Option<u64>,
}

impl Tracker {
    pub(super) fn new() -> Self {
        let meter = Meter::new(WINDOW);
        Self {
            files: Vec::new(),
            places: HashMap::new(),
            total: 0,
            bytes: 0,
            meter,
            moved: 0,
            moving: 0,
            connections: 0,
            courtesy: None,
            told: None,
            quiet: Duration::ZERO,
            quiet_told: 0,
            fresh: 0,
            arrived: false,
        }
    }

    /// Notes what courtesy holds all downloads to; the next progress tells it.
    pub(super) fn hold(&mut self, courtesy: Option<u64>) {
        self.courtesy = courtesy;
    }

    /// Takes an event of the transfer and gives what is to be told at once.
    pub(super) fn take(&mut self, event: TransferEvent, now: Duration) -> Vec<JobEventKind> {
        let mut told = Vec::new();
        match event {
            TransferEvent::Started { files, total } => {
                self.places = files.iter().enumerate().map(|(at, (path, _))| (path.clone(), at)).collect();
                self.files = files
                    .into_iter()
                    .map(|(path, total)| FileState {
                        path,
                        bytes: 0,
                        begun: None,
                        total,
                        moves: false,
                        held_up: false,
                        connections: 0,
                        told: None,
                    })
                    .collect();
                (self.bytes, self.moving, self.connections) = (0, 0, 0);
                self.total = total;
                (self.quiet, self.quiet_told) = (now, 0);
            }
            TransferEvent::FileStarted { file, bytes, total } => {
                self.go_on(&file, now);
                self.set(&file, bytes);
                if let Some(known) = self.known(&file) {
                    known.begun = Some(bytes);
                }
                told.push(JobEventKind::Started {
                    file: Some(file.as_str().to_owned()),
                    bytes: Some(bytes),
                    total: Some(total),
                });
                told.push(self.job_progress(now));
            }
            TransferEvent::FileProgress { file, bytes, connections, .. } => {
                if self.known(&file).is_some_and(|known| known.held_up && bytes <= known.bytes) {
                    // A try is no progress.
                    self.set(&file, bytes);
                    return told;
                }
                self.go_on(&file, now);
                self.connect(&file, connections);
                self.arrived |= self.known(&file).and_then(|known| known.begun).is_some_and(|begun| bytes > begun);
                let new = self.set(&file, bytes);
                if new > 0 {
                    (self.quiet, self.quiet_told) = (now, 0);
                }
                self.moved += new;
                self.fresh += new;
                self.meter.record(now, self.moved);
                if self.is_quiet() {
                    // A connection that opens or closes is no byte: what was said of the wait stays true.
                    return told;
                }
                if self.told.is_none_or(|told| now.saturating_sub(told.at) >= TICK) {
                    told.extend(self.progress(now));
                }
            }
            TransferEvent::Retrying { file, attempt, after, error } => {
                self.hold_up(&file);
                told.push(JobEventKind::Retrying {
                    file: Some(file.as_str().to_owned()),
                    error,
                    // What takes part of a second does not come at once.
                    after_s: after.as_millis().div_ceil(1000).try_into().unwrap_or(u64::MAX),
                    attempt: Some(attempt),
                    until: None,
                });
            }
            TransferEvent::Waiting { file, why } => {
                self.hold_up(&file);
                told.push(JobEventKind::Waiting { file: Some(file.as_str().to_owned()), error: why });
            }
            TransferEvent::Verifying { file } => {
                self.rest(&file);
                told.push(JobEventKind::Verifying { file: Some(file.as_str().to_owned()) });
            }
            TransferEvent::FileFinished { file, path, fetched } => {
                self.rest(&file);
                let total = self.known(&file).map_or(0, |known| known.total);
                // Another process may have published it: what it fetched is no speed of this one.
                let new = self.set(&file, total).min(fetched);
                (self.quiet, self.quiet_told) = (now, 0);
                self.moved += new;
                self.fresh += new;
                self.arrived |= fetched > 0;
                if let Some(known) = self.known(&file) {
                    known.told = Some(total);
                }
                told.push(JobEventKind::Progress {
                    file: Some(file.as_str().to_owned()),
                    bytes: total,
                    total,
                    rate: None,
                    eta_s: None,
                    path: Some(path),
                    connections: Some(0),
                    courtesy: None,
                });
                told.push(self.job_progress(now));
            }
        }
        told
    }

    /// What is to be told because time has passed: the newest bytes, and a rate that falls while nothing arrives.
    pub(super) fn tick(&mut self, now: Duration) -> Vec<JobEventKind> {
        if self.moving == 0 || self.is_quiet() || self.told.is_none_or(|told| now.saturating_sub(told.at) < TICK) {
            return Vec::new();
        }
        let (rate, eta_s) = self.speed(now);
        if self.told.is_some_and(|told| {
            (told.bytes, told.rate, told.eta_s, told.connections, told.courtesy)
                == (self.bytes, rate, eta_s, self.connections, self.courtesy)
        }) {
            return Vec::new();
        }
        self.progress(now)
    }

    /// How long no byte has come although some should, if it is time to tell that: once when it is long enough to be
    /// noticed, then ever less often.
    pub(super) fn quiet(&mut self, now: Duration) -> Option<Duration> {
        // Before the first file begins, what is there already is looked at.
        if self.moving == 0 && self.told.is_some() {
            return None;
        }
        let quiet = now.saturating_sub(self.quiet);
        let last = QUIET[QUIET.len() - 1];
        let next = QUIET.get(self.quiet_told).copied().unwrap_or_else(|| {
            let beyond = self.quiet_told + 1 - QUIET.len();
            last.saturating_mul(u64::try_from(beyond).unwrap_or(u64::MAX).saturating_add(1))
        });
        (quiet.as_secs() >= next).then(|| {
            self.quiet_told += 1;
            quiet
        })
    }

    /// Whether it was told that no byte comes, and none has come since.
    pub(super) fn is_quiet(&self) -> bool {
        self.quiet_told > 0
    }

    /// Connections through which bytes come.
    pub(super) fn connections(&self) -> usize {
        self.connections
    }

    /// Whether a file has begun.
    pub(super) fn has_begun(&self) -> bool {
        self.told.is_some()
    }

    /// Whether any byte has come over the network that brought a file further than it was.
    pub(super) fn has_arrived(&self) -> bool {
        self.arrived
    }

    /// Bytes that came over the network since the last call.
    pub(super) fn take_fresh(&mut self) -> u64 {
        std::mem::take(&mut self.fresh)
    }

    /// What is to be told when the transfer has stopped before its end: the last bytes, whenever the others were told.
    pub(super) fn stop(&mut self, now: Duration) -> Vec<JobEventKind> {
        if self.told.is_none_or(|told| told.bytes == self.bytes) { Vec::new() } else { self.progress(now) }
    }

    fn known(&mut self, file: &RepoPath) -> Option<&mut FileState> {
        self.files.get_mut(*self.places.get(file)?)
    }

    /// Notes the bytes of a file and gives how many are new; fewer than before is a restart, which moved nothing.
    fn set(&mut self, file: &RepoPath, bytes: u64) -> u64 {
        let Some(known) = self.known(file) else { return 0 };
        let before = std::mem::replace(&mut known.bytes, bytes);
        self.bytes = self.bytes - before + bytes;
        bytes.saturating_sub(before)
    }

    /// A file moves. After a time in which none did the measurement begins anew: that time says nothing about the speed
    /// that follows.
    fn go_on(&mut self, file: &RepoPath, now: Duration) {
        if self.moving == 0 || self.told.is_none() {
            self.meter = Meter::new(WINDOW);
            self.meter.record(now, self.moved);
        }
        if let Some(known) = self.known(file) {
            known.held_up = false;
            if !known.moves {
                known.moves = true;
                self.moving += 1;
                if self.moving == 1 {
                    (self.quiet, self.quiet_told) = (now, 0);
                }
            }
        }
    }

    /// A file does not move until its next byte, and it is told why.
    fn hold_up(&mut self, file: &RepoPath) {
        self.rest(file);
        if let Some(known) = self.known(file) {
            known.held_up = true;
        }
    }

    /// Bytes of a file come through so many connections.
    fn connect(&mut self, file: &RepoPath, connections: usize) {
        let Some(known) = self.known(file) else { return };
        let before = std::mem::replace(&mut known.connections, connections);
        self.connections = self.connections - before + connections;
    }

    /// A file does not move.
    fn rest(&mut self, file: &RepoPath) {
        self.connect(file, 0);
        if let Some(known) = self.known(file).filter(|known| known.moves) {
            known.moves = false;
            self.moving -= 1;
        }
    }

    fn speed(&self, now: Duration) -> (Option<u64>, Option<u64>) {
        let remaining = self.total.saturating_sub(self.bytes);
        (self.meter.rate(now).map(|rate| rate.0), self.meter.eta(now, remaining).map(|eta| eta.as_secs()))
    }

    fn progress(&mut self, now: Duration) -> Vec<JobEventKind> {
        let (rate, _) = self.speed(now);
        let moving = self.files.iter_mut().filter(|file| file.told != Some(file.bytes) && file.bytes > 0);
        let mut events: Vec<JobEventKind> = moving
            .map(|file| {
                file.told = Some(file.bytes);
                JobEventKind::Progress {
                    file: Some(file.path.as_str().to_owned()),
                    bytes: file.bytes,
                    total: file.total,
                    rate,
                    eta_s: None,
                    path: None,
                    connections: Some(file.connections),
                    courtesy: None,
                }
            })
            .collect();
        events.push(self.job_progress(now));
        events
    }

    fn job_progress(&mut self, now: Duration) -> JobEventKind {
        let (rate, eta_s) = self.speed(now);
        let (bytes, connections, courtesy) = (self.bytes, self.connections, self.courtesy);
        self.told = Some(Told { at: now, bytes, rate, eta_s, connections, courtesy });
        JobEventKind::Progress {
            file: None,
            bytes,
            total: self.total,
            rate,
            eta_s,
            path: None,
            connections: Some(connections),
            courtesy,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> RepoPath {
        RepoPath::parse(text).unwrap()
    }

    fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn started(tracker: &mut Tracker, there: u64) {
        let files = vec![(path("a"), 10_000), (path("b"), 5_000)];
        tracker.take(TransferEvent::Started { files, total: 15_000 }, at(0));
        tracker.take(TransferEvent::FileStarted { file: path("a"), bytes: there, total: 10_000 }, at(0));
    }

    fn bytes(tracker: &mut Tracker, bytes: u64, now: u64) -> Vec<JobEventKind> {
        tracker.take(TransferEvent::FileProgress { file: path("a"), bytes, total: 10_000, connections: 1 }, at(now))
    }

    /// Bytes, rate and seconds left of the job's own event.
    fn job(events: &[JobEventKind]) -> Option<(u64, Option<u64>, Option<u64>)> {
        events.iter().find_map(|event| match event {
            JobEventKind::Progress { file: None, bytes, rate, eta_s, .. } => Some((*bytes, *rate, *eta_s)),
            _ => None,
        })
    }

    #[test]
    fn many_events_become_four_a_second() {
        let mut tracker = Tracker::new();
        started(&mut tracker, 0);
        let told: usize = (1..=1000).map(|ms| bytes(&mut tracker, ms, ms).len()).sum();
        assert_eq!(told, 8, "one for the job and one for the file, four times");
    }

    #[test]
    fn what_was_there_before_is_no_speed() {
        let mut tracker = Tracker::new();
        started(&mut tracker, 6_000);
        let events = bytes(&mut tracker, 7_000, 1000);
        assert_eq!(job(&events), Some((7_000, Some(1000), Some(8))));
    }

    #[test]
    fn a_stall_shows_by_itself_and_then_nothing_is_told() {
        let mut tracker = Tracker::new();
        started(&mut tracker, 0);
        bytes(&mut tracker, 2_000, 1000);
        let rates: Vec<_> = (5..40).filter_map(|tick| job(&tracker.tick(at(tick * 250)))).map(|told| told.1).collect();
        assert!(rates.windows(2).all(|pair| pair[1] <= pair[0]), "{rates:?}");
        assert_eq!(rates.last(), Some(&Some(0)));
        assert!(rates.len() < 20, "a stall that is told is not told again: {rates:?}");
    }

    #[test]
    fn that_no_byte_comes_is_told_once_and_then_ever_less_often() {
        let mut tracker = Tracker::new();
        started(&mut tracker, 0);
        bytes(&mut tracker, 2_000, 1000);
        let told: Vec<u64> =
            (4..500).filter_map(|tick| tracker.quiet(at(tick * 250))).map(|for_| for_.as_secs()).collect();
        assert_eq!(told, [4, 10, 30, 60, 120]);
        assert!(tracker.is_quiet());
        assert!(tracker.tick(at(126_000)).is_empty(), "a rate of nothing says less than the words");
        bytes(&mut tracker, 3_000, 130_000);
        assert!(!tracker.is_quiet() && tracker.quiet(at(133_000)).is_none());
    }

    #[test]
    fn a_try_is_no_progress() {
        let mut tracker = Tracker::new();
        started(&mut tracker, 0);
        bytes(&mut tracker, 2_000, 1000);
        let retry =
            TransferEvent::Retrying { file: path("a"), attempt: 3, after: at(300), error: "no answer".to_owned() };
        let events = tracker.take(retry, at(1100));
        assert!(matches!(&events[..], [JobEventKind::Retrying { after_s: 1, attempt: Some(3), .. }]), "{events:?}");
        assert!(bytes(&mut tracker, 2_000, 1500).is_empty(), "the words stay until a byte comes");
        assert!(tracker.quiet(at(60_000)).is_none(), "and say more than that none does");
        assert!(!bytes(&mut tracker, 2_100, 61_000).is_empty());
    }

    #[test]
    fn connections_that_come_and_go_do_not_end_a_stall() {
        let mut tracker = Tracker::new();
        started(&mut tracker, 0);
        bytes(&mut tracker, 2_000, 1_000);
        assert!(tracker.quiet(at(5_100)).is_some());
        // What was not kept is fetched again.
        for (there, now) in [(2_000, 6_000), (1_500, 21_000), (1_500, 22_000)] {
            assert!(bytes(&mut tracker, there, now).is_empty(), "{there} at {now} ms");
        }
        assert!(tracker.quiet(at(31_100)).is_some());
        assert_eq!(job(&bytes(&mut tracker, 1_600, 32_000)).unwrap().0, 1_600);
    }

    #[test]
    fn nothing_is_told_between_a_failure_and_the_next_byte() {
        let mut tracker = Tracker::new();
        started(&mut tracker, 0);
        bytes(&mut tracker, 2_000, 1000);
        let retry =
            TransferEvent::Retrying { file: path("a"), attempt: 1, after: at(5000), error: "no answer".to_owned() };
        let events = tracker.take(retry, at(1100));
        assert!(matches!(&events[..], [JobEventKind::Retrying { after_s: 5, .. }]), "{events:?}");
        assert!(tracker.tick(at(4000)).is_empty());
        let events = bytes(&mut tracker, 2_500, 6200);
        assert_eq!(job(&events).unwrap().1, None, "the pause is no measurement");
    }

    #[test]
    fn the_connections_of_a_job_are_those_of_its_files_that_move() {
        let seen = |events: &[JobEventKind]| {
            events.iter().find_map(|event| match event {
                JobEventKind::Progress { file: None, connections, courtesy, .. } => Some((*connections, *courtesy)),
                _ => None,
            })
        };
        let mut tracker = Tracker::new();
        started(&mut tracker, 0);
        tracker.take(TransferEvent::FileStarted { file: path("b"), bytes: 0, total: 5_000 }, at(0));
        let brings = |file: &str, connections| TransferEvent::FileProgress {
            file: path(file),
            bytes: 100,
            total: 10_000,
            connections,
        };
        tracker.take(brings("a", 5), at(10));
        tracker.take(brings("b", 2), at(20));
        tracker.hold(Some(4_000));
        assert_eq!(seen(&tracker.tick(at(300))), Some((Some(7), Some(4_000))));
        tracker.take(TransferEvent::Verifying { file: path("b") }, at(310));
        tracker.hold(None);
        assert_eq!(seen(&tracker.tick(at(600))), Some((Some(5), None)), "no byte, and still news");
        let finished = TransferEvent::FileFinished { file: path("a"), path: "/m/a".into(), fetched: 10_000 };
        assert_eq!(seen(&tracker.take(finished, at(700))), Some((Some(0), None)));
    }

    #[test]
    fn the_last_bytes_are_told_when_it_stops() {
        let mut tracker = Tracker::new();
        started(&mut tracker, 0);
        assert!(tracker.stop(at(1)).is_empty(), "nothing is new");
        assert!(bytes(&mut tracker, 2_000, 100).is_empty());
        assert_eq!(job(&tracker.stop(at(110))).unwrap().0, 2_000);
        assert!(tracker.stop(at(120)).is_empty());
    }

    #[test]
    fn what_another_process_has_fetched_is_no_speed_and_what_came_in_one_go_is() {
        let mut tracker = Tracker::new();
        started(&mut tracker, 0);
        bytes(&mut tracker, 0, 100);
        assert!(!tracker.has_arrived());
        let finished =
            |file: &str, fetched| TransferEvent::FileFinished { file: path(file), path: "/m".into(), fetched };
        tracker.take(finished("b", 0), at(200));
        assert_eq!((tracker.take_fresh(), tracker.has_arrived()), (0, false));
        bytes(&mut tracker, 1_000, 1000);
        assert_eq!(job(&tracker.tick(at(1300))).unwrap(), (6_000, Some(769), Some(12)));
        assert_eq!((tracker.take_fresh(), tracker.has_arrived()), (1_000, true));
        tracker.take(finished("a", 10_000), at(1400));
        assert_eq!(tracker.take_fresh(), 9_000);
    }

    #[test]
    fn a_file_that_begins_anew_has_to_come_further_than_it_was() {
        let mut tracker = Tracker::new();
        started(&mut tracker, 6_000);
        bytes(&mut tracker, 500, 100);
        bytes(&mut tracker, 6_000, 200);
        assert!(!tracker.has_arrived());
        bytes(&mut tracker, 6_001, 300);
        assert!(tracker.has_arrived());
    }

    #[test]
    fn a_file_that_is_there_already_is_told_once() {
        let mut tracker = Tracker::new();
        let files = vec![(path("a"), 10_000)];
        tracker.take(TransferEvent::Started { files, total: 10_000 }, at(0));
        let finished = TransferEvent::FileFinished { file: path("a"), path: "/m/a".into(), fetched: 0 };
        let events = tracker.take(finished, at(1));
        assert!(
            matches!(
                &events[..],
                [
                    JobEventKind::Progress { file: Some(_), bytes: 10_000, path: Some(_), .. },
                    JobEventKind::Progress { file: None, bytes: 10_000, rate: None, .. }
                ]
            ),
            "{events:?}"
        );
    }
}
