//! NVIDIA's library as the program finds it on a host: stand-ins for it are compiled here, and the program itself loads them.
#![cfg(all(feature = "cli", feature = "tui", target_os = "linux"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use portable_pty::CommandBuilder;
use rbee_hive::format::gguf::{TensorType, Writer};
use serde_json::Value;
use support::program::{Bench, Ran};
use support::pty::{LONG, Terminal};

const MIB: u64 = 1 << 20;
/// What is said of a driver that takes too long.
const SILENT: &str = "the NVIDIA driver does not answer";

/// A host with one model: 16 MiB of weights, and 128 KiB of cache for each token.
struct Host {
    bench: Bench,
    driver: PathBuf,
}

impl Host {
    /// `None` where there is no C compiler to make a driver with.
    fn new(flags: &[&str]) -> Option<Self> {
        let bench = Bench::new();
        let driver = bench.scratch.path().join("driver");
        std::fs::create_dir(&driver).unwrap();
        let compiled = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-Wno-unused", "-o"])
            .arg(driver.join("libnvidia-ml.so.1"))
            .args(flags)
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/nvml/driver.c"))
            .output();
        match compiled {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                eprintln!("skipped: there is no C compiler `cc` here, which the stand-in for the driver needs");
                return None;
            }
            compiled => {
                let compiled = compiled.unwrap();
                assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
            }
        }
        std::fs::create_dir_all(bench.model("m")).unwrap();
        let mut file = std::fs::File::create(bench.model("m/m-F16.gguf")).unwrap();
        Writer::new("llama")
            .key("general.file_type", 1_u32)
            .key("llama.context_length", 131_072_u32)
            .key("llama.block_count", 32_u32)
            .key("llama.embedding_length", 4096_u32)
            .key("llama.attention.head_count", 32_u32)
            .key("llama.attention.head_count_kv", 8_u32)
            .tensor("blk.0.weight", &[4096, 2048], TensorType::F16)
            .write_to(&mut file, 1)
            .unwrap();
        Some(Self { bench, driver })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.bench.scratch.path().join(name)
    }

    fn run(&self, play: &str, line: &str) -> Ran {
        let mut command = self.bench.command(line);
        command.env("LD_LIBRARY_PATH", &self.driver).env("PLAY", play).env("HEARD", self.path("heard"));
        command.env("ASKED_BY", self.path("asked by"));
        // A stand-in for nvidia-smi is found before any other.
        command.env("PATH", format!("{}:/usr/bin:/bin", self.driver.display()));
        self.bench.finish(command)
    }

    fn fit(&self, play: &str, more: &str) -> Value {
        let ask = || self.run(play, &format!("info m --json{more}")).expect(0).json()["fit"].clone();
        let mut fit = ask();
        // A driver that hangs for a machine that stood still is asked again.
        for _ in 0..5 {
            if play.starts_with("hang") || fit["memory"]["gpu_note"] != SILENT {
                break;
            }
            fit = ask();
        }
        fit
    }

    /// The GPUs as `nvidia-smi` told their memory, asked again for a machine that stood still.
    fn told(&self, expected: &[(&str, Option<u64>)]) -> Value {
        let mut fit = self.fit("", "");
        for _ in 0..5 {
            if gpus(&fit) == expected {
                break;
            }
            fit = self.fit("", "");
        }
        assert_eq!(gpus(&fit), expected);
        fit
    }

    fn terminal(&self, play: &str) -> Terminal {
        let mut command = CommandBuilder::new(env!("CARGO_BIN_EXE_llorch-models"));
        command.env_clear();
        let home = self.path("home");
        for (name, value) in [
            ("PATH", Path::new("/usr/bin:/bin")),
            ("HOME", &home),
            ("TERM", Path::new("xterm-256color")),
            ("LANG", Path::new("C.UTF-8")),
            ("HF_ENDPOINT", Path::new(&self.bench.hub.endpoint())),
            ("LLORCH_MODEL_BASE_DIR", &self.bench.models()),
            ("LD_LIBRARY_PATH", &self.driver),
            ("PLAY", Path::new(play)),
            ("HEARD", &self.path("heard")),
            ("FREE", &self.path("free")),
            ("ASKED_BY", &self.path("asked by")),
        ] {
            command.env(name, value);
        }
        command.cwd(home);
        Terminal::start(command, 160, 24)
    }

    /// Waits until the process that asked the driver last is gone.
    fn nobody_asks(&self) {
        let process = std::fs::read_to_string(self.path("asked by")).unwrap();
        let status = PathBuf::from(format!("/proc/{process}/stat"));
        self.bench.wait_for("the helper is gone", || {
            // Where nobody collects the dead, it stays as one of them.
            std::fs::read_to_string(&status).map_or(true, |line| line.contains(") Z "))
        });
    }

    /// How often the driver was asked so.
    fn heard(&self, call: char) -> usize {
        std::fs::read_to_string(self.path("heard")).unwrap_or_default().chars().filter(|c| *c == call).count()
    }
}

/// The labels, and what is free of each in MiB.
fn gpus(fit: &Value) -> Vec<(&str, Option<u64>)> {
    let gpus = fit["memory"]["gpus"].as_array().unwrap();
    gpus.iter()
        .map(|gpu| (gpu["label"].as_str().unwrap(), gpu["free_bytes"].as_u64().map(|bytes| bytes / MIB)))
        .collect()
}

#[test]
fn two_gpus_are_named_measured_and_judged() {
    let Some(host) = Host::new(&[]) else { return };
    let fit = host.fit("", "");
    assert_eq!(gpus(&fit), [("GPU0", Some(100_000)), ("GPU1", Some(90_000))]);
    let first = &fit["memory"]["gpus"][0];
    assert_eq!((first["name"].as_str(), first["total_bytes"].as_u64()), (Some("NVIDIA H200"), Some(143_771 * MIB)));
    assert_eq!(first["uuid"], "GPU-00000000-0000-0000-0000-000000000000");
    assert_eq!((fit["verdict"].as_str(), fit["devices"].clone()), (Some("fits"), serde_json::json!(["GPU0"])));
    // 128 KiB a token: 100,000 MiB are 800,000 of them, and both GPUs together hold 1,400,000.
    assert_eq!(host.fit("", " --context 780000")["verdict"], "fits");
    assert_eq!(host.fit("", " --context 790000")["verdict"], "tight");
    let both = host.fit("", " --context 1400000");
    assert_eq!(both["verdict"], "fits 2 GPUs");
    assert_eq!(both["devices"], serde_json::json!(["GPU0", "GPU1"]));
    let text = host.run("", "info m").expect(0).stdout;
    for line in ["free           GPU0 H200, 98 GiB of 140 GiB", "free           GPU1 H200, 88 GiB of 140 GiB"] {
        assert!(text.contains(line), "{line}: {text}");
    }
    assert_eq!(host.fit("", " --context 4000000")["verdict"], "no", "more than all of this host");
}

#[test]
fn instances_of_a_divided_gpu_are_never_added_up() {
    let Some(host) = Host::new(&[]) else { return };
    let fit = host.fit("mig", "");
    assert_eq!(gpus(&fit), [("GPU0/0", Some(16_000)), ("GPU0/3", Some(20_000)), ("GPU1", Some(90_000))]);
    assert_eq!(fit["memory"]["gpus"][1]["name"], "NVIDIA H200 MIG 2g.35gb");
    // Together they would hold it.
    assert_ne!(host.fit("mig", " --context 800000")["verdict"], "fits 2 GPUs");
}

#[test]
fn what_a_driver_cannot_tell_is_unknown_with_a_reason() {
    let Some(host) = Host::new(&[]) else { return };
    for (play, expected) in [
        ("not loaded", "not loaded"),
        ("mismatch", "restart the host"),
        ("new error", "the NVIDIA driver says"),
        ("none", "knows no GPU"),
    ] {
        let fit = host.fit(play, "");
        assert_eq!(gpus(&fit), [], "{play}");
        let note = fit["memory"]["gpu_note"].as_str().unwrap();
        assert!(note.contains(expected), "{play}: {note}");
        // What is judged without them says so.
        assert!(fit["because"].as_str().is_some_and(|because| because.contains(expected)), "{play}: {fit}");
        // Only a driver that says that there is none leaves no GPU open.
        let (verdict, unknown) = if play == "none" { ("CPU only", false) } else { ("unknown", true) };
        assert_eq!((&fit["verdict"], &fit["memory"]["gpus_unknown"]), (&verdict.into(), &unknown.into()), "{play}");
        let text = host.run(play, "info m").expect(0).stdout;
        let line = if unknown { "GPU            unknown: " } else { "GPU            none: " };
        assert!(text.contains(line), "{play}: {text}");
    }
    let lost = host.fit("lost", "");
    assert_eq!(gpus(&lost), [("GPU0", None), ("GPU1", Some(90_000))]);
    assert!(lost["memory"]["gpus"][0]["note"].as_str().unwrap().contains("reset"));
    assert_eq!((lost["verdict"].as_str(), lost["devices"].clone()), (Some("fits"), serde_json::json!(["GPU1"])));
}

#[test]
fn a_gpu_without_memory_of_its_own_has_the_hosts_which_is_counted_once() {
    let Some(host) = Host::new(&[]) else { return };
    for play in ["unified", "zero"] {
        let fit = host.fit(play, "");
        let (gpu, ram) = (&fit["memory"]["gpus"][0], &fit["memory"]["ram"]);
        assert_eq!(
            (gpu["unified"].as_bool(), gpu["free_bytes"].as_u64()),
            (Some(true), ram["available_bytes"].as_u64())
        );
        assert_eq!(gpu["total_bytes"], ram["total_bytes"]);
        assert!(gpu["note"].as_str().unwrap().contains("shares the host's"));
        assert_eq!(
            (fit["verdict"].as_str(), fit["devices"].clone()),
            (Some("fits"), serde_json::json!(["GPU0"])),
            "{fit}"
        );
        assert_eq!(fit["need_bytes"], fit["need"]["unified_bytes"]);
    }
    // More than the host has, and less than it has twice.
    let tokens = host.fit("unified", "")["memory"]["ram"]["total_bytes"].as_u64().unwrap() / (128 << 10) * 5 / 4;
    assert_eq!(host.fit("unified", &format!(" --context {tokens}"))["verdict"], "no");
}

#[test]
fn garbage_from_a_driver_is_bounded_and_printed_clean() {
    let Some(host) = Host::new(&[]) else { return };
    let fit = host.fit("garbage", "");
    let gpus = fit["memory"]["gpus"].as_array().unwrap();
    assert_eq!(gpus.len(), 2, "a count of 2^32-1 ends where the driver knows no more: {fit}");
    assert_eq!(gpus[0]["name"].as_str().map(str::len), Some(95));
    // More free than there is makes no sense.
    assert_eq!((gpus[1]["free_bytes"].as_u64(), gpus[1]["name"].as_str()), (None, Some("NVIDIA GPU")));
    let text = host.run("garbage", "info m").expect(0).stdout;
    assert!(!text.contains(['\u{1b}', '\u{7}']), "{text:?}");
}

#[test]
fn an_old_driver_is_asked_through_its_program() {
    let Some(host) = Host::new(&["-DOLD"]) else { return };
    let fit = host.fit("", "");
    assert_eq!(gpus(&fit), [("GPU0", None), ("GPU1", None)]);
    assert!(fit["memory"]["gpus"][0]["note"].as_str().unwrap().contains("too old"), "{fit}");
    let smi = host.driver.join("nvidia-smi");
    let script = |body: &str| {
        std::fs::write(&smi, format!("#!/bin/sh\necho \"$@\" >> \"$HEARD\"\n{body}\n")).unwrap();
        std::fs::set_permissions(&smi, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    };
    script(
        "echo 'GPU-11111111-1111-1111-1111-111111111111, 24576, 20000'\n\
         echo 'GPU-00000000-0000-0000-0000-000000000000, 24576, [N/A]'",
    );
    let fit = host.told(&[("GPU0", None), ("GPU1", Some(20_000))]);
    assert_eq!(fit["memory"]["gpus"][1]["total_bytes"].as_u64(), Some(24_576 * MIB));
    let asked = std::fs::read_to_string(host.path("heard")).unwrap();
    assert!(asked.contains("--query-gpu=uuid,memory.total,memory.free --format=csv,noheader,nounits"), "{asked}");
    // A GPU that is lost is no reason to say nothing of the others, and what a wrapper leaves behind is not waited for.
    script("sleep 600 &\necho 'GPU-11111111-1111-1111-1111-111111111111, 24576, 20000'\nexit 15");
    host.told(&[("GPU0", None), ("GPU1", Some(20_000))]);
    for body in ["exit 6", "yes | head -c 3000000", "exec sleep 600"] {
        script(body);
        let begin = Instant::now();
        assert_eq!(gpus(&host.fit("", "")), [("GPU0", None), ("GPU1", None)], "{body}");
        assert!(begin.elapsed() < LONG, "{body}");
    }
}

#[test]
fn a_driver_that_hangs_delays_nothing_that_does_not_need_it() {
    let Some(host) = Host::new(&[]) else { return };
    let begin = Instant::now();
    host.run("hang", "list").expect(0);
    assert_eq!(host.heard('i'), 0, "a list needs no driver");
    let fit = host.fit("hang", "");
    assert!(begin.elapsed() < LONG, "{:?}", begin.elapsed());
    assert_eq!(fit["memory"]["gpu_note"], SILENT);
    assert!(fit["because"].as_str().unwrap().contains("does not answer"), "{fit}");
    assert_eq!(fit["verdict"], "unknown");

    let begin = Instant::now();
    let mut terminal = host.terminal("hang");
    terminal.shows("F16");
    terminal.shows("does not answer");
    assert_eq!(host.heard('i'), 2, "the driver was asked once by each that asked it");
    terminal.send("q");
    assert!(terminal.end().success());
    assert!(begin.elapsed() < LONG, "{:?}", begin.elapsed());
}

#[test]
fn a_driver_that_hangs_while_it_is_opened_holds_up_no_end() {
    let Some(host) = Host::new(&[]) else { return };
    let begin = Instant::now();
    let fit = host.fit("hang when opened", "");
    assert_eq!(fit["memory"]["gpu_note"], SILENT);
    assert!(begin.elapsed() < LONG, "{:?}", begin.elapsed());
    host.nobody_asks();

    let mut terminal = host.terminal("hang when opened");
    terminal.shows("F16");
    terminal.shows("does not answer");
    let begin = Instant::now();
    terminal.send("q");
    assert!(terminal.end().success());
    assert!(begin.elapsed() < LONG, "{:?}", begin.elapsed());
    host.nobody_asks();
}

#[test]
fn a_library_that_breaks_breaks_nothing_else() {
    let Some(host) = Host::new(&[]) else { return };
    let fit = host.fit("crash", "");
    assert_eq!(gpus(&fit), []);
    assert_eq!(fit["verdict"], "unknown");
    let note = fit["memory"]["gpu_note"].as_str().unwrap();
    assert!(note.contains("its library broke what asked it (signal: 11"), "{note}");
    // A name without an end goes on with what lies behind it, or breaks what reads it.
    let fit = host.fit("unterminated", "");
    for gpu in fit["memory"]["gpus"].as_array().unwrap() {
        assert_eq!(gpu["name"].as_str().unwrap(), "x".repeat(95));
    }
    // What a library prints is no answer.
    assert_eq!(gpus(&host.fit("print", "")).len(), 2);
    host.nobody_asks();
}

#[test]
fn the_screen_follows_the_free_memory_and_draws_nothing_for_the_same() {
    let Some(host) = Host::new(&[]) else { return };
    std::fs::write(host.path("free"), "102400").unwrap();
    let mut terminal = host.terminal("");
    terminal.shows("GPU0 H200 140 GiB, 100 free");
    terminal.shows("F16");
    // On a busy machine it takes a while until everything that a start brings is drawn.
    let begin = Instant::now();
    loop {
        terminal.settle(Duration::from_millis(500));
        let (bytes, asked) = (terminal.bytes().len(), host.heard('m'));
        // Two devices a look: two more looks.
        host.bench.wait_for("it looks again", || host.heard('m') >= asked + 4);
        if terminal.bytes().len() == bytes {
            break;
        }
        assert!(begin.elapsed() < LONG, "the same figures draw nothing");
    }
    std::fs::write(host.path("free"), "51200").unwrap();
    terminal.shows("GPU1 H200 140 GiB, 50 free");
    terminal.send("q");
    assert!(terminal.end().success());
}
