//! What the weights of a folder tell together.

use std::path::Path;
use std::sync::Arc;

use super::folder::{Class, ModelFolder, SetKey, WeightSet, ranges};
use crate::format::{Metadata, Structure};
use crate::model::{Bytes, Format, Quantization, Role, text};
use crate::store::headers::Headers;
use crate::store::loads::{Load, Loads, Projector};
use crate::store::planning::{lexical, way_of_link};
use crate::store::surroundings::Warnings;
use crate::store::tree::Entry;

/// What the sets of a folder tell together.
#[derive(Debug, Default)]
pub(in crate::store) struct Weights {
    pub(in crate::store) format: Option<Format>,
    pub(in crate::store) quantizations: Vec<Quantization>,
    pub(in crate::store) parameters: Option<u64>,
    pub(in crate::store) first: Option<Arc<Metadata>>,
    pub(in crate::store) complete: bool,
    pub(in crate::store) loads: Loads,
}

/// What the headers of one set tell.
#[derive(Debug, Default)]
struct SetFigures {
    first: Option<Arc<Metadata>>,
    parameters: Option<u64>,
    /// Files that are there and whole, as far as their headers tell.
    readable: usize,
}

impl ModelFolder {
    /// Reads the headers of all sets; what is wrong with them goes to `warnings`.
    pub(in crate::store) fn weights(&self, root: &Path, headers: &Headers, warnings: &mut Warnings) -> Weights {
        let mut weights = Weights { complete: true, ..Weights::default() };
        let mut loads = Vec::new();
        for set in &self.sets {
            let told = self.check_set(set, root, headers, warnings, &mut weights.complete);
            if told.first.as_ref().is_some_and(|metadata| metadata.sidecar) && self.sets.len() > 1 {
                continue;
            }
            let by_name = if set.is_gguf() { Format::Gguf } else { Format::Safetensors };
            let format = told.first.as_ref().map_or(by_name, |metadata| metadata.format);
            if weights.format.is_none() {
                weights.format = Some(format);
                weights.parameters = told.parameters;
                weights.first.clone_from(&told.first);
            }
            let label = set.quantization(told.first.as_deref());
            if let (Some(label), Some(metadata), Format::Gguf) = (&label, &told.first, format) {
                let parts = set.missing.is_empty() && told.readable == set.members.len();
                loads.push(Load::new(label.clone(), Arc::clone(metadata), parts));
            }
            if let Some(label) = label.filter(|label| !weights.quantizations.contains(label)) {
                weights.quantizations.push(label);
            }
        }
        let mut projector = Projector::default();
        for (_, entry, _) in self.content().filter(|(_, entry, role)| entry.is_file() && *role == Role::Mmproj) {
            projector.look(&text::escape(entry.path.as_os_str()), entry.status.size_bytes);
        }
        weights.loads = Loads::new(projector, loads);
        let partials = self.tree.entries.iter().zip(&self.classes).filter_map(|(entry, class)| match class {
            Class::Staging { target, journal: false } => Some((entry, target)),
            _ => None,
        });
        for (entry, target) in partials {
            weights.complete = false;
            // Room is claimed beforehand: what the file takes on disk says nothing of how much has arrived.
            let room = Bytes(entry.status.disk_bytes);
            warnings.add(&format!("{} is not whole yet: a partial download of it takes {room}", shown(target)));
        }
        for (_, entry, _) in self.content() {
            if weights.format.is_none() && holds_other_weights(entry) {
                weights.format = Some(Format::Other);
            }
            if is_index(entry) && !self.sets.iter().any(|set| set.key.is_in(entry.path.parent())) {
                weights.complete = false;
                warnings.add(&format!("the weights that {} names are missing", shown(&entry.path)));
            }
        }
        weights
    }

    fn check_set(
        &self,
        set: &WeightSet,
        root: &Path,
        headers: &Headers,
        warnings: &mut Warnings,
        complete: &mut bool,
    ) -> SetFigures {
        let mut told = SetFigures::default();
        if !set.missing.is_empty() && !set.members.is_empty() {
            *complete = false;
            let (missing, count) = (ranges(&set.missing), set.key.shard_count());
            warnings.add(&format!("{}: shards {missing} of {count} are missing", shown(&set.key.name())));
        }
        let mut countable = true;
        for entry in set.members.iter().map(|&member| &self.tree.entries[member]) {
            if !entry.is_file() {
                if entry.link.is_none() {
                    *complete = false;
                    warnings.add(&format!("{} is no regular file", shown(&entry.path)));
                }
                countable = false;
                continue;
            }
            if entry.status.size_bytes == 0 {
                *complete = false;
                countable = false;
                warnings.add(&format!("{} is empty", shown(&entry.path)));
                continue;
            }
            match &headers.get(root, &self.location(entry), &entry.status) {
                Ok(metadata) => {
                    match metadata.structure {
                        Structure::Truncated { missing } => {
                            *complete = false;
                            let missing =
                                missing.map_or_else(String::new, |bytes| format!(", {bytes} bytes are missing"));
                            warnings.add(&format!("{} is cut short{missing}", shown(&entry.path)));
                        }
                        Structure::Extra { bytes } => {
                            warnings
                                .add(&format!("{} is {bytes} bytes longer than its header says", shown(&entry.path)));
                        }
                        Structure::Whole | Structure::Partial => {}
                    }
                    told.readable += usize::from(!matches!(metadata.structure, Structure::Truncated { .. }));
                    for warning in &metadata.warnings {
                        warnings.add(&format!("{}: {warning}", shown(&entry.path)));
                    }
                }
                Err(reason) => {
                    *complete = false;
                    countable = false;
                    warnings.add(&format!("{}: {reason}", shown(&entry.path)));
                }
            }
        }
        told.first = self.describe(set, root, headers, &mut |line| warnings.add(&line));
        let parameters = told.first.as_ref().and_then(|metadata| metadata.parameters);
        told.parameters = parameters.filter(|&sum| countable && sum > 0);
        told
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
                warnings.add(&format!("link out of the store, not followed: {name} -> {target}"));
            } else if way_of_link(&at).last().is_none_or(|end| end.symlink_metadata().is_err() || end.is_symlink()) {
                warnings.add(&format!("dangling link: {name} -> {target}"));
            } else {
                warnings.add(&format!("link within the store, not counted: {name} -> {target}"));
            }
        }
    }
}

fn shown(path: &Path) -> String {
    text::printable_path(path)
}

/// Weights in formats that are not read here.
fn holds_other_weights(entry: &Entry) -> bool {
    let name = text::escape(entry.name()).to_ascii_lowercase();
    let extension = name.rsplit_once('.').map(|(_, extension)| extension).unwrap_or_default();
    matches!(extension, "bin" | "pt" | "pth" | "ckpt" | "h5" | "msgpack" | "onnx" | "engine" | "ggml")
}

fn is_index(entry: &Entry) -> bool {
    text::escape(entry.name()).ends_with(".safetensors.index.json")
}

impl SetKey {
    fn is_in(&self, folder: Option<&Path>) -> bool {
        self.folder() == folder.unwrap_or(Path::new(""))
    }
}
