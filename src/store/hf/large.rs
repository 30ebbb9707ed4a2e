//! The large files of a repository: blob names are checksums.

use std::path::Path;

use super::read::{Blob, Content, Repository};
use crate::disk::folder::Status;
use crate::model::Digest;
use crate::store::large::{LARGE, LargeFile};

/// Blobs by their names; what no digest names only where it has a second name, which is a copy by itself.
pub(super) fn of(repository: &Repository) -> Vec<LargeFile> {
    let top = Path::new(&repository.folder);
    let file = |status: &Status, digest: &dyn Fn() -> Option<Digest>, path: &dyn Fn() -> std::path::PathBuf| {
        if status.size_bytes < LARGE {
            return None;
        }
        let digest = digest();
        (digest.is_some() || status.links > 1).then(|| LargeFile {
            inode: status.inode,
            size_bytes: status.size_bytes,
            digest,
            path: digest.is_none().then(|| path().into()),
        })
    };
    let blobs = repository.blobs.iter().filter_map(|(name, blob)| {
        let (Blob::File(status) | Blob::Shared { payload: Some(status), .. }) = blob else { return None };
        // A name in capitals is a digest, too, but not the name that the digest has.
        let digest =
            || name.to_str().filter(|name| !name.bytes().any(|b| b.is_ascii_uppercase())).and_then(Digest::parse);
        file(status, &digest, &|| top.join("blobs").join(name))
    });
    let plain = repository.revisions.iter().flat_map(|revision| {
        revision.entries.iter().filter_map(|entry| match &entry.content {
            Content::File(status) => {
                file(status, &|| None, &|| top.join("snapshots").join(&revision.commit).join(&entry.path))
            }
            _ => None,
        })
    });
    blobs.chain(plain).collect()
}
