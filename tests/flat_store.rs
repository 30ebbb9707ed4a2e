//! The flat store over constructed trees: rows, references, plans, verification.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use proptest::prelude::*;
use rbee_hive::Error;
use rbee_hive::disk::deletion::{self, Decision, Hook, NoHook};
use rbee_hive::disk::lock::FileLock;
use rbee_hive::format::gguf::{TensorType, Writer};
use rbee_hive::model::{
    DeletionReport, Digest, FileStatus, Format, Model, ModelKind, Plan, Quantization, Reference, RepoPath, Role, Step,
    StoreSummary,
};
use rbee_hive::store::flat::staging::{staging_key, staging_paths};
use rbee_hive::store::flat::{Alias, FlatStore, Record, RecordedFile, Resolved, sidecar};
use rbee_hive::store::verify::{self, Depth};
use rbee_hive::store::{Part, Store, Target};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

const QWEN: &str = "Qwen/Qwen2.5-0.5B-Instruct-GGUF";
const QWEN_Q4: &str = "qwen2.5-0.5b-instruct-q4_k_m.gguf";
const QWEN_F16: &str = "qwen2.5-0.5b-instruct-fp16.gguf";
const TINY: &str = "TheBloke/TinyLlama-1.1B-Chat-v1.0-GGUF";

fn aliases() -> Vec<Alias> {
    let alias = |alias: &str, repository: &str, file: &str, folder: &str, former: &[&str]| Alias {
        alias: alias.to_owned(),
        repository: repository.to_owned(),
        file: file.to_owned(),
        folder: folder.to_owned(),
        former_folders: former.iter().map(|&folder| folder.to_owned()).collect(),
    };
    vec![
        alias("tinyllama", TINY, "tinyllama-1.1b-chat-v1.0.Q4_K_M.gguf", "tinyllama", &[]),
        alias("qwen", QWEN, QWEN_Q4, "qwen", &[]),
        alias("qwen-fp16", QWEN, QWEN_F16, "qwen-fp16", &["qwen"]),
        alias("llama2", "TheBloke/Llama-2-7B-GGUF", "llama-2-7b.Q8_0.gguf", "llama2-7b", &[]),
    ]
}

/// A scratch base folder with a store over it, and a place outside of it.
struct Bench {
    scratch: TempDir,
    base: PathBuf,
    store: FlatStore,
}

impl Bench {
    fn new() -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let base = scratch.path().canonicalize().unwrap().join("models");
        fs::create_dir(&base).unwrap();
        let store = FlatStore::new(base.clone(), aliases());
        Self { scratch, base, store }
    }

    fn put(&self, path: impl AsRef<Path>, bytes: &[u8]) -> PathBuf {
        let file = self.base.join(path);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, bytes).unwrap();
        file
    }

    /// A small valid GGUF file; the seed tells files of one size apart.
    fn gguf(&self, path: &str, file_type: u32, seed: u64) -> PathBuf {
        self.put(path, &gguf(file_type, seed))
    }

    fn outside(&self, name: &str) -> PathBuf {
        let path = self.scratch.path().canonicalize().unwrap().join("outside").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    }

    fn record(&self, folder: &str, repository: &str, files: &[&str]) {
        let folder = self.base.join(folder);
        let files = files.iter().map(|path| {
            let bytes = fs::read(folder.join(path)).unwrap();
            RecordedFile {
                path: RepoPath::parse(path).unwrap(),
                size: bytes.len() as u64,
                digest: Some(sha256(&bytes)),
                converted: false,
                commit: None,
            }
        });
        record_of(repository, files.collect()).merge(&folder, &[]).unwrap();
    }

    /// The file, its sidecar and its record, as a download leaves them.
    fn fetched(&self, folder: &str, repository: &str, path: &str, bytes: &[u8]) {
        self.put(Path::new(folder).join(path), bytes);
        self.record(folder, repository, &[path]);
        let digest = sha256(bytes).to_string();
        sidecar::write(&self.base.join(folder), &RepoPath::parse(path).unwrap(), &"c".repeat(40), &digest).unwrap();
    }

    fn scan(&self) -> (BTreeMap<String, Model>, StoreSummary) {
        let mut rows = BTreeMap::new();
        let summary = self.store.scan(
            &mut |row| {
                assert!(rows.insert(row.model.identity.id.clone(), row.model).is_none());
            },
            &CancellationToken::new(),
        );
        assert_eq!(summary.models, rows.len() as u64);
        (rows, summary)
    }

    fn row(&self, id: &str) -> Model {
        self.scan().0.remove(id).unwrap_or_else(|| panic!("no row {id}"))
    }

    fn resolve(&self, text: &str) -> Option<Resolved> {
        self.store.resolve(&Reference::parse(text).unwrap()).unwrap()
    }

    /// Id and part as a short text: `qwen`, `qwen:Q8_0`, `qwen[a.gguf]`; `-` for what is not here.
    fn meaning(&self, text: &str) -> String {
        match self.resolve(text) {
            None => "-".to_owned(),
            Some(resolved) => match resolved.part {
                Part::Whole => resolved.id,
                Part::Quantization(label) => format!("{}:{label}", resolved.id),
                Part::Revision(revision) => format!("{}@{revision}", resolved.id),
                Part::QuantizationOf { quantization, revision } => {
                    format!("{}:{quantization}@{revision}", resolved.id)
                }
                Part::Files(files) => format!("{}[{}]", resolved.id, files.join(" ")),
            },
        }
    }

    fn target_folder(&self, text: &str, repository: &str) -> String {
        let folder = self.store.target_folder(&Reference::parse(text).unwrap(), repository).unwrap();
        assert_eq!(folder.parent().unwrap(), self.base);
        folder.file_name().unwrap().to_str().unwrap().to_owned()
    }

    fn plan(&self, targets: &[Target]) -> Plan {
        self.store.plan_deletion(targets).unwrap()
    }

    /// Deletes what references mean, checks the figures, and gives the paths that went, relative to the base folder.
    fn delete(&self, references: &[&str]) -> Vec<String> {
        let targets: Vec<Target> = references
            .iter()
            .map(|text| self.store.find(&Reference::parse(text).unwrap()).unwrap().unwrap_or_else(|| panic!("{text}")))
            .collect();
        let plan = self.plan(&targets);
        assert_eq!(plan.blocked, []);
        let report = run(&plan);
        assert_eq!(report.failed, []);
        assert_eq!(report.freed_bytes, plan.expected_bytes);
        self.relative(report.removed)
    }

    fn relative(&self, paths: impl IntoIterator<Item = PathBuf>) -> Vec<String> {
        paths.into_iter().map(|path| path.strip_prefix(&self.base).unwrap().to_str().unwrap().to_owned()).collect()
    }

    fn check(&self, id: &str, depth: Depth) -> (bool, BTreeMap<String, FileStatus>) {
        let files = self.store.expected(&whole(id)).unwrap();
        let identity = self.row(id).identity;
        let found = verify::run(&identity, &self.base, &files, depth, &mut |_| {}, &CancellationToken::new()).unwrap();
        (found.ok, found.files.into_iter().map(|file| (file.path, file.status)).collect())
    }
}

fn gguf(file_type: u32, seed: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    Writer::new("llama")
        .key("general.file_type", file_type)
        .key("llama.context_length", 2048u32)
        .tensor("token_embd.weight", &[256, 16], TensorType::Q4_K)
        .write_to(&mut bytes, seed)
        .unwrap();
    bytes
}

fn sha256(bytes: &[u8]) -> Digest {
    use sha2::{Digest as _, Sha256};
    Digest::Sha256(Sha256::digest(bytes).into())
}

fn record_of(repository: &str, files: Vec<RecordedFile>) -> Record {
    Record {
        version: Record::VERSION,
        endpoint: "https://huggingface.co".to_owned(),
        repository: repository.to_owned(),
        revision: "main".to_owned(),
        commit: "c".repeat(40),
        files,
    }
}

fn whole(id: &str) -> Target {
    Target { id: id.to_owned(), part: Part::Whole }
}

fn run(plan: &Plan) -> DeletionReport {
    deletion::run(plan, &mut NoHook, &|_| false, &mut |_, _| {}, &CancellationToken::new())
}

fn blocks(path: &Path) -> u64 {
    fs::symlink_metadata(path).unwrap().blocks() * 512
}

// Rows

#[test]
fn a_missing_and_an_empty_base_have_no_rows() {
    let scratch = tempfile::tempdir().unwrap();
    let store = FlatStore::new(scratch.path().join("not/there"), aliases());
    let summary = store.scan(&mut |_| panic!("a row"), &CancellationToken::new());
    assert_eq!((summary.models, summary.disk_bytes, summary.warnings.len()), (0, 0, 0));
    assert_eq!(store.resolve(&Reference::parse("tinyllama").unwrap()).unwrap(), None);
    assert!(matches!(store.plan_deletion(&[whole("x")]), Err(Error::ModelNotFound { .. })));
    let bench = Bench::new();
    assert_eq!(bench.scan().0.len(), 0);
}

#[test]
fn a_row_has_its_figures() {
    let bench = Bench::new();
    let weights = gguf(15, 1);
    bench.fetched("tinyllama", TINY, "tinyllama-1.1b-chat-v1.0.Q4_K_M.gguf", &weights);
    bench.put("tinyllama/config.json", b"{}");
    bench.put("tinyllama/nested/readme.md", b"hello");
    bench.put("tinyllama/.git/objects/pack", &[7; 9000]);
    let row = bench.row("tinyllama");
    assert_eq!(row.kind, ModelKind::Model);
    assert_eq!(row.format, Some(Format::Gguf));
    assert_eq!(row.reference.as_deref(), Some(TINY));
    assert_eq!(row.path, bench.base.join("tinyllama"));
    assert_eq!(row.quantization, Some(Quantization::new("Q4_K_M")));
    assert_eq!(row.architecture.as_deref(), Some("llama"));
    assert_eq!(row.context_length, Some(2048));
    assert_eq!(row.parameters, Some(4096));
    assert_eq!((row.file_count, row.size_bytes), (3, weights.len() as u64 + 2 + 5));
    let everything: u64 = walk(&bench.base).values().map(|(_, bytes)| bytes).sum();
    assert_eq!((row.disk_bytes, row.reclaimable_bytes), (everything, everything));
    assert!(row.complete, "{:?}", row.warnings);
    assert_eq!(row.warnings, [] as [String; 0]);
    assert!(row.owner.is_some() && row.modified.is_some() && row.accessed.is_some());
    assert_eq!(row.in_use_by, None);
}

/// Every regular file below a folder: its bytes and its blocks.
fn walk(folder: &Path) -> BTreeMap<PathBuf, (Vec<u8>, u64)> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let metadata = fs::symlink_metadata(&path).unwrap();
        if metadata.is_dir() {
            files.extend(walk(&path));
        } else if metadata.is_file() {
            files.insert(path.clone(), (fs::read(&path).unwrap(), metadata.blocks() * 512));
        }
    }
    files
}

#[test]
fn every_quantization_of_a_folder_is_named_by_header_first() {
    let bench = Bench::new();
    bench.gguf("m/a-Q4_K_M.gguf", 15, 1);
    bench.gguf("m/b-Q8_0.gguf", 7, 2);
    bench.gguf("n/phi-q4.gguf", 15, 3);
    let rows = bench.scan().0;
    assert_eq!(rows["m"].quantization, None);
    assert_eq!(rows["m"].quantization_label(), "Q4_K_M,Q8_0");
    assert_eq!(rows["n"].quantization_label(), "Q4_K_M");
    assert!(rows["m"].warnings.iter().any(|line| line == "origin unknown"));
}

#[test]
fn what_is_missing_cut_or_unfinished_is_incomplete() {
    let bench = Bench::new();
    for number in [1, 3, 7] {
        bench.gguf(&format!("shards/m-{number:05}-of-00007.gguf"), 15, number);
    }
    let mut cut = gguf(15, 1);
    cut.truncate(cut.len() - 100);
    bench.put("cut/m.gguf", &cut);
    bench.put("empty-file/m.gguf", b"");
    bench.put("page/m.gguf", b"<!doctype html><html></html>");
    let key = staging_key(None, &["x"]);
    let (partial, journal) = staging_paths(&bench.base.join("partial/m.gguf"), &key);
    fs::create_dir(bench.base.join("partial")).unwrap();
    fs::write(partial, b"half").unwrap();
    fs::write(journal, b"{}").unwrap();
    bench.put("index/model.safetensors.index.json", br#"{"weight_map":{"a":"model-00001-of-00002.safetensors"}}"#);
    bench.fetched("lost", "o/lost", "m-Q8_0.gguf", &gguf(7, 1));
    fs::remove_file(bench.base.join("lost/m-Q8_0.gguf")).unwrap();
    bench.gguf("whole/m.gguf", 15, 1);
    let rows = bench.scan().0;
    let says = |id: &str, text: &str| {
        let row: &Model = &rows[id];
        assert!(!row.complete, "{id}");
        assert!(row.warnings.iter().any(|line| line.contains(text)), "{id}: {:?}", row.warnings);
    };
    says("shards", "shards 2, 4-6 of 7 are missing");
    says("cut", "is cut short");
    says("empty-file", "m.gguf is empty");
    says("page", "not a GGUF file");
    says("partial", "m.gguf is not whole yet");
    says("index", "model.safetensors.index.json names are missing");
    says("lost", "m-Q8_0.gguf is missing");
    assert_eq!((rows["partial"].file_count, rows["partial"].size_bytes), (0, 0));
    assert!(rows["partial"].disk_bytes > 0);
    assert_eq!(rows["partial"].kind, ModelKind::Model);
    assert!(rows["whole"].complete);
}

#[test]
fn folders_without_weights_are_other_and_dot_folders_are_no_rows() {
    let bench = Bench::new();
    fs::create_dir(bench.base.join("nothing")).unwrap();
    bench.put("notes/readme.md", b"x");
    bench.put("torch/pytorch_model.bin", b"x");
    let hidden = bench.put(".cache/blob", &[1; 5000]);
    let stray = bench.put("readme.txt", &[1; 5000]);
    let (rows, summary) = bench.scan();
    assert_eq!(rows.keys().collect::<Vec<_>>(), ["notes", "nothing", "torch"]);
    assert_eq!(rows["nothing"].kind, ModelKind::Other);
    assert!(rows["nothing"].warnings.contains(&"holds no files".to_owned()));
    assert_eq!(rows["notes"].kind, ModelKind::Other);
    assert_eq!((rows["torch"].kind, rows["torch"].format), (ModelKind::Model, Some(Format::Other)));
    let of_rows: u64 = rows.values().map(|row| row.disk_bytes).sum();
    assert_eq!(summary.disk_bytes, of_rows + blocks(&hidden) + blocks(&stray));
}

#[test]
fn weights_directly_in_the_base_folder_are_rows_of_their_own() {
    let bench = Bench::new();
    bench.gguf("loose-Q8_0.gguf", 7, 1);
    bench.gguf("set-00001-of-00002.gguf", 7, 2);
    bench.gguf("set-00002-of-00002.gguf", 7, 3);
    bench.put("readme.md", b"x");
    bench.put(".cache/huggingface/download/loose-Q8_0.gguf.metadata", b"c\ne\n1\n");
    bench.put(".cache/huggingface/download/other.gguf.metadata", b"c\ne\n1\n");
    let rows = bench.scan().0;
    assert_eq!(rows.keys().collect::<Vec<_>>(), ["loose-Q8_0.gguf", "set-00001-of-00002.gguf"]);
    assert_eq!(rows["set-00001-of-00002.gguf"].file_count, 2);
    assert!(rows["set-00001-of-00002.gguf"].complete);
    assert_eq!(bench.meaning("loose-Q8_0.gguf"), "loose-Q8_0.gguf");
    assert_eq!(bench.resolve("loose-Q8_0.gguf").unwrap().folder, bench.base);
    assert_eq!(
        bench.delete(&["loose-Q8_0.gguf"]),
        ["loose-Q8_0.gguf", ".cache/huggingface/download/loose-Q8_0.gguf.metadata"]
    );
    assert_eq!(bench.delete(&["set-00001-of-00002.gguf"]), ["set-00001-of-00002.gguf", "set-00002-of-00002.gguf"]);
    assert!(bench.base.join("readme.md").exists());
    assert!(bench.base.join(".cache/huggingface/download/other.gguf.metadata").exists());
}

#[test]
fn links_are_seen_and_never_followed() {
    let bench = Bench::new();
    let outside = bench.outside("big.gguf");
    fs::write(&outside, gguf(15, 1)).unwrap();
    symlink(outside.parent().unwrap(), bench.base.join("linked")).unwrap();
    bench.gguf("real/m.gguf", 15, 2);
    symlink(&outside, bench.base.join("real/out.gguf")).unwrap();
    symlink("m.gguf", bench.base.join("real/again.gguf")).unwrap();
    symlink("nowhere", bench.base.join("real/dangling")).unwrap();
    symlink("loop", bench.base.join("real/loop")).unwrap();
    symlink("..", bench.base.join("real/up")).unwrap();
    let rows = bench.scan().0;
    let linked = &rows["linked"];
    assert_eq!((linked.kind, linked.disk_bytes, linked.file_count), (ModelKind::Other, 0, 0));
    assert!(linked.warnings[0].contains("outside"), "{:?}", linked.warnings);
    let real = &rows["real"];
    assert_eq!((real.file_count, real.disk_bytes), (1, blocks(&bench.base.join("real/m.gguf"))));
    let warned = |text: &str| assert!(real.warnings.iter().any(|line| line.contains(text)), "{:?}", real.warnings);
    warned(&format!("link out of the store, not followed: out.gguf -> {}", outside.display()));
    warned("link within the store, not counted: again.gguf -> m.gguf");
    warned("dangling link: dangling -> nowhere");
    warned("dangling link: loop -> loop");

    let plan = bench.plan(&[whole("linked"), whole("real")]);
    assert!(plan.keep.iter().any(|kept| kept.path == outside), "{:?}", plan.keep);
    assert!(plan.keep.iter().any(|kept| kept.path == outside.parent().unwrap()), "{:?}", plan.keep);
    assert_eq!(bench.delete(&["linked", "real"]).len(), 8);
    assert!(outside.exists());
    assert_eq!(fs::read_dir(&bench.base).unwrap().count(), 0);
}

#[test]
fn odd_names_are_exact_and_pipes_do_not_block() {
    let bench = Bench::new();
    let odd = OsStr::from_bytes(b"a\xff\n\x1b[31mb");
    bench.put(Path::new(odd).join("m.gguf"), &gguf(15, 1));
    bench.put(Path::new("m").join(odd), b"x");
    let pipe = bench.base.join("m/pipe.gguf");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0).unwrap();
    let rows = bench.scan().0;
    let id = "a\\xff\n\u{1b}[31mb";
    assert_eq!(rows[id].file_count, 1);
    assert!(!rows[id].label().contains(['\n', '\u{1b}']));
    assert!(rows["m"].warnings.iter().all(|line| !line.contains(['\n', '\u{1b}'])));
    assert!(!rows["m"].complete);
    assert_eq!(bench.store.details(id).unwrap().files[0].absolute, bench.base.join(odd).join("m.gguf"));
    let report = run(&bench.plan(&[whole(id), whole("m")]));
    assert_eq!(report.failed, []);
    assert_eq!(fs::read_dir(&bench.base).unwrap().count(), 0);
}

/// Runs one test of this file again in a child that has no rights.
fn as_nobody(test: &str) {
    let program = tempfile::Builder::new().prefix("flat-store-").tempdir().unwrap();
    fs::set_permissions(program.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let copy = program.path().join("tests");
    fs::copy(std::env::current_exe().unwrap(), &copy).unwrap();
    let output = Command::new(copy).args(["--exact", test]).uid(65_534).gid(65_534).current_dir("/").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

#[test]
fn what_may_not_be_removed_is_blocked_with_everything_that_depends_on_it() {
    let bench = Bench::new();
    bench.fetched("m", "o/m", "sub/m-Q8_0.gguf", &gguf(7, 1));
    bench.put("m/readme.md", b"x");
    fs::set_permissions(bench.base.join("m/sub"), fs::Permissions::from_mode(0o555)).unwrap();
    let plan = bench.plan(&[whole("m")]);
    if plan.blocked.is_empty() {
        as_nobody("what_may_not_be_removed_is_blocked_with_everything_that_depends_on_it");
    } else {
        assert_eq!(bench.relative(plan.blocked.iter().map(|blocked| blocked.path.clone())), ["m/sub/m-Q8_0.gguf"]);
        assert!(plan.blocked[0].because.contains("no write permission"), "{:?}", plan.blocked);
        let report = run(&plan);
        assert_eq!(report.failed, []);
        assert!(
            !report.removed.contains(&bench.base.join("m/.cache/llorch-models/source.json")),
            "its origin stays known"
        );
        assert_eq!(bench.row("m").reference.as_deref(), Some("o/m"));
        assert!(bench.check("m", Depth::Full).0);
    }
    fs::set_permissions(bench.base.join("m/sub"), fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn safetensors_are_described_by_the_config_beside_them() {
    let bench = Bench::new();
    let header = br#"{"w":{"dtype":"BF16","shape":[2,4],"data_offsets":[0,16]}}"#;
    let bytes = [&(header.len() as u64).to_le_bytes()[..], header, &[0; 16]].concat();
    for number in 1..=2 {
        bench.put(format!("m/model-{number:05}-of-00002.safetensors"), &bytes);
    }
    bench.put("m/config.json", br#"{"model_type":"llama","max_position_embeddings":4096}"#);
    let row = bench.row("m");
    assert_eq!((row.format, row.architecture.as_deref()), (Some(Format::Safetensors), Some("llama")));
    assert_eq!((row.context_length, row.parameters, row.complete), (Some(4096), Some(16), true));
    assert_eq!(bench.store.details("m").unwrap().metadata.unwrap().context_length, Some(4096));
    bench.put("m/config.json", b"<html>");
    assert!(bench.row("m").warnings.iter().any(|line| line.starts_with("config.json: ")));
}

#[test]
fn tokenizer_template_and_card_beside_the_weights_are_told() {
    let bench = Bench::new();
    let header = br#"{"w":{"dtype":"BF16","shape":[2,4],"data_offsets":[0,16]}}"#;
    bench.put("m/model.safetensors", &[&(header.len() as u64).to_le_bytes()[..], header, &[0; 16]].concat());
    let bpe =
        r#"{"added_tokens":[{"id":0,"content":"<s>","special":true}],"model":{"type":"BPE","vocab":{"<s>":0,"a":1}}}"#;
    bench.put("m/tokenizer.json", bpe.as_bytes());
    bench.put("m/README.md", b"---\nlicense: mit\nbase_model: [o/base]\n---\n");
    let told = || bench.store.details("m").unwrap().metadata.unwrap();
    let metadata = told();
    assert_eq!((metadata.tokenizer.as_deref(), metadata.shape.vocabulary), (Some("BPE"), Some(2)));
    assert_eq!((metadata.licence.as_deref(), metadata.base_model.as_deref()), (Some("mit"), Some("o/base")));
    assert_eq!((metadata.special_tokens.as_slice(), metadata.chat_template), (&["<s>".to_owned()][..], Some(false)));
    bench.put("m/chat_template.jinja", b"{{ messages }}");
    assert!(told().chat_template == Some(true));
    bench.put("m/chat_template.jinja", b"");
    assert!(told().chat_template == Some(false));
    bench.put("m/tokenizer_config.json", br#"{"chat_template":"{{ messages }}","eos_token":"</s>"}"#);
    assert!(told().chat_template == Some(true));
    assert_eq!(told().special_tokens, ["<s>", "</s>"]);
    bench.put("m/tokenizer_config.json", b"{");
    bench.put("m/chat_template.json", br#"{"chat_template":"{{ messages }}"}"#);
    bench.put("m/config.json", br#"{"vocab_size":32000}"#);
    // The configuration counts the vocabulary, so the tokenizer's file is not read to its end.
    bench.put("m/tokenizer.json", br#"{"model":{"type":"Unigram","vocab":[[}"#);
    let metadata = told();
    assert_eq!((metadata.tokenizer.as_deref(), metadata.shape.vocabulary), (Some("Unigram"), Some(32_000)));
    assert!(metadata.chat_template == Some(true));
    bench.put("m/tokenizer.json", b"<html>");
    let row = bench.row("m");
    assert_eq!((row.complete, row.parameters), (true, Some(8)), "a damaged tokenizer is no damage of the weights");
    assert_eq!(row.warnings.iter().filter(|line| line.starts_with("tokenizer")).count(), 2, "{:?}", row.warnings);
}

#[test]
fn the_page_of_a_file_means_the_file_and_the_rest_of_its_set() {
    let bench = Bench::new();
    bench.fetched("m", "o/m", "a-00001-of-00002.gguf", b"x");
    bench.fetched("m", "o/m", "a-00002-of-00002.gguf", b"y");
    bench.fetched("m", "o/m", "config.json", b"{}");
    let page = |file: &str| bench.meaning(&format!("https://huggingface.co/o/m/blob/main/{file}"));
    assert_eq!(page("a-00001-of-00002.gguf"), "m[a-00001-of-00002.gguf a-00002-of-00002.gguf]");
    assert_eq!(page("config.json"), "m[config.json]");
    assert_eq!(page("other.gguf"), "-");
}

#[test]
fn a_folder_that_cannot_be_read_is_unknown_and_not_empty() {
    let bench = Bench::new();
    bench.gguf("closed/m.gguf", 15, 1);
    bench.gguf("partly/m.gguf", 15, 1);
    bench.put("partly/secret/x", b"x");
    let lock = |path: &str, mode: u32| {
        fs::set_permissions(bench.base.join(path), fs::Permissions::from_mode(mode)).unwrap();
    };
    lock("closed", 0o000);
    lock("partly/secret", 0o000);
    // Root reads everything, so it sees this through the eyes of somebody else.
    if fs::read_dir(bench.base.join("closed")).is_ok() {
        as_nobody("a_folder_that_cannot_be_read_is_unknown_and_not_empty");
    } else {
        let rows = bench.scan().0;
        assert!(!rows["closed"].complete && rows["closed"].warnings[0].contains("permission denied"));
        assert!(!rows["partly"].complete);
        let plan = bench.plan(&[whole("closed"), whole("partly")]);
        let blocked: Vec<_> = plan.blocked.iter().map(|blocked| blocked.path.clone()).collect();
        assert!(blocked.contains(&bench.base.join("closed")) && blocked.contains(&bench.base.join("partly/secret")));
        assert_eq!(plan.steps.len(), 1);
    }
    lock("closed", 0o755);
    lock("partly/secret", 0o755);
}

#[test]
fn details_list_weights_first_with_trusted_checksums_only() {
    let bench = Bench::new();
    let weights = gguf(15, 1);
    bench.put("m/a-config.json", b"{}");
    bench.fetched("m", "o/m", "z/weights-Q4_K_M.gguf", &weights);
    let changed = bench.put("m/changed.gguf", &gguf(7, 2));
    let name = RepoPath::parse("changed.gguf").unwrap();
    sidecar::write(&bench.base.join("m"), &name, &"c".repeat(40), &"ab".repeat(32)).unwrap();
    let later = SystemTime::now() + Duration::from_secs(10);
    fs::File::options().write(true).open(changed).unwrap().set_modified(later).unwrap();
    let details = bench.store.details("m").unwrap();
    let files: Vec<_> = details.files.iter().map(|file| (file.path.as_str(), file.role, file.sha256)).collect();
    assert_eq!(
        files,
        [
            ("changed.gguf", Role::Weights, None),
            ("z/weights-Q4_K_M.gguf", Role::Weights, Some(sha256(&weights))),
            ("a-config.json", Role::Other, None),
        ]
    );
    assert_eq!(details.metadata.unwrap().architecture.as_deref(), Some("llama"));
    assert!(matches!(bench.store.details("unknown"), Err(Error::ModelNotFound { .. })));
    for id in ["", ".", "..", "m/..", "../models/m", ".cache", "/"] {
        assert!(matches!(bench.store.details(id), Err(Error::ModelNotFound { .. })), "{id}");
    }
}

// References

#[test]
fn unknown_is_not_found_and_never_a_substring() {
    let bench = Bench::new();
    bench.gguf("tinyllama/tinyllama-1.1b-chat-v1.0.Q4_K_M.gguf", 15, 1);
    for text in ["tiny", "llama", "tinyllam", "tinyllama2", "x/tiny", "mistral", "x/y", "nobody/tinyllam"] {
        assert_eq!(bench.meaning(text), "-", "{text}");
    }
    assert_eq!(bench.meaning("tinyllama"), "tinyllama");
    assert_eq!(bench.meaning("TinyLlama"), "tinyllama");
}

#[test]
fn the_order_of_meanings() {
    let bench = Bench::new();
    // An alias's folder has another name than the alias.
    bench.gguf("llama2-7b/llama-2-7b.Q8_0.gguf", 7, 1);
    assert_eq!(bench.meaning("llama2"), "llama2-7b");
    bench.gguf("llama2/other.gguf", 7, 1);
    assert_eq!(bench.meaning("llama2"), "llama2-7b");
    fs::remove_dir_all(bench.base.join("llama2-7b")).unwrap();
    assert_eq!(bench.meaning("llama2"), "llama2");

    // The last part of the name, the catalog's folder, the record: each outranks the one before.
    bench.gguf("tinyllama-1.1b-chat-v1.0-gguf/m.gguf", 15, 1);
    assert_eq!(bench.meaning(TINY), "tinyllama-1.1b-chat-v1.0-gguf");
    bench.gguf("tinyllama/m.gguf", 15, 1);
    assert_eq!(bench.meaning(TINY), "tinyllama");
    bench.fetched("mine", TINY, "m.gguf", b"x");
    assert_eq!(bench.meaning(TINY), "mine");
    assert_eq!(bench.meaning("thebloke/tinyllama-1.1b-chat-v1.0-gguf"), "mine");
    assert_eq!(bench.meaning("https://huggingface.co/TheBloke/TinyLlama-1.1B-Chat-v1.0-GGUF"), "mine");
}

#[test]
fn a_folder_of_another_repository_never_answers() {
    let bench = Bench::new();
    bench.fetched("model", "alice/model", "m-Q8_0.gguf", b"x");
    assert_eq!(bench.meaning("alice/model"), "model");
    assert_eq!(bench.meaning("bob/model"), "-");
    assert_eq!(bench.meaning("model"), "model");
    assert_eq!(bench.target_folder("bob/model", "bob/model"), "bob--model");
    assert_eq!(bench.target_folder("alice/model", "alice/model"), "model");
    bench.fetched("bob--model", "bob/model", "m-Q8_0.gguf", b"y");
    assert_eq!(bench.meaning("bob/model"), "bob--model");

    bench.fetched("tinyllama", "someone/else", "m.gguf", b"x");
    assert_eq!(bench.meaning(TINY), "-");
    assert_eq!(bench.target_folder("tinyllama", TINY), "tinyllama-1.1b-chat-v1.0-gguf");

    // A record that cannot be understood may be anybody's.
    bench.put("broken/.cache/llorch-models/source.json", b"{");
    bench.put("broken/m.gguf", b"x");
    assert_eq!(bench.meaning("org/broken"), "-");
    assert_eq!(bench.target_folder("org/broken", "org/broken"), "org--broken");
    assert!(bench.row("broken").warnings[0].contains("record is damaged"));
}

#[test]
fn a_download_that_has_only_begun_owns_its_folder() {
    let bench = Bench::new();
    record_of("alice/model", Vec::new()).merge(&bench.base.join("model"), &[]).unwrap();
    assert_eq!(bench.target_folder("bob/model", "bob/model"), "bob--model");
    // Also one that died before it could write a record.
    let key = staging_key(None, &["x"]);
    let (_, journal) = staging_paths(Path::new("other/m.gguf"), &key);
    bench.put(journal, b"{\"version\":1,\"repository\":\"alice/other\",\"commit\":\"c\"}\n    \n");
    assert_eq!(bench.target_folder("bob/other", "bob/other"), "bob--other");
    assert_eq!(bench.target_folder("alice/other", "alice/other"), "other");
    // A file or a link in the place of the folder is not built over.
    bench.put("taken", b"x");
    assert_eq!(bench.target_folder("bob/taken", "bob/taken"), "bob--taken");
    symlink("/", bench.base.join("bob--taken")).unwrap();
    let reference = Reference::parse("bob/taken").unwrap();
    assert!(matches!(bench.store.target_folder(&reference, "bob/taken"), Err(Error::UnsafePath { .. })));
}

#[test]
fn an_exact_name_with_a_colon_or_an_at_sign_is_reachable() {
    let bench = Bench::new();
    bench.gguf("model:latest/m-Q8_0.gguf", 7, 1);
    bench.gguf("model@v1/m-Q8_0.gguf", 7, 1);
    bench.gguf("model/m-Q8_0.gguf", 7, 1);
    assert_eq!(bench.meaning("model:latest"), "model:latest");
    assert_eq!(bench.meaning("model@v1"), "model@v1");
    assert_eq!(bench.meaning("model:Q8_0"), "model:Q8_0");
    assert_eq!(bench.meaning("model@v2"), "-");
}

#[test]
fn a_quantization_means_its_files_and_no_looser_label() {
    let bench = Bench::new();
    bench.gguf("m/m-Q4_K_M.gguf", 15, 1);
    bench.gguf("m/m-UD-Q4_K_M.gguf", 15, 2);
    bench.gguf("m/Q8_0/m-00001-of-00002.gguf", 7, 3);
    bench.gguf("m/Q8_0/m-00002-of-00002.gguf", 7, 4);
    bench.gguf("m/mmproj-m-F16.gguf", 1, 5);
    let files = |text: &str| -> Vec<String> {
        let resolved = bench.resolve(text).unwrap();
        bench.store.files(&resolved).unwrap().into_iter().map(|file| file.path).collect()
    };
    assert_eq!(files("m:q4_k_m"), ["m-Q4_K_M.gguf"]);
    assert_eq!(files("m:UD-Q4_K_M"), ["m-UD-Q4_K_M.gguf"]);
    assert_eq!(files("m:Q8_0"), ["Q8_0/m-00001-of-00002.gguf", "Q8_0/m-00002-of-00002.gguf"]);
    assert_eq!(bench.meaning("m:F16"), "-", "a projector is no quantization of the model");
    assert_eq!(bench.meaning("m:Q2_K"), "-");
    // The header decides where no name does.
    bench.gguf("phi/phi.gguf", 15, 1);
    assert_eq!(files("phi:Q4_K_M"), ["phi.gguf"]);
}

#[test]
fn a_revision_is_one_that_the_record_knows() {
    let bench = Bench::new();
    bench.fetched("m", "o/m", "m-Q8_0.gguf", b"x");
    assert_eq!(bench.meaning("o/m@main"), "m");
    assert_eq!(bench.meaning(&format!("o/m@{}", "c".repeat(8))), "m");
    assert_eq!(bench.meaning("o/m@v2"), "-");
    bench.gguf("unknown/m.gguf", 7, 1);
    assert_eq!(bench.meaning("unknown@main"), "-");
}

#[test]
fn two_folders_of_one_repository_are_told_apart() {
    let bench = Bench::new();
    bench.fetched("a", "o/model", "m-Q8_0.gguf", b"x");
    bench.fetched("b", "o/model", "m-Q4_K_M.gguf", b"y");
    assert_eq!(bench.meaning("o/model:Q8_0"), "a:Q8_0");
    assert_eq!(bench.meaning("o/model:Q4_K_M"), "b:Q4_K_M");
    let error = bench.store.resolve(&Reference::parse("o/model").unwrap()).unwrap_err();
    assert_eq!(error.to_string(), "'o/model' is ambiguous; say one of: flat:a, flat:b");
    bench.fetched("model", "o/model", "m-Q2_K.gguf", b"z");
    assert_eq!(bench.meaning("o/model"), "model");
}

#[test]
fn downloads_go_where_the_model_is_or_belongs() {
    let bench = Bench::new();
    assert_eq!(bench.target_folder("qwen", QWEN), "qwen");
    assert_eq!(bench.target_folder("qwen-fp16", QWEN), "qwen-fp16");
    assert_eq!(bench.target_folder(QWEN, QWEN), "qwen2.5-0.5b-instruct-gguf");
    bench.fetched("qwen", QWEN, QWEN_Q4, b"x");
    assert_eq!(bench.target_folder("qwen-fp16", QWEN), "qwen-fp16");
    assert_eq!(bench.target_folder(QWEN, QWEN), "qwen");
    // Another quantization joins those of its repository: one folder, one row, one record.
    assert_eq!(bench.target_folder(&format!("{QWEN}:Q8_0"), QWEN), "qwen");
    assert_eq!(bench.target_folder("org/Some.Model", "org/Some.Model"), "some.model");
    // The file in the folder that an earlier tool used is not fetched again.
    bench.put(format!("qwen/{QWEN_F16}"), b"y");
    assert_eq!(bench.target_folder("qwen-fp16", QWEN), "qwen");
    for bad in ["org/..", "org/.hidden", "org/a\nb"] {
        assert!(bench.store.target_folder(&Reference::parse("o/x").unwrap(), bad).is_err(), "{bad:?}");
    }
}

// Aliases that share a folder

fn shared_qwen() -> Bench {
    let bench = Bench::new();
    bench.put(format!("qwen/{QWEN_Q4}"), &gguf(15, 1));
    bench.put(format!("qwen/{QWEN_F16}"), &gguf(1, 2));
    for name in [QWEN_Q4, QWEN_F16] {
        bench.put(format!("qwen/.cache/huggingface/download/{name}.metadata"), b"c\ne\n1\n");
        bench.put(format!("qwen/.cache/huggingface/download/{name}.lock"), b"");
    }
    bench.put("qwen/.cache/huggingface/.gitignore", b"*");
    bench
}

#[test]
fn deleting_one_of_two_aliases_leaves_the_others_file() {
    for (first, mine, second, theirs) in
        [("qwen", QWEN_Q4, "qwen-fp16", QWEN_F16), ("qwen-fp16", QWEN_F16, "qwen", QWEN_Q4)]
    {
        let bench = shared_qwen();
        assert_eq!(bench.meaning(first), format!("qwen[{mine}]"));
        let plan = bench.plan(&[bench.store.find(&Reference::parse(first).unwrap()).unwrap().unwrap()]);
        let kept = plan.keep.iter().find(|kept| kept.path == bench.base.join("qwen").join(theirs)).unwrap();
        assert_eq!(kept.because, format!("belongs to {second}"));
        let before = fs::read(bench.base.join("qwen").join(theirs)).unwrap();
        assert_eq!(
            bench.delete(&[first]),
            [
                format!("qwen/{mine}"),
                format!("qwen/.cache/huggingface/download/{mine}.lock"),
                format!("qwen/.cache/huggingface/download/{mine}.metadata"),
            ]
        );
        assert_eq!(fs::read(bench.base.join("qwen").join(theirs)).unwrap(), before);
        assert_eq!(bench.meaning(first), "-", "what is gone is not the other alias's file");
        assert_ne!(bench.meaning(second), "-");
        bench.delete(&[second]);
        assert!(!bench.base.join("qwen").exists(), "a folder goes when only bookkeeping is left");
    }
}

#[test]
fn together_is_one_after_the_other() {
    let one = shared_qwen();
    one.delete(&["qwen"]);
    one.delete(&["qwen-fp16"]);
    let both = shared_qwen();
    both.delete(&["qwen", "qwen-fp16"]);
    assert_eq!(fs::read_dir(&one.base).unwrap().count(), 0);
    assert_eq!(fs::read_dir(&both.base).unwrap().count(), 0);
}

#[test]
fn an_alias_with_its_own_folder_is_found_there_first() {
    let bench = shared_qwen();
    bench.gguf(&format!("qwen-fp16/{QWEN_F16}"), 1, 9);
    assert_eq!(bench.meaning("qwen-fp16"), "qwen-fp16");
    assert_eq!(bench.meaning("qwen"), format!("qwen[{QWEN_Q4}]"));
    assert_eq!(bench.meaning("qwen:F16"), "qwen:F16");
    fs::remove_dir_all(bench.base.join("qwen-fp16")).unwrap();
    assert_eq!(bench.meaning("qwen-fp16:F16"), "qwen:F16");
    assert_eq!(bench.meaning("qwen-fp16:Q4_K_M"), "-", "that is qwen's file");
    assert_eq!(bench.meaning("Qwen"), format!("qwen[{QWEN_Q4}]"));
    // Somebody's own files in a former folder are not the alias's.
    let other = Bench::new();
    other.gguf("qwen/qwen-Q8_0.gguf", 7, 1);
    assert_eq!(other.meaning("qwen-fp16"), "-");
    assert_eq!(other.meaning("qwen"), "qwen");
}

// Plans

#[test]
fn a_whole_row_goes_in_safe_order_with_everything_in_it() {
    let bench = Bench::new();
    for number in 1..=3 {
        let bytes = gguf(7, number);
        bench.fetched("m", "o/m", &format!("Q8_0/m-{number:05}-of-00003.gguf"), &bytes);
    }
    bench.gguf("m/mmproj-f16.gguf", 1, 9);
    bench.put("m/readme.md", b"x");
    bench.put("m/.git/config", b"x");
    fs::create_dir(bench.base.join("m/empty")).unwrap();
    let key = staging_key(None, &["x"]);
    let (partial, journal) = staging_paths(Path::new("m/n-Q4_K_M.gguf"), &key);
    bench.put(&partial, b"half");
    bench.put(&journal, b"{}");
    let removed = bench.delete(&["m"]);
    assert!(!bench.base.join("m").exists());
    let at = |path: &str| removed.iter().position(|removed| removed == path).unwrap_or_else(|| panic!("{path}"));
    let order = [
        "m/Q8_0/m-00001-of-00003.gguf",
        "m/Q8_0/m-00002-of-00003.gguf",
        "m/Q8_0/m-00003-of-00003.gguf",
        "m/mmproj-f16.gguf",
        "m/readme.md",
        partial.to_str().unwrap(),
        journal.to_str().unwrap(),
        "m/.git/config",
        "m/.cache/huggingface/download/Q8_0/m-00001-of-00003.gguf.metadata",
        "m/.cache/huggingface/.gitignore",
        "m/.cache/llorch-models/source.json",
        "m",
    ];
    for pair in order.windows(2) {
        assert!(at(pair[0]) < at(pair[1]), "{} before {}", pair[0], pair[1]);
    }
    assert!(at("m/Q8_0") < at("m") && at("m/.cache/huggingface") < at("m/.cache"));
}

#[test]
fn a_quantization_takes_its_own_and_leaves_what_is_shared() {
    let bench = Bench::new();
    bench.fetched("m", "o/m", "Q4_K_M/m-00001-of-00002.gguf", &gguf(15, 1));
    bench.fetched("m", "o/m", "Q4_K_M/m-00002-of-00002.gguf", &gguf(15, 2));
    bench.fetched("m", "o/m", "m-Q8_0.gguf", &gguf(7, 3));
    bench.fetched("m", "o/m", "mmproj-m-f16.gguf", &gguf(1, 4));
    bench.fetched("m", "o/m", "config.json", b"{}");
    let key = staging_key(None, &["x"]);
    let (partial, journal) = staging_paths(Path::new("m/m-Q8_0.gguf"), &key);
    bench.put(&partial, b"half");
    bench.put(&journal, b"{}");

    let plan = bench.plan(&[Target { id: "m".to_owned(), part: Part::Quantization("Q4_K_M".to_owned()) }]);
    let kept = |name: &str| plan.keep.iter().find(|kept| kept.path.ends_with(name)).map(|kept| kept.because.as_str());
    assert_eq!(kept("mmproj-m-f16.gguf"), Some("also used by m-Q8_0.gguf"));
    assert_eq!(kept("config.json"), Some("also used by m-Q8_0.gguf"));
    assert_eq!(kept("m-Q8_0.gguf"), Some("was not asked for"));
    assert_eq!(
        bench.delete(&["m:Q4_K_M"]),
        [
            "m/Q4_K_M/m-00001-of-00002.gguf",
            "m/Q4_K_M/m-00002-of-00002.gguf",
            "m/.cache/huggingface/download/Q4_K_M/m-00001-of-00002.gguf.metadata",
            "m/.cache/huggingface/download/Q4_K_M/m-00002-of-00002.gguf.metadata",
            "m/Q4_K_M",
            "m/.cache/huggingface/download/Q4_K_M",
        ]
    );
    // What was deleted on purpose is not missed, neither by the table nor by a check.
    assert!(!bench.row("m").warnings.iter().any(|line| line.contains("missing")));
    let (_, statuses) = bench.check("m", Depth::Full);
    assert!(statuses.keys().all(|path| !path.starts_with("Q4_K_M")), "{statuses:?}");

    let removed = bench.delete(&["m:q8_0"]);
    assert!(removed.contains(&partial.to_str().unwrap().to_owned()));
    assert!(removed.contains(&"m/mmproj-m-f16.gguf".to_owned()), "no other model uses it");
    assert!(bench.base.join("m/config.json").exists(), "it was not asked for");
}

#[test]
fn what_a_running_download_works_on_is_blocked_and_its_books_stay() {
    let bench = Bench::new();
    bench.fetched("m", "o/m", "m-Q8_0.gguf", &gguf(7, 1));
    let key = staging_key(None, &["x"]);
    let (partial, journal) = staging_paths(Path::new("m/m-Q4_K_M.gguf"), &key);
    bench.put(&partial, b"half");
    bench.put(&journal, b"{}");
    let lock = FileLock::try_exclusive(&bench.base.join(&journal)).unwrap().unwrap();
    let plan = bench.plan(&[whole("m")]);
    let blocked: BTreeSet<_> = plan.blocked.iter().map(|blocked| blocked.path.clone()).collect();
    assert_eq!(blocked, BTreeSet::from([bench.base.join(&partial), bench.base.join(&journal)]));
    assert!(plan.blocked[0].because.contains("is being downloaded by"), "{:?}", plan.blocked);
    let removes = bench.relative(plan.steps.iter().map(Step::path));
    assert_eq!(removes, ["m/m-Q8_0.gguf", "m/.cache/huggingface/download/m-Q8_0.gguf.metadata"]);
    drop(lock);
    assert_eq!(bench.plan(&[whole("m")]).blocked, []);

    // The official client holds a lock beside its sidecar.
    let theirs = bench.put("m/.cache/huggingface/download/m-Q8_0.gguf.lock", b"");
    let _lock = FileLock::try_exclusive(&theirs).unwrap().unwrap();
    let plan = bench.plan(&[Target { id: "m".to_owned(), part: Part::Quantization("Q8_0".to_owned()) }]);
    assert_eq!(plan.blocked.len(), 1);
    assert_eq!(plan.steps, []);

    // Even when the file is not there yet; but then only the whole row has to wait.
    let other = Bench::new();
    other.gguf("m/a-Q8_0.gguf", 7, 1);
    other.gguf("m/b-Q4_K_M.gguf", 15, 1);
    let coming = other.put("m/.cache/huggingface/download/c.gguf.lock", b"");
    let _lock = FileLock::try_exclusive(&coming).unwrap().unwrap();
    let plan = other.plan(&[whole("m")]);
    assert_eq!(plan.blocked.iter().map(|blocked| &blocked.path).collect::<Vec<_>>(), [&coming]);
    assert_eq!(other.delete(&["m:Q8_0"]), ["m/a-Q8_0.gguf"]);
    assert_eq!(other.delete(&["m:Q4_K_M"]), ["m/b-Q4_K_M.gguf"]);
    assert!(coming.exists());
}

#[test]
fn other_rows_that_link_here_break() {
    let bench = Bench::new();
    bench.gguf("m/m-Q8_0.gguf", 7, 1);
    bench.gguf("m/m-Q4_K_M.gguf", 15, 2);
    symlink("m-Q8_0.gguf", bench.base.join("m/latest.gguf")).unwrap();
    fs::create_dir(bench.base.join("user")).unwrap();
    symlink("../m/latest.gguf", bench.base.join("user/model.gguf")).unwrap();
    symlink("../m", bench.base.join("user/folder")).unwrap();
    let plan = bench.plan(&[Target { id: "m".to_owned(), part: Part::Quantization("Q8_0".to_owned()) }]);
    let broken: Vec<_> = plan.breaks.iter().map(|broken| (broken.model.id.as_str(), broken.path.clone())).collect();
    assert_eq!(broken, [("user", bench.base.join("user/model.gguf"))]);
    let kept = plan.keep.iter().find(|kept| kept.path.ends_with("latest.gguf")).unwrap();
    assert!(kept.because.contains("will lead to nothing"), "{kept:?}");
    assert_eq!(bench.plan(&[whole("m")]).breaks.len(), 2);
    assert_eq!(bench.plan(&[whole("m"), whole("user")]).breaks, []);
}

#[test]
fn hard_links_and_holes_count_what_they_free() {
    let bench = Bench::new();
    let bytes = gguf(7, 1);
    let here = bench.put("a/m-Q8_0.gguf", &bytes);
    fs::create_dir(bench.base.join("b")).unwrap();
    fs::hard_link(&here, bench.base.join("b/m-Q8_0.gguf")).unwrap();
    let sparse = bench.put("c/hole-Q8_0.gguf", &bytes);
    fs::File::options().write(true).open(&sparse).unwrap().set_len(1 << 30).unwrap();
    let kept_outside = bench.put("d/m-Q8_0.gguf", &bytes);
    fs::hard_link(&kept_outside, bench.outside("backup")).unwrap();

    let (rows, summary) = bench.scan();
    assert_eq!((rows["a"].disk_bytes, rows["a"].reclaimable_bytes), (blocks(&here), 0));
    assert_eq!(summary.disk_bytes, blocks(&here) + blocks(&sparse) + blocks(&kept_outside));
    assert_eq!(rows["c"].size_bytes, 1 << 30);
    assert_eq!(rows["c"].reclaimable_bytes, blocks(&sparse));
    assert!(blocks(&sparse) < 1 << 20);
    assert_eq!(rows["d"].reclaimable_bytes, 0);

    let alone = bench.plan(&[whole("a")]);
    assert_eq!(alone.expected_bytes, 0);
    assert!(alone.keep.iter().any(|kept| kept.path == bench.base.join("b/m-Q8_0.gguf")), "{:?}", alone.keep);
    let both = bench.plan(&[whole("a"), whole("b")]);
    assert_eq!(both.expected_bytes, blocks(&here));
    let report = run(&bench.plan(&[whole("a"), whole("b"), whole("c"), whole("d")]));
    assert_eq!(report.freed_bytes, rows["b"].disk_bytes + rows["c"].disk_bytes);
    assert!(bench.outside("backup").exists());
}

#[test]
fn a_target_that_is_not_there_refuses_the_whole_plan() {
    let bench = Bench::new();
    bench.gguf("m/m-Q8_0.gguf", 7, 1);
    let missing = [
        whole("gone"),
        Target { id: "m".to_owned(), part: Part::Quantization("Q2_K".to_owned()) },
        Target { id: "m".to_owned(), part: Part::Files(vec!["other.gguf".to_owned()]) },
        Target { id: "m".to_owned(), part: Part::Files(vec!["../m/m-Q8_0.gguf".to_owned()]) },
        Target { id: "m".to_owned(), part: Part::Revision("main".to_owned()) },
    ];
    for target in missing {
        let result = bench.store.plan_deletion(&[whole("m"), target.clone()]);
        assert!(matches!(result, Err(Error::ModelNotFound { .. })), "{target:?}");
    }
    assert_eq!(bench.plan(&[]), Plan::default());
    assert_eq!(bench.plan(&[whole("m"), whole("m")]).models.len(), 1);
}

#[test]
fn a_root_that_is_a_link_is_resolved_once() {
    let bench = Bench::new();
    bench.gguf("m/m-Q8_0.gguf", 7, 1);
    let link = bench.outside("models");
    symlink(&bench.base, &link).unwrap();
    let store = FlatStore::new(link.clone(), aliases());
    assert_eq!(store.root(), bench.base);
    let report = run(&store.plan_deletion(&[whole("m")]).unwrap());
    assert_eq!(report.failed, []);
    assert!(link.exists() && !bench.base.join("m").exists());
}

struct StopAt(usize);

impl Hook for StopAt {
    fn before(&mut self, index: usize, _step: &Step) -> Decision {
        if index == self.0 { Decision::Stop } else { Decision::Proceed }
    }
}

#[test]
fn a_deletion_that_dies_leaves_nothing_that_looks_whole() {
    let fill = || {
        let bench = Bench::new();
        for number in 1..=3 {
            bench.fetched("m", "o/m", &format!("m-{number:05}-of-00003.gguf"), &gguf(7, number));
        }
        bench.fetched("m", "o/m", "config.json", b"{}");
        bench
    };
    let steps = fill().plan(&[whole("m")]).steps.len();
    for stop in 1..steps {
        let bench = fill();
        let plan = bench.plan(&[whole("m")]);
        deletion::run(&plan, &mut StopAt(stop), &|_| false, &mut |_, _| {}, &CancellationToken::new());
        let row = bench.row("m");
        assert!(!row.complete || row.kind == ModelKind::Other, "after {stop} steps: {:?}", row.warnings);
        let (ok, files) = bench.check("m", Depth::Quick);
        assert!(!ok || files.is_empty(), "after {stop} steps: {files:?}");
        let report = run(&bench.plan(&[whole("m")]));
        assert_eq!(report.failed, []);
        assert_eq!(fs::read_dir(&bench.base).unwrap().count(), 0);
    }
}

// Verification

#[test]
fn every_kind_of_damage_is_told() {
    let bench = Bench::new();
    let names = ["ok-Q8_0.gguf", "bad-Q4_K_M.gguf", "cut-Q2_K.gguf", "long-Q6_K.gguf", "gone-Q5_K_M.gguf"];
    for (seed, name) in names.iter().enumerate() {
        bench.fetched("m", "o/m", name, &gguf(7, seed as u64));
    }
    let change = |name: &str, edit: &dyn Fn(&mut Vec<u8>)| {
        let path = bench.base.join("m").join(name);
        let mut bytes = fs::read(&path).unwrap();
        edit(&mut bytes);
        fs::write(path, bytes).unwrap();
    };
    change("bad-Q4_K_M.gguf", &|bytes| *bytes.last_mut().unwrap() ^= 1);
    change("cut-Q2_K.gguf", &|bytes| bytes.truncate(bytes.len() / 2));
    change("long-Q6_K.gguf", &|bytes| bytes.push(0));
    fs::remove_file(bench.base.join("m/gone-Q5_K_M.gguf")).unwrap();
    bench.gguf("m/own-Q3_K_S.gguf", 11, 50);
    bench.gguf("m/set-00002-of-00003.gguf", 7, 51);
    bench.put("m/notes.txt", b"x");
    use FileStatus::{Corrupt, Extra, Missing, NoChecksum, Ok, Truncated};
    let expected = [
        ("ok-Q8_0.gguf", Ok),
        ("bad-Q4_K_M.gguf", Corrupt),
        ("cut-Q2_K.gguf", Truncated),
        ("long-Q6_K.gguf", Extra),
        ("gone-Q5_K_M.gguf", Missing),
        ("own-Q3_K_S.gguf", NoChecksum),
        ("set-00001-of-00003.gguf", Missing),
        ("set-00002-of-00003.gguf", NoChecksum),
        ("set-00003-of-00003.gguf", Missing),
        ("notes.txt", NoChecksum),
    ];
    let (ok, found) = bench.check("m", Depth::Full);
    assert!(!ok);
    assert_eq!(found, expected.iter().map(|(path, status)| ((*path).to_owned(), *status)).collect());
    let (_, quick) = bench.check("m", Depth::Quick);
    assert_eq!(quick["bad-Q4_K_M.gguf"], Ok, "a quick check reads no content");
    assert_eq!(quick["cut-Q2_K.gguf"], Truncated);
}

#[test]
fn a_newer_download_by_the_official_client_outranks_the_record() {
    let bench = Bench::new();
    bench.fetched("m", "o/m", "m-Q8_0.gguf", &gguf(7, 1));
    let newer = [gguf(7, 2), vec![0; 32]].concat();
    bench.put("m/m-Q8_0.gguf", &newer);
    let name = RepoPath::parse("m-Q8_0.gguf").unwrap();
    sidecar::write(&bench.base.join("m"), &name, &"d".repeat(40), &sha256(&newer).to_string()).unwrap();
    assert!(bench.check("m", Depth::Full).0);
    assert!(bench.row("m").complete);
}

#[test]
fn an_alias_is_checked_for_its_own_file_only() {
    let bench = shared_qwen();
    bench.put(format!("qwen/{QWEN_F16}"), b"");
    let target = bench.store.find(&Reference::parse("qwen").unwrap()).unwrap().unwrap();
    let files = bench.store.expected(&target).unwrap();
    assert_eq!(files.iter().map(|file| file.path.as_str()).collect::<Vec<_>>(), [QWEN_Q4]);
}

// Any store, any subset

const ROWS: [&str; 5] = ["qwen", "qwen-fp16", "m", "n", "odd \u{1b} name"];

const FILES: [&str; 17] = [
    QWEN_Q4,
    QWEN_F16,
    "a-Q8_0.gguf",
    "a-Q4_K_M-00001-of-00002.gguf",
    "a-Q4_K_M-00002-of-00002.gguf",
    "Q2_K/b-00001-of-00003.gguf",
    "Q2_K/b-00003-of-00003.gguf",
    "deep/er/c-Q8_0.gguf",
    "mmproj-a-f16.gguf",
    "config.json",
    "readme.md",
    ".git/config",
    ".gitattributes",
    "a-Q8_0.gguf.0123456789abcdef.llorch",
    "a-Q8_0.gguf.0123456789abcdef.llorch.json",
    ".cache/other-tool/x",
    "pytorch_model.bin",
];

const PARTS: [&str; 5] = ["", ":Q8_0", ":Q4_K_M", ":Q2_K", ":F16"];

/// What a random store is made of; making it twice gives the same store.
#[derive(Clone, Debug)]
struct Recipe {
    files: BTreeSet<(usize, usize)>,
    fetched: BTreeSet<usize>,
    hard_links: Vec<(usize, usize, usize)>,
    links: Vec<(usize, usize, usize)>,
    targets: Vec<(usize, usize)>,
}

fn recipe() -> impl Strategy<Value = Recipe> {
    let (rows, files) = (0..ROWS.len(), 0..FILES.len());
    (
        prop::collection::btree_set((rows.clone(), files.clone()), 1..40),
        prop::collection::btree_set(rows.clone(), 0..3),
        prop::collection::vec((rows.clone(), files.clone(), rows.clone()), 0..4),
        prop::collection::vec((rows.clone(), files, rows.clone()), 0..4),
        prop::collection::vec((rows, 0..PARTS.len()), 1..5),
    )
        .prop_map(|(files, fetched, hard_links, links, targets)| Recipe {
            files,
            fetched,
            hard_links,
            links,
            targets,
        })
}

/// The number in a header for the quantization that the name tells.
fn file_type_of(name: &str) -> u32 {
    let label = Quantization::of_path(&RepoPath::parse(name).unwrap());
    match label.as_ref().map(Quantization::as_str) {
        Some("Q8_0") => 7,
        Some("Q2_K") => 10,
        Some("F16") => 1,
        _ => 15,
    }
}

fn build(recipe: &Recipe) -> Bench {
    let bench = Bench::new();
    for &(row, file) in &recipe.files {
        let path = Path::new(ROWS[row]).join(FILES[file]);
        let bytes = if FILES[file].ends_with(".gguf") {
            gguf(file_type_of(FILES[file]), (row * 100 + file) as u64)
        } else {
            vec![7; 100 + file * 5000]
        };
        bench.put(path, &bytes);
        if recipe.fetched.contains(&row) && FILES[file].ends_with(".gguf") {
            bench.record(ROWS[row], "o/m", &[FILES[file]]);
            let name = RepoPath::parse(FILES[file]).unwrap();
            sidecar::write(&bench.base.join(ROWS[row]), &name, &"c".repeat(40), &"ab".repeat(32)).unwrap();
        }
    }
    for (number, &(row, file, to)) in recipe.hard_links.iter().enumerate() {
        let from = bench.base.join(ROWS[row]).join(FILES[file]);
        if from.exists() {
            // Every other one lies outside of the store.
            // A name that tells no quantization: the header of what it links to does.
            let name = format!("linked-{number}.gguf");
            let to = if number % 2 == 0 { bench.base.join(ROWS[to]).join(name) } else { bench.outside(&name) };
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::hard_link(from, to).unwrap();
        }
    }
    for (number, &(row, file, to)) in recipe.links.iter().enumerate() {
        let folder = bench.base.join(ROWS[to]);
        fs::create_dir_all(&folder).unwrap();
        let target = Path::new("..").join(ROWS[row]).join(FILES[file]);
        symlink(target, folder.join(format!("link-{number}-Q4_K_M.gguf"))).unwrap();
    }
    fs::write(bench.outside("untouched"), b"x").unwrap();
    bench
}

/// Everything below the scratch folder by its relative path: what it is, and its content.
fn snapshot(bench: &Bench) -> BTreeMap<PathBuf, Vec<u8>> {
    fn visit(folder: &Path, top: &Path, all: &mut BTreeMap<PathBuf, Vec<u8>>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let kind = fs::symlink_metadata(&path).unwrap().file_type();
            let content = if kind.is_symlink() {
                [b"link ", fs::read_link(&path).unwrap().as_os_str().as_bytes()].concat()
            } else if kind.is_dir() {
                visit(&path, top, all);
                b"folder".to_vec()
            } else {
                [b"file ", fs::read(&path).unwrap().as_slice()].concat()
            };
            all.insert(path.strip_prefix(top).unwrap().to_owned(), content);
        }
    }
    let mut all = BTreeMap::new();
    visit(bench.base.parent().unwrap(), bench.base.parent().unwrap(), &mut all);
    all
}

/// Blocks of every regular file below the scratch folder, an inode once.
fn used(bench: &Bench) -> u64 {
    fn visit(folder: &Path, inodes: &mut BTreeMap<(u64, u64), u64>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let metadata = fs::symlink_metadata(&path).unwrap();
            if metadata.is_dir() {
                visit(&path, inodes);
            } else if metadata.is_file() {
                inodes.insert((metadata.dev(), metadata.ino()), metadata.blocks() * 512);
            }
        }
    }
    let mut inodes = BTreeMap::new();
    visit(bench.base.parent().unwrap(), &mut inodes);
    inodes.values().sum()
}

/// Runs a plan and holds it to what it said; gives the bytes that it freed.
fn run_and_hold(bench: &Bench, plan: &Plan) -> u64 {
    let (before, used_before) = (snapshot(bench), used(bench));
    let report = run(plan);
    assert_eq!(report.failed, []);
    let top = bench.base.parent().unwrap();
    let planned: BTreeSet<PathBuf> =
        plan.steps.iter().map(|step| step.path().strip_prefix(top).unwrap().to_owned()).collect();
    let left: BTreeMap<_, _> = before.into_iter().filter(|(path, _)| !planned.contains(path)).collect();
    assert_eq!(snapshot(bench), left, "only what the plan names goes, and all of it");
    assert_eq!(report.freed_bytes, plan.expected_bytes);
    assert_eq!(used_before - used(bench), plan.expected_bytes);
    report.freed_bytes
}

fn targets_of(bench: &Bench, recipe: &Recipe) -> Vec<Target> {
    let mut targets: Vec<Target> = Vec::new();
    for &(row, part) in &recipe.targets {
        let text = format!("{}{}", ROWS[row], PARTS[part]);
        let found = bench.store.find(&Reference::parse(&text).unwrap()).unwrap();
        targets.extend(found.filter(|target| !targets.contains(target)));
    }
    targets
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_subset_goes_in_any_order_and_nothing_else(recipe in recipe()) {
        let together = build(&recipe);
        let targets = targets_of(&together, &recipe);
        let plan = together.plan(&targets);
        let going: BTreeSet<PathBuf> = plan.steps.iter().map(Step::path).collect();
        for kept in &plan.keep {
            prop_assert!(!going.contains(&kept.path), "{:?} stays and goes", kept);
        }
        for path in &going {
            let id = path.strip_prefix(&together.base).unwrap().iter().next().unwrap().to_str().unwrap();
            let parts: Vec<&Part> = targets.iter().filter(|target| target.id == id).map(|target| &target.part).collect();
            prop_assert!(!parts.is_empty(), "{path:?} is in no row that was asked for");
            let label = Quantization::of_file_name(path.file_name().unwrap().to_str().unwrap());
            let is_weights = Role::of(path.file_name().unwrap().to_str().unwrap()) == Role::Weights;
            if let Some(label) = label.filter(|_| is_weights) {
                let meant = parts.iter().any(|part| match part {
                    Part::Quantization(wanted) => label.is(wanted),
                    Part::Files(files) => files.iter().any(|file| path.ends_with(file)),
                    _ => true,
                });
                prop_assert!(meant, "{path:?} was not asked for");
            }
        }
        let freed = run_and_hold(&together, &plan);

        let stepwise = build(&recipe);
        prop_assert_eq!(&targets_of(&stepwise, &recipe), &targets);
        let mut sum = 0;
        for target in &targets {
            match stepwise.store.plan_deletion(std::slice::from_ref(target)) {
                Ok(plan) => sum += run_and_hold(&stepwise, &plan),
                // It went with another one.
                Err(error) => prop_assert!(matches!(error, Error::ModelNotFound { .. }), "{error}"),
            }
        }
        prop_assert_eq!(sum, freed);
        prop_assert_eq!(
            snapshot(&stepwise).into_keys().collect::<Vec<_>>(),
            snapshot(&together).into_keys().collect::<Vec<_>>()
        );
        let (rows, summary) = together.scan();
        let of_rows: u64 = rows.values().map(|row| row.reclaimable_bytes).sum();
        prop_assert!(of_rows <= summary.disk_bytes);
    }
}
