//! The sweep through the program: as a command, on the screen's pictures, and in a real terminal.
#![cfg(all(feature = "cli", feature = "tui", feature = "mirror", target_os = "linux"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "support/screen.rs"]
mod screen;
mod support;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use portable_pty::CommandBuilder;
use rbee_hive::jobs::{EVENT_VERSION, JobEvent, JobEventKind, JobId, JobOutcome, JobSpec, Update};
use rbee_hive::model::{
    Blocked, Certainty, DeletionReport, Garbage, Inode, Kept, Operation, Step, StoreKind, Sweep, SweepItem, SweepStep,
};
use rbee_hive::tui::effect::Effect;
use rbee_hive::tui::msg::{Generation, Msg};
use rbee_hive::tui::state::Dialog;
use screen::{GIB, MIB, Script, model, ten_jobs};
use support::hf_cache::{Cache, commit, du, noise};
use support::official::{Official, stdout};
use support::program::{Bench, Ran, gguf};
use support::pty::Terminal;

const REPO: &str = "models--org--name";

/// Yesterday, as far as a file tells it.
fn age(path: &Path) {
    let old = SystemTime::now() - Duration::from_secs(86_400);
    File::options().write(true).open(path).unwrap().set_modified(old).unwrap();
}

struct Host {
    bench: Bench,
    cache: Cache,
    partial: PathBuf,
    orphan: PathBuf,
    staged: PathBuf,
}

impl Host {
    fn new() -> Self {
        let cache = Cache::new();
        cache.file(REPO, &commit('1'), "a-F16.gguf", &gguf(4, "a"));
        cache.reference(REPO, "main", &commit('1'));
        let partial = cache.put(format!("{REPO}/blobs/{}.0123abcd.incomplete", "8".repeat(64)), &noise(50_000, 1));
        let orphan = cache.put(format!("{REPO}/blobs/{}", "9".repeat(64)), &noise(20_000, 2));
        let bench = Bench::new();
        fs::create_dir_all(bench.model("tiny")).unwrap();
        fs::write(bench.model("tiny/tiny-F16.gguf"), gguf(2, "t")).unwrap();
        let staged = bench.model("tiny/other.gguf.0123456789abcdef.llorch");
        fs::write(&staged, noise(30_000, 3)).unwrap();
        fs::write(bench.model("tiny/other.gguf.0123456789abcdef.llorch.json"), b"{}").unwrap();
        for path in [&partial, &orphan, &staged, &bench.model("tiny/other.gguf.0123456789abcdef.llorch.json")] {
            age(path);
        }
        Self { bench, cache, partial, orphan, staged }
    }

    fn run(&self, line: &str) -> Ran {
        let mut command = self.bench.command(line);
        command.env("HF_HUB_CACHE", &self.cache.hub);
        self.bench.finish(command)
    }

    fn log(&self) -> String {
        let state = self.bench.scratch.path().join("home/.local/state/llorch-models");
        let host = fs::read_dir(state).unwrap().next().unwrap().unwrap().path();
        fs::read_to_string(host.join("deletions.jsonl")).unwrap_or_default()
    }
}

#[test]
fn the_command() {
    let host = Host::new();
    let refused = host.run("sweep").expect(2);
    assert!(refused.error().contains("give --yes"), "{refused:?}");
    let dry = host.run("sweep --dry-run --json").expect(0).json();
    let keys: Vec<&String> = dry.as_object().unwrap().keys().collect();
    for key in
        ["models", "remove", "keep", "blocked", "breaks", "expected_bytes", "freed_bytes", "held_bytes", "failed"]
    {
        assert!(keys.iter().any(|known| *known == key), "{key} is missing: {dry}");
    }
    assert_eq!((&dry["dry_run"], &dry["freed_bytes"]), (&true.into(), &serde_json::Value::Null));
    let item = |path: &Path| {
        let items = dry["items"].as_array().unwrap();
        items
            .iter()
            .find(|item| item["path"] == path.to_str().unwrap())
            .unwrap_or_else(|| panic!("{path:?}: {dry}"))
            .clone()
    };
    assert_eq!(dry["items"].as_array().unwrap().len(), 3);
    let partial = item(&host.partial);
    assert_eq!(
        (&partial["kind"], &partial["certainty"], &partial["taken"]),
        (&"partial".into(), &"certain".into(), &true.into())
    );
    assert_eq!(partial["bytes"], 53_248);
    assert!(partial["why"].as_str().unwrap().contains("unfinished download"));
    let orphan = item(&host.orphan);
    // Its inode is new here: a copy that keeps dates looks the same.
    assert_eq!((&orphan["certainty"], &orphan["taken"]), (&"possible".into(), &false.into()));

    let text = host.run("sweep --dry-run").expect(0).stdout;
    assert!(
        text.contains("2 of 3 items taken") && text.contains("leave") && text.contains("--certainty possible"),
        "{text}"
    );
    let all = [host.cache.scratch.path(), host.bench.scratch.path()];
    let total = || all.iter().map(|path| du(path)).sum::<u64>();
    let before = total();
    let swept = host.run("sweep --yes --json").expect(0).json();
    let kept_state = du(&host.bench.scratch.path().join("home"));
    assert_eq!(swept["freed_bytes"], swept["expected_bytes"]);
    assert_eq!(before - (total() - kept_state), swept["freed_bytes"].as_u64().unwrap());
    assert!(!host.partial.exists() && !host.staged.exists() && host.orphan.exists());
    assert!(host.bench.model("tiny/tiny-F16.gguf").exists());
    let log = host.log();
    assert!(log.contains("\"items\":[") && log.contains("incomplete") && log.contains("\"why\""), "{log}");

    let rest = host.run("sweep --yes --certainty possible").expect(0);
    assert!(rest.stdout.contains("sweep of 1 item: ") && rest.stdout.contains(" freed"), "{rest:?}");
    assert!(!host.orphan.exists());
    assert_eq!(host.run("sweep --yes").expect(0).stdout, "nothing to sweep\n");
    host.run("verify --all").expect(0);
    host.run("sweep --certainty maybe --yes").expect(2);
    host.run("sweep --yes --store-path /no/such/store").expect(2);
}

#[test]
fn what_the_queue_goes_on_with_stays() {
    let host = Host::new();
    host.run("list").expect(0);
    let state = host.bench.scratch.path().join("home/.local/state/llorch-models");
    fs::create_dir_all(&state).unwrap();
    let hostname = rbee_hive::machine::hostname();
    let queue = state.join(hostname).join("queue.json");
    fs::create_dir_all(queue.parent().unwrap()).unwrap();
    let job = serde_json::json!({"id": "1", "state": "paused", "spec":
        JobSpec::Download(rbee_hive::provisioner::DownloadRequest::new("org/Tiny-GGUF"))});
    let home = |folder: &Path| serde_json::json!({"models_dir": folder, "endpoint": host.bench.hub.endpoint()});
    let write = |job: serde_json::Value| {
        let file = serde_json::json!({"version": 1, "next": 2, "jobs": [job]});
        fs::write(&queue, file.to_string()).unwrap();
    };
    let mut there = job;
    // Another models folder, and this one is in it: whatever lies there stays.
    there["home"] = home(host.bench.scratch.path());
    write(there);
    let dry = host.run("sweep --dry-run --json").expect(0).json();
    let offered =
        |path: &Path| dry["items"].as_array().unwrap().iter().any(|item| item["path"] == path.to_str().unwrap());
    assert!(!offered(&host.staged) && offered(&host.partial), "{dry}");
    let keep = dry["keep"].as_array().unwrap();
    assert!(keep.iter().any(|kept| kept["path"] == host.staged.to_str().unwrap()), "{dry}");

    fs::write(&queue, b"garbage").unwrap();
    let dry = host.run("sweep --dry-run --json").expect(0).json();
    assert!(
        !dry["items"].as_array().unwrap().iter().any(|item| item["path"] == host.staged.to_str().unwrap()),
        "{dry}"
    );
}

/// A sweep as screens show it.
fn found() -> Sweep {
    let inode = |number: u64| Inode { device: 1, inode: number };
    let root = PathBuf::from("/data/hf");
    let mut sweep = Sweep::default();
    let lines = [
        (
            "models--org--name/blobs/0123456789abcdef.0123abcd.incomplete",
            Garbage::Partial,
            Certainty::Certain,
            7 * GIB,
            "an unfinished download that no client goes on with",
        ),
        (
            "models--org--name/blobs/fedcba9876543210",
            Garbage::OrphanBlob,
            Certainty::Likely,
            4 * GIB,
            "no revision of org/name names it",
        ),
        (
            "models--org--name/snapshots/1111111111111111111111111111111111111111",
            Garbage::DetachedRevision,
            Certainty::Possible,
            800 * MIB,
            "revision 11111111 of org/name, which no branch and no tag names",
        ),
        (
            "models--left--over",
            Garbage::AbandonedFolder,
            Certainty::Likely,
            4096,
            "no file of any revision of left/over is here",
        ),
    ];
    for (number, (path, kind, certainty, bytes, why)) in (0..).zip(lines) {
        let path = PathBuf::from(path);
        sweep.items.push(SweepItem {
            path: root.join(&path),
            kind,
            why: why.to_owned(),
            certainty,
            bytes,
            store: StoreKind::Hf,
            store_path: root.clone(),
            id: None,
        });
        sweep.steps.push(SweepStep {
            step: Step {
                operation: Operation::RemoveFile,
                root: root.clone(),
                folder: path.parent().unwrap().to_owned(),
                parent: inode(99),
                name: path.file_name().unwrap().to_owned(),
                target: inode(number),
                stamp: None,
                bytes: 0,
                locks: Vec::new(),
                requires: Vec::new(),
            },
            items: [usize::try_from(number).unwrap()].into(),
            with: [].into(),
            links: 1,
            disk_bytes: bytes,
        });
    }
    sweep
        .blocked
        .push(Blocked { path: sweep.items[3].path.clone(), because: "a sticky folder; run as root".to_owned() });
    sweep.kept.push(Kept {
        path: root.join("models--busy--one"),
        because: "process 42 (hf) works on this repository".to_owned(),
    });
    sweep
}

fn generation(effect: &Effect) -> Option<Generation> {
    match effect {
        Effect::Sweep(generation, _) => Some(*generation),
        _ => None,
    }
}

fn opened(columns: u16, rows: u16) -> Script {
    let mut script = Script::with(columns, rows, vec![model("tinyllama", 1, 3), model("phi3", 2, 0)]);
    script.press("o");
    let generation = script.request(generation);
    script.send(Msg::Swept(generation, Ok(Box::new(found()))));
    script.soon(Msg::Drawn);
    script
}

#[test]
fn pictures() {
    let mut settings = insta::Settings::clone_current();
    settings.set_omit_expression(true);
    settings.set_prepend_module_to_snapshot(false);
    settings.bind(|| {
        for (columns, rows) in [(80, 24), (60, 20), (120, 40), (40, 10)] {
            let mut script = opened(columns, rows);
            insta::assert_snapshot!(format!("sweep-{columns}x{rows}"), script.picture());
            script.press("j j j j");
            insta::assert_snapshot!(format!("sweep-kept-{columns}x{rows}"), script.picture());
            script.press("d");
            insta::assert_snapshot!(format!("sweep-plan-{columns}x{rows}"), script.picture());
        }
    });
}

#[test]
fn marks_sum_up_and_the_plan_is_confirmed_as_a_deletion_is() {
    let mut script = opened(80, 24);
    assert!(script.picture().contains("3 of 4 items marked: frees 11.0 GiB; 1 more stays"), "{}", script.picture());
    script.press("a");
    assert!(script.picture().contains("4 of 4 items marked: frees 11.8 GiB"), "{}", script.picture());
    script.press("A");
    assert!(script.picture().contains("0 of 4 items marked: frees 0 B"), "{}", script.picture());
    script.press("j Space");
    assert!(script.picture().contains("1 of 4 items marked: frees 4.00 GiB"), "{}", script.picture());
    script.press("Enter");
    assert!(matches!(script.state.dialogs.last(), Some(Dialog::Plan(_))));
    let picture = script.picture();
    assert!(picture.contains("sweep 1 item") && picture.contains("Frees 4.00 GiB on disk: 1 file."), "{picture}");
    script.press("Enter");
    assert!(matches!(script.state.dialogs.last(), Some(Dialog::Plan(_))), "Enter confirms nothing");
    script.taken();
    script.press("y");
    let effects = script.taken();
    let submitted = effects.iter().find_map(|effect| match effect {
        Effect::Submit(spec) => Some(spec.as_ref().clone()),
        _ => None,
    });
    let Some(JobSpec::Sweep { plan, items }) = submitted.clone() else { panic!("{effects:?}") };
    assert_eq!((plan.steps.len(), plan.expected_bytes, items.len()), (1, 4 * GIB, 1));
    assert!(script.state.dialogs.is_empty(), "the view closes with the plan");
    let spec = submitted.unwrap();
    let event = |number: u64, kind: JobEventKind| JobEvent { version: EVENT_VERSION, number, job: JobId(7), kind };
    script.jobs(Vec::new());
    script.send(Msg::Jobs(Update::Event(event(2, JobEventKind::Queued { spec: Box::new(spec), position: 0 }))));
    let report = DeletionReport { freed_bytes: 4 * GIB, ..DeletionReport::default() };
    let outcome = Some(Box::new(JobOutcome::Deleted(report)));
    script.send(Msg::Jobs(Update::Event(event(3, JobEventKind::Finished { path: None, outcome }))));
    assert!(script.picture().contains("swept fedcba9876543210: 4.00 GiB freed"), "{}", script.picture());
    assert!(script.taken().iter().any(|effect| matches!(effect, Effect::Scan(_))), "what is there is looked at again");
}

#[test]
fn what_cannot_go_is_told_and_nothing_is_asked_about_it() {
    let mut script = opened(80, 24);
    script.press("A j j j");
    assert!(script.picture().contains("CANNOT GO: a sticky folder; run as root"), "{}", script.picture());
    script.press("d");
    assert!(script.picture().contains("CANNOT GO"), "{}", script.picture());
    script.taken();
    script.press("y");
    assert!(!script.taken().iter().any(|effect| matches!(effect, Effect::Submit(_))));
    script.press("Esc Esc");
    assert!(script.state.dialogs.is_empty());
}

#[test]
fn waiting_failing_and_finding_nothing() {
    let mut script = Script::with(80, 24, vec![model("tinyllama", 1, 3)]);
    script.jobs(ten_jobs());
    script.taken();
    script.press("o");
    assert!(script.picture().contains("looking through the stores"));
    let effects = script.taken();
    let Some(Effect::Sweep(first, downloads)) = effects.iter().find(|effect| generation(effect).is_some()) else {
        panic!("{effects:?}")
    };
    assert_eq!(downloads.len(), 8, "a failed download may be tried again; finished and cancelled ones may not");
    script.at += Duration::from_secs(6);
    script.soon(Msg::Tick);
    assert!(script.picture().contains("a store does not answer yet"), "{}", script.picture());
    script.press("d Space a");
    script.send(Msg::Swept(*first, Err("cannot read /data: it is gone".to_owned())));
    assert!(script.picture().contains("cannot read /data: it is gone"), "{}", script.picture());
    script.press("Esc o");
    let second = script.request(generation);
    script.send(Msg::Swept(*first, Ok(Box::new(found()))));
    assert!(script.picture().contains("looking through the stores"), "an answer to an older question is none");
    script.send(Msg::Swept(second, Ok(Box::default())));
    let picture = script.picture();
    assert!(picture.contains("nothing to sweep") && !picture.contains("remove"), "{picture}");
    script.press("j Space d y");
    assert!(matches!(script.state.dialogs.last(), Some(Dialog::Sweep(_))));
}

#[test]
fn in_a_terminal() {
    let host = Host::new();
    let home = host.bench.scratch.path().join("home");
    let mut command = CommandBuilder::new(env!("CARGO_BIN_EXE_llorch-models"));
    command.env_clear();
    command.env("PATH", "/usr/bin:/bin");
    command.env("HOME", &home);
    command.env("TERM", "xterm-256color");
    command.env("LANG", "C.UTF-8");
    command.env("HF_ENDPOINT", host.bench.hub.endpoint());
    command.env("HF_HUB_CACHE", &host.cache.hub);
    command.env("LLORCH_MODEL_BASE_DIR", host.bench.models());
    command.cwd(&home);
    let mut terminal = Terminal::start(command, 80, 24);
    terminal.shows("tiny");
    terminal.send("o");
    terminal.shows("2 of 3 items marked");
    terminal.send("a");
    terminal.shows("3 of 3 items marked");
    terminal.send("d");
    terminal.shows("sweep 3 items");
    let freed = terminal.press_until("y", "freed");
    assert!(freed.contains("swept 3 items"), "{freed}");
    assert!(!host.partial.exists() && !host.orphan.exists() && !host.staged.exists());
    assert!(host.bench.model("tiny/tiny-F16.gguf").exists());
    terminal.send("q");
    assert!(terminal.end().success());
}

#[test]
fn the_official_client_finds_no_fault_after_a_sweep() {
    let Some(official) = Official::find() else { return };
    use jiff::{SignedDuration, Timestamp};
    use rbee_hive::disk::deletion::{self, NoHook};
    use rbee_hive::store::{Store, hf::HfStore, sweep::SweepContext};
    use tokio_util::sync::CancellationToken;

    let bench = Bench::new();
    for (file, length) in [("config.json", 50), ("model-Q4_K_M.gguf", 400_000)] {
        bench.hub.put_noise("org/Swept", file, length);
    }
    bench.hub.put_noise("org/Bystander", "model.bin", 200_000);
    let home = bench.scratch.path().canonicalize().unwrap();
    let hf = |arguments: &[&str]| stdout(&official.hf(&home, &bench.hub.endpoint(), arguments));
    hf(&["download", "org/Swept"]);
    bench.hub.put_noise("org/Swept", "config.json", 60);
    hf(&["download", "org/Swept"]);
    hf(&["download", "org/Bystander"]);
    let root = home.join("hf/hub");
    let repo = root.join("models--org--Swept");
    let put = |path: PathBuf, length: usize| {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, noise(length, 9)).unwrap();
    };
    put(repo.join(format!("blobs/{}.0123abcd.incomplete", "1".repeat(64))), 9_000);
    put(repo.join(format!("blobs/{}", "2".repeat(64))), 9_000);
    put(root.join(format!("models--org--Begun/blobs/{}.incomplete", "3".repeat(64))), 9_000);
    fs::create_dir_all(root.join("models--org--Begun/refs")).unwrap();
    fs::write(root.join("models--org--Begun/refs/main"), "4".repeat(40)).unwrap();
    let scan = "import json; from huggingface_hub import scan_cache_dir; found = scan_cache_dir(); \
        print(json.dumps([{r.repo_id: r.size_on_disk for r in found.repos}, [str(w) for w in found.warnings]]))";
    let judged = || -> (serde_json::Value, Vec<String>) {
        serde_json::from_str(&stdout(&official.python(&home, scan, &[]))).unwrap()
    };
    let (before, faults) = judged();
    assert_eq!(faults.len(), 1, "the repository without a revision is a fault: {faults:?}");

    let store = HfStore::new(root.clone());
    let context = SweepContext::at(Timestamp::now() + SignedDuration::from_hours(2));
    let sweep = store.sweep(&context, &CancellationToken::new());
    let sure = sweep.usual();
    let kinds: Vec<Garbage> = sweep.items.iter().map(|item| item.kind).collect();
    for kind in [Garbage::Partial, Garbage::OrphanBlob, Garbage::AbandonedFolder, Garbage::DetachedRevision] {
        assert!(kinds.contains(&kind), "{kinds:?}");
    }
    let run = |chosen: &std::collections::BTreeSet<usize>, sweep: &Sweep| {
        let plan = sweep.plan(chosen);
        let report = deletion::run(&plan, &mut NoHook, &|_| false, &mut |_, _| {}, &CancellationToken::new());
        assert_eq!((report.failed.len(), report.freed_bytes), (0, plan.expected_bytes));
    };
    run(&sure, &sweep);
    let (after, faults) = judged();
    assert_eq!((after, faults.len()), (before.clone(), 0), "{faults:?}");
    for id in ["org/Swept", "org/Bystander"] {
        hf(&["cache", "verify", id, "--fail-on-missing-files", "--fail-on-extra-files"]);
    }
    let rest = store.sweep(&context, &CancellationToken::new());
    run(&(0..rest.items.len()).collect(), &rest);
    let (after, faults) = judged();
    assert_eq!(faults.len(), 0, "{faults:?}");
    assert_eq!(after["org/Bystander"], before["org/Bystander"]);
    hf(&["cache", "verify", "org/Swept", "--fail-on-missing-files", "--fail-on-extra-files"]);
    assert_eq!(store.sweep(&context, &CancellationToken::new()).items, []);
}
