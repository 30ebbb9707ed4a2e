//! What a model needs, part by part.

use serde::Serialize;

use super::cache::{BATCH, cache_bytes};
use super::{Conditions, Shape};

/// What the driver's context and kernels take on each device.
pub const OVERHEAD: u64 = 512 << 20;
/// What llama.cpp leaves free on each device.
pub const MARGIN: u64 = 1024 << 20;
/// What a program takes in the host's memory beside the model.
const HOST_OVERHEAD: u64 = 150 << 20;
/// No memory is larger: a need beyond it is no need but a header that makes no sense.
const ABSURD: u64 = 1 << 50;

/// The weights that are to be loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Weights {
    /// Bytes of all tensors.
    pub bytes: u64,
    /// Bytes of the projector and the adapters that go with them.
    pub extra_bytes: u64,
}

/// What a model needs, part by part, in bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Need {
    /// All weights.
    pub weights_bytes: u64,
    /// Those of them that stay in the host's memory: the table of token embeddings, unless it is the output as well.
    pub host_weights_bytes: u64,
    /// Projector and adapters.
    pub projector_bytes: u64,
    /// The cache of keys and values.
    pub cache_bytes: u64,
    /// Recurrent state.
    pub state_bytes: u64,
    /// The compute buffer of a GPU.
    pub compute_bytes: u64,
    /// The compute buffer without a GPU.
    pub host_compute_bytes: u64,
    /// Overhead of each GPU.
    pub overhead_bytes: u64,
    /// Overhead in the host's memory.
    pub host_overhead_bytes: u64,
    /// The sum on one GPU.
    pub gpu_bytes: u64,
    /// The sum in the host's memory, without a GPU.
    pub cpu_bytes: u64,
    /// The sum on a GPU that shares the host's memory: nothing lies elsewhere.
    pub unified_bytes: u64,
    /// The largest layer's share of weights and cache: what a split over several devices may waste on each.
    pub layer_bytes: u64,
    /// Context in tokens.
    pub context: u64,
    /// The tokens that the model was trained for, or made for by scaling, where the context is more than that.
    pub beyond_training: Option<u64>,
    /// Whether the cache is an upper bound.
    pub at_most: bool,
}

/// What a model of that shape needs.
///
/// # Errors
/// Why it cannot be told: the header does not say, or says what makes no sense.
pub fn need(
    shape: &Shape,
    weights: Weights,
    layers: Option<u64>,
    trained_context: Option<u64>,
    conditions: &Conditions,
) -> Result<Need, String> {
    let context = conditions.context_for(trained_context);
    let reach = trained_context.filter(|tokens| *tokens > 0).map(|tokens| tokens.max(shape.reach.unwrap_or(0)));
    let beyond_training = reach.filter(|reach| context > *reach);
    if shape.cache.is_none() {
        return Err("its header does not tell what the cache of keys and values takes".to_owned());
    }
    let absurd = || "its header says what makes no sense".to_owned();
    if !shape.is_sensible() {
        return Err(absurd());
    }
    let need = sum(shape, weights, layers, context, conditions).filter(|need| need.cpu_bytes < ABSURD);
    need.map(|need| Need { beyond_training, ..need }).ok_or_else(absurd)
}

fn sum(shape: &Shape, weights: Weights, layers: Option<u64>, context: u64, conditions: &Conditions) -> Option<Need> {
    let cache_bytes = cache_bytes(shape, context, conditions)?;
    let state_bytes = shape.state_bytes.checked_mul(conditions.sequences.max(1))?;
    let host_weights_bytes = if shape.output { shape.embedding_bytes.min(weights.bytes) } else { 0 };
    let (vocabulary, embedding) = (shape.vocabulary.unwrap_or(0), shape.embedding_length.unwrap_or(0));
    let scores = match conditions.flash_attention {
        true => 0,
        false => context.checked_mul(shape.heads.unwrap_or(0))?,
    };
    // Logits and activations of a batch as 32-bit numbers; without a GPU the embeddings of the batch are there as well.
    let buffer = |numbers: u64| numbers.checked_add(scores)?.checked_mul(BATCH * 4);
    let compute_bytes = buffer(vocabulary.checked_add(embedding)?)?;
    let host_compute_bytes = buffer(vocabulary.checked_add(embedding.checked_mul(2)?)?)?;
    let moving = cache_bytes.checked_add(state_bytes)?.checked_add(weights.extra_bytes)?;
    let on_gpu = weights.bytes - host_weights_bytes;
    let gpu_bytes = on_gpu.checked_add(moving)?.checked_add(compute_bytes)?.checked_add(OVERHEAD)?;
    Some(Need {
        weights_bytes: weights.bytes,
        host_weights_bytes,
        projector_bytes: weights.extra_bytes,
        cache_bytes,
        state_bytes,
        compute_bytes,
        host_compute_bytes,
        overhead_bytes: OVERHEAD,
        host_overhead_bytes: HOST_OVERHEAD,
        gpu_bytes,
        cpu_bytes: weights.bytes.checked_add(moving)?.checked_add(host_compute_bytes)?.checked_add(HOST_OVERHEAD)?,
        unified_bytes: gpu_bytes.checked_add(host_weights_bytes)?.checked_add(HOST_OVERHEAD)?,
        layer_bytes: on_gpu.checked_add(cache_bytes)? / layers.filter(|n| *n > 0).unwrap_or(1),
        context,
        beyond_training: None,
        at_most: shape.at_most,
    })
}
