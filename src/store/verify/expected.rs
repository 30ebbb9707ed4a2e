//! What is expected of a file, and who promises it.

use std::path::PathBuf;

use crate::model::{Digest, FileName};

/// Who knows a digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// The record of the folder.
    Record,
    /// What the official client left beside the file.
    Sidecar,
    /// The listing of a commit, `trees/<commit>.json`.
    Listing,
    /// The name of the blob.
    BlobName,
    /// A manifest of the store.
    Manifest,
    /// What people keep beside it, `m.gguf.sha256` or `SHA256SUMS`.
    ChecksumFile,
}

impl Source {
    /// In words.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Record => "the record",
            Self::Sidecar => "the sidecar",
            Self::Listing => "the listing of its commit",
            Self::BlobName => "the blob's name",
            Self::Manifest => "a manifest",
            Self::ChecksumFile => "the checksum file beside it",
        }
    }
}

/// A digest that somebody promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Promise {
    /// Who.
    pub source: Source,
    /// What.
    pub digest: Digest,
}

/// A file that belongs to a model, with what is known of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expected {
    /// Path inside the model, escaped.
    pub path: String,
    /// Where it should lie, relative to the root of the store.
    pub location: PathBuf,
    /// Its recorded length.
    pub size: Option<u64>,
    /// The digest that counts.
    pub digest: Option<Digest>,
    /// Who promises that.
    pub source: Option<Source>,
    /// What others promise, as far as it is something else. One from the same source counts as much as `digest`.
    pub others: Vec<Promise>,
    /// What is known of the file that no digest says.
    pub note: Option<String>,
    /// A commit whose file it is.
    pub commit: Option<String>,
    /// The commits whose file it is, where the model keeps several and it is not the file of all.
    pub revisions: Vec<String>,
    /// Why the place could not be looked into. It is a folder then, whose files are not known.
    pub unread: Option<String>,
}

impl Expected {
    /// Whether a look at the bytes of one tells the same of both. The name of a shard says something of its own.
    pub(super) fn promises_as(&self, other: &Self) -> bool {
        let of_set = |file: &Self| {
            let name = file.path.rsplit('/').next().unwrap_or_default();
            FileName::parse(name).shard().is_some()
        };
        let all = |file: &Self| (file.size, file.digest, file.source, file.others.clone(), file.note.clone());
        all(self) == all(other) && !of_set(self) && !of_set(other)
    }

    /// The digests of which any makes the file right: the one that counts, and others from the same source.
    #[must_use]
    pub fn promises(&self) -> Vec<Digest> {
        let equals = self.others.iter().filter(|promise| self.source == Some(promise.source));
        self.digest.into_iter().chain(equals.map(|promise| promise.digest)).collect()
    }

    /// Takes over what several sources promise, the one that counts first.
    #[must_use]
    pub fn promised(mut self, promises: impl IntoIterator<Item = Promise>) -> Self {
        for promise in promises {
            match self.digest {
                None => (self.digest, self.source) = (Some(promise.digest), Some(promise.source)),
                Some(first) if first != promise.digest && !self.others.contains(&promise) => self.others.push(promise),
                Some(_) => {}
            }
        }
        self
    }
}
