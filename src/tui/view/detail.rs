//! The detail of the model or the job under the cursor.

use std::time::Duration;

use ratatui::layout::Rect;

use super::canvas::{Canvas, Spans};
use super::figures::{age, counted, grouped, path};
use super::parts;
use crate::format::{Metadata, Structure};
use crate::jobs::{JobOutcome, JobStatus};
use crate::model::filter::last_use;
use crate::model::memory::Verdict;
use crate::model::{Bytes, Holder, Model, Rate, size, text as clean, way_out};
use crate::store::fit::FitReport;
use crate::store::{Evidence, Load, Loads, Part, fit};
use crate::tui::state::{Focus, State, Subject};
use crate::tui::text;
use crate::tui::theme::Role;

/// Width of the names of fields.
const FIELD: usize = 14;

pub(super) fn draw(canvas: &mut Canvas<'_>, state: &State, area: Rect) {
    let symbols = canvas.look.symbols;
    let area = Rect::new(area.x + 1, area.y, area.width.saturating_sub(2), area.height).intersection(area);
    let mut lines = page(state, usize::from(area.width), symbols.ellipsis, symbols.none, symbols.dot).lines;
    if let Some(first) = lines.first_mut()
        && state.focus == Focus::Detail
        && state.dialogs.is_empty()
    {
        for span in first {
            span.1 = Role::Focus;
        }
    }
    if canvas.lines(area, &lines, state.detail.scroll) {
        let x = area.width.saturating_sub(1);
        canvas.put(area, x, area.height.saturating_sub(1), symbols.sorted[1], Role::Key);
    }
}

/// Number of lines at the present size.
pub(crate) fn length(state: &State) -> usize {
    at_present(state).lines.len()
}

/// The parts that keys go to, with the numbers of their lines at the present size.
pub(crate) fn parts(state: &State) -> Vec<(usize, Part)> {
    at_present(state).parts
}

fn at_present(state: &State) -> Page<'static> {
    let width = state.layout().detail.map_or(0, |area| usize::from(area.width.saturating_sub(2)));
    page(state, width, "~", "-", ".")
}

fn page<'a>(state: &State, width: usize, ellipsis: &'a str, none: &'a str, dot: &'a str) -> Page<'a> {
    let mut page = Page { lines: Vec::new(), parts: Vec::new(), width, ellipsis, none, dot };
    match state.subject {
        Subject::Model => model(&mut page, state),
        Subject::Job => match state.queue.current() {
            Some(status) => job(&mut page, state, status),
            None => page.say("no job", Role::Dim),
        },
    }
    page
}

/// Lines that are put together.
pub(super) struct Page<'a> {
    pub(super) lines: Vec<Spans>,
    /// Parts that keys go to, by their lines.
    pub(super) parts: Vec<(usize, Part)>,
    pub(super) width: usize,
    pub(super) ellipsis: &'a str,
    pub(super) none: &'a str,
    pub(super) dot: &'a str,
}

impl Page<'_> {
    pub(super) fn say(&mut self, line: &str, role: Role) {
        self.lines.extend(text::wrap(line, self.width).into_iter().map(|line| vec![(line, role)]));
    }

    pub(super) fn gap(&mut self) {
        self.lines.push(Spans::new());
    }

    fn field(&mut self, name: &str, value: &str) {
        self.field_as(name, value, Role::Text);
    }

    fn field_as(&mut self, name: &str, value: &str, role: Role) {
        let room = self.width.saturating_sub(FIELD);
        let value = if value.is_empty() { self.none } else { value };
        for (at, line) in text::wrap(value, room.max(8)).into_iter().enumerate() {
            let name = if at == 0 { name } else { "" };
            self.lines.push(vec![(text::pad(name, FIELD), Role::Dim), (line, role)]);
        }
    }

    fn known(&mut self, name: &str, value: Option<String>) {
        if let Some(value) = value {
            self.field(name, &value);
        }
    }
}

fn model(page: &mut Page<'_>, state: &State) {
    let Some(row) = state.models.cursor.as_ref().and_then(|id| state.models.get(id)) else {
        page.say("no model", Role::Dim);
        return;
    };
    let loaded = match &state.detail.loaded {
        Some(Ok(details)) if state.detail.model.as_ref() == Some(&row.model.identity) => Some(details.as_ref()),
        _ => None,
    };
    let model = loaded.map_or(&row.model, |details| &details.model);
    page.say(&model.label(), Role::Title);
    page.say(&path(&model.path, &state.facts.home), Role::Dim);
    page.gap();
    for warning in &model.warnings {
        page.say(&format!("! {warning}"), if model.complete { Role::Warn } else { Role::Bad });
    }
    if let Some(state) = model.state().filter(|_| model.warnings.is_empty()) {
        page.say(&format!("! {state}"), Role::Bad);
    }
    if let Some(line) = model.damage.and_then(|damage| way_out(model, damage)) {
        page.say(&line, Role::Text);
    }
    if row.model.protected {
        page.say("protected by the configuration: no plan takes it", Role::Good);
    }
    holders(page, row.model.in_use_by.as_deref().or(model.in_use_by.as_deref()));
    let evidence = loaded.map(|details| details.evidence).unwrap_or_default();
    if let Some(unread) = evidence.unreadable_processes.filter(|unread| *unread > 0) {
        let processes = counted(unread, "process", "processes");
        page.field_as("", &format!("{processes} of other users could not be looked into"), Role::Dim);
    }
    // What the scan knows is shown before the details are read.
    let metadata = loaded.and_then(|details| details.metadata.as_deref()).or(row.metadata.as_deref());
    let loads = loaded.map_or(&row.loads, |details| &details.loads);
    facts(page, state, model, metadata, loads, evidence);
    match (&state.detail.loaded, &state.detail.wait) {
        (Some(Err(error)), _) => {
            page.gap();
            page.say(error, Role::Bad);
        }
        (_, Some(wait)) if wait.slow => {
            page.gap();
            page.say("the store does not answer", Role::Warn);
        }
        (None, Some(_)) => {
            page.gap();
            page.say("reading", Role::Dim);
        }
        _ => {}
    }
    match part_under_cursor(state, loads) {
        Some(load) => {
            let of = Model { complete: load.whole, damage: None, ..model.clone() };
            let beside = Loads { extra_bytes: loads.extra_bytes, ..Loads::default() };
            let name = format!(" of {}", clean::printable(load.quantization.as_str()));
            fits(page, state, &of, &name, Some(&load.metadata), &beside);
            header(page, &of, &name, &load.metadata);
        }
        None => {
            fits(page, state, model, "", metadata, loads);
            if let Some(metadata) = metadata {
                header(page, model, "", metadata);
            }
        }
    }
    if let Some(details) = loaded {
        parts::draw(page, state, details);
    }
    copies(page, state, model);
}

/// Most places of one content, and most contents, that are told.
const TOLD: usize = 8;

/// What of the row is in other places, too.
fn copies(page: &mut Page<'_>, state: &State, model: &Model) {
    let found: Vec<_> = state.models.duplicates_of(&model.identity).collect();
    if found.is_empty() {
        return;
    }
    page.gap();
    page.say("the same file elsewhere", Role::Title);
    for group in found.iter().take(TOLD) {
        let (own, others) = group.of(&model.identity);
        let name = own.first().and_then(|copy| copy.path.file_name()).map(clean::escape).unwrap_or_default();
        let gain = match group.reclaimable_bytes {
            0 if group.is_shared() => "names of one file, which share its bytes".to_owned(),
            0 => "no copy alone would free anything".to_owned(),
            bytes => format!("one copy less frees {}", Bytes(bytes)),
        };
        page.say(&format!("{} {gain}", clean::printable(&name)), Role::Text);
        // Two names in the row itself are copies of each other.
        let places = if others.is_empty() { &own } else { &others };
        for copy in places.iter().take(TOLD) {
            let models: Vec<String> = copy.models.iter().take(TOLD).map(ToString::to_string).collect();
            page.say(&format!("  also at {}", path(&copy.path, &state.facts.home)), Role::Dim);
            page.say(&format!("  in {}", models.join(", ")), Role::Dim);
        }
        more(page, places.len());
    }
    more(page, found.len());
}

fn more(page: &mut Page<'_>, count: usize) {
    if count > TOLD {
        page.say(&format!("  and {} more", count - TOLD), Role::Dim);
    }
}

fn holders(page: &mut Page<'_>, holders: Option<&[Holder]>) {
    match holders {
        None => page.field("in use", ""),
        Some([]) => page.field("in use", "not seen"),
        Some(holders) => {
            for holder in holders {
                let line = format!("{} {} {}", holder.pid, clean::printable(&holder.user), holder.command);
                page.field_as("in use", &line, Role::Warn);
            }
        }
    }
}

/// The quantization that keys go to, of a row that has several.
fn part_under_cursor<'a>(state: &State, loads: &'a Loads) -> Option<&'a Load> {
    let (Some(Part::Quantization(label)), Focus::Detail) = (&state.detail.part, state.focus) else { return None };
    loads.quantizations.iter().find(|load| load.quantization.as_str() == label)
}

fn facts(
    page: &mut Page<'_>,
    state: &State,
    model: &Model,
    metadata: Option<&Metadata>,
    loads: &Loads,
    evidence: Evidence,
) {
    page.field("reference", &model.reference.as_deref().map(clean::printable).unwrap_or_default());
    page.known("format", model.format.map(|format| format.name().to_owned()));
    if !model.quantizations.is_empty() {
        page.field("quantization", &model.quantization_line(metadata.and_then(Metadata::bits_per_weight)));
    }
    page.known("architecture", model.architecture.as_deref().map(clean::printable));
    page.known("parameters", model.parameters_line());
    page.known("context", model.context_length.map(|tokens| format!("{} tokens", grouped(tokens))));
    if let Some(report) = report(state, model, metadata, loads) {
        page.field_as("fits", &report.answer(), role(report.fit.verdict));
    }
    let files = counted(usize::try_from(model.file_count).unwrap_or(usize::MAX), "file", "files");
    let size = if model.measured { format!("{} in {files}", Bytes(model.size_bytes)) } else { model.size(0) };
    page.field("size", &size);
    page.field("on disk", &model.size(model.disk_bytes));
    let shared = model.disk_bytes.saturating_sub(model.reclaimable_bytes);
    let mut reclaim = model.size(model.reclaimable_bytes);
    if shared > 0 {
        reclaim.push_str(&format!(" ({} is shared)", Bytes(shared)));
    }
    page.field("reclaimable", &reclaim);
    let ago = |then| match age(then, state.wall).as_str() {
        "now" => "just now".to_owned(),
        age => format!("{age} ago"),
    };
    page.known("last used", last_use(model).map(ago));
    if let Some(times) = evidence.access_times {
        page.field_as("", times.trust(), Role::Dim);
    }
    page.known("modified", model.modified.map(ago));
    page.known("verified", model.verified.map(ago));
    page.field("store", &format!("{} {}", model.identity.store, path(&model.identity.store_path, &state.facts.home)));
    page.known("owner", model.owner.as_deref().map(clean::printable));
    page.known("mount", model.mount.as_deref().map(clean::printable_path));
}

fn report(state: &State, model: &Model, metadata: Option<&Metadata>, loads: &Loads) -> Option<FitReport> {
    fit::report(model, metadata, loads, state.memory.as_ref()?, &state.facts.fit)
}

fn role(verdict: Verdict) -> Role {
    match verdict {
        Verdict::Fits | Verdict::Split(_) => Role::Good,
        Verdict::No => Role::Bad,
        Verdict::Tight | Verdict::CpuOnly => Role::Warn,
        Verdict::Unknown => Role::Dim,
    }
}

/// The sum that says whether it fits; of a part, also what it comes to.
fn fits(page: &mut Page<'_>, state: &State, model: &Model, of: &str, metadata: Option<&Metadata>, loads: &Loads) {
    let Some(report) = report(state, model, metadata, loads) else { return };
    page.gap();
    page.say(&format!("memory{of}"), Role::Title);
    if !of.is_empty() {
        page.say(&report.answer(), role(report.fit.verdict));
    }
    for (name, value) in report.parts() {
        page.field(name, &value);
    }
}

fn header(page: &mut Page<'_>, model: &Model, of: &str, metadata: &Metadata) {
    page.gap();
    page.say(&format!("header{of}"), Role::Title);
    if !of.is_empty() {
        page.known("quantization", metadata.quantization.as_ref().map(ToString::to_string));
        page.known("parameters", metadata.parameters.map(size::parameters));
    }
    // With one quantization the bits stand beside it.
    let told = |name: &str| name == "bits/weight" && of.is_empty() && model.quantization.is_some();
    for (name, value) in metadata.facts().into_iter().filter(|(name, _)| !told(name)) {
        page.field(name, &value);
    }
    match &metadata.structure {
        Structure::Truncated { missing: Some(bytes) } => {
            page.say(&format!("! cut short: {} missing", Bytes(*bytes)), Role::Bad);
        }
        Structure::Truncated { missing: None } => page.say("! cut short in its header", Role::Bad),
        Structure::Extra { bytes } => page.say(&format!("! {} too long", Bytes(*bytes)), Role::Warn),
        Structure::Whole | Structure::Partial => {}
    }
    // What the row says above is not said again.
    let said = |line: &str| model.warnings.iter().any(|warning| warning.ends_with(line));
    for warning in metadata.warnings.iter().map(|warning| clean::printable(warning)).filter(|line| !said(line)) {
        page.say(&format!("! {warning}"), Role::Warn);
    }
}

fn job(page: &mut Page<'_>, state: &State, job: &JobStatus) {
    page.say(&format!("{} {}", job.spec.kind(), job.spec.subject()), Role::Title);
    page.gap();
    let (word, role) = super::queue::word(job);
    page.field_as("state", word, role);
    if let Some(why) = super::queue::waits(state, job) {
        page.field_as("because", &why, role);
    }
    page.known("next", super::queue::next_try(state, job));
    let bytes = match job.total {
        Some(total) => format!("{} of {}", Bytes(job.bytes), Bytes(total)),
        None => Bytes(job.bytes).to_string(),
    };
    page.field("bytes", &bytes);
    page.field("rate", &job.rate.map(|rate| Rate(rate).to_string()).unwrap_or_default());
    let left = job.eta_s.map(|seconds| size::duration(Duration::from_secs(seconds)));
    page.field("left", &left.unwrap_or_default());
    page.known("connections", job.connections.map(|connections| connections.to_string()));
    page.known(
        "courtesy",
        state.queue.snapshot.held().filter(|_| job.courtesy.is_some()).map(|held| {
            format!("holds all downloads together to {}, so that the link stays quick for others", Rate(held))
        }),
    );
    page.known("path", job.path.as_deref().map(|job| path(job, &state.facts.home)));
    if let Some(outcome) = job.outcome.as_deref() {
        result(page, state, outcome);
    }
    if !job.output.is_empty() {
        page.gap();
        page.say("output", Role::Title);
        for line in &job.output {
            page.say(line, Role::Dim);
        }
    }
    if job.files.is_empty() {
        return;
    }
    page.gap();
    page.say(&counted(job.files.len(), "file", "files"), Role::Title);
    for file in &job.files {
        let progress = if file.finished {
            "done".to_owned()
        } else {
            format!("{}%", u128::from(file.bytes) * 100 / u128::from(file.total.max(1)))
        };
        let connections = match file.connections {
            0 => String::new(),
            some => format!("{some} conn"),
        };
        let name = text::cut_middle(
            &file.file,
            page.width.saturating_sub(17 + 9 * usize::from(!connections.is_empty())),
            page.ellipsis,
        );
        let size = text::pad_left(&Bytes(file.total).to_string(), 9);
        page.lines.push(vec![
            (format!("{} {size} ", text::pad_left(&progress, 5)), Role::Dim),
            (name, Role::Text),
            (text::pad_left(&connections, if connections.is_empty() { 0 } else { 9 }), Role::Dim),
        ]);
    }
}

fn result(page: &mut Page<'_>, state: &State, outcome: &JobOutcome) {
    match outcome {
        JobOutcome::Fetched(bytes) => page.field("fetched", &Bytes(*bytes).to_string()),
        JobOutcome::Converted(bytes) => page.field("converted", &Bytes(*bytes).to_string()),
        JobOutcome::Deleted(report) => {
            page.field("freed", &Bytes(report.freed_bytes).to_string());
            if report.held_bytes > 0 {
                page.field_as("held", &format!("{} until a process ends", Bytes(report.held_bytes)), Role::Warn);
            }
            page.gap();
            for failure in &report.failed {
                let line = format!("not removed: {}: {}", clean::printable_path(&failure.path), failure.error);
                page.say(&line, Role::Bad);
            }
            for note in &report.notes {
                page.say(&clean::printable(note), Role::Warn);
            }
            for gone in &report.gone {
                page.say(&format!("already gone: {}", clean::printable_path(gone)), Role::Dim);
            }
            for removed in &report.removed {
                page.say(&clean::printable_path(removed), Role::Dim);
            }
        }
        JobOutcome::Verified(models) => {
            for model in models {
                page.gap();
                page.say(&clean::printable(&model.model.id), Role::Title);
                let row = state.models.get(&model.model);
                if let Some(line) = row.and_then(|row| way_out(&row.model, model.worst())) {
                    page.say(&line, Role::Text);
                }
                for file in &model.files {
                    let role = if file.is_ok() { Role::Good } else { Role::Bad };
                    let name = text::cut_middle(&file.path, page.width.saturating_sub(12), page.ellipsis);
                    page.lines.push(vec![(text::pad(file.status.name(), 12), role), (name, Role::Text)]);
                    if let Some(note) = &file.note {
                        page.say(&clean::printable(note), Role::Dim);
                    }
                }
            }
        }
    }
}
