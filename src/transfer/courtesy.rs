//! Courtesy: what a transfer leaves of the link to others.
//!
//! What a person at the other end of an SSH session feels is the time that a key press and its echo take. The kernel
//! measures the way of the session's own connection ([`RoundTrip`]); while it has news of it, that is what
//! counts. Where it has none (no SSH, another network namespace, a `tmux` that outlived its session, a session that is
//! idle), the time from a request to its answer is taken, for every piece that is fetched.
//!
//! Either way the least of the last minutes is what the way takes when nothing queues; what it takes more now is the queue
//! that the link has built up. While that is longer than [`TARGET`] the rate goes down until the queue has drained, comes
//! back to a little less than what filled the link, and grows slowly from there (the idea of LEDBAT, RFC 6817).
//!
//! Its limits: a server that answers slowly by itself looks like a queue where nothing else is known (so the rate has a
//! floor), and a queue that neither the session nor the requests wait in is not seen.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::Throttle;
use crate::machine::{Connection, RoundTrip, Watched};

/// The queue that is put up with: a person notices about twice of it.
const TARGET: Duration = Duration::from_millis(75);
/// The base is the least of so many minutes.
const MINUTES: usize = 5;
const MINUTE: Duration = Duration::from_secs(60);
/// The present of requests is the least of so many samples: one slow answer is no queue.
const RECENT: usize = 3;
/// Slower it never gets, in bytes per second.
const FLOOR: u64 = 256 * 1024;
/// How much faster per second when there is room, and how often at most it gets slower.
const GAIN: f64 = 0.1;
const PAUSE: Duration = Duration::from_millis(500);
/// What is left of the rate while a long queue drains, and of the rate that filled the link once it has.
const DRAIN: f64 = 0.3;
const RESUME: f64 = 0.85;
/// A queue that has not drained after so long is not ours alone.
const DRAINED: Duration = Duration::from_secs(3);
/// How often the session is looked at, and for how long what it told counts.
const LOOK: Duration = Duration::from_millis(200);
const FRESH: Duration = Duration::from_secs(5);
/// So much later than it could a receiver may confirm what it has (RFC 1122 allows 500 ms, systems take 40 to 200).
const CONFIRMING: Duration = Duration::from_millis(200);

/// Keeps a transfer from filling the link. Clones share one state.
#[derive(Clone, Default)]
pub struct Courtesy {
    shared: Arc<Mutex<Shared>>,
    throttle: Throttle,
}

type Look = Box<dyn FnMut() -> Option<RoundTrip> + Send>;

#[derive(Default)]
struct Shared {
    controller: Controller,
    meter: Meter,
    session: Option<Session>,
    began: Option<Instant>,
}

/// The connection of the SSH session.
struct Session {
    look: Look,
    looked: Option<Duration>,
    confirmed: Option<u64>,
}

impl fmt::Debug for Courtesy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Courtesy").field("limit", &self.limit()).finish_non_exhaustive()
    }
}

impl Courtesy {
    /// With nothing measured yet: no limit. Only requests are measured.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// For somebody who is here over SSH: `connection` is the value of `SSH_CONNECTION`. Where the kernel does not know
    /// that connection it is as [`Self::new`].
    #[must_use]
    pub fn of_session(connection: Option<&str>) -> Self {
        let courtesy = Self::new();
        let watched = connection.and_then(Connection::of_ssh).and_then(Watched::new);
        if let Some(mut watched) = watched {
            courtesy.watch(Box::new(move || watched.look()));
        }
        courtesy
    }

    /// Listens to `look` from now on. What it says at once is what the way takes before anything is fetched.
    fn watch(&self, mut look: Look) {
        let mut shared = self.lock();
        let first = look();
        if let Some(first) = first {
            shared.controller.session.add(Duration::ZERO, first.smoothed);
        }
        shared.session = Some(Session { look, looked: None, confirmed: first.map(|first| first.confirmed) });
    }

    /// The bytes per second that it holds the transfer to now; `None` while the link has room.
    #[must_use]
    pub fn limit(&self) -> Option<u64> {
        self.throttle.limit()
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn throttle(&self) -> &Throttle {
        &self.throttle
    }

    /// A request was answered after `delay`.
    pub(super) fn answered(&self, delay: Duration) {
        self.work(|shared, now| {
            let rate = shared.meter.rate;
            shared.controller.answered(now, delay, rate);
        });
    }

    /// Bytes have arrived. The session is looked at, if it is time.
    pub(super) fn arrived(&self, bytes: u64) {
        self.work(|shared, now| {
            shared.meter.count(now, bytes);
            let Some(session) = &mut shared.session else { return };
            if session.looked.is_some_and(|looked| now.saturating_sub(looked) < LOOK) {
                return;
            }
            session.looked = Some(now);
            let Some(found) = (session.look)() else { return };
            let news = session.confirmed != Some(found.confirmed);
            session.confirmed = Some(found.confirmed);
            if news {
                shared.controller.felt(now, found, shared.meter.rate);
            }
        });
    }

    fn work(&self, work: impl FnOnce(&mut Shared, Duration)) {
        let mut shared = self.lock();
        let now = shared.began.get_or_insert_with(Instant::now).elapsed();
        let before = shared.controller.limit();
        work(&mut shared, now);
        let limit = shared.controller.limit();
        if limit != before {
            self.throttle.set_limit(limit);
        }
    }
}

/// How fast bytes arrive, over all transfers.
#[derive(Clone, Copy, Debug, Default)]
struct Meter {
    since: Duration,
    bytes: u64,
    rate: u64,
}

impl Meter {
    fn count(&mut self, now: Duration, bytes: u64) {
        self.bytes += bytes;
        let took = now.saturating_sub(self.since);
        if took >= Duration::from_millis(400) {
            *self = Self { since: now, bytes: 0, rate: (self.bytes as f64 / took.as_secs_f64()) as u64 };
        }
    }
}

/// The least delays that were met lately.
#[derive(Clone, Debug, Default)]
struct Least {
    /// The least of each minute, the newest last.
    minutes: VecDeque<(Duration, Duration)>,
}

impl Least {
    fn add(&mut self, now: Duration, delay: Duration) {
        match self.minutes.back_mut() {
            Some((began, least)) if now.saturating_sub(*began) < MINUTE => *least = delay.min(*least),
            _ => self.minutes.push_back((now, delay)),
        }
        while self.minutes.len() > MINUTES {
            self.minutes.pop_front();
        }
    }

    fn base(&self) -> Duration {
        self.minutes.iter().map(|(_, least)| *least).min().unwrap_or_default()
    }
}

/// The controller: a function of samples.
#[derive(Clone, Debug, Default)]
struct Controller {
    requests: Least,
    recent: VecDeque<Duration>,
    session: Least,
    /// When the session was last heard, and with what.
    heard: Option<(Duration, Duration)>,
    limit: Option<f64>,
    changed: Option<Duration>,
    /// While a queue drains: since when, and what filled the link.
    draining: Option<(Duration, f64)>,
}

impl Controller {
    fn limit(&self) -> Option<u64> {
        self.limit.map(|limit| limit as u64)
    }

    /// The session's connection took so long.
    fn felt(&mut self, now: Duration, found: RoundTrip, rate: u64) {
        self.session.add(now, found.smoothed);
        // A link that was full all the time still had its best moment.
        let best = found.least.map_or(Duration::MAX, |least| least + CONFIRMING);
        let base = self.session.base().min(best);
        // It is smoothed: while it falls, the queue is shorter than it says.
        let falls = self.heard.is_some_and(|(_, before)| found.smoothed < before);
        self.heard = Some((now, found.smoothed));
        self.control(now, found.smoothed.saturating_sub(base), falls, rate);
    }

    /// A request took so long.
    fn answered(&mut self, now: Duration, delay: Duration, rate: u64) {
        self.requests.add(now, delay);
        self.recent.push_back(delay);
        while self.recent.len() > RECENT {
            self.recent.pop_front();
        }
        // Whoever hears the session itself need not guess from what a server takes.
        if self.heard.is_some_and(|(heard, _)| now.saturating_sub(heard) < FRESH) {
            return;
        }
        let present = self.recent.iter().min().copied().unwrap_or_default();
        let unsure = self.recent.len() < RECENT;
        self.control(now, present.saturating_sub(self.requests.base()), unsure, rate);
    }

    /// With a queue so long, at a rate of arrival: slower, unless it is to `wait`, or faster.
    fn control(&mut self, now: Duration, queue: Duration, wait: bool, rate: u64) {
        let since = self.changed.map_or(PAUSE, |changed| now.saturating_sub(changed));
        if queue > TARGET {
            if wait || since < PAUSE {
                return;
            }
            let full = self.limit.unwrap_or(f64::MAX).min(rate as f64);
            let beyond = (queue.as_secs_f64() / TARGET.as_secs_f64() - 1.0).min(1.0);
            if let Some((began, _)) = self.draining
                && now.saturating_sub(began) < DRAINED
            {
                return;
            }
            if beyond >= 1.0 && self.draining.is_none() {
                self.draining = Some((now, full));
                self.limit = Some((full * DRAIN).max(FLOOR as f64));
            } else {
                // Others have taken what this one left: what filled the link then is more than its share now.
                self.draining = self.draining.map(|(_, filled)| (now, filled * 0.5));
                self.limit = Some((full * (1.0 - 0.5 * beyond)).max(FLOOR as f64));
            }
            self.changed = Some(now);
            // What was measured at the old rate says nothing about the new one.
            self.recent.clear();
        } else if let Some((_, filled)) = self.draining {
            self.draining = None;
            self.limit = self.limit.map(|limit| limit.max(filled * RESUME));
            self.changed = Some(now);
        } else if let Some(limit) = self.limit {
            let room = 1.0 - queue.as_secs_f64() / TARGET.as_secs_f64();
            let grown = limit * (1.0 + GAIN * room * since.as_secs_f64().min(5.0));
            self.changed = Some(now);
            // What is far above what arrives limits nothing.
            self.limit = (grown < 2.0 * (rate.max(FLOOR) as f64)).then_some(grown);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: f64 = 1_048_576.0;

    /// A link with a queue before it: what comes in faster than it takes away waits.
    struct Link {
        capacity: f64,
        base: Duration,
        /// Bytes that wait, and room for them.
        queue: f64,
        room: f64,
        /// What others send.
        others: f64,
        /// What a connection measures, which follows by an eighth of the difference at a time.
        smoothed: f64,
    }

    impl Link {
        fn new() -> Self {
            let base = Duration::from_millis(30);
            Self { capacity: 10.0 * MIB, base, queue: 0.0, room: 8.0 * MIB, others: 0.0, smoothed: base.as_secs_f64() }
        }

        /// A fifth of a second at that limit: how fast bytes arrive, and what a request takes.
        fn step(&mut self, limit: Option<u64>) -> (u64, Duration) {
            let free = (self.capacity - self.others).max(0.0);
            // Without a limit a sender takes what there is and fills the queue.
            let offered = limit.map_or(self.capacity * 1.2, |limit| limit as f64);
            self.queue = (self.queue + (offered + self.others - self.capacity) * 0.2).clamp(0.0, self.room);
            let delay = self.base + Duration::from_secs_f64(self.queue / self.capacity);
            (0..4).for_each(|_| self.smoothed += (delay.as_secs_f64() - self.smoothed) / 8.0);
            (offered.min(free.max(1.0)) as u64, delay)
        }
    }

    #[derive(Clone, Copy, PartialEq)]
    enum Heard {
        Requests,
        Session,
    }

    /// What there was at each step: the rate, and how long the queue was.
    fn run(controller: &mut Controller, link: &mut Link, heard: Heard, from: u64, steps: u64) -> Vec<(u64, Duration)> {
        (from..from + steps)
            .map(|step| {
                let (rate, delay) = link.step(controller.limit());
                let now = Duration::from_millis(step * 200);
                match heard {
                    Heard::Requests => controller.answered(now, delay, rate),
                    Heard::Session => {
                        let smoothed = Duration::from_secs_f64(link.smoothed);
                        controller.felt(now, RoundTrip { smoothed, least: None, confirmed: step }, rate);
                    }
                }
                (rate, delay.saturating_sub(link.base))
            })
            .collect()
    }

    #[test]
    fn on_a_link_without_a_queue_there_is_no_limit() {
        let mut controller = Controller::default();
        for step in 0..1000 {
            let delay = Duration::from_millis(40 + step % 30);
            controller.answered(Duration::from_millis(step * 100), delay, 100 << 20);
            assert_eq!(controller.limit(), None);
        }
    }

    #[test]
    fn a_full_link_is_left_before_its_queue_is_felt_and_still_used() {
        for heard in [Heard::Requests, Heard::Session] {
            let (mut controller, mut link) = (Controller::default(), Link::new());
            controller.requests.add(Duration::ZERO, link.base);
            let seen = run(&mut controller, &mut link, heard, 1, 1500);
            let steady = &seen[100..];
            let felt = steady.iter().filter(|(_, queue)| *queue > 2 * TARGET).count();
            assert!(felt * 10 < steady.len(), "{felt} of {}", steady.len());
            let used = steady.iter().map(|(rate, _)| *rate as f64 / MIB).sum::<f64>() / steady.len() as f64;
            assert!(used > 7.5, "{used} of 10 MiB/s");
            let worst = steady.iter().map(|(_, queue)| *queue).max().unwrap();
            assert!(worst < 6 * TARGET, "{worst:?}");
        }
    }

    #[test]
    fn it_gives_way_to_others_and_comes_back() {
        for heard in [Heard::Requests, Heard::Session] {
            let (mut controller, mut link) = (Controller::default(), Link::new());
            controller.requests.add(Duration::ZERO, link.base);
            run(&mut controller, &mut link, heard, 1, 150);
            link.others = 8.0 * MIB;
            run(&mut controller, &mut link, heard, 151, 150);
            let left = run(&mut controller, &mut link, heard, 301, 50);
            let mean = left.iter().map(|(rate, _)| *rate as f64 / MIB).sum::<f64>() / 50.0;
            assert!(mean < 3.0, "{mean}");
            link.others = 0.0;
            run(&mut controller, &mut link, heard, 351, 300);
            assert!(controller.limit.is_none_or(|limit| limit > 5.0 * MIB), "{:?}", controller.limit);
        }
    }

    #[test]
    fn a_server_that_became_slow_for_good_stops_nothing_and_is_the_base_after_minutes() {
        let mut controller = Controller::default();
        controller.answered(Duration::ZERO, Duration::from_millis(20), 1 << 20);
        let mut limits = Vec::new();
        for second in 1..900 {
            controller.answered(Duration::from_secs(second), Duration::from_millis(900), 4 << 20);
            limits.push(controller.limit());
        }
        assert!(limits.iter().flatten().all(|limit| *limit >= FLOOR));
        assert!(limits[30].is_some());
        assert!(limits.last().unwrap().is_none_or(|limit| limit > 2 << 20), "{:?}", limits.last());
    }

    #[test]
    fn a_way_that_became_longer_is_the_base_after_minutes() {
        let mut controller = Controller::default();
        let felt = |controller: &mut Controller, step: u64, millis: u64| {
            let found = RoundTrip {
                smoothed: Duration::from_millis(millis),
                least: Some(Duration::from_millis(20)).filter(|_| step < 300),
                confirmed: step,
            };
            controller.felt(Duration::from_secs(step), found, 4 << 20);
            controller.limit()
        };
        (0..60).for_each(|step| assert_eq!(felt(&mut controller, step, 30), None));
        assert!((60..120).map(|step| felt(&mut controller, step, 180)).all(|limit| limit.is_some_and(|l| l < 4 << 20)));
        (120..600).for_each(|step| _ = felt(&mut controller, step, 180));
        assert_eq!(felt(&mut controller, 601, 180), None);
    }

    #[test]
    fn a_link_that_was_full_from_the_beginning_is_known_by_its_best_moment() {
        let mut controller = Controller::default();
        for step in 0..20 {
            let smoothed = Duration::from_millis(900);
            let found = RoundTrip { smoothed, least: Some(Duration::from_millis(30)), confirmed: step };
            controller.felt(Duration::from_secs(step), found, 4 << 20);
        }
        assert!(controller.limit.is_some());
    }

    /// A session that says what it is told to.
    fn told(courtesy: &Courtesy) -> Arc<Mutex<Option<RoundTrip>>> {
        let says = Arc::new(Mutex::new(Some(trip(30, 0))));
        let look = Arc::clone(&says);
        courtesy.watch(Box::new(move || *look.lock().unwrap()));
        says
    }

    fn trip(millis: u64, confirmed: u64) -> RoundTrip {
        RoundTrip { smoothed: Duration::from_millis(millis), least: Some(Duration::from_millis(25)), confirmed }
    }

    #[tokio::test(start_paused = true)]
    async fn the_session_counts_and_not_a_server_that_is_slow_while_it_is_heard() {
        let courtesy = Courtesy::new();
        let says = told(&courtesy);
        courtesy.answered(Duration::from_millis(20));
        for step in 1..100 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            *says.lock().unwrap() = Some(trip(30 + step % 20, step));
            courtesy.arrived(1 << 20);
            courtesy.answered(Duration::from_millis(900));
        }
        assert_eq!(courtesy.limit(), None);
        // It is heard no more: the requests are all that there is.
        for heard in [Some(trip(30, 99)), None] {
            *says.lock().unwrap() = heard;
            for _ in 0..100 {
                tokio::time::sleep(Duration::from_millis(100)).await;
                courtesy.arrived(1 << 20);
                courtesy.answered(Duration::from_millis(900));
            }
            assert!(courtesy.limit().is_some(), "{heard:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_that_waits_slows_the_transfer_whatever_the_requests_say() {
        let courtesy = Courtesy::new();
        let says = told(&courtesy);
        for step in 1..100 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            *says.lock().unwrap() = Some(trip(30 + 10 * step, step));
            courtesy.arrived(1 << 20);
            courtesy.answered(Duration::from_millis(20));
        }
        let limit = courtesy.limit().unwrap();
        assert!((FLOOR..5 << 20).contains(&limit), "{limit}");
    }
}
