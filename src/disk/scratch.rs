//! Files, links and folders that are made in a folder of their own and then moved to their place: for a place that other
//! programs read, where even the temporary name of a file that a crash left would be taken for a file.
//!
//! The scratch folder lies on the same file system as the place.

use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::publish::{self, create_new, remove_if_there, sync_folder};
use super::{regular, write_error};
use crate::error::{Error, Result};

/// Writes `bytes` to a new file in `scratch` and moves it, synced, to `path`, whose folder is there. What had that name
/// is replaced.
///
/// # Errors
/// [`crate::Error::Io`] or [`crate::Error::NoSpace`]; what had the name then still stands.
pub fn write(scratch: &Path, path: &Path, bytes: &[u8]) -> Result<()> {
    let staged = fresh(scratch, create_new)?;
    let written = staged.1.take_written(bytes).map_err(write_error("write", path, bytes.len() as u64));
    let moved = written.and_then(|()| publish::publish(&staged.0, path));
    clean_up(&staged.0, moved)
}

/// Makes the symbolic link `path` with the text `target` in one step, whatever had that name before; a folder is not
/// replaced. `Ok(false)`: the file system, or its policy, has no symbolic links.
///
/// # Errors
/// [`crate::Error::Io`] or [`crate::Error::NoSpace`].
pub fn link(scratch: &Path, path: &Path, target: &Path) -> Result<bool> {
    let (staged, made) = fresh(scratch, |staged| match symlink(target, staged) {
        Ok(()) => Ok(true),
        Err(error) if has_no_links(&error) => Ok(false),
        Err(error) => Err(Error::io("create", path)(error)),
    })?;
    if !made {
        return Ok(false);
    }
    let moved = std::fs::rename(&staged, path).map_err(write_error("create", path, 0));
    clean_up(&staged, moved)?;
    sync_folder(path.parent().unwrap_or(path))?;
    Ok(true)
}

/// Copies the regular file `from` to `path` through `scratch`; blocks are shared where the file system can.
///
/// # Errors
/// [`crate::Error::Io`] or [`crate::Error::NoSpace`].
pub fn copy(scratch: &Path, from: &Path, path: &Path) -> Result<()> {
    let (staged, mut file) = fresh(scratch, create_new)?;
    let copied = regular::open(from)
        .map_err(Error::io("open", from))
        .and_then(|mut source| io::copy(&mut source, &mut file).map_err(write_error("write", path, 0)));
    let moved = copied.and_then(|_| publish::publish(&staged, path));
    clean_up(&staged, moved)
}

/// Makes the folder `path` with the folders `inside` it (relative, each after those that it lies in) appear at once.
/// `Ok(false)`: it was there already.
///
/// # Errors
/// [`crate::Error::Io`] or [`crate::Error::NoSpace`].
pub fn folder(scratch: &Path, path: &Path, inside: &[&Path]) -> Result<bool> {
    if path.symlink_metadata().is_ok() {
        return Ok(false);
    }
    let (staged, ()) = fresh(scratch, |staged| {
        std::fs::create_dir(staged).map_err(write_error("create", path, 0))?;
        publish::take_owner_of_folder(staged)
    })?;
    let filled = inside.iter().try_for_each(|part| publish::create_folders(&staged.join(part)));
    // An empty folder of that name would be replaced as well, which loses nothing.
    let moved = filled.and_then(|()| match std::fs::rename(&staged, path) {
        Ok(()) => sync_folder(path.parent().unwrap_or(path)).map(|()| true),
        Err(error) if matches!(error.kind(), io::ErrorKind::AlreadyExists | io::ErrorKind::DirectoryNotEmpty) => {
            Ok(false)
        }
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => Ok(false),
        Err(error) => Err(write_error("create", path, 0)(error)),
    });
    if !matches!(moved, Ok(true)) {
        // Only what was made here, and only while it is empty.
        for part in inside.iter().rev().copied().chain([Path::new("")]) {
            let _ = std::fs::remove_dir(staged.join(part));
        }
    }
    moved
}

/// Whether creating a link failed because there are none here.
fn has_no_links(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::Unsupported | io::ErrorKind::PermissionDenied)
        && error.raw_os_error() != Some(rustix::io::Errno::ACCESS.raw_os_error())
}

trait Written {
    fn take_written(self, bytes: &[u8]) -> io::Result<()>;
}

impl Written for std::fs::File {
    fn take_written(mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_all(bytes)
    }
}

/// Makes something under a name that is free in `scratch`.
fn fresh<T>(scratch: &Path, mut make: impl FnMut(&Path) -> Result<T>) -> Result<(PathBuf, T)> {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    loop {
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let path = scratch.join(temporary(number));
        match make(&path) {
            Ok(made) => return Ok((path, made)),
            // Left by an earlier process of this number: its name is passed over.
            Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
}

fn temporary(number: u64) -> OsString {
    OsString::from(format!(".{}-{number}.llorch-tmp", std::process::id()))
}

/// Whether a name in a scratch folder is one that this module gives.
#[must_use]
pub fn is_temporary(name: &OsStr) -> bool {
    let bytes = name.as_encoded_bytes();
    bytes.starts_with(b".") && bytes.ends_with(b".llorch-tmp")
}

fn clean_up<T>(staged: &Path, result: Result<T>) -> Result<T> {
    if result.is_err() {
        // The first error is the one to tell.
        let _ = remove_if_there(staged);
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn what_is_made_is_at_its_place_and_nothing_stays_behind() {
        let home = tempfile::tempdir().unwrap();
        let (scratch, place) = (home.path().join("scratch"), home.path().join("place"));
        std::fs::create_dir(&scratch).unwrap();
        std::fs::create_dir(&place).unwrap();
        write(&scratch, &place.join("ref"), b"one").unwrap();
        write(&scratch, &place.join("ref"), b"two").unwrap();
        assert_eq!(std::fs::read(place.join("ref")).unwrap(), b"two");
        assert!(link(&scratch, &place.join("link"), Path::new("ref")).unwrap());
        assert!(link(&scratch, &place.join("link"), Path::new("../place/ref")).unwrap());
        assert_eq!(std::fs::read_link(place.join("link")).unwrap(), Path::new("../place/ref"));
        copy(&scratch, &place.join("ref"), &place.join("copy")).unwrap();
        assert_eq!(std::fs::read(place.join("copy")).unwrap(), b"two");
        let inside = [Path::new("a"), Path::new("b/c")];
        assert!(folder(&scratch, &place.join("folder"), &inside).unwrap());
        assert!(!folder(&scratch, &place.join("folder"), &inside).unwrap());
        assert!(place.join("folder/b/c").is_dir());
        assert_eq!(names(&place), ["copy", "folder", "link", "ref"]);
        assert_eq!(names(&scratch), [] as [&str; 0]);
    }

    #[test]
    fn a_failure_leaves_what_was_there() {
        let home = tempfile::tempdir().unwrap();
        let (scratch, place) = (home.path().join("scratch"), home.path().join("place"));
        std::fs::create_dir(&scratch).unwrap();
        std::fs::create_dir_all(place.join("taken/inside")).unwrap();
        assert!(write(&scratch, &place.join("taken"), b"x").is_err());
        assert!(link(&scratch, &place.join("taken"), Path::new("x")).is_err());
        assert!(write(&scratch, &place.join("missing/x"), b"x").is_err());
        assert!(copy(&scratch, &place.join("nothing"), &place.join("x")).is_err());
        assert_eq!(names(&scratch), [] as [&str; 0]);
        assert_eq!(names(&place), ["taken"]);
    }
}
