//! The table of models.

use std::path::Path;

use jiff::Timestamp;
use ratatui::layout::Rect;

use super::canvas::Canvas;
use super::figures::{age, short};
use crate::model::filter::{SortKey, last_use};
use crate::model::memory::Verdict;
use crate::model::{Model, text as clean};
use crate::store::Row;
use crate::store::fit::fit_of_row;
use crate::tui::state::{Focus, Layout, State, TABLE};
use crate::tui::text;
use crate::tui::theme::{Role, Symbols};

/// Cursor, mark and a sign stand before each row: `!` not complete, `#` protected, `=` in another place, too.
const PREFIX: u16 = 3;
/// The name keeps this much before another of the usual columns may stand beside it.
const NAME: u16 = 24;
/// The name keeps this much before a column that is only good to know may.
const ROOMY_NAME: u16 = 38;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Column {
    Store,
    Name,
    Quantization,
    Parameters,
    Size,
    Used,
    InUse,
    Fits,
    Needs,
    Reclaimable,
    Format,
    Context,
    Owner,
    Mount,
    Files,
}

/// How wide the column of fits is where there is room for all of its words; `fits 2 GPUs` is `2 GPUs` in less.
const FITS: u16 = 11;
/// Whether it fits and in which store it is stand beside names that are still told apart.
const SHORT_NAME: u16 = 20;

/// Columns in the order in which they stand, with their widths.
const COLUMNS: [(Column, u16); 15] = [
    (Column::Store, 8),
    (Column::Name, 0),
    (Column::Quantization, 9),
    (Column::Parameters, 6),
    (Column::Size, 8),
    (Column::Used, 5),
    (Column::InUse, 7),
    (Column::Fits, 8),
    (Column::Needs, 8),
    (Column::Reclaimable, 8),
    (Column::Format, 12),
    (Column::Context, 7),
    (Column::Owner, 8),
    (Column::Mount, 14),
    (Column::Files, 5),
];

/// Columns in the order in which they are given room.
const RANKS: [(Column, u16); 14] = [
    (Column::Size, 12),
    (Column::Quantization, NAME),
    (Column::Used, NAME),
    (Column::InUse, NAME),
    (Column::Fits, SHORT_NAME),
    (Column::Store, SHORT_NAME),
    (Column::Parameters, NAME),
    (Column::Reclaimable, ROOMY_NAME),
    (Column::Owner, ROOMY_NAME),
    (Column::Needs, ROOMY_NAME),
    (Column::Format, ROOMY_NAME),
    (Column::Mount, ROOMY_NAME),
    (Column::Context, ROOMY_NAME),
    (Column::Files, ROOMY_NAME),
];

/// Columns between a column and the one before it: words stand apart from the figures before them.
fn gap(column: Column) -> u16 {
    match column {
        Column::InUse | Column::Format | Column::Owner => 2,
        _ => 1,
    }
}

/// The place of the owner among the ranks where rows have several.
const OWNER_RANK: usize = 3;

impl Column {
    fn title(self) -> &'static str {
        match self {
            Self::Store => "STORE",
            Self::Name => "NAME",
            Self::Quantization => "QUANT",
            Self::Parameters => "PARAMS",
            Self::Size => "SIZE",
            Self::Used => "USED",
            Self::InUse => "IN USE",
            Self::Fits => "FITS",
            Self::Needs => "NEEDS",
            Self::Reclaimable => "RECLAIM",
            Self::Format => "FORMAT",
            Self::Context => "CONTEXT",
            Self::Owner => "OWNER",
            Self::Mount => "MOUNT",
            Self::Files => "FILES",
        }
    }

    fn sorts(self) -> Option<SortKey> {
        Some(match self {
            Self::Store => SortKey::Store,
            Self::Name => SortKey::Name,
            Self::Quantization => SortKey::Quantization,
            Self::Parameters => SortKey::Parameters,
            Self::Size => SortKey::Size,
            Self::Used => SortKey::Used,
            Self::Reclaimable => SortKey::Reclaimable,
            Self::Owner => SortKey::Owner,
            Self::InUse | Self::Fits | Self::Needs | Self::Format | Self::Context | Self::Mount | Self::Files => {
                return None;
            }
        })
    }

    /// Whether it is a figure, which stands at the right of its column.
    fn is_figure(self) -> bool {
        matches!(
            self,
            Self::Parameters | Self::Size | Self::Used | Self::Needs | Self::Reclaimable | Self::Context | Self::Files
        )
    }

    /// What the row's memory says, which is known only together with that of the host.
    fn fit(self, state: &State, row: &Row, width: u16, symbols: &Symbols) -> Option<(String, Role)> {
        if !matches!(self, Self::Fits | Self::Needs) {
            return None;
        }
        let none = || (symbols.none.to_owned(), Role::Text);
        // Whether it fits is a question to its base model.
        if self == Self::Fits && row.metadata.as_ref().is_some_and(|metadata| metadata.adapter.is_some()) {
            return Some(("adapter".to_owned(), Role::Dim));
        }
        let Some(memory) = &state.memory else { return Some(none()) };
        let fit = fit_of_row(&row.model, row.metadata.as_deref(), &row.loads, memory, &state.facts.fit);
        // What it needs is known where only the GPUs are not.
        let Some(fit) = fit.filter(|fit| fit.verdict != Verdict::Unknown || fit.need_bytes.is_some()) else {
            return Some(none());
        };
        let role = match fit.verdict {
            Verdict::No | Verdict::Unknown => Role::Dim,
            _ => Role::Text,
        };
        Some(match self {
            Self::Fits => match fit.verdict {
                Verdict::Split(gpus) if width < FITS => (format!("{gpus} GPUs"), role),
                verdict => (verdict.word(), role),
            },
            _ => fit.figure().map_or_else(none, |figure| (figure, role)),
        })
    }

    fn cell(self, model: &Model, wall: Timestamp, symbols: &Symbols) -> (String, Role) {
        let known = |text: Option<String>| text.unwrap_or_else(|| symbols.none.to_owned());
        let text = match self {
            Self::Store => model.identity.store.name().to_owned(),
            Self::Name => model.label(),
            Self::Quantization => match model.quantizations.as_slice() {
                [] => symbols.none.to_owned(),
                [one] => model.shown(one),
                [first, rest @ ..] => format!("{}+{}", model.shown(first), rest.len()),
            },
            Self::Parameters => known(model.parameters_label(symbols.at_least)),
            Self::Size => model.size(model.disk_bytes),
            Self::Used => known(last_use(model).map(|used| age(used, wall))),
            Self::InUse => match model.in_use_by.as_deref() {
                None => symbols.none.to_owned(),
                Some([]) => "unseen".to_owned(),
                Some([one]) => return (one.pid.to_string(), Role::Warn),
                Some(many) => return (format!("{} pids", many.len()), Role::Warn),
            },
            Self::Reclaimable => model.size(model.reclaimable_bytes),
            Self::Format => known(model.format.map(|format| format.name().to_owned())),
            Self::Context => known(model.context_length.map(short)),
            Self::Owner => known(model.owner.as_deref().map(clean::printable)),
            Self::Mount => known(model.mount.as_deref().map(clean::printable_path)),
            // Answered from the memory of the host.
            Self::Fits | Self::Needs => symbols.none.to_owned(),
            Self::Files => known(model.measured.then(|| short(model.file_count))),
        };
        (text, Role::Text)
    }
}

/// The columns of the table on a screen: never fewer on a wider one. Until the detail stands beside it, there are no more
/// than stay when it does.
fn columns_of(layout: &Layout, width: u16, several_stores: bool, several_owners: bool) -> Vec<(Column, u16)> {
    let chosen_by = if layout.detail.is_some() { width } else { width.min(TABLE) };
    let mut columns = columns(chosen_by, several_stores, several_owners);
    for (column, room) in &mut columns {
        if *column == Column::Name {
            *room += width - chosen_by;
        }
    }
    columns
}

/// The columns that fit into `width`, each with its width. Which store a row is in only tells something where there are
/// several, and whose it is matters most where there are several owners.
fn columns(width: u16, several_stores: bool, several_owners: bool) -> Vec<(Column, u16)> {
    let mut name = width.saturating_sub(PREFIX);
    let mut chosen = vec![Column::Name];
    let mut ranks = RANKS.to_vec();
    if several_owners {
        ranks.retain(|(column, _)| *column != Column::Owner);
        ranks.insert(OWNER_RANK, (Column::Owner, NAME));
    }
    if !several_stores {
        ranks.retain(|(column, _)| *column != Column::Store);
        ranks.push((Column::Store, ROOMY_NAME));
    }
    for (column, least) in ranks {
        let takes = COLUMNS.iter().find(|(c, _)| *c == column).map_or(0, |(_, width)| width + gap(column));
        if name < least + takes {
            break;
        }
        name -= takes;
        chosen.push(column);
    }
    let mut columns: Vec<(Column, u16)> = COLUMNS.into_iter().filter(|(column, _)| chosen.contains(column)).collect();
    for (column, width) in &mut columns {
        if *column == Column::Fits && name >= NAME + (FITS - *width) {
            name -= FITS - *width;
            *width = FITS;
        }
    }
    for (column, width) in &mut columns {
        if *column == Column::Name {
            *width = name;
        }
    }
    columns
}

pub(super) fn draw(canvas: &mut Canvas<'_>, state: &State, area: Rect) {
    let symbols = canvas.look.symbols;
    let columns = columns_of(&state.layout(), area.width, state.facts.stores.len() > 1, has_several_owners(state));
    let focused = state.focus == Focus::Models && state.dialogs.is_empty();
    let mut x = PREFIX - 1;
    for (column, width) in &columns {
        // The first column stands right after the prefix.
        x += if x < PREFIX { 1 } else { gap(*column) };
        let mut title = column.title().to_owned();
        let sorted = column.sorts() == Some(state.models.sort);
        if *column == Column::Name && !columns.iter().any(|(column, _)| column.sorts() == Some(state.models.sort)) {
            // The column that decides is not on the screen; its order is told all the same.
            let direction = symbols.sorted[usize::from(state.models.reverse)];
            title = format!("{title} by {}{direction}", state.models.sort.name());
        }
        if sorted {
            // The mark of the order tells more than the last letter.
            title = text::cut(&title, usize::from(*width).saturating_sub(1), "");
            title.push_str(symbols.sorted[usize::from(state.models.reverse)]);
        }
        let title = text::cut(&title, usize::from(*width), "");
        let title = if column.is_figure() { text::pad_left(&title, usize::from(*width)) } else { title };
        canvas.put(area, x, 0, &title, if focused { Role::Focus } else { Role::Title });
        x += width;
    }
    let rows = Rect::new(area.x, area.y + 1, area.width, area.height.saturating_sub(1)).intersection(area);
    if state.models.shown().is_empty() {
        for (y, (line, role)) in (0..rows.height).zip(nothing(state, usize::from(area.width.saturating_sub(PREFIX)))) {
            canvas.put(rows, PREFIX, y, &line, role);
        }
        return;
    }
    for (y, row) in (0..rows.height).zip(state.models.shown().iter().skip(state.models.offset)) {
        draw_row(canvas, state, rows, y, row, &columns);
    }
}

fn has_several_owners(state: &State) -> bool {
    let mut owners = state.models.shown().iter().filter_map(|row| row.model.owner.as_deref());
    owners.next().is_some_and(|first| owners.any(|owner| owner != first))
}

fn draw_row(canvas: &mut Canvas<'_>, state: &State, area: Rect, y: u16, row: &Row, columns: &[(Column, u16)]) {
    let model = &row.model;
    let symbols = canvas.look.symbols;
    let cursor = state.models.cursor.as_ref() == Some(&model.identity);
    let marked = state.models.marks.contains(&model.identity);
    canvas.put(area, 0, y, if cursor { ">" } else { " " }, Role::Text);
    if marked {
        canvas.put(area, 1, y, "*", Role::Mark);
    }
    if !model.complete {
        canvas.put(area, 2, y, "!", Role::Bad);
    } else if model.protected {
        canvas.put(area, 2, y, "#", Role::Good);
    } else if model.duplicate {
        canvas.put(area, 2, y, "=", Role::Dim);
    }
    let mut x = PREFIX - 1;
    for (column, width) in columns {
        x += if x < PREFIX { 1 } else { gap(*column) };
        let width_here = usize::from(*width);
        let (cell, role) =
            column.fit(state, row, *width, symbols).unwrap_or_else(|| column.cell(model, state.wall, symbols));
        let cell = if *column == Column::Name {
            text::cut_name(&cell, width_here, symbols.ellipsis)
        } else {
            text::cut(&cell, width_here, symbols.ellipsis)
        };
        let cell = if column.is_figure() { text::pad_left(&cell, width_here) } else { cell };
        let role = if marked && *column == Column::Name { Role::Mark } else { role };
        canvas.put(area, x, y, &cell, role);
        x += width;
    }
    if cursor {
        let here = state.focus == Focus::Models && state.dialogs.is_empty();
        canvas.tint(area, y, if here { Role::Cursor } else { Role::CursorElsewhere });
    }
}

/// What is said where there are no rows.
fn nothing(state: &State, width: usize) -> Vec<(String, Role)> {
    let models = &state.models;
    let mut lines = Vec::new();
    let mut say = |line: &str, role: Role| {
        lines.extend(text::wrap(line, width).into_iter().map(|line| (line, role)));
    };
    if models.is_filtered() && !models.is_empty() {
        say("no model matches the filter; Esc clears it", Role::Dim);
    } else if !models.scan.ever_done {
        say("looking for models", Role::Dim);
    } else {
        say("no models here yet", Role::Title);
        say("p pulls one from the hub", Role::Text);
        let stores: Vec<(&str, &Path)> =
            state.facts.stores.iter().map(|(kind, path)| (kind.name(), path.as_path())).collect();
        for (kind, path) in stores {
            say(&format!("{kind}: {}", clean::printable_path(path)), Role::Dim);
        }
    }
    for summary in models.stores() {
        for warning in &summary.warnings {
            say(&format!("{}: {warning}", summary.store), Role::Warn);
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tui::state::Said;

    #[test]
    fn columns_appear_by_rank_and_never_take_more_than_there_is() {
        for width in 0..300 {
            let columns = columns(width, true, width % 2 == 0);
            let sum: u16 = columns.iter().map(|(column, width)| width + gap(*column)).sum();
            assert!(width <= PREFIX || PREFIX + sum <= width + 1, "{width}: {columns:?}");
        }
        let names =
            |width: u16| columns(width, true, false).iter().map(|(column, _)| column.title()).collect::<Vec<_>>();
        assert_eq!(names(38), ["NAME", "SIZE"]);
        assert_eq!(names(70), ["NAME", "QUANT", "SIZE", "USED", "IN USE", "FITS"]);
        assert_eq!(names(78), ["STORE", "NAME", "QUANT", "SIZE", "USED", "IN USE", "FITS"]);
        assert_eq!(names(TABLE), ["STORE", "NAME", "QUANT", "PARAMS", "SIZE", "USED", "IN USE", "FITS"]);
        assert!(names(160).contains(&"OWNER"));
        assert!(names(170).contains(&"MOUNT"));
        let owned: Vec<&str> = columns(78, true, true).iter().map(|(column, _)| column.title()).collect();
        assert!(owned.contains(&"OWNER") && owned.contains(&"FITS"), "{owned:?}");
        let one_store: Vec<&str> = columns(78, false, false).iter().map(|(column, _)| column.title()).collect();
        assert!(one_store.contains(&"PARAMS") && one_store.contains(&"FITS"), "{one_store:?}");
    }

    #[test]
    fn a_wider_terminal_never_has_fewer_columns() {
        for (stores, owners) in [(false, false), (false, true), (true, false), (true, true)] {
            let mut before: Vec<Column> = Vec::new();
            for width in 20..=320 {
                let layout = Layout::new((width, 40), Focus::Models, 1, Said::default());
                let room = layout.models.unwrap().width;
                let columns = columns_of(&layout, room, stores, owners);
                let sum: u16 = columns.iter().map(|(column, width)| width + gap(*column)).sum();
                assert!(PREFIX + sum <= room + 1, "{width}: {columns:?}");
                let now: Vec<Column> = columns.iter().map(|(column, _)| *column).collect();
                let lost: Vec<&Column> = before.iter().filter(|column| !now.contains(column)).collect();
                assert!(lost.is_empty(), "{lost:?} went at {width} columns");
                before = now;
            }
            assert_eq!(before.len(), COLUMNS.len());
        }
    }
}
