//! Which processes hold a file: open descriptors, mapped files, command lines.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use crate::model::{Holder, Inode};

/// What a look at the processes found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holders {
    /// Holders of each file that has any.
    pub by_file: BTreeMap<Inode, Vec<Holder>>,
    /// Processes of other users that could not be read: a file without holders may still be held by one of them.
    pub unreadable: usize,
}

/// Looks through `/proc` for processes that have one of `files` open or mapped (by device and inode), or that name one of
/// `paths` (or something below it) in their command line. This process itself is left out.
#[must_use]
pub fn find_holders(_files: &BTreeSet<Inode>, _paths: &[PathBuf]) -> Holders {
    todo!()
}
