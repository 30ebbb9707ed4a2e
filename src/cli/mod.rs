//! The commands: one file each, their arguments, their output, their exit codes.

mod arguments;
mod catalog;
mod completions;
mod delete;
#[cfg(feature = "tui")]
mod demo;
mod disk_usage;
mod download;
mod exit;
mod follow;
mod gpus;
mod info;
mod list;
mod log;
mod output;
mod removal;
mod scan;
#[cfg(feature = "tui")]
mod screen;
mod search;
mod session;
mod signals;
mod supervise;
mod sweep;
mod updates;
mod verify;

use std::time::Duration;

use tokio::runtime::{Builder, Runtime};

pub use arguments::{Arguments, Command, Global, parse};
pub use exit::Exit;
#[cfg(feature = "tui")]
pub use screen::open as open_screen;

use self::exit::{Outcome, Stop};
use self::output::Output;
use self::session::Session;
use crate::config::Environment;

/// Runs a command to its end and says what went wrong, if anything did. Without a command there is nothing to run.
#[must_use]
pub fn run(command: Command, global: &Global) -> Exit {
    let environment = Environment::of_process();
    let result = dispatch(command, global, &environment);
    conclude(result, global.verbose)
}

fn dispatch(command: Command, global: &Global, environment: &Environment) -> Outcome {
    // Needs no settings, and so works whatever is wrong with them.
    if let Command::Completions { shell } = command {
        return completions::run(shell, &Output::new(crate::config::When::Never, environment));
    }
    if let Command::Supervise { program } = command {
        return supervise::run(&program);
    }
    if let Command::Gpus = command {
        return gpus::run();
    }
    if let Command::Demo = command {
        return demo(global, environment);
    }
    let runtime = runtime()?;
    let result = runtime.block_on(async {
        let mut session = Session::begin(global, environment)?;
        match command {
            Command::List(arguments) => list::run(&mut session, arguments).await,
            Command::Download(arguments) => download::run(&mut session, arguments).await,
            Command::Convert(arguments) => download::convert(&mut session, arguments).await,
            Command::Info(arguments) => info::run(&mut session, arguments).await,
            Command::Verify(arguments) => verify::run(&mut session, arguments).await,
            Command::Delete(arguments) => delete::run(&mut session, arguments).await,
            Command::Sweep(arguments) => sweep::run(&mut session, arguments).await,
            Command::DiskUsage(arguments) => disk_usage::run(&mut session, arguments).await,
            Command::Catalog(arguments) => catalog::run(&mut session, arguments).await,
            Command::Search(arguments) => search::run(&mut session, arguments).await,
            Command::Updates(arguments) => updates::run(&mut session, arguments).await,
            Command::Completions { .. } | Command::Supervise { .. } | Command::Gpus | Command::Demo => Ok(Exit::Usage),
        }
    });
    // A thread that waits for a disk that does not answer must not keep the program.
    runtime.shutdown_timeout(Duration::from_millis(500));
    result
}

#[cfg(feature = "tui")]
fn demo(global: &Global, environment: &Environment) -> Outcome {
    demo::run(global, environment)
}

#[cfg(not(feature = "tui"))]
fn demo(_global: &Global, _environment: &Environment) -> Outcome {
    Err(Stop::Usage("this build has no screen, and the demo needs it".to_owned()))
}

/// Two threads: one that reads and hashes a download, one for the rest.
fn runtime() -> Result<Runtime, Stop> {
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.map_err(|error| Stop::Error(anyhow::Error::new(error).context("cannot start")))
}

/// Says why a command stopped, in one line (with `-v` the chain of causes), and gives the exit code.
fn conclude(result: Outcome, verbose: u8) -> Exit {
    let say = |line: &str| {
        use std::io::Write;
        let _ = writeln!(std::io::stderr().lock(), "llorch-models: {line}");
    };
    match result {
        Ok(exit) => exit,
        Err(Stop::Closed) => Exit::Done,
        Err(Stop::Usage(line)) => {
            say(&line);
            Exit::Usage
        }
        Err(Stop::Error(error)) => {
            say(&one_line(&error, verbose));
            Exit::Failed
        }
    }
}

fn one_line(error: &anyhow::Error, verbose: u8) -> String {
    let mut line = String::new();
    for (depth, cause) in error.chain().enumerate() {
        let text = match cause.downcast_ref::<std::io::Error>() {
            Some(error) => crate::error::io_reason(error),
            None => cause.to_string(),
        };
        let text = text.replace(['\n', '\r'], " ");
        // A library error has its cause in its line already; the program's own contexts do not.
        let library = cause.downcast_ref::<crate::Error>();
        let own = library.is_some();
        if depth == 0 {
            line.push_str(&text);
            // What is looked for in the catalog has its way out in the message already.
            if matches!(library, Some(crate::Error::ModelNotFound { place, .. }) if !place.contains(';')) {
                line.push_str("; `llorch-models list` shows what is here");
            }
        } else if verbose > 0 {
            line.push_str(&format!("\n  because: {text}"));
        } else if !line.contains(&text) {
            line.push_str(&format!(": {text}"));
        }
        if own && verbose == 0 {
            break;
        }
    }
    line
}
