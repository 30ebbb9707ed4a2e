//! File systems and where they are mounted.

use std::ffi::OsString;
use std::io::Read;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// More than any mount table holds.
const MAX_BYTES: u64 = 16 << 20;

/// One mounted file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Where it is mounted.
    pub path: PathBuf,
    /// Its type: "ext4", "nfs4".
    pub kind: String,
    /// `st_dev` of its root, as `/proc/self/mountinfo` gives it. Files of btrfs subvolumes and overlays have another.
    pub device: u64,
    /// Whether it is mounted read-only.
    pub read_only: bool,
    /// What it notes of accesses.
    pub access_times: AccessTimes,
}

/// What a file system notes of accesses to files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AccessTimes {
    /// Every one (`strictatime`).
    Exact,
    /// The first one of a day, and the first one after a change (`relatime`, the usual).
    Daily,
    /// None (`noatime`, or mounted read-only).
    Off,
}

impl AccessTimes {
    /// What a time of last access can be trusted for, in words.
    #[must_use]
    pub fn trust(self) -> &'static str {
        match self {
            Self::Exact => "access times are exact on this file system",
            Self::Daily => "access times are noted once a day on this file system (relatime)",
            Self::Off => "access times are off on this file system; only what was seen open here counts",
        }
    }
}

/// The mount table, read once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mounts(Vec<Mount>);

impl Mounts {
    /// Reads the mount table; empty where there is none to read.
    #[must_use]
    pub fn read() -> Self {
        let mut content = Vec::new();
        match std::fs::File::open("/proc/self/mountinfo")
            .and_then(|file| file.take(MAX_BYTES).read_to_end(&mut content))
        {
            Ok(_) => Self::parse(&content),
            Err(_) => Self::default(),
        }
    }

    /// Every mounted file system, in the order in which they were mounted.
    pub fn iter(&self) -> impl Iterator<Item = &Mount> {
        self.0.iter()
    }

    /// The file system that holds `path` (an absolute path; its nearest existing ancestor decides, links resolved).
    #[must_use]
    pub fn of(&self, path: &Path) -> Option<&Mount> {
        let resolved = path.ancestors().find_map(|ancestor| std::fs::canonicalize(ancestor).ok())?;
        self.of_resolved(&resolved)
    }

    /// [`Self::of`] for a path without links in it; the disk is not asked.
    #[must_use]
    pub fn of_resolved(&self, path: &Path) -> Option<&Mount> {
        // The deepest one; of several at one place the last, which covers the others.
        self.0.iter().filter(|mount| path.starts_with(&mount.path)).max_by_key(|mount| mount.path.as_os_str().len())
    }

    /// Lines such as `36 35 98:0 / /mnt rw,noatime master:1 - ext3 /dev/root rw,errors=continue`.
    fn parse(content: &[u8]) -> Self {
        Self(content.split(|byte| *byte == b'\n').filter_map(parse_line).collect())
    }
}

fn parse_line(line: &[u8]) -> Option<Mount> {
    let fields: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
    let [_, _, device, _, path, options, ..] = fields.as_slice() else { return None };
    let separator = 6 + fields.get(6..)?.iter().position(|field| *field == b"-")?;
    let kind = fields.get(separator + 1)?;
    let super_options = fields.get(separator + 3).copied().unwrap_or_default();
    let (major, minor) = std::str::from_utf8(device).ok()?.split_once(':')?;
    let has = |wanted: &[u8], options: &[u8]| options.split(|byte| *byte == b',').any(|option| option == wanted);
    let set = |wanted: &[u8]| has(wanted, options) || has(wanted, super_options);
    let read_only = set(b"ro");
    Some(Mount {
        path: PathBuf::from(OsString::from_vec(unescape_octal(path))),
        kind: String::from_utf8_lossy(kind).into_owned(),
        device: device_number(major.parse().ok()?, minor.parse().ok()?),
        read_only,
        access_times: match () {
            () if read_only || set(b"noatime") => AccessTimes::Off,
            () if set(b"relatime") => AccessTimes::Daily,
            () => AccessTimes::Exact,
        },
    })
}

/// `st_dev` of a device by its two parts.
#[must_use]
#[allow(clippy::unnecessary_cast, clippy::cast_sign_loss, clippy::cast_lossless)]
pub fn device_number(major: u32, minor: u32) -> u64 {
    rustix::fs::makedev(major, minor) as u64
}

/// Turns `\040` and the like, as the kernel writes blanks, tabs, newlines and backslashes, back into bytes.
pub(super) fn unescape_octal(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, tail)) = rest.split_first() {
        match rest {
            [b'\\', a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', tail @ ..] => {
                out.push((a - b'0') * 64 + (b - b'0') * 8 + (c - b'0'));
                rest = tail;
            }
            _ => {
                out.push(first);
                rest = tail;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[u8] = b"22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n\
        30 22 0:27 / /data rw - nfs4 server:/x ro,vers=4.2\n\
        31 30 8:17 / /data/my\\040models rw,noatime shared:5 master:2 - xfs /dev/sdb1 rw\n\
        32 22 0:28 / /tmp ro - tmpfs tmpfs rw\n\
        33 22 0:29 / /tmp rw - tmpfs tmpfs rw\n\
        broken line\n";

    #[test]
    fn the_deepest_and_last_mount_holds_a_path() {
        let mounts = Mounts::parse(TABLE);
        let of = |path: &str| mounts.of_resolved(Path::new(path)).unwrap();
        assert_eq!(of("/home/alice").kind, "ext4");
        assert_eq!(of("/data/x").kind, "nfs4");
        assert!(of("/data/x").read_only);
        assert_eq!(of("/database").kind, "ext4");
        let escaped = of("/data/my models/y");
        assert_eq!((escaped.kind.as_str(), escaped.device), ("xfs", device_number(8, 17)));
        assert_eq!(escaped.access_times, AccessTimes::Off);
        assert_eq!(of("/home/alice").access_times, AccessTimes::Daily);
        assert_eq!(of("/data/x").access_times, AccessTimes::Off, "read-only");
        assert_eq!(of("/tmp/x").access_times, AccessTimes::Exact);
        assert!(!of("/tmp/x").read_only);
        assert_eq!(mounts.iter().count(), 5);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn this_host_has_a_root() {
        use std::os::unix::fs::MetadataExt;
        let mounts = Mounts::read();
        let proc = mounts.of(Path::new("/proc/self/not-there")).unwrap();
        assert_eq!(proc.kind, "proc");
        assert_eq!(proc.device, std::fs::metadata("/proc").unwrap().dev());
    }

    #[test]
    fn octal_escapes() {
        assert_eq!(unescape_octal(b"a\\040b\\134c\\012\\9\\"), b"a b\\c\n\\9\\");
    }
}
