//! Work to start, as data.

use std::path::PathBuf;
use std::sync::Arc;

use super::msg::Generation;
use crate::jobs::{Control, JobId, JobSpec};
use crate::model::ModelId;
use crate::provisioner::{DownloadRequest, PlanTarget, RemoteHeader};
use crate::store::Row;

/// Work to start. Answers come as messages; a request supersedes the one of its kind that came before it.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Scan every store. A scan that runs is cancelled.
    Scan(Generation),
    /// Look at the stores of every user too, or no longer.
    AllUsers(Generation, bool),
    /// Look whether another program changed a store.
    Look(Generation),
    /// Find out who holds these rows.
    FindHolders(Generation, Vec<Arc<Row>>),
    /// Read everything about a row.
    Details(Generation, ModelId),
    /// Find out what a deletion would do.
    Plan(Generation, Vec<PlanTarget>),
    /// Look for what nothing can use any more; what these downloads go on with is not that.
    Sweep(Generation, Vec<DownloadRequest>),
    /// Ask the file systems of these folders for their room.
    ReadHost(Generation, Vec<PathBuf>),
    /// Read the memory of this host and of its GPUs.
    ReadMemory,
    /// Find out what a reference offers to download.
    List(Generation, String),
    /// Fetch the header that tells what the choices of a repository need.
    Header(Generation, Box<RemoteHeader>),
    /// Search the hub.
    Search(Generation, String),
    /// Nobody waits for a listing or a search any more.
    StopAsking,
    /// Put a job into the queue.
    Submit(Box<JobSpec>),
    /// Do something to a job.
    Control(JobId, Control),
    /// Remove the jobs that have ended from the list.
    ClearEnded,
    /// Limit the speed of all downloads together.
    Limit(Option<u64>),
    /// Put text on the clipboard of the terminal.
    Copy(String),
    /// Ring the bell of the terminal.
    Bell,
    /// Draw everything anew.
    Redraw,
    /// Give the terminal back and stop until the shell continues the process.
    Suspend,
}
