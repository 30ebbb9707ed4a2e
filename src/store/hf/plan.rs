//! Deletion from the cache: names first, payload last, nothing that another name still needs.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::layout::{self, BlobName, Target as Link};
use super::links::Links;
use super::read::{Blob, Outward, Repository, Revision};
use super::sets::{Kinds, Named, WeightSet};
use super::{details, scan};
use crate::disk::folder::{EntryType, Folder};
use crate::error::{Error, Result};
use crate::format::Kind;
use crate::model::{Blocked, Broken, FileName, Kept, ModelId, Plan, Quantization, Step, StoreKind, text};
use crate::store::flat::staging::StagingName;
use crate::store::headers::Headers;
use crate::store::planning::{PlanBuilder, lexical, way_of_link};
use crate::store::tree::{Entry, Tree, reason};
use crate::store::{Part, Target};

/// What goes of one repository.
#[derive(Debug, Default)]
struct Selection {
    /// The folder with all that is in it.
    whole: bool,
    /// Whole revisions.
    revisions: BTreeSet<OsString>,
    /// Single entries: revision and path in it.
    entries: BTreeSet<(OsString, PathBuf)>,
}

/// A repository with the tree of its folder.
struct Source<'a> {
    repository: &'a Repository,
    tree: Tree,
    selection: Selection,
}

/// Tells the quantization that the headers of a set tell.
pub(super) type Shown<'a> = &'a dyn Fn(&WeightSet<'_>) -> Option<Quantization>;

/// What deleting `targets` from the cache at `root` does. They are read anew. Of the other repositories only those links matter
/// that leave them, unless something is shared.
pub(super) fn plan(
    root: &Path,
    headers: &Headers,
    links: &Links,
    targets: &[Target],
    shown: Shown<'_>,
) -> Result<Plan> {
    let missing = |id: &str| Error::ModelNotFound { reference: text::printable(id), place: text::printable_path(root) };
    let io = |error: rustix::io::Errno| match (error, targets) {
        (rustix::io::Errno::NOENT, [target, ..]) => missing(&target.id),
        _ => Error::io("read", root)(error.into()),
    };
    let hub = Folder::open(root).map_err(io)?;
    let folders: BTreeSet<OsString> = targets.iter().map(|target| layout::folder(&target.id)).collect();
    let mut repositories: Vec<Repository> =
        folders.iter().filter_map(|folder| Repository::read(&hub, root, folder)).collect();
    if repositories.iter().any(Repository::shares) {
        repositories = scan::read_all(&hub, root).map_err(io)?;
    }
    let mut plan = of(root, headers, &hub, &repositories, targets, shown)?;
    let read: HashSet<&OsStr> = repositories.iter().map(|repository| repository.folder.as_os_str()).collect();
    let others = scan::outward(&hub, root, links, &read).map_err(io)?;
    drop(read);
    plan.breaks = broken(root, repositories.into_iter().map(Outward::from).chain(others), &plan);
    Ok(plan)
}

/// The same where the repositories have been read, all of the cache or at least those that may share something with the targets, and
/// without what would break.
pub(super) fn of(
    root: &Path,
    headers: &Headers,
    hub: &Folder,
    repositories: &[Repository],
    targets: &[Target],
    shown: Shown<'_>,
) -> Result<Plan> {
    let missing = |id: &str| Error::ModelNotFound { reference: text::printable(id), place: text::printable_path(root) };
    let io = |error: rustix::io::Errno| Error::io("read", root)(error.into());
    let mut builder = PlanBuilder::new(root);
    let mut selections: BTreeMap<usize, Selection> = BTreeMap::new();
    let by_id: HashMap<&str, usize> =
        repositories.iter().enumerate().map(|(at, repository)| (repository.id.as_str(), at)).collect();
    for target in targets {
        let at = *by_id.get(target.id.as_str()).ok_or_else(|| missing(&target.id))?;
        if !selections.contains_key(&at) {
            let model = ModelId { store: StoreKind::Hf, store_path: root.to_path_buf(), id: target.id.clone() };
            builder.plan().models.push(model);
        }
        let kinds = Kinds::of(&repositories[at], root, headers, shown);
        let said = select(&repositories[at], &kinds, &target.part, selections.entry(at).or_default())?;
        builder.plan().notes.extend(said);
    }
    let mut blocked = Vec::new();
    let mut released: BTreeMap<(OsString, OsString), Vec<usize>> = BTreeMap::new();
    for (at, mut selection) in selections {
        let repository = &repositories[at];
        let mut all = repository.revisions.iter();
        selection.whole |=
            !repository.revisions.is_empty() && all.all(|revision| selection.revisions.contains(&revision.commit));
        if repository.status.kind != EntryType::Folder {
            // A link in place of the folder goes, and what it leads to stays.
            builder.remove(Path::new(""), &top_entry(hub, repository).map_err(io)?, Vec::new());
            for (_, to) in &repository.foreign {
                let because = "only the link goes: what it leads to is not part of this model".to_owned();
                builder.plan().keep.push(Kept { path: lexical(&root.join(to)), because });
            }
            continue;
        }
        let tree = match Tree::read(hub, &repository.folder) {
            Ok(tree) => tree,
            Err(error) => {
                let because = format!("its content cannot be read: {}", reason(error));
                blocked.push(Blocked { path: repository.path.clone(), because });
                continue;
            }
        };
        if !selection.revisions.is_empty() && !selection.whole && repository.has_unknown_refs() {
            let because = "it cannot be read, so that nobody can tell what names the revision".to_owned();
            blocked.push(Blocked { path: repository.path.join("refs"), because });
            continue;
        }
        let source = Source { repository, tree, selection };
        if source.selection.whole {
            source.whole(hub, &mut builder, &mut blocked, &mut released).map_err(io)?;
        } else {
            source.parts(&mut builder, &mut blocked, &mut released);
        }
    }
    release_shared(hub, repositories, &mut builder, &released);
    Ok(builder.finish(blocked))
}

/// Links of this cache that would lead nowhere after `plan`.
fn broken(root: &Path, repositories: impl Iterator<Item = Outward>, plan: &Plan) -> Vec<Broken> {
    let going: BTreeSet<PathBuf> = plan.steps.iter().map(Step::path).collect();
    let mut broken = Vec::new();
    for repository in repositories {
        for link in repository.paths() {
            if going.contains(&link) {
                continue;
            }
            let way = way_of_link(&link);
            let inside = |end: &PathBuf| going.range(end.clone()..).next().is_some_and(|path| path.starts_with(end));
            if way.iter().skip(1).any(|stop| going.contains(stop)) || way.last().is_some_and(inside) {
                let id = repository.id.clone();
                let model = ModelId { store: StoreKind::Hf, store_path: root.to_path_buf(), id };
                broken.push(Broken { model, path: link });
            }
        }
    }
    broken
}

/// Translates a part of a row into entries and revisions. Says so where a label means no model.
fn select(
    repository: &Repository,
    kinds: &Kinds<'_>,
    part: &Part,
    selection: &mut Selection,
) -> Result<Option<String>> {
    let missing = |what: String| Error::FileNotFound { repository: repository.id.clone(), what, available: Vec::new() };
    let one = |wanted: &str| {
        repository.revision(wanted).ok_or_else(|| missing(format!("revision '{}' here", text::printable(wanted))))
    };
    let mut add = |keep: &dyn Fn(&Revision, &Path) -> bool| {
        let mut found = false;
        for revision in &repository.revisions {
            for entry in revision.entries.iter().filter(|entry| keep(revision, &entry.path)) {
                selection.entries.insert((revision.commit.clone(), entry.path.clone()));
                found = true;
            }
        }
        found
    };
    match part {
        Part::Whole => selection.whole = true,
        Part::Revision(wanted) => {
            selection.revisions.insert(one(wanted)?.commit.clone());
        }
        Part::QuantizationOf { quantization, revision: wanted } => {
            let commit = &one(wanted)?.commit;
            // With one revision, that quantization is all that the repository has of it.
            if repository.revisions.len() == 1 {
                return select(repository, kinds, &Part::Quantization(quantization.clone()), selection);
            }
            let named = Named::of(repository, quantization, kinds);
            if !add(&|revision, path| revision.commit == *commit && named.has(commit, path)) {
                return Err(missing(format!(
                    "quantization {} in revision '{}' here",
                    text::printable(quantization),
                    text::printable(wanted)
                )));
            }
            return Ok(named.kind.map(|kind| kind.named_by(quantization)));
        }
        Part::Quantization(wanted) => {
            let named = Named::of(repository, wanted, kinds);
            if !add(&|revision, path| named.has(&revision.commit, path)) {
                return Err(missing(format!("quantization {} here", text::printable(wanted))));
            }
            // Projectors and the like serve every quantization: with the last one they go, and everything if nothing else is here
            // that stands by itself.
            let rest: Vec<(&Revision, &Path, Kind)> = repository
                .revisions
                .iter()
                .flat_map(|revision| revision.entries.iter().map(move |entry| (revision, entry)))
                .filter(|(_, entry)| FileName::of_weights_or_sidecar(entry.name()).is_some())
                .filter(|(revision, entry)| !named.has(&revision.commit, &entry.path))
                .map(|(revision, entry)| (revision, entry.path.as_path(), kinds.kind(revision, entry)))
                .collect();
            let has = |wanted: &dyn Fn(Kind) -> bool| rest.iter().any(|(.., kind)| wanted(*kind));
            if !has(&|kind| kind == Kind::Model) {
                selection.whole |= !has(&Kind::stands_alone);
                let serves = rest.iter().filter(|(.., kind)| !kind.stands_alone());
                selection
                    .entries
                    .extend(serves.map(|(revision, path, _)| (revision.commit.clone(), path.to_path_buf())));
            }
            return Ok(named.kind.map(|kind| kind.named_by(wanted)));
        }
        Part::Files(paths) => {
            for wanted in paths {
                let exact = text::unescape(wanted);
                if add(&|_, entry| entry.as_os_str() == exact) {
                    continue;
                }
                // A path whose content differs between revisions: `path@` and the beginning of a commit that has it.
                let meant = wanted.rsplit_once('@').and_then(|(path, commit)| {
                    let path = text::unescape(path);
                    let revision = repository.revision(commit)?;
                    let entry = revision.entries.iter().find(|entry| entry.path.as_os_str() == path)?;
                    Some((path, details::bytes_of(repository, entry)?.1.inode))
                });
                let same = |revision: &Revision, path: &Path| {
                    let Some((wanted, inode)) = &meant else { return false };
                    path.as_os_str() == wanted
                        && revision.entries.iter().any(|entry| {
                            entry.path == path
                                && details::bytes_of(repository, entry)
                                    .is_some_and(|(_, status)| status.inode == *inode)
                        })
                };
                if !add(&same) {
                    return Err(missing(format!("file '{}' here", text::printable(wanted))));
                }
            }
        }
    }
    Ok(None)
}

impl Source<'_> {
    /// Steps for the whole folder: refs, snapshots, everything else, blobs, then the folders.
    fn whole(
        &self,
        hub: &Folder,
        builder: &mut PlanBuilder,
        blocked: &mut Vec<Blocked>,
        released: &mut BTreeMap<(OsString, OsString), Vec<usize>>,
    ) -> Result<(), rustix::io::Errno> {
        for unread in &self.tree.unread {
            blocked.push(Blocked {
                path: self.repository.path.join(&unread.path),
                because: format!("unknown content: {}", unread.because),
            });
        }
        let below = Path::new(&self.repository.folder);
        let unknown = self.repository.has_unknown_revisions()
            || self.tree.unread.iter().any(|unread| unread.path.starts_with("snapshots"));
        let rank = |entry: &Entry| match entry.path.iter().next().and_then(OsStr::to_str) {
            Some("refs") => 0,
            Some("snapshots") => 1,
            Some("blobs") => 3,
            _ => 2,
        };
        let mut files: Vec<&Entry> = self.tree.entries.iter().filter(|entry| !entry.is_folder()).collect();
        files.sort_by_key(|entry| rank(entry));
        let mut refs: HashMap<&OsStr, Vec<usize>> = HashMap::new();
        let mut names: HashMap<OsString, Vec<usize>> = HashMap::new();
        let mut kept: Vec<&Path> = Vec::new();
        for entry in files {
            let payload = rank(entry) == 3 && layout::blob_name(entry.name()) == BlobName::Payload;
            if unknown && payload {
                let because = "a revision here cannot be read and may use it".to_owned();
                builder.plan().keep.push(Kept { path: self.repository.path.join(&entry.path), because });
                kept.push(&entry.path);
                continue;
            }
            let requires = match rank(entry) {
                1 => entry.path.iter().nth(1).and_then(|commit| refs.get(commit)),
                3 => names.get(entry.name()),
                _ => None,
            };
            let step = builder.remove(below, entry, requires.cloned().unwrap_or_default());
            if let (0, Some(commit)) = (rank(entry), self.commit_of_ref(&entry.path)) {
                refs.entry(commit).or_default().push(step);
            }
            if let (1, Some(link)) = (rank(entry), &entry.link) {
                let folder = entry.path.parent().unwrap_or(Path::new(""));
                if let Link::Blob(name) = layout::resolve(link.as_os_str(), folder, &self.repository.path) {
                    names.entry(name).or_default().push(step);
                }
            }
            if rank(entry) == 3 {
                self.note_blob(entry, step, builder, released);
            }
        }
        let empty = |folder: &Path| !kept.iter().any(|path| path.starts_with(folder));
        for entry in self.tree.entries.iter().rev().filter(|entry| entry.is_folder() && empty(&entry.path)) {
            builder.remove(below, entry, Vec::new());
        }
        if kept.is_empty() {
            builder.remove(Path::new(""), &top_entry(hub, self.repository)?, Vec::new());
        }
        self.note_foreign(builder, |_| true);
        Ok(())
    }

    /// The commit that the ref at `path` names.
    fn commit_of_ref(&self, path: &Path) -> Option<&OsStr> {
        let name = path.strip_prefix("refs").ok()?;
        let found = self.repository.refs.iter().find(|known| known.name == name)?;
        found.commit.as_deref().map(OsStr::new)
    }

    /// Steps for revisions and single files.
    fn parts(
        &self,
        builder: &mut PlanBuilder,
        blocked: &mut Vec<Blocked>,
        released: &mut BTreeMap<(OsString, OsString), Vec<usize>>,
    ) {
        let below = Path::new(&self.repository.folder);
        let by_path: HashMap<&Path, &Entry> =
            self.tree.entries.iter().map(|entry| (entry.path.as_path(), entry)).collect();
        let goes = |commit: &OsStr, path: &Path| {
            self.selection.revisions.contains(commit)
                || self.selection.entries.contains(&(commit.to_owned(), path.to_owned()))
        };
        for unread in &self.tree.unread {
            let inside = unread.path.strip_prefix("snapshots").ok().and_then(|path| path.iter().next());
            if inside.is_some_and(|commit| self.selection.revisions.contains(commit)) {
                let because = format!("unknown content: {}", unread.because);
                blocked.push(Blocked { path: self.repository.path.join(&unread.path), because });
            }
        }
        let mut refs: HashMap<&OsStr, Vec<usize>> = HashMap::new();
        for r in &self.repository.refs {
            let Some(commit) = r.commit.as_deref().map(OsStr::new) else { continue };
            let names_it = self.selection.revisions.contains(commit);
            if let Some(entry) = by_path.get(Path::new("refs").join(&r.name).as_path()).filter(|_| names_it) {
                refs.entry(commit).or_default().push(builder.remove(below, entry, Vec::new()));
            }
        }
        let mut going: BTreeMap<&OsStr, Vec<usize>> = BTreeMap::new();
        let mut going_as: BTreeSet<(&OsStr, &Path)> = BTreeSet::new();
        let mut staying: BTreeMap<&OsStr, BTreeSet<(&OsStr, &Path)>> = BTreeMap::new();
        for revision in &self.repository.revisions {
            for entry in &revision.entries {
                let path = Path::new("snapshots").join(&revision.commit).join(&entry.path);
                let blob = self.repository.blob_of(entry).map(|(name, _)| name.as_os_str());
                if !goes(&revision.commit, &entry.path) {
                    if let Some(blob) = blob {
                        staying.entry(blob).or_default().insert((&revision.commit, &entry.path));
                    }
                    continue;
                }
                let Some(found) = by_path.get(path.as_path()) else { continue };
                let named_by = refs.get(revision.commit.as_os_str()).cloned().unwrap_or_default();
                let step = builder.remove(below, found, named_by);
                if let Some(blob) = blob {
                    going.entry(blob).or_default().push(step);
                    going_as.insert((blob, &entry.path));
                }
            }
        }
        for commit in &self.selection.revisions {
            let inside = [Path::new("snapshots").join(commit), Path::new(".no_exist").join(commit)];
            let mut tree_name = commit.clone();
            tree_name.push(".json");
            let tree_file = Path::new("trees").join(tree_name);
            for entry in self.tree.entries.iter().rev() {
                let folder = inside.iter().any(|top| entry.path.starts_with(top)) && entry.is_folder();
                let mark = entry.path.starts_with(&inside[1]) && !entry.is_folder();
                if folder || mark || entry.path == tree_file {
                    builder.remove(below, entry, Vec::new());
                }
            }
        }
        // Of the folders of each revision with files, whether all of them go.
        let mut emptied: BTreeMap<&OsStr, HashMap<&Path, bool>> = BTreeMap::new();
        for revision in &self.repository.revisions {
            let folders = emptied.entry(&revision.commit).or_default();
            for entry in &revision.entries {
                let goes = goes(&revision.commit, &entry.path);
                for folder in entry.path.ancestors() {
                    *folders.entry(folder).or_insert(true) &= goes;
                }
            }
        }
        // Folders of a revision that single files leave empty.
        for entry in self.tree.entries.iter().rev().filter(|entry| entry.is_folder()) {
            let Ok(inside) = entry.path.strip_prefix("snapshots") else { continue };
            let Some(commit) = inside.iter().next().filter(|commit| !self.selection.revisions.contains(*commit)) else {
                continue;
            };
            let path = inside.strip_prefix(commit).unwrap_or(inside);
            if emptied.get(commit).and_then(|folders| folders.get(path)).is_some_and(|empty| *empty) {
                builder.remove(below, entry, Vec::new());
            }
        }
        let unknown = self.repository.has_unknown_revisions();
        for (name, steps) in going {
            let Some(entry) = by_path.get(Path::new("blobs").join(name).as_path()) else { continue };
            let path = self.repository.path.join(&entry.path);
            if let Some(others) = staying.get(name) {
                let short = |commit| text::printable_path(Path::new(commit)).chars().take(8).collect::<String>();
                // The same name in another revision, or another name.
                let (revisions, names): (Vec<_>, Vec<_>) =
                    others.iter().partition(|(_, path)| going_as.contains(&(name, *path)));
                let revisions: BTreeSet<String> = revisions.into_iter().map(|(commit, _)| short(commit)).collect();
                let mut users: BTreeSet<String> =
                    names.into_iter().map(|(_, path)| text::printable_path(path)).collect();
                if !revisions.is_empty() {
                    let revisions: Vec<String> = revisions.into_iter().collect();
                    users.insert(format!("revision {}", revisions.join(", ")));
                }
                let users: Vec<String> = users.into_iter().collect();
                builder.plan().keep.push(Kept { path, because: format!("also used by {}", users.join(", ")) });
            } else if unknown {
                builder
                    .plan()
                    .keep
                    .push(Kept { path, because: "a revision here cannot be read and may use it".to_owned() });
            } else {
                let step = builder.remove(below, entry, steps);
                self.note_blob(entry, step, builder, released);
            }
        }
        self.note_foreign(builder, |path| {
            let Ok(inside) = path.strip_prefix("snapshots") else { return false };
            inside.iter().next().is_some_and(|commit| goes(commit, inside.strip_prefix(commit).unwrap_or(inside)))
        });
    }

    /// Notes what a blob's removal means beyond the repository, and the locks of those who may be writing it.
    fn note_blob(
        &self,
        entry: &Entry,
        step: usize,
        builder: &mut PlanBuilder,
        released: &mut BTreeMap<(OsString, OsString), Vec<usize>>,
    ) {
        if let Some(Blob::Shared { digits, hash, payload: Some(_), .. }) = self.repository.blobs.get(entry.name()) {
            released.entry((digits.clone(), hash.clone())).or_default().push(step);
        }
        let etag = match layout::blob_name(entry.name()) {
            BlobName::Payload => entry.name().as_bytes(),
            BlobName::Partial(etag) => etag,
            // What is a lock itself is not taken from the one who holds it, nor the journal of a download from who goes on with it.
            BlobName::Leftover => match StagingName::parse(entry.name()) {
                Some(staged) => &entry.name().as_bytes()[..staged.target.len()],
                None => entry.name().as_bytes().strip_suffix(b".lock").unwrap_or_default(),
            },
        };
        if etag.is_empty() {
            return;
        }
        let mut name = OsStr::from_bytes(etag).to_owned();
        name.push(".lock");
        let repository = Path::new(&self.repository.folder);
        // The Rust client up to 0.5 locks beside the blob.
        let locks = [Path::new(".locks").join(repository).join(&name), repository.join("blobs").join(&name)];
        builder.hold_locks(step, locks);
    }

    /// Says what stays behind links that go.
    fn note_foreign(&self, builder: &mut PlanBuilder, goes: impl Fn(&Path) -> bool) {
        for (path, to) in self.repository.foreign.iter().filter(|(path, _)| goes(path)) {
            let target = lexical(&self.repository.path.join(path).parent().unwrap_or(Path::new("/")).join(to));
            let because = format!(
                "only the link {} goes: what it leads to is not part of this model",
                text::printable_path(path)
            );
            builder.plan().keep.push(Kept { path: target, because });
        }
    }
}

/// Removes shared payloads that nothing links to any more, and says who keeps the others.
fn release_shared(
    hub: &Folder,
    repositories: &[Repository],
    builder: &mut PlanBuilder,
    released: &BTreeMap<(OsString, OsString), Vec<usize>>,
) {
    if released.is_empty() {
        return;
    }
    let marked = scan::has_shared_store(hub);
    let unknown = repositories.iter().find(|repository| repository.has_unknown_blobs());
    let going: BTreeSet<PathBuf> = builder.plan().steps.iter().map(Step::path).collect();
    let root = builder.root().to_path_buf();
    // Who keeps each payload, and which of them have a list of their users: one pass over everything.
    let mut users_of: HashMap<&OsStr, Vec<&Repository>> = HashMap::new();
    let mut listed_ones: BTreeSet<&OsStr> = BTreeSet::new();
    for repository in repositories {
        for (name, blob) in repository.blobs.iter() {
            let Blob::Shared { hash, users: list, .. } = blob else { continue };
            if list.is_some() {
                listed_ones.insert(hash);
            }
            if !going.contains(&repository.path.join("blobs").join(name)) {
                let users = users_of.entry(hash).or_default();
                if users.last().is_none_or(|last| last.folder != repository.folder) {
                    users.push(repository);
                }
            }
        }
    }
    for ((digits, hash), steps) in released {
        let folder = Path::new(layout::SHARED).join(digits);
        let path = folder.join(hash);
        let users = users_of.get(hash.as_os_str()).map_or(&[][..], Vec::as_slice);
        let listed = listed_ones.contains(hash.as_os_str());
        let keep = if !marked {
            Some("the shared blob store has a layout that this program does not know".to_owned())
        } else if !listed {
            Some("the list of its users is missing, so that nobody can tell whether it is used".to_owned())
        } else if !users.is_empty() {
            Some(format!(
                "also used by {}",
                users.iter().map(|user| text::printable(&user.id)).collect::<Vec<_>>().join(", ")
            ))
        } else {
            unknown.map(|repository| format!("{} cannot be read and may use it", text::printable(&repository.id)))
        };
        if let Some(because) = keep {
            builder.plan().keep.push(Kept { path: root.join(&path), because });
            continue;
        }
        let Ok(open) = hub.descend(&folder) else { continue };
        let (Ok(parent), Ok(status)) = (open.own_status(), open.status(hash)) else { continue };
        let entry = Entry { path: path.clone(), status, link: None, parent: parent.inode };
        let payload = builder.remove_shared(&entry, steps.clone());
        let mut refs = hash.clone();
        refs.push(".refs");
        if let Ok(status) = open.status(&refs) {
            let entry = Entry { path: folder.join(&refs), status, link: None, parent: parent.inode };
            builder.remove_shared_refs(&entry, payload);
        }
    }
}

/// The entry of the repository's folder in the cache.
fn top_entry(hub: &Folder, repository: &Repository) -> Result<Entry, rustix::io::Errno> {
    Ok(Entry {
        path: PathBuf::from(&repository.folder),
        status: repository.status,
        link: None,
        parent: hub.own_status()?.inode,
    })
}
