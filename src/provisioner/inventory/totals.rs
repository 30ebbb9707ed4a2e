//! Totals over rows, an inode once.

use crate::disk::usage::Usage;
use crate::store::Row;

/// What rows take together: a file that several of them name counts once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    usage: Usage,
    models: u64,
}

impl Totals {
    /// Adds a row.
    pub fn add(&mut self, row: &Row) {
        self.usage.merge(&row.usage);
        self.models += 1;
    }

    /// `st_blocks * 512` over all rows, each inode once.
    #[must_use]
    pub fn disk_bytes(&self) -> u64 {
        self.usage.disk_bytes()
    }

    /// What deleting all of them would free.
    #[must_use]
    pub fn reclaimable_bytes(&self) -> u64 {
        self.usage.reclaimable_bytes()
    }

    /// How many rows.
    #[must_use]
    pub fn models(&self) -> u64 {
        self.models
    }
}

impl<'a> FromIterator<&'a Row> for Totals {
    fn from_iter<I: IntoIterator<Item = &'a Row>>(rows: I) -> Self {
        let mut totals = Self::default();
        rows.into_iter().for_each(|row| totals.add(row));
        totals
    }
}
