//! The header of one file.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Read};

use ::safetensors::Dtype;

use super::LONGEST_HEADER;
use super::parse::{Raw, Tensor, parse};
use crate::format::Structure;
use crate::format::names::TensorNames;
use crate::format::warnings::{Warnings, counted, shown};
use crate::model::text;

/// Headers up to this length are read: as the official client does from afar. Real ones have a few MB at most.
const MOST_READ: u64 = 25_000_000;
/// Tensors that are looked at for the rank of an adapter.
const MOST_FACTORS: usize = 4096;
/// Types that are not known and are named.
const MOST_UNKNOWN: usize = 8;
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
    /// More of what it says than is read of any file: which limit it is.
    TooMuch(String),
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
            Self::TooMuch(what) => write!(f, "its header is larger than this program reads: {}", text::printable(what)),
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TensorInfo<'a> {
    /// Its name; not made printable.
    pub name: &'a str,
    /// Its type as the header names it; of a file with very many types, `?` for the later ones.
    pub dtype: &'a str,
    /// Its shape, the slowest dimension first.
    pub shape: &'a [u64],
    /// Where its data begins, from the end of the header.
    pub begin: u64,
    /// Where its data ends.
    pub end: u64,
    /// Its type, if the crate knows it.
    pub(super) known: Option<Dtype>,
    /// The same number for the same type.
    pub(super) kind: u8,
}

impl TensorInfo<'_> {
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
    raw: Raw,
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
        let mut bytes = Vec::with_capacity(usize::try_from(header).unwrap_or(0));
        reader.take(header).read_to_end(&mut bytes).map_err(Error::Io)?;
        let raw = parse(bytes)?;
        Self::check(raw, data_start, length)
    }

    /// Holds the header to what the crate demands: no holes, no overlaps, sizes that follow from type and shape.
    fn check(mut raw: Raw, data_start: u64, length: u64) -> Result<Self, Error> {
        let mut warnings = Warnings::default();
        let order = |tensor: &Tensor| (tensor.begin, tensor.end);
        if !raw.tensors.is_sorted_by_key(order) {
            raw.tensors.sort_by_key(order);
        }
        let (mut at, mut elements) = (0u64, 0u64);
        let mut unknown = [0_u64; 256];
        for tensor in raw.tensors.iter().map(|tensor| raw.info(tensor)) {
            let wrong = |why: &str| Error::Malformed(format!("tensor '{}': {why}", shown(tensor.name.as_bytes())));
            if tensor.begin != at || tensor.end < tensor.begin {
                return Err(wrong("its data does not begin where the last one ends"));
            }
            at = tensor.end;
            let count = tensor.elements().ok_or_else(|| wrong("its shape multiplies beyond 2^64"))?;
            elements = elements.checked_add(count).ok_or_else(|| wrong("more than 2^64 elements"))?;
            match tensor.known {
                Some(dtype) => {
                    let bits = count.checked_mul(dtype.bitsize() as u64).ok_or_else(|| wrong("too large"))?;
                    if bits % 8 != 0 || bits / 8 != tensor.end - tensor.begin {
                        return Err(wrong("its data is not as long as type and shape say"));
                    }
                }
                None => unknown[usize::from(tensor.kind)] += 1,
            }
        }
        let unknown = (0..=u8::MAX).zip(unknown).filter(|(_, count)| *count > 0);
        for (kind, count) in unknown.take(MOST_UNKNOWN) {
            warnings.add(format!(
                "{} of unknown type {}: a newer reader is needed",
                counted(count, "tensor"),
                shown(raw.dtype(kind).as_bytes())
            ));
        }
        let need = data_start.checked_add(at).ok_or_else(|| Error::Malformed("data ends beyond 2^64".to_owned()))?;
        let structure = match length.checked_sub(need) {
            Some(0) => Structure::Whole,
            Some(bytes) => Structure::Extra { bytes },
            None => Structure::Truncated { missing: Some(need - length) },
        };
        Ok(Self { raw, elements, data_bytes: at, structure, warnings: warnings.into_lines() })
    }

    /// The tensors in the order of their data.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = TensorInfo<'_>> {
        self.raw.tensors.iter().map(|tensor| self.raw.info(tensor))
    }

    /// `__metadata__`, as far as it was kept; not made printable.
    #[must_use]
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.raw.metadata
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

    /// The names of its tensors, as far as sets of files are compared by them.
    pub(super) fn names(&self) -> TensorNames {
        let mut names = TensorNames::default();
        self.tensors().for_each(|tensor| names.add(tensor.name.as_bytes()));
        names
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
        let part = |tensor: TensorInfo<'_>| tensor.name.contains("lora_") || tensor.name.contains(".lora.");
        !self.raw.tensors.is_empty() && self.tensors().all(part)
    }

    /// The rank of a low-rank adapter: the rows of its first factors, if all of those that are looked at have as many.
    pub(super) fn adapter_rank(&self) -> Option<u64> {
        let first = |tensor: &TensorInfo<'_>| {
            ["lora_A", "lora_down", "lora.down"].iter().any(|word| tensor.name.contains(word)) && tensor.shape.len() > 1
        };
        let factors = self.tensors().take(MOST_FACTORS).filter(first);
        let mut ranks = factors.filter_map(|tensor| tensor.shape.first().copied());
        let rank = ranks.next()?;
        ranks.all(|other| other == rank).then_some(rank)
    }

    /// The type that most bytes have.
    #[must_use]
    pub fn most_frequent(&self) -> Option<&str> {
        let mut bytes = [None::<u64>; 256];
        for tensor in self.tensors().filter(|tensor| tensor.known.is_some()) {
            let sum = &mut bytes[usize::from(tensor.kind)];
            *sum = Some(sum.unwrap_or(0).saturating_add(tensor.bytes()));
        }
        let sums = (0..=u8::MAX).zip(bytes).filter_map(|(kind, bytes)| Some((bytes?, self.raw.dtype(kind))));
        sums.max().map(|(_, dtype)| dtype)
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
