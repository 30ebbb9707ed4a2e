//! Names that were seen, told apart by hashes that a file's author cannot foresee.

use std::collections::HashSet;
use std::hash::{BuildHasher, BuildHasherDefault, Hasher, RandomState};

/// Names that were seen; eight bytes are kept of each.
#[derive(Default)]
pub(super) struct Seen {
    hasher: Keyed,
    hashes: HashSet<u64, BuildHasherDefault<Unhashed>>,
}

impl Seen {
    /// Whether the name is new.
    pub(super) fn insert(&mut self, name: &[u8]) -> bool {
        self.hashes.insert(self.hasher.hash_one(name))
    }
}

/// Hashes sixteen bytes at a time under keys of this process: names are short and there are a hundred thousand of them.
#[derive(Clone, Copy)]
pub(super) struct Keyed([u64; 3]);

impl Default for Keyed {
    fn default() -> Self {
        let random = RandomState::new();
        Self([0_u8, 1, 2].map(|number| random.hash_one(number)))
    }
}

impl BuildHasher for Keyed {
    type Hasher = Folding;

    fn build_hasher(&self) -> Folding {
        let [state, low, high] = self.0;
        Folding { state, low, high }
    }
}

/// Folds the two halves of products into each other, as wyhash and foldhash do.
pub(super) struct Folding {
    state: u64,
    low: u64,
    high: u64,
}

impl Folding {
    fn add(&mut self, low: u64, high: u64) {
        let product = u128::from(low ^ self.low ^ self.state) * u128::from(high ^ self.high);
        #[allow(clippy::cast_possible_truncation)]
        let folded = (product as u64) ^ ((product >> 64) as u64);
        self.state = folded ^ self.state.rotate_left(23);
    }
}

impl Hasher for Folding {
    fn finish(&self) -> u64 {
        let product = u128::from(self.state ^ self.high) * u128::from(self.low | 1);
        #[allow(clippy::cast_possible_truncation)]
        let folded = (product as u64) ^ ((product >> 64) as u64);
        folded
    }

    fn write(&mut self, bytes: &[u8]) {
        let word = |bytes: &[u8; 8]| u64::from_le_bytes(*bytes);
        let (pairs, rest) = bytes.as_chunks::<16>();
        for pair in pairs {
            let (low, high) = pair
                .split_first_chunk::<8>()
                .map_or((0, 0), |(low, high)| (word(low), high.first_chunk::<8>().map_or(0, word)));
            self.add(low, high);
        }
        if !rest.is_empty() {
            let mut last = [0; 16];
            if let Some(place) = last.get_mut(..rest.len()) {
                place.copy_from_slice(rest);
            }
            let (low, high) = last.split_at(8);
            let half = |half: &[u8]| half.first_chunk::<8>().map_or(0, word);
            self.add(half(low), half(high));
        }
    }

    fn write_usize(&mut self, number: usize) {
        self.state ^= (number as u64).rotate_left(32);
    }

    fn write_u8(&mut self, number: u8) {
        self.state = self.state.wrapping_add(u64::from(number));
    }
}

/// The hash of what is a hash already.
#[derive(Default)]
struct Unhashed(u64);

impl Hasher for Unhashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = number;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_differ_anywhere_are_told_apart() {
        let mut seen = Seen::default();
        for length in 0..70 {
            assert!(seen.insert(&vec![0; length]), "{length}");
            for at in 0..length {
                for bit in 0..8 {
                    let mut name = vec![0; length];
                    name[at] = 1 << bit;
                    assert!(seen.insert(&name) && !seen.insert(&name), "{length} {at} {bit}");
                }
            }
        }
        for number in 0..200_000 {
            assert!(seen.insert(format!("model.layers.{number}.weight").as_bytes()));
        }
    }

    #[test]
    fn two_files_are_read_under_different_keys() {
        assert_ne!(Keyed::default().hash_one("a"), Keyed::default().hash_one("a"));
    }
}
