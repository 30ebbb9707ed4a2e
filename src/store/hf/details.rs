//! Everything about one repository: its files, its revisions, what each alone takes.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use super::layout;
use super::read::{Blob, Content, Entry, Ref, Repository, Revision as ReadRevision};
use super::sets::WeightSet;
use crate::disk::folder::Status;
use crate::disk::usage::Usage;
use crate::model::{Digest, FileName, Inode, ModelFile, Role, text};
use crate::store::headers::Headers;
use crate::store::shards;
use crate::store::{Revision, SharedFile};

/// A file of one or more revisions.
#[derive(Clone, Debug)]
pub(super) struct Distinct {
    /// Path in the revision.
    pub(super) path: PathBuf,
    /// Name in `blobs/`, where it is one.
    pub(super) blob: Option<OsString>,
    pub(super) status: Status,
    /// Revisions that have it.
    pub(super) revisions: Vec<OsString>,
}

impl Distinct {
    /// Where its bytes lie, relative to the cache.
    fn location(&self, repository: &Repository) -> PathBuf {
        let commit = self.revisions.first().map_or(OsStr::new(""), OsString::as_os_str);
        location(repository, commit, &self.path, self.blob.as_ref())
    }
}

/// Every file of every revision, once for each content, those of the revision that a ref names first.
pub(super) fn distinct_files(repository: &Repository) -> Vec<Distinct> {
    let mut revisions: Vec<_> = repository.revisions.iter().collect();
    revisions.sort_by_key(|revision| {
        let refs = repository.refs_of(&revision.commit);
        (!refs.iter().any(|name| name == "main"), refs.is_empty())
    });
    let mut files: Vec<Distinct> = Vec::new();
    let mut known: BTreeMap<(PathBuf, Inode), usize> = BTreeMap::new();
    for revision in revisions {
        for entry in &revision.entries {
            let Some((blob, status)) = bytes_of(repository, entry) else { continue };
            let at = *known.entry((entry.path.clone(), status.inode)).or_insert_with(|| {
                files.push(Distinct {
                    path: entry.path.clone(),
                    blob: blob.cloned(),
                    status: *status,
                    revisions: Vec::new(),
                });
                files.len() - 1
            });
            files[at].revisions.push(revision.commit.clone());
        }
    }
    files
}

/// The blob and the metadata of an entry's bytes, if they are there.
pub(super) fn bytes_of<'a>(repository: &'a Repository, entry: &'a Entry) -> Option<(Option<&'a OsString>, &'a Status)> {
    if let Content::File(status) = &entry.content {
        return Some((None, status));
    }
    let (name, blob) = repository.blob_of(entry)?;
    Some((Some(name), blob?.payload()?))
}

/// The files as the detail pane and `info` show them: weights first, then by path. A path whose content differs between
/// revisions is there once for each, with the commit behind it.
pub(super) fn files(
    repository: &Repository,
    root: &Path,
    headers: &Headers,
    chosen: &dyn Fn(&OsStr, &Path) -> bool,
) -> Vec<ModelFile> {
    let distinct = distinct_files(repository);
    let mut seen = BTreeSet::new();
    let mut files: Vec<ModelFile> = distinct
        .iter()
        .filter(|file| file.revisions.iter().any(|commit| chosen(commit, &file.path)))
        .map(|file| {
            let path = text::escape(file.path.as_os_str());
            let first = seen.insert(path.clone());
            let revision = file.revisions.first().map(|commit| text::escape(commit)).unwrap_or_default();
            let snapshots = repository
                .path
                .join("snapshots")
                .join(file.revisions.first().map_or(OsStr::new(""), OsString::as_os_str));
            ModelFile {
                path: if first { path } else { format!("{path}@{}", revision.get(..8).unwrap_or(&revision)) },
                absolute: snapshots.join(&file.path),
                size_bytes: file.status.size_bytes,
                disk_bytes: file.status.disk_bytes,
                role: match file.path.file_name().and_then(OsStr::to_str) {
                    Some(name) => {
                        let location = || file.location(repository);
                        headers.role_named(root, &file.status, location, name, Role::of(name))
                    }
                    None => Role::Other,
                },
                sha256: file.blob.as_ref().and_then(|name| Digest::parse(name.to_str()?)),
            }
        })
        .collect();
    files.sort_by(|a, b| (a.role, &a.path).cmp(&(b.role, &b.path)));
    files
}

/// The revisions, that of `main` first, with what each alone takes. `users` counts the links of all repositories to a shared payload.
pub(super) fn revisions(repository: &Repository, users: &dyn Fn(&OsStr) -> u64) -> Vec<Revision> {
    let held_elsewhere = |blob: Option<&OsString>| match blob.and_then(|name| repository.blobs.get(name)) {
        Some(Blob::Shared { hash, users: list, .. }) => list.is_none() || users(hash) > 1,
        _ => false,
    };
    let mut used: BTreeMap<Inode, BTreeSet<&OsStr>> = BTreeMap::new();
    for revision in &repository.revisions {
        for entry in &revision.entries {
            if let Some((_, status)) = bytes_of(repository, entry) {
                used.entry(status.inode).or_default().insert(&revision.commit);
            }
        }
    }
    let mut revisions: Vec<Revision> = repository
        .revisions
        .iter()
        .map(|revision| {
            let mut own = Usage::default();
            for entry in &revision.entries {
                if let Some((blob, status)) = bytes_of(repository, entry)
                    && used[&status.inode].len() == 1
                    && !held_elsewhere(blob)
                {
                    own.add(status.inode, status.size_bytes, status.disk_bytes, status.links);
                }
            }
            Revision {
                commit: text::escape(&revision.commit),
                refs: repository.refs_of(&revision.commit),
                size_bytes: None,
                disk_bytes: None,
                reclaimable_bytes: own.reclaimable_bytes(),
            }
        })
        .collect();
    revisions.sort_by_key(|revision| {
        (!revision.refs.iter().any(|name| name == "main"), revision.refs.is_empty(), revision.commit.clone())
    });
    revisions
}

/// Payloads of the shared store that other repositories of `all` use, too.
pub(super) fn shared(repository: &Repository, all: &[Repository]) -> Vec<SharedFile> {
    let mut users: BTreeMap<&OsStr, Vec<String>> = BTreeMap::new();
    for other in all.iter().filter(|other| other.folder != repository.folder) {
        for blob in other.blobs.values() {
            if let Blob::Shared { hash, .. } = blob {
                let known = users.entry(hash).or_default();
                let id = text::printable(&other.id);
                if known.last() != Some(&id) {
                    known.push(id);
                }
            }
        }
    }
    let mut shared = Vec::new();
    let mut told = BTreeSet::new();
    for file in distinct_files(repository) {
        let blob = file.blob.as_ref().and_then(|name| repository.blobs.get(name));
        if let Some(Blob::Shared { hash, .. }) = blob
            && let Some(used_by) = users.get(hash.as_os_str())
            && told.insert(hash.clone())
        {
            let path = text::escape(file.path.as_os_str());
            shared.push(SharedFile { path, disk_bytes: file.status.disk_bytes, used_by: used_by.clone() });
        }
    }
    shared
}

/// A weights file that can be read: the blob itself, so that no link has to be followed.
pub(super) struct WeightsFile<'a> {
    repository: &'a Repository,
    revision: &'a ReadRevision,
    entry: &'a Entry,
    blob: Option<&'a OsString>,
    pub(super) status: &'a Status,
}

impl<'a> WeightsFile<'a> {
    /// The file at an entry of `revision`; `None` where its bytes are not here.
    pub(super) fn of(repository: &'a Repository, revision: &'a ReadRevision, entry: &'a Entry) -> Option<Self> {
        let (blob, status) = bytes_of(repository, entry)?;
        Some(Self { repository, revision, entry, blob, status })
    }

    /// Whether it is one of those that `chosen` says count.
    pub(super) fn is_chosen(&self, chosen: &dyn Fn(&OsStr, &Path) -> bool) -> bool {
        chosen(&self.revision.commit, &self.entry.path)
    }

    /// Path in the revision.
    pub(super) fn path(&self) -> &'a Path {
        &self.entry.path
    }

    /// The last part of its path.
    pub(super) fn name(&self) -> &'a OsStr {
        self.entry.name()
    }

    /// Where its bytes lie, relative to the cache.
    pub(super) fn location(&self) -> PathBuf {
        location(self.repository, &self.revision.commit, &self.entry.path, self.blob)
    }

    /// Where the bytes of the file at `path` of the same revision lie, and their metadata.
    pub(super) fn beside(&self, path: &Path) -> Option<(PathBuf, Status)> {
        place(self.repository, self.revision, path)
    }
}

/// The files of a revision that its names call sidecars of weights.
pub(super) fn sidecars<'a>(
    repository: &'a Repository,
    revision: &'a ReadRevision,
) -> impl Iterator<Item = WeightsFile<'a>> {
    let is_one = |entry: &&Entry| {
        let name = FileName::of_weights_or_sidecar(entry.name());
        name.is_some_and(|name| name.is_gguf() && name.is_sidecar()) && entry.path.to_str().is_some()
    };
    revision.entries.iter().filter(is_one).filter_map(move |entry| WeightsFile::of(repository, revision, entry))
}

/// The revisions, that of `main` first, then those that have a name.
pub(super) fn by_name(repository: &Repository) -> Vec<&ReadRevision> {
    let mut revisions: Vec<_> = repository.revisions.iter().collect();
    revisions.sort_by_cached_key(|revision| {
        let named = |r: &&Ref| r.commit.as_deref().is_some_and(|c| OsStr::new(c) == revision.commit);
        let mut refs = repository.refs.iter().filter(named).peekable();
        let none = refs.peek().is_none();
        (!refs.any(|r| r.name.as_os_str() == "main"), none)
    });
    revisions
}

/// The revision that counts: that of the sets that come first, else the first of `revisions`, which are those [`by_name`].
pub(super) fn current<'a>(revisions: &[&'a ReadRevision], sets: &[WeightSet<'a>]) -> Option<&'a ReadRevision> {
    let first = sets.iter().find(|set| set.current).and_then(|set| set.files.first()).map(|file| file.revision);
    first.or_else(|| revisions.first().copied())
}

/// The paths of the indexes of a revision.
pub(super) fn indexes(revision: &ReadRevision) -> impl Iterator<Item = &Path> {
    let is_one = |entry: &&Entry| shards::is_index(entry.name()) && entry.name().to_str().is_some();
    revision.entries.iter().filter(is_one).map(|entry| entry.path.as_path())
}

/// Whether a revision is a pipeline, whose parts lie in folders of their own.
pub(super) fn is_pipeline(revision: &ReadRevision) -> bool {
    revision.entry(Path::new("model_index.json")).is_some()
}

/// Where the bytes of the file at a path of a revision lie, and their metadata.
pub(super) fn place(repository: &Repository, revision: &ReadRevision, path: &Path) -> Option<(PathBuf, Status)> {
    let entry = revision.entry(path)?;
    let (blob, status) = bytes_of(repository, entry)?;
    Some((location(repository, &revision.commit, &entry.path, blob), *status))
}

fn location(repository: &Repository, commit: &OsStr, path: &Path, blob: Option<&OsString>) -> PathBuf {
    let top = Path::new(&repository.folder);
    match blob.map(|name| (name, repository.blobs.get(name))) {
        Some((_, Some(Blob::Shared { digits, hash, .. }))) => Path::new(layout::SHARED).join(digits).join(hash),
        Some((name, _)) => top.join("blobs").join(name),
        None => top.join("snapshots").join(commit).join(path),
    }
}
