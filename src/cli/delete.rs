//! `delete`: the plan is shown, agreed to, and then run exactly as it was shown.

use std::path::PathBuf;

use serde::{Serialize, Serializer};

use super::arguments::Delete;
use super::exit::{Exit, Outcome, Stop};
use super::follow;
use super::list::count;
use super::session::{Found, Session};
use crate::error::Error;
use crate::jobs::{JobEvent, JobOutcome, JobSpec, JobState, Jobs, LocalJobs, LocalJobsOptions};
use crate::model::{Ask, Blocked, Broken, Bytes, DeletionReport, Failure, Holder, Kept, ModelId, Plan, text};
use crate::provisioner::PlanTarget;
use crate::transfer;

/// `delete --json`.
#[derive(Serialize)]
struct Deleted<'a> {
    models: &'a [ModelId],
    #[serde(serialize_with = "paths")]
    remove: Vec<PathBuf>,
    asks: &'a [Ask],
    keep: &'a [Kept],
    blocked: &'a [Blocked],
    breaks: &'a [Broken],
    in_use_by: &'a [Holder],
    unreadable_processes: usize,
    expected_bytes: u64,
    freed_bytes: Option<u64>,
    held_bytes: Option<u64>,
    failed: &'a [Failure],
    dry_run: bool,
}

fn paths<S: Serializer>(paths: &[PathBuf], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(paths.iter().map(|path| text::escape(path.as_os_str())))
}

impl<'a> Deleted<'a> {
    fn new(plan: &'a Plan, report: Option<&'a DeletionReport>) -> Self {
        Self {
            models: &plan.models,
            remove: plan.steps.iter().map(crate::model::Step::path).collect(),
            asks: &plan.asks,
            keep: &plan.keep,
            blocked: &plan.blocked,
            breaks: &plan.breaks,
            in_use_by: &plan.in_use_by,
            unreadable_processes: plan.unreadable_processes,
            expected_bytes: plan.expected_bytes,
            freed_bytes: report.map(|report| report.freed_bytes),
            held_bytes: report.map(|report| report.held_bytes),
            failed: report.map(|report| report.failed.as_slice()).unwrap_or_default(),
            dry_run: report.is_none(),
        }
    }
}

pub(super) async fn run(session: &mut Session, arguments: Delete) -> Outcome {
    let Delete { reference, dry_run, yes, force, json } = arguments;
    if !dry_run && !yes && !session.output.answers {
        return Err(Stop::Usage(
            "delete asks before it deletes, and there is no terminal to ask on: give --yes".into(),
        ));
    }
    let targets = match session.find(reference).await? {
        Found::Targets(targets) => targets,
        Found::Signal(exit) => return Ok(exit),
    };
    let mut plan = match plan_of(session, &targets).await? {
        Planned::Plan(plan) => plan,
        Planned::Signal(exit) => return Ok(exit),
    };
    if dry_run {
        if json {
            session.output.json(&Deleted::new(&plan, None))?;
        } else {
            session.output.print(&describe(&plan))?;
        }
        return Ok(Exit::Done);
    }
    loop {
        if let Err(refusal) = refuse(&plan, force) {
            if json {
                // What forbids it is for programs, too: nothing was freed.
                session.output.json(&Deleted::new(&plan, Some(&DeletionReport::default())))?;
            }
            return Err(refusal.into());
        }
        if yes {
            break;
        }
        session.output.say(describe(&plan).trim_end());
        // Asked on a thread of its own: a signal must reach a program that waits for an answer.
        let output = session.output.clone();
        let question = format!("Delete {}?", names(&plan));
        let (agreed, signal) = session.blocking(move || output.ask(&question)).await?;
        if let Some(exit) = signal {
            return Ok(exit);
        }
        if !agreed {
            session.output.say("nothing was deleted");
            return Ok(Exit::Failed);
        }
        // Time has passed: what was shown may not be what would go by now.
        let again = match plan_of(session, &targets).await? {
            Planned::Plan(plan) => plan,
            Planned::Signal(exit) => return Ok(exit),
        };
        if again.is_same(&plan) {
            break;
        }
        session.output.say("what would go has changed since it was shown; nothing is deleted yet");
        plan = again;
    }
    let (report, signal) = execute(session, &plan).await?;
    if json {
        session.output.json(&Deleted::new(&plan, Some(&report)))?;
    } else {
        session.output.print(&result(&plan, &report))?;
    }
    for failure in &report.failed {
        session.output.say(&format!("llorch-models: {}: {}", text::printable_path(&failure.path), failure.error));
    }
    Ok(match signal {
        Some(exit) => exit,
        None if report.failed.is_empty() => Exit::Done,
        None => Exit::Failed,
    })
}

enum Planned {
    Plan(Plan),
    Signal(Exit),
}

async fn plan_of(session: &mut Session, targets: &[PlanTarget]) -> Result<Planned, Stop> {
    let (inventory, targets) = (session.inventory.clone(), targets.to_vec());
    let (plan, signal) = session.blocking(move || inventory.plan_deletion(&targets)).await?;
    Ok(match signal {
        Some(exit) => Planned::Signal(exit),
        None => Planned::Plan(plan?),
    })
}

/// What needs `--force`, or cannot be done at all.
fn refuse(plan: &Plan, force: bool) -> Result<(), Error> {
    let what = names(plan);
    let refusal = |reason: String| Err(Error::DeletionRefused { what: what.clone(), reason });
    if plan.steps.is_empty() {
        let because = plan.blocked.first().map(|blocked| blocked.because.as_str());
        let because = because.or_else(|| plan.keep.first().map(|kept| kept.because.as_str()));
        return refusal(format!(
            "nothing of it can be deleted{}",
            because.map(|b| format!(": {b}")).unwrap_or_default()
        ));
    }
    if force {
        return Ok(());
    }
    if let Some(holder) = plan.in_use_by.first() {
        let command = text::printable(&holder.command);
        return refusal(format!(
            "it is in use by process {} ({}, {command}); end that first, or give --force",
            holder.pid, holder.user
        ));
    }
    if let Some(broken) = plan.breaks.first() {
        return refusal(format!(
            "{} links to it ({}) and would break; delete that too, or give --force",
            broken.model,
            text::printable_path(&broken.path)
        ));
    }
    if let Some(blocked) = plan.blocked.first() {
        return refusal(format!(
            "{} cannot be deleted: {}; --force deletes the rest",
            text::printable_path(&blocked.path),
            blocked.because
        ));
    }
    Ok(())
}

/// Runs the plan as a job, as the screen does, so that it is noted in the same place.
async fn execute(session: &mut Session, plan: &Plan) -> Result<(DeletionReport, Option<Exit>), Stop> {
    let options = LocalJobsOptions {
        downloads: 1,
        limit: None,
        queue_file: None,
        deletion_log: Some(session.settings.paths.state.join("deletions.jsonl")),
        transfer: transfer::Options::default(),
    };
    let jobs = LocalJobs::start(session.provisioner.clone(), session.inventory.clone(), options);
    let mut updates = jobs.subscribe();
    let job = jobs.submit(JobSpec::Delete { plan: plan.clone() })?;
    let cancel = session.cancel.clone();
    let mut nothing = |_: &JobEvent| Ok(());
    let work = follow::to_end(&jobs, &mut updates, job, &cancel, &mut nothing);
    let (status, signal) = session.guard(work).await;
    let Some(status) = status? else { return Err(Error::Cancelled.into()) };
    match (status.state, status.outcome.as_deref()) {
        (_, Some(JobOutcome::Deleted(report))) => Ok((report.clone(), signal)),
        (JobState::Cancelled, _) => Ok((DeletionReport::default(), signal)),
        _ => Err(Stop::Error(anyhow::anyhow!(status.why.clone().unwrap_or_else(|| "the deletion did not end".into())))),
    }
}

fn names(plan: &Plan) -> String {
    match plan.models.as_slice() {
        [one] => one.to_string(),
        many => count(many.len(), "model"),
    }
}

/// The plan for a person: every path, every byte, everything that stays.
fn describe(plan: &Plan) -> String {
    let mut out = format!(
        "{}: {} to remove, {} to free\n",
        names(plan),
        count(plan.steps.len(), "path"),
        Bytes(plan.expected_bytes)
    );
    if plan.models.len() > 1 {
        plan.models.iter().for_each(|model| out.push_str(&format!("  {model}\n")));
    }
    for step in &plan.steps {
        let bytes = if step.bytes > 0 { format!("  {}", Bytes(step.bytes)) } else { String::new() };
        out.push_str(&format!("  remove  {}{bytes}\n", text::printable_path(&step.path())));
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
fn unseen(plan: &Plan) -> Option<String> {
    let what = if plan.in_use_by.is_empty() { "not seen in use" } else { "others may use it" };
    (plan.unreadable_processes > 0).then(|| {
        format!("{what}: {} of other users could not be looked into", count(plan.unreadable_processes, "process"))
    })
}

fn result(plan: &Plan, report: &DeletionReport) -> String {
    let mut out = format!("{}: {} freed", names(plan), Bytes(report.freed_bytes));
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
