//! The catalog: short names for well-known models.

use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::LazyLock;

use serde::Deserialize;
use toml::Spanned;

use super::listing::is_id;
use crate::disk::regular;
use crate::error::{Error, Result};
use crate::model::{Reference, RepoPath, text};

/// Largest catalog file that is read.
const LARGEST_FILE: u64 = 1 << 20;

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CatalogEntry {
    /// The short name.
    pub alias: String,
    /// `org/name`.
    pub repository: String,
    /// The file of the repository; of the result where a conversion is needed.
    pub file: String,
    /// Folder of the flat store that a new download goes to.
    pub folder: String,
    /// Folders in which earlier tools kept it.
    pub former_folders: Vec<String>,
    /// Rough size in bytes.
    pub size_bytes: u64,
    /// Output type of the conversion that it needs ("f32"), if it needs one.
    pub conversion: Option<String>,
}

/// The entries by alias: the embedded ones, and a user's own that add and override.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Catalog {
    entries: Vec<CatalogEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    entry: Vec<Spanned<Written>>,
}

/// An entry as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    alias: String,
    repository: String,
    file: String,
    folder: String,
    #[serde(default)]
    former_folders: Vec<String>,
    size_bytes: u64,
    #[serde(default)]
    conversion: Option<String>,
}

static EMBEDDED: LazyLock<Catalog> = LazyLock::new(|| {
    let name = Path::new("assets/catalog.toml");
    let entries = parse(name, include_str!("../../assets/catalog.toml"));
    // A test reads every embedded entry; a build whose file is broken has no short names and says so.
    let entries = entries.unwrap_or_else(|error| {
        tracing::error!("{error}");
        Vec::new()
    });
    Catalog { entries }
});

impl Catalog {
    /// The entries of `assets/catalog.toml`.
    #[must_use]
    pub fn embedded() -> Self {
        EMBEDDED.clone()
    }

    /// The embedded entries with those of `file` added or put in their place; a file that is missing, or that
    /// this user may not read, adds nothing.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] names file, line and entry; [`Error::Io`] when it cannot be read.
    pub fn with_user_file(file: &Path) -> Result<Self> {
        let mut catalog = Self::embedded();
        let text = match regular::read(file, LARGEST_FILE) {
            Ok(Some(text)) => text,
            Ok(None) => return Err(invalid(file, "it is larger than 1 MiB".to_owned())),
            Err(error) if is_absent(&error) => return Ok(catalog),
            Err(error) => return Err(Error::io("read", file)(error)),
        };
        let text = String::from_utf8(text).map_err(|_| invalid(file, "it is not UTF-8".to_owned()))?;
        for entry in parse(file, &text)? {
            match catalog.entries.iter_mut().find(|known| known.alias == entry.alias) {
                Some(known) => *known = entry,
                None => catalog.entries.push(entry),
            }
        }
        Ok(catalog)
    }

    /// Every entry: the embedded ones in their order, then a user's own.
    #[must_use]
    pub fn entries(&self) -> &[CatalogEntry] {
        &self.entries
    }

    /// The entry of that alias, exactly as written.
    #[must_use]
    pub fn get(&self, alias: &str) -> Option<&CatalogEntry> {
        self.entries.iter().find(|entry| entry.alias == alias)
    }
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::PermissionDenied)
}

fn parse(file: &Path, text: &str) -> Result<Vec<CatalogEntry>> {
    let at = |span: Option<Range<usize>>, reason: &str| {
        let line = span.and_then(|span| text.get(..span.start)).map(|before| before.matches('\n').count() + 1);
        let place = line.map(|line| format!("line {line}: ")).unwrap_or_default();
        invalid(file, format!("{place}{}", text::printable(reason)))
    };
    let read: File = toml::from_str(text).map_err(|error| at(error.span(), error.message()))?;
    let mut entries: Vec<CatalogEntry> = Vec::with_capacity(read.entry.len());
    for written in read.entry {
        let span = written.span();
        let entry = check(written.into_inner()).map_err(|reason| at(Some(span.clone()), &reason))?;
        if entries.iter().any(|known| known.alias == entry.alias) {
            return Err(at(Some(span), &format!("the entry '{}' is there twice", entry.alias)));
        }
        entries.push(entry);
    }
    Ok(entries)
}

fn invalid(file: &Path, reason: String) -> Error {
    Error::InvalidConfig { path: file.to_owned(), reason }
}

/// Refuses an entry whose parts could not be used as what they are.
fn check(written: Written) -> std::result::Result<CatalogEntry, String> {
    let Written { alias, repository, file, folder, former_folders, size_bytes, conversion } = written;
    let wrong = |key: &str, value: &str, what: &str| format!("entry '{alias}': {key} '{value}' is no {what}");
    if !is_plain(&alias) {
        return Err(wrong("alias", &alias, "name of one part"));
    }
    if !is_id(&repository) || !repository.contains('/') {
        return Err(wrong("repository", &repository, "org/name"));
    }
    if RepoPath::parse(&file).is_err() {
        return Err(wrong("file", &file, "path in a repository"));
    }
    if let Some(folder) = [&folder].into_iter().chain(&former_folders).find(|folder| !is_plain(folder)) {
        return Err(wrong("folder", folder, "folder name of one part"));
    }
    if i64::try_from(size_bytes).is_err() {
        return Err(wrong("size_bytes", &size_bytes.to_string(), "size"));
    }
    if let Some(conversion) = &conversion
        && (conversion.is_empty() || !conversion.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_'))
    {
        return Err(wrong("conversion", conversion, "output type"));
    }
    Ok(CatalogEntry { alias, repository, file, folder, former_folders, size_bytes, conversion })
}

/// Whether the text is a reference of one part and nothing else.
fn is_plain(name: &str) -> bool {
    RepoPath::parse(name).is_ok()
        && Reference::parse(name).is_ok_and(|reference| reference.name() == name && reference.repository().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_embedded_entry_is_sound() {
        let entries = parse(Path::new("x"), include_str!("../../assets/catalog.toml")).unwrap();
        let aliases: Vec<&str> = entries.iter().map(|entry| entry.alias.as_str()).collect();
        let expected =
            ["tinyllama", "qwen", "qwen-fp16", "phi3", "llama3", "llama32", "llama2", "mistral", "gpt2", "granite"];
        assert_eq!(aliases, expected);
        let converted: Vec<&str> =
            entries.iter().filter(|entry| entry.conversion.is_some()).map(|entry| entry.alias.as_str()).collect();
        assert_eq!(converted, ["gpt2", "granite"]);
        let catalog = Catalog::embedded();
        assert_eq!(catalog.get("qwen-fp16").unwrap().former_folders, ["qwen"]);
        assert_eq!(catalog.get("llama2").unwrap().folder, "llama2-7b");
        assert_eq!(catalog.get("TinyLlama"), None);
    }

    #[test]
    fn a_users_file_adds_and_replaces() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("catalog.toml");
        assert_eq!(Catalog::with_user_file(&file).unwrap(), Catalog::embedded());
        let entry = |alias: &str| {
            format!(
                "[[entry]]\nalias = \"{alias}\"\nrepository = \"a/b\"\nfile = \"q/x.gguf\"\nfolder = \"f\"\nsize_bytes = 1\n"
            )
        };
        std::fs::write(&file, entry("phi3") + &entry("mine")).unwrap();
        let catalog = Catalog::with_user_file(&file).unwrap();
        assert_eq!(catalog.entries().len(), 11);
        assert_eq!(catalog.entries()[3].repository, "a/b");
        assert_eq!(catalog.entries()[10].alias, "mine");
    }

    #[test]
    fn errors_name_file_line_and_entry() {
        let good = "alias = \"m\"\nrepository = \"a/b\"\nfile = \"x.gguf\"\nfolder = \"f\"\nsize_bytes = 1\n";
        let cases = [
            (format!("[[entry]]\n{good}colour = \"red\"\n"), "line 7: unknown field `colour`"),
            (format!("\n\n[[entry]]\n{}", good.replace("a/b", "b")), "line 3: entry 'm': repository 'b'"),
            (format!("[[entry]]\n{}", good.replace("x.gguf", "../x.gguf")), "entry 'm': file '../x.gguf'"),
            (format!("[[entry]]\n{}", good.replace("\"f\"", "\"../f\"")), "entry 'm': folder '../f'"),
            (format!("[[entry]]\n{}", good.replace("\"m\"", "\"a/m\"")), "alias 'a/m'"),
            (format!("[[entry]]\n{good}\n[[entry]]\n{good}"), "line 8: the entry 'm' is there twice"),
            (format!("[[entry]]\n{}", good.replace("= 1", "= -1")), "line 6: "),
            ("[[entry]]\nalias = \"m\"\n".to_owned(), "line 1: missing field `repository`"),
            ("models = 3\n".to_owned(), "line 1: unknown field `models`"),
            ("[[entry\n".to_owned(), "line 1: "),
        ];
        for (text, expected) in cases {
            let error = parse(Path::new("/c/catalog.toml"), &text).unwrap_err().to_string();
            assert!(error.starts_with("/c/catalog.toml: ") && error.contains(expected), "{error} has no {expected}");
            assert!(!error.contains('\n'), "{error}");
        }
    }
}
