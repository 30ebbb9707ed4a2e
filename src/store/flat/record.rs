//! The record of a folder: which repository it was filled from, and with what.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::disk::folder::Folder;
use crate::disk::lock::FileLock;
use crate::disk::{publish, safe};
use crate::error::{Error, Result};
use crate::model::{Digest, RemoteFile, RepoPath, text};
use crate::store::tree::reason;

/// Where a record lies in its folder.
pub const RECORD: &str = ".cache/llorch-models/source.json";
const FOLDER: &str = ".cache/llorch-models";
const NAME: &str = "source.json";
pub(super) const LOCK: &str = ".cache/llorch-models/source.lock";

/// Longest record that is read: some hundred thousand files.
const MAX_BYTES: u64 = 64 << 20;

/// How long another process may hold the record; it holds it for one small write.
const PATIENCE: Duration = Duration::from_secs(10);

/// Which repository a folder was filled from, and with what. Lies at [`RECORD`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Version of this format: [`Record::VERSION`].
    pub version: u32,
    /// Base address of the hub.
    pub endpoint: String,
    /// `org/name`.
    pub repository: String,
    /// The branch, tag or commit that was asked for last.
    pub revision: String,
    /// The commit that it was then.
    pub commit: String,
    /// Every file that was published here, by path.
    pub files: Vec<RecordedFile>,
}

/// A published file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordedFile {
    /// Path in the repository and in the folder.
    pub path: RepoPath,
    /// Length in bytes.
    pub size: u64,
    /// What checks its content; its length tells the algorithm.
    pub digest: Option<Digest>,
    /// Whether it was made here from other files of the folder, so that the hub has no file of that name.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub converted: bool,
    /// The last commit of which it is known that this is its file, where that is not the record's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
}

impl Record {
    /// The version that this program writes.
    pub const VERSION: u32 = 1;

    /// The path of the record of `folder`.
    #[must_use]
    pub fn path(folder: &Path) -> PathBuf {
        folder.join(RECORD)
    }

    /// The record of `folder`; `None` when it has none.
    ///
    /// # Errors
    /// [`Error::Damaged`] when there is one that cannot be read or understood: whose folder it is, is then unknown.
    pub fn read(folder: &Path) -> Result<Option<Self>> {
        let opened = match Folder::open(folder) {
            Ok(opened) => opened,
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
            Err(error) => return Err(Error::io("read", folder)(error.into())),
        };
        Self::read_in(&opened).map_err(|reason| {
            Error::Damaged(format!(
                "{}: {reason}; remove the file to make the folder's origin unknown",
                text::printable_path(&Self::path(folder))
            ))
        })
    }

    /// The record of an open folder.
    pub(super) fn read_in(folder: &Folder) -> Result<Option<Self>, String> {
        let bytes = match folder.descend(Path::new(FOLDER)).and_then(|folder| folder.read(NAME.as_ref(), MAX_BYTES)) {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return Err(format!("the record is longer than {MAX_BYTES} bytes")),
            Err(Errno::NOENT) => return Ok(None),
            Err(error) => return Err(format!("the record cannot be read: {}", reason(error))),
        };
        let record: Self = serde_json::from_slice(&bytes)
            .map_err(|error| format!("the record is damaged: {}", text::printable(&error.to_string())))?;
        if record.version != Self::VERSION {
            return Err(format!("the record has version {}, this program knows {}", record.version, Self::VERSION));
        }
        Ok(Some(record))
    }

    /// Writes this record as the record of `folder`, joined with the one that is there: endpoint, revision and commit are
    /// this one's, its files take the place of files of the same path, and the others stay as long as they or their sidecars
    /// are on disk, with the commits that they are of. Called without files before the first byte of a download, it claims the
    /// folder for the repository.
    ///
    /// A commit that was asked for by itself and of which files are here already moves nothing: a folder that follows a
    /// branch goes on doing so when one of its files is fetched again.
    ///
    /// `listing` is what the repository has at this commit: files that are here and the same there are its files, too.
    ///
    /// # Errors
    /// [`Error::UnsafePath`] when the folder belongs to another repository or a link is in the way, [`Error::Damaged`] when its
    /// record cannot be understood, [`Error::Locked`] when another process keeps it, [`Error::Io`], [`Error::NoSpace`].
    pub fn merge(&self, folder: &Path, listing: &[RemoteFile]) -> Result<()> {
        let lock_path = safe::prepare_below(folder, &RepoPath::parse(LOCK)?)?;
        let _lock = wait_for(&lock_path)?;
        let former = Self::read(folder)?;
        if let Some(former) = former.as_ref().filter(|former| !self.is_of(&former.repository)) {
            return Err(Error::UnsafePath {
                path: text::printable_path(folder),
                reason: format!(
                    "it holds {}, not {}",
                    text::printable(&former.repository),
                    text::printable(&self.repository)
                ),
            });
        }
        let listed: BTreeMap<&RepoPath, Digest> =
            listing.iter().filter_map(|file| Some((&file.path, file.digest?))).collect();
        let mut files: BTreeMap<&RepoPath, (&RecordedFile, &str)> = BTreeMap::new();
        if let Some(former) = &former {
            for file in former.files.iter().filter(|file| is_there(folder, &file.path)) {
                let same = file.digest.is_some_and(|digest| listed.get(&file.path) == Some(&digest));
                let commit = if same { &self.commit } else { former.commit_of(file) };
                files.insert(&file.path, (file, commit));
            }
        }
        files.extend(self.files.iter().map(|file| (&file.path, (file, self.commit_of(file)))));
        let has = |commit: &str| files.values().any(|(_, of)| *of == commit);
        let stays = former.as_ref().filter(|former| {
            let was_here =
                former.commit == self.commit || former.files.iter().any(|file| former.commit_of(file) == self.commit);
            self.revision == self.commit && was_here && (files.is_empty() || has(&former.commit))
        });
        let head = stays.unwrap_or(self);
        let of_head = |(file, commit): (&RecordedFile, &str)| RecordedFile {
            commit: (commit != head.commit).then(|| commit.to_owned()),
            ..file.clone()
        };
        let merged = Self {
            version: Self::VERSION,
            endpoint: self.endpoint.clone(),
            repository: self.repository.clone(),
            revision: head.revision.clone(),
            commit: head.commit.clone(),
            files: files.into_values().map(of_head).collect(),
        };
        let mut bytes = serde_json::to_vec_pretty(&merged)
            .map_err(|error| Error::Damaged(format!("the record cannot be written as JSON: {error}")))?;
        bytes.push(b'\n');
        publish::write_atomically(&safe::prepare_below(folder, &RepoPath::parse(RECORD)?)?, &bytes)
    }

    /// Whether it is of `repository`; the hub does not tell names apart by case.
    #[must_use]
    pub fn is_of(&self, repository: &str) -> bool {
        self.repository.eq_ignore_ascii_case(repository)
    }

    /// The commit of which it says that `file` is.
    #[must_use]
    pub fn commit_of<'a>(&'a self, file: &'a RecordedFile) -> &'a str {
        file.commit.as_deref().unwrap_or(&self.commit)
    }

    /// What it says about the file at `path`.
    #[must_use]
    pub fn file(&self, path: &str) -> Option<&RecordedFile> {
        match self.files.binary_search_by(|file| file.path.as_str().cmp(path)) {
            Ok(at) => self.files.get(at),
            // A record from another hand need not be sorted.
            Err(_) => self.files.iter().find(|file| file.path.as_str() == path),
        }
    }
}

/// Whether the file or its sidecar is there; a deletion takes both.
fn is_there(folder: &Path, path: &RepoPath) -> bool {
    let sidecar = super::sidecar::path(folder, path);
    path.below(folder).symlink_metadata().is_ok() || sidecar.symlink_metadata().is_ok()
}

fn wait_for(path: &Path) -> Result<FileLock> {
    let started = Instant::now();
    loop {
        if let Some(lock) = FileLock::try_exclusive(path)? {
            return Ok(lock);
        }
        if started.elapsed() > PATIENCE {
            return Err(Error::Locked { path: path.to_owned(), holder: FileLock::holder(path) });
        }
        thread::sleep(Duration::from_millis(20));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(repository: &str, files: &[(&str, u64)]) -> Record {
        let files = files
            .iter()
            .map(|(path, size)| RecordedFile {
                path: RepoPath::parse(path).unwrap(),
                size: *size,
                digest: Digest::parse(&"ab".repeat(32)),
                converted: false,
                commit: None,
            })
            .collect();
        Record {
            version: Record::VERSION,
            endpoint: "https://huggingface.co".to_owned(),
            repository: repository.to_owned(),
            revision: "main".to_owned(),
            commit: "c".repeat(40),
            files,
        }
    }

    #[test]
    fn a_later_download_adds_its_files_and_forgets_what_was_deleted() {
        let scratch = tempfile::tempdir().unwrap();
        let folder = scratch.path().join("m");
        assert_eq!(Record::read(&folder).unwrap(), None);
        record("org/name", &[]).merge(&folder, &[]).unwrap();
        for name in ["a.gguf", "b.gguf"] {
            std::fs::write(folder.join(name), b"x").unwrap();
        }
        record("org/name", &[("a.gguf", 1), ("gone.gguf", 1)]).merge(&folder, &[]).unwrap();
        let mut later = record("org/name", &[("b.gguf", 2)]);
        later.commit = "d".repeat(40);
        later.merge(&folder, &[]).unwrap();
        let read = Record::read(&folder).unwrap().unwrap();
        assert_eq!(read.commit, "d".repeat(40));
        let paths: Vec<_> = read.files.iter().map(|file| file.path.as_str()).collect();
        assert_eq!(paths, ["a.gguf", "b.gguf"]);
        assert_eq!(read.file("b.gguf").unwrap().size, 2);
    }

    #[test]
    fn a_folder_of_another_repository_is_not_taken_over() {
        let scratch = tempfile::tempdir().unwrap();
        record("org/name", &[]).merge(scratch.path(), &[]).unwrap();
        let error = record("other/name", &[]).merge(scratch.path(), &[]).unwrap_err();
        assert!(matches!(error, Error::UnsafePath { .. }), "{error}");
        assert_eq!(Record::read(scratch.path()).unwrap().unwrap().repository, "org/name");
    }

    #[test]
    fn what_is_no_record_is_told_and_never_overwritten() {
        let scratch = tempfile::tempdir().unwrap();
        let path = Record::path(scratch.path());
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let mut newer = record("org/name", &[]);
        newer.version = 2;
        for bytes in [b"{".to_vec(), b"[]".to_vec(), serde_json::to_vec(&newer).unwrap()] {
            std::fs::write(&path, &bytes).unwrap();
            assert!(matches!(Record::read(scratch.path()), Err(Error::Damaged(_))));
            assert!(record("org/name", &[]).merge(scratch.path(), &[]).is_err());
            assert_eq!(std::fs::read(&path).unwrap(), bytes);
        }
        let hostile = br#"{"version":1,"endpoint":"","repository":"a/b","revision":"main","commit":"","files":[{"path":"../x","size":1,"digest":null}]}"#;
        std::fs::write(&path, hostile).unwrap();
        assert!(matches!(Record::read(scratch.path()), Err(Error::Damaged(_))));
    }

    #[test]
    fn a_link_in_the_way_is_not_followed() {
        let scratch = tempfile::tempdir().unwrap();
        let elsewhere = scratch.path().join("elsewhere");
        let folder = scratch.path().join("m");
        record("org/name", &[]).merge(&elsewhere, &[]).unwrap();
        std::fs::create_dir(&folder).unwrap();
        std::os::unix::fs::symlink(elsewhere.join(".cache"), folder.join(".cache")).unwrap();
        assert!(Record::read(&folder).is_err());
        assert!(record("org/name", &[]).merge(&folder, &[]).is_err());
    }
}
