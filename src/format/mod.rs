//! Bounded readers of model headers. They read the header only, cap what a file may make them allocate, and keep
//! unknown types as numbers instead of failing.

pub mod gguf;
mod metadata;
pub mod safetensors;

pub use metadata::{Metadata, Structure, read_metadata};
