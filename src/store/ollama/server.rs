//! What a store knows of the server that works on it.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::model::Holder;

/// A running server of Ollama, if there is one. Its methods ask it, with short patience, and block.
pub trait Server: fmt::Debug + Send + Sync {
    /// The server whose models folder is `root`; `None` when none answers, or when nobody can tell that it is this
    /// folder's. `root` is resolved.
    fn of(&self, root: &Path) -> Option<Serving>;

    /// Models that the server of `root` has loaded, each with the process that holds it.
    fn loaded(&self, root: &Path) -> Vec<(String, Holder)>;

    /// Deletes a model by its name. Cancelling ends the wait for the answer, not what the server does.
    ///
    /// # Errors
    /// In words: no answer, or a refusal.
    fn delete(&self, address: &str, name: &str, cancel: &CancellationToken) -> Result<(), String>;

    /// What a deletion waits for at this moment, and for how long it has; `None` when for nothing.
    fn waits(&self) -> Option<(String, Duration)> {
        None
    }
}

/// A server that works on a models folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Serving {
    /// Base address, such as `http://127.0.0.1:11434`.
    pub address: String,
    /// What it lists.
    pub models: Vec<Served>,
    /// Whether it knows the newer of the two trees of manifests (0.40 and later).
    pub knows_both_trees: bool,
    /// Whether the folder is known from the environment of the process itself. Else it is what the service is configured to
    /// use, and a model counts only if the server lists it with the digest of this folder's manifest.
    pub certain: bool,
}

/// A model as a server lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Served {
    /// Its full name.
    pub name: String,
    /// Digits of the SHA-256 of its manifest, lower case.
    pub digest: String,
}
