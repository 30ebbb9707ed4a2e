//! Bytes on disk, an inode once.

use std::collections::BTreeMap;

use crate::model::Inode;

/// What is known of one inode of a set of files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Links {
    /// `st_blocks * 512`.
    pub disk_bytes: u64,
    /// `st_size`.
    pub size_bytes: u64,
    /// `st_nlink` as the kernel says.
    pub total: u64,
    /// Names of it in this set.
    pub seen: u64,
}

/// The regular files of a row, a store or everything, by inode.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage(BTreeMap<Inode, Links>);

impl Usage {
    /// Adds one name of a regular file.
    pub fn add(&mut self, inode: Inode, size_bytes: u64, disk_bytes: u64, links: u64) {
        let entry = self.0.entry(inode).or_insert(Links { disk_bytes, size_bytes, total: links, seen: 0 });
        entry.seen += 1;
    }

    /// Adds every name of `other`.
    pub fn merge(&mut self, other: &Self) {
        for (inode, links) in &other.0 {
            let entry = self.0.entry(*inode).or_insert(Links { seen: 0, ..*links });
            entry.seen += links.seen;
        }
    }

    /// The inodes.
    pub fn iter(&self) -> impl Iterator<Item = (&Inode, &Links)> {
        self.0.iter()
    }

    /// `st_blocks * 512`, each inode once.
    #[must_use]
    pub fn disk_bytes(&self) -> u64 {
        self.0.values().map(|links| links.disk_bytes).sum()
    }

    /// `st_size`, each inode once.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.0.values().map(|links| links.size_bytes).sum()
    }

    /// What removing every name in this set frees: inodes without a link elsewhere.
    #[must_use]
    pub fn reclaimable_bytes(&self) -> u64 {
        self.0.values().filter(|links| links.seen >= links.total).map(|links| links.disk_bytes).sum()
    }
}
