//! Which files of a listing a reference means. Pure: a listing goes in, files or a refusal come out.
//!
//! The rules follow what loaders need: a quantization with all its shards, or a safetensors set with its
//! configuration and tokenizer. Nothing is chosen silently where a person would have to choose: two different
//! models of one quantization are an error that names both.

mod projector;
mod safetensors;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use super::repo_path::wildcard;
use super::{FileName, Missing, Quantization, RemoteFile, RepoPath, Role, Shard, text};
use crate::error::{Error, Result};
pub(crate) use projector::precision_rank;
pub use projector::{is_projector, projector, with_projector};
pub(crate) use safetensors::loaded;
use safetensors::safetensors_set;

/// What is asked of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Nothing in particular: `Q4_K_M`, else `Q8_0`, else the first quantization, else the safetensors set.
    Default,
    /// One quantization with all its shards.
    Quantization(String),
    /// One file, and the other shards of its set if it is a shard.
    File(RepoPath),
    /// Every file whose whole path matches one of the patterns (`*` crosses `/`).
    Patterns(Vec<String>),
}

/// A listing, as far as a selection needs it.
#[derive(Clone, Copy, Debug)]
pub struct Candidates<'a> {
    /// `org/name`, for messages.
    pub repository: &'a str,
    /// The files whose paths are safe.
    pub files: &'a [RemoteFile],
    /// Raw paths that no file may get, each with the reason.
    pub refused: &'a [(String, String)],
}

/// The files that are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection {
    /// Weights first (shards in their order), then the rest by path. Never empty.
    pub files: Vec<RemoteFile>,
    /// The quantization of the weights, if they have exactly one that is known.
    pub quantization: Option<Quantization>,
}

/// Chooses files from a listing.
///
/// # Errors
/// [`Error::FileNotFound`] with what there is instead; [`Error::Ambiguous`] when several models share the quantization;
/// [`Error::Damaged`] when the listing lacks shards of the set; [`Error::UnsafePath`] when the selection would include a
/// path that cannot be written safely here. In every case nothing is selected.
pub fn select(listing: &Candidates<'_>, wanted: &Wanted) -> Result<Selection> {
    let chosen = match wanted {
        Wanted::Patterns(patterns) => by_patterns(listing, patterns)?,
        Wanted::File(path) => by_file(listing, path)?,
        Wanted::Quantization(label) => by_quantization(listing, label)?,
        Wanted::Default => by_default(listing)?,
    };
    refuse_unsafe(&chosen)?;
    let mut files: Vec<RemoteFile> = chosen.into_iter().cloned().collect();
    files.sort_by(|a, b| order(&a.path).cmp(&order(&b.path)));
    let quantization = common_quantization(&files);
    Ok(Selection { files, quantization })
}

/// The file that stands for a set of paths: the first shard or file of the first GGUF by name, for safetensors the
/// index or the first file, else the first path. Sidecars and the middle of a set never do, as long as there is
/// anything else.
#[must_use]
pub fn principal<'a>(paths: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let mut paths: Vec<&str> = paths.into_iter().collect();
    paths.sort_unstable();
    let name = |path: &&'a str| FileName::parse(path.rsplit('/').next().unwrap_or(path));
    let begins = |path: &&'a str| name(path).shard().is_none_or(|shard| shard.is_first());
    let first = |wanted: &dyn Fn(&&'a str) -> bool| paths.iter().copied().find(|path| wanted(path));
    let gguf = |path: &&'a str| name(path).is_gguf() && name(path).is_weights();
    first(&|path| gguf(path) && begins(path))
        .or_else(|| first(&|path| path.ends_with(INDEX)))
        .or_else(|| first(&|path| name(path).is_safetensors() && begins(path)))
        .or_else(|| first(&|path| !name(path).is_weights() && !name(path).is_gguf()))
        .or_else(|| paths.first().copied())
}

/// The shards that are missing from sets of which at least one shard is in `paths`, as the names that the missing files would
/// have; no more than the first thousand.
#[must_use]
pub fn missing_shards<'a>(paths: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let mut sets: BTreeMap<(String, &str, _), Vec<Shard<'_>>> = BTreeMap::new();
    for path in paths {
        let (folder, name) = path.rsplit_once('/').map_or(("", path), |(folder, name)| (folder, name));
        if let Some(shard) = FileName::parse(name).shard() {
            let extension = name.rsplit('.').next().unwrap_or_default();
            let folder = if folder.is_empty() { String::new() } else { format!("{folder}/") };
            sets.entry((folder, extension, shard.set())).or_default().push(shard);
        }
    }
    let mut missing = Vec::new();
    for ((folder, extension, _), shards) in sets {
        let gone = Missing::of_shards(&shards, || extension.to_owned());
        let room = MOST_MISSING.saturating_sub(missing.len());
        missing.extend(gone.names().take(room).map(|name| format!("{folder}{name}")));
    }
    missing
}

/// The quantizations of the GGUF models in a listing, in the order of its paths, each once.
#[must_use]
pub fn quantizations(files: &[RemoteFile]) -> Vec<Quantization> {
    let mut labels = Vec::new();
    for file in files.iter().filter(|file| is_gguf_model(file.path.as_str())) {
        if let Some(label) = Quantization::of_path(&file.path).filter(|label| !labels.contains(label)) {
            labels.push(label);
        }
    }
    labels
}

/// Most missing shards that are named, of all sets together: a name may claim a million.
const MOST_MISSING: usize = 1000;

pub(crate) const INDEX: &str = ".safetensors.index.json";

fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

fn folder(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(folder, _)| folder)
}

fn is_gguf_model(path: &str) -> bool {
    let name = FileName::parse(file_name(path));
    name.is_gguf() && name.is_weights()
}

/// The label that a raw path shows; refused paths have no [`RepoPath`].
fn label_of(path: &str) -> Option<Quantization> {
    let path = path.replace('\\', "/");
    Quantization::of_file_name(file_name(&path))
        .or_else(|| Quantization::of_file_name(&format!("{}.gguf", file_name(folder(&path)))))
}

/// Weights, then what describes them, then the rest; shards and paths in their order within each.
fn order(path: &RepoPath) -> (u8, &str) {
    let rank = match Role::of(path.file_name()) {
        Role::Weights | Role::Shard => 0,
        Role::Mmproj => 1,
        Role::Config => 2,
        Role::Tokenizer => 3,
        Role::Other => 4,
    };
    (rank, path.as_str())
}

fn common_quantization(files: &[RemoteFile]) -> Option<Quantization> {
    match quantizations(files).as_slice() {
        [one] => Some(one.clone()),
        _ => None,
    }
}

fn by_patterns<'a>(listing: &Candidates<'a>, patterns: &[String]) -> Result<Vec<&'a RemoteFile>> {
    let mut chosen: BTreeMap<&RepoPath, &RemoteFile> = BTreeMap::new();
    for pattern in patterns {
        refuse_listed(listing, |path| wildcard(path, pattern))?;
        let matching: Vec<&RemoteFile> = listing.files.iter().filter(|file| file.path.matches(pattern)).collect();
        if matching.is_empty() {
            let what = format!("file that matches '{}'", text::printable(pattern));
            return Err(not_found(listing, what, names(listing.files)));
        }
        chosen.extend(matching.into_iter().map(|file| (&file.path, file)));
    }
    if chosen.is_empty() {
        return Err(not_found(listing, "files".to_owned(), Vec::new()));
    }
    Ok(chosen.into_values().collect())
}

fn by_file<'a>(listing: &Candidates<'a>, path: &RepoPath) -> Result<Vec<&'a RemoteFile>> {
    let name = path.file_name();
    let shard = FileName::parse(name).shard();
    let wanted = |candidate: &str| {
        candidate == path.as_str()
            || shard.is_some_and(|shard| {
                folder(candidate) == folder(path.as_str())
                    && same_extension(candidate, name)
                    && FileName::parse(file_name(candidate)).shard().is_some_and(|other| other.is_of_set(&shard))
            })
    };
    refuse_listed(listing, wanted)?;
    let chosen: Vec<&RemoteFile> = listing.files.iter().filter(|file| wanted(file.path.as_str())).collect();
    if !chosen.iter().any(|file| file.path == *path) {
        return Err(not_found(listing, format!("file '{path}'"), names(listing.files)));
    }
    complete(listing, chosen)
}

fn same_extension(a: &str, b: &str) -> bool {
    let extension = |name: &str| name.rsplit('.').next().map(str::to_ascii_lowercase);
    extension(a) == extension(b)
}

fn by_quantization<'a>(listing: &Candidates<'a>, wanted: &str) -> Result<Vec<&'a RemoteFile>> {
    let exact = Quantization::new(wanted);
    let labels = all_labels(listing);
    let label = labels.iter().find(|label| **label == exact).or_else(|| labels.iter().find(|label| label.is(wanted)));
    match label {
        Some(label) => models_of(listing, |path| label_of(path).as_ref() == Some(label)),
        // Publishers also write tags that are no labels ("-q4.gguf"): the last token of the name then decides.
        None => {
            let tagged = |path: &str| {
                label_of(path).is_none()
                    && FileName::parse(file_name(path))
                        .stem()
                        .rsplit(['-', '.'])
                        .next()
                        .is_some_and(|tag| tag.eq_ignore_ascii_case(wanted))
            };
            if listing.files.iter().any(|file| is_gguf_model(file.path.as_str()) && tagged(file.path.as_str())) {
                return models_of(listing, tagged);
            }
            let available = quantizations(listing.files).iter().map(ToString::to_string).collect();
            Err(not_found(listing, format!("quantization '{}'", text::printable(wanted)), available))
        }
    }
}

fn by_default<'a>(listing: &Candidates<'a>) -> Result<Vec<&'a RemoteFile>> {
    let labels = all_labels(listing);
    if let Some(label) = Quantization::default_of(&labels) {
        return models_of(listing, |path| label_of(path).as_ref() == Some(label));
    }
    if all_paths(listing).any(is_gguf_model) {
        return models_of(listing, |_| true);
    }
    safetensors_set(listing)
}

fn all_paths<'a>(listing: &Candidates<'a>) -> impl Iterator<Item = &'a str> {
    listing.files.iter().map(|file| file.path.as_str()).chain(listing.refused.iter().map(|(path, _)| path.as_str()))
}

/// Labels of every GGUF model, refused ones included: what would have been chosen decides what is refused.
fn all_labels(listing: &Candidates<'_>) -> Vec<Quantization> {
    let mut paths: Vec<&str> = all_paths(listing).filter(|path| is_gguf_model(path)).collect();
    paths.sort_unstable();
    let mut labels = Vec::new();
    for label in paths.into_iter().filter_map(label_of) {
        if !labels.contains(&label) {
            labels.push(label);
        }
    }
    labels
}

/// The one GGUF model among the files that `wanted` accepts.
fn models_of<'a>(listing: &Candidates<'a>, wanted: impl Fn(&str) -> bool) -> Result<Vec<&'a RemoteFile>> {
    refuse_listed(listing, |path| is_gguf_model(path) && wanted(path))?;
    let mut sets: BTreeMap<(String, u32), Vec<&RemoteFile>> = BTreeMap::new();
    for file in listing.files.iter().filter(|file| is_gguf_model(file.path.as_str()) && wanted(file.path.as_str())) {
        let name = FileName::parse(file.path.file_name());
        let count = name.shard().map_or(0, |shard| shard.count);
        let stem = format!("{}/{}", folder(file.path.as_str()), name.stem());
        sets.entry((stem, count)).or_default().push(file);
    }
    let mut sets: Vec<Vec<&RemoteFile>> = sets.into_values().collect();
    match sets.len() {
        0 => Err(not_found(listing, "GGUF model".to_owned(), names(listing.files))),
        1 => complete(listing, sets.swap_remove(0)),
        _ => Err(Error::Ambiguous {
            reference: listing.repository.to_owned(),
            choices: sets
                .iter()
                .filter_map(|set| set.first())
                .map(|file| {
                    let path = file.path.as_str();
                    match path.rfind("-00001-of-") {
                        Some(at) => format!("--file '{}-*'", &path[..at]),
                        None => format!("--file '{path}'"),
                    }
                })
                .collect(),
        }),
    }
}

fn complete<'a>(listing: &Candidates<'_>, files: Vec<&'a RemoteFile>) -> Result<Vec<&'a RemoteFile>> {
    let missing = missing_shards(files.iter().map(|file| file.path.as_str()));
    if missing.is_empty() {
        return Ok(files);
    }
    Err(Error::Damaged(format!(
        "{} lacks {}: the set is incomplete on the hub; choose another quantization or name files with --file",
        listing.repository,
        shortened(&missing)
    )))
}

fn shortened(names: &[String]) -> String {
    const SHOWN: usize = 4;
    let mut shown = names.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN {
        shown.push_str(&format!(" and {} more", names.len() - SHOWN));
    }
    shown
}

fn not_found(listing: &Candidates<'_>, what: String, available: Vec<String>) -> Error {
    Error::FileNotFound { repository: listing.repository.to_owned(), what, available }
}

/// Paths for the hint of an error: the weights if there are any, at most a screenful.
fn names(files: &[RemoteFile]) -> Vec<String> {
    const SHOWN: usize = 12;
    let weights: Vec<&RemoteFile> =
        files.iter().filter(|file| matches!(Role::of(file.path.file_name()), Role::Weights | Role::Shard)).collect();
    let shown: Vec<&RemoteFile> = if weights.is_empty() { files.iter().collect() } else { weights };
    let mut names: Vec<String> = shown.iter().take(SHOWN).map(|file| file.path.to_string()).collect();
    if shown.len() > SHOWN {
        names.push(format!("{} more", shown.len() - SHOWN));
    }
    names
}

/// Refuses the whole selection when it would include a path that the listing refused.
fn refuse_listed(listing: &Candidates<'_>, wanted: impl Fn(&str) -> bool) -> Result<()> {
    match listing.refused.iter().find(|(path, _)| wanted(path) || wanted(&path.replace('\\', "/"))) {
        Some((path, reason)) => Err(Error::UnsafePath { path: shown(path), reason: reason.clone() }),
        None => Ok(()),
    }
}

fn shown(path: &str) -> String {
    text::printable(&path.chars().take(120).collect::<String>())
}

/// Refuses paths that are ours or another tool's bookkeeping, that differ only by case (one file on many file systems), or of
/// which one would be the folder of another.
fn refuse_unsafe(files: &[&RemoteFile]) -> Result<()> {
    let refuse = |path: &RepoPath, reason: String| Err(Error::UnsafePath { path: shown(path.as_str()), reason });
    let mut seen: BTreeMap<String, &RepoPath> = BTreeMap::new();
    for file in files {
        if let Some(reason) = reserved(&file.path) {
            return refuse(&file.path, reason.to_owned());
        }
        if let Some(other) = seen.insert(file.path.as_str().to_lowercase(), &file.path) {
            return refuse(&file.path, format!("it differs from '{}' only by case", shown(other.as_str())));
        }
    }
    for (lower, path) in &seen {
        let mut parent = lower.as_str();
        while let Some((folder, _)) = parent.rsplit_once('/') {
            if let Some(file) = seen.get(folder) {
                return refuse(path, format!("'{}' would have to be a file and a folder", shown(file.as_str())));
            }
            parent = folder;
        }
    }
    Ok(())
}

/// Why a path of the hub may not be written into a model's folder, whatever else is chosen.
#[must_use]
pub fn reserved(path: &RepoPath) -> Option<&'static str> {
    let lower = path.as_str().to_lowercase();
    if lower.split('/').any(|part| matches!(part, ".cache" | ".huggingface")) {
        return Some("it lies in a folder of bookkeeping");
    }
    if lower.ends_with(".llorch") || lower.ends_with(".llorch.json") {
        return Some("its name is kept for partial files");
    }
    None
}
