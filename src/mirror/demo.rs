//! A store and a hub to try the program on: made on the spot, gone afterwards, no network.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::library::Library;
use super::{Facts, Folder, Gate, Mirror, Options};
use crate::disk::throwaway::Throwaway;
use crate::error::{Error, Result};
use crate::format::gguf::{TensorType, Writer};
use crate::model::{Digest, RepoPath};
use crate::store::flat::{Record, RecordedFile};

/// Bytes per second of each connection: slow enough to watch, fast enough to wait for.
const RATE: u64 = 3 << 20;
/// From this size on a file is large.
const LARGE_FROM: u64 = 1 << 20;
const DAY: Duration = Duration::from_secs(24 * 3600);

/// A throwaway base folder with small real models, and a running mirror with more to fetch. Dropping it stops the mirror
/// and removes the folder.
#[derive(Debug)]
pub struct Demo {
    mirror: Mirror,
    throwaway: Throwaway,
}

impl Demo {
    /// Makes everything in a new folder of `temp` and starts to serve on loopback.
    ///
    /// # Errors
    /// [`Error::Io`] when the folder cannot be written or no port is free.
    pub async fn start(temp: &Path) -> Result<Self> {
        let temp = temp.to_owned();
        let made = tokio::task::spawn_blocking(move || {
            let throwaway = Throwaway::create(&temp, "llorch-models-demo-")?;
            let content = Arc::new(make_hub(&throwaway.path().join("hub"))?);
            Ok((throwaway, content))
        });
        let (throwaway, content) = joined(made.await)?;
        let options = Options { large_from: LARGE_FROM, rate: Some(RATE), ..Options::default() };
        let served: Arc<Folder> = Arc::clone(&content);
        let mirror = Mirror::start(served, options).await?;
        let demo = Self { mirror, throwaway };
        let (endpoint, models, hub) = (demo.endpoint(), demo.base_dir(), demo.throwaway.path().join("hub"));
        let made = tokio::task::spawn_blocking(move || make_store(&models, &hub, content, &endpoint));
        joined(made.await)?;
        Ok(demo)
    }

    /// The base folder of the flat store.
    #[must_use]
    pub fn base_dir(&self) -> PathBuf {
        self.throwaway.path().join("models")
    }

    /// A place for whatever else belongs to this run: state, cache, configuration.
    #[must_use]
    pub fn home(&self) -> PathBuf {
        self.throwaway.path().join("home")
    }

    /// The base address of the hub; it wants no token.
    #[must_use]
    pub fn endpoint(&self) -> String {
        self.mirror.endpoint()
    }
}

fn joined<T>(made: std::result::Result<Result<T>, tokio::task::JoinError>) -> Result<T> {
    made.unwrap_or_else(|error| Err(Error::io("create", "the demonstration")(std::io::Error::other(error))))
}

/// A quantization: its number in `general.file_type` and the type that most of its tensors have.
#[derive(Clone, Copy)]
struct Quant(u32, TensorType);

const Q2_K: Quant = Quant(10, TensorType::Q2_K);
const Q4_K_M: Quant = Quant(15, TensorType::Q4_K);
const Q5_K_M: Quant = Quant(17, TensorType::Q5_K);
const Q6_K: Quant = Quant(18, TensorType::Q6_K);
const Q8_0: Quant = Quant(7, TensorType::Q8_0);
const F16: Quant = Quant(1, TensorType::F16);

/// What a made-up file is.
enum Made {
    /// Layers of a llama-like model in one file.
    Gguf(Quant, u32),
    /// The same, as the shard of that number of so many.
    Shard(Quant, u32, u16, u16),
    /// A projector for pictures.
    Projector,
    /// Weights in one safetensors file of about so many MiB.
    Safetensors(usize),
    /// Text as it is.
    Text(&'static str),
}

/// A repository of the demonstration.
struct Sample {
    id: &'static str,
    architecture: &'static str,
    /// Width of the model: 256 makes files of a few MiB, 1024 larger ones.
    width: u64,
    files: &'static [(&'static str, Made)],
    downloads: u64,
    likes: u64,
    gate: Gate,
}

/// A folder of the store: from which repository, which of its files, when used last.
struct Kept {
    folder: &'static str,
    repository: &'static str,
    files: &'static [&'static str],
    days: u32,
    /// Cut off in the middle, as a full disk leaves it.
    damaged: bool,
}

const README: Made = Made::Text("Made up for a demonstration: the weights are noise.\n");
const CONFIG: Made = Made::Text(
    "{\"architectures\":[\"LlamaForCausalLM\"],\"model_type\":\"llama\",\"hidden_size\":576,\"num_hidden_layers\":30,\
     \"num_attention_heads\":9,\"num_key_value_heads\":3,\"vocab_size\":49152,\"max_position_embeddings\":2048,\
     \"torch_dtype\":\"bfloat16\"}\n",
);
const TOKENIZER: Made = Made::Text("{\"version\":\"1.0\",\"model\":{\"type\":\"BPE\",\"vocab\":{},\"merges\":[]}}\n");

const SAMPLES: &[Sample] = &[
    Sample {
        id: "TheBloke/TinyLlama-1.1B-Chat-v1.0-GGUF",
        architecture: "llama",
        width: 256,
        files: &[
            ("README.md", README),
            ("tinyllama-1.1b-chat-v1.0.Q2_K.gguf", Made::Gguf(Q2_K, 6)),
            ("tinyllama-1.1b-chat-v1.0.Q4_K_M.gguf", Made::Gguf(Q4_K_M, 6)),
            ("tinyllama-1.1b-chat-v1.0.Q5_K_M.gguf", Made::Gguf(Q5_K_M, 6)),
            ("tinyllama-1.1b-chat-v1.0.Q8_0.gguf", Made::Gguf(Q8_0, 6)),
        ],
        downloads: 182_000,
        likes: 1_204,
        gate: Gate::Open,
    },
    Sample {
        id: "Qwen/Qwen2.5-0.5B-Instruct-GGUF",
        architecture: "qwen2",
        width: 256,
        files: &[
            ("README.md", README),
            ("qwen2.5-0.5b-instruct-q4_k_m.gguf", Made::Gguf(Q4_K_M, 5)),
            ("qwen2.5-0.5b-instruct-q8_0.gguf", Made::Gguf(Q8_0, 5)),
            ("qwen2.5-0.5b-instruct-fp16.gguf", Made::Gguf(F16, 5)),
        ],
        downloads: 96_000,
        likes: 310,
        gate: Gate::Open,
    },
    Sample {
        id: "HuggingFaceTB/SmolLM2-135M-Instruct-GGUF",
        architecture: "llama",
        width: 256,
        files: &[
            ("README.md", README),
            ("smollm2-135m-instruct-q4_k_m.gguf", Made::Gguf(Q4_K_M, 4)),
            ("smollm2-135m-instruct-q6_k.gguf", Made::Gguf(Q6_K, 4)),
            ("smollm2-135m-instruct-q8_0.gguf", Made::Gguf(Q8_0, 4)),
        ],
        downloads: 41_000,
        likes: 122,
        gate: Gate::Open,
    },
    Sample {
        id: "HuggingFaceTB/SmolLM2-135M",
        architecture: "llama",
        width: 256,
        files: &[
            ("README.md", README),
            ("config.json", CONFIG),
            ("tokenizer.json", TOKENIZER),
            ("model.safetensors", Made::Safetensors(5)),
        ],
        downloads: 77_000,
        likes: 260,
        gate: Gate::Open,
    },
    Sample {
        id: "bartowski/Mixtral-8x7B-Instruct-v0.1-GGUF",
        architecture: "llama",
        width: 256,
        files: &[
            ("README.md", README),
            ("Q4_K_M/mixtral-8x7b-instruct-v0.1-Q4_K_M-00001-of-00003.gguf", Made::Shard(Q4_K_M, 12, 1, 3)),
            ("Q4_K_M/mixtral-8x7b-instruct-v0.1-Q4_K_M-00002-of-00003.gguf", Made::Shard(Q4_K_M, 12, 2, 3)),
            ("Q4_K_M/mixtral-8x7b-instruct-v0.1-Q4_K_M-00003-of-00003.gguf", Made::Shard(Q4_K_M, 12, 3, 3)),
        ],
        downloads: 12_000,
        likes: 95,
        gate: Gate::Open,
    },
    Sample {
        id: "microsoft/Phi-3-mini-4k-instruct-gguf",
        architecture: "phi3",
        width: 256,
        files: &[("README.md", README), ("Phi-3-mini-4k-instruct-q4.gguf", Made::Gguf(Q4_K_M, 9))],
        downloads: 150_000,
        likes: 980,
        gate: Gate::Open,
    },
    Sample {
        id: "cjpais/llava-1.6-mistral-7b-gguf",
        architecture: "llama",
        width: 256,
        files: &[
            ("README.md", README),
            ("llava-v1.6-mistral-7b.Q5_K_M.gguf", Made::Gguf(Q5_K_M, 6)),
            ("mmproj-model-f16.gguf", Made::Projector),
        ],
        downloads: 33_000,
        likes: 140,
        gate: Gate::Open,
    },
    Sample {
        id: "QuantFactory/Meta-Llama-3-8B-Instruct-GGUF",
        architecture: "llama",
        width: 1024,
        files: &[
            ("README.md", README),
            ("Meta-Llama-3-8B-Instruct.Q2_K.gguf", Made::Gguf(Q2_K, 6)),
            ("Meta-Llama-3-8B-Instruct.Q4_K_M.gguf", Made::Gguf(Q4_K_M, 6)),
            ("Meta-Llama-3-8B-Instruct.Q5_K_M.gguf", Made::Gguf(Q5_K_M, 6)),
            ("Meta-Llama-3-8B-Instruct.Q6_K.gguf", Made::Gguf(Q6_K, 6)),
            ("Meta-Llama-3-8B-Instruct.Q8_0.gguf", Made::Gguf(Q8_0, 6)),
        ],
        downloads: 210_000,
        likes: 1_560,
        gate: Gate::Open,
    },
    Sample {
        id: "TheBloke/Mistral-7B-Instruct-v0.2-GGUF",
        architecture: "llama",
        width: 1024,
        files: &[
            ("README.md", README),
            ("mistral-7b-instruct-v0.2.Q4_K_M.gguf", Made::Gguf(Q4_K_M, 8)),
            ("mistral-7b-instruct-v0.2.Q8_0.gguf", Made::Gguf(Q8_0, 5)),
            ("mistral-7b-instruct-v0.2.f16.gguf", Made::Gguf(F16, 3)),
        ],
        downloads: 320_000,
        likes: 2_010,
        gate: Gate::Open,
    },
    Sample {
        id: "unsloth/Qwen3-30B-A3B-GGUF",
        architecture: "qwen3moe",
        width: 1024,
        files: &[
            ("README.md", README),
            ("Q4_K_M/Qwen3-30B-A3B-Q4_K_M-00001-of-00003.gguf", Made::Shard(Q4_K_M, 9, 1, 3)),
            ("Q4_K_M/Qwen3-30B-A3B-Q4_K_M-00002-of-00003.gguf", Made::Shard(Q4_K_M, 9, 2, 3)),
            ("Q4_K_M/Qwen3-30B-A3B-Q4_K_M-00003-of-00003.gguf", Made::Shard(Q4_K_M, 9, 3, 3)),
            ("Qwen3-30B-A3B-Q2_K.gguf", Made::Gguf(Q2_K, 9)),
        ],
        downloads: 58_000,
        likes: 420,
        gate: Gate::Open,
    },
    Sample {
        id: "meta-llama/Llama-3.2-1B-Instruct-GGUF",
        architecture: "llama",
        width: 1024,
        files: &[("README.md", README), ("Llama-3.2-1B-Instruct-Q8_0.gguf", Made::Gguf(Q8_0, 3))],
        downloads: 500_000,
        likes: 3_300,
        gate: Gate::Manual,
    },
];

const STORE: &[Kept] = &[
    Kept {
        folder: "tinyllama",
        repository: "TheBloke/TinyLlama-1.1B-Chat-v1.0-GGUF",
        files: &["tinyllama-1.1b-chat-v1.0.Q4_K_M.gguf"],
        days: 3,
        damaged: false,
    },
    Kept {
        folder: "qwen",
        repository: "Qwen/Qwen2.5-0.5B-Instruct-GGUF",
        files: &["qwen2.5-0.5b-instruct-q4_k_m.gguf", "qwen2.5-0.5b-instruct-fp16.gguf"],
        days: 41,
        damaged: false,
    },
    Kept {
        folder: "smollm2-135m-instruct-gguf",
        repository: "HuggingFaceTB/SmolLM2-135M-Instruct-GGUF",
        files: &[
            "smollm2-135m-instruct-q4_k_m.gguf",
            "smollm2-135m-instruct-q6_k.gguf",
            "smollm2-135m-instruct-q8_0.gguf",
        ],
        days: 12,
        damaged: false,
    },
    Kept {
        folder: "smollm2-135m",
        repository: "HuggingFaceTB/SmolLM2-135M",
        files: &["config.json", "tokenizer.json", "model.safetensors"],
        days: 90,
        damaged: false,
    },
    Kept {
        folder: "mixtral-8x7b-instruct-v0.1-gguf",
        repository: "bartowski/Mixtral-8x7B-Instruct-v0.1-GGUF",
        files: &[
            "Q4_K_M/mixtral-8x7b-instruct-v0.1-Q4_K_M-00001-of-00003.gguf",
            "Q4_K_M/mixtral-8x7b-instruct-v0.1-Q4_K_M-00002-of-00003.gguf",
            "Q4_K_M/mixtral-8x7b-instruct-v0.1-Q4_K_M-00003-of-00003.gguf",
        ],
        days: 200,
        damaged: false,
    },
    Kept {
        folder: "phi3",
        repository: "microsoft/Phi-3-mini-4k-instruct-gguf",
        files: &["Phi-3-mini-4k-instruct-q4.gguf"],
        days: 1,
        damaged: true,
    },
    Kept {
        folder: "llava-1.6-mistral-7b-gguf",
        repository: "cjpais/llava-1.6-mistral-7b-gguf",
        files: &["llava-v1.6-mistral-7b.Q5_K_M.gguf", "mmproj-model-f16.gguf"],
        days: 63,
        damaged: false,
    },
];

/// Writes every repository below `root`.
fn make_hub(root: &Path) -> Result<Folder> {
    let hub = Folder::new(root.to_owned());
    let noise = make_noise();
    for sample in SAMPLES {
        for (path, made) in sample.files {
            let file = root.join(sample.id).join(path);
            write(sample, path, made, &noise, &file).map_err(Error::io("create", &file))?;
        }
        let facts = Facts { downloads: sample.downloads, likes: sample.likes, gate: sample.gate, ..Facts::default() };
        hub.set_facts(sample.id, facts);
    }
    Ok(hub)
}

fn write(sample: &Sample, name: &str, made: &Made, noise: &[u8], path: &Path) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let writer = match made {
        Made::Text(text) => return fs::write(path, text),
        Made::Safetensors(mebibytes) => return fs::write(path, safetensors(noise, *mebibytes)),
        Made::Gguf(quant, layers) => gguf(sample, *quant, *layers),
        Made::Projector => projector(),
        Made::Shard(quant, layers, number, count) => {
            let mut shards = gguf(sample, *quant, *layers).into_shards(*count);
            shards.swap_remove(usize::from(number - 1))
        }
    };
    let mut file = File::create(path)?;
    let header = writer.header()?;
    file.write_all(&header)?;
    if is_kept(sample.id, name) {
        let mut left = usize::try_from(writer.length()?).unwrap_or(0).saturating_sub(header.len());
        while left > 0 {
            let count = left.min(noise.len());
            file.write_all(&noise[..count])?;
            left -= count;
        }
        Ok(())
    } else {
        // Served only: the data is a hole that reads as zeros and takes no room.
        file.set_len(writer.length()?)
    }
}

/// Whether the store gets a copy, which then takes the room that it says.
fn is_kept(repository: &str, file: &str) -> bool {
    STORE.iter().any(|kept| kept.repository == repository && kept.files.contains(&file))
}

/// A MiB that looks random.
fn make_noise() -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut noise = Vec::with_capacity(1 << 20);
    while noise.len() < 1 << 20 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        noise.extend_from_slice(&state.to_le_bytes());
    }
    noise
}

/// A model of that many layers, in the names that llama.cpp gives.
fn gguf(sample: &Sample, Quant(file_type, kind): Quant, layers: u32) -> Writer {
    let (width, architecture) = (sample.width, sample.architecture);
    let name = sample.id.rsplit('/').next().unwrap_or(sample.id).trim_end_matches("-GGUF").trim_end_matches("-gguf");
    let key = |name: &str| format!("{architecture}.{name}");
    let small = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
    let mut writer = Writer::new(architecture)
        .key("general.name", name)
        .key("general.file_type", file_type)
        .key(&key("context_length"), 4096_u32)
        .key(&key("block_count"), layers)
        .key(&key("embedding_length"), small(width))
        .key(&key("feed_forward_length"), small(4 * width))
        .key(&key("attention.head_count"), 8_u32)
        .key(&key("attention.head_count_kv"), 4_u32)
        .tensor("token_embd.weight", &[width, 8 * width], kind)
        .tensor("output_norm.weight", &[width], TensorType::F32);
    for layer in 0..layers {
        let block = |name: &str| format!("blk.{layer}.{name}.weight");
        writer = writer
            .tensor(&block("attn_norm"), &[width], TensorType::F32)
            .tensor(&block("attn_q"), &[width, width], kind)
            .tensor(&block("attn_k"), &[width, width / 2], kind)
            .tensor(&block("attn_v"), &[width, width / 2], kind)
            .tensor(&block("attn_output"), &[width, width], kind)
            .tensor(&block("ffn_norm"), &[width], TensorType::F32)
            .tensor(&block("ffn_gate"), &[width, 4 * width], kind)
            .tensor(&block("ffn_up"), &[width, 4 * width], kind)
            .tensor(&block("ffn_down"), &[4 * width, width], kind);
    }
    writer
}

fn projector() -> Writer {
    Writer::new("clip")
        .key("general.name", "mmproj")
        .key("general.file_type", F16.0)
        .key("clip.has_vision_encoder", true)
        .tensor("v.patch_embd.weight", &[14, 14, 3, 1024], TensorType::F16)
        .tensor("mm.0.weight", &[1024, 256], TensorType::F16)
}

/// One BF16 tensor of that many MiB in a safetensors file.
fn safetensors(noise: &[u8], mebibytes: usize) -> Vec<u8> {
    let bytes = mebibytes << 20;
    let header = format!(
        "{{\"__metadata__\":{{\"format\":\"pt\"}},\"model.embed_tokens.weight\":{{\"dtype\":\"BF16\",\"shape\":[{},256],\
         \"data_offsets\":[0,{bytes}]}}}}",
        bytes / 512
    );
    let padded = header.len().next_multiple_of(8);
    let mut file = Vec::with_capacity(8 + padded + bytes);
    file.extend_from_slice(&(padded as u64).to_le_bytes());
    file.extend_from_slice(header.as_bytes());
    file.resize(8 + padded, b' ');
    file.extend(noise.iter().cycle().take(bytes));
    file
}

/// Fills the base folder from the repositories, with records as a download leaves them.
fn make_store(models: &Path, hub: &Path, content: Arc<Folder>, endpoint: &str) -> Result<()> {
    let library = Library::new(content, LARGE_FROM);
    for kept in STORE {
        let folder = models.join(kept.folder);
        let snapshot = library.snapshot(kept.repository)?;
        let mut files = Vec::new();
        for path in kept.files {
            let (from, to) = (hub.join(kept.repository).join(path), folder.join(path));
            copy(&from, &to, kept).map_err(Error::io("create", &to))?;
            let digest: Option<Digest> =
                snapshot.as_ref().and_then(|snapshot| snapshot.file(path)).map(|file| file.digest);
            let size = fs::metadata(&from).map_err(Error::io("read", &from))?.len();
            files.push(RecordedFile { path: RepoPath::parse(path)?, size, digest, converted: false, commit: None });
        }
        let record = Record {
            version: Record::VERSION,
            endpoint: endpoint.to_owned(),
            repository: kept.repository.to_owned(),
            revision: "main".to_owned(),
            commit: snapshot.map(|snapshot| snapshot.commit).unwrap_or_default(),
            files,
        };
        record.merge(&folder, &[])?;
    }
    Ok(())
}

fn copy(from: &Path, to: &Path, kept: &Kept) -> std::io::Result<()> {
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::copy(from, to)?;
    let file = File::options().write(true).open(to)?;
    if kept.damaged {
        file.set_len(file.metadata()?.len() * 2 / 3)?;
    }
    let then = SystemTime::now() - DAY * kept.days;
    file.set_times(fs::FileTimes::new().set_modified(then - 7 * DAY).set_accessed(then))
}
