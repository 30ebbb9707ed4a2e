//! Unfinished downloads of other programs, whose bytes need not be fetched again.
//!
//! Only what those programs write from the front to the back is taken: a plain `.incomplete` (`huggingface_hub` before
//! 1.18), `.part` (hf-hub for Rust) and `.downloadInProgress` (llama.cpp). It is copied and otherwise left alone: the
//! checksum of the whole decides, and if it is wrong everything is fetched anew.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use sha1::{Digest as _, Sha1};

use crate::disk::lock::is_held;
use crate::disk::safe;
use crate::machine;
use crate::model::{Digest, Inode, RemoteFile, RepoPath, text};
use crate::transfer::{self, Request, Staging};

/// A file that may be the beginning of another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    /// Relative to the folder that it is looked for in.
    path: PathBuf,
    /// The file that its program locks while it works on it.
    lock: Option<PathBuf>,
}

/// What the clients of the Hugging Face cache leave in `blobs/`. The Python client's lock is held by whoever asks.
pub(super) fn of_blob(digest: &Digest) -> Vec<Candidate> {
    [("incomplete", None), ("part", Some(format!("{digest}.lock"))), ("downloadInProgress", None)]
        .into_iter()
        .map(|(suffix, lock)| Candidate { path: format!("{digest}.{suffix}").into(), lock: lock.map(PathBuf::from) })
        .collect()
}

/// What `hf download --local-dir` and llama.cpp leave in and beside a folder of files.
pub(super) fn of_folder(file: &RepoPath, digest: &Digest) -> Vec<Candidate> {
    let (name, inside) = (file.file_name(), file.folder().unwrap_or_default());
    let key = url_safe(&Sha1::digest(format!("{name}.metadata")));
    let mut found = vec![Candidate { path: format!("{file}.downloadInProgress").into(), lock: None }];
    for folder in [".cache/huggingface/download", ".huggingface/download"] {
        let folder = Path::new(folder).join(inside);
        // From 0.28 on, and before.
        for first in [key.as_str(), name] {
            found.push(Candidate {
                path: folder.join(format!("{first}.{digest}.incomplete")),
                lock: Some(folder.join(format!("{name}.lock"))),
            });
        }
    }
    found
}

/// Takes over the longest of `candidates` below `folder` as the beginning of `file`, if nothing of it is staged yet. What
/// does not work out is no failure: everything is fetched then.
pub(super) fn adopt(request: &Request, file: &RemoteFile, staging: &Staging, folder: &Path, candidates: &[Candidate]) {
    if staging.partial.symlink_metadata().is_ok() || file.digest.is_none() {
        return;
    }
    let mut fitting: Vec<(u64, &Candidate)> = candidates
        .iter()
        .filter(|candidate| !candidate.lock.as_ref().is_some_and(|lock| is_held(&folder.join(lock))))
        .filter_map(|candidate| Some((prefix(&folder.join(&candidate.path), file.size)?, candidate)))
        .collect();
    fitting.sort_by_key(|(length, _)| std::cmp::Reverse(*length));
    for (length, candidate) in fitting {
        let taken = safe::open_below(folder, &candidate.path)
            .and_then(|from| transfer::adopt(request, file, staging, &from, length));
        let shown = text::printable_path(&folder.join(&candidate.path));
        match taken {
            Ok(true) => {
                tracing::info!("{} goes on behind the {length} bytes of {shown}", file.path);
                return;
            }
            Ok(false) => {}
            Err(error) => tracing::warn!("{shown} is left alone: {error}"),
        }
    }
}

/// The length of a file that can be the beginning of one of `size` bytes: regular, without holes (a preallocated or sparse file
/// has bytes that never came), and held by no process.
fn prefix(path: &Path, size: u64) -> Option<u64> {
    let found = fs::symlink_metadata(path).ok()?;
    let length = found.len();
    if !found.is_file() || length == 0 || length >= size || found.blocks().saturating_mul(512) < length {
        return None;
    }
    let inode = Inode { device: found.dev(), inode: found.ino() };
    let held = machine::find_holders(&BTreeSet::from([inode]), &[]).keeps_open(inode);
    (!held).then_some(length)
}

/// Base 64 in the alphabet for addresses, padded.
fn url_safe(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let value = group.iter().fold(0_u32, |value, byte| value << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
        for place in 0..4 {
            let index = (value >> (18 - 6 * place)) as usize & 63;
            text.push(if place <= group.len() { char::from(ALPHABET[index]) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_programs() {
        let digest = Digest::parse(&"ab".repeat(32)).unwrap();
        let paths = of_folder(&RepoPath::parse("sub/m.gguf").unwrap(), &digest);
        let paths: Vec<_> = paths.iter().map(|candidate| candidate.path.to_str().unwrap()).collect();
        assert_eq!(paths[0], "sub/m.gguf.downloadInProgress");
        // As Python says: base64.urlsafe_b64encode(hashlib.sha1(b"m.gguf.metadata").digest()).
        assert_eq!(
            paths[1],
            format!(
                ".cache/huggingface/download/sub/{}.{digest}.incomplete",
                url_safe(&Sha1::digest("m.gguf.metadata"))
            )
        );
        assert_eq!(paths[2], format!(".cache/huggingface/download/sub/m.gguf.{digest}.incomplete"));
        for (bytes, text) in
            [(&b""[..], ""), (b"f", "Zg=="), (b"fo", "Zm8="), (b"foo", "Zm9v"), (&[0xfb, 0xff, 0xbf], "-_-_")]
        {
            assert_eq!(url_safe(bytes), text);
        }
    }

    #[test]
    fn only_whole_prefixes_that_nobody_holds_count() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        assert_eq!(prefix(&path, 100), None);
        fs::write(&path, vec![1; 50]).unwrap();
        assert_eq!(prefix(&path, 100), Some(50));
        assert_eq!(prefix(&path, 50), None, "all of it is no beginning");
        let sparse = folder.path().join("sparse");
        fs::File::create(&sparse).unwrap().set_len(1 << 20).unwrap();
        assert_eq!(prefix(&sparse, 2 << 20), None);
        std::os::unix::fs::symlink(&path, folder.path().join("link")).unwrap();
        assert_eq!(prefix(&folder.path().join("link"), 100), None);
    }
}
