//! The program's own files and those that a person names: read only when they are regular files.
//!
//! Opening a pipe waits for its other end, in the kernel and for ever; a device may do anything. Neither is a file that this
//! program wrote or that somebody meant to be read.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::OFlags;

/// Opens a regular file for reading; links are followed. Never waits for the other end of a pipe. `/dev/null`, or a link to
/// it, is a file without content, as everywhere.
///
/// # Errors
/// The system's; `InvalidInput` for what is no regular file.
pub fn open(path: &Path) -> io::Result<File> {
    // Opening some devices does something, so the kind is looked at before.
    let kind = std::fs::metadata(path)?.file_type();
    let is_null = kind.is_char_device() && std::fs::canonicalize(path).is_ok_and(|real| real == Path::new("/dev/null"));
    if !kind.is_file() && !is_null {
        return Err(no_regular_file());
    }
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = File::options().read(true).custom_flags(flags.bits().cast_signed()).open(path)?;
    let opened = file.metadata()?.file_type();
    // Something else may have taken its place meanwhile.
    if opened.is_file() || (is_null && opened.is_char_device()) { Ok(file) } else { Err(no_regular_file()) }
}

/// The content of a regular file; `None` when it is longer than `limit` bytes.
///
/// # Errors
/// As [`open`].
pub fn read(path: &Path, limit: u64) -> io::Result<Option<Vec<u8>>> {
    let file = open(path)?;
    let size = file.metadata()?.len();
    read_opened(file, size, limit)
}

fn read_opened(file: File, size: u64, limit: u64) -> io::Result<Option<Vec<u8>>> {
    if size > limit {
        return Ok(None);
    }
    // With room for more than there is, the first read mostly tells the end as well.
    let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0).saturating_add(64));
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    Ok((bytes.len() as u64 <= limit).then_some(bytes))
}

/// The same of a file that only this user, who shares the user's own group, and the administrator can have written; `None`
/// for others, too.
///
/// # Errors
/// As [`open`].
pub fn read_own(path: &Path, limit: u64) -> io::Result<Option<Vec<u8>>> {
    let file = open(path)?;
    let attributes = file.metadata()?;
    if !is_own(attributes.uid(), attributes.gid(), attributes.mode()) {
        return Ok(None);
    }
    read_opened(file, attributes.len(), limit)
}

fn is_own(owner: u32, group: u32, mode: u32) -> bool {
    let (user, users) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    // Where each user has a group of his own, files may be writable by it.
    (owner == user || owner == 0) && mode & 0o002 == 0 && (mode & 0o020 == 0 || group == users)
}

fn no_regular_file() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file")
}

#[cfg(test)]
mod tests {
    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    #[test]
    fn only_who_could_write_it_anyway_is_believed() {
        let (user, group) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let other = user.wrapping_add(12_345);
        for (owner, of, mode, believed) in [
            (user, group, 0o600, true),
            (user, group, 0o664, true),
            (0, 0, 0o644, true),
            (user, group, 0o666, false),
            (user, group.wrapping_add(1), 0o664, false),
            (other, group, 0o600, false),
        ] {
            assert_eq!(is_own(owner, of, mode), believed, "{owner} {mode:o}");
        }
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("f");
        std::fs::write(&file, b"text").unwrap();
        for (mode, read) in [(0o600, Some(b"text".to_vec())), (0o606, None)] {
            std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
            assert_eq!(read_own(&file, 10).unwrap(), read);
        }
        assert_eq!(read_own(&file, 3).unwrap(), None);
    }

    #[test]
    fn only_regular_files_are_read_and_nothing_waits() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("file"), "12345").unwrap();
        std::os::unix::fs::symlink("file", at("link")).unwrap();
        std::os::unix::fs::symlink("/dev/null", at("null")).unwrap();
        mknodat(CWD, at("pipe"), FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        std::os::unix::fs::symlink("pipe", at("to-pipe")).unwrap();
        assert_eq!(read(&at("file"), 5).unwrap().unwrap(), b"12345");
        assert_eq!(read(&at("link"), 9).unwrap().unwrap(), b"12345");
        assert_eq!(read(&at("file"), 4).unwrap(), None);
        assert_eq!(read(&at("null"), 4).unwrap().unwrap(), b"");
        for path in [at("pipe"), at("to-pipe"), folder.path().to_owned(), "/dev/zero".into()] {
            let error = read(&path, 5).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{}: {error}", path.display());
        }
        assert_eq!(read(&at("none"), 5).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
