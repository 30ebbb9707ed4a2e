//! How much memory a model needs to run, and whether this host has it.
//!
//! `need = weights + cache of keys and values + recurrent state + compute buffer + overhead of each device`: the way
//! llama.cpp allocates it. Everything here is a pure function of values, so that the sum can be shown with its parts.

mod cache;
mod fit;
mod host;
mod need;
mod shape;

pub use cache::{CacheType, Conditions, DEFAULT_CONTEXT};
pub use fit::{Fit, Shared, Verdict, fit};
pub use host::{Device, HostMemory, Ram};
pub use need::{MARGIN, Need, OVERHEAD, Weights, need};
pub(crate) use shape::scaled_context;
pub use shape::{CacheLayers, Shape};

#[cfg(test)]
mod tests;
