//! Where downloads go.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Into which kind of store a download goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DestinationKind {
    /// A folder of the flat store.
    #[default]
    Flat,
    /// The Hugging Face cache.
    Hf,
}

impl FromStr for DestinationKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [Self::Flat, Self::Hf]
            .into_iter()
            .find(|kind| kind.name() == text)
            .ok_or_else(|| format!("'{}' is no destination; use flat or hf", super::text::printable(text)))
    }
}

impl DestinationKind {
    /// The other one.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::Flat => Self::Hf,
            Self::Hf => Self::Flat,
        }
    }

    /// The word for it on the command line and in files.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Flat => "flat",
            Self::Hf => "hf",
        }
    }
}
