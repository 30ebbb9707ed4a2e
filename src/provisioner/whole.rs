//! Plans that need no hub: what is here already, as the stores' own records prove it.

use std::path::PathBuf;

use super::destination::vouched;
use super::plan::{DEFAULT_REVISION, Meaning, choose, sum};
use super::{DownloadPlan, DownloadRequest, ModelProvisioner};
use crate::error::Result;
use crate::hub::{Repository, Summary};
use crate::model::selection::{Candidates, Selection, Wanted, missing_shards};
use crate::model::{Quantization, Reference, RemoteFile};
use crate::store::flat::{Record, RecordedFile, tree};
use crate::store::hf::Found;

/// What the Hugging Face cache has of what was asked for.
#[derive(Clone, Debug)]
pub(super) struct Cached {
    pub(super) plan: DownloadPlan,
    /// Whether a hub that was asked would have chosen the same files of this commit.
    pub(super) certain: bool,
    /// Whether the commit itself was asked for, so that no branch could have moved.
    pub(super) pinned: bool,
}

impl ModelProvisioner {
    /// The plan without any network, if the folder's own records prove that all of it is there.
    ///
    /// What was selected at the recorded commit is known from the complete listing of that commit, or needs none: a
    /// file or a quantization is what it is. A revision that was asked for has to be the recorded commit itself.
    pub(super) fn whole_already(&self, request: &DownloadRequest, meaning: &Meaning) -> Result<Option<DownloadPlan>> {
        let mut resolved = self.store().resolve(&meaning.reference)?;
        let entry = self.catalog().get(meaning.reference.name());
        if resolved.is_none() && entry.is_some_and(|entry| entry.conversion.is_some()) {
            // The source is here under its own name before the result is under the alias's.
            resolved = self.store().resolve(&Reference::parse(&meaning.repository)?)?;
        }
        let Some(resolved) = resolved else { return Ok(None) };
        let Some(record) = resolved.record else { return Ok(None) };
        let other_hub = self.hub().is_ok_and(|hub| hub.endpoint() != record.endpoint);
        let other_revision = meaning.reference.revision().is_some_and(|revision| revision != record.commit);
        if other_hub || other_revision || !record.repository.eq_ignore_ascii_case(&meaning.repository) {
            return Ok(None);
        }
        let folder: PathBuf = resolved.folder;
        let tree = tree::read_tree(&folder, &record.commit);
        let complete = tree.is_some();
        let files = tree.unwrap_or_else(|| recorded_files(&record));
        let Some((selection, certain)) = selected(&record.repository, &files, meaning, request, complete) else {
            return Ok(None);
        };
        let whole = selection.files.iter().all(|file| {
            // What only the record lists may be what is left of an older commit.
            let is_of_commit = |known: &RecordedFile| complete || record.commit_of(known) == record.commit;
            record.file(file.path.as_str()).is_some_and(|known| known.digest == file.digest && is_of_commit(known))
                && vouched(&folder, file, &record.commit, Some(&record))
                && self.known_damage(&file.path.below(&folder), file).is_none()
        });
        if !certain || !whole {
            return Ok(None);
        }
        let plan = plan(request, record.repository, record.commit, record.revision, selection, folder)?;
        Ok(Some(plan))
    }

    /// The same for the Hugging Face cache: the commit that its ref names, or the one that was asked for.
    pub(super) fn cached_already(&self, request: &DownloadRequest, meaning: &Meaning) -> Result<Option<Cached>> {
        let store = self.hf_store()?;
        let revision = meaning.reference.revision().unwrap_or(DEFAULT_REVISION);
        let Some(found) = store.pinned(&meaning.repository, revision)? else { return Ok(None) };
        let complete = found.listing.is_some();
        let files = found.listing.unwrap_or(found.files);
        let Some((selection, certain)) = selected(&found.id, &files, meaning, request, complete) else {
            return Ok(None);
        };
        let writer = self.hf_writer(&found.id)?;
        for file in &selection.files {
            let Some(digest) = file.digest else { return Ok(None) };
            match writer.find(&found.commit, &file.path, file.size, &digest)? {
                Found::Linked { location, .. } if self.known_damage(&writer.root().join(&location), file).is_none() => {
                }
                _ => return Ok(None),
            }
        }
        let pinned = revision == found.commit;
        let plan = plan(request, found.id, found.commit, found.revision, selection, writer.folder())?;
        Ok(Some(Cached { plan, certain, pinned }))
    }
}

fn plan(
    request: &DownloadRequest,
    id: String,
    commit: String,
    revision: String,
    selection: Selection,
    folder: PathBuf,
) -> Result<DownloadPlan> {
    Ok(DownloadPlan {
        request: request.clone(),
        total: sum(&selection.files, &id)?,
        repository: Repository {
            id,
            commit,
            gated: false,
            updated: None,
            tags: Vec::new(),
            summary: Summary::default(),
        },
        revision,
        files: selection.files,
        quantization: selection.quantization,
        folder,
        whole: true,
        damaged: Vec::new(),
        listing: Vec::new(),
    })
}

fn recorded_files(record: &Record) -> Vec<RemoteFile> {
    let remote = |file: &RecordedFile| RemoteFile {
        path: file.path.clone(),
        size: file.size,
        digest: file.digest,
        blob_id: None,
        xet_hash: None,
    };
    record.files.iter().map(remote).collect()
}

/// What a request takes of `files`, and whether it would select the same of the whole repository; `complete` says that
/// they are that.
fn selected(
    repository: &str,
    files: &[RemoteFile],
    meaning: &Meaning,
    request: &DownloadRequest,
    complete: bool,
) -> Option<(Selection, bool)> {
    let candidates = Candidates { repository, files, refused: &[] };
    let selection = choose(&candidates, &meaning.wanted, request.mmproj).ok()?;
    if !missing_shards(selection.files.iter().map(|file| file.path.as_str())).is_empty() {
        return None;
    }
    let certain = complete
        || match &meaning.wanted {
            Wanted::File(_) | Wanted::Quantization(_) => true,
            // No other quantization comes before this one, whatever else the repository has.
            Wanted::Default => selection.quantization == Some(Quantization::new("Q4_K_M")),
            Wanted::Patterns(_) => false,
        };
    Some((selection, certain))
}
