//! Settings: what the configuration file, the environment and the defaults say, as values.
//!
//! Nothing here reads the environment except [`Environment::of_process`], which the front ends and
//! `ModelProvisioner::new` call once; everything else is a function of the map that it gives and of the files that it names.

mod environment;
mod file;
mod paths;
mod settings;
mod token;

pub use environment::{Environment, Variable};
pub use file::SAMPLE;
pub use paths::Paths;
pub use settings::{
    ConverterSettings, HubSettings, Overrides, ScreenSettings, Settings, StoreFolders, VerifySettings, When,
};
