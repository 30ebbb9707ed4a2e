//! A whole host: every figure against what is true by construction, every deletion against a walk over the disk.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use proptest::prelude::*;
use rbee_hive::disk::deletion::{self, Decision, Hook, NoHook};
use rbee_hive::model::{DeletionReport, Model, ModelId, Plan, Step};
use rbee_hive::provisioner::{Inventory, PlanTarget, Totals};
use support::host::{Host, Step as Made, du, made_up};
use tokio_util::sync::CancellationToken;

type Set = BTreeSet<usize>;

fn set(of: &[usize]) -> Set {
    of.iter().copied().collect()
}

fn identity(host: &Host, at: usize) -> ModelId {
    let made = &host.models[at];
    ModelId { store: made.store, store_path: made.root.clone(), id: made.id.clone() }
}

fn plan(host: &Host, of: &Set) -> Plan {
    let targets: Vec<PlanTarget> = of.iter().map(|&at| PlanTarget::whole(identity(host, at))).collect();
    host.inventory().plan_deletion(&targets).unwrap()
}

fn run(plan: &Plan, hook: &mut dyn Hook) -> DeletionReport {
    deletion::run(plan, hook, &|_| false, &mut |_, _| {}, &CancellationToken::new())
}

fn named(host: &Host, of: &Set) -> Vec<String> {
    of.iter().map(|&at| identity(host, at).to_string()).collect()
}

fn rows(inventory: &Inventory) -> (BTreeMap<ModelId, Model>, u64, Vec<(PathBuf, u64)>) {
    let (rows, stores) = inventory.scan_all(&CancellationToken::new());
    let total = rows.iter().collect::<Totals>().disk_bytes();
    let stores = stores.into_iter().map(|store| (store.path, store.disk_bytes)).collect();
    (rows.into_iter().map(|row| (row.model.identity.clone(), row.model)).collect(), total, stores)
}

/// Every figure of every row that is left.
fn check_figures(host: &Host, gone: &Set) {
    let (rows, total, stores) = rows(&host.inventory());
    let left: Set = (0..host.models.len()).filter(|at| !gone.contains(at)).collect();
    let expected: BTreeSet<ModelId> = left.iter().map(|&at| identity(host, at)).collect();
    assert_eq!(rows.keys().cloned().collect::<BTreeSet<_>>(), expected, "after {:?}", named(host, gone));
    for &at in &left {
        let row = &rows[&identity(host, at)];
        let truth = host.truth(&set(&[at]), gone);
        let shown =
            support::host::Truth { size: row.size_bytes, disk: row.disk_bytes, reclaimable: row.reclaimable_bytes };
        assert_eq!(shown, truth, "{} after {:?}", row.identity, named(host, gone));
    }
    assert_eq!(total, host.truth(&left, gone).disk, "total after {:?}", named(host, gone));
    for (root, bytes) in stores {
        assert_eq!(bytes, du(&root), "{root:?}");
    }
}

/// Deletes `of`, which must do exactly what is true by construction. Gives what came free.
fn delete(host: &Host, of: &Set, gone: &Set) -> u64 {
    let what = named(host, of);
    let truth = host.truth(of, gone).reclaimable;
    let everything: Set = of.union(gone).copied().collect();
    let before = (du(&host.root), host.readable(&everything));
    let plan = plan(host, of);
    assert_eq!(plan.blocked, [], "{what:?}");
    let report = run(&plan, &mut NoHook);
    assert_eq!(report.failed, [], "{what:?}");
    let freed = before.0 - du(&host.root);
    assert_eq!(
        (plan.expected_bytes, report.freed_bytes, freed),
        (truth, truth, truth),
        "expected, freed, du of {what:?}; keeps {:?}",
        plan.keep
    );
    assert!(host.readable(&everything) == before.1, "another model reads otherwise after {what:?}");
    freed
}

#[test]
fn every_figure_is_what_is_true_by_construction() {
    check_figures(&made_up(), &Set::new());
}

#[test]
fn every_model_alone() {
    for at in 0..made_up().models.len() {
        let host = made_up();
        delete(&host, &set(&[at]), &Set::new());
        check_figures(&host, &set(&[at]));
    }
}

/// Deleting it frees what it may have needed only for those that go with it or after it.
fn may_need_anything(host: &Host, at: usize) -> bool {
    host.models[at].id == "bad:1"
}

/// Pairs number `part`, `part + parts` and so on: together, and one after the other where they can have to do with each other.
fn pairs(part: usize, parts: usize) {
    let count = made_up().models.len();
    let all = (0..count).flat_map(|first| (first + 1..count).map(move |second| (first, second)));
    for (number, (first, second)) in all.enumerate().filter(|(number, _)| number % parts == part) {
        let together = made_up();
        let related = together.related(first, second) || number % 5 == 0;
        let freed = delete(&together, &set(&[first, second]), &Set::new());
        if !related {
            continue;
        }
        let one_by_one = made_up();
        // What may need anything goes first; else the order is as good as any.
        let swapped = number % 2 == 0 && !may_need_anything(&together, first) || may_need_anything(&together, second);
        let (a, b) = if swapped { (second, first) } else { (first, second) };
        let sum = delete(&one_by_one, &set(&[a]), &Set::new()) + delete(&one_by_one, &set(&[b]), &set(&[a]));
        assert_eq!(freed, sum, "{first} {second}");
        assert_eq!(together.names(), one_by_one.names(), "{:?}", named(&together, &set(&[first, second])));
    }
}

#[test]
fn all_pairs_first_third() {
    pairs(0, 3);
}

#[test]
fn all_pairs_second_third() {
    pairs(1, 3);
}

#[test]
fn all_pairs_last_third() {
    pairs(2, 3);
}

#[test]
fn everything_at_once_leaves_what_is_nobodys() {
    let host = made_up();
    let all: Set = (0..host.models.len()).collect();
    delete(&host, &all, &Set::new());
    check_figures(&host, &all);
}

struct StopAt(usize);

impl Hook for StopAt {
    fn before(&mut self, index: usize, _step: &Step) -> Decision {
        if index == self.0 { Decision::Stop } else { Decision::Proceed }
    }
}

/// Killed at every step: what stays reads as before, and a second run brings the rest back.
#[test]
fn stopped_at_any_step_nothing_else_changes() {
    let sample = made_up();
    let count = sample.models.len();
    let of = |store: &str, id: &str| {
        (0..count).find(|&at| sample.models[at].store.name() == store && sample.models[at].id == id).unwrap()
    };
    let chosen = [
        set(&[of("hf", "org/a")]),
        set(&[of("hf", "org/b"), of("hf", "org/c")]),
        set(&[of("ollama", "llama3:8b"), of("ollama", "llama3:chat"), of("flat", "many")]),
        set(&[of("llamacpp", "o_r_m-Q8_0"), of("llamacpp", "o_r_m-Q4_0"), of("lmstudio", "pub/repo")]),
    ];
    for of in chosen {
        let steps = plan(&sample, &of).steps.len();
        for stop in 0..steps {
            let host = made_up();
            let before = host.readable(&of);
            let used = du(&host.root);
            let report = run(&plan(&host, &of), &mut StopAt(stop));
            assert_eq!(report.removed.len(), stop);
            assert_eq!(report.freed_bytes, used - du(&host.root), "stopped at {stop} of {:?}", named(&host, &of));
            assert!(host.readable(&of) == before, "stopped at {stop} of {:?}", named(&host, &of));
            // What is left of them is rows or orphans; nothing that is a row is in the way of a second run.
            let (left, ..) = rows(&host.inventory());
            let rest: Vec<PlanTarget> = of
                .iter()
                .map(|&at| identity(&host, at))
                .filter(|id| left.contains_key(id))
                .map(PlanTarget::whole)
                .collect();
            let again = host.inventory().plan_deletion(&rest).unwrap();
            let used = du(&host.root);
            let report = run(&again, &mut NoHook);
            assert_eq!(report.failed, [], "after a stop at {stop} of {:?}", named(&host, &of));
            assert_eq!((again.expected_bytes, report.freed_bytes), (used - du(&host.root), used - du(&host.root)));
            assert!(host.readable(&of) == before);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    /// Any host, any subset in any order: the figures stay true, the sums agree, nothing else changes.
    #[test]
    fn any_host_any_subset_any_order(
        steps in proptest::collection::vec(any::<Made>(), 1..40),
        order in proptest::collection::vec((any::<prop::sample::Index>(), 1_usize..4), 1..6),
    ) {
        let host = Host::of(&steps);
        check_figures(&host, &Set::new());
        let mut gone = Set::new();
        for (index, many) in order {
            let left: Vec<usize> = (0..host.models.len()).filter(|at| !gone.contains(at)).collect();
            if left.is_empty() {
                break;
            }
            let start = index.index(left.len());
            let of: Set = left.iter().cycle().skip(start).step_by(2).take(many.min(left.len())).copied().collect();
            delete(&host, &of, &gone);
            gone.extend(of);
            check_figures(&host, &gone);
        }
    }
}
