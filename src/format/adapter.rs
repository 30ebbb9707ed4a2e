//! `adapter_config.json`: what an adapter changes, as PEFT keeps it beside the adapter's weights.
//!
//! Source of the format: PEFT, `PeftConfigMixin.save_pretrained` and its text on checkpoints.

use std::fmt;
use std::io::Read;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::json::{self, as_python_reads, bounded, object};
use super::{Kind, Metadata};
use crate::model::{Format, text};

/// It is one KB; lists of modules make it a few more.
const LONGEST: u64 = 1 << 20;
/// Longest text that is kept.
const LONGEST_TEXT: usize = 200;
/// No adapter has such a rank.
const ABSURD: u64 = 1 << 20;

/// What an adapter is, made printable. Unknown values are `None`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Adapter {
    /// `peft_type`: `LORA`, `IA3`, `PROMPT_TUNING`, …
    pub method: Option<String>,
    /// `r`, which only some methods have.
    pub rank: Option<u64>,
    /// `lora_alpha`: the scale is alpha / rank.
    pub alpha: Option<f64>,
}

impl Adapter {
    /// An adapter of which this is known; what no adapter has is not.
    pub(super) fn new(method: Option<String>, rank: Option<u64>, alpha: Option<f64>) -> Self {
        Self {
            method,
            rank: rank.filter(|rank| (1..ABSURD).contains(rank)),
            alpha: alpha.filter(|alpha| alpha.is_finite() && alpha.abs() < 1e9),
        }
    }
}

impl fmt::Display for Adapter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.method.as_deref() {
            Some("LORA") => f.write_str("LoRA adapter")?,
            Some(method) => write!(f, "{} adapter", text::printable(method))?,
            None => f.write_str("adapter")?,
        }
        if let Some(rank) = self.rank {
            write!(f, ", rank {rank}")?;
        }
        if let Some(alpha) = self.alpha {
            write!(f, ", alpha {alpha}")?;
        }
        Ok(())
    }
}

/// What `adapter_config.json` tells.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct AdapterConfig {
    /// What the adapter is.
    pub adapter: Adapter,
    /// `base_model_name_or_path`, made printable: a repository, or a folder of the host that it was trained on.
    pub base_model: Option<String>,
}

impl AdapterConfig {
    /// Reads `adapter_config.json` from a file, at whose start `reader` stands.
    ///
    /// # Errors
    /// A line that says what is wrong: too long, or no JSON object.
    pub fn read(reader: impl Read) -> Result<Self, String> {
        let bytes = bounded(reader, LONGEST)?;
        let bytes = as_python_reads(&bytes);
        let raw: Raw<'_> = object(&bytes)?;
        let known = |raw: Option<&RawValue>| json::text(raw, LONGEST_TEXT);
        let rank = raw.r.and_then(|raw| serde_json::from_str(raw.get()).ok());
        let alpha = raw.lora_alpha.and_then(|raw| serde_json::from_str(raw.get()).ok());
        let method = known(raw.peft_type).map(|method| method.to_ascii_uppercase());
        Ok(Self { adapter: Adapter::new(method, rank, alpha), base_model: known(raw.base_model_name_or_path) })
    }

    /// As the metadata of an adapter of which nothing else is known.
    pub(crate) fn into_metadata(self) -> Metadata {
        let Self { adapter, base_model } = self;
        Metadata {
            sidecar: true,
            kind: Kind::Adapter,
            adapter: Some(adapter),
            base_model,
            ..Metadata::unknown(Format::Safetensors)
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Raw<'a> {
    #[serde(borrow)]
    peft_type: Option<&'a RawValue>,
    #[serde(borrow)]
    r: Option<&'a RawValue>,
    #[serde(borrow)]
    lora_alpha: Option<&'a RawValue>,
    #[serde(borrow)]
    base_model_name_or_path: Option<&'a RawValue>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn method_rank_and_base_are_told() {
        let config = AdapterConfig::read(
            &br#"{"base_model_name_or_path":"org/base","peft_type":"LORA","r":16,"lora_alpha":32,"target_modules":["q_proj"]}"#[..],
        )
        .unwrap();
        assert_eq!(config.base_model.as_deref(), Some("org/base"));
        assert_eq!(config.adapter.to_string(), "LoRA adapter, rank 16, alpha 32");
        let other = AdapterConfig::read(&br#"{"peft_type":"IA3","base_model_name_or_path":null}"#[..]).unwrap();
        assert_eq!((other.adapter.to_string(), other.base_model), ("IA3 adapter".to_owned(), None));
    }

    #[test]
    fn numbers_that_only_python_writes_lose_nothing_else() {
        let text =
            br#"{"lora_dropout":NaN,"peft_type":"LORA","r":16,"scale":-Infinity,"base_model_name_or_path":"org/base"}"#;
        let config = AdapterConfig::read(&text[..]).unwrap();
        assert_eq!((config.adapter.rank, config.base_model.as_deref()), (Some(16), Some("org/base")));
    }

    #[test]
    fn what_is_odd_is_unknown_and_what_is_no_object_is_an_error() {
        let odd = br#"{"base_model_name_or_path":"a\u001b[2Jb","peft_type":7,"r":-1,"lora_alpha":1e300}"#;
        let config = AdapterConfig::read(&odd[..]).unwrap();
        assert_eq!((config.base_model.as_deref(), config.adapter), (Some("a\\u{1b}[2Jb"), Adapter::default()));
        for text in ["", "[]", "{\"r\":", "<html>"] {
            assert!(AdapterConfig::read(text.as_bytes()).is_err(), "{text}");
        }
        assert!(AdapterConfig::read(std::io::repeat(b' ')).unwrap_err().contains("larger"));
    }
}
