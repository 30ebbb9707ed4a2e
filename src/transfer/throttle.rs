//! One speed limit over everything that shares it.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

/// What may pass at once after a pause: a tenth of a second's worth, at least this.
const SMALLEST_BURST: f64 = 16.0 * 1024.0;
/// A lane whose next bytes come so late still has the turn that it would have had.
const LATE: f64 = 0.02;

/// A limit of bytes per second over all transfers that hold a clone of it, adjustable while they run.
///
/// A queue keeps one, gives a clone to every job in [`super::Options::throttle`] and calls [`Self::set_limit`]
/// when a person changes the speed: transfers that wait feel the new limit at once. Each of those that run has a lane of
/// its own, and all lanes get the same share, however many connections each has.
#[derive(Clone, Debug, Default)]
pub struct Throttle {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Bytes per second; 0 is no limit.
    limit: AtomicU64,
    state: Mutex<State>,
}

/// Start-time fair queueing (Goyal, Vin, Cheng 1996): who waits has a place in line that is the number of bytes that its
/// lane has had, and who has the least goes first.
#[derive(Debug, Default)]
struct State {
    bucket: Option<Bucket>,
    line: BTreeMap<Place, Arc<Notify>>,
    /// The place of who went last.
    now: u64,
    /// Where the next bytes of each lane stand.
    lanes: HashMap<u64, u64>,
    next_lane: u64,
    next_waiter: u64,
}

/// Where in line, and a number that makes it unique.
type Place = (u64, u64);

impl State {
    /// Wakes who is first in line.
    fn call_first(&self) {
        if let Some(first) = self.line.values().next() {
            first.notify_one();
        }
    }
}

/// A token bucket that may be overdrawn by one take, so that a piece larger than the burst still passes.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    tokens: f64,
    filled: Instant,
}

impl Bucket {
    fn fill(&mut self, limit: u64, now: Instant) {
        let rate = limit as f64;
        let burst = (rate / 10.0).max(SMALLEST_BURST);
        let gained = now.saturating_duration_since(self.filled).as_secs_f64() * rate;
        self.tokens = (self.tokens + gained).min(burst);
        self.filled = now;
    }

    /// Takes `bytes` if nothing is owed, else tells how long to wait.
    fn take(&mut self, bytes: u64, limit: u64, now: Instant) -> Option<Duration> {
        self.fill(limit, now);
        if self.tokens > 0.0 {
            self.tokens -= bytes as f64;
            return None;
        }
        // A little more than nothing, so that the next look finds the bucket above zero.
        Some(Duration::from_secs_f64(((1.0 - self.tokens) / limit as f64).clamp(0.000_5, 3600.0)))
    }
}

impl Throttle {
    /// A limit in bytes per second; `None` or 0 is no limit.
    #[must_use]
    pub fn new(limit: Option<u64>) -> Self {
        let throttle = Self::default();
        throttle.set_limit(limit);
        throttle
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The limit in bytes per second.
    #[must_use]
    pub fn limit(&self) -> Option<u64> {
        Some(self.shared.limit.load(Ordering::Relaxed)).filter(|limit| *limit > 0)
    }

    /// Changes the limit for everyone who shares it; `None` or 0 is no limit.
    pub fn set_limit(&self, limit: Option<u64>) {
        let mut state = self.lock();
        let before = self.shared.limit.swap(limit.unwrap_or(0), Ordering::Relaxed);
        // What is owed stays owed: a limit that changes often is a limit too.
        match (&mut state.bucket, limit.unwrap_or(0)) {
            (bucket, 0) => *bucket = None,
            (Some(bucket), _) => bucket.fill(before, Instant::now()),
            (None, _) => {}
        }
        state.line.values().for_each(|waiter| waiter.notify_one());
    }

    /// A lane for one of those who share the limit.
    #[must_use]
    pub fn lane(&self) -> Lane {
        let mut state = self.lock();
        state.next_lane += 1;
        Lane { number: state.next_lane, throttle: self.clone() }
    }

    async fn pass(&self, lane: u64, bytes: u64) {
        if self.limit().is_none() {
            return;
        }
        let waiter = Waiter::join(self, lane, bytes);
        loop {
            let wait = {
                let mut state = self.lock();
                let Some(limit) = self.limit() else { return };
                if state.line.keys().next() == Some(&waiter.place) {
                    let now = Instant::now();
                    let bucket = state.bucket.get_or_insert(Bucket { tokens: SMALLEST_BURST, filled: now });
                    let wait = bucket.take(bytes, limit, now);
                    if wait.is_none() {
                        state.now = waiter.place.0;
                        return;
                    }
                    wait
                } else {
                    None
                }
            };
            let called = waiter.called.notified();
            match wait {
                None => called.await,
                Some(wait) => tokio::select! {
                    () = sleep(wait) => {}
                    () = called => {}
                },
            }
        }
    }
}

/// The share of one transfer in a [`Throttle`].
#[derive(Debug)]
pub struct Lane {
    number: u64,
    throttle: Throttle,
}

impl Lane {
    /// Waits until `bytes` may pass.
    pub async fn take(&self, bytes: u64) {
        self.throttle.pass(self.number, bytes).await;
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.throttle.lock().lanes.remove(&self.number);
    }
}

/// A place in line; it is given up when the waiter passed or was dropped.
struct Waiter<'a> {
    throttle: &'a Throttle,
    place: Place,
    called: Arc<Notify>,
}

impl<'a> Waiter<'a> {
    fn join(throttle: &'a Throttle, lane: u64, bytes: u64) -> Self {
        let late = throttle.limit().map_or(0, |limit| (limit as f64 * LATE) as u64);
        let mut state = throttle.lock();
        let start = state.now.saturating_sub(late).max(state.lanes.get(&lane).copied().unwrap_or_default());
        state.lanes.insert(lane, start.saturating_add(bytes));
        state.next_waiter += 1;
        let (place, called) = ((start, state.next_waiter), Arc::new(Notify::new()));
        state.line.insert(place, Arc::clone(&called));
        Self { throttle, place, called }
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        let mut state = self.throttle.lock();
        state.line.remove(&self.place);
        state.call_first();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn two_that_share_a_limit_get_it_together() {
        let throttle = Throttle::new(Some(1_000_000));
        let start = Instant::now();
        let one = async {
            for _ in 0..50 {
                throttle.lane().take(100_000).await;
            }
        };
        let other = async {
            for _ in 0..50 {
                throttle.lane().take(100_000).await;
            }
        };
        tokio::join!(one, other);
        let took = start.elapsed().as_secs_f64();
        assert!((9.5..10.2).contains(&took), "10 MB at 1 MB/s took {took} s");
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_limit_wakes_those_who_wait() {
        let throttle = Throttle::new(Some(1));
        throttle.lane().take(1_000_000).await;
        let start = Instant::now();
        let waiting = tokio::spawn({
            let throttle = throttle.clone();
            async move { throttle.lane().take(1).await }
        });
        sleep(Duration::from_secs(1)).await;
        assert!(!waiting.is_finished());
        throttle.set_limit(None);
        waiting.await.unwrap();
        assert!(start.elapsed() < Duration::from_secs(2));
    }

    #[tokio::test(start_paused = true)]
    async fn no_limit_never_waits() {
        let throttle = Throttle::new(Some(0));
        assert_eq!(throttle.limit(), None);
        let start = Instant::now();
        throttle.lane().take(u64::MAX).await;
        assert_eq!(start.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn giving_up_a_turn_lets_the_next_one_go_on() {
        let throttle = Throttle::new(Some(1000));
        throttle.lane().take(100_000).await;
        let given_up = tokio::time::timeout(Duration::from_secs(1), throttle.lane().take(1)).await;
        assert!(given_up.is_err());
        throttle.lane().take(1).await;
    }

    /// Lanes with so many connections each, for ten seconds; gives the bytes of each lane and the most of any second.
    async fn race(limit: u64, connections: &[(usize, u64)]) -> (Vec<u64>, u64) {
        let throttle = Throttle::new(Some(limit));
        let end = Instant::now() + Duration::from_secs(10);
        let seconds: Arc<Mutex<Vec<u64>>> = Arc::new(Mutex::new(vec![0; 11]));
        let start = Instant::now();
        let mut lanes = Vec::new();
        for (count, piece) in connections {
            let (lane, bytes) = (Arc::new(throttle.lane()), Arc::new(AtomicU64::new(0)));
            for _ in 0..*count {
                let (lane, bytes, piece, seconds) =
                    (Arc::clone(&lane), Arc::clone(&bytes), *piece, Arc::clone(&seconds));
                tokio::spawn(async move {
                    while Instant::now() < end {
                        lane.take(piece).await;
                        bytes.fetch_add(piece, Ordering::Relaxed);
                        let second = start.elapsed().as_secs() as usize;
                        seconds.lock().unwrap()[second.min(10)] += piece;
                        // What a slow connection does before it has its next bytes.
                        if piece < 10_000 {
                            sleep(Duration::from_millis(1)).await;
                        }
                    }
                });
            }
            lanes.push(bytes);
        }
        sleep(Duration::from_secs(10)).await;
        let most = *seconds.lock().unwrap().iter().max().unwrap();
        (lanes.iter().map(|bytes| bytes.load(Ordering::Relaxed)).collect(), most)
    }

    #[tokio::test(start_paused = true)]
    async fn a_lane_has_its_share_however_many_connections_it_has() {
        for limit in [1_000_000, 500_000_000] {
            let (bytes, most) = race(limit, &[(8, 65_536), (1, 65_536), (3, 16_384)]).await;
            let total: u64 = bytes.iter().sum();
            let expected = limit as f64 * 10.0;
            assert!((total as f64 / expected - 1.0).abs() < 0.03, "{limit}: {total}");
            assert!(most as f64 <= limit as f64 * 1.15, "{limit}: {most} in one second");
            for lane in &bytes {
                let share = *lane as f64 / (total as f64 / 3.0);
                assert!((share - 1.0).abs() < 0.04, "{limit}: {bytes:?}");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_slow_lane_does_not_take_the_others_get() {
        // One connection with 4096 bytes a millisecond at most takes less than its share.
        let (bytes, _) = race(50_000_000, &[(8, 65_536), (1, 4096)]).await;
        let total: u64 = bytes.iter().sum();
        assert!((total as f64 / 500e6 - 1.0).abs() < 0.03, "{bytes:?}");
        assert!(bytes[1] > 15_000_000 && bytes[0] > 450_000_000, "{bytes:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_limit_that_changes_all_the_time_is_kept() {
        let throttle = Throttle::new(Some(300_000));
        let changing = tokio::spawn({
            let throttle = throttle.clone();
            async move {
                for step in 0..10_000_u64 {
                    sleep(Duration::from_millis(10)).await;
                    throttle.set_limit(Some(300_000 + step % 3));
                }
            }
        });
        let (lane, start) = (throttle.lane(), Instant::now());
        for _ in 0..300 {
            lane.take(10_000).await;
        }
        let took = start.elapsed().as_secs_f64();
        assert!((9.5..10.5).contains(&took), "3 MB at 300 kB/s took {took} s");
        changing.abort();
    }
}
