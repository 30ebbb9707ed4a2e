//! One repository of the cache, read from disk once: what scans, details, plans and sweeps are made of.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rustix::io::Errno;

use super::blobs::Blobs;
use super::layout::{self, BlobName, Target};
use super::links::{Links, Listing};
use crate::disk::folder::{EntryType, Folder, Status, os_str};
use crate::model::ModelKind;
use crate::store::planning::lexical;

/// Longest ref file and link text that is believed.
const MAX_REF: u64 = 4096;
/// Files of a revision among which one is searched from the first to the last: most revisions have no more.
const FEW: usize = 32;
/// Most entries of one repository; beyond it the repository is told as unknown instead of filling the memory.
const MAX_ENTRIES: usize = 4_000_000;

/// A repository folder.
#[derive(Debug)]
pub(super) struct Repository {
    /// Its folder in the cache.
    pub(super) folder: OsString,
    /// Where it is.
    pub(super) path: PathBuf,
    pub(super) kind: ModelKind,
    pub(super) id: String,
    /// The folder itself; of the link, if it is one.
    pub(super) status: Status,
    /// Entries of `blobs/`.
    pub(super) blobs: Blobs,
    /// Folders of `snapshots/`, by commit.
    pub(super) revisions: Vec<Revision>,
    /// Files of `refs/`.
    pub(super) refs: Vec<Ref>,
    /// Every other regular file below the folder, with its path relative to it: trees, marks, strays.
    pub(super) others: Vec<(PathBuf, Status)>,
    /// What could not be read, with the cause: unknown, not empty.
    pub(super) unreadable: Vec<(PathBuf, Errno)>,
    /// Links that leave the repository, with what they say.
    pub(super) foreign: Vec<(PathBuf, PathBuf)>,
    /// What else is odd, in a line each.
    pub(super) damage: Vec<String>,
}

/// One entry of `blobs/`.
#[derive(Debug)]
pub(super) enum Blob {
    /// A regular file.
    File(Status),
    /// A link into the shared store, and the payload and the list of its users if they are there.
    Shared { digits: OsString, hash: OsString, payload: Option<Status>, users: Option<Status> },
    /// A link to anywhere else.
    Foreign,
    /// A folder, a pipe, a device.
    Other,
}

impl Blob {
    /// Metadata of the bytes.
    pub(super) fn payload(&self) -> Option<&Status> {
        match self {
            Self::File(status) => Some(status),
            Self::Shared { payload, .. } => payload.as_ref(),
            Self::Foreign | Self::Other => None,
        }
    }
}

/// One folder of `snapshots/`.
#[derive(Debug)]
pub(super) struct Revision {
    pub(super) commit: OsString,
    pub(super) entries: Vec<Entry>,
}

/// One file of a revision.
#[derive(Debug)]
pub(super) struct Entry {
    /// Path in the revision.
    pub(super) path: PathBuf,
    pub(super) content: Content,
}

impl Entry {
    /// The last part of its path.
    pub(super) fn name(&self) -> &OsStr {
        self.folder_and_name().1
    }

    /// The folder that it lies in, below the revision; empty for the revision's own.
    pub(super) fn folder(&self) -> &OsStr {
        self.folder_and_name().0
    }

    // Paths of entries are put together from plain names.
    fn folder_and_name(&self) -> (&OsStr, &OsStr) {
        let path = self.path.as_os_str().as_bytes();
        let slash = path.iter().rposition(|byte| *byte == b'/');
        let (folder, name) = slash.map_or((&b""[..], path), |slash| (&path[..slash], &path[slash + 1..]));
        (OsStr::from_bytes(folder), OsStr::from_bytes(name))
    }
}

impl Revision {
    /// Its file at a path.
    pub(super) fn entry(&self, path: &Path) -> Option<&Entry> {
        let bytes = path.as_os_str().as_bytes();
        // Its own paths are plain ones, so that only what is written otherwise has to be taken apart.
        let otherwise = bytes.ends_with(b"/")
            || bytes.ends_with(b"/.")
            || bytes.windows(2).any(|pair| pair == b"//")
            || bytes.windows(3).any(|three| three == b"/./");
        let plainly: PathBuf;
        let wanted = if otherwise {
            plainly = path.components().collect();
            plainly.as_os_str()
        } else {
            path.as_os_str()
        };
        if self.entries.len() <= FEW {
            return self.entries.iter().find(|entry| entry.path.as_os_str() == wanted);
        }
        let found = self.entries.binary_search_by(|entry| {
            #[cfg(test)]
            tests::COMPARED.with(|count| count.set(count.get() + 1));
            entry.path.as_os_str().cmp(wanted)
        });
        found.ok().and_then(|at| self.entries.get(at))
    }

    /// Puts its files in order, where they are so many that searching among them takes long.
    fn order(&mut self) {
        let order = |a: &Entry, b: &Entry| a.path.as_os_str().cmp(b.path.as_os_str());
        if self.entries.len() > FEW && !self.entries.is_sorted_by(|a, b| order(a, b).is_le()) {
            self.entries.sort_unstable_by(order);
        }
    }
}

/// What a file of a revision is.
#[derive(Debug)]
pub(super) enum Content {
    /// A link to the entry of `blobs/` at that place. See [`Repository::blob_of`].
    Blob(usize),
    /// A link to a name that `blobs/` lacked when it was read.
    NoBlob(OsString),
    /// A link that leads anywhere else.
    Elsewhere,
    /// A regular file, where links are not used.
    File(Box<Status>),
    /// A pipe, a device.
    Other,
}

/// A memory of links, and when the scan that uses it began.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known<'a> {
    pub(super) links: &'a Links,
    pub(super) now: Timestamp,
    /// Whether only the links that leave the repository are wanted: then no file is looked at.
    pub(super) outward: bool,
}

/// The links of a repository that leave it.
#[derive(Debug)]
pub(super) struct Outward {
    pub(super) id: String,
    /// The repository's folder.
    pub(super) path: PathBuf,
    /// Paths of the links below it; empty where the folder itself is one.
    pub(super) links: Vec<PathBuf>,
}

impl Outward {
    /// The links with their whole paths.
    pub(super) fn paths(&self) -> impl Iterator<Item = PathBuf> {
        self.links.iter().map(|link| if link.as_os_str().is_empty() { self.path.clone() } else { self.path.join(link) })
    }
}

impl From<Repository> for Outward {
    fn from(repository: Repository) -> Self {
        let links = repository.foreign.into_iter().map(|(path, _)| path).collect();
        Self { id: repository.id, path: repository.path, links }
    }
}

/// One file of `refs/`.
#[derive(Debug)]
pub(super) struct Ref {
    /// Path below `refs/`.
    pub(super) name: PathBuf,
    /// What it says, white space around it left out.
    pub(super) commit: Option<String>,
    /// Whether there is white space around it.
    pub(super) spaced: bool,
    pub(super) status: Status,
}

/// A folder of a revision.
struct Place<'a> {
    /// Its path in the repository.
    inside: &'a Path,
    /// Its path in the revision.
    below: &'a Path,
    /// What every link in it to a blob begins with.
    to_blobs: Vec<u8>,
}

impl<'a> Place<'a> {
    fn new(inside: &'a Path, below: &'a Path) -> Self {
        let mut to_blobs = b"../".repeat(inside.iter().count());
        to_blobs.extend_from_slice(b"blobs/");
        Self { inside, below, to_blobs }
    }

    /// The blob that a link in it names the way every client writes it. [`layout::resolve`] understands the others.
    fn blob<'t>(&self, text: &'t OsStr) -> Option<&'t OsStr> {
        let name = text.as_bytes().strip_prefix(self.to_blobs.as_slice())?;
        (!matches!(name, b"" | b"." | b"..") && !name.contains(&b'/')).then(|| OsStr::from_bytes(name))
    }

    /// The path of an entry in the revision.
    fn path(&self, name: &OsStr) -> PathBuf {
        if self.below.as_os_str().is_empty() { PathBuf::from(name) } else { self.below.join(name) }
    }
}

impl Repository {
    /// Reads `folder` of the cache `hub`. Nothing in it makes this fail: what is broken or unreadable is noted.
    /// `None` when it is no repository's folder or is gone.
    pub(super) fn read(hub: &Folder, root: &Path, folder: &OsStr) -> Option<Self> {
        Self::read_with(hub, root, folder, None)
    }

    /// The same, where links that are `known` need not be read again. For looking only: a plan has to see for itself what it
    /// removes.
    pub(super) fn read_with(hub: &Folder, root: &Path, folder: &OsStr, known: Option<Known<'_>>) -> Option<Self> {
        let (kind, id) = layout::repository(folder)?;
        let opened = hub.folder(folder).and_then(|open| Ok((open.own_status()?, open)));
        let status = match &opened {
            Ok((status, _)) => *status,
            Err(_) => hub.status(folder).ok()?,
        };
        let mut repository = Self {
            folder: folder.to_owned(),
            path: root.join(folder),
            kind,
            id,
            status,
            blobs: Blobs::default(),
            revisions: Vec::new(),
            refs: Vec::new(),
            others: Vec::new(),
            unreadable: Vec::new(),
            foreign: Vec::new(),
            damage: Vec::new(),
        };
        match status.kind {
            EntryType::Folder => match opened {
                Ok((_, open)) => repository.read_top(hub, &open, known),
                Err(error) => repository.unreadable.push((PathBuf::new(), error)),
            },
            EntryType::Link => {
                let to = hub.read_link(folder).unwrap_or_default();
                repository.foreign.push((PathBuf::new(), PathBuf::from(to)));
            }
            EntryType::File => {
                repository.damage.push("is no folder".to_owned());
                repository.others.push((PathBuf::new(), status));
            }
            EntryType::Other => repository.damage.push("is no folder".to_owned()),
        }
        Some(repository)
    }

    fn read_top(&mut self, hub: &Folder, folder: &Folder, known: Option<Known<'_>>) {
        for (name, kind) in self.entries(folder, Path::new("")) {
            let path = PathBuf::from(&name);
            match (name.as_bytes(), kind) {
                (b"blobs", EntryType::Folder) => self.read_blobs(hub, folder, &path, known),
                (b"snapshots", EntryType::Folder) => self.read_snapshots(folder, &path, known),
                (b"refs", EntryType::Folder) if known.is_some_and(|known| known.outward) => {
                    self.read_other(folder, &path, kind, 0);
                }
                (b"refs", EntryType::Folder) => self.read_refs(folder, &path, Path::new(""), 0),
                (b"blobs" | b"snapshots" | b"refs", _) => {
                    self.damage.push(format!("'{}' is no folder", name.to_string_lossy()));
                    self.read_other(folder, &path, kind, 0);
                }
                _ => self.read_other(folder, &path, kind, 0),
            }
        }
    }

    /// Names in a folder, noted as unreadable where they cannot be had.
    fn entries(&mut self, folder: &Folder, path: &Path) -> Vec<(OsString, EntryType)> {
        match folder.entries() {
            Ok(entries) => entries,
            Err(error) => {
                self.unreadable.push((path.to_path_buf(), error));
                Vec::new()
            }
        }
    }

    fn open(&mut self, folder: &Folder, path: &Path) -> Option<Folder> {
        let name = path.file_name()?;
        match folder.folder(name) {
            Ok(open) => Some(open),
            // Removed meanwhile: another program works here.
            Err(Errno::NOENT) => None,
            Err(error) => {
                self.unreadable.push((path.to_path_buf(), error));
                None
            }
        }
    }

    fn read_blobs(&mut self, hub: &Folder, top: &Folder, path: &Path, known: Option<Known<'_>>) {
        let Some(folder) = self.open(top, path) else { return };
        let outward = known.is_some_and(|known| known.outward);
        for (name, kind) in self.entries(&folder, path) {
            let blob = match kind {
                EntryType::File if outward => continue,
                EntryType::File => match folder.status(&name) {
                    Ok(status) => Blob::File(status),
                    Err(Errno::NOENT) => continue,
                    Err(error) => {
                        self.unreadable.push((path.join(&name), error));
                        continue;
                    }
                },
                EntryType::Link => {
                    let text = match folder.read_link(&name) {
                        Ok(text) => text,
                        Err(Errno::NOENT | Errno::INVAL) => continue,
                        Err(error) => {
                            self.unreadable.push((path.join(&name), error));
                            continue;
                        }
                    };
                    match layout::resolve(&text, path, &self.path) {
                        Target::Shared(..) if outward => continue,
                        Target::Shared(digits, hash) => {
                            let shared = hub.descend(&Path::new(layout::SHARED).join(&digits)).ok();
                            let file = |name: &OsStr| {
                                shared.as_ref()?.status(name).ok().filter(|status| status.kind == EntryType::File)
                            };
                            let mut list = hash.clone();
                            list.push(".refs");
                            Blob::Shared { payload: file(&hash), users: file(&list), digits, hash }
                        }
                        _ => {
                            self.foreign.push((path.join(&name), PathBuf::from(text)));
                            Blob::Foreign
                        }
                    }
                }
                EntryType::Folder => {
                    self.read_other(&folder, &path.join(&name), kind, 0);
                    Blob::Other
                }
                EntryType::Other => Blob::Other,
            };
            self.blobs.push(name, blob);
        }
    }

    fn read_snapshots(&mut self, top: &Folder, path: &Path, known: Option<Known<'_>>) {
        let Some(snapshots) = self.open(top, path) else { return };
        let mut names = Vec::new();
        if let Err(error) = snapshots.each(|name, kind| names.push((os_str(name).to_owned(), kind))) {
            self.unreadable.push((path.to_path_buf(), error));
        }
        names.sort_unstable();
        for (name, kind) in names {
            let kind = kind.or_else(|| snapshots.status(&name).ok().map(|status| status.kind));
            let inside = path.join(&name);
            if kind != Some(EntryType::Folder) {
                self.damage.push(format!("'{}' is no folder", inside.display()));
                self.read_other(&snapshots, &inside, kind.unwrap_or(EntryType::Other), 0);
                continue;
            }
            let mut revision = Revision { commit: name, entries: Vec::new() };
            if let Some(known) = known
                && let Ok(status) = snapshots.status(&revision.commit)
                && status.is_folder()
                && let Some(entries) = known.links.get(&revision.commit, &status, |links| {
                    let top = Place::new(&inside, Path::new(""));
                    // What leads to a blob leaves no repository.
                    let wanted = links.filter(|(_, text)| !known.outward || top.blob(text).is_none());
                    wanted.map(|(name, text)| self.link(&top, name, text)).collect()
                })
            {
                revision.entries = entries;
                revision.order();
                self.revisions.push(revision);
                continue;
            }
            let Some(folder) = self.open(&snapshots, &inside) else { continue };
            // Its times are taken before it is read: what changes meanwhile makes it another one.
            let noted = known.and_then(|known| Some((known, folder.own_status().ok()?)));
            let mut listing = noted.map(|(known, status)| known.links.begin(&revision.commit, &status, known.now));
            let unread = self.unreadable.len();
            self.read_revision(&folder, &Place::new(&inside, Path::new("")), &mut revision, 0, listing.as_mut());
            if let (Some(known), Some(listing)) = (known, listing.filter(|_| self.unreadable.len() == unread)) {
                known.links.end(listing);
            }
            revision.order();
            self.revisions.push(revision);
        }
    }

    /// What the link `name` with that text is.
    fn link(&mut self, at: &Place<'_>, name: &OsStr, text: &OsStr) -> Entry {
        let blob = |name: &OsStr| match self.blobs.position(name) {
            Some(place) => Content::Blob(place),
            None => Content::NoBlob(name.to_owned()),
        };
        let content = match at.blob(text) {
            Some(name) => blob(name),
            None => match layout::resolve(text, at.inside, &self.path) {
                Target::Blob(name) => blob(&name),
                Target::Shared(..) => Content::Elsewhere,
                Target::Foreign(to) => {
                    let path = at.inside.join(name);
                    let own = self.path.join(&path);
                    let is_loop = lexical(&own.parent().unwrap_or(&self.path).join(&to)) == own;
                    self.foreign.push((path, to));
                    if is_loop { Content::Other } else { Content::Elsewhere }
                }
            },
        };
        Entry { path: at.path(name), content }
    }

    fn read_revision(
        &mut self,
        folder: &Folder,
        at: &Place<'_>,
        revision: &mut Revision,
        depth: usize,
        mut listing: Option<&mut Listing>,
    ) {
        let mut folders = Vec::new();
        let result = folder.each(|name, kind| {
            let name = os_str(name);
            let kind = kind.or_else(|| folder.status(name).ok().map(|status| status.kind));
            let entry = match kind {
                Some(EntryType::Link) => folder.with_link(name, |text| {
                    if let Some(listing) = &mut listing {
                        listing.link(name, text);
                    }
                    self.link(at, name, text)
                }),
                Some(EntryType::File) => {
                    let file = |status| Entry { path: at.path(name), content: Content::File(Box::new(status)) };
                    folder.status(name).map(file)
                }
                Some(EntryType::Folder) => {
                    folders.push(name.to_owned());
                    Err(Errno::ISDIR)
                }
                _ => Ok(Entry { path: at.path(name), content: Content::Other }),
            };
            if kind != Some(EntryType::Link) || entry.is_err() {
                listing.iter_mut().for_each(|listing| listing.spoil());
            }
            revision.entries.extend(entry);
        });
        if let Err(error) = result {
            self.unreadable.push((at.inside.to_path_buf(), error));
        }
        if revision.entries.len() > MAX_ENTRIES || (depth >= layout::MAX_DEPTH && !folders.is_empty()) {
            self.unreadable.push((at.inside.to_path_buf(), Errno::NAMETOOLONG));
            return;
        }
        for name in folders {
            let (inside, below) = (at.inside.join(&name), at.below.join(&name));
            if let Some(open) = self.open(folder, &inside) {
                self.read_revision(&open, &Place::new(&inside, &below), revision, depth + 1, None);
            }
        }
    }

    /// `below`: path of the folder `path` below `refs/`.
    fn read_refs(&mut self, parent: &Folder, path: &Path, below: &Path, depth: usize) {
        let Some(folder) = self.open(parent, path) else { return };
        for (name, kind) in self.entries(&folder, path) {
            let inside = path.join(&name);
            match kind {
                EntryType::File => {
                    let (status, bytes) = match folder.read_with_status(&name, MAX_REF) {
                        Ok((status, bytes)) => (status, bytes.unwrap_or_default()),
                        Err(Errno::NOENT) => continue,
                        Err(error) => {
                            let Ok(status) = folder.status(&name) else { continue };
                            self.unreadable.push((inside.clone(), error));
                            (status, Vec::new())
                        }
                    };
                    let text = String::from_utf8(bytes).unwrap_or_default();
                    let commit = text.trim().to_owned();
                    let spaced = commit.len() != text.len();
                    let commit = (!commit.is_empty()).then_some(commit);
                    self.refs.push(Ref { name: below.join(&name), commit, spaced, status });
                }
                EntryType::Folder if depth < layout::MAX_DEPTH => {
                    self.read_refs(&folder, &inside, &below.join(&name), depth + 1);
                }
                _ => self.read_other(&folder, &inside, kind, depth),
            }
        }
    }

    /// Counts the regular files of what has no meaning here.
    fn read_other(&mut self, parent: &Folder, path: &Path, kind: EntryType, depth: usize) {
        let Some(name) = path.file_name() else { return };
        match kind {
            EntryType::File => {
                if let Ok(status) = parent.status(name) {
                    self.others.push((path.to_path_buf(), status));
                }
            }
            EntryType::Folder => {
                if depth >= layout::MAX_DEPTH {
                    self.unreadable.push((path.to_path_buf(), Errno::NAMETOOLONG));
                    return;
                }
                let Some(folder) = self.open(parent, path) else { return };
                for (name, kind) in self.entries(&folder, path) {
                    self.read_other(&folder, &path.join(&name), kind, depth + 1);
                }
            }
            EntryType::Link => {
                let to = parent.read_link(name).unwrap_or_default();
                self.foreign.push((path.to_path_buf(), PathBuf::from(to)));
            }
            EntryType::Other => {}
        }
    }

    /// The name in `blobs/` that an entry is a link to, and what is there under it.
    pub(super) fn blob_of<'a>(&'a self, entry: &'a Entry) -> Option<(&'a OsString, Option<&'a Blob>)> {
        match &entry.content {
            Content::Blob(place) => self.blobs.at(*place).map(|(name, blob)| (name, Some(blob))),
            Content::NoBlob(name) => Some((name, None)),
            Content::Elsewhere | Content::File(_) | Content::Other => None,
        }
    }

    /// Refs by the commit that they name.
    pub(super) fn refs_of(&self, commit: &OsStr) -> Vec<String> {
        self.refs
            .iter()
            .filter(|r| r.commit.as_deref().is_some_and(|c| OsStr::new(c) == commit))
            .map(|r| crate::model::text::escape(r.name.as_os_str()))
            .collect()
    }

    /// Whether any of its blobs lies in the shared store.
    pub(super) fn shares(&self) -> bool {
        self.blobs.values().any(|blob| matches!(blob, Blob::Shared { .. }))
    }

    /// Whether links of this repository into the shared store may be unknown.
    pub(super) fn has_unknown_blobs(&self) -> bool {
        self.unreadable.iter().any(|(path, _)| path.as_os_str().is_empty() || path.starts_with("blobs"))
    }

    /// Whether it cannot be told which refs name a revision.
    pub(super) fn has_unknown_refs(&self) -> bool {
        self.unreadable.iter().any(|(path, _)| path.as_os_str().is_empty() || path.starts_with("refs"))
    }

    /// The revision of that commit, ref or beginning of a commit; `None` when none or several are meant.
    pub(super) fn revision(&self, wanted: &str) -> Option<&Revision> {
        let of = |meant: &dyn Fn(&Revision) -> bool| {
            let mut found = self.revisions.iter().filter(|revision| meant(revision));
            found.next().filter(|_| found.next().is_none())
        };
        let escaped = |revision: &Revision| crate::model::text::escape(&revision.commit);
        of(&|revision| escaped(revision) == wanted)
            .or_else(|| of(&|revision| self.refs_of(&revision.commit).iter().any(|name| name == wanted)))
            .or_else(|| of(&|revision| wanted.len() >= 7 && escaped(revision).starts_with(wanted)))
    }

    /// Whether any revision could not be read whole: blobs may then be in use that seem not to be.
    pub(super) fn has_unknown_revisions(&self) -> bool {
        self.unreadable.iter().any(|(path, _)| path.as_os_str().is_empty() || path.starts_with("snapshots"))
    }

    /// Unfinished downloads: the name in `blobs/`, and the etag that it is for.
    pub(super) fn partials(&self) -> impl Iterator<Item = (&OsString, &[u8])> {
        self.blobs.keys().filter_map(|name| match layout::blob_name(name) {
            BlobName::Partial(etag) => Some((name, etag)),
            _ => None,
        })
    }

    /// Those of them whose payload is not here in another way.
    pub(super) fn unfinished(&self) -> impl Iterator<Item = (&OsString, &[u8])> {
        self.partials()
            .filter(|(_, etag)| self.blobs.get(OsStr::from_bytes(etag)).is_none_or(|blob| blob.payload().is_none()))
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    thread_local! {
        /// Paths of entries that this thread compared with one that it looked for.
        pub(super) static COMPARED: Cell<usize> = const { Cell::new(0) };
    }

    #[test]
    fn a_file_is_found_among_very_many_without_looking_at_all_of_them() {
        for count in [FEW, 10_000] {
            let path = |at: usize| PathBuf::from(format!("{}/part-{at}.safetensors", at % 7));
            let entries = (0..count).map(|at| Entry { path: path(at), content: Content::Other }).collect();
            let mut revision = Revision { commit: OsString::from("c"), entries };
            revision.order();
            COMPARED.set(0);
            for at in 0..count {
                let path = path(at);
                assert_eq!(revision.entry(&path).map(|entry| &entry.path), Some(&path));
            }
            assert!(revision.entry(Path::new("0//part-0.safetensors")).is_some());
            assert!(revision.entry(Path::new("0/./part-0.safetensors")).is_some());
            assert!(revision.entry(Path::new("0")).is_none());
            assert!(COMPARED.get() <= (count + 3) * 15, "{}", COMPARED.get());
        }
    }
}
