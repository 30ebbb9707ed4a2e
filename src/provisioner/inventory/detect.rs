//! Which stores this host has, as the settings tell.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::ollama::OllamaApi;
use super::seen::Seen;
use super::{Inventory, Known, Remark, everyone, shown};
use crate::config::Settings;
use crate::model::StoreKind;
use crate::store::Store;
use crate::store::flat::FlatStore;
use crate::store::headers::Headers;
use crate::store::hf::{HfStore, is_hub};
use crate::store::llama_cpp::LlamaCppStore;
use crate::store::lm_studio::{self, LmStudioStore};
use crate::store::ollama::{OllamaStore, Server, service};
use crate::store::remembered::Remembered;

/// How the stores of this host are found.
#[derive(Debug)]
pub(super) struct Host {
    own: FlatStore,
    settings: Settings,
    headers: Headers,
    ollama: Arc<dyn Server>,
}

/// Every store that the settings name: `own` first, then the other programs' default folders where they exist, then the
/// folders of the configuration, which are looked at whether they exist or not. One root is one store of a kind.
#[must_use]
pub fn stores(own: &FlatStore, settings: &Settings) -> Vec<Arc<dyn Store>> {
    Host::new(own, settings).stores().stores
}

impl Inventory {
    /// The stores that the settings name, as [`stores`] finds them; with those of every user if the settings say so.
    #[must_use]
    pub fn of_host(own: &FlatStore, settings: &Settings) -> Self {
        let mut inventory = Self::new(Vec::new(), settings.protect.clone())
            .remembering(Remembered::in_file(settings.paths.verified()))
            .pacing(settings.verify);
        let host = Host::new(own, settings);
        inventory.set_known(host.known(settings.all_users));
        inventory.seen = Seen::remembered_in(settings.paths.state.join("seen"));
        inventory.ollama = Some(Arc::clone(&host.ollama));
        inventory.host = Some(Arc::new(host));
        inventory
    }

    /// Whether the stores of every user are among its stores.
    #[must_use]
    pub fn has_all_users(&self) -> bool {
        self.known().everyone
    }

    /// Looks at the default places of every user too, or no longer. All clones follow. Without effect on a fixed set of stores.
    pub fn set_all_users(&self, all: bool) {
        if let Some(host) = &self.host
            && self.has_all_users() != all
        {
            self.set_known(host.known(all));
        }
    }

    /// Looks again which stores there are: a download may have made the folder of one. Without effect on a fixed set.
    pub fn look_for_stores(&self) {
        if let Some(host) = &self.host {
            let known = host.known(self.has_all_users());
            let same = known.stores.len() == self.stores().len();
            if !same {
                self.set_known(known);
            }
        }
    }

    /// What is to be said about the search for stores: homes that could not be looked into.
    #[must_use]
    pub fn notes(&self) -> Vec<String> {
        self.known().notes.clone()
    }
}

impl Host {
    fn new(own: &FlatStore, settings: &Settings) -> Self {
        let headers = Headers::remembered_in(settings.paths.cache.join("headers"));
        let ollama = Arc::new(OllamaApi::new(settings.ollama_host.clone(), settings.paths.system.clone()));
        Self { own: own.clone(), settings: settings.clone(), headers, ollama }
    }

    fn stores(&self) -> Collection {
        let mut collection = Collection::default();
        collection.add(Arc::new(self.own.clone().with_headers(self.headers.clone())));
        for kind in StoreKind::ALL {
            let found = default_folders(kind, &self.settings).into_iter().filter(|folder| folder.is_dir());
            for folder in found.chain(self.settings.stores.of(kind).iter().cloned()) {
                collection.add(self.open(kind, &folder));
            }
        }
        collection
    }

    fn known(&self, everyone: bool) -> Known {
        let mut collection = self.stores();
        let mut notes = Vec::new();
        if everyone {
            let found = everyone::look(&self.settings.paths.system);
            for (kind, folder) in found.folders {
                collection.add(self.open(kind, &folder));
            }
            notes = found.notes;
        }
        Known { stores: collection.stores.into(), remarks: collection.remarks, notes, everyone }
    }

    fn open(&self, kind: StoreKind, folder: &Path) -> Arc<dyn Store> {
        let headers = self.headers.clone();
        match kind {
            StoreKind::Flat => Arc::new(FlatStore::new(folder.to_owned(), Vec::new()).with_headers(headers)),
            StoreKind::Hf => Arc::new(
                HfStore::new(folder.to_owned()).with_headers(headers).remembering_in(&self.settings.paths.cache),
            ),
            StoreKind::Ollama => {
                Arc::new(OllamaStore::new(folder).with_headers(headers).with_server(Arc::clone(&self.ollama)))
            }
            StoreKind::LmStudio => Arc::new(LmStudioStore::new(folder).with_headers(headers)),
            StoreKind::LlamaCpp => Arc::new(LlamaCppStore::new(folder).with_headers(headers)),
        }
    }
}

/// Where a kind is without any configuration of ours.
fn default_folders(kind: StoreKind, settings: &Settings) -> Vec<PathBuf> {
    let paths = &settings.paths;
    match kind {
        StoreKind::Flat => Vec::new(),
        StoreKind::Hf => {
            let mut folders = vec![paths.hf_hub_cache.clone(), paths.llama_hub_cache.clone()];
            folders.extend(Some(paths.llama_cache.clone()).filter(|folder| is_hub(folder)));
            folders
        }
        StoreKind::Ollama => {
            std::iter::once(paths.ollama_models.clone()).chain(service::folders(&paths.system)).collect()
        }
        StoreKind::LmStudio => vec![lm_studio::root::models_folder(&paths.home)],
        StoreKind::LlamaCpp => vec![paths.llama_cache.clone()],
    }
}

/// Stores, each folder once.
#[derive(Default)]
struct Collection {
    stores: Vec<Arc<dyn Store>>,
    remarks: Vec<Remark>,
}

impl Collection {
    /// Adds a store unless its folder is one already, under whatever path. A folder that is given as two kinds is the one
    /// whose layout it has, else the one that was named first, and its summary says so.
    fn add(&mut self, store: Arc<dyn Store>) {
        let same = |known: &Arc<dyn Store>| is_same_folder(known.root(), store.root());
        let Some(at) = self.stores.iter().position(|known| same(known) && !share(known.kind(), store.kind())) else {
            self.stores.push(store);
            return;
        };
        let known = &self.stores[at];
        if known.kind() == store.kind() {
            return;
        }
        let better = !has_layout(known.kind(), known.root()) && has_layout(store.kind(), store.root());
        let (winner, loser) = if better { (store, self.stores[at].kind()) } else { (Arc::clone(known), store.kind()) };
        let line = format!(
            "{} is given as two kinds of store, {} and {loser}; it is shown as {}",
            shown(winner.root()),
            winner.kind(),
            winner.kind()
        );
        let remark = Remark { kind: winner.kind(), root: winner.root().to_owned(), line };
        if !self.remarks.contains(&remark) {
            self.remarks.push(remark);
        }
        self.stores[at] = winner;
    }
}

/// llama.cpp keeps its flat files and the hub's folders in one cache; each kind reads what is its own.
fn share(a: StoreKind, b: StoreKind) -> bool {
    matches!((a, b), (StoreKind::Hf, StoreKind::LlamaCpp) | (StoreKind::LlamaCpp, StoreKind::Hf))
}

fn is_same_folder(a: &Path, b: &Path) -> bool {
    if a == b {
        return true;
    }
    match (std::fs::metadata(a), std::fs::metadata(b)) {
        (Ok(a), Ok(b)) => (a.dev(), a.ino()) == (b.dev(), b.ino()),
        // What is not there yet is only its path.
        _ => false,
    }
}

/// Whether the folder holds what only this kind makes.
fn has_layout(kind: StoreKind, root: &Path) -> bool {
    match kind {
        StoreKind::Hf => is_hub(root),
        StoreKind::Ollama => root.join("blobs").is_dir() && root.join("manifests").is_dir(),
        StoreKind::Flat | StoreKind::LmStudio | StoreKind::LlamaCpp => false,
    }
}
