//! Every store of this host at once: what the table, `list` and `disk-usage` show, and plans over them.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::error::Result;
use crate::model::{ModelId, Plan, StoreSummary};
use crate::store::{Details, Part, Row, Store};

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
}
