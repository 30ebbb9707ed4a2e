//! The beginning of a file that another program fetched, taken over.

use std::fs::File;
use std::io::{self, Read};

use super::journal::Identity;
use super::partial::{Partial, write_error};
use super::ranges::RangeSet;
use super::{Request, Staging};
use crate::disk::lock::FileLock;
use crate::error::{Error, Result};
use crate::model::RemoteFile;

/// Copies the first `length` bytes of `from` into the empty partial of `file`, so that the transfer goes on behind them;
/// blocks are shared where the file system can. Whether it was done: not without a checksum that decides in the end, not
/// where something is there already, and not while somebody works on it.
///
/// `from` is only read. Blocks on the disk.
///
/// # Errors
/// [`Error::Io`], [`Error::NoSpace`]; nothing is taken over then.
pub fn adopt(request: &Request, file: &RemoteFile, staging: &Staging, from: &File, length: u64) -> Result<bool> {
    if file.digest.is_none() || length == 0 || length >= file.size {
        return Ok(false);
    }
    let Some(lock) = FileLock::try_exclusive(&staging.journal)? else { return Ok(false) };
    let mut partial = Partial::open(staging, lock, &Identity::of(request, file))?;
    if !partial.ranges().is_empty() {
        return Ok(false);
    }
    let mut to: &File = partial.file();
    let copied = io::copy(&mut from.take(length), &mut to)
        .map_err(|error| write_error("write", &staging.partial, file.size, error))?;
    if copied != length {
        let reason = io::Error::new(io::ErrorKind::UnexpectedEof, "it became shorter while it was copied");
        return Err(Error::io("read", &staging.partial)(reason));
    }
    let mut ranges = RangeSet::default();
    ranges.insert(0..length);
    partial.sync(ranges)?;
    partial.sync_journal()?;
    Ok(true)
}
