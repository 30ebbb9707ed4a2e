//! Sets whose files are of several commits: each file is what its repository has, and together they are no model.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};

use crate::model::{set_of, text};

/// A file that is of another commit than most of its set.
pub(super) struct Stray {
    /// Its place among the files.
    pub(super) at: usize,
    /// The commit of most of its set.
    pub(super) commit: String,
    /// What is wrong with it.
    pub(super) line: String,
}

/// The strays among files, given as paths and commits. A file that is whole by itself may be of any commit.
pub(super) fn strays<'a>(files: impl Iterator<Item = (usize, &'a str, &'a str)>) -> Vec<Stray> {
    let mut sets: BTreeMap<_, Vec<(usize, &str, &str)>> = BTreeMap::new();
    for (at, path, commit) in files {
        if let Some(set) = set_of(path) {
            sets.entry(set).or_default().push((at, path, commit));
        }
    }
    let mut strays = Vec::new();
    for mut set in sets.into_values() {
        set.sort_unstable_by_key(|(_, path, _)| *path);
        // Files of each commit, and the place of the first of them.
        let mut counts: HashMap<&str, (usize, Reverse<usize>)> = HashMap::new();
        for (place, (_, _, commit)) in set.iter().enumerate() {
            counts.entry(commit).or_insert((0, Reverse(place))).0 += 1;
        }
        // Of equally many the first.
        let Some((most, _)) = counts.iter().max_by_key(|(_, rank)| **rank) else { continue };
        strays.extend(set.iter().filter(|(_, _, commit)| commit != most).map(|(at, _, commit)| Stray {
            at: *at,
            commit: (*most).to_owned(),
            line: format!(
                "it is of commit {}, the rest of its set of {}: together they are no model",
                short(commit),
                short(most)
            ),
        }));
    }
    strays
}

/// A commit as people write it.
fn short(commit: &str) -> String {
    text::printable(commit).chars().take(7).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(files: &[(&str, &str)]) -> Vec<(usize, String)> {
        let found = strays(files.iter().enumerate().map(|(at, (path, commit))| (at, *path, *commit)));
        found.into_iter().map(|stray| (stray.at, stray.commit)).collect()
    }

    #[test]
    fn parts_are_of_one_commit_and_whole_files_of_any() {
        assert_eq!(found(&[("m-Q4_0.gguf", "a"), ("m-Q8_0.gguf", "b"), ("config.json", "c")]), []);
        let index = "model.safetensors.index.json";
        let (first, second) = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors");
        assert_eq!(found(&[(first, "a"), (second, "a"), (index, "a")]), []);
        assert_eq!(found(&[(second, "b"), (first, "a"), (index, "a")]), [(0, "a".to_owned())]);
        assert_eq!(found(&[(index, "b"), (first, "a"), (second, "a")]), [(0, "a".to_owned())]);
        assert_eq!(found(&[(second, "b"), (first, "a")]), [(0, "a".to_owned())]);
        let (q4, q8) = ("Q4/m-Q4-00001-of-00002.gguf", "Q8/m-Q8-00001-of-00002.gguf");
        assert_eq!(found(&[(q4, "a"), (q8, "b")]), []);
        // Of equally many the first by name counts.
        let part = |at: usize| format!("m-{at:05}-of-00004.safetensors");
        let parts = [part(3), part(1), part(4), part(2)];
        let files: Vec<(&str, &str)> = parts.iter().map(String::as_str).zip(["a", "b", "a", "b"]).collect();
        assert_eq!(found(&files), [(0, "b".to_owned()), (2, "b".to_owned())]);
    }
}
