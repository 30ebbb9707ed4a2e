//! Which processes hold a file: open descriptors, mapped files, command lines.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use crate::model::{Holder, Inode};

/// What a look at the processes found. A file without holders is "not seen", never "not in use": a program may have
/// read a model into a GPU's memory and closed it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holders {
    /// Holders of each file that has any.
    pub by_file: BTreeMap<Inode, Vec<Holder>>,
    /// Processes whose command line names one of the paths, or something below it, by that path.
    pub by_path: BTreeMap<PathBuf, Vec<Holder>>,
    /// Processes whose command line names the file by a path below one of the paths.
    pub by_name: BTreeMap<Inode, Vec<Holder>>,
    /// Processes of other users that could not be read: a file without holders may still be held by one of them.
    pub unreadable: usize,
    /// Whether this host does not even show other users' processes, or has no way to look at processes.
    pub hidden: bool,
}

impl Holders {
    /// The holders of a model: of any of its files, and those that name its path; each process once, by number.
    #[must_use]
    pub fn of<'a>(&self, files: impl IntoIterator<Item = &'a Inode>, path: &std::path::Path) -> Vec<Holder> {
        let mut found: BTreeMap<u32, &Holder> = BTreeMap::new();
        let by_file =
            files.into_iter().flat_map(|file| self.by_file.get(file).into_iter().chain(self.by_name.get(file)));
        for holder in by_file.chain(self.by_path.get(path)).flatten() {
            found.entry(holder.pid).or_insert(holder);
        }
        found.into_values().cloned().collect()
    }

    /// Whether a process keeps the file open or mapped.
    #[must_use]
    pub fn keeps_open(&self, file: Inode) -> bool {
        self.by_file.contains_key(&file)
    }
}

/// Looks through `/proc` for processes that have one of `files` open or mapped (by device and inode), or that name one of
/// `paths` (or something below it) in their command line. This process itself is left out, and so are the command
/// lines of those that started it.
#[must_use]
pub fn find_holders(files: &BTreeSet<Inode>, paths: &[PathBuf]) -> Holders {
    if files.is_empty() && paths.is_empty() {
        return Holders::default();
    }
    #[cfg(target_os = "linux")]
    return scan::run(files, paths);
    #[cfg(not(target_os = "linux"))]
    return Holders { hidden: true, ..Holders::default() };
}

#[cfg(target_os = "linux")]
mod scan {
    use std::collections::{BTreeSet, HashSet};
    use std::ffi::{OsStr, OsString};
    use std::io::{self, Read};
    use std::os::unix::ffi::OsStrExt;
    use std::path::{Component, Path, PathBuf};

    use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags, StatxFlags, openat, statx};
    use rustix::io::Errno;

    use super::super::mounts::{device_number, unescape_octal};
    use super::super::process;
    use super::Holders;
    use crate::model::Inode;

    /// A list of mapped files longer than this is cut; a process may map a few ten thousand pieces of memory.
    const MAX_MAPS: u64 = 32 << 20;

    struct Scan<'a> {
        files: &'a BTreeSet<Inode>,
        numbers: HashSet<u64>,
        paths: &'a [PathBuf],
        /// Processes that started this one: they name what it was started with.
        ancestors: HashSet<u32>,
        found: Holders,
        buffer: Vec<u8>,
    }

    pub(super) fn run(files: &BTreeSet<Inode>, paths: &[PathBuf]) -> Holders {
        let own = std::process::id();
        let mut scan = Scan {
            files,
            numbers: files.iter().map(|file| file.inode).collect(),
            paths,
            ancestors: ancestors(own),
            found: Holders::default(),
            buffer: Vec::new(),
        };
        let Ok(processes) = std::fs::read_dir("/proc") else {
            return Holders { hidden: true, ..Holders::default() };
        };
        let mut init_seen = false;
        for entry in processes.flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
            init_seen |= pid == 1;
            if pid != own {
                scan.process(pid);
            }
        }
        // With `hidepid`, the first process of the host is among those that do not show.
        scan.found.hidden = !init_seen;
        let Holders { by_file, by_path, by_name, .. } = &mut scan.found;
        for holders in by_file.values_mut().chain(by_path.values_mut()).chain(by_name.values_mut()) {
            holders.sort_by_key(|holder| holder.pid);
        }
        scan.found
    }

    fn ancestors(pid: u32) -> HashSet<u32> {
        let mut found = HashSet::new();
        let mut next = process::parent(pid);
        while let Some(pid) = next.filter(|pid| *pid > 1) {
            if !found.insert(pid) {
                break;
            }
            next = process::parent(pid);
        }
        found
    }

    impl Scan<'_> {
        fn process(&mut self, pid: u32) {
            let arguments = process::arguments(pid);
            let mut held = BTreeSet::new();
            if !self.files.is_empty() {
                let refused = [self.descriptors(pid, &mut held), self.maps(pid, &mut held)]
                    .iter()
                    .any(|result| matches!(result, Err(error) if error.kind() == io::ErrorKind::PermissionDenied));
                if refused && !(arguments.is_empty() && process::is_kernel_thread(pid)) {
                    self.found.unreadable += 1;
                }
            }
            let (named, files) =
                if self.ancestors.contains(&pid) { Default::default() } else { self.named(pid, &arguments) };
            if held.is_empty() && named.is_empty() {
                return;
            }
            let holder = process::holder(pid, &arguments);
            for file in held {
                self.found.by_file.entry(file).or_default().push(holder.clone());
            }
            for file in files {
                self.found.by_name.entry(file).or_default().push(holder.clone());
            }
            for path in named {
                self.found.by_path.entry(path).or_default().push(holder.clone());
            }
        }

        /// Open descriptors, by what they lead to.
        fn descriptors(&self, pid: u32, held: &mut BTreeSet<Inode>) -> io::Result<()> {
            let path = format!("/proc/{pid}/fd");
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let mut folder = Dir::new(openat(CWD, path, flags, Mode::empty())?)?;
            while let Some(entry) = folder.read() {
                let entry = entry?;
                if entry.file_name().to_bytes().starts_with(b".") {
                    continue;
                }
                match identity(folder.fd()?, entry.file_name()) {
                    Ok(file) if self.files.contains(&file) => {
                        held.insert(file);
                    }
                    Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Err(error),
                    // Closed meanwhile, or nothing that has an identity.
                    Ok(_) | Err(_) => {}
                }
            }
            Ok(())
        }

        /// Mapped files. The device of btrfs and overlay files is another one here than in `stat`, so a line with the
        /// right number is also followed by its path.
        fn maps(&mut self, pid: u32, held: &mut BTreeSet<Inode>) -> io::Result<()> {
            let mut buffer = std::mem::take(&mut self.buffer);
            buffer.clear();
            let read = std::fs::File::open(format!("/proc/{pid}/maps"))
                .and_then(|file| file.take(MAX_MAPS).read_to_end(&mut buffer));
            if read.is_ok() {
                let mut last = None;
                for line in buffer.split(|byte| *byte == b'\n') {
                    let Some((device, number, path)) = map_line(line, &self.numbers) else { continue };
                    // One file is mapped in several pieces.
                    if last == Some((device, number)) {
                        continue;
                    }
                    last = Some((device, number));
                    let file = Inode { device, inode: number };
                    if self.files.contains(&file) {
                        held.insert(file);
                    } else if let Ok(file) = identity(CWD, OsStr::from_bytes(&unescape_octal(path)))
                        && self.files.contains(&file)
                    {
                        held.insert(file);
                    }
                }
            }
            self.buffer = buffer;
            read.map(drop)
        }

        /// Those of the paths that an argument names, and those of the files.
        fn named(&self, pid: u32, arguments: &[OsString]) -> (Vec<PathBuf>, BTreeSet<Inode>) {
            let (mut named, mut files) = (Vec::new(), BTreeSet::new());
            if self.paths.is_empty() || arguments.is_empty() {
                return (named, files);
            }
            let mut folder = None;
            for argument in arguments {
                for candidate in candidates(argument) {
                    let candidate = if candidate.is_absolute() {
                        candidate.to_owned()
                    } else {
                        let folder = folder
                            .get_or_insert_with(|| std::fs::read_link(format!("/proc/{pid}/cwd")).unwrap_or_default());
                        if folder.as_os_str().is_empty() {
                            continue;
                        }
                        folder.join(candidate)
                    };
                    let candidate = plain(&candidate);
                    let before = named.len();
                    named.extend(self.paths.iter().filter(|path| candidate.starts_with(path)).cloned());
                    // Only below what is looked at anyway: elsewhere may be a disk that does not answer.
                    if named.len() > before
                        && let Ok(file) = identity(CWD, candidate.as_os_str())
                        && self.files.contains(&file)
                    {
                        files.insert(file);
                    }
                }
            }
            named.sort();
            named.dedup();
            (named, files)
        }
    }

    /// What in an argument can be a path: the whole of it, or what follows `=`, if there is a slash or a name that
    /// ends as weights do.
    fn candidates(argument: &OsStr) -> impl Iterator<Item = &Path> {
        let bytes = argument.as_bytes();
        let value = bytes.iter().position(|byte| *byte == b'=').map(|at| &bytes[at + 1..]);
        let whole = (!bytes.starts_with(b"-")).then_some(bytes);
        whole
            .into_iter()
            .chain(value)
            .filter(|bytes| bytes.contains(&b'/') || bytes.ends_with(b".gguf") || bytes.ends_with(b".safetensors"))
            .map(|bytes| Path::new(OsStr::from_bytes(bytes)))
    }

    /// Without `.` and `..` parts, as far as the text alone tells.
    fn plain(path: &Path) -> PathBuf {
        let mut out = PathBuf::new();
        for part in path.components() {
            match part {
                Component::CurDir => {}
                Component::ParentDir => {
                    out.pop();
                }
                other => out.push(other),
            }
        }
        out
    }

    /// Device and number of what a name leads to, without asking a server that may not answer.
    fn identity(folder: impl std::os::fd::AsFd, name: impl rustix::path::Arg) -> io::Result<Inode> {
        let stat = match statx(folder, name, AtFlags::STATX_DONT_SYNC, StatxFlags::INO) {
            Err(Errno::INTR) => return Err(io::ErrorKind::Interrupted.into()),
            other => other?,
        };
        Ok(Inode { device: device_number(stat.stx_dev_major, stat.stx_dev_minor), inode: stat.stx_ino })
    }

    /// Device, inode and path of a line such as `7f00-7f01 r--s 00000000 fe:00 1234    /path`, if its inode is wanted.
    fn map_line<'a>(line: &'a [u8], wanted: &HashSet<u64>) -> Option<(u64, u64, &'a [u8])> {
        let mut fields = line.splitn(6, |byte| *byte == b' ');
        let device = fields.nth(3)?;
        let number = fields.next()?;
        if number == b"0" {
            return None;
        }
        let number: u64 = std::str::from_utf8(number).ok()?.parse().ok()?;
        if !wanted.contains(&number) {
            return None;
        }
        let (major, minor) = std::str::from_utf8(device).ok()?.split_once(':')?;
        let device = device_number(u32::from_str_radix(major, 16).ok()?, u32::from_str_radix(minor, 16).ok()?);
        Some((device, number, fields.next().unwrap_or_default().trim_ascii_start()))
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn lines_of_maps() {
            let wanted = HashSet::from([1234]);
            let line = b"7f0000000000-7f0000001000 r--s 00000000 fe:00 1234                       /m/a b.gguf";
            let (device, number, path) = map_line(line, &wanted).unwrap();
            assert_eq!((device, number, path), (device_number(0xfe, 0), 1234, b"/m/a b.gguf".as_slice()));
            assert!(map_line(b"7f00-7f01 rw-p 00000000 00:00 0 ", &wanted).is_none());
            assert!(map_line(b"7f00-7f01 r--s 00000000 fe:00 99 /x", &wanted).is_none());
            assert!(map_line(b"nonsense", &wanted).is_none());
        }

        #[test]
        fn paths_in_arguments() {
            let of = |argument: &str| {
                candidates(OsStr::new(argument)).map(|path| path.to_str().unwrap().to_owned()).collect::<Vec<_>>()
            };
            assert_eq!(of("/m/x.gguf"), ["/m/x.gguf"]);
            assert_eq!(of("--model=/m/x.gguf"), ["/m/x.gguf"]);
            assert_eq!(of("x.gguf"), ["x.gguf"]);
            assert_eq!(of("/m/a=b"), ["/m/a=b"]);
            assert!(of("--verbose").is_empty());
            assert!(of("serve").is_empty());
            assert_eq!(plain(Path::new("/a/./b/../c")), Path::new("/a/c"));
        }
    }
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use std::fs::File;
    use std::io::{BufRead, BufReader};
    use std::os::unix::fs::MetadataExt;
    use std::path::Path;
    use std::process::{Child, Command, Stdio};
    use std::time::{Duration, Instant};

    use super::*;

    fn identity(path: &Path) -> Inode {
        let metadata = std::fs::metadata(path).unwrap();
        Inode { device: metadata.dev(), inode: metadata.ino() }
    }

    struct Ended(Child);

    impl Drop for Ended {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    /// A shell that says when it is ready and then waits for its input to end.
    fn shell(script: &str, argument: &Path, folder: &Path) -> Ended {
        let mut child = Command::new("sh")
            .args(["-c", &format!("{script}\necho ready; read line")])
            .arg("sh")
            .arg(argument)
            .current_dir(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        Ended(child)
    }

    #[test]
    fn open_files_and_command_lines_are_found() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().canonicalize().unwrap();
        let (open, other) = (folder.join("open.gguf"), folder.join("other.gguf"));
        File::create(&open).unwrap();
        File::create(&other).unwrap();
        let child = shell("exec 9<open.gguf", Path::new("other.gguf"), &folder);
        let pid = child.0.id();

        let files = BTreeSet::from([identity(&open), identity(&other)]);
        let found = find_holders(&files, std::slice::from_ref(&folder));
        let holder = &found.by_file[&identity(&open)];
        assert_eq!(holder.iter().map(|holder| holder.pid).collect::<Vec<_>>(), [pid]);
        assert!(holder[0].command.starts_with("sh -c"), "{holder:?}");
        assert!(!found.keeps_open(identity(&other)));
        assert_eq!(found.by_path[&folder].len(), 1, "a relative path is named from the process's folder");
        assert_eq!(found.of([&identity(&open)], &folder).len(), 1, "one process is one holder");
        assert_eq!(found.by_name[&identity(&other)].len(), 1, "what an argument names is found by its number");
        assert!(!found.by_name.contains_key(&identity(&open)));
    }

    #[test]
    fn this_process_does_not_hold_its_own_files() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let begun = Instant::now();
        loop {
            let found = find_holders(&BTreeSet::from([identity(file.path())]), &[]);
            assert!(!found.hidden);
            if found.by_file.is_empty() {
                break;
            }
            // A process that another test starts just now has this one's files until it becomes the program that it is for.
            assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", found.by_file);
        }
    }

    #[test]
    fn mapped_files_are_found() {
        // The shell's own program is mapped and not open.
        let program = Command::new("sh").args(["-c", "readlink /proc/$$/exe"]).output().unwrap();
        let program = PathBuf::from(String::from_utf8(program.stdout).unwrap().trim_end());
        let child = shell(":", Path::new("x"), Path::new("/"));
        let found = find_holders(&BTreeSet::from([identity(&program)]), &[]);
        let pids: Vec<u32> = found.by_file[&identity(&program)].iter().map(|holder| holder.pid).collect();
        assert!(pids.contains(&child.0.id()), "{pids:?}");
    }
}
