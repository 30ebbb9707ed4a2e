//! The digests of an open file, read once.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;

use sha1::Sha1;
use sha2::{Digest as _, Sha256};
use tokio_util::sync::CancellationToken;

use super::pace::Pace;
use super::resident::Cache;
use crate::model::{Algorithm, Digest};

/// Bytes that are read at once: small enough that they are hashed out of the processor's own cache.
pub(super) const BUFFER: usize = 128 << 10;

/// Buffers that go round between the reading and the hashing thread.
const BUFFERS: usize = 6;

/// Why there is no digest.
pub(super) enum HashError {
    Cancelled,
    Io(io::Error),
}

/// How a file is read.
pub(super) struct Reading<'a> {
    pub(super) pace: &'a Pace,
    pub(super) cancel: &'a CancellationToken,
    /// Bytes of this file that were read so far.
    pub(super) done: &'a AtomicU64,
    /// Whether reading and hashing overlap on two threads. With a core for every file that only costs.
    pub(super) overlap: bool,
}

/// One digest for each of the algorithms; `size` is what git's header says.
pub(super) fn hash(
    file: &File,
    algorithms: &[Algorithm],
    size: u64,
    reading: &Reading<'_>,
) -> Result<Vec<Digest>, HashError> {
    let mut hashes: Vec<Hash> = algorithms.iter().map(|algorithm| Hash::new(*algorithm, size)).collect();
    let mut take = |bytes: &[u8]| hashes.iter_mut().for_each(|hash| hash.update(bytes));
    let mut cache = Cache::new(file, size);
    // A file that two buffers hold is read before a thread has begun.
    if reading.overlap && size > 2 * BUFFER as u64 {
        overlapped(file, &mut cache, reading, &mut take)?;
    } else {
        plain(file, &mut cache, reading, &mut take)?;
    }
    Ok(hashes.into_iter().map(Hash::finish).collect())
}

enum Hash {
    Sha256(Sha256),
    GitSha1(Sha1),
}

impl Hash {
    fn new(algorithm: Algorithm, size: u64) -> Self {
        match algorithm {
            Algorithm::Sha256 => Self::Sha256(Sha256::new()),
            Algorithm::GitSha1 => {
                let mut hash = Sha1::new();
                hash.update(format!("blob {size}\0").as_bytes());
                Self::GitSha1(hash)
            }
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hash) => hash.update(bytes),
            Self::GitSha1(hash) => hash.update(bytes),
        }
    }

    fn finish(self) -> Digest {
        match self {
            Self::Sha256(hash) => Digest::Sha256(hash.finalize().into()),
            Self::GitSha1(hash) => Digest::GitSha1(hash.finalize().into()),
        }
    }
}

fn plain(
    file: &File,
    cache: &mut Cache<'_>,
    reading: &Reading<'_>,
    take: &mut dyn FnMut(&[u8]),
) -> Result<(), HashError> {
    let mut buffer = vec![0; BUFFER];
    let mut at = 0;
    loop {
        let length = read(file, cache, reading, &mut buffer, at)?;
        if length == 0 {
            return Ok(());
        }
        take(&buffer[..length]);
        at += length as u64;
        reading.done.store(at, Ordering::Relaxed);
    }
}

fn overlapped(
    file: &File,
    cache: &mut Cache<'_>,
    reading: &Reading<'_>,
    take: &mut dyn FnMut(&[u8]),
) -> Result<(), HashError> {
    thread::scope(|scope| {
        let (full_in, full_out) = mpsc::sync_channel::<Result<(Vec<u8>, usize), HashError>>(BUFFERS);
        let (empty_in, empty_out) = mpsc::sync_channel::<Vec<u8>>(BUFFERS);
        for _ in 0..BUFFERS {
            // The channel has room for all of them.
            let _ = empty_in.try_send(vec![0; BUFFER]);
        }
        // Dropping the other end of a channel ends the reader.
        scope.spawn(move || {
            let mut at = 0;
            for mut buffer in empty_out {
                let filled = read(file, cache, reading, &mut buffer, at);
                let last = !matches!(filled, Ok(length) if length > 0);
                at += filled.as_ref().map_or(0, |length| *length as u64);
                if full_in.send(filled.map(|length| (buffer, length))).is_err() || last {
                    return;
                }
            }
        });
        for filled in full_out {
            let (buffer, length) = filled?;
            take(&buffer[..length]);
            reading.done.fetch_add(length as u64, Ordering::Relaxed);
            // The reader is gone after the last buffer.
            let _ = empty_in.send(buffer);
        }
        Ok(())
    })
}

/// Fills the buffer as far as the file goes.
fn read(
    file: &File,
    cache: &mut Cache<'_>,
    reading: &Reading<'_>,
    buffer: &mut [u8],
    at: u64,
) -> Result<usize, HashError> {
    reading.pace.take(buffer.len() as u64, reading.cancel).map_err(|_| HashError::Cancelled)?;
    cache.reads(at);
    let mut length = 0;
    while length < buffer.len() {
        match file.read_at(&mut buffer[length..], at + length as u64) {
            Ok(0) => break,
            Ok(bytes) => length += bytes,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(HashError::Io(error)),
        }
    }
    cache.has_read(at + length as u64);
    Ok(length)
}
