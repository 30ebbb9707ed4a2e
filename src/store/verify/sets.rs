//! What files tell of each other: shards of one set, and the index that names them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::{Expected, Source};
use crate::disk::safe;
use crate::format::safetensors::Index;
use crate::format::{Structure, read_metadata};
use crate::model::{FileCheck, FileName, FileStatus, Missing, Shard, set_of, text};
use crate::store::shards::{self, Indexed, Kind, Look, Part, Spoken, Told, Trouble, file_name, folder, join};
use crate::store::{absent, mix, pieces};

/// Missing files of a model that are listed one by one: a hostile name claims up to 999,999.
const MAX_MISSING: usize = 1000;
/// Those of each set that are listed whatever the others lack.
const LEAST_OF_SET: usize = 3;

/// How many missing files of a set are listed where so many of others are.
pub(in crate::store) fn most_named(listed: usize) -> usize {
    MAX_MISSING.saturating_sub(listed).max(LEAST_OF_SET)
}

const STRUCTURE: &str = "structure";

/// Compares the members of each set with each other: changes `checks`, which are of `files` in the same order as `told` is, and
/// adds the files that are missing.
pub(super) fn compare(
    root: &Path,
    files: &[Expected],
    told: &[Option<Told>],
    checks: &mut Vec<FileCheck>,
    cancel: &CancellationToken,
) {
    let mut by_path: HashMap<&str, Vec<usize>> = HashMap::with_capacity(files.len());
    files.iter().enumerate().for_each(|(at, file)| by_path.entry(file.path.as_str()).or_default().push(at));
    let gone = checks.iter().filter(|check| check.status == FileStatus::Missing).count();
    let (missing, beside) = (BTreeMap::new(), BTreeMap::new());
    let mut sets = Sets { root, files, by_path, told, checks, gone, missing, beside, cancel };
    let indexes = sets.indexes();
    for (at, indexed) in &indexes {
        sets.compare_index(*at, indexed);
    }
    let mut spoken = Spoken::default();
    indexes.iter().for_each(|(_, indexed)| spoken.add(indexed));
    sets.compare_numbered(&spoken);
    sets.compare_pieces();
    sets.compare_commits();
    let missing = sets.missing;
    checks.extend(missing.into_iter().map(|(path, more)| {
        let mut check = FileCheck::new(path, FileStatus::Missing);
        check.more_missing = more;
        check.algorithm = Some(STRUCTURE.to_owned());
        check
    }));
}

/// The files of one set by their numbers, each with its place.
type Members<'a> = BTreeMap<u32, (Shard<'a>, usize)>;

struct Sets<'a> {
    root: &'a Path,
    files: &'a [Expected],
    /// The files of each path, of which revisions may have several.
    by_path: HashMap<&'a str, Vec<usize>>,
    told: &'a [Option<Told>],
    checks: &'a mut [FileCheck],
    /// Files that are listed as missing by others.
    gone: usize,
    /// The others that are, each with how many more of its set are not listed.
    missing: BTreeMap<String, u64>,
    /// The names of what lies in a folder, which is read once.
    beside: BTreeMap<PathBuf, BTreeSet<OsString>>,
    cancel: &'a CancellationToken,
}

impl Sets<'_> {
    /// The indexes that can be read, each with the place of its file.
    fn indexes(&mut self) -> Vec<(usize, Indexed)> {
        let mut indexes = Vec::new();
        for (at, file) in
            self.files.iter().enumerate().filter(|(_, file)| shards::is_index(file_name(&file.path).as_ref()))
        {
            // Its own check says why it cannot be opened.
            let Ok(opened) = safe::open_below(self.root, &file.location) else { continue };
            match Index::read(opened) {
                Ok(index) => indexes.push((at, Indexed { path: file.path.clone(), index: Arc::new(index) })),
                Err(why) => self.damage(at, &text::printable(&why)),
            }
        }
        indexes
    }

    fn compare_index(&mut self, at: usize, indexed: &Indexed) {
        let index_file = &self.files[at];
        let place = |path: &str| {
            let shares = |at: &&usize| shares_revision(&self.files[**at].revisions, &index_file.revisions);
            self.by_path.get(path)?.iter().find(shares).copied()
        };
        let lies_there = |path: &str| {
            let below = folder(&indexed.path);
            let inside = path.strip_prefix(below).map_or(path, |path| path.trim_start_matches('/'));
            lies_beside(self.root, &index_file.location, text::unescape(inside))
        };
        let is_there = |path: &str| place(path).is_some() || lies_there(path);
        if indexed.is_idle(&is_there) {
            self.checks[at].say("it names files that are not here; what lies beside it in one file is loaded");
            return;
        }
        let look = |path: &str| match place(path) {
            // A second name of a file elsewhere in the store is none of the model's own files, and not missing either.
            None => {
                if lies_there(path) {
                    Look::Elsewhere
                } else {
                    Look::Absent
                }
            }
            Some(at) => self.told.get(at).and_then(Option::as_ref).map_or(Look::Elsewhere, Look::Here),
        };
        let absent = |files: &[(&str, String)]| {
            let located = files.iter().filter_map(|(name, path)| Some((*name, &*self.files[place(path)?].location)));
            let located: Vec<(&str, &Path)> = located.collect();
            if located.len() != files.len() {
                return Vec::new();
            }
            absent::find(
                &index_file.location,
                &located,
                &mut |path| safe::open_below(self.root, path).ok(),
                self.cancel,
            )
        };
        let troubles = shards::against_index(indexed, &look, &absent);
        let places: Vec<Option<usize>> = troubles.iter().map(|trouble| place(&trouble.path)).collect();
        for (trouble, place) in troubles.into_iter().zip(places) {
            self.take(trouble, place);
        }
    }

    fn compare_numbered(&mut self, spoken: &Spoken) {
        let mut sets: BTreeMap<(&str, _, String), Members<'_>> = BTreeMap::new();
        for (at, file) in self.files.iter().enumerate() {
            let name = file_name(&file.path);
            let parsed = FileName::parse(name);
            if let Some(shard) = parsed.shard().filter(|_| parsed.is_gguf() || parsed.is_safetensors()) {
                let extension = name.rsplit('.').next().unwrap_or_default().to_owned();
                let set = sets.entry((folder(&file.path), shard.set(), extension)).or_default();
                set.entry(shard.number).or_insert_with(|| (shard, at));
            } else if let Some(line) = self.told.get(at).and_then(Option::as_ref).and_then(shards::unnamed_part) {
                self.damage(at, &line);
            }
        }
        for ((below, _, extension), members) in sets {
            let Some((_, first)) = members.values().next() else { continue };
            // An index knows better than names.
            if !spoken.speaks_for(&self.files[*first].path) {
                let here: Vec<Shard<'_>> = members.values().map(|(shard, _)| *shard).collect();
                let absent = |at: usize| self.checks[at].status == FileStatus::Missing;
                let listed: Vec<usize> = members.values().map(|(_, at)| *at).filter(|at| absent(*at)).collect();
                let location = self.files[*first].location.clone();
                let missing = Missing::of_shards(&here, || extension.clone());
                self.miss(below, &location, &missing, &listed);
            }
            let parts: Vec<Part<'_>> = members
                .values()
                .filter_map(|&(shard, at)| {
                    let told = self.told.get(at).and_then(Option::as_ref).filter(|told| told.count.is_some())?;
                    Some(Part { path: &self.files[at].path, shard, told })
                })
                .collect();
            let places: HashMap<&str, usize> =
                members.values().rev().map(|(_, at)| (self.files[*at].path.as_str(), *at)).collect();
            for trouble in shards::against_each_other(&parts) {
                let place = places.get(trouble.path.as_str()).copied();
                self.take(trouble, place);
            }
        }
    }

    /// Pieces of a file are all here and long enough together for what the header in the first one names.
    fn compare_pieces(&mut self) {
        for pieces in pieces::of(self.files.iter().enumerate().map(|(at, file)| (at, file.path.as_str()))) {
            let below = folder(&pieces.whole);
            if let Some(first) = pieces.places.first() {
                let location = self.files[*first].location.clone();
                self.miss(below, &location, &pieces.missing, &[]);
            }
            let opened = |at: &usize| safe::open_below(self.root, &self.files[*at].location).ok();
            let length = |at: &usize| Some(opened(at)?.metadata().ok()?.len());
            let lengths: Option<Vec<u64>> = pieces.places.iter().map(length).collect();
            let (Some(lengths), true, true) = (lengths, pieces.begins, pieces.missing.is_empty()) else { continue };
            let (Some(first), Some(last)) = (pieces.places.first(), pieces.places.last()) else { continue };
            let Some(file) = opened(first) else { continue };
            let header = read_metadata(&file, file_name(&pieces.whole)).map(Arc::new).map_err(Arc::from);
            let bytes = lengths.iter().fold(0_u64, |sum, more| sum.saturating_add(*more));
            match pieces::joined(&header, lengths.first().copied().unwrap_or(0), bytes) {
                Err(why) => self.damage(*first, &text::printable(&why)),
                Ok(told) => {
                    if let Structure::Truncated { missing: Some(missing) } = told.structure {
                        let check = &mut self.checks[*last];
                        check.say(&format!(
                            "the pieces together lack {missing} bytes of {}",
                            text::printable(&pieces.whole)
                        ));
                        if check.status.is_ok() {
                            check.status = FileStatus::Truncated;
                        }
                    }
                }
            }
        }
    }

    /// The parts of a set are of one commit, as far as a record tells.
    fn compare_commits(&mut self) {
        let commit = |file: &'_ Expected| match file.source {
            None | Some(Source::Record | Source::ChecksumFile) => file.commit.clone(),
            // Another program has fetched it since, and the record does not tell when.
            Some(_) => None,
        };
        let known: Vec<(usize, &str, Option<String>)> =
            self.files.iter().enumerate().map(|(at, file)| (at, file.path.as_str(), commit(file))).collect();
        let unknown: BTreeSet<_> =
            known.iter().filter(|(_, _, commit)| commit.is_none()).filter_map(|(_, path, _)| set_of(path)).collect();
        let known = known.iter().filter(|(_, path, _)| set_of(path).is_none_or(|set| !unknown.contains(&set)));
        let strays = mix::strays(known.filter_map(|(at, path, commit)| Some((*at, *path, commit.as_deref()?))));
        for stray in strays {
            self.damage(stray.at, &stray.line);
            self.checks[stray.at].commit = Some(stray.commit);
        }
    }

    /// Lists what a set lacks whose files lie beside the one at `location`: the first names, and how many more there are. `listed` are
    /// the places of those that are listed already.
    fn miss(&mut self, below: &str, location: &Path, missing: &Missing, listed: &[usize]) {
        if missing.is_empty() {
            return;
        }
        let most = most_named(self.gone + self.missing.len()).saturating_sub(listed.len());
        let folder = location.parent().unwrap_or(Path::new("")).to_owned();
        let root = self.root;
        let beside = self.beside.entry(folder).or_insert_with_key(|folder| names_in(&root.join(folder)));
        // A second name of a file elsewhere in the store is none of the model's own files, and not missing either.
        let is_there = |name: &str| beside.contains(&text::unescape(name));
        let known = |path: &str| self.by_path.contains_key(path);
        let (mut looked, mut passed) = (0_u64, 0_u64);
        let mut names: Vec<String> = Vec::new();
        for name in missing.names() {
            if names.len() >= most {
                break;
            }
            looked += 1;
            let path = join(below, &name);
            if is_there(&name) {
                passed += 1;
            } else if !known(&path) {
                names.push(path);
            }
        }
        let mut more = missing.len() - looked;
        if more > 0 {
            let numbers = missing.ranges();
            let name = missing.names().next().unwrap_or_default();
            let set = FileName::parse(&name).shard();
            let stem = text::unescape(set.map_or("", |set| set.stem));
            let same = beside
                .range(stem.clone()..)
                .take_while(|name| name.as_encoded_bytes().starts_with(stem.as_encoded_bytes()));
            let there =
                same.filter_map(|name| FileName::parse(name.to_str()?).shard().zip(set)).filter(|(shard, set)| {
                    let is_missing = |(from, to): &(u32, u32)| (*from..=*to).contains(&shard.number);
                    shard.is_of_set(set) && numbers.iter().any(is_missing)
                });
            more = more.saturating_sub((there.count() as u64).saturating_sub(passed));
        }
        match (names.pop(), listed.last()) {
            (Some(last), _) => {
                self.missing.extend(names.into_iter().map(|name| (name, 0)));
                self.missing.insert(last, more);
            }
            (None, Some(&at)) => self.checks[at].more_missing = more,
            (None, None) => {}
        }
    }

    /// Takes what is wrong with the file at a place, or with one that is not there.
    fn take(&mut self, trouble: Trouble, place: Option<usize>) {
        match (trouble.kind, place) {
            (Kind::Missing, _) => {
                if self.missing.len() < MAX_MISSING {
                    self.missing.entry(trouble.path).or_default();
                }
            }
            (Kind::Damage, Some(at)) => self.damage(at, &trouble.line),
            (Kind::Note, Some(at)) => self.checks[at].say(&trouble.line),
            (Kind::Damage | Kind::Note, None) => {}
        }
    }

    /// A set that no loader takes is not right, whatever the checksums of its files are.
    fn damage(&mut self, at: usize, line: &str) {
        let check = &mut self.checks[at];
        check.say(line);
        if check.is_ok() {
            if check.status == FileStatus::Ok && check.algorithm.as_deref() != Some(STRUCTURE) {
                check.say("its bytes are those that are promised");
            }
            check.status = FileStatus::Corrupt;
        }
    }
}

/// Whether two files are of one revision, where none named means all.
fn shares_revision(a: &[String], b: &[String]) -> bool {
    a.is_empty() || b.is_empty() || a.iter().any(|commit| b.contains(commit))
}

/// Whether something of that name is in the folder of a file: a second name of a file elsewhere in the store is none of the
/// model's own files, and not missing either.
fn lies_beside(root: &Path, location: &Path, name: impl Into<PathBuf>) -> bool {
    let folder = location.parent().unwrap_or(Path::new(""));
    root.join(folder).join(name.into()).symlink_metadata().is_ok()
}

/// The names of all that lies in a folder.
fn names_in(folder: &Path) -> BTreeSet<OsString> {
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    entries.filter_map(|entry| Some(entry.ok()?.file_name())).collect()
}
