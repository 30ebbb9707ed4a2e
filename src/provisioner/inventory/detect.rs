//! Which stores this host has, as the settings tell.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::config::Settings;
use crate::model::StoreKind;
use crate::store::Store;
use crate::store::flat::FlatStore;
use crate::store::headers::Headers;
use crate::store::hf::{HfStore, is_hub};
use crate::store::llama_cpp::LlamaCppStore;
use crate::store::lm_studio::{self, LmStudioStore};
use crate::store::ollama::{OllamaStore, service};

/// Every store that the settings name: `own` first, then the other programs' default folders where they exist, then the
/// folders of the configuration, which are looked at whether they exist or not. One root is one store of a kind.
#[must_use]
pub fn stores(own: &FlatStore, settings: &Settings) -> Vec<Arc<dyn Store>> {
    let headers = Headers::remembered_in(settings.paths.cache.join("headers"));
    let mut stores: Vec<Arc<dyn Store>> = vec![Arc::new(own.clone().with_headers(headers.clone()))];
    for kind in StoreKind::ALL {
        let found = default_folders(kind, settings).into_iter().filter(|folder| folder.is_dir());
        for folder in found.chain(settings.stores.of(kind).iter().cloned()) {
            let store = open(kind, &folder, &headers);
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
        StoreKind::Flat => Vec::new(),
        StoreKind::Hf => {
            let mut folders = vec![paths.hf_hub_cache.clone()];
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

fn open(kind: StoreKind, folder: &Path, headers: &Headers) -> Arc<dyn Store> {
    let headers = headers.clone();
    match kind {
        StoreKind::Flat => Arc::new(FlatStore::new(folder.to_owned(), Vec::new()).with_headers(headers)),
        StoreKind::Hf => Arc::new(HfStore::new(folder.to_owned()).with_headers(headers)),
        StoreKind::Ollama => Arc::new(OllamaStore::new(folder).with_headers(headers)),
        StoreKind::LmStudio => Arc::new(LmStudioStore::new(folder).with_headers(headers)),
        StoreKind::LlamaCpp => Arc::new(LlamaCppStore::new(folder).with_headers(headers)),
    }
}
