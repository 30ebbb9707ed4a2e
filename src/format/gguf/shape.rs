//! What the keys of a header say about memory: which layers keep keys and values, how large, how far back.
//!
//! Sources: the keys in ggml's `docs/gguf.md`; which layers of an architecture look back less far is fixed in llama.cpp's
//! loaders and mostly not in the file.

use super::{Header, Value};
use crate::model::memory::{CacheLayers, Shape, scaled_context};

/// No model has so many layers; llama.cpp itself loads at most 512.
const MOST_LAYERS: u64 = 4096;
/// No model has so many heads, tokens of a window or numbers in a key.
const ABSURD: u64 = 1 << 40;

/// Architectures whose layers all are recurrent.
const RECURRENT: [&str; 6] = ["mamba", "mamba2", "rwkv6", "rwkv6qwen2", "rwkv7", "arwkv7"];

/// How the layers with a window are chosen.
enum Windows {
    /// None has one.
    Nowhere,
    /// In each run of so many layers one keeps all of the context: the last, or the first.
    Period(u64, Whole),
    /// It says so for each layer.
    Each(Vec<bool>),
    /// Some have one, but which is not known.
    Unknown,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Whole {
    First,
    Last,
}

/// What the header tells about memory.
pub(super) fn shape(header: &Header) -> Shape {
    let keys = Keys { header, prefix: header.architecture().unwrap_or_default() };
    let embedding_length = keys.number("embedding_length");
    let vocabulary = keys.vocabulary();
    let senseless = embedding_length.is_err() || vocabulary.is_err();
    let mut shape = Shape {
        vocabulary: vocabulary.ok().flatten(),
        embedding_length: embedding_length.ok().flatten(),
        heads: keys.largest("attention.head_count"),
        reach: keys.reach(),
        embedding_bytes: header.tally.embedding_bytes,
        output: header.tally.output,
        ..Shape::default()
    };
    if let Some((cache, state_bytes, at_most)) = keys.layers(&shape).filter(|_| !senseless) {
        shape.cache = Some(cache);
        shape.state_bytes = state_bytes;
        shape.at_most = at_most;
    }
    shape
}

struct Keys<'a> {
    header: &'a Header,
    /// `general.architecture`.
    prefix: &'a str,
}

/// A value that is there and makes no sense.
struct Senseless;

impl Keys<'_> {
    fn get(&self, key: &str) -> Option<&Value> {
        self.header.get(&format!("{}.{key}", self.prefix))
    }

    /// A number; `Ok(None)` where the key is not there.
    fn number(&self, key: &str) -> Result<Option<u64>, Senseless> {
        let Some(value) = self.get(key) else { return Ok(None) };
        value.as_u64().filter(|n| *n < ABSURD).map(Some).ok_or(Senseless)
    }

    /// The context that scaled rotary positions reach. Older writers have the factor of linear scaling in a key of its own.
    fn reach(&self) -> Option<u64> {
        let trained = self.number("context_length").ok().flatten();
        let float = |key: &str| match self.get(key) {
            Some(Value::F32(factor)) => Some(f64::from(*factor)),
            Some(Value::F64(factor)) => Some(*factor),
            Some(value) => value.as_u64().and_then(|factor| u32::try_from(factor).ok()).map(f64::from),
            None => None,
        };
        if let Some(factor) = float("rope.scale_linear") {
            return scaled_context("linear", factor, None, trained);
        }
        let original = self.number("rope.scaling.original_context_length").ok().flatten();
        let kind = self.header.text(&format!("{}.rope.scaling.type", self.prefix))?;
        scaled_context(kind, float("rope.scaling.factor")?, original, trained)
    }

    /// A number for each of `layers`, whether it is written once or as a list.
    fn each(&self, key: &str, layers: u64) -> Result<Option<Vec<u64>>, Senseless> {
        let count = usize::try_from(layers).map_err(|_| Senseless)?;
        match self.get(key) {
            Some(Value::Array(array)) => {
                let numbers: Option<Vec<u64>> =
                    array.kept.iter().take(count).map(|value| value.as_u64().filter(|n| *n < ABSURD)).collect();
                numbers.filter(|numbers| numbers.len() == count).map(Some).ok_or(Senseless)
            }
            _ => Ok(self.number(key)?.map(|number| vec![number; count])),
        }
    }

    /// Tokens that have a score: what the keys say, or the tokenizer, or the table of embeddings; the largest, since all of them
    /// are there.
    fn vocabulary(&self) -> Result<Option<u64>, Senseless> {
        let written = self.number("vocab_size")?;
        let known = [written, self.header.vocabulary, self.header.tally.embedding_rows];
        let listed = known.into_iter().flatten().filter(|tokens| *tokens > 0).max();
        Ok(listed.or(written))
    }

    fn largest(&self, key: &str) -> Option<u64> {
        match self.get(key)? {
            Value::Array(array) => array.kept.iter().filter_map(Value::as_u64).filter(|n| *n < ABSURD).max(),
            value => value.as_u64().filter(|n| *n < ABSURD),
        }
    }

    /// Layers with a cache, bytes of recurrent state, and whether the cache is an upper bound. `None` where it is not known.
    fn layers(&self, shape: &Shape) -> Option<(Vec<CacheLayers>, u64, bool)> {
        self.try_layers(shape).ok().flatten()
    }

    #[allow(clippy::type_complexity)]
    fn try_layers(&self, shape: &Shape) -> Result<Option<(Vec<CacheLayers>, u64, bool)>, Senseless> {
        let Some(layers) = self.number("block_count")?.filter(|n| *n > 0) else { return Ok(None) };
        if layers > MOST_LAYERS {
            return Err(Senseless);
        }
        if self.is_embedding() {
            return Ok(Some((Vec::new(), 0, false)));
        }
        let state = self.state_of_a_layer(shape.embedding_length)?;
        let heads = self.each("attention.head_count", layers)?;
        let heads_kv = self.each("attention.head_count_kv", layers)?.or_else(|| heads.clone());
        // Models without any attention may not name its heads.
        let without = || vec![0; usize::try_from(layers).unwrap_or(0)];
        let recurrent = state.is_some() && RECURRENT.contains(&self.prefix);
        let Some(heads_kv) = heads_kv.or_else(|| recurrent.then(without)) else { return Ok(None) };
        // Zero for all layers only makes sense where something else remembers.
        if heads_kv.iter().all(|heads| *heads == 0) && state.is_none() {
            return Err(Senseless);
        }
        let kinds = self.kinds(&heads_kv, state.is_some())?;
        let sizes = self.sizes(shape)?;
        let (windows, window) = self.windows(layers)?;
        // The last layers may read what earlier ones keep, or are for guessing ahead.
        let shared = self.number("attention.shared_kv_layers")?.unwrap_or(0);
        let ahead = self.number("nextn_predict_layers")?.unwrap_or(0);
        let keeping = layers.saturating_sub(shared.saturating_add(ahead));
        let (mut cache, mut states) = (Vec::new(), 0_u64);
        for (index, (kind, heads_kv)) in (0_u64..).zip(kinds.iter().zip(heads_kv)) {
            states += u64::from(kind.recurrent);
            if !kind.attention || heads_kv == 0 || index >= keeping {
                continue;
            }
            let short = window.is_some()
                && match &windows {
                    Windows::Nowhere | Windows::Unknown => false,
                    Windows::Period(period, whole) => match *whole {
                        Whole::Last => *period == 0 || index % period < period - 1,
                        Whole::First => *period == 0 || index % period != 0,
                    },
                    Windows::Each(flags) => {
                        usize::try_from(index).ok().and_then(|at| flags.get(at % flags.len().max(1))) == Some(&true)
                    }
                };
            let Some(sizes) = sizes else { return Ok(None) };
            let (key_length, value_length) = if short { sizes.windowed } else { sizes.whole };
            let window = window.filter(|_| short);
            Shape::add_layer(&mut cache, CacheLayers { layers: 1, heads_kv, key_length, value_length, window });
        }
        let state_bytes = states.checked_mul(state.unwrap_or(0)).ok_or(Senseless)?;
        let at_most = (matches!(windows, Windows::Unknown) && window.is_some())
            || kinds.iter().any(|kind| kind.attention && kind.recurrent && self.prefix != "falcon-h1");
        Ok(Some((cache, state_bytes, at_most)))
    }

    /// Embedding and reranking models keep nothing from one token to the next.
    fn is_embedding(&self) -> bool {
        self.get("attention.causal").and_then(Value::as_bool) == Some(false)
            || self.get("pooling_type").and_then(Value::as_u64).is_some_and(|kind| kind > 0)
    }

    /// Bytes of the recurrent state of one layer, 32-bit numbers.
    fn state_of_a_layer(&self, embedding: Option<u64>) -> Result<Option<u64>, Senseless> {
        let product = |a: u64, b: u64| a.checked_mul(b).ok_or(Senseless);
        let sum = |a: u64, b: u64| a.checked_add(b).ok_or(Senseless);
        let size = |key: &str| {
            self.number(key)?.map_or(Ok(None), |size| if size == 0 { Err(Senseless) } else { Ok(Some(size)) })
        };
        let numbers = if let Some(inner) = size("ssm.inner_size")? {
            let conv = self.number("ssm.conv_kernel")?.unwrap_or(0).saturating_sub(1);
            let state = size("ssm.state_size")?.ok_or(Senseless)?;
            let groups = self.number("ssm.group_count")?.unwrap_or(0);
            let wide = sum(inner, product(2, product(groups, state)?)?)?;
            sum(product(conv, wide)?, product(state, inner)?)?
        } else if let Some(head) = size("wkv.head_size")? {
            let embedding = embedding.ok_or(Senseless)?;
            let shifts = self.number("token_shift_count")?.unwrap_or(2);
            sum(product(shifts, embedding)?, product(embedding, head)?)?
        } else if let Some(length) = size("shortconv.l_cache")? {
            product(length.saturating_sub(1), embedding.ok_or(Senseless)?)?
        } else {
            return Ok(None);
        };
        product(numbers, 4).map(Some)
    }

    /// What each layer remembers with.
    fn kinds(&self, heads_kv: &[u64], recurrent: bool) -> Result<Vec<Kind>, Senseless> {
        let listed = matches!(self.get("attention.head_count_kv"), Some(Value::Array(_)));
        let wide = match self.prefix {
            // Its layers are attention, feed-forward or recurrent, never two of them.
            "nemotron_h" | "nemotron_h_moe" => self.each("feed_forward_length", heads_kv.len() as u64)?,
            _ => None,
        };
        let interval = match self.prefix {
            "qwen3next" | "qwen35" | "qwen35moe" => Some(self.number("full_attention_interval")?.unwrap_or(4).max(1)),
            _ => None,
        };
        let kind = |(index, heads): (u64, &u64)| match interval {
            Some(interval) => {
                let attention = (index + 1) % interval == 0;
                Kind { attention, recurrent: !attention }
            }
            None => Kind {
                attention: *heads > 0,
                recurrent: recurrent
                    && (*heads == 0 || !listed)
                    && wide
                        .as_ref()
                        .is_none_or(|wide| usize::try_from(index).ok().and_then(|at| wide.get(at)) == Some(&0)),
            },
        };
        Ok((0..).zip(heads_kv).map(kind).collect())
    }

    /// Lengths of key and value of one head.
    fn sizes(&self, shape: &Shape) -> Result<Option<Sizes>, Senseless> {
        if let (Some(_), Some(_)) =
            (self.number("attention.key_length_mla")?, self.number("attention.value_length_mla")?)
        {
            // Latent attention: what is kept as the key tells the value as well.
            let pair = self.number("attention.key_length")?.map(|key| (key, 0));
            return Ok(pair.map(|pair| Sizes { whole: pair, windowed: pair }));
        }
        let usual = match (shape.embedding_length, shape.heads) {
            (Some(embedding), Some(heads)) => embedding.checked_div(heads),
            _ => None,
        };
        let key = self.number("attention.key_length")?.or(usual);
        let value = self.number("attention.value_length")?.or(usual);
        let (Some(key), Some(value)) = (key, value) else { return Ok(None) };
        let windowed = (
            self.number("attention.key_length_swa")?.unwrap_or(key),
            self.number("attention.value_length_swa")?.unwrap_or(value),
        );
        if [key, value, windowed.0, windowed.1].contains(&0) {
            return Err(Senseless);
        }
        Ok(Some(Sizes { whole: (key, value), windowed }))
    }

    /// Which layers look back only so many tokens, and how many.
    fn windows(&self, layers: u64) -> Result<(Windows, Option<u64>), Senseless> {
        let window = self.number("attention.sliding_window")?.filter(|n| *n > 0);
        let window = match self.prefix {
            "gemma2" => window.or(Some(4096)),
            "llama4" => self.number("attention.chunk_size")?.filter(|n| *n > 0).or(window).or(Some(8192)),
            _ => window,
        };
        let written = match self.get("attention.sliding_window_pattern") {
            Some(Value::Array(array)) => {
                let flag = |value: &Value| value.as_bool().or_else(|| value.as_u64().map(|n| n > 0));
                let flags: Option<Vec<bool>> = array.kept.iter().map(flag).collect();
                Some(Windows::Each(flags.filter(|flags| !flags.is_empty()).ok_or(Senseless)?))
            }
            Some(value) => Some(Windows::Period(value.as_u64().filter(|n| *n < ABSURD).ok_or(Senseless)?, Whole::Last)),
            None => None,
        };
        let known = match self.prefix {
            "gemma2" | "gpt-oss" => Windows::Period(2, Whole::Last),
            "gemma3" => Windows::Period(6, Whole::Last),
            "gemma3n" => Windows::Period(5, Whole::Last),
            "cohere2" | "llama4" | "olmo2" | "afmoe" | "exaone-moe" => Windows::Period(4, Whole::Last),
            // Only the large one has windows.
            "exaone4" if layers == 64 => Windows::Period(4, Whole::Last),
            "smallthinker" => Windows::Period(4, Whole::First),
            "plamo3" => Windows::Period(8, Whole::Last),
            // llama.cpp keeps all of the context for them, whatever window the file names.
            "llama" | "mistral3" | "qwen2" | "qwen2moe" | "qwen3" | "qwen3moe" | "phi3" | "phimoe" | "starcoder2"
            | "exaone4" => Windows::Nowhere,
            _ => Windows::Unknown,
        };
        Ok((written.unwrap_or(known), window))
    }
}

#[derive(Clone, Copy)]
struct Kind {
    attention: bool,
    recurrent: bool,
}

#[derive(Clone, Copy)]
struct Sizes {
    whole: (u64, u64),
    windowed: (u64, u64),
}
