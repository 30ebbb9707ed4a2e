//! The loop: messages in, effects out, a frame when something changed.
//!
//! It waits for one message, takes every other one that is ready, and draws at most once for all of them. It never
//! waits for disk or network: effects run on threads and tasks whose answers are messages.

mod clipboard;
mod frames;
mod lane;
mod offer;
mod rows;
mod start;
mod threads;
mod work;

use std::time::{Duration, Instant};

use jiff::Timestamp;

use self::frames::Frames;
use self::start::{facts, keymap, look};
use self::threads::threads;
use self::work::Work;
use super::input::Input;
use super::msg::{Msg, Now};
use super::signals::Notice;
use super::state::{Level, State};
use super::terminal::{self, Guard};
use super::{Exit, Options, update};

/// Rows of a scan are shown together this often.
const BATCH: Duration = Duration::from_millis(50);
/// Messages that are taken before a frame is due, so that a flood cannot starve the screen.
const BURST: usize = 10_000;

/// Runs the screen. See [`super::run`].
pub(super) async fn run(options: Options) -> anyhow::Result<Exit> {
    let start = Instant::now();
    let now = || Now { at: start.elapsed(), wall: Timestamp::now() };
    let (keymap, wrong_keys) = keymap(&options.settings.paths.config);
    let look = look(options.color, options.ascii, options.surroundings);
    let mut state = State::new(facts(&options), keymap, terminal::size(), now());
    if let Some(line) = options.notice {
        state.say(Level::Warn, line, now());
    }
    state.everyone.shown = options.inventory.has_all_users();
    for note in options.inventory.notes() {
        state.say(Level::Warn, note, now());
    }
    for line in wrong_keys {
        state.say(Level::Warn, format!("keymap.toml: {line}"), now());
    }

    let guard = Guard::enter(options.settings.screen.mouse)?;
    let mut frames = Frames::new(look, options.surroundings.remote, start);
    // Something is on the screen before anybody asks the disk.
    let msg = frames.draw(&mut state, now)?;
    let queue_file = options.settings.paths.state.join("queue.json");
    let mut work = Work::new(
        options.jobs,
        options.inventory,
        options.provisioner,
        options.memory,
        queue_file,
        options.surroundings.multiplexer,
    );
    let (mut inputs, mut notices, _threads) = threads(start)?;
    let mut updates = work.jobs.subscribe();
    let mut jobs_alive = true;
    let mut rows_at: Option<Duration> = None;
    let mut rows_taken = Duration::ZERO;

    let mut effects = update::start(&mut state, now());
    effects.extend(msg.map(|msg| update::update(&mut state, msg, now())).unwrap_or_default());
    loop {
        for effect in std::mem::take(&mut effects) {
            if frames.perform(&effect, &mut state, &guard, work.multiplexer)? {
                continue;
            }
            if let Some(msg) = work.perform(effect) {
                effects.extend(update::update(&mut state, msg, now()));
            }
        }
        if !effects.is_empty() {
            continue;
        }
        if let Some(exit) = state.exit {
            return Ok(exit);
        }
        guard.drawn_by_this_thread();
        if frames.due(&state).is_some_and(|due| due <= start.elapsed()) {
            let drawn = frames.draw(&mut state, now)?;
            effects.extend(drawn.map(|msg| update::update(&mut state, msg, now())).unwrap_or_default());
            continue;
        }
        let wake = [Some(state.deadline()), frames.due(&state), rows_at].into_iter().flatten().min();
        let wake = start + wake.unwrap_or(Duration::from_secs(3600));
        let mut arrived: Vec<(Msg, Now)> = Vec::new();
        tokio::select! {
            biased;
            Some(notice) = notices.recv() => arrived.extend(noticed(notice, &guard)?.into_iter().map(|msg| (msg, now()))),
            Some((at, input)) = inputs.recv() => arrived.push(typed(at, input)),
            Some(reply) = work.replies.recv() => arrived.extend(work.took(reply).map(|msg| (msg, now()))),
            update = updates.next(), if jobs_alive => match update {
                Some(update) => arrived.push((Msg::Jobs(update), now())),
                None => {
                    jobs_alive = false;
                    arrived.push((Msg::Trouble("the worker has ended; restart the program".to_owned()), now()));
                }
            },
            () = work.rows.news() => rows_at = rows_at.or(Some(rows_taken + BATCH)),
            () = tokio::time::sleep_until(wake.into()) => {}
        }
        while arrived.len() < BURST
            && let Ok((at, input)) = inputs.try_recv()
        {
            arrived.push(typed(at, input));
        }
        while arrived.len() < BURST
            && let Ok(reply) = work.replies.try_recv()
        {
            arrived.extend(work.took(reply).map(|msg| (msg, now())));
        }
        while arrived.len() < BURST
            && let Some(update) = updates.try_next()
        {
            arrived.push((Msg::Jobs(update), now()));
        }
        if rows_at.is_some_and(|at| at <= start.elapsed() || work.rows.is_done()) {
            rows_at = None;
            rows_taken = start.elapsed();
            arrived.extend(work.rows.take().into_iter().map(|msg| (msg, now())));
        }
        if state.deadline() <= start.elapsed() {
            arrived.push((Msg::Tick, now()));
        }
        for (msg, at) in arrived {
            effects.extend(update::update(&mut state, msg, at));
            if state.exit.is_some() {
                break;
            }
        }
    }
}

fn typed(at: Duration, input: Input) -> (Msg, Now) {
    let now = Now { at, wall: Timestamp::now() };
    match input {
        Input::Key(key) => (Msg::Key(key), now),
        Input::Paste(text) => (Msg::Paste(text), now),
        Input::Mouse(mouse) => (Msg::Mouse(mouse), now),
    }
}

fn noticed(notice: Notice, guard: &Guard) -> std::io::Result<Vec<Msg>> {
    let (columns, rows) = terminal::size();
    Ok(match notice {
        Notice::Resized => vec![Msg::Resize(columns, rows)],
        Notice::Continued => {
            guard.enter_again()?;
            vec![Msg::Resize(columns, rows), Msg::Continued]
        }
        Notice::End(signal) => vec![Msg::End(signal)],
    })
}
