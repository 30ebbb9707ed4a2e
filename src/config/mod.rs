//! Settings: what the configuration file, the environment and the defaults say, as values.
//!
//! Nothing here reads the environment except [`Environment::of_process`], which the front ends and
//! `ModelProvisioner::new` call once; everything else is a pure function over the map that it gives.

mod environment;
mod paths;
mod settings;

pub use environment::{Environment, Variable};
pub use paths::Paths;
pub use settings::{HubSettings, Settings};
