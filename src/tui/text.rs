//! Text that is safe and fits: no control characters, cut by the columns that it takes on a screen.

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use crate::model::Quantization;
use crate::model::text::printable;

/// Columns that `text` takes.
#[must_use]
pub fn width(text: &str) -> usize {
    UnicodeWidthStr::width(text)
}

/// `text` made printable and cut at its end to `columns`.
#[must_use]
pub fn cut(text: &str, columns: usize, ellipsis: &str) -> String {
    let text = printable(text);
    if width(&text) <= columns {
        return text;
    }
    let room = columns.saturating_sub(width(ellipsis));
    if room == 0 {
        return head(&text, columns).to_owned();
    }
    format!("{}{ellipsis}", head(&text, room))
}

/// `text` made printable and cut in its middle to `columns`: what stands at its end and tells something (`:QUANT`, a
/// quantization, a shard's number) stays, the rest goes to the start of the name.
#[must_use]
pub fn cut_middle(text: &str, columns: usize, ellipsis: &str) -> String {
    let text = printable(text);
    if width(&text) <= columns {
        return text;
    }
    let room = columns.saturating_sub(width(ellipsis));
    if room < 4 {
        return tail(&text, columns).to_owned();
    }
    let telling = telling_end(&text).map_or(0, width);
    let end = if telling == 0 { room * 2 / 5 } else { telling.min(room * 3 / 5) };
    format!("{}{ellipsis}{}", head(&text, room - end), tail(&text, end))
}

/// A model's name, made printable and cut to `columns`: of `publisher/name` the publisher gives way first, then an ending
/// that only names the format; what is left is cut in its middle.
#[must_use]
pub fn cut_name(text: &str, columns: usize, ellipsis: &str) -> String {
    let text = printable(text);
    if width(&text) <= columns {
        return text;
    }
    let Some((publisher, name)) = text.rsplit_once('/') else { return cut_middle(&text, columns, ellipsis) };
    let room = columns.saturating_sub(width(name) + 1 + width(ellipsis));
    if room > 0 {
        return format!("{}{ellipsis}/{name}", head(publisher, room));
    }
    if width(name) <= columns {
        let mark = if width(name) + width(ellipsis) <= columns { ellipsis } else { "" };
        return format!("{mark}{name}");
    }
    let bare = name.len().checked_sub(5).and_then(|at| name.split_at_checked(at));
    match bare.filter(|(_, end)| end.eq_ignore_ascii_case("-gguf")) {
        Some((bare, _)) if width(bare) + width(ellipsis) <= columns => format!("{bare}{ellipsis}"),
        _ => cut_middle(name, columns, ellipsis),
    }
}

/// The end of a name from its quantization on.
fn telling_end(text: &str) -> Option<&str> {
    if let Some(at) = text.rfind(':') {
        return Some(&text[at..]);
    }
    let label = Quantization::of_file_name(text.rsplit('/').next().unwrap_or(text))?;
    let at = text.to_ascii_uppercase().rfind(label.as_str())?;
    text.get(at.saturating_sub(1)..)
}

/// `text` as it is, with spaces after it up to `columns`. It must fit already.
#[must_use]
pub fn pad(text: &str, columns: usize) -> String {
    format!("{text}{}", " ".repeat(columns.saturating_sub(width(text))))
}

/// `text` as it is, with spaces before it up to `columns`. It must fit already.
#[must_use]
pub fn pad_left(text: &str, columns: usize) -> String {
    format!("{}{text}", " ".repeat(columns.saturating_sub(width(text))))
}

/// Breaks `text`, made printable, into lines of at most `columns`, at spaces where there are some.
#[must_use]
pub fn wrap(text: &str, columns: usize) -> Vec<String> {
    if columns == 0 {
        return Vec::new();
    }
    let text = printable(text);
    let mut lines = Vec::new();
    let mut line = String::new();
    for word in text.split(' ') {
        let mut word = word;
        let separator = usize::from(!line.is_empty());
        if width(&line) + separator + width(word) <= columns {
            if separator == 1 {
                line.push(' ');
            }
            line.push_str(word);
            continue;
        }
        if !line.is_empty() {
            lines.push(std::mem::take(&mut line));
        }
        while width(word) > columns {
            let part = head(word, columns);
            if part.is_empty() {
                break;
            }
            lines.push(part.to_owned());
            word = &word[part.len()..];
        }
        line.push_str(word);
    }
    if !line.is_empty() || lines.is_empty() {
        lines.push(line);
    }
    lines
}

/// The longest start of `text` that takes at most `columns`.
fn head(text: &str, columns: usize) -> &str {
    let mut used = 0;
    for (at, c) in text.char_indices() {
        used += c.width().unwrap_or(0);
        if used > columns {
            return &text[..at];
        }
    }
    text
}

/// The longest end of `text` that takes at most `columns`.
fn tail(text: &str, columns: usize) -> &str {
    let mut used = 0;
    for (at, c) in text.char_indices().rev() {
        used += c.width().unwrap_or(0);
        if used > columns {
            return &text[at + c.len_utf8()..];
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_end_that_tells_stays() {
        let name = "Meta-Llama-3.1-405B-Instruct-Q4_K_M-00002-of-00009.gguf";
        assert_eq!(width(&cut_middle(name, 40, "…")), 40);
        assert!(cut_middle(name, 50, "…").ends_with("-Q4_K_M-00002-of-00009.gguf"));
        assert!(cut_middle(name, 40, "…").ends_with("-00002-of-00009.gguf"));
        assert_eq!(cut_middle("TinyLlama-1.1B-Chat-v1.0-GGUF:Q4_K_M", 22, "…"), "TinyLlama-1.1B…:Q4_K_M");
        assert_eq!(cut_middle("qwen2.5-coder-32b-instruct", 16, "…"), "qwen2.5-c…struct");
        let names = ["lmstudio-community/gemma-3-27b-it-GGUF", "lmstudio-community/gemma-3-4b-it-GGUF:Q4_K_M"];
        let cut_names = |columns| names.map(|name| cut_name(name, columns, "…"));
        assert_eq!(cut_names(30), ["lmstudio-…/gemma-3-27b-it-GGUF", "lms…/gemma-3-4b-it-GGUF:Q4_K_M"]);
        assert_eq!(cut_names(20), ["…gemma-3-27b-it-GGUF", "gemma-3-4b-i…:Q4_K_M"]);
        assert_eq!(cut_names(16), ["gemma-3-27b-it…", "gemma-3-…:Q4_K_M"]);
        assert_eq!(cut("abcdef", 4, "…"), "abc…");
        assert_eq!(cut("abcdef", 0, "…"), "");
    }

    #[test]
    fn wide_characters_count_twice() {
        assert_eq!(width("模型"), 4);
        assert_eq!(cut("模型模型", 5, "…"), "模型…");
        assert_eq!(cut("模型模型", 4, "…"), "模…");
    }

    #[test]
    fn control_characters_never_pass() {
        let shown = cut("a\u{1b}[31mb\u{202e}c\n", 80, "…");
        assert!(!shown.chars().any(crate::model::text::is_unsafe), "{shown:?}");
    }

    #[test]
    fn lines_break_at_spaces_and_inside_long_words() {
        assert_eq!(wrap("one two three", 7), ["one two", "three"]);
        assert_eq!(wrap("/a/very/long/path x", 6), ["/a/ver", "y/long", "/path", "x"]);
        assert_eq!(wrap("", 5), [""]);
        assert_eq!(wrap("x", 0), Vec::<String>::new());
    }

    proptest! {
        #[test]
        fn nothing_is_ever_wider_than_asked(text in ".{0,60}", columns in 0usize..50) {
            prop_assert!(width(&cut(&text, columns, "…")) <= columns);
            prop_assert!(width(&cut_middle(&text, columns, "…")) <= columns);
            prop_assert!(width(&cut_name(&text, columns, "…")) <= columns);
            prop_assert!(wrap(&text, columns.max(2)).iter().all(|line| width(line) <= columns.max(2)));
        }
    }
}
