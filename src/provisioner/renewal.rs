//! What brings a model to the commit that its branch means now: the request, and the files that it takes.

use std::collections::BTreeSet;

use crate::model::selection::{Candidates, Selection, Wanted, select};
use crate::model::{RemoteFile, RepoPath};

/// What is asked for anew, and what that is on the hub now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Renewal {
    /// The quantization that has to be named.
    pub(super) quantization: Option<String>,
    /// The files that have to be named.
    pub(super) patterns: Vec<String>,
    /// What it takes.
    pub(super) files: Vec<RemoteFile>,
}

/// What asks for the same again: the reference alone if that took exactly what is `here`, else the quantization, the whole
/// repository (`complete` says that it is here) or the files by their names. `None` where the hub has none of them any more.
pub(super) fn renewal(here: &[RemoteFile], complete: bool, listing: &Candidates<'_>) -> Option<Renewal> {
    let paths = |files: &[RemoteFile]| files.iter().map(|file| file.path.clone()).collect::<BTreeSet<RepoPath>>();
    let own = Candidates { repository: listing.repository, files: here, refused: &[] };
    let again = |wanted: &Wanted| -> Option<Selection> {
        let before = select(&own, wanted).ok().filter(|before| paths(&before.files) == paths(here))?;
        select(listing, wanted).ok().filter(|now| now.quantization == before.quantization)
    };
    if let Some(now) = again(&Wanted::Default) {
        return Some(Renewal { quantization: None, patterns: Vec::new(), files: now.files });
    }
    let label = select(&own, &Wanted::Default).ok().and_then(|before| before.quantization);
    if let Some(label) = label.map(|label| label.as_str().to_owned())
        && let Some(now) = again(&Wanted::Quantization(label.clone()))
    {
        return Some(Renewal { quantization: Some(label), patterns: Vec::new(), files: now.files });
    }
    let patterns = if complete {
        vec!["*".to_owned()]
    } else {
        let known = paths(listing.files);
        here.iter().map(|file| &file.path).filter(|path| known.contains(*path)).map(ToString::to_string).collect()
    };
    if patterns.is_empty() {
        return None;
    }
    let files = select(listing, &Wanted::Patterns(patterns.clone())).ok()?.files;
    Some(Renewal { quantization: None, patterns, files })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(names: &[&str]) -> Vec<RemoteFile> {
        let file = |name: &&str| RemoteFile {
            path: RepoPath::parse(name).unwrap(),
            size: 1,
            digest: None,
            blob_id: None,
            xet_hash: None,
        };
        names.iter().map(file).collect()
    }

    fn of(here: &[&str], complete: bool, now: &[&str]) -> Option<(Option<String>, Vec<String>, Vec<String>)> {
        let now = files(now);
        let listing = Candidates { repository: "org/name", files: &now, refused: &[] };
        let renewal = renewal(&files(here), complete, &listing)?;
        let taken = renewal.files.iter().map(|file| file.path.to_string()).collect();
        Some((renewal.quantization, renewal.patterns, taken))
    }

    #[test]
    fn the_shortest_request_that_means_the_same_is_made() {
        let repository = ["README.md", "m-Q4_K_M.gguf", "m-Q8_0.gguf"];
        let plain = |taken: &[&str]| taken.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        assert_eq!(of(&["m-Q4_K_M.gguf"], false, &repository), Some((None, vec![], plain(&["m-Q4_K_M.gguf"]))));
        let other = Some((Some("Q8_0".to_owned()), vec![], plain(&["m-Q8_0.gguf"])));
        assert_eq!(of(&["m-Q8_0.gguf"], false, &repository), other);
        let two = ["m-Q4_K_M.gguf", "m-Q8_0.gguf"];
        assert_eq!(of(&two, false, &repository), Some((None, plain(&two), plain(&two))));
        assert_eq!(of(&repository, true, &repository).unwrap().1, ["*"]);
        assert_eq!(of(&["gone.gguf"], false, &["README.md"]), None);
    }

    #[test]
    fn shards_under_new_names_are_taken() {
        let old = ["config.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
        let now = ["config.json", "model.safetensors"];
        let (quantization, patterns, taken) = of(&old, false, &now).unwrap();
        assert_eq!((quantization, patterns), (None, vec![]));
        assert!(taken.contains(&"model.safetensors".to_owned()), "{taken:?}");
    }
}
