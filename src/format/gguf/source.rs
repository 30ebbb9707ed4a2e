//! Bounded, buffered input: every length is compared with what is left before a byte of it is taken.

use std::io::{ErrorKind, Read, Seek, SeekFrom};

use super::Error;

/// Size of the buffer.
const BUFFER: usize = 64 * 1024;

/// Why reading stopped.
#[derive(Debug)]
pub(super) enum Halt {
    /// The allowance of bytes to read is used up.
    Allowance,
    /// What [`Error`] says.
    Error(Error),
}

impl From<Error> for Halt {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

pub(super) fn malformed(what: impl Into<String>) -> Halt {
    Halt::Error(Error::Malformed(what.into()))
}

/// A file of known length behind one buffer.
pub(super) struct Source<R> {
    inner: R,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// Offset in the file of the byte after the buffer.
    filled_to: u64,
    /// Length of the file.
    length: u64,
    /// Bytes that may still be read.
    allowance: u64,
    /// Bytes read so far.
    read: u64,
    pub(super) big_endian: bool,
    /// Version 1 writes lengths and counts in 32 bits.
    pub(super) narrow: bool,
}

impl<R: Read + Seek> Source<R> {
    /// `inner` stands at the start of a file of `length` bytes, of which at most `allowance` are read.
    pub(super) fn new(inner: R, length: u64, allowance: u64) -> Self {
        let size = usize::try_from(length).map_or(BUFFER, |length| length.min(BUFFER));
        let size = usize::try_from(allowance).map_or(size, |allowance| allowance.min(size));
        let buffer = vec![0; size];
        Self {
            inner,
            buffer,
            start: 0,
            end: 0,
            filled_to: 0,
            length,
            allowance,
            read: 0,
            big_endian: false,
            narrow: false,
        }
    }

    /// Offset in the file of the next byte.
    pub(super) fn position(&self) -> u64 {
        self.filled_to - self.buffered()
    }

    /// Bytes from here to the end of the file.
    pub(super) fn left(&self) -> u64 {
        self.length - self.position()
    }

    /// Bytes taken from the reader so far, those that were skipped not counted.
    pub(super) fn bytes_read(&self) -> u64 {
        self.read
    }

    fn buffered(&self) -> u64 {
        (self.end - self.start) as u64
    }

    /// What is buffered, after trying to have at least `want` bytes there (fewer at the end of the file).
    pub(super) fn peek(&mut self, want: usize) -> Result<&[u8], Halt> {
        let want = usize::try_from(self.left()).map_or(want, |left| left.min(want));
        self.fill(want)?;
        Ok(self.buffer.get(self.start..self.end).unwrap_or_default())
    }

    /// The file ends `missing` bytes before the end of `what`.
    fn cut(what: &str, missing: u64) -> Halt {
        Halt::Error(Error::Truncated { at: what.to_owned(), missing: Some(missing) })
    }

    /// Whether `count` bytes are left.
    pub(super) fn require(&self, count: u64, what: &str) -> Result<(), Halt> {
        match count.checked_sub(self.left()) {
            None | Some(0) => Ok(()),
            Some(missing) => Err(Self::cut(what, missing)),
        }
    }

    /// Has at least `want` bytes in the buffer, which are known to be left in the file.
    fn fill(&mut self, want: usize) -> Result<(), Halt> {
        if self.end - self.start >= want {
            return Ok(());
        }
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        while self.end < want {
            let room = (self.buffer.len() - self.end) as u64;
            let most = room.min(self.length - self.filled_to).min(self.allowance);
            if most == 0 {
                return Err(Halt::Allowance);
            }
            let most = usize::try_from(most).unwrap_or(BUFFER);
            let Some(space) = self.buffer.get_mut(self.end..self.end + most) else { return Err(Halt::Allowance) };
            let count = match self.inner.read(space) {
                // The file shrank while it was read.
                Ok(0) => return Err(Self::cut("end of file", (want - self.end) as u64)),
                Ok(count) => count.min(most),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(Error::Io(error).into()),
            };
            self.end += count;
            self.filled_to += count as u64;
            self.read += count as u64;
            self.allowance -= count as u64;
        }
        Ok(())
    }

    fn take<const N: usize>(&mut self, what: &str) -> Result<[u8; N], Halt> {
        self.require(N as u64, what)?;
        self.fill(N)?;
        let Some(bytes) = self.buffer.get(self.start..self.end).and_then(<[u8]>::first_chunk::<N>) else {
            return Err(Self::cut(what, N as u64));
        };
        let bytes = *bytes;
        self.start += N;
        Ok(if self.big_endian {
            let mut swapped = bytes;
            swapped.reverse();
            swapped
        } else {
            bytes
        })
    }

    pub(super) fn u8(&mut self, what: &str) -> Result<u8, Halt> {
        Ok(u8::from_le_bytes(self.take(what)?))
    }

    pub(super) fn u16(&mut self, what: &str) -> Result<u16, Halt> {
        Ok(u16::from_le_bytes(self.take(what)?))
    }

    pub(super) fn u32(&mut self, what: &str) -> Result<u32, Halt> {
        Ok(u32::from_le_bytes(self.take(what)?))
    }

    pub(super) fn u64(&mut self, what: &str) -> Result<u64, Halt> {
        Ok(u64::from_le_bytes(self.take(what)?))
    }

    /// A length, count or dimension, which version 1 writes in 32 bits.
    pub(super) fn wide(&mut self, what: &str) -> Result<u64, Halt> {
        if self.narrow { self.u32(what).map(u64::from) } else { self.u64(what) }
    }

    /// The first `keep` of `count` bytes; the rest is passed over.
    pub(super) fn bytes(&mut self, count: u64, keep: u64, what: &str) -> Result<Vec<u8>, Halt> {
        let mut kept = Vec::new();
        self.bytes_into(&mut kept, count, keep, what)?;
        Ok(kept)
    }

    /// The same in place of what `kept` holds.
    pub(super) fn bytes_into(&mut self, kept: &mut Vec<u8>, count: u64, keep: u64, what: &str) -> Result<(), Halt> {
        self.require(count, what)?;
        let keep = count.min(keep);
        kept.clear();
        let mut left = keep;
        while left > 0 {
            self.fill(1)?;
            let step = usize::try_from(left).map_or(self.end - self.start, |left| left.min(self.end - self.start));
            kept.extend_from_slice(self.buffer.get(self.start..self.start + step).unwrap_or_default());
            self.start += step;
            left -= step as u64;
        }
        self.skip(count - keep, what)
    }

    /// Passes over `count` bytes without reading those that are not buffered yet.
    pub(super) fn skip(&mut self, count: u64, what: &str) -> Result<(), Halt> {
        self.require(count, what)?;
        if count <= self.buffered() {
            self.start += usize::try_from(count).unwrap_or(0);
            return Ok(());
        }
        let target = self.position() + count;
        self.inner.seek(SeekFrom::Start(target)).map_err(Error::Io)?;
        self.filled_to = target;
        (self.start, self.end) = (0, 0);
        Ok(())
    }

    /// Passes over `count` strings, each of at most `limit` bytes.
    pub(super) fn skip_strings(&mut self, count: u64, limit: u64, what: &str) -> Result<(), Halt> {
        let mut left = count;
        if !self.narrow {
            left = self.skip_buffered_strings(left);
        }
        while left > 0 {
            let length = self.wide(what)?;
            if length > limit {
                return Err(malformed(format!("{what} of {length} bytes")));
            }
            self.skip(length, what)?;
            left -= 1;
            if !self.narrow {
                left = self.skip_buffered_strings(left);
            }
        }
        Ok(())
    }

    /// Passes over those of `count` strings that lie wholly in the buffer and gives how many are left. Vocabularies have
    /// hundreds of thousands of strings, so this loop is the whole cost of reading a header.
    fn skip_buffered_strings(&mut self, count: u64) -> u64 {
        let mut rest = self.buffer.get(self.start..self.end).unwrap_or_default();
        let mut left = count;
        while left > 0 {
            let Some((length, tail)) = rest.split_first_chunk::<8>() else { break };
            let length = if self.big_endian { u64::from_be_bytes(*length) } else { u64::from_le_bytes(*length) };
            let Some(tail) = usize::try_from(length).ok().and_then(|length| tail.get(length..)) else { break };
            rest = tail;
            left -= 1;
        }
        self.start = self.end - rest.len();
        left
    }
}
