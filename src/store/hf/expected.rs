//! What the files of a repository should be: blob names are checksums, and `trees/<commit>.json` has the others.

use std::collections::btree_map::Entry as MapEntry;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::layout;
use super::read::{Blob, Content, Entry, Repository};
use crate::disk::folder::Folder;
use crate::model::{Digest, RemoteFile, RepoPath, text};
use crate::store::tree::reason;
use crate::store::verify::{Expected, Promise, Source};

/// Longest listing that is read.
const MAX_TREE: u64 = 64 << 20;

/// The part of `trees/<commit>.json` (format 1) that checks files.
#[derive(Deserialize)]
struct Listing {
    #[serde(default)]
    format_version: u32,
    #[serde(default)]
    files: BTreeMap<String, Listed>,
}

#[derive(Deserialize)]
struct Listed {
    size: Option<u64>,
    blob_id: Option<String>,
    lfs_sha256: Option<String>,
    lfs_size: Option<u64>,
    xet_hash: Option<String>,
}

/// Every file of the chosen entries, once for each content.
pub(super) fn expected(hub: &Folder, repository: &Repository, chosen: &dyn Fn(&OsStr, &Path) -> bool) -> Vec<Expected> {
    let mut files: Vec<Expected> = Vec::new();
    let mut seen: BTreeMap<(PathBuf, PathBuf), usize> = BTreeMap::new();
    for revision in &repository.revisions {
        let listing = listing(hub, repository, &revision.commit);
        for entry in revision.entries.iter().filter(|entry| chosen(&revision.commit, &entry.path)) {
            let Some((location, digest)) = place(repository, &revision.commit, entry) else { continue };
            let commit = text::escape(&revision.commit);
            match seen.entry((entry.path.clone(), location.clone())) {
                MapEntry::Occupied(known) => {
                    files[*known.get()].revisions.push(commit);
                    continue;
                }
                MapEntry::Vacant(new) => {
                    new.insert(files.len());
                }
            }
            let listed = entry.path.to_str().and_then(|path| listing.as_ref()?.files.get(path));
            let size = listed.and_then(|listed| listed.lfs_size.or(listed.size));
            let listed = listed.and_then(|listed| {
                let own_blob = listed.blob_id.as_ref().filter(|_| listed.lfs_size.is_none());
                Digest::parse(listed.lfs_sha256.as_ref().or(own_blob)?)
            });
            let promises = [(Source::BlobName, digest), (Source::Listing, listed)]
                .into_iter()
                .filter_map(|(source, digest)| Some(Promise { source, digest: digest? }));
            let file = Expected { path: text::escape(entry.path.as_os_str()), location, size, ..Expected::default() };
            let file = Expected { commit: Some(commit.clone()), revisions: vec![commit], ..file };
            files.push(file.promised(promises));
        }
    }
    // What is in every revision needs none named.
    for file in files.iter_mut().filter(|file| file.revisions.len() == repository.revisions.len()) {
        file.revisions.clear();
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    files
}

/// The payloads of which only a part is here: no revision names them yet, but the listing of a commit may.
pub(super) fn unfinished(hub: &Folder, repository: &Repository) -> impl Iterator<Item = Expected> {
    let etags: BTreeSet<&[u8]> = repository.unfinished().map(|(_, etag)| etag).collect();
    let mut names: BTreeMap<String, String> = BTreeMap::new();
    if !etags.is_empty() {
        for listing in repository.revisions.iter().filter_map(|revision| listing(hub, repository, &revision.commit)) {
            let named = listing.files.into_iter();
            names.extend(named.filter_map(|(path, listed)| Some((listed.lfs_sha256.or(listed.blob_id)?, path))));
        }
    }
    etags.into_iter().map(move |etag| {
        let inside = Path::new("blobs").join(OsStr::from_bytes(etag));
        let name = std::str::from_utf8(etag).ok().and_then(|etag| names.get(etag));
        Expected {
            path: name.map_or_else(|| text::escape(inside.as_os_str()), |name| text::escape(name.as_ref())),
            location: Path::new(&repository.folder).join(inside),
            note: Some("its download is not finished".to_owned()),
            ..Expected::default()
        }
    })
}

/// The places that could not be read: what a revision has there is not known.
pub(super) fn unread(repository: &Repository) -> impl Iterator<Item = Expected> {
    repository.unreadable.iter().map(|(inside, error)| {
        let location = Path::new(&repository.folder).join(inside);
        let path = text::escape(if inside.as_os_str().is_empty() { &location } else { inside }.as_os_str());
        Expected { path, location, unread: Some(reason(*error)), ..Expected::default() }
    })
}

/// Where an entry's bytes lie, relative to the cache, and the digest that the blob's name is. `None` for what leads elsewhere:
/// it is no part of the model.
fn place(repository: &Repository, commit: &OsStr, entry: &Entry) -> Option<(PathBuf, Option<Digest>)> {
    let top = Path::new(&repository.folder);
    if let Content::File(_) = &entry.content {
        return Some((top.join("snapshots").join(commit).join(&entry.path), None));
    }
    let (name, blob) = repository.blob_of(entry)?;
    let location = match blob {
        // A payload of the shared store is never checked against its own name, which is no checksum of its bytes.
        Some(Blob::Shared { digits, hash, .. }) => Path::new(layout::SHARED).join(digits).join(hash),
        Some(Blob::Foreign) => return None,
        _ => top.join("blobs").join(name),
    };
    Some((location, name.to_str().and_then(Digest::parse)))
}

fn listing(hub: &Folder, repository: &Repository, commit: &OsString) -> Option<Listing> {
    let trees = hub.folder(&repository.folder).ok()?.folder("trees".as_ref()).ok()?;
    let mut name = commit.clone();
    name.push(".json");
    serde_json::from_slice(&trees.read(&name, MAX_TREE).ok()??).ok()
}

/// Every file of `commit`, sorted by path, as `trees/<commit>.json` lists them; `None` without a listing, or with one that
/// cannot be taken for the whole truth.
pub(super) fn listed_files(hub: &Folder, repository: &Repository, commit: &OsString) -> Option<Vec<RemoteFile>> {
    let listing = listing(hub, repository, commit).filter(|listing| listing.format_version == 1)?;
    let file = |(path, listed): (String, Listed)| {
        let digest = match listed.lfs_sha256.as_deref() {
            Some(sha256) => Some(Digest::parse(sha256)?),
            None => listed.blob_id.as_deref().and_then(Digest::parse),
        };
        Some(RemoteFile {
            path: RepoPath::parse(&path).ok()?,
            size: listed.lfs_size.or(listed.size)?,
            digest,
            blob_id: listed.blob_id,
            xet_hash: listed.xet_hash,
        })
    };
    listing.files.into_iter().map(file).collect()
}
