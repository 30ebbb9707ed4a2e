//! Readers of model headers: what good files tell, and what hostile ones cannot do.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, unreachable_pub)]

mod fuzz;
mod gguf;
mod hostile;
mod inputs;
mod interop;
mod interop_safetensors;
mod limits;
mod memory;
mod packed;
mod properties;
mod safetensors;
mod shape;
mod support;
