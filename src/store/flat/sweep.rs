//! What is dead in a folder of models.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use tokio_util::sync::CancellationToken;

use super::FlatStore;
use super::folder::{Class, ModelFolder, RecordState};
use super::rows::{Base, Content, Found};
use crate::disk::folder::EntryType;
use crate::model::{Certainty, Garbage, StoreKind, Sweep, text};
use crate::store::sweep::{Dead, SweepContext, Sweeper};
use crate::store::tree::{Entry, Tree};

impl FlatStore {
    pub(super) fn find_dead(&self, context: &SweepContext, cancel: &CancellationToken) -> Sweep {
        let mut sweeper = Sweeper::new(StoreKind::Flat, &self.root, context);
        let base = match Base::open(&self.root) {
            Ok(Some(base)) => base,
            Ok(None) => return sweeper.finish(),
            Err(error) => {
                sweeper.warn(error.to_string());
                return sweeper.finish();
            }
        };
        for place in base.places() {
            if cancel.is_cancelled() {
                return Sweep::default();
            }
            match base.read(&place) {
                Some(Content::Row(found)) => row(&found, &mut sweeper),
                Some(Content::Group(group)) => {
                    group.rows.iter().for_each(|found| row(found, &mut sweeper));
                    for entry in &group.beside {
                        sweeper.own_temporary(Path::new(""), entry, None);
                    }
                }
                None => {}
            }
        }
        beside(&base, &mut sweeper);
        sweeper.finish()
    }
}

fn row(found: &Found, sweeper: &mut Sweeper<'_>) {
    match found {
        Found::Model(folder) if !folder.is_loose() => one(folder, sweeper),
        Found::Model(folder) => links(folder, sweeper),
        Found::Link(entry) => {
            sweeper.link(Path::new(""), entry, Some(&found.id()));
        }
        Found::Closed(entry, reason) => {
            let path = text::printable_path(&sweeper.root.join(&entry.path));
            sweeper.warn(format!("{path} cannot be read: {reason}; nothing there is offered"));
        }
    }
}

/// What lies beside the models: files of the base folder, and the bookkeeping of a client that downloaded into it.
fn beside(base: &Base, sweeper: &mut Sweeper<'_>) {
    let files = base.entries.iter().filter(|(_, kind)| *kind == EntryType::File);
    let files: Vec<Entry> = files.filter_map(|(name, _)| base.entry(name)).collect();
    let all: Vec<&Entry> = files.iter().collect();
    sweeper.own_partials(Path::new(""), &all, None);
    for entry in &files {
        sweeper.own_temporary(Path::new(""), entry, None);
    }
    for name in [".cache", ".huggingface"] {
        let Ok(tree) = Tree::read(&base.folder, OsStr::new(name)) else { continue };
        let inside = tree.entries.into_iter().map(|entry| Entry { path: Path::new(name).join(&entry.path), ..entry });
        let entries: Vec<Entry> = inside.collect();
        sweeper.local_dir_partials(Path::new(""), &entries, None);
        for entry in entries.iter().filter(|entry| {
            entry.path.starts_with(".cache/huggingface")
                || entry.path.starts_with(".cache/llorch-models")
                || name == ".huggingface"
        }) {
            sweeper.own_temporary(Path::new(""), entry, None);
        }
    }
}

/// Links of the model; those that lead nowhere are offered.
fn links(folder: &ModelFolder, sweeper: &mut Sweeper<'_>) {
    let id = folder.id_text();
    for (_, entry, _) in folder.content().filter(|(_, entry, _)| entry.link.is_some()) {
        sweeper.link(&folder.below, entry, Some(&id));
    }
}

fn one(folder: &ModelFolder, sweeper: &mut Sweeper<'_>) {
    let id = folder.id_text();
    let from = sweeper.steps();
    let entries: Vec<&Entry> = folder.tree.entries.iter().collect();
    let known: Vec<&Entry> = entries
        .iter()
        .zip(&folder.classes)
        .filter(|(_, class)| **class != Class::Hidden)
        .map(|(entry, _)| *entry)
        .collect();
    sweeper.own_partials(&folder.below, &known, Some(&id));
    for entry in &known {
        sweeper.own_temporary(&folder.below, entry, Some(&id));
    }
    sweeper.local_dir_partials(&folder.below, &folder.tree.entries, Some(&id));
    if !folder.tree.unread.is_empty() {
        let path = text::printable_path(&sweeper.root.join(&folder.below));
        return sweeper.warn(format!("{path} cannot be read in full; only partial files there are offered"));
    }
    links(folder, sweeper);
    // Whose folder it is, is unknown.
    if matches!(folder.record, RecordState::Unreadable(_)) {
        return;
    }
    let top = Entry { path: PathBuf::from(&folder.id), status: folder.tree.top, link: None, parent: folder.parent };
    let (why, certainty) = match entries.is_empty() {
        // Nothing tells who made it, and what for.
        true => ("is empty", Certainty::Possible),
        false => ("holds nothing but bookkeeping and what is dead", Certainty::Likely),
    };
    let dead =
        Dead { path: &folder.below, kind: Garbage::AbandonedFolder, why: why.to_owned(), certainty, id: Some(&id) };
    let is_book =
        |entry: &Entry| folder.find(&entry.path).is_some_and(|index| folder.classes[index] == Class::Bookkeeping);
    sweeper.abandoned(&top, &entries, from, &is_book, dead);
}
