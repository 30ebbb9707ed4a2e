//! What a model on the hub is, before it is fetched: its header alone, in a few ranges.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use tokio::time::timeout;

use super::ModelProvisioner;
use crate::error::{Error, Result};
use crate::format::config_json::Config;
use crate::format::{Metadata, Prefix, read_prefix};
use crate::hub::{HubClient, Repository};
use crate::model::{FileName, Quantization, RemoteFile, Validator, text};

/// What is asked for at first: the keys of nearly every GGUF file stand in less.
const FIRST: u64 = 256 << 10;
/// Most bytes of a header that are fetched.
const MOST: u64 = 16 << 20;
/// A range comes in so long, and a second for each so many of its bytes: a look at many models waits for the slowest.
const PATIENCE: Duration = Duration::from_secs(15);
const SLOWEST: u64 = 32 << 10;
/// Longest `config.json` that is fetched.
const LONGEST_CONFIG: u64 = 1 << 20;
/// Headers that are remembered.
const REMEMBERED: usize = 256;

/// Where the header of a repository is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteHeader {
    /// `org/name`.
    pub repository: String,
    /// The commit.
    pub commit: String,
    /// The file whose header tells for all quantizations.
    pub file: RemoteFile,
    /// The `config.json` beside it, where its own header does not tell enough.
    pub config: Option<RemoteFile>,
    /// Whether it is the only file of its weights.
    pub alone: bool,
}

impl RemoteHeader {
    /// Where the header of a repository with these files is; `None` without weights in a known format.
    #[must_use]
    pub fn of(repository: &Repository, files: &[RemoteFile]) -> Option<Self> {
        let first = |file: &&RemoteFile| {
            let name = FileName::parse(file.path.file_name());
            name.is_weights() && name.shard().is_none_or(|shard| shard.number == 1)
        };
        let gguf = files
            .iter()
            .filter(first)
            .filter(|file| FileName::parse(file.path.file_name()).is_gguf())
            // One that names its quantization is a model rather than something beside it.
            .min_by_key(|file| (Quantization::of_path(&file.path).is_none(), file.size));
        let safetensors = || {
            let all = files.iter().filter(first);
            all.filter(|file| FileName::parse(file.path.file_name()).is_safetensors()).min_by_key(|file| &file.path)
        };
        let file = gguf.or_else(safetensors)?;
        let folder = file.path.as_str().rsplit_once('/').map_or("", |(folder, _)| folder);
        let config = |path: &str| match path.rsplit_once('/') {
            Some((before, "config.json")) => before == folder,
            _ => folder.is_empty() && path == "config.json",
        };
        Some(Self {
            repository: repository.id.clone(),
            commit: repository.commit.clone(),
            file: file.clone(),
            config: files.iter().find(|file| gguf.is_none() && config(file.path.as_str())).cloned(),
            alone: FileName::parse(file.path.file_name()).shard().is_none(),
        })
    }
}

/// Headers that were fetched, by repository, commit and path: what stands at a commit never changes.
#[derive(Debug, Default)]
pub(super) struct RemoteHeaders(Mutex<HashMap<(String, String, String), Arc<Metadata>>>);

impl ModelProvisioner {
    /// What a header on the hub tells. Of a GGUF file the keys before its vocabulary are fetched, of safetensors the header
    /// and the `config.json`: some hundred KB, never weights. Where parts of the weights are in other files, sums over
    /// them are unknown.
    ///
    /// # Errors
    /// As [`HubClient::open`]; [`Error::BadAnswer`] when the file is no model.
    pub async fn remote_metadata(&self, header: &RemoteHeader) -> Result<Arc<Metadata>> {
        let RemoteHeader { repository, commit, file, .. } = header;
        let key = (repository.clone(), commit.clone(), file.path.as_str().to_owned());
        let known = self.remote_headers().0.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
        if let Some(known) = known {
            return Ok(known);
        }
        let hub = self.hub()?;
        let mut metadata = first_bytes(&hub, header).await?;
        if let Some(config) = &header.config {
            if config.size > LONGEST_CONFIG {
                return Err(no_model(&hub, config, "it is too long"));
            }
            let mut bytes = Vec::new();
            fetch(&hub, header, config, &mut bytes, config.size, &mut None).await?;
            let config = Config::parse(&bytes).map_err(|why| no_model(&hub, config, &why))?;
            config.complete(&mut metadata);
        }
        if !header.alone {
            metadata.lose_sums();
            metadata.tensors = None;
        }
        let metadata = Arc::new(metadata);
        let mut known = self.remote_headers().0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= REMEMBERED {
            known.clear();
        }
        known.insert(key, Arc::clone(&metadata));
        Ok(metadata)
    }
}

/// Fetches more and more of the file until it tells enough.
async fn first_bytes(hub: &HubClient, header: &RemoteHeader) -> Result<Metadata> {
    let file = &header.file;
    let (mut bytes, mut validator, mut end) = (Vec::new(), None, FIRST.min(file.size));
    loop {
        fetch(hub, header, file, &mut bytes, end, &mut validator).await?;
        match read_prefix(&bytes, file.size, file.path.file_name()).map_err(|why| no_model(hub, file, &why))? {
            Prefix::Enough(metadata) => return Ok(*metadata),
            Prefix::More(_) if end >= MOST.min(file.size) => {
                return Err(no_model(hub, file, "its header does not end where headers do"));
            }
            Prefix::More(more) => end = more.max(end.saturating_mul(4)).min(MOST).min(file.size),
        }
    }
}

/// Adds to `bytes`, which are the first of a file, those up to `end`.
async fn fetch(
    hub: &HubClient,
    header: &RemoteHeader,
    file: &RemoteFile,
    bytes: &mut Vec<u8>,
    end: u64,
    validator: &mut Option<Validator>,
) -> Result<()> {
    let start = bytes.len() as u64;
    if start >= end {
        return Ok(());
    }
    let mut body = hub.open(&header.repository, &header.commit, file, start..end, validator.as_ref()).await?;
    if body.from != start {
        // It sends the whole file, of which no more is taken than what was asked for.
        bytes.clear();
    }
    *validator = body.validator.take();
    let limit = PATIENCE + Duration::from_secs((end - start) / SLOWEST);
    timeout(limit, take(&mut body.stream, bytes, end)).await.unwrap_or_else(|_| {
        let reason = format!("the header of '{}' did not come in {} s", file.path, limit.as_secs());
        Err(Error::Unreachable { url: hub.endpoint().to_owned(), reason })
    })
}

/// Adds what `stream` brings to `bytes`, until there are `end`.
async fn take(stream: &mut (impl Stream<Item = Result<Bytes>> + Unpin), bytes: &mut Vec<u8>, end: u64) -> Result<()> {
    while (bytes.len() as u64) < end
        && let Some(piece) = stream.next().await
    {
        let room = usize::try_from(end - bytes.len() as u64).unwrap_or(0);
        let piece = piece?;
        bytes.extend_from_slice(piece.get(..room).unwrap_or(&piece));
    }
    Ok(())
}

fn no_model(hub: &HubClient, file: &RemoteFile, why: &str) -> Error {
    let reason = format!("the header of '{}' cannot be read: {}", file.path, text::printable(why));
    Error::BadAnswer { url: hub.endpoint().to_owned(), reason }
}
