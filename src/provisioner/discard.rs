//! Taking away what an unfinished download left.

use std::path::{Path, PathBuf};

use walkdir::WalkDir;

use super::plan::Meaning;
use super::{DestinationKind, DownloadPlan, DownloadRequest, ModelProvisioner};
use crate::error::{Error, Result};
use crate::model::selection::{Wanted, is_projector};
use crate::model::{FileName, Quantization, RepoPath};
use crate::store::flat::staging::{StagingName, staging_paths};
use crate::store::{Part, Store, Target};
use crate::transfer::{self, Staging};

impl ModelProvisioner {
    /// Removes what an unfinished download of `request` has left on disk, and the folder if nothing but bookkeeping is in
    /// it then. Published files stay. No hub is asked; nothing there is no error.
    ///
    /// # Errors
    /// [`Error::InvalidReference`], [`Error::ModelNotFound`] for a name that is not in the catalog, [`Error::Locked`] while a
    /// transfer works on it, [`Error::Io`].
    pub async fn discard(&self, request: &DownloadRequest) -> Result<()> {
        let request = request.clone();
        self.blocking(move |this| this.discard_now(&request)).await
    }

    fn discard_now(&self, request: &DownloadRequest) -> Result<()> {
        let meaning = self.meaning(request)?;
        if request.to == DestinationKind::Hf {
            return self.discard_cached(request, &meaning);
        }
        let folder = self.store().target_folder(&meaning.reference, &meaning.repository)?;
        let partials = partials_below(&folder)?;
        if partials.is_empty() {
            return Ok(());
        }
        let targets: Vec<&str> = partials.iter().map(|partial| partial.target.as_str()).collect();
        for partial in partials.iter().filter(|partial| {
            (request.mmproj && is_projector(&partial.target)) || is_meant(&meaning.wanted, &partial.target, &targets)
        }) {
            transfer::discard(&partial.staging)?;
        }
        self.remove_if_empty(&folder)
    }

    /// In the Hugging Face cache partials are named by checksums: their journals tell which file they are.
    fn discard_cached(&self, request: &DownloadRequest, meaning: &Meaning) -> Result<()> {
        let blobs = self.hf_writer(&meaning.repository)?.folder().join("blobs");
        let partials: Vec<Partial> = partials_below(&blobs)?
            .into_iter()
            .filter_map(|partial| {
                let target = transfer::staged_path(&partial.staging)?;
                Some(Partial { target, ..partial })
            })
            .collect();
        let targets: Vec<&str> = partials.iter().map(|partial| partial.target.as_str()).collect();
        for partial in partials.iter().filter(|partial| {
            (request.mmproj && is_projector(&partial.target)) || is_meant(&meaning.wanted, &partial.target, &targets)
        }) {
            transfer::discard(&partial.staging)?;
        }
        self.remove_if_empty_cached(&meaning.repository)
    }

    /// Removes a repository of the Hugging Face cache that holds nothing but empty folders.
    fn remove_if_empty_cached(&self, id: &str) -> Result<()> {
        let store = self.hf_store()?;
        match store.details(id) {
            Ok(details) if details.model.disk_bytes == 0 && details.files.is_empty() => {}
            Ok(_) | Err(Error::ModelNotFound { .. }) => return Ok(()),
            Err(error) => return Err(error),
        }
        let plan = store.plan_deletion(&[Target { id: id.to_owned(), part: Part::Whole }])?;
        super::delete::run(&plan)
    }

    /// After a failure: a folder that was made for the download and holds bookkeeping only goes again.
    pub(super) async fn leave_no_empty_folder(&self, plan: &DownloadPlan) {
        let (folder, id, to) = (plan.folder.clone(), plan.repository.id.clone(), plan.request.to);
        let removed = self
            .blocking(move |this| match to {
                DestinationKind::Flat => this.remove_if_empty(&folder),
                DestinationKind::Hf => this.remove_if_empty_cached(&id),
            })
            .await;
        if let Err(error) = removed {
            tracing::warn!("the empty folder of a failed download stays: {error}");
        }
    }

    /// Removes a folder that holds bookkeeping only.
    fn remove_if_empty(&self, folder: &Path) -> Result<()> {
        let Ok(id) = folder.strip_prefix(self.store().root()) else { return Ok(()) };
        let id = crate::model::text::escape(id.as_os_str());
        if id.is_empty() || !partials_below(folder)?.is_empty() {
            return Ok(());
        }
        let target = Target { id, part: Part::Whole };
        match self.store().expected(&target) {
            Ok(files) if !files.is_empty() => return Ok(()),
            Ok(_) => {}
            Err(Error::ModelNotFound { .. }) => return Ok(()),
            Err(error) => return Err(error),
        }
        if has_files(folder)? {
            return Ok(());
        }
        let plan = self.store().plan_deletion(&[target])?;
        super::delete::run(&plan)
    }
}

struct Partial {
    staging: Staging,
    /// Path of the file that it would become, inside the folder.
    target: String,
}

/// The partial files of a model's folder, dot-folders left out, links not followed.
fn partials_below(folder: &Path) -> Result<Vec<Partial>> {
    let mut partials: Vec<Partial> = Vec::new();
    for path in files_below(folder)? {
        let Some(name) = path.file_name().and_then(StagingName::parse) else { continue };
        let target = path.with_file_name(&name.target);
        let (partial, journal) = staging_paths(&target, &name.key);
        let Some(inside) = target.strip_prefix(folder).ok().and_then(Path::to_str) else { continue };
        let staging = Staging { partial, journal };
        if !partials.iter().any(|known| known.staging == staging) {
            partials.push(Partial { staging, target: inside.to_owned() });
        }
    }
    Ok(partials)
}

/// Whether anything but bookkeeping lies there.
fn has_files(folder: &Path) -> Result<bool> {
    Ok(!files_below(folder)?.is_empty())
}

fn files_below(folder: &Path) -> Result<Vec<PathBuf>> {
    let walk = WalkDir::new(folder).follow_links(false).sort_by_file_name().into_iter().filter_entry(|entry| {
        entry.depth() == 0 || !entry.file_type().is_dir() || !entry.file_name().as_encoded_bytes().starts_with(b".")
    });
    let mut files = Vec::new();
    for entry in walk {
        match entry {
            Ok(entry) if entry.file_type().is_dir() => {}
            Ok(entry) => files.push(entry.into_path()),
            Err(error) if error.io_error().is_some_and(|error| error.kind() == std::io::ErrorKind::NotFound) => {}
            Err(error) => {
                let path = error.path().unwrap_or(folder).to_owned();
                return Err(Error::io("read", path)(error.into()));
            }
        }
    }
    Ok(files)
}

/// Whether a partial file of `target` belongs to what was wanted; `all` are the partial files of the folder.
fn is_meant(wanted: &Wanted, target: &str, all: &[&str]) -> bool {
    fn set(path: &RepoPath) -> (Option<&str>, Option<(&str, u32, u8)>) {
        (path.folder(), FileName::parse(path.file_name()).shard().map(|shard| shard.set()))
    }
    let Ok(path) = RepoPath::parse(target) else { return false };
    match wanted {
        Wanted::Patterns(patterns) => patterns.iter().any(|pattern| path.matches(pattern)),
        Wanted::File(file) => path == *file || (set(&path).1.is_some() && set(&path) == set(file)),
        Wanted::Quantization(label) => Quantization::of_path(&path).is_some_and(|found| found.is(label)),
        // Which quantization is the default is known by the hub; among the partial files it is the one that would win.
        Wanted::Default => {
            let labels: Vec<Quantization> = all
                .iter()
                .filter_map(|path| RepoPath::parse(path).ok())
                .filter_map(|path| Quantization::of_path(&path))
                .collect();
            let label = Quantization::of_path(&path);
            label.is_none() || label.as_ref() == Quantization::default_of(&labels)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_wanted_is_discarded() {
        let all = ["m.Q4_K_M.gguf", "m.Q8_0.gguf", "config.json", "x-00001-of-00002.gguf", "x-00002-of-00002.gguf"];
        let meant = |wanted: Wanted| -> Vec<&str> {
            all.iter().copied().filter(|path| is_meant(&wanted, path, &all)).collect()
        };
        assert_eq!(meant(Wanted::Quantization("Q8_0".to_owned())), ["m.Q8_0.gguf"]);
        assert_eq!(meant(Wanted::Patterns(vec!["*.json".to_owned()])), ["config.json"]);
        assert_eq!(meant(Wanted::File(RepoPath::parse("x-00001-of-00002.gguf").unwrap())).len(), 2);
        assert!(!meant(Wanted::Default).contains(&"m.Q8_0.gguf"));
    }
}
