//! What is dead in llama.cpp's flat cache.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::manifest::Manifest;
use super::{Key, MAX_JSON, Name};
use crate::disk::folder::{EntryType, Folder};
use crate::model::{Certainty, Garbage, text};
use crate::store::sweep::{Dead, Sweeper, TOO_YOUNG};
use crate::store::tree::Entry;

pub(super) fn find_dead(folder: &Folder, sweeper: &mut Sweeper<'_>) -> Result<(), Errno> {
    let parent = folder.own_status()?.inode;
    let mut entries: BTreeMap<String, Entry> = BTreeMap::new();
    for (name, kind) in folder.entries()? {
        if !matches!(kind, EntryType::File | EntryType::Link) {
            continue;
        }
        let Ok(status) = folder.status(&name) else { continue };
        let link = (kind == EntryType::Link).then(|| folder.read_link(&name).map(PathBuf::from).unwrap_or_default());
        let escaped = text::escape(&name);
        entries.insert(escaped, Entry { path: PathBuf::from(name), status, link, parent });
    }
    let names: BTreeSet<String> = entries.keys().cloned().collect();
    let all: Vec<&Entry> = entries.values().collect();
    sweeper.own_partials(Path::new(""), &all, None);
    let mut found = Cache { entries: &entries, names: &names, sidecars: BTreeMap::new() };
    for (name, entry) in &entries {
        if sweeper.own_temporary(Path::new(""), entry, None) {
            continue;
        }
        match Name::of(name, &names) {
            Name::Sidecar(target) => found.sidecars.entry(target).or_default().push(name),
            Name::Content if entry.link.is_some() => drop(sweeper.link(Path::new(""), entry, id_of(name))),
            _ => {}
        }
    }
    let fetched = found.partials(sweeper);
    found.leftovers(&fetched, sweeper);
    found.manifests(folder, sweeper);
    Ok(())
}

/// The id of the row that a file belongs to: its stem.
fn id_of(name: &str) -> Option<&str> {
    name.strip_suffix(".gguf")
}

struct Cache<'a> {
    entries: &'a BTreeMap<String, Entry>,
    names: &'a BTreeSet<String>,
    /// What lies beside each file, by the file's name.
    sidecars: BTreeMap<String, Vec<&'a str>>,
}

impl Cache<'_> {
    /// Unfinished downloads, each with what lies beside it for its sake. Gives the names of the files that they would become.
    fn partials(&self, sweeper: &mut Sweeper<'_>) -> BTreeSet<String> {
        let mut targets: BTreeMap<String, Vec<&Entry>> = BTreeMap::new();
        for (name, entry) in self.entries.iter().filter(|(_, entry)| entry.is_file()) {
            if let Name::Partial(target) = Name::of(name, self.names) {
                targets.entry(target).or_default().push(entry);
            }
        }
        for (target, partials) in &targets {
            let here = self.names.contains(target);
            let beside: Vec<&Entry> = self
                .sidecars
                .get(target)
                .into_iter()
                .flatten()
                .filter(|_| !here)
                .filter_map(|name| self.entries.get(*name))
                .collect();
            let Some(first) = partials.first() else { continue };
            if partials.iter().chain(&beside).any(|entry| sweeper.context.is_young(&entry.status)) {
                sweeper.keep(&first.path, TOO_YOUNG);
                continue;
            }
            let shown = text::printable(target);
            let (why, certainty) = match here {
                true => (format!("an unfinished download of {shown}, which is here by now"), Certainty::Certain),
                false => (format!("an unfinished download of {shown}"), Certainty::Likely),
            };
            let dead = Dead { path: &first.path, kind: Garbage::Partial, why, certainty, id: id_of(target) };
            let item = sweeper.offer(dead);
            let bytes: Vec<usize> =
                partials.iter().map(|entry| sweeper.remove(item, Path::new(""), entry, Vec::new())).collect();
            for entry in beside {
                sweeper.remove(item, Path::new(""), entry, bytes.clone());
            }
        }
        targets.into_keys().collect()
    }

    /// What lies beside files that are gone.
    fn leftovers(&self, fetched: &BTreeSet<String>, sweeper: &mut Sweeper<'_>) {
        for (target, beside) in &self.sidecars {
            if self.names.contains(target) || fetched.contains(target) {
                continue;
            }
            for entry in beside.iter().filter_map(|name| self.entries.get(*name)).filter(|entry| entry.is_file()) {
                let why = format!("belongs to {}, which is gone", text::printable(target));
                let certainty = sweeper.unless_new(Certainty::Certain, [&entry.status]);
                let dead = Dead { path: &entry.path, kind: Garbage::Leftover, why, certainty, id: id_of(target) };
                sweeper.offer_one(dead, Path::new(""), entry);
            }
        }
    }

    /// Manifests of which no file is here, each with what lies beside it.
    fn manifests(&self, folder: &Folder, sweeper: &mut Sweeper<'_>) {
        let mut groups: BTreeMap<String, Vec<&Entry>> = BTreeMap::new();
        let mut here: BTreeSet<Key> = BTreeSet::new();
        for (name, entry) in self.entries {
            match Name::of(name, self.names) {
                Name::Manifest(manifest) => groups.entry(manifest).or_default().push(entry),
                Name::Content => drop(here.insert(Key::of(name))),
                Name::Partial(target) => drop(here.insert(Key::of(&target))),
                Name::Sidecar(_) => {}
            }
        }
        for (name, members) in groups {
            let own = self.entries.get(&name).filter(|entry| entry.is_file());
            let names = match own {
                // What it names is unknown as long as it cannot be read.
                Some(entry) => match folder.read(entry.name(), MAX_JSON) {
                    Ok(Some(bytes)) => match Manifest::parse(&name, &bytes) {
                        Some(manifest) => std::iter::once(manifest.weights.name)
                            .chain(manifest.companion.map(|file| file.name))
                            .collect(),
                        None => continue,
                    },
                    _ => continue,
                },
                None if self.names.contains(&name) => continue,
                None => Vec::new(),
            };
            if names.iter().any(|file: &String| here.contains(&Key::of(file))) {
                continue;
            }
            let Some(first) = own.or_else(|| members.first().copied()) else { continue };
            if members.iter().any(|entry| !entry.is_file() || sweeper.context.is_young(&entry.status)) {
                sweeper.keep(&first.path, TOO_YOUNG);
                continue;
            }
            let (kind, why) = match names.first() {
                Some(file) => {
                    (Garbage::DanglingReference, format!("names {}, which is not here", text::printable(file)))
                }
                None => (Garbage::Leftover, "belongs to a manifest that is gone".to_owned()),
            };
            let certainty = sweeper.unless_new(Certainty::Likely, members.iter().map(|entry| &entry.status));
            let item = sweeper.offer(Dead { path: &first.path, kind, why, certainty, id: None });
            for entry in members {
                sweeper.remove(item, Path::new(""), entry, Vec::new());
            }
        }
    }
}
