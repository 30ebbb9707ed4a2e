//! What the cache itself knows of a revision, without asking a hub.

use std::ffi::OsStr;

use tokio_util::sync::CancellationToken;

use super::details::bytes_of;
use super::read::{Repository, Revision};
use super::{HfStore, expected, layout};
use crate::disk::folder::Folder;
use crate::error::{Error, Result};
use crate::model::{Digest, ModelKind, RemoteFile, RepoPath, text};

/// A revision of a model that is here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pinned {
    /// Id of the row.
    pub id: String,
    /// The branch or tag, or the commit itself.
    pub revision: String,
    /// The commit.
    pub commit: String,
    /// The files that are here, with the length and checksum that their names promise; sorted by path.
    pub files: Vec<RemoteFile>,
    /// Every file of the commit, where the client's listing of it is here.
    pub listing: Option<Vec<RemoteFile>>,
}

impl HfStore {
    /// What is here of the model `id` (`org/name`) at `revision`: a branch or tag that a ref names, or a commit.
    ///
    /// # Errors
    /// [`Error::Io`] when the cache cannot be read.
    pub fn pinned(&self, id: &str, revision: &str) -> Result<Option<Pinned>> {
        let Some(hub) = self.open()? else { return Ok(None) };
        let Some(repository) = Repository::read(&hub, &self.root, &layout::folder(id)) else { return Ok(None) };
        if repository.id != id || repository.kind != ModelKind::Model {
            return Ok(None);
        }
        let named = repository.refs.iter().find(|r| r.name.as_os_str() == OsStr::new(revision));
        let commit = named.and_then(|r| r.commit.clone()).unwrap_or_else(|| revision.to_owned());
        let found = repository.revisions.iter().find(|found| found.commit == OsStr::new(&commit));
        Ok(found.map(|found| pinned(&hub, &repository, found, revision)))
    }

    /// Every model with a ref, at each revision that one names.
    ///
    /// # Errors
    /// [`Error::Io`] when the cache cannot be read, [`Error::Cancelled`].
    pub fn all_pinned(&self, cancel: &CancellationToken) -> Result<Vec<Pinned>> {
        let Some(hub) = self.open()? else { return Ok(Vec::new()) };
        let names = hub.entries().map_err(|error| Error::io("read", &self.root)(error.into()))?;
        let mut all = Vec::new();
        for (name, _) in names {
            if cancel.is_cancelled() {
                return Err(Error::Cancelled);
            }
            if !matches!(layout::repository(&name), Some((ModelKind::Model, _))) {
                continue;
            }
            let Some(repository) = Repository::read(&hub, &self.root, &name) else { continue };
            for found in &repository.revisions {
                for revision in repository.refs_of(&found.commit) {
                    all.push(pinned(&hub, &repository, found, &revision));
                }
            }
        }
        Ok(all)
    }
}

fn pinned(hub: &Folder, repository: &Repository, found: &Revision, revision: &str) -> Pinned {
    let mut files: Vec<RemoteFile> = found
        .entries
        .iter()
        .filter_map(|entry| {
            let (blob, status) = bytes_of(repository, entry)?;
            let named = blob.and_then(|name| Digest::parse(name.to_str()?));
            let path = RepoPath::parse(entry.path.to_str()?).ok()?;
            Some(RemoteFile { path, size: status.size_bytes, digest: named, blob_id: None, xet_hash: None })
        })
        .collect();
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Pinned {
        id: repository.id.clone(),
        revision: revision.to_owned(),
        commit: text::escape(&found.commit),
        files,
        listing: expected::listed_files(hub, repository, &found.commit),
    }
}
