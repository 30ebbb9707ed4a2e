//! Searching the hub.

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;

use super::address;
use super::http::Http;
use super::listing::{Gated, Pages, gated, is_id, tags};
use super::refusal::Asked;
use crate::error::Result;
use crate::model::RepoPath;

/// Rows that are asked for at once, at most.
const PAGE: usize = 100;
/// The same with the names of all files, which are many.
const PAGE_WITH_FILES: usize = 20;
/// Most pages of one search.
const MOST_PAGES: usize = 50;

/// What to search for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SearchQuery {
    /// Words that each must occur in the id.
    pub text: String,
    /// Most hits to give.
    pub limit: usize,
}

/// One hit. Names and tags are made printable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SearchHit {
    /// `org/name`.
    pub id: String,
    /// Downloads of the last month.
    pub downloads: u64,
    /// Likes.
    pub likes: u64,
    /// Last change.
    pub updated: Option<Timestamp>,
    /// Whether access has to be asked for.
    pub gated: bool,
    /// Tags.
    pub tags: Vec<String>,
}

/// A row of the answer. What is missing or of another type than expected is unknown: one odd row hides no other.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Row {
    id: Value,
    downloads: Value,
    likes: Value,
    #[serde(rename = "lastModified")]
    last_modified: Value,
    gated: Value,
    tags: Value,
    siblings: Value,
}

impl Row {
    /// The hit, and the paths of its files; `None` for a row without an id.
    fn read(mut self) -> Option<(SearchHit, Vec<RepoPath>)> {
        let id = self.id.as_str().filter(|id| is_id(id))?.to_owned();
        let texts: Vec<String> = list(self.tags.take()).into_iter().filter_map(text).collect();
        let siblings = list(self.siblings.take());
        let names = siblings.iter().filter_map(|sibling| sibling.get("rfilename")?.as_str());
        let hit = SearchHit {
            id,
            downloads: self.downloads.as_u64().unwrap_or(0),
            likes: self.likes.as_u64().unwrap_or(0),
            updated: self.last_modified.as_str().and_then(|time| time.parse().ok()),
            gated: gated(serde_json::from_value::<Gated>(self.gated).ok().as_ref()),
            tags: tags(&texts),
        };
        Some((hit, names.filter_map(|name| RepoPath::parse(name).ok()).collect()))
    }
}

fn list(value: Value) -> Vec<Value> {
    match value {
        Value::Array(list) => list,
        _ => Vec::new(),
    }
}

fn text(value: Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text),
        _ => None,
    }
}

/// Hits, each with the paths of its files if `files` asks for them; paths that are not safe are left out.
pub(super) async fn search(http: &Http, query: &SearchQuery, files: bool) -> Result<Vec<(SearchHit, Vec<RepoPath>)>> {
    let mut hits = Vec::new();
    if query.limit == 0 {
        return Ok(hits);
    }
    let mut url = address::below(http.endpoint(), ["api", "models"])?;
    let words: Vec<&str> = query.text.split_whitespace().collect();
    url.query_pairs_mut()
        .append_pair("search", &words.join(" "))
        .append_pair("sort", "downloads")
        .append_pair("limit", &query.limit.min(if files { PAGE_WITH_FILES } else { PAGE }).to_string())
        .extend_pairs(["downloads", "likes", "lastModified", "gated", "tags"].map(|key| ("expand", key)))
        .extend_pairs(files.then_some(("expand", "siblings")));
    let mut pages = Pages::new(http, url, Asked::default(), MOST_PAGES);
    while hits.len() < query.limit {
        let Some(rows) = pages.next::<Value>().await? else { break };
        hits.extend(rows.into_iter().filter_map(|row| serde_json::from_value::<Row>(row).ok()?.read()));
    }
    hits.truncate(query.limit);
    Ok(hits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_values_are_unknown_and_hide_nothing() {
        let read = |json: &str| serde_json::from_str::<Row>(json).ok().and_then(Row::read);
        let (hit, files) = read(
            r#"{"id":"a/b","downloads":-5,"likes":1.5,"lastModified":7,"gated":[],"tags":null,"siblings":[1,{"rfilename":"../x"},{"rfilename":"y"}]}"#,
        )
        .unwrap();
        assert_eq!((hit.downloads, hit.likes, hit.updated, hit.gated), (0, 0, None, false));
        assert!(hit.tags.is_empty());
        assert_eq!(files.iter().map(RepoPath::as_str).collect::<Vec<_>>(), ["y"]);
        let (hit, _) = read(r#"{"id":"a/b","tags":["x",null,3,"y"],"gated":"auto","downloads":9}"#).unwrap();
        assert_eq!((hit.tags, hit.gated, hit.downloads), (vec!["x".to_owned(), "y".to_owned()], true, 9));
        for none in ["{}", r#"{"id":5}"#, r#"{"id":"../x"}"#, r#"{"id":null}"#] {
            assert!(read(none).is_none(), "{none}");
        }
    }
}
