//! `verify`: models against what records, headers and shard numbers promise.

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
use crate::error::Error;
use crate::model::{FileCheck, FileStatus, ModelId, StoreKind, Verification, text};
use crate::provisioner::PlanTarget;
use crate::store::verify::{Depth, Progress};

/// `verify --json`.
#[derive(Serialize)]
struct Verified<'a> {
    models: &'a [Verification],
}

/// Where the reading is: the file, bytes, all bytes.
type Position = Arc<Mutex<(String, u64, u64)>>;

pub(super) async fn run(session: &mut Session, arguments: Verify) -> Outcome {
    let targets = if arguments.all {
        let (scan, signal) = scan::run(session).await?;
        if let Some(exit) = signal {
            return Ok(exit);
        }
        scan.say_warnings(session);
        scan.rows.into_iter().map(|row| PlanTarget::whole(row.model.identity)).collect()
    } else {
        match session.find(arguments.reference).await? {
            Found::Targets(targets) => targets,
            Found::Signal(exit) => return Ok(exit),
        }
    };
    let depth = if arguments.quick { Depth::Quick } else { Depth::Full };
    let position = Position::default();
    let bar = Bar::new(session.output.bars && !arguments.quick);
    let reading = tokio::task::spawn_blocking({
        let (inventory, cancel, position) = (session.inventory.clone(), session.cancel.clone(), Arc::clone(&position));
        move || {
            let check = |target: &PlanTarget| {
                let mut note = |progress: Progress<'_>| {
                    *position.lock().unwrap_or_else(PoisonError::into_inner) =
                        (text::printable(progress.file), progress.bytes, progress.total);
                };
                inventory.verify(target, depth, &mut note, &cancel)
            };
            targets.iter().map(check).collect::<Result<Vec<_>, Error>>()
        }
    });
    let watching = async {
        tokio::pin!(reading);
        let mut ticks = interval(Duration::from_millis(250));
        loop {
            tokio::select! {
                result = &mut reading => break result,
                _ = ticks.tick() => {
                    let (file, bytes, total) = position.lock().unwrap_or_else(PoisonError::into_inner).clone();
                    bar.show(&file, bytes, total);
                }
            }
        }
    };
    let (result, signal) = session.guard(watching).await;
    bar.end();
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
    } else {
        let lines: String = models.iter().map(lines).collect();
        session.output.print(&lines)?;
    }
    let bad = models.iter().filter(|model| !model.ok).count();
    if bad > 0 {
        let damaged = models.iter().filter(|model| !model.ok).map(|model| model.model.clone()).collect();
        let (known, _) = origins(session, damaged).await?;
        let way_out = match known.as_slice() {
            [] => String::new(),
            [one] => format!("; `llorch-models download {one}` fetches what is missing"),
            several => format!("; `llorch-models download` fetches what is missing of {}", several.join(", ")),
        };
        session.output.say(&format!("llorch-models: {} of {} damaged{way_out}", bad, count(models.len(), "model")));
        return Ok(Exit::Failed);
    }
    Ok(Exit::Done)
}

/// Where the models of the flat stores came from, as far as it is known: only there a download mends them.
async fn origins(session: &mut Session, models: Vec<ModelId>) -> Result<(Vec<String>, Option<Exit>), Stop> {
    let inventory = session.inventory.clone();
    session
        .blocking(move || {
            let flat = models.iter().filter(|model| model.store == StoreKind::Flat);
            let known = flat.filter_map(|model| inventory.details(model).ok()?.model.reference);
            known.map(|reference| text::printable(&reference)).collect()
        })
        .await
}

/// One line a model, and one for each of its files that is not right.
fn lines(model: &Verification) -> String {
    let unchecked = model.files.iter().filter(|file| file.status == FileStatus::NoChecksum).count();
    let note = match unchecked {
        0 => String::new(),
        n => format!(" ({} without a known checksum)", count(n, "file")),
    };
    let mut out = format!("{}  {}{note}\n", if model.ok { "ok     " } else { "damaged" }, model.model);
    for file in model.files.iter().filter(|file| !file.status.is_ok()) {
        out.push_str(&format!(
            "         {}: {}{}\n",
            text::printable(&file.path),
            file.status.name(),
            difference(file)
        ));
    }
    out
}

fn difference(file: &FileCheck) -> String {
    match (&file.expected, &file.actual) {
        (Some(expected), Some(actual)) => {
            format!(" (expected {}, found {})", text::printable(expected), text::printable(actual))
        }
        _ => String::new(),
    }
}
