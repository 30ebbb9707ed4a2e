//! Every store of this host at once: what the table, `list` and `disk-usage` show, and plans over them.

use std::path::Path;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::error::Result;
use crate::model::selector::Selector;
use crate::model::{ModelId, Plan, StoreSummary, Verification};
use crate::store::{Details, Part, Row, Store, verify};

/// What a scan gives, as it goes.
#[derive(Clone, Debug, PartialEq)]
pub enum ScanEvent {
    /// A row, as soon as it is known.
    Row(Box<Row>),
    /// A store is done.
    Store(StoreSummary),
}

/// One row, or a part of it, to delete.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PlanTarget {
    /// The row.
    pub model: ModelId,
    /// Which part.
    pub part: Part,
}

/// The stores of this host. Cheap to clone; its methods block on the disk, so call them on a blocking thread.
#[derive(Clone, Debug)]
pub struct Inventory {
    _stores: Vec<Arc<dyn Store>>,
}

impl Inventory {
    /// The given stores; names on `protect` are kept out of every plan.
    #[must_use]
    pub fn new(stores: Vec<Arc<dyn Store>>, _protect: Vec<String>) -> Self {
        Self { _stores: stores }
    }

    /// Scans every store, each on its own thread. `sink` gets rows as they are found; each store's summary comes after
    /// its rows; the call returns after the last. Stops soon after `cancel`.
    pub fn scan(&self, _sink: &(dyn Fn(ScanEvent) + Sync), _cancel: &CancellationToken) {
        todo!()
    }

    /// Everything about one row, with the processes that hold it.
    ///
    /// # Errors
    /// [`crate::Error::ModelNotFound`].
    pub fn details(&self, _model: &ModelId) -> Result<Details> {
        todo!()
    }

    /// One plan for everything in `targets`, with the processes that hold the models noted in `holders`.
    ///
    /// # Errors
    /// [`crate::Error::ModelNotFound`] when one is gone.
    pub fn plan_deletion(&self, _targets: &[PlanTarget]) -> Result<Plan> {
        todo!()
    }

    /// The row, or the part of it, that a command names. `store_path` limits it to the store with that root.
    ///
    /// # Errors
    /// [`crate::Error::ModelNotFound`]; [`crate::Error::Ambiguous`] prints the full arguments to choose from.
    pub fn find(&self, _selector: &Selector, _store_path: Option<&Path>) -> Result<PlanTarget> {
        todo!()
    }

    /// Checks one row or a part of it.
    ///
    /// # Errors
    /// [`crate::Error::ModelNotFound`], [`crate::Error::Cancelled`]. What is wrong with a file is its status, never an error.
    pub fn verify(
        &self,
        _target: &PlanTarget,
        _depth: verify::Depth,
        _progress: &mut dyn FnMut(verify::Progress<'_>),
        _cancel: &CancellationToken,
    ) -> Result<Verification> {
        todo!()
    }
}
