//! Reading `trees/<commit>.json`: the complete listing of a repository, as the official client keeps it.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use serde::Deserialize;

use crate::disk::safe;
use crate::model::{Digest, RemoteFile, RepoPath};

/// Longest listing that is read: some hundred thousand files.
const MAX_BYTES: u64 = 64 << 20;

#[derive(Deserialize)]
struct Tree {
    format_version: u32,
    files: BTreeMap<String, Entry>,
}

#[derive(Deserialize)]
struct Entry {
    size: u64,
    blob_id: Option<String>,
    lfs_sha256: Option<String>,
    xet_hash: Option<String>,
}

/// The complete listing of the repository at `commit` that the bookkeeping of `folder` holds, sorted by path; `None` when
/// there is none, or it is not one that can be taken for the whole truth.
#[must_use]
pub fn read_tree(folder: &Path, commit: &str) -> Option<Vec<RemoteFile>> {
    if commit.len() != 40 || !commit.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let path = format!(".cache/huggingface/trees/{commit}.json");
    let mut text = String::new();
    let read = safe::open_below(folder, Path::new(&path)).ok()?.take(MAX_BYTES + 1).read_to_string(&mut text).ok()?;
    if read as u64 > MAX_BYTES {
        return None;
    }
    let tree: Tree = serde_json::from_str(&text).ok()?;
    if tree.format_version != 1 {
        return None;
    }
    tree.files
        .into_iter()
        .map(|(path, entry)| {
            let digest = match entry.lfs_sha256.as_deref() {
                Some(sha256) => Some(Digest::parse(sha256)?),
                None => entry.blob_id.as_deref().and_then(Digest::parse),
            };
            Some(RemoteFile {
                path: RepoPath::parse(&path).ok()?,
                size: entry.size,
                digest,
                blob_id: entry.blob_id,
                xet_hash: entry.xet_hash,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(content: &str) -> Option<Vec<RemoteFile>> {
        let scratch = tempfile::tempdir().unwrap();
        let trees = scratch.path().join(".cache/huggingface/trees");
        let commit = "c".repeat(40);
        std::fs::create_dir_all(&trees).unwrap();
        std::fs::write(trees.join(format!("{commit}.json")), content).unwrap();
        assert_eq!(read_tree(scratch.path(), "../../x"), None);
        assert_eq!(read_tree(scratch.path(), &"d".repeat(40)), None);
        read_tree(scratch.path(), &commit)
    }

    #[test]
    fn digests_come_from_the_right_field() {
        let (git, sha256) = ("a".repeat(40), "b".repeat(64));
        let files = read(&format!(
            r#"{{"format_version":1,"files":{{
                "m.gguf":{{"size":9,"blob_id":"{git}","lfs_sha256":"{sha256}","lfs_size":9,"xet_hash":"x"}},
                "config.json":{{"size":2,"blob_id":"{git}"}}}}}}"#
        ))
        .unwrap();
        assert_eq!(files.iter().map(|file| file.path.as_str()).collect::<Vec<_>>(), ["config.json", "m.gguf"]);
        assert_eq!(files[0].digest, Digest::parse(&git));
        assert_eq!(files[1].digest, Digest::parse(&sha256));
    }

    #[test]
    fn what_is_no_complete_listing_is_none() {
        for content in
            ["", "{}", r#"{"format_version":2,"files":{}}"#, r#"{"format_version":1,"files":{"../x":{"size":1}}}"#]
        {
            assert_eq!(read(content), None, "{content}");
        }
    }
}
