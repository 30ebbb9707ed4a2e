//! Mutated headers for a fixed time: two seconds a reader, or as many as `LLORCH_FUZZ_SECONDS` says.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use rbee_hive::format::card::Card;
use rbee_hive::format::config_json::Config;
use rbee_hive::format::gguf::{Depth, TensorType, Writer};
use rbee_hive::format::safetensors::{Header, Index};
use rbee_hive::format::tokenizer::{Extent, Tokenizer, TokenizerConfig};
use rbee_hive::format::{read_metadata, read_prefix};

use crate::memory::peak_of;
use crate::support::{file, header, in_time, written};

/// What any reader may hold for a file of a few KB.
const LITTLE: usize = 2 << 20;
/// What any reader may take for one.
const LONG: Duration = Duration::from_secs(1);

/// Numbers that look random; the same seed gives the same ones.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }
}

/// One of the seeds with some of its bytes flipped, replaced by telling numbers, cut out, doubled or cut off.
fn mutated(seeds: &[Vec<u8>], noise: &mut Noise) -> Vec<u8> {
    const TELLING: [u64; 12] =
        [0, 1, 7, 31, 255, 65_536, u32::MAX as u64, 1 << 32, 1 << 61, (1 << 63) - 1, 1 << 63, u64::MAX];
    let mut bytes = seeds[noise.below(seeds.len())].clone();
    for _ in 0..1 + noise.below(4) {
        if bytes.is_empty() {
            break;
        }
        let at = noise.below(bytes.len());
        match noise.below(6) {
            0 => bytes[at] ^= 1 << noise.below(8),
            1 => bytes[at] = noise.next() as u8,
            2 | 3 => {
                let number = TELLING[noise.below(TELLING.len())].to_le_bytes();
                let width = if noise.below(2) == 0 { 4 } else { 8 };
                for (to, from) in bytes[at..].iter_mut().zip(&number[..width]) {
                    *to = *from;
                }
            }
            4 => {
                let end = (at + noise.below(40)).min(bytes.len());
                let piece = bytes[at..end].to_vec();
                if noise.below(2) == 0 {
                    bytes.splice(at..at, piece);
                } else {
                    bytes.drain(at..end);
                }
            }
            _ => bytes.truncate(at),
        }
    }
    bytes
}

/// Gives `read` mutations of `seeds` until the time is up. What breaks it is told, so that it can become a test of its own.
fn fuzz(name: &str, seeds: &[Vec<u8>], read: impl Fn(&[u8])) {
    let seconds = std::env::var("LLORCH_FUZZ_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(2);
    let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64;
    let (mut noise, end) = (Noise(clock | 1), Instant::now() + Duration::from_secs(seconds));
    let mut count = 0_u64;
    // On a machine that is busy or stands still the time alone brings too few.
    while Instant::now() < end || count <= 100 {
        let bytes = mutated(seeds, &mut noise);
        let started = Instant::now();
        let (result, peak) = peak_of(|| catch_unwind(AssertUnwindSafe(|| read(&bytes))));
        let shown = || bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        assert!(result.is_ok(), "{name}: panics on {}", shown());
        assert!(peak < LITTLE, "{name}: holds {peak} bytes for {}", shown());
        in_time(LONG, started, || read(&bytes), || format!("{name}: {}", shown()));
        count += 1;
    }
}

fn gguf_seeds() -> Vec<Vec<u8>> {
    let model = Writer::new("gemma3")
        .key("general.alignment", 32_u32)
        .key("general.file_type", 15_u32)
        .key("gemma3.block_count", 4_u32)
        .key("gemma3.context_length", 4096_u32)
        .key("gemma3.embedding_length", 128_u32)
        .key("gemma3.attention.head_count", 4_u32)
        .key("gemma3.attention.head_count_kv", vec![4_u32, 2, 0, 1])
        .key("gemma3.attention.sliding_window", 1024_u32)
        .key("gemma3.attention.sliding_window_pattern", vec![true, false])
        .key("gemma3.ssm.inner_size", 64_u32)
        .key("split.count", 2_u16)
        .key("split.no", 1_u16)
        .key("tokenizer.ggml.tokens", vec!["<s>", "</s>", "a"])
        .key("tokenizer.chat_template", "{{ messages }}")
        .tensor("token_embd.weight", &[256, 3], TensorType::Q4_K)
        .tensor("blk.0.ffn_up_exps.weight", &[32, 2, 2], TensorType::F16)
        .tensor("output.weight", &[256], TensorType::F32);
    vec![written(&model), written(&model.clone().big_endian()), written(&Writer::new("clip"))]
}

#[test]
fn gguf() {
    fuzz("gguf", &gguf_seeds(), |bytes| {
        for depth in [Depth::Start, Depth::Whole, Depth::Tensors] {
            let _ = header(bytes, depth);
        }
        let _ = read_prefix(bytes, bytes.len() as u64, "model-00001-of-00002.gguf");
        let _ = read_prefix(bytes, 1 << 40, "model.gguf");
        let _ = read_metadata(&file(bytes), "model.gguf").map(|told| told.facts());
    });
}

#[test]
fn safetensors() {
    let json = br#"{"__metadata__":{"format":"pt"},"a":{"dtype":"F16","shape":[2,2],"data_offsets":[0,8]},"b":{"dtype":"I32","shape":[1],"data_offsets":[8,12]}}"#;
    let seed = [&(json.len() as u64).to_le_bytes()[..], json, &[0; 12]].concat();
    fuzz("safetensors", &[seed], |bytes| {
        let _ = Header::read(bytes, bytes.len() as u64);
        let _ = read_prefix(bytes, bytes.len() as u64, "model.safetensors");
        let _ = read_metadata(&file(bytes), "model.safetensors");
    });
}

#[test]
fn index() {
    let seed = br#"{"metadata":{"total_size":12},"weight_map":{"a":"model-00001-of-00002.safetensors","b":"model-00002-of-00002.safetensors"}}"#;
    fuzz("index", &[seed.to_vec()], |bytes| {
        let _ = Index::parse(bytes);
    });
}

#[test]
fn configs() {
    let seed = br#"{"model_type":"gemma3","architectures":["X"],"text_config":{"num_hidden_layers":4,"num_attention_heads":4,"num_key_value_heads":2,"hidden_size":128,"head_dim":64,"sliding_window":512,"layer_types":["sliding_attention","full_attention"],"kv_lora_rank":8,"qk_rope_head_dim":8},"quantization_config":{"quant_method":"gptq","bits":4},"chat_template":[{"name":"a","template":"b"}]}"#;
    fuzz("config", &[seed.to_vec()], |bytes| {
        let _ = Config::parse(bytes);
    });
}

#[test]
fn tokenizers() {
    let bpe = br#"{"version":"1.0","added_tokens":[{"id":0,"content":"<s>","special":true},{"id":9,"content":"\u00e9","special":false}],"normalizer":{"type":"Sequence","normalizers":[{"type":"NFC"}]},"model":{"type":"BPE","dropout":null,"vocab":{"<s>":0,"a\"}":1},"merges":["a b",["b","a"]]}}"#;
    let unigram = br#"{"model":{"type":"Unigram","unk_id":0,"vocab":[["<unk>",0.0],["a",-1.5e3]]},"added_tokens":[]}"#;
    fuzz("tokenizer", &[bpe.to_vec(), unigram.to_vec()], |bytes| {
        for extent in [Extent::Start, Extent::Whole] {
            let _ = Tokenizer::read(bytes, extent);
        }
    });
    let config = br#"{"bos_token":{"content":"<s>","lstrip":false},"eos_token":"</s>","chat_template":[{"name":"a","template":"b"}],"tokenizer_class":"X","added_tokens_decoder":{"0":{"content":"a"}}}"#;
    fuzz("tokenizer configuration", &[config.to_vec()], |bytes| {
        let _ = TokenizerConfig::read(bytes);
    });
}

#[test]
fn cards() {
    let head = b"---\nlicense: other # x\nlicense_name: 'llama3.1'\nbase_model:\n- org/a\n- \"org/b\"\ntags: [a, b]\n---\n# Title\n";
    fuzz("card", &[head.to_vec()], |bytes| {
        let _ = Card::read(bytes);
    });
}
