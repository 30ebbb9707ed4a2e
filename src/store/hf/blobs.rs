//! The entries of `blobs/`, by name.

use std::ffi::{OsStr, OsString};

use super::read::Blob;

/// A map by name, in the order of the names. A list, because it is read often and filled once.
#[derive(Debug, Default)]
pub(super) struct Blobs(Vec<(OsString, Blob)>);

impl Blobs {
    /// Adds what comes after everything that is there.
    pub(super) fn push(&mut self, name: OsString, blob: Blob) {
        debug_assert!(self.0.last().is_none_or(|(last, _)| *last < name));
        self.0.push((name, blob));
    }

    /// The place of a name.
    pub(super) fn position(&self, name: &OsStr) -> Option<usize> {
        self.0.binary_search_by(|(known, _)| known.as_os_str().cmp(name)).ok()
    }

    /// The name and the entry at a place.
    pub(super) fn at(&self, place: usize) -> Option<(&OsString, &Blob)> {
        self.0.get(place).map(|(name, blob)| (name, blob))
    }

    pub(super) fn get(&self, name: &OsStr) -> Option<&Blob> {
        self.position(name).map(|at| &self.0[at].1)
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&OsString, &Blob)> {
        self.0.iter().map(|(name, blob)| (name, blob))
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &OsString> {
        self.0.iter().map(|(name, _)| name)
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &Blob> {
        self.0.iter().map(|(_, blob)| blob)
    }
}
