//! The system's errors of writing, as what a person can do about them.

use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::space::space;
use crate::error::Error;

/// Wraps the error of an operation that writes `needed` bytes to `path`: [`Error::NoSpace`] for a full disk or a used-up
/// quota, else [`Error::Io`], with the cause in words where the system's own say too little.
pub fn write_error(operation: &'static str, path: impl Into<PathBuf>, needed: u64) -> impl FnOnce(io::Error) -> Error {
    let path = path.into();
    move |source| {
        let code = source.raw_os_error().map(Errno::from_raw_os_error);
        let other = |words: &str| io::Error::new(source.kind(), words.to_owned());
        let source = match code {
            Some(Errno::DQUOT) => {
                return quota(folder_of(&path), needed.max(1));
            }
            Some(Errno::NOSPC) => {
                let space = space(&path).ok();
                if space.is_none_or(|space| space.available < needed || !space.no_more_files) {
                    let available = space.map_or(0, |space| space.available);
                    return Error::NoSpace { path: folder_of(&path), needed: needed.max(1), available, advice: None };
                }
                other("the file system has no room for another file (its inodes are used up)")
            }
            Some(Errno::XDEV) => other("it lies on another file system"),
            Some(Errno::ROFS) => other("the file system is mounted read-only"),
            _ => source,
        };
        Error::Io { operation, path, source }
    }
}

/// A quota is used up: whatever the file system has free, this user gets none of it.
pub fn quota(path: PathBuf, needed: u64) -> Error {
    let advice = "the quota of this user, group or project is used up, whatever the file system has free".to_owned();
    Error::NoSpace { path, needed, available: 0, advice: Some(advice) }
}

fn folder_of(path: &Path) -> PathBuf {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(code: Errno, needed: u64) -> String {
        write_error("write", "/tmp/x", needed)(io::Error::from_raw_os_error(code.raw_os_error())).to_string()
    }

    #[test]
    fn full_disks_and_quotas_are_no_space() {
        let quota = message(Errno::DQUOT, 4096);
        assert_eq!(
            quota,
            "not enough space in /tmp: 4.00 KiB needed, 0 B free, 4.00 KiB short; the quota of this user, group or project \
             is used up, whatever the file system has free"
        );
        assert!(message(Errno::NOSPC, u64::MAX).starts_with("not enough space in /tmp"));
        assert!(
            message(Errno::NOSPC, 0).starts_with("not enough space in /tmp: 1 B needed"),
            "its inodes are not used up"
        );
    }

    #[test]
    fn other_causes_are_in_words() {
        assert_eq!(message(Errno::XDEV, 1), "cannot write /tmp/x: it lies on another file system");
        assert_eq!(message(Errno::ROFS, 1), "cannot write /tmp/x: the file system is mounted read-only");
        assert_eq!(message(Errno::ACCESS, 1), "cannot write /tmp/x: permission denied");
    }
}
