//! How many parameters quantized weights hold.
//!
//! Several weights lie in one integer there, and scales, zero points and maps lie beside them. Those are no parameters of
//! the model; the layouts tell how many weights an integer has:
//!
//! | layout | weights | beside them |
//! | --- | --- | --- |
//! | GPTQ, AWQ | `qweight` I32, as many bits each as `qzeros` and `scales`, or `g_idx`, say | `qzeros`, `scales`, `g_idx` |
//! | bitsandbytes, 4 bits | two in a byte of `weight`, whatever its type | `weight.absmax`, `weight.quant_map`, `weight.quant_state.…` |
//! | bitsandbytes, 8 bits | `weight` I8 | `SCB`, `weight_format` |
//! | MXFP4 of gpt-oss | two in a byte of `…_blocks` | `…_scales` |
//! | compressed-tensors | `weight_packed`: I32, whose bits and groups the configuration tells, or two in a byte | `weight_scale`, `weight_shape`, … |
//! | modelopt: NVFP4, W4A16 | two in a byte of `weight` U8 | `weight_scale`, `weight_scale_2`, … |
//! | FP8, INT8 | one in a byte | `weight_scale`, `weight_scale_inv`, … |
//! | MLX | `weight` U32, whose bits the configuration tells | `scales`, `biases` |
//!
//! Where a layout is none of these and a good part of the data is integers, the number is not guessed.
//!
//! Sources: AutoGPTQ `qlinear_cuda.py`, AutoAWQ `gemm.py`, bitsandbytes `nn/modules.py`, transformers
//! `integrations/mxfp4.py`, compressed-tensors `compressors/`, Model-Optimizer `export/quant_utils.py`.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};

use super::header::{Header, TensorInfo};
use crate::format::seen::Keyed;

/// What the headers of quantized weights tell about the number of their parameters. Of what only the configuration tells the
/// width, the bits are counted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Packed {
    /// Parameters that the tensors tell.
    pub known: u64,
    /// Whether integers hold several of them.
    pub several: bool,
    /// Bits of further ones, which lie without gaps.
    pub bits: u64,
    /// 32-bit integers of further ones. Releases differ in whether one of them may lie in two integers.
    pub words: u64,
    /// Groups of parameters with a scale each, in `grouped_words` of those words: rows are padded to whole integers, which groups
    /// are not.
    pub groups: u64,
    /// The words whose groups are counted.
    pub grouped_words: u64,
    /// Parameters of a group, where the configuration tells.
    pub group: Option<u64>,
    /// Integers that may be anything: numbers of a model, or packed in a way that is not known here.
    pub other: u64,
    /// Bytes of those.
    pub other_bytes: u64,
    /// Bits of a parameter, where all that tell it agree.
    pub width: Option<u64>,
    /// Whether the configuration names a layout that is not known here.
    pub strange: bool,
}

impl Packed {
    /// The parameters of weights that take so many bytes; `None` where the layout does not tell their number.
    #[must_use]
    pub fn parameters(&self, tensor_bytes: Option<u64>) -> Option<u64> {
        if self.strange || self.other_bytes > tensor_bytes? / 10 {
            return None;
        }
        let mut sum = self.known.checked_add(self.other)?;
        if self.bits > 0 {
            let width = self.width.filter(|width| (1..=8).contains(width))?;
            sum = sum.checked_add(self.bits / width)?;
        }
        let grouped = self.in_groups();
        sum = sum.checked_add(grouped.unwrap_or(0))?;
        let words = self.words.checked_sub(grouped.map_or(0, |_| self.grouped_words))?;
        if words > 0 {
            let width = self.width.filter(|width| matches!(width, 1 | 2 | 4 | 8))?;
            sum = sum.checked_add(words.checked_mul(32 / width)?)?;
        }
        Some(sum)
    }

    /// Parameters of the words whose groups are counted, if that is a number of parameters that they can hold.
    fn in_groups(&self) -> Option<u64> {
        let count = self.groups.checked_mul(self.group?).filter(|count| *count > 0)?;
        let (taken, room) = (count.checked_mul(self.width?)?, self.grouped_words.checked_mul(32)?);
        (taken <= room && taken >= room / 2).then_some(count)
    }

    /// Whether integers at the ends of rows may be padded, so that there are a few parameters less.
    #[must_use]
    pub fn may_be_padded(&self) -> bool {
        self.words > self.in_groups().map_or(0, |_| self.grouped_words)
    }

    /// Adds what another part of the same weights has.
    pub(crate) fn add(&mut self, part: &Self) {
        self.known = self.known.saturating_add(part.known);
        self.bits = self.bits.saturating_add(part.bits);
        self.words = self.words.saturating_add(part.words);
        self.groups = self.groups.saturating_add(part.groups);
        self.grouped_words = self.grouped_words.saturating_add(part.grouped_words);
        self.group = self.group.or(part.group);
        self.other = self.other.saturating_add(part.other);
        self.other_bytes = self.other_bytes.saturating_add(part.other_bytes);
        self.several |= part.several;
        self.strange |= part.strange;
        if self.width.is_none() || part.width.is_none() || self.width == part.width {
            self.width = self.width.or(part.width);
        } else {
            self.width = None;
        }
    }
}

/// What was found in one header.
pub(super) struct Found {
    pub(super) packed: Packed,
    /// The label of the layout that most bytes have.
    pub(super) label: Option<String>,
    /// Whether names say so, which no configuration says better.
    pub(super) is_sure: bool,
}

/// What the tensors of a header hold; `None` where each number is a parameter.
pub(super) fn look(header: &Header) -> Option<Found> {
    if header.tensors().all(|tensor| is_plain(&tensor) && !is_beside(leaf(tensor.name))) {
        return None;
    }
    let tensors: Vec<TensorInfo<'_>> = header.tensors().collect();
    let mut names = Names::with_capacity_and_hasher(tensors.len(), Keyed::default());
    names.extend(tensors.iter().map(|tensor| (tensor.name, tensor)));
    let any = |of: fn(&TensorInfo<'_>) -> bool| tensors.iter().any(of);
    let mut look = Look {
        gptq: any(|tensor| matches!(leaf(tensor.name), "qweight" | "qzeros" | "g_idx")),
        mlx: any(|tensor| leaf(tensor.name) == "weight" && is(tensor, "U32"))
            || header.metadata().get("format").is_some_and(|format| format == "mlx"),
        bitsandbytes: any(|tensor| leaf(tensor.name).starts_with("bitsandbytes__")),
        names,
        suffixes: SUFFIXES.into_iter().filter(|suffix| tensors.iter().any(|of| of.name.ends_with(suffix))).collect(),
        name: String::new(),
        packed: Packed::default(),
        beside: false,
        labels: BTreeMap::new(),
        widths: Vec::new(),
    };
    for tensor in &tensors {
        look.add(tensor);
    }
    let Look { mut packed, beside, labels, widths, .. } = look;
    if let [width] = widths.as_slice() {
        packed.width = Some(*width);
    }
    let many = packed.other_bytes > header.data_bytes() / 10;
    if !beside && !many && !packed.several && packed.bits == 0 && packed.words == 0 {
        return None;
    }
    let label = labels.into_iter().max_by_key(|(_, bytes)| *bytes).map(|(label, _)| label);
    let is_sure = matches!(label.as_deref(), Some("NF4" | "FP4"));
    Some(Found { packed, label, is_sure })
}

/// What names of tensors beside weights end with.
const SUFFIXES: [&str; 13] = [
    "weight_g_idx",
    "weight_scale",
    ".absmax",
    ".quant_state.bitsandbytes__nf4",
    ".quant_state.bitsandbytes__fp4",
    "_scale",
    "_scale_inv",
    "_scales",
    "scale",
    "SCB",
    "g_idx",
    "qzeros",
    "scales",
];

type Names<'a> = HashMap<&'a str, &'a TensorInfo<'a>, Keyed>;

struct Look<'a> {
    names: Names<'a>,
    /// Those of [`SUFFIXES`] that any name has.
    suffixes: Vec<&'static str>,
    /// Room for a name.
    name: String,
    /// Whether the file has weights of GPTQ or AWQ, of MLX, of bitsandbytes.
    gptq: bool,
    mlx: bool,
    bitsandbytes: bool,
    packed: Packed,
    /// Whether there are tensors that are no parameters.
    beside: bool,
    labels: BTreeMap<String, u64>,
    /// Widths that the shapes of GPTQ and AWQ told.
    widths: Vec<u64>,
}

/// What a tensor is.
enum Part {
    /// So many parameters, each a number of its own.
    Single(u64),
    /// So many parameters, several to a number.
    Several(u64),
    /// Parameters in so many bits.
    Bits(u64),
    /// Parameters in so many 32-bit integers.
    Words(u64),
    /// No parameters.
    Beside,
    /// Not known.
    Other,
}

impl<'a> Look<'a> {
    /// The tensor whose name is `stem` and `suffix`.
    fn named(&mut self, stem: &str, suffix: &'static str) -> Option<&'a TensorInfo<'a>> {
        if !self.suffixes.contains(&suffix) {
            return None;
        }
        self.name.clear();
        self.name.push_str(stem);
        self.name.push_str(suffix);
        self.names.get(self.name.as_str()).copied()
    }

    fn add(&mut self, tensor: &TensorInfo<'_>) {
        let (part, label) = self.part(tensor);
        let elements = tensor.elements().unwrap_or(0);
        let packed = &mut self.packed;
        let (to, more) = match part {
            Part::Single(count) => (&mut packed.known, count),
            Part::Several(count) => {
                packed.several = true;
                (&mut packed.known, count)
            }
            Part::Bits(bits) => {
                packed.several = true;
                (&mut packed.bits, bits)
            }
            Part::Words(words) => {
                packed.several = true;
                (&mut packed.words, words)
            }
            Part::Other => {
                packed.other_bytes = packed.other_bytes.saturating_add(tensor.bytes());
                (&mut packed.other, elements)
            }
            Part::Beside => {
                self.beside = true;
                return;
            }
        };
        *to = to.saturating_add(more);
        if let Some(label) = label {
            let bytes = self.labels.entry(label).or_default();
            *bytes = bytes.saturating_add(tensor.bytes());
        }
    }

    fn part(&mut self, tensor: &TensorInfo<'_>) -> (Part, Option<String>) {
        let elements = tensor.elements().unwrap_or(0);
        let label = |label: &str| Some(label.to_owned());
        let two = |of: &TensorInfo| Part::Several(of.bytes().saturating_mul(2));
        let (name, leaf) = (tensor.name, leaf(tensor.name));
        if self.is_beside(tensor, leaf) {
            return (Part::Beside, None);
        }
        if leaf == "qweight" && is(tensor, "I32") {
            return self.gptq(tensor);
        }
        if self.named(name, ".absmax").is_some() {
            let kinds = [("NF4", ".quant_state.bitsandbytes__nf4"), ("FP4", ".quant_state.bitsandbytes__fp4")];
            let kind = kinds.into_iter().find(|(_, suffix)| self.named(name, suffix).is_some());
            return (two(tensor), kind.and_then(|(kind, _)| label(kind)));
        }
        if name.ends_with("_blocks") && is(tensor, "U8") {
            return (two(tensor), label("MXFP4"));
        }
        if leaf == "weight_packed" && is(tensor, "I32") {
            return (self.words(tensor), None);
        }
        // Of other types nobody asks for scales.
        let scale = if is_plain(tensor) { None } else { self.scale(name) };
        if (is(tensor, "U8") || is(tensor, "I8"))
            && let Some(kind) = scale.and_then(|scale| nibbles(tensor, scale))
        {
            return (two(tensor), kind.map(str::to_owned));
        }
        if leaf == "weight_packed" || (leaf == "weight" && is(tensor, "U8")) {
            let bitsandbytes = self.bitsandbytes && tensor.shape.last() == Some(&1);
            let bits = tensor.bytes().saturating_mul(8);
            return (if bitsandbytes { two(tensor) } else { Part::Bits(bits) }, None);
        }
        if leaf == "weight" && is(tensor, "U32") {
            return (Part::Bits(tensor.bytes().saturating_mul(8)), None);
        }
        let ends = name.strip_suffix("weight").unwrap_or(name);
        let scaled = scale.is_some() || (!is_plain(tensor) && self.named(ends, "SCB").is_some());
        match tensor.dtype {
            "I8" if scaled => {
                self.beside = true;
                (Part::Single(elements), label("INT8"))
            }
            "I8" if matches!(leaf, "_data" | "qdata" | "codes" | "W_q") || leaf.contains("_qdata") => {
                (Part::Other, None)
            }
            "I16" | "U16" | "I32" | "U32" | "U8" => (Part::Other, None),
            "F8_E4M3" | "F8_E5M2" if scaled => (Part::Single(elements), label("FP8")),
            _ => (Part::Single(elements), None),
        }
    }

    /// GPTQ packs along the rows and AWQ along the columns; zero points are packed like the weights.
    fn gptq(&mut self, tensor: &TensorInfo<'_>) -> (Part, Option<String>) {
        let stem = tensor.name.strip_suffix("qweight").unwrap_or_default();
        let [inputs, zeros, outputs] =
            ["g_idx", "qzeros", "scales"].map(|leaf| self.named(stem, leaf).and_then(|of| of.shape.last().copied()));
        let width = |packed: u64, of: u64| {
            let bits = packed.checked_mul(32)?;
            (of > 0 && bits % of == 0).then(|| bits / of).filter(|width| (1..=8).contains(width))
        };
        let rows = tensor.shape.len().checked_sub(2).and_then(|at| tensor.shape.get(at).copied());
        let by_order = inputs.zip(rows).and_then(|(inputs, rows)| width(rows, inputs));
        let by_zeros = || zeros.zip(outputs).and_then(|(zeros, outputs)| width(zeros, outputs));
        let bits = tensor.bytes().saturating_mul(8);
        let columns = tensor.shape.last().copied();
        // AWQ has as many columns as its zero points.
        let method = if inputs.is_some() || columns == outputs {
            Some("GPTQ")
        } else {
            columns.filter(|_| columns == zeros).map(|_| "AWQ")
        };
        let Some(width) = by_order.or_else(by_zeros) else {
            return (Part::Bits(bits), method.map(str::to_owned));
        };
        if !self.widths.contains(&width) {
            self.widths.push(width);
        }
        (Part::Several(bits / width), method.map(|method| format!("{method}-INT{width}")))
    }

    /// The integers of compressed-tensors. Each row is padded to whole ones, so that columns are told by the order of their groups
    /// or by the scales; their own shape is a tensor whose numbers are data.
    fn words(&mut self, tensor: &TensorInfo<'_>) -> Part {
        let words = tensor.elements().unwrap_or(0);
        let stem = tensor.name.strip_suffix("weight_packed").unwrap_or_default();
        let (order, scale) = (self.named(stem, "weight_g_idx"), self.named(stem, "weight_scale"));
        let rows = || {
            tensor.shape.split_last().and_then(|(_, rows)| rows.iter().try_fold(1, |all: u64, n| all.checked_mul(*n)))
        };
        let columns = order.filter(|order| order.shape.len() == 1).and_then(|order| order.shape.first().copied());
        // More weights than bits are none.
        let most = words.saturating_mul(32);
        if let Some(count) = columns.zip(rows()).and_then(|(columns, rows)| rows.checked_mul(columns))
            && count > 0
            && count <= most
        {
            return Part::Several(count);
        }
        let split = |of: &TensorInfo<'_>| of.shape.split_last().map(|(last, rows)| (*last, rows.to_vec()));
        if let (Some((_, rows)), Some((groups, scaled))) = (split(tensor), scale.and_then(split))
            && rows == scaled
            && groups > 1
        {
            let groups = scale.and_then(TensorInfo::elements).unwrap_or(0);
            self.packed.groups = self.packed.groups.saturating_add(groups);
            self.packed.grouped_words = self.packed.grouped_words.saturating_add(words);
        }
        Part::Words(words)
    }

    /// The scales of a weight.
    fn scale(&mut self, name: &str) -> Option<&'a TensorInfo<'a>> {
        let stem = name.strip_suffix("_packed").unwrap_or(name);
        let found = ["_scale", "_scale_inv", "_scales"].iter().find_map(|suffix| self.named(stem, suffix));
        found.or_else(|| self.named(stem.strip_suffix("weight")?, "scale"))
    }

    fn is_beside(&self, tensor: &TensorInfo<'_>, leaf: &str) -> bool {
        if is_beside(leaf) || is(tensor, "F8_E8M0") {
            return true;
        }
        match leaf {
            "scales" => self.gptq || self.mlx,
            "biases" => self.mlx,
            _ if tensor.name.ends_with("_scales") && is(tensor, "U8") => true,
            // Experts that lie in one tensor name their scales after it.
            _ => ["_scale", "_scales", "_scale_inv", "_scale_2", "_input_scale", "_zero_point"].iter().any(|suffix| {
                let of = tensor.name.strip_suffix(suffix).and_then(|name| self.names.get(name));
                of.is_some_and(|of| of.dtype.starts_with("F8_") || matches!(of.dtype, "U8" | "I8"))
            }),
        }
    }
}

/// The layout of a tensor whose shape beside that of its scales says that a byte holds two weights: scales for 16 or 32 of
/// them, or as many rows of scales as two in each byte give.
fn nibbles(tensor: &TensorInfo<'_>, scale: &TensorInfo<'_>) -> Option<Option<&'static str>> {
    let split = |of: &TensorInfo| of.shape.split_last().map(|(last, rest)| (*last, rest.to_vec()));
    let ((columns, rows), (groups, scale_rows)) = (split(tensor)?, split(scale)?);
    if groups == 0 {
        return None;
    }
    if rows == scale_rows && columns.checked_mul(2)?.is_multiple_of(groups) {
        return match columns * 2 / groups {
            16 if is(scale, "F8_E4M3") => Some(Some("NVFP4")),
            32 if is(scale, "U8") || is(scale, "F8_E8M0") => Some(Some("MXFP4")),
            16 | 32 if is(tensor, "U8") => Some(None),
            _ => None,
        };
    }
    let doubled = match (rows.split_last(), scale_rows.split_last()) {
        (Some((outputs, before)), Some((all, scale_before))) => {
            before == scale_before && outputs.checked_mul(2) == Some(*all)
        }
        _ => false,
    };
    (doubled && is(tensor, "U8") && columns.is_multiple_of(groups)).then_some(None)
}

/// The last part of a tensor's name.
fn leaf(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or(name)
}

fn is(tensor: &TensorInfo<'_>, dtype: &str) -> bool {
    tensor.dtype == dtype
}

/// Whether its numbers are parameters whatever lies beside it, unless it is 4-bit weights in a type of its own.
fn is_plain(tensor: &TensorInfo<'_>) -> bool {
    !tensor.dtype.starts_with("F8_") && !matches!(tensor.dtype, "I8" | "U8" | "I16" | "U16" | "I32" | "U32")
}

/// Whether the name is one that only scales and their kin have.
fn is_beside(leaf: &str) -> bool {
    matches!(
        leaf,
        "qzeros"
            | "g_idx"
            | "SCB"
            | "weight_format"
            | "absmax"
            | "quant_map"
            | "nested_absmax"
            | "nested_quant_map"
            | "weight_scale"
            | "weight_scale_inv"
            | "weight_scale_2"
            | "weight_zero_point"
            | "weight_shape"
            | "weight_g_idx"
            | "weight_global_scale"
            | "input_scale"
            | "input_zero_point"
            | "input_global_scale"
            | "output_scale"
            | "output_zero_point"
            | "k_scale"
            | "v_scale"
            | "q_scale"
            | "prob_scale"
            | "pre_quant_scale"
    ) || leaf.starts_with("bitsandbytes__")
}
