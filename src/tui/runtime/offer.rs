//! The files of a repository → what a person can choose from.

use std::collections::BTreeSet;
use std::path::Path;

use crate::model::selection::{Candidates, Selection, Wanted, principal, projector, quantizations, select};
use crate::model::{FileName, Reference, RepoPath, text};
use crate::provisioner::{RemoteHeader, RemoteModel};
use crate::tui::msg::{Choice, Offer};

/// What `remote` offers to somebody who typed `typed`: every quantization, and what the reference means.
pub(super) fn offer(typed: &str, remote: &RemoteModel, folder: &Path, available: Option<u64>, endpoint: &str) -> Offer {
    let marked = remote.marked.iter().map(RepoPath::as_str).find(|path| path.ends_with(".gguf"));
    let repository = &remote.repository;
    let candidates = Candidates { repository: &repository.id, files: &remote.files, refused: &remote.refused };
    let revision =
        Reference::parse_at(typed, endpoint).ok().and_then(|reference| reference.revision().map(str::to_owned));
    let mut default = None;
    let mut choices = Vec::new();
    // Files that some choice brings.
    let mut brought: BTreeSet<RepoPath> = BTreeSet::new();
    for label in quantizations(&remote.files) {
        let selected = select(&candidates, &Wanted::Quantization(label.as_str().to_owned()));
        let mut reference = format!("{}:{label}", repository.id);
        if let Some(revision) = &revision {
            reference.push_str(&format!("@{revision}"));
        }
        if let Ok(selection) = &selected
            && is_marked(selection, remote)
        {
            default = Some(choices.len());
            typed.clone_into(&mut reference);
        }
        if let Ok(selection) = &selected {
            brought.extend(selection.files.iter().map(|file| file.path.clone()));
        }
        choices.push(match selected {
            Ok(selection) => choice(label.to_string(), reference, &selection),
            Err(error) => Choice {
                label: label.to_string(),
                reference,
                files: 0,
                principal: String::new(),
                bytes: 0,
                weights: 0,
                problem: Some(error.to_string()),
                file: None,
            },
        });
    }
    if default.is_none() && !remote.marked.is_empty() {
        // Weights whose names tell no quantization, or a set that is no GGUF.
        let files = remote.files.iter().filter(|file| remote.marked.contains(&file.path)).cloned().collect();
        let selection = Selection { files, quantization: None };
        let name = principal(selection.files.iter().map(|file| file.path.as_str())).unwrap_or_default();
        // Its name stands beside it and tells more than that it is a GGUF.
        let label = if name.ends_with(".gguf") { "no label" } else { "safetensors" };
        brought.extend(selection.files.iter().map(|file| file.path.clone()));
        choices.insert(0, choice(label.to_owned(), typed.to_owned(), &selection));
        default = Some(0);
    }
    let converted = remote.converted.as_deref().map(text::printable);
    let converted = converted.map(|file| format!("converted to {file} after it was fetched"));
    let note = remote.why_unmarked.clone().or(converted).or_else(|| {
        choices.is_empty().then(|| format!("{} has no weights that could be fetched", text::printable(&repository.id)))
    });
    let mut whole = repository.id.clone();
    if let Some(revision) = &revision {
        whole.push_str(&format!("@{revision}"));
    }
    let rest = remote.files.iter().filter(|file| !brought.contains(&file.path));
    choices.extend(rest.map(|file| Choice {
        label: "file".to_owned(),
        reference: whole.clone(),
        files: 1,
        principal: file.path.as_str().to_owned(),
        bytes: file.size,
        weights: 0,
        problem: None,
        file: Some(file.path.as_str().to_owned()),
    }));
    Offer {
        repository: repository.id.clone(),
        commit: repository.commit.clone(),
        folder: folder.to_owned(),
        available,
        cache: None,
        projector: projector(&remote.files, marked.unwrap_or("")).map(|file| (file.path.to_string(), file.size)),
        choices,
        default,
        note,
        header: RemoteHeader::of(repository, &remote.files),
    }
}

fn is_marked(selection: &Selection, remote: &RemoteModel) -> bool {
    selection.files.len() == remote.marked.len()
        && selection.files.iter().all(|file| remote.marked.contains(&file.path))
}

fn choice(label: String, reference: String, selection: &Selection) -> Choice {
    let name = principal(selection.files.iter().map(|file| file.path.as_str())).unwrap_or_default();
    let weights = selection.files.iter().filter(|file| FileName::parse(file.path.file_name()).is_weights());
    Choice {
        label,
        reference,
        files: selection.files.len(),
        principal: name.to_owned(),
        bytes: selection.files.iter().map(|file| file.size).sum(),
        weights: weights.map(|file| file.size).sum(),
        problem: None,
        file: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::Repository;
    use crate::model::RemoteFile;

    const HUB: &str = "https://huggingface.co";

    fn remote(files: &[(&str, u64)], marked: &[&str]) -> RemoteModel {
        let path = |path: &str| RepoPath::parse(path).unwrap();
        RemoteModel {
            repository: Repository {
                id: "org/name".to_owned(),
                commit: "c".repeat(40),
                gated: false,
                updated: None,
                tags: Vec::new(),
                summary: crate::hub::Summary::default(),
            },
            files: files
                .iter()
                .map(|(name, size)| RemoteFile {
                    path: path(name),
                    size: *size,
                    digest: None,
                    blob_id: None,
                    xet_hash: None,
                })
                .collect(),
            refused: Vec::new(),
            marked: marked.iter().map(|name| path(name)).collect(),
            why_unmarked: None,
            converted: None,
        }
    }

    #[test]
    fn quantizations_with_their_shards_and_the_default() {
        let files = [
            ("Q4_K_M/m-Q4_K_M-00001-of-00002.gguf", 10),
            ("Q4_K_M/m-Q4_K_M-00002-of-00002.gguf", 20),
            ("README.md", 1),
            ("m-Q8_0.gguf", 70),
        ];
        let remote = remote(&files, &["m-Q8_0.gguf"]);
        let offer = offer("name:q8_0", &remote, Path::new("/m"), None, HUB);
        let shown: Vec<_> =
            offer.choices.iter().map(|c| (c.label.as_str(), c.reference.as_str(), c.files, c.bytes)).collect();
        assert_eq!(
            shown,
            [("Q4_K_M", "org/name:Q4_K_M", 2, 30), ("Q8_0", "name:q8_0", 1, 70), ("file", "org/name", 1, 1)]
        );
        assert_eq!(offer.choices[2].file.as_deref(), Some("README.md"));
        assert_eq!(offer.default, Some(1));
        assert_eq!(offer.choices[0].principal, "Q4_K_M/m-Q4_K_M-00001-of-00002.gguf");
    }

    #[test]
    fn a_file_without_a_label_is_still_the_default() {
        let remote = remote(&[("phi-q4.gguf", 10), ("phi-Q8_0.gguf", 20)], &["phi-q4.gguf"]);
        let offer = offer("phi3", &remote, Path::new("/m"), None, HUB);
        assert_eq!((offer.default, offer.choices[0].reference.as_str()), (Some(0), "phi3"));
        assert_eq!(offer.choices.len(), 2);
    }

    #[test]
    fn an_empty_repository_says_so() {
        let offer = offer("org/name", &remote(&[("README.md", 1)], &[]), Path::new("/m"), None, HUB);
        assert!(offer.default.is_none() && offer.note.is_some());
        assert!(offer.choices.iter().all(|choice| choice.file.is_some()), "{:?}", offer.choices);
    }
}
