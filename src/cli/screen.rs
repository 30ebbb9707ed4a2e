//! The screen, on the stores and the queue of this host.

use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::time::Duration;

use super::arguments::Global;
use super::exit::{Exit, Outcome, Stop};
use super::{conclude, log, runtime, session};
use crate::config::{Environment, Settings, When};
use crate::jobs::{LocalJobs, LocalJobsOptions};
use crate::machine;
use crate::provisioner::{Inventory, ModelProvisioner};
use crate::transfer;
use crate::tui::{self, ColorMode, Surroundings};

/// How long partials and the queue may take to be put away after a person quit.
const PUT_AWAY: Duration = Duration::from_secs(10);
/// The same after a signal or the end of the terminal: the login that this belongs to is over.
const PUT_AWAY_AT_ONCE: Duration = Duration::from_millis(1500);

/// Shows the screen until a person quits.
#[must_use]
pub fn open(global: &Global) -> Exit {
    let environment = Environment::of_process();
    if let Some(exit) = without_terminal(&environment) {
        return exit;
    }
    conclude(on_this_host(global, &environment), global.verbose)
}

/// The hint and the exit code where no screen can be drawn.
pub(super) fn without_terminal(environment: &Environment) -> Option<Exit> {
    let why = if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
        "the screen needs a terminal, and this is none"
    } else if environment.text("TERM") == Some("dumb") {
        "the screen needs a terminal that can move its cursor, and TERM is dumb"
    } else {
        return None;
    };
    use std::io::Write;
    let _ = writeln!(
        io::stderr().lock(),
        "llorch-models: {why}; `llorch-models list` shows the models, `llorch-models --help` all commands"
    );
    Some(Exit::NoTerminal)
}

fn on_this_host(global: &Global, environment: &Environment) -> Outcome {
    let settings =
        Settings::load_with(environment, &machine::hostname(), global.config.as_deref(), &global.overrides())?;
    let mut notices = settings.warnings.clone();
    notices.extend(log::begin(global, true));
    let (provisioner, inventory) = session::stores(&settings)?;
    let runtime = runtime()?;
    let queue_file = settings.paths.state.join("queue.json");
    let deletion_log = settings.paths.state.join("deletions.jsonl");
    let exit = runtime.block_on(show(
        settings,
        environment,
        provisioner,
        inventory,
        |settings| LocalJobsOptions {
            downloads: settings.downloads,
            limit: settings.limit,
            queue_file: Some(queue_file),
            deletion_log: Some(deletion_log),
            transfer: patient(settings),
        },
        notices,
    ));
    runtime.shutdown_timeout(Duration::from_millis(200));
    exit
}

/// A queue does not give up: it waits, and says for what.
pub(super) fn patient(settings: &Settings) -> transfer::Options {
    transfer::Options { first_byte: None, patience: None, ..session::transfer_options(settings) }
}

/// Draws the screen on a worker of its own, and puts that away afterwards.
pub(super) async fn show(
    settings: Settings,
    environment: &Environment,
    provisioner: ModelProvisioner,
    inventory: Inventory,
    options: impl FnOnce(&Settings) -> LocalJobsOptions,
    notices: Vec<String>,
) -> Outcome {
    let options = options(&settings);
    let fleeting = options.queue_file.is_none();
    let jobs = LocalJobs::start(provisioner.clone(), inventory.clone(), options);
    let color = match settings.screen.color {
        When::Auto => ColorMode::Auto,
        When::Always => ColorMode::Always,
        When::Never => ColorMode::Never,
    };
    let ascii = settings.screen.ascii;
    let shown = tui::run(tui::Options {
        settings,
        provisioner,
        inventory,
        jobs: Arc::new(jobs.clone()),
        memory: session::memory_probe(),
        surroundings: Surroundings::new(environment),
        ascii,
        color,
        notice: (!notices.is_empty()).then(|| notices.join("; ")),
        fleeting,
    })
    .await;
    let patience = if matches!(shown, Ok(tui::Exit::Quit)) { PUT_AWAY } else { PUT_AWAY_AT_ONCE };
    if tokio::time::timeout(patience, jobs.shut_down()).await.is_err() {
        tracing::warn!("the jobs did not end in {} s; their partials continue from the last sync", patience.as_secs());
    }
    match shown.map_err(Stop::Error)? {
        tui::Exit::Quit => Ok(Exit::Done),
        tui::Exit::Signal(number) => Ok(Exit::Signal(u8::try_from(number).unwrap_or(u8::MAX))),
    }
}
