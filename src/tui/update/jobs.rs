//! What the queue tells: progress, and results as notices.

use std::collections::BTreeMap;

use super::{Effects, models, read_host};
use crate::jobs::{JobEventKind, JobId, JobOutcome, JobSpec, JobState, JobStatus, Update};
use crate::model::{Bytes, DeletionReport, Verification, text};
use crate::tui::msg::Now;
use crate::tui::state::{Dirty, Level, State};

/// Takes an update in. What only moves a bar can wait for the next slow frame.
pub(super) fn updated(state: &mut State, update: Update, now: Now) -> (Effects, Dirty) {
    let before: BTreeMap<JobId, JobState> = states(state);
    let first = !state.queue.known;
    let mut dirty = Dirty::Now;
    match update {
        Update::Snapshot(snapshot) => {
            for warning in snapshot.warnings.iter().filter(|line| !state.queue.snapshot.warnings.contains(line)) {
                state.notices.add(Level::Warn, warning.clone(), now.at);
            }
            state.queue.snapshot = snapshot;
            state.queue.known = true;
        }
        Update::Event(event) => {
            if matches!(event.kind, JobEventKind::Progress { .. }) {
                dirty = Dirty::Progress;
            }
            state.queue.snapshot.apply(&event);
        }
    }
    if dirty == Dirty::Progress || first {
        return (Vec::new(), dirty);
    }
    let ended: Vec<JobStatus> = state
        .queue
        .snapshot
        .jobs
        .iter()
        .filter(|job| job.state.has_ended() && !before.get(&job.id).is_some_and(|state| state.has_ended()))
        .cloned()
        .collect();
    let mut changed = false;
    for job in &ended {
        let (level, line) = result(job);
        state.say(level, line, now);
        changed |= !matches!(job.spec, JobSpec::Verify { .. });
    }
    if !changed {
        return (Vec::new(), dirty);
    }
    (vec![models::scan(state, now), read_host(state, now)], dirty)
}

fn states(state: &State) -> BTreeMap<JobId, JobState> {
    state.queue.snapshot.jobs.iter().map(|job| (job.id, job.state)).collect()
}

/// The line that tells how a job ended.
fn result(job: &JobStatus) -> (Level, String) {
    let subject = job.spec.subject();
    let why = || job.why.clone().unwrap_or_else(|| "no reason given".to_owned());
    match (job.state, job.outcome.as_deref()) {
        (JobState::Failed, _) => (Level::Bad, format!("{} {subject} failed: {}", job.spec.kind(), why())),
        (JobState::Cancelled, _) if matches!(job.spec, JobSpec::Download(_)) => {
            (Level::Info, format!("cancelled {subject}; what is there stays for the next try"))
        }
        (JobState::Cancelled, _) => (Level::Info, format!("cancelled: {} {subject}", job.spec.kind())),
        (_, Some(JobOutcome::Deleted(report))) => deleted(&subject, report),
        (_, Some(JobOutcome::Verified(models))) => verified(models),
        (_, Some(JobOutcome::Fetched(0))) => (Level::Done, format!("{subject} was here already")),
        (_, Some(JobOutcome::Fetched(bytes))) => {
            (Level::Done, format!("{subject} is here: {} fetched and verified", Bytes(*bytes)))
        }
        (_, None) => (Level::Done, format!("{} {subject}: done", job.spec.kind())),
    }
}

fn deleted(subject: &str, report: &DeletionReport) -> (Level, String) {
    let mut line = format!("deleted {subject}: {} freed", Bytes(report.freed_bytes));
    if report.held_bytes > 0 {
        line.push_str(&format!(", {} of it only when the process that holds it ends", Bytes(report.held_bytes)));
    }
    let Some(first) = report.failed.first() else { return (Level::Done, line) };
    let more = match report.failed.len() {
        1 => String::new(),
        many => format!(" (and {} more)", many - 1),
    };
    line.push_str(&format!(
        "; not removed: {}: {}{more}",
        text::printable_path(&first.path),
        text::printable(&first.error)
    ));
    (Level::Bad, line)
}

fn verified(models: &[Verification]) -> (Level, String) {
    let wrong: Vec<String> = models
        .iter()
        .flat_map(|model| model.files.iter().map(move |file| (model, file)))
        .filter(|(_, file)| !file.status.is_ok())
        .map(|(model, file)| {
            format!("{} {} is {}", text::printable(&model.model.id), text::printable(&file.path), file.status.name())
        })
        .collect();
    match wrong.as_slice() {
        [] if models.iter().all(|model| model.ok) => {
            let files: usize = models.iter().map(|model| model.files.len()).sum();
            let unknown = models
                .iter()
                .flat_map(|model| &model.files)
                .filter(|file| file.status == crate::model::FileStatus::NoChecksum)
                .count();
            let name = match models {
                [one] => text::printable(&one.model.id),
                many => format!("{} models", many.len()),
            };
            let note = match unknown {
                0 => String::new(),
                some => format!(", {some} of them without a known checksum"),
            };
            let noun = if files == 1 { "file is" } else { "files are" };
            (Level::Done, format!("verified {name}: {files} {noun} right{note}"))
        }
        [] => (Level::Bad, "verified: something is wrong, but no file of it".to_owned()),
        [one] => (Level::Bad, format!("verified: {one}")),
        [first, rest @ ..] => (Level::Bad, format!("verified: {first} (and {} more)", rest.len())),
    }
}
