//! Frames, and when they are due; what is about the terminal itself.

use std::time::{Duration, Instant};

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

use super::clipboard;
use crate::tui::effect::Effect;
use crate::tui::msg::{Msg, Now};
use crate::tui::screen::Screen;
use crate::tui::state::{Dirty, State};
use crate::tui::terminal::{self, Guard};
use crate::tui::theme::Look;
use crate::tui::{leave, view};

/// At most one frame in this time, however much happens.
const FRAME: Duration = Duration::from_millis(16);
/// Frames that only move bars: four a second, two over SSH.
const PROGRESS: Duration = Duration::from_millis(250);
const PROGRESS_REMOTE: Duration = Duration::from_millis(500);

/// Frames and when they are due.
pub(super) struct Frames {
    screen: Screen,
    look: Look,
    start: Instant,
    last: Option<Duration>,
    progress: Duration,
}

impl Frames {
    pub(super) fn new(look: Look, remote: bool, start: Instant) -> Self {
        let progress = if remote { PROGRESS_REMOTE } else { PROGRESS };
        Self { screen: Screen::default(), look, start, last: None, progress }
    }

    /// When the next frame is due.
    pub(super) fn due(&self, state: &State) -> Option<Duration> {
        let gap = match state.dirty {
            Dirty::Clean => return None,
            Dirty::Progress => self.progress,
            Dirty::Now => FRAME,
        };
        Some(self.last.map_or(Duration::ZERO, |last| last + gap))
    }

    /// Draws, and writes what changed, if anything did. What was drawn before stands as it is then, so that questions on
    /// it can be answered all the same.
    pub(super) fn draw(&mut self, state: &mut State, now: impl Fn() -> Now) -> std::io::Result<Option<Msg>> {
        state.dirty = Dirty::Clean;
        let (width, height) = state.size;
        let mut buffer = Buffer::empty(Rect::new(0, 0, width, height));
        let caret = view::draw(state, &self.look, &mut buffer);
        let bytes = self.screen.frame(buffer, caret)?;
        if !bytes.is_empty() {
            write(bytes)?;
        }
        self.last = Some(now().at.max(self.start.elapsed()));
        Ok(Some(Msg::Drawn))
    }

    /// Performs what is about the terminal itself; `false` for everything else.
    pub(super) fn perform(
        &mut self,
        effect: &Effect,
        state: &mut State,
        guard: &Guard,
        multiplexer: bool,
    ) -> std::io::Result<bool> {
        match effect {
            Effect::Redraw => {}
            Effect::Bell => {
                write(b"\x07")?;
                return Ok(true);
            }
            Effect::Copy(text) => {
                write(&clipboard::sequence(text, multiplexer))?;
                return Ok(true);
            }
            Effect::Suspend => {
                terminal::restore();
                // The whole group: whoever started this program in the same job has to stop with it, or the shell
                // never gets the terminal back.
                let _ = rustix::process::kill_current_process_group(rustix::process::Signal::TSTP);
                guard.enter_again()?;
                state.size = terminal::size();
            }
            _ => return Ok(false),
        }
        self.screen.forget();
        state.dirty = Dirty::Now;
        Ok(true)
    }
}

/// Writes to the terminal; one that is gone ends the process.
fn write(bytes: &[u8]) -> std::io::Result<()> {
    let gone = |error: &std::io::Error| {
        let code = error.raw_os_error();
        code == Some(rustix::io::Errno::IO.raw_os_error()) || error.kind() == std::io::ErrorKind::BrokenPipe
    };
    terminal::write(bytes).inspect_err(|error| {
        if gone(error) {
            leave::terminal_is_gone();
        }
    })
}
