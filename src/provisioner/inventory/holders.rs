//! Which processes hold rows.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use super::Inventory;
use crate::machine::{self, Holders};
use crate::model::{Holder, Inode};
use crate::store::{Details, Row};

impl Inventory {
    /// Notes in every row the processes that hold one of its files; one look at the processes serves them all. Gives the
    /// number of processes that could not be looked into: what they hold is not known.
    pub fn look_for_holders(&self, rows: &mut [Row]) -> usize {
        let files: BTreeSet<Inode> = rows.iter().flat_map(|row| row.usage.iter().map(|(inode, _)| *inode)).collect();
        let paths: Vec<PathBuf> = rows.iter().map(|row| row.model.path.clone()).collect();
        let found = machine::find_holders(&files, &paths);
        for row in rows.iter_mut() {
            let inodes = row.usage.iter().map(|(inode, _)| *inode);
            row.model.in_use_by = Some(of(&found, inodes));
        }
        found.unreadable
    }
}

/// The processes that hold one of the model's files.
pub(super) fn of_files(details: &Details) -> Vec<Holder> {
    let inodes: BTreeSet<Inode> = details
        .files
        .iter()
        // Followed: a store of links lists only files whose bytes are its own.
        .filter_map(|file| fs::metadata(&file.absolute).ok())
        .map(|status| Inode { device: status.dev(), inode: status.ino() })
        .collect();
    let paths: Vec<PathBuf> = std::iter::once(details.model.path.clone())
        .chain(details.files.iter().map(|file| file.absolute.clone()))
        .collect();
    let found = machine::find_holders(&inodes, &paths);
    of(&found, inodes.into_iter())
}

/// Each process once, in order of its number.
pub(super) fn of(found: &Holders, inodes: impl Iterator<Item = Inode>) -> Vec<Holder> {
    let mut holders: Vec<Holder> = inodes.filter_map(|inode| found.by_file.get(&inode)).flatten().cloned().collect();
    holders.sort_by_key(|holder| holder.pid);
    holders.dedup_by_key(|holder| holder.pid);
    holders
}
