//! File systems and where they are mounted.

use std::path::{Path, PathBuf};

/// One mounted file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Where it is mounted.
    pub path: PathBuf,
    /// Its type: "ext4", "nfs4".
    pub kind: String,
    /// `st_dev` of its root, as `/proc/self/mountinfo` gives it.
    pub device: u64,
    /// Whether it is mounted read-only.
    pub read_only: bool,
}

/// The mount table, read once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mounts(Vec<Mount>);

impl Mounts {
    /// Reads the mount table; empty where there is none to read.
    #[must_use]
    pub fn read() -> Self {
        todo!()
    }

    /// The file system that holds `path` (an absolute path; its nearest existing ancestor decides).
    #[must_use]
    pub fn of(&self, _path: &Path) -> Option<&Mount> {
        todo!()
    }
}
