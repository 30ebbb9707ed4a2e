//! Searching the hub.

use jiff::Timestamp;
use serde::Deserialize;

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

#[derive(Deserialize)]
struct Row {
    id: String,
    #[serde(default)]
    downloads: u64,
    #[serde(default)]
    likes: i64,
    #[serde(default, rename = "lastModified")]
    last_modified: Option<String>,
    #[serde(default)]
    gated: Option<Gated>,
    #[serde(default)]
    tags: Vec<String>,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
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
        let Some(rows) = pages.next::<Row>().await? else { break };
        hits.extend(rows.into_iter().filter(|row| is_id(&row.id)).map(|row| {
            let paths = row.siblings.iter().filter_map(|sibling| RepoPath::parse(&sibling.rfilename).ok()).collect();
            let hit = SearchHit {
                downloads: row.downloads,
                likes: u64::try_from(row.likes).unwrap_or(0),
                updated: row.last_modified.and_then(|time| time.parse().ok()),
                gated: gated(row.gated.as_ref()),
                tags: tags(&row.tags),
                id: row.id,
            };
            (hit, paths)
        }));
    }
    hits.truncate(query.limit);
    Ok(hits)
}
