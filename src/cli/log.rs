//! Where the program notes what it does. Tokens never get there: the types that hold them print nothing.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Mutex;

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
        Some(path) => match OpenOptions::new().append(true).create(true).mode(0o600).open(path) {
            Ok(file) => builder.with_writer(Mutex::new(file)).try_init(),
            Err(error) => return vec![format!("nothing is logged: {}", Error::io("open", path)(error))],
        },
        None if screen => return Vec::new(),
        None => builder.with_writer(io::stderr).try_init(),
    };
    begun.err().map(|error| format!("nothing is logged: {error}")).into_iter().collect()
}
