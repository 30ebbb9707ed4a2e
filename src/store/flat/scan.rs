//! Reading every row of the store at once.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;

use tokio_util::sync::CancellationToken;

use super::FlatStore;
use super::rows::{Base, Content, Found, Place, is_hidden};
use crate::disk::folder::EntryType;
use crate::disk::usage::Usage;
use crate::model::{StoreKind, StoreSummary, text};
use crate::store::Row;
use crate::store::surroundings::Surroundings;
use crate::store::tree::{Entry, Tree, reason};

/// Most threads that a scan reads with.
const MAX_THREADS: usize = 4;

/// What a thread of a scan gives.
enum Told {
    Row(Box<Row>),
    /// What lies beside the rows of a group.
    Beside(Usage),
}

/// What is still to be read: places first, and the rows of groups as they are found.
struct Work {
    places: Vec<Place>,
    found: VecDeque<Found>,
    /// Threads that read a place, which may be a group.
    reading: usize,
}

/// [`Work`] between the threads.
struct Shared(Mutex<Work>, Condvar);

enum Next<'a> {
    Place(Place, Reading<'a>),
    Found(Found),
}

/// A place that is being read. However its thread comes out of that, the others do not wait for it any longer.
struct Reading<'a>(&'a Shared);

impl Reading<'_> {
    /// The place was read, with rows for whoever is free.
    fn done(self, rows: Vec<Found>) {
        self.0.lock().found.extend(rows);
    }
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        self.0.lock().reading -= 1;
        self.0.1.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Work> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What to do next; waits while another thread may find more.
    fn next(&self, cancel: &CancellationToken) -> Option<Next<'_>> {
        let mut work = self.lock();
        loop {
            if cancel.is_cancelled() {
                return None;
            }
            if let Some(found) = work.found.pop_front() {
                return Some(Next::Found(found));
            }
            if let Some(place) = work.places.pop() {
                work.reading += 1;
                return Some(Next::Place(place, Reading(self)));
            }
            if work.reading == 0 {
                return None;
            }
            work = self.1.wait(work).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl FlatStore {
    pub(super) fn scan_rows(&self, sink: &mut dyn FnMut(Row), cancel: &CancellationToken) -> StoreSummary {
        let mut summary = StoreSummary {
            store: StoreKind::Flat,
            path: self.root.clone(),
            disk_bytes: 0,
            models: 0,
            warnings: Vec::new(),
        };
        let base = match Base::open(&self.root) {
            Ok(Some(base)) => base,
            Ok(None) => return summary,
            Err(error) => {
                summary.warnings.push(error.to_string());
                return summary;
            }
        };
        let mut usage = Usage::default();
        self.read_rows(&base, cancel, &mut |told| match told {
            Told::Row(row) => {
                usage.merge(&row.usage);
                summary.models += 1;
                sink(*row);
            }
            Told::Beside(files) => usage.merge(&files),
        });
        self.headers.keep();
        if cancel.is_cancelled() {
            return summary;
        }
        // What is no row takes room all the same.
        for (name, kind) in &base.entries {
            match kind {
                EntryType::Folder if is_hidden(name) => match Tree::read(&base.folder, name) {
                    Ok(tree) => add_files(&mut usage, &tree),
                    Err(error) => summary.warnings.push(format!(
                        "{} cannot be read: {}",
                        text::printable(&text::escape(name)),
                        reason(error)
                    )),
                },
                EntryType::File => {
                    if let Some(entry) = base.entry(name).filter(Entry::is_file) {
                        let status = &entry.status;
                        usage.add(status.inode, status.size_bytes, status.disk_bytes, status.links);
                    }
                }
                _ => {}
            }
        }
        summary.disk_bytes = usage.disk_bytes();
        summary
    }

    /// Reads every row on a few threads, since a scan waits for headers most of the time; `sink` runs on this one.
    fn read_rows(&self, base: &Base, cancel: &CancellationToken, sink: &mut dyn FnMut(Told)) {
        let mut places = base.places();
        let threads = thread::available_parallelism().map_or(1, usize::from).min(MAX_THREADS).min(places.len());
        places.reverse();
        let work = Shared(Mutex::new(Work { places, found: VecDeque::new(), reading: 0 }), Condvar::new());
        thread::scope(|scope| {
            let (give, told) = mpsc::sync_channel(64);
            for _ in 0..threads {
                let (give, work) = (give.clone(), &work);
                scope.spawn(move || {
                    let mut around = Surroundings::default();
                    while let Some(next) = work.next(cancel) {
                        let found = match next {
                            Next::Found(found) => Some(found),
                            Next::Place(place, reading) => match base.read(&place) {
                                Some(Content::Group(group)) => {
                                    reading.done(group.rows);
                                    let mut usage = Usage::default();
                                    group.beside.iter().for_each(|entry| usage.add_info(&entry.status));
                                    if give.send(Told::Beside(usage)).is_err() {
                                        return;
                                    }
                                    None
                                }
                                content => {
                                    reading.done(Vec::new());
                                    content.and_then(Content::row)
                                }
                            },
                        };
                        let row = found.map(|found| Told::Row(Box::new(self.row(&found, &mut around))));
                        if row.is_some_and(|row| give.send(row).is_err()) {
                            return;
                        }
                    }
                });
            }
            drop(give);
            told.into_iter().for_each(sink);
        });
    }
}

fn add_files(usage: &mut Usage, tree: &Tree) {
    for entry in tree.entries.iter().filter(|entry| entry.is_file()) {
        let status = &entry.status;
        usage.add(status.inode, status.size_bytes, status.disk_bytes, status.links);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn a_thread_that_breaks_down_while_it_reads_leaves_the_others_to_their_work() {
        let places = ["a", "b"].map(|name| Place::Folder(name.into())).to_vec();
        let work = Arc::new(Shared(Mutex::new(Work { places, found: VecDeque::new(), reading: 0 }), Condvar::new()));
        let cancel = CancellationToken::new();
        let broken = Arc::clone(&work);
        let result = thread::spawn(move || {
            let _reading = broken.next(&CancellationToken::new());
            panic!("a place that nobody can read");
        })
        .join();
        assert!(result.is_err());
        // The other one is read, and then there is nothing to wait for.
        assert!(matches!(work.next(&cancel), Some(Next::Place(..))));
        let (say, end) = mpsc::channel();
        thread::spawn(move || say.send(work.next(&CancellationToken::new()).is_none()));
        assert_eq!(end.recv_timeout(std::time::Duration::from_secs(30)), Ok(true));
    }
}
