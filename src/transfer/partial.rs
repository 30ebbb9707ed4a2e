//! A file that is being put together, with its journal.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::OFlags;
use tokio_util::sync::CancellationToken;

use super::Staging;
use super::hash::Hasher;
use super::journal::{Claims, Identity, Journal};
use super::ranges::RangeSet;
use super::watch::Watch;
use crate::disk;
use crate::disk::lock::FileLock;
use crate::disk::publish::remove_if_there;
use crate::error::{Error, Result};
use crate::model::{Digest, Validator};

/// An open partial file; its lock is held. Its methods block on the disk.
#[derive(Debug)]
pub(super) struct Partial {
    file: Arc<File>,
    path: PathBuf,
    journal: Journal,
    ranges: RangeSet,
    /// What of it a killed process had written and not synced: if the host went down after all, other bytes lie there.
    doubtful: RangeSet,
    size: u64,
    watch: Arc<Watch>,
}

impl Partial {
    /// Opens what a former run left for `identity`, or begins anew, and claims room on the disk where that is cheap.
    /// When that fails and nothing was there, nothing stays.
    pub(super) fn open(staging: &Staging, lock: FileLock, identity: &Identity) -> Result<Self> {
        let (mut journal, Claims { synced: mut ranges, written }) = Journal::open(lock, &staging.journal, identity)?;
        let synced = ranges.clone();
        match prepare(&staging.partial, &mut journal, &mut ranges, written, identity.size) {
            Ok(file) => Ok(Self {
                file: Arc::new(file),
                path: staging.partial.clone(),
                journal,
                doubtful: ranges.without(&synced),
                ranges,
                size: identity.size,
                watch: Arc::default(),
            }),
            Err(error) => {
                if ranges.is_empty() {
                    remove_if_there(&staging.partial)?;
                    journal.remove()?;
                }
                Err(error)
            }
        }
    }

    /// The file, for reading and writing.
    pub(super) fn file(&self) -> &Arc<File> {
        &self.file
    }

    /// Tells whether others write to it while it is filled.
    pub(super) fn watch(&self) -> &Arc<Watch> {
        &self.watch
    }

    /// The digest of what lies on the disk now; `None` once `cancel` says so. What others wrote before is in it.
    pub(super) fn hash(&self, mut hasher: Hasher, cancel: &CancellationToken) -> Result<Option<Digest>> {
        self.watch.begin(&self.file);
        let mut buffer = vec![0; 256 * 1024];
        let mut at = 0;
        while at < self.size {
            if cancel.is_cancelled() {
                return Ok(None);
            }
            let wanted = usize::try_from(self.size - at).map_or(buffer.len(), |left| left.min(buffer.len()));
            let read = self.file.read_at(&mut buffer[..wanted], at).map_err(Error::io("read", &self.path))?;
            if read == 0 {
                break;
            }
            hasher.update(&buffer[..read]);
            at += read as u64;
        }
        Ok(Some(hasher.finish()))
    }

    /// Where it lies.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// What is on disk.
    pub(super) fn ranges(&self) -> &RangeSet {
        &self.ranges
    }

    /// Length of the whole file.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// What tells whether the remote bytes are still the same.
    pub(super) fn validator(&self) -> Option<&Validator> {
        self.journal.validator()
    }

    /// Goes into the journal with the next ranges.
    pub(super) fn set_validator(&mut self, validator: Option<Validator>) {
        self.journal.set_validator(validator);
    }

    /// Syncs the bytes that were written before this call, then notes `ranges`, which must lie within them.
    pub(super) fn sync(&mut self, ranges: RangeSet) -> Result<()> {
        self.file.sync_data().map_err(|error| write_error("sync", &self.path, self.size, error))?;
        self.journal.commit(&ranges)?;
        self.ranges = ranges;
        Ok(())
    }

    /// Notes `ranges` that are written and may not be synced.
    pub(super) fn note(&mut self, ranges: &RangeSet) -> Result<()> {
        self.journal.note(ranges)
    }

    /// Makes the journal outlast a power failure.
    pub(super) fn sync_journal(&mut self) -> Result<()> {
        self.journal.sync()
    }

    /// Forgets the bytes that a crash may have damaged, if there are any; gives whether there were.
    pub(super) fn forget_doubtful(&mut self) -> Result<bool> {
        let doubtful = std::mem::take(&mut self.doubtful);
        if doubtful.is_empty() {
            return Ok(false);
        }
        self.ranges = self.ranges.without(&doubtful);
        self.journal.reset(&self.ranges)?;
        Ok(true)
    }

    /// Forgets what another program has written to while it was being put together, where no checksum would find that: the
    /// next run would believe it.
    pub(super) fn forget_touched(&mut self, digest: Option<Digest>) -> Result<()> {
        if digest.is_some() || self.watch.is_untouched(&self.file) {
            return Ok(());
        }
        self.reset()
    }

    /// Forgets all bytes, the journal first.
    pub(super) fn reset(&mut self) -> Result<()> {
        self.journal.set_validator(None);
        self.doubtful = RangeSet::default();
        self.ranges = RangeSet::default();
        self.journal.reset(&self.ranges)?;
        cut(&self.file, &self.path, 0)?;
        preallocate(&self.file, &self.path, &self.ranges, self.size)
    }

    /// Removes the partial, then the journal, and lets go of the lock.
    pub(super) fn remove(self) -> Result<()> {
        remove_if_there(&self.path)?;
        self.journal.remove()
    }

    /// Whether the staging name still means the file that was written, nobody else wrote to it, and it
    /// has the length of the whole.
    pub(super) fn is_in_place(&self) -> bool {
        if !self.watch.is_untouched(&self.file) || !self.file.metadata().is_ok_and(|found| found.len() == self.size) {
            return false;
        }
        let inode = |found: std::fs::Metadata| (found.dev(), found.ino());
        let ours = self.file.metadata().map(inode).ok();
        let named = std::fs::symlink_metadata(&self.path).map(inode).ok();
        ours.is_some() && ours == named
    }

    /// After the partial was published: removes the journal and lets go of the lock.
    pub(super) fn published(self) {
        let path = self.journal.path().to_owned();
        if let Err(error) = self.journal.remove() {
            tracing::warn!("{} stays behind: {error}", path.display());
        }
    }
}

/// Opens the file and makes it fit to what the journal says.
fn prepare(
    path: &Path,
    journal: &mut Journal,
    ranges: &mut RangeSet,
    mut written: RangeSet,
    size: u64,
) -> Result<File> {
    let mut file = open(path)?;
    let mut found = file.metadata().map_err(Error::io("read", path))?;
    if found.is_file() && found.nlink() > 1 {
        // What has another name is somebody's: a byte written here would be written there.
        (*ranges, written) = (RangeSet::default(), RangeSet::default());
        journal.reset(ranges)?;
        remove_if_there(path)?;
        file = open(path)?;
        found = file.metadata().map_err(Error::io("read", path))?;
    }
    if !found.is_file() {
        let reason = io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file");
        return Err(Error::io("write", path)(reason));
    }
    // Bytes beyond the end would be published with the rest, and no checksum covers them.
    if found.len() > size {
        cut(&file, path, size)?;
    }
    // Someone may have removed or cut the partial while its journal stayed.
    if found.len() < ranges.end() {
        ranges.clip(found.len());
        journal.reset(ranges)?;
    }
    written.clip(found.len());
    // What a killed process had only written becomes as good as the rest.
    if written != *ranges && written.covered() > ranges.covered() && file.sync_data().is_ok() {
        *ranges = written;
        journal.commit(ranges)?;
    }
    if ranges.is_empty() && found.len() > 0 {
        cut(&file, path, 0)?;
    }
    preallocate(&file, path, ranges, size)?;
    Ok(file)
}

/// Opens a staging name for reading and writing, as it is; what is no file is not waited for.
fn open(path: &Path) -> Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed())
        .open(path)
        .map_err(Error::io("create", path))
}

fn cut(file: &File, path: &Path, length: u64) -> Result<()> {
    file.set_len(length).map_err(Error::io("truncate", path))
}

/// Claims the blocks of the whole file, so that a disk that is too small says so now and the file lies in one
/// piece. The length stays what is written. Where the file system has no cheap way the blocks come as they come.
#[cfg(target_os = "linux")]
fn preallocate(file: &File, path: &Path, ranges: &RangeSet, size: u64) -> Result<()> {
    use rustix::fs::{FallocateFlags, fallocate};
    use rustix::io::{Errno, retry_on_intr};

    if ranges.covered() >= size {
        return Ok(());
    }
    match retry_on_intr(|| fallocate(file, FallocateFlags::KEEP_SIZE, 0, size)) {
        Err(error @ (Errno::NOSPC | Errno::DQUOT)) => {
            // What it got before it failed would only make the disk fuller.
            cut(file, path, ranges.end())?;
            Err(write_error("write", path, size, error.into()))
        }
        Err(error @ Errno::FBIG) => Err(Error::io("write", path)(error.into())),
        Ok(()) | Err(_) => Ok(()),
    }
}

#[cfg(not(target_os = "linux"))]
fn preallocate(_file: &File, _path: &Path, _ranges: &RangeSet, _size: u64) -> Result<()> {
    Ok(())
}

/// Bytes on disk that a partial of `size` holds already.
pub(super) fn held(staging: &Staging, size: u64) -> u64 {
    std::fs::symlink_metadata(&staging.partial)
        .map_or(0, |found| if found.is_file() { size.min(found.blocks().saturating_mul(512)) } else { 0 })
}

/// The error of a write to a file that is to have `size` bytes: a full disk is said with what it lacks of them.
pub(super) fn write_error(operation: &'static str, path: &Path, size: u64, error: io::Error) -> Error {
    let held = std::fs::symlink_metadata(path).map_or(0, |found| found.blocks().saturating_mul(512));
    disk::write_error(operation, path, size.saturating_sub(held))(error)
}
