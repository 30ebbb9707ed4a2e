//! Sweeps of constructed stores: everything dead is found with its true bytes, and nothing else ever is.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;
use rbee_hive::disk::deletion::{Decision, Hook, NoHook};
use rbee_hive::disk::lock::FileLock;
use rbee_hive::model::{Certainty, Garbage, Model, Step, Sweep};
use rbee_hive::provisioner::Inventory;
use rbee_hive::store::Store;
use rbee_hive::store::flat::FlatStore;
use rbee_hive::store::hf::HfStore;
use rbee_hive::store::llama_cpp::LlamaCppStore;
use rbee_hive::store::lm_studio::LmStudioStore;
use rbee_hive::store::ollama::OllamaStore;
use rbee_hive::store::sweep::SweepContext;
use support::hf_cache::{Cache, blocks, commit, du, names, noise, run_with, sha256};
use support::stores::{Form, Ollama, put, small_gguf};
use tokio_util::sync::CancellationToken;

/// Two hours from now: everything that a test makes is old by then.
fn later() -> SweepContext {
    SweepContext::at(Timestamp::now() + SignedDuration::from_hours(2))
}

fn sweep_of(store: &dyn Store, context: &SweepContext) -> Sweep {
    store.sweep(context, &CancellationToken::new())
}

/// Kind and certainty by path relative to `root`.
fn found(sweep: &Sweep, root: &Path) -> BTreeMap<String, (Garbage, Certainty)> {
    let relative = |path: &Path| path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
    let items: BTreeMap<_, _> =
        sweep.items.iter().map(|item| (relative(&item.path), (item.kind, item.certainty))).collect();
    assert_eq!(items.len(), sweep.items.len(), "one path is offered once: {:?}", sweep.items);
    items
}

fn expect(sweep: &Sweep, root: &Path, wanted: &[(&str, Garbage, Certainty)]) {
    let wanted: BTreeMap<String, (Garbage, Certainty)> =
        wanted.iter().map(|(path, kind, certainty)| ((*path).to_owned(), (*kind, *certainty))).collect();
    assert_eq!(found(sweep, root), wanted, "kept: {:?}\nwarned: {:?}", sweep.kept, sweep.warnings);
}

fn all(sweep: &Sweep) -> BTreeSet<usize> {
    (0..sweep.items.len()).collect()
}

/// Rows by id, without what is nobody's figure: when it was last read.
fn rows(store: &dyn Store) -> BTreeMap<String, Model> {
    let mut rows = BTreeMap::new();
    let mut sink = |row: rbee_hive::store::Row| {
        let model = Model { accessed: None, ..row.model };
        drop(rows.insert(model.identity.id.clone(), model));
    };
    store.scan(&mut sink, &CancellationToken::new());
    rows
}

/// Removes the chosen items and checks every figure against what `du` sees.
fn take(sweep: &Sweep, chosen: &BTreeSet<usize>, scratch: &Path) -> u64 {
    let plan = sweep.plan(chosen);
    assert_eq!(plan.blocked, []);
    let before = du(scratch);
    let report = run_with(&plan, &mut NoHook);
    assert_eq!(report.failed, []);
    let freed = before - du(scratch);
    assert_eq!((plan.expected_bytes, report.freed_bytes), (freed, freed));
    freed
}

use Certainty::{Certain, Likely, Possible};
use Garbage::{
    AbandonedFolder, DanglingLink, DanglingReference, DetachedRevision, Leftover, OrphanBlob, Partial, Temporary,
};

const REPO: &str = "models--org--name";
const UUID: &str = "0b5e3f5c-9a1d-4f47-8a44-6d1f0c0f9d7e";

fn hex(digit: char) -> String {
    digit.to_string().repeat(64)
}

/// A cache with a live revision, a detached one that shares a blob with it, and one of each kind of garbage.
fn littered() -> Cache {
    let cache = Cache::new();
    let (live, old) = (commit('a'), commit('b'));
    cache.reference(REPO, "main", &live);
    cache.file(REPO, &live, "model.gguf", &noise(9_000, 1));
    cache.file(REPO, &live, "config.json", &noise(500, 2));
    cache.file(REPO, &old, "config.json", &noise(500, 2));
    cache.file(REPO, &old, "model.gguf", &noise(7_000, 3));
    cache.put(format!("{REPO}/.no_exist/{old}/adapter.json"), b"");
    cache.put(format!("{REPO}/trees/{live}.json"), b"{}");

    let blobs = format!("{REPO}/blobs");
    for (name, bytes) in [
        (format!("{}.incomplete", hex('1')), 5_000),
        (format!("{}.0123abcd.incomplete", hex('1')), 6_000),
        (format!("{}.part", hex('2')), 5_000),
        (format!("{}.sync.part", hex('2')), 4_000),
        (format!("{}.downloadInProgress", hex('3')), 3_000),
        (format!("tmp_{UUID}"), 0),
        (hex('9'), 20_000),
        (".4242-7.llorch-tmp".to_owned(), 100),
    ] {
        cache.put(format!("{blobs}/{name}"), &noise(bytes, 9));
    }
    cache.link(format!("{blobs}/.{}.0123abcd.shared", hex('8')), "../../blobs/88/x");
    cache.put(format!("{REPO}/refs/.main.lock"), b"");
    fs::remove_file(cache.hub.join(format!("{REPO}/refs/.main.lock"))).unwrap();
    cache.put(format!("{REPO}/refs/main.0123abcd.tmp"), live.as_bytes());
    cache.put(format!("{REPO}/refs/pr/1"), commit('d').as_bytes());
    cache.put(format!("{REPO}/trees/tmpab12cd_9.tmp"), b"x");
    cache.put(format!("{REPO}/trees/{}.json", commit('e')), b"{}");
    cache.put(format!("{REPO}/.no_exist/{}/x.json", commit('e')), b"");
    cache.name(REPO, &live, "gone.bin", &hex('7'));
    cache.link(format!("{REPO}/snapshots/{live}/loop"), "loop");

    // A file that is replaced: the old copy may be the only one, the new one is beside what it was to replace.
    cache.put(format!("{REPO}/snapshots/{live}/kept.json"), b"{}");
    cache.put(format!("{REPO}/snapshots/{live}/.kept.json.0123abcd.new"), b"{}");
    cache.put(format!("{REPO}/snapshots/{live}/.lost.json.0123abcd.new"), b"{}");
    cache.put(format!("{REPO}/snapshots/{live}/.lost.json.0123abcd.old"), b"{}");

    cache.put(format!(".locks/{REPO}/.4242-8.llorch-tmp"), &noise(700, 9));
    cache.link(format!(".locks/{REPO}/.4242-9.llorch-tmp"), "../blobs/x");
    cache.put(format!(".locks/{REPO}/{}.lock", hex('9')), b"");
    cache.put(".locks/models--never--began/.4242-10.llorch-tmp/snapshots/c/x", b"x");
    cache.put(format!(".locks/models--never--began/{}.lock", hex('9')), b"");
    cache.put("tmpk3_x9z2a", &noise(8_000, 4));
    cache.put("tmpfile", b"mine");
    cache.put(format!("models--left--behind/blobs/{}.incomplete", hex('5')), &noise(2_000, 5));
    cache.put("models--left--behind/refs/main", commit('f').as_bytes());
    cache.put("models--odd--one/notes.txt", b"mine");
    fs::create_dir_all(cache.hub.join("models--odd--one/snapshots")).unwrap();
    cache
}

/// The shared store: a payload with one user, one without any, one only an orphan link leads to, and what crashes left.
fn share(cache: &Cache) -> [String; 2] {
    let live = commit('a');
    cache.shared("models--share--one", &live, "a.gguf", &noise(11_000, 20));
    cache.reference("models--share--one", "main", &live);
    let orphan = cache.shared("models--share--gone", &live, "b.gguf", &noise(12_000, 21));
    fs::remove_dir_all(cache.hub.join("models--share--gone")).unwrap();
    let alone = cache.shared("models--share--one", &commit('c'), "c.gguf", &noise(13_000, 22));
    fs::remove_dir_all(cache.hub.join("models--share--one/snapshots").join(commit('c'))).unwrap();
    let relative = |path: &Path| path.strip_prefix(&cache.hub).unwrap().to_str().unwrap().to_owned();
    cache.put("blobs/.huggingface-shared-blobs.0123abcd.tmp", b"1");
    let (digits, name) = ("ab", format!("ab{}", "0".repeat(62)));
    cache.put(format!("blobs/{digits}/{name}.refs.0123abcd.tmp"), b"x");
    cache.put(format!("blobs/{digits}/{name}.refs"), b"models--x/blobs/y\n");
    cache.put(format!("blobs/{digits}/{name}.lock"), b"");
    let _ = alone;
    [relative(&orphan), format!("models--share--one/blobs/{}", sha256(&noise(13_000, 22)))]
}

#[test]
fn every_kind_of_garbage_in_the_cache_is_found_and_nothing_else() {
    let cache = littered();
    let [orphan, lonely] = share(&cache);
    let store = cache.store();
    let sweep = sweep_of(&store, &later());
    let r = |path: &str| format!("{REPO}/{path}");
    let (live, old) = (commit('a'), commit('b'));
    let zeros = format!("ab{}", "0".repeat(62));
    let wanted: Vec<(String, Garbage, Certainty)> = vec![
        (r(&format!("blobs/{}.incomplete", hex('1'))), Partial, Likely),
        (r(&format!("blobs/{}.0123abcd.incomplete", hex('1'))), Partial, Certain),
        (r(&format!("blobs/{}.part", hex('2'))), Partial, Likely),
        (r(&format!("blobs/{}.sync.part", hex('2'))), Partial, Likely),
        (r(&format!("blobs/{}.downloadInProgress", hex('3'))), Partial, Likely),
        (r(&format!("blobs/tmp_{UUID}")), Temporary, Certain),
        (r("blobs/.4242-7.llorch-tmp"), Temporary, Certain),
        (format!(".locks/{REPO}/.4242-8.llorch-tmp"), Temporary, Certain),
        (format!(".locks/{REPO}/.4242-9.llorch-tmp"), Temporary, Certain),
        (".locks/models--never--began/.4242-10.llorch-tmp".to_owned(), Temporary, Certain),
        (r(&format!("blobs/.{}.0123abcd.shared", hex('8'))), Temporary, Certain),
        (r(&format!("blobs/{}", hex('9'))), OrphanBlob, Likely),
        (r("refs/main.0123abcd.tmp"), Temporary, Certain),
        (r("refs/pr/1"), DanglingReference, Likely),
        (r("trees/tmpab12cd_9.tmp"), Temporary, Certain),
        (r(&format!(".no_exist/{}", commit('e'))), Leftover, Likely),
        (r(&format!("snapshots/{live}/gone.bin")), DanglingLink, Certain),
        (r(&format!("snapshots/{live}/loop")), DanglingLink, Certain),
        (r(&format!("snapshots/{live}/.kept.json.0123abcd.new")), Temporary, Certain),
        (r(&format!("snapshots/{old}")), DetachedRevision, Possible),
        ("tmpk3_x9z2a".to_owned(), Partial, Certain),
        (format!("models--left--behind/blobs/{}.incomplete", hex('5')), Partial, Likely),
        ("models--left--behind/refs/main".to_owned(), DanglingReference, Likely),
        ("models--left--behind".to_owned(), AbandonedFolder, Likely),
        (orphan, OrphanBlob, Likely),
        (lonely, OrphanBlob, Likely),
        ("blobs/.huggingface-shared-blobs.0123abcd.tmp".to_owned(), Temporary, Certain),
        (format!("blobs/ab/{zeros}.refs.0123abcd.tmp"), Temporary, Certain),
        (format!("blobs/ab/{zeros}.refs"), Leftover, Certain),
    ];
    let wanted: Vec<(&str, Garbage, Certainty)> =
        wanted.iter().map(|(path, kind, certainty)| (path.as_str(), *kind, *certainty)).collect();
    expect(&sweep, &cache.hub, &wanted);
    assert_eq!(sweep.warnings, [] as [String; 0]);

    // What each frees by itself, against the disk.
    for (at, item) in sweep.items.iter().enumerate() {
        let copy = cache.copy();
        let again = sweep_of(&copy.store(), &later());
        assert_eq!(take(&again, &BTreeSet::from([at]), copy.scratch.path()), item.bytes, "{}", item.path.display());
    }
    let before = (cache.readable(), rows(&store));
    let old_files = before.0.keys().filter(|path| path.to_str().unwrap().contains(&old)).count();
    take(&sweep, &all(&sweep), cache.scratch.path());
    let after = cache.readable();
    assert_eq!(after.len(), before.0.len() - old_files - 1, "the detached revision and a temporary copy are gone");
    assert!(after.iter().all(|(path, bytes)| before.0[path] == *bytes));
    let again = sweep_of(&store, &later());
    assert_eq!(again.items, [], "a second look finds nothing");
    for stays in ["tmpfile", "models--odd--one/notes.txt"] {
        assert!(cache.hub.join(stays).exists(), "{stays}");
    }
    assert!(cache.hub.join(format!("{REPO}/snapshots/{live}/.lost.json.0123abcd.old")).exists());
    assert!(cache.hub.join(format!("{REPO}/snapshots/{live}/.lost.json.0123abcd.new")).exists());
}

#[test]
fn a_blob_of_two_detached_revisions_goes_with_both_only() {
    let cache = Cache::new();
    cache.reference(REPO, "main", &commit('a'));
    cache.file(REPO, &commit('a'), "m", &noise(1_000, 1));
    for digit in ['b', 'c'] {
        cache.file(REPO, &commit(digit), "m", &noise(50_000, 2));
    }
    let sweep = sweep_of(&cache.store(), &later());
    assert_eq!(sweep.items.iter().map(|item| (item.kind, item.bytes)).collect::<Vec<_>>(), [(DetachedRevision, 0); 2]);
    assert!(sweep.usual().is_empty(), "a revision is taken only when it is asked for");
    let alone = sweep.plan(&BTreeSet::from([0]));
    assert!(alone.keep.iter().any(|kept| kept.because.contains("which was not chosen")), "{:?}", alone.keep);
    assert_eq!(sweep.frees(&all(&sweep)), sweep.plan(&all(&sweep)).expected_bytes);
    let freed = take(&sweep, &all(&sweep), cache.scratch.path());
    assert_eq!(freed, 50_000_u64.div_ceil(4096) * 4096);
}

#[test]
fn what_is_young_locked_or_unreadable_is_not_offered() {
    let cache = littered();
    share(&cache);
    let store = cache.store();
    let now = sweep_of(&store, &SweepContext::at(Timestamp::now()));
    assert_eq!(now.items, [], "everything is young");
    assert!(!now.kept.is_empty());

    // A lock that is held protects its partial, and everything in the repository that only nobody names.
    let lock = cache.put(format!(".locks/{REPO}/{}.lock", hex('1')), b"");
    let held = FileLock::try_exclusive(&lock).unwrap().unwrap();
    let sweep = sweep_of(&store, &later());
    let found = found(&sweep, &cache.hub);
    assert!(!found.contains_key(&format!("{REPO}/blobs/{}.incomplete", hex('1'))));
    assert!(!found.contains_key(&format!("{REPO}/blobs/{}.0123abcd.incomplete", hex('1'))));
    assert!(
        found.contains_key(&format!("{REPO}/blobs/{}.part", hex('2'))),
        "another file's partial is dead all the same"
    );
    let absent = [OrphanBlob, DetachedRevision, DanglingLink, DanglingReference, Leftover, AbandonedFolder];
    assert!(found.iter().all(|(path, (kind, _))| !path.starts_with(REPO) || !absent.contains(kind)), "{found:?}");
    drop(held);

    let locked = cache.hub.join("blobs");
    let orphan = sweep_of(&store, &later())
        .items
        .iter()
        .find(|item| item.path.starts_with(&locked) && item.kind == OrphanBlob)
        .unwrap()
        .clone();
    let mut name = orphan.path.clone().into_os_string();
    name.push(".lock");
    let _held = FileLock::try_exclusive(Path::new(&name)).unwrap().unwrap();
    let sweep = sweep_of(&store, &later());
    assert!(!sweep.items.iter().any(|item| item.path == orphan.path), "a payload whose lock is held stays");
    assert!(sweep.kept.iter().any(|kept| kept.path == orphan.path && kept.because.contains("works on it")));
}

#[test]
fn what_was_put_there_just_now_with_an_old_date_is_not_taken_by_itself() {
    let cache = Cache::new();
    cache.reference(REPO, "main", &commit('a'));
    cache.file(REPO, &commit('a'), "m", &noise(1_000, 1));
    let orphan = cache.put(format!("{REPO}/blobs/{}", hex('9')), &noise(9_000, 2));
    let partial = cache.put(format!("{REPO}/blobs/{}.0123abcd.incomplete", hex('8')), b"x");
    for path in [&orphan, &partial] {
        let old = std::time::SystemTime::now() - std::time::Duration::from_secs(86_400);
        File::options().write(true).open(path).unwrap().set_modified(old).unwrap();
    }
    let sweep = sweep_of(&cache.store(), &SweepContext::at(Timestamp::now()));
    expect(
        &sweep,
        &cache.hub,
        &[
            (&format!("{REPO}/blobs/{}", hex('9')), OrphanBlob, Possible),
            (&format!("{REPO}/blobs/{}.0123abcd.incomplete", hex('8')), Partial, Certain),
        ],
    );
    assert_eq!(sweep.usual().len(), 1);
}

#[test]
fn flat_folders() {
    let scratch = tempfile::tempdir().unwrap();
    let root = scratch.path().canonicalize().unwrap();
    let base = root.join("models");
    let staged =
        |path: &str| (format!("{path}.0123456789abcdef.llorch"), format!("{path}.0123456789abcdef.llorch.json"));
    put(base.join("whole/model.gguf"), &small_gguf(15, 4, 1));
    let (partial, journal) = staged("whole/model.gguf");
    put(base.join(&partial), &noise(5_000, 1));
    put(base.join(&journal), b"{}");
    let (begun, begun_journal) = staged("whole/other.gguf");
    put(base.join(&begun), &noise(6_000, 2));
    put(base.join(&begun_journal), b"{}");
    let (busy, busy_journal) = staged("busy/other.gguf");
    put(base.join(&busy), &noise(6_000, 2));
    put(base.join(&busy_journal), b"{}");
    let _lock = FileLock::try_exclusive(&base.join(&busy_journal)).unwrap().unwrap();
    let (queued, queued_journal) = staged("queued/other.gguf");
    put(base.join(&queued), &noise(6_000, 2));
    put(base.join(&queued_journal), b"{}");
    put(base.join("whole/.cache/llorch-models/.17-3.llorch-tmp"), b"x");
    put(base.join(".17-4.llorch-tmp"), b"x");
    let downloads = "whole/.cache/huggingface/download";
    put(base.join(format!("{downloads}/model.gguf.metadata")), b"a\nb\n1\n");
    put(base.join(format!("{downloads}/abc=.{}.0123abcd.incomplete", hex('1'))), &noise(4_000, 3));
    put(base.join(format!("{downloads}/abc=.{}.incomplete", hex('1'))), &noise(4_000, 3));
    put(base.join(format!("{downloads}/sub/model.gguf.{}.incomplete", hex('1'))), &noise(4_000, 3));
    put(base.join("left/.cache/huggingface/CACHEDIR.TAG"), b"tag");
    put(base.join(format!("left/.cache/huggingface/download/x.{}.incomplete", hex('2'))), &noise(3_000, 3));
    fs::create_dir_all(base.join("empty")).unwrap();
    fs::create_dir_all(base.join("lost+found")).unwrap();
    put(base.join("notes/readme.txt"), b"mine");
    put(base.join("git/.git/HEAD"), b"mine");
    let cache = root.join("hub/models--a--b/blobs");
    fs::create_dir_all(&cache).unwrap();
    put(cache.join("here"), &small_gguf(2, 2, 5));
    fs::create_dir_all(base.join("linked")).unwrap();
    symlink(cache.join("here"), base.join("linked/alive.gguf")).unwrap();
    symlink(cache.join("gone"), base.join("linked/dead.gguf")).unwrap();
    symlink("/no/such/disk/model.gguf", base.join("linked/away.gguf")).unwrap();
    symlink("nothing", base.join("dead-link")).unwrap();

    let store = FlatStore::new(base.clone(), Vec::new());
    let mut context = later();
    context.queued.insert(base.join("queued"));
    let sweep = sweep_of(&store, &context);
    let wanted = [
        (&*partial, Partial, Certain),
        (&*begun, Partial, Likely),
        ("whole/.cache/llorch-models/.17-3.llorch-tmp", Temporary, Certain),
        (".17-4.llorch-tmp", Temporary, Certain),
        (&format!("{downloads}/abc=.{}.0123abcd.incomplete", hex('1')), Partial, Certain),
        (&format!("{downloads}/abc=.{}.incomplete", hex('1')), Partial, Likely),
        (&format!("{downloads}/sub/model.gguf.{}.incomplete", hex('1')), Partial, Likely),
        (&format!("left/.cache/huggingface/download/x.{}.incomplete", hex('2')), Partial, Likely),
        ("left", AbandonedFolder, Likely),
        ("empty", AbandonedFolder, Possible),
        ("linked/dead.gguf", DanglingLink, Likely),
        ("linked/away.gguf", DanglingLink, Possible),
        ("dead-link", DanglingLink, Certain),
    ];
    expect(&sweep, &base, &wanted);
    let why = |path: &str| {
        sweep.kept.iter().find(|kept| kept.path == base.join(path)).map(|kept| kept.because.clone()).unwrap_or_default()
    };
    assert!(why(&busy).starts_with("is being downloaded by"), "{:?}", sweep.kept);
    assert_eq!(why(&queued), "a job of the queue goes on with it");

    let unknown = SweepContext { queue_unknown: Some("it cannot be read".to_owned()), ..later() };
    let sweep_without_queue = sweep_of(&store, &unknown);
    assert!(!sweep_without_queue.items.iter().any(|item| item.path.to_str().unwrap().contains(".llorch.json")));
    assert!(!sweep_without_queue.items.iter().any(|item| item.path == base.join(&begun)));

    let before = rows(&store);
    take(&sweep, &all(&sweep), &root);
    let after = rows(&store);
    for (id, row) in after {
        assert_eq!((row.size_bytes, row.file_count), (before[&id].size_bytes, before[&id].file_count), "{id}");
    }
    assert!(
        !base.join("left").exists() && base.join("notes/readme.txt").exists() && base.join("git/.git/HEAD").exists()
    );
    assert!(cache.join("here").exists());
}

#[test]
fn a_links_payload_in_another_store_is_in_use_and_so_is_what_a_process_holds() {
    let cache = Cache::new();
    cache.reference(REPO, "main", &commit('a'));
    cache.file(REPO, &commit('a'), "m", &noise(1_000, 1));
    let linked = cache.put(format!("{REPO}/blobs/{}", hex('9')), &noise(9_000, 2));
    let orphan = cache.put(format!("{REPO}/blobs/{}", hex('8')), &noise(9_000, 3));
    let base = cache.hub.parent().unwrap().join("models");
    fs::create_dir_all(base.join("m")).unwrap();
    symlink(&linked, base.join("m/model.gguf")).unwrap();
    let stores: Vec<Arc<dyn Store>> =
        vec![Arc::new(FlatStore::new(base, Vec::new())), Arc::new(HfStore::new(cache.hub.clone()))];
    let inventory = Inventory::new(stores.clone(), Vec::new());
    let look = |inventory: &Inventory| inventory.sweep(&later(), &CancellationToken::new());
    let sweep = look(&inventory);
    assert_eq!(sweep.items.iter().map(|item| &item.path).collect::<Vec<_>>(), [&orphan]);
    assert!(sweep.kept.iter().any(|kept| kept.path == linked && kept.because.contains("leads to it")));

    let protected = Inventory::new(stores, vec!["org/*".to_owned()]);
    assert_eq!(look(&protected).items, []);

    // A process that holds a partial may be about to name what nothing names yet.
    let partial = cache.put(format!("{REPO}/blobs/{}.downloadInProgress", hex('7')), b"x");
    assert_eq!(look(&inventory).items.len(), 2);
    let mut child =
        std::process::Command::new("sleep").arg("600").stdin(File::open(&partial).unwrap()).spawn().unwrap();
    let held = look(&inventory);
    let plan_before = sweep.plan(&all(&sweep));
    let (rest, alive) = inventory.still_dead(&plan_before, &later(), &CancellationToken::new());
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(held.items, [], "{:?}", held.items);
    assert!(held.kept.iter().any(|kept| kept.path == partial && kept.because.contains("holds it")), "{:?}", held.kept);
    assert_eq!(
        (rest.steps.len(), rest.expected_bytes, alive.len()),
        (0, 0, 1),
        "what was dead a moment ago is not run"
    );
    let (rest, alive) = inventory.still_dead(&plan_before, &later(), &CancellationToken::new());
    assert_eq!((&rest, alive.len()), (&plan_before, 0));
}

/// Does something before the first step of a plan.
struct First<F: FnMut() + Send>(F, bool);

impl<F: FnMut() + Send> Hook for First<F> {
    fn before(&mut self, _index: usize, _step: &Step) -> Decision {
        if !std::mem::replace(&mut self.1, true) {
            (self.0)();
        }
        Decision::Proceed
    }
}

#[test]
fn a_blob_that_a_name_comes_to_need_while_the_sweep_runs_stays() {
    let cache = Cache::new();
    cache.reference(REPO, "main", &commit('a'));
    cache.file(REPO, &commit('a'), "m", &noise(1_000, 1));
    let hf = cache.put(format!("{REPO}/blobs/{}", hex('9')), &noise(9_000, 2));
    let abandoned = cache.put(format!("{REPO}/blobs/{}.incomplete", hex('8')), &noise(3_000, 3));
    let scratch = tempfile::tempdir().unwrap();
    let root = scratch.path().canonicalize().unwrap().join("models");
    let ollama = Ollama(root.clone());
    ollama.tag("library/one/latest", &ollama.manifest(&Ollama::config("Q4_0"), &[("model", &noise(500, 4))]));
    let manifest = ollama.manifest(&Ollama::config("Q8_0"), &[("model", &noise(30_000, 5))]);
    let orphan = root.join(format!("blobs/sha256-{}", sha256(&noise(30_000, 5))));

    let stores: Vec<Arc<dyn Store>> =
        vec![Arc::new(HfStore::new(cache.hub.clone())), Arc::new(OllamaStore::new(&root))];
    let inventory = Inventory::new(stores, Vec::new());
    let sweep = inventory.sweep(&later(), &CancellationToken::new());
    let plan = sweep.plan(&all(&sweep));
    assert!([&hf, &abandoned, &orphan].iter().all(|path| plan.steps.iter().any(|step| step.path() == **path)));
    let mut arrive = First(
        || {
            cache.link(format!("{REPO}/snapshots/{}/late", commit('a')), format!("../../blobs/{}", hex('9')));
            ollama.tag("library/late/latest", &manifest);
        },
        false,
    );
    let report = inventory.run_deletion(&plan, &mut arrive, &|_| false, &mut |_, _| (), &CancellationToken::new());
    assert!(hf.exists() && orphan.exists() && !abandoned.exists(), "{report:?}");
    for path in [&hf, &orphan] {
        assert!(report.failed.iter().any(|failure| failure.path == *path), "{report:?}");
    }
}

#[test]
fn ollama() {
    let scratch = tempfile::tempdir().unwrap();
    let root = scratch.path().canonicalize().unwrap().join("models");
    let ollama = Ollama(root.clone());
    let manifest = ollama.manifest(&Ollama::config("Q4_0"), &[("model", &small_gguf(2, 4, 1))]);
    ollama.tag("library/one/latest", &manifest);
    ollama.tag_v2("library/one/latest", &manifest, Form::Symlink);
    let second = ollama.manifest(&Ollama::config("Q8_0"), &[("model", &small_gguf(7, 4, 2))]);
    ollama.tag_v2("library/two/latest", &second, Form::Symlink);
    let child = ollama.manifest(&Ollama::config("F16"), &[("model", &small_gguf(1, 4, 3))]);
    let list = Ollama::list(&[ollama.blob(&child)]);
    ollama.tag_v2("library/three/latest", &list, Form::Copy);
    ollama.blob(&list);
    let orphan = ollama.blob(&noise(30_000, 7));
    let blobs = root.join("blobs");
    let partial = format!("sha256-{}-partial", hex('4'));
    put(blobs.join(&partial), &noise(10_000, 8));
    for number in 0..3 {
        put(blobs.join(format!("{partial}-{number}")), br#"{"N":0}"#);
    }
    put(blobs.join(format!("sha256-{}-partial-0", hex('5'))), br#"{"N":0}"#);
    put(blobs.join(format!("sha256-{}.tmp", hex('6'))), &noise(5_000, 9));
    put(blobs.join("sha256-1234567890"), &noise(5_000, 10));
    put(blobs.join("split-copy123"), &noise(5_000, 11));
    put(blobs.join("Q4_K_M3847561"), &noise(5_000, 12));
    put(blobs.join("notes.txt"), b"mine");
    put(blobs.join("split-gguf-123/part.gguf"), &noise(5_000, 13));
    symlink(format!("../sha256-{orphan}"), blobs.join("split-gguf-123/link")).unwrap();
    put(root.join("ollama-safetensors77/model.safetensors"), &noise(5_000, 14));
    put(root.join("manifests/registry.ollama.ai/library/one/.manifest-99"), b"{");
    fs::create_dir_all(root.join("manifests/registry.ollama.ai/library/nothing")).unwrap();
    fs::create_dir_all(root.join("manifests-v2/ollama.com/library/four")).unwrap();
    symlink(format!("../../../../blobs/sha256-{}", hex('f')), root.join("manifests-v2/ollama.com/library/four/latest"))
        .unwrap();

    let store = OllamaStore::new(&root);
    let sweep = sweep_of(&store, &later());
    let wanted = [
        (format!("blobs/sha256-{orphan}"), OrphanBlob, Likely),
        (format!("blobs/{partial}"), Partial, Likely),
        (format!("blobs/sha256-{}-partial-0", hex('5')), Partial, Certain),
        (format!("blobs/sha256-{}.tmp", hex('6')), Partial, Likely),
        ("blobs/sha256-1234567890".to_owned(), Temporary, Certain),
        ("blobs/split-copy123".to_owned(), Temporary, Certain),
        ("blobs/Q4_K_M3847561".to_owned(), Temporary, Certain),
        ("blobs/split-gguf-123".to_owned(), Temporary, Certain),
        ("ollama-safetensors77".to_owned(), Temporary, Certain),
        ("manifests/registry.ollama.ai/library/one/.manifest-99".to_owned(), Temporary, Certain),
        ("manifests/registry.ollama.ai/library/nothing".to_owned(), AbandonedFolder, Likely),
        ("manifests-v2/ollama.com/library/four/latest".to_owned(), DanglingLink, Certain),
    ];
    let wanted: Vec<(&str, Garbage, Certainty)> = wanted.iter().map(|(path, k, c)| (path.as_str(), *k, *c)).collect();
    expect(&sweep, &root, &wanted);

    // Damage anywhere: no blob is offered, everything else still is.
    let broken = put(root.join("manifests/registry.ollama.ai/library/broken/latest"), b"{");
    let unsure = sweep_of(&store, &later());
    assert!(!unsure.items.iter().any(|item| item.kind == OrphanBlob));
    assert_eq!(unsure.items.len(), sweep.items.len() - 1);
    assert!(unsure.warnings.iter().any(|line| line.contains("unknown")), "{:?}", unsure.warnings);
    fs::remove_dir_all(broken.parent().unwrap()).unwrap();

    let before = rows(&store);
    take(&sweep, &all(&sweep), scratch.path());
    let after = rows(&store);
    for id in ["one:latest", "two:latest", "three:latest"] {
        assert_eq!(after[id], before[id], "{id}");
    }
    assert!(blobs.join("notes.txt").exists());
    let again = sweep_of(&store, &later());
    expect(&again, &root, &[("manifests-v2/ollama.com/library/four", AbandonedFolder, Likely)]);
}

#[test]
fn lm_studio() {
    let scratch = tempfile::tempdir().unwrap();
    let root = scratch.path().canonicalize().unwrap().join("models");
    put(root.join("pub/repo/model.gguf"), &small_gguf(15, 4, 1));
    put(root.join("pub/repo/downloading_model.gguf.part"), &noise(5_000, 1));
    put(root.join("pub/repo/other.gguf.part"), &noise(5_000, 2));
    put(root.join(format!("pub/repo/.cache/huggingface/download/x.{}.incomplete", hex('2'))), &noise(3_000, 3));
    symlink("gone.gguf", root.join("pub/repo/dead.gguf")).unwrap();
    fs::create_dir_all(root.join("pub/empty")).unwrap();
    fs::create_dir_all(root.join("nobody/nothing")).unwrap();
    put(root.join("begun/repo/downloading_x.gguf.part"), &noise(5_000, 2));
    put(root.join("pub/texts/readme.md"), b"mine");
    let store = LmStudioStore::new(&root);
    let sweep = sweep_of(&store, &later());
    let incomplete = format!("pub/repo/.cache/huggingface/download/x.{}.incomplete", hex('2'));
    expect(
        &sweep,
        &root,
        &[
            ("pub/repo/downloading_model.gguf.part", Partial, Certain),
            ("pub/repo/other.gguf.part", Partial, Likely),
            (&incomplete, Partial, Likely),
            ("pub/repo/dead.gguf", DanglingLink, Certain),
            ("pub/empty", AbandonedFolder, Likely),
            ("nobody", AbandonedFolder, Likely),
            ("begun", AbandonedFolder, Likely),
            ("begun/repo/downloading_x.gguf.part", Partial, Likely),
        ],
    );
    let folder = sweep.items.iter().position(|item| item.path == root.join("begun")).unwrap();
    let copy = sweep.plan(&BTreeSet::from([folder]));
    assert_eq!(copy.expected_bytes, sweep.items[folder].bytes, "the folder goes with what is in it");
    assert!(copy.expected_bytes >= 4096);
    take(&sweep, &all(&sweep), scratch.path());
    assert_eq!(rows(&store).into_keys().collect::<Vec<_>>(), ["pub/repo", "pub/texts"]);
    assert!(!root.join("nobody").exists() && !root.join("begun").exists());
}

#[test]
fn llama_cpp() {
    let scratch = tempfile::tempdir().unwrap();
    let root = scratch.path().canonicalize().unwrap().join("llama.cpp");
    put(root.join("a.gguf"), &small_gguf(15, 4, 1));
    put(root.join("a.gguf.etag"), b"\"x\"");
    put(root.join("a.gguf.downloadInProgress"), &noise(4_000, 1));
    put(root.join("b.gguf.downloadInProgress"), &noise(5_000, 2));
    put(root.join("b.gguf.json"), b"{}");
    put(root.join("gone.gguf.etag"), b"\"x\"");
    put(root.join("gone.gguf.json"), b"{}");
    put(root.join("c.gguf.tmp"), &noise(3_000, 3));
    let manifest = |file: &str| format!(r#"{{"ggufFile":{{"rfilename":"{file}","size":1}}}}"#);
    put(root.join("manifest=o=r=latest.json"), manifest("missing.gguf").as_bytes());
    put(root.join("manifest=o=r=kept.json"), manifest("kept.gguf").as_bytes());
    put(root.join("o_r_kept.gguf"), &small_gguf(2, 4, 4));
    put(root.join("manifest=o=r=broken.json"), b"{");
    put(root.join("notes.json"), b"mine");
    let store = LlamaCppStore::new(&root);
    let sweep = sweep_of(&store, &later());
    expect(
        &sweep,
        &root,
        &[
            ("a.gguf.downloadInProgress", Partial, Certain),
            ("b.gguf.downloadInProgress", Partial, Likely),
            ("c.gguf.tmp", Partial, Likely),
            ("gone.gguf.etag", Leftover, Certain),
            ("gone.gguf.json", Leftover, Certain),
            ("manifest=o=r=latest.json", DanglingReference, Likely),
        ],
    );
    let before = rows(&store);
    take(&sweep, &all(&sweep), scratch.path());
    let left: Vec<String> =
        names(&root).iter().map(|path| path.file_name().unwrap().to_str().unwrap().to_owned()).collect();
    let wanted =
        ["a.gguf", "a.gguf.etag", "manifest=o=r=broken.json", "manifest=o=r=kept.json", "notes.json", "o_r_kept.gguf"];
    assert_eq!(left, wanted);
    let after = rows(&store);
    assert_eq!(after.keys().collect::<Vec<_>>(), ["a", "o_r_kept"]);
    assert_eq!(after["o_r_kept"], before["o_r_kept"]);
}

#[test]
fn what_cannot_be_told_is_no_crash_and_nothing_is_offered() {
    let scratch = tempfile::tempdir().unwrap();
    let root = scratch.path().join("nowhere");
    for store in [
        Box::new(FlatStore::new(root.clone(), Vec::new())) as Box<dyn Store>,
        Box::new(HfStore::new(root.clone())),
        Box::new(OllamaStore::new(&root)),
        Box::new(LmStudioStore::new(&root)),
        Box::new(LlamaCppStore::new(&root)),
    ] {
        assert_eq!(sweep_of(store.as_ref(), &later()), Sweep::default(), "a store that is not there");
    }
    fs::write(&root, b"a file").unwrap();
    for store in [Box::new(HfStore::new(root.clone())) as Box<dyn Store>, Box::new(OllamaStore::new(&root))] {
        let sweep = sweep_of(store.as_ref(), &later());
        assert!(sweep.items.is_empty() && !sweep.warnings.is_empty());
    }
}

/// Stops at one step, as a crash would.
struct StopAt(usize);

impl Hook for StopAt {
    fn before(&mut self, index: usize, _step: &Step) -> Decision {
        if index == self.0 { Decision::Stop } else { Decision::Proceed }
    }
}

/// What must not change: every revision's files that a ref names, byte for byte.
fn alive(cache: &Cache) -> BTreeMap<PathBuf, Vec<u8>> {
    cache
        .readable()
        .into_iter()
        .filter(|(path, _)| path.to_str().unwrap().contains(&commit('a')) && !path.to_str().unwrap().ends_with(".new"))
        .map(|(path, bytes)| (path.strip_prefix(&cache.hub).unwrap().to_owned(), bytes))
        .collect()
}

#[test]
fn stopped_at_any_step_no_name_leads_to_nothing_that_did_not_before() {
    let cache = littered();
    share(&cache);
    let dangling = |cache: &Cache| {
        let is_dead = |path: &PathBuf| path.symlink_metadata().unwrap().is_symlink() && path.metadata().is_err();
        let relative = |path: PathBuf| path.strip_prefix(&cache.hub).unwrap().to_owned();
        names(&cache.hub).into_iter().filter(is_dead).map(relative).collect::<BTreeSet<PathBuf>>()
    };
    let (before, dead) = (alive(&cache), dangling(&cache));
    let steps = {
        let sweep = sweep_of(&cache.store(), &later());
        sweep.plan(&all(&sweep)).steps.len()
    };
    for stop in 0..=steps {
        let copy = cache.copy();
        let sweep = sweep_of(&copy.store(), &later());
        run_with(&sweep.plan(&all(&sweep)), &mut StopAt(stop));
        assert_eq!(alive(&copy), before, "stopped at {stop}");
        assert!(dangling(&copy).is_subset(&dead), "stopped at {stop}: a name without its bytes");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever is chosen, and wherever it stops: what is alive stays as it is, and the figures are those of the disk.
    #[test]
    fn any_choice_leaves_what_is_alive(chosen in prop::collection::btree_set(0_usize..26, 0..26), stop in prop::option::of(0_usize..30)) {
        let cache = littered();
        share(&cache);
        let store = cache.store();
        let before = (alive(&cache), rows(&store));
        let sweep = sweep_of(&store, &later());
        let chosen: BTreeSet<usize> = chosen.into_iter().filter(|at| *at < sweep.items.len()).collect();
        let plan = sweep.plan(&chosen);
        prop_assert_eq!(plan.expected_bytes, sweep.frees(&chosen));
        let outer = du(cache.scratch.path());
        let report = match stop {
            Some(stop) => run_with(&plan, &mut StopAt(stop)),
            None => run_with(&plan, &mut NoHook),
        };
        prop_assert_eq!(&report.failed, &[]);
        let freed = outer - du(cache.scratch.path());
        prop_assert_eq!(report.freed_bytes, freed);
        if stop.is_none() {
            prop_assert_eq!(plan.expected_bytes, freed);
        }
        prop_assert_eq!(alive(&cache), before.0);
        let gone: BTreeSet<PathBuf> = chosen.iter().map(|at| sweep.items[*at].path.clone()).collect();
        let after = rows(&store);
        for (id, row) in before.1 {
            if gone.contains(&row.path) {
                continue;
            }
            let now = &after[&id];
            // Only what lies in a revision, and was chosen, counts less.
            let inside = |at: &usize| {
                let item = &sweep.items[*at];
                item.id.as_deref() == Some(&id) && item.path.to_str().unwrap().contains("/snapshots/") && item.kind != DanglingLink
            };
            let detached = chosen.iter().any(inside);
            if !detached {
                prop_assert_eq!((&now.size_bytes, &now.file_count, &now.quantizations), (&row.size_bytes, &row.file_count, &row.quantizations), "{}", id);
            }
        }
    }
}

#[test]
fn a_download_that_ended_before_its_first_file() {
    let cache = Cache::new();
    let repo = "models--begun--one";
    cache.reference(repo, "main", &commit('a'));
    fs::create_dir_all(cache.hub.join(repo).join("snapshots").join(commit('a'))).unwrap();
    let partial = format!("{repo}/blobs/{}.0123abcd.incomplete", hex('1'));
    cache.put(&partial, &noise(9_000, 1));
    let sweep = sweep_of(&cache.store(), &later());
    expect(&sweep, &cache.hub, &[(&partial, Partial, Certain), (repo, AbandonedFolder, Likely)]);
    let folder = sweep.items.iter().position(|item| item.kind == AbandonedFolder).unwrap();
    assert_eq!(take(&sweep, &BTreeSet::from([folder]), cache.scratch.path()), sweep.items[folder].bytes);
    assert!(!cache.hub.join(repo).exists());
}

#[test]
fn many_revisions_are_looked_through_in_linear_time() {
    let cache = Cache::new();
    let fill = |from: usize, count: usize| {
        for number in from..count {
            let repo = format!("models--org--m{number}");
            cache.reference(&repo, "main", &commit('a'));
            for (digit, seed) in [('a', 1), ('b', 2), ('c', 3)] {
                for file in 0..6 {
                    cache.file(&repo, &commit(digit), &format!("f{file}"), &noise(10, seed * 7 + file));
                }
            }
        }
    };
    let look = |count: usize| {
        let begin = std::time::Instant::now();
        let sweep = sweep_of(&cache.store(), &later());
        assert_eq!(sweep.items.len(), 2 * count);
        (begin.elapsed(), sweep)
    };
    fill(0, 40);
    let (few, _) = look(40);
    fill(40, 400);
    let (mut many, sweep) = look(400);
    // Ten times as much; a hundred times as long would be a square. Once may be a machine that stood still.
    let most = few * 40 + std::time::Duration::from_millis(500);
    for _ in 0..4 {
        if many >= most {
            many = many.min(look(400).0);
        }
    }
    assert!(many < most, "{few:?} for 40, {many:?} for 400");
    assert!(sweep.plan(&all(&sweep)).steps.len() > 4_000);
}

#[test]
fn blocks_are_what_an_item_counts() {
    let cache = Cache::new();
    cache.reference(REPO, "main", &commit('a'));
    cache.file(REPO, &commit('a'), "m", &noise(1_000, 1));
    // A sparse partial: its length is not what it takes.
    let partial = cache.hub.join(format!("{REPO}/blobs/{}.sync.part", hex('1')));
    let file = File::create(&partial).unwrap();
    file.set_len(1 << 30).unwrap();
    // A partial with a second name elsewhere frees nothing.
    let linked = cache.put(format!("{REPO}/blobs/{}.part", hex('2')), &noise(9_000, 3));
    fs::hard_link(&linked, cache.hub.parent().unwrap().join("elsewhere")).unwrap();
    let sweep = sweep_of(&cache.store(), &later());
    let bytes: BTreeMap<&Path, u64> = sweep.items.iter().map(|item| (item.path.as_path(), item.bytes)).collect();
    assert_eq!((bytes[partial.as_path()], bytes[linked.as_path()]), (blocks(&partial), 0));
    take(&sweep, &all(&sweep), cache.scratch.path());
}
