//! The queue: who waits, who runs, who is told.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinError;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::queue_file::{Foreign, QueueFile, Saved};
use super::runner::{Done, Run, Runner, Tell};
use super::slot::{Hold, Slot};
use super::{Control, EVENT_VERSION, JobEvent, JobEventKind, JobId, JobSpec, JobState, Snapshot, Subscription, Update};
use crate::error::{Error, Result};
use crate::model::text;

/// Updates that a subscriber may lag behind before single events are replaced by a snapshot.
const BACKLOG: usize = 256;
/// Changes within this time are written to the queue file together.
const DEBOUNCE: Duration = Duration::from_millis(200);
/// How a warning about the queue file begins.
const NOT_KEPT: &str = "the queue is not kept";
/// Ended jobs that stay in the list; older ones are cleared.
const ENDED: usize = 100;

/// The worker, shared by its handle and its tasks.
pub(super) struct Worker {
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
}

struct Subscriber {
    id: u64,
    updates: mpsc::Sender<Update>,
    /// Its channel was full; a task waits for room to give it a snapshot.
    lags: bool,
}

struct Running {
    cancel: CancellationToken,
    /// What becomes of it when the cancellation has taken effect.
    then: Then,
    claim: Claim,
    hold: Hold,
}

/// What a job may not share while it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Claim {
    /// One of the slots for downloads.
    Download,
    /// The reading of checksums: two at a time would only slow each other down.
    Verify,
    /// The disk and a core for a long time: one at a time.
    Convert,
    /// Stores that something is deleted from.
    Delete(Vec<PathBuf>),
    /// Nothing: the removal of a partial.
    Nothing,
}

impl Claim {
    fn of(spec: &JobSpec) -> Self {
        match spec {
            JobSpec::Download(_) => Self::Download,
            JobSpec::Verify { .. } => Self::Verify,
            JobSpec::Convert(_) => Self::Convert,
            JobSpec::Delete { plan, .. } => {
                Self::Delete(plan.models.iter().map(|model| model.store_path.clone()).collect())
            }
            JobSpec::Sweep { plan, .. } => {
                let roots: std::collections::BTreeSet<PathBuf> =
                    plan.steps.iter().map(|step| step.root.clone()).collect();
                Self::Delete(roots.into_iter().collect())
            }
        }
    }
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
    pub(super) fn start(
        runner: Arc<dyn Runner>,
        downloads: usize,
        limit: Option<u64>,
        queue_file: Option<QueueFile>,
        saved: Saved,
        warnings: Vec<String>,
    ) -> Arc<Self> {
        let mut state = State { next_job: saved.next.max(1), ..State::default() };
        state.snapshot.limit = limit;
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
        worker.start_what_can(&mut worker.lock());
        worker
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic while the lock was held is caught at the job that had it; the values are whole at every step.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn submit(&self, spec: JobSpec) -> Result<JobId> {
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

    pub(super) fn control(&self, id: JobId, control: Control) -> Result<()> {
        let mut state = self.lock();
        let Some(job) = state.snapshot.job(id) else { return Err(refusal(id, "there is no such job")) };
        let (spec, now) = (job.spec.clone(), job.state);
        if let Some(foreign) = self.foreign.get(&id)
            && (now.has_ended() || !matches!(control, Control::Cancel | Control::Pause | Control::Discard))
        {
            return Err(refusal(id, &foreign.why));
        }
        let is_download = matches!(spec, JobSpec::Download(_));
        let position = state.snapshot.position(id);
        let running = state.runs.get_mut(&id);
        let requeue = |position| JobEventKind::Queued { spec: Box::new(spec.clone()), position };
        match control {
            Control::Pause => match (running, now) {
                _ if !is_download => return Err(refusal(id, "only a download can be paused")),
                (Some(run), _) => run.stop(Then::Pause),
                (None, JobState::Queued) => self.emit(&mut state, id, JobEventKind::Paused),
                (None, JobState::Paused) => {}
                (None, state) => return Err(refusal(id, &format!("it is {}; nothing is left to pause", state.name()))),
            },
            Control::Resume => match (running, position) {
                (Some(run), _) if run.then == Then::Pause => run.then = Then::Resume,
                (None, Some(position)) if now == JobState::Paused => {
                    self.emit(&mut state, id, requeue(position));
                }
                _ => return Err(refusal(id, &format!("it is {}, not paused", now.name()))),
            },
            Control::Cancel => match running {
                Some(run) => run.stop(Then::Cancel),
                None if now.has_ended() => return Err(refusal(id, &format!("it is {} already", now.name()))),
                None => self.emit(&mut state, id, JobEventKind::Cancelled),
            },
            Control::Discard => match running {
                _ if !is_download => return Err(refusal(id, "only a download has a partial to discard")),
                Some(run) => run.stop(Then::Discard),
                None if now == JobState::Finished => {
                    return Err(refusal(id, "it is finished; delete the model instead"));
                }
                None => self.discard(&mut state, id, spec),
            },
            Control::Retry => match now {
                JobState::Failed | JobState::Cancelled if running.is_some() => {
                    return Err(refusal(id, "its partial is being discarded"));
                }
                JobState::Failed | JobState::Cancelled
                    if matches!(spec, JobSpec::Delete { .. } | JobSpec::Sweep { .. }) =>
                {
                    return Err(refusal(id, "the disk may have changed since; ask for the deletion again"));
                }
                JobState::Failed | JobState::Cancelled => {
                    let position = state.snapshot.waiting();
                    self.emit(&mut state, id, requeue(position));
                }
                _ => {
                    return Err(refusal(
                        id,
                        &format!("it is {}; only what failed or was cancelled is retried", now.name()),
                    ));
                }
            },
            Control::MoveTo(place) if is_download && running.is_some() && position.is_none() => {
                let next = state.snapshot.jobs.iter().find(|job| job.state == JobState::Queued).map(|job| job.id);
                let Some(next) = next.and_then(|next| state.snapshot.position(next)) else {
                    return Err(refusal(id, "nothing waits that could run instead"));
                };
                let place = place.clamp(next + 1, state.snapshot.waiting().max(next + 1));
                if let Some(run) = state.runs.get_mut(&id) {
                    run.stop(Then::Queue(place));
                }
            }
            Control::RunNow => {
                if position.is_none() || running.is_some() {
                    return Err(refusal(id, &format!("it is {}; only jobs that wait can be run now", now.name())));
                }
                self.emit(&mut state, id, requeue(0));
                self.start_what_can(&mut state);
                let waits = state.snapshot.job(id).is_some_and(|job| job.state == JobState::Queued);
                if is_download && waits {
                    self.make_way(&mut state, id);
                }
            }
            Control::MoveTo(place) => {
                if position.is_none() {
                    return Err(refusal(id, &format!("it is {}; only jobs that wait can be moved", now.name())));
                }
                let place = place.min(state.snapshot.waiting().saturating_sub(1));
                self.emit(&mut state, id, requeue(place));
                if now == JobState::Paused {
                    self.emit(&mut state, id, JobEventKind::Paused);
                }
            }
        }
        self.start_what_can(&mut state);
        Ok(())
    }

    /// Stops the download that began last, so that its place goes to `id`, which is next. One that stops already will do.
    fn make_way(&self, state: &mut State, id: JobId) {
        let stops = |run: &Running| run.has_slot() && run.then != Then::Keep;
        if state.runs.values().any(stops) {
            return;
        }
        let running = state.snapshot.jobs.iter().rev().filter(|job| job.state.is_active()).map(|job| job.id);
        let last = running.into_iter().find(|job| state.runs.get(job).is_some_and(Running::has_slot));
        if let Some(run) = last.and_then(|last| state.runs.get_mut(&last)) {
            run.stop(Then::After(id));
        }
    }

    pub(super) fn clear(&self) {
        let mut state = self.lock();
        let ended: Vec<JobId> = state
            .snapshot
            .jobs
            .iter()
            .filter(|job| job.state.has_ended() && !state.runs.contains_key(&job.id))
            .map(|job| job.id)
            .collect();
        for id in ended {
            self.emit(&mut state, id, JobEventKind::Cleared);
        }
    }

    pub(super) fn set_limit(&self, limit: Option<u64>) {
        let mut state = self.lock();
        state.snapshot.limit = limit;
        self.runner.set_limit(limit);
        self.tell_everything(&mut state);
    }

    pub(super) fn subscribe(&self) -> Subscription {
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

    /// Ends every task; places stay. Subscriptions end when the last task has.
    pub(super) fn stop(&self) {
        self.lock().closing = true;
        self.root.cancel();
        self.tasks.close();
    }

    pub(super) async fn shut_down(&self) {
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

    /// The only place where the queue changes: the event is numbered, folded in and told.
    fn emit(&self, state: &mut State, job: JobId, mut kind: JobEventKind) {
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
    fn tell_everything(&self, state: &mut State) {
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

    fn may_run(&self, state: &State, claim: &Claim, blocked: &[PathBuf]) -> bool {
        let mut running = state.runs.values().map(|run| &run.claim);
        match claim {
            Claim::Download => {
                // One that had given its slot away has the first that is free.
                let taken = |run: &&Running| run.claim == Claim::Download && run.hold != Hold::Left;
                state.runs.values().filter(taken).count() < self.downloads
            }
            Claim::Verify | Claim::Convert => !running.any(|other| other == claim),
            Claim::Nothing => true,
            Claim::Delete(stores) => {
                let taken = |store: &PathBuf| {
                    blocked.contains(store)
                        || state
                            .runs
                            .values()
                            .any(|run| matches!(&run.claim, Claim::Delete(those) if those.contains(store)))
                };
                !stores.iter().any(taken)
            }
        }
    }

    /// A download that waits for room lets others run.
    pub(super) fn leave_slot(&self, id: JobId) {
        let mut state = self.lock();
        if let Some(run) = state.runs.get_mut(&id) {
            run.hold = Hold::Left;
        }
        self.freed.notify_waiters();
        self.start_what_can(&mut state);
    }

    /// Whether a download that has room now has a slot, too.
    pub(super) fn take_slot(&self, id: JobId) -> bool {
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

    /// Nothing of it is on disk any more.
    fn forget_progress(&self, state: &mut State, id: JobId) {
        let Some(job) = state.snapshot.job(id) else { return };
        let none = |file: Option<String>, total| JobEventKind::Progress {
            file,
            bytes: 0,
            total,
            rate: None,
            eta_s: None,
            path: None,
            connections: None,
            courtesy: None,
        };
        let mut events: Vec<JobEventKind> = job
            .files
            .iter()
            .filter(|file| !file.finished)
            .map(|file| none(Some(file.file.clone()), file.total))
            .collect();
        // Of one that belongs elsewhere not even the size is known here.
        events.push(none(None, job.total.unwrap_or(0)));
        for event in events {
            self.emit(state, id, event);
        }
    }

    fn forget_old(&self, state: &mut State) {
        let ended = state.snapshot.jobs.iter().take_while(|job| job.state.has_ended()).count();
        let old: Vec<JobId> = state.snapshot.jobs.iter().take(ended.saturating_sub(ENDED)).map(|job| job.id).collect();
        for id in old {
            self.emit(state, id, JobEventKind::Cleared);
        }
    }

    /// Removes the partial of a job that does not run. One that has ended leaves the list with it.
    fn discard(&self, state: &mut State, id: JobId, spec: JobSpec) {
        if state.snapshot.job(id).is_some_and(|job| !job.state.has_ended()) {
            self.forget_progress(state, id);
            self.emit(state, id, JobEventKind::Cancelled);
        }
        let cancel = self.root.child_token();
        state.runs.insert(id, Running { cancel, then: Then::Discard, claim: Claim::Nothing, hold: Hold::Held });
        let home = self.foreign.get(&id).map(|foreign| foreign.home().clone());
        let work = self.tasks.spawn_on(self.runner.discard(spec, home), &self.runtime);
        let Some(worker) = self.me.upgrade() else { return };
        self.tasks.spawn_on(
            async move {
                let result = work.await.unwrap_or_else(|error| Err(broken(id, error)));
                let mut state = worker.lock();
                state.runs.remove(&id);
                match result {
                    Ok(()) => worker.emit(&mut state, id, JobEventKind::Cleared),
                    Err(error) => worker.emit(&mut state, id, failed(&error)),
                }
            },
            &self.runtime,
        );
    }

    fn save(&self) -> Result<()> {
        let Some(file) = &self.queue_file else { return Ok(()) };
        file.write(|| {
            let state = self.lock();
            Saved::of(&state.snapshot, state.next_job, &self.foreign)
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

async fn keep_queue_file(worker: Weak<Worker>, changed: Arc<Notify>, root: CancellationToken) {
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
