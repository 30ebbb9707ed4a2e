//! The set of files that a model in safetensors is.

use std::collections::BTreeSet;

use super::{Candidates, INDEX, all_paths, complete, file_name, folder, names, not_found, refuse_listed};
use crate::error::Result;
use crate::model::{FileName, RemoteFile, Role};

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
pub(super) fn safetensors_set<'a>(listing: &Candidates<'a>) -> Result<Vec<&'a RemoteFile>> {
    let original = |path: &str| path.split('/').next().is_some_and(|part| part == "original");
    let kept = loaded(all_paths(listing));
    if kept.is_empty() {
        return Err(not_found(listing, "GGUF or safetensors weights".to_owned(), names(listing.files)));
    }
    let weight_folders: BTreeSet<&str> = kept.iter().map(|path| folder(path)).collect();
    let foreign_folders: BTreeSet<&str> =
        all_paths(listing).filter(|path| OTHER_WEIGHTS.contains(&extension(path).as_str())).map(folder).collect();
    let wanted = |path: &str| {
        if kept.contains(path) {
            return true;
        }
        if original(path) {
            return false;
        }
        if let Some(stem) = file_name(path).strip_suffix(INDEX) {
            // Beside one whole file of its name nobody reads it.
            let whole = |other: &&str| folder(other) == folder(path) && plain_stem(file_name(other)) == Some(stem);
            return kept.iter().any(|other| folder(other) == folder(path)) && !kept.iter().any(whole);
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

/// The weights in safetensors among `paths` that a loader is given: no `original/`, no copy in another format or precision.
pub(crate) fn loaded<'a>(paths: impl IntoIterator<Item = &'a str>) -> BTreeSet<&'a str> {
    let original = |path: &str| path.split('/').next().is_some_and(|part| part == "original");
    let is_weights = |path: &&str| FileName::parse(file_name(path)).is_safetensors() && !original(path);
    let weights: Vec<&str> = paths.into_iter().filter(is_weights).collect();
    // Where the top has weights, folders hold exports and copies; a pipeline has its parts in folders and none at the top.
    let top = weights.iter().any(|path| folder(path).is_empty());
    let kept = weights.iter().copied().filter(|path| !top || folder(path).is_empty());
    kept.filter(|path| !is_copy(path, &weights)).collect()
}

/// The stem of a file that is no shard.
fn plain_stem(name: &str) -> Option<&str> {
    let parsed = FileName::parse(name);
    let stem = name.rsplit_once('.').map_or(name, |(stem, _)| stem);
    parsed.shard().is_none().then_some(stem)
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
