//! Facts that arrive.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::input::Mouse;
use super::keymap::Key;
use crate::hub::SearchHit;
use crate::jobs::{JobId, Update};
use crate::model::memory::HostMemory;
use crate::model::{Holder, ModelId, Plan, StoreKind, Sweep};
use crate::provisioner::{RemoteHeader, ScanEvent};
use crate::store::Details;
use crate::store::fingerprint::Fingerprint;
use crate::store::remote::RemoteRow;

/// The time of a message: when a key was read, not when it was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Time since the start of the program; never goes back.
    pub at: Duration,
    /// The time of day.
    pub wall: Timestamp,
}

/// Tells the answers to one request from those to the request that came after it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Generation(pub u64);

/// A fact. What failed comes as the line that is shown.
#[derive(Clone, Debug)]
pub enum Msg {
    /// A key was pressed.
    Key(Key),
    /// Text was pasted.
    Paste(String),
    /// The mouse did something.
    Mouse(Mouse),
    /// The terminal has this many columns and rows.
    Resize(u16, u16),
    /// A frame has been written to the terminal.
    Drawn,
    /// The process was stopped and goes on.
    Continued,
    /// A signal asks the program to end.
    End(i32),
    /// A time that [`super::state::State::deadline`] named has come.
    Tick,
    /// A scan found rows or finished stores.
    Scanned(Generation, Vec<ScanEvent>),
    /// A scan is over.
    ScanDone(Generation),
    /// What the folders of the stores told when the scan of that number began, or when they were looked at.
    Looked(Generation, Fingerprint),
    /// Who holds each row that was looked at.
    Holders(Generation, BTreeMap<ModelId, Vec<Holder>>),
    /// Which stores a scan asks from now on.
    Stores(Generation, Stores),
    /// Everything about a row.
    Details(Generation, Result<Box<Details>, String>),
    /// What a deletion would do.
    Planned(Generation, Result<Box<Plan>, String>),
    /// What nothing can use any more.
    Swept(Generation, Result<Box<Sweep>, String>),
    /// What a repository offers.
    Listed(Generation, Result<Box<Offer>, String>),
    /// What the headers of a model on the hub tell, as far as they are here.
    Header(Generation, Result<Arc<RemoteRow>, String>),
    /// What the hub found.
    Found(Generation, Result<Vec<SearchHit>, String>),
    /// File systems, the one with the models folder first.
    Host(Generation, Vec<FileSystem>),
    /// The memory of this host and of its GPUs.
    Memory(Box<HostMemory>),
    /// The queue changed.
    Jobs(Update),
    /// The queue took a job: what it is about.
    Submitted(String),
    /// The queue refused something.
    Refused(String),
    /// A job could not be changed as a key asked, and why.
    Unchanged(JobId, String),
    /// Something went wrong that has no place of its own.
    Trouble(String),
}

/// The stores of this host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stores {
    /// Kind and root of each.
    pub stores: Vec<(StoreKind, PathBuf)>,
    /// Whether those of every user are among them.
    pub all_users: bool,
    /// What could not be looked at, a line each.
    pub notes: Vec<String>,
}

/// A file system, for the header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileSystem {
    /// Where it is mounted.
    pub mount: PathBuf,
    /// Its size.
    pub total: u64,
    /// Free for this user.
    pub available: u64,
}

/// What a repository offers to download.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// `org/name`.
    pub repository: String,
    /// The commit that was listed.
    pub commit: String,
    /// Where a download would go.
    pub folder: PathBuf,
    /// Room there for this user.
    pub available: Option<u64>,
    /// Where a download into the Hugging Face cache would go, and the room there.
    pub cache: Option<(PathBuf, Option<u64>)>,
    /// The vision projector that the repository has for its GGUF models, and its size.
    pub projector: Option<(String, u64)>,
    /// What can be taken.
    pub choices: Vec<Choice>,
    /// The choice that the reference named, or that it means without `:QUANT`.
    pub default: Option<usize>,
    /// Why there is no such choice.
    pub note: Option<String>,
    /// Where the headers are that tell what the choices are and need.
    pub header: Option<RemoteHeader>,
}

/// One thing to take from a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Its quantization, or the name of its first file.
    pub label: String,
    /// What to ask the queue for.
    pub reference: String,
    /// Number of its files.
    pub files: usize,
    /// The file that stands for it.
    pub principal: String,
    /// Sum of their sizes.
    pub bytes: u64,
    /// What of it is weights.
    pub weights: u64,
    /// Why it cannot be taken.
    pub problem: Option<String>,
    /// Its whole path, where it is a single file that belongs to no set of weights.
    pub file: Option<String>,
}
