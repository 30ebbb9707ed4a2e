//! The shared store: payloads that no repository links to, lists without a payload, and what crashes left there.

use std::collections::{BTreeSet, HashMap};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::Released;
use crate::disk::folder::{EntryType, Folder};
use crate::disk::lock::{FileLock, is_held};
use crate::model::{Certainty, Garbage, Inode, Operation, text};
use crate::store::hf::read::Repository;
use crate::store::hf::{layout, scan};
use crate::store::sweep::{Dead, Sweeper, TOO_YOUNG, is_hex};
use crate::store::tree::{Entry, reason};

/// Payloads of the shared store that no repository links to, lists of users without a payload, and what crashes left there.
pub(super) fn shared(hub: &Folder, repositories: &[Repository], released: &Released, sweeper: &mut Sweeper<'_>) {
    if !scan::has_shared_store(hub) {
        return;
    }
    let top = Path::new(layout::SHARED);
    if let Some(repository) = repositories.iter().find(|repository| repository.has_unknown_blobs()) {
        let because = format!("{} cannot be read and may use it", text::printable(&repository.id));
        return sweeper.keep(top, because);
    }
    let users = scan::shared_users(repositories.iter());
    let Ok(store) = hub.descend(top) else { return };
    let (Ok(entries), Ok(own)) = (store.entries(), store.own_status()) else {
        return sweeper.warn(format!("{} cannot be read", text::printable_path(&sweeper.root.join(top))));
    };
    for (name, kind) in entries {
        let path = top.join(&name);
        if kind == EntryType::File {
            let Ok(status) = store.status(&name) else { continue };
            let entry = Entry { path, status, link: None, parent: own.inode };
            if !sweeper.own_temporary(Path::new(""), &entry, None)
                && is_suffixed(name.as_bytes(), layout::SHARED_MARKER.as_bytes())
            {
                temporary(&entry, sweeper);
            }
        } else if kind == EntryType::Folder && is_hex(name.as_bytes(), 2) {
            match store.folder(&name).and_then(|folder| Ok((folder.entries()?, folder.own_status()?, folder))) {
                Ok((entries, own, folder)) => {
                    let found = Payloads { folder: &folder, digits: &name, parent: own.inode, entries: &entries };
                    found.look(&users, released, sweeper);
                }
                Err(error) => {
                    sweeper.warn(format!("{} cannot be read: {}", text::printable_path(&path), reason(error)));
                }
            }
        }
    }
}

/// `<stem>.<8 digits>.tmp`.
fn is_suffixed(name: &[u8], stem: &[u8]) -> bool {
    name.strip_prefix(stem)
        .and_then(|rest| rest.strip_prefix(b"."))
        .and_then(|rest| rest.strip_suffix(b".tmp"))
        .is_some_and(|digits| is_hex(digits, 8))
}

fn temporary(entry: &Entry, sweeper: &mut Sweeper<'_>) {
    let why = "bookkeeping of the shared store that a crash has left".to_owned();
    let dead = Dead { path: &entry.path, kind: Garbage::Temporary, why, certainty: Certainty::Certain, id: None };
    sweeper.offer_one(dead, Path::new(""), entry);
}

/// One folder of the shared store.
struct Payloads<'a> {
    folder: &'a Folder,
    digits: &'a OsStr,
    parent: Inode,
    entries: &'a [(OsString, EntryType)],
}

impl Payloads<'_> {
    fn entry(&self, name: &OsStr) -> Option<Entry> {
        let status = self.folder.status(name).ok().filter(|status| status.kind == EntryType::File)?;
        let path = Path::new(layout::SHARED).join(self.digits).join(name);
        Some(Entry { path, status, link: None, parent: self.parent })
    }

    fn look(&self, users: &HashMap<OsString, u64>, released: &Released, sweeper: &mut Sweeper<'_>) {
        for (name, _) in self.entries {
            let Some(entry) = self.entry(name) else { continue };
            let bytes = name.as_bytes();
            if sweeper.own_temporary(Path::new(""), &entry, None) {
                continue;
            }
            if bytes.len() > 64 && is_suffixed(bytes, &[&bytes[..64], b".refs"].concat()) && is_hex(&bytes[..64], 64) {
                temporary(&entry, sweeper);
            } else if let Some(hash) = bytes.strip_suffix(b".refs").map(OsStr::from_bytes) {
                if layout::is_shared_payload(self.digits, hash) && self.entry(hash).is_none() {
                    self.list_without_payload(hash, &entry, sweeper);
                }
            } else if layout::is_shared_payload(self.digits, name) {
                self.payload(name, &entry, users, released, sweeper);
            }
        }
    }

    /// Whether somebody works on the payload.
    fn locked(&self, hash: &OsStr, sweeper: &Sweeper<'_>) -> Option<String> {
        let folder = sweeper.root.join(layout::SHARED).join(self.digits);
        let beside = |suffix: &str| {
            let mut name = hash.to_owned();
            name.push(suffix);
            folder.join(name)
        };
        if beside(".lock.soft").symlink_metadata().is_ok() {
            return Some("another program works on it, or died at it and left its .lock.soft".to_owned());
        }
        let lock = beside(".lock");
        is_held(&lock).then(|| format!("{} works on it", FileLock::holder(&lock)))
    }

    fn list_without_payload(&self, hash: &OsStr, entry: &Entry, sweeper: &mut Sweeper<'_>) {
        if let Some(because) = self.locked(hash, sweeper) {
            return sweeper.keep(&entry.path, because);
        }
        if sweeper.context.is_young(&entry.status) {
            return sweeper.keep(&entry.path, TOO_YOUNG);
        }
        let why = "the list of the users of a payload that is gone".to_owned();
        let certainty = sweeper.unless_new(Certainty::Certain, [&entry.status]);
        let dead = Dead { path: &entry.path, kind: Garbage::Leftover, why, certainty, id: None };
        let item = sweeper.offer(dead);
        sweeper.step(Operation::RemoveSharedRefs, BTreeSet::from([item]), Path::new(""), entry, Vec::new());
    }

    fn payload(
        &self,
        hash: &OsStr,
        entry: &Entry,
        users: &HashMap<OsString, u64>,
        released: &Released,
        sweeper: &mut Sweeper<'_>,
    ) {
        let mut list = hash.to_owned();
        list.push(".refs");
        let list = self.entry(&list);
        let links = users.get(hash).copied().unwrap_or(0);
        let steps = released.get(&(self.digits.to_owned(), hash.to_owned())).map(Vec::as_slice).unwrap_or_default();
        if links > steps.len() as u64 {
            return;
        }
        if list.is_none() {
            let because = "the list of its users is missing, so that nobody can tell whether it is used";
            return sweeper.keep(&entry.path, because);
        }
        if let Some(because) = self.locked(hash, sweeper) {
            return sweeper.keep(&entry.path, because);
        }
        let items = if steps.is_empty() {
            if sweeper.context.is_young(&entry.status) {
                return sweeper.keep(&entry.path, TOO_YOUNG);
            }
            let certainty = sweeper.unless_new(Certainty::Likely, [&entry.status]);
            let why = "no repository links to it".to_owned();
            let dead = Dead { path: &entry.path, kind: Garbage::OrphanBlob, why, certainty, id: None };
            BTreeSet::from([sweeper.offer(dead)])
        } else {
            steps.iter().flat_map(|step| sweeper.items_of(*step)).collect()
        };
        let payload = sweeper.step(Operation::RemoveShared, items.clone(), Path::new(""), entry, steps.to_vec());
        if let Some(list) = list {
            sweeper.step(Operation::RemoveSharedRefs, items, Path::new(""), &list, vec![payload]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_bookkeeping_that_is_being_written() {
        assert!(is_suffixed(b".huggingface-shared-blobs.0123abcd.tmp", b".huggingface-shared-blobs"));
    }
}
