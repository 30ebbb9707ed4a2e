//! Who is told of what: the one place where the queue changes, and those who follow it.

use std::sync::Weak;

use jiff::{SignedDuration, Timestamp};
use tokio::sync::mpsc;

use super::{State, Worker};
use crate::jobs::{EVENT_VERSION, JobEvent, JobEventKind, JobId, Subscription, Update};

/// Updates that a subscriber may lag behind before single events are replaced by a snapshot.
const BACKLOG: usize = 256;

pub(super) struct Subscriber {
    id: u64,
    updates: mpsc::Sender<Update>,
    /// Its channel was full; a task waits for room to give it a snapshot.
    lags: bool,
}

impl Worker {
    pub(in crate::jobs) fn subscribe(&self) -> Subscription {
        let mut state = self.lock();
        let (updates, receiver) = mpsc::channel(BACKLOG);
        // The channel is new and empty: the first update always fits.
        let _ = updates.try_send(Update::Snapshot(state.snapshot.clone()));
        if !self.root.is_cancelled() {
            let id = state.next_subscriber;
            state.next_subscriber += 1;
            state.subscribers.push(Subscriber { id, updates, lags: false });
        }
        Subscription { updates: receiver }
    }

    /// The only place where the queue changes: the event is numbered, folded in and told.
    pub(super) fn emit(&self, state: &mut State, job: JobId, mut kind: JobEventKind) {
        if let JobEventKind::Retrying { after_s, until: until @ None, .. } = &mut kind {
            let after = i64::try_from(*after_s).map_or(SignedDuration::ZERO, SignedDuration::from_secs);
            *until = Timestamp::now().checked_add(after).ok();
        }
        let lasting = !matches!(
            kind,
            JobEventKind::Progress { .. } | JobEventKind::Verifying { .. } | JobEventKind::Output { .. }
        );
        let event = JobEvent { version: EVENT_VERSION, number: state.snapshot.number + 1, job, kind };
        state.snapshot.apply(&event);
        self.deliver(state, &Update::Event(event));
        if lasting && self.queue_file.is_some() {
            self.changed.notify_one();
        }
    }

    /// For what no event says: the limit and the warnings.
    pub(super) fn tell_everything(&self, state: &mut State) {
        let update = Update::Snapshot(state.snapshot.clone());
        self.deliver(state, &update);
    }

    fn deliver(&self, state: &mut State, update: &Update) {
        state.subscribers.retain_mut(|subscriber| {
            if subscriber.lags {
                return !subscriber.updates.is_closed();
            }
            match subscriber.updates.try_send(update.clone()) {
                Ok(()) => true,
                Err(mpsc::error::TrySendError::Closed(_)) => false,
                Err(mpsc::error::TrySendError::Full(_)) => {
                    subscriber.lags = true;
                    self.runtime.spawn(catch_up(self.me.clone(), subscriber.id, subscriber.updates.clone()));
                    true
                }
            }
        });
    }
}

/// Gives a slow subscriber the state of everything once it has read half of what waits for it.
async fn catch_up(worker: Weak<Worker>, id: u64, updates: mpsc::Sender<Update>) {
    let Ok(mut permits) = updates.reserve_many(BACKLOG / 2).await else { return };
    let Some(worker) = worker.upgrade() else { return };
    let mut state = worker.lock();
    let update = Update::Snapshot(state.snapshot.clone());
    if let (Some(subscriber), Some(permit)) =
        (state.subscribers.iter_mut().find(|subscriber| subscriber.id == id), permits.next())
    {
        subscriber.lags = false;
        permit.send(update);
    }
}
