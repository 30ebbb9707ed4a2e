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

/// How many bytes of a text come before a quote, a backslash or a control character. Eight are looked at in one go: a byte of a
/// difference is zero where it alone borrows from its highest bit, and what borrows from a neighbour lies behind the first such byte.
pub(super) fn run_length(bytes: &[u8]) -> usize {
    const ONES: u64 = u64::MAX / 255;
    const HIGH: u64 = ONES << 7;
    let (words, rest) = bytes.as_chunks::<8>();
    for (at, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        let below = |difference: u64, bound: u64| difference.wrapping_sub(ONES * bound) & !difference;
        let quote = below(word ^ (ONES * u64::from(b'"')), 1);
        let backslash = below(word ^ (ONES * u64::from(b'\\')), 1);
        let found = (quote | backslash | below(word, 32)) & HIGH;
        if found != 0 {
            return at * 8 + found.trailing_zeros() as usize / 8;
        }
    }
    let ends = |byte: &u8| matches!(byte, b'"' | b'\\' | ..32);
    words.len() * 8 + rest.iter().position(ends).unwrap_or(rest.len())
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
