//! Where output goes: data to standard output, everything for people to standard error.

pub(super) mod progress;
pub(super) mod table;

use std::io::{self, IsTerminal, Write};

use serde::Serialize;

use super::exit::Stop;
use crate::config::{Environment, When};

/// The two streams, and how they may be used. Writing never panics, whatever became of a stream.
#[derive(Clone, Debug)]
pub(super) struct Output {
    /// Whether standard output may have colours.
    pub(super) color: bool,
    /// Columns of standard output; none when it is no terminal: then nothing is cut.
    pub(super) width: Option<usize>,
    /// Whether standard error is a terminal: it gets bars.
    pub(super) bars: bool,
    /// Whether a person can answer a question: standard input and standard error are terminals.
    pub(super) answers: bool,
}

impl Output {
    pub(super) fn new(color: When, environment: &Environment) -> Self {
        let terminal = io::stdout().is_terminal();
        let plain = environment.text("NO_COLOR").is_some() || environment.text("TERM") == Some("dumb");
        let color = match color {
            When::Always => true,
            When::Never => false,
            When::Auto => terminal && !plain,
        };
        let width = terminal.then(|| rustix::termios::tcgetwinsize(io::stdout()).ok()).flatten();
        Self {
            color,
            width: width.map(|size| usize::from(size.ws_col)).filter(|columns| *columns > 0),
            bars: io::stderr().is_terminal() && environment.text("TERM") != Some("dumb"),
            answers: io::stdin().is_terminal() && io::stderr().is_terminal(),
        }
    }

    /// Writes data.
    pub(super) fn print(&self, text: &str) -> Result<(), Stop> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(Stop::output)
    }

    /// Writes one JSON value and a line break.
    pub(super) fn json(&self, value: &impl Serialize) -> Result<(), Stop> {
        // Piece by piece: the rows of a large cache are many megabytes.
        let mut stdout = io::BufWriter::with_capacity(64 * 1024, io::stdout().lock());
        serde_json::to_writer(&mut stdout, value).map_err(|error| match error.is_io() {
            true => Stop::output(error.into()),
            false => anyhow::Error::from(error).into(),
        })?;
        stdout.write_all(b"\n").and_then(|()| stdout.flush()).map_err(Stop::output)
    }

    /// Says a line to a person. Nobody there to hear it is no error.
    pub(super) fn say(&self, line: &str) {
        let _ = writeln!(io::stderr().lock(), "{line}");
    }

    /// Asks a person; anything but yes is no.
    pub(super) fn ask(&self, question: &str) -> bool {
        let mut stderr = io::stderr().lock();
        let _ = write!(stderr, "{question} [y/N] ").and_then(|()| stderr.flush());
        drop(stderr);
        let mut answer = String::new();
        let read = io::stdin().read_line(&mut answer);
        read.is_ok() && matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes")
    }
}
