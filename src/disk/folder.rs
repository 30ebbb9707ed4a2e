//! An open folder: entries, metadata and links by name relative to it, so that no path is walked twice and no link
//! is followed on the way.

use std::ffi::{CStr, CString, OsStr, OsString};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

/// What the kernel says of an entry itself, links not followed.
pub use super::info::FileInfo as Status;
/// What an entry is.
pub use super::info::FileKind as EntryType;

/// An open folder.
#[derive(Debug)]
pub struct Folder(OwnedFd);

const OPEN: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

impl Folder {
    /// Opens a folder by its path; links are followed (a store's root may be one).
    ///
    /// # Errors
    /// The system's.
    pub fn open(path: &Path) -> Result<Self, Errno> {
        rustix::fs::open(path, OPEN, Mode::empty()).map(Self)
    }

    /// Opens a folder in this one; a link is refused.
    ///
    /// # Errors
    /// `ELOOP` or `ENOTDIR` for a link, else the system's.
    pub fn folder(&self, name: &OsStr) -> Result<Self, Errno> {
        rustix::fs::openat(&self.0, name, OPEN | OFlags::NOFOLLOW, Mode::empty()).map(Self)
    }

    /// Metadata of this folder.
    ///
    /// # Errors
    /// The system's.
    pub fn own_status(&self) -> Result<Status, Errno> {
        rustix::fs::fstat(&self.0).map(|stat| Status::new(&stat))
    }

    /// Metadata of an entry itself.
    ///
    /// # Errors
    /// The system's.
    pub fn status(&self, name: &OsStr) -> Result<Status, Errno> {
        rustix::fs::statat(&self.0, name, AtFlags::SYMLINK_NOFOLLOW).map(|stat| Status::new(&stat))
    }

    /// The text of a link.
    ///
    /// # Errors
    /// `EINVAL` if it is none.
    pub fn read_link(&self, name: &OsStr) -> Result<OsString, Errno> {
        self.with_link(name, OsStr::to_owned)
    }

    /// Calls `with` with the text of a link. Allocates nothing for texts as short as those of stores.
    ///
    /// # Errors
    /// `EINVAL` if it is none.
    pub fn with_link<T>(&self, name: &OsStr, with: impl FnOnce(&OsStr) -> T) -> Result<T, Errno> {
        let mut buffer = [std::mem::MaybeUninit::uninit(); 512];
        let (text, rest) = rustix::fs::readlinkat_raw(&self.0, name, &mut buffer)?;
        if !rest.is_empty() {
            return Ok(with(OsStr::from_bytes(text)));
        }
        let text = rustix::fs::readlinkat(&self.0, name, Vec::with_capacity(4096))?;
        Ok(with(OsStr::from_bytes(text.to_bytes())))
    }

    /// The first `limit` bytes of a regular file; `None` if it is longer. Neither follows a link nor waits on a pipe.
    ///
    /// # Errors
    /// `EINVAL` if it is no regular file, else the system's.
    pub fn read(&self, name: &OsStr, limit: u64) -> Result<Option<Vec<u8>>, Errno> {
        self.read_with_status(name, limit).map(|(_, bytes)| bytes)
    }

    /// [`Self::read`] with the metadata of the file that was read.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn read_with_status(&self, name: &OsStr, limit: u64) -> Result<(Status, Option<Vec<u8>>), Errno> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.0, name, flags, Mode::empty())?;
        let status = Status::new(&rustix::fs::fstat(&file)?);
        if !status.is_file() {
            return Err(Errno::INVAL);
        }
        if status.size_bytes > limit {
            return Ok((status, None));
        }
        // With room for more than there is, the first read mostly tells the end as well.
        let mut bytes = Vec::with_capacity(usize::try_from(status.size_bytes).unwrap_or(0) + 64);
        File::from(file)
            .take(limit + 1)
            .read_to_end(&mut bytes)
            .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
        let whole = bytes.len() as u64 <= limit;
        Ok((status, whole.then_some(bytes)))
    }

    /// Calls `each` with the name and, where the file system tells it at once, the type of every entry.
    ///
    /// # Errors
    /// The system's; entries before the failure have been given.
    pub fn each(&self, mut each: impl FnMut(&CStr, Option<EntryType>)) -> Result<(), Errno> {
        let mut give = |name: &CStr, kind: FileType| {
            if name != c"." && name != c".." {
                each(name, (kind != FileType::Unknown).then(|| EntryType::of(kind)));
            }
        };
        #[cfg(target_os = "linux")]
        {
            let mut buffer = [std::mem::MaybeUninit::uninit(); 16 * 1024];
            let mut entries = rustix::fs::RawDir::new(&self.0, &mut buffer);
            while let Some(entry) = entries.next() {
                let entry = entry?;
                give(entry.file_name(), entry.file_type());
            }
        }
        #[cfg(not(target_os = "linux"))]
        for entry in rustix::fs::Dir::read_from(&self.0)? {
            let entry = entry?;
            give(entry.file_name(), entry.file_type());
        }
        Ok(())
    }

    /// Names and types of every entry, sorted by name; the type is asked for where the file system does not tell it.
    ///
    /// # Errors
    /// The system's.
    pub fn entries(&self) -> Result<Vec<(OsString, EntryType)>, Errno> {
        let mut entries: Vec<(CString, Option<EntryType>)> = Vec::new();
        self.each(|name, kind| entries.push((name.to_owned(), kind)))?;
        let mut entries: Vec<_> = entries
            .into_iter()
            .filter_map(|(name, kind)| {
                let name = OsString::from_vec(name.into_bytes());
                let kind = kind.or_else(|| self.status(&name).ok().map(|status| status.kind))?;
                Some((name, kind))
            })
            .collect();
        entries.sort_unstable();
        Ok(entries)
    }

    /// Opens the folder at a relative path of plain names below this one, through no link.
    ///
    /// # Errors
    /// The system's; `EINVAL` when a part is no plain name.
    pub fn descend(&self, path: &Path) -> Result<Self, Errno> {
        let mut folder = Self(rustix::io::fcntl_dupfd_cloexec(&self.0, 0)?);
        for part in path.components() {
            let std::path::Component::Normal(name) = part else { return Err(Errno::INVAL) };
            folder = folder.folder(name)?;
        }
        Ok(folder)
    }
}

impl AsFd for Folder {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The bytes of a directory entry's name.
#[must_use]
pub fn os_str(name: &CStr) -> &OsStr {
    OsStr::from_bytes(name.to_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_bytes_and_links_are_themselves() {
        let scratch = tempfile::tempdir().unwrap();
        let odd = OsStr::from_bytes(b"a\xff\n\x1b");
        std::fs::write(scratch.path().join(odd), b"12345").unwrap();
        std::os::unix::fs::symlink("nowhere", scratch.path().join("link")).unwrap();
        let folder = Folder::open(scratch.path()).unwrap();
        let entries = folder.entries().unwrap();
        assert_eq!(entries, [(odd.to_owned(), EntryType::File), ("link".into(), EntryType::Link)]);
        assert_eq!(folder.read_link(OsStr::new("link")).unwrap(), "nowhere");
        assert_eq!(folder.status(odd).unwrap().size_bytes, 5);
        assert_eq!(folder.read(odd, 5).unwrap().unwrap(), b"12345");
        assert_eq!(folder.read(odd, 4).unwrap(), None);
        assert!(folder.read(OsStr::new("link"), 9).is_err());
    }

    #[test]
    fn a_linked_folder_is_not_entered() {
        let scratch = tempfile::tempdir().unwrap();
        std::fs::create_dir(scratch.path().join("real")).unwrap();
        std::os::unix::fs::symlink("real", scratch.path().join("link")).unwrap();
        let folder = Folder::open(scratch.path()).unwrap();
        assert!(folder.folder(OsStr::new("real")).is_ok());
        assert!(folder.folder(OsStr::new("link")).is_err());
        assert!(folder.descend(Path::new("../x")).is_err());
    }
}
