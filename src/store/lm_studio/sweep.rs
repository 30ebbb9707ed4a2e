//! What is dead among LM Studio's models.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::{class, is_hidden};
use crate::disk::folder::Folder;
use crate::model::{Certainty, Garbage, text};
use crate::store::flat::folder::Class;
use crate::store::flat::staging::StagingName;
use crate::store::sweep::{Dead, Sweeper};
use crate::store::tree::{Entry, Tree};

pub(super) fn find_dead(folder: &Folder, sweeper: &mut Sweeper<'_>) -> Result<(), Errno> {
    let tree = Tree::of(folder)?;
    for unread in &tree.unread {
        let path = text::printable_path(&sweeper.root.join(&unread.path));
        sweeper.warn(format!("{path} cannot be read: {}; nothing there is offered", unread.because));
    }
    // By row: what is beside the repositories belongs to none.
    let mut rows: BTreeMap<Option<String>, Vec<Entry>> = BTreeMap::new();
    for entry in &tree.entries {
        rows.entry(row_of(&entry.path)).or_default().push(entry.clone());
    }
    for (id, entries) in &rows {
        row(entries, id.as_deref(), sweeper);
    }
    folders(&tree, sweeper);
    Ok(())
}

/// The id of the row that holds a path: `publisher/repo`.
fn row_of(path: &Path) -> Option<String> {
    let mut parts = path.iter();
    let (publisher, repository, inside) = (parts.next()?, parts.next()?, parts.next());
    inside.map(|_| text::escape(Path::new(publisher).join(repository).as_os_str()))
}

fn row(entries: &[Entry], id: Option<&str>, sweeper: &mut Sweeper<'_>) {
    let below = Path::new("");
    let in_sight = |entry: &&Entry| !entry.path.iter().any(is_hidden);
    let seen: Vec<&Entry> = entries.iter().filter(in_sight).collect();
    sweeper.own_partials(below, &seen, id);
    sweeper.local_dir_partials(below, entries, id);
    for entry in entries {
        sweeper.own_temporary(below, entry, id);
    }
    for entry in seen {
        if entry.link.is_some() {
            sweeper.link(below, entry, id);
        }
        let Class::Staging { target, journal: false } = class(entry) else { continue };
        if StagingName::parse(entry.name()).is_some() {
            continue;
        }
        let name = target.file_name().map(|name| text::printable(&text::escape(name))).unwrap_or_default();
        let (why, certainty) = match entries.iter().any(|entry| entry.path == target) {
            true => (format!("an unfinished download of {name}, which is here by now"), Certainty::Certain),
            false => (format!("an unfinished download of {name}"), Certainty::Likely),
        };
        let dead = Dead { path: &entry.path, kind: Garbage::Partial, why, certainty, id };
        sweeper.offer_one(dead, below, entry);
    }
}

/// Publishers and repositories in which nothing is left.
fn folders(tree: &Tree, sweeper: &mut Sweeper<'_>) {
    let mut taken: Option<PathBuf> = None;
    let tops = tree.entries.iter().filter(|entry| entry.is_folder() && entry.path.iter().count() <= 2);
    for top in tops.filter(|entry| !entry.path.iter().any(is_hidden)) {
        // The outermost folder says it all.
        if taken.as_ref().is_some_and(|taken| top.path.starts_with(taken))
            || tree.unread.iter().any(|unread| unread.path.starts_with(&top.path))
        {
            continue;
        }
        let inside: Vec<Entry> = tree
            .entries
            .iter()
            .filter(|entry| entry.path != top.path)
            .filter_map(|e| Some(Entry { path: e.path.strip_prefix(&top.path).ok()?.to_owned(), ..e.clone() }))
            .collect();
        // Bookkeeping lies in the repository, one folder deeper than a publisher's.
        let is_book = |entry: &Entry| {
            let depth = 2 - top.path.iter().count();
            let path: PathBuf = entry.path.iter().skip(depth).collect();
            class(&Entry { path, ..entry.clone() }) == Class::Bookkeeping
        };
        let id = row_of(&top.path.join("x"));
        let why = if inside.is_empty() { "is empty" } else { "holds nothing but bookkeeping and what is dead" };
        let dead = Dead {
            path: &top.path,
            kind: Garbage::AbandonedFolder,
            why: why.to_owned(),
            certainty: Certainty::Likely,
            id: id.as_deref(),
        };
        let entries: Vec<&Entry> = inside.iter().collect();
        if sweeper.abandoned(top, &entries, 0, &is_book, dead).is_some() {
            taken = Some(top.path.clone());
        }
    }
}
