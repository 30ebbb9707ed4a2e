//! The one table of environment variables.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// One variable that this program reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Variable {
    /// Its name.
    pub name: &'static str,
    /// What it does, in one line.
    pub help: &'static str,
}

const fn variable(name: &'static str, help: &'static str) -> Variable {
    Variable { name, help }
}

/// The environment as a map of values; only the variables of [`Environment::TABLE`] are kept.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Environment(BTreeMap<String, OsString>);

impl Environment {
    /// Every variable that this program reads.
    pub const TABLE: &'static [Variable] = &[
        variable("LLORCH_MODEL_BASE_DIR", "base folder of the flat store"),
        variable("LLORCH_CONVERTER", "convert_hf_to_gguf.py of llama.cpp, or the folder that holds it"),
        variable("HF_ENDPOINT", "base address of the hub (https://huggingface.co)"),
        variable("HF_TOKEN", "token for the public hub, or for HF_ENDPOINT if that is set"),
        variable("HUGGING_FACE_HUB_TOKEN", "older name of HF_TOKEN"),
        variable("HF_TOKEN_PATH", "file with the token ($HF_HOME/token)"),
        variable("HF_HOME", "folder of the Hugging Face tools ($XDG_CACHE_HOME/huggingface)"),
        variable("HF_HUB_CACHE", "the Hugging Face hub cache ($HF_HOME/hub)"),
        variable("HUGGINGFACE_HUB_CACHE", "older name of HF_HUB_CACHE"),
        variable("HF_HUB_DISABLE_SYMLINKS", "1, on, yes or true: files instead of links in the Hugging Face cache"),
        variable("HF_HUB_OFFLINE", "1, on, yes or true: send no request at all"),
        variable("TRANSFORMERS_OFFLINE", "the same as HF_HUB_OFFLINE"),
        variable("LLAMA_CACHE", "llama.cpp's cache ($XDG_CACHE_HOME/llama.cpp)"),
        variable("OLLAMA_MODELS", "Ollama's models folder (~/.ollama/models)"),
        variable("OLLAMA_HOST", "where Ollama's server listens (127.0.0.1:11434)"),
        variable("HTTP_PROXY", "proxy for http addresses"),
        variable("http_proxy", "proxy for http addresses"),
        variable("HTTPS_PROXY", "proxy for https addresses"),
        variable("https_proxy", "proxy for https addresses"),
        variable("ALL_PROXY", "proxy for every address"),
        variable("all_proxy", "proxy for every address"),
        variable("NO_PROXY", "hosts that are reached without a proxy"),
        variable("no_proxy", "hosts that are reached without a proxy"),
        variable("SSL_CERT_FILE", "certificates to trust instead of the system's"),
        variable("SSL_CERT_DIR", "folder of certificates to trust instead of the system's"),
        variable("NO_COLOR", "not empty: no colours"),
        variable("COLORTERM", "truecolor or 24bit: the terminal shows every colour"),
        variable("TERM", "kind of the terminal"),
        variable("LC_ALL", "locale; borders are ASCII where it is not UTF-8"),
        variable("LC_CTYPE", "locale, if LC_ALL is not set"),
        variable("LANG", "locale, if neither LC_ALL nor LC_CTYPE is set"),
        variable("SSH_CONNECTION", "set in an SSH session"),
        variable("TMUX", "set inside tmux: a copied path is wrapped for it"),
        variable("XDG_CONFIG_HOME", "configuration (~/.config)"),
        variable("XDG_STATE_HOME", "queue, log, remembered results (~/.local/state)"),
        variable("XDG_CACHE_HOME", "caches (~/.cache)"),
        variable("XDG_DATA_HOME", "data, the default models folder among it (~/.local/share)"),
        variable("XDG_RUNTIME_DIR", "sockets of this login"),
        variable("PATH", "where convert_hf_to_gguf.py and python3 are looked for"),
        variable("HOME", "home folder"),
        variable("USER", "user name, for paths that mention it"),
    ];

    /// The variables of this process. Where `HOME` is not set, the password file's answer stands in for it.
    #[must_use]
    pub fn of_process() -> Self {
        let mut values: BTreeMap<String, OsString> = Self::TABLE
            .iter()
            .filter_map(|variable| Some((variable.name.to_owned(), std::env::var_os(variable.name)?)))
            .collect();
        if values.get("HOME").is_none_or(|home| home.is_empty())
            && let Some(home) = std::env::home_dir()
        {
            values.insert("HOME".to_owned(), home.into_os_string());
        }
        Self(values)
    }

    /// A made-up environment, for tests and embedding programs.
    pub fn from_pairs<K: Into<String>, V: Into<OsString>>(pairs: impl IntoIterator<Item = (K, V)>) -> Self {
        Self(pairs.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
    }

    /// The value as it is, also if it is empty.
    #[must_use]
    pub fn raw(&self, name: &str) -> Option<&OsStr> {
        self.0.get(name).map(OsString::as_os_str)
    }

    /// The value unless it is unset, empty or not UTF-8.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        self.raw(name).and_then(OsStr::to_str).filter(|value| !value.is_empty())
    }

    /// The value as a path unless it is unset or empty; `~`, `$NAME` and `${NAME}` are expanded as the Hugging Face tools
    /// do, with the variables of this map. What cannot be expanded stays as it is.
    #[must_use]
    pub fn path(&self, name: &str) -> Option<PathBuf> {
        self.raw(name).filter(|value| !value.is_empty()).map(|value| self.expand(value))
    }

    /// Whether the value is one of `1`, `on`, `yes`, `true` in any case.
    #[must_use]
    pub fn flag(&self, name: &str) -> bool {
        self.text(name)
            .is_some_and(|value| ["1", "on", "yes", "true"].iter().any(|yes| value.trim().eq_ignore_ascii_case(yes)))
    }

    /// Whether the locale says that text is UTF-8: the first of `LC_ALL`, `LC_CTYPE`, `LANG` that is set and not empty.
    #[must_use]
    pub fn is_utf8(&self) -> bool {
        ["LC_ALL", "LC_CTYPE", "LANG"].iter().find_map(|name| self.text(name)).is_some_and(|locale| {
            let locale = locale.to_ascii_lowercase();
            locale.contains("utf-8") || locale.contains("utf8")
        })
    }

    fn expand(&self, value: &OsStr) -> PathBuf {
        let home = self.raw("HOME").filter(|home| Path::new(home).is_absolute());
        let mut rest = value.as_bytes();
        let mut out = Vec::with_capacity(rest.len());
        if let (Some(b"~"), Some(home)) = (rest.split(|byte| *byte == b'/').next(), home) {
            out.extend_from_slice(home.as_bytes());
            rest = &rest[1..];
        }
        while let Some(at) = rest.iter().position(|byte| *byte == b'$') {
            out.extend_from_slice(&rest[..at]);
            rest = &rest[at..];
            let (name, length) = variable_name(rest);
            if let Some(found) = name.and_then(|name| self.raw(name)) {
                out.extend_from_slice(found.as_bytes());
                rest = &rest[length..];
            } else {
                out.push(b'$');
                rest = &rest[1..];
            }
        }
        out.extend_from_slice(rest);
        PathBuf::from(OsString::from_vec(out))
    }
}

/// The name in the `$NAME` or `${NAME}` that `text` begins with, and the length of the whole.
fn variable_name(text: &[u8]) -> (Option<&str>, usize) {
    let (name, length) = match text {
        [b'$', b'{', inner @ ..] => match inner.iter().position(|byte| *byte == b'}') {
            Some(end) => (&inner[..end], end + 3),
            None => return (None, 0),
        },
        [b'$', inner @ ..] => {
            let end =
                inner.iter().position(|byte| !byte.is_ascii_alphanumeric() && *byte != b'_').unwrap_or(inner.len());
            (&inner[..end], end + 1)
        }
        _ => return (None, 0),
    };
    (std::str::from_utf8(name).ok().filter(|name| !name.is_empty()), length)
}

/// Shows which variables are set; the value of one that may hold a secret (a token, a proxy's password) is hidden.
impl std::fmt::Debug for Environment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map()
            .entries(self.0.iter().map(|(name, value)| {
                let upper = name.to_ascii_uppercase();
                let hidden = upper.contains("TOKEN") && upper != "HF_TOKEN_PATH"
                    || upper.ends_with("_PROXY")
                    || upper == "HF_ENDPOINT";
                (name, if hidden { OsStr::new("hidden") } else { value })
            }))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_variable_is_in_the_table_once() {
        let mut names: Vec<_> = Environment::TABLE.iter().map(|variable| variable.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Environment::TABLE.len());
    }

    #[test]
    fn empty_text_is_none() {
        let environment = Environment::from_pairs([("HF_TOKEN", "")]);
        assert_eq!(environment.text("HF_TOKEN"), None);
        assert_eq!(environment.raw("HF_TOKEN"), Some(OsStr::new("")));
    }

    #[test]
    fn flags_are_the_four_words() {
        for (value, expected) in [("1", true), ("ON", true), ("Yes", true), ("true", true), ("0", false), ("2", false)]
        {
            assert_eq!(
                Environment::from_pairs([("HF_HUB_OFFLINE", value)]).flag("HF_HUB_OFFLINE"),
                expected,
                "{value}"
            );
        }
        assert!(!Environment::default().flag("HF_HUB_OFFLINE"));
    }

    #[test]
    fn paths_are_expanded() {
        let environment = |value: &str| {
            Environment::from_pairs([("HOME", "/home/alice"), ("USER", "alice"), ("HF_HOME", value)])
                .path("HF_HOME")
                .unwrap()
        };
        assert_eq!(environment("~/hf"), Path::new("/home/alice/hf"));
        assert_eq!(environment("~bob/hf"), Path::new("~bob/hf"));
        assert_eq!(environment("/data/$USER/hf"), Path::new("/data/alice/hf"));
        assert_eq!(environment("/data/${USER}x"), Path::new("/data/alicex"));
        assert_eq!(environment("/data/$NOBODY/$"), Path::new("/data/$NOBODY/$"));
    }

    #[test]
    fn the_first_locale_that_is_set_decides() {
        assert!(Environment::from_pairs([("LANG", "en_US.UTF-8")]).is_utf8());
        assert!(!Environment::from_pairs([("LC_ALL", "C"), ("LANG", "en_US.UTF-8")]).is_utf8());
        assert!(Environment::from_pairs([("LC_ALL", ""), ("LC_CTYPE", "C.utf8")]).is_utf8());
        assert!(!Environment::default().is_utf8());
    }

    #[test]
    fn secrets_do_not_show() {
        let environment = Environment::from_pairs([
            ("HF_TOKEN", "hf_secret"),
            ("HUGGING_FACE_HUB_TOKEN", "hf_secret"),
            ("https_proxy", "http://me:secret@proxy"),
            ("HF_ENDPOINT", "https://me:secret@hub"),
            ("HOME", "/home/alice"),
        ]);
        let shown = format!("{environment:?}");
        assert!(!shown.contains("secret"), "{shown}");
        assert!(shown.contains("/home/alice"));
    }
}
