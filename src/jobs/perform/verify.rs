//! A verification: files of all its models side by side, on threads of their own.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};

use super::{Done, Performer, Run, blocking};
use crate::error::Result;
use crate::jobs::runner::Tell;
use crate::jobs::tracker::TICK;
use crate::jobs::{JobEventKind, JobOutcome};
use crate::model::ModelId;
use crate::model::size::Meter;
use crate::provisioner::PlanTarget;
use crate::store::verify::{Depth, Event};

const WINDOW: Duration = Duration::from_secs(3);

/// Where the reading is.
#[derive(Default)]
struct Position {
    bytes: u64,
    total: u64,
    /// Bytes and length of the files that are being read, or were since the last look.
    files: BTreeMap<String, (u64, u64)>,
}

impl Performer {
    pub(super) async fn verify(&self, models: Vec<ModelId>, quick: bool, run: &Run) -> Result<Done> {
        let depth = if quick { Depth::Quick } else { Depth::Full };
        let position = Arc::new(Mutex::new(Position::default()));
        let reading = blocking({
            let (inventory, cancel, position) = (self.inventory.clone(), run.cancel.clone(), Arc::clone(&position));
            move || {
                let label = |task: usize, file: &str| match models.as_slice() {
                    [_] => file.to_owned(),
                    several => format!("{}: {file}", several.get(task).map_or("", |model| model.id.as_str())),
                };
                let targets: Vec<PlanTarget> = models.iter().cloned().map(PlanTarget::whole).collect();
                let mut note = |event: Event<'_>| {
                    let mut position = position.lock().unwrap_or_else(PoisonError::into_inner);
                    match event {
                        Event::Read { task, file, bytes, total } => {
                            position.files.insert(label(task, file), (bytes, total));
                        }
                        Event::Progress { bytes, total } => (position.bytes, position.total) = (bytes, total),
                        Event::Started { .. } | Event::Checked { .. } | Event::Finished { .. } => {}
                    }
                };
                inventory.verify_all(&targets, depth, &mut note, &cancel)
            }
        });
        tokio::pin!(reading);
        let begin = Instant::now();
        let mut teller =
            Teller { tell: Arc::clone(&run.tell), meter: Meter::new(WINDOW), told: None, files: BTreeMap::new() };
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let results = loop {
            tokio::select! {
                results = &mut reading => break results??,
                _ = ticks.tick() => {}
            }
            let now = {
                let mut position = position.lock().unwrap_or_else(PoisonError::into_inner);
                let files = std::mem::take(&mut position.files);
                Position { bytes: position.bytes, total: position.total, files }
            };
            teller.tell(now, begin.elapsed());
        };
        Ok(Done { path: None, outcome: Some(JobOutcome::Verified(results)) })
    }
}

/// Turns positions into events: none that says what the one before said.
struct Teller {
    tell: Tell,
    meter: Meter,
    told: Option<(u64, u64, Option<u64>)>,
    files: BTreeMap<String, u64>,
}

impl Teller {
    fn tell(&mut self, position: Position, now: Duration) {
        let Position { bytes, total, files } = position;
        if self.meter.rate(now).is_none() || self.told.is_some_and(|(before, _, _)| before != bytes) {
            self.meter.record(now, bytes);
        }
        let rate = self.meter.rate(now).map(|rate| rate.0);
        // A file that was over before anybody looked was too small to show.
        for (file, (bytes, total)) in files {
            let known = self.files.contains_key(&file);
            if bytes >= total && !known {
                continue;
            }
            if !known {
                (self.tell)(JobEventKind::Started { file: Some(file.clone()), bytes: Some(0), total: Some(total) });
            }
            if self.files.insert(file.clone(), bytes) != Some(bytes) {
                (self.tell)(JobEventKind::progress(Some(file), bytes, total));
            }
        }
        let now_told = Some((bytes, total, rate));
        if total > 0 && self.told != now_told {
            self.told = now_told;
            let eta_s = self.meter.eta(now, total.saturating_sub(bytes)).map(|eta| eta.as_secs());
            (self.tell)(JobEventKind::Progress {
                file: None,
                bytes,
                total,
                rate,
                eta_s,
                path: None,
                connections: None,
                courtesy: None,
            });
        }
    }
}
