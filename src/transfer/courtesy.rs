//! Courtesy: what a transfer leaves of the link to others.
//!
//! The time from a request to its answer is measured for every piece that is fetched. The least of it over the last minutes is
//! what the way takes when nothing queues; what it takes more now is the queue that the link has built up, and that
//! every key press over SSH waits in too. While that queue is longer than [`TARGET`] the rate goes down in proportion, and
//! grows again slowly afterwards (the idea of LEDBAT, RFC 6817).
//!
//! Its limits: a server that answers slowly by itself looks like a queue (so the rate has a floor); a link that was
//! full already when the transfer began looks empty; and a queue on another way than that to the server is not seen.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::Throttle;

/// The queue that is put up with: a person notices about twice of it.
const TARGET: Duration = Duration::from_millis(75);
/// The base is the least of so many minutes.
const MINUTES: usize = 5;
const MINUTE: Duration = Duration::from_secs(60);
/// The present is the least of so many samples: one slow answer is no queue.
const RECENT: usize = 3;
/// Slower it never gets, in bytes per second.
const FLOOR: u64 = 256 * 1024;
/// How much faster per second when there is room, and how often at most it gets slower.
const GAIN: f64 = 0.1;
const PAUSE: Duration = Duration::from_millis(500);

/// Keeps a transfer from filling the link. Clones share one state.
#[derive(Clone, Debug, Default)]
pub struct Courtesy {
    shared: Arc<Mutex<Controller>>,
    throttle: Throttle,
}

impl Courtesy {
    /// With nothing measured yet: no limit.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The bytes per second that it holds the transfer to now; `None` while the link has room.
    #[must_use]
    pub fn limit(&self) -> Option<u64> {
        self.throttle.limit()
    }

    fn lock(&self) -> MutexGuard<'_, Controller> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request was answered after `delay`, while `rate` bytes per second arrived.
    pub(super) fn answered(&self, now: Duration, delay: Duration, rate: u64) {
        let before = self.throttle.limit();
        let limit = self.lock().sample(now, delay, rate);
        if limit != before {
            self.throttle.set_limit(limit);
        }
    }

    pub(super) fn throttle(&self) -> &Throttle {
        &self.throttle
    }
}

/// The controller: a function of samples.
#[derive(Clone, Debug, Default)]
struct Controller {
    /// The least of each minute, the newest last.
    minutes: VecDeque<(Duration, Duration)>,
    recent: VecDeque<Duration>,
    limit: Option<f64>,
    changed: Option<Duration>,
}

impl Controller {
    fn sample(&mut self, now: Duration, delay: Duration, rate: u64) -> Option<u64> {
        match self.minutes.back_mut() {
            Some((began, least)) if now.saturating_sub(*began) < MINUTE => *least = delay.min(*least),
            _ => self.minutes.push_back((now, delay)),
        }
        while self.minutes.len() > MINUTES {
            self.minutes.pop_front();
        }
        self.recent.push_back(delay);
        while self.recent.len() > RECENT {
            self.recent.pop_front();
        }
        let base = self.minutes.iter().map(|(_, least)| *least).min().unwrap_or_default();
        let present = self.recent.iter().min().copied().unwrap_or_default();
        let queue = present.saturating_sub(base);
        let since = self.changed.map_or(PAUSE, |changed| now.saturating_sub(changed));
        if queue > TARGET {
            if self.recent.len() == RECENT && since >= PAUSE {
                let beyond = (queue.as_secs_f64() / TARGET.as_secs_f64() - 1.0).min(1.0);
                let from = self.limit.unwrap_or(f64::MAX).min(rate as f64);
                self.limit = Some((from * (1.0 - 0.5 * beyond)).max(FLOOR as f64));
                self.changed = Some(now);
                // What was measured at the old rate says nothing about the new one.
                self.recent.clear();
            }
        } else if let Some(limit) = self.limit {
            let room = 1.0 - queue.as_secs_f64() / TARGET.as_secs_f64();
            let grown = limit * (1.0 + GAIN * room * since.as_secs_f64().min(5.0));
            self.changed = Some(now);
            // What is far above what arrives limits nothing.
            self.limit = (grown < 2.0 * (rate.max(FLOOR) as f64)).then_some(grown);
        }
        self.limit.map(|limit| limit as u64)
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
    }

    impl Link {
        /// Half a second at that limit: how fast bytes arrive, and what a request takes.
        fn step(&mut self, limit: Option<u64>) -> (u64, Duration) {
            let free = (self.capacity - self.others).max(0.0);
            // Without a limit a sender takes what there is and fills the queue.
            let offered = limit.map_or(self.capacity * 1.2, |limit| limit as f64);
            self.queue = (self.queue + (offered + self.others - self.capacity) * 0.5).clamp(0.0, self.room);
            (offered.min(free.max(1.0)) as u64, self.base + Duration::from_secs_f64(self.queue / self.capacity))
        }
    }

    fn run(controller: &mut Controller, link: &mut Link, from: u64, steps: u64) -> Vec<(Option<u64>, Duration)> {
        (from..from + steps)
            .map(|step| {
                let (rate, delay) = link.step(controller.limit.map(|limit| limit as u64));
                (controller.sample(Duration::from_millis(step * 500), delay, rate), delay)
            })
            .collect()
    }

    #[test]
    fn on_a_link_without_a_queue_there_is_no_limit() {
        let mut controller = Controller::default();
        for step in 0..1000 {
            let delay = Duration::from_millis(40 + step % 30);
            assert_eq!(controller.sample(Duration::from_millis(step * 100), delay, 100 << 20), None);
        }
    }

    #[test]
    fn a_full_link_is_left_before_its_queue_is_felt_and_still_used() {
        let mut controller = Controller::default();
        let base = Duration::from_millis(30);
        let mut link = Link { capacity: 10.0 * MIB, base, queue: 0.0, room: 8.0 * MIB, others: 0.0 };
        controller.sample(Duration::ZERO, base, 0);
        let seen = run(&mut controller, &mut link, 1, 240);
        let steady = &seen[60..];
        let felt = steady.iter().filter(|(_, delay)| *delay > base + 2 * TARGET).count();
        assert!(felt * 5 < steady.len(), "{felt} of {}", steady.len());
        let used: f64 = steady.iter().map(|(limit, _)| limit.map_or(10.0, |limit| limit as f64 / MIB).min(10.0)).sum();
        assert!(used / steady.len() as f64 > 5.0, "{used}");
    }

    #[test]
    fn it_gives_way_to_others_and_comes_back() {
        let mut controller = Controller::default();
        let base = Duration::from_millis(30);
        let mut link = Link { capacity: 10.0 * MIB, base, queue: 0.0, room: 8.0 * MIB, others: 0.0 };
        controller.sample(Duration::ZERO, base, 0);
        run(&mut controller, &mut link, 1, 60);
        link.others = 8.0 * MIB;
        run(&mut controller, &mut link, 61, 40);
        assert!(controller.limit.unwrap() < 4.0 * MIB, "{:?}", controller.limit);
        link.others = 0.0;
        run(&mut controller, &mut link, 101, 120);
        assert!(controller.limit.is_none_or(|limit| limit > 5.0 * MIB), "{:?}", controller.limit);
    }

    #[test]
    fn a_server_that_became_slow_for_good_stops_nothing_and_is_the_base_after_minutes() {
        let mut controller = Controller::default();
        controller.sample(Duration::ZERO, Duration::from_millis(20), 1 << 20);
        let mut limits = Vec::new();
        for second in 1..900 {
            limits.push(controller.sample(Duration::from_secs(second), Duration::from_millis(900), 4 << 20));
        }
        assert!(limits.iter().flatten().all(|limit| *limit >= FLOOR));
        assert!(limits[30].is_some());
        assert!(limits.last().unwrap().is_none_or(|limit| limit > 2 << 20), "{:?}", limits.last());
    }
}
