//! What the kernel says of one name: `lstat` as values.

use jiff::Timestamp;
use rustix::fs::{FileType, Stat};

use crate::model::Inode;

/// What a name stands for. Links are never followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FileKind {
    /// A regular file: the only kind that counts bytes.
    File,
    /// A folder.
    Folder,
    /// A symbolic link.
    Link,
    /// A pipe, socket or device.
    Other,
}

impl FileKind {
    /// What the kernel's type of an entry is here.
    pub(super) fn of(kind: FileType) -> Self {
        match kind {
            FileType::RegularFile => Self::File,
            FileType::Directory => Self::Folder,
            FileType::Symlink => Self::Link,
            _ => Self::Other,
        }
    }
}

/// What is known of one name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileInfo {
    /// What it is.
    pub kind: FileKind,
    /// Its identity; of the link itself if it is a link.
    pub inode: Inode,
    /// `st_size`.
    pub size_bytes: u64,
    /// `st_blocks * 512`.
    pub disk_bytes: u64,
    /// `st_nlink`.
    pub links: u64,
    /// Last modification of the content; `None` for a time that no calendar has.
    pub modified: Option<Timestamp>,
    /// Last read, as far as the mount options let the kernel note it.
    pub accessed: Option<Timestamp>,
    /// Last change of the inode.
    pub changed: Option<Timestamp>,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// `st_mode`: the kind and the permission bits.
    pub mode: u32,
}

impl FileInfo {
    /// What `stat` says, as the same types on every system.
    #[allow(clippy::unnecessary_cast, clippy::cast_sign_loss, clippy::cast_lossless, clippy::useless_conversion)]
    pub(super) fn new(stat: &Stat) -> Self {
        Self {
            kind: FileKind::of(FileType::from_raw_mode(stat.st_mode)),
            inode: inode(stat),
            size_bytes: (stat.st_size as i64).max(0) as u64,
            disk_bytes: ((stat.st_blocks as i64).max(0) as u64).saturating_mul(512),
            links: stat.st_nlink as u64,
            modified: time(stat.st_mtime as i64, stat.st_mtime_nsec as i64),
            accessed: time(stat.st_atime as i64, stat.st_atime_nsec as i64),
            changed: time(stat.st_ctime as i64, stat.st_ctime_nsec as i64),
            uid: stat.st_uid,
            gid: stat.st_gid,
            mode: stat.st_mode as u32,
        }
    }

    /// Whether it is a regular file.
    #[must_use]
    pub fn is_file(&self) -> bool {
        self.kind == FileKind::File
    }

    /// Whether it is a folder.
    #[must_use]
    pub fn is_folder(&self) -> bool {
        self.kind == FileKind::Folder
    }

    /// Whether it is a symbolic link.
    #[must_use]
    pub fn is_link(&self) -> bool {
        self.kind == FileKind::Link
    }
}

/// The identity that `stat` gives.
#[allow(clippy::unnecessary_cast, clippy::cast_sign_loss, clippy::cast_lossless)]
pub(super) fn inode(stat: &Stat) -> Inode {
    Inode { device: stat.st_dev as u64, inode: stat.st_ino as u64 }
}

fn time(seconds: i64, nanoseconds: i64) -> Option<Timestamp> {
    Timestamp::new(seconds, i32::try_from(nanoseconds).ok()?).ok()
}
