//! What has come to need a blob of a repository since its removal was planned.

use std::collections::{BTreeSet, HashMap};
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use super::layout::{self, BlobName};
use super::read::Repository;
use crate::disk::deletion::Guard;
use crate::disk::folder::Folder;
use crate::model::{Plan, Step, text};
use crate::store::planning::steadily;

/// Reads a repository once more when the first of its blobs is about to go.
pub(super) struct NewNames<'a> {
    root: &'a Path,
    /// What the plan removes, relative to the root.
    going: BTreeSet<PathBuf>,
    repositories: HashMap<OsString, Needed>,
}

/// What the other names of a repository lead to.
struct Needed {
    /// A name of each blob.
    by_blob: HashMap<OsString, PathBuf>,
    /// That not every name could be read.
    unknown: bool,
}

impl<'a> NewNames<'a> {
    pub(super) fn of(root: &'a Path, plan: &Plan) -> Self {
        let going = plan.steps.iter().filter(|step| step.root == root).map(|step| step.folder.join(&step.name));
        Self { root, going: going.collect(), repositories: HashMap::new() }
    }

    fn read(&self, folder: &OsStr) -> Needed {
        let unknown = || Needed { by_blob: HashMap::new(), unknown: true };
        let Ok(hub) = Folder::open(self.root) else { return unknown() };
        let read = || Repository::read(&hub, self.root, folder);
        let is_known = |found: &Option<Repository>| found.as_ref().is_none_or(|found| !found.has_unknown_revisions());
        let Some(repository) = steadily(read, is_known) else { return unknown() };
        let mut by_blob = HashMap::new();
        for revision in &repository.revisions {
            for entry in &revision.entries {
                let path = Path::new(folder).join("snapshots").join(&revision.commit).join(&entry.path);
                if let Some((blob, _)) = repository.blob_of(entry)
                    && !self.going.contains(&path)
                {
                    by_blob.entry(blob.clone()).or_insert(path);
                }
            }
        }
        Needed { by_blob, unknown: repository.has_unknown_revisions() }
    }
}

impl Guard for NewNames<'_> {
    fn keeps(&mut self, step: &Step) -> Option<String> {
        let mut parts = step.folder.iter();
        let (Some(folder), Some(blobs), None) = (parts.next(), parts.next(), parts.next()) else { return None };
        let is_payload = matches!(layout::blob_name(&step.name), BlobName::Payload);
        if step.root != self.root || blobs != "blobs" || !is_payload {
            return None;
        }
        if !self.repositories.contains_key(folder) {
            let needed = self.read(folder);
            self.repositories.insert(folder.to_owned(), needed);
        }
        let needed = self.repositories.get(folder)?;
        match needed.by_blob.get(&step.name) {
            Some(name) => Some(format!("{} has come to lead to it", text::printable_path(&self.root.join(name)))),
            None => needed.unknown.then(|| "a revision here cannot be read and may use it".to_owned()),
        }
    }
}
