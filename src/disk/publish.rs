//! Files that appear whole or not at all.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{CWD, Gid, Mode, OFlags, Uid, fchmod, fchown, fstat, mkdirat, openat};
use rustix::io::Errno;

use super::{FileInfo, write_error};
use crate::error::{Error, Result};
use crate::model::text;

/// Writes `bytes` to a temporary file beside `path`, syncs it, renames it over `path` and syncs the folder.
/// Missing folders are created; the mode follows the umask, or is that of the file it replaces; as root a new file
/// takes the folder's owner. A link at `path` is replaced, not followed.
///
/// # Errors
/// [`crate::Error::Io`] or [`crate::Error::NoSpace`]; the old content then still stands and nothing is left over.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    let folder = parent(path);
    create_folders(folder)?;
    replace(path, bytes, File::sync_all)?;
    sync_folder(folder)
}

/// [`write_atomically`] without its syncs, in a folder that is there: for what can be found out again. Whoever reads `path`
/// finds all of the old or all of the new bytes, but after a power loss the file may be missing or empty.
///
/// # Errors
/// As [`write_atomically`].
pub fn write_unsynced(path: &Path, bytes: &[u8]) -> Result<()> {
    replace(path, bytes, |_| Ok(()))
}

fn replace(path: &Path, bytes: &[u8], sync: fn(&File) -> io::Result<()>) -> Result<()> {
    let (temporary, mut file) = temporary_beside(path)?;
    let written =
        fill(&mut file, path, bytes).and_then(|()| sync(&file)).and_then(|()| std::fs::rename(&temporary, path));
    if let Err(error) = written {
        // The first error is the one to tell; the temporary file goes as far as the system lets it.
        let _ = std::fs::remove_file(&temporary);
        return Err(write_error("write", path, bytes.len() as u64)(error));
    }
    Ok(())
}

fn fill(file: &mut File, path: &Path, bytes: &[u8]) -> io::Result<()> {
    if let Ok(old) = std::fs::symlink_metadata(path)
        && old.is_file()
    {
        use std::os::unix::fs::PermissionsExt;
        fchmod(&*file, Mode::from_raw_mode(raw_mode(old.permissions().mode() & 0o777)))?;
    }
    file.write_all(bytes)
}

/// Removes a file of this program's own making: a partial, a journal. One that is not there is removed already.
///
/// # Errors
/// [`Error::Io`].
pub fn remove_if_there(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Removes a folder that was made for a file which did not come. One with something in it stays.
pub fn remove_folder_if_empty(path: &Path) {
    let _ = std::fs::remove_dir(path);
}

/// Moves the finished `staged` file to its final name in the same file system: sync, rename, sync of the folder.
/// A file that already has that name is replaced.
///
/// # Errors
/// [`crate::Error::UnsafePath`] when `staged` is no regular file, [`crate::Error::Io`] otherwise; `staged` then still
/// stands, unless only the last sync of the folder failed.
pub fn publish(staged: &Path, target: &Path) -> Result<()> {
    let file = open_staged(staged)?;
    let size = file.metadata().map_or(0, |found| found.len());
    file.sync_all().map_err(write_error("sync", staged, size))?;
    std::fs::rename(staged, target).map_err(write_error("publish", target, 0))?;
    sync_folder(parent(target))?;
    if parent(staged) != parent(target) {
        sync_folder(parent(staged))?;
    }
    Ok(())
}

/// [`publish`] for many small files at once: their syncs run beside each other, so that the file system joins them, and
/// each folder is synced once. Every name appears after the bytes behind it are synced. Gives a result a file.
///
/// # Errors
/// Each as [`publish`].
pub fn publish_all(files: &[(&Path, &Path)]) -> Vec<Result<()>> {
    let mut results = beside(files, |(staged, target)| {
        let file = open_staged(staged)?;
        file.sync_all().map_err(write_error("sync", *staged, 0))?;
        std::fs::rename(staged, target).map_err(write_error("publish", *target, 0))
    });
    let folders: BTreeSet<&Path> = files
        .iter()
        .zip(&results)
        .filter(|(_, result)| result.is_ok())
        .flat_map(|((staged, target), _)| [parent(staged), parent(target)])
        .collect();
    let folders: Vec<&Path> = folders.into_iter().collect();
    for (folder, synced) in folders.iter().zip(beside(&folders, |folder| sync_folder(folder))) {
        let Err(error) = synced else { continue };
        let mut error = Some(error);
        for ((_, target), result) in files.iter().zip(&mut results) {
            if result.is_ok() && parent(target) == *folder {
                let again = || Error::io("sync", *folder)(io::Error::other("it failed for another file of it"));
                *result = Err(error.take().unwrap_or_else(again));
            }
        }
    }
    results
}

/// Does `work` for each of `items` on a few threads, and gives the results in order.
pub fn beside<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    /// While one thread waits for the disk, others bring it more to do at once.
    const THREADS: usize = 16;
    let share = items.len().div_ceil(THREADS).max(1);
    if items.len() <= 1 {
        return items.iter().map(work).collect();
    }
    std::thread::scope(|scope| {
        let threads: Vec<_> = items
            .chunks(share)
            .map(|chunk| (chunk, scope.spawn(|| chunk.iter().map(&work).collect::<Vec<R>>())))
            .collect();
        threads
            .into_iter()
            .flat_map(|(_, thread)| match thread.join() {
                Ok(results) => results,
                Err(panic) => std::panic::resume_unwind(panic),
            })
            .collect()
    })
}

/// Opens a finished file that is to be published.
fn open_staged(staged: &Path) -> Result<File> {
    let file =
        openat(CWD, staged, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())
            .map_err(|error| Error::io("open", staged)(error.into()))?;
    let info =
        fstat(&file).map(|stat| FileInfo::new(&stat)).map_err(|error| Error::io("open", staged)(error.into()))?;
    if !info.is_file() {
        return Err(Error::UnsafePath {
            path: text::printable_path(staged),
            reason: "it is no regular file".to_owned(),
        });
    }
    Ok(File::from(file))
}

/// Creates a file that must not be there yet, for reading and writing. The mode follows the umask; as root the file
/// takes the owner of its folder. No link is followed at its name.
///
/// # Errors
/// [`crate::Error::Io`] (with `AlreadyExists` if the name is taken) or [`crate::Error::NoSpace`].
pub fn create_new(path: &Path) -> Result<File> {
    create(path, OFlags::EXCL).map_err(write_error("create", path, 0))
}

/// Opens a file for reading and writing and creates it if it is not there, as [`create_new`] does. What is there keeps
/// its content.
///
/// # Errors
/// [`crate::Error::UnsafePath`] when the name stands for something else than a regular file, else as [`create_new`].
pub fn open_or_create(path: &Path) -> Result<File> {
    let unsafe_path =
        || Error::UnsafePath { path: text::printable_path(path), reason: "it is no regular file".to_owned() };
    match create(path, OFlags::empty()) {
        Ok(file) if file.metadata().is_ok_and(|metadata| metadata.is_file()) => Ok(file),
        Ok(_) => Err(unsafe_path()),
        Err(error) if [Errno::LOOP, Errno::ISDIR, Errno::NXIO].iter().any(|code| is(&error, *code)) => {
            Err(unsafe_path())
        }
        Err(error) => Err(write_error("create", path, 0)(error)),
    }
}

fn create(path: &Path, flags: OFlags) -> io::Result<File> {
    let base = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let mode = Mode::from_raw_mode(0o666);
    // Whether it is new decides whether its owner is ours to set.
    match openat(CWD, path, base | OFlags::CREATE | OFlags::EXCL, mode) {
        Ok(file) => {
            let file = File::from(file);
            if let Err(error) = inherit_owner(&file, parent(path)) {
                let _ = std::fs::remove_file(path);
                return Err(error);
            }
            Ok(file)
        }
        Err(Errno::EXIST) if !flags.contains(OFlags::EXCL) => {
            Ok(File::from(openat(CWD, path, base | OFlags::CREATE, mode)?))
        }
        Err(error) => Err(error.into()),
    }
}

/// Creates `folder` and its missing ancestors; modes follow the umask; as root each new one takes the owner of the
/// folder it is created in.
///
/// # Errors
/// [`crate::Error::Io`] or [`crate::Error::NoSpace`].
pub fn create_folders(folder: &Path) -> Result<()> {
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let missing: Vec<&Path> = folder
        .ancestors()
        .take_while(|ancestor| {
            !ancestor.as_os_str().is_empty()
                && std::fs::metadata(ancestor).is_err_and(|e| e.kind() == io::ErrorKind::NotFound)
        })
        .collect();
    for path in missing.into_iter().rev() {
        match mkdirat(CWD, path, Mode::from_raw_mode(0o777)) {
            Ok(()) => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                openat(CWD, path, flags, Mode::empty())
                    .map_err(io::Error::from)
                    .and_then(|opened| inherit_owner(&opened, parent(path)))
                    .and_then(|()| sync(parent(path)))
                    .map_err(write_error("create", path, 0))?;
            }
            // Another process was faster.
            Err(Errno::EXIST) => {}
            Err(error) => return Err(write_error("create", path, 0)(error.into())),
        }
    }
    match std::fs::metadata(folder) {
        Ok(metadata) if metadata.is_dir() => Ok(()),
        Ok(_) => Err(Error::io("create", folder)(io::Error::other("a file of that name is in the way"))),
        Err(error) => Err(Error::io("create", folder)(error)),
    }
}

/// As root, gives a file or folder that this program made the owner of the folder that it lies in; no link is followed.
///
/// # Errors
/// [`crate::Error::Io`].
pub fn take_owner_of_folder(path: &Path) -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    openat(CWD, path, flags, Mode::empty())
        .map_err(io::Error::from)
        .and_then(|opened| inherit_owner(&opened, parent(path)))
        .map_err(write_error("own", path, 0))
}

/// Makes the names in `folder` survive a power failure.
///
/// # Errors
/// [`crate::Error::Io`].
pub fn sync_folder(folder: &Path) -> Result<()> {
    sync(folder).map_err(write_error("sync", folder, 0))
}

fn sync(folder: &Path) -> io::Result<()> {
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let opened = openat(CWD, folder, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    match opened {
        Ok(opened) => sync_handle(&opened),
        // A folder may be written to and not be read; there is then no way to sync it.
        Err(Errno::ACCESS) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Syncs an open folder; file systems that cannot sync folders keep their own order.
pub(super) fn sync_handle(folder: impl AsFd) -> io::Result<()> {
    match rustix::fs::fsync(folder) {
        Ok(()) | Err(Errno::INVAL | Errno::NOTSUP) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// As root, gives a new file or folder the owner of the folder that it was created in, so that root never leaves files
/// that the owner of a store cannot remove.
fn inherit_owner(created: impl AsFd, folder: &Path) -> io::Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let folder = rustix::fs::stat(folder)?;
    inherit_owner_of(created, folder.st_uid, folder.st_gid)
}

/// [`inherit_owner`], where the folder's owner is known.
pub(super) fn inherit_owner_of(created: impl AsFd, uid: u32, gid: u32) -> io::Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let now = fstat(&created)?;
    if (now.st_uid, now.st_gid) == (uid, gid) {
        return Ok(());
    }
    match fchown(&created, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid))) {
        // A server that squashes root, or a file system without owners, decides itself.
        Ok(()) | Err(Errno::PERM | Errno::INVAL | Errno::NOTSUP) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn temporary_beside(path: &Path) -> Result<(PathBuf, File)> {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    loop {
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let name = format!(".{}-{number}.llorch-tmp", std::process::id());
        let temporary = path.with_file_name(OsStr::new(&name));
        match create(&temporary, OFlags::EXCL) {
            Ok(file) => return Ok((temporary, file)),
            // Left by an earlier process of this number: its name is passed over.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(write_error("write", path, 0)(error)),
        }
    }
}

fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(path)
}

fn is(error: &io::Error, code: Errno) -> bool {
    error.raw_os_error() == Some(code.raw_os_error())
}

#[allow(clippy::unnecessary_cast)]
fn raw_mode(mode: u32) -> rustix::fs::RawMode {
    mode as rustix::fs::RawMode
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// What a plain `open` gives with this umask.
    fn plain_mode(folder: &Path) -> u32 {
        let plain = folder.join("plain");
        std::fs::write(&plain, "").unwrap();
        let mode = std::fs::metadata(&plain).unwrap().mode();
        std::fs::remove_file(&plain).unwrap();
        mode
    }

    #[test]
    fn writes_whole_files_with_the_mode_of_the_umask() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b/file");
        write_atomically(&path, b"one").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"one");
        assert_eq!(std::fs::metadata(&path).unwrap().mode(), plain_mode(folder.path()));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        write_atomically(&path, b"two").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o640, "a replaced file passes on its mode");
        assert_eq!(names(path.parent().unwrap()), ["file"]);
    }

    #[test]
    fn a_failure_leaves_the_old_state_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("taken");
        std::fs::create_dir(&path).unwrap();
        std::fs::write(path.join("content"), "x").unwrap();
        write_atomically(&path, b"bytes").unwrap_err();
        assert_eq!(names(folder.path()), ["taken"]);
        let below_a_file = path.join("content/deeper/file");
        write_atomically(&below_a_file, b"bytes").unwrap_err();
        assert_eq!(names(&path), ["content"]);
    }

    #[test]
    fn a_link_is_replaced_and_its_target_untouched() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("target");
        std::fs::write(&target, "old").unwrap();
        let link = folder.path().join("link");
        symlink(&target, &link).unwrap();
        write_atomically(&link, b"new").unwrap();
        assert_eq!(std::fs::read(&target).unwrap(), b"old");
        assert!(std::fs::symlink_metadata(&link).unwrap().is_file());
    }

    #[test]
    fn publish_moves_and_replaces() {
        let folder = tempfile::tempdir().unwrap();
        let (staged, target) = (folder.path().join("x.llorch"), folder.path().join("x"));
        std::fs::write(&staged, "new").unwrap();
        std::fs::write(&target, "old").unwrap();
        publish(&staged, &target).unwrap();
        assert_eq!(std::fs::read(&target).unwrap(), b"new");
        assert_eq!(names(folder.path()), ["x"]);
    }

    #[test]
    fn many_are_published_at_once_and_one_that_fails_stops_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let other = folder.path().join("sub");
        std::fs::create_dir(&other).unwrap();
        let files: Vec<(PathBuf, PathBuf)> = (0..40)
            .map(|n| {
                let folder = if n % 2 == 0 { folder.path() } else { &other };
                (folder.join(format!("{n}.llorch")), folder.join(n.to_string()))
            })
            .collect();
        for (n, (staged, _)) in files.iter().enumerate().filter(|(n, _)| *n != 7) {
            std::fs::write(staged, n.to_string()).unwrap();
        }
        let pairs: Vec<(&Path, &Path)> = files.iter().map(|(from, to)| (from.as_path(), to.as_path())).collect();
        let results = publish_all(&pairs);
        assert_eq!(results.iter().position(Result::is_err), Some(7));
        assert_eq!(results.iter().filter(|result| result.is_err()).count(), 1);
        for (n, (staged, target)) in files.iter().enumerate().filter(|(n, _)| *n != 7) {
            assert_eq!(std::fs::read(target).unwrap(), n.to_string().as_bytes());
            assert!(!staged.exists());
        }
        assert!(publish_all(&[]).is_empty());
    }

    #[test]
    fn publish_takes_regular_files_only_and_keeps_what_it_cannot_move() {
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("link");
        symlink("/etc/passwd", &link).unwrap();
        publish(&link, &folder.path().join("x")).unwrap_err();
        let pipe = folder.path().join("pipe");
        rustix::fs::mknodat(CWD, &pipe, rustix::fs::FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        let error = publish(&pipe, &folder.path().join("x")).unwrap_err().to_string();
        assert!(error.contains("no regular file"), "{error}");
        let staged = folder.path().join("staged");
        std::fs::write(&staged, "x").unwrap();
        publish(&staged, &folder.path().join("missing/x")).unwrap_err();
        assert!(staged.exists());
    }

    #[test]
    fn another_file_system_is_named_as_the_cause() {
        let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir_in("/dev/shm").unwrap());
        if std::fs::metadata(here.path()).unwrap().dev() == std::fs::metadata(there.path()).unwrap().dev() {
            return;
        }
        let staged = here.path().join("staged");
        std::fs::write(&staged, "x").unwrap();
        let error = publish(&staged, &there.path().join("x")).unwrap_err().to_string();
        assert!(error.ends_with("it lies on another file system"), "{error}");
        assert!(staged.exists());
    }

    #[test]
    fn as_root_new_files_and_folders_take_the_owner_of_their_folder() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        std::os::unix::fs::chown(folder.path(), Some(12345), Some(23456)).unwrap();
        let path = folder.path().join("a/b/file");
        write_atomically(&path, b"x").unwrap();
        for path in [folder.path().join("a"), folder.path().join("a/b"), path] {
            let metadata = std::fs::metadata(&path).unwrap();
            assert_eq!((metadata.uid(), metadata.gid()), (12345, 23456), "{}", path.display());
        }
    }

    #[test]
    fn open_or_create_keeps_content_and_refuses_the_rest() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        open_or_create(&path).unwrap().write_all(b"x").unwrap();
        open_or_create(&path).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"x");
        let link = folder.path().join("link");
        symlink(folder.path().join("elsewhere"), &link).unwrap();
        for refused in [link.as_path(), folder.path()] {
            assert!(matches!(open_or_create(refused).unwrap_err(), Error::UnsafePath { .. }), "{}", refused.display());
        }
        assert!(!folder.path().join("elsewhere").exists());
        assert!(create_new(&path).is_err());
    }
}
