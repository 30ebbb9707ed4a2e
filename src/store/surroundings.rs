//! What every store says of its rows beside what is in them: owner, mount point, and warnings within bounds.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::disk::folder::Status;
use crate::machine::{Mounts, user_name};
use crate::model::text;

/// Most warnings that a row lists one by one.
const MAX_WARNINGS: usize = 20;

/// Names of users and mount points, each asked for once a scan.
#[derive(Debug, Default)]
pub(super) struct Surroundings {
    mounts: Option<Mounts>,
    mount_of: BTreeMap<u64, Option<PathBuf>>,
    owners: BTreeMap<u32, String>,
}

impl Surroundings {
    pub(super) fn owner(&mut self, uid: u32) -> String {
        self.owners.entry(uid).or_insert_with(|| user_name(uid).unwrap_or_else(|| uid.to_string())).clone()
    }

    pub(super) fn mount(&mut self, path: &Path, status: &Status) -> Option<PathBuf> {
        let mounts = self.mounts.get_or_insert_with(Mounts::read);
        let known = self.mount_of.entry(status.inode.device);
        known.or_insert_with(|| mounts.of(path).map(|mount| mount.path.clone())).clone()
    }
}

/// Collects warnings, and tells how many more there were.
#[derive(Debug, Default)]
pub(super) struct Warnings {
    lines: Vec<String>,
    more: usize,
}

impl Warnings {
    pub(super) fn add(&mut self, line: impl Into<String>) {
        let line = text::into_printable(line.into());
        if self.lines.contains(&line) {
            return;
        }
        if self.lines.len() < MAX_WARNINGS {
            self.lines.push(line);
        } else {
            self.more += 1;
        }
    }

    pub(super) fn finish(mut self) -> Vec<String> {
        if self.more > 0 {
            self.lines.push(format!("and {} more warnings", self.more));
        }
        self.lines
    }
}
