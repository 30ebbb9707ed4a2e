//! The cache of keys and values: how it is kept, and what it takes.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

use super::Shape;

/// The context that fit is asked for where nobody says another and the model was trained for as much.
pub const DEFAULT_CONTEXT: u64 = 8192;
/// Tokens are computed in batches of so many.
pub(super) const BATCH: u64 = 512;
/// The number of cells is rounded up to a multiple of this.
const CELLS: u64 = 256;

/// The type of the numbers in the cache of keys and values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum CacheType {
    F32,
    #[default]
    F16,
    BF16,
    /// One byte a number, as vLLM's `fp8`.
    F8,
    Q8_0,
    Q5_1,
    Q5_0,
    Q4_1,
    Q4_0,
    Iq4Nl,
}

impl CacheType {
    const ALL: [(Self, &'static str, u64); 10] = [
        (Self::F32, "f32", 4 * 32),
        (Self::F16, "f16", 2 * 32),
        (Self::BF16, "bf16", 2 * 32),
        (Self::F8, "fp8", 32),
        (Self::Q8_0, "q8_0", 34),
        (Self::Q5_1, "q5_1", 24),
        (Self::Q5_0, "q5_0", 22),
        (Self::Q4_1, "q4_1", 20),
        (Self::Q4_0, "q4_0", 18),
        (Self::Iq4Nl, "iq4_nl", 18),
    ];

    /// The name that llama.cpp and vLLM give it.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(kind, ..)| *kind == self).map_or("f16", |(_, name, _)| name)
    }

    /// Bytes that 32 numbers take.
    fn bytes_of_32(self) -> u64 {
        Self::ALL.iter().find(|(kind, ..)| *kind == self).map_or(64, |(.., bytes)| *bytes)
    }
}

impl fmt::Display for CacheType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for CacheType {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let lower = text.trim().to_ascii_lowercase();
        Self::ALL.iter().find(|(_, name, _)| *name == lower).map(|(kind, ..)| *kind).ok_or_else(|| {
            let names: Vec<&str> = Self::ALL.iter().map(|(_, name, _)| *name).collect();
            format!("it is no type of cache; one of {}", names.join(", "))
        })
    }
}

impl Serialize for CacheType {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// Under which conditions a model is to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Conditions {
    /// Tokens of context; `None` is what the model was trained for, but at most [`DEFAULT_CONTEXT`].
    pub context: Option<u64>,
    /// Type of the cache of keys and values.
    pub cache_type: CacheType,
    /// Sequences that share the context.
    pub sequences: u64,
    /// Whether attention is computed without keeping its scores, which is what llama.cpp does unless told otherwise.
    pub flash_attention: bool,
}

impl Default for Conditions {
    fn default() -> Self {
        Self { context: None, cache_type: CacheType::default(), sequences: 1, flash_attention: true }
    }
}

impl Conditions {
    /// The context for a model that was trained for `trained` tokens.
    #[must_use]
    pub fn context_for(&self, trained: Option<u64>) -> u64 {
        self.context.unwrap_or_else(|| trained.filter(|n| *n > 0).unwrap_or(DEFAULT_CONTEXT).min(DEFAULT_CONTEXT))
    }
}

/// Bytes of the cache of keys and values for `context` tokens; `None` where the shape is not known or makes no sense.
pub(super) fn cache_bytes(shape: &Shape, context: u64, conditions: &Conditions) -> Option<u64> {
    let full = context.checked_next_multiple_of(CELLS)?;
    let mut sum = 0_u64;
    for layers in shape.cache.as_ref()? {
        let cells = match layers.window {
            Some(window) => {
                let seen = window.checked_mul(conditions.sequences.max(1))?.checked_add(BATCH)?;
                context.min(seen).checked_next_multiple_of(CELLS)?.min(full)
            }
            None => full,
        };
        let numbers = layers.key_length.checked_add(layers.value_length)?;
        let numbers = numbers.checked_mul(layers.heads_kv)?.checked_mul(cells)?.checked_mul(layers.layers)?;
        let bytes = u128::from(numbers) * u128::from(conditions.cache_type.bytes_of_32()) / 32;
        sum = sum.checked_add(u64::try_from(bytes).ok()?)?;
    }
    Some(sum)
}
