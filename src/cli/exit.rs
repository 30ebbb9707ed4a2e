//! How a command ends.

use std::io;

use crate::error::Error;

/// The exit codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Done.
    Done,
    /// The operation failed.
    Failed,
    /// The command was not used as it can be.
    Usage,
    /// A terminal is needed and there is none.
    NoTerminal,
    /// Ended by the signal of that number.
    Signal(u8),
    /// As another program has ended, for which this one only waited.
    Other(u8),
}

impl Exit {
    /// The number for the shell.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::NoTerminal => 64,
            Self::Signal(number) => number.saturating_add(128),
            Self::Other(code) => code,
        }
    }
}

/// Why a command did not get to its end.
#[derive(Debug)]
pub(super) enum Stop {
    /// It failed; the line is still to be said.
    Error(anyhow::Error),
    /// It was not used as it can be.
    Usage(String),
    /// Whoever read the output has enough. No error.
    Closed,
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Error(error.into())
    }
}

impl From<anyhow::Error> for Stop {
    fn from(error: anyhow::Error) -> Self {
        Self::Error(error)
    }
}

impl Stop {
    /// A failure to write to standard output.
    pub(super) fn output(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            Self::Closed
        } else {
            Self::Error(anyhow::Error::new(error).context("cannot write to standard output"))
        }
    }
}

/// What a command comes to.
pub(super) type Outcome = Result<Exit, Stop>;
