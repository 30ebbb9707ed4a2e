//! Where models are: one interface over every kind of store, scans and plans.

mod absent;
pub mod beside;
mod checksum_files;
pub mod files;
pub mod fingerprint;
pub mod fit;
pub mod flat;
pub mod headers;
pub mod hf;
mod holes;
pub mod large;
mod listing;
pub mod llama_cpp;
pub mod lm_studio;
pub mod loads;
mod memory;
mod mix;
pub mod ollama;
pub mod parts;
mod pieces;
pub mod planning;
pub mod remembered;
pub mod remote;
mod shards;
mod surroundings;
pub mod sweep;
pub mod tree;
pub mod verify;
mod weights;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

pub use large::LargeFile;
pub use loads::{Load, Loads};
pub use parts::{Figures, QuantizationPart, SharedFile};

use self::fingerprint::Fingerprint;
use crate::disk::deletion::Guard;
use crate::disk::usage::Usage;
use crate::error::Result;
use crate::format::Metadata;
use crate::machine::AccessTimes;
use crate::model::selector::Choice;
use crate::model::{Model, ModelFile, Plan, Reference, StoreKind, StoreSummary, Sweep};

/// A row together with the inodes behind its figures, so that totals over rows and stores count an inode once.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Row {
    /// What is shown.
    pub model: Model,
    /// Every regular file of it, bookkeeping included.
    pub usage: Usage,
    /// What the header of its first weights file tells, if one was read.
    pub metadata: Option<Arc<Metadata>>,
    /// What a program would load of it beside those.
    pub loads: Loads,
    /// Those of its files that are worth comparing with other rows', as far as anything tells their content.
    pub large: Vec<LargeFile>,
}

impl Row {
    /// A row of which nothing is known beyond the names and figures in `model`.
    #[must_use]
    pub fn new(model: Model, usage: Usage) -> Self {
        Self { model, usage, metadata: None, loads: Loads::default(), large: Vec::new() }
    }

    /// With what a header told.
    #[must_use]
    pub fn with_metadata(self, metadata: Option<Arc<Metadata>>) -> Self {
        Self { metadata, ..self }
    }

    /// With what a program would load.
    #[must_use]
    pub fn with_loads(self, loads: Loads) -> Self {
        Self { loads, ..self }
    }

    /// With its large files.
    #[must_use]
    pub fn with_large(self, large: Vec<LargeFile>) -> Self {
        Self { large, ..self }
    }
}

/// Everything about one model, for the detail pane and `info`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Details {
    /// The row.
    #[serde(flatten)]
    pub model: Model,
    /// Its files, weights first, then by path.
    pub files: Vec<ModelFile>,
    /// Its revisions, where the store keeps several.
    pub revisions: Vec<Revision>,
    /// How far its use can be known.
    #[serde(flatten)]
    pub evidence: Evidence,
    /// What the header of its first weights file tells.
    pub metadata: Option<Arc<Metadata>>,
    /// What a program would load of it beside those.
    #[serde(skip)]
    pub loads: Loads,
    /// The part of the row that was asked for, where it was one: files, headers and figures are those of it.
    pub part: Option<Part>,
    /// Its quantizations with what each takes, where it has several.
    pub parts: Vec<QuantizationPart>,
    /// Files that other rows of its store use, too.
    pub shared: Vec<SharedFile>,
}

impl Details {
    /// A row with its files.
    #[must_use]
    pub fn new(model: Model, files: Vec<ModelFile>) -> Self {
        Self {
            model,
            files,
            revisions: Vec::new(),
            evidence: Evidence::default(),
            metadata: None,
            loads: Loads::default(),
            part: None,
            parts: Vec::new(),
            shared: Vec::new(),
        }
    }

    /// With what the headers told.
    #[must_use]
    pub fn with_headers(self, metadata: Option<Arc<Metadata>>, loads: Loads) -> Self {
        Self { metadata, loads, ..self }
    }
}

/// One revision of a model in a store that keeps several.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Revision {
    /// The commit.
    pub commit: String,
    /// Branches and tags that name it.
    pub refs: Vec<String>,
    /// `st_size` over its distinct files; `None` where nobody looked.
    pub size_bytes: Option<u64>,
    /// `st_blocks * 512` over the same.
    pub disk_bytes: Option<u64>,
    /// What deleting it alone would free.
    pub reclaimable_bytes: u64,
}

/// Which part of a row.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    /// The whole row.
    Whole,
    /// One quantization with all its shards.
    Quantization(String),
    /// One revision.
    Revision(String),
    /// One quantization in one revision; others keep theirs.
    QuantizationOf {
        /// The quantization.
        quantization: String,
        /// The revision.
        revision: String,
    },
    /// Single files, by their path inside the model.
    Files(Vec<String>),
}

impl Part {
    /// How a command names it, which it does not for single files.
    #[must_use]
    pub fn choice(&self) -> Option<Choice> {
        Some(match self {
            Self::Whole => Choice::Whole,
            Self::Quantization(label) => Choice::Quantization(label.clone()),
            Self::Revision(revision) => Choice::Revision(revision.clone()),
            Self::QuantizationOf { quantization, revision } => {
                Choice::QuantizationOf { quantization: quantization.clone(), revision: revision.clone() }
            }
            Self::Files(_) => return None,
        })
    }
}

impl From<Choice> for Part {
    fn from(choice: Choice) -> Self {
        match choice {
            Choice::Whole => Self::Whole,
            Choice::Quantization(label) => Self::Quantization(label),
            Choice::Revision(revision) => Self::Revision(revision),
            Choice::QuantizationOf { quantization, revision } => Self::QuantizationOf { quantization, revision },
        }
    }
}

impl fmt::Display for Part {
    /// What follows the id of the row.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self, self.choice()) {
            (Self::Files(paths), _) => write!(f, " ({})", paths.join(", ")),
            (_, choice) => choice.unwrap_or(Choice::Whole).fmt(f),
        }
    }
}

/// What a deletion is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// Id of the row in its store.
    pub id: String,
    /// Which part of it.
    pub part: Part,
}

/// A symbolic link in a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreLink {
    /// Id of its row.
    pub id: String,
    /// The link, absolute.
    pub path: PathBuf,
}

/// How far it can be known whether and when a model is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Evidence {
    /// What its file system notes of accesses; `None` where that is not known.
    pub access_times: Option<AccessTimes>,
    /// Processes that could not be looked into: what they hold is not known. `None` when nobody looked.
    pub unreadable_processes: Option<usize>,
}

/// One place where models are. Methods block on the disk: call them on a blocking thread.
pub trait Store: fmt::Debug + Send + Sync {
    /// The kind.
    fn kind(&self) -> StoreKind;

    /// Its root, resolved; it may not exist.
    fn root(&self) -> &Path;

    /// Gives each row to `sink` as soon as it is known, in no promised order. A broken entry is a row with its damage
    /// in `warnings`; a store that is missing has no rows. What could not be read is said in the summary's warnings.
    fn scan(&self, sink: &mut dyn FnMut(Row), cancel: &CancellationToken) -> StoreSummary;

    /// The same store for a first look: its scan reads no more than the first 64 KiB of a header that is not known, and sets
    /// `missed` where that was not all of it. `None` where a scan reads no headers.
    fn at_a_glance(&self, _missed: &Arc<AtomicBool>) -> Option<Box<dyn Store>> {
        None
    }

    /// What changes when a row comes, goes or gets other files, cheap enough to be asked for now and then: a few
    /// microseconds a folder. A change deep in a folder may go unnoticed.
    fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(self.root(), 0)
    }

    /// Everything about one row.
    ///
    /// # Errors
    /// [`crate::Error::ModelNotFound`] when there is none of that id.
    fn details(&self, id: &str) -> Result<Details>;

    /// [`Self::details`] of a part of a row: its files, and what their headers tell. The figures are those of the whole row.
    ///
    /// # Errors
    /// [`crate::Error::ModelNotFound`] when there is none of that id, or no such part.
    fn details_of(&self, target: &Target) -> Result<Details> {
        // A store whose rows have no parts has nothing else to say.
        self.details(&target.id)
    }

    /// What deleting `targets` would do, as one plan: what they share counts once. Nothing is changed.
    ///
    /// # Errors
    /// [`crate::Error::ModelNotFound`] when a target is not there.
    fn plan_deletion(&self, targets: &[Target]) -> Result<Plan>;

    /// What looks, while `plan` runs, for names that have come since it was made and lead to what goes; `None` where no file is
    /// needed by another name.
    fn guard<'a>(&'a self, _plan: &Plan) -> Option<Box<dyn Guard + 'a>> {
        None
    }

    /// What each of `parts` of a row takes, and what deleting it alone would free; `None` for one that is not there.
    fn figures(&self, id: &str, parts: &[Part]) -> Vec<Option<Figures>> {
        let figures = |part: &Part| {
            let target = Target { id: id.to_owned(), part: part.clone() };
            let files = self.expected(&target).ok()?;
            let plan = self.plan_deletion(&[target]).ok()?;
            Some(Figures::of(self.root(), &files, &plan))
        };
        parts.iter().map(figures).collect()
    }

    /// Everything here that nothing can use any more. Nothing is changed; what could not be read in full is told in the
    /// warnings, and nothing is offered there. A cancelled look finds nothing.
    fn sweep(&self, _context: &sweep::SweepContext, _cancel: &CancellationToken) -> Sweep {
        Sweep::default()
    }

    /// The row, or the part of it, that `reference` names here; `None` when it is not here. Only whole names count.
    ///
    /// # Errors
    /// [`crate::Error::Ambiguous`] when several rows are equally meant, [`crate::Error::Io`] when the store cannot be read.
    fn find(&self, reference: &Reference) -> Result<Option<Target>>;

    /// The links of its rows that may lead out of it, so that what they lead to is not deleted unseen. What cannot be read has
    /// none.
    fn links(&self) -> Vec<StoreLink> {
        Vec::new()
    }

    /// Whether [`Self::plan_deletion`] has looked at every one of [`Self::links`] already.
    fn plans_with_links(&self) -> bool {
        false
    }

    /// What [`verify::run`] is to check of a row or a part of it, missing files included.
    ///
    /// # Errors
    /// [`crate::Error::ModelNotFound`] when there is no such row.
    fn expected(&self, target: &Target) -> Result<Vec<verify::Expected>>;

    /// [`Self::expected`] of several, in their order; what they have in common is read once.
    fn expected_of_each(&self, targets: &[Target]) -> Vec<Result<Vec<verify::Expected>>> {
        targets.iter().map(|target| self.expected(target)).collect()
    }
}
