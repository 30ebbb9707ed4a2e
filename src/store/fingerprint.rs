//! Whether a store changed since the last look, told by its folders alone: what comes, goes or is renamed in a folder moves its times.

use std::hash::Hasher;
use std::path::Path;

use rustix::io::Errno;

use crate::disk::fast_map::InodeHasher;
use crate::disk::folder::{EntryType, Folder, Status, os_str};

/// Most folders that one look takes in: what lies beyond them changes unnoticed.
const MAX_FOLDERS: usize = 50_000;

/// Inodes and times of folders, in any order. Differs from the one before when something in the folders came, went or was renamed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fingerprint {
    sum: u64,
    folders: usize,
}

impl Fingerprint {
    /// How many folders were looked at.
    #[must_use]
    pub fn folders(&self) -> usize {
        self.folders
    }

    /// Adds what another store told.
    pub fn merge(&mut self, other: &Self) {
        self.sum = self.sum.rotate_left(7).wrapping_add(other.sum);
        self.folders += other.folders;
    }

    /// What the folder at `root` and `depth` levels of folders below it tell. One that cannot be read tells that.
    pub(super) fn of(root: &Path, depth: usize) -> Self {
        let mut fingerprint = Self::default();
        match fingerprint.top(root) {
            Some(root) if depth > 0 => fingerprint.below(&root, depth - 1),
            _ => {}
        }
        fingerprint
    }

    /// Adds the root of a store, and gives it open.
    pub(super) fn top(&mut self, root: &Path) -> Option<Folder> {
        let opened = Folder::open(root).and_then(|folder| Ok((folder.own_status()?, folder)));
        match opened {
            Ok((status, folder)) => {
                self.add(&status);
                Some(folder)
            }
            Err(error) => {
                self.fail(error);
                None
            }
        }
    }

    /// Adds the folders in `folder`, and `depth` levels of those below them. No link is followed.
    pub(super) fn below(&mut self, folder: &Folder, depth: usize) {
        self.each_folder(folder, |fingerprint, folder, name| {
            if depth == 0 {
                fingerprint.entry(folder, name);
                return;
            }
            match folder.folder(os_str(name)) {
                Ok(inner) => {
                    if let Ok(status) = inner.own_status() {
                        fingerprint.add(&status);
                    }
                    fingerprint.below(&inner, depth - 1);
                }
                Err(error) => fingerprint.fail(error),
            }
        });
    }

    /// Calls `each` with the name of every folder in `folder`, up to the limit.
    pub(super) fn each_folder(&mut self, folder: &Folder, mut each: impl FnMut(&mut Self, &Folder, &std::ffi::CStr)) {
        let result = folder.each(|name, kind| {
            let kind = kind.or_else(|| folder.status(os_str(name)).ok().map(|status| status.kind));
            if kind == Some(EntryType::Folder) && self.folders < MAX_FOLDERS {
                each(self, folder, name);
            }
        });
        if let Err(error) = result {
            self.fail(error);
        }
    }

    /// Adds what `path` below `folder` is.
    pub(super) fn entry(&mut self, folder: &Folder, path: &std::ffi::CStr) {
        match folder.status(os_str(path)) {
            Ok(status) => self.add(&status),
            Err(error) => self.fail(error),
        }
    }

    fn add(&mut self, status: &Status) {
        let mut hasher = InodeHasher::default();
        hasher.write_u64(status.inode.device);
        hasher.write_u64(status.inode.inode);
        for time in [status.modified, status.changed] {
            hasher.write_u64(time.map_or(u64::MAX, |time| time.as_nanosecond() as u64));
        }
        self.sum = self.sum.wrapping_add(hasher.finish());
        self.folders += 1;
    }

    fn fail(&mut self, error: Errno) {
        let mut hasher = InodeHasher::default();
        hasher.write_u64(u64::from(error.raw_os_error().unsigned_abs()));
        self.sum = self.sum.wrapping_add(hasher.finish());
        self.folders += 1;
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::{Duration, Instant};

    use crate::store::Store;

    /// Waits until what is changed now has another time than what was changed before: the clock of a file system may tick
    /// as slowly as a hundred times a second.
    fn tick() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let stamp = || {
            fs::write(file.path(), b"x").unwrap();
            file.path().metadata().unwrap().modified().unwrap()
        };
        let (before, begun) = (stamp(), Instant::now());
        while stamp() == before {
            assert!(begun.elapsed() < Duration::from_secs(60), "the clock of the file system stands");
        }
    }

    /// What is done to a store moves its fingerprint, and nothing moves it by itself.
    fn moves(store: &dyn Store, changes: &[&dyn Fn()]) {
        let mut before = store.fingerprint();
        for (index, change) in changes.iter().enumerate() {
            assert_eq!(store.fingerprint(), before, "before change {index}");
            tick();
            change();
            let after = store.fingerprint();
            assert_ne!(after, before, "change {index}");
            before = after;
        }
    }

    #[test]
    fn every_kind_of_store_tells_what_comes_and_goes() {
        let scratch = tempfile::tempdir().unwrap();
        let root = |name: &str| scratch.path().join(name);
        let write = |path: &str| {
            let path = root(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, b"x").unwrap();
        };
        let remove = |path: &str| fs::remove_file(root(path)).unwrap();

        let flat = crate::store::flat::FlatStore::new(root("flat"), Vec::new());
        moves(
            &flat,
            &[&|| write("flat/a/m.gguf"), &|| write("flat/a/n.gguf"), &|| remove("flat/a/m.gguf"), &|| {
                fs::remove_dir_all(root("flat")).unwrap();
            }],
        );
        let hf = crate::store::hf::HfStore::new(root("hf"));
        let repository = "hf/models--o--n";
        moves(
            &hf,
            &[
                &|| write(&format!("{repository}/blobs/e")),
                &|| write(&format!("{repository}/snapshots/c/f")),
                &|| {
                    write(&format!("{repository}/refs/main"));
                },
                &|| remove(&format!("{repository}/blobs/e")),
            ],
        );
        let ollama = crate::store::ollama::OllamaStore::new(&root("ollama"));
        moves(
            &ollama,
            &[
                &|| write("ollama/blobs/sha256-x"),
                &|| write("ollama/manifests/h/n/m/latest"),
                &|| {
                    write("ollama/manifests/h/n/m/other");
                },
                &|| remove("ollama/manifests/h/n/m/latest"),
            ],
        );
        let studio = crate::store::lm_studio::LmStudioStore::new(&root("studio"));
        moves(
            &studio,
            &[&|| write("studio/p/r/m.gguf"), &|| write("studio/p/r/n.gguf"), &|| write("studio/p/s/m.gguf")],
        );
        let llama = crate::store::llama_cpp::LlamaCppStore::new(&root("llama"));
        moves(&llama, &[&|| write("llama/m.gguf"), &|| remove("llama/m.gguf")]);
    }
}
