//! The queue: who waits, who runs, who is told.

mod claim;
mod control;
mod keep;
mod tell;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::task::JoinError;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::claim::Claim;
use self::keep::keep_queue_file;
use self::tell::Subscriber;
use super::queue_file::{ChosenLimit, Foreign, QueueFile, Saved};
use super::runner::{Done, Run, Runner, Tell};
use super::slot::{Hold, Slot};
use super::{JobEventKind, JobId, JobSpec, JobState, Snapshot};
use crate::error::{Error, Result};
use crate::model::text;

/// Ended jobs that stay in the list; older ones are cleared.
const ENDED: usize = 100;

/// The worker, shared by its handle and its tasks.
pub(in crate::jobs) struct Worker {
    state: Mutex<State>,
    runner: Arc<dyn Runner>,
    downloads: usize,
    runtime: Handle,
    tasks: TaskTracker,
    root: CancellationToken,
    /// Rung when the queue file no longer says what the queue is.
    changed: Arc<Notify>,
    /// Rung when a slot for downloads may be free.
    freed: Arc<Notify>,
    queue_file: Option<QueueFile>,
    /// Jobs of another models folder or hub: they stay in the file, and nothing but a cancellation touches them.
    foreign: HashMap<JobId, Foreign>,
    /// For the tasks that the worker starts.
    me: Weak<Self>,
}

#[derive(Default)]
struct State {
    /// What everybody sees. It changes only in [`Worker::emit`], through the reducer, so it is what subscribers compute.
    snapshot: Snapshot,
    next_job: u64,
    runs: HashMap<JobId, Running>,
    subscribers: Vec<Subscriber>,
    next_subscriber: u64,
    closing: bool,
    /// The limit, if a person chose it.
    chosen_limit: Option<ChosenLimit>,
}

struct Running {
    cancel: CancellationToken,
    /// What becomes of it when the cancellation has taken effect.
    then: Then,
    claim: Claim,
    hold: Hold,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    /// Nothing was asked for: the worker ends, and the job keeps its place.
    Keep,
    Pause,
    /// Resumed before the pause took effect.
    Resume,
    /// Back among those that wait, at that place.
    Queue(usize),
    /// Back among those that wait, right after the job that it made way for.
    After(JobId),
    Cancel,
    Discard,
}

impl Worker {
    /// A worker on the runtime of the caller, with the jobs of a former one.
    pub(in crate::jobs) fn start(
        runner: Arc<dyn Runner>,
        downloads: usize,
        limit: Option<u64>,
        queue_file: Option<QueueFile>,
        saved: Saved,
        warnings: Vec<String>,
    ) -> Arc<Self> {
        let mut state = State { next_job: saved.next.max(1), ..State::default() };
        state.chosen_limit = saved.limit;
        state.snapshot.limit = saved.limit.map_or(limit, |chosen| chosen.bytes_per_second);
        state.snapshot.warnings = warnings;
        state.snapshot.jobs = saved.jobs;
        let worker = Arc::new_cyclic(|me| Self {
            state: Mutex::new(state),
            runner,
            downloads: downloads.max(1),
            runtime: Handle::current(),
            tasks: TaskTracker::new(),
            root: CancellationToken::new(),
            changed: Arc::new(Notify::new()),
            freed: Arc::new(Notify::new()),
            queue_file,
            foreign: saved.foreign,
            me: me.clone(),
        });
        if worker.queue_file.is_some() {
            worker.runtime.spawn(keep_queue_file(worker.me.clone(), Arc::clone(&worker.changed), worker.root.clone()));
        }
        let mut state = worker.lock();
        if let Some(limit) = state.snapshot.limit {
            worker.runner.set_limit(Some(limit));
        }
        worker.start_what_can(&mut state);
        drop(state);
        worker
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic while the lock was held is caught at the job that had it; the values are whole at every step.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(in crate::jobs) fn submit(&self, spec: JobSpec) -> Result<JobId> {
        let mut state = self.lock();
        let id = JobId(state.next_job);
        if state.closing {
            return Err(refusal(id, "the queue is closing; nothing new is taken"));
        }
        state.next_job += 1;
        let position = state.snapshot.waiting();
        self.emit(&mut state, id, JobEventKind::Queued { spec: Box::new(spec), position });
        self.start_what_can(&mut state);
        Ok(id)
    }

    pub(in crate::jobs) fn set_limit(&self, limit: Option<u64>) {
        let mut state = self.lock();
        state.snapshot.limit = limit;
        state.chosen_limit = Some(ChosenLimit { bytes_per_second: limit });
        self.runner.set_limit(limit);
        self.tell_everything(&mut state);
        self.changed.notify_one();
    }

    /// Ends every task; places stay. Subscriptions end when the last task has.
    pub(in crate::jobs) fn stop(&self) {
        self.lock().closing = true;
        self.root.cancel();
        self.tasks.close();
    }

    pub(in crate::jobs) async fn shut_down(&self) {
        self.stop();
        self.tasks.wait().await;
        self.lock().subscribers.clear();
        if self.queue_file.is_none() {
            return;
        }
        let Some(worker) = self.me.upgrade() else { return };
        let written = self.runtime.spawn_blocking(move || {
            let saved = worker.save();
            if let Some(file) = &worker.queue_file {
                file.release();
            }
            saved
        });
        match written.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!("{error}"),
            Err(error) => tracing::warn!("the queue file was not written: {error}"),
        }
    }

    fn start_what_can(&self, state: &mut State) {
        if state.closing {
            return;
        }
        let waiting: Vec<(JobId, JobSpec)> = state
            .snapshot
            .jobs
            .iter()
            .filter(|job| job.state == JobState::Queued)
            .map(|job| (job.id, job.spec.clone()))
            .collect();
        let mut blocked: Vec<PathBuf> = Vec::new();
        for (id, spec) in waiting {
            let claim = Claim::of(&spec);
            if self.may_run(state, &claim, &blocked) {
                self.launch(state, id, spec, claim);
            } else if let Claim::Delete(stores) = claim {
                // What waits for a store keeps its turn before later deletions in the same store.
                blocked.extend(stores);
            }
        }
    }

    /// A download that waits for room lets others run.
    pub(in crate::jobs) fn leave_slot(&self, id: JobId) {
        let mut state = self.lock();
        if let Some(run) = state.runs.get_mut(&id) {
            run.hold = Hold::Left;
        }
        self.freed.notify_waiters();
        self.start_what_can(&mut state);
    }

    /// Whether a download that has room now has a slot, too.
    pub(in crate::jobs) fn take_slot(&self, id: JobId) -> bool {
        let mut state = self.lock();
        let held = state.runs.values().filter(|run| run.has_slot()).count();
        // Its end was asked for if it is not there.
        let Some(run) = state.runs.get_mut(&id) else { return true };
        if run.hold != Hold::Held {
            run.hold = if held < self.downloads { Hold::Held } else { Hold::Wanted };
        }
        run.hold == Hold::Held
    }

    fn launch(&self, state: &mut State, id: JobId, spec: JobSpec, claim: Claim) {
        let cancel = self.root.child_token();
        state.runs.insert(id, Running { cancel: cancel.clone(), then: Then::Keep, claim, hold: Hold::Held });
        self.emit(state, id, JobEventKind::Started { file: None, bytes: None, total: None });
        let worker = self.me.clone();
        let tell: Tell = Arc::new(move |kind| {
            if let Some(worker) = worker.upgrade() {
                let mut state = worker.lock();
                if state.runs.contains_key(&id) {
                    worker.emit(&mut state, id, kind);
                }
            }
        });
        let slot = Slot::new(self.me.clone(), id, Arc::clone(&self.freed));
        let work = self.runner.run(Run { spec: spec.clone(), tell, cancel, slot });
        // On a task of its own, so that a panic ends this job and nothing else.
        let task = self.tasks.spawn_on(work, &self.runtime);
        let Some(worker) = self.me.upgrade() else { return };
        self.tasks.spawn_on(
            async move {
                let result = task.await.unwrap_or_else(|error| Err(broken(id, error)));
                worker.after(id, spec, result).await;
            },
            &self.runtime,
        );
    }

    /// A run is over: says what became of the job and gives its place to the next.
    async fn after(&self, id: JobId, spec: JobSpec, result: Result<Done>) {
        let then = self.lock().runs.get(&id).map_or(Then::Keep, |run| run.then);
        let event = match result {
            Ok(done) => Some(JobEventKind::Finished { path: done.path, outcome: done.outcome.map(Box::new) }),
            Err(Error::Cancelled) => match then {
                Then::Keep => None,
                Then::Pause => Some(JobEventKind::Paused),
                Then::Resume => Some(JobEventKind::Queued { spec: Box::new(spec), position: 0 }),
                Then::Queue(position) => Some(JobEventKind::Queued { spec: Box::new(spec), position }),
                Then::After(other) => {
                    let position = self.lock().snapshot.position(other).map_or(0, |position| position + 1);
                    Some(JobEventKind::Queued { spec: Box::new(spec), position })
                }
                Then::Cancel => Some(JobEventKind::Cancelled),
                Then::Discard => Some(match self.runner.discard(spec, None).await {
                    Ok(()) => JobEventKind::Cancelled,
                    Err(error) => failed(&error),
                }),
            },
            Err(error) => Some(failed(&error)),
        };
        let mut state = self.lock();
        state.runs.remove(&id);
        if then == Then::Discard && matches!(event, Some(JobEventKind::Cancelled)) {
            self.forget_progress(&mut state, id);
        }
        if let Some(event) = event {
            let ends = event.is_end();
            self.emit(&mut state, id, event);
            if ends {
                self.forget_old(&mut state);
            }
        }
        self.freed.notify_waiters();
        self.start_what_can(&mut state);
    }

    fn forget_old(&self, state: &mut State) {
        let ended = state.snapshot.jobs.iter().take_while(|job| job.state.has_ended()).count();
        let old: Vec<JobId> = state.snapshot.jobs.iter().take(ended.saturating_sub(ENDED)).map(|job| job.id).collect();
        for id in old {
            self.emit(state, id, JobEventKind::Cleared);
        }
    }
}

impl Running {
    /// Whether it has one of the slots for downloads.
    fn has_slot(&self) -> bool {
        self.claim == Claim::Download && self.hold == Hold::Held
    }

    fn stop(&mut self, then: Then) {
        // What was asked for last counts, except that a discard is not taken back.
        if self.then != Then::Discard {
            self.then = then;
        }
        self.cancel.cancel();
    }
}

fn refusal(job: JobId, reason: &str) -> Error {
    Error::Job { job: job.to_string(), reason: reason.to_owned() }
}

fn failed(error: &Error) -> JobEventKind {
    tracing::info!(?error, "a job failed");
    JobEventKind::Failed { error: error.to_string() }
}

fn broken(id: JobId, error: JoinError) -> Error {
    let Ok(panic) = error.try_into_panic() else { return Error::Cancelled };
    let words = panic.downcast_ref::<&str>().map(|words| (*words).to_owned());
    let words = words.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
    refusal(id, &format!("it broke off because of a defect in this program: {}", text::printable(&words)))
}
