//! Deletions beside other programs: names that come after the plan was made, and two runs of one plan at once.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Barrier};

use rbee_hive::disk::deletion::{Decision, Hook, NoHook};
use rbee_hive::model::{DeletionReport, ModelId, Plan, Step};
use rbee_hive::provisioner::{Inventory, PlanTarget};
use rbee_hive::store::hf::HfStore;
use rbee_hive::store::lm_studio::LmStudioStore;
use rbee_hive::store::ollama::OllamaStore;
use rbee_hive::store::{Part, Store};
use support::hf_cache::{Cache, commit, du, names, noise};
use support::stores::{Ollama, put, small_gguf};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

/// A store with something to delete and something to keep.
struct Bench {
    _scratch: TempDir,
    top: PathBuf,
    root: PathBuf,
    inventory: Inventory,
    targets: Vec<PlanTarget>,
}

impl Bench {
    fn new(scratch: TempDir, root: PathBuf, store: Arc<dyn Store>, wanted: &[(&str, Part)]) -> Self {
        let (kind, store_path) = (store.kind(), store.root().to_owned());
        let target = |(id, part): &(&str, Part)| PlanTarget {
            model: ModelId { store: kind, store_path: store_path.clone(), id: (*id).to_owned() },
            part: part.clone(),
        };
        let targets = wanted.iter().map(target).collect();
        let top = scratch.path().canonicalize().unwrap();
        Self { _scratch: scratch, top, root, inventory: Inventory::new(vec![store], Vec::new()), targets }
    }

    /// Two names of one model that go, and one of another that shares the parameters with them.
    fn ollama() -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let root = scratch.path().canonicalize().unwrap().join("models");
        fs::create_dir(&root).unwrap();
        let store = Ollama(root.clone());
        let shared = noise(5000, 1);
        let manifest = store.manifest(&Ollama::config("Q4_0"), &[("model", &noise(70_000, 2)), ("params", &shared)]);
        store.tag("library/l3/8b", &manifest);
        store.tag("library/l3/latest", &manifest);
        let other = store.manifest(&Ollama::config("Q8_0"), &[("model", &noise(30_000, 3)), ("params", &shared)]);
        store.tag("library/other/latest", &other);
        let wanted = [("l3:8b", Part::Whole), ("l3:latest", Part::Whole)];
        Self::new(scratch, root.clone(), Arc::new(OllamaStore::new(&root)), &wanted)
    }

    /// A repository of two revisions with payloads of its own and in the shared store; the second revision or all of it goes.
    fn hf(part: Part) -> Self {
        let cache = Cache::new();
        for (digit, seed) in [('1', 10), ('2', 20)] {
            cache.file("models--org--a", &commit(digit), "w.safetensors", &noise(40_000, seed));
            cache.file("models--org--a", &commit(digit), "deep/config.json", &noise(3000, seed + 1));
            cache.shared("models--org--a", &commit(digit), "x.gguf", &noise(50_000, seed + 2));
        }
        cache.file("models--org--a", &commit('1'), "both.bin", &noise(20_000, 5));
        cache.file("models--org--a", &commit('2'), "both.bin", &noise(20_000, 5));
        cache.reference("models--org--a", "main", &commit('2'));
        cache.file("models--org--b", &commit('3'), "w.safetensors", &noise(10_000, 6));
        let hub = cache.hub.clone();
        Self::new(cache.scratch, hub.clone(), Arc::new(HfStore::new(hub)), &[("org/a", part)])
    }

    /// A model with its projector, and a second publisher's.
    fn lm_studio() -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let root = scratch.path().canonicalize().unwrap().join("models");
        for file in ["pub/m/m-Q4_0.gguf", "pub/m/mmproj-F16.gguf", "two/m/m-Q4_0.gguf"] {
            put(root.join(file), &small_gguf(2, 8, file.len() as u64));
        }
        let store = LmStudioStore::new(&root);
        let mut id = None;
        let mut find = |row: rbee_hive::store::Row| {
            if row.model.path.starts_with(root.join("pub")) {
                id = Some(row.model.identity.id);
            }
        };
        store.scan(&mut find, &CancellationToken::new());
        let id = id.unwrap();
        Self::new(scratch, root.clone(), Arc::new(store), &[(&id, Part::Whole)])
    }

    /// Every path in the store, relative to it.
    fn names(&self) -> BTreeSet<PathBuf> {
        names(&self.root).iter().map(|path| path.strip_prefix(&self.root).unwrap().to_owned()).collect()
    }

    fn plan(&self) -> Plan {
        let plan = self.inventory.plan_deletion(&self.targets).unwrap();
        assert!(plan.blocked.is_empty() && !plan.steps.is_empty(), "{plan:?}");
        plan
    }

    fn run(&self, plan: &Plan, hook: &mut dyn Hook) -> DeletionReport {
        self.inventory.run_deletion(plan, hook, &|_| false, &mut |_, _| (), &CancellationToken::new())
    }

    /// What a single run leaves, and frees.
    fn alone(&self, same: &Self) -> (BTreeSet<PathBuf>, u64) {
        let plan = same.plan();
        let before = du(&same.top);
        let report = same.run(&plan, &mut NoHook);
        assert!(report.failed.is_empty() && report.gone.is_empty(), "{report:?}");
        assert_eq!(before - du(&same.top), report.freed_bytes);
        (same.names(), report.freed_bytes)
    }
}

/// Does something right before one operation.
struct At<F: FnMut() + Send>(usize, F);

impl<F: FnMut() + Send> Hook for At<F> {
    fn before(&mut self, index: usize, _step: &Step) -> Decision {
        if index == self.0 {
            (self.1)();
        }
        Decision::Proceed
    }
}

/// Says that it has come to one operation, and waits there.
struct Halt(usize, Sender<()>, Receiver<()>);

impl Hook for Halt {
    fn before(&mut self, index: usize, _step: &Step) -> Decision {
        if index == self.0 {
            self.1.send(()).unwrap();
            self.2.recv().unwrap();
        }
        Decision::Proceed
    }
}

type Make = fn() -> Bench;
const BENCHES: [Make; 4] =
    [Bench::ollama, || Bench::hf(Part::Whole), || Bench::hf(Part::Revision(commit('2'))), Bench::lm_studio];

fn judge(what: &str, bench: &Bench, left: &BTreeSet<PathBuf>, freed: u64, reports: [&DeletionReport; 2]) {
    assert_eq!(&bench.names(), left, "{what}");
    for report in reports {
        assert!(report.failed.is_empty(), "{what}: {report:?}");
    }
    assert_eq!(reports.iter().map(|report| report.freed_bytes).sum::<u64>(), freed, "{what}");
}

#[test]
fn two_runs_of_one_plan_leave_what_one_leaves_wherever_one_passes_the_other() {
    for make in BENCHES {
        let bench = make();
        let (left, freed) = bench.alone(&make());
        let steps = bench.plan().steps.len();
        for first in 0..steps {
            // The other one runs as a whole, or up to one of its operations while this one ends.
            for second in (0..=steps).step_by(4) {
                let bench = make();
                let plan = bench.plan();
                let (came, arrived) = channel();
                let (go, wait) = channel();
                let what = format!("{:?}: {second} of the other at {first}", bench.targets);
                let (one, two) = std::thread::scope(|scope| {
                    let mut other = None;
                    let mut halt = Some(Halt(second, came, wait));
                    let mut arrived = Some(arrived);
                    let mut meet = || {
                        let mut hook = halt.take().unwrap();
                        let (bench, plan) = (&bench, &plan);
                        other = Some(scope.spawn(move || bench.run(plan, &mut hook)));
                        // It halts, or it ends and its end of the channel goes with it.
                        let _ = arrived.take().unwrap().recv();
                    };
                    let one = bench.run(&plan, &mut At(first, &mut meet));
                    let _ = go.send(());
                    (one, other.unwrap().join().unwrap())
                });
                judge(&what, &bench, &left, freed, [&one, &two]);
            }
        }
    }
}

#[test]
fn two_runs_at_once_leave_what_one_leaves() {
    for make in BENCHES {
        let (left, freed) = make().alone(&make());
        for round in 0..25 {
            let bench = make();
            let plan = bench.plan();
            let start = Barrier::new(2);
            let run = || {
                start.wait();
                bench.run(&plan, &mut NoHook)
            };
            let (one, two) = std::thread::scope(|scope| {
                let other = scope.spawn(run);
                (run(), other.join().unwrap())
            });
            judge(&format!("{:?}: round {round}", bench.targets), &bench, &left, freed, [&one, &two]);
        }
    }
}

/// Runs the plan of a bench while `change` happens before each of its operations, and gives what failed.
fn with_each(make: Make, change: fn(&Path), mut check: impl FnMut(usize, &Bench, &DeletionReport)) {
    let steps = make().plan().steps.len();
    for at in 0..steps {
        let bench = make();
        let plan = bench.plan();
        let root = bench.root.clone();
        let report = bench.run(&plan, &mut At(at, || change(&root)));
        check(at, &bench, &report);
    }
}

#[test]
fn a_copy_of_a_name_that_came_meanwhile_keeps_its_blobs() {
    let copy = |root: &Path| {
        let names = root.join("manifests/registry.ollama.ai/library");
        fs::create_dir_all(names.join("copy")).unwrap();
        let from = [names.join("l3/latest"), names.join("l3/8b")];
        let _ = from.iter().find_map(|from| fs::copy(from, names.join("copy/latest")).ok());
    };
    let mut kept = 0;
    with_each(Bench::ollama, copy, |at, bench, report| {
        let manifest = bench.root.join("manifests/registry.ollama.ai/library/copy/latest");
        if manifest.exists() {
            kept += 1;
            let text = fs::read_to_string(manifest).unwrap();
            for digest in text.split("sha256:").skip(1) {
                let blob = bench.root.join("blobs").join(format!("sha256-{}", &digest[..64]));
                assert!(blob.exists(), "at {at}: {} is gone: {report:?}", blob.display());
            }
            assert!(
                report.failed.iter().any(|failure| failure.error.contains("copy:latest has come to need it")),
                "{report:?}"
            );
        }
    });
    assert!(kept >= 2, "{kept}");
}

#[test]
fn a_name_that_was_moved_keeps_its_blobs() {
    let moved = |root: &Path| {
        let names = root.join("manifests/registry.ollama.ai/library");
        fs::create_dir_all(names.join("copy")).unwrap();
        let _ = fs::rename(names.join("l3/latest"), names.join("copy/latest"));
    };
    with_each(Bench::ollama, moved, |at, bench, report| {
        let manifest = bench.root.join("manifests/registry.ollama.ai/library/copy/latest");
        let Ok(text) = fs::read_to_string(manifest) else { return };
        for digest in text.split("sha256:").skip(1) {
            let blob = bench.root.join("blobs").join(format!("sha256-{}", &digest[..64]));
            assert!(blob.exists(), "at {at}: {} is gone: {report:?}", blob.display());
        }
    });
}

#[test]
fn a_revision_that_came_meanwhile_keeps_its_blobs() {
    for make in [BENCHES[1], BENCHES[2]] {
        let arrive = |root: &Path| {
            let snapshots = root.join("models--org--a/snapshots");
            let Ok(entries) = fs::read_dir(snapshots.join(commit('2'))) else { return };
            fs::create_dir_all(snapshots.join(commit('9'))).unwrap();
            for entry in entries.flatten().filter(|entry| entry.path().is_symlink()) {
                let link = fs::read_link(entry.path()).unwrap();
                std::os::unix::fs::symlink(link, snapshots.join(commit('9')).join(entry.file_name())).unwrap();
            }
        };
        let mut kept = 0;
        with_each(make, arrive, |at, bench, report| {
            let Ok(entries) = fs::read_dir(bench.root.join("models--org--a/snapshots").join(commit('9'))) else {
                return;
            };
            for entry in entries.flatten() {
                kept += 1;
                assert!(entry.path().exists(), "at {at}: {} leads nowhere: {report:?}", entry.path().display());
            }
        });
        assert!(kept > 3, "{kept}");
    }
}
