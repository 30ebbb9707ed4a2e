//! Folders that only group models: `hf download org/name --local-dir BASE/org/name` makes them every day.
//!
//! The rule takes evidence only, since whoever is wrong here deletes two models for one, or shows half of one: what is not told
//! by a name or a file of its own stays one row with the folder above it. The rule is written down in [`super`].

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::folder::{Class, ModelFolder, RecordState, classify};
use super::part_names::{has_suffix, is_part};
use super::record::RECORD;
use super::rows::{Content, Found, is_hidden};
use super::weights::is_other_weights;
use crate::disk::folder::{EntryType, Folder};
use crate::model::{Inode, Role, text};
use crate::store::tree::{Entry, Tree, Unread, reason};

/// What tells that a download went to exactly this folder.
const METADATA: [&str; 3] = [".cache/huggingface", ".huggingface", RECORD];

/// The folders of that.
const BOOKS: [&str; 3] = [".cache/huggingface", ".huggingface", ".cache/llorch-models"];

/// A folder of the base folder that only groups models.
#[derive(Debug)]
pub(super) struct Group {
    /// Its rows, in the order of their names.
    pub(super) rows: Vec<Found>,
    /// What lies in it and in no row, relative to the root.
    pub(super) beside: Vec<Entry>,
}

/// A folder in a group, or in what may be one.
struct Sub {
    entry: Entry,
    content: Result<Tree, String>,
}

/// What the folder `name` of the base folder is.
pub(super) fn read(base: &Folder, base_inode: Inode, name: &OsStr) -> Result<Content, Errno> {
    let folder = base.folder(name)?;
    let tree = Tree::of(&folder)?;
    let record = RecordState::read(&folder);
    if record == RecordState::Missing && may_group(&tree) {
        let subs = subs(&folder, &tree);
        if groups(&folder, &subs, is_described(&tree)) {
            return Ok(Content::Group(Group::new(&folder, name, &tree, subs)));
        }
    }
    let model = ModelFolder::new(name.to_owned(), PathBuf::from(name), base_inode, tree, record);
    Ok(Content::Row(Found::Model(Box::new(model))))
}

/// The row `name` of the folder `group`, which only groups models.
pub(super) fn read_row(base: &Folder, group: &OsStr, name: &OsStr) -> Result<Option<Found>, Errno> {
    let folder = base.folder(group)?;
    let status = folder.status(name)?;
    let link = match status.kind {
        EntryType::Folder => None,
        EntryType::Link => Some(PathBuf::from(folder.read_link(name)?)),
        _ => return Ok(None),
    };
    let entry = Entry { path: PathBuf::from(name), status, link, parent: folder.own_status()?.inode };
    if entry.link.is_some() {
        return Ok(Some(Found::Link(below(group, &entry))));
    }
    let content = match Tree::read(&folder, name) {
        Err(error @ (Errno::NOENT | Errno::NOTDIR | Errno::LOOP)) => return Err(error),
        other => other.map_err(reason),
    };
    Ok(Some(row(&folder, group, Sub { entry, content })))
}

/// The folders in an open one that may be rows of it, as far as its own entries tell; none where it cannot group models.
pub(super) fn candidates(folder: &Folder) -> Vec<OsString> {
    let Ok(entries) = folder.entries() else { return Vec::new() };
    if !entries.iter().all(|(name, kind)| may_lie_in_group(name, *kind)) {
        return Vec::new();
    }
    entries
        .into_iter()
        .filter(|(name, kind)| *kind == EntryType::Folder && !is_hidden(name))
        .map(|(name, _)| name)
        .collect()
}

impl Group {
    fn new(folder: &Folder, name: &OsStr, tree: &Tree, subs: Vec<Sub>) -> Self {
        let links = direct(tree).filter(|entry| entry.link.is_some() && !is_hidden(entry.name()));
        let mut rows: Vec<(OsString, Found)> =
            links.map(|entry| (entry.name().to_owned(), Found::Link(below(name, entry)))).collect();
        rows.extend(subs.into_iter().map(|sub| (sub.entry.name().to_owned(), row(folder, name, sub))));
        rows.sort_by(|(a, _), (b, _)| a.cmp(b));
        let in_no_row =
            |entry: &&Entry| entry.path.iter().next().is_some_and(is_hidden) || (!is_nested(entry) && entry.is_file());
        let beside = tree.entries.iter().filter(in_no_row).map(|entry| below(name, entry)).collect();
        Self { rows: rows.into_iter().map(|(_, row)| row).collect(), beside }
    }
}

fn row(folder: &Folder, group: &OsStr, sub: Sub) -> Found {
    let at = below(group, &sub.entry);
    match sub.content {
        Ok(tree) => {
            let record = match folder.folder(sub.entry.name()) {
                Ok(opened) => RecordState::read(&opened),
                Err(error) => RecordState::Unreadable(format!("the record cannot be read: {}", reason(error))),
            };
            let id = at.path.clone().into_os_string();
            Found::Model(Box::new(ModelFolder::new(id, at.path, at.parent, tree, record)))
        }
        Err(reason) => Found::Closed(at, reason),
    }
}

fn below(group: &OsStr, entry: &Entry) -> Entry {
    Entry { path: Path::new(group).join(&entry.path), ..entry.clone() }
}

/// Whether it lies deeper than directly in the tree.
fn is_nested(entry: &Entry) -> bool {
    entry.path.as_os_str().as_encoded_bytes().contains(&b'/')
}

fn direct(tree: &Tree) -> impl Iterator<Item = &Entry> {
    tree.entries.iter().filter(|entry| !is_nested(entry))
}

/// Whether the entries of a folder itself leave it possible that it only groups models.
fn may_group(tree: &Tree) -> bool {
    let mut folders = false;
    for entry in direct(tree) {
        if !may_lie_in_group(entry.name(), entry.status.kind) {
            return false;
        }
        folders |= entry.is_folder() && !is_hidden(entry.name());
    }
    // Of what could not even be listed nobody knows whether it is a part of a model.
    let unlisted = |unread: &Unread| {
        unread.path.as_os_str().is_empty()
            || (unread.path.iter().nth(1).is_none() && !direct(tree).any(|entry| entry.path == unread.path))
    };
    folders && !has_any(tree, &BOOKS) && !tree.unread.iter().any(unlisted)
}

fn may_lie_in_group(name: &OsStr, kind: EntryType) -> bool {
    match kind {
        EntryType::Folder => true,
        EntryType::File => is_hidden(name) || is_about(name),
        // In the place of a model's file, as old releases of the official client made them.
        EntryType::Link => is_hidden(name) || (Role::of(&text::escape(name)) == Role::Other && !is_other_weights(name)),
        EntryType::Other => false,
    }
}

/// A readme, a licence, what file managers leave.
fn is_about(name: &OsStr) -> bool {
    let name = text::escape(name).to_ascii_lowercase();
    let word = name.split(['.', '-', '_', ' ']).next().unwrap_or_default();
    let stems =
        ["readme", "license", "licence", "notice", "copying", "changelog", "authors", "use_policy", "usepolicy"];
    stems.contains(&word)
        || name.ends_with(".md")
        || matches!(name.as_str(), "cachedir.tag" | "desktop.ini" | "thumbs.db")
}

fn has_any(tree: &Tree, paths: &[&str]) -> bool {
    paths.iter().any(|path| find(tree, path).is_some())
}

fn find<'a>(tree: &'a Tree, path: &str) -> Option<&'a Entry> {
    let at = tree.entries.binary_search_by(|entry| entry.path.as_path().cmp(Path::new(path))).ok()?;
    Some(&tree.entries[at])
}

/// The visible folders in `folder`, each with what lies in it. What was not read in full with the folder is read by itself:
/// then it may be as deep and as large as a folder of the base folder, and lie on another file system.
fn subs(folder: &Folder, tree: &Tree) -> Vec<Sub> {
    let mut subs: Vec<Sub> = Vec::new();
    let mut rest = tree.entries.as_slice();
    while let Some((top, tail)) = rest.split_first() {
        let count = tail.iter().take_while(|entry| entry.path.starts_with(&top.path)).count();
        let (inside, after) = tail.split_at(count);
        rest = after;
        if !top.is_folder() || is_hidden(top.name()) {
            continue;
        }
        let content = if tree.unread.iter().any(|unread| unread.path.starts_with(&top.path)) {
            match Tree::read(folder, top.name()) {
                Err(Errno::NOENT) => continue,
                other => other.map_err(reason),
            }
        } else {
            let inside = inside.iter().filter_map(|entry| {
                let path = entry.path.strip_prefix(&top.path).ok()?.to_owned();
                Some(Entry { path, ..entry.clone() })
            });
            Ok(Tree { top: top.status, entries: inside.collect(), unread: Vec::new() })
        };
        subs.push(Sub { entry: top.clone(), content });
    }
    subs
}

/// Whether a readme, a licence or a clone's history lies in the folder itself, as they do in a model of several parts.
fn is_described(tree: &Tree) -> bool {
    direct(tree).any(|entry| entry.name() == ".git" || (entry.is_file() && !is_hidden(entry.name())))
}

/// Whether these folders in `folder` are models of their own, as far as they hold weights or the metadata of a download. Where the
/// folder `is_described` itself, nothing but the latter tells that.
fn groups(folder: &Folder, subs: &[Sub], is_described: bool) -> bool {
    let mut models: Vec<(&Sub, &Tree)> = Vec::new();
    for sub in subs {
        let claim = match &sub.content {
            Ok(tree) if has_any(tree, &METADATA) || tree.entries.iter().any(is_weights) => Some(tree),
            Ok(tree) if tree.unread.is_empty() => continue,
            _ => None,
        };
        if is_part(sub.entry.name()) {
            return false;
        }
        models.extend(claim.map(|tree| (sub, tree)));
    }
    match models.as_slice() {
        [] => false,
        several if is_described && !several.iter().all(|(_, tree)| has_any(tree, &METADATA)) => false,
        // A single one may as well be what somebody made inside of a model's folder.
        [(sub, tree)] => is_named_or_configured(sub, tree) || records_its_name(folder, sub),
        several => several.iter().all(|(sub, tree)| is_named_or_configured(sub, tree) || has_any(tree, &METADATA)),
    }
}

fn is_named_or_configured(sub: &Sub, tree: &Tree) -> bool {
    let config = find(tree, "config.json").is_some_and(|entry| entry.is_file() || entry.link.is_some());
    config || has_suffix(sub.entry.name())
}

fn records_its_name(folder: &Folder, sub: &Sub) -> bool {
    let Ok(opened) = folder.folder(sub.entry.name()) else { return false };
    let name = text::escape(sub.entry.name());
    let state = RecordState::read(&opened);
    let last = state.get().and_then(|record| record.repository.rsplit('/').next());
    last.is_some_and(|last| last.eq_ignore_ascii_case(&name))
}

fn is_weights(entry: &Entry) -> bool {
    let name = match classify(entry) {
        Class::Content(_) => entry.name().to_owned(),
        Class::Staging { target, .. } => target.file_name().unwrap_or_default().to_owned(),
        _ => return false,
    };
    matches!(Role::of(&text::escape(&name)), Role::Weights | Role::Shard | Role::Mmproj) || is_other_weights(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_lie_beside_models() {
        for name in ["README.md", "LICENSE", "license.txt", "notes.md", ".gitattributes", "USE_POLICY.md"] {
            assert!(may_lie_in_group(OsStr::new(name), EntryType::File), "{name}");
        }
        for name in
            ["m.gguf", "model_index.json", "config.json", "vocab.txt", "train.py", "m.gguf.0123456789abcdef.llorch"]
        {
            assert!(!may_lie_in_group(OsStr::new(name), EntryType::File), "{name}");
        }
        assert!(may_lie_in_group(OsStr::new("m2"), EntryType::Link));
        for name in ["m.gguf", "config.json", "pytorch_model.bin"] {
            assert!(!may_lie_in_group(OsStr::new(name), EntryType::Link), "{name}");
        }
    }
}
