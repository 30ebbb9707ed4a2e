//! What has come to need a blob since its removal was planned.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::OllamaStore;
use super::names::digest;
use super::read::BLOBS;
use crate::disk::deletion::Guard;
use crate::model::{Plan, Step, text};
use crate::store::planning::steadily;

/// Reads the manifests once more when the first blob is about to go.
pub(super) struct NewNames<'a> {
    store: &'a OllamaStore,
    /// What the plan removes, relative to the root.
    going: BTreeSet<PathBuf>,
    needed: Option<Needed>,
}

/// What the other manifests need.
#[derive(Default)]
struct Needed {
    /// The model that needs each blob, by the blob's path.
    by_blob: BTreeMap<PathBuf, String>,
    /// Why not every manifest's needs are known.
    unknown: Option<String>,
}

impl<'a> NewNames<'a> {
    pub(super) fn of(store: &'a OllamaStore, plan: &Plan) -> Self {
        let going = plan.steps.iter().filter(|step| step.root == store.root).map(|step| step.folder.join(&step.name));
        Self { store, going: going.collect(), needed: None }
    }

    fn read(&self) -> Needed {
        let read = || {
            let contents = self.store.read().map_err(|error| error.to_string())?;
            let Some(contents) = contents else { return Ok(Needed::default()) };
            let goes = |at: usize| contents.tags[at].entries.iter().all(|name| self.going.contains(&name.entry.path));
            let going: BTreeSet<usize> = (0..contents.tags.len()).filter(|at| goes(*at)).collect();
            let mut needed = Needed { by_blob: BTreeMap::new(), unknown: contents.unknown_beside(&going) };
            for (hex, users) in contents.users() {
                let Some(user) = users.iter().find(|at| !going.contains(at)) else { continue };
                for entry in contents.blobs.get(hex).into_iter().flatten() {
                    needed.by_blob.insert(entry.path.clone(), text::printable(&contents.tags[*user].id));
                }
            }
            Ok(needed)
        };
        let is_known = |found: &Result<Needed, String>| found.as_ref().is_ok_and(|needed| needed.unknown.is_none());
        match steadily(read, is_known) {
            Ok(needed) => needed,
            Err(why) => Needed { unknown: Some(why), ..Needed::default() },
        }
    }
}

impl Guard for NewNames<'_> {
    fn keeps(&mut self, step: &Step) -> Option<String> {
        let is_blob = step.name.to_str().is_some_and(|name| digest(name).is_some());
        if step.root != self.store.root || !step.folder.starts_with(BLOBS) || !is_blob {
            return None;
        }
        if self.needed.is_none() {
            self.needed = Some(self.read());
        }
        let needed = self.needed.as_ref()?;
        match (needed.by_blob.get(&step.folder.join(&step.name)), &needed.unknown) {
            (Some(user), _) => Some(format!("{user} has come to need it")),
            (None, Some(why)) => Some(format!("may be needed by what cannot be read ({why})")),
            (None, None) => None,
        }
    }
}
