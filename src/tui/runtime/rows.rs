//! Rows of a scan on their way to the screen: collected, so that a thousand of them are a few messages.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::provisioner::ScanEvent;
use crate::tui::msg::{Generation, Msg};

/// Where the threads of a scan put what they find.
#[derive(Default)]
pub(super) struct Rows {
    pending: Mutex<Pending>,
    news: Notify,
}

#[derive(Default)]
struct Pending {
    generation: Generation,
    events: Vec<ScanEvent>,
    done: bool,
}

impl Rows {
    fn lock(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A scan begins: what an older one found or still finds is dropped.
    pub(super) fn begin(&self, generation: Generation) {
        *self.lock() = Pending { generation, events: Vec::new(), done: false };
    }

    /// Adds what scan `generation` found.
    pub(super) fn add(&self, generation: Generation, event: ScanEvent) {
        let mut pending = self.lock();
        if pending.generation == generation {
            pending.events.push(event);
            drop(pending);
            self.news.notify_one();
        }
    }

    /// Scan `generation` is over.
    pub(super) fn end(&self, generation: Generation) {
        let mut pending = self.lock();
        if pending.generation == generation {
            pending.done = true;
            drop(pending);
            self.news.notify_one();
        }
    }

    /// Waits until there is something to take.
    pub(super) async fn news(&self) {
        self.news.notified().await;
    }

    /// Whether the scan is over, so that there is nothing to wait for before taking the rest.
    pub(super) fn is_done(&self) -> bool {
        self.lock().done
    }

    /// Everything that was found since the last call, as messages.
    pub(super) fn take(&self) -> Vec<Msg> {
        let mut pending = self.lock();
        let mut messages = Vec::new();
        if !pending.events.is_empty() {
            messages.push(Msg::Scanned(pending.generation, std::mem::take(&mut pending.events)));
        }
        if std::mem::take(&mut pending.done) {
            messages.push(Msg::ScanDone(pending.generation));
        }
        messages
    }
}
