//! Pulling: the field, the search results, the files.

use ratatui::layout::{Position, Rect};

use super::canvas::{Canvas, Spans, centred, hints};
use super::figures::{age, counted, grouped, path, short};
use super::footer::{field as text_field, hints_of};
use crate::hub::Summary;
use crate::model::memory::{Fit, Verdict};
use crate::model::{Bytes, size, text as clean};
use crate::store::remote::RemoteRow;
use crate::tui::keymap::Pane;
use crate::tui::msg::Choice;
use crate::tui::state::{Asked, FilesDialog, HitsDialog, Layout, PullDialog, State};
use crate::tui::text;
use crate::tui::theme::Role;

pub(super) fn field(canvas: &mut Canvas<'_>, state: &State, dialog: &PullDialog, layout: &Layout) -> Option<Position> {
    let width = layout.large_dialog().width.min(84);
    let room = usize::from(width.saturating_sub(4));
    let (line, role) = match (&dialog.wait, &dialog.error) {
        (Some((wait, _)), _) if wait.slow => ("the hub does not answer yet".to_owned(), Role::Warn),
        (Some((_, Asked::Files)), _) => ("listing the files".to_owned(), Role::Dim),
        (Some((_, Asked::Hits)), _) => ("searching the hub".to_owned(), Role::Dim),
        (None, Some(error)) => (error.clone(), Role::Bad),
        (None, None) => (
            "org/name, org/name:QUANT, a catalog alias or the address of a model's page lists files; other words \
             search the hub."
                .to_owned(),
            Role::Dim,
        ),
    };
    let lines: Vec<Spans> = text::wrap(&line, room).into_iter().map(|line| vec![(line, role)]).collect();
    let height = u16::try_from(lines.len()).unwrap_or(u16::MAX).saturating_add(4);
    let inside = frame(canvas, state, layout.dialog(width, height), "pull", Pane::Pull);
    let caret = text_field(canvas, inside, 0, 0, "> ", &dialog.line);
    canvas.lines(below(inside, 2, inside.height.saturating_sub(2)), &lines, 0);
    (!inside.is_empty()).then_some(Position::new(inside.x + caret, inside.y))
}

pub(super) fn hits(canvas: &mut Canvas<'_>, state: &State, dialog: &HitsDialog, layout: &Layout) -> Option<Position> {
    let symbols = canvas.look.symbols;
    let title = format!("search: {} {} {}", dialog.text, symbols.dot, counted(dialog.hits.len(), "model", "models"));
    let inside = frame(canvas, state, layout.large_dialog(), &title, Pane::Hits);
    let (line, role) = match (&dialog.wait, &dialog.error) {
        (Some(wait), _) if wait.slow => ("the hub does not answer yet", Role::Warn),
        (Some(_), _) => ("listing the files", Role::Dim),
        (None, Some(error)) => (error.as_str(), Role::Bad),
        (None, None) => ("most downloaded first", Role::Dim),
    };
    let status = text::wrap(line, usize::from(inside.width));
    let status_rows = u16::try_from(status.len()).unwrap_or(1).min(inside.height / 2);
    let table = Rect::new(inside.x, inside.y, inside.width, inside.height - status_rows);
    // Figures stand at the right as far as there is room for the names.
    let with_figures = inside.width >= 50;
    // How many liked it is told only where there is plenty.
    let with_likes = inside.width >= 90;
    let name_width = match (with_figures, with_likes) {
        (true, true) => inside.width - 36,
        (true, false) => inside.width - 30,
        _ => inside.width.saturating_sub(2),
    };
    let mut y = 0;
    if with_figures && table.height > 1 {
        canvas.put(table, 2, 0, "MODEL", Role::Title);
        let title = if with_likes { "DOWNLOADS LIKES UPDATED" } else { "DOWNLOADS UPDATED" };
        canvas.put(table, name_width + 3, 0, title, Role::Title);
        y = 1;
    }
    let rows = table.height.saturating_sub(y);
    let first = centred(dialog.cursor, usize::from(rows), dialog.hits.len());
    for ((at, hit), y) in dialog.hits.iter().enumerate().skip(first).zip(y..table.height) {
        canvas.put(table, 0, y, if at == dialog.cursor { ">" } else { " " }, Role::Text);
        canvas.put(table, 2, y, &text::cut_name(&hit.id, usize::from(name_width), symbols.ellipsis), Role::Text);
        if with_figures {
            let updated = hit.updated.map_or_else(|| symbols.none.to_owned(), |then| age(then, state.wall));
            let likes = if with_likes { format!(" {:>5}", short(hit.likes)) } else { String::new() };
            let figures = format!("{:>9}{likes} {updated:>7}", short(hit.downloads));
            let x = canvas.put(table, name_width + 3, y, &figures, Role::Dim);
            if hit.gated {
                canvas.put(table, x + 1, y, "gated", Role::Warn);
            }
        }
        if at == dialog.cursor {
            canvas.tint(table, y, Role::Cursor);
        }
    }
    let lines: Vec<Spans> = status.into_iter().map(|line| vec![(line, role)]).collect();
    canvas.lines(below(inside, table.height, status_rows), &lines, 0);
    None
}

pub(super) fn files(canvas: &mut Canvas<'_>, state: &State, dialog: &FilesDialog, layout: &Layout) -> Option<Position> {
    let symbols = canvas.look.symbols;
    let offer = &dialog.offer;
    let commit: String = clean::printable(&offer.commit).chars().take(7).collect();
    let title = format!("{} at {commit}", clean::printable(&offer.repository));
    let inside = frame(canvas, state, layout.large_dialog(), &title, Pane::Files);
    let room = usize::from(inside.width);
    let (folder, available) = dialog.place();
    let mut free = available.map(|free| format!(" {} {} free", symbols.dot, Bytes(free))).unwrap_or_default();
    if let Some((_, bytes)) = offer.projector.as_ref().filter(|_| dialog.mmproj) {
        free.push_str(&format!(" {} with mmproj, {}", symbols.dot, Bytes(*bytes)));
    }
    let place = path(folder, &state.facts.home);
    let place = text::cut_middle(&place, room.saturating_sub(4 + text::width(&free)), symbols.ellipsis);
    canvas.put(inside, 0, 0, &format!("to {place}{free}"), Role::Dim);
    let status = below_table(state, dialog, room, symbols.dot);
    let status_rows = u16::try_from(status.len()).unwrap_or(1).min(inside.height / 2);
    let table = below(inside, 1, inside.height.saturating_sub(1 + status_rows));
    // Where each has one file, the room is worth more to their names.
    let with_counts = room >= 50 && offer.choices.iter().any(|choice| choice.files != 1);
    let with_fits = offer.choices.iter().any(|choice| fit(state, dialog, choice).is_some());
    let mut columns = vec![(4, "QUANT"), (23, "SIZE")];
    let mut x = 29;
    let mut column = |title: &'static str, width: u16, wanted: bool| {
        let at = wanted.then_some(x);
        if wanted {
            columns.push((x, title));
            x += width;
        }
        at
    };
    let fits_at = column("FITS", 12, with_fits);
    let needs_at = column("   NEEDS", 10, with_fits && room >= 60);
    // A set of very many shards has one figure more.
    let count_width = if offer.choices.iter().any(|choice| choice.files > 99) { 11 } else { 9 };
    let count_at = column("FILES", count_width, with_counts);
    let name_at = column("NAME", 0, room >= 50);
    let head = u16::from(table.height > 3 && !offer.choices.is_empty());
    if head == 1 {
        for (x, title) in columns {
            canvas.put(table, x, 0, title, Role::Title);
        }
    }
    let rows = table.height.saturating_sub(head);
    let first = centred(dialog.cursor.unwrap_or(0), usize::from(rows), offer.choices.len());
    for ((at, choice), y) in offer.choices.iter().enumerate().skip(first).zip(head..table.height) {
        canvas.put(table, 0, y, if Some(at) == dialog.cursor { ">" } else { " " }, Role::Text);
        canvas.put(table, 1, y, if dialog.marks.contains(&at) { "*" } else { " " }, Role::Mark);
        if Some(at) == offer.default {
            canvas.put(table, 2, y, "d", Role::Key);
        }
        if is_here(state, &offer.repository, choice) {
            canvas.put(table, 3, y, "+", Role::Good);
        }
        let role = if choice.problem.is_some() { Role::Dim } else { Role::Text };
        canvas.put(table, 4, y, &text::cut_middle(&choice.label, 14, symbols.ellipsis), role);
        canvas.put(table, 19, y, &text::pad_left(&Bytes(choice.bytes).to_string(), 8), role);
        if let (Some(x), Some(fit)) = (fits_at, fit(state, dialog, choice)) {
            canvas.put(table, x, y, &fit.verdict.word(), fit_role(fit.verdict));
            if let Some(x) = needs_at {
                canvas.put(table, x, y, &text::pad_left(&fit.figure().unwrap_or_default(), 8), Role::Dim);
            }
        }
        if let Some(x) = count_at {
            canvas.put(table, x, y, &counted(choice.files, "file", "files"), Role::Dim);
        }
        if let Some(x) = name_at {
            let name = text::cut_middle(&choice.principal, room.saturating_sub(usize::from(x)), symbols.ellipsis);
            canvas.put(table, x, y, &name, Role::Dim);
        }
        if Some(at) == dialog.cursor {
            canvas.tint(table, y, Role::Cursor);
        }
    }
    let lines: Vec<Spans> = status.into_iter().map(|line| vec![line]).collect();
    canvas.lines(below(inside, 1 + table.height, status_rows), &lines, 0);
    None
}

/// What stands below the choices: what a key would do, what the headers tell of all of them, and what is wrong with them.
fn below_table(state: &State, dialog: &FilesDialog, room: usize, dot: &str) -> Vec<(String, Role)> {
    let (mut line, role) = below_choice(state, dialog);
    let mut lines: Vec<(String, Role)> = Vec::new();
    let mut add = |line: &str, role: Role| lines.extend(text::wrap(line, room).into_iter().map(|line| (line, role)));
    match &dialog.told {
        None if dialog.offer.header.is_some() => line.push_str(&format!(" {dot} reading what it needs")),
        Some(Err(why)) => line.push_str(&format!(" {dot} whether it fits is unknown: {why}")),
        _ => {}
    }
    add(&line, role);
    if let Some(Err(_)) = &dialog.told
        && let Some(said) = dialog.offer.header.as_ref().and_then(|header| said_by_the_hub(&header.summary))
    {
        add(&said, Role::Dim);
    }
    if let Some(Ok(row)) = &dialog.told {
        add(&told(state, dialog, row), Role::Dim);
        for warning in row.model.warnings.iter().take(3) {
            add(&clean::printable(warning), Role::Warn);
        }
        match &row.why_partial {
            Some(why) => add(&format!("{} of {} headers were read: {why}", row.read, row.of), Role::Warn),
            None if row.coming && !row.is_whole() => {
                add(&format!("{} of {} headers are here", row.read, row.of), Role::Dim);
            }
            None => {}
        }
        let facts = row.facts().into_iter().filter(|(name, _)| *name != "bits/weight");
        let facts: Vec<String> = facts.map(|(name, value)| format!("{name} {value}")).collect();
        add(&facts.join(&format!(" {dot} ")), Role::Dim);
    }
    lines
}

/// What the hub says of a model whose headers cannot be read.
fn said_by_the_hub(summary: &Summary) -> Option<String> {
    let architecture = summary.architecture.clone();
    let parameters = summary.parameters.map(|count| format!("{} parameters", size::parameters(count)));
    let context = summary.context_length.map(|tokens| format!("trained for {} tokens", grouped(tokens)));
    let known: Vec<String> = [architecture, parameters, context].into_iter().flatten().collect();
    (!known.is_empty()).then(|| format!("by the hub: {}", known.join(", ")))
}

/// Whether a choice fits, as far as the header is here.
fn fit(state: &State, dialog: &FilesDialog, choice: &Choice) -> Option<Fit> {
    let (memory, row) = (state.memory.as_ref()?, dialog.told.as_ref()?.as_ref().ok()?);
    let fit = row.fit(choice.weights, dialog.mmproj, memory, &state.facts.fit)?;
    let told = fit.verdict != Verdict::Unknown || fit.need_bytes.is_some();
    (choice.weights > 0 && told).then_some(fit)
}

fn fit_role(verdict: Verdict) -> Role {
    match verdict {
        Verdict::Fits | Verdict::Split(_) => Role::Good,
        Verdict::Tight | Verdict::CpuOnly => Role::Warn,
        Verdict::No | Verdict::Unknown => Role::Dim,
    }
}

/// What the headers say of all choices, and of the one under the cursor what it is: `llama, 8.03B parameters, 4.89 bits/weight,
/// trained for 131,072 tokens, fits are for 8192 tokens`.
fn told(state: &State, dialog: &FilesDialog, row: &RemoteRow) -> String {
    let metadata = row.metadata.as_deref();
    let architecture = row.model.architecture.as_deref().map(clean::printable);
    let parameters = row.parameters_line().map(|line| format!("parameters {line}"));
    let choice = dialog.cursor.and_then(|cursor| dialog.offer.choices.get(cursor)).filter(|choice| choice.weights > 0);
    let own = choice.filter(|choice| choice.weights == row.set_bytes);
    let label = own.and(row.model.quantization.as_ref()).map(|label| clean::printable(label.as_str()));
    let bits = choice.and_then(|choice| row.bits_per_weight(choice.weights));
    let bits = bits.map(|bits| format!("{bits:.2} bits/weight"));
    let context = row.model.context_length.map(|tokens| format!("trained for {} tokens", grouped(tokens)));
    let trained = metadata.and_then(|metadata| metadata.context_length);
    let need = format!("fits are for {} tokens", grouped(state.facts.fit.context_for(trained)));
    let known = [architecture, parameters, label, bits, context, Some(need)];
    known.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// Whether a complete model of this host came from `repository` with that quantization.
fn is_here(state: &State, repository: &str, choice: &Choice) -> bool {
    let label = &choice.label;
    choice.file.is_none()
        && state.models.rows().any(|row| {
            let model = &row.model;
            let from = model.reference.as_deref().and_then(|reference| reference.split([':', '@']).next());
            model.complete
                && from.is_some_and(|from| from.eq_ignore_ascii_case(repository))
                && model.selects.iter().any(|quantization| quantization.as_str().eq_ignore_ascii_case(label))
        })
}

/// What is said about the choice under the cursor.
fn below_choice(state: &State, dialog: &FilesDialog) -> (String, Role) {
    if let Some(error) = &dialog.error {
        return (error.clone(), Role::Bad);
    }
    let Some(choice) = dialog.cursor.and_then(|cursor| dialog.offer.choices.get(cursor)) else {
        let line = if dialog.offer.choices.is_empty() { "there is nothing to take here" } else { "choose one" };
        return (line.to_owned(), Role::Warn);
    };
    if let Some(problem) = &choice.problem {
        return (problem.clone(), Role::Warn);
    }
    let here = is_here(state, &dialog.offer.repository, choice);
    let chosen = dialog.chosen();
    let bytes = chosen.iter().map(|choice| choice.bytes).fold(dialog.extra(), u64::saturating_add);
    if !dialog.marks.is_empty() {
        let counted = format!("{} marked, {}", chosen.len(), Bytes(bytes));
        return match dialog.place().1 {
            Some(free) if bytes > free => {
                (format!("{counted}: {} short, so that some will wait for room", Bytes(bytes - free)), Role::Warn)
            }
            Some(free) => {
                (format!("{counted}; {} free after that; Enter queues them", Bytes(free - bytes)), Role::Text)
            }
            None => (format!("{counted}; Enter queues them"), Role::Text),
        };
    }
    match dialog.place().1 {
        _ if here => ("+ is on this host already; Enter queues the download all the same".to_owned(), Role::Good),
        Some(free) if bytes > free => {
            (format!("{} short: the download will wait for room", Bytes(bytes - free)), Role::Warn)
        }
        _ if dialog.cursor == dialog.offer.default => {
            ("d is what the reference means; Enter queues it, Space marks several".to_owned(), Role::Dim)
        }
        Some(free) => (
            format!("Enter queues it, Space marks several; {} free after it", Bytes(free.saturating_sub(bytes))),
            Role::Dim,
        ),
        None => ("Enter queues it, Space marks several".to_owned(), Role::Dim),
    }
}

fn frame(canvas: &mut Canvas<'_>, state: &State, area: Rect, title: &str, pane: Pane) -> Rect {
    let room = usize::from(area.width).saturating_sub(6);
    let keys = hints(hints_of(&state.keymap, pane), room, canvas.look.symbols.dot);
    let inside = canvas.boxed(area, title, &keys);
    inside.inner(ratatui::layout::Margin::new(1, 0))
}

fn below(area: Rect, y: u16, height: u16) -> Rect {
    Rect::new(area.x, area.y.saturating_add(y), area.width, height).intersection(area)
}
