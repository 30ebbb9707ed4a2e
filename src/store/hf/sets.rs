//! The sets of weights of a repository, over all of its revisions.

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::details::WeightsFile;
use super::read::{Blob, Content, Entry, Repository, Revision};
use crate::disk::fast_map::Fast;
use crate::model::{FileName, Format, Inode, Missing, Quantization, RepoPath, Shard, text};

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

/// Which of the weights of a repository `wanted` names, as revisions and paths. Names decide, as on the hub, and headers, of which
/// `shown` tells, only where no name is meant and of what has no label in its name; an exact label before a looser one, so
/// that no more is meant than what was said.
pub(super) fn meant<'a>(
    repository: &'a Repository,
    wanted: &str,
    shown: &dyn Fn(&WeightSet<'_>) -> Option<Quantization>,
) -> Box<dyn Fn(&OsStr, &Path) -> bool + 'a> {
    let exact = Quantization::new(wanted);
    let loose = wanted.to_owned();
    let by_label: [Box<dyn Fn(&Quantization) -> bool>; 2] =
        [Box::new(move |label| *label == exact), Box::new(move |label| label.is(&loose))];
    let weights = || {
        let entries = repository.revisions.iter().flat_map(|revision| &revision.entries);
        entries.map(|entry| entry.path.as_path()).filter(|path| is_weights(path))
    };
    let mut unnamed: Option<Vec<(&OsStr, &Path, Quantization)>> = None;
    for by_name in [true, false] {
        for is in &by_label {
            let found: HashSet<(&OsStr, &Path)> = if by_name {
                let names: HashSet<&Path> =
                    weights().filter(|path| named(path).is_some_and(|label| is(&label))).collect();
                let of = |revision: &'a Revision| {
                    let names = &names;
                    let paths = revision.entries.iter().map(|entry| entry.path.as_path());
                    paths.filter(move |path| names.contains(path)).map(|path| (revision.commit.as_os_str(), path))
                };
                repository.revisions.iter().flat_map(of).collect()
            } else {
                let unnamed = unnamed.get_or_insert_with(|| by_header(repository, shown));
                let of_label = unnamed.iter().filter(|(.., label)| is(label));
                of_label.map(|(commit, path, _)| (*commit, *path)).collect()
            };
            if !found.is_empty() {
                return Box::new(move |commit, path| found.contains(&(commit, path)));
            }
        }
    }
    Box::new(|_, _| false)
}

/// The weights without a label in their names, with what `shown` tells of their sets.
fn by_header<'a>(
    repository: &'a Repository,
    shown: &dyn Fn(&WeightSet<'_>) -> Option<Quantization>,
) -> Vec<(&'a OsStr, &'a Path, Quantization)> {
    let mut found = Vec::new();
    for revision in &repository.revisions {
        for set in of_revision(repository, revision, &|_, path| named(path).is_none()) {
            let Some(label) = shown(&set) else { continue };
            let entries = revision.entries.iter().map(|entry| entry.path.as_path());
            let members = entries.filter(|path| is_of_set(set.path, path));
            found.extend(members.map(|path| (revision.commit.as_os_str(), path, label.clone())));
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
