//! What is newer on the hub than here.

use std::collections::BTreeMap;

use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::plan::DEFAULT_REVISION;
use super::renewal::{Renewal, renewal};
use super::{DestinationKind, DownloadRequest, ModelProvisioner};
use crate::error::{Error, Result};
use crate::model::selection::Candidates;
use crate::model::selector::Selector;
use crate::model::{Digest, ModelId, RemoteFile, RepoPath, StoreKind, text};
use crate::store::Store;
use crate::store::flat::{Record, RecordedFile, tree};
use crate::store::hf::{HfStore, Pinned};

/// A model whose repository has moved on. Serialises as an element of `updates --json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ModelUpdate {
    /// The row.
    #[serde(flatten)]
    pub model: ModelId,
    /// The commit that is recorded here.
    pub pinned: String,
    /// The commit that the recorded branch or tag means now.
    pub current: String,
    /// Files here that are others on the hub now, and those that [`Self::request`] takes beside them; empty when only other files
    /// of the repository changed.
    pub files: Vec<ChangedFile>,
    /// The download that brings the model to the current commit; `None` where the hub has none of its files any more, or none
    /// goes to its folder.
    pub request: Option<DownloadRequest>,
    /// Bytes that it fetches.
    pub fetch_bytes: u64,
    /// Bytes that the present versions of those files take.
    pub free_bytes: u64,
}

/// A file that is another one on the hub now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ChangedFile {
    /// Path in the repository and in the folder.
    pub path: RepoPath,
    /// Its size here; 0 when it is not here yet.
    pub size_bytes: u64,
    /// Its size on the hub; `None` when the hub has it no longer.
    pub new_size_bytes: Option<u64>,
}

/// A model that is here, as far as it can be compared.
struct Known {
    model: ModelId,
    repository: String,
    revision: String,
    commit: String,
    files: Vec<RecordedFile>,
    /// Whether these are all that the repository had at that commit.
    complete: bool,
}

impl Known {
    /// The files that came from the hub.
    fn fetched(&self) -> Vec<RemoteFile> {
        let remote = |file: &RecordedFile| RemoteFile {
            path: file.path.clone(),
            size: file.size,
            digest: file.digest,
            blob_id: None,
            xet_hash: None,
        };
        self.files.iter().filter(|file| !file.converted).map(remote).collect()
    }
}

fn known_cached(store: &HfStore, found: Pinned) -> Known {
    let listing = found.listing.unwrap_or_default();
    // A snapshot of plain files has no blobs whose names would tell.
    let count = listing.len();
    let digests: BTreeMap<RepoPath, Digest> =
        listing.into_iter().filter_map(|file| Some((file.path, file.digest?))).collect();
    let file = |file: RemoteFile| RecordedFile {
        digest: file.digest.or_else(|| digests.get(&file.path).copied()),
        path: file.path,
        size: file.size,
        converted: false,
        commit: None,
    };
    Known {
        model: ModelId { store: StoreKind::Hf, store_path: store.root().to_owned(), id: found.id.clone() },
        repository: found.id,
        revision: found.revision,
        commit: found.commit,
        complete: !digests.is_empty() && found.files.len() == count,
        files: found.files.into_iter().map(file).collect(),
    }
}

impl ModelProvisioner {
    /// Asks the hub about the models that `references` name, or about every folder with a record and every ref of the
    /// Hugging Face cache when there are none, and
    /// gives those whose repository has another commit now. A model without record cannot be compared: named, it is an error.
    ///
    /// # Errors
    /// [`Error::ModelNotFound`], [`Error::Damaged`] for a model of unknown origin, and those of the hub.
    pub async fn updates(&self, references: &[String], cancel: &CancellationToken) -> Result<Vec<ModelUpdate>> {
        let (names, cancelled) = (references.to_vec(), cancel.clone());
        let known = self.blocking(move |this| this.known_versions(&names, &cancelled)).await?;
        let hub = self.hub()?;
        let mut updates = Vec::new();
        for known in known {
            if cancel.is_cancelled() {
                return Err(Error::Cancelled);
            }
            let repository = match hub.repository(&known.repository, Some(&known.revision)).await {
                // A cache keeps what no hub has any longer, and what came from another one.
                Err(
                    error @ (Error::RepositoryNotFound { .. }
                    | Error::RevisionNotFound { .. }
                    | Error::Gated { .. }
                    | Error::SignIn { .. }),
                ) if known.model.store == StoreKind::Hf && references.is_empty() => {
                    tracing::info!("{error}");
                    continue;
                }
                other => other?,
            };
            if repository.commit == known.commit {
                continue;
            }
            let listing = hub.listing(&repository).await?;
            let here = known.fetched();
            let candidates =
                Candidates { repository: &repository.id, files: &listing.files, refused: &listing.refused };
            let renewal = renewal(&here, known.complete, &candidates);
            let mut files = changed_files(&known.files, &listing.files);
            let taken = renewal.as_ref().map_or(&[][..], |renewal| &renewal.files);
            let new = taken.iter().filter(|file| here.iter().all(|known| known.path != file.path));
            files.extend(new.map(|file| ChangedFile {
                path: file.path.clone(),
                size_bytes: 0,
                new_size_bytes: Some(file.size),
            }));
            let is_taken = |changed: &&ChangedFile| taken.iter().any(|file| file.path == changed.path);
            let fetch_bytes = files.iter().filter(is_taken).filter_map(|file| file.new_size_bytes).sum();
            let (model, revision, id) = (known.model.clone(), known.revision.clone(), known.repository.clone());
            let made = known.files.iter().any(|file| file.converted);
            let request = match renewal {
                Some(renewal) => self.blocking(move |this| this.asking(&model, &id, &revision, made, renewal)).await?,
                None => None,
            };
            updates.push(ModelUpdate {
                model: known.model,
                pinned: known.commit,
                current: repository.commit,
                request,
                fetch_bytes,
                free_bytes: files.iter().filter(|file| file.new_size_bytes.is_some()).map(|file| file.size_bytes).sum(),
                files,
            });
        }
        Ok(updates)
    }

    /// The download of `renewal` that goes where the model is. With `made` there are files that were converted here, and the
    /// folder's own name says so.
    fn asking(
        &self,
        model: &ModelId,
        repository: &str,
        revision: &str,
        made: bool,
        renewal: Renewal,
    ) -> Result<Option<DownloadRequest>> {
        let label = renewal.quantization.map(|label| format!(":{label}")).unwrap_or_default();
        let request = |name: &str, to| DownloadRequest {
            files: renewal.patterns.clone(),
            to,
            ..DownloadRequest::new(format!("{name}{label}@{revision}"))
        };
        if model.store == StoreKind::Hf {
            return Ok(Some(request(repository, DestinationKind::Hf)));
        }
        let folder = self.store().root().join(text::unescape(&model.id));
        // With a slash it would be the name of a repository.
        let own = Some(model.id.as_str()).filter(|id| !id.contains('/'));
        let names = if made { [own, Some(repository)] } else { [Some(repository), own] };
        for name in names.into_iter().flatten() {
            let request = request(name, DestinationKind::Flat);
            let Ok(reference) = self.reference(&request.reference) else { continue };
            if self.store().target_folder(&reference, repository).is_ok_and(|target| target == folder) {
                return Ok(Some(request));
            }
        }
        Ok(None)
    }

    /// What is here of each model that can be compared: by its record, or by the refs of the Hugging Face cache.
    fn known_versions(&self, references: &[String], cancel: &CancellationToken) -> Result<Vec<Known>> {
        if references.is_empty() {
            let mut known: Vec<Known> = self.all_recorded()?.into_iter().map(|row| self.known_flat(row)).collect();
            if let Ok(store) = self.hf_store() {
                known.extend(store.all_pinned(cancel)?.into_iter().map(|found| known_cached(store, found)));
            }
            return Ok(known);
        }
        let mut known = Vec::with_capacity(references.len());
        for reference in references {
            let selector = Selector::parse(reference).ok().filter(|selector| selector.store().is_some());
            let (kind, text) = match &selector {
                Some(selector) => (selector.store(), selector.rest()),
                None => (None, reference.as_str()),
            };
            if kind != Some(StoreKind::Hf) {
                match self.recorded(&[text.to_owned()]) {
                    Err(Error::ModelNotFound { .. }) if kind.is_none() => {}
                    rows => {
                        known.extend(rows?.into_iter().map(|row| self.known_flat(row)));
                        continue;
                    }
                }
            }
            let found = self.cached(text)?.ok_or_else(|| self.not_found(reference))?;
            known.push(found);
        }
        Ok(known)
    }

    /// The revision of the Hugging Face cache that a reference names.
    fn cached(&self, reference: &str) -> Result<Option<Known>> {
        let Ok(store) = self.hf_store() else { return Ok(None) };
        let parsed = self.reference(reference)?;
        let Some(repository) = parsed.repository() else { return Ok(None) };
        let revision = parsed.revision().unwrap_or(DEFAULT_REVISION);
        Ok(store.pinned(repository, revision)?.map(|found| known_cached(store, found)))
    }

    fn known_flat(&self, (id, record): (String, Record)) -> Known {
        let folder = self.store().root().join(text::unescape(&id));
        Known {
            model: ModelId { store: StoreKind::Flat, store_path: self.store().root().to_owned(), id },
            repository: record.repository,
            revision: record.revision,
            complete: tree::read_tree(&folder, &record.commit)
                .is_some_and(|all| all.iter().all(|file| record.files.iter().any(|known| known.path == file.path))),
            commit: record.commit,
            files: record.files.into_iter().filter(|file| file.path.below(&folder).is_file()).collect(),
        }
    }

    fn recorded(&self, references: &[String]) -> Result<Vec<(String, Record)>> {
        if references.is_empty() {
            return self.all_recorded();
        }
        let mut rows = Vec::with_capacity(references.len());
        for reference in references {
            let resolved = self.resolve(reference)?;
            let record = resolved.record.ok_or_else(|| {
                Error::Damaged(format!(
                    "{}: nothing says which repository it came from; download it again by org/name",
                    text::printable(&resolved.id)
                ))
            })?;
            rows.push((resolved.id, record));
        }
        Ok(rows)
    }

    /// Every folder with a record. One whose record cannot be read says so in its row, and holds up no other.
    fn all_recorded(&self) -> Result<Vec<(String, Record)>> {
        let mut rows = Vec::new();
        for (id, record) in self.store().recorded_rows()? {
            match record {
                Ok(record) => rows.push((id, record)),
                Err(reason) => tracing::warn!("{}: {reason}", text::printable(&id)),
            }
        }
        Ok(rows)
    }
}

/// The recorded files that the listing has with other content, or no longer. What was converted here was never there.
fn changed_files(recorded: &[RecordedFile], listing: &[RemoteFile]) -> Vec<ChangedFile> {
    let now: BTreeMap<&RepoPath, &RemoteFile> = listing.iter().map(|file| (&file.path, file)).collect();
    let mut changed = Vec::new();
    for file in recorded.iter().filter(|file| !file.converted) {
        let remote = now.get(&file.path);
        let same = remote.is_some_and(|remote| {
            remote.size == file.size
                && (remote.digest == file.digest || remote.digest.is_none() || file.digest.is_none())
        });
        if !same {
            changed.push(ChangedFile {
                path: file.path.clone(),
                size_bytes: file.size,
                new_size_bytes: remote.map(|remote| remote.size),
            });
        }
    }
    changed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_other_content_counts_as_changed() {
        let path = |text: &str| RepoPath::parse(text).unwrap();
        let digest = |byte: &str| Digest::parse(&byte.repeat(32));
        let recorded = |name: &str, size, byte: &str| RecordedFile {
            path: path(name),
            size,
            digest: digest(byte),
            converted: false,
            commit: None,
        };
        let listed = |name: &str, size, byte: &str| RemoteFile {
            path: path(name),
            size,
            digest: digest(byte),
            blob_id: None,
            xet_hash: None,
        };
        let made = RecordedFile { converted: true, ..recorded("made", 3, "aa") };
        let here = [recorded("same", 1, "aa"), recorded("other", 1, "aa"), recorded("gone", 3, "aa"), made];
        let there = [listed("new", 9, "cc"), listed("other", 2, "bb"), listed("same", 1, "aa")];
        let changed = changed_files(&here, &there);
        let summary: Vec<_> = changed.iter().map(|file| (file.path.as_str(), file.new_size_bytes)).collect();
        assert_eq!(summary, [("other", Some(2)), ("gone", None)]);
    }
}
