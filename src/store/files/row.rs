//! What the table shows of a row of plain files.

use std::path::Path;

use super::{FileStore, Found, Layout, Unit, What};
use crate::disk::usage::Usage;
use crate::model::{Model, ModelFile, ModelKind, Role, text};
use crate::store::flat::folder::{Class, Wanted, takes};
use crate::store::large::{LARGE, LargeFile};
use crate::store::surroundings::{Surroundings, Warnings};
use crate::store::tree::Entry;
use crate::store::weights::no_model;
use crate::store::{Row, SharedFile};

impl<L: Layout> FileStore<L> {
    /// The row.
    pub(super) fn row(&self, found: &Found, around: &mut Surroundings) -> Row {
        match &found.what {
            What::Unit(unit) => self.unit_row(&found.id, unit, around, None),
            What::Link(entry) => {
                let to = entry.link.as_deref().map(text::printable_path).unwrap_or_default();
                self.bare_row(&found.id, entry, format!("a link to {to}, not followed"), around)
            }
            What::Closed(entry, why) => self.bare_row(&found.id, entry, format!("cannot be read: {why}"), around),
        }
    }

    /// A row of which nothing is known but that it is there.
    fn bare_row(&self, id: &str, entry: &Entry, warning: String, around: &mut Surroundings) -> Row {
        let path = self.root.join(&entry.path);
        let mut model = Model {
            owner: Some(around.owner(entry.status.uid)),
            mount: around.mount(&path, &entry.status),
            modified: entry.status.modified,
            warnings: vec![warning],
            ..Model::new(self.identity(id), path)
        };
        // Nothing is known to be missing from a link; a closed folder may lack anything.
        if entry.link.is_none() {
            model.note_unread();
        }
        Row::new(model, Usage::default())
    }

    /// The row, or what the `wanted` entries of it tell.
    pub(super) fn unit_row(&self, id: &str, unit: &Unit, around: &mut Surroundings, wanted: Wanted<'_>) -> Row {
        let folder = &unit.folder;
        let mut usage = Usage::default();
        let mut content = Usage::default();
        let mut large = Vec::new();
        let (mut file_count, mut modified, mut accessed) = (0, None, None);
        let entries = folder.tree.entries.iter().zip(&folder.classes).enumerate();
        let entries = entries.filter(|(index, (entry, _))| entry.is_file() && takes(wanted, *index));
        for (_, (entry, class)) in entries {
            let status = &entry.status;
            // Another row that uses it holds it as a second link would.
            let others = unit.shared.get(&folder.location(entry)).map_or(0, Vec::len) as u64;
            usage.add(status.inode, status.size_bytes, status.disk_bytes, status.links + others);
            let Class::Content(role) = class else { continue };
            content.add_info(status);
            file_count += 1;
            modified = modified.max(status.modified);
            if status.size_bytes >= LARGE {
                let location = folder.location(entry);
                let digest = unit.known.get(&location).and_then(|(_, digest)| *digest);
                let (size_bytes, path) = (status.size_bytes, Some(location.into()));
                large.push(LargeFile { inode: status.inode, size_bytes, digest, path });
            }
            if matches!(role, Role::Weights | Role::Shard) {
                accessed = accessed.max(status.accessed);
            }
        }
        let mut warnings = Warnings::default();
        unit.notes.iter().for_each(|note| warnings.add(note));
        let first = folder.tree.entries.iter().find(|entry| !entry.is_folder());
        let (place, status) = match (&unit.top, first) {
            (Some(top), _) => (top.path.clone(), top.status),
            (None, Some(entry)) => (entry.path.clone(), entry.status),
            (None, None) => (folder.below.clone(), folder.tree.top),
        };
        let path = self.root.join(place);
        let mut model = Model {
            kind: ModelKind::Model,
            reference: unit.reference.clone(),
            owner: Some(around.owner(status.uid)),
            mount: around.mount(&path, &status),
            file_count,
            size_bytes: content.size_bytes(),
            disk_bytes: usage.disk_bytes(),
            reclaimable_bytes: usage.reclaimable_bytes(),
            modified: modified.or(status.modified),
            accessed,
            ..Model::new(self.identity(id), path)
        };
        let (metadata, loads) = folder.tell(&self.root, &self.headers, wanted, &mut model, &mut warnings);
        folder.warn_of_links(&self.root, &mut warnings);
        folder.warn_of_unread(&mut model, &mut warnings);
        let begun = folder.sets.iter().any(|set| !set.staging.is_empty());
        if let Some(line) = no_model(metadata.as_deref()) {
            model.kind = ModelKind::Other;
            warnings.add(&line);
        }
        if model.format.is_none() && !begun {
            model.kind = ModelKind::Other;
            warnings.add(if file_count == 0 { "holds no files" } else { "holds no weights" });
        }
        model.warnings = warnings.finish();
        Row::new(model, usage).with_large(large).with_metadata(metadata).with_loads(loads)
    }

    /// What other rows use, too.
    pub(super) fn shared(&self, unit: &Unit) -> Vec<SharedFile> {
        let entries = unit.folder.tree.entries.iter().filter(|entry| entry.is_file());
        entries
            .filter_map(|entry| {
                let used_by = unit.shared.get(&unit.folder.location(entry))?.clone();
                let path = text::escape(entry.path.as_os_str());
                Some(SharedFile { path, disk_bytes: entry.status.disk_bytes, used_by })
            })
            .collect()
    }

    /// Its regular files, or those of a part, weights first, then by path.
    pub(super) fn files(&self, unit: &Unit, wanted: Wanted<'_>) -> Vec<ModelFile> {
        let file = |entry: &Entry, role: Role| {
            let location = unit.folder.location(entry);
            ModelFile {
                path: text::escape(entry.path.as_os_str()),
                absolute: self.root.join(&location),
                size_bytes: entry.status.size_bytes,
                disk_bytes: entry.status.disk_bytes,
                role: self.headers.role(&self.root, &location, &entry.status, role),
                sha256: unit.known.get::<Path>(&location).and_then(|(_, digest)| *digest),
            }
        };
        let content = unit.folder.content().filter(|(index, entry, _)| entry.is_file() && takes(wanted, *index));
        let mut files: Vec<ModelFile> = content.map(|(_, entry, role)| file(entry, role)).collect();
        // Stable: paths stay in their order.
        files.sort_by_key(|file| !matches!(file.role, Role::Weights | Role::Shard));
        files
    }
}
