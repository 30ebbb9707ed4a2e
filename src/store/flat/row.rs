//! What the table shows of a row, and its files with what is known of them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::folder::{Class, ModelFolder, RecordState, SetKey, WeightSet, ranges};
use super::record::RecordedFile;
use super::rows::Found;
use super::{FlatStore, sidecar};
use crate::disk::folder::Status;
use crate::disk::usage::Usage;
use crate::format::{Metadata, Structure};
use crate::machine::{Mounts, user_name};
use crate::model::{Bytes, Digest, Format, Model, ModelFile, ModelId, ModelKind, Quantization, Role, StoreKind, text};
use crate::store::Row;
use crate::store::planning::{lexical, way_of_link};
use crate::store::tree::Entry;

/// Most warnings that a row lists one by one.
const MAX_WARNINGS: usize = 20;

/// Names of users and mount points, each asked for once a scan.
#[derive(Debug, Default)]
pub(super) struct Surroundings {
    mounts: Option<Mounts>,
    mount_of: BTreeMap<u64, Option<PathBuf>>,
    owners: BTreeMap<u32, String>,
}

impl Surroundings {
    fn owner(&mut self, uid: u32) -> String {
        self.owners.entry(uid).or_insert_with(|| user_name(uid).unwrap_or_else(|| uid.to_string())).clone()
    }

    fn mount(&mut self, path: &Path, status: &Status) -> Option<PathBuf> {
        let mounts = self.mounts.get_or_insert_with(Mounts::read);
        let known = self.mount_of.entry(status.inode.device);
        known.or_insert_with(|| mounts.of(path).map(|mount| mount.path.clone())).clone()
    }
}

/// Collects warnings, and tells how many more there were.
#[derive(Debug, Default)]
struct Warnings {
    lines: Vec<String>,
    more: usize,
}

impl Warnings {
    fn add(&mut self, line: &str) {
        if self.lines.len() < MAX_WARNINGS {
            self.lines.push(text::printable(line));
        } else {
            self.more += 1;
        }
    }

    fn finish(mut self) -> Vec<String> {
        if self.more > 0 {
            self.lines.push(format!("and {} more warnings", self.more));
        }
        self.lines
    }
}

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
            warnings: vec![warning],
        };
        Row { model, usage: Usage::default() }
    }

    fn model_row(&self, folder: &ModelFolder, around: &mut Surroundings) -> Row {
        let mut usage = Usage::default();
        let mut content = Usage::default();
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
        let weights = self.weights(folder, &mut warnings);
        let whole_record = self.compare_record(folder, &mut warnings);
        self.warn_of_links(folder, &mut warnings);
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
            warnings: warnings.finish(),
        };
        Row { model, usage }
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

    fn weights(&self, folder: &ModelFolder, warnings: &mut Warnings) -> Weights {
        let mut weights = Weights { complete: true, ..Weights::default() };
        for set in &folder.sets {
            let told = self.check_set(folder, set, warnings, &mut weights.complete);
            if told.first.as_ref().is_some_and(|metadata| metadata.sidecar) && folder.sets.len() > 1 {
                continue;
            }
            let by_name = if set.is_gguf() { Format::Gguf } else { Format::Safetensors };
            let format = told.first.as_ref().map_or(by_name, |metadata| metadata.format);
            if weights.format.is_none() {
                weights.format = Some(format);
                weights.parameters = told.parameters;
                weights.first.clone_from(&told.first);
            }
            let label = set.quantization(told.first.as_ref());
            if let Some(label) = label.filter(|label| !weights.quantizations.contains(label)) {
                weights.quantizations.push(label);
            }
        }
        let partials = folder.tree.entries.iter().zip(&folder.classes).filter_map(|(entry, class)| match class {
            Class::Staging { target, journal: false } => Some((entry, target)),
            _ => None,
        });
        for (entry, target) in partials {
            weights.complete = false;
            let there = Bytes(entry.status.disk_bytes);
            warnings.add(&format!("{} is not whole yet: {there} of it are on disk", shown(target)));
        }
        for (_, entry, _) in folder.content() {
            if weights.format.is_none() && holds_other_weights(entry) {
                weights.format = Some(Format::Other);
            }
            if is_index(entry) && !folder.sets.iter().any(|set| set.key.is_in(entry.path.parent())) {
                weights.complete = false;
                warnings.add(&format!("the weights that {} names are missing", shown(&entry.path)));
            }
        }
        weights
    }

    fn check_set(
        &self,
        folder: &ModelFolder,
        set: &WeightSet,
        warnings: &mut Warnings,
        complete: &mut bool,
    ) -> SetFigures {
        let mut told = SetFigures::default();
        if !set.missing.is_empty() && !set.members.is_empty() {
            *complete = false;
            let (missing, count) = (ranges(&set.missing), set.key.shard_count());
            warnings.add(&format!("{}: shards {missing} of {count} are missing", shown(&set.key.name())));
        }
        let mut parameters = Some(0_u64);
        for entry in set.members.iter().map(|&member| &folder.tree.entries[member]) {
            if !entry.is_file() {
                if entry.link.is_none() {
                    *complete = false;
                    warnings.add(&format!("{} is no regular file", shown(&entry.path)));
                }
                parameters = None;
                continue;
            }
            if entry.status.size_bytes == 0 {
                *complete = false;
                parameters = None;
                warnings.add(&format!("{} is empty", shown(&entry.path)));
                continue;
            }
            match self.headers.get(&self.root, &folder.location(entry), &entry.status).as_ref() {
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
                    parameters = parameters.zip(metadata.parameters).and_then(|(sum, more)| sum.checked_add(more));
                    for warning in &metadata.warnings {
                        warnings.add(&format!("{}: {warning}", shown(&entry.path)));
                    }
                }
                Err(reason) => {
                    *complete = false;
                    parameters = None;
                    warnings.add(&format!("{}: {reason}", shown(&entry.path)));
                }
            }
        }
        told.first = folder.describe(set, &self.root, &self.headers, &mut |line| warnings.add(&line));
        told.parameters = parameters.filter(|&sum| sum > 0);
        told
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

    fn warn_of_links(&self, folder: &ModelFolder, warnings: &mut Warnings) {
        for entry in &folder.tree.entries {
            let Some(target) = &entry.link else { continue };
            let at = self.root.join(folder.location(entry));
            let leads_to = lexical(&at.parent().unwrap_or(&self.root).join(target));
            let (name, target) = (shown(&entry.path), shown(target));
            if !leads_to.starts_with(&self.root) {
                // What lies outside is not touched, not even to see whether it is there.
                warnings.add(&format!("link out of the store, not followed: {name} -> {target}"));
            } else if way_of_link(&at).last().is_none_or(|end| end.symlink_metadata().is_err() || end.is_symlink()) {
                warnings.add(&format!("dangling link: {name} -> {target}"));
            } else {
                warnings.add(&format!("link within the store, not counted: {name} -> {target}"));
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
                role,
                sha256: self.known(folder, entry).1,
            })
            .collect();
        // Stable: paths stay in their order.
        files.sort_by_key(|file| !matches!(file.role, Role::Weights | Role::Shard));
        files
    }
}

/// What the sets of a folder tell together.
#[derive(Debug, Default)]
struct Weights {
    format: Option<Format>,
    quantizations: Vec<Quantization>,
    parameters: Option<u64>,
    first: Option<Metadata>,
    complete: bool,
}

/// What the headers of one set tell.
#[derive(Debug, Default)]
struct SetFigures {
    first: Option<Metadata>,
    parameters: Option<u64>,
}

fn is_weights(name: &str) -> bool {
    matches!(Role::of(name), Role::Weights | Role::Shard)
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
