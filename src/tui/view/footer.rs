//! The line at the bottom: a filter that is being typed, or the keys that work here; over it, a notice.

use ratatui::layout::{Position, Rect};

use super::canvas::{Canvas, hints};
use crate::jobs::{JobSpec, JobState};
use crate::tui::action::Action;
use crate::tui::keymap::{Keymap, Pane};
use crate::tui::state::{Focus, Layout, Level, Line, State, Subject};
use crate::tui::text;
use crate::tui::theme::Role;

/// From this size on everything has its place.
const ENOUGH: (u16, u16) = (60, 20);

/// The hints of a pane as texts.
pub(super) fn hints_of(keymap: &Keymap, pane: Pane) -> Vec<(String, String, u8)> {
    keymap.hints(pane).map(|(key, word, rank)| (key.to_string(), word.to_owned(), rank)).collect()
}

/// The hints of a main pane without the keys that would do nothing there now.
fn useful(state: &State, pane: Pane) -> Vec<(String, String, u8)> {
    let job = match (pane, state.subject) {
        (Pane::Queue, _) | (Pane::Detail, Subject::Job) => state.queue.current(),
        _ => return hints_of(&state.keymap, pane),
    };
    let all = state.keymap.hints_with_actions(pane);
    let ended = job.is_some_and(|job| job.state.has_ended());
    let download = job.is_some_and(|job| matches!(job.spec, JobSpec::Download(_)));
    let is = |wanted: JobState| job.is_some_and(|job| job.state == wanted);
    let works = |action: Action| match action {
        Action::Delete | Action::Verify | Action::Rescan => false,
        Action::Open | Action::Filter => job.is_some(),
        Action::Copy => job.is_some_and(|job| job.path.is_some()),
        Action::TogglePause => job.is_some() && !ended && download,
        Action::Cancel => job.is_some() && !ended,
        Action::Discard => download && !is(JobState::Finished),
        Action::Retry => is(JobState::Failed) || is(JobState::Cancelled),
        Action::Earlier | Action::Later => is(JobState::Queued) && state.queue.snapshot.waiting() > 1,
        Action::ClearEnded => state.queue.has_ended(),
        _ => true,
    };
    let mut hints: Vec<(String, String, u8)> = Vec::new();
    for (action, key, word, rank) in all.filter(|(action, ..)| works(*action)) {
        let word = if action == Action::TogglePause && is(JobState::Paused) { "resume" } else { word };
        // What has ended is mostly in the way.
        let rank = if action == Action::ClearEnded { 4 } else { rank };
        hints.push((key.to_string(), word.to_owned(), rank));
    }
    hints
}

pub(super) fn draw(canvas: &mut Canvas<'_>, state: &State, layout: &Layout) -> Option<Position> {
    let symbols = canvas.look.symbols;
    canvas.rule(layout.footer, [symbols.corners[2], symbols.corners[3]]);
    let inside = Rect::new(2, layout.footer.y, layout.footer.width.saturating_sub(4), layout.footer.height);
    let pane = match state.focus {
        _ if state.models.filtering || state.queue.filtering => Pane::Filter,
        Focus::Models => Pane::Models,
        Focus::Detail => Pane::Detail,
        Focus::Queue => Pane::Queue,
    };
    let keys = useful(state, pane);
    if pane == Pane::Filter {
        let line = if state.focus == Focus::Queue { &state.queue.filter } else { &state.models.filter };
        let x = field(canvas, inside, 0, 0, "/", line);
        let end = inside.x + text_end(inside, line);
        canvas.put(layout.footer, 1, 0, " ", Role::Text);
        canvas.put(layout.footer, end, 0, "  ", Role::Text);
        let rest = Rect::new(end + 2, inside.y, inside.right().saturating_sub(end + 2), inside.height);
        match &state.models.filter_error {
            Some(error) if state.focus == Focus::Models => {
                let line = text::cut(error, usize::from(rest.width), symbols.ellipsis);
                canvas.put(rest, 0, 0, &line, Role::Warn);
            }
            _ => {
                let spans = hints(keys, usize::from(rest.width).saturating_sub(1), symbols.dot);
                let x = canvas.spans(rest, 0, 0, &spans);
                canvas.put(rest, x, 0, " ", Role::Text);
            }
        }
        return state.dialogs.is_empty().then_some(Position::new(inside.x + x, inside.y));
    }
    let (columns, rows) = state.size;
    let mut x = 0;
    if columns < ENOUGH.0 || rows < ENOUGH.1 {
        let small = format!("small: {}{}{} shows all", ENOUGH.0, symbols.times, ENOUGH.1);
        x = canvas.put(inside, 0, 0, &small, Role::Warn);
        if state.dialogs.is_empty() {
            x = canvas.put(inside, x, 0, &format!(" {} ", symbols.dot), Role::Dim);
        }
    }
    // A dialog shows its own keys, and no others work.
    let keys = if state.dialogs.is_empty() { keys } else { Vec::new() };
    let room = usize::from(inside.width).saturating_sub(usize::from(x) + 1);
    let x = canvas.spans(inside, x, 0, &hints(keys, room, symbols.dot));
    if x > 0 {
        canvas.put(layout.footer, 1, 0, " ", Role::Text);
        canvas.put(inside, x, 0, " ", Role::Text);
    }
    None
}

fn text_end(area: Rect, line: &Line) -> u16 {
    let width = u16::try_from(text::width(line.text()) + 1).unwrap_or(u16::MAX);
    width.min(area.width)
}

/// A text field behind a prompt; gives the column of the caret. What does not fit is scrolled away so that the caret is
/// in sight.
pub(super) fn field(canvas: &mut Canvas<'_>, area: Rect, x: u16, y: u16, prompt: &str, line: &Line) -> u16 {
    let start = canvas.put(area, x, y, prompt, Role::Key);
    let room = usize::from(area.width.saturating_sub(start + 1));
    let (before, after) = line.split();
    let mut head = before;
    while text::width(head) > room {
        head = head.char_indices().nth(1).map_or("", |(at, _)| &head[at..]);
    }
    let caret = canvas.put(area, start, y, head, Role::Field);
    canvas.put(area, caret, y, after, Role::Field);
    caret.min(area.width.saturating_sub(1))
}

/// The notice, at the bottom or above what is typed there.
pub(super) fn notice(canvas: &mut Canvas<'_>, state: &State, layout: &Layout) {
    let Some(notice) = state.notices.shown() else { return };
    let symbols = canvas.look.symbols;
    let area = layout.notice;
    let room = usize::from(area.width).saturating_sub(4);
    let lines = state.notices.lines(room, usize::from(area.height), symbols.ellipsis);
    let role = match notice.level {
        Level::Info => Role::Text,
        Level::Done => Role::Good,
        Level::Warn => Role::Warn,
        Level::Bad => Role::Bad,
    };
    for (y, line) in (area.top()..area.bottom()).zip(lines) {
        let row = Rect::new(0, y, layout.screen.width, 1);
        canvas.clear(row);
        if y + 1 == layout.screen.height {
            canvas.rule(row, [symbols.corners[2], symbols.corners[3]]);
        } else {
            canvas.sides(row);
        }
        canvas.put(row, 1, 0, &format!(" {line} "), role);
    }
}
