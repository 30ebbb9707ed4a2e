//! How a job ended, in words: for the notice, and for its line in the queue.

use super::state::Level;
use crate::jobs::{JobOutcome, JobSpec, JobState, JobStatus};
use crate::model::{Bytes, DeletionReport, FileCheck, FileStatus, Verification, text};

/// The notice about a job that ended.
pub(crate) fn told(job: &JobStatus) -> (Level, String) {
    let subject = job.spec.subject();
    let why = || job.why.clone().unwrap_or_else(|| "no reason given".to_owned());
    match (job.state, job.outcome.as_deref()) {
        // What went wrong with a conversion names it already.
        (JobState::Failed, _) if matches!(job.spec, JobSpec::Convert(_)) && why().starts_with("converting ") => {
            (Level::Bad, why())
        }
        (JobState::Failed, _) => (Level::Bad, format!("{} {subject} failed: {}", job.spec.kind(), why())),
        (JobState::Cancelled, _) if matches!(job.spec, JobSpec::Download(_)) && job.bytes == 0 => (
            Level::Info,
            match job.total {
                Some(_) => format!("discarded {subject}; nothing of it stays"),
                None => format!("cancelled {subject} before its first byte"),
            },
        ),
        (JobState::Cancelled, _) if matches!(job.spec, JobSpec::Download(_)) => {
            (Level::Info, format!("cancelled {subject}; what is there stays for the next try"))
        }
        (JobState::Cancelled, _) => (Level::Info, format!("cancelled: {} {subject}", job.spec.kind())),
        (_, Some(JobOutcome::Deleted(report))) => {
            let (level, line) = deleted(report);
            let done = if matches!(job.spec, JobSpec::Sweep { .. }) { "swept" } else { "deleted" };
            (level, format!("{done} {subject}: {line}"))
        }
        (_, Some(JobOutcome::Verified(models))) => {
            let (level, line) = verified(models);
            (level, format!("verified {subject}: {line}"))
        }
        (_, Some(JobOutcome::Fetched(0))) => (Level::Done, format!("{subject} was here already")),
        (_, Some(JobOutcome::Converted(0))) => (Level::Done, format!("{subject} was converted already")),
        (_, Some(JobOutcome::Converted(bytes))) => (Level::Done, format!("{subject} is converted: {}", Bytes(*bytes))),
        (_, Some(JobOutcome::Fetched(bytes))) => {
            let why = job.output.first().map(|line| format!("; {line}")).unwrap_or_default();
            (Level::Done, format!("{subject} is here: {} fetched and verified{why}", Bytes(*bytes)))
        }
        (_, None) => (Level::Done, format!("{} {subject}: done", job.spec.kind())),
    }
}

/// What a job without bytes of its own came to, if it has ended well enough to have an outcome.
pub(crate) fn summary(job: &JobStatus) -> Option<(Level, String)> {
    match job.outcome.as_deref()? {
        JobOutcome::Deleted(report) => Some(deleted(report)),
        JobOutcome::Verified(models) => Some(verified(models)),
        JobOutcome::Fetched(_) | JobOutcome::Converted(_) => None,
    }
}

fn deleted(report: &DeletionReport) -> (Level, String) {
    let mut line = format!("{} freed", Bytes(report.freed_bytes));
    if report.held_bytes > 0 {
        line.push_str(&format!(", {} of it only when the process that holds it ends", Bytes(report.held_bytes)));
    }
    if let Some(note) = report.notes.first() {
        line.push_str(&format!("; {}", text::printable(note)));
    }
    let Some(first) = report.failed.first() else {
        return (if report.notes.is_empty() { Level::Done } else { Level::Warn }, line);
    };
    let more = match report.failed.len() {
        1 => String::new(),
        many => format!(" (and {} more)", many - 1),
    };
    let path = text::printable_path(&first.path);
    line.push_str(&format!("; not removed: {path}: {}{more}", text::printable(&first.error)));
    (Level::Bad, line)
}

/// Why, where that was no comparison.
fn reason(file: &FileCheck) -> String {
    match (&file.expected, &file.actual, file.status) {
        (None, Some(why), FileStatus::Corrupt | FileStatus::Unreadable) => format!(": {}", text::printable(why)),
        _ => String::new(),
    }
}

fn verified(models: &[Verification]) -> (Level, String) {
    let several = models.len() > 1;
    let files = || models.iter().flat_map(|model| model.files.iter().map(move |file| (model, file)));
    let wrong: Vec<String> = files()
        .filter(|(_, file)| !file.is_ok())
        .map(|(model, file)| {
            let model = if several { format!("{} ", text::printable(&model.model.id)) } else { String::new() };
            format!("{model}{} is {}{}", text::printable(&file.path), file.status.name(), reason(file))
        })
        .collect();
    match wrong.as_slice() {
        [] if models.iter().all(|model| model.ok) => {
            let unknown = files().filter(|(_, file)| file.status == FileStatus::NoChecksum).count();
            let right = files().count() - unknown;
            let says = |number: usize, one: &str, many: &str| match number {
                1 => format!("1 file {one}"),
                number => format!("{number} files {many}"),
            };
            let unknown_line = says(unknown, "looks", "look") + " whole, no checksum known";
            let line = match (right, unknown) {
                (0, 0) => "there is no file to check".to_owned(),
                (right, 0) => says(right, "is right", "are right"),
                (0, _) => unknown_line,
                (right, _) => format!("{}; {unknown_line}", says(right, "is right", "are right")),
            };
            (Level::Done, line)
        }
        [] => (Level::Bad, "something is wrong, but with no file that is there".to_owned()),
        [one] => (Level::Bad, one.clone()),
        [first, rest @ ..] => (Level::Bad, format!("{first} (and {} more)", rest.len())),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::model::{ModelId, StoreKind};

    fn said(statuses: &[FileStatus]) -> String {
        let files = statuses.iter().map(|status| FileCheck::new("m.gguf", *status)).collect();
        let model = ModelId { store: StoreKind::Flat, store_path: PathBuf::from("/m"), id: "m".to_owned() };
        verified(&[Verification { model, ok: statuses.iter().all(|status| status.is_ok()), files }]).1
    }

    #[test]
    fn a_file_of_which_nothing_was_compared_is_not_called_right() {
        use FileStatus::{NoChecksum, Ok};
        assert_eq!(said(&[]), "there is no file to check");
        assert_eq!(said(&[Ok]), "1 file is right");
        assert_eq!(said(&[NoChecksum]), "1 file looks whole, no checksum known");
        assert_eq!(said(&[Ok, Ok, NoChecksum]), "2 files are right; 1 file looks whole, no checksum known");
    }

    #[test]
    fn what_cannot_be_read_is_told_with_the_reason() {
        let mut check = FileCheck::new("m.gguf", FileStatus::Corrupt);
        check.actual = Some("it is a page of HTML".to_owned());
        assert_eq!(reason(&check), ": it is a page of HTML");
        check.expected = Some("abc".to_owned());
        assert_eq!(reason(&check), "");
    }
}
