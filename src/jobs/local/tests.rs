//! The worker does what it is asked, with work that does what the test says.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use futures_util::future::BoxFuture;
use proptest::prelude::*;
use tokio::sync::mpsc;

use super::*;
use crate::error::Error;
use crate::jobs::Basis;
use crate::jobs::runner::{Done, Run};
use crate::jobs::{JobEventKind, JobOutcome, JobState, Snapshot, Update};
use crate::model::{ModelId, Plan, StoreKind};
use crate::provisioner::{DestinationKind, DownloadRequest};

/// What a test tells a running job to do.
enum Order {
    Progress(u64),
    Finish,
    Fail,
    Panic,
    /// Gives its slot away.
    LeaveSlot,
    /// Wants it back, and tells when it has it.
    TakeSlot,
}

/// Work that does what the test says and tells the test that it began and was discarded.
struct Fake {
    orders: Mutex<HashMap<String, mpsc::UnboundedSender<Order>>>,
    log: mpsc::UnboundedSender<String>,
}

impl Runner for Fake {
    fn run(&self, run: Run) -> BoxFuture<'static, Result<Done>> {
        let (sender, mut orders) = mpsc::unbounded_channel();
        self.orders.lock().unwrap().insert(run.spec.subject(), sender);
        self.log.send(format!("run {}", run.spec.subject())).unwrap();
        Box::pin(async move {
            loop {
                let order = tokio::select! {
                    () = run.cancel.cancelled() => return Err(Error::Cancelled),
                    order = orders.recv() => order,
                };
                match order {
                    Some(Order::Progress(bytes)) => (run.tell)(JobEventKind::Progress {
                        file: None,
                        bytes,
                        total: 100,
                        rate: Some(1),
                        eta_s: None,
                        path: None,
                        connections: None,
                        courtesy: None,
                    }),
                    Some(Order::Finish) => {
                        return Ok(Done { path: None, outcome: Some(JobOutcome::Fetched(100)) });
                    }
                    Some(Order::Fail) => return Err(Error::Damaged("it broke".into())),
                    Some(Order::LeaveSlot) => run.slot.leave(),
                    Some(Order::TakeSlot) => {
                        let told = |error: &str| JobEventKind::Waiting { file: None, error: error.into() };
                        if !run.slot.take() {
                            (run.tell)(told("wants its slot"));
                            run.slot.taken().await;
                        }
                        (run.tell)(told("has its slot"));
                    }
                    Some(Order::Panic) => panic!("out of \u{1b}[31mluck"),
                    None => return Err(Error::Cancelled),
                }
            }
        })
    }

    fn discard(&self, spec: JobSpec, home: Option<Home>) -> BoxFuture<'static, Result<()>> {
        let place = home.map_or_else(String::new, |home| format!(" in {}", home.models_dir().display()));
        self.log.send(format!("discard {}{place}", spec.subject())).unwrap();
        Box::pin(async { Ok(()) })
    }

    fn set_limit(&self, limit: Option<u64>) {
        self.log.send(format!("limit {limit:?}")).unwrap();
    }
}

struct Bench {
    jobs: LocalJobs,
    fake: Arc<Fake>,
    log: mpsc::UnboundedReceiver<String>,
    updates: Subscription,
    /// What the updates so far amount to.
    seen: Snapshot,
}

impl Bench {
    fn new(downloads: usize, queue_file: Option<PathBuf>) -> Self {
        Self::at(None, downloads, queue_file)
    }

    fn at(home: Option<Home>, downloads: usize, queue_file: Option<PathBuf>) -> Self {
        let (log, received) = mpsc::unbounded_channel();
        let fake = Arc::new(Fake { orders: Mutex::default(), log });
        let jobs = LocalJobs::with_runner(fake.clone(), downloads, None, queue_file, home);
        let updates = jobs.subscribe();
        Self { jobs, fake, log: received, updates, seen: Snapshot::default() }
    }

    fn submit(&self, name: &str) -> JobId {
        self.jobs.submit(download(name)).unwrap()
    }

    fn order(&self, name: &str, order: Order) {
        self.fake.orders.lock().unwrap()[name].send(order).unwrap();
    }

    /// Reads updates until the queue is as wanted.
    async fn until(&mut self, what: &str, wanted: impl Fn(&Snapshot) -> bool) {
        let seen = &mut self.seen;
        let reading = async {
            while !wanted(seen) {
                take(seen, self.updates.next().await.expect("the worker is there"));
            }
        };
        if tokio::time::timeout(Duration::from_secs(60), reading).await.is_err() {
            panic!("waited in vain until {what}: {:#?}", self.seen);
        }
    }

    async fn until_state(&mut self, id: JobId, state: JobState) {
        self.until(state.name(), |seen| seen.job(id).is_some_and(|job| job.state == state)).await;
    }

    fn states(&self) -> Vec<(u64, JobState)> {
        self.seen.jobs.iter().map(|job| (job.id.0, job.state)).collect()
    }

    fn log(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.log.try_recv().ok()).collect()
    }
}

fn take(seen: &mut Snapshot, update: Update) {
    match update {
        Update::Snapshot(snapshot) => *seen = snapshot,
        Update::Event(event) => {
            assert!(event.number > seen.number, "events come in order and once");
            seen.apply(&event);
        }
    }
}

fn download(name: &str) -> JobSpec {
    JobSpec::Download(DownloadRequest {
        reference: name.into(),
        files: Vec::new(),
        to: DestinationKind::Flat,
        force: false,
        mmproj: false,
    })
}

fn deletion(store: &str, id: &str) -> JobSpec {
    let models = vec![ModelId { store: StoreKind::Flat, store_path: store.into(), id: id.into() }];
    JobSpec::Delete { plan: Plan { models, ..Plan::default() }, basis: Basis::JustMade }
}

use JobState::{Cancelled, Failed, Finished, Paused, Queued, Running};

#[tokio::test]
async fn so_many_run_at_once_and_the_rest_waits_in_order() {
    let mut bench = Bench::new(2, None);
    let ids: Vec<JobId> = ["a", "b", "c", "d"].iter().map(|name| bench.submit(name)).collect();
    bench.until("all are there", |seen| seen.jobs.len() == 4).await;
    assert_eq!(bench.states(), [(1, Running), (2, Running), (3, Queued), (4, Queued)]);
    bench.jobs.control(ids[3], Control::MoveTo(0)).unwrap();
    bench.order("a", Order::Finish);
    bench.until_state(ids[3], Running).await;
    assert_eq!(bench.states(), [(1, Finished), (2, Running), (4, Running), (3, Queued)]);
    assert_eq!(bench.log(), ["run a", "run b", "run d"]);
}

#[tokio::test]
async fn a_slot_that_is_given_away_comes_back_before_later_jobs() {
    let mut bench = Bench::new(1, None);
    let ids: Vec<JobId> = ["a", "b", "c"].iter().map(|name| bench.submit(name)).collect();
    bench.until_state(ids[0], Running).await;
    bench.order("a", Order::LeaveSlot);
    bench.until_state(ids[1], Running).await;
    assert_eq!(bench.states(), [(1, Running), (2, Running), (3, Queued)]);
    bench.order("a", Order::TakeSlot);
    let says = |words: &'static str| {
        move |seen: &Snapshot| seen.job(JobId(1)).is_some_and(|job| job.why.as_deref() == Some(words))
    };
    bench.until("it waits for its slot", says("wants its slot")).await;
    bench.order("b", Order::Finish);
    bench.until("it has its slot", says("has its slot")).await;
    assert_eq!(bench.seen.job(ids[2]).unwrap().state, Queued);
    bench.order("a", Order::Finish);
    bench.until_state(ids[2], Running).await;
    assert_eq!(bench.log(), ["run a", "run b", "run c"]);
}

#[tokio::test]
async fn a_job_without_its_slot_can_be_paused_and_cancelled() {
    let mut bench = Bench::new(1, None);
    let ids: Vec<JobId> = ["a", "b", "c"].iter().map(|name| bench.submit(name)).collect();
    bench.until_state(ids[0], Running).await;
    bench.order("a", Order::LeaveSlot);
    bench.until_state(ids[1], Running).await;
    bench.jobs.control(ids[0], Control::Pause).unwrap();
    bench.until_state(ids[0], Paused).await;
    assert_eq!(bench.states(), [(2, Running), (1, Paused), (3, Queued)], "there is one slot, and it is taken");
    bench.order("b", Order::LeaveSlot);
    bench.until_state(ids[2], Running).await;
    bench.jobs.control(ids[1], Control::Cancel).unwrap();
    bench.until_state(ids[1], Cancelled).await;
    assert_eq!(bench.log(), ["run a", "run b", "run c"]);
}

#[tokio::test]
async fn a_pause_keeps_the_place_and_lets_the_next_one_run() {
    let mut bench = Bench::new(1, None);
    let (a, b) = (bench.submit("a"), bench.submit("b"));
    bench.jobs.control(a, Control::Pause).unwrap();
    bench.until_state(b, Running).await;
    assert_eq!(bench.states(), [(2, Running), (1, Paused)]);
    bench.order("b", Order::Finish);
    bench.until_state(b, Finished).await;
    assert_eq!(bench.states(), [(2, Finished), (1, Paused)], "what is paused does not start by itself");
    bench.jobs.control(a, Control::Resume).unwrap();
    bench.until_state(a, Running).await;
    assert!(bench.jobs.control(a, Control::Resume).is_err());
}

#[tokio::test]
async fn a_paused_job_that_moves_stays_paused() {
    let mut bench = Bench::new(1, None);
    let ids: Vec<JobId> = ["a", "b", "c"].iter().map(|name| bench.submit(name)).collect();
    bench.jobs.control(ids[2], Control::Pause).unwrap();
    bench.jobs.control(ids[2], Control::MoveTo(0)).unwrap();
    bench.until("it moved", |seen| seen.position(JobId(3)) == Some(0)).await;
    bench.until_state(ids[2], Paused).await;
    assert_eq!(bench.states(), [(1, Running), (3, Paused), (2, Queued)]);
}

#[tokio::test]
async fn a_running_download_that_moves_makes_way_for_the_next() {
    let mut bench = Bench::new(1, None);
    let a = bench.submit("a");
    bench.until_state(a, Running).await;
    assert!(bench.jobs.control(a, Control::MoveTo(0)).is_err(), "nothing could run instead");
    let (b, c) = (bench.submit("b"), bench.submit("c"));
    bench.jobs.control(b, Control::Pause).unwrap();
    bench.jobs.control(a, Control::MoveTo(0)).unwrap();
    bench.until_state(c, Running).await;
    assert_eq!(bench.states(), [(3, Running), (2, Paused), (1, Queued)]);
    assert_eq!(bench.log(), ["run a", "run c"], "its partial was kept");
}

#[tokio::test]
async fn what_is_to_run_now_takes_the_place_of_the_last() {
    let mut bench = Bench::new(2, None);
    let ids: Vec<JobId> = ["a", "b", "c", "d"].iter().map(|name| bench.submit(name)).collect();
    bench.jobs.control(ids[3], Control::Pause).unwrap();
    bench.until_state(ids[3], Paused).await;
    bench.jobs.control(ids[3], Control::RunNow).unwrap();
    bench.until_state(ids[3], Running).await;
    bench.until_state(ids[1], Queued).await;
    assert_eq!(bench.states(), [(1, Running), (4, Running), (2, Queued), (3, Queued)]);
    assert!(bench.jobs.control(ids[3], Control::RunNow).is_err(), "it runs");
    bench.order("a", Order::Finish);
    bench.until_state(ids[1], Running).await;
    // Where a place is free nobody has to make way.
    bench.order("d", Order::Finish);
    bench.until_state(ids[2], Running).await;
    assert_eq!(bench.log(), ["run a", "run b", "run d", "run b", "run c"]);
}

#[tokio::test]
async fn cancelling_keeps_the_partial_and_discarding_removes_it() {
    let mut bench = Bench::new(1, None);
    let (a, b) = (bench.submit("a"), bench.submit("b"));
    bench.order("a", Order::Progress(40));
    bench.until("bytes are there", |seen| seen.jobs.iter().any(|job| job.bytes == 40)).await;
    bench.jobs.control(a, Control::Cancel).unwrap();
    bench.until_state(a, Cancelled).await;
    bench.until_state(b, Running).await;
    bench.jobs.control(b, Control::Discard).unwrap();
    bench.until_state(b, Cancelled).await;
    assert_eq!(bench.log(), ["run a", "run b", "discard b"]);
    bench.jobs.control(a, Control::Discard).unwrap();
    bench.until("a left the list", |seen| seen.job(a).is_none()).await;
    assert_eq!(bench.log(), ["discard a"]);
    assert!(bench.jobs.control(a, Control::Cancel).is_err());
}

#[tokio::test]
async fn what_failed_is_retried_and_what_ended_is_cleared() {
    let mut bench = Bench::new(1, None);
    let a = bench.submit("a");
    bench.order("a", Order::Fail);
    bench.until_state(a, Failed).await;
    assert_eq!(bench.seen.jobs[0].why.as_deref(), Some("it broke"));
    bench.jobs.control(a, Control::Retry).unwrap();
    bench.until_state(a, Running).await;
    bench.order("a", Order::Finish);
    bench.until_state(a, Finished).await;
    assert_eq!(bench.seen.jobs[0].outcome.as_deref(), Some(&JobOutcome::Fetched(100)));
    assert!(bench.jobs.control(a, Control::Retry).is_err());
    bench.jobs.clear();
    bench.until("the list is empty", |seen| seen.jobs.is_empty()).await;
}

#[tokio::test]
async fn what_waits_is_tried_again_now_and_keeps_its_place() {
    let mut bench = Bench::new(1, None);
    let (a, b) = (bench.submit("a"), bench.submit("b"));
    bench.until_state(a, Running).await;
    assert!(bench.jobs.control(a, Control::Retry).is_err(), "it is being tried");
    bench.order("a", Order::TakeSlot);
    bench.until_state(a, JobState::Waiting).await;
    bench.jobs.control(a, Control::Retry).unwrap();
    bench.until_state(a, Running).await;
    assert_eq!(bench.seen.job(b).unwrap().state, Queued);
    assert_eq!(bench.log(), ["run a", "run a"]);
}

#[tokio::test]
async fn a_job_that_panics_has_failed_and_the_others_go_on() {
    let mut bench = Bench::new(1, None);
    let (a, b) = (bench.submit("a"), bench.submit("b"));
    bench.order("a", Order::Panic);
    bench.until_state(b, Running).await;
    let why = bench.seen.job(a).unwrap().why.clone().unwrap();
    assert!(why.contains("luck") && !why.chars().any(char::is_control), "{why}");
}

#[tokio::test]
async fn deletions_in_one_store_take_turns_beside_the_downloads() {
    let mut bench = Bench::new(1, None);
    bench.submit("a");
    let first = bench.jobs.submit(deletion("/m", "x")).unwrap();
    let second = bench.jobs.submit(deletion("/m", "y")).unwrap();
    let other = bench.jobs.submit(deletion("/n", "z")).unwrap();
    bench.until_state(other, Running).await;
    assert_eq!(bench.seen.job(first).unwrap().state, Running);
    assert_eq!(bench.seen.job(second).unwrap().state, Queued);
    bench.order("x", Order::Finish);
    bench.until_state(second, Running).await;
    assert!(bench.jobs.control(second, Control::Pause).is_err());
    assert!(bench.jobs.control(second, Control::Discard).is_err());
    bench.order("y", Order::Fail);
    bench.until_state(second, Failed).await;
    assert!(bench.jobs.control(second, Control::Retry).is_err(), "a plan is seen again before it runs again");
}

#[tokio::test]
async fn the_limit_reaches_the_work_and_every_subscriber() {
    let mut bench = Bench::new(1, None);
    bench.jobs.set_limit(Some(1000));
    bench.until("the limit is told", |seen| seen.limit == Some(1000)).await;
    assert_eq!(bench.log(), ["limit Some(1000)"]);
}

#[tokio::test]
async fn a_slow_subscriber_gets_a_snapshot_and_misses_nothing_that_lasts() {
    let mut bench = Bench::new(1, None);
    let a = bench.submit("a");
    for bytes in 0..2000 {
        bench.order("a", Order::Progress(bytes));
    }
    bench.order("a", Order::Finish);
    // A second subscriber reads; the first does not until all is over.
    let mut quick = bench.jobs.subscribe();
    let mut seen = Snapshot::default();
    while seen.job(a).is_none_or(|job| job.state != Finished) {
        take(&mut seen, quick.next().await.unwrap());
    }
    bench.until_state(a, Finished).await;
    assert_eq!(bench.seen, seen);
}

#[tokio::test]
async fn a_restart_brings_the_queue_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("queue.json");
    let mut bench = Bench::new(1, Some(path.clone()));
    for name in ["a", "b", "c", "d"] {
        bench.submit(name);
    }
    bench.jobs.control(JobId(2), Control::Pause).unwrap();
    bench.jobs.control(JobId(4), Control::Cancel).unwrap();
    bench.order("a", Order::Progress(40));
    bench.until("bytes are there", |seen| seen.jobs.iter().any(|job| job.bytes == 40)).await;
    bench.jobs.set_limit(Some(1000));
    bench.jobs.shut_down().await;
    assert!(bench.jobs.submit(download("e")).is_err());

    let mut again = Bench::new(1, Some(path));
    again.until("the queue is back", |seen| seen.jobs.len() == 3).await;
    assert_eq!(again.states(), [(1, Running), (2, Paused), (3, Queued)]);
    assert_eq!(again.seen.jobs[0].bytes, 40);
    assert_eq!(again.seen.limit, Some(1000));
    assert_eq!(again.log()[0], "limit Some(1000)", "before anything runs");
    assert_eq!(again.submit("e"), JobId(5), "a number is never used twice");
    assert_eq!(again.seen.warnings, Vec::<String>::new());
}

#[tokio::test]
async fn a_job_of_another_models_folder_never_runs_here() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("queue.json");
    let home = |name: &str| Some(Home::new(&folder.path().join(name), "https://hub.example".into()));
    let bench = Bench::at(home("theirs"), 1, Some(path.clone()));
    let (a, b, c) = (bench.submit("a"), bench.submit("b"), bench.submit("c"));
    bench.jobs.shut_down().await;

    let mut bench = Bench::at(home("mine"), 1, Some(path.clone()));
    bench.submit("d");
    bench.until("d runs", |seen| seen.job(JobId(4)).is_some_and(|job| job.state == Running)).await;
    assert_eq!(bench.states(), [(4, Running), (1, Paused), (2, Paused), (3, Paused)]);
    for control in [Control::Resume, Control::Retry, Control::MoveTo(0)] {
        let refusal = bench.jobs.control(a, control).unwrap_err().to_string();
        assert!(refusal.contains("belongs to ") && refusal.contains("start with --models-dir"), "{refusal}");
    }
    bench.jobs.control(b, Control::Cancel).unwrap();
    bench.until_state(b, Cancelled).await;
    bench.jobs.control(c, Control::Discard).unwrap();
    bench.until_state(c, Cancelled).await;
    let told = bench.seen.job(c).map(|job| (job.bytes, job.total));
    assert_eq!(told, Some((0, Some(0))), "nothing of it is said to stay");
    bench.until("its partial is gone where it belongs", |seen| seen.job(c).is_none()).await;
    let theirs = folder.path().join("theirs");
    assert_eq!(bench.log(), ["run d".to_owned(), format!("discard c in {}", theirs.display())]);
    bench.jobs.shut_down().await;

    let mut bench = Bench::at(home("theirs"), 1, Some(path));
    bench.until("a runs", |seen| seen.job(a).is_some_and(|job| job.state == Running)).await;
    assert_eq!(bench.states(), [(1, Running), (4, Paused)]);
    assert_eq!(bench.log(), ["run a"]);
}

#[tokio::test]
async fn the_queue_file_follows_without_a_shut_down() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("queue.json");
    let bench = Bench::new(1, Some(path.clone()));
    bench.submit("a");
    let written = async {
        while !std::fs::read_to_string(&path).is_ok_and(|text| text.contains("\"a\"")) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), written).await.expect("the file is written soon");
}

#[tokio::test]
async fn subscriptions_end_with_the_last_handle() {
    let mut bench = Bench::new(1, None);
    bench.submit("a");
    let Bench { jobs, fake, .. } = &bench;
    let (jobs, fake) = (jobs.clone(), fake.clone());
    drop(fake);
    let copy = jobs.clone();
    drop(jobs);
    bench.jobs = copy;
    let mut updates = bench.jobs.subscribe();
    drop(bench);
    let ended = async { while updates.next().await.is_some() {} };
    tokio::time::timeout(Duration::from_secs(60), ended).await.expect("the worker ends");
}

#[derive(Clone, Debug)]
enum Act {
    Submit,
    Control(u64, Control),
    Order(usize, u8),
    Clear,
    Limit(u64),
}

fn any_act() -> impl Strategy<Value = Act> {
    let control = prop_oneof![
        Just(Control::Pause),
        Just(Control::Resume),
        Just(Control::Cancel),
        Just(Control::Discard),
        Just(Control::Retry),
        Just(Control::RunNow),
        (0..5_usize).prop_map(Control::MoveTo),
    ];
    prop_oneof![
        3 => Just(Act::Submit),
        6 => (1..12_u64, control).prop_map(|(id, control)| Act::Control(id, control)),
        4 => (0..12_usize, 0..4_u8).prop_map(|(job, order)| Act::Order(job, order)),
        1 => Just(Act::Clear),
        1 => any::<u64>().prop_map(Act::Limit),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// What a subscriber computes from its updates is what the worker has, and no slot is ever lost or used twice.
    #[test]
    fn events_amount_to_the_state_of_the_worker(acts in prop::collection::vec(any_act(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut bench = Bench::new(2, None);
            let mut submitted = 0_usize;
            for act in acts {
                match act {
                    Act::Submit => {
                        bench.submit(&submitted.to_string());
                        submitted += 1;
                    }
                    // A refusal is an answer too: nothing may have changed by it.
                    Act::Control(id, control) => drop(bench.jobs.control(JobId(id), control)),
                    Act::Order(job, order) => {
                        if let Some(orders) = bench.fake.orders.lock().unwrap().get(&job.to_string()) {
                            let _ = orders.send(match order {
                                0 => Order::Finish,
                                1 => Order::Fail,
                                _ => Order::Progress(order.into()),
                            });
                        }
                    }
                    Act::Clear => bench.jobs.clear(),
                    Act::Limit(limit) => bench.jobs.set_limit(Some(limit)),
                }
                for _ in 0..4 {
                    tokio::task::yield_now().await;
                }
                while let Some(update) = bench.updates.try_next() {
                    take(&mut bench.seen, update);
                }
                let running = bench.seen.jobs.iter().filter(|job| job.state.is_active()).count();
                assert!(running <= 2, "{running} downloads run at once");
            }
            for _ in 0..20 {
                tokio::task::yield_now().await;
            }
            while let Some(update) = bench.updates.try_next() {
                take(&mut bench.seen, update);
            }
            let Some(Update::Snapshot(truth)) = bench.jobs.subscribe().try_next() else { panic!("no snapshot") };
            assert_eq!(bench.seen, truth);
            let running = truth.jobs.iter().filter(|job| job.state.is_active()).count();
            let waiting = truth.jobs.iter().filter(|job| job.state == Queued).count();
            assert!(waiting == 0 || running == 2, "{waiting} wait while {running} run");
        });
    }
}
