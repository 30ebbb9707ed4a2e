//! The note of every deletion: what went, where it came from, and what would check it if it were fetched again.

use std::fs::Permissions;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;
use rustix::fs::{OFlags, fcntl_setfl};
use serde::Serialize;

use crate::disk::publish::{create_folders, open_or_create};
use crate::error::{Error, Result};
use crate::model::text::{escape, printable_path};
use crate::model::{DeletionReport, Digest, ModelId, SweepItem};
use crate::provisioner::Inventory;
use crate::store::flat::Record;

/// A file of one JSON object a line, appended to.
#[derive(Clone, Debug)]
pub(super) struct DeletionLog(Arc<PathBuf>);

/// What a model was before it went.
#[derive(Debug, Serialize)]
pub(super) struct Origin {
    #[serde(flatten)]
    model: ModelId,
    /// `org/name`.
    reference: Option<String>,
    /// Base address of the hub, where a record says so.
    endpoint: Option<String>,
    commits: Vec<String>,
    files: Vec<OriginFile>,
}

#[derive(Debug, Serialize)]
struct OriginFile {
    path: String,
    size_bytes: u64,
    checksum: Option<Digest>,
}

#[derive(Serialize)]
struct Entry<'a> {
    time: Timestamp,
    models: &'a [Origin],
    /// Of a sweep: what went and why it was dead.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    items: &'a [SweepItem],
    #[serde(flatten)]
    report: &'a DeletionReport,
}

impl Origin {
    /// What the store knows. A model that cannot be looked at is noted by its name.
    pub(super) fn of(model: &ModelId, inventory: &Inventory) -> Self {
        let mut origin =
            Self { model: model.clone(), reference: None, endpoint: None, commits: Vec::new(), files: Vec::new() };
        let Ok(details) = inventory.contents(model) else { return origin };
        if let Ok(Some(record)) = Record::read(&details.model.path) {
            origin.endpoint = Some(record.endpoint);
            origin.commits.push(record.commit);
        }
        origin.commits.extend(details.revisions.into_iter().map(|revision| revision.commit));
        Self {
            reference: details.model.reference,
            files: details
                .files
                .into_iter()
                .map(|file| OriginFile {
                    path: escape(file.absolute.as_os_str()),
                    size_bytes: file.size_bytes,
                    checksum: file.sha256,
                })
                .collect(),
            ..origin
        }
    }
}

impl DeletionLog {
    pub(super) fn new(path: PathBuf) -> Self {
        Self(Arc::new(path))
    }

    /// Appends one line. A deletion is done whether it can be noted or not, for a full disk is where deletions happen; that it is
    /// not noted is told in the report.
    pub(super) fn note(&self, models: &[Origin], report: &mut DeletionReport) {
        self.note_all(models, &[], report);
    }

    /// Appends one line about a sweep.
    pub(super) fn note_sweep(&self, items: &[SweepItem], report: &mut DeletionReport) {
        self.note_all(&[], items, report);
    }

    fn note_all(&self, models: &[Origin], items: &[SweepItem], report: &mut DeletionReport) {
        if let Err(error) = self.append(models, items, report) {
            let line = format!("the deletion is not noted: {error}");
            tracing::warn!("{line}");
            report.notes.push(line);
        }
    }

    fn append(&self, models: &[Origin], items: &[SweepItem], report: &DeletionReport) -> Result<()> {
        let path = self.0.as_path();
        let entry = Entry { time: Timestamp::now(), models, items, report };
        let mut line = serde_json::to_vec(&entry).map_err(|error| Error::io("write", path)(error.into()))?;
        line.push(b'\n');
        if let Some(folder) = path.parent() {
            create_folders(folder)?;
        }
        let new = path.symlink_metadata().is_err();
        // As root it takes the owner of its folder. It follows no link and waits for nobody at the other end of a pipe.
        let file = open_or_create(path)?;
        let status = file.metadata().map_err(Error::io("examine", path))?;
        if status.nlink() != 1 {
            let reason = "it is the same file as another name, which would grow as well".to_owned();
            return Err(Error::UnsafePath { path: printable_path(path), reason });
        }
        if new {
            // Nobody else needs to read it.
            file.set_permissions(Permissions::from_mode(0o600)).map_err(Error::io("write", path))?;
        }
        // One write of a file that is only appended to: lines of two processes do not mix.
        fcntl_setfl(&file, OFlags::APPEND).map_err(|error| Error::io("write", path)(error.into()))?;
        (&file).write_all(&line).map_err(Error::io("write", path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::StoreKind;

    #[test]
    fn a_line_says_what_went_and_where_it_came_from() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state/deletions.jsonl");
        let log = DeletionLog::new(path.clone());
        let model = ModelId { store: StoreKind::Flat, store_path: "/m".into(), id: "tinyllama".into() };
        let digest = Digest::parse(&"ab".repeat(32));
        let origin = Origin {
            model,
            reference: Some("org/name".into()),
            endpoint: Some("https://hub.example".into()),
            commits: vec!["c0ffee".into()],
            files: vec![OriginFile { path: "/m/tinyllama/x.gguf".into(), size_bytes: 5, checksum: digest }],
        };
        let mut report = DeletionReport {
            removed: vec!["/m/tinyllama/x.gguf".into()],
            freed_bytes: 4096,
            ..DeletionReport::default()
        };
        log.note(std::slice::from_ref(&origin), &mut report);
        log.note(&[origin], &mut report);
        let text = std::fs::read_to_string(path).unwrap();
        let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(std::fs::metadata(log.0.as_path()).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(lines[0]["models"][0]["files"][0]["checksum"], "ab".repeat(32));
        assert_eq!(lines[0]["models"][0]["commits"][0], "c0ffee");
        assert_eq!(lines[0]["removed"][0], "/m/tinyllama/x.gguf");
        assert_eq!(lines[0]["freed_bytes"], 4096);
    }

    #[test]
    fn only_a_regular_file_of_its_own_is_written_to() {
        use std::os::unix::fs::symlink;
        let folder = tempfile::tempdir().unwrap();
        let precious = folder.path().join("manifest");
        std::fs::write(&precious, "{}").unwrap();
        let path = folder.path().join("deletions.jsonl");
        let pipe = |path: &std::path::Path| {
            rustix::fs::mkfifoat(rustix::fs::CWD, path, rustix::fs::Mode::from_raw_mode(0o600)).unwrap();
        };
        let put: [&dyn Fn(); 5] = [
            &|| symlink(&precious, &path).unwrap(),
            &|| symlink(folder.path().join("nowhere"), &path).unwrap(),
            &|| std::fs::hard_link(&precious, &path).unwrap(),
            &|| pipe(&path),
            &|| std::fs::create_dir(&path).unwrap(),
        ];
        for put in put {
            put();
            let mut report = DeletionReport::default();
            DeletionLog::new(path.clone()).note(&[], &mut report);
            let [note] = report.notes.as_slice() else { panic!("{:?}", report.notes) };
            assert!(note.starts_with("the deletion is not noted: ") && !note.contains('\n'), "{note}");
            assert_eq!(std::fs::read(&precious).unwrap(), b"{}");
            assert!(!folder.path().join("nowhere").exists());
            std::fs::remove_file(&path).or_else(|_| std::fs::remove_dir(&path)).unwrap();
        }
    }
}
