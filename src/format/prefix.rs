//! Headers of files of which only the first bytes are here.

use std::io::{self, Cursor, Read, Seek, SeekFrom};

use super::gguf::{self, Depth, Header};
use super::named::Named;
use super::safetensors;
use super::{Metadata, Structure};
use crate::model::{FileName, Format};

/// The longest safetensors header that is worth fetching for its figures.
const LONGEST_SAFETENSORS: u64 = 8 << 20;

/// What the first bytes of a file told.
#[derive(Clone, Debug, PartialEq)]
pub enum Prefix {
    /// Enough: what a model is and what it needs. What stands behind the vocabulary may be missing.
    Enough(Box<Metadata>),
    /// So many bytes are needed, at least.
    More(u64),
}

/// Reads what the first `bytes` of a file of `length` bytes tell. The vocabulary is not waited for: what a table shows stands
/// before it.
///
/// # Errors
/// As [`super::read_metadata`].
pub fn read_prefix(bytes: &[u8], length: u64, name: &str) -> Result<Prefix, String> {
    let here = bytes.len() as u64;
    if here < length.min(16) {
        return Ok(Prefix::More(length.min(16)));
    }
    if bytes.starts_with(b"GGUF") {
        return gguf_prefix(bytes, length, name);
    }
    if !safetensors::starts_like_one(bytes) {
        let kind = if FileName::parse(name).is_gguf() { "not a GGUF file" } else { "not a safetensors file" };
        return Err(format!("{kind}: {}", super::LookAlike::of(bytes.get(..512).unwrap_or(bytes), length)));
    }
    let header = bytes.first_chunk::<8>().map_or(0, |length| u64::from_le_bytes(*length));
    if header > LONGEST_SAFETENSORS && header.saturating_add(8) <= length {
        let metadata = Metadata { partly_read: true, ..Metadata::unknown(Format::Safetensors) };
        return Ok(Prefix::Enough(Box::new(metadata)));
    }
    // That a file ends inside its header is known without its bytes.
    if here < header.saturating_add(8) && header.saturating_add(8) <= length {
        return Ok(Prefix::More(header + 8));
    }
    safetensors::metadata(Cursor::new(bytes), length, Named::of(name), false)
        .map(|metadata| Prefix::Enough(Box::new(metadata)))
}

fn gguf_prefix(bytes: &[u8], length: u64, name: &str) -> Result<Prefix, String> {
    let reader = Here::new(bytes, length);
    let (mut header, result) = Header::read_as_far_as_possible(reader, length, Depth::Whole);
    match result {
        Ok(()) => {}
        Err(gguf::Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
            if header.vocabulary.is_none() {
                return Ok(Prefix::More((bytes.len() as u64).saturating_add(1).min(length)));
            }
            header.stopped = true;
        }
        Err(error) => return Err(error.to_string()),
    }
    Ok(Prefix::Enough(Box::new(gguf::describe(&header, Named::of(name), Structure::Partial))))
}

/// A file of which only the first bytes are here; reading beyond them would have to wait.
pub(super) struct Here<'a> {
    bytes: &'a [u8],
    position: u64,
    length: u64,
}

impl<'a> Here<'a> {
    /// The first bytes of a file of `length` bytes.
    pub(super) fn new(bytes: &'a [u8], length: u64) -> Self {
        Self { bytes, position: 0, length }
    }
}

impl Read for Here<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let rest = usize::try_from(self.position).ok().and_then(|at| self.bytes.get(at..)).unwrap_or_default();
        if rest.is_empty() && self.position < self.length && !out.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let count = rest.len().min(out.len());
        if let (Some(to), Some(from)) = (out.get_mut(..count), rest.get(..count)) {
            to.copy_from_slice(from);
        }
        self.position += count as u64;
        Ok(count)
    }
}

impl Seek for Here<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let target = match to {
            SeekFrom::Start(position) => Some(position),
            SeekFrom::Current(by) => self.position.checked_add_signed(by),
            SeekFrom::End(by) => self.length.checked_add_signed(by),
        };
        self.position = target.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::gguf::{TensorType, Writer};

    fn model() -> Vec<u8> {
        let words: Vec<String> = (0..20_000).map(|n| format!("word {n}")).collect();
        let mut bytes = Vec::new();
        Writer::new("llama")
            .key("llama.block_count", 2_u32)
            .key("llama.context_length", 4096_u32)
            .key("llama.embedding_length", 128_u32)
            .key("llama.attention.head_count", 4_u32)
            .key("tokenizer.ggml.tokens", words)
            .key("general.license", "mit")
            .tensor("a", &[32, 2], TensorType::F16)
            .write_to(&mut bytes, 1)
            .unwrap();
        bytes
    }

    fn enough(bytes: &[u8], length: u64) -> Metadata {
        match read_prefix(bytes, length, "m.gguf").unwrap() {
            Prefix::Enough(metadata) => *metadata,
            Prefix::More(more) => panic!("wants {more}"),
        }
    }

    #[test]
    fn the_keys_before_the_vocabulary_are_enough() {
        let bytes = model();
        let length = bytes.len() as u64 + (4 << 30);
        let start = enough(&bytes[..1000], length);
        assert_eq!((start.layers, start.context_length, start.partly_read), (Some(2), Some(4096), true));
        assert_eq!((start.shape.vocabulary, start.licence), (Some(20_000), None));
        assert!(start.shape.cache.is_some());
        let whole = enough(&bytes, bytes.len() as u64);
        assert_eq!((whole.licence.as_deref(), whole.parameters, whole.partly_read), (Some("mit"), Some(64), false));
    }

    #[test]
    fn every_prefix_either_tells_or_wants_more() {
        let bytes = model();
        for count in 0..1200 {
            match read_prefix(&bytes[..count], bytes.len() as u64, "m.gguf").unwrap() {
                Prefix::More(more) => assert!(more > count as u64 && more <= bytes.len() as u64),
                Prefix::Enough(metadata) => assert_eq!(metadata.layers, Some(2)),
            }
        }
        assert!(read_prefix(b"<html><body>not it</body>", 25, "m.gguf").unwrap_err().contains("HTML"));
    }

    #[test]
    fn safetensors_want_their_whole_header_if_it_is_not_too_long() {
        let json = br#"{"a":{"dtype":"F16","shape":[2,2],"data_offsets":[0,8]}}"#;
        let bytes = [&(json.len() as u64).to_le_bytes()[..], json].concat();
        let length = bytes.len() as u64 + 8;
        let wants = read_prefix(&bytes[..20], length, "model.safetensors").unwrap();
        assert_eq!(wants, Prefix::More(bytes.len() as u64));
        let Prefix::Enough(told) = read_prefix(&bytes, length, "model.safetensors").unwrap() else { panic!() };
        assert_eq!((told.parameters, told.tensor_bytes), (Some(4), Some(8)));
        let long = [&(50_000_000_u64).to_le_bytes()[..], &b"{\"a\":           "[..]].concat();
        assert!(matches!(read_prefix(&long, 1 << 40, "model.safetensors").unwrap(), Prefix::Enough(_)));
    }
}
