//! A folder that is gone when its process is, however that ends.

use std::fs;
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::error::{Error, Result};
use crate::model::text;

/// Waits until nobody holds its input open any more — this process is then done with the folder or dead — and removes it.
const CLEANER: &str = r#"trap '' HUP INT TERM QUIT; read -r _; rm -rf -- "$1""#;

/// A new folder that only this user can enter. Dropping it removes it with everything in it; so does the end of the
/// process, by a signal or a panic too, because a small shell waits for that.
#[derive(Debug)]
pub struct Throwaway {
    path: PathBuf,
    cleaner: Option<Child>,
}

impl Throwaway {
    /// Makes a folder in `parent` whose name begins with `prefix`.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn create(parent: &Path, prefix: &str) -> Result<Self> {
        loop {
            // The keys that the standard library draws for a map are random enough for a name that nobody has yet.
            let drawn = std::hash::RandomState::new().build_hasher().finish();
            let path = parent.join(format!("{prefix}{drawn:016x}"));
            match fs::DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => {
                    let path = path.canonicalize().map_err(Error::io("open", path))?;
                    let cleaner = clean_after(&path);
                    return Ok(Self { path, cleaner });
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(Error::io("create", path)(error)),
            }
        }
    }

    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Starts the shell that waits; without a shell the folder outlives a process that is killed.
fn clean_after(path: &Path) -> Option<Child> {
    let cleaner = Command::new("/bin/sh")
        .args(["-c", CLEANER, "sh"])
        .arg(path)
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        // In a group of its own, the keys and the hang-up of the terminal do not reach it.
        .process_group(0)
        .spawn();
    cleaner
        .inspect_err(|error| {
            tracing::warn!("{} stays if this process is killed: {error}", text::printable_path(path));
        })
        .ok()
}

impl Drop for Throwaway {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!("cannot remove {}: {error}", text::printable_path(&self.path));
        }
        if let Some(mut cleaner) = self.cleaner.take() {
            drop(cleaner.stdin.take());
            // It has nothing left to do and ends at once.
            _ = cleaner.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_private_and_gone_when_it_is_dropped() {
        use std::os::unix::fs::PermissionsExt;
        let parent = tempfile::tempdir().unwrap();
        let throwaway = Throwaway::create(parent.path(), "x-").unwrap();
        let path = throwaway.path().to_owned();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        fs::create_dir_all(path.join("a/b")).unwrap();
        fs::write(path.join("a/b/c"), "x").unwrap();
        drop(throwaway);
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0);
    }

    #[test]
    fn it_is_gone_when_its_process_is_killed() {
        let parent = tempfile::tempdir().unwrap();
        let kept = parent.path().join("kept");
        fs::create_dir(&kept).unwrap();
        let mut throwaway = Throwaway::create(parent.path(), "x y'-").unwrap();
        fs::write(throwaway.path().join("c"), "x").unwrap();
        std::os::unix::fs::symlink(&kept, throwaway.path().join("link")).unwrap();
        let mut cleaner = throwaway.cleaner.take().unwrap();
        let path = throwaway.path().to_owned();
        std::mem::forget(throwaway);
        // The end of the process closes what it held open; here only that happens.
        drop(cleaner.stdin.take());
        assert!(cleaner.wait().unwrap().success());
        assert!(!path.exists() && kept.exists());
    }
}
