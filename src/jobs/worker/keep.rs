//! The queue file: written when the queue has changed, and when the worker ends.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::Worker;
use crate::error::Result;
use crate::jobs::queue_file::Saved;

/// Changes within this time are written to the queue file together.
const DEBOUNCE: Duration = Duration::from_millis(200);
/// How a warning about the queue file begins.
const NOT_KEPT: &str = "the queue is not kept";

impl Worker {
    pub(super) fn save(&self) -> Result<()> {
        let Some(file) = &self.queue_file else { return Ok(()) };
        file.write(|| {
            let state = self.lock();
            Saved::of(&state.snapshot, state.next_job, &self.foreign).with_limit(state.chosen_limit)
        })
    }

    /// A queue that cannot be written is worth a warning, which goes when writing works again.
    fn note_save(&self, result: &Result<()>) {
        let mut state = self.lock();
        let before = state.snapshot.warnings.clone();
        state.snapshot.warnings.retain(|warning| !warning.starts_with(NOT_KEPT));
        if let Err(error) = result {
            state.snapshot.warnings.push(format!("{NOT_KEPT}: {error}"));
        }
        if state.snapshot.warnings != before {
            self.tell_everything(&mut state);
        }
    }
}

pub(super) async fn keep_queue_file(worker: Weak<Worker>, changed: Arc<Notify>, root: CancellationToken) {
    loop {
        tokio::select! {
            () = root.cancelled() => return,
            () = changed.notified() => {}
        }
        tokio::select! {
            () = root.cancelled() => return,
            () = tokio::time::sleep(DEBOUNCE) => {}
        }
        let Some(worker) = worker.upgrade() else { return };
        let saving = Arc::clone(&worker);
        if let Ok(result) = tokio::task::spawn_blocking(move || saving.save()).await {
            worker.note_save(&result);
        }
    }
}
