//! Folders of the flat store that only group models: `BASE/org/name` is a row, `BASE/org` is none.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use proptest::prelude::*;
use rbee_hive::Error;
use rbee_hive::disk::deletion::{self, Decision, Hook, NoHook};
use rbee_hive::model::selector::Selector;
use rbee_hive::model::{DeletionReport, FileStatus, Model, ModelKind, Plan, Reference, RepoPath, Step, StoreSummary};
use rbee_hive::provisioner::{Inventory, ModelProvisioner};
use rbee_hive::store::flat::{FlatStore, MAX_DEPTH, Record, sidecar};
use rbee_hive::store::sweep::SweepContext;
use rbee_hive::store::verify::{self, Depth};
use rbee_hive::store::{Part, Store, Target};
use support::stores::{put, sha256, small_gguf};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

struct Bench {
    _scratch: TempDir,
    base: PathBuf,
    store: FlatStore,
}

impl Bench {
    fn new() -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let base = scratch.path().canonicalize().unwrap().join("models");
        fs::create_dir(&base).unwrap();
        let store = FlatStore::new(base.clone(), Vec::new());
        Self { _scratch: scratch, base, store }
    }

    fn put(&self, path: impl AsRef<Path>, bytes: &[u8]) -> PathBuf {
        put(self.base.join(path), bytes)
    }

    fn gguf(&self, path: &str) -> PathBuf {
        let file_type = if path.contains("Q5_K_M") { 17 } else { 15 };
        self.put(path, &small_gguf(file_type, 16, path.len() as u64))
    }

    /// As `hf download --local-dir` leaves it.
    fn fetched(&self, folder: &str, file: &str) {
        let path = self.gguf(&format!("{folder}/{file}"));
        let digest = sha256(&fs::read(path).unwrap());
        sidecar::write(&self.base.join(folder), &RepoPath::parse(file).unwrap(), &"c".repeat(40), &digest).unwrap();
    }

    fn record(&self, folder: &str, repository: &str) {
        let record = Record {
            version: Record::VERSION,
            endpoint: "https://huggingface.co".to_owned(),
            repository: repository.to_owned(),
            revision: "main".to_owned(),
            commit: "c".repeat(40),
            files: Vec::new(),
        };
        record.merge(&self.base.join(folder), &[]).unwrap();
    }

    /// What the operator has: two models of one organization, each with two quantizations.
    fn acme() -> Self {
        let bench = Self::new();
        for name in ["m1-GGUF", "m2-GGUF"] {
            bench.fetched(&format!("acmeorg/{name}"), "x-Q4_K_M.gguf");
            bench.fetched(&format!("acmeorg/{name}"), "x-Q5_K_M.gguf");
            bench.put(format!("acmeorg/{name}/config.json"), b"{}");
        }
        bench
    }

    fn scan(&self) -> (BTreeMap<String, Model>, StoreSummary) {
        let mut rows = BTreeMap::new();
        let mut sink = |row: rbee_hive::store::Row| {
            assert!(rows.insert(row.model.identity.id.clone(), row.model).is_none());
        };
        let summary = self.store.scan(&mut sink, &CancellationToken::new());
        assert_eq!(summary.models, rows.len() as u64);
        (rows, summary)
    }

    fn ids(&self) -> Vec<String> {
        self.scan().0.into_keys().collect()
    }

    fn meaning(&self, text: &str) -> String {
        match self.store.resolve(&Reference::parse(text).unwrap()).unwrap() {
            None => "-".to_owned(),
            Some(resolved) => match resolved.part {
                Part::Whole => resolved.id,
                Part::Quantization(label) => format!("{}:{label}", resolved.id),
                part => format!("{} {part:?}", resolved.id),
            },
        }
    }

    fn target_folder(&self, text: &str) -> String {
        let folder = self.store.target_folder(&Reference::parse(text).unwrap(), text).unwrap();
        folder.strip_prefix(&self.base).unwrap().to_str().unwrap().to_owned()
    }

    fn plan(&self, ids: &[&str]) -> Plan {
        let targets: Vec<Target> = ids.iter().map(|id| whole(id)).collect();
        self.store.plan_deletion(&targets).unwrap()
    }

    fn going(&self, plan: &Plan) -> Vec<String> {
        let paths = plan.steps.iter().map(Step::path);
        paths.map(|path| path.strip_prefix(&self.base).unwrap().to_str().unwrap().to_owned()).collect()
    }

    fn inventory(&self, protect: &[&str]) -> Inventory {
        let protect = protect.iter().map(|&pattern| pattern.to_owned()).collect();
        Inventory::new(vec![Arc::new(self.store.clone()) as Arc<dyn Store>], protect)
    }
}

fn whole(id: &str) -> Target {
    Target { id: id.to_owned(), part: Part::Whole }
}

fn run(plan: &Plan) -> DeletionReport {
    run_with(plan, &mut NoHook)
}

fn run_with(plan: &Plan, hook: &mut dyn Hook) -> DeletionReport {
    deletion::run(plan, hook, &|_| false, &mut |_, _| {}, &CancellationToken::new())
}

/// Blocks of every regular file below a folder, once each.
fn blocks(folder: &Path) -> u64 {
    fn walk(folder: &Path, seen: &mut BTreeMap<u64, u64>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let status = fs::symlink_metadata(&path).unwrap();
            if status.is_dir() {
                walk(&path, seen);
            } else if status.is_file() {
                seen.insert(status.ino(), status.blocks() * 512);
            }
        }
    }
    let mut seen = BTreeMap::new();
    walk(folder, &mut seen);
    seen.values().sum()
}

// Which folders are groups

#[test]
fn models_of_one_organization_are_rows_of_their_own() {
    let bench = Bench::acme();
    bench.put("acmeorg/README.md", &[b'x'; 5000]);
    bench.put("acmeorg/.git/pack", &[b'x'; 9000]);
    bench.gguf("plain/m.gguf");
    let (rows, summary) = bench.scan();
    assert_eq!(rows.keys().collect::<Vec<_>>(), ["acmeorg/m1-GGUF", "acmeorg/m2-GGUF", "plain"]);
    let row = &rows["acmeorg/m1-GGUF"];
    assert_eq!(row.path, bench.base.join("acmeorg/m1-GGUF"));
    assert_eq!(row.quantization_label(), "Q4_K_M,Q5_K_M");
    assert_eq!((row.file_count, row.complete), (3, true));
    assert_eq!(row.disk_bytes, blocks(&row.path));
    assert_eq!(summary.disk_bytes, blocks(&bench.base), "what lies beside the rows takes room all the same");
    let details = bench.store.details("acmeorg/m1-GGUF").unwrap();
    assert_eq!(details.files[0].path, "x-Q4_K_M.gguf");
    assert!(details.files[0].sha256.is_some(), "its own metadata is trusted");
}

/// Makes a model in a folder.
type Make<'a> = &'a dyn Fn(&Bench, &str);

#[test]
fn each_kind_of_evidence_makes_a_group() {
    let by: [(&str, Make<'_>); 5] = [
        ("metadata", &|bench, folder| bench.fetched(folder, "x.gguf")),
        ("old metadata", &|bench, folder| {
            bench.gguf(&format!("{folder}/x.gguf"));
            bench.put(format!("{folder}/.huggingface/download/x.gguf.metadata"), b"c\ne\n1\n");
        }),
        ("record", &|bench, folder| {
            bench.gguf(&format!("{folder}/x.gguf"));
            bench.record(folder, &format!("else/{folder}").replace("o/", ""));
        }),
        ("config", &|bench, folder| {
            bench.put(format!("{folder}/model.safetensors"), b"x");
            bench.put(format!("{folder}/config.json"), b"{}");
        }),
        ("ending", &|bench, folder| {
            bench.gguf(&format!("{folder}-gguf/deep/x.gguf"));
        }),
    ];
    for (what, make) in by {
        let bench = Bench::new();
        make(&bench, "o/a b");
        make(&bench, "o/c");
        assert_eq!(bench.ids().len(), 2, "{what}: {:?}", bench.ids());
        assert!(bench.ids().iter().all(|id| id.starts_with("o/")), "{what}");
        // Alone it needs more than metadata, which names no repository.
        let bench = Bench::new();
        make(&bench, "o/a b");
        if what.ends_with("metadata") {
            assert_eq!(bench.ids(), ["o"], "{what}");
        } else {
            assert!(bench.ids()[0].starts_with("o/a b"), "{what}: {:?}", bench.ids());
        }
    }
    let bench = Bench::new();
    bench.gguf("o/a/x.gguf");
    bench.record("o/a", "else/other");
    assert_eq!(bench.ids(), ["o"], "the record of another repository is no evidence for one alone");
}

#[test]
fn everything_else_stays_one_row() {
    let one: [(&str, &[&str]); 19] = [
        ("quantizations", &["n/Q4_K_M/x.gguf", "n/Q8_0/x.gguf"]),
        ("shards", &["n/BF16/x-00001-of-00002.gguf", "n/BF16/x-00002-of-00002.gguf"]),
        ("a quantization with metadata", &["n/Q4_K_M/x.gguf", "n/Q4_K_M/.cache/huggingface/.gitignore"]),
        ("a conversion", &["n/pytorch/model.safetensors", "n/pytorch/config.json"]),
        ("exports", &["n/onnx/model.onnx", "n/onnx/config.json", "n/original/consolidated.pth"]),
        (
            "diffusers",
            &[
                "n/model_index.json",
                "n/unet/config.json",
                "n/unet/x.safetensors",
                "n/vae/config.json",
                "n/vae/x.safetensors",
            ],
        ),
        (
            "diffusers without index",
            &[
                "n/unet/config.json",
                "n/unet/x.safetensors",
                "n/text_encoder_2/config.json",
                "n/text_encoder_2/x.safetensors",
            ],
        ),
        ("a file of its own", &["n/a-GGUF/x.gguf", "n/b-GGUF/x.gguf", "n/notes.bin"]),
        ("a partial of its own", &["n/a-GGUF/x.gguf", "n/b-GGUF/x.gguf", "n/y.gguf.0123456789abcdef.llorch"]),
        ("metadata of its own", &["n/a-GGUF/x.gguf", "n/b-GGUF/x.gguf", "n/.cache/huggingface/download/a.metadata"]),
        ("a record of its own", &["n/a-GGUF/x.gguf", "n/b-GGUF/x.gguf", "n/.cache/llorch-models/source.json"]),
        ("one without evidence", &["n/a-GGUF/x.gguf", "n/mystery/x.gguf"]),
        ("no evidence", &["n/a/x.gguf", "n/b/x.gguf"]),
        ("three levels", &["n/team/a-GGUF/x.gguf", "n/team/b-GGUF/x.gguf"]),
        (
            "checkpoints",
            &[
                "n/checkpoint-5/config.json",
                "n/checkpoint-5/x.safetensors",
                "n/checkpoint-9/config.json",
                "n/checkpoint-9/x.safetensors",
            ],
        ),
        (
            "a clone of several parts",
            &[
                "n/README.md",
                "n/first/config.json",
                "n/first/x.safetensors",
                "n/second/config.json",
                "n/second/x.safetensors",
            ],
        ),
        ("a history", &["n/.git/HEAD", "n/a-GGUF/x.gguf", "n/b-GGUF/x.gguf"]),
        (
            "towers",
            &[
                "n/language_model/config.json",
                "n/language_model/x.safetensors",
                "n/vision_tower/config.json",
                "n/vision_tower/x.safetensors",
            ],
        ),
        ("a cache", &["n/models--o--a-GGUF/snapshots/c/x.gguf", "n/models--o--b-GGUF/snapshots/c/x.gguf"]),
    ];
    for (what, files) in one {
        let bench = Bench::new();
        for file in files {
            bench.put(file, b"x");
        }
        assert_eq!(bench.ids(), ["n"], "{what}");
        assert_eq!(bench.scan().1.disk_bytes, blocks(&bench.base), "{what}");
        let plan = bench.plan(&["n"]);
        assert!(run(&plan).failed.is_empty());
        assert_eq!(fs::read_dir(&bench.base).unwrap().count(), 0, "{what}");
    }
}

#[test]
fn what_holds_no_weights_is_a_row_beside_the_models() {
    let bench = Bench::acme();
    bench.put("acmeorg/notes/todo.txt", b"x");
    fs::create_dir(bench.base.join("acmeorg/empty")).unwrap();
    symlink("/nowhere", bench.base.join("acmeorg/elsewhere")).unwrap();
    let rows = bench.scan().0;
    assert_eq!(
        rows.keys().collect::<Vec<_>>(),
        ["acmeorg/elsewhere", "acmeorg/empty", "acmeorg/m1-GGUF", "acmeorg/m2-GGUF", "acmeorg/notes"]
    );
    assert_eq!(rows["acmeorg/notes"].kind, ModelKind::Other);
    assert_eq!(bench.going(&bench.plan(&["acmeorg/elsewhere"])), ["acmeorg/elsewhere"]);
    assert_eq!(bench.going(&bench.plan(&["acmeorg/empty"])), ["acmeorg/empty"]);
    let links = bench.store.links();
    assert_eq!(links.iter().map(|link| link.id.as_str()).collect::<Vec<_>>(), ["acmeorg/elsewhere"]);
}

#[test]
fn hostile_ids_and_links_lead_nowhere() {
    let bench = Bench::acme();
    let outside = bench.base.parent().unwrap().join("outside/a-GGUF");
    put(outside.join("x.gguf"), b"x");
    symlink(outside.parent().unwrap(), bench.base.join("linked")).unwrap();
    symlink("..", bench.base.join("acmeorg/up")).unwrap();
    symlink("loop", bench.base.join("acmeorg/loop")).unwrap();
    for id in [
        "linked/a-GGUF",
        "acmeorg/",
        "/acmeorg",
        "acmeorg//m1-GGUF",
        "acmeorg/m1-GGUF/",
        "acmeorg/../acmeorg",
        "acmeorg/.",
        "acmeorg/m1-GGUF/x-Q4_K_M.gguf",
        "acmeorg/up/acmeorg",
        "./acmeorg",
        "acmeorg/.cache",
        "acmeorg/config.json",
    ] {
        assert!(matches!(bench.store.details(id), Err(Error::ModelNotFound { .. })), "{id}");
        assert!(matches!(bench.store.plan_deletion(&[whole(id)]), Err(Error::ModelNotFound { .. })), "{id}");
    }
    assert_eq!(bench.going(&bench.plan(&["acmeorg/up", "acmeorg/loop"])), ["acmeorg/loop", "acmeorg/up"]);
    let plan = bench.plan(&["acmeorg/loop", "acmeorg/m1-GGUF", "acmeorg/m2-GGUF", "acmeorg/up"]);
    assert_eq!(run(&plan).failed, []);
    assert!(outside.join("x.gguf").exists() && !bench.base.join("acmeorg").exists());
}

#[test]
fn a_model_in_a_group_may_be_as_deep_as_any_other() {
    let bench = Bench::new();
    let deep = |model: &str, folders: usize| format!("{model}/{}x.gguf", "d/".repeat(folders));
    for model in ["plain", "o/a-GGUF"] {
        bench.gguf(&format!("{model}/x.gguf"));
        bench.gguf(&deep(model, MAX_DEPTH - 1));
    }
    let rows = bench.scan().0;
    for id in ["plain", "o/a-GGUF"] {
        assert_eq!((rows[id].file_count, rows[id].complete), (2, true), "{id}: {:?}", rows[id].warnings);
    }
    bench.gguf(&deep("o/a-GGUF", MAX_DEPTH));
    let row = bench.scan().0.remove("o/a-GGUF").unwrap();
    assert!(!row.complete && row.warnings.iter().any(|line| line.contains("folders deep")), "{:?}", row.warnings);
    let plan = bench.plan(&["o/a-GGUF"]);
    assert!(!plan.blocked.is_empty() && bench.going(&plan).iter().all(|path| path.ends_with(".gguf")));
}

/// Runs one test of this file again in a child that has no rights.
fn as_nobody(test: &str) {
    let program = tempfile::Builder::new().prefix("flat-groups-").tempdir().unwrap();
    fs::set_permissions(program.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let copy = program.path().join("tests");
    fs::copy(std::env::current_exe().unwrap(), &copy).unwrap();
    let output = Command::new(copy).args(["--exact", test]).uid(65_534).gid(65_534).current_dir("/").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

#[test]
fn what_cannot_be_read_is_a_row_with_its_reason() {
    let bench = Bench::acme();
    bench.gguf("acmeorg/secret/x.gguf");
    bench.gguf("acmeorg/partly-GGUF/x.gguf");
    bench.gguf("acmeorg/partly-GGUF/inner/x.gguf");
    bench.gguf("quants/a-GGUF/x.gguf");
    bench.gguf("quants/Q4_K_M/x.gguf");
    let lock = |path: &str, mode: u32| {
        fs::set_permissions(bench.base.join(path), fs::Permissions::from_mode(mode)).unwrap();
    };
    let closed = ["acmeorg/secret", "acmeorg/partly-GGUF/inner", "quants/Q4_K_M"];
    closed.iter().for_each(|path| lock(path, 0o000));
    if fs::read_dir(bench.base.join("acmeorg/secret")).is_ok() {
        as_nobody("what_cannot_be_read_is_a_row_with_its_reason");
    } else {
        let rows = bench.scan().0;
        assert_eq!(
            rows.keys().collect::<Vec<_>>(),
            ["acmeorg/m1-GGUF", "acmeorg/m2-GGUF", "acmeorg/partly-GGUF", "acmeorg/secret", "quants"]
        );
        assert_eq!(rows["acmeorg/secret"].warnings, ["cannot be read: permission denied"]);
        assert!(
            rows["acmeorg/partly-GGUF"].warnings.iter().any(|line| line == "inner cannot be read: permission denied")
        );
        assert!(rows["acmeorg/m1-GGUF"].complete && rows["acmeorg/m1-GGUF"].warnings.len() == 1);
        let plan = bench.plan(&["acmeorg/m1-GGUF", "acmeorg/m2-GGUF", "acmeorg/secret"]);
        assert_eq!(plan.blocked[0].path, bench.base.join("acmeorg/secret"));
        assert!(!bench.going(&plan).contains(&"acmeorg".to_owned()));
        assert!(bench.going(&plan).iter().all(|path| path.starts_with("acmeorg/m")));
        assert_eq!(bench.meaning("acmeorg/secret"), "acmeorg/secret");
    }
    closed.iter().for_each(|path| lock(path, 0o755));
}

// What names mean

#[test]
fn an_id_and_a_repository_find_the_folder() {
    let bench = Bench::acme();
    assert_eq!(bench.meaning("acmeorg/m1-GGUF"), "acmeorg/m1-GGUF");
    assert_eq!(bench.meaning("acmeorg/m1-GGUF:q5_k_m"), "acmeorg/m1-GGUF:Q5_K_M");
    assert_eq!(bench.meaning("hf://acmeorg/m1-GGUF"), "acmeorg/m1-GGUF");
    assert_eq!(bench.meaning("https://huggingface.co/acmeorg/m1-GGUF"), "acmeorg/m1-GGUF");
    assert_eq!(bench.meaning("AcmeOrg/M1-gguf"), "acmeorg/m1-GGUF", "the hub does not tell names apart by case");
    for text in ["acmeorg", "acmeorg:Q5_K_M", "m1-GGUF", "acmeorg/m1", "acmeorg/m1-GGUF:Q2_K", "x/m1-GGUF"] {
        assert_eq!(bench.meaning(text), "-", "{text}");
    }
    // Between the exact id and a record of that name nobody but a person can choose; what has the quantization is meant. A
    // download goes to the record's, which also comes before another case.
    bench.gguf("mine/x-Q8_0.gguf");
    bench.record("mine", "acmeorg/m1-GGUF");
    let both = bench.store.resolve(&Reference::parse("acmeorg/m1-GGUF").unwrap()).unwrap_err();
    assert!(both.to_string().ends_with("say one of: flat:acmeorg/m1-GGUF, flat:mine"), "{both}");
    assert_eq!(bench.meaning("acmeorg/m1-GGUF:Q4_K_M"), "acmeorg/m1-GGUF:Q4_K_M");
    assert_eq!(bench.meaning("acmeorg/m1-GGUF:Q8_0"), "mine:Q8_0");
    assert_eq!(bench.meaning("AcmeOrg/m1-GGUF"), "mine");
    assert_eq!(bench.target_folder("acmeorg/m1-GGUF"), "mine");
    // A folder with the record of another repository never answers to org/name; its id still names it.
    bench.record("acmeorg/m2-GGUF", "other/thing");
    assert_eq!(bench.meaning("acmeorg/m2-GGUF"), "-");
    assert_eq!(bench.meaning("other/thing"), "acmeorg/m2-GGUF");
    let found = bench.inventory(&[]).find(&Selector::parse("flat:acmeorg/m2-GGUF").unwrap(), None).unwrap();
    assert_eq!(found.model.id, "acmeorg/m2-GGUF");
    bench.fetched("o dd/a:b-GGUF", "x.gguf");
    assert_eq!(bench.meaning("o dd/a:b-GGUF"), "o dd/a:b-GGUF");
}

#[test]
fn the_name_of_a_group_is_an_error_that_lists_its_rows() {
    let bench = Bench::acme();
    let choices = "flat:acmeorg/m1-GGUF, flat:acmeorg/m2-GGUF";
    let inventory = bench.inventory(&[]);
    for text in ["acmeorg", "acmeorg:Q5_K_M", "flat:acmeorg", "flat:acmeorg:Q5_K_M"] {
        for found in [
            inventory.find(&Selector::parse(text).unwrap(), None),
            inventory.find_to_read(&Selector::parse(text).unwrap(), None),
        ] {
            assert!(found.unwrap_err().to_string().ends_with(&format!("say one of: {choices}")), "{text}");
        }
    }
    let error = bench.store.plan_deletion(&[whole("acmeorg")]).unwrap_err();
    assert_eq!(error.to_string(), format!("'acmeorg' is ambiguous; say one of: {choices}"));
    let provisioner = ModelProvisioner::builder(bench.base.clone()).build();
    assert!(matches!(provisioner.delete_model("acmeorg"), Err(Error::Ambiguous { .. })));
    assert!(matches!(provisioner.get_model_info("acmeorg"), Err(Error::Ambiguous { .. })));
    assert_eq!(provisioner.get_model_info("acmeorg/m1-GGUF").unwrap().gguf_files.len(), 2);
    assert_eq!(
        provisioner.find_local_model("acmeorg/m1-GGUF:Q5_K_M"),
        Some(bench.base.join("acmeorg/m1-GGUF/x-Q5_K_M.gguf"))
    );
    provisioner.delete_model("acmeorg/m1-GGUF").unwrap();
    assert_eq!(bench.ids(), ["acmeorg/m2-GGUF"]);
}

#[test]
fn downloads_go_on_in_the_folder_and_never_over_a_group() {
    let bench = Bench::acme();
    assert_eq!(bench.target_folder("acmeorg/m1-GGUF"), "acmeorg/m1-GGUF");
    assert_eq!(bench.target_folder("Acmeorg/M1-GGUF"), "acmeorg/m1-GGUF");
    assert_eq!(bench.target_folder("acmeorg/m3-GGUF"), "m3-gguf");
    assert_eq!(bench.target_folder("else/acmeorg"), "else--acmeorg", "not into the group");
    bench.record("acmeorg/m2-GGUF", "other/thing");
    assert_eq!(bench.target_folder("acmeorg/m2-GGUF"), "m2-gguf");
    assert_eq!(bench.target_folder("other/thing"), "acmeorg/m2-GGUF");
    let rows = bench.store.recorded_rows().unwrap();
    let rows: Vec<_> = rows.into_iter().map(|(id, record)| (id, record.unwrap().repository)).collect();
    assert_eq!(rows, [("acmeorg/m2-GGUF".to_owned(), "other/thing".to_owned())]);
}

// Deletion

#[test]
fn a_plan_takes_one_model_and_the_last_one_takes_the_empty_group() {
    let bench = Bench::acme();
    let part = Target { id: "acmeorg/m1-GGUF".to_owned(), part: Part::Quantization("Q5_K_M".to_owned()) };
    let plan = bench.store.plan_deletion(&[part]).unwrap();
    assert_eq!(bench.going(&plan)[0], "acmeorg/m1-GGUF/x-Q5_K_M.gguf", "{plan:?}");
    assert!(bench.going(&plan).iter().all(|path| path.contains("m1-GGUF") && path.contains("Q5_K_M")));
    assert!(plan.keep.iter().all(|kept| kept.path.starts_with(bench.base.join("acmeorg/m1-GGUF"))), "{:?}", plan.keep);

    let plan = bench.plan(&["acmeorg/m1-GGUF"]);
    assert!(bench.going(&plan).iter().all(|path| path.starts_with("acmeorg/m1-GGUF")));
    assert_eq!(plan.keep, []);
    let report = run(&plan);
    assert_eq!((report.failed.len(), report.freed_bytes), (0, plan.expected_bytes));
    assert_eq!(bench.ids(), ["acmeorg/m2-GGUF"]);
    let plan = bench.plan(&["acmeorg/m2-GGUF"]);
    assert_eq!(bench.going(&plan).last().unwrap(), "acmeorg");
    // Somebody puts something there meanwhile: it stays, with the folder.
    bench.put("acmeorg/new/x", b"x");
    assert_eq!(run(&plan).failed, []);
    assert!(bench.base.join("acmeorg/new/x").exists() && !bench.base.join("acmeorg/m2-GGUF").exists());

    let bench = Bench::acme();
    bench.put("acmeorg/README.md", b"x");
    let plan = bench.plan(&["acmeorg/m1-GGUF", "acmeorg/m2-GGUF"]);
    assert!(!bench.going(&plan).contains(&"acmeorg".to_owned()), "a readme is nobody's");
    assert_eq!(run(&plan).failed, []);
    assert_eq!(bench.ids(), ["acmeorg"]);
}

#[test]
fn links_into_a_group_break_and_links_between_models_are_told() {
    let bench = Bench::acme();
    symlink("acmeorg/m1-GGUF/x-Q4_K_M.gguf", bench.base.join("short.gguf")).unwrap();
    symlink("../m1-GGUF/x-Q4_K_M.gguf", bench.base.join("acmeorg/m2-GGUF/again.gguf")).unwrap();
    fs::hard_link(bench.base.join("acmeorg/m1-GGUF/x-Q5_K_M.gguf"), bench.base.join("acmeorg/m2-GGUF/same.gguf"))
        .unwrap();
    let plan = bench.plan(&["acmeorg/m1-GGUF"]);
    let broken: Vec<_> = plan.breaks.iter().map(|broken| broken.model.id.as_str()).collect();
    assert_eq!(broken, ["acmeorg/m2-GGUF", "short.gguf"]);
    assert!(plan.keep.iter().any(|kept| kept.path.ends_with("m2-GGUF/same.gguf")), "{:?}", plan.keep);
    assert_eq!(run(&plan).freed_bytes, plan.expected_bytes);
    // A link to the group itself breaks when the group goes.
    symlink("acmeorg", bench.base.join("org")).unwrap();
    let plan = bench.plan(&["acmeorg/m2-GGUF"]);
    assert!(plan.breaks.iter().any(|broken| broken.model.id == "org"), "{:?}", plan.breaks);
}

/// Decides at one step, lets the others proceed.
struct At(usize, Decision);

impl Hook for At {
    fn before(&mut self, index: usize, _: &Step) -> Decision {
        if index == self.0 { self.1 } else { Decision::Proceed }
    }
}

/// Models of each kind of evidence and what a deletion may leave of them.
fn every_evidence() -> Bench {
    let bench = Bench::new();
    bench.fetched("o/plain", "x-00001-of-00002.gguf");
    bench.fetched("o/plain", "x-00002-of-00002.gguf");
    bench.put("o/conf/config.json", b"{}");
    bench.put("o/conf/model.safetensors", b"x");
    bench.put("o/conf/pytorch_model.bin", b"x");
    bench.put("o/conf/x.gguf.0123456789abcdef.llorch", b"x");
    bench.put("o/conf/x.gguf.0123456789abcdef.llorch.json", b"{}");
    bench.gguf("o/named-GGUF/x.gguf");
    bench.gguf("o/recorded/x.gguf");
    bench.record("o/recorded", "o/recorded");
    bench
}

#[test]
fn stopped_or_failed_anywhere_the_others_stay_rows() {
    let all = ["o/conf", "o/named-GGUF", "o/plain", "o/recorded"];
    for id in all {
        let steps = every_evidence().plan(&[id]).steps.len();
        for at in 0..steps {
            for decision in [Decision::Stop, Decision::Fail(5)] {
                let bench = every_evidence();
                let others: BTreeSet<PathBuf> =
                    all.iter().filter(|other| **other != id).map(|other| bench.base.join(other)).collect();
                let before: Vec<u64> = others.iter().map(|other| blocks(other)).collect();
                run_with(&bench.plan(&[id]), &mut At(at, decision));
                assert_eq!(others.iter().map(|other| blocks(other)).collect::<Vec<_>>(), before);
                let ids = bench.ids();
                assert!(ids.iter().all(|row| all.contains(&row.as_str())), "{id} at {at}: {ids:?}");
                assert!(ids.len() >= 3, "{id} at {at}: {ids:?}");
                // What is left can go in a second turn.
                if ids.iter().any(|row| row == id) {
                    assert_eq!(run(&bench.plan(&[id])).failed, [], "{id} at {at}");
                }
                assert!(!bench.base.join(id).exists(), "{id} at {at}");
            }
        }
    }
}

#[test]
fn stopped_anywhere_all_of_a_group_goes_in_a_second_turn() {
    let ids = ["acmeorg/m1-GGUF", "acmeorg/m2-GGUF"];
    let steps = Bench::acme().plan(&ids).steps.len();
    for at in 0..=steps {
        let bench = Bench::acme();
        run_with(&bench.plan(&ids), &mut At(at, Decision::Stop));
        let rows = bench.ids();
        let rows: Vec<&str> = rows.iter().map(String::as_str).collect();
        if !rows.is_empty() {
            assert_eq!(run(&bench.plan(&rows)).failed, [], "at {at}: {rows:?}");
        }
        assert_eq!(fs::read_dir(&bench.base).unwrap().count(), 0, "at {at}: {rows:?}");
    }
}

// Sweep, verify, refresh, protection

#[test]
fn a_sweep_finds_what_is_dead_in_groups() {
    let bench = Bench::acme();
    let old = std::time::SystemTime::now() - std::time::Duration::from_secs(7200);
    for (path, bytes) in [
        ("acmeorg/m1-GGUF/y.gguf.0123456789abcdef.llorch", b"x"),
        ("acmeorg/m1-GGUF/y.gguf.0123456789abcdef.llorch.json", b"{"),
    ] {
        let file = bench.put(path, bytes);
        fs::File::options().write(true).open(file).unwrap().set_modified(old).unwrap();
    }
    let found = bench.store.sweep(&SweepContext::at(jiff::Timestamp::now()), &CancellationToken::new());
    let items: Vec<_> = found.items.iter().map(|item| (item.id.as_deref(), item.path.clone())).collect();
    assert_eq!(items, [(Some("acmeorg/m1-GGUF"), bench.base.join("acmeorg/m1-GGUF/y.gguf.0123456789abcdef.llorch"))]);
    let steps: Vec<PathBuf> = found.steps.iter().map(|step| step.step.path()).collect();
    assert_eq!(steps.len(), 2);
}

#[test]
fn verification_reads_the_model_alone() {
    let bench = Bench::acme();
    let path = bench.base.join("acmeorg/m2-GGUF/x-Q4_K_M.gguf");
    let when = fs::metadata(&path).unwrap().modified().unwrap();
    let mut bytes = fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&path, bytes).unwrap();
    fs::File::options().write(true).open(&path).unwrap().set_modified(when).unwrap();
    let check = |id: &str| {
        let files = bench.store.expected(&whole(id)).unwrap();
        let model = bench.store.details(id).unwrap().model.identity;
        verify::run(&model, &bench.base, &files, Depth::Full, &mut |_| {}, &CancellationToken::new()).unwrap()
    };
    assert!(check("acmeorg/m1-GGUF").ok);
    let found = check("acmeorg/m2-GGUF");
    let corrupt: Vec<_> =
        found.files.iter().filter(|file| file.status == FileStatus::Corrupt).map(|file| file.path.as_str()).collect();
    assert_eq!(corrupt, ["x-Q4_K_M.gguf"]);
}

#[test]
fn what_changes_in_a_group_moves_the_fingerprint() {
    let bench = Bench::acme();
    let mut before = bench.store.fingerprint();
    assert_eq!(bench.store.fingerprint(), before);
    let changes: [&dyn Fn(); 3] = [
        &|| {
            bench.gguf("acmeorg/m1-GGUF/new.gguf");
        },
        &|| fs::remove_file(bench.base.join("acmeorg/m1-GGUF/new.gguf")).unwrap(),
        &|| {
            bench.gguf("acmeorg/m3-GGUF/x.gguf");
        },
    ];
    for change in changes {
        support::tick();
        change();
        let after = bench.store.fingerprint();
        assert_ne!(after, before);
        before = after;
    }
}

#[test]
fn protection_follows_groups_and_their_models() {
    let protected = |bench: &Bench, pattern: &str, id: &str| {
        let inventory = bench.inventory(&[pattern]);
        let target = inventory.find(&Selector::parse(&format!("flat:{id}")).unwrap(), None).unwrap();
        let plan = inventory.plan_deletion(&[target]).unwrap();
        assert_eq!(plan.steps.is_empty(), !plan.blocked.is_empty() || !plan.keep.is_empty());
        plan.steps.is_empty()
    };
    let bench = Bench::acme();
    for pattern in ["acmeorg/m1-GGUF", "flat:acmeorg/m1-GGUF", "acmeorg/*", "acmeorg", "flat:acmeorg", "*m1*"] {
        assert!(protected(&bench, pattern, "acmeorg/m1-GGUF"), "{pattern}");
    }
    for pattern in ["acmeorg/m2-GGUF", "acme", "m1-GGUF", "hf:acmeorg"] {
        assert!(!protected(&bench, pattern, "acmeorg/m1-GGUF"), "{pattern}");
    }
    // One that is left alone may be no group any more: what was protected in it stays so.
    let bench = Bench::new();
    bench.fetched("o/mine", "x.gguf");
    assert_eq!(bench.ids(), ["o"]);
    for (pattern, stays) in
        [("o/mine", true), ("flat:o/mine", true), ("*/mine", true), ("o/mi*", true), ("o/other", false)]
    {
        assert_eq!(protected(&bench, pattern, "o"), stays, "{pattern}");
    }
}

// Any store

#[derive(Clone, Debug)]
struct Shape {
    folder: &'static str,
    files: Vec<&'static str>,
}

fn shape() -> impl Strategy<Value = Shape> {
    let folders = prop::sample::select(vec![
        "a",
        "a/m1-GGUF",
        "a/m2-GGUF",
        "a/Q4_K_M",
        "a/thing",
        "b/x_mlx-4bit",
        "b/y",
        "b/y/z-GGUF",
        "b/onnx",
        "b",
        "c d/e f-GGUF",
    ]);
    let files = prop::collection::vec(
        prop::sample::select(vec![
            "x-Q4_K_M.gguf",
            "y-Q8_0.gguf",
            "config.json",
            "README.md",
            "model.safetensors",
            "w.bin",
            "sub/z.gguf",
            ".cache/huggingface/download/x.metadata",
            ".cache/huggingface/.gitignore",
            "mmproj-F16.gguf",
        ]),
        0..4,
    );
    (folders, files).prop_map(|(folder, files)| Shape { folder, files })
}

fn regular(folder: &Path) -> BTreeSet<PathBuf> {
    let mut files = BTreeSet::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files.extend(regular(&path)) } else { _ = files.insert(path) }
    }
    files
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_plan_of_a_row_names_a_file_of_another(shapes in prop::collection::vec(shape(), 1..8)) {
        let bench = Bench::new();
        for shape in &shapes {
            fs::create_dir_all(bench.base.join(shape.folder)).unwrap();
            for file in &shape.files {
                bench.put(Path::new(shape.folder).join(file), b"x");
            }
        }
        let (rows, summary) = bench.scan();
        prop_assert_eq!(summary.disk_bytes, blocks(&bench.base));
        let everything = regular(&bench.base);
        for (id, row) in &rows {
            let own: BTreeSet<PathBuf> = everything.iter().filter(|path| path.starts_with(&row.path)).cloned().collect();
            for other in rows.values().filter(|other| other.identity.id != *id) {
                prop_assert!(!other.path.starts_with(&row.path), "{} lies in {id}", other.identity.id);
            }
            prop_assert_eq!(row.disk_bytes, own.iter().map(|path| fs::metadata(path).unwrap().blocks() * 512).sum::<u64>());
            prop_assert_eq!(&bench.store.details(id).unwrap().model, row);
            let going: BTreeSet<PathBuf> = bench.plan(&[id]).steps.iter().map(Step::path).collect();
            prop_assert!(own.is_subset(&going), "{id}");
            let more: Vec<&PathBuf> = going.iter().filter(|path| !path.starts_with(&row.path)).collect();
            // Only the emptied group.
            prop_assert!(more.iter().all(|path| path.is_dir() && fs::read_dir(path).unwrap().count() == 1), "{id}: {more:?}");
            for label in &row.quantizations {
                let target = Target { id: id.clone(), part: Part::Quantization(label.as_str().to_owned()) };
                let plan = bench.store.plan_deletion(&[target]).unwrap();
                prop_assert!(plan.steps.iter().map(Step::path).filter(|path| path.is_file()).all(|path| own.contains(&path)));
            }
        }
        let report = run(&bench.plan(&rows.keys().map(String::as_str).collect::<Vec<_>>()));
        prop_assert_eq!(report.failed, []);
        let left = regular(&bench.base);
        prop_assert!(left.iter().all(|path| !rows.values().any(|row| path.starts_with(&row.path))));
    }
}

// A download into a folder that is there

#[cfg(feature = "mirror")]
#[tokio::test(flavor = "multi_thread")]
async fn a_download_goes_on_in_the_folder_of_the_official_client() {
    use support::hub::TestHub;

    let bench = Bench::new();
    let hub = TestHub::start().await;
    for file in ["x-Q4_K_M.gguf", "x-Q5_K_M.gguf", "x-Q8_0.gguf"] {
        hub.put("acmeorg/m1-GGUF", file, &small_gguf(15, 16, file.len() as u64));
    }
    // Without a record, as the official client leaves it; another model beside it.
    let first = small_gguf(15, 16, "x-Q4_K_M.gguf".len() as u64);
    bench.put("acmeorg/m1-GGUF/x-Q4_K_M.gguf", &first);
    let name = RepoPath::parse("x-Q4_K_M.gguf").unwrap();
    sidecar::write(&bench.base.join("acmeorg/m1-GGUF"), &name, &"c".repeat(40), &sha256(&first)).unwrap();
    bench.fetched("acmeorg/m2-GGUF", "x.gguf");

    let provisioner = ModelProvisioner::builder(bench.base.clone()).endpoint(hub.endpoint()).build();
    let there = provisioner.download_model("acmeorg/m1-GGUF", "hf").await.unwrap();
    assert_eq!(there, bench.base.join("acmeorg/m1-GGUF/x-Q4_K_M.gguf"));
    assert_eq!(hub.file_bytes_sent(), 0, "what is there is not fetched again");
    let more = provisioner.download_model("acmeorg/M1-GGUF:Q8_0", "hf").await.unwrap();
    assert_eq!(more, bench.base.join("acmeorg/m1-GGUF/x-Q8_0.gguf"));
    assert_eq!(bench.ids(), ["acmeorg/m1-GGUF", "acmeorg/m2-GGUF"], "no second copy");
    let (rows, summary) = bench.scan();
    assert_eq!(rows["acmeorg/m1-GGUF"].reference.as_deref(), Some("acmeorg/m1-GGUF"));
    assert!(rows["acmeorg/m1-GGUF"].complete);
    assert_eq!(summary.disk_bytes, blocks(&bench.base));
    assert!(
        provisioner
            .updates(&[], &CancellationToken::new())
            .await
            .unwrap()
            .iter()
            .all(|update| update.model.id.contains('/'))
    );

    // The name of a group is the name of no model that could be fetched.
    assert!(provisioner.download_model("acmeorg", "hf").await.is_err());
    assert_eq!(bench.ids().len(), 2);
    provisioner.delete_model("acmeorg/m1-GGUF").unwrap();
    assert_eq!(bench.ids(), ["acmeorg/m2-GGUF"].map(str::to_owned));
}
