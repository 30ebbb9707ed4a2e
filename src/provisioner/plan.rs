//! From a request to a plan: which repository, which files, which folder.

use std::path::{Path, PathBuf};

use super::whole::Cached;
use super::{DestinationKind, DownloadPlan, DownloadRequest, ModelProvisioner, mix};
use crate::error::{Error, Result};
use crate::hub::{HubClient, Repository};
use crate::model::selection::{Candidates, Selection, Wanted, select, with_projector};
use crate::model::{Reference, RemoteFile, RepoPath, text};
use crate::store::remembered::Bad;
use crate::store::{flat, hf};

/// The branch that a reference without revision means.
pub(super) const DEFAULT_REVISION: &str = "main";

/// What a request means before any hub is asked.
#[derive(Clone, Debug)]
pub(super) struct Meaning {
    pub(super) reference: Reference,
    pub(super) repository: String,
    pub(super) wanted: Wanted,
}

/// What the disk alone tells of a request.
enum Known {
    /// All of it is there.
    Whole(Box<DownloadPlan>),
    /// All of it is there at the commit that the branch meant when it was fetched.
    Cached(Box<Cached>),
    Nothing,
}

impl Known {
    fn whole(plan: DownloadPlan) -> Self {
        Self::Whole(Box::new(plan))
    }
}

impl ModelProvisioner {
    /// The files and the place of what `request` would fetch. Nothing is written. When the record of the folder proves
    /// that everything is there, no hub is asked: [`DownloadPlan::whole`] says so.
    ///
    /// # Errors
    /// As [`Self::download`], before the first byte: references, names and quantizations that are unknown, listings that
    /// are hostile or incomplete, a hub that refuses or does not answer, [`Error::MixedSet`].
    pub async fn plan_download(&self, request: &DownloadRequest) -> Result<DownloadPlan> {
        let asked = request.clone();
        let meaning = self.blocking(move |this| this.meaning(&asked)).await?;
        let cached = match self.known_already(request, &meaning).await? {
            Known::Whole(plan) => return Ok(*plan),
            Known::Cached(cached) => Some(*cached),
            Known::Nothing => None,
        };
        let hub = self.hub()?;
        let asked = hub.repository(&meaning.repository, meaning.reference.revision()).await;
        let repository = match (asked, cached) {
            // What is here is what the official client gives then, too.
            (Err(Error::Offline { .. }), Some(cached)) => return Ok(cached.plan),
            (Err(Error::Unreachable { .. }), Some(cached)) if cached.certain => return Ok(cached.plan),
            (asked, _) => asked?,
        };
        let listing = hub.listing(&repository).await?;
        let candidates = Candidates { repository: &repository.id, files: &listing.files, refused: &listing.refused };
        let Selection { files, quantization } = choose(&candidates, &meaning.wanted, request.mmproj)?;
        refuse_deep(&files, request.to)?;
        let total = sum(&files, &repository.id)?;
        if repository.gated {
            knock(&hub, &repository, &files).await?;
        }
        let (reference, id, to) = (meaning.reference.clone(), repository.id.clone(), request.to);
        let (commit, wanted) = (repository.commit.clone(), files.clone());
        let (folder, damaged) = self
            .blocking(move |this| match to {
                DestinationKind::Flat => {
                    let folder = this.store().target_folder(&reference, &id)?;
                    let damaged = this.damaged(&wanted, |file| Some(file.path.below(&folder)));
                    Ok((folder, damaged))
                }
                DestinationKind::Hf => {
                    let writer = this.hf_writer(&id)?;
                    let place = |file: &RemoteFile| writer.bytes_of(&commit, file);
                    let damaged = this.damaged(&wanted, place);
                    Ok((writer.folder(), damaged))
                }
            })
            .await?;
        // In the cache every commit has a folder of its own.
        if to == DestinationKind::Flat {
            let (folder, repository, listed, chosen) =
                (folder.clone(), repository.clone(), listing.files.clone(), files.clone());
            self.blocking(move |_| mix::refuse(&folder, &repository, &listed, &chosen)).await?;
        }
        Ok(DownloadPlan {
            request: request.clone(),
            revision: meaning.reference.revision().unwrap_or(DEFAULT_REVISION).to_owned(),
            repository,
            files,
            quantization,
            folder,
            total,
            whole: false,
            damaged,
            listing: if listing.refused.is_empty() { listing.files } else { Vec::new() },
        })
    }

    /// What is here of what was asked for, as far as no hub has to be asked.
    async fn known_already(&self, request: &DownloadRequest, meaning: &Meaning) -> Result<Known> {
        if request.force {
            return Ok(Known::Nothing);
        }
        let (asked, known) = (request.clone(), meaning.clone());
        self.blocking(move |this| {
            this.memory().refresh();
            Ok(match asked.to {
                DestinationKind::Flat => this.whole_already(&asked, &known)?.map_or(Known::Nothing, Known::whole),
                DestinationKind::Hf => match this.cached_already(&asked, &known)? {
                    Some(cached) if cached.pinned && cached.certain => Known::whole(cached.plan),
                    Some(cached) => Known::Cached(Box::new(cached)),
                    None => Known::Nothing,
                },
            })
        })
        .await
    }

    /// What is remembered to be wrong with the file at `path`, as which `file` would be taken.
    pub(super) fn known_damage(&self, path: &Path, file: &RemoteFile) -> Option<Bad> {
        self.memory().bad_at(path, file.digest.as_slice())
    }

    /// Those of `files` that lie at their places and are known to be wrong.
    fn damaged(&self, files: &[RemoteFile], place: impl Fn(&RemoteFile) -> Option<PathBuf>) -> Vec<(RepoPath, Bad)> {
        self.memory().refresh();
        if self.memory().knows_none_bad() {
            return Vec::new();
        }
        let damage = |file: &RemoteFile| Some((file.path.clone(), self.known_damage(&place(file)?, file)?));
        files.iter().filter_map(damage).collect()
    }

    /// Reads the request; looks at the catalog and, for a folder's name, at its record.
    pub(super) fn meaning(&self, request: &DownloadRequest) -> Result<Meaning> {
        let reference = self.reference(&request.reference)?;
        if request.to == DestinationKind::Hf {
            self.hf_store()?;
        }
        let entry = self.catalog().get(reference.name());
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
        } else if let Some(entry) = entry.filter(|entry| entry.conversion.is_none()) {
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
        let aliases: Vec<&str> = self.catalog().entries().iter().map(|entry| entry.alias.as_str()).collect();
        Error::ModelNotFound {
            reference: text::printable(reference.name()),
            place: format!("the catalog; give org/name, or one of: {}", aliases.join(", ")),
        }
    }
}

/// What a request takes from a listing.
pub(super) fn choose(listing: &Candidates<'_>, wanted: &Wanted, mmproj: bool) -> Result<Selection> {
    let selection = select(listing, wanted)?;
    if mmproj { with_projector(listing, selection) } else { Ok(selection) }
}

pub(super) fn sum(files: &[RemoteFile], repository: &str) -> Result<u64> {
    files.iter().try_fold(0u64, |sum, file| sum.checked_add(file.size)).ok_or_else(|| Error::BadAnswer {
        url: repository.to_owned(),
        reason: "its files claim more bytes than can be counted".to_owned(),
    })
}

/// Refuses files that lie in more folders than the store reads: nobody could see or delete them.
fn refuse_deep(files: &[RemoteFile], to: DestinationKind) -> Result<()> {
    let most = match to {
        DestinationKind::Flat => flat::MAX_DEPTH,
        DestinationKind::Hf => hf::MAX_DEPTH,
    };
    match files.iter().find(|file| file.path.parts().count() > most) {
        Some(file) => Err(Error::UnsafePath {
            path: text::printable(file.path.as_str().get(..120).unwrap_or(file.path.as_str())),
            reason: format!("it lies in more than {} folders", most - 1),
        }),
        None => Ok(()),
    }
}

/// Asks for one byte of a gated repository: the hub lists it to everybody and refuses only the files.
async fn knock(hub: &HubClient, repository: &Repository, files: &[RemoteFile]) -> Result<()> {
    match files.iter().filter(|file| file.size > 0).min_by_key(|file| file.size) {
        Some(file) => hub.open(&repository.id, &repository.commit, file, 0..1, None).await.map(drop),
        None => Ok(()),
    }
}
