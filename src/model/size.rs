//! Sizes, rates and remaining times as people read them.
//!
//! Sizes on screens are powers of 1024 with their binary names (`4.58 GiB`), as `du -h` counts; JSON has bytes.

use std::fmt;
use std::time::Duration;

use humansize::{BINARY, FormatSizeOptions, format_size};

/// Bytes, displayed with three significant digits: `669 MiB`, `4.58 GiB`, `0 B`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut scaled = self.0;
        while scaled >= 1024 {
            scaled /= 1024;
        }
        let decimals = match (self.0 < 1024, scaled) {
            (true, _) | (_, 100..) => 0,
            (_, 10..) => 1,
            _ => 2,
        };
        let options = FormatSizeOptions::from(BINARY).decimal_places(decimals).decimal_zeroes(decimals);
        f.pad(&format_size(self.0, options))
    }
}

impl Bytes {
    /// Reads what people type: `50M`, `1.5G`, `2GiB`, `1000`, `10k`. Letters are powers of 1024, as in `aria2c` and
    /// `curl`; `kB`, `MB`, `GB`, `TB` are powers of 1000.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, unit) = text.split_at(split);
        let number: f64 = number.parse().ok()?;
        let unit = unit.trim().to_ascii_lowercase();
        let unit = unit.strip_suffix("/s").unwrap_or(&unit);
        let factor: f64 = match unit {
            "" | "b" => 1.0,
            "k" | "kib" => 1024.0,
            "m" | "mib" => 1024.0 * 1024.0,
            "g" | "gib" => 1024.0 * 1024.0 * 1024.0,
            "t" | "tib" => 1024.0 * 1024.0 * 1024.0 * 1024.0,
            "kb" => 1e3,
            "mb" => 1e6,
            "gb" => 1e9,
            "tb" => 1e12,
            _ => return None,
        };
        let bytes = number * factor;
        // The comparison also turns away NaN.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
        (bytes >= 0.0 && bytes < u64::MAX as f64).then(|| Self(bytes.round() as u64))
    }
}

/// Reads a number of tokens as people type it: `8192`, `32k`, `1M`. As in the names of models, `k` are 1,024 and `M` are
/// 1,048,576 of them.
///
/// # Errors
/// How it is written, and how many there may be.
pub fn tokens(text: &str) -> Result<u64, String> {
    const MOST: u64 = 1_000_000_000;
    let (digits, unit) = match text.char_indices().last() {
        Some((at, 'k' | 'K')) => (&text[..at], 1 << 10),
        Some((at, 'm' | 'M')) => (&text[..at], 1 << 20),
        _ => (text, 1),
    };
    let count = digits.parse::<u64>().ok().and_then(|count| count.checked_mul(unit));
    count
        .filter(|count| (1..=MOST).contains(count))
        .ok_or_else(|| format!("give a number of tokens from 1 to {MOST}, like 8192, 32k (1k is 1024) or 1M (1024k)"))
}

/// Bytes per second, displayed as `12.3 MiB/s`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Rate(pub u64);

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}/s", Bytes(self.0)))
    }
}

/// A remaining time in two units at most: `42 s`, `3 m 05 s`, `2 h 10 m`, `3 d 4 h`.
#[must_use]
pub fn duration(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..=59 => format!("{seconds} s"),
        60..=3599 => format!("{} m {:02} s", seconds / 60, seconds % 60),
        3600..=86_399 => format!("{} h {:02} m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

/// A count with thousands told apart.
#[must_use]
pub fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A count of parameters: `1.10B`, `494M`.
#[must_use]
pub fn parameters(count: u64) -> String {
    #[allow(clippy::cast_precision_loss)]
    let n = count as f64;
    match count {
        0..=999 => count.to_string(),
        1_000..=999_999 => format!("{:.0}K", n / 1e3),
        1_000_000..=999_999_999 => format!("{:.0}M", n / 1e6),
        1_000_000_000..=99_999_999_999 => format!("{:.2}B", n / 1e9),
        100_000_000_000..=999_999_999_999 => format!("{:.0}B", n / 1e9),
        _ => format!("{:.2}T", n / 1e12),
    }
}

/// Measures a rate over a sliding window, so that a stall shows as a stall and never as the last speed.
#[derive(Clone, Debug)]
pub struct Meter {
    window: Duration,
    samples: std::collections::VecDeque<(Duration, u64)>,
}

impl Meter {
    /// A meter over the last `window`.
    #[must_use]
    pub fn new(window: Duration) -> Self {
        Self { window, samples: std::collections::VecDeque::new() }
    }

    /// Notes that `total` bytes are there at `now` (time since any fixed point; never goes back).
    pub fn record(&mut self, now: Duration, total: u64) {
        if self.samples.back().is_some_and(|(_, last)| total < *last) {
            // A restart: what was measured before is about other bytes.
            self.samples.clear();
        }
        self.samples.push_back((now, total));
        let oldest = now.saturating_sub(self.window);
        // One sample older than the window stays, as the base of the measurement.
        while self.samples.len() > 2 && self.samples[1].0 <= oldest {
            self.samples.pop_front();
        }
    }

    /// Bytes per second over the window that ends at `now`; `None` before there is anything to measure.
    #[must_use]
    pub fn rate(&self, now: Duration) -> Option<Rate> {
        let (start, base) = *self.samples.front()?;
        let (_, total) = *self.samples.back()?;
        let elapsed = now.saturating_sub(start);
        if elapsed < Duration::from_millis(200) {
            return None;
        }
        let (last, _) = *self.samples.back()?;
        if now.saturating_sub(last) > self.window {
            return Some(Rate(0));
        }
        let bytes = u128::from(total - base) * 1000 / elapsed.as_millis().max(1);
        Some(Rate(u64::try_from(bytes).unwrap_or(u64::MAX)))
    }

    /// Time until `remaining` bytes are there at the present rate; `None` when nothing moves.
    #[must_use]
    pub fn eta(&self, now: Duration, remaining: u64) -> Option<Duration> {
        let rate = self.rate(now)?.0;
        (rate > 0).then(|| Duration::from_secs(remaining.div_ceil(rate)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_significant_digits() {
        let cases = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.00 KiB"),
            (701_792_256, "669 MiB"),
            (4_912_898_304, "4.58 GiB"),
            (15_300_000_000, "14.2 GiB"),
            (442_381_000_000, "412 GiB"),
        ];
        for (bytes, text) in cases {
            assert_eq!(Bytes(bytes).to_string(), text);
        }
    }

    #[test]
    fn sizes_are_read_as_people_type_them() {
        let cases = [
            ("50M", 50 << 20),
            ("1.5G", 3 << 29),
            ("2GiB", 2 << 30),
            ("1000", 1000),
            ("10 k", 10 << 10),
            ("5GB", 5_000_000_000),
            ("20M/s", 20 << 20),
        ];
        for (text, bytes) in cases {
            assert_eq!(Bytes::parse(text), Some(Bytes(bytes)), "{text}");
        }
        for text in ["", "G", "-1", "1x", "1e9", "NaN", "99999999999T"] {
            assert_eq!(Bytes::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_stall_shows_as_a_stall() {
        let at = Duration::from_millis;
        let mut meter = Meter::new(at(3000));
        for tick in 0..10 {
            meter.record(at(tick * 500), tick * 1000);
        }
        assert_eq!(meter.rate(at(4500)), Some(Rate(2000)));
        assert!(meter.rate(at(6000)).unwrap() < Rate(2000), "the rate falls while nothing arrives");
        assert_eq!(meter.rate(at(9000)), Some(Rate(0)));
        assert_eq!(meter.eta(at(9000), 1000), None);
    }

    #[test]
    fn a_restart_forgets_the_old_bytes() {
        let at = Duration::from_millis;
        let mut meter = Meter::new(at(3000));
        meter.record(at(0), 5_000_000);
        meter.record(at(500), 0);
        meter.record(at(1500), 1000);
        assert_eq!(meter.rate(at(1500)), Some(Rate(1000)));
    }

    #[test]
    fn times_have_two_units() {
        let cases = [(42, "42 s"), (185, "3 m 05 s"), (7800, "2 h 10 m"), (273_600, "3 d 4 h")];
        for (seconds, text) in cases {
            assert_eq!(duration(Duration::from_secs(seconds)), text);
        }
    }
}
