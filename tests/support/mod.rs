//! What several test files share.
#![allow(dead_code, unreachable_pub, missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub mod hf_cache;
pub mod host;
#[cfg(feature = "mirror")]
pub mod hub;
pub mod official;
#[cfg(all(feature = "cli", feature = "tui"))]
pub mod program;
#[cfg(feature = "tui")]
pub mod pty;
pub mod stores;
