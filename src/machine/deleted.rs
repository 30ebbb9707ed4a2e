//! Files that are deleted and still take room, because a process keeps them open.

use std::path::PathBuf;

use serde::Serialize;

use crate::model::{Holder, Inode, text};

/// A file without a name that a process keeps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DeletedFile {
    /// Where it was.
    #[serde(with = "text::escaped")]
    pub path: PathBuf,
    /// The file.
    #[serde(skip)]
    pub inode: Inode,
    /// `st_blocks * 512` that come back when nobody keeps it; `None` for one that is only mapped and that this user may not
    /// look at.
    pub disk_bytes: Option<u64>,
    /// Who keeps it.
    pub held_by: Vec<Holder>,
}

/// What a look at the processes found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeletedFiles {
    /// The files, each once, the largest first.
    pub files: Vec<DeletedFile>,
    /// Processes of other users that could not be read: they may keep more.
    pub unreadable: usize,
}

/// Looks through `/proc` for regular files without any name left that lay below one of `roots` and that a process has open or
/// mapped. This process itself is left out.
#[must_use]
pub fn find_deleted(roots: &[PathBuf]) -> DeletedFiles {
    #[cfg(target_os = "linux")]
    return scan::run(roots);
    #[cfg(not(target_os = "linux"))]
    {
        let _ = roots;
        DeletedFiles::default()
    }
}

#[cfg(target_os = "linux")]
mod scan {
    use std::collections::BTreeMap;
    use std::ffi::OsStr;
    use std::fs;
    use std::io::{self, Read};
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::MetadataExt;
    use std::path::{Path, PathBuf};

    use super::super::mounts::{device_number, unescape_octal};
    use super::super::process;
    use super::{DeletedFile, DeletedFiles};
    use crate::model::Inode;

    const MARK: &[u8] = b" (deleted)";
    /// A list of mapped files longer than this is cut.
    const MAX_MAPS: u64 = 32 << 20;

    pub(super) fn run(roots: &[PathBuf]) -> DeletedFiles {
        let own = std::process::id();
        let mut files: BTreeMap<Inode, DeletedFile> = BTreeMap::new();
        let mut unreadable = 0;
        let Ok(processes) = fs::read_dir("/proc") else { return DeletedFiles::default() };
        for entry in processes.flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
            if pid == own {
                continue;
            }
            let mut held: BTreeMap<Inode, (PathBuf, Option<u64>)> = BTreeMap::new();
            let refused = [descriptors(pid, roots, &mut held), maps(pid, roots, &mut held)]
                .iter()
                .any(|result| matches!(result, Err(error) if error.kind() == io::ErrorKind::PermissionDenied));
            let arguments = if refused || !held.is_empty() { process::arguments(pid) } else { Vec::new() };
            if refused && !(arguments.is_empty() && process::is_kernel_thread(pid)) {
                unreadable += 1;
            }
            if held.is_empty() {
                continue;
            }
            let holder = process::holder(pid, &arguments);
            for (inode, (path, disk_bytes)) in held {
                let known =
                    files.entry(inode).or_insert(DeletedFile { path, inode, disk_bytes: None, held_by: Vec::new() });
                known.disk_bytes = known.disk_bytes.or(disk_bytes);
                known.held_by.push(holder.clone());
            }
        }
        let mut files: Vec<DeletedFile> = files.into_values().collect();
        for file in &mut files {
            file.held_by.sort_by_key(|holder| holder.pid);
        }
        files.sort_by(|a, b| b.disk_bytes.cmp(&a.disk_bytes).then_with(|| a.path.cmp(&b.path)));
        DeletedFiles { files, unreadable }
    }

    /// The path before the kernel's mark, if it lay below one of the roots.
    fn deleted_below<'a>(link: &'a [u8], roots: &[PathBuf]) -> Option<&'a Path> {
        let path = Path::new(OsStr::from_bytes(link.strip_suffix(MARK)?));
        roots.iter().any(|root| path.starts_with(root)).then_some(path)
    }

    /// Identity and bytes of a regular file without names. A name may end as the mark does: its file has a link.
    fn nameless(path: &str) -> Option<(Inode, u64)> {
        let status = fs::metadata(path).ok()?;
        let inode = Inode { device: status.dev(), inode: status.ino() };
        (status.is_file() && status.nlink() == 0).then(|| (inode, status.blocks() * 512))
    }

    fn descriptors(pid: u32, roots: &[PathBuf], held: &mut BTreeMap<Inode, (PathBuf, Option<u64>)>) -> io::Result<()> {
        for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
            let entry = entry?;
            // Closed meanwhile.
            let Ok(link) = fs::read_link(entry.path()) else { continue };
            let Some(path) = deleted_below(link.as_os_str().as_bytes(), roots) else { continue };
            let name = format!("/proc/{pid}/fd/{}", entry.file_name().to_string_lossy());
            if let Some((inode, bytes)) = nameless(&name) {
                held.insert(inode, (path.to_owned(), Some(bytes)));
            }
        }
        Ok(())
    }

    /// Mapped files, whose descriptors programs close. Their bytes can be asked only with rights that few have.
    fn maps(pid: u32, roots: &[PathBuf], held: &mut BTreeMap<Inode, (PathBuf, Option<u64>)>) -> io::Result<()> {
        let mut buffer = Vec::new();
        fs::File::open(format!("/proc/{pid}/maps"))?.take(MAX_MAPS).read_to_end(&mut buffer)?;
        for line in buffer.split(|byte| *byte == b'\n').filter(|line| line.ends_with(MARK)) {
            let Some((range, inode, link)) = map_line(line) else { continue };
            let link = unescape_octal(link);
            let Some(path) = deleted_below(&link, roots) else { continue };
            let seen = nameless(&format!("/proc/{pid}/map_files/{range}"));
            let (inode, bytes) = match seen {
                Some((inode, bytes)) => (inode, Some(bytes)),
                // The device may be another one here than a descriptor tells: one number below the roots is one file.
                None if held.keys().any(|known| known.inode == inode.inode) => continue,
                // A name that ends as the mark does.
                None if Path::new(OsStr::from_bytes(&link)).symlink_metadata().is_ok() => continue,
                None => (inode, None),
            };
            let known = held.entry(inode).or_insert_with(|| (path.to_owned(), bytes));
            known.1 = known.1.or(bytes);
        }
        Ok(())
    }

    /// Addresses, identity and path of a line such as `7f00-7f01 r--s 00000000 fe:00 1234    /path (deleted)`.
    fn map_line(line: &[u8]) -> Option<(String, Inode, &[u8])> {
        let mut fields = line.splitn(6, |byte| *byte == b' ');
        let range = std::str::from_utf8(fields.next()?).ok()?;
        let device = std::str::from_utf8(fields.nth(2)?).ok()?;
        let number = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
        let (major, minor) = device.split_once(':')?;
        let device = device_number(u32::from_str_radix(major, 16).ok()?, u32::from_str_radix(minor, 16).ok()?);
        // The names in map_files have no leading zeros.
        let range = range.split('-').map(|end| end.trim_start_matches('0')).collect::<Vec<_>>().join("-");
        Some((range, Inode { device, inode: number }, fields.next()?.trim_ascii_start()))
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn only_what_lay_below_a_root_counts() {
            let roots = [PathBuf::from("/m")];
            assert_eq!(deleted_below(b"/m/a b (deleted)", &roots), Some(Path::new("/m/a b")));
            assert_eq!(deleted_below(b"/more/a (deleted)", &roots), None);
            assert_eq!(deleted_below(b"/m/a", &roots), None);
        }

        #[test]
        fn lines_of_maps() {
            let line = b"0007f000-0007f100 r--s 00000000 fe:00 1234                       /m/a.gguf (deleted)";
            let (range, inode, path) = map_line(line).unwrap();
            assert_eq!((range.as_str(), inode.inode, path), ("7f000-7f100", 1234, &b"/m/a.gguf (deleted)"[..]));
        }
    }
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use std::fs;
    use std::io::{BufRead, BufReader};
    use std::os::unix::fs::MetadataExt;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_deleted_file_that_a_process_keeps_is_found_with_its_bytes() {
        let scratch = tempfile::tempdir().unwrap();
        let root = scratch.path().canonicalize().unwrap();
        let (open, twice) = (root.join("w.gguf"), root.join("named.gguf"));
        fs::write(&open, vec![7; 100_000]).unwrap();
        fs::write(&twice, vec![7; 100_000]).unwrap();
        fs::hard_link(&twice, root.join("still here")).unwrap();
        let bytes = fs::metadata(&open).unwrap().blocks() * 512;
        // Two descriptors of one file count once; a file that has another name is not lost.
        let mut child = Command::new("sh")
            .args(["-c", "exec 3<\"$0\" 4<\"$0\" 5<\"$1\"; echo ready; read _"])
            .args([&open, &twice])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let roots = [root.clone()];
        assert!(find_deleted(&roots).files.is_empty());
        fs::remove_file(&open).unwrap();
        fs::remove_file(&twice).unwrap();
        let found = find_deleted(&roots).files;
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!((found[0].path.as_path(), found[0].disk_bytes), (open.as_path(), Some(bytes)));
        assert_eq!(found[0].held_by.iter().map(|holder| holder.pid).collect::<Vec<_>>(), [child.id()]);
        assert!(find_deleted(&[root.join("elsewhere")]).files.is_empty());
        drop(child.stdin.take());
        child.wait().unwrap();
        assert!(find_deleted(&roots).files.is_empty());
    }
}
