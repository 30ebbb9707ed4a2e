//! What the bookkeeping of a folder promises of its files: record, sidecars, listings of commits.

use std::collections::BTreeMap;
use std::path::Path;

use super::FlatStore;
use super::folder::ModelFolder;
use super::sidecar::{Found, Metadata};
use super::tree::read_tree;
use crate::model::{Digest, text};
use crate::store::checksum_files::ChecksumFiles;
use crate::store::tree::Entry;
use crate::store::verify::{Expected, Promise, Source};

/// Path in the repository to length and digest.
type Listing = BTreeMap<String, (u64, Option<Digest>)>;

/// What was read for several files.
#[derive(Default)]
pub(super) struct Known {
    listings: Listings,
    checksums: ChecksumFiles,
}

/// Listings that were read, by commit.
#[derive(Default)]
struct Listings(BTreeMap<String, Option<Listing>>);

impl Listings {
    fn file(&mut self, folder: &Path, commit: &str, path: &Path) -> Option<(u64, Option<Digest>)> {
        let read = || {
            let files = read_tree(folder, commit)?.into_iter();
            Some(files.map(|file| (file.path.as_str().to_owned(), (file.size, file.digest))).collect())
        };
        self.0.entry(commit.to_owned()).or_insert_with(read).as_ref()?.get(path.to_str()?).copied()
    }
}

impl FlatStore {
    /// What is promised of a file that is here.
    pub(super) fn promised(&self, folder: &ModelFolder, entry: &Entry, known: &mut Known) -> Expected {
        let path = entry.path.as_path();
        let (mut size, first) = self.known(folder, entry);
        let record = folder.record.get();
        let recorded = path.to_str().and_then(|path| record?.file(path));
        let sidecar = Metadata::look_below(&self.root, &folder.below, path);
        let (commit, beside) = match &sidecar {
            Found::Trusted(sidecar) => (Some(sidecar.commit.as_str()), sidecar.digest()),
            Found::Nothing | Found::Outdated => {
                (recorded.zip(record).map(|(file, record)| record.commit_of(file)), None)
            }
        };
        let listed = commit.and_then(|commit| known.listings.file(&self.root.join(&folder.below), commit, path));
        let promise = |source, digest: Option<Digest>| digest.map(|digest| Promise { source, digest });
        let mut promises: Vec<Promise> = [
            promise(Source::Record, recorded.and_then(|file| file.digest)),
            promise(Source::Sidecar, beside),
            promise(Source::Listing, listed.and_then(|(_, digest)| digest)),
            known.checksums.promise(&self.root, &folder.below, &folder.location(entry)),
        ]
        .into_iter()
        .flatten()
        .collect();
        // What counts comes first, the others keep their order.
        promises.sort_by_key(|promise| first != Some(promise.digest));
        let counts = promises.first().map(|promise| promise.digest);
        if let Some((length, Some(digest))) = listed
            && size.is_none()
            && counts == Some(digest)
        {
            size = Some(length);
        }
        let of_record = |file| record.map(|record| record.commit_of(file).to_owned());
        let outdated = matches!(sidecar, Found::Outdated) && promises.is_empty();
        Expected {
            path: text::escape(path.as_os_str()),
            location: folder.location(entry),
            size,
            commit: match (recorded, &sidecar) {
                (Some(file), Found::Trusted(_)) if beside.is_none() || file.digest == beside => of_record(file),
                (_, Found::Trusted(sidecar)) => Some(sidecar.commit.clone()),
                (Some(file), _) => of_record(file),
                (None, _) => None,
            },
            note: outdated.then(|| "changed since its download, so that its recorded checksum says nothing".to_owned()),
            ..Expected::default()
        }
        .promised(promises)
    }
}
