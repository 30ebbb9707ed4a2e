//! JSON read piece by piece from a file of any length: what is not asked for takes no memory.

use std::io::{ErrorKind, Read};

use super::metadata::UNREADABLE;
use super::warnings::shown;

/// Bytes that are read at once.
const BLOCK: usize = 16 << 10;
/// Deepest nesting; no tokenizer has more than a few levels.
const DEEPEST: usize = 128;

/// Why reading ended before the end of a value.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// More bytes than are read of such a file.
    Limit,
    /// Nothing further is wanted.
    Enough,
    /// It is no JSON, or it cannot be read.
    Damaged(String),
}

type Outcome<T> = Result<T, Stop>;

fn damaged<T>(what: &str) -> Outcome<T> {
    Err(Stop::Damaged(format!("malformed JSON: {what}")))
}

/// Stands at a byte of a JSON text.
pub(super) struct Scanner<R> {
    reader: R,
    block: Vec<u8>,
    at: usize,
    left: u64,
}

impl<R: Read> Scanner<R> {
    /// Reads at most `most` bytes of `reader`.
    pub(super) fn new(reader: R, most: u64) -> Self {
        Self { reader, block: Vec::new(), at: 0, left: most }
    }

    fn fill(&mut self) -> Outcome<()> {
        let want = usize::try_from(self.left).unwrap_or(BLOCK).min(BLOCK);
        if want == 0 {
            return Err(Stop::Limit);
        }
        self.block.resize(want, 0);
        let count = loop {
            match self.reader.read(&mut self.block) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    let why = shown(error.to_string().as_bytes());
                    return Err(Stop::Damaged(format!("{UNREADABLE}: {why}")));
                }
                Ok(count) => break count,
            }
        };
        self.block.truncate(count);
        self.at = 0;
        self.left -= count as u64;
        if count == 0 { damaged("it ends too early") } else { Ok(()) }
    }

    fn peek(&mut self) -> Outcome<u8> {
        if self.at >= self.block.len() {
            self.fill()?;
        }
        self.block.get(self.at).copied().map_or_else(|| damaged("it ends too early"), Ok)
    }

    /// The next byte that is no white space; it is not taken.
    pub(super) fn next_byte(&mut self) -> Outcome<u8> {
        loop {
            match self.peek()? {
                b' ' | b'\t' | b'\n' | b'\r' => self.at += 1,
                byte => return Ok(byte),
            }
        }
    }

    fn take(&mut self, wanted: u8) -> Outcome<()> {
        if self.next_byte()? != wanted {
            return damaged(&format!("no '{}' where one has to be", char::from(wanted)));
        }
        self.at += 1;
        Ok(())
    }

    /// Walks over a text and gives its first bytes to `keep`, with its quotes and its escapes.
    fn walk_text(&mut self, mut keep: impl FnMut(u8)) -> Outcome<()> {
        self.take(b'"')?;
        let mut escaped = false;
        loop {
            let byte = self.peek()?;
            self.at += 1;
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => return Ok(()),
                0..=31 => return damaged("a control character in a text"),
                _ => {}
            }
            keep(byte);
        }
    }

    /// A text of at most `most` bytes; `None` for a longer one.
    pub(super) fn short_text(&mut self, most: usize) -> Outcome<Option<String>> {
        let mut bytes = vec![b'"'];
        let mut all = true;
        self.walk_text(|byte| {
            if bytes.len() <= most {
                bytes.push(byte);
            } else {
                all = false;
            }
        })?;
        if !all {
            return Ok(None);
        }
        bytes.push(b'"');
        serde_json::from_slice(&bytes).map(Some).or_else(|_| damaged("a text that is none"))
    }

    /// The next value where it is a text of at most `most` bytes; another one is walked over.
    pub(super) fn text_value(&mut self, most: usize) -> Outcome<Option<String>> {
        if self.next_byte()? == b'"' {
            return self.short_text(most);
        }
        self.skip()?;
        Ok(None)
    }

    /// The next value where it is `true`, `false`, `null` or a number; another one is walked over.
    pub(super) fn word_value(&mut self) -> Outcome<String> {
        let mut word = String::new();
        if matches!(self.next_byte()?, b'"' | b'{' | b'[') {
            self.skip()?;
            return Ok(word);
        }
        self.walk_word(|byte| {
            if word.len() < 32 {
                word.push(char::from(byte));
            }
        })?;
        Ok(word)
    }

    fn walk_word(&mut self, mut keep: impl FnMut(u8)) -> Outcome<()> {
        let mut length = 0_u64;
        loop {
            match self.peek() {
                Ok(byte @ (b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' | b'+' | b'-' | b'.')) => {
                    keep(byte);
                    self.at += 1;
                    length += 1;
                }
                Ok(_) if length > 0 => return Ok(()),
                Ok(_) => return damaged("neither a value nor its end"),
                Err(stop) => return Err(stop),
            }
        }
    }

    /// Walks over a value.
    pub(super) fn skip(&mut self) -> Outcome<()> {
        let mut open = Vec::new();
        loop {
            match self.next_byte()? {
                byte @ (b'{' | b'[') => {
                    if open.len() >= DEEPEST {
                        return damaged("nested too deeply");
                    }
                    open.push(byte + 2);
                    self.at += 1;
                    continue;
                }
                b'"' => self.walk_text(|_| {})?,
                byte @ (b'}' | b']') => {
                    if open.pop() != Some(byte) {
                        return damaged("a bracket that closes nothing");
                    }
                    self.at += 1;
                }
                b',' | b':' if !open.is_empty() => {
                    self.at += 1;
                    continue;
                }
                _ => self.walk_word(|_| {})?,
            }
            if open.is_empty() {
                return Ok(());
            }
        }
    }

    /// Gives each key of an object to `each`, which has to take the value. Keys of more than 200 bytes are given as empty ones.
    pub(super) fn object(&mut self, mut each: impl FnMut(&mut Self, &str) -> Outcome<()>) -> Outcome<()> {
        self.take(b'{')?;
        if self.next_byte()? == b'}' {
            self.at += 1;
            return Ok(());
        }
        loop {
            self.next_byte()?;
            let key = self.short_text(200)?.unwrap_or_default();
            self.take(b':')?;
            each(self, &key)?;
            if self.ends(b'}')? {
                return Ok(());
            }
        }
    }

    /// Gives each element of a list to `each`, which has to take it.
    pub(super) fn list(&mut self, mut each: impl FnMut(&mut Self) -> Outcome<()>) -> Outcome<()> {
        self.take(b'[')?;
        if self.next_byte()? == b']' {
            self.at += 1;
            return Ok(());
        }
        loop {
            each(self)?;
            if self.ends(b']')? {
                return Ok(());
            }
        }
    }

    /// How many entries an object or a list has; 0 for another value.
    pub(super) fn count(&mut self) -> Outcome<u64> {
        let mut count = 0_u64;
        match self.next_byte()? {
            b'{' => {
                self.take(b'{')?;
                if self.next_byte()? == b'}' {
                    self.at += 1;
                    return Ok(0);
                }
                loop {
                    self.next_byte()?;
                    self.walk_text(|_| {})?;
                    self.take(b':')?;
                    self.skip()?;
                    count += 1;
                    if self.ends(b'}')? {
                        return Ok(count);
                    }
                }
            }
            b'[' => {
                self.list(|scanner| {
                    count += 1;
                    scanner.skip()
                })?;
            }
            _ => self.skip()?,
        }
        Ok(count)
    }

    fn ends(&mut self, with: u8) -> Outcome<bool> {
        let byte = self.next_byte()?;
        if byte != with && byte != b',' {
            return damaged("neither a comma nor an end after a value");
        }
        self.at += 1;
        Ok(byte == with)
    }
}
