//! JSON objects of bounded length.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;

use serde::Deserialize;

use super::warnings::{shortened, shown};

/// Parses an object. Serde would take a list for one whose keys are all optional.
pub(super) fn object<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, String> {
    if bytes.trim_ascii_start().first() != Some(&b'{') {
        return Err("malformed JSON: not an object".to_owned());
    }
    if has_many_escapes(bytes) {
        return Err("malformed JSON: more escapes in its texts than in those of any model".to_owned());
    }
    serde_json::from_slice(bytes).map_err(|error| format!("malformed JSON: {}", shortened(&error.to_string(), 200)))
}

/// All bytes of a reader, of which there may be `most`.
pub(super) fn bounded(reader: impl Read, most: u64) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let count = reader
        .take(most + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| format!("cannot read it: {}", shown(error.to_string().as_bytes())))?;
    if count as u64 > most { Err(format!("larger than {most} bytes")) } else { Ok(bytes) }
}

/// Whether texts have so many escapes that only a file made for it has them: each takes as long as twenty other bytes. Adapters keep
/// the tags of their training as JSON in a text, with some hundred thousand.
pub(super) fn has_many_escapes(bytes: &[u8]) -> bool {
    const MOST: usize = 2_000_000;
    bytes.iter().filter(|byte| **byte == b'\\').count() > MOST
}

/// Whether an object, of which only the beginning was read, is cut short: its last byte ends none.
pub(super) fn is_cut(file: &File) -> bool {
    let mut end = [b' '; 64];
    let from = file.metadata().map_or(0, |metadata| metadata.len()).saturating_sub(end.len() as u64);
    let count = file.read_at(&mut end, from).unwrap_or(0);
    let last = end.get(..count).unwrap_or_default().trim_ascii_end().last();
    last.is_some_and(|byte| *byte != b'}')
}
