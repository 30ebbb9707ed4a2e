//! A hash for maps over inodes: their numbers are given by the file system, so that nothing as strong as the standard hash is needed.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// Builds [`InodeHasher`]s.
pub type Fast = BuildHasherDefault<InodeHasher>;

/// A map whose keys are, or hash as, a few numbers.
pub type FastMap<K, V> = HashMap<K, V, Fast>;

/// Multiplies and folds.
#[derive(Clone, Copy, Debug, Default)]
pub struct InodeHasher(u64);

impl Hasher for InodeHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for part in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..part.len()].copy_from_slice(part);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u64(&mut self, number: u64) {
        let product = u128::from(self.0.rotate_left(23) ^ number ^ 0x9e37_79b9_7f4a_7c15) * 0xd6e8_feb8_6659_fd93;
        self.0 = (product as u64) ^ ((product >> 64) as u64);
    }
}

#[cfg(test)]
mod tests {
    use std::hash::Hash;

    use super::*;
    use crate::model::Inode;

    #[test]
    fn neighbours_are_spread() {
        let mut buckets = vec![0; 256];
        for inode in 0..25_600 {
            let mut hasher = InodeHasher::default();
            Inode { device: 2049, inode }.hash(&mut hasher);
            buckets[(hasher.finish() & 255) as usize] += 1;
        }
        assert!(buckets.iter().all(|&count| (40..=200).contains(&count)), "{buckets:?}");
    }
}
