//! What the files of one set say of each other: the index that names them, and the headers of the parts.
//!
//! Tables, details and verification ask here, so that they agree.

use std::collections::{BTreeSet, HashSet};
use std::ffi::OsStr;
use std::sync::Arc;

use super::absent::Finding;
use crate::format::safetensors::Index;
use crate::format::{Metadata, Structure, TensorNames};
use crate::model::selection::INDEX;
use crate::model::size::grouped;
use crate::model::{FileName, Missing, Shard, text};

/// Missing files that are named one by one: an index may name very many.
const MOST_MISSING: usize = 1000;
/// Names in one line.
const MOST_NAMES: usize = 3;

/// What the header of a file says of its place in a set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Told {
    /// `split.no`, from 0.
    pub(super) number: Option<u64>,
    /// `split.count`.
    pub(super) count: Option<u64>,
    /// Tensors of all parts together.
    pub(super) all_tensors: Option<u64>,
    pub(super) tensors: Option<u64>,
    pub(super) tensor_bytes: Option<u64>,
    pub(super) names: Option<TensorNames>,
}

impl Told {
    pub(super) fn of(metadata: &Metadata) -> Self {
        Self {
            number: metadata.split_no,
            count: metadata.split_count,
            all_tensors: metadata.split_tensors,
            tensors: metadata.tensors,
            tensor_bytes: metadata.tensor_bytes,
            names: metadata.names.clone(),
        }
    }
}

/// What kind of trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A file that is not there.
    Missing,
    /// A loader refuses the set, or loads something else than it should.
    Damage,
    /// Worth a word.
    Note,
}

/// What is wrong with a set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Trouble {
    /// The file that it is about: its path inside the model, escaped.
    pub(super) path: String,
    pub(super) kind: Kind,
    /// What is wrong with that file.
    pub(super) line: String,
}

/// An index and where it lies.
#[derive(Clone, Debug)]
pub(super) struct Indexed {
    /// Its path inside the model, escaped.
    pub(super) path: String,
    pub(super) index: Arc<Index>,
}

impl Indexed {
    /// The file that it names `name`, as a path inside the model, escaped.
    pub(super) fn path_of(&self, name: &str) -> String {
        join(folder(&self.path), &text::escape(name.as_ref()))
    }

    /// The files that it names, as paths inside the model, escaped.
    pub(super) fn paths(&self) -> BTreeSet<String> {
        self.index.files().map(|name| self.path_of(name)).collect()
    }

    fn file_name(&self) -> &str {
        file_name(&self.path)
    }

    /// Whether loaders never look at it: the weights lie beside it in one file, and it names no other that is there.
    pub(super) fn is_idle(&self, is_here: &dyn Fn(&str) -> bool) -> bool {
        let stem = self.path.strip_suffix(INDEX).unwrap_or(&self.path);
        is_here(&format!("{stem}.safetensors")) && !self.index.files().any(|name| is_here(&self.path_of(name)))
    }
}

/// What the indexes of a row name, to be looked up and not searched for: a row may have very many files.
#[derive(Debug, Default)]
pub(super) struct Spoken {
    paths: HashSet<String>,
    /// Paths of indexes without their ending.
    stems: HashSet<String>,
}

impl Spoken {
    /// Adds what an index names.
    pub(super) fn add(&mut self, indexed: &Indexed) {
        self.paths.extend(indexed.index.files().map(|name| indexed.path_of(name)));
        self.stems.extend(indexed.path.strip_suffix(INDEX).map(str::to_owned));
    }

    /// Whether an index, and not the names of files, says what belongs to the set of the file at `path`.
    pub(super) fn speaks_for(&self, path: &str) -> bool {
        if self.stems.is_empty() {
            return false;
        }
        let name = FileName::parse(file_name(path));
        let by_name = || name.is_safetensors() && self.stems.contains(&join(folder(path), name.stem()));
        self.paths.contains(path) || by_name()
    }
}

/// Whether a file of that name is an index.
pub(super) fn is_index(name: &OsStr) -> bool {
    name.as_encoded_bytes().ends_with(INDEX.as_bytes())
}

/// What is at a place that an index names.
pub(super) enum Look<'a> {
    /// Nothing.
    Absent,
    /// Something of which others tell what is wrong.
    Elsewhere,
    /// A file, and what its header tells.
    Here(&'a Told),
}

/// A file that is asked about: what the index calls it, and its path inside the model, escaped.
pub(super) type Asked<'a> = (&'a str, String);

/// Compares an index with the files that it names. `absent` finds out which of the files, each given as the index calls it and
/// with its path, lack a tensor that the index names for them; it is asked once, and only of those whose sums differ.
pub(super) fn against_index<'a>(
    indexed: &Indexed,
    look: &dyn Fn(&str) -> Look<'a>,
    absent: &dyn Fn(&[Asked<'_>]) -> Vec<Finding>,
) -> Vec<Trouble> {
    let index = &indexed.index;
    let own = text::printable(indexed.file_name());
    let mut by_names = None;
    // Each with its place among the files of the index.
    let mut troubles: Vec<(usize, Trouble)> = Vec::new();
    let (mut suspects, mut places) = (Vec::new(), Vec::new());
    let mut bytes = Some(0_u64);
    for (at, name) in index.files().enumerate() {
        let path = indexed.path_of(name);
        let told = match look(&path) {
            Look::Absent => {
                bytes = None;
                if troubles.len() < MOST_MISSING {
                    troubles.push((at, Trouble { path, kind: Kind::Missing, line: format!("named by {own}") }));
                }
                continue;
            }
            Look::Elsewhere => {
                bytes = None;
                continue;
            }
            Look::Here(told) => told,
        };
        bytes = bytes.zip(told.tensor_bytes).and_then(|(sum, more)| sum.checked_add(more));
        let Some(names) = told.names.as_ref().filter(|names| !index.agrees(name, names)) else { continue };
        match by_names.get_or_insert_with(|| index.by_names()).get(&names.sum) {
            Some(other) => {
                let line = format!("it has the tensors that {own} says are in {}", text::printable(other));
                troubles.push((at, Trouble { path, kind: Kind::Damage, line }));
            }
            // It may have more tensors than the index names, which nobody misses.
            None => {
                suspects.push((name, path));
                places.push(at);
            }
        }
    }
    let mut uncompared = 0_u64;
    let findings = if suspects.is_empty() { Vec::new() } else { absent(&suspects) };
    for (((_, path), at), finding) in suspects.into_iter().zip(places).zip(findings) {
        match finding {
            Finding::Lacks(tensor) => {
                let line = format!("{own} says that tensor '{tensor}' is in it, which it is not");
                troubles.push((at, Trouble { path, kind: Kind::Damage, line }));
            }
            Finding::TooMuch => uncompared += 1,
            Finding::All | Finding::Unknown => {}
        }
    }
    troubles.sort_by_key(|(at, _)| *at);
    let mut troubles: Vec<Trouble> = troubles.into_iter().map(|(_, trouble)| trouble).collect();
    if uncompared > 0 {
        let files = if uncompared == 1 { "1 file" } else { &*format!("{} files", grouped(uncompared)) };
        let line =
            format!("{files} with other tensors than it names are not compared with it: their headers are too long");
        troubles.push(Trouble { path: indexed.path.clone(), kind: Kind::Note, line });
    }
    if let (Some(bytes), Some(said)) = (bytes, index.total_size())
        && bytes != said
    {
        let line = format!("it says that all tensors take {} bytes, they take {}", grouped(said), grouped(bytes));
        troubles.push(Trouble { path: indexed.path.clone(), kind: Kind::Note, line });
    }
    troubles
}

/// A part of a GGUF model by its name, and what its header tells.
pub(super) struct Part<'a> {
    pub(super) path: &'a str,
    pub(super) shard: Shard<'a>,
    pub(super) told: &'a Told,
}

/// Compares the headers of the parts of one set, in the order of their numbers, with their names and with each other.
pub(super) fn against_each_other(parts: &[Part<'_>]) -> Vec<Trouble> {
    let mut troubles = Vec::new();
    let mut trouble = |path: &str, kind, line: String| troubles.push(Trouble { path: path.to_owned(), kind, line });
    for Part { path, shard, told } in parts {
        let other_number = told.number.is_some_and(|said| said + 1 != u64::from(shard.number));
        let other_count = told.count.is_some_and(|said| said != u64::from(shard.count));
        if other_number || other_count {
            let said = |value: Option<u64>| value.map_or_else(|| "unknown".to_owned(), |value| value.to_string());
            let (number, count) = (said(told.number.map(|said| said + 1)), said(told.count));
            let line =
                format!("shard {} of {} by its name, {number} of {count} by its header", shard.number, shard.count);
            trouble(path, Kind::Damage, line);
        }
    }
    let Some(first) = parts.first() else { return troubles };
    if parts.len() == usize::try_from(first.shard.count).unwrap_or(usize::MAX) {
        let sum = parts.iter().try_fold(0_u64, |sum, part| sum.checked_add(part.told.tensors?));
        let said = parts.iter().find_map(|part| part.told.all_tensors);
        if let (Some(sum), Some(said)) = (sum, said)
            && sum != said
        {
            let line = format!("the shards have {sum} tensors together, their headers say {said}");
            trouble(first.path, Kind::Damage, line);
        }
    }
    let names: Vec<(&str, &TensorNames, u64)> = parts
        .iter()
        .filter_map(|part| Some((part.path, part.told.names.as_ref()?, part.told.tensors.unwrap_or(0))))
        .collect();
    let each: Vec<&TensorNames> = names.iter().map(|(_, names, _)| *names).collect();
    for (at, other, twice) in TensorNames::in_common(&each) {
        let (Some((path, own, tensors)), Some((other, known, others))) = (names.get(at), names.get(other)) else {
            continue;
        };
        // Names that are not in the sample of either may be in both as well.
        let least =
            if own.is_sample(*tensors, each.len()) || known.is_sample(*others, each.len()) { "at least " } else { "" };
        let (tensors, are) = if twice == 1 { ("tensor", "is") } else { ("tensors", "are") };
        let other = text::printable(file_name(other));
        // A loader refuses a tensor that it has read already.
        trouble(path, Kind::Damage, format!("{least}{twice} {tensors} of it {are} in {other} as well"));
    }
    troubles
}

/// What is wrong with a part whose name does not say that it is one; `None` for a file that is whole by itself.
pub(super) fn unnamed_part(told: &Told) -> Option<String> {
    let count = told.count.filter(|count| *count > 1)?;
    let place = match told.number {
        Some(number) => format!("shard {} of {count}", number + 1),
        None => format!("one of {count} shards"),
    };
    Some(format!("its header says that it is {place}, its name does not, so that no loader finds the others"))
}

/// What a row says of the missing files of one numbered set, or pieces of one file: the set as people write it, and what is
/// missing.
pub(super) fn missing_line(set: &str, missing: &Missing) -> Option<String> {
    let names = shown_names(missing.names(), missing.len())?;
    let one = missing.len() == 1;
    Some(match missing.count() {
        Some(count) => numbers_line(set, missing.ranges(), count, &names),
        None => format!("{names} {} missing", if one { "is" } else { "are" }),
    })
}

/// The same of the files that an index names and that are missing, by their paths in order.
pub(super) fn missing_by_index(set: &str, missing: &[String], index: &str) -> Option<String> {
    let names = shown_names(missing.iter().map(|path| file_name(path).to_owned()), missing.len() as u64)?;
    let shards: Option<Vec<Shard<'_>>> = missing.iter().map(|path| FileName::parse(file_name(path)).shard()).collect();
    Some(match shards.as_deref() {
        Some(shards @ [first, ..]) => {
            let mut ranges: Vec<(u32, u32)> = Vec::new();
            let numbers: BTreeSet<u32> = shards.iter().map(|shard| shard.number).collect();
            for number in numbers {
                match ranges.last_mut() {
                    Some((_, end)) if *end + 1 == number => *end = number,
                    _ => ranges.push((number, number)),
                }
            }
            numbers_line(set, &ranges, first.count, &names)
        }
        _ => {
            let verb = if missing.len() == 1 { "is" } else { "are" };
            format!("{names} {verb} missing, named by {}", text::printable(file_name(index)))
        }
    })
}

/// The first of so many names, and how many more there are; `None` without any.
fn shown_names(names: impl Iterator<Item = String>, count: u64) -> Option<String> {
    let mut shown: Vec<String> = names.take(MOST_NAMES).map(|name| text::printable(&name)).collect();
    let more = count.saturating_sub(shown.len() as u64);
    if more > 0 {
        shown.push(format!("{more} more"));
    }
    (!shown.is_empty()).then(|| shown.join(", "))
}

/// Numbers as people write them: `2, 4-6`.
fn numbers_line(set: &str, ranges: &[(u32, u32)], count: u32, names: &str) -> String {
    const MOST: usize = 8;
    let one = |(from, to): &(u32, u32)| if from == to { from.to_string() } else { format!("{from}-{to}") };
    let numbers: Vec<String> = ranges.iter().take(MOST).map(one).collect();
    let more = if ranges.len() > MOST { ", …" } else { "" };
    let single = matches!(ranges, [(from, to)] if from == to);
    let (noun, verb) = if single { ("shard", "is") } else { ("shards", "are") };
    let numbers = numbers.join(", ");
    format!("{}: {noun} {numbers}{more} of {count} {verb} missing ({names})", text::printable(set))
}

/// What a row says of a weights file by its header, one line each.
pub(super) fn header_lines(name: &str, metadata: &Metadata) -> Vec<String> {
    let mut lines = Vec::new();
    match metadata.structure {
        Structure::Truncated { missing: Some(1) } => lines.push(format!("{name} is cut short, 1 byte is missing")),
        Structure::Truncated { missing: Some(bytes) } => {
            lines.push(format!("{name} is cut short, {bytes} bytes are missing"));
        }
        Structure::Truncated { missing: None } => lines.push(format!("{name} is cut short")),
        Structure::Extra { bytes } => {
            let bytes = if bytes == 1 { "1 byte".to_owned() } else { format!("{bytes} bytes") };
            lines.push(format!("{name} is {bytes} longer than its header says"));
        }
        Structure::Whole | Structure::Partial => {}
    }
    lines.extend(metadata.warnings.iter().map(|warning| format!("{name}: {warning}")));
    lines
}

pub(super) fn folder(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(folder, _)| folder)
}

pub(super) fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

pub(super) fn join(folder: &str, name: &str) -> String {
    if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    fn indexed(path: &str, map: &[(&str, &str)]) -> Indexed {
        let map: Vec<String> = map.iter().map(|(tensor, file)| format!(r#""{tensor}":"{file}""#)).collect();
        let text = format!(r#"{{"weight_map":{{{}}}}}"#, map.join(","));
        Indexed { path: path.to_owned(), index: Arc::new(Index::parse(text.as_bytes()).unwrap()) }
    }

    #[test]
    fn what_indexes_name_is_looked_up() {
        let mut spoken = Spoken::default();
        assert!(!spoken.speaks_for("a/x.safetensors"));
        spoken.add(&indexed("a/model.safetensors.index.json", &[("t", "x.safetensors"), ("u", "below/y.safetensors")]));
        for (path, speaks) in [
            ("a/x.safetensors", true),
            ("x.safetensors", false),
            ("a/below/y.safetensors", true),
            ("a/model.safetensors", true),
            ("a/model-00001-of-00002.safetensors", true),
            ("a/model.gguf", false),
            ("model.safetensors", false),
        ] {
            assert_eq!(spoken.speaks_for(path), speaks, "{path}");
        }
    }

    #[test]
    fn files_that_differ_are_asked_about_together_and_told_in_their_order() {
        let index =
            indexed("model.safetensors.index.json", &[("a", "1"), ("b", "2"), ("c", "3"), ("d", "4"), ("e", "5")]);
        let names = |all: &[&str]| {
            let mut names = TensorNames::default();
            all.iter().for_each(|name| names.add(name.as_bytes()));
            Told { names: Some(names), ..Told::default() }
        };
        let files = [names(&["a"]), names(&["x"]), names(&["d"]), names(&["d", "y"])];
        let look = |path: &str| match path.parse::<usize>() {
            Ok(number) => files.get(number - 1).map_or(Look::Absent, Look::Here),
            Err(_) => Look::Absent,
        };
        let asked = RefCell::new(Vec::new());
        let absent = |files: &[(&str, String)]| {
            asked.borrow_mut().push(files.iter().map(|(name, _)| (*name).to_owned()).collect::<Vec<_>>());
            vec![Finding::Lacks("b".to_owned()), Finding::TooMuch]
        };
        let troubles = against_index(&index, &look, &absent);
        assert_eq!(*asked.borrow(), [["2", "4"]]);
        let told: Vec<_> = troubles.iter().map(|trouble| (trouble.path.as_str(), trouble.kind)).collect();
        let own = "model.safetensors.index.json";
        assert_eq!(told, [("2", Kind::Damage), ("3", Kind::Damage), ("5", Kind::Missing), (own, Kind::Note)]);
    }
}
