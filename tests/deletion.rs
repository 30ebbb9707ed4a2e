//! Deletion plans: stopped and failed at every step, run against a disk that changed, on hostile names and links.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use rbee_hive::disk::deletion::{self, Decision, Hook, NoHook};
use rbee_hive::model::{DeletionReport, Inode, Operation, Plan, Step};
use rustix::io::Errno;
use tokio_util::sync::CancellationToken;

// A plan as a store would make it

fn identity(path: &Path) -> Inode {
    let metadata = std::fs::symlink_metadata(path).unwrap();
    Inode { device: metadata.dev(), inode: metadata.ino() }
}

fn step(root: &Path, path: &str) -> Step {
    step_at(root, Path::new(path))
}

fn step_at(root: &Path, path: &Path) -> Step {
    let full = root.join(path);
    let metadata = std::fs::symlink_metadata(&full).unwrap();
    let folder = path.parent().unwrap().to_owned();
    Step {
        operation: if metadata.is_dir() { Operation::RemoveFolder } else { Operation::RemoveFile },
        root: root.to_owned(),
        parent: identity(full.parent().unwrap()),
        folder,
        name: path.file_name().unwrap().to_owned(),
        target: identity(&full),
        stamp: None,
        bytes: if metadata.is_file() && metadata.nlink() == 1 { metadata.blocks() * 512 } else { 0 },
        locks: Vec::new(),
        requires: Vec::new(),
    }
}

fn plan(root: &Path, paths: &[&str]) -> Plan {
    Plan { steps: paths.iter().map(|path| step(root, path)).collect(), ..Plan::default() }
}

fn run_with(plan: &Plan, hook: &mut dyn Hook) -> DeletionReport {
    deletion::run(plan, hook, &|_| false, &mut |_, _| {}, &CancellationToken::new())
}

fn run(plan: &Plan) -> DeletionReport {
    run_with(plan, &mut NoHook)
}

/// Decides at one operation, lets the others proceed.
struct At(usize, Decision);

impl Hook for At {
    fn before(&mut self, index: usize, _step: &Step) -> Decision {
        if index == self.0 { self.1 } else { Decision::Proceed }
    }
}

/// Changes the disk right before one operation.
struct Meddle<F: FnMut() + Send>(usize, F);

impl<F: FnMut() + Send> Hook for Meddle<F> {
    fn before(&mut self, index: usize, _step: &Step) -> Decision {
        if index == self.0 {
            (self.1)();
        }
        Decision::Proceed
    }
}

// What lies on the disk

#[derive(Clone, Debug, PartialEq, Eq)]
enum Content {
    Folder,
    File(Vec<u8>),
    Link(PathBuf),
    Other,
}

type Picture = BTreeMap<PathBuf, (Inode, Content)>;

fn picture(folder: &Path) -> Picture {
    let mut all = Picture::new();
    let mut waiting = vec![folder.to_owned()];
    while let Some(folder) = waiting.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let metadata = std::fs::symlink_metadata(&path).unwrap();
            let content = if metadata.is_dir() {
                waiting.push(path.clone());
                Content::Folder
            } else if metadata.is_file() {
                Content::File(std::fs::read(&path).unwrap())
            } else if metadata.is_symlink() {
                Content::Link(std::fs::read_link(&path).unwrap())
            } else {
                Content::Other
            };
            all.insert(path.clone(), (identity(&path), content));
        }
    }
    all
}

fn without(picture: &Picture, gone: &[PathBuf]) -> Picture {
    let mut rest = picture.clone();
    rest.retain(|path, _| !gone.contains(path));
    rest
}

/// A scratch folder, and a store in it with its path resolved.
fn store() -> (tempfile::TempDir, PathBuf) {
    let scratch = tempfile::tempdir().unwrap();
    let root = scratch.path().canonicalize().unwrap().join("store");
    std::fs::create_dir(&root).unwrap();
    (scratch, root)
}

fn write(path: PathBuf, bytes: usize) -> PathBuf {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, vec![7; bytes]).unwrap();
    path
}

fn disk_bytes(path: &Path) -> u64 {
    std::fs::symlink_metadata(path).unwrap().blocks() * 512
}

/// A model of two files and bookkeeping beside another model, and the plan that removes all of the first.
fn model() -> (tempfile::TempDir, PathBuf, Plan) {
    let (scratch, root) = store();
    for (path, bytes) in
        [("m/a.gguf", 9000), ("m/b.gguf", 5000), ("m/.cache/record", 10), ("other/c.gguf", 7000), ("stray", 1)]
    {
        write(root.join(path), bytes);
    }
    let mut plan = plan(&root, &["m/a.gguf", "m/b.gguf", "m/.cache/record", "m/.cache", "m"]);
    plan.steps[3].requires = vec![2];
    plan.steps[4].requires = vec![3];
    (scratch, root, plan)
}

// Whole runs

#[test]
fn a_whole_run_removes_the_plan_and_measures_it() {
    let (scratch, root, plan) = model();
    let before = picture(scratch.path());
    let expected: u64 =
        ["m/a.gguf", "m/b.gguf", "m/.cache/record"].iter().map(|path| disk_bytes(&root.join(path))).sum();
    let mut seen = Vec::new();
    let report = deletion::run(
        &plan,
        &mut NoHook,
        &|_| false,
        &mut |path, bytes| seen.push((path.to_owned(), bytes)),
        &CancellationToken::new(),
    );
    let paths: Vec<PathBuf> = plan.steps.iter().map(Step::path).collect();
    assert_eq!(report.removed, paths);
    assert_eq!((report.freed_bytes, report.held_bytes), (expected, 0));
    assert!(report.failed.is_empty());
    assert_eq!(picture(scratch.path()), without(&before, &paths));
    assert_eq!(seen.iter().map(|(path, _)| path.clone()).collect::<Vec<_>>(), paths);
    assert_eq!(seen.iter().map(|(_, bytes)| bytes).sum::<u64>(), expected);
}

#[test]
fn a_plan_survives_its_json_form() {
    let (scratch, root) = store();
    let name = OsStr::from_bytes(b"na\xffme\n\\xff");
    std::fs::write(root.join(name), "x").unwrap();
    let plan = Plan { steps: vec![step_at(&root, Path::new(name))], ..Plan::default() };
    let plan: Plan = serde_json::from_str(&serde_json::to_string(&plan).unwrap()).unwrap();
    assert_eq!(run(&plan).removed, [root.join(name)]);
    assert_eq!(picture(scratch.path()).len(), 1);
}

#[test]
fn what_a_process_keeps_open_is_held() {
    let (_scratch, root, plan) = model();
    let (open, bytes) = (identity(&root.join("m/a.gguf")), disk_bytes(&root.join("m/a.gguf")));
    let report = deletion::run(&plan, &mut NoHook, &|file| file == open, &mut |_, _| {}, &CancellationToken::new());
    assert_eq!(report.held_bytes, bytes);
    assert!(report.freed_bytes > bytes);
}

// Stopped and failed at each step

#[test]
fn stopped_at_each_step_exactly_the_steps_before_are_done() {
    for stop in 0..=5 {
        let (scratch, _root, plan) = model();
        let before = picture(scratch.path());
        let report = run_with(&plan, &mut At(stop, Decision::Stop));
        let done: Vec<PathBuf> = plan.steps.iter().take(stop).map(Step::path).collect();
        assert_eq!(report.removed, done);
        assert!(report.failed.is_empty());
        assert_eq!(picture(scratch.path()), without(&before, &done));

        // What is left of the plan can be run later: what is gone says so, the rest goes.
        let rest = run(&Plan {
            steps: plan.steps[stop..].iter().cloned().map(without_requirements).collect(),
            ..Plan::default()
        });
        assert_eq!(rest.removed.len(), 5 - stop);
    }
}

fn without_requirements(step: Step) -> Step {
    Step { requires: Vec::new(), ..step }
}

#[test]
fn failed_at_each_step_the_rest_goes_and_what_needs_it_stays() {
    let io = Errno::IO.raw_os_error();
    for fail in 0..5 {
        let (scratch, root, plan) = model();
        let before = picture(scratch.path());
        let report = run_with(&plan, &mut At(fail, Decision::Fail(io)));
        let stays: BTreeSet<&str> = match fail {
            0 => BTreeSet::from(["m/a.gguf", "m"]),
            1 => BTreeSet::from(["m/b.gguf", "m"]),
            2 => BTreeSet::from(["m/.cache/record", "m/.cache", "m"]),
            3 => BTreeSet::from(["m/.cache", "m"]),
            _ => BTreeSet::from(["m"]),
        };
        let gone: Vec<PathBuf> = plan
            .steps
            .iter()
            .map(Step::path)
            .filter(|path| !stays.iter().any(|stay| root.join(stay) == *path))
            .collect();
        assert_eq!(report.removed, gone, "failed at {fail}");
        assert_eq!(picture(scratch.path()), without(&before, &gone));
        assert_eq!(report.failed.len(), 1, "a folder that stays because of it is no failure of its own");
        assert_eq!(report.failed[0].path, plan.steps[fail].path());
        assert!(report.failed[0].error.contains("input/output error"), "{:?}", report.failed);
    }
}

#[test]
fn a_payload_stays_when_a_name_of_it_stays() {
    let (scratch, root) = store();
    write(root.join("names/one"), 10);
    write(root.join("names/two"), 10);
    write(root.join("blobs/payload"), 9000);
    let mut plan = plan(&root, &["names/one", "names/two", "blobs/payload"]);
    plan.steps[2].requires = vec![0, 1];
    let before = picture(scratch.path());
    let report = run_with(&plan, &mut At(1, Decision::Fail(Errno::PERM.raw_os_error())));
    assert_eq!(report.removed, [root.join("names/one")]);
    assert_eq!(picture(scratch.path()), without(&before, &[root.join("names/one")]));
    assert_eq!(report.failed.len(), 2);
    assert_eq!(report.failed[1].path, root.join("blobs/payload"));
    let names = root.join("names/two");
    assert_eq!(report.failed[1].error, format!("kept, because {} could not be removed", names.display()));

    let rest = Plan { steps: vec![step(&root, "names/two"), plan.steps[2].clone()], ..Plan::default() };
    let rest = run(&Plan {
        steps: vec![rest.steps[0].clone(), Step { requires: vec![0], ..rest.steps[1].clone() }],
        ..Plan::default()
    });
    assert_eq!(rest.removed.len(), 2);
}

#[test]
fn names_in_a_folder_that_goes_too_come_before_their_payload() {
    let (_scratch, root) = store();
    write(root.join("snapshots/c/name"), 10);
    write(root.join("blobs/payload"), 9000);
    let mut plan = plan(&root, &["snapshots/c/name", "snapshots/c", "snapshots", "blobs/payload"]);
    plan.steps[3].requires = vec![0, 1];
    let report = run(&plan);
    assert_eq!(report.removed.len(), 4, "{report:?}");
}

#[test]
fn a_step_that_requires_a_later_one_is_refused() {
    let (scratch, _root, mut plan) = model();
    plan.steps[0].requires = vec![1];
    let before = picture(scratch.path());
    let report = run(&Plan { steps: plan.steps[..1].to_vec(), ..Plan::default() });
    assert!(report.failed[0].error.contains("the plan is wrong"));
    assert_eq!(picture(scratch.path()), before);
}

#[test]
fn cancelled_between_two_steps() {
    let (scratch, root, plan) = model();
    let before = picture(scratch.path());
    let cancel = CancellationToken::new();
    let report = deletion::run(&plan, &mut NoHook, &|_| false, &mut |_, _| cancel.cancel(), &cancel);
    assert_eq!(report.removed, [root.join("m/a.gguf")]);
    assert_eq!(picture(scratch.path()), without(&before, &report.removed));
}

// A disk that changed since the plan was made

fn only_failure(report: &DeletionReport, path: &Path, words: &str) {
    let failures: Vec<_> = report.failed.iter().filter(|failure| failure.path == path).collect();
    assert_eq!(failures.len(), 1, "{report:?}");
    assert!(failures[0].error.contains(words), "{report:?}");
    assert!(!report.removed.contains(&path.to_owned()));
}

#[test]
fn a_file_that_was_replaced_stays() {
    let (_scratch, root, plan) = model();
    let path = root.join("m/b.gguf");
    let report = run_with(
        &plan,
        &mut Meddle(1, || {
            std::fs::write(root.join("new"), "new").unwrap();
            std::fs::rename(root.join("new"), &path).unwrap();
        }),
    );
    only_failure(&report, &path, "something else has that name now");
    assert_eq!(std::fs::read(&path).unwrap(), b"new");
    assert!(!report.removed.contains(&root.join("m")));
}

#[test]
fn a_folder_that_became_a_link_is_not_entered() {
    let (scratch, root, plan) = model();
    let elsewhere = scratch.path().join("elsewhere");
    let report = run_with(
        &plan,
        &mut Meddle(0, || {
            std::fs::rename(root.join("m"), &elsewhere).unwrap();
            symlink(&elsewhere, root.join("m")).unwrap();
        }),
    );
    assert!(report.removed.is_empty(), "{report:?}");
    only_failure(&report, &root.join("m/a.gguf"), "symbolic link");
    assert!(elsewhere.join("a.gguf").exists() && elsewhere.join(".cache/record").exists());
    assert!(root.join("m").is_symlink());
}

#[test]
fn a_folder_that_is_another_one_now_is_left_alone() {
    let (scratch, root, plan) = model();
    let report = run_with(
        &plan,
        &mut Meddle(0, || {
            // The same files, hard-linked, in a new folder of the same name.
            std::fs::rename(root.join("m"), scratch.path().join("old")).unwrap();
            std::fs::create_dir(root.join("m")).unwrap();
            std::fs::hard_link(scratch.path().join("old/a.gguf"), root.join("m/a.gguf")).unwrap();
        }),
    );
    only_failure(&report, &root.join("m/a.gguf"), "its folder is another one now");
    assert!(root.join("m/a.gguf").exists() && scratch.path().join("old/a.gguf").exists());
}

#[test]
fn a_root_that_became_a_link_is_left_alone() {
    let (scratch, root, plan) = model();
    let moved = scratch.path().join("moved");
    std::fs::rename(&root, &moved).unwrap();
    let other = write(scratch.path().join("victim/m/a.gguf"), 10);
    symlink(scratch.path().join("victim"), &root).unwrap();
    let report = run(&plan);
    assert!(report.removed.is_empty(), "{report:?}");
    assert!(other.exists() && moved.join("m/a.gguf").exists());
}

#[test]
fn a_target_that_became_a_folder_a_link_or_nothing_is_told_apart() {
    let (scratch, root, plan) = model();
    // Moved, not removed: a file system may give the number of a removed file to the next one at once.
    let moved = |path: &str, to: &str| std::fs::rename(root.join(path), scratch.path().join(to)).unwrap();
    moved("m/a.gguf", "a");
    moved("m/b.gguf", "b");
    symlink("../other/c.gguf", root.join("m/b.gguf")).unwrap();
    moved("m/.cache/record", "record");
    write(root.join("m/.cache/record/deep"), 10);
    let report = run(&plan);
    assert_eq!(report.gone, [root.join("m/a.gguf")]);
    only_failure(&report, &root.join("m/b.gguf"), "something else has that name now");
    only_failure(&report, &root.join("m/.cache/record"), "something else has that name now");
    assert!(report.removed.is_empty(), "{report:?}");
    assert!(root.join("m/b.gguf").is_symlink() && root.join("other/c.gguf").exists());
    assert!(root.join("m/.cache/record/deep").exists());
}

#[test]
fn a_file_that_arrived_meanwhile_keeps_its_folder() {
    let (_scratch, root, plan) = model();
    write(root.join("m/new.gguf"), 10);
    let report = run(&plan);
    assert!(report.failed.is_empty(), "a folder that is not empty stays, which is no failure: {report:?}");
    assert_eq!(report.removed.len(), 4);
    assert!(root.join("m/new.gguf").exists());
}

#[test]
fn an_operation_of_the_wrong_kind_is_refused() {
    let (scratch, root) = store();
    write(root.join("file"), 10);
    std::fs::create_dir(root.join("folder")).unwrap();
    let mut plan = plan(&root, &["file", "folder"]);
    plan.steps[0].operation = Operation::RemoveFolder;
    plan.steps[1].operation = Operation::RemoveFile;
    let before = picture(scratch.path());
    assert_eq!(run(&plan).failed.len(), 2);
    assert_eq!(picture(scratch.path()), before);
}

// Bytes

#[test]
fn a_hard_link_elsewhere_frees_nothing() {
    let (scratch, root) = store();
    let inside = write(root.join("m/a.gguf"), 9000);
    let outside = scratch.path().join("backup");
    std::fs::hard_link(&inside, &outside).unwrap();
    let report = run(&plan(&root, &["m/a.gguf"]));
    assert_eq!((report.removed.len(), report.freed_bytes), (1, 0));
    assert_eq!(std::fs::read(&outside).unwrap().len(), 9000);
}

#[test]
fn the_last_of_several_links_frees_the_bytes_once() {
    let (_scratch, root) = store();
    let first = write(root.join("a"), 9000);
    for name in ["b", "c"] {
        std::fs::hard_link(&first, root.join(name)).unwrap();
    }
    let bytes = disk_bytes(&first);
    let mut freed = Vec::new();
    let plan = plan(&root, &["a", "b", "c"]);
    let report =
        deletion::run(&plan, &mut NoHook, &|_| false, &mut |_, bytes| freed.push(bytes), &CancellationToken::new());
    assert_eq!(freed, [0, 0, bytes]);
    assert_eq!(report.freed_bytes, bytes);
}

#[test]
fn a_link_that_went_meanwhile_counts_as_it_is_at_the_removal() {
    let (scratch, root) = store();
    let inside = write(root.join("a"), 9000);
    let outside = scratch.path().join("backup");
    std::fs::hard_link(&inside, &outside).unwrap();
    let (plan, bytes) = (plan(&root, &["a"]), disk_bytes(&inside));
    std::fs::remove_file(&outside).unwrap();
    assert_eq!(run(&plan).freed_bytes, bytes);
}

#[test]
fn sparse_files_count_their_blocks() {
    let (_scratch, root) = store();
    let path = root.join("partial");
    std::fs::File::create(&path).unwrap().set_len(1 << 40).unwrap();
    let report = run(&plan(&root, &["partial"]));
    assert_eq!(report.freed_bytes, 0);
    assert!(!path.exists());
}

// Links, pipes and names

#[test]
fn links_go_and_their_targets_stay() {
    let (scratch, root) = store();
    let outside = write(scratch.path().join("outside/payload"), 9000);
    let inside = write(root.join("blobs/payload"), 9000);
    symlink(&outside, root.join("out")).unwrap();
    symlink("blobs/payload", root.join("in")).unwrap();
    symlink("nowhere", root.join("dangling")).unwrap();
    symlink("loop", root.join("loop")).unwrap();
    symlink(outside.parent().unwrap(), root.join("folder")).unwrap();
    let report = run(&plan(&root, &["out", "in", "dangling", "loop", "folder"]));
    assert_eq!((report.removed.len(), report.freed_bytes), (5, 0), "{report:?}");
    assert!(outside.exists() && inside.exists());
}

#[test]
fn pipes_are_removed_without_opening_them() {
    let (_scratch, root) = store();
    let pipe = root.join("pipe");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
    assert!(made.success());
    assert_eq!(run(&plan(&root, &["pipe"])).removed, [pipe]);
}

#[test]
fn any_name_that_a_file_can_have() {
    let (scratch, root) = store();
    let names: [&[u8]; 7] =
        [b"new\nline", b"\xff\xfe", b"\x1b[31mred", b"-rf", b" ", b"a\\x41", "\u{202e}gnp".as_bytes()];
    let paths: Vec<PathBuf> = names.iter().map(|name| Path::new("m").join(OsStr::from_bytes(name))).collect();
    for path in &paths {
        write(root.join(path), 10);
    }
    let keep = write(root.join("m/keep"), 10);
    let steps = paths.iter().map(|path| step_at(&root, path)).collect();
    let report = run(&Plan { steps, ..Plan::default() });
    assert_eq!(report.removed.len(), names.len());
    assert_eq!(picture(scratch.path()).len(), 3);
    assert!(keep.exists());
}

#[test]
fn plans_that_no_store_makes_are_refused() {
    let (scratch, root) = store();
    write(root.join("m/a"), 10);
    write(scratch.path().join("outside"), 10);
    let good = step(&root, "m/a");
    let parent_of_root = root.parent().unwrap().to_owned();
    let outside = identity(&parent_of_root.join("outside"));
    let with_name = |name: &str| Step { name: OsString::from(name), ..good.clone() };
    let with_folder = |folder: &str| Step {
        folder: PathBuf::from(folder),
        name: OsString::from("outside"),
        parent: identity(&parent_of_root),
        target: outside,
        ..good.clone()
    };
    let relative = good.path().strip_prefix("/").unwrap().to_owned();
    let from_slash = Step { root: PathBuf::from("/"), folder: relative.parent().unwrap().to_owned(), ..good.clone() };
    let hidden_slash = Step { root: PathBuf::from("/.."), ..from_slash.clone() };
    let link_to_slash = scratch.path().canonicalize().unwrap().join("slash");
    symlink("/", &link_to_slash).unwrap();
    let steps = vec![
        with_name(""),
        with_name("."),
        with_name(".."),
        with_name("../m/a"),
        with_name("a/"),
        with_folder(".."),
        with_folder("m/../.."),
        with_folder(parent_of_root.to_str().unwrap()),
        from_slash.clone(),
        hidden_slash,
        Step { root: PathBuf::from("relative"), ..good.clone() },
        Step { root: link_to_slash, ..from_slash },
        Step { root: root.join("../store"), ..good.clone() },
    ];
    let before = picture(scratch.path());
    let report = run(&Plan { steps: steps.clone(), ..Plan::default() });
    assert_eq!(report.failed.len(), steps.len(), "{report:?}");
    assert_eq!(picture(scratch.path()), before);
    assert_eq!(run(&Plan { steps: vec![good], ..Plan::default() }).removed.len(), 1);
}

// Any tree, any part of it, stopped and failed anywhere

#[derive(Clone, Debug)]
enum Seed {
    File { bytes: usize },
    HardLink { of: usize },
    Link { to: usize, outside: bool },
    Folder,
}

fn seed() -> impl Strategy<Value = (usize, Seed)> {
    let seed = prop_oneof![
        3 => (0usize..20_000).prop_map(|bytes| Seed::File { bytes }),
        1 => any::<usize>().prop_map(|of| Seed::HardLink { of }),
        1 => (any::<usize>(), any::<bool>()).prop_map(|(to, outside)| Seed::Link { to, outside }),
        2 => Just(Seed::Folder),
    ];
    (any::<usize>(), seed)
}

/// Grows a tree below `root`; gives the paths below it, a folder before what is in it.
fn grow(root: &Path, outside: &Path, seeds: &[(usize, Seed)]) -> Vec<PathBuf> {
    let (mut folders, mut files, mut all) = (vec![PathBuf::new()], Vec::new(), Vec::new());
    for (number, (place, seed)) in seeds.iter().enumerate() {
        let path = folders[place % folders.len()].join(format!("n{number}"));
        let full = root.join(&path);
        match seed {
            Seed::File { bytes } => {
                std::fs::write(&full, vec![u8::try_from(number % 256).unwrap(); *bytes]).unwrap();
                files.push(full);
            }
            Seed::HardLink { of } if !files.is_empty() => {
                std::fs::hard_link(&files[of % files.len()], &full).unwrap();
            }
            Seed::Link { to, .. } if !all.is_empty() && to % 3 == 0 => {
                symlink(root.join::<&PathBuf>(&all[to % all.len()]), &full).unwrap();
            }
            Seed::Link { outside: true, .. } => symlink(outside, &full).unwrap(),
            Seed::Link { .. } => symlink("nowhere", &full).unwrap(),
            Seed::HardLink { .. } | Seed::Folder => {
                std::fs::create_dir(&full).unwrap();
                folders.push(path.clone());
            }
        }
        all.push(path);
    }
    all
}

struct Trouble {
    stop: usize,
    fail: BTreeSet<usize>,
}

impl Hook for Trouble {
    fn before(&mut self, index: usize, _step: &Step) -> Decision {
        if index == self.stop {
            Decision::Stop
        } else if self.fail.contains(&index) {
            Decision::Fail(Errno::ACCESS.raw_os_error())
        } else {
            Decision::Proceed
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_not_in_the_plan_is_never_touched(
        seeds in prop::collection::vec(seed(), 1..14),
        chosen in prop::collection::vec(any::<bool>(), 14),
        stop in 0usize..18,
        fail in prop::collection::btree_set(0usize..14, 0..3),
    ) {
        let (scratch, root) = store();
        let outside = scratch.path().join("outside");
        write(outside.join("file"), 100);
        let all = grow(&root, &outside, &seeds);
        let mut planned: Vec<&PathBuf> = all.iter().zip(&chosen).filter(|(_, chosen)| **chosen).map(|(path, _)| path).collect();
        planned.reverse();
        let plan = Plan { steps: planned.iter().map(|path| step_at(&root, path)).collect(), ..Plan::default() };
        let before = picture(scratch.path());
        let blocks: BTreeMap<Inode, u64> = before.iter()
            .filter(|(_, (_, content))| matches!(content, Content::File(_)))
            .map(|(path, (inode, _))| (*inode, disk_bytes(path)))
            .collect();

        let report = run_with(&plan, &mut Trouble { stop, fail: fail.clone() });
        let after = picture(scratch.path());

        prop_assert_eq!(&after, &without(&before, &report.removed), "exactly what was reported is gone");
        for path in &report.removed {
            prop_assert!(planned.iter().any(|planned| root.join(planned) == *path));
        }
        let left: BTreeSet<Inode> = after.values().map(|(inode, _)| *inode).collect();
        let freed: u64 = blocks.iter().filter(|(inode, _)| !left.contains(inode)).map(|(_, bytes)| bytes).sum();
        prop_assert_eq!(report.freed_bytes, freed);
        for failure in &report.failed {
            prop_assert!(after.contains_key(&failure.path));
        }
        if stop >= plan.steps.len() && fail.is_empty() {
            for step in plan.steps.iter().filter(|step| step.operation.is_file()) {
                prop_assert!(!after.contains_key(&step.path()));
            }
        }
    }
}

/// Holds a `flock` on a file as another program would, until it is dropped.
fn held(path: &Path) -> std::fs::File {
    let file = std::fs::File::open(path).unwrap();
    rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).unwrap();
    file
}

#[test]
fn a_lock_that_somebody_holds_keeps_its_file_and_nothing_else() {
    let scratch = tempfile::tempdir().unwrap();
    let root = scratch.path().canonicalize().unwrap();
    std::fs::create_dir_all(root.join("locks")).unwrap();
    for name in ["a", "b", "c", "locks/a.lock", "locks/b.lock"] {
        std::fs::write(root.join(name), "x").unwrap();
    }
    let lock = |name: &str| vec![PathBuf::from("locks").join(name)];
    let locked = |name: &str| Step { locks: lock(&format!("{name}.lock")), ..step(&root, name) };
    let plan = Plan { steps: ["a", "b", "c"].iter().map(|name| locked(name)).collect(), ..Plan::default() };
    let other = held(&root.join("locks/a.lock"));
    let report = run(&plan);
    assert_eq!(report.removed, [root.join("b"), root.join("c")]);
    assert_eq!(report.failed.len(), 1);
    assert!(report.failed[0].error.starts_with("kept: being downloaded by "), "{report:?}");
    assert!(root.join("a").exists());
    let names: Vec<_> =
        std::fs::read_dir(root.join("locks")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 2, "no lock is made or removed: {names:?}");
    drop(other);
    assert_eq!(run(&plan).removed, [root.join("a")]);
}

/// Notes whether a lock is held while the steps run.
struct Watching(PathBuf, Vec<bool>);

impl Hook for Watching {
    fn before(&mut self, _index: usize, _step: &Step) -> Decision {
        self.1.push(rbee_hive::disk::lock::is_held(&self.0));
        Decision::Proceed
    }
}

#[test]
fn locks_are_given_back_after_their_step() {
    let scratch = tempfile::tempdir().unwrap();
    let root = scratch.path().canonicalize().unwrap();
    for name in ["a", "b", "l"] {
        std::fs::write(root.join(name), "x").unwrap();
    }
    let first = Step { locks: vec!["l".into()], ..step(&root, "a") };
    let plan = Plan { steps: vec![first, step(&root, "b")], ..Plan::default() };
    let mut watching = Watching(root.join("l"), Vec::new());
    assert_eq!(run_with(&plan, &mut watching).removed.len(), 2);
    assert_eq!(watching.1, [false, false]);
}
