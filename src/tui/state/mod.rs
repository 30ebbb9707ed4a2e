//! Everything that the screen is made from. Changed only by [`super::update`], read by [`super::view`].

mod detail;
mod dialog;
mod layout;
mod line;
mod models;
mod notice;
mod queue;
mod watch;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;

pub use detail::{Detail, Subject};
pub use dialog::{Asked, Dialog, FilesDialog, HitsDialog, PlanDialog, PullDialog, SureDialog, SweepDialog};
pub use layout::{Focus, Layout, Said, TABLE};
pub use line::Line;
pub use models::{Models, Scan};
pub use notice::{Level, Notice, Notices, Topic};
pub use queue::Queue;
pub use watch::Watch;

use super::Exit;
use super::keymap::{Keymap, Pane};
use super::msg::{FileSystem, Generation, Now};
use crate::model::memory::{Conditions, HostMemory};
use crate::model::{DestinationKind, StoreKind};

/// How long a store, the hub or a plan may take before the screen says that it does not answer.
pub const PATIENCE: Duration = Duration::from_secs(5);
/// How old the figures of the header may get.
pub const FRESH: Duration = Duration::from_secs(60);

/// Most lines that a notice takes.
const NOTICE_LINES: usize = 2;

/// A request that runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait {
    /// Its number.
    pub generation: Generation,
    /// When it began.
    pub since: Duration,
    /// Whether it takes so long that the screen says so.
    pub slow: bool,
}

/// What does not change while the program runs.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Name of this host.
    pub host: String,
    /// Base folder of the flat store.
    pub models_dir: PathBuf,
    /// Where downloads go unless the pull dialog says otherwise.
    pub destination: DestinationKind,
    /// Stores that a scan asks; they change only when a person asks for the stores of every user.
    pub stores: Vec<(StoreKind, PathBuf)>,
    /// Short names of the catalog.
    pub aliases: BTreeSet<String>,
    /// The hub's address: the page of a model there is a reference.
    pub endpoint: String,
    /// The home folder, for short paths.
    pub home: PathBuf,
    /// Whether the bell rings when the last job has ended.
    pub bell: bool,
    /// Under which conditions models are to fit this host.
    pub fit: Conditions,
    /// Whether the queue is not kept for the next start, as in a demonstration.
    pub fleeting: bool,
    /// In which times of day are told; none is UTC.
    pub zone: Option<TimeZone>,
}

/// Whether the stores of every user are shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Everyone {
    /// Whether they are.
    pub shown: bool,
    /// The request that would change it.
    pub wait: Option<Generation>,
}

/// How soon the screen has to show what changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Dirty {
    /// Nothing changed.
    #[default]
    Clean,
    /// Only progress: it can wait for the next of its few frames a second.
    Progress,
    /// A person should see it at once.
    Now,
}

/// Everything that the screen is made from.
#[derive(Clone, Debug)]
pub struct State {
    /// What does not change.
    pub facts: Facts,
    /// The keys.
    pub keymap: Arc<Keymap>,
    /// Columns and rows.
    pub size: (u16, u16),
    /// The pane that keys go to while no dialog is open.
    pub focus: Focus,
    /// Whether the stores of every user are shown.
    pub everyone: Everyone,
    /// The table of models.
    pub models: Models,
    /// The detail.
    pub detail: Detail,
    /// What the detail is about.
    pub subject: Subject,
    /// The queue.
    pub queue: Queue,
    /// The dialogs, the top one last.
    pub dialogs: Vec<Dialog>,
    /// What the line at the bottom says.
    pub notices: Notices,
    /// File systems, the one with the models folder first.
    pub file_systems: Vec<FileSystem>,
    /// The memory of this host, once it is known.
    pub memory: Option<HostMemory>,
    /// When it is to be read again; `None` while it is being read.
    pub memory_due: Option<Duration>,
    /// When the figures of the header were asked for.
    pub host_asked: Duration,
    /// The request for them that counts.
    pub host_wait: Generation,
    /// The request for holders that counts.
    pub holders_wait: Generation,
    /// Looking for what other programs do to the stores.
    pub watch: Watch,
    /// The time of day when something last happened: ages are shown by it.
    pub wall: Timestamp,
    /// Why the program ends.
    pub exit: Option<Exit>,
    /// How soon the screen has to change.
    pub dirty: Dirty,
    last_generation: u64,
}

impl State {
    /// The state before anything is known.
    #[must_use]
    pub fn new(facts: Facts, keymap: Keymap, size: (u16, u16), now: Now) -> Self {
        Self {
            facts,
            keymap: Arc::new(keymap),
            size,
            focus: Focus::Models,
            everyone: Everyone::default(),
            models: Models::default(),
            detail: Detail::default(),
            subject: Subject::Model,
            queue: Queue::default(),
            dialogs: Vec::new(),
            notices: Notices::default(),
            file_systems: Vec::new(),
            memory: None,
            memory_due: None,
            host_asked: now.at,
            host_wait: Generation::default(),
            holders_wait: Generation::default(),
            watch: Watch::default(),
            wall: now.wall,
            exit: None,
            dirty: Dirty::Now,
            last_generation: 0,
        }
    }

    /// Where keys are looked up now.
    #[must_use]
    pub fn pane(&self) -> Pane {
        if let Some(dialog) = self.dialogs.last() {
            return dialog.pane();
        }
        match self.focus {
            Focus::Models if self.models.filtering => Pane::Filter,
            Focus::Queue if self.queue.filtering => Pane::Filter,
            Focus::Models => Pane::Models,
            Focus::Detail => Pane::Detail,
            Focus::Queue => Pane::Queue,
        }
    }

    /// Where things are.
    #[must_use]
    pub fn layout(&self) -> Layout {
        let columns = usize::from(self.size.0).saturating_sub(4);
        let notice = self.notices.lines(columns, NOTICE_LINES, "~").len();
        let notice = u16::try_from(notice).unwrap_or(0);
        // What is being typed stays in sight, and so does what the notice would cover.
        let typing = self.dialogs.is_empty() && self.pane().takes_text();
        Layout::new(self.size, self.focus, self.queue.shown().len(), Said { lines: notice, above: typing })
    }

    /// A number for a new request.
    pub fn next_generation(&mut self) -> Generation {
        self.last_generation += 1;
        Generation(self.last_generation)
    }

    /// A new request.
    pub fn wait(&mut self, now: Now) -> Wait {
        Wait { generation: self.next_generation(), since: now.at, slow: false }
    }

    /// Says something.
    pub fn say(&mut self, level: Level, text: impl Into<String>, now: Now) {
        self.notices.add(level, Topic::Answer, text, now.at);
    }

    /// Says something that is to be seen, now or after what is said next.
    pub fn tell(&mut self, level: Level, topic: Topic, text: impl Into<String>, now: Now) {
        self.notices.add(level, topic, text, now.at);
    }

    /// The requests that run and have not been called slow, each with a way to call it so.
    pub fn waits_mut(&mut self) -> impl Iterator<Item = &mut Wait> {
        let dialogs = self.dialogs.iter_mut().filter_map(|dialog| match dialog {
            Dialog::Plan(plan) => plan.wait.as_mut(),
            Dialog::Pull(pull) => pull.wait.as_mut().map(|(wait, _)| wait),
            Dialog::Hits(hits) => hits.wait.as_mut(),
            Dialog::Sweep(sweep) => sweep.wait.as_mut(),
            _ => None,
        });
        dialogs.chain(self.detail.wait.as_mut()).filter(|wait| !wait.slow)
    }

    /// When [`super::msg::Msg::Tick`] is wanted, if nothing else happens until then.
    #[must_use]
    pub fn deadline(&self) -> Duration {
        self.look_due().map_or(self.change_due(), |look| look.min(self.change_due()))
    }

    /// When something that is shown changes by itself.
    #[must_use]
    pub fn change_due(&self) -> Duration {
        let dialogs = self.dialogs.iter().filter_map(|dialog| match dialog {
            Dialog::Plan(plan) => plan.wait,
            Dialog::Pull(pull) => pull.wait.map(|(wait, _)| wait),
            Dialog::Hits(hits) => hits.wait,
            Dialog::Sweep(sweep) => sweep.wait,
            _ => None,
        });
        let waits = dialogs.chain(self.detail.wait).filter(|wait| !wait.slow).map(|wait| wait.since + PATIENCE);
        let scan = self.models.scan.since.filter(|_| !self.models.scan.checked).map(|since| since + PATIENCE);
        let figures = self.host_asked + FRESH;
        waits.chain(scan).chain(self.detail.due).chain(self.memory_due).fold(figures, Duration::min)
    }

    /// When the stores are to be looked at; `None` while that would be in the way of something, or see what this program does itself.
    #[must_use]
    pub fn look_due(&self) -> Option<Duration> {
        let quiet = self.models.scan.since.is_none() && self.dialogs.is_empty() && self.queue.unfinished().0 == 0;
        self.watch.due.filter(|_| quiet)
    }
}
