//! A store served over the hub's own HTTP API.
//!
//! A client of the hub — this program, `hf`, anything else that reads `HF_ENDPOINT` — lists and fetches from a mirror as
//! it does from the hub: search, repository info, tree, resolve. Large files are redirected to a second origin with signed
//! addresses, as the hub does; small ones are answered at once. A mirror only reads.

mod answer;
mod api;
mod bytes;
mod content;
mod demo;
mod folder;
mod library;
mod server;
mod signature;

pub use content::{Content, Facts, Gate, ServedFile};
pub use demo::Demo;
pub use folder::Folder;
pub use server::{Account, Mirror, Options, Origin};
