//! Models that would make room: nobody uses them, and they lie where room is missing.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::Inventory;
use crate::model::ModelId;

/// A model that is not in use, as far as can be seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdleModel {
    /// The row.
    pub model: ModelId,
    /// What deleting it would free.
    pub reclaimable_bytes: u64,
    /// When it was last read, as far as the file system tells.
    pub last_use: Option<Timestamp>,
}

impl Inventory {
    /// The models on the file system of `place` whose deletion would free something, the longest unused first. Left out are
    /// those on the `protect` list, those that a process holds, and those that are not complete, for a download may be under
    /// way.
    #[must_use]
    pub fn idle_models(&self, place: &Path, cancel: &CancellationToken) -> Vec<IdleModel> {
        let device = |path: &Path| path.ancestors().find_map(|path| fs::metadata(path).ok()).map(|found| found.dev());
        let here = device(place);
        let (mut rows, _) = self.scan_all(cancel);
        rows.retain(|row| {
            row.model.complete
                && row.model.reclaimable_bytes > 0
                && !self.is_protected(&row.model)
                && fs::metadata(&row.model.path).ok().map(|found| found.dev()) == here
        });
        self.look_for_holders(&mut rows);
        let mut idle: Vec<IdleModel> = rows
            .into_iter()
            .filter(|row| row.model.in_use_by.as_ref().is_none_or(Vec::is_empty))
            .map(|row| IdleModel {
                reclaimable_bytes: row.model.reclaimable_bytes,
                last_use: row.model.accessed.max(row.model.modified),
                model: row.model.identity,
            })
            .collect();
        idle.sort_by(|a, b| (a.last_use, &a.model).cmp(&(b.last_use, &b.model)));
        idle
    }
}
