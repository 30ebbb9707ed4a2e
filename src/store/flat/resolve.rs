//! What a reference means in this store, and where its download goes.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use super::folder::{Class, ModelFolder, RecordState};
use super::group;
use super::rows::{Base, Content, Found, Place, is_hidden, split};
use super::{Alias, FlatStore, Record, Resolved};
use crate::disk::safe;
use crate::error::{Error, Result};
use crate::model::{Reference, RepoPath, text};
use crate::store::Part;

/// Most of a journal that is read to see which repository it belongs to.
const MAX_JOURNAL: u64 = 64 << 10;

/// To which repository a folder belongs.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Owner {
    /// Neither a record nor a journal names one.
    Nobody,
    /// This one.
    Repository(String),
    /// There is a record that cannot be understood.
    Unknown,
}

impl Owner {
    /// Whether the folder belongs to another repository than `repository`, or may.
    fn is_other_than(&self, repository: &str) -> bool {
        match self {
            Self::Nobody => false,
            Self::Repository(owner) => !owner.eq_ignore_ascii_case(repository),
            Self::Unknown => true,
        }
    }
}

impl FlatStore {
    /// What `reference` means here now; `None` when that is not here.
    ///
    /// The first of these that is here: a folder named exactly as typed (where that has a `:` or `@`); the alias's folder, or
    /// a former one that has the alias's file; the folder, or the weights file directly in the base folder, of exactly that
    /// name; for `org/name` the row of exactly that id in a group, unless the record of another one has that name, too; the folder whose
    /// record names the repository (of an alias: if it has the alias's file); the catalog's folder for it; the row in a group of that
    /// id in another case; the last part of the name in lower case, then `org--name`. A folder that belongs to another repository never answers to `org/name`.
    ///
    /// # Errors
    /// [`Error::Ambiguous`] when several folders are equally meant, [`Error::Io`] when the base folder cannot be read.
    pub fn resolve(&self, reference: &Reference) -> Result<Option<Resolved>> {
        let Some(base) = Base::open(&self.root)? else { return Ok(None) };
        if reference.text() != reference.name() && reference.text().contains([':', '@']) {
            let typed = OsStr::new(reference.text());
            if let Some(found) = base.place(typed).and_then(|place| self.whole(&base, &place)) {
                return Ok(Some(found));
            }
        }
        match reference.repository() {
            Some(repository) => self.by_repository(&base, reference, repository),
            None => Ok(self
                .by_alias(&base, reference, reference.name())
                .or_else(|| self.by_folder(&base, reference, reference.name()))
                .or_else(|| {
                    let lower = reference.name().to_lowercase();
                    self.by_alias(&base, reference, &lower).or_else(|| self.by_folder(&base, reference, &lower))
                })
                .or_else(|| self.by_record_of_alias(&base, reference, reference.name()))),
        }
    }

    /// The folder that a download of `repository` by `reference` goes to: where the reference's files are already, else the
    /// alias's folder, else the last part of the repository's name in lower case, else `org--name`. Never one that belongs to
    /// another repository, by its record or by the journal of a download that has no record yet. It may not exist.
    ///
    /// # Errors
    /// [`Error::Io`] when the base folder cannot be read; [`Error::UnsafePath`] when every candidate is taken or the repository's
    /// name makes no folder name.
    pub fn target_folder(&self, reference: &Reference, repository: &str) -> Result<PathBuf> {
        let base = Base::open(&self.root)?;
        // A quantization that is not here yet joins the others of its repository.
        for reference in [reference, &reference.of_repository()] {
            match self.resolve(reference) {
                Ok(Some(found)) => {
                    let folder = base.as_ref().and_then(|base| base.model(&found.id));
                    if folder.is_some_and(|folder| !self.owner(&folder).is_other_than(repository)) {
                        return Ok(found.folder);
                    }
                }
                // One that has it by its record is gone on with rather than begun anew.
                Err(Error::Ambiguous { .. }) => {
                    let whole = reference.of_repository();
                    let known = base.as_ref().and_then(|base| self.having(&whole, recorded(base, repository)).next());
                    if let Some(found) = known {
                        return Ok(found.folder);
                    }
                }
                Ok(None) => {}
                Err(error) => return Err(error),
            }
        }
        let alias = self
            .aliases
            .iter()
            .find(|alias| alias.alias == reference.name() && alias.repository.eq_ignore_ascii_case(repository));
        let candidates = alias.map(|alias| alias.folder.clone()).into_iter().chain(default_names(repository));
        for name in candidates {
            let parsed = RepoPath::parse(&name)?;
            if parsed.parts().count() != 1 || is_hidden(OsStr::new(&name)) {
                return Err(Error::UnsafePath {
                    path: text::printable(&name),
                    reason: "it cannot be the name of a model's folder".to_owned(),
                });
            }
            let free = match base.as_ref().and_then(|base| base.place(OsStr::new(&name)).map(|place| (base, place))) {
                None => base.as_ref().is_none_or(|base| base.entry(OsStr::new(&name)).is_none()),
                Some((base, place)) => match base.read(&place) {
                    Some(Content::Row(Found::Model(folder))) => {
                        !folder.is_loose() && !self.owner(&folder).is_other_than(repository)
                    }
                    Some(_) => false,
                    None => true,
                },
            };
            if free {
                return Ok(self.root.join(name));
            }
        }
        Err(Error::UnsafePath {
            path: text::printable_path(&self.root),
            reason: format!(
                "every folder for {} ({}) belongs to something else; move one away",
                text::printable(repository),
                default_names(repository).map(|name| text::printable(&name)).collect::<Vec<_>>().join(", ")
            ),
        })
    }

    /// The aliases whose own file, or a part of it, is in `folder`.
    pub(super) fn aliases_in<'a>(&'a self, folder: &ModelFolder) -> Vec<&'a Alias> {
        let keeps = |alias: &&Alias| {
            let id = folder.id.as_os_str();
            !folder.is_loose()
                && (id == alias.folder.as_str() || alias.former_folders.iter().any(|former| id == former.as_str()))
        };
        self.aliases.iter().filter(keeps).filter(|alias| folder.has(Path::new(&alias.file))).collect()
    }

    fn owner(&self, folder: &ModelFolder) -> Owner {
        match &folder.record {
            RecordState::Read(record) => return Owner::Repository(record.repository.clone()),
            RecordState::Unreadable(_) => return Owner::Unknown,
            RecordState::Missing => {}
        }
        let journals = folder.tree.entries.iter().zip(&folder.classes).filter_map(|(entry, class)| match class {
            Class::Staging { journal: true, .. } => Some(folder.location(entry)),
            _ => None,
        });
        journals
            .filter_map(|location| self.repository_of_journal(&location))
            .map(Owner::Repository)
            .next()
            .unwrap_or(Owner::Nobody)
    }

    /// The repository that a journal names; `None` when it cannot be read, which says nothing.
    fn repository_of_journal(&self, location: &Path) -> Option<String> {
        use std::io::Read;
        let mut bytes = Vec::new();
        safe::open_below(&self.root, location).ok()?.take(MAX_JOURNAL).read_to_end(&mut bytes).ok()?;
        // A journal has its records one a line, between padding.
        bytes.split(|byte| *byte == b'\n' || *byte == 0).find_map(|line| {
            let value: serde_json::Value = serde_json::from_slice(line.trim_ascii()).ok()?;
            value.get("repository")?.as_str().map(str::to_owned)
        })
    }

    /// The row at `place`, all of it.
    fn whole(&self, base: &Base, place: &Place) -> Option<Resolved> {
        Some(match base.row(place)? {
            Found::Model(folder) => self.resolved(&folder, Part::Whole),
            Found::Link(entry) | Found::Closed(entry, _) => Resolved {
                folder: self.root.join(&entry.path),
                id: text::escape(entry.path.as_os_str()),
                part: Part::Whole,
                record: None,
            },
        })
    }

    fn resolved(&self, folder: &ModelFolder, part: Part) -> Resolved {
        Resolved {
            folder: self.root.join(&folder.below),
            id: folder.id_text(),
            part,
            record: folder.record.get().cloned(),
        }
    }

    /// The part of `folder` that the reference's file, quantization and revision leave; `None` when there is nothing of it.
    fn part_meant(&self, folder: &ModelFolder, reference: &Reference) -> Option<Part> {
        if reference.revision().is_some_and(|revision| !folder.is_revision(revision)) {
            return None;
        }
        if let Some(file) = reference.file() {
            let entries = folder.entries_of_file(Path::new(file.as_str()));
            return (!entries.is_empty()).then(|| self.files_part(folder, &entries));
        }
        match reference.quantization() {
            None => Some(Part::Whole),
            Some(wanted) => {
                let part = Part::Quantization(wanted.to_owned());
                folder.part(&part, &self.root, &self.headers).map(|_| part)
            }
        }
    }

    fn by_alias(&self, base: &Base, reference: &Reference, name: &str) -> Option<Resolved> {
        let alias = self.aliases.iter().find(|alias| alias.alias == name)?;
        let folders = std::iter::once(&alias.folder).chain(&alias.former_folders);
        let mut seen = BTreeSet::new();
        for name in folders.filter(|name| seen.insert(name.as_str())) {
            let Some(folder) = base.model(name) else { continue };
            if self.owner(&folder).is_other_than(&alias.repository) {
                continue;
            }
            let Some(mut part) = self.part_meant(&folder, reference) else { continue };
            if *name != alias.folder || self.is_shared(&folder, alias) {
                let own = folder.entries_of_file(Path::new(&alias.file));
                match part {
                    Part::Whole if own.is_empty() => continue,
                    Part::Whole => part = self.files_part(&folder, &own),
                    // In the folder of another alias a quantization must be of this alias's own file.
                    ref part if *name != alias.folder => {
                        let entries = folder.part(part, &self.root, &self.headers).unwrap_or_default();
                        if !entries.is_subset(&own) {
                            continue;
                        }
                    }
                    _ => {}
                }
            }
            return Some(self.resolved(&folder, part));
        }
        None
    }

    /// The alias's own file where a download by `org/name` has put it.
    fn by_record_of_alias(&self, base: &Base, reference: &Reference, name: &str) -> Option<Resolved> {
        let alias = self.aliases.iter().find(|alias| alias.alias == name)?;
        recorded(base, &alias.repository).find_map(|found| {
            let Found::Model(folder) = found else { return None };
            let own = folder.entries_of_file(Path::new(&alias.file));
            let part = match self.part_meant(&folder, reference)? {
                _ if own.is_empty() => return None,
                Part::Whole => self.files_part(&folder, &own),
                part => {
                    let entries = folder.part(&part, &self.root, &self.headers).unwrap_or_default();
                    entries.is_subset(&own).then_some(part)?
                }
            };
            Some(self.resolved(&folder, part))
        })
    }

    /// Whether `folder` holds a file of another alias than `alias`.
    fn is_shared(&self, folder: &ModelFolder, alias: &Alias) -> bool {
        self.aliases_in(folder).iter().any(|other| other.alias != alias.alias)
    }

    fn files_part(&self, folder: &ModelFolder, entries: &BTreeSet<usize>) -> Part {
        let paths: BTreeSet<String> = entries
            .iter()
            .map(|&index| match &folder.classes[index] {
                Class::Staging { target, .. } => text::escape(target.as_os_str()),
                _ => text::escape(folder.tree.entries[index].path.as_os_str()),
            })
            .collect();
        Part::Files(paths.into_iter().collect())
    }

    /// The row of exactly the id `name`. An alias never means files of other aliases only, also not by its folder's name.
    fn by_folder(&self, base: &Base, reference: &Reference, name: &str) -> Option<Resolved> {
        let place = base.place(OsStr::new(name))?;
        match base.row(&place)? {
            Found::Model(folder) => {
                let alias = self.aliases.iter().find(|alias| alias.alias == name);
                if alias.is_some_and(|alias| {
                    self.is_shared(&folder, alias) && !self.owner(&folder).is_other_than(&alias.repository)
                }) {
                    return None;
                }
                let part = self.part_meant(&folder, reference)?;
                Some(self.resolved(&folder, part))
            }
            _ if reference.quantization().is_some() || reference.revision().is_some() => None,
            _ => self.whole(base, &place),
        }
    }

    /// The row with the id `repository` in a group, unless it belongs to another repository.
    fn by_path(&self, base: &Base, reference: &Reference, repository: &str) -> Option<Resolved> {
        let place = base.place(OsStr::new(repository))?;
        match base.row(&place)? {
            Found::Model(folder) if self.owner(&folder).is_other_than(repository) => None,
            Found::Model(folder) => {
                let part = self.part_meant(&folder, reference)?;
                Some(self.resolved(&folder, part))
            }
            _ if reference.of_repository() != *reference || reference.revision().is_some() => None,
            _ => self.whole(base, &place),
        }
    }

    /// Every row that has a record, by its id; why it cannot be read, where it cannot.
    ///
    /// # Errors
    /// [`Error::Io`] when the base folder cannot be read.
    pub fn recorded_rows(&self) -> Result<Vec<(String, std::result::Result<Record, String>)>> {
        let Some(base) = Base::open(&self.root)? else { return Ok(Vec::new()) };
        let rows = records(&base).filter_map(|(place, state)| {
            let id = match &place {
                // Only in a group it is a row.
                Place::Member(group, name) if base.is_group(group) => Path::new(group).join(name).into_os_string(),
                Place::Folder(name) => name.clone(),
                _ => return None,
            };
            let record = match state {
                RecordState::Read(record) => Ok(record),
                RecordState::Unreadable(reason) => Err(reason),
                RecordState::Missing => return None,
            };
            Some((text::escape(&id), record))
        });
        Ok(rows.collect())
    }

    fn by_repository(&self, base: &Base, reference: &Reference, repository: &str) -> Result<Option<Resolved>> {
        if let Some(found) = self.by_path(base, reference, repository) {
            // Of its own name, and another one whose record has that name: neither is meant for certain.
            let mut meant = vec![found];
            if meant.iter().all(|found| found.record.is_none()) {
                meant.extend(self.having(reference, recorded(base, repository)));
            }
            return if meant.len() > 1 { Err(ambiguous(reference, &meant)) } else { Ok(meant.pop()) };
        }
        let defaults: Vec<String> = default_names(repository).collect();
        if let Some(found) = self.the_one(reference, &defaults, recorded(base, repository))? {
            return Ok(Some(found));
        }
        let of_catalog = self.aliases.iter().filter(|alias| alias.repository.eq_ignore_ascii_case(repository));
        let mut names = BTreeSet::new();
        for alias in of_catalog {
            names.insert(alias.folder.as_str());
            let has_file = |name: &&String| base.model(name).is_some_and(|folder| folder.has(Path::new(&alias.file)));
            names.extend(alias.former_folders.iter().filter(has_file).map(String::as_str));
        }
        let unclaimed = |name: &str| {
            let folder = base.model(name)?;
            (!self.owner(&folder).is_other_than(repository)).then(|| Found::Model(Box::new(folder)))
        };
        if let Some(found) = self.the_one(reference, &defaults, names.into_iter().filter_map(unclaimed))? {
            return Ok(Some(found));
        }
        let members = grouped(base, repository)
            .into_iter()
            .filter(|found| !matches!(found, Found::Model(folder) if self.owner(folder).is_other_than(repository)));
        if let Some(found) = self.the_one(reference, &defaults, members)? {
            return Ok(Some(found));
        }
        for name in &defaults {
            if let Some(found) = self.the_one(reference, &defaults, unclaimed(name).into_iter())? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// The one candidate that has what the reference means. Of several the one that downloads by `org/name` go to is meant.
    fn the_one(
        &self,
        reference: &Reference,
        defaults: &[String],
        candidates: impl Iterator<Item = Found>,
    ) -> Result<Option<Resolved>> {
        let mut having: Vec<Resolved> = self.having(reference, candidates).collect();
        if having.len() > 1 {
            if let Some(at) = having.iter().position(|resolved| defaults.contains(&resolved.id)) {
                return Ok(Some(having.swap_remove(at)));
            }
            return Err(ambiguous(reference, &having));
        }
        Ok(having.pop())
    }

    /// The candidates that have what the reference means.
    fn having(&self, reference: &Reference, candidates: impl Iterator<Item = Found>) -> impl Iterator<Item = Resolved> {
        candidates.filter_map(|found| match found {
            Found::Model(folder) => {
                let part = self.part_meant(&folder, reference)?;
                Some(self.resolved(&folder, part))
            }
            _ => None,
        })
    }
}

fn ambiguous(reference: &Reference, meant: &[Resolved]) -> Error {
    let quantization = reference.quantization().map(|label| format!(":{label}")).unwrap_or_default();
    let argument = |resolved: &Resolved| format!("flat:{}{quantization}", text::printable(&resolved.id));
    Error::Ambiguous { reference: text::printable(reference.text()), choices: meant.iter().map(argument).collect() }
}

/// Folders for a repository without an alias, in the order in which they are tried.
fn default_names(repository: &str) -> impl Iterator<Item = String> {
    let lower = repository.to_lowercase();
    let last = lower.rsplit('/').next().unwrap_or(&lower).to_owned();
    [last, lower.replace('/', "--")].into_iter()
}

/// Every row whose record names `repository`.
fn recorded<'a>(base: &'a Base, repository: &'a str) -> impl Iterator<Item = Found> + 'a {
    let is_of = move |state: &RecordState| state.get().is_some_and(|record| record.is_of(repository));
    records(base).filter(move |(_, state)| is_of(state)).filter_map(|(place, _)| base.row(&place))
}

/// Every place with a record, as far as the names of folders tell: one in a folder may turn out to be in no group.
fn records(base: &Base) -> impl Iterator<Item = (Place, RecordState)> + '_ {
    base.folders().flat_map(|name| {
        let Ok(folder) = base.folder.folder(name) else { return Vec::new() };
        let state = RecordState::read(&folder);
        if state != RecordState::Missing {
            return vec![(Place::Folder(name.clone()), state)];
        }
        let subs = group::candidates(&folder).into_iter().filter_map(|sub| {
            let state = RecordState::read(&folder.folder(&sub).ok()?);
            (state != RecordState::Missing).then(|| (Place::Member(name.clone(), sub), state))
        });
        subs.collect()
    })
}

/// The folders in groups that have the name of `repository` as their id, in any case: the hub does not tell names apart by it.
fn grouped(base: &Base, repository: &str) -> Vec<Found> {
    let Some((org, name)) = split(OsStr::new(repository)) else { return Vec::new() };
    let same = |left: &OsStr, right: &OsStr| left.eq_ignore_ascii_case(right);
    let groups = base.folders().filter(|group| same(group, org));
    let members = groups.flat_map(|group| {
        let subs = base.folder.folder(group).map(|folder| group::candidates(&folder)).unwrap_or_default();
        subs.into_iter().filter(|sub| same(sub, name)).map(|sub| Place::Member(group.clone(), sub))
    });
    members.filter_map(|place| base.row(&place)).collect()
}
