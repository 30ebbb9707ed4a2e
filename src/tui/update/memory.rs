//! The memory of this host: read every few seconds where there are GPUs, with the other figures of the header elsewhere.

use std::time::Duration;

use super::Effects;
use crate::model::memory::HostMemory;
use crate::tui::effect::Effect;
use crate::tui::msg::Now;
use crate::tui::state::{Dirty, FRESH, State};

/// How old the memory of a GPU may get: others start and stop programs there at any time.
const OFTEN: Duration = Duration::from_secs(5);

/// The memory was read.
pub(super) fn read(state: &mut State, found: HostMemory, now: Now) -> Dirty {
    let gpus = !found.gpus.is_empty();
    state.memory_due = Some(now.at + if gpus { OFTEN } else { FRESH });
    // What reads the same on the screen is no news, and no frame is computed for it.
    if state.memory.as_ref().is_some_and(|known| rounded(known) == rounded(&found)) {
        return Dirty::Clean;
    }
    if state.models.judge_by(&found, &state.facts.fit) {
        state.models.arrange(now.wall);
    }
    state.memory = Some(found);
    Dirty::Now
}

/// Reads it again when the time has come.
pub(super) fn due(state: &mut State, now: Now) -> Effects {
    if state.memory_due.is_some_and(|due| due <= now.at) {
        state.memory_due = None;
        return vec![Effect::ReadMemory];
    }
    Vec::new()
}

/// Figures to the 256 MiB, which is finer than they are shown and coarser than what comes and goes on an idle host.
fn rounded(memory: &HostMemory) -> HostMemory {
    let round = |bytes: &mut u64| *bytes = (*bytes + (128 << 20)) >> 28;
    let mut memory = memory.clone();
    for gpu in &mut memory.gpus {
        [&mut gpu.total_bytes, &mut gpu.free_bytes, &mut gpu.shared_bytes].into_iter().flatten().for_each(round);
    }
    if let Some(ram) = &mut memory.ram {
        round(&mut ram.available_bytes);
    }
    memory
}
