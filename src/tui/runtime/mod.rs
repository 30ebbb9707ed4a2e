//! The loop: messages in, effects out, a frame when something changed.
//!
//! It waits for one message, takes every other one that is ready, and draws at most once for all of them. It never
//! waits for disk or network: effects run on threads and tasks whose answers are messages.

mod clipboard;
mod lane;
mod offer;
mod rows;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use jiff::tz::TimeZone;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;

use super::effect::Effect;
use super::input::{self, Input};
use super::keymap::Keymap;
use super::msg::{FileSystem, Generation, Msg, Now, Stores};
use super::screen::Screen;
use super::signals::{self, Notice};
use super::state::{Dirty, Facts, Level, State};
use super::terminal::{self, Guard};
use super::theme::{Look, Tier};
use super::{ColorMode, Exit, Options, Surroundings, leave, update, view};
use crate::disk::{regular, space};
use crate::error::{Error, Result};
use crate::hub::SearchQuery;
use crate::jobs::{self, JobSpec, Jobs};
use crate::machine::{self, MemoryProbe, Mounts};
use crate::model::{StoreKind, text};
use crate::provisioner::{Inventory, ModelProvisioner};
use crate::store::Row;
use crate::store::Store as _;
use lane::Lane;
use rows::Rows;

/// At most one frame in this time, however much happens.
const FRAME: Duration = Duration::from_millis(16);
/// Frames that only move bars: four a second, two over SSH.
const PROGRESS: Duration = Duration::from_millis(250);
const PROGRESS_REMOTE: Duration = Duration::from_millis(500);
/// Rows of a scan are shown together this often.
const BATCH: Duration = Duration::from_millis(50);
/// Hits that a search asks for.
const HITS: usize = 50;
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

/// The built-in keys, with `keymap.toml` of the configuration folder over them.
fn keymap(config: &Path) -> (Keymap, Vec<String>) {
    /// Larger files are no keymap.
    const MAX: u64 = 256 * 1024;
    let path = config.join("keymap.toml");
    let read = || -> std::io::Result<Option<String>> {
        match regular::read(&path, MAX) {
            Ok(Some(bytes)) => String::from_utf8(bytes)
                .map(Some)
                .map_err(|_| std::io::Error::new(std::io::ErrorKind::InvalidData, "it is not UTF-8 text")),
            Ok(None) => Err(std::io::Error::other("the file is too large")),
            Err(error) if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    };
    match read() {
        Ok(Some(file)) => Keymap::with_overrides(&file),
        Ok(None) => (Keymap::built_in(), Vec::new()),
        Err(error) => (Keymap::built_in(), vec![error.to_string()]),
    }
}

fn look(color: ColorMode, ascii: bool, surroundings: Surroundings) -> Look {
    let tier = match color {
        ColorMode::Never => Tier::None,
        ColorMode::Auto if surroundings.no_color => Tier::None,
        ColorMode::Auto | ColorMode::Always if surroundings.true_color => Tier::Rich,
        ColorMode::Auto | ColorMode::Always => Tier::Sixteen,
    };
    Look::new(tier, ascii || !surroundings.unicode)
}

fn facts(options: &Options) -> Facts {
    Facts {
        host: text::printable(&machine::hostname()),
        models_dir: options.settings.models_dir.clone(),
        destination: options.settings.destination,
        stores: stores_of(&options.inventory),
        aliases: options.provisioner.catalog().entries().iter().map(|entry| entry.alias.clone()).collect(),
        endpoint: options.settings.hub.endpoint.clone(),
        home: options.settings.paths.home.clone(),
        bell: options.settings.screen.bell,
        fit: options.settings.fit,
        fleeting: options.fleeting,
        zone: Some(TimeZone::system()),
    }
}

fn stores_of(inventory: &Inventory) -> Vec<(StoreKind, PathBuf)> {
    inventory.stores().iter().map(|store| (store.kind(), store.root().to_owned())).collect()
}

/// Frames and when they are due.
struct Frames {
    screen: Screen,
    look: Look,
    start: Instant,
    last: Option<Duration>,
    progress: Duration,
}

impl Frames {
    fn new(look: Look, remote: bool, start: Instant) -> Self {
        let progress = if remote { PROGRESS_REMOTE } else { PROGRESS };
        Self { screen: Screen::default(), look, start, last: None, progress }
    }

    /// When the next frame is due.
    fn due(&self, state: &State) -> Option<Duration> {
        let gap = match state.dirty {
            Dirty::Clean => return None,
            Dirty::Progress => self.progress,
            Dirty::Now => FRAME,
        };
        Some(self.last.map_or(Duration::ZERO, |last| last + gap))
    }

    /// Draws, and writes what changed, if anything did. What was drawn before stands as it is then, so that questions on
    /// it can be answered all the same.
    fn draw(&mut self, state: &mut State, now: impl Fn() -> Now) -> std::io::Result<Option<Msg>> {
        state.dirty = Dirty::Clean;
        let (width, height) = state.size;
        let mut buffer = Buffer::empty(Rect::new(0, 0, width, height));
        let caret = view::draw(state, &self.look, &mut buffer);
        let bytes = self.screen.frame(buffer, caret)?;
        if !bytes.is_empty() {
            write(bytes)?;
        }
        self.last = Some(now().at.max(self.start.elapsed()));
        Ok(Some(Msg::Drawn))
    }

    /// Performs what is about the terminal itself; `false` for everything else.
    fn perform(
        &mut self,
        effect: &Effect,
        state: &mut State,
        guard: &Guard,
        multiplexer: bool,
    ) -> std::io::Result<bool> {
        match effect {
            Effect::Redraw => {}
            Effect::Bell => {
                write(b"\x07")?;
                return Ok(true);
            }
            Effect::Copy(text) => {
                write(&clipboard::sequence(text, multiplexer))?;
                return Ok(true);
            }
            Effect::Suspend => {
                terminal::restore();
                // The whole group: whoever started this program in the same job has to stop with it, or the shell
                // never gets the terminal back.
                let _ = rustix::process::kill_current_process_group(rustix::process::Signal::TSTP);
                guard.enter_again()?;
                state.size = terminal::size();
            }
            _ => return Ok(false),
        }
        self.screen.forget();
        state.dirty = Dirty::Now;
        Ok(true)
    }
}

/// Writes to the terminal; one that is gone ends the process.
fn write(bytes: &[u8]) -> std::io::Result<()> {
    let gone = |error: &std::io::Error| {
        let code = error.raw_os_error();
        code == Some(rustix::io::Errno::IO.raw_os_error()) || error.kind() == std::io::ErrorKind::BrokenPipe
    };
    terminal::write(bytes).inspect_err(|error| {
        if gone(error) {
            leave::terminal_is_gone();
        }
    })
}

/// Ends the threads when it is dropped.
struct Threads {
    _stop: [std::io::PipeWriter; 2],
    signals: CancellationToken,
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.signals.cancel();
    }
}

type Channels = (mpsc::Receiver<(Duration, Input)>, mpsc::Receiver<Notice>, Threads);

/// Starts the threads that listen: to the terminal, to its end, to signals.
fn threads(start: Instant) -> std::io::Result<Channels> {
    let spawn = |name: &str, body: Box<dyn FnOnce() + Send>| {
        std::thread::Builder::new().name(name.to_owned()).spawn(body).map(|_| ())
    };
    // Keys that nobody takes for so long that these fill up are dropped: they were typed blindly.
    let (keys, inputs) = mpsc::channel(1024);
    let (signal, notices) = mpsc::channel(64);
    let (reader_stop, stop_reader) = std::io::pipe()?;
    let (watch_stop, stop_watch) = std::io::pipe()?;
    let signals = CancellationToken::new();
    let stop = signals.clone();
    spawn("watch", Box::new(move || leave::watch(&watch_stop)))?;
    spawn(
        "signals",
        Box::new(move || {
            let sink = |notice| {
                let _ = signal.try_send(notice);
            };
            if let Err(error) = signals::listen(stop, sink) {
                tracing::error!("signals are not handled: {error}");
            }
        }),
    )?;
    spawn(
        "input",
        Box::new(move || {
            input::read(start, &reader_stop, |at, input| {
                let _ = keys.try_send((at, input));
            });
        }),
    )?;
    Ok((inputs, notices, Threads { _stop: [stop_reader, stop_watch], signals }))
}

/// Kinds of blocking requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Look,
    Holders,
    Details,
    Plan,
    Sweep,
    Host,
    Stores,
    Memory,
}

/// What comes back from threads and tasks.
enum Reply {
    Msg(Msg),
    Ended(Kind, u64),
}

/// Performs effects.
struct Work {
    jobs: Arc<dyn Jobs>,
    inventory: Inventory,
    provisioner: ModelProvisioner,
    /// The queue on disk, which another process may keep.
    queue_file: PathBuf,
    multiplexer: bool,
    memory: MemoryProbe,
    lanes: BTreeMap<Kind, Lane>,
    rows: Arc<Rows>,
    scan: Option<CancellationToken>,
    asking: Option<AbortHandle>,
    sender: mpsc::Sender<Reply>,
    replies: mpsc::Receiver<Reply>,
}

impl Drop for Work {
    fn drop(&mut self) {
        if let Some(scan) = self.scan.take() {
            scan.cancel();
        }
        if let Some(asking) = self.asking.take() {
            asking.abort();
        }
    }
}

impl Work {
    fn new(
        jobs: Arc<dyn Jobs>,
        inventory: Inventory,
        provisioner: ModelProvisioner,
        memory: MemoryProbe,
        queue_file: PathBuf,
        multiplexer: bool,
    ) -> Self {
        let (sender, replies) = mpsc::channel(64);
        Self {
            jobs,
            inventory,
            provisioner,
            queue_file,
            multiplexer,
            memory,
            lanes: BTreeMap::new(),
            rows: Arc::default(),
            scan: None,
            asking: None,
            sender,
            replies,
        }
    }

    /// Starts an effect; gives the message of one that is done at once.
    fn perform(&mut self, effect: Effect) -> Option<Msg> {
        match effect {
            Effect::Scan(generation) => {
                // Beside the scan: what changes while it runs is seen by the next look.
                self.look(generation);
                self.scan(generation)
            }
            Effect::Look(generation) => {
                self.look(generation);
                None
            }
            Effect::AllUsers(generation, all) => {
                let inventory = self.inventory.clone();
                self.block(Kind::Stores, move || {
                    inventory.set_all_users(all);
                    let (stores, notes) = (stores_of(&inventory), inventory.notes());
                    Msg::Stores(generation, Stores { stores, all_users: inventory.has_all_users(), notes })
                });
                None
            }
            Effect::FindHolders(generation, rows) => {
                let inventory = self.inventory.clone();
                self.block(Kind::Holders, move || {
                    let mut rows: Vec<Row> = rows.iter().map(|row| row.as_ref().clone()).collect();
                    inventory.look_for_holders(&mut rows);
                    let held = rows.into_iter().filter_map(|row| Some((row.model.identity, row.model.in_use_by?)));
                    Msg::Holders(generation, held.collect())
                });
                None
            }
            Effect::Details(generation, model) => {
                let inventory = self.inventory.clone();
                self.block(Kind::Details, move || {
                    Msg::Details(generation, guarded(|| inventory.details(&model)).map(Box::new))
                });
                None
            }
            Effect::Plan(generation, targets) => {
                let inventory = self.inventory.clone();
                self.block(Kind::Plan, move || {
                    Msg::Planned(generation, guarded(|| inventory.plan_deletion(&targets)).map(Box::new))
                });
                None
            }
            Effect::Sweep(generation, downloads) => {
                let (inventory, provisioner) = (self.inventory.clone(), self.provisioner.clone());
                let queue_file = self.queue_file.clone();
                self.block(Kind::Sweep, move || {
                    let look = || {
                        let now = Timestamp::now();
                        let context = jobs::sweep_context(&provisioner, Some(&queue_file), &downloads, now);
                        Ok(Box::new(inventory.sweep(&context, &CancellationToken::new())))
                    };
                    Msg::Swept(generation, guarded(look))
                });
                None
            }
            Effect::ReadHost(generation, folders) => {
                self.block(Kind::Host, move || Msg::Host(generation, file_systems(&folders)));
                None
            }
            Effect::ReadMemory => {
                let probe = self.memory.clone();
                self.block(Kind::Memory, move || Msg::Memory(Box::new(probe.read())));
                None
            }
            Effect::List(generation, reference) => {
                let provisioner = self.provisioner.clone();
                self.ask(async move {
                    let listed = provisioner.remote_files(&reference).await;
                    let result = listed.map_err(|error| error.to_string()).map(|remote| {
                        let folder = provisioner.base_dir();
                        let available = space::space(folder).ok().map(|space| space.available);
                        let mut offer = offer::offer(&reference, &remote, folder, available, &provisioner.endpoint());
                        if let Ok(cache) = provisioner.hf_store() {
                            let free = space::space(cache.root()).ok().map(|space| space.available);
                            offer.cache = Some((cache.root().to_owned(), free));
                        }
                        Box::new(offer)
                    });
                    Msg::Listed(generation, result)
                });
                None
            }
            Effect::Header(generation, header) => {
                let provisioner = self.provisioner.clone();
                self.ask(async move {
                    let told = provisioner.remote_metadata(&header).await;
                    Msg::Header(generation, told.map_err(|error| error.to_string()))
                });
                None
            }
            Effect::Search(generation, text) => {
                let provisioner = self.provisioner.clone();
                self.ask(async move {
                    let found = provisioner.search(&SearchQuery { text, limit: HITS }).await;
                    Msg::Found(generation, found.map_err(|error| error.to_string()))
                });
                None
            }
            Effect::StopAsking => {
                if let Some(asking) = self.asking.take() {
                    asking.abort();
                }
                None
            }
            Effect::Submit(spec) => {
                let deletes = matches!(*spec, JobSpec::Delete { .. } | JobSpec::Sweep { .. });
                let what = match spec.as_ref() {
                    JobSpec::Download(_) => spec.subject(),
                    spec => format!("{} {}", spec.kind(), spec.subject()),
                };
                match self.jobs.submit(*spec) {
                    // What it freed is told soon enough.
                    Ok(_) if deletes => None,
                    Ok(_) => Some(Msg::Submitted(what)),
                    Err(error) => Some(Msg::Refused(error.to_string())),
                }
            }
            Effect::Control(job, control) => self.jobs.control(job, control).err().map(|error| match error {
                Error::Job { reason, .. } => Msg::Unchanged(job, reason),
                error => Msg::Refused(error.to_string()),
            }),
            Effect::ClearEnded => {
                self.jobs.clear();
                None
            }
            Effect::Limit(limit) => {
                self.jobs.set_limit(limit);
                None
            }
            // The terminal's own effects are performed where frames are.
            Effect::Copy(_) | Effect::Bell | Effect::Redraw | Effect::Suspend => None,
        }
    }

    /// What a reply says, if it is more than that a thread is free again.
    fn took(&mut self, reply: Reply) -> Option<Msg> {
        match reply {
            Reply::Msg(msg) => Some(msg),
            Reply::Ended(kind, number) => {
                let done = self.done(kind);
                self.lanes.entry(kind).or_default().ended(number, done);
                None
            }
        }
    }

    fn done(&self, kind: Kind) -> impl Fn(u64) + Send + 'static {
        let sender = self.sender.clone();
        move |number| {
            let _ = sender.blocking_send(Reply::Ended(kind, number));
        }
    }

    /// Runs a blocking request on a thread of its own kind. The threads are not tokio's: one that hangs on a dead disk must
    /// not keep the program from ending.
    fn block(&mut self, kind: Kind, work: impl FnOnce() -> Msg + Send + 'static) {
        let sender = self.sender.clone();
        let done = self.done(kind);
        let work = Box::new(move || {
            let msg = catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
                Msg::Trouble("something broke while the disk was read; the log says where".to_owned())
            });
            let _ = sender.blocking_send(Reply::Msg(msg));
        });
        self.lanes.entry(kind).or_default().submit(work, done);
    }

    /// Asks the hub; a question that runs is dropped.
    fn ask(&mut self, question: impl Future<Output = Msg> + Send + 'static) {
        let sender = self.sender.clone();
        let task = tokio::spawn(async move {
            let msg = question.await;
            let _ = sender.send(Reply::Msg(msg)).await;
        });
        if let Some(before) = self.asking.replace(task.abort_handle()) {
            before.abort();
        }
    }

    fn look(&mut self, generation: Generation) {
        let inventory = self.inventory.clone();
        self.block(Kind::Look, move || Msg::Looked(generation, inventory.fingerprint()));
    }

    fn scan(&mut self, generation: Generation) -> Option<Msg> {
        let cancel = CancellationToken::new();
        if let Some(before) = self.scan.replace(cancel.clone()) {
            before.cancel();
        }
        self.rows.begin(generation);
        let (rows, inventory) = (Arc::clone(&self.rows), self.inventory.clone());
        let sender = self.sender.clone();
        let body = move || {
            let scan = || inventory.scan_at_a_glance_first(&|event| rows.add(generation, event), &cancel);
            if catch_unwind(AssertUnwindSafe(scan)).is_err() {
                let line = "something broke while the stores were scanned; the log says where".to_owned();
                let _ = sender.blocking_send(Reply::Msg(Msg::Trouble(line)));
            }
            rows.end(generation);
        };
        let spawned = std::thread::Builder::new().name("scan".to_owned()).spawn(body);
        spawned.err().map(|error| Msg::Trouble(format!("no thread to scan with: {error}")))
    }
}

/// The result of work whose panic is a failure like any other.
fn guarded<T>(work: impl FnOnce() -> Result<T>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work))
        .map_err(|_| "something broke while this was read; the log says where".to_owned())?
        .map_err(|error| error.to_string())
}

/// The file systems of `folders`, each once, in the order of the folders.
fn file_systems(folders: &[PathBuf]) -> Vec<FileSystem> {
    let mounts = Mounts::read();
    let mut found: Vec<FileSystem> = Vec::new();
    for folder in folders {
        let Ok(space) = space::space(folder) else { continue };
        let mount = mounts.of(folder).map_or_else(|| folder.clone(), |mount| mount.path.clone());
        if !found.iter().any(|known| known.mount == mount) {
            found.push(FileSystem { mount, total: space.total, available: space.available });
        }
    }
    found
}
