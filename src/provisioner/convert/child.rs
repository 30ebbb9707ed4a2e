//! The converter as a child process: watched, bounded, and gone when it is not wanted any more.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use tokio_util::sync::CancellationToken;

use super::{Conversion, Converter, OutputSink};
use crate::config::ConverterSettings;
use crate::disk::throwaway::Throwaway;
use crate::disk::{publish, space};
use crate::error::{Error, Result};
use crate::model::text;

/// Between two looks at the child.
const TICK: Duration = Duration::from_millis(100);

/// How long the child has to end after it was asked to.
const GRACE: Duration = Duration::from_secs(5);

/// Lines of its output that are kept, and the longest.
const LINES: usize = 40;
const LONGEST: usize = 400;

/// Less room than this on the disk of the result means that it filled up.
const FULL: u64 = 1 << 20;

/// What it printed last, and when anything happened.
struct Heard {
    lines: VecDeque<String>,
    last: Instant,
}

/// Runs the converter to its end. A failure is told with what it said.
pub(super) fn run(
    converter: &Converter,
    settings: &ConverterSettings,
    conversion: &Conversion,
    staged: &Path,
    output: &OutputSink,
    cancel: &CancellationToken,
) -> Result<()> {
    let failed = |reason: String| Error::Conversion { what: conversion.name.clone(), reason };
    publish::create_folders(&settings.scratch)?;
    let scratch = Throwaway::create(&settings.scratch, "convert-")?;
    let supervisor = settings.supervisor.as_deref().unwrap_or_default();
    let supervised = !supervisor.is_empty();
    let words = supervisor.iter().map(OsString::as_os_str);
    let mut words = words.chain(converter.python.as_deref().map(Path::as_os_str)).chain([converter.script.as_os_str()]);
    let mut command = Command::new(words.next().unwrap_or(converter.script.as_os_str()));
    command
        .args(words)
        .arg(&conversion.source)
        .arg("--outfile")
        .arg(staged)
        .args(["--outtype", &conversion.output_type])
        // Nothing of this process's environment: no token, no address.
        .env_clear()
        .envs(settings.search.as_ref().map(|search| ("PATH", search)))
        .env("HOME", &settings.home)
        .env("TMPDIR", scratch.path())
        .env("HF_HOME", scratch.path())
        .env("LC_ALL", "C.UTF-8")
        .env("PYTHONUNBUFFERED", "1")
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("HF_HUB_OFFLINE", "1")
        .env("TRANSFORMERS_OFFLINE", "1")
        .env("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")
        // It only moves bytes; the GPUs are for models.
        .env("CUDA_VISIBLE_DEVICES", "")
        .current_dir(scratch.path())
        // A supervisor waits for its end.
        .stdin(if supervised { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0);
    let program = converter.python.as_ref().unwrap_or(&converter.script);
    let child = command.spawn().map_err(|error| {
        failed(format!("{} cannot be started: {}", text::printable_path(program), crate::error::io_reason(&error)))
    })?;
    let mut group = Group { child, reaped: false };
    let heard = Arc::new(Mutex::new(Heard { lines: VecDeque::new(), last: Instant::now() }));
    if let Some(pipe) = group.child.stdout.take() {
        listen(pipe, Arc::clone(&heard), Arc::clone(output));
    }
    if let Some(pipe) = group.child.stderr.take() {
        listen(pipe, Arc::clone(&heard), Arc::clone(output));
    }
    let mut length = 0;
    while !group.has_ended() {
        if cancel.is_cancelled() {
            return Err(Error::Cancelled);
        }
        let now = staged.symlink_metadata().map_or(0, |status| status.len());
        let silent = {
            let mut heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
            // A file that grows is a sign of life, too.
            if now != length {
                (length, heard.last) = (now, Instant::now());
            }
            heard.last.elapsed()
        };
        if silent > settings.patience {
            return Err(failed(format!(
                "the converter did nothing for {} s and was stopped; set converter_patience to wait longer",
                settings.patience.as_secs()
            )));
        }
        thread::sleep(TICK);
    }
    let status = group.reap().map_err(|error| failed(format!("its end is not known: {error}")))?;
    // Its last words may still be on their way; what inherited its pipes may keep them open for ever.
    let mut lines = Vec::new();
    for _ in 0..5 {
        thread::sleep(Duration::from_millis(20));
        let now: Vec<String> = heard.lock().unwrap_or_else(PoisonError::into_inner).lines.iter().cloned().collect();
        if now == lines && !now.is_empty() {
            break;
        }
        lines = now;
    }
    if status.success() { Ok(()) } else { Err(explained(&conversion.name, converter, conversion, status, &lines)) }
}

/// The failure in the words of a person, as far as the output tells.
fn explained(
    name: &str,
    converter: &Converter,
    conversion: &Conversion,
    status: ExitStatus,
    lines: &[String],
) -> Error {
    let failed = |reason: String| Error::Conversion { what: name.to_owned(), reason };
    let has = |part: &str| lines.iter().rev().find(|line| line.contains(part));
    if let Some(line) = has("No module named") {
        let module = line.split("No module named").nth(1).unwrap_or_default().trim();
        let module = module.trim_matches(|c: char| matches!(c, '\'' | '"' | '.' | ';')).to_owned();
        return failed(format!(
            "the converter lacks the Python module '{module}'; install it with `{}`",
            pip(converter)
        ));
    }
    let available = space::space(&conversion.folder).map_or(u64::MAX, |space| space.available);
    if available < FULL || has("No space left on device").is_some() {
        return failed(format!(
            "the disk of {} is full; make room and start it again",
            text::printable_path(&conversion.folder)
        ));
    }
    if let Some(line) = has("is not supported") {
        return failed(format!("the converter does not know this architecture: {line}"));
    }
    let how = match (status.code(), std::os::unix::process::ExitStatusExt::signal(&status)) {
        (Some(code), _) => format!("ended with status {code}"),
        (None, Some(signal)) => format!("was ended by signal {signal}"),
        (None, None) => "ended".to_owned(),
    };
    let said = lines.iter().rev().find(|line| !line.trim().is_empty());
    failed(match said {
        Some(line) => format!("the converter {how}: {line}"),
        None => format!("the converter {how} and said nothing"),
    })
}

/// The command that installs what the converter needs. The Python of the system lets nothing be installed on most hosts, so
/// unless the converter has an environment it gets one where it is looked for.
fn pip(converter: &Converter) -> String {
    let folder = converter.script.parent().unwrap_or(Path::new("."));
    let own = folder.join("requirements/requirements-convert_hf_to_gguf.txt");
    let requirements = if own.is_file() { own } else { folder.join("requirements.txt") };
    let requirements = text::printable_path(&requirements);
    let is_environment =
        |python: &Path| python.ancestors().nth(2).is_some_and(|root| root.join("pyvenv.cfg").is_file());
    match converter.python.as_deref().filter(|python| is_environment(python)) {
        Some(python) => format!("{} -m pip install -r {requirements}", text::printable_path(python)),
        None => {
            let environment = text::printable_path(&folder.join(".venv"));
            format!("python3 -m venv {environment} && {environment}/bin/pip install -r {requirements}")
        }
    }
}

/// Takes in what a pipe gives, on a thread that ends with the pipe.
fn listen(pipe: impl Read + Send + 'static, heard: Arc<Mutex<Heard>>, output: OutputSink) {
    let body = move || {
        let mut reader = BufReader::new(pipe);
        let mut line = Vec::new();
        let take = |bytes: &[u8]| {
            let mut words = text::printable(String::from_utf8_lossy(bytes).trim_end());
            if words.chars().count() > LONGEST {
                words = words.chars().take(LONGEST).collect();
            }
            let mut heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
            heard.last = Instant::now();
            if words.is_empty() {
                return;
            }
            heard.lines.push_back(words.clone());
            if heard.lines.len() > LINES {
                heard.lines.pop_front();
            }
            drop(heard);
            output(&words);
        };
        loop {
            let (used, ended) = match reader.fill_buf() {
                Ok([]) | Err(_) => break,
                // Bars of progress come back to the beginning of their line.
                Ok(bytes) => match bytes.iter().position(|byte| matches!(byte, b'\n' | b'\r')) {
                    Some(at) => {
                        line.extend(bytes.iter().take(at).take(4 * LONGEST));
                        (at + 1, true)
                    }
                    None => {
                        line.extend_from_slice(bytes);
                        (bytes.len(), false)
                    }
                },
            };
            reader.consume(used);
            line.truncate(4 * LONGEST);
            if ended {
                take(&std::mem::take(&mut line));
            }
        }
        take(&line);
    };
    if let Err(error) = thread::Builder::new().name("converter".to_owned()).spawn(body) {
        tracing::warn!("the converter's output is not shown: {error}");
    }
}

/// A child with whatever it has started. All of it ends when this is dropped.
struct Group {
    child: Child,
    reaped: bool,
}

impl Group {
    fn id(&self) -> Option<Pid> {
        Pid::from_raw(i32::try_from(self.child.id()).ok()?)
    }

    /// Whether the child has ended. It stays a zombie, so that its number stays the group's and nobody else's.
    fn has_ended(&self) -> bool {
        let Some(id) = self.id() else { return true };
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        !matches!(waitid(WaitId::Pid(id), options), Ok(None) | Err(rustix::io::Errno::INTR))
    }

    /// Ends what is left of the group, and gives how the child ended.
    fn reap(&mut self) -> std::io::Result<ExitStatus> {
        if let Some(group) = self.id().filter(|_| !self.reaped) {
            // Nobody is left in it most of the time.
            let _ = kill_process_group(group, Signal::KILL);
        }
        self.reaped = true;
        self.child.wait()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if self.reaped {
            return;
        }
        if let Some(group) = self.id() {
            let _ = kill_process_group(group, Signal::TERM);
        }
        let begin = Instant::now();
        while begin.elapsed() < GRACE && !self.has_ended() {
            thread::sleep(TICK / 4);
        }
        if let Err(error) = self.reap() {
            tracing::warn!("the converter's end is not known: {error}");
        }
    }
}
