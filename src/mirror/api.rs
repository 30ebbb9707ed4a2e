//! The calls under `/api/`: search, repository info, tree, refs.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::answer;
use super::content::Gate;
use super::library::{Entry, Library, Snapshot, Summary, git_id};
use crate::error::Result;
use crate::model::Digest;

/// Most rows that one page has, whatever the client asks for.
const MOST_ROWS: usize = 1000;

/// The query of a request, decoded.
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    pub(super) fn parse(query: Option<&str>) -> Self {
        Self(url::form_urlencoded::parse(query.unwrap_or_default().as_bytes()).into_owned().collect())
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(key, _)| key.trim_end_matches("[]") == name).map(|(_, value)| value.as_str())
    }

    fn is_true(&self, name: &str) -> bool {
        self.get(name).is_some_and(|value| value.eq_ignore_ascii_case("true") || value == "1")
    }

    /// The page that is asked for: where it starts and how many rows it has.
    fn page(&self, default: usize) -> Option<(usize, usize)> {
        let start = match self.get("cursor") {
            Some(cursor) => usize::from_str_radix(cursor.strip_prefix("at")?, 16).ok()?,
            None => 0,
        };
        let limit = match self.get("limit") {
            Some(limit) => limit.parse::<usize>().ok()?.clamp(1, MOST_ROWS).min(default),
            None => default,
        };
        Some((start, limit))
    }

    fn with_cursor(&self, at: usize) -> String {
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        query.extend_pairs(self.0.iter().filter(|(key, _)| key != "cursor"));
        query.append_pair("cursor", &format!("at{at:x}"));
        query.finish()
    }
}

/// One page of `all`, with the address of the next one in `Link`; only the rows of the page are made.
fn paged<T>(
    all: &[T],
    row: impl FnMut(&T) -> Result<Value>,
    query: &Query,
    default: usize,
    here: &str,
) -> Result<Response> {
    let Some((start, limit)) = query.page(default) else {
        return Ok(answer::refusal(StatusCode::BAD_REQUEST, None, "Invalid cursor or limit"));
    };
    let page: Vec<Value> = all.iter().skip(start).take(limit).map(row).collect::<Result<_>>()?;
    let end = start.saturating_add(limit);
    let mut response = axum::Json(page).into_response();
    if end < all.len() {
        answer::insert(&mut response, "link", &format!("<{here}?{}>; rel=\"next\"", query.with_cursor(end)));
    }
    Ok(response)
}

/// `GET /api/models`; `here` is the address of this call without its query. Blocks: rows that tell the commit need the
/// digests of their files, the others only names.
pub(super) fn search(library: &Library, query: &Query, page: usize, here: &str) -> Result<Response> {
    let ids = library.content().repositories()?;
    let mut found = Vec::with_capacity(ids.len());
    for id in &ids {
        found.extend(library.summary(id)?);
    }
    let words: Vec<String> =
        query.get("search").unwrap_or_default().split_whitespace().map(str::to_ascii_lowercase).collect();
    let filters: Vec<&str> = query.all("filter").flat_map(|value| value.split(',')).collect();
    let author = query.get("author");
    found.retain(|summary| {
        let id = summary.id.to_ascii_lowercase();
        let tags = summary.tags();
        words.iter().all(|word| id.contains(word.as_str()))
            && filters.iter().all(|filter| tags.iter().any(|tag| tag == filter))
            && author.is_none_or(|author| summary.id.split('/').next() == Some(author))
    });
    match query.get("sort") {
        Some("likes" | "likes7d") => found.sort_by_key(|summary| Reverse(summary.facts.likes)),
        Some("lastModified" | "createdAt") => found.sort_by_key(|summary| Reverse(summary.modified)),
        _ => found.sort_by_key(|summary| Reverse(summary.facts.downloads)),
    }
    let expand: Vec<&str> = query.all("expand").collect();
    let full = query.is_true("full");
    let with_commit = full || expand.contains(&"sha");
    let make = |summary: &Summary| {
        let snapshot = if with_commit { library.snapshot(&summary.id)? } else { None };
        Ok(row(summary, snapshot.as_ref().map(|snapshot| snapshot.commit.as_str()), &expand, full))
    };
    paged(&found, make, query, page, here)
}

fn row(summary: &Summary, commit: Option<&str>, expand: &[&str], full: bool) -> Value {
    let mut all = facts(summary);
    all.insert("modelId".into(), json!(summary.id));
    all.insert("sha".into(), json!(commit));
    if full || expand.contains(&"siblings") {
        let names: Vec<Value> = summary.paths.iter().map(|path| json!({ "rfilename": path.as_str() })).collect();
        all.insert("siblings".into(), json!(names));
    }
    if !expand.is_empty() {
        all.retain(|key, _| key == "_id" || key == "id" || expand.contains(&key.as_str()));
    } else if !full {
        for key in ["author", "sha", "lastModified", "gated", "disabled"] {
            all.remove(key);
        }
    }
    Value::Object(all)
}

fn facts(summary: &Summary) -> Map<String, Value> {
    let modified = Timestamp::from_second(summary.modified).unwrap_or_default();
    let modified = modified.strftime("%Y-%m-%dT%H:%M:%S.000Z").to_string();
    let tags = summary.tags();
    let library = tags.iter().find(|tag| matches!(tag.as_str(), "gguf" | "safetensors")).cloned();
    let mut key = git_id("repository", summary.id.as_bytes()).to_string();
    key.truncate(24);
    let gated = match summary.facts.gate {
        Gate::Open => json!(false),
        Gate::Auto => json!("auto"),
        Gate::Manual => json!("manual"),
    };
    let Value::Object(facts) = json!({
        "_id": key,
        "id": summary.id,
        "author": summary.id.split('/').next(),
        "lastModified": modified,
        "createdAt": modified,
        "private": false,
        "gated": gated,
        "disabled": false,
        "downloads": summary.facts.downloads,
        "likes": summary.facts.likes,
        "trendingScore": summary.facts.likes,
        "tags": tags,
        "pipeline_tag": "text-generation",
        "library_name": library,
    }) else {
        return Map::new();
    };
    facts
}

/// `GET /api/models/{id}[/revision/{rev}]`.
pub(super) fn info(snapshot: &Snapshot, query: &Query) -> Response {
    let blobs = query.is_true("blobs");
    let siblings: Vec<Value> = snapshot
        .files
        .iter()
        .map(|file| {
            if !blobs {
                return json!({ "rfilename": file.path.as_str() });
            }
            let mut sibling = json!({ "rfilename": file.path.as_str(), "blobId": file.blob_id, "size": file.size });
            if let (Some(pointer), Value::Object(sibling)) = (file.pointer, &mut sibling) {
                let lfs = json!({ "sha256": file.digest, "size": file.size, "pointerSize": pointer });
                sibling.insert("lfs".into(), lfs);
            }
            sibling
        })
        .collect();
    let mut all = facts(&snapshot.summary);
    all.insert("modelId".into(), json!(snapshot.summary.id));
    all.insert("sha".into(), json!(snapshot.commit));
    all.insert("siblings".into(), json!(siblings));
    let used: u64 = snapshot.files.iter().map(|file| file.size).sum();
    all.insert("usedStorage".into(), json!(used));
    let expand: Vec<&str> = query.all("expand").collect();
    if !expand.is_empty() {
        all.retain(|key, _| key == "_id" || key == "id" || expand.contains(&key.as_str()));
    }
    axum::Json(all).into_response()
}

/// `GET /api/models/{id}/tree/{rev}[/{folder}]`.
pub(super) fn tree(snapshot: &Snapshot, folder: &str, query: &Query, page: usize, here: &str) -> Response {
    let prefix = if folder.is_empty() { String::new() } else { format!("{folder}/") };
    let recursive = query.is_true("recursive");
    let mut folders = BTreeSet::new();
    let mut files = Vec::new();
    for file in &snapshot.files {
        let Some(rest) = file.path.as_str().strip_prefix(&prefix) else { continue };
        for (at, _) in rest.match_indices('/') {
            if recursive || !rest[..at].contains('/') {
                folders.insert(format!("{prefix}{}", &rest[..at]));
            }
        }
        if recursive || !rest.contains('/') {
            files.push(file);
        }
    }
    if !folder.is_empty() && folders.is_empty() && files.is_empty() {
        return answer::entry_not_found(&snapshot.commit);
    }
    let rows: Vec<Value> = folders
        .iter()
        .map(|path| json!({ "type": "directory", "oid": git_id("tree", path.as_bytes()), "size": 0, "path": path }))
        .chain(files.into_iter().map(entry))
        .collect();
    let cut = |row: &Value| Ok(row.clone());
    paged(&rows, cut, query, page, here).unwrap_or_else(|error| answer::internal(&error))
}

fn entry(file: &Entry) -> Value {
    let mut row = json!({ "type": "file", "oid": file.blob_id, "size": file.size, "path": file.path.as_str() });
    if let (Some(pointer), Digest::Sha256(_), Value::Object(row)) = (file.pointer, file.digest, &mut row) {
        row.insert("lfs".into(), json!({ "oid": file.digest, "size": file.size, "pointerSize": pointer }));
    }
    row
}

/// `POST /api/models/{id}/paths-info/{rev}` with a form or JSON body.
pub(super) fn paths_info(snapshot: &Snapshot, body: &[u8]) -> Response {
    let paths: Vec<String> = match serde_json::from_slice::<Value>(body) {
        Ok(value) => value["paths"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|path| path.as_str().map(str::to_owned))
            .collect(),
        Err(_) => url::form_urlencoded::parse(body)
            .filter(|(key, _)| key == "paths")
            .map(|(_, value)| value.into_owned())
            .collect(),
    };
    let rows: Vec<Value> = paths.iter().filter_map(|path| snapshot.file(path)).map(entry).collect();
    axum::Json(rows).into_response()
}

/// `GET /api/models/{id}/refs`.
pub(super) fn refs(snapshot: &Snapshot) -> Response {
    let tags: Vec<Value> = snapshot
        .summary
        .facts
        .revisions
        .iter()
        .map(|name| json!({ "name": name, "ref": format!("refs/tags/{name}"), "targetCommit": snapshot.commit }))
        .collect();
    axum::Json(json!({
        "branches": [{ "name": "main", "ref": "refs/heads/main", "targetCommit": snapshot.commit }],
        "converts": [],
        "tags": tags,
    }))
    .into_response()
}
