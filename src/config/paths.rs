//! The folders of this program.

use std::path::PathBuf;

use super::Environment;

/// Where configuration, state and cache lie, by the XDG base directory specification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    /// Home folder of the user.
    pub home: PathBuf,
    /// `$XDG_CONFIG_HOME/llorch-models`: `config.toml`, `catalog.toml`.
    pub config: PathBuf,
    /// `$XDG_STATE_HOME/llorch-models/<hostname>`: queue, log, remembered results.
    pub state: PathBuf,
    /// `$XDG_CACHE_HOME/llorch-models`.
    pub cache: PathBuf,
    /// Base folder of the flat store when nothing else is set: `$XDG_DATA_HOME/llorch-models/models`.
    pub models: PathBuf,
}

impl Paths {
    /// The folders for `environment` on the host named `hostname`. XDG variables that are empty or relative are ignored.
    #[must_use]
    pub fn new(_environment: &Environment, _hostname: &str) -> Self {
        todo!()
    }
}
