//! A Hugging Face cache made by hand, as its clients leave it, and what is true of it by construction.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

use rbee_hive::disk::deletion::{self, Hook, NoHook};
use rbee_hive::model::{DeletionReport, Model, Plan, StoreSummary};
use rbee_hive::store::hf::HfStore;
use rbee_hive::store::{Part, Store, Target};
use sha2::Digest as _;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

/// A commit made of one digit.
pub fn commit(digit: char) -> String {
    digit.to_string().repeat(40)
}

pub fn sha256(bytes: &[u8]) -> String {
    sha2::Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Git's id of a file.
pub fn git_id(bytes: &[u8]) -> String {
    let mut hash = sha1::Sha1::new();
    hash.update(format!("blob {}\0", bytes.len()));
    hash.update(bytes);
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Bytes that no other seed gives.
pub fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    (0..length).map(|_| next()).collect()
}

/// `st_blocks * 512` of one file.
pub fn blocks(path: &Path) -> u64 {
    fs::symlink_metadata(path).unwrap().blocks() * 512
}

/// `st_blocks * 512` of the distinct regular files below `path`, as `du` counts them.
pub fn du(path: &Path) -> u64 {
    inodes(path).values().map(|(bytes, _)| bytes).sum()
}

/// Every regular file below `path` by inode: its blocks in bytes, and its names there.
pub fn inodes(path: &Path) -> BTreeMap<(u64, u64), (u64, u64)> {
    fn walk(path: &Path, found: &mut BTreeMap<(u64, u64), (u64, u64)>) {
        let Ok(status) = fs::symlink_metadata(path) else { return };
        if status.is_file() {
            found.entry((status.dev(), status.ino())).or_insert((status.blocks() * 512, 0)).1 += 1;
        } else if status.is_dir() {
            fs::read_dir(path).unwrap().for_each(|entry| walk(&entry.unwrap().path(), found));
        }
    }
    let mut found = BTreeMap::new();
    walk(path, &mut found);
    found
}

/// Every name below `path`, nothing followed.
pub fn names(path: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut todo = vec![path.to_owned()];
    while let Some(folder) = todo.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() {
                todo.push(entry.path());
            }
            found.insert(entry.path());
        }
    }
    found
}

pub fn whole(id: &str) -> Target {
    Target { id: id.to_owned(), part: Part::Whole }
}

pub fn revision(id: &str, name: &str) -> Target {
    Target { id: id.to_owned(), part: Part::Revision(name.to_owned()) }
}

pub fn run_with(plan: &Plan, hook: &mut dyn Hook) -> DeletionReport {
    deletion::run(plan, hook, &|_| false, &mut |_, _| {}, &CancellationToken::new())
}

/// A scratch folder with a cache in `hub` and room for what lies outside.
pub struct Cache {
    pub scratch: TempDir,
    pub hub: PathBuf,
}

impl Default for Cache {
    fn default() -> Self {
        Self::new()
    }
}

impl Cache {
    pub fn new() -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let hub = scratch.path().canonicalize().unwrap().join("hub");
        fs::create_dir(&hub).unwrap();
        Self { scratch, hub }
    }

    pub fn store(&self) -> HfStore {
        HfStore::new(self.hub.clone())
    }

    /// Writes a file below the cache.
    pub fn put(&self, path: impl AsRef<Path>, bytes: &[u8]) -> PathBuf {
        let path = self.hub.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        path
    }

    /// Makes a link below the cache.
    pub fn link(&self, path: impl AsRef<Path>, to: impl AsRef<Path>) -> PathBuf {
        let path = self.hub.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        symlink(to, &path).unwrap();
        path
    }

    /// A file outside of the cache.
    pub fn outside(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.hub.parent().unwrap().join("outside").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        path
    }

    /// The link of a revision's file to a blob.
    pub fn name(&self, folder: &str, commit: &str, path: &str, blob: &str) -> PathBuf {
        let up = "../".repeat(2 + path.matches('/').count());
        self.link(Path::new(folder).join("snapshots").join(commit).join(path), format!("{up}blobs/{blob}"))
    }

    /// A large file of a revision: the blob, named by its sha256, and the link to it.
    pub fn file(&self, folder: &str, commit: &str, path: &str, bytes: &[u8]) -> PathBuf {
        let etag = sha256(bytes);
        let blob = Path::new(folder).join("blobs").join(&etag);
        if self.hub.join(&blob).symlink_metadata().is_err() {
            self.put(&blob, bytes);
        }
        self.name(folder, commit, path, &etag);
        self.hub.join(blob)
    }

    /// The same with the bytes in the shared store, in two hops, and a line in the payload's list of users.
    pub fn shared(&self, folder: &str, commit: &str, path: &str, bytes: &[u8]) -> PathBuf {
        self.put("blobs/.huggingface-shared-blobs", b"1\n");
        let etag = sha256(bytes);
        // Any 64 digits that are no checksum of the bytes, as a Xet hash is.
        let hash = sha256(etag.as_bytes());
        let payload = Path::new("blobs").join(&hash[..2]).join(&hash);
        if !self.hub.join(&payload).exists() {
            self.put(&payload, bytes);
        }
        let blob = Path::new(folder).join("blobs").join(&etag);
        if self.hub.join(&blob).symlink_metadata().is_err() {
            self.link(&blob, format!("../../blobs/{}/{hash}", &hash[..2]));
            let list = self.hub.join(payload.with_extension("refs"));
            let lines = fs::read_to_string(&list).unwrap_or_default();
            fs::write(list, format!("{lines}{folder}/blobs/{etag}\n")).unwrap();
        }
        self.name(folder, commit, path, &etag);
        self.hub.join(payload)
    }

    pub fn reference(&self, folder: &str, name: &str, commit: &str) -> PathBuf {
        self.put(Path::new(folder).join("refs").join(name), commit.as_bytes())
    }

    pub fn scan(&self) -> (BTreeMap<String, Model>, StoreSummary) {
        let mut rows = BTreeMap::new();
        let mut sink = |row: rbee_hive::store::Row| {
            assert!(rows.insert(row.model.identity.id.clone(), row.model).is_none(), "two rows of one id");
        };
        let summary = self.store().scan(&mut sink, &CancellationToken::new());
        assert_eq!(summary.models, rows.len() as u64);
        (rows, summary)
    }

    pub fn row(&self, id: &str) -> Model {
        let row = self.scan().0.remove(id).unwrap_or_else(|| panic!("no row {id}"));
        let details = self.store().details(id).unwrap().model;
        assert_eq!(row, Model { accessed: row.accessed, ..details }, "a scan and the details differ");
        row
    }

    pub fn plan(&self, targets: &[Target]) -> Plan {
        self.store().plan_deletion(targets).unwrap()
    }

    /// Deletes and checks every figure: planned, reported, and what `du` sees. Gives the plan.
    pub fn delete(&self, targets: &[Target]) -> (Plan, u64) {
        let before = du(self.scratch.path());
        let plan = self.plan(targets);
        assert_eq!(plan.blocked, [], "{targets:?}");
        let report = run_with(&plan, &mut NoHook);
        assert_eq!(report.failed, [], "{targets:?}");
        let freed = before - du(self.scratch.path());
        assert_eq!((plan.expected_bytes, report.freed_bytes), (freed, freed), "{targets:?}");
        (plan, freed)
    }

    /// What a program that loads models reads: every name in a revision, links followed.
    pub fn readable(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let is_name = |path: &PathBuf| {
            path.strip_prefix(&self.hub).unwrap().iter().nth(1).is_some_and(|part| part == "snapshots")
        };
        names(&self.hub)
            .into_iter()
            .filter(is_name)
            .filter(|path| fs::metadata(path).is_ok_and(|status| status.is_file()))
            .map(|path| (path.clone(), fs::read(&path).unwrap()))
            .collect()
    }

    /// Refs with the commit that they name, by path.
    pub fn references(&self) -> BTreeMap<PathBuf, String> {
        let is_ref = |path: &PathBuf| {
            path.strip_prefix(&self.hub).unwrap().iter().nth(1).is_some_and(|part| part == "refs") && path.is_file()
        };
        names(&self.hub)
            .into_iter()
            .filter(is_ref)
            .map(|path| (path.clone(), fs::read_to_string(path).unwrap_or_default()))
            .collect()
    }

    /// A copy of the whole scratch folder, links and hard links as they are.
    pub fn copy(&self) -> Self {
        let copy = Self::new();
        let status = std::process::Command::new("cp")
            .arg("-a")
            .arg("--sparse=auto")
            .args([self.scratch.path().join("."), copy.scratch.path().to_owned()])
            .status()
            .unwrap();
        assert!(status.success());
        copy
    }
}
