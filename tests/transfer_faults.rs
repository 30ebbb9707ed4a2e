//! Downloads through the whole library from a hub that fails in every way that hubs fail.
#![cfg(feature = "mirror")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rbee_hive::Error;
use rbee_hive::provisioner::{DownloadRequest, Downloaded, ModelProvisioner};
use rbee_hive::transfer::{EventSink, Options, RetryPolicy, TransferEvent};
use support::hub::{Fault, TestHub, What, noise};
use tokio_util::sync::CancellationToken;

const REPOSITORY: &str = "org/Model-GGUF";
const FILE: &str = "m-Q4_K_M.gguf";
const SIZE: usize = 3 << 20;

/// For a server that goes silent. A machine that stands still is taken for one, which costs a request.
const SOON: Duration = Duration::from_millis(300);
/// For a server that does not.
const LATE: Duration = Duration::from_secs(60);

fn quick(stall: Duration) -> Options {
    Options {
        first_byte: Some(Duration::from_secs(60)),
        stall,
        patience: Some(Duration::from_secs(60)),
        retry: RetryPolicy { first: Duration::from_millis(1), longest: Duration::from_millis(10) },
        ..Options::default()
    }
}

struct Bench {
    hub: TestHub,
    scratch: tempfile::TempDir,
    provisioner: ModelProvisioner,
    bytes: Vec<u8>,
    stall: Duration,
    events: Arc<Mutex<Vec<TransferEvent>>>,
}

impl Bench {
    async fn new(faults: impl IntoIterator<Item = Fault>) -> Self {
        let hub = TestHub::start().await;
        let bytes = hub.put_noise(REPOSITORY, FILE, SIZE);
        let mut stall = LATE;
        for fault in faults {
            if fault.is_silent() {
                stall = SOON;
            }
            hub.fault(fault);
        }
        let scratch = tempfile::tempdir().unwrap();
        let provisioner = ModelProvisioner::builder(scratch.path().join("models")).endpoint(hub.endpoint()).build();
        Self { hub, scratch, provisioner, bytes, stall, events: Arc::default() }
    }

    async fn download(&self) -> Result<Downloaded, Error> {
        let events = Arc::clone(&self.events);
        let sink: EventSink = Arc::new(move |event| events.lock().unwrap().push(event));
        let plan = self.provisioner.plan_download(&DownloadRequest::new(REPOSITORY)).await?;
        self.provisioner.download(&plan, &quick(self.stall), &sink, &CancellationToken::new()).await
    }

    fn assert_whole(&self, downloaded: &Downloaded) {
        assert!(fs::read(&downloaded.path).unwrap() == self.bytes, "it is not what the hub has");
        assert_eq!(leftovers(self.scratch.path()), Vec::<String>::new());
    }

    fn retries(&self) -> usize {
        let events = self.events.lock().unwrap();
        events.iter().filter(|event| matches!(event, TransferEvent::Retrying { .. })).count()
    }
}

/// Staging files below a folder.
fn leftovers(root: &Path) -> Vec<String> {
    walkdir::WalkDir::new(root)
        .into_iter()
        .map(|entry| entry.unwrap().path().display().to_string())
        .filter(|path| path.contains(".llorch"))
        .filter(|path| !Path::new(path).is_dir())
        .collect()
}

fn breaks() -> Fault {
    Fault::on("", What::Reset(1_000_000)).at_bytes()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_fault_after_a_break_is_mended() {
    let half = (SIZE / 2) as u64;
    let faults: [(What, bool); 14] = [
        (What::Reset(0), false),
        (What::Stall(half), false),
        (What::Silence, false),
        (What::status(500), false),
        (What::status(502), false),
        (What::status(503), false),
        (What::Answer(429, vec![("retry-after", "0".to_owned())], "slow down".to_owned()), false),
        (What::status(403), false),
        (What::html(), false),
        (What::RedirectLoop, false),
        (What::Length(5), true),
        (What::LyingLength(1 << 40), true),
        (What::NoRange, true),
        (What::Header("content-range", None), true),
    ];
    for (what, whole_again) in faults {
        let name = format!("{what:?}");
        let bench = Bench::new([breaks(), Fault::on("", what).at_bytes()]).await;
        let downloaded = bench.download().await.unwrap_or_else(|error| panic!("{name}: {error}"));
        bench.assert_whole(&downloaded);
        assert!(bench.retries() >= 1, "{name}");
        if !whole_again {
            assert_eq!(downloaded.fetched, SIZE as u64, "{name}: a byte was fetched twice");
        }
        assert!(bench.hub.count(FILE) <= 12, "{name}: {} requests", bench.hub.count(FILE));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_validator_of_the_first_answer_goes_with_every_range() {
    let bench = Bench::new([breaks(), breaks()]).await;
    bench.assert_whole(&bench.download().await.unwrap());
    let seen = bench.hub.seen();
    let ranged: Vec<_> = seen.iter().filter(|seen| seen.range.is_some() && seen.status == 206).collect();
    assert_eq!(ranged.len(), 2, "{seen:#?}");
    assert!(ranged.iter().all(|seen| seen.if_range.is_some()), "{ranged:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_were_replaced_in_the_middle_never_mix() {
    let other = noise(SIZE, "other");
    let replaced = Fault::on("", What::Replaced(other)).at_bytes();

    // One of many servers was behind: what is here stays.
    let bench = Bench::new([breaks(), replaced.clone()]).await;
    let downloaded = bench.download().await.unwrap();
    bench.assert_whole(&downloaded);
    assert_eq!(downloaded.fetched, SIZE as u64);

    let bench = Bench::new([breaks(), replaced.clone().times(3)]).await;
    let downloaded = bench.download().await.unwrap();
    bench.assert_whole(&downloaded);
    assert!(downloaded.fetched > 2 * SIZE as u64, "the other file was never fetched: the test tests nothing");

    let bench = Bench::new([breaks(), replaced.always()]).await;
    let error = bench.download().await.unwrap_err();
    assert!(matches!(error, Error::ChecksumMismatch { .. }), "{error}");
    assert_eq!(leftovers(bench.scratch.path()), Vec::<String>::new());
    let published =
        walkdir::WalkDir::new(bench.scratch.path()).into_iter().any(|entry| entry.unwrap().file_name() == FILE);
    assert!(!published);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_faults_ends_with_the_right_file() {
    let mut state = 0x5eed_u64;
    let mut random = move |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    for round in 0..12 {
        let mut faults = vec![Fault::on("", What::Reset(1 + random(500_000))).at_bytes()];
        for _ in 0..6 {
            let what = match random(11) {
                0 => What::Reset(random(400_000)),
                1 => What::Stall(random(400_000)),
                2 => What::status(503),
                3 => What::status(403),
                4 => What::html(),
                5 => What::LyingLength(random(1 << 23)),
                6 => What::Length(random(1 << 22)),
                7 => What::Header("etag", None),
                8 => What::NoRange,
                9 => What::Silence,
                _ => What::Header("content-range", Some("bytes 0-1/2".to_owned())),
            };
            faults.push(Fault::on("", what).at_bytes());
        }
        let told = format!("round {round}: {faults:#?}");
        let bench = Bench::new(faults).await;
        let downloaded = bench.download().await.unwrap_or_else(|error| panic!("{error} in {told}"));
        bench.assert_whole(&downloaded);
        assert!(bench.hub.count(FILE) <= 40, "{} requests in {told}", bench.hub.count(FILE));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_strange_answer_before_the_first_byte_costs_a_try() {
    let answer = |status| What::Answer(status, vec![], "no".to_owned());
    let strange = || {
        [What::html(), What::Header("content-encoding", Some("gzip".to_owned())), answer(400), answer(404), answer(204)]
    };
    for what in strange() {
        let bench = Bench::new([Fault::on(FILE, what.clone()).at_bytes()]).await;
        let downloaded = bench.download().await.unwrap_or_else(|error| panic!("{what:?}: {error}"));
        bench.assert_whole(&downloaded);
    }
    for what in [What::html(), What::json("[{\"type\":"), answer(404)] {
        let bench = Bench::new([Fault::on("/tree/", what.clone())]).await;
        let downloaded = bench.download().await.unwrap_or_else(|error| panic!("{what:?}: {error}"));
        bench.assert_whole(&downloaded);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_never_becomes_an_answer_ends_before_the_first_byte() {
    for what in [What::html(), What::status(404), What::Redirect(302, "ftp://x/".to_owned())] {
        let bench = Bench::new([Fault::on(FILE, what.clone()).always()]).await;
        bench.download().await.unwrap_err();
        assert!(bench.hub.count(FILE) <= 8, "{what:?}: {}", bench.hub.count(FILE));
        assert_eq!(leftovers(bench.scratch.path()), Vec::<String>::new());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_turns_out_to_be_no_files_is_not_kept() {
    let login = TestHub::start().await;
    login.fault(Fault::on("/page", What::html()).always());
    let page = format!("{}/page", login.endpoint());
    let bench = Bench::new([breaks(), Fault::on(FILE, What::Redirect(302, page)).at_hub().after(1)]).await;
    bench.assert_whole(&bench.download().await.unwrap());
    assert_eq!(login.count("/page"), 1);
}
