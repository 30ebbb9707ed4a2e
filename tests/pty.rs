//! The program in a real terminal: keys end to end, and every way out.
#![cfg(all(feature = "cli", feature = "tui", target_os = "linux"))]
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use portable_pty::CommandBuilder;
use rustix::process::Signal;
use support::program::{Bench, gguf};
use support::pty::{LONG, Terminal, is_gone};

const PROGRAM: &str = env!("CARGO_BIN_EXE_llorch-models");

/// A scratch folder with three models in it.
fn bench() -> Bench {
    let bench = Bench::new();
    for name in ["alpha", "beta", "gamma"] {
        let folder = bench.model(name);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(format!("{name}-F16.gguf")), gguf(64, name)).unwrap();
    }
    bench
}

/// A command with the clean environment of a scratch folder.
fn command(bench: &Bench, words: &[&str]) -> CommandBuilder {
    let mut command = CommandBuilder::new(words[0]);
    command.args(&words[1..]);
    let home = bench.scratch.path().join("home");
    command.env_clear();
    command.env("PATH", "/usr/bin:/bin");
    command.env("HOME", &home);
    command.env("TERM", "xterm-256color");
    command.env("LANG", "C.UTF-8");
    command.env("HF_ENDPOINT", bench.hub.endpoint());
    command.env("LLORCH_MODEL_BASE_DIR", bench.models());
    command.cwd(home);
    command
}

fn screen(bench: &Bench) -> Terminal {
    Terminal::start(command(bench, &[PROGRAM]), 80, 24)
}

#[test]
fn models_appear_and_q_gives_the_terminal_back() {
    let bench = bench();
    // The shell says what the modes of the terminal are before and after.
    let line = format!("stty -g; {PROGRAM}; echo code $?; stty -g");
    let mut terminal = Terminal::start(command(&bench, &["/bin/sh", "-c", &line]), 80, 24);
    let text = terminal.shows("gamma");
    assert!(text.contains("3 models") && text.contains("F16") && text.contains("q quit"), "{text}");
    assert!(terminal.screen(vt100::Screen::alternate_screen));
    terminal.send("q");
    assert!(terminal.end().success());
    assert!(terminal.is_restored());
    let text = terminal.text();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[1], "code 0");
    assert_eq!(lines[0], lines[2], "the modes are those from before");
}

#[test]
fn the_first_frame_comes_before_the_models() {
    let bench = bench();
    let mut terminal = screen(&bench);
    terminal.shows("gamma");
    let bytes = String::from_utf8_lossy(&terminal.bytes()).into_owned();
    let frame = bytes.find("looking for models").expect("a frame without models came first");
    assert!(frame < bytes.find("gamma").unwrap());
    terminal.send("q");
    terminal.end();
}

#[test]
fn what_another_program_does_is_shown_without_a_key() {
    let bench = bench();
    let mut terminal = screen(&bench);
    terminal.shows("gamma");
    // In this order, since it may look between the two.
    std::fs::remove_dir_all(bench.model("alpha")).unwrap();
    let folder = bench.model("delta");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("delta-F16.gguf"), gguf(64, "delta")).unwrap();
    let text = terminal.shows("delta");
    assert!(text.contains("3 models") && !text.contains("alpha"), "{text}");
    terminal.send("q");
    assert!(terminal.end().success());
}

#[test]
fn filtering_marking_and_deleting_removes_exactly_the_marked() {
    let bench = bench();
    let mut terminal = screen(&bench);
    terminal.shows("gamma");
    terminal.send("/alph");
    terminal.hides("gamma");
    terminal.send("\r");
    terminal.shows("/alph");
    terminal.send(" ");
    terminal.shows("1 marked");
    terminal.send("\x1b");
    terminal.shows("gamma");
    // The cursor is elsewhere now; the mark is meant.
    terminal.send("G");
    terminal.send("d");
    let plan = terminal.shows("alpha/alpha-F16.gguf");
    assert!(!plan.contains("gamma-F16"), "{plan}");
    terminal.send("\r");
    terminal.press_until("y", "freed");
    terminal.wait("the row to go", |text| text.contains("2 models"));
    assert!(!bench.model("alpha").exists(), "the folder is gone");
    assert!(bench.model("beta/beta-F16.gguf").exists() && bench.model("gamma/gamma-F16.gguf").exists());
    terminal.send("q");
    assert!(terminal.end().success());
}

#[test]
fn a_model_in_use_is_deleted_only_after_a_second_yes() {
    let bench = bench();
    let weights = bench.model("alpha/alpha-F16.gguf");
    let mut holder = Command::new("sh")
        .args(["-c", "exec 9<\"$1\"; echo ready; read line", "sh"])
        .arg(&weights)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut ready = [0; 6];
    std::io::Read::read_exact(holder.stdout.as_mut().unwrap(), &mut ready).unwrap();
    // Without a terminal it is refused, and says by whom.
    let refused = bench.run("delete alpha --yes").expect(1);
    let pid = holder.id().to_string();
    assert!(refused.error().contains(&format!("in use by process {pid}")), "{}", refused.error());
    assert!(weights.exists());

    let mut terminal = screen(&bench);
    terminal.shows("alpha");
    terminal.send("gd");
    terminal.shows(&format!("IN USE by process {pid}"));
    terminal.press_until("y", "are you sure");
    let question = terminal.shows(&pid);
    assert!(question.contains("holds it"), "{question}");
    terminal.send("\x1b");
    terminal.hides("are you sure");
    assert!(weights.exists(), "one yes is not enough");
    terminal.press_until("y", "are you sure");
    terminal.press_until("y", "only when th");
    assert!(!weights.exists());
    terminal.send("q");
    assert!(terminal.end().success());
    holder.kill().unwrap();
    holder.wait().unwrap();
}

#[test]
fn what_is_typed_ahead_confirms_nothing() {
    let bench = bench();
    let mut terminal = screen(&bench);
    terminal.shows("gamma");
    terminal.send("ady");
    terminal.shows("y delete");
    terminal.settle(Duration::from_millis(500));
    assert!(terminal.text().contains("y delete"), "the question still stands:\n{}", terminal.text());
    terminal.send("n");
    terminal.hides("y delete ·");
    for name in ["alpha", "beta", "gamma"] {
        assert!(bench.model(name).exists());
    }
    terminal.send("q");
    assert!(terminal.end().success());
}

#[test]
fn pulling_from_the_hub_puts_the_model_into_the_table() {
    let bench = bench();
    bench.offer("acme/tiny-GGUF", "tiny.Q4_K_M.gguf");
    let weights = bench.offer("acme/tiny-GGUF", "tiny.Q8_0.gguf");
    let mut terminal = screen(&bench);
    terminal.shows("gamma");
    terminal.send("p");
    terminal.shows("list or search");
    // Pasted, with the line end that comes along.
    terminal.send("\x1b[200~acme/tiny-GGUF:Q8_0\n\x1b[201~");
    terminal.shows("> acme/tiny-GGUF:Q8_0");
    terminal.send("\r");
    let offer = terminal.shows("Q4_K_M");
    let marked = offer.lines().find(|line| line.contains("> d Q8_0"));
    assert!(marked.is_some(), "{offer}");
    terminal.send("\r");
    terminal.shows("4 models");
    let published = bench.model("tiny-gguf/tiny.Q8_0.gguf");
    assert_eq!(std::fs::read(published).unwrap(), weights);
    assert!(!bench.model("tiny-gguf/tiny.Q4_K_M.gguf").exists());
    terminal.shows("finished");
    terminal.send("q");
    assert!(terminal.end().success());
}

#[test]
fn searching_and_errors_are_told_in_the_dialog() {
    let bench = bench();
    bench.offer("acme/tiny-GGUF", "tiny.Q4_K_M.gguf");
    let mut terminal = screen(&bench);
    terminal.shows("gamma");
    terminal.send("pacme/nothing\r");
    terminal.shows("'acme/nothing' not found");
    terminal.send("\x15tiny gguf\r");
    terminal.shows("search: tiny gguf");
    terminal.shows("acme/tiny-GGUF");
    terminal.send("\r");
    terminal.shows("d is what the reference means");
    // One Escape a dialog.
    for left in ["search:", "list or search", "q quit"] {
        terminal.send("\x1b");
        terminal.shows(left);
    }
    terminal.send("q");
    assert!(terminal.end().success());
}

#[test]
fn a_new_size_is_drawn_whole() {
    let bench = bench();
    let mut terminal = screen(&bench);
    terminal.shows("gamma");
    for (columns, rows) in [(40_u16, 10_u16), (120, 40), (20, 5), (80, 24)] {
        terminal.resize(columns, rows);
        terminal.wait_for("a frame of the new size", |screen| {
            let corner = |row: u16, column: u16| screen.cell(row, column).map(|cell| cell.contents().to_owned());
            corner(0, columns - 1).as_deref() == Some("┐") && corner(rows - 1, 0).as_deref() == Some("└")
        });
    }
    terminal.shows("gamma");
    terminal.send("q");
    assert!(terminal.end().success());
}

#[test]
fn a_torn_arrow_key_moves_or_does_nothing_but_never_harm() {
    let bench = bench();
    let mut terminal = screen(&bench);
    terminal.shows("gamma");
    // What comes seconds later is another key: a machine that stood still in between gets another one.
    let begin = Instant::now();
    let on_another = |text: &str| {
        text.lines().any(|line| {
            [">  ", "> !"].iter().any(|at| line.contains(&format!("{at}beta")) || line.contains(&format!("{at}gamma")))
        })
    };
    while !on_another(&terminal.text()) {
        assert!(begin.elapsed() < LONG, "the cursor never moves:\n{}", terminal.text());
        terminal.send("\x1b");
        std::thread::sleep(Duration::from_millis(300));
        terminal.send("[B");
        std::thread::sleep(Duration::from_millis(300));
        assert!(terminal.text().contains("q quit"), "nothing else happens:\n{}", terminal.text());
    }
    terminal.send("q");
    assert!(terminal.end().success());
}

#[test]
fn signals_restore_the_terminal_and_set_the_exit_code() {
    for (signal, code) in [(Signal::TERM, 143), (Signal::INT, 130), (Signal::QUIT, 131), (Signal::HUP, 129)] {
        let bench = bench();
        let line = format!("stty -g; echo $$ >shell; {PROGRAM}; echo code $?; stty -g");
        let terminal = Terminal::start(command(&bench, &["/bin/sh", "-c", &line]), 80, 24);
        terminal.shows("gamma");
        let child = child_of(terminal.pid());
        kill(child, signal);
        terminal.end();
        assert!(terminal.is_restored(), "after {signal:?}");
        let text = terminal.text();
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines.contains(&format!("code {code}").as_str()), "after {signal:?}: {text}");
        assert_eq!(lines.first(), lines.last(), "the modes are those from before {signal:?}");
    }
}

#[test]
fn suspending_gives_the_shell_the_terminal_and_takes_it_back() {
    let bench = bench();
    let line = format!("set -m; {PROGRAM}; echo stopped; read line; fg >/dev/null; echo ended");
    let mut terminal = Terminal::start(command(&bench, &["/bin/bash", "-c", &line]), 80, 24);
    terminal.shows("gamma");
    terminal.send("\x1a");
    terminal.shows("stopped");
    assert!(terminal.is_restored());
    terminal.send("\n");
    terminal.shows("gamma");
    assert!(terminal.screen(vt100::Screen::alternate_screen));
    terminal.send("j");
    terminal.send("q");
    terminal.end();
    assert!(terminal.text().contains("ended") && terminal.is_restored());
}

#[test]
fn nothing_is_written_while_nothing_happens() {
    let bench = bench();
    let mut terminal = screen(&bench);
    terminal.shows("gamma");
    // On a busy machine it takes a while until everything that a start brings is done.
    let begin = Instant::now();
    loop {
        terminal.settle(Duration::from_millis(1500));
        let (before, ticks) = (terminal.bytes().len(), cpu(terminal.pid()));
        std::thread::sleep(Duration::from_millis(4500));
        let (bytes, ticks) = (terminal.bytes().len() - before, cpu(terminal.pid()) - ticks);
        // A hundredth of a second is what the kernel counts in.
        if bytes == 0 && ticks <= 1 {
            break;
        }
        assert!(begin.elapsed() < LONG, "idle is no byte and no work, and not {bytes} bytes and {ticks} ticks");
    }
    terminal.send("q");
    terminal.end();
}

#[test]
fn a_key_that_changes_a_row_costs_few_bytes() {
    let bench = bench();
    let mut terminal = screen(&bench);
    terminal.shows("gamma");
    terminal.settle(Duration::from_millis(500));
    let before = terminal.bytes().len();
    terminal.send("j");
    terminal.wait(">  beta", |text| text.lines().any(|line| line.contains(">  beta")));
    terminal.settle(Duration::from_millis(200));
    let cost = terminal.bytes().len() - before;
    assert!(cost < 600, "{cost} bytes for one key");
    let frame = String::from_utf8_lossy(&terminal.bytes()[before..]).into_owned();
    assert!(frame.starts_with("\x1b[?2026h") && frame.ends_with("\x1b[?2026l"), "{frame:?}");
    terminal.send("q");
    terminal.end();
}

/// Holds a terminal, in a process of its own that can be killed.
#[test]
#[ignore = "started by the_program_ends_when_its_terminal_is_gone_whatever_is_done_with_hang_ups"]
fn holder_of_a_terminal() {
    let line = std::env::var_os("HELD_LINE").expect("the line that runs in the terminal");
    let mut command = CommandBuilder::new("/bin/sh");
    command.args(["-c", line.to_str().unwrap()]);
    let terminal = Terminal::start(command, 80, 24);
    terminal.shows("gamma");
    println!("\nheld {}", terminal.pid());
    std::thread::sleep(LONG);
}

/// The terminal goes away with the process that holds it, as with a connection that is cut.
#[test]
fn the_program_ends_when_its_terminal_is_gone_whatever_is_done_with_hang_ups() {
    for trap in ["", "trap '' HUP; "] {
        let bench = bench();
        let mut holder = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "holder_of_a_terminal", "--nocapture"])
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", bench.scratch.path().join("home"))
            .env("TERM", "xterm")
            .env("LANG", "C.UTF-8")
            .env("LLORCH_MODEL_BASE_DIR", bench.models())
            .env("HELD_LINE", format!("{trap}exec {PROGRAM}"))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(holder.stdout.take().unwrap()).lines();
        let pid: u32 = lines
            .map_while(Result::ok)
            .find_map(|line| line.strip_prefix("held ").and_then(|pid| pid.parse().ok()))
            .expect("the program is up");
        assert!(!is_gone(pid));
        holder.kill().unwrap();
        holder.wait().unwrap();
        support::until(&format!("it ends with '{trap}'"), LONG, || is_gone(pid));
    }
}

/// Takes the terminal and panics.
#[test]
#[ignore = "started by a_panic_restores_the_terminal_before_it_is_printed"]
fn panics_on_the_screen() {
    let _guard = rbee_hive::tui::terminal::Guard::enter(false).unwrap();
    let other = std::thread::spawn(|| panic!("in a job"));
    assert!(other.join().is_err());
    panic!("in the middle of the screen");
}

#[test]
fn a_panic_restores_the_terminal_before_it_is_printed() {
    let program = std::env::current_exe().unwrap();
    let test = "--ignored --exact panics_on_the_screen --nocapture";
    let line = format!("stty -g; {} {test} 2>&1; stty -g", program.to_string_lossy());
    let mut command = CommandBuilder::new("/bin/sh");
    command.args(["-c", &line]);
    command.env("RUST_BACKTRACE", "0");
    let terminal = Terminal::start(command, 100, 40);
    terminal.end();
    assert!(terminal.is_restored());
    let text = terminal.text();
    assert!(text.contains("in the middle of the screen"), "{text}");
    assert!(!text.contains("in a job"), "a job that panics does not tear the screen: {text}");
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.first(), lines.last(), "{text}");
}

/// Clock ticks that a process has run for.
fn cpu(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

/// The only child of a process.
fn child_of(pid: u32) -> u32 {
    let children = std::fs::read_to_string(Path::new("/proc").join(format!("{pid}/task/{pid}/children"))).unwrap();
    children.split_whitespace().next().unwrap().parse().unwrap()
}

fn kill(pid: u32, signal: Signal) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}
