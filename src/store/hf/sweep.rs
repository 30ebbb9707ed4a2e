//! What is dead in the cache.
//!
//! Source of the names: `huggingface_hub` 0.13 to 2.4, hf-hub 0.4 to 1.1 and llama.cpp.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use tokio_util::sync::CancellationToken;

use super::layout::{self, BlobName, Target as Link};
use super::read::{Blob, Content, Repository};
use super::scan;
use crate::disk::folder::{EntryType, Folder};
use crate::disk::lock::{FileLock, is_held};
use crate::model::{Certainty, Garbage, Operation, StoreKind, Sweep, text};
use crate::store::flat::staging::StagingName;
use crate::store::sweep::{Dead, SweepContext, Sweeper, TOO_YOUNG, is_hex, is_own_temporary, is_python_temporary};
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

/// What crashes of this program left where it makes what then gets its name in the repository at once.
fn scratch(hub: &Folder, folder: &OsStr, id: Option<&str>, sweeper: &mut Sweeper<'_>) {
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

    /// Whether the lock of `etag` is held, and by whom.
    fn lock_of(&self, etag: &[u8]) -> Option<String> {
        let held = self.locks_of(etag).map(|lock| self.sweeper.root.join(lock)).into_iter().find(|lock| is_held(lock));
        held.map(|lock| format!("is being downloaded by {}", FileLock::holder(&lock)))
    }

    /// The locks of `etag`, relative to the cache.
    fn locks_of(&self, etag: &[u8]) -> [PathBuf; 2] {
        let mut name = OsStr::from_bytes(etag).to_owned();
        name.push(".lock");
        // The Rust client up to 0.5 locks beside the blob.
        [
            Path::new(".locks").join(&self.repository.folder).join(&name),
            Path::new(&self.repository.folder).join("blobs").join(&name),
        ]
    }

    /// Looks for locks that are held and for unfinished files that are young.
    fn find_writers(&mut self, hub: &Folder) {
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
    fn partials(&mut self) {
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

    /// Links of revisions that lead to nothing. Gives the removals by path in the repository.
    fn dangling_links(&mut self) -> BTreeMap<PathBuf, usize> {
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
    fn detached(&mut self, links: &BTreeMap<PathBuf, usize>) -> BTreeMap<OsString, usize> {
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
            let payloads = revision.entries.iter().filter_map(|entry| match &entry.content {
                Content::Link(Link::Blob(name)) => self.repository.blobs.get(name)?.payload(),
                _ => None,
            });
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
    fn blobs(&mut self, detached: &BTreeMap<OsString, usize>, from: usize, released: &mut Released) {
        let mut users: BTreeMap<&OsStr, (BTreeSet<usize>, bool, Vec<PathBuf>)> = BTreeMap::new();
        for revision in &self.repository.revisions {
            for entry in &revision.entries {
                let Content::Link(Link::Blob(name)) = &entry.content else { continue };
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
    fn bookkeeping(&mut self, detached: &BTreeMap<OsString, usize>, from: usize) {
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

/// The file that `.<name>.<8 digits><suffix>` stands beside while it is replaced.
fn replaced<'n>(name: &'n [u8], suffix: &[u8]) -> Option<&'n [u8]> {
    let rest = name.strip_prefix(b".")?.strip_suffix(suffix)?;
    let (of, digits) = rest.split_at_checked(rest.len().checked_sub(9)?)?;
    (!of.is_empty() && digits.first() == Some(&b'.') && is_hex(&digits[1..], 8)).then_some(of)
}

/// `.<etag>.<8 digits>.shared`: a link into the shared store before it has its name.
fn is_staged_link(name: &[u8]) -> bool {
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

/// How sure it is that a name in `blobs` is an etag: a checksum of the hub, or perhaps that of a mirror.
fn orphan_certainty(name: &[u8]) -> Option<Certainty> {
    if is_hex(name, 40) || is_hex(name, 64) {
        return Some(Certainty::Likely);
    }
    let digits = name.split(|b| *b == b'-').next().unwrap_or_default();
    let parts = name[digits.len()..].strip_prefix(b"-").unwrap_or(b"0");
    (is_hex(digits, 32) && !parts.is_empty() && parts.iter().all(u8::is_ascii_digit)).then_some(Certainty::Possible)
}

/// Payloads of the shared store that no repository links to, lists of users without a payload, and what crashes left there.
fn shared(hub: &Folder, repositories: &[Repository], released: &Released, sweeper: &mut Sweeper<'_>) {
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
    parent: crate::model::Inode,
    entries: &'a [(OsString, EntryType)],
}

impl Payloads<'_> {
    fn entry(&self, name: &OsStr) -> Option<Entry> {
        let status = self.folder.status(name).ok().filter(|status| status.kind == EntryType::File)?;
        let path = Path::new(layout::SHARED).join(self.digits).join(name);
        Some(Entry { path, status, link: None, parent: self.parent })
    }

    fn look(&self, users: &std::collections::HashMap<OsString, u64>, released: &Released, sweeper: &mut Sweeper<'_>) {
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
        users: &std::collections::HashMap<OsString, u64>,
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
    fn names_of_what_is_unfinished() {
        assert!(is_staged_link(b".0123.89abcdef.shared") && !is_staged_link(b".89abcdef.shared"));
        assert_eq!(replaced(b".model.bin.0123abcd.old", b".old"), Some(&b"model.bin"[..]));
        assert_eq!(replaced(b".model.bin.0123abc.old", b".old"), None);
        assert!(is_uuid(b"0b5e3f5c-9a1d-4f47-8a44-6d1f0c0f9d7e") && !is_uuid(b"0b5e3f5c"));
        assert!(is_python_temporary(b"tmpab12_z9q", b"") && !is_python_temporary(b"tmpfile", b""));
        assert!(is_suffixed(b".huggingface-shared-blobs.0123abcd.tmp", b".huggingface-shared-blobs"));
        let names = BTreeSet::from([Path::new("refs/main")]);
        assert!(temporary_ref(b"main.tmp", Path::new("refs"), &names));
        assert!(temporary_ref(b"x.0123abcd.tmp", Path::new("refs"), &names));
        assert!(
            !temporary_ref(b"x.tmp", Path::new("refs"), &names) && !temporary_ref(b"main", Path::new("refs"), &names)
        );
        assert_eq!(orphan_certainty("a".repeat(40).as_bytes()), Some(Certainty::Likely));
        assert_eq!(orphan_certainty(format!("{}-12", "a".repeat(32)).as_bytes()), Some(Certainty::Possible));
        assert_eq!(orphan_certainty(b"README.md"), None);
    }
}
