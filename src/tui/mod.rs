//! The screen: a loop over facts, as in Elm.
//!
//! A fact ([`msg::Msg`]) goes into [`update::update`], which changes the state and returns work to start
//! ([`effect::Effect`]); the runtime performs it and answers with facts; [`view::draw`] turns the state into cells. A key is
//! a fact too: the keymap says which [`action::Action`] it means where it was pressed.

pub mod action;
pub mod effect;
pub mod input;
pub mod keymap;
mod leave;
pub mod msg;
mod result;
mod runtime;
pub mod screen;
mod signals;
pub mod state;
pub mod terminal;
pub mod text;
pub mod theme;
pub mod update;
pub mod view;

use std::io::IsTerminal;
use std::sync::Arc;

use crate::config::{Environment, Settings};
use crate::jobs::Jobs;
use crate::machine::MemoryProbe;
use crate::provisioner::{Inventory, ModelProvisioner};

/// Whether colours are used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ColorMode {
    /// As the surroundings say: none with `NO_COLOR`, more than sixteen with `COLORTERM`.
    #[default]
    Auto,
    /// Colours whatever `NO_COLOR` says.
    Always,
    /// No colours: bold, reverse and words carry everything.
    Never,
}

/// What the environment tells about the terminal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// `NO_COLOR` is set.
    pub no_color: bool,
    /// `COLORTERM` promises 24-bit colour.
    pub true_color: bool,
    /// The locale is UTF-8 and its line-drawing characters are one column wide.
    pub unicode: bool,
    /// The terminal is at the other end of an SSH connection: progress is drawn half as often.
    pub remote: bool,
    /// tmux or screen lie between: a copied path has to be wrapped for them.
    pub multiplexer: bool,
}

impl Surroundings {
    /// Reads `NO_COLOR`, `COLORTERM`, `LC_ALL`, `LC_CTYPE`, `LANG`, `SSH_CONNECTION` and `TMUX`.
    #[must_use]
    pub fn new(environment: &Environment) -> Self {
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"].iter().find_map(|name| environment.text(name)).unwrap_or_default();
        let lower = locale.to_ascii_lowercase();
        let utf8 = lower.contains("utf-8") || lower.contains("utf8");
        // Line-drawing characters are of ambiguous width there: some terminals draw them two columns wide.
        let ambiguous = ["zh", "ja", "ko"].iter().any(|language| lower.starts_with(language));
        Self {
            no_color: environment.raw("NO_COLOR").is_some_and(|value| !value.is_empty()),
            true_color: environment.text("COLORTERM").is_some_and(|value| matches!(value, "truecolor" | "24bit")),
            unicode: utf8 && !ambiguous,
            remote: environment.raw("SSH_CONNECTION").is_some(),
            multiplexer: environment.raw("TMUX").is_some(),
        }
    }
}

/// What the screen works with.
pub struct Options {
    /// The settings.
    pub settings: Settings,
    /// Resolves references and finds models on the hub.
    pub provisioner: ModelProvisioner,
    /// The stores of this host.
    pub inventory: Inventory,
    /// The queue.
    pub jobs: Arc<dyn Jobs>,
    /// Reads the memory of this host.
    pub memory: MemoryProbe,
    /// What the environment tells about the terminal.
    pub surroundings: Surroundings,
    /// Borders and marks in ASCII whatever the locale.
    pub ascii: bool,
    /// Whether colours are used.
    pub color: ColorMode,
    /// A line for the start: that the queue file cannot be written, that this is a demo.
    pub notice: Option<String>,
    /// Whether the queue is not kept for the next start, as in a demonstration: the question before quitting says so.
    pub fleeting: bool,
}

/// How the screen ended. The terminal is restored by then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// A person quit.
    Quit,
    /// A signal asked for it; its number.
    Signal(i32),
}

impl Exit {
    /// The exit code: 0, or 128 and the signal's number.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Quit => 0,
            Self::Signal(number) => u8::try_from(128 + number).unwrap_or(u8::MAX),
        }
    }
}

/// Shows the screen until a person quits or a signal ends it. Call it on a tokio runtime with time and I/O. The jobs go on
/// meanwhile and are not shut down here: that is the caller's, after the terminal is restored.
///
/// # Errors
/// When standard input and output are no terminal, or the terminal cannot be set up.
pub async fn run(options: Options) -> anyhow::Result<Exit> {
    if !std::io::stdin().is_terminal() || !std::io::stdout().is_terminal() {
        anyhow::bail!("the screen needs a terminal; `llorch-models list` shows the models without one");
    }
    runtime::run(options).await
}
