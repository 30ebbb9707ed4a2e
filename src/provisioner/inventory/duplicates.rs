//! Files with the same content in several places of the host, told by checksums that are known and by inodes, without hashing.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde::Serialize;

use tokio_util::sync::CancellationToken;

use crate::disk::fast_map::{Fast, FastMap};
use crate::model::{Digest, Inode, ModelId, StoreKind, text};
use crate::store::Row;
use crate::store::large::LargeFile;

/// One content that lies in several places.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Duplicate {
    /// Its checksum; `None` where only the inode tells that it is the same.
    pub digest: Option<Digest>,
    /// `st_size`.
    pub size_bytes: u64,
    /// The most that one copy less frees: 0 where all places are names of one file.
    pub reclaimable_bytes: u64,
    /// Where it lies, at least two.
    pub copies: Vec<FileCopy>,
}

/// One place of a content. The rows of one store that use the same blob use one copy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FileCopy {
    /// The rows that use it.
    pub models: Vec<ModelId>,
    /// The file.
    #[serde(with = "text::escaped")]
    pub path: PathBuf,
    /// The inode: places of the same one share their bytes.
    #[serde(flatten)]
    pub inode: Inode,
    /// `st_blocks * 512`.
    pub disk_bytes: u64,
    /// What comes free when every row that uses this copy gives it up: 0 while the file has a name elsewhere.
    pub reclaimable_bytes: u64,
}

impl Duplicate {
    /// Whether all places are names of one file.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.copies.iter().all(|copy| copy.inode == self.copies[0].inode)
    }

    /// The copies that `model` uses, and the others.
    #[must_use]
    pub fn of<'a>(&'a self, model: &ModelId) -> (Vec<&'a FileCopy>, Vec<&'a FileCopy>) {
        self.copies.iter().partition(|copy| copy.models.contains(model))
    }
}

/// What makes places one copy: a blob of a store by its inode, any other file by its path.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Place<'a> {
    store: StoreKind,
    root: &'a std::path::Path,
    inode: Inode,
    path: Option<&'a std::path::Path>,
}

/// What makes two files one content: a digest with a length, else the inode itself.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Content {
    Digest(Digest, u64),
    Inode(Inode),
}

struct Gathered<'a> {
    inode: Inode,
    rows: Vec<&'a Row>,
    path: PathBuf,
    size_bytes: u64,
    disk_bytes: u64,
    digest: Option<Digest>,
    /// Names that the rows have of it, and those that hold it.
    seen: u64,
    total: u64,
}

/// Every content of at least 1 MiB that lies in several places, those that would free most first. One pass over the rows;
/// the disk is not asked.
#[must_use]
pub fn duplicates<'a>(rows: impl IntoIterator<Item = &'a Row>) -> Vec<Duplicate> {
    let rows: Vec<&Row> = rows.into_iter().collect();
    let several = Several::of(&rows);
    let mut places: BTreeMap<Place<'_>, Gathered<'_>> = BTreeMap::new();
    let mut digests: BTreeMap<Inode, Digest> = BTreeMap::new();
    for row in rows {
        let identity = &row.model.identity;
        for file in &row.large {
            if !several.may_have(file) {
                continue;
            }
            let Some(links) = row.usage.get(file.inode) else { continue };
            if let Some(digest) = file.digest {
                digests.entry(file.inode).or_insert(digest);
            }
            let path = file.path.as_deref();
            let place = Place { store: identity.store, root: &identity.store_path, inode: file.inode, path };
            let known = places.entry(place).or_insert_with(|| Gathered {
                inode: file.inode,
                rows: Vec::new(),
                path: row.place_of(file),
                size_bytes: file.size_bytes,
                disk_bytes: links.disk_bytes,
                digest: file.digest,
                seen: 0,
                total: 0,
            });
            if known.rows.last().is_some_and(|last| last.model.identity == *identity) {
                continue;
            }
            known.rows.push(row);
            known.seen += if path.is_some() { 1 } else { links.seen };
            known.total = known.total.max(links.total);
        }
    }
    let mut groups: BTreeMap<Content, Vec<Gathered<'_>>> = BTreeMap::new();
    for (place, gathered) in places {
        let digest = gathered.digest.or_else(|| digests.get(&place.inode).copied());
        // A file that is cut short has another content than its name says.
        let key = match digest {
            Some(digest) => Content::Digest(digest, gathered.size_bytes),
            None => Content::Inode(place.inode),
        };
        groups.entry(key).or_default().push(Gathered { digest, ..gathered });
    }
    let mut found: Vec<Duplicate> = groups.into_values().filter(|copies| copies.len() > 1).map(duplicate).collect();
    found.sort_by(|a, b| {
        b.reclaimable_bytes.cmp(&a.reclaimable_bytes).then_with(|| a.copies[0].path.cmp(&b.copies[0].path))
    });
    found
}

/// Digests and inodes that occur more than once: nearly all files occur once, and a host has very many of them.
struct Several {
    digests: FastMap<[u8; 8], u32>,
    inodes: FastMap<Inode, u32>,
}

impl Several {
    fn of(rows: &[&Row]) -> Self {
        let count = rows.iter().map(|row| row.large.len()).sum();
        let mut several = Self {
            digests: FastMap::with_capacity_and_hasher(count, Fast::default()),
            inodes: FastMap::with_capacity_and_hasher(count, Fast::default()),
        };
        for file in rows.iter().flat_map(|row| &row.large) {
            if let Some(digest) = file.digest {
                *several.digests.entry(start(digest)).or_default() += 1;
            }
            *several.inodes.entry(file.inode).or_default() += 1;
        }
        several
    }

    /// Whether there may be another place of the file's content. The digest of a file may be known at another of its names only.
    fn may_have(&self, file: &LargeFile) -> bool {
        let of_digest = file.digest.and_then(|digest| self.digests.get(&start(digest)));
        of_digest.is_some_and(|count| *count > 1) || self.inodes.get(&file.inode).is_some_and(|count| *count > 1)
    }
}

/// Enough of a digest to tell most from each other.
fn start(digest: Digest) -> [u8; 8] {
    let mut start = [0; 8];
    let bytes: &[u8] = match &digest {
        Digest::Sha256(bytes) => bytes,
        Digest::GitSha1(bytes) => bytes,
    };
    start.copy_from_slice(&bytes[..8]);
    start
}

fn duplicate(gathered: Vec<Gathered<'_>>) -> Duplicate {
    let (digest, size_bytes) = gathered.first().map_or((None, 0), |first| (first.digest, first.size_bytes));
    let mut copies: Vec<FileCopy> = gathered
        .into_iter()
        .map(|copy| FileCopy {
            models: copy.rows.iter().map(|row| row.model.identity.clone()).collect(),
            path: copy.path,
            inode: copy.inode,
            disk_bytes: copy.disk_bytes,
            reclaimable_bytes: if copy.seen >= copy.total { copy.disk_bytes } else { 0 },
        })
        .collect();
    copies.sort_by(|a, b| a.path.cmp(&b.path));
    let reclaimable_bytes = copies.iter().map(|copy| copy.reclaimable_bytes).max().unwrap_or(0);
    Duplicate { digest, size_bytes, reclaimable_bytes, copies }
}

impl super::Inventory {
    /// Whether one of the files of a row is in another place of this host, too: what [`mark_duplicates`] notes in every row.
    #[must_use]
    pub fn has_copies(&self, model: &ModelId, cancel: &CancellationToken) -> bool {
        let (rows, _) = self.scan_all(cancel);
        duplicates(&rows).iter().flat_map(|group| &group.copies).any(|copy| copy.models.contains(model))
    }
}

/// Notes in every row whether one of its files is in another place, too.
pub fn mark_duplicates<'a>(found: &[Duplicate], rows: impl IntoIterator<Item = &'a mut Row>) {
    let models: BTreeSet<&ModelId> =
        found.iter().flat_map(|group| &group.copies).flat_map(|copy| &copy.models).collect();
    for row in rows {
        row.model.duplicate = models.contains(&row.model.identity);
    }
}
