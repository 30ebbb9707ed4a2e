//! `supervise`: runs a program that must not outlive the one that started it.
//!
//! The one that started it holds the other end of standard input and never writes to it. When that closes, it is gone,
//! however it ended, and the whole process group goes with it. Signals are for the program, which is in the same group.

use std::ffi::OsString;
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::exit::{Exit, Stop};
use crate::model::text;

/// What ends the waiting.
enum End {
    /// The program did.
    Program(std::io::Result<ExitStatus>),
    /// The one that started this did.
    Starter,
}

/// Runs `program` with its arguments to its end, and ends in the same way.
pub(super) fn run(program: &[OsString]) -> Result<Exit, Stop> {
    let [name, arguments @ ..] = program else { return Err(Stop::Usage("supervise what?".to_owned())) };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(cannot)?;
    let end: Result<End, Stop> = runtime.block_on(async {
        // The program decides what it does about these; this stays to tell how it ended.
        let _held = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()].map(signal);
        let mut child = Command::new(name).args(arguments).stdin(Stdio::null()).spawn().map_err(|error| {
            let what = format!("{} cannot be started", text::printable(&name.to_string_lossy()));
            Stop::Error(anyhow::Error::new(error).context(what))
        })?;
        let (tell, mut told) = mpsc::channel(2);
        let starter = tell.clone();
        std::thread::Builder::new()
            .name("starter".to_owned())
            .spawn(move || {
                let mut nothing = [0; 64];
                while matches!(std::io::stdin().read(&mut nothing), Ok(1..)) {}
                let _ = starter.blocking_send(End::Starter);
            })
            .map_err(cannot)?;
        std::thread::Builder::new()
            .name("program".to_owned())
            .spawn(move || {
                let _ = tell.blocking_send(End::Program(child.wait()));
            })
            .map_err(cannot)?;
        Ok(told.recv().await.unwrap_or(End::Starter))
    });
    runtime.shutdown_background();
    match end? {
        End::Starter => {
            // This process is one of the group.
            let _ = kill_process_group(rustix::process::getpgrp(), Signal::KILL);
            Ok(Exit::Failed)
        }
        End::Program(status) => Ok(as_it_ended(status.map_err(cannot)?)),
    }
}

/// The exit code of the program; ended by a signal, this ends by the same one, as far as that ends it.
fn as_it_ended(status: ExitStatus) -> Exit {
    if let Some(number) = status.signal() {
        if let (Some(signal), Some(own)) =
            (Signal::from_named_raw(number), Pid::from_raw(i32::try_from(std::process::id()).unwrap_or(0)))
        {
            let _ = kill_process(own, signal);
        }
        return Exit::Signal(u8::try_from(number).unwrap_or(u8::MAX));
    }
    Exit::Other(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}

fn cannot(error: std::io::Error) -> Stop {
    Stop::Error(anyhow::Error::new(error).context("the converter cannot be started"))
}
