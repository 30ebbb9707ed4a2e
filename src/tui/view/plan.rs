//! A deletion plan: what hurts first, then what stays, then every path that goes, bookkeeping last and with its sum.

use ratatui::layout::Position;

use super::canvas::{Canvas, Spans, hints};
use super::figures::{counted, path};
use super::footer::hints_of;
use crate::model::{Bytes, Operation, Plan, Step, text as clean};
use crate::store::Part;
use crate::tui::keymap::Pane;
use crate::tui::state::{Dialog, Layout, PlanDialog, State};
use crate::tui::text;
use crate::tui::theme::Role;

/// Lines of the plan that fit below its heading.
pub(crate) fn body_rows(layout: &Layout) -> usize {
    usize::from(layout.large_dialog().height.saturating_sub(4))
}

/// Whether a plan that is drawn now can be read: its bytes stand in the first line, and what goes stands below it. A
/// terminal that is too small for that shows no plan, and nobody can say yes to it.
pub(crate) fn readable(state: &State) -> bool {
    let Some(Dialog::Plan(PlanDialog { plan: Some(Ok(plan)), .. })) = state.dialogs.last() else { return false };
    is_readable(plan, state, &state.layout())
}

fn is_readable(plan: &Plan, state: &State, layout: &Layout) -> bool {
    let room = width(layout);
    let bytes = Bytes(plan.expected_bytes).to_string();
    let first = text::wrap(&heading(plan), room).into_iter().next().unwrap_or_default();
    let rows = body_rows(layout);
    let lines = body(plan, state, room, "~").len();
    first.contains(&bytes) && room >= LEAST_ROOM && rows >= LEAST_ROWS.min(lines) && rows > 0
}

/// Columns below which a path is cut to nothing that could be recognized.
const LEAST_ROOM: usize = 24;
/// Lines of the plan that have to fit, if it has as many.
const LEAST_ROWS: usize = 2;

/// Number of lines of the plan that is shown, heading left out.
pub(crate) fn length(state: &State) -> usize {
    match state.dialogs.last() {
        Some(Dialog::Plan(PlanDialog { plan: Some(Ok(plan)), .. })) => {
            body(plan, state, width(&state.layout()), "~").len()
        }
        _ => 0,
    }
}

fn width(layout: &Layout) -> usize {
    usize::from(layout.large_dialog().width.saturating_sub(4))
}

pub(super) fn draw(canvas: &mut Canvas<'_>, state: &State, dialog: &PlanDialog, layout: &Layout) -> Option<Position> {
    let symbols = canvas.look.symbols;
    let large = layout.large_dialog();
    let area = match &dialog.plan {
        Some(Ok(plan)) => {
            let lines = body(plan, state, width(layout), symbols.ellipsis).len();
            layout.dialog(large.width, u16::try_from(lines).unwrap_or(u16::MAX).saturating_add(4).min(large.height))
        }
        _ => layout.dialog(large.width, large.height.min(6)),
    };
    let title = if dialog.swept.is_empty() { "delete" } else { "sweep" };
    let what = match dialog.targets.as_slice() {
        [] if !dialog.swept.is_empty() => counted(dialog.swept.len(), "item", "items"),
        [one] => one.name(),
        many if many.iter().any(|target| target.part != Part::Whole) => counted(many.len(), "part", "parts"),
        many => counted(many.len(), "model", "models"),
    };
    let mut keys = hints_of(&state.keymap, Pane::Plan);
    let too_small = matches!(&dialog.plan, Some(Ok(plan)) if !is_readable(plan, state, layout));
    if too_small || !matches!(&dialog.plan, Some(Ok(plan)) if !plan.steps.is_empty()) {
        // What there is nothing to say yes to is not offered.
        let confirm = state.keymap.key(Pane::Plan, crate::tui::action::Action::Confirm).map(|key| key.to_string());
        keys.retain(|(key, _, _)| Some(key) != confirm.as_ref());
    }
    let room = usize::from(area.width).saturating_sub(6);
    let keys = if too_small {
        let line = "the terminal is too small to show the plan";
        let line = if text::width(line) <= room { line } else { "too small" };
        vec![(line.to_owned(), Role::Warn)]
    } else {
        hints(keys, room, symbols.dot)
    };
    let inside = canvas.boxed(area, &format!("{title} {what}"), &keys);
    let inside = inside.inner(ratatui::layout::Margin::new(1, 0));
    let room = usize::from(inside.width);
    let (heading, role) = match (&dialog.plan, &dialog.wait) {
        (Some(Ok(_)), Some(wait)) if wait.slow => ("the store does not answer; Esc closes".to_owned(), Role::Warn),
        (Some(Ok(_)), Some(_)) => ("looking again what would go".to_owned(), Role::Dim),
        (Some(Ok(plan)), _) if plan.steps.is_empty() => ("Nothing of it can be deleted.".to_owned(), Role::Warn),
        (Some(Ok(plan)), _) => (heading(plan), Role::Title),
        (Some(Err(error)), _) => (error.clone(), Role::Bad),
        (None, Some(wait)) if wait.slow => ("the store does not answer; Esc closes".to_owned(), Role::Warn),
        (None, _) => ("looking what would go".to_owned(), Role::Dim),
    };
    let heading: Vec<Spans> = text::wrap(&heading, room).into_iter().map(|line| vec![(line, role)]).collect();
    let Some(Ok(plan)) = &dialog.plan else {
        canvas.lines(inside, &heading, 0);
        return None;
    };
    let heading: Vec<Spans> = heading.into_iter().take(1).collect();
    canvas.lines(inside, &heading, 0);
    let rows = u16::try_from(body_rows(layout)).unwrap_or(u16::MAX);
    let body_area = ratatui::layout::Rect::new(inside.x, inside.y + 2, inside.width, rows).intersection(inside);
    let lines = body(plan, state, room, symbols.ellipsis);
    if canvas.lines(body_area, &lines, dialog.scroll) {
        let x = inside.width.saturating_sub(1);
        canvas.put(inside, x, inside.height.saturating_sub(1), symbols.sorted[1], Role::Key);
    }
    None
}

fn heading(plan: &Plan) -> String {
    let files = plan.steps.iter().filter(|step| step.operation.is_file()).count();
    format!("Frees {} on disk: {}.", Bytes(plan.expected_bytes), counted(files, "file", "files"))
}

fn body(plan: &Plan, state: &State, width: usize, ellipsis: &str) -> Vec<Spans> {
    let home = &state.facts.home;
    let mut lines: Vec<Spans> = Vec::new();
    let say = |lines: &mut Vec<Spans>, line: &str, role: Role| {
        lines.extend(text::wrap(line, width).into_iter().map(|line| vec![(line, role)]));
    };
    for holder in &plan.in_use_by {
        let line = format!("IN USE by process {} ({}): {}", holder.pid, holder.user, holder.command);
        say(&mut lines, &line, Role::Bad);
    }
    if plan.unreadable_processes > 0 {
        let processes = counted(plan.unreadable_processes, "process", "processes");
        let seen = if plan.in_use_by.is_empty() { "not seen in use; " } else { "" };
        let line = format!("{seen}{processes} of other users could not be looked into");
        say(&mut lines, &line, Role::Dim);
    }
    for note in &plan.notes {
        say(&mut lines, note, Role::Bad);
    }
    for broken in &plan.breaks {
        say(&mut lines, &format!("BREAKS {}: {}", broken.model, path(&broken.path, home)), Role::Bad);
    }
    for blocked in &plan.blocked {
        say(&mut lines, &format!("CANNOT GO {}: {}", path(&blocked.path, home), blocked.because), Role::Bad);
    }
    if !lines.is_empty() {
        lines.push(Spans::new());
    }
    if plan.models.len() > 1 {
        for model in &plan.models {
            say(&mut lines, &model.to_string(), Role::Mark);
        }
        lines.push(Spans::new());
    }
    for ask in &plan.asks {
        say(
            &mut lines,
            &format!("Ollama's server at {} deletes {}", ask.server, clean::printable(&ask.name)),
            Role::Text,
        );
    }
    for kept in &plan.keep {
        say(&mut lines, &format!("stays: {}: {}", path(&kept.path, home), kept.because), Role::Good);
    }
    if !plan.keep.is_empty() || !plan.asks.is_empty() {
        lines.push(Spans::new());
    }
    // Paths below their store, which is named once: cut as a whole they would lose the names that tell them apart.
    let mut root = None;
    let mut file = |lines: &mut Vec<Spans>, step: &Step, role: Role| {
        if root.as_ref() != Some(&step.root) {
            root = Some(step.root.clone());
            let store = text::cut_middle(&path(&step.root, home), width.saturating_sub(3), ellipsis);
            lines.push(vec![(format!("in {store}"), Role::Dim)]);
        }
        let below = clean::printable_path(&step.folder.join(&step.name));
        let name = text::cut_middle(&below, width.saturating_sub(11), ellipsis);
        let size = text::pad_left(&Bytes(step.bytes).to_string(), 9);
        lines.push(vec![(format!("{size}  "), Role::Dim), (name, role)]);
    };
    let summed = plan.bookkeeping();
    let one_by_one = |step: &&Step| step.operation.is_file() && (summed.is_empty() || !step.is_bookkeeping());
    plan.steps.iter().filter(one_by_one).for_each(|step| file(&mut lines, step, Role::Text));
    let folders = plan.steps.iter().filter(|step| step.operation == Operation::RemoveFolder).count();
    if folders > 0 {
        let folders = counted(folders, "folder, empty by then", "folders, empty by then");
        lines.push(vec![(text::cut(&format!("           and {folders}"), width, ellipsis), Role::Dim)]);
    }
    if !summed.is_empty() {
        let bytes = Bytes(summed.iter().map(|step| step.bytes).sum()).to_string();
        let files = format!("and {}:", counted(summed.len(), "bookkeeping file", "bookkeeping files"));
        let line = format!("{}  {files}", text::pad_left(&bytes, 9));
        lines.push(vec![(text::cut(&line, width, ellipsis), Role::Text)]);
        summed.into_iter().for_each(|step| file(&mut lines, step, Role::Dim));
    }
    lines
}
