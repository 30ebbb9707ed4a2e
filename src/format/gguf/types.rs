//! Tensor types: how many elements a block has, and how many bytes it takes (ggml's `type_traits`).

use std::fmt;

/// The type of a tensor as its number in the file. Numbers that this table does not know stay numbers: forks and newer
/// writers use ids of their own, and a file is not broken for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TensorType(pub u32);

/// What is known about a type.
struct Known {
    id: u32,
    name: &'static str,
    block_elements: u64,
    block_bytes: u64,
}

macro_rules! tensor_types {
    ($($id:literal $name:ident $elements:literal / $bytes:literal),* $(,)?) => {
        impl TensorType {
            $(#[doc = concat!("`", stringify!($name), "`: ", $elements, " elements in ", $bytes, " bytes.")]
            pub const $name: Self = Self($id);)*
        }

        const KNOWN: &[Known] = &[
            $(Known { id: $id, name: stringify!($name), block_elements: $elements, block_bytes: $bytes }),*
        ];
    };
}

tensor_types! {
    0 F32 1/4, 1 F16 1/2, 2 Q4_0 32/18, 3 Q4_1 32/20, 6 Q5_0 32/22, 7 Q5_1 32/24, 8 Q8_0 32/34, 9 Q8_1 32/36,
    10 Q2_K 256/84, 11 Q3_K 256/110, 12 Q4_K 256/144, 13 Q5_K 256/176, 14 Q6_K 256/210, 15 Q8_K 256/292,
    16 IQ2_XXS 256/66, 17 IQ2_XS 256/74, 18 IQ3_XXS 256/98, 19 IQ1_S 256/50, 20 IQ4_NL 32/18, 21 IQ3_S 256/110,
    22 IQ2_S 256/82, 23 IQ4_XS 256/136, 24 I8 1/1, 25 I16 1/2, 26 I32 1/4, 27 I64 1/8, 28 F64 1/8,
    29 IQ1_M 256/56, 30 BF16 1/2, 34 TQ1_0 256/54, 35 TQ2_0 256/66, 39 MXFP4 32/17, 40 NVFP4 64/36,
    41 Q1_0 128/18, 42 Q2_0 64/18,
}

/// Place in the table by number: a header has many tensors, and each is looked up several times.
const PLACES: [u8; 64] = {
    let mut places = [u8::MAX; 64];
    let mut at = 0;
    while at < KNOWN.len() {
        places[KNOWN[at].id as usize] = at as u8;
        at += 1;
    }
    places
};

impl TensorType {
    /// Every type whose size is known, in the order of their numbers.
    pub fn all() -> impl Iterator<Item = Self> {
        KNOWN.iter().map(|known| Self(known.id))
    }

    fn known(self) -> Option<&'static Known> {
        let place = usize::try_from(self.0).ok().and_then(|id| PLACES.get(id))?;
        KNOWN.get(usize::from(*place))
    }

    /// Elements and bytes of one block.
    pub(super) fn block(self) -> Option<(u64, u64)> {
        self.known().map(|known| (known.block_elements, known.block_bytes))
    }

    /// ggml's name, in upper case; `None` for a number that is not known here.
    #[must_use]
    pub fn name(self) -> Option<&'static str> {
        self.known().map(|known| known.name)
    }

    /// Elements of one block; `None` for a number that is not known here.
    #[must_use]
    pub fn block_elements(self) -> Option<u64> {
        self.known().map(|known| known.block_elements)
    }

    /// Bytes of one block; `None` for a number that is not known here.
    #[must_use]
    pub fn block_bytes(self) -> Option<u64> {
        self.known().map(|known| known.block_bytes)
    }

    /// Bits that one element takes, scales included.
    #[must_use]
    #[allow(clippy::cast_precision_loss)]
    pub fn bits_per_weight(self) -> Option<f64> {
        self.known().map(|known| known.block_bytes as f64 * 8.0 / known.block_elements as f64)
    }
}

impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.pad(name),
            None => write!(f, "type {}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_so_that_it_can_be_searched() {
        assert!(KNOWN.is_sorted_by(|a, b| a.id < b.id));
        assert_eq!(TensorType::all().count(), 35);
    }

    #[test]
    fn removed_and_future_numbers_stay_numbers() {
        for id in [4, 5, 31, 32, 33, 36, 37, 38, 43, u32::MAX] {
            assert_eq!(TensorType(id).block_bytes(), None, "{id}");
            assert_eq!(TensorType(id).to_string(), format!("type {id}"));
        }
    }

    #[test]
    fn bits_per_weight_follow_from_the_blocks() {
        for (kind, bits) in [
            (TensorType::F32, 32.0),
            (TensorType::Q4_K, 4.5),
            (TensorType::Q6_K, 6.5625),
            (TensorType::IQ1_S, 1.5625),
            (TensorType::MXFP4, 4.25),
            (TensorType::Q2_0, 2.25),
        ] {
            assert_eq!(kind.bits_per_weight(), Some(bits), "{kind}");
        }
    }
}
