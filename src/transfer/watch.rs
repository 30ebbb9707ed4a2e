//! Whether another program writes to the file that is being put together.

use std::fs::File;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Times of the last change to a file's bytes and to its entry, in seconds and nanoseconds.
type Stamp = [(i64, i64); 2];

/// Compares the file's times before each write with those after the write before: they differ when somebody else has
/// written. Two writes within one tick of the file system's clock look like one.
#[derive(Debug, Default)]
pub(super) struct Watch(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    last: Option<Stamp>,
    touched: bool,
}

impl Watch {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is there now is what belongs there.
    pub(super) fn begin(&self, file: &File) {
        *self.lock() = State { last: stamp(file), touched: false };
    }

    /// Writes to `file`, and notes whether somebody else has since the last time.
    pub(super) fn write<T>(&self, file: &File, write: impl FnOnce() -> T) -> T {
        let before = stamp(file);
        let written = write();
        let mut state = self.lock();
        state.touched |= before != state.last;
        state.last = stamp(file);
        written
    }

    /// Whether nobody else has written to the file so far.
    pub(super) fn is_untouched(&self, file: &File) -> bool {
        let state = self.lock();
        !state.touched && stamp(file) == state.last
    }
}

/// What the system knows without asking a server: over NFS the times would cost a round trip, and a flush.
#[cfg(target_os = "linux")]
fn stamp(file: &File) -> Option<Stamp> {
    use rustix::fs::{AtFlags, StatxFlags, statx};

    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let found = statx(file, c"", flags, StatxFlags::MTIME | StatxFlags::CTIME).ok()?;
    let time = |time: rustix::fs::StatxTimestamp| (time.tv_sec, i64::from(time.tv_nsec));
    Some([time(found.stx_mtime), time(found.stx_ctime)])
}

#[cfg(not(target_os = "linux"))]
fn stamp(file: &File) -> Option<Stamp> {
    use std::os::unix::fs::MetadataExt;

    let found = file.metadata().ok()?;
    Some([(found.mtime(), found.mtime_nsec()), (found.ctime(), found.ctime_nsec())])
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn somebody_elses_write_is_seen_also_between_two_of_ours() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("file");
        let file = File::create(&path).unwrap();
        let other = File::options().write(true).open(&path).unwrap();
        // Until the clock of the file system has gone on.
        let scribble = || {
            let (before, begun) = (stamp(&file), Instant::now());
            while stamp(&file) == before && begun.elapsed() < Duration::from_secs(60) {
                other.write_all_at(b"x", 0).unwrap();
            }
        };
        let watch = Watch::default();
        watch.begin(&file);
        for at in 0..100 {
            watch.write(&file, || file.write_all_at(b"abc", at * 3).unwrap());
        }
        assert!(watch.is_untouched(&file));
        scribble();
        assert!(!watch.is_untouched(&file));
        watch.write(&file, || file.write_all_at(b"abc", 0).unwrap());
        assert!(!watch.is_untouched(&file));
        watch.begin(&file);
        assert!(watch.is_untouched(&file));
    }
}
