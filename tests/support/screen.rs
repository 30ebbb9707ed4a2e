//! A screen without a terminal: states, scripts of messages, pictures.
#![allow(dead_code, unreachable_pub, missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;
use ratatui::buffer::Buffer;
use ratatui::layout::{Position, Rect};
use rbee_hive::disk::usage::Usage;
use rbee_hive::jobs::{JobId, JobSpec, JobState, JobStatus, Snapshot, Update};
use rbee_hive::model::{
    Blocked, Format, Holder, Inode, Kept, Model, ModelId, ModelKind, Operation, Plan, Quantization, Step, StoreKind,
    StoreSummary,
};
use rbee_hive::provisioner::{DownloadRequest, ScanEvent};
use rbee_hive::store::Row;
use rbee_hive::tui::effect::Effect;
use rbee_hive::tui::keymap::Keymap;
use rbee_hive::tui::msg::{FileSystem, Generation, Msg, Now};
use rbee_hive::tui::state::{Facts, State};
use rbee_hive::tui::theme::{Look, Tier};
use rbee_hive::tui::{update, view};

pub const MIB: u64 = 1 << 20;
pub const GIB: u64 = 1 << 30;
const DAY: i64 = 86_400;
/// The time of day at the start of every script.
const WALL: i64 = 1_790_000_000;

/// A screen with a clock of its own. Every message is a second after the one before, so that nothing is too early by
/// accident; [`Script::soon`] sends one at the same moment.
pub struct Script {
    pub state: State,
    pub effects: Vec<Effect>,
    pub at: Duration,
}

impl Script {
    pub fn new(columns: u16, rows: u16) -> Self {
        let facts = Facts {
            host: "gpu01".to_owned(),
            models_dir: PathBuf::from("/data/models"),
            destination: rbee_hive::model::DestinationKind::Flat,
            stores: vec![(StoreKind::Flat, PathBuf::from("/data/models")), (StoreKind::Hf, PathBuf::from("/data/hf"))],
            aliases: ["tinyllama".to_owned(), "qwen".to_owned()].into(),
            endpoint: "https://huggingface.co".to_owned(),
            home: PathBuf::from("/home/alice"),
            bell: false,
            fit: rbee_hive::model::memory::Conditions::default(),
            fleeting: false,
            zone: None,
        };
        let at = Duration::ZERO;
        let mut state = State::new(facts, Keymap::built_in(), (columns, rows), now(at));
        let effects = update::start(&mut state, now(at));
        Self { state, effects, at }
    }

    /// With `models` scanned and the file systems read.
    pub fn with(columns: u16, rows: u16, models: Vec<Model>) -> Self {
        let mut script = Self::new(columns, rows);
        script.host();
        script.scanned(models);
        script.done();
        script
    }

    pub fn soon(&mut self, msg: Msg) {
        let effects = update::update(&mut self.state, msg, now(self.at));
        self.effects.extend(effects);
    }

    pub fn send(&mut self, msg: Msg) {
        self.at += Duration::from_secs(1);
        self.soon(msg);
    }

    /// Presses keys, written as in keymap files and separated by spaces; a frame is drawn after each.
    pub fn press(&mut self, keys: &str) {
        for key in keys.split(' ') {
            self.send(Msg::Key(key.parse().unwrap()));
            self.soon(Msg::Drawn);
        }
    }

    /// Types characters one by one.
    pub fn write(&mut self, text: &str) {
        for c in text.chars() {
            self.send(Msg::Key(rbee_hive::tui::keymap::Key::char(c)));
        }
    }

    pub fn scanned(&mut self, models: Vec<Model>) {
        let generation = self.state.models.scan.generation;
        let events = models.into_iter().map(|model| ScanEvent::Row(Box::new(row(model)))).collect();
        self.send(Msg::Scanned(generation, events));
    }

    pub fn store_done(&mut self, store: StoreKind, path: &str, warnings: &[&str]) {
        let summary = StoreSummary {
            store,
            path: PathBuf::from(path),
            disk_bytes: 0,
            models: 0,
            warnings: warnings.iter().map(|line| (*line).to_owned()).collect(),
        };
        self.send(Msg::Scanned(self.state.models.scan.generation, vec![ScanEvent::Store(summary)]));
    }

    pub fn done(&mut self) {
        self.send(Msg::ScanDone(self.state.models.scan.generation));
    }

    pub fn host(&mut self) {
        let file_systems = vec![
            FileSystem { mount: PathBuf::from("/data"), total: 1000 * GIB, available: 151 * GIB },
            FileSystem { mount: PathBuf::from("/"), total: 200 * GIB, available: 150 * GIB },
        ];
        self.send(Msg::Host(self.state.host_wait, file_systems));
    }

    pub fn jobs(&mut self, jobs: Vec<JobStatus>) {
        let snapshot = Snapshot { number: 1, jobs, limit: Some(50 * MIB), warnings: Vec::new() };
        self.send(Msg::Jobs(Update::Snapshot(snapshot)));
    }

    /// The effects since the last call.
    pub fn taken(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    /// The number of the last effect that has one and that `pick` accepts.
    pub fn request(&mut self, pick: impl Fn(&Effect) -> Option<Generation>) -> Generation {
        self.taken().iter().rev().find_map(pick).expect("no such request")
    }

    /// Answers the last request for a plan.
    pub fn planned(&mut self, plan: Plan) {
        let generation = self.request(|effect| match effect {
            Effect::Plan(generation, _) => Some(*generation),
            _ => None,
        });
        self.send(Msg::Planned(generation, Ok(Box::new(plan))));
    }

    /// The names that are shown, in order.
    pub fn names(&self) -> Vec<String> {
        self.state.models.shown().iter().map(|row| row.model.identity.id.clone()).collect()
    }

    pub fn cursor(&self) -> String {
        self.state.models.cursor.as_ref().unwrap().id.clone()
    }

    pub fn picture(&self) -> String {
        text(&self.buffer(Tier::Sixteen, false).0)
    }

    pub fn buffer(&self, tier: Tier, ascii: bool) -> (Buffer, Option<Position>) {
        let (width, height) = self.state.size;
        let mut buffer = Buffer::empty(Rect::new(0, 0, width, height));
        let caret = view::draw(&self.state, &Look::new(tier, ascii), &mut buffer);
        (buffer, caret)
    }
}

pub fn now(at: Duration) -> Now {
    let wall = Timestamp::from_second(WALL + i64::try_from(at.as_secs()).unwrap()).unwrap();
    Now { at, wall }
}

/// The characters of a buffer, wide ones once.
pub fn text(buffer: &Buffer) -> String {
    let mut out = String::new();
    for y in 0..buffer.area.height {
        let mut x = 0;
        let mut line = String::new();
        while x < buffer.area.width {
            let symbol = buffer[(x, y)].symbol();
            line.push_str(symbol);
            x += u16::try_from(rbee_hive::tui::text::width(symbol)).unwrap().max(1);
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

pub fn id(store: StoreKind, name: &str) -> ModelId {
    let root = if store == StoreKind::Flat { "/data/models" } else { "/data/hf" };
    ModelId { store, store_path: PathBuf::from(root), id: name.to_owned() }
}

/// A model of so many GiB, last used so many days ago.
pub fn model(name: &str, gib: u64, days: i64) -> Model {
    let used = Timestamp::from_second(WALL - days * DAY).unwrap();
    Model {
        kind: ModelKind::Model,
        reference: Some(format!("org/{name}")),
        owner: Some("alice".to_owned()),
        mount: Some(PathBuf::from("/data")),
        format: Some(Format::Gguf),
        quantization: Some(Quantization::new("Q4_K_M")),
        quantizations: vec![Quantization::new("Q4_K_M")],
        architecture: Some("llama".to_owned()),
        parameters: Some(gib * 1_700_000_000),
        context_length: Some(32_768),
        file_count: 3,
        size_bytes: gib * GIB,
        disk_bytes: gib * GIB + 4096,
        reclaimable_bytes: gib * GIB + 4096,
        modified: Some(used),
        accessed: Some(used),
        ..Model::new(id(StoreKind::Flat, name), PathBuf::from("/data/models").join(name))
    }
}

pub fn row(model: Model) -> Row {
    let mut usage = Usage::default();
    let inode = model.identity.id.bytes().fold(7_u64, |hash, byte| hash.wrapping_mul(31).wrapping_add(byte.into()));
    usage.add(Inode { device: 1, inode }, model.size_bytes, model.disk_bytes, 1);
    Row::new(model, usage)
}

pub fn holder() -> Holder {
    Holder { pid: 4242, user: "bob".to_owned(), command: "llama-server -m /data/models/beta/beta.gguf".to_owned() }
}

pub fn plan(models: &[&str]) -> Plan {
    let inode = Inode { device: 1, inode: 1 };
    let step = |operation: Operation, folder: &str, name: &str, bytes: u64| Step {
        operation,
        root: PathBuf::from("/data/models"),
        folder: PathBuf::from(folder),
        parent: inode,
        name: name.into(),
        target: inode,
        stamp: None,
        bytes,
        locks: Vec::new(),
        requires: Vec::new(),
    };
    let mut plan = Plan::default();
    for model in models {
        plan.models.push(id(StoreKind::Flat, model));
        plan.steps.push(step(Operation::RemoveFile, model, &format!("{model}-Q4_K_M.gguf"), 4 * GIB));
        plan.steps.push(step(Operation::RemoveFile, model, "README.md", 4096));
        plan.steps.push(step(Operation::RemoveFolder, "", model, 0));
        plan.expected_bytes += 4 * GIB + 4096;
    }
    plan
}

/// A plan with everything in it that makes a person think twice.
pub fn thorny_plan() -> Plan {
    let mut plan = plan(&["beta"]);
    plan.keep.push(Kept {
        path: PathBuf::from("/data/models/beta/other.gguf"),
        because: "also used by qwen-fp16".to_owned(),
    });
    plan.blocked.push(Blocked {
        path: PathBuf::from("/data/models/beta/locked"),
        because: "owned by root in a sticky folder; ask root".to_owned(),
    });
    plan.in_use_by.push(holder());
    plan
}

pub fn download(number: u64, reference: &str, state: JobState) -> JobStatus {
    let request = DownloadRequest::new(reference);
    let mut job = JobStatus::new(JobId(number), JobSpec::Download(request));
    job.state = state;
    job
}

/// Ten downloads, one in each state and a stalled one.
pub fn ten_jobs() -> Vec<JobStatus> {
    let states = [
        JobState::Finished,
        JobState::Failed,
        JobState::Cancelled,
        JobState::Running,
        JobState::Running,
        JobState::Verifying,
        JobState::Waiting,
        JobState::Retrying,
        JobState::Queued,
        JobState::Paused,
    ];
    let mut jobs: Vec<JobStatus> = (1..)
        .zip(states)
        .map(|(number, state)| {
            let mut job = download(number, &format!("org/some-model-number-{number}-GGUF:Q4_K_M"), state);
            job.total = Some(4 * GIB);
            job.bytes = number * 300 * MIB;
            job
        })
        .collect();
    jobs[0].bytes = 4 * GIB;
    jobs[1].why =
        Some("org/some-model is gated: open its page, accept its terms, then sign in with a token".to_owned());
    (jobs[3].rate, jobs[3].eta_s, jobs[3].connections) = (Some(25 * MIB), Some(118), Some(8));
    jobs[4].state = JobState::Waiting;
    jobs[4].why = Some("stalled: no byte for 10 s; connects anew after 20 s".to_owned());
    jobs[5].bytes = 4 * GIB;
    jobs[6].why = Some(
        "2.10 GiB short in /data/models: 4.00 GiB needed, 1.90 GiB free; idle, and enough to delete: hf:org/old (9.00 GiB)"
            .to_owned(),
    );
    jobs[7].why = Some("503 Service Unavailable: cdn.example".to_owned());
    (jobs[7].attempt, jobs[7].until) = (Some(3), Timestamp::from_second(WALL + 8).ok());
    (jobs[8].total, jobs[8].bytes) = (None, 0);
    jobs
}
