//! The only door to the file system: publish atomically, lock, stay below a root, count bytes once, run plans.

pub mod deletion;
pub mod folder;
pub mod lock;
pub mod publish;
pub mod safe;
pub mod space;
pub mod usage;
