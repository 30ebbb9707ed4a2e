//! Room on a file system.

use std::path::Path;

use crate::error::Result;

/// Room on the file system that holds a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Size of the file system.
    pub total: u64,
    /// Free, reserved blocks included.
    pub free: u64,
    /// Free for this user.
    pub available: u64,
}

/// Asks the file system of `path`, or of its nearest ancestor that exists.
///
/// # Errors
/// [`crate::Error::Io`] when no ancestor can be asked.
pub fn space(_path: &Path) -> Result<Space> {
    todo!()
}
