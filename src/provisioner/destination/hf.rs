//! A repository of the Hugging Face cache as the place where files go.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{Place, Replaced, has_digest, partials, unrecorded};
use crate::disk::lock::FileLock;
use crate::error::{Error, Result};
use crate::model::{Digest, RemoteFile, RepoPath, StoreKind};
use crate::provisioner::DownloadPlan;
use crate::store::flat::staging::{staging_key, staging_paths};
use crate::store::hf::{Found, RepositoryWriter};
use crate::store::remembered::Remembered;
use crate::transfer::{Destination, EventSink, Request, Staging, TransferEvent};

/// How often a lock that another program holds is tried.
const LOCK_INTERVAL: Duration = Duration::from_millis(200);

/// One download into the cache.
///
/// A blob that is there is not fetched again. One that this revision names already is trusted by its name and length, as
/// every client of the cache does; before it gets another name its bytes are read and compared. The client's lock on a blob is
/// held from before the first byte of it until it has its name.
pub(in crate::provisioner) struct HfDestination {
    writer: RepositoryWriter,
    folder: PathBuf,
    /// What a partial belongs to; without files.
    request: Request,
    repository: String,
    revision: String,
    commit: String,
    listing: Vec<RemoteFile>,
    force: bool,
    /// Whether this run has changed the cache: bookkeeping that cannot be written is then an error.
    changed: AtomicBool,
    locks: Mutex<BTreeMap<Digest, Held>>,
    /// With `force`: the bytes that each name led to when this run first looked. Others have been published since.
    replaced: Mutex<BTreeMap<RepoPath, (u64, u64)>>,
    memory: Remembered,
    events: EventSink,
    cancel: CancellationToken,
}

/// A lock on a blob, and how many files of this run wait for the blob.
struct Held {
    _lock: FileLock,
    files: usize,
}

impl HfDestination {
    pub(in crate::provisioner) fn new(
        writer: RepositoryWriter,
        endpoint: &str,
        plan: &DownloadPlan,
        memory: &Remembered,
        events: &EventSink,
        cancel: CancellationToken,
    ) -> Self {
        Self {
            folder: writer.folder(),
            writer,
            request: Request {
                endpoint: endpoint.to_owned(),
                repository: plan.repository.id.clone(),
                commit: plan.repository.commit.clone(),
                files: Vec::new(),
            },
            repository: plan.repository.id.clone(),
            revision: plan.revision.clone(),
            commit: plan.repository.commit.clone(),
            listing: plan.listing.clone(),
            force: plan.request.force,
            changed: AtomicBool::new(false),
            locks: Mutex::new(BTreeMap::new()),
            replaced: Mutex::new(BTreeMap::new()),
            memory: memory.clone(),
            events: events.clone(),
            cancel,
        }
    }

    /// The name of the file's blob.
    fn digest(&self, file: &RemoteFile) -> Result<Digest> {
        file.digest.ok_or_else(|| Error::Unsupported {
            what: format!("keeping {} of {} in the Hugging Face cache, which names files by a checksum that this hub does not tell", file.path, self.repository),
            instead: "use --to flat".to_owned(),
        })
    }

    fn locks(&self) -> MutexGuard<'_, BTreeMap<Digest, Held>> {
        self.locks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until no other program works on the blob, and keeps it so until [`Self::release`].
    fn claim(&self, file: &RemoteFile, digest: Digest) -> Result<()> {
        let mut told = None;
        loop {
            if let Some(held) = self.locks().get_mut(&digest) {
                held.files += 1;
                return Ok(());
            }
            match self.writer.try_lock(&digest)? {
                Ok(lock) => {
                    self.locks().insert(digest, Held { _lock: lock, files: 1 });
                    return Ok(());
                }
                Err(holder) if told.as_ref() != Some(&holder) => {
                    let why = format!("{holder} is fetching it");
                    (self.events)(TransferEvent::Waiting { file: file.path.clone(), why });
                    told = Some(holder);
                }
                Err(_) => {}
            }
            if self.cancel.is_cancelled() {
                return Err(Error::Cancelled);
            }
            thread::sleep(LOCK_INTERVAL);
        }
    }

    fn release(&self, digest: &Digest) {
        let mut locks = self.locks();
        if let Some(held) = locks.get_mut(digest) {
            held.files -= 1;
            if held.files == 0 {
                locks.remove(digest);
            }
        }
    }

    /// Whether `force` asks for other bytes in place of those that the name led to when this run began.
    fn is_to_be_replaced(&self, file: &RemoteFile, inode: (u64, u64)) -> bool {
        if !self.force {
            return false;
        }
        let mut replaced = self.replaced.lock().unwrap_or_else(PoisonError::into_inner);
        *replaced.entry(file.path.clone()).or_insert(inode) == inode
    }

    /// Whether what lies there was found to be something else than `digest`, and has not changed since.
    fn is_known_bad(&self, location: &Path, digest: &Digest) -> bool {
        self.memory.bad_at(&self.writer.root().join(location), &[*digest]).is_some()
    }

    fn look(&self, file: &RemoteFile, digest: &Digest) -> Result<Option<PathBuf>> {
        let pointer = self.writer.pointer(&self.commit, &file.path);
        match self.writer.find(&self.commit, &file.path, file.size, digest)? {
            Found::Linked { inode, .. } | Found::Unproven { inode, .. } if self.is_to_be_replaced(file, inode) => {
                Ok(None)
            }
            Found::Linked { location, .. } | Found::Unproven { location, .. }
                if self.is_known_bad(&location, digest) =>
            {
                Ok(None)
            }
            Found::Linked { .. } => Ok(Some(pointer)),
            Found::Unproven { location, named, .. } => {
                let root = self.writer.root();
                if !has_digest(StoreKind::Hf, root, &location, file, *digest, &self.cancel)? {
                    return Ok(None);
                }
                if named {
                    return Ok(Some(pointer));
                }
                self.changed.store(true, Ordering::Relaxed);
                self.writer.prepare(&self.commit, &file.path)?;
                self.claim(file, *digest)?;
                let named = self.writer.name(&self.commit, &file.path, digest, &location);
                self.release(digest);
                named.map(Some)
            }
            Found::Nothing | Found::Foreign(_) => Ok(None),
        }
    }

    /// Refuses to replace what did not come from a hub: its bytes might be nowhere else.
    fn refuse_foreign(&self, file: &RemoteFile, digest: &Digest) -> Result<()> {
        let occupied = |path| Err(Error::Occupied { path, repository: self.repository.clone() });
        match self.writer.find(&self.commit, &file.path, file.size, digest)? {
            Found::Foreign(path) => occupied(path),
            // A file in the snapshot, not a link, whose bytes are others: somebody may have changed it.
            Found::Unproven { location, named: true, .. }
                if location.iter().nth(1).is_some_and(|part| part == "snapshots") =>
            {
                occupied(self.writer.root().join(location))
            }
            Found::Linked { .. } | Found::Unproven { .. } | Found::Nothing => Ok(()),
        }
    }

    /// Whether the snapshot has every file of the listing.
    fn is_whole(&self) -> bool {
        !self.listing.is_empty()
            && self.listing.iter().all(|file| {
                file.digest.is_some_and(|digest| {
                    let found = self.writer.find(&self.commit, &file.path, file.size, &digest);
                    matches!(found, Ok(Found::Linked { .. } | Found::Unproven { named: true, .. }))
                })
            })
    }
}

impl Place for HfDestination {
    fn has_changed(&self) -> bool {
        self.changed.load(Ordering::Relaxed)
    }

    fn is_there(&self, file: &RemoteFile) -> bool {
        let found = file.digest.map(|digest| self.writer.find(&self.commit, &file.path, file.size, &digest));
        match found {
            Some(Ok(Found::Linked { inode, location } | Found::Unproven { inode, location, .. })) => {
                let is_bad = file.digest.is_some_and(|digest| self.is_known_bad(&location, &digest));
                !is_bad && !self.is_to_be_replaced(file, inode)
            }
            _ => false,
        }
    }
}

impl Destination for HfDestination {
    fn folder(&self) -> &Path {
        &self.folder
    }

    fn present(&self, file: &RemoteFile) -> Result<Option<PathBuf>> {
        let digest = self.digest(file)?;
        let found = self.look(file, &digest)?;
        if found.is_some() {
            self.release(&digest);
        }
        Ok(found)
    }

    fn staging(&self, file: &RemoteFile) -> Staging {
        // Without a digest nothing is ever staged: `stage` refuses it.
        let target = file
            .digest
            .map_or_else(|| self.writer.pointer(&self.commit, &file.path), |digest| self.writer.blob(&digest));
        let (partial, journal) = staging_paths(&target, &staging_key(file.digest.as_ref(), &[file.path.as_str()]));
        Staging { partial, journal }
    }

    fn stage(&self, file: &RemoteFile) -> Result<Staging> {
        let digest = self.digest(file)?;
        if !self.force {
            self.refuse_foreign(file, &digest)?;
        }
        self.changed.store(true, Ordering::Relaxed);
        self.writer.prepare(&self.commit, &file.path)?;
        self.claim(file, digest)?;
        let staging = self.staging(file);
        partials::adopt(&self.request, file, &staging, &self.folder.join("blobs"), &partials::of_blob(&digest));
        Ok(staging)
    }

    fn publish(&self, file: &RemoteFile, staging: &Staging) -> Result<PathBuf> {
        let digest = self.digest(file)?;
        let replaced = self.writer.bytes_of(&self.commit, file).and_then(|path| Replaced::at(&path, &self.memory));
        let published = self.writer.publish(&self.commit, &file.path, &digest, &staging.partial)?;
        if let Some(replaced) = replaced {
            replaced.gave_way(&self.memory);
        }
        self.release(&digest);
        Ok(published)
    }

    fn finish(&self, _: &[RemoteFile]) -> Result<()> {
        self.memory.keep();
        let written = (if self.is_whole() { self.writer.write_tree(&self.commit, &self.listing) } else { Ok(()) })
            .and_then(|()| self.writer.write_ref(&self.revision, &self.commit));
        match written {
            Err(error) if !self.changed.load(Ordering::Relaxed) => {
                tracing::warn!("{error}; what is there is whole all the same");
                Ok(())
            }
            other => other.map_err(unrecorded),
        }
    }
}
