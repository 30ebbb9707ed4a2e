//! `verify`: models against what records, headers and shard numbers promise.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio::time::interval;

use super::arguments::Verify;
use super::exit::{Exit, Outcome, Stop};
use super::list::count;
use super::output::progress::Bar;
use super::scan;
use super::session::{Found, Session};
use super::updates::quoted;
use crate::config::VerifySettings;
use crate::error::Error;
use crate::model::filter::SortKey;
use crate::model::{Digest, FileCheck, FileStatus, ORIGIN_UNKNOWN, StoreKind, Verification, set_of, text, way_out};
use crate::provisioner::{Inventory, PlanTarget};
use crate::store::verify::{Depth, Event};

/// Models whose way out is told, more than these if so few are left, and files that are named in one.
const NAMED_WAYS_OUT: usize = 8;
const FEW: usize = 4;
const MOST_FILES_AGAIN: usize = 8;

/// `verify --json`.
#[derive(Serialize)]
struct Verified<'a> {
    models: &'a [Verification],
}

/// Where the reading is, and what was found since the last look.
#[derive(Default)]
struct Position {
    file: String,
    bytes: u64,
    total: u64,
    /// What is known of models that come after one that is not done.
    done: BTreeMap<usize, String>,
    /// The model whose lines come next.
    next: usize,
    lines: String,
}

impl Position {
    /// Models end in any order and are told in the one that was asked for.
    fn finished(&mut self, model: usize, lines: String) {
        self.done.insert(model, lines);
        while let Some(lines) = self.done.remove(&self.next) {
            self.lines.push_str(&lines);
            self.next += 1;
        }
    }
}

pub(super) async fn run(session: &mut Session, arguments: Verify) -> Outcome {
    let targets = if arguments.all {
        let (scan, signal) = scan::run(session).await?;
        if let Some(exit) = signal {
            return Ok(exit);
        }
        scan.say_warnings(session);
        {
            let mut rows = scan.rows;
            rows.sort_by(|a, b| SortKey::Name.compare(&a.model, &b.model));
            rows.into_iter().map(|row| PlanTarget::whole(row.model.identity)).collect()
        }
    } else {
        match session.find_to_read(arguments.reference).await? {
            Found::Targets(targets) => targets,
            Found::Signal(exit) => return Ok(exit),
        }
    };
    let depth = match (arguments.quick, arguments.changed) {
        (true, _) => Depth::Quick,
        (false, true) => Depth::Changed,
        (false, false) => Depth::Full,
    };
    let position = Arc::new(Mutex::new(Position::default()));
    let bar = Bar::new(session.output.bars && !arguments.quick);
    let inventory = match arguments.limit {
        Some(limit) => {
            let pace = VerifySettings { limit: Some(limit.0), ..session.settings.verify };
            session.inventory.clone().pacing(pace)
        }
        None => session.inventory.clone(),
    };
    let reading = tokio::task::spawn_blocking({
        let (cancel, position) = (session.cancel.clone(), Arc::clone(&position));
        move || {
            let mut note = |event: Event<'_>| {
                let mut position = position.lock().unwrap_or_else(PoisonError::into_inner);
                match event {
                    Event::Started { file, .. } => position.file = text::printable(file),
                    Event::Progress { bytes, total } => (position.bytes, position.total) = (bytes, total),
                    Event::Finished { task, verification } => position.finished(task, lines(verification)),
                    Event::Read { .. } | Event::Checked { .. } => {}
                }
            };
            inventory.verify_all(&targets, depth, &mut note, &cancel)
        }
    });
    let output = session.output.clone();
    let show = |bar: &Bar| -> Result<(), Stop> {
        let (lines, file, bytes, total) = {
            let mut position = position.lock().unwrap_or_else(PoisonError::into_inner);
            (std::mem::take(&mut position.lines), position.file.clone(), position.bytes, position.total)
        };
        let mut printed = Ok(());
        if !lines.is_empty() && !arguments.json {
            bar.aside(|| printed = output.print(&lines));
        }
        bar.show(&file, bytes, total);
        printed
    };
    let cancel = session.cancel.clone();
    let watching = async {
        tokio::pin!(reading);
        let mut ticks = interval(Duration::from_millis(250));
        let mut closed = Ok(());
        loop {
            tokio::select! {
                result = &mut reading => break (result, closed),
                _ = ticks.tick() => if closed.is_ok() {
                    closed = show(&bar);
                    if closed.is_err() {
                        // Nobody reads what is found.
                        cancel.cancel();
                    }
                }
            }
        }
    };
    let ((result, closed), signal) = session.look(watching).await;
    bar.end();
    closed?;
    show(&Bar::new(false))?;
    if let Some(exit) = signal {
        return Ok(exit);
    }
    let models = match result {
        Ok(models) => models?,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => return Err(Error::Cancelled.into()),
        },
    };
    if arguments.json {
        session.output.json(&Verified { models: &models })?;
    }
    let bad = models.iter().filter(|model| !model.ok).count();
    if bad > 0 {
        session.output.say(&format!("llorch-models: {} of {} damaged", bad, count(models.len(), "model")));
        let damaged: Vec<Verification> = models.into_iter().filter(|model| !model.ok).collect();
        let begun = damaged.iter().any(|model| model.files.iter().any(|file| is_unnamed(model.model.store, file)));
        let ((lines, others), _) = ways_out(session, damaged).await?;
        for line in lines {
            session.output.say(&line);
        }
        if others > 0 {
            let (verb, those) = if others == 1 { ("is", "it") } else { ("are", "them") };
            session.output.say(&format!("and {others} more {verb} damaged; verify {those} by name for the way out"));
        }
        if begun {
            session
                .output
                .say("what was begun goes on with the download that began it; to remove it: llorch-models sweep");
        }
        return Ok(Exit::Failed);
    }
    Ok(Exit::Done)
}

/// What can be done about the first of these models, a line each or one for each command; and how many others there are: each has
/// to be looked up.
async fn ways_out(
    session: &mut Session,
    damaged: Vec<Verification>,
) -> Result<((Vec<String>, usize), Option<Exit>), Stop> {
    let inventory = session.inventory.clone();
    session
        .blocking(move || {
            // When few are left, a line that says so would take as much room as theirs.
            let named = if damaged.len() <= NAMED_WAYS_OUT + FEW { damaged.len() } else { NAMED_WAYS_OUT };
            let lines = damaged.iter().take(named).flat_map(|verification| way_out_of(&inventory, verification));
            (lines.collect(), damaged.len() - named)
        })
        .await
}

/// The commands that fetch again exactly what is damaged, where a download goes to its store and its origin is known; else what can be
/// done instead.
fn way_out_of(inventory: &Inventory, verification: &Verification) -> Vec<String> {
    let id = &verification.model;
    // What has only begun is no damage that anything but its download mends; and what is gone by now has no way out.
    if verification.files.iter().all(|file| file.is_ok() || is_unnamed(id.store, file)) {
        return Vec::new();
    }
    let Ok(details) = inventory.contents(id) else { return Vec::new() };
    let model = &details.model;
    let to = match id.store {
        StoreKind::Flat => Some(""),
        StoreKind::Hf => Some(" --to hf"),
        _ => None,
    };
    let damage = verification.files.iter().filter(|file| !file.is_ok() && !is_unnamed(id.store, file));
    let worst = damage.map(|file| file.status).reduce(FileStatus::worse).unwrap_or(FileStatus::Ok);
    if let (Some(to), Some(reference)) = (to, &model.reference)
        && verification.files.iter().any(|file| can_be_fetched(id.store, file))
        && !model.warnings.iter().any(|line| line == ORIGIN_UNKNOWN)
    {
        let line = |at: &str, files: &str| {
            let reference = text::printable(reference);
            format!("to fetch what is damaged again: llorch-models download {reference}{at}{to}{files}")
        };
        return match files_again(verification) {
            Some(again) => again.iter().map(|(at, files)| line(at, files)).collect(),
            // More files than anybody would type.
            None => vec![line("", " --file '*' --force")],
        };
    }
    way_out(model, worst).map(|line| format!("{}: {line}", text::printable(&id.id))).into_iter().collect()
}

/// Whether it is a payload that no listing names: it cannot be asked for by a name.
fn is_unnamed(store: StoreKind, file: &FileCheck) -> bool {
    let is_payload = |path: &str| path.strip_prefix("blobs/").and_then(Digest::parse).is_some();
    store == StoreKind::Hf && !file.is_ok() && is_payload(&file.path)
}

/// Whether it is damaged and fetching it anew mends that.
fn can_be_fetched(store: StoreKind, file: &FileCheck) -> bool {
    !file.is_ok() && file.status != FileStatus::Unreadable && !is_unnamed(store, file)
}

/// For each commit that files which are not right belong to: `@COMMIT`, or nothing where it is not known, and the options that
/// name these files, with `--force` where other bytes lie under their names. `None` where they are too many to name.
fn files_again(model: &Verification) -> Option<Vec<(String, String)>> {
    let mut by_commit: BTreeMap<Option<&str>, BTreeMap<&str, bool>> = BTreeMap::new();
    for file in model.files.iter().filter(|file| can_be_fetched(model.model.store, file)) {
        let files = by_commit.entry(commit_of(model, file)).or_default();
        *files.entry(file.path.as_str()).or_default() |= file.status != FileStatus::Missing;
    }
    let count: usize = by_commit.values().map(BTreeMap::len).sum();
    let unnamed = model.files.iter().any(|file| file.more_missing > 0);
    if unnamed || count > MOST_FILES_AGAIN {
        return None;
    }
    let command = |(commit, files): (Option<&str>, BTreeMap<&str, bool>)| {
        let named: String = files.keys().map(|path| format!(" --file {}", quoted(path))).collect();
        let force = if files.values().any(|there| *there) { " --force" } else { "" };
        (commit.map_or_else(String::new, |commit| format!("@{commit}")), format!("{named}{force}"))
    };
    Some(by_commit.into_iter().map(command).collect())
}

/// The commit whose file belongs there. Of a file that only others of its set name it is that of those.
fn commit_of<'a>(model: &'a Verification, file: &'a FileCheck) -> Option<&'a str> {
    let is_commit = |commit: &&str| commit.len() == 40 && commit.bytes().all(|byte| byte.is_ascii_hexdigit());
    let of_set = || {
        let set = set_of(&file.path);
        model.files.iter().find(|other| other.commit.is_some() && set.is_some() && set_of(&other.path) == set)
    };
    let of_any = || model.files.iter().find(|other| other.commit.is_some());
    let known = Some(file).filter(|file| file.commit.is_some()).or_else(of_set).or_else(of_any)?;
    known.commit.as_deref().filter(is_commit)
}

fn looks_whole(files: usize) -> String {
    format!("{} whole", if files == 1 { "1 file looks".to_owned() } else { format!("{files} files look") })
}

/// One line a model, and one for each of its files that is not right.
fn lines(model: &Verification) -> String {
    let unchecked = model.files.iter().filter(|file| file.status == FileStatus::NoChecksum).count();
    let note = match unchecked {
        _ if model.files.is_empty() => " (it has no file to check)".to_owned(),
        0 => String::new(),
        n => format!(" ({}, no checksum known)", looks_whole(n)),
    };
    let mut out = format!("{}  {}{note}\n", if model.ok { "ok     " } else { "damaged" }, model.model);
    let told = |file: &&FileCheck| !file.is_ok() || file.note.is_some();
    for file in model.files.iter().filter(told) {
        let note = file.note.as_deref().map(|note| format!("; {}", text::printable(note))).unwrap_or_default();
        let (path, status) = (text::printable(&file.path), file.status.name());
        let revisions = revisions(file);
        let more = match file.more_missing {
            0 => String::new(),
            1 => ", and 1 more file of its set".to_owned(),
            more => format!(", and {more} more files of its set"),
        };
        out.push_str(&format!("         {path}{revisions}: {status}{more}{}{note}\n", difference(file)));
    }
    out
}

/// ` at 1a2b3c4, 5d6e7f8 and 3 more`
fn revisions(file: &FileCheck) -> String {
    const NAMED: usize = 3;
    let short = |commit: &String| text::printable(commit).chars().take(7).collect::<String>();
    let named: Vec<String> = file.revisions.iter().take(NAMED).map(short).collect();
    match file.revisions.len() {
        0 => String::new(),
        all if all > NAMED => format!(" at {} and {} more", named.join(", "), all - NAMED),
        _ => format!(" at {}", named.join(", ")),
    }
}

fn difference(file: &FileCheck) -> String {
    let lengths = file.algorithm.as_deref() == Some("structure");
    let unit = if lengths { " bytes" } else { "" };
    match (&file.expected, &file.actual) {
        (Some(expected), Some(actual)) if expected != actual => {
            format!(" (expected {}{unit}, found {}{unit})", text::printable(expected), text::printable(actual))
        }
        (None, Some(reason)) if matches!(file.status, FileStatus::Corrupt | FileStatus::Unreadable) => {
            format!(" ({})", text::printable(reason))
        }
        (None, Some(length)) if !file.status.is_ok() => format!(" (found {}{unit})", text::printable(length)),
        _ => String::new(),
    }
}
