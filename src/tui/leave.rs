//! Ends the process when nobody can be asked any more.
//!
//! A front end is the one place where that is right: its terminal is its only reason to run, and a process that lives
//! on without one has been seen at full speed for days. What downloads have on disk is safe at any moment.

use std::io::PipeReader;
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{Signal, getpid, kill_process};

use super::terminal;

/// How long an orderly end may take.
const GRACE: Duration = Duration::from_secs(1);

/// The terminal is gone: nothing is written any more, and the exit code is that of a hang-up.
pub(crate) fn terminal_is_gone() -> ! {
    now(Signal::HUP.as_raw(), false)
}

/// Ends the process as signal number `signal` would; with `restore` after an attempt to restore the terminal.
pub(crate) fn now(signal: i32, restore: bool) -> ! {
    // Writing to a terminal that takes nothing, or an exit handler, could block for ever.
    let backstop = std::thread::Builder::new().name("backstop".to_owned()).spawn(|| {
        std::thread::sleep(GRACE);
        let _ = kill_process(getpid(), Signal::KILL);
    });
    if backstop.is_err() && !restore {
        let _ = kill_process(getpid(), Signal::KILL);
    }
    if restore {
        terminal::restore();
    }
    std::process::exit(128 + signal)
}

/// Waits until the terminal on standard input hangs up, and ends the process then. Returns when `stop` is closed. It costs
/// nothing while it waits, and works whatever is done with `SIGHUP` and however busy the rest of the program is.
pub(crate) fn watch(stop: &PipeReader) {
    let stdin = std::io::stdin();
    loop {
        let mut descriptors =
            [PollFd::new(&stdin, PollFlags::empty()), PollFd::from_borrowed_fd(stop.as_fd(), PollFlags::IN)];
        match poll(&mut descriptors, None) {
            Ok(_) if !descriptors[1].revents().is_empty() => return,
            Ok(_) if !descriptors[0].revents().is_empty() => terminal_is_gone(),
            Ok(_) | Err(Errno::INTR | Errno::AGAIN) => {}
            Err(_) => return,
        }
    }
}
