//! Everything below a folder, one `lstat` an entry, no link followed.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags, openat, statat};
use rustix::io::Errno;
use tokio_util::sync::CancellationToken;

use super::FileInfo;
use crate::error::{Error, Result};

/// Folders deeper than this are not entered unless the caller says otherwise. Each level keeps one descriptor open.
pub const MAX_DEPTH: usize = 64;

/// What to do after an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Visit {
    /// Go on; into the entry if it is a folder.
    Enter,
    /// Go on, but not into this folder.
    Skip,
    /// End the walk.
    Stop,
}

/// A folder that could not be read, or not to its end. What is in it is unknown, which is not the same as empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unknown {
    /// Path below the root; empty for the root itself.
    pub path: PathBuf,
    /// Why, in words.
    pub because: String,
}

/// One entry of [`tree`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Path below the root.
    pub path: PathBuf,
    /// What the kernel says of it.
    pub info: FileInfo,
}

/// Everything below a folder.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tree {
    /// The entries, each folder before what is in it, names in byte order.
    pub entries: Vec<Entry>,
    /// Folders whose content is not among the entries, or not all of it.
    pub unknown: Vec<Unknown>,
}

/// Collects everything below `root`; see [`walk`].
///
/// # Errors
/// As [`walk`].
pub fn tree(root: &Path, max_depth: usize, cancel: &CancellationToken) -> Result<Tree> {
    let mut entries = Vec::new();
    let unknown = walk(root, max_depth, cancel, &mut |path, info| {
        entries.push(Entry { path: path.to_owned(), info: *info });
        Visit::Enter
    })?;
    Ok(Tree { entries, unknown })
}

/// Gives each entry below `root` to `visit`, with its path below the root: a folder before what is in it, the names of
/// a folder in byte order. Links are entries and are never followed (`root` itself may be one); pipes, sockets and
/// devices are just entries. Entries at depth 1 are those directly in `root`; folders at `max_depth` are not entered. What
/// disappears meanwhile is left out. Gives the folders that could not be read.
///
/// # Errors
/// [`crate::Error::Io`] when `root` cannot be opened as a folder; [`crate::Error::Cancelled`].
pub fn walk(
    root: &Path,
    max_depth: usize,
    cancel: &CancellationToken,
    visit: &mut dyn FnMut(&Path, &FileInfo) -> Visit,
) -> Result<Vec<Unknown>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = openat(CWD, root, flags, Mode::empty()).map_err(|error| Error::io("read", root)(error.into()))?;
    let mut walker = Walker { visit, cancel, max_depth, path: PathBuf::new(), unknown: Vec::new() };
    match walker.folder(folder, 1) {
        Ok(()) | Err(End::Stopped) => Ok(walker.unknown),
        Err(End::Cancelled) => Err(Error::Cancelled),
    }
}

/// Why a walk ends before everything was seen.
enum End {
    Stopped,
    Cancelled,
}

struct Walker<'a> {
    visit: &'a mut dyn FnMut(&Path, &FileInfo) -> Visit,
    cancel: &'a CancellationToken,
    max_depth: usize,
    /// Path below the root of the folder or entry at hand.
    path: PathBuf,
    unknown: Vec<Unknown>,
}

impl Walker<'_> {
    fn folder(&mut self, folder: OwnedFd, depth: usize) -> Result<(), End> {
        let mut folder = match Dir::new(folder) {
            Ok(folder) => folder,
            Err(error) => {
                self.unknown(&error.into());
                return Ok(());
            }
        };
        let names = self.names(&mut folder);
        let Ok(folder) = folder.fd() else { return Ok(()) };
        for (number, name) in names.iter().enumerate() {
            if number % 256 == 0 && self.cancel.is_cancelled() {
                return Err(End::Cancelled);
            }
            let name = OsStr::from_bytes(name);
            let stat = match statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                Err(Errno::NOENT) => continue,
                Err(error) => {
                    self.path.push(name);
                    self.unknown(&error.into());
                    self.path.pop();
                    continue;
                }
            };
            let info = FileInfo::new(&stat);
            self.path.push(name);
            let ended = match (self.visit)(&self.path, &info) {
                Visit::Enter if info.is_folder() => self.enter(folder, name, depth),
                Visit::Enter | Visit::Skip => Ok(()),
                Visit::Stop => Err(End::Stopped),
            };
            self.path.pop();
            ended?;
        }
        Ok(())
    }

    fn enter(&mut self, parent: impl AsFd, name: &OsStr, depth: usize) -> Result<(), End> {
        if depth >= self.max_depth {
            self.unknown(&io::Error::other(format!("it is deeper than {} folders", self.max_depth)));
            return Ok(());
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match openat(parent, name, flags, Mode::empty()) {
            Ok(folder) => self.folder(folder, depth + 1),
            Err(Errno::NOENT) => Ok(()),
            Err(error) => {
                self.unknown(&error.into());
                Ok(())
            }
        }
    }

    /// The names in a folder, in byte order. Read to the end before anything is looked at, so that what the visitor
    /// does to the folder does not change what is seen.
    fn names(&mut self, folder: &mut Dir) -> Vec<Box<[u8]>> {
        let mut names: Vec<Box<[u8]>> = Vec::new();
        while let Some(entry) = folder.read() {
            match entry {
                Ok(entry) => {
                    let name = entry.file_name().to_bytes();
                    if !matches!(name, b"." | b"..") {
                        names.push(name.into());
                    }
                }
                Err(error) => {
                    self.unknown(&error.into());
                    break;
                }
            }
        }
        names.sort_unstable();
        names
    }

    fn unknown(&mut self, error: &io::Error) {
        self.unknown.push(Unknown { path: self.path.clone(), because: crate::error::io_reason(error) });
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::disk::FileKind;
    use crate::disk::usage::Usage;

    fn sample() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        std::fs::create_dir_all(root.join("b/c")).unwrap();
        std::fs::write(root.join("b/c/deep"), vec![1; 10_000]).unwrap();
        std::fs::write(root.join("a"), "x").unwrap();
        std::fs::hard_link(root.join("a"), root.join("b/again")).unwrap();
        symlink("..", root.join("b/up")).unwrap();
        rustix::fs::mknodat(CWD, root.join("pipe"), rustix::fs::FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        std::fs::write(root.join(OsStr::from_bytes(b"n\xff\n")), "").unwrap();
        folder
    }

    #[test]
    fn every_entry_once_in_order_and_no_link_followed() {
        let folder = sample();
        let tree = tree(folder.path(), MAX_DEPTH, &CancellationToken::new()).unwrap();
        let seen: Vec<(&[u8], FileKind)> =
            tree.entries.iter().map(|entry| (entry.path.as_os_str().as_bytes(), entry.info.kind)).collect();
        assert_eq!(
            seen,
            [
                (b"a".as_slice(), FileKind::File),
                (b"b", FileKind::Folder),
                (b"b/again", FileKind::File),
                (b"b/c", FileKind::Folder),
                (b"b/c/deep", FileKind::File),
                (b"b/up", FileKind::Link),
                (b"n\xff\n", FileKind::File),
                (b"pipe", FileKind::Other),
            ]
        );
        assert!(tree.unknown.is_empty());
        let mut usage = Usage::default();
        tree.entries.iter().for_each(|entry| usage.add_info(&entry.info));
        assert_eq!(usage.size_bytes(), 10_001, "one inode, one count");
        assert_eq!(tree.entries[0].info.links, 2);
        assert!(tree.entries[4].info.disk_bytes >= 10_000);
        assert!(tree.entries[0].info.modified.is_some());
    }

    #[test]
    fn depth_is_bounded_and_said() {
        let folder = sample();
        let tree = tree(folder.path(), 2, &CancellationToken::new()).unwrap();
        assert!(!tree.entries.iter().any(|entry| entry.path.ends_with("deep")));
        assert_eq!(tree.unknown.len(), 1);
        assert_eq!(tree.unknown[0].path, Path::new("b/c"));
        assert_eq!(tree.unknown[0].because, "it is deeper than 2 folders");
    }

    #[test]
    fn skip_stop_and_cancel() {
        let folder = sample();
        let mut seen = 0;
        let cancel = CancellationToken::new();
        walk(folder.path(), MAX_DEPTH, &cancel, &mut |_, _| {
            seen += 1;
            Visit::Skip
        })
        .unwrap();
        assert_eq!(seen, 4);
        walk(folder.path(), MAX_DEPTH, &cancel, &mut |_, _| {
            seen += 1;
            Visit::Stop
        })
        .unwrap();
        assert_eq!(seen, 5);
        cancel.cancel();
        assert!(tree(folder.path(), MAX_DEPTH, &cancel).unwrap_err().is_cancelled());
    }

    #[test]
    fn a_root_that_is_no_folder_is_an_error() {
        let folder = sample();
        for path in ["a", "none"] {
            assert!(tree(&folder.path().join(path), MAX_DEPTH, &CancellationToken::new()).is_err());
        }
    }

    #[test]
    fn what_the_visitor_removes_is_left_out() {
        let folder = sample();
        let mut seen = Vec::new();
        walk(folder.path(), MAX_DEPTH, &CancellationToken::new(), &mut |path, _| {
            seen.push(path.to_owned());
            if path == Path::new("b") {
                std::fs::remove_dir_all(folder.path().join("b")).unwrap();
                std::fs::remove_file(folder.path().join("pipe")).unwrap();
            }
            Visit::Enter
        })
        .unwrap();
        assert_eq!(seen.len(), 3, "{seen:?}");
    }

    #[test]
    #[ignore = "a measurement: run it with --ignored --nocapture, best in a release build"]
    fn as_fast_as_du() {
        let folder = tempfile::tempdir().unwrap();
        for outer in 0..100 {
            let inner = folder.path().join(format!("models--org--name-{outer:03}/snapshots/{outer:040x}"));
            std::fs::create_dir_all(&inner).unwrap();
            for file in 0..1000 {
                std::fs::File::create(inner.join(format!("model-{file:05}-of-01000.safetensors"))).unwrap();
            }
        }
        let mut ratios = Vec::new();
        for _ in 0..5 {
            let start = std::time::Instant::now();
            let output = std::process::Command::new("du").arg("-s").arg(folder.path()).output().unwrap();
            let du = start.elapsed();
            assert!(output.status.success());
            let start = std::time::Instant::now();
            let mut usage = Usage::default();
            walk(folder.path(), MAX_DEPTH, &CancellationToken::new(), &mut |_, info| {
                usage.add_info(info);
                Visit::Enter
            })
            .unwrap();
            let own = start.elapsed();
            ratios.push(own.as_secs_f64() / du.as_secs_f64());
            println!("walk {own:?}, du -s {du:?}, {} bytes", usage.disk_bytes());
        }
        ratios.sort_by(f64::total_cmp);
        println!("median ratio {:.2}", ratios[2]);
    }
}
