//! What a model on the hub is, before it is fetched: the headers of its files, in a few ranges of each.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt, TryStreamExt, stream};
use tokio::time::{Instant, timeout, timeout_at};

use super::ModelProvisioner;
use super::remote_header::RemoteHeader;
use crate::error::{Error, Result};
use crate::format::gguf::Tail;
use crate::format::safetensors::Index;
use crate::format::{Metadata, Prefix, read_prefix};
use crate::hub::{Address, HubClient};
use crate::model::selection::INDEX;
use crate::model::{FileName, Format, RemoteFile, RepoPath, Validator, text};
use crate::store::headers::Header;
use crate::store::remote::{Bytes as BesideBytes, RemoteFiles, RemoteRow, Stated};

/// What is asked for at first: the keys before the vocabulary of nearly every GGUF file stand in less.
const FIRST_OF_GGUF: u64 = 64 << 10;
/// The same of a file that has no vocabulary: a later part, or a projector.
const FIRST_OF_PART: u64 = 64 << 10;
/// The same of safetensors, before the headers of other shards told how long they are.
const FIRST_OF_SAFETENSORS: u64 = 32 << 10;
/// What is asked for at first at most, however long the headers of other shards are.
const LONGEST_GUESS: u64 = 1 << 20;
/// Most bytes of a header that are fetched.
const MOST: u64 = 16 << 20;
/// A range comes in so long, and a second for each so many of its bytes: a look at many models waits for the slowest.
const PATIENCE: Duration = Duration::from_secs(15);
const SLOWEST: u64 = 32 << 10;
/// Longest file beside the weights that is fetched whole.
const LONGEST_BESIDE: u64 = 1 << 20;
/// What is fetched of an index that is longer: its sums come first.
const START_OF_INDEX: u64 = 4 << 10;
/// What is fetched of `tokenizer.json`, whose special tokens stand before its vocabulary.
const START_OF_TOKENIZER: u64 = 128 << 10;
/// What is fetched of a model card or a licence.
const START_OF_TEXT: u64 = 16 << 10;
/// Headers that may fail before no more are asked for.
const MOST_FAILURES: usize = 4;
/// What is known is told again after so many headers.
const TOLD_EVERY: usize = 16;
/// Models that are remembered.
const REMEMBERED: usize = 256;

/// How much is asked of a server to know one model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Most files whose headers are read.
    pub headers: usize,
    /// Most bytes that are fetched.
    pub bytes: u64,
    /// How long it may take after the first header.
    pub time: Duration,
    /// Files that are asked for at once.
    pub at_once: usize,
}

impl Bounds {
    /// For one of many models in a list: a few hundred KB.
    pub const GLANCE: Self = Self { headers: 64, bytes: 1 << 20, time: Duration::from_secs(10), at_once: 4 };
    /// For the one model that a person looks at: what a set of some hundred shards takes.
    pub const LOOK: Self = Self { headers: 1024, bytes: 24 << 20, time: Duration::from_secs(30), at_once: 8 };
}

/// What was told of models, by repository, commit and path: what stands at a commit never changes.
#[derive(Debug, Default)]
pub(super) struct RemoteRows(Mutex<HashMap<(String, String, String), Arc<RemoteRow>>>);

impl ModelProvisioner {
    /// What the headers of a model on the hub tell together. Of a GGUF file with a vocabulary what stands before it and after it
    /// is fetched, of other files the headers, and of the files beside them what tells something: never weights. What is known
    /// is given to `told` as soon as the first header is here, and again while more come. Dropping the future ends it.
    ///
    /// Where `bounds` end it, or a server does not answer, sums are a bound and [`RemoteRow::why_partial`] says so.
    ///
    /// # Errors
    /// As [`HubClient::open`], for the first header; [`Error::BadAnswer`] when that file is no model.
    pub async fn remote_row(
        &self,
        header: &RemoteHeader,
        bounds: &Bounds,
        mut told: impl FnMut(&Arc<RemoteRow>) + Send,
    ) -> Result<Arc<RemoteRow>> {
        let key = (header.repository.clone(), header.commit.clone(), header.file.path.as_str().to_owned());
        let known = self.remote_rows().0.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
        if let Some(known) = known {
            return Ok(known);
        }
        let hub = self.hub()?;
        let mut look = Look::new(&hub, header, bounds);
        look.begin().await?;
        told(&Arc::new(RemoteRow { coming: true, ..look.row() }));
        look.go_on(&mut told).await;
        let row = Arc::new(look.row());
        if row.is_whole() && row.why_partial.is_none() {
            let mut known = self.remote_rows().0.lock().unwrap_or_else(PoisonError::into_inner);
            if known.len() >= REMEMBERED {
                known.clear();
            }
            known.insert(key, Arc::clone(&row));
        }
        Ok(row)
    }

    /// What the headers of a model on the hub tell together, as [`Self::remote_row`] with [`Bounds::LOOK`].
    ///
    /// # Errors
    /// As [`Self::remote_row`].
    pub async fn remote_metadata(&self, header: &RemoteHeader) -> Result<Arc<Metadata>> {
        let row = self.remote_row(header, &Bounds::LOOK, |_| {}).await?;
        row.metadata.clone().ok_or_else(|| {
            let reason = format!("the header of '{}' tells nothing", header.file.path);
            Error::BadAnswer { url: self.endpoint(), reason }
        })
    }
}

/// One look at a model.
struct Look<'a> {
    header: &'a RemoteHeader,
    bounds: &'a Bounds,
    fetcher: Fetcher<'a>,
    /// The files of its weights in the order in which they are joined.
    order: Vec<&'a RemoteFile>,
    headers: BTreeMap<RepoPath, Header>,
    beside: BTreeMap<RepoPath, BesideBytes>,
    why_partial: Option<String>,
    /// Where the first file has tensors behind a vocabulary.
    tail: Option<(&'a RemoteFile, Tail)>,
}

/// What is fetched.
enum Wanted<'a> {
    Header(&'a RemoteFile),
    Tail(&'a RemoteFile, Tail),
    Beside(&'a RemoteFile, u64),
}

/// What came of it.
enum Came {
    Header(RepoPath, Result<Header>),
    Tail(RepoPath, Result<Option<Header>>),
    Beside(RepoPath, Result<Vec<u8>>),
}

impl<'a> Look<'a> {
    fn new(hub: &'a HubClient, header: &'a RemoteHeader, bounds: &'a Bounds) -> Self {
        let mut order: Vec<&RemoteFile> = header.set.iter().filter(|file| file.size > 0).collect();
        let number = |file: &RemoteFile| FileName::parse(file.path.file_name()).shard().map_or(0, |shard| shard.number);
        order.sort_by_key(|file| (number(file), &file.path));
        let present = |file: &RemoteFile| (file.path.clone(), BesideBytes { size: file.size, first: None });
        Self {
            header,
            bounds,
            fetcher: Fetcher {
                hub,
                header,
                most: bounds.bytes,
                at_once: bounds.at_once.max(1),
                fetched: AtomicU64::new(0),
                guess: AtomicU64::new(FIRST_OF_SAFETENSORS),
                learned: AtomicBool::new(false),
                refrained: AtomicBool::new(false),
            },
            order,
            headers: BTreeMap::new(),
            beside: header.beside.iter().map(present).collect(),
            why_partial: None,
            tail: None,
        }
    }

    /// The first header, and the configuration where that is needed to know what the header is of.
    async fn begin(&mut self) -> Result<()> {
        let file = self.order.first().copied().unwrap_or(&self.header.file);
        let config = self.header.beside.iter().find(|file| file.path.file_name() == "config.json");
        let config = async {
            match config.filter(|config| config.size <= LONGEST_BESIDE) {
                Some(config) => Some((config.path.clone(), self.fetcher.start(config, config.size).await)),
                None => None,
            }
        };
        let (first, config) = tokio::join!(self.fetcher.header(file), config);
        let (first, bytes) = first?;
        let first = first.map_err(|why| no_model(self.fetcher.hub, file, &why))?;
        if first.partly_read && first.format == Format::Gguf {
            self.tail = Tail::of(&bytes, file.size).map(|tail| (file, tail));
        }
        self.headers.insert(file.path.clone(), Ok(Arc::new(first)));
        if let Some((path, bytes)) = config {
            self.keep_beside(&path, bytes);
        }
        Ok(())
    }

    /// Everything else, as far as the bounds allow.
    async fn go_on(&mut self, told: &mut (impl FnMut(&Arc<RemoteRow>) + Send)) {
        let has_licence = self.licence_is_known();
        let beside = self.header.beside.iter().filter_map(|file| {
            let known = self.beside.get(&file.path).is_some_and(|bytes| bytes.first.is_some());
            let most = most_of(file, has_licence).filter(|_| !known)?;
            Some(Wanted::Beside(file, most.min(file.size)))
        });
        let mut room = self.bounds.headers.saturating_sub(self.headers.len());
        let headers: Vec<&RemoteFile> =
            self.order.iter().copied().filter(|file| !self.headers.contains_key(&file.path)).collect();
        if headers.len() > room {
            self.why_partial = Some(format!("no more than {} headers are read", self.bounds.headers));
            // A part of the sum is worth less than what the hub says of all of it.
            room = if self.header.summary.parameters.is_some() { 0 } else { room };
        }
        let projector = self.header.projector.iter();
        let headers = headers.into_iter().take(room).chain(projector).map(Wanted::Header);
        let tail = self.tail.take().map(|(file, tail)| Wanted::Tail(file, tail));
        let wanted: Vec<Wanted<'_>> = tail.into_iter().chain(beside).chain(headers).collect();
        let fetcher = &self.fetcher;
        let coming: Vec<_> = wanted.into_iter().map(|wanted| fetcher.get(wanted)).collect();
        let mut coming = stream::iter(coming).buffer_unordered(self.fetcher.at_once);
        let until = Instant::now() + self.bounds.time;
        let (mut failures, mut since) = (0, 0);
        loop {
            let came = match timeout_at(until, coming.next()).await {
                Ok(Some(came)) => came,
                Ok(None) => break,
                Err(_) => {
                    self.why_partial = Some(format!("it took longer than {} s", self.bounds.time.as_secs()));
                    break;
                }
            };
            match came {
                Came::Header(path, Ok(header)) => {
                    self.headers.insert(path, header);
                    since += 1;
                }
                Came::Header(_, Err(error)) => {
                    failures += 1;
                    if fetcher.refrained.load(Ordering::Relaxed) {
                        let most = crate::model::Bytes(self.bounds.bytes);
                        self.why_partial = Some(format!("no more than {most} are fetched"));
                        break;
                    }
                    self.why_partial = Some(error.to_string());
                    if failures >= MOST_FAILURES || is_final(&error) {
                        break;
                    }
                }
                Came::Tail(path, Ok(Some(told))) => {
                    self.headers.insert(path, told);
                    since += TOLD_EVERY;
                }
                // What stands before the vocabulary is known all the same.
                Came::Tail(_, Ok(None)) => {}
                Came::Tail(_, Err(error)) if is_final(&error) => break,
                Came::Tail(path, Err(error)) => tracing::debug!("the end of '{path}': {error}"),
                Came::Beside(path, bytes) => {
                    if let Ok(first) = bytes
                        && let Some(known) = self.beside.get_mut(&path)
                    {
                        known.first = Some(first);
                    }
                    since += 1;
                }
            }
            if since >= TOLD_EVERY {
                since = 0;
                let fetched = fetcher.fetched.load(Ordering::Relaxed);
                let row = row_of(self.header, &self.headers, &self.beside, fetched, None);
                told(&Arc::new(RemoteRow { coming: true, ..row }));
            }
        }
    }

    fn keep_beside(&mut self, path: &RepoPath, bytes: Result<Vec<u8>>) {
        if let (Ok(first), Some(known)) = (bytes, self.beside.get_mut(path)) {
            known.first = Some(first);
        }
    }

    /// Whether something else than a licence's text names it.
    fn licence_is_known(&self) -> bool {
        let card = self.header.beside.iter().any(|file| file.path.file_name() == "README.md");
        let told = self.headers.values().any(|header| header.as_ref().is_ok_and(|told| told.licence.is_some()));
        told || card
    }

    fn row(&self) -> RemoteRow {
        let fetched = self.fetcher.fetched.load(Ordering::Relaxed);
        row_of(self.header, &self.headers, &self.beside, fetched, self.why_partial.clone())
    }
}

fn row_of(
    header: &RemoteHeader,
    headers: &BTreeMap<RepoPath, Header>,
    beside: &BTreeMap<RepoPath, BesideBytes>,
    fetched_bytes: u64,
    why_partial: Option<String>,
) -> RemoteRow {
    let mut row = RemoteRow::of(&RemoteFiles {
        repository: &header.repository,
        set: &header.set,
        listed: &header.listed,
        pipeline: header.pipeline,
        headers,
        beside,
        projector: header.projector.as_ref(),
    });
    row.fetched_bytes = fetched_bytes;
    row.why_partial = why_partial;
    let unread = |told: &Metadata| told.partly_read && told.format == Format::Safetensors;
    if row.why_partial.is_none() && headers.values().flatten().any(|told| unread(told)) {
        row.why_partial = Some("a header of it is longer than is read from afar".to_owned());
    }
    row.stated_template = header.summary.chat_template;
    if row.model.parameters.is_none() {
        let index = beside.iter().find(|(path, _)| path.file_name().ends_with(INDEX));
        let by_index = index.and_then(|(_, bytes)| Index::stated_parameters(bytes.first.as_deref()?));
        let by = |by| move |parameters| Stated { parameters, by };
        row.stated = by_index.map(by("its index")).or_else(|| header.summary.parameters.map(by("the hub")));
    }
    row
}

/// How many bytes of a file beside the weights are fetched; `None` where it is enough to know that it is there.
fn most_of(file: &RemoteFile, has_licence: bool) -> Option<u64> {
    match file.path.file_name() {
        "chat_template.jinja" | "tokenizer.model" | "vocab.json" | "merges.txt" => None,
        "tokenizer.json" => Some(START_OF_TOKENIZER),
        "README.md" => Some(START_OF_TEXT),
        name if name.starts_with("LICEN") || name == "license.txt" => (!has_licence).then_some(START_OF_TEXT),
        name if name.ends_with(INDEX) && file.size > LONGEST_BESIDE => Some(START_OF_INDEX),
        _ if file.size > LONGEST_BESIDE => None,
        _ => Some(LONGEST_BESIDE),
    }
}

/// Whether other files would be refused, too.
fn is_final(error: &Error) -> bool {
    matches!(error, Error::RateLimited { .. } | Error::SignIn { .. } | Error::Offline { .. })
}

/// Fetches the beginnings of files, and keeps count.
struct Fetcher<'a> {
    hub: &'a HubClient,
    header: &'a RemoteHeader,
    most: u64,
    at_once: usize,
    fetched: AtomicU64,
    /// How long the headers of safetensors are here.
    guess: AtomicU64,
    /// Whether one of them said so.
    learned: AtomicBool,
    /// Whether something was not asked for because it would have been too much.
    refrained: AtomicBool,
}

impl Fetcher<'_> {
    async fn get(&self, wanted: Wanted<'_>) -> Came {
        match wanted {
            Wanted::Header(file) => {
                let mut told = self.header(file).await;
                // A server that stumbled once answers the next request.
                if matches!(told, Err(Error::Unreachable { .. })) {
                    told = self.header(file).await;
                }
                Came::Header(file.path.clone(), told.map(|(header, _)| header.map(Arc::new).map_err(Arc::from)))
            }
            Wanted::Tail(file, tail) => Came::Tail(file.path.clone(), self.tail(file, tail).await),
            Wanted::Beside(file, most) => Came::Beside(file.path.clone(), self.start(file, most).await),
        }
    }

    /// The first bytes of a file.
    async fn start(&self, file: &RemoteFile, count: u64) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.fetch(file, &mut bytes, count.min(file.size), &mut None).await?;
        Ok(bytes)
    }

    /// What stands behind the vocabulary of a GGUF file; `None` where it is not found.
    async fn tail(&self, file: &RemoteFile, mut tail: Tail) -> Result<Option<Header>> {
        let address = Address::default();
        loop {
            let looks = tail.looks();
            if looks.is_empty() {
                break;
            }
            let looks: Vec<_> = looks
                .into_iter()
                .map(|range| async { Ok::<_, Error>((range.clone(), self.part(file, range, &address).await?)) })
                .collect();
            let looks: Vec<_> = stream::iter(looks).buffered(self.at_once).try_collect().await?;
            tail.narrow(&looks);
        }
        let rest = self.part(file, tail.rest(), &address).await?;
        Ok(tail.finish(&rest, file.path.file_name()).map(|told| Ok(Arc::new(told))))
    }

    /// The headers of other shards are about as long as this one.
    fn learn(&self, length: u64) {
        let about = length.saturating_add(length / 8).next_multiple_of(4 << 10).min(LONGEST_GUESS);
        if !self.learned.swap(true, Ordering::Relaxed) {
            self.guess.store(about, Ordering::Relaxed);
        }
        self.guess.fetch_max(about, Ordering::Relaxed);
    }

    /// Bytes out of the middle of a file.
    async fn part(&self, file: &RemoteFile, range: Range<u64>, address: &Address) -> Result<Vec<u8>> {
        let count = range.end.saturating_sub(range.start);
        self.claim(count)?;
        let bad = || Error::BadAnswer {
            url: self.hub.endpoint().to_owned(),
            reason: format!("it does not send the part of '{}' that was asked for", file.path),
        };
        let come = async {
            let RemoteHeader { repository, commit, .. } = self.header;
            let mut body = self.hub.open_at(repository, commit, file, range.clone(), None, address).await?;
            let mut bytes = Vec::new();
            if body.from == range.start && body.to == range.end {
                take(&mut body.stream, &mut bytes, count).await?;
            }
            if bytes.len() as u64 == count { Ok(bytes) } else { Err(bad()) }
        };
        timeout(patience(count), come).await.unwrap_or_else(|_| Err(bad()))
    }

    /// Claims bytes before they are fetched, so that what comes at the same time counts.
    fn claim(&self, count: u64) -> Result<()> {
        let before = self.fetched.fetch_add(count, Ordering::Relaxed);
        if before > 0 && before.saturating_add(count) > self.most {
            self.fetched.fetch_sub(count, Ordering::Relaxed);
            self.refrained.store(true, Ordering::Relaxed);
            let reason = format!("no more than {} of headers are read", crate::model::Bytes(self.most));
            return Err(Error::BadAnswer { url: self.hub.endpoint().to_owned(), reason });
        }
        Ok(())
    }

    /// Fetches more and more of a file until it tells enough: what is told, or what is wrong with its header, and its first bytes.
    async fn header(&self, file: &RemoteFile) -> Result<(std::result::Result<Metadata, String>, Vec<u8>)> {
        let name = FileName::parse(file.path.file_name());
        let first = match name.shard() {
            _ if !name.is_gguf() => self.guess.load(Ordering::Relaxed),
            Some(shard) if !shard.is_first() => FIRST_OF_PART,
            _ if name.is_projector() => FIRST_OF_PART,
            _ => FIRST_OF_GGUF,
        };
        let (mut bytes, mut validator, mut end) = (Vec::new(), None, first.min(file.size));
        loop {
            self.fetch(file, &mut bytes, end, &mut validator).await?;
            if !name.is_gguf()
                && let Some(length) = bytes.first_chunk::<8>().map(|length| u64::from_le_bytes(*length))
            {
                self.learn(length);
            }
            match read_prefix(&bytes, file.size, file.path.file_name()) {
                Err(why) => return Ok((Err(why), bytes)),
                Ok(Prefix::Enough(metadata)) => return Ok((Ok(*metadata), bytes)),
                Ok(Prefix::More(_)) if end >= MOST.min(file.size) => {
                    return Ok((Err("its header does not end where headers do".to_owned()), bytes));
                }
                Ok(Prefix::More(more)) if name.is_gguf() => {
                    end = more.max(end.saturating_mul(4)).min(MOST).min(file.size);
                }
                Ok(Prefix::More(more)) => end = more.min(MOST).min(file.size),
            }
        }
    }

    /// Adds to `bytes`, which are the first of a file, those up to `end`.
    async fn fetch(
        &self,
        file: &RemoteFile,
        bytes: &mut Vec<u8>,
        end: u64,
        validator: &mut Option<Validator>,
    ) -> Result<()> {
        let start = bytes.len() as u64;
        if start >= end {
            return Ok(());
        }
        self.claim(end - start)?;
        let limit = patience(end - start);
        let come = async {
            let RemoteHeader { repository, commit, .. } = self.header;
            let mut body = self.hub.open(repository, commit, file, start..end, validator.as_ref()).await?;
            if body.from != 0 && body.from != start {
                let reason = format!("asked for bytes from {start} on, it sent those from {} on", body.from);
                return Err(Error::BadAnswer { url: self.hub.endpoint().to_owned(), reason });
            }
            if body.from != start {
                // It sends the whole file, of which no more is taken than what was asked for.
                bytes.clear();
                self.fetched.fetch_add(start, Ordering::Relaxed);
            }
            *validator = body.validator.take();
            take(&mut body.stream, bytes, end).await
        };
        timeout(limit, come).await.unwrap_or_else(|_| {
            let reason = format!("the header of '{}' did not come in {} s", file.path, limit.as_secs());
            Err(Error::Unreachable { url: self.hub.endpoint().to_owned(), reason })
        })
    }
}

/// How long a range of so many bytes is waited for.
fn patience(count: u64) -> Duration {
    PATIENCE + Duration::from_secs(count / SLOWEST)
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
