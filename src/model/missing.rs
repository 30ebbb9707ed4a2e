//! Which files of a numbered set are not there.

use super::{FileName, Piece, Shard};

/// What a numbered set lacks. Ranges of numbers, at most one more than there are files: a name may claim a million others, which
/// are named one by one only as far as somebody asks for their names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Missing {
    ranges: Vec<(u32, u32)>,
    naming: Naming,
}

/// What makes a name of a number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Naming {
    #[default]
    None,
    /// The name of one of the files, the digits that numbers are filled up to, and the ending.
    Shard {
        file: String,
        width: u8,
        extension: String,
    },
    Piece(Piece),
}

impl Missing {
    /// Nothing.
    #[must_use]
    pub const fn none() -> Self {
        Self { ranges: Vec::new(), naming: Naming::None }
    }

    /// Of shards, of which these are here; `extension` is asked for only where one is missing.
    #[must_use]
    pub fn of_shards(here: &[Shard<'_>], extension: impl FnOnce() -> String) -> Self {
        let (Some(first), Some(lowest)) = (here.first(), here.iter().map(|shard| shard.number).min()) else {
            return Self::default();
        };
        let all = Shard::numbers(first.count, lowest);
        let ranges = gaps(here.iter().map(|shard| shard.number).collect(), *all.start(), *all.end());
        if ranges.is_empty() {
            return Self::default();
        }
        let width = here.iter().map(Shard::width).max().unwrap_or(1);
        let extension = extension();
        // The longer ending lets any way of counting be read again.
        let file = format!("{}.safetensors", first.name_of(first.number, first.digits()));
        Self { ranges, naming: Naming::Shard { file, width, extension } }
    }

    /// Of pieces, of which these are here and `all` should be, from the first to the last number.
    pub(super) fn of_pieces(here: &[Piece], all: (u32, u32)) -> Self {
        let ranges = gaps(here.iter().map(Piece::number).collect(), all.0, all.1);
        match here.first().filter(|_| !ranges.is_empty()) {
            Some(first) => Self { ranges, naming: Naming::Piece(first.clone()) },
            None => Self::default(),
        }
    }

    /// Whether nothing is missing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// How many files are missing.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.ranges.iter().map(|(from, to)| u64::from(to - from) + 1).sum()
    }

    /// Their numbers in order, as the first and the last of each range.
    #[must_use]
    pub fn ranges(&self) -> &[(u32, u32)] {
        &self.ranges
    }

    /// The number of shards that the set has by its name; `None` for pieces.
    #[must_use]
    pub fn count(&self) -> Option<u32> {
        match &self.naming {
            Naming::Shard { file, .. } => FileName::parse(file).shard().map(|shard| shard.count),
            Naming::Piece(_) | Naming::None => None,
        }
    }

    /// Their names, in order. There may be a million.
    pub fn names(&self) -> impl Iterator<Item = String> + '_ {
        let shard = match &self.naming {
            Naming::Shard { file, width, extension } => {
                FileName::parse(file).shard().map(|shard| (shard, *width, extension))
            }
            Naming::Piece(_) | Naming::None => None,
        };
        self.ranges.iter().flat_map(|&(from, to)| from..=to).filter_map(move |number| match (&shard, &self.naming) {
            (Some((shard, width, extension)), _) => Some(format!("{}.{extension}", shard.name_of(number, *width))),
            (None, Naming::Piece(piece)) => Some(piece.name_of(number)),
            (None, _) => None,
        })
    }
}

/// What of `first..=last` is not among `here`.
fn gaps(mut here: Vec<u32>, first: u32, last: u32) -> Vec<(u32, u32)> {
    here.sort_unstable();
    here.dedup();
    let mut ranges = Vec::new();
    let mut next = first;
    for number in here.into_iter().filter(|number| (first..=last).contains(number)) {
        if number > next {
            ranges.push((next, number - 1));
        }
        next = number.saturating_add(1);
    }
    if next <= last {
        ranges.push((next, last));
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    fn missing(names: &[&str]) -> Missing {
        let shards: Vec<Shard<'_>> = names.iter().map(|name| FileName::parse(name).shard().unwrap()).collect();
        Missing::of_shards(&shards, || "gguf".to_owned())
    }

    #[test]
    fn what_a_name_claims_takes_no_room() {
        let huge = missing(&["m-00001-of-65535.gguf", "m-00007-of-65535.gguf"]);
        assert_eq!((huge.ranges(), huge.len(), huge.count()), (&[(2, 6), (8, 65_535)][..], 65_533, Some(65_535)));
        assert_eq!(huge.names().take(2).collect::<Vec<_>>(), ["m-00002-of-65535.gguf", "m-00003-of-65535.gguf"]);
        assert_eq!(huge.names().last().unwrap(), "m-65535-of-65535.gguf");
    }

    #[test]
    fn nothing_is_missing_from_what_is_whole() {
        for names in [
            &["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"][..],
            &["m-0-of-2.safetensors", "m-1-of-2.safetensors"],
            &["m-00000-of-00002.safetensors", "m-00001-of-00002.safetensors", "m-00002-of-00002.safetensors"],
            &[],
        ] {
            assert_eq!(missing(names), Missing::default());
        }
    }

    #[test]
    fn numbers_are_written_as_those_that_are_here() {
        let names = |here: &[&str]| missing(here).names().collect::<Vec<_>>();
        assert_eq!(names(&["m-9-of-10.safetensors"])[9 - 1], "m-10-of-10.gguf");
        assert_eq!(names(&["m-01-of-03.safetensors"]), ["m-02-of-03.gguf", "m-03-of-03.gguf"]);
        assert_eq!(names(&["model-00002-of-000002.safetensors"]), ["model-00001-of-000002.gguf"]);
    }
}
