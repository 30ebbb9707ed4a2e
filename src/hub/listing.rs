//! A repository at one commit, and its files.

use jiff::Timestamp;
use serde::Serialize;

use crate::model::RemoteFile;

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
