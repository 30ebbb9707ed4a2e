//! What a header tells about a model, whatever its format.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::adapter::Adapter;
use super::config_json::Config;
use super::gguf::{self, Depth};
use super::kind::Kind;
use super::named::Named;
use super::names::TensorNames;
use super::safetensors::{self, Index, Packed};
use super::sniff::LookAlike;
use crate::model::memory::{CacheLayers, Shape};
use crate::model::size::grouped;
use crate::model::{Format, Quantization, text};

/// What the header of one file says about its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "state")]
pub enum Structure {
    /// Long enough for everything that the header names.
    Whole,
    /// Cut short.
    Truncated {
        /// Bytes that are missing; `None` when the header itself is cut.
        missing: Option<u64>,
    },
    /// Longer than the header and its padding account for.
    Extra {
        /// Bytes too many.
        bytes: u64,
    },
    /// As far as it could be checked, whole: the header has a type of unknown size, or only its first part was read.
    Partial,
}

/// What a header tells. Unknown values are `None`, never guesses, except where a field says so.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Metadata {
    /// Format of the file.
    pub format: Format,
    /// `general.architecture`.
    pub architecture: Option<String>,
    /// `general.name`, made printable.
    pub name: Option<String>,
    /// Quantization: from `general.file_type`, else the most frequent tensor type; never from a name.
    pub quantization: Option<Quantization>,
    /// Whether `quantization` is a guess from the tensors, or its writer says that it guessed.
    pub quantization_guessed: bool,
    /// Parameters of this file: the sum over its tensors, without the scales of quantized ones. `None` where weights are
    /// packed in a way that does not tell their number.
    pub parameters: Option<u64>,
    /// What is counted of quantized weights in safetensors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packed: Option<Packed>,
    /// Bytes of its tensors.
    pub tensor_bytes: Option<u64>,
    /// Training context in tokens.
    pub context_length: Option<u64>,
    /// Layers.
    pub layers: Option<u64>,
    /// Layers that the names of the tensors tell, of GGUF: one more than the highest number in `blk.N.`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blocks: Option<u64>,
    /// `nextn_predict_layers`: layers that only guess ahead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ahead: Option<u64>,
    /// Attention heads; where they differ from layer to layer, the largest number.
    pub heads: Option<u64>,
    /// Key and value heads; where they differ from layer to layer, the largest number.
    pub heads_kv: Option<u64>,
    /// Embedding length.
    pub embedding_length: Option<u64>,
    /// Experts.
    pub experts: Option<u64>,
    /// Experts used for a token.
    pub experts_used: Option<u64>,
    /// Whether a chat template is there; `None` where what would have it is not: the first file of a set, the rest of a header.
    pub chat_template: Option<bool>,
    /// Kind of tokenizer.
    pub tokenizer: Option<String>,
    /// Some of its special tokens, made printable, where a file beside the weights names them.
    #[serde(default)]
    pub special_tokens: Vec<String>,
    /// Licence.
    pub licence: Option<String>,
    /// The model that this one was made from.
    pub base_model: Option<String>,
    /// Who quantized it.
    pub quantized_by: Option<String>,
    /// Settings to run it with, made printable, where a file beside the weights has some.
    #[serde(default)]
    pub settings: Vec<String>,
    /// `split.count`.
    pub split_count: Option<u64>,
    /// `split.no`, from 0.
    pub split_no: Option<u64>,
    /// `split.tensors.count`: tensors of all parts together.
    pub split_tensors: Option<u64>,
    /// Tensors of this file.
    pub tensors: Option<u64>,
    /// Whether it is a sidecar (projector, adapter, importance matrix, vocabulary) and no model.
    pub sidecar: bool,
    /// What it is.
    #[serde(default)]
    pub kind: Kind,
    /// What an adapter is, where a file beside it tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adapter: Option<Adapter>,
    /// What the header says about the file's length.
    pub structure: Structure,
    /// What decides how much memory it takes beside its weights.
    #[serde(default)]
    pub shape: Shape,
    /// Parts of the model that this is the sum of.
    #[serde(default)]
    pub parts: u64,
    /// The names of the tensors of this file, as far as sets of files are compared by them; `None` of a whole model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub names: Option<TensorNames>,
    /// What the index of a set says, where that is the file that was read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<Arc<Index>>,
    /// Whether only the first part of the header was read, so that what is unknown here may stand further on.
    pub partly_read: bool,
    /// What is odd about the header, one line each, made printable.
    pub warnings: Vec<String>,
}

impl Metadata {
    /// Fills in what a `config.json` beside the weights knows, which was read as [`Self::of_config`].
    pub(crate) fn complete(&mut self, config: &Self) {
        let fill = |to: &mut Option<u64>, from: Option<u64>| *to = to.or(from);
        fill(&mut self.context_length, config.context_length);
        fill(&mut self.layers, config.layers);
        fill(&mut self.heads, config.heads);
        fill(&mut self.heads_kv, config.heads_kv);
        fill(&mut self.embedding_length, config.embedding_length);
        fill(&mut self.experts, config.experts);
        fill(&mut self.experts_used, config.experts_used);
        if self.architecture.is_none() {
            self.architecture.clone_from(&config.architecture);
        }
        if self.shape.cache.is_none() {
            self.shape.clone_from(&config.shape);
        }
        if config.quantization.is_some() && (self.quantization.is_none() || self.quantization_guessed) {
            self.quantization.clone_from(&config.quantization);
            self.quantization_guessed = false;
        }
        if let Some(packed) = &config.packed {
            self.learn_packing(packed);
        }
    }

    /// Counts with what the configuration tells of packed weights.
    pub(super) fn learn_packing(&mut self, config: &Packed) {
        if let Some(packed) = &mut self.packed {
            packed.width = packed.width.or(config.width);
            packed.group = packed.group.or(config.group);
            packed.strange |= config.strange;
            self.parameters = packed.parameters(self.tensor_bytes);
        }
    }

    /// Fills in what `adapter_config.json` beside an adapter knows.
    pub(crate) fn complete_adapter(&mut self, config: &Self) {
        if let Some(told) = &config.adapter {
            let known = self.adapter.get_or_insert_default();
            known.method = told.method.clone().or(known.method.take());
            known.rank = told.rank.or(known.rank);
            known.alpha = told.alpha.or(known.alpha);
        }
        if self.base_model.is_none() {
            self.base_model.clone_from(&config.base_model);
        }
    }

    /// Fills in what a tokenizer's file or a model card beside the weights knows.
    pub(crate) fn complete_beside(&mut self, other: &Self) {
        let fill = |to: &mut Option<String>, from: &Option<String>| {
            if to.is_none() {
                to.clone_from(from);
            }
        };
        fill(&mut self.tokenizer, &other.tokenizer);
        fill(&mut self.licence, &other.licence);
        fill(&mut self.base_model, &other.base_model);
        self.chat_template = other.chat_template.filter(|is| *is).or(self.chat_template);
        self.settings.extend(other.settings.iter().take(16).cloned());
        self.shape.vocabulary = self.shape.vocabulary.or(other.shape.vocabulary);
        for token in &other.special_tokens {
            if self.special_tokens.len() < 8 && !self.special_tokens.contains(token) {
                self.special_tokens.push(token.clone());
            }
        }
    }

    /// What a `config.json` alone knows.
    pub(crate) fn of_config(reader: impl Read) -> Result<Self, String> {
        let mut metadata = Self { packed: Some(Packed::default()), ..Self::unknown(Format::Safetensors) };
        Config::read(reader)?.complete(&mut metadata);
        metadata.packed = metadata.packed.filter(|packed| *packed != Packed::default());
        Ok(metadata)
    }

    /// What the index of a set knows.
    pub(crate) fn of_index(reader: impl Read) -> Result<Self, String> {
        let index = Index::read(reader)?;
        Ok(Self { index: Some(Arc::new(index)), ..Self::unknown(Format::Safetensors) })
    }

    /// Nothing known but the format.
    #[must_use]
    pub fn unknown(format: Format) -> Self {
        Self {
            format,
            architecture: None,
            name: None,
            quantization: None,
            quantization_guessed: false,
            parameters: None,
            packed: None,
            tensor_bytes: None,
            context_length: None,
            layers: None,
            blocks: None,
            ahead: None,
            heads: None,
            heads_kv: None,
            embedding_length: None,
            experts: None,
            experts_used: None,
            chat_template: Some(false),
            tokenizer: None,
            special_tokens: Vec::new(),
            licence: None,
            base_model: None,
            quantized_by: None,
            settings: Vec::new(),
            split_count: None,
            split_no: None,
            split_tensors: None,
            tensors: None,
            sidecar: false,
            kind: Kind::default(),
            adapter: None,
            structure: Structure::Partial,
            shape: Shape::default(),
            parts: 1,
            names: None,
            index: None,
            partly_read: false,
            warnings: Vec::new(),
        }
    }

    /// Whether the number of layers that a key tells is another than that which the tensors do, once all parts were added; `all`
    /// says that none is missing. Layers that guess ahead are counted by some writers and not by others, and are left out by some.
    pub(crate) fn layers_disagree(&self, all: bool) -> bool {
        let (Some(layers), Some(blocks)) = (self.layers, self.blocks.filter(|_| self.kind == Kind::Model)) else {
            return false;
        };
        let ahead = self.ahead.unwrap_or(0);
        blocks > layers.saturating_add(ahead) || (all && blocks < layers.saturating_sub(ahead))
    }

    /// Says that they do, and takes the cache of as many layers as either tells, if all layers are alike: else it is not known.
    pub(crate) fn settle_layers(&mut self) -> String {
        let (layers, blocks) = (self.layers.unwrap_or(0), self.blocks.unwrap_or(0));
        let ahead = self.ahead.unwrap_or(0);
        if blocks > layers {
            self.shape.cache = match self.shape.cache.take().as_deref() {
                Some([run]) if run.layers == layers.saturating_sub(ahead) && self.shape.state_bytes == 0 => {
                    Some(vec![CacheLayers { layers: blocks.saturating_sub(ahead), ..*run }])
                }
                Some([]) if self.shape.state_bytes == 0 => Some(Vec::new()),
                _ => None,
            };
        }
        let counted = |count: u64| if count == 1 { "1 layer".to_owned() } else { format!("{} layers", grouped(count)) };
        let cache = match &self.shape.cache {
            Some(_) => "; the cache is reckoned for the larger number",
            None => "; what the cache takes is not known",
        };
        format!("block_count says {}, its tensors are those of {}{cache}", counted(layers), counted(blocks))
    }

    /// Forgets the sums, since a part cannot be read.
    pub(crate) fn lose_sums(&mut self) {
        (self.parameters, self.packed, self.tensor_bytes) = (None, None, None);
    }

    /// What is counted of its weights; of plain ones each number.
    fn counted(&self) -> Option<Packed> {
        let plain = || Some(Packed { known: self.parameters?, ..Packed::default() });
        self.packed.clone().or_else(plain)
    }

    /// Adds what the header of another part of the same model tells: sums are those of all parts.
    pub fn add_part(&mut self, part: &Self) {
        let sum = |a: Option<u64>, b: Option<u64>| a.zip(b).and_then(|(a, b)| a.checked_add(b));
        let packed = self.packed.is_some() || part.packed.is_some();
        let all = self.counted().zip(part.counted()).filter(|_| packed);
        self.tensor_bytes = sum(self.tensor_bytes, part.tensor_bytes);
        self.packed = all.map(|(mut all, more)| {
            all.add(&more);
            all
        });
        self.parameters = match &self.packed {
            Some(packed) => packed.parameters(self.tensor_bytes),
            None if packed => None,
            None => sum(self.parameters, part.parameters),
        };
        self.tensors = sum(self.tensors, part.tensors);
        self.blocks = self.blocks.max(part.blocks);
        self.names = None;
        self.parts = self.parts.saturating_add(part.parts);
        self.shape.add_part(&part.shape);
        // The first part may hold no tensors from which to guess.
        if self.quantization.is_none() {
            self.quantization.clone_from(&part.quantization);
            self.quantization_guessed = part.quantization_guessed;
        }
        self.structure = match (self.structure, part.structure) {
            (Structure::Truncated { missing: a }, Structure::Truncated { missing: b }) => {
                Structure::Truncated { missing: sum(a, b) }
            }
            (cut @ Structure::Truncated { .. }, _) | (_, cut @ Structure::Truncated { .. }) => cut,
            (Structure::Extra { bytes: a }, Structure::Extra { bytes: b }) => {
                Structure::Extra { bytes: a.saturating_add(b) }
            }
            (extra @ Structure::Extra { .. }, _) | (_, extra @ Structure::Extra { .. }) => extra,
            (Structure::Partial, _) | (_, Structure::Partial) => Structure::Partial,
            (Structure::Whole, Structure::Whole) => Structure::Whole,
        };
    }

    /// What is known beside architecture, parameters and context, as lines for people: what it is, and its value, made printable.
    #[must_use]
    pub fn facts(&self) -> Vec<(&'static str, String)> {
        let mut facts = Vec::new();
        let mut fact = |name, value: Option<String>| {
            facts.extend(value.filter(|value| !value.is_empty()).map(|value| (name, text::printable(&value))));
        };
        fact("name", self.name.clone());
        let kind = Some(self.kind).filter(|kind| *kind != Kind::Model).map(|kind| kind.to_string());
        fact("kind", self.adapter.as_ref().map(ToString::to_string).or(kind));
        fact("weights", self.packing().map(str::to_owned));
        fact("bits/weight", self.bits_per_weight().map(|bits| format!("{bits:.2}")));
        fact("layers", self.layers.map(|count| count.to_string()));
        fact(
            "heads",
            self.heads.map(|heads| match self.heads_kv {
                _ if heads == 0 => "none".to_owned(),
                Some(0) => format!("{heads}, none for keys and values"),
                Some(kv) => format!("{heads}, {kv} for keys and values"),
                None => heads.to_string(),
            }),
        );
        fact("embedding", self.embedding_length.map(|length| length.to_string()));
        fact("vocabulary", self.shape.vocabulary.map(|tokens| format!("{} tokens", grouped(tokens))));
        fact(
            "experts",
            self.experts.filter(|experts| *experts > 0).map(|experts| match self.experts_used {
                Some(used) => format!("{experts}, {used} used"),
                None => experts.to_string(),
            }),
        );
        fact("tokenizer", self.tokenizer.clone());
        fact("special tokens", Some(self.special_tokens.join(" ")));
        // A header that was read in part may have one further on.
        fact(
            "chat template",
            self.chat_template.filter(|is| *is || !self.partly_read).map(|is| if is { "yes" } else { "no" }.to_owned()),
        );
        fact("licence", self.licence.clone());
        fact("base model", self.base_model.clone());
        fact("quantized by", self.quantized_by.clone());
        fact("settings", Some(self.settings.join(", ")));
        fact("parts", self.split_count.filter(|parts| *parts > 1).map(|parts| format!("{} of {parts}", self.parts)));
        facts
    }

    /// What is to be known of the number of parameters of quantized weights.
    fn packing(&self) -> Option<&'static str> {
        let packed = self.packed.as_ref()?;
        Some(match self.parameters {
            None => "packed: the number of parameters is not known",
            Some(_) if packed.may_be_padded() => "packed; scales are not counted as parameters, padding of rows may be",
            Some(_) if packed.several => "packed; scales are not counted as parameters",
            Some(_) => "quantized; scales are not counted as parameters",
        })
    }

    /// Bits that a parameter takes on average, scales included.
    #[must_use]
    #[allow(clippy::cast_precision_loss)]
    pub fn bits_per_weight(&self) -> Option<f64> {
        let (bytes, parameters) = (self.tensor_bytes?, self.parameters.filter(|n| *n > 0)?);
        Some(bytes as f64 * 8.0 / parameters as f64)
    }
}

/// Reads the header of an open regular file, whose name tells drafts and parts of a set. The magic decides the format,
/// not the name. Where the file is cut inside its header, what comes before the cut is given. The position of `file` is
/// neither used nor moved.
///
/// # Errors
/// A line that says what is wrong ("not a GGUF file: an HTML page", "malformed GGUF: key count 4294967296"): a warning on a row, never the end of a scan.
pub fn read_metadata(file: &File, name: &str) -> Result<Metadata, String> {
    read_metadata_as(file, Named::of(name))
}

/// Like [`read_metadata`], from at most the first 64 KiB: what a table needs at once for very many files.
///
/// A GGUF file tells architecture, name, quantization, context and shape there, because its vocabulary comes after them.
/// The tensors come after the vocabulary. So `parameters`, `tensor_bytes` and `tensors` are unknown, `structure` is
/// [`Structure::Partial`], `chat_template` may be unknown, and `quantization` is not guessed from the tensors,
/// unless the whole header is that small: then `partly_read` is false and nothing is missing.
/// A safetensors file with a larger header tells only its format.
///
/// # Errors
/// As [`read_metadata`].
pub fn read_summary(file: &File, name: &str) -> Result<Metadata, String> {
    read_summary_as(file, Named::of(name))
}

/// [`read_metadata`] of a file with such a name.
pub(crate) fn read_metadata_as(file: &File, named: Named) -> Result<Metadata, String> {
    read(file, named, Depth::Whole)
}

/// [`read_summary`] of a file with such a name.
pub(crate) fn read_summary_as(file: &File, named: Named) -> Result<Metadata, String> {
    read(file, named, Depth::Start)
}

fn read(file: &File, named: Named, depth: Depth) -> Result<Metadata, String> {
    let attributes = file.metadata().map_err(|error| unreadable(&error))?;
    if !attributes.is_file() {
        return Err("not a regular file".to_owned());
    }
    let length = attributes.len();
    let mut head = [0; 512];
    let count = At { file, position: 0 }.read_most(&mut head).map_err(|error| unreadable(&error))?;
    let head = head.get(..count).unwrap_or_default();
    let mut metadata = if head.starts_with(b"GGUF") {
        let (header, result) = gguf::Header::read_as_far_as_possible(At { file, position: 0 }, length, depth);
        match result {
            Ok(()) => gguf::describe(&header, named, Structure::Partial),
            Err(gguf::Error::Truncated { at, missing }) => {
                let mut metadata = gguf::describe(&header, named, Structure::Truncated { missing: None });
                metadata.warnings.push(gguf::Error::Truncated { at, missing }.to_string());
                metadata
            }
            Err(error @ gguf::Error::TooLarge(_)) => {
                let mut metadata = gguf::describe(&header, named, Structure::Partial);
                metadata.warnings.push(error.to_string());
                metadata
            }
            Err(error) => return Err(error.to_string()),
        }
    } else if safetensors::starts_like_one(head) {
        safetensors::metadata(At { file, position: 0 }, length, named, depth == Depth::Start)?
    } else {
        let expected = if named.gguf {
            "not a GGUF file"
        } else if named.safetensors {
            "not a safetensors file"
        } else {
            "neither GGUF nor safetensors"
        };
        return Err(format!("{expected}: {}", LookAlike::of(head, length)));
    };
    let misnamed = match metadata.format {
        Format::Gguf if named.safetensors => Some("named .safetensors, but it is GGUF"),
        Format::Safetensors if named.gguf => Some("named .gguf, but it is safetensors"),
        _ => None,
    };
    metadata.warnings.extend(misnamed.map(str::to_owned));
    Ok(metadata)
}

/// How an error begins that says nothing of the file's content.
pub(crate) const UNREADABLE: &str = "cannot read it";

fn unreadable(error: &io::Error) -> String {
    format!("{UNREADABLE}: {}", text::printable(&error.to_string()))
}

/// A position of its own in a file that others may read at the same time.
struct At<'a> {
    file: &'a File,
    position: u64,
}

impl At<'_> {
    /// Fills `out` unless the file ends before.
    fn read_most(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let mut count = 0;
        while let Some(rest) = out.get_mut(count..).filter(|rest| !rest.is_empty()) {
            match self.read(rest) {
                Ok(0) => break,
                Ok(more) => count += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(count)
    }
}

impl Read for At<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read_at(out, self.position)?;
        self.position += count as u64;
        Ok(count)
    }
}

impl Seek for At<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let target = match to {
            SeekFrom::Start(position) => Some(position),
            SeekFrom::Current(by) => self.position.checked_add_signed(by),
            SeekFrom::End(by) => self.file.metadata()?.len().checked_add_signed(by),
        };
        self.position = target.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.position)
    }
}
