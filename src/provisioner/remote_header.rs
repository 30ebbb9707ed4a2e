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
use crate::model::memory::Shape;
use crate::model::selection::{INDEX, loaded};
use crate::model::{FileName, Quantization, RemoteFile, Shard, Validator, text};

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
    /// All files of its weights, itself among them, in the order of their names.
    pub set: Vec<RemoteFile>,
}

impl RemoteHeader {
    /// Where the header of a repository with these files is; `None` without weights in a known format.
    #[must_use]
    pub fn of(repository: &Repository, files: &[RemoteFile]) -> Option<Self> {
        let first = |file: &&RemoteFile| {
            let name = FileName::parse(file.path.file_name());
            name.is_weights() && name.shard().is_none_or(Shard::is_first)
        };
        let gguf = files
            .iter()
            .filter(first)
            .filter(|file| FileName::parse(file.path.file_name()).is_gguf())
            // One that names its quantization is a model rather than something beside it.
            .min_by_key(|file| (Quantization::of_path(&file.path).is_none(), file.size));
        let set = safetensors_set(files);
        let safetensors = || set.iter().copied().find(first).or_else(|| set.first().copied());
        let file = gguf.or_else(safetensors)?;
        let folder = folder(file);
        let config = |path: &str| match path.rsplit_once('/') {
            Some((before, "config.json")) => before == folder,
            _ => folder.is_empty() && path == "config.json",
        };
        Some(Self {
            repository: repository.id.clone(),
            commit: repository.commit.clone(),
            file: file.clone(),
            config: files.iter().find(|file| gguf.is_none() && config(file.path.as_str())).cloned(),
            set: if gguf.is_some() { gguf_set(file, files) } else { set.into_iter().cloned().collect() },
        })
    }

    /// Whether it is the only file of its weights.
    #[must_use]
    pub fn is_alone(&self) -> bool {
        self.set.len() < 2
    }

    /// Bytes of all files of its weights.
    #[must_use]
    pub fn set_bytes(&self) -> u64 {
        self.set.iter().map(|file| file.size).fold(0, u64::saturating_add)
    }
}

/// The shards of the set that a GGUF file belongs to.
fn gguf_set(file: &RemoteFile, files: &[RemoteFile]) -> Vec<RemoteFile> {
    let own = FileName::parse(file.path.file_name());
    let of_set = |other: &&RemoteFile| {
        let name = FileName::parse(other.path.file_name());
        let alike = || name.shard().zip(own.shard()).is_some_and(|(a, b)| a.is_of_set(b));
        other.path == file.path || (name.is_gguf() && folder(other) == folder(file) && alike())
    };
    files.iter().filter(of_set).cloned().collect()
}

/// The files in safetensors that a loader is given first. An index beside them names them, but has up to 10 MB, so that it is
/// not fetched: where one is, all weights of its folder belong to it, unless the names of some of them count them.
fn safetensors_set(files: &[RemoteFile]) -> Vec<&RemoteFile> {
    let kept = loaded(files.iter().map(|file| file.path.as_str()));
    let mut kept: Vec<&RemoteFile> = files.iter().filter(|file| kept.contains(file.path.as_str())).collect();
    kept.sort_by_key(|file| &file.path);
    let Some(first) = kept.first().copied() else { return Vec::new() };
    if !folder(first).is_empty() && files.iter().any(|file| file.path.as_str() == "model_index.json") {
        // A pipeline loads its parts from all of its folders.
        return kept;
    }
    let stem = |file: &RemoteFile| FileName::parse(file.path.file_name()).stem().to_owned();
    let index = |file: &RemoteFile| {
        let name = file.path.file_name();
        name.strip_suffix(INDEX).filter(|_| folder(file) == folder(first)).map(str::to_owned)
    };
    let here: Vec<&RemoteFile> = kept.iter().copied().filter(|file| folder(file) == folder(first)).collect();
    let counted = |file: &RemoteFile| FileName::parse(file.path.file_name()).into_shard();
    let shard = here.iter().find_map(|file| counted(file));
    let indexed: Vec<String> = files.iter().filter_map(index).collect();
    let whole = |index: &String| here.iter().any(|file| counted(file).is_none() && stem(file) == *index);
    match (counted(first), shard) {
        (Some(own), _) => {
            here.into_iter().filter(|file| counted(file).is_some_and(|other| other.is_of_set(&own))).collect()
        }
        (None, Some(shard)) if indexed.contains(&shard.stem) => {
            here.into_iter().filter(|file| counted(file).is_some_and(|other| other.is_of_set(&shard))).collect()
        }
        _ if indexed.iter().any(|index| !whole(index)) => here,
        _ => vec![first],
    }
}

fn folder(file: &RemoteFile) -> &str {
    file.path.as_str().rsplit_once('/').map_or("", |(folder, _)| folder)
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
        if !header.is_alone() {
            metadata.lose_sums();
            (metadata.tensors, metadata.names) = (None, None);
        }
        if header.set.iter().any(|file| folder(file) != folder(&header.file)) {
            // What one part of a pipeline takes beside its weights says nothing of the others.
            (metadata.shape, metadata.architecture) = (Shape::default(), None);
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
