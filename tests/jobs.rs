//! The queue with real downloads, verifications and deletions.
#![cfg(feature = "mirror")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rbee_hive::jobs::{
    Basis, Control, JobId, JobOutcome, JobSpec, JobState, JobStatus, Jobs, LocalJobs, LocalJobsOptions, Snapshot,
    Subscription, Update,
};
use rbee_hive::model::Kept;
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
        let scratch = tempfile::tempdir().unwrap();
        let models = scratch.path().join("models");
        Self::at(scratch, models, 3, transfer).await
    }

    async fn at(scratch: TempDir, models: PathBuf, downloads: usize, transfer: Options) -> Self {
        let hub = TestHub::start().await;
        let provisioner = ModelProvisioner::builder(models).endpoint(hub.endpoint()).build();
        let inventory = Inventory::new(vec![Arc::new(provisioner.store().clone())], Vec::new());
        let jobs = LocalJobs::start(
            provisioner,
            inventory.clone(),
            LocalJobsOptions {
                downloads,
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
        self.download_of(REPOSITORY)
    }

    fn download_of(&self, repository: &str) -> JobId {
        self.jobs.submit(JobSpec::Download(DownloadRequest::new(repository))).unwrap()
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
    let bytes = bench.hub.put_noise(REPOSITORY, FILE, 24 * MIB);
    bench.jobs.set_limit(Some(2 << 20));
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
    bench.hub.put_noise(REPOSITORY, FILE, 24 * MIB);
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
async fn what_no_hub_says_keeps_a_queue_waiting_and_what_the_hub_says_ends_the_job() {
    for (at, what) in [
        ("/api/models/", What::html()),
        ("/tree/", What::json("[{\"type\":\"file\"")),
        (FILE, What::html()),
        (FILE, What::status(404)),
    ] {
        let mut bench = Bench::new().await;
        let bytes = bench.hub.put_noise(REPOSITORY, FILE, 2 * MIB);
        let fault = Fault::on(at, what.clone()).always();
        bench.hub.fault(if at == FILE { fault.at_bytes() } else { fault });
        let id = bench.download();
        bench.until(id, "it waits", |job| job.state == JobState::Retrying && job.why.is_some()).await;
        bench.hub.clear_faults();
        let done = bench.until(id, "it has ended", |job| job.state.has_ended()).await;
        assert_eq!(done.state, JobState::Finished, "{what:?}: {done:?}");
        assert!(fs::read(done.path.unwrap()).unwrap() == bytes);
    }
    let mut bench = Bench::new().await;
    let id = bench.download();
    let failed = bench.until_state(id, JobState::Failed).await;
    assert!(failed.why.unwrap().contains("not found"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_discarded_while_it_runs_has_no_progress_left() {
    let mut bench = Bench::new().await;
    bench.hub.put_noise(REPOSITORY, FILE, 24 * MIB);
    bench.jobs.set_limit(Some(2 << 20));
    let id = bench.download();
    bench.until(id, "bytes arrive", |job| job.bytes > MIB as u64).await;
    bench.jobs.control(id, Control::Discard).unwrap();
    let ended = bench.until_state(id, JobState::Cancelled).await;
    assert_eq!(ended.bytes, 0);
    assert!(ended.files.iter().all(|file| file.bytes == 0), "{ended:?}");
    assert!(!bench.folder().exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stall_shows_as_a_stall() {
    let mut bench = Bench::with(Options { stall: Duration::from_secs(600), ..patient() }).await;
    bench.hub.put_noise(REPOSITORY, FILE, 8 * MIB);
    // In the second piece: the first is an eighth of the file.
    bench.hub.fault(Fault::on(FILE, What::Stall(3 << 20)).at_bytes().always());
    bench.jobs.set_limit(Some(1 << 20));
    let id = bench.download();
    bench.until(id, "it runs", |job| job.rate.is_some_and(|rate| rate > 0)).await;
    let stalled = bench.until_state(id, JobState::Waiting).await;
    assert!(stalled.why.as_deref().is_some_and(|why| why.starts_with("stalled: no byte for ")), "{stalled:?}");
    assert_eq!((stalled.rate, stalled.eta_s), (None, None));
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

    let targets = vec![PlanTarget::whole(model)];
    let plan = bench.inventory.plan_deletion(&targets).unwrap();
    let expected = plan.expected_bytes;
    let mut other = plan.clone();
    other.keep.push(Kept { path: "/stays".into(), because: "it was shown to stay".into() });
    let basis = Basis::Seen(targets);
    let id = bench.jobs.submit(JobSpec::Delete { plan: other, basis: basis.clone() }).unwrap();
    let failed = bench.until_state(id, JobState::Failed).await;
    assert!(failed.why.unwrap().contains("the store has changed; look at the plan again"));
    assert!(bench.folder().join(FILE).exists());
    let id = bench.jobs.submit(JobSpec::Delete { plan, basis }).unwrap();
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
    let bytes = bench.hub.put_noise(REPOSITORY, FILE, 24 * MIB);
    bench.jobs.set_limit(Some(2 << 20));
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

/// A file system of its own; unmounted when dropped.
struct Mount(PathBuf);

impl Mount {
    /// `None`, and a line that says so, where this user may not mount.
    fn new(folder: PathBuf, arguments: &[&str]) -> Option<Self> {
        fs::create_dir_all(&folder).unwrap();
        let output = std::process::Command::new("mount").args(arguments).arg(&folder).output();
        if output.as_ref().is_ok_and(|output| output.status.success()) {
            return Some(Self(folder));
        }
        eprintln!("skipped: nothing can be mounted here: {output:?}");
        None
    }

    /// ext2 has no way to claim blocks beforehand, so writes fail in the middle.
    fn ext2(folder: PathBuf, image: &Path, mib: usize) -> Option<Self> {
        fs::File::create(image).unwrap().set_len((mib * MIB) as u64).unwrap();
        let made = std::process::Command::new("mkfs.ext2").args(["-q", "-F", "-m", "0"]).arg(image).status();
        if !made.is_ok_and(|status| status.success()) {
            eprintln!("skipped: no file system can be made here");
            return None;
        }
        Self::new(folder, &["-o", "loop", image.to_str().unwrap()])
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_room_lets_others_run_and_goes_on_when_there_is_some() {
    let scratch = tempfile::tempdir().unwrap();
    let models = scratch.path().join("models");
    let Some(_mount) = Mount::new(models.clone(), &["-t", "tmpfs", "-o", "size=16m", "tmpfs"]) else { return };
    let mut bench = Bench::at(scratch, models.clone(), 1, patient()).await;
    let big = bench.hub.put_noise("org/Big-GGUF", "big-Q8_0.gguf", 24 * MIB);
    for name in ["one", "two", "three"] {
        bench.hub.put_noise(&format!("org/{name}-GGUF"), &format!("{name}-Q8_0.gguf"), MIB);
    }
    let large = bench.download_of("org/Big-GGUF");
    let others = ["one", "two"].map(|name| bench.download_of(&format!("org/{name}-GGUF")));
    let waiting = bench.until_state(large, JobState::Waiting).await;
    assert!(waiting.why.as_deref().is_some_and(|why| why.contains(" short")), "{waiting:?}");
    for other in others {
        bench.until_state(other, JobState::Finished).await;
    }
    let status = bench.seen.job(large).unwrap();
    assert!(status.state == JobState::Waiting && status.bytes == 0, "{status:?}");

    let grown = std::process::Command::new("mount").args(["-o", "remount,size=64m"]).arg(&models).status();
    assert!(grown.unwrap().success());
    // The end of a download is an occasion to look again.
    bench.download_of("org/three-GGUF");
    let done = bench.until_state(large, JobState::Finished).await;
    assert!(fs::read(done.path.unwrap()).unwrap() == big);
    bench.jobs.shut_down().await;
}

/// Writes `ballast` until so many bytes are free, or none because somebody else writes as well.
fn fill(folder: &Path, ballast: &Path, leave: usize) {
    let mut file = fs::File::create(ballast).unwrap();
    loop {
        let free = rbee_hive::disk::space::space(folder).unwrap().available as usize;
        if free <= leave {
            return;
        }
        match file.write_all(&vec![1; MIB.min(free - leave)]) {
            Err(error) if error.kind() == std::io::ErrorKind::StorageFull => return,
            written => written.unwrap(),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_fills_while_a_job_runs_makes_it_wait_with_its_partial() {
    let scratch = tempfile::tempdir().unwrap();
    let models = scratch.path().join("models");
    let image = scratch.path().join("image");
    let Some(_mount) = Mount::ext2(models.clone(), &image, 32) else { return };
    let mut bench = Bench::at(scratch, models.clone(), 1, patient()).await;
    let bytes = bench.hub.put_noise(REPOSITORY, FILE, 16 * MIB);
    bench.hub.put_noise("org/small-GGUF", "small-Q8_0.gguf", 1000);
    bench.jobs.set_limit(Some(1 << 20));
    let id = bench.download();
    bench.until(id, "bytes arrive", |job| job.bytes > MIB as u64).await;
    let ballast = models.join("ballast");
    fill(&models, &ballast, 2 * MIB);
    let waiting = bench.until_state(id, JobState::Waiting).await;
    assert!(
        waiting.why.as_deref().is_some_and(|why| why.contains(" short in ") || why.contains("not enough space")),
        "{waiting:?}"
    );
    assert!(waiting.bytes > MIB as u64, "{waiting:?}");
    assert!(!models.join("model-gguf").join(FILE).exists());

    fs::write(&ballast, b"").unwrap();
    bench.jobs.set_limit(None);
    bench.download_of("org/small-GGUF");
    let done = bench.until_state(id, JobState::Finished).await;
    let Some(JobOutcome::Fetched(fetched)) = done.outcome.as_deref() else { panic!("{:?}", done.outcome) };
    assert!(*fetched < bytes.len() as u64, "the partial was used: {fetched}");
    assert!(fs::read(done.path.unwrap()).unwrap() == bytes);
    bench.jobs.shut_down().await;
}
