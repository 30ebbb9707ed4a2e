//! Bytes on disk, an inode once.

use super::FileInfo;
use super::fast_map::{Fast, FastMap};
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
pub struct Usage(FastMap<Inode, Links>);

impl Usage {
    /// Nothing, with room for so many files.
    #[must_use]
    pub fn with_capacity(files: usize) -> Self {
        Self(FastMap::with_capacity_and_hasher(files, Fast::default()))
    }

    /// Adds one name of a regular file.
    pub fn add(&mut self, inode: Inode, size_bytes: u64, disk_bytes: u64, links: u64) {
        let entry = self.0.entry(inode).or_insert(Links { disk_bytes, size_bytes, total: links, seen: 0 });
        entry.total = entry.total.max(links);
        entry.seen += 1;
    }

    /// Adds one name, if it stands for a regular file; folders, links and the rest count nothing.
    pub fn add_info(&mut self, info: &FileInfo) {
        if info.is_file() {
            self.add(info.inode, info.size_bytes, info.disk_bytes, info.links);
        }
    }

    /// Adds every name of `other`.
    pub fn merge(&mut self, other: &Self) {
        if self.0.is_empty() {
            self.0.clone_from(&other.0);
            return;
        }
        for (inode, links) in &other.0 {
            let entry = self.0.entry(*inode).or_insert(Links { seen: 0, ..*links });
            // A store may know of more that holds it than the file system does.
            entry.total = entry.total.max(links.total);
            entry.seen += links.seen;
        }
    }

    /// What is known of one inode.
    #[must_use]
    pub fn get(&self, inode: Inode) -> Option<&Links> {
        self.0.get(&inode)
    }

    /// The inodes, in no order.
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

#[cfg(test)]
mod tests {
    use super::*;

    const A: Inode = Inode { device: 1, inode: 1 };
    const B: Inode = Inode { device: 2, inode: 1 };

    #[test]
    fn an_inode_counts_once_and_is_reclaimable_when_every_link_goes() {
        let mut usage = Usage::default();
        usage.add(A, 100, 512, 2);
        usage.add(B, 10, 1024, 1);
        assert_eq!((usage.size_bytes(), usage.disk_bytes(), usage.reclaimable_bytes()), (110, 1536, 1024));
        let mut other = Usage::default();
        other.add(A, 100, 512, 2);
        usage.merge(&other);
        assert_eq!((usage.size_bytes(), usage.disk_bytes(), usage.reclaimable_bytes()), (110, 1536, 1536));
    }
}
