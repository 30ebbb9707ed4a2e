//! Advisory locks between processes.

use std::fs::File;
use std::io;
use std::path::Path;

use rustix::fs::{FlockOperation, Mode, OFlags, flock, fstat, openat, stat};
use rustix::io::Errno;

use super::folder::Folder;
use super::info::inode;
use super::publish::open_or_create;
use crate::error::{Error, Result, io_reason};
use crate::model::{Inode, text};

/// How often a lock file may be replaced by others while it is being locked.
const ATTEMPTS: usize = 100;

/// An exclusive `flock` on a file, released when dropped (or when the process dies).
#[derive(Debug)]
pub struct FileLock {
    file: File,
}

impl FileLock {
    /// Creates the file if need be and tries to lock it; `None` if another process holds it.
    ///
    /// After locking, the path is checked to still name the locked file, so that a lock file that its former holder
    /// removed is never taken for the present one.
    ///
    /// # Errors
    /// [`crate::Error::Io`] when the file cannot be opened, or its file system has no locks;
    /// [`crate::Error::UnsafePath`] when it is no regular file.
    pub fn try_exclusive(path: &Path) -> Result<Option<Self>> {
        for _ in 0..ATTEMPTS {
            let file = open_or_create(path)?;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => return Ok(None),
                Err(Errno::INTR) => continue,
                Err(Errno::NOSYS | Errno::NOTSUP | Errno::NOLCK) => {
                    let cause = io::Error::other("the file system has no locks; mount it with flock");
                    return Err(Error::io("lock", path)(cause));
                }
                Err(error) => return Err(Error::io("lock", path)(error.into())),
            }
            let locked = fstat(&file).map_err(|error| Error::io("lock", path)(error.into()))?;
            if stat(path).is_ok_and(|named| inode(&named) == inode(&locked)) {
                return Ok(Some(Self { file }));
            }
        }
        Err(Error::io("lock", path)(io::Error::other("it is replaced again and again by another process")))
    }

    /// The locked file, for reading and writing.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Who holds the lock, as a person would say it ("process 4711 (llorch-models, user alice)"), as far as
    /// `/proc/locks` tells; "another process" otherwise.
    #[must_use]
    pub fn holder(path: &Path) -> String {
        let pid = stat(path).ok().map(|stat| inode(&stat)).and_then(|file| {
            let locks = std::fs::read_to_string("/proc/locks").ok()?;
            lock_owner(&locks, file)
        });
        pid.map_or_else(|| "another process".to_owned(), crate::machine::describe_process)
    }
}

impl Drop for FileLock {
    fn drop(&mut self) {
        // A process that another thread starts just now has the file, too, until it becomes the program that it is for, and
        // closing it here would leave it locked until then.
        let _ = flock(&self.file, FlockOperation::Unlock);
    }
}

/// The process that holds the `flock` on `file`, from the text of `/proc/locks`
/// (`1: FLOCK  ADVISORY  WRITE 708 08:01:1234 0 EOF`; a second word `->` marks one that waits).
fn lock_owner(locks: &str, file: Inode) -> Option<u32> {
    let mut by_number = None;
    for line in locks.lines() {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let [_, "FLOCK", _, _, pid, place, ..] = words.as_slice() else { continue };
        let mut place = place.split(':');
        let (Some(major), Some(minor), Some(number)) = (place.next(), place.next(), place.next()) else { continue };
        if number.parse() != Ok(file.inode) {
            continue;
        }
        let Some(pid) = pid.parse::<u32>().ok().filter(|pid| *pid > 0) else { continue };
        let device = (u32::from_str_radix(major, 16), u32::from_str_radix(minor, 16));
        if let (Ok(major), Ok(minor)) = device
            && crate::machine::device_number(major, minor) == file.device
        {
            return Some(pid);
        }
        // btrfs and overlayfs show another device here than stat does: the number alone is a hint, and only if it is
        // the only one.
        by_number = if by_number.is_none() { Some(Some(pid)) } else { Some(None) };
    }
    by_number.flatten()
}

/// What trying a lock of another program's came to.
#[derive(Debug)]
pub enum Claim {
    /// There is no such lock file, so nobody holds it.
    Absent,
    /// It is held from now on, until this is dropped.
    Held(FileLock),
    /// It cannot be had: why, in words.
    Refused(String),
}

/// Tries the lock file at `path` below `root` without making one. No link is followed below `root`.
#[must_use]
pub fn claim(root: &Path, path: &Path) -> Claim {
    let shown = || text::printable_path(&root.join(path));
    let refused =
        |cause: &io::Error| Claim::Refused(format!("its lock {} cannot be tried: {}", shown(), io_reason(cause)));
    let (Some(name), Some(folder)) = (path.file_name(), path.parent()) else { return Claim::Absent };
    let folder = match Folder::open(root).and_then(|root| root.descend(folder)) {
        Ok(folder) => folder,
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Claim::Absent,
        Err(error) => return refused(&error.into()),
    };
    for _ in 0..ATTEMPTS {
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        // A server of network files locks only what was opened for writing.
        let opened = match openat(&folder, name, flags | OFlags::RDWR, Mode::empty()) {
            Err(Errno::ACCESS | Errno::ROFS) => openat(&folder, name, flags | OFlags::RDONLY, Mode::empty()),
            other => other,
        };
        let file = match opened {
            Ok(file) => File::from(file),
            Err(Errno::NOENT | Errno::LOOP | Errno::ISDIR | Errno::NXIO) => return Claim::Absent,
            Err(error) => return refused(&error.into()),
        };
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                return Claim::Refused(format!("being downloaded by {}", FileLock::holder(&root.join(path))));
            }
            Err(Errno::INTR) => continue,
            // There the presence of the file is the lock.
            Err(Errno::NOSYS | Errno::NOTSUP | Errno::NOLCK) => {
                return Claim::Refused(format!(
                    "its file system has no locks, and {} says that a program works on it, or died at it",
                    shown()
                ));
            }
            Err(error) => return refused(&error.into()),
        }
        let locked = match fstat(&file) {
            Ok(stat) => inode(&stat),
            Err(error) => return refused(&error.into()),
        };
        match folder.status(name) {
            Ok(named) if named.inode == locked => return Claim::Held(FileLock { file }),
            // Replaced meanwhile: that one counts.
            Ok(_) => {}
            Err(Errno::NOENT) => return Claim::Absent,
            Err(error) => return refused(&error.into()),
        }
    }
    Claim::Refused(format!("its lock {} is replaced again and again by another process", shown()))
}

/// Whether another holder has the lock file at `path` locked now. A lock file that is there says nothing by itself.
#[must_use]
pub fn is_held(path: &Path) -> bool {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let Ok(file) = rustix::fs::open(path, flags, Mode::empty()) else { return false };
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {
            drop(FileLock { file: file.into() });
            false
        }
        other => other == Err(Errno::WOULDBLOCK),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_holds_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let first = FileLock::try_exclusive(&path).unwrap().unwrap();
        assert!(FileLock::try_exclusive(&path).unwrap().is_none());
        // As a process that is being started has it.
        let copy = first.file().try_clone().unwrap();
        drop(first);
        assert!(FileLock::try_exclusive(&path).unwrap().is_some());
        assert!(!is_held(&path));
        drop(copy);
    }

    #[test]
    fn a_lock_of_another_program_is_tried_and_never_made() {
        let root = tempfile::tempdir().unwrap();
        let path = Path::new(".locks/models--a--b/etag.lock");
        assert!(matches!(claim(root.path(), path), Claim::Absent));
        assert!(!root.path().join(".locks").exists());
        std::fs::create_dir_all(root.path().join(path).parent().unwrap()).unwrap();
        assert!(matches!(claim(root.path(), path), Claim::Absent));
        std::fs::write(root.path().join(path), "").unwrap();
        let held = claim(root.path(), path);
        assert!(matches!(held, Claim::Held(_)), "{held:?}");
        let Claim::Refused(why) = claim(root.path(), path) else { panic!("it was had twice") };
        assert!(why.starts_with("being downloaded by "), "{why}");
        drop(held);
        assert!(matches!(claim(root.path(), path), Claim::Held(_)));
        assert!(root.path().join(path).exists());
        // A link on the way is no way to a lock.
        std::os::unix::fs::symlink(".locks", root.path().join("linked")).unwrap();
        assert!(matches!(claim(root.path(), Path::new("linked/models--a--b/etag.lock")), Claim::Absent));
    }

    #[test]
    fn a_lock_on_a_removed_file_does_not_count() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let old = FileLock::try_exclusive(&path).unwrap().unwrap();
        std::fs::remove_file(&path).unwrap();
        let new = FileLock::try_exclusive(&path).unwrap().unwrap();
        assert!(FileLock::try_exclusive(&path).unwrap().is_none());
        drop(old);
        assert!(FileLock::try_exclusive(&path).unwrap().is_none());
        drop(new);
        assert!(path.exists(), "a lock file is never removed");
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn the_holder_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let _lock = FileLock::try_exclusive(&path).unwrap().unwrap();
        let holder = FileLock::holder(&path);
        assert!(holder.starts_with(&format!("process {} (", std::process::id())), "{holder}");
        assert_eq!(FileLock::holder(&folder.path().join("none")), "another process");
    }

    #[test]
    fn the_lock_table_is_read_with_care() {
        let file = Inode { device: crate::machine::device_number(8, 0x11), inode: 1234 };
        let table = "1: POSIX  ADVISORY  WRITE 1 08:11:1234 0 EOF\n\
                     2: -> FLOCK  ADVISORY  WRITE 2 08:11:1234 0 EOF\n\
                     3: FLOCK  ADVISORY  WRITE 3 08:11:1235 0 EOF\n\
                     4: FLOCK  ADVISORY  WRITE 708 08:11:1234 0 EOF\n\
                     garbage\n";
        assert_eq!(lock_owner(table, file), Some(708));
        let other_device = Inode { device: 1, ..file };
        assert_eq!(lock_owner(table, other_device), Some(708));
        assert_eq!(lock_owner("", file), None);
        assert_eq!(lock_owner("1: FLOCK  ADVISORY  WRITE -1 08:11:1234 0 EOF", file), None);
    }
}
