//! A repository as a row of the table.

use std::collections::{BTreeSet, HashSet};
use std::ffi::OsStr;
use std::path::Path;

use super::layout::{self, BlobName};
use super::read::{Blob, Content, Entry, Repository};
use super::sets;
use crate::disk::folder::Status;
use crate::disk::usage::Usage;
use crate::model::{Bytes, FileName, FileStatus, Format, Model, ModelId, ModelKind, StoreKind, text};
use crate::store::Row;
use crate::store::surroundings::Warnings;

/// The row of `repository`; of weights only those that are `chosen` can be missing. `users` counts the links of all repositories to a shared payload, which one of them cannot know by itself.
pub(super) fn row(
    repository: &Repository,
    root: &Path,
    chosen: &dyn Fn(&OsStr, &Path) -> bool,
    users: &dyn Fn(&OsStr) -> u64,
) -> Row {
    let mut usage = Usage::with_capacity(repository.blobs.len() + repository.refs.len() + repository.others.len());
    let mut payloads = Payloads::default();
    let mut modified = None;
    let mut accessed = None;
    let mut note = |status: &Status| {
        modified = modified.max(status.modified);
        accessed = accessed.max(status.accessed);
    };
    let named = Named::of(repository);
    for ((_, blob), named) in repository.blobs.iter().zip(&named.here) {
        match blob {
            Blob::File(status) => {
                add(&mut usage, status, status.links);
                if *named {
                    payloads.add(status, status.links > 1);
                }
                note(status);
            }
            Blob::Shared { hash, payload: Some(status), users: list, .. } => {
                // Links of other repositories hold the payload as hard links would.
                // Without the list of users nobody can tell, and the payload stays.
                let links = status.links.saturating_sub(1) + users(hash).max(1) + u64::from(list.is_none());
                add(&mut usage, status, links);
                if *named {
                    payloads.add(status, true);
                }
                note(status);
                if let Some(list) = list {
                    add(&mut usage, list, list.links.saturating_sub(1) + users(hash).max(1));
                }
            }
            _ => {}
        }
    }
    for entry in repository.revisions.iter().flat_map(|revision| &revision.entries) {
        if let Content::File(status) = &entry.content {
            add(&mut usage, status, status.links);
            payloads.add(status, status.links > 1);
            note(status);
        }
    }
    for status in repository.refs.iter().map(|r| &r.status).chain(repository.others.iter().map(|(_, status)| status)) {
        add(&mut usage, status, status.links);
    }
    let lacks = Lacks::of(repository, chosen);
    let unfinished: Vec<String> =
        repository.unfinished().map(|(name, _)| text::printable_path(Path::new(name))).collect();
    let identity = ModelId { store: StoreKind::Hf, store_path: root.to_path_buf(), id: repository.id.clone() };
    let mut model = Model {
        kind: repository.kind,
        reference: (repository.kind == ModelKind::Model).then(|| repository.id.clone()),
        format: repository.revisions.iter().any(|revision| !revision.entries.is_empty()).then_some(Format::Other),
        file_count: payloads.count(),
        size_bytes: payloads.size_bytes(),
        disk_bytes: usage.disk_bytes(),
        reclaimable_bytes: usage.reclaimable_bytes(),
        modified,
        accessed,
        complete: unfinished.is_empty(),
        warnings: warnings(repository, &named, &lacks, &unfinished),
        ..Model::new(identity, repository.path.clone())
    };
    if !repository.unreadable.is_empty() {
        model.note_damage(FileStatus::Unreadable);
        // Behind a folder that may not be read everything may be.
        model.measured = usage.iter().next().is_some();
    } else if !lacks.missing.is_empty() {
        model.note_damage(FileStatus::Missing);
    }
    Row::new(model, usage).with_large(super::large::of(repository))
}

fn add(usage: &mut Usage, status: &Status, links: u64) {
    usage.add(status.inode, status.size_bytes, status.disk_bytes, links);
}

/// The files that revisions name, each once.
#[derive(Default)]
struct Payloads {
    files: u64,
    bytes: u64,
    /// Those that may be named twice. What has one name only needs no place in a map.
    several: Usage,
}

impl Payloads {
    /// Adds a file; `again` says that it may come a second time.
    fn add(&mut self, status: &Status, again: bool) {
        if again {
            return add(&mut self.several, status, status.links);
        }
        self.files += 1;
        self.bytes = self.bytes.saturating_add(status.size_bytes);
    }

    fn count(&self) -> u64 {
        self.files + self.several.iter().count() as u64
    }

    fn size_bytes(&self) -> u64 {
        self.bytes.saturating_add(self.several.size_bytes())
    }
}

/// Weights that revisions name.
struct Lacks {
    /// Files that are not there.
    missing: Vec<String>,
    /// Whether shards are not there whose set is: that is told with the set.
    shards: bool,
}

impl Lacks {
    fn of(repository: &Repository, chosen: &dyn Fn(&OsStr, &Path) -> bool) -> Self {
        let mut missing = BTreeSet::new();
        let mut shards = false;
        for revision in &repository.revisions {
            for entry in revision.entries.iter().filter(|entry| is_missing(repository, entry)) {
                let lacks = sets::is_weights(&entry.path) && chosen(&revision.commit, &entry.path);
                if lacks && !sets::is_foreign(repository, entry) {
                    missing.insert(entry.path.as_path());
                }
            }
        }
        if !missing.is_empty() {
            let revisions = super::details::by_name(repository);
            let sets = sets::of(repository, &revisions, &|_, _| true);
            let here = sets.iter().filter(|set| set.is_here() && set.is_sharded());
            let here: HashSet<_> = here.filter_map(|set| set_of(set.path)).collect();
            let before = missing.len();
            missing.retain(|path| set_of(path).is_none_or(|set| !here.contains(&set)));
            shards = missing.len() < before;
        }
        Self { missing: missing.into_iter().map(text::printable_path).collect(), shards }
    }
}

/// What all shards of one set have in common: their folder, and that of their names.
fn set_of(path: &Path) -> Option<(&Path, (&str, u32, u8))> {
    let name = FileName::parse(path.file_name()?.to_str()?);
    Some((path.parent()?, name.shard()?.set()))
}

/// What the revisions name of `blobs/`.
struct Named<'a> {
    /// Of each blob, in their order, whether a revision names it.
    here: Vec<bool>,
    /// Names that no blob has.
    nowhere: BTreeSet<&'a OsStr>,
}

impl<'a> Named<'a> {
    fn of(repository: &'a Repository) -> Self {
        let mut named = Self { here: vec![false; repository.blobs.len()], nowhere: BTreeSet::new() };
        for entry in repository.revisions.iter().flat_map(|revision| &revision.entries) {
            match &entry.content {
                Content::Blob(place) => named.here[*place] = true,
                Content::NoBlob(name) => drop(named.nowhere.insert(name)),
                Content::Elsewhere | Content::File(_) | Content::Other => {}
            }
        }
        named
    }
}

/// Whether an entry has no bytes behind it.
pub(super) fn is_missing(repository: &Repository, entry: &Entry) -> bool {
    match &entry.content {
        Content::Blob(place) => repository.blobs.at(*place).is_none_or(|(_, blob)| blob.payload().is_none()),
        Content::NoBlob(_) | Content::Elsewhere | Content::Other => true,
        Content::File(_) => false,
    }
}

fn warnings(repository: &Repository, named: &Named<'_>, lacks: &Lacks, unfinished: &[String]) -> Vec<String> {
    let missing = &lacks.missing;
    let mut warnings = Warnings::default();
    repository.damage.iter().for_each(|line| warnings.add(line));
    for (path, error) in &repository.unreadable {
        let path = if path.as_os_str().is_empty() { &repository.path } else { path };
        warnings.add(format!(
            "unknown: cannot read {}: {}",
            text::printable_path(path),
            std::io::Error::from(*error).kind()
        ));
    }
    for (path, to) in &repository.foreign {
        let path = if path.as_os_str().is_empty() { Path::new(&repository.folder) } else { path };
        warnings.add(format!(
            "link to no file of this repository, not counted: {} -> {}",
            text::printable_path(path),
            text::printable_path(to)
        ));
    }
    if !missing.is_empty() {
        // Behind a folder that may not be read they may be there.
        let what = if repository.has_unknown_blobs() { "weights that cannot be read" } else { "missing weights" };
        warnings.add(format!("{what}: {}", missing.join(", ")));
    }
    if !unfinished.is_empty() {
        warnings.add(format!("unfinished downloads: {}", unfinished.join(", ")));
    }
    let bytes = |blob: &Blob| matches!(blob, Blob::Foreign) || blob.payload().is_some();
    let empty = repository.blobs.values().zip(&named.here).filter(|(blob, named)| **named && !bytes(blob)).count();
    let dangling = named.nowhere.len() + empty;
    if dangling > 0 && missing.is_empty() && !lacks.shards {
        let (count, lead) = if dangling == 1 { ("1 file", "leads") } else { (&*format!("{dangling} files"), "lead") };
        warnings.add(format!("{count} {lead} nowhere"));
    }
    if !repository.has_unknown_revisions() {
        let mut unnamed = Usage::default();
        for ((name, blob), named) in repository.blobs.iter().zip(&named.here) {
            if let (Blob::File(status), false) = (blob, *named)
                && layout::blob_name(name) == BlobName::Payload
            {
                add(&mut unnamed, status, status.links);
            }
        }
        if unnamed.iter().next().is_some() {
            warnings.add(format!("{} in blobs that no revision names", Bytes(unnamed.disk_bytes())));
        }
    }
    for r in &repository.refs {
        let there = r
            .commit
            .as_deref()
            .is_some_and(|commit| repository.revisions.iter().any(|revision| revision.commit == commit));
        if !there && !repository.has_unknown_revisions() {
            warnings.add(format!("ref '{}' names a revision that is not here", text::printable_path(&r.name)));
        } else if r.spaced {
            let name = text::printable_path(&r.name);
            warnings.add(format!("ref '{name}' has white space around its commit: other programs do not find it"));
        }
    }
    warnings.finish()
}
