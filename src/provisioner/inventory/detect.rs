//! Which stores this host has, as the settings tell.

use std::path::PathBuf;
use std::sync::Arc;

use crate::config::Settings;
use crate::model::StoreKind;
use crate::store::Store;
use crate::store::flat::FlatStore;
use crate::store::headers::Headers;
use crate::store::hf::{HfStore, is_hub};

/// The kinds that are read.
pub const STORE_KINDS: [StoreKind; 2] = [StoreKind::Flat, StoreKind::Hf];

/// Every store that the settings name: `own` first, then the other programs' default folders where they exist, then the
/// folders of the configuration, which are looked at whether they exist or not. One root is one store of a kind.
#[must_use]
pub fn stores(own: &FlatStore, settings: &Settings) -> Vec<Arc<dyn Store>> {
    let mut stores: Vec<Arc<dyn Store>> = vec![Arc::new(own.clone())];
    let headers = Headers::remembered_in(settings.paths.cache.join("headers.json"));
    for kind in StoreKind::ALL {
        let found = default_folders(kind, settings).into_iter().filter(|folder| folder.is_dir());
        for folder in found.chain(settings.stores.of(kind).iter().cloned()) {
            let Some(store) = open(kind, folder, &headers) else { continue };
            if stores.iter().all(|known| known.kind() != kind || known.root() != store.root()) {
                stores.push(store);
            }
        }
    }
    stores
}

/// Where a kind is without any configuration of ours.
fn default_folders(kind: StoreKind, settings: &Settings) -> Vec<PathBuf> {
    let paths = &settings.paths;
    match kind {
        StoreKind::Hf => {
            let mut folders = vec![paths.hf_hub_cache.clone()];
            folders.extend(Some(paths.llama_cache.clone()).filter(|folder| is_hub(folder)));
            folders
        }
        StoreKind::Flat | StoreKind::Ollama | StoreKind::LmStudio | StoreKind::LlamaCpp => Vec::new(),
    }
}

fn open(kind: StoreKind, folder: PathBuf, headers: &Headers) -> Option<Arc<dyn Store>> {
    match kind {
        StoreKind::Flat => Some(Arc::new(FlatStore::new(folder, Vec::new()))),
        StoreKind::Hf => Some(Arc::new(HfStore::new(folder).with_headers(headers.clone()))),
        StoreKind::Ollama | StoreKind::LmStudio | StoreKind::LlamaCpp => None,
    }
}
