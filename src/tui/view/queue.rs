//! The queue: a line with sums, and a line for each job.

use std::time::Duration;

use ratatui::layout::Rect;

use super::canvas::Canvas;
use super::figures::{clock, counted};
use crate::jobs::{JobSpec, JobState, JobStatus};
use crate::model::{Bytes, Rate, size};
use crate::tui::result;
use crate::tui::state::{Focus, Layout, Level, State};
use crate::tui::text;
use crate::tui::theme::{Role, Symbols};

pub(super) fn draw(canvas: &mut Canvas<'_>, state: &State, layout: &Layout) {
    let symbols = canvas.look.symbols;
    canvas.rule(layout.rule, [symbols.tees[0], symbols.tees[1]]);
    let focused = state.focus == Focus::Queue && state.dialogs.is_empty();
    let room = usize::from(layout.rule.width).saturating_sub(4);
    let heading = text::cut(&heading(state, symbols.dot), room, symbols.ellipsis);
    canvas.put(layout.rule, 1, 0, &format!(" {heading} "), if focused { Role::Focus } else { Role::Title });
    let area = layout.queue;
    let shown = state.queue.shown();
    let last = usize::from(area.height).max(1);
    let mut offset = state.queue.offset;
    if let (Focus::Queue, Some(position)) = (state.focus, state.queue.position()) {
        offset = offset.max((position + 1).saturating_sub(last));
    }
    if shown.len() > usize::from(area.height) && area.height > 0 {
        let end = (offset + last).min(shown.len());
        let place = format!(" {}-{end} of {} ", offset + 1, shown.len());
        let x = layout.rule.width.saturating_sub(u16::try_from(text::width(&place)).unwrap_or(u16::MAX) + 2);
        if usize::from(x) > text::width(&heading) + 4 {
            canvas.put(layout.rule, x, 0, &place, Role::Dim);
        }
    }
    if shown.is_empty() {
        let line = if state.queue.snapshot.jobs.is_empty() {
            "nothing in the queue; p pulls a model"
        } else {
            "no job matches the filter; Esc clears it"
        };
        canvas.put(
            area,
            1,
            0,
            &text::cut(line, usize::from(area.width).saturating_sub(1), symbols.ellipsis),
            Role::Dim,
        );
        return;
    }
    for (y, job) in (0..area.height).zip(shown.into_iter().skip(offset)) {
        let cursor = state.queue.cursor == Some(job.id);
        draw_job(canvas, state, area, y, job, cursor && focused);
        if cursor {
            canvas.tint(area, y, if focused { Role::Cursor } else { Role::Text });
        }
    }
}

fn heading(state: &State, dot: &str) -> String {
    let jobs = &state.queue.snapshot.jobs;
    let count = |states: &[JobState]| jobs.iter().filter(|job| states.contains(&job.state)).count();
    let mut parts = Vec::new();
    let group = |parts: &mut Vec<String>, states: &[JobState], name: &str| match count(states) {
        0 => {}
        some => parts.push(format!("{some} {name}")),
    };
    group(&mut parts, &[JobState::Running, JobState::Verifying], "running");
    let rate: u64 = jobs.iter().filter_map(|job| job.rate).sum();
    if count(&[JobState::Running]) > 1 && rate > 0 {
        parts.push(Rate(rate).to_string());
    }
    if let Some(held) = state.queue.snapshot.held() {
        parts.push(format!("courtesy holds to {}", Rate(held)));
    }
    if let Some(limit) = state.queue.snapshot.limit {
        parts.push(format!("limit {}", Rate(limit)));
    }
    group(&mut parts, &[JobState::Waiting], "waiting");
    group(&mut parts, &[JobState::Retrying], "retrying");
    group(&mut parts, &[JobState::Queued], "queued");
    group(&mut parts, &[JobState::Paused], "paused");
    group(&mut parts, &[JobState::Failed], "failed");
    group(&mut parts, &[JobState::Finished, JobState::Cancelled], "ended");
    if !state.queue.filter.text().is_empty() && !state.queue.filtering {
        parts.push(format!("/{}", state.queue.filter.text()));
    }
    if parts.is_empty() { "queue".to_owned() } else { format!("queue: {}", parts.join(&format!(" {dot} "))) }
}

const STATE: u16 = 9;
/// Width of the connections.
const CONNECTIONS: usize = 8;

fn draw_job(canvas: &mut Canvas<'_>, state: &State, area: Rect, y: u16, job: &JobStatus, cursor: bool) {
    let symbols = canvas.look.symbols;
    canvas.put(area, 0, y, if cursor { ">" } else { " " }, Role::Text);
    let width = area.width.saturating_sub(1);
    // The name has three tenths of the line, the figures share the rest by rank.
    let name_width = (width * 3 / 10).saturating_sub(1).clamp(10.min(width), 48);
    let mut subject = job.spec.subject();
    if !matches!(job.spec, JobSpec::Download(_)) {
        subject = format!("{} {subject}", job.spec.kind());
    } else if text::width(&subject) > usize::from(name_width) {
        // Who published it tells less than what it is.
        subject = subject.rsplit('/').next().unwrap_or_default().to_owned();
    }
    let name = text::cut_name(&subject, usize::from(name_width), symbols.ellipsis);
    canvas.put(area, 1, y, &name, Role::Text);
    let mut x = 1 + name_width + 1;
    let (word, role) = word(job);
    canvas.put(area, x, y, &text::cut(word, usize::from(area.width.saturating_sub(x)), ""), role);
    x += STATE + 1;
    let room = usize::from(area.width.saturating_sub(x));
    if let Some(line) = told(state, job, room, symbols.ellipsis) {
        canvas.put(area, x, y, &line, role);
        return;
    }
    for (cell, role) in figures(job, room, symbols) {
        x = canvas.put(area, x, y, &cell, role);
    }
}

/// Columns that words need beside how far the job is, and beside when it goes on.
const WORDS: usize = 26;

/// What stands in place of the figures: why the job does not go on, or what it came to. How far it is, and when it tries
/// again, stay as long as there is room.
fn told(state: &State, job: &JobStatus, room: usize, ellipsis: &str) -> Option<String> {
    let words = waits(state, job).or_else(|| result::summary(job).map(|(_, line)| line))?;
    let after = match next_try(state, job) {
        Some(next) if room > text::width(&next) + WORDS => format!("; {next}"),
        _ => String::new(),
    };
    let room = room.saturating_sub(text::width(&after));
    let before = match percent(job).filter(|_| !job.state.has_ended() && room >= WORDS + 6) {
        Some(percent) => format!("{} ", text::pad_left(&format!("{percent}%"), 4)),
        None => String::new(),
    };
    let words = text::cut(&words, room.saturating_sub(before.len()), ellipsis);
    Some(format!("{before}{words}{after}"))
}

/// What the job waits for, in words.
pub(super) fn waits(state: &State, job: &JobStatus) -> Option<String> {
    match (&job.why, job.state) {
        (Some(why), _) => Some(why.clone()),
        (None, JobState::Queued) => state.queue.snapshot.turn(job.id).map(|before| match before {
            0 => "next, when one that runs makes way".to_owned(),
            before => format!("after {}", counted(before, "other that waits", "others that wait")),
        }),
        _ => None,
    }
}

/// When the job tries again, and which try that is.
pub(super) fn next_try(state: &State, job: &JobStatus) -> Option<String> {
    let at = clock(job.until?, state.wall, state.facts.zone.as_ref());
    Some(job.attempt.map_or_else(|| format!("again {at}"), |attempt| format!("retry {attempt} {at}")))
}

fn percent(job: &JobStatus) -> Option<u8> {
    let total = job.total.filter(|total| *total > 0)?;
    Some(u8::try_from((u128::from(job.bytes) * 100 / u128::from(total)).min(100)).unwrap_or(100))
}

/// The state as a word. One that finished with a bad result did not finish well.
pub(super) fn word(job: &JobStatus) -> (&'static str, Role) {
    match job.state {
        JobState::Waiting | JobState::Retrying => (job.state.name(), Role::Warn),
        JobState::Failed => (job.state.name(), Role::Bad),
        JobState::Finished => match (result::summary(job), &job.spec) {
            (Some((Level::Bad, _)), JobSpec::Verify { .. }) => ("damaged", Role::Bad),
            (Some((Level::Bad, _)), _) => ("in part", Role::Bad),
            _ => (job.state.name(), Role::Good),
        },
        JobState::Queued | JobState::Paused | JobState::Cancelled => (job.state.name(), Role::Dim),
        JobState::Running | JobState::Verifying => (job.state.name(), Role::Text),
    }
}

/// Percent, bar, bytes, rate, remaining time and connections, as many as fit, in this order.
fn figures(job: &JobStatus, room: usize, symbols: &Symbols) -> Vec<(String, Role)> {
    let none = || symbols.none.to_owned();
    let mut cells = Vec::new();
    let mut left = room;
    let mut take = |width: usize| {
        let fits = left >= width;
        if fits {
            left = left.saturating_sub(width + 1);
        }
        fits
    };
    let percent = percent(job);
    let with_percent = take(4);
    let with_rate = take(10);
    let with_bytes = take(17);
    let with_eta = take(9);
    // The bar comes first.
    let with_connections = left > 8 + CONNECTIONS;
    if with_connections {
        left -= CONNECTIONS + 1;
    }
    let bar = if left >= 8 { left.min(30) - 1 } else { 0 };
    if with_percent {
        let text = percent.map_or_else(none, |percent| format!("{percent}%"));
        cells.push((format!("{} ", text::pad_left(&text, 4)), Role::Text));
    }
    if bar > 0 {
        let done = percent.map_or(0, |percent| usize::from(percent) * bar / 100);
        cells.push((symbols.bar[0].repeat(done), Role::Bar));
        cells.push((format!("{} ", symbols.bar[1].repeat(bar - done)), Role::BarRest));
    }
    if with_bytes {
        let text = match job.total {
            Some(total) => format!("{}/{}", Bytes(job.bytes), Bytes(total)),
            None => Bytes(job.bytes).to_string(),
        };
        cells.push((format!("{} ", text::pad_left(&text, 17)), Role::Text));
    }
    if with_rate {
        let text = job.rate.map_or_else(none, |rate| Rate(rate).to_string());
        cells.push((format!("{} ", text::pad_left(&text, 10)), Role::Text));
    }
    if with_eta {
        let text = job.eta_s.map_or_else(none, |seconds| size::duration(Duration::from_secs(seconds)));
        cells.push((format!("{} ", text::pad_left(&text, 9)), Role::Text));
    }
    if with_connections {
        let text = job.connections.map_or_else(none, |connections| format!("{connections} conn"));
        cells.push((text::pad_left(&text, CONNECTIONS), Role::Text));
    }
    cells
}

/// What quitting would stop, in words.
pub(super) fn unfinished(state: &State) -> String {
    let (active, waiting) = state.queue.unfinished();
    let active = counted(active, "job runs", "jobs run");
    if waiting == 0 { active } else { format!("{active}, {}", counted(waiting, "more waits", "more wait")) }
}
