//! What a person asks of a job that is in the queue.

use super::claim::Claim;
use super::{Running, State, Then, Worker, broken, failed, refusal};
use crate::error::Result;
use crate::jobs::slot::Hold;
use crate::jobs::{Control, JobEventKind, JobId, JobSpec, JobState};

impl Worker {
    pub(in crate::jobs) fn control(&self, id: JobId, control: Control) -> Result<()> {
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
                // What waits between two tries makes the next one now, in its own place.
                JobState::Retrying | JobState::Waiting if is_download => match running {
                    Some(run) if run.then == Then::Keep => run.stop(Then::Resume),
                    _ => return Err(refusal(id, "it stops already")),
                },
                _ => {
                    let line = format!("it is {}; only what failed, was cancelled or waits is retried", now.name());
                    return Err(refusal(id, &line));
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

    pub(in crate::jobs) fn clear(&self) {
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

    /// Nothing of it is on disk any more.
    pub(super) fn forget_progress(&self, state: &mut State, id: JobId) {
        let Some(job) = state.snapshot.job(id) else { return };
        let mut events: Vec<JobEventKind> = job
            .files
            .iter()
            .filter(|file| !file.finished)
            .map(|file| JobEventKind::progress(Some(file.file.clone()), 0, file.total))
            .collect();
        // Of one that belongs elsewhere not even the size is known here.
        events.push(JobEventKind::progress(None, 0, job.total.unwrap_or(0)));
        for event in events {
            self.emit(state, id, event);
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
}
