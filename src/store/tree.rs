//! Everything below one folder, read without following a link.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use crate::disk::folder::{EntryType, Folder, Status};
use crate::model::Inode;

/// Deepest nesting that is read; what lies deeper is told as unread.
pub(in crate::store) const MAX_DEPTH: usize = 64;

/// Most entries of one tree that are kept in memory; what comes after is told as unread.
const MAX_ENTRIES: usize = 1_000_000;

/// A file, folder, link or other entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Path relative to the top of the tree.
    pub path: PathBuf,
    /// Metadata of the entry itself.
    pub status: Status,
    /// The text of a link.
    pub link: Option<PathBuf>,
    /// The folder that holds it.
    pub parent: Inode,
}

impl Entry {
    /// The last part of the path.
    #[must_use]
    pub fn name(&self) -> &OsStr {
        self.path.file_name().unwrap_or_default()
    }

    /// Whether it is a regular file.
    #[must_use]
    pub fn is_file(&self) -> bool {
        self.status.kind == EntryType::File
    }

    /// Whether it is a folder.
    #[must_use]
    pub fn is_folder(&self) -> bool {
        self.status.kind == EntryType::Folder
    }
}

/// A part of a tree whose content is unknown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unread {
    /// The folder or entry, relative to the top of the tree; empty for the top itself.
    pub path: PathBuf,
    /// Why, in words.
    pub because: String,
}

/// A folder and everything below it, folders before what they hold, names in byte order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree {
    /// The folder itself.
    pub top: Status,
    /// What lies in it.
    pub entries: Vec<Entry>,
    /// What could not be read.
    pub unread: Vec<Unread>,
}

impl Tree {
    /// Reads the folder `name` in `parent`, which may not be a link.
    ///
    /// # Errors
    /// The system's when the folder itself cannot be opened; deeper failures are in the field `unread`.
    pub fn read(parent: &Folder, name: &OsStr) -> Result<Self, Errno> {
        Self::of(&parent.folder(name)?)
    }

    /// Reads an open folder.
    ///
    /// # Errors
    /// The system's when it has no metadata; deeper failures are in the field `unread`.
    pub fn of(folder: &Folder) -> Result<Self, Errno> {
        let top = folder.own_status()?;
        let mut tree = Self { top, entries: Vec::new(), unread: Vec::new() };
        tree.descend(folder, Path::new(""), top.inode, 0);
        Ok(tree)
    }

    fn descend(&mut self, folder: &Folder, path: &Path, inode: Inode, depth: usize) {
        let names: Vec<OsString> = match folder.entries() {
            Ok(entries) => entries.into_iter().map(|(name, _)| name).collect(),
            Err(error) => return self.unread(path, reason(error)),
        };
        for name in names {
            let path = path.join(&name);
            if self.entries.len() >= MAX_ENTRIES {
                return self.unread(&path, format!("more than {MAX_ENTRIES} entries, the rest was not read"));
            }
            let status = match folder.status(&name) {
                Ok(status) => status,
                // It went while the folder was read: that is no damage.
                Err(Errno::NOENT) => continue,
                Err(error) => {
                    self.unread(&path, reason(error));
                    continue;
                }
            };
            let link = if status.kind == EntryType::Link {
                match folder.read_link(&name) {
                    Ok(text) => Some(PathBuf::from(text)),
                    Err(Errno::NOENT) => continue,
                    Err(_) => Some(PathBuf::new()),
                }
            } else {
                None
            };
            self.entries.push(Entry { path: path.clone(), status, link, parent: inode });
            if status.kind != EntryType::Folder {
                continue;
            }
            if status.inode.device != self.top.inode.device {
                self.unread(&path, "another file system is mounted there".to_owned());
            } else if depth + 1 >= MAX_DEPTH {
                self.unread(&path, format!("nested more than {MAX_DEPTH} folders deep"));
            } else {
                match folder.folder(&name) {
                    Ok(child) => self.descend(&child, &path, status.inode, depth + 1),
                    Err(Errno::NOENT) => {
                        self.entries.pop();
                    }
                    Err(error) => self.unread(&path, reason(error)),
                }
            }
        }
    }

    fn unread(&mut self, path: &Path, because: String) {
        self.unread.push(Unread { path: path.to_owned(), because });
    }
}

/// The system's words for an error, without its number.
pub(crate) fn reason(error: Errno) -> String {
    let text = std::io::Error::from(error).to_string();
    text.split_once(" (os error").map_or(text.clone(), |(reason, _)| reason.to_lowercase())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_and_pipes_are_entries_and_nothing_is_followed() {
        let scratch = tempfile::tempdir().unwrap();
        let top = scratch.path().join("m");
        std::fs::create_dir_all(top.join("a/b")).unwrap();
        std::fs::write(top.join("a/b/x"), b"123").unwrap();
        std::fs::create_dir(scratch.path().join("outside")).unwrap();
        std::fs::write(scratch.path().join("outside/y"), b"123").unwrap();
        symlink("../outside", top.join("out")).unwrap();
        symlink("loop", top.join("loop")).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, top.join("pipe"), rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0)
            .unwrap();
        let tree = Tree::read(&Folder::open(scratch.path()).unwrap(), OsStr::new("m")).unwrap();
        let paths: Vec<_> = tree.entries.iter().map(|entry| entry.path.to_str().unwrap()).collect();
        assert_eq!(paths, ["a", "a/b", "a/b/x", "loop", "out", "pipe"]);
        assert_eq!(tree.entries[4].link.as_deref(), Some(Path::new("../outside")));
        assert_eq!(tree.entries[0].parent, tree.top.inode);
        assert_eq!(tree.entries[2].parent, tree.entries[1].status.inode);
        assert!(tree.unread.is_empty());
    }

    #[test]
    fn what_is_too_deep_is_told() {
        let scratch = tempfile::tempdir().unwrap();
        let mut deep = scratch.path().to_owned();
        (0..MAX_DEPTH + 5).for_each(|_| deep.push("d"));
        std::fs::create_dir_all(&deep).unwrap();
        let tree = Tree::of(&Folder::open(scratch.path()).unwrap()).unwrap();
        assert_eq!(tree.entries.len(), MAX_DEPTH);
        assert_eq!(tree.unread.len(), 1);
    }
}
