//! The one place where the state changes: a fact goes in, work to start comes out. No clock, no channel, no disk.

mod detail;
mod dialogs;
mod everyone;
mod expiry;
mod jobs;
mod memory;
mod models;
mod pull;
mod queue;
mod sweep;

use ratatui::layout::{Position, Rect};

use super::Exit;
use super::action::Action;
use super::effect::Effect;
use super::input::{Gesture, Mouse};
use super::keymap::{Code, Key, Pane};
use super::msg::{Msg, Now};
use super::state::{Dialog, Dirty, FRESH, Focus, Level, Line, PATIENCE, State, Subject, Topic};

pub use expiry::Agreed;

/// Work to start.
pub type Effects = Vec<Effect>;

/// What has to be started once, before the first message.
#[must_use]
pub fn start(state: &mut State, now: Now) -> Effects {
    let mut effects = vec![models::scan(state, now)];
    effects.push(read_host(state, now));
    effects.push(Effect::ReadMemory);
    effects
}

/// Takes a fact in.
pub fn update(state: &mut State, msg: Msg, now: Now) -> Effects {
    let mut dirty = Dirty::Now;
    let effects = match msg {
        Msg::Key(key) => on_key(state, key, now),
        Msg::Paste(text) => on_paste(state, &text, now),
        Msg::Mouse(mouse) => on_mouse(state, mouse, now),
        Msg::Resize(columns, rows) => {
            state.size = (columns, rows);
            Vec::new()
        }
        Msg::Drawn => {
            dialogs::drawn(state, now);
            return Vec::new();
        }
        Msg::Continued => {
            // Much may have happened meanwhile.
            state.watch.due = state.watch.due.map(|_| now.at);
            vec![Effect::Redraw]
        }
        Msg::End(signal) => {
            state.exit = Some(Exit::Signal(signal));
            Vec::new()
        }
        Msg::Tick => {
            let (effects, change) = on_tick(state, now);
            dirty = change;
            effects
        }
        Msg::Looked(generation, seen) => {
            let (effects, change) = models::looked(state, generation, seen, now);
            dirty = change;
            effects
        }
        Msg::Scanned(generation, events) => models::scanned(state, generation, events),
        Msg::ScanDone(generation) => models::scan_done(state, generation, now),
        Msg::Holders(generation, holders) => models::held(state, generation, holders),
        Msg::Stores(generation, stores) => everyone::found(state, generation, stores, now),
        Msg::Details(generation, result) => detail::loaded(state, generation, result),
        Msg::Planned(generation, result) => dialogs::planned(state, generation, result, now),
        Msg::Swept(generation, result) => sweep::found(state, generation, result, now),
        Msg::Listed(generation, result) => pull::listed(state, generation, result),
        Msg::Header(generation, result) => pull::header(state, generation, result),
        Msg::Found(generation, result) => pull::found(state, generation, result),
        Msg::Host(generation, file_systems) => {
            if generation != state.host_wait {
                return Vec::new();
            }
            // Figures that read the same are drawn the same, so nothing is written.
            state.file_systems = file_systems;
            Vec::new()
        }
        Msg::Memory(found) => {
            dirty = memory::read(state, *found, now);
            Vec::new()
        }
        Msg::Jobs(update) => {
            let (effects, change) = jobs::updated(state, update, now);
            dirty = change;
            effects
        }
        Msg::Submitted(what) => {
            state.say(Level::Info, format!("queued: {what}"), now);
            Vec::new()
        }
        Msg::Refused(why) => {
            state.say(Level::Bad, why, now);
            Vec::new()
        }
        Msg::Unchanged(job, why) => {
            let job = state.queue.snapshot.jobs.iter().find(|status| status.id == job);
            let named = job.map_or_else(|| "the job".to_owned(), |job| job.spec.subject());
            state.say(Level::Warn, format!("{named}: {why}"), now);
            Vec::new()
        }
        Msg::Trouble(line) => {
            state.tell(Level::Warn, Topic::Trouble, line, now);
            Vec::new()
        }
    };
    state.dirty = state.dirty.max(dirty);
    settle(state, now, effects)
}

/// Keeps cursors on the screen and the detail on its row.
fn settle(state: &mut State, now: Now, mut effects: Effects) -> Effects {
    state.queue.settle();
    let layout = state.layout();
    let position = state.models.position().unwrap_or(0);
    state.models.offset = scrolled(state.models.offset, position, layout.model_rows(), state.models.shown().len());
    let position = state.queue.position().unwrap_or(0);
    state.queue.offset = scrolled(state.queue.offset, position, layout.queue_rows(), state.queue.shown().len());
    detail::follow(state, now);
    if state.detail.due.is_some_and(|due| due <= now.at) {
        effects.extend(detail::ask(state, now));
    }
    effects
}

/// The first row on a screen of `rows` that keeps row `position` of `length` in sight and moves as little as it can.
fn scrolled(offset: usize, position: usize, rows: usize, length: usize) -> usize {
    let offset = offset.min(length.saturating_sub(rows));
    if rows == 0 || position < offset {
        return position.min(length.saturating_sub(1));
    }
    offset.max((position + 1).saturating_sub(rows))
}

/// The place that a motion leads to, among `length` rows of which `page` are on the screen; `None` for other actions.
fn moved(action: Action, position: usize, page: usize, length: usize) -> Option<usize> {
    let half = (page / 2).max(1);
    let last = length.saturating_sub(1);
    Some(match action {
        Action::Up => position.saturating_sub(1),
        Action::Down => (position + 1).min(last),
        Action::HalfPageUp => position.saturating_sub(half),
        Action::HalfPageDown => (position + half).min(last),
        Action::First => 0,
        Action::Last => last,
        _ => return None,
    })
}

fn on_tick(state: &mut State, now: Now) -> (Effects, Dirty) {
    let mut effects = Vec::new();
    // Looking at the stores changes nothing on the screen.
    let change = if state.change_due() <= now.at { Dirty::Now } else { Dirty::Clean };
    if state.look_due().is_some_and(|due| due <= now.at) {
        effects.push(models::look(state));
    }
    for wait in state.waits_mut() {
        wait.slow = now.at.saturating_sub(wait.since) >= PATIENCE;
    }
    let scan = &state.models.scan;
    if !scan.checked && scan.since.is_some_and(|since| now.at.saturating_sub(since) >= PATIENCE) {
        let stores = state.facts.stores.clone();
        state.models.note_silence(&stores);
    }
    effects.extend(memory::due(state, now));
    if now.at.saturating_sub(state.host_asked) >= FRESH {
        effects.push(read_host(state, now));
    }
    (effects, change)
}

/// Reads the figures of the header anew: the file system of the models folder, then those of the rows.
fn read_host(state: &mut State, now: Now) -> Effect {
    state.host_asked = now.at;
    state.wall = now.wall;
    state.host_wait = state.next_generation();
    let mut folders = vec![state.facts.models_dir.clone()];
    for row in state.models.rows() {
        if let Some(mount) = &row.model.mount
            && !folders.contains(mount)
            && folders.len() < 8
        {
            folders.push(mount.clone());
        }
    }
    Effect::ReadHost(state.host_wait, folders)
}

fn on_paste(state: &mut State, text: &str, now: Now) -> Effects {
    let pane = state.pane();
    if !pane.takes_text() {
        state.say(Level::Info, "pasted text means nothing here; p opens a field for a reference", now);
        return Vec::new();
    }
    if let Some(line) = field(state) {
        line.insert(text);
    }
    edited(state, now)
}

fn on_key(state: &mut State, key: Key, now: Now) -> Effects {
    state.notices.dismiss(now.at);
    state.wall = now.wall;
    let pane = state.pane();
    let Some(action) = state.keymap.action(pane, key) else {
        if let (true, Some(c)) = (pane.takes_text(), key.typed()) {
            if let Some(line) = field(state) {
                line.push(c);
            }
            return edited(state, now);
        }
        // Over a slow link Escape and the next key arrive together, and are then no other than that key with Alt. What may
        // be the beginning of a longer sequence stays without meaning.
        if key.alt && !matches!(key.code, Code::Char('[' | 'O')) {
            let mut effects = on_key(state, Key::plain(Code::Esc), now);
            effects.extend(on_key(state, Key { alt: false, ..key }, now));
            return effects;
        }
        return Vec::new();
    };
    let mut effects = act(state, pane, action, now);
    // The figures of the header are as old as the last key at most, but not read for each of many keys.
    if now.at.saturating_sub(state.host_asked).as_secs() >= 5 {
        effects.push(read_host(state, now));
    }
    effects
}

/// The wheel moves where keys would; a click goes to the row or the pane under it. Nothing is started by a click.
fn on_mouse(state: &mut State, mouse: Mouse, now: Now) -> Effects {
    let (pane, point) = (state.pane(), Position::new(mouse.column, mouse.row));
    let wheel = match mouse.gesture {
        Gesture::WheelUp => Some(Action::Up),
        Gesture::WheelDown => Some(Action::Down),
        Gesture::Click => None,
    };
    if let Some(action) = wheel {
        return (0..3).flat_map(|_| act(state, pane, action, now)).collect();
    }
    if !state.dialogs.is_empty() || pane.takes_text() {
        return Vec::new();
    }
    let layout = state.layout();
    let row_in = |area: Rect| usize::from(mouse.row - area.y);
    if let Some(area) = layout.models.filter(|area| area.contains(point)) {
        focus(state, Focus::Models);
        let row = row_in(area).checked_sub(1).map(|row| state.models.offset + row);
        if let Some(row) = row.filter(|row| *row < state.models.shown().len()) {
            state.models.moved = true;
            state.models.place(row);
        }
    } else if layout.detail.is_some_and(|area| area.contains(point)) {
        focus(state, Focus::Detail);
    } else if layout.queue.contains(point) {
        focus(state, Focus::Queue);
        let row = state.queue.offset + row_in(layout.queue);
        if row < state.queue.shown().len() {
            state.queue.moved = true;
            state.queue.place(row);
        }
    }
    Vec::new()
}

/// What an action does in a pane.
fn act(state: &mut State, pane: Pane, action: Action, now: Now) -> Effects {
    match action {
        Action::Redraw => return vec![Effect::Redraw],
        Action::Suspend => return vec![Effect::Suspend],
        Action::Help => {
            state.dialogs.push(Dialog::Help { scroll: 0 });
            return Vec::new();
        }
        Action::Quit => return quit(state),
        _ => {}
    }
    if pane.takes_text() && edit(state, action) {
        return edited(state, now);
    }
    match pane {
        Pane::Models | Pane::Detail | Pane::Queue => main_action(state, pane, action, now),
        Pane::Filter => filter_action(state, action, now),
        Pane::Plan | Pane::Sure => dialogs::deletion(state, action, now),
        Pane::Pull | Pane::Hits | Pane::Files => pull::act(state, action, now),
        Pane::Sweep => sweep::act(state, action, now),
        Pane::Help => dialogs::help(state, action),
        Pane::Quit => dialogs::quit(state, action),
    }
}

fn main_action(state: &mut State, pane: Pane, action: Action, now: Now) -> Effects {
    let order = [Focus::Models, Focus::Detail, Focus::Queue];
    let at = order.iter().position(|focus| *focus == state.focus).unwrap_or(0);
    match action {
        Action::NextPane => focus(state, order[(at + 1) % 3]),
        Action::PreviousPane => focus(state, order[(at + 2) % 3]),
        Action::ModelsPane => focus(state, Focus::Models),
        Action::DetailPane => focus(state, Focus::Detail),
        Action::QueuePane => focus(state, Focus::Queue),
        Action::AllUsers => return everyone::toggle(state, now),
        Action::Pull => {
            state.dialogs.push(Dialog::Pull(super::state::PullDialog::default()));
        }
        Action::Sweep => return vec![sweep::open(state, now)],
        _ => {
            return match pane {
                Pane::Queue => queue::act(state, action, now),
                Pane::Detail => detail::act(state, action, now),
                _ => models::act(state, action, now),
            };
        }
    }
    Vec::new()
}

/// Gives the keys to a pane.
fn focus(state: &mut State, focus: Focus) {
    match focus {
        Focus::Models => state.subject = Subject::Model,
        Focus::Queue => state.subject = Subject::Job,
        Focus::Detail => {}
    }
    state.focus = focus;
}

fn quit(state: &mut State) -> Effects {
    let (active, _) = state.queue.unfinished();
    if active == 0 {
        state.exit = Some(Exit::Quit);
    } else {
        state.dialogs.push(Dialog::Quit);
    }
    Vec::new()
}

/// The line that is being typed.
fn field(state: &mut State) -> Option<&mut Line> {
    match state.dialogs.last_mut() {
        Some(Dialog::Pull(pull)) => return Some(&mut pull.line),
        Some(_) => return None,
        None => {}
    }
    match state.focus {
        Focus::Models if state.models.filtering => Some(&mut state.models.filter),
        Focus::Queue if state.queue.filtering => Some(&mut state.queue.filter),
        _ => None,
    }
}

/// Edits the line that is being typed; `false` when the action is none of that.
fn edit(state: &mut State, action: Action) -> bool {
    let Some(line) = field(state) else { return false };
    match action {
        Action::Erase => line.erase(),
        Action::EraseForward => line.erase_forward(),
        Action::EraseWord => line.erase_word(),
        Action::EraseLine => line.erase_line(),
        Action::CaretLeft => line.left(),
        Action::CaretRight => line.right(),
        Action::CaretStart => line.start(),
        Action::CaretEnd => line.end(),
        _ => return false,
    }
    true
}

/// The line that is being typed has changed.
fn edited(state: &mut State, now: Now) -> Effects {
    if let Some(Dialog::Pull(pull)) = state.dialogs.last_mut() {
        pull.error = None;
        // What is typed now is not what was asked for.
        return if pull.wait.take().is_some() { vec![Effect::StopAsking] } else { Vec::new() };
    }
    if state.models.filtering {
        state.notices.forget(|topic| topic == Topic::Filter);
        state.models.read_filter(now.wall);
    }
    Vec::new()
}

fn filter_action(state: &mut State, action: Action, now: Now) -> Effects {
    let queue = state.focus == Focus::Queue;
    match action {
        Action::Open if queue => state.queue.filtering = false,
        Action::Close if queue => {
            state.queue.filtering = false;
            state.queue.filter.clear();
        }
        Action::Open => {
            if let Some(error) = state.models.filter_error.clone() {
                state.tell(Level::Warn, Topic::Filter, error, now);
            } else {
                state.models.filtering = false;
                state.models.hold();
            }
        }
        Action::Close => {
            state.notices.forget(|topic| topic == Topic::Filter);
            state.models.filtering = false;
            state.models.hold();
            state.models.filter.clear();
            state.models.read_filter(now.wall);
        }
        _ => {}
    }
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scrolling_keeps_the_row_in_sight_and_moves_little() {
        assert_eq!(scrolled(0, 0, 10, 100), 0);
        assert_eq!(scrolled(0, 10, 10, 100), 1);
        assert_eq!(scrolled(5, 7, 10, 100), 5);
        assert_eq!(scrolled(50, 20, 10, 100), 20);
        assert_eq!(scrolled(50, 3, 10, 4), 0);
        assert_eq!(scrolled(3, 3, 0, 10), 3);
        assert_eq!(scrolled(0, 0, 0, 0), 0);
    }
}
