//! Which processes hold rows, and how far their use can be known.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use super::Inventory;
use crate::machine::{self, AccessTimes, Holders, Mounts};
use crate::model::{Holder, Inode, Model, ModelId, StoreKind};
use crate::store::{Details, Evidence, Row};

impl Inventory {
    /// Notes in every row the processes that hold one of its files; one look at the processes serves them all. Gives the
    /// number of processes that could not be looked into: what they hold is not known.
    pub fn look_for_holders(&self, rows: &mut [Row]) -> usize {
        let files: BTreeSet<Inode> = rows.iter().flat_map(|row| row.usage.iter().map(|(inode, _)| *inode)).collect();
        let roots: BTreeSet<&Path> = rows.iter().map(|row| row.model.identity.store_path.as_path()).collect();
        let paths: Vec<PathBuf> = roots.into_iter().map(Path::to_owned).collect();
        let found = self.look(&files, &paths);
        let now = Timestamp::now();
        let mut loaded = self.loaded(rows.iter().map(|row| &row.model.identity));
        for row in rows.iter_mut() {
            let mut holders = of(&found, row.usage.iter().map(|(inode, _)| *inode));
            add_loaded(&mut holders, loaded.remove(&row.model.identity));
            if row.usage.iter().any(|(inode, _)| found.keeps_open(*inode)) {
                row.model.accessed = row.model.accessed.max(Some(now));
            }
            row.model.in_use_by = Some(holders);
        }
        found.unreadable
    }

    /// Looks at the processes, and remembers what is open now.
    pub(super) fn look(&self, files: &BTreeSet<Inode>, paths: &[PathBuf]) -> Holders {
        let found = machine::find_holders(files, paths);
        self.seen.note(found.by_file.keys().copied(), Timestamp::now());
        found
    }

    /// Those of the rows that Ollama's server has loaded, with its process. A model can be loaded and no file of it open.
    pub(super) fn loaded<'a>(&self, rows: impl Iterator<Item = &'a ModelId>) -> BTreeMap<ModelId, Holder> {
        let mut by_root: BTreeMap<&Path, Vec<&ModelId>> = BTreeMap::new();
        for row in rows.filter(|row| row.store == StoreKind::Ollama) {
            by_root.entry(&row.store_path).or_default().push(row);
        }
        let Some(server) = &self.ollama else { return BTreeMap::new() };
        let mut loaded = BTreeMap::new();
        for (root, rows) in by_root {
            for (name, holder) in server.loaded(root) {
                let named = rows.iter().filter(|row| row.id.eq_ignore_ascii_case(&name));
                loaded.extend(named.map(|row| ((*row).clone(), holder.clone())));
            }
        }
        loaded
    }

    /// Notes in `details` who holds the model, when it was last used, and how far both can be known. Gives its files.
    pub(super) fn add_evidence(&self, details: &mut Details) -> BTreeSet<Inode> {
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
        let found = self.look(&inodes, &paths);
        let access_times = LastUse::new(self).note(&mut details.model, inodes.iter().copied());
        let mut holders = of(&found, inodes.iter().copied());
        let identity = details.model.identity.clone();
        add_loaded(&mut holders, self.loaded(std::iter::once(&identity)).remove(&identity));
        details.model.in_use_by = Some(holders);
        details.evidence = Evidence { access_times, unreadable_processes: Some(found.unreadable) };
        inodes
    }
}

/// When rows were last used: the later of what the file system notes, where it does, and of when one of their files was last
/// seen open.
pub(super) struct LastUse {
    seen: std::sync::Arc<std::collections::HashMap<Inode, i64>>,
    mounts: Mounts,
}

impl LastUse {
    pub(super) fn new(inventory: &Inventory) -> Self {
        Self { seen: inventory.seen.times(), mounts: Mounts::read() }
    }

    /// Corrects the time in `model`, whose files are `files`. Gives what the file system notes.
    pub(super) fn note(&self, model: &mut Model, files: impl Iterator<Item = Inode>) -> Option<AccessTimes> {
        let mount = model.mount.as_deref().and_then(|path| self.mounts.of_resolved(path));
        let access_times = mount.map(|mount| mount.access_times);
        if access_times == Some(AccessTimes::Off) {
            // A time from before the file system was mounted so says nothing of today.
            model.accessed = None;
        }
        if !self.seen.is_empty() {
            let last = files.filter_map(|file| self.seen.get(&file)).max();
            model.accessed = model.accessed.max(last.and_then(|then| Timestamp::from_second(*then).ok()));
        }
        access_times
    }
}

/// A process that is known already is not told twice.
fn add_loaded(holders: &mut Vec<Holder>, loaded: Option<Holder>) {
    holders.extend(loaded.filter(|holder| holders.iter().all(|known| known.pid != holder.pid)));
}

/// Each process once, in order of its number.
pub(super) fn of(found: &Holders, inodes: impl Iterator<Item = Inode>) -> Vec<Holder> {
    let inodes: Vec<Inode> = inodes.collect();
    found.of(&inodes, Path::new(""))
}
