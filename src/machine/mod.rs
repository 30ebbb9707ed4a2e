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

use std::hash::{BuildHasher, Hasher, RandomState};

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

/// A number in 0..1 that differs between processes and calls, from the keys that the standard library draws for each map.
pub(crate) fn random() -> f64 {
    let drawn = RandomState::new().build_hasher().finish();
    (drawn >> 11) as f64 / (1_u64 << 53) as f64
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_numbers_differ_and_stay_in_bounds() {
        let numbers: Vec<f64> = (0..64).map(|_| random()).collect();
        assert!(numbers.iter().all(|n| (0.0..1.0).contains(n)));
        assert!(numbers.iter().any(|n| *n < 0.5) && numbers.iter().any(|n| *n >= 0.5));
    }
}
