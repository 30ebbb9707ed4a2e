//! The program's own files and those that a person names: read only when they are regular files.
//!
//! Opening a pipe waits for its other end, in the kernel and for ever; a device may do anything. Neither is a file that this
//! program wrote or that somebody meant to be read.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
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
    if size > limit {
        return Ok(None);
    }
    // With room for more than there is, the first read mostly tells the end as well.
    let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0).saturating_add(64));
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    Ok((bytes.len() as u64 <= limit).then_some(bytes))
}

fn no_regular_file() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file")
}

#[cfg(test)]
mod tests {
    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

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
