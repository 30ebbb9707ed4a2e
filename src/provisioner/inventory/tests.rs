//! An inventory over made-up stores.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use tokio_util::sync::CancellationToken;

use super::{Inventory, PlanTarget, ScanEvent, Totals};
use crate::disk::usage::Usage;
use crate::error::{Error, Result};
use crate::model::selector::Selector;
use crate::model::{
    Inode, Model, ModelFile, ModelId, ModelKind, Operation, Plan, Reference, Role, Step, StoreKind, StoreSummary,
};
use crate::store::verify::Expected;
use crate::store::{Details, Part, Row, Store, Target};

/// A folder of files, one row a file.
#[derive(Debug)]
struct Files {
    kind: StoreKind,
    root: PathBuf,
}

impl Files {
    fn ids(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.root).into_iter().flatten();
        let mut ids: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap().replace('+', "/")).collect();
        ids.sort();
        ids
    }

    fn path(&self, id: &str) -> PathBuf {
        self.root.join(id.replace('/', "+"))
    }

    fn row(&self, id: &str) -> Row {
        let path = self.path(id);
        let status = fs::metadata(&path).unwrap();
        let mut usage = Usage::default();
        let inode = Inode { device: status.dev(), inode: status.ino() };
        usage.add(inode, status.len(), status.blocks() * 512, status.nlink());
        let identity = ModelId { store: self.kind, store_path: self.root.clone(), id: id.to_owned() };
        let model = Model {
            kind: ModelKind::Model,
            reference: Some(format!("org/{id}")),
            file_count: 1,
            size_bytes: usage.size_bytes(),
            disk_bytes: usage.disk_bytes(),
            reclaimable_bytes: usage.reclaimable_bytes(),
            ..Model::new(identity, path)
        };
        Row::new(model, usage)
    }

    fn missing(&self, id: &str) -> Error {
        Error::ModelNotFound { reference: id.to_owned(), place: self.root.display().to_string() }
    }
}

impl Store for Files {
    fn kind(&self) -> StoreKind {
        self.kind
    }

    fn root(&self) -> &Path {
        &self.root
    }

    fn scan(&self, sink: &mut dyn FnMut(Row), _cancel: &CancellationToken) -> StoreSummary {
        let mut usage = Usage::default();
        for id in self.ids() {
            let row = self.row(&id);
            usage.merge(&row.usage);
            sink(row);
        }
        StoreSummary {
            store: self.kind,
            path: self.root.clone(),
            disk_bytes: usage.disk_bytes(),
            models: self.ids().len() as u64,
            warnings: Vec::new(),
        }
    }

    fn details(&self, id: &str) -> Result<Details> {
        if !self.ids().contains(&id.to_owned()) {
            return Err(self.missing(id));
        }
        let row = self.row(id);
        let file = ModelFile {
            path: "model.gguf".to_owned(),
            absolute: row.model.path.clone(),
            size_bytes: row.model.size_bytes,
            disk_bytes: row.model.disk_bytes,
            role: Role::Weights,
            sha256: None,
        };
        Ok(Details::new(row.model, vec![file]))
    }

    fn plan_deletion(&self, targets: &[Target]) -> Result<Plan> {
        let mut plan = Plan::default();
        for target in targets {
            let row = self.details(&target.id)?.model;
            let status = fs::symlink_metadata(&row.path).unwrap();
            let parent = fs::metadata(&self.root).unwrap();
            let bytes = if status.nlink() == 1 { row.disk_bytes } else { 0 };
            plan.steps.push(Step {
                operation: Operation::RemoveFile,
                root: self.root.clone(),
                folder: PathBuf::new(),
                parent: Inode { device: parent.dev(), inode: parent.ino() },
                name: row.path.file_name().unwrap().to_owned(),
                target: Inode { device: status.dev(), inode: status.ino() },
                stamp: None,
                bytes,
                locks: Vec::new(),
                requires: if plan.steps.is_empty() { Vec::new() } else { vec![0] },
            });
            plan.expected_bytes += bytes;
            plan.models.push(row.identity);
        }
        Ok(plan)
    }

    fn find(&self, reference: &Reference) -> Result<Option<Target>> {
        let id = reference.name().to_owned();
        Ok(self.ids().contains(&id).then_some(Target { id, part: Part::Whole }))
    }

    fn expected(&self, target: &Target) -> Result<Vec<Expected>> {
        Err(self.missing(&target.id))
    }
}

/// Two stores beside each other: `a`, `both` in one, `b`, `both`, `org/name` in the other.
struct Bench {
    scratch: tempfile::TempDir,
    stores: Vec<Arc<dyn Store>>,
}

impl Bench {
    fn new() -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let root = scratch.path().canonicalize().unwrap();
        let mut stores: Vec<Arc<dyn Store>> = Vec::new();
        for (kind, names) in [(StoreKind::Flat, vec!["a", "both"]), (StoreKind::Hf, vec!["b", "both", "org+name"])] {
            let folder = root.join(kind.name());
            fs::create_dir(&folder).unwrap();
            for name in names {
                fs::write(folder.join(name), vec![b'x'; 5000]).unwrap();
            }
            stores.push(Arc::new(Files { kind, root: folder }));
        }
        Self { scratch, stores }
    }

    fn inventory(&self, protect: &[&str]) -> Inventory {
        Inventory::new(self.stores.clone(), protect.iter().map(|name| (*name).to_owned()).collect())
    }

    fn id(&self, kind: StoreKind, id: &str) -> ModelId {
        let root = self.scratch.path().canonicalize().unwrap().join(kind.name());
        ModelId { store: kind, store_path: root, id: id.to_owned() }
    }

    fn find(&self, text: &str) -> Result<PlanTarget> {
        self.inventory(&[]).find(&Selector::parse(text)?, None)
    }
}

#[test]
fn every_store_is_scanned_and_its_summary_comes_after_its_rows() {
    let bench = Bench::new();
    let events = Mutex::new(Vec::new());
    bench.inventory(&[]).scan(&|event| events.lock().unwrap().push(event), &CancellationToken::new());
    let events = events.into_inner().unwrap();
    for kind in [StoreKind::Flat, StoreKind::Hf] {
        let row = |event: &ScanEvent| matches!(event, ScanEvent::Row(row) if row.model.identity.store == kind);
        let summary = |event: &ScanEvent| matches!(event, ScanEvent::Store(summary) if summary.store == kind);
        let last_row = events.iter().rposition(row).unwrap();
        assert!(last_row < events.iter().position(summary).unwrap());
    }
    let (rows, summaries) = bench.inventory(&[]).scan_all(&CancellationToken::new());
    assert_eq!((rows.len(), summaries.len()), (5, 2));
    assert_eq!(rows[0].model.identity, bench.id(StoreKind::Flat, "a"));
}

#[test]
fn totals_count_an_inode_once() {
    let bench = Bench::new();
    let flat = bench.id(StoreKind::Flat, "a").store_path;
    fs::hard_link(flat.join("a"), flat.join("same")).unwrap();
    let (rows, _) = bench.inventory(&[]).scan_all(&CancellationToken::new());
    let totals: Totals = rows.iter().collect();
    assert_eq!(totals.models(), 6);
    assert_eq!(totals.disk_bytes(), rows[0].model.disk_bytes * 5);
}

#[test]
fn a_name_in_two_stores_is_ambiguous_and_the_choices_can_be_typed() {
    let bench = Bench::new();
    assert_eq!(bench.find("a").unwrap(), PlanTarget::whole(bench.id(StoreKind::Flat, "a")));
    let error = bench.find("both").unwrap_err();
    let Error::Ambiguous { choices, .. } = &error else { panic!("{error}") };
    assert_eq!(choices, &["flat:both", "hf:both"]);
    for choice in choices {
        assert!(bench.find(choice).is_ok(), "{choice}");
    }
    assert!(matches!(bench.find("c"), Err(Error::ModelNotFound { .. })));
    assert!(matches!(bench.find("../a"), Err(Error::InvalidReference { .. })));
    let named = bench.find("hf:org/name:q4_0").unwrap();
    assert_eq!(named.part, Part::Quantization("Q4_0".to_owned()));
}

#[test]
fn a_store_path_limits_the_search() {
    let bench = Bench::new();
    let selector = Selector::parse("both").unwrap();
    let root = bench.id(StoreKind::Hf, "").store_path;
    let found = bench.inventory(&[]).find(&selector, Some(&root)).unwrap();
    assert_eq!(found.model, bench.id(StoreKind::Hf, "both"));
    assert!(bench.inventory(&[]).find(&selector, Some(Path::new("/nowhere"))).is_err());
}

#[test]
fn one_plan_spans_stores_and_its_steps_refer_to_each_other() {
    let bench = Bench::new();
    let targets = [
        PlanTarget::whole(bench.id(StoreKind::Flat, "a")),
        PlanTarget::whole(bench.id(StoreKind::Hf, "b")),
        PlanTarget::whole(bench.id(StoreKind::Hf, "both")),
        PlanTarget::whole(bench.id(StoreKind::Hf, "both")),
    ];
    let plan = bench.inventory(&[]).plan_deletion(&targets).unwrap();
    assert_eq!(plan.steps.len(), 3, "a target that is named twice goes once");
    assert_eq!(plan.steps[2].requires, [1]);
    assert_eq!(plan.expected_bytes, plan.steps.iter().map(|step| step.bytes).sum::<u64>());
    let gone = PlanTarget::whole(bench.id(StoreKind::Flat, "gone"));
    assert!(matches!(bench.inventory(&[]).plan_deletion(&[gone]), Err(Error::ModelNotFound { .. })));
}

#[test]
fn a_file_with_names_in_two_stores_frees_its_bytes_when_both_go() {
    let bench = Bench::new();
    let (flat, hf) = (bench.id(StoreKind::Flat, "a"), bench.id(StoreKind::Hf, "linked"));
    fs::hard_link(flat.store_path.join("a"), hf.store_path.join("linked")).unwrap();
    let inventory = bench.inventory(&[]);
    let one = inventory.plan_deletion(&[PlanTarget::whole(flat.clone())]).unwrap();
    assert_eq!(one.expected_bytes, 0);
    let both = inventory.plan_deletion(&[PlanTarget::whole(flat.clone()), PlanTarget::whole(hf)]).unwrap();
    let bytes = fs::metadata(flat.store_path.join("a")).unwrap().blocks() * 512;
    assert_eq!(both.expected_bytes, bytes);
    assert_eq!(both.steps.iter().map(|step| step.bytes).sum::<u64>(), bytes);
}

#[test]
fn a_protected_row_is_blocked_by_every_name_that_it_has() {
    let bench = Bench::new();
    let target = PlanTarget::whole(bench.id(StoreKind::Flat, "a"));
    for name in ["a", "flat:a", "org/a", "org/*"] {
        let plan = bench.inventory(&[name]).plan_deletion(std::slice::from_ref(&target)).unwrap();
        assert!(plan.steps.is_empty() && plan.blocked.len() == 1, "{name}: {plan:?}");
    }
    for name in ["", "hf:a", "org", "b"] {
        let plan = bench.inventory(&[name]).plan_deletion(std::slice::from_ref(&target)).unwrap();
        assert_eq!((plan.steps.len(), plan.blocked.len()), (1, 0), "{name}");
    }
}

#[cfg(target_os = "linux")]
/// Processes that are told to hold a model, without copies of this one: other tests start programs, and until such a child
/// runs its own program it has every file open that this process has.
fn pids(holders: Option<&Vec<crate::model::Holder>>) -> Vec<u32> {
    let own = std::env::current_exe().unwrap();
    let own = own.file_name().unwrap().to_str().unwrap();
    holders.unwrap().iter().filter(|holder| !holder.command.contains(own)).map(|holder| holder.pid).collect()
}

#[test]
fn who_holds_a_model_is_told() {
    let bench = Bench::new();
    let model = bench.id(StoreKind::Flat, "a");
    let details = bench.inventory(&[]).details(&model).unwrap();
    assert_eq!(pids(details.model.in_use_by.as_ref()), Vec::<u32>::new());
    let file = fs::File::open(model.store_path.join("a")).unwrap();
    let mut child = std::process::Command::new("sleep").arg("60").stdin(file).spawn().unwrap();
    let inventory = bench.inventory(&[]);
    let held = inventory.details(&model).unwrap().model.in_use_by;
    let (mut rows, _) = inventory.scan_all(&CancellationToken::new());
    inventory.look_for_holders(&mut rows);
    let plan = inventory.plan_deletion(&[PlanTarget::whole(model)]).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(pids(held.as_ref()), [child.id()]);
    assert_eq!(pids(rows[0].model.in_use_by.as_ref()), [child.id()]);
    assert_eq!(pids(rows[1].model.in_use_by.as_ref()), Vec::<u32>::new());
    assert_eq!(pids(Some(&plan.in_use_by)), [child.id()]);
}
