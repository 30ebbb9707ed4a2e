//! What a model is and takes: info, sizes, usage, metadata.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use walkdir::WalkDir;

use super::ModelProvisioner;
use crate::disk::safe;
use crate::disk::usage::Usage;
use crate::error::{Error, Result};
use crate::format::{Metadata, read_metadata};
use crate::model::{FileName, Inode, ModelFile, text};
use crate::store::Store;

/// What a model takes, and its GGUF files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelInfo {
    /// The reference as given.
    pub reference: String,
    /// The folder that it lies in.
    pub model_dir: PathBuf,
    /// Bytes of its files, bookkeeping left out.
    pub total_size: i64,
    /// Number of its files, bookkeeping left out.
    pub file_count: usize,
    /// Its GGUF files, sorted.
    pub gguf_files: Vec<PathBuf>,
}

impl ModelProvisioner {
    /// What `reference` takes here, at every depth of its folder, dot-folders left out.
    ///
    /// # Errors
    /// [`Error::ModelNotFound`], [`Error::InvalidReference`], [`Error::Io`].
    pub fn get_model_info(&self, reference: &str) -> Result<ModelInfo> {
        let resolved = self.resolve(reference)?;
        let files = self.store().files(&resolved)?;
        Ok(ModelInfo {
            reference: reference.to_owned(),
            model_dir: resolved.folder,
            total_size: signed(files.iter().map(|file| file.size_bytes).sum()),
            file_count: files.len(),
            gguf_files: gguf_files(&files).map(|file| file.absolute.clone()).collect(),
        })
    }

    /// Bytes of a file, or of the files below a folder, dot-folders left out and each file once however many names it has.
    ///
    /// # Errors
    /// [`Error::Io`] when `path` does not exist or cannot be read.
    pub fn get_model_size(&self, path: &Path) -> Result<i64> {
        let metadata = fs::metadata(path).map_err(Error::io("read", path))?;
        if metadata.is_dir() { Ok(signed(usage(path)?.size_bytes())) } else { Ok(signed(metadata.len())) }
    }

    /// Bytes of every file below the base folder, dot-folders left out and each file once; 0 when it does not exist.
    ///
    /// # Errors
    /// [`Error::Io`] when something below it cannot be read.
    pub fn get_total_disk_usage(&self) -> Result<i64> {
        match fs::metadata(self.base_dir()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
            Err(error) => Err(Error::io("read", self.base_dir())(error)),
            Ok(_) => Ok(signed(usage(self.base_dir())?.size_bytes())),
        }
    }

    /// What the header of the model's first weights file tells.
    ///
    /// # Errors
    /// [`Error::ModelNotFound`]; [`Error::Damaged`] when the file has no header that can be read.
    pub fn metadata(&self, reference: &str) -> Result<Metadata> {
        let resolved = self.resolve(reference)?;
        let files = self.store().files(&resolved)?;
        let weights = files
            .iter()
            .filter(|file| FileName::parse(file.path.rsplit('/').next().unwrap_or(&file.path)).is_weights());
        let first = crate::model::selection::principal(weights.map(|file| file.path.as_str()));
        let file = files.iter().find(|file| Some(file.path.as_str()) == first);
        let file =
            file.ok_or_else(|| Error::Damaged(format!("No weights files found in {}", shown(&resolved.folder))))?;
        let relative = file.absolute.strip_prefix(self.store().root()).unwrap_or(&file.absolute);
        let handle = safe::open_below(self.store().root(), relative)?;
        read_metadata(&handle, &file.path).map_err(|why| Error::Damaged(format!("{}: {why}", shown(&file.absolute))))
    }
}

pub(super) fn shown(path: &Path) -> String {
    text::printable_path(path)
}

/// The GGUF files, sorted by path.
pub(super) fn gguf_files(files: &[ModelFile]) -> impl Iterator<Item = &ModelFile> {
    let mut files: Vec<&ModelFile> = files
        .iter()
        .filter(|file| FileName::parse(file.path.rsplit('/').next().unwrap_or(&file.path)).is_gguf())
        .collect();
    files.sort_by(|a, b| a.absolute.cmp(&b.absolute));
    files.into_iter()
}

/// Regular files below `root`, which may be a link itself; nothing below it is followed.
fn usage(root: &Path) -> Result<Usage> {
    let mut usage = Usage::default();
    let walk = WalkDir::new(root).follow_links(false).follow_root_links(true);
    let entries = walk.into_iter().filter_entry(|entry| {
        let hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
        entry.depth() == 0 || !hidden || !entry.file_type().is_dir()
    });
    for entry in entries {
        let entry = match entry {
            Ok(entry) => entry,
            // What vanishes while it is counted takes nothing.
            Err(error) if error.io_error().is_some_and(|error| error.kind() == io::ErrorKind::NotFound) => continue,
            Err(error) => {
                let path = error.path().unwrap_or(root).to_owned();
                return Err(Error::io("read", path)(error.into()));
            }
        };
        if entry.file_type().is_file()
            && let Ok(metadata) = entry.metadata()
        {
            let inode = Inode { device: metadata.dev(), inode: metadata.ino() };
            usage.add(inode, metadata.len(), metadata.blocks() * 512, metadata.nlink());
        }
    }
    Ok(usage)
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}
