//! The file in which headers outlast the program: fixed records that are found by their key, and the texts that they point to, which are
//! parsed when they are asked for.
//!
//! One line with the version; the number of texts and of keys; the keys; the texts, each with its length before it. Numbers are little-endian.
//! Every text is the JSON of what a header told or of what is wrong with it, and stands there once however many files tell the same.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read as _;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use jiff::Timestamp;
use serde_json::Value;

use super::{Header, Key, MAX_REMEMBERED};
use crate::disk::fast_map::Fast;
use crate::format::Metadata;
use crate::model::Inode;

/// Longest file that is read.
const MAX_FILE: u64 = 128 << 20;
/// Longest text of one header.
const MAX_TEXT: usize = 1 << 20;
/// Bytes of a key with the number of its text.
const RECORD: usize = 52;
/// Stands for a time that is not known.
const NO_TIME: u32 = u32::MAX;

/// A file of another version, or of another release, which may read headers otherwise, is not used.
const VERSION: &str = concat!("llorch-models headers 4 ", env!("CARGO_PKG_VERSION"), "\n");

/// What the file had when it was read.
#[derive(Debug, Default)]
pub(super) struct Stored {
    bytes: Vec<u8>,
    keys: HashMap<Key, Place, Fast>,
    texts: Vec<Text>,
}

#[derive(Debug)]
struct Place {
    text: u32,
    /// Whether it was asked for in this run: the file may be gone if not.
    used: AtomicBool,
}

#[derive(Debug)]
struct Text {
    place: Range<usize>,
    /// `None` inside when it cannot be parsed.
    header: OnceLock<Option<Header>>,
}

impl Stored {
    /// Reads the file at `path`; empty when it is missing, damaged or of another release.
    pub(super) fn read(path: &Path) -> Self {
        let bytes = || -> Option<Vec<u8>> {
            let file = File::open(path).ok()?;
            let status = file.metadata().ok().filter(std::fs::Metadata::is_file)?;
            let mut bytes = Vec::with_capacity(usize::try_from(status.len().min(MAX_FILE)).ok()? + 1);
            file.take(MAX_FILE).read_to_end(&mut bytes).ok()?;
            Some(bytes)
        };
        bytes().and_then(|bytes| Self::parse(bytes)).unwrap_or_default()
    }

    fn parse(bytes: Vec<u8>) -> Option<Self> {
        let mut rest = Reader { bytes: &bytes, at: 0 };
        if rest.take(VERSION.len())? != VERSION.as_bytes() {
            return None;
        }
        let (texts, keys) = (rest.number()? as usize, rest.number()? as usize);
        // What is claimed has to fit into what is there.
        if texts.checked_mul(4)? > bytes.len() || keys.checked_mul(RECORD)? > bytes.len() || keys > MAX_REMEMBERED {
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
            places.push(Text { place: start..start + length, header: OnceLock::new() });
        }
        Some(Self { keys: by_key, texts: places, bytes })
    }

    /// What is known under `key`, and from now on used.
    pub(super) fn get(&self, key: &Key) -> Option<Header> {
        let place = self.keys.get(key)?;
        let text = self.texts.get(place.text as usize)?;
        let header = text.header.get_or_init(|| parse(self.bytes.get(text.place.clone())?)).clone()?;
        place.used.store(true, Ordering::Relaxed);
        Some(header)
    }

    /// Every key with its text, and whether it was used.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Key, &[u8], bool)> {
        self.keys.iter().filter_map(|(key, place)| {
            let text = self.bytes.get(self.texts.get(place.text as usize)?.place.clone())?;
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
    here: std::collections::HashSet<Key, Fast>,
}

impl Writer {
    /// Adds `key` with the text of its header, unless it is there already or there is no room left.
    pub(super) fn add(&mut self, key: &Key, text: &[u8]) {
        let Some(length) = u32::try_from(text.len()).ok().filter(|_| text.len() <= MAX_TEXT) else { return };
        if self.here.len() >= MAX_REMEMBERED || !self.here.insert(*key) {
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

    pub(super) fn finish(self) -> Vec<u8> {
        let mut bytes = VERSION.as_bytes().to_vec();
        bytes.extend_from_slice(&(self.known.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&self.count.to_le_bytes());
        bytes.extend_from_slice(&self.keys);
        bytes.extend_from_slice(&self.texts);
        bytes
    }
}

/// The text of a header; values that are not known are left out.
pub(super) fn text_of(header: &Header) -> Option<Vec<u8>> {
    let value = match header {
        Ok(metadata) => {
            let mut value = serde_json::to_value(&**metadata).ok()?;
            if let Value::Object(fields) = &mut value {
                fields.retain(|_, value| !value.is_null());
            }
            value
        }
        Err(why) => Value::String(why.to_string()),
    };
    serde_json::to_vec(&value).ok()
}

fn parse(text: &[u8]) -> Option<Header> {
    if text.first() == Some(&b'"') {
        return serde_json::from_slice::<String>(text).ok().map(|why| Err(why.into()));
    }
    serde_json::from_slice::<Metadata>(text).ok().map(|metadata| Ok(Arc::new(metadata)))
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
