//! Revisions that nothing names, what only they use, and what is noted of such that are gone.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::unfinished::{is_staged_link, replaced};
use super::{One, Released};
use crate::model::{Certainty, Garbage, text};
use crate::store::hf::layout::{self, BlobName};
use crate::store::hf::read::Blob;
use crate::store::sweep::{Dead, TOO_YOUNG, is_hex, is_own_temporary};
use crate::store::tree::Entry;

impl One<'_, '_> {
    /// Links of revisions that lead to nothing. Gives the removals by path in the repository.
    pub(super) fn dangling_links(&mut self) -> BTreeMap<PathBuf, usize> {
        let mut found = BTreeMap::new();
        let entries = std::mem::take(&mut self.tree.entries);
        let in_names = |entry: &&Entry| {
            entry.path.starts_with("snapshots") && entry.path.iter().count() > 2
                || entry.path.parent() == Some(Path::new("blobs")) && !is_staged_link(entry.name().as_bytes())
        };
        for entry in entries.iter().filter(in_names).filter(|entry| entry.link.is_some()) {
            let before = self.sweeper.steps();
            let below = self.below.clone();
            // What is alive is told by who reads the revisions; links of a revision do not keep it from being offered.
            if std::fs::metadata(self.repository.path.join(&entry.path)).is_ok() {
                continue;
            }
            if self.sweeper.link(&below, entry, Some(&self.repository.id)).is_some() {
                found.insert(entry.path.clone(), before);
            }
        }
        self.tree.entries = entries;
        found
    }

    /// Revisions that no ref names, by commit, with the item of each.
    pub(super) fn detached(&mut self, links: &BTreeMap<PathBuf, usize>) -> BTreeMap<OsString, usize> {
        let mut found = BTreeMap::new();
        // A ref that says nothing may name anything.
        if self.repository.refs.iter().any(|r| r.commit.is_none()) {
            return found;
        }
        let entries = std::mem::take(&mut self.tree.entries);
        for revision in &self.repository.revisions {
            let commit = &revision.commit;
            if !is_hex(commit.as_bytes(), 40) || !self.repository.refs_of(commit).is_empty() {
                continue;
            }
            let folder = Path::new("snapshots").join(commit);
            let path = self.below.join(&folder);
            let own: Vec<&Entry> = entries.iter().filter(|entry| entry.path.starts_with(&folder)).collect();
            let payloads = revision.entries.iter().filter_map(|entry| self.repository.blob_of(entry)?.1?.payload());
            let context = self.sweeper.context;
            if own.iter().map(|entry| &entry.status).chain(payloads).any(|status| context.is_young(status)) {
                self.sweeper.keep(&path, TOO_YOUNG);
                continue;
            }
            if own.iter().any(|entry| replaced(entry.name().as_bytes(), b".old").is_some()) {
                self.sweeper.keep(&path, "it holds what may be the only copy of a file (.old)");
                continue;
            }
            let why = format!(
                "revision {} of {}, which no branch and no tag names; one that was asked for by its commit never has a name",
                text::printable(&text::escape(commit)).chars().take(8).collect::<String>(),
                self.id()
            );
            let id = Some(self.repository.id.as_str());
            let item = self.sweeper.offer(Dead {
                path: &path,
                kind: Garbage::DetachedRevision,
                why,
                certainty: Certainty::Possible,
                id,
            });
            let below = self.below.clone();
            for entry in own.iter().filter(|entry| !entry.is_folder()) {
                match links.get(&entry.path) {
                    Some(&step) => self.sweeper.goes_with(step, item),
                    None if is_own_temporary(entry.name()) || replaced(entry.name().as_bytes(), b".new").is_some() => {}
                    None => drop(self.sweeper.remove(item, &below, entry, Vec::new())),
                }
            }
            let mut books = commit.clone();
            books.push(".json");
            let listing = Path::new("trees").join(books);
            let marks = Path::new(".no_exist").join(commit);
            let is_book = |entry: &&Entry| entry.path == listing || entry.path.starts_with(&marks);
            for entry in entries.iter().filter(is_book).filter(|entry| !entry.is_folder()) {
                self.sweeper.remove(item, &below, entry, Vec::new());
            }
            let folders = entries.iter().rev().filter(|entry| entry.is_folder());
            for entry in folders.filter(|e| e.path.starts_with(&folder) || e.path.starts_with(&marks)) {
                self.sweeper.remove(item, &below, entry, Vec::new());
            }
            found.insert(commit.clone(), item);
        }
        self.tree.entries = entries;
        found
    }

    /// Payloads that no revision names, or only revisions that are offered.
    pub(super) fn blobs(&mut self, detached: &BTreeMap<OsString, usize>, from: usize, released: &mut Released) {
        let mut users: BTreeMap<&OsStr, (BTreeSet<usize>, bool, Vec<PathBuf>)> = BTreeMap::new();
        for revision in &self.repository.revisions {
            for entry in &revision.entries {
                let Some((name, _)) = self.repository.blob_of(entry) else { continue };
                let user = users.entry(name).or_default();
                match detached.get(&revision.commit) {
                    Some(item) => {
                        user.0.insert(*item);
                        user.2.push(Path::new("snapshots").join(&revision.commit).join(&entry.path));
                    }
                    None => user.1 = true,
                }
            }
        }
        let steps = self.sweeper.steps_by_path(from);
        let entries = std::mem::take(&mut self.tree.entries);
        let below = self.below.clone();
        for entry in entries.iter().filter(|entry| entry.path.parent() == Some(Path::new("blobs"))) {
            let name = entry.name();
            if layout::blob_name(name) != BlobName::Payload {
                continue;
            }
            let blob = self.repository.blobs.get(name);
            if !matches!(blob, Some(Blob::File(_) | Blob::Shared { payload: Some(_), .. })) {
                continue;
            }
            let path = below.join(&entry.path);
            let step = match users.get(name) {
                Some((_, true, _)) => continue,
                Some((items, false, names)) => {
                    let requires: Vec<usize> =
                        names.iter().filter_map(|name| steps.get(&below.join(name)).copied()).collect();
                    if requires.len() != names.len() {
                        continue;
                    }
                    self.sweeper.remove_shared_by(items.clone(), &below, entry, requires)
                }
                None => {
                    let Some(certainty) = orphan_certainty(name.as_bytes()) else { continue };
                    if let Some(because) = self.lock_of(name.as_bytes()) {
                        self.sweeper.keep(&path, because);
                        continue;
                    }
                    let certainty = self.sweeper.unless_new(certainty, [&entry.status]);
                    let why = format!("no revision of {} names it", self.id());
                    let id = Some(self.repository.id.as_str());
                    let before = self.sweeper.steps();
                    let dead = Dead { path: &path, kind: Garbage::OrphanBlob, why, certainty, id };
                    if self.sweeper.offer_one(dead, &below, entry).is_none() {
                        continue;
                    }
                    self.sweeper.hold_locks(before, self.locks_of(name.as_bytes()));
                    before
                }
            };
            if let Some(Blob::Shared { digits, hash, .. }) = blob {
                released.entry((digits.clone(), hash.clone())).or_default().push(step);
            }
        }
        self.tree.entries = entries;
    }

    /// Refs to revisions that are not here, and what is noted of such.
    pub(super) fn bookkeeping(&mut self, detached: &BTreeMap<OsString, usize>, from: usize) {
        let below = self.below.clone();
        let here: BTreeSet<&OsStr> = self.repository.revisions.iter().map(|r| r.commit.as_os_str()).collect();
        let taken = self.sweeper.steps_by_path(from);
        let entries = std::mem::take(&mut self.tree.entries);
        let id = Some(self.repository.id.as_str());
        for r in &self.repository.refs {
            let path = Path::new("refs").join(&r.name);
            let Some(entry) = entries.iter().find(|entry| entry.path == path) else { continue };
            let Some(commit) = r.commit.as_deref().filter(|commit| is_hex(commit.as_bytes(), 40)) else { continue };
            if here.contains(OsStr::new(commit)) || taken.contains_key(&below.join(&path)) {
                continue;
            }
            let name = text::printable_path(&r.name);
            let why = format!("'{name}' names revision {}, which is not here", &commit[..8]);
            let certainty = self.sweeper.unless_new(Certainty::Likely, [&entry.status]);
            let path = below.join(&path);
            let dead = Dead { path: &path, kind: Garbage::DanglingReference, why, certainty, id };
            self.sweeper.offer_one(dead, &below, entry);
        }
        // By commit: what says of it which files it has, and which it has not.
        let mut gone: BTreeMap<OsString, Vec<&Entry>> = BTreeMap::new();
        for entry in &entries {
            let commit = match entry.path.iter().collect::<Vec<_>>()[..] {
                [top, commit, ..] if top == ".no_exist" => commit.to_owned(),
                [top, name] if top == "trees" => match name.as_bytes().strip_suffix(b".json") {
                    Some(commit) => OsStr::from_bytes(commit).to_owned(),
                    None => continue,
                },
                _ => continue,
            };
            if is_hex(commit.as_bytes(), 40) && !here.contains(commit.as_os_str()) && !detached.contains_key(&commit) {
                gone.entry(commit).or_default().push(entry);
            }
        }
        for (commit, own) in gone {
            let known = own.iter().all(|entry| entry.is_folder() || entry.is_file());
            let Some(first) = own.first().filter(|_| known) else { continue };
            let path = below.join(&first.path);
            if own.iter().any(|entry| self.sweeper.context.is_young(&entry.status)) {
                self.sweeper.keep(&path, TOO_YOUNG);
                continue;
            }
            let commit = text::printable(&text::escape(&commit));
            let why = format!("what is noted of revision {}, which is not here", &commit[..8]);
            let certainty = self.sweeper.unless_new(Certainty::Likely, own.iter().map(|entry| &entry.status));
            let item = self.sweeper.offer(Dead { path: &path, kind: Garbage::Leftover, why, certainty, id });
            for entry in own.iter().filter(|entry| !entry.is_folder()).chain(own.iter().rev().filter(|e| e.is_folder()))
            {
                self.sweeper.remove(item, &below, entry, Vec::new());
            }
        }
        self.tree.entries = entries;
    }
}

/// How sure it is that a name in `blobs` is an etag: a checksum of the hub, or perhaps that of a mirror.
fn orphan_certainty(name: &[u8]) -> Option<Certainty> {
    if is_hex(name, 40) || is_hex(name, 64) {
        return Some(Certainty::Likely);
    }
    let digits = name.split(|b| *b == b'-').next().unwrap_or_default();
    let parts = name[digits.len()..].strip_prefix(b"-").unwrap_or(b"0");
    (is_hex(digits, 32) && !parts.is_empty() && parts.iter().all(u8::is_ascii_digit)).then_some(Certainty::Possible)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_checksums_are_likely_orphans() {
        assert_eq!(orphan_certainty("a".repeat(40).as_bytes()), Some(Certainty::Likely));
        assert_eq!(orphan_certainty(format!("{}-12", "a".repeat(32)).as_bytes()), Some(Certainty::Possible));
        assert_eq!(orphan_certainty(b"README.md"), None);
    }
}
