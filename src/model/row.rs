//! One row of the table: a deletable unit of a store, with what it really costs.

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Bytes, FileStatus, ModelId, ModelKind, Quantization, size, text};

/// The format of the weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// GGUF.
    Gguf,
    /// safetensors.
    Safetensors,
    /// Something else, or nothing.
    Other,
}

impl Format {
    /// The name in JSON and on screens.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Gguf => "gguf",
            Self::Safetensors => "safetensors",
            Self::Other => "other",
        }
    }
}

/// A process that holds a file of a model.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Holder {
    /// The process.
    pub pid: u32,
    /// Its owner; the number where no name is known.
    pub user: String,
    /// Its command line, made printable and cut.
    pub command: String,
}

/// A row: one deletable unit. Serialises as the object of `list --json`.
#[derive(Clone, Debug, PartialEq)]
pub struct Model {
    /// Store kind, store root and id.
    pub identity: ModelId,
    /// What it holds.
    pub kind: ModelKind,
    /// `org/name` it came from, if a record, a cache or a catalog says so.
    pub reference: Option<String>,
    /// Where it lies.
    pub path: PathBuf,
    /// User who owns it.
    pub owner: Option<String>,
    /// Mount point of its file system.
    pub mount: Option<PathBuf>,
    /// Format of the weights.
    pub format: Option<Format>,
    /// Its quantization as its header tells it; `None` when there are several or none is known. See [`super::Label`].
    pub quantization: Option<Quantization>,
    /// Every quantization in it, as the headers tell them.
    pub quantizations: Vec<Quantization>,
    /// Those of `quantizations` that were guessed from the tensors.
    pub guessed: Vec<Quantization>,
    /// What `:QUANT` takes to select a part: what the names of the files tell, else what the headers do.
    pub selects: Vec<Quantization>,
    /// `general.architecture`, or `model_type`.
    pub architecture: Option<String>,
    /// Parameters, summed over the shards of one quantization; `None` where some of them are not here.
    pub parameters: Option<u64>,
    /// Parameters of those shards that are here, where not all are. In JSON that is told by `complete` and the warnings.
    pub parameters_at_least: Option<u64>,
    /// Training context in tokens.
    pub context_length: Option<u64>,
    /// Files without bookkeeping.
    pub file_count: u64,
    /// `st_size` over its distinct files without bookkeeping.
    pub size_bytes: u64,
    /// `st_blocks * 512` over every regular file of it, an inode once, bookkeeping included.
    pub disk_bytes: u64,
    /// What deleting it would free.
    pub reclaimable_bytes: u64,
    /// Whether its sizes and the number of its files are known: false where nothing in it may be read. In JSON they are then null.
    pub measured: bool,
    /// Newest modification of its files.
    pub modified: Option<Timestamp>,
    /// Last use as far as the file system tells.
    pub accessed: Option<Timestamp>,
    /// Whether no weights are missing, cut short, damaged or still being fetched.
    pub complete: bool,
    /// What is wrong with its files, in the word of a check; the worst where there are several. `None` where nothing is, or
    /// nothing but that a download has not ended.
    pub damage: Option<FileStatus>,
    /// Processes that hold it; `None` when nobody looked.
    pub in_use_by: Option<Vec<Holder>>,
    /// When its content was last found right by checksum; `None` when that is not known, or a file has changed since.
    pub verified: Option<Timestamp>,
    /// What is wrong or worth knowing, one line each, made printable.
    pub warnings: Vec<String>,
    /// Whether the protect list of the configuration keeps it out of every plan.
    pub protected: bool,
    /// Whether one of its large files is in another place of this host, too; false until all rows were compared.
    pub duplicate: bool,
}

/// A row as JSON has it: sizes that are not known are null.
#[derive(Serialize)]
struct Shown<'a> {
    #[serde(flatten)]
    identity: &'a ModelId,
    kind: &'a ModelKind,
    reference: &'a Option<String>,
    #[serde(with = "text::escaped")]
    path: &'a Path,
    owner: &'a Option<String>,
    #[serde(with = "text::escaped_option")]
    mount: &'a Option<PathBuf>,
    format: &'a Option<Format>,
    quantization: &'a Option<Quantization>,
    quantizations: &'a [Quantization],
    guessed: &'a [Quantization],
    selects: &'a [Quantization],
    architecture: &'a Option<String>,
    parameters: &'a Option<u64>,
    context_length: &'a Option<u64>,
    file_count: Option<u64>,
    size_bytes: Option<u64>,
    disk_bytes: Option<u64>,
    reclaimable_bytes: Option<u64>,
    modified: &'a Option<Timestamp>,
    accessed: &'a Option<Timestamp>,
    complete: bool,
    damage: &'a Option<FileStatus>,
    in_use_by: &'a Option<Vec<Holder>>,
    verified: &'a Option<Timestamp>,
    warnings: &'a [String],
    protected: bool,
    duplicate: bool,
}

impl Serialize for Model {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let shown = Shown {
            identity: &self.identity,
            kind: &self.kind,
            reference: &self.reference,
            path: &self.path,
            owner: &self.owner,
            mount: &self.mount,
            format: &self.format,
            quantization: &self.quantization,
            quantizations: &self.quantizations,
            guessed: &self.guessed,
            selects: &self.selects,
            architecture: &self.architecture,
            parameters: &self.parameters,
            context_length: &self.context_length,
            file_count: self.known(self.file_count),
            size_bytes: self.known(self.size_bytes),
            disk_bytes: self.known(self.disk_bytes),
            reclaimable_bytes: self.known(self.reclaimable_bytes),
            modified: &self.modified,
            accessed: &self.accessed,
            complete: self.complete,
            damage: &self.damage,
            in_use_by: &self.in_use_by,
            verified: &self.verified,
            warnings: &self.warnings,
            protected: self.protected,
            duplicate: self.duplicate,
        };
        shown.serialize(serializer)
    }
}

impl Model {
    /// A row of which nothing is known but where it is.
    #[must_use]
    pub fn new(identity: ModelId, path: PathBuf) -> Self {
        Self {
            identity,
            kind: ModelKind::Other,
            reference: None,
            path,
            owner: None,
            mount: None,
            format: None,
            quantization: None,
            quantizations: Vec::new(),
            guessed: Vec::new(),
            selects: Vec::new(),
            architecture: None,
            parameters: None,
            parameters_at_least: None,
            context_length: None,
            file_count: 0,
            size_bytes: 0,
            disk_bytes: 0,
            reclaimable_bytes: 0,
            measured: true,
            modified: None,
            accessed: None,
            complete: true,
            damage: None,
            in_use_by: None,
            verified: None,
            warnings: Vec::new(),
            protected: false,
            duplicate: false,
        }
    }

    /// Notes that nothing in it could be read: its sizes are unknown, not 0.
    pub fn note_unread(&mut self) {
        self.note_damage(FileStatus::Unreadable);
        self.measured = false;
    }

    /// A size of it, if it could be measured.
    fn known(&self, bytes: u64) -> Option<u64> {
        self.measured.then_some(bytes)
    }

    /// A size of it as people read it: unknown where it could not be measured.
    #[must_use]
    pub fn size(&self, bytes: u64) -> String {
        if self.measured { Bytes(bytes).to_string() } else { "unknown".to_owned() }
    }

    /// The id, made printable.
    #[must_use]
    pub fn label(&self) -> String {
        text::printable(&self.identity.id)
    }

    /// The quantizations as people read them: one label, or several joined by a comma; a guess with a `?`.
    #[must_use]
    pub fn quantization_label(&self) -> String {
        self.quantizations.iter().map(|label| self.shown(label)).collect::<Vec<_>>().join(",")
    }

    /// One of its quantizations as people read it: a guess with a `?`.
    #[must_use]
    pub fn shown(&self, label: &Quantization) -> String {
        format!("{label}{}", if self.guessed.contains(label) { "?" } else { "" })
    }

    /// Its quantization as a line for people: what its header says, or that it is a guess, the bits that a parameter takes, and
    /// what the name says where that is something else.
    #[must_use]
    pub fn quantization_line(&self, bits_per_weight: Option<f64>) -> String {
        let Some(label) = &self.quantization else { return self.quantization_label().replace(',', ", ") };
        let mut line = vec![label.to_string()];
        line.extend(self.guessed.contains(label).then(|| "guessed from its tensors".to_owned()));
        line.extend(bits_per_weight.map(|bits| format!("{bits:.2} bits/weight")));
        let others: Vec<&str> = self.selects.iter().filter(|name| *name != label).map(Quantization::as_str).collect();
        if !others.is_empty() {
            line.push(format!("named {}", others.join(", ")));
        }
        line.join(", ")
    }

    /// Its parameters for a table, a lower bound after what is to stand for that.
    #[must_use]
    pub fn parameters_label(&self, at_least: &str) -> Option<String> {
        let bound = || self.parameters_at_least.map(|count| format!("{at_least}{}", size::parameters(count)));
        self.parameters.map(size::parameters).or_else(bound)
    }

    /// Its parameters, or those of the parts that are here.
    #[must_use]
    pub fn some_parameters(&self) -> Option<u64> {
        self.parameters.or(self.parameters_at_least)
    }

    /// Its parameters as a line for people.
    #[must_use]
    pub fn parameters_line(&self) -> Option<String> {
        let bound = || {
            Some(format!("at least {}: not all of its weights are here", size::parameters(self.parameters_at_least?)))
        };
        self.parameters.map(size::parameters).or_else(bound)
    }

    /// Notes damage; of several kinds the worst stays.
    pub fn note_damage(&mut self, damage: FileStatus) {
        if !damage.is_ok() {
            self.complete = false;
            self.damage = Some(self.damage.map_or(damage, |known| known.worse(damage)));
        }
    }

    /// What it lacks, in one word: `corrupt`, `truncated`, `missing`, `unreadable`, `incomplete`; `None` where nothing is known to be
    /// wrong with it.
    #[must_use]
    pub fn state(&self) -> Option<&'static str> {
        match self.damage {
            Some(damage) => Some(damage.name()),
            None => (!self.complete).then_some("incomplete"),
        }
    }
}

/// What a store as a whole holds. Serialises as an element of `stores` in `list --json`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StoreSummary {
    /// The kind.
    pub store: super::StoreKind,
    /// The root.
    #[serde(with = "text::escaped")]
    pub path: PathBuf,
    /// `st_blocks * 512` of the whole store, an inode once.
    pub disk_bytes: u64,
    /// Rows in it.
    pub models: u64,
    /// What is wrong with the store as a whole.
    pub warnings: Vec<String>,
}
