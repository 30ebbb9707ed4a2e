//! The detail of the row under the cursor.

use std::time::Duration;

use super::Wait;
use crate::model::ModelId;
use crate::store::{Details, Part};

/// What the detail is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Subject {
    /// The model under the cursor.
    #[default]
    Model,
    /// The job under the cursor.
    Job,
}

/// The detail pane.
#[derive(Clone, Debug, Default)]
pub struct Detail {
    /// The row that is shown.
    pub model: Option<ModelId>,
    /// What is known of it beyond the row, or why not.
    pub loaded: Option<Result<Box<Details>, String>>,
    /// The request that runs.
    pub wait: Option<Wait>,
    /// When to ask: a short while after the cursor came to rest.
    pub due: Option<Duration>,
    /// Lines that are scrolled away.
    pub scroll: usize,
    /// The part that keys go to; none is the whole row.
    pub part: Option<Part>,
    /// The marked parts.
    pub marks: Vec<Part>,
}

impl Detail {
    /// What an action is about: the marked parts, else the part under the cursor; nothing is the whole row.
    #[must_use]
    pub fn parts(&self) -> Vec<Part> {
        if self.marks.is_empty() { self.part.iter().cloned().collect() } else { self.marks.clone() }
    }
}
