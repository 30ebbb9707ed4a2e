//! The two origins of a mirror.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::api::{self, Query};
use super::content::Gate;
use super::library::{Entry, Library, Snapshot};
use super::signature::{Signer, same};
use super::{Content, answer, bytes};
use crate::error::{Error, Result};
use crate::hub::Token;

/// Largest body of a request that is read.
const LARGEST_REQUEST: usize = 1 << 20;

/// What stays as it is in a part of a path (RFC 3986, unreserved).
const PART: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// What a call gives: a value, or the answer that ends it early.
type Answered<T> = std::result::Result<T, Box<Response>>;

/// Ends a call early.
fn refuse<T>(response: impl IntoResponse) -> Answered<T> {
    Err(Box::new(response.into_response()))
}

/// One of the two servers of a mirror.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Origin {
    /// The API and small files; the only one that gets tokens.
    Hub,
    /// The bytes of large files.
    Bytes,
}

/// Who may call a mirror.
#[derive(Clone, Debug)]
pub struct Account {
    /// Its token.
    pub token: Token,
    /// Whether it has access to gated repositories.
    pub gated: bool,
}

/// How a mirror serves.
#[derive(Clone, Debug)]
pub struct Options {
    /// Address of the first origin; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Whether large files come from a second origin (a free port of the same address).
    pub second_origin: bool,
    /// From this size on a file is large: its digest is SHA-256 and it is redirected.
    pub large_from: u64,
    /// Rows on a page of the tree or of a search, at most.
    pub page: usize,
    /// Who is known. With nobody known, tokens are ignored.
    pub accounts: Vec<Account>,
    /// Whether calls without token are answered.
    pub anonymous: bool,
    /// Bytes per second of each connection; `None` is no limit.
    pub rate: Option<u64>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            second_origin: true,
            large_from: 1 << 20,
            page: 1000,
            accounts: Vec::new(),
            anonymous: true,
            rate: None,
        }
    }
}

/// A running mirror. Dropping it stops it; connections that are open are cut with the runtime they run on.
#[derive(Debug)]
pub struct Mirror {
    hub: SocketAddr,
    bytes: Option<SocketAddr>,
    stop: CancellationToken,
}

impl Mirror {
    /// Starts to serve `content`.
    ///
    /// # Errors
    /// [`Error::Io`] when the address cannot be listened on.
    pub async fn start(content: Arc<dyn Content>, options: Options) -> Result<Self> {
        Self::start_wrapped(content, options, |_, router| router).await
    }

    /// [`Self::start`], with something around each origin's router: a log, a fault.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn start_wrapped(
        content: Arc<dyn Content>,
        options: Options,
        wrap: impl Fn(Origin, Router) -> Router,
    ) -> Result<Self> {
        let hub_listener = listen(options.listen).await?;
        let hub = local_address(&hub_listener)?;
        let bytes_listener = match options.second_origin {
            true => Some(listen(SocketAddr::new(options.listen.ip(), 0)).await?),
            false => None,
        };
        let bytes = bytes_listener.as_ref().map(local_address).transpose()?;
        let stop = CancellationToken::new();
        let shared = Arc::new(Shared {
            library: Library::new(content, options.large_from),
            signer: Signer::new()?,
            hub,
            bytes,
            options,
        });
        let router = Router::new().fallback(answer_hub).with_state(Arc::clone(&shared));
        serve(hub_listener, wrap(Origin::Hub, router), stop.clone());
        if let Some(listener) = bytes_listener {
            let router = Router::new().fallback(answer_bytes).with_state(shared);
            serve(listener, wrap(Origin::Bytes, router), stop.clone());
        }
        Ok(Self { hub, bytes, stop })
    }

    /// The base address for clients on this host.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.hub)
    }

    /// Where the first origin listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.hub
    }

    /// Where the second origin listens.
    #[must_use]
    pub fn bytes_address(&self) -> Option<SocketAddr> {
        self.bytes
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn listen(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).await.map_err(Error::io("listen on", address.to_string()))
}

fn local_address(listener: &TcpListener) -> Result<SocketAddr> {
    listener.local_addr().map_err(Error::io("listen on", "the mirror's address"))
}

fn serve(listener: TcpListener, router: Router, stop: CancellationToken) {
    tokio::spawn(async move {
        let stopped = stop.clone();
        let server = axum::serve(listener, router).with_graceful_shutdown(async move { stopped.cancelled().await });
        if let Err(error) = server.await {
            tracing::error!("mirror: {error}");
        }
    });
}

struct Shared {
    library: Library,
    signer: Signer,
    hub: SocketAddr,
    bytes: Option<SocketAddr>,
    options: Options,
}

/// Who calls.
enum Caller<'a> {
    Anonymous,
    Known(&'a Account),
    /// A token was sent, and this mirror asks for none.
    Ignored,
}

impl Shared {
    fn caller(&self, headers: &HeaderMap) -> Answered<Caller<'_>> {
        let accounts = &self.options.accounts;
        match headers.get(header::AUTHORIZATION) {
            None if self.options.anonymous => Ok(Caller::Anonymous),
            None => refuse(answer::refusal(StatusCode::UNAUTHORIZED, None, "This mirror answers only to a token")),
            Some(_) if accounts.is_empty() && self.options.anonymous => Ok(Caller::Ignored),
            Some(value) => {
                let token = value.as_bytes().strip_prefix(b"Bearer ").unwrap_or_default();
                accounts
                    .iter()
                    .find(|account| same(account.token.secret().as_bytes(), token))
                    .map(Caller::Known)
                    .ok_or_else(|| {
                        let message = "Invalid credentials in Authorization header";
                        Box::new(answer::refusal(StatusCode::UNAUTHORIZED, None, message))
                    })
            }
        }
    }

    /// `http://host:port` as the client knows this origin.
    fn own_address(&self, headers: &HeaderMap) -> String {
        let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
        format!("http://{}", host.map_or_else(|| self.hub.to_string(), str::to_owned))
    }

    /// The same host name with the port of the second origin.
    fn bytes_address(&self, headers: &HeaderMap) -> Option<String> {
        let port = self.bytes?.port();
        let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
        let name =
            host.map(|host| host.rsplit_once(':').filter(|(_, port)| !port.ends_with(']')).map_or(host, |(n, _)| n));
        Some(format!("http://{}:{port}", name.map_or_else(|| self.hub.ip().to_string(), str::to_owned)))
    }
}

/// Runs work that blocks on the disk.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Answered<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => refuse(answer::internal(&error)),
        Err(_) => refuse(StatusCode::INTERNAL_SERVER_ERROR),
    }
}

/// The parts of a path, decoded; `None` when one is not UTF-8.
fn parts(uri: &Uri) -> Option<Vec<String>> {
    let path = uri.path().strip_prefix('/')?;
    path.split('/').map(|part| percent_decode_str(part).decode_utf8().ok().map(Cow::into_owned)).collect()
}

async fn answer_hub(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    hub(&shared, request).await.unwrap_or_else(|refusal| *refusal)
}

async fn hub(shared: &Arc<Shared>, request: Request) -> Answered<Response> {
    let (head, body) = request.into_parts();
    let caller = shared.caller(&head.headers)?;
    let query = Query::parse(head.uri.query());
    let parts = parts(&head.uri).ok_or_else(|| Box::new(StatusCode::BAD_REQUEST.into_response()))?;
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    let here = || format!("{}{}", shared.own_address(&head.headers), head.uri.path());
    let reads = matches!(head.method, Method::GET | Method::HEAD);
    match parts[..] {
        ["api", "models"] if reads => {
            let (shared, here) = (Arc::clone(shared), here());
            blocking(move || api::search(&shared.library, &query, shared.options.page, &here)).await
        }
        ["api", "models", org, name] if reads => {
            let snapshot = snapshot(shared, org, name, &head.uri).await?;
            Ok(api::info(&snapshot, &query))
        }
        ["api", "models", org, name, "revision", revision] if reads => {
            let snapshot = at(snapshot(shared, org, name, &head.uri).await?, revision)?;
            Ok(api::info(&snapshot, &query))
        }
        ["api", "models", org, name, "tree", revision, ref folder @ ..] if reads => {
            let snapshot = at(snapshot(shared, org, name, &head.uri).await?, revision)?;
            Ok(api::tree(&snapshot, &folder.join("/"), &query, shared.options.page, &here()))
        }
        ["api", "models", org, name, "refs"] if reads => Ok(api::refs(&snapshot(shared, org, name, &head.uri).await?)),
        ["api", "models", org, name, "paths-info", revision] if head.method == Method::POST => {
            let snapshot = at(snapshot(shared, org, name, &head.uri).await?, revision)?;
            let body = read(body).await?;
            Ok(api::paths_info(&snapshot, &body))
        }
        [org, name, "resolve", revision, ref path @ ..] if reads && !path.is_empty() => {
            let snapshot = at(snapshot(shared, org, name, &head.uri).await?, revision)?;
            resolve(shared, &snapshot, &path.join("/"), &caller, &head).await
        }
        _ if !reads => refuse(StatusCode::METHOD_NOT_ALLOWED),
        _ => refuse(answer::refusal(StatusCode::NOT_FOUND, None, "Not found")),
    }
}

async fn read(body: Body) -> Answered<::bytes::Bytes> {
    to_bytes(body, LARGEST_REQUEST).await.map_err(|_| Box::new(StatusCode::PAYLOAD_TOO_LARGE.into_response()))
}

/// The repository, or a redirect to its own spelling, or that there is none.
async fn snapshot(shared: &Arc<Shared>, org: &str, name: &str, uri: &Uri) -> Answered<Snapshot> {
    let id = format!("{org}/{name}");
    let library = Arc::clone(shared);
    let asked = id.clone();
    let found = blocking(move || {
        Ok(match library.library.canonical(&asked)? {
            Some(own) if own != asked => Err(own),
            Some(own) => Ok(library.library.snapshot(&own)?),
            None => Ok(None),
        })
    })
    .await?;
    match found {
        Ok(Some(snapshot)) => Ok(snapshot),
        Ok(None) => refuse(answer::repository_not_found()),
        Err(own) => {
            let location = uri.to_string().replacen(&id, &own, 1);
            let mut response = StatusCode::TEMPORARY_REDIRECT.into_response();
            answer::insert(&mut response, "location", &location);
            refuse(response)
        }
    }
}

fn at(snapshot: Snapshot, revision: &str) -> Answered<Snapshot> {
    if snapshot.answers_to(revision) { Ok(snapshot) } else { refuse(answer::revision_not_found(revision)) }
}

async fn resolve(
    shared: &Arc<Shared>,
    snapshot: &Snapshot,
    path: &str,
    caller: &Caller<'_>,
    head: &Parts,
) -> Answered<Response> {
    check_gate(snapshot, caller)?;
    let Some(file) = snapshot.file(path) else { return refuse(answer::entry_not_found(&snapshot.commit)) };
    let mut response = match (file.is_large(), shared.bytes_address(&head.headers)) {
        (true, Some(address)) => {
            let path = bytes_path(&snapshot.summary.id, file);
            let location = format!("{address}{path}?{}", shared.signer.query(&path));
            let mut response = (StatusCode::FOUND, "Found. Redirecting").into_response();
            answer::insert(&mut response, "location", &location);
            answer::insert(&mut response, "accept-ranges", "bytes");
            response
        }
        _ => {
            let etag = if file.is_large() { storage_hash(file) } else { file.digest.to_string() };
            send(shared, &snapshot.summary.id, file, &etag, &head.method, &head.headers).await?
        }
    };
    answer::insert(&mut response, "x-repo-commit", &snapshot.commit);
    if file.is_large() {
        answer::insert(&mut response, "x-linked-etag", &format!("\"{}\"", file.digest));
        answer::insert(&mut response, "x-linked-size", &file.size.to_string());
    }
    Ok(response)
}

fn check_gate(snapshot: &Snapshot, caller: &Caller<'_>) -> Answered<()> {
    let message = || format!("Access to model {} is restricted. You must have access to it.", snapshot.summary.id);
    match (snapshot.summary.facts.gate, caller) {
        (Gate::Open, _) => Ok(()),
        (_, Caller::Known(account)) if account.gated => Ok(()),
        (_, Caller::Known(_)) => refuse(answer::refusal(StatusCode::FORBIDDEN, Some("GatedRepo"), &message())),
        (_, Caller::Anonymous | Caller::Ignored) => {
            refuse(answer::refusal(StatusCode::UNAUTHORIZED, Some("GatedRepo"), &message()))
        }
    }
}

/// The address of a large file on the second origin: repository and digest say what is meant, the path how to open it.
fn bytes_path(id: &str, file: &Entry) -> String {
    id.split('/').chain([storage_hash(file).as_str()]).chain(file.path.parts()).fold(
        String::from("/bytes"),
        |mut path, part| {
            path.push('/');
            path.extend(utf8_percent_encode(part, PART));
            path
        },
    )
}

/// A name for stored bytes that is, as on the hub, 64 digits and not their SHA-256.
fn storage_hash(file: &Entry) -> String {
    use sha2::{Digest as _, Sha256};
    crate::model::Digest::Sha256(Sha256::digest(format!("stored {}", file.digest)).into()).to_string()
}

async fn answer_bytes(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let (head, _) = request.into_parts();
    bytes_of(&shared, &head).await.unwrap_or_else(|refusal| *refusal)
}

async fn bytes_of(shared: &Arc<Shared>, head: &Parts) -> Answered<Response> {
    if !matches!(head.method, Method::GET | Method::HEAD) {
        return refuse(StatusCode::METHOD_NOT_ALLOWED);
    }
    if head.headers.contains_key(header::AUTHORIZATION) {
        let message = "Only one auth mechanism allowed";
        return refuse((StatusCode::BAD_REQUEST, message));
    }
    let denied = || Box::new((StatusCode::FORBIDDEN, "<Error><Code>AccessDenied</Code></Error>").into_response());
    let query = Query::parse(head.uri.query());
    let (Some(expires), Some(signature)) = (query.get("Expires"), query.get("Signature")) else {
        return Err(denied());
    };
    if !shared.signer.accepts(head.uri.path(), expires, signature) {
        return Err(denied());
    }
    let parts = parts(&head.uri).ok_or_else(denied)?;
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    let ["bytes", org, name, stored, ref path @ ..] = parts[..] else { return Err(denied()) };
    let gone = || Box::new((StatusCode::NOT_FOUND, "<Error><Code>NoSuchKey</Code></Error>").into_response());
    let snapshot = snapshot(shared, org, name, &head.uri).await?;
    let file = snapshot.file(&path.join("/")).filter(|file| storage_hash(file) == stored).ok_or_else(gone)?;
    send(shared, &snapshot.summary.id, file, stored, &head.method, &head.headers).await
}

async fn send(
    shared: &Arc<Shared>,
    id: &str,
    file: &Entry,
    etag: &str,
    method: &Method,
    headers: &HeaderMap,
) -> Answered<Response> {
    let (library, id, path) = (Arc::clone(shared), id.to_owned(), file.path.clone());
    let opened = blocking(move || {
        let opened = library.library.content().open(&id, &path)?;
        let size = opened.metadata().map_err(Error::io("read", path.as_str()))?.len();
        Ok((opened, size))
    })
    .await;
    let (opened, size) = opened?;
    if size != file.size {
        return refuse(StatusCode::SERVICE_UNAVAILABLE);
    }
    Ok(bytes::send(opened, size, etag, method, headers, shared.options.rate).await)
}
