//! A hub on loopback whose faults are data.
//!
//! [`TestHub`] is the program's own mirror over a temporary folder, with a layer around both of its origins that
//! records every request and plays the faults that a test orders.

use std::fmt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use rbee_hive::hub::{HubClient, HubOptions, Token};
use rbee_hive::mirror::{Account, Facts, Folder, Mirror, Options, Origin};
use tempfile::TempDir;
use tokio::sync::watch;

/// A hub for tests. Everything ends when it is dropped.
pub struct TestHub {
    mirror: Mirror,
    folder: Arc<Folder>,
    root: TempDir,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    faults: Mutex<Vec<Fault>>,
    seen: Mutex<Vec<Seen>>,
    changed: watch::Sender<()>,
}

/// A request as it arrived.
#[derive(Clone, Debug)]
pub struct Seen {
    pub origin: Origin,
    pub method: Method,
    /// Path and query, as sent.
    pub target: String,
    pub authorization: Option<String>,
    pub range: Option<String>,
    pub if_range: Option<String>,
    pub accept_encoding: Option<String>,
    /// Status of the answer; 0 while there is none.
    pub status: u16,
    /// Bytes of the body that were handed to the connection so far.
    pub sent: Arc<AtomicU64>,
}

impl Seen {
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::SeqCst)
    }
}

/// A fault, and the requests that it meets.
#[derive(Clone, Debug)]
pub struct Fault {
    origin: Option<Origin>,
    part: String,
    skip: usize,
    times: usize,
    what: What,
}

impl Fault {
    /// For the next request to any origin whose path and query contain `part`.
    pub fn on(part: &str, what: What) -> Self {
        Self { origin: None, part: part.to_owned(), skip: 0, times: 1, what }
    }

    /// Only at the origin of the API.
    pub fn at_hub(mut self) -> Self {
        self.origin = Some(Origin::Hub);
        self
    }

    /// Only at the origin of the bytes of large files.
    pub fn at_bytes(mut self) -> Self {
        self.origin = Some(Origin::Bytes);
        self
    }

    /// Lets the first `count` matching requests through.
    pub fn after(mut self, count: usize) -> Self {
        self.skip = count;
        self
    }

    /// Meets so many requests instead of one.
    pub fn times(mut self, count: usize) -> Self {
        self.times = count;
        self
    }

    /// Whether nothing tells that nothing more comes.
    pub fn is_silent(&self) -> bool {
        matches!(self.what, What::Stall(_) | What::Silence)
    }

    /// Meets every matching request.
    pub fn always(self) -> Self {
        self.times(usize::MAX)
    }
}

/// What goes wrong.
#[derive(Clone)]
pub enum What {
    /// The connection breaks after so many bytes of the body.
    Reset(u64),
    /// Nothing more comes after so many bytes of the body; the connection stays open.
    Stall(u64),
    /// No answer at all; the connection stays open.
    Silence,
    /// Another answer: status, headers, body.
    Answer(u16, Vec<(&'static str, String)>, String),
    /// `Range` and `If-Range` are ignored.
    NoRange,
    /// `If-Range` is ignored: the range is sent whatever the file is now.
    NoIfRange,
    /// A header of the answer is put (or, with `None`, taken away).
    Header(&'static str, Option<String>),
    /// The body has this length, and says so: cut off, or padded with zeros.
    Length(u64),
    /// The body says that it has this length and ends when it ends.
    LyingLength(u64),
    /// A redirect to that address with that status.
    Redirect(u16, String),
    /// A redirect to itself.
    RedirectLoop,
    /// The body comes at so many bytes per second.
    Slow(u64),
    /// Other bytes under the same address, with another `ETag`; ranges and `If-Range` work.
    Replaced(Vec<u8>),
    /// These bytes, without saying how many they are.
    Chunked(Vec<u8>),
    /// The bytes from this offset of the body on are inverted; length and headers stay.
    Damaged(u64),
}

impl What {
    /// A status with the text that a proxy would send.
    pub fn status(status: u16) -> Self {
        Self::Answer(status, Vec::new(), format!("error {status}"))
    }

    /// The login page of a captive portal.
    pub fn html() -> Self {
        let headers = vec![("content-type", "text/html; charset=utf-8".to_owned())];
        Self::Answer(200, headers, "<!DOCTYPE html><html><body>Please log in to this network</body></html>".to_owned())
    }

    /// A successful JSON answer with this text.
    pub fn json(text: &str) -> Self {
        Self::Answer(200, vec![("content-type", "application/json".to_owned())], text.to_owned())
    }
}

impl fmt::Debug for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Reset(_) => "Reset",
            Self::Stall(_) => "Stall",
            Self::Silence => "Silence",
            Self::Answer(..) => "Answer",
            Self::NoRange => "NoRange",
            Self::NoIfRange => "NoIfRange",
            Self::Header(..) => "Header",
            Self::Length(_) => "Length",
            Self::LyingLength(_) => "LyingLength",
            Self::Redirect(..) => "Redirect",
            Self::RedirectLoop => "RedirectLoop",
            Self::Slow(_) => "Slow",
            Self::Replaced(_) => "Replaced",
            Self::Chunked(_) => "Chunked",
            Self::Damaged(_) => "Damaged",
        })
    }
}

impl TestHub {
    /// A hub without repositories; files of 4 KiB and more are large.
    pub async fn start() -> Self {
        Self::with(Options { large_from: 4096, ..Options::default() }).await
    }

    /// A hub that serves by `options`.
    pub async fn with(options: Options) -> Self {
        let root = tempfile::tempdir().unwrap();
        let folder = Arc::new(Folder::new(root.path().to_owned()));
        let state = Arc::new(State::default());
        let layers = Arc::clone(&state);
        let content: Arc<Folder> = Arc::clone(&folder);
        let mirror = Mirror::start_wrapped(content, options, move |origin, router| layered(router, origin, &layers))
            .await
            .unwrap();
        Self { mirror, folder, root, state }
    }

    /// A hub that answers only who sends `token`; it has no access to gated repositories.
    pub async fn with_token(token: &str) -> Self {
        let account = Account { token: Token::new(token).unwrap(), gated: false };
        Self::with(Options { large_from: 4096, accounts: vec![account], anonymous: false, ..Options::default() }).await
    }

    pub fn endpoint(&self) -> String {
        self.mirror.endpoint()
    }

    /// The ports of both origins.
    pub fn ports(&self) -> Vec<u16> {
        [Some(self.mirror.address()), self.mirror.bytes_address()].into_iter().flatten().map(|at| at.port()).collect()
    }

    /// The folder `org/name/…` that is served.
    pub fn root(&self) -> &Path {
        self.root.path()
    }

    /// A client without token.
    pub fn client(&self) -> HubClient {
        self.client_with(None)
    }

    /// A client with that token.
    pub fn client_with(&self, token: Option<&str>) -> HubClient {
        HubClient::new(HubOptions {
            endpoint: self.endpoint(),
            token: token.map(|token| Token::new(token).unwrap()),
            offline: false,
            proxies: false,
        })
        .unwrap()
    }

    /// Puts a file into a repository, in place of what was there.
    pub fn put(&self, repository: &str, path: &str, bytes: &[u8]) -> PathBuf {
        let file = self.root.path().join(repository).join(path);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        // A new inode, so that a file that is replaced within one tick of the clock is seen as another one.
        let fresh = file.with_file_name(".fresh");
        std::fs::write(&fresh, bytes).unwrap();
        std::fs::rename(&fresh, &file).unwrap();
        file
    }

    /// Puts a file of `size` bytes that no compression or constant would give, and returns them.
    pub fn put_noise(&self, repository: &str, path: &str, size: usize) -> Vec<u8> {
        let bytes = noise(size, path);
        self.put(repository, path, &bytes);
        bytes
    }

    /// Tells `facts` of a repository.
    pub fn set_facts(&self, repository: &str, facts: Facts) {
        self.folder.set_facts(repository, facts);
    }

    /// Orders a fault. Of several that match a request, the one ordered first meets it.
    pub fn fault(&self, fault: Fault) {
        self.state.faults.lock().unwrap().push(fault);
    }

    pub fn clear_faults(&self) {
        self.state.faults.lock().unwrap().clear();
    }

    /// Every request so far, in order of arrival.
    pub fn seen(&self) -> Vec<Seen> {
        self.state.seen.lock().unwrap().clone()
    }

    /// Forgets the requests so far.
    pub fn forget(&self) {
        self.state.seen.lock().unwrap().clear();
    }

    /// Number of requests whose path and query contain `part`.
    pub fn count(&self, part: &str) -> usize {
        self.seen().iter().filter(|seen| seen.target.contains(part)).count()
    }

    /// Bytes of files (not of API answers) that were handed to connections so far.
    pub fn file_bytes_sent(&self) -> u64 {
        self.seen()
            .iter()
            .filter(|seen| !seen.target.starts_with("/api/") && matches!(seen.status, 200 | 206))
            .map(Seen::sent)
            .sum()
    }

    /// Waits until `condition` holds for the requests so far; looks again at each request, answer and piece of a body.
    pub async fn wait_for(&self, condition: impl Fn(&[Seen]) -> bool) {
        let mut changed = self.state.changed.subscribe();
        let wait = async {
            while !condition(&self.seen()) {
                changed.changed().await.unwrap();
            }
        };
        tokio::time::timeout(Duration::from_secs(60), wait).await.expect("what was waited for did not come");
    }
}

/// Bytes that look random and are the same for the same seed.
pub fn noise(size: usize, seed: &str) -> Vec<u8> {
    let mut state = seed
        .bytes()
        .fold(0x9e37_79b9_7f4a_7c15_u64, |state, byte| (state ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(size);
    bytes
}

fn layered(router: Router, origin: Origin, state: &Arc<State>) -> Router {
    let state = Arc::clone(state);
    router.layer(middleware::from_fn(move |request: Request, next: Next| {
        let state = Arc::clone(&state);
        async move { state.answer(origin, request, next).await }
    }))
}

impl State {
    /// The first fault for this request, counted down.
    fn fault_for(&self, origin: Origin, target: &str) -> Option<What> {
        let mut faults = self.faults.lock().unwrap();
        for fault in faults.iter_mut() {
            if fault.origin.is_some_and(|only| only != origin) || !target.contains(&fault.part) {
                continue;
            }
            if fault.skip > 0 {
                fault.skip -= 1;
            } else if fault.times > 0 {
                fault.times -= 1;
                return Some(fault.what.clone());
            }
        }
        None
    }

    fn record(&self, origin: Origin, request: &Request) -> (usize, Arc<AtomicU64>) {
        let text = |name: HeaderName| {
            request.headers().get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
        };
        let sent = Arc::new(AtomicU64::new(0));
        let mut seen = self.seen.lock().unwrap();
        seen.push(Seen {
            origin,
            method: request.method().clone(),
            target: request.uri().to_string(),
            authorization: text(header::AUTHORIZATION),
            range: text(header::RANGE),
            if_range: text(header::IF_RANGE),
            accept_encoding: text(header::ACCEPT_ENCODING),
            status: 0,
            sent: Arc::clone(&sent),
        });
        let index = seen.len() - 1;
        drop(seen);
        self.changed.send_replace(());
        (index, sent)
    }

    async fn answer(self: &Arc<Self>, origin: Origin, mut request: Request, next: Next) -> Response {
        let (index, sent) = self.record(origin, &request);
        let target = request.uri().to_string();
        let range = request.headers().get(header::RANGE).cloned();
        let if_range = request.headers().get(header::IF_RANGE).cloned();
        let what = self.fault_for(origin, &target);
        let response = match what {
            None => next.run(request).await,
            Some(What::Silence) => std::future::pending().await,
            Some(What::Answer(status, headers, body)) => {
                let mut response = (StatusCode::from_u16(status).unwrap(), body).into_response();
                for (name, value) in headers {
                    response.headers_mut().insert(name, HeaderValue::from_str(&value).unwrap());
                }
                response
            }
            Some(What::Redirect(status, to)) => redirect(status, &to),
            Some(What::RedirectLoop) => redirect(302, &target),
            Some(What::Replaced(bytes)) => replaced(bytes, range.as_ref(), if_range.as_ref()),
            Some(What::NoRange) => {
                request.headers_mut().remove(header::RANGE);
                request.headers_mut().remove(header::IF_RANGE);
                next.run(request).await
            }
            Some(What::NoIfRange) => {
                request.headers_mut().remove(header::IF_RANGE);
                next.run(request).await
            }
            Some(What::Header(name, value)) => {
                let mut response = next.run(request).await;
                match value {
                    Some(value) => response.headers_mut().insert(name, HeaderValue::from_str(&value).unwrap()),
                    None => response.headers_mut().remove(name),
                };
                response
            }
            Some(what) => broken(next.run(request).await, what).await,
        };
        if let Some(seen) = self.seen.lock().unwrap().get_mut(index) {
            seen.status = response.status().as_u16();
        }
        self.changed.send_replace(());
        let state = Arc::clone(self);
        response.map(|body| {
            let pieces = body.into_data_stream().inspect(move |piece| {
                if let Ok(piece) = piece {
                    sent.fetch_add(piece.len() as u64, Ordering::SeqCst);
                }
                state.changed.send_replace(());
            });
            Body::from_stream(pieces)
        })
    }
}

fn redirect(status: u16, to: &str) -> Response {
    let status = StatusCode::from_u16(status).unwrap();
    (status, [(header::LOCATION, to.to_owned())], "Redirecting").into_response()
}

fn replaced(bytes: Vec<u8>, range: Option<&HeaderValue>, if_range: Option<&HeaderValue>) -> Response {
    let etag = format!("\"replaced-{}\"", bytes.len());
    let same = if_range.is_none_or(|value| value.as_bytes() == etag.as_bytes());
    let asked = range.filter(|_| same).map(|range| {
        let range = range.to_str().unwrap().strip_prefix("bytes=").unwrap().split_once('-').unwrap();
        let first: usize = range.0.parse().unwrap();
        (first, range.1.parse().map_or(bytes.len(), |last: usize| bytes.len().min(last + 1)))
    });
    let total = bytes.len();
    let mut response = match asked {
        Some((first, end)) if first < end => {
            let mut response = (StatusCode::PARTIAL_CONTENT, bytes[first..end].to_vec()).into_response();
            let value = format!("bytes {first}-{}/{total}", end - 1);
            response.headers_mut().insert(header::CONTENT_RANGE, HeaderValue::from_str(&value).unwrap());
            response
        }
        _ => bytes.into_response(),
    };
    response.headers_mut().insert(header::ETAG, HeaderValue::from_str(&etag).unwrap());
    response
}

type Pieces = Pin<Box<dyn Stream<Item = Result<Bytes, axum::Error>> + Send>>;

async fn broken(response: Response, what: What) -> Response {
    let (mut head, body) = response.into_parts();
    let length = |value: u64| HeaderValue::from_str(&value.to_string()).unwrap();
    let body = match what {
        What::Reset(count) => {
            let error = axum::Error::new(std::io::Error::other("the connection is cut by the test"));
            // The server sends what it has when the body makes it wait, and drops it when the body fails.
            let cut = async {
                tokio::time::sleep(Duration::from_millis(10)).await;
                Err(error)
            };
            let pieces = first(body, count).chain(stream::once(cut));
            Body::from_stream(pieces)
        }
        What::Stall(count) => Body::from_stream(first(body, count).chain(stream::pending())),
        What::Slow(rate) => {
            let pieces = body.into_data_stream().flat_map(|piece| {
                let pieces: Vec<_> = match piece {
                    Ok(piece) => piece.chunks(1024).map(|part| Ok(Bytes::copy_from_slice(part))).collect(),
                    Err(error) => vec![Err(error)],
                };
                stream::iter(pieces)
            });
            Body::from_stream(pieces.then(move |piece| async move {
                let size = piece.as_ref().map_or(0, Bytes::len);
                tokio::time::sleep(Duration::from_secs_f64(size as f64 / rate as f64)).await;
                piece
            }))
        }
        What::Length(count) => {
            let mut bytes = to_bytes(body, usize::MAX).await.unwrap().to_vec();
            bytes.resize(usize::try_from(count).unwrap(), 0);
            head.headers.insert(header::CONTENT_LENGTH, length(count));
            Body::from(bytes)
        }
        What::LyingLength(count) => {
            head.headers.insert(header::CONTENT_LENGTH, length(count));
            let end = stream::once(tokio::time::sleep(Duration::from_millis(10))).map(|()| Ok(Bytes::new()));
            Body::from_stream(body.into_data_stream().chain(end))
        }
        What::Chunked(bytes) => {
            head.headers.remove(header::CONTENT_LENGTH);
            Body::from_stream(stream::iter([Ok::<_, axum::Error>(Bytes::from(bytes))]))
        }
        What::Damaged(from) => {
            let mut bytes = to_bytes(body, usize::MAX).await.unwrap().to_vec();
            for byte in bytes.iter_mut().skip(usize::try_from(from).unwrap()) {
                *byte = !*byte;
            }
            Body::from(bytes)
        }
        other => panic!("{other:?} is no fault of a body"),
    };
    Response::from_parts(head, body)
}

/// The first `count` bytes of a body.
fn first(body: Body, count: u64) -> Pieces {
    let left = (count, body.into_data_stream());
    Box::pin(stream::unfold(left, |(left, mut pieces)| async move {
        if left == 0 {
            return None;
        }
        let mut piece = match pieces.next().await? {
            Ok(piece) => piece,
            Err(error) => return Some((Err(error), (0, pieces))),
        };
        piece.truncate(usize::try_from(left).unwrap_or(usize::MAX));
        let left = left - piece.len() as u64;
        Some((Ok(piece), (left, pieces)))
    }))
}
