//! Quantization labels: read from names, compared as people write them.

use std::fmt;

use super::{FileName, RepoPath};

/// A quantization as a label in upper case: `Q4_K_M`, `F16`, `UD-Q4_K_XL`, `IQ2_XXS`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Quantization(String);

/// Labels without a digit pattern of their own.
const WORDS: [&str; 10] = ["F32", "F16", "BF16", "F64", "FP32", "FP16", "MXFP4", "NVFP4", "TQ1_0", "TQ2_0"];

/// What a header may call the whole file; a name may say more.
#[rustfmt::skip]
pub(crate) const IN_HEADERS: [&str; 39] = [
    "F32", "F16", "BF16", "Q1_0", "Q2_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q2_K_S", "Q3_K", "Q3_K_S",
    "Q3_K_M", "Q3_K_L", "Q4_K", "Q4_K_S", "Q4_K_M", "Q5_K", "Q5_K_S", "Q5_K_M", "Q6_K", "IQ1_S", "IQ1_M", "IQ2_XXS",
    "IQ2_XS", "IQ2_S", "IQ2_M", "IQ3_XXS", "IQ3_XS", "IQ3_S", "IQ3_M", "IQ4_NL", "IQ4_XS", "TQ1_0", "TQ2_0",
    "MXFP4_MOE", "NVFP4",
];

impl Quantization {
    /// A label as a header or a person gives it: upper case, `FP16` and `FP32` as `F16` and `F32`.
    #[must_use]
    pub fn new(label: &str) -> Self {
        let upper = label.to_ascii_uppercase();
        Self(match upper.as_str() {
            "FP16" => "F16".to_owned(),
            "FP32" => "F32".to_owned(),
            _ => upper,
        })
    }

    /// The last token of a file's name that is a quantization; `None` if there is none.
    #[must_use]
    pub fn of_file_name(name: &str) -> Option<Self> {
        Self::last_in(FileName::parse(name).stem())
    }

    /// From the file's name, else from the folder that it lies in.
    #[must_use]
    pub fn of_path(path: &RepoPath) -> Option<Self> {
        Self::of_file_name(path.file_name())
            .or_else(|| path.folder().and_then(|f| f.rsplit('/').next()).and_then(Self::last_in))
    }

    fn last_in(text: &str) -> Option<Self> {
        let upper = text.to_ascii_uppercase();
        let tokens: Vec<&str> = upper.split(['-', '.', ' ']).collect();
        let at = tokens.iter().rposition(|token| is_label(token))?;
        let prefix =
            at.checked_sub(1).and_then(|before| tokens.get(before)).filter(|token| matches!(**token, "UD" | "I1"));
        Some(match prefix {
            Some(&"UD") => Self(format!("UD-{}", tokens[at])),
            _ => Self::new(tokens[at]),
        })
    }

    /// The label.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether `wanted` names this quantization: any case, `fp16` for `F16`, without a publisher's prefix if it has one.
    #[must_use]
    pub fn is(&self, wanted: &str) -> bool {
        let wanted = Self::new(wanted);
        self.0 == wanted.0 || self.0.strip_prefix("UD-") == Some(wanted.as_str())
    }

    /// Whether this label, told by a name, is one that weights labelled `header` may have: the same, or a publisher's finer one
    /// of as many bits, for which headers have no word. A label that was guessed from the tensors tells no more than their type.
    pub(super) fn refines(&self, header: &Self, guessed: bool) -> bool {
        let plain = |label: &Self| label.0.strip_prefix("UD-").unwrap_or(&label.0).to_owned();
        let (named, told) = (plain(self), plain(header));
        // `Q4_K` is what llama.cpp also calls `Q4_K_M`, and `MXFP4` stands for `MXFP4_MOE`.
        if named == told || told.strip_suffix("_M") == Some(&named) || told.strip_suffix("_MOE") == Some(&named) {
            return true;
        }
        let finer = guessed || self.0.starts_with("UD-") || !IN_HEADERS.contains(&named.as_str());
        let family = |label: &str| label.split('_').next().map(str::to_owned);
        finer && family(&named) == family(&told)
    }

    /// Which of `available` a download without `:QUANT` takes: `Q4_K_M`, else `Q8_0`, else the first.
    #[must_use]
    pub fn default_of(available: &[Self]) -> Option<&Self> {
        ["Q4_K_M", "Q8_0"]
            .iter()
            .find_map(|label| available.iter().find(|q| q.as_str() == *label))
            .or_else(|| available.first())
    }
}

/// Whether an upper-case token is a quantization: `Q4_0`, `Q4_K`, `Q4_K_M`, `Q5_K_XL`, `IQ3_XXS`, `Q4_0_4_8`, a word.
fn is_label(token: &str) -> bool {
    if WORDS.contains(&token) || token == "MXFP4_MOE" {
        return true;
    }
    let body = token.strip_prefix("IQ").or_else(|| token.strip_prefix('Q'));
    let Some(body) = body else { return false };
    let mut parts = body.split('_');
    let bits = parts.next().unwrap_or_default();
    if bits.len() != 1 || !bits.bytes().all(|b| b.is_ascii_digit()) {
        return false;
    }
    let rest: Vec<&str> = parts.collect();
    !rest.is_empty()
        && rest.len() <= 3
        && rest.iter().all(|part| {
            matches!(*part, "K" | "S" | "M" | "L" | "XS" | "XXS" | "XL" | "XXL" | "NL" | "P")
                || (part.len() == 1 && part.bytes().all(|b| b.is_ascii_digit()))
        })
}

impl fmt::Display for Quantization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl serde::Serialize for Quantization {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> serde::Deserialize<'de> for Quantization {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|label| Self::new(&label))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_found_in_real_names() {
        let cases = [
            ("tinyllama-1.1b-chat-v1.0.Q4_K_M.gguf", Some("Q4_K_M")),
            ("qwen2.5-0.5b-instruct-q4_k_m.gguf", Some("Q4_K_M")),
            ("qwen2.5-0.5b-instruct-fp16.gguf", Some("F16")),
            ("Phi-3-mini-4k-instruct-q4.gguf", None),
            ("Komodo-Llama-3.2-3B-v2-fp16.gguf", Some("F16")),
            ("llama-2-7b.Q8_0.gguf", Some("Q8_0")),
            ("x-UD-Q4_K_XL-00001-of-00002.gguf", Some("UD-Q4_K_XL")),
            ("x.i1-IQ3_XXS.gguf", Some("IQ3_XXS")),
            ("gpt-oss-20b-MXFP4.gguf", Some("MXFP4")),
            ("model.gguf", None),
            ("Q4-story.gguf", None),
        ];
        for (name, label) in cases {
            assert_eq!(Quantization::of_file_name(name).as_ref().map(Quantization::as_str), label, "{name}");
        }
        let path = RepoPath::parse("Q5_K_M/weights-00001-of-00002.gguf").unwrap();
        assert_eq!(Quantization::of_path(&path).unwrap().as_str(), "Q5_K_M");
    }

    #[test]
    fn the_default_is_q4_k_m_then_q8_0_then_the_first() {
        let labels = |texts: &[&str]| texts.iter().map(|t| Quantization::new(t)).collect::<Vec<_>>();
        assert_eq!(Quantization::default_of(&labels(&["F16", "Q8_0", "Q4_K_M"])).unwrap().as_str(), "Q4_K_M");
        assert_eq!(Quantization::default_of(&labels(&["F16", "Q8_0"])).unwrap().as_str(), "Q8_0");
        assert_eq!(Quantization::default_of(&labels(&["F16", "Q2_K"])).unwrap().as_str(), "F16");
        assert_eq!(Quantization::default_of(&[]), None);
    }

    #[test]
    fn people_write_any_case() {
        assert!(Quantization::new("q4_k_m").is("Q4_k_M"));
        assert!(Quantization::new("F16").is("fp16"));
        assert!(Quantization::new("UD-Q4_K_XL").is("q4_k_xl"));
        assert!(!Quantization::new("Q4_K_M").is("Q4_K"));
    }
}
