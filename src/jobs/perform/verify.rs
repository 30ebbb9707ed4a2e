//! A verification: models one after the other on a blocking thread.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};

use super::{Done, Performer, Run, blocking};
use crate::error::Result;
use crate::jobs::tracker::TICK;
use crate::jobs::{JobEventKind, JobOutcome};
use crate::model::ModelId;
use crate::model::size::Meter;
use crate::provisioner::PlanTarget;
use crate::store::verify::{Depth, Progress};

const WINDOW: Duration = Duration::from_secs(3);

impl Performer {
    pub(super) async fn verify(&self, models: Vec<ModelId>, quick: bool, run: &Run) -> Result<Done> {
        let depth = if quick { Depth::Quick } else { Depth::Full };
        let seen = Arc::new(Mutex::new((0_u64, 0_u64)));
        let reading = blocking({
            let (inventory, cancel, seen) = (self.inventory.clone(), run.cancel.clone(), Arc::clone(&seen));
            move || {
                let mut results = Vec::with_capacity(models.len());
                let mut before = 0;
                for model in models {
                    let mut read = 0;
                    let mut progress = |progress: Progress<'_>| {
                        read = progress.total;
                        *seen.lock().unwrap_or_else(PoisonError::into_inner) =
                            (before + progress.bytes, before + progress.total);
                    };
                    let target = PlanTarget::whole(model);
                    results.push(inventory.verify(&target, depth, &mut progress, &cancel)?);
                    before += read;
                }
                Ok(results)
            }
        });
        tokio::pin!(reading);
        let begin = Instant::now();
        let mut meter = Meter::new(WINDOW);
        let mut told = None;
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let results = loop {
            tokio::select! {
                results = &mut reading => break results??,
                _ = ticks.tick() => {}
            }
            let (bytes, total) = *seen.lock().unwrap_or_else(PoisonError::into_inner);
            let now = begin.elapsed();
            if meter.rate(now).is_none() || told.is_some_and(|(before, _, _)| before != bytes) {
                meter.record(now, bytes);
            }
            let rate = meter.rate(now).map(|rate| rate.0);
            let now_told = Some((bytes, total, rate));
            if total > 0 && told != now_told {
                told = now_told;
                let eta_s = meter.eta(now, total.saturating_sub(bytes)).map(|eta| eta.as_secs());
                (run.tell)(JobEventKind::Progress { file: None, bytes, total, rate, eta_s, path: None });
            }
        };
        Ok(Done { path: None, outcome: Some(JobOutcome::Verified(results)) })
    }
}
