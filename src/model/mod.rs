//! Values: what a model, a file, a reference, a plan is. No input or output happens here.

mod destination;
mod digest;
mod file;
mod file_name;
pub mod filter;
mod identity;
mod label;
pub mod memory;
mod missing;
mod pauses;
mod piece;
mod plan;
mod quantization;
mod reference;
mod repo_path;
mod row;
pub mod selection;
pub mod selector;
pub mod size;
mod sweep;
pub mod text;
mod verification;
mod way_out;

pub use destination::DestinationKind;
pub use digest::{Algorithm, Digest};
pub use file::{ModelFile, RemoteFile, Role, Validator};
pub use file_name::{FileName, Shard, set_of};
pub use identity::{ModelId, ModelKind, StoreKind};
pub use label::Label;
pub use missing::Missing;
pub use pauses::Pauses;
pub use piece::Piece;
pub use plan::{Ask, Blocked, Broken, DeletionReport, Failure, Inode, Kept, Operation, Plan, Stamp, Step};
#[cfg(test)]
pub(crate) use quantization::IN_HEADERS;
pub use quantization::Quantization;
pub use reference::Reference;
pub use repo_path::RepoPath;
pub(crate) use repo_path::wildcard as matches_pattern;
pub use row::{Format, Holder, Model, StoreSummary};
pub use size::{Bytes, Rate};
pub use sweep::{Certainty, Garbage, Sweep, SweepItem, SweepStep};
pub use verification::{FileCheck, FileStatus, Verification};
pub use way_out::{ORIGIN_UNKNOWN, way_out};
