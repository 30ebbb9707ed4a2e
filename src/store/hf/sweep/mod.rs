//! What is dead in the cache.
//!
//! Source of the names: `huggingface_hub` 0.13 to 2.4, hf-hub 0.4 to 1.1 and llama.cpp.

mod revisions;
mod shared;
mod unfinished;

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use tokio_util::sync::CancellationToken;

use self::shared::shared;
use self::unfinished::scratch;
use super::layout;
use super::read::Repository;
use super::scan;
use crate::disk::folder::{EntryType, Folder};
use crate::model::{Certainty, Garbage, StoreKind, Sweep, text};
use crate::store::sweep::{Dead, SweepContext, Sweeper, is_python_temporary};
use crate::store::tree::{Entry, Tree, reason};

/// What lies at the top of a repository's folder.
const PARTS: [&str; 5] = ["blobs", "refs", "snapshots", ".no_exist", "trees"];

/// Removals of links to a payload of the shared store, by its two digits and its hash.
type Released = BTreeMap<(OsString, OsString), Vec<usize>>;

/// Everything in the cache at `root` that nothing can use any more.
pub(super) fn sweep(root: &Path, context: &SweepContext, cancel: &CancellationToken) -> Sweep {
    let mut sweeper = Sweeper::new(StoreKind::Hf, root, context);
    let hub = match Folder::open(root) {
        Ok(hub) => hub,
        Err(rustix::io::Errno::NOENT) => return sweeper.finish(),
        Err(error) => {
            sweeper.warn(format!("cannot read {}: {}", text::printable_path(root), reason(error)));
            return sweeper.finish();
        }
    };
    let repositories = match scan::read_all(&hub, root) {
        Ok(repositories) => repositories,
        Err(error) => {
            sweeper.warn(format!("cannot list {}: {}", text::printable_path(root), reason(error)));
            return sweeper.finish();
        }
    };
    let mut released = Released::new();
    for repository in &repositories {
        if cancel.is_cancelled() {
            return Sweep::default();
        }
        one(&hub, repository, &mut sweeper, &mut released);
    }
    // A crash before a repository got its folder leaves what was to become it.
    let locks = hub.descend(Path::new(layout::LOCKS)).and_then(|locks| locks.entries()).unwrap_or_default();
    for (folder, kind) in locks {
        if kind == EntryType::Folder && repositories.iter().all(|repository| repository.folder != folder) {
            scratch(&hub, &folder, None, &mut sweeper);
        }
    }
    // Opened again: a folder is read once.
    match Folder::open(root) {
        Ok(again) => top(&again, &mut sweeper),
        Err(error) => sweeper.warn(format!("cannot read {}: {}", text::printable_path(root), reason(error))),
    }
    shared(&hub, &repositories, &released, &mut sweeper);
    sweeper.finish()
}

/// Temporary files beside the repositories.
fn top(hub: &Folder, sweeper: &mut Sweeper<'_>) {
    let (Ok(entries), Ok(status)) = (hub.entries(), hub.own_status()) else { return };
    for (name, _) in entries.into_iter().filter(|(_, kind)| *kind == EntryType::File) {
        let Ok(found) = hub.status(&name) else { continue };
        let entry = Entry { path: PathBuf::from(&name), status: found, link: None, parent: status.inode };
        if sweeper.own_temporary(Path::new(""), &entry, None) || !is_python_temporary(name.as_bytes(), b"") {
            continue;
        }
        let why = "a download of huggingface_hub up to 0.22 that was killed: nothing goes on with it".to_owned();
        let dead = Dead { path: &entry.path, kind: Garbage::Partial, why, certainty: Certainty::Certain, id: None };
        sweeper.offer_one(dead, Path::new(""), &entry);
    }
}

/// One repository at work.
struct One<'a, 'c> {
    repository: &'a Repository,
    tree: Tree,
    below: PathBuf,
    sweeper: &'a mut Sweeper<'c>,
    /// Whether somebody works here: what nothing names yet may be named in a moment.
    busy: Option<String>,
}

fn one(hub: &Folder, repository: &Repository, sweeper: &mut Sweeper<'_>, released: &mut Released) {
    let below = PathBuf::from(&repository.folder);
    for (path, _) in &repository.foreign {
        let path = below.join(path);
        if std::fs::metadata(sweeper.root.join(&path)).is_ok() {
            sweeper.note_link(&path);
        }
    }
    if repository.status.kind == EntryType::Link {
        let (Ok(own), Ok(to)) = (hub.own_status(), hub.read_link(&repository.folder)) else { return };
        let entry = Entry { path: below.clone(), status: repository.status, link: Some(to.into()), parent: own.inode };
        sweeper.link(Path::new(""), &entry, Some(&repository.id));
        return;
    }
    if repository.status.kind != EntryType::Folder {
        return;
    }
    let tree = match Tree::read(hub, &repository.folder) {
        Ok(tree) => tree,
        Err(rustix::io::Errno::NOENT) => return,
        Err(error) => {
            let path = text::printable_path(&repository.path);
            return sweeper.warn(format!("{path} cannot be read: {}; nothing there is offered", reason(error)));
        }
    };
    let from = sweeper.steps();
    let mut work = One { repository, tree, below, sweeper, busy: None };
    scratch(hub, &repository.folder, Some(&repository.id), work.sweeper);
    work.find_writers(hub);
    work.partials();
    let unread = !work.repository.unreadable.is_empty() || !work.tree.unread.is_empty();
    if unread {
        let path = text::printable_path(&repository.path);
        work.sweeper.warn(format!("{path} cannot be read in full; only partial files there are offered"));
        return;
    }
    if let Some(because) = work.busy.clone() {
        work.sweeper.keep(&PathBuf::from(&repository.folder), because);
        return;
    }
    let links = work.dangling_links();
    let detached = work.detached(&links);
    work.blobs(&detached, from, released);
    work.bookkeeping(&detached, from);
    work.abandoned(hub, from);
}

impl One<'_, '_> {
    fn id(&self) -> &str {
        &self.repository.id
    }

    /// The folder itself, when nothing in it can be loaded and everything in it is known and dead.
    fn abandoned(&mut self, hub: &Folder, from: usize) {
        let Ok(own) = hub.own_status() else { return };
        let strange =
            |entry: &&Entry| entry.path.iter().count() == 1 && !PARTS.iter().any(|part| entry.path == Path::new(part));
        // A download that ended before its first file has made the folder of its revision.
        let loads = self.repository.revisions.iter().any(|revision| !revision.entries.is_empty());
        if loads || self.tree.entries.iter().any(|entry| strange(&entry)) {
            return;
        }
        let top = Entry { path: self.below.clone(), status: self.repository.status, link: None, parent: own.inode };
        let why = format!("no file of any revision of {} is here", self.id());
        let dead = Dead {
            path: &self.below,
            kind: Garbage::AbandonedFolder,
            why,
            certainty: Certainty::Likely,
            id: Some(&self.repository.id),
        };
        let entries: Vec<&Entry> = self.tree.entries.iter().collect();
        let is_book = |entry: &Entry| match entry.path.iter().next().and_then(OsStr::to_str) {
            Some("refs" | ".no_exist" | "trees") => true,
            // The Rust client up to 0.5 leaves its locks beside the blobs; an empty one says nothing.
            Some("blobs") => entry.name().as_bytes().ends_with(b".lock") && entry.status.size_bytes == 0,
            _ => false,
        };
        self.sweeper.abandoned(&top, &entries, from, &is_book, dead);
    }
}
