//! The head of a model card: the YAML between two lines `---` at the beginning of `README.md`.
//!
//! Only the licence and the base model are looked for, in the forms that the hub writes and documents: a plain or quoted
//! word, or a list of them. This is no reader of YAML; what has another form is not known.

use std::io::Read;

use super::Metadata;
use super::metadata::UNREADABLE;
use super::warnings::{shortened, shown};
use crate::model::Format;

/// Heads of cards are a few KB; those with results of evaluations have some more.
const LONGEST: u64 = 256 << 10;
/// Longest text that is kept.
const LONGEST_TEXT: usize = 200;
/// Base models that are named.
const NAMED: usize = 4;

/// What the head of a model card tells, made printable.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Card {
    /// `license`; where that is `other`, with `license_name`.
    pub licence: Option<String>,
    /// `base_model`.
    pub base_models: Vec<String>,
}

impl Card {
    /// Reads the head of `README.md` from a file, at whose start `reader` stands. One without a head tells nothing.
    ///
    /// # Errors
    /// That it cannot be read.
    pub fn read(reader: impl Read) -> Result<Self, String> {
        let mut bytes = Vec::new();
        let read = reader.take(LONGEST).read_to_end(&mut bytes);
        read.map_err(|error| format!("{UNREADABLE}: {}", shown(error.to_string().as_bytes())))?;
        Ok(Self::parse(&String::from_utf8_lossy(&bytes)))
    }

    fn parse(text: &str) -> Self {
        let mut lines = text.strip_prefix('\u{feff}').unwrap_or(text).lines().map(str::trim_end);
        if lines.next() != Some("---") {
            return Self::default();
        }
        let (mut licences, mut name, mut base_models) = (Vec::new(), Vec::new(), Vec::new());
        let mut ended = false;
        let mut none = Vec::new();
        let mut current: &mut Vec<String> = &mut none;
        for line in lines {
            if line == "---" {
                ended = true;
                break;
            }
            let inner = line.trim_start();
            if inner.is_empty() || inner.starts_with('#') {
                continue;
            }
            if let Some(item) = inner.strip_prefix("- ") {
                push(current, item);
                continue;
            }
            if inner.len() != line.len() {
                continue;
            }
            let Some((key, value)) = line.split_once(':') else { continue };
            none = Vec::new();
            current = match key.trim() {
                "license" => &mut licences,
                "license_name" => &mut name,
                "base_model" => &mut base_models,
                _ => &mut none,
            };
            let value = uncommented(value);
            match value.strip_prefix('[').and_then(|list| list.strip_suffix(']')) {
                Some(list) => list.split(',').for_each(|item| push(current, item)),
                None => push(current, value),
            }
        }
        // A line at the beginning of a text without a head.
        if !ended {
            return Self::default();
        }
        let mut licence = licences.into_iter().next();
        if let (Some(other), Some(name)) = (licence.as_mut().filter(|licence| *licence == "other"), name.first()) {
            *other = format!("other ({name})");
        }
        Self { licence, base_models }
    }

    /// As the metadata of a model of which nothing else is known.
    pub(crate) fn into_metadata(self) -> Metadata {
        let mut metadata = Metadata::unknown(Format::Safetensors);
        metadata.licence = self.licence;
        metadata.base_model = (!self.base_models.is_empty()).then(|| self.base_models.join(", "));
        metadata
    }
}

fn uncommented(value: &str) -> &str {
    let value = value.trim();
    if value.starts_with('#') {
        return "";
    }
    value.split(" #").next().unwrap_or(value).trim_end()
}

/// Adds a plain or quoted word; structures and references are none.
fn push(list: &mut Vec<String>, value: &str) {
    let value = uncommented(value);
    let quoted = ['"', '\''].iter().find_map(|quote| value.strip_prefix(*quote)?.strip_suffix(*quote));
    let word = quoted.unwrap_or(value).trim();
    let plain = quoted.is_some() || !word.starts_with(['{', '[', '&', '*', '|', '>', '!', '"', '\'']);
    let nothing = word.is_empty() || (quoted.is_none() && matches!(word, "null" | "~"));
    if plain && !nothing && list.len() < NAMED {
        list.push(shortened(word, LONGEST_TEXT));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(text: &str) -> (Option<String>, Vec<String>) {
        let card = Card::read(text.as_bytes()).unwrap();
        (card.licence, card.base_models)
    }

    fn is(licence: &str, base_models: &[&str]) -> (Option<String>, Vec<String>) {
        (Some(licence.to_owned()), base_models.iter().map(|name| (*name).to_owned()).collect())
    }

    #[test]
    fn words_and_lists_of_them_are_read() {
        let plain = "---\nlicense: apache-2.0\nbase_model: org/base\ntags:\n- a\n---\n# Title\nlicense: mit\n";
        assert_eq!(told(plain), is("apache-2.0", &["org/base"]));
        let list = "---\r\nlanguage:\r\n- en\r\nbase_model:\r\n  - 'org/one'\r\n  - \"org/two\" # both\r\nlicense: [mit, x]\r\n---\r\n";
        assert_eq!(told(list), is("mit", &["org/one", "org/two"]));
        let other = "\u{feff}---\nlicense: other # see there\nlicense_name: llama3.1\nbase_model: [a/b, c/d]\n---\n";
        assert_eq!(told(other), is("other (llama3.1)", &["a/b", "c/d"]));
    }

    #[test]
    fn what_is_no_head_or_another_form_tells_nothing() {
        for text in [
            "",
            "# Title\nlicense: mit\n",
            "---\nlicense: mit\n",
            "---\nmodel-index:\n- name: x\n  license: mit\n---\n",
            "---\nlicense:\n---\n",
            "---\nlicense: null\nbase_model: &anchor\n---\n",
            "---\nlicense: |\n  long\n---\n",
        ] {
            assert_eq!(told(text), (None, Vec::new()), "{text:?}");
        }
    }

    #[test]
    fn a_card_of_any_length_is_read_to_a_bound_and_shown_printable() {
        let long = format!("---\nlicense: {}\n---\n", "x".repeat(10_000));
        assert!(told(&long).0.unwrap().chars().count() <= LONGEST_TEXT + 1);
        assert_eq!(told("---\nlicense: a\u{1b}[2Jb\n---\n").0.unwrap(), "a\\u{1b}[2Jb");
        assert_eq!(Card::read(std::io::repeat(b'-')).unwrap(), Card::default());
    }
}
