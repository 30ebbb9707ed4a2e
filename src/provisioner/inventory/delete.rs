//! Running a plan: what a server is asked to delete first, then every other step.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::Inventory;
use crate::disk::deletion::{self, Guard, Hook};
use crate::model::{Ask, DeletionReport, Failure, Inode, Plan, Step};

/// The guards of all stores.
struct Guards<'a>(Vec<Box<dyn Guard + 'a>>);

impl Guard for Guards<'_> {
    fn keeps(&mut self, step: &Step) -> Option<String> {
        self.0.iter_mut().find_map(|guard| guard.keeps(step))
    }
}

/// A file of a step before anybody was asked.
struct Before {
    step: usize,
    inode: Inode,
    links: u64,
    disk_bytes: u64,
}

impl Inventory {
    /// Runs `plan`, as [`deletion::run`] does. Names that it would have a server delete are asked of the server; what is gone
    /// then is measured. Where no server answers, or it leaves the name, the steps run on the files. What has come to be needed by
    /// another name since the plan was made stays.
    pub fn run_deletion(
        &self,
        plan: &Plan,
        hook: &mut dyn Hook,
        still_open: &dyn Fn(Inode) -> bool,
        progress: &mut dyn FnMut(&Path, u64),
        cancel: &CancellationToken,
    ) -> DeletionReport {
        let stores = self.stores();
        let mut guard = Guards(stores.iter().filter_map(|store| store.guard(plan)).collect());
        if plan.asks.is_empty() {
            return deletion::run_guarded(plan, &mut guard, hook, still_open, progress, cancel);
        }
        let before = self.look_before(plan);
        let mut deleted: Vec<&Ask> = Vec::new();
        for ask in &plan.asks {
            if cancel.is_cancelled() {
                break;
            }
            match self.ask_server(plan, ask, cancel) {
                Ok(()) => deleted.push(ask),
                Err(why) => tracing::warn!("{} is deleted by its files: {why}", ask.name),
            }
        }
        let mut report = DeletionReport::default();
        let mut fate: Vec<Fate> = plan.steps.iter().map(|_| Fate::ToRun).collect();
        measure(plan, &before, still_open, &mut fate, &mut report);
        for (index, step) in plan.steps.iter().enumerate() {
            let asks: Vec<&Ask> = plan.asks.iter().filter(|ask| ask.steps.contains(&index)).collect();
            let all_deleted = !asks.is_empty() && asks.iter().all(|ask| deleted.contains(ask));
            if fate[index] == Fate::ToRun && all_deleted && step.operation.is_file() {
                fate[index] = Fate::KeptByServer;
                let error =
                    "kept: Ollama's server deleted the name and left this; it is offered by a sweep if nothing \
                             needs it"
                        .to_owned();
                report.failed.push(Failure { path: step.path(), error });
            }
        }
        for (index, step) in plan.steps.iter().enumerate() {
            if fate[index] == Fate::Gone {
                progress(&step.path(), 0);
            }
        }
        let rest = deletion::run_guarded(&remaining(plan, &fate), &mut guard, hook, still_open, progress, cancel);
        report.absorb(rest);
        report
    }

    /// What a deletion waits for at this moment, and for how long it has: a server that does not answer.
    #[must_use]
    pub fn waits(&self) -> Option<(String, Duration)> {
        self.ollama.as_ref()?.waits()
    }

    fn ask_server(&self, plan: &Plan, ask: &Ask, cancel: &CancellationToken) -> Result<(), String> {
        let server = self.ollama.as_ref().ok_or("no server is known")?;
        let named: Vec<&Step> = ask.names.iter().filter_map(|index| plan.steps.get(*index)).collect();
        if named.is_empty() || !named.iter().all(|step| is_there(step)) {
            return Err("its name has changed since it was looked at".to_owned());
        }
        // A store may have got another server since the plan was made.
        let same = server.of(&named[0].root).is_some_and(|serving| serving.address == ask.server);
        if !same {
            return Err("its server does not answer any more".to_owned());
        }
        server.delete(&ask.server, &ask.name, cancel)?;
        if named.iter().any(|step| is_there(step)) {
            return Err("Ollama's server says that it is deleted, and its name is still there".to_owned());
        }
        Ok(())
    }

    fn look_before(&self, plan: &Plan) -> Vec<Before> {
        let asked = |index: usize| plan.asks.iter().any(|ask| ask.steps.contains(&index));
        let steps = plan.steps.iter().enumerate().filter(|(index, step)| asked(*index) && step.operation.is_file());
        steps
            .filter_map(|(index, step)| {
                let status = fs::symlink_metadata(step.path()).ok()?;
                let inode = Inode { device: status.dev(), inode: status.ino() };
                let disk_bytes = if status.is_file() { status.blocks() * 512 } else { 0 };
                (inode == step.target).then_some(Before { step: index, inode, links: status.nlink(), disk_bytes })
            })
            .collect()
    }
}

/// What is to become of a step after the servers were asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Gone,
    KeptByServer,
    ToRun,
}

fn is_there(step: &Step) -> bool {
    fs::symlink_metadata(step.path())
        .is_ok_and(|status| Inode { device: status.dev(), inode: status.ino() } == step.target)
}

/// Notes what is gone, and what that has freed: the bytes of each file whose last name went.
fn measure(
    plan: &Plan,
    before: &[Before],
    still_open: &dyn Fn(Inode) -> bool,
    fate: &mut [Fate],
    report: &mut DeletionReport,
) {
    let mut names: BTreeMap<Inode, u64> = BTreeMap::new();
    for file in before {
        if is_there(&plan.steps[file.step]) {
            continue;
        }
        fate[file.step] = Fate::Gone;
        report.removed.push(plan.steps[file.step].path());
        let gone = names.entry(file.inode).or_default();
        *gone += 1;
        if *gone == file.links {
            report.freed_bytes += file.disk_bytes;
            if file.disk_bytes > 0 && still_open(file.inode) {
                report.held_bytes += file.disk_bytes;
            }
        }
    }
    for (index, step) in plan.steps.iter().enumerate() {
        let asked = plan.asks.iter().any(|ask| ask.steps.contains(&index));
        if asked && !step.operation.is_file() && fs::symlink_metadata(step.path()).is_err() {
            fate[index] = Fate::Gone;
            report.removed.push(step.path());
        }
    }
}

/// The steps that are left to run. What requires one that is gone has that behind it; what requires one that stays, stays.
fn remaining(plan: &Plan, fate: &[Fate]) -> Plan {
    let mut places: Vec<Option<usize>> = Vec::with_capacity(plan.steps.len());
    let mut rest = Plan { models: plan.models.clone(), ..Plan::default() };
    for (index, step) in plan.steps.iter().enumerate() {
        let runs = fate[index] == Fate::ToRun
            && step.requires.iter().all(|required| fate[*required] == Fate::Gone || places[*required].is_some());
        if !runs {
            places.push(None);
            continue;
        }
        places.push(Some(rest.steps.len()));
        let requires = step.requires.iter().filter_map(|required| places[*required]).collect();
        rest.steps.push(Step { requires, ..step.clone() });
    }
    rest
}
