//! The queue on disk: the downloads that wait, run or failed, so that they outlive the program.
//!
//! One process at a time keeps the file: it holds a lock beside it for as long as it runs. A file that cannot be read is
//! moved aside and never overwritten, for it may hold what a newer version of this program wrote.

use std::collections::HashMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::home::Home;
use super::{JobId, JobSpec, JobState, JobStatus, Snapshot};
use crate::disk::lock::FileLock;
use crate::disk::{publish, regular};
use crate::error::{Error, Result, io_reason};
use crate::model::text::printable_path;
use crate::provisioner::DownloadRequest;

/// Version of the file's form.
const VERSION: u32 = 1;
/// A queue of ten thousand downloads fits; what is larger was not written here.
const MAX_BYTES: u64 = 16 << 20;

/// What is brought back.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Saved {
    /// The number of the next job.
    pub(super) next: u64,
    /// In the order of the queue.
    pub(super) jobs: Vec<JobStatus>,
    /// Those of them that belong to another models folder or hub. They do not run, and go back as they came.
    pub(super) foreign: HashMap<JobId, Foreign>,
    /// What a person chose while they were fetched.
    pub(super) limit: Option<ChosenLimit>,
}

/// A speed limit that a person set, which outranks that of the settings until nothing is left to fetch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ChosenLimit {
    /// Over all downloads; `None` is no limit.
    pub(super) bytes_per_second: Option<u64>,
}

/// A job that belongs to another models folder or hub.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Foreign {
    home: Home,
    /// As it stands in the file.
    job: JobStatus,
    /// Why it does not run, and how it does.
    pub(super) why: String,
}

impl Foreign {
    /// Where it belongs.
    pub(super) fn home(&self) -> &Home {
        &self.home
    }
}

impl Saved {
    /// What of a queue is kept. Deletions and verifications are not: a person saw their plan on a disk that may be another
    /// one by then. What ran is in the queue again, at its place.
    pub(super) fn of(snapshot: &Snapshot, next: u64, foreign: &HashMap<JobId, Foreign>) -> Self {
        let jobs = snapshot.jobs.iter().filter(|job| matches!(job.spec, JobSpec::Download(_)));
        let jobs = jobs.filter(|job| !matches!(job.state, JobState::Finished | JobState::Cancelled)).map(|job| {
            if let Some(foreign) = foreign.get(&job.id) {
                return foreign.job.clone();
            }
            let mut kept = JobStatus::new(job.id, job.spec.clone());
            (kept.bytes, kept.total) = (job.bytes, job.total);
            match job.state {
                JobState::Paused => kept.state = JobState::Paused,
                JobState::Failed => (kept.state, kept.why) = (JobState::Failed, job.why.clone()),
                _ => {}
            }
            kept
        });
        Self { next, jobs: jobs.collect(), foreign: foreign.clone(), limit: None }
    }

    /// The same with a limit that a person chose, if it is still a limit of something.
    pub(super) fn with_limit(self, limit: Option<ChosenLimit>) -> Self {
        Self { limit: limit.filter(|_| !self.jobs.is_empty()), ..self }
    }
}

#[derive(Serialize, Deserialize)]
struct Content {
    version: u32,
    next: u64,
    jobs: Vec<Entry>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    limit: Option<ChosenLimit>,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    id: JobId,
    spec: JobSpec,
    state: JobState,
    #[serde(default)]
    why: Option<String>,
    #[serde(default)]
    bytes: u64,
    #[serde(default)]
    total: Option<u64>,
    /// Where the job belongs. Missing where the present settings are not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    home: Option<Home>,
}

/// The queue file of this process.
#[derive(Debug)]
pub(super) struct QueueFile {
    path: PathBuf,
    /// Where the jobs of this process belong.
    home: Option<Home>,
    /// Also orders the writes; none once it was released.
    lock: Mutex<Option<FileLock>>,
}

/// The queue file as it was found. Nothing that is wrong with it keeps a queue from working.
#[derive(Debug, Default)]
pub(super) struct Opened {
    /// None when the queue has to stay in memory.
    pub(super) file: Option<QueueFile>,
    pub(super) saved: Saved,
    pub(super) warnings: Vec<String>,
}

impl QueueFile {
    /// Opens the file for a process whose downloads belong to `home`; without one every job counts as its own.
    pub(super) fn open(path: &Path, home: Option<Home>) -> Opened {
        let in_memory = |why: String| Opened { warnings: vec![why], ..Opened::default() };
        let lock = match lock(path) {
            Ok(Some(lock)) => lock,
            Ok(None) => {
                let holder = FileLock::holder(&lock_path(path));
                return in_memory(format!(
                    "{holder} keeps the queue; what is added here ends with this program, and goes on when it is asked for again"
                ));
            }
            Err(error) => return in_memory(format!("the queue is not kept: {error}")),
        };
        let mut warnings = Vec::new();
        let saved = match read(path, home.as_ref()) {
            Ok(saved) => saved,
            Err(reason) => match set_aside(path) {
                Ok(aside) => {
                    warnings.push(format!(
                        "the queue in {} cannot be used ({reason}); it was moved to {}",
                        printable_path(path),
                        printable_path(&aside)
                    ));
                    Saved::default()
                }
                Err(error) => {
                    return in_memory(format!(
                        "the queue is not kept: {} cannot be used ({reason}) and not be moved aside: {error}",
                        printable_path(path)
                    ));
                }
            },
        };
        Opened { file: Some(Self { path: path.to_owned(), home, lock: Mutex::new(Some(lock)) }), saved, warnings }
    }

    /// Writes what `content` gives; it is asked once nobody else writes, so that the last writer has the last word.
    pub(super) fn write(&self, content: impl FnOnce() -> Saved) -> Result<()> {
        let lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        if lock.is_none() {
            return Ok(());
        }
        let Saved { next, jobs, mut foreign, limit } = content();
        let entry = |job: JobStatus| Entry {
            home: foreign.remove(&job.id).map(|foreign| foreign.home).or_else(|| match &job.spec {
                JobSpec::Download(request) => self.home.as_ref().map(|home| home.of(request)),
                _ => self.home.clone(),
            }),
            id: job.id,
            spec: job.spec,
            state: job.state,
            why: job.why,
            bytes: job.bytes,
            total: job.total,
        };
        let content = Content { version: VERSION, next, jobs: jobs.into_iter().map(entry).collect(), limit };
        let bytes =
            serde_json::to_vec_pretty(&content).map_err(|error| Error::io("write", &self.path)(error.into()))?;
        publish::write_atomically(&self.path, &bytes)
    }

    /// Lets another process keep the queue; nothing is written after that.
    pub(super) fn release(&self) {
        self.lock.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

fn lock_path(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".lock");
    path.with_file_name(name)
}

fn lock(path: &Path) -> Result<Option<FileLock>> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
    }
    FileLock::try_exclusive(&lock_path(path))
}

fn read(path: &Path, home: Option<&Home>) -> std::result::Result<Saved, String> {
    content(path)?.map_or_else(|| Ok(Saved::default()), |bytes| parse(&bytes, home))
}

/// The file's bytes; `None` when there is none.
fn content(path: &Path) -> std::result::Result<Option<Vec<u8>>, String> {
    match regular::read(path, MAX_BYTES) {
        Ok(Some(bytes)) => Ok(Some(bytes)),
        Ok(None) => Err("it is too large".to_owned()),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(io_reason(&error)),
    }
}

fn check_version(bytes: &[u8]) -> std::result::Result<(), String> {
    #[derive(Deserialize)]
    struct Version {
        version: u32,
    }
    let version: Version = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    if version.version != VERSION {
        return Err(format!("it is of version {}, this program writes version {VERSION}", version.version));
    }
    Ok(())
}

fn parse(bytes: &[u8], present: Option<&Home>) -> std::result::Result<Saved, String> {
    check_version(bytes)?;
    let content: Content = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    let highest = content.jobs.iter().map(|job| job.id.0).max().unwrap_or(0);
    let mut jobs: Vec<JobStatus> = Vec::with_capacity(content.jobs.len());
    let mut foreign = HashMap::new();
    for entry in content.jobs {
        if !matches!(entry.spec, JobSpec::Download(_)) {
            return Err("it holds a job that is no download".to_owned());
        }
        if jobs.iter().any(|job| job.id == entry.id) {
            return Err(format!("it holds job {} twice", entry.id));
        }
        let mut job = JobStatus::new(entry.id, entry.spec);
        job.state = match entry.state {
            JobState::Paused | JobState::Failed => entry.state,
            _ => JobState::Queued,
        };
        (job.why, job.bytes, job.total) = (entry.why, entry.bytes, entry.total);
        match (entry.home, present) {
            (Some(home), Some(present)) if !home.is_in(present) => {
                let why = home.why_not_in(present);
                let mut shown = JobStatus::new(job.id, job.spec.clone());
                (shown.state, shown.why) = (JobState::Paused, Some(why.clone()));
                foreign.insert(job.id, Foreign { home, job, why });
                jobs.push(shown);
                continue;
            }
            (None, Some(_)) if !job.state.has_ended() => {
                job.state = JobState::Paused;
                job.why =
                    Some("nobody noted which folder and hub it belongs to; resume it to fetch it here".to_owned());
            }
            _ => {}
        }
        jobs.push(job);
    }
    // Ended ones come first, as everywhere.
    jobs.sort_by_key(|job| !job.state.has_ended());
    Ok(Saved { next: content.next.max(highest.saturating_add(1)), jobs, foreign, limit: content.limit })
}

/// The downloads in the queue file at `path`, whoever keeps it, with the models folder that each was asked for, where one was
/// noted. Nothing is locked or changed.
pub(super) fn downloads(path: &Path) -> std::result::Result<Vec<(Option<PathBuf>, DownloadRequest)>, String> {
    let Some(bytes) = content(path)? else { return Ok(Vec::new()) };
    check_version(&bytes)?;
    let content: Content = serde_json::from_slice(&bytes).map_err(|error| error.to_string())?;
    let downloads = content.jobs.into_iter().filter_map(|entry| match entry.spec {
        JobSpec::Download(request) => Some((entry.home.map(|home| home.models_dir().to_owned()), request)),
        _ => None,
    });
    Ok(downloads.collect())
}

fn set_aside(path: &Path) -> Result<PathBuf> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".set-aside-{}", Timestamp::now().as_millisecond()));
    let aside = path.with_file_name(name);
    fs::rename(path, &aside).map_err(Error::io("move aside", path))?;
    Ok(aside)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jobs::Basis;
    use crate::model::Plan;
    use crate::provisioner::{DestinationKind, DownloadRequest};

    fn job(id: u64, state: JobState) -> JobStatus {
        let request = DownloadRequest {
            reference: format!("org/model-{id}"),
            files: Vec::new(),
            to: DestinationKind::Flat,
            force: false,
            mmproj: false,
        };
        let mut job = JobStatus::new(JobId(id), JobSpec::Download(request));
        (job.state, job.bytes, job.total) = (state, 10, Some(20));
        job
    }

    fn states(saved: &Saved) -> Vec<(u64, JobState)> {
        saved.jobs.iter().map(|job| (job.id.0, job.state)).collect()
    }

    #[test]
    fn downloads_that_are_not_over_come_back_at_their_places() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/queue.json");
        let mut snapshot = Snapshot { number: 40, ..Snapshot::default() };
        snapshot.jobs = vec![
            job(1, JobState::Finished),
            job(2, JobState::Failed),
            job(3, JobState::Cancelled),
            job(5, JobState::Running),
            job(4, JobState::Retrying),
            job(7, JobState::Paused),
            job(6, JobState::Queued),
            JobStatus::new(JobId(8), JobSpec::Delete { plan: Plan::default(), basis: Basis::JustMade }),
        ];
        let opened = QueueFile::open(&path, None);
        assert_eq!((opened.warnings.len(), opened.saved.jobs.len()), (0, 0));
        let file = opened.file.unwrap();
        file.write(|| Saved::of(&snapshot, 9, &HashMap::new())).unwrap();
        file.release();
        let opened = QueueFile::open(&path, None);
        let expected = [
            (2, JobState::Failed),
            (5, JobState::Queued),
            (4, JobState::Queued),
            (7, JobState::Paused),
            (6, JobState::Queued),
        ];
        assert_eq!(states(&opened.saved), expected);
        assert_eq!(opened.saved.next, 9, "the number of the deletion is not used again");
        assert_eq!(opened.saved.jobs[1].bytes, 10);
    }

    #[test]
    fn a_chosen_limit_lasts_as_long_as_there_is_something_to_fetch() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("queue.json");
        for limit in [Some(1 << 20), None] {
            let chosen = Some(ChosenLimit { bytes_per_second: limit });
            for (state, kept) in [(JobState::Paused, chosen), (JobState::Finished, None)] {
                let snapshot = Snapshot { jobs: vec![job(1, state)], ..Snapshot::default() };
                let file = QueueFile::open(&path, None).file.unwrap();
                file.write(|| Saved::of(&snapshot, 2, &HashMap::new()).with_limit(chosen)).unwrap();
                drop(file);
                assert_eq!(QueueFile::open(&path, None).saved.limit, kept);
            }
        }
    }

    #[test]
    fn a_job_of_another_folder_or_hub_waits_there_and_goes_back_as_it_came() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("queue.json");
        let home = |dir: &str, hub: &str| Home::new(&folder.path().join(dir), format!("https://{hub}.example"));
        let (mine, theirs) = (home("mine", "one"), home("theirs", "one"));
        let snapshot = Snapshot { jobs: vec![job(1, JobState::Running)], ..Snapshot::default() };
        let file = QueueFile::open(&path, Some(theirs.clone())).file.unwrap();
        file.write(|| Saved::of(&snapshot, 2, &HashMap::new())).unwrap();
        drop(file);
        for other in [&mine, &home("theirs", "two")] {
            let opened = QueueFile::open(&path, Some(other.clone()));
            let shown = &opened.saved.jobs[0];
            let why = shown.why.clone().unwrap();
            assert!(why.starts_with("belongs to ") && why.contains("; start with --"), "{why}");
            assert_eq!(
                (shown.state, shown.bytes, shown.total),
                (JobState::Paused, 0, None),
                "the progress is of another folder"
            );
            // What is added here is written beside it, each with its own home.
            let mut jobs = opened.saved.jobs.clone();
            jobs.retain(|job| job.id == JobId(1));
            jobs.push(job(2, JobState::Queued));
            let snapshot = Snapshot { jobs, ..Snapshot::default() };
            opened.file.unwrap().write(|| Saved::of(&snapshot, 3, &opened.saved.foreign)).unwrap();
        }
        let back = QueueFile::open(&path, Some(theirs)).saved;
        assert_eq!(states(&back), [(1, JobState::Queued), (2, JobState::Paused)]);
        assert_eq!((back.jobs[0].bytes, back.jobs[0].why.as_deref()), (10, None));
    }

    #[test]
    fn a_download_into_one_cache_does_not_go_on_in_another() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("queue.json");
        let home = |cache: &str| {
            let home = Home::new(&folder.path().join("models"), "https://one.example".to_owned());
            home.with_hf_cache(Some(&folder.path().join(cache)))
        };
        let mut into_cache = job(1, JobState::Running);
        let JobSpec::Download(request) = &mut into_cache.spec else { panic!("a download") };
        request.to = DestinationKind::Hf;
        let snapshot = Snapshot { jobs: vec![into_cache, job(2, JobState::Running)], ..Snapshot::default() };
        let file = QueueFile::open(&path, Some(home("one"))).file.unwrap();
        file.write(|| Saved::of(&snapshot, 3, &HashMap::new())).unwrap();
        drop(file);

        let opened = QueueFile::open(&path, Some(home("two")));
        assert_eq!(states(&opened.saved), [(1, JobState::Paused), (2, JobState::Queued)]);
        let why = opened.saved.jobs[0].why.clone().unwrap();
        assert!(why.contains("/one at ") && why.contains("HF_HUB_CACHE="), "{why}");
        let (jobs, foreign) = (opened.saved.jobs.clone(), opened.saved.foreign.clone());
        opened.file.unwrap().write(|| Saved { next: 3, jobs, foreign, limit: None }).unwrap();
        drop(opened.saved);
        let back = QueueFile::open(&path, Some(home("one"))).saved;
        assert_eq!(states(&back), [(1, JobState::Paused), (2, JobState::Queued)]);
    }

    #[test]
    fn a_job_without_a_home_does_not_run_by_itself() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("queue.json");
        let snapshot = Snapshot { jobs: vec![job(1, JobState::Queued)], ..Snapshot::default() };
        QueueFile::open(&path, None).file.unwrap().write(|| Saved::of(&snapshot, 2, &HashMap::new())).unwrap();
        let home = Home::new(folder.path(), "https://one.example".to_owned());
        let opened = QueueFile::open(&path, Some(home));
        assert_eq!(states(&opened.saved), [(1, JobState::Paused)]);
        assert!(opened.saved.foreign.is_empty(), "it can be resumed");
    }

    #[test]
    fn a_second_process_keeps_its_queue_in_memory() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("queue.json");
        let first = QueueFile::open(&path, None);
        let second = QueueFile::open(&path, None);
        assert!(first.file.is_some() && second.file.is_none());
        assert!(second.warnings[0].contains("keeps the queue"), "{:?}", second.warnings);
        drop(first);
        assert!(QueueFile::open(&path, None).file.is_some());
    }

    #[test]
    fn what_cannot_be_read_is_set_aside_and_never_overwritten() {
        let twice = r#"{"version":1,"next":3,"jobs":[
            {"id":"1","state":"queued","spec":{"kind":"download","reference":"a/b","files":[],"to":"flat","force":false}},
            {"id":"1","state":"queued","spec":{"kind":"download","reference":"a/c","files":[],"to":"flat","force":false}}]}"#;
        for content in ["", "{", "[1]", r#"{"version":2,"next":1,"jobs":[]}"#, twice] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("queue.json");
            fs::write(&path, content).unwrap();
            let opened = QueueFile::open(&path, None);
            assert_eq!(opened.warnings.len(), 1, "{content}");
            opened.file.unwrap().write(Saved::default).unwrap();
            let kept: Vec<_> = fs::read_dir(folder.path())
                .unwrap()
                .map(|entry| fs::read_to_string(entry.unwrap().path()).unwrap())
                .filter(|text| text == content)
                .collect();
            // The empty lock file equals the empty queue.
            assert!(!kept.is_empty(), "{content}");
        }
    }

    #[test]
    fn a_state_folder_that_cannot_be_made_is_a_warning() {
        let folder = tempfile::tempdir().unwrap();
        let blocker = folder.path().join("file");
        fs::write(&blocker, "").unwrap();
        let opened = QueueFile::open(&blocker.join("queue.json"), None);
        assert!(opened.file.is_none());
        assert!(opened.warnings[0].starts_with("the queue is not kept: cannot create"), "{:?}", opened.warnings);
    }
}
