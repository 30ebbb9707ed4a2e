//! Searching the hub.

use jiff::Timestamp;

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
