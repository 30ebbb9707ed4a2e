//! What `config.json` says about memory: which layers keep keys and values, how large, how far back.

use super::config_json::Config;
use crate::model::memory::{CacheLayers, Shape};

/// No model has so many layers.
const MOST_LAYERS: u64 = 4096;

/// The keys that only this needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Attention {
    pub(super) vocabulary: Option<u64>,
    pub(super) head_length: Option<u64>,
    pub(super) window: Option<u64>,
    /// `use_sliding_window` is false.
    pub(super) no_window: bool,
    pub(super) window_pattern: Option<u64>,
    pub(super) layer_types: Option<Vec<String>>,
    pub(super) latent: Option<u64>,
    pub(super) latent_rope: Option<u64>,
}

/// What a layer does with what came before.
enum Layer {
    Whole,
    Windowed,
    /// Recurrent or convolutional: it keeps no keys and values.
    Other,
}

/// The shape of a model of that configuration.
pub(super) fn shape(config: &Config, attention: &Attention) -> Shape {
    let (cache, at_most) = cache(config, attention).map_or((None, false), |(cache, at_most)| (Some(cache), at_most));
    Shape {
        cache,
        at_most,
        vocabulary: attention.vocabulary,
        embedding_length: config.embedding_length,
        heads: config.heads,
        ..Shape::default()
    }
}

fn cache(config: &Config, attention: &Attention) -> Option<(Vec<CacheLayers>, bool)> {
    let family = config.model_type.as_deref().unwrap_or_default();
    if is_encoder(family, config.class.as_deref().unwrap_or_default()) {
        return Some((Vec::new(), false));
    }
    let layers = config.layers.filter(|n| (1..=MOST_LAYERS).contains(n))?;
    let (heads_kv, key_length, value_length) = match (attention.latent, attention.latent_rope) {
        (Some(latent), Some(rope)) => (1, latent.checked_add(rope)?, 0),
        _ => {
            let length = attention
                .head_length
                .or_else(|| config.embedding_length?.checked_div(config.heads?))
                .filter(|n| *n > 0)?;
            (config.heads_kv.filter(|n| *n > 0)?, length, length)
        }
    };
    let window = attention.window.filter(|n| *n > 0 && !attention.no_window);
    let pattern = attention.window_pattern.filter(|n| *n > 0).or(match family {
        "gemma3" | "gemma3_text" => Some(6),
        "gemma2" => Some(2),
        _ => None,
    });
    let kind = |index: u64| match (&attention.layer_types, pattern) {
        (Some(types), _) => match usize::try_from(index).ok().and_then(|at| types.get(at)).map(String::as_str) {
            Some("sliding_attention" | "chunked_attention") => Layer::Windowed,
            Some("linear_attention" | "mamba" | "conv" | "recurrent" | "moe" | "mlp") => Layer::Other,
            _ => Layer::Whole,
        },
        (None, Some(pattern)) if window.is_some() && !(index + 1).is_multiple_of(pattern) => Layer::Windowed,
        _ => Layer::Whole,
    };
    let mut cache = Vec::new();
    for index in 0..layers {
        let window = match kind(index) {
            Layer::Other => continue,
            Layer::Whole => None,
            Layer::Windowed => window,
        };
        Shape::add_layer(&mut cache, CacheLayers { layers: 1, heads_kv, key_length, value_length, window });
    }
    let at_most = window.is_some() && attention.layer_types.is_none() && pattern.is_none();
    Some((cache, at_most))
}

/// Models that read a whole text at once keep nothing from one token to the next.
fn is_encoder(family: &str, class: &str) -> bool {
    let encoders = [
        "bert",
        "roberta",
        "xlm-roberta",
        "mpnet",
        "distilbert",
        "electra",
        "deberta",
        "deberta-v2",
        "nomic_bert",
        "modernbert",
        "new",
    ];
    (encoders.contains(&family) || family.ends_with("bert")) && !class.ends_with("ForCausalLM")
}
