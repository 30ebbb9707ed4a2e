//! Content digests: the two that the hub publishes.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// How a digest was computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// SHA-256 over the bytes of the file.
    Sha256,
    /// git's blob id: SHA-1 over `blob <length>\0` and the bytes of the file.
    GitSha1,
}

impl Algorithm {
    /// The name in JSON and on screens.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::GitSha1 => "git-sha1",
        }
    }
}

/// A digest of a file's content. Its text form is bare lower-case hexadecimal; the length tells the algorithm.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Digest {
    /// 32 bytes.
    Sha256([u8; 32]),
    /// 20 bytes.
    GitSha1([u8; 20]),
}

impl Digest {
    /// Reads 64 (SHA-256) or 40 (git SHA-1) hexadecimal digits of any case; anything else is `None`.
    #[must_use]
    pub fn parse(hex: &str) -> Option<Self> {
        match hex.len() {
            64 => decode(hex).map(Self::Sha256),
            40 => decode(hex).map(Self::GitSha1),
            _ => None,
        }
    }

    /// How it was computed.
    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        match self {
            Self::Sha256(_) => Algorithm::Sha256,
            Self::GitSha1(_) => Algorithm::GitSha1,
        }
    }

    /// The first eight bytes as 16 hexadecimal digits, for file names of bounded length.
    #[must_use]
    pub fn short(&self) -> String {
        let mut text = self.to_string();
        text.truncate(16);
        text
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Self::Sha256(bytes) => bytes,
            Self::GitSha1(bytes) => bytes,
        }
    }
}

/// What a byte is worth as a hexadecimal digit; above 15 for one that is none.
const DIGITS: [u8; 256] = {
    let (mut digits, mut value) = ([u8::MAX; 256], 0);
    while value < 16 {
        digits[b"0123456789abcdef"[value] as usize] = value as u8;
        digits[b"0123456789ABCDEF"[value] as usize] = value as u8;
        value += 1;
    }
    digits
};

fn decode<const N: usize>(hex: &str) -> Option<[u8; N]> {
    let (mut bytes, mut worst) = ([0; N], 0);
    for (byte, pair) in bytes.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
        let (high, low) = (DIGITS[usize::from(pair[0])], DIGITS[usize::from(pair[1])]);
        worst |= high | low;
        *byte = (high << 4) | (low & 15);
    }
    (worst < 16).then_some(bytes)
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.bytes().iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{self}", self.algorithm().name())
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| serde::de::Error::custom("a digest is 40 or 64 hexadecimal digits"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_length_tells_the_algorithm_and_case_does_not_matter() {
        let sha256 = Digest::parse(&"Ab".repeat(32)).unwrap();
        assert_eq!(sha256.algorithm(), Algorithm::Sha256);
        assert_eq!(sha256.to_string(), "ab".repeat(32));
        assert_eq!(Digest::parse(&"00".repeat(20)).unwrap().algorithm(), Algorithm::GitSha1);
    }

    #[test]
    fn other_text_is_no_digest() {
        for text in ["", "xyz", &"0".repeat(63), &"g".repeat(64), &"é".repeat(32)] {
            assert_eq!(Digest::parse(text), None, "{text}");
        }
    }
}
