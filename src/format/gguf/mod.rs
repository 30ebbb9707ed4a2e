//! GGUF: the files of llama.cpp and what is built on it.
//!
//! The reader takes versions 1 to 3 in either byte order, reads the header only, and believes nothing in it before it is
//! compared with the length of the file: no length, count or offset sizes an allocation, arrays are passed over, and a
//! type that is not known stays a number. It tells a file that was cut from one that is broken and from one that is new.
//!
//! The writer makes small valid files, for demonstrations and tests.
//!
//! Source of the format: ggml's `docs/gguf.md` and `src/gguf.cpp`.

mod describe;
mod error;
mod file_type;
mod layout;
mod read;
mod shape;
mod source;
mod tail;
mod types;
mod value;
mod write;

use std::io::{Read, Seek};

use super::names::TensorNames;
use super::warnings::counted;

pub(super) use describe::describe;
pub use error::Error;
pub use file_type::FileType;
pub use layout::Layout;
pub use tail::Tail;
pub use types::TensorType;
pub use value::{Array, Text, Value, ValueType};
pub use write::Writer;

/// How much of a header is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Its first 64 KiB: the `general.*` keys and those of the architecture come first, the vocabulary after them.
    Start,
    /// All of it; the tensors are counted, not kept.
    Whole,
    /// All of it, with the list of tensors.
    Tensors,
}

/// A header, as far as it was read.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Header {
    /// 1 to 3.
    pub version: u32,
    /// Whether every number is written in the other byte order.
    pub big_endian: bool,
    /// How many keys the file says it has.
    pub key_count: u64,
    /// How many tensors the file says it has.
    pub tensor_count: u64,
    /// Multiple on which the data of each tensor begins.
    pub alignment: u64,
    /// The keys in the order of the file; the first of those that are there twice, at most 4 MiB of them in all.
    pub keys: Vec<(String, Value)>,
    /// The tensors in the order of the file, if they were asked for.
    pub tensors: Vec<TensorInfo>,
    /// What the tensors add up to.
    pub tally: Tally,
    /// Tokens of the vocabulary, told by the length of its list.
    pub vocabulary: Option<u64>,
    /// How long the file must be; `None` when reading stopped before the last tensor.
    pub layout: Option<Layout>,
    /// Whether [`Depth::Start`] ended before the header did.
    pub stopped: bool,
    /// Bytes that were read; arrays that were passed over do not count.
    pub bytes_read: u64,
    /// The names of the tensors of a file that is one of several parts.
    pub(super) names: Option<TensorNames>,
    /// What is odd, one printable line each.
    pub warnings: Vec<String>,
}

impl Header {
    /// Reads the header of a file of `length` bytes, at whose start `reader` stands.
    ///
    /// # Errors
    /// [`Error`] says whether it is another kind of file, cut short, new or broken.
    pub fn read<R: Read + Seek>(reader: R, length: u64, depth: Depth) -> Result<Self, Error> {
        let (header, result) = read::read(reader, length, depth);
        result.map(|()| header)
    }

    /// Like [`Header::read`], and gives also what came before the place where reading failed.
    pub fn read_as_far_as_possible<R: Read + Seek>(reader: R, length: u64, depth: Depth) -> (Self, Result<(), Error>) {
        read::read(reader, length, depth)
    }

    /// The value of a key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.keys.iter().find(|(name, _)| name == key).map(|(_, value)| value)
    }

    /// The text of a key.
    #[must_use]
    pub fn text(&self, key: &str) -> Option<&str> {
        self.get(key).and_then(Value::as_str)
    }

    /// `general.architecture`.
    #[must_use]
    pub fn architecture(&self) -> Option<&str> {
        self.text("general.architecture")
    }
}

/// One tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Its name, decoded with replacement characters; not made printable.
    pub name: String,
    /// Its dimensions, the fastest first: at most four, none for a single number.
    pub dimensions: Vec<u64>,
    /// Its type.
    pub kind: TensorType,
    /// Where its data begins, from the start of the data.
    pub offset: u64,
}

impl TensorInfo {
    /// How many numbers it holds.
    #[must_use]
    pub fn elements(&self) -> u64 {
        self.checked_elements().unwrap_or(u64::MAX)
    }

    /// Bytes of its data; `None` for a type of unknown size.
    #[must_use]
    pub fn bytes(&self) -> Option<u64> {
        (self.elements() / self.kind.block_elements()?).checked_mul(self.kind.block_bytes()?)
    }

    fn checked_elements(&self) -> Option<u64> {
        let product = self.dimensions.iter().try_fold(1u64, |product, n| product.checked_mul(*n))?;
        (product < 1 << 63).then_some(product)
    }
}

/// What the tensors of a file add up to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Tally {
    /// Numbers in all tensors.
    pub parameters: u64,
    /// Bytes of all tensors whose type is known.
    pub bytes: u64,
    /// Numbers in the tensors of experts.
    pub expert_parameters: u64,
    /// Bytes of the table of token embeddings.
    pub embedding_bytes: u64,
    /// Rows of that table: the tokens that it has room for.
    pub embedding_rows: Option<u64>,
    /// One more than the highest number of a layer in the names of tensors, `blk.N.`.
    pub blocks: Option<u64>,
    /// Whether the output has weights of its own.
    pub output: bool,
    /// Tensors of a low-rank adapter.
    pub adapter_tensors: u64,
    /// Tensors of an importance matrix.
    pub imatrix_tensors: u64,
    /// Each type that occurs; unknown ones beyond the first eight are in the last entry.
    pub types: Vec<TypeTally>,
}

/// What the tensors of one type add up to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TypeTally {
    /// The type.
    pub kind: TensorType,
    /// How many tensors have it.
    pub tensors: u64,
    /// How many of them have more than one dimension: weights rather than norms and biases.
    pub matrices: u64,
    /// Numbers in them.
    pub parameters: u64,
}

impl Tally {
    /// Types that are not known and still have an entry of their own.
    const UNKNOWN_TYPES: usize = 8;

    fn of_type(&mut self, kind: TensorType, parameters: u64, matrix: bool) -> Option<()> {
        let at = self.types.iter().position(|entry| entry.kind == kind).or_else(|| {
            let unknown = || self.types.iter().filter(|entry| entry.kind.name().is_none()).count();
            let full = kind.name().is_none() && unknown() >= Self::UNKNOWN_TYPES;
            full.then(|| self.types.iter().rposition(|entry| entry.kind.name().is_none())).flatten()
        });
        let at = at.unwrap_or_else(|| {
            self.types.push(TypeTally { kind, tensors: 0, matrices: 0, parameters: 0 });
            self.types.len() - 1
        });
        let entry = self.types.get_mut(at)?;
        entry.tensors += 1;
        entry.matrices += u64::from(matrix);
        entry.parameters = entry.parameters.checked_add(parameters)?;
        Some(())
    }

    /// Whether the size of every tensor is known.
    #[must_use]
    pub fn is_exact(&self) -> bool {
        self.types.iter().all(|entry| entry.kind.name().is_some())
    }

    /// A line that names the types of unknown size.
    fn unknown_types(&self) -> Option<String> {
        let unknown: Vec<&TypeTally> = self.types.iter().filter(|entry| entry.kind.name().is_none()).collect();
        let names: Vec<String> = unknown.iter().map(|entry| entry.kind.to_string()).collect();
        let tensors: u64 = unknown.iter().map(|entry| entry.tensors).sum();
        (tensors > 0).then(|| format!("{} of unknown size ({})", counted(tensors, "tensor"), names.join(", ")))
    }

    /// Bits that a parameter takes on average; `None` without tensors or with one of unknown size.
    #[must_use]
    #[allow(clippy::cast_precision_loss)]
    pub fn bits_per_weight(&self) -> Option<f64> {
        (self.parameters > 0 && self.is_exact()).then(|| self.bytes as f64 * 8.0 / self.parameters as f64)
    }

    /// The type that most tensors have, of two equally frequent ones that with more parameters. Tensors of one dimension
    /// count only where there are no others: norms and biases stay `F32` in every quantization.
    #[must_use]
    pub fn most_frequent(&self) -> Option<TensorType> {
        self.types.iter().max_by_key(|entry| (entry.matrices, entry.parameters)).map(|entry| entry.kind)
    }
}
