//! How long to wait before the next try.

use std::time::Duration;

/// Pauses between tries: each longer than the one before, up to the longest, and of each a part that chance decides, so
/// that those who failed together part.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pauses {
    /// The first.
    pub first: Duration,
    /// How many times as long as the one before each is.
    pub growth: f64,
    /// None is longer, before chance has its part.
    pub longest: Duration,
    /// The least and the greatest part of a pause that is waited.
    pub spread: (f64, f64),
}

impl Pauses {
    /// The pause after failure number `failures` (from 1). `random` lies in 0..=1.
    #[must_use]
    pub fn after(&self, failures: u32, random: f64) -> Duration {
        let growth = self.growth.powi(failures.saturating_sub(1).min(64).cast_signed());
        let full = Duration::try_from_secs_f64(self.first.as_secs_f64() * growth).unwrap_or(self.longest);
        let (least, most) = self.spread;
        full.min(self.longest).mul_f64(least + (most - least) * random.clamp(0.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn they_grow_up_to_the_longest() {
        let pauses = Pauses { first: SECOND, growth: 2.0, longest: 10 * SECOND, spread: (1.0, 1.0) };
        let found = [0, 1, 2, 3, 4, 5, u32::MAX].map(|failures| pauses.after(failures, 0.3).as_secs());
        assert_eq!(found, [1, 1, 2, 4, 8, 10, 10]);
    }

    #[test]
    fn chance_decides_within_the_spread() {
        let pauses = Pauses { first: SECOND, growth: 1.5, longest: 10 * SECOND, spread: (0.5, 1.5) };
        let found = [-1.0, 0.0, 0.5, 1.0, 7.0].map(|random| pauses.after(1, random).as_millis());
        assert_eq!(found, [500, 500, 1000, 1500, 1500]);
    }
}
