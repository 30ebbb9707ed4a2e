//! The sets of weights of a repository, over all of its revisions.

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::details::WeightsFile;
use super::read::{Blob, Content, Entry, Repository, Revision};
use crate::disk::fast_map::Fast;
use crate::format::Kind;
use crate::model::{FileName, Format, Inode, Missing, Quantization, RepoPath, Shard, text};
use crate::store::headers::Headers;

/// One file or shards of one revision.
pub(super) struct WeightSet<'a> {
    /// Path of its first file in the revision.
    pub(super) path: &'a Path,
    /// The quantization that its name, or its folder's, tells.
    pub(super) named: Option<Quantization>,
    pub(super) format: Format,
    /// Those of its files whose bytes are here, in the order of their numbers.
    pub(super) files: Vec<WeightsFile<'a>>,
    /// The shards that nothing is here of; none where nothing at all is here.
    pub(super) missing: Missing,
    /// Files that lead elsewhere, of which nothing is read.
    pub(super) foreign: usize,
    /// Whether it is of the revision that comes first.
    pub(super) current: bool,
    /// What is here, as far as its names are those of shards.
    shards: Vec<Shard<'a>>,
    here: bool,
}

/// What makes shards one set: folder, what their names have in common, whether they are GGUF.
type Key<'a> = (&'a OsStr, (&'a str, u32, u8), bool);

/// The sets of revisions in their order, those of each by path. Of later revisions only those with a file that no earlier one
/// has. `chosen` says which entries count.
pub(super) fn of<'a>(
    repository: &'a Repository,
    revisions: &[&'a Revision],
    chosen: &dyn Fn(&OsStr, &Path) -> bool,
) -> Vec<WeightSet<'a>> {
    let mut all: Vec<WeightSet<'a>> = Vec::new();
    let mut seen: HashSet<Inode, Fast> = HashSet::default();
    for (at, revision) in revisions.iter().enumerate() {
        let mut sets = of_revision(repository, revision, chosen);
        sets.retain(|set| set.files.is_empty() || set.files.iter().any(|file| !seen.contains(&file.status.inode)));
        if at + 1 < revisions.len() {
            seen.extend(sets.iter().flat_map(|set| &set.files).map(|file| file.status.inode));
        }
        let first = !all.iter().any(|set| !set.files.is_empty());
        for set in &mut sets {
            set.current = first;
            let extension = || set.path.extension().map(text::escape).unwrap_or_default();
            set.missing = Missing::of_shards(&set.shards, extension);
        }
        all.extend(sets);
    }
    all
}

fn of_revision<'a>(
    repository: &'a Repository,
    revision: &'a Revision,
    chosen: &dyn Fn(&OsStr, &Path) -> bool,
) -> Vec<WeightSet<'a>> {
    let weights = |entry: &'a Entry| {
        let name = FileName::of_weights_or_sidecar(entry.name()).filter(FileName::is_weights)?;
        chosen(&revision.commit, &entry.path).then_some((entry, name))
    };
    let mut entries: Vec<(&Entry, FileName<'_>)> = revision.entries.iter().filter_map(weights).collect();
    // Bytes order names as paths do, and faster; a folder makes the difference.
    if entries.iter().all(|(entry, _)| !entry.path.as_os_str().as_bytes().contains(&b'/')) {
        entries.sort_unstable_by(|(a, _), (b, _)| a.path.as_os_str().cmp(b.path.as_os_str()));
    } else {
        entries.sort_by(|(a, _), (b, _)| a.path.cmp(&b.path));
    }
    let mut sets: Vec<WeightSet<'a>> = Vec::new();
    let mut sharded: BTreeMap<Key<'a>, usize> = BTreeMap::new();
    for (entry, name) in entries {
        let new = |sets: &mut Vec<WeightSet<'a>>| {
            sets.push(WeightSet::new(&entry.path, name.is_gguf()));
            sets.len() - 1
        };
        let at = match name.shard() {
            None => new(&mut sets),
            Some(shard) => {
                let key = (entry.folder(), shard.set(), name.is_gguf());
                *sharded.entry(key).or_insert_with(|| new(&mut sets))
            }
        };
        let set = &mut sets[at];
        if let Some(file) = WeightsFile::of(repository, revision, entry) {
            set.files.push(file);
        } else if is_foreign(repository, entry) {
            set.foreign += 1;
        } else {
            continue;
        }
        set.here = true;
        set.shards.extend(name.shard());
    }
    sets
}

impl<'a> WeightSet<'a> {
    fn new(path: &'a Path, gguf: bool) -> Self {
        Self {
            path,
            // Names of safetensors are those of the parts of a model.
            named: if gguf { named(path) } else { None },
            format: if gguf { Format::Gguf } else { Format::Safetensors },
            files: Vec::new(),
            missing: Missing::none(),
            foreign: 0,
            current: false,
            shards: Vec::new(),
            here: false,
        }
    }

    /// Its path without number and extension, as people write it.
    pub(super) fn name(&self) -> PathBuf {
        let file = self.path.file_name().and_then(OsStr::to_str).unwrap_or_default();
        self.path.with_file_name(FileName::parse(file).stem())
    }

    /// Whether its names are those of shards.
    pub(super) fn is_sharded(&self) -> bool {
        !self.shards.is_empty()
    }

    /// Whether anything of it is here.
    pub(super) fn is_here(&self) -> bool {
        self.here
    }
}

/// The quantization that a file's name, or its folder's, tells: what selects it.
pub(super) fn named(path: &Path) -> Option<Quantization> {
    Quantization::of_path(&RepoPath::parse(path.to_str()?).ok()?)
}

/// What the weights of a repository are by their headers.
pub(super) struct Kinds<'a> {
    root: &'a Path,
    headers: &'a Headers,
    /// Of the shards of each revision the first, whose header speaks for all.
    first: BTreeMap<(&'a OsStr, Key<'a>), (u32, &'a Entry)>,
    repository: &'a Repository,
    shown: &'a dyn Fn(&WeightSet<'_>) -> Option<Quantization>,
}

impl<'a> Kinds<'a> {
    /// Of a repository in the cache at `root`; `shown` tells the quantization that the headers of a set tell.
    pub(super) fn of(
        repository: &'a Repository,
        root: &'a Path,
        headers: &'a Headers,
        shown: &'a dyn Fn(&WeightSet<'_>) -> Option<Quantization>,
    ) -> Self {
        let mut first: BTreeMap<(&OsStr, Key<'_>), (u32, &Entry)> = BTreeMap::new();
        for revision in &repository.revisions {
            for entry in &revision.entries {
                if let Some((key, number)) = shard_of(entry) {
                    let known = first.entry((&revision.commit, key)).or_insert((number, entry));
                    if number < known.0 {
                        *known = (number, entry);
                    }
                }
            }
        }
        Self { root, headers, first, repository, shown }
    }

    /// What an entry of `revision` is; by its name where no header can be read.
    pub(super) fn kind(&self, revision: &Revision, entry: &Entry) -> Kind {
        let first = shard_of(entry).and_then(|(key, _)| self.first.get(&(revision.commit.as_os_str(), key)));
        let of = first.map_or(entry, |(_, first)| first);
        let header =
            WeightsFile::of(self.repository, revision, of).filter(|file| file.status.size_bytes > 0).map(|file| {
                let name = file.path().file_name().unwrap_or_default();
                self.headers.get_named(self.root, file.status, || file.location(), name)
            });
        match header {
            Some(Ok(told)) => told.kind,
            _ if is_weights(&entry.path) => Kind::Model,
            _ => Kind::Projector,
        }
    }
}

/// What has the place of an entry among the shards of a revision, and its number.
fn shard_of(entry: &Entry) -> Option<(Key<'_>, u32)> {
    let name = FileName::of_weights_or_sidecar(entry.name())?;
    let shard = name.shard()?;
    Some(((entry.folder(), shard.set(), name.is_gguf()), shard.number))
}

/// The weights that a label names in a repository.
#[derive(Debug, Default)]
pub(super) struct Named<'a> {
    entries: HashSet<(&'a OsStr, &'a Path)>,
    /// What they are where they are no model.
    pub(super) kind: Option<Kind>,
}

impl<'a> Named<'a> {
    /// The weights that `wanted` names. Names decide, as on the hub, and headers only where no name is meant and of what has no
    /// label in its name; an exact label before a looser one, so that no more is meant than what was said. What is no model by its
    /// header is no quantization of one: it is meant only where the label names nothing else, and a projector only where there is
    /// no model.
    pub(super) fn of(repository: &'a Repository, wanted: &str, kinds: &Kinds<'_>) -> Self {
        type Labelled<'a> = (u8, &'a Revision, &'a Entry, Kind);
        let exact = Quantization::new(wanted);
        let all = || repository.revisions.iter().flat_map(|of| of.entries.iter().map(move |entry| (of, entry)));
        let mut labelled: Vec<Labelled<'a>> = all()
            .filter(|(_, entry)| is_weights(&entry.path))
            .filter_map(|(revision, entry)| {
                let label = named(&entry.path).filter(|label| *label == exact || label.is(wanted))?;
                Some((u8::from(label != exact), revision, entry, kinds.kind(revision, entry)))
            })
            .collect();
        if !labelled.iter().any(|(.., kind)| *kind == Kind::Model) {
            let unnamed = by_header(repository, kinds.shown).into_iter();
            labelled.extend(unnamed.filter(|(.., label)| *label == exact || label.is(wanted)).map(
                |(revision, entry, label)| (2 + u8::from(label != exact), revision, entry, kinds.kind(revision, entry)),
            ));
        }
        let take = |is_wanted: &dyn Fn(Kind) -> bool| {
            let found = || labelled.iter().filter(|(.., kind)| is_wanted(*kind));
            let first = found().map(|(rank, ..)| *rank).min();
            found().filter(|(rank, ..)| Some(*rank) == first).copied().collect::<Vec<_>>()
        };
        let mut found = take(&|kind| kind == Kind::Model);
        if found.is_empty() && !labelled.is_empty() {
            let mut weights = all().filter(|(_, entry)| is_weights(&entry.path));
            let has_model = weights.any(|(revision, entry)| kinds.kind(revision, entry) == Kind::Model);
            found = take(&|kind| kind.stands_alone() || !has_model);
        }
        Self {
            kind: found.first().map(|(.., kind)| *kind).filter(|kind| *kind != Kind::Model),
            entries: found.iter().map(|(_, of, entry, _)| (of.commit.as_os_str(), entry.path.as_path())).collect(),
        }
    }

    pub(super) fn has(&self, commit: &OsStr, path: &Path) -> bool {
        self.entries.contains(&(commit, path))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

/// The weights without a label in their names, with what `shown` tells of their sets.
fn by_header<'a>(
    repository: &'a Repository,
    shown: &dyn Fn(&WeightSet<'_>) -> Option<Quantization>,
) -> Vec<(&'a Revision, &'a Entry, Quantization)> {
    let mut found = Vec::new();
    for revision in &repository.revisions {
        for set in of_revision(repository, revision, &|_, path| named(path).is_none()) {
            let Some(label) = shown(&set) else { continue };
            let members = revision.entries.iter().filter(|entry| is_of_set(set.path, &entry.path));
            found.extend(members.map(|entry| (revision, entry, label.clone())));
        }
    }
    found
}

/// Whether two paths of a revision are those of one file, or of shards of one set.
fn is_of_set(first: &Path, path: &Path) -> bool {
    let parsed = FileName::of_weights_or_sidecar;
    match (first.file_name().and_then(parsed), path.file_name().and_then(parsed)) {
        (Some(one), Some(other)) if first != path && first.parent() == path.parent() => {
            let shards = one.shard().zip(other.shard());
            one.is_gguf() == other.is_gguf() && shards.is_some_and(|(one, other)| one.is_of_set(&other))
        }
        _ => first == path,
    }
}

pub(super) fn is_weights(path: &Path) -> bool {
    path.file_name().and_then(FileName::of_weights_or_sidecar).is_some_and(|name| name.is_weights())
}

/// Whether an entry leads, at once or by its blob, to something that is none of this repository's.
pub(super) fn is_foreign(repository: &Repository, entry: &Entry) -> bool {
    match &entry.content {
        Content::Blob(_) => matches!(repository.blob_of(entry), Some((_, Some(Blob::Foreign)))),
        Content::Elsewhere => true,
        Content::NoBlob(_) | Content::File(_) | Content::Other => false,
    }
}
