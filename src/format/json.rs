//! JSON objects of bounded length.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use serde::Deserialize;
use serde_json::value::RawValue;

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

/// A text that is not empty, made printable and no longer than `most`.
pub(super) fn text(raw: Option<&RawValue>, most: usize) -> Option<String> {
    let value: String = serde_json::from_str(raw?.get()).ok()?;
    Some(shortened(value.trim(), most)).filter(|value| !value.is_empty())
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

/// Longer objects are taken as they are.
const MOST_TOLERATED: usize = 1 << 20;
/// Deepest nesting that is looked into.
const DEEPEST: usize = 128;

/// The object as Python reads it: `NaN` and `Infinity` are numbers there, unknown ones here, and of a key that is there twice the
/// last counts. Writers of configurations rely on both.
pub(super) fn as_python_reads(bytes: &[u8]) -> Cow<'_, [u8]> {
    let edits = if bytes.len() > MOST_TOLERATED { Vec::new() } else { edits(bytes) };
    if edits.is_empty() {
        return Cow::Borrowed(bytes);
    }
    let mut out = Vec::with_capacity(bytes.len() + edits.len());
    let mut at = 0;
    for (place, text) in edits {
        out.extend_from_slice(bytes.get(at..place.start).unwrap_or_default());
        out.extend_from_slice(text);
        at = place.end;
    }
    out.extend_from_slice(bytes.get(at..).unwrap_or_default());
    Cow::Owned(out)
}

/// What stands where, in its order: words that are no JSON, and keys that come again later.
fn edits(bytes: &[u8]) -> Vec<(Range<usize>, &'static [u8])> {
    const WORDS: [&[u8]; 3] = [b"NaN", b"-Infinity", b"Infinity"];
    let mut edits: Vec<(Range<usize>, &'static [u8])> = Vec::new();
    // The keys of each object that is open; none of a list.
    let mut open: Vec<Option<HashMap<&[u8], Range<usize>>>> = Vec::new();
    let (mut at, mut key_follows) = (0, false);
    while let Some(byte) = bytes.get(at) {
        let rest = bytes.get(at..).unwrap_or_default();
        match byte {
            b'"' => {
                let start = at + 1;
                let mut end = start;
                loop {
                    end += run_length(bytes.get(end..).unwrap_or_default());
                    match bytes.get(end) {
                        Some(b'\\') => end += 2,
                        Some(b'"') => break,
                        // No JSON either way.
                        _ => return Vec::new(),
                    }
                }
                if let (true, Some(Some(keys))) = (key_follows, open.last_mut())
                    && let Some(earlier) = keys.insert(bytes.get(start..end).unwrap_or_default(), start..end)
                {
                    edits.push((earlier, b""));
                }
                key_follows = false;
                at = end;
            }
            b'{' | b'[' if open.len() == DEEPEST => return Vec::new(),
            b'{' => {
                open.push(Some(HashMap::new()));
                key_follows = true;
            }
            b'[' => open.push(None),
            b'}' | b']' => {
                open.pop();
                key_follows = false;
            }
            b',' => key_follows = matches!(open.last(), Some(Some(_))),
            b'N' | b'I' | b'-' => {
                if let Some(word) = WORDS.iter().find(|word| rest.starts_with(word)) {
                    edits.push((at..at + word.len(), b"null"));
                    at += word.len() - 1;
                }
            }
            _ => {}
        }
        at += 1;
    }
    edits.sort_by_key(|(place, _)| place.start);
    edits
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_python_writes_and_takes_is_read() {
        for (text, read) in [
            (r#"{"a":[0.0,Infinity,-Infinity],"b":NaN}"#, r#"{"a":[0.0,null,null],"b":null}"#),
            (r#"{"NaN":"Infinity, \"NaN","b":-1}"#, r#"{"NaN":"Infinity, \"NaN","b":-1}"#),
            (r#"{"a":1,"b":{"a":2,"a":3},"a":4}"#, r#"{"":1,"b":{"":2,"a":3},"a":4}"#),
            (r#"[{"a":1},{"a":["a","a"]}]"#, r#"[{"a":1},{"a":["a","a"]}]"#),
            (r#"{"a":"a","b":"a"}"#, r#"{"a":"a","b":"a"}"#),
        ] {
            assert_eq!(String::from_utf8_lossy(&as_python_reads(text.as_bytes())), read);
        }
        // What is no JSON stays none, and ends.
        for text in ["{\"a", "{\"a\\", "]]]}", "{\"a\":Nan", "\"", ""] {
            assert_eq!(as_python_reads(text.as_bytes()).as_ref(), text.as_bytes());
        }
        let deep = "[".repeat(200_000);
        assert_eq!(as_python_reads(deep.as_bytes()).as_ref(), deep.as_bytes());
    }
}
