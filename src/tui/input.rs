//! Bytes from the terminal → keys and pasted text.
//!
//! The reader is our own: the one of crossterm 0.29 loops at full speed, inside its timeout, once the terminal is gone.

use std::io::PipeReader;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::keymap::{Code, Key};
use super::leave;

/// What a person did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// A key.
    Key(Key),
    /// Text that was pasted, as it came.
    Paste(String),
    /// The mouse, if the screen takes it.
    Mouse(Mouse),
}

/// What the mouse did, and where: column and row from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mouse {
    /// What it did.
    pub gesture: Gesture,
    /// Column.
    pub column: u16,
    /// Row.
    pub row: u16,
}

/// What the mouse did. Everything else is not told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gesture {
    /// The left button went down.
    Click,
    /// The wheel was turned away from the person.
    WheelUp,
    /// The wheel was turned towards the person.
    WheelDown,
}

/// How long an escape character waits for the rest of its sequence.
const ESCAPE_WAIT: Duration = Duration::from_millis(60);
/// How long after an Escape that stood alone the rest of a sequence is still taken for one: a slow link can tear an arrow
/// key apart, and its tail must not be typed.
const LATE: Duration = Duration::from_secs(2);
/// Longest pasted text; the rest is dropped.
const MAX_PASTE: usize = 64 * 1024;
/// Longest control sequence; a longer one is dropped.
const MAX_SEQUENCE: usize = 64;
const PASTE_END: &[u8] = b"\x1b[201~";

/// Takes bytes in any pieces and gives what they mean.
#[derive(Debug, Default)]
pub struct Parser {
    buffer: Vec<u8>,
    paste: Option<Vec<u8>>,
    /// The unfinished sequence that was given up last, and when: its rest may come late.
    torn: Option<(Vec<u8>, Duration)>,
    /// Whether the buffer begins with such a sequence, whose keys have been told.
    resumed: bool,
}

/// What the start of the buffer is.
enum Piece {
    /// Something that took so many bytes, with what it means, if anything.
    Whole(usize, Option<Input>),
    /// The start of pasted text, behind so many bytes.
    Paste(usize),
    /// More bytes are needed to tell.
    Part,
}

impl Parser {
    /// Adds bytes that arrived at `now` (time since any fixed point) and puts what they mean into `out`.
    pub fn feed(&mut self, bytes: &[u8], now: Duration, out: &mut Vec<Input>) {
        if let Some((torn, at)) = self.torn.take()
            && self.buffer.is_empty()
            && self.paste.is_none()
            && now.saturating_sub(at) < LATE
            && is_tail(&[&torn[1..], bytes].concat())
        {
            self.buffer = torn;
            self.resumed = true;
        }
        self.buffer.extend_from_slice(bytes);
        self.parse(out);
        self.resumed &= !self.buffer.is_empty();
    }

    /// Whether an unfinished sequence waits for its rest.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        self.paste.is_none() && !self.buffer.is_empty()
    }

    /// Nothing more came in time: an escape character alone is the Escape key, other unfinished bytes mean nothing.
    pub fn give_up(&mut self, now: Duration, out: &mut Vec<Input>) {
        if self.paste.is_some() || self.buffer.is_empty() {
            return;
        }
        match self.buffer.as_slice() {
            _ if self.resumed => {}
            [0x1b] => out.push(Input::Key(Key::plain(Code::Esc))),
            [0x1b, c @ (b'[' | b'O')] => {
                let key = Key { code: Code::Char(char::from(*c)), ctrl: false, alt: true };
                out.push(Input::Key(key));
            }
            _ => {}
        }
        self.resumed = false;
        let torn = std::mem::take(&mut self.buffer);
        self.torn = (torn[0] == 0x1b).then_some((torn, now));
    }

    fn parse(&mut self, out: &mut Vec<Input>) {
        loop {
            if let Some(paste) = &mut self.paste {
                let Some(end) = self.buffer.windows(PASTE_END.len()).position(|window| window == PASTE_END) else {
                    // What could be the start of the end mark stays.
                    let keep = self.buffer.len().min(PASTE_END.len() - 1);
                    let done = self.buffer.len() - keep;
                    extend(paste, &self.buffer[..done]);
                    self.buffer.drain(..done);
                    return;
                };
                extend(paste, &self.buffer[..end]);
                out.push(Input::Paste(String::from_utf8_lossy(paste).into_owned()));
                self.buffer.drain(..end + PASTE_END.len());
                self.paste = None;
                continue;
            }
            if self.buffer.is_empty() {
                return;
            }
            match piece(&self.buffer) {
                Piece::Whole(length, input) => {
                    self.buffer.drain(..length);
                    out.extend(input);
                }
                Piece::Paste(length) => {
                    self.buffer.drain(..length);
                    self.paste = Some(Vec::new());
                }
                Piece::Part if self.buffer.len() > MAX_SEQUENCE => self.buffer.clear(),
                Piece::Part => return,
            }
        }
    }
}

fn extend(paste: &mut Vec<u8>, bytes: &[u8]) {
    let room = MAX_PASTE.saturating_sub(paste.len()).min(bytes.len());
    paste.extend_from_slice(&bytes[..room]);
}

/// Whether bytes look like a control sequence that lost its escape character.
fn is_tail(bytes: &[u8]) -> bool {
    match bytes {
        [b'['] => true,
        [b'[', rest @ ..] => {
            let parameters = rest.iter().take_while(|b| (0x20..=0x3f).contains(*b)).count();
            parameters == rest.len()
                || matches!(rest[parameters], b'A'..=b'D' | b'F' | b'H' | b'P'..=b'S' | b'Z' | b'~')
        }
        [b'O'] => true,
        [b'O', b'A'..=b'D' | b'F' | b'H' | b'P'..=b'S', ..] => true,
        _ => false,
    }
}

fn piece(buffer: &[u8]) -> Piece {
    let Some((&first, rest)) = buffer.split_first() else { return Piece::Part };
    match first {
        0x1b => escape(rest),
        _ => match character(buffer) {
            Some((length, key)) => Piece::Whole(length, key.map(Input::Key)),
            None => Piece::Part,
        },
    }
}

/// What follows an escape character.
fn escape(rest: &[u8]) -> Piece {
    match rest {
        [] => Piece::Part,
        [0x1b, ..] => Piece::Whole(1, Some(Input::Key(Key::plain(Code::Esc)))),
        [b'[', body @ ..] => control_sequence(body),
        [b'O'] => Piece::Part,
        [b'O', last, ..] => Piece::Whole(3, single_shift(*last).map(Input::Key)),
        _ => match character(rest) {
            Some((length, key)) => Piece::Whole(1 + length, key.map(|key| Input::Key(Key { alt: true, ..key }))),
            None => Piece::Part,
        },
    }
}

fn single_shift(last: u8) -> Option<Key> {
    let code = match last {
        b'A'..=b'D' | b'F' | b'H' => return motion(last).map(Key::plain),
        b'P'..=b'S' => Code::F(last - b'P' + 1),
        b'M' => Code::Enter,
        _ => return None,
    };
    Some(Key::plain(code))
}

fn motion(last: u8) -> Option<Code> {
    Some(match last {
        b'A' => Code::Up,
        b'B' => Code::Down,
        b'C' => Code::Right,
        b'D' => Code::Left,
        b'H' => Code::Home,
        b'F' => Code::End,
        _ => return None,
    })
}

/// What follows `ESC [`.
fn control_sequence(body: &[u8]) -> Piece {
    // Function keys of the Linux console: `ESC [ [ A`.
    if let [b'[', tail @ ..] = body {
        return match tail {
            [] => Piece::Part,
            [last @ b'A'..=b'E', ..] => Piece::Whole(4, Some(Input::Key(Key::plain(Code::F(last - b'A' + 1))))),
            [_, ..] => Piece::Whole(4, None),
        };
    }
    let length = body.iter().take_while(|byte| (0x20..=0x3f).contains(*byte)).count();
    let Some(&last) = body.get(length) else { return Piece::Part };
    let whole = 2 + length + 1;
    if !(0x40..=0x7e).contains(&last) {
        // No control sequence at all; what interrupts it is read on its own.
        return Piece::Whole(2 + length, None);
    }
    let text = std::str::from_utf8(&body[..length]).unwrap_or_default();
    if let Some(report) = text.strip_prefix('<') {
        return Piece::Whole(whole, (last == b'M').then(|| mouse(report).map(Input::Mouse)).flatten());
    }
    let mut numbers = text.split(';').map(|number| number.parse::<u8>().ok());
    let (first, second) = (numbers.next().flatten(), numbers.next().flatten());
    if last == b'~' && first == Some(200) {
        return Piece::Paste(whole);
    }
    let code = match (last, first) {
        (b'Z', _) => Some(Code::BackTab),
        (b'P', _) => Some(Code::F(1)),
        (b'Q', _) => Some(Code::F(2)),
        (b'S', _) => Some(Code::F(4)),
        (b'~', Some(1 | 7)) => Some(Code::Home),
        (b'~', Some(2)) => Some(Code::Insert),
        (b'~', Some(3)) => Some(Code::Delete),
        (b'~', Some(4 | 8)) => Some(Code::End),
        (b'~', Some(5)) => Some(Code::PageUp),
        (b'~', Some(6)) => Some(Code::PageDown),
        (b'~', Some(n @ 11..=15)) => Some(Code::F(n - 10)),
        (b'~', Some(n @ 17..=21)) => Some(Code::F(n - 11)),
        (b'~', Some(n @ 23..=24)) => Some(Code::F(n - 12)),
        (last, _) => motion(last),
    };
    let modifiers = second.unwrap_or(1).saturating_sub(1);
    let key = code.map(|code| Key { code, ctrl: modifiers & 4 != 0, alt: modifiers & 2 != 0 });
    Piece::Whole(whole, key.map(Input::Key))
}

/// A report of the mouse: button, column and row, from 1.
fn mouse(report: &str) -> Option<Mouse> {
    let mut numbers = report.split(';').map(|number| number.parse::<u16>().ok());
    let (button, column, row) = (numbers.next()??, numbers.next()??, numbers.next()??);
    let gesture = match button {
        0 => Gesture::Click,
        64 => Gesture::WheelUp,
        65 => Gesture::WheelDown,
        _ => return None,
    };
    Some(Mouse { gesture, column: column.checked_sub(1)?, row: row.checked_sub(1)? })
}

/// A character that is no escape: its length, and its key unless it is no text; `None` when bytes are missing.
fn character(bytes: &[u8]) -> Option<(usize, Option<Key>)> {
    let first = *bytes.first()?;
    let key = match first {
        b'\r' => Key::plain(Code::Enter),
        b'\t' => Key::plain(Code::Tab),
        0x7f => Key::plain(Code::Backspace),
        0 => Key::ctrl(' '),
        1..=0x1a => Key::ctrl(char::from(first - 1 + b'a')),
        0x1b => Key::plain(Code::Esc),
        0x1c..=0x1f => Key::ctrl(char::from(first + 0x40)),
        0x20..=0x7e => Key::char(char::from(first)),
        _ => {
            let length = match first {
                0xc2..=0xdf => 2,
                0xe0..=0xef => 3,
                0xf0..=0xf4 => 4,
                _ => return Some((1, None)),
            };
            if bytes.len() < length {
                let good = bytes[1..].iter().all(|byte| (0x80..=0xbf).contains(byte));
                return if good { None } else { Some((1, None)) };
            }
            let c = std::str::from_utf8(&bytes[..length]).ok().and_then(|text| text.chars().next());
            return match c {
                Some(c) => Some((length, (!crate::model::text::is_unsafe(c)).then(|| Key::char(c)))),
                None => Some((1, None)),
            };
        }
    };
    Some((1, Some(key)))
}

/// Reads the terminal on standard input until `stop` is closed, and hands over what was done, with the time since
/// `start`. Ends the process when the terminal is gone.
pub(crate) fn read(start: Instant, stop: &PipeReader, sink: impl Fn(Duration, Input)) {
    let stdin = std::io::stdin();
    let mut parser = Parser::default();
    let mut bytes = [0_u8; 4096];
    let mut inputs = Vec::new();
    loop {
        let wait = parser.is_waiting().then(|| timespec(ESCAPE_WAIT));
        let mut descriptors =
            [PollFd::new(&stdin, PollFlags::IN), PollFd::from_borrowed_fd(stop.as_fd(), PollFlags::IN)];
        match poll(&mut descriptors, wait.as_ref()) {
            Ok(0) => parser.give_up(start.elapsed(), &mut inputs),
            Ok(_) => {
                if !descriptors[1].revents().is_empty() {
                    return;
                }
                match rustix::io::read(&stdin, &mut bytes) {
                    Ok(0) | Err(Errno::IO | Errno::BADF | Errno::NXIO) => leave::terminal_is_gone(),
                    Ok(length) => parser.feed(&bytes[..length], start.elapsed(), &mut inputs),
                    Err(Errno::INTR | Errno::AGAIN) => {}
                    Err(_) => leave::terminal_is_gone(),
                }
            }
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(_) => leave::terminal_is_gone(),
        }
        let now = start.elapsed();
        for input in inputs.drain(..) {
            sink(now, input);
        }
    }
}

fn timespec(time: Duration) -> Timespec {
    Timespec { tv_sec: time.as_secs().cast_signed(), tv_nsec: time.subsec_nanos().into() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const AT: Duration = Duration::from_secs(1);

    fn parse(pieces: &[&[u8]]) -> Vec<Input> {
        let (mut parser, mut out) = (Parser::default(), Vec::new());
        for piece in pieces {
            parser.feed(piece, AT, &mut out);
        }
        out
    }

    fn keys(names: &[&str]) -> Vec<Input> {
        names.iter().map(|name| Input::Key(name.parse().unwrap())).collect()
    }

    #[test]
    fn keys_of_common_terminals() {
        let cases: [(&[u8], &str); 22] = [
            (b"j", "j"),
            (b"\r", "Enter"),
            (b"\t", "Tab"),
            (b" ", "Space"),
            (b"\x04", "^d"),
            (b"\x1a", "^z"),
            (b"\x7f", "Backspace"),
            (b"\x1b[A", "Up"),
            (b"\x1bOB", "Down"),
            (b"\x1b[1;5C", "^Right"),
            (b"\x1b[H", "Home"),
            (b"\x1b[4~", "End"),
            (b"\x1b[5~", "PgUp"),
            (b"\x1b[6~", "PgDn"),
            (b"\x1b[3~", "Del"),
            (b"\x1b[Z", "S-Tab"),
            (b"\x1bOP", "F1"),
            (b"\x1b[15~", "F5"),
            (b"\x1b[[B", "F2"),
            (b"\x1bx", "M-x"),
            ("é".as_bytes(), "é"),
            ("模".as_bytes(), "模"),
        ];
        for (bytes, name) in cases {
            assert_eq!(parse(&[bytes]), keys(&[name]), "{bytes:?}");
        }
    }

    #[test]
    fn the_mouse_in_its_wide_form() {
        let at = |gesture, column, row| Input::Mouse(Mouse { gesture, column, row });
        let got = parse(&[b"\x1b[<0;10;5M\x1b[<0;10;5m\x1b[<64;1;1M\x1b[<65;300;2Mj\x1b[<0;0;0M\x1b[<9M"]);
        let wheel = [at(Gesture::WheelUp, 0, 0), at(Gesture::WheelDown, 299, 1)];
        assert_eq!(got, [[at(Gesture::Click, 9, 4)].as_slice(), &wheel, &keys(&["j"])].concat());
    }

    #[test]
    fn a_sequence_may_come_in_pieces() {
        assert_eq!(parse(&[b"\x1b", b"[", b"1;", b"5", b"Aj"]), keys(&["^Up", "j"]));
        assert_eq!(parse(&[&"模".as_bytes()[..1], &"模".as_bytes()[1..]]), keys(&["模"]));
    }

    #[test]
    fn an_escape_alone_is_the_key_after_a_while() {
        let (mut parser, mut out) = (Parser::default(), Vec::new());
        parser.feed(b"\x1b", AT, &mut out);
        assert!(parser.is_waiting() && out.is_empty());
        parser.give_up(AT, &mut out);
        assert_eq!(out, keys(&["Esc"]));
        assert!(!parser.is_waiting());
    }

    #[test]
    fn the_tail_of_a_torn_arrow_key_is_not_typed() {
        let (mut parser, mut out) = (Parser::default(), Vec::new());
        parser.feed(b"\x1b", AT, &mut out);
        parser.give_up(AT, &mut out);
        parser.feed(b"[A", AT + Duration::from_millis(300), &mut out);
        parser.feed(b"[B", AT + Duration::from_millis(400), &mut out);
        assert_eq!(out, keys(&["Esc", "Up", "[", "B"]), "only the first bytes after the Escape are its tail");
    }

    #[test]
    fn a_torn_sequence_is_put_together_however_late_its_pieces_come() {
        let cases: [(&[&[u8]], &[&str]); 6] = [
            (&[b"\x1b", b"[", b"A"], &["Esc", "Up"]),
            (&[b"\x1b", b"O", b"A"], &["Esc", "Up"]),
            (&[b"\x1b[", b"A"], &["M-[", "Up"]),
            (&[b"\x1b", b"[", b"5", b"~", b"A"], &["Esc", "PgUp", "A"]),
            (&[b"\x1b", b"[", b"j"], &["Esc", "j"]),
            (&[b"\x1b", b"A"], &["Esc", "A"]),
        ];
        for (pieces, names) in cases {
            let (mut parser, mut out, mut at) = (Parser::default(), Vec::new(), AT);
            for piece in pieces {
                parser.feed(piece, at, &mut out);
                parser.give_up(at + ESCAPE_WAIT, &mut out);
                at += Duration::from_millis(300);
            }
            assert_eq!(out, keys(names), "{pieces:?}");
        }
        let (mut parser, mut out) = (Parser::default(), Vec::new());
        parser.feed(b"\x1b", AT, &mut out);
        parser.give_up(AT, &mut out);
        parser.feed(b"[A", AT + LATE, &mut out);
        assert_eq!(out, keys(&["Esc", "[", "A"]), "after a while it is typed");
    }

    #[test]
    fn pasted_text_is_one_input_even_in_pieces() {
        let text = "org/name\ndyq\x1b[A";
        let bytes = format!("\x1b[200~{text}\x1b[201~j");
        for at in 0..bytes.len() {
            let (first, second) = bytes.as_bytes().split_at(at);
            let got = parse(&[first, second]);
            assert_eq!(got, [Input::Paste(text.to_owned()), Input::Key(Key::char('j'))], "split at {at}");
        }
    }

    #[test]
    fn endless_pastes_and_sequences_are_bounded() {
        let (mut parser, mut out) = (Parser::default(), Vec::new());
        parser.feed(b"\x1b[200~", AT, &mut out);
        for _ in 0..100 {
            parser.feed(&[b'x'; 4096], AT, &mut out);
        }
        parser.feed(PASTE_END, AT, &mut out);
        assert!(matches!(out.as_slice(), [Input::Paste(text)] if text.len() == MAX_PASTE));
        let (mut parser, mut out) = (Parser::default(), Vec::new());
        parser.feed(b"\x1b[", AT, &mut out);
        parser.feed(&[b'1'; 1000], AT, &mut out);
        assert!(parser.buffer.len() <= MAX_SEQUENCE);
    }

    proptest! {
        #[test]
        fn any_bytes_in_any_pieces_are_survived(pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..20), 0..10)) {
            let (mut parser, mut out) = (Parser::default(), Vec::new());
            for piece in &pieces {
                parser.feed(piece, AT, &mut out);
                prop_assert!(parser.buffer.len() <= MAX_SEQUENCE + 20);
            }
            parser.give_up(AT, &mut out);
            let clean = out.iter().all(|input| match input {
                Input::Key(Key { code: Code::Char(c), .. }) => !c.is_control(),
                _ => true,
            });
            prop_assert!(clean);
        }
    }
}
