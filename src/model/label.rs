//! What a set of weights is called: what is shown of its quantization, and what `:QUANT` selects it by.
//!
//! The header decides what is shown, in every store: `general.file_type`, else the type that most of its tensors have, marked
//! as a guess. The name is shown only where no header tells anything. What selects is the name, as on the hub: publishers'
//! finer labels (`UD-Q4_K_XL`, `Q4_K_L`) exist in names only, and people type what they see there. Where both tell
//! something else, that is said.

use super::Quantization;

/// The labels of one set of weights.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Label {
    /// What its header tells.
    header: Option<Quantization>,
    guessed: bool,
    /// What its name tells.
    named: Option<Quantization>,
}

impl Label {
    /// Of what a header tells, with whether it is a guess, and of what the name tells.
    #[must_use]
    pub fn new(header: Option<Quantization>, guessed: bool, named: Option<Quantization>) -> Self {
        Self { guessed: guessed && header.is_some(), header, named }
    }

    /// What is shown.
    #[must_use]
    pub fn shown(&self) -> Option<&Quantization> {
        self.header.as_ref().or(self.named.as_ref())
    }

    /// Whether what is shown is a guess from the tensors, or its writer said that it guessed.
    #[must_use]
    pub fn is_guess(&self) -> bool {
        self.guessed
    }

    /// What selects it: the name's label, else the one that is shown.
    #[must_use]
    pub fn selects(&self) -> Option<&Quantization> {
        self.named.as_ref().or(self.header.as_ref())
    }

    /// Says so where header and name tell something else; a name that is only finer does not.
    #[must_use]
    pub fn disagreement(&self) -> Option<String> {
        let (header, named) = (self.header.as_ref()?, self.named.as_ref()?);
        if named.refines(header, self.guessed) {
            return None;
        }
        let by = if self.guessed { "by its tensors" } else { "by its header" };
        Some(format!("named {named}, but {header} {by}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn label(header: Option<&str>, guessed: bool, named: Option<&str>) -> Label {
        Label::new(header.map(Quantization::new), guessed, named.map(Quantization::new))
    }

    #[test]
    fn the_header_is_shown_and_the_name_selects() {
        for (header, named, shown, selects) in [
            (Some("Q4_K_M"), Some("Q8_0"), Some("Q4_K_M"), Some("Q8_0")),
            (Some("Q4_K_M"), Some("UD-Q4_K_XL"), Some("Q4_K_M"), Some("UD-Q4_K_XL")),
            (Some("Q4_K_M"), None, Some("Q4_K_M"), Some("Q4_K_M")),
            (None, Some("Q8_0"), Some("Q8_0"), Some("Q8_0")),
            (None, None, None, None),
        ] {
            let label = label(header, false, named);
            assert_eq!(label.shown().map(Quantization::as_str), shown);
            assert_eq!(label.selects().map(Quantization::as_str), selects);
        }
    }

    #[test]
    fn only_what_cannot_both_be_true_disagrees() {
        for (header, guessed, named, agree) in [
            ("Q4_K_M", false, "Q4_K_M", true),
            ("Q4_K_M", false, "UD-Q4_K_XL", true),
            ("Q4_K_M", false, "Q4_K_L", true),
            ("Q4_K_M", false, "Q4_K", true),
            ("Q3_K_M", false, "Q3_K_XL", true),
            ("Q8_0", false, "UD-Q8_K_XL", true),
            ("IQ2_M", false, "UD-IQ2_M", true),
            ("MXFP4_MOE", false, "MXFP4", true),
            ("Q4_K", true, "Q4_K_M", true),
            ("IQ3_S", true, "IQ3_M", true),
            ("Q4_K_M", false, "Q4_K_S", false),
            ("Q4_K_M", false, "Q8_0", false),
            ("Q4_K_M", false, "UD-Q6_K_XL", false),
            ("Q4_K_M", false, "IQ4_XS", false),
            ("F16", false, "BF16", false),
            ("F32", true, "Q4_K_M", false),
        ] {
            let label = label(Some(header), guessed, Some(named));
            assert_eq!(label.disagreement().is_none(), agree, "{header} {named}");
        }
        assert_eq!(
            label(Some("Q4_K_M"), false, Some("Q8_0")).disagreement().as_deref(),
            Some("named Q8_0, but Q4_K_M by its header")
        );
    }
}
