//! What a file's name tells: format, shard, sidecar. Names are hints; headers decide where they can be read.

/// One file of a set: `<stem>-00001-of-00003.<extension>`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Shard {
    /// The name before `-NNNNN-of-NNNNN`.
    pub stem: String,
    /// From 1.
    pub number: u32,
    /// How many there are.
    pub count: u32,
}

/// A file name taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileName<'a> {
    stem: &'a str,
    extension: &'a str,
    shard: Option<Shard>,
}

impl<'a> FileName<'a> {
    /// Takes the last part of a path apart; never fails.
    #[must_use]
    pub fn parse(name: &'a str) -> Self {
        let (stem, extension) = name.rsplit_once('.').unwrap_or((name, ""));
        Self { stem, extension, shard: parse_shard(stem) }
    }

    /// The name without extension, and without the shard's number.
    #[must_use]
    pub fn stem(&self) -> &str {
        self.shard.as_ref().map_or(self.stem, |shard| shard.stem.as_str())
    }

    /// Whether it ends in `.gguf`, whatever the case.
    #[must_use]
    pub fn is_gguf(&self) -> bool {
        self.extension.eq_ignore_ascii_case("gguf")
    }

    /// Whether it ends in `.safetensors`.
    #[must_use]
    pub fn is_safetensors(&self) -> bool {
        self.extension.eq_ignore_ascii_case("safetensors")
    }

    /// Whether it holds weights of a model, sidecars excluded.
    #[must_use]
    pub fn is_weights(&self) -> bool {
        (self.is_gguf() && !self.is_sidecar()) || self.is_safetensors()
    }

    /// Its place in a set.
    #[must_use]
    pub fn shard(&self) -> Option<&Shard> {
        self.shard.as_ref()
    }

    /// [`Self::shard`] to keep.
    #[must_use]
    pub fn into_shard(self) -> Option<Shard> {
        self.shard
    }

    /// Whether a model loads it beside its weights: a projector, an importance matrix, a draft head.
    /// Adapters and vocabularies are no models either.
    #[must_use]
    pub fn is_sidecar(&self) -> bool {
        let lower = self.stem.to_ascii_lowercase();
        lower.contains("mmproj")
            || lower.contains("imatrix")
            || self.is_draft_head()
            || lower.ends_with("-lora")
            || lower.ends_with("-vocab")
    }

    /// Whether it is a head that proposes tokens for another model: only its name tells, its header is a model's.
    #[must_use]
    pub fn is_draft_head(&self) -> bool {
        let lower = self.stem.to_ascii_lowercase();
        ["mtp-", "eagle3-", "dflash-", "dspark-"].iter().any(|prefix| lower.starts_with(prefix))
    }
}

fn parse_shard(stem: &str) -> Option<Shard> {
    // Every name of every store comes by here: the end is looked at, and nothing is searched for.
    let at = stem.len().checked_sub("-00001-of-00003".len()).filter(|at| *at > 0)?;
    let digits = |from: usize| {
        let text = stem.get(from..from + 5).filter(|text| text.bytes().all(|b| b.is_ascii_digit()))?;
        text.parse::<u32>().ok()
    };
    if stem.as_bytes().get(at) != Some(&b'-') || stem.get(at + 6..at + 10) != Some("-of-") {
        return None;
    }
    let (number, count) = (digits(at + 1)?, digits(at + 10)?);
    (number >= 1 && number <= count).then(|| Shard { stem: stem[..at].to_owned(), number, count })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_need_five_digits_and_a_sensible_number() {
        let shard = FileName::parse("Grok-Q4_0-00003-of-00009.gguf").shard().cloned().unwrap();
        assert_eq!((shard.stem.as_str(), shard.number, shard.count), ("Grok-Q4_0", 3, 9));
        for name in
            ["m-3-of-9.gguf", "m-00000-of-00002.gguf", "m-00003-of-00002.gguf", "-00001-of-00001.gguf", "m.gguf"]
        {
            assert_eq!(FileName::parse(name).shard(), None, "{name}");
        }
    }

    #[test]
    fn sidecars_are_no_models() {
        for name in [
            "mmproj-model-f16.gguf",
            "gemma-mmproj-f16.gguf",
            "x-imatrix.gguf",
            "mtp-head.gguf",
            "y-LoRA.gguf",
            "z-vocab.gguf",
        ] {
            assert!(!FileName::parse(name).is_weights(), "{name}");
        }
        assert!(FileName::parse("Model-Q4_K_M.GGUF").is_weights());
    }
}
