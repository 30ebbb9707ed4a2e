//! What the line at the bottom says.

use std::collections::VecDeque;
use std::time::Duration;

/// How much a notice matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Good to know; the next notice takes its place.
    Info,
    /// Something was done; it waits until it was seen.
    Done,
    /// Something is not as it should be.
    Warn,
    /// Something failed.
    Bad,
}

/// A line for the person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// How much it matters.
    pub level: Level,
    /// The line.
    pub text: String,
    /// When it came to the front; a key soon after was not an answer to it.
    since: Duration,
}

/// The notices that nobody has seen yet, the newest first: it answers the latest key.
#[derive(Clone, Debug, Default)]
pub struct Notices(VecDeque<Notice>);

/// How long a notice stays at least, whatever is pressed.
const READING: Duration = Duration::from_millis(1500);
/// Notices that wait; older ones give way.
const MAX: usize = 4;

impl Notices {
    /// The notice that is shown.
    #[must_use]
    pub fn shown(&self) -> Option<&Notice> {
        self.0.front()
    }

    /// How many wait behind it.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.0.len().saturating_sub(1)
    }

    /// Adds a notice.
    pub fn add(&mut self, level: Level, text: impl Into<String>, at: Duration) {
        let notice = Notice { level, text: text.into(), since: at };
        self.0.retain(|waits| waits.level != Level::Info && waits.text != notice.text);
        self.0.truncate(MAX - 1);
        self.0.push_front(notice);
    }

    /// A key was pressed: what was there to be read goes.
    pub fn dismiss(&mut self, at: Duration) {
        let read = |notice: &Notice| notice.level == Level::Info || at.saturating_sub(notice.since) >= READING;
        if self.0.front().is_some_and(read) {
            self.0.pop_front();
            if let Some(next) = self.0.front_mut() {
                next.since = at;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_is_not_lost_to_the_next_key_or_the_next_notice() {
        let at = Duration::from_millis;
        let mut notices = Notices::default();
        notices.add(Level::Info, "sorted by size", at(0));
        notices.add(Level::Done, "freed 4 GiB", at(10));
        notices.add(Level::Bad, "x failed", at(20));
        assert_eq!(notices.shown().unwrap().text, "x failed");
        notices.dismiss(at(100));
        notices.add(Level::Info, "sorted by name", at(100));
        assert_eq!(notices.shown().unwrap().text, "sorted by name", "the answer to the latest key");
        notices.dismiss(at(200));
        assert_eq!(notices.shown().unwrap().text, "x failed", "it comes back");
        notices.dismiss(at(1500));
        assert_eq!(notices.shown().unwrap().text, "x failed", "and has its time again");
        notices.dismiss(at(2000));
        assert_eq!(notices.shown().unwrap().text, "freed 4 GiB");
        notices.dismiss(at(4000));
        assert_eq!(notices.shown(), None);
    }

    #[test]
    fn many_notices_are_bounded() {
        let mut notices = Notices::default();
        for number in 0..100 {
            notices.add(Level::Bad, format!("{number}"), Duration::ZERO);
        }
        assert_eq!(notices.waiting(), MAX - 1);
        assert_eq!(notices.shown().unwrap().text, "99");
    }
}
