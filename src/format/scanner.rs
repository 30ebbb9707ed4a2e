//! JSON read piece by piece from a file of any length: what is not asked for takes no memory.

use std::io::{ErrorKind, Read};

use super::metadata::UNREADABLE;
use super::warnings::shown;

/// Bytes that are read at once.
const BLOCK: usize = 16 << 10;
/// Texts, brackets and commas that are walked over in values that nobody asked for. The largest published tokenizers have three and
/// a half million.
const MOST_PIECES: u64 = 5_000_000;
/// Deepest nesting; no tokenizer has more than a few levels.
const DEEPEST: usize = 128;

/// What a walk over entries looks at.
const TELLS: u8 = 1;
/// What ends a run of bytes in a text.
const ENDS_RUN: u8 = 2;

/// What each byte is.
const CLASSES: [u8; 256] = {
    let mut classes = [TELLS; 256];
    // Between brackets, texts and commas: white space, numbers, words, colons.
    let plain = b" \t\n\r:+-.0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    let mut at = 0;
    while at < plain.len() {
        classes[plain[at] as usize] = 0;
        at += 1;
    }
    let mut byte = 0;
    while byte < 32 {
        classes[byte] |= ENDS_RUN;
        byte += 1;
    }
    classes[b'"' as usize] |= ENDS_RUN;
    classes[b'\\' as usize] |= ENDS_RUN;
    classes
};

fn class(byte: u8) -> u8 {
    CLASSES.get(usize::from(byte)).copied().unwrap_or(TELLS)
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
    /// How many more pieces may be walked over.
    pieces: u64,
}

impl<R: Read> Scanner<R> {
    /// Reads at most `most` bytes of `reader`.
    pub(super) fn new(reader: R, most: u64) -> Self {
        Self { reader, block: Vec::new(), at: 0, left: most, pieces: MOST_PIECES }
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
            let length = here.iter().position(|byte| class(*byte) & ENDS_RUN != 0);
            let (run, byte) = here.split_at(length.unwrap_or(here.len()));
            keep(run);
            self.at += run.len();
            match byte.first() {
                None => {}
                Some(b'"') => {
                    self.at += 1;
                    return Ok(());
                }
                Some(b'\\') => {
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
        let mut bytes = vec![b'"'];
        let mut all = true;
        self.walk_text(|run| {
            all &= bytes.len() + run.len() <= most + 1;
            if all {
                bytes.extend_from_slice(run);
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
        match self.next_byte()? {
            b'{' | b'[' => self.walk_entries().map(drop),
            b'"' => self.walk_text(|_| {}),
            _ => self.walk_word(|_| {}),
        }
    }

    /// Walks over an object or a list and gives how many entries it has. Vocabularies are tens of megabytes: beside the brackets,
    /// the texts and the keys of the outermost object, nothing is looked at.
    fn walk_entries(&mut self) -> Outcome<u64> {
        let outermost = self.next_byte()?;
        self.at += 1;
        let mut open = vec![outermost + 2];
        if self.next_byte()? == outermost + 2 {
            self.at += 1;
            return Ok(0);
        }
        let mut count = 1;
        self.key_of(outermost)?;
        loop {
            self.peek()?;
            let here = self.block.get(self.at..).unwrap_or_default();
            let Some(plain) = here.iter().position(|byte| class(*byte) & TELLS != 0) else {
                self.at = self.block.len();
                continue;
            };
            self.at += plain;
            let Some(pieces) = self.pieces.checked_sub(1) else { return damaged("more entries than any model has") };
            self.pieces = pieces;
            match here.get(plain).copied().unwrap_or_default() {
                b'"' => self.walk_text(|_| {})?,
                b',' => {
                    self.at += 1;
                    if open.len() == 1 {
                        count += 1;
                        self.key_of(outermost)?;
                    }
                }
                byte @ (b'{' | b'[') => {
                    if open.len() >= DEEPEST {
                        return damaged("nested too deeply");
                    }
                    open.push(byte + 2);
                    self.at += 1;
                }
                byte @ (b'}' | b']') => {
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

    /// Walks over the key of an entry, which an object has.
    fn key_of(&mut self, outermost: u8) -> Outcome<()> {
        if outermost == b'{' {
            self.next_byte()?;
            self.walk_text(|_| {})?;
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
        match self.next_byte()? {
            b'{' | b'[' => self.walk_entries(),
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
