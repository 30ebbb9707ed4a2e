//! A folder of the flat store as the place where files go.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use tokio_util::sync::CancellationToken;

use super::{Place, Replaced, has_digest, partials, unrecorded};
use crate::disk::{publish, regular, safe};
use crate::error::{Error, Result};
use crate::format::LookAlike;
use crate::model::{Digest, FileName, RemoteFile, RepoPath, StoreKind, text};
use crate::provisioner::DownloadPlan;
use crate::store::flat::staging::{StagingName, staging_key, staging_paths};
use crate::store::flat::{Record, RecordedFile, sidecar};
use crate::store::remembered::Remembered;
use crate::transfer::{self, Destination, Request, Staging};

/// So many small files are published before the record is written again.
const RECORD_AFTER: usize = 500;

/// The folder of one download.
///
/// The record claims the folder before the first byte and is brought up to date after every large file and at the end, so
/// that what a crash leaves is described truthfully; for small files in between their sidecars speak.
#[derive(Debug)]
pub(in crate::provisioner) struct FlatDestination {
    root: PathBuf,
    folder: PathBuf,
    endpoint: String,
    repository: String,
    revision: String,
    commit: String,
    listing: Vec<RemoteFile>,
    force: bool,
    /// Whether this run has changed the folder: bookkeeping that cannot be written is then an error.
    changed: AtomicBool,
    /// One record is written at a time.
    record: Mutex<()>,
    /// Published files that the record does not have yet.
    unrecorded: Mutex<Vec<RemoteFile>>,
    /// With `force`: what lay under each name when this run first looked. Another inode there has been published since.
    replaced: Mutex<BTreeMap<RepoPath, (u64, u64)>>,
    memory: Remembered,
    cancel: CancellationToken,
}

impl FlatDestination {
    pub(in crate::provisioner) fn new(
        root: &Path,
        endpoint: &str,
        plan: &DownloadPlan,
        memory: &Remembered,
        cancel: CancellationToken,
    ) -> Self {
        Self {
            root: root.to_owned(),
            folder: plan.folder.clone(),
            endpoint: endpoint.to_owned(),
            repository: plan.repository.id.clone(),
            revision: plan.revision.clone(),
            commit: plan.repository.commit.clone(),
            listing: plan.listing.clone(),
            force: plan.request.force,
            changed: AtomicBool::new(false),
            record: Mutex::new(()),
            unrecorded: Mutex::default(),
            replaced: Mutex::new(BTreeMap::new()),
            memory: memory.clone(),
            cancel,
        }
    }

    fn merge(&self, files: &[RemoteFile]) -> Result<()> {
        let _guard = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        let files = files
            .iter()
            .map(|file| RecordedFile {
                path: file.path.clone(),
                size: file.size,
                digest: file.digest,
                converted: false,
                commit: None,
            })
            .collect();
        Record {
            version: Record::VERSION,
            endpoint: self.endpoint.clone(),
            repository: self.repository.clone(),
            revision: self.revision.clone(),
            commit: self.commit.clone(),
            files,
        }
        .merge(&self.folder, &self.listing)
    }

    /// Notes a file whose content is known to be right.
    fn note(&self, file: &RemoteFile) -> Result<()> {
        if let Some(digest) = &file.digest {
            sidecar::write(&self.folder, &file.path, &self.commit, &digest.to_string())?;
        }
        self.merge(std::slice::from_ref(file))
    }

    /// Notes files whose content is known to be right, where the record follows.
    fn note_beside(&self, files: &[&RemoteFile]) -> Vec<Result<()>> {
        let etags: Vec<_> =
            files.iter().filter_map(|file| Some((&file.path, file.digest.as_ref()?.to_string()))).collect();
        let mut written = sidecar::write_all(&self.folder, &self.commit, &etags).into_iter();
        let next = |file: &&RemoteFile| file.digest.as_ref().and_then(|_| written.next()).unwrap_or(Ok(()));
        files.iter().map(next).collect()
    }

    /// Puts files into the record, or remembers them until it is worth it: their sidecars vouch for them meanwhile. A file
    /// without checksum has none.
    fn record_later(&self, files: &[&RemoteFile]) -> Result<()> {
        let due = {
            let mut unrecorded = self.unrecorded.lock().unwrap_or_else(PoisonError::into_inner);
            unrecorded.extend(files.iter().map(|file| (*file).clone()));
            unrecorded.len() >= RECORD_AFTER || files.iter().any(|file| file.digest.is_none())
        };
        if due { self.settle() } else { Ok(()) }
    }

    /// Bookkeeping about files that were there before: where it cannot be written (a read-only store), the files are
    /// as good as they were.
    fn note_present(&self, noted: Result<()>) -> Result<()> {
        match noted {
            Err(error) if !self.has_changed() => {
                tracing::warn!("{error}; what is there is whole all the same");
                Ok(())
            }
            other => other,
        }
    }
}

/// Whether the bookkeeping of `folder` vouches for `file` as it lies there now: the sidecar names its digest and the file was
/// not changed since, or, where no digest is known, the record has it of the same commit and length.
pub(in crate::provisioner) fn vouched(folder: &Path, file: &RemoteFile, commit: &str, record: Option<&Record>) -> bool {
    let target = file.path.below(folder);
    let whole = fs::symlink_metadata(&target).is_ok_and(|status| status.is_file() && status.len() == file.size);
    if !whole {
        return false;
    }
    match &file.digest {
        Some(digest) => sidecar::Metadata::read(folder, &file.path)
            .is_some_and(|sidecar| Digest::parse(&sidecar.etag).as_ref() == Some(digest)),
        None => record.is_some_and(|record| {
            let known = record.file(file.path.as_str());
            known.is_some_and(|known| record.commit_of(known) == commit && known.size == file.size)
        }),
    }
}

/// Removes what unfinished downloads of other versions of these files left beside them, once the files are there: nothing
/// will ever continue them. A partial that somebody works on stays.
pub(in crate::provisioner) fn discard_partials_of(targets: &[PathBuf]) {
    let mut folders: BTreeMap<&Path, BTreeSet<&OsStr>> = BTreeMap::new();
    for target in targets {
        if let (Some(folder), Some(name)) = (target.parent(), target.file_name()) {
            folders.entry(folder).or_default().insert(name);
        }
    }
    for (folder, names) in folders {
        let Ok(entries) = fs::read_dir(folder) else { continue };
        let staged = entries.flatten().filter_map(|entry| StagingName::parse(&entry.file_name()));
        let keys: BTreeSet<(OsString, String)> = staged
            .filter(|staged| names.contains(staged.target.as_os_str()))
            .map(|staged| (staged.target.clone(), staged.key))
            .collect();
        for (name, key) in keys {
            let target = folder.join(name);
            let (partial, journal) = staging_paths(&target, &key);
            match transfer::discard(&Staging { partial, journal }) {
                Ok(()) | Err(Error::Locked { .. }) => {}
                Err(error) => tracing::warn!("a partial of {} stays behind: {error}", text::printable_path(&target)),
            }
        }
    }
}

impl Place for FlatDestination {
    fn has_changed(&self) -> bool {
        self.changed.load(Ordering::Relaxed)
    }

    fn is_there(&self, file: &RemoteFile) -> bool {
        // With `force` the new bytes lie beside the old ones until they are published.
        fs::symlink_metadata(file.path.below(&self.folder))
            .is_ok_and(|status| status.is_file() && status.len() == file.size && !self.is_to_be_replaced(file, &status))
            && !self.is_known_bad(file)
    }

    fn settle(&self) -> Result<()> {
        let files = std::mem::take(&mut *self.unrecorded.lock().unwrap_or_else(PoisonError::into_inner));
        if files.is_empty() { Ok(()) } else { self.merge(&files) }
    }
}

impl Destination for FlatDestination {
    fn folder(&self) -> &Path {
        &self.folder
    }

    fn present(&self, file: &RemoteFile) -> Result<Option<PathBuf>> {
        let target = file.path.below(&self.folder);
        let status = match fs::symlink_metadata(&target) {
            Ok(status) => status,
            Err(error) if is_absent(&error) => return Ok(None),
            Err(error) => return Err(Error::io("read", target)(error)),
        };
        if self.is_to_be_replaced(file, &status) || !status.is_file() || status.len() != file.size {
            return Ok(None);
        }
        if self.is_known_bad(file) {
            return Ok(None);
        }
        // Only a file without digest needs the record's word.
        let record = if file.digest.is_none() { Record::read(&self.folder)? } else { None };
        if vouched(&self.folder, file, &self.commit, record.as_ref()) {
            return Ok(Some(target));
        }
        let Some(digest) = file.digest else { return Ok(None) };
        let location = target.strip_prefix(&self.root).unwrap_or(&target);
        if !has_digest(StoreKind::Flat, &self.root, location, file, digest, &self.cancel)? {
            return Ok(None);
        }
        self.note_present(self.note(file))?;
        Ok(Some(target))
    }

    fn staging(&self, file: &RemoteFile) -> Staging {
        self.staging_of(&file.path.below(&self.folder), file)
    }

    fn stage(&self, file: &RemoteFile) -> Result<Staging> {
        let target = match self.folder.strip_prefix(&self.root).ok().and_then(Path::to_str) {
            Some(folder) if !folder.is_empty() => {
                safe::prepare_below(&self.root, &RepoPath::parse(&format!("{folder}/{}", file.path))?)?
            }
            _ => safe::prepare_below(&self.folder, &file.path)?,
        };
        if !self.force {
            self.refuse_foreign(&target, file)?;
        }
        if !self.changed.swap(true, Ordering::Relaxed) {
            self.merge(&[])?;
        }
        let staging = self.staging_of(&target, file);
        if let Some(digest) = &file.digest {
            let request = Request {
                endpoint: self.endpoint.clone(),
                repository: self.repository.clone(),
                commit: self.commit.clone(),
                files: Vec::new(),
            };
            partials::adopt(&request, file, &staging, &self.folder, &partials::of_folder(&file.path, digest));
        }
        Ok(staging)
    }

    fn publish(&self, file: &RemoteFile, staging: &Staging) -> Result<PathBuf> {
        let target = file.path.below(&self.folder);
        if file.digest.is_none() {
            refuse_page(file, &staging.partial)?;
        }
        let replaced = Replaced::at(&target, &self.memory);
        publish::publish(&staging.partial, &target)?;
        if let Some(replaced) = replaced {
            replaced.gave_way(&self.memory);
        }
        self.note(file).map_err(unrecorded)?;
        discard_partials_of(std::slice::from_ref(&target));
        Ok(target)
    }

    fn publish_all(&self, files: &[(&RemoteFile, &Staging)]) -> Vec<Result<PathBuf>> {
        let targets: Vec<PathBuf> = files.iter().map(|(file, _)| file.path.below(&self.folder)).collect();
        let pairs: Vec<(&Path, &Path)> = files
            .iter()
            .zip(&targets)
            .map(|((_, staging), target)| (staging.partial.as_path(), target.as_path()))
            .collect();
        let replaced: Vec<_> = targets.iter().filter_map(|target| Replaced::at(target, &self.memory)).collect();
        let mut results = publish::publish_all(&pairs);
        replaced.into_iter().for_each(|replaced| replaced.gave_way(&self.memory));
        let there: Vec<&RemoteFile> =
            files.iter().zip(&results).filter(|(_, result)| result.is_ok()).map(|((file, _), _)| *file).collect();
        let mut noted = self.note_beside(&there).into_iter();
        for result in results.iter_mut().filter(|result| result.is_ok()) {
            *result = noted.next().unwrap_or(Ok(())).map_err(unrecorded);
        }
        let recorded = self.record_later(&there);
        if let (Err(error), Some(result)) = (recorded, results.iter_mut().find(|result| result.is_ok())) {
            *result = Err(unrecorded(error));
        }
        discard_partials_of(&targets);
        results.into_iter().zip(targets).map(|(result, target)| result.map(|()| target)).collect()
    }

    fn finish(&self, files: &[RemoteFile]) -> Result<()> {
        self.memory.keep();
        // Both end with syncs, which the file system joins.
        let written = publish::beside(&[true, false], |record| {
            if *record {
                self.unrecorded.lock().unwrap_or_else(PoisonError::into_inner).clear();
                return self.merge(files);
            }
            if self.listing.is_empty() {
                return Ok(());
            }
            sidecar::write_tree(&self.folder, &self.commit, &self.listing)
        });
        self.note_present(written.into_iter().collect()).map_err(unrecorded)
    }
}

impl FlatDestination {
    /// Whether `force` asks for another copy in place of the one that lies there. A file that this run, or another process
    /// meanwhile, has published is no longer the one that was to go.
    fn is_to_be_replaced(&self, file: &RemoteFile, status: &fs::Metadata) -> bool {
        if !self.force {
            return false;
        }
        let now = (status.dev(), status.ino());
        let mut replaced = self.replaced.lock().unwrap_or_else(PoisonError::into_inner);
        *replaced.entry(file.path.clone()).or_insert(now) == now
    }

    /// Whether what lies there was found to be something else than `file`, and has not changed since.
    fn is_known_bad(&self, file: &RemoteFile) -> bool {
        self.memory.bad_at(&file.path.below(&self.folder), file.digest.as_slice()).is_some()
    }

    fn staging_of(&self, target: &Path, file: &RemoteFile) -> Staging {
        let size = file.size.to_string();
        let content = [&self.endpoint, &self.repository, &self.commit, file.path.as_str(), &size];
        let (partial, journal) = staging_paths(target, &staging_key(file.digest.as_ref(), &content));
        Staging { partial, journal }
    }

    /// Refuses to replace a file of which nothing says that it came from a hub: its bytes might be nowhere else.
    fn refuse_foreign(&self, target: &Path, file: &RemoteFile) -> Result<()> {
        let status = match fs::symlink_metadata(target) {
            Ok(status) => status,
            Err(error) if is_absent(&error) => return Ok(()),
            Err(error) => return Err(Error::io("read", target)(error)),
        };
        if status.is_dir() {
            return Err(Error::UnsafePath {
                path: text::printable_path(target),
                reason: "a folder of that name is in the way".to_owned(),
            });
        }
        let sidecar = self.folder.join(".cache/huggingface/download").join(format!("{}.metadata", file.path));
        let recorded =
            Record::read(&self.folder)?.is_some_and(|record| record.files.iter().any(|known| known.path == file.path));
        if status.len() == 0 || recorded || fs::symlink_metadata(sidecar).is_ok() {
            return Ok(());
        }
        Err(Error::Occupied { path: target.to_owned(), repository: self.repository.clone() })
    }
}

/// Refuses a web page of the right length in the place of weights or JSON, where no checksum tells. The page is removed:
/// the next try begins anew.
fn refuse_page(file: &RemoteFile, partial: &Path) -> Result<()> {
    let name = file.path.file_name();
    let lower = name.to_ascii_lowercase();
    if !FileName::parse(name).is_weights() && !lower.ends_with(".json") && !lower.ends_with(".gguf") {
        return Ok(());
    }
    let mut head = Vec::new();
    regular::open(partial)
        .and_then(|open| open.take(512).read_to_end(&mut head))
        .map_err(Error::io("read", partial))?;
    if LookAlike::of(&head, file.size) != LookAlike::Html {
        return Ok(());
    }
    publish::remove_if_there(partial)?;
    Err(Error::Damaged(format!(
        "{}: the hub sent an HTML page instead of the file; log in to the network, or try again",
        file.path
    )))
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}
