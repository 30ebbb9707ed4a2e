//! What Ollama keeps beside weights as blobs of their own: the text of the licence, and the settings to run with.

use std::io::Read;

use serde_json::{Map, Value};

use super::json::{bounded, object};
use super::metadata::UNREADABLE;
use super::warnings::{shortened, shown};
use crate::format::Metadata;
use crate::model::Format;

/// The beginning of a licence names it.
const BEGINNING: u64 = 4 << 10;
/// Settings are a few hundred bytes.
const LONGEST: u64 = 64 << 10;
/// Characters that are kept of a licence's title or of one setting.
const LONGEST_TEXT: usize = 80;
/// Settings that are kept.
const KEPT: usize = 16;

/// The licence whose text a file holds: its identifier where the text is one that very many models have, else its first line.
pub(crate) fn licence(file: impl Read) -> Result<Metadata, String> {
    let mut bytes = Vec::new();
    let read = file.take(BEGINNING).read_to_end(&mut bytes);
    read.map_err(|error| format!("{UNREADABLE}: {}", shown(error.to_string().as_bytes())))?;
    let text = String::from_utf8_lossy(&bytes);
    Ok(Metadata { licence: title(&text), ..Metadata::unknown(Format::Gguf) })
}

fn title(text: &str) -> Option<String> {
    let mut lines = text.lines().map(|line| line.trim().trim_start_matches('#').trim()).filter(|line| !line.is_empty());
    let first = lines.next()?;
    let lower = first.to_ascii_lowercase();
    let known = match lower.as_str() {
        "apache license" if lines.next().is_some_and(|line| line.contains("2.0")) => Some("apache-2.0"),
        "mit license" | "the mit license" | "the mit license (mit)" => Some("mit"),
        _ => None,
    };
    Some(known.map_or_else(|| shortened(first, LONGEST_TEXT), str::to_owned))
}

/// The settings in a JSON object: `num_ctx 4096`, `stop <|im_end|>`.
pub(crate) fn settings(file: impl Read) -> Result<Metadata, String> {
    let bytes = bounded(file, LONGEST)?;
    let values: Map<String, Value> = object(&bytes)?;
    let text = |value: &Value| match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let setting = |(name, value): (&String, &Value)| {
        let value = match value {
            Value::Array(values) => values.iter().take(KEPT).map(text).collect::<Vec<_>>().join(" "),
            other => text(other),
        };
        shortened(&format!("{name} {value}"), LONGEST_TEXT)
    };
    let settings = values.iter().take(KEPT).map(setting).collect();
    Ok(Metadata { settings, ..Metadata::unknown(Format::Gguf) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn licences_are_told_by_their_beginning() {
        for (text, told) in [
            ("\n   Apache License\n   Version 2.0, January 2004\n", Some("apache-2.0")),
            ("MIT License\n\nCopyright", Some("mit")),
            ("LLAMA 3.1 COMMUNITY LICENSE AGREEMENT\nmore", Some("LLAMA 3.1 COMMUNITY LICENSE AGREEMENT")),
            ("a\u{1b}[2J", Some("a\\u{1b}[2J")),
            (" \n", None),
        ] {
            assert_eq!(licence(text.as_bytes()).unwrap().licence.as_deref(), told);
        }
    }

    #[test]
    fn settings_are_listed_and_bounded() {
        let told = settings(&br#"{"num_ctx":4096,"stop":["<|a|>","<|b|>"],"temperature":0.5}"#[..]).unwrap();
        assert_eq!(told.settings, ["num_ctx 4096", "stop <|a|> <|b|>", "temperature 0.5"]);
        assert!(settings(&b"[1]"[..]).is_err());
        let many: String = (0..1000).map(|n| format!("\"k{n}\":{n},")).collect();
        let told = settings(format!("{{{many}\"z\":0}}").as_bytes()).unwrap();
        assert_eq!(told.settings.len(), KEPT);
    }
}
