//! The catalog: short names for well-known models.

use std::path::Path;

use crate::error::Result;

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CatalogEntry {
    /// The short name.
    pub alias: String,
    /// `org/name`.
    pub repository: String,
    /// The file of the repository; of the result where a conversion is needed.
    pub file: String,
    /// Folder of the flat store that a new download goes to.
    pub folder: String,
    /// Folders in which earlier tools kept it.
    pub former_folders: Vec<String>,
    /// Rough size in bytes.
    pub size_bytes: u64,
    /// Output type of the conversion that it needs ("f32"), if it needs one.
    pub conversion: Option<String>,
}

/// The entries by alias: the embedded ones, and a user's own that add and override.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Catalog {
    _entries: Vec<CatalogEntry>,
}

impl Catalog {
    /// The entries of `assets/catalog.toml`.
    #[must_use]
    pub fn embedded() -> Self {
        todo!()
    }

    /// The embedded entries with those of `file` added or put in their place; a missing file adds nothing.
    ///
    /// # Errors
    /// [`crate::Error::InvalidConfig`] names file, line and entry.
    pub fn with_user_file(_file: &Path) -> Result<Self> {
        todo!()
    }

    /// Every entry: the embedded ones in their order, then a user's own.
    #[must_use]
    pub fn entries(&self) -> &[CatalogEntry] {
        todo!()
    }

    /// The entry of that alias, exactly as written.
    #[must_use]
    pub fn get(&self, _alias: &str) -> Option<&CatalogEntry> {
        todo!()
    }
}
