//! The configuration file: TOML in, checked values out.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::{self, Deserializer, Visitor};

use super::{StoreFolders, When};
use crate::disk::regular;
use crate::error::{Error, Result};
use crate::model::memory::CacheType;
use crate::model::size::tokens;
use crate::model::{Bytes, DestinationKind, text};

/// A configuration file with every key at its default, each line commented out.
pub const SAMPLE: &str = include_str!("../../assets/config-sample.toml");

/// More than any configuration file holds.
const MAX_BYTES: u64 = 1 << 20;

/// What the file says; a key that it leaves out is `None`.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    pub(super) models_dir: Option<Folder>,
    pub(super) destination: Option<DestinationKind>,
    pub(super) endpoint: Option<Endpoint>,
    pub(super) endpoint_token: Option<Secret>,
    pub(super) endpoint_token_file: Option<OptionalPath>,
    pub(super) proxies: Option<bool>,
    pub(super) downloads: Option<Count>,
    pub(super) connections: Option<Count>,
    pub(super) courtesy: Option<When>,
    pub(super) limit: Option<Limit>,
    pub(super) verify_limit: Option<Limit>,
    pub(super) verify_reads: Option<Reads>,
    pub(super) converter: Option<OptionalPath>,
    pub(super) converter_python: Option<OptionalPath>,
    pub(super) converter_patience: Option<Seconds>,
    #[serde(default)]
    pub(super) protect: Vec<Name>,
    pub(super) color: Option<When>,
    pub(super) ascii: Option<When>,
    pub(super) mouse: Option<bool>,
    pub(super) bell: Option<bool>,
    pub(super) fit_context: Option<Context>,
    pub(super) fit_cache: Option<Cache>,
    #[serde(default)]
    pub(super) stores: Stores,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Stores {
    flat: Vec<Folder>,
    hf: Vec<Folder>,
    ollama: Vec<Folder>,
    lmstudio: Vec<Folder>,
    llamacpp: Vec<Folder>,
}

impl Stores {
    pub(super) fn resolve(&self, home: &Path) -> StoreFolders {
        let all = |folders: &[Folder]| folders.iter().map(|folder| folder.resolve(home)).collect();
        StoreFolders {
            flat: all(&self.flat),
            hf: all(&self.hf),
            ollama: all(&self.ollama),
            lmstudio: all(&self.lmstudio),
            llamacpp: all(&self.llamacpp),
        }
    }
}

/// Reads and checks `path`.
pub(super) fn read(path: &Path) -> Result<File> {
    let content = regular::read(path, MAX_BYTES).map_err(Error::io("read", path))?;
    let invalid = |reason: String| Error::InvalidConfig { path: path.to_owned(), reason };
    let Some(bytes) = content else { return Err(invalid("it is larger than 1 MiB".to_owned())) };
    let content = String::from_utf8(bytes).map_err(|error| {
        let line = line_of(error.as_bytes(), error.utf8_error().valid_up_to());
        invalid(format!("line {line}: it is not UTF-8 text"))
    })?;
    parse(&content).map_err(invalid)
}

/// The values in `content`, or what is wrong with it, with line and key.
pub(super) fn parse(content: &str) -> Result<File, String> {
    toml::from_str(content).map_err(|error| {
        let message = text::printable(&error.message().replace('\n', "; "));
        match error.span() {
            Some(span) => {
                let line = line_of(content.as_bytes(), span.start);
                match key_at(content, span.start) {
                    Some(key) => format!("line {line}, key '{}': {message}", text::printable(key)),
                    None => format!("line {line}: {message}"),
                }
            }
            None => message,
        }
    })
}

fn line_of(content: &[u8], at: usize) -> usize {
    1 + content.iter().take(at).filter(|byte| **byte == b'\n').count()
}

/// The key whose value stands at `at`: of that line, or of the nearest line before it where a value spans several.
fn key_at(content: &str, at: usize) -> Option<&str> {
    let end = content.get(at..)?.find('\n').map_or(content.len(), |length| at + length);
    content[..end].lines().rev().find_map(|line| {
        let (key, _) = line.split_once('=')?;
        let key = key.trim();
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '"');
        (!key.is_empty() && key.chars().all(plain)).then_some(key)
    })
}

/// An absolute folder, or one below the home folder written with `~/`.
pub(super) struct Folder(String);

impl Folder {
    pub(super) fn resolve(&self, home: &Path) -> PathBuf {
        match self.0.strip_prefix('~') {
            Some(rest) => home.join(rest.trim_start_matches('/')),
            None => PathBuf::from(&self.0),
        }
    }
}

impl<'de> Deserialize<'de> for Folder {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let folder = String::deserialize(deserializer)?;
        if folder.starts_with('/') || folder == "~" || folder.starts_with("~/") {
            return Ok(Self(folder));
        }
        Err(de::Error::custom(format!("'{folder}' is not absolute; write it with a leading / or ~/")))
    }
}

/// A path as [`Folder`], or nothing if it is empty.
pub(super) struct OptionalPath(Option<String>);

impl OptionalPath {
    pub(super) fn resolve(&self, home: &Path) -> Option<PathBuf> {
        self.0.as_ref().map(|path| Folder(path.clone()).resolve(home))
    }
}

impl<'de> Deserialize<'de> for OptionalPath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let path = String::deserialize(deserializer)?;
        if path.is_empty() {
            return Ok(Self(None));
        }
        Folder::deserialize(de::value::StringDeserializer::new(path)).map(|folder| Self(Some(folder.0)))
    }
}

/// An http or https address without credentials.
pub(super) struct Endpoint(pub(super) String);

impl<'de> Deserialize<'de> for Endpoint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let address = String::deserialize(deserializer)?;
        super::settings::check_endpoint(&address).map(Self).map_err(de::Error::custom)
    }
}

/// A secret: no message about it ever shows its value.
pub(super) struct Secret(pub(super) Option<String>);

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match toml::Value::deserialize(deserializer).map_err(|_| de::Error::custom("it must be text in quotes"))? {
            toml::Value::String(secret) => Ok(Self(Some(secret.trim().to_owned()).filter(|secret| !secret.is_empty()))),
            _ => Err(de::Error::custom("it must be text in quotes")),
        }
    }
}

/// A number of at least one.
pub(super) struct Count(pub(super) usize);

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match i64::deserialize(deserializer)? {
            count @ 1..=64 => Ok(Self(usize::try_from(count).map_err(de::Error::custom)?)),
            count => Err(de::Error::custom(format!("{count} is not possible; use a number from 1 to 64"))),
        }
    }
}

/// A number of seconds, at least one.
pub(super) struct Seconds(pub(super) u64);

impl<'de> Deserialize<'de> for Seconds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match i64::deserialize(deserializer)? {
            seconds @ 1..=604_800 => Ok(Self(seconds.unsigned_abs())),
            seconds => Err(de::Error::custom(format!("{seconds} is not possible; use seconds from 1 to 604800"))),
        }
    }
}

/// A number of at least one, or "auto".
pub(super) struct Reads(pub(super) Option<usize>);

impl<'de> Deserialize<'de> for Reads {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        const WAY_OUT: &str = r#"use "auto" or a number from 1 to 64"#;
        match toml::Value::deserialize(deserializer)? {
            toml::Value::String(text) if text == "auto" => Ok(Self(None)),
            toml::Value::Integer(count @ 1..=64) => Ok(Self(Some(usize::try_from(count).map_err(de::Error::custom)?))),
            _ => Err(de::Error::custom(WAY_OUT)),
        }
    }
}

/// A name in `protect`.
pub(super) struct Name(pub(super) String);

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        if name.trim().is_empty() {
            return Err(de::Error::custom("an empty name protects nothing; write the name of a model"));
        }
        Ok(Self(name))
    }
}

/// A rate in bytes per second, or none.
pub(super) struct Limit(pub(super) Option<u64>);

impl<'de> Deserialize<'de> for Limit {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Rates;
        const WAY_OUT: &str = r#"write "none", or a rate such as "50M""#;
        impl Visitor<'_> for Rates {
            type Value = Limit;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(r#""none" or a rate such as "50M""#)
            }

            fn visit_str<E: de::Error>(self, value: &str) -> Result<Limit, E> {
                if value == "none" {
                    return Ok(Limit(None));
                }
                match Bytes::parse(value) {
                    Some(Bytes(rate)) if rate > 0 => Ok(Limit(Some(rate))),
                    _ => Err(E::custom(format!("'{value}' is no rate; {WAY_OUT}"))),
                }
            }

            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Limit, E> {
                match u64::try_from(value) {
                    Ok(rate) if rate > 0 => Ok(Limit(Some(rate))),
                    _ => Err(E::custom(format!("{value} is no rate; {WAY_OUT}"))),
                }
            }
        }
        deserializer.deserialize_any(Rates)
    }
}

/// Tokens of context, or what a model was trained for.
pub(super) struct Context(pub(super) Option<u64>);

impl<'de> Deserialize<'de> for Context {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Tokens;
        const WAY_OUT: &str = r#"write "auto", or a number of tokens from 1 to 1000000000, like 8192 or "32k""#;
        impl Visitor<'_> for Tokens {
            type Value = Context;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(r#""auto" or a number of tokens"#)
            }

            fn visit_str<E: de::Error>(self, value: &str) -> Result<Context, E> {
                if value == "auto" {
                    Ok(Context(None))
                } else {
                    let tokens = tokens(value).map_err(|_| E::custom(format!("'{value}' is no context; {WAY_OUT}")));
                    tokens.map(|tokens| Context(Some(tokens)))
                }
            }

            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Context, E> {
                match u64::try_from(value) {
                    Ok(tokens) if (1..=1_000_000_000).contains(&tokens) => Ok(Context(Some(tokens))),
                    _ => Err(E::custom(format!("{value} is no context; {WAY_OUT}"))),
                }
            }
        }
        deserializer.deserialize_any(Tokens)
    }
}

/// The type of the cache of keys and values.
pub(super) struct Cache(pub(super) CacheType);

impl<'de> Deserialize<'de> for Cache {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        name.parse().map(Self).map_err(|why: String| de::Error::custom(format!("'{name}': {why}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(content: &str) -> String {
        parse(content).err().unwrap()
    }

    #[test]
    fn a_context_is_written_as_on_the_command_line() {
        let context = |value: &str| parse(&format!("fit_context = {value}\n")).unwrap().fit_context.unwrap().0;
        assert_eq!(
            (context("32768"), context("\"32k\""), context("\"1M\"")),
            (Some(32_768), Some(32_768), Some(1 << 20))
        );
        assert_eq!(context("\"auto\""), None);
        let wrong = refused("fit_context = \"32kk\"\n");
        assert!(wrong.contains("'32kk' is no context") && wrong.contains("\"32k\""), "{wrong}");
    }

    #[test]
    fn errors_name_line_and_key() {
        assert_eq!(
            refused("downloads = 2\nlimit = \"abc\"\n"),
            "line 2, key 'limit': 'abc' is no rate; write \"none\", or a rate such as \"50M\""
        );
        let unknown = refused("mouse = true\nmodel_dir = \"/x\"\n");
        assert!(unknown.starts_with("line 2, key 'model_dir': unknown field `model_dir`"), "{unknown}");
        let kind = refused("mouse = 1\n");
        assert!(kind.starts_with("line 1, key 'mouse': invalid type"), "{kind}");
        let broken = refused("mouse = \n");
        assert!(broken.starts_with("line 1"), "{broken}");
        let store = refused("[stores]\nflat = [\n  \"/a\",\n  \"b\",\n]\n");
        assert!(store.starts_with("line 2, key 'flat': 'b' is not absolute"), "{store}");
        for content in ["limit = 0", "limit = \"0\"", "downloads = 0", "connections = 1000", "protect = [\" \"]"] {
            assert!(refused(content).starts_with("line 1, key '"), "{content}");
        }
    }

    #[test]
    fn messages_are_one_printable_line_without_secrets() {
        for content in [
            "endpoint_token = 12345678",
            "endpoint_token = [\"hf_12345678\"]",
            "endpoint_token = \"hf_12345678",
            "endpoint_token = hf_12345678",
            "endpoint = \"https://me:12345678@hub.example\"",
            "limit = \"\u{1b}[31m\\u001b\"",
            "limit = \"a\\nb\"",
        ] {
            let message = refused(content);
            assert!(!message.contains("12345678"), "{message}");
            assert!(!message.chars().any(char::is_control), "{message}");
        }
    }

    #[test]
    fn limits_are_what_people_type() {
        let limit = |content: &str| parse(content).unwrap().limit.unwrap().0;
        assert_eq!(limit("limit = \"50M\""), Some(50 * 1024 * 1024));
        assert_eq!(limit("limit = 1000"), Some(1000));
        assert_eq!(limit("limit = \"none\""), None);
    }

    #[test]
    fn a_huge_or_binary_file_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.toml");
        std::fs::write(&path, vec![b'#'; 2 << 20]).unwrap();
        assert!(read(&path).err().unwrap().to_string().contains("larger than 1 MiB"));
        std::fs::write(&path, b"#\n#\xff").unwrap();
        assert!(read(&path).err().unwrap().to_string().ends_with("line 2: it is not UTF-8 text"));
    }
}
