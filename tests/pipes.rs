//! Pipes where the program expects its own files: nothing waits for their other end, and a signal ends what waits for a disk.
#![cfg(all(feature = "cli", feature = "tui", feature = "mirror"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use std::path::Path;
use std::time::{Duration, Instant};

use portable_pty::CommandBuilder;
use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::process::Signal;
use support::program::{Bench, Running, gguf};
use support::pty::Terminal;

/// Longer than any command here takes on a machine that has other work, shorter than a wait for ever.
const SOON: Duration = Duration::from_secs(60);

fn pipe(path: &Path) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let _ = std::fs::remove_file(path);
    mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
}

/// Waits for its end; one that does not end is killed and fails the test.
fn ends(running: Running, what: &str) -> support::program::Ran {
    let mut running = running;
    support::until(&format!("it ends: {what}"), SOON, || running.0.try_wait().unwrap().is_some());
    running.wait()
}

fn files_below(folder: &Path) -> Vec<std::path::PathBuf> {
    let entries = walkdir::WalkDir::new(folder).into_iter().filter_map(Result::ok);
    entries.filter(|entry| entry.file_type().is_file()).map(|entry| entry.path().to_owned()).collect()
}

#[test]
fn a_pipe_in_the_place_of_any_own_file_is_not_waited_for() {
    let bench = Bench::new();
    let model = bench.model("m/m.gguf");
    std::fs::create_dir_all(model.parent().unwrap()).unwrap();
    std::fs::write(&model, gguf(8, "m")).unwrap();
    let home = bench.scratch.path().join("home");
    let hub = home.join(".cache/huggingface/hub/models--a--b");
    let commit = "1".repeat(40);
    std::fs::create_dir_all(hub.join("blobs")).unwrap();
    std::fs::create_dir_all(hub.join("snapshots").join(&commit)).unwrap();
    std::fs::write(hub.join("blobs/abc"), gguf(8, "b")).unwrap();
    std::os::unix::fs::symlink("../../blobs/abc", hub.join("snapshots").join(&commit).join("b.gguf")).unwrap();
    // What the program writes itself.
    bench.run("list --json").expect(0);
    bench.run("verify m").expect(0);
    bench.run("list --json").expect(0);
    let mut own: Vec<_> = [".cache/llorch-models", ".local/share/llorch-models", ".local/state/llorch-models"]
        .iter()
        .flat_map(|folder| files_below(&home.join(folder)))
        .collect();
    assert!(own.iter().any(|path| path.ends_with("verified.json")), "{own:?}");
    assert!(own.len() > 2, "{own:?}");
    own.push(home.join(".local/state/llorch-models/queue.json"));
    for path in &own {
        pipe(path);
        for line in ["list --json", "verify --quick m", "sweep --dry-run"] {
            let ran = ends(bench.spawn(line), &format!("{line} with {}", path.display()));
            assert!(ran.code == Some(0), "{line} with {}: {ran:?}", path.display());
        }
    }
    // What a person writes is refused in words.
    for name in ["config.toml", "catalog.toml"] {
        let path = home.join(".config/llorch-models").join(name);
        pipe(&path);
        let ran = ends(bench.spawn("list --json"), name).expect(1);
        assert!(ran.error().contains(name) && ran.error().contains("it is no regular file"), "{ran:?}");
        std::fs::remove_file(&path).unwrap();
    }
    let log = home.join("log");
    pipe(&log);
    let ran = ends(bench.spawn(&format!("list --json --log-file {}", log.display())), "the log").expect(0);
    assert!(ran.stderr.contains("nothing is logged") && ran.stderr.contains("nobody reads"), "{ran:?}");
}

/// The program asks on its terminal in a thread that nothing wakes: the same as a disk that does not answer.
#[test]
fn a_signal_ends_a_command_whose_thread_waits() {
    let bench = Bench::new();
    let model = bench.model("m/m.gguf");
    std::fs::create_dir_all(model.parent().unwrap()).unwrap();
    std::fs::write(&model, gguf(8, "m")).unwrap();
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let mut command = CommandBuilder::new(env!("CARGO_BIN_EXE_llorch-models"));
        command.args(["delete", "m"]);
        command.env_clear();
        command.env("HOME", bench.scratch.path().join("home"));
        command.env("LLORCH_MODEL_BASE_DIR", bench.models());
        command.cwd(bench.scratch.path());
        let terminal = Terminal::start(command, 80, 24);
        terminal.shows("Delete");
        let begin = Instant::now();
        terminal.signal(signal);
        assert_eq!(terminal.end().exit_code(), code);
        // What has things to put away gets ten seconds; a question has none.
        assert!(begin.elapsed() < Duration::from_secs(9), "{:?}", begin.elapsed());
    }
    assert!(model.exists());
}
