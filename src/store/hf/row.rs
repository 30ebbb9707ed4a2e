//! A repository as a row of the table.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::Path;

use super::layout::{self, BlobName, Target};
use super::read::{Blob, Content, Entry, Repository};
use crate::disk::folder::Status;
use crate::disk::usage::Usage;
use crate::model::{
    Bytes, FileName, Format, Model, ModelId, ModelKind, Quantization, RepoPath, Shard, StoreKind, text,
};
use crate::store::Row;
use crate::store::surroundings::Warnings;

/// The row of `repository`. `users` counts the links of all repositories to a shared payload, which one of them cannot know by itself.
pub(super) fn row(repository: &Repository, root: &Path, users: &dyn Fn(&OsStr) -> u64) -> Row {
    let mut usage = Usage::default();
    let mut content = Usage::default();
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
                    add(&mut content, status, status.links);
                }
                note(status);
            }
            Blob::Shared { hash, payload: Some(status), users: list, .. } => {
                // Links of other repositories hold the payload as hard links would.
                // Without the list of users nobody can tell, and the payload stays.
                let links = status.links.saturating_sub(1) + users(hash).max(1) + u64::from(list.is_none());
                add(&mut usage, status, links);
                if *named {
                    add(&mut content, status, links);
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
            add(&mut content, status, status.links);
            note(status);
        }
    }
    for status in repository.refs.iter().map(|r| &r.status).chain(repository.others.iter().map(|(_, status)| status)) {
        add(&mut usage, status, status.links);
    }
    let weights = Weights::of(repository);
    let model = Model {
        identity: ModelId { store: StoreKind::Hf, store_path: root.to_path_buf(), id: repository.id.clone() },
        kind: repository.kind,
        reference: (repository.kind == ModelKind::Model).then(|| repository.id.clone()),
        path: repository.path.clone(),
        owner: None,
        mount: None,
        format: weights.format,
        quantization: (weights.quantizations.len() == 1).then(|| weights.quantizations[0].clone()),
        quantizations: weights.quantizations,
        architecture: None,
        parameters: None,
        context_length: None,
        file_count: content.iter().count() as u64,
        size_bytes: content.size_bytes(),
        disk_bytes: usage.disk_bytes(),
        reclaimable_bytes: usage.reclaimable_bytes(),
        modified,
        accessed,
        complete: weights.missing.is_empty() && weights.unfinished.is_empty() && repository.unreadable.is_empty(),
        in_use_by: None,
        verified: None,
        warnings: warnings(repository, &named, &weights.missing, &weights.unfinished),
        protected: false,
        duplicate: false,
    };
    Row::new(model, usage).with_large(super::large::of(repository))
}

fn add(usage: &mut Usage, status: &Status, links: u64) {
    usage.add(status.inode, status.size_bytes, status.disk_bytes, links);
}

/// What the names in the revisions say of the weights.
struct Weights {
    format: Option<Format>,
    quantizations: Vec<Quantization>,
    /// Weights that a revision names and that are not there, and shards that no revision has.
    missing: Vec<String>,
    /// Downloads that never ended and whose file is not there either.
    unfinished: Vec<String>,
}

impl Weights {
    fn of(repository: &Repository) -> Self {
        let mut quantizations = BTreeSet::new();
        let mut missing = BTreeSet::new();
        let (mut gguf, mut safetensors) = (false, false);
        for revision in &repository.revisions {
            let mut shards: Vec<(&Path, Shard)> = Vec::new();
            for entry in &revision.entries {
                let Some(name) = entry.path.file_name().and_then(OsStr::to_str) else { continue };
                let parsed = FileName::parse(name);
                if !parsed.is_weights() {
                    continue;
                }
                gguf |= parsed.is_gguf();
                safetensors |= parsed.is_safetensors();
                if parsed.is_gguf() {
                    let path = entry.path.to_str().and_then(|path| RepoPath::parse(path).ok());
                    quantizations.extend(path.and_then(|path| Quantization::of_path(&path)));
                }
                if is_missing(repository, entry) && !is_foreign(repository, entry) {
                    missing.insert(text::printable_path(&entry.path));
                } else if let Some(shard) = parsed.into_shard() {
                    shards.push((entry.path.parent().unwrap_or(Path::new("")), shard));
                }
            }
            let alike = |(a_folder, a): &(&Path, Shard), (b_folder, b): &(&Path, Shard)| {
                (a_folder.as_os_str(), &a.stem, a.count).cmp(&(b_folder.as_os_str(), &b.stem, b.count))
            };
            shards.sort_unstable_by(|a, b| alike(a, b).then(a.1.number.cmp(&b.1.number)));
            for set in shards.chunk_by(|a, b| alike(a, b).is_eq()) {
                let Some((folder, Shard { stem, count, .. })) = set.first() else { continue };
                let here = |number: &u32| set.binary_search_by_key(number, |(_, shard)| shard.number).is_ok();
                // A few names tell it; a header may claim tens of thousands.
                let gone: Vec<u32> = (1..=*count).filter(|number| !here(number)).take(8).collect();
                missing.extend(
                    gone.iter()
                        .map(|number| text::printable_path(&folder.join(format!("{stem}-{number:05}-of-{count:05}")))),
                );
            }
        }
        let unfinished = repository.unfinished().map(|(name, _)| text::printable_path(Path::new(name))).collect();
        let format = match (gguf, safetensors) {
            (true, _) => Some(Format::Gguf),
            (false, true) => Some(Format::Safetensors),
            (false, false) => repository.revisions.iter().any(|r| !r.entries.is_empty()).then_some(Format::Other),
        };
        Self {
            format,
            quantizations: quantizations.into_iter().collect(),
            missing: missing.into_iter().collect(),
            unfinished,
        }
    }
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
            let Content::Link(Target::Blob(name)) = &entry.content else { continue };
            match repository.blobs.position(name) {
                Some(at) => named.here[at] = true,
                None => drop(named.nowhere.insert(name)),
            }
        }
        named
    }
}

/// Whether an entry leads, at once or by its blob, to something that is none of this repository's.
fn is_foreign(repository: &Repository, entry: &Entry) -> bool {
    match &entry.content {
        Content::Link(Target::Blob(name)) => matches!(repository.blobs.get(name), Some(Blob::Foreign)),
        Content::Link(_) => true,
        Content::File(_) | Content::Other => false,
    }
}

/// Whether an entry has no bytes behind it.
pub(super) fn is_missing(repository: &Repository, entry: &Entry) -> bool {
    match &entry.content {
        Content::Link(Target::Blob(name)) => repository.blobs.get(name).is_none_or(|blob| blob.payload().is_none()),
        Content::Link(_) | Content::Other => true,
        Content::File(_) => false,
    }
}

fn warnings(repository: &Repository, named: &Named<'_>, missing: &[String], unfinished: &[String]) -> Vec<String> {
    let mut warnings = Warnings::default();
    repository.damage.iter().for_each(|line| warnings.add(line));
    for (path, error) in &repository.unreadable {
        let path = if path.as_os_str().is_empty() { &repository.path } else { path };
        warnings.add(&format!(
            "unknown: cannot read {}: {}",
            text::printable_path(path),
            std::io::Error::from(*error).kind()
        ));
    }
    for (path, to) in &repository.foreign {
        let path = if path.as_os_str().is_empty() { Path::new(&repository.folder) } else { path };
        warnings.add(&format!(
            "link to no file of this repository, not counted: {} -> {}",
            text::printable_path(path),
            text::printable_path(to)
        ));
    }
    if !missing.is_empty() {
        // Behind a folder that may not be read they may be there.
        let what = if repository.has_unknown_blobs() { "weights that cannot be read" } else { "missing weights" };
        warnings.add(&format!("{what}: {}", missing.join(", ")));
    }
    if !unfinished.is_empty() {
        warnings.add(&format!("unfinished downloads: {}", unfinished.join(", ")));
    }
    let bytes = |blob: &Blob| matches!(blob, Blob::Foreign) || blob.payload().is_some();
    let empty = repository.blobs.values().zip(&named.here).filter(|(blob, named)| **named && !bytes(blob)).count();
    let dangling = named.nowhere.len() + empty;
    if dangling > 0 && missing.is_empty() {
        let (count, lead) = if dangling == 1 { ("1 file", "leads") } else { (&*format!("{dangling} files"), "lead") };
        warnings.add(&format!("{count} {lead} nowhere"));
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
            warnings.add(&format!("{} in blobs that no revision names", Bytes(unnamed.disk_bytes())));
        }
    }
    for r in &repository.refs {
        let there = r
            .commit
            .as_deref()
            .is_some_and(|commit| repository.revisions.iter().any(|revision| revision.commit == commit));
        if !there && !repository.has_unknown_revisions() {
            warnings.add(&format!("ref '{}' names a revision that is not here", text::printable_path(&r.name)));
        } else if r.spaced {
            let name = text::printable_path(&r.name);
            warnings.add(&format!("ref '{name}' has white space around its commit: other programs do not find it"));
        }
    }
    warnings.finish()
}
