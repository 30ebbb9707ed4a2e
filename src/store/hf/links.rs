//! What the folders of revisions held, remembered while they stay the same.
//!
//! A folder's time of last change moves with every entry that comes, goes or is replaced, and a link cannot be changed in place.
//! So a folder of links whose inode and times are those of the last look holds the same links, and none of them has to be read again:
//! that is most of what a scan of a cache does. Scans use it, and plans for the links of repositories that nothing goes from; what goes
//! and what else needs it, a plan looks up itself.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use jiff::Timestamp;

use crate::disk::folder::Status;
use crate::disk::publish;
use crate::store::memory::{Key, MAX_KEYS, Stored, Writer};

const VERSION: &str = concat!("llorch-models links 3 ", env!("CARGO_PKG_VERSION"), "\n");
/// Longest listing that is remembered.
const MAX_LISTING: usize = 64 * 1024;
/// Most bytes of all listings together.
const MAX_BYTES: usize = 16 << 20;
/// A folder that changed so shortly before the scan may change again within the same tick of its file system's clock.
const YOUNG: Duration = Duration::from_secs(3);

/// A memory of links. Clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Links(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    file: Option<PathBuf>,
    stored: RwLock<Option<Arc<Stored>>>,
    fresh: Mutex<Fresh>,
}

/// What was read since the file was.
#[derive(Debug, Default)]
struct Fresh {
    listings: Vec<(Key, Box<[u8]>)>,
    bytes: usize,
}

/// A folder as it is being read: its entries, as long as all of them are links. The commit, then each name and each text, all with
/// their lengths before them.
#[derive(Debug)]
pub(super) struct Listing {
    key: Option<Key>,
    bytes: Vec<u8>,
}

impl Links {
    /// A memory that outlasts the program in `file`.
    pub(super) fn remembered_in(file: PathBuf) -> Self {
        Self(Arc::new(Shared { file: Some(file), ..Shared::default() }))
    }

    /// The entries of the folder that `status` is of, each with its text, if nothing has changed in it; `name` is the commit that it
    /// holds.
    pub(super) fn get<T>(&self, name: &OsStr, status: &Status, use_it: impl FnOnce(Pairs<'_>) -> T) -> Option<T> {
        let stored = self.stored()?;
        let text = stored.text(stored.find(&Key::of(status))?)?;
        let (commit, rest) = split(text)?;
        let mut pairs = Pairs(rest);
        pairs.by_ref().for_each(drop);
        let whole = pairs.0.is_empty();
        (commit == name.as_bytes() && whole).then(|| use_it(Pairs(rest)))
    }

    /// What the file holds; read again after it was written.
    fn stored(&self) -> Option<Arc<Stored>> {
        let file = self.0.file.as_deref()?;
        let known = self.0.stored.read().unwrap_or_else(PoisonError::into_inner).clone();
        known.or_else(|| {
            let mut stored = self.0.stored.write().unwrap_or_else(PoisonError::into_inner);
            Some(Arc::clone(stored.get_or_insert_with(|| Arc::new(Stored::read(file, VERSION)))))
        })
    }

    /// Begins to note what is in the folder that `status` is of.
    pub(super) fn begin(&self, name: &OsStr, status: &Status, now: Timestamp) -> Listing {
        let old = |time: Timestamp| {
            time > Timestamp::UNIX_EPOCH
                && now.duration_since(time) > jiff::SignedDuration::try_from(YOUNG).unwrap_or_default()
        };
        let key = Key::of(status);
        let wanted = self.0.file.is_some() && key.changed.is_some_and(old);
        let mut listing = Listing { key: wanted.then_some(key), bytes: Vec::new() };
        listing.part(name);
        listing
    }

    /// The folder was read to its end.
    pub(super) fn end(&self, listing: Listing) {
        let Some(key) = listing.key else { return };
        let mut fresh = self.0.fresh.lock().unwrap_or_else(PoisonError::into_inner);
        if fresh.listings.len() < MAX_KEYS && fresh.bytes + listing.bytes.len() <= MAX_BYTES {
            fresh.bytes += listing.bytes.len();
            fresh.listings.push((key, listing.bytes.into()));
        }
    }

    /// Writes the memory to its file, if there is anything new. What no scan asked for since it was read is forgotten: it is gone.
    /// Without room or right to write, links are read again next time.
    pub(super) fn keep(&self) {
        let Some(file) = &self.0.file else { return };
        let fresh = std::mem::take(&mut *self.0.fresh.lock().unwrap_or_else(PoisonError::into_inner));
        if fresh.listings.is_empty() {
            return;
        }
        let mut writer = Writer::default();
        let mut bytes = 0;
        let mut add = |key: &Key, text: &[u8]| {
            bytes += text.len();
            if bytes <= MAX_BYTES {
                writer.add(key, text);
            }
        };
        fresh.listings.into_iter().for_each(|(key, text)| add(&key, &text));
        let stored = self.0.stored.read().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(stored) = stored.as_deref() {
            stored.iter().filter(|(.., used)| *used).for_each(|(key, text, _)| add(key, text));
        }
        match publish::write_atomically(file, &writer.finish(VERSION)) {
            // A scan in the meantime went on with what it had.
            Ok(()) => *self.0.stored.write().unwrap_or_else(PoisonError::into_inner) = None,
            Err(error) => tracing::info!("links are not remembered: {error}"),
        }
    }
}

impl Listing {
    /// A link in the folder.
    pub(super) fn link(&mut self, name: &OsStr, text: &OsStr) {
        self.part(name);
        self.part(text);
    }

    /// Something that is no link, or that could not be read: the folder is not remembered.
    pub(super) fn spoil(&mut self) {
        self.key = None;
        self.bytes = Vec::new();
    }

    fn part(&mut self, part: &OsStr) {
        if self.key.is_some() {
            match u16::try_from(part.len()).ok().filter(|_| self.bytes.len() + part.len() < MAX_LISTING) {
                Some(length) => {
                    self.bytes.extend_from_slice(&length.to_le_bytes());
                    self.bytes.extend_from_slice(part.as_bytes());
                }
                None => self.spoil(),
            }
        }
    }
}

/// The first part, and what comes after it.
fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<2>()?;
    rest.split_at_checked(usize::from(u16::from_le_bytes(*length)))
}

/// Names with the texts of the links.
pub(super) struct Pairs<'a>(&'a [u8]);

impl<'a> Iterator for Pairs<'a> {
    type Item = (&'a OsStr, &'a OsStr);

    fn next(&mut self) -> Option<Self::Item> {
        let (name, rest) = split(self.0)?;
        let (text, rest) = split(rest)?;
        self.0 = rest;
        Some((OsStr::from_bytes(name), OsStr::from_bytes(text)))
    }
}

/// The name of the file of a cache at `root`: FNV-1a of the path.
pub(super) fn file_name(root: &Path) -> String {
    let hash = root
        .as_os_str()
        .as_bytes()
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    format!("links-{hash:016x}")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::super::read::{Known, Repository};
    use super::*;
    use crate::disk::folder::Folder;

    const REPOSITORY: &str = "models--o--n";

    struct Bench {
        scratch: tempfile::TempDir,
        file: PathBuf,
    }

    impl Bench {
        fn new() -> Self {
            let scratch = tempfile::tempdir().unwrap();
            let file = scratch.path().join("links");
            let bench = Self { scratch, file };
            fs::create_dir_all(bench.path("blobs")).unwrap();
            for name in ["e1", "e2"] {
                fs::write(bench.path("blobs").join(name), name).unwrap();
            }
            for commit in ["c1", "c2", "c3"] {
                fs::create_dir_all(bench.path("snapshots").join(commit)).unwrap();
            }
            bench.link("c1/a.gguf", "../../blobs/e1");
            bench.link("c1/gone", "../../blobs/e3");
            bench.link("c1/self", "self");
            bench.link("c1/out", "/etc/passwd");
            bench.link("c1/dots", "../../blobs/..");
            bench.link("c2/a.gguf", "../.././blobs/e2");
            fs::create_dir(bench.path("snapshots/c2/sub")).unwrap();
            bench.link("c2/sub/b", "../../../blobs/e1");
            bench
        }

        fn path(&self, path: &str) -> PathBuf {
            self.scratch.path().join("hub").join(REPOSITORY).join(path)
        }

        fn link(&self, at: &str, to: &str) {
            symlink(to, self.path("snapshots").join(at)).unwrap();
        }

        /// What is read with what the file remembers, an hour from now, and how many folders were not known.
        fn read(&self) -> (String, usize) {
            let links = Links::remembered_in(self.file.clone());
            let root = self.scratch.path().join("hub");
            let hub = Folder::open(&root).unwrap();
            let now = Timestamp::now() + jiff::SignedDuration::from_hours(1);
            let known = Known { links: &links, now, outward: false };
            let read = |known| Repository::read_with(&hub, &root, OsStr::new(REPOSITORY), known).unwrap();
            let mut with = read(Some(known));
            let mut without = read(None);
            for repository in [&mut with, &mut without] {
                repository.status.accessed = None;
                for revision in &mut repository.revisions {
                    revision.entries.sort_by(|a, b| a.path.cmp(&b.path));
                }
                repository.foreign.sort();
            }
            let shown = format!("{with:?}");
            assert_eq!(shown, format!("{without:?}"), "what is remembered is what is there");
            let fresh = links.0.fresh.lock().unwrap().listings.len();
            links.keep();
            let outward = read(Some(Known { outward: true, ..known })).foreign;
            let outward: BTreeSet<_> = outward.into_iter().collect();
            assert_eq!(outward, without.foreign.into_iter().collect(), "and so are the links that leave it");
            (shown, fresh)
        }
    }

    #[test]
    fn what_is_remembered_is_what_is_there() {
        let bench = Bench::new();
        let (first, fresh) = bench.read();
        assert_eq!(fresh, 2, "a folder with a folder in it is not remembered");
        assert_eq!(bench.read(), (first, 0));
        // A link that was replaced by one of the same name, in a folder of the same length.
        fs::remove_file(bench.path("snapshots/c1/a.gguf")).unwrap();
        bench.link("c1/a.gguf", "../../blobs/e2");
        assert_eq!(bench.read().1, 1);
        fs::remove_file(bench.path("snapshots/c1/gone")).unwrap();
        fs::write(bench.path("snapshots/c3/plain"), b"x").unwrap();
        assert_eq!(bench.read().1, 1, "a folder with a plain file is not remembered");
        fs::rename(bench.path("snapshots/c1"), bench.path("snapshots/c4")).unwrap();
        bench.read();
        fs::remove_dir_all(bench.path("snapshots/c4")).unwrap();
        assert_eq!(bench.read().1, 0);
    }

    #[test]
    fn what_is_young_or_damaged_is_not_believed() {
        let bench = Bench::new();
        let links = Links::remembered_in(bench.file.clone());
        let snapshots = Folder::open(&bench.path("snapshots")).unwrap();
        let status = snapshots.status(OsStr::new("c1")).unwrap();
        let note = |now: Timestamp| {
            let mut listing = links.begin(OsStr::new("c1"), &status, now);
            listing.link(OsStr::new("x"), OsStr::new("y"));
            links.end(listing);
            links.0.fresh.lock().unwrap().listings.len()
        };
        assert_eq!(note(Timestamp::now()), 0);
        assert_eq!(note(Timestamp::now() + jiff::SignedDuration::from_hours(1)), 1);
        links.keep();
        let again = || Links::remembered_in(bench.file.clone());
        let entries = |links: &Links, name: &str| links.get(OsStr::new(name), &status, |pairs| pairs.count());
        assert_eq!(entries(&again(), "c1"), Some(1));
        assert_eq!(entries(&again(), "c2"), None, "the folder of another commit");
        let whole = fs::read(&bench.file).unwrap();
        for end in 0..whole.len() {
            fs::write(&bench.file, &whole[..end]).unwrap();
            assert_eq!(entries(&again(), "c1"), None, "cut at {end}");
        }
    }
}
