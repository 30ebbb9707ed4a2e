//! A file that remembers what was found out about a file or a folder while it stays the same: fixed records that are found by their key,
//! and the texts that they point to, of which only those are looked at that are asked for.
//!
//! One line with the version; a checksum of what follows; the number of texts and of keys; the keys; the texts, each with its length before it. Numbers are little-endian.
//! A text stands there once however many keys have it.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::{Hash, Hasher};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use jiff::Timestamp;

use crate::disk::fast_map::{Fast, FastMap, InodeHasher};
use crate::disk::folder::Status;
use crate::disk::regular;
use crate::model::Inode;

/// Most keys of one file.
pub(super) const MAX_KEYS: usize = 65_536;
/// Longest file that is read.
const MAX_FILE: u64 = 128 << 20;
/// Longest text: that of an index of very many files.
const MAX_TEXT: usize = 4 << 20;
/// The bits of a length that tell keys of one file apart: see [`Key::tagged`].
const TAGS: u64 = 0xff << 56;
/// Bytes of a key with the number of its text.
const RECORD: usize = 52;
/// Stands for a time that is not known.
const NO_TIME: u32 = u32::MAX;

/// Which content a text belongs to. The time of the last change cannot be set back by anybody, unlike that of the last modification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key {
    inode: Inode,
    size_bytes: u64,
    modified: Option<Timestamp>,
    pub(super) changed: Option<Timestamp>,
}

impl Key {
    pub(super) fn of(status: &Status) -> Self {
        Self { inode: status.inode, size_bytes: status.size_bytes, modified: status.modified, changed: status.changed }
    }
}

impl Key {
    /// A key of its own for each `tag` other than 0: no file is so long that its length needs these bits.
    pub(super) fn tagged(mut self, tag: u8) -> Self {
        self.size_bytes |= u64::from(tag) << 56;
        self
    }

    /// A key of its own for what is known of it together with another content, which calls it `name`.
    pub(super) fn together_with(mut self, other: &Self, name: &str) -> Self {
        let mut hasher = InodeHasher::default();
        for number in [self.size_bytes, other.size_bytes, other.inode.device, other.inode.inode] {
            hasher.write_u64(number);
        }
        for (seconds, nanoseconds) in [other.modified, other.changed].map(split) {
            hasher.write_u64(seconds.cast_unsigned());
            hasher.write_u64(nanoseconds.into());
        }
        hasher.write(name.as_bytes());
        self.size_bytes = self.size_bytes & TAGS | hasher.finish() & !TAGS;
        self
    }
}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.inode.hash(state);
    }
}

/// What the file had when it was read.
#[derive(Debug, Default)]
pub(super) struct Stored {
    bytes: Vec<u8>,
    keys: FastMap<Key, Place>,
    texts: Vec<Range<usize>>,
}

#[derive(Debug)]
struct Place {
    text: u32,
    /// Whether it was asked for in this run: the file may be gone if not.
    used: AtomicBool,
}

impl Stored {
    /// Reads the file at `path`; empty when it is missing, damaged, of another `version`, which is its first line, or when
    /// another user may have written it.
    pub(super) fn read(path: &Path, version: &str) -> Self {
        let bytes = regular::read_own(path, MAX_FILE).ok().flatten();
        bytes.and_then(|bytes| Self::parse(bytes, version)).unwrap_or_default()
    }

    fn parse(bytes: Vec<u8>, version: &str) -> Option<Self> {
        let mut rest = Reader { bytes: &bytes, at: 0 };
        if rest.take(version.len())? != version.as_bytes() {
            return None;
        }
        let sum = rest.long()?;
        if sum != checksum(bytes.get(rest.at..)?) {
            return None;
        }
        let (texts, keys) = (rest.number()? as usize, rest.number()? as usize);
        // What is claimed has to fit into what is there.
        if texts.checked_mul(4)? > bytes.len() || keys.checked_mul(RECORD)? > bytes.len() || keys > MAX_KEYS {
            return None;
        }
        let mut by_key = HashMap::with_capacity_and_hasher(keys, Fast::default());
        for _ in 0..keys {
            let (key, text) = rest.key()?;
            if text as usize >= texts {
                return None;
            }
            by_key.insert(key, Place { text, used: AtomicBool::new(false) });
        }
        let mut places = Vec::with_capacity(texts);
        for _ in 0..texts {
            let length = rest.number()? as usize;
            let start = rest.at;
            rest.take(length)?;
            places.push(start..start + length);
        }
        Some(Self { keys: by_key, texts: places, bytes })
    }

    /// The number of the text of `key`, which from now on counts as used.
    pub(super) fn find(&self, key: &Key) -> Option<usize> {
        let place = self.keys.get(key)?;
        place.used.store(true, Ordering::Relaxed);
        Some(place.text as usize)
    }

    /// The text of that number.
    pub(super) fn text(&self, number: usize) -> Option<&[u8]> {
        self.bytes.get(self.texts.get(number)?.clone())
    }

    /// How many texts there are.
    pub(super) fn texts(&self) -> usize {
        self.texts.len()
    }

    /// Every key with its text, and whether it was used.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Key, &[u8], bool)> {
        self.keys.iter().filter_map(|(key, place)| {
            let text = self.text(place.text as usize)?;
            Some((key, text, place.used.load(Ordering::Relaxed)))
        })
    }
}

/// The bytes of the file, which are never more than are read again: where there is no room, the longest texts are left out, so
/// that no few of them push out many others.
#[derive(Debug)]
pub(super) struct Writer {
    /// Each key with the number of its text.
    keys: Vec<(Key, u32)>,
    here: HashSet<Key, Fast>,
    /// `None` of a text that was left out.
    texts: Vec<Option<Arc<[u8]>>>,
    known: HashMap<Arc<[u8]>, u32>,
    /// Lengths of the texts with their numbers.
    lengths: BTreeSet<(usize, u32)>,
    /// Bytes of all of it.
    bytes: usize,
    most: usize,
}

impl Default for Writer {
    fn default() -> Self {
        // What comes before the keys is not longer.
        Self::of(MAX_FILE as usize - 256)
    }
}

impl Writer {
    /// A writer of at most so many bytes of keys and texts.
    fn of(most: usize) -> Self {
        Self {
            keys: Vec::new(),
            here: HashSet::default(),
            texts: Vec::new(),
            known: HashMap::new(),
            lengths: BTreeSet::new(),
            bytes: 0,
            most,
        }
    }

    /// Adds `key` with its text, unless it is there already or there is no room left.
    pub(super) fn add(&mut self, key: &Key, text: &[u8]) {
        if text.len() > MAX_TEXT || self.here.len() >= MAX_KEYS || !self.here.insert(*key) {
            return;
        }
        let number = match self.known.get(text) {
            Some(number) => *number,
            None => {
                let (number, text) = (self.texts.len() as u32, Arc::<[u8]>::from(text));
                self.bytes += 4 + text.len();
                self.lengths.insert((text.len(), number));
                self.known.insert(Arc::clone(&text), number);
                self.texts.push(Some(text));
                number
            }
        };
        self.keys.push((*key, number));
        self.bytes += RECORD;
        while self.bytes > self.most {
            let Some((length, number)) = self.lengths.pop_last() else { break };
            self.bytes -= 4 + length;
            if let Some(text) = self.texts.get_mut(number as usize).and_then(Option::take) {
                self.known.remove(&text);
            }
        }
    }

    /// The content of a file of that version.
    pub(super) fn finish(self, version: &str) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(version.len() + 16 + self.bytes);
        bytes.extend_from_slice(version.as_bytes());
        bytes.extend_from_slice(&[0; 8]);
        // The texts that are left are counted anew.
        let mut count = 0;
        let numbers: Vec<Option<u32>> = self
            .texts
            .iter()
            .map(|text| {
                let number = text.is_some().then_some(count);
                count += u32::from(text.is_some());
                number
            })
            .collect();
        let keys: Vec<(&Key, u32)> =
            self.keys.iter().filter_map(|(key, number)| Some((key, (*numbers.get(*number as usize)?)?))).collect();
        bytes.extend_from_slice(&count.to_le_bytes());
        bytes.extend_from_slice(&(keys.len() as u32).to_le_bytes());
        for (key, number) in keys {
            for part in [key.inode.device, key.inode.inode, key.size_bytes] {
                bytes.extend_from_slice(&part.to_le_bytes());
            }
            let times = [key.modified, key.changed].map(split);
            times.iter().for_each(|(seconds, _)| bytes.extend_from_slice(&seconds.to_le_bytes()));
            times.iter().for_each(|(_, nanoseconds)| bytes.extend_from_slice(&nanoseconds.to_le_bytes()));
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        for text in self.texts.iter().flatten() {
            bytes.extend_from_slice(&(text.len() as u32).to_le_bytes());
            bytes.extend_from_slice(text);
        }
        seal(&mut bytes, version);
        bytes
    }
}

/// Puts the checksum of what follows it behind the first line.
pub(super) fn seal(bytes: &mut [u8], version: &str) {
    if let Some((sum, rest)) = bytes.get_mut(version.len()..).and_then(|rest| rest.split_first_chunk_mut::<8>()) {
        *sum = checksum(rest).to_le_bytes();
    }
}

/// Tells damage, as of a disk or of a write that was cut short; it is no protection against anybody.
fn checksum(bytes: &[u8]) -> u64 {
    const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
    let (words, rest) = bytes.as_chunks::<8>();
    let add = |sum: u64, word: u64| (sum ^ word).wrapping_mul(ODD).rotate_left(29);
    let sum = words.iter().fold(bytes.len() as u64, |sum, word| add(sum, u64::from_le_bytes(*word)));
    rest.iter().fold(sum, |sum, byte| add(sum, u64::from(*byte)))
}

fn split(time: Option<Timestamp>) -> (i64, u32) {
    // jiff counts the part of a second towards zero; a day before 1970 has a negative one.
    time.map_or((0, NO_TIME), |time| {
        let nanoseconds = time.as_nanosecond();
        let second = nanoseconds.div_euclid(1_000_000_000);
        (second as i64, nanoseconds.rem_euclid(1_000_000_000) as u32)
    })
}

fn join(seconds: i64, nanoseconds: u32) -> Option<Option<Timestamp>> {
    match nanoseconds {
        NO_TIME => Some(None),
        _ => Timestamp::new(seconds, i32::try_from(nanoseconds).ok()?).ok().map(Some),
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let part = self.bytes.get(self.at..self.at.checked_add(length)?)?;
        self.at += length;
        Some(part)
    }

    fn number(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }

    fn long(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }

    fn key(&mut self) -> Option<(Key, u32)> {
        let inode = Inode { device: self.long()?, inode: self.long()? };
        let size_bytes = self.long()?;
        let seconds = [self.long()?.cast_signed(), self.long()?.cast_signed()];
        let modified = join(seconds[0], self.number()?)?;
        let changed = join(seconds[1], self.number()?)?;
        Some((Key { inode, size_bytes, modified, changed }, self.number()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VERSION: &str = "test 1\n";

    fn key(inode: u64) -> Key {
        Key { inode: Inode { device: 1, inode }, size_bytes: 1, modified: None, changed: None }
    }

    fn read(writer: Writer) -> Vec<(u64, usize)> {
        let stored = Stored::parse(writer.finish(VERSION), VERSION).unwrap();
        let mut found: Vec<_> = stored.iter().map(|(key, text, _)| (key.inode.inode, text.len())).collect();
        found.sort_unstable();
        found
    }

    #[test]
    fn what_is_written_is_never_more_than_is_read() {
        let mut writer = Writer::of(10_000);
        // What is new comes first, and what others wrote last: the longest go, whoever wrote them.
        for inode in 0..50 {
            writer.add(&key(inode), &vec![inode as u8; 2_000]);
            assert!(writer.bytes <= 10_000, "{}", writer.bytes);
        }
        for inode in 50..100 {
            writer.add(&key(inode), &[inode as u8; 20]);
        }
        // The same text again takes no room but that of its key.
        writer.add(&key(100), &[60; 20]);
        writer.add(&key(101), &[0; 2_000]);
        let found = read(writer);
        let small: Vec<_> = found.iter().filter(|(_, length)| *length == 20).map(|(inode, _)| *inode).collect();
        assert_eq!(small, (50..=100).collect::<Vec<_>>());
        assert!(found.len() < 56, "{found:?}");
        // Without room for the long ones everything else stays as it is.
        let default = Writer::default();
        assert!(default.most + VERSION.len() + 16 < MAX_FILE as usize);
    }
}
