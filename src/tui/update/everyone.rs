//! The stores of every user: shown when a person asks for them, and hidden again the same way.

use super::{Effects, models, read_host};
use crate::tui::effect::Effect;
use crate::tui::msg::{Generation, Now, Stores};
use crate::tui::state::{Level, State};

/// Asks for the stores of every user, or for those of this one only.
pub(super) fn toggle(state: &mut State, now: Now) -> Effects {
    let generation = state.next_generation();
    state.everyone.wait = Some(generation);
    let all = !state.everyone.shown;
    if all {
        state.say(Level::Info, "looking at every user's home for models", now);
    }
    vec![Effect::AllUsers(generation, all)]
}

pub(super) fn found(state: &mut State, generation: Generation, found: Stores, now: Now) -> Effects {
    if state.everyone.wait != Some(generation) {
        return Vec::new();
    }
    state.everyone.wait = None;
    state.everyone.shown = found.all_users;
    state.facts.stores = found.stores;
    let key = state.keymap.key(crate::tui::keymap::Pane::Models, crate::tui::action::Action::AllUsers);
    let back = key.map_or_else(String::new, |key| format!("; {key} hides them again"));
    let line = if found.all_users {
        format!("models of every user whose home can be read are shown{back}")
    } else {
        "only this user's stores and those of services are shown".to_owned()
    };
    state.say(Level::Done, line, now);
    for note in found.notes {
        state.say(Level::Warn, note, now);
    }
    vec![models::scan(state, now), read_host(state, now)]
}
