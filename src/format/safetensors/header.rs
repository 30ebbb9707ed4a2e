//! The header of one file.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Read};
use std::sync::Arc;

use ::safetensors::Dtype;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, IgnoredAny, IntoDeserializer, MapAccess, SeqAccess, Visitor};

use super::LONGEST_HEADER;
use crate::format::Structure;
use crate::format::json::has_many_escapes;
use crate::format::seen::Seen;
use crate::format::warnings::{Warnings, counted, shortened, shown};
use crate::model::text;

/// Headers up to this length are read: as the official client does from afar. Real ones have a few MB at most.
const MOST_READ: u64 = 25_000_000;
/// Tensors of a file; real ones have under 100,000.
const MOST_TENSORS: usize = 131_072;
/// Names of types that are kept once for all tensors.
const MOST_TYPES: usize = 64;
/// Dimensions of a tensor.
const MOST_DIMENSIONS: usize = 16;
/// Bytes of a tensor's name.
const LONGEST_NAME: usize = 65_535;
/// Entries of `__metadata__`; real ones have a few.
const MOST_ENTRIES: usize = 131_072;
/// Those that are kept, and characters of each.
const KEPT_ENTRIES: usize = 256;
const KEPT_TEXT: usize = 4_096;

/// Why a header could not be read. Each prints as one line without control characters.
#[derive(Debug)]
pub enum Error {
    /// It does not begin with the length of a JSON object.
    NotSafetensors,
    /// The file ends inside its header.
    Truncated {
        /// So many bytes of the header are missing.
        missing: u64,
    },
    /// Its header has so many bytes, more than are read.
    TooLong {
        /// Bytes of the header.
        bytes: u64,
    },
    /// Not what the format allows.
    Malformed(String),
    /// The system could not read the file.
    Io(io::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotSafetensors => f.write_str("not a safetensors file"),
            Self::Truncated { missing } => write!(f, "truncated in its header: at least {missing} bytes missing"),
            Self::TooLong { bytes } => {
                write!(f, "its header has {bytes} bytes, more than that of any model: it is not read")
            }
            Self::Malformed(what) => write!(f, "malformed safetensors: {}", text::printable(what)),
            Self::Io(error) => write!(f, "cannot read the header: {}", text::printable(&error.to_string())),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io(error) => Some(error),
            _ => None,
        }
    }
}

/// One tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Its name; not made printable.
    pub name: String,
    /// Its type as the header names it.
    pub dtype: Arc<str>,
    /// Its shape, the slowest dimension first.
    pub shape: Vec<u64>,
    /// Where its data begins, from the end of the header.
    pub begin: u64,
    /// Where its data ends.
    pub end: u64,
}

impl TensorInfo {
    /// Its type, if the crate knows it.
    fn known(&self) -> Option<Dtype> {
        let name: serde::de::value::StrDeserializer<'_, serde::de::value::Error> =
            self.dtype.as_ref().into_deserializer();
        Dtype::deserialize(name).ok()
    }

    /// Bytes of its data.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.end.saturating_sub(self.begin)
    }

    /// How many numbers it holds; `None` beyond 2^64.
    #[must_use]
    pub fn elements(&self) -> Option<u64> {
        self.shape.iter().try_fold(1u64, |product, n| product.checked_mul(*n))
    }
}

/// The header of one file.
#[derive(Clone, Debug)]
pub struct Header {
    tensors: Vec<TensorInfo>,
    metadata: BTreeMap<String, String>,
    elements: u64,
    data_bytes: u64,
    structure: Structure,
    warnings: Vec<String>,
}

impl Header {
    /// Reads the header of a file of `length` bytes, at whose start `reader` stands.
    ///
    /// # Errors
    /// [`Error`] says whether it is another kind of file, cut short or broken.
    pub fn read(mut reader: impl Read, length: u64) -> Result<Self, Error> {
        let header = header_length(&mut reader)?;
        if !(2..=LONGEST_HEADER).contains(&header) {
            return Err(Error::NotSafetensors);
        }
        let data_start = 8 + header;
        if let Some(missing) = data_start.checked_sub(length).filter(|missing| *missing > 0) {
            return Err(Error::Truncated { missing });
        }
        if header > MOST_READ {
            return Err(Error::TooLong { bytes: header });
        }
        let raw = parse(reader.take(header), header)?;
        Self::check(raw, data_start, length)
    }

    /// Holds the header to what the crate demands: no holes, no overlaps, sizes that follow from type and shape.
    fn check(raw: Raw, data_start: u64, length: u64) -> Result<Self, Error> {
        let Raw { mut tensors, metadata } = raw;
        let mut warnings = Warnings::default();
        tensors.sort_by_key(|tensor| (tensor.begin, tensor.end));
        let (mut at, mut elements) = (0u64, 0u64);
        let mut unknown: BTreeMap<Arc<str>, u64> = BTreeMap::new();
        for tensor in &tensors {
            let wrong = |why: &str| Error::Malformed(format!("tensor '{}': {why}", shown(tensor.name.as_bytes())));
            if tensor.begin != at || tensor.end < tensor.begin {
                return Err(wrong("its data does not begin where the last one ends"));
            }
            at = tensor.end;
            let count = tensor.elements().ok_or_else(|| wrong("its shape multiplies beyond 2^64"))?;
            elements = elements.checked_add(count).ok_or_else(|| wrong("more than 2^64 elements"))?;
            match tensor.known() {
                Some(dtype) => {
                    let bits = count.checked_mul(dtype.bitsize() as u64).ok_or_else(|| wrong("too large"))?;
                    if bits % 8 != 0 || bits / 8 != tensor.end - tensor.begin {
                        return Err(wrong("its data is not as long as type and shape say"));
                    }
                }
                None if unknown.len() < 8 || unknown.contains_key(&tensor.dtype) => {
                    *unknown.entry(Arc::clone(&tensor.dtype)).or_default() += 1;
                }
                None => {}
            }
        }
        for (dtype, count) in unknown {
            warnings.add(format!(
                "{} of unknown type {}: a newer reader is needed",
                counted(count, "tensor"),
                shown(dtype.as_bytes())
            ));
        }
        let need = data_start.checked_add(at).ok_or_else(|| Error::Malformed("data ends beyond 2^64".to_owned()))?;
        let structure = match length.checked_sub(need) {
            Some(0) => Structure::Whole,
            Some(bytes) => Structure::Extra { bytes },
            None => Structure::Truncated { missing: Some(need - length) },
        };
        Ok(Self { tensors, metadata, elements, data_bytes: at, structure, warnings: warnings.into_lines() })
    }

    /// The tensors in the order of their data.
    #[must_use]
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// `__metadata__`, as far as it was kept; not made printable.
    #[must_use]
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// Numbers in all tensors.
    #[must_use]
    pub fn elements(&self) -> u64 {
        self.elements
    }

    /// Bytes of all tensors.
    #[must_use]
    pub fn data_bytes(&self) -> u64 {
        self.data_bytes
    }

    /// What the header says about the length of the file.
    #[must_use]
    pub fn structure(&self) -> Structure {
        self.structure
    }

    /// What is odd, one printable line each.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Whether every tensor belongs to a low-rank adapter.
    #[must_use]
    pub fn is_adapter(&self) -> bool {
        let part = |tensor: &TensorInfo| tensor.name.contains("lora_") || tensor.name.contains(".lora.");
        !self.tensors.is_empty() && self.tensors.iter().all(part)
    }

    /// The rank of a low-rank adapter: the rows of its first factors, if all have as many.
    pub(super) fn adapter_rank(&self) -> Option<u64> {
        let first = |tensor: &&TensorInfo| {
            ["lora_A", "lora_down", "lora.down"].iter().any(|word| tensor.name.contains(word)) && tensor.shape.len() > 1
        };
        let mut ranks = self.tensors.iter().filter(first).filter_map(|tensor| tensor.shape.first().copied());
        let rank = ranks.next()?;
        ranks.all(|other| other == rank).then_some(rank)
    }

    /// The type that most bytes have.
    #[must_use]
    pub fn most_frequent(&self) -> Option<&str> {
        let mut bytes: BTreeMap<&str, u64> = BTreeMap::new();
        for tensor in self.tensors.iter().filter(|tensor| tensor.known().is_some()) {
            *bytes.entry(&tensor.dtype).or_default() += tensor.end - tensor.begin;
        }
        bytes.into_iter().max_by_key(|(_, bytes)| *bytes).map(|(dtype, _)| dtype)
    }
}

/// The length that the header says it has.
pub(super) fn header_length(reader: &mut impl Read) -> Result<u64, Error> {
    let mut length = [0; 8];
    reader.read_exact(&mut length).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => Error::NotSafetensors,
        _ => Error::Io(error),
    })?;
    Ok(u64::from_le_bytes(length))
}

fn parse(mut reader: impl Read, length: u64) -> Result<Raw, Error> {
    let wrong = |error: serde_json::Error| Error::Malformed(shortened(&error.to_string(), 200));
    let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or(0));
    reader.read_to_end(&mut bytes).map_err(Error::Io)?;
    if bytes.first() != Some(&b'{') {
        return Err(Error::NotSafetensors);
    }
    if has_many_escapes(&bytes) {
        return Err(Error::Malformed("more escapes in its texts than in those of any model".to_owned()));
    }
    serde_json::from_slice(&bytes).map_err(wrong)
}

/// The header as it stands in the file.
struct Raw {
    tensors: Vec<TensorInfo>,
    metadata: BTreeMap<String, String>,
}

/// An entry of the header.
#[derive(Deserialize)]
struct Entry<'a> {
    #[serde(borrow)]
    dtype: Cow<'a, str>,
    shape: Shape,
    data_offsets: (u64, u64),
}

struct Shape(Vec<u64>);

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Dimensions;

        impl<'de> Visitor<'de> for Dimensions {
            type Value = Shape;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of dimensions")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Shape, A::Error> {
                let mut shape = Vec::new();
                while let Some(dimension) = list.next_element()? {
                    if shape.len() == MOST_DIMENSIONS {
                        return Err(A::Error::custom(format!("more than {MOST_DIMENSIONS} dimensions")));
                    }
                    shape.push(dimension);
                }
                Ok(Shape(shape))
            }
        }

        deserializer.deserialize_seq(Dimensions)
    }
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

/// The name of a type, which is kept once.
fn kept(types: &mut Vec<Arc<str>>, name: &str) -> Arc<str> {
    if let Some(known) = types.iter().find(|known| known.as_ref() == name) {
        return Arc::clone(known);
    }
    let name: Arc<str> = cut(name).into();
    if types.len() < MOST_TYPES {
        types.push(Arc::clone(&name));
    }
    name
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;

        impl<'de> Visitor<'de> for Entries {
            type Value = Raw;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Raw, A::Error> {
                let mut raw = Raw { tensors: Vec::new(), metadata: BTreeMap::new() };
                let (mut types, mut seen) = (Vec::new(), Seen::default());
                while let Some(Piece(name)) = map.next_key::<Piece<'de>>()? {
                    if !seen.insert(name.as_bytes()) {
                        return Err(A::Error::custom(format!("'{}' is there twice", shown(name.as_bytes()))));
                    }
                    if name == "__metadata__" {
                        raw.metadata = map.next_value::<Texts>()?.0;
                        continue;
                    }
                    if raw.tensors.len() == MOST_TENSORS || name.len() > LONGEST_NAME {
                        return Err(A::Error::custom("more or longer names of tensors than any model has"));
                    }
                    let Entry { dtype, shape, data_offsets: (begin, end) } = map.next_value()?;
                    let dtype = kept(&mut types, &dtype);
                    raw.tensors.push(TensorInfo { name: name.into_owned(), dtype, shape: shape.0, begin, end });
                }
                Ok(raw)
            }
        }

        deserializer.deserialize_map(Entries)
    }
}
