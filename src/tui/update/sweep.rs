//! The sweep: what was found, what of it is marked, and on to the plan.

use std::collections::BTreeSet;

use super::{Effects, moved};
use crate::jobs::{JobSpec, JobState};
use crate::model::{Sweep, SweepItem, text};
use crate::tui::action::Action;
use crate::tui::effect::Effect;
use crate::tui::msg::{Generation, Now};
use crate::tui::state::{Dialog, Level, PlanDialog, State, SweepDialog};

/// Opens the view and looks through the stores. What jobs go on with is not dead.
pub(super) fn open(state: &mut State, now: Now) -> Effect {
    let wait = state.wait(now);
    let dialog = SweepDialog { wait: Some(wait), sweep: None, cursor: 0, marks: BTreeSet::new() };
    state.dialogs.push(Dialog::Sweep(dialog));
    let unfinished =
        state.queue.snapshot.jobs.iter().filter(|job| !matches!(job.state, JobState::Finished | JobState::Cancelled));
    let downloads = unfinished.filter_map(|job| match &job.spec {
        JobSpec::Download(request) => Some(request.clone()),
        _ => None,
    });
    Effect::Sweep(wait.generation, downloads.collect())
}

pub(super) fn found(
    state: &mut State,
    generation: Generation,
    result: Result<Box<Sweep>, String>,
    now: Now,
) -> Effects {
    let warning = result.as_ref().ok().and_then(|sweep| sweep.warnings.first()).cloned();
    for dialog in &mut state.dialogs {
        if let Dialog::Sweep(dialog) = dialog
            && dialog.wait.is_some_and(|wait| wait.generation == generation)
        {
            dialog.wait = None;
            dialog.marks = result.as_ref().map(|sweep| sweep.usual()).unwrap_or_default();
            dialog.sweep = Some(result);
            if let Some(line) = warning {
                state.say(Level::Warn, text::printable(&line), now);
            }
            break;
        }
    }
    Vec::new()
}

pub(super) fn act(state: &mut State, action: Action, now: Now) -> Effects {
    let page = crate::tui::view::sweep_rows(&state.layout());
    let Some(Dialog::Sweep(dialog)) = state.dialogs.last_mut() else { return Vec::new() };
    if action == Action::Close {
        state.dialogs.pop();
        return Vec::new();
    }
    let length = dialog.length();
    if let Some(cursor) = moved(action, dialog.cursor, page, length) {
        dialog.cursor = cursor;
        return Vec::new();
    }
    let Some(sweep) = dialog.found() else { return Vec::new() };
    let items = sweep.items.len();
    match action {
        Action::Mark if dialog.cursor < items => {
            if !dialog.marks.remove(&dialog.cursor) {
                dialog.marks.insert(dialog.cursor);
            }
            dialog.cursor = (dialog.cursor + 1).min(length.saturating_sub(1));
        }
        Action::Mark => state.say(Level::Info, "this stays; the line below says why", now),
        Action::MarkAll => dialog.marks = (0..items).collect(),
        Action::ClearMarks => dialog.marks.clear(),
        Action::Open => plan(state, now),
        _ => {}
    }
    Vec::new()
}

/// Shows what removing the marks, or the item under the cursor, would do.
fn plan(state: &mut State, now: Now) {
    let Some(Dialog::Sweep(dialog)) = state.dialogs.last() else { return };
    let Some(sweep) = dialog.found() else { return };
    let under = (dialog.cursor < sweep.items.len()).then_some(dialog.cursor);
    let chosen = if dialog.marks.is_empty() { under.into_iter().collect() } else { dialog.marks.clone() };
    let swept: Vec<SweepItem> = chosen.iter().filter_map(|at| sweep.items.get(*at)).cloned().collect();
    if swept.is_empty() {
        state.say(Level::Info, "nothing is marked; Space marks a line", now);
        return;
    }
    let plan = Some(Ok(Box::new(sweep.plan(&chosen))));
    state.dialogs.push(Dialog::Plan(PlanDialog {
        targets: Vec::new(),
        wait: None,
        plan,
        agreed: None,
        drawn: None,
        scroll: 0,
        swept,
    }));
}
