//! Dialogs, one over the other.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::{Line, Wait};
use crate::hub::SearchHit;
use crate::model::{DestinationKind, Plan, Sweep, SweepItem};
use crate::provisioner::PlanTarget;
use crate::store::remote::RemoteRow;
use crate::tui::keymap::Pane;
use crate::tui::msg::{Choice, Generation, Offer};
use crate::tui::update::Agreed;

/// A dialog.
#[derive(Clone, Debug)]
pub enum Dialog {
    /// What a deletion would do.
    Plan(PlanDialog),
    /// The second question about a deletion that hurts something.
    Sure(SureDialog),
    /// What to fetch.
    Pull(PullDialog),
    /// What the hub found.
    Hits(HitsDialog),
    /// What a repository offers.
    Files(FilesDialog),
    /// What nothing can use any more.
    Sweep(SweepDialog),
    /// The keys.
    Help {
        /// Lines that are scrolled away.
        scroll: usize,
    },
    /// Whether to quit although jobs would stop.
    Quit,
}

impl Dialog {
    /// Where its keys are looked up.
    #[must_use]
    pub fn pane(&self) -> Pane {
        match self {
            Self::Plan(_) => Pane::Plan,
            Self::Sure(_) => Pane::Sure,
            Self::Pull(_) => Pane::Pull,
            Self::Hits(_) => Pane::Hits,
            Self::Files(_) => Pane::Files,
            Self::Sweep(_) => Pane::Sweep,
            Self::Help { .. } => Pane::Help,
            Self::Quit => Pane::Quit,
        }
    }
}

/// A deletion plan on its way to a decision.
#[derive(Clone, Debug)]
pub struct PlanDialog {
    /// What it is about.
    pub targets: Vec<PlanTarget>,
    /// The request, while it runs.
    pub wait: Option<Wait>,
    /// The plan, or why there is none.
    pub plan: Option<Result<Box<Plan>, String>>,
    /// What a person has agreed to, while the plan is made anew.
    pub agreed: Option<Agreed>,
    /// When the plan was written to the terminal; keys from before are no answer to it.
    pub drawn: Option<Duration>,
    /// Lines that are scrolled away.
    pub scroll: usize,
    /// What it removes, when it is the plan of a sweep.
    pub swept: Vec<SweepItem>,
}

/// What nothing can use any more, on its way to a plan.
#[derive(Clone, Debug)]
pub struct SweepDialog {
    /// The look at the stores, while it runs.
    pub wait: Option<Wait>,
    /// What was found, or why nothing could be looked at.
    pub sweep: Option<Result<Box<Sweep>, String>>,
    /// The line that keys go to: the items, then what is kept.
    pub cursor: usize,
    /// Items that are chosen, by their places in what was found, which never changes.
    pub marks: BTreeSet<usize>,
}

impl SweepDialog {
    /// Lines to choose from and to look at.
    #[must_use]
    pub fn length(&self) -> usize {
        self.found().map_or(0, |sweep| sweep.items.len() + sweep.kept.len())
    }

    /// What was found.
    #[must_use]
    pub fn found(&self) -> Option<&Sweep> {
        self.sweep.as_ref()?.as_ref().ok().map(AsRef::as_ref)
    }
}

/// The second question.
#[derive(Clone, Debug)]
pub struct SureDialog {
    /// What would happen, a line each.
    pub reasons: Vec<String>,
    /// When it was written to the terminal.
    pub drawn: Option<Duration>,
}

/// The text field of a pull.
#[derive(Clone, Debug, Default)]
pub struct PullDialog {
    /// What is typed.
    pub line: Line,
    /// What it waits for: a listing or a search.
    pub wait: Option<(Wait, Asked)>,
    /// What went wrong with the last try.
    pub error: Option<String>,
}

/// What was asked of the hub.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// The files of a reference.
    Files,
    /// Repositories by words.
    Hits,
}

/// What a search found.
#[derive(Clone, Debug)]
pub struct HitsDialog {
    /// What was searched for.
    pub text: String,
    /// The repositories.
    pub hits: Vec<SearchHit>,
    /// The one that keys go to.
    pub cursor: usize,
    /// The listing that it waits for.
    pub wait: Option<Wait>,
    /// What went wrong with the last try.
    pub error: Option<String>,
}

/// What a repository offers.
#[derive(Clone, Debug)]
pub struct FilesDialog {
    /// The choices.
    pub offer: Box<Offer>,
    /// The request for the headers that tell what the choices are and need.
    pub wait: Generation,
    /// What they tell, as far as they are here, or why it cannot be told.
    pub told: Option<Result<Arc<RemoteRow>, String>>,
    /// The one that keys go to; none where the reference means none, until a person goes to one.
    pub cursor: Option<usize>,
    /// Choices that are marked, by their places in what is offered, which never changes.
    pub marks: BTreeSet<usize>,
    /// Where the download goes.
    pub to: DestinationKind,
    /// Whether the vision projector comes along.
    pub mmproj: bool,
    /// Why the last try did not work.
    pub error: Option<String>,
}

impl FilesDialog {
    /// Whether headers are still being read.
    #[must_use]
    pub fn is_reading(&self) -> bool {
        match &self.told {
            None => self.offer.header.is_some(),
            Some(told) => told.as_ref().is_ok_and(|row| row.coming),
        }
    }

    /// The folder that the download goes to, and the room there.
    #[must_use]
    pub fn place(&self) -> (&Path, Option<u64>) {
        match (&self.offer.cache, self.to) {
            (Some((folder, free)), DestinationKind::Hf) => (folder, *free),
            _ => (&self.offer.folder, self.offer.available),
        }
    }

    /// What Enter takes: what is marked, else what the cursor is on.
    #[must_use]
    pub fn chosen(&self) -> Vec<&Choice> {
        let places: Vec<usize> = if self.marks.is_empty() {
            self.cursor.into_iter().collect()
        } else {
            self.marks.iter().copied().collect()
        };
        places.into_iter().filter_map(|place| self.offer.choices.get(place)).collect()
    }

    /// Bytes of the projector, if it comes along.
    #[must_use]
    pub fn extra(&self) -> u64 {
        // Single files come alone.
        let sets = self.chosen().iter().any(|choice| choice.file.is_none());
        self.offer.projector.as_ref().filter(|_| self.mmproj && sets).map_or(0, |(_, bytes)| *bytes)
    }
}
