//! When to try again, and when to give up.

use std::time::{Duration, Instant};

use crate::error::Error;
use crate::model::Pauses;

/// The longest wait that a server may ask for; a longer one is cut to this, and the next answer decides again.
const LONGEST_ASKED: Duration = Duration::from_secs(3600);

/// How much longer each pause is than the one before. What fails by chance has passed after a few tries, which are to cost
/// seconds; a server that is down is asked some forty times in ten minutes.
const GROWTH: f64 = 1.5;

/// Pauses between tries: each half as long again as the one before, within these bounds, less a random part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// The first pause.
    pub first: Duration,
    /// The longest pause that is not asked for by the server.
    pub longest: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self { first: Duration::from_millis(500), longest: Duration::from_secs(30) }
    }
}

impl RetryPolicy {
    /// The pause before try number `attempt` (from 1). `asked` is what the server asks for; the pause is never shorter.
    /// `random` lies in 0..=1 and spreads those who failed together.
    pub(super) fn pause(&self, attempt: u32, asked: Option<Duration>, random: f64) -> Duration {
        let pauses = Pauses { first: self.first, growth: GROWTH, longest: self.longest, spread: (0.5, 1.0) };
        let own = pauses.after(attempt, random);
        match asked {
            None => own,
            // A second beyond: the window that the server counts in must really be over.
            Some(asked) => own.max(asked.min(LONGEST_ASKED) + self.first.mul_f64(2.0 * random.clamp(0.0, 1.0))),
        }
    }
}

/// The time by the runtime's clock, which tests can move.
pub(super) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// So often in a row a server that refuses is asked again before the first byte: it may have stumbled, but may mean it.
const FIRST_TRIES: u32 = 3;
/// An answer is waited for at least so long, if silence is put up with for that long.
const LEAST_ANSWER: Duration = Duration::from_secs(2);
/// A file server that refuses so many times in a row means it.
const REFUSALS: u32 = 5;
/// So many answers in a row that no hub gives are put up with before the first byte (a proxy or a server may have
/// stumbled, but the address may be wrong as well), for a file that had no byte yet while others arrive, and for one that was
/// arriving.
const STRANGE_FIRST: u32 = 6;
const STRANGE: u32 = 8;
const STRANGE_AMID: u32 = 120;

/// How long a transfer may still fail. Progress renews it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget {
    first_byte: Option<Duration>,
    patience: Option<Duration>,
    since: Instant,
    bytes_arrived: bool,
    /// Whether bytes of this very file came.
    own_bytes: bool,
    failures: u32,
    /// Refusals in a row, and strange answers in a row.
    refusals: u32,
    strange: u32,
    /// Requests in a row that nobody answered.
    unanswered: u32,
}

impl Budget {
    pub(super) fn new(first_byte: Option<Duration>, patience: Option<Duration>, now: Instant) -> Self {
        Self {
            first_byte,
            patience,
            since: now,
            bytes_arrived: false,
            own_bytes: false,
            failures: 0,
            refusals: 0,
            strange: 0,
            unanswered: 0,
        }
    }

    /// Starts the clock again without progress: all of it is to come again.
    pub(super) fn restart_clock(&mut self, now: Instant) {
        self.since = now;
    }

    /// So long it waited for what was no failure: that does not count, and what failed before it does.
    pub(super) fn waited(&mut self, wait: Duration, now: Instant) {
        self.since = (self.since + wait).min(now);
    }

    /// Bytes arrive, if not of this file: from now on the patience holds.
    pub(super) fn arrives(&mut self) {
        self.bytes_arrived = true;
    }

    /// A byte came that was not there before.
    pub(super) fn progress(&mut self, now: Instant) {
        self.since = now;
        self.bytes_arrived = true;
        self.own_bytes = true;
        self.failures = 0;
        self.refusals = 0;
        self.strange = 0;
        self.unanswered = 0;
    }

    /// How long to wait for the answer to a request before it is sent again: a server that lost one answers the next,
    /// so the first is waited for a part of what silence is put up with (`stall`). One that is known to take `slowest`
    /// gets that and more.
    pub(super) fn answer_within(&self, stall: Duration, slowest: Duration, now: Instant) -> Duration {
        let part = match self.unanswered {
            0 => stall / 4,
            1 => stall / 2,
            _ => stall,
        };
        let wait = part.max(slowest.saturating_mul(4)).max(LEAST_ANSWER).min(stall);
        wait.min(self.left(now).unwrap_or(Duration::MAX).max(Duration::from_millis(1)))
    }

    /// Nobody answered a request in time.
    pub(super) fn unanswered(&mut self) {
        self.unanswered = self.unanswered.saturating_add(1);
    }

    /// What is left of it; `None` is without end.
    pub(super) fn left(&self, now: Instant) -> Option<Duration> {
        let whole = if self.bytes_arrived { self.patience } else { self.first_byte };
        whole.map(|whole| whole.saturating_sub(now.saturating_duration_since(self.since)))
    }

    /// Notes what a failure says of the address, and tells whether trying again may help. An answer that is no hub's, or a refusal by the server of the bytes, means a proxy or a
    /// server that stumbled, a signed address whose time was up, or a wrong address: it is tried again a number of times that
    /// grows with what speaks for the address.
    pub(super) fn weigh(&mut self, error: &Error) -> bool {
        // Only those of a kind that follow each other say something of the address: a server that fails in many ways is a bad
        // server.
        let (strange, refusals) = (self.strange, self.refusals);
        self.strange = if matches!(error, Error::BadAnswer { .. }) { strange + 1 } else { 0 };
        let accident = matches!(error, Error::Unreachable { .. } | Error::RateLimited { .. } | Error::BadAnswer { .. });
        self.refusals = if accident { 0 } else { refusals + 1 };
        let within = |most: u32| refusals < most;
        match error {
            Error::Unreachable { .. } | Error::RateLimited { .. } => true,
            Error::BadAnswer { .. } if self.own_bytes => strange < STRANGE_AMID,
            Error::BadAnswer { .. } if self.bytes_arrived => strange < STRANGE,
            Error::BadAnswer { .. } => strange < STRANGE_FIRST,
            Error::Refused { status: 408 | 425 | 429 | 500 | 502..=504, .. } => true,
            Error::Refused { .. } => within(if self.bytes_arrived { REFUSALS } else { FIRST_TRIES }),
            // A hub that gave the file a moment ago and does not know its reader now has stumbled, or has not.
            Error::SignIn { .. } | Error::RepositoryNotFound { .. } => self.bytes_arrived && within(1),
            _ => false,
        }
    }

    /// Notes a failure: the number of the next try and the pause before it, or `None` when it would come too late.
    pub(super) fn failed(
        &mut self,
        policy: &RetryPolicy,
        asked: Option<Duration>,
        random: f64,
        now: Instant,
    ) -> Option<(u32, Duration)> {
        self.failures = self.failures.saturating_add(1);
        let pause = policy.pause(self.failures, asked, random);
        match self.left(now) {
            Some(left) if pause >= left => None,
            _ => Some((self.failures, pause)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn pauses_grow_up_to_the_longest_and_are_spread_over_their_upper_half() {
        let policy = RetryPolicy::default();
        let longest: Vec<u128> = [1, 2, 3, 6, 11, 12, 13].map(|n| policy.pause(n, None, 1.0).as_millis()).into();
        assert_eq!(longest, [500, 750, 1125, 3796, 28_832, 30_000, 30_000]);
        assert_eq!(policy.pause(1, None, 0.0).as_millis(), 250);
        assert_eq!(policy.pause(u32::MAX, None, 0.0).as_secs(), 15);
    }

    #[test]
    fn a_pause_that_the_server_asks_for_is_kept_but_not_for_a_day() {
        let policy = RetryPolicy::default();
        for random in [0.0, 0.5, 1.0] {
            let pause = policy.pause(1, Some(20 * SECOND), random);
            assert!((20 * SECOND..=21 * SECOND).contains(&pause), "{pause:?}");
        }
        assert!(policy.pause(1, Some(Duration::MAX), 1.0) <= LONGEST_ASKED + SECOND);
    }

    #[test]
    fn without_a_first_byte_the_first_bound_holds_and_after_it_the_patience() {
        let start = Instant::now();
        let mut budget = Budget::new(Some(30 * SECOND), Some(600 * SECOND), start);
        assert_eq!(budget.left(start + 10 * SECOND), Some(20 * SECOND));
        assert!(budget.failed(&RetryPolicy::default(), None, 0.0, start + 10 * SECOND).is_some());
        assert!(budget.failed(&RetryPolicy::default(), None, 0.0, start + 31 * SECOND).is_none());

        budget.progress(start + 20 * SECOND);
        assert_eq!(budget.left(start + 31 * SECOND), Some(589 * SECOND));
        let (attempt, _) = budget.failed(&RetryPolicy::default(), None, 0.0, start + 31 * SECOND).unwrap();
        assert_eq!(attempt, 1, "progress renews the number of tries");
        assert!(budget.failed(&RetryPolicy::default(), None, 0.0, start + 621 * SECOND).is_none());
    }

    #[test]
    fn a_wait_that_outlasts_the_budget_fails_at_once() {
        let start = Instant::now();
        let mut budget = Budget::new(Some(30 * SECOND), None, start);
        assert!(budget.failed(&RetryPolicy::default(), Some(172 * SECOND), 0.0, start).is_none());
    }

    #[test]
    fn an_answer_is_waited_for_longer_each_time_and_as_long_as_answers_take() {
        let start = Instant::now();
        let mut budget = Budget::new(None, None, start);
        let within = |budget: &Budget, slowest| budget.answer_within(20 * SECOND, slowest, start);
        assert_eq!(within(&budget, Duration::ZERO), 5 * SECOND);
        assert_eq!(within(&budget, 3 * SECOND), 12 * SECOND);
        assert_eq!(within(&budget, 9 * SECOND), 20 * SECOND);
        let waits: Vec<Duration> = (0..3)
            .map(|_| {
                budget.unanswered();
                within(&budget, Duration::ZERO)
            })
            .collect();
        assert_eq!(waits, [10 * SECOND, 20 * SECOND, 20 * SECOND]);
        budget.progress(start);
        assert_eq!(within(&budget, Duration::ZERO), 5 * SECOND);
        assert_eq!(budget.answer_within(SECOND, Duration::ZERO, start), SECOND, "a short stall is no shorter");
        let short = Budget::new(Some(3 * SECOND), None, start);
        assert_eq!(within(&short, Duration::ZERO), 3 * SECOND);
    }

    #[test]
    fn without_bounds_it_never_gives_up() {
        let start = Instant::now();
        let mut budget = Budget::new(None, None, start);
        for hour in 0..1000 {
            assert!(budget.failed(&RetryPolicy::default(), None, 1.0, start + hour * 3600 * SECOND).is_some());
        }
    }

    #[test]
    fn only_what_may_pass_is_tried_again() {
        let now = Instant::now();
        let before = Budget::new(None, None, now);
        let mut after = before;
        let bad = Error::BadAnswer { url: "u".into(), reason: "r".into() };
        let refused = |status| Error::Refused { url: "u".into(), status, reason: "r".into() };
        let unknown = Error::RepositoryNotFound { repository: "r".into(), endpoint: "e".into() };
        let mut others = before;
        others.arrives();
        after.progress(now);
        let tries = |error: &Error, mut budget: Budget| {
            (0..1000)
                .take_while(|_| budget.weigh(error) && budget.failed(&RetryPolicy::default(), None, 0.0, now).is_some())
                .count()
        };
        for (error, counts) in [
            (&bad, [STRANGE_FIRST, STRANGE, STRANGE_AMID]),
            (&refused(503), [1000, 1000, 1000]),
            (&refused(404), [FIRST_TRIES, REFUSALS, REFUSALS]),
            (&refused(204), [FIRST_TRIES, REFUSALS, REFUSALS]),
            (&unknown, [0, 1, 1]),
            (&Error::Changed { file: "f".into() }, [0, 0, 0]),
        ] {
            let found = [before, others, after].map(|budget| tries(error, budget));
            assert_eq!(found, counts.map(|count| count as usize), "{error}");
        }
    }
}
