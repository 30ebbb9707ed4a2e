//! This host: its name, its memory and GPUs, its users, its file systems, the processes that hold files.

mod deleted;
mod disks;
mod holders;
mod homes;
mod memory;
mod mounts;
mod process;
mod round_trip;
mod servers;
mod sockets;
mod users;

pub use deleted::{DeletedFile, DeletedFiles, find_deleted};
pub use disks::{is_network, is_rotating};
pub use holders::{Holders, find_holders};
pub use homes::{Home, homes};
pub use memory::{GpuDriver, MemoryProbe, Roots};
pub use mounts::{AccessTimes, Mount, Mounts, device_number};
pub use process::{describe_process, ignored_signals, own_program};
pub use round_trip::{Connection, RoundTrip, Watched};
pub use servers::{OllamaEnvironment, OllamaServer, ollama_environment, ollama_servers};
pub use sockets::{Listener, listener};
pub use users::{current_user, user_label, user_name};

/// What tells one start of this host from the next, where the kernel says it.
#[must_use]
pub fn boot_id() -> Option<String> {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(id.trim().to_owned()).filter(|id| (16..=64).contains(&id.len()))
}

/// The host's name as the kernel knows it.
#[must_use]
pub fn hostname() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
