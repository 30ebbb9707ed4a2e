//! Which rows a base folder has: one a folder, one a set of weights that lies directly in it, one a link; in a folder that only
//! groups models, one a folder or link in that.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustix::io::Errno;

use super::folder::{ModelFolder, RecordState, SetKey};
use super::group::{self, Group};
use crate::disk::folder::{EntryType, Folder, Status};
use crate::error::{Error, Result};
use crate::model::text;
use crate::store::tree::{Entry, Tree, reason};

/// The open base folder with its direct entries.
#[derive(Debug)]
pub(super) struct Base {
    pub(super) folder: Folder,
    pub(super) status: Status,
    pub(super) entries: Vec<(OsString, EntryType)>,
    /// Whether a folder only groups models, as far as that was looked at.
    groups: Mutex<BTreeMap<OsString, bool>>,
}

/// Where one row is, before it is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// A folder of that name: a row, or several.
    Folder(OsString),
    /// What has the second name in the folder of the first name, if that only groups models.
    Member(OsString, OsString),
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

impl Found {
    /// The id of the row.
    pub(super) fn id(&self) -> String {
        match self {
            Self::Model(folder) => folder.id_text(),
            Self::Link(entry) | Self::Closed(entry, _) => text::escape(entry.path.as_os_str()),
        }
    }
}

/// What is at a place.
#[derive(Debug)]
pub(super) enum Content {
    /// One row.
    Row(Found),
    /// A folder that only groups models.
    Group(Group),
}

impl Content {
    /// The one row.
    pub(super) fn row(self) -> Option<Found> {
        match self {
            Self::Row(found) => Some(found),
            Self::Group(_) => None,
        }
    }
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
        Ok(Some(Self { folder, status, entries, groups: Mutex::default() }))
    }

    /// Where rows are, in the order of the names.
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
        if let Some((group, name)) = split(id) {
            let is_folder = matches!(self.place(group), Some(Place::Folder(_)));
            return is_folder.then(|| Place::Member(group.to_owned(), name.to_owned()));
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

    /// Reads what is at a place; `None` when it is gone.
    pub(super) fn read(&self, place: &Place) -> Option<Content> {
        Some(Content::Row(match place {
            Place::Folder(name) => match group::read(&self.folder, self.status.inode, name) {
                Ok(content) => {
                    self.note(name, matches!(content, Content::Group(_)));
                    return Some(content);
                }
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return None,
                Err(error) => Found::Closed(self.entry(name)?, reason(error)),
            },
            Place::Member(group, name) => {
                if !self.is_group(group) {
                    return None;
                }
                group::read_row(&self.folder, group, name).ok()??
            }
            Place::Link(name) => Found::Link(self.entry(name)?),
            Place::Loose(name, names) => Found::Model(Box::new(self.loose(name, names)?)),
        }))
    }

    /// The row at a place; `None` when it is gone, or when there is a group.
    pub(super) fn row(&self, place: &Place) -> Option<Found> {
        self.read(place)?.row()
    }

    /// Every row.
    pub(super) fn rows(&self) -> impl Iterator<Item = Found> + '_ {
        self.places().into_iter().filter_map(|place| self.read(&place)).flat_map(|content| match content {
            Content::Row(found) => vec![found],
            Content::Group(group) => group.rows,
        })
    }

    /// The names of the folders that may be rows or groups.
    pub(super) fn folders(&self) -> impl Iterator<Item = &OsString> {
        let folders = self.entries.iter().filter(|(name, kind)| *kind == EntryType::Folder && !is_hidden(name));
        folders.map(|(name, _)| name)
    }

    /// Whether the folder `name` only groups models. It is looked at once.
    pub(super) fn is_group(&self, name: &OsStr) -> bool {
        let known = self.groups.lock().unwrap_or_else(PoisonError::into_inner).get(name).copied();
        known.unwrap_or_else(|| {
            let content = group::read(&self.folder, self.status.inode, name);
            let is_group = matches!(content, Ok(Content::Group(_)));
            self.note(name, is_group);
            is_group
        })
    }

    fn note(&self, name: &OsStr, is_group: bool) {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), is_group);
    }

    /// One direct entry.
    pub(super) fn entry(&self, name: &OsStr) -> Option<Entry> {
        let status = self.folder.status(name).ok()?;
        let link = (status.kind == EntryType::Link)
            .then(|| self.folder.read_link(name).map(PathBuf::from).unwrap_or_default());
        Some(Entry { path: PathBuf::from(name), status, link, parent: self.status.inode })
    }

    /// The folder of that id as a model's folder, if it is one that can be read.
    pub(super) fn model(&self, id: &str) -> Option<ModelFolder> {
        let place = self.place(OsStr::new(id))?;
        match self.row(&place).filter(|_| matches!(place, Place::Folder(_) | Place::Member(..)))? {
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

/// The two names of the id of a row in a group.
pub(super) fn split(id: &OsStr) -> Option<(&OsStr, &OsStr)> {
    let bytes = id.as_bytes();
    let at = bytes.iter().position(|byte| *byte == b'/')?;
    let (group, name) = (OsStr::from_bytes(&bytes[..at]), OsStr::from_bytes(&bytes[at + 1..]));
    let is_plain = |name: &OsStr| !name.is_empty() && !is_hidden(name) && !name.as_bytes().contains(&b'/');
    (is_plain(group) && is_plain(name)).then_some((group, name))
}

pub(super) fn is_hidden(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b".")
}
