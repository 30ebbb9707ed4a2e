//! How a [`ModelProvisioner`] is made.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use super::remote_row::RemoteRows;
use crate::config::{ConverterSettings, Environment, HubSettings, Settings};
use crate::error::{Error, Result, io_reason};
use crate::hub::{Catalog, HubClient, HubOptions, Token};
use crate::machine;
use crate::model::Reference;
use crate::store::Store;
use crate::store::flat::{Alias, FlatStore};
use crate::store::hf::{HfStore, RepositoryWriter};
use crate::store::remembered::Remembered;
use crate::transfer::{Connections, Courtesy, Options};

/// Where models come from when nothing else is said.
const PUBLIC_HUB: &str = "https://huggingface.co";

/// Makes a [`ModelProvisioner`]; reads nothing from the environment.
#[derive(Clone, Debug)]
pub struct Builder {
    base_dir: PathBuf,
    hf_cache: Option<PathBuf>,
    symlinks: bool,
    hub: HubOptions,
    catalog: Catalog,
    options: Options,
    memory: Remembered,
    converter: ConverterSettings,
    fault: Option<Fault>,
}

/// What was wrong with the configuration; told when the hub is used for the first time.
#[derive(Clone, Debug)]
struct Fault {
    path: PathBuf,
    reason: String,
}

impl Fault {
    fn of(error: Error) -> Self {
        match error {
            Error::InvalidConfig { path, reason } => Self { path, reason },
            Error::Io { path, operation, source } => {
                Self { path, reason: format!("cannot {operation} it: {}", io_reason(&source)) }
            }
            other => Self { path: PathBuf::from("configuration"), reason: other.to_string() },
        }
    }

    fn error(&self) -> Error {
        Error::InvalidConfig { path: self.path.clone(), reason: self.reason.clone() }
    }
}

impl Builder {
    fn new(base_dir: PathBuf) -> Self {
        Self {
            base_dir,
            hf_cache: None,
            symlinks: true,
            hub: HubOptions { endpoint: PUBLIC_HUB.to_owned(), token: None, offline: false, proxies: false },
            catalog: Catalog::embedded(),
            options: Options::default(),
            memory: Remembered::default(),
            converter: ConverterSettings::default(),
            fault: None,
        }
    }

    /// The Hugging Face cache, for downloads that go there: the folder that holds `models--org--name`.
    #[must_use]
    pub fn hf_cache(mut self, folder: impl Into<PathBuf>) -> Self {
        self.hf_cache = Some(folder.into());
        self
    }

    /// Whether the Hugging Face cache gets symbolic links (it does, unless this says no); files are copied or moved otherwise.
    #[must_use]
    pub fn symlinks(mut self, symlinks: bool) -> Self {
        self.symlinks = symlinks;
        self
    }

    /// Base address of the hub.
    #[must_use]
    pub fn endpoint(mut self, endpoint: impl Into<String>) -> Self {
        self.hub.endpoint = endpoint.into();
        self
    }

    /// The token for exactly this endpoint; text that is no token counts as none.
    #[must_use]
    pub fn token(mut self, token: Option<&str>) -> Self {
        self.hub.token = token.and_then(Token::new);
        self
    }

    /// Send nothing: everything that needs the hub fails with [`Error::Offline`].
    #[must_use]
    pub fn offline(mut self, offline: bool) -> Self {
        self.hub.offline = offline;
        self
    }

    /// Whether the proxies that the environment names are used.
    #[must_use]
    pub fn proxies(mut self, proxies: bool) -> Self {
        self.hub.proxies = proxies;
        self
    }

    /// Endpoint, token, proxies and offline as settings say.
    #[must_use]
    pub fn hub_settings(self, settings: &HubSettings) -> Self {
        self.endpoint(settings.endpoint.clone())
            .token(settings.token.as_deref())
            .offline(settings.offline)
            .proxies(settings.proxies)
    }

    /// The catalog instead of the embedded one.
    #[must_use]
    pub fn catalog(mut self, catalog: Catalog) -> Self {
        self.catalog = catalog;
        self
    }

    /// The embedded catalog with the entries of `file` added or put in their place; a missing file adds nothing.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] names file, line and entry.
    pub fn catalog_file(self, file: &Path) -> Result<Self> {
        Ok(self.catalog(Catalog::with_user_file(file)?))
    }

    /// How models are converted; without it nothing is.
    #[must_use]
    pub fn converter(mut self, converter: ConverterSettings) -> Self {
        self.converter = converter;
        self
    }

    /// Where results of verifying are remembered: a file that was found corrupt and has not changed since is fetched again.
    #[must_use]
    pub fn remembering(mut self, memory: Remembered) -> Self {
        self.memory = memory;
        self
    }

    /// How `download_model` fetches: speed limit, patience.
    #[must_use]
    pub fn transfer(mut self, options: Options) -> Self {
        self.options = options;
        self
    }

    /// The provisioner. Nothing is read or sent yet, except that links on the way to the base folder are resolved.
    #[must_use]
    pub fn build(self) -> ModelProvisioner {
        let aliases = self
            .catalog
            .entries()
            .iter()
            .map(|entry| Alias {
                alias: entry.alias.clone(),
                repository: entry.repository.clone(),
                file: entry.file.clone(),
                folder: entry.folder.clone(),
                former_folders: entry.former_folders.clone(),
            })
            .collect();
        let store = FlatStore::new(self.base_dir.clone(), aliases);
        ModelProvisioner {
            inner: Arc::new(Inner {
                base_dir: self.base_dir,
                store,
                hf: self.hf_cache.map(HfStore::new),
                symlinks: self.symlinks,
                catalog: self.catalog,
                hub: self.hub,
                client: OnceLock::new(),
                remote_rows: RemoteRows::default(),
                options: self.options,
                memory: self.memory,
                converter: self.converter,
                fault: self.fault,
            }),
        }
    }
}

/// Models under one base folder, and the hub that they come from. Cheap to clone.
///
/// Its plain functions block on the disk; call them on a blocking thread where that matters. The asynchronous ones
/// do their disk work on blocking threads themselves and need a tokio runtime with time and I/O.
#[derive(Clone, Debug)]
pub struct ModelProvisioner {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    base_dir: PathBuf,
    store: FlatStore,
    hf: Option<HfStore>,
    symlinks: bool,
    catalog: Catalog,
    hub: HubOptions,
    client: OnceLock<HubClient>,
    remote_rows: RemoteRows,
    options: Options,
    memory: Remembered,
    converter: ConverterSettings,
    fault: Option<Fault>,
}

impl ModelProvisioner {
    /// Models under `base_dir`, with endpoint, token and proxies as environment and configuration file say, and a
    /// user's own catalog. It cannot fail: what is wrong with the configuration is told when the hub is first used.
    #[must_use]
    pub fn new(base_dir: PathBuf) -> Self {
        let environment = Environment::of_process();
        let mut builder = Self::builder(base_dir);
        match Settings::load(&environment, &machine::hostname(), None) {
            Ok(settings) => {
                builder = builder
                    .hub_settings(&settings.hub)
                    .hf_cache(&settings.paths.hf_hub_cache)
                    .symlinks(settings.symlinks)
                    .remembering(Remembered::in_file(settings.paths.verified()))
                    .converter(settings.converter);
                builder.options.connections = Connections::new(settings.connections);
                builder.options.courtesy =
                    settings.courtesy.then(|| Courtesy::of_session(settings.ssh_connection.as_deref()));
                match Catalog::with_user_file(&settings.paths.config.join("catalog.toml")) {
                    Ok(catalog) => builder.catalog = catalog,
                    Err(error) => builder.fault = Some(Fault::of(error)),
                }
            }
            Err(error) => builder.fault = Some(Fault::of(error)),
        }
        builder.build()
    }

    /// Begins one that reads nothing from the environment: the public hub without a token, the embedded catalog.
    #[must_use]
    pub fn builder(base_dir: PathBuf) -> Builder {
        Builder::new(base_dir)
    }

    /// The base folder as it was given.
    #[must_use]
    pub fn base_dir(&self) -> &Path {
        &self.inner.base_dir
    }

    /// The flat store under the base folder.
    #[must_use]
    pub fn store(&self) -> &FlatStore {
        &self.inner.store
    }

    /// The Hugging Face cache that downloads may go to.
    ///
    /// # Errors
    /// [`Error::Unsupported`] when none was given to [`Builder::hf_cache`].
    pub fn hf_store(&self) -> Result<&HfStore> {
        self.inner.hf.as_ref().ok_or_else(|| Error::Unsupported {
            what: "downloading into the Hugging Face cache without knowing where it is".to_owned(),
            instead: "name its folder with Builder::hf_cache".to_owned(),
        })
    }

    /// Where a download of `repository` into the Hugging Face cache goes.
    pub(super) fn hf_writer(&self, repository: &str) -> Result<RepositoryWriter> {
        Ok(RepositoryWriter::new(self.hf_store()?.root(), repository, self.inner.symlinks))
    }

    /// The hub's address without credentials, query and fragment; an endpoint that is no address is shown as such.
    #[must_use]
    pub fn endpoint(&self) -> String {
        crate::hub::shown_endpoint(&self.inner.hub.endpoint).unwrap_or_else(|| "no address".to_owned())
    }

    /// The hub client.
    ///
    /// # Errors
    /// When the endpoint is no address, or the configuration could not be read.
    pub fn hub(&self) -> Result<HubClient> {
        if let Some(fault) = &self.inner.fault {
            return Err(fault.error());
        }
        if let Some(client) = self.inner.client.get() {
            return Ok(client.clone());
        }
        let client = HubClient::new(self.inner.hub.clone())?;
        Ok(self.inner.client.get_or_init(|| client).clone())
    }

    /// The catalog.
    #[must_use]
    pub fn catalog(&self) -> &Catalog {
        &self.inner.catalog
    }

    /// How `download_model` fetches.
    #[must_use]
    pub fn transfer_options(&self) -> &Options {
        &self.inner.options
    }

    /// Where results of verifying are remembered.
    #[must_use]
    pub fn memory(&self) -> &Remembered {
        &self.inner.memory
    }

    pub(super) fn converter_settings(&self) -> &ConverterSettings {
        &self.inner.converter
    }

    /// Runs disk work on a blocking thread.
    pub(super) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let this = self.clone();
        join(tokio::task::spawn_blocking(move || work(&this)).await)
    }

    pub(super) fn remote_rows(&self) -> &RemoteRows {
        &self.inner.remote_rows
    }

    /// Reads a reference; the page of a model on this endpoint is one too.
    ///
    /// # Errors
    /// [`Error::InvalidReference`].
    pub fn reference(&self, text: &str) -> Result<Reference> {
        Reference::parse_at(text, &self.endpoint())
    }

    /// What a reference means here, or that it is not here.
    pub(super) fn resolve(&self, reference: &str) -> Result<crate::store::flat::Resolved> {
        let parsed = self.reference(reference)?;
        self.inner.store.resolve(&parsed)?.ok_or_else(|| match self.inner.store.details(parsed.name()) {
            // A folder that only groups models names none of them.
            Err(error @ Error::Ambiguous { .. }) => error,
            _ => self.not_found(reference),
        })
    }

    pub(super) fn not_found(&self, reference: &str) -> Error {
        Error::ModelNotFound {
            reference: crate::model::text::printable(reference),
            place: crate::model::text::printable_path(&self.inner.base_dir),
        }
    }
}

/// The result of a task; a panic in it goes on in the caller.
pub(super) fn join<T>(result: std::result::Result<Result<T>, tokio::task::JoinError>) -> Result<T> {
    match result {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(Error::Cancelled),
        },
    }
}
