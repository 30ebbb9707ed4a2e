//! JSON objects of bounded length.

use std::io::Read;

use serde::Deserialize;

use super::warnings::{shortened, shown};

/// Parses an object. Serde would take a list for one whose keys are all optional.
pub(super) fn object<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, String> {
    if bytes.trim_ascii_start().first() != Some(&b'{') {
        return Err("malformed JSON: not an object".to_owned());
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
