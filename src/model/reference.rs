//! What a person types to name a model.

use std::fmt;

use super::{RepoPath, text};
use crate::error::{Error, Result};

/// Hosts whose model pages are read as references.
const HUB_HOSTS: [&str; 3] = ["huggingface.co", "www.huggingface.co", "hf.co"];

/// A checked reference: a catalog alias, a folder name or `org/name`, each with `:QUANT` and/or `@REVISION`.
///
/// `hf://org/name`, `hf.co/org/name` and the URL of a model's page on the hub mean `org/name`. Checking touches no disk.
/// What a reference resolves to is the business of the store and the catalog.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Reference {
    text: String,
    name: String,
    quantization: Option<String>,
    revision: Option<String>,
    file: Option<RepoPath>,
}

impl Reference {
    /// Reads a reference.
    ///
    /// # Errors
    /// [`Error::InvalidReference`] for what is empty, `.`, `..`, absolute, hidden, has a NUL, a backslash, an
    /// empty or `..` part, or more than two parts.
    pub fn parse(text: &str) -> Result<Self> {
        Self::read(text, None)
    }

    /// Reads a reference where `endpoint` is the hub: the page of a model there is read like one of the public hub.
    ///
    /// # Errors
    /// As [`Self::parse`].
    pub fn parse_at(text: &str, endpoint: &str) -> Result<Self> {
        Self::read(text, Some(endpoint))
    }

    fn read(text: &str, endpoint: Option<&str>) -> Result<Self> {
        let refuse =
            |reason: &str| Err(Error::InvalidReference { reference: text::printable(text), reason: reason.to_owned() });
        if text.trim().is_empty() {
            return refuse("it is empty");
        }
        // White space around a pasted address or org/name means nothing; in a folder's name it is part of the name.
        let trimmed = if text.contains('/') { text.trim() } else { text };
        if trimmed.contains('\0') {
            return refuse("it has a NUL character");
        }
        if trimmed.contains('\\') {
            return refuse("it has a backslash");
        }
        if let Some(rest) = trimmed.strip_prefix("hf://") {
            return Self::from_parts(text, rest.trim_end_matches('/'));
        }
        if let Some(path) = endpoint.and_then(|endpoint| below(trimmed, endpoint)) {
            return Self::from_path(text, path);
        }
        if let Some((scheme, rest)) = trimmed.split_once("://") {
            if !matches!(scheme, "http" | "https") {
                return refuse("only hf:// and the model's page can be given as an address");
            }
            return Self::from_page(text, rest);
        }
        Self::from_parts(text, without_host(trimmed).unwrap_or(trimmed))
    }

    /// `host/org/name[/(tree|blob|resolve)/REVISION[/FILE]]`, without scheme.
    fn from_page(text: &str, rest: &str) -> Result<Self> {
        let refuse = |reason: String| Err(Error::InvalidReference { reference: text::printable(text), reason });
        let (host, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        if !HUB_HOSTS.contains(&host.to_ascii_lowercase().as_str()) {
            return refuse(format!("{} is not a model hub; give org/name", text::printable(host)));
        }
        Self::from_path(text, path.strip_prefix('/').unwrap_or(path))
    }

    /// `org/name[/(tree|blob|resolve)/REVISION[/FILE]]`, percent-encoded.
    fn from_path(text: &str, path: &str) -> Result<Self> {
        let refuse = |reason: String| Err(Error::InvalidReference { reference: text::printable(text), reason });
        let path = path.split(['?', '#']).next().unwrap_or(path);
        let decoded = percent_encoding::percent_decode_str(path.trim_end_matches('/')).decode_utf8();
        let Ok(decoded) = decoded else { return refuse("its address is not UTF-8".to_owned()) };
        let mut parts = decoded.splitn(4, '/');
        let (Some(org), Some(name)) = (parts.next(), parts.next()) else {
            return refuse("the address names no model; give org/name".to_owned());
        };
        if matches!(org, "datasets" | "spaces") {
            return refuse("it is the page of a dataset or a space, not of a model".to_owned());
        }
        let mut reference = Self::from_parts(text, &format!("{org}/{name}"))?;
        if matches!(parts.next(), Some("tree" | "blob" | "resolve" | "raw"))
            && let Some(tail) = parts.next()
        {
            let (revision, file) = tail.split_once('/').map_or((tail, None), |(r, f)| (r, Some(f)));
            if revision != "main" {
                reference.revision = Some(checked_revision(text, revision)?);
            }
            reference.file = file.map(RepoPath::parse).transpose()?;
        }
        Ok(reference)
    }

    /// `NAME[:QUANT][@REVISION]`, in either order.
    fn from_parts(text: &str, body: &str) -> Result<Self> {
        let refuse =
            |reason: &str| Err(Error::InvalidReference { reference: text::printable(text), reason: reason.to_owned() });
        let (head, revision) = body.split_once('@').map_or((body, None), |(head, tail)| (head, Some(tail)));
        let (name, mut quantization) = head.split_once(':').map_or((head, None), |(name, q)| (name, Some(q)));
        let revision = match revision {
            Some(tail) => match tail.split_once(':') {
                Some((revision, q)) if quantization.is_none() => {
                    quantization = Some(q);
                    Some(revision)
                }
                _ => Some(tail),
            },
            None => None,
        };
        if name.is_empty() {
            return refuse("it has no name");
        }
        if name.starts_with('/') {
            return refuse("it is an absolute path");
        }
        for part in name.split('/') {
            match part {
                "" => return refuse("it has an empty part"),
                "." | ".." => return refuse("it has a '.' or '..' part"),
                part if part.starts_with('.') => return refuse("it names a hidden folder"),
                part if part.len() > 255 => return refuse("a part of it is too long"),
                _ => {}
            }
        }
        if name.matches('/').count() > 1 {
            return refuse("it has more parts than org/name");
        }
        if let Some(q) = quantization {
            if q.is_empty() {
                return refuse("nothing follows the ':'");
            }
            if q.len() > 64 || !q.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.')) {
                return refuse("what follows the ':' is no quantization");
            }
        }
        Ok(Self {
            text: text.to_owned(),
            name: name.to_owned(),
            quantization: quantization.map(str::to_ascii_uppercase),
            revision: revision.map(|revision| checked_revision(text, revision)).transpose()?,
            file: None,
        })
    }

    /// The text as it was given.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The alias, folder or `org/name`, without quantization and revision.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// `org/name`, if that is what it is.
    #[must_use]
    pub fn repository(&self) -> Option<&str> {
        self.name.contains('/').then_some(self.name.as_str())
    }

    /// The last part of the name.
    #[must_use]
    pub fn last_part(&self) -> &str {
        self.name.rsplit('/').next().unwrap_or(&self.name)
    }

    /// The quantization in upper case.
    #[must_use]
    pub fn quantization(&self) -> Option<&str> {
        self.quantization.as_deref()
    }

    /// The branch, tag or commit.
    #[must_use]
    pub fn revision(&self) -> Option<&str> {
        self.revision.as_deref()
    }

    /// The same name and revision without quantization and file.
    #[must_use]
    pub fn of_repository(&self) -> Self {
        Self { quantization: None, file: None, ..self.clone() }
    }

    /// The one file that the page of a file names.
    #[must_use]
    pub fn file(&self) -> Option<&RepoPath> {
        self.file.as_ref()
    }
}

/// `org/name…` of `hf.co/org/name…`, as Ollama and llama.cpp name models of the hub. Without a third part the host is none.
fn without_host(text: &str) -> Option<&str> {
    let (host, rest) = text.split_once('/')?;
    let (org, name) = rest.split(['@', ':']).next().unwrap_or(rest).split_once('/')?;
    let is_hub = HUB_HOSTS.iter().any(|known| known.eq_ignore_ascii_case(host));
    let is_model = !name.contains('/') && !matches!(org, "datasets" | "spaces");
    (is_hub && is_model).then_some(rest)
}

/// What of `address` comes after `endpoint` and a slash. Scheme and host are compared without case, as they are meant.
fn below<'a>(address: &'a str, endpoint: &str) -> Option<&'a str> {
    let endpoint = endpoint.trim_end_matches('/');
    let path_at = endpoint.find("://").map(|at| at + 3)?;
    let path_at = endpoint[path_at..].find('/').map_or(endpoint.len(), |at| path_at + at);
    let (origin, path) = (address.get(..path_at)?, address.get(path_at..)?);
    if !origin.eq_ignore_ascii_case(&endpoint[..path_at]) {
        return None;
    }
    path.strip_prefix(&endpoint[path_at..])?.strip_prefix('/')
}

fn checked_revision(text: &str, revision: &str) -> Result<String> {
    let bad = revision.is_empty()
        || revision.len() > 255
        || revision.starts_with('/')
        || revision.split('/').any(|part| part.is_empty() || part == "." || part == "..")
        || revision
            .chars()
            .any(|c| c.is_whitespace() || c.is_control() || matches!(c, ':' | '?' | '*' | '[' | '~' | '^'));
    if bad {
        return Err(Error::InvalidReference {
            reference: text::printable(text),
            reason: "what follows the '@' is no branch, tag or commit".to_owned(),
        });
    }
    Ok(revision.to_owned())
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        if let Some(quantization) = &self.quantization {
            write!(f, ":{quantization}")?;
        }
        if let Some(revision) = &self.revision {
            write!(f, "@{revision}")?;
        }
        Ok(())
    }
}

impl std::str::FromStr for Reference {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::parse(text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_written_form_is_read() {
        let cases = [
            ("tinyllama", "tinyllama", None, None),
            ("org/Name", "org/Name", None, None),
            ("org/name:q4_k_m", "org/name", Some("Q4_K_M"), None),
            ("org/name@v1.0", "org/name", None, Some("v1.0")),
            ("org/name:Q8_0@refs/pr/1", "org/name", Some("Q8_0"), Some("refs/pr/1")),
            ("org/name@main:Q8_0", "org/name", Some("Q8_0"), Some("main")),
            ("hf://org/name", "org/name", None, None),
            ("hf.co/org/name", "org/name", None, None),
            ("hf.co/org/name:q8_0", "org/name", Some("Q8_0"), None),
            ("HuggingFace.co/org/name:Q8_0@refs/pr/1", "org/name", Some("Q8_0"), Some("refs/pr/1")),
            ("hf.co/name", "hf.co/name", None, None),
            ("https://huggingface.co/org/name", "org/name", None, None),
            ("https://huggingface.co/org/name/", "org/name", None, None),
            ("https://hf.co/org/name/tree/main?x=1", "org/name", None, None),
            ("https://huggingface.co/org/name/tree/v2", "org/name", None, Some("v2")),
            ("my folder", "my folder", None, None),
            ("folder ", "folder ", None, None),
            (" org/name\n", "org/name", None, None),
        ];
        for (text, name, quantization, revision) in cases {
            let reference = Reference::parse(text).unwrap();
            assert_eq!(
                (reference.name(), reference.quantization(), reference.revision()),
                (name, quantization, revision),
                "{text}"
            );
        }
    }

    #[test]
    fn the_page_of_a_file_names_the_file() {
        let reference = Reference::parse("https://huggingface.co/org/name/blob/main/Q4/m%20x.gguf").unwrap();
        assert_eq!(reference.name(), "org/name");
        assert_eq!(reference.file().unwrap().as_str(), "Q4/m x.gguf");
    }

    #[test]
    fn pages_of_the_endpoint_are_references_and_no_others() {
        let hub = "http://127.0.0.1:8080";
        let name = |text: &str, endpoint: &str| Reference::parse_at(text, endpoint).map(|found| found.to_string()).ok();
        assert_eq!(name("http://127.0.0.1:8080/org/name", hub).as_deref(), Some("org/name"));
        assert_eq!(name("HTTP://127.0.0.1:8080/org/name/tree/v2?x", hub).as_deref(), Some("org/name@v2"));
        assert_eq!(name("https://Hub.example/base/org/name", "https://hub.example/base/").as_deref(), Some("org/name"));
        assert_eq!(name("https://hf.co/org/name", hub).as_deref(), Some("org/name"));
        for other in [
            "http://127.0.0.1:80801/org/name",
            "http://127.0.0.1/org/name",
            "https://127.0.0.1:8080/org/name",
            "http://127.0.0.1:8080@evil.example/org/name",
            "http://127.0.0.1:8080",
            "http://127.0.0.1:8080/../etc",
            "http://127.0.0.1:8080/a/%2e%2e",
        ] {
            assert_eq!(name(other, hub), None, "{other}");
        }
        assert_eq!(name("https://hub.example/basement/org/name", "https://hub.example/base"), None);
    }

    #[test]
    fn hostile_references_are_refused() {
        let cases = [
            "",
            " ",
            ".",
            "..",
            "/",
            "/etc",
            "/abs/path",
            "../x",
            "a/..",
            "a/../b",
            "a//b",
            "a/",
            "a\\b",
            "a\0b",
            "a/b/c",
            ":Q4",
            "@main",
            "a:",
            "a@",
            "a:Q4/..",
            "a@../../x",
            ".cache",
            "org/.git",
            "https://evil.example/org/name",
            "ftp://x/y",
            "hf://",
            "hf:///etc/passwd",
            "hf://../x",
            "https://huggingface.co/",
            "https://huggingface.co/datasets/x/y",
            "hf.co/datasets/x",
            "hf.co/datasets/x/y",
            "hf.co/../x",
            "hf.co/org/",
            "example.org/org/name",
            "datasets/org/name",
            "https://huggingface.co/a/%2e%2e",
        ];
        for text in cases {
            assert!(matches!(Reference::parse(text), Err(Error::InvalidReference { .. })), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_accepted_names_plain_parts(text in any::<String>()) {
            if let Ok(reference) = Reference::parse(&text) {
                prop_assert!(reference.name().split('/').all(|part| !part.is_empty() && !part.starts_with('.')));
                prop_assert!(!reference.name().contains(['\0', '\\']));
            }
        }

        #[test]
        fn display_reads_back(name in "[a-z][a-z0-9-]{0,8}(/[a-z][a-z0-9.]{0,8})?", q in proptest::option::of("[A-Z0-9_]{1,6}"), rev in proptest::option::of("[a-z0-9]{1,8}")) {
            let text = format!("{name}{}{}", q.map(|q| format!(":{q}")).unwrap_or_default(), rev.map(|r| format!("@{r}")).unwrap_or_default());
            let reference = Reference::parse(&text).unwrap();
            prop_assert_eq!(reference.to_string(), text);
        }
    }
}
