//! Finding what nothing can use any more: the same for every store.
//!
//! Nothing is dead because nobody knows what it is: a name has to be one that a known program gives to what it will not look at
//! again, or that it looks for by another name that is not there. What is being worked on, what is young and what could not be
//! read in full is never offered.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use jiff::{SignedDuration, Timestamp};

use super::planning::lexical;
use super::tree::Entry;
use crate::disk::FileInfo;
use crate::disk::lock::{Claim, FileLock, claim, is_held};
use crate::disk::permission::Removal;
use crate::model::{
    Blocked, Certainty, Garbage, Inode, Kept, Operation, Stamp, Step, StoreKind, Sweep, SweepItem, SweepStep, text,
};

/// What was modified in this time before a sweep is not offered: it may be about to be used. Where something is dead only because
/// nothing names it, this also counts from the last change of its inode, which a copy that keeps the times of the original does
/// not hide: it is then no more than [`Certainty::Possible`].
pub const YOUNG: SignedDuration = SignedDuration::from_hours(1);

/// Under what circumstances a sweep looks.
#[derive(Clone, Debug)]
pub struct SweepContext {
    /// The time of day.
    pub now: Timestamp,
    /// Folders with partial files that jobs of the queue go on with.
    pub queued: BTreeSet<PathBuf>,
    /// Why nobody can tell which partial files of this program the queue goes on with, if nobody can: then none is offered.
    pub queue_unknown: Option<String>,
}

impl SweepContext {
    /// A look at `now`, with nothing in the queue.
    #[must_use]
    pub fn at(now: Timestamp) -> Self {
        Self { now, queued: BTreeSet::new(), queue_unknown: None }
    }

    /// Whether it was modified so recently that nobody may take it; a time that nobody can tell is recent.
    #[must_use]
    pub fn is_young(&self, status: &FileInfo) -> bool {
        self.is_recent(status.modified)
    }

    /// Whether its inode changed so recently that it may just have been put there, whatever its modification time says.
    #[must_use]
    pub fn is_new_here(&self, status: &FileInfo) -> bool {
        self.is_recent(status.changed)
    }

    fn is_recent(&self, time: Option<Timestamp>) -> bool {
        time.is_none_or(|time| time.duration_until(self.now) < YOUNG)
    }

    /// Why the partial file of this program at `path` may be gone on with.
    pub(super) fn queued(&self, path: &Path) -> Option<String> {
        if let Some(why) = &self.queue_unknown {
            return Some(format!("a job of the queue may go on with it: {why}"));
        }
        let is_queued = self.queued.iter().any(|folder| path.starts_with(folder));
        is_queued.then(|| "a job of the queue goes on with it".to_owned())
    }
}

/// What is dead, before its removal is known.
#[derive(Debug)]
pub(super) struct Dead<'a> {
    /// Relative to the root.
    pub(super) path: &'a Path,
    pub(super) kind: Garbage,
    pub(super) why: String,
    pub(super) certainty: Certainty,
    pub(super) id: Option<&'a str>,
}

/// Collects what is dead in one store.
#[doc(hidden)]
#[derive(Debug)]
pub struct Sweeper<'a> {
    pub(super) root: PathBuf,
    kind: StoreKind,
    pub(super) context: &'a SweepContext,
    sweep: Sweep,
    /// What each step removes.
    targets: Vec<FileInfo>,
}

impl<'a> Sweeper<'a> {
    pub(super) fn new(kind: StoreKind, root: &Path, context: &'a SweepContext) -> Self {
        Self { root: root.to_owned(), kind, context, sweep: Sweep::default(), targets: Vec::new() }
    }

    /// Offers something; its removals come with [`Self::remove`].
    #[allow(clippy::needless_pass_by_value, reason = "it is made for this call")]
    pub(super) fn offer(&mut self, dead: Dead<'_>) -> usize {
        self.sweep.items.push(SweepItem {
            path: self.root.join(dead.path),
            kind: dead.kind,
            why: text::printable(&dead.why),
            certainty: dead.certainty,
            bytes: 0,
            store: self.kind,
            store_path: self.root.clone(),
            id: dead.id.map(str::to_owned),
        });
        self.sweep.items.len() - 1
    }

    /// Tells that something that looks dead is not offered.
    pub(super) fn keep(&mut self, path: &Path, because: impl Into<String>) {
        let path = self.root.join(path);
        self.sweep.kept.push(Kept { path, because: because.into() });
    }

    /// Tells that something could not be looked at.
    pub(super) fn warn(&mut self, line: impl Into<String>) {
        self.sweep.warnings.push(line.into());
    }

    /// Notes a link that leads somewhere: what it leads to is in use.
    pub(super) fn note_link(&mut self, path: &Path) {
        self.sweep.links.push(self.root.join(path));
    }

    /// Adds the removal of `entry`, whose path is relative to the folder `below` of the root, for an item.
    pub(super) fn remove(&mut self, item: usize, below: &Path, entry: &Entry, requires: Vec<usize>) -> usize {
        self.remove_shared_by(BTreeSet::from([item]), below, entry, requires)
    }

    /// The same for several items that all have to be chosen.
    pub(super) fn remove_shared_by(
        &mut self,
        items: BTreeSet<usize>,
        below: &Path,
        entry: &Entry,
        requires: Vec<usize>,
    ) -> usize {
        let operation = if entry.is_folder() { Operation::RemoveFolder } else { Operation::RemoveFile };
        self.step(operation, items, below, entry, requires)
    }

    /// Adds the removal of a payload of the shared blob store, or with [`Operation::RemoveSharedRefs`] of the list of its users.
    pub(super) fn step(
        &mut self,
        operation: Operation,
        items: BTreeSet<usize>,
        below: &Path,
        entry: &Entry,
        requires: Vec<usize>,
    ) -> usize {
        let path = below.join(&entry.path);
        let status = &entry.status;
        let (links, disk_bytes) = if entry.is_file() { (status.links, status.disk_bytes) } else { (0, 0) };
        let stamp = entry.is_file().then_some(Stamp { size_bytes: status.size_bytes, modified: status.modified });
        let step = Step {
            operation,
            root: self.root.clone(),
            folder: path.parent().map(Path::to_owned).unwrap_or_default(),
            parent: entry.parent,
            name: entry.name().to_owned(),
            target: status.inode,
            stamp,
            bytes: 0,
            locks: Vec::new(),
            requires,
        };
        self.targets.push(entry.status);
        self.sweep.steps.push(SweepStep { step, items, with: BTreeSet::new(), links, disk_bytes });
        self.sweep.steps.len() - 1
    }

    /// Holds these locks, relative to the root, while step `at` runs.
    pub(super) fn hold_locks(&mut self, at: usize, locks: impl IntoIterator<Item = PathBuf>) {
        if let Some(step) = self.sweep.steps.get_mut(at) {
            step.step.locks.extend(locks);
        }
    }

    /// Lets step `at` also run when `item` is chosen.
    pub(super) fn goes_with(&mut self, at: usize, item: usize) {
        if let Some(step) = self.sweep.steps.get_mut(at) {
            step.with.insert(item);
        }
    }

    /// The items that step `at` needs.
    pub(super) fn items_of(&self, at: usize) -> BTreeSet<usize> {
        self.sweep.steps.get(at).map(|step| step.items.clone()).unwrap_or_default()
    }

    /// The steps from number `from` on, by the path of what they remove, relative to the root.
    pub(super) fn steps_by_path(&self, from: usize) -> BTreeMap<PathBuf, usize> {
        let steps = self.sweep.steps.iter().enumerate().skip(from);
        steps.map(|(at, found)| (found.step.folder.join(&found.step.name), at)).collect()
    }

    /// How many steps there are.
    pub(super) fn steps(&self) -> usize {
        self.sweep.steps.len()
    }

    /// Offers one file or link by itself, unless it is young.
    pub(super) fn offer_one(&mut self, dead: Dead<'_>, below: &Path, entry: &Entry) -> Option<usize> {
        if self.context.is_young(&entry.status) {
            self.keep(dead.path, TOO_YOUNG);
            return None;
        }
        let item = self.offer(dead);
        self.remove(item, below, entry, Vec::new());
        Some(item)
    }

    /// `certainty`, or the least if one of these was put there just now: what nothing names yet may be named in a moment.
    pub(super) fn unless_new<'s>(
        &self,
        certainty: Certainty,
        statuses: impl IntoIterator<Item = &'s FileInfo>,
    ) -> Certainty {
        let new = statuses.into_iter().any(|status| self.context.is_new_here(status));
        if new { Certainty::Possible } else { certainty }
    }

    /// Offers partial files of this program, a partial with its journal each, unless something works on them. `entries` are
    /// relative to `below`.
    pub(super) fn own_partials(&mut self, below: &Path, entries: &[&Entry], id: Option<&str>) {
        use super::flat::staging::StagingName;
        let mut pairs: BTreeMap<(PathBuf, String), [Option<&Entry>; 2]> = BTreeMap::new();
        for entry in entries.iter().filter(|entry| entry.is_file()) {
            let Some(name) = StagingName::parse(entry.name()) else { continue };
            let key = (entry.path.with_file_name(&name.target), name.key);
            pairs.entry(key).or_default()[usize::from(name.journal)] = Some(entry);
        }
        for ((target, _), [partial, journal]) in pairs {
            let Some(first) = partial.or(journal) else { continue };
            let path = below.join(&first.path);
            let held = journal.map(|journal| self.root.join(below).join(&journal.path));
            if let Some(lock) = held.filter(|lock| is_held(lock)) {
                let holder = FileLock::holder(&lock);
                self.keep(&path, format!("is being downloaded by {holder}"));
                continue;
            }
            if let Some(because) = self.context.queued(&self.root.join(&path)) {
                self.keep(&path, because);
                continue;
            }
            if [partial, journal].into_iter().flatten().any(|entry| self.context.is_young(&entry.status)) {
                self.keep(&path, TOO_YOUNG);
                continue;
            }
            let name = text::printable_path(&target);
            let is_there = entries.iter().any(|entry| entry.path == target && !entry.is_folder());
            let (why, certainty) = match (is_there, partial) {
                (true, _) => (format!("{name} is there: nothing goes on with this"), Certainty::Certain),
                (false, None) => (format!("the journal of a download of {name} without its bytes"), Certainty::Certain),
                (false, Some(_)) => {
                    (format!("an unfinished download of {name} that is not in the queue"), Certainty::Likely)
                }
            };
            let item = self.offer(Dead { path: &path, kind: Garbage::Partial, why, certainty, id });
            // The journal goes after the bytes that it vouches for.
            let bytes: Vec<usize> =
                partial.map(|entry| self.remove(item, below, entry, Vec::new())).into_iter().collect();
            // Whoever goes on with it locks the journal.
            if let (Some(&step), Some(journal)) = (bytes.first(), journal) {
                self.hold_locks(step, [below.join(&journal.path)]);
            }
            if let Some(entry) = journal {
                self.remove(item, below, entry, bytes);
            }
        }
    }

    /// Offers a temporary file of this program; `false` when it is none.
    pub(super) fn own_temporary(&mut self, below: &Path, entry: &Entry, id: Option<&str>) -> bool {
        if !entry.is_file() || !is_own_temporary(entry.name()) {
            return false;
        }
        let path = below.join(&entry.path);
        let why = "a temporary file of this program that a crash has left".to_owned();
        let dead = Dead { path: &path, kind: Garbage::Temporary, why, certainty: Certainty::Certain, id };
        self.offer_one(dead, below, entry);
        true
    }

    /// Offers a link that leads to nothing; one that leads somewhere is noted as in use. `entry` is relative to `below`.
    pub(super) fn link(&mut self, below: &Path, entry: &Entry, id: Option<&str>) -> Option<usize> {
        let path = below.join(&entry.path);
        let to = entry.link.as_deref()?;
        match dangling(&self.root, &self.root.join(&path), to) {
            Leads::Somewhere => self.note_link(&path),
            Leads::Unknown(why) => {
                self.note_link(&path);
                self.keep(&path, format!("where it leads cannot be told: {why}"));
            }
            Leads::Nowhere(why, certainty) => {
                let certainty = self.unless_new(certainty, [&entry.status]);
                let dead = Dead { path: &path, kind: Garbage::DanglingLink, why, certainty, id };
                return self.offer_one(dead, below, entry);
            }
        }
        None
    }

    /// Offers what `hf download --local-dir` has left unfinished in its bookkeeping, wherever that lies among `entries`, which
    /// are relative to `below`.
    pub(super) fn local_dir_partials(&mut self, below: &Path, entries: &[Entry], id: Option<&str>) {
        let inside = |entry: &&Entry| entry.is_file() && local_dir_part(&entry.path).is_some();
        let is = |entry: &&Entry, suffix: &str| entry.name().as_bytes().ends_with(suffix.as_bytes());
        let locks: Vec<&Entry> = entries.iter().filter(inside).filter(|entry| is(entry, ".lock")).collect();
        for entry in entries.iter().filter(inside) {
            let path = below.join(&entry.path);
            let part = local_dir_part(&entry.path);
            if part == Some("trees") && is_python_temporary(entry.name().as_bytes(), b".tmp") {
                let why = "a listing that a crash has left".to_owned();
                let dead = Dead { path: &path, kind: Garbage::Temporary, why, certainty: Certainty::Certain, id };
                self.offer_one(dead, below, entry);
            }
            let Some(rest) = entry.name().as_bytes().strip_suffix(b".incomplete") else { continue };
            if part != Some("download") {
                continue;
            }
            let held = locks.iter().map(|lock| self.root.join(below).join(&lock.path)).find(|lock| is_held(lock));
            if let Some(lock) = held {
                self.keep(&path, format!("{} downloads into this folder", FileLock::holder(&lock)));
                continue;
            }
            // Since 1.18 every run adds eight digits of its own.
            let own_run = rest.len() > 9 && rest[rest.len() - 9] == b'.' && is_hex(&rest[rest.len() - 8..], 8);
            let (why, certainty) = if own_run {
                ("an unfinished `hf download` that no client goes on with", Certainty::Certain)
            } else {
                ("an unfinished `hf download`", Certainty::Likely)
            };
            let dead = Dead { path: &path, kind: Garbage::Partial, why: why.to_owned(), certainty, id };
            let step = self.steps();
            if self.offer_one(dead, below, entry).is_some() {
                self.hold_locks(step, locks.iter().map(|lock| below.join(&lock.path)));
            }
        }
    }

    /// Offers the folder `top` with everything in it, if all of it is dead or bookkeeping (which `is_book` tells) and nothing is
    /// young. `entries` are relative to `top`; removals from number `from` on may be of them.
    pub(super) fn abandoned(
        &mut self,
        top: &Entry,
        entries: &[&Entry],
        from: usize,
        is_book: &dyn Fn(&Entry) -> bool,
        dead: Dead<'_>,
    ) -> Option<usize> {
        let steps = self.steps_by_path(from);
        let is_dead = |entry: &Entry| steps.contains_key(&top.path.join(&entry.path));
        // Made with every file system, and empty until it is needed.
        if top.name() == "lost+found" {
            return None;
        }
        if !entries.iter().all(|entry| entry.is_folder() || is_dead(entry) || entry.is_file() && is_book(entry)) {
            return None;
        }
        let statuses = || std::iter::once(&top.status).chain(entries.iter().map(|entry| &entry.status));
        if statuses().any(|status| self.context.is_young(status)) {
            self.keep(&top.path, TOO_YOUNG);
            return None;
        }
        let held = entries.iter().filter(|entry| entry.name().as_bytes().ends_with(b".lock"));
        let held = held.map(|entry| self.root.join(&top.path).join(&entry.path)).find(|lock| is_held(lock));
        if let Some(lock) = held {
            self.keep(&top.path, format!("{} works in it", FileLock::holder(&lock)));
            return None;
        }
        if let Some(because) = self.context.queued(&self.root.join(&top.path)) {
            self.keep(&top.path, because);
            return None;
        }
        // It is no surer than what is in it.
        let inner = entries.iter().filter_map(|entry| steps.get(&top.path.join(&entry.path)));
        let items = inner.flat_map(|step| self.items_of(*step));
        let least = items.map(|item| self.sweep.items[item].certainty).min().unwrap_or(dead.certainty);
        let certainty = self.unless_new(dead.certainty.min(least), statuses());
        let item = self.offer(Dead { certainty, ..dead });
        let mut inside: Vec<usize> = Vec::new();
        for entry in entries.iter().filter(|entry| !entry.is_folder()) {
            match steps.get(&top.path.join(&entry.path)) {
                Some(&step) => {
                    self.goes_with(step, item);
                    inside.push(step);
                }
                None => inside.push(self.remove(item, &top.path, entry, Vec::new())),
            }
        }
        for entry in entries.iter().rev().filter(|entry| entry.is_folder()) {
            inside.push(match steps.get(&top.path.join(&entry.path)) {
                Some(&step) => {
                    self.goes_with(step, item);
                    step
                }
                None => self.remove(item, &top.path, entry, inside.clone()),
            });
        }
        self.remove(item, Path::new(""), top, inside);
        Some(item)
    }

    /// Keeps what a lock cannot be had for: by then somebody else has it, or nobody can tell.
    fn withhold_locked(&mut self) {
        let mut refused: BTreeMap<usize, String> = BTreeMap::new();
        for found in self.sweep.steps.iter().filter(|found| !found.step.locks.is_empty()) {
            let why = found.step.locks.iter().find_map(|lock| match claim(&self.root, lock) {
                Claim::Refused(why) => Some(why),
                Claim::Held(_) | Claim::Absent => None,
            });
            if let Some(why) = why {
                refused.extend(found.items.iter().map(|item| (*item, why.clone())));
            }
        }
        if !refused.is_empty() {
            let targets: BTreeMap<(PathBuf, Inode), FileInfo> = self
                .sweep
                .steps
                .iter()
                .map(|found| (found.step.path(), found.step.target))
                .zip(self.targets.drain(..))
                .collect();
            self.sweep.withhold(|at, _| refused.get(&at).cloned());
            let left = self.sweep.steps.iter().filter_map(|found| targets.get(&(found.step.path(), found.step.target)));
            self.targets = left.copied().collect();
        }
    }

    /// Everything that was found, with what each item frees and what permissions forbid.
    pub(super) fn finish(mut self) -> Sweep {
        self.withhold_locked();
        let mut folders: BTreeMap<PathBuf, Removal> = BTreeMap::new();
        for (found, target) in self.sweep.steps.iter().zip(&self.targets) {
            let folder = found.step.root.join(&found.step.folder);
            let removal = folders.entry(folder).or_insert_with_key(|folder| Removal::from_folder(folder));
            if let Some(because) = removal.blocked(&found.step.name, target) {
                self.sweep.blocked.push(Blocked { path: found.step.path(), because });
            }
        }
        self.sweep.settle();
        self.sweep
    }
}

/// Why something young is not offered.
pub(super) const TOO_YOUNG: &str = "it was modified less than an hour ago";

/// Whether `name` is one that `disk::publish` gives to what it writes: `.<pid>-<number>.llorch-tmp`.
pub(super) fn is_own_temporary(name: &OsStr) -> bool {
    let numbers = name.as_bytes().strip_prefix(b".").and_then(|rest| rest.strip_suffix(b".llorch-tmp"));
    let mut parts = numbers.unwrap_or_default().split(|byte| *byte == b'-');
    let is_number =
        |part: Option<&[u8]>| part.is_some_and(|part| !part.is_empty() && part.iter().all(u8::is_ascii_digit));
    is_number(parts.next()) && is_number(parts.next()) && parts.next().is_none()
}

/// Whether `text` is `count` lower-case hexadecimal digits.
pub(super) fn is_hex(text: &[u8], count: usize) -> bool {
    text.len() == count && text.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Whether `name` is one that Python's `tempfile` makes: `tmp`, eight of its characters, a suffix.
pub(super) fn is_python_temporary(name: &[u8], suffix: &[u8]) -> bool {
    let word = name.strip_prefix(b"tmp").and_then(|rest| rest.strip_suffix(suffix)).unwrap_or_default();
    word.len() == 8 && word.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'_')
}

/// Which part of the official client's bookkeeping in a folder of plain files a path lies in.
fn local_dir_part(path: &Path) -> Option<&str> {
    let parts: Vec<&OsStr> = path.iter().collect();
    let after = parts.iter().enumerate().find_map(|(at, part)| match part.to_str() {
        Some(".huggingface") => Some(at + 1),
        Some(".cache") if parts.get(at + 1).is_some_and(|next| *next == "huggingface") => Some(at + 2),
        _ => None,
    })?;
    (parts.len() > after + 1).then(|| parts[after].to_str()).flatten()
}

/// Where a link leads.
pub(super) enum Leads {
    Somewhere,
    /// Why, and how sure it is that nothing will be there again.
    Nowhere(String, Certainty),
    /// The disk does not tell, and why.
    Unknown(String),
}

/// Where the link at `path` (absolute) with the text `to` leads.
pub(super) fn dangling(root: &Path, path: &Path, to: &Path) -> Leads {
    let shown = text::printable_path(to);
    match std::fs::metadata(path) {
        Ok(_) => return Leads::Somewhere,
        Err(error) => match error.kind() {
            ErrorKind::NotFound | ErrorKind::NotADirectory => {}
            _ if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => {
                return Leads::Nowhere("a link that leads to itself".to_owned(), Certainty::Certain);
            }
            _ => return Leads::Unknown(crate::error::io_reason(&error)),
        },
    }
    let end = lexical(&path.parent().unwrap_or(root).join(to));
    let why = format!("leads to {shown}, which is gone");
    if end.starts_with(root) {
        return Leads::Nowhere(why, Certainty::Certain);
    }
    // Out of the store: a disk that is not mounted may bring it back.
    let is_there = |folder: &Path| folder.is_dir();
    let cache = end.ancestors().find(|part| {
        part.file_name().is_some_and(|name| {
            ["models--", "datasets--", "spaces--"].iter().any(|start| name.as_bytes().starts_with(start.as_bytes()))
        })
    });
    let known = cache.and_then(Path::parent).is_some_and(is_there) || end.parent().is_some_and(is_there);
    if known {
        return Leads::Nowhere(why, Certainty::Likely);
    }
    Leads::Nowhere(format!("leads to {shown}, where no folder is: a disk may not be mounted"), Certainty::Possible)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn temporary_names_of_this_program() {
        for (name, own) in [
            (".12-0.llorch-tmp", true),
            (".12-.llorch-tmp", false),
            ("12-0.llorch-tmp", false),
            (".12-0-1.llorch-tmp", false),
            (".a-0.llorch-tmp", false),
            (".llorch-tmp", false),
        ] {
            assert_eq!(is_own_temporary(OsStr::new(name)), own, "{name}");
        }
    }

    #[test]
    fn a_link_out_of_the_store_may_lead_to_a_disk_that_is_not_mounted() {
        let scratch = tempfile::tempdir().unwrap();
        let root = scratch.path().canonicalize().unwrap();
        let store = root.join("store");
        std::fs::create_dir_all(&store).unwrap();
        let of = |to: &Path| {
            let at = store.join("link");
            let _ = std::fs::remove_file(&at);
            std::os::unix::fs::symlink(to, &at).unwrap();
            match dangling(&store, &at, to) {
                Leads::Nowhere(_, certainty) => Some(certainty),
                _ => None,
            }
        };
        assert_eq!(of(Path::new("gone")), Some(Certainty::Certain));
        assert_eq!(of(Path::new("link")), Some(Certainty::Certain));
        assert_eq!(of(&root.join("gone")), Some(Certainty::Likely));
        assert_eq!(of(&root.join("hub/models--a--b/blobs/c")), Some(Certainty::Possible));
        std::fs::create_dir(root.join("hub")).unwrap();
        assert_eq!(of(&root.join("hub/models--a--b/blobs/c")), Some(Certainty::Likely));
        assert_eq!(of(Path::new("/no/such/place/x")), Some(Certainty::Possible));
        assert_eq!(of(&root), None);
    }
}
