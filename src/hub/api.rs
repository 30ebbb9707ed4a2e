//! Calls of the hub's API: JSON answers of bounded size, asked for again when that may help.

use std::time::Duration;

use reqwest::Response;
use reqwest::header::HeaderMap;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep, timeout};
use url::Url;

use super::address;
use super::http::{Answer, Failed, HEADERS, Http, check_coding, is_html, not_reached, unreachable};
use super::refusal::{self, Asked};
use crate::error::{Error, Result};
use crate::machine::random;
use crate::model::{Pauses, text};

/// Between two pieces of an API answer.
const IDLE: Duration = Duration::from_secs(30);
/// Largest API answer that is read: a page of a thousand files takes about 300 KiB.
const LARGEST_ANSWER: usize = 32 << 20;
/// Tries of an API call, and the time that all of them may take before the last one starts; more for what names a
/// repository, which comes before a download, than for what a person looks at.
const TRIES: u32 = 4;
const TRYING: Duration = Duration::from_secs(10);
const TRIES_FOR_A_REPOSITORY: u32 = 10;
const TRYING_A_REPOSITORY: Duration = Duration::from_secs(25);
/// A quarter of a second, a half, one, two: each with up to a half more or less.
const PAUSES: Pauses =
    Pauses { first: Duration::from_millis(250), growth: 2.0, longest: Duration::from_secs(2), spread: (0.5, 1.5) };
/// So often an answer that no hub gives is asked for, with short pauses: a proxy may have stumbled, or the address is wrong.
const STRANGE_TRIES: u32 = 3;
const STRANGE_TRIES_FOR_A_REPOSITORY: u32 = 8;
/// So often from the first try on where no connection comes to be: the network may be away, or the address is wrong, and a
/// person waits for the word.
const UNCONNECTED_TRIES: u32 = 4;
/// Until the headers of an answer about a repository are there, the first times: a server that lost a request answers the next one.
const FIRST_HEADERS: Duration = Duration::from_secs(4);
const FIRST_WAITS: u32 = 3;

impl Http {
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
                Error::BadAnswer { .. } => PAUSES.after(1, random()),
                _ => PAUSES.after(tries, random()),
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
        let Ok(answer) = timeout(within, self.get(url.clone(), &headers)).await else {
            let reason = format!("no answer within {} s", within.as_secs());
            return Err(Failed::for_now(unreachable(&url, &reason)));
        };
        let answer = answer?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_two_seconds_and_differ_by_a_half() {
        let pauses = |random: f64| [1, 2, 3, 4, 9].map(|tries| PAUSES.after(tries, random).as_millis());
        assert_eq!(pauses(0.0), [125, 250, 500, 1000, 1000]);
        assert_eq!(pauses(1.0), [375, 750, 1500, 3000, 3000]);
    }
}
