//! Asking NVIDIA's driver in a process of its own.
//!
//! A driver that hangs inside its library holds a lock of the loader, which this process would need to end, and a library
//! that breaks ends the process that it is in. Neither happens to this one when a helper opens the library: a question is a
//! line to its standard input, the answer a line of JSON, and when its input closes it ends itself.

use std::ffi::OsString;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, kill_process_group};

use super::Roots;
use super::nvidia::{Nvidia, Reading, silent};

/// How long one answer may take: waking eight GPUs that nobody used takes half a minute.
const PATIENCE: Duration = Duration::from_secs(60);
/// More than an answer about as many GPUs as there are in any host.
const MAX_BYTES: usize = 1 << 20;

/// The driver as the helper asks it.
pub struct GpuDriver(Nvidia);

impl GpuDriver {
    /// The driver of this host. Nothing is opened yet.
    #[must_use]
    pub fn new(roots: &Roots) -> Self {
        Self(Nvidia::new(roots.nvml.clone(), roots.nvidia_smi.clone()))
    }

    /// The answer to one question: a line of JSON without its end. It takes as long as a sick driver takes.
    ///
    /// # Errors
    /// When the answer cannot be written as JSON.
    pub fn answer(&mut self) -> serde_json::Result<String> {
        serde_json::to_string(&self.0.read())
    }
}

/// A helper, started by the first question and kept for the next ones.
pub(super) struct Helper {
    command: Vec<OsString>,
    patience: Duration,
    running: Option<Running>,
}

struct Running {
    child: Child,
    questions: ChildStdin,
    answers: ChildStdout,
}

/// Why there is no answer.
enum Silence {
    /// It took too long.
    Late,
    /// The helper ended, or said what makes no sense.
    Broken,
}

impl Helper {
    pub(super) fn new(command: Vec<OsString>) -> Self {
        Self { command, patience: PATIENCE, running: None }
    }

    /// The GPUs and their memory now. It may wait longer than the limit for a helper that not even the kernel can end, so it
    /// is called on a thread of its own.
    pub(super) fn read(&mut self) -> Reading {
        let cannot = |reason: &str| Reading {
            note: Some(format!("NVIDIA's driver cannot be asked: {reason}")),
            rest: true,
            ..Reading::default()
        };
        let mut running = match self.running.take().map_or_else(|| start(&self.command), Ok) {
            Ok(running) => running,
            Err(error) => return cannot(&crate::error::io_reason(&error)),
        };
        match running.ask(self.patience) {
            Ok(reading) => {
                self.running = Some(running);
                reading
            }
            Err(Silence::Late) => {
                running.end();
                silent()
            }
            Err(Silence::Broken) => match running.end() {
                Some(status) => cannot(&format!("its library broke what asked it ({status})")),
                None => cannot("what asks it gave no answer"),
            },
        }
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        if let Some(mut running) = self.running.take() {
            running.end();
        }
    }
}

fn start(command: &[OsString]) -> std::io::Result<Running> {
    let [program, arguments @ ..] = command else { return Err(ErrorKind::NotFound.into()) };
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        // What a person types at the terminal is not for it.
        .process_group(0)
        .spawn()?;
    match (child.stdin.take(), child.stdout.take()) {
        (Some(questions), Some(answers)) => Ok(Running { child, questions, answers }),
        _ => Err(ErrorKind::BrokenPipe.into()),
    }
}

impl Running {
    fn ask(&mut self, patience: Duration) -> Result<Reading, Silence> {
        let begin = Instant::now();
        self.questions.write_all(b"\n").map_err(|_| Silence::Broken)?;
        let mut line = Vec::new();
        let mut piece = [0; 4096];
        while line.last() != Some(&b'\n') {
            let left = patience.saturating_sub(begin.elapsed());
            let limit = Timespec::try_from(left).map_err(|_| Silence::Late)?;
            match poll(&mut [PollFd::new(&self.answers, PollFlags::IN)], Some(&limit)) {
                Ok(0) => return Err(Silence::Late),
                Ok(_) => {}
                Err(rustix::io::Errno::INTR) => continue,
                Err(_) => return Err(Silence::Broken),
            }
            match self.answers.read(&mut piece) {
                Ok(length @ 1..) if line.len() + length <= MAX_BYTES => line.extend_from_slice(&piece[..length]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                _ => return Err(Silence::Broken),
            }
        }
        serde_json::from_slice(&line).map_err(|_| Silence::Broken)
    }

    /// Ends it with what it started; how it had ended before, if it had.
    fn end(&mut self) -> Option<std::process::ExitStatus> {
        // Its output closes just before it can be waited for.
        let begin = Instant::now();
        let status = loop {
            match self.child.try_wait() {
                Ok(None) if begin.elapsed() < Duration::from_millis(100) => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                status => break status.ok().flatten(),
            }
        };
        if status.is_none() {
            let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
            let _ = self.child.wait();
        }
        status
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn helper(script: &str, patience: Duration) -> Helper {
        let command = ["/bin/sh", "-c", script].map(OsString::from).to_vec();
        Helper { command, patience, running: None }
    }

    #[test]
    fn one_helper_answers_every_question() {
        let script = r#"n=0; while read -r _; do n=$((n+1)); echo "{\"gpus\":[],\"whole\":$n,\"note\":null}"; done"#;
        let mut helper = helper(script, Duration::from_secs(30));
        assert_eq!([helper.read().whole, helper.read().whole, helper.read().whole], [1, 2, 3]);
    }

    #[test]
    fn one_that_hangs_is_ended_and_started_anew() {
        let mut hangs = helper("read -r _; exec sleep 60", Duration::from_millis(20));
        let begin = Instant::now();
        for _ in 0..2 {
            assert_eq!(hangs.read(), silent());
            assert!(hangs.running.is_none());
        }
        let mut part = helper("read -r _; printf '{'; exec sleep 60", Duration::from_millis(20));
        assert_eq!(part.read(), silent());
        assert!(begin.elapsed() < Duration::from_secs(30), "{:?}", begin.elapsed());
    }

    #[test]
    fn one_that_breaks_is_a_reason() {
        for (script, expected) in [
            ("read -r _; kill -SEGV $$", "(signal: 11"),
            ("read -r _; exit 3", "(exit status: 3)"),
            ("read -r _; echo nonsense; exec sleep 60", "no answer"),
            ("read -r _; exec yes {", "no answer"),
            ("read -r _; exec head -c 3000000 /dev/zero", "asked"),
        ] {
            let reading = helper(script, Duration::from_secs(30)).read();
            assert!(reading.rest && reading.note.as_deref().is_some_and(|note| note.contains(expected)), "{reading:?}");
        }
        let mut missing = Helper::new(vec![OsString::from("/nonexistent/helper")]);
        assert!(missing.read().note.is_some_and(|note| note.contains("cannot be asked")));
    }
}
