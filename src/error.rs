//! Errors, named for what the caller can do about them.
//!
//! Every message names the thing, the cause and, where there is one, the way out, in one line. Text that
//! came from outside (names, server messages) is made printable when the error is built.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::model::{Bytes, text};

/// The result of everything in this library that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, by what the caller can do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The text is no reference; nothing was touched. Correct it.
    #[error("invalid reference '{reference}': {reason}")]
    InvalidReference {
        /// The text as given, made printable.
        reference: String,
        /// What is wrong with it.
        reason: String,
    },
    /// No model of that name is here.
    #[error("model '{reference}' not found in {place}")]
    ModelNotFound {
        /// The reference as given.
        reference: String,
        /// Where it was looked for.
        place: String,
    },
    /// The reference names more than one model.
    #[error("'{reference}' is ambiguous; say one of: {}", choices.join(", "))]
    Ambiguous {
        /// The reference as given.
        reference: String,
        /// References that each name exactly one of the candidates.
        choices: Vec<String>,
    },
    /// The download source is not one that this library knows.
    #[error("provider '{provider}' is not supported; use 'hf'")]
    UnknownProvider {
        /// The name as given.
        provider: String,
    },
    /// The model is there but a check failed: no weights, an empty file, a wrong checksum.
    #[error("{0}")]
    Damaged(String),
    /// The model has to be converted before it can be used, and nothing here converts. What was fetched stays.
    #[error("'{alias}' needs a conversion ({detail}): {reason}")]
    ConversionUnavailable {
        /// The catalog alias.
        alias: String,
        /// From what to what.
        detail: String,
        /// What is missing, and how it is installed and configured.
        reason: String,
    },
    /// A conversion failed; nothing was published, and what it was to be made from stays.
    #[error("converting {what} failed: {reason}")]
    Conversion {
        /// The model.
        what: String,
        /// What the converter said, or what is wrong with what it wrote.
        reason: String,
    },
    /// The hub wants a token and none was sent, or it refused the one that was.
    #[error("{repository}: {reason}; {}", sign_in_hint(*token_sent))]
    SignIn {
        /// The repository.
        repository: String,
        /// What the hub said, made printable.
        reason: String,
        /// Whether a token went along.
        token_sent: bool,
    },
    /// The repository is gated and this account has no access.
    #[error("{repository} is gated: {}", gated_hint(page, *token_sent))]
    Gated {
        /// The repository.
        repository: String,
        /// The page on which access is asked for.
        page: String,
        /// Whether a token went along.
        token_sent: bool,
    },
    /// The hub has no such repository, or does not show it to this account.
    #[error("repository '{repository}' not found on {endpoint}: check the spelling, or set HF_TOKEN if it is private")]
    RepositoryNotFound {
        /// The repository.
        repository: String,
        /// The hub that was asked.
        endpoint: String,
    },
    /// The repository has no such branch, tag or commit.
    #[error("{repository} has no revision '{revision}'")]
    RevisionNotFound {
        /// The repository.
        repository: String,
        /// The revision as given.
        revision: String,
    },
    /// The repository has no such file or quantization.
    #[error("{repository} has no {what}{}", choices_hint(available))]
    FileNotFound {
        /// The repository.
        repository: String,
        /// What was looked for: a file, a pattern, a quantization.
        what: String,
        /// What there is instead; may be empty.
        available: Vec<String>,
    },
    /// The hub limits requests.
    #[error("{endpoint} limits requests{}", retry_hint(*retry_after))]
    RateLimited {
        /// The hub.
        endpoint: String,
        /// How long it asks to wait.
        retry_after: Option<Duration>,
    },
    /// No request was sent because the settings forbid the network.
    #[error("offline: HF_HUB_OFFLINE is set; unset it to reach {endpoint}")]
    Offline {
        /// The hub that would have been asked.
        endpoint: String,
    },
    /// No connection, or it broke. Trying again may help.
    #[error("cannot reach {url}: {reason}")]
    Unreachable {
        /// The address without credentials or query.
        url: String,
        /// The innermost cause.
        reason: String,
    },
    /// The server answered with something that is no hub's answer.
    #[error("{url} did not answer like a model hub: {reason}")]
    BadAnswer {
        /// The address without credentials or query.
        url: String,
        /// What was wrong with the answer.
        reason: String,
    },
    /// The hub refused for another reason.
    #[error("{url} answered {status}: {reason}")]
    Refused {
        /// The address without credentials or query.
        url: String,
        /// The HTTP status.
        status: u16,
        /// What the hub said, made printable.
        reason: String,
    },
    /// A path from the hub or a store would leave its folder or cannot be a file name.
    #[error("unsafe path '{path}': {reason}; nothing was written")]
    UnsafePath {
        /// The path, made printable.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The remote file is another one than the partial download belongs to.
    #[error("'{file}' changed on the hub while it was being fetched; start the download again")]
    Changed {
        /// The path in the repository.
        file: String,
    },
    /// The bytes that arrived are not the ones that the hub promised.
    #[error("'{file}' is corrupt: expected {expected}, got {actual}; nothing was published, fetch it again")]
    ChecksumMismatch {
        /// The path in the repository.
        file: String,
        /// The promised digest or length.
        expected: String,
        /// What arrived.
        actual: String,
    },
    /// A file of the same name is in the way of a download, and nothing says that it came from the hub.
    #[error(
        "{} is there already and is not the file of {repository}; move it away, or replace it with --force",
        printable(path)
    )]
    Occupied {
        /// The file that is in the way.
        path: PathBuf,
        /// The repository.
        repository: String,
    },
    /// Parts of a set would come from one commit and lie among parts of another, which is no model.
    #[error(
        "'{file}' is part of a set, and '{other}' here is of commit {here}: ask for {repository}@{here}, or without --file \
         for the whole set: {whole}"
    )]
    MixedSet {
        /// The path in the repository of the part that was asked for.
        file: String,
        /// The path of another part, which is here and would stay.
        other: String,
        /// The repository.
        repository: String,
        /// The commit of what is here, made printable.
        here: String,
        /// How the whole set is asked for at the commit that was wanted.
        whole: String,
    },
    /// It cannot be done that way.
    #[error("{what} is not available yet; {instead}")]
    Unsupported {
        /// What was asked for.
        what: String,
        /// What can be done instead.
        instead: String,
    },
    /// The file system has too little room.
    #[error(
        "not enough space in {}: {} needed, {} free, {} short{}",
        printable(path), Bytes(*needed), Bytes(*available), Bytes(needed.saturating_sub(*available)),
        advice.as_ref().map(|advice| format!("; {advice}")).unwrap_or_default()
    )]
    NoSpace {
        /// A folder on the file system.
        path: PathBuf,
        /// Bytes still to be written.
        needed: u64,
        /// Bytes that this user may still write.
        available: u64,
        /// What would make room, in words, where somebody looked.
        advice: Option<String>,
    },
    /// Another process works on the same file.
    #[error("{} is being written by {holder}", printable(path))]
    Locked {
        /// The file that is locked.
        path: PathBuf,
        /// The process, as far as it could be found out.
        holder: String,
    },
    /// Deletion was refused by something that only `--force`, or a person with more rights, can override.
    #[error("{what}: {reason}")]
    DeletionRefused {
        /// The model or path.
        what: String,
        /// Why, and the way out.
        reason: String,
    },
    /// The configuration, catalog or keymap file has an error.
    #[error("{}: {reason}", printable(path))]
    InvalidConfig {
        /// The file.
        path: PathBuf,
        /// What is wrong, with its place.
        reason: String,
    },
    /// A job of that number is not in the queue, or cannot do that now.
    #[error("job {job}: {reason}")]
    Job {
        /// The number.
        job: String,
        /// Why not.
        reason: String,
    },
    /// An operation of the file system failed.
    #[error("cannot {operation} {}: {}", printable(path), io_reason(source))]
    Io {
        /// What was tried, as a verb: "read", "create", "remove".
        operation: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The caller cancelled. Not a failure.
    #[error("cancelled")]
    Cancelled,
}

impl Error {
    /// Wraps an I/O error with the operation and the path, the two things that the system leaves out.
    pub fn io(operation: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { operation, path, source }
    }

    /// The same for a line with little room, in which it is known what is being worked on: the cause first, for the end may be
    /// cut, and the server instead of the whole address.
    #[must_use]
    pub fn in_short(&self) -> String {
        match self {
            Self::Unreachable { url, reason } => {
                let (cause, way_out) = reason.split_once("; ").map_or((reason.as_str(), None), |(a, b)| (a, Some(b)));
                let cause = cause.strip_prefix("it answered ").unwrap_or(cause);
                let way_out = way_out.map(|way_out| format!("; {way_out}")).unwrap_or_default();
                format!("{cause}: {}{way_out}", host(url))
            }
            Self::BadAnswer { url, reason } => format!("not a model hub's answer ({}): {reason}", host(url)),
            Self::Refused { url, status, reason } => format!("answer {status} ({}): {reason}", host(url)),
            Self::RateLimited { endpoint, .. } => format!("requests limited by {}", host(endpoint)),
            Self::Locked { path, holder } => format!("being written by {holder}: {}", printable(path)),
            other => other.to_string(),
        }
    }

    /// Whether the operation ended because the caller cancelled it.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        matches!(self, Self::Cancelled)
    }
}

/// The server of an address, with its port if one is named.
fn host(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.split('/').next().filter(|host| !host.is_empty()).unwrap_or(url)
}

fn printable(path: &Path) -> String {
    text::printable_path(path)
}

fn sign_in_hint(token_sent: bool) -> &'static str {
    if token_sent {
        "the token is not valid: set HF_TOKEN to another one or run `hf auth login`"
    } else {
        "set HF_TOKEN to a valid token or run `hf auth login`"
    }
}

fn gated_hint(page: &str, token_sent: bool) -> String {
    if token_sent {
        format!("the token has no access to it; ask for access at {page}, or set HF_TOKEN to another token")
    } else {
        format!("ask for access at {page}, then set HF_TOKEN")
    }
}

fn retry_hint(after: Option<Duration>) -> String {
    after.map_or_else(|| "; try again later".to_owned(), |wait| format!("; try again in {} s", wait.as_secs().max(1)))
}

fn choices_hint(available: &[String]) -> String {
    if available.is_empty() { String::new() } else { format!("; it has: {}", available.join(", ")) }
}

/// The system's own words without Rust's "(os error N)", which tells a person nothing.
pub(crate) fn io_reason(error: &io::Error) -> String {
    let text = error.to_string();
    text.split_once(" (os error").map_or(text.clone(), |(reason, _)| reason.to_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn io_errors_name_operation_path_and_cause() {
        let error = Error::io("read", "/data/x")(io::Error::from_raw_os_error(13));
        assert_eq!(error.to_string(), "cannot read /data/x: permission denied");
    }

    #[test]
    fn in_short_the_cause_comes_first_and_the_server_stands_for_its_address() {
        let url = "https://cdn.example:8443/a/very/long/path".to_owned();
        let reason = "connection refused".to_owned();
        let refused = Error::Unreachable { url: url.clone(), reason };
        assert_eq!(refused.in_short(), "connection refused: cdn.example:8443");
        let reason = "it answered 503 Service Unavailable; try later".to_owned();
        let busy = Error::Unreachable { url, reason };
        assert_eq!(busy.in_short(), "503 Service Unavailable: cdn.example:8443; try later");
        let endpoint = "https://hub.example".to_owned();
        assert_eq!(Error::RateLimited { endpoint, retry_after: None }.in_short(), "requests limited by hub.example");
        assert_eq!(Error::Damaged("it broke".to_owned()).in_short(), "it broke");
    }

    #[test]
    fn messages_never_carry_control_characters_of_a_path() {
        let error = Error::io("read", "/data/\u{1b}[31mx\n")(io::Error::from_raw_os_error(2));
        assert!(!error.to_string().chars().any(char::is_control), "{error}");
    }
}
