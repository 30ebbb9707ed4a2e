//! What the files beside weights tell: the configuration, the tokenizer, the chat template, the model card.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::headers::{Header, Headers};
use crate::disk::folder::Status;
use crate::format::Metadata;
use crate::format::adapter::AdapterConfig;
use crate::format::card::Card;
use crate::format::layers;
use crate::format::quantization_config::QuantizationConfig;
use crate::format::tokenizer::{Extent, Tokenizer, TokenizerConfig};
use crate::model::{Format, text};

/// Names that licence files have on the hub.
const LICENCES: [&str; 6] = ["LICENSE", "LICENSE.txt", "LICENSE.md", "LICENCE", "LICENCE.txt", "license.txt"];

/// A file that tells something of the weights beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Companion {
    /// `config.json`.
    Config,
    /// `tokenizer.json` before its vocabulary.
    Tokenizer,
    /// All of `tokenizer.json`.
    Vocabulary,
    /// `tokenizer_config.json` and `chat_template.json`.
    TokenizerConfig,
    /// `README.md`.
    Card,
    /// `adapter_config.json`.
    Adapter,
    /// `hf_quant_config.json` and `quantize_config.json`.
    Quantization,
    /// The text of a licence.
    Licence,
    /// The settings that Ollama runs a model with.
    Settings,
    /// `model.safetensors.index.json`.
    Index,
}

impl Companion {
    /// A number of its own, which is not 0.
    pub(super) fn tag(self) -> u8 {
        match self {
            Self::Config => 1,
            Self::Tokenizer => 2,
            Self::Vocabulary => 3,
            Self::TokenizerConfig => 4,
            Self::Card => 5,
            Self::Adapter => 6,
            Self::Quantization => 7,
            Self::Licence => 8,
            Self::Settings => 9,
            Self::Index => 10,
        }
    }

    /// What the bytes of such a file tell, or its first ones where `whole` is false.
    pub(super) fn parse(self, bytes: &[u8], whole: bool) -> Result<Metadata, String> {
        match self {
            Self::Config => Metadata::of_config(bytes),
            Self::Vocabulary if whole => Tokenizer::read(bytes, Extent::Whole).map(Tokenizer::into_metadata),
            Self::Tokenizer | Self::Vocabulary => Tokenizer::read(bytes, Extent::Start).map(Tokenizer::into_metadata),
            Self::TokenizerConfig => TokenizerConfig::read(bytes).map(TokenizerConfig::into_metadata),
            Self::Card => Card::read(bytes).map(Card::into_metadata),
            Self::Index => Metadata::of_index(bytes),
            Self::Adapter => AdapterConfig::read(bytes).map(AdapterConfig::into_metadata),
            Self::Quantization => QuantizationConfig::read(bytes).map(QuantizationConfig::into_metadata),
            Self::Licence => layers::licence(bytes),
            Self::Settings => layers::settings(bytes),
        }
    }

    pub(super) fn read(self, file: &File) -> Result<Metadata, String> {
        match self {
            Self::Config => Metadata::of_config(file),
            Self::Tokenizer => Tokenizer::of_file(file, Extent::Start).map(Tokenizer::into_metadata),
            Self::Vocabulary => Tokenizer::of_file(file, Extent::Whole).map(Tokenizer::into_metadata),
            Self::TokenizerConfig => TokenizerConfig::read(file).map(TokenizerConfig::into_metadata),
            Self::Card => Card::read(file).map(Card::into_metadata),
            Self::Index => Metadata::of_index(file),
            Self::Adapter => AdapterConfig::read(file).map(AdapterConfig::into_metadata),
            Self::Quantization => QuantizationConfig::read(file).map(QuantizationConfig::into_metadata),
            Self::Licence => layers::licence(file),
            Self::Settings => layers::settings(file),
        }
    }
}

/// Where the files beside weights are looked at.
pub(super) trait Around {
    /// What the file at a path inside the row tells; `None` where there is none.
    fn tell(&self, path: &Path, kind: Companion) -> Option<Header>;

    /// Whether there is a file at a path inside the row that is not empty.
    fn is_there(&self, path: &Path) -> bool;
}

/// The files of a row, as far as what lies beside its weights is concerned.
pub(super) struct Beside<'a> {
    pub(super) root: &'a Path,
    pub(super) headers: &'a Headers,
    /// Where the regular file at a path inside the row lies, relative to the root, and its metadata.
    pub(super) find: &'a dyn Fn(&Path) -> Option<(PathBuf, Status)>,
}

impl Around for Beside<'_> {
    fn tell(&self, path: &Path, kind: Companion) -> Option<Header> {
        let (location, status) = (self.find)(path)?;
        Some(self.headers.beside(self.root, &location, &status, kind))
    }

    fn is_there(&self, path: &Path) -> bool {
        (self.find)(path).is_some_and(|(_, status)| status.size_bytes > 0)
    }
}

impl Beside<'_> {
    /// [`complete`] with these files.
    pub(super) fn complete(&self, metadata: &mut Arc<Metadata>, folder: &Path, warn: &mut dyn FnMut(String)) {
        complete(self, metadata, folder, warn);
    }
}

/// Adds to what the header of the weights in `folder` tells. Safetensors tell nothing of the model; of other weights only the
/// licence and the base model may be missing. What is wrong goes to `warn`.
pub(super) fn complete(around: &dyn Around, metadata: &mut Arc<Metadata>, folder: &Path, warn: &mut dyn FnMut(String)) {
    let mut read = |name: &str, kind: Companion, path: &Path| {
        let told = around.tell(path, kind)?;
        told.map_err(|why| warn(format!("{}: {why}", text::printable_path(&path.with_file_name(name))))).ok()
    };
    if metadata.format == Format::Safetensors {
        let path = |name: &str| folder.join(name);
        if let Some(config) = read("config.json", Companion::Config, &path("config.json")) {
            Arc::make_mut(metadata).complete(&config);
        }
        if metadata.packed.is_some() && (metadata.quantization_guessed || metadata.parameters.is_none()) {
            let names = ["hf_quant_config.json", "quantize_config.json"];
            let told = names.into_iter().find_map(|name| read(name, Companion::Quantization, &path(name)));
            if let Some(config) = told {
                Arc::make_mut(metadata).complete(&config);
            }
        }
        if metadata.sidecar
            && let Some(config) = read("adapter_config.json", Companion::Adapter, &path("adapter_config.json"))
        {
            Arc::make_mut(metadata).complete_adapter(&config);
        }
        // Its vocabulary is most of the file, and the configuration counts it, too.
        let kind = match metadata.shape.vocabulary {
            Some(_) => Companion::Tokenizer,
            None => Companion::Vocabulary,
        };
        for (name, kind) in [
            ("tokenizer.json", kind),
            ("tokenizer_config.json", Companion::TokenizerConfig),
            ("chat_template.json", Companion::TokenizerConfig),
        ] {
            if let Some(told) = read(name, kind, &path(name)) {
                Arc::make_mut(metadata).complete_beside(&told);
            }
        }
        if metadata.chat_template != Some(true) && around.is_there(&path("chat_template.jinja")) {
            Arc::make_mut(metadata).chat_template = Some(true);
        }
        if metadata.tokenizer.is_none()
            && let Some(kind) = tokenizer(around, folder)
        {
            Arc::make_mut(metadata).tokenizer = Some(kind.to_owned());
        }
    }
    if metadata.licence.is_some() && metadata.base_model.is_some() {
        return;
    }
    // A quantization in a folder of its own has its card above.
    let card = [&folder.join("README.md"), Path::new("README.md")]
        .into_iter()
        .find_map(|path| read("README.md", Companion::Card, path));
    if let Some(card) = card.filter(|card| card.licence.is_some() || card.base_model.is_some()) {
        Arc::make_mut(metadata).complete_beside(&card);
    }
    if metadata.licence.is_none() {
        let folders = [folder, Path::new("")];
        let mut paths = folders.iter().flat_map(|folder| LICENCES.map(|name| (name, folder.join(name))));
        if let Some(told) = paths.find_map(|(name, path)| read(name, Companion::Licence, &path)) {
            Arc::make_mut(metadata).complete_beside(&told);
        }
    }
}

/// The kind of tokenizer whose vocabulary lies here as its trainer wrote it.
fn tokenizer(around: &dyn Around, folder: &Path) -> Option<&'static str> {
    let is_there = |name: &str| around.is_there(&folder.join(name));
    if is_there("tokenizer.model") {
        Some("SentencePiece")
    } else {
        (is_there("vocab.json") && is_there("merges.txt")).then_some("BPE")
    }
}
