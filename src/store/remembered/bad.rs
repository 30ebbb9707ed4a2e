//! What was found wrong in a file: a truth about its bytes, whatever names lead to them.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Fingerprint;
use crate::model::{Digest, FileStatus, text};

/// A file whose bytes were read and are not the promised ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bad {
    /// The content that this is said of.
    #[serde(flatten)]
    pub(super) fingerprint: Fingerprint,
    /// What was promised.
    pub promised: Digest,
    /// What was found.
    pub actual: Digest,
    /// What that makes it: corrupt, or, where the header tells, cut or padded.
    pub status: FileStatus,
    /// When it was found.
    pub when: Timestamp,
}

impl Bad {
    /// Whether one of whom `promises` are made is told by this that it is not right; without a promise of its own it is. `None`
    /// where only an earlier good result can tell: nothing that is promised can be compared with what was found.
    pub(super) fn breaks(&self, promises: &[Digest]) -> Option<bool> {
        if promises.contains(&self.actual) {
            return Some(false);
        }
        let is_comparable = |promise: &Digest| promise.algorithm() == self.actual.algorithm();
        (promises.is_empty() || promises.contains(&self.promised) || promises.iter().any(is_comparable)).then_some(true)
    }

    /// Whether the file has turned out to have `digest`, which this says it has not.
    pub(super) fn is_disproved_by(&self, fingerprint: &Fingerprint, digest: Digest) -> bool {
        let is_other = self.actual.algorithm() == digest.algorithm() && self.actual != digest;
        self.fingerprint != *fingerprint || self.promised == digest || is_other
    }

    /// When it was found, as people read it.
    #[must_use]
    pub fn since(&self) -> String {
        self.when.strftime("%Y-%m-%d %H:%M UTC").to_string()
    }

    /// The line about the file at `path`.
    #[must_use]
    pub fn line(&self, path: &str) -> String {
        format!("{} is {}: verified on {}", text::printable(path), self.status.name(), self.since())
    }
}
