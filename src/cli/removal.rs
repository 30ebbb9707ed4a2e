//! What `delete` and `sweep` have in common: a plan is told, run as a job, and told again by what it came to.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Serialize, Serializer};

use super::exit::{Exit, Stop};
use super::follow;
use super::list::count;
use super::session::Session;
use crate::error::Error;
use crate::jobs::{JobEvent, JobOutcome, JobSpec, JobState, Jobs, LocalJobs, LocalJobsOptions};
use crate::model::{Ask, Blocked, Broken, Bytes, DeletionReport, Failure, Holder, Kept, ModelId, Plan, text};
use crate::transfer;

/// After how long a wait for a server is said.
const PATIENCE: Duration = Duration::from_secs(2);

/// `delete --json`, and a part of `sweep --json`.
#[derive(Serialize)]
pub(super) struct Removed<'a> {
    models: &'a [ModelId],
    #[serde(serialize_with = "paths")]
    remove: Vec<PathBuf>,
    asks: &'a [Ask],
    keep: &'a [Kept],
    blocked: &'a [Blocked],
    breaks: &'a [Broken],
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    notes: &'a [String],
    in_use_by: &'a [Holder],
    unreadable_processes: usize,
    expected_bytes: u64,
    freed_bytes: Option<u64>,
    held_bytes: Option<u64>,
    failed: &'a [Failure],
    #[serde(serialize_with = "paths")]
    gone: Vec<PathBuf>,
    dry_run: bool,
}

fn paths<S: Serializer>(paths: &[PathBuf], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(paths.iter().map(|path| text::escape(path.as_os_str())))
}

impl<'a> Removed<'a> {
    pub(super) fn new(plan: &'a Plan, report: Option<&'a DeletionReport>) -> Self {
        Self {
            models: &plan.models,
            remove: plan.steps.iter().map(crate::model::Step::path).collect(),
            asks: &plan.asks,
            keep: &plan.keep,
            blocked: &plan.blocked,
            breaks: &plan.breaks,
            notes: &plan.notes,
            in_use_by: &plan.in_use_by,
            unreadable_processes: plan.unreadable_processes,
            expected_bytes: plan.expected_bytes,
            freed_bytes: report.map(|report| report.freed_bytes),
            held_bytes: report.map(|report| report.held_bytes),
            failed: report.map(|report| report.failed.as_slice()).unwrap_or_default(),
            gone: report.map(|report| report.gone.clone()).unwrap_or_default(),
            dry_run: report.is_none(),
        }
    }
}

/// Runs the plan as a job, as the screen does, so that it is noted in the same place.
pub(super) async fn execute(session: &mut Session, spec: JobSpec) -> Result<(DeletionReport, Option<Exit>), Stop> {
    let options = LocalJobsOptions {
        downloads: 1,
        limit: None,
        queue_file: None,
        deletion_log: Some(session.settings.paths.state.join("deletions.jsonl")),
        transfer: transfer::Options::default(),
    };
    let jobs = LocalJobs::start(session.provisioner.clone(), session.inventory.clone(), options);
    let mut updates = jobs.subscribe();
    let job = jobs.submit(spec)?;
    let cancel = session.cancel.clone();
    let mut nothing = |_: &JobEvent| Ok(());
    let work = follow::to_end(&jobs, &mut updates, job, &cancel, &mut nothing);
    let (inventory, output) = (session.inventory.clone(), session.output.clone());
    let work = async {
        tokio::pin!(work);
        let mut ticks = tokio::time::interval(Duration::from_millis(500));
        let mut said = String::new();
        loop {
            tokio::select! {
                status = &mut work => break status,
                _ = ticks.tick() => {
                    let Some((what, _)) = inventory.waits().filter(|(_, since)| *since >= PATIENCE) else { continue };
                    if said != what {
                        output.say(&format!("llorch-models: waiting for {what}"));
                        said = what;
                    }
                }
            }
        }
    };
    let (status, signal) = session.guard(work).await;
    let Some(status) = status? else { return Err(Error::Cancelled.into()) };
    match (status.state, status.outcome.as_deref()) {
        (_, Some(JobOutcome::Deleted(report))) => Ok((report.clone(), signal)),
        (JobState::Cancelled, _) => Ok((DeletionReport::default(), signal)),
        _ => Err(Stop::Error(anyhow::anyhow!(status.why.clone().unwrap_or_else(|| "the deletion did not end".into())))),
    }
}

/// Says what was not removed, and gives the exit code.
pub(super) fn conclude(session: &Session, report: &DeletionReport, signal: Option<Exit>) -> Exit {
    for failure in &report.failed {
        session.output.say(&format!("llorch-models: {}: {}", text::printable_path(&failure.path), failure.error));
    }
    report.notes.iter().for_each(|note| session.output.say(&format!("llorch-models: {note}")));
    if !report.gone.is_empty() {
        let line =
            format!("{} already gone; another program has removed what was there", count(report.gone.len(), "path"));
        session.output.say(&format!("llorch-models: {line}"));
    }
    match signal {
        Some(exit) => exit,
        None if report.failed.is_empty() => Exit::Done,
        None => Exit::Failed,
    }
}

/// The plan for a person: every path but those of bookkeeping, every byte, everything that stays.
pub(super) fn describe(what: &str, plan: &Plan) -> String {
    let mut out =
        format!("{what}: {} to remove, {} to free\n", count(plan.steps.len(), "path"), Bytes(plan.expected_bytes));
    if plan.models.len() > 1 {
        plan.models.iter().for_each(|model| out.push_str(&format!("  {model}\n")));
    }
    let summed = plan.bookkeeping();
    for step in plan.steps.iter().filter(|step| summed.is_empty() || !step.is_bookkeeping()) {
        let bytes = if step.bytes > 0 { format!("  {}", Bytes(step.bytes)) } else { String::new() };
        out.push_str(&format!("  remove  {}{bytes}\n", text::printable_path(&step.path())));
    }
    if !summed.is_empty() {
        let bytes = Bytes(summed.iter().map(|step| step.bytes).sum());
        out.push_str(&format!("  remove  {} bookkeeping files (--json names them)  {bytes}\n", summed.len()));
    }
    for ask in &plan.asks {
        out.push_str(&format!(
            "  ask     Ollama's server at {} to delete {}\n",
            ask.server,
            text::printable(&ask.name)
        ));
    }
    let mut reason = |word: &str, path: &std::path::Path, because: &str| {
        out.push_str(&format!("  {word}  {}  {}\n", text::printable_path(path), text::printable(because)));
    };
    plan.keep.iter().for_each(|kept| reason("keep  ", &kept.path, &kept.because));
    plan.blocked.iter().for_each(|blocked| reason("blocked", &blocked.path, &blocked.because));
    plan.breaks.iter().for_each(|broken| reason("breaks", &broken.path, &format!("of {}", broken.model)));
    plan.notes.iter().for_each(|note| out.push_str(&format!("  note    {}\n", text::printable(note))));
    for holder in &plan.in_use_by {
        out.push_str(&format!(
            "  in use  by process {} ({}, {})\n",
            holder.pid,
            holder.user,
            text::printable(&holder.command)
        ));
    }
    if let Some(line) = unseen(plan) {
        out.push_str(&format!("  {line}\n"));
    }
    out
}

/// That nobody was seen to use it does not say that nobody does.
pub(super) fn unseen(plan: &Plan) -> Option<String> {
    let what = if plan.in_use_by.is_empty() { "not seen in use" } else { "others may use it" };
    (plan.unreadable_processes > 0).then(|| {
        format!("{what}: {} of other users could not be looked into", count(plan.unreadable_processes, "process"))
    })
}

pub(super) fn result(what: &str, plan: &Plan, report: &DeletionReport) -> String {
    let mut out = format!("{what}: {} freed", Bytes(report.freed_bytes));
    if report.held_bytes > 0 {
        let pids: Vec<String> = plan.in_use_by.iter().map(|holder| holder.pid.to_string()).collect();
        let who = match pids.as_slice() {
            [] => "the processes that hold it end".to_owned(),
            [one] => format!("process {one} ends"),
            many => format!("processes {} end", many.join(", ")),
        };
        out.push_str(&format!(", {} of it only when {who}", Bytes(report.held_bytes)));
    }
    if !report.failed.is_empty() {
        out.push_str(&format!(", {} not removed", count(report.failed.len(), "path")));
    }
    out.push('\n');
    out
}
