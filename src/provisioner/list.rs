//! `list_models`: GGUF files by folder.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::ModelProvisioner;
use crate::error::{Error, Result};
use crate::model::{FileName, text};

impl ModelProvisioner {
    /// The direct `*.gguf` children of each folder of the base folder, sorted: the folder's name and the file. Folders
    /// whose names begin with a dot, or that this user may not read, are left out; a missing base folder has none.
    ///
    /// # Errors
    /// [`Error::Io`] when the base folder cannot be read, or a folder for another reason than its permissions.
    pub fn list_models(&self) -> Result<Vec<(String, PathBuf)>> {
        let mut models = Vec::new();
        for folder in children(self.base_dir())? {
            if is_hidden(&folder) || !is_folder(&folder) {
                continue;
            }
            let name = folder.file_name().map(text::escape).unwrap_or_default();
            let files = match children(&folder) {
                // Another user's folder hides its own models and nobody else's.
                Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::PermissionDenied => {
                    tracing::warn!("{} cannot be read and is left out", text::printable_path(&folder));
                    continue;
                }
                files => files?,
            };
            for file in files {
                let is_gguf = file.file_name().is_some_and(|name| FileName::parse(&text::escape(name)).is_gguf());
                if is_gguf && fs::metadata(&file).is_ok_and(|metadata| metadata.is_file()) {
                    models.push((name.clone(), file));
                }
            }
        }
        Ok(models)
    }
}

/// The entries of a folder, sorted; none if it is not there.
pub(super) fn children(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error)
            if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) && !folder.exists() =>
        {
            return Ok(Vec::new());
        }
        Err(error) => return Err(Error::io("read", folder)(error)),
    };
    let mut paths = Vec::new();
    for entry in entries {
        paths.push(entry.map_err(Error::io("read", folder))?.path());
    }
    paths.sort_unstable();
    Ok(paths)
}

fn is_hidden(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
}

/// Whether it is a folder itself: nothing below the base folder is followed out of it.
pub(super) fn is_folder(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_dir())
}
