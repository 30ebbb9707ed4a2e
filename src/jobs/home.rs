//! Where a download belongs: a queue file outlives the settings under which its jobs were asked for.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::model::DestinationKind;
use crate::model::text::{self, printable, printable_path};
use crate::provisioner::DownloadRequest;

/// The models folder and the hub of a job. It never holds a token or a password.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Home {
    /// Absolute, links resolved as far as the folder exists.
    #[serde(with = "text::escaped")]
    models_dir: PathBuf,
    /// The hub's address without credentials.
    endpoint: String,
    /// The Hugging Face cache of a job that goes there. Missing for others, and where nobody noted it.
    #[serde(default, with = "text::escaped_option", skip_serializing_if = "Option::is_none")]
    hf_cache: Option<PathBuf>,
}

impl Home {
    pub(super) fn new(models_dir: &Path, endpoint: String) -> Self {
        Self { models_dir: models_dir.to_owned(), endpoint, hf_cache: None }
    }

    /// With the cache that downloads into one go to.
    pub(super) fn with_hf_cache(self, cache: Option<&Path>) -> Self {
        Self { hf_cache: cache.map(Path::to_owned), ..self }
    }

    /// What of it concerns `request`: the cache means nothing to a download that does not go there.
    pub(super) fn of(&self, request: &DownloadRequest) -> Self {
        let mut home = self.clone();
        if request.to != DestinationKind::Hf {
            home.hf_cache = None;
        }
        home
    }

    /// Whether a job of this home runs where `present` holds.
    pub(super) fn is_in(&self, present: &Self) -> bool {
        let cache = |home: &Self| home.hf_cache.clone();
        (&self.models_dir, &self.endpoint) == (&present.models_dir, &present.endpoint)
            && cache(self).is_none_or(|noted| cache(present).is_none_or(|present| noted == present))
    }

    /// The models folder.
    pub(super) fn models_dir(&self) -> &Path {
        &self.models_dir
    }

    /// The hub.
    pub(super) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// The cache of downloads that go into one.
    pub(super) fn hf_cache(&self) -> Option<&Path> {
        self.hf_cache.as_deref()
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
        let mut place = printable_path(&self.models_dir);
        if let Some(cache) =
            self.hf_cache.as_ref().filter(|_| !self.is_in(&Self { hf_cache: present.hf_cache.clone(), ..self.clone() }))
        {
            place = printable_path(cache);
            flags.push(format!("HF_HUB_CACHE={place} in the environment"));
        }
        format!("belongs to {place} at {}; start with {}", printable(&self.endpoint), flags.join(" and "))
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
            "belongs to /nowhere/z at https://one.example; start with --models-dir /nowhere/z and --endpoint https://one.example"
        );
        let cache = |path: &str| home("/nowhere/z", "https://one.example").with_hf_cache(Some(Path::new(path)));
        assert_eq!(
            cache("/nowhere/hub").why_not_in(&cache("/nowhere/other")),
            "belongs to /nowhere/hub at https://one.example; start with HF_HUB_CACHE=/nowhere/hub in the environment"
        );
    }
}
