//! The vision projector that a GGUF model loads beside its weights.

use super::{Candidates, Selection, file_name, folder, is_gguf_model, names, not_found, order, refuse_listed};
use crate::error::Result;
use crate::model::{FileName, RemoteFile};

/// The precisions that publishers offer, the one that loaders are given by default first.
const PRECISIONS: [&str; 4] = ["f16", "bf16", "q8_0", "f32"];

/// The projector (`mmproj`) that belongs to GGUF weights in `files`: one in the folder of the weights or above it, in F16
/// where there are several, else BF16, Q8_0, F32, else the first by name.
#[must_use]
pub fn projector<'a>(files: &'a [RemoteFile], weights: &str) -> Option<&'a RemoteFile> {
    let above = |path: &str| {
        let (here, there) = (folder(path), folder(weights));
        here.is_empty() || here == there || there.starts_with(&format!("{here}/"))
    };
    files.iter().filter(|file| is_projector(file.path.as_str()) && above(file.path.as_str())).min_by_key(|file| {
        let path = file.path.as_str();
        (std::cmp::Reverse(folder(path).len()), precision_rank(file.path.file_name()), path)
    })
}

/// Where a projector of that name stands among others: loaders are given the lowest.
pub(crate) fn precision_rank(name: &str) -> usize {
    let lower = name.to_ascii_lowercase();
    // The label stands behind a separator: "bf16" is no "f16".
    let has =
        |label: &&str| lower.split(['-', '.', '_']).any(|part| part == *label) || lower.contains(&format!("-{label}."));
    PRECISIONS.iter().position(has).unwrap_or(PRECISIONS.len())
}

/// Whether a path names a projector.
#[must_use]
pub fn is_projector(path: &str) -> bool {
    let name = FileName::parse(file_name(path));
    name.is_gguf() && name.stem().to_ascii_lowercase().contains("mmproj")
}

/// Adds the projector to a selection that has none.
///
/// # Errors
/// [`crate::Error::FileNotFound`] when there is none for these weights, [`crate::Error::UnsafePath`] when one has a path that no
/// file here may get.
pub fn with_projector(listing: &Candidates<'_>, mut selection: Selection) -> Result<Selection> {
    if selection.files.iter().any(|file| is_projector(file.path.as_str())) {
        return Ok(selection);
    }
    refuse_listed(listing, is_projector)?;
    let weights = selection.files.iter().map(|file| file.path.as_str()).find(|path| is_gguf_model(path));
    let found = weights.and_then(|weights| projector(listing.files, weights));
    let Some(found) = found else {
        return Err(not_found(listing, "vision projector (mmproj) for this model".to_owned(), names(listing.files)));
    };
    selection.files.push(found.clone());
    selection.files.sort_by(|a, b| order(&a.path).cmp(&order(&b.path)));
    Ok(selection)
}

#[cfg(test)]
mod tests {
    use super::super::{Wanted, select};
    use super::*;
    use crate::model::RepoPath;

    fn files(paths: &[&str]) -> Vec<RemoteFile> {
        let path = |path: &&str| RepoPath::parse(path).unwrap();
        let file = |path| RemoteFile { path, size: 1, digest: None, blob_id: None, xet_hash: None };
        paths.iter().map(path).map(file).collect()
    }

    #[test]
    fn the_usual_precision_is_chosen_near_the_weights() {
        let of =
            |paths: &[&str], weights: &str| projector(&files(paths), weights).map(|file| file.path.as_str().to_owned());
        let top = ["mmproj-BF16.gguf", "mmproj-F16.gguf", "mmproj-F32.gguf"];
        assert_eq!(of(&top, "m-Q4_K_M.gguf").as_deref(), Some("mmproj-F16.gguf"));
        assert_eq!(of(&top, "Q4_K_M/m-00001-of-00002.gguf").as_deref(), Some("mmproj-F16.gguf"));
        assert_eq!(of(&["m.mmproj-q8_0.gguf", "z-mmproj.gguf"], "m.gguf").as_deref(), Some("m.mmproj-q8_0.gguf"));
        assert_eq!(of(&["a/mmproj-f16.gguf", "b/mmproj-f16.gguf"], "b/m.gguf").as_deref(), Some("b/mmproj-f16.gguf"));
        assert_eq!(of(&["a/mmproj-f16.gguf"], "m.gguf"), None);
        assert_eq!(of(&["mmproj.txt"], "m.gguf"), None);
    }

    #[test]
    fn it_joins_the_quantization_once() {
        let listed = files(&["m-Q4_K_M.gguf", "mmproj-F16.gguf", "README.md"]);
        let candidates = Candidates { repository: "org/name", files: &listed, refused: &[] };
        let chosen = with_projector(&candidates, select(&candidates, &Wanted::Default).unwrap()).unwrap();
        let paths = |selection: &Selection| -> Vec<String> {
            selection.files.iter().map(|file| file.path.to_string()).collect()
        };
        assert_eq!(paths(&chosen), ["m-Q4_K_M.gguf", "mmproj-F16.gguf"]);
        assert_eq!(paths(&with_projector(&candidates, chosen).unwrap()).len(), 2);
        let without = files(&["m-Q4_K_M.gguf"]);
        let candidates = Candidates { files: &without, ..candidates };
        let error = with_projector(&candidates, select(&candidates, &Wanted::Default).unwrap()).unwrap_err();
        assert!(error.to_string().contains("mmproj"), "{error}");
    }
}
