//! The only door to the file system: publish atomically, lock, stay below a root, count bytes once, run plans.

pub mod deletion;
mod errors;
pub mod fast_map;
pub mod folder;
mod info;
pub mod lock;
pub mod permission;
pub mod publish;
pub mod regular;
pub mod safe;
pub mod scratch;
mod shared;
pub mod space;
pub mod throwaway;
pub mod usage;

pub use errors::{quota, write_error};
pub use info::{FileInfo, FileKind};
