//! What the weights of a folder tell together.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;

use super::folder::{Class, ModelFolder, Wanted, all_of, takes};
use crate::format::Metadata;
use crate::model::{Bytes, FileStatus, Format, Model, Role, text};
use crate::store::absent::{self, Suspect};
use crate::store::beside::Companion;
use crate::store::headers::Headers;
use crate::store::loads::{Loads, Projector};
use crate::store::pieces;
use crate::store::planning::{lexical, way_of_link};
use crate::store::shards;
use crate::store::surroundings::Warnings;
use crate::store::tree::Entry;
use crate::store::weights::{Joined, Set, Weights};

impl ModelFolder {
    /// Reads the headers of all sets of which something is `wanted`, and writes into `model` what they tell; what is wrong with
    /// them goes to `warnings`. Gives what the first set's headers tell, and what a program would load.
    pub(in crate::store) fn tell(
        &self,
        root: &Path,
        headers: &Headers,
        wanted: Wanted<'_>,
        model: &mut Model,
        warnings: &mut Warnings,
    ) -> (Option<Arc<Metadata>>, Loads) {
        let mut weights = Weights::of(self.find(Path::new("model_index.json")).is_some());
        for (_, entry, _) in self.indexes(wanted) {
            let header = headers.beside(root, &self.location(entry), &entry.status, Companion::Index);
            weights.add_index(&entry.path, &header, warnings);
        }
        for set in self.sets.iter().filter(|set| all_of(set).any(|index| takes(wanted, index))) {
            let joined = self.join(set, root, headers, warnings);
            let set = Set {
                name: &|| shown(&set.key.name()),
                named: set.label.clone(),
                format: Some(if set.is_gguf() { Format::Gguf } else { Format::Safetensors }),
                missing: &set.missing,
                current: true,
            };
            weights.add(&set, joined, warnings);
        }
        let paths: Vec<(usize, String)> = self
            .content()
            .filter(|(index, entry, _)| entry.is_file() && takes(wanted, *index) && pieces::may_be(&entry.path))
            .map(|(index, entry, _)| (index, text::escape(entry.path.as_os_str())))
            .collect();
        for pieces in pieces::of(paths.iter().map(|(index, path)| (*index, path.as_str()))) {
            let entries = || pieces.places.iter().map(|&place| &self.tree.entries[place]);
            let bytes = entries().map(|entry| entry.status.size_bytes).fold(0, u64::saturating_add);
            let first = entries().next().filter(|_| pieces.begins).map(|entry| {
                let name = shards::file_name(&pieces.whole).as_ref();
                let header = headers.get_named(root, &entry.status, || self.location(entry), name);
                (header, entry.status.size_bytes)
            });
            weights.add_pieces(&pieces, first, bytes, true, warnings);
        }
        let begun: HashSet<&Path> = self.classes.iter().filter_map(begun).collect();
        let place = |path: &str| self.find(Path::new(&text::unescape(path))).map(|index| &self.tree.entries[index]);
        let is_there = |path: &str| place(path).is_some() || begun.contains(Path::new(&text::unescape(path)));
        let absent = |index: &str, files: &[(&str, String)]| {
            let suspects = files.iter().filter_map(|(name, path)| {
                let entry = place(path)?;
                Some(Suspect { name, location: self.location(entry), status: entry.status })
            });
            let suspects: Vec<Suspect<'_>> = suspects.collect();
            match place(index).filter(|_| suspects.len() == files.len()) {
                Some(index) => {
                    absent::find_remembered(headers, root, (&self.location(index), &index.status), &suspects)
                }
                None => Vec::new(),
            }
        };
        weights.compare_indexes(&is_there, &absent, warnings);
        let mut projector = Projector::default();
        let alone = weights.is_empty();
        for (index, entry, _) in self.content().filter(|(_, entry, role)| entry.is_file() && *role == Role::Mmproj) {
            let header = headers.get(root, &self.location(entry), &entry.status);
            let told = header.as_deref().ok().filter(|told| !told.partly_read);
            projector.look(&text::escape(entry.path.as_os_str()), entry.status.size_bytes, told);
            // Without weights it is what the row has.
            if alone && takes(wanted, index) && entry.status.size_bytes > 0 {
                let mut joined = Joined::default();
                joined.add(&header, &entry.path, &|| shown(&entry.path), warnings);
                weights.add(&Set::alone(&|| shown(&entry.path)), joined, warnings);
            }
        }
        let told = weights.tell(model, projector);
        let partials = self.tree.entries.iter().zip(&self.classes).enumerate();
        let partials = partials.filter_map(|(index, (entry, class))| match class {
            Class::Staging { target, journal: false } if takes(wanted, index) => Some((entry, target)),
            _ => None,
        });
        for (entry, target) in partials {
            model.complete = false;
            // Room is claimed beforehand: what the file takes on disk says nothing of how much has arrived.
            let room = Bytes(entry.status.disk_bytes);
            warnings.add(format!("{} is not whole yet: a partial download of it takes {room}", shown(target)));
        }
        for (_, entry, _) in self.content() {
            if model.format.is_none() && is_other_weights(entry.name()) {
                model.format = Some(Format::Other);
            }
        }
        told
    }

    /// The indexes of which something is wanted.
    fn indexes(&self, wanted: Wanted<'_>) -> impl Iterator<Item = (usize, &Entry, Role)> {
        let is_one = |entry: &Entry| entry.is_file() && shards::is_index(entry.name());
        self.content().filter(move |(index, entry, _)| takes(wanted, *index) && is_one(entry))
    }

    /// Says what of it could not be read.
    pub(in crate::store) fn warn_of_unread(&self, model: &mut Model, warnings: &mut Warnings) {
        for unread in &self.tree.unread {
            let whole = unread.path.as_os_str().is_empty();
            let place = if whole { "the folder".to_owned() } else { shown(&unread.path) };
            warnings.add(format!("{place} cannot be read: {}", unread.because));
            model.note_damage(FileStatus::Unreadable);
        }
        // What was read before somebody may have closed it is all that is known.
        if !self.tree.unread.is_empty() && model.file_count == 0 {
            model.note_unread();
        }
    }

    /// Says where its links lead.
    pub(in crate::store) fn warn_of_links(&self, root: &Path, warnings: &mut Warnings) {
        for entry in &self.tree.entries {
            let Some(target) = &entry.link else { continue };
            let at = root.join(self.location(entry));
            let leads_to = lexical(&at.parent().unwrap_or(root).join(target));
            let (name, target) = (shown(&entry.path), shown(target));
            if !leads_to.starts_with(root) {
                // What lies outside is not touched, not even to see whether it is there.
                warnings.add(format!("link out of the store, not followed: {name} -> {target}"));
            } else if way_of_link(&at).last().is_none_or(|end| end.symlink_metadata().is_err() || end.is_symlink()) {
                warnings.add(format!("dangling link: {name} -> {target}"));
            } else {
                warnings.add(format!("link within the store, not counted: {name} -> {target}"));
            }
        }
    }
}

/// The file that a download has begun to bring, which is told by itself.
fn begun(class: &Class) -> Option<&Path> {
    match class {
        Class::Staging { target, .. } => Some(target),
        _ => None,
    }
}

fn shown(path: &Path) -> String {
    text::printable_path(path)
}

/// Weights in formats that are not read here.
pub(super) fn is_other_weights(name: &OsStr) -> bool {
    let name = text::escape(name).to_ascii_lowercase();
    let extension = name.rsplit_once('.').map(|(_, extension)| extension).unwrap_or_default();
    matches!(extension, "bin" | "pt" | "pth" | "ckpt" | "h5" | "msgpack" | "onnx" | "engine" | "ggml")
}
