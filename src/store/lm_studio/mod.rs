//! LM Studio's models: `<models>/<publisher>/<repo>/`, and files that were imported without a publisher.
//!
//! Source of the layout: `lms import` and the documentation of LM Studio. It keeps no checksums, and finds models by looking.

pub mod root;
mod sweep;

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::files::{FileStore, Found, Layout, Listing, Unit, What, is_hidden};
use super::flat::folder::{Class, ModelFolder, RecordState, SetKey, classify};
use super::sweep::Sweeper;
use super::tree::{Entry, Tree, reason};
use crate::disk::folder::{EntryType, Folder};
use crate::model::{StoreKind, text};

/// Files that were imported without saying whose they are.
const UNCATEGORIZED: &str = "imported-models/uncategorized";

/// LM Studio's layout.
#[derive(Clone, Copy, Debug)]
pub struct LmStudio;

/// A models folder of LM Studio.
pub type LmStudioStore = FileStore<LmStudio>;

impl Layout for LmStudio {
    const KIND: StoreKind = StoreKind::LmStudio;
    const DEPTH: usize = 2;

    fn read(folder: &Folder, only: Option<&Path>) -> Result<Listing, Errno> {
        let wanted = |path: &Path| only.is_none_or(|only| only.starts_with(path));
        let mut listing = Listing::default();
        let top = level(folder, Path::new(""))?;
        for entry in &top {
            match entry.status.kind {
                EntryType::Folder if !wanted(&entry.path) => {}
                EntryType::Folder if is_hidden(entry.name()) => add_others(folder, entry, &mut listing),
                EntryType::Folder => publisher(folder, entry, &wanted, &mut listing),
                EntryType::Link => listing.rows.push(link(entry)),
                _ => {}
            }
        }
        loose(&top, false, &mut listing);
        listing.rows.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(listing)
    }

    fn sweep(folder: &Folder, sweeper: &mut Sweeper<'_>) -> Result<(), Errno> {
        sweep::find_dead(folder, sweeper)
    }
}

/// The entries of one folder, with paths relative to the root.
fn level(folder: &Folder, path: &Path) -> Result<Vec<Entry>, Errno> {
    let parent = folder.own_status()?.inode;
    let mut entries = Vec::new();
    for (name, _) in folder.entries()? {
        let Ok(status) = folder.status(&name) else { continue };
        let link =
            (status.kind == EntryType::Link).then(|| folder.read_link(&name).map(PathBuf::from).unwrap_or_default());
        entries.push(Entry { path: path.join(name), status, link, parent });
    }
    Ok(entries)
}

fn publisher(root: &Folder, entry: &Entry, wanted: &dyn Fn(&Path) -> bool, listing: &mut Listing) {
    let opened = root.folder(entry.name()).and_then(|folder| Ok((level(&folder, &entry.path)?, folder)));
    let (entries, folder) = match opened {
        Ok(opened) => opened,
        Err(Errno::NOENT) => return,
        Err(error) => return listing.rows.push(closed(entry, error)),
    };
    listing.folders.add(entry.clone(), entries.iter().map(|entry| entry.path.clone()));
    for entry in &entries {
        match entry.status.kind {
            EntryType::Folder if !wanted(&entry.path) => {}
            EntryType::Folder if is_hidden(entry.name()) => add_others(&folder, entry, listing),
            EntryType::Folder if entry.path == Path::new(UNCATEGORIZED) => uncategorized(&folder, entry, listing),
            EntryType::Folder => repository(&folder, entry, listing),
            EntryType::Link => listing.rows.push(link(entry)),
            _ => {}
        }
    }
    loose(&entries, false, listing);
}

fn repository(publisher: &Folder, entry: &Entry, listing: &mut Listing) {
    let tree = match Tree::read(publisher, entry.name()) {
        Ok(tree) => tree,
        Err(Errno::NOENT) => return,
        Err(error) => return listing.rows.push(closed(entry, error)),
    };
    let mut children: BTreeMap<PathBuf, Vec<PathBuf>> = BTreeMap::new();
    for inner in &tree.entries {
        let parent = inner.path.parent().unwrap_or(Path::new("")).to_owned();
        children.entry(parent).or_default().push(entry.path.join(&inner.path));
    }
    let folders = std::iter::once((PathBuf::new(), entry.clone())).chain(
        tree.entries
            .iter()
            .filter(|inner| inner.is_folder())
            .map(|inner| (inner.path.clone(), Entry { path: entry.path.join(&inner.path), ..inner.clone() })),
    );
    for (path, folder) in folders {
        listing.folders.add(folder, children.remove(&path).unwrap_or_default());
    }
    for unread in &tree.unread {
        listing.folders.keep(&entry.path.join(&unread.path));
    }
    let classes = tree.entries.iter().map(class).collect();
    let id = text::escape(entry.path.as_os_str());
    let folder = ModelFolder::classified(
        entry.name().to_owned(),
        entry.path.clone(),
        entry.parent,
        tree,
        classes,
        RecordState::Missing,
    );
    let unit = Unit {
        folder,
        top: Some(entry.clone()),
        // Publisher and repository are those of the hub, except for what was imported.
        reference: (!entry.path.starts_with("imported-models")).then(|| text::printable(&id)),
        known: BTreeMap::new(),
        others: BTreeMap::new(),
        shared: BTreeMap::new(),
        notes: Vec::new(),
    };
    listing.rows.push(Found { id, what: What::Unit(Box::new(unit)) });
}

/// Files that are rows by themselves.
fn uncategorized(parent: &Folder, entry: &Entry, listing: &mut Listing) {
    let opened = parent.folder(entry.name()).and_then(|folder| Ok((level(&folder, &entry.path)?, folder)));
    let (entries, folder) = match opened {
        Ok(opened) => opened,
        Err(Errno::NOENT) => return,
        Err(error) => return listing.rows.push(closed(entry, error)),
    };
    listing.folders.add(entry.clone(), entries.iter().map(|entry| entry.path.clone()));
    for entry in entries.iter().filter(|entry| entry.is_folder()) {
        if is_hidden(entry.name()) {
            add_others(&folder, entry, listing);
        } else {
            repository(&folder, entry, listing);
        }
    }
    loose(&entries, true, listing);
}

/// Rows of files among those of others: a set of weights, or with `every` also a single file of any kind. The rest counts in
/// the store only.
fn loose(entries: &[Entry], every: bool, listing: &mut Listing) {
    let mut groups: BTreeMap<(Option<SetKey>, OsString), Vec<Entry>> = BTreeMap::new();
    for entry in entries.iter().filter(|entry| !entry.is_folder()) {
        let subject = match class(entry) {
            Class::Staging { target, .. } => target,
            _ => entry.path.clone(),
        };
        let shown = every && !is_hidden(entry.name()) && entry.status.kind != EntryType::Other;
        match SetKey::of(&subject) {
            // Links beside folders are rows already.
            Some(_) if entry.link.is_some() && !every => {}
            Some(key) => groups.entry((Some(key), OsString::new())).or_default().push(entry.clone()),
            None if shown => groups.entry((None, subject.into_os_string())).or_default().push(entry.clone()),
            None if entry.is_file() => listing.others.push(entry.status),
            None => {}
        }
    }
    for entries in groups.into_values() {
        let Some(first) = entries.first() else { continue };
        let id = match class(first) {
            Class::Staging { target, .. } => text::escape(target.as_os_str()),
            _ => text::escape(first.path.as_os_str()),
        };
        let mut notes = Vec::new();
        if !every {
            notes.push("LM Studio does not find it here: it looks into publisher/repo folders".to_owned());
        }
        if let Some(unit) = Unit::loose(entries, class, notes) {
            listing.rows.push(Found { id, what: What::Unit(Box::new(unit)) });
        }
    }
}

fn add_others(parent: &Folder, entry: &Entry, listing: &mut Listing) {
    match Tree::read(parent, entry.name()) {
        Ok(tree) => listing.others.extend(tree.entries.iter().filter(|e| e.is_file()).map(|entry| entry.status)),
        Err(Errno::NOENT) => {}
        Err(error) => {
            let path = text::printable_path(&entry.path);
            listing.warnings.push(format!("{path} cannot be read: {}", reason(error)));
        }
    }
}

fn link(entry: &Entry) -> Found {
    Found { id: text::escape(entry.path.as_os_str()), what: What::Link(entry.clone()) }
}

fn closed(entry: &Entry, error: Errno) -> Found {
    Found { id: text::escape(entry.path.as_os_str()), what: What::Closed(entry.clone(), reason(error)) }
}

/// Unfinished files are `downloading_<file>.part` or `<file>.part`.
fn class(entry: &Entry) -> Class {
    let class = classify(entry);
    if !entry.is_file() || !matches!(class, Class::Content(_)) {
        return class;
    }
    match partial_of(entry.name()) {
        Some(target) => Class::Staging { target: entry.path.with_file_name(target), journal: false },
        None => class,
    }
}

fn partial_of(name: &OsStr) -> Option<OsString> {
    let name = text::escape(name);
    let target = name.strip_suffix(".part")?;
    let target = target.strip_prefix("downloading_").unwrap_or(target);
    (!target.is_empty()).then(|| text::unescape(target))
}
