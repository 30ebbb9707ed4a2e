//! A repository at one commit, and its files.

use std::collections::HashSet;

use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Number, Value};
use url::Url;

use super::address;
use super::http::Http;
use super::refusal::Asked;
use crate::error::{Error, Result};
use crate::model::{Digest, RemoteFile, RepoPath, text};

/// Most pages and files of one listing. The hub itself advises against repositories of more than 100,000 files.
const MOST_PAGES: usize = 2000;
const MOST_FILES: usize = 200_000;
/// Largest file that is believed: 32 TiB. Even the sum over the largest listing fits a signed 64-bit number.
const LARGEST_FILE: u64 = 1 << 45;
/// Most tags of a repository that are kept, and the longest.
const MOST_TAGS: usize = 200;
const LONGEST_TAG: usize = 200;

/// A repository pinned to a commit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Repository {
    /// `org/name` in the hub's own spelling.
    pub id: String,
    /// The commit that the asked revision means now; everything else is asked for by it.
    pub commit: String,
    /// Whether access has to be asked for.
    pub gated: bool,
    /// Last change.
    pub updated: Option<Timestamp>,
    /// Tags, made printable.
    pub tags: Vec<String>,
    /// What the hub itself says of its model.
    pub summary: Summary,
}

/// What the hub says of the model in a repository. It counts the numbers of one set of weights, packed ones as they lie, and scales
/// too, so that its figures are less exact than those of the headers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Numbers in its tensors.
    pub parameters: Option<u64>,
    /// Architecture of a GGUF model.
    pub architecture: Option<String>,
    /// Training context of a GGUF model.
    pub context_length: Option<u64>,
    /// Whether a GGUF model has a chat template.
    pub chat_template: bool,
}

impl Summary {
    /// From the objects `safetensors` and `gguf` of an answer, of which anything may be missing or of another type.
    fn of(safetensors: &Value, gguf: &Value) -> Self {
        let number = |of: &Value, key: &str| of.get(key).and_then(Value::as_u64).filter(|number| *number > 0);
        let text = |key: &str| gguf.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
        Self {
            parameters: number(gguf, "total").or_else(|| number(safetensors, "total")),
            architecture: text("architecture")
                .map(|name| text::printable(&name.chars().take(LONGEST_TAG).collect::<String>())),
            context_length: number(gguf, "context_length"),
            chat_template: text("chat_template").is_some(),
        }
    }
}

/// The complete listing of a repository at a commit. It exists only whole: a page that failed fails the listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// The repository.
    pub repository: Repository,
    /// Its files whose paths are safe, sorted by path.
    pub files: Vec<RemoteFile>,
    /// Paths that no file here may get, raw and with the reason: a selection that would include one is refused whole.
    pub refused: Vec<(String, String)>,
}

/// `false`, `"auto"` or `"manual"`.
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum Gated {
    Flag(bool),
    Kind(String),
}

pub(super) fn gated(gated: Option<&Gated>) -> bool {
    match gated {
        None | Some(Gated::Flag(false)) => false,
        Some(Gated::Flag(true)) => true,
        Some(Gated::Kind(kind)) => !matches!(kind.as_str(), "" | "false"),
    }
}

pub(super) fn tags(tags: &[String]) -> Vec<String> {
    tags.iter().take(MOST_TAGS).map(|tag| text::printable(&tag.chars().take(LONGEST_TAG).collect::<String>())).collect()
}

/// Whether `id` is `org/name` (or the one part of an old canonical model) in the characters that the hub allows.
pub(super) fn is_id(id: &str) -> bool {
    let is_part = |part: &str| {
        !part.is_empty()
            && part.len() <= 96
            && !part.starts_with('.')
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
    };
    id.split('/').count() <= 2 && id.split('/').all(is_part)
}

#[derive(Deserialize)]
struct Info {
    id: String,
    sha: String,
    #[serde(default)]
    gated: Option<Gated>,
    #[serde(default, rename = "lastModified")]
    last_modified: Option<String>,
    #[serde(default)]
    tags: Vec<String>,
    #[serde(default)]
    safetensors: Value,
    #[serde(default)]
    gguf: Value,
}

pub(super) async fn repository(http: &Http, id: &str, revision: Option<&str>) -> Result<Repository> {
    let mut parts = vec!["api", "models"];
    parts.extend(checked_id(id)?);
    if let Some(revision) = revision {
        parts.extend(["revision", revision]);
    }
    let url = address::below(http.endpoint(), parts)?;
    let asked = Asked { repository: Some(id), revision, file: None };
    let (info, url, _) = http.json::<Info>(&url, &asked).await?;
    let bad = |what: &str, value: &str| {
        let value: String = value.chars().take(100).collect();
        let reason = format!("its {what} of {} is '{}'", text::printable(id), text::printable(&value));
        Error::BadAnswer { url: address::shown(&url), reason }
    };
    if !is_id(&info.id) {
        return Err(bad("id", &info.id));
    }
    let commit = info.sha.to_ascii_lowercase();
    if commit.len() != 40 || !commit.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(bad("commit", &info.sha));
    }
    Ok(Repository {
        commit,
        gated: gated(info.gated.as_ref()),
        updated: info.last_modified.and_then(|time| time.parse().ok()),
        tags: tags(&info.tags),
        summary: Summary::of(&info.safetensors, &info.gguf),
        id: info.id,
    })
}

/// The parts of an id, for an address.
pub(super) fn checked_id(id: &str) -> Result<impl Iterator<Item = &str>> {
    if id.split('/').count() > 2 || id.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Err(Error::InvalidReference {
            reference: text::printable(id),
            reason: "it is no repository; give org/name".to_owned(),
        });
    }
    Ok(id.split('/'))
}

/// Pages of rows, each page's address given by the one before.
pub(super) struct Pages<'a> {
    http: &'a Http,
    next: Option<Url>,
    asked: Asked<'a>,
    visited: HashSet<Url>,
    most: usize,
}

impl<'a> Pages<'a> {
    pub(super) fn new(http: &'a Http, first: Url, asked: Asked<'a>, most: usize) -> Self {
        Self { http, next: Some(first), asked, visited: HashSet::new(), most }
    }

    /// The rows of the next page, or `None` after the last.
    pub(super) async fn next<T: DeserializeOwned>(&mut self) -> Result<Option<Vec<T>>> {
        let Some(url) = self.next.take() else { return Ok(None) };
        let (rows, from, headers) = self.http.json::<Vec<T>>(&url, &self.asked).await?;
        let bad = |reason: String| Error::BadAnswer { url: address::shown(&from), reason };
        self.visited.insert(url);
        if let Some(link) = address::next_page(&headers) {
            let next = from.join(&link).map_err(|_| bad("the link to its next page is no address".to_owned()))?;
            if !address::same_origin(&next, self.http.endpoint()) && !address::same_origin(&next, &from) {
                let host = next.origin().ascii_serialization();
                return Err(bad(format!("its next page lies on another server ({})", text::printable(&host))));
            }
            if self.visited.contains(&next) {
                return Err(bad("its pages lead in a circle".to_owned()));
            }
            if self.visited.len() >= self.most {
                return Err(bad(format!("it has more than {} pages", self.most)));
            }
            self.next = Some(next);
        }
        Ok(Some(rows))
    }
}

/// A row of the tree.
#[derive(Deserialize)]
struct Entry {
    #[serde(rename = "type")]
    kind: String,
    path: String,
    #[serde(default)]
    oid: Option<String>,
    #[serde(default)]
    size: Option<Number>,
    #[serde(default)]
    lfs: Option<Lfs>,
    #[serde(default, rename = "xetHash")]
    xet_hash: Option<String>,
}

/// The same digest has two spellings: `oid` in a tree, `sha256` in a repository's information; mirrors send either or both.
#[derive(Deserialize)]
struct Lfs {
    #[serde(default)]
    oid: Option<String>,
    #[serde(default)]
    sha256: Option<String>,
    #[serde(default)]
    size: Option<Number>,
}

pub(super) async fn listing(http: &Http, repository: &Repository) -> Result<Listing> {
    let parts = ["api", "models"].into_iter().chain(checked_id(&repository.id)?).chain(["tree", &repository.commit]);
    let mut url = address::below(http.endpoint(), parts)?;
    url.query_pairs_mut().append_pair("recursive", "true");
    let shown = address::shown(&url);
    let asked = Asked { repository: Some(&repository.id), revision: Some(&repository.commit), file: None };
    let mut pages = Pages::new(http, url, asked, MOST_PAGES);
    let mut files = Vec::new();
    let mut refused = Vec::new();
    let mut rows = 0;
    while let Some(page) = pages.next::<Entry>().await? {
        rows += page.len();
        if rows > MOST_FILES {
            let reason = format!("its listing has more than {MOST_FILES} rows");
            return Err(Error::BadAnswer { url: shown, reason });
        }
        for entry in page {
            match read_entry(entry) {
                Ok(Some(file)) => files.push(file),
                Ok(None) => {}
                Err(Unfit::Path(path, reason)) => refused.push((path, reason)),
                Err(Unfit::Row(reason)) => return Err(Error::BadAnswer { url: shown, reason }),
            }
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    if let Some(pair) = files.windows(2).find(|pair| pair[0].path == pair[1].path) {
        let reason = format!("it lists '{}' twice", pair[0].path);
        return Err(Error::BadAnswer { url: shown, reason });
    }
    refused.sort();
    Ok(Listing { repository: repository.clone(), files, refused })
}

/// Why a row is no file here.
enum Unfit {
    /// Its path is refused; the rest of the listing stands.
    Path(String, String),
    /// It makes no sense, and so the listing does not.
    Row(String),
}

fn read_entry(entry: Entry) -> std::result::Result<Option<RemoteFile>, Unfit> {
    match entry.kind.as_str() {
        "directory" => return Ok(None),
        "file" => {}
        _ => return Err(Unfit::Path(entry.path, "it is neither a file nor a folder".to_owned())),
    }
    if entry.path.split('/').any(|part| part.eq_ignore_ascii_case(".git")) {
        // Its configuration can name programs that git runs for whoever looks at the folder.
        return Err(Unfit::Path(entry.path, "git would take its folder for a repository".to_owned()));
    }
    let path = match RepoPath::parse(&entry.path) {
        Ok(path) => path,
        Err(Error::UnsafePath { reason, .. }) => return Err(Unfit::Path(entry.path, reason)),
        Err(error) => return Err(Unfit::Path(entry.path, error.to_string())),
    };
    let bad = |what: &str, value: &str| {
        let value: String = value.chars().take(100).collect();
        Unfit::Row(format!("its {what} of '{path}' is '{}'", text::printable(&value)))
    };
    let size_of = |size: Option<&Number>| match size {
        None => Err(bad("size", "missing")),
        Some(number) => {
            number.as_u64().filter(|size| *size <= LARGEST_FILE).ok_or_else(|| bad("size", &number.to_string()))
        }
    };
    let size = size_of(entry.size.as_ref())?;
    let digest = match &entry.lfs {
        Some(lfs) => {
            if lfs.size.is_some() && size_of(lfs.size.as_ref())? != size {
                return Err(bad("size", "told twice and differently"));
            }
            let mut told =
                [&lfs.oid, &lfs.sha256].into_iter().flatten().map(|hex| hex.strip_prefix("sha256:").unwrap_or(hex));
            let first = told.next().ok_or_else(|| bad("SHA-256", "missing"))?;
            let Some(digest @ Digest::Sha256(_)) = Digest::parse(first) else { return Err(bad("SHA-256", first)) };
            if told.any(|other| Digest::parse(other) != Some(digest)) {
                return Err(bad("SHA-256", "told twice and differently"));
            }
            Some(digest)
        }
        // A server that is no git host has identifiers of its own, which check nothing.
        None => entry.oid.as_deref().and_then(Digest::parse).filter(|digest| matches!(digest, Digest::GitSha1(_))),
    };
    let hex_only = |text: Option<String>| {
        text.filter(|text| text.len() <= 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit()))
    };
    Ok(Some(RemoteFile { path, size, digest, blob_id: hex_only(entry.oid), xet_hash: hex_only(entry.xet_hash) }))
}
