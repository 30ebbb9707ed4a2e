//! How fast, and how many files at once, a verification reads.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::error::{Error, Result};
use crate::machine::{self, Mounts};

/// Files that are read at once from one file system with rotating disks: more of them only move the heads.
const ROTATING: usize = 2;

/// Files that are read at once from one file system of another machine.
const NETWORK: usize = 4;

/// Longest sleep between two looks at the cancellation.
const SLICE: Duration = Duration::from_millis(50);

/// Bytes per second over all threads.
#[derive(Debug)]
pub(super) struct Pace {
    limit: Option<u64>,
    /// When the bytes that were taken so far are due.
    due: Mutex<Instant>,
}

impl Pace {
    pub(super) fn new(limit: Option<u64>) -> Self {
        Self { limit: limit.filter(|limit| *limit > 0), due: Mutex::new(Instant::now()) }
    }

    /// Waits until `bytes` may be read.
    pub(super) fn take(&self, bytes: u64, cancel: &CancellationToken) -> Result<()> {
        let stop = || if cancel.is_cancelled() { Err(Error::Cancelled) } else { Ok(()) };
        let Some(limit) = self.limit else { return stop() };
        let nanoseconds = u128::from(bytes) * 1_000_000_000 / u128::from(limit);
        let cost = Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX));
        let mine = {
            let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
            // Time in which nothing was read is not made up for.
            let mine = (*due).max(Instant::now());
            *due = mine.checked_add(cost).unwrap_or(mine);
            mine
        };
        loop {
            stop()?;
            let left = mine.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            thread::sleep(left.min(SLICE));
        }
    }
}

/// How many files may be read at once from each file system.
#[derive(Debug)]
pub(super) struct Slots {
    /// What a person has set for every file system.
    set: Option<usize>,
    mounts: Option<Mounts>,
    known: BTreeMap<u64, usize>,
}

impl Slots {
    pub(super) fn new(set: Option<usize>) -> Self {
        Self { set, mounts: None, known: BTreeMap::new() }
    }

    /// The number for the file system with this `st_dev`, which holds `path`.
    pub(super) fn of(&mut self, device: u64, path: &Path) -> usize {
        if let Some(set) = self.set {
            return set.max(1);
        }
        if let Some(known) = self.known.get(&device) {
            return *known;
        }
        let mounts = self.mounts.get_or_insert_with(Mounts::read);
        let mount = mounts.of_resolved(path);
        let slots = match mount {
            Some(mount) if machine::is_network(&mount.kind) => NETWORK,
            Some(mount) if machine::is_rotating(mount.device) || machine::is_rotating(device) => ROTATING,
            _ => usize::MAX,
        };
        self.known.insert(device, slots);
        slots
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_holds_over_all_takers_and_a_cancellation_ends_the_wait() {
        let cancel = CancellationToken::new();
        let pace = Pace::new(Some(1 << 20));
        let begin = Instant::now();
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..4).for_each(|_| pace.take(16 << 10, &cancel).unwrap()));
            }
        });
        // The last of sixteen pieces begins when the fifteen before it are paid for.
        assert!(begin.elapsed() >= Duration::from_millis(230), "{:?}", begin.elapsed());
        let slow = Pace::new(Some(1));
        slow.take(1 << 20, &cancel).unwrap();
        cancel.cancel();
        assert!(matches!(slow.take(1, &cancel), Err(Error::Cancelled)));
        assert!(matches!(Pace::new(None).take(1, &cancel), Err(Error::Cancelled)));
    }

    #[test]
    fn a_setting_outranks_what_the_disk_is() {
        assert_eq!(Slots::new(Some(3)).of(1, Path::new("/")), 3);
        assert_eq!(Slots::new(Some(0)).of(1, Path::new("/")), 1);
        assert!(Slots::new(None).of(1, Path::new("/")) >= 1);
    }
}
