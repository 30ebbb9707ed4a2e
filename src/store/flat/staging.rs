//! Names of the files in which a download is put together, beside its target.
//!
//! `<name>.<digest16>.llorch` holds the bytes, `<name>.<digest16>.llorch.json` the journal. No other tool publishes
//! or resumes files of that suffix.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use crate::model::{Digest, text};

const PARTIAL: &[u8] = b".llorch";
const JOURNAL: &[u8] = b".llorch.json";
const KEY: usize = 16;

/// What ties a partial file to the content that it will have: the first 16 digits of the content's digest.
///
/// Where no digest is known, the digits are those of a SHA-256 over `fallback`: everything that names the content
/// (endpoint, repository, commit, path, size).
#[must_use]
pub fn staging_key(digest: Option<&Digest>, fallback: &[&str]) -> String {
    if let Some(digest) = digest {
        return digest.short();
    }
    let mut hash = Sha256::new();
    for part in fallback {
        hash.update(part.as_bytes());
        hash.update([0]);
    }
    Digest::Sha256(hash.finalize().into()).short()
}

/// The partial file and its journal for `target`; `key` is what [`staging_key`] gave.
#[must_use]
pub fn staging_paths(target: &Path, key: &str) -> (PathBuf, PathBuf) {
    let name = target.file_name().unwrap_or_default().as_bytes();
    let with = |suffix: &[u8]| {
        let mut bytes = Vec::with_capacity(name.len() + key.len() + suffix.len() + 1);
        bytes.extend_from_slice(name);
        bytes.push(b'.');
        bytes.extend_from_slice(key.as_bytes());
        bytes.extend_from_slice(suffix);
        target.with_file_name(OsString::from_vec(bytes))
    };
    (with(PARTIAL), with(JOURNAL))
}

/// A name that [`staging_paths`] made, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StagingName {
    /// Name of the file that it will become.
    pub target: OsString,
    /// The 16 digits.
    pub key: String,
    /// Whether it is the journal.
    pub journal: bool,
}

impl StagingName {
    /// Takes a file name apart; `None` for every other name.
    #[must_use]
    pub fn parse(name: &OsStr) -> Option<Self> {
        let bytes = name.as_bytes();
        let (rest, journal) = match bytes.strip_suffix(JOURNAL) {
            Some(rest) => (rest, true),
            None => (bytes.strip_suffix(PARTIAL)?, false),
        };
        let at = rest.len().checked_sub(KEY + 1)?;
        let (target, tail) = rest.split_at(at);
        let key = tail.strip_prefix(b".")?;
        let is_key = key.iter().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(byte));
        (is_key && !target.is_empty()).then(|| Self {
            target: OsStr::from_bytes(target).to_owned(),
            key: text::escape(OsStr::from_bytes(key)),
            journal,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back() {
        let digest = Digest::parse(&"ab".repeat(32)).unwrap();
        let key = staging_key(Some(&digest), &[]);
        let (partial, journal) = staging_paths(Path::new("/base/m/Q4/x.gguf"), &key);
        assert_eq!(partial, Path::new("/base/m/Q4/x.gguf.abababababababab.llorch"));
        assert_eq!(journal, Path::new("/base/m/Q4/x.gguf.abababababababab.llorch.json"));
        for (path, is_journal) in [(partial, false), (journal, true)] {
            let name = StagingName::parse(path.file_name().unwrap()).unwrap();
            assert_eq!(name, StagingName { target: "x.gguf".into(), key: key.clone(), journal: is_journal });
        }
    }

    #[test]
    fn other_names_are_not_ours() {
        for name in [
            "x.gguf",
            "x.llorch",
            ".abababababababab.llorch",
            "x.ABABABABABABABAB.llorch",
            "x.abababab.llorch",
            "xabababababababab.llorch",
            "x.abababababababab.llorch.json.bak",
        ] {
            assert_eq!(StagingName::parse(OsStr::new(name)), None, "{name}");
        }
    }

    #[test]
    fn without_a_digest_the_key_depends_on_every_part() {
        let key = |parts: &[&str]| staging_key(None, parts);
        assert_eq!(key(&["a", "b"]).len(), KEY);
        assert_ne!(key(&["a", "b"]), key(&["ab", ""]));
        assert_eq!(key(&["a", "b"]), key(&["a", "b"]));
    }
}
