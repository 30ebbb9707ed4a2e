//! Answers that are no success, as the hub words them.

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::error::Error;
use crate::model::text;

/// A refusal with the hub's headers and a JSON body.
pub(super) fn refusal(status: StatusCode, code: Option<&'static str>, message: &str) -> Response {
    let message = text::printable(message);
    let mut response = (status, axum::Json(serde_json::json!({ "error": message }))).into_response();
    let headers = response.headers_mut();
    if let Some(code) = code {
        headers.insert("x-error-code", HeaderValue::from_static(code));
    }
    if let Ok(message) = HeaderValue::from_str(&message) {
        headers.insert("x-error-message", message);
    }
    if status == StatusCode::UNAUTHORIZED {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"mirror\""));
    }
    response
}

pub(super) fn repository_not_found() -> Response {
    refusal(StatusCode::NOT_FOUND, Some("RepoNotFound"), "Repository not found")
}

pub(super) fn revision_not_found(revision: &str) -> Response {
    refusal(StatusCode::NOT_FOUND, Some("RevisionNotFound"), &format!("Invalid rev id: {revision}"))
}

pub(super) fn entry_not_found(commit: &str) -> Response {
    let mut response = refusal(StatusCode::NOT_FOUND, Some("EntryNotFound"), "Entry not found");
    insert(&mut response, "x-repo-commit", commit);
    response
}

/// What could not be read here is this server's fault; the reason goes to the log, not to the client.
pub(super) fn internal(error: &Error) -> Response {
    tracing::error!("mirror: {error}");
    refusal(StatusCode::INTERNAL_SERVER_ERROR, None, "the mirror could not read its store")
}

pub(super) fn insert(response: &mut Response<Body>, name: &'static str, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}
