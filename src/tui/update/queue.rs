//! The queue pane: motions, and what is done to jobs.

use super::{Effects, focus, models, moved};
use crate::jobs::{Control, JobSpec, JobState, JobStatus};
use crate::model::{Rate, text};
use crate::tui::action::Action;
use crate::tui::effect::Effect;
use crate::tui::keymap::Pane;
use crate::tui::msg::Now;
use crate::tui::state::{Focus, Level, State};

const MIB: u64 = 1024 * 1024;
/// Limits that the keys go through; beyond the last there is none.
const LIMITS: [u64; 12] = [
    MIB / 2,
    MIB,
    2 * MIB,
    5 * MIB,
    10 * MIB,
    20 * MIB,
    50 * MIB,
    100 * MIB,
    200 * MIB,
    500 * MIB,
    1024 * MIB,
    2048 * MIB,
];

pub(super) fn act(state: &mut State, action: Action, now: Now) -> Effects {
    let page = state.layout().queue_rows();
    let position = state.queue.position().unwrap_or(0);
    if let Some(position) = moved(action, position, page, state.queue.shown().len()) {
        state.queue.moved = true;
        state.queue.place(position);
        return Vec::new();
    }
    match action {
        Action::Back => {
            state.queue.filter.clear();
            return Vec::new();
        }
        Action::Filter => {
            state.queue.filtering = true;
            return Vec::new();
        }
        Action::Faster => return limit(state, faster(state.queue.snapshot.limit), now),
        Action::Slower => {
            let rate = state.queue.snapshot.jobs.iter().filter_map(|job| job.rate).sum();
            return limit(state, Some(slower(state.queue.snapshot.limit, rate)), now);
        }
        Action::ClearEnded if !state.queue.has_ended() => {
            state.say(Level::Info, "no job has ended", now);
            return Vec::new();
        }
        Action::ClearEnded => return vec![Effect::ClearEnded],
        _ => {}
    }
    let Some(job) = state.queue.current() else {
        if !matches!(action, Action::Delete | Action::Verify) {
            state.say(Level::Info, "the queue is empty", now);
        }
        return Vec::new();
    };
    let (id, job_state) = (job.id, job.state);
    let partial = matches!(job.spec, JobSpec::Download(_)) && job_state != JobState::Finished;
    let place = state.queue.snapshot.position(id);
    let control = match action {
        Action::Open => {
            state.queue.moved = true;
            focus(state, Focus::Detail);
            return Vec::new();
        }
        Action::Copy => {
            // The page on which access is asked for, mostly: too long to be typed.
            let path = job.path.as_deref().map(text::printable_path).or_else(|| address(job));
            return match path {
                Some(path) => models::copy(state, &path, now),
                None => {
                    state.say(Level::Info, "this job has no path yet", now);
                    Vec::new()
                }
            };
        }
        Action::Cancel | Action::Discard if job_state.has_ended() && (action == Action::Cancel || !partial) => {
            let key = state.keymap.key(Pane::Queue, Action::ClearEnded).map_or_else(String::new, |key| key.to_string());
            state.say(Level::Info, format!("this job has ended; {key} clears ended jobs"), now);
            return Vec::new();
        }
        Action::TogglePause if job_state == JobState::Paused => Control::Resume,
        Action::TogglePause => Control::Pause,
        Action::Cancel => Control::Cancel,
        Action::Discard => Control::Discard,
        Action::Retry => Control::Retry,
        Action::Earlier | Action::Later => match place {
            // Before the first of those that wait are those that run.
            Some(0) if action == Action::Earlier => Control::RunNow,
            Some(place) if action == Action::Earlier => Control::MoveTo(place.saturating_sub(1)),
            Some(place) => Control::MoveTo((place + 1).min(state.queue.snapshot.waiting().saturating_sub(1))),
            None if partial && !job_state.has_ended() && action == Action::Later => Control::MoveTo(0),
            None => {
                state.say(Level::Info, "only jobs that wait can be moved", now);
                return Vec::new();
            }
        },
        _ => return Vec::new(),
    };
    state.queue.moved = true;
    vec![Effect::Control(id, control)]
}

/// The address in what is said of a job that failed.
fn address(job: &JobStatus) -> Option<String> {
    let why = job.why.as_deref().filter(|_| job.state == JobState::Failed)?;
    let word = why.split_whitespace().find(|word| word.starts_with("https://") || word.starts_with("http://"))?;
    Some(word.trim_end_matches([',', ';', '.', ')']).to_owned())
}

fn limit(state: &mut State, limit: Option<u64>, now: Now) -> Effects {
    let text = match limit {
        Some(bytes) => format!("all downloads together: at most {}", Rate(bytes)),
        None => "downloads are not limited".to_owned(),
    };
    state.say(Level::Info, text, now);
    vec![Effect::Limit(limit)]
}

fn faster(limit: Option<u64>) -> Option<u64> {
    let limit = limit?;
    LIMITS.into_iter().find(|step| *step > limit)
}

/// The next lower limit; without one, the first that would slow down what runs at `rate`.
fn slower(limit: Option<u64>, rate: u64) -> u64 {
    let below = match (limit, rate) {
        (Some(limit), _) => limit,
        (None, 0) => u64::MAX,
        (None, rate) => rate,
    };
    LIMITS.into_iter().rev().find(|step| *step < below).unwrap_or(LIMITS[0])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_go_in_steps() {
        assert_eq!(faster(None), None);
        assert_eq!(faster(Some(2048 * MIB)), None);
        assert_eq!(faster(Some(3 * MIB)), Some(5 * MIB));
        assert_eq!(slower(None, 0), 2048 * MIB);
        assert_eq!(slower(None, 60 * MIB), 50 * MIB);
        assert_eq!(slower(Some(MIB), 0), MIB / 2);
        assert_eq!(slower(Some(100), 0), MIB / 2);
    }
}
