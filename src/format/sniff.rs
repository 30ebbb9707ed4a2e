//! What a file that is no model looks like, by its first bytes.

use std::fmt;

/// What a file that is no model looks like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LookAlike {
    /// No byte at all.
    Empty,
    /// Too short for any header.
    Short {
        /// Its length.
        bytes: u64,
    },
    /// A preallocated file, or one whose beginning was never written.
    Zeros,
    /// A saved web page.
    Html,
    /// The stand-in that git leaves where large files were not fetched.
    LfsPointer,
    /// JSON or another text.
    Text,
    /// llama.cpp's formats before GGUF.
    OldGgml,
    /// A GGUF file in safetensors' place is named so, and the other way round.
    Safetensors,
    /// A zip archive: most `.pt` and `.bin` files of PyTorch are.
    Zip,
    /// Anything else, by its first bytes.
    Unknown([u8; 4]),
}

impl LookAlike {
    /// What a file of `length` bytes that begins with `head` looks like; a few hundred bytes are enough.
    #[must_use]
    pub fn of(head: &[u8], length: u64) -> Self {
        let Some(&first) = head.first() else { return Self::Empty };
        let Some(&magic) = head.first_chunk::<4>() else { return Self::Short { bytes: length } };
        let lower: Vec<u8> = head.iter().take(256).map(u8::to_ascii_lowercase).collect();
        let text = lower.trim_ascii_start();
        match &magic {
            _ if head.iter().all(|byte| *byte == 0) => Self::Zeros,
            _ if text.starts_with(b"<!doctype") || text.starts_with(b"<html") || text.starts_with(b"<?xml") => {
                Self::Html
            }
            _ if head.starts_with(b"version https://git-lfs") => Self::LfsPointer,
            b"ggml" | b"lmgg" | b"ggmf" | b"fmgg" | b"ggjt" | b"tjgg" | b"ggla" | b"algg" => Self::OldGgml,
            b"PK\x03\x04" => Self::Zip,
            _ if super::safetensors::starts_like_one(head) => Self::Safetensors,
            _ if first != 0
                && std::str::from_utf8(&magic).is_ok_and(|t| !t.contains(char::is_control))
                && text.starts_with(b"{") =>
            {
                Self::Text
            }
            _ => Self::Unknown(magic),
        }
    }
}

impl fmt::Display for LookAlike {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("the file is empty"),
            Self::Short { bytes: 1 } => f.write_str("only 1 byte long"),
            Self::Short { bytes } => write!(f, "only {bytes} bytes long"),
            Self::Zeros => f.write_str("it begins with zeros, as a preallocated file does"),
            Self::Html => f.write_str("an HTML page"),
            Self::LfsPointer => f.write_str("a Git LFS pointer, the model itself was not fetched"),
            Self::Text => f.write_str("JSON text"),
            Self::OldGgml => f.write_str("a GGML file from before GGUF"),
            Self::Safetensors => f.write_str("a safetensors file"),
            Self::Zip => f.write_str("a zip archive, as PyTorch saves models"),
            Self::Unknown(magic) => {
                if magic.iter().all(u8::is_ascii_graphic) {
                    write!(f, "it begins with \"{}\"", magic.escape_ascii())
                } else {
                    let [a, b, c, d] = magic;
                    write!(f, "it begins with bytes {a:02x} {b:02x} {c:02x} {d:02x}")
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_is_named() {
        let cases: [(&[u8], LookAlike); 13] = [
            (b"", LookAlike::Empty),
            (b"GGU", LookAlike::Short { bytes: 3 }),
            (&[0; 64], LookAlike::Zeros),
            (b"  <!DOCTYPE html><html>", LookAlike::Html),
            (b"<html lang=en>", LookAlike::Html),
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:", LookAlike::LfsPointer),
            (b"{\"error\":\"Entry not found\"}", LookAlike::Text),
            (b"ggml\x01\0\0\0", LookAlike::OldGgml),
            (b"tjgg\x03\0\0\0", LookAlike::OldGgml),
            (b"PK\x03\x04....", LookAlike::Zip),
            (b"\x10\0\0\0\0\0\0\0{\"a\":1}", LookAlike::Safetensors),
            (b"FUGG\x03\0\0\0", LookAlike::Unknown(*b"FUGG")),
            (b"\x1b[2J\0\0", LookAlike::Unknown(*b"\x1b[2J")),
        ];
        for (head, what) in cases {
            assert_eq!(LookAlike::of(head, head.len() as u64), what);
            assert!(!what.to_string().chars().any(char::is_control), "{what:?}");
        }
    }
}
