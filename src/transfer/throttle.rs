//! One speed limit over everything that shares it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

/// What may pass at once after a pause: a tenth of a second's worth, at least this.
const SMALLEST_BURST: f64 = 16.0 * 1024.0;

/// A limit of bytes per second over all transfers that hold a clone of it, adjustable while they run.
///
/// A queue keeps one, gives a clone to every job in [`super::Options::throttle`] and calls [`Self::set_limit`]
/// when a person changes the speed: transfers that wait feel the new limit at once. Those that share one get
/// their turns in the order in which they ask.
#[derive(Clone, Debug, Default)]
pub struct Throttle {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Bytes per second; 0 is no limit.
    limit: AtomicU64,
    changed: Notify,
    /// Held by whoever waits, so that turns are first come, first served.
    turn: tokio::sync::Mutex<()>,
    bucket: Mutex<Option<Bucket>>,
}

/// A token bucket that may be overdrawn by one take, so that a piece larger than the burst still passes.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    tokens: f64,
    filled: Instant,
}

impl Bucket {
    /// Takes `bytes` if nothing is owed, else tells how long to wait.
    fn take(&mut self, bytes: u64, limit: u64, now: Instant) -> Option<Duration> {
        let rate = limit as f64;
        let burst = (rate / 10.0).max(SMALLEST_BURST);
        let gained = now.saturating_duration_since(self.filled).as_secs_f64() * rate;
        self.tokens = (self.tokens + gained).min(burst);
        self.filled = now;
        if self.tokens > 0.0 {
            self.tokens -= bytes as f64;
            return None;
        }
        // A little more than nothing, so that the next look finds the bucket above zero.
        Some(Duration::from_secs_f64(((1.0 - self.tokens) / rate).clamp(0.000_5, 3600.0)))
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

    /// The limit in bytes per second.
    #[must_use]
    pub fn limit(&self) -> Option<u64> {
        Some(self.shared.limit.load(Ordering::Relaxed)).filter(|limit| *limit > 0)
    }

    /// Changes the limit for everyone who shares it; `None` or 0 is no limit.
    pub fn set_limit(&self, limit: Option<u64>) {
        self.shared.limit.store(limit.unwrap_or(0), Ordering::Relaxed);
        *self.shared.bucket.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.shared.changed.notify_waiters();
    }

    /// Waits until `bytes` may pass.
    pub async fn take(&self, bytes: u64) {
        if self.limit().is_none() {
            return;
        }
        let _turn = self.shared.turn.lock().await;
        loop {
            let changed = self.shared.changed.notified();
            let Some(limit) = self.limit() else { return };
            let wait = {
                let now = Instant::now();
                let mut bucket = self.shared.bucket.lock().unwrap_or_else(PoisonError::into_inner);
                bucket.get_or_insert(Bucket { tokens: SMALLEST_BURST, filled: now }).take(bytes, limit, now)
            };
            let Some(wait) = wait else { return };
            tokio::select! {
                () = sleep(wait) => {}
                () = changed => {}
            }
        }
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
                throttle.take(100_000).await;
            }
        };
        let other = async {
            for _ in 0..50 {
                throttle.take(100_000).await;
            }
        };
        tokio::join!(one, other);
        let took = start.elapsed().as_secs_f64();
        assert!((9.5..10.2).contains(&took), "10 MB at 1 MB/s took {took} s");
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_limit_wakes_those_who_wait() {
        let throttle = Throttle::new(Some(1));
        throttle.take(1_000_000).await;
        let start = Instant::now();
        let waiting = tokio::spawn({
            let throttle = throttle.clone();
            async move { throttle.take(1).await }
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
        throttle.take(u64::MAX).await;
        assert_eq!(start.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn giving_up_a_turn_lets_the_next_one_go_on() {
        let throttle = Throttle::new(Some(1000));
        throttle.take(100_000).await;
        let given_up = tokio::time::timeout(Duration::from_secs(1), throttle.take(1)).await;
        assert!(given_up.is_err());
        throttle.take(1).await;
    }
}
