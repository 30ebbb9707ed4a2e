//! Both manifest trees and the blobs, read once.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::path::{Component, Path, PathBuf};

use rustix::io::Errno;
use sha2::{Digest as _, Sha256};

use super::manifest::{Config, Layer, Layers, MAX_JSON, Manifest};
use super::names::{self, Name};
use crate::disk::folder::{EntryType, Folder, Status};
use crate::model::{Digest, Inode, text};
use crate::store::planning::Folders;
use crate::store::tree::{Entry, Tree, reason};

/// Folder of the payloads.
pub(super) const BLOBS: &str = "blobs";
/// The trees, the one that wins first.
pub(super) const TREES: [&str; 2] = ["manifests-v2", "manifests"];

/// Why what something refers to is not known.
#[derive(Debug)]
enum Why {
    /// It is there and was refused, for want of rights or of a disk that answers: it may be sound.
    Refused(String),
    /// It is none of what it should be.
    Wrong(String),
}

impl Why {
    fn line(&self) -> &str {
        let (Self::Refused(line) | Self::Wrong(line)) = self;
        line
    }

    /// The same, said of a part.
    fn of(self, part: &str) -> Self {
        match self {
            Self::Refused(line) => Self::Refused(format!("{part}: {line}")),
            Self::Wrong(line) => Self::Wrong(format!("{part}: {line}")),
        }
    }
}

/// Everything of one models folder.
#[derive(Debug, Default)]
pub(super) struct Contents {
    /// Everything that refers to blobs, in the order of their ids.
    pub(super) tags: Vec<Tag>,
    /// What has a digest for a name in `blobs/`, by its digits: one file, or a second one under the name of old releases.
    pub(super) blobs: BTreeMap<String, Vec<Entry>>,
    /// Every other regular file.
    pub(super) others: Vec<Status>,
    /// Folders in the trees.
    pub(super) folders: Folders,
    /// What could not be read, in words: unknown, not empty.
    pub(super) unread: Vec<(PathBuf, String)>,
}

/// What something that refers to blobs is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum TagKind {
    /// A model: a row.
    Model(Name),
    /// A manifest under a name that Ollama does not read: a row, so that it can be seen and go.
    Nameless,
    /// Keeps what a conversion made, by the digits of the manifest that it stands for. Goes with the tags that name that.
    Shadow(String),
    /// A manifest that is being written.
    Temporary,
}

/// One name with everything that it refers to.
#[derive(Debug)]
pub(super) struct Tag {
    pub(super) id: String,
    pub(super) kind: TagKind,
    /// Its manifests, the one that counts first.
    pub(super) entries: Vec<NameEntry>,
    /// Configs and layers, by digits.
    pub(super) content: BTreeMap<String, Layer>,
    /// Blobs that hold manifests: its own, those of its children.
    pub(super) manifests: BTreeSet<String>,
    /// Why nobody can tell all that it refers to.
    pub(super) unknown: Option<String>,
    /// Whether that is for want of rights or of a disk that answers: what it names may be sound.
    pub(super) unreadable: bool,
    /// Weights of the manifest that counts.
    pub(super) weights: Vec<String>,
    pub(super) config: Config,
    /// What is wrong, a line each.
    pub(super) damage: Vec<String>,
    /// Shadows that go with it, as places in [`Contents::tags`].
    pub(super) shadows: Vec<usize>,
    /// Whether a manifest that can be run was read.
    pub(super) runnable: bool,
}

/// A manifest's file or link.
#[derive(Debug)]
pub(super) struct NameEntry {
    /// Path relative to the models folder.
    pub(super) entry: Entry,
    /// The other manifest that it is a link to, relative to the models folder.
    pub(super) alias_of: Option<PathBuf>,
}

/// The bytes of a manifest, and the digits of the blob that holds them too.
type Read = (Vec<u8>, Option<String>);

/// Where a link in a manifest tree leads, by its text.
enum Leads {
    /// To the blob of those digits.
    Blob(String),
    /// Out of the models folder, or through it by another path, to something with the name of a blob.
    NamedLikeBlob(String),
    /// To another place in the models folder.
    Inside(PathBuf),
    Outside,
}

/// Whether a name lies in the newer of the two trees.
pub(super) fn is_newer(path: &Path) -> bool {
    path.starts_with(TREES[0])
}

impl Contents {
    /// Reads the models folder at `root`, whose open folder is `folder`.
    pub(super) fn read(root: &Path, folder: &Folder) -> Result<Self, Errno> {
        let mut reader = Reader { root, folder, blobs: None, contents: Self::default(), ids: BTreeMap::new() };
        for (name, kind) in folder.entries()? {
            let tree = TREES.iter().any(|tree| name == *tree);
            match kind {
                EntryType::Folder if name == BLOBS => reader.read_blobs(&name),
                EntryType::Folder if tree => {}
                EntryType::Folder => reader.add_others(folder, &name, Path::new("")),
                EntryType::Link if tree || name == BLOBS => reader
                    .contents
                    .unread
                    .push((PathBuf::from(&name), "it is a link, which is not followed".to_owned())),
                EntryType::File => reader.contents.others.extend(folder.status(&name).ok()),
                _ => {}
            }
        }
        for tree in TREES {
            match folder.folder(tree.as_ref()) {
                // The trees themselves always stay.
                Ok(opened) => drop(reader.read_tree(&opened, Path::new(tree), &mut Vec::new())),
                // A link was told above.
                Err(Errno::NOENT | Errno::LOOP | Errno::NOTDIR) => {}
                Err(error) => reader.contents.unread.push((PathBuf::from(tree), reason(error))),
            }
        }
        let mut contents = reader.contents;
        for (path, _) in &contents.unread {
            contents.folders.keep(path);
        }
        contents.tags.iter_mut().for_each(Tag::finish);
        contents.tags.sort_by(|a, b| a.id.cmp(&b.id));
        contents.give_shadows();
        Ok(contents)
    }

    /// Gives each shadow to every tag that refers to the manifest for which it stands.
    fn give_shadows(&mut self) {
        for at in 0..self.tags.len() {
            let TagKind::Shadow(hex) = self.tags[at].kind.clone() else { continue };
            for tag in self.tags.iter_mut().filter(|tag| tag.is_row()) {
                if tag.content.contains_key(&hex) || tag.manifests.contains(&hex) {
                    tag.shadows.push(at);
                }
            }
        }
    }

    /// The tags that are rows, with their places.
    pub(super) fn rows(&self) -> impl Iterator<Item = (usize, &Tag)> {
        self.tags.iter().enumerate().filter(|(_, tag)| tag.is_row())
    }

    /// The row of exactly that id.
    pub(super) fn row(&self, id: &str) -> Option<usize> {
        self.rows().find(|(_, tag)| tag.id == id).map(|(at, _)| at)
    }

    /// Digits of everything that a tag needs, with what its shadows need.
    pub(super) fn needs(&self, at: usize) -> BTreeSet<&str> {
        std::iter::once(at)
            .chain(self.tags[at].shadows.iter().copied())
            .flat_map(|at| self.tags[at].content.keys().chain(&self.tags[at].manifests))
            .map(String::as_str)
            .collect()
    }

    /// What needs each blob: rows, and whatever else no row answers for.
    pub(super) fn users(&self) -> BTreeMap<&str, Vec<usize>> {
        let owned: BTreeSet<usize> = self.tags.iter().flat_map(|tag| tag.shadows.iter().copied()).collect();
        let mut users: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for at in (0..self.tags.len()).filter(|at| !owned.contains(at)) {
            for hex in self.needs(at) {
                users.entry(hex).or_default().push(at);
            }
        }
        users
    }

    /// Why nobody can tell which blobs are still needed when the tags at `going` are gone; `None` when it is known of all the
    /// others.
    pub(super) fn unknown_beside(&self, going: &BTreeSet<usize>) -> Option<String> {
        let unread = self.unread.iter().map(|(path, why)| format!("{}: {why}", text::printable_path(path)));
        let others = self.tags.iter().enumerate().filter(|(at, _)| !going.contains(at));
        unread.chain(others.filter_map(|(_, tag)| tag.unknown.clone())).next()
    }

    /// Why nobody can tell whether a blob is there; `None` when it can be told.
    pub(super) fn unread_blob(&self, hex: &str) -> Option<&str> {
        if self.blobs.contains_key(hex) {
            return None;
        }
        let unread = self.unread.iter().find(|(path, _)| {
            let name = path.strip_prefix(BLOBS).ok();
            name.is_some_and(|name| {
                name.as_os_str().is_empty() || name.to_str().and_then(names::digest).is_some_and(|digest| digest == hex)
            })
        });
        unread.map(|(_, why)| why.as_str())
    }

    /// Why it cannot be told what a tag needs, or where that is: its name must stay then, or what it names is left behind as
    /// nobody's.
    pub(super) fn unreadable(&self, at: usize) -> Option<String> {
        let of_tag = |at: usize| {
            let tag = &self.tags[at];
            tag.unknown.as_ref().filter(|_| tag.unreadable).cloned()
        };
        std::iter::once(at).chain(self.tags[at].shadows.iter().copied()).find_map(of_tag).or_else(|| {
            let why = self.needs(at).into_iter().find_map(|hex| self.unread_blob(hex))?;
            Some(format!("{BLOBS} cannot be read: {why}"))
        })
    }

    /// The regular file of a blob; none for a link.
    pub(super) fn blob_file(&self, hex: &str) -> Option<&Entry> {
        self.blobs.get(hex)?.iter().find(|entry| entry.is_file())
    }
}

impl Tag {
    fn new(id: String, kind: TagKind) -> Self {
        Self {
            id,
            kind,
            entries: Vec::new(),
            content: BTreeMap::new(),
            manifests: BTreeSet::new(),
            unknown: None,
            unreadable: false,
            weights: Vec::new(),
            config: Config::default(),
            damage: Vec::new(),
            shadows: Vec::new(),
            runnable: false,
        }
    }

    pub(super) fn is_row(&self) -> bool {
        matches!(self.kind, TagKind::Model(_) | TagKind::Nameless)
    }

    fn set_unknown(&mut self, path: &Path, why: &Why) {
        let line = format!("{}: {}", text::printable_path(path), why.line());
        self.damage.push(line.clone());
        self.unreadable |= matches!(why, Why::Refused(_));
        self.unknown.get_or_insert(line);
    }

    /// The manifest of the older tree names those of the newer one as layers, for older servers to keep them.
    fn finish(&mut self) {
        for hex in &self.manifests {
            self.content.remove(hex);
        }
    }
}

struct Reader<'a> {
    root: &'a Path,
    folder: &'a Folder,
    blobs: Option<Folder>,
    contents: Contents,
    /// Ids of the tags by name, case ignored: so does a lookup.
    ids: BTreeMap<(String, String, String, String), Vec<usize>>,
}

impl Reader<'_> {
    fn read_blobs(&mut self, name: &OsStr) {
        let opened = self.folder.folder(name).and_then(|folder| Ok((folder.own_status()?, folder.entries()?, folder)));
        let (status, entries, folder) = match opened {
            Ok(opened) => opened,
            Err(error) => return self.contents.unread.push((BLOBS.into(), reason(error))),
        };
        for (name, kind) in entries {
            if kind == EntryType::Folder {
                self.add_others(&folder, &name, Path::new(BLOBS));
                continue;
            }
            let path = Path::new(BLOBS).join(&name);
            let found = match folder.status(&name) {
                Ok(found) => found,
                Err(Errno::NOENT) => continue,
                Err(error) => {
                    self.contents.unread.push((path, reason(error)));
                    continue;
                }
            };
            match name.to_str().and_then(names::digest) {
                Some(hex) => {
                    let link = (found.kind == EntryType::Link)
                        .then(|| folder.read_link(&name).map(PathBuf::from).unwrap_or_default());
                    let entry = Entry { path, status: found, link, parent: status.inode };
                    self.contents.blobs.entry(hex.to_owned()).or_default().push(entry);
                }
                None => self.contents.others.push(found),
            }
        }
        self.blobs = Some(folder);
    }

    /// Counts what lies in a folder that holds nothing of a model.
    fn add_others(&mut self, parent: &Folder, name: &OsStr, path: &Path) {
        match Tree::read(parent, name) {
            Ok(tree) => {
                self.contents.others.extend(tree.entries.iter().filter(|e| e.is_file()).map(|entry| entry.status));
            }
            // It is no place for manifests, so what the others refer to is known without it.
            Err(error) => tracing::debug!("{}: {}", path.join(name).display(), reason(error)),
        }
    }

    /// Gives the paths of what lies in the folder.
    fn read_tree(&mut self, folder: &Folder, path: &Path, parts: &mut Vec<String>) -> Vec<PathBuf> {
        let opened = folder.own_status().and_then(|status| Ok((status, folder.entries()?)));
        let (own, entries) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                self.contents.unread.push((path.to_owned(), reason(error)));
                return Vec::new();
            }
        };
        let mut children = Vec::new();
        for (name, kind) in entries {
            let inside = path.join(&name);
            let status = match folder.status(&name) {
                Ok(status) => status,
                Err(Errno::NOENT) => continue,
                Err(error) => {
                    self.contents.unread.push((inside.clone(), reason(error)));
                    children.push(inside);
                    continue;
                }
            };
            children.push(inside.clone());
            let link = (status.kind == EntryType::Link)
                .then(|| folder.read_link(&name).map(PathBuf::from).unwrap_or_default());
            let entry = Entry { path: inside.clone(), status, link, parent: own.inode };
            let part = text::escape(&name);
            match kind {
                EntryType::Folder if parts.len() < 3 => match folder.folder(&name) {
                    Ok(inner) => {
                        parts.push(part);
                        let children = self.read_tree(&inner, &inside, parts);
                        parts.pop();
                        self.contents.folders.add(entry, children);
                    }
                    Err(Errno::NOENT) => drop(children.pop()),
                    Err(error) => self.contents.unread.push((inside, reason(error))),
                },
                // Ollama reads four levels, neither more nor less.
                EntryType::Folder => self.add_others(folder, &name, path),
                EntryType::Link if parts.len() < 3 => {
                    self.contents.unread.push((inside, "it is a link, which is not followed".to_owned()));
                }
                _ if parts.len() < 3 => {
                    if entry.is_file() {
                        self.contents.others.push(status);
                    }
                }
                _ => self.read_entry(folder, parts, &part, entry),
            }
        }
        children
    }

    /// The tag that a manifest belongs to. An entry of the older tree belongs to that of the newer one whose name is equal but
    /// for case, if there is none with exactly its name.
    fn tag(&mut self, parts: &[String], part: &str, entry: &Entry) -> usize {
        let name = match parts {
            [host, namespace, model] => Name::of_path([host, namespace, model, part]),
            _ => None,
        };
        let Some(name) = name else {
            let kind = if part.starts_with('.') { TagKind::Temporary } else { TagKind::Nameless };
            self.contents.tags.push(Tag::new(text::escape(entry.path.as_os_str()), kind));
            return self.contents.tags.len() - 1;
        };
        let id = name.to_string();
        let in_v2 = |tag: &Tag| tag.entries.iter().all(|entry| entry.entry.path.starts_with(TREES[0]));
        let alike = self.ids.entry(name.key()).or_default();
        let tags = &mut self.contents.tags;
        let exact = alike.iter().copied().find(|&at| tags[at].id == id);
        let other = match alike.as_slice() {
            &[only] if entry.path.starts_with(TREES[1]) && in_v2(&tags[only]) => Some(only),
            _ => None,
        };
        exact.or(other).unwrap_or_else(|| {
            let kind = match name.shadow_of() {
                Some(hex) => TagKind::Shadow(hex.to_owned()),
                None => TagKind::Model(name),
            };
            tags.push(Tag::new(id, kind));
            alike.push(tags.len() - 1);
            tags.len() - 1
        })
    }

    fn read_entry(&mut self, folder: &Folder, parts: &[String], part: &str, entry: Entry) {
        let at = self.tag(parts, part, &entry);
        let shown = text::printable_path(&entry.path);
        let mut alias_of = None;
        let mut damage = None;
        // What is found; `Ok(None)` is a link that leads nowhere: the other tree answers then, as it does for the server.
        let found: Result<Option<Read>, Why> = match entry.status.kind {
            EntryType::File => bounded(folder.read(entry.name(), MAX_JSON)).map(|bytes| {
                // A file here may be a second name or a copy of a blob.
                bytes.map(|bytes| {
                    let hex = Digest::Sha256(Sha256::digest(&bytes).into()).to_string();
                    let there = self.contents.blobs.contains_key(&hex);
                    (bytes, there.then_some(hex))
                })
            }),
            EntryType::Link => match self.leads(&entry) {
                Leads::Blob(hex) => self.read_blob(&hex).map(|bytes| bytes.map(|bytes| (bytes, Some(hex)))),
                Leads::NamedLikeBlob(hex) => {
                    damage = Some(format!("{shown} is a link out of the store"));
                    self.read_blob(&hex).map(|bytes| bytes.map(|bytes| (bytes, Some(hex))))
                }
                Leads::Inside(path) => {
                    damage = Some(format!("{shown} is a link to {}", text::printable_path(&path)));
                    let bytes = self
                        .folder
                        .descend(path.parent().unwrap_or(Path::new("")))
                        .and_then(|folder| folder.read(path.file_name().unwrap_or_default(), MAX_JSON));
                    alias_of = Some(path);
                    bounded(bytes).map(|bytes| bytes.map(|bytes| (bytes, None)))
                }
                Leads::Outside => Err(Why::Wrong("it is a link out of the store, which is not followed".to_owned())),
            },
            _ => Err(Why::Wrong("it is no regular file".to_owned())),
        };
        let parsed = found.and_then(|found| {
            let parse = |(bytes, hex): Read| Manifest::parse(&bytes).map(|manifest| (manifest, hex));
            found.map(parse).transpose().map_err(Why::Wrong)
        });
        let tag = &mut self.contents.tags[at];
        tag.damage.extend(damage);
        let temporary = tag.kind == TagKind::Temporary;
        match parsed {
            Ok(Some((manifest, hex))) => {
                tag.manifests.extend(hex);
                self.add(at, &entry.path, manifest);
            }
            Ok(None) if entry.link.is_some() => tag.damage.push(format!("{shown} leads to nothing")),
            // It went while the folder was read.
            Ok(None) => {}
            // Nothing is named by a file that is only begun.
            Err(_) if temporary => {}
            Err(why) => tag.set_unknown(&entry.path, &why),
        }
        self.contents.tags[at].entries.push(NameEntry { entry, alias_of });
    }

    fn leads(&self, entry: &Entry) -> Leads {
        let Some(link) = entry.link.as_deref() else { return Leads::Outside };
        let named = || link.file_name().and_then(OsStr::to_str).and_then(names::digest).map(str::to_owned);
        match inside(self.root, &entry.path, link) {
            Some(path) => match path.iter().collect::<Vec<_>>()[..] {
                [blobs, name] if blobs == BLOBS => match name.to_str().and_then(names::digest) {
                    Some(hex) => Leads::Blob(hex.to_owned()),
                    None => Leads::Inside(path),
                },
                _ => Leads::Inside(path),
            },
            None => named().map_or(Leads::Outside, Leads::NamedLikeBlob),
        }
    }

    /// `Ok(None)` when there is no such blob.
    fn read_blob(&self, hex: &str) -> Result<Option<Vec<u8>>, Why> {
        let (Some(folder), Some(entries)) = (&self.blobs, self.contents.blobs.get(hex)) else {
            // Without the folder nobody can tell.
            return if self.blobs.is_some() || self.contents.unread.is_empty() {
                Ok(None)
            } else {
                Err(Why::Refused("its blob cannot be read".to_owned()))
            };
        };
        let entry = entries.iter().find(|entry| entry.is_file());
        let entry = entry.ok_or_else(|| Why::Wrong("its blob is no regular file".to_owned()))?;
        bounded(folder.read(entry.name(), MAX_JSON))
    }

    fn add(&mut self, at: usize, path: &Path, manifest: Manifest) {
        let children = match manifest {
            Manifest::Plain(layers) => return self.add_layers(at, layers),
            Manifest::List(children) => children,
        };
        for child in children.into_iter().collect::<BTreeSet<_>>() {
            let parsed = self.read_blob(&child).and_then(|bytes| match bytes {
                // A child may be absent here: it is for another runner.
                None => Ok(None),
                Some(bytes) => match Manifest::parse(&bytes).map_err(Why::Wrong)? {
                    Manifest::Plain(layers) => Ok(Some(layers)),
                    Manifest::List(_) => Err(Why::Wrong("it lists another list".to_owned())),
                },
            });
            self.contents.tags[at].manifests.insert(child.clone());
            match parsed {
                Ok(Some(layers)) => self.add_layers(at, layers),
                Ok(None) => {}
                Err(why) => self.contents.tags[at].set_unknown(path, &why.of(&format!("manifest {}", &child[..12]))),
            }
        }
    }

    fn add_layers(&mut self, at: usize, layers: Layers) {
        if !self.contents.tags[at].runnable {
            let config = layers.config.as_ref().map(|hex| self.read_blob(hex));
            let tag = &mut self.contents.tags[at];
            tag.runnable = true;
            tag.weights = layers.weights;
            // Without it only labels are missing; a blob that is not there is told where the blobs are counted.
            if let Some(Ok(Some(bytes))) = config {
                match serde_json::from_slice(&bytes) {
                    Ok(config) => tag.config = config,
                    Err(_) => tag.damage.push("its config is not the JSON of a config".to_owned()),
                }
            }
        }
        for (hex, layer) in layers.blobs {
            self.contents.tags[at].content.entry(hex).or_insert(layer);
        }
    }
}

/// What a bounded read gives: nothing there, the bytes, or why not.
fn bounded(read: Result<Option<Vec<u8>>, Errno>) -> Result<Option<Vec<u8>>, Why> {
    match read {
        Ok(Some(bytes)) => Ok(Some(bytes)),
        Ok(None) => Err(Why::Wrong(format!("it is longer than {MAX_JSON} bytes"))),
        Err(Errno::NOENT) => Ok(None),
        Err(Errno::INVAL | Errno::LOOP) => Err(Why::Wrong("it is no regular file".to_owned())),
        Err(error) => Err(Why::Refused(format!("it cannot be read: {}", reason(error)))),
    }
}

/// Where a link at `at` leads, relative to the models folder at `root`, by its text alone; `None` when out of it.
fn inside(root: &Path, at: &Path, to: &Path) -> Option<PathBuf> {
    let mut parts: Vec<OsString> = at.parent()?.iter().map(OsStr::to_owned).collect();
    let to = match to.strip_prefix(root) {
        Ok(below) => {
            parts.clear();
            below
        }
        Err(_) => to,
    };
    for part in to.components() {
        match part {
            Component::Normal(name) => parts.push(name.to_owned()),
            Component::ParentDir => drop(parts.pop()?),
            Component::CurDir => {}
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(parts.iter().collect())
}

/// The inodes of everything that counts bytes.
pub(super) fn all_files(contents: &Contents) -> BTreeMap<Inode, Status> {
    let names = contents.tags.iter().flat_map(|tag| &tag.entries).map(|entry| &entry.entry.status);
    let blobs = contents.blobs.values().flatten().map(|entry| &entry.status);
    names
        .chain(blobs)
        .chain(&contents.others)
        .filter(|status| status.kind == EntryType::File)
        .map(|status| (status.inode, *status))
        .collect()
}
