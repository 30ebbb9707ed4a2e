//! Room on a file system.

use std::io;
use std::path::Path;

use rustix::fs::statvfs;

use crate::error::{Error, Result};

/// Room on the file system that holds a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Size of the file system.
    pub total: u64,
    /// Free, reserved blocks included.
    pub free: u64,
    /// Free for this user.
    pub available: u64,
    /// Whether no other file can be made, however many bytes are free: a table of fixed length is full.
    pub no_more_files: bool,
}

/// Asks the file system of `path`, or of its nearest ancestor that exists.
///
/// # Errors
/// [`crate::Error::Io`] when no ancestor can be asked.
pub fn space(path: &Path) -> Result<Space> {
    let mut failure = io::Error::from(io::ErrorKind::NotFound);
    for ancestor in path.ancestors() {
        let ancestor = if ancestor.as_os_str().is_empty() { Path::new(".") } else { ancestor };
        match statvfs(ancestor) {
            Ok(stat) => {
                let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
                return Ok(Space {
                    total: bytes(stat.f_blocks),
                    free: bytes(stat.f_bfree),
                    available: bytes(stat.f_bavail),
                    // File systems without such a table say that it holds 0.
                    no_more_files: stat.f_files > 0 && stat.f_favail == 0,
                });
            }
            Err(error) => failure = error.into(),
        }
        if !matches!(failure.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) {
            break;
        }
    }
    Err(Error::io("measure the space of", path)(failure))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_is_not_there_yet_has_its_ancestors_space() {
        let folder = tempfile::tempdir().unwrap();
        let deep = space(&folder.path().join("not/there/yet")).unwrap();
        assert_eq!(deep.total, space(folder.path()).unwrap().total);
        assert!(deep.total >= deep.free && deep.free >= deep.available && deep.available > 0);
        space(Path::new("relative/path")).unwrap();
    }
}
