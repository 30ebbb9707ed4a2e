//! Whether a row fits this host: what its header tells, put against the memory that is free.

use serde::Serialize;

use crate::format::{Metadata, Structure};
use crate::model::memory::{CacheLayers, Conditions, Device, Fit, HostMemory, Verdict, Weights, fit, need};
use crate::model::size::grouped;
use crate::model::{Bytes, FileStatus, Model, ModelKind, text};
use crate::store::Row;
use crate::store::loads::{Load, Loads};

/// Quantizations that are listed for people.
const MOST_SHOWN: usize = 32;

/// Why a row that is damaged is not judged, whatever its header tells.
const CORRUPT: &str = "some of its files are corrupt";

/// Whether a model fits, with everything that the sum was made from. Serialises as `fit` of `info --json`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FitReport {
    /// Word, figures and the parts of the sum.
    #[serde(flatten)]
    pub fit: Fit,
    /// What the parts were computed from.
    pub inputs: Inputs,
    /// The memory that they were compared with.
    pub memory: HostMemory,
    /// The quantization that was judged, of a row that has several: the one that fits best, the smallest of equals.
    pub quantization: Option<String>,
    /// Each quantization of such a row.
    pub quantizations: Vec<QuantizationFit>,
}

/// Whether one of several quantizations fits.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct QuantizationFit {
    /// Its label.
    pub quantization: String,
    /// Word, figures and the parts of the sum.
    #[serde(flatten)]
    pub fit: Fit,
}

/// What the sum was computed from.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Inputs {
    /// The conditions that were asked for; the context that was used is in the sum.
    #[serde(flatten)]
    pub conditions: Conditions,
    /// What the model was trained for.
    pub trained_context: Option<u64>,
    /// Layers.
    pub layers: Option<u64>,
    /// The layers that keep keys and values, those that are alike together.
    pub cache_layers: Option<Vec<CacheLayers>>,
    /// Tokens of the vocabulary.
    pub vocabulary: Option<u64>,
    /// Embedding length.
    pub embedding_length: Option<u64>,
}

/// Whether a row fits; `None` for what is no model. Of several quantizations that which fits best is judged.
#[must_use]
pub fn fit_of_row(
    model: &Model,
    metadata: Option<&Metadata>,
    loads: &Loads,
    host: &HostMemory,
    conditions: &Conditions,
) -> Option<Fit> {
    judge(model, metadata, loads, host, conditions).map(|judged| judged.fit)
}

/// Whether a row fits, without what the sum was made from. Serialises as `fit` of a row of `list --json`, with the names of
/// [`FitReport`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Brief {
    /// The word.
    pub verdict: Verdict,
    /// What it needs, as in [`Fit`].
    pub need_bytes: Option<u64>,
    /// The devices that it was compared with.
    pub devices: Vec<String>,
    /// The quantization that was judged, of a row that has several.
    pub quantization: Option<String>,
    /// Why nothing can be told, or what limits what is told.
    pub because: Option<String>,
}

/// [`fit_of_row`] in brief, with the quantization that was judged.
#[must_use]
pub fn brief(row: &Row, host: &HostMemory, conditions: &Conditions) -> Option<Brief> {
    let judged = judge(&row.model, row.metadata.as_deref(), &row.loads, host, conditions)?;
    let Fit { verdict, need_bytes, devices, because, .. } = judged.fit;
    let quantization = judged.load.map(|load| load.quantization.as_str().to_owned());
    Some(Brief { verdict, need_bytes, devices, quantization, because })
}

/// What was judged, and each quantization where there are several.
struct Judged<'a> {
    fit: Fit,
    load: Option<&'a Load>,
    all: Vec<QuantizationFit>,
}

fn judge<'a>(
    model: &Model,
    metadata: Option<&Metadata>,
    loads: &'a Loads,
    host: &HostMemory,
    conditions: &Conditions,
) -> Option<Judged<'a>> {
    if model.kind != ModelKind::Model || metadata.is_some_and(|metadata| metadata.sidecar) {
        return None;
    }
    let needs = |metadata: &Metadata, bytes: u64| {
        let weights = Weights { bytes, extra_bytes: loads.extra_bytes };
        need(&metadata.shape, weights, metadata.layers, metadata.context_length, conditions)
    };
    if loads.quantizations.is_empty() {
        let needs = match metadata {
            None => Err("no header of it can be read".to_owned()),
            Some(metadata) => weights(model, metadata).and_then(|bytes| needs(metadata, bytes)),
        };
        return Some(Judged { fit: fit(needs, host), load: None, all: Vec::new() });
    }
    // Where none of the sets is the one that lacks something, it may be any of them.
    let corrupt = model.damage == Some(FileStatus::Corrupt) && loads.quantizations.iter().all(|load| load.whole);
    let mut all: Vec<(&Load, Fit)> = Vec::new();
    for load in &loads.quantizations {
        let bytes = load.metadata.tensor_bytes.filter(|_| load.whole);
        let bytes = bytes.ok_or_else(|| "not all of its weights are here".to_owned());
        let bytes = if corrupt { Err(CORRUPT.to_owned()) } else { bytes };
        all.push((load, fit(bytes.and_then(|bytes| needs(&load.metadata, bytes)), host)));
    }
    let best = all.iter().min_by_key(|(_, fit)| (fit.verdict, fit.need_bytes.unwrap_or(u64::MAX)))?;
    let (load, fit) = (best.0, best.1.clone());
    let label = |load: &Load| load.quantization.as_str().to_owned();
    let all = all.into_iter().map(|(load, fit)| QuantizationFit { quantization: label(load), fit }).collect();
    Some(Judged { fit, load: Some(load), all })
}

/// [`fit_of_row`] with what it was made from.
#[must_use]
pub fn report(
    model: &Model,
    metadata: Option<&Metadata>,
    loads: &Loads,
    host: &HostMemory,
    conditions: &Conditions,
) -> Option<FitReport> {
    let Judged { fit, load, all } = judge(model, metadata, loads, host, conditions)?;
    let metadata = load.map(|load| &*load.metadata).or(metadata);
    let inputs = Inputs {
        conditions: *conditions,
        trained_context: metadata.and_then(|metadata| metadata.context_length),
        layers: metadata.and_then(|metadata| metadata.layers),
        cache_layers: metadata.and_then(|metadata| metadata.shape.cache.clone()),
        vocabulary: metadata.and_then(|metadata| metadata.shape.vocabulary),
        embedding_length: metadata.and_then(|metadata| metadata.shape.embedding_length),
    };
    let quantization = load.map(|load| load.quantization.as_str().to_owned());
    Some(FitReport { fit, inputs, memory: host.clone(), quantization, quantizations: all })
}

/// Whether weights of so many bytes fit, which are not here yet: `metadata` is what the header of any of the repository's
/// files tells.
#[must_use]
pub fn fit_of_choice(bytes: u64, metadata: &Metadata, host: &HostMemory, conditions: &Conditions) -> Option<Fit> {
    fit_of_weights(Weights { bytes, extra_bytes: 0 }, metadata, host, conditions)
}

/// [`fit_of_choice`] with what is loaded beside the weights.
#[must_use]
pub fn fit_of_weights(
    weights: Weights,
    metadata: &Metadata,
    host: &HostMemory,
    conditions: &Conditions,
) -> Option<Fit> {
    if metadata.sidecar {
        return None;
    }
    Some(fit(need(&metadata.shape, weights, metadata.layers, metadata.context_length, conditions), host))
}

/// Bytes of all weights of the set that the header belongs to.
fn weights(model: &Model, metadata: &Metadata) -> Result<u64, String> {
    let all_parts = metadata.split_count.is_none_or(|parts| parts <= metadata.parts);
    if let Structure::Truncated { missing } = metadata.structure {
        let missing = missing.map_or_else(String::new, |bytes| format!(", {} are missing", Bytes(bytes)));
        let whole = metadata
            .tensor_bytes
            .map_or_else(String::new, |bytes| format!("; whole, its weights take {}", Bytes(bytes)));
        return Err(format!("not all of its weights are here: cut short{missing}{whole}"));
    }
    if model.damage == Some(FileStatus::Corrupt) {
        return Err(CORRUPT.to_owned());
    }
    if !all_parts || !model.complete {
        return Err("not all of its weights are here".to_owned());
    }
    if let Some(bytes) = metadata.tensor_bytes {
        return Ok(bytes);
    }
    // Types of unknown size: the files are as large as their tensors, to within their headers.
    match model.quantizations.len() {
        0 | 1 if model.size_bytes > 0 => Ok(model.size_bytes),
        _ => Err("its header does not tell the size of its weights".to_owned()),
    }
}

impl FitReport {
    /// The answer in one line: `fits, 6.05 GiB, of 96.0 GiB free on GPU0`.
    #[must_use]
    pub fn answer(&self) -> String {
        let mut line = self.fit.label();
        if let Some(quantization) = &self.quantization {
            line = format!("{}: {line}", text::printable(quantization));
        }
        if let (Some(free), false) = (self.fit.free_bytes, self.fit.devices.is_empty()) {
            line.push_str(&format!(", of {} free {} {}", whole(free), self.preposition(), self.fit.devices.join(", ")));
        }
        line
    }

    fn preposition(&self) -> &'static str {
        if self.fit.devices.iter().any(|device| device == "RAM") { "in" } else { "on" }
    }

    /// The sum, a line a part: what it is, its size, and what it follows from, so that a person can check it.
    #[must_use]
    pub fn parts(&self) -> Vec<(&'static str, String)> {
        let mut lines = Vec::new();
        if let Some(need) = &self.fit.need {
            let cpu = matches!(self.fit.devices.first().map(String::as_str), Some("RAM"));
            let unified = self.memory.gpus.iter().any(|gpu| gpu.unified && self.fit.devices.contains(&gpu.label));
            let devices = self.fit.devices.len().max(1) as u64;
            let mut weights = Bytes(need.weights_bytes).to_string();
            if !cpu && !unified && need.host_weights_bytes > 0 {
                weights.push_str(&format!(", {} of it in RAM", Bytes(need.host_weights_bytes)));
            }
            lines.push(("weights", weights));
            if need.projector_bytes > 0 {
                lines.push(("projector", Bytes(need.projector_bytes).to_string()));
            }
            lines.push(("cache", format!("{}{}", Bytes(need.cache_bytes), self.cache())));
            lines.push((
                "context",
                format!("{} tokens, cache {}", grouped(need.context), self.inputs.conditions.cache_type),
            ));
            if need.state_bytes > 0 {
                lines.push(("state", Bytes(need.state_bytes).to_string()));
            }
            let (compute, overhead) = match cpu {
                true => (need.host_compute_bytes, need.host_overhead_bytes),
                false if unified => (need.compute_bytes, need.overhead_bytes.saturating_add(need.host_overhead_bytes)),
                false => (need.compute_bytes, need.overhead_bytes),
            };
            let times = if devices > 1 { format!(" on each of {devices}") } else { String::new() };
            lines.push(("compute", format!("{}{times}", Bytes(compute))));
            lines.push(("overhead", format!("{}{times}", Bytes(overhead))));
        }
        if let Some(shared) = &self.fit.shared {
            let answer = if shared.fits { "fits" } else { "does not fit" };
            let (need, room) = (Bytes(shared.need_bytes), Bytes(shared.room_bytes));
            let where_to = shared.devices.join(", ");
            let line = format!("{answer} with layers on {where_to} and the rest in RAM: {need}, room for {room}");
            lines.push(("shared", line));
        }
        for other in self.quantizations.iter().take(MOST_SHOWN) {
            lines.push(("", format!("{}: {}", text::printable(&other.quantization), other.fit.label())));
        }
        if let Some(more) = self.quantizations.len().checked_sub(MOST_SHOWN).filter(|more| *more > 0) {
            lines.push(("", format!("and {more} more")));
        }
        for gpu in &self.memory.gpus {
            lines.push(("free", device(gpu)));
        }
        if let Some(note) = &self.memory.gpu_note {
            let what = if self.memory.gpus_unknown { "unknown" } else { "none" };
            lines.push(("GPU", format!("{what}: {note}")));
        } else if self.memory.gpus.is_empty() {
            lines.push(("GPU", "none".to_owned()));
        }
        if let Some(ram) = self.memory.ram {
            lines.push(("RAM", format!("{} of {} free", whole(ram.available_bytes), whole(ram.total_bytes))));
        }
        if let Some(because) = &self.fit.because {
            lines.push(("note", because.clone()));
        }
        lines
    }

    /// How the cache is made up: `: 32 layers x 8 heads x (128+128)`.
    fn cache(&self) -> String {
        let run = |run: &CacheLayers| {
            let window = run.window.map(|window| format!(", window {window}")).unwrap_or_default();
            let CacheLayers { layers, heads_kv, key_length, value_length, .. } = run;
            format!("{layers} layers x {heads_kv} heads x ({key_length}+{value_length}){window}")
        };
        let runs: Vec<String> = self.inputs.cache_layers.iter().flatten().take(4).map(run).collect();
        if runs.is_empty() { String::new() } else { format!(": {}", runs.join("; ")) }
    }
}

/// A device as people read it: `GPU0 H200, 96 GiB of 139 GiB`.
fn device(gpu: &Device) -> String {
    let figure = |bytes: Option<u64>| bytes.map_or_else(|| "unknown".to_owned(), whole);
    let mut line =
        format!("{} {}, {} of {}", gpu.label, gpu.short_name(), figure(gpu.free_bytes), figure(gpu.total_bytes));
    if let Some(shared) = gpu.shared_bytes {
        line.push_str(&format!(", shares {} of RAM", whole(shared)));
    }
    if let Some(note) = &gpu.note {
        line.push_str(&format!("; {note}"));
    }
    line
}

/// Free memory without decimals, which change all the time.
fn whole(bytes: u64) -> String {
    let (gib, mib) = (1_u64 << 30, 1_u64 << 20);
    match bytes {
        _ if bytes >= gib => format!("{} GiB", bytes.saturating_add(gib / 2) / gib),
        _ => format!("{} MiB", bytes / mib),
    }
}
