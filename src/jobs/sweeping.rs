//! What a sweep has to know of the queue: partial files that a job goes on with are not dead.

use std::path::Path;

use jiff::Timestamp;

use super::queue_file;
use crate::provisioner::{DownloadRequest, ModelProvisioner};
use crate::store::Store;
use crate::store::sweep::SweepContext;

/// The circumstances of a sweep at `now`: the partial files of the downloads in `queue_file`, whichever process keeps it, and of
/// `more` are spared. A queue that cannot be read may go on with any.
#[must_use]
pub fn sweep_context(
    provisioner: &ModelProvisioner,
    queue_file: Option<&Path>,
    more: &[DownloadRequest],
    now: Timestamp,
) -> SweepContext {
    let mut context = SweepContext::at(now);
    let queued = match queue_file.map(queue_file::downloads) {
        Some(Ok(queued)) => queued,
        Some(Err(why)) => {
            context.queue_unknown = Some(format!("the queue cannot be read: {why}"));
            return context;
        }
        None => Vec::new(),
    };
    let own = provisioner.store().root();
    let here = queued.iter().filter(|(folder, _)| folder.as_deref().is_none_or(|folder| folder == own));
    // What is asked for elsewhere is not looked up: everything there stays.
    context.queued.extend(queued.iter().filter_map(|(folder, _)| folder.clone()).filter(|folder| folder != own));
    for request in here.map(|(_, request)| request).chain(more) {
        match provisioner.partial_folder(request) {
            Ok(folder) => context.queued.extend(folder),
            Err(error) => context.queue_unknown = Some(error.to_string()),
        }
    }
    context
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jobs::{JobId, JobSpec};

    #[test]
    fn the_folders_of_queued_downloads_are_spared() {
        let scratch = tempfile::tempdir().unwrap();
        let base = scratch.path().canonicalize().unwrap().join("models");
        std::fs::create_dir(&base).unwrap();
        let provisioner = ModelProvisioner::builder(base.clone()).build();
        let queue = scratch.path().join("queue.json");
        let now = Timestamp::now();
        let context = |more: &[DownloadRequest]| sweep_context(&provisioner, Some(&queue), more, now);
        assert!(context(&[]).queued.is_empty() && context(&[]).queue_unknown.is_none());

        let job = |id: u64, reference: &str, home: &Path| {
            serde_json::json!({"id": JobId(id), "spec": JobSpec::Download(DownloadRequest::new(reference)), "state": "paused",
                "home": {"models_dir": home, "endpoint": "https://hub.example"}})
        };
        let jobs = [job(1, "org/Name-GGUF", &base), job(2, "x/y", Path::new("/elsewhere")), job(3, "no-such", &base)];
        std::fs::write(&queue, serde_json::json!({"version": 1, "next": 4, "jobs": jobs}).to_string()).unwrap();
        let spared = context(&[DownloadRequest::new("org/Other")]);
        let wanted = [Path::new("/elsewhere").to_owned(), base.join("name-gguf"), base.join("other")];
        assert_eq!(spared.queued.iter().cloned().collect::<Vec<_>>(), wanted);
        assert_eq!(spared.queue_unknown, None);

        std::fs::write(&queue, "garbage").unwrap();
        assert!(context(&[]).queue_unknown.is_some());
    }
}
