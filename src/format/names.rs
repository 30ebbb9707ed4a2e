//! The names of tensors, as far as sets of files are compared by them: a sum, not the names themselves.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Hashes that are kept of one file. Parts of real models have fewer tensors; of more, what is kept is a sample.
const KEPT: usize = 512;
/// Hashes of all files of a set that are compared.
const MOST_COMPARED: usize = 1 << 18;

/// The names of a file's tensors. Two files that have the same tensors have the same sum, in whatever order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TensorNames {
    /// Sum of the hashes of all names.
    pub(crate) sum: u64,
    /// Of a file that is one of several parts, the smallest hashes, sorted: two files that keep as many of their names keep the
    /// same of those that both have.
    #[serde(default, skip_serializing_if = "Vec::is_empty", with = "digits")]
    each: Vec<u64>,
}

impl TensorNames {
    /// Adds a name.
    pub(crate) fn add(&mut self, name: &[u8]) {
        self.sum = self.sum.wrapping_add(hash(name));
    }

    /// Adds a name, and keeps its hash.
    pub(super) fn keep(&mut self, name: &[u8]) {
        self.add(name);
        self.each.push(hash(name));
    }

    /// With those hashes that are kept, in their order.
    pub(super) fn sorted(mut self) -> Self {
        self.each.sort_unstable();
        self.each.dedup();
        self.each.truncate(KEPT);
        self.each.shrink_to_fit();
        self
    }

    /// Whether only some of the names of this file of so many tensors are compared, as one of so many files.
    pub(crate) fn is_sample(&self, tensors: u64, files: usize) -> bool {
        (self.each.len().min(Self::compared(files)) as u64) < tensors
    }

    /// How many names of each of so many files are compared.
    fn compared(files: usize) -> usize {
        (MOST_COMPARED / files.max(1)).max(1)
    }

    /// What files have in common with those before them: for each such file its place, the place of the first that has some of its
    /// names as well, and how many those are, as far as names were kept.
    pub(crate) fn in_common(files: &[&Self]) -> Vec<(usize, usize, usize)> {
        let most = Self::compared(files.len());
        let kept =
            |(place, file): (usize, &&Self)| file.each.iter().take(most).map(move |hash| (*hash, place)).collect();
        let mut all: Vec<(u64, usize)> =
            files.iter().enumerate().take(MOST_COMPARED).flat_map(|pair| -> Vec<_> { kept(pair) }).collect();
        all.sort_unstable();
        // Of each file, the first that shares a name with it: it is also the first that has that name.
        let mut common: BTreeMap<usize, (usize, usize)> = BTreeMap::new();
        for same in all.chunk_by(|(a, _), (b, _)| a == b) {
            let Some(((_, first), others)) = same.split_first() else { continue };
            for (_, place) in others {
                let (known, count) = common.entry(*place).or_insert((*first, 0));
                if first < known {
                    (*known, *count) = (*first, 0);
                }
                *count += usize::from(first == known);
            }
        }
        common.into_iter().map(|(place, (first, count))| (place, first, count)).collect()
    }
}

/// Hashes as one text of sixteen digits each, which is shorter and sooner read than a list of numbers.
mod digits {
    use std::fmt::Write;

    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    use super::KEPT;

    const DIGITS: usize = 16;

    pub(super) fn serialize<S: Serializer>(hashes: &[u64], to: S) -> Result<S::Ok, S::Error> {
        let mut text = String::with_capacity(hashes.len() * DIGITS);
        for hash in hashes {
            // Nothing fails that writes to a text.
            let _ = write!(text, "{hash:016x}");
        }
        to.serialize_str(&text)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u64>, D::Error> {
        let text = String::deserialize(from)?;
        let (hashes, rest) = text.as_bytes().as_chunks::<DIGITS>();
        if !rest.is_empty() || hashes.len() > KEPT {
            return Err(D::Error::custom("no hashes of names"));
        }
        let parse = |digits: &[u8; DIGITS]| {
            let digits = str::from_utf8(digits).ok().filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
            digits.and_then(|digits| u64::from_str_radix(digits, 16).ok())
        };
        let hashes: Option<Vec<u64>> = hashes.iter().map(parse).collect();
        hashes.ok_or_else(|| D::Error::custom("no hashes of names"))
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

    fn part(all: &[&str]) -> TensorNames {
        let mut names = TensorNames::default();
        all.iter().for_each(|name| names.keep(name.as_bytes()));
        names.sorted()
    }

    #[test]
    fn what_files_share_is_told_of_the_first_that_has_it() {
        let parts =
            [part(&["a", "b", "c"]), part(&["d"]), part(&["b", "c", "d", "e", "e"]), part(&[]), part(&["e", "f"])];
        let parts: Vec<&TensorNames> = parts.iter().collect();
        assert_eq!(TensorNames::in_common(&parts), [(2, 0, 2), (4, 2, 1)]);
        assert_eq!(TensorNames::in_common(&[]), []);
        // Names that were not kept are not compared.
        assert_eq!(TensorNames::in_common(&[&names(&["a"]), &names(&["a"])]), []);
    }

    #[test]
    fn no_more_is_kept_of_a_large_file_than_of_a_small_one() {
        let mut large = TensorNames::default();
        (0..100_000).for_each(|at| large.keep(format!("blk.{at}.weight").as_bytes()));
        let large = large.sorted();
        assert!(large.is_sample(100_000, 2));
        let text = serde_json::to_string(&large).unwrap();
        assert!(text.len() < 20 * KEPT, "{}", text.len());
        assert_eq!(serde_json::from_str::<TensorNames>(&text).unwrap(), large);
        // The same file under another name has all of them.
        assert_eq!(TensorNames::in_common(&[&large, &large]), [(1, 0, KEPT)]);
        for wrong in ["0", "000000000000000g", "+00000000000000a"] {
            assert!(
                serde_json::from_str::<TensorNames>(&format!(r#"{{"sum":1,"each":"{wrong}"}}"#)).is_err(),
                "{wrong}"
            );
        }
        let small = part(&["a"]);
        assert!(!small.is_sample(1, 2));
        assert!(part(&["a", "b"]).is_sample(2, MOST_COMPARED));
        assert_eq!(serde_json::from_str::<TensorNames>(&serde_json::to_string(&small).unwrap()).unwrap(), small);
    }

    #[test]
    fn of_many_files_as_many_names_are_compared_as_of_few() {
        let mut large = TensorNames::default();
        (0..KEPT).for_each(|at| large.keep(format!("blk.{at}.weight").as_bytes()));
        let large = large.sorted();
        let files = vec![&large; 10_000];
        let common = TensorNames::in_common(&files);
        assert_eq!(common.len(), 9_999);
        assert!(common.iter().all(|(_, first, count)| *first == 0 && *count == MOST_COMPARED / 10_000));
    }
}
