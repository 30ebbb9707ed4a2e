//! Runs deletion plans, and nothing else removes a model's file.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use rustix::fs::{AtFlags, unlinkat};
use rustix::io::Errno;
use tokio_util::sync::CancellationToken;

use super::lock::{Claim, claim};
use super::permission::removal_error;
use super::safe::{Handle, is_plain_name};
use super::shared;
use crate::error::{Error, io_reason};
use crate::model::{DeletionReport, Failure, Inode, Operation, Plan, Stamp, Step, text};

/// What a [`Hook`] wants to happen at a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Go on.
    Proceed,
    /// Let this operation fail as the system would with this error number.
    Fail(i32),
    /// Stop the run at once, as a crash would.
    Stop,
}

/// Called before every operation that changes the disk, so that tests can stop or fail at each.
pub trait Hook: Send {
    /// `index` counts operations from 0. The step's checks come after this call, right before the removal.
    fn before(&mut self, index: usize, step: &Step) -> Decision;
}

/// Lets everything proceed.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoHook;

impl Hook for NoHook {
    fn before(&mut self, _index: usize, _step: &Step) -> Decision {
        Decision::Proceed
    }
}

/// Runs `plan`: each step re-checks the identity of its folder and its target right before it removes, follows no
/// link below the root, and skips itself when a step that it requires did not succeed. A failure is noted with its
/// cause and the run goes on. A folder that is not empty stays, and so does one whose emptying did not succeed; neither is a
/// failure of its own.
///
/// A target that is not there any more is noted in [`DeletionReport::gone`] and counts as removed for what requires it: of two
/// runs of one plan at once each goes on where the other was, so that neither leaves what both were told to remove.
///
/// What a step requires is synced to the disk before it runs, so that even a power failure leaves no name without its
/// payload.
///
/// `still_open` tells whether a process keeps a file open, for `held_bytes`. `progress` gets each finished step, removed
/// or not, with the bytes that it freed. A cancelled run ends between two steps; the report has what was done.
pub fn run(
    plan: &Plan,
    hook: &mut dyn Hook,
    still_open: &dyn Fn(Inode) -> bool,
    progress: &mut dyn FnMut(&Path, u64),
    cancel: &CancellationToken,
) -> DeletionReport {
    run_guarded(plan, &mut NoGuard, hook, still_open, progress, cancel)
}

/// Knows what else has come to need a payload since the plan was made.
pub trait Guard {
    /// Why the file that `step` removes has to stay. Asked right before the removal of each file.
    fn keeps(&mut self, step: &Step) -> Option<String>;
}

/// Keeps nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoGuard;

impl Guard for NoGuard {
    fn keeps(&mut self, _step: &Step) -> Option<String> {
        None
    }
}

/// [`run`], which leaves every payload that `guard` keeps. What is kept so is no success of what was asked for, and is noted
/// among the failures with the guard's reason.
pub fn run_guarded(
    plan: &Plan,
    guard: &mut dyn Guard,
    hook: &mut dyn Hook,
    still_open: &dyn Fn(Inode) -> bool,
    progress: &mut dyn FnMut(&Path, u64),
    cancel: &CancellationToken,
) -> DeletionReport {
    let mut run = Run::default();
    let mut report = DeletionReport::default();
    let mut failed: Vec<(usize, Failure)> = Vec::new();
    for (number, step) in plan.steps.iter().enumerate() {
        if cancel.is_cancelled() {
            break;
        }
        let outcome = match run.missing_requirement(number, step, &plan.steps) {
            Some(missing) => missing,
            None => match hook.before(run.operations, step) {
                Decision::Stop => break,
                Decision::Proceed => run.attempt(step, &plan.steps, guard, None),
                Decision::Fail(code) => run.attempt(step, &plan.steps, guard, Some(Errno::from_raw_os_error(code))),
            },
        };
        run.outcomes.push(match &outcome {
            Outcome::Removed { .. } | Outcome::Gone => Became::Removed,
            Outcome::Kept => Became::Kept,
            Outcome::Failed(_) => Became::Failed,
        });
        let path = step.path();
        let mut freed = 0;
        match outcome {
            Outcome::Removed { freed: bytes } => {
                freed = bytes;
                report.freed_bytes += bytes;
                if bytes > 0 && still_open(step.target) {
                    report.held_bytes += bytes;
                }
                report.removed.push(path.clone());
            }
            Outcome::Gone => report.gone.push(path.clone()),
            Outcome::Kept => {}
            Outcome::Failed(error) => failed.push((number, Failure { path: path.clone(), error })),
        }
        progress(&path, freed);
    }
    // What another run was busy with may be gone by now.
    for (number, failure) in failed {
        match run.is_gone(&plan.steps[number]) {
            true => report.gone.push(failure.path),
            false => report.failed.push(failure),
        }
    }
    report
}

/// What became of a step.
enum Outcome {
    Removed {
        freed: u64,
    },
    /// Somebody else has removed it.
    Gone,
    /// A folder that is not empty, a shared payload that is used again.
    Kept,
    Failed(String),
}

/// Why a step did not succeed.
enum Trouble {
    /// Somebody holds a lock that it needs.
    Busy(String),
    Other(String),
}

impl From<String> for Trouble {
    fn from(cause: String) -> Self {
        Self::Other(cause)
    }
}

impl From<&str> for Trouble {
    fn from(cause: &str) -> Self {
        Self::Other(cause.to_owned())
    }
}

/// An [`Outcome`] as later steps need it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Became {
    /// By this run or by somebody else.
    Removed,
    Kept,
    Failed,
}

/// How long one run waits for locks, all its waits together: another run holds one only while it removes a file.
const PATIENCE: Duration = Duration::from_millis(500);
/// Time between two tries.
const PAUSE: Duration = Duration::from_millis(10);

/// The state of a run.
#[derive(Default)]
struct Run {
    /// Operations tried so far.
    operations: usize,
    /// What became of each step so far.
    outcomes: Vec<Became>,
    /// The roots, each opened once.
    roots: BTreeMap<PathBuf, Handle>,
    /// Folders with removals that are not synced yet, by root and path below it.
    unsynced: BTreeSet<(PathBuf, PathBuf)>,
    /// How long it has waited for locks.
    waited: Duration,
}

impl Run {
    /// What becomes of a step that requires one that did not succeed.
    fn missing_requirement(&self, number: usize, step: &Step, steps: &[Step]) -> Option<Outcome> {
        let missing = step.requires.iter().find(|required| self.outcomes.get(**required) != Some(&Became::Removed))?;
        if *missing >= number {
            return Some(Outcome::Failed("the plan is wrong: this step requires a later one; scan again".to_owned()));
        }
        // What was kept for a good reason is no failure, and neither is what goes with it.
        if step.operation == Operation::RemoveFolder || self.outcomes[*missing] == Became::Kept {
            return Some(Outcome::Kept);
        }
        let names = text::printable_path(&steps[*missing].path());
        Some(Outcome::Failed(format!("kept, because {names} could not be removed")))
    }

    fn attempt(&mut self, step: &Step, steps: &[Step], guard: &mut dyn Guard, injected: Option<Errno>) -> Outcome {
        self.operations += 1;
        loop {
            match self.remove(step, steps, guard, injected) {
                Ok(outcome) => return outcome,
                Err(_) if self.is_gone(step) => {
                    // Whoever removed the name need not have synced that.
                    self.unsynced.insert((step.root.clone(), step.folder.clone()));
                    return Outcome::Gone;
                }
                Err(Trouble::Busy(_)) if self.waited < PATIENCE => {
                    std::thread::sleep(PAUSE);
                    self.waited += PAUSE;
                }
                Err(Trouble::Busy(cause) | Trouble::Other(cause)) => return Outcome::Failed(cause),
            }
        }
    }

    /// Whether the target is not there any more: its very folder does not have the name, or is gone with it. A store that is not
    /// there at all, or another one, says nothing about what was in it.
    fn is_gone(&mut self, step: &Step) -> bool {
        if check(step).is_err() {
            return false;
        }
        let Ok(root) = self.root(&step.root) else { return false };
        for around in step.folder.ancestors() {
            let folder = match root.open_folder(around) {
                Ok(folder) => folder,
                Err(Error::Io { source, .. }) if source.kind() == ErrorKind::NotFound => continue,
                Err(_) => return false,
            };
            let Ok(identity) = folder.inode() else { return false };
            if around != step.folder {
                return identity.device == step.parent.device;
            }
            return identity == step.parent
                && matches!(folder.info(&step.name), Err(Error::Io { source, .. }) if source.kind() == ErrorKind::NotFound);
        }
        false
    }

    fn remove(
        &mut self,
        step: &Step,
        steps: &[Step],
        guard: &mut dyn Guard,
        injected: Option<Errno>,
    ) -> Result<Outcome, Trouble> {
        check(step)?;
        self.sync_required(step, steps)?;

        let folder = self.root(&step.root)?.open_folder(&step.folder).map_err(|error| match error {
            Error::Io { source, .. } => format!("its folder cannot be opened: {}", io_reason(&source)),
            Error::UnsafePath { reason, .. } => format!("its folder is another one now: {reason}; scan again"),
            other => other.to_string(),
        })?;
        if folder.inode().map_err(|error| error.to_string())? != step.parent {
            return Err("its folder is another one now; scan again".into());
        }
        let info = folder.info(&step.name).map_err(|error| match error {
            Error::Io { source, .. } if source.kind() == ErrorKind::NotFound => GONE.to_owned(),
            other => other.to_string(),
        })?;
        if info.inode != step.target {
            return Err("something else has that name now; scan again".into());
        }
        if info.is_folder() != (step.operation == Operation::RemoveFolder) {
            return Err("it is no longer what the plan says; scan again".into());
        }
        // A number is given again as soon as its file is gone: the same number may be another file by now.
        if let Some(planned) = &step.stamp
            && *planned != (Stamp { size_bytes: info.size_bytes, modified: info.modified })
        {
            return Err("it has changed since it was looked at; scan again".into());
        }

        // Held until the target is gone: whoever writes it waits so long, or writes it now and it stays.
        let mut _locks = Vec::with_capacity(step.locks.len());
        for path in &step.locks {
            match claim(&step.root, path) {
                Claim::Held(lock) => _locks.push(lock),
                Claim::Absent => {}
                Claim::Refused(why) => return Err(Trouble::Busy(format!("kept: {why}"))),
            }
        }
        // Held until the payload is gone, so that nobody links to it meanwhile.
        let _unused = match step.operation {
            Operation::RemoveShared => match shared::claim(step).map_err(Trouble::Busy)? {
                Some(unused) => Some(unused),
                None => return Ok(Outcome::Kept),
            },
            Operation::RemoveSharedRefs => match shared::claim_refs(step).map_err(Trouble::Busy)? {
                Some(unused) => Some(unused),
                None => return Ok(Outcome::Kept),
            },
            Operation::RemoveFile | Operation::RemoveFolder => None,
        };
        if step.operation.is_file()
            && let Some(why) = guard.keeps(step)
        {
            return Err(format!("kept: {why}").into());
        }
        let flags = if info.is_folder() { AtFlags::REMOVEDIR } else { AtFlags::empty() };
        let removed = match injected {
            Some(error) => Err(error),
            None => unlinkat(&folder, &step.name, flags),
        };
        match removed {
            Ok(()) => {}
            // POSIX allows either number for a folder that is not empty.
            Err(Errno::NOTEMPTY | Errno::EXIST) if info.is_folder() => return Ok(Outcome::Kept),
            Err(Errno::NOENT) => return Err(GONE.into()),
            Err(error) => return Err(removal_error(error, folder.path(), &step.name, &info).into()),
        }
        if info.is_folder() {
            let gone = step.folder.join(&step.name);
            self.unsynced.retain(|(root, folder)| *root != step.root || !folder.starts_with(&gone));
        }
        self.unsynced.insert((step.root.clone(), step.folder.clone()));
        Ok(Outcome::Removed { freed: if info.is_file() && info.links == 1 { info.disk_bytes } else { 0 } })
    }

    fn root(&mut self, path: &Path) -> Result<&Handle, String> {
        if !self.roots.contains_key(path) {
            let root = Handle::open_root(path).map_err(|error| error.to_string())?;
            let identity = |folder: &Handle| folder.inode().map_err(|error| error.to_string());
            if identity(&root)? == identity(&Handle::open_root(Path::new("/")).map_err(|error| error.to_string())?)? {
                return Err(ROOT_REFUSED.to_owned());
            }
            self.roots.insert(path.to_owned(), root);
        }
        self.roots.get(path).ok_or_else(|| "its store cannot be opened".to_owned())
    }

    /// Syncs the folders in which the steps that `step` requires removed something.
    fn sync_required(&mut self, step: &Step, steps: &[Step]) -> Result<(), String> {
        for required in &step.requires {
            let Some(required) = steps.get(*required) else { continue };
            // The folder itself, or the nearest one around it that is still there.
            let around = required.folder.ancestors().find_map(|folder| {
                let key = (required.root.clone(), folder.to_owned());
                self.unsynced.contains(&key).then_some(key)
            });
            let Some(key) = around else { continue };
            let root = self.root(&key.0)?;
            // Where somebody else removed the folder as well, the one around it says so.
            let open = key.1.ancestors().map(|folder| root.open_folder(folder)).find(|opened| match opened {
                Err(Error::Io { source, .. }) => source.kind() != ErrorKind::NotFound,
                _ => true,
            });
            if let Some(folder) = open {
                folder
                    .map_err(|error| error.to_string())
                    .and_then(|folder| folder.sync().map_err(|error| io_reason(&error)))
                    .map_err(|cause| format!("kept, because what names it is not safely gone: {cause}"))?;
            }
            self.unsynced.remove(&key);
        }
        Ok(())
    }
}

const GONE: &str = "it was already gone";

const ROOT_REFUSED: &str = "refused: its store is the root of the file system, or no resolved path";

/// Refuses what no store would ever plan.
fn check(step: &Step) -> Result<(), String> {
    let mut parts = step.root.components();
    let resolved = parts.next() == Some(Component::RootDir)
        && step.root.parent().is_some()
        && parts.all(|part| matches!(part, Component::Normal(_)));
    if !resolved {
        return Err(ROOT_REFUSED.to_owned());
    }
    if !is_plain_name(&step.name) {
        return Err("refused: it is not one plain name".to_owned());
    }
    Ok(())
}
