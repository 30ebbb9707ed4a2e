//! `trees/<commit>.json`: what the official client keeps of a repository's listing, in its cache and beside a folder that it filled.
//!
//! The format is that of huggingface_hub 2.4 (`_tree_cache.py`).

use std::collections::BTreeMap;

use serde::Serialize;

use crate::error::{Error, Result};
use crate::model::{Digest, RemoteFile};

#[derive(Serialize)]
struct Tree<'a> {
    format_version: u32,
    files: BTreeMap<&'a str, TreeEntry<'a>>,
}

#[derive(Serialize)]
struct TreeEntry<'a> {
    size: u64,
    blob_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    lfs_sha256: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lfs_size: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    xet_hash: Option<&'a str>,
}

/// A listing of the repository at `commit` byte for byte as the client writes it: JSON indented by one space, other characters than ASCII escaped.
/// `None` when `commit` is no commit or a file has no git blob id, since it would then not be what the client expects.
///
/// # Errors
/// [`Error::Damaged`] when it cannot be written as JSON.
pub(super) fn listing(commit: &str, files: &[RemoteFile]) -> Result<Option<String>> {
    let is_commit = commit.len() == 40 && commit.bytes().all(|byte| byte.is_ascii_hexdigit());
    let entries: Option<BTreeMap<_, _>> = files
        .iter()
        .map(|file| {
            let sha256 = match file.digest {
                Some(digest @ Digest::Sha256(_)) => Some(digest.to_string()),
                _ => None,
            };
            let entry = TreeEntry {
                size: file.size,
                blob_id: file.blob_id.as_deref()?,
                lfs_size: sha256.is_some().then_some(file.size),
                lfs_sha256: sha256,
                xet_hash: file.xet_hash.as_deref(),
            };
            Some((file.path.as_str(), entry))
        })
        .collect();
    let Some(files) = entries.filter(|_| is_commit) else { return Ok(None) };
    let mut bytes = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b" ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, formatter);
    let damaged = |what: String| Error::Damaged(format!("the listing cannot be written as JSON: {what}"));
    Tree { format_version: 1, files }.serialize(&mut serializer).map_err(|error| damaged(error.to_string()))?;
    let text = String::from_utf8(bytes).map_err(|error| damaged(error.to_string()))?;
    let mut ascii = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_ascii() {
            ascii.push(character);
        } else {
            for unit in character.encode_utf16(&mut [0; 2]) {
                ascii.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
    Ok(Some(ascii))
}
