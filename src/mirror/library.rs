//! Repositories at their commit: content with digests, computed once for each state of a file.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::Read;
use std::sync::{Arc, Mutex, PoisonError};

use sha1::Sha1;
use sha2::{Digest as _, Sha256};

use super::{Content, Facts, ServedFile};
use crate::error::{Error, Result};
use crate::model::{Digest, FileName, RepoPath};

/// What a row of a search tells of a repository: nothing that needs its files to be read.
#[derive(Clone, Debug)]
pub(super) struct Summary {
    pub(super) id: String,
    pub(super) paths: Vec<RepoPath>,
    pub(super) facts: Facts,
    /// Seconds since 1970 of the last modification of any file.
    pub(super) modified: i64,
}

/// A repository as it is now.
#[derive(Clone, Debug)]
pub(super) struct Snapshot {
    pub(super) summary: Summary,
    pub(super) commit: String,
    pub(super) files: Vec<Entry>,
}

/// A file of a snapshot.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) path: RepoPath,
    pub(super) size: u64,
    /// SHA-256 for a large file, git SHA-1 for a small one.
    pub(super) digest: Digest,
    /// Git's blob id: of the content, or of the pointer text of a large file.
    pub(super) blob_id: String,
    /// Length of the pointer text of a large file.
    pub(super) pointer: Option<usize>,
}

impl Entry {
    pub(super) fn is_large(&self) -> bool {
        self.pointer.is_some()
    }
}

impl Snapshot {
    pub(super) fn file(&self, path: &str) -> Option<&Entry> {
        self.files.iter().find(|file| file.path.as_str() == path)
    }

    /// Whether `revision` means this commit: a branch, a tag, the commit or a beginning of it.
    pub(super) fn answers_to(&self, revision: &str) -> bool {
        revision == "main"
            || (revision.len() >= 7 && self.commit.starts_with(revision))
            || self.summary.facts.revisions.iter().any(|name| name == revision)
    }
}

impl Summary {
    pub(super) fn tags(&self) -> Vec<String> {
        let mut tags = Vec::new();
        if self.paths.iter().any(|path| FileName::parse(path.file_name()).is_gguf()) {
            tags.push("gguf".to_owned());
        }
        if self.paths.iter().any(|path| FileName::parse(path.file_name()).is_safetensors()) {
            tags.push("safetensors".to_owned());
        }
        tags.extend(self.facts.tags.iter().cloned());
        tags
    }
}

type Known = HashMap<([i64; 6], u64), Digest>;

/// The content of a mirror and the digests of its files.
pub(super) struct Library {
    content: Arc<dyn Content>,
    large_from: u64,
    known: Mutex<Known>,
    /// One lock a repository, so that two requests do not hash the same files.
    busy: Mutex<HashMap<String, Arc<Mutex<()>>>>,
}

impl Library {
    pub(super) fn new(content: Arc<dyn Content>, large_from: u64) -> Self {
        Self { content, large_from, known: Mutex::default(), busy: Mutex::default() }
    }

    pub(super) fn content(&self) -> &dyn Content {
        &*self.content
    }

    /// The id in its own spelling, for one given in any case.
    pub(super) fn canonical(&self, id: &str) -> Result<Option<String>> {
        Ok(self.content.repositories()?.into_iter().find(|known| known.eq_ignore_ascii_case(id)))
    }

    /// Reads names and times of a repository. Blocks.
    pub(super) fn summary(&self, id: &str) -> Result<Option<Summary>> {
        Ok(self.content.files(id)?.map(|files| self.summarise(id, &files)))
    }

    fn summarise(&self, id: &str, files: &[ServedFile]) -> Summary {
        Summary {
            id: id.to_owned(),
            paths: files.iter().map(|file| file.path.clone()).collect(),
            facts: self.content.facts(id),
            modified: files.iter().map(|file| file.stamp[2]).max().unwrap_or_default(),
        }
    }

    /// Reads (and, for files not seen in this state before, hashes) a repository. Blocks.
    pub(super) fn snapshot(&self, id: &str) -> Result<Option<Snapshot>> {
        let Some(served) = self.content.files(id)? else { return Ok(None) };
        let lock = {
            let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(busy.entry(id.to_owned()).or_default())
        };
        let _guard = lock.lock().unwrap_or_else(PoisonError::into_inner);
        let summary = self.summarise(id, &served);
        let mut tree = String::new();
        let mut files = Vec::with_capacity(served.len());
        for file in &served {
            let digest = self.digest(id, file)?;
            _ = writeln!(tree, "{} {digest} {}", file.size, file.path);
            files.push(entry(file, digest));
        }
        let commit = summary.facts.commit.clone().unwrap_or_else(|| git_id("commit", tree.as_bytes()).to_string());
        Ok(Some(Snapshot { summary, commit, files }))
    }

    fn digest(&self, id: &str, file: &ServedFile) -> Result<Digest> {
        let large = file.size >= self.large_from;
        if let (true, Some(digest @ Digest::Sha256(_))) = (large, file.sha256) {
            return Ok(digest);
        }
        let key = (file.stamp, file.size);
        if let Some(digest) = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return Ok(*digest);
        }
        let reader = self.content.open(id, &file.path)?;
        let read_error = |error| Error::io("read", file.path.as_str())(error);
        let digest = if large {
            let mut hash = Sha256::new();
            hash_all(reader, |bytes| hash.update(bytes)).map_err(read_error)?;
            Digest::Sha256(hash.finalize().into())
        } else {
            let mut hash = Sha1::new();
            hash.update(format!("blob {}\0", file.size).as_bytes());
            hash_all(reader, |bytes| hash.update(bytes)).map_err(read_error)?;
            Digest::GitSha1(hash.finalize().into())
        };
        self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(key, digest);
        Ok(digest)
    }
}

fn hash_all(mut reader: impl Read, mut update: impl FnMut(&[u8])) -> std::io::Result<()> {
    let mut buffer = vec![0; 256 * 1024];
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(n) => update(&buffer[..n]),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn entry(file: &ServedFile, digest: Digest) -> Entry {
    let (blob_id, pointer) = match digest {
        Digest::Sha256(_) => {
            let text = format!("version https://git-lfs.github.com/spec/v1\noid sha256:{digest}\nsize {}\n", file.size);
            (git_id("blob", text.as_bytes()), Some(text.len()))
        }
        Digest::GitSha1(_) => (digest, None),
    };
    Entry { path: file.path.clone(), size: file.size, digest, blob_id: blob_id.to_string(), pointer }
}

/// Git's id of an object of that kind.
pub(super) fn git_id(kind: &str, bytes: &[u8]) -> Digest {
    let mut hash = Sha1::new();
    hash.update(format!("{kind} {}\0", bytes.len()).as_bytes());
    hash.update(bytes);
    Digest::GitSha1(hash.finalize().into())
}
