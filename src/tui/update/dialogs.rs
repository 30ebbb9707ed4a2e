//! Deletion plans and their questions, help, the quit question.

use std::time::Duration;

use super::expiry::{self, Agreed};
use super::{Effects, moved};
use crate::jobs::{Basis, JobSpec};
use crate::model::{Plan, text};
use crate::provisioner::PlanTarget;
use crate::tui::Exit;
use crate::tui::action::Action;
use crate::tui::effect::Effect;
use crate::tui::msg::{Generation, Now};
use crate::tui::state::{Dialog, Level, PlanDialog, State, SureDialog};

/// Nobody reads a plan faster than this; a `y` that comes earlier was meant for something else.
const READING: Duration = Duration::from_millis(300);

/// Opens the dialog of a deletion and asks for its plan.
pub(super) fn stage(state: &mut State, targets: Vec<PlanTarget>, now: Now) -> Effect {
    let wait = state.wait(now);
    let asked = targets.clone();
    let dialog =
        PlanDialog { targets, wait: Some(wait), plan: None, agreed: None, drawn: None, scroll: 0, swept: Vec::new() };
    state.dialogs.push(Dialog::Plan(dialog));
    Effect::Plan(wait.generation, asked)
}

pub(super) fn planned(
    state: &mut State,
    generation: Generation,
    result: Result<Box<Plan>, String>,
    now: Now,
) -> Effects {
    for dialog in &mut state.dialogs {
        if let Dialog::Plan(dialog) = dialog
            && dialog.wait.is_some_and(|wait| wait.generation == generation)
        {
            dialog.wait = None;
            dialog.drawn = None;
            let before = dialog.plan.replace(result);
            if let Some(agreed) = dialog.agreed.take() {
                let before = before.and_then(Result::ok);
                return expiry::remade(state, agreed, before.as_deref(), now);
            }
            break;
        }
    }
    Vec::new()
}

/// A frame has been written: what it showed can be answered from now on.
pub(super) fn drawn(state: &mut State, now: Now) {
    let readable = readable(state);
    let drawn = match state.dialogs.last_mut() {
        Some(Dialog::Plan(dialog)) if dialog.plan.is_some() => &mut dialog.drawn,
        Some(Dialog::Sure(dialog)) => &mut dialog.drawn,
        _ => return,
    };
    // A frame that had no room for the question takes back what an earlier one showed.
    *drawn = if readable { drawn.or(Some(now.at)) } else { None };
}

/// Whether the question on top has room for what it is about.
fn readable(state: &State) -> bool {
    match state.dialogs.last() {
        Some(Dialog::Plan(_)) => crate::tui::view::plan_readable(state),
        Some(Dialog::Sure(_)) => crate::tui::view::sure_readable(state),
        _ => false,
    }
}

/// Whether a key that was pressed at `now` can be an answer to what was drawn.
fn answers(drawn: Option<Duration>, now: Now) -> bool {
    drawn.is_some_and(|drawn| now.at >= drawn + READING)
}

pub(super) fn deletion(state: &mut State, action: Action, now: Now) -> Effects {
    let page = crate::tui::view::plan_rows(&state.layout());
    let length = crate::tui::view::plan_length(state);
    let readable = readable(state);
    let expires = expiry::expires(state);
    match state.dialogs.last_mut() {
        Some(Dialog::Sure(sure)) => match action {
            Action::Confirm if !readable => too_small(state, now),
            Action::Confirm if answers(sure.drawn, now) && expires => return expiry::remake(state, Agreed::All, now),
            Action::Confirm if answers(sure.drawn, now) => {
                state.dialogs.pop();
                return run(state);
            }
            Action::Confirm => early(state, now),
            Action::Close => {
                state.dialogs.pop();
            }
            _ => {}
        },
        Some(Dialog::Plan(dialog)) => {
            let last = length.saturating_sub(page);
            if let Some(scroll) = moved(action, dialog.scroll.min(last), page, last + 1) {
                dialog.scroll = scroll;
                return Vec::new();
            }
            match (action, &dialog.plan) {
                (Action::Close, _) => {
                    state.dialogs.pop();
                }
                (Action::Confirm, Some(Ok(_))) if !readable => too_small(state, now),
                // It is being made anew.
                (Action::Confirm, Some(Ok(_))) if dialog.wait.is_some() => {}
                (Action::Confirm, Some(Ok(plan))) if answers(dialog.drawn, now) => {
                    if plan.steps.is_empty() {
                        state.say(Level::Warn, "there is nothing that could be deleted", now);
                        return Vec::new();
                    }
                    return if expires { expiry::remake(state, Agreed::Plan, now) } else { agreed(state) };
                }
                (Action::Confirm, Some(Ok(_))) => early(state, now),
                _ => {}
            }
        }
        _ => {}
    }
    Vec::new()
}

/// A person said yes to the plan: it runs, or there is one more question.
pub(super) fn agreed(state: &mut State) -> Effects {
    let Some(Dialog::Plan(PlanDialog { plan: Some(Ok(plan)), swept, .. })) = state.dialogs.last() else {
        return Vec::new();
    };
    // Nothing that a sweep offers is in use; what cannot go is told and stays.
    let reasons = if swept.is_empty() { reasons(plan) } else { Vec::new() };
    if reasons.is_empty() {
        return run(state);
    }
    state.dialogs.push(Dialog::Sure(SureDialog { reasons, drawn: None }));
    Vec::new()
}

fn too_small(state: &mut State, now: Now) {
    state.say(Level::Warn, "the terminal is too small to show what would go; nothing is deleted", now);
}

fn early(state: &mut State, now: Now) {
    state.say(Level::Info, "that key came before the question could be read; press it again", now);
}

/// Processes that the second question names; the plan behind it names all of them.
const NAMED: usize = 4;

/// What makes a second question necessary, a line each.
fn reasons(plan: &Plan) -> Vec<String> {
    let mut reasons = Vec::new();
    for holder in plan.in_use_by.iter().take(NAMED) {
        reasons.push(format!(
            "process {} ({}: {}) holds it: it may break, and the room returns only when it ends",
            holder.pid,
            text::printable(&holder.user),
            text::printable(&holder.command)
        ));
    }
    match plan.in_use_by.len().saturating_sub(NAMED) {
        0 => {}
        more => reasons.push(format!("and {more} more processes hold it")),
    }
    for broken in &plan.breaks {
        reasons.push(format!(
            "{} links to it and will be broken: {}",
            broken.model,
            text::printable_path(&broken.path)
        ));
    }
    match plan.blocked.as_slice() {
        [] => {}
        [one] => reasons.push(format!(
            "{} cannot go: {}; the rest will",
            text::printable_path(&one.path),
            text::printable(&one.because)
        )),
        [first, ..] => reasons.push(format!(
            "{} paths cannot go ({}: {}); the rest will",
            plan.blocked.len(),
            text::printable_path(&first.path),
            text::printable(&first.because)
        )),
    }
    reasons
}

/// Hands the plan over, exactly as it was shown.
pub(super) fn run(state: &mut State) -> Effects {
    let Some(Dialog::Plan(dialog)) = state.dialogs.pop() else { return Vec::new() };
    let Some(Ok(plan)) = dialog.plan else { return Vec::new() };
    if !dialog.swept.is_empty() {
        state.dialogs.retain(|dialog| !matches!(dialog, Dialog::Sweep(_)));
        return vec![Effect::Submit(Box::new(JobSpec::Sweep { plan: *plan, items: dialog.swept }))];
    }
    for model in &plan.models {
        state.models.marks.remove(model);
    }
    state.detail.marks.clear();
    vec![Effect::Submit(Box::new(JobSpec::Delete { plan: *plan, basis: Basis::Seen(dialog.targets) }))]
}

pub(super) fn help(state: &mut State, action: Action) -> Effects {
    let page = usize::from(state.layout().large_dialog().height.saturating_sub(2));
    let length = crate::tui::view::help_length(state);
    let Some(Dialog::Help { scroll }) = state.dialogs.last_mut() else { return Vec::new() };
    let last = length.saturating_sub(page);
    if let Some(place) = moved(action, (*scroll).min(last), page, last + 1) {
        *scroll = place;
    } else if action == Action::Close {
        state.dialogs.pop();
    }
    Vec::new()
}

pub(super) fn quit(state: &mut State, action: Action) -> Effects {
    match action {
        Action::Confirm => state.exit = Some(Exit::Quit),
        Action::Close => {
            state.dialogs.pop();
        }
        _ => {}
    }
    Vec::new()
}
