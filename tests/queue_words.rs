//! What the queue says that a download waits for.
#![cfg(feature = "mirror")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use std::sync::Arc;
use std::time::Duration;

use rbee_hive::jobs::{
    JobEvent, JobEventKind, JobSpec, JobState, JobStatus, Jobs, LocalJobs, LocalJobsOptions, Snapshot, Subscription,
    Update,
};
use rbee_hive::mirror::{Facts, Gate};
use rbee_hive::provisioner::{DownloadRequest, Inventory, ModelProvisioner};
use rbee_hive::transfer::{Connections, Options, RetryPolicy};
use support::hub::{Fault, TestHub, What};
use tempfile::TempDir;

const REPOSITORY: &str = "org/Model-GGUF";
const FILE: &str = "model-Q8_0.gguf";
const MIB: usize = 1 << 20;

/// A queue: it waits for what is missing, and says so.
struct Queue {
    _scratch: TempDir,
    jobs: LocalJobs,
    updates: Subscription,
    seen: Snapshot,
    events: Vec<JobEvent>,
}

fn patient() -> Options {
    let retry = RetryPolicy { first: Duration::from_secs(2), longest: Duration::from_secs(2) };
    Options { first_byte: None, patience: None, retry, ..Options::default() }
}

impl Queue {
    fn at(endpoint: &str, limit: Option<u64>, transfer: Options) -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let provisioner = ModelProvisioner::builder(scratch.path().join("models")).endpoint(endpoint).build();
        let inventory = Inventory::new(vec![Arc::new(provisioner.store().clone())], Vec::new());
        let options = LocalJobsOptions { downloads: 2, limit, queue_file: None, deletion_log: None, transfer };
        let jobs = LocalJobs::start(provisioner, inventory, options);
        let updates = jobs.subscribe();
        Self { _scratch: scratch, jobs, updates, seen: Snapshot::default(), events: Vec::new() }
    }

    fn download(&self, repository: &str) {
        self.jobs.submit(JobSpec::Download(DownloadRequest::new(repository))).unwrap();
    }

    async fn until(&mut self, what: &str, wanted: impl Fn(&Snapshot) -> bool) {
        let Self { updates, seen, events, .. } = self;
        let reading = async {
            while !wanted(seen) {
                match updates.next().await.expect("the worker is there") {
                    Update::Snapshot(snapshot) => *seen = snapshot,
                    Update::Event(event) => {
                        seen.apply(&event);
                        events.push(event);
                    }
                }
            }
        };
        if tokio::time::timeout(Duration::from_secs(60), reading).await.is_err() {
            panic!("waited in vain until {what}: {:#?}", self.seen);
        }
    }

    /// The first job once it is in that state with words.
    async fn first(&mut self, state: JobState) -> JobStatus {
        let wanted = |seen: &Snapshot| seen.jobs.iter().any(|job| job.id.0 == 1 && job.state == state);
        self.until(state.name(), wanted).await;
        self.seen.jobs.iter().find(|job| job.id.0 == 1).unwrap().clone()
    }
}

fn slow_down() -> What {
    What::Answer(429, vec![("retry-after", "90".to_owned())], "slow down".to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_is_told_by_its_cause_and_server_and_with_the_next_try() {
    let api = |what| Fault::on("/api/models/", what).always();
    let bytes = |what| Fault::on(FILE, what).at_bytes().always();
    for (fault, words) in [
        (api(What::status(503)), "503 Service Unavailable"),
        (api(What::html()), "not a model hub's answer (127.0.0.1:PORT): it sent a web page"),
        (api(slow_down()), "requests limited by 127.0.0.1:PORT"),
        (bytes(What::status(503)), "503 Service Unavailable"),
        (bytes(slow_down()), "requests limited by 127.0.0.1:PORT"),
        (bytes(What::status(403)), "it refused the signed address (403 "),
        (bytes(What::Reset(0)), "…: 127.0.0.1:PORT"),
        (bytes(What::Damaged(10)), "wrong checksum: expected "),
    ] {
        let hub = TestHub::start().await;
        hub.put_noise(REPOSITORY, FILE, MIB);
        let told = format!("{fault:?}");
        hub.fault(fault);
        let begun = jiff::Timestamp::now().as_second();
        let mut queue = Queue::at(&hub.endpoint(), None, patient());
        queue.download(REPOSITORY);
        let job = queue.first(JobState::Retrying).await;
        let why = job.why.as_deref().unwrap();
        let known = hub.ports().iter().any(|port| {
            let words = words.replace("PORT", &port.to_string());
            words.strip_prefix('…').map_or_else(|| why.starts_with(&words), |end| why.contains(end))
        });
        assert!(known, "{told}: {why}");
        assert_eq!(job.attempt, Some(1), "{told}");
        let until = job.until.unwrap().as_second();
        let (least, most) = if words.starts_with("requests limited") { (80, 95) } else { (0, 3) };
        // However long it took until it was told.
        let (first, last) = (begun + least, jiff::Timestamp::now().as_second() + most);
        assert!((first..=last).contains(&until), "{told}: {until}, not from {first} to {last}");
        queue.jobs.shut_down().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_without_an_address_and_a_closed_port_are_told_apart() {
    for (endpoint, words) in [
        ("http://nowhere.invalid", "nobody knows the address of that name (DNS"),
        ("http://127.0.0.1:9", "connection refused: 127.0.0.1:9; check the network"),
    ] {
        let mut queue = Queue::at(endpoint, None, patient());
        queue.download(REPOSITORY);
        let why = queue.first(JobState::Retrying).await.why.unwrap();
        assert!(why.starts_with(words), "{why}");
        queue.jobs.shut_down().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn words_stay_until_a_byte_comes() {
    let hub = TestHub::start().await;
    let file = hub.put_noise(REPOSITORY, FILE, MIB);
    hub.fault(Fault::on(FILE, What::status(503)).at_bytes().times(3));
    let retry = RetryPolicy { first: Duration::from_millis(50), longest: Duration::from_millis(50) };
    let mut queue = Queue::at(&hub.endpoint(), None, Options { retry, ..patient() });
    queue.download(REPOSITORY);
    queue.until("it has ended", |seen| seen.jobs.iter().any(|job| job.state.has_ended())).await;
    assert_eq!(queue.seen.jobs[0].bytes, file.len() as u64);
    let told: Vec<String> = queue
        .events
        .iter()
        .filter(|event| !matches!(&event.kind, JobEventKind::Progress { file: Some(_), .. }))
        .map(|event| match &event.kind {
            JobEventKind::Retrying { attempt, .. } => format!("try {}", attempt.unwrap()),
            JobEventKind::Progress { bytes: 0, .. } => "nothing".to_owned(),
            JobEventKind::Progress { .. } => "bytes".to_owned(),
            _ => "other".to_owned(),
        })
        // A machine that stands still makes it say that it waits.
        .filter(|line| line != "other")
        .collect();
    let tries: Vec<&str> = told.iter().map(String::as_str).skip_while(|line| *line != "try 1").take(3).collect();
    assert_eq!(tries, ["try 1", "try 2", "try 3"], "{told:?}");
    queue.jobs.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_sends_nothing_stalls_a_download_and_a_hub_that_thinks_is_named() {
    let hub = TestHub::start().await;
    hub.put_noise(REPOSITORY, FILE, MIB);
    hub.fault(Fault::on(FILE, What::Stall(100_000)).at_bytes().always());
    let mut queue = Queue::at(&hub.endpoint(), None, patient());
    queue.download(REPOSITORY);
    let why = queue.first(JobState::Waiting).await.why.unwrap();
    assert!(why.starts_with("stalled: no byte for ") && why.ends_with("connects anew after 20 s"), "{why}");
    queue.jobs.shut_down().await;

    hub.clear_faults();
    hub.fault(Fault::on("/api/models/", What::Silence).always());
    let mut queue = Queue::at(&hub.endpoint(), None, patient());
    queue.download(REPOSITORY);
    let why = queue.first(JobState::Waiting).await.why.unwrap();
    assert_eq!(why, format!("no answer from {} for 3 s; it was asked for the list of files", &hub.endpoint()[7..]));
    queue.jobs.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_gets_no_share_of_the_limit_is_not_called_stalled() {
    let hub = TestHub::start().await;
    for name in ["One", "Two"] {
        hub.put_noise(&format!("org/{name}-GGUF"), FILE, 4 * MIB);
    }
    // So little that a turn of the one takes longer than the other goes unnoticed without a byte.
    let transfer = Options { connections: Connections::new(1), ..patient() };
    let mut queue = Queue::at(&hub.endpoint(), Some(100_000), transfer);
    for name in ["One", "Two"] {
        queue.download(&format!("org/{name}-GGUF"));
    }
    let starved = |seen: &Snapshot| seen.jobs.iter().any(|job| job.state == JobState::Waiting);
    queue.until("one waits", starved).await;
    let why = queue.seen.jobs.iter().find_map(|job| job.why.clone()).unwrap();
    assert!(why.starts_with("for its share of the speed limit: other downloads use the 97.7 KiB/s"), "{why}");
    queue.jobs.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gate_ends_the_job_with_its_page() {
    let hub = TestHub::start().await;
    hub.put_noise(REPOSITORY, FILE, MIB);
    hub.set_facts(REPOSITORY, Facts { gate: Gate::Manual, ..Facts::default() });
    let mut queue = Queue::at(&hub.endpoint(), None, patient());
    queue.download(REPOSITORY);
    let why = queue.first(JobState::Failed).await.why.unwrap();
    let page = format!("{}/{REPOSITORY}", hub.endpoint());
    assert!(why.contains(&format!("ask for access at {page}, then set HF_TOKEN")), "{why}");
    queue.jobs.shut_down().await;
}
