//! What the weights of a row tell together: the same in every store, which only says which files make up which set.

use std::sync::Arc;

use super::headers::Header;
use super::loads::{Load, Loads, Projector};
use super::surroundings::Warnings;
use crate::format::{Metadata, Structure, UNREADABLE};
use crate::model::{FileStatus, Format, Label, Model, Quantization};

/// A set of weights as its store found it: one file, or shards.
pub(super) struct Set<'a> {
    /// What people call it; asked for only if something is to be said.
    pub(super) name: &'a dyn Fn() -> String,
    /// The quantization that the name tells.
    pub(super) named: Option<Quantization>,
    /// The format that the name tells.
    pub(super) format: Option<Format>,
    /// How many files the name says it has.
    pub(super) count: u32,
    /// Numbers that are missing, as ranges with both ends.
    pub(super) missing: &'a [(u32, u32)],
    /// Whether a program would load it now; not so what only an older revision has.
    pub(super) current: bool,
}

/// What the headers of one set tell, file by file in the order of their numbers.
#[derive(Default)]
pub(super) struct Joined {
    pub(super) metadata: Option<Arc<Metadata>>,
    members: usize,
    /// Files that are there and whole, as far as their headers tell.
    readable: usize,
    damage: Option<FileStatus>,
}

impl Joined {
    /// Adds a file; what is wrong with it goes to `warnings`.
    pub(super) fn add(&mut self, header: &Header, name: &dyn Fn() -> String, warnings: &mut Warnings) {
        self.members += 1;
        let told = match header {
            Ok(told) => told,
            Err(why) => {
                let damage = if why.starts_with(UNREADABLE) { FileStatus::Unreadable } else { FileStatus::Corrupt };
                self.note(damage);
                self.forget_sums();
                warnings.add(&format!("{}: {why}", name()));
                return;
            }
        };
        match told.structure {
            Structure::Truncated { missing } => {
                self.note(FileStatus::Truncated);
                let missing = missing.map_or_else(String::new, |bytes| format!(", {bytes} bytes are missing"));
                warnings.add(&format!("{} is cut short{missing}", name()));
            }
            Structure::Extra { bytes } => {
                warnings.add(&format!("{} is {bytes} bytes longer than its header says", name()));
            }
            Structure::Whole | Structure::Partial => {}
        }
        self.readable += usize::from(!matches!(told.structure, Structure::Truncated { .. }));
        for warning in &told.warnings {
            warnings.add(&format!("{}: {warning}", name()));
        }
        match &mut self.metadata {
            Some(metadata) => Arc::make_mut(metadata).add_part(told),
            // What the first file says of the model no later one repeats.
            None if self.members == 1 => self.metadata = Some(Arc::clone(told)),
            None => {}
        }
    }

    /// Adds a file of which nothing can be read, and says why.
    pub(super) fn add_unread(&mut self, damage: Option<(FileStatus, String)>, warnings: &mut Warnings) {
        self.members += 1;
        self.forget_sums();
        if let Some((damage, line)) = damage {
            self.note(damage);
            warnings.add(&line);
        }
    }

    fn note(&mut self, damage: FileStatus) {
        self.damage = Some(self.damage.map_or(damage, |known| known.worse(damage)));
    }

    fn forget_sums(&mut self) {
        if let Some(metadata) = &mut self.metadata {
            Arc::make_mut(metadata).lose_sums();
        }
    }
}

/// What the sets of a row tell together.
#[derive(Default)]
pub(super) struct Weights {
    sets: Vec<Told>,
    damage: Option<FileStatus>,
}

struct Told {
    label: Label,
    format: Option<Format>,
    metadata: Option<Arc<Metadata>>,
    whole: bool,
    current: bool,
}

impl Weights {
    /// Adds a set.
    pub(super) fn add(&mut self, set: &Set<'_>, joined: Joined, warnings: &mut Warnings) {
        if !set.missing.is_empty() && joined.members > 0 {
            let (missing, count) = (ranges(set.missing), set.count);
            warnings.add(&format!("{}: shards {missing} of {count} are missing", (set.name)()));
            self.note(FileStatus::Missing);
        }
        if let Some(damage) = joined.damage {
            self.note(damage);
        }
        let header = joined.metadata.as_deref();
        let quantization = header.and_then(|metadata| metadata.quantization.clone());
        // The type of unpacked weights in safetensors is no guess.
        let guessed = header.is_some_and(|metadata| metadata.quantization_guessed && metadata.format == Format::Gguf);
        let label = Label::new(quantization, guessed, set.named.clone());
        if let Some(line) = label.disagreement() {
            warnings.add(&format!("{}: {line}", (set.name)()));
        }
        self.sets.push(Told {
            label,
            format: header.map(|metadata| metadata.format).or(set.format),
            whole: set.missing.is_empty() && joined.readable == joined.members,
            metadata: joined.metadata,
            current: set.current,
        });
    }

    fn note(&mut self, damage: FileStatus) {
        self.damage = Some(self.damage.map_or(damage, |known| known.worse(damage)));
    }

    /// Whether there is any set.
    pub(super) fn is_empty(&self) -> bool {
        self.sets.is_empty()
    }

    /// Writes into `model` what is known now. Gives what the first set's headers tell, and what a program would load.
    pub(super) fn tell(self, model: &mut Model, projector: Projector) -> (Option<Arc<Metadata>>, Loads) {
        if let Some(damage) = self.damage {
            model.note_damage(damage);
        }
        let is_sidecar = |told: &Told| told.metadata.as_ref().is_some_and(|metadata| metadata.sidecar);
        let model_here = self.sets.iter().any(|told| !is_sidecar(told));
        let sets: Vec<Told> = self.sets.into_iter().filter(|told| !model_here || !is_sidecar(told)).collect();
        for told in &sets {
            if let Some(shown) = told.label.shown() {
                if !model.quantizations.contains(shown) {
                    model.quantizations.push(shown.clone());
                }
                if told.label.is_guess() && !model.guessed.contains(shown) {
                    model.guessed.push(shown.clone());
                }
            }
            if let Some(selects) = told.label.selects().filter(|selects| !model.selects.contains(selects)) {
                model.selects.push(selects.clone());
            }
        }
        model.quantization = match model.quantizations.as_slice() {
            [one] => Some(one.clone()),
            _ => None,
        };
        // Of older revisions there is no more than their labels, unless there is nothing else.
        let first = sets.iter().find(|told| told.metadata.is_some());
        model.format = sets.first().and_then(|told| told.format).or(model.format);
        let metadata = first.and_then(|told| told.metadata.clone());
        if let Some(metadata) = &metadata {
            model.architecture = metadata.architecture.clone().or(model.architecture.take());
            model.context_length = metadata.context_length;
            model.parameters = metadata.parameters.filter(|&sum| sum > 0);
        }
        let loads = sets
            .into_iter()
            .filter(|told| told.current && told.format == Some(Format::Gguf))
            .filter_map(|told| Some(Load::new(told.label.selects()?.clone(), told.label, told.metadata?, told.whole)));
        (metadata, Loads::new(projector, loads.collect()))
    }
}

/// Ranges as people write them: `2, 4-6`.
pub(super) fn ranges(ranges: &[(u32, u32)]) -> String {
    let texts: Vec<String> = ranges
        .iter()
        .take(8)
        .map(|&(from, to)| if from == to { from.to_string() } else { format!("{from}-{to}") })
        .collect();
    let more = if ranges.len() > 8 { ", …" } else { "" };
    format!("{}{more}", texts.join(", "))
}

/// The numbers from 1 to `count` that are not among `here`, which are in order, as ranges with both ends.
pub(super) fn missing(here: impl IntoIterator<Item = u32>, count: u32) -> Vec<(u32, u32)> {
    let mut next = 1;
    let mut missing = Vec::new();
    for number in here {
        if number > next {
            missing.push((next, number - 1));
        }
        next = next.max(number + 1);
    }
    if next <= count {
        missing.push((next, count));
    }
    missing
}
