//! A tag as a row of the table, and its files.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::OllamaStore;
use super::names::Name;
use super::read::{Contents, Tag, TagKind};
use crate::disk::folder::Status;
use crate::disk::usage::Usage;
use crate::format::Metadata;
use crate::model::{
    Digest, FileStatus, Format, Inode, Missing, Model, ModelFile, ModelId, ModelKind, Quantization, Role, StoreKind,
    text,
};
use crate::store::beside::Companion;
use crate::store::headers::Header;
use crate::store::large::{LARGE, LargeFile};
use crate::store::loads::{Loads, Projector};
use crate::store::surroundings::{Surroundings, Warnings};
use crate::store::tree::Entry;
use crate::store::weights::{Joined, Set, Weights};
use crate::store::{Row, SharedFile};

/// What needs each blob, asked once for all rows.
pub(super) struct Users<'a> {
    by_blob: BTreeMap<&'a str, Vec<usize>>,
    owners: BTreeMap<usize, u64>,
    /// Tags that may need any blob, because what they refer to cannot be read.
    unknown: std::collections::BTreeSet<usize>,
    /// Whether a part of the store that cannot be read may need any blob.
    unread: bool,
}

impl<'a> Users<'a> {
    pub(super) fn of(contents: &'a Contents) -> Self {
        let mut owners: BTreeMap<usize, u64> = BTreeMap::new();
        for at in contents.tags.iter().flat_map(|tag| &tag.shadows) {
            *owners.entry(*at).or_default() += 1;
        }
        let tags = contents.tags.iter().enumerate();
        let unknown = tags.filter(|(_, tag)| tag.unknown.is_some()).map(|(at, _)| at).collect();
        Self { by_blob: contents.users(), owners, unknown, unread: !contents.unread.is_empty() }
    }

    /// Links that a blob of the tag at `of` has beside those that the kernel counts: every other tag that needs it, or may, holds
    /// it as a link would.
    fn others(&self, hex: &str, of: usize) -> u64 {
        let users = self.by_blob.get(hex).map_or(1, Vec::len) as u64;
        let unknown = self.unknown.iter().filter(|at| **at != of).count() as u64;
        users.saturating_sub(1) + unknown + u64::from(self.unread)
    }
}

/// The names of inodes with what holds them.
#[derive(Default)]
struct Names(BTreeMap<Inode, (Status, u64, u64)>);

impl Names {
    fn add(&mut self, status: &Status, others: u64) {
        let names = self.0.entry(status.inode).or_insert((*status, 0, 0));
        names.1 += 1;
        names.2 += others;
    }

    fn usage(&self) -> Usage {
        let mut usage = Usage::default();
        for (status, seen, others) in self.0.values() {
            for _ in 0..*seen {
                usage.add(status.inode, status.size_bytes, status.disk_bytes, status.links + others);
            }
        }
        usage
    }
}

impl OllamaStore {
    pub(super) fn identity(&self, id: &str) -> ModelId {
        ModelId { store: StoreKind::Ollama, store_path: self.root.clone(), id: id.to_owned() }
    }

    /// The row of the tag at place `at`.
    pub(super) fn row(&self, contents: &Contents, at: usize, users: &Users<'_>, around: &mut Surroundings) -> Row {
        let tag = &contents.tags[at];
        let mut names = Names::default();
        let mut modified = None;
        for (owner, tag) in std::iter::once((at, tag)).chain(tag.shadows.iter().map(|&at| (at, &contents.tags[at]))) {
            let others = users.owners.get(&owner).map_or(0, |owners| owners - 1);
            for entry in tag.entries.iter().map(|entry| &entry.entry).filter(|entry| entry.is_file()) {
                names.add(&entry.status, others);
                modified = modified.max(entry.status.modified);
            }
        }
        let mut content = Usage::default();
        let mut large = Vec::new();
        let mut accessed = None;
        for hex in contents.needs(at) {
            for entry in contents.blobs.get(hex).into_iter().flatten().filter(|entry| entry.is_file()) {
                names.add(&entry.status, users.others(hex, at));
                modified = modified.max(entry.status.modified);
                if tag.content.contains_key(hex) {
                    large.extend(large_blob(hex, entry));
                    content.add_info(&entry.status);
                }
                if tag.weights.iter().any(|weights| weights == hex) {
                    accessed = accessed.max(entry.status.accessed);
                }
            }
        }
        let usage = names.usage();
        let mut warnings = Warnings::default();
        tag.damage.iter().for_each(|line| warnings.add(line));
        let family = tag.config.model_family.as_deref().filter(|family| !family.is_empty()).map(text::printable);
        let first = tag.entries.first().map(|entry| &entry.entry);
        let path = first.map_or_else(|| self.root.clone(), |entry| self.root.join(&entry.path));
        let mut model = Model {
            kind: ModelKind::Model,
            reference: match &tag.kind {
                TagKind::Model(name) => repository(name),
                _ => None,
            },
            owner: first.map(|entry| around.owner(entry.status.uid)),
            mount: first.and_then(|entry| around.mount(&path, &entry.status)),
            format: match tag.config.model_format.as_deref() {
                Some("gguf") => Some(Format::Gguf),
                Some("safetensors") => Some(Format::Safetensors),
                _ => None,
            },
            architecture: family,
            file_count: content.iter().count() as u64,
            size_bytes: content.size_bytes(),
            disk_bytes: usage.disk_bytes(),
            reclaimable_bytes: usage.reclaimable_bytes(),
            modified,
            accessed,
            ..Model::new(self.identity(&tag.id), path)
        };
        let (metadata, loads) = self.weights(contents, tag, &mut model, &mut warnings);
        check_blobs(contents, tag, &mut model, &mut warnings);
        if tag.unknown.is_some() {
            model.note_damage(if tag.unreadable { FileStatus::Unreadable } else { FileStatus::Corrupt });
        }
        if let Some(host) = tag.config.remote_host.as_deref().filter(|host| !host.is_empty()) {
            warnings.add(format!("its weights are not here but at {host}"));
        }
        model.warnings = warnings.finish();
        // Ollama loads all that its manifest names beside the weights.
        let beside = tag.content.iter().filter(|(_, layer)| is_loaded_beside(&layer.kind));
        let bytes = beside.filter_map(|(hex, _)| {
            let entry = contents.blob_file(hex)?;
            let header = self.headers.get(&self.root, &entry.path, &entry.status);
            Some(header.ok().and_then(|told| told.tensor_bytes).unwrap_or(entry.status.size_bytes))
        });
        let loads = Loads { extra_bytes: bytes.fold(0, u64::saturating_add), ..loads };
        Row::new(model, usage).with_large(large).with_metadata(metadata).with_loads(loads)
    }

    /// What the headers of its weights tell, and the other blobs that its manifest names.
    fn weights(
        &self,
        contents: &Contents,
        tag: &Tag,
        model: &mut Model,
        warnings: &mut Warnings,
    ) -> (Option<Arc<Metadata>>, Loads) {
        let remote = tag.config.remote_host.as_deref().is_some_and(|host| !host.is_empty());
        if tag.weights.is_empty() && !remote && tag.unknown.is_none() {
            warnings.add(if tag.runnable { "its manifest names no weights" } else { "no manifest of it is here" });
            model.complete = false;
        }
        let mut joined = Joined::default();
        for (hex, header) in self.headers_of(contents, tag) {
            let name = || kind_of(tag, hex);
            match header {
                Some(header) => joined.add(&header, Path::new(hex), &name, warnings),
                // A blob that is not there is told with the others.
                None => joined.add_unread(None, warnings),
            }
        }
        if let Some(metadata) = &mut joined.metadata {
            self.add_layers(contents, tag, metadata, warnings);
        }
        let set = Set {
            name: &|| text::printable(&tag.id),
            named: named(tag),
            format: None,
            missing: &Missing::none(),
            current: true,
        };
        let mut weights = Weights::default();
        weights.add(&set, joined, warnings);
        weights.tell(model, Projector::default())
    }

    /// The headers of its weights, that of the first shard first; none of a blob that is not here.
    fn headers_of<'a>(&self, contents: &'a Contents, tag: &'a Tag) -> Vec<(&'a str, Option<Header>)> {
        let header = |hex: &'a String| {
            let entry = contents.blob_file(hex);
            (hex.as_str(), entry.map(|entry| self.headers.get(&self.root, &entry.path, &entry.status)))
        };
        let mut headers: Vec<_> = tag.weights.iter().map(header).collect();
        // The manifest's order is that of the files that were given, which need not be that of the shards.
        headers.sort_by_key(|(_, header)| match header {
            Some(Ok(metadata)) => metadata.split_no.unwrap_or(0),
            _ => u64::MAX,
        });
        headers
    }

    /// Adds what the licence, the template and the parameters tell, which are blobs of their own.
    fn add_layers(&self, contents: &Contents, tag: &Tag, metadata: &mut Arc<Metadata>, warnings: &mut Warnings) {
        for (hex, layer) in &tag.content {
            let Some(entry) = contents.blob_file(hex) else { continue };
            let kind = match layer.kind.as_str() {
                "template" => {
                    if entry.status.size_bytes > 0 {
                        Arc::make_mut(metadata).chat_template = Some(true);
                    }
                    continue;
                }
                "license" => Companion::Licence,
                "params" => Companion::Settings,
                _ => continue,
            };
            match self.headers.beside(&self.root, &entry.path, &entry.status, kind) {
                Ok(told) => Arc::make_mut(metadata).complete_beside(&told),
                Err(why) => warnings.add(format!("{}: {why}", label(&layer.kind, hex))),
            }
        }
    }

    /// Its blobs that other tags need, too.
    pub(super) fn shared(&self, contents: &Contents, at: usize) -> Vec<SharedFile> {
        let users = contents.users();
        let content = contents.tags[at].content.iter();
        content
            .filter_map(|(hex, layer)| {
                let own: Vec<usize> = std::iter::once(at).chain(contents.tags[at].shadows.iter().copied()).collect();
                let others = users.get(hex.as_str())?.iter().filter(|user| !own.contains(user));
                let used_by: Vec<String> = others.map(|&user| text::printable(&contents.tags[user].id)).collect();
                let disk_bytes = contents.blob_file(hex)?.status.disk_bytes;
                (!used_by.is_empty()).then(|| SharedFile { path: label(&layer.kind, hex), disk_bytes, used_by })
            })
            .collect()
    }

    /// Its blobs that are here, weights first.
    pub(super) fn files(&self, contents: &Contents, tag: &Tag) -> Vec<ModelFile> {
        let mut files: Vec<ModelFile> = tag
            .content
            .iter()
            .filter_map(|(hex, layer)| {
                let entry = contents.blob_file(hex)?;
                Some(ModelFile {
                    path: label(&layer.kind, hex),
                    absolute: self.root.join(&entry.path),
                    size_bytes: entry.status.size_bytes,
                    disk_bytes: entry.status.disk_bytes,
                    role: role(&layer.kind),
                    sha256: Digest::parse(hex),
                })
            })
            .collect();
        files.sort_by(|a, b| (a.role != Role::Weights, &a.path).cmp(&(b.role != Role::Weights, &b.path)));
        files
    }
}

/// A blob as copies of it are found: its name is its digest.
fn large_blob(hex: &str, entry: &Entry) -> Option<LargeFile> {
    let status = &entry.status;
    (status.size_bytes >= LARGE).then(|| LargeFile {
        inode: status.inode,
        size_bytes: status.size_bytes,
        digest: Digest::parse(hex),
        // Before 2024 the name had a colon.
        path: (!entry.name().as_encoded_bytes().starts_with(b"sha256-")).then(|| entry.path.clone().into()),
    })
}

/// What a blob is called: its names on disk tell nothing to a person.
pub(super) fn label(kind: &str, hex: &str) -> String {
    format!("{kind}-{}", &hex[..12])
}

fn is_loaded_beside(kind: &str) -> bool {
    matches!(kind, "projector" | "adapter" | "draft")
}

fn role(kind: &str) -> Role {
    match kind {
        "model" | "tensor" => Role::Weights,
        "projector" => Role::Mmproj,
        "config" | "params" | "json" => Role::Config,
        "template" => Role::Tokenizer,
        _ => Role::Other,
    }
}

/// Says which blobs are not there with the length that the manifest claims.
fn check_blobs(contents: &Contents, tag: &Tag, model: &mut Model, warnings: &mut Warnings) {
    for (hex, layer) in &tag.content {
        let name = label(&layer.kind, hex);
        match contents.blobs.get(hex) {
            None => warnings.add(match contents.unread_blob(hex) {
                Some(why) => {
                    model.note_damage(FileStatus::Unreadable);
                    format!("{name} cannot be read: {why}")
                }
                None => {
                    model.note_damage(FileStatus::Missing);
                    format!("{name} is missing")
                }
            }),
            Some(entries) => match entries.iter().find(|entry| entry.is_file()) {
                Some(entry) => {
                    let has = entry.status.size_bytes;
                    if let Some(size) = layer.size.filter(|size| *size != has) {
                        if has < size {
                            model.note_damage(FileStatus::Truncated);
                        }
                        warnings.add(format!("{name} has {has} bytes, its manifest says {size}"));
                    }
                }
                None => {
                    model.note_damage(FileStatus::Unreadable);
                    let to = entries.iter().find_map(|entry| entry.link.as_deref());
                    warnings.add(match to {
                        Some(to) => format!("{name} is a link, not followed: {}", text::printable_path(to)),
                        None => format!("{name} is no regular file"),
                    });
                }
            },
        }
    }
}

/// The quantization that its manifest tells, else its tag: what a person sees before any header is read.
fn named(tag: &Tag) -> Option<Quantization> {
    let told = tag.config.file_type.as_deref().map(str::trim).filter(|label| is_label(label));
    told.map(Quantization::new).or_else(|| {
        let tag = tag.id.rsplit_once(':')?.1;
        // The ending keeps a dot in the tag from being read as the start of an extension.
        Quantization::of_file_name(&format!("{tag}.gguf"))
    })
}

fn kind_of(tag: &Tag, hex: &str) -> String {
    label(tag.content.get(hex).map_or("model", |layer| &layer.kind), hex)
}

/// `org/name` of a model that came from the hub.
fn repository(name: &Name) -> Option<String> {
    let hub = ["hf.co", "huggingface.co"].iter().any(|host| name.host.eq_ignore_ascii_case(host));
    hub.then(|| format!("{}/{}", name.namespace, name.model))
}

fn is_label(label: &str) -> bool {
    !label.is_empty()
        && label.len() <= 24
        && !label.eq_ignore_ascii_case("unknown")
        && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
}
