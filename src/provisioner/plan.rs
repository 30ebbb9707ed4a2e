//! From a request to a plan: which repository, which files, which folder.

use std::path::PathBuf;

use super::destination::vouched;
use super::{DestinationKind, DownloadPlan, DownloadRequest, ModelProvisioner};
use crate::error::{Error, Result};
use crate::hub::{CatalogEntry, HubClient, Repository};
use crate::model::selection::{Candidates, Selection, Wanted, missing_shards, select};
use crate::model::{Quantization, Reference, RemoteFile, RepoPath, text};
use crate::store::flat::{Record, RecordedFile, tree};

/// The branch that a reference without revision means.
const DEFAULT_REVISION: &str = "main";

/// What a request means before any hub is asked.
#[derive(Clone, Debug)]
pub(super) struct Meaning {
    pub(super) reference: Reference,
    pub(super) repository: String,
    pub(super) wanted: Wanted,
}

impl ModelProvisioner {
    /// The files and the place of what `request` would fetch. Nothing is written. When the record of the folder proves
    /// that everything is there, no hub is asked: [`DownloadPlan::whole`] says so.
    ///
    /// # Errors
    /// As [`Self::download`], before the first byte: references, names and quantizations that are unknown, listings that
    /// are hostile or incomplete, a hub that refuses or does not answer.
    pub async fn plan_download(&self, request: &DownloadRequest) -> Result<DownloadPlan> {
        let asked = request.clone();
        let meaning = self.blocking(move |this| this.meaning(&asked)).await?;
        if !request.force {
            let (asked, known) = (request.clone(), meaning.clone());
            if let Some(plan) = self.blocking(move |this| this.whole_already(&asked, &known)).await? {
                return Ok(plan);
            }
        }
        let hub = self.hub()?;
        let repository = hub.repository(&meaning.repository, meaning.reference.revision()).await?;
        let listing = hub.listing(&repository).await?;
        let candidates = Candidates { repository: &repository.id, files: &listing.files, refused: &listing.refused };
        let Selection { files, quantization } = select(&candidates, &meaning.wanted)?;
        let total = sum(&files, &repository.id)?;
        if repository.gated {
            knock(&hub, &repository, &files).await?;
        }
        let (reference, id) = (meaning.reference.clone(), repository.id.clone());
        let folder = self.blocking(move |this| this.store().target_folder(&reference, &id)).await?;
        Ok(DownloadPlan {
            request: request.clone(),
            revision: meaning.reference.revision().unwrap_or(DEFAULT_REVISION).to_owned(),
            repository,
            files,
            quantization,
            folder,
            total,
            whole: false,
            listing: if listing.refused.is_empty() { listing.files } else { Vec::new() },
        })
    }

    /// Reads the request; looks at the catalog and, for a folder's name, at its record.
    pub(super) fn meaning(&self, request: &DownloadRequest) -> Result<Meaning> {
        let reference = self.reference(&request.reference)?;
        if request.to == DestinationKind::Hf {
            return Err(Error::Unsupported {
                what: "downloading into the Hugging Face cache".to_owned(),
                instead: "use --to flat".to_owned(),
            });
        }
        let entry = self.catalog().get(reference.name());
        if let Some(CatalogEntry { alias, repository, file, conversion: Some(output), .. }) = entry {
            return Err(Error::ConversionUnavailable {
                alias: alias.clone(),
                detail: format!("{repository} to {file}, {output}"),
            });
        }
        let repository = match (reference.repository(), entry) {
            (Some(repository), _) => repository.to_owned(),
            (None, Some(entry)) => entry.repository.clone(),
            (None, None) => self.recorded_repository(&reference)?.ok_or_else(|| self.unknown_name(&reference))?,
        };
        let wanted = if !request.files.is_empty() {
            Wanted::Patterns(request.files.clone())
        } else if let Some(file) = reference.file() {
            Wanted::File(file.clone())
        } else if let Some(quantization) = reference.quantization() {
            Wanted::Quantization(quantization.to_owned())
        } else if let Some(entry) = entry {
            Wanted::File(RepoPath::parse(&entry.file)?)
        } else {
            Wanted::Default
        };
        Ok(Meaning { reference, repository, wanted })
    }

    /// The repository that the record of the folder of that name tells.
    fn recorded_repository(&self, reference: &Reference) -> Result<Option<String>> {
        let folder = Reference::parse(reference.name())?;
        let record = self.store().resolve(&folder)?.and_then(|resolved| resolved.record);
        Ok(record.map(|record| record.repository))
    }

    fn unknown_name(&self, reference: &Reference) -> Error {
        let aliases: Vec<&str> = self
            .catalog()
            .entries()
            .iter()
            .filter(|entry| entry.conversion.is_none())
            .map(|entry| entry.alias.as_str())
            .collect();
        Error::ModelNotFound {
            reference: text::printable(reference.name()),
            place: format!("the catalog; give org/name, or one of: {}", aliases.join(", ")),
        }
    }

    /// The plan without any network, if the folder's own records prove that all of it is there.
    ///
    /// What was selected at the recorded commit is known from the complete listing of that commit, or needs none: a
    /// file or a quantization is what it is. A revision that was asked for has to be the recorded commit itself.
    fn whole_already(&self, request: &DownloadRequest, meaning: &Meaning) -> Result<Option<DownloadPlan>> {
        let Some(resolved) = self.store().resolve(&meaning.reference)? else { return Ok(None) };
        let Some(record) = resolved.record else { return Ok(None) };
        let other_hub = self.hub().is_ok_and(|hub| hub.endpoint() != record.endpoint);
        let other_revision = meaning.reference.revision().is_some_and(|revision| revision != record.commit);
        if other_hub || other_revision || !record.repository.eq_ignore_ascii_case(&meaning.repository) {
            return Ok(None);
        }
        let folder: PathBuf = resolved.folder;
        let tree = tree::read_tree(&folder, &record.commit);
        let Some(selection) = recorded_selection(&record, tree, &meaning.wanted) else { return Ok(None) };
        let whole = selection.files.iter().all(|file| {
            record.files.iter().any(|known| known.path == file.path && known.digest == file.digest)
                && vouched(&folder, file, &record.commit, Some(&record))
        });
        if !whole {
            return Ok(None);
        }
        Ok(Some(DownloadPlan {
            request: request.clone(),
            total: sum(&selection.files, &record.repository)?,
            repository: Repository {
                id: record.repository,
                commit: record.commit,
                gated: false,
                updated: None,
                tags: Vec::new(),
            },
            revision: record.revision,
            files: selection.files,
            quantization: selection.quantization,
            folder,
            whole: true,
            listing: Vec::new(),
        }))
    }
}

/// What `wanted` selected at the recorded commit, as far as that can be told here.
fn recorded_selection(record: &Record, tree: Option<Vec<RemoteFile>>, wanted: &Wanted) -> Option<Selection> {
    let complete = tree.is_some();
    let files = tree.unwrap_or_else(|| {
        let remote = |file: &RecordedFile| RemoteFile {
            path: file.path.clone(),
            size: file.size,
            digest: file.digest,
            blob_id: None,
            xet_hash: None,
        };
        record.files.iter().map(remote).collect()
    });
    let candidates = Candidates { repository: &record.repository, files: &files, refused: &[] };
    let selection = select(&candidates, wanted).ok()?;
    let certain = complete
        || match wanted {
            Wanted::File(_) | Wanted::Quantization(_) => true,
            // No other quantization comes before this one, whatever else the repository has.
            Wanted::Default => selection.quantization == Some(Quantization::new("Q4_K_M")),
            Wanted::Patterns(_) => false,
        };
    let whole_sets = missing_shards(selection.files.iter().map(|file| file.path.as_str())).is_empty();
    (certain && whole_sets).then_some(selection)
}

fn sum(files: &[RemoteFile], repository: &str) -> Result<u64> {
    files.iter().try_fold(0u64, |sum, file| sum.checked_add(file.size)).ok_or_else(|| Error::BadAnswer {
        url: repository.to_owned(),
        reason: "its files claim more bytes than can be counted".to_owned(),
    })
}

/// Asks for one byte of a gated repository: the hub lists it to everybody and refuses only the files.
async fn knock(hub: &HubClient, repository: &Repository, files: &[RemoteFile]) -> Result<()> {
    match files.iter().filter(|file| file.size > 0).min_by_key(|file| file.size) {
        Some(file) => hub.open(&repository.id, &repository.commit, file, 0..1, None).await.map(drop),
        None => Ok(()),
    }
}
