//! When the stores are next looked at for what other programs did.

use std::time::Duration;

use crate::store::fingerprint::Fingerprint;
use crate::tui::msg::Generation;

/// Shortest and longest time between two looks.
const SHORTEST: Duration = Duration::from_secs(10);
const LONGEST: Duration = Duration::from_secs(300);
/// Time between two looks for each folder that one takes in: with a few microseconds a folder, some hundredths of a percent of one core
/// at most.
const FOR_A_FOLDER: Duration = Duration::from_millis(15);

/// What is known of the stores since the last scan began.
#[derive(Clone, Debug, Default)]
pub struct Watch {
    /// When to look again; `None` while nothing was seen yet or an answer is awaited.
    pub due: Option<Duration>,
    /// The look that is awaited.
    pub asked: Option<Generation>,
    /// What the last look saw.
    pub seen: Option<Fingerprint>,
}

impl Watch {
    /// Takes in what a look saw, and plans the next one.
    pub fn saw(&mut self, seen: Fingerprint, at: Duration) {
        let folders = u32::try_from(seen.folders()).unwrap_or(u32::MAX);
        self.asked = None;
        self.seen = Some(seen);
        self.due = Some(at + FOR_A_FOLDER.saturating_mul(folders).clamp(SHORTEST, LONGEST));
    }
}
