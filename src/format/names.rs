//! The names of tensors, as far as sets of files are compared by them: a sum, not the names themselves.

use serde::{Deserialize, Serialize};

/// The names of a file's tensors. Two files that have the same tensors have the same sum, in whatever order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TensorNames {
    /// Sum of the hashes of all names.
    pub(crate) sum: u64,
    /// The hashes themselves, sorted, of a file that is one of several parts and has few enough.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) each: Vec<u64>,
}

impl TensorNames {
    /// Adds a name.
    pub(super) fn add(&mut self, name: &[u8]) {
        self.sum = self.sum.wrapping_add(hash(name));
    }

    /// Adds a name, and keeps its hash.
    pub(super) fn keep(&mut self, name: &[u8]) {
        self.add(name);
        self.each.push(hash(name));
    }

    /// With the hashes in their order.
    pub(super) fn sorted(mut self) -> Self {
        self.each.sort_unstable();
        self
    }

    /// How many names of this file another one has as well; 0 where the names of either were not kept.
    pub(crate) fn in_common(&self, other: &Self) -> usize {
        self.each.iter().filter(|hash| other.each.binary_search(hash).is_ok()).count()
    }
}

/// FNV-1a with a last round that spreads its bits, so that sums of similar names differ. It only tells honest names apart:
/// who makes a file can make its index as well.
pub(super) fn hash(name: &[u8]) -> u64 {
    let fnv = name
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    let mixed = (fnv ^ (fnv >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    mixed ^ (mixed >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(all: &[&str]) -> TensorNames {
        let mut names = TensorNames::default();
        all.iter().for_each(|name| names.add(name.as_bytes()));
        names
    }

    #[test]
    fn the_order_does_not_matter_and_each_name_does() {
        assert_eq!(names(&["a", "b", "c"]), names(&["c", "a", "b"]));
        for other in [&["a", "b"][..], &["a", "b", "d"], &["a", "b", "c", "c"], &["b", "c", "b"]] {
            assert_ne!(names(&["a", "b", "c"]), names(other), "{other:?}");
        }
        // Neighbours whose sums a weaker hash would confuse.
        assert_ne!(names(&["layers.1.w", "layers.2.w"]), names(&["layers.0.w", "layers.3.w"]));
    }
}
