//! Runs deletion plans, and nothing else removes a model's file.

use std::path::Path;

use tokio_util::sync::CancellationToken;

use crate::model::{DeletionReport, Plan, Step};

/// What a [`Hook`] wants to happen at a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Go on.
    Proceed,
    /// Let this operation fail as the system would with this error number.
    Fail(i32),
    /// Stop the run at once, as a crash would.
    Stop,
}

/// Called before every operation that changes the disk, so that tests can stop or fail at each.
pub trait Hook: Send {
    /// `index` counts operations from 0.
    fn before(&mut self, index: usize, step: &Step) -> Decision;
}

/// Lets everything proceed.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoHook;

impl Hook for NoHook {
    fn before(&mut self, _index: usize, _step: &Step) -> Decision {
        Decision::Proceed
    }
}

/// Runs `plan`: each step re-checks the identity of its folder and its target right before it removes, follows no
/// link below the root, and skips itself when a step that it requires did not succeed. A failure is noted with its
/// cause and the run goes on; a target that is already gone is noted as a failure that says so.
///
/// `still_open` tells whether a process keeps a file open, for `held_bytes`. `progress` gets each finished step.
pub fn run(
    _plan: &Plan,
    _hook: &mut dyn Hook,
    _still_open: &dyn Fn(crate::model::Inode) -> bool,
    _progress: &mut dyn FnMut(&Path, u64),
    _cancel: &CancellationToken,
) -> DeletionReport {
    todo!()
}
