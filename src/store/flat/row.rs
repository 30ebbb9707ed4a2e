//! What the table shows of a row, and its files with what is known of them.

use std::path::Path;

use super::FlatStore;
use super::folder::{Class, ModelFolder, RecordState, Wanted, takes};
use super::record::RecordedFile;
use super::rows::Found;
use super::sidecar;
use crate::disk::usage::Usage;
use crate::model::{Digest, FileStatus, Model, ModelFile, ModelId, ModelKind, Role, StoreKind, text};
use crate::store::Row;
use crate::store::large::{LARGE, LargeFile};
use crate::store::mix;
use crate::store::surroundings::{Surroundings, Warnings};
use crate::store::tree::Entry;
use crate::store::weights::no_model;

/// The warning of a folder that no record says anything of.
pub use crate::model::ORIGIN_UNKNOWN;

fn shown(path: &Path) -> String {
    text::printable_path(path)
}

impl FlatStore {
    pub(super) fn identity(&self, id: &str) -> ModelId {
        ModelId { store: StoreKind::Flat, store_path: self.root.clone(), id: id.to_owned() }
    }

    pub(super) fn row(&self, found: &Found, around: &mut Surroundings) -> Row {
        match found {
            Found::Model(folder) => self.model_row(folder, around, None),
            Found::Link(entry) => {
                let target = entry.link.as_deref().map(shown).unwrap_or_default();
                self.bare_row(entry, format!("a link to {target}, not followed"), around)
            }
            Found::Closed(entry, reason) => self.bare_row(entry, format!("cannot be read: {reason}"), around),
        }
    }

    /// A row of which nothing is known but that it is there.
    fn bare_row(&self, entry: &Entry, warning: String, around: &mut Surroundings) -> Row {
        let path = self.root.join(&entry.path);
        let mut model = Model {
            owner: Some(around.owner(entry.status.uid)),
            mount: around.mount(&path, &entry.status),
            modified: entry.status.modified,
            warnings: vec![warning],
            ..Model::new(self.identity(&text::escape(entry.path.as_os_str())), path)
        };
        // Nothing is known to be missing from a link; a closed folder may lack anything.
        if entry.link.is_none() {
            model.note_unread();
        }
        Row::new(model, Usage::default())
    }

    /// The row, or what the `wanted` entries of it tell.
    pub(super) fn model_row(&self, folder: &ModelFolder, around: &mut Surroundings, wanted: Wanted<'_>) -> Row {
        let mut usage = Usage::default();
        let mut content = Usage::default();
        let mut large = Vec::new();
        let mut file_count = 0;
        let mut modified = None;
        let mut accessed = None;
        let entries = folder.tree.entries.iter().zip(&folder.classes).enumerate();
        let entries = entries.filter(|(index, (entry, _))| entry.is_file() && takes(wanted, *index));
        for (_, (entry, class)) in entries {
            let status = &entry.status;
            usage.add(status.inode, status.size_bytes, status.disk_bytes, status.links);
            let Class::Content(role) = class else { continue };
            content.add(status.inode, status.size_bytes, status.disk_bytes, status.links);
            file_count += 1;
            modified = modified.max(status.modified);
            if status.size_bytes >= LARGE {
                let digest = self.known(folder, entry).1;
                let path = folder.location(entry).into();
                let size_bytes = status.size_bytes;
                large.push(LargeFile { inode: status.inode, size_bytes, digest, path: Some(path) });
            }
            if matches!(role, Role::Weights | Role::Shard) {
                accessed = accessed.max(status.accessed);
            }
        }
        let top = if folder.is_loose() {
            folder.tree.entries.iter().find(|entry| entry.is_file()).map_or(folder.tree.top, |entry| entry.status)
        } else {
            folder.tree.top
        };
        let path = self.root.join(&folder.id);
        let mut warnings = Warnings::default();
        let reference = self.origin(folder, &mut warnings);
        let mut model = Model {
            kind: ModelKind::Model,
            reference,
            owner: Some(around.owner(top.uid)),
            mount: around.mount(&path, &top),
            file_count,
            size_bytes: content.size_bytes(),
            disk_bytes: usage.disk_bytes(),
            reclaimable_bytes: usage.reclaimable_bytes(),
            modified: modified.or(top.modified),
            accessed,
            ..Model::new(self.identity(&folder.id_text()), path)
        };
        let (metadata, loads) = folder.tell(&self.root, &self.headers, wanted, &mut model, &mut warnings);
        self.compare_record(folder, wanted, &mut model, &mut warnings);
        if wanted.is_none() {
            self.compare_commits(folder, &mut model, &mut warnings);
        }
        folder.warn_of_links(&self.root, &mut warnings);
        folder.warn_of_unread(&mut model, &mut warnings);
        let claimed = folder.record.get().is_some();
        if let Some(line) = no_model(metadata.as_deref()) {
            model.kind = ModelKind::Other;
            warnings.add(&line);
        }
        if model.format.is_none() && !claimed {
            model.kind = ModelKind::Other;
            warnings.add(if file_count == 0 { "holds no files" } else { "holds no weights" });
        }
        let weights_gone = model.format.is_none()
            && folder.record.get().is_some_and(|record| {
                file_count == 0 || record.files.iter().any(|file| is_weights(file.path.file_name()))
            });
        if weights_gone {
            model.note_damage(FileStatus::Missing);
            warnings.add("the weights that its record names are gone");
        }
        model.warnings = warnings.finish();
        Row::new(model, usage).with_large(large).with_metadata(metadata).with_loads(loads)
    }

    /// The repository that the folder was filled from, as far as a record or the catalog tells.
    fn origin(&self, folder: &ModelFolder, warnings: &mut Warnings) -> Option<String> {
        match &folder.record {
            RecordState::Read(record) => return Some(text::printable(&record.repository)),
            RecordState::Missing => warnings.add(ORIGIN_UNKNOWN),
            RecordState::Unreadable(reason) => warnings.add(format!("{ORIGIN_UNKNOWN}: {reason}")),
        }
        let here = self.aliases_in(folder);
        here.first().map(|alias| alias.repository.clone())
    }

    /// Compares what is here with the record.
    fn compare_record(&self, folder: &ModelFolder, wanted: Wanted<'_>, model: &mut Model, warnings: &mut Warnings) {
        for file in folder.record.get().iter().flat_map(|record| &record.files) {
            let path = Path::new(file.path.as_str());
            let is_weights = is_weights(file.path.file_name());
            let index = folder.find(path);
            match index.map(|index| &folder.tree.entries[index]) {
                // What is gone is no part's: missing shards are told with their set.
                None if wanted.is_none() && folder.is_live(path) => {
                    if is_weights {
                        model.note_damage(FileStatus::Missing);
                    }
                    warnings.add(format!("{} is missing", file.path));
                }
                Some(entry)
                    if entry.is_file()
                        && index.is_some_and(|index| takes(wanted, index))
                        && entry.status.size_bytes != file.size
                        && self.known(folder, entry).0.is_some() =>
                {
                    if is_weights && entry.status.size_bytes < file.size {
                        model.note_damage(FileStatus::Truncated);
                    }
                    let has = entry.status.size_bytes;
                    warnings.add(format!("{} has {has} bytes, its record says {}", file.path, file.size));
                }
                _ => {}
            }
        }
    }

    /// Says which parts are of another commit than the rest of their set.
    fn compare_commits(&self, folder: &ModelFolder, model: &mut Model, warnings: &mut Warnings) {
        let Some(record) = folder.record.get() else { return };
        if record.files.iter().all(|file| file.commit.is_none()) {
            return;
        }
        let here = record.files.iter().enumerate().filter(|(_, file)| {
            let index = folder.find(Path::new(file.path.as_str()));
            // Without the length another program has fetched it since.
            index.is_some_and(|index| self.known(folder, &folder.tree.entries[index]).0.is_some())
        });
        for stray in mix::strays(here.map(|(at, file)| (at, file.path.as_str(), record.commit_of(file)))) {
            if let Some(file) = record.files.get(stray.at) {
                model.note_damage(FileStatus::Corrupt);
                warnings.add(format!("{}: {}", file.path, stray.line));
            }
        }
    }

    /// The length and the digest that a file should have. A sidecar that is newer than the file outranks the record: then the
    /// official client has fetched another version since.
    pub(super) fn known(&self, folder: &ModelFolder, entry: &Entry) -> (Option<u64>, Option<Digest>) {
        let recorded = self.recorded(folder, &entry.path);
        let sidecar = sidecar::Metadata::read_below(&self.root, &folder.below, &entry.path);
        match (recorded, sidecar.and_then(|sidecar| sidecar.digest())) {
            (Some(file), Some(digest)) if file.digest.is_some_and(|recorded| recorded != digest) => {
                (None, Some(digest))
            }
            (Some(file), digest) => (Some(file.size), file.digest.or(digest)),
            (None, digest) => (None, digest),
        }
    }

    fn recorded<'a>(&self, folder: &'a ModelFolder, path: &Path) -> Option<&'a RecordedFile> {
        folder.record.get()?.file(path.to_str()?)
    }

    /// The regular files among `entries`, weights first, then by path.
    pub(super) fn model_files(&self, folder: &ModelFolder, wanted: impl Fn(usize) -> bool) -> Vec<ModelFile> {
        let mut files: Vec<ModelFile> = folder
            .content()
            .filter(|(index, entry, _)| entry.is_file() && wanted(*index))
            .map(|(_, entry, role)| ModelFile {
                path: text::escape(entry.path.as_os_str()),
                absolute: self.root.join(folder.location(entry)),
                size_bytes: entry.status.size_bytes,
                disk_bytes: entry.status.disk_bytes,
                role: self.headers.role(&self.root, &folder.location(entry), &entry.status, role),
                sha256: self.known(folder, entry).1,
            })
            .collect();
        // Stable: paths stay in their order.
        files.sort_by_key(|file| !matches!(file.role, Role::Weights | Role::Shard));
        files
    }
}

fn is_weights(name: &str) -> bool {
    matches!(Role::of(name), Role::Weights | Role::Shard)
}
