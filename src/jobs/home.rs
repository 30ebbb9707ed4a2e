//! Where a download belongs: a queue file outlives the settings under which its jobs were asked for.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::model::text::{self, printable, printable_path};

/// The models folder and the hub of a job. It never holds a token or a password.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Home {
    /// Absolute, links resolved as far as the folder exists.
    #[serde(with = "text::escaped")]
    models_dir: PathBuf,
    /// The hub's address without credentials.
    endpoint: String,
}

impl Home {
    pub(super) fn new(models_dir: &Path, endpoint: String) -> Self {
        Self { models_dir: models_dir.to_owned(), endpoint }
    }

    /// The models folder.
    pub(super) fn models_dir(&self) -> &Path {
        &self.models_dir
    }

    /// Why a job of this home does not run in `present`, and how it does.
    pub(super) fn why_not_in(&self, present: &Self) -> String {
        let mut flags = Vec::new();
        if self.models_dir != present.models_dir {
            flags.push(format!("--models-dir {}", printable_path(&self.models_dir)));
        }
        if self.endpoint != present.endpoint {
            flags.push(format!("--endpoint {}", printable(&self.endpoint)));
        }
        format!(
            "belongs to {} at {}; start with {}",
            printable_path(&self.models_dir),
            printable(&self.endpoint),
            flags.join(" ")
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_out_names_only_what_differs() {
        let home = |dir: &str, endpoint: &str| Home::new(Path::new(dir), endpoint.to_owned());
        let theirs = home("/nowhere/z", "https://one.example");
        assert_eq!(
            theirs.why_not_in(&home("/nowhere/y", "https://one.example")),
            "belongs to /nowhere/z at https://one.example; start with --models-dir /nowhere/z"
        );
        assert_eq!(
            theirs.why_not_in(&home("/nowhere/y", "https://two.example")),
            "belongs to /nowhere/z at https://one.example; start with --models-dir /nowhere/z --endpoint https://one.example"
        );
    }
}
