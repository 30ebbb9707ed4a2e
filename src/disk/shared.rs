//! Payloads of the Hugging Face cache's shared blob store, which several repositories use by links.
//!
//! The layout is that of `huggingface_hub` 1.32 and newer: `blobs/<xx>/<hash>` with `<hash>.refs` beside it, one line
//! `<repository>/blobs/<etag>` for each user. A line is a hint: it counts only while that path is a link to exactly this payload.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::io::Errno;

use super::folder::Folder;
use super::lock::FileLock;
use super::publish::write_atomically;
use crate::model::Step;

/// Suffix of the list of users.
const REFS: &str = ".refs";
/// Longest list of users that is read.
const MAX_REFS: u64 = 16 << 20;

/// A payload that may go: nobody uses it, and nobody can begin to while this value lives.
#[derive(Debug)]
pub(super) struct Unused {
    _lock: FileLock,
}

/// Takes the payload's lock and looks for users. `Ok(None)`: it is used, its `.refs` now names exactly those that do.
///
/// # Errors
/// In words: somebody has the lock, or the users cannot be told; the payload then stays.
pub(super) fn claim(step: &Step) -> Result<Option<Unused>, String> {
    let unused = lock(&step.root.join(&step.folder), &step.name)?;
    let mut list = step.name.clone();
    list.push(REFS);
    let hub = Folder::open(&step.root).map_err(|error| format!("kept: its store cannot be read: {error}"))?;
    let lines = hub.descend(&step.folder).ok().and_then(|open| open.read(&list, MAX_REFS).ok().flatten());
    let Some(lines) = lines else { return Err("kept: the list of its users cannot be read".to_owned()) };
    let payload = step.folder.join(&step.name);
    let mut used: Vec<&[u8]> =
        lines.split(|byte| *byte == b'\n').filter(|line| links_to(&hub, line, &payload)).collect();
    if used.is_empty() {
        return Ok(Some(unused));
    }
    used.sort_unstable();
    used.dedup();
    let mut bytes = used.join(&b'\n');
    bytes.push(b'\n');
    write_atomically(&step.root.join(&step.folder).join(list), &bytes).map_err(|error| format!("kept: {error}"))?;
    Ok(None)
}

/// Takes the lock of the payload whose list of users `step` removes. `Ok(None)`: the payload is there again, and so is the need
/// for its list.
///
/// # Errors
/// In words: somebody has the lock; the list then stays.
pub(super) fn claim_refs(step: &Step) -> Result<Option<Unused>, String> {
    let payload = step.name.as_bytes().strip_suffix(REFS.as_bytes()).ok_or("refused: it is no list of users")?;
    let payload = OsStr::from_bytes(payload);
    let unused = lock(&step.root.join(&step.folder), payload)?;
    let folder = Folder::open(&step.root).and_then(|hub| hub.descend(&step.folder));
    match folder.and_then(|folder| folder.status(payload)) {
        Err(Errno::NOENT) => Ok(Some(unused)),
        Ok(_) => Ok(None),
        Err(error) => Err(format!("kept: whether its payload is gone cannot be told: {error}")),
    }
}

fn lock(folder: &Path, payload: &OsStr) -> Result<Unused, String> {
    let beside = |suffix: &str| {
        let mut name = payload.to_owned();
        name.push(suffix);
        folder.join(name)
    };
    // Where the file system has no locks, the official client's lock is the presence of this file.
    if beside(".lock.soft").symlink_metadata().is_ok() {
        return Err("kept: another program works on it, or died at it and left its .lock.soft".to_owned());
    }
    let path = beside(".lock");
    match FileLock::try_exclusive(&path).map_err(|error| format!("kept: {error}"))? {
        Some(lock) => Ok(Unused { _lock: lock }),
        None => Err(format!("kept: {} works on it", FileLock::holder(&path))),
    }
}

/// Whether the line names a link whose one hop leads to `payload` (relative to the cache).
fn links_to(hub: &Folder, line: &[u8], payload: &Path) -> bool {
    let path = Path::new(OsStr::from_bytes(line));
    let parts: Vec<&OsStr> = path.iter().collect();
    let [repository, blobs, _] = parts[..] else { return false };
    if blobs != "blobs" || path.components().any(|part| !matches!(part, Component::Normal(_))) {
        return false;
    }
    let link = hub
        .descend(&Path::new(repository).join(blobs))
        .and_then(|folder| folder.read_link(path.file_name().unwrap_or_default()));
    match link {
        Ok(link) => lexical(repository, &link).as_deref() == Some(payload),
        // Gone, or no link: no user. Unreadable is not unused.
        Err(error) => !matches!(error, Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::INVAL),
    }
}

/// Where a link in `<repository>/blobs` leads, relative to the cache.
fn lexical(repository: &OsStr, link: &OsStr) -> Option<PathBuf> {
    let mut parts = vec![repository, OsStr::new("blobs")];
    for part in Path::new(link).components() {
        match part {
            Component::Normal(name) => parts.push(name),
            Component::ParentDir => drop(parts.pop()?),
            Component::CurDir => {}
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(parts.iter().collect())
}
