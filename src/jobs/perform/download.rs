//! A download: planned, transferred, and tried again for as long as it is worth it.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use super::quiet::{Quiet, while_quiet};
use super::room::{Admitted, Shortage};
use super::{Done, Performer, Run, blocking};
use crate::error::{Error, Result};
use crate::jobs::tracker::{TICK, Tracker};
use crate::jobs::{JobEventKind, JobOutcome};
use crate::model::{Pauses, RepoPath};
use crate::provisioner::{DestinationKind, DownloadPlan, DownloadRequest, IdleModel};
use crate::transfer::{Courtesy, EventSink, TransferEvent};

/// How often a job that waits for room or for another process looks again.
const LOOK_AGAIN: Duration = Duration::from_secs(15);
/// The pauses of a job that waits for the network. It is told when it goes on, so that chance has no part in it.
const PAUSES: Pauses =
    Pauses { first: Duration::from_secs(2), growth: 2.0, longest: Duration::from_secs(60), spread: (1.0, 1.0) };
/// However long planning took, the bytes get so long.
const LEAST_FIRST_BYTE: Duration = Duration::from_secs(1);
/// How long what was found to make room is told.
const ADVICE_LASTS: Duration = Duration::from_secs(60);
/// So often in a row, without a byte between, a job is tried again whose files are refused, or answered with something
/// strange, while the hub lists them as it should: minutes for the one, hours for the other.
const REFUSALS: u32 = 8;
const STRANGE: u32 = 120;

/// Models that would make room, as they were found.
#[derive(Default)]
struct Advice {
    made: Option<Instant>,
    idle: Vec<IdleModel>,
}

/// What one try found out before it failed.
#[derive(Default)]
struct Found {
    shortage: Option<Shortage>,
    /// The hub has answered as a hub does.
    plan: Option<DownloadPlan>,
    /// Bytes came.
    arrived: bool,
}

impl Performer {
    pub(super) async fn download(&self, request: &DownloadRequest, run: &Run) -> Result<Done> {
        let mut advice = Advice::default();
        let mut fruitless = 0_u32;
        let mut tries = 0_u32;
        let mut told = BTreeSet::new();
        loop {
            let before = Instant::now();
            let mut found = Found::default();
            let error = match self.attempt(request, run, &mut found, &mut told).await {
                Err(error) if self.waits() && !error.is_cancelled() => error,
                Err(error) => return Err(self.with_way_out(error, found.shortage, run).await),
                result => return result,
            };
            fruitless = if found.plan.is_some() && !found.arrived { fruitless.saturating_add(1) } else { 0 };
            if before.elapsed() > PAUSES.longest || found.arrived {
                // It went on for a while: what comes now is another failure.
                tries = 0;
            }
            let pause = PAUSES.after(tries.saturating_add(1), 0.0);
            let after = match error {
                Error::Unreachable { .. } | Error::Refused { status: 500..=599, .. } => pause,
                // A login page of the network, a proxy that stumbled: what no hub says is not the hub's last word.
                // An address that is no address stays one.
                Error::BadAnswer { .. } if fruitless < STRANGE && self.provisioner.hub().is_ok() => pause,
                // The server of the bytes; the next try asks the hub where they lie.
                Error::Refused { .. } if found.plan.is_some() && fruitless < REFUSALS => pause,
                Error::RateLimited { retry_after, .. } => retry_after.unwrap_or(pause).max(pause),
                Error::NoSpace { path, needed, available, advice: limit } => {
                    let shortage = found.shortage.unwrap_or(Shortage { path, needed, free: available, claimed: 0 });
                    self.wait_for_room(shortage, limit, found.plan, &mut advice, run).await?;
                    continue;
                }
                Error::Locked { .. } => {
                    self.wait(error.in_short(), run).await?;
                    continue;
                }
                error => return Err(error),
            };
            tries = tries.saturating_add(1);
            (run.tell)(JobEventKind::Retrying {
                file: None,
                error: error.in_short(),
                after_s: after.as_secs(),
                attempt: Some(tries),
                until: None,
            });
            tokio::select! {
                () = run.cancel.cancelled() => return Err(Error::Cancelled),
                () = sleep(after) => {}
            }
        }
    }

    /// Gives the download its room; what is whole needs none.
    async fn admit(&self, plan: &DownloadPlan, shortage: &mut Option<Shortage>) -> Result<Option<Admitted>> {
        if plan.whole {
            return Ok(None);
        }
        let (room, outstanding) = (self.room.clone(), self.provisioner.outstanding(plan)?);
        match blocking(move || room.admit(&outstanding)).await?? {
            Ok(admitted) => Ok(Some(admitted)),
            Err(short) => {
                *shortage = Some(short.clone());
                Err(short.into_error())
            }
        }
    }

    /// Waits until there may be room for `plan`. Other downloads run in the meantime; the job goes on when one of them has
    /// made way again.
    async fn wait_for_room(
        &self,
        mut shortage: Shortage,
        limit: Option<String>,
        plan: Option<DownloadPlan>,
        advice: &mut Advice,
        run: &Run,
    ) -> Result<()> {
        run.slot.leave();
        loop {
            let mut line = self.advice(shortage, advice, run).await?;
            if let Some(limit) = &limit {
                line = format!("{line}; {limit}");
            }
            self.wait(line, run).await?;
            let mut missing = None;
            let still = match &plan {
                // Without a plan nothing but another try tells.
                None => None,
                Some(plan) => match self.admit(plan, &mut missing).await {
                    Err(Error::NoSpace { .. }) => missing,
                    // It asks again when it has its turn, for others may be faster.
                    Ok(_) | Err(_) => None,
                },
            };
            match still {
                Some(still) => shortage = still,
                None => break,
            }
        }
        if !run.slot.take() {
            let error = "there is room now; for another download to end".to_owned();
            (run.tell)(JobEventKind::Waiting { file: None, error });
            tokio::select! {
                () = run.cancel.cancelled() => return Err(Error::Cancelled),
                () = run.slot.taken() => {}
            }
        }
        Ok(())
    }

    /// Says what the job waits for, and waits until it may be there.
    async fn wait(&self, line: String, run: &Run) -> Result<()> {
        (run.tell)(JobEventKind::Waiting { file: None, error: line });
        tokio::select! {
            () = run.cancel.cancelled() => Err(Error::Cancelled),
            () = sleep(LOOK_AGAIN) => Ok(()),
            () = self.room.changed() => Ok(()),
        }
    }

    /// A shortage with what would make room, for somebody who does not wait.
    async fn with_way_out(&self, error: Error, shortage: Option<Shortage>, run: &Run) -> Error {
        let Error::NoSpace { path, needed, available, advice: known } = error else { return error };
        let short = shortage.unwrap_or(Shortage { path: path.clone(), needed, free: available, claimed: 0 });
        let (inventory, place, cancel) = (self.inventory.clone(), path.clone(), run.cancel.clone());
        let advice = match blocking(move || inventory.idle_models(&place, &cancel)).await {
            Ok(idle) if short.missing() > 0 => Some(short.advice(&idle)),
            _ => None,
        };
        // Whoever met the limit knows best which one it is.
        Error::NoSpace { path, needed, available, advice: known.or(advice) }
    }

    /// What is missing, and which models would make room. The stores are looked through once in a while, not at every look
    /// at the disk.
    async fn advice(&self, shortage: Shortage, advice: &mut Advice, run: &Run) -> Result<String> {
        if advice.made.is_none_or(|made| made.elapsed() > ADVICE_LASTS) {
            let (inventory, place, cancel) = (self.inventory.clone(), shortage.path.clone(), run.cancel.clone());
            advice.idle = blocking(move || inventory.idle_models(&place, &cancel)).await?;
            advice.made = Some(Instant::now());
        }
        Ok(shortage.text(&advice.idle))
    }

    /// One try. `told` are lines that were told before.
    async fn attempt(
        &self,
        request: &DownloadRequest,
        run: &Run,
        found: &mut Found,
        told: &mut BTreeSet<String>,
    ) -> Result<Done> {
        let asked = Instant::now();
        let planning = in_time(self.transfer.first_byte, self.provisioner.plan_download(request), || self.endpoint());
        let planning = while_quiet(planning, |quiet| {
            let error = Quiet::Hub(self.endpoint()).words(quiet);
            (run.tell)(JobEventKind::Waiting { file: None, error });
        });
        let plan = tokio::select! {
            () = run.cancel.cancelled() => return Err(Error::Cancelled),
            plan = planning => plan?,
        };
        found.plan = Some(plan.clone());
        for line in plan.damage_lines() {
            if told.insert(line.clone()) {
                (run.tell)(JobEventKind::Output { line });
            }
        }
        let mut options = self.transfer.clone();
        // One bound for both: the plan's requests and those for the bytes.
        options.first_byte =
            options.first_byte.map(|limit| limit.saturating_sub(asked.elapsed()).max(LEAST_FIRST_BYTE));
        let _admitted = self.admit(&plan, &mut found.shortage).await?;
        let begin = Instant::now();
        let tracker = Arc::new(Mutex::new(Tracker::new()));
        let published: Arc<Mutex<Vec<(RepoPath, PathBuf)>>> = Arc::default();
        let sink: EventSink = {
            let (tracker, tell) = (Arc::clone(&tracker), Arc::clone(&run.tell));
            let published = Arc::clone(&published);
            Arc::new(move |event: TransferEvent| {
                if let TransferEvent::FileFinished { file, path, fetched: 1.. } = &event {
                    let mut published = published.lock().unwrap_or_else(PoisonError::into_inner);
                    published.push((file.clone(), path.clone()));
                }
                // Told under the lock, so that events keep their order.
                let mut tracker = tracker.lock().unwrap_or_else(PoisonError::into_inner);
                tracker.take(event, begin.elapsed()).into_iter().for_each(&*tell);
            })
        };
        let transfer = self.provisioner.download(&plan, &options, &sink, &run.cancel);
        tokio::pin!(transfer);
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let downloaded = loop {
            tokio::select! {
                downloaded = &mut transfer => break downloaded,
                _ = ticks.tick() => {
                    let mut tracker = tracker.lock().unwrap_or_else(PoisonError::into_inner);
                    let rate = self.traffic.rate(tracker.take_fresh());
                    tracker.hold(self.transfer.courtesy.as_ref().and_then(Courtesy::limit));
                    tracker.tick(begin.elapsed()).into_iter().for_each(&*run.tell);
                    if let Some(quiet) = tracker.quiet(begin.elapsed()) {
                        let why = Quiet::of(&self.transfer, tracker.has_begun(), tracker.connections(), rate);
                        (run.tell)(JobEventKind::Waiting { file: None, error: why.words(quiet) });
                    }
                }
            }
        };
        found.arrived = tracker.lock().unwrap_or_else(PoisonError::into_inner).has_arrived();
        self.note_published(&plan, &published).await;
        let downloaded = downloaded.inspect_err(|_| {
            let mut tracker = tracker.lock().unwrap_or_else(PoisonError::into_inner);
            tracker.stop(begin.elapsed()).into_iter().for_each(&*run.tell);
        })?;
        if request.to == DestinationKind::Hf {
            let inventory = self.inventory.clone();
            blocking(move || inventory.look_for_stores()).await?;
        }
        Ok(Done { path: Some(downloaded.path), outcome: Some(JobOutcome::Fetched(downloaded.fetched)) })
    }

    /// What was verified as it came needs no verification for now.
    async fn note_published(&self, plan: &DownloadPlan, published: &Mutex<Vec<(RepoPath, PathBuf)>>) {
        let published = std::mem::take(&mut *published.lock().unwrap_or_else(PoisonError::into_inner));
        let digest = |path: &RepoPath| plan.files.iter().find(|file| file.path == *path).and_then(|file| file.digest);
        let files: Vec<_> = published.into_iter().filter_map(|(file, path)| Some((path, digest(&file)?))).collect();
        if files.is_empty() {
            return;
        }
        let (inventory, folder, repository) = (self.inventory.clone(), plan.folder.clone(), plan.repository.id.clone());
        let noted = blocking(move || inventory.note_published(&files, &folder, &repository)).await;
        if let Err(error) = noted {
            tracing::warn!("the download is not remembered as verified: {error}");
        }
    }

    fn endpoint(&self) -> String {
        self.provisioner.hub().map_or_else(|_| "the hub".to_owned(), |hub| hub.endpoint().to_owned())
    }
}

/// A hub that takes connections and never answers is not reached either.
async fn in_time<T>(
    limit: Option<Duration>,
    work: impl Future<Output = Result<T>>,
    endpoint: impl Fn() -> String,
) -> Result<T> {
    let Some(limit) = limit else { return work.await };
    timeout(limit, work).await.unwrap_or_else(|_| {
        Err(Error::Unreachable { url: endpoint(), reason: format!("no answer in {} s", limit.as_secs()) })
    })
}
