//! llama.cpp's flat cache: weights side by side, each with what its download left beside it.
//!
//! Source of the names: llama.cpp's `common/download.cpp` up to 2026-03 for `-hf`, and still for `--model-url` and docker pulls.
//! Folders in it are the hub form and belong to the Hugging Face cache.

mod manifest;
mod sweep;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use self::manifest::{Manifest, repository_of_url};
use super::files::{FileStore, Found, Layout, Listing, Unit, What, is_hidden};
use super::flat::folder::{Class, SetKey};
use super::sweep::Sweeper;
use super::tree::Entry;
use crate::disk::folder::{EntryType, Folder};
use crate::model::{FileName, Role, StoreKind, text};

/// Longest manifest and sidecar that is read.
const MAX_JSON: u64 = 1 << 20;
const PARTIAL: &str = ".downloadInProgress";

/// llama.cpp's flat layout.
#[derive(Clone, Copy, Debug)]
pub struct LlamaCpp;

/// A flat cache of llama.cpp.
pub type LlamaCppStore = FileStore<LlamaCpp>;

/// What belongs together: a set of shards, or one file with what lies beside it. By the escaped name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Set(SetKey),
    File(String),
}

impl Key {
    fn of(file: &str) -> Self {
        SetKey::of(Path::new(&text::unescape(file))).map_or_else(|| Self::File(file.to_owned()), Self::Set)
    }
}

/// What one name in the folder is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Name {
    /// A file that counts, or a link in its place.
    Content,
    /// What becomes the file of that name.
    Partial(String),
    /// What lies beside the file of that name.
    Sidecar(String),
    /// A manifest, or what lies beside one.
    Manifest(String),
}

impl Name {
    fn of(name: &str, names: &BTreeSet<String>) -> Self {
        if let Some(manifest) = manifest_of(name) {
            return Self::Manifest(manifest.to_owned());
        }
        // A suffix counts where the rest is a name of weights or of a file that is here.
        let has_content = |rest: &str| FileName::parse(rest).is_gguf() || names.contains(rest);
        if let Some(rest) = name.strip_suffix(PARTIAL).filter(|rest| !rest.is_empty()) {
            return Self::Partial(rest.to_owned());
        }
        let plain = name.strip_suffix(".tmp").unwrap_or(name);
        let beside = [".etag", ".json"].iter().find_map(|suffix| plain.strip_suffix(suffix));
        match beside.filter(|rest| has_content(rest)) {
            Some(rest) => Self::Sidecar(rest.to_owned()),
            None if plain != name && FileName::parse(plain).is_gguf() => Self::Partial(plain.to_owned()),
            None => Self::Content,
        }
    }

    fn class(&self, name: &str) -> Class {
        match self {
            Self::Content => Class::Content(Role::of(name)),
            Self::Partial(target) => Class::Staging { target: PathBuf::from(text::unescape(target)), journal: false },
            Self::Sidecar(_) | Self::Manifest(_) => Class::Bookkeeping,
        }
    }
}

/// The manifest that a name is, or lies beside.
fn manifest_of(name: &str) -> Option<&str> {
    let plain = name.strip_suffix(".tmp").unwrap_or(name);
    let plain = plain.strip_suffix(".etag").unwrap_or(plain);
    (plain.starts_with("manifest=") && plain.ends_with(".json")).then_some(plain)
}

impl Layout for LlamaCpp {
    const KIND: StoreKind = StoreKind::LlamaCpp;
    const DEPTH: usize = 0;

    fn read(folder: &Folder, _only: Option<&Path>) -> Result<Listing, Errno> {
        let mut listing = Listing::default();
        let mut reader = Reader::default();
        let parent = folder.own_status()?.inode;
        for (name, kind) in folder.entries()? {
            if !matches!(kind, EntryType::File | EntryType::Link) {
                continue;
            }
            let Ok(status) = folder.status(&name) else { continue };
            if is_hidden(&name) {
                if kind == EntryType::File {
                    listing.others.push(status);
                }
                continue;
            }
            let link =
                (kind == EntryType::Link).then(|| folder.read_link(&name).map(PathBuf::from).unwrap_or_default());
            let escaped = text::escape(&name);
            reader.entries.insert(escaped, Entry { path: PathBuf::from(name), status, link, parent });
        }
        reader.read(folder, &mut listing);
        Ok(listing)
    }

    fn sweep(folder: &Folder, sweeper: &mut Sweeper<'_>) -> Result<(), Errno> {
        sweep::find_dead(folder, sweeper)
    }
}

#[derive(Default)]
struct Reader {
    /// By escaped name.
    entries: BTreeMap<String, Entry>,
}

impl Reader {
    fn read(self, folder: &Folder, listing: &mut Listing) {
        let names: BTreeSet<String> = self.entries.keys().cloned().collect();
        let mut groups: BTreeMap<Key, Vec<&str>> = BTreeMap::new();
        let mut of_manifests: BTreeMap<String, Vec<&str>> = BTreeMap::new();
        for name in &names {
            match Name::of(name, &names) {
                Name::Content => groups.entry(Key::of(name)).or_default().push(name),
                Name::Partial(target) | Name::Sidecar(target) => {
                    groups.entry(Key::of(&target)).or_default().push(name);
                }
                Name::Manifest(manifest) => of_manifests.entry(manifest).or_default().push(name),
            }
        }
        let manifests: BTreeMap<&str, Manifest> = of_manifests
            .keys()
            .filter_map(|name| {
                let entry = self.entries.get(name).filter(|entry| entry.is_file())?;
                let bytes = folder.read(entry.name(), MAX_JSON).ok().flatten()?;
                Some((name.as_str(), Manifest::parse(name, &bytes)?))
            })
            .collect();
        let rows: BTreeSet<&Key> =
            groups.iter().filter(|(key, members)| is_row(key, members, &names)).map(|(key, _)| key).collect();
        // Which rows use each companion, as the manifests say. Weights are never one, whatever a manifest says.
        let mut companions: BTreeMap<Key, BTreeSet<Key>> = BTreeMap::new();
        for manifest in manifests.values() {
            let (key, file) = (Key::of(&manifest.weights.name), manifest.companion.as_ref());
            let Some(companion) = file.map(|file| Key::of(&file.name)) else { continue };
            let is_companion = matches!(&companion, Key::File(name) if Role::of(name) == Role::Mmproj);
            if is_companion && matches!(key, Key::Set(_)) && rows.contains(&key) && rows.contains(&companion) {
                companions.entry(companion).or_default().insert(key);
            }
        }
        let ids = ids(&groups, &names);
        for (key, members) in &groups {
            if companions.contains_key(key) {
                continue;
            }
            if !rows.contains(key) {
                // It counts in the store only.
                listing.others.extend(members.iter().map(|name| self.entries[*name].status));
                continue;
            }
            let mut own: Vec<&str> = members.clone();
            let mine = |manifest: &Manifest| Key::of(&manifest.weights.name) == *key;
            let named: Vec<(&str, &Manifest)> =
                manifests.iter().filter(|(_, manifest)| mine(manifest)).map(|(name, m)| (*name, m)).collect();
            own.extend(named.iter().flat_map(|(name, _)| &of_manifests[*name]));
            let mut shared: BTreeMap<PathBuf, Vec<String>> = BTreeMap::new();
            for (companion, users) in companions.iter().filter(|(_, users)| users.contains(key)) {
                let others: Vec<String> =
                    users.iter().filter(|user| *user != key).map(|key| ids[key].clone()).collect();
                for name in &groups[companion] {
                    own.push(name);
                    if !others.is_empty() {
                        shared.insert(self.entries[*name].path.clone(), others.clone());
                    }
                }
            }
            let entries: Vec<Entry> = own.iter().map(|name| self.entries[*name].clone()).collect();
            let class = |entry: &Entry| {
                let name = text::escape(entry.name());
                Name::of(&name, &names).class(&name)
            };
            let Some(mut unit) = Unit::loose(entries, class, Vec::new()) else { continue };
            unit.shared = shared;
            unit.reference =
                named.first().map(|(_, manifest)| manifest.repository.clone()).or_else(|| self.origin(folder, members));
            for file in named.iter().flat_map(|(_, m)| std::iter::once(&m.weights).chain(&m.companion)) {
                let path = PathBuf::from(text::unescape(&file.name));
                let now = (file.size, file.digest);
                let known = unit.known.entry(path.clone()).or_insert(now);
                if *known != now {
                    // Two manifests that do not agree say nothing of the length, and either may be right about the content.
                    known.0 = known.0.filter(|size| Some(*size) == file.size);
                    let other = file.digest.filter(|digest| known.1.is_some_and(|first| first != *digest));
                    known.1 = known.1.or(file.digest);
                    unit.others.entry(path).or_default().extend(other);
                }
            }
            listing.rows.push(Found { id: ids[key].clone(), what: What::Unit(Box::new(unit)) });
        }
        // A manifest whose weights are gone is no row.
        let known = |manifest: &Manifest| rows.contains(&Key::of(&manifest.weights.name));
        for (name, members) in &of_manifests {
            if !manifests.get(name.as_str()).is_some_and(known) {
                listing.others.extend(members.iter().map(|name| self.entries[*name].status));
            }
        }
        listing.rows.sort_by(|a, b| a.id.cmp(&b.id));
    }

    /// The repository that the sidecar of an older release tells by its address.
    fn origin(&self, folder: &Folder, members: &[&str]) -> Option<String> {
        let sidecars = members.iter().filter(|name| name.ends_with(".json"));
        sidecars
            .filter_map(|name| folder.read(self.entries[*name].name(), MAX_JSON).ok().flatten())
            .find_map(|bytes| repository_of_url(&bytes))
    }
}

/// Whether files are a model, or the download of one: something of it has to be there, not only what lies beside it.
fn is_row(key: &Key, members: &[&str], names: &BTreeSet<String>) -> bool {
    let there = members.iter().any(|name| matches!(Name::of(name, names), Name::Content | Name::Partial(_)));
    there
        && match key {
            Key::Set(_) => true,
            // Anything can be given as an address; what was fetched has its sidecar.
            Key::File(name) => FileName::parse(name).is_gguf() || members.iter().any(|member| *member != name),
        }
}

/// The id of each group: its stem, or where another has the same, the name of its first file.
fn ids(groups: &BTreeMap<Key, Vec<&str>>, names: &BTreeSet<String>) -> BTreeMap<Key, String> {
    let stem = |key: &Key| match key {
        Key::Set(set) => text::escape(set.name().as_os_str()),
        Key::File(name) => FileName::parse(name).stem().to_owned(),
    };
    let mut count: BTreeMap<String, u32> = BTreeMap::new();
    for key in groups.keys() {
        *count.entry(stem(key)).or_default() += 1;
    }
    groups
        .iter()
        .map(|(key, members)| {
            let stem = stem(key);
            let free = !stem.is_empty() && count.get(&stem) == Some(&1) && !names.contains(&stem);
            let first = || members.first().map(|name| (*name).to_owned()).unwrap_or_default();
            (key.clone(), if free { stem } else { first() })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_what_a_file_is() {
        let names: BTreeSet<String> = ["odd", "odd.etag", "x.gguf"].map(str::to_owned).into();
        let partial = |target: &str| Name::Partial(target.to_owned());
        let sidecar = |target: &str| Name::Sidecar(target.to_owned());
        let cases = [
            ("x.gguf", Name::Content),
            ("x.gguf.etag", sidecar("x.gguf")),
            ("x.gguf.json", sidecar("x.gguf")),
            ("x.gguf.json.tmp", sidecar("x.gguf")),
            ("x.gguf.tmp", partial("x.gguf")),
            ("x.gguf.downloadInProgress", partial("x.gguf")),
            ("gone.gguf.etag", sidecar("gone.gguf")),
            ("odd.etag", sidecar("odd")),
            ("notes.json", Name::Content),
            ("notes.tmp", Name::Content),
            ("manifest=o=r=latest.json", Name::Manifest("manifest=o=r=latest.json".to_owned())),
            ("manifest=o=r=latest.json.etag", Name::Manifest("manifest=o=r=latest.json".to_owned())),
        ];
        for (name, kind) in cases {
            assert_eq!(Name::of(name, &names), kind, "{name}");
        }
    }
}
