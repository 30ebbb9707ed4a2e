//! The sets of weights of one revision, with what their headers tell together.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::details::WeightsFile;
use crate::format::Metadata;
use crate::model::{FileName, Format, Quantization, RepoPath};
use crate::store::loads::Load;

/// The sets of the revision whose files come first.
#[derive(Debug, Default)]
pub(super) struct Sets {
    commit: Option<OsString>,
    sets: BTreeMap<PathBuf, Set>,
}

#[derive(Debug)]
struct Set {
    quantization: Quantization,
    metadata: Arc<Metadata>,
    parts: u32,
    count: u32,
}

impl Sets {
    /// Adds a file whose header was read.
    pub(super) fn add(&mut self, file: &WeightsFile<'_>, metadata: &Arc<Metadata>) {
        let commit = self.commit.get_or_insert_with(|| file.commit().to_owned());
        if metadata.format != Format::Gguf || metadata.sidecar || commit != file.commit() {
            return;
        }
        let path = file.path();
        let shard = path.file_name().and_then(OsStr::to_str).and_then(|name| FileName::parse(name).into_shard());
        let (key, count) = match shard {
            Some(shard) => (path.with_file_name(format!("{}-of-{}", shard.stem, shard.count)), shard.count),
            None => (path.to_owned(), 1),
        };
        if let Some(set) = self.sets.get_mut(&key) {
            Arc::make_mut(&mut set.metadata).add_part(metadata);
            set.parts += 1;
            return;
        }
        let Some(quantization) = label(path).or_else(|| metadata.quantization.clone()) else { return };
        self.sets.insert(key, Set { quantization, metadata: Arc::clone(metadata), parts: 1, count });
    }

    /// The sets as what a program would load.
    pub(super) fn loads(self) -> impl Iterator<Item = Load> {
        self.sets.into_values().map(|set| Load::new(set.quantization, set.metadata, set.parts == set.count))
    }
}

fn label(path: &Path) -> Option<Quantization> {
    Quantization::of_path(&RepoPath::parse(path.to_str()?).ok()?)
}
