//! The journal beside a partial file: which bytes are safely on disk, and of what.
//!
//! The file holds two slots of fixed length. Each holds one line of JSON, a whole [`Record`] that ends with a check of
//! its own text, and padding that nobody reads. Records are written to the slots in turn, so a write that is torn by
//! a crash damages the older record only, and the newest whole one wins. Since ranges only grow between two resets,
//! an older record claims less than is there, never more; and a reset, after which bytes are overwritten, first
//! takes back the claims of both slots.
//!
//! The file is also the lock, so it is never replaced, only rewritten in place.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::partial::write_error;
use super::ranges::RangeSet;
use crate::disk::lock::FileLock;
use crate::error::{Error, Result};
use crate::model::{Digest, Validator};

/// Version of the record.
const VERSION: u32 = 1;
/// Length of a slot in bytes; a record is shortened to fit.
const SLOT: u64 = 16 * 1024;
/// More ranges than this are not written: the rest would be fetched again.
const MAX_RANGES: usize = 256;
/// A longer validator is not kept.
const MAX_VALIDATOR: usize = 512;
/// How often the journal itself is synced while it grows; a power failure loses at most so much of what it says.
const SYNC_INTERVAL: Duration = Duration::from_secs(1);
/// Separates a record from the check of its text.
const CHECK: &str = ",\"check\":\"";

/// What a partial file is a part of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) endpoint: String,
    pub(super) repository: String,
    pub(super) commit: String,
    pub(super) path: String,
    pub(super) size: u64,
    pub(super) digest: Option<Digest>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    version: u32,
    /// Counts up; the higher of two records is the newer one.
    sequence: u64,
    endpoint: String,
    repository: String,
    commit: String,
    path: String,
    size: u64,
    digest: Option<Digest>,
    validator: Option<Validator>,
    /// `[start, end]` of bytes that are synced, end exclusive.
    ranges: Vec<[u64; 2]>,
}

impl Record {
    fn new(identity: &Identity, sequence: u64) -> Self {
        Self {
            version: VERSION,
            sequence,
            endpoint: identity.endpoint.clone(),
            repository: identity.repository.clone(),
            commit: identity.commit.clone(),
            path: identity.path.clone(),
            size: identity.size,
            digest: identity.digest,
            validator: None,
            ranges: Vec::new(),
        }
    }

    /// Whether its bytes may become a part of `identity`. The same digest makes them the same bytes at any commit;
    /// without a digest only the same file of the same commit will do, and a server that can tell whether it changed.
    fn belongs_to(&self, identity: &Identity) -> bool {
        let same = self.endpoint == identity.endpoint
            && self.repository == identity.repository
            && self.size == identity.size
            && self.digest == identity.digest;
        let exact = self.commit == identity.commit && self.path == identity.path && self.validator.is_some();
        same && (self.digest.is_some() || exact)
    }

    /// The line that goes into a slot.
    fn line(&self) -> io::Result<Vec<u8>> {
        let mut text = serde_json::to_string(self)?;
        text.pop();
        let check = check(text.as_bytes());
        Ok(format!("{text}{CHECK}{check}\"}}\n").into_bytes())
    }

    /// The record of a slot, if all of it is there.
    fn parse(slot: &[u8]) -> Option<Self> {
        let line = slot.split(|byte| *byte == b'\n').next()?;
        let line = std::str::from_utf8(line).ok()?;
        let (text, rest) = line.rsplit_once(CHECK)?;
        if rest.strip_suffix("\"}")? != check(text.as_bytes()) {
            return None;
        }
        serde_json::from_str(&format!("{text}}}")).ok()
    }
}

fn check(text: &[u8]) -> String {
    Sha256::digest(text).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// An open and locked journal.
#[derive(Debug)]
pub(super) struct Journal {
    lock: FileLock,
    path: PathBuf,
    record: Record,
    slot: u64,
    synced: Instant,
}

impl Journal {
    /// Reads the journal behind `lock`, or begins a new one: the ranges are empty unless what is there belongs to
    /// `identity`.
    pub(super) fn open(lock: FileLock, path: &Path, identity: &Identity) -> Result<(Self, RangeSet)> {
        let (records, blank) = read(lock.file()).map_err(Error::io("read", path))?;
        let newest = records.iter().flatten().max_by_key(|record| record.sequence);
        let sequence = newest.map_or(0, |record| record.sequence);
        let slot = records.iter().position(|record| record.as_ref() == newest && newest.is_some()).unwrap_or(1);
        let kept = newest
            .filter(|record| record.version == VERSION && record.belongs_to(identity))
            .and_then(|record| Some((record.validator.clone(), RangeSet::from_pairs(&record.ranges, identity.size)?)));
        let mut journal = Self {
            path: path.to_owned(),
            record: Record::new(identity, sequence),
            slot: slot as u64,
            synced: Instant::now(),
            lock,
        };
        if let Some((validator, ranges)) = kept {
            journal.record.validator = validator;
            journal.commit(&ranges)?;
            return Ok((journal, ranges));
        }
        if blank {
            // No former claim can come back, so nothing has to be waited for.
            if let Err(error) = journal.commit(&RangeSet::default()) {
                remove_if_there(path)?;
                return Err(error);
            }
        } else {
            journal.reset(&RangeSet::default())?;
        }
        Ok((journal, RangeSet::default()))
    }

    /// Where it lies.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// What tells whether the bytes are still the same.
    pub(super) fn validator(&self) -> Option<&Validator> {
        self.record.validator.as_ref()
    }

    /// Goes into the next record.
    pub(super) fn set_validator(&mut self, validator: Option<Validator>) {
        self.record.validator = validator.filter(|validator| validator.0.len() <= MAX_VALIDATOR);
    }

    /// Writes that `ranges` are on disk. They must be synced, and contain what was written here since the last reset.
    pub(super) fn commit(&mut self, ranges: &RangeSet) -> Result<()> {
        self.write(ranges)?;
        if self.synced.elapsed() >= SYNC_INTERVAL {
            self.sync()?;
        }
        Ok(())
    }

    /// Takes back every claim beyond `ranges` for good, before bytes are overwritten.
    pub(super) fn reset(&mut self, ranges: &RangeSet) -> Result<()> {
        for _ in 0..2 {
            self.write(ranges)?;
            self.sync()?;
        }
        Ok(())
    }

    /// Makes what was written outlast a power failure.
    pub(super) fn sync(&mut self) -> Result<()> {
        self.lock.file().sync_data().map_err(|error| write_error("sync", &self.path, SLOT, error))?;
        self.synced = Instant::now();
        Ok(())
    }

    /// Removes the journal and lets go of the lock.
    pub(super) fn remove(self) -> Result<()> {
        remove_if_there(&self.path)
    }

    fn write(&mut self, ranges: &RangeSet) -> Result<()> {
        let mut kept = ranges.clone();
        kept.keep_first(MAX_RANGES);
        self.record.sequence += 1;
        let line = loop {
            self.record.ranges = kept.pairs().collect();
            let line = self.record.line().map_err(Error::io("write", &self.path))?;
            if line.len() as u64 <= SLOT {
                break line;
            }
            if kept.is_empty() {
                let reason = io::Error::new(io::ErrorKind::InvalidInput, "the names in it are too long");
                return Err(Error::io("write", &self.path)(reason));
            }
            kept.keep_first(kept.count() / 2);
        };
        self.slot = 1 - self.slot;
        self.lock
            .file()
            .write_all_at(&line, self.slot * SLOT)
            .map_err(|error| write_error("write", &self.path, SLOT, error))
    }
}

/// Both slots, and whether the file is empty.
fn read(file: &File) -> io::Result<([Option<Record>; 2], bool)> {
    let mut slots = [None, None];
    let mut bytes = vec![0; usize::try_from(SLOT).unwrap_or(0)];
    for (index, slot) in slots.iter_mut().enumerate() {
        let mut filled = 0;
        while filled < bytes.len() {
            match file.read_at(&mut bytes[filled..], index as u64 * SLOT + filled as u64) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        *slot = Record::parse(&bytes[..filled]);
    }
    Ok((slots, file.metadata()?.len() == 0))
}

/// Removes a file; one that is not there is removed already.
pub(super) fn remove_if_there(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io("remove", path)(error)),
        _ => Ok(()),
    }
}
