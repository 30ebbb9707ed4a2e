//! Which rows a base folder has: one a folder, one a set of weights that lies directly in it, one a link.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::folder::{ModelFolder, RecordState, SetKey};
use crate::disk::folder::{EntryType, Folder, Status};
use crate::error::{Error, Result};
use crate::store::tree::{Entry, Tree, reason};

/// The open base folder with its direct entries.
#[derive(Debug)]
pub(super) struct Base {
    pub(super) folder: Folder,
    pub(super) status: Status,
    pub(super) entries: Vec<(OsString, EntryType)>,
}

/// Where one row is, before it is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// A folder of that name.
    Folder(OsString),
    /// A link of that name, whatever it leads to.
    Link(OsString),
    /// Weights directly in the base folder: the id, and the names of the files.
    Loose(OsString, Vec<OsString>),
}

/// A row as it was found.
#[derive(Debug)]
pub(super) enum Found {
    /// A folder, or weights that lie in none.
    Model(Box<ModelFolder>),
    /// A link in the base folder.
    Link(Entry),
    /// A folder that cannot be opened, and why.
    Closed(Entry, String),
}

impl Base {
    /// Opens `root`; `None` when nothing is there.
    pub(super) fn open(root: &Path) -> Result<Option<Self>> {
        let failed = |error: Errno| Error::io("read", root)(error.into());
        let folder = match Folder::open(root) {
            Ok(folder) => folder,
            Err(Errno::NOENT) => return Ok(None),
            // Below something that is no folder nothing can be; a file in the folder's place is a mistake worth telling.
            Err(Errno::NOTDIR) if root.symlink_metadata().is_err() => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        let status = folder.own_status().map_err(failed)?;
        let entries = folder.entries().map_err(failed)?;
        Ok(Some(Self { folder, status, entries }))
    }

    /// Every row, in the order of the names.
    pub(super) fn places(&self) -> Vec<Place> {
        let mut places: Vec<Place> = Vec::new();
        let mut loose: BTreeMap<SetKey, Vec<OsString>> = BTreeMap::new();
        for (name, kind) in self.entries.iter().filter(|(name, _)| !is_hidden(name)) {
            match kind {
                EntryType::Folder => places.push(Place::Folder(name.clone())),
                EntryType::Link => places.push(Place::Link(name.clone())),
                EntryType::File => {
                    if let Some(key) = SetKey::of(Path::new(name)) {
                        loose.entry(key).or_default().push(name.clone());
                    }
                }
                EntryType::Other => {}
            }
        }
        // The id of a set is the name of its first file that is there: a name that no other entry of the folder can have.
        places.extend(loose.into_values().map(|names| Place::Loose(names[0].clone(), names)));
        places
    }

    /// The row of exactly that id.
    pub(super) fn place(&self, id: &OsStr) -> Option<Place> {
        if is_hidden(id) {
            return None;
        }
        let at = self.entries.binary_search_by(|(name, _)| name.as_os_str().cmp(id)).ok()?;
        match self.entries[at].1 {
            EntryType::Folder => Some(Place::Folder(id.to_owned())),
            EntryType::Link => Some(Place::Link(id.to_owned())),
            EntryType::Other => None,
            EntryType::File => {
                self.places().into_iter().find(|place| matches!(place, Place::Loose(name, _) if name == id))
            }
        }
    }

    /// Reads a row; `None` when it is gone.
    pub(super) fn read(&self, place: &Place) -> Option<Found> {
        match place {
            Place::Folder(name) => match ModelFolder::read(&self.folder, self.status.inode, name) {
                Ok(folder) => Some(Found::Model(Box::new(folder))),
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => None,
                Err(error) => Some(Found::Closed(self.entry(name)?, reason(error))),
            },
            Place::Link(name) => self.entry(name).map(Found::Link),
            Place::Loose(name, names) => self.loose(name, names).map(|folder| Found::Model(Box::new(folder))),
        }
    }

    /// One direct entry.
    pub(super) fn entry(&self, name: &OsStr) -> Option<Entry> {
        let status = self.folder.status(name).ok()?;
        let link = (status.kind == EntryType::Link)
            .then(|| self.folder.read_link(name).map(PathBuf::from).unwrap_or_default());
        Some(Entry { path: PathBuf::from(name), status, link, parent: self.status.inode })
    }

    /// The folder `name` as a model's folder, if it is a folder that can be read.
    pub(super) fn model(&self, name: &str) -> Option<ModelFolder> {
        match self.read(&self.place(OsStr::new(name)).filter(|place| matches!(place, Place::Folder(_)))?)? {
            Found::Model(folder) => Some(*folder),
            _ => None,
        }
    }

    /// A set of weights in the base folder with the sidecars that the official client keeps there.
    fn loose(&self, id: &OsStr, names: &[OsString]) -> Option<ModelFolder> {
        let mut entries: Vec<Entry> = names.iter().filter_map(|name| self.entry(name)).collect();
        if entries.is_empty() {
            return None;
        }
        for folder in [".cache/huggingface/download", ".huggingface/download"] {
            let Ok(opened) = self.folder.descend(Path::new(folder)) else { continue };
            let Ok(parent) = opened.own_status() else { continue };
            for (name, suffix) in names.iter().flat_map(|name| [(name, ".metadata"), (name, ".lock")]) {
                let mut name = name.clone();
                name.push(suffix);
                if let Ok(status) = opened.status(&name) {
                    let path = Path::new(folder).join(&name);
                    entries.push(Entry { path, status, link: None, parent: parent.inode });
                }
            }
        }
        entries.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        let tree = Tree { top: self.status, entries, unread: Vec::new() };
        Some(ModelFolder::new(id.to_owned(), PathBuf::new(), self.status.inode, tree, RecordState::Missing))
    }
}

pub(super) fn is_hidden(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b".")
}
