//! The library's front door: stores, hub and transfers put together.

mod builder;
mod download;
mod inventory;

pub use builder::{Builder, ModelInfo, ModelProvisioner};
pub use download::{DestinationKind, DownloadPlan, DownloadRequest, Downloaded};
pub use inventory::{Inventory, PlanTarget, ScanEvent};
