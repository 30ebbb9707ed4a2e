//! The queue with real downloads, verifications and deletions.
#![cfg(feature = "mirror")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rbee_hive::jobs::{
    Control, JobId, JobOutcome, JobSpec, JobState, JobStatus, Jobs, LocalJobs, LocalJobsOptions, Snapshot,
    Subscription, Update,
};
use rbee_hive::provisioner::{DownloadRequest, Inventory, ModelProvisioner, PlanTarget};
use rbee_hive::transfer::{Options, RetryPolicy};
use support::hub::{Fault, TestHub, What};
use tempfile::TempDir;

const REPOSITORY: &str = "org/Model-GGUF";
const FILE: &str = "model-Q8_0.gguf";
const MIB: usize = 1 << 20;

struct Bench {
    hub: TestHub,
    scratch: TempDir,
    inventory: Inventory,
    jobs: LocalJobs,
    updates: Subscription,
    seen: Snapshot,
}

/// A queue: it waits, and tries again soon so that the test does not take long.
fn patient() -> Options {
    let retry = RetryPolicy { first: Duration::from_millis(10), longest: Duration::from_millis(50) };
    Options { first_byte: None, patience: None, stall: Duration::from_millis(500), retry, ..Options::default() }
}

impl Bench {
    async fn new() -> Self {
        Self::with(patient()).await
    }

    async fn with(transfer: Options) -> Self {
        let hub = TestHub::start().await;
        let scratch = tempfile::tempdir().unwrap();
        let provisioner = ModelProvisioner::builder(scratch.path().join("models")).endpoint(hub.endpoint()).build();
        let inventory = Inventory::new(vec![Arc::new(provisioner.store().clone())], Vec::new());
        let jobs = LocalJobs::start(
            provisioner,
            inventory.clone(),
            LocalJobsOptions {
                downloads: 3,
                limit: None,
                queue_file: Some(scratch.path().join("state/queue.json")),
                deletion_log: Some(scratch.path().join("state/deletions.jsonl")),
                transfer,
            },
        );
        let updates = jobs.subscribe();
        Self { hub, scratch, inventory, jobs, updates, seen: Snapshot::default() }
    }

    fn download(&self) -> JobId {
        self.jobs.submit(JobSpec::Download(DownloadRequest::new(REPOSITORY))).unwrap()
    }

    fn folder(&self) -> PathBuf {
        self.scratch.path().join("models/model-gguf")
    }

    /// Reads updates until the job is as wanted.
    async fn until(&mut self, id: JobId, what: &str, wanted: impl Fn(&JobStatus) -> bool) -> JobStatus {
        let Self { updates, seen, .. } = self;
        let reading = async {
            loop {
                if let Some(job) = seen.job(id).filter(|job| wanted(job)) {
                    return job.clone();
                }
                match updates.next().await.expect("the worker is there") {
                    Update::Snapshot(snapshot) => *seen = snapshot,
                    Update::Event(event) => seen.apply(&event),
                }
            }
        };
        match tokio::time::timeout(Duration::from_secs(60), reading).await {
            Ok(job) => job,
            Err(_) => panic!("waited in vain until {what}: {:#?}", self.seen),
        }
    }

    async fn until_state(&mut self, id: JobId, state: JobState) -> JobStatus {
        self.until(id, state.name(), |job| job.state == state).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_pauses_resumes_and_finishes() {
    let mut bench = Bench::new().await;
    let bytes = bench.hub.put_noise(REPOSITORY, FILE, 6 * MIB);
    bench.jobs.set_limit(Some(4 << 20));
    let id = bench.download();
    bench.until(id, "bytes arrive", |job| job.bytes > MIB as u64 && job.rate.is_some()).await;
    bench.jobs.control(id, Control::Pause).unwrap();
    let paused = bench.until_state(id, JobState::Paused).await;
    assert_eq!((paused.rate, paused.eta_s), (None, None), "what is paused has no speed");
    assert!(!bench.folder().join(FILE).exists());
    bench.jobs.set_limit(None);
    bench.jobs.control(id, Control::Resume).unwrap();
    let done = bench.until_state(id, JobState::Finished).await;
    assert_eq!((done.bytes, done.total), (bytes.len() as u64, Some(bytes.len() as u64)));
    assert!(done.files.iter().all(|file| file.finished), "{:?}", done.files);
    assert!(fs::read(done.path.unwrap()).unwrap() == bytes);
    let Some(JobOutcome::Fetched(fetched)) = done.outcome.as_deref() else { panic!("{:?}", done.outcome) };
    assert!(*fetched < bytes.len() as u64, "the partial was used");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_discarded_download_leaves_nothing() {
    let mut bench = Bench::new().await;
    bench.hub.put_noise(REPOSITORY, FILE, 6 * MIB);
    bench.jobs.set_limit(Some(2 << 20));
    let id = bench.download();
    bench.until(id, "bytes arrive", |job| job.bytes > MIB as u64).await;
    bench.jobs.control(id, Control::Discard).unwrap();
    bench.until_state(id, JobState::Cancelled).await;
    let files = walkdir::WalkDir::new(bench.scratch.path().join("models")).into_iter().filter_map(Result::ok);
    let left: Vec<_> = files.filter(|entry| entry.file_type().is_file()).map(walkdir::DirEntry::into_path).collect();
    assert!(left.iter().all(|path| !path.to_string_lossy().contains(".llorch")), "{left:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_waits_for_a_hub_that_stumbles() {
    let mut bench = Bench::new().await;
    let bytes = bench.hub.put_noise(REPOSITORY, FILE, 2 * MIB);
    bench.hub.fault(Fault::on("/api/models/", What::status(503)).times(4));
    bench.hub.fault(Fault::on(FILE, What::Reset(100_000)).at_bytes().times(3));
    let id = bench.download();
    let done = bench.until(id, "it has ended", |job| job.state.has_ended()).await;
    assert_eq!(done.state, JobState::Finished, "{done:?}");
    assert!(fs::read(done.path.unwrap()).unwrap() == bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stall_shows_as_a_stall() {
    let mut bench = Bench::with(Options { stall: Duration::from_secs(600), ..patient() }).await;
    bench.hub.put_noise(REPOSITORY, FILE, 8 * MIB);
    bench.hub.fault(Fault::on(FILE, What::Stall(5 << 20)).at_bytes());
    bench.jobs.set_limit(Some(4 << 20));
    let id = bench.download();
    bench.until(id, "it runs", |job| job.rate.is_some_and(|rate| rate > 0)).await;
    let stalled = bench.until(id, "the rate falls to nothing", |job| job.rate == Some(0)).await;
    assert_eq!((stalled.state, stalled.eta_s), (JobState::Running, None));
    bench.jobs.control(id, Control::Cancel).unwrap();
    bench.until_state(id, JobState::Cancelled).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_waiting_helps_fails_with_its_cause() {
    let mut bench = Bench::new().await;
    let id = bench.jobs.submit(JobSpec::Download(DownloadRequest::new("org/nothing"))).unwrap();
    let failed = bench.until_state(id, JobState::Failed).await;
    assert!(failed.why.unwrap().contains("org/nothing"));
    // It appears, and is tried again.
    bench.hub.put_noise("org/nothing", FILE, 5000);
    bench.jobs.control(id, Control::Retry).unwrap();
    bench.until_state(id, JobState::Finished).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_is_verified_and_deleted() {
    let mut bench = Bench::new().await;
    bench.hub.put_noise(REPOSITORY, FILE, 3 * MIB);
    let id = bench.download();
    bench.until_state(id, JobState::Finished).await;
    let (rows, _) = bench.inventory.scan_all(&Default::default());
    let model = rows[0].model.identity.clone();

    let id = bench.jobs.submit(JobSpec::Verify { models: vec![model.clone()], quick: false }).unwrap();
    let done = bench.until_state(id, JobState::Finished).await;
    let Some(JobOutcome::Verified(found)) = done.outcome.as_deref() else { panic!("{:?}", done.outcome) };
    // The bytes are the promised ones, although they are no model.
    assert!(found[0].files.iter().all(|file| file.actual == file.expected), "{found:?}");

    let plan = bench.inventory.plan_deletion(&[PlanTarget::whole(model)]).unwrap();
    let expected = plan.expected_bytes;
    let id = bench.jobs.submit(JobSpec::Delete { plan }).unwrap();
    let done = bench.until_state(id, JobState::Finished).await;
    let Some(JobOutcome::Deleted(report)) = done.outcome.as_deref() else { panic!("{:?}", done.outcome) };
    assert_eq!((report.freed_bytes, report.failed.len()), (expected, 0));
    assert!(!bench.folder().exists());
    let note = fs::read_to_string(bench.scratch.path().join("state/deletions.jsonl")).unwrap();
    assert!(note.contains(REPOSITORY) && note.contains(&bench.hub.endpoint()), "{note}");
}

#[tokio::test(flavor = "multi_thread")]
async fn shutting_down_keeps_the_place_and_the_bytes() {
    let mut bench = Bench::new().await;
    let bytes = bench.hub.put_noise(REPOSITORY, FILE, 6 * MIB);
    bench.jobs.set_limit(Some(3 << 20));
    let id = bench.download();
    bench.until(id, "bytes arrive", |job| job.bytes > MIB as u64).await;
    bench.jobs.shut_down().await;
    let before = bench.hub.file_bytes_sent();
    assert!(before > 0);

    let queue = fs::read_to_string(bench.scratch.path().join("state/queue.json")).unwrap();
    assert!(queue.contains(REPOSITORY), "{queue}");
    let provisioner =
        ModelProvisioner::builder(bench.scratch.path().join("models")).endpoint(bench.hub.endpoint()).build();
    bench.jobs = LocalJobs::start(
        provisioner,
        bench.inventory.clone(),
        LocalJobsOptions {
            downloads: 3,
            limit: None,
            queue_file: Some(bench.scratch.path().join("state/queue.json")),
            deletion_log: None,
            transfer: patient(),
        },
    );
    bench.updates = bench.jobs.subscribe();
    bench.seen = Snapshot::default();
    let done = bench.until_state(id, JobState::Finished).await;
    let Some(JobOutcome::Fetched(fetched)) = done.outcome.as_deref() else { panic!("{:?}", done.outcome) };
    assert!(*fetched < bytes.len() as u64, "the partial was used");
    assert!(fs::read(bench.folder().join(FILE)).unwrap() == bytes);
}
