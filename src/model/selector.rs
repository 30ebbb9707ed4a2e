//! `[STORE:]ID[:QUANT][@REV]`: how a command names rows that are here.
//!
//! Ids of stores may hold `:` and `@` themselves (`llama3:8b`), so the text is never cut once and for all: a whole id
//! that is equal wins over one that is equal after a quantization and a revision are taken off.

use std::fmt;

use super::{ModelId, StoreKind, text};
use crate::error::{Error, Result};

/// A checked selector.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Selector {
    text: String,
    store: Option<StoreKind>,
    rest: String,
}

/// Which part of a row a selector means.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Choice {
    /// All of it.
    Whole,
    /// One quantization.
    Quantization(String),
    /// One revision.
    Revision(String),
    /// One quantization in one revision.
    QuantizationOf {
        /// The quantization.
        quantization: String,
        /// The revision.
        revision: String,
    },
}

impl Selector {
    /// Reads a selector. `hf://…` is a reference without a store.
    ///
    /// # Errors
    /// [`Error::InvalidReference`] for what is empty, has a NUL, or is only a store.
    pub fn parse(text: &str) -> Result<Self> {
        let refuse =
            |reason: &str| Err(Error::InvalidReference { reference: text::printable(text), reason: reason.to_owned() });
        // Nothing is trimmed: white space is part of an id.
        let trimmed = text;
        if trimmed.trim().is_empty() {
            return refuse("it is empty");
        }
        if trimmed.contains('\0') {
            return refuse("it has a NUL character");
        }
        let store = trimmed.split_once(':').filter(|(_, rest)| !rest.starts_with("//")).and_then(|(prefix, rest)| {
            StoreKind::ALL.into_iter().find(|kind| kind.name() == prefix).map(|kind| (kind, rest))
        });
        match store {
            Some((_, "")) => refuse("no id follows the store"),
            Some((store, rest)) => Ok(Self { text: trimmed.to_owned(), store: Some(store), rest: rest.to_owned() }),
            None => Ok(Self { text: trimmed.to_owned(), store: None, rest: trimmed.to_owned() }),
        }
    }

    /// The text as given, without white space around it.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The store that it is limited to.
    #[must_use]
    pub fn store(&self) -> Option<StoreKind> {
        self.store
    }

    /// What follows the store: an id, maybe with a quantization and a revision.
    #[must_use]
    pub fn rest(&self) -> &str {
        &self.rest
    }

    /// The ids that a row of store `kind` may have to be meant, the likelier first, each with the part that is then
    /// meant.
    #[must_use]
    pub fn readings(&self, kind: StoreKind) -> Vec<(String, Choice)> {
        if self.store.is_some_and(|store| store != kind) {
            return Vec::new();
        }
        let mut readings = vec![(self.rest.clone(), Choice::Whole)];
        // After `ollama:` every character belongs to the id.
        if kind == StoreKind::Ollama {
            return readings;
        }
        let (head, revision) =
            self.rest.rsplit_once('@').map_or((self.rest.as_str(), None), |(head, tail)| (head, Some(tail)));
        let mut push = |id: &str, choice: Choice| {
            let reading = (id.to_owned(), choice);
            if !id.is_empty() && !readings.contains(&reading) {
                readings.push(reading);
            }
        };
        match revision.filter(|revision| !revision.is_empty()) {
            Some(revision) => {
                push(head, Choice::Revision(revision.to_owned()));
                if let Some((id, label)) = head.rsplit_once(':').filter(|(_, label)| !label.is_empty()) {
                    let (quantization, revision) = (label.to_ascii_uppercase(), revision.to_owned());
                    push(id, Choice::QuantizationOf { quantization, revision });
                }
            }
            None => {
                if let Some((id, label)) = head.rsplit_once(':').filter(|(_, label)| !label.is_empty()) {
                    push(id, Choice::Quantization(label.to_ascii_uppercase()));
                }
            }
        }
        readings
    }

    /// Which part of the row `model` it means, if it means that row.
    #[must_use]
    pub fn part_of(&self, model: &ModelId) -> Option<Choice> {
        self.readings(model.store).into_iter().find(|(id, _)| *id == model.id).map(|(_, choice)| choice)
    }
}

impl fmt::Display for Choice {
    /// What follows the id: `:QUANT@REV`, one of them, or nothing.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole => Ok(()),
            Self::Quantization(label) => write!(f, ":{label}"),
            Self::Revision(revision) => write!(f, "@{revision}"),
            Self::QuantizationOf { quantization, revision } => write!(f, ":{quantization}@{revision}"),
        }
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&text::printable(&self.text))
    }
}

/// The arguments that name exactly `model`, for a person to copy: `flat:tinyllama`, with `--store-path` where the kind has
/// several roots.
#[must_use]
pub fn arguments(model: &ModelId, choice: &Choice, several_roots: bool) -> String {
    let name = format!("{}:{}{choice}", model.store, model.id);
    let mut out = shell_word(&name);
    if several_roots {
        out.push_str(" --store-path ");
        out.push_str(&shell_word(&text::escape(model.store_path.as_os_str())));
    }
    out
}

/// `word` as a shell reads it back, quoted only where it has to be.
fn shell_word(word: &str) -> String {
    let word = text::printable(word);
    let plain = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.' | '/' | ':' | '@' | '+' | ',' | '=' | '%');
    if !word.is_empty() && word.chars().all(plain) { word } else { format!("'{}'", word.replace('\'', "'\\''")) }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use proptest::prelude::*;

    use super::*;

    fn id(store: StoreKind, id: &str) -> ModelId {
        ModelId { store, store_path: PathBuf::from("/data/my models"), id: id.to_owned() }
    }

    #[test]
    fn stores_ids_and_parts_are_told_apart() {
        use Choice::{Quantization, Revision, Whole};
        let cases = [
            ("tinyllama", StoreKind::Flat, "tinyllama", Some(Whole)),
            ("flat:tinyllama", StoreKind::Flat, "tinyllama", Some(Whole)),
            ("flat:tinyllama", StoreKind::Hf, "tinyllama", None),
            ("flat:tinyllama:q8_0", StoreKind::Flat, "tinyllama", Some(Quantization("Q8_0".to_owned()))),
            ("hf:org/name@abc123", StoreKind::Hf, "org/name", Some(Revision("abc123".to_owned()))),
            (
                "hf:org/name:q8_0@main",
                StoreKind::Hf,
                "org/name",
                Some(Choice::QuantizationOf { quantization: "Q8_0".to_owned(), revision: "main".to_owned() }),
            ),
            ("hf:org/name:q8_0@main", StoreKind::Hf, "org/name:q8_0", Some(Revision("main".to_owned()))),
            ("hf:datasets/org/name", StoreKind::Hf, "datasets/org/name", Some(Whole)),
            ("ollama:llama3:8b", StoreKind::Ollama, "llama3:8b", Some(Whole)),
            ("ollama:llama3:8b", StoreKind::Ollama, "llama3", None),
            ("llama3:8b", StoreKind::Ollama, "llama3:8b", Some(Whole)),
            ("odd:name", StoreKind::Flat, "odd:name", Some(Whole)),
            ("tiny", StoreKind::Flat, "tinyllama", None),
        ];
        for (text, store, name, part) in cases {
            assert_eq!(Selector::parse(text).unwrap().part_of(&id(store, name)), part, "{text}");
        }
    }

    #[test]
    fn an_address_is_no_store_prefix() {
        let selector = Selector::parse("hf://org/name").unwrap();
        assert_eq!((selector.store(), selector.rest()), (None, "hf://org/name"));
    }

    #[test]
    fn what_names_nothing_is_refused() {
        for text in ["", "  ", "flat:", "a\0b"] {
            assert!(matches!(Selector::parse(text), Err(Error::InvalidReference { .. })), "{text:?}");
        }
    }

    #[test]
    fn arguments_can_be_pasted_into_a_shell() {
        let model = id(StoreKind::Flat, "it's here");
        assert_eq!(arguments(&model, &Choice::Whole, false), "'flat:it'\\''s here'");
        assert_eq!(
            arguments(&id(StoreKind::Hf, "org/name"), &Choice::Quantization("Q4_0".to_owned()), true),
            "hf:org/name:Q4_0 --store-path '/data/my models'"
        );
    }

    proptest! {
        // No id begins with a slash: `hf://` begins an address.
        #[test]
        fn a_store_and_an_id_always_mean_that_whole_row(name in "[^/\0][^\0]{0,12}", kind in prop::sample::select(StoreKind::ALL.to_vec())) {
            let model = id(kind, &name);
            prop_assert_eq!(Selector::parse(&format!("{kind}:{name}")).unwrap().part_of(&model), Some(Choice::Whole));
        }
    }
}
