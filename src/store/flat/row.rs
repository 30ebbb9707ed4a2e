//! What the table shows of a row, and its files with what is known of them.

use std::path::Path;

use super::FlatStore;
use super::folder::{Class, ModelFolder, RecordState};
use super::record::RecordedFile;
use super::rows::Found;
use super::sidecar;
use crate::disk::usage::Usage;
use crate::model::{Digest, Model, ModelFile, ModelId, ModelKind, Role, StoreKind, text};
use crate::store::Row;
use crate::store::large::{LARGE, LargeFile};
use crate::store::surroundings::{Surroundings, Warnings};
use crate::store::tree::Entry;

fn shown(path: &Path) -> String {
    text::printable_path(path)
}

impl FlatStore {
    pub(super) fn identity(&self, id: &str) -> ModelId {
        ModelId { store: StoreKind::Flat, store_path: self.root.clone(), id: id.to_owned() }
    }

    pub(super) fn row(&self, found: &Found, around: &mut Surroundings) -> Row {
        match found {
            Found::Model(folder) => self.model_row(folder, around),
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
        let model = Model {
            identity: self.identity(&text::escape(entry.path.as_os_str())),
            kind: ModelKind::Other,
            reference: None,
            owner: Some(around.owner(entry.status.uid)),
            mount: around.mount(&path, &entry.status),
            path,
            format: None,
            quantization: None,
            quantizations: Vec::new(),
            architecture: None,
            parameters: None,
            context_length: None,
            file_count: 0,
            size_bytes: 0,
            disk_bytes: 0,
            reclaimable_bytes: 0,
            modified: entry.status.modified,
            accessed: None,
            // Nothing is known to be missing from a link; a closed folder may lack anything.
            complete: entry.link.is_some(),
            in_use_by: None,
            verified: None,
            warnings: vec![warning],
            protected: false,
            duplicate: false,
        };
        Row::new(model, Usage::default())
    }

    fn model_row(&self, folder: &ModelFolder, around: &mut Surroundings) -> Row {
        let mut usage = Usage::default();
        let mut content = Usage::default();
        let mut large = Vec::new();
        let mut file_count = 0;
        let mut modified = None;
        let mut accessed = None;
        for (entry, class) in folder.tree.entries.iter().zip(&folder.classes).filter(|(entry, _)| entry.is_file()) {
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
        let weights = folder.weights(&self.root, &self.headers, &mut warnings);
        let whole_record = self.compare_record(folder, &mut warnings);
        folder.warn_of_links(&self.root, &mut warnings);
        for unread in &folder.tree.unread {
            let place = if unread.path.as_os_str().is_empty() { "the folder".to_owned() } else { shown(&unread.path) };
            warnings.add(&format!("{place} cannot be read: {}", unread.because));
        }
        let claimed = folder.record.get().is_some();
        let kind = if weights.format.is_some() || claimed { ModelKind::Model } else { ModelKind::Other };
        if kind == ModelKind::Other {
            warnings.add(if file_count == 0 { "holds no files" } else { "holds no weights" });
        }
        let weights_gone = weights.format.is_none()
            && folder.record.get().is_some_and(|record| {
                file_count == 0 || record.files.iter().any(|file| is_weights(file.path.file_name()))
            });
        if weights_gone {
            warnings.add("the weights that its record names are gone");
        }
        let first = weights.first.as_ref();
        let model = Model {
            identity: self.identity(&folder.id_text()),
            kind,
            reference,
            owner: Some(around.owner(top.uid)),
            mount: around.mount(&path, &top),
            path,
            format: weights.format,
            quantization: match weights.quantizations.as_slice() {
                [one] => Some(one.clone()),
                _ => None,
            },
            quantizations: weights.quantizations,
            architecture: first.and_then(|metadata| metadata.architecture.clone()),
            parameters: weights.parameters,
            context_length: first.and_then(|metadata| metadata.context_length),
            file_count,
            size_bytes: content.size_bytes(),
            disk_bytes: usage.disk_bytes(),
            reclaimable_bytes: usage.reclaimable_bytes(),
            modified: modified.or(top.modified),
            accessed,
            complete: weights.complete && whole_record && !weights_gone && folder.tree.unread.is_empty(),
            in_use_by: None,
            verified: None,
            warnings: warnings.finish(),
            protected: false,
            duplicate: false,
        };
        Row::new(model, usage).with_large(large).with_metadata(weights.first).with_loads(weights.loads)
    }

    /// The repository that the folder was filled from, as far as a record or the catalog tells.
    fn origin(&self, folder: &ModelFolder, warnings: &mut Warnings) -> Option<String> {
        match &folder.record {
            RecordState::Read(record) => return Some(text::printable(&record.repository)),
            RecordState::Missing => warnings.add("origin unknown"),
            RecordState::Unreadable(reason) => warnings.add(&format!("origin unknown: {reason}")),
        }
        let here = self.aliases_in(folder);
        here.first().map(|alias| alias.repository.clone())
    }

    /// Compares what is here with the record; whether no weights are missing or shorter than recorded.
    fn compare_record(&self, folder: &ModelFolder, warnings: &mut Warnings) -> bool {
        let mut complete = true;
        for file in folder.record.get().iter().flat_map(|record| &record.files) {
            let path = Path::new(file.path.as_str());
            let is_weights = is_weights(file.path.file_name());
            match folder.find(path).map(|index| &folder.tree.entries[index]) {
                None if folder.is_live(path) => {
                    complete &= !is_weights;
                    warnings.add(&format!("{} is missing", file.path));
                }
                Some(entry)
                    if entry.is_file()
                        && entry.status.size_bytes != file.size
                        && self.known(folder, entry).0.is_some() =>
                {
                    complete &= !is_weights || entry.status.size_bytes > file.size;
                    let has = entry.status.size_bytes;
                    warnings.add(&format!("{} has {has} bytes, its record says {}", file.path, file.size));
                }
                _ => {}
            }
        }
        complete
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
                role,
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
