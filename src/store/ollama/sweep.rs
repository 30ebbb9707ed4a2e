//! What is dead in Ollama's store.
//!
//! Source of the names: Ollama's downloads (`<digest>-partial`, `-partial-<N>`, `.tmp`), its creation and conversion of models, and
//! its writing of manifests.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::io::Errno;
use tokio_util::sync::CancellationToken;

use super::OllamaStore;
use super::read::{BLOBS, Contents};
use crate::disk::folder::Folder;
use crate::model::{Certainty, Garbage, StoreKind, Sweep, text};
use crate::store::sweep::{Dead, SweepContext, Sweeper, TOO_YOUNG, is_hex};
use crate::store::tree::{Entry, Tree, reason};

/// The trees of manifests.
const TREES: [&str; 2] = ["manifests-v2", "manifests"];
/// Types of weights for which a conversion makes a temporary file.
const TYPES: [&str; 31] = [
    "F32", "F16", "BF16", "FP16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q2_K_S", "Q3_K_S", "Q3_K_M",
    "Q3_K_L", "Q4_K", "Q4_K_S", "Q4_K_M", "Q5_K", "Q5_K_S", "Q5_K_M", "Q6_K", "IQ1_S", "IQ2_XXS", "IQ2_XS", "IQ2_S",
    "IQ3_XXS", "IQ3_S", "IQ3_M", "IQ4_NL", "IQ4_XS", "MXFP4",
];

impl OllamaStore {
    pub(super) fn find_dead(&self, context: &SweepContext, _cancel: &CancellationToken) -> Sweep {
        let mut sweeper = Sweeper::new(StoreKind::Ollama, &self.root, context);
        let read = Folder::open(&self.root)
            .and_then(|folder| Ok((Contents::read(&self.root, &folder)?, Tree::of(&Folder::open(&self.root)?)?)));
        let (contents, tree) = match read {
            Ok(read) => read,
            Err(Errno::NOENT) => return sweeper.finish(),
            Err(error) => {
                let root = text::printable_path(&self.root);
                sweeper.warn(format!("cannot read {root}: {}", reason(error)));
                return sweeper.finish();
            }
        };
        for unread in &tree.unread {
            let path = text::printable_path(&self.root.join(&unread.path));
            sweeper.warn(format!("{path} cannot be read: {}", unread.because));
        }
        let blobs: Vec<&Entry> =
            tree.entries.iter().filter(|entry| entry.path.parent() == Some(Path::new(BLOBS))).collect();
        for entry in &tree.entries {
            sweeper.own_temporary(Path::new(""), entry, None);
        }
        partials(&blobs, &contents, &mut sweeper);
        temporary(&tree, &mut sweeper);
        names(&tree, &mut sweeper);
        orphans(&blobs, &contents, &mut sweeper);
        sweeper.finish()
    }
}

/// What a name in `blobs` says of a download: its digest, and whether it is one of the notes of how far it has come.
fn partial_of(name: &OsStr) -> Option<(&[u8], bool)> {
    let rest = name.as_bytes().strip_prefix(b"sha256-").or_else(|| name.as_bytes().strip_prefix(b"sha256:"))?;
    let (hex, rest) = rest.split_at_checked(64)?;
    let notes = match rest {
        b"-partial" | b".tmp" => false,
        rest => {
            let number = rest.strip_prefix(b"-partial-")?;
            if number.is_empty() || !number.iter().all(u8::is_ascii_digit) {
                return None;
            }
            true
        }
    };
    is_hex(hex, 64).then_some((hex, notes))
}

/// Unfinished downloads, each with its notes.
fn partials(blobs: &[&Entry], contents: &Contents, sweeper: &mut Sweeper<'_>) {
    let mut groups: BTreeMap<&[u8], Vec<(bool, &Entry)>> = BTreeMap::new();
    for entry in blobs.iter().filter(|entry| entry.is_file()) {
        if let Some((hex, notes)) = partial_of(entry.name()) {
            groups.entry(hex).or_default().push((notes, entry));
        }
    }
    for (hex, mut members) in groups {
        // The bytes go before the notes about them.
        members.sort_by_key(|(notes, entry)| (*notes, entry.path.clone()));
        let Some((_, first)) = members.first().copied() else { continue };
        if members.iter().any(|(_, entry)| sweeper.context.is_young(&entry.status)) {
            sweeper.keep(&first.path, TOO_YOUNG);
            continue;
        }
        let here = std::str::from_utf8(hex).is_ok_and(|hex| contents.blobs.contains_key(hex));
        let (why, certainty) = match (here, members.iter().any(|(notes, _)| !notes)) {
            (true, _) => ("an unfinished download of a blob that is here by now", Certainty::Certain),
            (false, true) => ("an unfinished download", Certainty::Likely),
            (false, false) => ("notes of a download whose bytes are gone", Certainty::Certain),
        };
        let dead = Dead { path: &first.path, kind: Garbage::Partial, why: why.to_owned(), certainty, id: None };
        let item = sweeper.offer(dead);
        let mut bytes: Vec<usize> = Vec::new();
        for (notes, entry) in members {
            let requires = if notes { bytes.clone() } else { Vec::new() };
            let step = sweeper.remove(item, Path::new(""), entry, requires);
            if !notes {
                bytes.push(step);
            }
        }
    }
}

/// Whether `name` is `stem` and the digits that Go adds to the name of a temporary file.
fn is_numbered(name: &[u8], stem: &[u8]) -> bool {
    let digits = name.get(..stem.len()).filter(|start| start.eq_ignore_ascii_case(stem)).map(|_| &name[stem.len()..]);
    digits.is_some_and(|digits| (1..=20).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit))
}

/// Temporary files and folders of creating and converting models, and of writing manifests.
fn temporary(tree: &Tree, sweeper: &mut Sweeper<'_>) {
    for entry in &tree.entries {
        let name = entry.name().as_bytes();
        let parts = entry.path.iter().count();
        let in_blobs = entry.path.parent() == Some(Path::new(BLOBS));
        let in_tree = TREES.iter().any(|tree| entry.path.starts_with(tree));
        let file = in_blobs
            && (is_numbered(name, b"sha256-")
                || is_numbered(name, b"split-copy")
                || TYPES.iter().any(|kind| is_numbered(name, kind.as_bytes()) && name.len() >= kind.len() + 5))
            || in_tree && parts == 5 && name.starts_with(b".manifest-");
        let folder =
            in_blobs && is_numbered(name, b"split-gguf-") || parts == 1 && is_numbered(name, b"ollama-safetensors");
        if file && entry.is_file() {
            let why = "a temporary file that a crash of Ollama has left".to_owned();
            let dead =
                Dead { path: &entry.path, kind: Garbage::Temporary, why, certainty: Certainty::Certain, id: None };
            sweeper.offer_one(dead, Path::new(""), entry);
        } else if folder && entry.is_folder() {
            temporary_folder(entry, tree, sweeper);
        }
    }
}

fn temporary_folder(top: &Entry, tree: &Tree, sweeper: &mut Sweeper<'_>) {
    let inside: Vec<&Entry> = tree.entries.iter().filter(|entry| entry.path.starts_with(&top.path)).collect();
    if tree.unread.iter().any(|unread| unread.path.starts_with(&top.path)) {
        return sweeper.keep(&top.path, "it cannot be read in full");
    }
    if inside.iter().any(|entry| sweeper.context.is_young(&entry.status)) {
        return sweeper.keep(&top.path, TOO_YOUNG);
    }
    let why = "a temporary folder that a conversion of Ollama has left".to_owned();
    let dead = Dead { path: &top.path, kind: Garbage::Temporary, why, certainty: Certainty::Certain, id: None };
    let item = sweeper.offer(dead);
    for entry in inside.iter().filter(|entry| !entry.is_folder()).chain(inside.iter().rev().filter(|e| e.is_folder())) {
        sweeper.remove(item, Path::new(""), entry, Vec::new());
    }
}

/// Names that lead to nothing, and folders of the trees without any name.
fn names(tree: &Tree, sweeper: &mut Sweeper<'_>) {
    let in_trees: Vec<&Entry> =
        tree.entries.iter().filter(|entry| TREES.iter().any(|tree| entry.path.starts_with(tree))).collect();
    for entry in in_trees.iter().filter(|entry| entry.link.is_some()) {
        sweeper.link(Path::new(""), entry, None);
    }
    let mut taken: Option<&Path> = None;
    for top in in_trees.iter().filter(|entry| entry.is_folder() && (2..=4).contains(&entry.path.iter().count())) {
        // The outermost folder says it all.
        if taken.is_some_and(|taken| top.path.starts_with(taken)) {
            continue;
        }
        let inside: Vec<&Entry> =
            in_trees.iter().filter(|e| e.path.starts_with(&top.path) && e.path != top.path).copied().collect();
        let known = inside.iter().all(|entry| entry.is_folder())
            && !tree.unread.iter().any(|unread| unread.path.starts_with(&top.path));
        if !known {
            continue;
        }
        taken = Some(&top.path);
        let inside: Vec<Entry> = inside
            .into_iter()
            .filter_map(|e| Some(Entry { path: e.path.strip_prefix(&top.path).ok()?.to_owned(), ..e.clone() }))
            .collect();
        let dead = Dead {
            path: &top.path,
            kind: Garbage::AbandonedFolder,
            why: "holds no manifest".to_owned(),
            certainty: Certainty::Likely,
            id: None,
        };
        sweeper.abandoned(top, &inside.iter().collect::<Vec<_>>(), usize::MAX, &|_| false, dead);
    }
}

/// Blobs that nothing in either tree needs. While anything is unknown, or anything is being fetched, there is none.
fn orphans(blobs: &[&Entry], contents: &Contents, sweeper: &mut Sweeper<'_>) {
    if let Some(why) = contents.unknown_beside(&std::collections::BTreeSet::new()) {
        return sweeper.warn(format!(
            "{}: which blobs are needed is unknown, so none is offered: {why}",
            text::printable_path(&sweeper.root)
        ));
    }
    let unfinished = |entry: &&&Entry| {
        entry.is_file()
            && (partial_of(entry.name()).is_some() || is_numbered(entry.name().as_bytes(), b"sha256-"))
            && sweeper.context.is_young(&entry.status)
    };
    if let Some(entry) = blobs.iter().find(unfinished) {
        let because = format!("blobs that nothing names stay while {} is young", text::printable_path(&entry.path));
        return sweeper.keep(Path::new(BLOBS), because);
    }
    let users = contents.users();
    for (hex, entries) in contents.blobs.iter().filter(|(hex, _)| !users.contains_key(hex.as_str())) {
        for entry in entries {
            if entry.link.is_some() {
                sweeper.link(Path::new(""), entry, None);
            } else if entry.is_file() {
                let certainty = sweeper.unless_new(Certainty::Likely, [&entry.status]);
                let why = format!("no manifest names blob {}", &hex[..12]);
                let dead = Dead { path: &entry.path, kind: Garbage::OrphanBlob, why, certainty, id: None };
                sweeper.offer_one(dead, Path::new(""), entry);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_what_is_unfinished() {
        let hex = "0123456789abcdef".repeat(4);
        let name = |text: String| -> Option<bool> { partial_of(OsStr::new(&text)).map(|(_, notes)| notes) };
        assert_eq!(name(format!("sha256-{hex}-partial")), Some(false));
        assert_eq!(name(format!("sha256-{hex}-partial-12")), Some(true));
        assert_eq!(name(format!("sha256-{hex}.tmp")), Some(false));
        for other in [format!("sha256-{hex}"), format!("sha256-{hex}-partial-"), format!("sha256-{hex}-partial-x")] {
            assert_eq!(name(other.clone()), None, "{other}");
        }
        assert!(
            is_numbered(b"sha256-123456", b"sha256-") && !is_numbered(format!("sha256-{hex}").as_bytes(), b"sha256-")
        );
        assert!(is_numbered(b"q4_k_m1234567", b"Q4_K_M") && !is_numbered(b"Q4_K_M", b"Q4_K_M"));
    }
}
