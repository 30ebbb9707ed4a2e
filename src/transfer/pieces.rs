//! Which bytes of a file go over which connection.

use std::ops::Range;
use std::time::{Duration, Instant};

use super::ranges::RangeSet;
use super::writer::BUFFER;

/// The largest piece. Pieces are given out in file order, so this times the number of connections is how far the hash
/// can lie behind the last byte.
pub(super) const MOST: u64 = 16 * 1024 * 1024;
/// The largest piece, and its part of the file, until one is there: what comes first may be of another version than what
/// comes then (one server of many may be behind), and is thrown away if it is.
const FIRST: u64 = 4 * 1024 * 1024;
const FIRST_PART: u64 = 8;
/// A file up to this size is not worth two requests.
const UNDIVIDED: u64 = 4 * 1024 * 1024;
/// The smallest piece, except the last one; also the least that is worth a connection of its own.
const LEAST: u64 = 1024 * 1024;
/// A piece whose connection sends nothing for so long is given to a connection that has nothing else to do.
const IDLE: Duration = Duration::from_secs(4);

/// A piece is split when what is left of it takes longer.
const WORTH: Duration = Duration::from_secs(2);

/// A range that one connection fetches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) id: u64,
    pub(super) range: Range<u64>,
}

#[derive(Clone, Debug)]
struct Active {
    id: u64,
    /// Up to where its bytes were sent to the pipeline.
    sent: u64,
    /// Where the next byte belongs.
    at: u64,
    end: u64,
    /// When it began, and with which byte.
    began: (Instant, u64),
    /// When the last byte came.
    last: Instant,
}

impl Active {
    /// Whether it would take so long that another connection pays, what that one throws away included.
    fn is_slow(&self, now: Instant) -> bool {
        let (left, took) = (self.end - self.at, now.saturating_duration_since(self.began.0).as_secs_f64());
        let rate = (self.at - self.began.1) as f64 / took.max(0.001);
        left >= 2 * LEAST && left as f64 > rate * WORTH.as_secs_f64()
    }
}

/// What is there of a file, what is on its way, and what nobody fetches yet.
#[derive(Clone, Debug)]
pub(super) struct Pieces {
    size: u64,
    /// What was there or was sent to the pipeline.
    here: RangeSet,
    active: Vec<Active>,
    next: u64,
}

impl Pieces {
    pub(super) fn new(size: u64, here: RangeSet) -> Self {
        Self { size, here, active: Vec::new(), next: 0 }
    }

    /// What was there or was sent to the pipeline.
    pub(super) fn here(&self) -> &RangeSet {
        &self.here
    }

    /// Whether every byte was sent to the pipeline.
    pub(super) fn is_done(&self) -> bool {
        self.here.covered() >= self.size
    }

    /// Whether some bytes are given to no connection.
    pub(super) fn has_unassigned(&self) -> bool {
        self.busy().gaps(self.size).next().is_some()
    }

    /// Bytes that are here or have arrived in a buffer.
    #[cfg(test)]
    fn arrived(&self) -> u64 {
        let mut arrived = self.here.clone();
        self.active.iter().for_each(|active| arrived.insert(active.sent..active.at));
        arrived.covered()
    }

    fn busy(&self) -> RangeSet {
        let mut busy = self.here.clone();
        self.active.iter().for_each(|active| busy.insert(active.sent..active.end));
        busy
    }

    /// The first piece that nobody fetches, in file order: large in the middle of a file, smaller towards its end, so
    /// that `connections` end together.
    pub(super) fn take(&mut self, connections: usize, now: Instant) -> Option<Piece> {
        let busy = self.busy();
        let gap = busy.gaps(self.size).next()?;
        let unassigned: u64 = busy.gaps(self.size).map(|gap| gap.end - gap.start).sum();
        let connections = connections.max(1) as u64;
        let first = (self.size / FIRST_PART).clamp(LEAST, FIRST);
        let most = if self.here.covered() < first && self.size > UNDIVIDED { first } else { MOST };
        let length = if connections == 1 { most } else { (unassigned / (2 * connections)).clamp(LEAST, most) };
        // All pieces but the last of a gap end where a buffer ends.
        let end = (gap.start + length).next_multiple_of(BUFFER as u64);
        let end = if gap.end.saturating_sub(end) < LEAST / 4 { gap.end } else { end.min(gap.end) };
        Some(self.begin(gap.start..end, now))
    }

    /// The whole rest of the file from `start`, whoever was to fetch it.
    pub(super) fn take_all_from(&mut self, start: u64, now: Instant) -> Piece {
        self.active.clear();
        self.begin(start..self.size, now)
    }

    /// Takes a part of what another connection was to fetch: all that is left of one that sends nothing, else half of
    /// the largest of those that take long.
    pub(super) fn split(&mut self, now: Instant) -> Option<Piece> {
        let idle = |active: &&mut Active| active.at < active.end && now.saturating_duration_since(active.last) >= IDLE;
        if let Some(idle) = self.active.iter_mut().find(idle) {
            let range = idle.at..idle.end;
            idle.end = idle.at;
            return Some(self.begin(range, now));
        }
        let slow = self.active.iter_mut().filter(|active| active.is_slow(now));
        let largest = slow.max_by_key(|active| active.end - active.at)?;
        let middle = (largest.at + (largest.end - largest.at) / 2).next_multiple_of(BUFFER as u64);
        let range = middle..largest.end;
        largest.end = middle;
        Some(self.begin(range, now))
    }

    /// Whether every connection is silent.
    pub(super) fn is_stuck(&self, now: Instant) -> bool {
        !self.active.is_empty() && self.active.iter().all(|active| now.saturating_duration_since(active.last) >= IDLE)
    }

    fn begin(&mut self, range: Range<u64>, now: Instant) -> Piece {
        let id = self.next;
        self.next += 1;
        self.active.push(Active {
            id,
            sent: range.start,
            at: range.start,
            end: range.end,
            began: (now, range.start),
            last: now,
        });
        Piece { id, range }
    }

    /// Where a piece ends now; others may have taken a part of it. `None` when it is nobody's any more.
    pub(super) fn end(&self, id: u64) -> Option<u64> {
        self.active.iter().find(|active| active.id == id).map(|active| active.end)
    }

    /// The bytes of a piece up to `at` have arrived in a buffer.
    pub(super) fn arrive(&mut self, id: u64, at: u64, now: Instant) {
        if let Some(active) = self.active.iter_mut().find(|active| active.id == id) {
            active.at = at;
            active.last = now;
        }
    }

    /// These bytes of a piece were sent to the pipeline.
    pub(super) fn sent(&mut self, id: u64, range: Range<u64>) {
        if let Some(active) = self.active.iter_mut().find(|active| active.id == id) {
            active.sent = range.end;
        }
        self.here.insert(range);
    }

    /// A connection has ended: what it has not brought is nobody's. All that it brought was sent before.
    pub(super) fn release(&mut self, id: u64) {
        self.active.retain(|active| active.id != id);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn pieces_come_in_file_order_and_shrink_towards_the_end() {
        let now = Instant::now();
        let mut pieces = Pieces::new(1 << 30, RangeSet::default());
        let mut at = 0;
        let mut last = u64::MAX;
        while let Some(piece) = pieces.take(8, now) {
            assert_eq!(piece.range.start, at);
            at = piece.range.end;
            let length = piece.range.end - piece.range.start;
            assert!(length <= MOST && (length <= last || at == 1 << 30), "{piece:?}");
            last = length;
        }
        assert_eq!(at, 1 << 30);
        assert!(last <= 2 * LEAST);
    }

    #[test]
    fn one_connection_takes_a_small_piece_and_then_large_ones_to_the_end() {
        let size = FIRST + MOST + 5;
        let mut pieces = Pieces::new(size, RangeSet::default());
        let first = pieces.take(1, Instant::now()).unwrap();
        assert!(first.range.start == 0 && first.range.end <= size / FIRST_PART + BUFFER as u64, "{first:?}");
        pieces.sent(first.id, first.range.clone());
        pieces.release(first.id);
        let second = pieces.take(1, Instant::now()).unwrap();
        assert_eq!(second.range.end - second.range.start, MOST);
        let mut small = Pieces::new(UNDIVIDED, RangeSet::default());
        assert_eq!(small.take(1, Instant::now()).unwrap().range, 0..UNDIVIDED);
        assert_eq!(small.take(1, Instant::now()), None);
    }

    #[test]
    fn a_silent_connection_loses_all_that_it_has_not_brought() {
        let start = Instant::now();
        let mut pieces = Pieces::new(MOST, RangeSet::default());
        let silent = pieces.take_all_from(0, start);
        pieces.arrive(silent.id, 1000, start);
        pieces.sent(silent.id, 0..1000);
        assert!(!pieces.is_stuck(start) && pieces.is_stuck(start + IDLE));
        let stolen = pieces.split(start + IDLE).unwrap();
        assert!(!pieces.is_stuck(start + IDLE));
        assert_eq!((stolen.range, pieces.end(silent.id)), (1000..MOST, Some(1000)));
        assert_eq!(pieces.split(start + IDLE).unwrap().range.end, MOST, "half of the largest");
    }

    #[derive(Clone, Debug)]
    enum Step {
        Take(usize),
        Split(bool),
        Progress(usize, u64),
        Flush(usize),
        End(usize),
        Restart,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => (1..20_usize).prop_map(Step::Take),
            1 => any::<bool>().prop_map(Step::Split),
            6 => (0..20_usize, 1..200_000_u64).prop_map(|(which, bytes)| Step::Progress(which, bytes)),
            3 => (0..20_usize).prop_map(Step::Flush),
            2 => (0..20_usize).prop_map(Step::End),
            1 => Just(Step::Restart),
        ]
    }

    /// A connection as it behaves: it has a buffer, asks where its piece ends, and flushes before it ends.
    struct Connection {
        id: u64,
        sent: u64,
        at: u64,
    }

    proptest! {
        /// No byte is given to two connections, none is forgotten, and whatever comes and goes, the file ends whole.
        #[test]
        fn any_sequence_of_progress_loss_and_restart_ends_whole(
            size in 0..6_000_000_u64,
            steps in prop::collection::vec(step(), 0..80),
        ) {
            let mut now = Instant::now();
            let mut pieces = Pieces::new(size, RangeSet::default());
            let mut open: Vec<Connection> = Vec::new();
            let flush = |pieces: &mut Pieces, one: &mut Connection| {
                pieces.sent(one.id, one.sent..one.at);
                one.sent = one.at;
            };
            let progress = |pieces: &mut Pieces, one: &mut Connection, bytes: u64, now| {
                let end = pieces.end(one.id).unwrap_or(one.at);
                let at = (one.at + bytes).min(end);
                // A buffer holds no more than its length.
                while at - one.sent > BUFFER as u64 {
                    let to = (one.sent + 1).next_multiple_of(BUFFER as u64).min(at);
                    pieces.sent(one.id, one.sent..to);
                    one.sent = to;
                }
                one.at = one.at.max(at);
                pieces.arrive(one.id, one.at, now);
            };
            for step in steps {
                match step {
                    Step::Take(count) => {
                        let before = pieces.busy();
                        if let Some(piece) = pieces.take(count, now) {
                            prop_assert!(!piece.range.is_empty() && piece.range.end <= size);
                            let mut both = before.clone();
                            both.insert(piece.range.clone());
                            prop_assert_eq!(both.covered(), before.covered() + piece.range.end - piece.range.start);
                            open.push(Connection { id: piece.id, sent: piece.range.start, at: piece.range.start });
                        }
                    }
                    Step::Split(wait) => {
                        if wait {
                            // Whoever waits so long has flushed.
                            open.iter_mut().for_each(|one| flush(&mut pieces, one));
                            now += IDLE;
                        }
                        if let Some(piece) = pieces.split(now) {
                            prop_assert!(!piece.range.is_empty());
                            open.push(Connection { id: piece.id, sent: piece.range.start, at: piece.range.start });
                        }
                    }
                    Step::Progress(which, bytes) if !open.is_empty() => {
                        let index = which % open.len();
                        progress(&mut pieces, &mut open[index], bytes, now);
                    }
                    Step::Flush(which) if !open.is_empty() => {
                        let index = which % open.len();
                        flush(&mut pieces, &mut open[index]);
                    }
                    Step::End(which) if !open.is_empty() => {
                        let mut one = open.swap_remove(which % open.len());
                        flush(&mut pieces, &mut one);
                        pieces.release(one.id);
                    }
                    Step::Restart => {
                        // What the journal says is no more than what is here.
                        open.clear();
                        pieces = Pieces::new(size, pieces.here().clone());
                    }
                    _ => {}
                }
                let arrived: u64 = open.iter().map(|one| one.at - one.sent).sum::<u64>() + pieces.here().covered();
                prop_assert_eq!(pieces.arrived(), arrived);
            }
            for mut one in open {
                let end = pieces.end(one.id).unwrap();
                progress(&mut pieces, &mut one, end, now);
                flush(&mut pieces, &mut one);
                pieces.release(one.id);
            }
            while let Some(piece) = pieces.take(4, now) {
                pieces.sent(piece.id, piece.range);
                pieces.release(piece.id);
            }
            prop_assert!(pieces.is_done() && !pieces.has_unassigned());
        }
    }
}
