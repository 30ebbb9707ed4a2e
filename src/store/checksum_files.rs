//! Checksum files that people keep beside models: `m.gguf.sha256`, `SHA256SUMS`.
//!
//! Read are the forms of `sha256sum` (with and without its escapes), of `shasum --tag` and the bare digest that download pages
//! offer. A file that names other files only, that is too long or that contradicts itself says nothing.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::disk::folder::Folder;
use crate::model::Digest;
use crate::store::verify::{Promise, Source};

/// What is added to the name of a file.
const ENDINGS: [&str; 3] = [".sha256", ".sha256sum", ".sha256.txt"];
/// Names of files that speak of all files in and below their folder.
const OF_FOLDERS: [&str; 8] = [
    "SHA256SUMS",
    "SHA256SUMS.txt",
    "SHA256SUM",
    "sha256sums.txt",
    "sha256sum.txt",
    "sha256.txt",
    "checksums.sha256",
    "checksums.txt",
];
/// More than the lines of any model.
const MAX_BYTES: u64 = 1 << 20;

/// The checksum files of a store, each read once.
#[derive(Default)]
pub(in crate::store) struct ChecksumFiles(BTreeMap<PathBuf, Vec<Line>>);

/// A line of a checksum file.
#[derive(Debug, PartialEq, Eq)]
struct Line {
    digest: Digest,
    /// Nothing after a bare digest.
    name: Option<Vec<u8>>,
}

impl ChecksumFiles {
    /// What one of them promises of the file at `location`, relative to `root`, which belongs to the row in `row`.
    pub(in crate::store) fn promise(&mut self, root: &Path, row: &Path, location: &Path) -> Option<Promise> {
        let beside = location.parent()?;
        let folder = Folder::open(root).and_then(|folder| folder.descend(beside)).ok()?;
        let own = ENDINGS.iter().find_map(|ending| {
            let mut name = location.file_name()?.to_owned();
            name.push(ending);
            said(&read(&folder, &name), |line| {
                line.is_none_or(|line| Path::new(line).file_name() == location.file_name())
            })
        });
        let digest = own.or_else(|| {
            let folders = beside.ancestors().take_while(|folder| folder.starts_with(row));
            folders.into_iter().find_map(|folder| {
                let name = location.strip_prefix(folder).ok()?;
                said(self.of_folder(root, folder), |line| line == Some(name.as_os_str()))
            })
        })?;
        Some(Promise { source: Source::ChecksumFile, digest })
    }

    fn of_folder(&mut self, root: &Path, below: &Path) -> &[Line] {
        self.0.entry(below.to_owned()).or_insert_with(|| {
            let Ok(folder) = Folder::open(root).and_then(|folder| folder.descend(below)) else { return Vec::new() };
            OF_FOLDERS.iter().flat_map(|name| read(&folder, OsStr::new(name))).collect()
        })
    }
}

/// The digest of the lines that are about one file, if they agree.
fn said(lines: &[Line], is_about: impl Fn(Option<&OsStr>) -> bool) -> Option<Digest> {
    let mut digests = lines.iter().filter(|line| is_about(line.name.as_deref().map(OsStr::from_bytes)));
    let first = digests.next()?.digest;
    digests.all(|line| line.digest == first).then_some(first)
}

fn read(folder: &Folder, name: &OsStr) -> Vec<Line> {
    let bytes = folder.read(name, MAX_BYTES).ok().flatten().unwrap_or_default();
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
    bytes.split(|byte| *byte == b'\n').filter_map(|line| parse(line.trim_ascii_end())).collect()
}

fn parse(line: &[u8]) -> Option<Line> {
    let digest = |hex: &[u8]| Digest::parse(std::str::from_utf8(hex).ok().filter(|hex| hex.len() == 64)?);
    if let Some(rest) = line.strip_prefix(b"SHA256 (") {
        let (name, hex) = rest.split_at_checked(rest.len().checked_sub(68)?)?;
        return Some(Line { digest: digest(hex.strip_prefix(b") = ")?)?, name: Some(plain(name)) });
    }
    let (escaped, line) = line.strip_prefix(b"\\").map_or((false, line), |line| (true, line));
    let line = line.strip_prefix(b"sha256:").unwrap_or(line);
    let (hex, rest) = line.split_at_checked(64)?;
    let digest = digest(hex)?;
    let name = match rest {
        [] => return Some(Line { digest, name: None }),
        [b' ', b' ' | b'*', name @ ..] | [b' ' | b'\t', name @ ..] if !name.is_empty() => name,
        _ => return None,
    };
    let name = if escaped { unescaped(name)? } else { name.to_vec() };
    Some(Line { digest, name: Some(plain(&name)) })
}

fn plain(name: &[u8]) -> Vec<u8> {
    name.strip_prefix(b"./").unwrap_or(name).to_vec()
}

/// A name in which `sha256sum` has escaped what would end the line.
fn unescaped(name: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(name.len());
    let mut bytes = name.iter();
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'\\' => match bytes.next()? {
                b'\\' => b'\\',
                b'n' => b'\n',
                b'r' => b'\r',
                _ => return None,
            },
            byte => *byte,
        });
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "9F86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
    const OTHER: &str = "60303ae22b998861bce3b28f33eec1be758a213c86c93c076dbe9f558c11c752";

    fn digest(hex: &str) -> Digest {
        Digest::parse(hex).unwrap()
    }

    #[test]
    fn the_forms_that_programs_write() {
        for (line, name) in [
            (HEX.to_owned(), None),
            (format!("sha256:{HEX}"), None),
            (format!("{HEX}  m.gguf"), Some("m.gguf")),
            (format!("{HEX} *m.gguf"), Some("m.gguf")),
            (format!("{HEX} m.gguf"), Some("m.gguf")),
            (format!("{HEX}  ./sub/m.gguf"), Some("sub/m.gguf")),
            (format!("{HEX}   m.gguf"), Some(" m.gguf")),
            (format!("\\{HEX}  a\\\\b\\nc"), Some("a\\b\nc")),
            (format!("SHA256 (m (1).gguf) = {HEX}"), Some("m (1).gguf")),
        ] {
            let name = name.map(|name| name.as_bytes().to_vec());
            assert_eq!(parse(line.as_bytes()), Some(Line { digest: digest(HEX), name }), "{line}");
        }
        for line in ["", "# sums", &HEX[1..], "MD5 (m.gguf) = 00", "SHA256 () = 1", &format!("{HEX}m.gguf")] {
            assert_eq!(parse(line.as_bytes()), None, "{line}");
        }
    }

    #[test]
    fn who_speaks_of_a_file() {
        let scratch = tempfile::tempdir().unwrap();
        let root = scratch.path();
        std::fs::create_dir_all(root.join("row/sub")).unwrap();
        let promised = |location: &str| {
            let promise = ChecksumFiles::default().promise(root, Path::new("row"), Path::new(location));
            promise.map(|promise| promise.digest)
        };
        let write = |name: &str, text: String| std::fs::write(root.join(name), text).unwrap();
        assert_eq!(promised("row/sub/m.gguf"), None);
        write("SHA256SUMS", format!("{HEX}  row/sub/m.gguf\n"));
        assert_eq!(promised("row/sub/m.gguf"), None, "it lies in no row");
        write("row/SHA256SUMS", format!("{OTHER}  m.gguf\r\n{HEX}  sub/m.gguf\r\n"));
        assert_eq!(promised("row/sub/m.gguf"), Some(digest(HEX)));
        write("row/sub/m.gguf.sha256", format!("{OTHER}  /elsewhere/other.gguf\n"));
        assert_eq!(promised("row/sub/m.gguf"), Some(digest(HEX)), "that of another file says nothing");
        write("row/sub/m.gguf.sha256", format!("{OTHER}  /elsewhere/m.gguf\n"));
        assert_eq!(promised("row/sub/m.gguf"), Some(digest(OTHER)));
        write("row/sub/m.gguf.sha256", format!("{OTHER}  m.gguf\n{HEX}  m.gguf\n"));
        assert_eq!(promised("row/sub/m.gguf"), Some(digest(HEX)), "what contradicts itself says nothing");
        std::fs::remove_file(root.join("row/sub/m.gguf.sha256")).unwrap();
        std::os::unix::fs::symlink("/dev/zero", root.join("row/sub/m.gguf.sha256")).unwrap();
        assert_eq!(promised("row/sub/m.gguf"), Some(digest(HEX)), "links are not followed");
    }
}
