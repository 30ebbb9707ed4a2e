//! The official client (`hf`, of PyPI's `huggingface_hub`) as judge.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// An installed official client.
pub struct Official {
    python: PathBuf,
}

impl Official {
    /// The client of the Python that `LLORCH_TEST_PYTHON` names. `None` without one, said aloud; where `CI` is set, its
    /// absence is a failure.
    pub fn find() -> Option<Self> {
        match std::env::var_os("LLORCH_TEST_PYTHON") {
            Some(python) => Some(Self { python: python.into() }),
            None if std::env::var_os("CI").is_some() => {
                panic!("LLORCH_TEST_PYTHON is not set: no official client to judge")
            }
            None => {
                eprintln!(
                    "not judged by the official client: set LLORCH_TEST_PYTHON to a Python with huggingface_hub and gguf"
                );
                None
            }
        }
    }

    /// Runs `hf` with `arguments` against `endpoint`, its home in `home`. Blocks.
    pub fn hf(&self, home: &Path, endpoint: &str, arguments: &[&str]) -> Output {
        self.command(&self.python.with_file_name("hf"), home, endpoint).args(arguments).output().unwrap()
    }

    /// Runs a script. Blocks.
    pub fn python(&self, home: &Path, script: &str, arguments: &[&str]) -> Output {
        self.command(&self.python, home, "http://127.0.0.1:9").arg("-c").arg(script).args(arguments).output().unwrap()
    }

    fn command(&self, program: &Path, home: &Path, endpoint: &str) -> Command {
        let mut command = Command::new(program);
        command.env_clear();
        command
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", home)
            .env("HF_HOME", home.join("hf"));
        command.env("HF_ENDPOINT", endpoint).env("HF_HUB_DISABLE_XET", "1").env("HF_HUB_DISABLE_TELEMETRY", "1");
        command.env("HF_HUB_DISABLE_PROGRESS_BARS", "1").env("NO_COLOR", "1").env("COLUMNS", "400");
        command
    }
}

/// Standard output of a run that succeeded.
pub fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}
