//! How many connections a file gets: more while that makes it faster, fewer when it does not, or when they fail.

use std::time::Duration;

/// Between two looks at the throughput.
pub(super) const WINDOW: Duration = Duration::from_millis(100);
/// So many windows a larger number gets to show that it is faster: a fresh connection needs round trips for that.
const TRIAL: u32 = 10;
/// The number is not raised for so long after it did not help; twice as long each time.
const FIRST_HOLD: Duration = Duration::from_secs(4);
const LONGEST_HOLD: Duration = Duration::from_secs(300);
/// The same after a connection failed by itself, and after the server refused one.
const AFTER_FAILURE: Duration = Duration::from_secs(1);
const AFTER_REFUSAL: Duration = Duration::from_secs(30);
/// Above this part of the time that connections wait for this host (its disk, its checksum, the speed limit) more of
/// them cannot help; above the second, fewer do as well.
const HELD_UP: f64 = 0.2;
const HELD_UP_MUCH: f64 = 0.5;

/// What was measured since the last sample.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    /// Time since the transfer began.
    pub(super) now: Duration,
    /// Bytes that have arrived since the transfer began.
    pub(super) bytes: u64,
    /// The part of the time that connections waited for this host, 0..=1.
    pub(super) held_up: f64,
    /// Connections that are open.
    pub(super) open: usize,
}

/// Why a connection failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// It broke, or went silent.
    Broke,
    /// The server said that it does not want to.
    Refused,
}

/// The controller: a function of samples and failures.
#[derive(Clone, Debug)]
pub(super) struct Growth {
    most: usize,
    target: usize,
    phase: Phase,
    hold: Duration,
    last: Option<(Duration, u64)>,
    held_up: u32,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Phase {
    /// The throughput of this number is measured: that of the first window says little, the mean of the others counts.
    Measure(Mean),
    /// A larger number is tried; `rate` is that of `from`.
    Trial { from: usize, rate: f64, mean: Mean },
    /// Until then the number stays.
    Hold { until: Duration },
}

/// The mean rate over some windows.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Mean {
    windows: u32,
    sum: f64,
}

impl Mean {
    fn with(self, rate: f64) -> Self {
        Self { windows: self.windows + 1, sum: if self.windows == 0 { 0.0 } else { self.sum + rate } }
    }

    /// None before the second window.
    fn rate(self) -> Option<f64> {
        (self.windows > 1).then(|| self.sum / f64::from(self.windows - 1))
    }
}

impl Growth {
    pub(super) fn new(start: usize, most: usize) -> Self {
        let most = most.max(1);
        let target = start.clamp(1, most);
        Self { most, target, phase: Phase::Measure(Mean::default()), hold: FIRST_HOLD, last: None, held_up: 0 }
    }

    /// How many connections there should be.
    pub(super) fn target(&self) -> usize {
        self.target
    }

    /// A connection failed.
    pub(super) fn failed(&mut self, failure: Failure, now: Duration) {
        let (target, pause) = match failure {
            Failure::Broke => (self.target - 1, AFTER_FAILURE),
            Failure::Refused => (self.target / 2, AFTER_REFUSAL),
        };
        let former = match self.phase {
            Phase::Hold { until } => until,
            _ => Duration::ZERO,
        };
        self.target = target.max(1);
        self.phase = Phase::Hold { until: former.max(now + pause) };
    }

    /// Takes a sample and gives the number.
    pub(super) fn sample(&mut self, sample: Sample) -> usize {
        let Some((then, before)) = self.last.replace((sample.now, sample.bytes)) else { return self.target };
        let took = sample.now.saturating_sub(then).as_secs_f64();
        if took <= 0.0 {
            return self.target;
        }
        let rate = sample.bytes.saturating_sub(before) as f64 / took;
        self.held_up = if sample.held_up > HELD_UP_MUCH { self.held_up + 1 } else { 0 };
        if self.held_up >= 3 && self.target > 1 {
            self.held_up = 0;
            self.target -= 1;
            self.phase = Phase::Hold { until: sample.now + 4 * WINDOW };
            return self.target;
        }
        self.phase = match self.phase {
            Phase::Hold { until } if sample.now < until => self.phase,
            Phase::Hold { .. } => Phase::Measure(Mean::default()),
            Phase::Measure(_) if rate <= 0.0 || sample.open < self.target => Phase::Measure(Mean::default()),
            Phase::Measure(mean) => {
                let mean = mean.with(rate);
                mean.rate().map_or(Phase::Measure(mean), |rate| self.try_more(rate, sample.held_up))
            }
            Phase::Trial { from, rate: former, mean } => {
                let expected = self.target as f64 / from as f64;
                let mean = mean.with(rate);
                let now = mean.rate().unwrap_or(0.0);
                if now >= former * (1.0 + 0.4 * (expected - 1.0)) && sample.open >= self.target {
                    self.hold = FIRST_HOLD;
                    self.try_more(now, sample.held_up)
                } else if mean.windows < TRIAL && sample.held_up <= HELD_UP {
                    Phase::Trial { from, rate: former, mean }
                } else {
                    if now < former * 1.1 {
                        self.target = from;
                    }
                    let until = sample.now + self.hold;
                    self.hold = (self.hold * 2).min(LONGEST_HOLD);
                    Phase::Hold { until }
                }
            }
        };
        self.target
    }

    fn try_more(&mut self, rate: f64, held_up: f64) -> Phase {
        if self.target >= self.most || held_up > HELD_UP {
            return Phase::Measure(Mean::default());
        }
        let from = self.target;
        self.target = (from * 2).min(self.most);
        Phase::Trial { from, rate, mean: Mean::default() }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Runs the controller for so many windows on a link; gives the number after each.
    fn run(growth: &mut Growth, windows: u32, link: impl Fn(usize) -> (f64, f64)) -> Vec<usize> {
        let (mut now, mut bytes) = growth.last.unwrap_or_default();
        let mut numbers = Vec::new();
        for _ in 0..windows {
            let (rate, held_up) = link(growth.target());
            now += WINDOW;
            bytes += (rate * WINDOW.as_secs_f64()) as u64;
            let open = growth.target();
            numbers.push(growth.sample(Sample { now, bytes, held_up, open }));
        }
        numbers
    }

    const MIB: f64 = 1_048_576.0;

    #[test]
    fn where_each_connection_is_limited_it_grows_to_the_most_within_a_second() {
        for most in [8, 16] {
            let mut growth = Growth::new(2, most);
            let numbers = run(&mut growth, 10, |count| (20.0 * MIB * count as f64, 0.0));
            assert_eq!(*numbers.last().unwrap(), most, "{numbers:?}");
        }
    }

    #[test]
    fn where_the_link_is_full_it_goes_back_and_seldom_tries_again() {
        let mut growth = Growth::new(1, 8);
        let numbers = run(&mut growth, 600, |_| (50.0 * MIB, 0.0));
        let more = numbers.iter().filter(|count| **count > 1).count();
        assert!(more < 60, "{more} of 600 windows");
        assert_eq!(growth.target(), 1);
    }

    #[test]
    fn where_this_host_is_the_slower_one_it_shrinks_to_one() {
        let mut growth = Growth::new(2, 8);
        let numbers = run(&mut growth, 20, |count| (1000.0 * MIB / count as f64, 0.8));
        assert_eq!(*numbers.last().unwrap(), 1, "{numbers:?}");
        assert!(numbers.iter().all(|count| *count <= 2));
    }

    #[test]
    fn failures_take_connections_away_and_a_refusal_half_of_them() {
        let mut growth = Growth::new(8, 8);
        growth.failed(Failure::Broke, Duration::ZERO);
        assert_eq!(growth.target(), 7);
        for expected in [3, 1, 1] {
            growth.failed(Failure::Refused, Duration::ZERO);
            assert_eq!(growth.target(), expected);
        }
        let link = |count: usize| (20.0 * MIB * count as f64, 0.0);
        assert!(run(&mut growth, 250, link).iter().all(|count| *count == 1), "not within the hold");
        run(&mut growth, 100, link);
        assert_eq!(growth.target(), 8);
    }

    proptest! {
        #[test]
        fn the_number_stays_within_its_bounds(
            most in 1..40_usize,
            start in 0..50_usize,
            steps in prop::collection::vec((0..1_000_000_u64, 0.0..1.0_f64, 0..4_u8, 0..40_usize), 0..200),
        ) {
            let mut growth = Growth::new(start, most);
            let (mut now, mut bytes) = (Duration::ZERO, 0);
            for (more, held_up, what, open) in steps {
                now += WINDOW;
                bytes += more;
                match what {
                    0 => growth.failed(Failure::Broke, now),
                    1 => growth.failed(Failure::Refused, now),
                    _ => _ = growth.sample(Sample { now, bytes, held_up, open }),
                }
                prop_assert!((1..=most).contains(&growth.target()));
            }
        }
    }
}
