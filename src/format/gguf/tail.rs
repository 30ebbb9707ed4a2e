//! The tensors of a GGUF file behind a vocabulary that is not read.
//!
//! A vocabulary has megabytes, and says nothing that is shown. A few looks into a file tell where it ends, and what comes after it
//! is read from there: the last keys, and the list of tensors. That it was found is certain: as many entries as the header names
//! follow each other without gap, the first lies at the start of the data, and their data ends where the file does.

use std::io::{Read, Seek};
use std::ops::Range;

use super::{Depth, Header};
use crate::format::{Metadata, Named, Structure};

/// Bytes of one look, and looks at once.
const LOOK: u64 = 2 << 10;
const LOOKS: u64 = 7;
/// A vocabulary takes at most so many bytes a token, merges included: real ones take 20 to 60.
const A_TOKEN: u64 = 160;
/// How close to the end of a vocabulary one has to come.
const CLOSE: u64 = 32 << 10;
/// What is read before that for the keys that follow: a chat template has some tens of KB.
const BEFORE: u64 = 48 << 10;
/// Bytes of an entry of the list of tensors, at most on average.
const AN_ENTRY: u64 = 112;
/// Longer lists are not worth it.
const MOST_TENSORS: u64 = 8192;
/// Entries that are looked at: a file may be made so that very many places look like the beginning of a list.
const MOST_STEPS: u32 = 1 << 20;
/// A name of a key or a tensor.
const LONGEST_NAME: u64 = 128;
/// The key that a vocabulary begins with, with its type: an array of texts.
const TOKENS: &[u8] = b"\x15\0\0\0\0\0\0\0tokenizer.ggml.tokens\x09\0\0\0\x08\0\0\0";

/// A search for the end of a vocabulary.
#[derive(Clone, Debug)]
pub struct Tail {
    /// The beginning of the file up to its vocabulary, without the counts.
    start: Vec<u8>,
    version: [u8; 4],
    keys: u64,
    tensors: u64,
    vocabulary: u64,
    length: u64,
    /// The vocabulary ends after the first and before the second.
    between: Range<u64>,
    rounds: u32,
}

impl Tail {
    /// The search in a file of `length` bytes of which the first are these; `None` where there is nothing to search, or not in a
    /// way that is known.
    #[must_use]
    pub fn of(first: &[u8], length: u64) -> Option<Self> {
        let here = super::super::prefix::Here::new(first, length);
        let (header, result) = Header::read_as_far_as_possible(here, length, Depth::Whole);
        let tokens = header.vocabulary.filter(|_| result.is_err() && header.layout.is_none())?;
        if header.big_endian || header.version == 1 || !(1..=MOST_TENSORS).contains(&header.tensor_count) {
            return None;
        }
        let at = first.windows(TOKENS.len()).position(|window| window == TOKENS)?;
        let from = first.len() as u64;
        let end = from.saturating_add(tokens.saturating_mul(A_TOKEN)).saturating_add(1 << 20);
        Some(Self {
            start: first.get(24..at)?.to_vec(),
            version: *first.get(4..8)?.first_chunk()?,
            keys: header.keys.len() as u64,
            tensors: header.tensor_count,
            vocabulary: tokens,
            length,
            between: from..end.min(length),
            rounds: 0,
        })
    }

    /// Where to look next; nowhere when the place is known well enough.
    #[must_use]
    pub fn looks(&self) -> Vec<Range<u64>> {
        let Range { start, end } = self.between;
        let step = end.saturating_sub(start) / (LOOKS + 1);
        if end.saturating_sub(start) <= CLOSE || step < LOOK || self.rounds >= 6 {
            return Vec::new();
        }
        (1..=LOOKS).map(|number| start + number * step).map(|at| at..(at + LOOK).min(self.length)).collect()
    }

    /// Takes what [`Self::looks`] asked for, in its order.
    pub fn narrow(&mut self, looks: &[(Range<u64>, Vec<u8>)]) {
        self.rounds += 1;
        for (range, bytes) in looks {
            if is_vocabulary(bytes) {
                self.between.start = range.start;
            } else {
                self.between.end = range.end;
                break;
            }
        }
    }

    /// What has to be read in one piece at the end.
    #[must_use]
    pub fn rest(&self) -> Range<u64> {
        let list = self.tensors.saturating_mul(AN_ENTRY);
        self.between.start.saturating_sub(BEFORE)..self.between.end.saturating_add(list).min(self.length)
    }

    /// What the file tells, if these bytes at [`Self::rest`] have its list of tensors.
    #[must_use]
    pub fn finish(&self, bytes: &[u8], file_name: &str) -> Option<Metadata> {
        let (list, list_end) = self.list(bytes)?;
        let (from, count) = keys_before(bytes, list);
        let mut file = b"GGUF".to_vec();
        file.extend(self.version);
        file.extend(self.tensors.to_le_bytes());
        file.extend((self.keys + count).to_le_bytes());
        file.extend(&self.start);
        file.extend(bytes.get(from..list_end)?);
        let header_length = file.len() as u64;
        // What a reader takes at once may reach into the data.
        file.resize(file.len() + 4096, 0);
        let end = self.rest().start + list_end as u64;
        let read = |length: u64| {
            let (header, result) = header(&file, length);
            result.then_some(header)
        };
        // The data begins on a multiple of what a key says.
        let alignment = read(u64::MAX >> 2)?.alignment;
        let data = self.length.checked_sub(end.checked_next_multiple_of(alignment)?)?;
        let mut header = read(header_length.checked_next_multiple_of(alignment)?.checked_add(data)?)?;
        if header.layout?.structure != Structure::Whole {
            return None;
        }
        header.vocabulary = Some(self.vocabulary);
        Some(super::describe(&header, Named::of(file_name), Structure::Partial))
    }

    /// Where the list of tensors begins and ends.
    fn list(&self, bytes: &[u8]) -> Option<(usize, usize)> {
        let mut steps = MOST_STEPS;
        (0..bytes.len()).find_map(|at| {
            let mut cursor = Cursor { bytes, at };
            // Most places are none.
            if cursor.entry()? != 0 {
                return None;
            }
            (1..self.tensors).try_for_each(|_| {
                steps = steps.checked_sub(1)?;
                cursor.entry().map(drop)
            })?;
            Some((at, cursor.at))
        })
    }
}

fn header(bytes: &[u8], length: u64) -> (Header, bool) {
    fn read(reader: impl Read + Seek, length: u64) -> (Header, bool) {
        let (header, result) = Header::read_as_far_as_possible(reader, length, Depth::Whole);
        (header, result.is_ok())
    }
    read(super::super::prefix::Here::new(bytes, length), length)
}

/// Where the keys begin that end where the list of tensors begins, and how many they are.
fn keys_before(bytes: &[u8], list: usize) -> (usize, u64) {
    let mut steps = MOST_STEPS;
    let found = (0..list).find_map(|at| {
        let mut cursor = Cursor { bytes, at };
        let mut count = 0;
        while cursor.at < list {
            steps = steps.checked_sub(1)?;
            cursor.key()?;
            count += 1;
        }
        (cursor.at == list).then_some((at, count))
    });
    found.unwrap_or((list, 0))
}

/// Reads pieces of a header, where they may be.
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, count: u64) -> Option<&'a [u8]> {
        let end = self.at.checked_add(usize::try_from(count).ok()?)?;
        let bytes = self.bytes.get(self.at..end)?;
        self.at = end;
        Some(bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take(4)?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes))
    }

    fn u64(&mut self) -> Option<u64> {
        self.take(8)?.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
    }

    fn name(&mut self) -> Option<&'a [u8]> {
        let length = self.u64().filter(|length| (1..=LONGEST_NAME).contains(length))?;
        self.take(length).filter(|name| name.iter().all(u8::is_ascii_graphic))
    }

    /// An entry of the list of tensors: its offset.
    fn entry(&mut self) -> Option<u64> {
        self.name()?;
        let dimensions = self.u32().filter(|count| *count <= 4)?;
        for _ in 0..dimensions {
            self.u64().filter(|size| *size < 1 << 48)?;
        }
        self.u32().filter(|kind| *kind < 256)?;
        self.u64().filter(|offset| *offset < 1 << 48)
    }

    /// A key with its value.
    fn key(&mut self) -> Option<()> {
        let name = self.name()?;
        if !name.contains(&b'.') {
            return None;
        }
        let kind = self.u32()?;
        match kind {
            9 => {
                let (kind, count) = (self.u32()?, self.u64()?);
                match (kind, size_of(kind)) {
                    (_, Some(size)) => drop(self.take(count.checked_mul(size)?)?),
                    (8, None) => {
                        for _ in 0..count {
                            let length = self.u64()?;
                            self.take(length)?;
                        }
                    }
                    _ => return None,
                }
            }
            8 => {
                let length = self.u64()?;
                self.take(length)?;
            }
            kind => drop(self.take(size_of(kind)?)?),
        }
        Some(())
    }
}

/// Bytes of a value of that type.
fn size_of(kind: u32) -> Option<u64> {
    match kind {
        0 | 1 | 7 => Some(1),
        2 | 3 => Some(2),
        4..=6 => Some(4),
        10..=12 => Some(8),
        _ => None,
    }
}

/// Whether bytes out of the middle of a file are of a vocabulary or of a text after it, rather than of the list of tensors or of data.
fn is_vocabulary(bytes: &[u8]) -> bool {
    let entries = |at| {
        let mut cursor = Cursor { bytes, at };
        cursor.entry().and_then(|_| cursor.entry()).is_some()
    };
    if (0..bytes.len()).any(entries) {
        return false;
    }
    let quarters: Vec<&[u8]> = bytes.chunks((bytes.len() / 4).max(64)).collect();
    quarters.iter().filter(|part| is_texts(part) || is_types(part) || is_scores(part) || is_text(part)).count() >= 2
}

/// Texts one after the other, each with its length.
fn is_texts(bytes: &[u8]) -> bool {
    let chain = |at: usize| {
        let mut cursor = Cursor { bytes, at };
        let mut count = 0;
        while let Some(length) = cursor.u64() {
            if !(1..=256).contains(&length) {
                return false;
            }
            count += 1;
            if cursor.take(length).is_none() {
                break;
            }
        }
        count >= 4
    };
    (0..bytes.len().min(272)).any(chain)
}

/// The types of tokens: small numbers.
fn is_types(bytes: &[u8]) -> bool {
    words(bytes).any(|mut words| words.all(|word| (1..=16).contains(&word)))
}

/// The scores of tokens: they never rise.
fn is_scores(bytes: &[u8]) -> bool {
    words(bytes).any(|words| {
        let (mut last, mut sum) = (0.0, 0.0);
        for score in words.map(f32::from_bits) {
            if !(score.is_finite() && score <= last) {
                return false;
            }
            (last, sum) = (score, sum + score);
        }
        sum < 0.0
    })
}

/// The numbers of four bytes, from each place where the first may begin.
fn words(bytes: &[u8]) -> impl Iterator<Item = impl Iterator<Item = u32> + '_> + '_ {
    (0..4).map(|skip| {
        bytes.get(skip..).unwrap_or_default().as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word))
    })
}

/// Mostly letters.
fn is_text(bytes: &[u8]) -> bool {
    let letters = bytes.iter().filter(|byte| byte.is_ascii_graphic() || byte.is_ascii_whitespace()).count();
    letters * 10 >= bytes.len() * 9
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::gguf::{TensorType, Writer};

    fn model(words: usize, tensors: u64, scores: bool) -> Vec<u8> {
        let vocabulary: Vec<String> = (0..words).map(|n| format!("w{:x}", n * 7919)).collect();
        let merges: Vec<String> = (0..words * 2).map(|n| format!("a{:x} b{:x}", n, n * 31)).collect();
        let mut writer = Writer::new("llama")
            .key("llama.block_count", 2_u32)
            .key("llama.context_length", 4096_u32)
            .key("llama.embedding_length", 128_u32)
            .key("llama.attention.head_count", 4_u32)
            .key("tokenizer.ggml.tokens", vocabulary);
        if scores {
            writer = writer.key("tokenizer.ggml.scores", (0..words).map(|n| -(n as f32)).collect::<Vec<f32>>());
        }
        writer = writer
            .key("tokenizer.ggml.token_type", vec![1_i32; words])
            .key("tokenizer.ggml.merges", merges)
            .key("tokenizer.ggml.bos_token_id", 1_u32)
            .key("tokenizer.chat_template", "{% for message in messages %}".repeat(200))
            .key("general.license", "mit")
            .key("general.file_type", 1_u32);
        for number in 0..tensors {
            writer =
                writer.tensor(&format!("blk.{}.t{number}.weight", number % 2), &[32, 100 + number], TensorType::F16);
        }
        let mut bytes = Vec::new();
        writer.write_to(&mut bytes, 1).unwrap();
        bytes
    }

    /// What is found, and the bytes and rounds that it took.
    fn search(file: &[u8], first: usize) -> (Option<Metadata>, u64, u32) {
        let part = |range: &Range<u64>| file[range.start as usize..range.end as usize].to_vec();
        let Some(mut tail) = Tail::of(&file[..first], file.len() as u64) else { return (None, 0, 0) };
        let (mut taken, mut rounds) = (0, 0);
        loop {
            let looks = tail.looks();
            if looks.is_empty() {
                break;
            }
            rounds += 1;
            let looks: Vec<_> = looks.into_iter().map(|range| (range.clone(), part(&range))).collect();
            taken += looks.iter().map(|(_, bytes)| bytes.len() as u64).sum::<u64>();
            tail.narrow(&looks);
        }
        let rest = tail.rest();
        (tail.finish(&part(&rest), "m.gguf"), taken + rest.end - rest.start, rounds)
    }

    #[test]
    fn what_follows_a_vocabulary_is_found() {
        for (words, tensors, scores) in
            [(20_000, 3, false), (130_000, 300, false), (32_000, 201, true), (260_000, 1000, true)]
        {
            let file = model(words, tensors, scores);
            let (found, taken, rounds) = search(&file, 64 << 10);
            let found = found.unwrap_or_else(|| panic!("{words} {tensors}"));
            let (header, result) =
                Header::read_as_far_as_possible(std::io::Cursor::new(&file), file.len() as u64, Depth::Whole);
            result.unwrap();
            assert_eq!(
                found,
                super::super::describe(&header, Named::of("m.gguf"), Structure::Partial),
                "{words} {tensors}"
            );
            assert!(taken < 320 << 10 && rounds <= 4, "{words} {tensors}: {taken} bytes in {rounds} rounds");
        }
    }

    #[test]
    fn one_large_tensor_behind_long_words_is_found() {
        let vocabulary: Vec<String> = (0..40_000).map(|word| format!("a long word of the vocabulary {word}")).collect();
        let mut file = Vec::new();
        Writer::new("llama")
            .key("llama.block_count", 1_u32)
            .key("tokenizer.ggml.tokens", vocabulary)
            .key("general.license", "mit")
            .tensor("blk.0.weight", &[32, 1 << 17], TensorType::F16)
            .write_to(&mut file, 7)
            .unwrap();
        let found = search(&file, 64 << 10).0.unwrap();
        assert_eq!((found.parameters, found.licence.as_deref()), (Some(1 << 22), Some("mit")));
    }

    #[test]
    fn what_is_not_there_is_not_found() {
        let file = model(20_000, 3, false);
        // Cut, longer, or with another number of tensors.
        assert!(search(&file[..file.len() - 100], 64 << 10).0.is_none());
        let mut longer = file.clone();
        longer.extend([0; 5000]);
        assert!(search(&longer, 64 << 10).0.is_none());
        for count in [2_u64, 4, 0, 1 << 40] {
            let mut other = file.clone();
            other[8..16].copy_from_slice(&count.to_le_bytes());
            assert!(search(&other, 64 << 10).0.is_none(), "{count}");
        }
        // Bytes of any kind end, too.
        let mut state = 1_u32;
        let noise: Vec<u8> = (0..file.len())
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                state.to_le_bytes()[3]
            })
            .collect();
        for kept in [64 << 10, 100 << 10, 300 << 10] {
            let mut broken = file.clone();
            broken[kept..].copy_from_slice(&noise[kept..]);
            assert!(search(&broken, 64 << 10).0.is_none(), "{kept}");
        }
    }
}
