//! The bytes of a file: what the answer must be before a single byte is believed.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, BoxStream};
use futures_util::{StreamExt, TryStreamExt};
use reqwest::StatusCode;
use reqwest::header::{CONTENT_LENGTH, CONTENT_RANGE, ETAG, HeaderMap, IF_RANGE, RANGE};
use tokio::time::timeout;
use url::Url;

use super::http::{self, Answer, Http};
use super::listing::checked_id;
use super::refusal::{Asked, refused};
use super::stated::{Stated, digest_of};
use super::{Body, address};
use crate::error::{Error, Result};
use crate::model::{Digest, RemoteFile, Validator};

/// So long one waits for what another finds out.
const ASKING: Duration = Duration::from_secs(2);

/// Where a server said that the bytes of one file lie; it may be signed and valid for a while only, so it is kept in
/// memory and never shown. Those who fetch parts of the file share it: one asks again when it is refused.
#[derive(Debug, Default)]
pub struct Address {
    known: Mutex<Known>,
    /// Held by who asks.
    asking: tokio::sync::Mutex<()>,
}

impl Address {
    /// Forgets it, if it is still the one that was asked.
    fn forget(&self, asked: &Url) {
        let mut known = self.known();
        if matches!(&*known, Known::There(place) if place.url == *asked) {
            *known = Known::Nothing;
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Scheme, host and port of where the bytes lie, if that is known and is not the hub itself.
    #[must_use]
    pub fn origin(&self) -> Option<String> {
        match &*self.known() {
            Known::There(place) => Some(place.url.origin().ascii_serialization()),
            Known::Here | Known::Nothing => None,
        }
    }
}

/// What is known of it.
#[derive(Clone, Debug, Default)]
enum Known {
    #[default]
    Nothing,
    /// The hub sends the bytes itself.
    Here,
    There(Arc<Place>),
}

#[derive(Debug)]
struct Place {
    url: Url,
    stated: Stated,
}

pub(super) async fn open(
    http: &Http,
    repository: &str,
    commit: &str,
    file: &RemoteFile,
    range: Range<u64>,
    validator: Option<&Validator>,
    shared: Option<&Address>,
) -> Result<Body> {
    let range = range.start..range.end.min(file.size);
    if range.start >= range.end && file.size > 0 {
        // Nothing is asked for, and a server would refuse such a range.
        return Ok(Body {
            from: range.start,
            to: range.start,
            size: file.size,
            validator: validator.cloned(),
            stream: stream::empty().boxed(),
        });
    }
    let parts = checked_id(repository)?.chain(["resolve", commit]).chain(file.path.parts());
    let call = Call {
        http,
        url: address::below(http.endpoint(), parts)?,
        asked: Asked { repository: Some(repository), revision: Some(commit), file: Some(file.path.as_str()) },
        commit,
        file,
    };
    let partial = range.start > 0 || range.end < file.size;
    let own = Address::default();
    let ranged = if partial { call.ranged(&range, validator, shared.unwrap_or(&own)).await? } else { Ranged::Nothing };
    match ranged {
        Ranged::Body(body) => Ok(body),
        // Who fetches several parts asks again for this one; the others go on.
        Ranged::Other(validator) if shared.is_some() => {
            Ok(Body { from: 0, to: 0, size: file.size, validator, stream: stream::empty().boxed() })
        }
        Ranged::Another(body) if shared.is_some() => Ok(body),
        Ranged::Other(_) | Ranged::Another(_) | Ranged::Nothing => call.whole().await,
    }
}

/// What came instead of a range.
enum Ranged {
    /// The range, or the whole file.
    Body(Body),
    /// The range of a file with another validator: the server ignores `If-Range`.
    Another(Body),
    /// Bytes that cannot be placed.
    Other(Option<Validator>),
    Nothing,
}

/// One file that is asked for.
struct Call<'a> {
    http: &'a Http,
    url: Url,
    asked: Asked<'a>,
    commit: &'a str,
    file: &'a RemoteFile,
}

impl Call<'_> {
    /// Asks for a range.
    async fn ranged(&self, range: &Range<u64>, validator: Option<&Validator>, address: &Address) -> Result<Ranged> {
        let mut headers = HeaderMap::new();
        http::header(&mut headers, RANGE, &format!("bytes={}-{}", range.start, range.end - 1))?;
        if let Some(Validator(validator)) = validator {
            http::header(&mut headers, IF_RANGE, validator)?;
        }
        let answer = self.at_address(&headers, address).await?;
        let from = answer.url.clone();
        let ranged = self.placed(answer, range, validator).await;
        // What sends a web page, or other bytes than those that were asked for, is not asked again before the hub is.
        if matches!(ranged, Err(_) | Ok(Ranged::Other(_))) {
            address.forget(&from);
        }
        ranged
    }

    /// What an answer to a range is.
    async fn placed(&self, answer: Answer, range: &Range<u64>, validator: Option<&Validator>) -> Result<Ranged> {
        match answer.response.status() {
            StatusCode::PARTIAL_CONTENT => {
                self.check_identity(&answer)?;
                self.check_coding(&answer)?;
                let headers = answer.response.headers();
                let correct = content_range(headers) == Some((range.start, range.end - 1, self.file.size))
                    && content_length(headers).is_none_or(|length| length == range.end - range.start);
                let now = strong_validator(headers);
                let another = validator.zip(now.as_ref()).is_some_and(|(old, new)| old != new);
                Ok(match correct {
                    false => Ranged::Other(now),
                    true if another => Ranged::Another(self.body(answer, range.clone())),
                    true => Ranged::Body(self.body(answer, range.clone())),
                })
            }
            StatusCode::OK => self.accept_whole(answer).map(Ranged::Body),
            StatusCode::RANGE_NOT_SATISFIABLE => Ok(Ranged::Nothing),
            _ => Err(refused(self.http, &self.asked, answer).await.error),
        }
    }

    /// Asks where the file was the last time, or the hub again when that is refused or was never asked.
    async fn at_address(&self, headers: &HeaderMap, address: &Address) -> Result<Answer> {
        let known = address.known().clone();
        match known {
            Known::Nothing => {}
            Known::Here => return self.http.get(self.url.clone(), headers).await.map_err(|failed| failed.error),
            Known::There(place) => {
                let answer = self.at(&place, headers).await?;
                let status = answer.response.status();
                if matches!(status, StatusCode::OK | StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE) {
                    return Ok(answer);
                }
                address.forget(&place.url);
                if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
                    return Ok(answer);
                }
                tracing::debug!("the address of '{}' is not good any more: {status}", self.file.path);
            }
        }
        // One asks, the others wait for what it finds; but not for an answer that may never come.
        let _asking = timeout(ASKING, address.asking.lock()).await.ok();
        let found = address.known().clone();
        if let Known::There(place) = found {
            return self.at(&place, headers).await;
        }
        let answer = self.http.get(self.url.clone(), headers).await.map_err(|failed| failed.error)?;
        if matches!(answer.response.status(), StatusCode::OK | StatusCode::PARTIAL_CONTENT) {
            *address.known() = if answer.url == self.url {
                Known::Here
            } else {
                Known::There(Arc::new(Place { url: answer.url.clone(), stated: answer.stated.clone() }))
            };
        }
        Ok(answer)
    }

    async fn at(&self, place: &Place, headers: &HeaderMap) -> Result<Answer> {
        let answer = self.http.get_at(place.url.clone(), place.stated.clone(), headers).await;
        answer.map_err(|failed| failed.error)
    }

    /// Asks for the whole file.
    async fn whole(&self) -> Result<Body> {
        let answer = self.http.get(self.url.clone(), &HeaderMap::new()).await.map_err(|failed| failed.error)?;
        match answer.response.status() {
            StatusCode::OK => self.accept_whole(answer),
            status if status.is_success() => {
                Err(self.bad(&answer, format!("it answered {} to a request for the whole file", status.as_u16())))
            }
            _ => Err(refused(self.http, &self.asked, answer).await.error),
        }
    }

    /// Checks an answer with the whole file.
    fn accept_whole(&self, answer: Answer) -> Result<Body> {
        let confirmed = self.check_identity(&answer)?;
        self.check_coding(&answer)?;
        let headers = answer.response.headers();
        let length = content_length(headers);
        let expected = self.file.size;
        if http::is_html(headers) && length != Some(expected) && !is_html_name(self.file.path.file_name()) {
            let reason = format!("it sent a web page instead of '{}', maybe of a proxy or a login", self.file.path);
            return Err(self.bad(&answer, reason));
        }
        match length {
            Some(length) if length != expected && confirmed => {
                let reason = format!("it sent '{}' with {length} bytes instead of {expected}", self.file.path);
                Err(self.bad(&answer, reason))
            }
            Some(length) if length != expected => Err(self.changed()),
            _ => Ok(self.body(answer, 0..expected)),
        }
    }

    /// Compares what the hub states with the listing; whether it stated the digest or the size at all.
    fn check_identity(&self, answer: &Answer) -> Result<bool> {
        let Stated { etag, size, commit } = &answer.stated;
        if size.is_some_and(|size| size != self.file.size) {
            return Err(self.changed());
        }
        if commit.as_deref().is_some_and(|commit| is_commit(commit) && is_commit(self.commit) && commit != self.commit)
        {
            return Err(self.changed());
        }
        let mut confirmed = size.is_some();
        if let (Some(stated), Some(listed)) = (etag.as_deref().and_then(Digest::parse), self.file.digest) {
            if stated != listed {
                return Err(self.changed());
            }
            confirmed = true;
        }
        // A small file that the hub itself sends has its git id as validator. That of another server, or of a large
        // file, may be any 64 digits.
        if address::same_origin(&answer.url, self.http.endpoint())
            && let Some(listed @ Digest::GitSha1(_)) = self.file.digest
            && let Some(Ok(etag)) = answer.response.headers().get(ETAG).map(|etag| etag.to_str())
            && let Some(stated @ Digest::GitSha1(_)) = digest_of(etag)
        {
            if stated != listed {
                return Err(self.changed());
            }
            confirmed = true;
        }
        Ok(confirmed)
    }

    fn check_coding(&self, answer: &Answer) -> Result<()> {
        http::check_coding(answer.response.headers()).map_err(|reason| self.bad(answer, reason))
    }

    fn changed(&self) -> Error {
        Error::Changed { file: self.file.path.to_string() }
    }

    fn bad(&self, answer: &Answer, reason: String) -> Error {
        Error::BadAnswer { url: address::shown(&answer.url), reason }
    }

    fn body(&self, answer: Answer, range: Range<u64>) -> Body {
        let validator = strong_validator(answer.response.headers());
        let stream = counted(answer, range.end - range.start);
        Body { from: range.start, to: range.end, size: self.file.size, validator, stream }
    }
}

/// The bytes of an answer, exactly `expected` of them or an error at the end.
fn counted(answer: Answer, expected: u64) -> BoxStream<'static, Result<Bytes>> {
    let Answer { url, response, .. } = answer;
    let shown = url.clone();
    let pieces = response.bytes_stream().map_err(move |error| http::not_reached(&shown, &error).error).boxed();
    stream::try_unfold((pieces, url, expected), move |(mut pieces, url, left)| async move {
        match pieces.try_next().await? {
            Some(piece) => match left.checked_sub(piece.len() as u64) {
                Some(left) => Ok(Some((piece, (pieces, url, left)))),
                None => {
                    let reason = format!("it sent more than the {expected} bytes that it promised");
                    Err(Error::BadAnswer { url: address::shown(&url), reason })
                }
            },
            None if left > 0 => {
                let reason = format!("the connection ended {left} of {expected} bytes early");
                Err(http::unreachable(&url, &reason))
            }
            None => Ok(None),
        }
    })
    .boxed()
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.trim().parse().ok()
}

/// First byte, last byte and length of `Content-Range: bytes a-b/n`.
fn content_range(headers: &HeaderMap) -> Option<(u64, u64, u64)> {
    let value = headers.get(CONTENT_RANGE)?.to_str().ok()?;
    let (range, total) = value.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    Some((first.trim().parse().ok()?, last.trim().parse().ok()?, total.trim().parse().ok()?))
}

/// The `ETag`, if it is a strong one: a weak one says nothing about bytes.
fn strong_validator(headers: &HeaderMap) -> Option<Validator> {
    let etag = headers.get(ETAG)?.to_str().ok()?.trim();
    (etag.len() > 2 && etag.len() <= 512 && etag.starts_with('"') && etag.ends_with('"'))
        .then(|| Validator(etag.to_owned()))
}

fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn is_html_name(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    lower.ends_with(".html") || lower.ends_with(".htm")
}

#[cfg(test)]
mod tests {
    use reqwest::header::HeaderValue;

    use super::*;

    #[test]
    fn content_ranges_are_read_strictly() {
        let read = |value: &'static str| {
            content_range(&HeaderMap::from_iter([(CONTENT_RANGE, HeaderValue::from_static(value))]))
        };
        assert_eq!(read("bytes 0-9/10"), Some((0, 9, 10)));
        for value in
            ["bytes */10", "bytes 0-9/*", "bytes 0-9", "items 0-9/10", "bytes -9/10", "bytes 0-99999999999999999999/1"]
        {
            assert_eq!(read(value), None, "{value}");
        }
    }

    #[test]
    fn only_strong_validators_are_kept() {
        let read =
            |value: &'static str| strong_validator(&HeaderMap::from_iter([(ETAG, HeaderValue::from_static(value))]));
        assert_eq!(read("\"abc\""), Some(Validator("\"abc\"".to_owned())));
        for value in ["W/\"abc\"", "abc", "\"\"", ""] {
            assert_eq!(read(value), None, "{value}");
        }
    }
}
