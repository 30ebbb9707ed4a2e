//! Text from outside: made printable for people, kept lossless for programs.
//!
//! Two forms, for two readers. *Printable* text is for terminals and messages: control characters and
//! bidirectional marks, which can rewrite a screen, are shown as escapes, and nobody reads it back.
//! *Escaped* text is for JSON and identities: equal to the name wherever the name is valid UTF-8, and
//! otherwise reversible byte for byte.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

/// Replaces what could move a cursor, change a colour or reverse the reading direction.
#[must_use]
pub fn printable(text: &str) -> String {
    if is_printable(text) { text.to_owned() } else { shown(text) }
}

/// [`printable`] for a text that is owned: mostly it stays as it is.
#[must_use]
pub fn into_printable(text: String) -> String {
    if is_printable(&text) { text } else { shown(&text) }
}

fn is_printable(text: &str) -> bool {
    // Nearly every text is, and all of its bytes at once are looked at faster than one after the other.
    let plain = |bytes: &[u8]| bytes.iter().fold(true, |plain, byte| plain & (0x20..0x7f).contains(byte));
    let (parts, rest) = text.as_bytes().as_chunks::<32>();
    (plain(rest) && parts.iter().all(|part| plain(part))) || !text.chars().any(is_unsafe)
}

fn shown(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            c if is_unsafe(c) => out.push_str(&format!("\\u{{{:x}}}", u32::from(c))),
            c => out.push(c),
        }
    }
    out
}

/// The text that [`printable`] shows as `shown`; `None` where that is no text, or shown otherwise.
#[must_use]
pub fn unprintable(shown: &str) -> Option<String> {
    let mut out = String::with_capacity(shown.len());
    let mut rest = shown;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let code = rest.strip_prefix("\\u{").and_then(|code| code.split_once('}'));
        let long = code.and_then(|(digits, rest)| Some((char::from_u32(u32::from_str_radix(digits, 16).ok()?)?, rest)));
        let short = [("\\n", '\n'), ("\\t", '\t'), ("\\r", '\r')].into_iter();
        let short = || short.clone().find_map(|(sign, c)| Some((c, rest.strip_prefix(sign)?)));
        let (c, after) = long.filter(|(c, _)| is_unsafe(*c)).or_else(short).unwrap_or(('\\', &rest[1..]));
        out.push(c);
        rest = after;
    }
    out.push_str(rest);
    (printable(&out) == shown).then_some(out)
}

/// [`printable`] for a path; bytes that are not UTF-8 show as `\xNN`.
#[must_use]
pub fn printable_path(path: &Path) -> String {
    into_printable(escape(path.as_os_str()))
}

/// Whether a character may not reach a terminal: C0 and C1 controls, DEL, line separators and the marks
/// that change direction or hide text.
#[must_use]
pub fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}')
}

/// A name as text that [`unescape`] turns back into the same bytes.
///
/// Valid UTF-8 stays as it is; a byte that is not becomes `\xNN`; a backslash is written `\x5c` only where it
/// would otherwise read as such an escape.
#[must_use]
pub fn escape(name: &OsStr) -> String {
    if let Some(text) = name.to_str().filter(|text| !text.as_bytes().contains(&b'\\')) {
        return text.to_owned();
    }
    let mut out = String::with_capacity(name.len());
    for chunk in name.as_bytes().utf8_chunks() {
        let valid = chunk.valid();
        let mut rest = valid;
        while let Some(at) = rest.find('\\') {
            out.push_str(&rest[..at]);
            rest = &rest[at..];
            out.push_str(if escaped_byte(rest.as_bytes()).is_some() { "\\x5c" } else { "\\" });
            rest = &rest[1..];
        }
        out.push_str(rest);
        for byte in chunk.invalid() {
            out.push_str(&format!("\\x{byte:02x}"));
        }
    }
    out
}

/// The bytes that [`escape`] was given.
#[must_use]
pub fn unescape(text: &str) -> OsString {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        if let Some(byte) = escaped_byte(rest) {
            bytes.push(byte);
            rest = &rest[4..];
        } else {
            bytes.push(first);
            rest = tail;
        }
    }
    OsString::from_vec(bytes)
}

/// The byte that `\xNN` (lower-case digits) at the start of `text` stands for.
fn escaped_byte(text: &[u8]) -> Option<u8> {
    let [b'\\', b'x', high, low, ..] = text else { return None };
    let digit = |byte: &u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    Some(digit(high)? * 16 + digit(low)?)
}

/// Serde form of a path: the [`escape`]d text.
pub mod escaped {
    use std::ffi::OsString;
    use std::path::Path;

    use serde::{Deserialize, Deserializer, Serializer};

    /// Writes the escaped text of a path or a name.
    pub fn serialize<P: AsRef<Path>, S: Serializer>(path: &P, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&super::escape(path.as_ref().as_os_str()))
    }

    /// Reads the escaped text of a path or a name.
    pub fn deserialize<'de, P: From<OsString>, D: Deserializer<'de>>(deserializer: D) -> Result<P, D::Error> {
        Ok(P::from(super::unescape(&String::deserialize(deserializer)?)))
    }
}

/// Serde form of a path that may be unknown: the [`escape`]d text or null.
pub mod escaped_option {
    use std::ffi::OsString;
    use std::path::Path;

    use serde::{Deserialize, Deserializer, Serializer};

    /// Writes the escaped text, or null.
    pub fn serialize<P: AsRef<Path>, S: Serializer>(path: &Option<P>, serializer: S) -> Result<S::Ok, S::Error> {
        match path {
            Some(path) => serializer.serialize_some(&super::escape(path.as_ref().as_os_str())),
            None => serializer.serialize_none(),
        }
    }

    /// Reads the escaped text, or null.
    pub fn deserialize<'de, P: From<OsString>, D: Deserializer<'de>>(deserializer: D) -> Result<Option<P>, D::Error> {
        Ok(Option::<String>::deserialize(deserializer)?.map(|text| P::from(super::unescape(&text))))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn terminals_never_get_control_or_direction_marks() {
        assert_eq!(printable("a\u{1b}[31m\nb\u{202e}c"), "a\\u{1b}[31m\\nb\\u{202e}c");
        assert_eq!(printable("Qwen2.5-日本語"), "Qwen2.5-日本語");
    }

    #[test]
    fn valid_names_are_exact() {
        for name in ["plain", "new\nline", "back\\slash", "日本"] {
            assert_eq!(escape(OsStr::new(name)), name);
        }
        assert_eq!(escape(OsStr::from_bytes(b"a\xffb")), "a\\xffb");
        assert_eq!(escape(OsStr::new("a\\xffb")), "a\\x5cxffb");
    }

    proptest! {
        #[test]
        fn escaping_is_reversible(bytes in prop::collection::vec(prop_oneof![Just(b'\\'), Just(b'x'), Just(b'f'), any::<u8>()], 0..24)) {
            let name = OsString::from_vec(bytes);
            prop_assert_eq!(unescape(&escape(&name)), name);
        }

        #[test]
        fn printable_text_is_printable(text in any::<String>()) {
            prop_assert!(!printable(&text).chars().any(is_unsafe));
        }
    }
}
