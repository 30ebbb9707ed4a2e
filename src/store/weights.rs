//! What the weights of a row tell together: the same in every store, which only says which files make up which set.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use super::absent::Finding;
use super::headers::Header;
use super::holes::{hole, was_never_written};
use super::loads::{Load, Loads, Projector};
use super::pieces::{self, Pieces};
use super::shards::{self, Asked, Indexed, Kind, Look, Part, Spoken, Trouble};
use super::surroundings::Warnings;
use crate::disk::folder::Status;
use crate::format::{Kind as FileKind, Metadata, Structure, UNREADABLE};
use crate::model::memory::Shape;
use crate::model::selection::loaded;
use crate::model::{FileName, FileStatus, Format, Label, Missing, Model, Quantization, Shard, text};

/// Nothing is missing.
static NONE: Missing = Missing::none();

/// Indexes of a row that are compared with its weights; a pipeline has one for each of its parts.
const MOST_INDEXES: usize = 256;

/// A set of weights as its store found it: one file, or shards.
pub(super) struct Set<'a> {
    /// What people call it; asked for only if something is to be said.
    pub(super) name: &'a dyn Fn() -> String,
    /// The quantization that the name tells.
    pub(super) named: Option<Quantization>,
    /// The format that the name tells.
    pub(super) format: Option<Format>,
    /// The files that are missing by the names of those that are here.
    pub(super) missing: &'a Missing,
    /// Whether a program would load it now; not so what only an older revision has.
    pub(super) current: bool,
}

impl<'a> Set<'a> {
    /// A file that is no weights by its name.
    pub(super) fn alone(name: &'a dyn Fn() -> String) -> Self {
        Self { name, named: None, format: None, missing: &NONE, current: true }
    }
}

/// What the headers of one set tell, file by file in the order of their numbers.
#[derive(Default)]
pub(super) struct Joined {
    pub(super) metadata: Option<Arc<Metadata>>,
    members: usize,
    /// Files that are there and whole, as far as their headers tell.
    readable: usize,
    damage: Option<FileStatus>,
    /// What the files that may belong to a larger set say of that, with their paths inside the model, escaped.
    files: Vec<(String, shards::Told)>,
    /// Parameters of the files whose headers tell them, where those of all are not known.
    at_least: u64,
}

impl Joined {
    /// Adds the file at a path inside the model; what is wrong with it goes to `warnings`, where it is called `name`.
    pub(super) fn add(&mut self, header: &Header, path: &Path, name: &dyn Fn() -> String, warnings: &mut Warnings) {
        self.members += 1;
        let told = match header {
            Ok(told) => told,
            Err(why) => {
                let damage = if why.starts_with(UNREADABLE) { FileStatus::Unreadable } else { FileStatus::Corrupt };
                self.note(damage);
                self.forget_sums();
                warnings.add(format!("{}: {why}", name()));
                return;
            }
        };
        let whole = !matches!(told.structure, Structure::Truncated { .. });
        if !whole {
            self.note(FileStatus::Truncated);
        }
        // Of GGUF nobody minds.
        if told.format == Format::Safetensors && matches!(told.structure, Structure::Extra { .. }) {
            self.note(FileStatus::Extra);
        }
        if told.structure != Structure::Whole || !told.warnings.is_empty() {
            shards::header_lines(&name(), told).into_iter().for_each(|line| warnings.add(line));
        }
        self.readable += usize::from(whole);
        self.at_least = self.at_least.saturating_add(told.parameters.unwrap_or(0));
        if told.format == Format::Safetensors || told.split_count.is_some() {
            self.files.push((text::escape(path.as_os_str()), shards::Told::of(told)));
        }
        match &mut self.metadata {
            Some(metadata) => Arc::make_mut(metadata).add_part(told),
            // What the first file says of the model no later one repeats.
            None if self.members == 1 => self.metadata = Some(Arc::clone(told)),
            None => {}
        }
    }

    /// Says of a file with a header that most of it is not on disk; that is damage where the file system names the holes in the
    /// one that `unpromised` opens: a file of which nobody knows a checksum.
    pub(super) fn look_for_holes(
        &mut self,
        header: &Header,
        status: &Status,
        name: &dyn Fn() -> String,
        unpromised: &dyn Fn() -> Option<File>,
        warnings: &mut Warnings,
    ) {
        let Some(line) = hole(status.size_bytes, status.disk_bytes) else { return };
        let Ok(told) = header else { return };
        warnings.add(format!("{}: {line}", name()));
        if unpromised().is_some_and(|file| was_never_written(&file, status.size_bytes)) {
            self.note(FileStatus::Truncated);
            if !matches!(told.structure, Structure::Truncated { .. }) {
                self.readable = self.readable.saturating_sub(1);
            }
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
    indexes: Vec<Indexed>,
    /// What they name.
    spoken: Spoken,
    /// Indexes beyond those that are compared.
    more_indexes: usize,
    /// Whether the model is a pipeline, whose parts lie in folders of their own.
    pipeline: bool,
}

struct Told {
    label: Label,
    format: Option<Format>,
    metadata: Option<Arc<Metadata>>,
    whole: bool,
    current: bool,
    files: Vec<(String, shards::Told)>,
    at_least: u64,
    /// What people call it, where it is a projector.
    name: Option<String>,
}

impl Weights {
    /// The weights of a model that is a pipeline of several, whose parts lie in folders of their own, or of any other.
    pub(super) fn of(pipeline: bool) -> Self {
        Self { pipeline, ..Self::default() }
    }

    /// Adds what the header of an index at a path inside the model told, before the sets that it may name.
    pub(super) fn add_index(&mut self, path: &Path, header: &Header, warnings: &mut Warnings) {
        match header {
            Ok(told) => {
                let Some(index) = &told.index else { return };
                if self.indexes.len() >= MOST_INDEXES {
                    self.more_indexes += 1;
                    return;
                }
                let indexed = Indexed { path: text::escape(path.as_os_str()), index: Arc::clone(index) };
                self.spoken.add(&indexed);
                self.indexes.push(indexed);
            }
            Err(why) => {
                let damage = if why.starts_with(UNREADABLE) { FileStatus::Unreadable } else { FileStatus::Corrupt };
                self.note(damage);
                warnings.add(format!("{}: {why}", text::printable_path(path)));
            }
        }
    }

    /// Adds weights that lie here in pieces: each with its length, the first with its header, which is `None` where it is not
    /// here.
    pub(super) fn add_pieces(
        &mut self,
        pieces: &Pieces,
        first: Option<(Header, u64)>,
        bytes: u64,
        current: bool,
        warnings: &mut Warnings,
    ) {
        let name = || printable(&pieces.whole);
        let mut joined = Joined::default();
        match first {
            Some((header, first)) => {
                let header = pieces::joined(&header, first, bytes);
                joined.add(&header, Path::new(&pieces.whole), &name, warnings);
            }
            None => joined.add_unread(None, warnings),
        }
        warnings.add(pieces::line(&pieces.whole, pieces.places.len()));
        let label = Quantization::of_file_name(shards::file_name(&pieces.whole));
        let format = Some(Format::Gguf);
        let set = Set { name: &name, named: label, format, missing: &pieces.missing, current };
        self.add(&set, joined, warnings);
    }

    /// Adds a set.
    pub(super) fn add(&mut self, set: &Set<'_>, mut joined: Joined, warnings: &mut Warnings) {
        let indexed = joined.files.iter().any(|(path, _)| self.spoken.speaks_for(path));
        // An index knows better than names.
        let missing = if indexed || joined.members == 0 { &NONE } else { set.missing };
        if let Some(line) = (!missing.is_empty()).then(|| shards::missing_line(&(set.name)(), missing)).flatten() {
            warnings.add(&line);
            self.note(FileStatus::Missing);
        }
        if let Some(damage) = joined.damage {
            self.note(damage);
        }
        if let Some(metadata) = joined.metadata.as_mut().filter(|metadata| metadata.names.is_some()) {
            Arc::make_mut(metadata).names = None;
        }
        if set.format == Some(Format::Gguf) {
            self.compare_parts(&joined.files, warnings);
        }
        let all = missing.is_empty() && joined.readable == joined.members;
        if let Some(metadata) = joined.metadata.as_mut().filter(|metadata| metadata.layers_disagree(all)) {
            let line = Arc::make_mut(metadata).settle_layers();
            warnings.add(format!("{}: {line}", (set.name)()));
        }
        let header = joined.metadata.as_deref();
        let quantization = header.and_then(|metadata| metadata.quantization.clone());
        // The type of unpacked weights in safetensors is no guess.
        let guessed = header.is_some_and(|metadata| metadata.quantization_guessed && metadata.format == Format::Gguf);
        let label = Label::new(quantization, guessed, set.named.clone());
        if let Some(line) = label.disagreement() {
            warnings.add(format!("{}: {line}", (set.name)()));
        }
        let is_projector = header.is_some_and(|metadata| metadata.kind == FileKind::Projector);
        self.sets.push(Told {
            name: is_projector.then(|| (set.name)()),
            label,
            format: header.map(|metadata| metadata.format).or(set.format),
            whole: missing.is_empty() && joined.readable == joined.members,
            metadata: joined.metadata,
            current: set.current,
            files: joined.files,
            at_least: joined.at_least,
        });
    }

    /// Compares the headers of GGUF files with their names and with each other.
    fn compare_parts(&mut self, files: &[(String, shards::Told)], warnings: &mut Warnings) {
        let numbered = files
            .iter()
            .filter_map(|(path, told)| Some((FileName::parse(shards::file_name(path)).shard()?, path.as_str(), told)));
        let mut numbered: Vec<(Shard<'_>, &str, &shards::Told)> = numbered.collect();
        numbered.sort_by_key(|(shard, ..)| shard.number);
        let parts: Vec<Part<'_>> =
            numbered.iter().map(|(shard, path, told)| Part { path, shard: *shard, told }).collect();
        let mut troubles = shards::against_each_other(&parts);
        for (path, told) in files.iter().filter(|_| parts.is_empty()) {
            let line = shards::unnamed_part(told);
            troubles.extend(line.map(|line| Trouble { path: path.clone(), kind: Kind::Damage, line }));
        }
        let damaged = troubles.iter().filter(|trouble| trouble.kind == Kind::Damage).count();
        if damaged > 0 {
            self.note(FileStatus::Corrupt);
        }
        // One line says what is wrong with the set; verification says it of each file.
        let (mut told, more) = (false, damaged.saturating_sub(1));
        for trouble in troubles {
            if trouble.kind == Kind::Damage && std::mem::replace(&mut told, true) {
                continue;
            }
            let more = match more {
                0 => String::new(),
                1 => ", and 1 other contradiction in its set".to_owned(),
                more => format!(", and {more} other contradictions in its set"),
            };
            let more = if trouble.kind == Kind::Damage { more } else { String::new() };
            warnings.add(format!("{}: {}{more}", printable(&trouble.path), trouble.line));
        }
    }

    /// Compares the indexes with the sets, and joins the sets that one of them names. `is_there` says whether anything is at a
    /// path inside the model; `absent` is that of [`shards::against_index`], with the path of the index before the files.
    pub(super) fn compare_indexes(
        &mut self,
        is_there: &dyn Fn(&str) -> bool,
        absent: &dyn Fn(&str, &[Asked<'_>]) -> Vec<Finding>,
        warnings: &mut Warnings,
    ) {
        if self.more_indexes > 0 {
            let indexes =
                if self.more_indexes == 1 { "1 index".to_owned() } else { format!("{} indexes", self.more_indexes) };
            warnings.add(format!("{indexes} beyond the first {MOST_INDEXES} not compared with the weights"));
        }
        for indexed in std::mem::take(&mut self.indexes) {
            if indexed.is_idle(is_there) {
                let line = "names files that are not here; what lies beside it in one file is loaded";
                warnings.add(format!("{} {line}", printable(&indexed.path)));
                continue;
            }
            let paths = indexed.paths();
            if !paths.iter().any(|path| is_there(path)) {
                self.note(FileStatus::Missing);
                warnings.add(format!("the weights that {} names are missing", printable(&indexed.path)));
                continue;
            }
            let current = self.sets.iter().filter(|set| set.current).flat_map(|set| &set.files).rev();
            let known: HashMap<&str, &shards::Told> = current.map(|(path, told)| (path.as_str(), told)).collect();
            let look = |path: &str| match known.get(path) {
                Some(told) => Look::Here(told),
                None if is_there(path) => Look::Elsewhere,
                None => Look::Absent,
            };
            let troubles = shards::against_index(&indexed, &look, &|files| absent(&indexed.path, files));
            let missing: Vec<String> = of_kind(&troubles, Kind::Missing).map(|trouble| trouble.path.clone()).collect();
            let first = paths.first().map_or("", String::as_str);
            let stem = FileName::parse(shards::file_name(first)).stem().to_owned();
            let name = shards::join(shards::folder(first), &stem);
            if let Some(line) = shards::missing_by_index(&name, &missing, &indexed.path) {
                warnings.add(&line);
                self.note(FileStatus::Missing);
            }
            for trouble in of_kind(&troubles, Kind::Damage) {
                self.note(FileStatus::Corrupt);
                warnings.add(format!("{}: {}", printable(&trouble.path), trouble.line));
            }
            for trouble in of_kind(&troubles, Kind::Note) {
                warnings.add(format!("{}: {}", printable(&trouble.path), trouble.line));
            }
            self.join(&paths, missing.is_empty());
        }
    }

    /// Makes one of the sets with these files; `whole` says that none is missing.
    fn join(&mut self, paths: &BTreeSet<String>, whole: bool) {
        let named = |set: &Told| set.current && set.files.iter().any(|(path, _)| paths.contains(path));
        let (named, mut others): (Vec<Told>, Vec<Told>) = std::mem::take(&mut self.sets).into_iter().partition(named);
        let mut sets = named.into_iter();
        if let Some(mut joined) = sets.next() {
            for set in sets {
                match (&mut joined.metadata, &set.metadata) {
                    (Some(all), Some(part)) => Arc::make_mut(all).add_part(part),
                    (Some(all), None) => Arc::make_mut(all).lose_sums(),
                    (None, _) => {}
                }
                joined.whole &= set.whole;
                joined.at_least = joined.at_least.saturating_add(set.at_least);
                joined.files.extend(set.files);
            }
            joined.whole &= whole;
            others.push(joined);
        }
        self.sets = others;
    }

    /// Puts what a loader is given first before the others. Of a pipeline the parts are joined.
    fn order(&mut self) {
        if self.sets.iter().any(|set| set.format != Some(Format::Safetensors)) {
            return;
        }
        let first_path = |set: &Told| set.files.first().map(|(path, _)| path.clone());
        let paths: Vec<String> = self.sets.iter().filter(|set| set.current).filter_map(first_path).collect();
        let kept = loaded(paths.iter().map(String::as_str));
        let is_copy = |set: &Told| !first_path(set).is_some_and(|path| kept.contains(path.as_str()));
        self.sets.sort_by_cached_key(|set| (!set.current, is_copy(set), first_path(set)));
        let mut folders = BTreeSet::new();
        let part = |set: &&Told| {
            let folder = first_path(set).map(|path| shards::folder(&path).to_owned());
            !is_copy(set) && folder.is_some_and(|folder| !folder.is_empty() && folders.insert(folder))
        };
        let parts: Vec<&Told> = self.sets.iter().filter(|set| self.pipeline && set.current).filter(part).collect();
        if parts.len() < 2 {
            return;
        }
        let mut whole = Metadata { parts: 0, structure: Structure::Whole, ..Metadata::unknown(Format::Safetensors) };
        (whole.parameters, whole.tensor_bytes, whole.tensors) = (Some(0), Some(0), Some(0));
        let largest = parts.iter().max_by_key(|set| set.metadata.as_ref().and_then(|metadata| metadata.tensor_bytes));
        if let Some(largest) = largest.and_then(|set| set.metadata.as_ref()) {
            whole.quantization.clone_from(&largest.quantization);
            whole.quantization_guessed = largest.quantization_guessed;
        }
        for metadata in parts.iter().filter_map(|set| set.metadata.as_ref()) {
            whole.licence = whole.licence.take().or_else(|| metadata.licence.clone());
            whole.base_model = whole.base_model.take().or_else(|| metadata.base_model.clone());
            whole.add_part(metadata);
        }
        if parts.iter().any(|set| set.metadata.is_none()) {
            whole.lose_sums();
        }
        // Its parts run one after another, each in its own way.
        whole.shape = Shape::default();
        let at_least = parts.iter().fold(0_u64, |sum, set| sum.saturating_add(set.at_least));
        if let Some(first) = self.sets.first_mut() {
            (first.metadata, first.at_least) = (Some(Arc::new(whole)), at_least);
        }
    }

    fn note(&mut self, damage: FileStatus) {
        self.damage = Some(self.damage.map_or(damage, |known| known.worse(damage)));
    }

    /// Whether there is any set.
    pub(super) fn is_empty(&self) -> bool {
        self.sets.is_empty()
    }

    /// Writes into `model` what is known now. Gives what the first set's headers tell, and what a program would load.
    pub(super) fn tell(mut self, model: &mut Model, mut projector: Projector) -> (Option<Arc<Metadata>>, Loads) {
        self.order();
        if let Some(damage) = self.damage {
            model.note_damage(damage);
        }
        let is_sidecar = |told: &Told| told.metadata.as_ref().is_some_and(|metadata| metadata.sidecar);
        let model_here = self.sets.iter().any(|told| !is_sidecar(told));
        for told in self.sets.iter().filter(|told| model_here && told.current) {
            if let (Some(name), Some(metadata)) = (&told.name, &told.metadata) {
                projector.look(&format!("{name}.gguf"), 0, Some(metadata));
            }
        }
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
        if let Some(told) = first.filter(|told| !told.whole || model.parameters.is_none()) {
            // A file that is cut short still names all of its tensors.
            let lacking = model.damage.is_some_and(|damage| damage != FileStatus::Truncated);
            let known = model.parameters.filter(|_| !lacking);
            model.parameters_at_least = Some(told.at_least).filter(|sum| known.is_none() && *sum > 0 && !told.whole);
            model.parameters = known;
        }
        let loads = sets
            .into_iter()
            .filter(|told| told.current && told.format == Some(Format::Gguf))
            .filter_map(|told| Some(Load::new(told.label.selects()?.clone(), told.label, told.metadata?, told.whole)));
        (metadata, Loads::new(projector, loads.collect()))
    }
}

fn of_kind(troubles: &[Trouble], kind: Kind) -> impl Iterator<Item = &Trouble> {
    troubles.iter().filter(move |trouble| trouble.kind == kind)
}

/// What is to be said of a row without a model; `None` where it has one, or an adapter, which is loaded like one.
pub(super) fn no_model(metadata: Option<&Metadata>) -> Option<String> {
    let kind = metadata.filter(|metadata| metadata.sidecar)?.kind;
    (kind != FileKind::Adapter).then(|| format!("holds no model, but {}", kind.with_article()))
}

/// An escaped path as people read it.
fn printable(path: &str) -> String {
    text::printable_path(Path::new(&text::unescape(path)))
}
