//! The page cache: what was in it before a file was read stays, what the reading brought in goes again.
//!
//! Reading half a terabyte would otherwise take the place of the models that servers on this host work with. A read with
//! `RWF_NOWAIT` answers only from the cache, so a byte of it tells what is there. Asking brings the page in, so no page is
//! asked for twice. The kernel's own read-ahead would be there, too, so it is turned off, and the next megabytes are asked
//! for here, after it is known which of them were there. Where the file system does not answer that question (most network
//! file systems), the kernel reads ahead and nothing is dropped.

use std::collections::VecDeque;
use std::fs::File;

/// Files below this length disturb nobody.
const SMALLEST: u64 = 8 << 20;

/// What is asked for, kept or dropped together.
const GRANULE: u64 = 1 << 20;

/// The longest part of a file that one question may bring in, on file systems whose blocks are larger than a page.
const LARGEST_PAGE: u64 = 64 << 10;

/// How much is on its way before it is read.
const AHEAD: u64 = 4 << 20;

/// Bytes that are dropped with one call.
const BATCH: u64 = 8 << 20;

/// Reads ahead in a file and knows what was there before.
pub(super) struct Cache<'a> {
    file: &'a File,
    size: u64,
    /// Whether this is done here and not by the kernel.
    active: bool,
    /// Whether each granule between what has been read and what was asked for was in the cache before.
    asked: VecDeque<bool>,
    /// Where the first of them begins.
    read: u64,
    /// The bytes to be dropped next.
    pending: Option<(u64, u64)>,
}

impl<'a> Cache<'a> {
    /// Prepares an open file of `size` bytes for being read from its beginning to its end.
    pub(super) fn new(file: &'a File, size: u64) -> Self {
        let active = size >= SMALLEST;
        // Only hints: a file system that does not take them reads as well.
        advise(file, 0, 0, if active { Hint::Random } else { Hint::Sequential });
        Self { file, size, active, asked: VecDeque::new(), read: 0, pending: None }
    }

    /// What begins at `at` is read next.
    pub(super) fn reads(&mut self, at: u64) {
        if !self.active {
            return;
        }
        loop {
            let next = self.read + self.asked.len() as u64 * GRANULE;
            if next >= self.size || next >= at + AHEAD {
                return;
            }
            let Some(there) = self.there(next) else {
                self.active = false;
                advise(self.file, 0, 0, Hint::Sequential);
                return;
            };
            if there != There::All {
                advise(self.file, next, GRANULE, Hint::Need);
            }
            self.asked.push_back(there != There::None);
        }
    }

    /// How much of the granule at `from` is in the cache; `None` where that cannot be told.
    fn there(&self, from: u64) -> Option<There> {
        let last = (from + GRANULE).min(self.size) - 1;
        let middle = from + (last - from) / 2;
        let far = last - middle >= LARGEST_PAGE;
        let mut pages = 0;
        let mut present = 0;
        for at in std::iter::once(from).chain([middle, last].into_iter().filter(|_| far)) {
            pages += 1;
            present += i32::from(probe(self.file, at)?);
        }
        Some(match present {
            0 => There::None,
            _ if present == pages => There::All,
            _ => There::Some,
        })
    }

    /// Everything before `end` was read.
    pub(super) fn has_read(&mut self, end: u64) {
        while self.read + GRANULE <= end && !self.asked.is_empty() {
            self.pass();
        }
    }

    /// The next granule is done with.
    fn pass(&mut self) {
        let from = self.read;
        self.read += GRANULE;
        if self.asked.pop_front().unwrap_or(true) {
            return self.drop_pending();
        }
        let start = self.pending.map_or(from, |(start, _)| start);
        self.pending = Some((start, self.read));
        if self.read - start >= BATCH {
            self.drop_pending();
        }
    }

    fn drop_pending(&mut self) {
        if let Some((start, end)) = self.pending.take() {
            // Pages that are mapped, written to or used elsewhere stay whatever is said here.
            advise(self.file, start, end - start, Hint::Drop);
        }
    }
}

impl Drop for Cache<'_> {
    fn drop(&mut self) {
        // What was asked for and, after a cancellation or at the end of the file, not passed yet.
        while !self.asked.is_empty() {
            self.pass();
        }
        self.drop_pending();
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum There {
    None,
    Some,
    All,
}

#[derive(Clone, Copy)]
enum Hint {
    Sequential,
    Random,
    Need,
    Drop,
}

/// Whether the byte at `at` is in the cache; `None` where that cannot be told.
#[cfg(all(target_os = "linux", not(target_os = "android")))]
fn probe(file: &File, at: u64) -> Option<bool> {
    use std::io::IoSliceMut;

    use rustix::io::{Errno, ReadWriteFlags, preadv2};

    let mut byte = [0];
    match preadv2(file, &mut [IoSliceMut::new(&mut byte)], at, ReadWriteFlags::NOWAIT) {
        Ok(_) => Some(true),
        Err(Errno::AGAIN) => Some(false),
        Err(_) => None,
    }
}

#[cfg(not(all(target_os = "linux", not(target_os = "android"))))]
fn probe(_file: &File, _at: u64) -> Option<bool> {
    None
}

#[cfg(target_os = "linux")]
fn advise(file: &File, start: u64, length: u64, hint: Hint) {
    use rustix::fs::Advice;
    let advice = match hint {
        Hint::Sequential => Advice::Sequential,
        Hint::Random => Advice::Random,
        Hint::Need => Advice::WillNeed,
        Hint::Drop => Advice::DontNeed,
    };
    // No more than a hint.
    let _ = rustix::fs::fadvise(file, start, std::num::NonZeroU64::new(length), advice);
}

#[cfg(not(target_os = "linux"))]
fn advise(_file: &File, _start: u64, _length: u64, _hint: Hint) {}

#[cfg(target_os = "linux")]
#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;
    use std::path::Path;

    use super::*;

    const GRANULES: u64 = 17;

    /// The granules that are in the cache, as a handle of its own sees it: asking for a page brings it in.
    fn there(file: &File) -> Vec<u64> {
        advise(file, 0, 0, Hint::Random);
        (0..GRANULES).filter(|at| probe(file, at * GRANULE + 7 * 4096) != Some(false)).collect()
    }

    /// A file of which nothing is in the cache, as far as the kernel does as it is told.
    fn uncached(folder: &Path, size: u64) -> File {
        let path = folder.join(size.to_string());
        std::fs::write(&path, vec![1; usize::try_from(size).unwrap()]).unwrap();
        let file = File::open(&path).unwrap();
        file.sync_all().unwrap();
        advise(&file, 0, 0, Hint::Drop);
        file
    }

    /// The granules that are in the cache when one of `file` was read while somebody worked with two parts of it.
    fn left_after_reading(folder: &Path, size: u64) -> Vec<u64> {
        let file = uncached(folder, size);
        let mut part = vec![0; usize::try_from(2 * GRANULE).unwrap()];
        let somebody = File::open(folder.join(size.to_string())).unwrap();
        advise(&somebody, 0, 0, Hint::Random);
        somebody.read_exact_at(&mut part, 4 * GRANULE).unwrap();
        let mut cache = Cache::new(&file, size);
        let mut at = 0;
        while at < size {
            cache.reads(at);
            at += file.read_at(&mut part[..100_000], at).unwrap() as u64;
            cache.has_read(at);
        }
        drop(cache);
        there(&somebody)
    }

    #[test]
    fn what_was_cached_stays_and_the_rest_goes() {
        // The temporary folder may be in memory, where nothing ever leaves the cache.
        let scratch = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let size = (GRANULES - 1) * GRANULE + 50_000;
        if !there(&uncached(scratch.path(), size - 1)).is_empty() {
            // This file system keeps everything, or does not tell.
            return;
        }
        // A kernel that is short of memory takes pages away, and it leaves those that something else looks at in that
        // moment; neither happens each time.
        let mut rounds = (0..20).map(|round| left_after_reading(scratch.path(), size + round));
        assert!(rounds.any(|left| left == [4, 5]), "somebody's pages go, or the others stay, each time");
    }
}
