//! Which files of a listing a reference means. Pure: a listing goes in, files or a refusal come out.
//!
//! The rules follow what loaders need: a quantization with all its shards, or a safetensors set with its
//! configuration and tokenizer. Nothing is chosen silently where a person would have to choose: two different
//! models of one quantization are an error that names both.

use std::collections::{BTreeMap, BTreeSet};

use super::repo_path::wildcard;
use super::{FileName, Quantization, RemoteFile, RepoPath, Role, text};
use crate::error::{Error, Result};

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
    let begins = |path: &&'a str| name(path).shard().is_none_or(|shard| shard.number == 1);
    let first = |wanted: &dyn Fn(&&'a str) -> bool| paths.iter().copied().find(|path| wanted(path));
    let gguf = |path: &&'a str| name(path).is_gguf() && name(path).is_weights();
    first(&|path| gguf(path) && begins(path))
        .or_else(|| first(&|path| path.ends_with(INDEX)))
        .or_else(|| first(&|path| name(path).is_safetensors() && begins(path)))
        .or_else(|| first(&|path| !name(path).is_weights() && !name(path).is_gguf()))
        .or_else(|| paths.first().copied())
}

/// The numbers of the shards that are missing from sets of which at least one shard is in `paths`, as the names that
/// the missing files would have.
#[must_use]
pub fn missing_shards<'a>(paths: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let mut sets: BTreeMap<(String, String, u32), BTreeSet<u32>> = BTreeMap::new();
    for path in paths {
        let (folder, name) = path.rsplit_once('/').map_or(("", path), |(folder, name)| (folder, name));
        if let Some(shard) = FileName::parse(name).shard() {
            let extension = name.rsplit('.').next().unwrap_or_default();
            let prefix = if folder.is_empty() { shard.stem.clone() } else { format!("{folder}/{}", shard.stem) };
            sets.entry((prefix, extension.to_owned(), shard.count)).or_default().insert(shard.number);
        }
    }
    let mut missing = Vec::new();
    for ((prefix, extension, count), numbers) in sets {
        let absent = (1..=count).filter(|number| !numbers.contains(number));
        missing.extend(absent.map(|number| format!("{prefix}-{number:05}-of-{count:05}.{extension}")));
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

const INDEX: &str = ".safetensors.index.json";

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
    let shard = FileName::parse(name).shard().cloned();
    let wanted = |candidate: &str| {
        candidate == path.as_str()
            || shard.as_ref().is_some_and(|shard| {
                folder(candidate) == folder(path.as_str())
                    && same_extension(candidate, name)
                    && FileName::parse(file_name(candidate))
                        .shard()
                        .is_some_and(|other| other.stem == shard.stem && other.count == shard.count)
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

/// Formats that hold weights and that a safetensors set leaves out.
const OTHER_WEIGHTS: [&str; 14] = [
    "bin",
    "pt",
    "pth",
    "ckpt",
    "h5",
    "msgpack",
    "onnx",
    "onnx_data",
    "ot",
    "tflite",
    "mlmodel",
    "gguf",
    "ggml",
    "safetensors",
];

/// Extensions of small files beside the weights that loaders read: configuration, vocabularies, templates, code.
const COMPANIONS: [&str; 6] = ["json", "jinja", "model", "tiktoken", "txt", "py"];

fn extension(path: &str) -> String {
    file_name(path).rsplit_once('.').map(|(_, extension)| extension.to_ascii_lowercase()).unwrap_or_default()
}

/// The weights in safetensors with configuration and tokenizer; no `original/`, no copy in another format or precision.
fn safetensors_set<'a>(listing: &Candidates<'a>) -> Result<Vec<&'a RemoteFile>> {
    let original = |path: &str| path.split('/').next().is_some_and(|part| part == "original");
    let weights: Vec<&str> = all_paths(listing)
        .filter(|path| FileName::parse(file_name(path)).is_safetensors() && !original(path))
        .collect();
    if weights.is_empty() {
        return Err(not_found(listing, "GGUF or safetensors weights".to_owned(), names(listing.files)));
    }
    // Where the top has weights, folders hold exports and copies; a pipeline has its parts in folders and none at the top.
    let top = weights.iter().any(|path| folder(path).is_empty());
    let kept: BTreeSet<&str> = weights
        .iter()
        .copied()
        .filter(|path| !top || folder(path).is_empty())
        .filter(|path| !is_copy(path, &weights))
        .collect();
    let weight_folders: BTreeSet<&str> = kept.iter().map(|path| folder(path)).collect();
    let foreign_folders: BTreeSet<&str> =
        all_paths(listing).filter(|path| OTHER_WEIGHTS.contains(&extension(path).as_str())).map(folder).collect();
    let sharded: BTreeSet<String> = kept
        .iter()
        .filter_map(|path| {
            let name = FileName::parse(file_name(path));
            name.shard().map(|shard| format!("{}/{}", folder(path), shard.stem))
        })
        .collect();
    let wanted = |path: &str| {
        if kept.contains(path) {
            return true;
        }
        if original(path) {
            return false;
        }
        if let Some(stem) = file_name(path).strip_suffix(INDEX) {
            return sharded.contains(&format!("{}/{stem}", folder(path)));
        }
        if file_name(path).ends_with(".index.json") && OTHER_WEIGHTS.iter().any(|e| path.contains(&format!(".{e}."))) {
            return false;
        }
        if weight_folders.contains(folder(path)) || folder(path).is_empty() {
            return COMPANIONS.contains(&extension(path).as_str()) && !is_prose(file_name(path));
        }
        // Small parts without weights of their own, such as a pooling layer's configuration.
        !foreign_folders.contains(folder(path)) && matches!(Role::of(file_name(path)), Role::Config | Role::Tokenizer)
    };
    refuse_listed(listing, wanted)?;
    let chosen: Vec<&RemoteFile> = listing.files.iter().filter(|file| wanted(file.path.as_str())).collect();
    complete(listing, chosen)
}

/// Whether the weights are there a second time: `consolidated` files beside the usual ones, a precision variant beside the
/// plain file, shards beside one whole file.
fn is_copy(path: &str, weights: &[&str]) -> bool {
    let here = folder(path);
    let name = FileName::parse(file_name(path));
    let stem = name.stem();
    let beside = |wanted: &dyn Fn(&FileName<'_>) -> bool| {
        weights
            .iter()
            .any(|other| folder(other) == here && *other != path && wanted(&FileName::parse(file_name(other))))
    };
    if stem.starts_with("consolidated") && beside(&|other| !other.stem().starts_with("consolidated")) {
        return true;
    }
    if let Some((plain, variant)) = stem.rsplit_once('.')
        && ["fp16", "bf16", "fp32", "non_ema"].contains(&variant)
        && beside(&|other| other.stem() == plain)
    {
        return true;
    }
    name.shard().is_some() && beside(&|other| other.shard().is_none() && other.stem() == stem)
}

/// Text for people that shares an extension with vocabularies.
fn is_prose(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    lower.ends_with(".txt")
        && ["readme", "license", "licence", "notice", "requirements", "use_policy", "changelog"]
            .iter()
            .any(|word| lower.starts_with(word))
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn files(paths: &[&str]) -> Vec<RemoteFile> {
        let mut files: Vec<RemoteFile> = paths
            .iter()
            .map(|path| RemoteFile {
                path: RepoPath::parse(path).unwrap(),
                size: 10,
                digest: None,
                blob_id: None,
                xet_hash: None,
            })
            .collect();
        files.sort_by(|a, b| a.path.cmp(&b.path));
        files
    }

    fn chosen_with(paths: &[&str], refused: &[&str], wanted: &Wanted) -> Result<Vec<String>> {
        let files = files(paths);
        let refused: Vec<(String, String)> =
            refused.iter().map(|path| ((*path).to_owned(), "it has a '.' or '..' part".to_owned())).collect();
        let listing = Candidates { repository: "org/name", files: &files, refused: &refused };
        select(&listing, wanted).map(|selection| selection.files.iter().map(|f| f.path.to_string()).collect())
    }

    fn chosen(paths: &[&str], wanted: &Wanted) -> Result<Vec<String>> {
        chosen_with(paths, &[], wanted)
    }

    fn quantization(label: &str) -> Wanted {
        Wanted::Quantization(label.to_owned())
    }

    const GGUF: [&str; 9] = [
        "README.md",
        "config.json",
        "m-F16-00001-of-00002.gguf",
        "m-F16-00002-of-00002.gguf",
        "m.Q2_K.gguf",
        "m.q4_k_m.gguf",
        "mmproj-m-Q8_0.gguf",
        "Q8_0/m-Q8_0-00001-of-00002.gguf",
        "Q8_0/m-Q8_0-00002-of-00002.gguf",
    ];

    #[test]
    fn a_quantization_is_its_files_and_nothing_else() {
        assert_eq!(chosen(&GGUF, &quantization("Q4_K_M")).unwrap(), ["m.q4_k_m.gguf"]);
        assert_eq!(
            chosen(&GGUF, &quantization("fp16")).unwrap(),
            ["m-F16-00001-of-00002.gguf", "m-F16-00002-of-00002.gguf"]
        );
        assert_eq!(
            chosen(&GGUF, &quantization("q8_0")).unwrap(),
            ["Q8_0/m-Q8_0-00001-of-00002.gguf", "Q8_0/m-Q8_0-00002-of-00002.gguf"]
        );
    }

    #[test]
    fn a_folder_may_tell_the_quantization() {
        let paths = ["Q5_K_M/weights-00001-of-00002.gguf", "Q5_K_M/weights-00002-of-00002.gguf", "Q6_K/weights.gguf"];
        assert_eq!(chosen(&paths, &quantization("Q5_K_M")).unwrap().len(), 2);
        assert_eq!(chosen(&paths, &quantization("Q6_K")).unwrap(), ["Q6_K/weights.gguf"]);
    }

    #[test]
    fn the_default_is_q4_k_m_then_q8_0_then_the_first() {
        assert_eq!(chosen(&GGUF, &Wanted::Default).unwrap(), ["m.q4_k_m.gguf"]);
        assert_eq!(chosen(&["m.Q2_K.gguf", "m.Q8_0.gguf"], &Wanted::Default).unwrap(), ["m.Q8_0.gguf"]);
        assert_eq!(chosen(&["m.Q2_K.gguf", "m.Q6_K.gguf"], &Wanted::Default).unwrap(), ["m.Q2_K.gguf"]);
        assert_eq!(chosen(&["plain.gguf", "README.md"], &Wanted::Default).unwrap(), ["plain.gguf"]);
    }

    #[test]
    fn the_exact_label_comes_before_a_publishers_prefix() {
        let paths = ["m-UD-Q4_K_XL.gguf", "m-Q4_K_XL.gguf"];
        assert_eq!(chosen(&paths, &quantization("Q4_K_XL")).unwrap(), ["m-Q4_K_XL.gguf"]);
        assert_eq!(chosen(&paths, &quantization("UD-Q4_K_XL")).unwrap(), ["m-UD-Q4_K_XL.gguf"]);
        assert_eq!(chosen(&paths[..1], &quantization("Q4_K_XL")).unwrap(), ["m-UD-Q4_K_XL.gguf"]);
    }

    #[test]
    fn a_tag_that_is_no_label_is_the_last_token_of_the_name() {
        let paths = ["Phi-3-mini-4k-instruct-q4.gguf", "Phi-3-mini-4k-instruct-fp16.gguf"];
        assert_eq!(chosen(&paths, &quantization("Q4")).unwrap(), ["Phi-3-mini-4k-instruct-q4.gguf"]);
        assert_eq!(chosen(&paths, &Wanted::Default).unwrap(), ["Phi-3-mini-4k-instruct-fp16.gguf"]);
    }

    #[test]
    fn an_unknown_quantization_lists_what_there_is() {
        let error = chosen(&GGUF, &quantization("Q3_K_S")).unwrap_err();
        assert!(matches!(&error, Error::FileNotFound { .. }));
        let text = error.to_string();
        assert!(text.contains("quantization 'Q3_K_S'") && text.contains("Q2_K") && text.contains("Q8_0"), "{text}");
    }

    #[test]
    fn two_models_of_one_quantization_are_named_not_guessed() {
        let error = chosen(&["a-7b.Q4_K_M.gguf", "a-13b.Q4_K_M.gguf"], &Wanted::Default).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("--file 'a-7b.Q4_K_M.gguf'") && text.contains("a-13b"), "{text}");
    }

    #[test]
    fn an_incomplete_set_names_what_is_missing() {
        let paths = ["m-Q4_K_M-00001-of-00003.gguf", "m-Q4_K_M-00003-of-00003.gguf"];
        for wanted in [Wanted::Default, quantization("Q4_K_M"), Wanted::File(RepoPath::parse(paths[0]).unwrap())] {
            let text = chosen(&paths, &wanted).unwrap_err().to_string();
            assert!(text.contains("m-Q4_K_M-00002-of-00003.gguf"), "{text}");
        }
    }

    #[test]
    fn a_named_file_comes_alone_and_a_shard_with_its_set() {
        let file = |path: &str| Wanted::File(RepoPath::parse(path).unwrap());
        assert_eq!(chosen(&GGUF, &file("m.Q2_K.gguf")).unwrap(), ["m.Q2_K.gguf"]);
        assert_eq!(chosen(&GGUF, &file("mmproj-m-Q8_0.gguf")).unwrap(), ["mmproj-m-Q8_0.gguf"]);
        assert_eq!(chosen(&GGUF, &file("m-F16-00002-of-00002.gguf")).unwrap().len(), 2);
        assert!(chosen(&GGUF, &file("other.gguf")).unwrap_err().to_string().contains("m.Q2_K.gguf"));
    }

    #[test]
    fn patterns_match_whole_paths() {
        let patterns = |list: &[&str]| Wanted::Patterns(list.iter().map(|p| (*p).to_owned()).collect());
        assert_eq!(chosen(&GGUF, &patterns(&["*"])).unwrap().len(), GGUF.len());
        assert_eq!(chosen(&GGUF, &patterns(&["Q8_0/*", "*.json"])).unwrap().len(), 3);
        assert_eq!(chosen(&GGUF, &patterns(&["mmproj*"])).unwrap(), ["mmproj-m-Q8_0.gguf"]);
        assert!(chosen(&GGUF, &patterns(&["*.json", "*.onnx"])).unwrap_err().to_string().contains("*.onnx"));
        assert!(chosen(&GGUF, &patterns(&["*", "config.json"])).is_ok(), "a pattern may match what another has");
    }

    #[test]
    fn safetensors_come_with_configuration_and_tokenizer_and_without_copies() {
        let paths = [
            ".gitattributes",
            "README.md",
            "LICENSE.txt",
            "config.json",
            "generation_config.json",
            "tokenizer.json",
            "tokenizer_config.json",
            "merges.txt",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "model.safetensors.index.json",
            "consolidated.safetensors",
            "pytorch_model.bin",
            "pytorch_model.bin.index.json",
            "original/consolidated.00.pth",
            "original/params.json",
            "onnx/model.onnx",
            "onnx/config.json",
            "1_Pooling/config.json",
        ];
        assert_eq!(
            chosen(&paths, &Wanted::Default).unwrap(),
            [
                "model-00001-of-00002.safetensors",
                "model-00002-of-00002.safetensors",
                "1_Pooling/config.json",
                "config.json",
                "generation_config.json",
                "model.safetensors.index.json",
                "merges.txt",
                "tokenizer.json",
                "tokenizer_config.json",
            ]
        );
    }

    #[test]
    fn a_pipeline_keeps_the_plain_precision_of_each_part() {
        let paths = [
            "model_index.json",
            "unet/config.json",
            "unet/diffusion_pytorch_model.safetensors",
            "unet/diffusion_pytorch_model.fp16.safetensors",
            "vae/config.json",
            "vae/diffusion_pytorch_model.safetensors",
            "vae/diffusion_pytorch_model.bin",
        ];
        let files = chosen(&paths, &Wanted::Default).unwrap();
        assert_eq!(files.len(), 5, "{files:?}");
        assert!(!files.iter().any(|path| path.contains("fp16") || path.ends_with(".bin")), "{files:?}");
    }

    #[test]
    fn a_repository_without_weights_says_so() {
        let text = chosen(&["README.md", "pytorch_model.bin"], &Wanted::Default).unwrap_err().to_string();
        assert!(text.contains("GGUF or safetensors weights") && text.contains("pytorch_model.bin"), "{text}");
    }

    #[test]
    fn one_hostile_path_refuses_the_whole_selection() {
        let everything = Wanted::Patterns(vec!["*".to_owned()]);
        let cases: [(&[&str], &[&str], Wanted); 8] = [
            (&["m.Q4_K_M.gguf"], &["../x.Q4_K_M.gguf"], Wanted::Default),
            (&["m.Q4_K_M.gguf"], &["..\\x.Q4_K_M.gguf"], quantization("Q4_K_M")),
            (&["m.Q2_K.gguf"], &["/x.Q4_K_M.gguf"], Wanted::Default),
            (&["m.safetensors", "config.json"], &["../config.json"], everything.clone()),
            (&["m.gguf", "M.GGUF"], &[], everything.clone()),
            (&["a/b", "a"], &[], everything.clone()),
            (&[".cache/llorch-models/source.json", "m.gguf"], &[], everything.clone()),
            (&["m.gguf.0123456789abcdef.llorch", "m.gguf"], &[], everything),
        ];
        for (paths, refused, wanted) in cases {
            let result = chosen_with(paths, refused, &wanted);
            assert!(matches!(result, Err(Error::UnsafePath { .. })), "{paths:?} {refused:?}: {result:?}");
        }
    }

    #[test]
    fn what_is_not_selected_may_be_hostile() {
        assert_eq!(chosen_with(&["m.Q4_K_M.gguf"], &["../README.md"], &Wanted::Default).unwrap(), ["m.Q4_K_M.gguf"]);
    }

    #[test]
    fn the_principal_file_is_never_a_sidecar_or_the_middle_of_a_set() {
        let cases: [(&[&str], &str); 6] = [
            (&["mmproj-a.gguf", "m-00002-of-00002.gguf", "m-00001-of-00002.gguf"], "m-00001-of-00002.gguf"),
            (&["z.gguf", "b.gguf", "config.json"], "b.gguf"),
            (&["model-00001-of-00002.safetensors", "model.safetensors.index.json"], "model.safetensors.index.json"),
            (&["model.safetensors", "config.json"], "model.safetensors"),
            (&["mmproj-a.gguf", "README.md"], "README.md"),
            (&["mmproj-a.gguf"], "mmproj-a.gguf"),
        ];
        for (paths, wanted) in cases {
            assert_eq!(principal(paths.iter().copied()), Some(wanted), "{paths:?}");
        }
        assert_eq!(principal([]), None);
    }

    proptest! {
        #[test]
        fn a_selection_is_part_of_the_listing_and_whole(
            paths in prop::collection::btree_set("(Q8_0/|a/|original/)?[ab](-Q4_K_M|-Q8_0|-f16)?(-0000[123]-of-0000[23])?\\.(gguf|safetensors|json)", 1..12),
            label in prop_oneof![Just("Q4_K_M"), Just("Q8_0"), Just("F16")],
        ) {
            let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
            for wanted in [Wanted::Default, quantization(label)] {
                if let Ok(selected) = chosen(&paths, &wanted) {
                    prop_assert!(!selected.is_empty());
                    prop_assert!(selected.iter().all(|path| paths.contains(&path.as_str())));
                    prop_assert!(missing_shards(selected.iter().map(String::as_str)).is_empty());
                    if matches!(wanted, Wanted::Quantization(_)) {
                        let labels: Vec<_> = selected.iter().map(|path| label_of(path)).collect();
                        prop_assert!(labels.iter().all(|found| found.as_ref().is_some_and(|found| found.is(label))), "{:?}", selected);
                    }
                }
            }
        }

        #[test]
        fn any_text_as_pattern_is_safe(pattern in any::<String>()) {
            let _ = chosen(&GGUF, &Wanted::Patterns(vec![pattern]));
        }
    }
}
