//! A path inside a repository, checked before anything may join it to a folder.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::text;
use crate::error::{Error, Result};

/// Longest accepted path in bytes, and longest part: what Linux file systems hold, less room for a staging suffix.
const MAX_PATH: usize = 1024;
const MAX_PART: usize = 200;

/// A relative path of plain parts joined by `/`: no `.` or `..`, no empty part, no backslash, no control
/// character, not absolute, not over-long. The only form in which a path from the network is joined to a folder.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RepoPath(String);

impl RepoPath {
    /// Checks `path`; the bytes stay as they are (no Unicode normalisation: NFC and NFD names are two files).
    ///
    /// # Errors
    /// [`Error::UnsafePath`] says which rule it breaks.
    pub fn parse(path: &str) -> Result<Self> {
        let refuse = |reason: &str| {
            Err(Error::UnsafePath { path: text::printable(path.get(..120).unwrap_or(path)), reason: reason.to_owned() })
        };
        if path.is_empty() {
            return refuse("it is empty");
        }
        if path.len() > MAX_PATH {
            return refuse("it is too long");
        }
        if path.contains('\\') {
            return refuse("it has a backslash");
        }
        if path.chars().any(text::is_unsafe) {
            return refuse("it has a control character");
        }
        if path.as_bytes().get(1) == Some(&b':') && path.as_bytes()[0].is_ascii_alphabetic() {
            return refuse("it names a drive");
        }
        for part in path.split('/') {
            match part {
                "" => return refuse("it is absolute or has an empty part"),
                "." | ".." => return refuse("it has a '.' or '..' part"),
                part if part.len() > MAX_PART => return refuse("a part of it is too long"),
                _ => {}
            }
        }
        Ok(Self(path.to_owned()))
    }

    /// The path as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The last part.
    #[must_use]
    pub fn file_name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }

    /// The part before the file name, if it lies in a subfolder.
    #[must_use]
    pub fn folder(&self) -> Option<&str> {
        self.0.rsplit_once('/').map(|(folder, _)| folder)
    }

    /// The parts in order.
    pub fn parts(&self) -> impl Iterator<Item = &str> {
        self.0.split('/')
    }

    /// This path below `folder`.
    #[must_use]
    pub fn below(&self, folder: &Path) -> PathBuf {
        folder.join(&self.0)
    }

    /// Whether `pattern` matches the whole path: `*` stands for any text, `/` included, `?` for one character.
    #[must_use]
    pub fn matches(&self, pattern: &str) -> bool {
        wildcard(&self.0, pattern)
    }
}

/// Whether `pattern` matches the whole text: `*` stands for any text, `?` for one character.
pub(crate) fn wildcard(text: &str, pattern: &str) -> bool {
    let text: Vec<char> = text.chars().collect();
    let pattern: Vec<char> = pattern.chars().collect();
    let (mut t, mut p) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        if p < pattern.len() && pattern[p] == '*' {
            star = Some((p, t));
            p += 1;
        } else if p < pattern.len() && (pattern[p] == '?' || pattern[p] == text[t]) {
            p += 1;
            t += 1;
        } else if let Some((star_p, star_t)) = star {
            star = Some((star_p, star_t + 1));
            p = star_p + 1;
            t = star_t + 1;
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

impl fmt::Display for RepoPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for RepoPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl Serialize for RepoPath {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for RepoPath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ordinary_paths_pass() {
        for path in ["config.json", "Q4_K_M/m-00001-of-00002.gguf", "a b [1]#?%+.gguf", "日本.gguf", ".gitattributes"]
        {
            assert_eq!(RepoPath::parse(path).unwrap().as_str(), path);
        }
    }

    #[test]
    fn hostile_paths_are_refused() {
        let long = "x".repeat(300);
        for path in [
            "",
            "/etc/passwd",
            "../x",
            "a/../b",
            "a/./b",
            "a//b",
            "a/",
            "C:/x",
            "C:x",
            "a\\b",
            "\\\\host\\x",
            "a\0b",
            "a\nb",
            "a\u{1b}b",
            &long,
        ] {
            assert!(RepoPath::parse(path).is_err(), "{path:?}");
        }
    }

    #[test]
    fn a_star_crosses_folders() {
        let path = RepoPath::parse("Q4_K_M/m-00001-of-00002.gguf").unwrap();
        for pattern in ["*", "*.gguf", "Q4*/m-?????-of-*", "*Q4_K_M*", "Q4_K_M/m-00001-of-00002.gguf"] {
            assert!(path.matches(pattern), "{pattern}");
        }
        for pattern in ["", "m-*", "*.safetensors", "Q4_K_M", "q4*"] {
            assert!(!path.matches(pattern), "{pattern}");
        }
    }

    proptest! {
        #[test]
        fn an_accepted_path_stays_below_its_folder(path in any::<String>()) {
            if let Ok(path) = RepoPath::parse(&path) {
                let joined = path.below(Path::new("/base"));
                prop_assert!(joined.starts_with("/base"));
                prop_assert!(joined.components().all(|c| matches!(c, std::path::Component::RootDir | std::path::Component::Normal(_))));
            }
        }
    }
}
