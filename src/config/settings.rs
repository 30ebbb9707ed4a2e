//! What the configuration file, the environment and the command line say together.

use std::path::{Path, PathBuf};

use super::{Environment, Paths};
use crate::error::Result;

/// How the hub is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubSettings {
    /// Base address without trailing slash.
    pub endpoint: String,
    /// The token for exactly that endpoint's origin. `HF_TOKEN` and the token file are for the public hub and for an
    /// `HF_ENDPOINT` set beside them; a mirror given with `--endpoint` or in the configuration has its own token there.
    pub token: Option<String>,
    /// No request at all.
    pub offline: bool,
    /// Whether proxies of the environment are used.
    pub proxies: bool,
}

/// Every setting, resolved: command line over environment over configuration file over default.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// The folders of this program.
    pub paths: Paths,
    /// Base folder of the flat store.
    pub models_dir: PathBuf,
    /// How the hub is reached.
    pub hub: HubSettings,
    /// Downloads that run at once; at least 1.
    pub downloads: usize,
    /// Bytes per second over all connections of the queue; `None` is no limit.
    pub limit: Option<u64>,
    /// Names that no plan may contain.
    pub protect: Vec<String>,
}

impl Settings {
    /// Reads `file` (or `config.toml` of the configuration folder, if it is there) and merges it with `environment`.
    ///
    /// # Errors
    /// [`crate::Error::InvalidConfig`] names file, line and key; an unknown key is an error.
    pub fn load(_environment: &Environment, _hostname: &str, _file: Option<&Path>) -> Result<Self> {
        todo!()
    }
}
