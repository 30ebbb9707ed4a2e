//! What deleting rows of the flat store, or parts of them, would do.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::FlatStore;
use super::folder::{Class, ModelFolder, all_of};
use super::rows::{Base, Found, split};
use crate::disk::folder::EntryType;
use crate::disk::lock::{self, FileLock};
use crate::error::Result;
use crate::model::{Blocked, Broken, Bytes, Inode, Kept, Plan, Role, text};
use crate::store::planning::{PlanBuilder, lexical, way_of_link};
use crate::store::tree::Entry;
use crate::store::{Part, Target};

/// What goes of one folder.
#[derive(Debug)]
struct Selected {
    folder: ModelFolder,
    /// Indices of the entries that go.
    entries: BTreeSet<usize>,
    /// Whether the folder itself goes.
    all: bool,
    /// What a running download holds, and what is unknown.
    blocked: Vec<Blocked>,
    /// Whether parts were asked for, and not the whole row.
    partly: bool,
}

/// A lock that a running download holds.
#[derive(Debug)]
struct Busy {
    lock: PathBuf,
    /// What stays for it.
    taken: Vec<PathBuf>,
    because: String,
}

impl FlatStore {
    pub(super) fn plan(&self, targets: &[Target]) -> Result<Plan> {
        let Some(first) = targets.first() else { return Ok(Plan::default()) };
        let base = self.base(&first.id)?;
        let mut builder = PlanBuilder::new(&self.root);
        let mut asked: BTreeMap<&str, Vec<&Part>> = BTreeMap::new();
        for target in targets {
            let parts = asked.entry(&target.id).or_default();
            if parts.is_empty() {
                builder.plan().models.push(self.identity(&target.id));
            }
            parts.push(&target.part);
        }
        let mut selected: Vec<Selected> = Vec::new();
        let mut links: Vec<Entry> = Vec::new();
        for (id, parts) in &asked {
            match self.found(&base, id)? {
                Found::Model(folder) => selected.push(self.select(*folder, id, parts, &mut builder)?),
                Found::Link(entry) if parts.iter().all(|part| **part == Part::Whole) => links.push(entry),
                Found::Link(_) => return Err(self.not_found(id)),
                Found::Closed(entry, reason) => {
                    let path = self.root.join(&entry.path);
                    builder.plan().blocked.push(Blocked { path, because: format!("cannot be read: {reason}") });
                }
            }
        }
        for row in &selected {
            self.add_steps(row, &mut builder);
        }
        for entry in &links {
            builder.remove(Path::new(""), entry, Vec::new());
        }
        let emptied = emptied_groups(&base, &mut builder);
        let mut going = Going::new(&selected, &links, &self.root);
        going.paths.extend(emptied.iter().map(|group| self.root.join(group)));
        for row in &selected {
            self.note_kept(row, &going, &mut builder);
        }
        for entry in &links {
            note_target(&self.root.join(&entry.path), entry, &going, &mut builder);
        }
        self.look_around(&base, &going, &mut builder);
        for row in selected {
            builder.plan().blocked.extend(row.blocked);
        }
        Ok(builder.finish(Vec::new()))
    }

    /// Everything of `folder` that goes with `parts`.
    fn select(
        &self,
        mut folder: ModelFolder,
        id: &str,
        parts: &[&Part],
        builder: &mut PlanBuilder,
    ) -> Result<Selected> {
        let whole = parts.contains(&&Part::Whole);
        let mut entries = BTreeSet::new();
        for part in parts {
            entries.extend(self.part(&folder, id, part)?);
            builder.plan().notes.extend(folder.said_of(part, &self.root, &self.headers));
        }
        if !whole {
            folder.tell_kinds(&self.root, &self.headers);
            add_sidecar_models(&folder, &mut entries);
        }
        let busy = self.take_out_busy(&folder, &mut entries);
        // A folder of which something is unknown or in work keeps its bookkeeping: what stays needs it.
        let closed: Vec<Blocked> = folder
            .tree
            .unread
            .iter()
            .filter(|_| whole)
            .map(|unread| Blocked {
                path: self.root.join(&folder.below).join(&unread.path),
                because: format!("its content is unknown: {}", unread.because),
            })
            .collect();
        let blocked = busy.iter().flat_map(|busy| {
            // A download of a file that is not here yet stands only in the way of the whole.
            let lock = (whole && busy.taken.is_empty()).then_some(&busy.lock);
            let blocked = |path: &PathBuf| Blocked { path: path.clone(), because: busy.because.clone() };
            busy.taken.iter().chain(lock).map(blocked).collect::<Vec<_>>()
        });
        let blocked: Vec<Blocked> = blocked.chain(closed).collect();
        let keeps_books = !busy.is_empty() || !folder.tree.unread.is_empty();
        let unasked = |index: usize| match &folder.classes[index] {
            Class::Content(_) | Class::Staging { .. } => !entries.contains(&index),
            Class::Hidden => !whole && !folder.tree.entries[index].is_folder(),
            Class::Bookkeeping | Class::Folder => false,
        };
        let all = !keeps_books && !(0..folder.classes.len()).any(unasked);
        if all {
            entries.extend(0..folder.classes.len());
        } else {
            if whole {
                entries.extend((0..folder.classes.len()).filter(|&index| {
                    folder.classes[index] == Class::Hidden && !folder.tree.entries[index].is_folder()
                }));
            }
            add_sidecars(&folder, &mut entries);
            add_emptied_folders(&folder, &mut entries, keeps_books);
        }
        Ok(Selected { all: all && !folder.is_loose(), folder, entries, blocked, partly: !whole })
    }

    /// Takes out of `entries` what a running download works on: our own holds its journal, the official client its lock.
    /// Gives every lock that is held, with what was taken out for it.
    fn take_out_busy(&self, folder: &ModelFolder, entries: &mut BTreeSet<usize>) -> Vec<Busy> {
        let mut busy = Vec::new();
        for (entry, class) in folder.tree.entries.iter().zip(&folder.classes).filter(|(entry, _)| entry.is_file()) {
            let target = match class {
                Class::Staging { target, journal: true } => Some(target.clone()),
                Class::Bookkeeping => locked_by_client(&entry.path),
                _ => None,
            };
            let Some(target) = target else { continue };
            let path = self.root.join(folder.location(entry));
            if !lock::is_held(&path) {
                continue;
            }
            let concerned: BTreeSet<usize> = entries
                .iter()
                .copied()
                .filter(|&at| folder.tree.entries[at].path == target || folder.staging_target(at) == Some(&target))
                .collect();
            entries.retain(|at| !concerned.contains(at));
            let because = format!("is being downloaded by {}; cancel the download first", FileLock::holder(&path));
            let taken = concerned.iter().map(|&at| self.root.join(folder.location(&folder.tree.entries[at])));
            busy.push(Busy { taken: taken.collect(), lock: path, because });
        }
        busy
    }

    fn add_steps(&self, row: &Selected, builder: &mut PlanBuilder) {
        let folder = &row.folder;
        let first_of_set: BTreeSet<usize> = folder.sets.iter().filter_map(|set| set.members.first().copied()).collect();
        let grouped = split(&folder.id).is_some();
        let mut order: Vec<(Rank, usize)> = row
            .entries
            .iter()
            .map(|&index| {
                let entry = &folder.tree.entries[index];
                let rank = Rank::of(entry, &folder.classes[index], first_of_set.contains(&index));
                // By it a folder in a group may be told to be a model of its own.
                let tells = grouped && rank == Rank::Content && entry.path == Path::new("config.json");
                (if tells { Rank::Config } else { rank }, index)
            })
            .collect();
        let locks = Locks::of(folder);
        // Folders come deepest first, everything else by path.
        order.sort_by(|(a, left), (b, right)| {
            let depth = if *a == Rank::Folder { right.cmp(left) } else { left.cmp(right) };
            a.cmp(b).then(depth)
        });
        let mut weights: Vec<usize> = Vec::new();
        let mut content: Vec<usize> = Vec::new();
        let mut partials: Vec<usize> = Vec::new();
        let mut by_path: BTreeMap<&Path, usize> = BTreeMap::new();
        for (rank, index) in order {
            let entry = &folder.tree.entries[index];
            let requires = match rank {
                // A projector stays useful as long as weights stay.
                Rank::Companion => weights.clone(),
                // What names a file goes only after the file.
                Rank::Sidecar => content_of_sidecar(&entry.path)
                    .and_then(|path| by_path.get(path.as_path()).copied())
                    .into_iter()
                    .collect(),
                Rank::Record => content.clone(),
                // As long as weights stay, it tells whose they are.
                Rank::Config => content.iter().chain(&partials).copied().collect(),
                _ => Vec::new(),
            };
            let step = builder.remove(&folder.below, entry, requires);
            builder.hold_locks(step, locks.on(folder, entry, &folder.classes[index]));
            match rank {
                Rank::FirstWeights | Rank::Weights => {
                    weights.push(step);
                    content.push(step);
                    by_path.insert(&entry.path, step);
                }
                Rank::Companion | Rank::Content | Rank::Config => {
                    content.push(step);
                    by_path.insert(&entry.path, step);
                }
                Rank::Partial | Rank::Journal => partials.push(step),
                _ => {}
            }
        }
        if row.all {
            let path = PathBuf::from(&folder.id);
            let entry = Entry { path, status: folder.tree.top, link: None, parent: folder.parent };
            builder.remove(Path::new(""), &entry, Vec::new());
        }
    }

    /// Says what stays in a folder of which something goes, and what links that go lead to.
    fn note_kept(&self, row: &Selected, going: &Going, builder: &mut PlanBuilder) {
        let folder = &row.folder;
        let aliases = self.aliases_in(folder);
        let stays: Vec<usize> =
            folder.content().map(|(index, ..)| index).filter(|index| !row.entries.contains(index)).collect();
        let user = folder
            .models()
            .flat_map(all_of)
            .find(|index| stays.contains(index))
            .map(|index| text::printable_path(&folder.tree.entries[index].path));
        for &index in stays.iter().filter(|_| row.partly) {
            let entry = &folder.tree.entries[index];
            let path = self.root.join(folder.location(entry));
            if row.blocked.iter().any(|blocked| blocked.path == path) {
                continue;
            }
            let owner = aliases.iter().find(|alias| folder.entries_of_file(Path::new(&alias.file)).contains(&index));
            let is_weights = matches!(&folder.classes[index], Class::Content(Role::Weights | Role::Shard));
            let because = match (owner, &user) {
                (Some(alias), _) => format!("belongs to {}", text::printable(&alias.alias)),
                (None, Some(user)) if !is_weights => format!("also used by {user}"),
                _ => "was not asked for".to_owned(),
            };
            builder.plan().keep.push(Kept { path, because });
        }
        if row.partly && !row.all {
            let hidden = folder.tree.entries.iter().zip(&folder.classes);
            for (entry, _) in hidden.filter(|(entry, class)| **class == Class::Hidden && entry.path.iter().count() == 1)
            {
                let because = "is no part of the model".to_owned();
                builder.plan().keep.push(Kept { path: self.root.join(folder.location(entry)), because });
            }
        }
        for &index in &row.entries {
            let entry = &folder.tree.entries[index];
            note_target(&self.root.join(folder.location(entry)), entry, going, builder);
        }
    }

    /// Looks through everything that stays for links to what goes, and for other names of it.
    fn look_around(&self, base: &Base, going: &Going, builder: &mut PlanBuilder) {
        for found in base.rows() {
            let entries: Vec<(PathBuf, &Entry)> = match &found {
                Found::Model(folder) => {
                    folder.tree.entries.iter().map(|entry| (self.root.join(folder.location(entry)), entry)).collect()
                }
                Found::Link(entry) => vec![(self.root.join(&entry.path), entry)],
                Found::Closed(..) => continue,
            };
            let model = self.identity(&found.id());
            let asked = builder.plan().models.contains(&model);
            for (path, entry) in entries.into_iter().filter(|(path, _)| !going.paths.contains(path)) {
                if let Some((first, bytes)) = going.names.get(&entry.status.inode).filter(|_| entry.is_file()) {
                    let because = format!(
                        "is another name of {}: its {bytes} come free when both are gone",
                        text::printable_path(first)
                    );
                    builder.plan().keep.push(Kept { path, because });
                } else if entry.link.is_some() && way_of_link(&path).iter().any(|stop| going.paths.contains(stop)) {
                    if asked {
                        let because = "is a link that will lead to nothing: what it leads to goes".to_owned();
                        // That says more than that nobody asked for it.
                        builder.plan().keep.retain(|kept| kept.path != path);
                        builder.plan().keep.push(Kept { path, because });
                    } else {
                        builder.plan().breaks.push(Broken { model: model.clone(), path });
                    }
                }
            }
        }
    }
}

/// What goes, over all rows.
struct Going {
    /// Every path.
    paths: BTreeSet<PathBuf>,
    /// Files that keep other names, with a path that goes and their size.
    names: BTreeMap<Inode, (PathBuf, Bytes)>,
}

impl Going {
    fn new(selected: &[Selected], links: &[Entry], root: &Path) -> Self {
        let mut paths: BTreeSet<PathBuf> = links.iter().map(|entry| root.join(&entry.path)).collect();
        let mut counts: BTreeMap<Inode, (u64, &Entry, PathBuf)> = BTreeMap::new();
        for row in selected {
            if row.all {
                paths.insert(root.join(&row.folder.id));
            }
            for entry in row.entries.iter().map(|&index| &row.folder.tree.entries[index]) {
                let path = root.join(row.folder.location(entry));
                paths.insert(path.clone());
                if entry.is_file() {
                    counts.entry(entry.status.inode).or_insert((0, entry, path)).0 += 1;
                }
            }
        }
        let names = counts
            .into_iter()
            .filter(|(_, (removed, entry, _))| *removed < entry.status.links)
            .map(|(inode, (_, entry, path))| (inode, (path, Bytes(entry.status.disk_bytes))))
            .collect();
        Self { paths, names }
    }
}

/// The order in which the entries of a folder go. A crash in between leaves a model that loaders refuse and that lists as
/// incomplete, with the record of where it came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    /// The first shard, or weights in one file: what loaders open.
    FirstWeights,
    Weights,
    /// Projectors and other models that are loaded beside the weights.
    Companion,
    Content,
    Partial,
    /// The journal goes after the bytes that it vouches for.
    Journal,
    /// The configuration of a model in a group.
    Config,
    Hidden,
    Sidecar,
    /// Listings, tags, locks.
    Books,
    Record,
    Folder,
}

impl Rank {
    fn of(entry: &Entry, class: &Class, first: bool) -> Self {
        if entry.is_folder() {
            return Self::Folder;
        }
        match class {
            Class::Content(Role::Weights | Role::Shard) if first => Self::FirstWeights,
            Class::Content(Role::Weights | Role::Shard) => Self::Weights,
            Class::Content(Role::Mmproj) => Self::Companion,
            Class::Content(_) | Class::Folder => Self::Content,
            Class::Staging { journal: false, .. } => Self::Partial,
            Class::Staging { journal: true, .. } => Self::Journal,
            Class::Hidden => Self::Hidden,
            Class::Bookkeeping if entry.path == Path::new(super::record::RECORD) => Self::Record,
            Class::Bookkeeping if content_of_sidecar(&entry.path).is_some() => Self::Sidecar,
            Class::Bookkeeping => Self::Books,
        }
    }
}

/// The folders in which the official client keeps its sidecars.
const SIDECARS: [&str; 2] = [".cache/huggingface/download", ".huggingface/download"];

/// The file that the sidecar or the lock at `path` belongs to.
fn content_of_sidecar(path: &Path) -> Option<PathBuf> {
    let inside = SIDECARS.iter().find_map(|folder| path.strip_prefix(folder).ok())?;
    let extension = inside.extension()?;
    (extension == "metadata" || extension == "lock").then(|| inside.with_extension(""))
}

/// The file that the official client downloads while it holds the lock at `path`.
fn locked_by_client(path: &Path) -> Option<PathBuf> {
    content_of_sidecar(path).filter(|_| path.extension().is_some_and(|extension| extension == "lock"))
}

/// The locks of those who may be writing what lies in a folder: the official client's, and the journals of our own downloads.
struct Locks {
    /// By the path of what is written, relative to the folder.
    of: BTreeMap<PathBuf, Vec<PathBuf>>,
}

impl Locks {
    fn of(folder: &ModelFolder) -> Self {
        let mut of: BTreeMap<PathBuf, Vec<PathBuf>> = BTreeMap::new();
        for (entry, class) in folder.tree.entries.iter().zip(&folder.classes).filter(|(entry, _)| entry.is_file()) {
            let target = match class {
                Class::Staging { target, journal: true } => Some(target.clone()),
                Class::Bookkeeping => locked_by_client(&entry.path),
                _ => None,
            };
            if let Some(target) = target {
                of.entry(target).or_default().push(folder.location(entry));
            }
        }
        Self { of }
    }

    /// Those of one entry, relative to the root. A lock that goes itself is not taken from the one who holds it.
    fn on(&self, folder: &ModelFolder, entry: &Entry, class: &Class) -> Vec<PathBuf> {
        let target = match class {
            Class::Content(_) => &entry.path,
            Class::Staging { target, .. } => target,
            Class::Bookkeeping if locked_by_client(&entry.path).is_some() => return vec![folder.location(entry)],
            Class::Bookkeeping if entry.path == Path::new(super::record::RECORD) => {
                return vec![folder.below.join(super::record::LOCK)];
            }
            Class::Bookkeeping | Class::Hidden | Class::Folder => return Vec::new(),
        };
        self.of.get(target).cloned().unwrap_or_default()
    }
}

/// When the last weights of a folder go, so do the models that are only loaded beside them.
pub(in crate::store) fn add_sidecar_models(folder: &ModelFolder, entries: &mut BTreeSet<usize>) {
    let mut weights = folder.models().flat_map(all_of).peekable();
    if weights.peek().is_none() || !weights.all(|index| entries.contains(&index)) {
        return;
    }
    for (index, class) in folder.classes.iter().enumerate() {
        let is_companion = match class {
            Class::Content(role) => *role == Role::Mmproj,
            Class::Staging { target, .. } => {
                Role::of(&text::escape(target.file_name().unwrap_or_default())) == Role::Mmproj
            }
            _ => false,
        };
        if is_companion {
            entries.insert(index);
        }
    }
}

/// Adds sidecar and lock of every content file that goes.
fn add_sidecars(folder: &ModelFolder, entries: &mut BTreeSet<usize>) {
    let of: Vec<PathBuf> = entries
        .iter()
        .filter(|&&index| matches!(folder.classes[index], Class::Content(_)))
        .map(|&index| folder.tree.entries[index].path.clone())
        .collect();
    for path in of {
        entries.extend(folder.sidecars(&path));
    }
}

/// Adds the folders of which everything goes; those of the bookkeeping only if nobody may be about to write there.
fn add_emptied_folders(folder: &ModelFolder, entries: &mut BTreeSet<usize>, keeps_books: bool) {
    let unread: BTreeSet<&Path> = folder.tree.unread.iter().map(|unread| unread.path.as_path()).collect();
    let mut children: BTreeMap<&Path, Vec<usize>> = BTreeMap::new();
    for (index, entry) in folder.tree.entries.iter().enumerate() {
        if let Some(parent) = entry.path.parent() {
            children.entry(parent).or_default().push(index);
        }
    }
    // What a folder holds comes after it, so backwards the deepest come first.
    for (index, entry) in folder.tree.entries.iter().enumerate().rev() {
        let Some(children) = children.get(entry.path.as_path()) else { continue };
        if keeps_books && folder.classes[index] == Class::Bookkeeping {
            continue;
        }
        if entry.status.kind == EntryType::Folder
            && !unread.contains(entry.path.as_path())
            && children.iter().all(|child| entries.contains(child))
        {
            entries.insert(index);
        }
    }
}

/// Adds the removal of groups of which everything goes by now.
fn emptied_groups(base: &Base, builder: &mut PlanBuilder) -> Vec<OsString> {
    let mut gone: BTreeMap<OsString, BTreeSet<OsString>> = BTreeMap::new();
    for step in &builder.plan().steps {
        // What goes directly in a folder of the base folder; of a group that is every row of it.
        if step.folder.iter().count() == 1 {
            gone.entry(step.folder.clone().into_os_string()).or_default().insert(step.name.clone());
        }
    }
    let mut emptied = Vec::new();
    for (group, names) in gone {
        if !base.is_group(&group) {
            continue;
        }
        let Ok(folder) = base.folder.folder(&group) else { continue };
        let (Ok(status), Ok(entries)) = (folder.own_status(), folder.entries()) else { continue };
        if entries.iter().all(|(name, _)| names.contains(name)) {
            let entry = Entry { path: PathBuf::from(&group), status, link: None, parent: base.status.inode };
            builder.remove(Path::new(""), &entry, Vec::new());
            emptied.push(group);
        }
    }
    emptied
}

/// Says that what a link leads to stays.
fn note_target(at: &Path, entry: &Entry, going: &Going, builder: &mut PlanBuilder) {
    let Some(target) = &entry.link else { return };
    let leads_to = lexical(&at.parent().unwrap_or(at).join(target));
    if leads_to != at && !going.paths.contains(&leads_to) {
        let because = format!("only the link {} goes, never what it leads to", text::printable_path(at));
        builder.plan().keep.push(Kept { path: leads_to, because });
    }
}
