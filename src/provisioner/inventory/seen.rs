//! When a file was last seen open: file systems note accesses late or not at all, and a server maps a model once for weeks.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;

use crate::disk::lock::FileLock;
use crate::disk::publish::write_atomically;
use crate::disk::regular;
use crate::model::Inode;

/// First line of the file.
const HEADER: &str = "llorch-models seen 1";
/// Files that are remembered; the ones that were seen longest ago give way.
const MAX: usize = 20_000;
/// Longest file that is read: more than that many lines.
const MAX_BYTES: u64 = 2 << 20;
/// A time that is this little newer than the one on disk is not written again.
const FRESH: i64 = 300;
/// How often another process may be found writing before its turn is let go.
const TRIES: u32 = 10;
const PAUSE: Duration = Duration::from_millis(10);

/// Seconds since 1970 by file.
type Times = HashMap<Inode, i64>;

/// The memory. Clones share it. What cannot be read or written is as if nobody had looked: it never stands in anybody's way.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    path: Option<PathBuf>,
    /// Device, number, length and time of the file as it was read.
    read: Option<(u64, u64, u64, i64)>,
    times: Arc<Times>,
}

impl Seen {
    /// The memory in `path`, which need not be there. Nothing is read yet.
    pub(super) fn remembered_in(path: PathBuf) -> Self {
        Self(Arc::new(Mutex::new(State { path: Some(path), ..State::default() })))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known now, by this process and by others.
    pub(super) fn times(&self) -> Arc<Times> {
        let mut state = self.lock();
        state.refresh();
        Arc::clone(&state.times)
    }

    /// These files are open now.
    pub(super) fn note(&self, files: impl Iterator<Item = Inode>, now: Timestamp) {
        let now = now.as_second();
        let mut state = self.lock();
        state.refresh();
        let news: Vec<Inode> =
            files.filter(|file| state.times.get(file).is_none_or(|then| now - then >= FRESH)).collect();
        if news.is_empty() {
            return;
        }
        let times = Arc::make_mut(&mut state.times);
        times.extend(news.into_iter().map(|file| (file, now)));
        state.write();
    }
}

impl State {
    /// Takes in what is on disk, if that has changed.
    fn refresh(&mut self) {
        let Some(path) = &self.path else { return };
        let Ok(status) = std::fs::metadata(path) else { return };
        let version = (status.dev(), status.ino(), status.size(), status.mtime());
        if self.read == Some(version) {
            return;
        }
        if let Some(found) = read(path) {
            merge(Arc::make_mut(&mut self.times), found);
            self.read = Some(version);
        }
    }

    /// Writes everything, with what others have written meanwhile. One process at a time does so.
    fn write(&mut self) {
        let Some(path) = self.path.clone() else { return };
        if let Err(error) = self.try_write(&path) {
            tracing::debug!("what was seen open is not remembered: {error}");
        }
    }

    fn try_write(&mut self, path: &Path) -> crate::Result<()> {
        if let Some(folder) = path.parent() {
            crate::disk::publish::create_folders(folder)?;
        }
        let lock = path.with_extension("lock");
        let mut tries = 0;
        let _lock = loop {
            match FileLock::try_exclusive(&lock)? {
                Some(lock) => break lock,
                // It is kept here, and written with what is seen next.
                None if tries == TRIES => return Ok(()),
                None => {
                    tries += 1;
                    std::thread::sleep(PAUSE);
                }
            }
        };
        let times = Arc::make_mut(&mut self.times);
        if let Some(found) = read(path) {
            merge(times, found);
        }
        let mut lines: Vec<(i64, Inode)> = times.iter().map(|(file, then)| (*then, *file)).collect();
        lines.sort_unstable_by(|a, b| b.cmp(a));
        if lines.len() > MAX {
            lines.truncate(MAX);
            *times = lines.iter().map(|(then, file)| (*file, *then)).collect();
        }
        let mut text = format!("{HEADER}\n");
        for (then, file) in lines {
            text.push_str(&format!("{} {} {then}\n", file.device, file.inode));
        }
        write_atomically(path, text.as_bytes())
    }
}

/// `None` when it is not there, or no file of this kind. A line that cannot be read is left out.
fn read(path: &Path) -> Option<Times> {
    let text = String::from_utf8(regular::read(path, MAX_BYTES).ok()??).ok()?;
    let mut lines = text.lines();
    (lines.next() == Some(HEADER)).then_some(())?;
    let line = |line: &str| {
        let mut numbers = line.split(' ');
        let device = numbers.next()?.parse().ok()?;
        let inode = numbers.next()?.parse().ok()?;
        Some((Inode { device, inode }, numbers.next()?.parse().ok()?))
    };
    Some(lines.filter_map(line).take(MAX).collect())
}

/// Keeps the later time of each.
fn merge(times: &mut Times, found: Times) {
    for (file, then) in found {
        let known = times.entry(file).or_insert(then);
        *known = (*known).max(then);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(inode: u64) -> Inode {
        Inode { device: 7, inode }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn two_processes_keep_what_the_other_saw() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state/seen");
        let (first, second) = (Seen::remembered_in(path.clone()), Seen::remembered_in(path.clone()));
        assert!(first.times().is_empty());
        first.note([file(1), file(2)].into_iter(), at(1000));
        second.note([file(2), file(3)].into_iter(), at(2000));
        first.note([file(4)].into_iter(), at(3000));
        let expected = HashMap::from([(file(1), 1000), (file(2), 2000), (file(3), 2000), (file(4), 3000)]);
        assert_eq!(*Seen::remembered_in(path).times(), expected);
        assert_eq!(*second.times(), expected);
    }

    #[test]
    fn a_second_look_soon_after_writes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("seen");
        let seen = Seen::remembered_in(path.clone());
        seen.note([file(1)].into_iter(), at(1000));
        let before = std::fs::metadata(&path).unwrap().ino();
        seen.note([file(1)].into_iter(), at(1000 + FRESH - 1));
        assert_eq!(std::fs::metadata(&path).unwrap().ino(), before);
        seen.note([file(1)].into_iter(), at(1000 + FRESH));
        assert_eq!(seen.times()[&file(1)], 1000 + FRESH);
    }

    #[test]
    fn the_oldest_give_way_and_nonsense_is_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("seen");
        let mut text = format!("{HEADER}\nnonsense\n1 2\n");
        for number in 0..MAX as u64 {
            text.push_str(&format!("7 {number} {}\n", 1000 + number));
        }
        std::fs::write(&path, text).unwrap();
        let seen = Seen::remembered_in(path.clone());
        assert_eq!(seen.times().len(), MAX);
        seen.note([file(1 << 40)].into_iter(), at(1 << 33));
        let again = Seen::remembered_in(path.clone());
        assert_eq!(again.times().len(), MAX);
        assert!(!again.times().contains_key(&file(0)) && again.times().contains_key(&file(1 << 40)));
        std::fs::write(&path, "something else\n7 1 1\n").unwrap();
        assert!(Seen::remembered_in(path).times().is_empty());
    }

    #[test]
    fn without_a_place_to_write_it_goes_on() {
        let seen = Seen::remembered_in(PathBuf::from("/proc/no/such/seen"));
        seen.note([file(1)].into_iter(), at(1000));
        assert_eq!(seen.times()[&file(1)], 1000);
    }
}
