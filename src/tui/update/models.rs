//! The table of models: scans, motions, marks, what is done to rows.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Effects, dialogs, focus, moved, read_host};
use crate::jobs::JobSpec;
use crate::model::{Format, Holder, ModelId, text};
use crate::provisioner::{ConvertRequest, PlanTarget, ScanEvent};
use crate::store::fingerprint::Fingerprint;
use crate::tui::action::Action;
use crate::tui::effect::Effect;
use crate::tui::msg::{Generation, Now};
use crate::tui::state::{Dirty, Focus, Level, State, Topic};

/// Begins to scan.
pub(super) fn scan(state: &mut State, now: Now) -> Effect {
    let generation = state.next_generation();
    state.models.scan_begins(generation, now.at);
    Effect::Scan(generation)
}

/// Looks whether another program changed a store.
pub(super) fn look(state: &mut State) -> Effect {
    let generation = state.next_generation();
    state.watch.due = None;
    state.watch.asked = Some(generation);
    Effect::Look(generation)
}

/// What the folders of the stores told, when a scan began or since. What they tell anew is a reason to scan.
pub(super) fn looked(state: &mut State, generation: Generation, seen: Fingerprint, now: Now) -> (Effects, Dirty) {
    let (asked, at_scan) = (state.watch.asked == Some(generation), generation == state.models.scan.generation);
    if !asked && !at_scan {
        return (Vec::new(), Dirty::Clean);
    }
    let changed = asked && state.watch.seen.is_some_and(|before| before != seen);
    state.watch.saw(seen, now.at);
    if changed && state.models.scan.since.is_none() {
        return (vec![scan(state, now), read_host(state, now)], Dirty::Now);
    }
    (Vec::new(), Dirty::Clean)
}

pub(super) fn scanned(state: &mut State, generation: Generation, events: Vec<ScanEvent>) -> Effects {
    if generation != state.models.scan.generation {
        return Vec::new();
    }
    for event in events {
        match event {
            ScanEvent::Row(row) => state.models.add(*row),
            ScanEvent::Store(summary) => state.models.store_done(summary),
        }
    }
    state.models.arrange(state.wall);
    Vec::new()
}

pub(super) fn scan_done(state: &mut State, generation: Generation, now: Now) -> Effects {
    if generation != state.models.scan.generation {
        return Vec::new();
    }
    let again = state.models.scan.ever_done;
    state.models.scan_done();
    state.models.arrange(state.wall);
    if again && state.detail.loaded.is_some() {
        state.detail.due = Some(now.at);
    }
    state.holders_wait = state.next_generation();
    let rows: Vec<_> = state.models.rows().map(Arc::clone).collect();
    vec![Effect::FindHolders(state.holders_wait, rows), read_host(state, now)]
}

pub(super) fn held(state: &mut State, generation: Generation, holders: BTreeMap<ModelId, Vec<Holder>>) -> Effects {
    if generation == state.holders_wait {
        state.models.set_holders(holders);
        state.models.arrange(state.wall);
    }
    Vec::new()
}

pub(super) fn act(state: &mut State, action: Action, now: Now) -> Effects {
    let page = state.layout().model_rows();
    let position = state.models.position().unwrap_or(0);
    if let Some(position) = moved(action, position, page, state.models.shown().len()) {
        state.models.moved = true;
        state.models.place(position);
        return Vec::new();
    }
    match action {
        Action::Open => {
            if state.models.cursor.is_some() {
                state.models.moved = true;
                focus(state, Focus::Detail);
            }
        }
        Action::Back => {
            state.notices.forget(|topic| topic == Topic::Filter);
            state.models.hold();
            state.models.filter.clear();
            state.models.read_filter(state.wall);
        }
        Action::Mark => {
            if let Some(cursor) = state.models.cursor.clone() {
                if !state.models.marks.remove(&cursor) {
                    state.models.marks.insert(cursor);
                }
                state.models.moved = true;
                state.models.place(position + 1);
            }
        }
        Action::MarkAll => {
            let shown: Vec<ModelId> = state.models.shown().iter().map(|row| row.model.identity.clone()).collect();
            state.models.marks.extend(shown);
        }
        Action::ClearMarks => state.models.marks.clear(),
        Action::Filter => state.models.filtering = true,
        Action::Sort => {
            state.models.sort = state.models.sort.next();
            state.models.reverse = false;
            arranged(state, now);
        }
        Action::Reverse => {
            state.models.reverse = !state.models.reverse;
            arranged(state, now);
        }
        Action::Rescan => return vec![scan(state, now), read_host(state, now)],
        _ => {
            let targets = state.models.targets();
            return on_targets(state, action, targets, now);
        }
    }
    Vec::new()
}

fn arranged(state: &mut State, now: Now) {
    state.models.arrange(state.wall);
    let turned = if state.models.reverse { ", reversed" } else { "" };
    state.say(Level::Info, format!("sorted by {}{turned}", state.models.sort.name()), now);
}

/// What is done to rows, wherever it is asked for.
pub(super) fn on_targets(state: &mut State, action: Action, targets: Vec<ModelId>, now: Now) -> Effects {
    let wanted = matches!(action, Action::Delete | Action::Verify | Action::Convert | Action::Copy);
    if wanted && targets.is_empty() {
        state.say(Level::Info, "there is no model here", now);
        return Vec::new();
    }
    match action {
        Action::Delete => {
            let targets = targets.into_iter().map(PlanTarget::whole).collect();
            vec![dialogs::stage(state, targets, now)]
        }
        Action::Verify => vec![Effect::Submit(Box::new(JobSpec::Verify { models: targets, quick: false }))],
        Action::Convert => convert(state, &targets, now),
        Action::Copy => {
            let path =
                state.models.cursor.as_ref().and_then(|id| state.models.get(id)).map(|row| row.model.path.clone());
            path.map_or_else(Vec::new, |path| copy(state, &text::printable_path(&path), now))
        }
        _ => Vec::new(),
    }
}

/// Converts one row, if it is one that can be.
fn convert(state: &mut State, targets: &[ModelId], now: Now) -> Effects {
    let [target] = targets else {
        state.say(Level::Info, "models are converted one at a time; clear the marks", now);
        return Vec::new();
    };
    let format = state.models.get(target).and_then(|row| row.model.format);
    if format != Some(Format::Safetensors) {
        state.say(Level::Info, "only safetensors can be converted to GGUF", now);
        return Vec::new();
    }
    let request = ConvertRequest { reference: target.to_string(), output_type: None, force: false };
    vec![Effect::Submit(Box::new(JobSpec::Convert(request)))]
}

/// Copies a path, and shows it for terminals that do not take it.
pub(super) fn copy(state: &mut State, path: &str, now: Now) -> Effects {
    state.say(Level::Done, format!("copied: {path}"), now);
    vec![Effect::Copy(path.to_owned())]
}
