//! From a header to what people want to know about the model.

use super::{FileType, Header, TensorType, Value};
use crate::format::adapter::Adapter;
use crate::format::named::Named;
use crate::format::warnings::{Warnings, shortened, shown};
use crate::format::{Kind, Metadata, Structure};
use crate::model::{Format, Quantization};

/// Characters of a name that are shown anywhere.
const LONGEST: usize = 200;
/// No model has so many layers, heads or tokens of context.
const ABSURD: u64 = 1 << 40;
/// More parts than any published set has.
const MANY_PARTS: u64 = 10_000;

/// What the header of a file with such a name tells. `structure` is what to say when it was cut short before its end.
pub(in crate::format) fn describe(header: &Header, named: Named, structure: Structure) -> Metadata {
    let mut reading =
        Reading { header, warnings: Warnings::default(), prefix: header.architecture().unwrap_or_default() };
    for line in &header.warnings {
        reading.warnings.add(line.as_str());
    }
    let complete = header.layout.is_some();
    let layers = reading.number("block_count");
    let heads = reading.per_layer("attention.head_count", layers);
    let heads_kv = reading.per_layer("attention.head_count_kv", layers).or(heads);
    let context_length = reading.number("context_length");
    let embedding_length = reading.number("embedding_length");
    let (experts, experts_used) = (reading.number("expert_count"), reading.number("expert_used_count"));
    let (quantization, quantization_guessed) = reading.quantization();
    let (split_no, split_count) = reading.split();
    let tally = complete.then_some(&header.tally);
    let kind = kind(header, named);
    Metadata {
        format: Format::Gguf,
        architecture: reading.text("general.architecture"),
        name: reading.text("general.name"),
        quantization,
        quantization_guessed,
        parameters: tally.map(|tally| tally.parameters),
        packed: None,
        tensor_bytes: tally.filter(|tally| tally.is_exact()).map(|tally| tally.bytes),
        context_length,
        layers,
        blocks: tally.and_then(|tally| tally.blocks),
        ahead: reading.number("nextn_predict_layers"),
        heads,
        heads_kv,
        embedding_length,
        experts: experts.filter(|n| *n > 0),
        experts_used: experts_used.filter(|n| *n > 0),
        chat_template: reading.chat_template(),
        tokenizer: reading.tokenizer(),
        special_tokens: Vec::new(),
        licence: reading.licence(),
        base_model: reading.base_model(),
        quantized_by: reading.text("general.quantized_by"),
        settings: Vec::new(),
        split_count,
        split_no,
        split_tensors: header.get("split.tensors.count").and_then(Value::as_u64),
        tensors: complete.then_some(header.tensor_count),
        sidecar: kind != Kind::Model,
        kind,
        adapter: reading.adapter(),
        structure: header.layout.map_or(structure, |layout| layout.structure),
        partly_read: header.stopped,
        shape: super::shape::shape(header),
        parts: 1,
        names: header.names.clone().filter(|_| complete),
        index: None,
        warnings: reading.warnings.into_lines(),
    }
}

struct Reading<'a> {
    header: &'a Header,
    warnings: Warnings,
    /// `general.architecture`, which begins the names of the model's own keys.
    prefix: &'a str,
}

impl Reading<'_> {
    /// A text that is not empty, made printable.
    fn text(&self, key: &str) -> Option<String> {
        self.header.text(key).map(str::trim).filter(|text| !text.is_empty()).map(|text| shortened(text, LONGEST))
    }

    /// The kind of tokenizer, with how it splits texts before that, which tells more: `gpt2 (llama-bpe)`.
    fn tokenizer(&self) -> Option<String> {
        let kind = self.text("tokenizer.ggml.model")?;
        let before = self.text("tokenizer.ggml.pre").filter(|before| before != "default" && *before != kind);
        Some(before.map_or_else(|| kind.clone(), |before| format!("{kind} ({before})")))
    }

    fn own(&self, key: &str) -> Option<(String, &Value)> {
        let key = format!("{}.{key}", self.prefix);
        self.header.get(&key).map(|value| (key, value))
    }

    /// Whether a chat template is there. Only the first file of a set has one.
    fn chat_template(&self) -> Option<bool> {
        let header = self.header;
        let is = header.get("tokenizer.chat_templates").is_some()
            || matches!(header.get("tokenizer.chat_template"), Some(Value::String(text)) if text.length > 0);
        let is_first = header.get("split.no").and_then(Value::as_u64).is_none_or(|number| number == 0);
        (is || (header.layout.is_some() && is_first)).then_some(is)
    }

    /// A number of the architecture.
    fn number(&mut self, key: &str) -> Option<u64> {
        let (key, value) = self.own(key)?;
        let number = value.as_u64().filter(|n| *n < ABSURD);
        if number.is_none() {
            self.warnings.add(format!("{} is no sensible number", shown(key.as_bytes())));
        }
        number
    }

    /// A number of the architecture that may have one value a layer: then the largest.
    fn per_layer(&mut self, key: &str, layers: Option<u64>) -> Option<u64> {
        let Some((name, Value::Array(array))) = self.own(key) else { return self.number(key) };
        let count = array.count;
        let numbers: Option<Vec<u64>> = array.kept.iter().map(|value| value.as_u64().filter(|n| *n < ABSURD)).collect();
        let largest = numbers.and_then(|numbers| numbers.into_iter().max());
        if largest.is_none() {
            self.warnings.add(format!("{} is no sensible list of numbers", shown(name.as_bytes())));
        } else if layers.is_some_and(|layers| count < layers) {
            self.warnings.add(format!("{} has fewer values than layers", shown(name.as_bytes())));
        }
        largest
    }

    /// The label, and whether it is a guess.
    fn quantization(&mut self) -> (Option<Quantization>, bool) {
        if let Some(value) = self.header.get("general.file_type") {
            let file_type = value.as_u64().map(FileType);
            if let Some((file_type, label)) = file_type.and_then(|file_type| Some((file_type, file_type.label()?))) {
                let contradiction = contradiction(file_type, self.header);
                // Who guessed did not look at the tensors.
                if let Some(own) = self.most_frequent().filter(|_| contradiction.is_some() && file_type.is_guess()) {
                    let line = format!("{label} is a guess of its writer, its tensors are {}", own.as_str());
                    self.warnings.add(line);
                    return (Some(own), true);
                }
                if let Some(bits) = contradiction {
                    self.warnings.add(format!("labelled {label}, but its tensors take {bits:.2} bits a parameter"));
                }
                return (Some(Quantization::new(label)), file_type.is_guess());
            }
            let number = value.as_u64().map_or_else(|| "which is no number".to_owned(), |number| number.to_string());
            self.warnings.add(format!("general.file_type {number} is no label that is known here"));
        }
        let own = self.most_frequent();
        let guessed = own.is_some();
        (own, guessed)
    }

    /// The type that most of its tensors have, if all of them are known.
    fn most_frequent(&self) -> Option<Quantization> {
        let kind = self.header.layout.and_then(|_| self.header.tally.most_frequent()).and_then(TensorType::name);
        kind.map(Quantization::new)
    }

    /// `split.no` and `split.count`. Whether they agree with the name is for who sees the whole set.
    fn split(&mut self) -> (Option<u64>, Option<u64>) {
        let Some(value) = self.header.get("split.count") else { return (None, None) };
        let Some(count) = value.as_u64().filter(|count| *count > 0) else {
            self.warnings.add("split.count is no count of parts");
            return (None, None);
        };
        let number = self.header.get("split.no").and_then(Value::as_u64).filter(|number| *number < count);
        if number.is_none() {
            self.warnings.add(format!("split.no is no number below split.count, which is {count}"));
        }
        if count > MANY_PARTS {
            self.warnings.add(format!("{count} parts are more than any model has"));
        }
        (number, Some(count))
    }

    /// What an adapter says of itself.
    fn adapter(&self) -> Option<Adapter> {
        let tensors = self.header.tally.adapter_tensors;
        let is_one = self.text("general.type").as_deref() == Some("adapter")
            || (tensors > 0 && tensors == self.header.tensor_count);
        let method = self.text("adapter.type").map(|method| method.to_ascii_uppercase());
        let alpha = match self.header.get("adapter.lora.alpha") {
            Some(Value::F32(alpha)) => Some(f64::from(*alpha)),
            Some(Value::F64(alpha)) => Some(*alpha),
            other => other.and_then(Value::as_u64).and_then(|alpha| u32::try_from(alpha).ok()).map(f64::from),
        };
        is_one.then(|| Adapter::new(method.or_else(|| (tensors > 0).then(|| "LORA".to_owned())), None, alpha))
    }

    fn licence(&self) -> Option<String> {
        let id = self.text("general.license");
        if id.as_deref().is_none_or(|id| id == "other") {
            let named = self.text("general.license.name").or_else(|| self.text("general.license.link"));
            return named.or(id);
        }
        id
    }

    fn base_model(&self) -> Option<String> {
        let part = |key: &str| self.text(&format!("general.base_model.0.{key}"));
        if let Some(url) = part("repo_url") {
            let repository = url.strip_prefix("https://huggingface.co/").map(str::to_owned);
            return Some(repository.unwrap_or(url));
        }
        match (part("organization"), part("name")) {
            (Some(organization), Some(name)) => Some(format!("{organization}/{name}")),
            (_, name) => name,
        }
    }
}

/// Bits a parameter of a file whose tensors cannot be what its label says: no tensor has the label's type, and the
/// average is off by half or more. Small models legitimately mix in other types, so one sign alone is not enough.
fn contradiction(file_type: FileType, header: &Header) -> Option<f64> {
    let (base, bits) = (file_type.base()?, header.tally.bits_per_weight().filter(|_| header.layout.is_some())?);
    let promised = base.bits_per_weight()?;
    let occurs = header.tally.types.iter().any(|entry| entry.kind == base);
    (!occurs && (bits > promised * 1.5 || bits * 1.5 < promised)).then_some(bits)
}

/// What it is. The header decides; a head that proposes tokens is told by its name, since its header is a model's, and so is what
/// calls itself a projector with a header that tells nothing else: no model is named so.
fn kind(header: &Header, named: Named) -> Kind {
    let tally = &header.tally;
    let split = header.get("split.count").is_some();
    let is_all = |tensors: u64| tensors > 0 && tensors == header.tensor_count;
    match (header.text("general.type"), header.architecture()) {
        (Some("mmproj"), _) | (_, Some("clip")) => Kind::Projector,
        (_, Some("controlvector")) => Kind::ControlVector,
        (Some("adapter"), _) => Kind::Adapter,
        (Some("imatrix"), _) => Kind::Imatrix,
        (Some("vocab"), _) => Kind::Vocabulary,
        _ if is_all(tally.adapter_tensors) => Kind::Adapter,
        _ if is_all(tally.imatrix_tensors) => Kind::Imatrix,
        _ if header.layout.is_some() && header.tensor_count == 0 && !split => Kind::Vocabulary,
        _ if named.draft_head => Kind::Draft,
        _ if named.projector => Kind::Projector,
        _ => Kind::Model,
    }
}
