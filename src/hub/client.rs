//! The HTTP client: requests, redirects, tokens, errors.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::BoxStream;

use super::{Listing, Repository, SearchHit, SearchQuery, Token};
use crate::error::Result;
use crate::model::{RemoteFile, Validator};

/// How to reach a hub.
#[derive(Clone, Debug)]
pub struct HubOptions {
    /// Base address, `https://huggingface.co` if nothing else is said; a path prefix is kept.
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
    /// Length of the whole file as the server says now.
    pub size: u64,
    /// For `If-Range` of a later request; none when the server gives no strong validator.
    pub validator: Option<Validator>,
    /// The bytes. Ends early without error only if the server lies about the length.
    pub stream: BoxStream<'static, Result<Bytes>>,
}

/// A client of one hub. Cheap to clone.
#[derive(Clone, Debug)]
pub struct HubClient {
    _inner: Arc<()>,
}

impl HubClient {
    /// A client; no request is sent.
    ///
    /// # Errors
    /// [`crate::Error::BadAnswer`] when the endpoint is no http or https address.
    pub fn new(_options: HubOptions) -> Result<Self> {
        todo!()
    }

    /// The base address, without credentials and trailing slash.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        todo!()
    }

    /// What `revision` (or the default branch) of a model repository means now.
    ///
    /// # Errors
    /// By what the user can do: not found, sign in, gated, rate-limited, offline, unreachable, bad answer.
    pub async fn repository(&self, _id: &str, _revision: Option<&str>) -> Result<Repository> {
        todo!()
    }

    /// The complete listing of `repository` at its commit.
    ///
    /// # Errors
    /// As [`Self::repository`].
    pub async fn listing(&self, _repository: &Repository) -> Result<Listing> {
        todo!()
    }

    /// Opens the bytes `range` of `file` at `commit`. Redirects are followed (the token never leaves the endpoint's
    /// origin); the identity that the hub states is compared with the listing's digest and size, and the answer to a
    /// range is checked: anything but a correct 206 gives a body from 0.
    ///
    /// # Errors
    /// [`crate::Error::Changed`] when the hub states another identity than `file` has, else as [`Self::repository`].
    pub async fn open(
        &self,
        _repository: &str,
        _commit: &str,
        _file: &RemoteFile,
        _range: Range<u64>,
        _validator: Option<&Validator>,
    ) -> Result<Body> {
        todo!()
    }

    /// Models whose id has every word of the query, most downloaded first.
    ///
    /// # Errors
    /// As [`Self::repository`].
    pub async fn search(&self, _query: &SearchQuery) -> Result<Vec<SearchHit>> {
        todo!()
    }
}
