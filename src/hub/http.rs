//! Requests: redirects by hand, the token rule, what a failure means.

use std::collections::HashSet;
use std::time::Duration;

use reqwest::header::{
    ACCEPT_ENCODING, AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, LOCATION,
};
use reqwest::{Client, Response};
use tokio::sync::OnceCell;
use tokio::time::timeout;
use url::Url;

use super::stated::Stated;
use super::tls::{self, CONNECT, Remote, certificate_problem, innermost};
use super::{HubOptions, Token, address, secret};
use crate::error::{Error, Result};
use crate::model::text;

/// Until the headers of an answer are there.
pub(super) const HEADERS: Duration = Duration::from_secs(30);
/// Most addresses that one request is sent on to; clients of the hub use 10 to 20.
const MOST_REDIRECTS: usize = 10;

/// What failed, and whether the same call may succeed in a moment.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) error: Error,
    pub(super) again: bool,
    /// No connection came to be: nobody listens there, or nobody knows the name.
    pub(super) unconnected: bool,
}

impl Failed {
    pub(super) fn for_good(error: Error) -> Self {
        Self { error, again: false, unconnected: false }
    }

    pub(super) fn for_now(error: Error) -> Self {
        Self { error, again: true, unconnected: false }
    }
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
            let local = self.local.get_or_try_init(|| async { tls::build(false, tls::trusting_nobody()) });
            return local.await.cloned().map_err(|reason| Failed::for_good(unreachable(url, &reason)));
        }
        let proxies = self.proxies;
        // The system's certificates are read from disk.
        let built = async || match tokio::task::spawn_blocking(move || tls::build_remote(proxies)).await {
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

fn bearer(token: &Token) -> HeaderValue {
    let text = format!("Bearer {}", token.secret());
    let mut value = HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static(""));
    value.set_sensitive(true);
    value
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
    use super::*;

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
}
