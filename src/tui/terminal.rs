//! The terminal's modes: taken at the start, given back on every way out.

use std::cell::Cell;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

/// Alternate screen, bracketed paste, no cursor, an empty screen.
const ENTER: &[u8] = b"\x1b[?1049h\x1b[?2004h\x1b[?25l\x1b[2J";
/// Reports of clicks and the wheel, in the form that has no limit of columns.
const MOUSE: &[u8] = b"\x1b[?1000h\x1b[?1006h";
/// The end of a frame that may be half written, and everything of [`ENTER`] and [`MOUSE`] undone.
const LEAVE: &[u8] = b"\x1b[?2026l\x1b[?1006l\x1b[?1000l\x1b[?2004l\x1b[0m\x1b[?25h\x1b[?1049l";

/// The modes before the screen was taken; `None` while it is not taken.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);

thread_local! {
    /// Whether this thread draws: its panics end the screen, those of a job do not.
    static DRAWS: Cell<bool> = const { Cell::new(false) };
}

fn before() -> MutexGuard<'static, Option<Termios>> {
    BEFORE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Holds the terminal in raw mode on the alternate screen; dropping it gives it back.
#[derive(Debug)]
pub struct Guard {
    mouse: bool,
}

impl Guard {
    /// Takes the terminal, with its mouse if that is wanted. From here on a panic of this thread restores it before it is
    /// printed.
    ///
    /// # Errors
    /// When standard input is no terminal.
    pub fn enter(mouse: bool) -> io::Result<Self> {
        DRAWS.set(true);
        install_panic_hook();
        let guard = Self { mouse };
        take(mouse)?;
        Ok(guard)
    }

    /// Takes the terminal again after a stop; whatever the shell did to its modes is kept for the way out.
    ///
    /// # Errors
    /// When the terminal is gone.
    pub fn enter_again(&self) -> io::Result<()> {
        restore_modes();
        take(self.mouse)
    }

    /// Marks the calling thread as the one that draws.
    pub(crate) fn drawn_by_this_thread(&self) {
        DRAWS.set(true);
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        restore();
        DRAWS.set(false);
    }
}

fn take(mouse: bool) -> io::Result<()> {
    let stdin = io::stdin();
    let modes = tcgetattr(&stdin)?;
    let mut raw = modes.clone();
    raw.make_raw();
    let mut before = before();
    tcsetattr(&stdin, OptionalActions::Now, &raw)?;
    before.get_or_insert(modes);
    drop(before);
    write(ENTER)?;
    if mouse { write(MOUSE) } else { Ok(()) }
}

fn restore_modes() {
    if let Some(modes) = before().take() {
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &modes);
    }
}

/// Gives the terminal back if it is taken. May be called from any thread, any number of times.
pub fn restore() {
    let Some(modes) = before().take() else { return };
    // Nothing can be done about errors here: the terminal may be gone.
    let _ = write(LEAVE);
    let _ = tcsetattr(io::stdin(), OptionalActions::Now, &modes);
}

/// Writes to standard output directly, so that no lock of a thread that panics is needed.
///
/// # Errors
/// Those of the descriptor.
pub(crate) fn write(bytes: &[u8]) -> io::Result<()> {
    let stdout = io::stdout();
    write_all(stdout.as_fd(), bytes)
}

fn write_all(out: BorrowedFd<'_>, mut bytes: &[u8]) -> io::Result<()> {
    use rustix::event::{PollFd, PollFlags, poll};
    use rustix::io::Errno;
    while !bytes.is_empty() {
        match rustix::io::write(out, bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => bytes = &bytes[written..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                let mut ready = [PollFd::from_borrowed_fd(out, PollFlags::OUT)];
                poll(&mut ready, None)?;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Columns and rows, as the kernel knows them; 80 and 24 where it does not.
#[must_use]
pub fn size() -> (u16, u16) {
    match tcgetwinsize(io::stdout()) {
        Ok(size) if size.ws_col > 0 && size.ws_row > 0 => (size.ws_col, size.ws_row),
        _ => (80, 24),
    }
}

/// A panic of the thread that draws restores the terminal before it is printed. One of another thread while the screen is
/// taken goes to the log: printing it would tear the screen, and the job that panicked is reported as failed.
fn install_panic_hook() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let previous = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let taken = BEFORE.try_lock().map_or(true, |before| before.is_some());
            if taken && !DRAWS.get() {
                tracing::error!("{info}");
                return;
            }
            restore();
            previous(info);
        }));
    });
}
