//! What every command works with: settings, stores, streams, signals.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::arguments::Global;
use super::exit::{Exit, Stop};
use super::log;
use super::output::Output;
use super::signals::Signals;
use crate::config::{ConverterSettings, Environment, Settings};
use crate::error::{Error, Result};
use crate::machine::{self, MemoryProbe};
use crate::model::memory::HostMemory;
use crate::model::selector::Selector;
use crate::provisioner::{Inventory, ModelProvisioner, PlanTarget};
use crate::store::remembered::Remembered;
use crate::transfer;

/// A command at work.
pub(super) struct Session {
    pub(super) settings: Settings,
    pub(super) provisioner: ModelProvisioner,
    pub(super) inventory: Inventory,
    pub(super) output: Output,
    /// `--store-path`, resolved as stores resolve their roots.
    pub(super) store_path: Option<PathBuf>,
    pub(super) cancel: CancellationToken,
    signals: Signals,
}

impl Session {
    pub(super) fn begin(global: &Global, environment: &Environment) -> std::result::Result<Self, Stop> {
        let settings =
            Settings::load_with(environment, &machine::hostname(), global.config.as_deref(), &global.overrides())?;
        let output = Output::new(settings.screen.color, environment);
        for warning in settings.warnings.iter().chain(&log::begin(global, false)) {
            output.say(&format!("llorch-models: {warning}"));
        }
        let (provisioner, inventory) = stores(&settings)?;
        for note in inventory.notes() {
            output.say(&format!("llorch-models: {note}"));
        }
        let store_path = global.store_path.as_deref().map(resolved);
        let cancel = CancellationToken::new();
        let signals = Signals::take(cancel.clone());
        Ok(Self { settings, provisioner, inventory, output, store_path, cancel, signals })
    }

    /// Runs `work` that may have things to put away, which stops when [`Self::cancel`] is cancelled; a signal does that and decides the exit code.
    pub(super) async fn guard<T>(&mut self, work: impl Future<Output = T>) -> (T, Option<Exit>) {
        self.signals.guard(true, work).await
    }

    /// Runs a question to the hub, which leaves nothing behind: a signal drops it at once.
    pub(super) async fn ask_hub<T>(
        &mut self,
        work: impl Future<Output = Result<T, Error>>,
    ) -> (Result<T, Error>, Option<Exit>) {
        let cancel = self.cancel.clone();
        self.look(async move {
            tokio::select! {
                biased;
                () = cancel.cancelled() => Err(Error::Cancelled),
                answer = work => answer,
            }
        })
        .await
    }

    /// Runs `work` that leaves nothing behind, which stops when [`Self::cancel`] is cancelled, or is left where it is.
    pub(super) async fn look<T>(&mut self, work: impl Future<Output = T>) -> (T, Option<Exit>) {
        self.signals.guard(false, work).await
    }

    /// Runs work that only looks at disks or asks a person on a thread that may block.
    pub(super) async fn blocking<T: Send + 'static>(
        &mut self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> std::result::Result<(T, Option<Exit>), Stop> {
        let (result, signal) = self.look(tokio::task::spawn_blocking(work)).await;
        match result {
            Ok(value) => Ok((value, signal)),
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => Err(Error::Cancelled.into()),
            },
        }
    }

    /// What the arguments name, all of it or nothing.
    pub(super) async fn find(&mut self, references: Vec<String>) -> std::result::Result<Found, Stop> {
        self.find_each(references, Inventory::find).await
    }

    /// [`Self::find`] for what changes nothing.
    pub(super) async fn find_to_read(&mut self, references: Vec<String>) -> std::result::Result<Found, Stop> {
        self.find_each(references, Inventory::find_to_read).await
    }

    async fn find_each(
        &mut self,
        references: Vec<String>,
        find: fn(&Inventory, &Selector, Option<&Path>) -> Result<PlanTarget>,
    ) -> std::result::Result<Found, Stop> {
        let (inventory, store_path) = (self.inventory.clone(), self.store_path.clone());
        let provisioner = self.provisioner.clone();
        let (targets, signal) = self
            .blocking(move || {
                let mut targets: Vec<PlanTarget> = Vec::new();
                for reference in &references {
                    let reference = of_page(&provisioner, reference);
                    let target = find(&inventory, &Selector::parse(&reference)?, store_path.as_deref())?;
                    if !targets.contains(&target) {
                        targets.push(target);
                    }
                }
                Ok::<_, Error>(targets)
            })
            .await?;
        Ok(match signal {
            Some(exit) => Found::Signal(exit),
            None => Found::Targets(targets?),
        })
    }
}

/// A page of the hub as the reference that it names; everything else as it is.
pub(super) fn of_page(provisioner: &ModelProvisioner, text: &str) -> String {
    let page = text.trim_start().get(..4).is_some_and(|start| start.eq_ignore_ascii_case("http"));
    match provisioner.reference(text) {
        Ok(reference) if page => reference.to_string(),
        _ => text.to_owned(),
    }
}

/// The end of a search on disk.
pub(super) enum Found {
    /// In the order of the arguments, each once.
    Targets(Vec<PlanTarget>),
    /// A signal came first.
    Signal(Exit),
}

/// How downloads fetch, as settings say.
pub(super) fn transfer_options(settings: &Settings) -> transfer::Options {
    transfer::Options {
        connections: transfer::Connections::new(settings.connections),
        courtesy: settings.courtesy.then(|| transfer::Courtesy::of_session(settings.ssh_connection.as_deref())),
        ..transfer::Options::default()
    }
}

/// The provisioner and the stores that settings describe. Nothing is read or sent yet but the user's catalog.
pub(super) fn stores(settings: &Settings) -> Result<(ModelProvisioner, Inventory)> {
    let provisioner = ModelProvisioner::builder(settings.models_dir.clone())
        .hub_settings(&settings.hub)
        .hf_cache(&settings.paths.hf_hub_cache)
        .symlinks(settings.symlinks)
        .remembering(Remembered::in_file(settings.paths.verified()))
        .converter(ConverterSettings { supervisor: own_command(&["supervise", "--"]), ..settings.converter.clone() })
        .catalog_file(&settings.paths.config.join("catalog.toml"))?
        .build();
    let inventory = inventory(&provisioner, settings);
    Ok((provisioner, inventory))
}

/// What reads the memory of this host, through [`super::gpus`].
pub(super) fn memory_probe() -> MemoryProbe {
    MemoryProbe::default().asking_through(own_command(&["gpus"]))
}

/// Reads the memory of this host while something else is done. The thread is its own: one that is not waited for holds up
/// nothing. `None` where there can be no thread.
pub(super) fn memory_aside() -> Option<oneshot::Receiver<HostMemory>> {
    let (tell, told) = oneshot::channel();
    let look = move || {
        // Nobody may be waiting any more.
        let _ = tell.send(memory_probe().read());
    };
    std::thread::Builder::new().name("memory".to_owned()).spawn(look).ok().map(|_| told)
}

/// A command of this program.
fn own_command(words: &[&str]) -> Option<Vec<OsString>> {
    let program = machine::own_program()?;
    Some(std::iter::once(program.into()).chain(words.iter().map(OsString::from)).collect())
}

pub(super) fn inventory(provisioner: &ModelProvisioner, settings: &Settings) -> Inventory {
    Inventory::of_host(provisioner.store(), settings).remembering(provisioner.memory().clone())
}

fn resolved(path: &Path) -> PathBuf {
    std::fs::canonicalize(path).or_else(|_| std::path::absolute(path)).unwrap_or_else(|_| path.to_owned())
}
