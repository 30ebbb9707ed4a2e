//! One number of connections over everything that shares it, and what each server puts up with.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// How many connections a transfer opens at most when nothing else is said.
const DEFAULT: usize = 8;
/// The part of a hold in which further refusals are those of the same overload, of connections that were already open: they
/// count once.
const ONE_BREATH: f64 = 0.55;
/// After a refusal there are fewer connections for so long; after each further one for twice as long.
const FIRST_HOLD: Duration = Duration::from_secs(30);
const LONGEST_HOLD: Duration = Duration::from_secs(600);

/// The longest wait that one answer can impose on all.
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);

/// The connections that transfers may have open at once, over all that hold a clone of it.
///
/// A queue keeps one and gives a clone to every job in [`super::Options::connections`]. Each file that is being fetched
/// gets one before any gets a second: whoever has several gives one up as soon as somebody waits. A server that refuses
/// (403, 429, 5xx) halves the number for itself for a while, and one that wants no request for a time gets none; what comes
/// from another origin (scheme, host and port) goes on.
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

#[derive(Debug, Default)]
struct State {
    open: usize,
    /// How many the last large file did well with.
    hint: Option<usize>,
    /// Who waits for a first connection, by the route.
    waiting: HashMap<Route, usize>,
    /// Those with a connection or something to be remembered.
    origins: HashMap<Arc<str>, Origin>,
}

/// What is known of one server.
#[derive(Debug)]
struct Origin {
    open: usize,
    /// What it puts up with, and until when that is believed.
    ceiling: usize,
    until: Option<Instant>,
    hold: Duration,
    /// Until when it wants no request at all.
    not_before: Option<Instant>,
}

/// The servers that a request goes to: the first answers, the last sends the bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Route {
    first: Arc<str>,
    last: Arc<str>,
}

impl Route {
    /// From these origins, or addresses of which only the origin counts.
    pub(super) fn new(first: &str, last: &str) -> Self {
        Self { first: origin(first), last: origin(last) }
    }
}

/// Scheme, host and port of an address; what is no address stands for itself.
pub(super) fn origin(address: &str) -> Arc<str> {
    match url::Url::parse(address).map(|url| url.origin()) {
        Ok(origin) if origin.is_tuple() => origin.ascii_serialization().into(),
        _ => address.into(),
    }
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
        Self { shared: Arc::new(Shared { most, state: Mutex::default(), changed: Notify::new() }) }
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

    /// Waits for a connection on that route.
    pub(super) async fn first(&self, route: &Route) -> Permit {
        let waiting = Waiting::begin(self, route);
        loop {
            let changed = self.shared.changed.notified();
            tokio::pin!(changed);
            // From now on a change is not missed.
            changed.as_mut().enable();
            let hold = {
                let mut guard = self.lock();
                let state = &mut *guard;
                let paused = state.paused(route);
                let most = self.shared.most;
                let origin = state.origin(&route.last, most);
                if paused.is_none() && origin.open < origin.ceiling {
                    if state.open < most {
                        let permit = self.permit(state, &route.last);
                        drop(guard);
                        drop(waiting);
                        return permit;
                    }
                    None
                } else {
                    paused.or(origin.until)
                }
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

    fn permit(&self, state: &mut State, to: &Arc<str>) -> Permit {
        state.open += 1;
        state.origin(to, self.shared.most).open += 1;
        Permit { connections: self.clone(), to: Arc::clone(to) }
    }

    /// One more for who has some, if there is one and nobody waits for a first.
    pub(super) fn more(&self, route: &Route) -> Option<Permit> {
        let mut guard = self.lock();
        let state = &mut *guard;
        let most = self.shared.most;
        if state.open >= most || state.paused(route).is_some() || state.somebody_could(None) {
            return None;
        }
        let origin = state.origin(&route.last, most);
        (origin.open < origin.ceiling).then(|| self.permit(state, &route.last))
    }

    /// Whether who has several on that route should give one up.
    pub(super) fn is_short(&self, route: &Route) -> bool {
        let mut state = self.lock();
        let full = state.open >= self.shared.most;
        let origin = state.origin(&route.last, self.shared.most);
        let (above, at) = (origin.open > origin.ceiling, origin.open >= origin.ceiling);
        above || at && state.somebody_could(Some(&route.last)) || full && state.somebody_could(None)
    }

    /// A server refused: half as many for a while.
    pub(super) fn refused(&self, address: &str) {
        let mut state = self.lock();
        let now = Instant::now();
        let origin = state.origin(&origin(address), self.shared.most);
        if origin.until.is_some_and(|until| until > now + origin.hold.mul_f64(1.0 - ONE_BREATH)) {
            return;
        }
        if origin.until.is_some() {
            origin.hold = (origin.hold * 2).min(LONGEST_HOLD);
        }
        origin.ceiling = (origin.ceiling / 2).max(1);
        origin.until = Some(now + origin.hold);
    }

    /// A server counts requests and wants none for so long: one wait for all that go there.
    pub(super) fn pause(&self, address: &str, wait: Duration) {
        let until = Instant::now() + wait.min(LONGEST_PAUSE);
        let mut state = self.lock();
        let origin = state.origin(&origin(address), self.shared.most);
        origin.not_before = origin.not_before.max(Some(until));
    }

    /// How long such a wait goes on, and which server asked for it.
    pub(super) fn paused(&self, route: &Route) -> Option<(Duration, Arc<str>)> {
        let mut state = self.lock();
        let until = state.paused(route)?;
        let last = state.origin(&route.last, self.shared.most).not_before == Some(until);
        let who = if last { &route.last } else { &route.first };
        Some((until.saturating_duration_since(Instant::now()), Arc::clone(who)))
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
    fn origin(&mut self, name: &Arc<str>, most: usize) -> &mut Origin {
        let origin = self.origins.entry(Arc::clone(name)).or_insert_with(|| Origin {
            open: 0,
            ceiling: most,
            until: None,
            hold: FIRST_HOLD,
            not_before: None,
        });
        origin.recover(most);
        origin
    }

    /// Until when nothing is to be asked for on that route, if that lies ahead.
    fn paused(&mut self, route: &Route) -> Option<Instant> {
        let mut paused = |name| self.origins.get_mut(name).and_then(Origin::paused);
        paused(&route.first).max(paused(&route.last))
    }

    /// Whether nothing but a connection is missing to somebody who waits: one of the whole number, or with `to` one of
    /// those that this server puts up with.
    fn somebody_could(&mut self, to: Option<&Arc<str>>) -> bool {
        let routes: Vec<Route> =
            self.waiting.keys().filter(|route| to.is_none_or(|to| route.last == *to)).cloned().collect();
        routes.iter().any(|route| {
            let room = self.origins.get(&route.last).is_none_or(|origin| origin.open < origin.ceiling);
            (room || to.is_some()) && self.paused(route).is_none()
        })
    }

    /// Forgets a server of which nothing is to be remembered.
    fn forget(&mut self, name: &Arc<str>) {
        if self.origins.get_mut(name).is_some_and(Origin::is_idle) {
            self.origins.remove(name);
        }
    }
}

impl Origin {
    /// Until when nothing is to be asked for, if that lies ahead.
    fn paused(&mut self) -> Option<Instant> {
        self.not_before = self.not_before.filter(|until| *until > Instant::now());
        self.not_before
    }

    /// One step up for each hold that has passed since a refusal.
    fn recover(&mut self, most: usize) {
        let now = Instant::now();
        while let Some(until) = self.until.filter(|until| now >= *until) {
            self.ceiling = (self.ceiling * 2).min(most);
            self.until = (self.ceiling < most).then(|| until + self.hold);
            if self.until.is_none() {
                self.hold = FIRST_HOLD;
            }
        }
    }

    fn is_idle(&mut self) -> bool {
        self.open == 0 && self.until.is_none() && self.paused().is_none()
    }
}

/// The right to have one connection open; dropping it gives it back.
#[derive(Debug)]
pub(super) struct Permit {
    connections: Connections,
    to: Arc<str>,
}

impl Permit {
    /// The connection goes on that route now.
    pub(super) fn goes(&mut self, route: &Route) {
        if self.to != route.last {
            let mut state = self.connections.lock();
            state.origin(&self.to, self.connections.shared.most).open -= 1;
            state.origin(&route.last, self.connections.shared.most).open += 1;
            state.forget(&self.to);
            drop(state);
            self.to = Arc::clone(&route.last);
            self.connections.shared.changed.notify_waiters();
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut state = self.connections.lock();
        state.open -= 1;
        state.origin(&self.to, self.connections.shared.most).open -= 1;
        state.forget(&self.to);
        drop(state);
        self.connections.shared.changed.notify_waiters();
    }
}

struct Waiting<'a> {
    connections: &'a Connections,
    route: &'a Route,
}

impl<'a> Waiting<'a> {
    fn begin(connections: &'a Connections, route: &'a Route) -> Self {
        *connections.lock().waiting.entry(route.clone()).or_default() += 1;
        Self { connections, route }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut state = self.connections.lock();
        if let Some(count) = state.waiting.get_mut(self.route) {
            *count -= 1;
            if *count == 0 {
                state.waiting.remove(self.route);
            }
        }
        state.forget(&self.route.last);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HUB: &str = "https://hub.example";
    const BYTES: &str = "https://bytes.example";

    fn hub() -> Route {
        Route::new("https://hub.example/api/x", HUB)
    }

    fn ceiling(connections: &Connections, name: &str) -> usize {
        connections.lock().origin(&origin(name), connections.most()).ceiling
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_of_each_comes_before_the_second_of_any() {
        for to in [hub(), Route::new(HUB, BYTES)] {
            let connections = Connections::new(2);
            let one = connections.first(&hub()).await;
            let more = connections.more(&hub()).unwrap();
            assert!(connections.more(&hub()).is_none() && !connections.is_short(&hub()));
            let waiting = tokio::spawn({
                let connections = connections.clone();
                async move { connections.first(&to).await }
            });
            while !connections.is_short(&hub()) {
                tokio::task::yield_now().await;
            }
            drop(more);
            let other = waiting.await.unwrap();
            assert_eq!(connections.open(), 2);
            drop((one, other));
            assert_eq!(connections.open(), 0);
            assert!(connections.lock().origins.is_empty());
            assert!(connections.more(&hub()).is_some());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn refusals_halve_it_down_to_one_and_time_brings_it_back() {
        let connections = Connections::new(8);
        let held: Vec<_> = (0..8).map(|_| connections.more(&hub()).unwrap()).collect();
        connections.refused(HUB);
        // The other seven were refused by the same breath.
        (0..7).for_each(|_| connections.refused(HUB));
        assert_eq!(ceiling(&connections, HUB), 4);
        assert!(connections.is_short(&hub()));
        drop(held);
        for expected in [2, 1, 1] {
            tokio::time::advance(Duration::from_secs(25)).await;
            let over = |connections: &Connections| {
                let state = connections.lock();
                let origin = state.origins.get(HUB).unwrap();
                origin.until.unwrap() <= Instant::now() + origin.hold / 3
            };
            while !over(&connections) {
                tokio::time::advance(Duration::from_secs(10)).await;
            }
            connections.refused(HUB);
            assert_eq!(ceiling(&connections, HUB), expected);
        }
        drop(connections.more(&hub()).unwrap());
        for _ in 0..4 {
            tokio::time::advance(LONGEST_HOLD).await;
            drop(connections.first(&hub()).await);
        }
        assert_eq!(ceiling(&connections, HUB), 8);
        drop(connections.first(&hub()).await);
        assert!(connections.lock().origins.is_empty(), "nothing is left to be remembered");
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_that_a_server_wants_is_kept_by_all() {
        let connections = Connections::new(2);
        let start = Instant::now();
        connections.pause("https://hub.example/x", Duration::from_secs(20));
        connections.pause(HUB, Duration::from_secs(5));
        assert!(connections.more(&hub()).is_none());
        drop(connections.first(&hub()).await);
        assert!((20..22).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
        drop(connections.more(&hub()).unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_and_a_refusal_of_one_server_are_nothing_to_another() {
        let connections = Connections::new(4);
        let (elsewhere, direct) = (Route::new("https://other.example", BYTES), Route::new(BYTES, BYTES));
        connections.pause(HUB, Duration::from_secs(300));
        connections.refused(HUB);
        let waiting = tokio::spawn({
            let connections = connections.clone();
            async move { connections.first(&Route::new(HUB, BYTES)).await }
        });
        tokio::task::yield_now().await;
        let start = Instant::now();
        let mut held = vec![connections.first(&elsewhere).await, connections.first(&direct).await];
        drop(waiting);
        tokio::task::yield_now().await;
        held.push(connections.more(&elsewhere).unwrap());
        held.push(connections.more(&direct).unwrap());
        assert_eq!(start.elapsed(), Duration::ZERO);
        assert!(connections.more(&direct).is_none(), "one number over all");
        assert!(!connections.is_short(&direct));
        assert_eq!(connections.paused(&hub()).unwrap().1.as_ref(), HUB);
        drop(held);
        drop(connections.first(&hub()).await);
        assert!((299..302).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_a_paused_server_takes_nothing_from_others() {
        let connections = Connections::new(2);
        let mut one = connections.first(&hub()).await;
        let other = Route::new(BYTES, BYTES);
        one.goes(&other);
        let more = connections.more(&other).unwrap();
        connections.pause(HUB, Duration::from_secs(60));
        let waiting = tokio::spawn({
            let connections = connections.clone();
            async move { connections.first(&hub()).await }
        });
        while connections.lock().waiting.is_empty() {
            tokio::task::yield_now().await;
        }
        assert!(!connections.is_short(&other));
        tokio::time::advance(Duration::from_secs(61)).await;
        assert!(connections.is_short(&other), "now it could go on");
        drop(more);
        drop((waiting.await.unwrap(), one));
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_waits_wakes_when_the_refusal_is_over() {
        let connections = Connections::new(2);
        connections.refused(HUB);
        let held = connections.first(&hub()).await;
        let start = Instant::now();
        let other = connections.first(&hub()).await;
        assert!(start.elapsed() >= FIRST_HOLD - Duration::from_secs(1));
        drop((held, other));
    }
}
