//! What the queue tells: progress, and results as notices.

use std::collections::BTreeMap;

use super::{Effects, models, read_host};
use crate::jobs::{JobEventKind, JobId, JobSpec, JobState, JobStatus, Update};
use crate::tui::effect::Effect;
use crate::tui::msg::Now;
use crate::tui::result;
use crate::tui::state::{Dirty, Level, State, Topic};

/// Takes an update in. What only moves a bar can wait for the next slow frame.
pub(super) fn updated(state: &mut State, update: Update, now: Now) -> (Effects, Dirty) {
    let before: BTreeMap<JobId, JobState> = states(state);
    let first = !state.queue.known;
    let mut changed = false;
    let mut dirty = Dirty::Now;
    match update {
        Update::Snapshot(snapshot) => {
            for warning in snapshot.warnings.iter().filter(|line| !state.queue.snapshot.warnings.contains(line)) {
                state.notices.add(Level::Warn, Topic::Trouble, warning.clone(), now.at);
            }
            state.queue.snapshot = snapshot;
            state.queue.known = true;
        }
        Update::Event(event) => {
            if matches!(event.kind, JobEventKind::Progress { .. }) {
                dirty = Dirty::Progress;
            }
            // Its partial may have been discarded.
            let unfinished =
                |job: &JobStatus| matches!(job.spec, JobSpec::Download(_)) && job.state != JobState::Finished;
            changed = matches!(event.kind, JobEventKind::Cleared)
                && state.queue.snapshot.job(event.job).is_some_and(unfinished);
            state.queue.snapshot.apply(&event);
        }
    }
    if dirty == Dirty::Progress || first {
        return (Vec::new(), dirty);
    }
    let again: Vec<JobId> =
        state.queue.snapshot.jobs.iter().filter(|job| !job.state.has_ended()).map(|job| job.id).collect();
    state.notices.forget(|topic| matches!(topic, Topic::Job(id) if again.contains(&id)));
    let ended: Vec<JobStatus> = state
        .queue
        .snapshot
        .jobs
        .iter()
        .filter(|job| job.state.has_ended() && !before.get(&job.id).is_some_and(|state| state.has_ended()))
        .cloned()
        .collect();
    for job in &ended {
        let (level, line) = result::told(job);
        state.tell(level, Topic::Job(job.id), line, now);
        // What was found is shown in the row.
        changed |= !matches!(job.spec, JobSpec::Verify { .. }) || job.state == JobState::Finished;
    }
    let mut effects = Vec::new();
    if changed {
        effects.extend([models::scan(state, now), read_host(state, now)]);
    }
    if !ended.is_empty() && state.facts.bell && state.queue.unfinished() == (0, 0) {
        effects.push(Effect::Bell);
    }
    (effects, dirty)
}

fn states(state: &State) -> BTreeMap<JobId, JobState> {
    state.queue.snapshot.jobs.iter().map(|job| (job.id, job.state)).collect()
}
