//! What an answer that is no success means for the caller.

use std::time::Duration;

use jiff::Timestamp;
use reqwest::StatusCode;
use reqwest::header::{HeaderMap, RETRY_AFTER};
use serde_json::Value;
use tokio::time::timeout;
use url::Url;

use super::address;
use super::api::read_all;
use super::http::{Answer, Failed, Http, is_html, unreachable};
use crate::error::Error;
use crate::model::text;

/// Of a refusal's body, so much is read, and waited for so long.
const LARGEST_REASON: usize = 16 << 10;
const REASON_TIME: Duration = Duration::from_secs(5);
/// Longest text of a server that a message repeats.
const LONGEST_REASON: usize = 200;
/// Longest wait that a server can ask for.
const LONGEST_WAIT: u64 = 24 * 3600;

/// What was asked for, for messages.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Asked<'a> {
    pub(super) repository: Option<&'a str>,
    pub(super) revision: Option<&'a str>,
    pub(super) file: Option<&'a str>,
}

/// A refusal as it arrived.
struct Refusal {
    status: StatusCode,
    code: String,
    /// What the server said, printable, one line; empty if it said nothing that a person should read.
    message: String,
    html: bool,
    json: bool,
    wait: Option<Duration>,
}

/// Reads the reason and says what it means.
pub(super) async fn refused(http: &Http, asked: &Asked<'_>, answer: Answer) -> Failed {
    let Answer { url, response, .. } = answer;
    let headers = response.headers().clone();
    let status = response.status();
    let body = match timeout(REASON_TIME, read_all(&url, response, LARGEST_REASON)).await {
        Ok(Ok(body)) => body,
        // The reason is a courtesy; the status says enough.
        Ok(Err(_)) | Err(_) => Vec::new(),
    };
    let refusal = Refusal::read(status, &headers, &body, Timestamp::now(), &|text| http.without_secrets(text));
    // The bytes of large files lie elsewhere, behind addresses that expire.
    if asked.file.is_some() && !address::same_origin(&url, http.endpoint()) {
        return refusal.of_stored_bytes(&url);
    }
    refusal.of_hub(http, asked, &url)
}

impl Refusal {
    fn read(
        status: StatusCode,
        headers: &HeaderMap,
        body: &[u8],
        now: Timestamp,
        without_secrets: &dyn Fn(&str) -> String,
    ) -> Self {
        let text = |name: &str| headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        let html = is_html(headers) || body.trim_ascii_start().starts_with(b"<!");
        let parsed = serde_json::from_slice::<Value>(body).ok();
        let json = parsed.is_some();
        let message = text("x-error-message").or_else(|| parsed.as_ref().and_then(error_text)).unwrap_or_else(|| {
            let body = String::from_utf8_lossy(body);
            if html || json || body.trim_start().starts_with('<') { String::new() } else { body.into_owned() }
        });
        Self {
            status,
            code: text("x-error-code").unwrap_or_default(),
            // Before it is cut: half a secret is one that nothing finds.
            message: one_line(&without_secrets(&message)),
            html,
            json,
            wait: wait_of(headers, now),
        }
    }

    /// The status and what was said.
    fn words(&self) -> String {
        let status = self.status.canonical_reason().unwrap_or("an unknown status");
        match (self.html, self.message.is_empty()) {
            (true, _) => format!("{} {status}, with a web page", self.status.as_u16()),
            (false, true) => format!("{} {status}", self.status.as_u16()),
            (false, false) => format!("{} {status}: {}", self.status.as_u16(), self.message),
        }
    }

    fn rejected(&self, url: &Url) -> Failed {
        let reason = match (self.html, self.message.is_empty()) {
            (true, _) => "a web page, maybe of a proxy".to_owned(),
            (false, true) => self.status.canonical_reason().unwrap_or("no reason given").to_owned(),
            (false, false) => self.message.clone(),
        };
        Failed::for_good(Error::Refused { url: address::shown(url), status: self.status.as_u16(), reason })
    }

    /// Limits and troubles that pass, whoever has them.
    fn passing(&self, url: &Url) -> Option<Failed> {
        match self.status.as_u16() {
            429 => {
                let endpoint = url.origin().ascii_serialization();
                Some(Failed::for_now(Error::RateLimited { endpoint, retry_after: self.wait }))
            }
            408 | 500 | 502..=504 => Some(Failed::for_now(unreachable(url, &format!("it answered {}", self.words())))),
            407 => Some(self.not_a_hub(url)),
            501 | 505..=599 => Some(Failed::for_good(unreachable(url, &format!("it answered {}", self.words())))),
            _ => None,
        }
    }

    fn of_stored_bytes(&self, url: &Url) -> Failed {
        if let Some(passing) = self.passing(url) {
            return passing;
        }
        match self.status.as_u16() {
            // A signed address that expired: the next try asks the hub for a new one.
            401 | 403 | 410 => {
                Failed::for_now(unreachable(url, &format!("it refused the signed address ({})", self.words())))
            }
            _ => self.rejected(url),
        }
    }

    fn of_hub(&self, http: &Http, asked: &Asked<'_>, url: &Url) -> Failed {
        let endpoint = address::shown(http.endpoint());
        let repository = || text::printable(asked.repository.unwrap_or(&endpoint));
        let gated = || Error::Gated {
            repository: repository(),
            page: format!("{}/{}", endpoint.trim_end_matches('/'), asked.repository.unwrap_or_default()),
            token_sent: http.signs_in(),
        };
        let no_repository = || Error::RepositoryNotFound { repository: repository(), endpoint: endpoint.clone() };
        let no_revision = || Error::RevisionNotFound {
            repository: repository(),
            revision: text::printable(asked.revision.unwrap_or("main")),
        };
        let no_file = || Error::FileNotFound {
            repository: repository(),
            what: text::printable(asked.file.unwrap_or("such file")),
            available: Vec::new(),
        };
        let sign_in = |reason: String| Error::SignIn { repository: repository(), reason, token_sent: http.signs_in() };

        match self.code.as_str() {
            "GatedRepo" => return Failed::for_good(gated()),
            "RepoNotFound" => return Failed::for_good(no_repository()),
            "RevisionNotFound" => return Failed::for_good(no_revision()),
            "EntryNotFound" => return Failed::for_good(no_file()),
            _ => {}
        }
        if let Some(passing) = self.passing(url) {
            return passing;
        }
        let says = |words: &str| self.message.to_ascii_lowercase().contains(words);
        let error = match self.status.as_u16() {
            _ if self.html => return self.not_a_hub(url),
            401 if http.withholds_token() => {
                sign_in("it wants a token, which is not sent over plain http to another host".to_owned())
            }
            401 if http.signs_in() => sign_in(format!("the hub refused the token ({})", self.words())),
            401 if asked.repository.is_some() && (self.message.is_empty() || says("invalid username or password")) => {
                no_repository()
            }
            401 => sign_in(format!("it wants a token ({})", self.words())),
            403 if says("gated") || says("restricted") => gated(),
            404 if says("invalid rev") || says("revision not found") => no_revision(),
            404 if says("entry not found") || says("file not found") => no_file(),
            404 if says("repository not found") => no_repository(),
            404 if self.json && asked.repository.is_some() && asked.file.is_none() => no_repository(),
            404 if !self.json => return self.not_a_hub(url),
            _ => return self.rejected(url),
        };
        Failed::for_good(error)
    }

    fn not_a_hub(&self, url: &Url) -> Failed {
        let reason = format!("it answered {}", self.words());
        Failed::for_now(Error::BadAnswer { url: address::shown(url), reason })
    }
}

/// The text in `{"error":"…"}`, `{"error":["…"]}`, `{"errors":[{"message":"…"}]}` or `{"message":"…"}`.
fn error_text(body: &Value) -> Option<String> {
    [&body["error"], &body["error"][0], &body["error"]["message"], &body["errors"][0]["message"], &body["message"]]
        .into_iter()
        .find_map(Value::as_str)
        .map(str::to_owned)
}

/// The first line that is not empty, printable and not too long.
fn one_line(message: &str) -> String {
    let line = message.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
    let line: String = line.chars().take(LONGEST_REASON).collect();
    text::printable(&line)
}

/// How long a limited client is to wait: `RateLimit: "…";r=0;t=172`, else `Retry-After` as seconds or as a date.
fn wait_of(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let seconds = |seconds: u64| Some(Duration::from_secs(seconds.min(LONGEST_WAIT)));
    let limit = headers.get("ratelimit").and_then(|value| value.to_str().ok()).unwrap_or_default();
    let field = |name: &str| {
        let mut fields = limit.split(';').filter_map(|field| field.trim().split_once('='));
        fields.find(|(key, _)| *key == name).and_then(|(_, value)| value.trim().parse::<u64>().ok())
    };
    if let (Some(0), Some(reset)) = (field("r"), field("t")) {
        return seconds(reset.saturating_add(1));
    }
    let after = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(after) = after.parse::<u64>() {
        return seconds(after);
    }
    let date = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(after).ok()?;
    seconds(u64::try_from(date.as_second() - now.as_second()).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use reqwest::header::{HeaderName, HeaderValue};

    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn waits_are_read_in_the_hubs_order() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        type Pairs = &'static [(&'static str, &'static str)];
        let cases: [(Pairs, Option<u64>); 7] = [
            (&[("ratelimit", "\"resolvers\";r=0;t=172"), ("retry-after", "5")], Some(173)),
            (&[("ratelimit", "\"api\";r=7;t=172"), ("retry-after", "5")], Some(5)),
            (&[("retry-after", "Thu, 01 Jan 2026 00:01:00 GMT")], Some(60)),
            (&[("retry-after", "Wed, 31 Dec 2025 00:01:00 GMT")], Some(0)),
            (&[("retry-after", "99999999999")], Some(LONGEST_WAIT)),
            (&[("retry-after", "soon")], None),
            (&[], None),
        ];
        for (pairs, expected) in cases {
            let map = pairs
                .iter()
                .map(|(name, value)| (name.parse::<HeaderName>().unwrap(), HeaderValue::from_str(value).unwrap()))
                .collect();
            assert_eq!(wait_of(&map, now), expected.map(Duration::from_secs), "{pairs:?}");
        }
    }

    #[test]
    fn reasons_are_found_and_made_printable() {
        let read = |pairs: &[(&'static str, &'static str)], body: &str| {
            let now = Timestamp::UNIX_EPOCH;
            Refusal::read(StatusCode::FORBIDDEN, &headers(pairs), body.as_bytes(), now, &str::to_owned).message
        };
        assert_eq!(read(&[("x-error-message", "from the header")], "{\"error\":\"x\"}"), "from the header");
        assert_eq!(read(&[], "{\"error\":\"a\"}"), "a");
        assert_eq!(read(&[], "{\"error\":[\"b\"]}"), "b");
        assert_eq!(read(&[], "{\"errors\":[{\"message\":\"c\"}]}"), "c");
        assert_eq!(read(&[], "\n plain \u{1b}[31m text\nmore"), "plain \\u{1b}[31m text");
        assert_eq!(read(&[("content-type", "text/html")], "<html>x"), "");
        assert_eq!(read(&[], &"x".repeat(5000)).len(), LONGEST_REASON);
    }
}
