//! Bounded readers of model headers. They read the header only, cap what a file may make them allocate, and keep
//! unknown types as numbers instead of failing.

pub mod adapter;
pub mod card;
pub mod config_json;
mod config_shape;
pub mod gguf;
mod json;
mod kind;
pub(crate) mod layers;
mod metadata;
mod named;
mod names;
mod prefix;
pub mod quantization_config;
pub mod safetensors;
mod scanner;
mod seen;
mod sniff;
pub mod tokenizer;
mod warnings;

pub use kind::Kind;
pub use metadata::{Metadata, Structure, read_metadata, read_summary};
pub(crate) use metadata::{UNREADABLE, read_metadata_as, read_summary_as};
pub(crate) use named::Named;
pub use names::TensorNames;
pub use prefix::{Prefix, read_prefix};
pub use sniff::LookAlike;
