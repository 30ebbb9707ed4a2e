//! `general.file_type`: the label of the whole file (llama.cpp's `llama_ftype`, which is not ggml's `ggml_ftype`).

use super::TensorType;

/// Set beside the number when llama.cpp guessed the label itself.
const GUESSED: u64 = 1024;

/// A label and the tensor type that most weights of such a file have.
struct Known {
    id: u64,
    label: &'static str,
    base: TensorType,
}

macro_rules! file_types {
    ($($id:literal $label:literal $base:ident),* $(,)?) => {
        const KNOWN: &[Known] = &[$(Known { id: $id, label: $label, base: TensorType::$base }),*];
    };
}

file_types! {
    0 "F32" F32, 1 "F16" F16, 2 "Q4_0" Q4_0, 3 "Q4_1" Q4_1, 4 "Q4_1" Q4_1, 7 "Q8_0" Q8_0, 8 "Q5_0" Q5_0, 9 "Q5_1" Q5_1,
    10 "Q2_K" Q2_K, 11 "Q3_K_S" Q3_K, 12 "Q3_K_M" Q3_K, 13 "Q3_K_L" Q3_K, 14 "Q4_K_S" Q4_K, 15 "Q4_K_M" Q4_K,
    16 "Q5_K_S" Q5_K, 17 "Q5_K_M" Q5_K, 18 "Q6_K" Q6_K, 19 "IQ2_XXS" IQ2_XXS, 20 "IQ2_XS" IQ2_XS, 21 "Q2_K_S" Q2_K,
    22 "IQ3_XS" IQ3_S, 23 "IQ3_XXS" IQ3_XXS, 24 "IQ1_S" IQ1_S, 25 "IQ4_NL" IQ4_NL, 26 "IQ3_S" IQ3_S, 27 "IQ3_M" IQ3_S,
    28 "IQ2_S" IQ2_XS, 29 "IQ2_M" IQ2_S, 30 "IQ4_XS" IQ4_XS, 31 "IQ1_M" IQ1_M, 32 "BF16" BF16, 36 "TQ1_0" TQ1_0,
    37 "TQ2_0" TQ2_0, 38 "MXFP4_MOE" MXFP4, 39 "NVFP4" NVFP4, 40 "Q1_0" Q1_0, 41 "Q2_0" Q2_0,
}

/// What a file says it is quantized to. It is a label only: some publishers set it wrong, so compare it with the tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileType(pub u64);

impl FileType {
    fn known(self) -> Option<&'static Known> {
        let id = self.0 & !GUESSED;
        KNOWN.iter().find(|known| known.id == id)
    }

    /// The label as people write it; `None` for a number that is not known here.
    #[must_use]
    pub fn label(self) -> Option<&'static str> {
        self.known().map(|known| known.label)
    }

    /// Whether the writer itself marked the label as a guess.
    #[must_use]
    pub fn is_guess(self) -> bool {
        self.0 & GUESSED != 0
    }

    /// The tensor type that most weights of such a file have.
    #[must_use]
    pub fn base(self) -> Option<TensorType> {
        self.known().map(|known| known.base)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_those_of_llama_cpp() {
        for (id, label) in [
            (0, Some("F32")),
            (1, Some("F16")),
            (2, Some("Q4_0")),
            (4, Some("Q4_1")),
            (5, None),
            (7, Some("Q8_0")),
            (15, Some("Q4_K_M")),
            (17, Some("Q5_K_M")),
            (30, Some("IQ4_XS")),
            (32, Some("BF16")),
            (33, None),
            (38, Some("MXFP4_MOE")),
            (41, Some("Q2_0")),
            (42, None),
            (u64::MAX, None),
        ] {
            assert_eq!(FileType(id).label(), label, "{id}");
        }
    }

    #[test]
    fn names_are_compared_with_every_label() {
        for known in KNOWN {
            assert!(crate::model::IN_HEADERS.contains(&known.label), "{}", known.label);
        }
    }

    #[test]
    fn a_guess_keeps_its_label() {
        assert_eq!(FileType(1024 | 15).label(), Some("Q4_K_M"));
        assert!(FileType(1024 | 15).is_guess());
        assert!(!FileType(15).is_guess());
    }
}
