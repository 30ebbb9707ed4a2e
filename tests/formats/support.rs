//! Files made byte by byte.

use std::fs::File;
use std::io::{Cursor, Write};
use std::time::{Duration, Instant};

use rbee_hive::format::gguf::{Depth, Error, Header, Writer};
use rbee_hive::format::{Metadata, read_metadata};

/// Fails when `work`, begun at `started`, took longer than `limit` and does so again and again: once may be a machine that
/// stood still.
pub fn in_time(limit: Duration, started: Instant, work: impl Fn(), what: impl Fn() -> String) {
    let mut took = vec![started.elapsed()];
    while took.last().is_some_and(|last| *last >= limit) {
        assert!(took.len() < 5, "takes {took:?}: {}", what());
        let again = Instant::now();
        work();
        took.push(again.elapsed());
    }
}

/// A header packed by hand, for what no writer would write.
#[derive(Clone, Default)]
pub struct Pack(pub Vec<u8>);

impl Pack {
    /// Magic, version and counts.
    pub fn new(version: u32, tensors: u64, keys: u64) -> Self {
        Self::default().raw(b"GGUF").u32(version).u64(tensors).u64(keys)
    }

    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    pub fn u32(self, number: u32) -> Self {
        self.raw(&number.to_le_bytes())
    }

    pub fn u64(self, number: u64) -> Self {
        self.raw(&number.to_le_bytes())
    }

    pub fn string(self, text: &[u8]) -> Self {
        self.u64(text.len() as u64).raw(text)
    }

    /// A key and the type of its value.
    pub fn key(self, name: &str, kind: u32) -> Self {
        self.string(name.as_bytes()).u32(kind)
    }

    pub fn text(self, name: &str, value: &str) -> Self {
        self.key(name, 8).string(value.as_bytes())
    }

    pub fn tensor(self, name: &str, dimensions: &[u64], kind: u32, offset: u64) -> Self {
        let mut pack = self.string(name.as_bytes()).u32(u32::try_from(dimensions.len()).unwrap());
        for dimension in dimensions {
            pack = pack.u64(*dimension);
        }
        pack.u32(kind).u64(offset)
    }

    pub fn zeros(mut self, count: usize) -> Self {
        self.0.resize(self.0.len() + count, 0);
        self
    }
}

pub fn header(bytes: &[u8], depth: Depth) -> Result<Header, Error> {
    Header::read(Cursor::new(bytes), bytes.len() as u64, depth)
}

/// A file in no folder that holds `bytes`.
pub fn file(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file
}

pub fn metadata(bytes: &[u8]) -> Result<Metadata, String> {
    read_metadata(&file(bytes), "model.gguf")
}

pub fn written(writer: &Writer) -> Vec<u8> {
    let mut bytes = Vec::new();
    assert_eq!(writer.write_to(&mut bytes, 7).unwrap(), bytes.len() as u64);
    assert_eq!(writer.length().unwrap(), bytes.len() as u64);
    bytes
}
