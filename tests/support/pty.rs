//! A program in a terminal of its own: keys go in, and what the terminal shows can be waited for.

use std::io::{Read, Write};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use portable_pty::{CommandBuilder, ExitStatus, MasterPty, PtySize, native_pty_system};
use rustix::process::{Pid, Signal, kill_process};

/// Longer than anything here takes on a slow machine.
pub const LONG: Duration = Duration::from_secs(60);

/// A terminal with a program in it. The program is killed when the test ends.
pub struct Terminal {
    shown: Arc<Shown>,
    writer: Box<dyn Write + Send>,
    master: Box<dyn MasterPty + Send>,
    pid: u32,
    ended: Receiver<ExitStatus>,
}

struct Shown {
    inner: Mutex<Inner>,
    changed: Condvar,
}

struct Inner {
    parser: vt100::Parser,
    bytes: Vec<u8>,
    /// How many of the bytes the terminal shows.
    shown: usize,
    last: Instant,
    /// Nobody can write any more, and everything is shown.
    ended: bool,
}

impl Inner {
    /// Shows what has come, frames only when they are whole, as terminals do that know the mode for it.
    fn show(&mut self) {
        let held = if self.ended { None } else { unfinished(&self.bytes[self.shown..]) };
        let end = held.map_or(self.bytes.len(), |at| self.shown + at);
        self.parser.process(&self.bytes[self.shown..end]);
        self.shown = end;
    }
}

/// Where a frame begins that has no end yet, or what may become the beginning of one.
fn unfinished(bytes: &[u8]) -> Option<usize> {
    const BEGIN: &[u8] = b"\x1b[?2026h";
    const END: &[u8] = b"\x1b[?2026l";
    let last = |what: &[u8]| bytes.windows(what.len()).rposition(|window| window == what);
    let open = last(BEGIN).filter(|begin| last(END).is_none_or(|end| end < *begin));
    open.or_else(|| (1..BEGIN.len()).rev().find(|part| bytes.ends_with(&BEGIN[..*part])).map(|part| bytes.len() - part))
}

impl Terminal {
    /// Starts a command in a terminal of that size.
    pub fn start(command: CommandBuilder, columns: u16, rows: u16) -> Self {
        let pair =
            native_pty_system().openpty(PtySize { rows, cols: columns, pixel_width: 0, pixel_height: 0 }).unwrap();
        let mut child = pair.slave.spawn_command(command).unwrap();
        drop(pair.slave);
        let pid = child.process_id().unwrap();
        let (end, ended) = channel();
        std::thread::spawn(move || {
            let _ = end.send(child.wait().unwrap());
        });
        let inner = Inner {
            parser: vt100::Parser::new(rows, columns, 0),
            bytes: Vec::new(),
            shown: 0,
            last: Instant::now(),
            ended: false,
        };
        let shown = Arc::new(Shown { inner: Mutex::new(inner), changed: Condvar::new() });
        let mut reader = pair.master.try_clone_reader().unwrap();
        let sink = Arc::clone(&shown);
        std::thread::spawn(move || {
            let mut buffer = [0; 8192];
            loop {
                let length = reader.read(&mut buffer).unwrap_or(0);
                let mut inner = sink.inner.lock().unwrap();
                inner.bytes.extend_from_slice(&buffer[..length]);
                inner.last = Instant::now();
                inner.ended = length == 0;
                inner.show();
                drop(inner);
                sink.changed.notify_all();
                if length == 0 {
                    break;
                }
            }
        });
        let writer = pair.master.take_writer().unwrap();
        Self { shown, writer, master: pair.master, pid, ended }
    }

    pub fn pid(&self) -> u32 {
        self.pid
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.shown.inner.lock().unwrap()
    }

    /// What the terminal shows, line by line.
    pub fn text(&self) -> String {
        self.lock().parser.screen().contents()
    }

    /// Something about the terminal besides its text.
    pub fn screen<T>(&self, ask: impl Fn(&vt100::Screen) -> T) -> T {
        ask(self.lock().parser.screen())
    }

    /// Every byte that the program has written.
    pub fn bytes(&self) -> Vec<u8> {
        self.lock().bytes.clone()
    }

    /// Waits until the terminal shows what `condition` looks for.
    pub fn wait(&self, what: &str, condition: impl Fn(&str) -> bool) -> String {
        self.wait_for(what, |screen| condition(&screen.contents()));
        self.text()
    }

    pub fn wait_for(&self, what: &str, condition: impl Fn(&vt100::Screen) -> bool) {
        let begin = Instant::now();
        let mut inner = self.lock();
        while !condition(inner.parser.screen()) {
            let left = LONG.checked_sub(begin.elapsed()).unwrap_or_else(|| {
                panic!("waited in vain for {what}:\n{}", inner.parser.screen().contents());
            });
            inner = self.shown.changed.wait_timeout(inner, left).unwrap().0;
        }
    }

    /// Waits until the terminal shows `text`.
    pub fn shows(&self, text: &str) -> String {
        self.wait(text, |shown| shown.contains(text))
    }

    /// Waits until the terminal does not show `text` any more.
    pub fn hides(&self, text: &str) -> String {
        self.wait(&format!("the end of {text}"), |shown| !shown.contains(text))
    }

    /// Waits until nothing has been written for so long.
    pub fn settle(&self, quiet: Duration) {
        let begin = Instant::now();
        let mut inner = self.lock();
        while inner.last.elapsed() < quiet {
            assert!(begin.elapsed() < LONG, "it never becomes quiet:\n{}", inner.parser.screen().contents());
            let left = quiet.saturating_sub(inner.last.elapsed());
            inner = self.shown.changed.wait_timeout(inner, left.max(Duration::from_millis(1))).unwrap().0;
        }
    }

    /// Sends bytes as the terminal would.
    pub fn send(&mut self, bytes: &str) {
        self.writer.write_all(bytes.as_bytes()).unwrap();
        self.writer.flush().unwrap();
    }

    /// Presses a key again and again until the terminal shows `text`: for answers that count only after a person could
    /// have read the question.
    pub fn press_until(&mut self, key: &str, text: &str) -> String {
        let begin = Instant::now();
        loop {
            self.send(key);
            let inner = self.lock();
            let (inner, _) = self
                .shown
                .changed
                .wait_timeout_while(inner, Duration::from_millis(200), |inner| {
                    !inner.parser.screen().contents().contains(text)
                })
                .unwrap();
            let contents = inner.parser.screen().contents();
            if contents.contains(text) {
                return contents;
            }
            assert!(begin.elapsed() < LONG, "waited in vain for {text}:\n{contents}");
        }
    }

    pub fn resize(&self, columns: u16, rows: u16) {
        self.lock().parser.screen_mut().set_size(rows, columns);
        self.master.resize(PtySize { rows, cols: columns, pixel_width: 0, pixel_height: 0 }).unwrap();
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.pid).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Waits until the program has ended, and everything that it wrote has been read.
    pub fn end(&self) -> ExitStatus {
        match self.ended.recv_timeout(LONG) {
            Ok(status) => {
                // The terminal ends with the last process that has it open, which may be a child of another test's.
                let ended = |inner: &mut Inner| !inner.ended;
                drop(self.shown.changed.wait_timeout_while(self.lock(), Duration::from_secs(5), ended).unwrap());
                self.settle(Duration::from_millis(100));
                status
            }
            Err(RecvTimeoutError::Timeout) => panic!("the program does not end:\n{}", self.text()),
            Err(RecvTimeoutError::Disconnected) => panic!("the program was waited for twice"),
        }
    }

    /// Whether the terminal is as programs find it: no alternate screen, a cursor, pasted text as it is.
    pub fn is_restored(&self) -> bool {
        self.screen(|screen| !screen.alternate_screen() && !screen.hide_cursor() && !screen.bracketed_paste())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // The program leads its session: everything in it goes.
        if let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) {
            let _ = rustix::process::kill_process_group(pid, Signal::KILL);
        }
    }
}

/// Whether a process is gone or only waits for its parent to notice.
pub fn is_gone(pid: u32) -> bool {
    match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with(['Z', 'X'])),
        Err(_) => true,
    }
}
