//! A conversion: of a model that is here, or of one that the catalog says has to be converted after it was fetched.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::{Done, Performer, Run, blocking};
use crate::error::Result;
use crate::hub::CatalogEntry;
use crate::jobs::runner::Tell;
use crate::jobs::{JobEventKind, JobOutcome};
use crate::model::DestinationKind;
use crate::provisioner::{Conversion, ConvertRequest, DownloadRequest, OutputSink};

/// Lines that are told in a second; a converter that prints more is not read faster.
const LINES: u32 = 20;

impl Performer {
    /// A download, with the conversion that its entry in the catalog needs.
    pub(super) async fn fetch(&self, request: &DownloadRequest, run: &Run) -> Result<Done> {
        let Some(entry) = self.provisioner.conversion_of(request).cloned() else {
            return self.download(request, run).await;
        };
        if !request.force {
            let (provisioner, wanted) = (self.provisioner.clone(), entry.clone());
            if let Some(path) = blocking(move || installed(&provisioner, &wanted)).await? {
                return Ok(Done { path: Some(path), outcome: Some(JobOutcome::Converted(0)) });
            }
        }
        // It is known to end in that error unless somebody installs one meanwhile; what is fetched is needed anyway.
        let (provisioner, wanted) = (self.provisioner.clone(), entry.clone());
        if let Err(error) = blocking(move || provisioner.converter_of(&wanted)).await? {
            let line = format!("{error}; the files are fetched now and kept");
            (run.tell)(JobEventKind::Output { line });
        }
        // Forcing is about the result; what it is made from was verified when it came. Both lie in one folder.
        let source = DownloadRequest { force: false, to: DestinationKind::Flat, ..request.clone() };
        self.download(&source, run).await?;
        let plan = self.provisioner.plan_download(&source).await?;
        let mut conversion = self.provisioner.conversion_of_download(&entry, &plan)?;
        conversion.force = request.force;
        self.convert_now(conversion, run).await
    }

    pub(super) async fn convert(&self, request: ConvertRequest, run: &Run) -> Result<Done> {
        let (provisioner, inventory) = (self.provisioner.clone(), self.inventory.clone());
        let conversion = blocking(move || provisioner.conversion_of_model(&inventory, &request)).await??;
        self.convert_now(conversion, run).await
    }

    async fn convert_now(&self, conversion: Conversion, run: &Run) -> Result<Done> {
        (run.tell)(JobEventKind::Started { file: Some(conversion.file.to_string()), bytes: None, total: None });
        let output = teller(Arc::clone(&run.tell));
        let (provisioner, inventory, cancel) = (self.provisioner.clone(), self.inventory.clone(), run.cancel.clone());
        let converted = blocking(move || {
            let converted = provisioner.convert(&conversion, &output, &cancel)?;
            if let Some(digest) = converted.digest.filter(|_| converted.made) {
                let repository = conversion.origin.as_ref().map_or("", |origin| origin.repository.as_str());
                inventory.note_published(&[(converted.path.clone(), digest)], &conversion.folder, repository);
            }
            Ok(converted)
        })
        .await??;
        Ok(Done {
            path: Some(converted.path),
            outcome: Some(JobOutcome::Converted(if converted.made { converted.bytes } else { 0 })),
        })
    }
}

/// The result of an earlier conversion, if it is whole.
fn installed(provisioner: &crate::provisioner::ModelProvisioner, entry: &CatalogEntry) -> Option<std::path::PathBuf> {
    let here = provisioner.is_installed(entry).unwrap_or(false);
    here.then(|| provisioner.find_local_model(&entry.alias)).flatten()
}

/// Tells lines, as many in a second as a person can follow.
fn teller(tell: Tell) -> OutputSink {
    let budget = Mutex::new((Instant::now(), 0_u32));
    Arc::new(move |line: &str| {
        let mut budget = budget.lock().unwrap_or_else(PoisonError::into_inner);
        if budget.0.elapsed() >= Duration::from_secs(1) {
            *budget = (Instant::now(), 0);
        }
        budget.1 += 1;
        if budget.1 <= LINES {
            tell(JobEventKind::Output { line: line.to_owned() });
        }
    })
}
