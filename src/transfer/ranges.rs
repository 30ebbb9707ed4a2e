//! Which bytes of a file are there, and which are still to be fetched.

use std::ops::Range;

/// A set of byte offsets, kept as ranges in order that neither overlap nor touch nor are empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct RangeSet(Vec<Range<u64>>);

impl RangeSet {
    /// From `[start, end]` pairs out of a journal. `None` unless they are in order, disjoint, not empty and within
    /// `size`: such pairs were never written by this program, so nothing about them can be believed.
    pub(super) fn from_pairs(pairs: &[[u64; 2]], size: u64) -> Option<Self> {
        let mut set = Self::default();
        let mut last = 0;
        for &[start, end] in pairs {
            if start < last || start >= end || end > size {
                return None;
            }
            last = end;
            set.insert(start..end);
        }
        Some(set)
    }

    /// As `[start, end]` pairs in order.
    pub(super) fn pairs(&self) -> impl Iterator<Item = [u64; 2]> {
        self.0.iter().map(|range| [range.start, range.end])
    }

    /// Adds `range`, which may overlap what is there.
    pub(super) fn insert(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        // What arrives in order lands at the end of the last range.
        if let Some(last) = self.0.last_mut()
            && last.start <= range.start
        {
            if range.start <= last.end {
                last.end = last.end.max(range.end);
            } else {
                self.0.push(range);
            }
            return;
        }
        let first = self.0.partition_point(|other| other.end < range.start);
        let after = self.0.partition_point(|other| other.start <= range.end);
        let mut merged = range;
        if let (Some(one), true) = (self.0.get(first), first < after) {
            merged.start = merged.start.min(one.start);
        }
        if let (Some(other), true) = (after.checked_sub(1).and_then(|at| self.0.get(at)), first < after) {
            merged.end = merged.end.max(other.end);
        }
        self.0.splice(first..after, [merged]);
    }

    /// Number of bytes in the set.
    pub(super) fn covered(&self) -> u64 {
        self.0.iter().map(|range| range.end - range.start).sum()
    }

    /// Whether nothing is in it.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// End of the last range.
    pub(super) fn end(&self) -> u64 {
        self.0.last().map_or(0, |range| range.end)
    }

    /// Where the run of bytes that begins at or before `at` ends, if `at` is in the set.
    pub(super) fn run_end(&self, at: u64) -> Option<u64> {
        let next = self.0.partition_point(|range| range.end <= at);
        self.0.get(next).filter(|range| range.start <= at).map(|range| range.end)
    }

    /// Takes out everything from `length` on.
    pub(super) fn clip(&mut self, length: u64) {
        self.0.retain(|range| range.start < length);
        if let Some(last) = self.0.last_mut() {
            last.end = last.end.min(length);
        }
    }

    /// What is not in `other`.
    pub(super) fn without(&self, other: &Self) -> Self {
        let mut left = Self::default();
        for range in &self.0 {
            for gap in other.gaps(range.end) {
                left.insert(gap.start.max(range.start)..gap.end);
            }
        }
        left
    }

    /// The first `count` ranges.
    pub(super) fn keep_first(&mut self, count: usize) {
        self.0.truncate(count);
    }

    /// Number of ranges.
    pub(super) fn count(&self) -> usize {
        self.0.len()
    }

    /// What is missing of a file of `size` bytes, in file order.
    pub(super) fn gaps(&self, size: u64) -> impl Iterator<Item = Range<u64>> {
        let ends = std::iter::once(0).chain(self.0.iter().map(|range| range.end));
        let starts = self.0.iter().map(|range| range.start).chain(std::iter::once(size));
        ends.zip(starts).map(move |(end, start)| end..start.min(size)).filter(|gap| !gap.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SIZE: u64 = 64;

    fn model(ranges: &[Range<u64>]) -> [bool; SIZE as usize] {
        let mut bytes = [false; SIZE as usize];
        for range in ranges {
            bytes[range.start as usize..range.end as usize].fill(true);
        }
        bytes
    }

    fn ranges() -> impl Strategy<Value = Vec<Range<u64>>> {
        prop::collection::vec((0..=SIZE, 0..=SIZE).prop_map(|(a, b)| a.min(b)..a.max(b)), 0..20)
    }

    fn set(ranges: &[Range<u64>]) -> RangeSet {
        let mut set = RangeSet::default();
        ranges.iter().for_each(|range| set.insert(range.clone()));
        set
    }

    proptest! {
        #[test]
        fn a_set_holds_exactly_what_was_inserted(ranges in ranges()) {
            let (set, model) = (set(&ranges), model(&ranges));
            prop_assert_eq!(set.covered(), model.iter().filter(|there| **there).count() as u64);
            for pair in set.0.windows(2) {
                prop_assert!(pair[0].end < pair[1].start, "they touch or overlap: {:?}", set);
            }
            prop_assert!(set.0.iter().all(|range| !range.is_empty()));
            for at in 0..SIZE {
                let end = model[at as usize..].iter().position(|there| !there).map_or(SIZE, |n| at + n as u64);
                prop_assert_eq!(set.run_end(at), model[at as usize].then_some(end));
            }
        }

        #[test]
        fn gaps_are_what_the_set_lacks(ranges in ranges(), size in 0..=SIZE) {
            let (set, model) = (set(&ranges), model(&ranges));
            let mut missing = [false; SIZE as usize];
            for gap in set.gaps(size) {
                prop_assert!(!gap.is_empty() && gap.end <= size);
                for at in gap {
                    prop_assert!(!missing[at as usize], "a byte is missing twice");
                    missing[at as usize] = true;
                }
            }
            for at in 0..SIZE {
                prop_assert_eq!(missing[at as usize], at < size && !model[at as usize]);
            }
        }

        #[test]
        fn without_leaves_what_is_in_one_only(first in ranges(), second in ranges()) {
            let left = set(&first).without(&set(&second));
            let (first, second) = (model(&first), model(&second));
            for at in 0..SIZE {
                prop_assert_eq!(left.run_end(at).is_some(), first[at as usize] && !second[at as usize]);
            }
        }

        #[test]
        fn clipping_takes_out_the_tail_and_nothing_else(ranges in ranges(), length in 0..=SIZE) {
            let mut set = set(&ranges);
            set.clip(length);
            let model = model(&ranges);
            for at in 0..SIZE {
                prop_assert_eq!(set.run_end(at).is_some(), at < length && model[at as usize]);
            }
            prop_assert!(set.end() <= length);
        }

        #[test]
        fn pairs_come_back_as_the_same_set(ranges in ranges()) {
            let set = set(&ranges);
            let pairs: Vec<[u64; 2]> = set.pairs().collect();
            prop_assert_eq!(RangeSet::from_pairs(&pairs, SIZE), Some(set));
        }
    }

    #[test]
    fn pairs_that_were_never_written_are_refused() {
        for bad in [vec![[0, 0]], vec![[5, 4]], vec![[0, 101]], vec![[0, 10], [5, 20]], vec![[10, 20], [0, 5]]] {
            assert_eq!(RangeSet::from_pairs(&bad, 100), None, "{bad:?}");
        }
    }
}
