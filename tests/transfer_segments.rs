//! One file over several connections, through the whole library, from a hub that holds each connection to a rate or fails.
#![cfg(feature = "mirror")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rbee_hive::Error;
use rbee_hive::hub::Token;
use rbee_hive::mirror::{Account, Options as Serve, Origin};
use rbee_hive::provisioner::{DownloadRequest, Downloaded, ModelProvisioner};
use rbee_hive::transfer::{Connections, EventSink, Options, RetryPolicy, TransferEvent};
use support::hub::{Fault, Seen, TestHub, What};
use tokio_util::sync::CancellationToken;

const REPOSITORY: &str = "org/Model-GGUF";
const FILE: &str = "m-Q4_K_M.gguf";
const MIB: usize = 1 << 20;
const TOKEN: &str = "hf_only_for_the_hub";

struct Bench {
    hub: TestHub,
    scratch: tempfile::TempDir,
    provisioner: ModelProvisioner,
    bytes: Vec<u8>,
    options: Options,
    events: Arc<Mutex<Vec<TransferEvent>>>,
}

impl Bench {
    /// A hub whose every answer comes at `rate` bytes per second.
    async fn new(size: usize, rate: Option<u64>, faults: impl IntoIterator<Item = Fault>) -> Self {
        let account = Account { token: Token::new(TOKEN).unwrap(), gated: true };
        let serve = Serve { large_from: 4096, rate, accounts: vec![account], ..Serve::default() };
        let hub = TestHub::with(serve).await;
        let bytes = hub.put_noise(REPOSITORY, FILE, size);
        // A machine that stands still is taken for a server that goes silent, which costs a request.
        let mut stall = Duration::from_secs(60);
        for fault in faults {
            if fault.is_silent() {
                stall = Duration::from_millis(400);
            }
            hub.fault(fault);
        }
        let scratch = tempfile::tempdir().unwrap();
        let provisioner = ModelProvisioner::builder(scratch.path().join("models"))
            .endpoint(hub.endpoint())
            .token(Some(TOKEN))
            .build();
        let options = Options {
            connections: Connections::new(8),
            first_byte: Some(Duration::from_secs(60)),
            stall,
            patience: Some(Duration::from_secs(60)),
            retry: RetryPolicy { first: Duration::from_millis(1), longest: Duration::from_millis(20) },
            ..Options::default()
        };
        Self { hub, scratch, provisioner, bytes, options, events: Arc::default() }
    }

    async fn download(&self) -> Result<Downloaded, Error> {
        let events = Arc::clone(&self.events);
        let sink: EventSink = Arc::new(move |event| events.lock().unwrap().push(event));
        let plan = self.provisioner.plan_download(&DownloadRequest::new(REPOSITORY)).await?;
        self.provisioner.download(&plan, &self.options, &sink, &CancellationToken::new()).await
    }

    fn assert_whole(&self, downloaded: &Downloaded) {
        assert!(fs::read(&downloaded.path).unwrap() == self.bytes, "it is not what the hub has");
        assert_eq!(leftovers(self.scratch.path()), Vec::<String>::new());
        for seen in self.hub.seen().iter().filter(|seen| seen.origin == Origin::Bytes) {
            assert_eq!(seen.authorization, None, "the token went to another origin: {seen:?}");
        }
    }

    /// Who takes over a part of a piece leaves the other what is on its way already.
    fn assert_little_twice(&self, downloaded: &Downloaded) {
        let (fetched, size) = (downloaded.fetched, self.bytes.len() as u64);
        assert!((size..size + size / 20).contains(&fetched), "{fetched} bytes of {size}");
    }

    /// Requests for bytes.
    fn asked(&self) -> Vec<Seen> {
        self.hub.seen().into_iter().filter(|seen| seen.origin == Origin::Bytes).collect()
    }

    /// Requests to the hub for the file.
    fn resolved(&self) -> usize {
        self.hub.seen().iter().filter(|seen| seen.origin == Origin::Hub && seen.target.contains("/resolve/")).count()
    }

    fn most_connections(&self) -> usize {
        let events = self.events.lock().unwrap();
        let count = |event: &TransferEvent| match event {
            TransferEvent::FileProgress { connections, .. } => *connections,
            _ => 0,
        };
        events.iter().map(count).max().unwrap_or(0)
    }
}

/// Staging files below a folder.
fn leftovers(root: &Path) -> Vec<String> {
    walkdir::WalkDir::new(root)
        .into_iter()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.file_type().is_file())
        .map(|entry| entry.path().display().to_string())
        .filter(|path| path.contains(".llorch"))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limited_connection_gets_others_beside_it_and_little_comes_twice() {
    let bench = Bench::new(48 * MIB, Some(6 << 20), []).await;
    let downloaded = bench.download().await.unwrap();
    bench.assert_whole(&downloaded);
    bench.assert_little_twice(&downloaded);
    assert!(bench.most_connections() >= 4, "{}", bench.most_connections());
    assert_eq!(bench.resolved(), 1, "the address is shared");
    let asked = bench.asked();
    assert!(asked.iter().skip(1).all(|seen| seen.if_range.is_some() && seen.range.is_some()), "{asked:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_connection_is_one_connection() {
    let mut bench = Bench::new(40 * MIB, Some(32 << 20), []).await;
    bench.options.connections = Connections::new(1);
    let downloaded = bench.download().await.unwrap();
    bench.assert_whole(&downloaded);
    assert!(bench.most_connections() <= 1);
    assert_eq!(downloaded.fetched, bench.bytes.len() as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_whose_time_is_up_is_asked_for_again_once() {
    let expired = Fault::on("", What::status(403)).at_bytes().after(4);
    let bench = Bench::new(48 * MIB, Some(8 << 20), [expired]).await;
    let downloaded = bench.download().await.unwrap();
    bench.assert_whole(&downloaded);
    bench.assert_little_twice(&downloaded);
    assert_eq!(bench.resolved(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_allows_one_connection_gets_one() {
    let refused = Fault::on("", What::status(429)).at_bytes().after(1).times(12);
    let bench = Bench::new(40 * MIB, Some(16 << 20), [refused]).await;
    let downloaded = bench.download().await.unwrap();
    bench.assert_whole(&downloaded);
    bench.assert_little_twice(&downloaded);
    assert!(bench.asked().len() < 40, "{} requests", bench.asked().len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_goes_silent_holds_up_nothing() {
    let silent = Fault::on("", What::Stall(300_000)).at_bytes().after(1).times(2);
    let mut bench = Bench::new(40 * MIB, Some(8 << 20), [silent]).await;
    bench.options.stall = Duration::from_secs(600);
    let begun = std::time::Instant::now();
    let downloaded = bench.download().await.unwrap();
    bench.assert_whole(&downloaded);
    assert!(begun.elapsed() < Duration::from_secs(300), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn small_files_share_the_connections_and_cost_one_request_each() {
    let bench = Bench::new(MIB, None, []).await;
    let mut contents = Vec::new();
    for number in 0..120 {
        let path = format!("sub{}/part-{number}.bin", number % 3);
        contents.push((path.clone(), bench.hub.put_noise("org/Many", &path, 2000 + number)));
    }
    let events = Arc::clone(&bench.events);
    let sink: EventSink = Arc::new(move |event| events.lock().unwrap().push(event));
    let request = DownloadRequest { files: vec!["*".into()], ..DownloadRequest::new("org/Many") };
    let plan = bench.provisioner.plan_download(&request).await.unwrap();
    bench.hub.forget();
    let cancel = CancellationToken::new();
    let downloaded = bench.provisioner.download(&plan, &bench.options, &sink, &cancel).await.unwrap();
    for (path, bytes) in &contents {
        let there = downloaded.paths.iter().find(|there| there.ends_with(path)).unwrap();
        assert!(fs::read(there).unwrap() == *bytes, "{path}");
    }
    assert_eq!(bench.hub.seen().len(), 120, "one request a file");
    assert_eq!(leftovers(bench.scratch.path()).iter().filter(|path| path.ends_with(".llorch.json")).count(), 0);

    // Everything is vouched for: nothing is fetched again.
    bench.hub.forget();
    let plan = bench.provisioner.plan_download(&request).await.unwrap();
    let again = bench.provisioner.download(&plan, &bench.options, &sink, &cancel).await.unwrap();
    assert_eq!((again.fetched, again.paths.len()), (0, 120));
    assert!(bench.hub.seen().iter().all(|seen| !seen.target.contains("/resolve/")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_file_that_is_damaged_twice_stops_the_download_and_is_not_published() {
    let bench = Bench::new(MIB, None, []).await;
    for number in 0..20 {
        bench.hub.put_noise("org/Many", &format!("part-{number}.bin"), 3000);
    }
    bench.hub.fault(Fault::on("part-7.bin", What::Damaged(100)).times(2));
    let request = DownloadRequest { files: vec!["*".into()], ..DownloadRequest::new("org/Many") };
    let plan = bench.provisioner.plan_download(&request).await.unwrap();
    let silent: EventSink = Arc::new(|_| {});
    let cancel = CancellationToken::new();
    let error = bench.provisioner.download(&plan, &bench.options, &silent, &cancel).await.unwrap_err();
    assert!(matches!(&error, Error::ChecksumMismatch { file, .. } if file == "part-7.bin"), "{error}");
    let folder = plan.folder.clone();
    assert!(!folder.join("part-7.bin").exists());
    assert_eq!(leftovers(&folder).iter().filter(|path| path.contains("part-")).count(), 0);
    let whole = bench.provisioner.download(&plan, &bench.options, &silent, &cancel).await.unwrap();
    assert_eq!(whole.paths.len(), 20);
}

/// Numbers that look random and are the same for the same seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }

    fn fault(&mut self) -> What {
        let within = 6 * MIB as u64;
        match self.below(15) {
            0..=2 => What::Reset(self.below(within)),
            3 => What::Stall(self.below(within)),
            4 => What::status(500),
            5 => What::status(502),
            6 => What::status(503),
            7 => What::Answer(429, vec![("retry-after", "0".to_owned())], "slow down".to_owned()),
            8 => What::status(403),
            9 => What::html(),
            10 => What::NoRange,
            11 => What::LyingLength(self.below(1 << 25)),
            12 => What::Header("content-range", Some("bytes 0-1/2".to_owned())),
            13 => What::RedirectLoop,
            _ => What::Silence,
        }
    }
}

/// Every third request fails in one of the ways.
async fn storm(seed: u64) {
    let size = 36 * MIB;
    let mut dice = Dice(seed);
    // One that is met keeps the later ones from counting that request.
    let faults: Vec<Fault> = (0..200).map(|k| Fault::on("", dice.fault()).at_bytes().after(2 * k + 2)).collect();
    let bench = Bench::new(size, Some(24 << 20), faults).await;
    let downloaded = bench.download().await.unwrap_or_else(|error| panic!("storm {seed}: {error}"));
    bench.assert_whole(&downloaded);
    let times = downloaded.fetched as f64 / size as f64;
    assert!(times <= 1.2, "storm {seed}: {times:.2} times the size was fetched");
    let asked = bench.asked().len();
    assert!(asked <= 120, "storm {seed}: {asked} requests");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_faults_ends_with_the_right_file() {
    for seed in 0..25 {
        storm(seed).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes"]
async fn two_hundred_storms() {
    for seed in 1000..1200 {
        storm(seed).await;
    }
}
