//! What a file's name has a say in, where headers are read.

use super::safetensors::is_adapter_name;
use crate::model::FileName;

/// Draft heads, projectors and adapters whose headers do not tell what they are, and the format that is expected. Nothing else
/// of a name decides what is told of a file, so that names which agree in this are as good as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools)]
pub(crate) struct Named {
    pub(super) gguf: bool,
    pub(super) safetensors: bool,
    pub(super) draft_head: bool,
    pub(super) projector: bool,
    pub(super) adapter: bool,
}

impl Named {
    /// What `name` says, which is the last part of a path.
    pub(crate) fn of(name: &str) -> Self {
        let parsed = FileName::parse(name);
        Self {
            gguf: parsed.is_gguf(),
            safetensors: parsed.is_safetensors(),
            draft_head: parsed.is_draft_head(),
            projector: parsed.is_projector(),
            adapter: is_adapter_name(name),
        }
    }

    /// A number of its own, below 32.
    pub(crate) fn number(self) -> u8 {
        let bits = [self.gguf, self.safetensors, self.draft_head, self.projector, self.adapter];
        bits.into_iter().fold(0, |number, bit| number << 1 | u8::from(bit))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_combination_has_a_number() {
        let mut numbers = BTreeSet::new();
        for kind in ["m", "mtp-m", "m-mmproj", "MTP-mmproj", "adapter_model"] {
            for extension in ["gguf", "safetensors", "bin"] {
                let named = Named::of(&format!("{kind}.{extension}"));
                assert!(named.number() < 32);
                assert!(numbers.insert(named.number()), "{named:?}");
            }
        }
        assert_eq!(Named::of("m-Q4_0-00001-of-00002.gguf"), Named::of("other.GGUF"));
    }
}
