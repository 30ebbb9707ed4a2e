//! `model.safetensors.index.json`: which file of a set holds which tensor.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::io::Read;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::format::json::{bounded, object};
use crate::format::warnings::shown;

/// The index of the largest known models has about 10 MB.
const LONGEST: u64 = 24 << 20;
/// Tensors of a set; real ones have under 150,000.
const MOST_TENSORS: u64 = 262_144;
/// Files of a set; real ones have a few hundred.
const MOST_FILES: usize = 16_384;

/// Which file of a set holds which tensor.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Index {
    total_size: Option<u64>,
    /// How many tensors each file has.
    files: BTreeMap<String, u64>,
}

impl Index {
    /// Reads an index from a file, at whose start `reader` stands.
    ///
    /// # Errors
    /// A line that says what is wrong: too long, no JSON, or a file name that is no plain name, in which case nothing of
    /// the index is believed.
    pub fn read(reader: impl Read) -> Result<Self, String> {
        let bytes = bounded(reader, LONGEST)?;
        Self::parse(&bytes)
    }

    /// Reads an index from its bytes.
    ///
    /// # Errors
    /// As [`Index::read`].
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let raw: Raw<'_> = object(bytes)?;
        // Some writers put a fraction or a text there, and the sum itself is wrong in some repositories.
        let total_size = raw.metadata.and_then(|metadata| {
            let totals: Totals<'_> = object(metadata.get().as_bytes()).ok()?;
            serde_json::from_str(totals.total_size?.get()).ok()
        });
        Ok(Self { total_size, files: raw.weight_map.0 })
    }

    /// The names of the files, sorted: plain names, none of which leaves the folder.
    pub fn files(&self) -> impl Iterator<Item = &str> {
        self.files.keys().map(String::as_str)
    }

    /// How many tensors a file should hold.
    #[must_use]
    pub fn tensors_of(&self, file: &str) -> u64 {
        self.files.get(file).copied().unwrap_or(0)
    }

    /// What the index says that all tensors take together; wrong in some repositories.
    #[must_use]
    pub fn total_size(&self) -> Option<u64> {
        self.total_size
    }
}

#[derive(Deserialize)]
struct Raw<'a> {
    #[serde(borrow)]
    metadata: Option<&'a RawValue>,
    weight_map: WeightMap,
}

#[derive(Deserialize)]
struct Totals<'a> {
    #[serde(borrow)]
    total_size: Option<&'a RawValue>,
}

struct WeightMap(BTreeMap<String, u64>);

impl<'de> Deserialize<'de> for WeightMap {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;

        impl<'de> Visitor<'de> for Entries {
            type Value = WeightMap;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of tensors to files")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<WeightMap, A::Error> {
                let mut files = BTreeMap::new();
                let mut all = 0;
                // Tensors of one file follow each other mostly.
                let mut run: Option<(Name<'de>, u64)> = None;
                while let Some((_, file)) = map.next_entry::<IgnoredAny, Name<'de>>()? {
                    all += 1;
                    match &mut run {
                        Some((name, tensors)) if name.0 == file.0 => *tensors += 1,
                        _ => {
                            if !is_plain(&file.0) {
                                let why = format!("'{}' is no plain file name", shown(file.0.as_bytes()));
                                return Err(A::Error::custom(why));
                            }
                            add(&mut files, run.replace((file, 1)));
                        }
                    }
                    if all > MOST_TENSORS || files.len() > MOST_FILES {
                        return Err(A::Error::custom("more tensors or files than any model has"));
                    }
                }
                add(&mut files, run);
                Ok(WeightMap(files))
            }
        }

        deserializer.deserialize_map(Entries)
    }
}

/// A file's name, taken from the text where it has no escapes.
#[derive(Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

fn add(files: &mut BTreeMap<String, u64>, run: Option<(Name<'_>, u64)>) {
    if let Some((name, tensors)) = run {
        match files.get_mut(name.0.as_ref()) {
            Some(known) => *known += tensors,
            None => drop(files.insert(name.0.into_owned(), tensors)),
        }
    }
}

/// Whether a name stays in its folder and can be a file's name.
fn is_plain(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 255
        && name != "."
        && name != ".."
        && !name.contains(|c: char| c == '/' || c == '\\' || c.is_control())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_and_their_tensors_are_listed() {
        let index = Index::parse(
            br#"{"metadata":{"total_size":1234},"weight_map":{"b":"model-00002-of-00002.safetensors","a":"model-00001-of-00002.safetensors","c":"model-00001-of-00002.safetensors"}}"#,
        )
        .unwrap();
        assert_eq!(
            index.files().collect::<Vec<_>>(),
            ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
        );
        assert_eq!(index.tensors_of("model-00001-of-00002.safetensors"), 2);
        assert_eq!(index.tensors_of("other"), 0);
        assert_eq!(index.total_size(), Some(1234));
    }

    #[test]
    fn one_name_that_leaves_the_folder_refuses_the_index() {
        for name in ["../x", "/etc/passwd", "a/b", "..", ".", "", "a\\\\b", "a\\u0000b", "a\\u001bb"] {
            let text = format!(r#"{{"weight_map":{{"t":"model.safetensors","u":"{name}"}}}}"#);
            let error = Index::parse(text.as_bytes()).unwrap_err();
            assert!(error.contains("no plain file name"), "{name}: {error}");
            assert!(!error.chars().any(char::is_control), "{error:?}");
        }
    }

    #[test]
    fn an_odd_total_is_unknown_and_other_oddities_are_errors() {
        for metadata in ["null", "{}", "[1]", r#"{"total_size":"12"}"#, r#"{"total_size":-1}"#, r#"{"total_size":1.5}"#]
        {
            let text = format!(r#"{{"metadata":{metadata},"weight_map":{{}}}}"#);
            assert_eq!(Index::parse(text.as_bytes()).unwrap().total_size(), None, "{metadata}");
        }
        for text in ["", "[]", "{}", r#"{"weight_map":[]}"#, r#"{"weight_map":{"a":1}}"#, "<html>"] {
            assert!(Index::parse(text.as_bytes()).is_err(), "{text}");
        }
        assert!(Index::read(std::io::repeat(b' ')).unwrap_err().contains("larger"));
    }
}
