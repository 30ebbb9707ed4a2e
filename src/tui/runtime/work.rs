//! Effects at work: questions to the disk on threads of their own, to the hub on tasks, and to the queue.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;

use super::lane::Lane;
use super::offer;
use super::rows::Rows;
use super::start::stores_of;
use crate::disk::space;
use crate::error::{Error, Result};
use crate::hub::SearchQuery;
use crate::jobs::{self, JobSpec, Jobs};
use crate::machine::{MemoryProbe, Mounts};
use crate::provisioner::{Bounds, Inventory, ModelProvisioner};
use crate::store::Row;
use crate::store::Store as _;
use crate::store::remote::RemoteRow;
use crate::tui::effect::Effect;
use crate::tui::msg::{FileSystem, Generation, Msg, Stores};

/// Hits that a search asks for.
const HITS: usize = 50;

/// Kinds of blocking requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Look,
    Holders,
    Details,
    Plan,
    Sweep,
    Host,
    Stores,
    Memory,
}

/// What comes back from threads and tasks.
pub(super) enum Reply {
    Msg(Msg),
    Ended(Kind, u64),
}

/// Performs effects.
pub(super) struct Work {
    pub(super) jobs: Arc<dyn Jobs>,
    inventory: Inventory,
    provisioner: ModelProvisioner,
    /// The queue on disk, which another process may keep.
    queue_file: PathBuf,
    pub(super) multiplexer: bool,
    memory: MemoryProbe,
    lanes: BTreeMap<Kind, Lane>,
    pub(super) rows: Arc<Rows>,
    scan: Option<CancellationToken>,
    asking: Option<AbortHandle>,
    sender: mpsc::Sender<Reply>,
    pub(super) replies: mpsc::Receiver<Reply>,
}

impl Drop for Work {
    fn drop(&mut self) {
        if let Some(scan) = self.scan.take() {
            scan.cancel();
        }
        if let Some(asking) = self.asking.take() {
            asking.abort();
        }
    }
}

impl Work {
    pub(super) fn new(
        jobs: Arc<dyn Jobs>,
        inventory: Inventory,
        provisioner: ModelProvisioner,
        memory: MemoryProbe,
        queue_file: PathBuf,
        multiplexer: bool,
    ) -> Self {
        let (sender, replies) = mpsc::channel(64);
        Self {
            jobs,
            inventory,
            provisioner,
            queue_file,
            multiplexer,
            memory,
            lanes: BTreeMap::new(),
            rows: Arc::default(),
            scan: None,
            asking: None,
            sender,
            replies,
        }
    }

    /// Starts an effect; gives the message of one that is done at once.
    pub(super) fn perform(&mut self, effect: Effect) -> Option<Msg> {
        match effect {
            Effect::Scan(generation) => {
                // Beside the scan: what changes while it runs is seen by the next look.
                self.look(generation);
                self.scan(generation)
            }
            Effect::Look(generation) => {
                self.look(generation);
                None
            }
            Effect::AllUsers(generation, all) => {
                let inventory = self.inventory.clone();
                self.block(Kind::Stores, move || {
                    inventory.set_all_users(all);
                    let (stores, notes) = (stores_of(&inventory), inventory.notes());
                    Msg::Stores(generation, Stores { stores, all_users: inventory.has_all_users(), notes })
                });
                None
            }
            Effect::FindHolders(generation, rows) => {
                let inventory = self.inventory.clone();
                self.block(Kind::Holders, move || {
                    let mut rows: Vec<Row> = rows.iter().map(|row| row.as_ref().clone()).collect();
                    inventory.look_for_holders(&mut rows);
                    let held = rows.into_iter().filter_map(|row| Some((row.model.identity, row.model.in_use_by?)));
                    Msg::Holders(generation, held.collect())
                });
                None
            }
            Effect::Details(generation, model) => {
                let inventory = self.inventory.clone();
                self.block(Kind::Details, move || {
                    Msg::Details(generation, guarded(|| inventory.details(&model)).map(Box::new))
                });
                None
            }
            Effect::Plan(generation, targets) => {
                let inventory = self.inventory.clone();
                self.block(Kind::Plan, move || {
                    Msg::Planned(generation, guarded(|| inventory.plan_deletion(&targets)).map(Box::new))
                });
                None
            }
            Effect::Sweep(generation, downloads) => {
                let (inventory, provisioner) = (self.inventory.clone(), self.provisioner.clone());
                let queue_file = self.queue_file.clone();
                self.block(Kind::Sweep, move || {
                    let look = || {
                        let now = Timestamp::now();
                        let context = jobs::sweep_context(&provisioner, Some(&queue_file), &downloads, now);
                        Ok(Box::new(inventory.sweep(&context, &CancellationToken::new())))
                    };
                    Msg::Swept(generation, guarded(look))
                });
                None
            }
            Effect::ReadHost(generation, folders) => {
                self.block(Kind::Host, move || Msg::Host(generation, file_systems(&folders)));
                None
            }
            Effect::ReadMemory => {
                let probe = self.memory.clone();
                self.block(Kind::Memory, move || Msg::Memory(Box::new(probe.read())));
                None
            }
            Effect::List(generation, reference) => {
                let provisioner = self.provisioner.clone();
                self.ask(async move {
                    let listed = provisioner.remote_files(&reference).await;
                    let result = listed.map_err(|error| error.to_string()).map(|remote| {
                        let folder = provisioner.base_dir();
                        let available = space::space(folder).ok().map(|space| space.available);
                        let mut offer = offer::offer(&reference, &remote, folder, available, &provisioner.endpoint());
                        if let Ok(cache) = provisioner.hf_store() {
                            let free = space::space(cache.root()).ok().map(|space| space.available);
                            offer.cache = Some((cache.root().to_owned(), free));
                        }
                        Box::new(offer)
                    });
                    Msg::Listed(generation, result)
                });
                None
            }
            Effect::Header(generation, header) => {
                let (provisioner, sender) = (self.provisioner.clone(), self.sender.clone());
                self.ask(async move {
                    // Where nobody takes it in time, the next one tells more.
                    let told = |row: &Arc<RemoteRow>| {
                        drop(sender.try_send(Reply::Msg(Msg::Header(generation, Ok(Arc::clone(row))))));
                    };
                    let row = provisioner.remote_row(&header, &Bounds::LOOK, told).await;
                    Msg::Header(generation, row.map_err(|error| error.to_string()))
                });
                None
            }
            Effect::Search(generation, text) => {
                let provisioner = self.provisioner.clone();
                self.ask(async move {
                    let found = provisioner.search(&SearchQuery { text, limit: HITS }).await;
                    Msg::Found(generation, found.map_err(|error| error.to_string()))
                });
                None
            }
            Effect::StopAsking => {
                if let Some(asking) = self.asking.take() {
                    asking.abort();
                }
                None
            }
            Effect::Submit(spec) => {
                let deletes = matches!(*spec, JobSpec::Delete { .. } | JobSpec::Sweep { .. });
                let what = match spec.as_ref() {
                    JobSpec::Download(_) => spec.subject(),
                    spec => format!("{} {}", spec.kind(), spec.subject()),
                };
                match self.jobs.submit(*spec) {
                    // What it freed is told soon enough.
                    Ok(_) if deletes => None,
                    Ok(_) => Some(Msg::Submitted(what)),
                    Err(error) => Some(Msg::Refused(error.to_string())),
                }
            }
            Effect::Control(job, control) => self.jobs.control(job, control).err().map(|error| match error {
                Error::Job { reason, .. } => Msg::Unchanged(job, reason),
                error => Msg::Refused(error.to_string()),
            }),
            Effect::ClearEnded => {
                self.jobs.clear();
                None
            }
            Effect::Limit(limit) => {
                self.jobs.set_limit(limit);
                None
            }
            // The terminal's own effects are performed where frames are.
            Effect::Copy(_) | Effect::Bell | Effect::Redraw | Effect::Suspend => None,
        }
    }

    /// What a reply says, if it is more than that a thread is free again.
    pub(super) fn took(&mut self, reply: Reply) -> Option<Msg> {
        match reply {
            Reply::Msg(msg) => Some(msg),
            Reply::Ended(kind, number) => {
                let done = self.done(kind);
                self.lanes.entry(kind).or_default().ended(number, done);
                None
            }
        }
    }

    fn done(&self, kind: Kind) -> impl Fn(u64) + Send + 'static {
        let sender = self.sender.clone();
        move |number| {
            let _ = sender.blocking_send(Reply::Ended(kind, number));
        }
    }

    /// Runs a blocking request on a thread of its own kind. The threads are not tokio's: one that hangs on a dead disk must
    /// not keep the program from ending.
    fn block(&mut self, kind: Kind, work: impl FnOnce() -> Msg + Send + 'static) {
        let sender = self.sender.clone();
        let done = self.done(kind);
        let work = Box::new(move || {
            let msg = catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
                Msg::Trouble("something broke while the disk was read; the log says where".to_owned())
            });
            let _ = sender.blocking_send(Reply::Msg(msg));
        });
        self.lanes.entry(kind).or_default().submit(work, done);
    }

    /// Asks the hub; a question that runs is dropped.
    fn ask(&mut self, question: impl Future<Output = Msg> + Send + 'static) {
        let sender = self.sender.clone();
        let task = tokio::spawn(async move {
            let msg = question.await;
            let _ = sender.send(Reply::Msg(msg)).await;
        });
        if let Some(before) = self.asking.replace(task.abort_handle()) {
            before.abort();
        }
    }

    fn look(&mut self, generation: Generation) {
        let inventory = self.inventory.clone();
        self.block(Kind::Look, move || Msg::Looked(generation, inventory.fingerprint()));
    }

    fn scan(&mut self, generation: Generation) -> Option<Msg> {
        let cancel = CancellationToken::new();
        if let Some(before) = self.scan.replace(cancel.clone()) {
            before.cancel();
        }
        self.rows.begin(generation);
        let (rows, inventory) = (Arc::clone(&self.rows), self.inventory.clone());
        let sender = self.sender.clone();
        let body = move || {
            let scan = || inventory.scan_at_a_glance_first(&|event| rows.add(generation, event), &cancel);
            if catch_unwind(AssertUnwindSafe(scan)).is_err() {
                let line = "something broke while the stores were scanned; the log says where".to_owned();
                let _ = sender.blocking_send(Reply::Msg(Msg::Trouble(line)));
            }
            rows.end(generation);
        };
        let spawned = std::thread::Builder::new().name("scan".to_owned()).spawn(body);
        spawned.err().map(|error| Msg::Trouble(format!("no thread to scan with: {error}")))
    }
}

/// The result of work whose panic is a failure like any other.
fn guarded<T>(work: impl FnOnce() -> Result<T>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work))
        .map_err(|_| "something broke while this was read; the log says where".to_owned())?
        .map_err(|error| error.to_string())
}

/// The file systems of `folders`, each once, in the order of the folders.
fn file_systems(folders: &[PathBuf]) -> Vec<FileSystem> {
    let mounts = Mounts::read();
    let mut found: Vec<FileSystem> = Vec::new();
    for folder in folders {
        let Ok(space) = space::space(folder) else { continue };
        let mount = mounts.of(folder).map_or_else(|| folder.clone(), |mount| mount.path.clone());
        if !found.iter().any(|known| known.mount == mount) {
            found.push(FileSystem { mount, total: space.total, available: space.available });
        }
    }
    found
}
