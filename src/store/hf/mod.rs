//! The Hugging Face cache: classic, with the shared blob store (since 1.32), and without links.
//!
//! A row is a repository. Links are resolved one hop at a time; a link that leaves its repository counts nothing and only
//! it is ever removed. What cannot be read is unknown, not empty: nothing that it may use is deleted.

mod blobs;
mod details;
mod expected;
mod guard;
mod large;
mod layout;
mod links;
mod pinned;
mod plan;
mod read;
mod row;
mod scan;
mod sets;
mod sweep;
mod write;

use std::collections::HashSet;
use std::ffi::{CStr, OsStr, OsString};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use tokio_util::sync::CancellationToken;

use super::absent::{self, Suspect};
use super::beside::{Beside, Companion};
use super::fingerprint::Fingerprint;
use super::headers::Headers;
use super::loads::Projector;
use super::pieces;
use super::shards;
use super::surroundings::{Surroundings, Warnings};
use super::sweep::SweepContext;
use super::verify::Expected;
use super::weights::{Joined, Set, Weights};
use super::{Details, Figures, Part, Row, Store, StoreLink, Target};
use crate::disk::deletion::Guard;
use crate::disk::folder::Folder;
use crate::disk::safe;
use crate::error::{Error, Result};
use crate::model::{Digest, ModelKind, Plan, Quantization, Reference, StoreKind, StoreSummary, Sweep, text};
use links::Links;
pub use pinned::Pinned;
use read::Repository;
use sets::{Kinds, Named, WeightSet};
pub use write::{Found, MAX_DEPTH, RepositoryWriter};

/// A hub cache: the folder that holds `models--org--name`.
#[derive(Clone, Debug)]
pub struct HfStore {
    root: PathBuf,
    headers: Headers,
    links: Links,
}

/// Whether `folder` holds a repository of the hub form. llama.cpp's cache can hold that form, its own flat one, or both.
#[must_use]
pub fn is_hub(folder: &Path) -> bool {
    let mut found = false;
    let each = Folder::open(folder)
        .map(|open| open.each(|name, _| found |= layout::repository(crate::disk::folder::os_str(name)).is_some()));
    each.is_ok() && found
}

impl HfStore {
    /// The cache at `root`, which may not exist. A link to the root is followed, once.
    #[must_use]
    pub fn new(root: PathBuf) -> Self {
        let root = root.canonicalize().unwrap_or(root);
        Self { root, headers: Headers::default(), links: Links::default() }
    }

    /// Uses `headers` as its memory of headers.
    #[must_use]
    pub fn with_headers(self, headers: Headers) -> Self {
        Self { headers, ..self }
    }

    /// Remembers in a file of `folder` what scans find, so that the next one need not read every link again.
    #[must_use]
    pub fn remembering_in(self, folder: &Path) -> Self {
        let links = Links::remembered_in(folder.join(links::file_name(&self.root)));
        Self { links, ..self }
    }

    fn open(&self) -> Result<Option<Folder>> {
        match Folder::open(&self.root) {
            Ok(hub) => Ok(Some(hub)),
            Err(rustix::io::Errno::NOENT) => Ok(None),
            Err(error) => Err(Error::io("read", &self.root)(error.into())),
        }
    }

    fn repository(&self, id: &str) -> Result<(Folder, Repository)> {
        let missing =
            || Error::ModelNotFound { reference: text::printable(id), place: text::printable_path(&self.root) };
        let hub = self.open()?.ok_or_else(missing)?;
        let repository = Repository::read(&hub, &self.root, &layout::folder(id))
            .filter(|found| found.id == id)
            .ok_or_else(missing)?;
        Ok((hub, repository))
    }

    /// What the headers of a set and the files beside it tell.
    fn join(&self, set: &WeightSet<'_>, warnings: &mut Warnings) -> Joined {
        let mut joined = Joined::default();
        for file in &set.files {
            let name = || text::printable_path(file.path());
            let header = self.headers.get_named(&self.root, file.status, || file.location(), file.name());
            joined.add(&header, file.path(), &name, warnings);
            let unpromised = || {
                let location = file.location();
                let promised = location.file_name().and_then(OsStr::to_str).and_then(Digest::parse).is_some();
                if promised { None } else { safe::open_below(&self.root, &location).ok() }
            };
            joined.look_for_holes(&header, file.status, &name, &unpromised, warnings);
        }
        (0..set.foreign).for_each(|_| joined.add_unread(None, warnings));
        if let (Some(metadata), Some(first)) = (&mut joined.metadata, set.files.first()) {
            let find = |path: &Path| first.beside(path);
            let beside = Beside { root: &self.root, headers: &self.headers, find: &find };
            let folder = set.path.parent().unwrap_or(Path::new(""));
            beside.complete(metadata, folder, &mut |line| warnings.add(&line));
        }
        joined
    }

    /// The quantization that the headers of a set tell.
    fn shown(&self, set: &WeightSet<'_>) -> Option<Quantization> {
        self.join(set, &mut Warnings::default()).metadata?.quantization.clone()
    }

    /// Adds to `row` what the headers of its weights tell, of those that are `chosen`.
    fn add_headers(&self, repository: &Repository, chosen: &dyn Fn(&OsStr, &Path) -> bool, row: &mut Row) {
        let mut warnings = Warnings::default();
        let revisions = details::by_name(repository);
        let all = sets::of(repository, &revisions, chosen);
        let current = details::current(&revisions, &all);
        let mut weights = Weights::of(current.is_some_and(details::is_pipeline));
        let beside = |path: &Path| details::place(repository, current?, path);
        for path in current.iter().flat_map(|revision| details::indexes(revision)) {
            if let Some((location, status)) = beside(path).filter(|_| current.is_some_and(|r| chosen(&r.commit, path)))
            {
                let header = self.headers.beside(&self.root, &location, &status, Companion::Index);
                weights.add_index(path, &header, &mut warnings);
            }
        }
        for set in all {
            let joined = self.join(&set, &mut warnings);
            let set = Set {
                name: &|| text::printable_path(&set.name()),
                named: set.named.clone(),
                format: Some(set.format),
                missing: &set.missing,
                current: set.current,
            };
            weights.add(&set, joined, &mut warnings);
        }
        let paths: Vec<(usize, String)> = current
            .map_or(&[][..], |revision| &revision.entries)
            .iter()
            .enumerate()
            .filter(|(_, entry)| pieces::may_be(&entry.path) && current.is_some_and(|r| chosen(&r.commit, &entry.path)))
            .map(|(at, entry)| (at, text::escape(entry.path.as_os_str())))
            .collect();
        for pieces in pieces::of(paths.iter().map(|(at, path)| (*at, path.as_str()))) {
            let entry = |at: &usize| beside(&current?.entries.get(*at)?.path);
            let here: Vec<_> = pieces.places.iter().filter_map(entry).collect();
            let bytes = here.iter().map(|(_, status)| status.size_bytes).fold(0, u64::saturating_add);
            let first = pieces.places.first().and_then(entry).filter(|_| pieces.begins);
            let first = first.map(|(location, status)| {
                let name = shards::file_name(&pieces.whole).as_ref();
                (self.headers.get_named(&self.root, &status, || location, name), status.size_bytes)
            });
            weights.add_pieces(&pieces, first, bytes, true, &mut warnings);
        }
        let at = |path: &str| current?.entry(Path::new(&text::unescape(path)));
        let is_there = |path: &str| at(path).is_some();
        let absent = |index: &str, files: &[(&str, String)]| {
            let place = |path: &str| beside(Path::new(&text::unescape(path)));
            let suspects = files.iter().filter_map(|(name, path)| {
                let (location, status) = place(path)?;
                Some(Suspect { name, location, status })
            });
            let suspects: Vec<Suspect<'_>> = suspects.collect();
            match place(index).filter(|_| suspects.len() == files.len()) {
                Some((index, status)) => {
                    absent::find_remembered(&self.headers, &self.root, (&index, &status), &suspects)
                }
                None => Vec::new(),
            }
        };
        weights.compare_indexes(&is_there, &absent, &mut warnings);
        let (mut projector, alone) = (Projector::default(), weights.is_empty());
        for file in revisions.first().iter().flat_map(|revision| details::sidecars(repository, revision)) {
            let name = || text::printable_path(file.path());
            let header = self.headers.get_named(&self.root, file.status, || file.location(), file.name());
            let told = header.as_deref().ok().filter(|told| !told.partly_read);
            projector.look(&text::escape(file.path().as_os_str()), file.status.size_bytes, told);
            // Without weights it is what the repository has.
            if alone && file.is_chosen(chosen) {
                let mut joined = Joined::default();
                joined.add(&header, file.path(), &name, &mut warnings);
                weights.add(&Set::alone(&name), joined, &mut warnings);
            }
        }
        if !weights.is_empty() || row.model.format.is_some() {
            let (metadata, loads) = weights.tell(&mut row.model, projector);
            (row.metadata, row.loads) = (metadata, loads);
        }
        row.model.warnings.extend(warnings.finish());
    }
}

impl Store for HfStore {
    fn kind(&self) -> StoreKind {
        StoreKind::Hf
    }

    fn root(&self) -> &Path {
        &self.root
    }

    fn links(&self) -> Vec<StoreLink> {
        let Ok(Some(hub)) = self.open() else { return Vec::new() };
        let repositories = scan::outward(&hub, &self.root, &self.links, &HashSet::new()).unwrap_or_default();
        let links = repositories
            .iter()
            .flat_map(|repository| repository.paths().map(|path| StoreLink { id: repository.id.clone(), path }));
        links.collect()
    }

    fn plans_with_links(&self) -> bool {
        true
    }

    fn at_a_glance(&self, missed: &Arc<AtomicBool>) -> Option<Box<dyn Store>> {
        Some(Box::new(self.clone().with_headers(self.headers.at_a_glance(missed))))
    }

    fn scan(&self, sink: &mut dyn FnMut(Row), cancel: &CancellationToken) -> StoreSummary {
        let store = self.clone().with_headers(self.headers.until(cancel));
        let add = |repository: &Repository, row: &mut Row| store.add_headers(repository, &|_, _| true, row);
        let summary = scan::scan(&self.root, &self.links, &add, sink, cancel);
        self.headers.keep();
        if !cancel.is_cancelled() {
            self.links.keep();
        }
        summary
    }

    fn fingerprint(&self) -> Fingerprint {
        let mut fingerprint = Fingerprint::default();
        if let Some(hub) = fingerprint.top(&self.root) {
            let mut path = Vec::new();
            fingerprint.each_folder(&hub, |fingerprint, hub, name| {
                for part in [&b"/blobs\0"[..], b"/snapshots\0", b"/refs\0"] {
                    path.clear();
                    path.extend_from_slice(name.to_bytes());
                    path.extend_from_slice(part);
                    if let Ok(path) = CStr::from_bytes_with_nul(&path) {
                        fingerprint.entry(hub, path);
                    }
                }
            });
        }
        fingerprint
    }

    fn details(&self, id: &str) -> Result<Details> {
        self.details_of(&Target { id: id.to_owned(), part: Part::Whole })
    }

    fn details_of(&self, target: &Target) -> Result<Details> {
        let (hub, repository) = self.repository(&target.id)?;
        let chosen = self.chosen(&repository, &target.part)?;
        let mut entries = repository.revisions.iter().flat_map(|of| of.entries.iter().map(|entry| (&of.commit, entry)));
        if !entries.any(|(commit, entry)| chosen(commit, &entry.path))
            && let Some(error) = absent(&target.id, &target.part)
        {
            return Err(error);
        }
        let all = match repository.shares().then(|| scan::read_all(&hub, &self.root)) {
            Some(all) => all.map_err(|error| Error::io("read", &self.root)(error.into()))?,
            None => Vec::new(),
        };
        let users = scan::shared_users(all.iter());
        let certain = scan::has_shared_store(&hub) && !all.iter().any(Repository::has_unknown_blobs);
        let users_of = |hash: &OsStr| scan::users_of(&users, certain, hash);
        let mut row = row::row(&repository, &self.root, &chosen, &users_of);
        scan::surround(&mut row, &repository, &mut Surroundings::default());
        self.add_headers(&repository, &chosen, &mut row);
        Ok(Details {
            revisions: details::revisions(&repository, &users_of),
            shared: details::shared(&repository, &all),
            ..Details::new(row.model, details::files(&repository, &self.root, &self.headers, &chosen))
                .with_headers(row.metadata, row.loads)
        })
    }

    /// The cache is read once for all of them.
    fn figures(&self, id: &str, parts: &[Part]) -> Vec<Option<Figures>> {
        let none = || vec![None; parts.len()];
        let Ok((hub, repository)) = self.repository(id) else { return none() };
        let repositories = if repository.shares() {
            match scan::read_all(&hub, &self.root) {
                Ok(all) => all,
                Err(_) => return none(),
            }
        } else {
            vec![repository]
        };
        let Some(repository) = repositories.iter().find(|repository| repository.id == id) else { return none() };
        let figures = |part: &Part| {
            let target = Target { id: id.to_owned(), part: part.clone() };
            let files = self.expected_of(&hub, repository, &target).ok()?;
            let plan =
                plan::of(&self.root, &self.headers, &hub, &repositories, &[target], &|set| self.shown(set)).ok()?;
            Some(Figures::of(&self.root, &files, &plan))
        };
        parts.iter().map(figures).collect()
    }

    fn plan_deletion(&self, targets: &[Target]) -> Result<Plan> {
        plan::plan(&self.root, &self.headers, &self.links, targets, &|set| self.shown(set))
    }

    fn guard<'a>(&'a self, plan: &Plan) -> Option<Box<dyn Guard + 'a>> {
        Some(Box::new(guard::NewNames::of(&self.root, plan)))
    }

    fn sweep(&self, context: &SweepContext, cancel: &CancellationToken) -> Sweep {
        sweep::sweep(&self.root, context, cancel)
    }

    fn find(&self, reference: &Reference) -> Result<Option<Target>> {
        let Some(hub) = self.open()? else { return Ok(None) };
        let Some(repository) = Repository::read(&hub, &self.root, &layout::folder(reference.name())) else {
            return Ok(None);
        };
        if repository.id != reference.name() || repository.kind != ModelKind::Model {
            return Ok(None);
        }
        // Of what is fetched into a folder of its own the official client leaves a reference here, and nothing that it leads to.
        if repository.revisions.is_empty()
            && repository.blobs.keys().next().is_none()
            && repository.unreadable.is_empty()
        {
            return Ok(None);
        }
        if reference.revision().is_some() && reference.file().is_some() {
            return Err(Error::Unsupported {
                what: format!("a file of one revision of {}", text::printable(&repository.id)),
                instead: "name the file, the revision, or a quantization of the revision".to_owned(),
            });
        }
        let part = match (reference.quantization(), reference.revision(), reference.file()) {
            (_, _, Some(file)) => Part::Files(vec![file.as_str().to_owned()]),
            (Some(quantization), Some(revision), None) => {
                Part::QuantizationOf { quantization: quantization.to_owned(), revision: revision.to_owned() }
            }
            (Some(quantization), None, None) => Part::Quantization(quantization.to_owned()),
            (None, Some(revision), None) => Part::Revision(revision.to_owned()),
            (None, None, None) => Part::Whole,
        };
        // Another store may have what this one has not.
        if let Part::Quantization(wanted) = &part {
            let shown = |set: &WeightSet<'_>| self.shown(set);
            let kinds = Kinds::of(&repository, &self.root, &self.headers, &shown);
            if Named::of(&repository, wanted, &kinds).is_empty() {
                return Ok(None);
            }
        }
        Ok(Some(Target { id: repository.id, part }))
    }

    fn expected(&self, target: &Target) -> Result<Vec<Expected>> {
        let (hub, repository) = self.repository(&target.id)?;
        self.expected_of(&hub, &repository, target)
    }
}

impl HfStore {
    fn chosen<'a>(&'a self, repository: &'a Repository, part: &'a Part) -> Result<Chosen<'a>> {
        let revision = |wanted: &str| {
            repository.revision(wanted).ok_or_else(|| Error::FileNotFound {
                repository: repository.id.clone(),
                what: format!("revision '{}' here", text::printable(wanted)),
                available: Vec::new(),
            })
        };
        let shown = |set: &WeightSet<'_>| self.shown(set);
        let kinds = Kinds::of(repository, &self.root, &self.headers, &shown);
        let label = |wanted: &str| Named::of(repository, wanted, &kinds);
        Ok(match part {
            Part::Whole => Box::new(|_, _| true),
            Part::Quantization(wanted) => {
                let named = label(wanted);
                Box::new(move |of, path| named.has(of, path))
            }
            Part::Revision(wanted) => {
                let commit = &revision(wanted)?.commit;
                Box::new(move |of, _| of == commit)
            }
            Part::QuantizationOf { quantization, revision: wanted } => {
                let (commit, named) = (&revision(wanted)?.commit, label(quantization));
                Box::new(move |of, path| of == commit && named.has(of, path))
            }
            Part::Files(paths) => {
                let paths: HashSet<OsString> = paths.iter().map(|wanted| text::unescape(wanted)).collect();
                Box::new(move |_, path| paths.contains(path.as_os_str()))
            }
        })
    }

    fn expected_of(&self, hub: &Folder, repository: &Repository, target: &Target) -> Result<Vec<Expected>> {
        let chosen = self.chosen(repository, &target.part)?;
        let mut expected = expected::expected(hub, repository, &chosen);
        if target.part == Part::Whole {
            expected.extend(expected::unfinished(hub, repository));
            expected.extend(expected::unread(repository));
        }
        match expected.is_empty().then(|| absent(&target.id, &target.part)).flatten() {
            Some(error) => Err(error),
            None => Ok(expected),
        }
    }
}

/// That nothing is here of a part which is chosen by name.
fn absent(id: &str, part: &Part) -> Option<Error> {
    let what = match part {
        Part::Whole | Part::Revision(_) => return None,
        Part::Quantization(label) => format!("quantization {} here", text::printable(label)),
        Part::QuantizationOf { quantization, revision } => {
            format!("quantization {} in revision '{}' here", text::printable(quantization), text::printable(revision))
        }
        Part::Files(paths) => format!("file '{}' here", text::printable(&paths.join(", "))),
    };
    Some(Error::FileNotFound { repository: id.to_owned(), what, available: Vec::new() })
}

/// Whether a part has the file at a path of a revision.
type Chosen<'a> = Box<dyn Fn(&OsStr, &Path) -> bool + 'a>;
