//! Parts of a row with figures of their own: what each takes, and what deleting it alone would free.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde::Serialize;

use super::verify::Expected;

/// What a part takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Figures {
    /// `st_size` over its distinct files.
    pub size_bytes: u64,
    /// `st_blocks * 512` over the same.
    pub disk_bytes: u64,
    /// What deleting it alone would free.
    pub reclaimable_bytes: u64,
}

impl Figures {
    /// Of the files that make up a part, and of what the plan to delete it expects.
    pub(super) fn of(root: &Path, files: &[Expected], reclaimable_bytes: u64) -> Self {
        let mut distinct = BTreeMap::new();
        for file in files {
            // What is not there takes nothing.
            let Ok(status) = fs::symlink_metadata(root.join(&file.location)) else { continue };
            if status.is_file() {
                distinct.insert((status.dev(), status.ino()), (status.len(), status.blocks() * 512));
            }
        }
        Self {
            size_bytes: distinct.values().map(|(size, _)| size).sum(),
            disk_bytes: distinct.values().map(|(_, disk)| disk).sum(),
            reclaimable_bytes,
        }
    }
}

/// One quantization of a row that has several.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct QuantizationPart {
    /// Its label.
    pub quantization: String,
    /// What it takes.
    #[serde(flatten)]
    pub figures: Figures,
}

/// A file that other rows of the store use, too: it goes with the last of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SharedFile {
    /// Path inside the model.
    pub path: String,
    /// `st_blocks * 512`.
    pub disk_bytes: u64,
    /// Ids of the others.
    pub used_by: Vec<String>,
}
