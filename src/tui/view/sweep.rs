//! The sweep: what was found with its bytes, what of it is marked, and why the line under the cursor is dead.

use ratatui::layout::{Margin, Position, Rect};

use super::canvas::{Canvas, Spans, centred, hints};
use super::figures::{counted, path};
use super::footer::hints_of;
use crate::model::{Bytes, Certainty, Sweep, text as clean};
use crate::tui::keymap::Pane;
use crate::tui::state::{Layout, State, SweepDialog};
use crate::tui::text;
use crate::tui::theme::Role;

/// Lines at the bottom that tell of the line under the cursor.
const TOLD: u16 = 3;
/// Columns from which on kind and certainty both stand in the table.
const WIDE: u16 = 66;

/// Rows of the table that fit.
pub(crate) fn rows(layout: &Layout) -> usize {
    usize::from(table(inside(layout.large_dialog())).height)
}

fn inside(area: Rect) -> Rect {
    area.inner(Margin::new(2, 1))
}

/// Between the heading and what is told of one line.
fn table(inside: Rect) -> Rect {
    let told = TOLD.min(inside.height.saturating_sub(2) / 2);
    let height = inside.height.saturating_sub(1 + told);
    Rect::new(inside.x, inside.y.saturating_add(1), inside.width, height).intersection(inside)
}

pub(super) fn draw(canvas: &mut Canvas<'_>, state: &State, dialog: &SweepDialog, layout: &Layout) -> Option<Position> {
    let symbols = canvas.look.symbols;
    let area = layout.large_dialog();
    let mut keys = hints_of(&state.keymap, Pane::Sweep);
    if dialog.found().is_none_or(|sweep| sweep.items.is_empty()) {
        // What there is nothing to do with is not offered.
        let close = state.keymap.key(Pane::Sweep, crate::tui::action::Action::Close).map(|key| key.to_string());
        keys.retain(|(key, _, _)| Some(key) == close.as_ref());
    }
    let keys = hints(keys, usize::from(area.width).saturating_sub(6), symbols.dot);
    canvas.boxed(area, "sweep: what nothing can use any more", &keys);
    let inside = inside(area);
    let room = usize::from(inside.width);
    let (heading, role) = match (&dialog.sweep, &dialog.wait) {
        (Some(Ok(sweep)), _) if sweep.items.is_empty() && sweep.kept.is_empty() => {
            ("nothing to sweep".to_owned(), Role::Good)
        }
        (Some(Ok(sweep)), _) => (heading(sweep, dialog), Role::Title),
        (Some(Err(error)), _) => (error.clone(), Role::Bad),
        (None, Some(wait)) if wait.slow => ("a store does not answer yet; Esc closes".to_owned(), Role::Warn),
        (None, _) => ("looking through the stores".to_owned(), Role::Dim),
    };
    canvas.put(inside, 0, 0, &text::cut(&heading, room, symbols.ellipsis), role);
    let sweep = dialog.found()?;
    let table = table(inside);
    let first = centred(dialog.cursor, usize::from(table.height), dialog.length());
    for (at, y) in (first..dialog.length()).zip(0..table.height) {
        line(canvas, state, sweep, dialog, at, table, y);
    }
    let told = Rect::new(inside.x, table.bottom(), inside.width, inside.bottom().saturating_sub(table.bottom()));
    let lines: Vec<Spans> = tell(state, sweep, dialog, room, symbols.ellipsis);
    canvas.lines(told.intersection(inside), &lines, 0);
    None
}

fn heading(sweep: &Sweep, dialog: &SweepDialog) -> String {
    let frees = Bytes(sweep.frees(&dialog.marks));
    let found = counted(sweep.items.len(), "item", "items");
    let stay = match sweep.kept.len() {
        0 => String::new(),
        1 => "; 1 more stays".to_owned(),
        many => format!("; {many} more stay"),
    };
    format!("{} of {found} marked: frees {frees}{stay}", dialog.marks.len())
}

fn line(canvas: &mut Canvas<'_>, state: &State, sweep: &Sweep, dialog: &SweepDialog, at: usize, table: Rect, y: u16) {
    let symbols = canvas.look.symbols;
    let home = &state.facts.home;
    canvas.put(table, 0, y, if at == dialog.cursor { ">" } else { " " }, Role::Text);
    let name =
        |room: u16, name: &std::path::Path| text::cut_middle(&path(name, home), usize::from(room), symbols.ellipsis);
    if let Some(item) = sweep.items.get(at) {
        if dialog.marks.contains(&at) {
            canvas.put(table, 1, y, "*", Role::Mark);
        }
        let role = if item.certainty == Certainty::Possible { Role::Warn } else { Role::Text };
        canvas.put(table, 3, y, &text::pad_left(&Bytes(item.bytes).to_string(), 8), Role::Text);
        let x = if table.width >= WIDE {
            canvas.put(table, 12, y, item.kind.name(), Role::Dim);
            canvas.put(table, 31, y, item.certainty.name(), role);
            40
        } else {
            canvas.put(table, 12, y, item.certainty.name(), role);
            21
        };
        canvas.put(table, x, y, &name(table.width.saturating_sub(x), &item.path), Role::Text);
    } else if let Some(kept) = at.checked_sub(sweep.items.len()).and_then(|at| sweep.kept.get(at)) {
        canvas.put(table, 6, y, "stays", Role::Good);
        canvas.put(table, 12, y, &name(table.width.saturating_sub(12), &kept.path), Role::Dim);
    }
    if at == dialog.cursor {
        canvas.tint(table, y, Role::Cursor);
    }
}

/// What the line under the cursor is, why it is dead or stays, and what forbids removing it.
fn tell(state: &State, sweep: &Sweep, dialog: &SweepDialog, room: usize, ellipsis: &str) -> Vec<Spans> {
    let home = &state.facts.home;
    let mut lines: Vec<Spans> = Vec::new();
    let mut say = |line: &str, role: Role| {
        lines.extend(text::wrap(line, room).into_iter().map(|line| vec![(line, role)]));
    };
    if let Some(item) = sweep.items.get(dialog.cursor) {
        let forbids = |path: &std::path::PathBuf| sweep.blocked.iter().find(|blocked| blocked.path == *path);
        let mut paths = sweep.paths_of(dialog.cursor).filter(|_| !sweep.blocked.is_empty());
        if let Some(blocked) = paths.find_map(|path| forbids(&path)) {
            say(&format!("CANNOT GO: {}", clean::printable(&blocked.because)), Role::Bad);
        }
        say(&format!("{}, {}: {}", item.kind, item.certainty, clean::printable(&item.why)), Role::Text);
        say(&text::cut_middle(&path(&item.path, home), room, ellipsis), Role::Dim);
    } else if let Some(kept) = dialog.cursor.checked_sub(sweep.items.len()).and_then(|at| sweep.kept.get(at)) {
        say(&format!("stays: {}", clean::printable(&kept.because)), Role::Good);
        say(&text::cut_middle(&path(&kept.path, home), room, ellipsis), Role::Dim);
    }
    lines
}
