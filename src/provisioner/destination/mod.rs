//! The places where files go, one for each kind of store.

mod flat;
mod hf;
mod partials;

use std::fs::File;
use std::io;
use std::path::Path;

use tokio_util::sync::CancellationToken;

use crate::disk::regular;
use crate::error::{Error, Result, io_reason};
use crate::model::{Digest, ModelId, RemoteFile, StoreKind};
use crate::store::remembered::{Fingerprint, Remembered};
use crate::store::verify::{self, Depth, Expected};
use crate::transfer::Destination;

pub(super) use flat::{FlatDestination, discard_partials_of, vouched};
pub(super) use hf::HfDestination;

/// The error of a note about files that are published: they stay, and the next run writes the note.
fn unrecorded(error: Error) -> Error {
    let words =
        "the files are there, whole and right; only the note of them is missing, which the same download writes";
    match error {
        Error::NoSpace { path, needed, available, advice } => {
            let advice = advice.map_or_else(|| words.to_owned(), |advice| format!("{advice}; {words}"));
            Error::NoSpace { path, needed, available, advice: Some(advice) }
        }
        Error::Io { operation, path, source } => {
            let reason = format!("{}; {words}", io_reason(&source));
            Error::Io { operation, path, source: io::Error::new(source.kind(), reason) }
        }
        other => other,
    }
}

/// A destination of this module.
pub(super) trait Place: Destination {
    /// Whether anything was written there.
    fn has_changed(&self) -> bool;

    /// Whether something of the right length is there already, whatever its bytes are.
    fn is_there(&self, file: &RemoteFile) -> bool;

    /// Brings bookkeeping that was put off up to date, after a run that did not finish.
    ///
    /// # Errors
    /// When it cannot be written.
    fn settle(&self) -> Result<()> {
        Ok(())
    }
}

/// A file whose place another one takes. Other names of the same bytes stay, and with them what is known of those.
#[derive(Debug)]
struct Replaced {
    file: File,
    before: Fingerprint,
}

impl Replaced {
    /// The regular file at `path`, if it is known to be wrong.
    fn at(path: &Path, memory: &Remembered) -> Option<Self> {
        if memory.knows_none_bad() {
            return None;
        }
        let file = regular::open(path).ok()?;
        let before = Fingerprint::of(&file).ok()?;
        Some(Self { file, before })
    }

    /// To be called when another file has its place.
    fn gave_way(self, memory: &Remembered) {
        if let Ok(now) = Fingerprint::of(&self.file) {
            memory.lost_a_name(&self.before, &now);
        }
    }
}

/// Reads the whole file at `location` (relative to `root`) and compares.
fn has_digest(
    store: StoreKind,
    root: &Path,
    location: &Path,
    file: &RemoteFile,
    digest: Digest,
    cancel: &CancellationToken,
) -> Result<bool> {
    let model = ModelId { store, store_path: root.to_owned(), id: String::new() };
    let expected = Expected {
        path: file.path.to_string(),
        location: location.to_owned(),
        size: Some(file.size),
        digest: Some(digest),
        ..Expected::default()
    };
    verify::run(&model, root, &[expected], Depth::Full, &mut |_| {}, cancel).map(|found| found.ok)
}
