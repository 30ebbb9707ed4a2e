//! What can be asked for.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::model::{ModelId, Plan, SweepItem};
use crate::provisioner::{ConvertRequest, DownloadRequest, PlanTarget};
use crate::store::Part;

/// The number of a job; never used twice in one queue file.
///
/// It is text in JSON: programs pass it back and never count with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct JobId(pub u64);

impl FromStr for JobId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse().map(Self).map_err(|_| format!("'{}' is no job number", crate::model::text::printable(text)))
    }
}

impl Serialize for JobId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for JobId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a deletion's plan was made from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Basis {
    /// A person saw the plan, and time has passed since: right before it runs it is made anew from these, and nothing is removed
    /// when that says something else.
    Seen(Vec<PlanTarget>),
    /// It was made just now, in order to run at once.
    JustMade,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
#[non_exhaustive]
pub enum JobSpec {
    /// Fetch a model. The only kind that a queue file brings back after a restart.
    Download(DownloadRequest),
    /// Check models.
    Verify {
        /// Which.
        models: Vec<ModelId>,
        /// Presence, sizes and structure only.
        quick: bool,
    },
    /// Convert a model that is here.
    Convert(ConvertRequest),
    /// Run a deletion plan.
    Delete {
        /// The plan, exactly as shown.
        plan: Plan,
        /// How the plan stays true until it runs.
        basis: Basis,
    },
    /// Run the plan of a sweep that a person has seen.
    Sweep {
        /// The plan, exactly as shown.
        plan: Plan,
        /// What the plan removes, for the log.
        #[serde(default)]
        items: Vec<SweepItem>,
    },
}

impl JobSpec {
    /// The kind as one word, for the queue and JSON.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Download(_) => "download",
            Self::Verify { .. } => "verify",
            Self::Convert(_) => "convert",
            Self::Delete { .. } => "delete",
            Self::Sweep { .. } => "sweep",
        }
    }

    /// What it is about, for the queue: the reference, or the models' names.
    #[must_use]
    pub fn subject(&self) -> String {
        let names = |models: &[ModelId]| match models {
            [one] => crate::model::text::printable(&one.id),
            many => format!("{} models", many.len()),
        };
        match self {
            Self::Download(request) => crate::model::text::printable(&request.reference),
            Self::Verify { models, .. } => names(models),
            Self::Convert(request) => crate::model::text::printable(&request.reference),
            Self::Delete { basis: Basis::Seen(targets), .. } => match targets.as_slice() {
                [one] => one.name(),
                many if many.iter().any(|target| target.part != Part::Whole) => format!("{} parts", many.len()),
                many => format!("{} models", many.len()),
            },
            Self::Delete { plan, .. } => names(&plan.models),
            Self::Sweep { items, .. } => match items.as_slice() {
                [one] => {
                    crate::model::text::printable_path(std::path::Path::new(one.path.file_name().unwrap_or_default()))
                }
                many => format!("{} items", many.len()),
            },
        }
    }
}
