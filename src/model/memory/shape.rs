//! What of a model's shape decides how much memory it takes beside its weights.

use serde::{Deserialize, Serialize};

/// Layers whose caches of keys and values are alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheLayers {
    /// How many.
    pub layers: u64,
    /// Heads of keys and values.
    pub heads_kv: u64,
    /// Numbers in the key of one head.
    pub key_length: u64,
    /// Numbers in the value of one head; 0 where keys alone are kept (latent attention).
    pub value_length: u64,
    /// Tokens that these layers look back; `None` is all of the context.
    pub window: Option<u64>,
}

/// What of a model's shape decides how much memory it takes beside its weights.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Shape {
    /// The layers that keep keys and values; empty for a model without such a cache, `None` where the header does not tell.
    pub cache: Option<Vec<CacheLayers>>,
    /// Whether the cache is an upper bound: some layers look back less far than is said here, but which is not known.
    pub at_most: bool,
    /// Bytes of recurrent state of one sequence, whatever the context.
    pub state_bytes: u64,
    /// Tokens of the vocabulary.
    pub vocabulary: Option<u64>,
    /// Embedding length.
    pub embedding_length: Option<u64>,
    /// Attention heads.
    pub heads: Option<u64>,
    /// Tokens of context that the scaling of its rotary positions makes of what it was trained for; `None` without any.
    pub reach: Option<u64>,
    /// Bytes of the table of token embeddings.
    pub embedding_bytes: u64,
    /// Whether the output has weights of its own. Then the table of token embeddings stays in the host's memory.
    pub output: bool,
}

/// The context that scaled rotary positions reach: `factor` times what the model had before, which is what it is trained for
/// where nothing else is said. Kinds that scale within the context that is told (`llama3`, `longrope`) reach no further.
#[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
pub(crate) fn scaled_context(kind: &str, factor: f64, original: Option<u64>, trained: Option<u64>) -> Option<u64> {
    /// No model is made for more.
    const MOST: f64 = 1e12;
    let before = match kind {
        "yarn" => original.or(trained)?,
        "linear" | "dynamic" => trained?,
        _ => return None,
    };
    let reach = before as f64 * factor;
    (factor > 1.0 && reach < MOST).then_some(reach as u64)
}

impl Shape {
    /// Adds a layer; neighbours and others of the same kind are counted together.
    pub(crate) fn add_layer(cache: &mut Vec<CacheLayers>, layer: CacheLayers) {
        let like = |known: &&mut CacheLayers| CacheLayers { layers: layer.layers, ..**known } == layer;
        match cache.iter_mut().find(like) {
            Some(known) => known.layers = known.layers.saturating_add(layer.layers),
            None => cache.push(layer),
        }
    }

    /// Layers that keep keys and values.
    #[must_use]
    pub fn cached_layers(&self) -> u64 {
        self.cache.iter().flatten().map(|layers| layers.layers).fold(0, u64::saturating_add)
    }

    /// Whether its numbers can be those of a model. A zero where there is something would make a need small, not unknown.
    pub(super) fn is_sensible(&self) -> bool {
        let zero = |number: Option<u64>| number == Some(0);
        let empty = |layers: &CacheLayers| layers.layers == 0 || layers.heads_kv == 0 || layers.key_length == 0;
        let heads_are_missing = zero(self.heads) && self.cached_layers() > 0;
        let too_narrow = self.embedding_length.zip(self.heads).is_some_and(|(embedding, heads)| embedding < heads);
        !zero(self.vocabulary)
            && !zero(self.embedding_length)
            && !heads_are_missing
            && !too_narrow
            && !self.cache.iter().flatten().any(empty)
    }

    /// Adds what another part of the same model tells: where its tables of tokens lie.
    pub(crate) fn add_part(&mut self, part: &Self) {
        self.embedding_bytes = self.embedding_bytes.saturating_add(part.embedding_bytes);
        self.output |= part.output;
        if self.cache.is_none() {
            self.cache.clone_from(&part.cache);
            (self.at_most, self.state_bytes) = (part.at_most, part.state_bytes);
        }
        self.vocabulary = self.vocabulary.or(part.vocabulary);
        self.embedding_length = self.embedding_length.or(part.embedding_length);
        self.heads = self.heads.or(part.heads);
        self.reach = self.reach.or(part.reach);
    }
}
