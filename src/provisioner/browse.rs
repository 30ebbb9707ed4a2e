//! Looking around on the hub: search, and the files of one repository.

use super::{DownloadRequest, ModelProvisioner};
use crate::error::Result;
use crate::hub::{Repository, SearchHit, SearchQuery};
use crate::model::selection::{Candidates, select};
use crate::model::{RemoteFile, RepoPath};

/// A repository with its files, and those that a download would take.
#[derive(Debug)]
pub struct RemoteModel {
    /// The repository, pinned.
    pub repository: Repository,
    /// Its files, sorted by path.
    pub files: Vec<RemoteFile>,
    /// Paths that no file here may get, raw and with the reason.
    pub refused: Vec<(String, String)>,
    /// What the reference means without further choice: the named or the default quantization.
    pub marked: Vec<RepoPath>,
    /// Why nothing is marked.
    pub why_unmarked: Option<String>,
    /// The file that a download of the reference converts them into, if the catalog says so.
    pub converted: Option<String>,
}

impl ModelProvisioner {
    /// Models on the hub whose names have every word of the query.
    ///
    /// # Errors
    /// Those of [`crate::hub::HubClient::search`].
    pub async fn search(&self, query: &SearchQuery) -> Result<Vec<SearchHit>> {
        self.hub()?.search(query).await
    }

    /// The files of what `reference` names on the hub, with those marked that a download of it would take.
    ///
    /// # Errors
    /// As [`Self::plan_download`]; an unknown quantization is no error here but [`RemoteModel::why_unmarked`].
    pub async fn remote_files(&self, reference: &str) -> Result<RemoteModel> {
        let request = DownloadRequest::new(reference);
        let meaning = self.blocking(move |this| this.meaning(&request)).await?;
        let hub = self.hub()?;
        let repository = hub.repository(&meaning.repository, meaning.reference.revision()).await?;
        let listing = hub.listing(&repository).await?;
        let candidates = Candidates { repository: &repository.id, files: &listing.files, refused: &listing.refused };
        let (marked, why_unmarked) = match select(&candidates, &meaning.wanted) {
            Ok(selection) => (selection.files.into_iter().map(|file| file.path).collect(), None),
            Err(error) => (Vec::new(), Some(error.to_string())),
        };
        let entry = self.conversion_of(&DownloadRequest::new(reference));
        let converted = entry.map(|entry| entry.file.clone());
        Ok(RemoteModel { converted, files: listing.files, refused: listing.refused, repository, marked, why_unmarked })
    }
}
