//! The hub as a source of bytes.

use std::ops::Range;

use futures_util::future::BoxFuture;

use crate::error::Result;
use crate::hub::{HubClient, Repository};
use crate::model::{RemoteFile, Validator};
use crate::transfer::{Opening, Source};

/// Files of one repository at one commit.
#[derive(Debug)]
pub(super) struct HubSource {
    client: HubClient,
    repository: String,
    commit: String,
}

impl HubSource {
    pub(super) fn new(client: HubClient, repository: &Repository) -> Self {
        Self { client, repository: repository.id.clone(), commit: repository.commit.clone() }
    }
}

impl Source for HubSource {
    fn open<'a>(
        &'a self,
        file: &'a RemoteFile,
        range: Range<u64>,
        validator: Option<&'a Validator>,
    ) -> BoxFuture<'a, Result<Opening>> {
        Box::pin(async move {
            let body = self.client.open(&self.repository, &self.commit, file, range, validator).await?;
            Ok(Opening { from: body.from, size: body.size, validator: body.validator, stream: body.stream })
        })
    }
}
