//! One model's folder as it lies on disk: its files sorted by what they are, and the sets of weights among them.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use super::record::Record;
use super::sidecar;
use super::staging::StagingName;
use crate::disk::folder::Folder;
use crate::disk::safe;
use crate::format::Kind;
use crate::model::{FileName, FileStatus, Inode, Missing, Quantization, Role, Shard, text};
use crate::store::Part;
use crate::store::beside::Beside;
use crate::store::headers::Headers;
use crate::store::surroundings::Warnings;
use crate::store::tree::{Entry, Tree};
use crate::store::verify::Expected;
use crate::store::weights::Joined;

/// What an entry is to the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::store) enum Class {
    /// A file of the model, or a link in the place of one.
    Content(Role),
    /// A partial file or its journal; the path is that of the file that it will become.
    Staging {
        /// Path of the finished file.
        target: PathBuf,
        /// Whether it is the journal.
        journal: bool,
    },
    /// Records, sidecars and locks, ours and the official client's, and their folders.
    Bookkeeping,
    /// In a dot-folder that no download tool made.
    Hidden,
    /// A visible folder.
    Folder,
}

/// The folder's record, as far as it could be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::store) enum RecordState {
    /// There is none.
    Missing,
    /// It can be read.
    Read(Record),
    /// It is there and cannot be read, and why. Whose folder this is, is then unknown.
    Unreadable(String),
}

impl RecordState {
    pub(in crate::store) fn read(folder: &Folder) -> Self {
        match Record::read_in(folder) {
            Ok(Some(record)) => Self::Read(record),
            Ok(None) => Self::Missing,
            Err(reason) => Self::Unreadable(reason),
        }
    }

    pub(in crate::store) fn get(&self) -> Option<&Record> {
        match self {
            Self::Read(record) => Some(record),
            _ => None,
        }
    }
}

/// What makes files one set of weights.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::store) struct SetKey {
    folder: PathBuf,
    stem: String,
    /// What a shard has in common with the others of its set.
    shard: Option<(u32, u8)>,
    extension: String,
}

impl SetKey {
    /// The set of the file at `path`; `None` if it is no weights file.
    pub(in crate::store) fn of(path: &Path) -> Option<Self> {
        let name = text::escape(path.file_name()?);
        let parsed = FileName::parse(&name);
        parsed.is_weights().then(|| Self {
            folder: path.parent().map(Path::to_owned).unwrap_or_default(),
            stem: parsed.stem().to_owned(),
            shard: parsed.shard().map(|shard| (shard.set().1, shard.set().2)),
            extension: name.rsplit('.').next().unwrap_or_default().to_owned(),
        })
    }

    pub(in crate::store) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The path of the set as people write it: without number.
    pub(in crate::store) fn name(&self) -> PathBuf {
        self.folder.join(text::unescape(&self.stem))
    }
}

/// Weights in one file or in shards, whole or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::store) struct WeightSet {
    pub(in crate::store) key: SetKey,
    /// Entries of its files, in the order of their numbers.
    pub(in crate::store) members: Vec<usize>,
    /// Entries of its partial files and journals.
    pub(in crate::store) staging: Vec<usize>,
    /// The shards that are missing by the names of the others.
    pub(in crate::store) missing: Missing,
    /// The quantization that the name, or the folder that holds it, tells.
    pub(in crate::store) label: Option<Quantization>,
    /// What it is: a model by its name, and what its header says once [`ModelFolder::tell_kinds`] has asked that.
    pub(in crate::store) kind: Kind,
}

impl WeightSet {
    /// Whether the last word of the name is `wanted`: publishers also write tags that are no labels ("-q4.gguf").
    fn tagged(&self, wanted: &str) -> bool {
        self.label.is_none()
            && self.key.stem.rsplit(['-', '.']).next().is_some_and(|tag| tag.eq_ignore_ascii_case(wanted))
    }

    pub(in crate::store) fn is_gguf(&self) -> bool {
        self.key.extension.eq_ignore_ascii_case("gguf")
    }
}

/// The entries of a part; `None` for the whole row.
pub(in crate::store) type Wanted<'a> = Option<&'a BTreeSet<usize>>;

/// Whether a part has an entry.
pub(in crate::store) fn takes(wanted: Wanted<'_>, index: usize) -> bool {
    wanted.is_none_or(|part| part.contains(&index))
}

/// A model's folder.
#[derive(Clone, Debug)]
pub(in crate::store) struct ModelFolder {
    pub(in crate::store) id: OsString,
    /// Relative to the root of the store; empty for weights that lie directly in it.
    pub(in crate::store) below: PathBuf,
    /// The folder that holds the row.
    pub(in crate::store) parent: Inode,
    pub(in crate::store) tree: Tree,
    pub(in crate::store) classes: Vec<Class>,
    pub(in crate::store) sets: Vec<WeightSet>,
    pub(in crate::store) record: RecordState,
}

impl ModelFolder {
    pub(in crate::store) fn new(id: OsString, below: PathBuf, parent: Inode, tree: Tree, record: RecordState) -> Self {
        let classes = tree.entries.iter().map(classify).collect();
        Self::classified(id, below, parent, tree, classes, record)
    }

    /// A folder whose entries were sorted by somebody else: other programs have other names for what is not content.
    pub(in crate::store) fn classified(
        id: OsString,
        below: PathBuf,
        parent: Inode,
        tree: Tree,
        classes: Vec<Class>,
        record: RecordState,
    ) -> Self {
        let sets = weight_sets(&tree.entries, &classes);
        Self { id, below, parent, tree, classes, sets, record }
    }

    /// Whether it is a set of weights directly in the root and no folder.
    pub(in crate::store) fn is_loose(&self) -> bool {
        self.below.as_os_str().is_empty()
    }

    pub(in crate::store) fn id_text(&self) -> String {
        text::escape(&self.id)
    }

    /// Where an entry lies, relative to the root.
    pub(in crate::store) fn location(&self, entry: &Entry) -> PathBuf {
        self.below.join(&entry.path)
    }

    /// Its folders that could not be read: what is there is not known. Without the hidden ones, which hold no content.
    pub(in crate::store) fn unread(&self) -> impl Iterator<Item = Expected> {
        let hidden = |path: &Path| path.iter().any(|part| part.as_encoded_bytes().starts_with(b"."));
        self.tree.unread.iter().filter(move |unread| !hidden(&unread.path)).map(|unread| Expected {
            path: text::escape(unread.path.as_os_str()),
            location: self.below.join(&unread.path),
            unread: Some(unread.because.clone()),
            ..Expected::default()
        })
    }

    /// Its content: files and links in their place, by path.
    pub(in crate::store) fn content(&self) -> impl Iterator<Item = (usize, &Entry, Role)> {
        self.tree.entries.iter().zip(&self.classes).enumerate().filter_map(|(index, (entry, class))| match class {
            Class::Content(role) => Some((index, entry, *role)),
            _ => None,
        })
    }

    /// The entry at a path inside the folder.
    pub(in crate::store) fn find(&self, path: &Path) -> Option<usize> {
        // Trees list folders before what they hold and names in byte order, which is the order of paths.
        self.tree.entries.binary_search_by(|entry| entry.path.as_path().cmp(path)).ok()
    }

    /// Whether something of the file at `path` is here: the file or a part of it.
    pub(in crate::store) fn has(&self, path: &Path) -> bool {
        !self.entries_of_file(path).is_empty()
    }

    /// The file at `path` with the rest of its set and with their partial files.
    pub(in crate::store) fn entries_of_file(&self, path: &Path) -> BTreeSet<usize> {
        if let Some(key) = SetKey::of(path) {
            return self.sets.iter().filter(|set| set.key == key).flat_map(all_of).collect();
        }
        self.single(path)
    }

    /// The file at `path` alone, with its partial files.
    fn single(&self, path: &Path) -> BTreeSet<usize> {
        let classes = self.tree.entries.iter().zip(&self.classes).enumerate();
        classes
            .filter(|(_, (entry, class))| match class {
                Class::Content(_) => entry.path == path,
                Class::Staging { target, .. } => target == path,
                _ => false,
            })
            .map(|(index, _)| index)
            .collect()
    }

    /// What is known of a set from the headers of its files and from the files beside it; what is wrong goes to `warnings`.
    pub(in crate::store) fn join(
        &self,
        set: &WeightSet,
        root: &Path,
        headers: &Headers,
        warnings: &mut Warnings,
    ) -> Joined {
        let mut joined = Joined::default();
        for entry in set.members.iter().map(|&member| &self.tree.entries[member]) {
            let name = || text::printable_path(&entry.path);
            if !entry.is_file() {
                // Where a link leads is told with the others.
                let damage =
                    entry.link.is_none().then(|| (FileStatus::Unreadable, format!("{} is no regular file", name())));
                joined.add_unread(damage, warnings);
            } else if entry.status.size_bytes == 0 {
                joined.add_unread(Some((FileStatus::Truncated, format!("{} is empty", name()))), warnings);
            } else {
                let header = headers.get(root, &self.location(entry), &entry.status);
                joined.add(&header, &entry.path, &name, warnings);
                let unpromised = || {
                    let recorded = entry.path.to_str().and_then(|path| self.record.get()?.file(path)?.digest);
                    let promised =
                        recorded.is_some() || sidecar::Metadata::read_below(root, &self.below, &entry.path).is_some();
                    if promised { None } else { safe::open_below(root, &self.location(entry)).ok() }
                };
                joined.look_for_holes(&header, &entry.status, &name, &unpromised, warnings);
            }
        }
        if let Some(metadata) = &mut joined.metadata {
            let find = |path: &Path| {
                let entry = self.find(path).map(|index| &self.tree.entries[index]).filter(|entry| entry.is_file())?;
                Some((self.location(entry), entry.status))
            };
            let beside = Beside { root, headers, find: &find };
            beside.complete(metadata, set.key.folder(), &mut |line| warnings.add(&line));
        }
        joined
    }

    /// What a set is called by its header, else by its name.
    fn shown(&self, set: &WeightSet, root: &Path, headers: &Headers) -> Option<Quantization> {
        let told = self.join(set, root, headers, &mut Warnings::default()).metadata;
        told.and_then(|metadata| metadata.quantization.clone()).or_else(|| set.label.clone())
    }

    /// What a set is: what the header of its first file says, else its name, which is that of a model.
    fn kind_of(&self, set: &WeightSet, root: &Path, headers: &Headers) -> Kind {
        set.members.first().map_or(Kind::Model, |&member| self.kind_at(member, root, headers).unwrap_or(Kind::Model))
    }

    /// What the header of an entry says that it is; `None` where there is none to read.
    fn kind_at(&self, index: usize, root: &Path, headers: &Headers) -> Option<Kind> {
        let entry = self.tree.entries.get(index).filter(|entry| entry.is_file() && entry.status.size_bytes > 0)?;
        headers.get(root, &self.location(entry), &entry.status).ok().map(|told| told.kind)
    }

    /// Asks the headers what is a model and what only lies beside one, as names tell of most.
    pub(in crate::store) fn tell_kinds(&mut self, root: &Path, headers: &Headers) {
        for at in 0..self.sets.len() {
            let kind = self.kind_of(&self.sets[at], root, headers);
            self.sets[at].kind = kind;
            for &member in kind.role().iter().flat_map(|_| &self.sets[at].members) {
                self.classes[member] = Class::Content(kind.role().unwrap_or(Role::Other));
            }
        }
        // Whatever is no model is called a sidecar; what serves other models as well is not one of this.
        for index in 0..self.classes.len() {
            if self.classes[index] == Class::Content(Role::Mmproj)
                && let Some(kind) = self.kind_at(index, root, headers).filter(|kind| kind.stands_alone())
            {
                self.classes[index] = Class::Content(kind.role().unwrap_or(Role::Other));
            }
        }
    }

    /// The sets that are models, after [`Self::tell_kinds`].
    pub(in crate::store) fn models(&self) -> impl Iterator<Item = &WeightSet> {
        self.sets.iter().filter(|set| set.kind == Kind::Model)
    }

    /// The sets that `wanted` names, with what they are. Names decide, as on the hub, and headers only of what has no label in its
    /// name; an exact label before a looser one, so that no more is meant than what was said. What is no model by its header is no
    /// quantization of one: it is meant only where the label names nothing else, and a projector only where there is no model.
    pub(in crate::store) fn sets_of(
        &self,
        wanted: &str,
        root: &Path,
        headers: &Headers,
    ) -> (Vec<&WeightSet>, Option<Kind>) {
        let kinds: Vec<(&WeightSet, Kind)> =
            self.sets.iter().map(|set| (set, self.kind_of(set, root, headers))).collect();
        let of = |wanted: &dyn Fn(Kind) -> bool| {
            kinds.iter().filter(|(_, kind)| wanted(*kind)).map(|(set, _)| *set).collect::<Vec<_>>()
        };
        let (models, alone) = (of(&|kind| kind == Kind::Model), of(&Kind::stands_alone));
        let found = self.named(&models, wanted, root, headers);
        if !found.is_empty() {
            return (found, None);
        }
        let rest = if models.is_empty() { of(&|_| true) } else { alone };
        let found = self.named(&rest, wanted, root, headers);
        let kind = found.first().and_then(|first| kinds.iter().find(|(set, _)| set == first)).map(|(_, kind)| *kind);
        (found, kind)
    }

    /// Those of `sets` that `wanted` names.
    fn named<'a>(&self, sets: &[&'a WeightSet], wanted: &str, root: &Path, headers: &Headers) -> Vec<&'a WeightSet> {
        let exact = Quantization::new(wanted);
        let by_name: [&dyn Fn(&WeightSet) -> bool; 3] = [
            &|set| set.label.as_ref() == Some(&exact),
            &|set| set.label.as_ref().is_some_and(|label| label.is(wanted)),
            &|set| set.tagged(wanted),
        ];
        for matches in by_name {
            let found: Vec<_> = sets.iter().copied().filter(|set| matches(set)).collect();
            if !found.is_empty() {
                return found;
            }
        }
        let unnamed = sets.iter().copied().filter(|set| set.label.is_none());
        let labels: Vec<_> = unnamed.map(|set| (set, self.shown(set, root, headers))).collect();
        let by_header: [&dyn Fn(&Quantization) -> bool; 2] = [&|label| *label == exact, &|label| label.is(wanted)];
        for matches in by_header {
            let found: Vec<_> =
                labels.iter().filter(|(_, label)| label.as_ref().is_some_and(matches)).map(|(set, _)| *set).collect();
            if !found.is_empty() {
                return found;
            }
        }
        Vec::new()
    }

    /// What a label means here, where that is no model.
    pub(in crate::store) fn said_of(&self, part: &Part, root: &Path, headers: &Headers) -> Option<String> {
        let (Part::Quantization(wanted) | Part::QuantizationOf { quantization: wanted, .. }) = part else {
            return None;
        };
        let (_, kind) = self.sets_of(wanted, root, headers);
        Some(kind?.named_by(wanted))
    }

    /// The paths of the shards of a set that are missing by the names of the others.
    pub(in crate::store) fn missing_of<'a>(&self, set: &'a WeightSet) -> impl Iterator<Item = PathBuf> + 'a {
        set.missing.names().map(|name| set.key.folder().join(text::unescape(&name)))
    }

    /// Whether an index lies beside a set, which says better than names what belongs to it.
    pub(in crate::store) fn has_index(&self, set: &WeightSet) -> bool {
        let name = format!("{}{}", set.key.stem, crate::model::selection::INDEX);
        !set.is_gguf() && self.find(&set.key.folder().join(text::unescape(&name))).is_some()
    }

    /// The content and staging entries that a part of the row means; `None` when there is nothing of it.
    pub(in crate::store) fn part(&self, part: &Part, root: &Path, headers: &Headers) -> Option<BTreeSet<usize>> {
        match part {
            Part::Whole => Some(self.every_file()),
            Part::Quantization(wanted) => {
                let (sets, _) = self.sets_of(wanted, root, headers);
                let entries: BTreeSet<usize> = sets.into_iter().flat_map(all_of).collect();
                (!entries.is_empty()).then_some(entries)
            }
            Part::Revision(revision) => self.is_revision(revision).then(|| self.every_file()),
            Part::QuantizationOf { quantization, revision } => {
                let part = Part::Quantization(quantization.clone());
                self.is_revision(revision).then(|| self.part(&part, root, headers)).flatten()
            }
            Part::Files(paths) => {
                let mut entries = BTreeSet::new();
                for path in paths {
                    let found = self.single(Path::new(&text::unescape(path)));
                    if found.is_empty() {
                        return None;
                    }
                    entries.extend(found);
                }
                Some(entries)
            }
        }
    }

    fn every_file(&self) -> BTreeSet<usize> {
        let wanted = |class: &Class| matches!(class, Class::Content(_) | Class::Staging { .. });
        self.classes.iter().enumerate().filter(|(_, class)| wanted(class)).map(|(index, _)| index).collect()
    }

    /// Whether the record says that the folder was filled from `revision`, given as a name, a commit or the first 7 or more
    /// digits of one.
    pub(in crate::store) fn is_revision(&self, revision: &str) -> bool {
        self.record.get().is_some_and(|record| {
            record.revision == revision
                || record.commit == revision
                || (revision.len() >= 7 && record.commit.starts_with(revision))
        })
    }

    /// The file that a staging entry will become.
    pub(in crate::store) fn staging_target(&self, index: usize) -> Option<&Path> {
        match &self.classes[index] {
            Class::Staging { target, .. } => Some(target),
            _ => None,
        }
    }

    /// Whether a file that the record names should still be here: it is, or its sidecar is. A deletion removes the file and
    /// its sidecar together, so without either nobody misses it.
    pub(in crate::store) fn is_live(&self, path: &Path) -> bool {
        self.find(path).is_some() || self.sidecars(path).next().is_some()
    }

    /// The official client's sidecar and lock of the file at `path`.
    pub(in crate::store) fn sidecars<'a>(&'a self, path: &'a Path) -> impl Iterator<Item = usize> + 'a {
        sidecar_paths(path).filter_map(|path| self.find(&path))
    }
}

/// The entries of a set: its files, then its partial files.
pub(in crate::store) fn all_of(set: &WeightSet) -> impl Iterator<Item = usize> + '_ {
    set.members.iter().chain(&set.staging).copied()
}

/// Where the official client keeps sidecar and lock of a file: the present place and the one of its release 0.23.
fn sidecar_paths(path: &Path) -> impl Iterator<Item = PathBuf> + '_ {
    [".cache/huggingface/download", ".huggingface/download"].into_iter().flat_map(move |folder| {
        [".metadata", ".lock"].into_iter().map(move |suffix| {
            let mut name = path.file_name().unwrap_or_default().to_owned();
            name.push(suffix);
            Path::new(folder).join(path.with_file_name(name))
        })
    })
}

/// What an entry is to this program and to the official client.
pub(in crate::store) fn classify(entry: &Entry) -> Class {
    let hidden = |part: &OsStr| part.as_encoded_bytes().starts_with(b".");
    let parts: Vec<&OsStr> = entry.path.iter().collect();
    let (Some(first), Some(last)) = (parts.first(), parts.last()) else { return Class::Folder };
    let ours = match first.to_str() {
        Some(".cache") => match parts.get(1) {
            Some(second) => *second == "huggingface" || *second == "llorch-models",
            None => entry.is_folder(),
        },
        Some(".huggingface") => parts.len() > 1 || entry.is_folder(),
        _ => false,
    };
    if ours {
        return Class::Bookkeeping;
    }
    if parts[..parts.len() - 1].iter().any(|part| hidden(part)) || (hidden(last) && !entry.is_file()) {
        return Class::Hidden;
    }
    if entry.is_folder() {
        return Class::Folder;
    }
    if entry.is_file()
        && let Some(staging) = StagingName::parse(last)
    {
        return Class::Staging { target: entry.path.with_file_name(staging.target), journal: staging.journal };
    }
    Class::Content(Role::of(&text::escape(last)))
}

fn weight_sets(entries: &[Entry], classes: &[Class]) -> Vec<WeightSet> {
    let mut sets: BTreeMap<SetKey, WeightSet> = BTreeMap::new();
    for (index, (entry, class)) in entries.iter().zip(classes).enumerate() {
        let path = match class {
            Class::Content(_) => &entry.path,
            Class::Staging { target, .. } => target,
            _ => continue,
        };
        let Some(key) = SetKey::of(path) else { continue };
        let set = sets.entry(key.clone()).or_insert_with(|| WeightSet {
            label: label_of(path),
            key,
            members: Vec::new(),
            staging: Vec::new(),
            missing: Missing::none(),
            kind: Kind::Model,
        });
        match class {
            Class::Staging { .. } => set.staging.push(index),
            _ => set.members.push(index),
        }
    }
    let mut sets: Vec<WeightSet> = sets.into_values().collect();
    for set in &mut sets {
        set.missing = missing(set, entries);
    }
    sets
}

/// The shards that are missing.
fn missing(set: &WeightSet, entries: &[Entry]) -> Missing {
    let names: Vec<String> = set.members.iter().map(|member| text::escape(entries[*member].name())).collect();
    let here: Vec<Shard<'_>> = names.iter().filter_map(|name| FileName::parse(name).shard()).collect();
    Missing::of_shards(&here, || set.key.extension.clone())
}

/// The quantization that a file's name, else the name of its folder, tells.
fn label_of(path: &Path) -> Option<Quantization> {
    let name = text::escape(path.file_name().unwrap_or_default());
    Quantization::of_file_name(&name).or_else(|| {
        let folder = path.parent().and_then(Path::file_name)?;
        // The ending keeps a dot in the folder's name from being read as the start of an extension.
        Quantization::of_file_name(&format!("{}.gguf", text::escape(folder)))
    })
}
