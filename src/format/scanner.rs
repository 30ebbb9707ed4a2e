//! JSON read piece by piece from a file of any length: what is not asked for takes no memory.

use std::io::{ErrorKind, Read};

use super::json::run_length;
use super::metadata::UNREADABLE;
use super::warnings::shown;

/// Bytes that are read at once.
const BLOCK: usize = 16 << 10;
/// What may be walked over, in steps of about equal time. The tokenizer with the most tokens takes six and a third million.
const MOST_STEPS: u64 = 7_000_000;
/// Steps of a bracket or a comma.
const OF_SIGN: u64 = 1;
/// Steps of an escape in a text.
const OF_ESCAPE: u64 = 2;
/// Steps of a text.
const OF_TEXT: u64 = 3;
/// Steps of a key that is looked at.
const OF_KEY: u64 = 10;
/// Steps of a text with escapes that is looked at.
const OF_ESCAPED: u64 = 32;
const MANY: &str = "more entries than any model has";
/// Deepest nesting; no tokenizer has more than a few levels.
const DEEPEST: usize = 128;

/// Which bytes a walk over entries looks at.
const TELLS: [bool; 256] = {
    let mut tells = [true; 256];
    // Between brackets, texts and commas: white space, numbers, words, colons.
    let plain = b" \t\n\r:+-.0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    let mut at = 0;
    while at < plain.len() {
        tells[plain[at] as usize] = false;
        at += 1;
    }
    tells
};

fn tells(byte: u8) -> bool {
    TELLS.get(usize::from(byte)).copied().unwrap_or(true)
}

/// A value of a few bytes: `true`, `false`, `null` or a number.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Word {
    bytes: [u8; 32],
    length: usize,
}

impl Word {
    fn push(&mut self, byte: u8) {
        if let Some(place) = self.bytes.get_mut(self.length) {
            *place = byte;
            self.length += 1;
        }
    }

    fn text(&self) -> &str {
        self.bytes.get(..self.length).and_then(|bytes| std::str::from_utf8(bytes).ok()).unwrap_or_default()
    }

    /// Whether it is that word.
    pub(super) fn is(&self, word: &str) -> bool {
        self.text() == word
    }

    /// The whole number that it is.
    pub(super) fn number(&self) -> Option<u64> {
        self.text().parse().ok()
    }
}

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
    /// How many more steps may be taken.
    steps: u64,
    /// Room for a text.
    text: Vec<u8>,
    /// Room for a key.
    key: String,
}

impl<R: Read> Scanner<R> {
    /// Reads at most `most` bytes of `reader`.
    pub(super) fn new(reader: R, most: u64) -> Self {
        Self { reader, block: Vec::new(), at: 0, left: most, steps: MOST_STEPS, text: Vec::new(), key: String::new() }
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
            self.peek()?;
            let here = self.block.get(self.at..).unwrap_or_default();
            let white = here.iter().position(|byte| !matches!(byte, b' ' | b'\t' | b'\n' | b'\r'));
            self.at += white.unwrap_or(here.len());
            if let Some(byte) = white.and_then(|at| here.get(at)) {
                return Ok(*byte);
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

    /// Walks over a text and gives its bytes to `keep`, with its escapes and without its quotes.
    fn walk_text(&mut self, mut keep: impl FnMut(&[u8])) -> Outcome<()> {
        self.take(b'"')?;
        loop {
            self.peek()?;
            let here = self.block.get(self.at..).unwrap_or_default();
            let (run, byte) = here.split_at(run_length(here));
            keep(run);
            self.at += run.len();
            match byte.first() {
                None => {}
                Some(b'"') => {
                    self.at += 1;
                    return Ok(());
                }
                Some(b'\\') => {
                    self.step(OF_ESCAPE)?;
                    self.at += 1;
                    let escaped = self.peek()?;
                    keep(&[b'\\', escaped]);
                    self.at += 1;
                }
                Some(_) => return damaged("a control character in a text"),
            }
        }
    }

    /// A text of at most `most` bytes; `None` for a longer one.
    pub(super) fn short_text(&mut self, most: usize) -> Outcome<Option<String>> {
        let mut text = String::new();
        Ok(self.text_into(&mut text, most)?.then_some(text))
    }

    /// Puts a text of at most `most` bytes into `text`; whether it is no longer one.
    fn text_into(&mut self, text: &mut String, most: usize) -> Outcome<bool> {
        text.clear();
        let (mut bytes, mut escaped, mut all) = (std::mem::take(&mut self.text), false, true);
        bytes.clear();
        bytes.push(b'"');
        let walked = self.walk_text(|run| {
            all &= bytes.len() + run.len() <= most + 1;
            escaped |= run.first() == Some(&b'\\');
            if all {
                bytes.extend_from_slice(run);
            }
        });
        bytes.push(b'"');
        if escaped {
            self.step(OF_ESCAPED)?;
        }
        let is_read = if escaped {
            serde_json::from_slice::<String>(&bytes).map(|whole| *text = whole).is_ok()
        } else {
            let plain = bytes.get(1..bytes.len() - 1).and_then(|bytes| std::str::from_utf8(bytes).ok());
            plain.map(|plain| text.push_str(plain)).is_some()
        };
        self.text = bytes;
        walked?;
        if !all {
            text.clear();
            return Ok(false);
        }
        if is_read { Ok(true) } else { damaged("a text that is none") }
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
    pub(super) fn word_value(&mut self) -> Outcome<Word> {
        let mut word = Word::default();
        if matches!(self.next_byte()?, b'"' | b'{' | b'[') {
            self.skip()?;
            return Ok(word);
        }
        self.walk_word(|byte| word.push(byte))?;
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
        match self.next_byte()? {
            b'{' | b'[' => self.walk_entries(u64::MAX).map(drop),
            b'"' => self.walk_text(|_| {}),
            _ => self.walk_word(|_| {}),
        }
    }

    /// Walks over an object or a list and gives how many entries it has, which may be no more than `most`. Vocabularies are tens of
    /// megabytes: beside the brackets, the texts and the keys of the outermost object, nothing is looked at.
    fn walk_entries(&mut self, most: u64) -> Outcome<u64> {
        let outermost = self.next_byte()?;
        self.at += 1;
        if self.next_byte()? == outermost + 2 {
            self.at += 1;
            return Ok(0);
        }
        let mut open = vec![outermost + 2];
        let mut count = 1;
        self.key_of(outermost)?;
        loop {
            self.peek()?;
            let here = self.block.get(self.at..).unwrap_or_default();
            let Some(plain) = here.iter().position(|byte| tells(*byte)) else {
                self.at = self.block.len();
                continue;
            };
            self.at += plain;
            match here.get(plain).copied().unwrap_or_default() {
                b'"' => self.walk_over_text()?,
                b',' => {
                    self.step(OF_SIGN)?;
                    self.at += 1;
                    if open.len() == 1 {
                        count += 1;
                        if count > most {
                            return damaged(MANY);
                        }
                        self.key_of(outermost)?;
                    }
                }
                byte @ (b'{' | b'[') => {
                    self.step(OF_SIGN)?;
                    if open.len() >= DEEPEST {
                        return damaged("nested too deeply");
                    }
                    open.push(byte + 2);
                    self.at += 1;
                }
                byte @ (b'}' | b']') => {
                    self.step(OF_SIGN)?;
                    if open.pop() != Some(byte) {
                        return damaged("a bracket that closes nothing");
                    }
                    self.at += 1;
                    if open.is_empty() {
                        return Ok(count);
                    }
                }
                _ => return damaged("neither a value nor its end"),
            }
        }
    }

    fn step(&mut self, steps: u64) -> Outcome<()> {
        let Some(left) = self.steps.checked_sub(steps) else { return damaged(MANY) };
        self.steps = left;
        Ok(())
    }

    /// Walks over a text, at whose first quote this stands.
    fn walk_over_text(&mut self) -> Outcome<()> {
        self.step(OF_TEXT)?;
        let here = self.block.get(self.at + 1..).unwrap_or_default();
        let length = run_length(here);
        if here.get(length) == Some(&b'"') {
            self.at += length + 2;
            return Ok(());
        }
        self.walk_text(|_| {})
    }

    /// Walks over the key of an entry, which an object has.
    fn key_of(&mut self, outermost: u8) -> Outcome<()> {
        if outermost == b'{' {
            if self.next_byte()? != b'"' {
                return damaged("no '\"' where one has to be");
            }
            self.walk_over_text()?;
            self.take(b':')?;
        }
        // An end here would follow a comma.
        match self.next_byte()? {
            b'}' | b']' | b',' => damaged("neither a value nor its end"),
            _ => Ok(()),
        }
    }

    /// Gives each key of an object to `each`, which has to take the value. Keys of more than 200 bytes are given as empty ones.
    pub(super) fn object(&mut self, mut each: impl FnMut(&mut Self, &str) -> Outcome<()>) -> Outcome<()> {
        self.take(b'{')?;
        if self.next_byte()? == b'}' {
            self.at += 1;
            return Ok(());
        }
        // One for each level, and handed on to the next object of it.
        let mut key = std::mem::take(&mut self.key);
        loop {
            self.step(OF_KEY)?;
            self.text_into(&mut key, 200)?;
            self.take(b':')?;
            each(self, &key)?;
            if self.ends(b'}')? {
                self.key = key;
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

    /// How many entries an object or a list has; 0 for another value. More than `most` are damage.
    pub(super) fn count(&mut self, most: u64) -> Outcome<u64> {
        match self.next_byte()? {
            b'{' | b'[' => self.walk_entries(most),
            _ => self.skip().map(|()| 0),
        }
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
