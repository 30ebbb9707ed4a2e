//! Why no byte comes, in words: starved by the limit or by other downloads, or stalled.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::time::sleep;

use crate::model::size::{Meter, duration};
use crate::model::{Rate, text};
use crate::transfer::{Courtesy, Options};

/// Over which the speed of all downloads is measured.
const WINDOW: Duration = Duration::from_secs(3);
/// How long a hub may think before it is said that it does.
const THINKS: [u64; 5] = [3, 10, 30, 60, 120];

/// Bytes of all downloads of this worker. Cheap to clone.
#[derive(Clone)]
pub(super) struct Traffic(Arc<Mutex<State>>);

struct State {
    begun: Instant,
    bytes: u64,
    meter: Meter,
}

impl Default for Traffic {
    fn default() -> Self {
        let state = State { begun: Instant::now(), bytes: 0, meter: Meter::new(WINDOW) };
        Self(Arc::new(Mutex::new(state)))
    }
}

impl Traffic {
    /// Counts new bytes, and gives the bytes per second of all.
    pub(super) fn rate(&self, fresh: u64) -> u64 {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = state.begun.elapsed();
        if fresh > 0 || state.bytes == 0 {
            state.bytes += fresh;
            let bytes = state.bytes;
            state.meter.record(now, bytes);
        }
        state.meter.rate(now).map_or(0, |rate| rate.0)
    }
}

/// What a download without a byte waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Quiet {
    /// The hub, which has not answered yet.
    Hub(String),
    /// The disk: what is there already is looked at.
    Disk,
    /// Its share of the speed limit, in bytes per second.
    Limit(u64),
    /// Its share of what courtesy leaves.
    Courtesy(u64),
    /// One of so many connections, which other downloads have.
    Connection(usize),
    /// The server: it sends nothing, and after this time it is asked again.
    Server(Duration),
}

impl Quiet {
    /// Of a transfer with so many connections through which bytes came, while all downloads together go on at `rate`.
    pub(super) fn of(options: &Options, begun: bool, connections: usize, rate: u64) -> Self {
        let used_up = |limit: &u64| rate.saturating_mul(2) >= *limit;
        if !begun {
            return Self::Disk;
        }
        if let Some(limit) = options.throttle.limit().filter(used_up) {
            return Self::Limit(limit);
        }
        if let Some(limit) = options.courtesy.as_ref().and_then(Courtesy::limit).filter(used_up) {
            return Self::Courtesy(limit);
        }
        let most = options.connections.most();
        if connections == 0 && rate > 0 && options.connections.open() >= most {
            return Self::Connection(most);
        }
        Self::Server(options.stall)
    }

    /// After so long without a byte.
    pub(super) fn words(&self, quiet: Duration) -> String {
        let seconds = Duration::from_secs(quiet.as_secs());
        let quiet = duration(seconds);
        match self {
            Self::Hub(endpoint) => {
                let host = endpoint.split_once("://").map_or(endpoint.as_str(), |(_, rest)| rest);
                format!("no answer from {} for {quiet}; it was asked for the list of files", text::printable(host))
            }
            Self::Disk => format!("looking through what is here already, for {quiet}"),
            Self::Limit(limit) => format!("for its share of the speed limit: other downloads use the {}", Rate(*limit)),
            Self::Courtesy(limit) => {
                format!("for its share: courtesy holds all downloads together to {}", Rate(*limit))
            }
            Self::Connection(most) => format!("for a connection: other downloads have all {most}"),
            Self::Server(stall) if seconds < *stall => {
                format!("stalled: no byte for {quiet}; connects anew after {}", duration(*stall))
            }
            Self::Server(_) => format!("stalled: no byte for {quiet}, new connections bring none either"),
        }
    }
}

/// Runs `work` and says from time to time that it is not done yet.
pub(super) async fn while_quiet<T>(work: impl Future<Output = T>, tell: impl Fn(Duration)) -> T {
    tokio::pin!(work);
    let mut gone = Duration::ZERO;
    let mut at = 0;
    loop {
        let next = THINKS.get(at).map_or(gone * 2, |seconds| Duration::from_secs(*seconds));
        tokio::select! {
            done = &mut work => return done,
            () = sleep(next.saturating_sub(gone)) => {}
        }
        (gone, at) = (next, at + 1);
        tell(gone);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transfer::{Connections, Throttle};

    #[test]
    fn who_is_starved_is_not_called_stalled() {
        let options = |limit| Options { throttle: Throttle::new(limit), ..Options::default() };
        assert_eq!(Quiet::of(&options(Some(1000)), true, 1, 900), Quiet::Limit(1000));
        assert_eq!(
            Quiet::of(&options(Some(1000)), true, 1, 0),
            Quiet::Server(Duration::from_secs(20)),
            "nobody has it"
        );
        assert_eq!(Quiet::of(&options(None), true, 1, 900), Quiet::Server(Duration::from_secs(20)));
        assert_eq!(Quiet::of(&options(None), false, 0, 0), Quiet::Disk);
        let none = Options { connections: Connections::new(1), ..options(None) };
        assert_eq!(Quiet::of(&none, true, 0, 900), Quiet::Server(Duration::from_secs(20)), "one is free");
    }

    #[test]
    fn the_words_say_how_long_and_what_comes_next() {
        let after = |seconds| Quiet::Server(Duration::from_secs(20)).words(Duration::from_secs(seconds));
        assert_eq!(after(4), "stalled: no byte for 4 s; connects anew after 20 s");
        assert_eq!(after(60), "stalled: no byte for 1 m 00 s, new connections bring none either");
        let hub = Quiet::Hub("https://hub.example".to_owned()).words(Duration::from_secs(3));
        assert_eq!(hub, "no answer from hub.example for 3 s; it was asked for the list of files");
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_wait_is_told_ever_less_often() {
        let told = Mutex::new(Vec::new());
        let work = sleep(Duration::from_secs(500));
        while_quiet(work, |quiet| told.lock().unwrap().push(quiet.as_secs())).await;
        assert_eq!(*told.lock().unwrap(), [3, 10, 30, 60, 120, 240, 480]);
    }
}
