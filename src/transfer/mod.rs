//! Bytes from a source to a destination: staged, journalled, resumed, verified, then published.
//!
//! This module owns the two traits that the others adapt to: [`Source`] (the hub does, in `provisioner`) and
//! [`Destination`] (a store does). It knows neither.

mod adopt;
mod batch;
mod connections;
mod courtesy;
mod engine;
mod event;
mod file;
mod filling;
mod growth;
mod hash;
mod journal;
mod partial;
mod pieces;
mod ranges;
mod receive;
mod retry;
mod small;
mod throttle;
mod watch;
mod writer;

use std::ops::Range;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;

pub use adopt::adopt;
pub use connections::Connections;
pub use courtesy::Courtesy;
pub use engine::{Options, Outcome, Request, run};
pub use event::{EventSink, TransferEvent};
pub use file::{discard, staged_path};
pub use hash::Hasher;
pub use retry::RetryPolicy;
pub use throttle::{Lane, Throttle};

use crate::disk::publish::beside;
use crate::error::Result;
use crate::model::{RemoteFile, Validator};

/// An open stream of a file's bytes.
pub struct Opening {
    /// Offset of the first byte: the start of the range, or 0 when the source sends the whole file instead.
    pub from: u64,
    /// Offset after the last byte: the end of the range, or the size when the source sends the whole file. A source that was
    /// answered with bytes that were not asked for gives none of them, and `to` is `from`.
    pub to: u64,
    /// Length of the whole file as the source says now.
    pub size: u64,
    /// For the next [`Source::open`]; none when the source gives none.
    pub validator: Option<Validator>,
    /// The bytes.
    pub stream: BoxStream<'static, Result<Bytes>>,
}

/// Where bytes come from.
pub trait Source: Send + Sync {
    /// Opens `range` of `file`. With a validator the source sends that range only if the bytes are still the same,
    /// and the whole file otherwise. Several ranges of one file are open at once, each over a connection of its own.
    ///
    /// # Errors
    /// [`crate::Error::Changed`] when the file is another one now; [`crate::Error::Unreachable`] and
    /// [`crate::Error::RateLimited`] are worth another try, the rest is not.
    fn open<'a>(
        &'a self,
        file: &'a RemoteFile,
        range: Range<u64>,
        validator: Option<&'a Validator>,
    ) -> BoxFuture<'a, Result<Opening>>;

    /// The origin (scheme, host and port) that the next request for a part of `file` goes to, where it is known to be
    /// another one than the endpoint's: a wait that the endpoint asks for does not concern it.
    fn origin(&self, _file: &RemoteFile) -> Option<String> {
        None
    }
}

/// Where a file is put together: beside its target, in the same file system, under names that no other tool publishes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Staging {
    /// `<name>.<digest16>.llorch`.
    pub partial: PathBuf,
    /// `<name>.<digest16>.llorch.json`; also the file that is locked.
    pub journal: PathBuf,
}

/// Where files go. Methods block on the disk.
pub trait Destination: Send + Sync {
    /// A folder on the file system that the files will lie on, for the question of space; it may not exist yet.
    fn folder(&self) -> &Path;

    /// The published file, if it is there already with the right size and a checksum that its own records vouch for
    /// (or that is computed now); then nothing is fetched.
    ///
    /// # Errors
    /// When the disk cannot be read.
    fn present(&self, file: &RemoteFile) -> Result<Option<PathBuf>>;

    /// Names the staging files of `file`; nothing is created and nothing is looked at.
    fn staging(&self, file: &RemoteFile) -> Staging;

    /// Prepares the place for `file` (folders are created below the store's root) and names its staging files, as
    /// [`Self::staging`] does.
    ///
    /// # Errors
    /// [`crate::Error::UnsafePath`] or [`crate::Error::Io`].
    fn stage(&self, file: &RemoteFile) -> Result<Staging>;

    /// Publishes the whole and verified partial under its final name, after a sync of its bytes, and notes its checksum.
    ///
    /// # Errors
    /// [`crate::Error::Io`]; the partial then still stands.
    fn publish(&self, file: &RemoteFile, staging: &Staging) -> Result<PathBuf>;

    /// [`Self::publish`] for several small files whose bytes are written but not synced, which costs less than one by
    /// one. The promise is the same: a name appears after the bytes behind it are synced. Gives a result a file.
    fn publish_all(&self, files: &[(&RemoteFile, &Staging)]) -> Vec<Result<PathBuf>> {
        beside(files, |(file, staging)| self.publish(file, staging))
    }

    /// Called once after the last file of a request is published: writes the record.
    ///
    /// # Errors
    /// [`crate::Error::Io`].
    fn finish(&self, files: &[RemoteFile]) -> Result<()>;
}
