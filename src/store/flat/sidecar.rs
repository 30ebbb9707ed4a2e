//! What the official client leaves beside downloaded files: `.cache/huggingface/` with one `.metadata` a file.
//!
//! Names and contents are those of huggingface_hub 2.4 (`_local_folder.py`, `_tree_cache.py`), so that `hf download
//! --local-dir` finds what we fetched and fetches nothing again.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::disk::{publish, safe};
use crate::error::{Error, Result};
use crate::model::{Digest, RemoteFile, RepoPath};
use crate::store::listing::listing;

const FOLDER: &str = ".cache/huggingface";

/// Where release 0.23 of the official client kept the same.
const OLD_FOLDER: &str = ".huggingface";

const MAX_BYTES: u64 = 4096;

const CACHEDIR_TAG: &str = "Signature: 8a477f597d28d172789f06886806bc55\n\
    # This file is a cache directory tag created by huggingface_hub.\n\
    # For information about cache directory tags, see:\n\
    #\thttps://bford.info/cachedir/\n";

/// What a `.metadata` file says about its file.
#[derive(Clone, Debug, PartialEq)]
pub struct Metadata {
    /// The commit that it came from.
    pub commit: String,
    /// SHA-256 or git's blob id in hexadecimal from the hub; anything from other servers.
    pub etag: String,
    /// When this was true, in seconds since 1970.
    pub time: f64,
}

/// What looking for a sidecar finds.
pub(super) enum Found {
    /// None, or none that can be read.
    Nothing,
    /// One, and the file was changed since.
    Outdated,
    /// One that speaks of the file as it is.
    Trusted(Metadata),
}

impl Metadata {
    /// The sidecar of `file` in `folder`, if there is one, it can be read, and the file was not changed since: its
    /// modification time is at most one second later, the rule of the official client.
    #[must_use]
    pub fn read(folder: &Path, file: &RepoPath) -> Option<Self> {
        Self::read_below(folder, Path::new(""), Path::new(file.as_str()))
    }

    /// The same for a file below `below`, both relative to the root of a store.
    pub(super) fn read_below(root: &Path, below: &Path, file: &Path) -> Option<Self> {
        match Self::look_below(root, below, file) {
            Found::Trusted(metadata) => Some(metadata),
            Found::Nothing | Found::Outdated => None,
        }
    }

    /// [`Self::read_below`], and whether there is one that the file has outlived.
    pub(super) fn look_below(root: &Path, below: &Path, file: &Path) -> Found {
        let found = [FOLDER, OLD_FOLDER].into_iter().find_map(|folder| {
            let mut name = file.file_name()?.to_owned();
            name.push(".metadata");
            let location = below.join(folder).join("download").join(file.with_file_name(name));
            let mut text = String::new();
            safe::open_below(root, &location).ok()?.take(MAX_BYTES).read_to_string(&mut text).ok()?;
            Self::parse(&text)
        });
        let modified = root.join(below).join(file).symlink_metadata().and_then(|status| status.modified());
        let (Some(metadata), Ok(modified)) = (found, modified) else { return Found::Nothing };
        let modified = match modified.duration_since(UNIX_EPOCH) {
            Ok(after) => after.as_secs_f64(),
            Err(before) => -before.duration().as_secs_f64(),
        };
        if modified - 1.0 <= metadata.time { Found::Trusted(metadata) } else { Found::Outdated }
    }

    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines().map(str::trim);
        let (commit, etag, time) = (lines.next()?, lines.next()?, lines.next()?.parse::<f64>().ok()?);
        (time.is_finite() && !etag.is_empty()).then(|| Self { commit: commit.to_owned(), etag: etag.to_owned(), time })
    }

    /// The etag as a digest, if it is one.
    #[must_use]
    pub fn digest(&self) -> Option<Digest> {
        Digest::parse(&self.etag)
    }
}

/// Where the sidecar of `file` lies.
#[must_use]
pub fn path(folder: &Path, file: &RepoPath) -> PathBuf {
    folder.join(format!("{FOLDER}/download/{file}.metadata"))
}

/// Writes the sidecar of a file that was just published (its time is now), and what the official client puts beside it:
/// `CACHEDIR.TAG` and `.gitignore`.
///
/// # Errors
/// [`crate::Error::Io`], [`crate::Error::NoSpace`], [`crate::Error::UnsafePath`].
pub fn write(folder: &Path, file: &RepoPath, commit: &str, etag: &str) -> Result<()> {
    write_common(folder)?;
    let sidecar = prepare(folder, "download", file)?.with_file_name(name_for(file));
    publish::write_atomically(&sidecar, text(commit, etag).as_bytes())
}

/// [`write()`] for many small files, with a result each. Nothing is synced: a sidecar that a power loss took is made again
/// from the bytes of its file, which are.
///
/// # Errors
/// Each as [`write()`].
pub fn write_all<'a>(folder: &Path, commit: &str, files: &[(&'a RepoPath, String)]) -> Vec<Result<()>> {
    if let Err(error) = write_common(folder) {
        // It is told once, with the first; the others are not noted either.
        let again = || Error::io("write", folder.join(FOLDER))(io::Error::other("it failed for another file of it"));
        let mut error = Some(error);
        return files.iter().map(|_| Err(error.take().unwrap_or_else(again))).collect();
    }
    let mut prepared: BTreeMap<Option<&str>, PathBuf> = BTreeMap::new();
    let mut write = |file: &'a RepoPath, etag: &str| {
        let beside = match prepared.entry(file.folder()) {
            Entry::Occupied(there) => there.into_mut(),
            Entry::Vacant(new) => new.insert(prepare(folder, "download", file)?),
        };
        publish::write_unsynced(&beside.with_file_name(name_for(file)), text(commit, etag).as_bytes())
    };
    files.iter().map(|(file, etag)| write(file, etag)).collect()
}

/// The files that the whole bookkeeping of a folder has once.
fn write_common(folder: &Path) -> Result<()> {
    for (name, content) in [("CACHEDIR.TAG", CACHEDIR_TAG), (".gitignore", "*")] {
        let path = safe::prepare_below(folder, &RepoPath::parse(&format!("{FOLDER}/{name}"))?)?;
        if path.symlink_metadata().is_err() {
            publish::write_atomically(&path, content.as_bytes())?;
        }
    }
    Ok(())
}

fn name_for(file: &RepoPath) -> String {
    format!("{}.metadata", file.file_name())
}

fn text(commit: &str, etag: &str) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("{commit}\n{etag}\n{}.{:06}\n", now.as_secs(), now.subsec_micros())
}

/// Writes `trees/<commit>.json`. `files` must be the complete listing of the repository at `commit`: the official client
/// takes it for the whole truth. Nothing is written when `commit` is no commit or a file has no git blob id, since the
/// listing would then not be what the official client expects.
///
/// # Errors
/// [`crate::Error::Io`], [`crate::Error::NoSpace`], [`crate::Error::UnsafePath`].
pub fn write_tree(folder: &Path, commit: &str, files: &[RemoteFile]) -> Result<()> {
    let Some(listing) = listing(commit, files)? else { return Ok(()) };
    publish::write_atomically(
        &prepare(folder, "trees", &RepoPath::parse(&format!("{commit}.json"))?)?,
        listing.as_bytes(),
    )
}

/// The path `in_folder/file` of the bookkeeping, with its folders created through no link.
fn prepare(folder: &Path, in_folder: &str, file: &RepoPath) -> Result<PathBuf> {
    // The way is checked in two parts: together they may be longer than a path of a repository may be.
    let bookkeeping = safe::prepare_below(folder, &RepoPath::parse(&format!("{FOLDER}/{in_folder}/x"))?)?;
    safe::prepare_below(bookkeeping.parent().unwrap_or(folder), file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path_of(text: &str) -> RepoPath {
        RepoPath::parse(text).unwrap()
    }

    #[test]
    fn a_sidecar_reads_back_until_the_file_changes() {
        let scratch = tempfile::tempdir().unwrap();
        let file = path_of("Q4/m.gguf");
        std::fs::create_dir(scratch.path().join("Q4")).unwrap();
        std::fs::write(scratch.path().join("Q4/m.gguf"), b"x").unwrap();
        let etag = "ab".repeat(32);
        write(scratch.path(), &file, &"c".repeat(40), &etag).unwrap();
        let metadata = Metadata::read(scratch.path(), &file).unwrap();
        assert_eq!((metadata.commit.as_str(), metadata.etag.as_str()), ("c".repeat(40).as_str(), etag.as_str()));
        assert_eq!(metadata.digest(), Digest::parse(&etag));
        assert_eq!(std::fs::read(scratch.path().join(".cache/huggingface/.gitignore")).unwrap(), b"*");
        assert!(scratch.path().join(".cache/huggingface/CACHEDIR.TAG").is_file());

        let later = SystemTime::now() + std::time::Duration::from_secs(5);
        std::fs::File::options()
            .write(true)
            .open(scratch.path().join("Q4/m.gguf"))
            .unwrap()
            .set_modified(later)
            .unwrap();
        assert_eq!(Metadata::read(scratch.path(), &file), None);
    }

    #[test]
    fn what_is_no_sidecar_says_nothing() {
        for text in ["", "c\n", "c\ne\n", "c\ne\nnever\n", "c\ne\nNaN\n", "c\n\n1.5\n"] {
            assert_eq!(Metadata::parse(text), None, "{text:?}");
        }
        assert_eq!(Metadata::parse("c\n\"e\"\n1712656091.123\n").unwrap().digest(), None);
    }

    #[test]
    fn a_tree_is_written_as_the_official_client_writes_it() {
        let scratch = tempfile::tempdir().unwrap();
        let file = |path: &str, digest: &str, blob: Option<&str>| RemoteFile {
            path: path_of(path),
            size: 7,
            digest: Digest::parse(digest),
            blob_id: blob.map(str::to_owned),
            xet_hash: None,
        };
        let commit = "c".repeat(40);
        let listing = [
            file("m.gguf", &"ab".repeat(32), Some("pointer")),
            file("config.json", &"cd".repeat(20), Some(&"cd".repeat(20))),
        ];
        write_tree(scratch.path(), &commit, &listing).unwrap();
        let path = scratch.path().join(format!(".cache/huggingface/trees/{commit}.json"));
        let read: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        assert_eq!(
            read,
            serde_json::json!({"format_version": 1, "files": {
                "config.json": {"size": 7, "blob_id": "cd".repeat(20)},
                "m.gguf": {"size": 7, "blob_id": "pointer", "lfs_sha256": "ab".repeat(32), "lfs_size": 7},
            }})
        );
        std::fs::remove_file(&path).unwrap();
        write_tree(scratch.path(), &commit, &[file("x", "", None)]).unwrap();
        write_tree(scratch.path(), "../../x", &listing).unwrap();
        assert!(!path.exists());
    }
}
