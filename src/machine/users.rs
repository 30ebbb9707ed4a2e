//! User names.

/// The name of a user id, from the password file; `None` if it has none there.
#[must_use]
pub fn user_name(_uid: u32) -> Option<String> {
    todo!()
}

/// The effective user id of this process.
#[must_use]
pub fn current_user() -> u32 {
    rustix::process::geteuid().as_raw()
}
