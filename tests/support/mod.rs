//! What several test files share.
#![allow(dead_code, unreachable_pub, missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub mod hf_cache;
pub mod host;
#[cfg(feature = "mirror")]
pub mod hub;
pub mod official;
#[cfg(all(feature = "cli", feature = "tui"))]
pub mod program;
#[cfg(feature = "tui")]
pub mod pty;
pub mod stores;

use std::time::{Duration, Instant};

/// Looks again and again until `is_so`; fails when it takes longer than `limit`.
pub fn until(what: &str, limit: Duration, mut is_so: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < limit, "waited {limit:?} in vain until {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Waits until what is changed now has another time than what was changed before: the clock of a file system may tick as
/// slowly as a hundred times a second.
pub fn tick() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let stamp = || {
        std::fs::write(file.path(), b"x").unwrap();
        file.path().metadata().unwrap().modified().unwrap()
    };
    let before = stamp();
    until("the clock of the file system goes on", Duration::from_secs(60), || stamp() != before);
}
