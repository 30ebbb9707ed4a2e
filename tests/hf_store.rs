//! The Hugging Face cache over constructed trees: rows, plans, crashes, verification.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use rbee_hive::Error;
use rbee_hive::disk::deletion::{Decision, Hook, NoHook};
use rbee_hive::disk::lock::FileLock;
use rbee_hive::format::gguf::{TensorType, Writer};
use rbee_hive::model::{FileStatus, Format, ModelKind, Plan, Quantization, Reference, Step, text};
use rbee_hive::store::hf::HfStore;
use rbee_hive::store::verify::{self, Depth};
use rbee_hive::store::{Part, Store, Target};
use support::hf_cache::{Cache, blocks, commit, du, git_id, inodes, names, noise, revision, run_with, sha256, whole};
use tokio_util::sync::CancellationToken;

const A: &str = "models--org--a";
const B: &str = "models--org--b";

fn gguf(seed: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    Writer::new("llama")
        .key("general.file_type", 15_u32)
        .key("llama.context_length", 2048_u32)
        .tensor("token_embd.weight", &[256, 64], TensorType::Q4_K)
        .write_to(&mut bytes, seed)
        .unwrap();
    bytes
}

fn part(id: &str, part: Part) -> Target {
    Target { id: id.to_owned(), part }
}

fn quantization(id: &str, label: &str) -> Target {
    part(id, Part::Quantization(label.to_owned()))
}

fn quantization_of(id: &str, label: &str, revision: &str) -> Target {
    part(id, Part::QuantizationOf { quantization: label.to_owned(), revision: revision.to_owned() })
}

fn files(id: &str, paths: &[&str]) -> Target {
    part(id, Part::Files(paths.iter().map(|&path| path.to_owned()).collect()))
}

fn says(warnings: &[String], text: &str) {
    assert!(warnings.iter().any(|line| line.contains(text)), "'{text}' is not in {warnings:?}");
}

fn kept(plan: &Plan, path: &Path, because: &str) {
    let found = plan.keep.iter().find(|kept| kept.path == path);
    let found = found.unwrap_or_else(|| panic!("{} is not kept: {:?}", path.display(), plan.keep));
    assert!(found.because.contains(because), "{found:?}");
}

// Rows

#[test]
fn a_missing_and_an_empty_cache_have_no_rows() {
    let cache = Cache::new();
    assert_eq!(cache.scan().0.len(), 0);
    let store = HfStore::new(cache.hub.join("not/there"));
    let summary = store.scan(&mut |_| panic!("a row"), &CancellationToken::new());
    assert_eq!((summary.models, summary.disk_bytes, summary.warnings.len()), (0, 0, 0));
    assert_eq!(store.find(&Reference::parse("org/a").unwrap()).unwrap(), None);
    assert!(matches!(store.details("org/a"), Err(Error::ModelNotFound { .. })));
    assert!(matches!(store.plan_deletion(&[whole("org/a")]), Err(Error::ModelNotFound { .. })));
    assert!(matches!(cache.store().plan_deletion(&[whole("org/a")]), Err(Error::ModelNotFound { .. })));
}

#[test]
fn a_row_has_its_figures() {
    let cache = Cache::new();
    let weights = gguf(1);
    cache.file(A, &commit('1'), "a-Q4_K_M.gguf", &weights);
    cache.put(format!("{A}/blobs/{}", git_id(b"{}")), b"{}");
    cache.name(A, &commit('1'), "sub/config.json", &git_id(b"{}"));
    cache.reference(A, "main", &commit('1'));
    cache.put(format!("{A}/.no_exist/{}/tokenizer.json", commit('1')), b"");
    cache.put(format!("{A}/trees/{}.json", commit('1')), &noise(5000, 3));
    cache.put("CACHEDIR.TAG", b"Signature: 8a477f597d28d172789f06886806bc55");
    cache.put(format!(".locks/{A}/x.lock"), b"");
    let row = cache.row("org/a");
    assert_eq!((row.kind, row.format), (ModelKind::Model, Some(Format::Gguf)));
    assert_eq!(row.reference.as_deref(), Some("org/a"));
    assert_eq!(row.path, cache.hub.join(A));
    assert_eq!(row.quantization, Some(Quantization::new("Q4_K_M")));
    assert_eq!((row.architecture.as_deref(), row.context_length), (Some("llama"), Some(2048)));
    assert_eq!(row.parameters, Some(256 * 64));
    assert_eq!((row.file_count, row.size_bytes), (2, weights.len() as u64 + 2));
    let everything = du(&cache.hub.join(A));
    assert_eq!((row.disk_bytes, row.reclaimable_bytes), (everything, everything));
    assert_eq!((row.complete, row.warnings), (true, Vec::new()));
    assert!(row.owner.is_some() && row.modified.is_some() && row.accessed.is_some() && row.in_use_by.is_none());
    assert_eq!(cache.scan().1.disk_bytes, du(&cache.hub));
}

#[test]
fn revisions_that_share_blobs_count_them_once() {
    let cache = Cache::new();
    let (shared, old, new) = (noise(20_000, 1), noise(9_000, 2), noise(30_000, 3));
    let shared_blob = cache.file(A, &commit('1'), "w.safetensors", &shared);
    let old_blob = cache.file(A, &commit('1'), "config.json", &old);
    cache.file(A, &commit('2'), "w.safetensors", &shared);
    let new_blob = cache.file(A, &commit('2'), "config.json", &new);
    cache.reference(A, "main", &commit('2'));
    let row = cache.row("org/a");
    assert_eq!((row.file_count, row.size_bytes), (3, 59_000));
    let blobs = blocks(&shared_blob) + blocks(&old_blob) + blocks(&new_blob);
    assert_eq!(row.disk_bytes, blobs + blocks(&cache.hub.join(A).join("refs/main")));
    assert_eq!(row.reclaimable_bytes, row.disk_bytes);
    assert_eq!(row.format, Some(Format::Safetensors));

    let details = cache.store().details("org/a").unwrap();
    let revisions: Vec<_> = details
        .revisions
        .iter()
        .map(|revision| (revision.commit.clone(), revision.refs.clone(), revision.reclaimable_bytes))
        .collect();
    let expected =
        [(commit('2'), vec!["main".to_owned()], blocks(&new_blob)), (commit('1'), Vec::new(), blocks(&old_blob))];
    assert_eq!(revisions, expected);
    let listed: Vec<_> = details.files.iter().map(|file| (file.path.clone(), file.size_bytes)).collect();
    let expected = [
        ("w.safetensors".to_owned(), 20_000),
        ("config.json".to_owned(), 30_000),
        ("config.json@11111111".to_owned(), 9_000),
    ];
    assert_eq!(listed, expected);
    assert_eq!(details.files[0].sha256.map(|digest| digest.to_string()), Some(sha256(&shared)));
}

#[test]
fn a_payload_that_two_repositories_share_is_in_both_rows_and_in_the_total_once() {
    let cache = Cache::new();
    let (both, own) = (noise(50_000, 1), noise(10_000, 2));
    let payload = cache.shared(A, &commit('1'), "w.bin", &both);
    let single = cache.shared(A, &commit('1'), "x.bin", &own);
    cache.shared(B, &commit('2'), "w.bin", &both);
    cache.reference(A, "main", &commit('1'));
    cache.reference(B, "main", &commit('2'));
    let list = |payload: &Path| blocks(&payload.with_extension("refs"));
    let reference = blocks(&cache.hub.join(A).join("refs/main"));
    let (rows, summary) = cache.scan();
    let row = &rows["org/a"];
    assert_eq!((row.file_count, row.size_bytes), (2, 60_000));
    let all = blocks(&payload) + list(&payload) + blocks(&single) + list(&single) + reference;
    assert_eq!((row.disk_bytes, row.reclaimable_bytes), (all, blocks(&single) + list(&single) + reference));
    let row = cache.row("org/b");
    assert_eq!((row.file_count, row.size_bytes), (1, 50_000));
    assert_eq!((row.disk_bytes, row.reclaimable_bytes), (blocks(&payload) + list(&payload) + reference, reference));
    assert_eq!(summary.disk_bytes, du(&cache.hub));
    assert!(rows.values().all(|row| row.complete && row.warnings.is_empty()), "{rows:?}");
    let alone = |id: &str| cache.store().details(id).unwrap().revisions[0].reclaimable_bytes;
    assert_eq!((alone("org/a"), alone("org/b")), (blocks(&single), 0));
}

#[test]
fn without_links_every_file_is_in_the_snapshot() {
    let cache = Cache::new();
    let top = Path::new(A).join("snapshots").join(commit('1'));
    cache.put(top.join("a-Q8_0.gguf"), &gguf(1));
    cache.put(top.join("sub/config.json"), b"{}");
    // One that was a blob before is copied.
    cache.put(format!("{A}/blobs/{}", sha256(&gguf(1))), &gguf(1));
    let row = cache.row("org/a");
    assert_eq!((row.file_count, row.size_bytes), (2, gguf(1).len() as u64 + 2));
    assert_eq!((row.disk_bytes, row.reclaimable_bytes), (du(&cache.hub), du(&cache.hub)));
    // The header is shown, the name selects.
    assert_eq!((row.quantization_label().as_str(), row.selects[0].as_str()), ("Q4_K_M", "Q8_0"));
    says(&row.warnings, "a-Q8_0: named Q8_0, but Q4_K_M by its header");
    assert!(row.complete);
    says(&row.warnings, "in blobs that no revision names");
    cache.delete(&[whole("org/a")]);
}

#[test]
fn datasets_and_spaces_are_rows_of_their_kind() {
    let cache = Cache::new();
    for folder in
        ["datasets--org--a", "spaces--org--a", "kernels--org--a", A, "models--gpt2", "models--datasets--org--a"]
    {
        cache.file(folder, &commit('1'), "data.bin", &noise(6000, folder.len() as u64));
    }
    cache.put("something/else", b"x");
    let rows = cache.scan().0;
    let kinds: BTreeMap<&str, ModelKind> = rows.iter().map(|(id, row)| (id.as_str(), row.kind)).collect();
    let expected = BTreeMap::from([
        ("datasets/org/a", ModelKind::Dataset),
        ("spaces/org/a", ModelKind::Space),
        ("kernels/org/a", ModelKind::Other),
        ("org/a", ModelKind::Model),
        ("gpt2", ModelKind::Model),
        ("models/datasets/org/a", ModelKind::Model),
    ]);
    assert_eq!(kinds, expected);
    assert_eq!(cache.scan().1.disk_bytes, du(&cache.hub));
    // An id never deletes another kind's folder.
    cache.delete(&[whole("datasets/org/a")]);
    assert!(!cache.hub.join("datasets--org--a").exists());
    assert_eq!(cache.scan().0.len(), 5);
    cache.delete(&[whole("models/datasets/org/a")]);
    assert!(cache.hub.join(A).exists() && !cache.hub.join("models--datasets--org--a").exists());
    // A reference means a model.
    assert_eq!(cache.store().find(&Reference::parse("datasets/org").unwrap()).unwrap(), None);
}

#[test]
fn hard_links_elsewhere_keep_the_bytes() {
    let cache = Cache::new();
    let blob = cache.file(A, &commit('1'), "w.bin", &noise(40_000, 1));
    fs::hard_link(&blob, cache.scratch.path().join("backup")).unwrap();
    let row = cache.row("org/a");
    assert_eq!((row.size_bytes, row.disk_bytes, row.reclaimable_bytes), (40_000, blocks(&blob), 0));
    let (_, freed) = cache.delete(&[whole("org/a")]);
    assert_eq!(freed, 0);
    assert_eq!(fs::read(cache.scratch.path().join("backup")).unwrap(), noise(40_000, 1));
}

#[test]
fn hard_links_inside_the_row_count_once_and_go() {
    let cache = Cache::new();
    let blob = cache.file(A, &commit('1'), "w.bin", &noise(40_000, 1));
    fs::hard_link(&blob, cache.hub.join(A).join("blobs/second")).unwrap();
    cache.name(A, &commit('1'), "v.bin", "second");
    let row = cache.row("org/a");
    assert_eq!((row.file_count, row.size_bytes), (1, 40_000));
    assert_eq!((row.disk_bytes, row.reclaimable_bytes), (blocks(&blob), blocks(&blob)));
    let (_, freed) = cache.delete(&[files("org/a", &["v.bin"])]);
    assert_eq!(freed, 0);
    let (_, freed) = cache.delete(&[whole("org/a")]);
    assert!(freed >= 40_000);
}

#[test]
fn sparse_blobs_count_their_blocks() {
    let cache = Cache::new();
    let blob = cache.put(format!("{A}/blobs/{}", "5".repeat(64)), b"");
    fs::OpenOptions::new().write(true).open(&blob).unwrap().set_len(1 << 30).unwrap();
    cache.name(A, &commit('1'), "w.bin", &"5".repeat(64));
    let row = cache.row("org/a");
    assert_eq!((row.size_bytes, row.disk_bytes), (1 << 30, blocks(&blob)));
    assert!(row.disk_bytes < 1 << 20);
}

#[test]
fn partials_of_every_client_are_known() {
    let suffixes =
        [".incomplete", ".0123abcd.incomplete", ".part", ".sync.part", ".downloadInProgress", ".chunked.part"];
    for suffix in suffixes {
        let cache = Cache::new();
        let blob = cache.file(A, &commit('1'), "w.gguf", &gguf(1));
        let partial = cache.put(format!("{A}/blobs/{}{suffix}", "7".repeat(64)), &noise(7000, 7));
        let row = cache.row("org/a");
        assert_eq!((row.file_count, row.size_bytes), (1, gguf(1).len() as u64), "{suffix}");
        assert_eq!((row.disk_bytes, row.reclaimable_bytes), (blocks(&blob) + blocks(&partial), du(&cache.hub)));
        assert!(!row.complete);
        says(&row.warnings, "unfinished downloads");
        // What is being written stays, and so does what holds it.
        let lock = cache.put(format!(".locks/{A}/{}.lock", "7".repeat(64)), b"");
        let held = FileLock::try_exclusive(&lock).unwrap().unwrap();
        let plan = cache.plan(&[whole("org/a")]);
        assert_eq!(plan.blocked.len(), 1, "{plan:?}");
        assert_eq!(plan.blocked[0].path, partial);
        assert!(plan.blocked[0].because.contains("being downloaded by process"), "{plan:?}");
        assert!(plan.steps.iter().all(|step| !partial.starts_with(step.path())));
        drop(held);
        cache.delete(&[whole("org/a")]);
        assert!(!cache.hub.join(A).exists() && lock.exists(), "locks stay");
    }
}

#[test]
fn a_partial_that_is_gone_on_with_keeps_its_journal_and_is_missing_in_the_model() {
    let cache = Cache::new();
    let etag = "7".repeat(64);
    cache.file(A, &commit('1'), "config.json", b"{}");
    let partial = cache.put(format!("{A}/blobs/{etag}.0123456789abcdef.llorch"), &noise(7000, 7));
    let journal = cache.put(format!("{A}/blobs/{etag}.0123456789abcdef.llorch.json"), b"{}");
    let lock = cache.put(format!(".locks/{A}/{etag}.lock"), b"");
    let held = FileLock::try_exclusive(&lock).unwrap().unwrap();
    let plan = cache.plan(&[whole("org/a")]);
    let blocked: BTreeSet<_> = plan.blocked.iter().map(|blocked| &blocked.path).collect();
    assert_eq!(blocked, BTreeSet::from([&partial, &journal]), "{plan:?}");
    drop(held);

    let expected = cache.store().expected(&whole("org/a")).unwrap();
    let missing: Vec<_> = expected.iter().filter(|file| !cache.hub.join(&file.location).exists()).collect();
    assert_eq!(missing.iter().map(|file| file.path.as_str()).collect::<Vec<_>>(), [format!("blobs/{etag}")]);
    cache.file(A, &commit('1'), "w.gguf", &gguf(1));
    cache.put(format!("{A}/blobs/{}.part", sha256(&gguf(1))), &noise(100, 7));
    assert_eq!(cache.store().expected(&whole("org/a")).unwrap().len(), 3, "what is here in another way is not missing");
}

#[test]
fn a_blob_whose_lock_is_held_stays_and_everything_else_goes() {
    let cache = Cache::new();
    cache.file(A, &commit('1'), "a.gguf", &gguf(1));
    let busy = cache.file(A, &commit('1'), "b.gguf", &gguf(2));
    let lock = cache.put(format!(".locks/{A}/{}.lock", sha256(&gguf(2))), b"");
    // Seen before anyone confirms …
    let held = FileLock::try_exclusive(&lock).unwrap().unwrap();
    let plan = cache.plan(&[whole("org/a")]);
    assert_eq!(plan.blocked.iter().map(|blocked| &blocked.path).collect::<Vec<_>>(), [&busy]);
    drop(held);
    // … or only by then.
    let plan = cache.plan(&[whole("org/a")]);
    assert!(plan.blocked.is_empty(), "{plan:?}");
    let _held = FileLock::try_exclusive(&lock).unwrap().unwrap();
    let report = run_with(&plan, &mut NoHook);
    assert_eq!(report.failed.iter().map(|failure| &failure.path).collect::<Vec<_>>(), [&busy]);
    says(&[report.failed[0].error.clone()], "being downloaded by process");
    assert!(busy.exists() && lock.exists());
    let files = names(&cache.hub.join(A));
    assert_eq!(files.iter().filter(|path| path.is_file()).count(), 1, "{files:?}");
}

#[test]
fn links_that_lead_elsewhere_count_nothing_and_only_they_go() {
    let cache = Cache::new();
    let secret = cache.outside("secret.gguf", &noise(30_000, 1));
    let theirs = cache.file(B, &commit('2'), "b.gguf", &gguf(2));
    let top = Path::new(A).join("snapshots").join(commit('1'));
    cache.file(A, &commit('1'), "own.gguf", &gguf(1));
    cache.link(top.join("out.gguf"), "../../../../outside/secret.gguf");
    cache.link(top.join("absolute.gguf"), &secret);
    cache.link(top.join("other.gguf"), format!("../../../{B}/blobs/{}", sha256(&gguf(2))));
    cache.link(top.join("loop.gguf"), "loop.gguf");
    cache.link(top.join("folder"), "../../../../outside");
    cache.link(Path::new(A).join("blobs/foreign"), &secret);
    cache.name(A, &commit('1'), "through.gguf", "foreign");
    let before = cache.row("org/a");
    assert_eq!((before.file_count, before.size_bytes), (1, gguf(1).len() as u64));
    assert_eq!(before.disk_bytes, du(&cache.hub.join(A)));
    assert!(!before.complete, "one of them leads to itself");
    for name in ["out.gguf", "absolute.gguf", "other.gguf", "loop.gguf", "folder", "foreign"] {
        says(&before.warnings, &format!("{name} -> "));
    }
    let (plan, _) = cache.delete(&[files("org/a", &["out.gguf"])]);
    kept(&plan, &secret, "only the link");
    let (plan, _) = cache.delete(&[whole("org/a")]);
    kept(&plan, &secret, "only the link");
    kept(&plan, &theirs, "only the link");
    assert!(!cache.hub.join(A).exists());
    assert_eq!(fs::read(secret).unwrap(), noise(30_000, 1));
    assert_eq!(fs::read(theirs).unwrap(), gguf(2));
}

#[test]
fn a_repository_that_another_links_into_is_told_before_it_goes() {
    let cache = Cache::new();
    cache.file(B, &commit('2'), "b.gguf", &gguf(2));
    let link = cache.link(
        Path::new(A).join("snapshots").join(commit('1')).join("b.gguf"),
        format!("../../../{B}/blobs/{}", sha256(&gguf(2))),
    );
    let renamed = cache.link("models--old--b", B);
    let plan = cache.plan(&[whole("org/b")]);
    let broken: BTreeSet<_> =
        plan.breaks.iter().map(|broken| (broken.model.id.as_str(), broken.path.clone())).collect();
    assert_eq!(broken, BTreeSet::from([("old/b", renamed), ("org/a", link)]));
    assert_eq!(cache.plan(&[whole("org/a")]).breaks, []);
    assert_eq!(cache.plan(&[whole("org/a"), whole("org/b"), whole("old/b")]).breaks, []);
}

#[test]
fn a_repository_folder_that_is_a_link_goes_alone() {
    let cache = Cache::new();
    let outside = cache.hub.parent().unwrap().join("elsewhere");
    fs::create_dir_all(outside.join("snapshots").join(commit('1'))).unwrap();
    fs::write(outside.join("snapshots").join(commit('1')).join("w.gguf"), gguf(1)).unwrap();
    let link = cache.link(A, &outside);
    let row = cache.row("org/a");
    assert_eq!((row.file_count, row.size_bytes, row.disk_bytes, row.reclaimable_bytes), (0, 0, 0, 0));
    says(&row.warnings, " -> ");
    let (plan, freed) = cache.delete(&[whole("org/a")]);
    assert_eq!((freed, plan.steps.len()), (0, 1));
    kept(&plan, &outside, "only the link");
    assert!(link.symlink_metadata().is_err());
    assert_eq!(fs::read(outside.join("snapshots").join(commit('1')).join("w.gguf")).unwrap(), gguf(1));
}

#[test]
fn damage_is_told_and_nothing_hides() {
    let cache = Cache::new();
    cache.name(A, &commit('1'), "w.gguf", &"9".repeat(64));
    cache.reference(A, "main", &commit('8'));
    cache.file(B, &commit('2'), "w.gguf", &gguf(1));
    cache.reference(B, "main", &format!("{}\n", commit('2')));
    cache.reference(B, "refs/pr/1", &commit('2'));
    cache.file("models--shards", &commit('3'), "m-00001-of-00003.gguf", &gguf(2));
    cache.name("models--plain", &commit('3'), "notes.txt", "none");
    cache.put("models--file", &noise(5000, 1));
    cache.put("models--odd/refs", b"x");
    cache.put("models--odd/snapshots", b"x");
    let rows = cache.scan().0;
    let row = &rows["org/a"];
    assert!(!row.complete);
    says(&row.warnings, "missing weights: w.gguf");
    says(&row.warnings, "ref 'main' names a revision that is not here");
    let row = &rows["org/b"];
    assert!(row.complete);
    says(&row.warnings, "white space");
    let details = cache.store().details("org/b").unwrap();
    assert_eq!(details.revisions[0].refs, ["main", "refs/pr/1"]);
    assert!(!rows["shards"].complete);
    says(&rows["shards"].warnings, "m: shards 2-3 of 3 are missing");
    assert!(rows["plain"].complete);
    says(&rows["plain"].warnings, "1 file leads nowhere");
    assert_eq!(rows["file"].disk_bytes, blocks(&cache.hub.join("models--file")));
    says(&rows["odd"].warnings, "'refs' is no folder");
    assert_eq!(cache.scan().1.disk_bytes, du(&cache.hub));
    // All of it can go, alone.
    for (id, row) in rows {
        let (_, freed) = cache.delete(&[whole(&id)]);
        assert_eq!(freed, row.reclaimable_bytes, "{id}");
    }
    assert_eq!(names(&cache.hub), BTreeSet::new());
}

#[test]
fn names_are_bytes_and_pipes_are_not_read() {
    let cache = Cache::new();
    let odd = OsStr::from_bytes(b"models--org--a\xff\n\x1b[31m");
    let file = OsStr::from_bytes(b"w\x1b[2J\n\xfe.gguf");
    let blob = cache.put(Path::new(odd).join("blobs/x"), &gguf(1));
    cache.link(Path::new(odd).join("snapshots").join(commit('1')).join(file), "../../blobs/x");
    cache.put(Path::new(odd).join("refs").join(OsStr::from_bytes(b"\xfd")), commit('1').as_bytes());
    let pipe = cache.hub.join(odd).join("blobs/pipe");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0).unwrap();
    cache.link(Path::new(odd).join("snapshots").join(commit('1')).join("pipe.gguf"), "../../blobs/pipe");
    let (rows, _) = cache.scan();
    let (id, row) = rows.first_key_value().unwrap();
    assert_eq!(*id, format!("org/{}", text::escape(OsStr::from_bytes(b"a\xff\n\x1b[31m"))));
    assert_eq!((row.file_count, row.size_bytes), (1, gguf(1).len() as u64));
    assert!(row.disk_bytes >= blocks(&blob));
    for warning in &row.warnings {
        assert!(!warning.contains(['\n', '\x1b']), "{warning:?}");
    }
    let id = id.clone();
    assert_eq!(cache.row(&id).identity.id, id);
    let escaped = cache.store().details(&id).unwrap().files[0].path.clone();
    cache.delete(&[files(&id, &[&escaped])]);
    assert!(!blob.exists() && pipe.symlink_metadata().is_ok());
    cache.delete(&[whole(&id)]);
    assert_eq!(names(&cache.hub), BTreeSet::new());
}

// Deletion

/// Three repositories: two share a payload, one has two revisions with a shared blob, quantizations and a projector.
fn build(cache: &Cache) {
    let (both, own) = (gguf(1), noise(10_000, 2));
    cache.shared(A, &commit('1'), "w-Q4_K_M.gguf", &both);
    cache.shared(A, &commit('1'), "x.bin", &own);
    cache.reference(A, "main", &commit('1'));
    cache.put(format!("{A}/trees/{}.json", commit('1')), b"{}");
    cache.shared(B, &commit('2'), "w-Q4_K_M.gguf", &both);
    cache.file(B, &commit('2'), "only.bin", &noise(12_000, 3));
    cache.reference(B, "main", &commit('2'));
    let c = "models--org--c";
    cache.file(c, &commit('3'), "m-Q4_K_M.gguf", &gguf(4));
    cache.file(c, &commit('3'), "big/m-Q8_0-00001-of-00002.gguf", &gguf(5));
    cache.file(c, &commit('3'), "big/m-Q8_0-00002-of-00002.gguf", &gguf(6));
    cache.file(c, &commit('3'), "mmproj-f16.gguf", &gguf(7));
    cache.file(c, &commit('4'), "m-Q4_K_M.gguf", &gguf(4));
    cache.file(c, &commit('4'), "config.json", &noise(9000, 8));
    cache.reference(c, "main", &commit('3'));
    cache.reference(c, "refs/pr/1", &commit('4'));
    cache.put(format!("{c}/.no_exist/{}/tokenizer.json", commit('4')), b"");
    cache.put(format!("{c}/trees/{}.json", commit('4')), &noise(5000, 9));
    cache.put(format!("{c}/blobs/{}.incomplete", "7".repeat(64)), &noise(3000, 10));
}

fn built() -> Cache {
    let cache = Cache::new();
    build(&cache);
    cache
}

const ALL: [&str; 3] = ["org/a", "org/b", "org/c"];

/// What is left, names and bytes, without lists of users: their lines say who went first. Locks of payloads come with use.
fn rest(cache: &Cache) -> BTreeMap<PathBuf, Vec<u8>> {
    names(&cache.hub)
        .into_iter()
        .filter(|path| !path.extension().is_some_and(|suffix| suffix == "refs" || suffix == "lock"))
        .map(|path| (path.strip_prefix(&cache.hub).unwrap().to_owned(), fs::read(&path).unwrap_or_default()))
        .collect()
}

#[test]
fn every_model_alone_gives_back_what_its_row_says() {
    for id in ALL {
        let cache = built();
        let before = cache.readable();
        let row = cache.row(id);
        let (plan, freed) = cache.delete(&[whole(id)]);
        assert_eq!(freed, row.reclaimable_bytes, "{id}");
        assert_eq!(plan.models.len(), 1);
        assert!(!row.path.exists());
        let others: BTreeMap<_, _> = before.into_iter().filter(|(path, _)| !path.starts_with(&row.path)).collect();
        assert_eq!(cache.readable(), others);
        assert!(matches!(cache.store().details(id), Err(Error::ModelNotFound { .. })));
    }
}

#[test]
fn pairs_together_and_one_after_the_other_are_the_same() {
    for (first, second) in [("org/a", "org/b"), ("org/b", "org/a"), ("org/a", "org/c"), ("org/c", "org/b")] {
        let (together, apart) = (built(), built());
        let (plan, freed) = together.delete(&[whole(first), whole(second)]);
        assert_eq!(plan.models.len(), 2);
        let sum = apart.delete(&[whole(first)]).1 + apart.delete(&[whole(second)]).1;
        assert_eq!(freed, sum, "{first} {second}");
        assert_eq!(rest(&together), rest(&apart), "{first} {second}");
    }
}

#[test]
fn a_shared_payload_goes_with_its_last_repository() {
    let cache = built();
    let payload = |bytes: &[u8]| {
        let hash = sha256(sha256(bytes).as_bytes());
        cache.hub.join("blobs").join(&hash[..2]).join(hash)
    };
    let (both, own) = (payload(&gguf(1)), payload(&noise(10_000, 2)));
    let (plan, _) = cache.delete(&[whole("org/a")]);
    kept(&plan, &both, "also used by org/b");
    assert!(both.exists() && !own.exists() && !own.with_extension("refs").exists());
    assert!(cache.row("org/b").reclaimable_bytes > blocks(&both));
    let (plan, _) = cache.delete(&[whole("org/b")]);
    assert_eq!(plan.keep, []);
    assert!(!both.exists() && !both.with_extension("refs").exists());
    assert!(cache.hub.join("blobs/.huggingface-shared-blobs").exists());
}

#[test]
fn a_payload_that_somebody_begins_to_use_stays_and_its_list_is_made_right() {
    let cache = built();
    cache.delete(&[whole("org/a")]);
    let plan = cache.plan(&[whole("org/b")]);
    // Between the plan and its run another repository comes to use the payload.
    let payload = cache.shared("models--org--late", &commit('5'), "w.gguf", &gguf(1));
    let before = du(cache.scratch.path());
    let report = run_with(&plan, &mut NoHook);
    assert_eq!(report.failed, []);
    assert_eq!(report.freed_bytes, before - du(cache.scratch.path()));
    assert!(report.freed_bytes < plan.expected_bytes);
    let list = fs::read_to_string(payload.with_extension("refs")).unwrap();
    assert_eq!(list, format!("models--org--late/blobs/{}\n", sha256(&gguf(1))));
    assert!(cache.readable().into_values().any(|bytes| bytes == gguf(1)));
}

#[test]
fn a_payload_stays_where_nobody_can_tell_who_uses_it() {
    let payload = |cache: &Cache| {
        let hash = sha256(sha256(&noise(10_000, 2)).as_bytes());
        cache.hub.join("blobs").join(&hash[..2]).join(hash)
    };
    let check = |prepare: &dyn Fn(&Cache), because: &str| {
        let cache = built();
        prepare(&cache);
        let row = cache.row("org/a");
        let (plan, freed) = cache.delete(&[whole("org/a")]);
        kept(&plan, &payload(&cache), because);
        assert!(payload(&cache).exists());
        assert_eq!(freed, row.reclaimable_bytes, "{because}");
    };
    check(&|cache| fs::remove_file(payload(cache).with_extension("refs")).unwrap(), "list of its users is missing");
    check(
        &|cache| drop(cache.put("blobs/.huggingface-shared-blobs", b"2\n")),
        "a layout that this program does not know",
    );
    check(
        &|cache| fs::remove_file(cache.hub.join("blobs/.huggingface-shared-blobs")).unwrap(),
        "a layout that this program does not know",
    );
    // Locked by another.
    let cache = built();
    let plan = cache.plan(&[whole("org/a")]);
    let lock = FileLock::try_exclusive(&payload(&cache).with_extension("lock")).unwrap().unwrap();
    let report = run_with(&plan, &mut NoHook);
    assert!(
        report.failed.iter().any(|failure| failure.path == payload(&cache) && failure.error.contains("works on it"))
    );
    assert!(payload(&cache).exists());
    drop(lock);
}

#[test]
fn a_revision_goes_with_its_refs_and_what_only_it_uses() {
    let cache = built();
    let c = cache.hub.join("models--org--c");
    let before = cache.readable();
    let blob = c.join("blobs").join(sha256(&gguf(4)));
    let own = c.join("blobs").join(sha256(&noise(9000, 8)));
    let only = cache.store().details("org/c").unwrap().revisions[1].reclaimable_bytes;
    assert_eq!(only, blocks(&own));
    let tree = blocks(&c.join("trees").join(format!("{}.json", commit('4'))));
    let reference = blocks(&c.join("refs/refs/pr/1"));
    let (plan, freed) = cache.delete(&[revision("org/c", "refs/pr/1")]);
    assert_eq!(freed, only + tree + reference);
    kept(&plan, &blob, "also used by revision 33333333");
    let gone = c.join("snapshots").join(commit('4'));
    assert!(!gone.exists() && !c.join(".no_exist").join(commit('4')).exists());
    let others: BTreeMap<_, _> = before.into_iter().filter(|(path, _)| !path.starts_with(&gone)).collect();
    assert_eq!(cache.readable(), others);
    // By the beginning of its commit; with the last one the folder goes.
    let (_, freed) = cache.delete(&[revision("org/c", "3333333")]);
    assert!(freed > 0 && !c.exists());
    assert!(cache.store().plan_deletion(&[revision("org/a", "main2")]).is_err());
}

#[test]
fn both_revisions_in_one_plan_are_the_whole() {
    let (parts, all) = (built(), built());
    let freed = parts.delete(&[revision("org/c", "main"), revision("org/c", &commit('4'))]).1;
    assert_eq!(freed, all.delete(&[whole("org/c")]).1);
    assert_eq!(rest(&parts), rest(&all));
}

#[test]
fn a_quantization_goes_with_all_its_shards() {
    let cache = built();
    let c = cache.hub.join("models--org--c");
    let before = cache.readable();
    let (_, freed) = cache.delete(&[quantization("org/c", "q8_0")]);
    assert_eq!(freed, [5, 6].iter().map(|_| gguf(5).len().div_ceil(4096) as u64 * 4096).sum::<u64>());
    let big = c.join("snapshots").join(commit('3')).join("big");
    assert!(!big.exists());
    let others: BTreeMap<_, _> = before.into_iter().filter(|(path, _)| !path.starts_with(&big)).collect();
    assert_eq!(cache.readable(), others);
    assert_eq!(cache.row("org/c").quantization_label(), "Q4_K_M");
    assert!(matches!(cache.store().plan_deletion(&[quantization("org/c", "Q8_0")]), Err(Error::FileNotFound { .. })));
    let find = |text: &str| cache.store().find(&Reference::parse(text).unwrap());
    assert_eq!(find("org/c:Q4_K_M").unwrap(), Some(quantization("org/c", "Q4_K_M")));
    assert_eq!(find("org/c@main").unwrap(), Some(revision("org/c", "main")));
    assert_eq!(find("org/c:Q4_K_M@main").unwrap(), Some(quantization_of("org/c", "Q4_K_M", "main")));
    let page = "https://huggingface.co/org/c/blob/v1/m-Q4_K_M.gguf";
    assert!(matches!(find(page), Err(Error::Unsupported { .. })));
    assert_eq!(find("org/C").unwrap(), None);
    assert_eq!(find("c").unwrap(), None);
}

#[test]
fn a_quantization_of_one_revision_leaves_those_of_others() {
    let cache = built();
    let c = cache.hub.join("models--org--c");
    let before = cache.readable();
    let (main, other) = (c.join("snapshots").join(commit('3')), c.join("snapshots").join(commit('4')));
    // Both revisions have these bytes, so only a name goes.
    let (plan, freed) = cache.delete(&[quantization_of("org/c", "Q4_K_M", "main")]);
    assert_eq!(freed, 0);
    kept(&plan, &c.join("blobs").join(sha256(&gguf(4))), "also used by revision 44444444");
    let gone = main.join("m-Q4_K_M.gguf");
    assert!(!gone.exists() && other.join("m-Q4_K_M.gguf").exists());
    let others: BTreeMap<_, _> = before.into_iter().filter(|(path, _)| *path != gone).collect();
    assert_eq!(cache.readable(), others);
    // Neither the one that is gone nor one of another revision is meant.
    for (label, name) in [("Q4_K_M", "main"), ("Q8_0", "refs/pr/1"), ("Q8_0", "none")] {
        let target = quantization_of("org/c", label, name);
        assert!(matches!(cache.store().plan_deletion(std::slice::from_ref(&target)), Err(Error::FileNotFound { .. })));
        assert!(matches!(cache.store().expected(&target), Err(Error::FileNotFound { .. })));
    }
    let checked = check(&cache, &quantization_of("org/c", "q8_0", "3333333"));
    assert_eq!((checked.0, checked.1.len()), (true, 2));
    let (_, freed) = cache.delete(&[quantization_of("org/c", "Q8_0", "main")]);
    assert!(freed > 0 && !main.join("big").exists() && main.join("mmproj-f16.gguf").exists());
    // Of a repository with one revision it is the quantization.
    let alone = cache.delete(&[quantization_of("org/b", "Q4_K_M", "main")]).1;
    assert_eq!(alone, built().delete(&[quantization("org/b", "Q4_K_M")]).1);
}

#[test]
fn a_file_goes_from_every_revision_that_has_this_content() {
    let cache = Cache::new();
    let (one, two) = (noise(20_000, 1), noise(30_000, 2));
    cache.file(A, &commit('1'), "w.bin", &one);
    cache.file(A, &commit('2'), "w.bin", &one);
    cache.file(A, &commit('3'), "w.bin", &two);
    cache.file(A, &commit('3'), "keep.bin", &noise(100, 3));
    cache.reference(A, "main", &commit('3'));
    let details = cache.store().details("org/a").unwrap();
    let listed: BTreeMap<_, _> = details.files.iter().map(|file| (file.path.as_str(), file.size_bytes)).collect();
    let old = *listed.keys().find(|path| path.starts_with("w.bin@")).unwrap();
    assert_eq!((listed["w.bin"], listed[old]), (30_000, 20_000));
    let (_, freed) = cache.delete(&[files("org/a", &[old])]);
    assert_eq!(freed, 20_480);
    assert_eq!(cache.readable().len(), 2);
    cache.delete(&[files("org/a", &["w.bin"])]);
    assert_eq!(cache.readable().len(), 1);
    assert!(matches!(cache.store().plan_deletion(&[files("org/a", &["w.bin"])]), Err(Error::FileNotFound { .. })));
}

// Crashes

/// Decides at one operation.
struct At(usize, Decision);

impl Hook for At {
    fn before(&mut self, index: usize, _: &Step) -> Decision {
        if index == self.0 { self.1 } else { Decision::Proceed }
    }
}

/// After any part of `targets` went: the others read as before, every name that is left has its bytes, every ref its revision.
fn check_rest(cache: &Cache, before: &Cache, ids: &[&str], what: &str) {
    let relative = |cache: &Cache, path: PathBuf| path.strip_prefix(&cache.hub).unwrap().to_owned();
    let old: BTreeMap<PathBuf, Vec<u8>> =
        before.readable().into_iter().map(|(path, bytes)| (relative(before, path), bytes)).collect();
    let new: BTreeMap<PathBuf, Vec<u8>> =
        cache.readable().into_iter().map(|(path, bytes)| (relative(cache, path), bytes)).collect();
    for (path, bytes) in &old {
        let gone = cache.hub.join(path).symlink_metadata().is_err();
        let asked = ids.iter().any(|id| path.starts_with(format!("models--{}", id.replace('/', "--"))));
        assert!(!gone || asked, "{what}: {} is gone", path.display());
        assert!(gone || new.get(path) == Some(bytes), "{what}: {} lost its bytes", path.display());
    }
    for (path, named) in cache.references() {
        let repository = path.strip_prefix(&cache.hub).unwrap().iter().next().unwrap();
        let inside = Path::new(repository).join("snapshots").join(&named);
        for path in old.keys().filter(|path| path.starts_with(&inside)) {
            assert!(
                cache.hub.join(path).symlink_metadata().is_ok(),
                "{what}: {named} is named and lost {}",
                path.display()
            );
        }
    }
}

#[test]
fn stopped_or_failed_at_every_step_nothing_else_is_touched() {
    let cases: Vec<(Vec<Target>, &[&str])> = vec![
        (vec![whole("org/a")], &["org/a"]),
        (vec![whole("org/c")], &["org/c"]),
        (vec![whole("org/a"), whole("org/b")], &["org/a", "org/b"]),
        (vec![revision("org/c", &commit('4'))], &["org/c"]),
    ];
    let pristine = built();
    for (targets, ids) in cases {
        let steps = pristine.plan(&targets).steps.len();
        assert!(steps > 5);
        for index in 0..steps {
            for decision in [Decision::Stop, Decision::Fail(5)] {
                let cache = built();
                let before = du(cache.scratch.path());
                let plan = cache.plan(&targets);
                let report = run_with(&plan, &mut At(index, decision));
                let what = format!("{ids:?} {decision:?} at {index}: {}", plan.steps[index].path().display());
                assert_eq!(report.freed_bytes, before - du(cache.scratch.path()), "{what}");
                check_rest(&cache, &pristine, ids, &what);
                // What is left can be deleted, and then all is as if it had never stopped.
                let whole_rows: Vec<Target> = ids.iter().map(|id| whole(id)).collect();
                let left: Vec<Target> =
                    whole_rows.into_iter().filter(|target| cache.store().details(&target.id).is_ok()).collect();
                if !left.is_empty() {
                    cache.delete(&left);
                }
            }
        }
    }
}

#[test]
fn another_file_in_place_of_the_one_that_was_seen_stays() {
    let cache = built();
    let plan = cache.plan(&[whole("org/c")]);
    let blob = cache.hub.join("models--org--c/blobs").join(sha256(&gguf(7)));
    // The same inode number, as a file system gives it again, with other content.
    fs::write(&blob, b"somebody else's work").unwrap();
    let report = run_with(&plan, &mut NoHook);
    assert_eq!(fs::read(&blob).unwrap(), b"somebody else's work");
    assert!(
        report.failed.iter().any(|failure| failure.path == blob && failure.error.contains("changed")),
        "{report:?}"
    );
}

// What cannot be read

/// Runs this test binary's test `name` as `nobody`, where root would be refused nothing. `false`: it cannot be done here.
fn as_nobody(name: &str) -> bool {
    if !rustix::process::geteuid().is_root() {
        return true;
    }
    let output = std::process::Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--ignored", "--nocapture"])
        .env("TMPDIR", "/tmp")
        .current_dir("/")
        .output();
    match output {
        Ok(output) if String::from_utf8_lossy(&output.stdout).contains("1 passed") => true,
        Ok(output) if output.status.code() == Some(126) || output.status.code() == Some(127) => {
            eprintln!("not shown: root cannot step down here: {}", String::from_utf8_lossy(&output.stderr));
            false
        }
        Ok(output) => {
            panic!("{}\n{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
        }
        Err(error) => {
            eprintln!("not shown: root cannot step down here: {error}");
            false
        }
    }
}

#[test]
fn what_cannot_be_read_is_unknown_and_nothing_it_may_use_goes() {
    as_nobody("unreadable_as_a_common_user");
}

#[test]
#[ignore = "runs as nobody, started by what_cannot_be_read_is_unknown_and_nothing_it_may_use_goes"]
fn unreadable_as_a_common_user() {
    let lock = |path: &Path| fs::set_permissions(path, fs::Permissions::from_mode(0o0)).unwrap();
    let open = |path: &Path| fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();

    // A revision.
    let cache = built();
    let c = cache.hub.join("models--org--c");
    let unread = c.join("snapshots").join(commit('4'));
    lock(&unread);
    assert!(fs::read_dir(&unread).is_err(), "the refusal is real");
    let row = cache.row("org/c");
    assert!(!row.complete);
    says(&row.warnings, "unknown: cannot read");
    let plan = cache.plan(&[revision("org/c", "main")]);
    kept(&plan, &c.join("blobs").join(sha256(&gguf(4))), "cannot be read and may use it");
    kept(&plan, &c.join("blobs").join(sha256(&gguf(7))), "cannot be read and may use it");
    let plan = cache.plan(&[whole("org/c")]);
    assert_eq!(plan.blocked.len(), 1, "{:?}", plan.blocked);
    run_with(&plan, &mut NoHook);
    open(&unread);
    assert_eq!(fs::read(unread.join("m-Q4_K_M.gguf")).unwrap(), gguf(4));

    // Refs.
    let cache = built();
    let c = cache.hub.join("models--org--c");
    lock(&c.join("refs"));
    says(&cache.row("org/c").warnings, "unknown: cannot read");
    let plan = cache.plan(&[revision("org/c", &commit('4'))]);
    assert_eq!((plan.steps.len(), plan.blocked.len()), (0, 1));
    open(&c.join("refs"));

    // Another repository, which may use the payload.
    let cache = built();
    lock(&cache.hub.join(B));
    let (rows, _) = cache.scan();
    says(&rows["org/b"].warnings, "unknown: cannot read");
    assert!(!rows["org/b"].complete);
    let plan = cache.plan(&[whole("org/a")]);
    assert!(plan.keep.iter().any(|kept| kept.because.contains("org/b cannot be read and may use it")), "{plan:?}");
    assert_eq!(plan.expected_bytes, rows["org/a"].reclaimable_bytes);
    assert!(!cache.plan(&[whole("org/b")]).blocked.is_empty());
    open(&cache.hub.join(B));

    // The cache itself.
    lock(&cache.hub);
    let (rows, summary) = cache.scan();
    assert_eq!((rows.len(), summary.warnings.len()), (0, 1));
    assert!(matches!(cache.store().details("org/a"), Err(Error::Io { .. })));
    open(&cache.hub);

    // A folder from which nothing may be removed.
    let cache = built();
    let blobs = cache.hub.join("models--org--c/blobs");
    fs::set_permissions(&blobs, fs::Permissions::from_mode(0o555)).unwrap();
    let plan = cache.plan(&[whole("org/c")]);
    assert_eq!(plan.blocked.iter().filter(|blocked| blocked.path.starts_with(&blobs)).count(), plan.blocked.len());
    assert!(plan.blocked[0].because.contains("no write permission"), "{:?}", plan.blocked);
    open(&blobs);
}

// Verification

fn check(cache: &Cache, target: &Target) -> (bool, BTreeMap<String, (FileStatus, Option<String>)>) {
    let expected = cache.store().expected(target).unwrap();
    let identity = cache.row(&target.id).identity;
    let found =
        verify::run(&identity, &cache.hub, &expected, Depth::Full, &mut |_| {}, &CancellationToken::new()).unwrap();
    (found.ok, found.files.into_iter().map(|file| (file.path, (file.status, file.algorithm))).collect())
}

#[test]
fn blob_names_are_the_checksums() {
    let cache = Cache::new();
    cache.file(A, &commit('1'), "w.gguf", &gguf(1));
    let config = b"{\"a\": 1}".as_slice();
    cache.put(format!("{A}/blobs/{}", git_id(config)), config);
    cache.name(A, &commit('1'), "config.json", &git_id(config));
    cache.put(format!("{A}/blobs/mirror-etag"), b"x");
    cache.name(A, &commit('1'), "other.txt", "mirror-etag");
    let payload = cache.shared(A, &commit('1'), "s.bin", &noise(9000, 5));
    let status = |status: FileStatus, algorithm: Option<&str>| (status, algorithm.map(str::to_owned));
    let (ok, files) = check(&cache, &whole("org/a"));
    assert!(ok, "{files:?}");
    let expected = BTreeMap::from([
        ("w.gguf".to_owned(), status(FileStatus::Ok, Some("sha256"))),
        ("config.json".to_owned(), status(FileStatus::Ok, Some("git-sha1"))),
        ("other.txt".to_owned(), status(FileStatus::NoChecksum, None)),
        // The payload's own name is 64 digits, too, and is not asked.
        ("s.bin".to_owned(), status(FileStatus::Ok, Some("sha256"))),
    ]);
    assert_eq!(files, expected);

    fs::write(&payload, noise(9000, 6)).unwrap();
    fs::write(cache.hub.join(A).join("blobs").join(git_id(config)), b"{\"a\": 2}").unwrap();
    fs::remove_file(cache.hub.join(A).join("blobs").join(sha256(&gguf(1)))).unwrap();
    let (ok, files) = check(&cache, &whole("org/a"));
    assert!(!ok);
    assert_eq!(files["s.bin"].0, FileStatus::Corrupt);
    assert_eq!(files["config.json"].0, FileStatus::Corrupt);
    assert_eq!(files["w.gguf"].0, FileStatus::Missing);
}

#[test]
fn without_blobs_the_listing_of_the_commit_is_the_checksum() {
    let cache = Cache::new();
    let top = Path::new(A).join("snapshots").join(commit('1'));
    cache.put(top.join("w.bin"), &noise(9000, 1));
    cache.put(top.join("config.json"), b"{}");
    cache.put(top.join("unlisted.txt"), b"x");
    let tree = format!(
        r#"{{"format_version":1,"files":{{"config.json":{{"size":2,"blob_id":"{}"}},
        "w.bin":{{"size":9000,"blob_id":"{}","lfs_sha256":"{}","lfs_size":9000,"xet_hash":"{}"}}}}}}"#,
        git_id(b"{}"),
        "0".repeat(40),
        sha256(&noise(9000, 1)),
        "1".repeat(64)
    );
    cache.put(Path::new(A).join("trees").join(format!("{}.json", commit('1'))), tree.as_bytes());
    let (ok, files) = check(&cache, &whole("org/a"));
    assert!(ok, "{files:?}");
    assert_eq!(files["w.bin"], (FileStatus::Ok, Some("sha256".to_owned())));
    assert_eq!(files["config.json"], (FileStatus::Ok, Some("git-sha1".to_owned())));
    assert_eq!(files["unlisted.txt"].0, FileStatus::NoChecksum);
    fs::write(cache.hub.join(&top).join("w.bin"), noise(9000, 2)).unwrap();
    assert_eq!(check(&cache, &revision("org/a", "1111111")).1["w.bin"].0, FileStatus::Corrupt);
    assert!(cache.store().expected(&revision("org/a", "nothing")).is_err());
    assert!(cache.store().expected(&files_of("none.bin")).is_err());
}

fn files_of(path: &str) -> Target {
    files("org/a", &[path])
}

// Random caches

/// A file of a random cache: its revision, its name, which of a few contents, and whether it lies in the shared store.
type RandomFile = (u8, u8, u8, bool);

fn random_cache(repositories: &[Vec<RandomFile>]) -> Cache {
    let cache = Cache::new();
    for (number, files) in repositories.iter().enumerate() {
        let folder = format!("models--r--{number}");
        let mut seen = BTreeSet::new();
        for (revision, name, content, shared) in files {
            let commit = commit(char::from(b'a' + revision));
            if !seen.insert((*revision, *name)) {
                continue;
            }
            let bytes = noise(1000 + usize::from(*content) * 4096, u64::from(*content));
            let path = format!("d{}/f{name}.bin", name % 2);
            if *shared {
                cache.shared(&folder, &commit, &path, &bytes);
            } else {
                cache.file(&folder, &commit, &path, &bytes);
            }
            cache.reference(&folder, &format!("r{revision}"), &commit);
        }
    }
    cache
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_subset_in_any_order_changes_nothing_else(
        repositories in prop::collection::vec(
            prop::collection::vec((0u8..3, 0u8..4, 0u8..5, any::<bool>()), 1..8), 1..4),
        order in prop::collection::vec((0usize..4, prop::option::of(0u8..3)), 1..6),
    ) {
        let cache = random_cache(&repositories);
        let (rows, summary) = cache.scan();
        prop_assert_eq!(summary.disk_bytes, du(&cache.hub));
        for row in rows.values() {
            prop_assert!(row.complete && row.warnings.is_empty(), "{:?}", row);
            prop_assert!(row.reclaimable_bytes <= row.disk_bytes);
        }
        let together = random_cache(&repositories);
        let mut asked = Vec::new();
        for (number, part) in order {
            let id = format!("r/{number}");
            let target = match part {
                None => whole(&id),
                Some(digit) => revision(&id, &commit(char::from(b'a' + digit))),
            };
            let Ok(plan) = cache.store().plan_deletion(std::slice::from_ref(&target)) else { continue };
            let before = cache.readable();
            let reclaimable = cache.row(&id).reclaimable_bytes;
            let (ran, freed) = cache.delete(std::slice::from_ref(&target));
            prop_assert_eq!(plan.expected_bytes, freed);
            if target.part == Part::Whole {
                prop_assert_eq!(freed, reclaimable);
            }
            let gone: BTreeSet<PathBuf> = ran.steps.iter().map(Step::path).collect();
            let left: BTreeMap<_, _> = before.into_iter().filter(|(path, _)| !gone.contains(path)).collect();
            prop_assert_eq!(cache.readable(), left);
            asked.push(target);
        }
        // All at once gives the same.
        if !asked.is_empty() {
            let before = du(&together.hub);
            let (_, freed) = together.delete(&asked);
            prop_assert_eq!(before - freed, du(&together.hub));
            let payloads = |cache: &Cache| rest(cache).into_keys().collect::<BTreeSet<_>>();
            prop_assert_eq!(payloads(&cache), payloads(&together));
            prop_assert_eq!(inodes(&cache.hub).values().map(|(bytes, _)| bytes).sum::<u64>(), du(&together.hub));
        }
    }
}

#[test]
fn the_root_may_be_a_link() {
    let cache = built();
    let link = cache.scratch.path().join("link");
    symlink(&cache.hub, &link).unwrap();
    let store = HfStore::new(link);
    assert_eq!(store.root(), cache.hub);
    assert!(store.details("org/a").is_ok());
}

#[test]
fn shards_count_together_and_every_header_is_looked_at() {
    let cache = Cache::new();
    for number in 1..=3 {
        cache.file(A, &commit('1'), &format!("m-Q4_K_M-0000{number}-of-00003.gguf"), &gguf(number));
    }
    let mut cut = gguf(9);
    cut.truncate(cut.len() - 64);
    cache.file(A, &commit('2'), "z-Q8_0.gguf", &cut);
    cache.file(A, &commit('2'), "mmproj-f16.gguf", b"no header");
    cache.reference(A, "main", &commit('1'));
    let row = cache.row("org/a");
    assert_eq!(row.parameters, Some(3 * 256 * 64));
    assert_eq!(row.quantization_label(), "Q4_K_M");
    assert_eq!(row.selects, [Quantization::new("Q4_K_M"), Quantization::new("Q8_0")]);
    assert_eq!((row.complete, row.damage), (false, Some(FileStatus::Truncated)));
    assert_eq!(
        row.warnings,
        ["z-Q8_0.gguf is cut short, 64 bytes are missing", "z-Q8_0: named Q8_0, but Q4_K_M by its header"]
    );
}

#[test]
fn the_configuration_beside_safetensors_tells_what_their_header_does_not() {
    let cache = Cache::new();
    let header = br#"{"w":{"dtype":"BF16","shape":[4,4],"data_offsets":[0,32]}}"#;
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header);
    bytes.extend([1; 32]);
    cache.file(A, &commit('1'), "model.safetensors", &bytes);
    cache.file(A, &commit('1'), "config.json", br#"{"model_type":"qwen2","max_position_embeddings":4096}"#);
    let row = cache.row("org/a");
    assert_eq!((row.format, row.architecture.as_deref()), (Some(Format::Safetensors), Some("qwen2")));
    assert_eq!((row.context_length, row.parameters), (Some(4096), Some(16)));
    assert_eq!((row.complete, row.warnings), (true, Vec::new()));
    assert_eq!(row.quantization.map(|label| label.to_string()).as_deref(), Some("BF16"));
    let packed = br#"{"model_type":"qwen2","quantization_config":{"quant_method":"gptq","bits":4}}"#;
    let cache = Cache::new();
    cache.file(A, &commit('1'), "model.safetensors", &bytes);
    cache.file(A, &commit('1'), "config.json", packed);
    let row = cache.row("org/a");
    assert_eq!(row.quantization.map(|label| label.to_string()).as_deref(), Some("GPTQ-INT4"));
    assert_eq!(row.quantizations.len(), 1);
}

#[test]
fn tokenizer_template_and_card_of_the_same_revision_are_told() {
    let cache = Cache::new();
    let header = br#"{"w":{"dtype":"BF16","shape":[4,4],"data_offsets":[0,32]}}"#;
    let bytes = [&(header.len() as u64).to_le_bytes()[..], header, &[1; 32]].concat();
    cache.file(A, &commit('1'), "model.safetensors", &bytes);
    // Equal bytes are one blob under two names that are read in two ways.
    let both = br#"{"model_type":"qwen2","tokenizer_class":"Qwen2Tokenizer","chat_template":"{{ messages }}"}"#;
    cache.file(A, &commit('1'), "config.json", both);
    cache.file(A, &commit('1'), "tokenizer_config.json", both);
    cache.file(A, &commit('1'), "README.md", b"---\nlicense: apache-2.0\nbase_model:\n- org/base\n---\n");
    cache.file(A, &commit('2'), "tokenizer.json", br#"{"model":{"type":"Unigram","vocab":[]}}"#);
    cache.reference(A, "main", &commit('1'));
    let metadata = cache.store().details("org/a").unwrap().metadata.unwrap();
    assert_eq!(metadata.architecture.as_deref(), Some("qwen2"));
    assert_eq!((metadata.tokenizer.as_deref(), metadata.chat_template), (Some("Qwen2Tokenizer"), Some(true)));
    assert_eq!((metadata.licence.as_deref(), metadata.base_model.as_deref()), (Some("apache-2.0"), Some("org/base")));
    let facts = metadata.facts();
    assert!(
        facts.contains(&("chat template", "yes".to_owned())) && facts.contains(&("licence", "apache-2.0".to_owned()))
    );
}

#[test]
fn a_card_tells_the_licence_of_weights_whose_header_does_not() {
    let cache = Cache::new();
    cache.file(A, &commit('1'), "Q4_K_M/a-Q4_K_M.gguf", &gguf(1));
    cache.file(A, &commit('1'), "README.md", b"---\nlicense: other\nlicense_name: own\n---\n");
    let metadata = cache.store().details("org/a").unwrap().metadata.unwrap();
    assert_eq!(metadata.licence.as_deref(), Some("other (own)"));
}

#[test]
fn another_name_in_the_same_revision_is_said() {
    let cache = Cache::new();
    let bytes = gguf(4);
    for name in ["x-Q4_K_M.gguf", "x-Q4_K_L.gguf"] {
        cache.file("models--org--same", &commit('7'), name, &bytes);
    }
    let blob = cache.file("models--org--same", &commit('8'), "x-Q4_K_M.gguf", &bytes);
    let target = |label: &str| Target { id: "org/same".to_owned(), part: Part::Quantization(label.to_owned()) };
    kept(&cache.plan(&[target("Q4_K_M")]), &blob, "also used by x-Q4_K_L.gguf");
    let because = "also used by x-Q4_K_M.gguf";
    kept(&cache.plan(&[target("Q4_K_L")]), &blob, because);
}
