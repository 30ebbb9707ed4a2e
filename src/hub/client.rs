//! The hub's calls: repository, listing, search, files.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::BoxStream;
use futures_util::{StreamExt, TryStreamExt};

use super::http::Http;
use super::{Address, Listing, Repository, SearchHit, SearchQuery, Token, body, listing, search};
use crate::error::Result;
use crate::model::{RemoteFile, RepoPath, Validator};

/// How to reach a hub.
#[derive(Clone, Debug)]
pub struct HubOptions {
    /// Base address, `https://huggingface.co` if nothing else is said; a path prefix is kept. Credentials in it are sent
    /// to its own origin, as the token is, and are never shown.
    pub endpoint: String,
    /// The token for exactly this endpoint's origin.
    pub token: Option<Token>,
    /// Send nothing, fail with [`crate::Error::Offline`].
    pub offline: bool,
    /// Whether the proxies that the environment names are used.
    pub proxies: bool,
}

/// The bytes of a file, from the server that holds them.
pub struct Body {
    /// Offset of the first byte: that of the range, or 0 when the server sends the whole file instead.
    pub from: u64,
    /// Offset after the last byte; `from` when the answer was neither that range nor the whole file.
    pub to: u64,
    /// Length of the whole file as the server says now.
    pub size: u64,
    /// For `If-Range` of a later request; none when the server gives no strong validator.
    pub validator: Option<Validator>,
    /// The bytes. The last one is the last of the range, or of the file when the server sends the whole file; a stream
    /// that ends before it ends with [`crate::Error::Unreachable`].
    pub stream: BoxStream<'static, Result<Bytes>>,
}

/// A client of one hub. Cheap to make and to clone: connections, and certificates where they are needed, come with the
/// first request.
#[derive(Clone, Debug)]
pub struct HubClient {
    http: Arc<Http>,
    endpoint: Arc<str>,
}

impl HubClient {
    /// A client; no request is sent.
    ///
    /// # Errors
    /// [`crate::Error::BadAnswer`] when the endpoint is no http or https address.
    pub fn new(options: HubOptions) -> Result<Self> {
        let http = Http::new(options)?;
        let endpoint = http.endpoint().as_str().trim_end_matches('/').into();
        Ok(Self { http: Arc::new(http), endpoint })
    }

    /// The base address, without credentials and trailing slash.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// What `revision` (or the default branch) of a model repository means now.
    ///
    /// # Errors
    /// By what the user can do: not found, sign in, gated, rate-limited, offline, unreachable, bad answer.
    pub async fn repository(&self, id: &str, revision: Option<&str>) -> Result<Repository> {
        listing::repository(&self.http, id, revision).await.map_err(|error| self.http.masked(error))
    }

    /// The complete listing of `repository` at its commit.
    ///
    /// # Errors
    /// As [`Self::repository`].
    pub async fn listing(&self, repository: &Repository) -> Result<Listing> {
        listing::listing(&self.http, repository).await.map_err(|error| self.http.masked(error))
    }

    /// Opens the bytes `range` of `file` at `commit`. Redirects are followed (the token never leaves the endpoint's
    /// origin); the identity that the hub states is compared with the listing's digest and size, and the answer to a
    /// range is checked: anything but a correct 206 gives a body from 0.
    ///
    /// Nothing is tried again here: [`crate::Error::Unreachable`] and [`crate::Error::RateLimited`] are worth another
    /// call, which asks the hub for a fresh address.
    ///
    /// # Errors
    /// [`crate::Error::Changed`] when the hub states another identity than `file` has, else as [`Self::repository`].
    pub async fn open(
        &self,
        repository: &str,
        commit: &str,
        file: &RemoteFile,
        range: Range<u64>,
        validator: Option<&Validator>,
    ) -> Result<Body> {
        self.masked(body::open(&self.http, repository, commit, file, range, validator, None).await)
    }

    /// [`Self::open`] for one of several parts of a file that share what is known of where its bytes lie. An answer with
    /// bytes that were not asked for gives an empty body here, and one with another validator gives that.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub async fn open_at(
        &self,
        repository: &str,
        commit: &str,
        file: &RemoteFile,
        range: Range<u64>,
        validator: Option<&Validator>,
        address: &Address,
    ) -> Result<Body> {
        self.masked(body::open(&self.http, repository, commit, file, range, validator, Some(address)).await)
    }

    fn masked(&self, body: Result<Body>) -> Result<Body> {
        let mut body = body.map_err(|error| self.http.masked(error))?;
        let http = Arc::clone(&self.http);
        body.stream = body.stream.map_err(move |error| http.masked(error)).boxed();
        Ok(body)
    }

    /// Models whose id has every word of the query, most downloaded first.
    ///
    /// # Errors
    /// As [`Self::repository`].
    pub async fn search(&self, query: &SearchQuery) -> Result<Vec<SearchHit>> {
        let found = search::search(&self.http, query, false).await.map_err(|error| self.http.masked(error))?;
        Ok(found.into_iter().map(|(hit, _)| hit).collect())
    }

    /// As [`Self::search`], with the paths of each hit's files; paths that are not safe are left out.
    ///
    /// # Errors
    /// As [`Self::repository`].
    pub async fn search_with_files(&self, query: &SearchQuery) -> Result<Vec<(SearchHit, Vec<RepoPath>)>> {
        search::search(&self.http, query, true).await.map_err(|error| self.http.masked(error))
    }
}
