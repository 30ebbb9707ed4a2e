//! What the name of a folder in another one tells: a part of a model, or a repository of its own.

use std::ffi::OsStr;

use crate::model::{Quantization, text};

/// Names of folders that hold a part of a model, or another form of the same one. A number may follow.
const PARTS: [&str; 62] = [
    "adapter",
    "adapters",
    "audio_encoder",
    "base",
    "bin",
    "blobs",
    "checkpoint",
    "checkpoints",
    "connectors",
    "controlnet",
    "coreml",
    "decoder",
    "draft",
    "ema",
    "encoder",
    "epoch",
    "exl2",
    "feature_extractor",
    "flax",
    "ggml",
    "gguf",
    "global_step",
    "hf",
    "image_encoder",
    "language_model",
    "lora",
    "loras",
    "merged",
    "metal",
    "mlx",
    "mmproj",
    "model",
    "models",
    "movq",
    "onnx",
    "openvino",
    "original",
    "prior",
    "projector",
    "pytorch",
    "refiner",
    "safetensors",
    "safety_checker",
    "scheduler",
    "snapshots",
    "step",
    "talker",
    "tensorrt",
    "text_encoder",
    "text_model",
    "tf",
    "thinker",
    "token2wav",
    "tokenizer",
    "transformer",
    "transformers",
    "unet",
    "vae",
    "vision_encoder",
    "vision_model",
    "vision_tower",
    "vocoder",
];

/// Words for a precision that are no label of a quantization in [`Quantization`].
const PRECISIONS: [&str; 27] = [
    "asym", "awq", "bfloat16", "bnb", "dwq", "dynamic", "e4m3", "e4m3fn", "e5m2", "float16", "float32", "fp4", "fp6",
    "fp8", "gptq", "half", "imat", "imatrix", "int4", "int8", "mxfp4", "mxfp6", "mxfp8", "nf4", "nvfp4", "scaled",
    "sym",
];

/// What follows the width in labels.
const SIZES: [&str; 14] = ["0", "1", "k", "s", "m", "l", "xl", "xs", "xxs", "nl", "ks", "kss", "kt", "kl"];

/// What the names of repositories end in when they hold another form of a model. `MLX` may have a precision after it.
const SUFFIXES: [&str; 2] = ["gguf", "mlx"];

/// `-GGUF`, `_GGUF`, `-MLX`, `-MLX-4bit` after a name that is more than a precision.
pub(super) fn has_suffix(name: &OsStr) -> bool {
    let name = text::escape(name).to_ascii_lowercase();
    let words: Vec<&str> = name.split(['-', '_']).collect();
    let Some(at) = words.iter().rposition(|word| SUFFIXES.contains(word)) else { return false };
    let first: usize = words[..at].iter().map(|word| word.len() + 1).sum();
    let ends = words[at + 1..].iter().all(|word| words[at] == "mlx" && is_precision(word));
    ends && name.get(..first.saturating_sub(1)).is_some_and(|before| !before.is_empty() && !is_part(OsStr::new(before)))
}

/// Whether a folder of that name holds a quantization or a part of a model.
pub(super) fn is_part(name: &OsStr) -> bool {
    let name = text::escape(name).to_ascii_lowercase();
    // Repositories as the Hugging Face cache keeps them.
    if ["models--", "datasets--", "spaces--"].iter().any(|prefix| name.starts_with(prefix)) {
        return true;
    }
    let word = name.replace(['-', ' '], "_");
    let bare = word.trim_end_matches(|c: char| c.is_ascii_digit() || c == '_');
    PARTS.contains(&word.as_str()) || PARTS.contains(&bare) || is_quantization(&name)
}

/// Whether a name is a quantization, maybe with its format, and nothing else.
fn is_quantization(name: &str) -> bool {
    let known = |word: &str| {
        is_precision(word) || matches!(word, "ud" | "i1" | "exl2" | "bit" | "bits") || SUFFIXES.contains(&word)
    };
    let are_known = |between: &[char], further: &[&str]| {
        let mut words = name.split(between).filter(|word| !word.is_empty()).peekable();
        words.peek().is_some() && words.all(|word| known(word) || further.contains(&word))
    };
    // A label has underscores of its own, and so have words that stand beside one.
    let first = name.split(['-', '.', ' ', '_']).next().unwrap_or_default();
    are_known(&['-', '.', ' '], &[]) || (known(first) && are_known(&['-', '.', ' ', '_'], &SIZES))
}

fn is_precision(word: &str) -> bool {
    let label = Quantization::of_file_name(&format!("{word}.gguf"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let bits = ["bits", "bit", "bpw", "g"].iter().any(|unit| word.strip_suffix(unit).is_some_and(digits));
    let short = ["q", "w", "h", "iq", "gs"].iter().any(|prefix| word.strip_prefix(prefix).is_some_and(digits));
    let both = word.strip_prefix('w').and_then(|rest| rest.split_once('a'));
    let both = both.or_else(|| word.strip_prefix('q').and_then(|rest| rest.split_once('f')));
    let both = both.or_else(|| word.strip_prefix("nvfp").and_then(|rest| rest.split_once('a')));
    let activations = both.is_some_and(|(weights, activations)| digits(weights) && digits(activations));
    label.is_some() || bits || short || activations || digits(word) || PRECISIONS.contains(&word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_and_quantizations_are_told_from_models_by_name() {
        let parts = [
            "Q4_K_M",
            "q8_0",
            "BF16",
            "fp16",
            "UD-Q4_K_XL",
            "4bit",
            "4.0bpw",
            "gptq-4bit-32g",
            "w4a16",
            "MLX-4bit",
            "Q4_K_M-GGUF",
            "gguf",
            "pytorch",
            "onnx",
            "original",
            "unet",
            "vae_1_0",
            "text_encoder_2",
            "Text-Encoder",
            "transformer_2",
            "checkpoint-500",
            "snapshots",
            "models--unsloth--X-GGUF",
            "i1",
            "1",
            "fp8_e4m3fn",
            "fp8_scaled",
            "8bpw_h8",
            "4-bit",
            "bnb-nf4",
            "NVFP4A16",
            "mxfp8",
            "int4-gs128-asym",
            "IQ4_KSS",
            "Q4_K_M_imat",
            "q4f16_1",
            "half",
            "step_100",
            "epoch-3",
            "global_step500",
            "ema",
            "language_model",
            "vision_tower",
            "token2wav",
        ];
        for name in parts {
            assert!(is_part(OsStr::new(name)), "{name}");
        }
        let models = [
            "Qwen3-30B-A3B",
            "m1-GGUF",
            "Llama-3.2-1B-Instruct-Q4_K_M-GGUF",
            "gpt-oss-20b",
            "7B",
            "v2",
            "base-model",
            "Phi-3-mini-4k-instruct-gguf",
            "my model",
        ];
        for name in models {
            assert!(!is_part(OsStr::new(name)), "{name}");
        }
    }

    #[test]
    fn endings_of_repositories() {
        for name in
            ["m-GGUF", "m_gguf", "a b-Gguf", "m-MLX", "m-mlx-4bit", "m-MLX-bf16", "m-MLX-4bit-DWQ", "m-Q4_K_M-GGUF"]
        {
            assert!(has_suffix(OsStr::new(name)), "{name}");
        }
        for name in ["GGUF", "-GGUF", "mGGUF", "m.gguf", "m-GGUF-old", "Q8_0-GGUF", "unet_gguf", "m-MLX-new", "m"] {
            assert!(!has_suffix(OsStr::new(name)), "{name}");
        }
    }
}
