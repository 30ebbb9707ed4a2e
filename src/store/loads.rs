//! What a program would load of a row: one of its quantizations, and a projector beside it.

use std::sync::Arc;

use crate::format::{Kind, Metadata, Structure};
use crate::model::selection::precision_rank;
use crate::model::{FileName, Label, Quantization};

/// What a program would load of a row, beside what the header of its first weights tells.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Loads {
    /// Bytes of the projector and of what else is always loaded with the weights.
    pub extra_bytes: u64,
    /// The quantizations of a row that has several.
    pub quantizations: Vec<Load>,
}

/// One quantization of a row that has several.
#[derive(Clone, Debug, PartialEq)]
pub struct Load {
    /// What selects it.
    pub quantization: Quantization,
    /// What it is called.
    pub label: Label,
    /// What the headers of its set tell together.
    pub metadata: Arc<Metadata>,
    /// Whether all of its weights are here.
    pub whole: bool,
}

impl Load {
    /// A set whose headers were read. `parts` says whether none of its files is missing.
    pub(super) fn new(quantization: Quantization, label: Label, metadata: Arc<Metadata>, parts: bool) -> Self {
        let whole = parts && !matches!(metadata.structure, Structure::Truncated { .. });
        Self { quantization, label, metadata, whole }
    }
}

impl Loads {
    /// Keeps the quantizations only where there are several to choose from.
    pub(super) fn new(projector: Projector, mut quantizations: Vec<Load>) -> Self {
        if quantizations.iter().all(|load| quantizations.first().is_some_and(|f| f.quantization == load.quantization)) {
            quantizations.clear();
        }
        Self { extra_bytes: projector.bytes(), quantizations }
    }
}

/// The projector that a program would load, of all that lie beside the weights.
#[derive(Clone, Debug, Default)]
pub(super) struct Projector(Option<((usize, String), u64)>);

impl Projector {
    /// Looks at a file of the row and at its header, which says whether it is a projector; its name does only where there is no
    /// header. Programs load one projector, in F16 where there are several.
    pub(super) fn look(&mut self, path: &str, size_bytes: u64, header: Option<&Metadata>) {
        let file = path.rsplit('/').next().unwrap_or(path);
        let name = FileName::parse(file);
        let is_one = match header {
            Some(header) => header.kind == Kind::Projector,
            None => name.is_gguf() && name.is_projector(),
        };
        if !is_one {
            return;
        }
        let size_bytes = header.and_then(|header| header.tensor_bytes).unwrap_or(size_bytes);
        let rank = (precision_rank(file), path.to_owned());
        if self.0.as_ref().is_none_or(|(known, _)| rank < *known) {
            self.0 = Some((rank, size_bytes));
        }
    }

    fn bytes(self) -> u64 {
        self.0.map_or(0, |(_, bytes)| bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Format;

    #[test]
    fn one_projector_is_loaded() {
        let mut projector = Projector::default();
        for (path, bytes) in [
            ("mmproj-bf16.gguf", 5),
            ("mmproj-F16.gguf", 7),
            ("mmproj-f32.gguf", 9),
            ("m-imatrix.gguf", 100),
            ("mtp-head.gguf", 100),
            ("mmproj.json", 100),
            ("m-Q4_K_M.gguf", 100),
        ] {
            projector.look(path, bytes, None);
        }
        assert_eq!(projector.clone().bytes(), 7);
        // The header decides, whatever the name is.
        let told = |kind| Metadata { kind, tensor_bytes: Some(3), ..Metadata::unknown(Format::Gguf) };
        projector.look("mmproj-a-f16.gguf", 100, Some(&told(Kind::Imatrix)));
        assert_eq!(projector.clone().bytes(), 7);
        projector.look("a/vision-f16.gguf", 100, Some(&told(Kind::Projector)));
        assert_eq!(projector.bytes(), 3);
    }
}
