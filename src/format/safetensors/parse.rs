//! The JSON of a header, taken apart in one walk over its bytes.
//!
//! A header has nothing but names, types and whole numbers, a hundred thousand times, so that a reader made for it takes a
//! fraction of the time of one for any JSON. What is rare goes to `serde_json`: texts with escapes, `__metadata__`, keys that
//! the format does not have.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::fmt;

use ::safetensors::Dtype;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, IgnoredAny, IntoDeserializer, MapAccess, Visitor};

use super::header::{Error, TensorInfo};
use crate::format::json::{has_many_escapes, run_length};
use crate::format::seen::Seen;
use crate::format::warnings::{shortened, shown};

/// Tensors of a file. The largest sets, with 256 experts in each of 61 layers, have 92,000 in 163 files; with scales and zero
/// points beside each, a set of 40 files has 20,000 in each.
const MOST_TENSORS: usize = 100_000;
/// Types whose names are kept; the format has 24.
const MOST_TYPES: u8 = 32;
/// Dimensions of a tensor, as many as numpy has at most, and those of all tensors.
const MOST_DIMENSIONS: u8 = 64;
const ALL_DIMENSIONS: usize = 16 * MOST_TENSORS;
/// Bytes of a tensor's name.
const LONGEST_NAME: usize = 65_535;
/// Keys of one tensor that the format does not have.
const MOST_UNKNOWN: usize = 64;
/// Entries of `__metadata__`; real ones have a few.
const MOST_ENTRIES: usize = 131_072;
/// Those that are kept, and characters of each.
const KEPT_ENTRIES: usize = 256;
const KEPT_TEXT: usize = 4_096;

/// The header as it stands in the file: names are kept where they stand, shapes behind each other.
#[derive(Clone, Debug, Default)]
pub(super) struct Raw {
    text: String,
    /// Names that have escapes.
    decoded: String,
    shapes: Vec<u64>,
    types: Vec<(String, Option<Dtype>)>,
    pub(super) tensors: Vec<Tensor>,
    pub(super) metadata: BTreeMap<String, String>,
}

/// An entry.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tensor {
    pub(super) begin: u64,
    pub(super) end: u64,
    name: Name,
    shape: u32,
    dimensions: u8,
    dtype: u8,
}

#[derive(Clone, Copy, Debug)]
struct Name {
    start: u32,
    length: u32,
    is_decoded: bool,
}

impl Raw {
    /// An entry for others.
    pub(super) fn info(&self, tensor: &Tensor) -> TensorInfo<'_> {
        let Name { start, length, is_decoded } = tensor.name;
        let (start, length) = (start as usize, length as usize);
        let text = if is_decoded { &self.decoded } else { &self.text };
        let (first, dimensions) = (tensor.shape as usize, usize::from(tensor.dimensions));
        TensorInfo {
            name: text.get(start..start + length).unwrap_or_default(),
            dtype: self.dtype(tensor.dtype),
            shape: self.shapes.get(first..first + dimensions).unwrap_or_default(),
            begin: tensor.begin,
            end: tensor.end,
            known: self.types.get(usize::from(tensor.dtype)).and_then(|(_, dtype)| *dtype),
            kind: tensor.dtype,
        }
    }

    /// The name of a type; of a file with very many types, `?` for the later ones.
    pub(super) fn dtype(&self, kind: u8) -> &str {
        self.types.get(usize::from(kind)).map_or("?", |(name, _)| name)
    }
}

/// Takes the bytes of a header apart.
pub(super) fn parse(bytes: Vec<u8>) -> Result<Raw, Error> {
    if bytes.iter().find(|byte| !is_white(**byte)) != Some(&b'{') {
        return Err(Error::NotSafetensors);
    }
    if has_many_escapes(&bytes) {
        return Err(Error::TooMuch("very many escapes in its texts".to_owned()));
    }
    let text = String::from_utf8(bytes).map_err(|_| malformed("it is no UTF-8"))?;
    let raw = Walk { text: &text, bytes: text.as_bytes(), at: 0 }.header()?;
    Ok(Raw { text, ..raw })
}

/// Whether a byte may stand between the parts of JSON.
pub(super) fn is_white(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

fn malformed(what: impl Into<String>) -> Error {
    Error::Malformed(what.into())
}

/// Stands at a byte of the header.
struct Walk<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Walk<'a> {
    fn header(mut self) -> Result<Raw, Error> {
        let mut raw = Raw::default();
        let mut seen = Seen::default();
        let (mut last_type, mut twice) = (0, false);
        self.open(b'{')?;
        let mut first = true;
        while self.next(b'}', &mut first)? {
            let (at, name) = self.key()?;
            let is_new = seen.insert(name.as_bytes());
            if name == "__metadata__" {
                if !is_new {
                    return Err(malformed(format!("'{name}' is there twice")));
                }
                raw.metadata = self.other::<Option<Texts>>()?.map_or_else(BTreeMap::new, |texts| texts.0);
                continue;
            }
            twice |= !is_new;
            if raw.tensors.len() == MOST_TENSORS {
                return Err(Error::TooMuch(format!("more than {MOST_TENSORS} tensors")));
            }
            if name.len() > LONGEST_NAME {
                return Err(Error::TooMuch(format!("a name of {} bytes", name.len())));
            }
            let mut tensor = self.tensor(&mut raw, &mut last_type).map_err(|error| match error {
                Error::Malformed(why) => malformed(format!("tensor '{}': {why}", shown(name.as_bytes()))),
                other => other,
            })?;
            tensor.name = self.place(at, name, &mut raw.decoded)?;
            raw.tensors.push(tensor);
        }
        self.white();
        if self.at < self.bytes.len() {
            return Err(self.wrong("more after its end"));
        }
        if twice {
            self.keep_last(&mut raw);
        }
        Ok(raw)
    }

    /// Of entries with the same name the last counts, as for the crate.
    fn keep_last(&self, raw: &mut Raw) {
        let mut names: HashSet<&str> = HashSet::with_capacity(raw.tensors.len());
        let text = |name: Name| {
            let text = if name.is_decoded { raw.decoded.as_str() } else { self.text };
            text.get(name.start as usize..name.start as usize + name.length as usize).unwrap_or_default()
        };
        let mut kept: Vec<Tensor> = Vec::with_capacity(raw.tensors.len());
        kept.extend(raw.tensors.iter().rev().filter(|tensor| names.insert(text(tensor.name))));
        kept.reverse();
        raw.tensors = kept;
    }

    /// Where a name stands that begins at `at` of the header.
    fn place(&self, at: usize, name: Cow<'a, str>, decoded: &mut String) -> Result<Name, Error> {
        let (start, length, is_decoded) = match name {
            Cow::Borrowed(name) => (at, name.len(), false),
            Cow::Owned(name) => {
                decoded.push_str(&name);
                (decoded.len() - name.len(), name.len(), true)
            }
        };
        let number = |number: usize| u32::try_from(number).map_err(|_| self.wrong("too far on"));
        Ok(Name { start: number(start)?, length: number(length)?, is_decoded })
    }

    /// An entry without its name.
    fn tensor(&mut self, raw: &mut Raw, last_type: &mut usize) -> Result<Tensor, Error> {
        self.white();
        if self.peek() == Some(b'[') {
            return self.listed_tensor(raw, last_type);
        }
        let (mut dtype, mut shape, mut place) = (None, None, None);
        let (mut first, mut unknown) = (true, 0);
        self.open(b'{')?;
        while self.next(b'}', &mut first)? {
            let (_, key) = self.key()?;
            let is_new = match key.as_ref() {
                "dtype" => dtype.replace(kind_of(&self.dtype()?, &mut raw.types, last_type)).is_none(),
                "shape" => shape.replace(self.numbers(&mut raw.shapes)?).is_none(),
                "data_offsets" => place.replace(self.pair()?).is_none(),
                _ => {
                    self.other::<IgnoredAny>()?;
                    unknown += 1;
                    if unknown > MOST_UNKNOWN {
                        return Err(Error::TooMuch(format!("more than {MOST_UNKNOWN} unknown keys of a tensor")));
                    }
                    true
                }
            };
            if !is_new {
                return Err(malformed(format!("{key} is there twice")));
            }
        }
        let missing = |what: &str| malformed(format!("it has no {what}"));
        let dtype = dtype.ok_or_else(|| missing("dtype"))?;
        let (shape, dimensions) = shape.ok_or_else(|| missing("shape"))?;
        let (begin, end) = place.ok_or_else(|| missing("data_offsets"))?;
        Ok(Tensor { begin, end, name: Name { start: 0, length: 0, is_decoded: false }, shape, dimensions, dtype })
    }

    /// An entry that is a list of its values, which the crate takes, too.
    fn listed_tensor(&mut self, raw: &mut Raw, last_type: &mut usize) -> Result<Tensor, Error> {
        self.open(b'[')?;
        let dtype = kind_of(&self.dtype()?, &mut raw.types, last_type);
        self.open(b',')?;
        let (shape, dimensions) = self.numbers(&mut raw.shapes)?;
        self.open(b',')?;
        let (begin, end) = self.pair()?;
        self.open(b']')?;
        Ok(Tensor { begin, end, name: Name { start: 0, length: 0, is_decoded: false }, shape, dimensions, dtype })
    }

    /// The name of a type, which may also stand as the only key of an object.
    fn dtype(&mut self) -> Result<Cow<'a, str>, Error> {
        self.white();
        if self.peek() == Some(b'{') {
            return Err(Error::TooMuch("a type that is an object".to_owned()));
        }
        Ok(self.string()?.1)
    }

    fn wrong(&self, what: &str) -> Error {
        malformed(format!("{what} at byte {}", self.at))
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn white(&mut self) {
        // Most writers leave none.
        if self.peek().is_some_and(|byte| byte > b' ') {
            return;
        }
        while self.peek().is_some_and(is_white) {
            self.at += 1;
        }
    }

    fn open(&mut self, sign: u8) -> Result<(), Error> {
        self.white();
        if self.peek() != Some(sign) {
            return Err(self.wrong(&format!("no '{}'", char::from(sign))));
        }
        self.at += 1;
        Ok(())
    }

    /// Whether another entry follows before the end of an object or a list, which is taken; `first` is whether none came before.
    fn next(&mut self, end: u8, first: &mut bool) -> Result<bool, Error> {
        self.white();
        let byte = self.peek();
        if byte == Some(end) {
            self.at += 1;
            return Ok(false);
        }
        if std::mem::take(first) {
            return Ok(true);
        }
        if byte != Some(b',') {
            return Err(self.wrong("neither a comma nor an end"));
        }
        self.at += 1;
        self.white();
        if self.peek() == Some(end) {
            return Err(self.wrong("nothing after a comma"));
        }
        Ok(true)
    }

    fn key(&mut self) -> Result<(usize, Cow<'a, str>), Error> {
        let key = self.string()?;
        self.open(b':')?;
        Ok(key)
    }

    /// Where a text begins, and the text, decoded only if it has escapes.
    fn string(&mut self) -> Result<(usize, Cow<'a, str>), Error> {
        self.open(b'"')?;
        let begin = self.at;
        let mut escaped = false;
        loop {
            let here = self.bytes.get(self.at..).unwrap_or_default();
            self.at += run_length(here);
            match self.peek() {
                Some(b'"') => break,
                Some(b'\\') => {
                    escaped = true;
                    self.at += 2;
                }
                _ => return Err(self.wrong("a text that does not end")),
            }
        }
        let end = self.at;
        self.at += 1;
        if escaped {
            let quoted = self.text.get(begin - 1..=end).unwrap_or_default();
            let decoded = serde_json::from_str(quoted).map_err(|_| self.wrong("a text that is none"))?;
            return Ok((begin, Cow::Owned(decoded)));
        }
        let text = self.text.get(begin..end).ok_or_else(|| self.wrong("a text that is none"))?;
        Ok((begin, Cow::Borrowed(text)))
    }

    fn number(&mut self) -> Result<u64, Error> {
        self.white();
        let here = self.bytes.get(self.at..).unwrap_or_default();
        let (mut number, mut count) = (0_u64, 0);
        for byte in here {
            let digit = byte.wrapping_sub(b'0');
            if digit > 9 {
                break;
            }
            // Eighteen digits fit whatever they are.
            number = match count {
                0..18 => number * 10 + u64::from(digit),
                _ => number
                    .checked_mul(10)
                    .and_then(|number| number.checked_add(u64::from(digit)))
                    .ok_or_else(|| self.wrong("a number beyond 2^64"))?,
            };
            count += 1;
        }
        let zero_first = count > 1 && here.first() == Some(&b'0');
        if count == 0 || zero_first || matches!(here.get(count), Some(b'.' | b'e' | b'E')) {
            return Err(self.wrong("no whole number"));
        }
        self.at += count;
        Ok(number)
    }

    /// Adds a list of dimensions to `shapes` and gives where it begins and how many there are.
    fn numbers(&mut self, shapes: &mut Vec<u64>) -> Result<(u32, u8), Error> {
        let (begin, mut count) = (shapes.len(), 0);
        let mut first = true;
        self.open(b'[')?;
        while self.next(b']', &mut first)? {
            if count == MOST_DIMENSIONS || shapes.len() == ALL_DIMENSIONS {
                return Err(Error::TooMuch(format!(
                    "a tensor of more than {MOST_DIMENSIONS} dimensions, or too many of all"
                )));
            }
            shapes.push(self.number()?);
            count += 1;
        }
        let begin = u32::try_from(begin).map_err(|_| self.wrong("too many dimensions"))?;
        Ok((begin, count))
    }

    fn pair(&mut self) -> Result<(u64, u64), Error> {
        self.open(b'[')?;
        let begin = self.number()?;
        self.open(b',')?;
        let end = self.number()?;
        self.open(b']')?;
        Ok((begin, end))
    }

    /// A value of another kind.
    fn other<T: Deserialize<'a>>(&mut self) -> Result<T, Error> {
        let rest = self.text.get(self.at..).unwrap_or_default();
        let mut values = serde_json::Deserializer::from_str(rest).into_iter::<T>();
        let value = values.next().ok_or_else(|| self.wrong("no value"))?;
        let value = value.map_err(|error| malformed(shortened(&error.to_string(), 200)))?;
        self.at += values.byte_offset();
        Ok(value)
    }
}

/// The place of a type among those that occur, of which a bounded number is kept.
fn kind_of(name: &str, types: &mut Vec<(String, Option<Dtype>)>, last: &mut usize) -> u8 {
    if types.get(*last).is_none_or(|(known, _)| known != name) {
        let at = types.iter().position(|(known, _)| known == name);
        *last = at.unwrap_or_else(|| {
            if types.len() < usize::from(MOST_TYPES) {
                let text: serde::de::value::StrDeserializer<'_, serde::de::value::Error> = name.into_deserializer();
                types.push((cut(name), Dtype::deserialize(text).ok()));
                return types.len() - 1;
            }
            usize::from(MOST_TYPES)
        });
    }
    u8::try_from(*last).unwrap_or(MOST_TYPES)
}

/// `__metadata__`, of which a bounded part is kept.
struct Texts(BTreeMap<String, String>);

impl<'de> Deserialize<'de> for Texts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;

        impl<'de> Visitor<'de> for Entries {
            type Value = Texts;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of texts")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Texts, A::Error> {
                let mut texts = BTreeMap::new();
                while texts.len() < KEPT_ENTRIES {
                    let Some((name, value)) = map.next_entry::<Piece<'de>, Piece<'de>>()? else {
                        return Ok(Texts(texts));
                    };
                    texts.insert(cut(&name.0), cut(&value.0));
                }
                let mut more = 0;
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {
                    more += 1;
                    if more > MOST_ENTRIES {
                        return Err(A::Error::custom("more metadata than any model has"));
                    }
                }
                Ok(Texts(texts))
            }
        }

        deserializer.deserialize_map(Entries)
    }
}

/// A text, taken from the header where it has no escapes.
#[derive(Deserialize)]
struct Piece<'a>(#[serde(borrow)] Cow<'a, str>);

fn cut(value: &str) -> String {
    value.char_indices().nth(KEPT_TEXT).and_then(|(at, _)| value.get(..at)).unwrap_or(value).to_owned()
}
