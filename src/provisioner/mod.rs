//! The library's front door: stores, hub and transfers put together.
//!
//! [`ModelProvisioner`] looks after the models under one base folder and fetches more from a hub; [`Inventory`] looks at
//! every store of the host. A complete round through a model's life:
//!
//! ```no_run
//! use std::path::PathBuf;
//!
//! use rbee_hive::provisioner::ModelProvisioner;
//!
//! # async fn example() -> anyhow::Result<()> {
//! let provisioner = ModelProvisioner::new(PathBuf::from("/data/models"));
//!
//! // What is here, and what it takes.
//! for (name, path) in provisioner.list_models()? {
//!     println!("{name}: {} ({} bytes)", path.display(), provisioner.get_model_size(&path)?);
//! }
//! println!("{} bytes in total", provisioner.get_total_disk_usage()?);
//!
//! // Fetch what is missing. An alias of the catalog, a repository, and one quantization of it are all references.
//! let reference = "TheBloke/TinyLlama-1.1B-Chat-v1.0-GGUF:Q4_K_M";
//! if provisioner.find_local_model(reference).is_none() {
//!     let path = provisioner.download_model(reference, "hf").await?;
//!     println!("fetched {}", path.display());
//! }
//!
//! // What it is, and whether it is whole.
//! let info = provisioner.get_model_info(reference)?;
//! println!("{}: {} files, {} bytes", info.model_dir.display(), info.file_count, info.total_size);
//! provisioner.verify_model(reference)?;
//!
//! // Where a server finds it.
//! if let Some(path) = provisioner.find_local_model(reference) {
//!     println!("llama-server --model {}", path.display());
//! }
//!
//! // Exactly this model goes, and nothing else.
//! provisioner.delete_model(reference)?;
//! # Ok(())
//! # }
//! ```

mod browse;
mod builder;
mod check;
mod convert;
mod delete;
mod destination;
mod discard;
mod download;
mod fetch;
mod find;
mod info;
mod inventory;
mod list;
mod mix;
mod outstanding;
mod plan;
mod remote_header;
mod remote_row;
mod renewal;
mod source;
mod updates;
mod whole;

pub use browse::RemoteModel;
pub use builder::{Builder, ModelProvisioner};
pub use convert::{Conversion, ConvertRequest, Converted, Converter, OUTPUT_TYPES, Origin, OutputSink};
pub use download::{DestinationKind, DownloadPlan, DownloadRequest, Downloaded};
pub use info::ModelInfo;
pub use inventory::{
    Duplicate, FileCopy, IdleModel, Inventory, PlanTarget, ScanEvent, Totals, duplicates, mark_duplicates, stores,
};
pub use outstanding::Outstanding;
pub use remote_header::RemoteHeader;
pub use remote_row::Bounds;
pub use updates::{ChangedFile, ModelUpdate};
