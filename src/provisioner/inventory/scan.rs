//! Scanning every store at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio_util::sync::CancellationToken;

use super::holders::LastUse;
use super::{Inventory, ScanEvent};
use crate::model::StoreSummary;
use crate::store::fingerprint::Fingerprint;
use crate::store::{Part, Row, Store};

impl Inventory {
    /// Scans every store, each on its own thread. `sink` gets rows as they are found; each store's summary comes after
    /// its rows; the call returns after the last. Stops soon after `cancel`.
    ///
    /// `sink` is called from several threads at once.
    pub fn scan(&self, sink: &(dyn Fn(ScanEvent) + Sync), cancel: &CancellationToken) {
        self.scan_stores(false, sink, cancel);
    }

    /// The same for a screen, which must not wait for headers that nobody has read before: rows of a store that has any are
    /// given with what the first 64 KiB of each tell, and then again with all of it.
    pub fn scan_at_a_glance_first(&self, sink: &(dyn Fn(ScanEvent) + Sync), cancel: &CancellationToken) {
        self.scan_stores(true, sink, cancel);
    }

    fn scan_stores(&self, glance_first: bool, sink: &(dyn Fn(ScanEvent) + Sync), cancel: &CancellationToken) {
        self.memory.refresh();
        let known = self.known();
        let last_use = LastUse::new(self);
        let scan = |store: &dyn Store| -> StoreSummary {
            let mut give = |mut row: Row| {
                last_use.note(&mut row.model, row.usage.iter().map(|(inode, _)| *inode));
                row.model.protected = self.is_protected(&row.model);
                self.recall(store, Part::Whole, &mut row.model, row.usage.iter().map(|(inode, _)| *inode));
                sink(ScanEvent::Row(Box::new(row)));
            };
            let missed = Arc::new(AtomicBool::new(false));
            let glance = store.at_a_glance(&missed).filter(|_| glance_first);
            let glanced = glance.map(|glance| glance.scan(&mut give, cancel));
            let mut summary = match glanced.filter(|_| !missed.load(Ordering::Relaxed)) {
                Some(all) => all,
                None => store.scan(&mut give, cancel),
            };
            let remarks = known.remarks.iter().filter(|said| said.kind == summary.store && said.root == summary.path);
            summary.warnings.extend(remarks.map(|remark| remark.line.clone()));
            summary
        };
        match known.stores.as_ref() {
            // One store needs no thread beside the caller's.
            [store] => sink(ScanEvent::Store(scan(store.as_ref()))),
            stores => std::thread::scope(|scope| {
                for store in stores {
                    scope.spawn(|| sink(ScanEvent::Store(scan(store.as_ref()))));
                }
            }),
        }
    }

    /// What changes when another program changes one of the stores. See [`Store::fingerprint`].
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        let mut all = Fingerprint::default();
        for store in self.stores().iter() {
            all.merge(&store.fingerprint());
        }
        all
    }

    /// Every row and every store's summary, in the order of the stores and of the ids.
    #[must_use]
    pub fn scan_all(&self, cancel: &CancellationToken) -> (Vec<Row>, Vec<StoreSummary>) {
        let found = std::sync::Mutex::new((Vec::new(), Vec::new()));
        self.scan(
            &|event| {
                let mut found = found.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                match event {
                    ScanEvent::Row(row) => found.0.push(*row),
                    ScanEvent::Store(summary) => found.1.push(summary),
                }
            },
            cancel,
        );
        let (mut rows, mut summaries): (Vec<Row>, Vec<StoreSummary>) =
            found.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        rows.sort_by(|a, b| a.model.identity.cmp(&b.model.identity));
        summaries.sort_by(|a, b| (a.store, &a.path).cmp(&(b.store, &b.path)));
        (rows, summaries)
    }
}
