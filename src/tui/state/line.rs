//! A line of text that is being typed.

use crate::model::text::is_unsafe;

/// Longest text that a field takes, in characters.
const MAX: usize = 512;

/// A line of text with a caret.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Line {
    text: String,
    caret: usize,
}

impl Line {
    /// The text.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The text before the caret, and from it on.
    #[must_use]
    pub fn split(&self) -> (&str, &str) {
        self.text.split_at(self.caret)
    }

    /// Puts `text` at the caret, without what no screen should show. Where a line or a tab ends there is a space.
    pub fn insert(&mut self, text: &str) {
        let lines = text.split(['\n', '\r', '\t']).map(str::trim).filter(|line| !line.is_empty());
        for (at, line) in lines.enumerate() {
            if at > 0 {
                self.push(' ');
            }
            line.chars().for_each(|c| self.push(c));
        }
    }

    /// Puts a character at the caret.
    pub fn push(&mut self, c: char) {
        if self.text.chars().count() < MAX && !is_unsafe(c) {
            self.text.insert(self.caret, c);
            self.caret += c.len_utf8();
        }
    }

    /// Replaces everything.
    pub fn set(&mut self, text: &str) {
        self.text.clear();
        self.caret = 0;
        self.insert(text);
    }

    /// Empties it.
    pub fn clear(&mut self) {
        self.set("");
    }

    /// Removes the character before the caret.
    pub fn erase(&mut self) {
        if let Some(c) = self.text[..self.caret].chars().next_back() {
            self.caret -= c.len_utf8();
            self.text.remove(self.caret);
        }
    }

    /// Removes the character at the caret.
    pub fn erase_forward(&mut self) {
        if self.caret < self.text.len() {
            self.text.remove(self.caret);
        }
    }

    /// Removes the word before the caret, and the spaces after it.
    pub fn erase_word(&mut self) {
        let before = self.text[..self.caret].trim_end();
        let start = before.rfind(' ').map_or(0, |at| at + 1);
        self.text.replace_range(start..self.caret, "");
        self.caret = start;
    }

    /// Removes everything before the caret.
    pub fn erase_line(&mut self) {
        self.text.replace_range(..self.caret, "");
        self.caret = 0;
    }

    /// One character to the left.
    pub fn left(&mut self) {
        self.caret -= self.text[..self.caret].chars().next_back().map_or(0, char::len_utf8);
    }

    /// One character to the right.
    pub fn right(&mut self) {
        self.caret += self.text[self.caret..].chars().next().map_or(0, char::len_utf8);
    }

    /// To the start.
    pub fn start(&mut self) {
        self.caret = 0;
    }

    /// To the end.
    pub fn end(&mut self) {
        self.caret = self.text.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn editing() {
        let mut line = Line::default();
        line.insert("org/模型 two\nrest\u{1b}");
        assert_eq!(line.text(), "org/模型 two rest");
        line.erase_word();
        line.erase_word();
        assert_eq!(line.text(), "org/模型 ");
        line.erase();
        line.left();
        line.erase_forward();
        assert_eq!(line.split(), ("org/模", ""));
        line.start();
        line.right();
        line.push('X');
        assert_eq!(line.text(), "oXrg/模");
        line.end();
        line.erase_line();
        assert_eq!(line.text(), "");
        line.erase();
        line.erase_forward();
        line.left();
        line.right();
    }

    #[test]
    fn it_is_bounded() {
        let mut line = Line::default();
        line.insert(&"x".repeat(10_000));
        assert_eq!(line.text().len(), MAX);
    }
}
