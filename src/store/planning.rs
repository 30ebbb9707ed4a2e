//! Building deletion plans: the same for every store.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::disk::FileInfo;
use crate::disk::folder::EntryType;
use crate::disk::lock::{Claim, claim};
use crate::disk::permission::Removal;
use crate::model::{Blocked, Inode, Operation, Plan, Stamp, Step};

use super::tree::Entry;

/// What is known of an inode that steps remove names of.
#[derive(Debug)]
struct Names {
    links: u64,
    disk_bytes: u64,
    steps: Vec<usize>,
}

/// Collects steps in the order in which they run.
#[derive(Debug)]
pub struct PlanBuilder {
    root: PathBuf,
    plan: Plan,
    inodes: BTreeMap<Inode, Names>,
    /// What each step removes.
    targets: Vec<FileInfo>,
}

impl PlanBuilder {
    /// An empty plan for a store under `root`.
    #[must_use]
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), plan: Plan::default(), inodes: BTreeMap::new(), targets: Vec::new() }
    }

    /// Everything but the steps.
    pub fn plan(&mut self) -> &mut Plan {
        &mut self.plan
    }

    /// Number of the steps so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.plan.steps.len()
    }

    /// Whether there is no step yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.plan.steps.is_empty()
    }

    /// The root of the store.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Adds the removal of a payload of the shared blob store, whose path is relative to the root.
    pub fn remove_shared(&mut self, entry: &Entry, requires: Vec<usize>) -> usize {
        let index = self.remove(Path::new(""), entry, requires);
        self.plan.steps[index].operation = Operation::RemoveShared;
        index
    }

    /// Adds the removal of the list of users beside a payload that step `payload` removes.
    pub fn remove_shared_refs(&mut self, entry: &Entry, payload: usize) -> usize {
        let index = self.remove(Path::new(""), entry, vec![payload]);
        self.plan.steps[index].operation = Operation::RemoveSharedRefs;
        index
    }

    /// Adds the removal of `entry`, whose path is relative to the folder `below` of the root; gives the index of the step.
    pub fn remove(&mut self, below: &Path, entry: &Entry, requires: Vec<usize>) -> usize {
        let path = below.join(&entry.path);
        let index = self.plan.steps.len();
        if entry.status.kind == EntryType::File {
            let names = self.inodes.entry(entry.status.inode).or_insert(Names {
                links: entry.status.links,
                disk_bytes: entry.status.disk_bytes,
                steps: Vec::new(),
            });
            names.steps.push(index);
        }
        self.targets.push(entry.status);
        self.plan.steps.push(Step {
            operation: if entry.is_folder() { Operation::RemoveFolder } else { Operation::RemoveFile },
            root: self.root.clone(),
            folder: path.parent().map(Path::to_owned).unwrap_or_default(),
            parent: entry.parent,
            name: entry.name().to_owned(),
            target: entry.status.inode,
            stamp: entry
                .is_file()
                .then_some(Stamp { size_bytes: entry.status.size_bytes, modified: entry.status.modified }),
            bytes: 0,
            locks: Vec::new(),
            requires,
        });
        index
    }

    /// Holds these locks, relative to the root, while step `index` runs. One that somebody else holds by then blocks the step.
    pub fn hold_locks(&mut self, index: usize, locks: impl IntoIterator<Item = PathBuf>) {
        if let Some(step) = self.plan.steps.get_mut(index) {
            step.locks.extend(locks);
        }
    }

    /// Adds the removal of every folder of which everything goes by now. A folder without any content stays: it was empty
    /// before.
    pub fn remove_emptied(&mut self, folders: &Folders) {
        let mut gone: BTreeMap<PathBuf, usize> = BTreeMap::new();
        for (index, step) in self.plan.steps.iter().enumerate() {
            gone.insert(step.folder.join(&step.name), index);
        }
        // A folder sorts before what lies below it, so backwards the deepest come first.
        for (path, folder) in folders.0.iter().rev().filter(|(path, _)| !path.as_os_str().is_empty()) {
            let steps: Option<Vec<usize>> = folder.children.iter().map(|child| gone.get(child).copied()).collect();
            let wanted = !folder.children.is_empty() && !folder.stays && !gone.contains_key(path);
            if let Some(requires) = steps.filter(|_| wanted) {
                gone.insert(path.clone(), self.remove(Path::new(""), &folder.entry, requires));
            }
        }
    }

    /// The plan, after the steps that `blocked` names, those that the system would refuse, those that require them, and the
    /// folders that hold them are taken out of it.
    #[must_use]
    pub fn finish(mut self, mut blocked: Vec<Blocked>) -> Plan {
        blocked.extend(self.refused());
        self.drop_blocked(blocked);
        self.counted()
    }

    /// The plan with all of its steps, whatever the system would refuse to this user: somebody else will run them.
    #[must_use]
    pub fn finish_for_another(self) -> Plan {
        self.counted()
    }

    fn counted(mut self) -> Plan {
        for names in self.inodes.values() {
            // Only the step that removes the last name frees anything.
            if let Some(&last) = names.steps.last().filter(|_| names.steps.len() as u64 >= names.links) {
                self.plan.steps[last].bytes = names.disk_bytes;
            }
        }
        self.plan.expected_bytes = self.plan.steps.iter().map(|step| step.bytes).sum();
        self.plan
    }

    /// What permissions, sticky folders and read-only file systems forbid.
    fn refused(&self) -> Vec<Blocked> {
        let mut folders: BTreeMap<PathBuf, Removal> = BTreeMap::new();
        let steps = self.plan.steps.iter().zip(&self.targets);
        steps
            .filter_map(|(step, target)| {
                let folder = step.root.join(&step.folder);
                let removal = folders.entry(folder).or_insert_with_key(|folder| Removal::from_folder(folder));
                let because = removal.blocked(&step.name, target).or_else(|| locked(step))?;
                Some(Blocked { path: step.path(), because })
            })
            .collect()
    }

    fn drop_blocked(&mut self, blocked: Vec<Blocked>) {
        self.plan.blocked.extend(blocked);
        if self.plan.blocked.is_empty() {
            return;
        }
        let stays: BTreeSet<&Path> = self.plan.blocked.iter().map(|blocked| blocked.path.as_path()).collect();
        let mut kept_index: Vec<Option<usize>> = Vec::with_capacity(self.plan.steps.len());
        let mut dropped: BTreeSet<PathBuf> = stays.iter().map(|path| path.to_path_buf()).collect();
        let mut count = 0;
        for step in &self.plan.steps {
            let path = step.path();
            let goes = !stays.contains(path.as_path())
                && step.requires.iter().all(|&required| kept_index[required].is_some())
                && !(step.operation == Operation::RemoveFolder && holds_any(&dropped, &path));
            if goes {
                kept_index.push(Some(count));
                count += 1;
            } else {
                kept_index.push(None);
                dropped.insert(path);
            }
        }
        let steps = std::mem::take(&mut self.plan.steps);
        self.plan.steps = steps
            .into_iter()
            .zip(&kept_index)
            .filter(|(_, index)| index.is_some())
            .map(|(mut step, _)| {
                step.requires = step.requires.iter().filter_map(|&required| kept_index[required]).collect();
                step
            })
            .collect();
        for names in self.inodes.values_mut() {
            names.steps = names.steps.iter().filter_map(|&step| kept_index[step]).collect();
        }
    }
}

/// Why a lock of the step cannot be had.
fn locked(step: &Step) -> Option<String> {
    step.locks.iter().find_map(|path| match claim(&step.root, path) {
        Claim::Refused(why) => Some(why),
        Claim::Held(_) | Claim::Absent => None,
    })
}

/// Folders by their paths relative to the root of a store, with what lies in them: what tells whether one becomes empty.
#[derive(Debug, Default)]
pub struct Folders(BTreeMap<PathBuf, Content>);

#[derive(Debug)]
struct Content {
    entry: Entry,
    children: BTreeSet<PathBuf>,
    /// Whether it is to stay, or its content is unknown.
    stays: bool,
}

impl Folders {
    /// Adds a folder with the paths, relative to the root, of everything that lies in it.
    pub fn add(&mut self, entry: Entry, children: impl IntoIterator<Item = PathBuf>) {
        let content = Content { children: children.into_iter().collect(), entry, stays: false };
        self.0.insert(content.entry.path.clone(), content);
    }

    /// Keeps a folder and those around it, whatever else goes.
    pub fn keep(&mut self, path: &Path) {
        for path in path.ancestors() {
            if let Some(folder) = self.0.get_mut(path) {
                folder.stays = true;
            }
        }
    }
}

/// Whether one of `paths` lies below `folder`.
fn holds_any(paths: &BTreeSet<PathBuf>, folder: &Path) -> bool {
    paths.range(folder.to_path_buf()..).take_while(|path| path.starts_with(folder)).any(|path| path != folder)
}

/// The paths that following the link at `link` passes through, itself first, its final target last. Stops where
/// nothing is, and after 40 links as the kernel does.
#[must_use]
pub fn way_of_link(link: &Path) -> Vec<PathBuf> {
    let mut way = Vec::new();
    let mut todo: Vec<std::ffi::OsString> = parts(link);
    let mut at = PathBuf::from("/");
    let mut links = 0;
    while let Some(part) = todo.pop() {
        if part == ".." {
            at.pop();
            continue;
        }
        let next = at.join(&part);
        match std::fs::read_link(&next) {
            Ok(text) => {
                way.push(next);
                links += 1;
                if links > 40 {
                    return way;
                }
                if text.is_absolute() {
                    at = PathBuf::from("/");
                }
                todo.extend(parts(&text));
            }
            Err(_) => at = next,
        }
    }
    way.push(at);
    way
}

/// `path` without `.` and `..`, by its text alone: nothing on the way is looked at.
#[must_use]
pub fn lexical(path: &Path) -> PathBuf {
    let mut plain = PathBuf::from("/");
    for part in parts(path).into_iter().rev() {
        if part == ".." {
            plain.pop();
        } else {
            plain.push(part);
        }
    }
    plain
}

/// The plain and `..` parts of a path, last first.
fn parts(path: &Path) -> Vec<std::ffi::OsString> {
    use std::path::Component;
    let mut parts: Vec<_> = path
        .components()
        .filter(|part| matches!(part, Component::Normal(_) | Component::ParentDir))
        .map(|part| part.as_os_str().to_owned())
        .collect();
    parts.reverse();
    parts
}

/// What `read` gives: tried again a few times while it is not whole, for another program may be removing what is read.
pub(crate) fn steadily<T>(read: impl Fn() -> T, is_whole: impl Fn(&T) -> bool) -> T {
    let mut found = read();
    for _ in 0..TRIES {
        if is_whole(&found) {
            break;
        }
        std::thread::sleep(PAUSE);
        found = read();
    }
    found
}

/// How often, and how long it waits before each.
const TRIES: u32 = 3;
const PAUSE: std::time::Duration = std::time::Duration::from_millis(20);

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::*;
    use crate::disk::folder::Folder;
    use crate::store::tree::Tree;

    #[test]
    fn bytes_come_back_with_the_last_name() {
        let scratch = tempfile::tempdir().unwrap();
        std::fs::create_dir(scratch.path().join("m")).unwrap();
        std::fs::write(scratch.path().join("m/a"), vec![1; 10_000]).unwrap();
        std::fs::hard_link(scratch.path().join("m/a"), scratch.path().join("m/b")).unwrap();
        let tree = Tree::read(&Folder::open(scratch.path()).unwrap(), OsStr::new("m")).unwrap();
        let plan_of = |names: &[usize]| {
            let mut builder = PlanBuilder::new(scratch.path());
            for &index in names {
                builder.remove(Path::new("m"), &tree.entries[index], Vec::new());
            }
            builder.finish(Vec::new())
        };
        assert_eq!(plan_of(&[0]).expected_bytes, 0);
        let both = plan_of(&[0, 1]);
        assert_eq!(both.expected_bytes, tree.entries[0].status.disk_bytes);
        assert_eq!(both.steps[0].bytes, 0);
    }

    #[test]
    fn what_is_blocked_keeps_what_depends_on_it_and_its_folders() {
        let scratch = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(scratch.path().join("m/sub")).unwrap();
        for name in ["sub/a", "b", "c"] {
            std::fs::write(scratch.path().join("m").join(name), b"x").unwrap();
        }
        let tree = Tree::read(&Folder::open(scratch.path()).unwrap(), OsStr::new("m")).unwrap();
        let find = |path: &str| tree.entries.iter().find(|entry| entry.path == Path::new(path)).unwrap();
        let mut builder = PlanBuilder::new(scratch.path());
        let a = builder.remove(Path::new("m"), find("sub/a"), Vec::new());
        builder.remove(Path::new("m"), find("b"), vec![a]);
        let c = builder.remove(Path::new("m"), find("c"), Vec::new());
        builder.remove(Path::new("m"), find("sub"), vec![c]);
        let blocked = Blocked { path: scratch.path().join("m/sub/a"), because: "test".to_owned() };
        let plan = builder.finish(vec![blocked]);
        assert_eq!(plan.steps.len(), 1);
        assert_eq!(plan.steps[0].name, "c");
        assert_eq!(plan.blocked.len(), 1);
    }

    #[test]
    fn a_link_names_every_stop_on_its_way() {
        let scratch = tempfile::tempdir().unwrap();
        let root = scratch.path().canonicalize().unwrap();
        std::fs::create_dir(root.join("real")).unwrap();
        std::fs::write(root.join("real/x"), b"x").unwrap();
        std::os::unix::fs::symlink("real", root.join("folder")).unwrap();
        std::os::unix::fs::symlink("folder/../folder/x", root.join("link")).unwrap();
        std::os::unix::fs::symlink("loop", root.join("loop")).unwrap();
        let way = way_of_link(&root.join("link"));
        assert_eq!(way.first(), Some(&root.join("link")));
        assert!(way.contains(&root.join("folder")));
        assert_eq!(way.last(), Some(&root.join("real/x")));
        assert!(way_of_link(&root.join("loop")).len() > 40);
    }
}
