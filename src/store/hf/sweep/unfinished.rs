//! What was not finished: partial files, temporary names, and whoever still works on them.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::One;
use crate::disk::folder::Folder;
use crate::disk::lock::{FileLock, is_held};
use crate::model::{Certainty, Garbage};
use crate::store::flat::staging::StagingName;
use crate::store::hf::layout::{self, BlobName};
use crate::store::sweep::{Dead, Sweeper, TOO_YOUNG, is_hex, is_own_temporary, is_python_temporary};
use crate::store::tree::{Entry, Tree};

/// What crashes of this program left where it makes what then gets its name in the repository at once.
pub(super) fn scratch(hub: &Folder, folder: &OsStr, id: Option<&str>, sweeper: &mut Sweeper<'_>) {
    let path = Path::new(layout::LOCKS).join(folder);
    let Ok(tree) = hub.descend(&path).and_then(|folder| Tree::of(&folder)) else { return };
    for top in tree.entries.iter().filter(|entry| entry.path.iter().count() == 1 && is_own_temporary(entry.name())) {
        let inside: Vec<&Entry> = tree.entries.iter().filter(|entry| entry.path.starts_with(&top.path)).collect();
        let unread = tree.unread.iter().any(|unread| unread.path.starts_with(&top.path));
        let whole = path.join(&top.path);
        if unread || inside.iter().any(|entry| sweeper.context.is_young(&entry.status)) {
            sweeper.keep(&whole, TOO_YOUNG);
            continue;
        }
        let why = "a temporary name of this program that a crash has left".to_owned();
        let dead = Dead { path: &whole, kind: Garbage::Temporary, why, certainty: Certainty::Certain, id };
        let item = sweeper.offer(dead);
        let folders = inside.iter().rev().filter(|entry| entry.is_folder());
        for entry in inside.iter().filter(|entry| !entry.is_folder()).chain(folders) {
            sweeper.remove(item, &path, entry, Vec::new());
        }
    }
}

impl One<'_, '_> {
    /// Whether the lock of `etag` is held, and by whom.
    pub(super) fn lock_of(&self, etag: &[u8]) -> Option<String> {
        let held = self.locks_of(etag).map(|lock| self.sweeper.root.join(lock)).into_iter().find(|lock| is_held(lock));
        held.map(|lock| format!("is being downloaded by {}", FileLock::holder(&lock)))
    }

    /// The locks of `etag`, relative to the cache.
    pub(super) fn locks_of(&self, etag: &[u8]) -> [PathBuf; 2] {
        let mut name = OsStr::from_bytes(etag).to_owned();
        name.push(".lock");
        // The Rust client up to 0.5 locks beside the blob.
        [
            Path::new(".locks").join(&self.repository.folder).join(&name),
            Path::new(&self.repository.folder).join("blobs").join(&name),
        ]
    }

    /// Looks for locks that are held and for unfinished files that are young.
    pub(super) fn find_writers(&mut self, hub: &Folder) {
        let locks = hub.descend(&Path::new(".locks").join(&self.repository.folder)).and_then(|folder| folder.entries());
        let beside = self.repository.blobs.keys().filter(|name| name.as_bytes().ends_with(b".lock"));
        let folder = self.sweeper.root.join(".locks").join(&self.repository.folder);
        let all = locks.into_iter().flatten().map(|(name, _)| folder.join(name));
        let beside = beside.map(|name| self.repository.path.join("blobs").join(name));
        if let Some(lock) = all.chain(beside).find(|lock| is_held(lock)) {
            self.busy = Some(format!("{} works on this repository", FileLock::holder(&lock)));
            return;
        }
        // This program names a revision only when all of it is here.
        let staged = self.tree.entries.iter().find(|entry| StagingName::parse(entry.name()).is_some());
        let staged = staged.map(|entry| self.repository.path.join(&entry.path));
        let context = self.sweeper.context;
        if let Some(because) = context
            .queued(staged.as_deref().unwrap_or(&self.repository.path))
            .filter(|_| staged.is_some() || context.queue_unknown.is_none())
        {
            self.busy = Some(because);
            return;
        }
        let unfinished = |entry: &&Entry| {
            entry.path.parent() == Some(Path::new("blobs")) && layout::blob_name(entry.name()) != BlobName::Payload
        };
        let is_lock = |entry: &Entry| entry.name().as_bytes().ends_with(b".lock");
        if self.tree.entries.iter().filter(unfinished).any(|entry| !is_lock(entry) && context.is_young(&entry.status)) {
            self.busy = Some("something was downloaded into this repository less than an hour ago".to_owned());
        }
    }

    /// Unfinished downloads and what crashes left, wherever it lies.
    pub(super) fn partials(&mut self) {
        let entries = std::mem::take(&mut self.tree.entries);
        let in_blobs: Vec<&Entry> =
            entries.iter().filter(|entry| entry.path.parent() == Some(Path::new("blobs"))).collect();
        let below = self.below.clone();
        self.sweeper.own_partials(&below, &in_blobs, Some(&self.repository.id));
        let names: BTreeSet<&Path> = entries.iter().map(|entry| entry.path.as_path()).collect();
        for entry in entries.iter().filter(|entry| !entry.is_folder()) {
            let below = self.below.clone();
            if self.sweeper.own_temporary(&below, entry, Some(&self.repository.id)) {
                continue;
            }
            let path = below.join(&entry.path);
            let Some((kind, why, certainty)) = self.unfinished(entry, &names) else { continue };
            if kind == Garbage::Partial
                && let BlobName::Partial(etag) = layout::blob_name(entry.name())
                && let Some(because) = self.lock_of(etag)
            {
                self.sweeper.keep(&path, because);
                continue;
            }
            let dead = Dead { path: &path, kind, why, certainty, id: Some(&self.repository.id) };
            let step = self.sweeper.steps();
            if self.sweeper.offer_one(dead, &below, entry).is_some()
                && let BlobName::Partial(etag) = layout::blob_name(entry.name())
            {
                self.sweeper.hold_locks(step, self.locks_of(etag));
            }
        }
        self.tree.entries = entries;
    }

    /// What an unfinished or temporary name means; `None` for every other name.
    fn unfinished(&self, entry: &Entry, names: &BTreeSet<&Path>) -> Option<(Garbage, String, Certainty)> {
        let name = entry.name().as_bytes();
        let crash =
            |what: &str| Some((Garbage::Temporary, format!("{what} that a crash has left"), Certainty::Certain));
        let parent = entry.path.parent()?;
        if let Some(of) = replaced(name, b".new") {
            // Without the file that it was to replace it may be the only copy.
            let there = names.contains(parent.join(OsStr::from_bytes(of)).as_path());
            return there.then(|| crash("a copy beside the file that it was to replace,")).flatten();
        }
        if !(entry.is_file() || entry.link.is_some() && is_staged_link(name)) {
            return None;
        }
        match parent.iter().next().and_then(OsStr::to_str) {
            Some("blobs") if parent == Path::new("blobs") => {}
            Some("refs") => return temporary_ref(name, parent, names).then(|| crash("a ref")).flatten(),
            Some("trees") => return is_python_temporary(name, b".tmp").then(|| crash("a listing")).flatten(),
            _ => return None,
        }
        if is_staged_link(name) {
            return crash("a link into the shared store");
        }
        if name.strip_prefix(b"tmp_").is_some_and(is_uuid) {
            return crash("a probe");
        }
        // Ours come with their journals.
        if StagingName::parse(entry.name()).is_some() {
            return None;
        }
        let BlobName::Partial(etag) = layout::blob_name(entry.name()) else { return None };
        let here = names.contains(Path::new("blobs").join(OsStr::from_bytes(etag)).as_path());
        let own_run = name.strip_suffix(b".incomplete").is_some_and(|rest| rest.len() == etag.len() + 9);
        let (why, certainty) = match (here, own_run) {
            (true, _) => ("an unfinished download of a file that is here by now".to_owned(), Certainty::Certain),
            (false, true) => ("an unfinished download that no client goes on with".to_owned(), Certainty::Certain),
            (false, false) => ("an unfinished download".to_owned(), Certainty::Likely),
        };
        Some((Garbage::Partial, why, certainty))
    }
}

/// The file that `.<name>.<8 digits><suffix>` stands beside while it is replaced.
pub(super) fn replaced<'n>(name: &'n [u8], suffix: &[u8]) -> Option<&'n [u8]> {
    let rest = name.strip_prefix(b".")?.strip_suffix(suffix)?;
    let (of, digits) = rest.split_at_checked(rest.len().checked_sub(9)?)?;
    (!of.is_empty() && digits.first() == Some(&b'.') && is_hex(&digits[1..], 8)).then_some(of)
}

/// `.<etag>.<8 digits>.shared`: a link into the shared store before it has its name.
pub(super) fn is_staged_link(name: &[u8]) -> bool {
    replaced(name, b".shared").is_some()
}

/// Whether a file in `refs` is one that is being written: `<ref>.<8 digits>.tmp`, llama.cpp's `<ref>.tmp`.
fn temporary_ref(name: &[u8], parent: &Path, names: &BTreeSet<&Path>) -> bool {
    let Some(rest) = name.strip_suffix(b".tmp") else { return false };
    let digits = rest.iter().rposition(|b| *b == b'.').map(|dot| &rest[dot + 1..]);
    digits.is_some_and(|digits| is_hex(digits, 8)) || names.contains(parent.join(OsStr::from_bytes(rest)).as_path())
}

/// `xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx`.
fn is_uuid(name: &[u8]) -> bool {
    let parts: Vec<&[u8]> = name.split(|b| *b == b'-').collect();
    parts.len() == 5 && parts.iter().zip([8, 4, 4, 4, 12]).all(|(part, count)| is_hex(part, count))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_what_is_unfinished() {
        assert!(is_staged_link(b".0123.89abcdef.shared") && !is_staged_link(b".89abcdef.shared"));
        assert_eq!(replaced(b".model.bin.0123abcd.old", b".old"), Some(&b"model.bin"[..]));
        assert_eq!(replaced(b".model.bin.0123abc.old", b".old"), None);
        assert!(is_uuid(b"0b5e3f5c-9a1d-4f47-8a44-6d1f0c0f9d7e") && !is_uuid(b"0b5e3f5c"));
        assert!(is_python_temporary(b"tmpab12_z9q", b"") && !is_python_temporary(b"tmpfile", b""));
        let names = BTreeSet::from([Path::new("refs/main")]);
        assert!(temporary_ref(b"main.tmp", Path::new("refs"), &names));
        assert!(temporary_ref(b"x.0123abcd.tmp", Path::new("refs"), &names));
        assert!(
            !temporary_ref(b"x.tmp", Path::new("refs"), &names) && !temporary_ref(b"main", Path::new("refs"), &names)
        );
    }
}
