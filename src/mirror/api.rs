//! The calls under `/api/`: search, repository info, tree, refs.

use std::collections::BTreeSet;

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::answer;
use super::content::Gate;
use super::library::{Entry, Snapshot, git_id};
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

/// One page of `rows`, with the address of the next one in `Link`.
fn paged(rows: Vec<Value>, query: &Query, default: usize, here: &str) -> Response {
    let Some((start, limit)) = query.page(default) else {
        return answer::refusal(StatusCode::BAD_REQUEST, None, "Invalid cursor or limit");
    };
    let total = rows.len();
    let page: Vec<Value> = rows.into_iter().skip(start).take(limit).collect();
    let end = start.saturating_add(limit);
    let mut response = axum::Json(page).into_response();
    if end < total {
        answer::insert(&mut response, "link", &format!("<{here}?{}>; rel=\"next\"", query.with_cursor(end)));
    }
    response
}

/// `GET /api/models`. `snapshots` are all repositories; `here` is the address of this call without its query.
pub(super) fn search(mut snapshots: Vec<Snapshot>, query: &Query, page: usize, here: &str) -> Response {
    let words: Vec<String> =
        query.get("search").unwrap_or_default().split_whitespace().map(str::to_ascii_lowercase).collect();
    let filters: Vec<&str> = query.all("filter").flat_map(|value| value.split(',')).collect();
    let author = query.get("author");
    snapshots.retain(|snapshot| {
        let id = snapshot.id.to_ascii_lowercase();
        let tags = snapshot.tags();
        words.iter().all(|word| id.contains(word.as_str()))
            && filters.iter().all(|filter| tags.iter().any(|tag| tag == filter))
            && author.is_none_or(|author| snapshot.id.split('/').next() == Some(author))
    });
    match query.get("sort") {
        Some("likes" | "likes7d") => snapshots.sort_by_key(|snapshot| std::cmp::Reverse(snapshot.facts.likes)),
        Some("lastModified" | "createdAt") => snapshots.sort_by_key(|snapshot| std::cmp::Reverse(snapshot.modified)),
        _ => snapshots.sort_by_key(|snapshot| std::cmp::Reverse(snapshot.facts.downloads)),
    }
    let expand: Vec<&str> = query.all("expand").collect();
    let full = query.is_true("full");
    let rows = snapshots.iter().map(|snapshot| row(snapshot, &expand, full)).collect();
    paged(rows, query, page, here)
}

fn row(snapshot: &Snapshot, expand: &[&str], full: bool) -> Value {
    let mut all = facts(snapshot);
    all.insert("modelId".into(), json!(snapshot.id));
    if full || expand.contains(&"siblings") {
        let names: Vec<Value> = snapshot.files.iter().map(|file| json!({ "rfilename": file.path.as_str() })).collect();
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

fn facts(snapshot: &Snapshot) -> Map<String, Value> {
    let modified = Timestamp::from_second(snapshot.modified).unwrap_or_default();
    let modified = modified.strftime("%Y-%m-%dT%H:%M:%S.000Z").to_string();
    let tags = snapshot.tags();
    let library = tags.iter().find(|tag| matches!(tag.as_str(), "gguf" | "safetensors")).cloned();
    let mut key = git_id("repository", snapshot.id.as_bytes()).to_string();
    key.truncate(24);
    let gated = match snapshot.facts.gate {
        Gate::Open => json!(false),
        Gate::Auto => json!("auto"),
        Gate::Manual => json!("manual"),
    };
    let Value::Object(facts) = json!({
        "_id": key,
        "id": snapshot.id,
        "author": snapshot.id.split('/').next(),
        "sha": snapshot.commit,
        "lastModified": modified,
        "createdAt": modified,
        "private": false,
        "gated": gated,
        "disabled": false,
        "downloads": snapshot.facts.downloads,
        "likes": snapshot.facts.likes,
        "trendingScore": snapshot.facts.likes,
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
    let mut all = facts(snapshot);
    all.insert("modelId".into(), json!(snapshot.id));
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
    let rows = folders
        .iter()
        .map(|path| json!({ "type": "directory", "oid": git_id("tree", path.as_bytes()), "size": 0, "path": path }))
        .chain(files.into_iter().map(entry))
        .collect();
    paged(rows, query, page, here)
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
