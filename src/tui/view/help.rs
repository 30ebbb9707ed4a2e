//! The help: the table of keys.

use ratatui::layout::Position;

use super::canvas::{Canvas, Spans, hints};
use super::footer::hints_of;
use crate::tui::keymap::{Pane, Row};
use crate::tui::state::{Layout, State};
use crate::tui::text;
use crate::tui::theme::Role;

/// Width of the keys.
const KEYS: usize = 12;

/// Number of lines at the present size.
pub(crate) fn length(state: &State) -> usize {
    lines(state, usize::from(state.layout().large_dialog().width.saturating_sub(4))).len()
}

pub(super) fn draw(canvas: &mut Canvas<'_>, state: &State, scroll: usize, layout: &Layout) -> Option<Position> {
    let area = layout.large_dialog();
    let symbols = canvas.look.symbols;
    let keys = hints(hints_of(&state.keymap, Pane::Help), usize::from(area.width).saturating_sub(6), symbols.dot);
    let inside = canvas.boxed(area, "keys", &keys);
    let inside = inside.inner(ratatui::layout::Margin::new(1, 0));
    if canvas.lines(inside, &lines(state, usize::from(inside.width)), scroll) {
        let x = inside.width.saturating_sub(1);
        canvas.put(inside, x, inside.height.saturating_sub(1), symbols.sorted[1], Role::Key);
    }
    None
}

fn lines(state: &State, width: usize) -> Vec<Spans> {
    // Rows that work in the same panes stand together, under the names of these.
    let mut groups: Vec<(String, Vec<&Row>)> = Vec::new();
    for row in state.keymap.rows() {
        let title = row.places();
        match groups.iter_mut().find(|(other, _)| *other == title) {
            Some((_, rows)) => rows.push(row),
            None => groups.push((title, vec![row])),
        }
    }
    let mut lines: Vec<Spans> = Vec::new();
    for (title, rows) in groups {
        if !lines.is_empty() {
            lines.push(Spans::new());
        }
        lines.extend(text::wrap(&title, width).into_iter().map(|line| vec![(line, Role::Title)]));
        for row in rows {
            let keys = row.keys.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
            let room = width.saturating_sub(KEYS + 1).max(8);
            for (line_number, line) in text::wrap(&row.description, room).into_iter().enumerate() {
                let keys = if line_number == 0 { keys.as_str() } else { "" };
                lines.push(vec![(format!("{} ", text::pad(keys, KEYS)), Role::Key), (line, Role::Text)]);
            }
        }
    }
    lines
}
