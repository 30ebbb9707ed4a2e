//! One number of connections over everything that shares it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// How many connections a transfer opens at most when nothing else is said.
const DEFAULT: usize = 8;
/// After a refusal there are fewer connections for so long; after each further one for twice as long.
const FIRST_HOLD: Duration = Duration::from_secs(30);
const LONGEST_HOLD: Duration = Duration::from_secs(600);

/// The longest wait that one answer can impose on all.
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);

/// The connections that transfers may have open at once, over all that hold a clone of it.
///
/// A queue keeps one and gives a clone to every job in [`super::Options::connections`]. Each file that is being fetched
/// gets one before any gets a second: whoever has several gives one up as soon as somebody waits. A server that refuses
/// (403, 429, 5xx) halves the number for a while.
#[derive(Clone, Debug)]
pub struct Connections {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    most: usize,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug)]
struct State {
    open: usize,
    /// Who waits for a first connection.
    waiting: usize,
    /// What servers put up with, and until when that is believed.
    ceiling: usize,
    until: Option<Instant>,
    hold: Duration,
    /// How many the last large file did well with.
    hint: Option<usize>,
    /// Until when a server wants no request at all.
    not_before: Option<Instant>,
}

impl Default for Connections {
    /// At most eight.
    fn default() -> Self {
        Self::new(DEFAULT)
    }
}

impl Connections {
    /// At most `most` connections; 0 counts as 1.
    #[must_use]
    pub fn new(most: usize) -> Self {
        let most = most.max(1);
        let state =
            State { open: 0, waiting: 0, ceiling: most, until: None, hold: FIRST_HOLD, hint: None, not_before: None };
        Self { shared: Arc::new(Shared { most, state: Mutex::new(state), changed: Notify::new() }) }
    }

    /// The most that are open at once.
    #[must_use]
    pub fn most(&self) -> usize {
        self.shared.most
    }

    /// How many are open now.
    #[must_use]
    pub fn open(&self) -> usize {
        self.lock().open
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a connection.
    pub(super) async fn first(&self) -> Permit {
        let _waiting = Waiting::begin(self);
        loop {
            let changed = self.shared.changed.notified();
            tokio::pin!(changed);
            // From now on a change is not missed.
            changed.as_mut().enable();
            let hold = {
                let mut state = self.lock();
                state.recover(self.shared.most);
                let paused = state.paused();
                if paused.is_none() && state.open < state.ceiling {
                    state.open += 1;
                    return Permit(self.clone());
                }
                paused.or(state.until)
            };
            match hold {
                None => changed.await,
                Some(until) => tokio::select! {
                    () = changed => {}
                    () = tokio::time::sleep_until(until) => {}
                },
            }
        }
    }

    /// One more for who has some, if there is one and nobody waits for a first.
    pub(super) fn more(&self) -> Option<Permit> {
        let mut state = self.lock();
        state.recover(self.shared.most);
        if state.waiting > 0 || state.open >= state.ceiling || state.paused().is_some() {
            return None;
        }
        state.open += 1;
        Some(Permit(self.clone()))
    }

    /// Whether who has several should give one up.
    pub(super) fn is_short(&self) -> bool {
        let state = self.lock();
        state.waiting > 0 && state.open >= state.ceiling || state.open > state.ceiling
    }

    /// A server refused: half as many for a while.
    pub(super) fn refused(&self) {
        let mut state = self.lock();
        let now = Instant::now();
        // Those that were refused together count once.
        if state.until.is_some_and(|until| until > now + state.hold.mul_f64(0.45)) {
            return;
        }
        if state.until.is_some() {
            state.hold = (state.hold * 2).min(LONGEST_HOLD);
        }
        state.ceiling = (state.ceiling / 2).max(1);
        state.until = Some(now + state.hold);
    }

    /// A server counts requests and wants none for so long: one wait for all.
    pub(super) fn pause(&self, wait: Duration) {
        let until = Instant::now() + wait.min(LONGEST_PAUSE);
        let mut state = self.lock();
        state.not_before = state.not_before.max(Some(until));
    }

    /// Whether such a wait goes on.
    pub(super) fn is_paused(&self) -> bool {
        self.lock().paused().is_some()
    }

    /// How many the last large file did well with.
    pub(super) fn hint(&self) -> Option<usize> {
        self.lock().hint
    }

    pub(super) fn set_hint(&self, count: usize) {
        self.lock().hint = Some(count.max(1));
    }
}

impl State {
    /// Until when nothing is to be asked for, if that lies ahead.
    fn paused(&mut self) -> Option<Instant> {
        self.not_before = self.not_before.filter(|until| *until > Instant::now());
        self.not_before
    }

    /// When a refusal is long enough ago, one step up.
    fn recover(&mut self, most: usize) {
        let now = Instant::now();
        if self.until.is_some_and(|until| now >= until) {
            self.ceiling = (self.ceiling * 2).min(most);
            if self.ceiling == most {
                (self.until, self.hold) = (None, FIRST_HOLD);
            } else {
                self.until = Some(now + self.hold);
            }
        }
    }
}

/// The right to have one connection open; dropping it gives it back.
#[derive(Debug)]
pub(super) struct Permit(Connections);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.lock().open -= 1;
        self.0.shared.changed.notify_waiters();
    }
}

struct Waiting<'a>(&'a Connections);

impl<'a> Waiting<'a> {
    fn begin(connections: &'a Connections) -> Self {
        connections.lock().waiting += 1;
        Self(connections)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.lock().waiting -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_first_of_each_comes_before_the_second_of_any() {
        let connections = Connections::new(2);
        let one = connections.first().await;
        let more = connections.more().unwrap();
        assert!(connections.more().is_none() && !connections.is_short());
        let waiting = tokio::spawn({
            let connections = connections.clone();
            async move { connections.first().await }
        });
        while !connections.is_short() {
            tokio::task::yield_now().await;
        }
        drop(more);
        let other = waiting.await.unwrap();
        assert_eq!(connections.open(), 2);
        drop((one, other));
        assert_eq!(connections.open(), 0);
        assert!(connections.more().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn refusals_halve_it_down_to_one_and_time_brings_it_back() {
        let connections = Connections::new(8);
        let held: Vec<_> = (0..8).map(|_| connections.more().unwrap()).collect();
        connections.refused();
        // The other seven were refused by the same breath.
        (0..7).for_each(|_| connections.refused());
        assert_eq!(connections.lock().ceiling, 4);
        assert!(connections.is_short());
        drop(held);
        for expected in [2, 1, 1] {
            tokio::time::advance(Duration::from_secs(25)).await;
            let over = |connections: &Connections| {
                let state = connections.lock();
                state.until.unwrap() <= Instant::now() + state.hold / 3
            };
            while !over(&connections) {
                tokio::time::advance(Duration::from_secs(10)).await;
            }
            connections.refused();
            assert_eq!(connections.lock().ceiling, expected);
        }
        drop(connections.more().unwrap());
        for _ in 0..4 {
            tokio::time::advance(LONGEST_HOLD).await;
            drop(connections.first().await);
        }
        assert_eq!(connections.lock().ceiling, 8);
        assert_eq!(connections.lock().hold, FIRST_HOLD);
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_that_a_server_wants_is_kept_by_all() {
        let connections = Connections::new(2);
        let start = Instant::now();
        connections.pause(Duration::from_secs(20));
        connections.pause(Duration::from_secs(5));
        assert!(connections.more().is_none());
        drop(connections.first().await);
        assert!((20..22).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
        drop(connections.more().unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_waits_wakes_when_the_refusal_is_over() {
        let connections = Connections::new(2);
        connections.refused();
        let held = connections.first().await;
        let start = Instant::now();
        let other = connections.first().await;
        assert!(start.elapsed() >= FIRST_HOLD - Duration::from_secs(1));
        drop((held, other));
    }
}
