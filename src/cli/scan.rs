//! One look at every store, for the commands that show many models.

use std::io::ErrorKind;

use super::exit::{Exit, Stop};
use super::list::count;
use super::session::Session;
use crate::error::Error;
use crate::model::filter::SortKey;
use crate::model::{StoreSummary, text};
use crate::provisioner::{Duplicate, duplicates, mark_duplicates};
use crate::store::{Row, Store};

/// What was found.
pub(super) struct Scan {
    /// Sorted by name.
    pub(super) rows: Vec<Row>,
    pub(super) stores: Vec<StoreSummary>,
    /// Files that are in several places of this host.
    pub(super) duplicates: Vec<Duplicate>,
    /// Processes that could not be looked into; `None` until somebody looks.
    pub(super) unreadable_processes: Option<usize>,
}

impl Scan {
    /// What is wrong with the stores as a whole.
    pub(super) fn say_warnings(&self, session: &Session) {
        for store in &self.stores {
            for warning in &store.warnings {
                session.output.say(&format!("llorch-models: {} store: {warning}", store.store));
            }
        }
    }
}

/// Scans every store, or the one of `--store-path`.
pub(super) async fn run(session: &mut Session) -> Result<(Scan, Option<Exit>), Stop> {
    let (inventory, cancel) = (session.inventory.clone(), session.cancel.clone());
    let ((mut rows, mut stores), signal) = session.blocking(move || inventory.scan_all(&cancel)).await?;
    // Copies count wherever they are.
    let duplicates = duplicates(&rows);
    mark_duplicates(&duplicates, &mut rows);
    if let Some(root) = &session.store_path {
        rows.retain(|row| row.model.identity.store_path == *root);
        stores.retain(|store| store.path == *root);
        if stores.is_empty() && signal.is_none() {
            let root = text::printable_path(root);
            return Err(Stop::Usage(format!("no store has the root {root}; `llorch-models list --json` names them")));
        }
    }
    look_at_models_dir(session, &mut stores)?;
    rows.sort_by(|a, b| SortKey::Name.compare(&a.model, &b.model));
    Ok((Scan { rows, stores, duplicates, unreadable_processes: None }, signal))
}

/// A models folder that somebody named has to be a folder; one that is not there is empty, which is worth a word.
fn look_at_models_dir(session: &Session, stores: &mut [StoreSummary]) -> Result<(), Stop> {
    let folder = &session.settings.models_dir;
    if *folder == session.settings.paths.models {
        return Ok(());
    }
    let root = session.provisioner.store().root();
    match std::fs::metadata(folder) {
        Ok(status) if status.is_dir() => {}
        Ok(_) => return Err(Error::io("read", folder)(ErrorKind::NotADirectory.into()).into()),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            for store in stores.iter_mut().filter(|store| store.path == root) {
                store.warnings.push(format!("{} does not exist", text::printable_path(folder)));
            }
        }
        // The store says it itself.
        Err(_) => {}
    }
    Ok(())
}

/// Looks which processes hold the models, once for all of them.
pub(super) async fn look_for_holders(session: &mut Session, scan: &mut Scan) -> Result<Option<Exit>, Stop> {
    let (inventory, mut rows) = (session.inventory.clone(), std::mem::take(&mut scan.rows));
    let ((rows, unreadable), signal) = session
        .blocking(move || {
            let unreadable = inventory.look_for_holders(&mut rows);
            (rows, unreadable)
        })
        .await?;
    scan.rows = rows;
    scan.unreadable_processes = Some(unreadable);
    if unreadable > 0 && signal.is_none() {
        session.output.say(&format!(
            "llorch-models: {} of other users could not be looked into; what they hold is not known",
            count(unreadable, "process")
        ));
    }
    Ok(signal)
}
