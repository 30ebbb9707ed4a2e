//! Requests: TLS, proxies, redirects by hand, the token rule, bounded answers, retries.

use std::collections::HashSet;
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;
use std::time::Duration;

use reqwest::header::{
    ACCEPT_ENCODING, AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, LOCATION,
};
use reqwest::{Client, Response, redirect};
use rustls_platform_verifier::BuilderVerifierExt as _;
use serde::de::DeserializeOwned;
use tokio::sync::OnceCell;
use tokio::time::{Instant, sleep, timeout};
use url::Url;

use super::refusal::{self, Asked};
use super::{HubOptions, Token, address, secret};
use crate::error::{Error, Result};
use crate::model::{Digest, text};

const CONNECT: Duration = Duration::from_secs(10);
/// Until the headers of an answer are there.
const HEADERS: Duration = Duration::from_secs(30);
/// Between two pieces of an API answer.
const IDLE: Duration = Duration::from_secs(30);
/// Most addresses that one request is sent on to; clients of the hub use 10 to 20.
const MOST_REDIRECTS: usize = 10;
/// Largest API answer that is read: a page of a thousand files takes about 300 KiB.
const LARGEST_ANSWER: usize = 32 << 20;
/// Tries of an API call, and the time that all of them may take before the last one starts; more for what names a
/// repository, which comes before a download, than for what a person looks at.
const TRIES: u32 = 4;
const TRYING: Duration = Duration::from_secs(10);
const TRIES_FOR_A_REPOSITORY: u32 = 10;
const TRYING_A_REPOSITORY: Duration = Duration::from_secs(25);
/// So often an answer that no hub gives is asked for, with short pauses: a proxy may have stumbled, or the address is wrong.
const STRANGE_TRIES: u32 = 3;
const STRANGE_TRIES_FOR_A_REPOSITORY: u32 = 8;
/// So often from the first try on where no connection comes to be: the network may be away, or the address is wrong, and a
/// person waits for the word.
const UNCONNECTED_TRIES: u32 = 4;
/// Until the headers of an answer about a repository are there, the first times: a server that lost a request answers the next one.
const FIRST_HEADERS: Duration = Duration::from_secs(4);
const FIRST_WAITS: u32 = 3;

/// What failed, and whether the same call may succeed in a moment.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) error: Error,
    pub(super) again: bool,
    /// No connection came to be: nobody listens there, or nobody knows the name.
    unconnected: bool,
}

impl Failed {
    pub(super) fn for_good(error: Error) -> Self {
        Self { error, again: false, unconnected: false }
    }

    pub(super) fn for_now(error: Error) -> Self {
        Self { error, again: true, unconnected: false }
    }
}

/// What the endpoint itself said of the file, on any answer of the chain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Stated {
    /// `X-Linked-ETag`, without `W/` and quotes.
    pub(super) etag: Option<String>,
    /// `X-Linked-Size`.
    pub(super) size: Option<u64>,
    /// `X-Repo-Commit`.
    pub(super) commit: Option<String>,
}

/// The last answer of a chain of redirects, whatever its status.
pub(super) struct Answer {
    pub(super) url: Url,
    pub(super) response: Response,
    pub(super) stated: Stated,
}

/// A client that loads certificates not before the first request that needs them.
#[derive(Debug)]
pub(super) struct Http {
    endpoint: Url,
    token: Option<Token>,
    credentials: Option<(String, String)>,
    offline: bool,
    proxies: bool,
    /// For plain http to this host: no certificates, and no proxy that would carry the token away.
    local: OnceCell<Client>,
    remote: OnceCell<Remote>,
}

/// The client for everything else, with the reason why it trusts nobody if no certificates were found.
#[derive(Clone, Debug)]
struct Remote {
    client: Client,
    untrusting: Option<String>,
}

impl Http {
    pub(super) fn new(options: HubOptions) -> Result<Self> {
        let (endpoint, credentials) = address::endpoint(&options.endpoint)?;
        Ok(Self {
            endpoint,
            token: options.token,
            credentials,
            offline: options.offline,
            proxies: options.proxies,
            local: OnceCell::new(),
            remote: OnceCell::new(),
        })
    }

    pub(super) fn endpoint(&self) -> &Url {
        &self.endpoint
    }

    /// Whether a secret would go along to the endpoint.
    pub(super) fn signs_in(&self) -> bool {
        (self.token.is_some() || self.credentials.is_some()) && self.may_carry_secret(&self.endpoint)
    }

    /// Whether there is a token that is kept back because the endpoint is plain http on another host.
    pub(super) fn withholds_token(&self) -> bool {
        self.token.is_some() && !self.may_carry_secret(&self.endpoint)
    }

    /// Secrets go to the endpoint's own origin, over https or inside this host.
    fn may_carry_secret(&self, url: &Url) -> bool {
        address::same_origin(url, &self.endpoint) && (url.scheme() == "https" || address::is_loopback(url))
    }

    /// Text of a server without what is secret in it.
    pub(super) fn without_secrets(&self, text: &str) -> String {
        secret::hidden(text, self.token.as_ref(), self.credentials.as_ref())
    }

    /// An error that leaves this module: a server may have put what it was sent into anything that a message repeats.
    pub(super) fn masked(&self, mut error: Error) -> Error {
        let hide = |text: &mut String| {
            *text = secret::without_own(text, self.token.as_ref(), self.credentials.as_ref());
        };
        match &mut error {
            Error::BadAnswer { url, reason }
            | Error::Unreachable { url, reason }
            | Error::Refused { url, reason, .. } => {
                hide(url);
                hide(reason);
            }
            Error::RateLimited { endpoint, .. } => hide(endpoint),
            Error::SignIn { reason, .. } => hide(reason),
            _ => {}
        }
        error
    }

    async fn client_for(&self, url: &Url) -> Result<Client, Failed> {
        if url.scheme() == "http" && address::is_loopback(url) {
            let local = self.local.get_or_try_init(|| async { build(false, trusting_nobody()) });
            return local.await.cloned().map_err(|reason| Failed::for_good(unreachable(url, &reason)));
        }
        let proxies = self.proxies;
        // The system's certificates are read from disk.
        let built = async || match tokio::task::spawn_blocking(move || build_remote(proxies)).await {
            Ok(built) => built,
            Err(error) => Err(error.to_string()),
        };
        let remote = self.remote.get_or_try_init(built).await;
        let remote = remote.map_err(|reason| Failed::for_good(unreachable(url, &reason)))?;
        match &remote.untrusting {
            Some(reason) if url.scheme() == "https" => Err(Failed::for_good(unreachable(url, reason))),
            _ => Ok(remote.client.clone()),
        }
    }

    /// Sends a GET and follows redirects; any status that is no redirect is an answer.
    pub(super) async fn get(&self, url: Url, headers: &HeaderMap) -> Result<Answer, Failed> {
        self.get_at(url, Stated::default(), headers).await
    }

    /// [`Self::get`] in the middle of a chain, where `stated` was stated before.
    pub(super) async fn get_at(&self, url: Url, stated: Stated, headers: &HeaderMap) -> Result<Answer, Failed> {
        if self.offline {
            return Err(Failed::for_good(Error::Offline { endpoint: address::shown(&self.endpoint) }));
        }
        let first = url.clone();
        let mut url = url;
        let mut stated = stated;
        let mut visited = HashSet::new();
        loop {
            let response = self.send(&url, headers).await?;
            if address::same_origin(&url, &self.endpoint) {
                stated.add(response.headers());
            }
            if !response.status().is_redirection() || response.status() == reqwest::StatusCode::NOT_MODIFIED {
                return Ok(Answer { url, response, stated });
            }
            visited.insert(url.clone());
            let bad = |reason: &str| {
                Failed::for_now(Error::BadAnswer { url: address::shown(&first), reason: reason.to_owned() })
            };
            let next = response
                .headers()
                .get(LOCATION)
                .and_then(|location| std::str::from_utf8(location.as_bytes()).ok())
                .and_then(|location| url.join(location).ok())
                .ok_or_else(|| bad("it redirects to no address"))?;
            let mut next = match next.scheme() {
                "https" => next,
                "http" if url.scheme() == "http" => next,
                "http" => return Err(bad("it redirects from https to plain http")),
                _ => return Err(bad("it redirects to something that is no http or https address")),
            };
            next.set_fragment(None);
            address::strip_credentials(&mut next);
            if visited.contains(&next) {
                return Err(bad("it redirects in a circle"));
            }
            if visited.len() >= MOST_REDIRECTS {
                return Err(Failed { again: false, ..bad("it redirects again and again") });
            }
            url = next;
        }
    }

    async fn send(&self, url: &Url, headers: &HeaderMap) -> Result<Response, Failed> {
        let client = self.client_for(url).await?;
        let mut request = client.get(url.clone()).headers(headers.clone()).header(ACCEPT_ENCODING, "identity");
        if self.may_carry_secret(url) {
            if let Some(token) = &self.token {
                request = request.header(AUTHORIZATION, bearer(token));
            } else if let Some((user, password)) = &self.credentials {
                request = request.basic_auth(user, Some(password));
            }
        }
        tracing::debug!(url = address::shown(url), "GET");
        let response = match timeout(HEADERS, request.send()).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return Err(not_reached(url, &error)),
            Err(_) => {
                let reason = format!("no answer within {} s", HEADERS.as_secs());
                return Err(Failed::for_now(unreachable(url, &reason)));
            }
        };
        if let Some(warning) = response.headers().get("x-hf-warning") {
            let warning = self.without_secrets(&String::from_utf8_lossy(warning.as_bytes()));
            tracing::warn!("the hub says: {}", text::printable(&warning));
        }
        Ok(response)
    }

    /// An API call: JSON, tried again a few times when that may help. Gives the answer's address and headers too.
    pub(super) async fn json<T: DeserializeOwned>(&self, url: &Url, asked: &Asked<'_>) -> Result<(T, Url, HeaderMap)> {
        let started = Instant::now();
        let (mut tries, mut strange, mut waits, mut unconnected) = (1, 0, 0, 0);
        let trying = if asked.repository.is_some() { TRYING_A_REPOSITORY } else { TRYING };
        loop {
            let quick = asked.repository.is_some() && waits < FIRST_WAITS;
            let within = if quick { FIRST_HEADERS } else { HEADERS };
            let begun = Instant::now();
            let failed = match self.json_once(url.clone(), asked, within).await {
                Ok(value) => return Ok(value),
                Err(failed) => failed,
            };
            waits += u32::from(begun.elapsed() >= within);
            let is_strange = matches!(failed.error, Error::BadAnswer { .. });
            strange += u32::from(is_strange);
            unconnected += u32::from(failed.unconnected);
            let wait = match &failed.error {
                Error::RateLimited { retry_after: Some(wait), .. } => *wait,
                Error::BadAnswer { .. } => pause(1),
                _ => pause(tries.min(4)),
            };
            let (most, most_strange) = match asked.repository {
                Some(_) => (TRIES_FOR_A_REPOSITORY, STRANGE_TRIES_FOR_A_REPOSITORY),
                None => (TRIES, STRANGE_TRIES),
            };
            let nobody_there = unconnected == tries && tries >= UNCONNECTED_TRIES;
            let is_last = tries >= most || is_strange && strange >= most_strange || nobody_there;
            if !failed.again || is_last || started.elapsed() + wait > trying {
                return Err(failed.error);
            }
            tracing::debug!(url = address::shown(url), "trying again: {}", failed.error);
            sleep(wait).await;
            tries += 1;
        }
    }

    async fn json_once<T: DeserializeOwned>(
        &self,
        url: Url,
        asked: &Asked<'_>,
        within: Duration,
    ) -> Result<(T, Url, HeaderMap), Failed> {
        let headers = HeaderMap::new();
        let answer = timeout(within, self.get(url.clone(), &headers)).await.unwrap_or_else(|_| {
            let reason = format!("no answer within {} s", within.as_secs());
            Err(Failed::for_now(unreachable(&url, &reason)))
        })?;
        if !answer.response.status().is_success() {
            return Err(refusal::refused(self, asked, answer).await);
        }
        let Answer { url, mut response, .. } = answer;
        let bad = |reason: String| Failed::for_now(Error::BadAnswer { url: address::shown(&url), reason });
        check_coding(response.headers()).map_err(bad)?;
        if is_html(response.headers()) {
            return Err(bad("it sent a web page instead of JSON".to_owned()));
        }
        let headers = std::mem::take(response.headers_mut());
        let bytes = read_all(&url, response, LARGEST_ANSWER).await?;
        let value =
            serde_json::from_slice(&bytes).map_err(|error| bad(self.without_secrets(&what_it_was(&bytes, &error))))?;
        Ok((value, url, headers))
    }
}

impl Stated {
    /// Takes what these headers state and no earlier answer stated.
    fn add(&mut self, headers: &HeaderMap) {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        if self.etag.is_none() {
            self.etag = text("x-linked-etag").map(bare_etag);
        }
        if self.size.is_none() {
            self.size = text("x-linked-size").and_then(|size| size.trim().parse().ok());
        }
        if self.commit.is_none() {
            self.commit = text("x-repo-commit").map(|commit| commit.trim().to_ascii_lowercase());
        }
    }
}

/// `"x"`, `W/"x"` and bare `x`, in lower case without what surrounds it.
pub(super) fn bare_etag(etag: &str) -> String {
    let etag = etag.trim();
    etag.strip_prefix("W/").unwrap_or(etag).trim_matches('"').to_ascii_lowercase()
}

/// The digest that an `ETag` states, if it is one.
pub(super) fn digest_of(etag: &str) -> Option<Digest> {
    Digest::parse(&bare_etag(etag))
}

pub(super) fn is_html(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    kind.trim_start().to_ascii_lowercase().starts_with("text/html")
}

/// Refuses compressed bytes: none were asked for, and their length and ranges mean something else.
pub(super) fn check_coding(headers: &HeaderMap) -> Result<(), String> {
    match headers.get(CONTENT_ENCODING).map(HeaderValue::as_bytes) {
        None | Some(b"" | b"identity") => Ok(()),
        Some(coding) => {
            let coding = text::printable(&String::from_utf8_lossy(coding));
            Err(format!("it sent {coding}-coded bytes, which were not asked for"))
        }
    }
}

/// Reads a whole answer of at most `most` bytes.
pub(super) async fn read_all(url: &Url, mut response: Response, most: usize) -> Result<Vec<u8>, Failed> {
    let mut bytes = Vec::new();
    loop {
        match timeout(IDLE, response.chunk()).await {
            Ok(Ok(Some(piece))) if bytes.len() + piece.len() <= most => bytes.extend_from_slice(&piece),
            Ok(Ok(Some(_))) => {
                let reason = format!("its answer is larger than {} MiB", most >> 20);
                return Err(Failed::for_good(Error::BadAnswer { url: address::shown(url), reason }));
            }
            Ok(Ok(None)) => {
                put_back().await;
                return Ok(bytes);
            }
            Ok(Err(error)) => return Err(not_reached(url, &error)),
            Err(_) => {
                let reason = format!("its answer stopped for {} s", IDLE.as_secs());
                return Err(Failed::for_now(unreachable(url, &reason)));
            }
        }
    }
}

/// Lets the task of a connection whose answer was read to its end put it back for the next request. Through a proxy or a
/// tunnel on this host a new connection opens sooner than that, and then costs a round trip behind it.
async fn put_back() {
    sleep(Duration::from_millis(1)).await;
}

/// Names what came instead of the expected JSON.
fn what_it_was(bytes: &[u8], error: &serde_json::Error) -> String {
    if bytes.is_empty() {
        return "its answer is empty".to_owned();
    }
    if bytes.trim_ascii_start().starts_with(b"<") {
        return "it sent a web page instead of JSON".to_owned();
    }
    match error.classify() {
        serde_json::error::Category::Eof => "its answer is cut short".to_owned(),
        serde_json::error::Category::Data => {
            format!("its JSON has another shape ({})", text::printable(&error.to_string()))
        }
        _ => "its answer is no JSON".to_owned(),
    }
}

pub(super) fn unreachable(url: &Url, reason: &str) -> Error {
    Error::Unreachable { url: address::shown(url), reason: text::printable(reason) }
}

/// What an error of the HTTP library means.
pub(super) fn not_reached(url: &Url, error: &reqwest::Error) -> Failed {
    let reason = innermost(error);
    if let Some(certificate) = certificate_problem(error) {
        let reason = format!("{certificate}; if the network has its own authority, name it in SSL_CERT_FILE");
        return Failed::for_good(unreachable(url, &reason));
    }
    let reason = if error.is_timeout() && error.is_connect() {
        format!("no connection within {} s", CONNECT.as_secs())
    } else if let Some(said) = reason.strip_prefix("failed to lookup address information") {
        format!("nobody knows the address of that name (DNS{said})")
    } else {
        reason
    };
    let way_out = if error.is_connect() { "; check the network, the proxy, or --endpoint" } else { "" };
    let unconnected = error.is_connect() && !error.is_timeout();
    Failed { unconnected, ..Failed::for_now(unreachable(url, &format!("{reason}{way_out}"))) }
}

/// The last cause of the chain, without Rust's "(os error N)".
fn innermost(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    let text = cause.to_string();
    text.split_once(" (os error").map_or(text.clone(), |(reason, _)| reason.to_lowercase())
}

/// What is wrong with the server's certificate, if that is the cause.
fn certificate_problem(error: &(dyn std::error::Error + 'static)) -> Option<String> {
    if let Some(error @ rustls::Error::InvalidCertificate(_)) = error.downcast_ref::<rustls::Error>() {
        return Some(error.to_string());
    }
    // An I/O error gives the error that it wraps by `get_ref`; its `source` is already that one's cause.
    if let Some(inner) = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
        return certificate_problem(inner);
    }
    certificate_problem(error.source()?)
}

fn bearer(token: &Token) -> HeaderValue {
    let text = format!("Bearer {}", token.secret());
    let mut value = HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static(""));
    value.set_sensitive(true);
    value
}

type Trust = Result<rustls::ClientConfig, rustls::Error>;

fn tls() -> Result<rustls::ConfigBuilder<rustls::ClientConfig, rustls::WantsVerifier>, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()
}

fn trusting_nobody() -> Trust {
    Ok(tls()?.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth())
}

fn trusting_the_system() -> Trust {
    Ok(tls()?.with_platform_verifier()?.with_no_client_auth())
}

fn build(proxies: bool, trust: Trust) -> Result<Client, String> {
    let mut trust = trust.map_err(|error| error.to_string())?;
    trust.alpn_protocols = vec![b"http/1.1".to_vec()];
    let builder = Client::builder()
        .user_agent(concat!("llorch-models/", env!("CARGO_PKG_VERSION")))
        .redirect(redirect::Policy::none())
        .referer(false)
        .http1_only()
        .connect_timeout(CONNECT)
        .tcp_keepalive(Duration::from_secs(30))
        .tls_backend_preconfigured(trust);
    let builder = if proxies { builder } else { builder.no_proxy() };
    builder.build().map_err(|error| innermost(&error))
}

/// A client for servers of this host: no proxy, no trust in anybody, redirects are not followed.
pub(crate) fn loopback_client() -> Result<Client, String> {
    build(false, trusting_nobody())
}

fn build_remote(proxies: bool) -> Result<Remote, String> {
    let (trust, untrusting) = match trusting_the_system() {
        Ok(config) => (Ok(config), None),
        Err(error) => {
            tracing::warn!("no certificates: {error}");
            let reason = "this host has no certificates of authorities; install ca-certificates or set SSL_CERT_FILE";
            (trusting_nobody(), Some(reason.to_owned()))
        }
    };
    Ok(Remote { client: build(proxies, trust)?, untrusting })
}

/// A quarter of a second, a half, one, two: each with up to a half more or less, so that clients that failed together part.
fn pause(tries: u32) -> Duration {
    let base = 250.0 * f64::from(1 << tries.saturating_sub(1).min(4));
    Duration::from_millis((base * (0.5 + random())) as u64)
}

/// A number from 0 to 1, from the keys that the standard library draws for each map.
fn random() -> f64 {
    let drawn = std::hash::RandomState::new().build_hasher().finish();
    (drawn >> 11) as f64 / (1_u64 << 53) as f64
}

/// A header with text made here.
pub(super) fn header(headers: &mut HeaderMap, name: HeaderName, value: &str) -> Result<()> {
    let value = HeaderValue::from_str(value).map_err(|_| Error::BadAnswer {
        url: name.to_string(),
        reason: "its value cannot stand in a header".to_owned(),
    })?;
    headers.insert(name, value);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn a_bad_certificate_is_found_however_deep_it_is_wrapped() {
        let bad = rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer);
        let wrapped = io::Error::other(io::Error::new(io::ErrorKind::InvalidData, bad));
        assert!(certificate_problem(&wrapped).unwrap().contains("UnknownIssuer"));
        assert_eq!(certificate_problem(&io::Error::other("reset")), None);
        assert_eq!(certificate_problem(&rustls::Error::DecryptError), None);
    }

    #[test]
    fn the_token_stays_with_its_origin_and_off_the_open_wire() {
        let http = |endpoint: &str| {
            Http::new(HubOptions {
                endpoint: endpoint.to_owned(),
                token: Token::new("hf_x"),
                offline: false,
                proxies: false,
            })
            .unwrap()
        };
        let cases = [
            ("https://hub.example/prefix", "https://hub.example/other", true),
            ("https://hub.example", "https://hub.example:8443/", false),
            ("https://hub.example", "http://hub.example/", false),
            ("https://hub.example", "https://cdn.hub.example/", false),
            ("http://hub.example", "http://hub.example/", false),
            ("http://127.0.0.1:8080", "http://127.0.0.1:8080/x", true),
            ("http://127.0.0.1:8080", "http://127.0.0.1:8081/x", false),
            ("http://127.0.0.1:8080", "http://localhost:8080/x", false),
            ("http://[::1]:8080", "http://[::1]:8080/x", true),
        ];
        for (endpoint, to, expected) in cases {
            assert_eq!(http(endpoint).may_carry_secret(&Url::parse(to).unwrap()), expected, "{endpoint} to {to}");
        }
        assert!(http("http://hub.example").withholds_token());
    }

    #[test]
    fn etags_of_every_form_are_the_same() {
        for etag in ["\"ABC\"", "W/\"abc\"", "abc", " \"abc\" "] {
            assert_eq!(bare_etag(etag), "abc", "{etag}");
        }
    }

    #[test]
    fn pauses_grow_and_differ() {
        for tries in 1..4 {
            let most = 375 << (tries - 1);
            let pauses: Vec<u128> = (0..20).map(|_| pause(tries).as_millis()).collect();
            assert!(pauses.iter().all(|pause| (most / 3..=most).contains(pause)), "{pauses:?}");
            assert!(pauses.iter().any(|pause| *pause != pauses[0]));
        }
    }
}
