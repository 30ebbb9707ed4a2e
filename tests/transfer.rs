//! Transfers end to end over a source that misbehaves on demand: what is published is right, whatever happened before.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt, stream};
use proptest::prelude::*;
use rbee_hive::model::{Algorithm, Digest, RemoteFile, RepoPath, Validator};
use rbee_hive::transfer::{
    Connections, Destination, EventSink, Hasher, Opening, Options, Outcome, Request, RetryPolicy, Source, Staging,
    Throttle, TransferEvent, discard, run,
};
use rbee_hive::{Error, Result};
use tokio_util::sync::CancellationToken;

const ENDPOINT: &str = "http://hub.test";
const MIB: usize = 1024 * 1024;

/// Bytes that differ everywhere, so that a wrong offset shows.
fn content(seed: u64, length: usize) -> Bytes {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes.into()
}

fn digest(algorithm: Algorithm, bytes: &[u8]) -> Digest {
    let mut hasher = Hasher::new(algorithm, bytes.len() as u64);
    hasher.update(bytes);
    hasher.finish()
}

fn remote(path: &str, bytes: &[u8], algorithm: Option<Algorithm>) -> RemoteFile {
    RemoteFile {
        path: RepoPath::parse(path).unwrap(),
        size: bytes.len() as u64,
        digest: algorithm.map(|algorithm| digest(algorithm, bytes)),
        blob_id: None,
        xet_hash: None,
    }
}

fn request(files: Vec<RemoteFile>) -> Request {
    Request { endpoint: ENDPOINT.into(), repository: "acme/tiny".into(), commit: "c".repeat(40), files }
}

fn unreachable() -> Error {
    Error::Unreachable { url: ENDPOINT.into(), reason: "connection reset".into() }
}

/// What one opening does wrong.
#[derive(Clone, Debug)]
enum Fault {
    /// Sends so many bytes, then ends as if all were there.
    EndsEarly(usize),
    /// Sends so many bytes, then fails.
    Breaks(usize),
    /// Sends so many bytes, then an answer that is none.
    Garbage(usize),
    /// Sends so many bytes, then nothing, and stays open.
    Stalls(usize),
    /// Never answers.
    Silent,
    /// Sends the whole file whatever was asked for.
    Whole,
    /// Sends from another offset than was asked for.
    WrongOffset,
    /// Turns over one bit of the byte at this place of what it sends.
    Corrupts(usize),
    /// Sends more than the range.
    TooMuch(usize),
    /// Says another length of the file.
    WrongSize,
    Refuses(u16),
    Limits(Duration),
    NotFound,
    Changed,
    NoHub,
}

/// Path, range and validator of a request.
type Opened = (String, Range<u64>, Option<String>);

/// A hub in memory.
#[derive(Default)]
struct Memory {
    files: Mutex<BTreeMap<String, (Bytes, Option<String>)>>,
    faults: Mutex<VecDeque<Fault>>,
    opened: Mutex<Vec<Opened>>,
    sent: Arc<AtomicU64>,
    piece: usize,
    pause: Option<Duration>,
    /// Nothing more is sent than the first piece before this is so.
    gate: Option<Gate>,
}

type Gate = Arc<dyn Fn() -> bool + Send + Sync>;

impl Memory {
    fn new(files: &[(&RemoteFile, &Bytes)]) -> Self {
        let memory = Self { piece: 7000, ..Self::default() };
        for (file, bytes) in files {
            memory.put(file, bytes, Some("v1"));
        }
        memory
    }

    fn put(&self, file: &RemoteFile, bytes: &Bytes, validator: Option<&str>) {
        let entry = (bytes.clone(), validator.map(str::to_owned));
        self.files.lock().unwrap().insert(file.path.as_str().to_owned(), entry);
    }

    fn fail(self, faults: impl IntoIterator<Item = Fault>) -> Self {
        self.faults.lock().unwrap().extend(faults);
        self
    }

    fn opened(&self) -> usize {
        self.opened.lock().unwrap().len()
    }

    fn sent(&self) -> u64 {
        self.sent.load(Ordering::SeqCst)
    }
}

impl Source for Memory {
    fn open<'a>(
        &'a self,
        file: &'a RemoteFile,
        range: Range<u64>,
        validator: Option<&'a Validator>,
    ) -> BoxFuture<'a, Result<Opening>> {
        async move {
            let path = file.path.as_str().to_owned();
            self.opened.lock().unwrap().push((path.clone(), range.clone(), validator.map(|v| v.0.clone())));
            let (bytes, now) = self.files.lock().unwrap()[&path].clone();
            let fault = self.faults.lock().unwrap().pop_front();
            let same = validator.is_none() || validator.map(|v| &v.0) == now.as_ref();
            let mut from = if same { range.start } else { 0 };
            let mut end = if same { range.end } else { bytes.len() as u64 };
            let mut size = bytes.len() as u64;
            let mut tail = stream::empty().boxed();
            // What it promises; a fault may bring less.
            let mut to = end;
            let mut cut = |count: usize| end = end.min(from + count as u64);
            match fault {
                Some(Fault::EndsEarly(count)) => cut(count),
                Some(Fault::Breaks(count)) => {
                    cut(count);
                    tail = stream::iter([Err(unreachable())]).boxed();
                }
                Some(Fault::Garbage(count)) => {
                    cut(count);
                    let error = Error::BadAnswer { url: ENDPOINT.into(), reason: "html".into() };
                    tail = stream::iter([Err(error)]).boxed();
                }
                Some(Fault::Stalls(count)) => {
                    cut(count);
                    tail = stream::pending().boxed();
                }
                Some(Fault::Silent) => std::future::pending().await,
                Some(Fault::Whole) => (from, end, to) = (0, size, size),
                Some(Fault::WrongOffset) => from += 1,
                Some(Fault::TooMuch(count)) => {
                    tail = stream::iter([Ok(Bytes::from(vec![0; count]))]).boxed();
                }
                Some(Fault::WrongSize) => size += 1,
                Some(Fault::Refuses(status)) => {
                    return Err(Error::Refused { url: ENDPOINT.into(), status, reason: "no".into() });
                }
                Some(Fault::Limits(wait)) => {
                    return Err(Error::RateLimited { endpoint: ENDPOINT.into(), retry_after: Some(wait) });
                }
                Some(Fault::NotFound) => {
                    return Err(Error::FileNotFound { repository: "r".into(), what: path, available: Vec::new() });
                }
                Some(Fault::Changed) => return Err(Error::Changed { file: path }),
                Some(Fault::NoHub) => {
                    return Err(Error::BadAnswer { url: ENDPOINT.into(), reason: "html".into() });
                }
                Some(Fault::Corrupts(_)) | None => {}
            }
            let mut body =
                bytes.slice((from as usize).min(bytes.len())..(end as usize).max(from as usize).min(bytes.len()));
            if let Some(Fault::Corrupts(at)) = fault
                && !body.is_empty()
            {
                let mut damaged = body.to_vec();
                let at = at % damaged.len();
                damaged[at] ^= 0x10;
                body = damaged.into();
            }
            let (piece, pause, sent) = (self.piece, self.pause, Arc::clone(&self.sent));
            let (gate, whole) = (self.gate.clone(), body.len());
            let pieces = stream::unfold((body, gate), move |(mut rest, gate)| async move {
                if rest.is_empty() {
                    return None;
                }
                if let Some(pause) = pause {
                    tokio::time::sleep(pause).await;
                }
                while rest.len() < whole && gate.as_ref().is_some_and(|is_open| !is_open()) {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                let piece = rest.split_to(piece.min(rest.len()));
                Some((Ok(piece), (rest, gate)))
            });
            let counted = pieces.chain(tail).inspect(move |piece| {
                if let Ok(piece) = piece {
                    sent.fetch_add(piece.len() as u64, Ordering::SeqCst);
                }
            });
            Ok(Opening { from, to, size, validator: now.map(Validator), stream: counted.boxed() })
        }
        .boxed()
    }
}

/// A plain folder.
struct Folder {
    root: PathBuf,
    finished: AtomicUsize,
}

impl Folder {
    fn new(root: impl Into<PathBuf>) -> Arc<Self> {
        Arc::new(Self { root: root.into(), finished: AtomicUsize::new(0) })
    }
}

impl Destination for Folder {
    fn folder(&self) -> &Path {
        &self.root
    }

    fn present(&self, file: &RemoteFile) -> Result<Option<PathBuf>> {
        let path = file.path.below(&self.root);
        Ok(path.is_file().then_some(path))
    }

    fn staging(&self, file: &RemoteFile) -> Staging {
        let path = file.path.below(&self.root);
        let short = file.digest.map_or_else(|| "none".to_owned(), |digest| digest.short());
        let partial = format!("{}.{short}.llorch", path.display());
        Staging { journal: format!("{partial}.json").into(), partial: partial.into() }
    }

    fn stage(&self, file: &RemoteFile) -> Result<Staging> {
        let staging = self.staging(file);
        fs::create_dir_all(staging.partial.parent().unwrap()).unwrap();
        Ok(staging)
    }

    fn publish(&self, file: &RemoteFile, staging: &Staging) -> Result<PathBuf> {
        let path = file.path.below(&self.root);
        assert!(!path.exists(), "{} is published twice", path.display());
        File::open(&staging.partial).unwrap().sync_all().unwrap();
        fs::rename(&staging.partial, &path).unwrap();
        Ok(path)
    }

    fn finish(&self, _files: &[RemoteFile]) -> Result<()> {
        self.finished.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}

/// A folder where something happens before its own part.
struct Hooked {
    folder: Arc<Folder>,
    staging: Box<dyn Fn() + Send + Sync>,
    publishing: Box<dyn Fn() -> Result<()> + Send + Sync>,
}

impl Hooked {
    fn new(folder: Arc<Folder>) -> Self {
        Self { folder, staging: Box::new(|| ()), publishing: Box::new(|| Ok(())) }
    }
}

impl Destination for Hooked {
    fn folder(&self) -> &Path {
        self.folder.folder()
    }

    fn present(&self, file: &RemoteFile) -> Result<Option<PathBuf>> {
        self.folder.present(file)
    }

    fn staging(&self, file: &RemoteFile) -> Staging {
        self.folder.staging(file)
    }

    fn stage(&self, file: &RemoteFile) -> Result<Staging> {
        (self.staging)();
        self.folder.stage(file)
    }

    fn publish(&self, file: &RemoteFile, staging: &Staging) -> Result<PathBuf> {
        (self.publishing)()?;
        self.folder.publish(file, staging)
    }

    fn finish(&self, files: &[RemoteFile]) -> Result<()> {
        self.folder.finish(files)
    }
}

/// Events in the order in which they came.
#[derive(Clone, Default)]
struct Events(Arc<Mutex<Vec<TransferEvent>>>);

impl Events {
    fn sink(&self) -> EventSink {
        let events = Arc::clone(&self.0);
        Arc::new(move |event| events.lock().unwrap().push(event))
    }

    fn all(&self) -> Vec<TransferEvent> {
        self.0.lock().unwrap().clone()
    }

    fn retries(&self) -> Vec<String> {
        let retry = |event| match event {
            TransferEvent::Retrying { error, .. } => Some(error),
            _ => None,
        };
        self.all().into_iter().filter_map(retry).collect()
    }

    fn waits(&self) -> Vec<String> {
        let wait = |event| match event {
            TransferEvent::Waiting { why, .. } => Some(why),
            _ => None,
        };
        self.all().into_iter().filter_map(wait).collect()
    }
}

/// One connection, so that what is asked for when is known.
fn quick() -> Options {
    Options {
        connections: Connections::new(1),
        stall: Duration::from_millis(100),
        first_byte: Some(Duration::from_secs(20)),
        patience: Some(Duration::from_secs(20)),
        retry: RetryPolicy { first: Duration::from_millis(1), longest: Duration::from_millis(5) },
        ..Options::default()
    }
}

/// One run with everything that it needs.
struct Case {
    source: Arc<Memory>,
    folder: Arc<Folder>,
    request: Request,
    options: Options,
    events: Events,
    cancel: CancellationToken,
}

impl Case {
    fn new(source: Memory, root: &Path, files: Vec<RemoteFile>) -> Self {
        Self {
            source: Arc::new(source),
            folder: Folder::new(root),
            request: request(files),
            options: quick(),
            events: Events::default(),
            cancel: CancellationToken::new(),
        }
    }

    async fn run(&self) -> Result<Outcome> {
        let source: Arc<dyn Source> = self.source.clone();
        let destination: Arc<dyn Destination> = self.folder.clone();
        run(&self.request, &source, &destination, &self.options, &self.events.sink(), &self.cancel).await
    }

    fn file(&self) -> &RemoteFile {
        &self.request.files[0]
    }

    fn staging(&self) -> Staging {
        self.folder.staging(self.file())
    }

    fn assert_whole(&self, bytes: &[u8]) {
        let path = self.file().path.below(&self.folder.root);
        let there = fs::read(&path).unwrap();
        let wrong = there.iter().zip(bytes).position(|(one, other)| one != other);
        assert!(there == bytes, "{} of {} bytes is wrong from {wrong:?} on", path.display(), there.len());
        assert_eq!(names(&self.folder.root), [self.file().path.as_str()], "something is left over");
    }
}

/// Every file below a folder, by its path in it.
fn names(root: &Path) -> Vec<String> {
    let mut names: Vec<String> = walkdir::WalkDir::new(root)
        .into_iter()
        .map(|entry| entry.unwrap())
        .filter(|entry| !entry.file_type().is_dir())
        .map(|entry| entry.path().strip_prefix(root).unwrap().to_str().unwrap().to_owned())
        .collect();
    names.sort();
    names
}

/// What the newest whole record of a journal says is on disk.
fn journalled(journal: &Path) -> Vec<Range<u64>> {
    let bytes = fs::read(journal).unwrap_or_default();
    let mut best = (0, Vec::new());
    for slot in bytes.chunks(16 * 1024) {
        let Some(line) = slot.split(|byte| *byte == b'\n').next() else { continue };
        let Ok(record) = serde_json::from_slice::<serde_json::Value>(line) else { continue };
        let sequence = record["sequence"].as_u64().unwrap();
        if sequence > best.0 {
            let pair = |pair: &serde_json::Value| pair[0].as_u64().unwrap()..pair[1].as_u64().unwrap();
            best = (sequence, record["ranges"].as_array().unwrap().iter().map(pair).collect());
        }
    }
    best.1
}

fn covered(ranges: &[Range<u64>]) -> u64 {
    ranges.iter().map(|range| range.end - range.start).sum()
}

/// Copies a folder with its partials, as a crash would find it.
fn copy(from: &Path, to: &Path) {
    for name in names(from) {
        fs::create_dir_all(to.join(&name).parent().unwrap()).unwrap();
        fs::copy(from.join(&name), to.join(&name)).unwrap();
    }
}

fn scratch() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn one(length: usize) -> (Bytes, RemoteFile) {
    let bytes = content(length as u64, length);
    let file = remote("m.gguf", &bytes, Some(Algorithm::Sha256));
    (bytes, file)
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_every_kind_arrive_in_order_and_nothing_else_stays() {
    let folder = scratch();
    let (large, small, plain) = (content(1, 3 * MIB + 17), content(2, 1000), content(3, 300_000));
    let files = vec![
        remote("large.gguf", &large, Some(Algorithm::Sha256)),
        remote("sub/config.json", &small, Some(Algorithm::GitSha1)),
        remote("sub/empty", &[], Some(Algorithm::GitSha1)),
        remote("plain.bin", &plain, None),
        remote("nothing.bin", &[], None),
    ];
    let empty = Bytes::new();
    let contents = [&large, &small, &empty, &plain, &empty];
    let source = Memory::new(&files.iter().zip(contents).collect::<Vec<_>>());
    let case = Case::new(source, folder.path(), files.clone());

    let outcome = case.run().await.unwrap();

    assert_eq!(outcome.fetched, files.iter().map(|file| file.size).sum::<u64>());
    for ((file, bytes), path) in files.iter().zip(contents).zip(&outcome.paths) {
        assert_eq!(path, &file.path.below(folder.path()));
        assert!(fs::read(path).unwrap() == *bytes, "{path:?}");
    }
    assert_eq!(names(folder.path()).len(), files.len());
    assert_eq!(case.folder.finished.load(Ordering::SeqCst), 1);
    assert_eq!(case.source.opened(), 3, "empty files need no request");

    let events = case.events.all();
    assert!(
        matches!(&events[0], TransferEvent::Started { files, total } if files.len() == 5 && *total == outcome.fetched)
    );
    for file in &files {
        let order: Vec<&str> = events[1..]
            .iter()
            .filter_map(|event| match event {
                TransferEvent::FileStarted { file: name, .. } => (*name == file.path).then_some("started"),
                TransferEvent::Verifying { file: name } => (*name == file.path).then_some("verifying"),
                TransferEvent::FileFinished { file: name, .. } => (*name == file.path).then_some("finished"),
                TransferEvent::FileProgress { .. } => None,
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(order, ["started", "verifying", "finished"], "{}", file.path);
    }
    assert!(matches!(events.last(), Some(TransferEvent::FileFinished { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_there_is_not_fetched_and_its_leftovers_go() {
    let folder = scratch();
    let (bytes, file) = one(MIB);
    fs::write(file.path.below(folder.path()), &bytes).unwrap();
    let case = Case::new(Memory::new(&[(&file, &bytes)]), folder.path(), vec![file]);
    fs::write(&case.staging().partial, b"old").unwrap();
    fs::write(&case.staging().journal, b"old").unwrap();

    let outcome = case.run().await.unwrap();

    assert_eq!((outcome.fetched, case.source.opened()), (0, 0));
    case.assert_whole(&bytes);
    assert!(matches!(
        case.events.all()[..],
        [TransferEvent::Started { .. }, TransferEvent::FileFinished { fetched: 0, .. }]
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_in_the_middle_are_mended_without_fetching_twice() {
    let folder = scratch();
    let (bytes, file) = one(4 * MIB + 5);
    let faults = [
        Fault::Breaks(900_000),
        Fault::EndsEarly(1),
        Fault::EndsEarly(0),
        Fault::Garbage(500_000),
        Fault::Stalls(300_000),
        Fault::Silent,
        Fault::Refuses(503),
        Fault::Limits(Duration::from_millis(20)),
        Fault::WrongOffset,
        Fault::NoHub,
        Fault::TooMuch(1_000_000),
    ];
    let count = faults.len();
    let case = Case::new(Memory::new(&[(&file, &bytes)]).fail(faults), folder.path(), vec![file]);

    let outcome = case.run().await.unwrap();

    case.assert_whole(&bytes);
    assert_eq!(outcome.fetched, bytes.len() as u64, "a byte was fetched twice");
    assert_eq!(case.source.opened(), count);
    let retries = case.events.retries();
    assert_eq!(retries.len(), count - 1, "{retries:?}");
    assert!(retries.iter().all(|text| !text.is_empty() && text.lines().count() == 1), "{retries:?}");
    for (at, (_, range, validator)) in case.source.opened.lock().unwrap().iter().enumerate() {
        assert_eq!(validator.is_some(), at > 0, "opening {at} of {range:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_that_the_server_asks_for_is_kept() {
    let folder = scratch();
    let (bytes, file) = one(1000);
    let source = Memory::new(&[(&file, &bytes)]).fail([Fault::Limits(Duration::from_millis(300))]);
    let case = Case::new(source, folder.path(), vec![file]);
    let start = Instant::now();
    case.run().await.unwrap();
    assert!(start.elapsed() >= Duration::from_millis(300));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_first_byte_it_gives_up_and_leaves_nothing() {
    let folder = scratch();
    let (bytes, file) = one(1000);
    for fault in [Fault::Breaks(0), Fault::Silent, Fault::Stalls(0), Fault::Refuses(500)] {
        let source = Memory::new(&[(&file, &bytes)]).fail(vec![fault.clone(); 1000]);
        let mut case = Case::new(source, folder.path(), vec![file.clone()]);
        case.options.first_byte = Some(Duration::from_millis(150));
        case.options.patience = Some(Duration::from_secs(600));
        let start = Instant::now();
        let error = case.run().await.unwrap_err();
        assert!(matches!(error, Error::Unreachable { .. } | Error::Refused { status: 500, .. }), "{error}");
        assert!(start.elapsed() < Duration::from_secs(60), "{fault:?}");
        assert_eq!(names(folder.path()), Vec::<String>::new(), "{fault:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_progress_it_gives_up_and_keeps_what_it_has() {
    let folder = scratch();
    let (bytes, file) = one(2 * MIB);
    // A server that breaks and then always begins anew makes no progress either.
    let faults = [Fault::Breaks(MIB)].into_iter().chain(vec![Fault::Breaks(0); 10_000]);
    let mut case = Case::new(Memory::new(&[(&file, &bytes)]).fail(faults), folder.path(), vec![file]);
    case.options.patience = Some(Duration::from_millis(200));
    let error = case.run().await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
    assert_eq!(covered(&journalled(&case.staging().journal)), MIB as u64);

    case.source.faults.lock().unwrap().clear();
    let outcome = case.run().await.unwrap();
    assert_eq!(outcome.fetched, MIB as u64);
    case.assert_whole(&bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_pass_ends_at_once_and_leaves_nothing() {
    let folder = scratch();
    let (bytes, file) = one(1000);
    // What a proxy may have done, an odd length with it, is tried a few times more; what the hub says is final.
    for (fault, tries) in
        [(Fault::NotFound, 1), (Fault::Changed, 1), (Fault::WrongSize, 7), (Fault::NoHub, 7), (Fault::Refuses(403), 4)]
    {
        let source = Memory::new(&[(&file, &bytes)]).fail(vec![fault.clone(); 10]);
        let case = Case::new(source, folder.path(), vec![file.clone()]);
        case.run().await.unwrap_err();
        assert_eq!(case.source.opened(), tries, "{fault:?}");
        assert_eq!(names(folder.path()), Vec::<String>::new(), "{fault:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_staging_name_that_is_somebody_elses_file_is_not_written_through() {
    for size in [1000, 2 * MIB] {
        let folder = scratch();
        let (bytes, file) = one(size);
        let case = Case::new(Memory::new(&[(&file, &bytes)]), folder.path(), vec![file]);
        let elsewhere = scratch();
        let other = elsewhere.path().join("other");
        fs::write(&other, b"somebody else's").unwrap();
        fs::create_dir_all(case.staging().partial.parent().unwrap()).unwrap();
        fs::hard_link(&other, &case.staging().partial).unwrap();
        case.run().await.unwrap();
        case.assert_whole(&bytes);
        assert_eq!(fs::read(&other).unwrap(), b"somebody else's", "{size}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_bytes_are_fetched_once_more_and_never_published() {
    let folder = scratch();
    let (bytes, file) = one(MIB);
    let source = Memory::new(&[(&file, &bytes)]).fail([Fault::Corrupts(77)]);
    let case = Case::new(source, folder.path(), vec![file.clone()]);
    let outcome = case.run().await.unwrap();
    assert_eq!(outcome.fetched, 2 * bytes.len() as u64);
    case.assert_whole(&bytes);
    assert_eq!(case.events.retries().len(), 1);

    let folder = scratch();
    let source = Memory::new(&[(&file, &bytes)]).fail([Fault::Corrupts(77), Fault::Corrupts(MIB - 1)]);
    let case = Case::new(source, folder.path(), vec![file]);
    let error = case.run().await.unwrap_err();
    assert!(matches!(error, Error::ChecksumMismatch { .. }), "{error}");
    assert_eq!(names(folder.path()), Vec::<String>::new());
}

/// Runs until about `bytes` are sent, then cancels.
async fn cancel_after(case: &Case, bytes: u64) {
    let running = case.run();
    tokio::pin!(running);
    loop {
        tokio::select! {
            result = &mut running => {
                assert!(matches!(result, Err(Error::Cancelled)), "{result:?}");
                return;
            }
            () = tokio::time::sleep(Duration::from_micros(200)) => {
                if case.source.sent() >= bytes {
                    case.cancel.cancel();
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_scribbled_on_is_not_believed_by_the_next_run() {
    for cancelled in [false, true] {
        let folder = scratch();
        let (bytes, _) = one(8 * MIB);
        let file = remote("w.bin", &bytes, None);
        let case = Case::new(slow(Memory::new(&[(&file, &bytes)])), folder.path(), vec![file.clone()]);
        // In every tick of the file system's clock, since what comes twice in one looks like one write.
        let scribble = async {
            let partial = case.staging().partial;
            let mut written = 0;
            loop {
                tokio::time::sleep(Duration::from_micros(200)).await;
                if case.source.sent() >= 2 * MIB as u64 {
                    let other = File::options().write(true).open(&partial);
                    written += u32::from(other.is_ok_and(|other| other.write_at(b"other", 7).is_ok()));
                }
                if cancelled && written == 50 {
                    case.cancel.cancel();
                }
            }
        };
        let first = tokio::select! {
            first = case.run() => first,
            never = scribble => never,
        };
        let error = first.unwrap_err();
        assert!(
            error.is_cancelled() == cancelled && (cancelled || error.to_string().contains("another program")),
            "{error}"
        );
        let case = Case::new(Memory::new(&[(&file, &bytes)]), folder.path(), vec![file]);
        case.run().await.unwrap();
        case.assert_whole(&bytes);
    }
}

fn slow(mut memory: Memory) -> Memory {
    memory.pause = Some(Duration::from_millis(1));
    memory.piece = 64 * 1024;
    memory
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelling_keeps_every_byte() {
    let folder = scratch();
    let (bytes, file) = one(8 * MIB);
    let mut case = Case::new(slow(Memory::new(&[(&file, &bytes)])), folder.path(), vec![file]);
    cancel_after(&case, 5 * MIB as u64).await;
    let kept = covered(&journalled(&case.staging().journal));
    let sent = case.source.sent();
    assert!(sent - kept <= 64 * 1024, "{sent} were sent, {kept} kept: more than the piece in flight was lost");

    case.cancel = CancellationToken::new();
    case.events = Events::default();
    let outcome = case.run().await.unwrap();
    assert_eq!(outcome.fetched, bytes.len() as u64 - kept);
    case.assert_whole(&bytes);
    assert!(
        case.events
            .all()
            .iter()
            .any(|event| matches!(event, TransferEvent::FileStarted { bytes, .. } if *bytes == kept))
    );
    assert_eq!(case.source.opened.lock().unwrap()[1].2.as_deref(), Some("v1"), "the validator is sent");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_changed_never_mixes_with_the_partial() {
    for algorithm in [None, Some(Algorithm::Sha256)] {
        let folder = scratch();
        let (old, new) = (content(1, 4 * MIB), content(2, 4 * MIB));
        // With a digest the listing tells the new content; the digest of the staging name stays for the test.
        let mut file = remote("m.gguf", &old, None);
        file.digest = algorithm.map(|algorithm| digest(algorithm, &new));
        let mut case = Case::new(slow(Memory::new(&[(&file, &old)])), folder.path(), vec![file.clone()]);
        cancel_after(&case, MIB as u64).await;
        assert!(covered(&journalled(&case.staging().journal)) > 0);

        case.source.put(&file, &new, Some("v2"));
        case.cancel = CancellationToken::new();
        let outcome = case.run().await.unwrap();
        case.assert_whole(&new);
        assert_eq!(outcome.fetched, new.len() as u64);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_ignores_ranges_restarts_the_file() {
    let folder = scratch();
    let (bytes, file) = one(2 * MIB);
    // Once or twice may be an accident.
    let faults = [Fault::Breaks(MIB), Fault::Whole, Fault::Whole];
    let case = Case::new(Memory::new(&[(&file, &bytes)]).fail(faults), folder.path(), vec![file.clone()]);
    let outcome = case.run().await.unwrap();
    case.assert_whole(&bytes);
    assert_eq!((outcome.fetched, case.source.opened()), (2 * MIB as u64, 4));

    let folder = scratch();
    let faults = [Fault::Breaks(MIB), Fault::Whole, Fault::Whole, Fault::Whole];
    let case = Case::new(Memory::new(&[(&file, &bytes)]).fail(faults), folder.path(), vec![file]);
    let outcome = case.run().await.unwrap();
    case.assert_whole(&bytes);
    assert_eq!(outcome.fetched, 3 * MIB as u64);
    assert_eq!(case.source.opened(), 4, "the whole file is taken from the answer that brings it");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_digest_and_validator_a_break_starts_again() {
    let folder = scratch();
    let bytes = content(5, 2 * MIB);
    let file = remote("plain.bin", &bytes, None);
    let source = Memory::new(&[]).fail([Fault::Breaks(MIB)]);
    source.put(&file, &bytes, None);
    let case = Case::new(source, folder.path(), vec![file]);
    case.run().await.unwrap();
    case.assert_whole(&bytes);
    let ranges: Vec<u64> = case.source.opened.lock().unwrap().iter().map(|(_, range, _)| range.start).collect();
    assert_eq!(ranges, [0, 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partial_of_something_else_is_not_continued() {
    let (bytes, file) = one(4 * MIB);
    type Change = fn(&mut Request);
    let changes: [(Change, bool); 4] = [
        (|request| request.endpoint.push('x'), false),
        (|request| request.repository.push('x'), false),
        (|request| request.commit = "d".repeat(40), true),
        (|request| request.files[0].digest = Some(Digest::Sha256([7; 32])), false),
    ];
    for (at, (change, continues)) in changes.into_iter().enumerate() {
        let folder = scratch();
        let mut case = Case::new(slow(Memory::new(&[(&file, &bytes)])), folder.path(), vec![file.clone()]);
        cancel_after(&case, 2 * MIB as u64).await;
        let old = case.staging();
        change(&mut case.request);
        // The same names, as if the digests began alike.
        let new = case.staging();
        if old != new {
            fs::rename(old.partial, new.partial).unwrap();
            fs::rename(old.journal, new.journal).unwrap();
        }
        case.cancel = CancellationToken::new();
        case.source.opened.lock().unwrap().clear();
        let result = case.run().await;
        let first = case.source.opened.lock().unwrap()[0].1.start;
        assert_eq!(first > 0, continues, "change {at}");
        assert_eq!(result.is_ok(), case.file().digest == file.digest);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_that_want_the_same_file_fetch_it_once() {
    let folder = scratch();
    let (bytes, file) = one(6 * MIB);
    let (events, others) = (Events::default(), Events::default());
    let mut memory = slow(Memory::new(&[(&file, &bytes)]));
    // The one goes on when the other waits for it.
    let (ours, theirs) = (events.clone(), others.clone());
    memory.gate = Some(Arc::new(move || !ours.waits().is_empty() || !theirs.waits().is_empty()));
    let mut first = Case { events, ..Case::new(memory, folder.path(), vec![file.clone()]) };
    let mut second = Case { events: others, ..Case::new(Memory::default(), folder.path(), vec![file]) };
    second.source = Arc::clone(&first.source);
    for case in [&mut first, &mut second] {
        case.options.stall = Duration::from_secs(600);
    }

    let (one, other) = tokio::join!(first.run(), second.run());

    let (one, other) = (one.unwrap(), other.unwrap());
    assert_eq!(one.paths, other.paths);
    assert_eq!(one.fetched + other.fetched, bytes.len() as u64);
    assert_eq!(first.source.sent(), bytes.len() as u64);
    first.assert_whole(&bytes);
    let waits = [first.events.waits(), second.events.waits()].concat();
    assert_eq!(waits.len(), 1, "{waits:?}");
    assert!(waits[0].ends_with("is fetching it"), "{waits:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_who_waits_takes_over_where_the_other_stopped() {
    let folder = scratch();
    let (bytes, file) = one(6 * MIB);
    let first = Case::new(slow(Memory::new(&[(&file, &bytes)])), folder.path(), vec![file.clone()]);
    let mut second = Case::new(Memory::default(), folder.path(), vec![file]);
    second.source = Arc::clone(&first.source);
    let running = tokio::spawn({
        let (source, folder, request) = (second.source.clone(), second.folder.clone(), second.request.clone());
        let (events, options) = (second.events.sink(), second.options.clone());
        let progress = first.events.clone();
        async move {
            // Not before the other has the lock.
            while !progress.all().iter().any(|event| matches!(event, TransferEvent::FileStarted { .. })) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            let (source, folder): (Arc<dyn Source>, Arc<dyn Destination>) = (source, folder);
            run(&request, &source, &folder, &options, &events, &CancellationToken::new()).await
        }
    });
    cancel_after(&first, 2 * MIB as u64).await;
    let outcome = running.await.unwrap().unwrap();
    assert!(outcome.fetched < 5 * MIB as u64, "{}", outcome.fetched);
    second.assert_whole(&bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_discard_removes_partial_and_journal_but_not_under_a_transfer() {
    let folder = scratch();
    let (bytes, file) = one(4 * MIB);
    let mut case = Case::new(slow(Memory::new(&[(&file, &bytes)])), folder.path(), vec![file]);
    let staging = case.staging();
    discard(&staging).unwrap();
    assert_eq!(names(folder.path()), Vec::<String>::new());

    {
        let running = case.run();
        tokio::pin!(running);
        while case.source.sent() < MIB as u64 {
            tokio::select! {
                result = &mut running => panic!("{result:?}"),
                () = tokio::time::sleep(Duration::from_millis(1)) => {}
            }
        }
        let error = discard(&staging).unwrap_err();
        assert!(matches!(error, Error::Locked { .. }), "{error}");
        case.cancel.cancel();
        running.await.unwrap_err();
    }
    assert_eq!(names(folder.path()).len(), 2);
    discard(&staging).unwrap();
    assert_eq!(names(folder.path()), Vec::<String>::new());
    case.cancel = CancellationToken::new();
    case.run().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_is_refused_before_anything_is_created() {
    let folder = scratch();
    let mut file = remote("sub/m.gguf", b"x", Some(Algorithm::Sha256));
    file.size = 1 << 60;
    let case = Case::new(Memory::default(), folder.path(), vec![file.clone()]);
    match case.run().await.unwrap_err() {
        Error::NoSpace { needed, available, .. } => assert!(needed == 1 << 60 && available < needed),
        error => panic!("{error}"),
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    assert_eq!(case.source.opened(), 0);

    // Two that fit one by one only.
    let half = rbee_hive::disk::space::space(folder.path()).unwrap().available * 2 / 3;
    let two = ["a", "b"].map(|name| RemoteFile { path: RepoPath::parse(name).unwrap(), size: half, ..file.clone() });
    let case = Case::new(Memory::default(), folder.path(), two.to_vec());
    assert!(matches!(case.run().await, Err(Error::NoSpace { .. })));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_in_the_place_of_the_partial_is_not_followed() {
    let folder = scratch();
    let outside = scratch();
    let target = outside.path().join("precious");
    fs::write(&target, b"precious").unwrap();
    let (bytes, file) = one(1000);
    let case = Case::new(Memory::new(&[(&file, &bytes)]), folder.path(), vec![file]);
    std::os::unix::fs::symlink(&target, case.staging().partial).unwrap();
    let result = case.run().await;
    assert_eq!(fs::read(&target).unwrap(), b"precious");
    assert!(matches!(result, Err(Error::Io { .. })), "{result:?}");
}

#[tokio::test(start_paused = true)]
async fn a_speed_limit_holds_and_can_be_lifted() {
    let folder = scratch();
    let (bytes, file) = one(2 * MIB);
    let mut case = Case::new(Memory::new(&[(&file, &bytes)]), folder.path(), vec![file]);
    case.options.throttle = Throttle::new(Some(256 * 1024));
    let throttle = case.options.throttle.clone();
    let running = case.run();
    tokio::pin!(running);
    tokio::select! {
        result = &mut running => panic!("2 MiB at 256 KiB/s are no work of half a second: {result:?}"),
        () = tokio::time::sleep(Duration::from_millis(500)) => {}
    }
    let sent = case.source.sent();
    assert!((64 * 1024..400 * 1024).contains(&sent), "{sent} bytes in half a second");
    throttle.set_limit(None);
    // A clock that stands: who still waits for the limit would wait for ever.
    let (begin, stands) = (Instant::now(), tokio::time::Instant::now());
    let standing = async {
        while begin.elapsed() < Duration::from_secs(60) {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        result = &mut running => drop(result.unwrap()),
        () = standing => panic!("it waits for a limit that was lifted"),
    }
    assert_eq!(stands.elapsed(), Duration::ZERO);
    case.assert_whole(&bytes);
}

/// Makes a copied folder what a power failure could leave: what the journal does not vouch for is garbage, and
/// the last write to the journal may be torn at any byte.
fn lose_power(staging: &Staging, tear: Option<(u64, u8)>) {
    if let Some((at, bits)) = tear {
        let length = fs::metadata(&staging.journal).unwrap().len();
        let journal = File::options().read(true).write(true).open(&staging.journal).unwrap();
        if length > 0 {
            let mut byte = [0];
            journal.read_exact_at(&mut byte, at % length).unwrap();
            journal.write_all_at(&[byte[0] ^ bits], at % length).unwrap();
        }
    }
    let kept = journalled_by_us(&staging.journal);
    let partial = File::options().write(true).open(&staging.partial).unwrap();
    let length = partial.metadata().unwrap().len();
    let mut at = 0;
    for range in kept.iter().cloned().chain(std::iter::once(length..length)) {
        if at < range.start {
            partial.write_all_at(&vec![0xEE; (range.start - at) as usize], at).unwrap();
        }
        at = range.end;
    }
}

/// As [`journalled`], but with the check of the text, as a reader of torn records has to.
fn journalled_by_us(journal: &Path) -> Vec<Range<u64>> {
    let bytes = fs::read(journal).unwrap_or_default();
    let whole = |slot: &&[u8]| {
        let Some(line) = slot.split(|byte| *byte == b'\n').next() else { return false };
        let Ok(text) = std::str::from_utf8(line) else { return false };
        let Some((record, rest)) = text.trim_end_matches(' ').rsplit_once(",\"check\":\"") else { return false };
        let check = digest(Algorithm::Sha256, record.as_bytes()).short();
        rest == format!("{check}\"}}")
    };
    let scratch = scratch();
    let copy = scratch.path().join("journal");
    let mut clean = Vec::new();
    for slot in bytes.chunks(16 * 1024) {
        let mut kept = if whole(&slot) { slot.to_vec() } else { Vec::new() };
        kept.resize(16 * 1024, b'\n');
        clean.extend(kept);
    }
    fs::write(&copy, clean).unwrap();
    journalled(&copy)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_at_any_moment_is_continued_and_never_believed_too_far() {
    let folder = scratch();
    let (bytes, file) = one(16 * MIB);
    let mut source = Memory::new(&[(&file, &bytes)]).fail([Fault::Breaks(9 * MIB)]);
    source.piece = 64 * 1024;
    source.pause = Some(Duration::from_micros(300));
    let case = Case::new(source, folder.path(), vec![file.clone()]);

    // While it runs, take pictures of the folder.
    let pictures = scratch();
    let mut taken: Vec<(PathBuf, u64)> = Vec::new();
    {
        let running = case.run();
        tokio::pin!(running);
        loop {
            tokio::select! {
                result = &mut running => { result.unwrap(); break; }
                () = tokio::time::sleep(Duration::from_millis(15)) => {
                    let staging = case.staging();
                    let to = pictures.path().join(taken.len().to_string());
                    // The journal first: bytes that come after it are not in its claims.
                    fs::create_dir(&to).unwrap();
                    let there = fs::copy(&staging.journal, to.join(staging.journal.file_name().unwrap()));
                    let sent = case.source.sent();
                    let partial = fs::copy(&staging.partial, to.join(staging.partial.file_name().unwrap()));
                    if there.is_ok() && partial.is_ok() && taken.len() < 12 {
                        taken.push((to, sent));
                    } else {
                        fs::remove_dir_all(&to).unwrap();
                    }
                }
            }
        }
    }
    case.assert_whole(&bytes);
    assert!(taken.len() >= 3, "only {} pictures", taken.len());

    for (at, (picture, sent)) in taken.iter().enumerate() {
        let staging = Folder::new(picture).staging(&file);
        let kept = covered(&journalled(&staging.journal));
        assert!(sent - kept <= 8 * MIB as u64, "picture {at}: {sent} bytes were sent and only {kept} journalled");
        // Without a tear, and with one somewhere in one of the slots.
        let slot = if at % 2 == 0 { 0 } else { 16 * 1024 };
        for tear in [None, Some((slot + at as u64 * 13, 0x24))] {
            let crashed = scratch();
            copy(picture, crashed.path());
            let again = Case::new(Memory::new(&[(&file, &bytes)]), crashed.path(), vec![file.clone()]);
            lose_power(&again.staging(), tear);
            let kept = covered(&journalled_by_us(&again.staging().journal));
            let outcome = again.run().await.unwrap();
            again.assert_whole(&bytes);
            assert_eq!(outcome.fetched, bytes.len() as u64 - kept, "picture {at}, tear {tear:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partial_that_someone_cut_or_removed_is_fetched_again() {
    let (bytes, file) = one(6 * MIB);
    for length in [None, Some(0), Some(MIB as u64 + 3)] {
        let folder = scratch();
        let mut case = Case::new(slow(Memory::new(&[(&file, &bytes)])), folder.path(), vec![file.clone()]);
        cancel_after(&case, 3 * MIB as u64).await;
        match length {
            None => fs::remove_file(case.staging().partial).unwrap(),
            Some(length) => {
                File::options().write(true).open(case.staging().partial).unwrap().set_len(length).unwrap();
            }
        }
        case.cancel = CancellationToken::new();
        let outcome = case.run().await.unwrap();
        assert_eq!(outcome.fetched, bytes.len() as u64 - length.unwrap_or(0));
        case.assert_whole(&bytes);
    }
}

/// A file system of its own for a test of a full disk; unmounted when dropped.
struct Mount(tempfile::TempDir, Option<tempfile::NamedTempFile>);

impl Mount {
    /// `None`, and a line that says so, where this user may not mount.
    fn tmpfs(size: &str) -> Option<Self> {
        let folder = scratch();
        let options = format!("size={size}");
        mount(&["-t", "tmpfs", "-o", &options, "tmpfs"], folder.path()).then(|| Self(folder, None))
    }

    /// ext2 has no way to claim blocks beforehand, so writes fail in the middle.
    fn ext2(mib: u64) -> Option<Self> {
        let image = tempfile::NamedTempFile::new().unwrap();
        image.as_file().set_len(mib * MIB as u64).unwrap();
        let made = std::process::Command::new("mkfs.ext2").args(["-q", "-F", "-m", "0"]).arg(image.path()).status();
        let folder = scratch();
        let path = image.path().to_str().unwrap().to_owned();
        let mounted = made.is_ok_and(|status| status.success()) && mount(&["-o", "loop", &path], folder.path());
        mounted.then(|| Self(folder, Some(image)))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

fn mount(arguments: &[&str], folder: &Path) -> bool {
    let output = std::process::Command::new("mount").args(arguments).arg(folder).output();
    let mounted = output.as_ref().is_ok_and(|output| output.status.success());
    if !mounted {
        eprintln!("skipped: nothing can be mounted here: {output:?}");
    }
    mounted
}

impl Drop for Mount {
    fn drop(&mut self) {
        let done = std::process::Command::new("umount").arg(self.0.path()).status();
        assert!(done.is_ok_and(|status| status.success()), "{:?} stays mounted", self.1);
    }
}

/// Fills the disk when the first byte is asked for, after the space was checked.
struct Filling {
    inner: Memory,
    filler: PathBuf,
    leave: u64,
}

impl Source for Filling {
    fn open<'a>(
        &'a self,
        file: &'a RemoteFile,
        range: Range<u64>,
        validator: Option<&'a Validator>,
    ) -> BoxFuture<'a, Result<Opening>> {
        if !self.filler.exists() {
            let free = rbee_hive::disk::space::space(&self.filler).unwrap().available;
            fs::write(&self.filler, vec![1; free.saturating_sub(self.leave) as usize]).unwrap();
        }
        self.inner.open(file, range, validator)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_fills_keeps_the_partial_and_says_how_much_is_missing() {
    let Some(disk) = Mount::ext2(24) else { return };
    let (bytes, file) = one(12 * MIB);
    let root = disk.path().join("models");
    let mut inner = Memory::new(&[(&file, &bytes)]);
    inner.piece = 64 * 1024;
    let filler = disk.path().join("filler");
    let source: Arc<dyn Source> = Arc::new(Filling { inner, filler: filler.clone(), leave: 6 * MIB as u64 });
    let folder = Folder::new(&root);
    let destination: Arc<dyn Destination> = folder.clone();
    let events = Events::default();
    let go = || async {
        let cancel = CancellationToken::new();
        run(&request(vec![file.clone()]), &source, &destination, &quick(), &events.sink(), &cancel).await
    };

    match go().await.unwrap_err() {
        Error::NoSpace { needed, available, .. } => {
            assert!(needed > 5 * MIB as u64 && needed < 8 * MIB as u64, "{needed}");
            assert!(available < MIB as u64, "{available}");
        }
        error => panic!("{error}"),
    }
    let kept = covered(&journalled(&folder.staging(&file).journal));
    assert!(kept > 4 * MIB as u64, "{kept}");

    fs::write(&filler, b"").unwrap();
    let outcome = go().await.unwrap();
    assert_eq!(outcome.fetched, bytes.len() as u64 - kept);
    assert!(fs::read(&outcome.paths[0]).unwrap() == bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_that_is_used_up_is_said_and_what_is_here_is_kept() {
    let (bytes, file) = one(3 * MIB);
    let folder = scratch();
    let source: Arc<dyn Source> = Arc::new(Memory::new(&[(&file, &bytes)]));
    let used_up = Arc::new(AtomicBool::new(true));
    let mut quota = Hooked::new(Folder::new(folder.path()));
    let (is_used_up, place) = (Arc::clone(&used_up), folder.path().join("x"));
    quota.publishing = Box::new(move || {
        let used_up = std::io::Error::from_raw_os_error(rustix::io::Errno::DQUOT.raw_os_error());
        let fails = is_used_up.load(Ordering::Relaxed);
        if fails { Err(rbee_hive::disk::write_error("create", &place, 4096)(used_up)) } else { Ok(()) }
    });
    let destination: Arc<dyn Destination> = Arc::new(quota);
    let events = Events::default();
    let go = || async {
        let cancel = CancellationToken::new();
        run(&request(vec![file.clone()]), &source, &destination, &quick(), &events.sink(), &cancel).await
    };
    let error = go().await.unwrap_err();
    assert!(matches!(error, Error::NoSpace { .. }) && error.to_string().contains("the quota of this user"), "{error}");
    used_up.store(false, Ordering::Relaxed);
    let outcome = go().await.unwrap();
    assert_eq!(outcome.fetched, 0, "all of it was here");
    assert!(fs::read(&outcome.paths[0]).unwrap() == bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_is_too_small_by_the_time_of_the_first_write_leaves_nothing() {
    let Some(disk) = Mount::tmpfs("8m") else { return };
    let (bytes, file) = one(4 * MIB);
    let root = disk.path().join("models");
    let memory = Arc::new(Memory::new(&[(&file, &bytes)]));
    let source: Arc<dyn Source> = memory.clone();
    let mut full = Hooked::new(Folder::new(&root));
    let filler = disk.path().join("filler");
    // Between the check of the space and the first write.
    full.staging = Box::new(move || fs::write(&filler, vec![1; 6 * MIB]).unwrap());
    let destination: Arc<dyn Destination> = Arc::new(full);
    let events = Events::default();
    let cancel = CancellationToken::new();
    let result = run(&request(vec![file]), &source, &destination, &quick(), &events.sink(), &cancel).await;
    assert!(matches!(result, Err(Error::NoSpace { .. })), "{result:?}");
    assert_eq!(memory.opened(), 0);
    assert_eq!(names(&root), Vec::<String>::new());
}

fn fault() -> impl Strategy<Value = Fault> {
    let count = 0..700_000usize;
    prop_oneof![
        count.clone().prop_map(Fault::EndsEarly),
        count.clone().prop_map(Fault::Breaks),
        count.clone().prop_map(Fault::Garbage),
        count.prop_map(Fault::TooMuch),
        Just(Fault::Whole),
        Just(Fault::WrongOffset),
        Just(Fault::Refuses(502)),
        Just(Fault::Limits(Duration::from_millis(1))),
    ]
}

/// How one run of many ends before its time.
#[derive(Clone, Debug)]
enum Ending {
    Cancelled(u64),
    Dropped(u64),
    Crashed(u64, Option<(u64, u8)>),
}

fn ending() -> impl Strategy<Value = Ending> {
    let sent = 0..1_000_000u64;
    prop_oneof![
        sent.clone().prop_map(Ending::Cancelled),
        sent.clone().prop_map(Ending::Dropped),
        (sent, prop::option::of((any::<u64>(), 1..=255u8))).prop_map(|(sent, tear)| Ending::Crashed(sent, tear)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_sequence_of_progress_loss_and_restart_ends_whole(
        faults in prop::collection::vec(fault(), 0..8),
        endings in prop::collection::vec(ending(), 0..5),
        length in 0..2_500_000usize,
        checked in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let bytes = content(length as u64 + 1, length);
            let file = remote("sub/m.gguf", &bytes, checked.then_some(Algorithm::Sha256));
            let mut memory = Memory::new(&[(&file, &bytes)]).fail(faults);
            memory.piece = 30_000;
            memory.pause = Some(Duration::from_micros(50));
            let mut folder = scratch();
            let mut case = Case::new(memory, folder.path(), vec![file.clone()]);
            for ending in endings {
                let before = case.source.sent();
                let (limit, tear) = match &ending {
                    Ending::Cancelled(sent) | Ending::Dropped(sent) => (*sent, None),
                    Ending::Crashed(sent, tear) => (*sent, *tear),
                };
                {
                    let running = case.run();
                    tokio::pin!(running);
                    loop {
                        tokio::select! {
                            _ = &mut running => break,
                            () = tokio::time::sleep(Duration::from_micros(100)) => {
                                if case.source.sent() - before < limit {
                                    continue;
                                }
                                match ending {
                                    Ending::Cancelled(_) => case.cancel.cancel(),
                                    Ending::Dropped(_) | Ending::Crashed(..) => break,
                                }
                            }
                        }
                    }
                    if let Ending::Crashed(..) = ending {
                        // The other threads still run, as the kernel may still write after a crash.
                        let crashed = scratch();
                        let staging = case.staging();
                        fs::create_dir_all(crashed.path().join("sub")).unwrap();
                        for path in [&staging.journal, &staging.partial] {
                            let to = crashed.path().join(path.strip_prefix(folder.path()).unwrap());
                            let _ = fs::copy(path, to);
                        }
                        let published = file.path.below(folder.path());
                        if published.exists() {
                            fs::copy(&published, file.path.below(crashed.path())).unwrap();
                        }
                        folder = crashed;
                    }
                }
                case.folder = Folder::new(folder.path());
                case.cancel = CancellationToken::new();
                if let Ending::Crashed(..) = ending
                    && case.staging().journal.exists()
                    && case.staging().partial.exists()
                {
                    lose_power(&case.staging(), tear);
                }
            }
            // An answer that is no hub's, before any byte, ends a run; the next one goes on.
            for _ in 0..8 {
                if !matches!(case.run().await, Err(Error::BadAnswer { .. })) {
                    break;
                }
            }
            case.run().await.unwrap();
            case.assert_whole(&bytes);
        });
    }
}

/// A hub that counts what it sends in a file, so that the count outlives the process.
struct Counting {
    content: Bytes,
    counter: PathBuf,
    sent: Arc<Mutex<u64>>,
    /// Nothing is sent beyond this count: who is to be killed before waits there.
    most: u64,
}

impl Source for Counting {
    fn open<'a>(
        &'a self,
        _file: &'a RemoteFile,
        range: Range<u64>,
        _validator: Option<&'a Validator>,
    ) -> BoxFuture<'a, Result<Opening>> {
        async move {
            let content = self.content.clone();
            let size = content.len() as u64;
            let counter = File::options().read(true).write(true).open(&self.counter).unwrap();
            let rest = content.slice(range.start as usize..range.end as usize);
            let (sent, most) = (Arc::clone(&self.sent), self.most);
            let stream = stream::unfold(rest, move |mut rest| {
                if !rest.is_empty() {
                    let piece = rest.split_to(rest.len().min(50_000));
                    let length = piece.len() as u64;
                    // Written under the lock: several connections count.
                    let mut sent = sent.lock().unwrap();
                    if *sent >= most {
                        loop {
                            std::thread::park();
                        }
                    }
                    *sent += length;
                    counter.write_all_at(&sent.to_le_bytes(), 0).unwrap();
                    return std::future::ready(Some((Ok(piece), rest)));
                }
                std::future::ready(None)
            });
            Ok(Opening {
                from: range.start,
                to: range.end,
                size,
                validator: Some(Validator("v".into())),
                stream: stream.boxed(),
            })
        }
        .boxed()
    }
}

fn read_counter(path: &Path) -> u64 {
    fs::read(path).unwrap().first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

const CHILD: &str = "TRANSFER_TEST_CHILD";
const CONNECTIONS: &str = "TRANSFER_TEST_CONNECTIONS";
const MOST: &str = "TRANSFER_TEST_MOST";

#[test]
#[ignore = "another test starts it in a process of its own, to kill it"]
fn child() {
    let folder = PathBuf::from(std::env::var_os(CHILD).unwrap());
    let bytes = fs::read(folder.join("content")).unwrap();
    let file = remote("m.gguf", &bytes, Some(Algorithm::Sha256));
    let counter = folder.join("counter");
    let sent = Arc::new(Mutex::new(read_counter(&counter)));
    let most = std::env::var(MOST).unwrap().parse().unwrap();
    let source: Arc<dyn Source> = Arc::new(Counting { content: bytes.into(), counter, sent, most });
    let connections = std::env::var(CONNECTIONS).unwrap().parse().unwrap();
    let destination: Arc<dyn Destination> = Folder::new(folder.join("models"));
    let throttle = Throttle::new(Some(160 * MIB as u64));
    let options = Options { throttle, connections: Connections::new(connections), ..quick() };
    let (events, cancel) = (Events::default(), CancellationToken::new());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(run(&request(vec![file]), &source, &destination, &options, &events.sink(), &cancel)).unwrap();
}

#[test]
fn killed_again_and_again_it_fetches_little_twice_and_ends_whole() {
    // On a disk that takes long to sync: what is synced together, what is written meanwhile, and the buffers.
    kill(1, 6);
    kill(8, 1);
}

/// Kills a download that may have so many connections; on average it may fetch so many MiB twice for each of them.
fn kill(connections: u64, allowed: u64) {
    const SIZE: usize = 96 * MIB;
    const KILLS: u64 = 8;
    let folder = scratch();
    let bytes = content(9, SIZE);
    fs::write(folder.path().join("content"), &bytes).unwrap();
    let counter = folder.path().join("counter");
    fs::write(&counter, 0u64.to_le_bytes()).unwrap();
    let start = |most: u64| {
        std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child", "--ignored"])
            .env(CHILD, folder.path())
            .env(CONNECTIONS, connections.to_string())
            .env(MOST, most.to_string())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap()
    };
    for kill in 0..KILLS {
        // Moments that differ: each a bit more than what a crash may cost.
        let until = read_counter(&counter) + 9 * MIB as u64 + kill * 123_457;
        // It goes on meanwhile, but not to its end when the kill is late.
        let mut child = start(until + MIB as u64);
        while read_counter(&counter) < until {
            assert!(child.try_wait().unwrap().is_none(), "it ended before it was killed");
            std::thread::sleep(Duration::from_micros(500));
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert!(start(u64::MAX).wait().unwrap().success());
    assert!(fs::read(folder.path().join("models/m.gguf")).unwrap() == *bytes);
    assert_eq!(names(&folder.path().join("models")), ["m.gguf"]);
    let twice = read_counter(&counter) - SIZE as u64;
    assert!(twice <= KILLS * connections * allowed * MIB as u64, "{twice} bytes were fetched twice in {KILLS} kills");
}
