//! What files tell of each other: shards of one set, and the index that names them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::Expected;
use crate::disk::safe;
use crate::format::Metadata;
use crate::format::safetensors::Index;
use crate::model::{FileCheck, FileName, FileStatus, text};

/// Most missing shards that are named one by one: a hostile name or header claims up to 99,999.
const MAX_MISSING: usize = 1000;

/// What the header of a GGUF file says of its set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Split {
    number: Option<u64>,
    count: Option<u64>,
    all_tensors: Option<u64>,
    tensors: Option<u64>,
}

impl Split {
    pub(super) fn of(metadata: &Metadata) -> Self {
        Self {
            number: metadata.split_no,
            count: metadata.split_count,
            all_tensors: metadata.split_tensors,
            tensors: metadata.tensors,
        }
    }
}

const STRUCTURE: &str = "structure";

/// Compares the members of each set with each other: changes `checks`, which are of `files` in the same order, and adds the
/// files that are missing.
pub(super) fn compare(root: &Path, files: &[Expected], splits: &[Option<Split>], checks: &mut Vec<FileCheck>) {
    let paths: BTreeSet<&str> = files.iter().map(|file| file.path.as_str()).collect();
    let mut missing: BTreeSet<String> = BTreeSet::new();
    let mut sets: BTreeMap<(&str, String, u32, String), BTreeMap<u32, usize>> = BTreeMap::new();
    for (at, file) in files.iter().enumerate() {
        let (folder, name) = split_path(&file.path);
        let parsed = FileName::parse(name);
        if let Some(shard) = parsed.shard().filter(|_| parsed.is_gguf() || parsed.is_safetensors()) {
            let extension = name.rsplit('.').next().unwrap_or_default().to_owned();
            let key = (folder, shard.stem.clone(), shard.count, extension);
            sets.entry(key).or_default().entry(shard.number).or_insert(at);
            agree_with_name(shard.number, shard.count, splits[at], &mut checks[at]);
        } else if let Some(count) = splits[at].and_then(|split| split.count).filter(|count| *count > 1) {
            let number = splits[at].and_then(|split| split.number).unwrap_or(0) + 1;
            // Its loader finds the others by their names, which this one does not have.
            checks[at].say(&format!("its header says that it is shard {number} of {count}, its name does not"));
            checks[at].status = worse(checks[at].status, FileStatus::Missing);
        }
        if name.ends_with(".safetensors.index.json") {
            let opened = safe::open_below(root, &file.location).map_err(|_| ());
            match opened.map(Index::read) {
                Ok(Ok(index)) => {
                    let named = index.files().map(|name| (name, join(folder, &text::escape(name.as_ref()))));
                    let absent = named.filter(|(_, path)| !paths.contains(path.as_str()));
                    let gone = absent.filter(|(name, _)| !lies_beside(root, &file.location, name));
                    missing.extend(gone.map(|(_, path)| path).take(MAX_MISSING));
                }
                Ok(Err(why)) => {
                    checks[at].say(&text::printable(&why));
                    checks[at].status = worse(checks[at].status, FileStatus::Corrupt);
                }
                // Its own check says why.
                Err(()) => {}
            }
        }
    }
    for ((folder, stem, count, extension), members) in sets {
        let Some(first) = members.values().next().map(|at| &files[*at].location) else { continue };
        let absent = (1..=count).filter(|number| !members.contains_key(number)).take(MAX_MISSING);
        let named = absent.map(|number| format!("{stem}-{number:05}-of-{count:05}.{extension}"));
        let gone = named.filter(|name| !lies_beside(root, first, text::unescape(name)));
        missing.extend(gone.map(|name| join(folder, &name)).filter(|path| !paths.contains(path.as_str())));
        add_up(count, &members, splits, checks);
    }
    checks.extend(missing.into_iter().map(|path| {
        let mut check = FileCheck::new(path, FileStatus::Missing);
        check.algorithm = Some(STRUCTURE.to_owned());
        check
    }));
}

/// What is damage in a file that no digest vouches for; with one, its publisher made it so.
fn worse(now: FileStatus, worse: FileStatus) -> FileStatus {
    if now == FileStatus::NoChecksum { worse } else { now }
}

fn agree_with_name(number: u32, count: u32, split: Option<Split>, check: &mut FileCheck) {
    let Some(split) = split else { return };
    let other_number = split.number.is_some_and(|said| said + 1 != u64::from(number));
    let other_count = split.count.is_some_and(|said| said != u64::from(count));
    if other_number || other_count {
        let said = |value: Option<u64>| value.map_or_else(|| "unknown".to_owned(), |value| value.to_string());
        check.say(&format!(
            "shard {number} of {count} by its name, {} of {} by its header",
            said(split.number.map(|said| said + 1)),
            said(split.count)
        ));
        check.status = worse(check.status, FileStatus::Corrupt);
    }
}

/// The tensors of all shards are as many as the headers say.
fn add_up(count: u32, members: &BTreeMap<u32, usize>, splits: &[Option<Split>], checks: &mut [FileCheck]) {
    if members.len() != usize::try_from(count).unwrap_or(usize::MAX) {
        return;
    }
    let tensors: Option<u64> = members
        .values()
        .map(|at| splits[*at].and_then(|split| split.tensors))
        .try_fold(0_u64, |sum, more| sum.checked_add(more?));
    let said = members.values().find_map(|at| splits[*at].and_then(|split| split.all_tensors));
    let (Some(tensors), Some(said), Some(first)) = (tensors, said, members.values().next()) else { return };
    if tensors != said {
        checks[*first].say(&format!("the shards have {tensors} tensors together, their headers say {said}"));
        checks[*first].status = worse(checks[*first].status, FileStatus::Corrupt);
    }
}

/// Whether something of that name is in the folder of a file: a second name of a file elsewhere in the store is none of the
/// model's own files, and not missing either.
fn lies_beside(root: &Path, location: &Path, name: impl AsRef<Path>) -> bool {
    root.join(location).with_file_name(name.as_ref()).symlink_metadata().is_ok()
}

fn split_path(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

fn join(folder: &str, name: &str) -> String {
    if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") }
}
