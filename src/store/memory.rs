//! A file that remembers what was found out about a file or a folder while it stays the same: fixed records that are found by their key,
//! and the texts that they point to, of which only those are looked at that are asked for.
//!
//! One line with the version; a checksum of what follows; the number of texts and of keys; the keys; the texts, each with its length before it. Numbers are little-endian.
//! A text stands there once however many keys have it.

use std::collections::{HashMap, HashSet};
use std::hash::{Hash, Hasher};
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use jiff::Timestamp;

use crate::disk::fast_map::{Fast, FastMap};
use crate::disk::folder::Status;
use crate::disk::regular;
use crate::model::Inode;

/// Most keys of one file.
pub(super) const MAX_KEYS: usize = 65_536;
/// Longest file that is read.
const MAX_FILE: u64 = 128 << 20;
/// Longest text.
const MAX_TEXT: usize = 1 << 20;
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

/// The bytes of the file.
#[derive(Debug, Default)]
pub(super) struct Writer {
    keys: Vec<u8>,
    texts: Vec<u8>,
    count: u32,
    known: HashMap<Vec<u8>, u32>,
    here: HashSet<Key, Fast>,
}

impl Writer {
    /// Adds `key` with its text, unless it is there already or there is no room left.
    pub(super) fn add(&mut self, key: &Key, text: &[u8]) {
        let Some(length) = u32::try_from(text.len()).ok().filter(|_| text.len() <= MAX_TEXT) else { return };
        if self.here.len() >= MAX_KEYS || !self.here.insert(*key) {
            return;
        }
        let number = match self.known.get(text) {
            Some(number) => *number,
            None => {
                let number = self.known.len() as u32;
                self.texts.extend_from_slice(&length.to_le_bytes());
                self.texts.extend_from_slice(text);
                self.known.insert(text.to_vec(), number);
                number
            }
        };
        for part in [key.inode.device, key.inode.inode, key.size_bytes] {
            self.keys.extend_from_slice(&part.to_le_bytes());
        }
        let times = [key.modified, key.changed].map(split);
        times.iter().for_each(|(seconds, _)| self.keys.extend_from_slice(&seconds.to_le_bytes()));
        times.iter().for_each(|(_, nanoseconds)| self.keys.extend_from_slice(&nanoseconds.to_le_bytes()));
        self.keys.extend_from_slice(&number.to_le_bytes());
        self.count += 1;
    }

    /// The content of a file of that version.
    pub(super) fn finish(self, version: &str) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(version.len() + 16 + self.keys.len() + self.texts.len());
        bytes.extend_from_slice(version.as_bytes());
        bytes.extend_from_slice(&[0; 8]);
        bytes.extend_from_slice(&(self.known.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&self.count.to_le_bytes());
        bytes.extend_from_slice(&self.keys);
        bytes.extend_from_slice(&self.texts);
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
