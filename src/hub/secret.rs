//! Text of a server without what is secret in it: it may repeat the token that it was sent, or a signed address.

use std::ops::Range;

use super::Token;

/// What stands in place of what is not shown.
const HIDDEN: &str = "[hidden]";
/// A secret of this client that is shorter is no secret, and hiding it would hide every other word.
const SHORTEST_OWN: usize = 4;
/// Shorter words after `Bearer` are words.
const SHORTEST: usize = 8;
/// Parameters whose values open something, by what their names end with.
const KEYS: [&str; 11] = [
    "sig",
    "signature",
    "token",
    "credential",
    "policy",
    "key",
    "key-pair-id",
    "secret",
    "password",
    "authorization",
    "auth",
];

/// `text` without the secrets of this client, without the query and the credentials of any address, and without what looks
/// like a token.
pub(super) fn hidden(text: &str, token: Option<&Token>, credentials: Option<&(String, String)>) -> String {
    let text = without_own(text, token, credentials);
    let mut shown = String::with_capacity(text.len());
    let mut rest = text.as_str();
    while let Some(at) = rest.find(is_word) {
        let (before, word) = rest.split_at(at);
        shown.push_str(before);
        let end = word.find(|c| !is_word(c)).unwrap_or(word.len());
        let (word, after) = word.split_at(end);
        shown.push_str(&without_query(word));
        rest = after;
        let scheme = ["bearer", "basic", "token"].iter().any(|name| ends_with(word, name));
        let next = rest.trim_start_matches([' ', ':', '\t']);
        let end = next.find(|c: char| !is_word(c)).unwrap_or(next.len());
        if scheme && next.len() < rest.len() && is_opaque(&next[..end]) {
            shown.push(' ');
            shown.push_str(HIDDEN);
            rest = &next[end..];
        }
    }
    shown.push_str(rest);
    shown
}

/// `text` without the secrets of this client, in capitals or not; everything else stays. For what is made of parts of an
/// answer: identifiers, checksums, addresses, values of headers.
pub(super) fn without_own(text: &str, token: Option<&Token>, credentials: Option<&(String, String)>) -> String {
    let mut text = text.to_owned();
    let own = token.map(Token::secret).into_iter().chain(credentials.map(|(_, password)| password.as_str()));
    for secret in own.filter(|secret| secret.len() >= SHORTEST_OWN) {
        // Only ASCII changes its case here, so that places stay.
        let (lower, secret) = (text.to_ascii_lowercase(), secret.to_ascii_lowercase());
        let mut shown = String::with_capacity(text.len());
        let mut from = 0;
        for (at, found) in lower.match_indices(&secret) {
            shown.push_str(&text[from..at]);
            shown.push_str(HIDDEN);
            from = at + found.len();
        }
        shown.push_str(&text[from..]);
        text = shown;
    }
    text
}

/// What an address, a parameter or a token can be made of.
fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || "-._~:/?#@!$&*+=%|\\".contains(c)
}

fn ends_with(word: &str, end: &str) -> bool {
    let start = word.len().checked_sub(end.len());
    start.and_then(|start| word.get(start..)).is_some_and(|last| last.eq_ignore_ascii_case(end))
}

/// Whether it is no word of a language.
fn is_opaque(word: &str) -> bool {
    word.len() >= SHORTEST && (word.len() >= 20 || word.bytes().any(|byte| byte.is_ascii_digit()))
}

/// One word without a query, credentials, and values that open something.
fn without_query(word: &str) -> String {
    let mut word = word.to_owned();
    if let Some((address, query)) = word.split_once(['?', '#'])
        && !query.is_empty()
        && (query.contains('=') || address.contains("://"))
    {
        word = format!("{address}?{HIDDEN}");
    }
    if let Some(scheme) = word.find("://") {
        let host = scheme + 3;
        let end = word[host..].find('/').map_or(word.len(), |slash| host + slash);
        if let Some(at) = word[host..end].rfind('@') {
            word.replace_range(host..=host + at, "");
        }
    }
    word = word
        .split('&')
        .map(|part| match part.split_once('=') {
            Some((key, value))
                if !value.is_empty() && value != HIDDEN && KEYS.iter().any(|end| ends_with(key, end)) =>
            {
                format!("{key}={HIDDEN}")
            }
            _ => part.to_owned(),
        })
        .collect::<Vec<_>>()
        .join("&");
    while let Some(range) = token_in(&word) {
        word.replace_range(range, HIDDEN);
    }
    word
}

/// Where something that looks like a token of the hub lies.
fn token_in(word: &str) -> Option<Range<usize>> {
    ["hf_", "api_org_"].iter().find_map(|start| {
        word.match_indices(start).find_map(|(at, _)| {
            let end = word[at + start.len()..].bytes().take_while(u8::is_ascii_alphanumeric).count();
            (end >= SHORTEST).then_some(at..at + start.len() + end)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ones_own_secrets_are_hidden_wherever_they_stand() {
        let token = Token::new("Abc/4567").unwrap();
        let credentials = ("user".to_owned(), "passw0rd".to_owned());
        for (text, expected) in [
            ("its id is 'abc/4567'", "its id is '[hidden]'"),
            ("http://h/ABC/4567/x?q=Abc/4567Abc/4567", "http://h/[hidden]/x?q=[hidden][hidden]"),
            ("\u{130}passw0rd\u{130}", "\u{130}[hidden]\u{130}"),
            ("http://h/x?a=b&sig=c", "http://h/x?a=b&sig=c"),
        ] {
            assert_eq!(without_own(text, Some(&token), Some(&credentials)), expected);
        }
        assert_eq!(without_own("Pin 12ab", None, Some(&("u".to_owned(), "12AB".to_owned()))), "Pin [hidden]");
        assert_eq!(
            without_own("as \u{e9}-Pass", None, Some(&("u".to_owned(), "\u{e9}-pass".to_owned()))),
            "as [hidden]"
        );
        assert_eq!(without_own("all", None, Some(&("u".to_owned(), "all".to_owned()))), "all");
        assert_eq!(without_own("x", Token::new("[hidden]").as_ref(), None), "x");
    }

    #[test]
    fn what_is_secret_is_not_repeated() {
        let token = Token::new("s3cr3t/with+signs").unwrap();
        let credentials = ("user".to_owned(), "passw0rd".to_owned());
        for (text, expected) in [
            ("token s3cr3t/with+signs refused", "token [hidden] refused"),
            ("as user:passw0rd", "as user:[hidden]"),
            ("as USER:PASSW0RD", "as USER:[hidden]"),
            ("see https://cdn/x?sig=abc&e=1 (expired)", "see https://cdn/x?[hidden] (expired)"),
            ("see \"https://u:p@cdn/x#k\".", "see \"https://cdn/x?[hidden]\"."),
            ("/blob/ab?Signature=abc,", "/blob/ab?[hidden],"),
            ("X-Amz-Signature=abc&n=1", "X-Amz-Signature=[hidden]&n=1"),
            ("Invalid token hf_abcDEF123456", "Invalid token [hidden]"),
            ("\"hf_abcDEF123456\" and xhf_0123456789", "\"[hidden]\" and x[hidden]"),
            ("Authorization: Bearer abcdef0123456789 is bad", "Authorization: Bearer [hidden] is bad"),
            ("bearer authentication is required", "bearer authentication is required"),
            ("Really? Yes: hf_hub says 2+2=4 at 10:15", "Really? Yes: hf_hub says 2+2=4 at 10:15"),
            ("", ""),
            ("né à ☃ https://é/x?a=b", "né à ☃ https://é/x?[hidden]"),
        ] {
            let shown = hidden(text, Some(&token), Some(&credentials));
            assert_eq!(shown, expected, "{text}");
        }
    }
}
