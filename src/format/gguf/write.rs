//! Small valid files: for demonstrations and tests.

use std::io::{self, ErrorKind, Write};

use super::layout::round_up;
use super::{Array, TensorType, Text, Value, ValueType};

/// Bytes of data made and written at a time.
const CHUNK: usize = 64 * 1024;

/// Builds a GGUF file of version 3 whose tensors hold noise.
///
/// ```
/// use rbee_hive::format::gguf::{TensorType, Writer};
///
/// let mut file = Vec::new();
/// Writer::new("llama")
///     .key("general.file_type", 15u32)
///     .key("llama.context_length", 2048u32)
///     .tensor("token_embd.weight", &[256, 4], TensorType::Q4_K)
///     .write_to(&mut file, 1)?;
/// assert_eq!(&file[..4], b"GGUF");
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Writer {
    keys: Vec<(String, Value)>,
    tensors: Vec<Tensor>,
    big_endian: bool,
}

#[derive(Clone, Debug)]
struct Tensor {
    name: String,
    dimensions: Vec<u64>,
    kind: TensorType,
}

impl Tensor {
    fn bytes(&self) -> io::Result<u64> {
        let wrong = |why: &str| invalid(format!("tensor '{}': {why}", self.name));
        let (Some(block), Some(bytes)) = (self.kind.block_elements(), self.kind.block_bytes()) else {
            return Err(wrong("its type has no known size"));
        };
        if self.dimensions.len() > 4 {
            return Err(wrong("more than four dimensions"));
        }
        if !self.dimensions.first().unwrap_or(&1).is_multiple_of(block) {
            return Err(wrong("its rows are no whole blocks"));
        }
        let elements = self.dimensions.iter().try_fold(1u64, |product, n| product.checked_mul(*n));
        elements.and_then(|n| (n / block).checked_mul(bytes)).ok_or_else(|| wrong("too large"))
    }

    fn padded(&self, alignment: u64) -> io::Result<u64> {
        round_up(self.bytes()?, alignment).ok_or_else(|| invalid("the file is too large".to_owned()))
    }
}

impl Writer {
    /// A file with the key `general.architecture`.
    #[must_use]
    pub fn new(architecture: &str) -> Self {
        Self::bare().key("general.architecture", architecture)
    }

    /// A file without any key.
    #[must_use]
    pub fn bare() -> Self {
        Self::default()
    }

    /// Adds a key. Keys are written in the order in which they are added; `general.alignment` is obeyed.
    #[must_use]
    pub fn key(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.keys.push((key.to_owned(), value.into()));
        self
    }

    /// Adds a tensor; `dimensions` are those of the file, the fastest first.
    #[must_use]
    pub fn tensor(mut self, name: &str, dimensions: &[u64], kind: TensorType) -> Self {
        self.tensors.push(Tensor { name: name.to_owned(), dimensions: dimensions.to_vec(), kind });
        self
    }

    /// Writes every number in the byte order that few readers know.
    #[must_use]
    pub fn big_endian(mut self) -> Self {
        self.big_endian = true;
        self
    }

    /// The same model in `count` files as `llama-gguf-split` makes them: the first has the keys, each has its share of the
    /// tensors and the `split.*` keys. Their names must end in `-00001-of-0000N.gguf` and so on.
    #[must_use]
    pub fn into_shards(self, count: u16) -> Vec<Self> {
        let total = i32::try_from(self.tensors.len()).unwrap_or(i32::MAX);
        let share = self.tensors.len().div_ceil(usize::from(count.max(1))).max(1);
        let mut tensors = self.tensors.into_iter();
        let alignment: Vec<_> = self.keys.iter().filter(|(key, _)| key == "general.alignment").cloned().collect();
        let mut keys = Some(self.keys);
        (0..count.max(1))
            .map(|number| {
                let shard = Self {
                    keys: keys.take().unwrap_or_else(|| alignment.clone()),
                    tensors: tensors.by_ref().take(share).collect(),
                    big_endian: self.big_endian,
                };
                shard.key("split.no", number).key("split.count", count.max(1)).key("split.tensors.count", total)
            })
            .collect()
    }

    /// Length of the file in bytes.
    ///
    /// # Errors
    /// Of kind [`ErrorKind::InvalidInput`] when no valid file can be made of the keys and tensors.
    pub fn length(&self) -> io::Result<u64> {
        let (header, alignment) = (self.header()?.len() as u64, self.alignment()?);
        self.tensors.iter().try_fold(header, |end, tensor| {
            let end = end.checked_add(tensor.padded(alignment)?);
            end.ok_or_else(|| invalid("the file is too large".to_owned()))
        })
    }

    /// Everything before the data of the tensors, padding included: written alone and lengthened to [`Writer::length`]
    /// it is a large file that takes no room on disk.
    ///
    /// # Errors
    /// As [`Writer::length`].
    pub fn header(&self) -> io::Result<Vec<u8>> {
        let mut out = Bytes { bytes: Vec::new(), big_endian: self.big_endian };
        out.bytes.extend_from_slice(b"GGUF");
        out.u32(3);
        out.u64(self.tensors.len() as u64);
        out.u64(self.keys.len() as u64);
        for (key, value) in &self.keys {
            out.string(key);
            out.u32(value.value_type().id());
            out.value(value).map_err(|why| invalid(format!("key '{key}': {why}")))?;
        }
        let (mut offset, alignment) = (0u64, self.alignment()?);
        for tensor in &self.tensors {
            out.string(&tensor.name);
            out.u32(u32::try_from(tensor.dimensions.len()).unwrap_or(u32::MAX));
            for dimension in &tensor.dimensions {
                out.u64(*dimension);
            }
            out.u32(tensor.kind.0);
            out.u64(offset);
            offset = offset
                .checked_add(tensor.padded(alignment)?)
                .ok_or_else(|| invalid("the file is too large".to_owned()))?;
        }
        if !self.tensors.is_empty() {
            let end = round_up(out.bytes.len() as u64, alignment);
            out.bytes.resize(end.and_then(|end| usize::try_from(end).ok()).unwrap_or(out.bytes.len()), 0);
        }
        Ok(out.bytes)
    }

    /// Writes the file with data made from `seed`, the same for the same seed, and gives its length.
    ///
    /// # Errors
    /// As [`Writer::length`], and those of `out`.
    pub fn write_to(&self, out: &mut impl Write, seed: u64) -> io::Result<u64> {
        let header = self.header()?;
        out.write_all(&header)?;
        let (mut written, alignment) = (header.len() as u64, self.alignment()?);
        let mut noise = Noise(seed);
        let mut chunk = vec![0; CHUNK];
        for tensor in &self.tensors {
            let (data, padded) = (tensor.bytes()?, tensor.padded(alignment)?);
            let mut left = data;
            while left > 0 {
                let size = usize::try_from(left).map_or(CHUNK, |left| left.min(CHUNK));
                let Some(part) = chunk.get_mut(..size) else { break };
                noise.fill(part);
                out.write_all(part)?;
                left -= size as u64;
            }
            io::copy(&mut io::Read::take(io::repeat(0), padded - data), out)?;
            written += padded;
        }
        Ok(written)
    }

    fn alignment(&self) -> io::Result<u64> {
        match self.keys.iter().find(|(key, _)| key == "general.alignment") {
            None => Ok(32),
            Some((_, Value::U32(value))) if value.is_power_of_two() => Ok((*value).into()),
            Some(_) => Err(invalid("general.alignment must be a u32 and a power of two".to_owned())),
        }
    }
}

fn invalid(why: String) -> io::Error {
    io::Error::new(ErrorKind::InvalidInput, why)
}

/// Noise that does not compress and is the same everywhere: SplitMix64.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> [u8; 8] {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)).to_le_bytes()
    }

    fn fill(&mut self, out: &mut [u8]) {
        for part in out.chunks_mut(8) {
            for (to, from) in part.iter_mut().zip(self.next()) {
                *to = from;
            }
        }
    }
}

/// The bytes of a header.
struct Bytes {
    bytes: Vec<u8>,
    big_endian: bool,
}

impl Bytes {
    fn number<const N: usize>(&mut self, little_endian: [u8; N]) {
        let mut bytes = little_endian;
        if self.big_endian {
            bytes.reverse();
        }
        self.bytes.extend_from_slice(&bytes);
    }

    fn u32(&mut self, number: u32) {
        self.number(number.to_le_bytes());
    }

    fn u64(&mut self, number: u64) {
        self.number(number.to_le_bytes());
    }

    fn string(&mut self, text: &str) {
        self.u64(text.len() as u64);
        self.bytes.extend_from_slice(text.as_bytes());
    }

    fn value(&mut self, value: &Value) -> Result<(), &'static str> {
        match value {
            Value::U8(n) => self.number(n.to_le_bytes()),
            Value::I8(n) => self.number(n.to_le_bytes()),
            Value::U16(n) => self.number(n.to_le_bytes()),
            Value::I16(n) => self.number(n.to_le_bytes()),
            Value::U32(n) => self.number(n.to_le_bytes()),
            Value::I32(n) => self.number(n.to_le_bytes()),
            Value::F32(n) => self.number(n.to_le_bytes()),
            Value::Bool(is) => self.number([u8::from(*is)]),
            Value::U64(n) => self.number(n.to_le_bytes()),
            Value::I64(n) => self.number(n.to_le_bytes()),
            Value::F64(n) => self.number(n.to_le_bytes()),
            Value::String(Text { kept, length }) => {
                if kept.len() as u64 != *length {
                    return Err("only a part of the text was kept");
                }
                self.string(kept);
            }
            Value::Array(Array { element, count, kept }) => {
                if kept.len() as u64 != *count {
                    return Err("the elements of the array were not kept");
                }
                if *element == ValueType::Array {
                    return Err("ggml refuses arrays within arrays");
                }
                self.u32(element.id());
                self.u64(*count);
                for item in kept {
                    if item.value_type() != *element {
                        return Err("the elements of the array are of several types");
                    }
                    self.value(item)?;
                }
            }
        }
        Ok(())
    }
}
