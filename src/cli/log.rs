//! Where the program notes what it does. Tokens never get there: the types that hold them print nothing.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Mutex;

use rustix::fs::OFlags;
use rustix::io::Errno;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt;

use super::arguments::Global;
use crate::error::Error;

/// Begins to note: into `--log-file`; with `-vv` and no file on standard error, unless a screen is drawn there. Gives what a
/// person should know; a log that cannot be written keeps nothing from working.
pub(super) fn begin(global: &Global, screen: bool) -> Vec<String> {
    let level = match (global.verbose, global.log_file.is_some()) {
        (0, true) => "rbee_hive=info",
        (1, true) => "rbee_hive=debug",
        (_, true) => "rbee_hive=trace",
        (0 | 1, false) => return Vec::new(),
        (2, false) => "rbee_hive=debug",
        (_, false) => "rbee_hive=trace",
    };
    let builder = fmt().with_env_filter(EnvFilter::new(level)).with_ansi(false);
    let begun = match &global.log_file {
        Some(path) => match open(path) {
            Ok(file) => builder.with_writer(Mutex::new(file)).try_init(),
            Err(error) => return vec![format!("nothing is logged: {}", Error::io("open", path)(error))],
        },
        None if screen => return Vec::new(),
        None => builder.with_writer(io::stderr).try_init(),
    };
    begun.err().map(|error| format!("nothing is logged: {error}")).into_iter().collect()
}

/// Opened without waiting: a pipe that nobody reads would keep the program from beginning.
fn open(path: &Path) -> io::Result<File> {
    let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed();
    OpenOptions::new().append(true).create(true).mode(0o600).custom_flags(flags).open(path).map_err(|error| match error
        .raw_os_error()
    {
        Some(number) if number == Errno::NXIO.raw_os_error() => io::Error::other("nobody reads that pipe"),
        _ => error,
    })
}
