//! What the line at the bottom says.

use std::collections::VecDeque;
use std::time::Duration;

use crate::jobs::JobId;
use crate::tui::text;

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

/// What a notice is about, which decides when it is no longer true.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topic {
    /// The latest key: the next notice takes its place.
    Answer,
    /// The filter: it goes when the filter changes.
    Filter,
    /// How a job ended: it waits until it was seen, or until the job runs again.
    Job(JobId),
    /// Something that stays as it is: it waits until it was seen.
    Trouble,
}

impl Topic {
    fn waits(self) -> bool {
        matches!(self, Self::Job(_) | Self::Trouble)
    }
}

/// A line for the person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// How much it matters.
    pub level: Level,
    /// The line.
    pub text: String,
    /// What it is about.
    pub topic: Topic,
    /// When it came to the front; a key soon after was not an answer to it.
    since: Duration,
}

/// The notices that nobody has seen yet, the newest first: it answers the latest key. Of the older ones only those wait that
/// are worth telling later.
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
    pub fn add(&mut self, level: Level, topic: Topic, text: impl Into<String>, at: Duration) {
        let notice = Notice { level, text: text.into(), topic, since: at };
        self.0.retain(|waits| waits.level != Level::Info && waits.topic.waits() && waits.text != notice.text);
        self.0.truncate(MAX - 1);
        self.0.push_front(notice);
    }

    /// What `is_over` says to be no longer true goes.
    pub fn forget(&mut self, is_over: impl Fn(Topic) -> bool) {
        self.0.retain(|notice| !is_over(notice.topic));
    }

    /// The notice as at most `most` lines of `width` columns.
    #[must_use]
    pub fn lines(&self, width: usize, most: usize, ellipsis: &str) -> Vec<String> {
        let Some(notice) = self.shown() else { return Vec::new() };
        let line = match self.waiting() {
            0 => notice.text.clone(),
            more => format!("{} (+{more})", notice.text),
        };
        let mut lines = text::wrap(&line, width);
        if lines.len() > most {
            lines.truncate(most);
            if let Some(last) = lines.last_mut() {
                *last = format!("{}{ellipsis}", text::cut(last, width.saturating_sub(text::width(ellipsis)), ""));
            }
        }
        lines
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
        notices.add(Level::Info, Topic::Answer, "sorted by size", at(0));
        notices.add(Level::Done, Topic::Job(JobId(1)), "freed 4 GiB", at(10));
        notices.add(Level::Bad, Topic::Job(JobId(2)), "x failed", at(20));
        assert_eq!(notices.shown().unwrap().text, "x failed");
        notices.dismiss(at(100));
        notices.add(Level::Info, Topic::Answer, "sorted by name", at(100));
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
            notices.add(Level::Bad, Topic::Trouble, format!("{number}"), Duration::ZERO);
        }
        assert_eq!(notices.waiting(), MAX - 1);
        assert_eq!(notices.shown().unwrap().text, "99");
    }

    #[test]
    fn an_answer_never_comes_back_from_behind_a_newer_one() {
        let at = Duration::from_secs;
        let mut notices = Notices::default();
        notices.add(Level::Warn, Topic::Answer, "the terminal is too small", at(0));
        notices.add(Level::Warn, Topic::Filter, "'size>' is no filter", at(1));
        notices.add(Level::Bad, Topic::Job(JobId(3)), "x failed", at(2));
        notices.dismiss(at(9));
        assert_eq!(notices.shown(), None);
    }

    #[test]
    fn what_is_no_longer_true_goes() {
        let mut notices = Notices::default();
        notices.add(Level::Bad, Topic::Job(JobId(3)), "x failed", Duration::ZERO);
        notices.add(Level::Warn, Topic::Filter, "'size>' is no filter", Duration::ZERO);
        notices.forget(|topic| topic == Topic::Filter);
        assert_eq!(notices.shown().unwrap().text, "x failed");
        notices.forget(|topic| topic == Topic::Job(JobId(3)));
        assert_eq!(notices.shown(), None);
    }
}
