//! The journal beside a partial file: which bytes are safely on disk, and of what.
//!
//! The file holds two slots of fixed length. Each is one line of JSON, padded with spaces: a whole [`Record`] that ends
//! with a check of its own text. Records are written to the slots in turn, so a write that is torn by
//! a crash damages the older record only, and the newest whole one wins. Since ranges only grow between two resets,
//! an older record claims less than is there, never more; and a reset, after which bytes are overwritten, first
//! takes back the claims of both slots.
//!
//! Beside what is synced a record may name what is only written. The kernel keeps that when a process is killed, but not
//! when the host goes down: it counts as long as the host has not started anew, and only where a checksum of the whole
//! will decide. So a killed transfer loses next to nothing, and still the disk is seldom waited for.
//!
//! The file is also the lock, so it is never replaced, only rewritten in place.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::Request;
use super::partial::write_error;
use super::ranges::RangeSet;
use crate::disk::lock::FileLock;
use crate::disk::publish::remove_if_there;
use crate::disk::regular;
use crate::error::{Error, Result};
use crate::machine;
use crate::model::{Digest, RemoteFile, Validator};

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

impl Identity {
    pub(super) fn of(request: &Request, file: &RemoteFile) -> Self {
        Self {
            endpoint: request.endpoint.clone(),
            repository: request.repository.clone(),
            commit: request.commit.clone(),
            path: file.path.as_str().to_owned(),
            size: file.size,
            digest: file.digest,
        }
    }
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
    /// What is written, synced or not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    written: Option<Written>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Written {
    /// The start of the host that it was written in, [`machine::boot_id`].
    boot: String,
    /// As [`Record::ranges`].
    ranges: Vec<[u64; 2]>,
}

impl Written {
    fn new(boot: &str, ranges: &RangeSet) -> Self {
        let mut kept = ranges.clone();
        kept.keep_first(MAX_RANGES);
        Self { boot: boot.to_owned(), ranges: kept.pairs().collect() }
    }
}

/// What a journal says of the bytes of its file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Claims {
    /// They outlast everything.
    pub(super) synced: RangeSet,
    /// These are there too, but may not be on the disk yet. Contains `synced`.
    pub(super) written: RangeSet,
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
            written: None,
        }
    }

    /// What it claims of `identity`, if it can be true; without a checksum only what is synced.
    fn claims(&self, identity: &Identity, boot: Option<&str>) -> Option<Claims> {
        let synced = RangeSet::from_pairs(&self.ranges, identity.size)?;
        let mut written = synced.clone();
        let lasting =
            self.written.as_ref().filter(|what| identity.digest.is_some() && Some(what.boot.as_str()) == boot);
        if let Some(more) = lasting.and_then(|what| RangeSet::from_pairs(&what.ranges, identity.size)) {
            more.pairs().for_each(|[start, end]| written.insert(start..end));
        }
        Some(Claims { synced, written })
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

    /// The line that fills a slot; longer than one if the record does not fit.
    fn line(&self) -> io::Result<Vec<u8>> {
        let mut text = serde_json::to_string(self)?;
        text.pop();
        let check = check(text.as_bytes());
        let mut line = format!("{text}{CHECK}{check}\"}}").into_bytes();
        line.resize(line.len().max(usize::try_from(SLOT).unwrap_or(0) - 1), b' ');
        line.push(b'\n');
        Ok(line)
    }

    /// The record of a slot, if all of it is there.
    fn parse(slot: &[u8]) -> Option<Self> {
        let line = slot.split(|byte| *byte == b'\n').next()?;
        let line = std::str::from_utf8(line).ok()?.trim_end_matches(' ');
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
    boot: Option<String>,
}

impl Journal {
    /// Reads the journal behind `lock`, or begins a new one: it claims nothing unless what is there belongs to
    /// `identity`.
    pub(super) fn open(lock: FileLock, path: &Path, identity: &Identity) -> Result<(Self, Claims)> {
        let boot = machine::boot_id();
        let (records, blank) = read(lock.file()).map_err(Error::io("read", path))?;
        let newest = records.iter().flatten().max_by_key(|record| record.sequence);
        let sequence = newest.map_or(0, |record| record.sequence);
        let slot = records.iter().position(|record| record.as_ref() == newest && newest.is_some()).unwrap_or(1);
        let kept = newest
            .filter(|record| record.version == VERSION && record.belongs_to(identity))
            .and_then(|record| Some((record.validator.clone(), record.claims(identity, boot.as_deref())?)));
        let mut journal = Self {
            path: path.to_owned(),
            record: Record::new(identity, sequence),
            slot: slot as u64,
            synced: Instant::now(),
            boot,
            lock,
        };
        if let Some((validator, claims)) = kept {
            journal.record.validator = validator;
            journal.record.ranges = claims.synced.pairs().collect();
            journal.note(&claims.written)?;
            return Ok((journal, claims));
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
        Ok((journal, Claims::default()))
    }

    /// The path of the file that the journal at `path` is about, read without its lock.
    pub(super) fn path_of(path: &Path) -> Option<String> {
        let (records, _) = read(&regular::open(path).ok()?).ok()?;
        records.into_iter().flatten().max_by_key(|record| record.sequence).map(|record| record.path)
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
        self.write(ranges, None)?;
        if self.synced.elapsed() >= SYNC_INTERVAL {
            self.sync()?;
        }
        Ok(())
    }

    /// Writes that `ranges` are written, whether they are synced or not; what is synced is what it was.
    pub(super) fn note(&mut self, ranges: &RangeSet) -> Result<()> {
        let synced = RangeSet::from_pairs(&self.record.ranges, self.record.size).unwrap_or_default();
        let written = self.boot.as_ref().filter(|_| *ranges != synced).map(|boot| Written::new(boot, ranges));
        self.write(&synced, written)
    }

    /// Takes back every claim beyond `ranges` for good, before bytes are overwritten.
    pub(super) fn reset(&mut self, ranges: &RangeSet) -> Result<()> {
        for _ in 0..2 {
            self.write(ranges, None)?;
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

    fn write(&mut self, ranges: &RangeSet, written: Option<Written>) -> Result<()> {
        let mut kept = ranges.clone();
        kept.keep_first(MAX_RANGES);
        self.record.sequence += 1;
        self.record.written = written;
        let line = loop {
            self.record.ranges = kept.pairs().collect();
            let line = self.record.line().map_err(Error::io("write", &self.path))?;
            if line.len() as u64 <= SLOT {
                break line;
            }
            if self.record.written.take().is_some() {
                continue;
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

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::prelude::*;

    use super::*;

    fn identity() -> Identity {
        Identity {
            endpoint: "http://hub.test".into(),
            repository: "acme/tiny".into(),
            commit: "c".repeat(40),
            path: "sub/m \"quoted\".gguf".into(),
            size: 1 << 40,
            digest: Digest::parse(&"ab".repeat(32)),
        }
    }

    fn open(path: &Path, identity: &Identity) -> (Journal, RangeSet) {
        let (journal, claims) = claimed(path, identity);
        (journal, claims.synced)
    }

    fn claimed(path: &Path, identity: &Identity) -> (Journal, Claims) {
        let lock = FileLock::try_exclusive(path).unwrap().unwrap();
        Journal::open(lock, path, identity).unwrap()
    }

    fn upto(end: u64) -> RangeSet {
        let mut set = RangeSet::default();
        set.insert(0..end);
        set
    }

    #[test]
    fn what_was_committed_comes_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("j");
        let (mut journal, ranges) = open(&path, &identity());
        assert!(ranges.is_empty());
        journal.set_validator(Some(Validator("v".into())));
        for end in 1..10 {
            journal.commit(&upto(end)).unwrap();
        }
        drop(journal);
        let (journal, ranges) = open(&path, &identity());
        assert_eq!(ranges, upto(9));
        assert_eq!(journal.validator(), Some(&Validator("v".into())));
        journal.remove().unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn what_is_only_written_counts_until_the_host_starts_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("j");
        let (mut journal, _) = open(&path, &identity());
        journal.commit(&upto(10)).unwrap();
        journal.note(&upto(15)).unwrap();
        journal.note(&upto(20)).unwrap();
        drop(journal);
        for _ in 0..2 {
            // Reading it is no claim that it is synced.
            let (_, claims) = claimed(&path, &identity());
            assert_eq!(claims, Claims { synced: upto(10), written: upto(20) });
        }
        let (mut journal, _) = open(&path, &identity());
        journal.boot = Some("another start of it".to_owned());
        journal.note(&upto(20)).unwrap();
        drop(journal);
        assert_eq!(claimed(&path, &identity()).1, Claims { synced: upto(10), written: upto(10) });

        let (mut journal, _) = open(&path, &identity());
        journal.note(&upto(20)).unwrap();
        journal.reset(&upto(5)).unwrap();
        drop(journal);
        assert_eq!(claimed(&path, &identity()).1, Claims { synced: upto(5), written: upto(5) });

        let unverified = Identity { digest: None, ..identity() };
        let path = folder.path().join("k");
        let (mut journal, _) = open(&path, &unverified);
        journal.set_validator(Some(Validator("v".into())));
        journal.commit(&upto(10)).unwrap();
        journal.note(&upto(20)).unwrap();
        drop(journal);
        assert_eq!(claimed(&path, &unverified).1, Claims { synced: upto(10), written: upto(10) });
    }

    #[test]
    fn it_reads_as_json_with_the_promised_fields() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("j");
        let (mut journal, _) = open(&path, &identity());
        journal.commit(&upto(5)).unwrap();
        let bytes = fs::read(&path).unwrap();
        for slot in bytes.chunks(SLOT as usize) {
            let line = slot.split(|byte| *byte == b'\n').next().unwrap();
            let record: serde_json::Value = serde_json::from_slice(line).unwrap();
            for field in ["version", "repository", "commit", "path", "size", "digest", "validator", "ranges"] {
                assert!(record.get(field).is_some(), "{field}");
            }
            assert_eq!(record["digest"], "ab".repeat(32));
        }
    }

    #[test]
    fn a_reset_leaves_no_claim_to_fall_back_to() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("j");
        let (mut journal, _) = open(&path, &identity());
        journal.commit(&upto(500)).unwrap();
        journal.commit(&upto(1000)).unwrap();
        journal.reset(&upto(10)).unwrap();
        drop(journal);
        let (records, _) = read(&File::open(&path).unwrap()).unwrap();
        for record in records {
            assert_eq!(record.unwrap().ranges, [[0, 10]]);
        }
    }

    #[test]
    fn claims_that_cannot_be_are_refused_with_all_the_rest() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("j");
        for ranges in [vec![[5, 5]], vec![[0, u64::MAX]], vec![[9, 3]], vec![[0, 9], [4, 12]]] {
            let mut record = Record::new(&identity(), 7);
            record.ranges = ranges;
            fs::write(&path, record.line().unwrap()).unwrap();
            assert!(open(&path, &identity()).1.is_empty());
        }
        let mut record = Record::new(&identity(), 7);
        (record.version, record.ranges) = (VERSION + 1, vec![[0, 9]]);
        fs::write(&path, record.line().unwrap()).unwrap();
        assert!(open(&path, &identity()).1.is_empty());
        fs::write(&path, vec![b'x'; 100_000]).unwrap();
        assert!(open(&path, &identity()).1.is_empty());
    }

    #[test]
    fn more_than_a_slot_holds_is_cut_and_never_overstated() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("j");
        let mut identity = identity();
        identity.size = u64::MAX;
        identity.path = "\"".repeat(1024);
        let mut many = RangeSet::default();
        for at in 0..1000 {
            many.insert((1 << 62) + at * 10..(1 << 62) + at * 10 + 5);
        }
        let (mut journal, _) = open(&path, &identity);
        journal.set_validator(Some(Validator("v".repeat(MAX_VALIDATOR + 1))));
        assert_eq!(journal.validator(), None);
        journal.commit(&many).unwrap();
        drop(journal);
        let (_, kept) = open(&path, &identity);
        assert!(kept.count() > 100, "{}", kept.count());
        assert!(kept.pairs().all(|[start, end]| many.run_end(start) == Some(end)));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Commit(u64),
        Reset,
        Reopen,
        /// The write of the next commit stops after so many bytes.
        Torn(u64, usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (1..1000u64).prop_map(Step::Commit),
            1 => Just(Step::Reset),
            2 => Just(Step::Reopen),
            2 => (1..1000u64, 0..600usize).prop_map(|(grow, cut)| Step::Torn(grow, cut)),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn after_any_crash_it_says_what_was_last_said_or_said_before(steps in prop::collection::vec(step(), 1..40)) {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("j");
            let (mut journal, _) = open(&path, &identity());
            let mut end = 0;
            for step in steps {
                match step {
                    Step::Commit(grow) => {
                        end += grow;
                        journal.commit(&upto(end)).unwrap();
                    }
                    Step::Reset => {
                        end = 0;
                        journal.reset(&RangeSet::default()).unwrap();
                    }
                    Step::Reopen => {
                        drop(journal);
                        let ranges;
                        (journal, ranges) = open(&path, &identity());
                        prop_assert_eq!(ranges.end(), end);
                    }
                    Step::Torn(grow, cut) => {
                        let before = fs::read(&path).unwrap();
                        journal.commit(&upto(end + grow)).unwrap();
                        let slot = (journal.slot * SLOT) as usize;
                        let mut after = fs::read(&path).unwrap();
                        let line = after[slot..].iter().position(|byte| *byte == b'\n').unwrap() + 1;
                        for at in slot + cut.min(line)..after.len().min(slot + SLOT as usize) {
                            after[at] = before.get(at).copied().unwrap_or(0);
                        }
                        drop(journal);
                        fs::write(&path, &after).unwrap();
                        let ranges;
                        (journal, ranges) = open(&path, &identity());
                        let said = if cut >= line { end + grow } else { end };
                        // A cut that spares all that differs is no tear.
                        prop_assert!(ranges.end() == said || ranges.end() == end + grow);
                        end = ranges.end();
                    }
                }
            }
        }
    }
}
