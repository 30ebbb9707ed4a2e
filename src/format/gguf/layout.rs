//! How long a file must be for everything that its header names.

use super::Error;
use crate::format::Structure;

/// Where the data of one tensor lies, from the start of the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Extent {
    pub(super) offset: u64,
    /// `None` for a type of unknown size.
    pub(super) bytes: Option<u64>,
}

/// How long a file must be for everything that its header names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Where the data of the tensors begins; without tensors, where the keys end.
    pub start: u64,
    /// Where the last tensor ends, its padding not counted.
    pub need: u64,
    /// What `need` says about the file's length.
    pub structure: Structure,
    /// Whether the data lies in the order of the tensors without holes, which ggml demands.
    pub in_order: bool,
}

/// The layout of a file of `length` bytes whose last tensor info ends at `header_end`.
pub(super) fn layout(header_end: u64, alignment: u64, mut extents: Vec<Extent>, length: u64) -> Result<Layout, Error> {
    let far = || Error::Malformed("the data of a tensor ends beyond 2^63".to_owned());
    let start = if extents.is_empty() { header_end } else { round_up(header_end, alignment).ok_or_else(far)? };
    let mut in_order = true;
    let mut expected = Some(0);
    for extent in &extents {
        in_order &= expected.is_none_or(|expected| expected == extent.offset);
        expected = extent.bytes.and_then(|bytes| round_up(extent.offset.checked_add(bytes)?, alignment));
    }
    if !in_order {
        extents.sort_unstable();
    }
    let mut end = 0;
    for (at, extent) in extents.iter().enumerate() {
        if extent.offset < end {
            return Err(Error::Malformed("the data of two tensors overlaps".to_owned()));
        }
        let next = extents.get(at + 1).map(|next| next.offset);
        end = match extent.bytes {
            Some(bytes) => extent.offset.checked_add(bytes).ok_or_else(far)?,
            // The end of a tensor of unknown size is where the next one begins.
            None => next.unwrap_or(extent.offset).max(extent.offset),
        };
    }
    let need = start.checked_add(end).filter(|need| *need < 1 << 63).ok_or_else(far)?;
    let structure = if length < need {
        Structure::Truncated { missing: Some(need - length) }
    } else if extents.iter().any(|extent| extent.bytes.is_none()) {
        Structure::Partial
    } else if length > need.saturating_add(alignment) {
        Structure::Extra { bytes: length - need }
    } else {
        Structure::Whole
    };
    Ok(Layout { start, need, structure, in_order })
}

/// The next multiple of `alignment`, a power of two.
pub(super) fn round_up(value: u64, alignment: u64) -> Option<u64> {
    value.checked_next_multiple_of(alignment)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(offset: u64, bytes: u64) -> Extent {
        Extent { offset, bytes: Some(bytes) }
    }

    #[test]
    fn truncation_is_exact_and_padding_is_no_damage() {
        // x 256x4 Q4_K, y 512x3 Q6_K: data at 160, ends at 1,996, written with padding to 2,016.
        let of = |length| layout(150, 32, vec![known(0, 576), known(576, 1260)], length).unwrap();
        assert_eq!(of(2016), Layout { start: 160, need: 1996, structure: Structure::Whole, in_order: true });
        assert_eq!(of(1996).structure, Structure::Whole);
        assert_eq!(of(1995).structure, Structure::Truncated { missing: Some(1) });
        assert_eq!(of(1996 + 32).structure, Structure::Whole);
        assert_eq!(of(1996 + 33).structure, Structure::Extra { bytes: 33 });
    }

    #[test]
    fn without_tensors_the_keys_are_the_end() {
        assert_eq!(layout(70, 32, vec![], 70).unwrap().need, 70);
        assert_eq!(layout(70, 32, vec![], 96).unwrap().structure, Structure::Whole);
        assert_eq!(layout(70, 32, vec![], 103).unwrap().structure, Structure::Extra { bytes: 33 });
    }

    #[test]
    fn a_type_of_unknown_size_ends_where_the_next_begins() {
        let unknown = Extent { offset: 64, bytes: None };
        let between = layout(100, 32, vec![known(0, 64), unknown, known(256, 32)], 128 + 288).unwrap();
        assert_eq!((between.need, between.structure), (128 + 288, Structure::Partial));
        let last = layout(100, 32, vec![known(0, 64), unknown], 128 + 64).unwrap();
        assert_eq!((last.need, last.structure), (128 + 64, Structure::Partial));
        let cut = layout(100, 32, vec![known(0, 64), unknown, known(256, 32)], 128 + 287).unwrap();
        assert_eq!(cut.structure, Structure::Truncated { missing: Some(1) });
    }

    #[test]
    fn overlap_and_overflow_are_malformed() {
        assert!(layout(100, 32, vec![known(0, 64), known(32, 64)], 1000).is_err());
        assert!(layout(100, 32, vec![known(u64::MAX - 31, 64)], 1000).is_err());
        assert!(layout(100, 32, vec![known(1 << 62, 1 << 62)], 1000).is_err());
        assert!(layout(u64::MAX - 3, 32, vec![known(0, 1)], u64::MAX).is_err());
    }

    #[test]
    fn another_order_is_no_damage() {
        let mixed = layout(100, 32, vec![known(64, 32), known(0, 64)], 128 + 96).unwrap();
        assert_eq!((mixed.structure, mixed.in_order), (Structure::Whole, false));
        let hole = layout(100, 32, vec![known(0, 32), known(64, 32)], 128 + 96).unwrap();
        assert_eq!((hole.structure, hole.in_order), (Structure::Whole, false));
        // An empty tensor shares its offset with the next one.
        assert!(layout(100, 32, vec![known(0, 0), known(0, 32)], 1000).unwrap().in_order);
    }
}
