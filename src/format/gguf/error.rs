//! Why a header could not be read to its end.

use std::fmt;
use std::io;

use crate::format::sniff::LookAlike;
use crate::model::text;

/// Why a header could not be read to its end. Each prints as one line without control characters.
#[derive(Debug)]
pub enum Error {
    /// Another kind of file.
    NotGguf(LookAlike),
    /// The file ends inside its header.
    Truncated {
        /// What was being read: "key 3: value", "tensor 7: offset".
        at: String,
        /// At least so many bytes are missing; `None` when not even that is known.
        missing: Option<u64>,
    },
    /// A version that no reader knows.
    Unsupported(u32),
    /// A length, count, type or offset that no valid file has.
    Malformed(String),
    /// More than is read of any file: which limit it is.
    TooLarge(String),
    /// The system could not read the file.
    Io(io::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotGguf(what) => write!(f, "not a GGUF file: {what}"),
            Self::Truncated { at, missing: None } => write!(f, "truncated in its header ({at})"),
            Self::Truncated { at, missing: Some(1) } => {
                write!(f, "truncated in its header ({at}): at least 1 byte missing")
            }
            Self::Truncated { at, missing: Some(n) } => {
                write!(f, "truncated in its header ({at}): at least {n} bytes missing")
            }
            Self::Unsupported(version) => write!(f, "unsupported GGUF version {version}"),
            Self::TooLarge(what) => {
                write!(f, "its header is larger than this program reads: {}", text::printable(what))
            }
            Self::Malformed(what) => write!(f, "malformed GGUF: {}", text::printable(what)),
            Self::Io(error) => write!(f, "cannot read the header: {}", text::printable(&error.to_string())),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io(error) => Some(error),
            _ => None,
        }
    }
}
