//! Pieces of a file that was cut into several for a limit on the length of files, to be joined before anything loads it:
//! `m.gguf-split-a`, `m.gguf.part1of2`, `m.gguf.part00`.

use super::Missing;

/// How the pieces of a file are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Style {
    /// Letters, so many.
    Letters(usize),
    /// Digits, filled up to so many.
    Digits(usize),
    /// Digits, and of how many pieces.
    Of(u32),
}

/// The name of a piece, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The name of the joined file.
    pub whole: String,
    /// What stands between that and the number.
    between: String,
    number: u32,
    style: Style,
}

impl Piece {
    /// Takes a file name apart; `None` for every other name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        let at = name.to_ascii_lowercase().find(".gguf")? + ".gguf".len();
        let (whole, rest) = name.split_at_checked(at)?;
        let piece = |between: &str, number, style| {
            Some(Self { whole: whole.to_owned(), between: between.to_owned(), number, style })
        };
        for between in ["-split-", ".split-"] {
            if let Some(letters) = rest.strip_prefix(between) {
                let is_one = (1..=3).contains(&letters.len()) && letters.bytes().all(|b| b.is_ascii_lowercase());
                let number =
                    letters.bytes().fold(0, |number, letter| number * 26 + u32::from(letter.saturating_sub(b'a')));
                return if is_one { piece(between, number, Style::Letters(letters.len())) } else { None };
            }
        }
        for between in [".part", "-part"] {
            let Some(number) = rest.strip_prefix(between) else { continue };
            let digits = |text: &str| (1..=5).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
            return match number.split_once("of") {
                Some((number, count)) if digits(number) && digits(count) => {
                    let (number, count) = (number.parse().ok()?, count.parse().ok()?);
                    if (1..=count).contains(&number) { piece(between, number, Style::Of(count)) } else { None }
                }
                None if digits(number) => piece(between, number.parse().ok()?, Style::Digits(number.len())),
                _ => None,
            };
        }
        None
    }

    /// What stands for its file in a map: equal for all pieces of it.
    #[must_use]
    pub fn of_whole(&self) -> (String, String) {
        let style = match self.style {
            Style::Of(count) => format!("of{count}"),
            Style::Letters(_) | Style::Digits(_) => String::new(),
        };
        (self.whole.clone(), format!("{}{style}", self.between))
    }

    /// Its place among the pieces.
    #[must_use]
    pub fn number(&self) -> u32 {
        self.number
    }

    /// The pieces that are missing if these are here, as far as names tell: the last ones may not be counted.
    #[must_use]
    pub fn missing(here: &[Self]) -> Missing {
        let numbers = || here.iter().map(Self::number);
        let (Some(first), Some(lowest), Some(highest)) = (here.first(), numbers().min(), numbers().max()) else {
            return Missing::default();
        };
        let all = match first.style {
            Style::Of(count) => (1, count),
            Style::Letters(_) => (0, highest),
            Style::Digits(_) => (lowest.min(1), highest),
        };
        Missing::of_pieces(here, all)
    }

    pub(super) fn name_of(&self, number: u32) -> String {
        let Self { whole, between, .. } = self;
        match self.style {
            Style::Of(count) => format!("{whole}{between}{number}of{count}"),
            Style::Digits(width) => format!("{whole}{between}{number:0width$}"),
            Style::Letters(width) => {
                let letter = |place: usize| {
                    let place = u32::try_from(place).unwrap_or(0);
                    let value = number / 26_u32.saturating_pow(place) % 26;
                    char::from(b'a' + u8::try_from(value).unwrap_or(0))
                };
                let letters: String = (0..width).rev().map(letter).collect();
                format!("{whole}{between}{letters}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn missing(names: &[&str]) -> Vec<String> {
        let pieces: Vec<Piece> = names.iter().map(|name| Piece::parse(name).unwrap()).collect();
        Piece::missing(&pieces).names().collect()
    }

    #[test]
    fn pieces_are_told_by_their_names() {
        for (name, number) in [
            ("m.gguf-split-a", 0),
            ("m.gguf-split-ab", 1),
            ("M.GGUF.part2of3", 2),
            ("m.gguf.part00", 0),
            ("m.gguf-part3", 3),
        ] {
            let piece = Piece::parse(name).unwrap();
            assert_eq!((piece.whole.to_ascii_lowercase().as_str(), piece.number()), ("m.gguf", number), "{name}");
        }
        for name in [
            "m.gguf",
            "m.gguf.part",
            "m.gguf.part0of2",
            "m.gguf.part3of2",
            "m.gguf-split-A",
            "m.gguf.json",
            "m.part1of2",
        ] {
            assert_eq!(Piece::parse(name), None, "{name}");
        }
    }

    #[test]
    fn the_missing_ones_are_named_as_far_as_names_tell() {
        assert_eq!(missing(&["m.gguf-split-a", "m.gguf-split-c"]), ["m.gguf-split-b"]);
        assert_eq!(missing(&["m.gguf-split-ab"]), ["m.gguf-split-aa"]);
        assert_eq!(missing(&["m.gguf.part1of3"]), ["m.gguf.part2of3", "m.gguf.part3of3"]);
        assert_eq!(missing(&["m.gguf.part00", "m.gguf.part02"]), ["m.gguf.part01"]);
        assert_eq!(missing(&["m.gguf.part1", "m.gguf.part2"]), [""; 0]);
    }
}
