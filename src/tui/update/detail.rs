//! The detail: it follows the cursor, a short while behind.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Effects, focus, models, moved, queue};
use crate::store::Details;
use crate::tui::action::Action;
use crate::tui::effect::Effect;
use crate::tui::msg::{Generation, Now};
use crate::tui::state::{Detail, Focus, State, Subject};

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
    Vec::new()
}

pub(super) fn act(state: &mut State, action: Action, now: Now) -> Effects {
    let page = state.layout().detail_rows();
    let length = crate::tui::view::detail_length(state);
    // Scrolling ends when the last line is in sight.
    let last = length.saturating_sub(page);
    if let Some(scroll) = moved(action, state.detail.scroll.min(last), page, last + 1) {
        state.detail.scroll = scroll;
        return Vec::new();
    }
    match (action, state.subject) {
        (Action::Back, Subject::Model) => focus(state, Focus::Models),
        (Action::Back, Subject::Job) => focus(state, Focus::Queue),
        (Action::Rescan, _) => return models::act(state, action, now),
        (_, Subject::Job) => return queue::act(state, action, now),
        // What is shown is meant, whatever else is marked.
        (_, Subject::Model) => {
            let shown = state.detail.model.iter().cloned().collect();
            return models::on_targets(state, action, shown, now);
        }
    }
    Vec::new()
}
