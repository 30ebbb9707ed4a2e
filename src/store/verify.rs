//! Checking files against what records, headers and shard numbers promise; the same for every store.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;

use sha1::Sha1;
use sha2::{Digest as _, Sha256};
use tokio_util::sync::CancellationToken;

use crate::disk::safe;
use crate::error::{Error, Result};
use crate::format::{Structure, read_metadata};
use crate::model::{Algorithm, Digest, FileCheck, FileName, FileStatus, ModelId, Verification, text};

/// Bytes that are read at once.
const BUFFER: usize = 256 << 10;

/// Buffers that go round between the reading and the hashing thread.
const BUFFERS: usize = 4;

/// A file that belongs to a model, with what is known of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    /// Path inside the model, escaped.
    pub path: String,
    /// Where it should lie, relative to the root of the store.
    pub location: PathBuf,
    /// Its recorded length.
    pub size: Option<u64>,
    /// Its recorded digest.
    pub digest: Option<Digest>,
}

/// How much is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Presence, recorded lengths, and the length that a header implies.
    Quick,
    /// Every byte of what has a digest.
    Full,
}

/// How far a verification is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress<'a> {
    /// The file that is being read, as [`Expected::path`].
    pub file: &'a str,
    /// Bytes read of all files.
    pub bytes: u64,
    /// Bytes that will be read.
    pub total: u64,
}

/// Checks `files`, which lie below `root`; follows no link below it. `progress` is called at the start of each file that is
/// read and after every buffer.
///
/// # Errors
/// [`Error::Cancelled`]. What is wrong with a file is its status, never an error.
pub fn run(
    model: &ModelId,
    root: &Path,
    files: &[Expected],
    depth: Depth,
    progress: &mut dyn FnMut(Progress<'_>),
    cancel: &CancellationToken,
) -> Result<Verification> {
    let mut counter = Counter { done: 0, total: 0, progress };
    if depth == Depth::Full {
        // A length that cannot be asked for counts as none; the file's own check says why.
        let length =
            |file: &Expected| root.join(&file.location).symlink_metadata().map_or(0, |metadata| metadata.len());
        counter.total = files.iter().filter(|file| file.digest.is_some()).map(length).sum();
    }
    let mut checks = Vec::with_capacity(files.len());
    for file in files {
        if cancel.is_cancelled() {
            return Err(Error::Cancelled);
        }
        checks.push(check(root, file, depth, &mut counter, cancel)?);
    }
    Ok(Verification { model: model.clone(), ok: checks.iter().all(|check| check.status.is_ok()), files: checks })
}

struct Counter<'a> {
    done: u64,
    total: u64,
    progress: &'a mut dyn FnMut(Progress<'_>),
}

impl Counter<'_> {
    fn add(&mut self, file: &str, bytes: u64) {
        self.done += bytes;
        (self.progress)(Progress { file, bytes: self.done, total: self.total.max(self.done) });
    }
}

const STRUCTURE: &str = "structure";

fn check(
    root: &Path,
    expected: &Expected,
    depth: Depth,
    counter: &mut Counter<'_>,
    cancel: &CancellationToken,
) -> Result<FileCheck> {
    let verdict = |status: FileStatus, algorithm: Option<&str>, wanted: Option<String>, actual: Option<String>| {
        let algorithm = algorithm.map(str::to_owned);
        FileCheck { path: expected.path.clone(), status, algorithm, expected: wanted, actual }
    };
    let unreadable = |reason: String| verdict(FileStatus::Unreadable, None, None, Some(text::printable(&reason)));
    let file = match safe::open_below(root, &expected.location) {
        Ok(file) => file,
        Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            let known = expected.digest.map(|digest| digest.to_string());
            let wanted = known.or_else(|| expected.size.map(|size| size.to_string()));
            return Ok(verdict(FileStatus::Missing, None, wanted, None));
        }
        Err(error) => return Ok(unreadable(error.to_string())),
    };
    let size = match file.metadata() {
        Ok(metadata) => metadata.len(),
        Err(error) => return Ok(unreadable(error.to_string())),
    };
    if let Some(wanted) = expected.size.filter(|wanted| *wanted != size) {
        let status = if size < wanted { FileStatus::Truncated } else { FileStatus::Extra };
        return Ok(verdict(status, Some(STRUCTURE), Some(wanted.to_string()), Some(size.to_string())));
    }
    if let Some(digest) = expected.digest.filter(|_| depth == Depth::Full) {
        let algorithm = Some(digest.algorithm().name());
        let actual =
            match hash(&file, digest.algorithm(), size, &mut |bytes| counter.add(&expected.path, bytes), cancel) {
                Ok(actual) => actual,
                Err(HashError::Cancelled) => return Err(Error::Cancelled),
                Err(HashError::Io(error)) => return Ok(unreadable(error.to_string())),
            };
        let status = if actual == digest { FileStatus::Ok } else { FileStatus::Corrupt };
        return Ok(verdict(status, algorithm, Some(digest.to_string()), Some(actual.to_string())));
    }
    let name = expected.path.rsplit('/').next().unwrap_or(&expected.path);
    let parsed = FileName::parse(name);
    if parsed.is_gguf() || parsed.is_safetensors() {
        let wrong = |status, wanted: Option<u64>, actual: String| {
            Ok(verdict(status, Some(STRUCTURE), wanted.map(|wanted| wanted.to_string()), Some(actual)))
        };
        if size == 0 {
            return wrong(FileStatus::Truncated, None, "0".to_owned());
        }
        match read_metadata(&file, name).map(|metadata| metadata.structure) {
            Err(reason) => return wrong(FileStatus::Corrupt, None, text::printable(&reason)),
            // A recorded length that is right outranks what a header implies: the publisher may have appended something.
            Ok(_) if expected.size.is_some() => {}
            Ok(Structure::Truncated { missing }) => {
                return wrong(
                    FileStatus::Truncated,
                    missing.map(|missing| size.saturating_add(missing)),
                    size.to_string(),
                );
            }
            Ok(Structure::Extra { bytes }) => {
                return wrong(FileStatus::Extra, Some(size.saturating_sub(bytes)), size.to_string());
            }
            Ok(Structure::Whole | Structure::Partial) => {}
        }
    } else if expected.size.is_none() && expected.digest.is_none() {
        return Ok(verdict(FileStatus::NoChecksum, None, None, None));
    }
    // Nothing was hashed. That is the whole answer to a quick question if a record said what to compare with.
    let compared = depth == Depth::Quick && (expected.size.is_some() || expected.digest.is_some());
    let status = if compared { FileStatus::Ok } else { FileStatus::NoChecksum };
    let wanted = expected.size.map(|size| size.to_string());
    Ok(verdict(status, Some(STRUCTURE), wanted, Some(size.to_string())))
}

enum HashError {
    Cancelled,
    Io(io::Error),
}

/// The digest of an open file. Reading and hashing overlap on two threads; `size` is what git's header says.
fn hash(
    file: &File,
    algorithm: Algorithm,
    size: u64,
    read: &mut dyn FnMut(u64),
    cancel: &CancellationToken,
) -> Result<Digest, HashError> {
    // Only a hint for read-ahead: a file system that does not take it reads as well.
    #[cfg(target_os = "linux")]
    let _ = rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::Sequential);
    read(0);
    match algorithm {
        Algorithm::Sha256 => {
            let mut hash = Sha256::new();
            feed(file, read, cancel, &mut |bytes| hash.update(bytes))?;
            Ok(Digest::Sha256(hash.finalize().into()))
        }
        Algorithm::GitSha1 => {
            let mut hash = Sha1::new();
            hash.update(format!("blob {size}\0").as_bytes());
            feed(file, read, cancel, &mut |bytes| hash.update(bytes))?;
            Ok(Digest::GitSha1(hash.finalize().into()))
        }
    }
}

/// Gives every buffer of the file to `take`.
fn feed(
    mut file: &File,
    read: &mut dyn FnMut(u64),
    cancel: &CancellationToken,
    take: &mut dyn FnMut(&[u8]),
) -> Result<(), HashError> {
    thread::scope(|scope| {
        let (full_in, full_out) = mpsc::sync_channel::<io::Result<(Vec<u8>, usize)>>(BUFFERS);
        let (empty_in, empty_out) = mpsc::sync_channel::<Vec<u8>>(BUFFERS);
        for _ in 0..BUFFERS {
            // The channel has room for all of them.
            let _ = empty_in.try_send(vec![0; BUFFER]);
        }
        // Dropping the other end of a channel ends the reader.
        scope.spawn(move || {
            for mut buffer in empty_out {
                let filled = fill(&mut file, &mut buffer);
                let last = !matches!(filled, Ok(length) if length > 0);
                if full_in.send(filled.map(|length| (buffer, length))).is_err() || last {
                    return;
                }
            }
        });
        for filled in full_out {
            let (buffer, length) = filled.map_err(HashError::Io)?;
            if cancel.is_cancelled() {
                return Err(HashError::Cancelled);
            }
            take(&buffer[..length]);
            read(length as u64);
            // The reader is gone after the last buffer.
            let _ = empty_in.send(buffer);
        }
        Ok(())
    })
}

fn fill(file: &mut &File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut length = 0;
    while length < buffer.len() {
        match file.read(&mut buffer[length..]) {
            Ok(0) => break,
            Ok(bytes) => length += bytes,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(length)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::StoreKind;

    fn model() -> ModelId {
        ModelId { store: StoreKind::Flat, store_path: "/x".into(), id: "m".to_owned() }
    }

    fn expected(path: &str, size: Option<u64>, digest: Option<&str>) -> Expected {
        Expected {
            path: path.to_owned(),
            location: path.into(),
            size,
            digest: digest.map(|digest| Digest::parse(digest).unwrap()),
        }
    }

    fn statuses(root: &Path, files: &[Expected], depth: Depth) -> Vec<FileStatus> {
        let verification = run(&model(), root, files, depth, &mut |_| {}, &CancellationToken::new()).unwrap();
        assert_eq!(verification.ok, verification.files.iter().all(|file| file.status.is_ok()));
        verification.files.iter().map(|file| file.status).collect()
    }

    const HELLO_SHA256: &str = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
    const HELLO_GIT: &str = "b6fc4c620b67d95f953a5c1c1230aaab5db5a1b0";

    #[test]
    fn both_digests_are_the_hubs() {
        let scratch = tempfile::tempdir().unwrap();
        std::fs::write(scratch.path().join("f"), b"hello").unwrap();
        let files = [
            expected("f", Some(5), Some(HELLO_SHA256)),
            expected("f", None, Some(HELLO_GIT)),
            expected("f", Some(5), Some(&"00".repeat(32))),
            expected("f", None, None),
        ];
        use FileStatus::{Corrupt, NoChecksum, Ok};
        assert_eq!(statuses(scratch.path(), &files, Depth::Full), [Ok, Ok, Corrupt, NoChecksum]);
        assert_eq!(statuses(scratch.path(), &files, Depth::Quick), [Ok, Ok, Ok, NoChecksum]);
    }

    #[test]
    fn lengths_absence_and_links_are_told_apart() {
        let scratch = tempfile::tempdir().unwrap();
        std::fs::write(scratch.path().join("f"), b"hello").unwrap();
        std::os::unix::fs::symlink("f", scratch.path().join("link")).unwrap();
        std::fs::create_dir(scratch.path().join("folder")).unwrap();
        let files = [
            expected("f", Some(6), Some(HELLO_SHA256)),
            expected("f", Some(4), Some(HELLO_SHA256)),
            expected("gone", Some(5), None),
            expected("link", Some(5), None),
            expected("folder", None, None),
        ];
        use FileStatus::{Extra, Missing, Truncated, Unreadable};
        let found = [Truncated, Extra, Missing, Unreadable, Unreadable];
        assert_eq!(statuses(scratch.path(), &files, Depth::Full), found);
        assert_eq!(statuses(scratch.path(), &files, Depth::Quick), found);
    }

    #[test]
    fn empty_and_foreign_weights_are_seen_without_a_record() {
        let scratch = tempfile::tempdir().unwrap();
        std::fs::write(scratch.path().join("empty.gguf"), b"").unwrap();
        std::fs::write(scratch.path().join("page.gguf"), b"<!doctype html><html>not found</html>").unwrap();
        let files = [expected("empty.gguf", None, None), expected("page.gguf", None, None)];
        assert_eq!(statuses(scratch.path(), &files, Depth::Quick), [FileStatus::Truncated, FileStatus::Corrupt]);
    }

    #[test]
    fn large_files_are_hashed_whole_and_progress_reaches_the_total() {
        let scratch = tempfile::tempdir().unwrap();
        let bytes: Vec<u8> = (0..BUFFER * 9 + 17).map(|at| (at % 251) as u8).collect();
        std::fs::write(scratch.path().join("f"), &bytes).unwrap();
        let digest = Digest::Sha256(Sha256::digest(&bytes).into()).to_string();
        let mut last = (0, 0);
        let files = [expected("f", None, Some(&digest))];
        let verification = run(
            &model(),
            scratch.path(),
            &files,
            Depth::Full,
            &mut |progress| {
                assert!(progress.bytes >= last.0);
                last = (progress.bytes, progress.total);
            },
            &CancellationToken::new(),
        )
        .unwrap();
        assert!(verification.ok);
        assert_eq!(last, (bytes.len() as u64, bytes.len() as u64));
    }

    #[test]
    fn cancelled_is_neither_right_nor_wrong() {
        let scratch = tempfile::tempdir().unwrap();
        std::fs::write(scratch.path().join("f"), vec![0; BUFFER * 20]).unwrap();
        let cancel = CancellationToken::new();
        let files = [expected("f", None, Some(HELLO_SHA256))];
        let result = run(&model(), scratch.path(), &files, Depth::Full, &mut |_| cancel.cancel(), &cancel);
        assert!(matches!(result, Err(Error::Cancelled)));
    }
}
