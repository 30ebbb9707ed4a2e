//! What is odd about a header, as a bounded list of printable lines.

use crate::model::text;

/// Lines that are kept; more say nothing that a person would still read.
const MOST: usize = 24;

/// Characters of a name or value from a file that a line shows.
const SHOWN: usize = 80;

/// A bounded list of printable lines.
#[derive(Clone, Debug, Default)]
pub(super) struct Warnings(Vec<String>);

impl Warnings {
    pub(super) fn add(&mut self, line: impl Into<String>) {
        if self.0.len() < MOST {
            self.0.push(text::printable(&line.into()));
        }
    }

    pub(super) fn into_lines(self) -> Vec<String> {
        self.0
    }
}

/// A number with the word for what is counted.
pub(super) fn counted(count: u64, word: &str) -> String {
    format!("{count} {word}{}", if count == 1 { "" } else { "s" })
}

/// Bytes of a file as a short printable text.
pub(super) fn shown(bytes: &[u8]) -> String {
    // No character takes more than four bytes, so nothing that would be shown is cut off here.
    let head = bytes.get(..SHOWN * 4).unwrap_or(bytes);
    shortened(&String::from_utf8_lossy(head), SHOWN)
}

/// A text of at most `most` characters, made printable, with an ellipsis where it was cut.
pub(super) fn shortened(value: &str, most: usize) -> String {
    match value.char_indices().nth(most) {
        Some((at, _)) => text::printable(value.get(..at).unwrap_or_default()) + "…",
        None => text::printable(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_lines_are_bounded_and_printable() {
        let mut warnings = Warnings::default();
        for _ in 0..1000 {
            warnings.add("a\u{1b}[2Jb");
        }
        let lines = warnings.into_lines();
        assert_eq!(lines.len(), MOST);
        assert_eq!(lines[0], "a\\u{1b}[2Jb");
        assert_eq!(shown(&[b'x'; 100_000]).chars().count(), SHOWN + 1);
        assert_eq!(shown("é".repeat(SHOWN).as_bytes()), "é".repeat(SHOWN));
    }
}
