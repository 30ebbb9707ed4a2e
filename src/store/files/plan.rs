//! What deleting rows of plain files, or parts of them, would do.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::{FileStore, Layout, Listing, Unit, What};
use crate::error::Result;
use crate::model::{Blocked, Broken, Bytes, Inode, Kept, Plan, Role, Step, text};
use crate::store::flat::deletion::add_sidecar_models;
use crate::store::flat::folder::{Class, all_of};
use crate::store::planning::{PlanBuilder, lexical, way_of_link};
use crate::store::tree::Entry;
use crate::store::{Part, Target};

/// What goes of one row.
struct Selected<'a> {
    unit: &'a Unit,
    /// Indices of the entries that go.
    entries: BTreeSet<usize>,
    /// Whether nothing of it stays but what others use.
    all: bool,
}

/// The order in which files go. A crash in between leaves a row that lists as incomplete, never one that looks whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    /// What names files from another file: it goes first.
    Name,
    /// The first shard, or weights in one file: what loaders open.
    FirstWeights,
    Weights,
    Companion,
    Rest,
}

impl<L: Layout> FileStore<L> {
    pub(super) fn plan(&self, targets: &[Target]) -> Result<Plan> {
        let Some(first) = targets.first() else { return Ok(Plan::default()) };
        let mut listing = self.read(None)?.ok_or_else(|| self.not_found(&first.id))?;
        let mut builder = PlanBuilder::new(&self.root);
        let mut asked: BTreeMap<&str, Vec<&Part>> = BTreeMap::new();
        for target in targets {
            let parts = asked.entry(&target.id).or_default();
            if parts.is_empty() {
                builder.plan().models.push(self.identity(&target.id));
            }
            parts.push(&target.part);
        }
        let in_parts = |id: &str| asked.get(id).is_some_and(|parts| !parts.contains(&&Part::Whole));
        for found in listing.rows.iter_mut().filter(|found| in_parts(&found.id)) {
            if let What::Unit(unit) = &mut found.what {
                unit.folder.tell_kinds(&self.root, &self.headers);
            }
        }
        let mut selected: Vec<(&str, Selected<'_>)> = Vec::new();
        for (id, parts) in &asked {
            let whole = parts.contains(&&Part::Whole);
            match &self.found(&listing, id)?.what {
                What::Unit(unit) => selected.push((id, self.select(id, unit, parts, &mut builder)?)),
                What::Link(entry) if whole => {
                    builder.remove(Path::new(""), entry, Vec::new());
                }
                What::Link(_) => return Err(self.not_found(id)),
                What::Closed(entry, why) => {
                    let path = self.root.join(&entry.path);
                    builder.plan().blocked.push(Blocked { path, because: format!("cannot be read: {why}") });
                }
            }
        }
        let all: BTreeSet<&str> = selected.iter().filter(|(_, row)| row.all).map(|(id, _)| *id).collect();
        for (_, row) in &mut selected {
            let unit = row.unit;
            row.entries.retain(|&index| {
                let others = unit.shared.get(&unit.location(index)).map_or(&[][..], Vec::as_slice);
                others.iter().all(|other| all.contains(other.as_str()))
            });
        }
        self.add_steps(&selected, &mut builder);
        builder.remove_emptied(&listing.folders);
        let going: BTreeSet<PathBuf> = builder.plan().steps.iter().map(Step::path).collect();
        self.note_kept(&selected, &going, &mut builder);
        self.look_around(&listing, &going, &mut builder);
        Ok(builder.finish(Vec::new()))
    }

    fn select<'a>(&self, id: &str, unit: &'a Unit, parts: &[&Part], builder: &mut PlanBuilder) -> Result<Selected<'a>> {
        let folder = &unit.folder;
        let whole = parts.contains(&&Part::Whole);
        let mut entries = BTreeSet::new();
        for part in parts {
            entries.extend(self.part(id, unit, part)?);
            builder.plan().notes.extend(folder.said_of(part, &self.root, &self.headers));
        }
        if whole {
            let path = |path: &Path| self.root.join(&folder.below).join(path);
            builder.plan().blocked.extend(folder.tree.unread.iter().map(|unread| Blocked {
                path: path(&unread.path),
                because: format!("its content is unknown: {}", unread.because),
            }));
        } else {
            add_sidecar_models(folder, &mut entries);
        }
        let is_file = |class: &Class| matches!(class, Class::Content(_) | Class::Staging { .. });
        let rest = folder.classes.iter().enumerate().any(|(at, class)| is_file(class) && !entries.contains(&at));
        let all = whole || !rest;
        if all {
            entries.extend((0..folder.classes.len()).filter(|&at| !folder.tree.entries[at].is_folder()));
        } else {
            entries.extend(entries.clone().iter().flat_map(|&at| {
                let path = &folder.tree.entries[at].path;
                folder.sidecars(path).collect::<Vec<_>>()
            }));
        }
        Ok(Selected { unit, entries, all })
    }

    fn add_steps(&self, selected: &[(&str, Selected<'_>)], builder: &mut PlanBuilder) {
        let mut done: BTreeMap<PathBuf, usize> = BTreeMap::new();
        // What several rows use goes after the weights of all of them.
        for shared in [false, true] {
            for (_, row) in selected {
                self.add_files(row, shared, &mut done, builder);
            }
        }
        for (_, row) in selected.iter().filter(|(_, row)| row.all) {
            // Folders that were empty before go with the rest of the row; those that become empty are found by that.
            let tree = &row.unit.folder.tree;
            let is_empty = |path: &Path| !tree.entries.iter().any(|entry| entry.path.parent() == Some(path));
            let is_read = |path: &Path| !tree.unread.iter().any(|unread| unread.path == path);
            for entry in tree.entries.iter().filter(|entry| entry.is_folder()) {
                if is_empty(&entry.path) && is_read(&entry.path) {
                    builder.remove(&row.unit.folder.below, entry, Vec::new());
                }
            }
            if let Some(top) = row.unit.top.as_ref().filter(|_| tree.entries.is_empty() && tree.unread.is_empty()) {
                builder.remove(Path::new(""), top, Vec::new());
            }
        }
    }

    fn add_files(
        &self,
        row: &Selected<'_>,
        shared: bool,
        done: &mut BTreeMap<PathBuf, usize>,
        builder: &mut PlanBuilder,
    ) {
        let folder = &row.unit.folder;
        let first_of_set: BTreeSet<usize> = folder.sets.iter().filter_map(|set| set.members.first().copied()).collect();
        let rank = |index: usize| match &folder.classes[index] {
            Class::Bookkeeping if row.unit.is_loose() => Rank::Name,
            Class::Content(Role::Weights | Role::Shard) if first_of_set.contains(&index) => Rank::FirstWeights,
            Class::Content(Role::Weights | Role::Shard) => Rank::Weights,
            Class::Content(Role::Mmproj) => Rank::Companion,
            _ => Rank::Rest,
        };
        let mut order: Vec<(Rank, usize)> = row.entries.iter().map(|&index| (rank(index), index)).collect();
        order.sort_unstable();
        let mut names: Vec<usize> = Vec::new();
        let mut weights: Vec<usize> = row
            .entries
            .iter()
            .filter(|&&index| matches!(rank(index), Rank::FirstWeights | Rank::Weights))
            .filter_map(|&index| done.get(&row.unit.location(index)).copied())
            .collect();
        for (rank, index) in order {
            let location = row.unit.location(index);
            if row.unit.shared.contains_key(&location) != shared || done.contains_key(&location) {
                continue;
            }
            let requires = match rank {
                Rank::FirstWeights | Rank::Weights => names.clone(),
                // A projector stays useful as long as weights stay.
                Rank::Companion => weights.clone(),
                Rank::Name | Rank::Rest => Vec::new(),
            };
            let entry = &folder.tree.entries[index];
            let step = builder.remove(&folder.below, entry, requires);
            done.insert(location, step);
            match rank {
                Rank::Name if is_manifest(entry) => names.push(step),
                Rank::FirstWeights | Rank::Weights => weights.push(step),
                _ => {}
            }
        }
    }

    /// Says what stays of the rows that were asked for, and that what links lead to stays.
    fn note_kept(&self, selected: &[(&str, Selected<'_>)], going: &BTreeSet<PathBuf>, builder: &mut PlanBuilder) {
        for (_, row) in selected {
            let folder = &row.unit.folder;
            let stays = |index: &usize| !row.entries.contains(index);
            let user = folder.models().flat_map(all_of).find(stays);
            for (index, _, role) in folder.content().filter(|(index, ..)| stays(index)) {
                let location = row.unit.location(index);
                let path = self.root.join(&location);
                let because = match (row.unit.shared.get(&location), user) {
                    (Some(others), _) => {
                        let others: Vec<String> = others.iter().map(|id| text::printable(id)).collect();
                        format!("also used by {}", others.join(", "))
                    }
                    (None, Some(user)) if !matches!(role, Role::Weights | Role::Shard) => {
                        format!("also used by {}", text::printable_path(&folder.tree.entries[user].path))
                    }
                    _ => "was not asked for".to_owned(),
                };
                let known = builder.plan().keep.iter().any(|kept| kept.path == path);
                if !known && !going.contains(&path) {
                    builder.plan().keep.push(Kept { path, because });
                }
            }
            for &index in &row.entries {
                self.note_target(&row.unit.location(index), &folder.tree.entries[index], going, builder);
            }
        }
    }

    fn note_target(&self, location: &Path, entry: &Entry, going: &BTreeSet<PathBuf>, builder: &mut PlanBuilder) {
        let Some(target) = &entry.link else { return };
        let at = self.root.join(location);
        let leads_to = lexical(&at.parent().unwrap_or(&self.root).join(target));
        if leads_to != at && !going.contains(&leads_to) {
            let because = format!("only the link {} goes, never what it leads to", text::printable_path(&at));
            builder.plan().keep.push(Kept { path: leads_to, because });
        }
    }

    /// Looks through everything that stays for links to what goes, and for other names of it.
    fn look_around(&self, listing: &Listing, going: &BTreeSet<PathBuf>, builder: &mut PlanBuilder) {
        let mut inodes: BTreeMap<Inode, (PathBuf, Bytes)> = BTreeMap::new();
        let mut staying: Vec<(&str, PathBuf, &Entry)> = Vec::new();
        for found in &listing.rows {
            let entries: Vec<(PathBuf, &Entry)> = match &found.what {
                What::Unit(unit) => (0..unit.folder.tree.entries.len())
                    .map(|at| (unit.location(at), &unit.folder.tree.entries[at]))
                    .collect(),
                What::Link(entry) => vec![(entry.path.clone(), entry)],
                What::Closed(..) => Vec::new(),
            };
            for (location, entry) in entries {
                let path = self.root.join(location);
                if !going.contains(&path) {
                    staying.push((&found.id, path, entry));
                } else if entry.is_file() {
                    inodes.insert(entry.status.inode, (path, Bytes(entry.status.disk_bytes)));
                } else if let (What::Link(_), Some(target)) = (&found.what, &entry.link) {
                    let leads_to = lexical(&path.parent().unwrap_or(&self.root).join(target));
                    let because = format!("only the link {} goes, never what it leads to", text::printable_path(&path));
                    builder.plan().keep.push(Kept { path: leads_to, because });
                }
            }
        }
        for (id, path, entry) in staying {
            if let Some((other, bytes)) = inodes.get(&entry.status.inode).filter(|_| entry.is_file()) {
                let other = text::printable_path(other);
                let because = format!("is another name of {other}: its {bytes} come free when both are gone");
                builder.plan().keep.retain(|kept| kept.path != path);
                builder.plan().keep.push(Kept { path, because });
            } else if entry.link.is_some() && way_of_link(&path).iter().any(|stop| going.contains(stop)) {
                let model = self.identity(id);
                if builder.plan().models.contains(&model) {
                    let because = "is a link that will lead to nothing: what it leads to goes".to_owned();
                    builder.plan().keep.retain(|kept| kept.path != path);
                    builder.plan().keep.push(Kept { path, because });
                } else {
                    builder.plan().breaks.push(Broken { model, path });
                }
            }
        }
    }
}

/// Whether it names the weights, so that none may go while it stays.
fn is_manifest(entry: &Entry) -> bool {
    entry.name().as_encoded_bytes().starts_with(b"manifest=")
}
