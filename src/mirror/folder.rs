//! A folder `root/org/name/…` as content of a mirror.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use walkdir::WalkDir;

use super::{Content, Facts, ServedFile};
use crate::disk::safe;
use crate::error::{Error, Result};
use crate::model::RepoPath;

/// Every `root/org/name` is a repository. Links and dot-folders are not served, nor is a name that no repository can have.
#[derive(Debug)]
pub struct Folder {
    root: PathBuf,
    facts: Mutex<HashMap<String, Facts>>,
}

impl Folder {
    /// Serves what lies under `root`, now and later.
    #[must_use]
    pub fn new(root: PathBuf) -> Self {
        Self { root, facts: Mutex::default() }
    }

    /// Tells `facts` of the repository `id` from now on.
    pub fn set_facts(&self, id: &str, facts: Facts) {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner).insert(id.to_owned(), facts);
    }

    /// Folder names directly in `folder` that can be a part of a repository's id, sorted.
    fn parts(folder: &Path) -> Result<Vec<String>> {
        let entries = match fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(Error::io("read", folder)(error)),
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(Error::io("read", folder))?;
            let is_folder = entry.file_type().map_err(Error::io("read", entry.path()))?.is_dir();
            if let Some(name) = entry.file_name().to_str()
                && is_folder
                && is_id_part(name)
            {
                names.push(name.to_owned());
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn repository(&self, id: &str) -> Option<PathBuf> {
        let (org, name) = id.split_once('/')?;
        (is_id_part(org) && is_id_part(name)).then(|| self.root.join(org).join(name))
    }
}

/// Letters, digits, `-`, `_` and inner dots: what the hub allows in an id.
fn is_id_part(part: &str) -> bool {
    !part.is_empty()
        && part.len() <= 96
        && !part.starts_with('.')
        && !part.contains("..")
        && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

impl Content for Folder {
    fn repositories(&self) -> Result<Vec<String>> {
        let mut ids = Vec::new();
        for org in Self::parts(&self.root)? {
            ids.extend(Self::parts(&self.root.join(&org))?.into_iter().map(|name| format!("{org}/{name}")));
        }
        Ok(ids)
    }

    fn files(&self, id: &str) -> Result<Option<Vec<ServedFile>>> {
        let Some(folder) = self.repository(id) else { return Ok(None) };
        // The walk follows a link at its own root, so the two folders of the id are looked at first.
        for part in [folder.parent().unwrap_or(&folder), &folder] {
            match fs::symlink_metadata(part) {
                Ok(metadata) if metadata.is_dir() => {}
                Ok(_) => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(Error::io("read", part)(error)),
            }
        }
        let walk = WalkDir::new(&folder).sort_by_file_name().into_iter().filter_entry(|entry| {
            entry.depth() == 0 || !entry.file_type().is_dir() || !entry.file_name().as_encoded_bytes().starts_with(b".")
        });
        let mut files = Vec::new();
        for entry in walk {
            let entry = entry.map_err(|error| Error::io("read", &folder)(error.into()))?;
            let relative = entry.path().strip_prefix(&folder).ok().and_then(Path::to_str);
            let (true, Some(Ok(path))) = (entry.file_type().is_file(), relative.map(RepoPath::parse)) else { continue };
            let metadata = entry.metadata().map_err(|error| Error::io("read", entry.path())(error.into()))?;
            files.push(ServedFile { path, size: metadata.len(), stamp: stamp(&metadata), sha256: None });
        }
        files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(Some(files))
    }

    fn open(&self, id: &str, path: &RepoPath) -> Result<File> {
        let missing = || Error::ModelNotFound { reference: id.to_owned(), place: self.root.display().to_string() };
        let folder = self.repository(id).ok_or_else(missing)?;
        let below = folder.strip_prefix(&self.root).map_err(|_| missing())?;
        safe::open_below(&self.root, &path.below(below))
    }

    fn facts(&self, id: &str) -> Facts {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner).get(id).cloned().unwrap_or_default()
    }
}

fn stamp(metadata: &fs::Metadata) -> [i64; 6] {
    [
        metadata.dev().cast_signed(),
        metadata.ino().cast_signed(),
        metadata.mtime(),
        metadata.mtime_nsec(),
        metadata.ctime(),
        metadata.ctime_nsec(),
    ]
}
