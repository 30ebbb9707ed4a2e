//! Pulling: a reference lists its files, other text searches, a choice goes to the queue.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{Effects, moved};
use crate::hub::SearchHit;
use crate::jobs::JobSpec;
use crate::model::{DestinationKind, Reference};
use crate::provisioner::DownloadRequest;
use crate::store::remote::RemoteRow;
use crate::tui::action::Action;
use crate::tui::effect::Effect;
use crate::tui::msg::{Generation, Now, Offer};
use crate::tui::state::{Asked, Dialog, FilesDialog, HitsDialog, State};

pub(super) fn act(state: &mut State, action: Action, now: Now) -> Effects {
    if action == Action::Close {
        let waited = match state.dialogs.pop() {
            Some(Dialog::Pull(pull)) => pull.wait.is_some(),
            Some(Dialog::Hits(hits)) => hits.wait.is_some(),
            Some(Dialog::Files(files)) => files.is_reading(),
            _ => false,
        };
        return if waited { vec![Effect::StopAsking] } else { Vec::new() };
    }
    let page = usize::from(state.layout().large_dialog().height.saturating_sub(4));
    match state.dialogs.last_mut() {
        Some(Dialog::Pull(_)) if action == Action::Open => submit(state, now),
        Some(Dialog::Hits(dialog)) => {
            if let Some(cursor) = moved(action, dialog.cursor, page, dialog.hits.len()) {
                dialog.cursor = cursor;
            } else if action == Action::Open {
                let Some(hit) = dialog.hits.get(dialog.cursor) else { return Vec::new() };
                let reference = hit.id.clone();
                let wait = state.wait(now);
                if let Some(Dialog::Hits(dialog)) = state.dialogs.last_mut() {
                    dialog.wait = Some(wait);
                    dialog.error = None;
                }
                return vec![Effect::List(wait.generation, reference)];
            }
            Vec::new()
        }
        Some(Dialog::Files(dialog)) => {
            let length = dialog.offer.choices.len();
            if let Some(cursor) = moved(action, dialog.cursor.unwrap_or(0), page, length) {
                // The first step down goes to the first choice, not past it.
                let first = dialog.cursor.is_none() && action == Action::Down;
                dialog.cursor = (length > 0).then_some(if first { 0 } else { cursor });
                dialog.error = None;
                return Vec::new();
            }
            match action {
                Action::Open => return take(state),
                Action::Mark => {
                    let at = dialog.cursor.unwrap_or(0);
                    match dialog.offer.choices.get(at).map(|choice| choice.problem.clone()) {
                        Some(Some(problem)) => dialog.error = Some(problem),
                        Some(None) => {
                            if !dialog.marks.remove(&at) {
                                dialog.marks.insert(at);
                            }
                            dialog.cursor = Some((at + 1).min(length - 1));
                            dialog.error = None;
                        }
                        None => {}
                    }
                }
                Action::Destination if dialog.offer.cache.is_some() => dialog.to = dialog.to.other(),
                Action::Destination => dialog.error = Some("no Hugging Face cache is known here".to_owned()),
                Action::Projector if dialog.offer.projector.is_some() => dialog.mmproj = !dialog.mmproj,
                Action::Projector => dialog.error = Some("this repository has no vision projector".to_owned()),
                _ => {}
            }
            Vec::new()
        }
        _ => Vec::new(),
    }
}

/// Enter in the text field: a whole reference lists its files, other text searches.
fn submit(state: &mut State, now: Now) -> Effects {
    let Some(Dialog::Pull(pull)) = state.dialogs.last() else { return Vec::new() };
    let text = pull.line.text().trim().to_owned();
    if text.is_empty() || pull.wait.is_some() {
        return Vec::new();
    }
    let asked = match meaning(state, &text) {
        Ok(asked) => asked,
        Err(error) => {
            if let Some(Dialog::Pull(pull)) = state.dialogs.last_mut() {
                pull.error = Some(error);
            }
            return Vec::new();
        }
    };
    let wait = state.wait(now);
    if let Some(Dialog::Pull(pull)) = state.dialogs.last_mut() {
        pull.wait = Some((wait, asked));
        pull.error = None;
    }
    vec![match asked {
        Asked::Files => Effect::List(wait.generation, text),
        Asked::Hits => Effect::Search(wait.generation, text),
    }]
}

/// Whether text names a model or describes one. What looks like a name but is malformed is an error, not a search.
fn meaning(state: &State, text: &str) -> Result<Asked, String> {
    let name = text.split([':', '@']).next().unwrap_or(text);
    let looks_like_a_name = text.contains('/') || state.facts.aliases.contains(name);
    if !looks_like_a_name || text.contains(' ') {
        return Ok(Asked::Hits);
    }
    Reference::parse_at(text, &state.facts.endpoint).map(|_| Asked::Files).map_err(|error| error.to_string())
}

/// Enter on the choices: they go to the queue, a job for each set of weights and one for all single files, and every
/// dialog of the pull closes.
fn take(state: &mut State) -> Effects {
    let Some(Dialog::Files(dialog)) = state.dialogs.last_mut() else { return Vec::new() };
    let chosen = dialog.chosen();
    if chosen.is_empty() {
        if !dialog.offer.choices.is_empty() {
            dialog.error = Some("nothing is chosen yet: choose one with j and k".to_owned());
        }
        return Vec::new();
    }
    if let Some(problem) = chosen.iter().find_map(|choice| choice.problem.clone()) {
        dialog.error = Some(problem);
        return Vec::new();
    }
    let request = |reference: &str, files: Vec<String>| DownloadRequest {
        reference: reference.to_owned(),
        mmproj: dialog.mmproj && files.is_empty(),
        files,
        to: dialog.to,
        force: false,
    };
    let mut requests: Vec<DownloadRequest> = chosen
        .iter()
        .filter(|choice| choice.file.is_none())
        .map(|choice| request(&choice.reference, Vec::new()))
        .collect();
    let files: Vec<String> = chosen.iter().filter_map(|choice| choice.file.clone()).collect();
    if let Some(first) = chosen.iter().find(|choice| choice.file.is_some()) {
        requests.push(request(&first.reference, files));
    }
    let stop = dialog.is_reading().then_some(Effect::StopAsking);
    state.dialogs.retain(|dialog| !matches!(dialog, Dialog::Pull(_) | Dialog::Hits(_) | Dialog::Files(_)));
    let submits = requests.into_iter().map(|request| Effect::Submit(Box::new(JobSpec::Download(request))));
    stop.into_iter().chain(submits).collect()
}

pub(super) fn listed(state: &mut State, generation: Generation, result: Result<Box<Offer>, String>) -> Effects {
    let waits = match state.dialogs.last_mut() {
        Some(Dialog::Pull(pull)) => match pull.wait {
            Some((wait, _)) if wait.generation == generation => {
                pull.wait = None;
                pull.error = result.as_ref().err().cloned();
                true
            }
            _ => false,
        },
        Some(Dialog::Hits(hits)) if hits.wait.is_some_and(|wait| wait.generation == generation) => {
            hits.wait = None;
            hits.error = result.as_ref().err().cloned();
            true
        }
        _ => false,
    };
    if let (true, Ok(offer)) = (waits, result) {
        let (cursor, error) = (offer.default, offer.note.clone());
        let to = if offer.cache.is_some() { state.facts.destination } else { DestinationKind::Flat };
        let wait = state.next_generation();
        let header = offer.header.clone();
        state.dialogs.push(Dialog::Files(FilesDialog {
            offer,
            wait,
            told: None,
            cursor,
            marks: BTreeSet::new(),
            to,
            mmproj: false,
            error,
        }));
        return header.into_iter().map(|header| Effect::Header(wait, Box::new(header))).collect();
    }
    Vec::new()
}

/// What the headers of the repository tell whose files are shown.
pub(super) fn header(state: &mut State, generation: Generation, result: Result<Arc<RemoteRow>, String>) -> Effects {
    if let Some(Dialog::Files(dialog)) = state.dialogs.last_mut()
        && dialog.wait == generation
    {
        dialog.told = Some(result);
    }
    Vec::new()
}

pub(super) fn found(state: &mut State, generation: Generation, result: Result<Vec<SearchHit>, String>) -> Effects {
    let Some(Dialog::Pull(pull)) = state.dialogs.last_mut() else { return Vec::new() };
    if pull.wait.is_none_or(|(wait, _)| wait.generation != generation) {
        return Vec::new();
    }
    pull.wait = None;
    match result {
        Ok(hits) if hits.is_empty() => pull.error = Some("nothing on the hub has all of these words".to_owned()),
        Ok(hits) => {
            let text = pull.line.text().trim().to_owned();
            state.dialogs.push(Dialog::Hits(HitsDialog { text, hits, cursor: 0, wait: None, error: None }));
        }
        Err(error) => pull.error = Some(error),
    }
    Vec::new()
}
