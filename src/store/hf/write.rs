//! Writing into the cache: names, links, refs, listings and locks exactly as the official client makes them.
//!
//! Source of the format: `huggingface_hub` 2.4 (`file_download.py`, `_tree_cache.py`, `_local_folder.py`,
//! `utils/_fixes.py`). What is unfinished lies under `.locks/`, which the client's scans pass over, or in `blobs/` under
//! a name that no client takes for a blob; so a crash at any step leaves a cache without a fault. Links are followed one hop,
//! and only those that the client makes.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::layout::{self, Target};
use crate::disk::folder::{EntryType, Folder, Status};
use crate::disk::lock::FileLock;
use crate::disk::{publish, regular, safe, scratch};
use crate::error::{Error, Result};
use crate::model::{Digest, RemoteFile, RepoPath, text};
use crate::store::listing::listing;

/// Longest file of a ref that is read.
const MAX_REF: u64 = 4096;
/// Most folders that lie inside each other in a snapshot that this program writes: those that it can read and delete.
pub const MAX_DEPTH: usize = layout::MAX_DEPTH;

/// Mode of lock files: the users of a shared cache wait for each other.
const LOCK_MODE: u32 = 0o664;

const CACHEDIR_TAG: &str = "Signature: 8a477f597d28d172789f06886806bc55\n\
    # This file is a cache directory tag created by huggingface_hub.\n\
    # For information about cache directory tags, see:\n\
    #\thttps://bford.info/cachedir/\n";

/// One model repository of a cache, as a place to write to. Its methods block on the disk.
#[derive(Clone, Debug)]
pub struct RepositoryWriter {
    root: PathBuf,
    /// `models--org--name`.
    name: String,
    /// Whether links may be used at all.
    links: bool,
}

/// What there is of a file of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// The snapshot has it, and it leads to the blob of that checksum, of the right length. The inode is that of the bytes.
    Linked {
        /// The bytes themselves, relative to the cache.
        location: PathBuf,
        /// Device and inode of the bytes.
        inode: (u64, u64),
    },
    /// Bytes of the right length that no name vouches for: a blob that the snapshot does not name yet, a regular file in the
    /// snapshot, a blob that another server named.
    Unproven {
        /// Relative to the cache.
        location: PathBuf,
        /// Device and inode of the bytes.
        inode: (u64, u64),
        /// Whether the snapshot's own name leads there already.
        named: bool,
    },
    /// Nothing that could be it.
    Nothing,
    /// Something under the snapshot's or the blob's name that did not come from a hub, as far as can be told.
    Foreign(PathBuf),
}

impl RepositoryWriter {
    /// The repository `id` (`org/name`) in the cache at `root`, which need not exist. Without `links` the snapshot gets the
    /// files themselves, as the client does where `HF_HUB_DISABLE_SYMLINKS` is set.
    #[must_use]
    pub fn new(root: &Path, id: &str, links: bool) -> Self {
        Self { root: root.to_owned(), name: format!("models--{}", id.replace('/', "--")), links }
    }

    /// The repository's folder.
    #[must_use]
    pub fn folder(&self) -> PathBuf {
        self.root.join(&self.name)
    }

    /// The root of the cache.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where a blob lies.
    #[must_use]
    pub fn blob(&self, digest: &Digest) -> PathBuf {
        self.folder().join("blobs").join(digest.to_string())
    }

    /// Where a file of a revision has its name.
    #[must_use]
    pub fn pointer(&self, commit: &str, file: &RepoPath) -> PathBuf {
        file.below(&self.snapshot(commit))
    }

    fn snapshot(&self, commit: &str) -> PathBuf {
        self.folder().join("snapshots").join(commit)
    }

    /// Makes the folders that a download of `file` at `commit` needs, the repository's own all at once: a repository without
    /// `snapshots` is a fault to the client.
    ///
    /// # Errors
    /// [`Error::UnsafePath`] when a folder on the way is a link, [`Error::Io`], [`Error::NoSpace`].
    pub fn prepare(&self, commit: &str, file: &RepoPath) -> Result<()> {
        publish::create_folders(&self.root)?;
        let scratch = self.scratch()?;
        let tag = self.root.join("CACHEDIR.TAG");
        if tag.symlink_metadata().is_err()
            && let Err(error) = scratch::write(&scratch, &tag, CACHEDIR_TAG.as_bytes())
        {
            tracing::warn!("{error}; the cache works without it");
        }
        let inside = [PathBuf::from("blobs"), PathBuf::from("snapshots"), Path::new("snapshots").join(commit)];
        let inside: Vec<&Path> = inside.iter().map(PathBuf::as_path).collect();
        scratch::folder(&scratch, &self.folder(), &inside)?;
        self.below("blobs/x")?;
        self.prepare_pointer(commit, file)?;
        Ok(())
    }

    /// The folder for what is unfinished: on the file system of the cache, and passed over by the client's scans.
    fn scratch(&self) -> Result<PathBuf> {
        let path = safe::prepare_below(&self.root, &RepoPath::parse(&format!("{}/{}/x", layout::LOCKS, self.name))?)?;
        Ok(path.with_file_name(""))
    }

    fn below(&self, path: &str) -> Result<PathBuf> {
        safe::prepare_below(&self.root, &RepoPath::parse(&format!("{}/{path}", self.name))?)
    }

    fn prepare_pointer(&self, commit: &str, file: &RepoPath) -> Result<PathBuf> {
        // In two parts: together they may be longer than a path of a repository may be.
        self.below(&format!("snapshots/{commit}/x"))?;
        safe::prepare_below(&self.snapshot(commit), file)
    }

    /// What there is of `file`, whose bytes have `digest`, at `commit`. Nothing is changed, no byte is read.
    ///
    /// # Errors
    /// [`Error::UnsafePath`] when a folder has the name, [`Error::Io`] when it cannot be told.
    pub fn find(&self, commit: &str, file: &RepoPath, size: u64, digest: &Digest) -> Result<Found> {
        let Some(hub) = open(&self.root)? else { return Ok(Found::Nothing) };
        let inside = Path::new("snapshots").join(commit).join(file.as_str());
        let pointer = Path::new(&self.name).join(&inside);
        let blob = OsString::from(digest.to_string());
        match status(&hub, &pointer).map_err(|error| Error::io("read", self.root.join(&pointer))(error.into()))? {
            None => {
                let found = self.payload(&hub, &blob)?;
                Ok(match found {
                    Payload::Bytes(location, status) if status.size_bytes == size => {
                        Found::Unproven { location, inode: inode(&status), named: false }
                    }
                    Payload::Foreign(path) => Found::Foreign(path),
                    Payload::Bytes(..) | Payload::Nothing => Found::Nothing,
                })
            }
            Some(found) if found.kind == EntryType::Folder => Err(Error::UnsafePath {
                path: text::printable_path(&self.root.join(&pointer)),
                reason: "a folder of that name is in the way".to_owned(),
            }),
            Some(found) if found.kind == EntryType::File => Ok(if found.size_bytes == size {
                Found::Unproven { location: pointer, inode: inode(&found), named: true }
            } else if found.size_bytes == 0 {
                Found::Nothing
            } else {
                Found::Foreign(self.root.join(pointer))
            }),
            Some(found) if found.kind == EntryType::Link => {
                let link =
                    read_link(&hub, &pointer).map_err(|e| Error::io("read", self.root.join(&pointer))(e.into()))?;
                let parent = inside.parent().unwrap_or(Path::new(""));
                let Target::Blob(name) = layout::resolve(&link, parent, &self.folder()) else {
                    return Ok(Found::Foreign(self.root.join(pointer)));
                };
                Ok(match self.payload(&hub, &name)? {
                    Payload::Bytes(location, status) if status.size_bytes == size => {
                        let inode = inode(&status);
                        if name == blob {
                            Found::Linked { location, inode }
                        } else {
                            Found::Unproven { location, inode, named: true }
                        }
                    }
                    Payload::Foreign(path) => Found::Foreign(path),
                    Payload::Bytes(..) | Payload::Nothing => Found::Nothing,
                })
            }
            Some(_) => Ok(Found::Foreign(self.root.join(pointer))),
        }
    }

    /// Where the bytes are that lie here as `file` at `commit`, if there are any.
    #[must_use]
    pub fn bytes_of(&self, commit: &str, file: &RemoteFile) -> Option<PathBuf> {
        match self.find(commit, &file.path, file.size, &file.digest?).ok()? {
            Found::Linked { location, .. } | Found::Unproven { location, .. } => Some(self.root.join(location)),
            Found::Nothing | Found::Foreign(_) => None,
        }
    }

    /// The bytes behind a name in `blobs/`: its own, or one hop further those of the shared store.
    fn payload(&self, hub: &Folder, name: &OsString) -> Result<Payload> {
        let location = Path::new(&self.name).join("blobs").join(name);
        let full = self.root.join(&location);
        let failed = |error: Errno| Error::io("read", &full)(error.into());
        let Some(found) = status(hub, &location).map_err(failed)? else { return Ok(Payload::Nothing) };
        match found.kind {
            EntryType::File => Ok(Payload::Bytes(location, found)),
            EntryType::Link => {
                let link = read_link(hub, &location).map_err(failed)?;
                let Target::Shared(digits, hash) = layout::resolve(&link, Path::new("blobs"), &self.folder()) else {
                    return Ok(Payload::Foreign(full));
                };
                let shared = Path::new(layout::SHARED).join(digits).join(hash);
                Ok(match status(hub, &shared).map_err(failed)? {
                    Some(found) if found.kind == EntryType::File => Payload::Bytes(shared, found),
                    // The client that collected the payload left a link that leads nowhere.
                    None => Payload::Nothing,
                    Some(_) => Payload::Foreign(full),
                })
            }
            EntryType::Folder | EntryType::Other => Ok(Payload::Foreign(full)),
        }
    }

    /// Tries to take the client's lock on a blob; the error is who has it. The file stays after use.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::UnsafePath`].
    pub fn try_lock(&self, digest: &Digest) -> Result<std::result::Result<FileLock, String>> {
        let path = self.scratch()?.join(format!("{digest}.lock"));
        // The umask keeps the group out of new files; only who made the file may change that.
        match publish::create_new(&path) {
            Ok(file) => {
                file.set_permissions(fs::Permissions::from_mode(LOCK_MODE)).map_err(Error::io("create", &path))?;
            }
            Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
        Ok(FileLock::try_exclusive(&path)?.ok_or_else(|| FileLock::holder(&path)))
    }

    /// Gives the whole, checked and synced file `staged` its names: the blob's, then the snapshot's. Gives the path in the
    /// snapshot. To be called with the blob's lock.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::NoSpace`], [`Error::UnsafePath`]; the staged file still stands then, or the blob does.
    pub fn publish(&self, commit: &str, file: &RepoPath, digest: &Digest, staged: &Path) -> Result<PathBuf> {
        publish::take_owner_of_folder(staged)?;
        let pointer = self.prepare_pointer(commit, file)?;
        if !self.links {
            publish::publish(staged, &pointer)?;
            return Ok(pointer);
        }
        let blob = self.blob(digest);
        publish::publish(staged, &blob)?;
        if !self.link(&pointer, file, digest)? {
            publish::publish(&blob, &pointer)?;
        }
        Ok(pointer)
    }

    /// Gives a blob that is there its name in the snapshot: a link, or a copy where there are none. To be called with the
    /// blob's lock.
    ///
    /// # Errors
    /// As [`Self::publish`].
    pub fn name(&self, commit: &str, file: &RepoPath, digest: &Digest, location: &Path) -> Result<PathBuf> {
        let pointer = self.prepare_pointer(commit, file)?;
        if !self.links || !self.link(&pointer, file, digest)? {
            scratch::copy(&self.scratch()?, &self.root.join(location), &pointer)?;
        }
        Ok(pointer)
    }

    fn link(&self, pointer: &Path, file: &RepoPath, digest: &Digest) -> Result<bool> {
        let up = "../".repeat(file.parts().count() + 1);
        scratch::link(&self.scratch()?, pointer, Path::new(&format!("{up}blobs/{digest}")))
    }

    /// Notes which commit `revision` means; a commit means itself. To be called after the last file.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::NoSpace`]; [`Error::UnsafePath`] for a revision that cannot be a path.
    pub fn write_ref(&self, revision: &str, commit: &str) -> Result<()> {
        if revision == commit {
            return Ok(());
        }
        let inside = format!("refs/{revision}");
        RepoPath::parse(&inside)?;
        let there = regular::read(&self.folder().join(&inside), MAX_REF);
        if there.is_ok_and(|known| known.as_deref() == Some(commit.as_bytes())) {
            return Ok(());
        }
        scratch::write(&self.scratch()?, &self.below(&inside)?, commit.as_bytes())
    }

    /// Writes the listing of `commit`, unless it is there, no commit, or lacks what the client's form has.
    ///
    /// Only to be called where the snapshot has every file of it: the client takes a listing as proof that a snapshot with
    /// fewer files is incomplete, and refuses to use it offline.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::NoSpace`], [`Error::UnsafePath`].
    pub fn write_tree(&self, commit: &str, files: &[RemoteFile]) -> Result<()> {
        let Some(text) = listing(commit, files)? else { return Ok(()) };
        let path = self.below(&format!("trees/{commit}.json"))?;
        if path.symlink_metadata().is_ok() {
            return Ok(());
        }
        scratch::write(&self.scratch()?, &path, text.as_bytes())
    }
}

enum Payload {
    Bytes(PathBuf, Status),
    Foreign(PathBuf),
    Nothing,
}

fn open(root: &Path) -> Result<Option<Folder>> {
    match Folder::open(root) {
        Ok(hub) => Ok(Some(hub)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(error) => Err(Error::io("read", root)(error.into())),
    }
}

/// Metadata of an entry at a relative path; `None` when it, or the way to it, is not there.
fn status(hub: &Folder, path: &Path) -> std::result::Result<Option<Status>, Errno> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Err(Errno::INVAL) };
    match hub.descend(parent).and_then(|folder| folder.status(name)) {
        Ok(status) => Ok(Some(status)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

fn read_link(hub: &Folder, path: &Path) -> std::result::Result<OsString, Errno> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Err(Errno::INVAL) };
    hub.descend(parent)?.read_link(name)
}

fn inode(status: &Status) -> (u64, u64) {
    (status.inode.device, status.inode.inode)
}
