//! What the configuration file, the environment and the command line say together.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use url::Url;

use super::file::{self, File};
use super::token::{self, Configured};
use super::{Environment, Paths};
use crate::disk::regular;
use crate::error::{Error, Result};
use crate::model::memory::Conditions;
use crate::model::{DestinationKind, StoreKind, text};

/// How the hub is reached.
#[derive(Clone, PartialEq, Eq)]
pub struct HubSettings {
    /// Base address without trailing slash.
    pub endpoint: String,
    /// The token for exactly that endpoint's origin. `HF_TOKEN` and the token file are for the public hub, or for the
    /// `HF_ENDPOINT` set beside them; a mirror given with `--endpoint` or in the configuration has its own token there.
    pub token: Option<String>,
    /// No request at all.
    pub offline: bool,
    /// Whether proxies of the environment are used.
    pub proxies: bool,
}

/// Hides the token.
impl fmt::Debug for HubSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HubSettings")
            .field("endpoint", &self.endpoint)
            .field("token", &self.token.as_ref().map(|_| "hidden"))
            .field("offline", &self.offline)
            .field("proxies", &self.proxies)
            .finish()
    }
}

/// Connections that are opened at most when nothing else is said.
const CONNECTIONS: usize = 8;

/// A choice that the terminal or the session may make.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum When {
    /// As the terminal and the locale say.
    #[default]
    Auto,
    /// Whatever they say.
    Always,
    /// Not at all.
    Never,
}

/// How the screen looks and what it listens to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScreenSettings {
    /// Colours. `Auto` is: on a terminal.
    pub color: When,
    /// Whether the terminal shows more than 16 colours (`COLORTERM`).
    pub true_color: bool,
    /// Borders and marks of ASCII characters only.
    pub ascii: bool,
    /// Whether the screen takes the mouse.
    pub mouse: bool,
    /// Whether the bell rings when the last job of the queue ends.
    pub bell: bool,
}

/// More folders of each kind of store, beside the default ones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreFolders {
    /// Flat stores.
    pub flat: Vec<PathBuf>,
    /// Hugging Face hub caches.
    pub hf: Vec<PathBuf>,
    /// Ollama models folders.
    pub ollama: Vec<PathBuf>,
    /// LM Studio models folders.
    pub lmstudio: Vec<PathBuf>,
    /// llama.cpp caches.
    pub llamacpp: Vec<PathBuf>,
}

impl StoreFolders {
    /// The folders of one kind.
    #[must_use]
    pub fn of(&self, kind: StoreKind) -> &[PathBuf] {
        match kind {
            StoreKind::Flat => &self.flat,
            StoreKind::Hf => &self.hf,
            StoreKind::Ollama => &self.ollama,
            StoreKind::LmStudio => &self.lmstudio,
            StoreKind::LlamaCpp => &self.llamacpp,
        }
    }
}

/// How long a converter may do nothing where nothing else is said.
const PATIENCE: Duration = Duration::from_secs(600);

/// How models are converted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConverterSettings {
    /// `convert_hf_to_gguf.py`, or a folder that holds it; `None` looks for it on the search path.
    pub converter: Option<PathBuf>,
    /// The Python that runs it; `None` is the one of the environment beside it, else its own choice.
    pub python: Option<PathBuf>,
    /// How long it may neither print nor write anything.
    pub patience: Duration,
    /// Where programs are looked for, as `PATH` has it.
    pub search: Option<OsString>,
    /// The home folder that it sees.
    pub home: PathBuf,
    /// Where its temporary files go.
    pub scratch: PathBuf,
    /// A command that runs the one that is appended to it, and ends it when its own standard input closes, so that a
    /// converter does not outlive this process however that ends. `None` starts it without.
    pub supervisor: Option<Vec<OsString>>,
}

impl Default for ConverterSettings {
    fn default() -> Self {
        Self {
            converter: None,
            python: None,
            patience: PATIENCE,
            search: None,
            home: PathBuf::from("/"),
            scratch: PathBuf::from("/tmp"),
            supervisor: None,
        }
    }
}

/// How much of a disk a verification takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VerifySettings {
    /// Files that are read at once from one file system. `None` is one for each core, and few from rotating disks and over the
    /// network.
    pub reads: Option<usize>,
    /// Bytes per second over all files.
    pub limit: Option<u64>,
}

/// What the command line says; `None` leaves the matter to the environment, the file and the defaults.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// `--models-dir`.
    pub models_dir: Option<PathBuf>,
    /// `--endpoint`.
    pub endpoint: Option<String>,
    /// `--limit`, in bytes per second; `Some(None)` takes a limit of the file away.
    pub limit: Option<Option<u64>>,
    /// `--connections`.
    pub connections: Option<usize>,
    /// `--courtesy`.
    pub courtesy: Option<When>,
    /// `--color`.
    pub color: Option<When>,
    /// `--ascii`.
    pub ascii: Option<bool>,
    /// `--all-users`.
    pub all_users: bool,
}

/// Every setting, resolved: command line over environment over configuration file over default.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// The folders of this program.
    pub paths: Paths,
    /// Base folder of the flat store.
    pub models_dir: PathBuf,
    /// Where downloads go when nothing else is said.
    pub destination: DestinationKind,
    /// Whether the Hugging Face cache is written with symbolic links, as it is unless `HF_HUB_DISABLE_SYMLINKS` is set.
    pub symlinks: bool,
    /// How the hub is reached.
    pub hub: HubSettings,
    /// Downloads that run at once; at least 1.
    pub downloads: usize,
    /// Connections over all downloads together, at most; at least 1.
    pub connections: usize,
    /// Whether downloads leave the link to others while it fills up. Unless it is set: in an SSH session.
    pub courtesy: bool,
    /// `SSH_CONNECTION`: the connection of the session, which courtesy watches.
    pub ssh_connection: Option<String>,
    /// Bytes per second over all connections of the queue; `None` is no limit.
    pub limit: Option<u64>,
    /// How much of a disk a verification takes.
    pub verify: VerifySettings,
    /// How models are converted.
    pub converter: ConverterSettings,
    /// Names that no plan may contain.
    pub protect: Vec<String>,
    /// More folders to look for models in.
    pub stores: StoreFolders,
    /// Whether the default places of every user are looked at.
    pub all_users: bool,
    /// `OLLAMA_HOST`: where Ollama's server is asked, if not at its default address.
    pub ollama_host: Option<String>,
    /// How the screen looks.
    pub screen: ScreenSettings,
    /// Under which conditions models are to fit this host.
    pub fit: Conditions,
    /// What a person should know about these settings, one printable line each: a token that was not taken, a
    /// configuration file with a token that others can read.
    pub warnings: Vec<String>,
}

impl Settings {
    /// Reads `file` (or `config.toml` of the configuration folder, if it is there) and merges it with `environment`. A
    /// `config.toml` or `catalog.toml` that this user may not read is left out, with a warning.
    ///
    /// # Errors
    /// [`crate::Error::InvalidConfig`] names file, line and key; an unknown key is an error. [`crate::Error::Io`] when
    /// the file cannot be read, a `file` that is missing included.
    pub fn load(environment: &Environment, hostname: &str, file: Option<&Path>) -> Result<Self> {
        Self::load_with(environment, hostname, file, &Overrides::default())
    }

    /// [`Self::load`], with what the command line says over everything.
    ///
    /// # Errors
    /// As [`Self::load`]; an `--endpoint` that is no address is a [`crate::Error::InvalidConfig`] too.
    pub fn load_with(
        environment: &Environment,
        hostname: &str,
        file: Option<&Path>,
        overrides: &Overrides,
    ) -> Result<Self> {
        let paths = Paths::new(environment, hostname);
        let default = paths.config.join("config.toml");
        let path = file.unwrap_or(&default);
        let mut closed = Vec::new();
        let content = match file::read(path) {
            Err(Error::Io { source, .. }) if file.is_none() && is_absent(&source) => File::default(),
            Err(Error::Io { source, .. }) if file.is_none() && is_closed(&source) => {
                closed.push(path.to_owned());
                File::default()
            }
            other => other?,
        };
        let catalog = paths.config.join("catalog.toml");
        if regular::open(&catalog).is_err_and(|error| is_closed(&error)) {
            closed.push(catalog);
        }
        let mut settings = Self::merge(environment, paths, &content, overrides)?;
        settings
            .warnings
            .extend(closed.iter().map(|path| format!("{} is left out: permission denied", text::printable_path(path))));
        if content.endpoint_token.is_some_and(|secret| secret.0.is_some()) && others_can_read(path) {
            settings.warnings.push(format!(
                "{} holds a token and others can read it: chmod 600 it, or move the token to endpoint_token_file",
                text::printable_path(path)
            ));
        }
        Ok(settings)
    }

    fn merge(environment: &Environment, paths: Paths, file: &File, overrides: &Overrides) -> Result<Self> {
        let mut warnings = Vec::new();
        let configured_endpoint = file.endpoint.as_ref().map(|endpoint| endpoint.0.as_str());
        let endpoint = match &overrides.endpoint {
            Some(endpoint) => check_endpoint(endpoint)
                .map_err(|reason| Error::InvalidConfig { path: PathBuf::from("--endpoint"), reason })?,
            // Not checked here: a variable that is wrong must not keep anyone from listing and deleting. The hub's
            // client refuses it when it is used.
            None => environment
                .text("HF_ENDPOINT")
                .map(without_slash)
                .filter(|endpoint| !endpoint.is_empty())
                .or(configured_endpoint)
                .unwrap_or(token::PUBLIC)
                .to_owned(),
        };
        let token_file = file.endpoint_token_file.as_ref().and_then(|path| path.resolve(&paths.home));
        let configured = Configured {
            endpoint: configured_endpoint,
            token: file.endpoint_token.as_ref().and_then(|secret| secret.0.as_deref()),
            token_file: token_file.as_deref(),
        };
        let token = token::choose(&endpoint, environment, &paths, &configured, &mut warnings);

        let models_dir = overrides
            .models_dir
            .clone()
            .or_else(|| environment.path("LLORCH_MODEL_BASE_DIR"))
            .or_else(|| file.models_dir.as_ref().map(|folder| folder.resolve(&paths.home)))
            .unwrap_or_else(|| paths.models.clone());
        Ok(Self {
            models_dir,
            destination: file.destination.unwrap_or_default(),
            symlinks: !environment.flag("HF_HUB_DISABLE_SYMLINKS"),
            hub: HubSettings {
                endpoint,
                token,
                offline: environment.flag("HF_HUB_OFFLINE") || environment.flag("TRANSFORMERS_OFFLINE"),
                proxies: file.proxies.unwrap_or(true),
            },
            downloads: file.downloads.as_ref().map_or(3, |count| count.0),
            connections: overrides
                .connections
                .or(file.connections.as_ref().map(|count| count.0))
                .unwrap_or(CONNECTIONS)
                .max(1),
            courtesy: match overrides.courtesy.or(file.courtesy).unwrap_or_default() {
                When::Auto => environment.text("SSH_CONNECTION").is_some(),
                When::Always => true,
                When::Never => false,
            },
            ssh_connection: environment.text("SSH_CONNECTION").map(Into::into),
            limit: overrides.limit.unwrap_or(file.limit.as_ref().and_then(|limit| limit.0)),
            verify: VerifySettings {
                reads: file.verify_reads.as_ref().and_then(|reads| reads.0),
                limit: file.verify_limit.as_ref().and_then(|limit| limit.0),
            },
            converter: ConverterSettings {
                converter: environment
                    .path("LLORCH_CONVERTER")
                    .or_else(|| file.converter.as_ref().and_then(|path| path.resolve(&paths.home))),
                python: file.converter_python.as_ref().and_then(|path| path.resolve(&paths.home)),
                patience: file.converter_patience.as_ref().map_or(PATIENCE, |patience| Duration::from_secs(patience.0)),
                search: environment.raw("PATH").map(ToOwned::to_owned),
                home: paths.home.clone(),
                scratch: paths.cache.clone(),
                supervisor: None,
            },
            protect: file.protect.iter().map(|name| name.0.clone()).collect(),
            stores: file.stores.resolve(&paths.home),
            all_users: overrides.all_users,
            ollama_host: environment.text("OLLAMA_HOST").map(str::to_owned),
            screen: screen(environment, file, overrides),
            fit: Conditions {
                context: file.fit_context.as_ref().and_then(|context| context.0),
                cache_type: file.fit_cache.as_ref().map(|cache| cache.0).unwrap_or_default(),
                ..Conditions::default()
            },
            warnings,
            paths,
        })
    }
}

fn screen(environment: &Environment, file: &File, overrides: &Overrides) -> ScreenSettings {
    let dumb = environment.text("TERM") == Some("dumb");
    let no_color = dumb || environment.text("NO_COLOR").is_some();
    let color = overrides.color.or(no_color.then_some(When::Never)).or(file.color).unwrap_or_default();
    let ascii = overrides.ascii.unwrap_or(match file.ascii.unwrap_or_default() {
        When::Auto => !environment.is_utf8(),
        When::Always => true,
        When::Never => false,
    });
    let true_color = environment.text("COLORTERM").is_some_and(|value| matches!(value, "truecolor" | "24bit"));
    ScreenSettings { color, true_color, ascii, mouse: file.mouse.unwrap_or(false), bell: file.bell.unwrap_or(false) }
}

/// An http or https address without credentials, its trailing slash taken off; else why not, without showing it whole,
/// because what is wrong with it may be a password in it.
pub(super) fn check_endpoint(address: &str) -> Result<String, String> {
    const WAY_OUT: &str = "write it as https://hub.example";
    let url = Url::parse(address).map_err(|error| format!("it is no address ({error}); {WAY_OUT}"))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(format!("it is no http or https address; {WAY_OUT}"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("it has a user name or password in it; put the token in endpoint_token".to_owned());
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(format!("it has a query or fragment; {WAY_OUT}"));
    }
    Ok(without_slash(address).to_owned())
}

fn without_slash(address: &str) -> &str {
    address.trim().trim_end_matches('/')
}

/// No file of that name, or a part of the way is no folder.
fn is_absent(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory)
}

/// A file that this user may not read.
fn is_closed(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::PermissionDenied
}

fn others_can_read(path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(path).is_ok_and(|metadata| metadata.mode() & 0o044 != 0)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn environment(pairs: &[(&str, &str)]) -> Environment {
        Environment::from_pairs(
            [("HOME", "/nonexistent/alice")].iter().chain(pairs).map(|(name, value)| (*name, *value)),
        )
    }

    fn load(pairs: &[(&str, &str)], content: &str, overrides: &Overrides) -> Settings {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.toml");
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        Settings::load_with(&environment(pairs), "gpu01", Some(&path), overrides).unwrap()
    }

    /// The sample without the comments of its settings.
    fn uncommented() -> String {
        file::SAMPLE
            .lines()
            .map(|line| line.strip_prefix('#').filter(|line| !line.starts_with(' ')).unwrap_or(line))
            .fold(String::new(), |mut all, line| {
                all.push_str(line);
                all.push('\n');
                all
            })
    }

    #[test]
    fn the_sample_says_exactly_the_defaults() {
        let defaults = Settings::load(&environment(&[]), "gpu01", None).unwrap();
        assert_eq!(load(&[], &uncommented(), &Overrides::default()), defaults);
        assert_eq!(load(&[], file::SAMPLE, &Overrides::default()), defaults);
        assert_eq!(defaults.hub.endpoint, "https://huggingface.co");
        assert_eq!(defaults.downloads, 3);
        assert!(defaults.warnings.is_empty());
    }

    #[test]
    fn the_sample_has_every_key() {
        let error = file::parse("no_such_key = 1").err().unwrap();
        let keys = error.split("expected one of").nth(1).unwrap();
        let sample: toml::Table = uncommented().parse().unwrap();
        for key in keys.split(',').map(|key| key.trim().trim_matches('`')) {
            assert!(sample.contains_key(key), "the sample lacks '{key}'");
        }
    }

    #[test]
    fn command_line_over_environment_over_file_over_default() {
        let content =
            "models_dir = \"~/models\"\nendpoint = \"https://mirror.example/\"\nlimit = \"1M\"\nconnections = 4";
        let none = Overrides::default();
        let file = load(&[], content, &none);
        assert_eq!(file.models_dir, Path::new("/nonexistent/alice/models"));
        assert_eq!(file.hub.endpoint, "https://mirror.example");
        assert_eq!((file.limit, file.connections), (Some(1 << 20), 4));

        let variables = [("LLORCH_MODEL_BASE_DIR", "/data"), ("HF_ENDPOINT", "http://localhost:1/")];
        let environment = load(&variables, content, &none);
        assert_eq!(environment.models_dir, Path::new("/data"));
        assert_eq!(environment.hub.endpoint, "http://localhost:1");

        let overrides = Overrides {
            models_dir: Some(PathBuf::from("/here")),
            endpoint: Some("https://other.example".to_owned()),
            limit: Some(None),
            connections: Some(2),
            ..Overrides::default()
        };
        let all = load(&variables, content, &overrides);
        assert_eq!(all.models_dir, Path::new("/here"));
        assert_eq!(all.hub.endpoint, "https://other.example");
        assert_eq!((all.limit, all.connections), (None, 2));

        let empty = load(&[("LLORCH_MODEL_BASE_DIR", ""), ("HF_ENDPOINT", "")], "", &none);
        assert_eq!(empty.models_dir, Path::new("/nonexistent/alice/.local/share/llorch-models/models"));
        assert_eq!(empty.hub.endpoint, "https://huggingface.co");
    }

    #[test]
    fn courtesy_is_on_in_an_ssh_session_unless_the_file_or_the_flag_says_otherwise() {
        let ssh = [("SSH_CONNECTION", "192.0.2.1 50000 192.0.2.2 22")];
        let courtesy = |pairs: &[(&str, &str)], content: &str, flag| {
            load(pairs, content, &Overrides { courtesy: flag, ..Overrides::default() }).courtesy
        };
        assert!(courtesy(&ssh, "", None) && !courtesy(&[], "", None));
        assert!(!courtesy(&ssh, "courtesy = \"never\"", None) && courtesy(&[], "courtesy = \"always\"", None));
        assert!(courtesy(&[], "courtesy = \"never\"", Some(When::Always)));
        assert!(!courtesy(&ssh, "courtesy = \"always\"", Some(When::Never)));
        assert!(courtesy(&ssh, "courtesy = \"never\"", Some(When::Auto)));
        assert!(!courtesy(&[], "courtesy = \"always\"", Some(When::Auto)));
    }

    #[test]
    fn an_endpoint_of_the_file_has_its_own_token() {
        let content = "endpoint = \"https://mirror.example\"\nendpoint_token = \"own\"";
        let settings = load(&[("HF_TOKEN", "hf_public")], content, &Overrides::default());
        assert_eq!(settings.hub.token.as_deref(), Some("own"));
        let public = Overrides { endpoint: Some("https://huggingface.co".to_owned()), ..Overrides::default() };
        assert_eq!(load(&[("HF_TOKEN", "hf_public")], content, &public).hub.token.as_deref(), Some("hf_public"));
        let other = Overrides { endpoint: Some("https://other.example".to_owned()), ..Overrides::default() };
        assert_eq!(load(&[("HF_TOKEN", "hf_public")], content, &other).hub.token, None);
        assert!(!format!("{settings:?}").contains("own\""));
    }

    #[test]
    fn a_wrong_endpoint_on_the_command_line_is_said_and_one_in_the_environment_waits_for_its_use() {
        let overrides = Overrides { endpoint: Some("hub.example".to_owned()), ..Overrides::default() };
        let error = Settings::load_with(&environment(&[]), "h", None, &overrides).unwrap_err().to_string();
        assert!(error.starts_with("--endpoint: it is no address"), "{error}");
        assert!(error.contains("https://hub.example"), "{error}");
        let settings =
            Settings::load(&environment(&[("HF_ENDPOINT", "nonsense"), ("HF_TOKEN", "t")]), "h", None).unwrap();
        assert_eq!(settings.hub.endpoint, "nonsense");
        assert_eq!(settings.hub.token, None);
    }

    #[test]
    fn a_named_file_must_be_there() {
        let error = Settings::load(&environment(&[]), "h", Some(Path::new("/nonexistent/config.toml"))).unwrap_err();
        assert_eq!(error.to_string(), "cannot read /nonexistent/config.toml: no such file or directory");
    }

    #[test]
    fn the_screen_follows_terminal_and_locale_unless_told() {
        let screen =
            |pairs: &[(&str, &str)], content: &str, overrides: &Overrides| load(pairs, content, overrides).screen;
        let none = Overrides::default();
        assert!(screen(&[], "", &none).ascii);
        assert!(!screen(&[("LANG", "C.UTF-8")], "", &none).ascii);
        assert!(screen(&[("LANG", "C.UTF-8")], "ascii = \"always\"", &none).ascii);
        assert_eq!(screen(&[("NO_COLOR", "1")], "color = \"always\"", &none).color, When::Never);
        assert_eq!(screen(&[("NO_COLOR", "")], "", &none).color, When::Auto);
        let always = Overrides { color: Some(When::Always), ..Overrides::default() };
        assert_eq!(screen(&[("NO_COLOR", "1")], "", &always).color, When::Always);
        assert!(screen(&[("COLORTERM", "truecolor")], "", &none).true_color);
    }

    #[test]
    fn offline_by_either_variable() {
        for name in ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"] {
            assert!(load(&[(name, "Yes")], "", &Overrides::default()).hub.offline);
        }
        assert!(!load(&[("HF_HUB_OFFLINE", "0")], "", &Overrides::default()).hub.offline);
    }

    #[test]
    fn a_token_that_others_can_read_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.toml");
        std::fs::write(&path, "endpoint_token = \"t\"").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        let settings = Settings::load(&environment(&[]), "h", Some(&path)).unwrap();
        assert!(settings.warnings[0].contains("chmod 600"), "{:?}", settings.warnings);
    }
}
