//! Stores of plain files that keep no records of their own: what LM Studio and llama.cpp have in common.
//!
//! A [`Layout`] says which files make up which row; figures, references, verification and plans are the same for all.

mod plan;
mod row;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fmt;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use rustix::io::Errno;
use tokio_util::sync::CancellationToken;

use super::checksum_files::ChecksumFiles;
use super::fingerprint::Fingerprint;
use super::flat::folder::{Class, ModelFolder, RecordState, all_of};
use super::flat::resolved_root;
use super::headers::Headers;
use super::planning::{Folders, lexical};
use super::surroundings::Surroundings;
use super::sweep::{SweepContext, Sweeper};
use super::tree::{Entry, Tree};
use super::verify::{Expected, Promise, Source, most_named};
use super::{Details, Part, Row, Store, StoreLink, Target};
use crate::disk::folder::{Folder, Status};
use crate::disk::usage::Usage;
use crate::error::{Error, Result};
use crate::model::{Digest, ModelId, Plan, Reference, StoreKind, StoreSummary, Sweep, text};

/// How a program lays out its models.
pub trait Layout: fmt::Debug + Send + Sync + 'static {
    /// The kind of store.
    const KIND: StoreKind;
    /// How many levels of folders its rows are made of.
    const DEPTH: usize;

    /// Sorts what lies below the open folder at the root into rows. With `only`, an id as a path, no more than that row needs to be
    /// read.
    #[doc(hidden)]
    fn read(folder: &Folder, only: Option<&Path>) -> std::result::Result<Listing, Errno>;

    /// Offers what nothing below the open folder at the root can use any more.
    #[doc(hidden)]
    fn sweep(folder: &Folder, sweeper: &mut Sweeper<'_>) -> std::result::Result<(), Errno>;
}

/// A store of plain files. Clones share the headers that were read.
pub struct FileStore<L> {
    root: PathBuf,
    headers: Headers,
    layout: PhantomData<L>,
}

impl<L> fmt::Debug for FileStore<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileStore").field("root", &self.root).finish_non_exhaustive()
    }
}

impl<L> Clone for FileStore<L> {
    fn clone(&self) -> Self {
        Self { root: self.root.clone(), headers: self.headers.clone(), layout: PhantomData }
    }
}

/// Everything below one root.
#[derive(Debug, Default)]
pub struct Listing {
    /// The rows.
    pub(super) rows: Vec<Found>,
    /// Regular files of no row.
    pub(super) others: Vec<Status>,
    /// The folders that may become empty.
    pub(super) folders: Folders,
    /// What is wrong with the store as a whole, a line each.
    pub(super) warnings: Vec<String>,
}

/// A row as it was found.
#[derive(Debug)]
pub(super) struct Found {
    /// Escaped.
    pub(super) id: String,
    pub(super) what: What,
}

/// What a row is.
#[derive(Debug)]
pub(super) enum What {
    /// Files, in a folder of their own or not.
    Unit(Box<Unit>),
    /// A link in the place of a folder.
    Link(Entry),
    /// A folder that cannot be opened, and why.
    Closed(Entry, String),
}

/// Files that make up a row.
#[derive(Debug)]
pub(super) struct Unit {
    pub(super) folder: ModelFolder,
    /// The folder itself as an entry of the root; none for files that lie among those of others.
    pub(super) top: Option<Entry>,
    /// Repository that it came from, as far as anything tells.
    pub(super) reference: Option<String>,
    /// Recorded length and digest, by path relative to the root.
    pub(super) known: BTreeMap<PathBuf, (Option<u64>, Option<Digest>)>,
    /// What other manifests promise instead.
    pub(super) others: BTreeMap<PathBuf, Vec<Digest>>,
    /// Ids of the other rows that use an entry too, by path relative to the root.
    pub(super) shared: BTreeMap<PathBuf, Vec<String>>,
    /// What a person should know, a line each.
    pub(super) notes: Vec<String>,
}

impl Unit {
    /// A row of files that lie among those of others, their paths relative to the root; `None` without any.
    pub(super) fn loose(mut entries: Vec<Entry>, class: impl Fn(&Entry) -> Class, notes: Vec<String>) -> Option<Self> {
        entries.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        let classes = entries.iter().map(class).collect();
        let first = entries.first()?;
        let (id, top, parent) = (first.name().to_owned(), first.status, first.parent);
        let tree = Tree { top, entries, unread: Vec::new() };
        let folder = ModelFolder::classified(id, PathBuf::new(), parent, tree, classes, RecordState::Missing);
        let (known, others, shared) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Some(Self { folder, top: None, reference: None, known, others, shared, notes })
    }

    /// Where an entry lies, relative to the root.
    fn location(&self, index: usize) -> PathBuf {
        self.folder.location(&self.folder.tree.entries[index])
    }

    /// Files that lie among those of others: they are read from the root.
    pub(super) fn is_loose(&self) -> bool {
        self.top.is_none()
    }
}

impl<L: Layout> FileStore<L> {
    /// The store at `root`, which need not exist. Links on the way to `root` are resolved once, here.
    #[must_use]
    pub fn new(root: &Path) -> Self {
        Self { root: resolved_root(root), headers: Headers::default(), layout: PhantomData }
    }

    /// Uses `headers` as its memory of headers.
    #[must_use]
    pub fn with_headers(self, headers: Headers) -> Self {
        Self { headers, ..self }
    }

    fn identity(&self, id: &str) -> ModelId {
        ModelId { store: L::KIND, store_path: self.root.clone(), id: id.to_owned() }
    }

    fn not_found(&self, id: &str) -> Error {
        Error::ModelNotFound { reference: text::printable(id), place: text::printable_path(&self.root) }
    }

    /// `None` when there is no store.
    fn read(&self, only: Option<&str>) -> Result<Option<Listing>> {
        let only = only.map(|id| PathBuf::from(text::unescape(id)));
        match Folder::open(&self.root).and_then(|folder| L::read(&folder, only.as_deref())) {
            Ok(listing) => Ok(Some(listing)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(Error::io("read", &self.root)(error.into())),
        }
    }

    /// What is there with the row of that id.
    fn listing(&self, id: &str) -> Result<Listing> {
        self.read(Some(id))?.ok_or_else(|| self.not_found(id))
    }

    fn found<'a>(&self, listing: &'a Listing, id: &str) -> Result<&'a Found> {
        listing.rows.iter().find(|found| found.id == id).ok_or_else(|| self.not_found(id))
    }

    /// The entries that `part` means.
    fn part(&self, id: &str, unit: &Unit, part: &Part) -> Result<BTreeSet<usize>> {
        unit.folder.part(part, &self.root, &self.headers).ok_or_else(|| self.not_found(&format!("{id}{part}")))
    }

    fn expect(&self, unit: &Unit, path: &Path, checksums: &mut ChecksumFiles) -> Expected {
        let location = unit.folder.below.join(path);
        let (size, digest) = unit.known.get(&location).copied().unwrap_or_default();
        let others = unit.others.get(&location).into_iter().flatten().copied();
        let promises = digest.into_iter().chain(others).map(|digest| Promise { source: Source::Manifest, digest });
        let mut promises: Vec<Promise> = promises.collect();
        promises.extend(checksums.promise(&self.root, &unit.folder.below, &location));
        Expected { path: text::escape(path.as_os_str()), location, size, ..Expected::default() }.promised(promises)
    }

    /// Whether a link is a second name of a file that is here.
    fn leads_inside(&self, unit: &Unit, entry: &Entry) -> bool {
        let Some(target) = &entry.link else { return false };
        let at = self.root.join(unit.folder.location(entry));
        let end = lexical(&at.parent().unwrap_or(&self.root).join(target));
        end.starts_with(&self.root) && end.symlink_metadata().is_ok_and(|metadata| metadata.is_file())
    }
}

impl<L: Layout> Store for FileStore<L> {
    fn kind(&self) -> StoreKind {
        L::KIND
    }

    fn root(&self) -> &Path {
        &self.root
    }

    fn links(&self) -> Vec<StoreLink> {
        let Ok(Some(listing)) = self.read(None) else { return Vec::new() };
        let mut links = Vec::new();
        for found in &listing.rows {
            let mut add = |location: &Path| {
                links.push(StoreLink { id: found.id.clone(), path: self.root.join(location) });
            };
            match &found.what {
                What::Unit(unit) => {
                    let entries = unit.folder.tree.entries.iter().enumerate();
                    entries.filter(|(_, entry)| entry.link.is_some()).for_each(|(at, _)| add(&unit.location(at)));
                }
                What::Link(entry) => add(&entry.path),
                What::Closed(..) => {}
            }
        }
        links
    }

    fn at_a_glance(&self, missed: &Arc<AtomicBool>) -> Option<Box<dyn Store>> {
        Some(Box::new(self.clone().with_headers(self.headers.at_a_glance(missed))))
    }

    fn scan(&self, sink: &mut dyn FnMut(Row), cancel: &CancellationToken) -> StoreSummary {
        let mut summary =
            StoreSummary { store: L::KIND, path: self.root.clone(), disk_bytes: 0, models: 0, warnings: Vec::new() };
        let listing = match self.read(None) {
            Ok(Some(listing)) => listing,
            Ok(None) => return summary,
            Err(error) => {
                summary.warnings.push(error.to_string());
                return summary;
            }
        };
        let store = self.clone().with_headers(self.headers.until(cancel));
        let mut around = Surroundings::default();
        let mut usage = Usage::default();
        for found in &listing.rows {
            if cancel.is_cancelled() {
                return summary;
            }
            let row = store.row(found, &mut around);
            usage.merge(&row.usage);
            summary.models += 1;
            sink(row);
        }
        self.headers.keep();
        listing.others.iter().for_each(|status| usage.add_info(status));
        summary.disk_bytes = usage.disk_bytes();
        summary.warnings = listing.warnings;
        summary
    }

    fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.root, L::DEPTH)
    }

    fn details(&self, id: &str) -> Result<Details> {
        self.details_of(&Target { id: id.to_owned(), part: Part::Whole })
    }

    fn details_of(&self, target: &Target) -> Result<Details> {
        let listing = self.listing(&target.id)?;
        let found = self.found(&listing, &target.id)?;
        let mut around = Surroundings::default();
        let unit = match &found.what {
            What::Unit(unit) => unit,
            _ if target.part == Part::Whole => return Ok(Details::new(self.row(found, &mut around).model, Vec::new())),
            _ => return Err(self.not_found(&target.id)),
        };
        let part = match &target.part {
            Part::Whole => None,
            part => Some(self.part(&target.id, unit, part)?),
        };
        let row = self.unit_row(&target.id, unit, &mut around, part.as_ref());
        let files = self.files(unit, part.as_ref());
        let shared = self.shared(unit);
        Ok(Details { shared, ..Details::new(row.model, files).with_headers(row.metadata, row.loads) })
    }

    fn plan_deletion(&self, targets: &[Target]) -> Result<Plan> {
        self.plan(targets)
    }

    fn sweep(&self, context: &SweepContext, _cancel: &CancellationToken) -> Sweep {
        let mut sweeper = Sweeper::new(L::KIND, &self.root, context);
        match Folder::open(&self.root).and_then(|folder| L::sweep(&folder, &mut sweeper)) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => {
                let root = text::printable_path(&self.root);
                sweeper.warn(format!("cannot read {root}: {}", super::tree::reason(error)));
            }
        }
        sweeper.finish()
    }

    fn find(&self, reference: &Reference) -> Result<Option<Target>> {
        if reference.revision().is_some() {
            return Ok(None);
        }
        let id = reference.name();
        let Some(listing) = self.read(Some(id))? else { return Ok(None) };
        let Ok(found) = self.found(&listing, id) else { return Ok(None) };
        let part = match (reference.file(), reference.quantization()) {
            (Some(file), _) => Part::Files(vec![file.as_str().to_owned()]),
            (None, Some(label)) => Part::Quantization(label.to_owned()),
            (None, None) => Part::Whole,
        };
        let is_here = match &found.what {
            What::Unit(unit) => self.part(id, unit, &part).is_ok(),
            _ => part == Part::Whole,
        };
        Ok(is_here.then(|| Target { id: id.to_owned(), part }))
    }

    fn expected(&self, target: &Target) -> Result<Vec<Expected>> {
        let listing = self.listing(&target.id)?;
        let found = self.found(&listing, &target.id)?;
        let unit = match &found.what {
            What::Unit(unit) => unit,
            What::Link(entry) => {
                let path = text::escape(entry.path.as_os_str());
                return Ok(vec![Expected { path, location: entry.path.clone(), ..Expected::default() }]);
            }
            What::Closed(entry, why) => {
                let source = std::io::Error::other(why.clone());
                return Err(Error::Io { operation: "read", path: self.root.join(&entry.path), source });
            }
        };
        let part = self.part(&target.id, unit, &target.part)?;
        let content = unit.folder.content().filter(|(index, ..)| part.contains(index));
        let mut checksums = ChecksumFiles::default();
        let mut expected: Vec<Expected> = content
            // One that leads out is told as unreadable.
            .filter(|(_, entry, _)| !self.leads_inside(unit, entry))
            .map(|(_, entry, _)| self.expect(unit, &entry.path, &mut checksums))
            .collect();
        let here: BTreeSet<PathBuf> = expected.iter().map(|file| file.location.clone()).collect();
        let mut missing: BTreeSet<PathBuf> = BTreeSet::new();
        for set in unit.folder.sets.iter().filter(|set| all_of(set).any(|index| part.contains(&index))) {
            // Of a whole row the index says it.
            if target.part != Part::Whole || !unit.folder.has_index(set) {
                missing.extend(unit.folder.missing_of(set).take(most_named(missing.len())));
            }
            missing.extend(set.staging.iter().filter_map(|&at| unit.folder.staging_target(at)).map(Path::to_owned));
        }
        missing.retain(|path| !here.contains(&unit.folder.below.join(path)));
        expected.extend(missing.iter().map(|path| self.expect(unit, path, &mut checksums)));
        if target.part == Part::Whole {
            expected.extend(unit.folder.unread());
        }
        Ok(expected)
    }
}

/// Whether a folder's entry is none of the models': the name starts with a dot.
pub(super) fn is_hidden(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b".")
}
