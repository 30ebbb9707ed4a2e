//! One look at every store, for the commands that show many models.

use super::exit::{Exit, Stop};
use super::list::count;
use super::session::Session;
use crate::model::filter::SortKey;
use crate::model::{StoreSummary, text};
use crate::store::Row;

/// What was found.
pub(super) struct Scan {
    /// Sorted by name.
    pub(super) rows: Vec<Row>,
    pub(super) stores: Vec<StoreSummary>,
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
    if let Some(root) = &session.store_path {
        rows.retain(|row| row.model.identity.store_path == *root);
        stores.retain(|store| store.path == *root);
        if stores.is_empty() && signal.is_none() {
            let root = text::printable_path(root);
            return Err(Stop::Usage(format!("no store has the root {root}; `llorch-models list --json` names them")));
        }
    }
    rows.sort_by(|a, b| SortKey::Name.compare(&a.model, &b.model));
    Ok((Scan { rows, stores }, signal))
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
    if unreadable > 0 && signal.is_none() {
        session.output.say(&format!(
            "llorch-models: {} of other users could not be looked into; what they hold is not known",
            count(unreadable, "process")
        ));
    }
    Ok(signal)
}
