//! The detail: it follows the cursor, a short while behind.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Effects, dialogs, focus, models, moved, queue};
use crate::provisioner::PlanTarget;
use crate::store::{Details, Part};
use crate::tui::action::Action;
use crate::tui::effect::Effect;
use crate::tui::msg::{Generation, Now};
use crate::tui::state::{Detail, Focus, Level, State, Subject};

/// How long the cursor rests on a row before the disk is asked about it.
const REST: Duration = Duration::from_millis(120);

/// Turns the detail to the row under the cursor.
pub(super) fn follow(state: &mut State, now: Now) {
    let visible = state.layout().detail.is_some() && state.subject == Subject::Model;
    if state.detail.model != state.models.cursor {
        state.detail = Detail { model: state.models.cursor.clone(), ..Detail::default() };
        // A row that was opened is wanted at once.
        let rest = if state.focus == Focus::Detail { Duration::ZERO } else { REST };
        state.detail.due = Some(now.at + rest);
    } else if state.detail.loaded.is_none() && state.detail.wait.is_none() && state.detail.due.is_none() {
        state.detail.due = Some(now.at);
    }
    if !visible || state.detail.model.is_none() {
        state.detail.due = None;
    }
}

/// Asks for the details of the row.
pub(super) fn ask(state: &mut State, now: Now) -> Effects {
    state.detail.due = None;
    let Some(model) = state.detail.model.clone() else { return Vec::new() };
    let wait = state.wait(now);
    state.detail.wait = Some(wait);
    vec![Effect::Details(wait.generation, model)]
}

pub(super) fn loaded(state: &mut State, generation: Generation, result: Result<Box<Details>, String>) -> Effects {
    if state.detail.wait.is_none_or(|wait| wait.generation != generation) {
        return Vec::new();
    }
    state.detail.wait = None;
    if let Ok(details) = &result
        && let Some(held) = &details.model.in_use_by
    {
        state.models.set_holders(BTreeMap::from([(details.model.identity.clone(), held.clone())]));
        state.models.arrange(state.wall);
    }
    state.detail.loaded = Some(result);
    // Parts that are gone are no longer meant.
    let parts = crate::tui::view::detail_parts(state);
    let there = |part: &Part| parts.iter().any(|(_, known)| known == part);
    state.detail.marks.retain(there);
    state.detail.part = state.detail.part.take().filter(there);
    Vec::new()
}

pub(super) fn act(state: &mut State, action: Action, now: Now) -> Effects {
    let page = state.layout().detail_rows();
    let length = crate::tui::view::detail_length(state);
    // Scrolling ends when the last line is in sight.
    let last = length.saturating_sub(page);
    if state.subject == Subject::Model && matches!(action, Action::Down | Action::Up) {
        step(state, action == Action::Down, page, last);
        return Vec::new();
    }
    if let Some(scroll) = moved(action, state.detail.scroll.min(last), page, last + 1) {
        state.detail.scroll = scroll;
        in_sight(state, page);
        return Vec::new();
    }
    match (action, state.subject) {
        (Action::Back, Subject::Model) => focus(state, Focus::Models),
        (Action::Back, Subject::Job) => focus(state, Focus::Queue),
        (Action::Rescan, _) => return models::act(state, action, now),
        (_, Subject::Job) => return queue::act(state, action, now),
        (Action::Mark, Subject::Model) => mark(state, page, last, now),
        (Action::ClearMarks, Subject::Model) => state.detail.marks.clear(),
        (Action::Delete, Subject::Model) if !state.detail.parts().is_empty() => {
            let Some(model) = state.detail.model.clone() else { return Vec::new() };
            let targets =
                state.detail.parts().into_iter().map(|part| PlanTarget { model: model.clone(), part }).collect();
            return vec![dialogs::stage(state, targets, now)];
        }
        // What is shown is meant, whatever else is marked.
        (_, Subject::Model) => {
            let shown = state.detail.model.iter().cloned().collect();
            return models::on_targets(state, action, shown, now);
        }
    }
    Vec::new()
}

/// One part down or up, or one line where no part is near: the text between parts is read by scrolling.
fn step(state: &mut State, down: bool, page: usize, last: usize) {
    let parts = crate::tui::view::detail_parts(state);
    let scroll = state.detail.scroll.min(last);
    let at = parts.iter().position(|(_, part)| state.detail.part.as_ref() == Some(part));
    let next = match (at, down) {
        (Some(at), true) => Some(at + 1).filter(|next| *next < parts.len()),
        (Some(at), false) => at.checked_sub(1),
        (None, true) => parts.iter().position(|(line, _)| (scroll..scroll + page).contains(line)),
        (None, false) => None,
    };
    match next {
        Some(next) => {
            let (line, part) = &parts[next];
            state.detail.part = Some(part.clone());
            // One more line than the part itself where the way goes on.
            let line = *line;
            if line < scroll {
                state.detail.scroll = line;
            } else if line >= scroll + page {
                state.detail.scroll = (line + 1 - page).min(last);
            }
        }
        None if down => {
            state.detail.scroll = (scroll + 1).min(last);
            in_sight(state, page);
        }
        None => {
            state.detail.part = None;
            state.detail.scroll = scroll.saturating_sub(1);
        }
    }
}

/// A cursor that was scrolled away is given up: no key goes to what is not seen.
fn in_sight(state: &mut State, page: usize) {
    let scroll = state.detail.scroll;
    let parts = crate::tui::view::detail_parts(state);
    let line = parts.iter().find(|(_, part)| state.detail.part.as_ref() == Some(part)).map(|(line, _)| *line);
    if line.is_none_or(|line| !(scroll..scroll + page).contains(&line)) {
        state.detail.part = None;
    }
}

fn mark(state: &mut State, page: usize, last: usize, now: Now) {
    let Some(part) = state.detail.part.clone() else {
        let line = "j goes to the parts of this model; Space marks one";
        state.say(Level::Info, line, now);
        return;
    };
    match state.detail.marks.iter().position(|marked| *marked == part) {
        Some(at) => drop(state.detail.marks.remove(at)),
        None => state.detail.marks.push(part),
    }
    step(state, true, page, last);
}
