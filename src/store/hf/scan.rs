//! Scans the cache: repositories on a few threads, rows as they are read.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::layout;
use super::links::Links;
use super::read::{Blob, Known, Outward, Repository};
use super::row;
use crate::disk::folder::{EntryType, Folder};
use crate::disk::usage::Usage;
use crate::model::{StoreKind, StoreSummary, text};
use crate::store::Row;
use crate::store::surroundings::Surroundings;

/// Threads that read repositories: more than two pay on a cold disk and on a network file system, not on a warm one.
const THREADS: usize = 4;

/// Most rows that wait to be shown together, and the longest that they wait.
const BATCH: usize = 32;
const PATIENCE: Duration = Duration::from_millis(10);

/// What a thread found.
enum Found {
    Row(Box<Row>),
    /// A repository with links into the shared store: its row needs to know who else links there.
    Sharing(Box<Repository>),
    /// Regular files that belong to no repository.
    Loose(Usage),
}

/// Adds owner and file system to a row.
pub(super) fn surround(row: &mut Row, repository: &Repository, surroundings: &mut Surroundings) {
    row.model.owner = Some(surroundings.owner(repository.status.uid));
    row.model.mount = surroundings.mount(&repository.path, &repository.status);
}

/// Gives every row of the cache at `root` to `sink`, and notes in `links` what was read; `add` adds to a row what takes more than its names.
pub(super) fn scan(
    root: &Path,
    links: &Links,
    add: &(dyn Fn(&Repository, &mut Row) + Sync),
    sink: &mut dyn FnMut(Row),
    cancel: &CancellationToken,
) -> StoreSummary {
    let mut summary =
        StoreSummary { store: StoreKind::Hf, path: root.to_path_buf(), disk_bytes: 0, models: 0, warnings: Vec::new() };
    let hub = match Folder::open(root) {
        Ok(hub) => hub,
        Err(rustix::io::Errno::NOENT) => return summary,
        Err(error) => {
            summary.warnings.push(format!(
                "cannot read {}: {}",
                text::printable_path(root),
                std::io::Error::from(error).kind()
            ));
            return summary;
        }
    };
    let mut names = Vec::new();
    if let Err(error) = hub.each(|name, _| names.push(crate::disk::folder::os_str(name).to_owned())) {
        summary.warnings.push(format!(
            "cannot list {}: {}",
            text::printable_path(root),
            std::io::Error::from(error).kind()
        ));
    }
    names.sort_unstable();

    let known = Known { links, now: Timestamp::now(), outward: false };
    let next = AtomicUsize::new(0);
    let unknown = AtomicBool::new(false);
    let threads = std::thread::available_parallelism().map_or(1, usize::from).clamp(1, THREADS).min(names.len().max(1));
    let (sender, found) = mpsc::sync_channel::<Vec<Found>>(64);
    let mut usage = Usage::default();
    let mut sharing = Vec::new();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            let sender = sender.clone();
            let (hub, names, next, unknown) = (&hub, &names, &next, &unknown);
            scope.spawn(move || {
                let mut surroundings = Surroundings::default();
                let mut batch = Vec::new();
                let mut sent = Instant::now();
                while let Some(name) = names.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if cancel.is_cancelled() {
                        return;
                    }
                    let repository = Repository::read_with(hub, root, name, Some(known));
                    if repository.as_ref().is_some_and(Repository::has_unknown_blobs) {
                        unknown.store(true, Ordering::Relaxed);
                    }
                    let found = match repository {
                        Some(repository) if repository.shares() => Found::Sharing(Box::new(repository)),
                        Some(repository) => {
                            let mut row = row::row(&repository, root, &|_, _| true, &|_| 1);
                            surround(&mut row, &repository, &mut surroundings);
                            add(&repository, &mut row);
                            Found::Row(Box::new(row))
                        }
                        None => Found::Loose(loose_files(hub, name)),
                    };
                    batch.push(found);
                    // Waking the receiver for every row would cost as much as reading it.
                    if batch.len() >= BATCH || sent.elapsed() >= PATIENCE {
                        if sender.send(std::mem::take(&mut batch)).is_err() {
                            return;
                        }
                        sent = Instant::now();
                    }
                }
                // The receiver is gone only when nobody wants rows any more.
                let _ = sender.send(batch);
            });
        }
        drop(sender);
        for found in found.into_iter().flatten() {
            match found {
                Found::Row(row) => {
                    usage.merge(&row.usage);
                    summary.models += 1;
                    sink(*row);
                }
                Found::Sharing(repository) => sharing.push(repository),
                Found::Loose(files) => usage.merge(&files),
            }
        }
    });
    let users = shared_users(sharing.iter().map(AsRef::as_ref));
    let certain = !unknown.load(Ordering::Relaxed) && (sharing.is_empty() || has_shared_store(&hub));
    let mut surroundings = Surroundings::default();
    for repository in sharing {
        if cancel.is_cancelled() {
            break;
        }
        let mut row = row::row(&repository, root, &|_, _| true, &|hash| users_of(&users, certain, hash));
        surround(&mut row, &repository, &mut surroundings);
        add(&repository, &mut row);
        usage.merge(&row.usage);
        summary.models += 1;
        sink(row);
    }
    summary.disk_bytes = usage.disk_bytes();
    summary
}

/// How many links of all repositories lead to each shared payload.
pub(super) fn shared_users<'a>(repositories: impl Iterator<Item = &'a Repository>) -> HashMap<OsString, u64> {
    let mut users = HashMap::new();
    for blob in repositories.flat_map(|repository| repository.blobs.values()) {
        if let Blob::Shared { hash, .. } = blob {
            *users.entry(hash.clone()).or_insert(0) += 1;
        }
    }
    users
}

/// Links that hold a payload, with one more where it stays although no link is known: the shared store is of a kind that this
/// program does not know, or what links there could not be read everywhere.
pub(super) fn users_of(users: &HashMap<OsString, u64>, certain: bool, hash: &OsStr) -> u64 {
    users.get(hash).copied().unwrap_or(0) + u64::from(!certain)
}

/// Whether the top-level `blobs` is a shared store whose layout is known.
pub(super) fn has_shared_store(hub: &Folder) -> bool {
    let mark =
        hub.descend(Path::new(layout::SHARED)).and_then(|shared| shared.read(layout::SHARED_MARKER.as_ref(), 64));
    mark.ok().flatten().is_some_and(|text| text.trim_ascii() == b"1")
}

/// Regular files at and below `name`, which is no repository: the shared store, locks, marks, strays.
fn loose_files(hub: &Folder, name: &OsStr) -> Usage {
    fn below(folder: &Folder, depth: usize, usage: &mut Usage) {
        let Ok(entries) = folder.entries() else { return };
        for (name, kind) in entries {
            match kind {
                EntryType::File => add(folder, &name, usage),
                EntryType::Folder if depth < layout::MAX_DEPTH => {
                    if let Ok(inner) = folder.folder(&name) {
                        below(&inner, depth + 1, usage);
                    }
                }
                _ => {}
            }
        }
    }
    fn add(folder: &Folder, name: &OsStr, usage: &mut Usage) {
        if let Ok(status) = folder.status(name) {
            usage.add(status.inode, status.size_bytes, status.disk_bytes, status.links);
        }
    }
    let mut usage = Usage::default();
    match hub.status(name).map(|status| status.kind) {
        Ok(EntryType::File) => add(hub, name, &mut usage),
        Ok(EntryType::Folder) => {
            if let Ok(folder) = hub.folder(name) {
                below(&folder, 0, &mut usage);
            }
        }
        _ => {}
    }
    usage
}

/// Every repository of the cache, for plans that must know all of them. Unreadable ones are among them, marked so.
pub(super) fn read_all(hub: &Folder, root: &Path) -> Result<Vec<Repository>, rustix::io::Errno> {
    let mut repositories = Vec::new();
    for (name, _) in hub.entries()? {
        repositories.extend(Repository::read(hub, root, &name));
    }
    Ok(repositories)
}

/// Repositories per thread below which another one costs more than it saves.
const SHARE: usize = 64;

/// The links that leave their repositories, over all of the cache but the folders `without`. A folder of links that nobody has
/// changed since it was read is not read again, and no file is looked at.
pub(super) fn outward(
    hub: &Folder,
    root: &Path,
    links: &Links,
    without: &HashSet<&OsStr>,
) -> Result<Vec<Outward>, rustix::io::Errno> {
    let mut names = Vec::new();
    hub.each(|name, _| names.push(crate::disk::folder::os_str(name).to_owned()))?;
    names.retain(|name| !without.contains(name.as_os_str()));
    names.sort_unstable();
    let known = Known { links, now: Timestamp::now(), outward: true };
    let of = |names: &[OsString]| {
        let read = names.iter().filter_map(|name| Repository::read_with(hub, root, name, Some(known)));
        read.filter(|repository| !repository.foreign.is_empty()).map(Outward::from).collect::<Vec<_>>()
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from).clamp(1, THREADS);
    let share = names.len().div_ceil(threads).max(SHARE);
    let mut found = Vec::new();
    std::thread::scope(|scope| {
        let threads: Vec<_> = names.chunks(share).skip(1).map(|names| scope.spawn(|| of(names))).collect();
        found.extend(of(names.chunks(share).next().unwrap_or_default()));
        for thread in threads {
            match thread.join() {
                Ok(more) => found.extend(more),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
    });
    Ok(found)
}
