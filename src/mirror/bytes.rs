//! The bytes of a file: ranges, conditions, speed.

use std::fs::File;
use std::ops::Range;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use futures_util::stream;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio::time::Instant;

use super::answer;

/// Most that is read at once.
const CHUNK: usize = 512 * 1024;

/// What one range of a request means for a file of `size` bytes.
#[derive(Debug, PartialEq, Eq)]
enum Asked {
    Whole,
    Part(Range<u64>),
    Unsatisfiable,
}

/// Reads `Range`; several ranges and malformed ones mean the whole file.
fn asked(range: Option<&str>, size: u64) -> Asked {
    let Some((first, last)) = range.and_then(|range| range.strip_prefix("bytes=")).and_then(|r| r.split_once('-'))
    else {
        return Asked::Whole;
    };
    let (first, last) = (first.trim(), last.trim());
    if first.is_empty() {
        return match last.parse::<u64>() {
            Ok(0) => Asked::Unsatisfiable,
            Ok(_) if size == 0 => Asked::Unsatisfiable,
            Ok(count) => Asked::Part(size.saturating_sub(count)..size),
            Err(_) => Asked::Whole,
        };
    }
    let Ok(first) = first.parse::<u64>() else { return Asked::Whole };
    let end = match last {
        "" => size,
        last => match last.parse::<u64>() {
            Ok(last) if last >= first => size.min(last.saturating_add(1)),
            _ => return Asked::Whole,
        },
    };
    if first >= size { Asked::Unsatisfiable } else { Asked::Part(first..end) }
}

/// Answers GET or HEAD for `file`, whose strong validator is `etag` (without quotes).
pub(super) async fn send(
    file: File,
    size: u64,
    etag: &str,
    method: &Method,
    headers: &HeaderMap,
    rate: Option<u64>,
) -> Response {
    let text = |name: header::HeaderName| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    let quoted = format!("\"{etag}\"");
    let mut response = if text(header::IF_NONE_MATCH).is_some_and(|value| value == quoted || value == "*") {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        let unchanged = text(header::IF_RANGE).is_none_or(|value| value == quoted);
        match asked(text(header::RANGE).filter(|_| unchanged), size) {
            Asked::Unsatisfiable => {
                let mut response = StatusCode::RANGE_NOT_SATISFIABLE.into_response();
                answer::insert(&mut response, "content-range", &format!("bytes */{size}"));
                response
            }
            Asked::Whole => body(file, 0..size, StatusCode::OK, method, rate).await,
            Asked::Part(range) => {
                let value = format!("bytes {}-{}/{size}", range.start, range.end - 1);
                let mut response = body(file, range, StatusCode::PARTIAL_CONTENT, method, rate).await;
                answer::insert(&mut response, "content-range", &value);
                response
            }
        }
    };
    answer::insert(&mut response, "etag", &quoted);
    answer::insert(&mut response, "accept-ranges", "bytes");
    response
}

async fn body(file: File, range: Range<u64>, status: StatusCode, method: &Method, rate: Option<u64>) -> Response {
    let length = range.end - range.start;
    let body = if method == Method::HEAD {
        Body::empty()
    } else {
        match reader(file, range, rate).await {
            Ok(body) => body,
            Err(error) => {
                return answer::internal(&crate::Error::io("read", "a served file")(error));
            }
        }
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    answer::insert(&mut response, "content-type", "application/octet-stream");
    answer::insert(&mut response, "content-length", &length.to_string());
    response
}

struct Reader {
    file: tokio::fs::File,
    left: u64,
    chunk: usize,
    /// Bytes per second, since when and how many so far.
    rate: Option<(u64, Instant, u64)>,
}

async fn reader(file: File, range: Range<u64>, rate: Option<u64>) -> std::io::Result<Body> {
    let mut file = tokio::fs::File::from_std(file);
    file.set_max_buf_size(CHUNK);
    if range.start > 0 {
        file.seek(std::io::SeekFrom::Start(range.start)).await?;
    }
    // Twenty pieces a second look like a steady stream.
    let chunk = rate.map_or(CHUNK, |rate| usize::try_from(rate / 20).unwrap_or(CHUNK).clamp(1024, CHUNK));
    let reader =
        Reader { file, left: range.end - range.start, chunk, rate: rate.map(|rate| (rate.max(1), Instant::now(), 0)) };
    Ok(Body::from_stream(stream::try_unfold(reader, next)))
}

async fn next(mut reader: Reader) -> std::io::Result<Option<(Bytes, Reader)>> {
    if reader.left == 0 {
        return Ok(None);
    }
    let want = usize::try_from(reader.left).map_or(reader.chunk, |left| left.min(reader.chunk));
    if let Some((rate, since, sent)) = &mut reader.rate {
        *sent += want as u64;
        let due = Duration::from_secs_f64(*sent as f64 / *rate as f64);
        tokio::time::sleep_until(*since + due).await;
    }
    let mut buffer = BytesMut::with_capacity(want);
    while buffer.len() < want {
        let missing = (want - buffer.len()) as u64;
        if (&mut reader.file).take(missing).read_buf(&mut buffer).await? == 0 {
            return Err(std::io::Error::new(std::io::ErrorKind::UnexpectedEof, "the file became shorter"));
        }
    }
    reader.left -= buffer.len() as u64;
    Ok(Some((buffer.freeze(), reader)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_mean_what_rfc_9110_says() {
        let cases = [
            (None, 10, Asked::Whole),
            (Some("bytes=0-"), 10, Asked::Part(0..10)),
            (Some("bytes=3-5"), 10, Asked::Part(3..6)),
            (Some("bytes=3-99"), 10, Asked::Part(3..10)),
            (Some("bytes=-4"), 10, Asked::Part(6..10)),
            (Some("bytes=-40"), 10, Asked::Part(0..10)),
            (Some("bytes=10-"), 10, Asked::Unsatisfiable),
            (Some("bytes=0-"), 0, Asked::Unsatisfiable),
            (Some("bytes=-0"), 10, Asked::Unsatisfiable),
            (Some("bytes=5-3"), 10, Asked::Whole),
            (Some("bytes=0-1,3-4"), 10, Asked::Whole),
            (Some("bytes=x-"), 10, Asked::Whole),
            (Some("lines=0-1"), 10, Asked::Whole),
        ];
        for (range, size, expected) in cases {
            assert_eq!(asked(range, size), expected, "{range:?}");
        }
    }
}
