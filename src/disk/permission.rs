//! What the kernel would refuse to remove, found before anyone tries.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD, StatVfsMountFlags, accessat, stat, statvfs};
use rustix::io::Errno;

use super::FileInfo;
use crate::error::io_reason;
use crate::machine::{current_user, user_label};
use crate::model::text::printable_path;

/// What may be removed from one folder. Asked once for a folder, used for each name in it.
#[derive(Clone, Debug)]
pub struct Removal {
    folder: PathBuf,
    /// Why nothing at all may be removed from it.
    refused: Option<String>,
    /// Owner of a sticky folder, from which only the owners of file and folder, and root, may remove.
    sticky: Option<u32>,
}

impl Removal {
    /// Asks the kernel about `folder`.
    #[must_use]
    pub fn from_folder(folder: &Path) -> Self {
        let info = match stat(folder) {
            Ok(stat) => FileInfo::new(&stat),
            Err(error) => {
                let refused = Some(format!("the folder cannot be examined: {}", io_reason(&error.into())));
                return Self { folder: folder.to_owned(), refused, sticky: None };
            }
        };
        Self {
            folder: folder.to_owned(),
            refused: refusal(folder, &info),
            sticky: (info.mode & 0o1000 != 0 && info.is_folder()).then_some(info.uid),
        }
    }

    /// Why `name`, which stands for `target`, cannot be removed from the folder, and what would help; `None` if nothing
    /// forbids it.
    #[must_use]
    pub fn blocked(&self, name: &OsStr, target: &FileInfo) -> Option<String> {
        if let Some(refused) = &self.refused {
            return Some(refused.clone());
        }
        let user = current_user();
        if let Some(owner) = self.sticky
            && ![0, owner, target.uid].contains(&user)
        {
            let mut who: Vec<u32> = [target.uid, owner].into_iter().filter(|uid| *uid != 0).collect();
            who.push(0);
            who.dedup();
            let who: Vec<String> = who.into_iter().map(user_label).collect();
            return Some(format!(
                "{} is a sticky folder and the file is another user's; run as {}",
                printable_path(&self.folder),
                who.join(" or ")
            ));
        }
        locked_by_attribute(&self.folder.join(name))
    }
}

/// Whether the kernel would forbid removing `name`, which stands for `target`, from `folder`: why, and what would help. For
/// several names of one folder, [`Removal`] asks less.
#[must_use]
pub fn blocked(folder: &Path, name: &OsStr, target: &FileInfo) -> Option<String> {
    Removal::from_folder(folder).blocked(name, target)
}

fn refusal(folder: &Path, info: &FileInfo) -> Option<String> {
    let read_only = || format!("the file system of {} is mounted read-only; mount it rw", printable_path(folder));
    if statvfs(folder).is_ok_and(|stat| stat.f_flag.contains(StatVfsMountFlags::RDONLY)) {
        return Some(read_only());
    }
    match accessat(CWD, folder, Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS) {
        Err(Errno::ACCESS) => Some(no_write_permission(folder, info)),
        Err(Errno::ROFS) => Some(read_only()),
        // Anything else is no refusal: removing will tell.
        Ok(()) | Err(_) => locked_by_attribute(folder),
    }
}

fn no_write_permission(folder: &Path, info: &FileInfo) -> String {
    let (shown, owner) = (printable_path(folder), user_label(info.uid));
    if info.uid == current_user() {
        format!("no write permission on your folder {shown}; run chmod u+wx on it")
    } else if info.uid == 0 || info.mode & 0o300 != 0o300 {
        format!("no write permission on {shown} of {owner}; run as root")
    } else {
        format!("no write permission on {shown} of {owner}; run as {owner} or root")
    }
}

/// Files and folders may be marked so that not even root removes them.
#[cfg(target_os = "linux")]
fn locked_by_attribute(path: &Path) -> Option<String> {
    use rustix::fs::{StatxAttributes, StatxFlags, statx};
    let stat = statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::TYPE).ok()?;
    let shown = printable_path(path);
    if stat.stx_attributes.contains(StatxAttributes::IMMUTABLE) {
        return Some(format!("{shown} is marked immutable; as root run chattr -i on it"));
    }
    if stat.stx_attributes.contains(StatxAttributes::APPEND) {
        return Some(format!("{shown} is marked append-only; as root run chattr -a on it"));
    }
    None
}

#[cfg(not(target_os = "linux"))]
fn locked_by_attribute(_path: &Path) -> Option<String> {
    None
}

/// Why removing failed, in words that say what would help.
pub(super) fn removal_error(error: Errno, folder: &Path, name: &OsStr, target: &FileInfo) -> String {
    match error {
        Errno::ACCESS | Errno::PERM => {
            blocked(folder, name, target).unwrap_or_else(|| "permission denied; run as its owner or root".to_owned())
        }
        Errno::ROFS => "the file system is mounted read-only; mount it rw".to_owned(),
        Errno::BUSY => "it is in use by the system, such as a mount point; unmount it first".to_owned(),
        error => io_reason(&io::Error::from(error)),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::CommandExt;
    use std::process::Command;

    use super::*;
    use crate::disk::safe::Handle;

    fn ask(folder: &Path, name: &str) -> Option<String> {
        let info = Handle::open_root(folder).unwrap().info(OsStr::new(name)).unwrap();
        blocked(folder, OsStr::new(name), &info)
    }

    #[test]
    fn an_ordinary_file_is_free_to_go() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("file"), "").unwrap();
        assert_eq!(ask(folder.path(), "file"), None);
        let gone = folder.path().join("gone");
        assert!(Removal::from_folder(&gone).refused.unwrap().contains("no such file"));
    }

    /// What a user without rights is told: the folder in the variable is asked about by this test in another process.
    const FOLDER: &str = "LLORCH_TEST_PERMISSION_FOLDER";

    #[test]
    fn told_to_another_user() {
        let Some(folder) = std::env::var_os(FOLDER) else { return };
        println!("answer: {}", ask(Path::new(&folder), "file").unwrap_or_else(|| "free".to_owned()));
    }

    fn as_nobody(folder: &Path) -> Option<String> {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "disk::permission::tests::told_to_another_user", "--nocapture"])
            .env(FOLDER, folder)
            .uid(65534)
            .gid(65534)
            .current_dir("/")
            .output()
            .ok()?;
        let output = String::from_utf8_lossy(&output.stdout).into_owned();
        let answer = output.lines().find_map(|line| line.split_once("answer: "))?;
        Some(answer.1.to_owned())
    }

    #[test]
    fn folders_of_others_and_sticky_folders_are_refused_with_the_way_out() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::write(folder.path().join("file"), "").unwrap();
        // Where another user may not run this program, nothing can be shown.
        let Some(answer) = as_nobody(folder.path()) else { return };
        let shown = folder.path().display();
        assert_eq!(answer, format!("no write permission on {shown} of root; run as root"));

        std::os::unix::fs::chown(folder.path(), Some(12345), None).unwrap();
        let answer = as_nobody(folder.path()).unwrap();
        assert_eq!(answer, format!("no write permission on {shown} of 12345; run as 12345 or root"));

        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o1777)).unwrap();
        let answer = as_nobody(folder.path()).unwrap();
        assert!(
            answer.ends_with("is a sticky folder and the file is another user's; run as 12345 or root"),
            "{answer}"
        );

        std::os::unix::fs::chown(folder.path().join("file"), Some(65534), None).unwrap();
        assert_eq!(as_nobody(folder.path()).unwrap(), "free");
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn immutable_files_are_refused_even_to_root() {
        use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let file = std::fs::File::create(&path).unwrap();
        let Ok(flags) = ioctl_getflags(&file) else { return };
        // Not every file system has the mark, and only root sets it.
        if ioctl_setflags(&file, flags | IFlags::IMMUTABLE).is_err() {
            return;
        }
        let answer = ask(folder.path(), "file");
        let removed = std::fs::remove_file(&path);
        ioctl_setflags(&file, flags).unwrap();
        assert!(removed.is_err());
        assert!(answer.unwrap().contains("chattr -i"));
    }

    #[test]
    fn read_only_file_systems_are_named() {
        let mounts = crate::machine::Mounts::read();
        for mount in mounts.iter().filter(|mount| mount.read_only && mount.path.is_dir()) {
            if let Some(refused) = Removal::from_folder(&mount.path).refused {
                assert!(refused.contains("read-only"), "{refused}");
            }
        }
    }
}
