//! Models on a GPU host: see them, fetch them, verify them, delete them and get the bytes back.
//!
//! ```
//! use rbee_hive::provisioner::ModelProvisioner;
//!
//! # fn main() -> anyhow::Result<()> {
//! # let scratch = tempfile::tempdir()?;
//! # let base_dir = scratch.path().to_owned();
//! # std::fs::create_dir(base_dir.join("tinyllama"))?;
//! # std::fs::write(base_dir.join("tinyllama/tinyllama-1.1b-chat-v1.0.Q4_K_M.gguf"), [0; 1000])?;
//! let provisioner = ModelProvisioner::builder(base_dir).build();
//! for (name, path) in provisioner.list_models()? {
//!     println!("{name}: {}", path.display());
//! }
//! assert_eq!(provisioner.get_total_disk_usage()?, 1000);
//! assert!(provisioner.find_local_model("tinyllama").is_some());
//!
//! provisioner.delete_model("tinyllama")?;
//! assert!(provisioner.find_local_model("tinyllama").is_none());
//! # Ok(())
//! # }
//! ```
//!
//! [`provisioner`] has the whole round with a download; [`provisioner::Inventory`] looks at every store of a host.
//!
//! # Layers
//!
//! A module uses what stands below it, never what stands above, and not its neighbours on the same layer
//! except where the last column says so. `tests/architecture.rs` reads this table and holds the source to it.
//!
//! | layer | module | what it is | may use beside the layers below |
//! |---|---|---|---|
//! | L0 | `error` | errors named for what the caller can do | `model` |
//! | L0 | `model` | values, no input or output | `error` |
//! | L1 | `config` | settings, paths, environment variables | `disk` |
//! | L1 | `format` | bounded readers of model headers | |
//! | L1 | `disk` | the only door to the file system | `machine` |
//! | L1 | `machine` | this host: file systems, processes, users | |
//! | L2 | `store` | where models are | |
//! | L2 | `hub` | where models come from | |
//! | L2 | `transfer` | bytes from a source to a destination | |
//! | L3 | `provisioner` | stores, hub and transfers put together | |
//! | L4 | `jobs` | work that goes on while nobody waits | |
//! | L4 | `mirror` | a store served over the hub's own API | |
//! | L5 | `cli` | the commands | `tui` |
//! | L5 | `tui` | the screen | |

pub mod config;
pub mod disk;
pub mod error;
pub mod format;
pub mod hub;
pub mod jobs;
pub mod machine;
#[cfg(any(feature = "mirror", test))]
pub mod mirror;
pub mod model;
pub mod provisioner;
pub mod store;
pub mod transfer;

#[cfg(feature = "cli")]
pub mod cli;
#[cfg(feature = "tui")]
pub mod tui;

pub use error::{Error, Result};
