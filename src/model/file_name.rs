//! What a file's name tells: format, shard, sidecar. Names are hints; headers decide where they can be read.

use std::ffi::OsStr;
use std::ops::RangeInclusive;

/// One file of a set: `<stem>-00001-of-00003.<extension>`.
///
/// Of GGUF only that form is one, since loaders find the other files by it. Publishers of safetensors count as they like:
/// `model-00001-of-000163`, `model-1-of-61`, and from 0 as well as from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Shard<'a> {
    /// The name before `-NNNNN-of-NNNNN`.
    pub stem: &'a str,
    /// From 1; in safetensors possibly from 0.
    pub number: u32,
    /// How many there are by the name. A set that is numbered from 0 may have one more.
    pub count: u32,
    /// Digits that the count is written with.
    count_digits: u8,
    /// Digits that the number is written with.
    digits: u8,
}

impl<'a> Shard<'a> {
    /// What all files of the set have in common beside their folder and their extension: what stands for it in a map.
    #[must_use]
    pub fn set(&self) -> (&'a str, u32, u8) {
        (self.stem, self.count, self.count_digits)
    }

    /// Whether another file of the same folder and format belongs to the same set.
    #[must_use]
    pub fn is_of_set(&self, other: &Shard<'_>) -> bool {
        self.set() == other.set()
    }

    /// Whether it is the first of its set, as far as its name tells.
    #[must_use]
    pub fn is_first(&self) -> bool {
        self.number <= 1
    }

    /// The digits that numbers of its set are filled up to with zeros; 1 where they are not.
    #[must_use]
    pub fn width(&self) -> u8 {
        let needed = |number: u32| number.checked_ilog10().map_or(1, |log| log as u8 + 1);
        let padded = self.digits > needed(self.number) || self.count_digits > needed(self.count);
        if padded || self.digits == 5 { self.digits } else { 1 }
    }

    /// The name, without extension, of another file of its set, whose numbers are filled up to `width` digits.
    #[must_use]
    pub fn name_of(&self, number: u32, width: u8) -> String {
        let (width, count_width) = (usize::from(width), usize::from(self.count_digits));
        format!("{}-{number:0width$}-of-{:0count_width$}", self.stem, self.count)
    }

    /// The digits that its own number is written with.
    pub(super) fn digits(&self) -> u8 {
        self.digits
    }

    /// The numbers that a set has whose lowest number is `lowest`.
    #[must_use]
    pub fn numbers(count: u32, lowest: u32) -> RangeInclusive<u32> {
        if lowest == 0 { 0..=count.saturating_sub(1) } else { 1..=count }
    }
}

/// A file name taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileName<'a> {
    stem: &'a str,
    extension: &'a str,
    shard: Option<Shard<'a>>,
}

impl<'a> FileName<'a> {
    /// Takes the last part of a path apart if it ends as weights do and is text; sidecars end so, too. Asked of every file of
    /// every row, most of which end otherwise.
    #[must_use]
    pub fn of_weights_or_sidecar(name: &'a OsStr) -> Option<Self> {
        let bytes = name.as_encoded_bytes();
        let ends = |extension: &[u8]| {
            bytes.len().checked_sub(extension.len()).is_some_and(|at| bytes[at..].eq_ignore_ascii_case(extension))
        };
        if !ends(b".gguf") && !ends(b".safetensors") {
            return None;
        }
        name.to_str().map(Self::parse)
    }

    /// Takes the last part of a path apart; never fails.
    #[must_use]
    pub fn parse(name: &'a str) -> Self {
        // Extensions are short: looking from the end is faster than any search.
        let dot = name.bytes().rposition(|byte| byte == b'.');
        let (stem, extension) = dot.map_or((name, ""), |dot| (&name[..dot], &name[dot + 1..]));
        let counts_freely = extension.eq_ignore_ascii_case("safetensors");
        Self { stem, extension, shard: parse_shard(stem, counts_freely) }
    }

    /// The name without extension, and without the shard's number.
    #[must_use]
    pub fn stem(&self) -> &'a str {
        self.shard.map_or(self.stem, |shard| shard.stem)
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
    pub fn shard(&self) -> Option<Shard<'a>> {
        self.shard
    }

    /// Whether a model loads it beside its weights: a projector, an importance matrix, a draft head.
    /// Adapters and vocabularies are no models either.
    #[must_use]
    pub fn is_sidecar(&self) -> bool {
        let lower = self.stem.to_ascii_lowercase();
        self.is_projector()
            || lower.contains("imatrix")
            || self.is_draft_head()
            || lower.ends_with("-lora")
            || lower.ends_with("-vocab")
    }

    /// Whether it is called a projector, as all publishers of one do.
    #[must_use]
    pub fn is_projector(&self) -> bool {
        // Asked of the name of every file that a scan knows: no other text is made of it.
        self.stem.as_bytes().windows(6).any(|part| part.eq_ignore_ascii_case(b"mmproj"))
    }

    /// Whether it is a head that proposes tokens for another model: only its name tells, its header is a model's.
    #[must_use]
    pub fn is_draft_head(&self) -> bool {
        let starts = |prefix: &str| self.stem.get(..prefix.len()).is_some_and(|own| own.eq_ignore_ascii_case(prefix));
        ["mtp-", "eagle3-", "dflash-", "dspark-"].into_iter().any(starts)
    }
}

/// What the files of one set have in common, shards and their index: folder, name and extension. `None` for the path of a file
/// that is whole by itself.
#[must_use]
pub fn set_of(path: &str) -> Option<(&str, &str, &str)> {
    let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
    if let Some(indexed) = name.strip_suffix(".index.json") {
        let (stem, extension) = indexed.rsplit_once('.')?;
        return ["safetensors", "bin"].contains(&extension).then_some((folder, stem, extension));
    }
    let parsed = FileName::parse(name);
    Some((folder, parsed.shard?.stem, parsed.extension))
}

/// Most digits of a number or a count.
const MOST_DIGITS: usize = 6;

fn parse_shard(stem: &str, counts_freely: bool) -> Option<Shard<'_>> {
    // Every name of every store comes by here: the end is looked at, and nothing is searched for.
    if !stem.as_bytes().last().is_some_and(u8::is_ascii_digit) {
        return None;
    }
    let number_at_end = |text: &'_ str| {
        let digits = text.bytes().rev().take(MOST_DIGITS + 1).take_while(u8::is_ascii_digit).count();
        let (before, digits_text) = text.split_at_checked(text.len() - digits)?;
        let number = digits_text.parse::<u32>().ok().filter(|_| digits <= MOST_DIGITS)?;
        Some((before.len(), number, u8::try_from(digits).ok()?))
    };
    let (at, count, count_digits) = number_at_end(stem)?;
    let before = stem.get(..at)?.strip_suffix("-of-")?;
    let (at, number, digits) = number_at_end(before)?;
    let stem = before.get(..at)?.strip_suffix('-').filter(|stem| !stem.is_empty())?;
    let usual = digits == 5 && count_digits == 5 && number >= 1;
    let is_shard = (usual || counts_freely) && count >= 1 && number <= count;
    is_shard.then_some(Shard { stem, number, count, count_digits, digits })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_need_five_digits_and_a_sensible_number() {
        let shard = FileName::parse("Grok-Q4_0-00003-of-00009.gguf").shard().unwrap();
        assert_eq!((shard.stem, shard.number, shard.count), ("Grok-Q4_0", 3, 9));
        for name in
            ["m-3-of-9.gguf", "m-00000-of-00002.gguf", "m-00003-of-00002.gguf", "-00001-of-00001.gguf", "m.gguf"]
        {
            assert_eq!(FileName::parse(name).shard(), None, "{name}");
        }
    }

    #[test]
    fn publishers_of_safetensors_count_as_they_like() {
        let cases = [
            ("model-00001-of-000163.safetensors", 1, 163, "model-00012-of-000163"),
            ("model-00000-of-00002.safetensors", 0, 2, "model-00012-of-00002"),
            ("model-1-of-61.safetensors", 1, 61, "model-12-of-61"),
            ("model-01-of-61.safetensors", 1, 61, "model-12-of-61"),
            ("model-00001-of-00002.SAFETENSORS", 1, 2, "model-00012-of-00002"),
        ];
        for (name, number, count, twelfth) in cases {
            let shard = FileName::parse(name).shard().unwrap();
            assert_eq!((shard.stem, shard.number, shard.count), ("model", number, count), "{name}");
            assert_eq!(shard.name_of(12, shard.width()), twelfth, "{name}");
        }
        let padded = FileName::parse("m-01-of-09.safetensors").shard().unwrap();
        let plain = FileName::parse("m-1-of-9.safetensors").shard().unwrap();
        assert_eq!((padded.width(), plain.width()), (2, 1));
        assert!(!padded.is_of_set(&plain));
        for name in
            ["model-3-of-2.safetensors", "model-1-of-0.safetensors", "-1-of-2.safetensors", "1-of-2.safetensors"]
        {
            assert_eq!(FileName::parse(name).shard(), None, "{name}");
        }
        assert_eq!(FileName::parse("model-1234567-of-1234567.safetensors").shard(), None);
        assert_eq!((Shard::numbers(3, 0), Shard::numbers(3, 1)), (0..=2, 1..=3));
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
