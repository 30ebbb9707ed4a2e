//! `gpus`: asks NVIDIA's driver for the program itself, in a process that may hang or break.
//!
//! Each byte of standard input is a question, each line of standard output an answer. When standard input closes, the one
//! that asked is gone or has had enough, and this ends whatever the driver does.

use std::io::{Read, Write};

use rustix::process::{Resource, Rlimit, Signal, getpid, kill_process, setrlimit};

use super::exit::{Exit, Outcome, Stop};
use crate::machine::{GpuDriver, Roots};

/// Answers until nobody asks any more.
pub(super) fn run() -> Outcome {
    // What breaks in the library of another maker leaves no image of its memory in the folder of a person.
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    // What the library prints is no answer.
    let answers = rustix::io::dup(rustix::stdio::stdout()).map_err(cannot)?;
    rustix::stdio::dup2_stdout(rustix::stdio::stderr()).map_err(cannot)?;
    let mut answers = std::fs::File::from(answers);
    let (ask, asked) = std::sync::mpsc::channel();
    std::thread::Builder::new()
        .name("questions".to_owned())
        .spawn(move || {
            let mut byte = [0; 1];
            while matches!(std::io::stdin().read(&mut byte), Ok(1..)) && ask.send(()).is_ok() {}
            // The ordinary end waits for locks that a library which hangs holds.
            let _ = kill_process(getpid(), Signal::KILL);
        })
        .map_err(cannot)?;
    let mut driver = GpuDriver::new(&Roots::default());
    while asked.recv().is_ok() {
        let line = driver.answer().map_err(anyhow::Error::new).map_err(Stop::Error)?;
        answers.write_all(format!("{line}\n").as_bytes()).map_err(cannot)?;
    }
    Ok(Exit::Done)
}

fn cannot(error: impl Into<std::io::Error>) -> Stop {
    Stop::Error(anyhow::Error::new(error.into()).context("the driver cannot be asked"))
}
