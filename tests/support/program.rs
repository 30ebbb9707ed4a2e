//! The program itself, run in a scratch folder with a clean environment, beside a hub on loopback.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::Duration;

use rbee_hive::format::gguf::{TensorType, Writer};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::hub::TestHub;
use super::until;

/// Longer than anything here takes on a slow machine.
const LONG: Duration = Duration::from_secs(120);

/// A scratch folder with a home, a models folder and a hub.
pub struct Bench {
    pub hub: TestHub,
    pub scratch: TempDir,
    /// Keeps the hub answering while a test waits for the program.
    pub runtime: Runtime,
}

/// How a run of the program ended.
#[derive(Debug)]
pub struct Ran {
    /// Exit code; none when a signal killed it.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    /// The one line on standard error, besides those that say on a slow machine what it waits for.
    pub fn error(&self) -> &str {
        let line = self.stderr.trim_end_matches('\n');
        let waits = line.lines().take_while(|line| line.starts_with("waiting: ")).map(|line| line.len() + 1).sum();
        let line = line.get(waits..).unwrap_or_default();
        assert!(line.starts_with("llorch-models: ") && !line.contains('\n'), "one line is said: {self:?}");
        line
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Ends with `code`, and says so with everything if not.
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self:?}");
        self
    }
}

/// Which of the signals that end the program this process, and so what it starts, ignores.
fn ignored() -> Vec<&'static str> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let bits = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let bits = bits.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok()).unwrap_or(0);
    let ending = [(1, "HUP"), (2, "INT"), (3, "QUIT"), (15, "TERM")];
    ending.into_iter().filter(|(number, _)| bits & (1 << (number - 1)) != 0).map(|(_, name)| name).collect()
}

impl Bench {
    pub fn new() -> Self {
        let runtime = Runtime::new().unwrap();
        let hub = runtime.block_on(TestHub::start());
        Self::with(runtime, hub)
    }

    pub fn with(runtime: Runtime, hub: TestHub) -> Self {
        let scratch = tempfile::tempdir().unwrap();
        std::fs::create_dir(scratch.path().join("home")).unwrap();
        Self { hub, scratch, runtime }
    }

    pub fn models(&self) -> PathBuf {
        self.scratch.path().join("models")
    }

    pub fn model(&self, path: &str) -> PathBuf {
        self.models().join(path)
    }

    /// The program with `line` as arguments, cut at spaces; nothing of the test's own environment reaches it.
    pub fn command(&self, line: &str) -> Command {
        let program = env!("CARGO_BIN_EXE_llorch-models");
        let ignored = ignored();
        let mut command = if ignored.is_empty() {
            Command::new(program)
        } else {
            // The program respects a parent that ignores signals, and the tests may run under such a one: `nohup`, or a shell
            // that runs them in the background.
            let mut command = Command::new("env");
            command.args([&format!("--default-signal={}", ignored.join(",")), program]);
            command
        };
        self.prepare(&mut command);
        command.args(line.split(' ').filter(|word| !word.is_empty()));
        command
    }

    pub fn prepare(&self, command: &mut Command) {
        let home = self.scratch.path().join("home");
        command
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", &home)
            .env("HF_ENDPOINT", self.hub.endpoint())
            .env("LLORCH_MODEL_BASE_DIR", self.models())
            .current_dir(&home)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
    }

    pub fn run(&self, line: &str) -> Ran {
        self.finish(self.command(line))
    }

    /// Runs a command to its end.
    pub fn finish(&self, mut command: Command) -> Ran {
        Running(command.spawn().unwrap()).wait()
    }

    /// Starts it and returns at once.
    pub fn spawn(&self, line: &str) -> Running {
        Running(self.command(line).spawn().unwrap())
    }

    /// Waits until so many bytes of files were sent by the hub.
    pub fn wait_for_bytes(&self, bytes: u64) {
        self.wait_for("the hub sent enough", || self.hub.file_bytes_sent() >= bytes);
    }

    pub fn wait_for(&self, what: &str, condition: impl Fn() -> bool) {
        until(what, LONG, condition);
    }

    /// Puts a small GGUF model into a repository of the hub.
    pub fn offer(&self, repository: &str, file: &str) -> Vec<u8> {
        let bytes = gguf(8, file);
        self.hub.put(repository, file, &bytes);
        bytes
    }

    /// Every path below the models folder, sorted; bookkeeping included.
    pub fn tree(&self) -> Vec<String> {
        tree(&self.models())
    }
}

/// A running program, killed when the test ends.
pub struct Running(pub Child);

impl Running {
    pub fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Waits for its end; what it wrote to a stream that is no pipe of this test's is not seen.
    pub fn wait(mut self) -> Ran {
        let (stdout, stderr) = (read(self.0.stdout.take()), read(self.0.stderr.take()));
        let mut status = None;
        until("the program ends", LONG, || {
            status = self.0.try_wait().unwrap();
            status.is_some()
        });
        let status = status.unwrap();
        Ran { code: status.code(), stdout: stdout.join().unwrap(), stderr: stderr.join().unwrap() }
    }
}

fn read(stream: Option<impl Read + Send + 'static>) -> JoinHandle<String> {
    std::thread::spawn(move || {
        let mut text = String::new();
        if let Some(mut stream) = stream {
            stream.read_to_string(&mut text).unwrap();
        }
        text
    })
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A whole GGUF file of `rows` KiB of weights and a little more.
pub fn gguf(rows: u64, seed: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let seed = seed.bytes().fold(7, |seed: u64, byte| seed.wrapping_mul(31).wrapping_add(byte.into()));
    Writer::new("llama")
        .key("general.file_type", 1u32)
        .key("llama.context_length", 2048u32)
        .tensor("token_embd.weight", &[512, rows], TensorType::F16)
        .write_to(&mut bytes, seed)
        .unwrap();
    bytes
}

pub fn tree(root: &Path) -> Vec<String> {
    let entries = walkdir::WalkDir::new(root).min_depth(1).sort_by_file_name();
    let paths = entries.into_iter().filter_map(Result::ok).filter(|entry| !entry.file_type().is_dir());
    paths.map(|entry| entry.path().strip_prefix(root).unwrap().to_string_lossy().into_owned()).collect()
}
