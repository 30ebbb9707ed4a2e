//! `model.safetensors.index.json`: which file of a set holds which tensor.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::io::{Read, Seek};

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::Header;
use super::header::header_length;
use crate::format::json::{bounded, object};
use crate::format::names::TensorNames;
use crate::format::warnings::shown;

/// The index of the largest known models has about 10 MB.
const LONGEST: u64 = 24 << 20;
/// Tensors of a set; real ones have under 150,000.
const MOST_TENSORS: u64 = 262_144;
/// Files of a set; real ones have a few hundred.
const MOST_FILES: usize = 16_384;
/// Folders that a file of a set lies in, below that of its index.
const DEEPEST: usize = 8;

/// Which file of a set holds which tensor. The names of the tensors are kept as a sum only.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Index {
    total_size: Option<u64>,
    /// What each file should hold.
    files: BTreeMap<String, Part>,
}

/// What one file of the set should hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Part {
    tensors: u64,
    names: TensorNames,
}

impl Index {
    /// Reads an index from a file, at whose start `reader` stands.
    ///
    /// # Errors
    /// A line that says what is wrong: too long, no JSON, or a file name that could leave the folder, in which case nothing
    /// of the index is believed.
    pub fn read(reader: impl Read) -> Result<Self, String> {
        let bytes = bounded(reader, LONGEST)?;
        Self::parse(&bytes)
    }

    /// Reads an index from its bytes.
    ///
    /// # Errors
    /// As [`Index::read`].
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let mut files: BTreeMap<String, Part> = BTreeMap::new();
        // Tensors of one file follow each other mostly.
        let mut run: Option<(String, Part)> = None;
        let total_size = each(bytes, |tensor, file| {
            match &mut run {
                Some((name, part)) if name == file => part.add(tensor),
                _ => {
                    if let Some((name, part)) = run.take() {
                        files.insert(name, part);
                    }
                    if !is_below(file) {
                        return Err(format!("'{}' is no plain file name", shown(file.as_bytes())));
                    }
                    if files.len() >= MOST_FILES {
                        return Err("more tensors or files than any model has".to_owned());
                    }
                    let mut part = files.remove(file).unwrap_or_default();
                    part.add(tensor);
                    run = Some((file.to_owned(), part));
                }
            }
            Ok(())
        })?;
        files.extend(run);
        Ok(Self { total_size, files })
    }

    /// The names of the files, sorted: paths below the folder of the index, plain names nearly always.
    pub fn files(&self) -> impl Iterator<Item = &str> {
        self.files.keys().map(String::as_str)
    }

    /// How many tensors a file should hold.
    #[must_use]
    pub fn tensors_of(&self, file: &str) -> u64 {
        self.files.get(file).map_or(0, |part| part.tensors)
    }

    /// Whether a file whose header has tensors of these names holds exactly what it should; of any other it may still hold all.
    #[must_use]
    pub fn agrees(&self, file: &str, names: &TensorNames) -> bool {
        self.files.get(file).is_some_and(|part| part.names.sum == names.sum)
    }

    /// The files by the sums of the names of the tensors that they should hold; of several the first.
    pub(crate) fn by_names(&self) -> HashMap<u64, &str> {
        self.files.iter().rev().map(|(name, part)| (part.names.sum, name.as_str())).collect()
    }

    /// What the index says that all tensors take together; wrong in some repositories.
    #[must_use]
    pub fn total_size(&self) -> Option<u64> {
        self.total_size
    }

    /// The number of parameters that the beginning of an index states; newer writers put it before the map.
    #[must_use]
    pub fn stated_parameters(start: &[u8]) -> Option<u64> {
        let start = start.trim_ascii_start().strip_prefix(b"{")?.trim_ascii_start();
        let start = start.strip_prefix(b"\"metadata\"")?.trim_ascii_start().strip_prefix(b":")?;
        let mut values = serde_json::Deserializer::from_slice(start).into_iter::<Counted>();
        values.next()?.ok()?.total_parameters.as_u64().filter(|count| *count > 0)
    }

    /// The names of the tensors that an index, at whose start `reader` stands, names for each of `files`.
    ///
    /// # Errors
    /// A line that says why it cannot be read.
    pub(crate) fn tensors_named(reader: impl Read, files: &[&str]) -> Result<Vec<Vec<Box<str>>>, String> {
        let places: HashMap<&str, usize> = files.iter().zip(0..).map(|(name, at)| (*name, at)).collect();
        let mut tensors = vec![Vec::new(); files.len()];
        each(&bounded(reader, LONGEST)?, |tensor, file| {
            if let Some(of) = places.get(file).and_then(|at| tensors.get_mut(*at)) {
                of.push(tensor.into());
            }
            Ok(())
        })?;
        Ok(tensors)
    }

    /// The first of `tensors` that the header of `file` of `length` bytes lacks, made printable. `None` where the header is longer
    /// than `left`, which is what may still be read, and from which it is taken.
    ///
    /// # Errors
    /// A line that says why it cannot be read.
    #[allow(clippy::option_option)]
    pub(crate) fn absent(
        tensors: &[Box<str>],
        mut file: impl Read + Seek,
        length: u64,
        left: &mut u64,
    ) -> Result<Option<Option<String>>, String> {
        let bytes = header_length(&mut file).map_err(|error| error.to_string())?;
        let Some(rest) = left.checked_sub(bytes) else { return Ok(None) };
        *left = rest;
        file.rewind().map_err(|error| error.to_string())?;
        let header = Header::read(file, length).map_err(|error| error.to_string())?;
        let here: HashSet<&str> = header.tensors().map(|tensor| tensor.name).collect();
        let absent = tensors.iter().find(|tensor| !here.contains(&***tensor));
        Ok(Some(absent.map(|tensor| shown(tensor.as_bytes()))))
    }
}

impl Part {
    fn add(&mut self, tensor: &str) {
        self.tensors += 1;
        self.names.add(tensor.as_bytes());
    }
}

/// Gives each tensor with the name of its file to `take`. Gives the sum that the index names.
fn each(bytes: &[u8], mut take: impl FnMut(&str, &str) -> Result<(), String>) -> Result<Option<u64>, String> {
    let raw: Raw<'_> = object(bytes)?;
    let mut map = serde_json::Deserializer::from_str(raw.weight_map.get());
    let mut count = 0;
    let mut counted = |tensor: &str, file: &str| {
        count += 1;
        if count > MOST_TENSORS {
            return Err("more tensors or files than any model has".to_owned());
        }
        take(tensor, file)
    };
    Entries(&mut counted).deserialize(&mut map).map_err(|error| {
        let why = error.to_string();
        // A place in the map is none in the file.
        format!(
            "malformed JSON: {}",
            crate::format::warnings::shortened(why.split(" at line ").next().unwrap_or(&why), 200)
        )
    })?;
    // Some writers put a fraction or a text there, and the sum itself is wrong in some repositories.
    Ok(raw.metadata.and_then(|metadata| {
        let totals: Totals<'_> = object(metadata.get().as_bytes()).ok()?;
        serde_json::from_str(totals.total_size?.get()).ok()
    }))
}

#[derive(Deserialize)]
struct Raw<'a> {
    #[serde(borrow)]
    metadata: Option<&'a RawValue>,
    #[serde(borrow)]
    weight_map: &'a RawValue,
}

#[derive(Deserialize)]
struct Counted {
    #[serde(default)]
    total_parameters: serde_json::Value,
}

#[derive(Deserialize)]
struct Totals<'a> {
    #[serde(borrow)]
    total_size: Option<&'a RawValue>,
}

/// Takes each entry of a map of tensors to files.
struct Entries<'f, F>(&'f mut F);

impl<'de, F: FnMut(&str, &str) -> Result<(), String>> DeserializeSeed<'de> for Entries<'_, F> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de, F: FnMut(&str, &str) -> Result<(), String>> Visitor<'de> for Entries<'_, F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map of tensors to files")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some((tensor, file)) = map.next_entry::<Name<'de>, Name<'de>>()? {
            (self.0)(&tensor.0, &file.0).map_err(A::Error::custom)?;
        }
        Ok(())
    }
}

/// A name, taken from the text where it has no escapes.
#[derive(Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

/// Whether a path stays below its folder and can be a file's path there.
fn is_below(path: &str) -> bool {
    path.split('/').count() <= DEEPEST && path.split('/').all(is_plain)
}

/// Whether a name can be a file's name.
fn is_plain(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 255
        && name != "."
        && name != ".."
        && !name.contains(|c: char| c == '\\' || c.is_control())
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
    fn parameters_are_told_by_the_beginning() {
        let told = |text: &str| Index::stated_parameters(text.as_bytes());
        assert_eq!(told(r#"{ "metadata": {"total_parameters": 70, "total_size": 140}, "weight_ma"#), Some(70));
        for none in
            ["", "{", r#"{"metadata":{"total_par"#, r#"{"metadata":{"total_parameters":"x"}}"#, r#"{"weight_map":{}}"#]
        {
            assert_eq!(told(none), None, "{none}");
        }
    }

    #[test]
    fn one_name_that_leaves_the_folder_refuses_the_index() {
        for name in ["../x", "/etc/passwd", "a/../b", "a//b", "a/", "..", ".", "", "a\\\\b", "a\\u0000b", "a\\u001bb"] {
            let text = format!(r#"{{"weight_map":{{"t":"model.safetensors","u":"{name}"}}}}"#);
            let error = Index::parse(text.as_bytes()).unwrap_err();
            assert!(error.contains("no plain file name"), "{name}: {error}");
            assert!(!error.chars().any(char::is_control), "{error:?}");
        }
    }

    #[test]
    fn files_are_told_by_the_names_of_their_tensors() {
        let index = Index::parse(br#"{"weight_map":{"a":"x","b":"y","c":"x","d":"sub/z"}}"#).unwrap();
        let names = |all: &[&str]| {
            let mut names = TensorNames::default();
            all.iter().for_each(|name| names.add(name.as_bytes()));
            names
        };
        assert!(index.agrees("x", &names(&["c", "a"])) && !index.agrees("x", &names(&["b"])));
        assert!(!index.agrees("elsewhere", &names(&[])));
        assert_eq!(index.by_names().get(&names(&["b"]).sum), Some(&"y"));
        assert_eq!(index.by_names().get(&names(&["a", "b"]).sum), None);
        assert_eq!(index.files().collect::<Vec<_>>(), ["sub/z", "x", "y"]);
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
