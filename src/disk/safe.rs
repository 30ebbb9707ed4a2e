//! Paths below a root, reached without following a link.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};
#[cfg(target_os = "linux")]
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, fstat, mkdirat, openat, readlinkat, statat};
use rustix::io::Errno;

use super::{FileInfo, publish, write_error};
use crate::error::{Error, Result};
use crate::model::{Inode, RepoPath, text};

/// What a folder is opened as: on Linux a handle that needs no right to read the folder.
#[cfg(target_os = "linux")]
const HANDLE: OFlags = OFlags::PATH;
#[cfg(not(target_os = "linux"))]
const HANDLE: OFlags = OFlags::RDONLY;

/// An open folder that knows its path for errors: what deletion and publication work through. Scans use
/// [`Folder`](super::folder::Folder), which leaves that out. What is done through it is done in this very folder,
/// whatever its path means by then.
#[derive(Debug)]
pub struct Handle {
    handle: OwnedFd,
    path: PathBuf,
}

impl Handle {
    /// Opens the folder that a store or the user names; links on the way are followed, this once.
    ///
    /// # Errors
    /// [`crate::Error::Io`].
    pub fn open_root(path: &Path) -> Result<Self> {
        let flags = HANDLE | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let handle = openat(CWD, path, flags, Mode::empty()).map_err(|error| Error::io("open", path)(error.into()))?;
        Ok(Self { handle, path: path.to_owned() })
    }

    /// Opens a folder below this one without following a link; an empty `path` is this folder again.
    ///
    /// # Errors
    /// [`crate::Error::UnsafePath`] when a part of the way is a link or no folder, or `path` would leave this folder;
    /// [`crate::Error::Io`] otherwise.
    pub fn open_folder(&self, path: &Path) -> Result<Self> {
        let full = self.path.join(path);
        check_relative(path)?;
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let flags = HANDLE | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let handle = open_beneath(self.handle.as_fd(), path, flags).map_err(|error| refused(&full, "open", error))?;
        Ok(Self { handle, path: full })
    }

    /// Opens a regular file in or below this folder for reading, without following a link, without waiting for the
    /// other end of a pipe, and without leaving a trace in its time of last use where the system allows that.
    ///
    /// # Errors
    /// [`crate::Error::UnsafePath`] for what is no regular file or lies behind a link, [`crate::Error::Io`] otherwise.
    pub fn open_file(&self, path: &Path) -> Result<File> {
        let full = self.path.join(path);
        let name = file_name(path)?;
        let parent = path.parent().unwrap_or(Path::new(""));
        let folder = if parent.as_os_str().is_empty() { None } else { Some(self.open_folder(parent)?) };
        let folder = folder.as_ref().unwrap_or(self);
        // Opening some devices does something, so the kind is looked at before.
        let info = folder.info(name)?;
        if !info.is_file() {
            return Err(not_regular(&full, &info));
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let opened = open_quietly(folder.handle.as_fd(), name, flags).map_err(|error| refused(&full, "open", error))?;
        let stat = fstat(&opened).map_err(|error| Error::io("open", &full)(error.into()))?;
        let info = FileInfo::new(&stat);
        if !info.is_file() {
            return Err(not_regular(&full, &info));
        }
        Ok(File::from(opened))
    }

    /// What a name directly in this folder stands for; a link is not followed.
    ///
    /// # Errors
    /// [`crate::Error::UnsafePath`] when `name` is no plain name, [`crate::Error::Io`] otherwise.
    pub fn info(&self, name: &OsStr) -> Result<FileInfo> {
        check_name(name)?;
        statat(&self.handle, name, AtFlags::SYMLINK_NOFOLLOW)
            .map(|stat| FileInfo::new(&stat))
            .map_err(|error| Error::io("examine", self.path.join(name))(error.into()))
    }

    /// Where a link directly in this folder leads, as it is written; it is not followed.
    ///
    /// # Errors
    /// As [`Self::info`]; also when `name` is no link.
    pub fn read_link(&self, name: &OsStr) -> Result<PathBuf> {
        use std::os::unix::ffi::OsStringExt;
        check_name(name)?;
        readlinkat(&self.handle, name, Vec::new())
            .map(|target| PathBuf::from(std::ffi::OsString::from_vec(target.into_bytes())))
            .map_err(|error| Error::io("read", self.path.join(name))(error.into()))
    }

    /// Opens the folder `name` directly in this one and creates it if it is not there; the mode follows the umask, and
    /// as root a new one takes this folder's owner.
    ///
    /// # Errors
    /// [`crate::Error::UnsafePath`] when the name is taken by a link or by something that is no folder,
    /// [`crate::Error::Io`] or [`crate::Error::NoSpace`] otherwise.
    pub fn create_folder(&self, name: &OsStr) -> Result<Self> {
        check_name(name)?;
        let full = self.path.join(name);
        let created = match mkdirat(&self.handle, name, Mode::from_raw_mode(0o777)) {
            Ok(()) => true,
            Err(Errno::EXIST) => false,
            Err(error) => return Err(write_error("create", &full, 0)(error.into())),
        };
        let folder = self.open_folder(Path::new(name))?;
        if created {
            let owner = fstat(&self.handle).map_err(|error| Error::io("examine", &self.path)(error.into()))?;
            folder
                .reopen()
                .and_then(|opened| publish::inherit_owner_of(&opened, owner.st_uid, owner.st_gid))
                .and_then(|()| self.sync())
                .map_err(write_error("create", &full, 0))?;
        }
        Ok(folder)
    }

    /// The identity of this folder.
    ///
    /// # Errors
    /// [`crate::Error::Io`].
    pub fn inode(&self) -> Result<Inode> {
        fstat(&self.handle)
            .map(|stat| super::info::inode(&stat))
            .map_err(|error| Error::io("examine", &self.path)(error.into()))
    }

    /// The path that it was opened by.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The same folder, opened for reading its names.
    pub(super) fn reopen(&self) -> io::Result<OwnedFd> {
        Ok(openat(&self.handle, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
    }

    /// Makes the names in it survive a power failure, where it may be read.
    pub(super) fn sync(&self) -> io::Result<()> {
        match self.reopen() {
            Ok(opened) => publish::sync_handle(&opened),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
            Err(error) => Err(error),
        }
    }
}

impl AsFd for Handle {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.handle.as_fd()
    }
}

/// Opens a regular file below `root` for reading; follows no link below `root`, never blocks on a pipe.
///
/// # Errors
/// [`crate::Error::UnsafePath`] for what is no regular file or lies behind a link, [`crate::Error::Io`] otherwise.
pub fn open_below(root: &Path, path: &Path) -> Result<File> {
    Handle::open_root(root)?.open_file(path)
}

/// Creates the folders that hold `path` below `root` (which may not exist yet either) and gives the full path of
/// the file. No folder on the way below `root` may be a link.
///
/// # Errors
/// [`crate::Error::UnsafePath`] when a part of the way is a link or no folder, [`crate::Error::Io`] otherwise.
pub fn prepare_below(root: &Path, path: &RepoPath) -> Result<PathBuf> {
    publish::create_folders(root)?;
    let mut folder = Handle::open_root(root)?;
    for part in path.folder().into_iter().flat_map(|folder| folder.split('/')) {
        folder = folder.create_folder(OsStr::new(part))?;
    }
    Ok(path.below(root))
}

/// Whether `name` is one plain name: not empty, no `.` or `..`, no slash, no NUL.
pub(super) fn is_plain_name(name: &OsStr) -> bool {
    let bytes = name.as_encoded_bytes();
    !matches!(bytes, b"" | b"." | b"..") && !bytes.contains(&b'/') && !bytes.contains(&0)
}

fn check_name(name: &OsStr) -> Result<()> {
    if is_plain_name(name) { Ok(()) } else { Err(unsafe_path(Path::new(name), "it is no plain name")) }
}

fn check_relative(path: &Path) -> Result<()> {
    let plain = path.components().all(|part| matches!(part, Component::Normal(name) if is_plain_name(name)));
    if plain { Ok(()) } else { Err(unsafe_path(path, "it is absolute or has a '.' or '..' part")) }
}

fn file_name(path: &Path) -> Result<&OsStr> {
    check_relative(path)?;
    path.file_name().ok_or_else(|| unsafe_path(path, "it names no file"))
}

fn unsafe_path(path: &Path, reason: &str) -> Error {
    Error::UnsafePath { path: text::printable_path(path), reason: reason.to_owned() }
}

fn not_regular(path: &Path, info: &FileInfo) -> Error {
    unsafe_path(path, if info.is_link() { "it is a symbolic link" } else { "it is no regular file" })
}

/// The error of a way that is not followed, as what stands in it.
fn refused(path: &Path, operation: &'static str, error: Errno) -> Error {
    match error {
        Errno::LOOP | Errno::XDEV => unsafe_path(path, "a part of the way is a symbolic link"),
        Errno::NOTDIR => unsafe_path(path, "a part of the way is a symbolic link or no folder"),
        error => Error::io(operation, path)(error.into()),
    }
}

/// Opens `path` below `folder` in one step where the kernel can (Linux 5.6), else part by part. No link is followed.
fn open_beneath(folder: BorrowedFd<'_>, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    #[cfg(target_os = "linux")]
    {
        use rustix::fs::{ResolveFlags, openat2};
        static MISSING: AtomicBool = AtomicBool::new(false);
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        while !MISSING.load(Ordering::Relaxed) {
            match openat2(folder, path, flags | OFlags::NOFOLLOW, Mode::empty(), resolve) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(Errno::NOSYS) => MISSING.store(true, Ordering::Relaxed),
                // Some sandboxes refuse the call this way; the other way tells whether it is the file.
                Err(Errno::PERM) => break,
                other => return other,
            }
        }
    }
    open_part_by_part(folder, path, flags)
}

/// What [`open_beneath`] does, one `openat` for each part.
fn open_part_by_part(folder: BorrowedFd<'_>, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    let mut parts = path.components().peekable();
    let mut reached: Option<OwnedFd> = None;
    while let Some(part) = parts.next() {
        let part = match part {
            Component::Normal(name) => name,
            Component::CurDir => OsStr::new("."),
            _ => return Err(Errno::XDEV),
        };
        let from = reached.as_ref().map_or(folder, AsFd::as_fd);
        let flags = if parts.peek().is_some() { HANDLE | OFlags::DIRECTORY | OFlags::CLOEXEC } else { flags };
        let opened = match openat(from, part, flags | OFlags::NOFOLLOW, Mode::empty()) {
            // A link that should have been a folder: told apart from a file for the message.
            Err(Errno::NOTDIR) if is_link(from, part) => Err(Errno::LOOP),
            other => other,
        }?;
        reached = Some(opened);
    }
    reached.ok_or(Errno::NOENT)
}

fn is_link(folder: BorrowedFd<'_>, name: &OsStr) -> bool {
    statat(folder, name, AtFlags::SYMLINK_NOFOLLOW).is_ok_and(|stat| FileInfo::new(&stat).is_link())
}

/// Opens without changing the time of last use, which only the owner of a file may ask for.
fn open_quietly(folder: BorrowedFd<'_>, name: &OsStr, flags: OFlags) -> Result<OwnedFd, Errno> {
    #[cfg(target_os = "linux")]
    match openat(folder, name, flags | OFlags::NOATIME, Mode::empty()) {
        Err(Errno::PERM) => {}
        other => return other,
    }
    openat(folder, name, flags, Mode::empty())
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::fs::symlink;

    use super::*;

    /// root/a/b/file, root/link → a, root/a/out → ../.., root/pipe, and a secret beside root.
    fn tree() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("root");
        std::fs::create_dir_all(root.join("a/b")).unwrap();
        std::fs::write(root.join("a/b/file"), "content").unwrap();
        std::fs::write(folder.path().join("secret"), "secret").unwrap();
        symlink("a", root.join("link")).unwrap();
        symlink("../..", root.join("a/out")).unwrap();
        symlink("../../secret", root.join("a/secret")).unwrap();
        rustix::fs::mknodat(CWD, root.join("pipe"), rustix::fs::FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        (folder, root)
    }

    #[test]
    fn files_below_are_opened() {
        let (_folder, root) = tree();
        let mut content = String::new();
        open_below(&root, Path::new("a/b/file")).unwrap().read_to_string(&mut content).unwrap();
        assert_eq!(content, "content");
    }

    #[test]
    fn links_pipes_folders_and_ways_out_are_refused() {
        let (_folder, root) = tree();
        for path in
            ["link/b/file", "a/out/secret", "a/secret", "pipe", "a", "../secret", "/etc/passwd", "a/../a/b/file", ""]
        {
            let error = open_below(&root, Path::new(path)).unwrap_err();
            assert!(matches!(error, Error::UnsafePath { .. }), "{path}: {error}");
        }
        assert!(matches!(open_below(&root, Path::new("none")).unwrap_err(), Error::Io { .. }));
    }

    #[test]
    fn the_root_itself_may_be_a_link() {
        let (folder, root) = tree();
        let alias = folder.path().join("alias");
        symlink(&root, &alias).unwrap();
        open_below(&alias, Path::new("a/b/file")).unwrap();
    }

    #[test]
    fn part_by_part_is_as_strict() {
        let (_folder, root) = tree();
        let handle = Handle::open_root(&root).unwrap();
        let open = |path: &str| {
            open_part_by_part(handle.as_fd(), Path::new(path), HANDLE | OFlags::DIRECTORY | OFlags::CLOEXEC)
        };
        open("a/b").unwrap();
        open(".").unwrap();
        assert_eq!(open("link/b").unwrap_err(), Errno::LOOP);
        assert_eq!(open("a/out").unwrap_err(), Errno::LOOP);
        assert_eq!(open("a/b/file").unwrap_err(), Errno::NOTDIR);
        assert_eq!(open("../root").unwrap_err(), Errno::XDEV);
    }

    #[test]
    fn folders_are_created_but_never_through_a_link() {
        let (folder, root) = tree();
        let path = |path: &str| RepoPath::parse(path).unwrap();
        let new = folder.path().join("new/root");
        assert_eq!(prepare_below(&new, &path("x/y/file")).unwrap(), new.join("x/y/file"));
        assert!(new.join("x/y").is_dir() && !new.join("x/y/file").exists());
        prepare_below(&root, &path("a/b/c/file")).unwrap();
        for hostile in ["link/x/file", "a/out/x/file", "pipe/file", "a/b/file/x"] {
            let error = prepare_below(&root, &path(hostile)).unwrap_err();
            assert!(matches!(error, Error::UnsafePath { .. }), "{hostile}: {error}");
        }
        assert!(!folder.path().join("x").exists() && !root.join("a/x").exists());
        assert_eq!(prepare_below(&root, &path("file")).unwrap(), root.join("file"));
    }

    #[test]
    fn a_handle_stays_with_its_folder() {
        let (folder, root) = tree();
        let a = Handle::open_root(&root).unwrap().open_folder(Path::new("a")).unwrap();
        std::fs::rename(root.join("a"), folder.path().join("moved")).unwrap();
        symlink("/etc", root.join("a")).unwrap();
        a.create_folder(OsStr::new("new")).unwrap();
        assert!(folder.path().join("moved/new").is_dir());
        assert_eq!(a.read_link(OsStr::new("out")).unwrap(), Path::new("../.."));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn reading_leaves_the_time_of_last_use() {
        use std::os::unix::fs::MetadataExt;
        let (_folder, root) = tree();
        let path = root.join("a/b/file");
        let past = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000);
        File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_times(std::fs::FileTimes::new().set_accessed(past))
            .unwrap();
        let mut content = String::new();
        open_below(&root, Path::new("a/b/file")).unwrap().read_to_string(&mut content).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().atime(), 1_000_000);
    }
}
