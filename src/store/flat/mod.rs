//! The flat store: one folder a model under a base folder.
//!
//! A row is a folder directly under the base folder, a weights file (or set of shards) that lies directly in the base folder, or a
//! link there. Dot-folders of the base folder are no rows; they count in the store's bytes, as does any other file there.
//!
//! A folder under the base folder that only groups models (`hf download org/name --local-dir BASE/org/name`) is no row: what lies in
//! it is, with the ids `org/name`. There are two levels and not more. A folder only groups models when
//!
//! - no file lies directly in it but hidden ones, a readme, a licence and the like; no link that is named like a model's file; no
//!   record of this program and no metadata of a download (`.cache/huggingface`);
//! - it holds folders with weights, at any depth, or with a record or metadata of a download, and each of them is a model of its own:
//!   it has that metadata or record, or its own `config.json`, or a name that ends in `-GGUF`, `_GGUF`, `-MLX` or `-MLX-4bit`;
//! - none of them is named like a quantization or a part of a model (`Q4_K_M`, `BF16`, `pytorch`, `onnx`, `unet`, `text_encoder_2`,
//!   `checkpoint-500`, `snapshots`), nor is a folder that cannot be read;
//! - if there is only one such folder, it has a `config.json`, that ending, or a record of a repository of its name: the metadata
//!   of a download alone names none.
//!
//! Then every visible folder in it is a row, also one without weights and one that cannot be read, and so is every link. Everything
//! else is one row with all that lies in it. The id of a group names no row: it means none of its models, and never all of them.

pub(in crate::store) mod deletion;
pub(in crate::store) mod folder;
mod group;
mod part_names;
mod promises;
pub mod record;
mod resolve;
mod row;
mod rows;
mod scan;
pub mod sidecar;
pub mod staging;
mod sweep;
pub mod tree;
mod weights;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use tokio_util::sync::CancellationToken;

pub use record::{Record, RecordedFile};
pub use row::ORIGIN_UNKNOWN;

/// Most folders that lie inside each other, the model's own included, of a file that is read and deleted.
pub const MAX_DEPTH: usize = super::tree::MAX_DEPTH;

use self::folder::ModelFolder;
use self::group::Group;
use self::promises::Known;
use self::rows::{Base, Content, Found};
use super::fingerprint::Fingerprint;
use super::headers::Headers;
use super::planning::lexical;
use super::surroundings::Surroundings;
use super::sweep::SweepContext;
use super::verify::{Expected, Promise, Source, most_named};
use super::{Details, Part, Row, Store, StoreLink, Target};
use crate::error::{Error, Result};
use crate::model::selector::{Choice, arguments};
use crate::model::{ModelFile, Plan, Reference, StoreKind, StoreSummary, Sweep, text};

/// Most rows of a group that are named where one has to be chosen.
const MAX_CHOICES: usize = 40;

/// A catalog entry as far as this store needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alias {
    /// The short name.
    pub alias: String,
    /// `org/name`.
    pub repository: String,
    /// Its file, by the path in the repository (which is the path in the folder).
    pub file: String,
    /// The folder that new downloads go to.
    pub folder: String,
    /// Folders in which earlier tools kept the file.
    pub former_folders: Vec<String>,
}

/// What a reference means here now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// The folder, absolute. The base folder itself for a weights file that lies directly in it.
    pub folder: PathBuf,
    /// Id of the row.
    pub id: String,
    /// Which part of the row is meant.
    pub part: Part,
    /// The folder's record, if it has one.
    pub record: Option<Record>,
}

/// A base folder with one folder a model. Clones share the headers that were read.
#[derive(Clone, Debug)]
pub struct FlatStore {
    root: PathBuf,
    aliases: Vec<Alias>,
    headers: Headers,
}

impl FlatStore {
    /// The store under `root`, which need not exist. Links on the way to `root` are resolved once, here.
    #[must_use]
    #[allow(clippy::needless_pass_by_value, reason = "every store is made from an owned root")]
    pub fn new(root: PathBuf, aliases: Vec<Alias>) -> Self {
        Self { root: resolved_root(&root), aliases, headers: Headers::default() }
    }

    /// Uses `headers` as its memory of headers.
    #[must_use]
    pub fn with_headers(self, headers: Headers) -> Self {
        Self { headers, ..self }
    }

    /// The files that are meant, weights first, then by path; every depth, dot-folders skipped.
    ///
    /// # Errors
    /// [`Error::ModelNotFound`] when the row is gone; [`Error::Io`] when the folder cannot be read.
    pub fn files(&self, resolved: &Resolved) -> Result<Vec<ModelFile>> {
        let base = self.base(&resolved.id)?;
        match self.found(&base, &resolved.id)? {
            Found::Model(folder) => {
                let part = self.part(&folder, &resolved.id, &resolved.part)?;
                Ok(self.model_files(&folder, |index| part.contains(&index)))
            }
            Found::Link(_) => Ok(Vec::new()),
            Found::Closed(entry, reason) => Err(self.closed(&entry.path, reason)),
        }
    }

    /// What [`super::verify::run`] is to check of a row or a part of it, missing files included.
    ///
    /// # Errors
    /// [`Error::ModelNotFound`] when there is no such row; [`Error::Io`] when its folder cannot be read.
    pub fn expected(&self, target: &Target) -> Result<Vec<Expected>> {
        self.expected_below(&self.base(&target.id)?, target)
    }

    fn expected_below(&self, base: &Base, target: &Target) -> Result<Vec<Expected>> {
        let folder = match self.found(base, &target.id)? {
            Found::Model(folder) => folder,
            Found::Link(entry) => {
                return Ok(vec![Expected {
                    path: text::escape(entry.path.as_os_str()),
                    location: entry.path,
                    ..Expected::default()
                }]);
            }
            Found::Closed(entry, reason) => return Err(self.closed(&entry.path, reason)),
        };
        let part = self.part(&folder, &target.id, &target.part)?;
        let mut expected: Vec<Expected> = Vec::new();
        let mut known = Known::default();
        for (index, entry, _) in folder.content().filter(|(index, ..)| part.contains(index)) {
            // A link to another file of the store is a second name for it; one that leads out is told as unreadable.
            if entry.link.as_deref().is_some_and(|target| self.leads_inside(&folder, index, target)) {
                continue;
            }
            expected.push(self.promised(&folder, entry, &mut known));
        }
        let here: BTreeSet<PathBuf> = expected.iter().map(|file| file.location.clone()).collect();
        let mut missing: BTreeSet<PathBuf> = BTreeSet::new();
        for set in folder.sets.iter().filter(|set| folder::all_of(set).any(|index| part.contains(&index))) {
            // Of a whole row the index says it.
            if target.part != Part::Whole || !folder.has_index(set) {
                missing.extend(folder.missing_of(set).take(most_named(missing.len())));
            }
            missing.extend(set.staging.iter().filter_map(|&index| folder.staging_target(index)).map(Path::to_owned));
        }
        if target.part == Part::Whole {
            let recorded = folder.record.get().map_or(&[][..], |record| &record.files);
            let paths = recorded.iter().map(|file| PathBuf::from(file.path.as_str()));
            missing.extend(paths.filter(|path| folder.is_live(path)));
            expected.extend(folder.unread());
        }
        for path in missing.into_iter().filter(|path| !here.contains(&folder.below.join(path))) {
            let recorded = path.to_str().and_then(|path| folder.record.get()?.file(path));
            let (size, digest) = recorded.map_or((None, None), |file| (Some(file.size), file.digest));
            let commit = recorded.and_then(|file| Some(folder.record.get()?.commit_of(file).to_owned()));
            expected.push(Expected { commit, ..self.expect(&folder, &path, size, digest) });
        }
        Ok(expected)
    }

    fn expect(
        &self,
        folder: &ModelFolder,
        path: &Path,
        size: Option<u64>,
        digest: Option<crate::model::Digest>,
    ) -> Expected {
        let path_text = text::escape(path.as_os_str());
        let expected = Expected { path: path_text, location: folder.below.join(path), size, ..Expected::default() };
        expected.promised(digest.map(|digest| Promise { source: Source::Record, digest }))
    }

    fn leads_inside(&self, folder: &ModelFolder, index: usize, target: &Path) -> bool {
        let at = self.root.join(folder.location(&folder.tree.entries[index]));
        let end = lexical(&at.parent().unwrap_or(&self.root).join(target));
        end.starts_with(&self.root) && end.symlink_metadata().is_ok_and(|metadata| metadata.is_file())
    }

    fn not_found(&self, id: &str) -> Error {
        Error::ModelNotFound { reference: text::printable(id), place: text::printable_path(&self.root) }
    }

    fn closed(&self, path: &Path, reason: String) -> Error {
        Error::Io { operation: "read", path: self.root.join(path), source: std::io::Error::other(reason) }
    }

    fn base(&self, id: &str) -> Result<Base> {
        Base::open(&self.root)?.ok_or_else(|| self.not_found(id))
    }

    fn found(&self, base: &Base, id: &str) -> Result<Found> {
        match base.place(&text::unescape(id)).and_then(|place| base.read(&place)) {
            Some(Content::Row(found)) => Ok(found),
            Some(Content::Group(group)) => Err(self.several(id, &group)),
            None => Err(self.not_found(id)),
        }
    }

    /// Says which rows a group has.
    fn several(&self, id: &str, group: &Group) -> Error {
        let name = |found: &Found| arguments(&self.identity(&found.id()), &Choice::Whole, false);
        let mut choices: Vec<String> = group.rows.iter().take(MAX_CHOICES).map(name).collect();
        let more = group.rows.len() - choices.len();
        if more > 0 {
            choices.push(format!("and {more} more in that folder"));
        }
        Error::Ambiguous { reference: text::printable(id), choices }
    }

    /// The entries that `part` means.
    fn part(&self, folder: &ModelFolder, id: &str, part: &Part) -> Result<BTreeSet<usize>> {
        folder.part(part, &self.root, &self.headers).ok_or_else(|| self.not_found(&format!("{id}{part}")))
    }
}

/// `root` without links, as far as it exists.
pub(in crate::store) fn resolved_root(root: &Path) -> PathBuf {
    let absolute = std::path::absolute(root).unwrap_or_else(|_| root.to_owned());
    let mut existing = absolute.as_path();
    let mut rest: Vec<&std::ffi::OsStr> = Vec::new();
    loop {
        if let Ok(resolved) = existing.canonicalize() {
            return rest.iter().rev().fold(resolved, |path, part| path.join(part));
        }
        match (existing.parent(), existing.file_name()) {
            (Some(parent), Some(name)) => {
                rest.push(name);
                existing = parent;
            }
            _ => return absolute,
        }
    }
}

impl Store for FlatStore {
    fn links(&self) -> Vec<StoreLink> {
        let Ok(Some(base)) = Base::open(&self.root) else { return Vec::new() };
        let mut links = Vec::new();
        for found in base.rows() {
            match &found {
                Found::Model(folder) => {
                    let entries = folder.tree.entries.iter().filter(|entry| entry.link.is_some());
                    links.extend(
                        entries.map(|entry| StoreLink { id: found.id(), path: self.root.join(folder.location(entry)) }),
                    );
                }
                Found::Link(entry) => links.push(StoreLink { id: found.id(), path: self.root.join(&entry.path) }),
                Found::Closed(..) => {}
            }
        }
        links
    }

    fn kind(&self) -> StoreKind {
        StoreKind::Flat
    }

    fn root(&self) -> &Path {
        &self.root
    }

    fn at_a_glance(&self, missed: &Arc<AtomicBool>) -> Option<Box<dyn Store>> {
        Some(Box::new(self.clone().with_headers(self.headers.at_a_glance(missed))))
    }

    fn scan(&self, sink: &mut dyn FnMut(Row), cancel: &CancellationToken) -> StoreSummary {
        self.clone().with_headers(self.headers.until(cancel)).scan_rows(sink, cancel)
    }

    fn fingerprint(&self) -> Fingerprint {
        // Models in groups come and go one level below those that lie in no group.
        Fingerprint::of(&self.root, 2)
    }

    fn details(&self, id: &str) -> Result<Details> {
        self.details_of(&Target { id: id.to_owned(), part: Part::Whole })
    }

    fn details_of(&self, target: &Target) -> Result<Details> {
        let base = self.base(&target.id)?;
        let found = self.found(&base, &target.id)?;
        let mut around = Surroundings::default();
        let folder = match &found {
            Found::Model(folder) => folder,
            _ if target.part == Part::Whole => {
                return Ok(Details::new(self.row(&found, &mut around).model, Vec::new()));
            }
            _ => return Err(self.not_found(&target.id)),
        };
        let part = match &target.part {
            Part::Whole => None,
            part => Some(self.part(folder, &target.id, part)?),
        };
        let row = self.model_row(folder, &mut around, part.as_ref());
        let files = self.model_files(folder, |index| part.as_ref().is_none_or(|part| part.contains(&index)));
        Ok(Details::new(row.model, files).with_headers(row.metadata, row.loads))
    }

    fn plan_deletion(&self, targets: &[Target]) -> Result<Plan> {
        self.plan(targets)
    }

    fn sweep(&self, context: &SweepContext, cancel: &CancellationToken) -> Sweep {
        self.find_dead(context, cancel)
    }

    fn find(&self, reference: &Reference) -> Result<Option<Target>> {
        Ok(self.resolve(reference)?.map(|resolved| Target { id: resolved.id, part: resolved.part }))
    }

    fn expected(&self, target: &Target) -> Result<Vec<Expected>> {
        Self::expected(self, target)
    }

    fn expected_of_each(&self, targets: &[Target]) -> Vec<Result<Vec<Expected>>> {
        match Base::open(&self.root) {
            Ok(Some(base)) => targets.iter().map(|target| self.expected_below(&base, target)).collect(),
            _ => targets.iter().map(|target| self.expected(target)).collect(),
        }
    }
}
