//! Ollama's, LM Studio's and llama.cpp's stores over constructed trees: rows, figures, plans, verification.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use proptest::prelude::*;
use rbee_hive::Error;
use rbee_hive::config::{Environment, Settings};
use rbee_hive::disk::deletion::{self, Decision, Hook, NoHook};
use rbee_hive::model::{DeletionReport, FileStatus, Format, Model, ModelKind, Plan, Reference, Step, StoreSummary};
use rbee_hive::provisioner::{self, Inventory, PlanTarget, Totals};
use rbee_hive::store::flat::FlatStore;
use rbee_hive::store::llama_cpp::LlamaCppStore;
use rbee_hive::store::lm_studio::LmStudioStore;
use rbee_hive::store::ollama::OllamaStore;
use rbee_hive::store::verify::{self, Depth};
use rbee_hive::store::{Part, Row, Store, Target};
use support::stores::{Form, Ollama, put, sha256, small_gguf};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

/// A scratch folder with a store in it, and room beside the store.
struct Bench {
    _scratch: TempDir,
    top: PathBuf,
    root: PathBuf,
    store: Box<dyn Store>,
}

impl Bench {
    fn new(open: impl FnOnce(&Path) -> Box<dyn Store>, build: impl FnOnce(&Path)) -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let top = scratch.path().canonicalize().unwrap();
        let root = top.join("models");
        fs::create_dir(&root).unwrap();
        build(&root);
        let store = open(&root);
        Self { _scratch: scratch, top, root, store }
    }

    fn ollama(build: impl FnOnce(&Ollama)) -> Self {
        Self::new(|root| Box::new(OllamaStore::new(root)), |root| build(&Ollama(root.to_owned())))
    }

    fn lm_studio(build: impl FnOnce(&Path)) -> Self {
        Self::new(|root| Box::new(LmStudioStore::new(root)), build)
    }

    fn llama_cpp(build: impl FnOnce(&Path)) -> Self {
        Self::new(|root| Box::new(LlamaCppStore::new(root)), build)
    }

    fn scan(&self) -> (BTreeMap<String, Row>, StoreSummary) {
        let mut rows = BTreeMap::new();
        let summary = self.store.scan(
            &mut |row| assert!(rows.insert(row.model.identity.id.clone(), row).is_none(), "every id is one row"),
            &CancellationToken::new(),
        );
        assert_eq!(summary.models, rows.len() as u64);
        (rows, summary)
    }

    fn ids(&self) -> Vec<String> {
        self.scan().0.into_keys().collect()
    }

    fn row(&self, id: &str) -> Model {
        let row = self.scan().0.remove(id).unwrap_or_else(|| panic!("no row {id} in {:?}", self.ids())).model;
        assert_eq!(self.store.details(id).unwrap().model, row, "details and scan tell the same");
        row
    }

    fn plan(&self, ids: &[&str]) -> Plan {
        let targets: Vec<Target> = ids.iter().map(|id| whole(id)).collect();
        self.store.plan_deletion(&targets).unwrap()
    }

    /// Deletes and holds the plan to what it said; gives the paths that went, relative to the root.
    fn delete(&self, ids: &[&str]) -> Vec<String> {
        let plan = self.plan(ids);
        assert_eq!(plan.blocked, []);
        self.run_and_hold(&plan);
        self.relative(&plan)
    }

    fn relative(&self, plan: &Plan) -> Vec<String> {
        plan.steps
            .iter()
            .map(|step| step.path().strip_prefix(&self.root).unwrap().to_string_lossy().into_owned())
            .collect()
    }

    /// Runs a plan: exactly what it names goes, and frees what it says. Gives the bytes.
    fn run_and_hold(&self, plan: &Plan) -> u64 {
        let (before, used_before) = (self.picture(), self.used());
        let report = run(plan, &mut NoHook);
        assert_eq!(report.failed, []);
        let planned: BTreeSet<PathBuf> = plan.steps.iter().map(Step::path).collect();
        let left: BTreeMap<_, _> = before.into_iter().filter(|(path, _)| !planned.contains(path)).collect();
        assert_eq!(self.picture(), left, "only what the plan names goes, and all of it");
        assert_eq!(report.freed_bytes, plan.expected_bytes);
        assert_eq!(used_before - self.used(), plan.expected_bytes, "the disk agrees");
        report.freed_bytes
    }

    /// Everything below the scratch folder: what it is, and its content.
    fn picture(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut all = BTreeMap::new();
        for entry in walkdir::WalkDir::new(&self.top).min_depth(1) {
            let entry = entry.unwrap();
            let content = if entry.file_type().is_symlink() {
                [b"link ", fs::read_link(entry.path()).unwrap().as_os_str().as_bytes()].concat()
            } else if entry.file_type().is_dir() {
                b"folder".to_vec()
            } else if entry.file_type().is_file() {
                [b"file ", fs::read(entry.path()).unwrap().as_slice()].concat()
            } else {
                b"other".to_vec()
            };
            all.insert(entry.into_path(), content);
        }
        all
    }

    /// Blocks of every regular file below the scratch folder, an inode once: what `du` says without folders.
    fn used(&self) -> u64 {
        let mut inodes = BTreeMap::new();
        for entry in walkdir::WalkDir::new(&self.top) {
            let metadata = entry.unwrap().path().symlink_metadata().unwrap();
            if metadata.is_file() {
                inodes.insert((metadata.dev(), metadata.ino()), metadata.blocks() * 512);
            }
        }
        inodes.values().sum()
    }

    fn check(&self, id: &str, depth: Depth) -> (bool, BTreeMap<String, FileStatus>) {
        let files = self.store.expected(&whole(id)).unwrap();
        let identity = self.row(id).identity;
        let found = verify::run(&identity, &self.root, &files, depth, &mut |_| {}, &CancellationToken::new()).unwrap();
        (found.ok, found.files.into_iter().map(|file| (file.path, file.status)).collect())
    }

    fn find(&self, text: &str) -> Option<Target> {
        self.store.find(&Reference::parse(text).unwrap()).unwrap()
    }
}

fn whole(id: &str) -> Target {
    Target { id: id.to_owned(), part: Part::Whole }
}

fn run(plan: &Plan, hook: &mut dyn Hook) -> DeletionReport {
    deletion::run(plan, hook, &|_| false, &mut |_, _| {}, &CancellationToken::new())
}

/// Stops at one operation.
struct StopAt(usize);

impl Hook for StopAt {
    fn before(&mut self, index: usize, _step: &Step) -> Decision {
        if index == self.0 { Decision::Stop } else { Decision::Proceed }
    }
}

/// Fails at one operation.
struct FailAt(usize);

impl Hook for FailAt {
    fn before(&mut self, index: usize, _step: &Step) -> Decision {
        if index == self.0 { Decision::Fail(rustix::io::Errno::IO.raw_os_error()) } else { Decision::Proceed }
    }
}

fn blocks(path: &Path) -> u64 {
    fs::symlink_metadata(path).unwrap().blocks() * 512
}

fn pipe(path: &Path) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0).unwrap();
}

// What holds for every store

/// Each row alone and every pair: what is expected is freed and is what the disk sees; together is one after the other.
fn every_row_and_pair(build: fn() -> Bench) {
    let ids = build().ids();
    for (at, first) in ids.iter().enumerate() {
        let bench = build();
        let plan = bench.plan(&[first]);
        assert_eq!(plan.blocked, [], "{first}");
        assert_eq!(plan.expected_bytes, bench.row(first).reclaimable_bytes, "{first}: the row says what the plan says");
        bench.run_and_hold(&plan);
        assert!(!bench.ids().contains(first));
        for second in &ids[at + 1..] {
            let together = build();
            let rows = together.scan().0;
            let pair = [&rows[first], &rows[second]];
            let plan = together.plan(&[first, second]);
            assert_eq!(plan.expected_bytes, Totals::from_iter(pair).reclaimable_bytes(), "{first}, {second}");
            let freed = together.run_and_hold(&plan);
            for order in [[first, second], [second, first]] {
                let stepwise = build();
                let sum: u64 = order.iter().map(|id| stepwise.run_and_hold(&stepwise.plan(&[id]))).sum();
                assert_eq!(sum, freed, "{order:?}");
                let names = |bench: &Bench| -> Vec<PathBuf> {
                    bench.picture().into_keys().map(|path| path.strip_prefix(&bench.top).unwrap().to_owned()).collect()
                };
                assert_eq!(names(&stepwise), names(&together), "{order:?}");
            }
        }
    }
}

/// Stopped or failed at each operation of the deletion of each row: every other row reads as before, byte for byte, and the row
/// itself is whole, gone, or says that it is not whole; where names lead to payloads, it is whole or gone.
fn stopped_anywhere_nothing_else_breaks(build: fn() -> Bench, names_first: bool) {
    let ids = build().ids();
    for id in &ids {
        let steps = build().plan(&[id]).steps.len();
        for at in 0..steps {
            for fails in [false, true] {
                let bench = build();
                let was: BTreeMap<&String, _> = ids.iter().map(|id| (id, bench.check(id, Depth::Full))).collect();
                let whole_before = bench.row(id).complete && was[id].0;
                let plan = bench.plan(&[id]);
                let report = if fails { run(&plan, &mut FailAt(at)) } else { run(&plan, &mut StopAt(at)) };
                assert!(report.freed_bytes <= plan.expected_bytes);
                let left = bench.ids();
                for other in ids.iter().filter(|other| *other != id) {
                    assert_eq!(bench.check(other, Depth::Full), was[other], "{other} after {id} stopped at {at}");
                }
                if whole_before && left.contains(id) && (names_first || bench.row(id).complete) {
                    assert!(bench.check(id, Depth::Full).0, "{id} stopped at {at} looks whole and is not");
                }
                // Once more, and it is gone.
                if left.contains(id) {
                    assert_eq!(run(&bench.plan(&[id]), &mut NoHook).failed, []);
                    assert!(!bench.ids().contains(id));
                }
            }
        }
    }
}

/// Totals over rows are what lies on disk, and no row claims more than the store has.
fn sums_agree(bench: &Bench) {
    let (rows, summary) = bench.scan();
    let totals = Totals::from_iter(rows.values());
    assert!(totals.disk_bytes() <= summary.disk_bytes);
    let inside: u64 = {
        let mut inodes = BTreeMap::new();
        for entry in walkdir::WalkDir::new(&bench.root) {
            let metadata = entry.unwrap().path().symlink_metadata().unwrap();
            if metadata.is_file() {
                inodes.insert((metadata.dev(), metadata.ino()), metadata.blocks() * 512);
            }
        }
        inodes.values().sum()
    };
    assert_eq!(summary.disk_bytes, inside);
}

// Ollama

const LICENCE: &[u8] = &[b'l'; 9000];
const TEMPLATE: &[u8] = b"{{ .Prompt }}";
/// A layer that only the shadow of a conversion names.
const SHADOW: &[u8] = &[b's'; 7000];

/// Two tags that share weights, two that share small layers, a name in both trees, a conversion with its shadow, a copy, a link
/// to another tag's manifest blob, a model of the hub.
fn ollama() -> Bench {
    Bench::ollama(|store| {
        let (a, b, c, d) = (small_gguf(15, 100, 1), small_gguf(15, 200, 2), small_gguf(7, 50, 3), small_gguf(7, 60, 4));
        let config = Ollama::config("Q4_K_M");
        let a_8b = store.manifest(&config, &[("model", &a), ("template", TEMPLATE), ("license", LICENCE)]);
        store.tag("library/llama3/8b", &a_8b);
        store.tag("library/llama3/latest", &a_8b);
        store.tag("alice/mine/q4", &store.manifest(&config, &[("model", &b), ("license", LICENCE), ("new", b"?")]));
        // Converted: a list of the original and of what was made of it.
        let original = store.manifest(&Ollama::config("Q8_0"), &[("model", &c), ("license", LICENCE)]);
        let converted = store.manifest(&Ollama::config("Q8_0"), &[("model", &d), ("projector", &small_gguf(1, 8, 5))]);
        let children = [store.blob(&original), store.blob(&converted), "9".repeat(64)];
        let list = Ollama::list(&children);
        let hex = store.blob(&list);
        store.tag_v2("library/conv/latest", &list, Form::Symlink);
        let anchor = store.manifest_with(
            &Ollama::config("Q8_0"),
            &[("model", &c), ("license", LICENCE)],
            &[hex, children[0].clone(), children[1].clone()],
        );
        store.tag("library/conv/latest", &anchor);
        let kept = store.manifest(&Ollama::config("Q8_0"), &[("model", &d), ("license", SHADOW)]);
        store.tag(&format!("library/llamacpp/{}", children[1]), &kept);
        // Two names of one manifest in the newer tree.
        let e = store.manifest(&Ollama::config("F16"), &[("model", &small_gguf(1, 30, 6))]);
        store.tag_v2("library/e/one", &e, Form::HardLink);
        store.tag_v2("library/e/two", &e, Form::HardLink);
        store.tag_v2("library/e/three", &e, Form::Copy);
        store.tag("hf.co/org/Name-GGUF/Q8_0", &store.manifest(&Ollama::config("Q8_0"), &[("model", &c)]));
        // What no manifest names, what is unfinished, what is nobody's.
        store.blob(b"nobody needs this");
        put(store.0.join(format!("blobs/sha256-{}-partial", "1".repeat(64))), &[0; 5000]);
        put(store.0.join("blobs/sha256-123456"), b"temporary");
        put(store.0.join("ollama-safetensors1/x"), &[0; 5000]);
        put(store.0.join("manifests/registry.ollama.ai/library/llama3/.manifest-1"), b"{");
    })
}

#[test]
fn ollama_rows_are_tags_under_their_shortest_names() {
    let bench = ollama();
    assert_eq!(
        bench.ids(),
        [
            "alice/mine:q4",
            "conv:latest",
            "e:one",
            "e:three",
            "e:two",
            "hf.co/org/Name-GGUF:Q8_0",
            "llama3:8b",
            "llama3:latest"
        ]
    );
    let row = bench.row("llama3:8b");
    assert_eq!(
        (row.kind, row.format, row.architecture.as_deref()),
        (ModelKind::Model, Some(Format::Gguf), Some("llama"))
    );
    assert_eq!(row.quantization_label(), "Q4_K_M");
    assert_eq!((row.parameters, row.context_length), (Some(256 * 100), Some(2048)));
    assert!(row.complete && row.warnings.is_empty(), "{:?}", row.warnings);
    assert!(row.path.ends_with("manifests/registry.ollama.ai/library/llama3/8b"));
    assert_eq!(bench.row("hf.co/org/Name-GGUF:Q8_0").reference.as_deref(), Some("org/Name-GGUF"));
    assert!(bench.row("conv:latest").complete, "a child for another runner may be absent");
    sums_agree(&bench);
}

#[test]
fn ollama_figures_count_a_shared_blob_as_held_elsewhere() {
    let bench = ollama();
    let store = Ollama(bench.root.clone());
    let b = small_gguf(15, 200, 2);
    let config = Ollama::config("Q4_K_M");
    let row = bench.row("alice/mine:q4");
    let disk = |bytes: &[u8]| blocks(&store.blob_path(&sha256(bytes)));
    let name = blocks(&bench.root.join("manifests/registry.ollama.ai/alice/mine/q4"));
    assert_eq!(row.size_bytes, (b.len() + LICENCE.len() + config.len() + 1) as u64);
    assert_eq!(row.disk_bytes, disk(&b) + disk(LICENCE) + disk(&config) + disk(b"?") + name);
    assert_eq!(row.reclaimable_bytes, disk(&b) + disk(b"?") + name);
    assert_eq!(row.file_count, 4);
    // Two tags of one manifest hold everything of each other but their names.
    let name = blocks(&bench.root.join("manifests/registry.ollama.ai/library/llama3/8b"));
    assert_eq!(bench.row("llama3:8b").reclaimable_bytes, name);
    // The weights of the anchor are shared with the model of the hub; the conversion and its shadow are its own.
    let conv = bench.row("conv:latest");
    assert!(conv.reclaimable_bytes >= disk(&small_gguf(7, 60, 4)));
    assert!(conv.disk_bytes - conv.reclaimable_bytes >= disk(&small_gguf(7, 50, 3)));
}

#[test]
fn ollama_every_row_and_pair() {
    every_row_and_pair(ollama);
}

#[test]
fn ollama_stopped_anywhere() {
    stopped_anywhere_nothing_else_breaks(ollama, true);
}

#[test]
fn ollama_names_go_first_then_folders_then_blobs_and_shadows_with_the_last_owner() {
    let bench = ollama();
    let plan = bench.plan(&["conv:latest"]);
    let paths = bench.relative(&plan);
    let at =
        |text: &str| paths.iter().position(|path| path.contains(text)).unwrap_or_else(|| panic!("{text} in {paths:?}"));
    assert_eq!(at("manifests-v2/ollama.com/library/conv/latest"), 0);
    assert_eq!(at("manifests/registry.ollama.ai/library/conv/latest"), 1);
    assert_eq!(at("library/llamacpp/"), 2);
    assert!(at("manifests/registry.ollama.ai/library/llamacpp") < at("blobs/"));
    assert!(paths.iter().any(|path| path == "manifests-v2/ollama.com/library/conv"));
    assert!(!paths.iter().any(|path| path == "manifests-v2/ollama.com/library"), "other names are there");
    let why: Vec<&str> = plan.keep.iter().map(|kept| kept.because.as_str()).collect();
    assert!(why.contains(&"also used by hf.co/org/Name-GGUF:Q8_0"), "{why:?}");
    assert!(why.iter().any(|why| why.starts_with("also used by alice/mine:q4, llama3:8b")), "{why:?}");
    let store = Ollama(bench.root.clone());
    assert!(store.blob_path(&sha256(SHADOW)).exists());
    bench.run_and_hold(&plan);
    assert!(!store.blob_path(&sha256(SHADOW)).exists());
    let all = bench.ids();
    bench.delete(&all.iter().map(String::as_str).collect::<Vec<_>>());
    // The temporary manifest keeps its folder; what no tag needs is not the business of a deletion.
    assert!(bench.root.join("manifests/registry.ollama.ai/library/llama3/.manifest-1").exists());
    assert!(!bench.root.join("manifests/registry.ollama.ai/alice").exists());
    assert!(store.blob_path(&sha256(b"nobody needs this")).exists());
    assert!(!store.blob_path(&sha256(LICENCE)).exists());
}

#[test]
fn ollama_a_shadow_without_owner_keeps_its_blobs_and_shared_ones_go_with_the_last_owner() {
    let bench = Bench::ollama(|store| {
        let weights = small_gguf(7, 9, 1);
        let manifest = store.manifest(&Ollama::config("Q8_0"), &[("model", &weights)]);
        let child = store.blob(&manifest);
        store.tag_v2("library/a/x", &Ollama::list(std::slice::from_ref(&child)), Form::Symlink);
        store.tag_v2("library/b/x", &Ollama::list(&[child.clone(), "8".repeat(64)]), Form::Symlink);
        store.tag(&format!("library/llamacpp/{child}"), &manifest);
        let other = small_gguf(7, 9, 2);
        let manifest = store.manifest(&Ollama::config("Q4_0"), &[("model", &other)]);
        store.tag("library/c/x", &manifest);
        store.tag(&format!("library/llamacpp/{}", "7".repeat(64)), &manifest);
    });
    assert_eq!(bench.ids(), ["a:x", "b:x", "c:x"]);
    assert!(!bench.relative(&bench.plan(&["a:x"])).iter().any(|path| path.contains("llamacpp")));
    assert!(bench.relative(&bench.plan(&["a:x", "b:x"])).iter().any(|path| path.contains("llamacpp")));
    let plan = bench.plan(&["c:x"]);
    assert!(!bench.relative(&plan).iter().any(|path| path.starts_with("blobs")));
    assert!(plan.keep.iter().all(|kept| kept.because.ends_with("which keeps a conversion")), "{:?}", plan.keep);
    bench.delete(&["b:x"]);
    assert!(bench.check("a:x", Depth::Full).0);
    bench.delete(&["a:x"]);
    assert!(!bench.root.join("manifests-v2/ollama.com").exists());
}

#[test]
fn ollama_references_ignore_case_and_mean_latest_without_a_tag() {
    let bench = ollama();
    let meaning = |text: &str| bench.find(text).map(|target| target.id);
    assert_eq!(meaning("llama3").as_deref(), Some("llama3:latest"));
    assert_eq!(meaning("LLAMA3:8B").as_deref(), Some("llama3:8b"));
    assert_eq!(meaning("alice/mine:q4").as_deref(), Some("alice/mine:q4"));
    for text in ["alice/mine", "llama", "mine:q4", "llama3:8", "org/Name-GGUF", "llama3@main"] {
        assert_eq!(meaning(text), None, "{text}");
    }
    let quantization = Target { id: "llama3:8b".to_owned(), part: Part::Quantization("Q4_K_M".to_owned()) };
    assert!(!bench.store.plan_deletion(&[quantization]).unwrap().steps.is_empty());
    let other = Target { id: "llama3:8b".to_owned(), part: Part::Quantization("Q8_0".to_owned()) };
    assert!(matches!(bench.store.plan_deletion(&[other]), Err(Error::ModelNotFound { .. })));
}

#[test]
fn ollama_spellings_that_differ_in_case_are_two_rows() {
    let bench = Bench::ollama(|store| {
        let manifest = |seed| store.manifest(&Ollama::config("Q4_0"), &[("model", &small_gguf(2, 9, seed))]);
        store.tag("library/Llama/8b", &manifest(1));
        store.tag("library/llama/8b", &manifest(2));
        // One name in both trees, written differently.
        store.tag("library/Both/x", &manifest(3));
        store.tag_v2("library/both/x", &manifest(4), Form::Symlink);
    });
    assert_eq!(bench.ids(), ["Llama:8b", "both:x", "llama:8b"]);
    assert_eq!(bench.find("llama:8b").unwrap().id, "llama:8b");
    let reference = Reference::parse("LLAMA:8b").unwrap();
    assert!(matches!(bench.store.find(&reference), Err(Error::Ambiguous { .. })));
    bench.delete(&["llama:8b"]);
    assert!(bench.check("Llama:8b", Depth::Full).0);
}

#[test]
fn ollama_blobs_are_checked_against_their_names() {
    let bench = ollama();
    let store = Ollama(bench.root.clone());
    let (ok, files) = bench.check("conv:latest", Depth::Full);
    assert!(ok, "{files:?}");
    assert!(
        files.keys().any(|path| path.starts_with("manifest-")) && files.keys().any(|path| path.starts_with("model-"))
    );
    let licence = store.blob_path(&sha256(LICENCE));
    fs::write(&licence, [LICENCE, b"?"].concat()).unwrap();
    fs::write(store.blob_path(&sha256(b"?")), b"!").unwrap();
    let (ok, files) = bench.check("alice/mine:q4", Depth::Full);
    let status = |kind: &str| *files.iter().find(|(path, _)| path.starts_with(kind)).unwrap().1;
    assert!(!ok);
    assert_eq!(
        (status("license"), status("new"), status("model")),
        (FileStatus::Extra, FileStatus::Corrupt, FileStatus::Ok)
    );
    fs::remove_file(licence).unwrap();
    let row = bench.row("alice/mine:q4");
    assert!(!row.complete);
    assert!(row.warnings.iter().any(|line| line.starts_with("license-") && line.ends_with("is missing")));
    assert_eq!(bench.check("alice/mine:q4", Depth::Quick).1.values().filter(|s| **s == FileStatus::Missing).count(), 1);
}

#[test]
fn ollama_a_name_that_leads_nowhere_falls_back_to_the_other_tree() {
    let bench = Bench::ollama(|store| {
        let weights = small_gguf(2, 9, 1);
        store.tag("library/a/x", &store.manifest(&Ollama::config("Q4_0"), &[("model", &weights)]));
        let gone = store.manifest(&Ollama::config("Q4_0"), &[("model", &weights), ("license", b"other")]);
        store.tag_v2("library/a/x", &gone, Form::Symlink);
        fs::remove_file(store.blob_path(&sha256(&gone))).unwrap();
        store.tag_v2("library/only/x", b"gone", Form::Symlink);
        fs::remove_file(store.blob_path(&sha256(b"gone"))).unwrap();
    });
    let row = bench.row("a:x");
    assert!(row.complete);
    assert!(row.warnings.iter().any(|line| line.ends_with("leads to nothing")), "{:?}", row.warnings);
    assert!(!bench.row("only:x").complete);
    let gone = bench.delete(&["a:x", "only:x"]);
    assert!(gone.iter().any(|path| path == "manifests-v2/ollama.com"), "{gone:?}");
    assert!(bench.root.join("manifests-v2").exists() && bench.root.join("manifests").exists());
}

#[test]
fn ollama_what_cannot_be_told_keeps_every_blob() {
    type Damage = fn(&Ollama);
    let name = "manifests/registry.ollama.ai/library/bad/x";
    let v2 = "manifests-v2/ollama.com/library/bad/x";
    let cases: [(&str, Damage); 14] = [
        ("empty", |store| drop(store.tag("library/bad/x", b""))),
        ("cut", |store| drop(store.tag("library/bad/x", br#"{"layers":[{"digest":"sha256:"#))),
        ("not JSON", |store| drop(store.tag("library/bad/x", b"\0\xff"))),
        ("another JSON", |store| drop(store.tag("library/bad/x", b"[1,2]"))),
        ("way out", |store| drop(store.tag("library/bad/x", br#"{"layers":[{"digest":"sha256:../../../outside"}]}"#))),
        ("huge", |store| drop(store.tag("library/bad/x", &vec![b' '; (4 << 20) + 1]))),
        ("nested", |store| drop(store.tag("library/bad/x", "[".repeat(100_000).as_bytes()))),
        ("pipe", |store| pipe(&store.0.join("manifests/registry.ollama.ai/library/bad/x"))),
        ("list in list", |store| {
            let inner = Ollama::list(&["7".repeat(64)]);
            let outer = Ollama::list(&[store.blob(&inner)]);
            store.tag_v2("library/bad/x", &outer, Form::Symlink);
        }),
        ("bad child", |store| {
            let child = store.blob(b"no manifest");
            store.tag_v2("library/bad/x", &Ollama::list(&[child]), Form::Symlink);
        }),
        ("link out", |store| {
            let path = store.0.join("manifests/registry.ollama.ai/library/bad/x");
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            symlink("/etc/passwd", path).unwrap();
        }),
        ("folder link", |store| {
            fs::create_dir_all(store.0.join("manifests")).unwrap();
            symlink("/etc", store.0.join("manifests/elsewhere")).unwrap();
        }),
        ("no name", |store| {
            let path = store.0.join("manifests/registry.ollama.ai/library/bad").join(OsStr::from_bytes(b"\xff\n"));
            put(path, b"{");
        }),
        ("tree is a file's link", |store| symlink("/etc", store.0.join("manifests-v2")).unwrap()),
    ];
    for (case, damage) in cases {
        let bench = Bench::ollama(|store| {
            let weights = small_gguf(2, 9, 1);
            store.tag("library/good/x", &store.manifest(&Ollama::config("Q4_0"), &[("model", &weights)]));
            damage(store);
        });
        let row = bench.row("good:x");
        assert!(row.complete, "{case}: {:?}", row.warnings);
        assert_eq!(row.reclaimable_bytes, blocks(&row.path), "{case}: only the name can go");
        let good: Vec<PathBuf> =
            bench.store.details("good:x").unwrap().files.iter().map(|file| file.absolute.clone()).collect();
        assert!(!good.is_empty(), "{case}");
        let plan = bench.plan(&["good:x"]);
        assert!(!bench.relative(&plan).iter().any(|path| path.starts_with("blobs")), "{case}");
        assert!(
            plan.keep.iter().any(|kept| kept.because.starts_with("may be needed by what cannot be read")),
            "{case}: {:?}",
            plan.keep
        );
        assert_eq!(plan.expected_bytes, row.reclaimable_bytes, "{case}");
        bench.run_and_hold(&plan);
        for id in bench.ids() {
            let bad = bench.row(&id);
            assert!(!bad.complete && !bad.warnings.is_empty(), "{case}: {bad:?}");
            assert!(!bad.warnings.iter().any(|line| line.contains(['\n', '\u{1b}'])));
            if [name, v2].iter().any(|path| bad.path.ends_with(path)) {
                assert!(bench.store.expected(&whole(&id)).is_err(), "{case}: what it needs is not known");
            }
            let blobs = |bench: &Bench| fs::read_dir(bench.root.join("blobs")).unwrap().count();
            let before = blobs(&bench);
            bench.delete(&[&id]);
            // A list and its child are blobs that only this tag names, whatever the child would name.
            let own = if matches!(case, "list in list" | "bad child") { 2 } else { 0 };
            assert_eq!(blobs(&bench), before - own, "{case}: names may go, and no blob that another tag may need");
            assert!(good.iter().all(|blob| blob.exists()), "{case}");
        }
    }
}

#[test]
fn ollama_links_are_removed_and_never_followed() {
    let bench = Bench::ollama(|store| {
        let outside = put(store.0.join("../outside/weights"), &small_gguf(2, 9, 1));
        let weights = fs::read(&outside).unwrap();
        store.tag("library/a/x", &store.manifest(&Ollama::config("Q4_0"), &[("model", &weights)]));
        let blob = store.blob_path(&sha256(&weights));
        fs::remove_file(&blob).unwrap();
        symlink("../../outside/weights", &blob).unwrap();
        // Another tag as a link to the first one's manifest, and one by an absolute way to a blob.
        symlink("x", store.0.join("manifests/registry.ollama.ai/library/a/alias")).unwrap();
        let manifest = store.manifest(&Ollama::config("Q4_1"), &[("model", &small_gguf(3, 9, 2))]);
        let hex = store.blob(&manifest);
        let v2 = store.0.join("manifests-v2/ollama.com/library/abs");
        fs::create_dir_all(&v2).unwrap();
        symlink(store.blob_path(&hex), v2.join("x")).unwrap();
        symlink(format!("/somewhere/else/blobs/sha256-{hex}"), v2.join("y")).unwrap();
    });
    let row = bench.row("a:x");
    assert!(!row.complete);
    assert!(row.warnings.iter().any(|line| line.contains("is a link, not followed: ../../outside/weights")));
    assert!(bench.row("abs:x").complete);
    assert!(bench.row("abs:y").warnings.iter().any(|line| line.ends_with("is a link out of the store")));
    let plan = bench.plan(&["a:x"]);
    assert_eq!(plan.breaks.len(), 1);
    assert_eq!(plan.breaks[0].model.id, "a:alias");
    assert!(!bench.relative(&plan).iter().any(|path| path.starts_with("blobs")), "the alias needs them");
    let plan = bench.plan(&["a:x", "a:alias"]);
    assert_eq!(plan.breaks, []);
    bench.run_and_hold(&plan);
    assert!(bench.top.join("outside/weights").exists());
    let plan = bench.plan(&["abs:x"]);
    assert!(plan.keep.iter().any(|kept| kept.because == "also used by abs:y"));
}

#[test]
fn ollama_a_cloud_model_has_no_weights_and_lacks_nothing() {
    let bench = Bench::ollama(|store| {
        let config = br#"{"remote_host":"https://ollama.com:443","remote_model":"big"}"#;
        store.tag("library/big/cloud", &store.manifest(config, &[]));
    });
    let row = bench.row("big:cloud");
    assert!(row.complete);
    assert_eq!(row.warnings, ["its weights are not here but at https://ollama.com:443"]);
}

/// What a user without rights is told: the folder in the variable is asked about by this test in another process.
const FOLDER: &str = "LLORCH_TEST_OLLAMA_FOLDER";

#[test]
fn told_to_another_user() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let plan = OllamaStore::new(Path::new(&folder)).plan_deletion(&[whole("a:x")]).unwrap();
    println!("steps: {}", plan.steps.len());
    for blocked in plan.blocked {
        println!("blocked: {}", blocked.because);
    }
}

#[test]
fn ollama_of_another_user_is_blocked_with_the_command_that_would_do_it() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let bench = Bench::ollama(|store| {
        let weights = small_gguf(2, 9, 1);
        store.tag("library/a/x", &store.manifest(&Ollama::config("Q4_0"), &[("model", &weights)]));
    });
    fs::set_permissions(&bench.top, fs::Permissions::from_mode(0o755)).unwrap();
    for path in bench.picture().into_keys().chain([bench.root.clone()]) {
        std::os::unix::fs::lchown(path, Some(12345), None).unwrap();
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "told_to_another_user", "--nocapture"])
        .env(FOLDER, &bench.root)
        .uid(65534)
        .gid(65534)
        .current_dir("/")
        .output();
    // Where another user may not run this program, nothing can be shown.
    let Ok(output) = output else { return };
    let output = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.contains("steps: ") {
        return;
    }
    assert!(output.contains("steps: 0"), "{output}");
    assert!(
        output.contains("run as 12345 or root; its owner would do it with: sudo -u '#12345' ollama rm a:x"),
        "{output}"
    );
}

// LM Studio

/// Two repositories of one publisher (one with two quantizations and a projector, one in shards), one with a file that also has
/// a name elsewhere, files without a publisher, partials, links out.
fn lm_studio() -> Bench {
    Bench::lm_studio(|root| {
        let put = |path: &str, bytes: &[u8]| put(root.join(path), bytes);
        put("pub/two/m-Q4_K_M.gguf", &small_gguf(15, 100, 1));
        put("pub/two/m-Q8_0.gguf", &small_gguf(7, 200, 2));
        put("pub/two/mmproj-m.gguf", &small_gguf(1, 20, 3));
        put("pub/two/sub/readme.md", b"hello");
        fs::create_dir(root.join("pub/two/empty")).unwrap();
        put("pub/shards/s-00001-of-00002.gguf", &small_gguf(15, 50, 4));
        put("pub/shards/s-00002-of-00002.gguf", &small_gguf(15, 60, 5));
        let linked = put("../elsewhere/x.gguf", &small_gguf(7, 70, 6));
        fs::create_dir_all(root.join("other/linked")).unwrap();
        fs::hard_link(linked, root.join("other/linked/x-Q8_0.gguf")).unwrap();
        symlink("../../../elsewhere/x.gguf", root.join("other/linked/out.gguf")).unwrap();
        put("begun/one/downloading_b-Q4_0.gguf.part", &[0; 10_000]);
        put("imported-models/uncategorized/lone-Q4_0.gguf", &small_gguf(2, 30, 7));
        put("imported-models/uncategorized/set-00001-of-00002.gguf", &small_gguf(2, 31, 8));
        put("imported-models/uncategorized/set-00002-of-00002.gguf", &small_gguf(2, 32, 9));
        put("imported-models/uncategorized/late-Q4_0.gguf.part", &[0; 9000]);
        symlink("/nowhere/at.gguf", root.join("imported-models/uncategorized/away.gguf")).unwrap();
        symlink("../elsewhere", root.join("folder-link")).unwrap();
        put("misplaced.gguf", &small_gguf(2, 33, 10));
        put(".internal/index.json", &[b'x'; 5000]);
        put(".DS_Store", b"x");
        put("pub/.DS_Store", b"x");
    })
}

#[test]
fn lm_studio_rows() {
    let bench = lm_studio();
    assert_eq!(
        bench.ids(),
        [
            "begun/one",
            "folder-link",
            "imported-models/uncategorized/away.gguf",
            "imported-models/uncategorized/late-Q4_0.gguf",
            "imported-models/uncategorized/lone-Q4_0.gguf",
            "imported-models/uncategorized/set-00001-of-00002.gguf",
            "misplaced.gguf",
            "other/linked",
            "pub/shards",
            "pub/two",
        ]
    );
    let two = bench.row("pub/two");
    assert_eq!(two.quantization_label(), "Q4_K_M,Q8_0");
    assert_eq!((two.file_count, two.reference.as_deref()), (4, Some("pub/two")));
    assert!(two.complete && two.warnings.is_empty(), "{:?}", two.warnings);
    assert_eq!(two.reclaimable_bytes, two.disk_bytes);
    let linked = bench.row("other/linked");
    assert_eq!(
        (linked.disk_bytes, linked.reclaimable_bytes),
        (blocks(&bench.root.join("other/linked/x-Q8_0.gguf")), 0)
    );
    assert!(linked.warnings.iter().any(|line| line.starts_with("link out of the store, not followed")));
    let begun = bench.row("begun/one");
    assert!(!begun.complete && begun.kind == ModelKind::Model);
    assert!(begun.warnings[0].contains("b-Q4_0.gguf is not whole yet"), "{:?}", begun.warnings);
    assert!(bench.row("misplaced.gguf").warnings[0].contains("LM Studio does not find it here"));
    let link = bench.row("folder-link");
    assert_eq!((link.kind, link.disk_bytes), (ModelKind::Other, 0));
    sums_agree(&bench);
}

#[test]
fn lm_studio_every_row_and_pair() {
    every_row_and_pair(lm_studio);
}

#[test]
fn lm_studio_stopped_anywhere() {
    stopped_anywhere_nothing_else_breaks(lm_studio, false);
}

#[test]
fn lm_studio_parts_go_with_what_only_they_need() {
    let bench = lm_studio();
    let part = |label: &str| Target { id: "pub/two".to_owned(), part: Part::Quantization(label.to_owned()) };
    assert_eq!(bench.find("pub/two:q8_0"), Some(part("Q8_0")));
    assert_eq!(bench.find("pub/two:Q2_K"), None);
    assert_eq!(bench.find("two"), None);
    let plan = bench.store.plan_deletion(&[part("Q8_0")]).unwrap();
    assert_eq!(bench.relative(&plan), ["pub/two/m-Q8_0.gguf"]);
    let kept: Vec<_> = plan.keep.iter().map(|kept| kept.because.as_str()).collect();
    assert!(kept.contains(&"also used by m-Q4_K_M.gguf") && kept.contains(&"was not asked for"), "{kept:?}");
    bench.run_and_hold(&plan);
    let plan = bench.store.plan_deletion(&[part("Q4_K_M")]).unwrap();
    assert_eq!(bench.relative(&plan), ["pub/two/m-Q4_K_M.gguf", "pub/two/mmproj-m.gguf"]);
    bench.run_and_hold(&plan);
    let gone = bench.delete(&["pub/two", "pub/shards"]);
    assert!(gone.iter().any(|path| path == "pub/two/empty"), "{gone:?}");
    assert!(bench.root.join("pub/.DS_Store").exists(), "what is no model keeps the publisher's folder");
    let gone = bench.delete(&["begun/one"]);
    assert_eq!(gone, ["begun/one/downloading_b-Q4_0.gguf.part", "begun/one", "begun"]);
}

#[test]
fn lm_studio_links_to_what_goes_are_told() {
    let bench = Bench::lm_studio(|root| {
        put(root.join("a/a/x.gguf"), &small_gguf(2, 9, 1));
        fs::create_dir_all(root.join("b/b")).unwrap();
        symlink("../../a/a/x.gguf", root.join("b/b/y.gguf")).unwrap();
        fs::hard_link(root.join("a/a/x.gguf"), root.join("b/b/z.gguf")).unwrap();
    });
    let plan = bench.plan(&["a/a"]);
    assert_eq!(plan.breaks.len(), 1);
    assert_eq!(plan.breaks[0].path, bench.root.join("b/b/y.gguf"));
    assert!(
        plan.keep.iter().any(|kept| kept.path.ends_with("b/b/z.gguf") && kept.because.starts_with("is another name"))
    );
    assert_eq!(plan.expected_bytes, 0);
    every_row_and_pair(|| {
        Bench::lm_studio(|root| {
            put(root.join("a/a/x.gguf"), &small_gguf(2, 9, 1));
            fs::create_dir_all(root.join("a/b")).unwrap();
            fs::hard_link(root.join("a/a/x.gguf"), root.join("a/b/z.gguf")).unwrap();
        })
    });
}

// llama.cpp

fn manifest(weights: &str, bytes: &[u8], companion: Option<(&str, &[u8])>) -> Vec<u8> {
    let file = |name: &str, bytes: &[u8]| {
        let (size, sha256) = (bytes.len(), sha256(bytes));
        format!(r#"{{"rfilename":"{name}","size":{size},"lfs":{{"sha256":"{sha256}","size":{size}}}}}"#)
    };
    let companion =
        companion.map_or_else(String::new, |(name, bytes)| format!(r#","mmprojFile":{}"#, file(name, bytes)));
    format!(r#"{{"ggufFile":{}{companion}}}"#, file(weights, bytes)).into_bytes()
}

/// Two quantizations of one repository that share a projector, shards, a file by its address, leftovers, the hub form beside.
fn llama_cpp() -> Bench {
    Bench::llama_cpp(|root| {
        let put = |path: &str, bytes: &[u8]| put(root.join(path), bytes);
        let (q4, q8, projector) = (small_gguf(15, 100, 1), small_gguf(7, 200, 2), small_gguf(1, 20, 3));
        put("o_r_m-Q4_K_M.gguf", &q4);
        put("o_r_m-Q4_K_M.gguf.etag", b"\"x\"");
        put("o_r_m-Q8_0.gguf", &q8);
        put("o_r_m-Q8_0.gguf.json", br#"{"url":"https://huggingface.co/o/r/resolve/main/m-Q8_0.gguf"}"#);
        put("o_r_mmproj-m.gguf", &projector);
        put("o_r_mmproj-m.gguf.etag", b"\"y\"");
        put("manifest=o=r=latest.json", &manifest("m-Q4_K_M.gguf", &q4, Some(("mmproj-m.gguf", &projector))));
        put("manifest=o=r=Q4_K_M.json", &manifest("m-Q4_K_M.gguf", &q4, Some(("mmproj-m.gguf", &projector))));
        put("manifest=o=r=Q8_0.json", &manifest("m-Q8_0.gguf", &q8, Some(("mmproj-m.gguf", &projector))));
        let first = small_gguf(15, 50, 4);
        put("o_s_Q4_s-00001-of-00002.gguf", &first);
        put("o_s_Q4_s-00002-of-00002.gguf", &small_gguf(15, 60, 5));
        put("o_s_Q4_s-00001-of-00002.gguf.etag", b"\"z\"");
        put("manifest=o=s=latest.json", &manifest("Q4/s-00001-of-00002.gguf", &first, None));
        put("plain.gguf", &small_gguf(2, 30, 6));
        put("plain.gguf.json", br#"{"url":"https://huggingface.co/p/q/resolve/main/plain.gguf","etag":"x"}"#);
        put("begun.gguf.downloadInProgress", &[0; 9000]);
        put("mmproj-lone.gguf", &small_gguf(1, 8, 7));
        put("gone.gguf.etag", b"\"\"");
        put("manifest=o=gone=latest.json", &manifest("gone.gguf", b"", None));
        put("notes.txt", b"x");
        put("models--o--r/blobs/x", &[0; 5000]);
    })
}

#[test]
fn llama_cpp_rows() {
    let bench = llama_cpp();
    assert_eq!(bench.ids(), ["begun", "mmproj-lone", "o_r_m-Q4_K_M", "o_r_m-Q8_0", "o_s_Q4_s", "plain"]);
    let q4 = bench.row("o_r_m-Q4_K_M");
    assert_eq!((q4.reference.as_deref(), q4.quantization_label().as_str(), q4.file_count), (Some("o/r"), "Q4_K_M", 2));
    assert!(q4.complete && q4.warnings.is_empty(), "{:?}", q4.warnings);
    let on_disk = |name: &str| blocks(&bench.root.join(name));
    let own: u64 =
        ["o_r_m-Q4_K_M.gguf", "o_r_m-Q4_K_M.gguf.etag", "manifest=o=r=latest.json", "manifest=o=r=Q4_K_M.json"]
            .map(on_disk)
            .iter()
            .sum();
    assert_eq!(q4.reclaimable_bytes, own, "the projector is also the other one's");
    assert_eq!(q4.disk_bytes, own + on_disk("o_r_mmproj-m.gguf") + on_disk("o_r_mmproj-m.gguf.etag"));
    assert_eq!(bench.row("plain").reference.as_deref(), Some("p/q"));
    assert_eq!(bench.row("o_s_Q4_s").file_count, 2);
    assert!(!bench.row("begun").complete);
    assert_eq!(bench.row("mmproj-lone").kind, ModelKind::Other);
    let (_, summary) = bench.scan();
    let hub_form = on_disk("models--o--r/blobs/x");
    assert_eq!(summary.disk_bytes, bench.used() - hub_form, "the hub form is another store");
}

#[test]
fn llama_cpp_every_row_and_pair() {
    every_row_and_pair(llama_cpp);
}

#[test]
fn llama_cpp_stopped_anywhere() {
    stopped_anywhere_nothing_else_breaks(llama_cpp, false);
}

#[test]
fn llama_cpp_sidecars_go_along_and_shared_projectors_with_the_last() {
    let bench = llama_cpp();
    let plan = bench.plan(&["o_r_m-Q4_K_M"]);
    let paths = bench.relative(&plan);
    assert_eq!(
        paths,
        ["manifest=o=r=Q4_K_M.json", "manifest=o=r=latest.json", "o_r_m-Q4_K_M.gguf.etag", "o_r_m-Q4_K_M.gguf",]
    );
    assert_eq!(plan.keep.len(), 1);
    assert_eq!(plan.keep[0].because, "also used by o_r_m-Q8_0");
    bench.run_and_hold(&plan);
    let gone = bench.delete(&["o_r_m-Q8_0"]);
    assert!(gone.contains(&"o_r_mmproj-m.gguf".to_owned()) && gone.contains(&"o_r_mmproj-m.gguf.etag".to_owned()));
    let gone = bench.delete(&["o_s_Q4_s"]);
    assert_eq!(gone.last().unwrap(), "o_s_Q4_s-00002-of-00002.gguf", "the first shard goes first: {gone:?}");
    bench.delete(&["begun", "plain", "mmproj-lone"]);
    assert!(bench.root.join("notes.txt").exists() && bench.root.join("models--o--r/blobs/x").exists());
}

#[test]
fn llama_cpp_checksums_come_from_manifests_only() {
    let bench = llama_cpp();
    use FileStatus::{Corrupt, NoChecksum, Ok};
    let status = |id: &str| bench.check(id, Depth::Full).1;
    assert_eq!(status("o_r_m-Q4_K_M")["o_r_m-Q4_K_M.gguf"], Ok);
    assert_eq!(status("o_r_m-Q4_K_M")["o_r_mmproj-m.gguf"], Ok);
    let shards = status("o_s_Q4_s");
    assert_eq!(shards["o_s_Q4_s-00001-of-00002.gguf"], Ok);
    assert_eq!(shards["o_s_Q4_s-00002-of-00002.gguf"], NoChecksum);
    assert_eq!(status("plain")["plain.gguf"], NoChecksum);
    let path = bench.root.join("o_r_m-Q8_0.gguf");
    let mut bytes = fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(path, bytes).unwrap();
    assert_eq!(status("o_r_m-Q8_0")["o_r_m-Q8_0.gguf"], Corrupt);
    fs::remove_file(bench.root.join("o_s_Q4_s-00002-of-00002.gguf")).unwrap();
    assert_eq!(status("o_s_Q4_s")["o_s_Q4_s-00002-of-00002.gguf"], FileStatus::Missing);
    assert!(!bench.row("o_s_Q4_s").complete);
}

#[test]
fn llama_cpp_a_manifest_never_makes_weights_part_of_another_model() {
    let bench = Bench::llama_cpp(|root| {
        let (a, b) = (small_gguf(2, 9, 1), small_gguf(2, 9, 2));
        put(root.join("o_r_a.gguf"), &a);
        put(root.join("o_r_b.gguf"), &b);
        put(root.join("manifest=o=r=x.json"), &manifest("a.gguf", &a, Some(("b.gguf", &b))));
        put(root.join("manifest=o=r=y.json"), &manifest("../../etc/passwd", &a, Some(("../b.gguf", &b))));
        put(root.join("manifest=o=r=z.json"), b"[[[[");
        pipe(&root.join("manifest=o=r=pipe.json"));
        pipe(&root.join("pipe.gguf"));
    });
    assert_eq!(bench.ids(), ["o_r_a", "o_r_b"]);
    assert_eq!(bench.delete(&["o_r_a"]), ["manifest=o=r=x.json", "o_r_a.gguf"]);
    assert!(bench.row("o_r_b").complete);
}

#[test]
fn llama_cpp_files_of_one_stem_have_ids_of_their_own() {
    let bench = Bench::llama_cpp(|root| {
        put(root.join("m.gguf"), &small_gguf(2, 9, 1));
        put(root.join("m-00001-of-00001.gguf"), &small_gguf(2, 9, 2));
        put(root.join("m.gguf.gguf"), &small_gguf(2, 9, 3));
    });
    assert_eq!(bench.ids(), ["m-00001-of-00001.gguf", "m.gguf", "m.gguf.gguf"]);
    assert_eq!(bench.delete(&["m.gguf"]), ["m.gguf"]);
}

// Names and rights

#[test]
fn names_are_bytes_in_every_store() {
    let odd = OsStr::from_bytes(b"o\xff\n\x1b[31m-Q4_0.gguf");
    let benches = [
        Bench::lm_studio(|root| {
            put(root.join("p").join(OsStr::from_bytes(b"r\xfe")).join(odd), &small_gguf(2, 9, 1));
            put(root.join("imported-models/uncategorized").join(odd), &small_gguf(2, 9, 2));
        }),
        Bench::llama_cpp(|root| {
            put(root.join(odd), &small_gguf(2, 9, 1));
            let mut etag = odd.to_owned();
            etag.push(".etag");
            put(root.join(etag), b"x");
        }),
        Bench::ollama(|store| {
            let weights = small_gguf(2, 9, 1);
            let manifest = store.manifest(&Ollama::config("Q4_0"), &[("model", &weights)]);
            put(store.0.join("manifests/registry.ollama.ai/library/m").join(odd), &manifest);
        }),
    ];
    for bench in benches {
        let ids = bench.ids();
        for id in &ids {
            let row = bench.row(id);
            assert!(id.contains("\\xf") && !row.label().contains('\u{1b}'), "{id}");
            assert!(!row.warnings.iter().any(|line| line.contains(['\n', '\u{1b}'])), "{:?}", row.warnings);
            assert!(bench.check(id, Depth::Full).0);
        }
        bench.delete(&ids.iter().map(String::as_str).collect::<Vec<_>>());
        assert!(bench.ids().is_empty());
        assert_eq!(bench.used(), 0);
    }
}

#[test]
fn stores_that_are_missing_or_no_folder_have_no_rows_and_do_not_fail() {
    let scratch = tempfile::tempdir().unwrap();
    put(scratch.path().join("file"), b"x");
    let stores = |path: &Path| -> Vec<Box<dyn Store>> {
        vec![Box::new(OllamaStore::new(path)), Box::new(LmStudioStore::new(path)), Box::new(LlamaCppStore::new(path))]
    };
    for store in stores(&scratch.path().join("missing")) {
        let summary = store.scan(&mut |_| panic!("a row"), &CancellationToken::new());
        assert_eq!((summary.models, summary.warnings.len()), (0, 0));
        assert!(matches!(store.details("x"), Err(Error::ModelNotFound { .. })));
        assert!(matches!(store.plan_deletion(&[whole("x")]), Err(Error::ModelNotFound { .. })));
        assert_eq!(store.find(&Reference::parse("x").unwrap()).unwrap(), None);
    }
    for store in stores(&scratch.path().join("file")) {
        let summary = store.scan(&mut |_| panic!("a row"), &CancellationToken::new());
        assert_eq!((summary.models, summary.warnings.len()), (0, 1));
    }
}

#[test]
fn a_cancelled_scan_ends() {
    for bench in [ollama(), lm_studio(), llama_cpp()] {
        let cancel = CancellationToken::new();
        let mut rows = 0;
        let mut sink = |_| {
            rows += 1;
            cancel.cancel();
        };
        bench.store.scan(&mut sink, &cancel);
        assert_eq!(rows, 1);
    }
}

/// What a user without rights sees of the folders in the variable, as a list of rows and steps.
const CLOSED: &str = "LLORCH_TEST_CLOSED_FOLDER";

#[test]
fn seen_by_another_user() {
    let Some(folder) = std::env::var_os(CLOSED) else { return };
    let folder = Path::new(&folder);
    let stores: [Box<dyn Store>; 2] =
        [Box::new(LmStudioStore::new(&folder.join("lm"))), Box::new(OllamaStore::new(&folder.join("ollama")))];
    for store in stores {
        let mut ids = Vec::new();
        let summary =
            store.scan(&mut |row| ids.push((row.model.identity.id, row.model.complete)), &CancellationToken::new());
        println!("seen {}: {ids:?} {:?}", store.kind(), summary.warnings.len());
        for (id, _) in ids {
            let plan = store.plan_deletion(&[whole(&id)]).unwrap();
            println!("plan {id}: {} steps, {} blocked", plan.steps.len(), plan.blocked.len());
        }
    }
}

#[test]
fn what_cannot_be_read_is_unknown_not_empty() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let top = scratch.path().canonicalize().unwrap();
    put(top.join("lm/p/closed/m.gguf"), &small_gguf(2, 9, 1));
    put(top.join("lm/p/open/m.gguf"), &small_gguf(2, 9, 2));
    put(top.join("lm/p/half/sub/m.gguf"), &small_gguf(2, 9, 3));
    let store = Ollama(top.join("ollama"));
    let weights = small_gguf(2, 9, 1);
    store.tag("library/a/x", &store.manifest(&Ollama::config("Q4_0"), &[("model", &weights)]));
    store.tag("library/b/x", &store.manifest(&Ollama::config("Q4_0"), &[("license", b"?")]));
    for path in walkdir::WalkDir::new(&top).into_iter().map(|entry| entry.unwrap().into_path()) {
        std::os::unix::fs::lchown(path, Some(65534), Some(65534)).unwrap();
    }
    let b = top.join("ollama/manifests/registry.ollama.ai/library/b");
    for closed in [top.join("lm/p/closed"), top.join("lm/p/half/sub"), b] {
        fs::set_permissions(closed, fs::Permissions::from_mode(0o000)).unwrap();
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "seen_by_another_user", "--nocapture"])
        .env(CLOSED, &top)
        .uid(65534)
        .gid(65534)
        .current_dir("/")
        .output();
    let Ok(output) = output else { return };
    let output = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.contains("seen ") {
        return;
    }
    for line in [
        r#"seen lmstudio: [("p/closed", false), ("p/half", false), ("p/open", true)] 0"#,
        "plan p/closed: 0 steps, 1 blocked",
        "plan p/half: 0 steps, 1 blocked",
        "plan p/open: 2 steps, 0 blocked",
        r#"seen ollama: [("a:x", true)] 1"#,
        // The name and its folder.
        "plan a:x: 2 steps, 0 blocked",
    ] {
        assert!(output.contains(line), "{line}\n{output}");
    }
}

// Together on one host

#[test]
fn stores_are_found_at_their_places_and_only_where_they_are() {
    let scratch = tempfile::tempdir().unwrap();
    let top = scratch.path().canonicalize().unwrap();
    let home = top.join("home");
    let found = |variables: &[(&'static str, PathBuf)]| -> Vec<String> {
        let pairs = [("HOME", home.clone())].into_iter().chain(variables.iter().cloned());
        let mut settings = Settings::load(&Environment::from_pairs(pairs), "host", None).unwrap();
        settings.paths.system = top.join("system");
        let own = FlatStore::new(settings.models_dir.clone(), Vec::new());
        let stores = provisioner::stores(&own, &settings);
        let label =
            |store: &Arc<dyn Store>| format!("{}:{}", store.kind(), store.root().strip_prefix(&top).unwrap().display());
        stores.iter().skip(1).map(label).collect()
    };
    assert_eq!(found(&[]), [""; 0]);
    for folder in [
        "home/.ollama/models",
        "home/.lmstudio/models",
        "home/.cache/llama.cpp",
        "system/usr/share/ollama/.ollama/models",
        "data/ollama",
        "data/llama",
    ] {
        fs::create_dir_all(top.join(folder)).unwrap();
    }
    let service = "ollama:system/usr/share/ollama/.ollama/models";
    let lm_studio = "lmstudio:home/.lmstudio/models";
    assert_eq!(found(&[]), ["ollama:home/.ollama/models", service, lm_studio, "llamacpp:home/.cache/llama.cpp"]);
    assert_eq!(
        found(&[("OLLAMA_MODELS", top.join("data/ollama")), ("LLAMA_CACHE", top.join("data/llama"))]),
        ["ollama:data/ollama", service, lm_studio, "llamacpp:data/llama"]
    );
}

#[test]
fn a_file_with_names_in_two_stores_comes_free_with_the_last_of_them() {
    let bench = Bench::ollama(|store| {
        let weights = small_gguf(2, 100, 1);
        let manifest = store.manifest(&Ollama::config("Q4_0"), &[("model", &weights)]);
        store.tag("library/a/x", &manifest);
        store.tag("library/b/x", &manifest);
        let linked = store.0.join("../lm/p/r/m.gguf");
        fs::create_dir_all(linked.parent().unwrap()).unwrap();
        fs::hard_link(store.blob_path(&sha256(&weights)), linked).unwrap();
    });
    let stores: Vec<Arc<dyn Store>> =
        vec![Arc::new(OllamaStore::new(&bench.root)), Arc::new(LmStudioStore::new(&bench.top.join("lm")))];
    let inventory = Inventory::new(stores, Vec::new());
    let (rows, _) = inventory.scan_all(&CancellationToken::new());
    let ids: Vec<&str> = rows.iter().map(|row| row.model.identity.id.as_str()).collect();
    assert_eq!(ids, ["a:x", "b:x", "p/r"]);
    let weights = blocks(&bench.top.join("lm/p/r/m.gguf"));
    for (chosen, all) in [([0, 2].as_slice(), false), (&[1, 2], false), (&[0, 1], false), (&[0, 1, 2], true)] {
        let rows: Vec<&Row> = chosen.iter().map(|at| &rows[*at]).collect();
        let targets: Vec<PlanTarget> = rows.iter().map(|row| PlanTarget::whole(row.model.identity.clone())).collect();
        let plan = inventory.plan_deletion(&targets).unwrap();
        // Whatever comes first, the figures of several rows are those of the plan over them.
        assert_eq!(Totals::from_iter(rows.iter().copied()).reclaimable_bytes(), plan.expected_bytes, "{chosen:?}");
        assert_eq!(Totals::from_iter(rows.iter().rev().copied()).reclaimable_bytes(), plan.expected_bytes);
        assert_eq!(plan.expected_bytes >= weights, all, "{chosen:?}");
        if all {
            bench.run_and_hold(&plan);
            assert_eq!(bench.used(), 0);
        }
    }
}

#[test]
fn a_model_that_cannot_be_told_fails_its_own_check_and_no_other() {
    let bench = Bench::ollama(|store| drop(store.tag("library/bad/x", b"{")));
    let inventory = Inventory::new(vec![Arc::new(OllamaStore::new(&bench.root))], Vec::new());
    let (rows, _) = inventory.scan_all(&CancellationToken::new());
    let target = PlanTarget::whole(rows[0].model.identity.clone());
    let found = inventory.verify(&target, Depth::Quick, &mut |_| {}, &CancellationToken::new()).unwrap();
    assert!(!found.ok);
    assert_eq!(found.files.iter().map(|file| file.status).collect::<Vec<_>>(), [FileStatus::Unreadable]);
}

// Any Ollama store, any subset, any order

const TAGS: usize = 6;
const LAYERS: usize = 7;

/// What a random store is made of; making it twice gives the same store.
#[derive(Clone, Debug)]
struct Recipe {
    /// For each tag: how it is written, and its layers.
    tags: Vec<(usize, BTreeSet<usize>)>,
    /// Blobs that have a second name outside.
    linked: BTreeSet<usize>,
    /// Blobs that are gone.
    missing: BTreeSet<usize>,
    /// Tags to delete, in this order.
    delete: Vec<usize>,
}

fn recipe() -> impl Strategy<Value = Recipe> {
    let layers = prop::collection::btree_set(0..LAYERS, 1..4);
    (
        prop::collection::vec((0usize..8, layers), 1..=TAGS),
        prop::collection::btree_set(0..LAYERS, 0..2),
        prop::collection::btree_set(0..LAYERS, 0..2),
        Just((0..TAGS).collect::<Vec<_>>()).prop_shuffle(),
        1..=TAGS,
    )
        .prop_map(|(tags, linked, missing, mut delete, count)| {
            delete.retain(|tag| *tag < tags.len());
            delete.truncate(count);
            Recipe { tags, linked, missing, delete }
        })
}

fn layer_bytes(layer: usize) -> Vec<u8> {
    small_gguf(15, 10 * layer as u64 + 1, layer as u64)
}

fn build(recipe: &Recipe) -> Bench {
    Bench::ollama(|store| {
        for (tag, (form, layers)) in recipe.tags.iter().enumerate() {
            let bytes: Vec<Vec<u8>> = layers.iter().map(|layer| layer_bytes(*layer)).collect();
            let parts: Vec<(&str, &[u8])> = bytes.iter().map(|bytes| ("model", bytes.as_slice())).collect();
            let manifest = store.manifest(&Ollama::config("Q4_K_M"), &parts);
            let name = format!("library/m{tag}/x");
            match form {
                0 | 1 => drop(store.tag(&name, &manifest)),
                2 => drop(store.tag_v2(&name, &manifest, Form::Symlink)),
                3 => drop(store.tag_v2(&name, &manifest, Form::HardLink)),
                4 => drop(store.tag_v2(&name, &manifest, Form::Copy)),
                5 => {
                    store.tag(&name, &manifest);
                    store.tag_v2(&name, &manifest, Form::Symlink);
                }
                _ => {
                    // A conversion of it, whose shadow another tag of the same layers has too.
                    let converted = store.manifest(&Ollama::config("Q8_0"), &[("model", &layer_bytes(LAYERS))]);
                    let children = [store.blob(&manifest), store.blob(&converted)];
                    store.tag_v2(&name, &Ollama::list(&children), Form::Symlink);
                    store.tag(&format!("library/llamacpp/{}", children[1]), &converted);
                    if *form == 7 {
                        store.tag(&name, &store.manifest_with(&Ollama::config("Q4_K_M"), &parts, &children));
                    }
                }
            }
        }
        for layer in &recipe.linked {
            let blob = store.blob_path(&sha256(&layer_bytes(*layer)));
            if blob.exists() {
                fs::create_dir_all(store.0.join("../outside")).unwrap();
                fs::hard_link(blob, store.0.join(format!("../outside/{layer}"))).unwrap();
            }
        }
        for layer in &recipe.missing {
            let _ = fs::remove_file(store.blob_path(&sha256(&layer_bytes(*layer))));
        }
    })
}

/// Digests of the layers that the tags at those places need.
fn layers_of(recipe: &Recipe, tags: impl Iterator<Item = usize>) -> BTreeSet<String> {
    tags.flat_map(|tag| {
        let (form, layers) = &recipe.tags[tag];
        let converted = (*form >= 6).then_some(LAYERS);
        layers.iter().copied().chain(converted).map(|layer| sha256(&layer_bytes(layer))).collect::<Vec<_>>()
    })
    .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_subset_of_an_ollama_store_goes_in_any_order_and_nothing_else(recipe in recipe()) {
        let together = build(&recipe);
        let (rows, summary) = together.scan();
        let totals = Totals::from_iter(rows.values());
        prop_assert_eq!(totals.disk_bytes(), summary.disk_bytes, "everything here belongs to a row");
        let stays: BTreeSet<usize> = (0..recipe.tags.len()).filter(|tag| !recipe.delete.contains(tag)).collect();
        let ids: Vec<String> = recipe.delete.iter().map(|tag| format!("m{tag}:x")).collect();
        let names: Vec<&str> = ids.iter().map(String::as_str).collect();
        let was: Vec<_> = stays.iter().map(|tag| together.check(&format!("m{tag}:x"), Depth::Full)).collect();
        let plan = together.plan(&names);
        prop_assert_eq!(plan.expected_bytes, Totals::from_iter(names.iter().map(|id| &rows[*id])).reclaimable_bytes());
        let freed = together.run_and_hold(&plan);

        // By construction: what a tag that stays needs stays, what none needs any more is gone.
        let store = Ollama(together.root.clone());
        let missing: BTreeSet<String> = recipe.missing.iter().map(|layer| sha256(&layer_bytes(*layer))).collect();
        let needed = layers_of(&recipe, stays.iter().copied());
        for hex in layers_of(&recipe, 0..recipe.tags.len()) {
            prop_assert_eq!(store.blob_path(&hex).exists(), needed.contains(&hex) && !missing.contains(&hex));
        }
        for (tag, was) in stays.iter().zip(was) {
            prop_assert_eq!(together.check(&format!("m{tag}:x"), Depth::Full), was);
        }
        prop_assert_eq!(together.ids(), stays.iter().map(|tag| format!("m{tag}:x")).collect::<Vec<_>>());
        if stays.is_empty() {
            prop_assert_eq!(together.scan().1.disk_bytes, 0);
        }

        let stepwise = build(&recipe);
        let sum: u64 = names.iter().map(|id| stepwise.run_and_hold(&stepwise.plan(&[id]))).sum();
        prop_assert_eq!(sum, freed);
        let paths = |bench: &Bench| -> Vec<PathBuf> {
            bench.picture().into_keys().map(|path| path.strip_prefix(&bench.top).unwrap().to_owned()).collect()
        };
        prop_assert_eq!(paths(&stepwise), paths(&together));
    }
}

#[test]
fn what_lies_beside_safetensors_is_told_in_lm_studio_as_well() {
    let header = br#"{"w":{"dtype":"BF16","shape":[2,4],"data_offsets":[0,16]}}"#;
    let weights = [&(header.len() as u64).to_le_bytes()[..], header, &[0; 16]].concat();
    let bench = Bench::lm_studio(|root| {
        put(root.join("p/m/model.safetensors"), &weights);
        put(root.join("p/m/tokenizer_config.json"), br#"{"tokenizer_class":"LlamaTokenizer","chat_template":"x"}"#);
        put(root.join("p/m/README.md"), b"---\nlicense: mit\n---\n");
    });
    let metadata = bench.store.details("p/m").unwrap().metadata.unwrap();
    assert_eq!((metadata.tokenizer.as_deref(), metadata.chat_template), (Some("LlamaTokenizer"), Some(true)));
    assert_eq!(metadata.licence.as_deref(), Some("mit"));
}
