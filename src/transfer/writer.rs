//! From memory to disk: blocks are written where they belong, synced, journalled and hashed, each on a thread of its
//! own, so that whoever receives bytes waits for none of it until all buffers are full.
//!
//! ```text
//! receive -> [buffers] -> write -> hash -> back to the pool
//!                           |
//!                           +-> sync -> journal
//! ```
//!
//! Blocks may come in any order and from any number of connections. The hash follows the first byte that is missing:
//! what comes in order is hashed from memory, what came before its turn (or lay there from a former run) is read back.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, SendError, Sender, TryRecvError};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, oneshot};
use tokio_util::sync::CancellationToken;

use super::hash::Hasher;
use super::partial::{Partial, write_error};
use super::ranges::RangeSet;
use super::watch::Watch;
use crate::error::{Error, Result};
use crate::model::{Digest, Validator};

/// Length of a buffer; with two of them at work all fits into the second-level cache of a core.
pub(super) const BUFFER: usize = 256 * 1024;
/// Buffers of one file, besides one for each connection that may be filling it.
const BUFFERS: usize = 6;
/// For each connection in use so many bytes are synced together: each sync costs the processor and the disk, and half of
/// what is synced together is what a power failure costs.
const SYNC_BYTES: u64 = 2 * 1024 * 1024;
/// The most for all connections of a file.
const MOST_SYNC: u64 = 16 * 1024 * 1024;
/// The same without a checksum of the whole: only what is synced is believed then, also after a kill.
const UNPROVEN_SYNC_BYTES: u64 = 1024 * 1024;
const MOST_UNPROVEN_SYNC: u64 = 4 * 1024 * 1024;
/// So many bytes are noted as written together, but no sooner than this after the last note; what is not noted is what a
/// killed process costs.
const NOTE_BYTES: u64 = 1024 * 1024;
const NOTE_INTERVAL: Duration = Duration::from_millis(5);
/// Writing pauses when this and what is synced together are not synced.
const AHEAD: u64 = 2 * 1024 * 1024;
/// Fewer bytes are synced after this time.
const SYNC_INTERVAL: Duration = Duration::from_secs(1);

/// Bytes and where they belong.
#[derive(Debug)]
struct Block {
    offset: u64,
    bytes: Vec<u8>,
}

/// What goes down the line.
#[derive(Debug)]
enum Message {
    Block(Block),
    /// Every byte of the file was sent.
    End,
}

/// Buffers that are used again; the one that was returned last is given out first, while it is in the cache.
#[derive(Debug)]
struct Pool {
    free: Mutex<Vec<Vec<u8>>>,
    permits: Semaphore,
    length: usize,
}

impl Pool {
    fn give_back(&self, mut buffer: Vec<u8>) {
        buffer.clear();
        lock(&self.free).push(buffer);
        self.permits.add_permits(1);
    }
}

#[derive(Debug, Default)]
struct Progress {
    /// In the page cache.
    written: RangeSet,
    /// Bytes written since the last sync began.
    unsynced: u64,
    /// Bytes written of which the journal says nothing.
    unnoted: u64,
    /// To be noted with the next ranges.
    validator: Option<Validator>,
    /// Nothing more will be written.
    ended: bool,
    /// The first failure; everything stops.
    failed: Option<Error>,
    has_failed: bool,
}

#[derive(Debug)]
struct Shared {
    pool: Pool,
    progress: Mutex<Progress>,
    changed: Condvar,
    /// Connections in use.
    connections: AtomicU64,
    /// Whether a checksum of the whole decides.
    proven: bool,
    /// Bytes that are written.
    written: AtomicU64,
    /// The digest is not wanted any more.
    stop: AtomicBool,
}

impl Shared {
    /// So many bytes are synced together.
    fn sync_bytes(&self) -> u64 {
        let (each, most) =
            if self.proven { (SYNC_BYTES, MOST_SYNC) } else { (UNPROVEN_SYNC_BYTES, MOST_UNPROVEN_SYNC) };
        each.saturating_mul(self.connections.load(Ordering::Relaxed)).clamp(each, most)
    }

    /// Whether it is worth noting that so many bytes are written.
    fn is_worth_a_note(&self, unnoted: u64) -> bool {
        self.proven && unnoted >= NOTE_BYTES
    }

    fn fail(&self, error: Error) {
        let mut progress = lock(&self.progress);
        progress.failed.get_or_insert(error);
        progress.has_failed = true;
        drop(progress);
        self.stop.store(true, Ordering::Relaxed);
        self.pool.permits.close();
        self.changed.notify_all();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The threads behind one partial file.
#[derive(Debug)]
pub(super) struct Pipeline {
    messages: Option<Sender<Message>>,
    shared: Arc<Shared>,
    synced: oneshot::Receiver<Partial>,
    hashed: Option<oneshot::Receiver<Digest>>,
    path: PathBuf,
}

impl Pipeline {
    /// Starts the threads for at most so many connections. With a hasher the digest of the whole file is computed, what
    /// `partial` already holds included.
    pub(super) fn start(partial: Partial, hasher: Option<Hasher>, connections: usize) -> Result<Self> {
        let ranges = partial.ranges().clone();
        let length = usize::try_from(partial.size()).map_or(BUFFER, |size| size.clamp(1, BUFFER));
        let shared = Arc::new(Shared {
            pool: Pool { free: Mutex::default(), permits: Semaphore::new(BUFFERS + connections), length },
            written: AtomicU64::new(ranges.covered()),
            progress: Mutex::new(Progress { written: ranges.clone(), ..Progress::default() }),
            changed: Condvar::new(),
            connections: AtomicU64::new(1),
            proven: hasher.is_some(),
            stop: AtomicBool::new(false),
        });
        let path = partial.path().to_owned();
        let file = Arc::clone(partial.file());
        // Before what is there already is read.
        partial.watch().begin(&file);
        let watch = Arc::clone(partial.watch());
        let size = partial.size();

        let (messages, to_write) = mpsc::channel();
        let (forward, to_hash) = mpsc::channel();
        let (partial_back, synced) = oneshot::channel();
        let mut forward = Some(forward);
        let mut hashed = None;
        match hasher {
            None => forward = None,
            Some(hasher) => {
                let (digest_back, receiver) = oneshot::channel();
                let guard = Guard::new(&shared, &path, false);
                let job = Hashing { file: Arc::clone(&file), shared: Arc::clone(&shared), path: path.clone(), size };
                spawn("transfer-hash", &path, move || {
                    if let Some(digest) = job.run(hasher, ranges, &to_hash) {
                        // Nobody waits for it after a cancellation.
                        let _ = digest_back.send(digest);
                    }
                    guard.disarm();
                })?;
                hashed = Some(receiver);
            }
        }
        let guard = Guard::new(&shared, &path, false);
        let job = Arc::clone(&shared);
        spawn("transfer-sync", &path, move || {
            // After a drop nobody waits for the partial: it is closed here, synced.
            let _ = partial_back.send(sync(partial, &job));
            guard.disarm();
        })?;
        let guard = Guard::new(&shared, &path, true);
        let (job, job_path) = (Arc::clone(&shared), path.clone());
        spawn("transfer-write", &path, move || {
            if let Err(error) = write((&file, &watch), &job_path, size, &job, &to_write, forward.as_ref()) {
                job.fail(error);
            }
            guard.disarm();
        })?;
        Ok(Self { messages: Some(messages), shared, synced, hashed, path })
    }

    /// Waits for an empty buffer with room for [`BUFFER`] bytes (fewer for a small file).
    pub(super) async fn buffer(&self) -> Result<Vec<u8>> {
        match self.shared.pool.permits.acquire().await {
            Ok(permit) => permit.forget(),
            Err(_) => return Err(self.failure()),
        }
        let free = lock(&self.shared.pool.free).pop();
        Ok(free.unwrap_or_else(|| Vec::with_capacity(self.shared.pool.length)))
    }

    /// Sends bytes to where they belong.
    pub(super) fn send(&self, offset: u64, bytes: Vec<u8>) {
        if let Some(messages) = &self.messages {
            // A writer that is gone has failed, and the next buffer tells why.
            let _ = messages.send(Message::Block(Block { offset, bytes }));
        }
    }

    /// So many connections are in use.
    pub(super) fn set_connections(&self, count: usize) {
        self.shared.connections.store(count as u64, Ordering::Relaxed);
    }

    /// Goes into the journal with the next ranges.
    pub(super) fn set_validator(&self, validator: Option<Validator>) {
        lock(&self.shared.progress).validator = validator;
    }

    /// Bytes that are written, those of a former run included.
    pub(super) fn written(&self) -> u64 {
        self.shared.written.load(Ordering::Relaxed)
    }

    /// Ends without a digest: everything that was sent is written, synced and journalled.
    pub(super) async fn stop(mut self) -> (Option<Partial>, Result<()>) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.messages = None;
        let partial = (&mut self.synced).await.ok();
        let result = match lock(&self.shared.progress).failed.take() {
            Some(error) => Err(error),
            None if partial.is_none() => Err(died(&self.path)),
            None => Ok(()),
        };
        (partial, result)
    }

    /// Ends after the last byte was sent: everything is written and synced, and the digest is right.
    pub(super) async fn finish(mut self, cancel: &CancellationToken) -> (Option<Partial>, Result<Option<Digest>>) {
        if let Some(messages) = self.messages.take() {
            let _ = messages.send(Message::End);
        }
        let partial = (&mut self.synced).await.ok();
        let digest = match self.hashed.take() {
            None => Ok(None),
            Some(hashed) => tokio::select! {
                digest = hashed => digest.map(Some).map_err(|_| died(&self.path)),
                () = cancel.cancelled() => Err(Error::Cancelled),
            },
        };
        self.shared.stop.store(true, Ordering::Relaxed);
        let result = match lock(&self.shared.progress).failed.take() {
            Some(error) => Err(error),
            None if partial.is_none() => Err(died(&self.path)),
            None => digest,
        };
        (partial, result)
    }

    fn failure(&self) -> Error {
        lock(&self.shared.progress).failed.take().unwrap_or_else(|| died(&self.path))
    }
}

impl Drop for Pipeline {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

/// Tells the other threads when one ends, also when it panics or was never started.
#[derive(Debug)]
struct Guard {
    shared: Arc<Shared>,
    path: PathBuf,
    /// Whether it is the thread that writes.
    writes: bool,
    armed: bool,
}

impl Guard {
    fn new(shared: &Arc<Shared>, path: &Path, writes: bool) -> Self {
        Self { shared: Arc::clone(shared), path: path.to_owned(), writes, armed: true }
    }

    /// The thread ended as it should.
    fn disarm(mut self) {
        self.armed = false;
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if self.armed {
            self.shared.fail(died(&self.path));
        }
        if self.writes {
            lock(&self.shared.progress).ended = true;
            self.shared.changed.notify_all();
        }
    }
}

fn died(path: &Path) -> Error {
    Error::io("write", path)(std::io::Error::other("a thread of the transfer ended unexpectedly"))
}

/// A thread of its own: these live as long as a file takes, which would use up a runtime's blocking threads.
fn spawn(name: &str, path: &Path, work: impl FnOnce() + Send + 'static) -> Result<()> {
    thread::Builder::new()
        .name(name.to_owned())
        .stack_size(256 * 1024)
        .spawn(work)
        .map(drop)
        .map_err(Error::io("start a thread for", path))
}

/// Writes blocks until the channel closes or something fails.
fn write(
    (file, watch): (&File, &Watch),
    path: &Path,
    size: u64,
    shared: &Shared,
    blocks: &Receiver<Message>,
    forward: Option<&Sender<Message>>,
) -> Result<()> {
    while let Ok(message) = blocks.recv() {
        let Message::Block(block) = message else {
            if let Some(forward) = forward {
                let _ = forward.send(Message::End);
            }
            break;
        };
        let length = block.bytes.len() as u64;
        let mut progress = lock(&shared.progress);
        while progress.unsynced >= shared.sync_bytes() + AHEAD && !progress.has_failed {
            shared.changed.notify_all();
            progress = shared.changed.wait(progress).unwrap_or_else(PoisonError::into_inner);
        }
        if progress.has_failed {
            break;
        }
        drop(progress);

        watch
            .write(file, || file.write_all_at(&block.bytes, block.offset))
            .map_err(|error| write_error("write", path, size, error))?;

        let mut progress = lock(&shared.progress);
        progress.written.insert(block.offset..block.offset + length);
        shared.written.store(progress.written.covered(), Ordering::Relaxed);
        let first = progress.unsynced == 0;
        progress.unsynced += length;
        progress.unnoted += length;
        let wake = first || progress.unsynced >= shared.sync_bytes() || shared.is_worth_a_note(progress.unnoted);
        drop(progress);
        if wake {
            shared.changed.notify_all();
        }
        match forward {
            Some(forward) => {
                if let Err(SendError(Message::Block(block))) = forward.send(Message::Block(block)) {
                    shared.pool.give_back(block.bytes);
                }
            }
            None => shared.pool.give_back(block.bytes),
        }
    }
    Ok(())
}

/// Syncs and journals what is written until writing ends; gives the partial back in the state that its journal tells.
fn sync(mut partial: Partial, shared: &Shared) -> Partial {
    let mut last = Instant::now();
    let mut last_note = last;
    let mut noted = partial.validator().cloned();
    loop {
        let mut progress = lock(&shared.progress);
        let due = loop {
            let due = progress.ended
                || progress.unsynced >= shared.sync_bytes()
                || (progress.unsynced > 0 && last.elapsed() >= SYNC_INTERVAL);
            let note_in = NOTE_INTERVAL.saturating_sub(last_note.elapsed());
            let worth_a_note = shared.is_worth_a_note(progress.unnoted);
            if due || (worth_a_note && note_in.is_zero()) {
                break due;
            }
            let sync_in = SYNC_INTERVAL.saturating_sub(last.elapsed());
            progress = if worth_a_note || progress.unsynced > 0 {
                let wait = if worth_a_note { note_in.min(sync_in) } else { sync_in };
                shared.changed.wait_timeout(progress, wait).unwrap_or_else(PoisonError::into_inner).0
            } else {
                shared.changed.wait(progress).unwrap_or_else(PoisonError::into_inner)
            };
        };
        let ended = progress.ended;
        let (written, amount) = (progress.written.clone(), progress.unsynced);
        let validator = progress.validator.clone();
        progress.unnoted = 0;
        drop(progress);
        last_note = Instant::now();

        if amount > 0 {
            if validator.is_some() && validator != noted {
                partial.set_validator(validator.clone());
                noted = validator;
            }
            // A sync may take long, and nothing is noted meanwhile.
            let noted = if shared.proven { partial.note(&written) } else { Ok(()) };
            let done = noted.and_then(|()| if due { partial.sync(written) } else { Ok(()) });
            if let Err(error) = done {
                shared.fail(error);
                // The lock goes with the partial, so nothing may write any more.
                let mut progress = lock(&shared.progress);
                while !progress.ended {
                    progress = shared.changed.wait(progress).unwrap_or_else(PoisonError::into_inner);
                }
                return partial;
            }
            if due {
                last = Instant::now();
                lock(&shared.progress).unsynced -= amount;
                shared.changed.notify_all();
            }
        }
        if ended {
            // The journal of a file that is whole is removed next.
            if partial.ranges().covered() < partial.size()
                && let Err(error) = partial.sync_journal()
            {
                shared.fail(error);
            }
            return partial;
        }
    }
}

/// The thread that hashes.
struct Hashing {
    file: Arc<File>,
    shared: Arc<Shared>,
    path: PathBuf,
    size: u64,
}

impl Hashing {
    /// Hashes the file from its first to its last byte as they become known; `None` when it was stopped.
    fn run(&self, mut hasher: Hasher, mut known: RangeSet, messages: &Receiver<Message>) -> Option<Digest> {
        let mut at = 0;
        let mut ended = false;
        let mut buffer = Vec::new();
        loop {
            if self.shared.stop.load(Ordering::Relaxed) {
                // What still comes must go back to the pool, or the sender would wait for buffers for ever.
                messages.iter().for_each(|message| self.note(message, &mut known, &mut ended));
                return None;
            }
            if let Some(end) = known.run_end(at) {
                buffer.resize(BUFFER, 0);
                let length = usize::try_from(end - at).map_or(BUFFER, |length| length.min(BUFFER));
                let piece = &mut buffer[..length];
                if let Err(error) = self.file.read_exact_at(piece, at) {
                    self.shared.fail(Error::io("read", &self.path)(error));
                    continue;
                }
                hasher.update(piece);
                at += length as u64;
                loop {
                    match messages.try_recv() {
                        Ok(message) => self.note(message, &mut known, &mut ended),
                        Err(TryRecvError::Empty) => break,
                        Err(TryRecvError::Disconnected) if ended => break,
                        Err(TryRecvError::Disconnected) => return None,
                    }
                }
                continue;
            }
            if at == self.size && ended {
                return Some(hasher.finish());
            }
            match messages.recv() {
                Ok(Message::Block(block)) if block.offset == at => {
                    hasher.update(&block.bytes);
                    at += block.bytes.len() as u64;
                    self.shared.pool.give_back(block.bytes);
                }
                Ok(message) => self.note(message, &mut known, &mut ended),
                Err(_) => return None,
            }
        }
    }

    /// Remembers where a block lies, so that it is read back when its turn comes.
    fn note(&self, message: Message, known: &mut RangeSet, ended: &mut bool) {
        match message {
            Message::End => *ended = true,
            Message::Block(block) => {
                known.insert(block.offset..block.offset + block.bytes.len() as u64);
                self.shared.pool.give_back(block.bytes);
            }
        }
    }
}
