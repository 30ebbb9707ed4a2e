//! The table of models: rows by identity, and what of them is shown in which order.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::Line;
use crate::disk::usage::Usage;
use crate::model::filter::{Filter, SortKey};
use crate::model::memory::{Conditions, HostMemory, Verdict};
use crate::model::{Holder, ModelId, StoreKind, StoreSummary};
use crate::provisioner::{Duplicate, duplicates};
use crate::store::Row;
use crate::store::fit::fit_of_row;
use crate::tui::msg::Generation;

/// The table of models.
#[derive(Clone, Debug, Default)]
pub struct Models {
    rows: BTreeMap<ModelId, Entry>,
    shown: Vec<Arc<Row>>,
    stores: BTreeMap<(StoreKind, PathBuf), StoreSummary>,
    usage: Usage,
    stale_usage: bool,
    /// Whether a person has moved the cursor: until then it stays on the first row while rows stream in.
    pub moved: bool,
    /// The row that keys go to.
    pub cursor: Option<ModelId>,
    /// The marked rows, shown or not.
    pub marks: BTreeSet<ModelId>,
    /// The filter as typed.
    pub filter: Line,
    /// Whether the filter is being typed.
    pub filtering: bool,
    /// What is wrong with the filter.
    pub filter_error: Option<String>,
    parsed: Filter,
    /// What fits are judged by, once it is known.
    host: Option<(HostMemory, Conditions)>,
    /// By what the rows are sorted.
    pub sort: SortKey,
    /// Whether the order is turned round.
    pub reverse: bool,
    /// The first row on the screen.
    pub offset: usize,
    /// The scan.
    pub scan: Scan,
    duplicates: Arc<[Duplicate]>,
}

#[derive(Clone, Debug)]
struct Entry {
    row: Arc<Row>,
    seen: Generation,
}

/// What is known of the scan that ran last or runs now.
#[derive(Clone, Debug, Default)]
pub struct Scan {
    /// Its number.
    pub generation: Generation,
    /// When it began; `None` when it is over.
    pub since: Option<Duration>,
    /// Whether any scan has ended.
    pub ever_done: bool,
    /// Whether somebody looked which stores are silent.
    pub checked: bool,
    /// Stores that have not answered for long enough to say so.
    pub silent: Vec<(StoreKind, PathBuf)>,
    /// Stores that have given a row or their end.
    answered: BTreeSet<(StoreKind, PathBuf)>,
}

impl Models {
    /// The rows that the filter lets through, in order.
    #[must_use]
    pub fn shown(&self) -> &[Arc<Row>] {
        &self.shown
    }

    /// Number of rows, shown or not.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is no row.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The row of that identity.
    #[must_use]
    pub fn get(&self, id: &ModelId) -> Option<&Arc<Row>> {
        self.rows.get(id).map(|entry| &entry.row)
    }

    /// Every row.
    pub fn rows(&self) -> impl Iterator<Item = &Arc<Row>> {
        self.rows.values().map(|entry| &entry.row)
    }

    /// Bytes on disk of all rows, an inode once.
    #[must_use]
    pub fn disk_bytes(&self) -> u64 {
        self.usage.disk_bytes()
    }

    /// Summaries of the stores that a scan has finished.
    pub fn stores(&self) -> impl Iterator<Item = &StoreSummary> {
        self.stores.values()
    }

    /// Place of the cursor among the shown rows.
    #[must_use]
    pub fn position(&self) -> Option<usize> {
        let cursor = self.cursor.as_ref()?;
        self.shown.iter().position(|row| row.model.identity == *cursor)
    }

    /// Puts the cursor on the shown row of that place, or the last one before it.
    pub fn place(&mut self, position: usize) {
        let last = self.shown.len().saturating_sub(1);
        self.cursor = self.shown.get(position.min(last)).map(|row| row.model.identity.clone());
    }

    /// A filter brought the cursor to its model: it stays there when the other rows come back.
    pub fn hold(&mut self) {
        self.moved |= self.is_filtered() && self.position().is_some();
    }

    /// What an action is about: the marked rows, else the row under the cursor.
    #[must_use]
    pub fn targets(&self) -> Vec<ModelId> {
        if self.marks.is_empty() {
            let shown = |id: &&ModelId| self.shown.iter().any(|row| row.model.identity == **id);
            return self.cursor.iter().filter(shown).cloned().collect();
        }
        self.marks.iter().cloned().collect()
    }

    /// Bytes that all marked rows free together: what two of them share goes when both go.
    #[must_use]
    pub fn marked_bytes(&self) -> u64 {
        let rows = self.marks.iter().filter_map(|id| self.get(id));
        // Only what a row does not free alone can be more together with another one.
        let (alone, shared): (Vec<_>, Vec<_>) =
            rows.partition(|row| row.model.reclaimable_bytes >= row.model.disk_bytes);
        let sum = |rows: &[&Arc<Row>]| rows.iter().map(|row| row.model.reclaimable_bytes).sum::<u64>();
        let mut usage = Usage::default();
        shared.iter().for_each(|row| usage.merge(&row.usage));
        sum(&alone) + sum(&shared).max(usage.reclaimable_bytes())
    }

    /// Marked rows that the filter hides.
    #[must_use]
    pub fn hidden_marks(&self) -> usize {
        let shown: BTreeSet<&ModelId> = self.shown.iter().map(|row| &row.model.identity).collect();
        self.marks.iter().filter(|id| !shown.contains(id)).count()
    }

    /// Reads the filter anew after it was typed. What is malformed is said, and the words before it hold: `size>` is on its
    /// way to `size>10G`.
    pub fn read_filter(&mut self, wall: Timestamp) {
        let text = self.filter.text();
        self.filter_error = None;
        self.parsed = Filter::parse(text).unwrap_or_else(|error| {
            self.filter_error = Some(error);
            let before = text.trim_end().rsplit_once(' ').map_or("", |(before, _)| before);
            Filter::parse(before).unwrap_or_default()
        });
        self.arrange(wall);
    }

    /// The memory of this host is known, or has changed. Whether other rows may be shown for it: then call [`Self::arrange`].
    pub fn judge_by(&mut self, memory: &HostMemory, conditions: &Conditions) -> bool {
        self.host = Some((memory.clone(), *conditions));
        self.parsed.needs_fits()
    }

    /// Whether a filter hides rows.
    #[must_use]
    pub fn is_filtered(&self) -> bool {
        !self.parsed.is_empty()
    }

    /// A scan begins.
    pub fn scan_begins(&mut self, generation: Generation, at: Duration) {
        self.scan = Scan {
            generation,
            since: Some(at),
            ever_done: self.scan.ever_done,
            checked: false,
            silent: Vec::new(),
            answered: BTreeSet::new(),
        };
    }

    /// Adds a row, or puts it in the place of what was known of it. Call [`Self::arrange`] after the last.
    pub fn add(&mut self, mut row: Row) {
        let id = row.model.identity.clone();
        self.scan.answered.insert((id.store, id.store_path.clone()));
        match self.rows.remove(&id) {
            Some(old) => {
                self.stale_usage = true;
                row.model.duplicate = old.row.model.duplicate;
                if row.model.in_use_by.is_none() {
                    row.model.in_use_by.clone_from(&old.row.model.in_use_by);
                }
            }
            None => self.usage.merge(&row.usage),
        }
        self.rows.insert(id, Entry { row: Arc::new(row), seen: self.scan.generation });
    }

    /// A store is done: rows of it that the scan did not see are gone.
    pub fn store_done(&mut self, summary: StoreSummary) {
        let store = (summary.store, summary.path.clone());
        self.scan.answered.insert(store.clone());
        self.scan.silent.retain(|silent| *silent != store);
        let generation = self.scan.generation;
        self.retain(|id, entry| entry.seen == generation || id.store != store.0 || id.store_path != store.1);
        self.stores.insert(store, summary);
    }

    /// The scan is over: what is left from before and from no store that is still there is gone.
    pub fn scan_done(&mut self) {
        self.scan.since = None;
        self.scan.ever_done = true;
        self.scan.silent.clear();
        let generation = self.scan.generation;
        self.retain(|_, entry| entry.seen == generation);
        self.compare();
    }

    /// Looks which contents are in several places.
    fn compare(&mut self) {
        self.duplicates = duplicates(self.rows.values().map(|entry| entry.row.as_ref())).into();
        let models: BTreeSet<&ModelId> =
            self.duplicates.iter().flat_map(|group| &group.copies).flat_map(|copy| &copy.models).collect();
        for (id, entry) in &mut self.rows {
            let duplicate = models.contains(id);
            if entry.row.model.duplicate != duplicate {
                Arc::make_mut(&mut entry.row).model.duplicate = duplicate;
            }
        }
    }

    /// Contents of the row that are in other places, too.
    pub fn duplicates_of<'a>(&'a self, id: &'a ModelId) -> impl Iterator<Item = &'a Duplicate> {
        let uses = move |group: &&Duplicate| group.copies.iter().any(|copy| copy.models.contains(id));
        self.duplicates.iter().filter(uses)
    }

    fn verdict(&self, row: &Row) -> Option<Verdict> {
        let (memory, conditions) = self.host.as_ref()?;
        fit_of_row(&row.model, row.metadata.as_deref(), &row.loads, memory, conditions).map(|fit| fit.verdict)
    }

    fn retain(&mut self, keep: impl Fn(&ModelId, &Entry) -> bool) {
        let before = self.rows.len();
        self.rows.retain(|id, entry| keep(id, entry));
        self.stale_usage |= self.rows.len() != before;
    }

    /// Says which of `known` stores have not answered.
    pub fn note_silence(&mut self, known: &[(StoreKind, PathBuf)]) {
        self.scan.checked = true;
        self.scan.silent = known.iter().filter(|store| !self.scan.answered.contains(store)).cloned().collect();
    }

    /// Somebody looked who holds the rows that `holders` names.
    pub fn set_holders(&mut self, holders: BTreeMap<ModelId, Vec<Holder>>) {
        for (id, held) in holders {
            if let Some(entry) = self.rows.get_mut(&id)
                && entry.row.model.in_use_by.as_ref() != Some(&held)
            {
                Arc::make_mut(&mut entry.row).model.in_use_by = Some(held);
            }
        }
    }

    /// Filters and sorts anew. The cursor stays on its model; if that is gone or hidden, it goes to the row that took its
    /// place. Marks of models that are gone go.
    pub fn arrange(&mut self, wall: Timestamp) {
        let before = self.position();
        if std::mem::take(&mut self.stale_usage) {
            self.usage = Usage::default();
            for entry in self.rows.values() {
                self.usage.merge(&entry.row.usage);
            }
        }
        self.shown = self
            .rows
            .values()
            .map(|entry| &entry.row)
            .filter(|row| self.parsed.matches_on(&row.model, wall, || self.verdict(row)))
            .cloned()
            .collect();
        let (sort, reverse) = (self.sort, self.reverse);
        self.shown.sort_by(|a, b| {
            let order = sort.compare(&a.model, &b.model);
            if reverse { order.reverse() } else { order }
        });
        let rows = &self.rows;
        self.marks.retain(|id| rows.contains_key(id));
        if !self.moved {
            self.place(0);
        } else if self.position().is_none() {
            self.place(before.unwrap_or(0));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Inode, Model};

    #[test]
    fn what_marked_rows_share_goes_when_both_go() {
        let mut models = Models::default();
        let add = |models: &mut Models, name: &str, inodes: &[(u64, u64)]| {
            let mut usage = Usage::default();
            for (inode, links) in inodes {
                usage.add(Inode { device: 1, inode: *inode }, 100, 100, *links);
            }
            let store_path = PathBuf::from("/ollama");
            let id = ModelId { store: StoreKind::Ollama, store_path: store_path.clone(), id: name.to_owned() };
            let (disk_bytes, reclaimable_bytes) = (usage.disk_bytes(), usage.reclaimable_bytes());
            let model = Model { disk_bytes, reclaimable_bytes, ..Model::new(id.clone(), store_path) };
            models.add(Row::new(model, usage));
            id
        };
        let latest = add(&mut models, "m:latest", &[(1, 2), (2, 1)]);
        let tagged = add(&mut models, "m:3b", &[(1, 2), (3, 1)]);
        let other = add(&mut models, "other", &[(4, 1), (5, 1)]);
        for (marked, bytes) in [
            (vec![&latest], 100),
            (vec![&latest, &other], 300),
            (vec![&latest, &tagged], 300),
            (vec![&latest, &tagged, &other], 500),
        ] {
            models.marks = marked.into_iter().cloned().collect();
            assert_eq!(models.marked_bytes(), bytes, "{:?}", models.marks);
        }
    }
}
