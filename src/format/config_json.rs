//! `config.json`: what a safetensors header does not tell.

use std::io::Read;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::Metadata;
use super::config_shape::{Attention, shape};
use super::json::{self, as_python_reads, bounded, object};
pub use super::quantization_config::QuantizationConfig;
use super::warnings::shortened;
use crate::model::memory::{Shape, scaled_context};

/// `config.json` is a few KB; some classifiers list thousands of labels in it.
const LONGEST_CONFIG: u64 = 8 << 20;
/// Longest list that is taken apart: 4,096 layers with a word for each.
const LONGEST_LIST: usize = 256 << 10;
/// No model has so many layers, heads or tokens of context.
const ABSURD: u64 = 1 << 40;

/// What `config.json` tells. Unknown values, and those of another type than expected, are `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Config {
    /// `model_type`: the family.
    pub model_type: Option<String>,
    /// The first of `architectures`: the class.
    pub class: Option<String>,
    /// `max_position_embeddings`.
    pub context_length: Option<u64>,
    /// `num_hidden_layers`.
    pub layers: Option<u64>,
    /// `num_attention_heads`.
    pub heads: Option<u64>,
    /// `num_key_value_heads`, else as many as `heads`.
    pub heads_kv: Option<u64>,
    /// `hidden_size`.
    pub embedding_length: Option<u64>,
    /// Experts.
    pub experts: Option<u64>,
    /// Experts used for a token.
    pub experts_used: Option<u64>,
    /// `dtype` or `torch_dtype`, without the `torch.` in front.
    pub dtype: Option<String>,
    /// `quantization_config`.
    pub quantization: Option<QuantizationConfig>,
    /// What decides how much memory it takes beside its weights.
    pub shape: Shape,
}

impl Config {
    /// Reads `config.json` from a file, at whose start `reader` stands.
    ///
    /// # Errors
    /// A line that says what is wrong: too long, or no JSON object.
    pub fn read(reader: impl Read) -> Result<Self, String> {
        Self::parse(&bounded(reader, LONGEST_CONFIG)?)
    }

    /// Reads `config.json` from its bytes.
    ///
    /// # Errors
    /// As [`Config::read`].
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let bytes = as_python_reads(bytes);
        let outer: Raw<'_> = object(&bytes)?;
        // Multimodal models keep the figures of the language model one level down.
        let inner: Raw<'_> = outer.text_config.and_then(|raw| serde_json::from_str(raw.get()).ok()).unwrap_or_default();
        let both = [&outer, &inner];
        let number = |of: fn(&Raw<'_>) -> Option<u64>| both.iter().find_map(|raw| of(raw));
        // GPT-2 and its kin have names of their own.
        let heads = number(|raw| sensible(raw.num_attention_heads).or_else(|| sensible(raw.n_head)));
        let experts = number(|raw| {
            sensible(raw.num_local_experts)
                .or_else(|| sensible(raw.num_experts))
                .or_else(|| sensible(raw.n_routed_experts))
        });
        let mut config = Self {
            model_type: string(outer.model_type).or_else(|| string(inner.model_type)),
            class: outer
                .architectures
                .and_then(|raw| list(Some(raw)))
                .and_then(|classes| classes.first().map(|class| shortened(class, LONGEST_TEXT))),
            context_length: number(|raw| sensible(raw.max_position_embeddings).or_else(|| sensible(raw.n_positions))),
            layers: number(|raw| sensible(raw.num_hidden_layers).or_else(|| sensible(raw.n_layer))),
            heads,
            heads_kv: number(|raw| sensible(raw.num_key_value_heads)).or(heads),
            embedding_length: number(|raw| sensible(raw.hidden_size).or_else(|| sensible(raw.n_embd))),
            experts: experts.filter(|n| *n > 0),
            experts_used: number(|raw| sensible(raw.num_experts_per_tok)).filter(|n| *n > 0),
            dtype: both
                .iter()
                .find_map(|raw| string(raw.dtype).or_else(|| string(raw.torch_dtype)))
                .map(|dtype| dtype.strip_prefix("torch.").map(str::to_owned).unwrap_or(dtype)),
            quantization: both
                .iter()
                .find_map(|raw| QuantizationConfig::of_json(raw.quantization_config?.get()))
                .or_else(|| QuantizationConfig::of_mlx(outer.quantization?.get())),
            shape: Shape::default(),
        };
        let attention = Attention {
            vocabulary: number(|raw| sensible(raw.vocab_size)),
            head_length: number(|raw| sensible(raw.head_dim)),
            window: number(|raw| sensible(raw.sliding_window)),
            no_window: both.iter().any(|raw| raw.use_sliding_window.is_some_and(|raw| raw.get() == "false")),
            window_pattern: number(|raw| sensible(raw.sliding_window_pattern)),
            layer_types: both.iter().find_map(|raw| list(raw.layer_types)),
            latent: number(|raw| sensible(raw.kv_lora_rank)),
            latent_rope: number(|raw| sensible(raw.qk_rope_head_dim)),
        };
        config.shape = shape(&config, &attention);
        let scaling = both.iter().find_map(|raw| Scaling::of(raw.rope_scaling.or(raw.rope_parameters)?));
        config.shape.reach = scaling.and_then(|scaling| {
            let Scaling { rope_type, kind, factor, original_max_position_embeddings: original } = scaling;
            scaled_context(&rope_type.or(kind)?, factor?, original, config.context_length)
        });
        Ok(config)
    }

    /// Adds what this file knows to what the header of the weights told.
    pub fn complete(&self, metadata: &mut Metadata) {
        let fill = |to: &mut Option<u64>, from: Option<u64>| *to = to.or(from);
        fill(&mut metadata.context_length, self.context_length);
        fill(&mut metadata.layers, self.layers);
        fill(&mut metadata.heads, self.heads);
        fill(&mut metadata.heads_kv, self.heads_kv);
        fill(&mut metadata.embedding_length, self.embedding_length);
        fill(&mut metadata.experts, self.experts);
        fill(&mut metadata.experts_used, self.experts_used);
        if metadata.architecture.is_none() {
            metadata.architecture.clone_from(&self.model_type);
        }
        if metadata.shape.cache.is_none() {
            metadata.shape.clone_from(&self.shape);
        }
        if let Some(quantization) = &self.quantization
            && (metadata.quantization.is_none() || metadata.quantization_guessed)
        {
            metadata.quantization = Some(quantization.label());
            metadata.quantization_guessed = false;
        }
        if let Some(quantization) = &self.quantization {
            metadata.learn_packing(&quantization.packed());
        }
    }
}

/// Characters of a text that are kept.
const LONGEST_TEXT: usize = 200;

/// The keys that are looked at, whatever their types are.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Raw<'a> {
    #[serde(borrow)]
    architectures: Option<&'a RawValue>,
    #[serde(borrow)]
    model_type: Option<&'a RawValue>,
    #[serde(borrow)]
    max_position_embeddings: Option<&'a RawValue>,
    #[serde(borrow)]
    num_hidden_layers: Option<&'a RawValue>,
    #[serde(borrow)]
    num_attention_heads: Option<&'a RawValue>,
    #[serde(borrow)]
    num_key_value_heads: Option<&'a RawValue>,
    #[serde(borrow)]
    hidden_size: Option<&'a RawValue>,
    #[serde(borrow)]
    num_local_experts: Option<&'a RawValue>,
    #[serde(borrow)]
    num_experts: Option<&'a RawValue>,
    #[serde(borrow)]
    n_routed_experts: Option<&'a RawValue>,
    #[serde(borrow)]
    num_experts_per_tok: Option<&'a RawValue>,
    #[serde(borrow)]
    n_head: Option<&'a RawValue>,
    #[serde(borrow)]
    n_positions: Option<&'a RawValue>,
    #[serde(borrow)]
    n_layer: Option<&'a RawValue>,
    #[serde(borrow)]
    n_embd: Option<&'a RawValue>,
    #[serde(borrow)]
    vocab_size: Option<&'a RawValue>,
    #[serde(borrow)]
    head_dim: Option<&'a RawValue>,
    #[serde(borrow)]
    sliding_window: Option<&'a RawValue>,
    #[serde(borrow)]
    use_sliding_window: Option<&'a RawValue>,
    #[serde(borrow)]
    sliding_window_pattern: Option<&'a RawValue>,
    #[serde(borrow)]
    layer_types: Option<&'a RawValue>,
    #[serde(borrow)]
    kv_lora_rank: Option<&'a RawValue>,
    #[serde(borrow)]
    qk_rope_head_dim: Option<&'a RawValue>,
    #[serde(borrow)]
    dtype: Option<&'a RawValue>,
    #[serde(borrow)]
    torch_dtype: Option<&'a RawValue>,
    #[serde(borrow)]
    quantization_config: Option<&'a RawValue>,
    #[serde(borrow)]
    quantization: Option<&'a RawValue>,
    #[serde(borrow)]
    text_config: Option<&'a RawValue>,
    #[serde(borrow)]
    rope_scaling: Option<&'a RawValue>,
    #[serde(borrow)]
    rope_parameters: Option<&'a RawValue>,
}

/// `rope_scaling`, newer `rope_parameters`: how rotary positions are scaled.
#[derive(Deserialize)]
struct Scaling {
    #[serde(default)]
    rope_type: Option<String>,
    #[serde(default, rename = "type")]
    kind: Option<String>,
    #[serde(default)]
    factor: Option<f64>,
    #[serde(default)]
    original_max_position_embeddings: Option<u64>,
}

impl Scaling {
    /// `None` where there is none, or it is written in another way: one for each kind of layer.
    fn of(raw: &RawValue) -> Option<Self> {
        Some(raw.get()).filter(|text| text.len() <= LONGEST_LIST).and_then(|text| serde_json::from_str(text).ok())
    }
}

/// A whole number that a model can have.
fn sensible(raw: Option<&RawValue>) -> Option<u64> {
    serde_json::from_str(raw?.get()).ok().filter(|number| *number < ABSURD)
}

/// A list of texts, no longer than layers are many.
fn list(raw: Option<&RawValue>) -> Option<Vec<String>> {
    let text = raw.map(RawValue::get).filter(|text| text.len() <= LONGEST_LIST)?;
    serde_json::from_str::<Vec<String>>(text).ok().filter(|list| list.len() <= 4096)
}

fn string(raw: Option<&RawValue>) -> Option<String> {
    json::text(raw, LONGEST_TEXT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Format, Quantization};

    #[test]
    fn a_plain_model_is_described() {
        let config = Config::parse(
            br#"{"architectures":["LlamaForCausalLM"],"model_type":"llama","max_position_embeddings":131072,"num_hidden_layers":32,
                "num_attention_heads":32,"num_key_value_heads":8,"hidden_size":4096,"torch_dtype":"bfloat16","rope_scaling":{"factor":8.0}}"#,
        )
        .unwrap();
        assert_eq!(config.model_type.as_deref(), Some("llama"));
        assert_eq!(config.class.as_deref(), Some("LlamaForCausalLM"));
        assert_eq!((config.context_length, config.layers), (Some(131_072), Some(32)));
        assert_eq!((config.heads, config.heads_kv, config.embedding_length), (Some(32), Some(8), Some(4096)));
        assert_eq!(config.dtype.as_deref(), Some("bfloat16"));
        assert_eq!(config.quantization, None);
    }

    #[test]
    fn scaled_positions_reach_further_than_the_model_was_trained_for() {
        let reach = |scaling: &str| {
            let text = format!(r#"{{"model_type":"qwen2","max_position_embeddings":32768,{scaling}}}"#);
            Config::parse(text.as_bytes()).unwrap().shape.reach
        };
        let yarn = r#""rope_scaling":{"type":"yarn","factor":4.0,"original_max_position_embeddings":32768}"#;
        assert_eq!(reach(yarn), Some(131_072));
        assert_eq!(reach(r#""rope_parameters":{"rope_type":"linear","factor":2}"#), Some(65_536));
        // What it is trained for is told with these.
        assert_eq!(reach(r#""rope_scaling":{"rope_type":"llama3","factor":8.0}"#), None);
        for nothing in ["\"rope_scaling\":null", "\"rope_scaling\":{\"type\":\"yarn\"}", "\"rope_scaling\":[1]"] {
            assert_eq!(reach(nothing), None, "{nothing}");
        }
        assert_eq!(reach(r#""rope_scaling":{"type":"linear","factor":1e300}"#), None);
        assert_eq!(reach(r#""rope_scaling":{"type":"linear","factor":-4}"#), None);
    }

    #[test]
    fn numbers_that_only_python_writes_and_keys_that_come_twice_cost_nothing_else() {
        let config = Config::parse(
            br#"{"model_type":"nemotron_h","time_step_limit":[0.0,Infinity],"num_hidden_layers":1,"x":NaN,"num_hidden_layers":52,
                "text_config":{"hidden_size":-Infinity,"num_attention_heads":3,"num_attention_heads":40}}"#,
        )
        .unwrap();
        assert_eq!((config.layers, config.heads, config.embedding_length), (Some(52), Some(40), None));
    }

    #[test]
    fn a_multimodal_model_keeps_its_figures_one_level_down() {
        let config = Config::parse(
            br#"{"model_type":"gemma3","text_config":{"model_type":"gemma3_text","num_hidden_layers":34,"num_attention_heads":8,"num_experts":null}}"#,
        )
        .unwrap();
        assert_eq!(config.model_type.as_deref(), Some("gemma3"));
        assert_eq!((config.layers, config.heads, config.heads_kv, config.experts), (Some(34), Some(8), Some(8), None));
    }

    #[test]
    fn values_of_another_type_are_unknown_and_text_is_printable() {
        let config = Config::parse(
            br#"{"model_type":"a\u001b[2Jb","num_hidden_layers":"32","hidden_size":-1,"num_attention_heads":18446744073709551615,
                "max_position_embeddings":1e400,"architectures":"x","torch_dtype":7}"#,
        )
        .unwrap();
        assert_eq!(config.model_type.as_deref(), Some("a\\u{1b}[2Jb"));
        assert_eq!(Config { model_type: None, ..config }, Config::default());
    }

    #[test]
    fn what_is_no_object_or_too_long_is_an_error() {
        for text in ["", "[]", "<html>", "{\"a\":", "nul\0"] {
            assert!(Config::parse(text.as_bytes()).is_err(), "{text}");
        }
        assert!(Config::read(std::io::repeat(b' ')).unwrap_err().contains("larger"));
    }

    #[test]
    fn a_header_is_completed_not_overruled() {
        let config = Config::parse(
            br#"{"model_type":"qwen2","num_hidden_layers":28,"quantization_config":{"quant_method":"gptq","bits":4}}"#,
        )
        .unwrap();
        let mut metadata = Metadata { layers: Some(2), ..Metadata::unknown(Format::Safetensors) };
        config.complete(&mut metadata);
        assert_eq!(metadata.architecture.as_deref(), Some("qwen2"));
        assert_eq!(metadata.layers, Some(2));
        assert_eq!(metadata.quantization, Some(Quantization::new("GPTQ-INT4")));
    }
}
