//! `quantization_config` of `config.json`, and the files that older tools write in its place: how weights are quantized.
//!
//! Sources: transformers `utils/quantization_config.py`, compressed-tensors `quantization/quant_config.py`, Model-Optimizer
//! `export/convert_hf_config.py`, mlx-lm `utils.py`.

use std::collections::BTreeMap;
use std::io::Read;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::Metadata;
use super::json::{self, as_python_reads, bounded, object};
use super::safetensors::Packed;
use crate::model::{Format, Quantization};

/// Lists of excluded modules make it some hundred KB.
const LONGEST: u64 = 8 << 20;
/// Characters of a text that are kept.
const LONGEST_TEXT: usize = 60;
/// Most weights of a group.
const LARGEST_GROUP: u64 = 1 << 20;
/// Groups that are looked at.
const MOST_GROUPS: usize = 256;

/// How the weights are quantized.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct QuantizationConfig {
    /// `quant_method`, in lower case: `gptq`, `awq`, `fp8`, …
    pub method: String,
    /// Bits of a weight, if it says so and all weights have as many.
    pub bits: Option<u64>,
    /// Weights of a group with a scale of its own, if all groups of layers agree.
    pub group: Option<u64>,
    /// What the method calls this kind of weights: `NF4`, `W4A16`, `NVFP4`.
    pub scheme: Option<String>,
    /// Whether weights are left out or coded as well, so that bits do not tell how many there are.
    pub sparse: bool,
}

impl QuantizationConfig {
    /// Reads the value of `quantization_config`. `None` when it names no method.
    pub(super) fn of_json(text: &str) -> Option<Self> {
        let raw: Raw<'_> = object(text.as_bytes()).ok()?;
        let method = string(raw.quant_method)?.to_ascii_lowercase();
        let bits = number(raw.bits).filter(|bits| (1..=64).contains(bits));
        let plain = Self { method, bits, ..Self::default() };
        Some(match plain.method.as_str() {
            "bitsandbytes" => plain.bitsandbytes(&raw),
            "compressed-tensors" => plain.compressed_tensors(&raw),
            method if method.starts_with("modelopt") => {
                let scheme = string(raw.quant_algo).or_else(|| {
                    let inner: Raw<'_> = object(raw.quantization?.get().as_bytes()).ok()?;
                    string(inner.quant_algo)
                });
                plain.modelopt(scheme)
            }
            "mxfp4" => Self { bits: Some(4), ..plain },
            "fbgemm_fp8" => Self { scheme: Some("FP8".to_owned()), ..plain },
            _ => plain,
        })
    }

    /// Reads the value of `quantization`, as MLX writes it. Where layers have widths of their own, none is told.
    pub(super) fn of_mlx(text: &str) -> Option<Self> {
        let raw: BTreeMap<String, &RawValue> = object(text.as_bytes()).ok()?;
        let bits = number(raw.get("bits").copied()).filter(|bits| (1..=8).contains(bits))?;
        let mixed = raw.values().any(|value| value.get().starts_with('{'));
        Some(Self { method: "mlx".to_owned(), bits: (!mixed).then_some(bits), ..Self::default() })
    }

    /// Reads `hf_quant_config.json` of modelopt or `quantize_config.json` of GPTQ, at whose start `reader` stands.
    ///
    /// # Errors
    /// A line that says what is wrong: too long, no JSON object, or one that names no quantization.
    pub fn read(reader: impl Read) -> Result<Self, String> {
        let bytes = bounded(reader, LONGEST)?;
        let bytes = as_python_reads(&bytes);
        let raw: Raw<'_> = object(&bytes)?;
        if let Some(inner) = raw.quantization.and_then(|raw| object::<Raw<'_>>(raw.get().as_bytes()).ok()) {
            let plain = Self { method: "modelopt".to_owned(), ..Self::default() };
            return Ok(plain.modelopt(string(inner.quant_algo)));
        }
        let bits = number(raw.bits).filter(|bits| (1..=64).contains(bits));
        let method = string(raw.quant_method).unwrap_or_else(|| "gptq".to_owned()).to_ascii_lowercase();
        if bits.is_none() && raw.quant_method.is_none() {
            return Err("it names no quantization".to_owned());
        }
        Ok(Self { method, bits, ..Self::default() })
    }

    fn bitsandbytes(self, raw: &Raw<'_>) -> Self {
        let is = |raw: Option<&RawValue>| raw.is_some_and(|raw| raw.get() == "true");
        if is(raw.load_in_4bit) {
            let scheme = string(raw.bnb_4bit_quant_type).map(|kind| kind.to_ascii_uppercase());
            return Self { bits: Some(4), scheme, ..self };
        }
        if is(raw.load_in_8bit) {
            return Self { bits: Some(8), scheme: Some("INT8".to_owned()), ..self };
        }
        self
    }

    /// Groups of layers, each with a format of its own; they are one scheme where all agree.
    fn compressed_tensors(self, raw: &Raw<'_>) -> Self {
        let format = string(raw.format);
        let sparsity = raw.sparsity_config.and_then(|raw| object::<Raw<'_>>(raw.get().as_bytes()).ok());
        let mut sparse = sparsity.and_then(|raw| string(raw.format)).is_some_and(|format| format != "dense");
        let groups = raw.config_groups.and_then(|raw| object::<BTreeMap<String, Group<'_>>>(raw.get().as_bytes()).ok());
        let (mut bits, mut schemes, mut sizes) = (Vec::new(), Vec::new(), Vec::new());
        for group in groups.unwrap_or_default().values().take(MOST_GROUPS) {
            let format = string(group.format).or_else(|| format.clone()).unwrap_or_default();
            sparse |= format.contains("24") || format.contains("sparse");
            let Some(weights) = numbers(group.weights) else { continue };
            let width = number(weights.num_bits).filter(|bits| (1..=64).contains(bits));
            let scheme = scheme(&weights, width, numbers(group.input_activations).as_ref(), &format);
            if !bits.contains(&width) {
                bits.push(width);
            }
            let size = number(weights.group_size).filter(|size| (1..=LARGEST_GROUP).contains(size));
            if !sizes.contains(&size) {
                sizes.push(size);
            }
            if !schemes.contains(&scheme) {
                schemes.push(scheme);
            }
        }
        let one = |schemes: Vec<Option<String>>| match <[_; 1]>::try_from(schemes) {
            Ok([scheme]) => scheme,
            Err(_) => None,
        };
        let agreed = |numbers: &[Option<u64>]| match numbers {
            [one] => *one,
            _ => None,
        };
        Self { bits: agreed(&bits), group: agreed(&sizes), scheme: one(schemes), sparse, ..self }
    }

    fn modelopt(self, algorithm: Option<String>) -> Self {
        let scheme = algorithm.map(|name| name.to_ascii_uppercase());
        let bits = match scheme.as_deref() {
            Some(name) if name.starts_with("MIXED") => None,
            Some(name) if name.starts_with("W4A") || name.contains("FP4") => Some(4),
            Some(name) if name.starts_with("W8A") || name.contains("FP8") => Some(8),
            _ => None,
        };
        Self { scheme, bits, ..self }
    }

    /// The label for people: `GPTQ-INT4`, `NF4`, `W4A16`, `FP8`.
    #[must_use]
    pub fn label(&self) -> Quantization {
        match (&self.scheme, self.bits) {
            (Some(scheme), _) => Quantization::new(scheme),
            (None, Some(bits)) if !matches!(self.method.as_str(), "mxfp4" | "compressed-tensors" | "modelopt") => {
                Quantization::new(&format!("{}-INT{bits}", self.method))
            }
            _ => Quantization::new(&self.method),
        }
    }

    /// Whether the layout of its weights is known here, so that their number can be told.
    fn is_known(&self) -> bool {
        const KNOWN: [&str; 8] =
            ["gptq", "awq", "bitsandbytes", "mxfp4", "compressed-tensors", "fp8", "fbgemm_fp8", "mlx"];
        let known = KNOWN.contains(&self.method.as_str())
            || self.method.starts_with("modelopt")
            || matches!(self.method.as_str(), "auto-round" | "autoround" | "intel/auto-round");
        known && !self.sparse
    }

    /// What it tells about packed weights.
    pub(super) fn packed(&self) -> Packed {
        Packed { width: self.bits, group: self.group, strange: !self.is_known(), ..Packed::default() }
    }

    /// As the metadata of a model of which nothing else is known.
    pub(crate) fn into_metadata(self) -> Metadata {
        Metadata {
            quantization: Some(self.label()),
            packed: Some(self.packed()),
            ..Metadata::unknown(Format::Safetensors)
        }
    }
}

/// What compressed-tensors calls weights of this kind with these activations.
fn scheme(weights: &Numbers<'_>, width: Option<u64>, inputs: Option<&Numbers<'_>>, format: &str) -> Option<String> {
    let activations = inputs.and_then(|inputs| number(inputs.num_bits)).unwrap_or(16);
    match (string(weights.kind).as_deref(), width?) {
        _ if format.contains("nvfp4") => Some("NVFP4".to_owned()),
        _ if format.contains("mxfp4") => Some("MXFP4".to_owned()),
        _ if format.contains("mxfp8") => Some("MXFP8".to_owned()),
        (Some("float"), 8) => Some("FP8".to_owned()),
        (Some("float"), width) => Some(format!("FP{width}")),
        (_, width) => Some(format!("W{width}A{activations}")),
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Raw<'a> {
    #[serde(borrow)]
    quant_method: Option<&'a RawValue>,
    #[serde(borrow)]
    bits: Option<&'a RawValue>,
    #[serde(borrow)]
    load_in_4bit: Option<&'a RawValue>,
    #[serde(borrow)]
    load_in_8bit: Option<&'a RawValue>,
    #[serde(borrow)]
    bnb_4bit_quant_type: Option<&'a RawValue>,
    #[serde(borrow)]
    quant_algo: Option<&'a RawValue>,
    #[serde(borrow)]
    quantization: Option<&'a RawValue>,
    #[serde(borrow)]
    format: Option<&'a RawValue>,
    #[serde(borrow)]
    config_groups: Option<&'a RawValue>,
    #[serde(borrow)]
    sparsity_config: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Group<'a> {
    #[serde(borrow)]
    weights: Option<&'a RawValue>,
    #[serde(borrow)]
    input_activations: Option<&'a RawValue>,
    #[serde(borrow)]
    format: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Numbers<'a> {
    #[serde(borrow)]
    num_bits: Option<&'a RawValue>,
    #[serde(borrow)]
    group_size: Option<&'a RawValue>,
    #[serde(borrow, rename = "type")]
    kind: Option<&'a RawValue>,
}

fn numbers(raw: Option<&RawValue>) -> Option<Numbers<'_>> {
    object(raw?.get().as_bytes()).ok()
}

fn number(raw: Option<&RawValue>) -> Option<u64> {
    serde_json::from_str(raw?.get()).ok()
}

fn string(raw: Option<&RawValue>) -> Option<String> {
    json::text(raw, LONGEST_TEXT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_method_has_its_label_and_width() {
        let groups = |weights: &str, inputs: &str, format: &str| {
            format!(
                r#"{{"quant_method":"compressed-tensors","format":"{format}","config_groups":{{"group_0":{{"targets":["Linear"],"weights":{weights},"input_activations":{inputs}}}}}}}"#
            )
        };
        let int = |bits| format!(r#"{{"num_bits":{bits},"type":"int","group_size":128}}"#);
        let float = |bits| format!(r#"{{"num_bits":{bits},"type":"float"}}"#);
        for (text, label, bits) in [
            (r#"{"quant_method":"gptq","bits":4,"group_size":128}"#.to_owned(), "GPTQ-INT4", Some(4)),
            (r#"{"quant_method":"AWQ","bits":4}"#.to_owned(), "AWQ-INT4", Some(4)),
            (r#"{"quant_method":"bitsandbytes","load_in_4bit":true}"#.to_owned(), "BITSANDBYTES-INT4", Some(4)),
            (
                r#"{"quant_method":"bitsandbytes","load_in_4bit":true,"bnb_4bit_quant_type":"nf4"}"#.to_owned(),
                "NF4",
                Some(4),
            ),
            (r#"{"quant_method":"bitsandbytes","load_in_8bit":true}"#.to_owned(), "INT8", Some(8)),
            (r#"{"quant_method":"fp8","bits":"many"}"#.to_owned(), "FP8", None),
            (r#"{"quant_method":"mxfp4","modules_to_not_convert":[]}"#.to_owned(), "MXFP4", Some(4)),
            (r#"{"quant_method":"modelopt","quant_algo":"NVFP4"}"#.to_owned(), "NVFP4", Some(4)),
            (r#"{"quant_method":"modelopt","quantization":{"quant_algo":"FP8"}}"#.to_owned(), "FP8", Some(8)),
            (r#"{"quant_method":"modelopt","quant_algo":"MIXED_PRECISION"}"#.to_owned(), "MIXED_PRECISION", None),
            (groups(&int(4), "null", "pack-quantized"), "W4A16", Some(4)),
            (groups(&int(8), &int(8), "int-quantized"), "W8A8", Some(8)),
            (groups(&float(8), &float(8), "float-quantized"), "FP8", Some(8)),
            (groups(&float(4), &float(4), "nvfp4-pack-quantized"), "NVFP4", Some(4)),
            (r#"{"quant_method":"exl2","bits":4.65}"#.to_owned(), "EXL2", None),
        ] {
            let config = QuantizationConfig::of_json(&text).unwrap();
            assert_eq!((config.label().as_str(), config.bits), (label, bits), "{text}");
        }
        for text in [r#"{"bits":4}"#, "[4]", "null", "7"] {
            assert_eq!(QuantizationConfig::of_json(text), None, "{text}");
        }
    }

    #[test]
    fn groups_that_differ_have_no_width_and_sparse_ones_are_not_counted() {
        let mixed = r#"{"quant_method":"compressed-tensors","config_groups":{
            "a":{"weights":{"num_bits":4,"type":"int"}},"b":{"weights":{"num_bits":8,"type":"int"}}}}"#;
        let config = QuantizationConfig::of_json(mixed).unwrap();
        assert_eq!((config.label().as_str(), config.bits), ("COMPRESSED-TENSORS", None));
        let sparse = r#"{"quant_method":"compressed-tensors","format":"marlin-24","config_groups":{
            "a":{"weights":{"num_bits":4,"type":"int"}}}}"#;
        assert!(QuantizationConfig::of_json(sparse).unwrap().packed().strange);
        assert!(QuantizationConfig::of_json(r#"{"quant_method":"hqq","bits":4}"#).unwrap().packed().strange);
        assert!(!QuantizationConfig::of_json(r#"{"quant_method":"gptq","bits":4}"#).unwrap().packed().strange);
    }

    #[test]
    fn files_of_older_tools_are_read() {
        let modelopt =
            br#"{"producer":{"name":"modelopt"},"quantization":{"quant_algo":"W4A16_AWQ","group_size":128}}"#;
        let config = QuantizationConfig::read(&modelopt[..]).unwrap();
        assert_eq!((config.label().as_str(), config.bits), ("W4A16_AWQ", Some(4)));
        let gptq = QuantizationConfig::read(&br#"{"bits":3,"group_size":128,"desc_act":false}"#[..]).unwrap();
        assert_eq!((gptq.label().as_str(), gptq.bits), ("GPTQ-INT3", Some(3)));
        assert!(QuantizationConfig::read(&b"{}"[..]).is_err());
        assert!(QuantizationConfig::read(std::io::repeat(b' ')).unwrap_err().contains("larger"));
        let mlx = |text| QuantizationConfig::of_mlx(text).map(|config| (config.label().to_string(), config.bits));
        assert_eq!(mlx(r#"{"group_size":64,"bits":4}"#), Some(("MLX-INT4".to_owned(), Some(4))));
        assert_eq!(mlx(r#"{"group_size":64,"bits":4,"lm_head":{"bits":8}}"#), Some(("MLX".to_owned(), None)));
        assert_eq!(mlx("{}"), None);
    }
}
