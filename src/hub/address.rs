//! Addresses: made from checked parts, compared by origin, shown without what is secret.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::header::{HeaderMap, LINK};
use url::{Host, Url};

use crate::error::{Error, Result};
use crate::model::text;

/// What stays as it is in a part of a path (RFC 3986, unreserved).
const PART: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Longest address that a message shows, in bytes.
const LONGEST_SHOWN: usize = 300;

/// Reads the base address of a hub; credentials in it are given apart.
pub(super) fn endpoint(text: &str) -> Result<(Url, Option<(String, String)>)> {
    let refuse = |reason: &str| Error::BadAnswer { url: redacted_text(text), reason: reason.to_owned() };
    let mut url = Url::parse(text.trim()).map_err(|_| refuse("the endpoint is no address"))?;
    if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
        return Err(refuse("the endpoint is no http or https address"));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(refuse("the endpoint has a query or a fragment"));
    }
    let decoded = |part: &str| percent_encoding::percent_decode_str(part).decode_utf8_lossy().into_owned();
    let credentials =
        (!url.username().is_empty()).then(|| (decoded(url.username()), decoded(url.password().unwrap_or_default())));
    strip_credentials(&mut url);
    let path = url.path().trim_end_matches('/').to_owned();
    url.set_path(&path);
    Ok((url, credentials))
}

/// The base address of a hub as messages and files may hold it: no credentials, no slash at its end. `None` for what is no
/// address.
#[must_use]
pub fn shown_endpoint(text: &str) -> Option<String> {
    let (url, _) = endpoint(text).ok()?;
    Some(url.as_str().trim_end_matches('/').to_owned())
}

/// `base` with `parts` appended, each percent-encoded; a part of `.` or `..` would be taken as a step up and is refused.
pub(super) fn below<'a>(base: &Url, parts: impl IntoIterator<Item = &'a str>) -> Result<Url> {
    let mut path = base.path().trim_end_matches('/').to_owned();
    for part in parts {
        if matches!(part, "" | "." | "..") {
            return Err(Error::InvalidReference {
                reference: text::printable(part),
                reason: "it cannot be a part of an address".to_owned(),
            });
        }
        path.push('/');
        path.extend(utf8_percent_encode(part, PART));
    }
    let mut url = base.clone();
    url.set_path(&path);
    Ok(url)
}

/// Whether the two have the same scheme, host and port.
pub(super) fn same_origin(a: &Url, b: &Url) -> bool {
    a.origin() == b.origin()
}

/// Whether nobody but this host can read what is sent there.
pub(super) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name.eq_ignore_ascii_case("localhost"),
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

/// Removes user name and password.
pub(super) fn strip_credentials(url: &mut Url) {
    // These fail only for addresses that cannot have credentials.
    _ = url.set_username("");
    _ = url.set_password(None);
}

/// An address for messages: without credentials, query and fragment (where signatures and tokens stand), printable.
pub(super) fn shown(url: &Url) -> String {
    let mut url = url.clone();
    strip_credentials(&mut url);
    url.set_query(None);
    url.set_fragment(None);
    short(&text::printable(url.as_str()))
}

/// [`shown`] for text that may be no address at all.
fn redacted_text(text: &str) -> String {
    let text = text.split(['?', '#']).next().unwrap_or_default();
    let text = match text.split_once("://") {
        Some((scheme, rest)) => {
            let (host, path) = rest.split_once('/').map_or((rest, ""), |(host, path)| (host, path));
            let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
            format!("{scheme}://{host}/{path}")
        }
        None => text.rsplit_once('@').map_or(text, |(_, rest)| rest).to_owned(),
    };
    short(&text::printable(&text))
}

/// Cuts text at a character's border.
fn short(text: &str) -> String {
    let mut end = text.len().min(LONGEST_SHOWN);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

/// The address of the next page, as the `Link` headers give it (RFC 8288).
pub(super) fn next_page(headers: &HeaderMap) -> Option<String> {
    headers.get_all(LINK).iter().filter_map(|value| value.to_str().ok()).find_map(next_of)
}

fn next_of(mut links: &str) -> Option<String> {
    loop {
        let (_, rest) = links.split_once('<')?;
        let (target, rest) = rest.split_once('>')?;
        let end = rest.find(",<").or_else(|| rest.find(", <")).unwrap_or(rest.len());
        let is_next = rest[..end].split(';').filter_map(|parameter| parameter.split_once('=')).any(|(name, value)| {
            let value = value.trim().trim_end_matches(',').trim_matches('"');
            name.trim().eq_ignore_ascii_case("rel") && value.split(' ').any(|rel| rel.eq_ignore_ascii_case("next"))
        });
        if is_next {
            return Some(target.trim().to_owned());
        }
        links = &rest[end..];
    }
}

#[cfg(test)]
mod tests {
    use reqwest::header::HeaderValue;

    use super::*;

    #[test]
    fn an_endpoint_keeps_its_prefix_and_loses_slash_and_credentials() {
        let (url, credentials) = endpoint("https://user:p%40ss@Mirror.example:8443/hf/").unwrap();
        assert_eq!(url.as_str(), "https://mirror.example:8443/hf");
        assert_eq!(credentials, Some(("user".to_owned(), "p@ss".to_owned())));
        assert_eq!(endpoint("http://127.0.0.1:8080/").unwrap().0.as_str(), "http://127.0.0.1:8080/");
        for text in ["", "huggingface.co", "ftp://x", "https://", "https://x/?token=secret", "file:///etc"] {
            let error = endpoint(text).unwrap_err().to_string();
            assert!(!error.contains("secret"), "{error}");
        }
        assert!(!endpoint("ftp://user:secret@x").unwrap_err().to_string().contains("secret"));
    }

    #[test]
    fn every_part_is_encoded_and_no_part_climbs() {
        let base = endpoint("https://h/p").unwrap().0;
        let url = below(&base, ["a b", "refs/pr/1", "x[1]#?%+é"]).unwrap();
        assert_eq!(url.as_str(), "https://h/p/a%20b/refs%2Fpr%2F1/x%5B1%5D%23%3F%25%2B%C3%A9");
        assert!(below(&base, ["a", ".."]).is_err() && below(&base, ["."]).is_err() && below(&base, [""]).is_err());
        let literal = below(&base, ["%2e%2e"]).unwrap();
        assert_eq!(literal.as_str(), "https://h/p/%252e%252e");
    }

    #[test]
    fn what_is_shown_has_no_secret() {
        let url = Url::parse("https://u:secret@cdn/x?Signature=secret#secret").unwrap();
        assert_eq!(shown(&url), "https://cdn/x");
    }

    #[test]
    fn origins_are_scheme_host_and_port() {
        let base = Url::parse("https://hub.example").unwrap();
        for (other, same) in [
            ("https://hub.example:443/x", true),
            ("https://HUB.example/x", true),
            ("http://hub.example/x", false),
            ("https://hub.example:444/x", false),
            ("https://hub.example.evil/x", false),
            ("https://hub.example@evil/x", false),
        ] {
            assert_eq!(same_origin(&base, &Url::parse(other).unwrap()), same, "{other}");
        }
    }

    #[test]
    fn the_next_page_is_found_among_links() {
        let cases = [
            ("<https://h/a?x=1,2&y>; rel=\"next\"", Some("https://h/a?x=1,2&y")),
            ("<https://h/p>; rel=\"prev\", <https://h/n>; rel=\"next\"", Some("https://h/n")),
            ("<https://h/p>; rel=prev,<https://h/n>; rel=next", Some("https://h/n")),
            ("<https://h/n>; title=\"x\"; rel=\"last next\"", Some("https://h/n")),
            ("<https://h/t>; rel=\"xet-auth\"", None),
            ("nonsense", None),
            ("<unclosed; rel=\"next\"", None),
        ];
        for (value, expected) in cases {
            let mut headers = HeaderMap::new();
            headers.insert(LINK, HeaderValue::from_static(value));
            assert_eq!(next_page(&headers).as_deref(), expected, "{value}");
        }
    }

    #[test]
    fn only_this_host_is_loopback() {
        for (url, expected) in [
            ("http://localhost:1", true),
            ("http://127.3.2.1", true),
            ("http://[::1]:8", true),
            ("http://127.0.0.1.evil", false),
            ("http://localhost.evil", false),
            ("http://192.168.0.1", false),
        ] {
            assert_eq!(is_loopback(&Url::parse(url).unwrap()), expected, "{url}");
        }
    }
}
