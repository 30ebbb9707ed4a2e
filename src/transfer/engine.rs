//! Runs a request: file by file, from staging to publication.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{Destination, EventSink, RetryPolicy, Source, Throttle};
use crate::error::Result;
use crate::model::RemoteFile;

/// Files of one repository at one commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Base address of the hub; part of what a partial file belongs to.
    pub endpoint: String,
    /// `org/name`.
    pub repository: String,
    /// The commit.
    pub commit: String,
    /// What to fetch, in this order.
    pub files: Vec<RemoteFile>,
}

/// How to fetch.
#[derive(Clone, Debug)]
pub struct Options {
    /// The speed limit. Everything that holds a clone of the same one shares its bytes per second, and
    /// [`Throttle::set_limit`] changes it while transfers run.
    pub throttle: Throttle,
    /// Give up when no first byte arrived for so long; `None` never gives up. A foreground command has a bound here,
    /// a queue has none.
    pub first_byte: Option<Duration>,
    /// A connection without a byte for so long is dropped and opened again.
    pub stall: Duration,
    /// After the first byte: give up after failing for so long without progress; `None` never gives up.
    pub patience: Option<Duration>,
    /// Pauses between tries.
    pub retry: RetryPolicy,
}

impl Default for Options {
    /// What a foreground command does: no limit, 30 s for the first byte, then 10 minutes of patience.
    fn default() -> Self {
        Self {
            throttle: Throttle::default(),
            first_byte: Some(Duration::from_secs(30)),
            stall: Duration::from_secs(20),
            patience: Some(Duration::from_secs(600)),
            retry: RetryPolicy::default(),
        }
    }
}

/// What a transfer did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// The published files, in the order of the request.
    pub paths: Vec<PathBuf>,
    /// Bytes that came over the network.
    pub fetched: u64,
}

/// Fetches every file of `request` that `destination` does not have yet.
///
/// Space is checked first. Each file is put together in its staging place while its journal says which ranges are
/// synced; a later run of the same request continues there. It is published only when its checksum is right.
///
/// # Errors
/// [`crate::Error::Cancelled`] keeps the partial. [`crate::Error::NoSpace`] before anything is written, or when the disk fills
/// (the partial is kept). [`crate::Error::ChecksumMismatch`] after a second fetch was wrong too (the partial is removed).
pub async fn run(
    _request: &Request,
    _source: &Arc<dyn Source>,
    _destination: &Arc<dyn Destination>,
    _options: &Options,
    _events: &EventSink,
    _cancel: &CancellationToken,
) -> Result<Outcome> {
    todo!()
}
