//! The one table of environment variables.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};

/// One variable that this program reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Variable {
    /// Its name.
    pub name: &'static str,
    /// What it does, in one line.
    pub help: &'static str,
}

/// The environment as a map of values; only the variables of [`Environment::TABLE`] are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Environment(BTreeMap<String, OsString>);

impl Environment {
    /// Every variable that this program reads.
    pub const TABLE: &'static [Variable] = &[];

    /// The variables of this process.
    #[must_use]
    pub fn of_process() -> Self {
        todo!()
    }

    /// A made-up environment, for tests and embedding programs.
    pub fn from_pairs<K: Into<String>, V: Into<OsString>>(pairs: impl IntoIterator<Item = (K, V)>) -> Self {
        Self(pairs.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
    }

    /// The value as it is, also if it is empty.
    #[must_use]
    pub fn raw(&self, name: &str) -> Option<&OsStr> {
        self.0.get(name).map(OsString::as_os_str)
    }

    /// The value unless it is unset, empty or not UTF-8.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        self.raw(name).and_then(OsStr::to_str).filter(|value| !value.is_empty())
    }
}
