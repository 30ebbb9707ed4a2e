//! The hub as a source of bytes.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::future::BoxFuture;

use crate::error::Result;
use crate::hub::{Address, HubClient, Repository};
use crate::model::{RemoteFile, RepoPath, Validator};
use crate::transfer::{Opening, Source};

/// Files of one repository at one commit.
#[derive(Debug)]
pub(super) struct HubSource {
    client: HubClient,
    repository: String,
    commit: String,
    /// Where files lie of which parts were asked for.
    addresses: Mutex<HashMap<RepoPath, Arc<Address>>>,
}

impl HubSource {
    pub(super) fn new(client: HubClient, repository: &Repository) -> Self {
        Self {
            client,
            repository: repository.id.clone(),
            commit: repository.commit.clone(),
            addresses: Mutex::default(),
        }
    }

    /// What those who fetch parts of a file share; who fetches all of it has nobody to share with.
    fn address(&self, file: &RemoteFile, range: &Range<u64>) -> Arc<Address> {
        if *range == (0..file.size) {
            return Arc::default();
        }
        let mut addresses = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(addresses.entry(file.path.clone()).or_default())
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
            let address = self.address(file, &range);
            let body = self.client.open_at(&self.repository, &self.commit, file, range, validator, &address).await?;
            Ok(Opening {
                from: body.from,
                to: body.to,
                size: body.size,
                validator: body.validator,
                stream: body.stream,
            })
        })
    }

    fn origin(&self, file: &RemoteFile) -> Option<String> {
        let addresses = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        addresses.get(&file.path)?.origin()
    }
}
