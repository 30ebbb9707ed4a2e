//! What a file of weights is.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::model::{Role, text};

/// What a file of weights is, told by its header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Kind {
    /// A model, or a part of one.
    #[default]
    Model,
    /// What turns pictures or sound into tokens of a model.
    Projector,
    /// A head that proposes tokens for another model.
    Draft,
    /// Changes to the weights of another model.
    Adapter,
    /// A direction that is added to what the layers of another model pass on.
    ControlVector,
    /// How much each weight of a model matters, for who quantizes it.
    Imatrix,
    /// A tokenizer without weights.
    Vocabulary,
}

impl Kind {
    /// Its name with an article.
    #[must_use]
    pub fn with_article(self) -> String {
        let article = if matches!(self, Self::Adapter | Self::Imatrix) { "an" } else { "a" };
        format!("{article} {self}")
    }

    /// Whether it is no part of the model that it lies beside, which neither has it as a quantization nor takes it along: unlike a
    /// projector or a draft head, it serves other models as well, or is somebody's own work.
    #[must_use]
    pub fn stands_alone(self) -> bool {
        matches!(self, Self::Adapter | Self::ControlVector | Self::Imatrix | Self::Vocabulary)
    }

    /// What is to be said where a quantization's label names nothing but one of these.
    #[must_use]
    pub fn named_by(self, label: &str) -> String {
        format!("no model here is called {}: it names {}", text::printable(label), self.with_article())
    }

    /// The role of a file of that kind; `None` for a model, whose files are told apart by their names.
    #[must_use]
    pub fn role(self) -> Option<Role> {
        match self {
            Self::Model => None,
            Self::Projector => Some(Role::Mmproj),
            Self::Vocabulary => Some(Role::Tokenizer),
            Self::Draft | Self::Adapter | Self::ControlVector | Self::Imatrix => Some(Role::Other),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Model => "model",
            Self::Projector => "projector",
            Self::Draft => "draft head",
            Self::Adapter => "adapter",
            Self::ControlVector => "control vector",
            Self::Imatrix => "importance matrix",
            Self::Vocabulary => "vocabulary",
        })
    }
}
