//! `demo`: the screen on a throwaway store with a hub on loopback.

use std::ffi::OsString;
use std::time::Duration;

use super::arguments::Global;
use super::exit::Outcome;
use super::{log, runtime, screen, session};
use crate::config::{Environment, Overrides, Settings};
use crate::jobs::LocalJobsOptions;
use crate::machine;
use crate::mirror::Demo;

/// What the demo takes over from the real environment: how the terminal is, nothing else.
const TERMINAL: [&str; 9] =
    ["TERM", "COLORTERM", "NO_COLOR", "LC_ALL", "LC_CTYPE", "LANG", "SSH_CONNECTION", "TMUX", "USER"];

/// Nothing of it touches the models, the settings or the queue of the person who looks at it.
pub(super) fn run(global: &Global, environment: &Environment) -> Outcome {
    if let Some(exit) = screen::without_terminal(environment) {
        return Ok(exit);
    }
    let mut notices = vec!["a demonstration: everything here is made up, and gone when you quit".to_owned()];
    notices.extend(log::begin(global, true));
    let runtime = runtime()?;
    let exit = runtime.block_on(async {
        let demo = Demo::start(&std::env::temp_dir()).await?;
        let made_up = [
            ("HOME", demo.home().into_os_string()),
            ("LLORCH_MODEL_BASE_DIR", demo.base_dir().into_os_string()),
            ("HF_ENDPOINT", OsString::from(demo.endpoint())),
        ];
        let terminal = TERMINAL.iter().filter_map(|name| Some((*name, environment.raw(name)?.to_owned())));
        let environment = Environment::from_pairs(terminal.chain(made_up));
        let overrides = Overrides { models_dir: None, endpoint: None, ..global.overrides() };
        let mut settings = Settings::load_with(&environment, &machine::hostname(), None, &overrides)?;
        // The stores of this host's services are real.
        settings.paths.system = demo.home();
        let (provisioner, inventory) = session::stores(&settings)?;
        let options = |settings: &Settings| LocalJobsOptions {
            downloads: settings.downloads,
            limit: settings.limit,
            queue_file: None,
            deletion_log: None,
            transfer: screen::patient(settings),
        };
        let exit = screen::show(settings, &environment, provisioner, inventory, options, notices).await;
        drop(demo);
        exit
    });
    runtime.shutdown_timeout(Duration::from_millis(200));
    exit
}
