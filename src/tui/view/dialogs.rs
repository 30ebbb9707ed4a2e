//! Questions: the second one about a deletion, and whether to quit.

use ratatui::layout::Position;

use super::canvas::{Canvas, Spans, hints};
use super::footer::hints_of;
use super::queue::unfinished;
use crate::tui::keymap::Pane;
use crate::tui::state::{Dialog, Layout, State, SureDialog};
use crate::tui::text;
use crate::tui::theme::Role;

pub(super) fn sure(canvas: &mut Canvas<'_>, state: &State, dialog: &SureDialog, layout: &Layout) -> Option<Position> {
    let width = layout.large_dialog().width.min(76);
    question(canvas, state, layout, "are you sure", &sure_lines(dialog, width), width, Pane::Sure);
    None
}

fn sure_lines(dialog: &SureDialog, width: u16) -> Vec<Spans> {
    let room = usize::from(width.saturating_sub(4));
    let mut lines: Vec<Spans> = Vec::new();
    for reason in &dialog.reasons {
        lines.extend(text::wrap(reason, room).into_iter().map(|line| vec![(line, Role::Warn)]));
    }
    lines.push(Spans::new());
    lines.push(vec![("Delete all the same?".to_owned(), Role::Bad)]);
    lines
}

/// Whether the second question that is drawn now can be read, with a line of what makes it necessary.
pub(crate) fn sure_readable(state: &State) -> bool {
    let Some(Dialog::Sure(dialog)) = state.dialogs.last() else { return false };
    let layout = state.layout();
    let width = layout.large_dialog().width.min(76);
    let height = u16::try_from(sure_lines(dialog, width).len()).unwrap_or(u16::MAX).saturating_add(2);
    // A line of the reasons, an empty one and the question, inside the frame.
    width >= 24 && layout.dialog(width, height).height >= 5
}

pub(super) fn quit(canvas: &mut Canvas<'_>, state: &State, layout: &Layout) -> Option<Position> {
    let width = layout.large_dialog().width.min(64);
    let room = usize::from(width.saturating_sub(4));
    let one = state.queue.unfinished() == (1, 0);
    let then = if state.facts.fleeting && one {
        "Quitting stops it, and nothing of it is kept: it does not go on at the next start."
    } else if one {
        "Quitting stops it; a download keeps what it has and goes on at the next start."
    } else if state.facts.fleeting {
        "Quitting stops them, and nothing of them is kept: they do not go on at the next start."
    } else {
        "Quitting stops them; downloads keep what they have and go on at the next start."
    };
    let text = format!("{}. {then}", unfinished(state));
    let lines: Vec<Spans> = text::wrap(&text, room).into_iter().map(|line| vec![(line, Role::Text)]).collect();
    question(canvas, state, layout, "quit?", &lines, width, Pane::Quit);
    None
}

/// A box with lines and the keys that answer. Where it is too high, the end stays: the question is there.
fn question(
    canvas: &mut Canvas<'_>,
    state: &State,
    layout: &Layout,
    title: &str,
    lines: &[Spans],
    width: u16,
    pane: Pane,
) {
    let height = u16::try_from(lines.len()).unwrap_or(u16::MAX).saturating_add(2);
    let area = layout.dialog(width, height);
    let room = usize::from(area.width).saturating_sub(6);
    let keys = hints(hints_of(&state.keymap, pane), room, canvas.look.symbols.dot);
    let inside = canvas.boxed(area, title, &keys);
    let inside = inside.inner(ratatui::layout::Margin::new(1, 0));
    canvas.lines(inside, lines, usize::MAX);
}
