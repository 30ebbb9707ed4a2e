//! The grammar of a GGUF header, read with a limit on everything that the file may say.

use std::io::{Read, Seek};

use super::layout::{Extent, layout};
use super::source::{Halt, Source, malformed};
use super::{Array, Depth, Error, Header, Tally, TensorInfo, TensorType, Text, Value, ValueType};
use crate::format::names::TensorNames;
use crate::format::seen::Seen;
use crate::format::sniff::LookAlike;
use crate::format::warnings::{Warnings, counted, shown};

/// Keys of a file; real ones have under 100.
const MOST_KEYS: u64 = 65_536;
/// Tensors of a file; real ones have under 10,000.
const MOST_TENSORS: u64 = 131_072;
/// Bytes of the names of all tensors: 64 for each, more than ggml allows.
const MOST_NAMES: u64 = MOST_TENSORS * 64;
/// Bytes of a key or a tensor's name.
const LONGEST_NAME: u64 = 65_535;
/// Bytes of a string.
const LONGEST_STRING: u64 = 64 << 20;
/// Bytes of a string that are kept.
const KEPT_STRING: u64 = 1 << 20;
/// Elements of an array; ggml's own limit.
const LONGEST_ARRAY: u64 = 1 << 30;
/// Strings in an array; the largest vocabularies have 262,144 tokens and 514,906 merges.
const MOST_STRINGS: u64 = 1 << 22;
/// Arrays in arrays of a file; no released model has any, and ggml refuses them.
const MOST_ARRAYS: u64 = 65_536;
/// Elements of an array of numbers that is kept, which is enough for one value a layer.
const KEPT_NUMBERS: u64 = 4_096;
/// Numbers that are kept from all arrays together.
const KEPT_NUMBERS_IN_ALL: u64 = 16 * KEPT_NUMBERS;
/// Bytes of keys and strings that are kept in all.
const KEPT_BYTES: u64 = 4 << 20;
/// Those of them that are for keys which are looked at, whatever stands before them.
const RESERVED_BYTES: u64 = KEPT_BYTES / 2;
/// What a kept entry costs beside its text, roughly.
const ENTRY: u64 = 96;
/// Arrays within arrays.
const DEEPEST: u32 = 4;
/// Bytes of the header that are read; the largest known header has 16 MB, and arrays of numbers are passed over.
const HEADER_BYTES: u64 = 64 << 20;
/// What [`Depth::Start`] reads: with the first look at the magic, 64 KiB of a file.
const START_BYTES: u64 = (64 << 10) - 512;
/// Enough to tell what a file that is no GGUF looks like.
const MAGIC_BYTES: usize = 512;
/// The alignment of a file that names none.
const DEFAULT_ALIGNMENT: u32 = 32;
const LARGEST_ALIGNMENT: u32 = 1 << 20;
/// ggml's limit, with its terminator.
const LONGEST_GGML_NAME: usize = 63;

/// Reads what `depth` asks for, as far as it can be read.
pub(super) fn read<R: Read + Seek>(reader: R, length: u64, depth: Depth) -> (Header, Result<(), Error>) {
    let allowance = if depth == Depth::Start { START_BYTES } else { HEADER_BYTES };
    let mut parser = Parser {
        source: Source::new(reader, length, allowance),
        length,
        depth,
        header: Header::default(),
        warnings: Warnings::default(),
        kept_bytes: KEPT_BYTES,
        kept_numbers: KEPT_NUMBERS_IN_ALL,
        reserved: 0,
        arrays: MOST_ARRAYS,
        alignment: None,
    };
    let result = match parser.header() {
        Ok(()) => Ok(()),
        Err(Halt::Allowance) if depth == Depth::Start => {
            parser.header.stopped = true;
            Ok(())
        }
        Err(Halt::Allowance) => Err(Error::TooLarge(format!("more than {HEADER_BYTES} bytes"))),
        Err(Halt::Error(error)) => Err(error),
    };
    let Parser { source, mut header, warnings, .. } = parser;
    header.bytes_read = source.bytes_read();
    header.warnings = warnings.into_lines();
    (header, result)
}

struct Parser<R> {
    source: Source<R>,
    length: u64,
    depth: Depth,
    header: Header,
    warnings: Warnings,
    /// What may still be kept.
    kept_bytes: u64,
    kept_numbers: u64,
    /// What of it is for keys that are looked at.
    reserved: u64,
    /// How many more arrays may lie in others.
    arrays: u64,
    alignment: Option<Value>,
}

impl<R: Read + Seek> Parser<R> {
    fn header(&mut self) -> Result<(), Halt> {
        let head = self.source.peek(MAGIC_BYTES)?;
        if head.first_chunk::<4>() != Some(b"GGUF") {
            return Err(Error::NotGguf(LookAlike::of(head, self.length)).into());
        }
        self.source.skip(4, "magic")?;
        self.version()?;
        let tensors = self.source.wide("tensor count")?;
        let keys = self.source.wide("key count")?;
        if keys > MOST_KEYS {
            return Err(malformed(format!("key count {keys}")));
        }
        // Each takes 24 bytes at least: what is there has room for no more.
        if tensors > self.source.left() / 24 && tensors > MOST_TENSORS {
            return Err(malformed(format!("tensor count {tensors}")));
        }
        (self.header.key_count, self.header.tensor_count) = (keys, tensors);
        self.keys(keys)?;
        if tensors > MOST_TENSORS {
            return Err(Error::TooLarge(format!("{tensors} tensors")).into());
        }
        self.header.alignment = alignment(self.alignment.as_ref())?;
        self.tensors(tensors)
    }

    fn version(&mut self) -> Result<(), Halt> {
        let version = self.source.u32("version")?;
        // No flag tells the byte order, but no version of this order has these bits clear.
        let swapped = version != 0 && version & 0xffff == 0;
        let version = if swapped { version.swap_bytes() } else { version };
        self.source.big_endian = swapped;
        self.source.narrow = version == 1;
        self.header.version = version;
        self.header.big_endian = swapped;
        if !(1..=3).contains(&version) {
            return Err(Error::Unsupported(version).into());
        }
        if swapped {
            self.warnings.add("big-endian: llama.cpp cannot load it on this kind of host");
        }
        if version == 1 {
            self.warnings.add("GGUF version 1: llama.cpp no longer loads it");
        }
        Ok(())
    }

    fn keys(&mut self, count: u64) -> Result<(), Halt> {
        let mut seen = Seen::default();
        let (mut twice, mut nameless, mut dropped) = (Noted::default(), 0u64, 0u64);
        for index in 0..count {
            let name = self.name("name").map_err(|halt| placed(halt, "key", index, None))?;
            self.reserved = if is_wanted(&name) { 0 } else { RESERVED_BYTES };
            let value = self.value(&name).map_err(|halt| placed(halt, "key", index, Some(&name)))?;
            nameless += u64::from(name.is_empty());
            if !seen.insert(&name) {
                twice.note(&name);
                continue;
            }
            if name == b"general.alignment" {
                self.alignment = Some(value.clone());
            }
            let cost = ENTRY + name.len() as u64;
            match self.room().checked_sub(cost) {
                Some(_) => {
                    self.kept_bytes -= cost;
                    self.header.keys.push((String::from_utf8_lossy(&name).into_owned(), value));
                }
                None => dropped += 1,
            }
        }
        if nameless > 0 {
            self.warnings.add(format!("{} without a name", counted(nameless, "key")));
        }
        twice.warn(&mut self.warnings, "key", "twice; llama.cpp refuses the file");
        if dropped > 0 {
            self.warnings.add(format!("{} passed over: too many to keep", counted(dropped, "key")));
        }
        Ok(())
    }

    /// Bytes that may still be kept of the key that is read.
    fn room(&self) -> u64 {
        self.kept_bytes.saturating_sub(self.reserved)
    }

    /// Numbers that may still be kept of it.
    fn numbers_left(&self) -> u64 {
        self.kept_numbers.saturating_sub(if self.reserved > 0 { KEPT_NUMBERS_IN_ALL / 2 } else { 0 })
    }

    /// A key or the name of a tensor.
    fn name(&mut self, what: &str) -> Result<Vec<u8>, Halt> {
        let mut name = Vec::new();
        self.name_into(&mut name, what)?;
        Ok(name)
    }

    /// The same in place of what `name` holds.
    fn name_into(&mut self, name: &mut Vec<u8>, what: &str) -> Result<(), Halt> {
        let length = self.source.wide(what)?;
        if length > LONGEST_NAME {
            return Err(malformed(format!("{what} of {length} bytes")));
        }
        self.source.bytes_into(name, length, length, what)
    }

    fn value(&mut self, key: &[u8]) -> Result<Value, Halt> {
        let kind = self.value_type("value type")?;
        match kind {
            ValueType::String => self.text(),
            ValueType::Array => self.array(key),
            _ => self.number(kind),
        }
    }

    fn value_type(&mut self, what: &str) -> Result<ValueType, Halt> {
        let id = self.source.u32(what)?;
        ValueType::from_id(id).ok_or_else(|| malformed(format!("{what} {id}")))
    }

    fn text(&mut self) -> Result<Value, Halt> {
        let length = self.source.wide("value")?;
        if length > LONGEST_STRING {
            return Err(malformed(format!("string of {length} bytes")));
        }
        let bytes = self.source.bytes(length, KEPT_STRING.min(self.room()), "value")?;
        self.kept_bytes -= bytes.len() as u64;
        Ok(Value::String(Text { kept: String::from_utf8_lossy(&bytes).into_owned(), length }))
    }

    fn number(&mut self, kind: ValueType) -> Result<Value, Halt> {
        let (source, what) = (&mut self.source, "value");
        Ok(match kind {
            ValueType::U8 => Value::U8(source.u8(what)?),
            ValueType::I8 => Value::I8(source.u8(what)?.cast_signed()),
            ValueType::U16 => Value::U16(source.u16(what)?),
            ValueType::I16 => Value::I16(source.u16(what)?.cast_signed()),
            ValueType::U32 => Value::U32(source.u32(what)?),
            ValueType::I32 => Value::I32(source.u32(what)?.cast_signed()),
            ValueType::F32 => Value::F32(f32::from_bits(source.u32(what)?)),
            ValueType::Bool => Value::Bool(source.u8(what)? != 0),
            ValueType::U64 => Value::U64(source.u64(what)?),
            ValueType::I64 => Value::I64(source.u64(what)?.cast_signed()),
            ValueType::F64 => Value::F64(f64::from_bits(source.u64(what)?)),
            ValueType::String | ValueType::Array => return Err(malformed("a number that is none")),
        })
    }

    fn array(&mut self, key: &[u8]) -> Result<Value, Halt> {
        let (element, count) = self.array_head()?;
        if key == b"tokenizer.ggml.tokens" {
            self.header.vocabulary = Some(count);
        }
        let mut kept = Vec::new();
        match element.size() {
            // Vocabularies have arrays of numbers too, and nobody asks for those.
            Some(_) if count <= KEPT_NUMBERS.min(self.numbers_left()) && !key.starts_with(b"tokenizer.") => {
                self.kept_numbers -= count;
                for _ in 0..count {
                    kept.push(self.number(element)?);
                }
            }
            _ => self.skip_elements(element, count, 1)?,
        }
        Ok(Value::Array(Array { element, count, kept }))
    }

    /// Element type and count of an array, the count compared with the bytes that are left.
    fn array_head(&mut self) -> Result<(ValueType, u64), Halt> {
        let element = self.value_type("element type")?;
        let count = self.source.wide("array length")?;
        let most = match element {
            ValueType::String => MOST_STRINGS,
            ValueType::Array => self.arrays,
            _ => LONGEST_ARRAY,
        };
        if count > most {
            return Err(malformed(format!("array of {count} elements")));
        }
        if element == ValueType::Array {
            self.arrays -= count;
        }
        // The count is below 2^30 and an element below 16 bytes, so the product is exact.
        let smallest = match element {
            ValueType::String if self.source.narrow => 4,
            ValueType::String => 8,
            ValueType::Array if self.source.narrow => 8,
            ValueType::Array => 12,
            other => other.size().unwrap_or(1),
        };
        self.source.require(count * smallest, "array")?;
        Ok((element, count))
    }

    fn skip_elements(&mut self, element: ValueType, count: u64, depth: u32) -> Result<(), Halt> {
        match (element, element.size()) {
            (_, Some(size)) => self.source.skip(count * size, "array"),
            (ValueType::String, None) => self.source.skip_strings(count, LONGEST_STRING, "string in an array"),
            (_, None) if depth >= DEEPEST => Err(malformed(format!("arrays nested deeper than {DEEPEST}"))),
            (_, None) => {
                for _ in 0..count {
                    let (element, count) = self.array_head()?;
                    self.skip_elements(element, count, depth + 1)?;
                }
                Ok(())
            }
        }
    }

    fn tensors(&mut self, count: u64) -> Result<(), Halt> {
        let mut seen = Seen::default();
        let mut extents = Vec::new();
        let (mut twice, mut long) = (Noted::default(), Noted::default());
        let (mut name, mut names) = (Vec::new(), 0_u64);
        let is_part = self.header.get("split.count").and_then(Value::as_u64).is_some_and(|count| count > 1);
        let mut part = is_part.then(TensorNames::default);
        for index in 0..count {
            self.name_into(&mut name, "name").map_err(|halt| placed(halt, "tensor", index, None))?;
            names += name.len() as u64;
            if names > MOST_NAMES {
                return Err(malformed(format!("names of tensors of more than {MOST_NAMES} bytes")));
            }
            let info = self.tensor().map_err(|halt| placed(halt, "tensor", index, Some(&name)))?;
            if !seen.insert(&name) {
                twice.note(&name);
            }
            if name.len() > LONGEST_GGML_NAME {
                long.note(&name);
            }
            if let Some(part) = &mut part {
                part.keep(&name);
            }
            extents.push(Extent { offset: info.offset, bytes: info.bytes });
            self.header.tally.add(&name, &info).ok_or_else(|| malformed("more than 2^63 parameters"))?;
            if self.depth == Depth::Tensors {
                self.header.tensors.push(TensorInfo {
                    name: String::from_utf8_lossy(&name).into_owned(),
                    dimensions: info.dimensions.get(..info.count).unwrap_or_default().to_vec(),
                    kind: info.kind,
                    offset: info.offset,
                });
            }
        }
        let found = layout(self.source.position(), self.header.alignment, extents, self.length)?;
        self.header.layout = Some(found);
        self.header.names = part.map(TensorNames::sorted);
        twice.warn(&mut self.warnings, "tensor name", "twice; llama.cpp refuses the file");
        long.warn(&mut self.warnings, "tensor name", "longer than llama.cpp allows");
        if !found.in_order {
            self.warnings.add("the data of the tensors is out of order or has holes; llama.cpp refuses the file");
        }
        if let Some(line) = self.header.tally.unknown_types() {
            self.warnings.add(line);
        }
        Ok(())
    }

    fn tensor(&mut self) -> Result<Info, Halt> {
        let count = self.source.u32("dimensions")?;
        let count = usize::try_from(count).ok().filter(|count| *count <= 4);
        let count = count.ok_or_else(|| malformed("more than 4 dimensions"))?;
        let mut dimensions = [1; 4];
        for dimension in dimensions.iter_mut().take(count) {
            *dimension = self.source.wide("dimensions")?;
        }
        let kind = TensorType(self.source.u32("type")?);
        let offset = self.source.u64("offset")?;
        let product = dimensions.iter().try_fold(1_u64, |product, n| product.checked_mul(*n));
        let elements = product.filter(|product| *product < 1 << 63);
        let elements = elements.ok_or_else(|| malformed("dimensions multiply beyond 2^63"))?;
        let mut bytes = None;
        if let Some((block, block_bytes)) = kind.block() {
            let row = dimensions[0];
            if row % block != 0 {
                return Err(malformed(format!("rows of {row} in {kind}, which has blocks of {block}")));
            }
            bytes = (elements / block).checked_mul(block_bytes);
            if bytes.and_then(|bytes| bytes.checked_add(offset)).is_none_or(|end| end >= 1 << 63) {
                return Err(malformed("data ends beyond 2^63"));
            }
        }
        // The alignment is a power of two.
        if offset >= 1 << 63 || offset & (self.header.alignment - 1) != 0 {
            return Err(malformed(format!("offset {offset} with an alignment of {}", self.header.alignment)));
        }
        Ok(Info { dimensions, count, kind, offset, elements, bytes })
    }
}

/// A tensor without its name.
struct Info {
    dimensions: [u64; 4],
    count: usize,
    kind: TensorType,
    offset: u64,
    elements: u64,
    /// `None` for a type of unknown size.
    bytes: Option<u64>,
}

/// Names that are odd in the same way: the first, and how many.
#[derive(Default)]
struct Noted(Option<(String, u64)>);

impl Noted {
    fn note(&mut self, name: &[u8]) {
        match &mut self.0 {
            Some((_, count)) => *count += 1,
            None => self.0 = Some((shown(name), 1)),
        }
    }

    fn warn(self, warnings: &mut Warnings, word: &str, what: &str) {
        if let Some((first, count)) = self.0 {
            warnings.add(format!("{} ('{first}') {what}", counted(count, word)));
        }
    }
}

fn alignment(value: Option<&Value>) -> Result<u64, Halt> {
    match value {
        None => Ok(DEFAULT_ALIGNMENT.into()),
        Some(Value::U32(value)) if value.is_power_of_two() && *value <= LARGEST_ALIGNMENT => Ok((*value).into()),
        Some(Value::U32(value)) => Err(malformed(format!("alignment {value}"))),
        Some(_) => Err(malformed("general.alignment is no 32-bit number")),
    }
}

/// Says in which key or tensor reading stopped.
fn placed(halt: Halt, what: &str, index: u64, name: Option<&[u8]>) -> Halt {
    let place = match name {
        Some(name) => format!("{what} {index} '{}'", shown(name)),
        None => format!("{what} {index}"),
    };
    match halt {
        Halt::Error(Error::Truncated { at, missing }) => {
            Halt::Error(Error::Truncated { at: format!("{place}: {at}"), missing })
        }
        Halt::Error(Error::Malformed(reason)) => Halt::Error(Error::Malformed(format!("{place}: {reason}"))),
        other => other,
    }
}

impl Tally {
    /// Counts a tensor; `None` when a sum leaves 63 bits.
    fn add(&mut self, name: &[u8], info: &Info) -> Option<()> {
        let sum = |a: u64, b: u64| a.checked_add(b).filter(|sum| *sum < 1 << 63);
        let elements = info.elements;
        self.parameters = sum(self.parameters, elements)?;
        self.bytes = sum(self.bytes, info.bytes.unwrap_or(0))?;
        if name.len() > 5 && contains(name, b"_exps") {
            self.expert_parameters = sum(self.expert_parameters, elements)?;
        }
        match name {
            b"token_embd.weight" => {
                self.embedding_bytes = sum(self.embedding_bytes, info.bytes.unwrap_or(0))?;
                self.embedding_rows = (info.count == 2).then_some(info.dimensions[1]);
            }
            b"output.weight" => self.output = true,
            _ => {}
        }
        self.blocks = self.blocks.max(block(name).map(|number| number + 1));
        if name.ends_with(b".lora_a") || name.ends_with(b".lora_b") {
            self.adapter_tensors += 1;
        }
        if name.ends_with(b".in_sum2") || name.ends_with(b".counts") {
            self.imatrix_tensors += 1;
        }
        self.of_type(info.kind, elements, info.count > 1)
    }
}

/// The number of the layer that a tensor belongs to.
fn block(name: &[u8]) -> Option<u64> {
    let rest = name.strip_prefix(b"blk.")?;
    let digits = rest.iter().position(|byte| *byte == b'.').filter(|digits| (1..=6).contains(digits))?;
    rest.get(..digits)?
        .iter()
        .try_fold(0, |number, byte| byte.is_ascii_digit().then(|| number * 10 + u64::from(byte - b'0')))
}

fn contains(name: &[u8], part: &[u8]) -> bool {
    name.windows(part.len()).any(|window| window == part)
}

/// Whether a key may be one that is looked at: those about the file, the tokenizer, its set, and those of an architecture.
fn is_wanted(key: &[u8]) -> bool {
    let rest = match key.iter().position(|byte| *byte == b'.') {
        Some(dot) => key.get(dot + 1..).unwrap_or_default(),
        None => return false,
    };
    let about: [&[u8]; 6] = [b"general.", b"tokenizer.", b"split.", b"adapter.", b"clip.", b"imatrix."];
    let own: [&[u8]; 16] = [
        b"attention.",
        b"block_count",
        b"context_length",
        b"embedding_length",
        b"expert_",
        b"feed_forward_length",
        b"full_attention_interval",
        b"nextn_predict_layers",
        b"pooling_type",
        b"rope.",
        b"shortconv.",
        b"ssm.",
        b"token_shift_count",
        b"vocab_size",
        b"wkv.",
        b"hidden_size",
    ];
    about.iter().any(|start| key.starts_with(start)) || own.iter().any(|start| rest.starts_with(start))
}
