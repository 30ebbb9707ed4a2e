//! What the endpoint itself says of a file, in headers of whichever answer.

use reqwest::header::HeaderMap;

use crate::model::Digest;

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

impl Stated {
    /// Takes what these headers state and no earlier answer stated.
    pub(super) fn add(&mut self, headers: &HeaderMap) {
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
fn bare_etag(etag: &str) -> String {
    let etag = etag.trim();
    etag.strip_prefix("W/").unwrap_or(etag).trim_matches('"').to_ascii_lowercase()
}

/// The digest that an `ETag` states, if it is one.
pub(super) fn digest_of(etag: &str) -> Option<Digest> {
    Digest::parse(&bare_etag(etag))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn etags_of_every_form_are_the_same() {
        for etag in ["\"ABC\"", "W/\"abc\"", "abc", " \"abc\" "] {
            assert_eq!(bare_etag(etag), "abc", "{etag}");
        }
    }
}
