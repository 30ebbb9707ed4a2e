//! The help: the table of keys.

use ratatui::layout::Position;

use super::canvas::{Canvas, Spans, hints};
use super::footer::hints_of;
use crate::tui::keymap::Pane;
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
    let mut lines: Vec<Spans> = Vec::new();
    let mut done: Vec<usize> = Vec::new();
    for pane in Pane::ALL {
        let rows = state.keymap.rows().iter().enumerate().filter(|(_, row)| row.panes.contains(&pane));
        // A row stands once, under the first pane that has it.
        let rows: Vec<_> = rows.filter(|(at, _)| !done.contains(at)).collect();
        if rows.is_empty() {
            continue;
        }
        if !lines.is_empty() {
            lines.push(Spans::new());
        }
        lines.push(vec![(pane.title().to_owned(), Role::Title)]);
        for (at, row) in rows {
            done.push(at);
            let keys = row.keys.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
            let mut description = row.description.clone();
            let others: Vec<&str> = row
                .panes
                .iter()
                .filter(|other| **other != pane && is_main(**other))
                .map(|other| other.name())
                .collect();
            if !others.is_empty() && is_main(pane) {
                description.push_str(&format!(" (also: {})", others.join(", ")));
            }
            let room = width.saturating_sub(KEYS + 1).max(8);
            for (line_number, line) in text::wrap(&description, room).into_iter().enumerate() {
                let keys = if line_number == 0 { keys.as_str() } else { "" };
                lines.push(vec![(format!("{} ", text::pad(keys, KEYS)), Role::Key), (line, Role::Text)]);
            }
        }
    }
    lines
}

/// The panes that the help tells apart where a key works in several.
fn is_main(pane: Pane) -> bool {
    matches!(pane, Pane::Models | Pane::Detail | Pane::Queue)
}
