//! What checking a model found.

use serde::{Deserialize, Serialize};

use super::{Algorithm, ModelId};

/// The state of one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FileStatus {
    /// What was checked is right.
    Ok,
    /// The bytes are not the promised ones.
    Corrupt,
    /// Shorter than the record or its own header says.
    Truncated,
    /// A record or a set of shards names it and it is not there.
    Missing,
    /// It could not be read.
    Unreadable,
    /// Nothing knows a checksum for it; what structure tells is right.
    NoChecksum,
    /// Longer than the record or its own header says.
    Extra,
}

impl FileStatus {
    /// Whether a model with such a file is still right.
    #[must_use]
    pub fn is_ok(self) -> bool {
        matches!(self, Self::Ok | Self::NoChecksum)
    }

    /// The worse of two: wrong bytes are worse than bytes that are not there, and what cannot be read may be sound.
    #[must_use]
    pub fn worse(self, other: Self) -> Self {
        let rank = |status: Self| match status {
            Self::Corrupt => 0,
            Self::Truncated => 1,
            Self::Missing => 2,
            Self::Unreadable => 3,
            Self::Extra => 4,
            Self::NoChecksum => 5,
            Self::Ok => 6,
        };
        if rank(self) <= rank(other) { self } else { other }
    }

    /// The name in JSON and on screens.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Corrupt => "corrupt",
            Self::Truncated => "truncated",
            Self::Missing => "missing",
            Self::Unreadable => "unreadable",
            Self::NoChecksum => "no-checksum",
            Self::Extra => "extra",
        }
    }
}

/// One file of a [`Verification`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileCheck {
    /// Path inside the model, escaped.
    pub path: String,
    /// What was found.
    pub status: FileStatus,
    /// What was compared: "sha256", "git-sha1" or "structure".
    pub algorithm: Option<String>,
    /// What it should be: a digest, or a length in bytes.
    pub expected: Option<String>,
    /// What it is.
    pub actual: Option<String>,
    /// Whether all that its header names is there, with bytes behind its end that mean nothing: some writers append some.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub padded: bool,
    /// What else there is to say: sources that do not agree, a header that asks for another length than the record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// The commit whose file belongs there, where that is known.
    #[serde(skip)]
    pub commit: Option<String>,
    /// How many more files of its set are missing and are not listed: names may claim a million.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub more_missing: u64,
    /// The commits whose file it is, where its model keeps several and it is not the file of all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub revisions: Vec<String>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "what serde asks for")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl FileCheck {
    /// A file of which nothing is known but its state.
    #[must_use]
    pub fn new(path: impl Into<String>, status: FileStatus) -> Self {
        Self {
            path: path.into(),
            status,
            algorithm: None,
            expected: None,
            actual: None,
            padded: false,
            note: None,
            commit: None,
            more_missing: 0,
            revisions: Vec::new(),
        }
    }

    /// Whether a model with such a file is still right.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        self.status.is_ok() || (self.status == FileStatus::Extra && self.padded)
    }

    /// Adds to the note.
    pub fn say(&mut self, line: &str) {
        let note = self.note.get_or_insert_default();
        if !note.is_empty() {
            note.push_str("; ");
        }
        note.push_str(line);
    }

    /// The name of the check that compares a digest.
    #[must_use]
    pub fn algorithm_name(algorithm: Algorithm) -> String {
        algorithm.name().to_owned()
    }
}

/// What checking one model found. Serialises as an element of `models` in `verify --json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verification {
    /// The row.
    #[serde(flatten)]
    pub model: ModelId,
    /// Whether every file is right.
    pub ok: bool,
    /// Every file that belongs to it, missing ones included.
    pub files: Vec<FileCheck>,
}

impl Verification {
    /// The worst state of its files.
    #[must_use]
    pub fn worst(&self) -> FileStatus {
        let wrong = self.files.iter().filter(|file| !file.is_ok()).map(|file| file.status);
        wrong.reduce(FileStatus::worse).unwrap_or(FileStatus::Ok)
    }
}
