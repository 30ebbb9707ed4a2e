//! Frames to bytes: what changed, in one write, between the marks that keep a terminal from showing half a frame.

use std::io;

use ratatui::backend::{Backend, CrosstermBackend};
use ratatui::buffer::Buffer;
use ratatui::layout::{Position, Rect};

const BEGIN: &[u8] = b"\x1b[?2026h";
const END: &[u8] = b"\x1b[?2026l";
const CLEAR: &[u8] = b"\x1b[0m\x1b[2J";

/// What the terminal shows.
#[derive(Debug)]
pub struct Screen {
    shown: Buffer,
    cursor: Option<Position>,
    stale: bool,
    bytes: Vec<u8>,
}

impl Default for Screen {
    fn default() -> Self {
        // Whether there are colours is decided by the theme; crossterm must not decide again from the environment.
        crossterm::style::force_color_output(true);
        Self { shown: Buffer::empty(Rect::ZERO), cursor: None, stale: true, bytes: Vec::new() }
    }
}

impl Screen {
    /// Forgets what the terminal shows: the next frame is written whole.
    pub fn forget(&mut self) {
        self.stale = true;
    }

    /// The bytes that turn what the terminal shows into `next`; none when it shows that already.
    ///
    /// # Errors
    /// Does not happen: the bytes go to memory.
    pub fn frame(&mut self, next: Buffer, cursor: Option<Position>) -> io::Result<&[u8]> {
        self.bytes.clear();
        let whole = self.stale || next.area != self.shown.area;
        if whole {
            self.shown = Buffer::empty(next.area);
        }
        let changes = self.shown.diff(&next);
        if changes.is_empty() && cursor == self.cursor && !whole {
            return Ok(&self.bytes);
        }
        self.bytes.extend_from_slice(BEGIN);
        if self.cursor.is_some() {
            self.bytes.extend_from_slice(b"\x1b[?25l");
        }
        if whole {
            self.bytes.extend_from_slice(CLEAR);
        }
        if !changes.is_empty() {
            CrosstermBackend::new(&mut self.bytes).draw(changes.into_iter())?;
        }
        if let Some(Position { x, y }) = cursor {
            self.bytes.extend_from_slice(format!("\x1b[{};{}H\x1b[?25h", y + 1, x + 1).as_bytes());
        }
        self.bytes.extend_from_slice(END);
        self.shown = next;
        self.cursor = cursor;
        self.stale = false;
        Ok(&self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use ratatui::style::{Modifier, Style};

    use super::*;

    fn buffer(text: &str) -> Buffer {
        let mut buffer = Buffer::empty(Rect::new(0, 0, 20, 2));
        buffer.set_string(0, 0, text, Style::default().add_modifier(Modifier::BOLD));
        buffer
    }

    #[test]
    fn an_unchanged_frame_is_no_byte() {
        let mut screen = Screen::default();
        assert!(!screen.frame(buffer("hello"), None).unwrap().is_empty());
        assert!(screen.frame(buffer("hello"), None).unwrap().is_empty());
        let change = screen.frame(buffer("hallo"), None).unwrap();
        let text = String::from_utf8_lossy(change);
        assert!(text.contains('a') && !text.contains('o'), "only what changed: {text:?}");
        assert!(text.starts_with("\x1b[?2026h") && text.ends_with("\x1b[?2026l"));
    }

    #[test]
    fn a_new_size_and_a_redraw_write_everything() {
        let mut screen = Screen::default();
        screen.frame(buffer("hello"), None).unwrap();
        screen.forget();
        assert!(String::from_utf8_lossy(screen.frame(buffer("hello"), None).unwrap()).contains("hello"));
        let larger = Buffer::empty(Rect::new(0, 0, 30, 3));
        assert!(String::from_utf8_lossy(screen.frame(larger, None).unwrap()).contains("\x1b[2J"));
    }

    #[test]
    fn the_terminal_shows_what_the_buffer_says() {
        let mut screen = Screen::default();
        let mut terminal = vt100::Parser::new(2, 20, 0);
        for text in ["hello", "模型 x", "a", "longer than it"] {
            let bytes = screen.frame(buffer(text), Some(Position::new(3, 1))).unwrap().to_vec();
            terminal.process(&bytes);
            assert_eq!(terminal.screen().contents().trim_end(), text);
            assert_eq!(terminal.screen().cursor_position(), (1, 3));
        }
    }
}
