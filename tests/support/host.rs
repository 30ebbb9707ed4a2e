//! A host with all five stores, built file by file, that knows what is true of it: which model uses which file. Everything that a
//! test expects comes from that and from its own walk over the disk, never from the library.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rbee_hive::model::StoreKind;
use rbee_hive::provisioner::Inventory;
use rbee_hive::store::Store;
use rbee_hive::store::flat::FlatStore;
use rbee_hive::store::hf::HfStore;
use rbee_hive::store::llama_cpp::LlamaCppStore;
use rbee_hive::store::lm_studio::LmStudioStore;
use rbee_hive::store::ollama::OllamaStore;

use super::hf_cache::{Cache, commit, noise};
use super::stores::{Form, Ollama, sha256};

/// Something outside of the rows that keeps a file.
const NOBODY: usize = usize::MAX;

/// A row as it was made.
#[derive(Clone, Debug)]
pub struct Made {
    pub store: StoreKind,
    pub root: PathBuf,
    pub id: String,
    /// What a program that loads it reads.
    pub reads: BTreeSet<PathBuf>,
}

/// What is true of a set of rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Truth {
    pub size: u64,
    pub disk: u64,
    pub reclaimable: u64,
}

#[derive(Default)]
struct Known {
    users: BTreeSet<usize>,
    /// Those that may use it, as far as anybody can tell.
    held: BTreeSet<usize>,
    /// Whether its length counts, or it is bookkeeping.
    content: bool,
}

pub struct Host {
    pub cache: Cache,
    pub root: PathBuf,
    pub models: Vec<Made>,
    files: BTreeMap<PathBuf, Known>,
}

/// A name that no terminal, no shell and no UTF-8 reader likes.
pub fn hostile(end: &str) -> std::ffi::OsString {
    let mut name = b"n\xffe\nw\x1b[31m ".to_vec();
    name.extend_from_slice(end.as_bytes());
    OsStr::from_bytes(&name).to_owned()
}

pub fn pipe(path: &Path) {
    let kind = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, path, kind, rustix::fs::Mode::RWXU, 0).unwrap();
}

/// Every regular file below `path` by inode: blocks in bytes and the names it has there. Nothing is followed.
pub fn walk(path: &Path) -> BTreeMap<(u64, u64), (u64, u64)> {
    let mut found = BTreeMap::new();
    let mut todo = vec![path.to_owned()];
    while let Some(path) = todo.pop() {
        let Ok(status) = fs::symlink_metadata(&path) else { continue };
        if status.is_dir() {
            todo.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if status.is_file() {
            found.entry((status.dev(), status.ino())).or_insert((status.blocks() * 512, 0)).1 += 1;
        }
    }
    found
}

/// `st_blocks * 512` of the distinct regular files below `path`.
pub fn du(path: &Path) -> u64 {
    walk(path).values().map(|(bytes, _)| bytes).sum()
}

impl Default for Host {
    fn default() -> Self {
        Self::new()
    }
}

impl Host {
    /// Five stores with nothing in them.
    pub fn new() -> Self {
        // A removal is synced to the disk, which takes longer than all the rest; memory has nothing to sync.
        let scratch = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let root = scratch.path().canonicalize().unwrap();
        for kind in StoreKind::ALL {
            fs::create_dir_all(root.join(kind.name())).unwrap();
        }
        let hub = root.join("hf");
        Self { cache: Cache { scratch, hub }, root, models: Vec::new(), files: BTreeMap::new() }
    }

    pub fn store_root(&self, kind: StoreKind) -> PathBuf {
        self.root.join(kind.name())
    }

    /// The stores as the library sees them, anew.
    pub fn inventory(&self) -> Inventory {
        let mut stores: Vec<Arc<dyn Store>> = vec![
            Arc::new(FlatStore::new(self.store_root(StoreKind::Flat), Vec::new())),
            Arc::new(HfStore::new(self.store_root(StoreKind::Hf))),
            Arc::new(OllamaStore::new(&self.store_root(StoreKind::Ollama))),
            Arc::new(LmStudioStore::new(&self.store_root(StoreKind::LmStudio))),
            Arc::new(LlamaCppStore::new(&self.store_root(StoreKind::LlamaCpp))),
        ];
        if self.root.join("ollama-damaged").exists() {
            stores.push(Arc::new(OllamaStore::new(&self.root.join("ollama-damaged"))));
        }
        Inventory::new(stores, Vec::new())
    }

    /// A row of the store at `root`.
    pub fn model_at(&mut self, store: StoreKind, root: &Path, id: &str) -> usize {
        let known = self.models.iter().position(|made| made.root == root && made.id == id && made.store == store);
        known.unwrap_or_else(|| {
            self.models.push(Made { store, root: root.to_owned(), id: id.to_owned(), reads: BTreeSet::new() });
            self.models.len() - 1
        })
    }

    pub fn model(&mut self, store: StoreKind, id: &str) -> usize {
        let root = self.store_root(store);
        self.model_at(store, &root, id)
    }

    /// Says that `model` uses the regular file at `path`, which is there.
    pub fn uses(&mut self, model: usize, path: impl Into<PathBuf>, content: bool) {
        let known = self.files.entry(path.into()).or_default();
        known.users.insert(model);
        known.content |= content;
    }

    /// Says that the file stays whatever goes.
    pub fn keep(&mut self, path: impl Into<PathBuf>) {
        self.files.entry(path.into()).or_default().users.insert(NOBODY);
    }

    /// Says that `model` may need the file, too.
    pub fn hold(&mut self, path: impl Into<PathBuf>, model: usize) {
        self.files.entry(path.into()).or_default().held.insert(model);
    }

    /// Writes a file that belongs to `model`; what is there stays.
    pub fn put(&mut self, model: usize, path: impl Into<PathBuf>, bytes: &[u8], content: bool) -> PathBuf {
        let path = path.into();
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        if fs::symlink_metadata(&path).is_err() {
            fs::write(&path, bytes).unwrap();
        }
        self.uses(model, &path, content);
        if content {
            self.models[model].reads.insert(path.clone());
        }
        path
    }

    /// A file of `length` bytes and hardly any blocks.
    pub fn put_sparse(&mut self, model: usize, path: impl Into<PathBuf>, length: u64, content: bool) {
        let path = self.put(model, path, b"", content);
        fs::OpenOptions::new().write(true).open(path).unwrap().set_len(length).unwrap();
    }

    /// A second name of a file, which belongs to `model`. Nothing happens where something is already.
    pub fn hard_link(&mut self, model: usize, path: impl Into<PathBuf>, to: &Path, content: bool) {
        let path = path.into();
        if fs::symlink_metadata(&path).is_ok() {
            return;
        }
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::hard_link(to, &path).unwrap();
        self.uses(model, &path, content);
        if content {
            self.models[model].reads.insert(path);
        }
    }

    /// A link that belongs to nobody's bytes.
    pub fn link(&self, path: impl AsRef<Path>, to: impl AsRef<Path>) {
        fs::create_dir_all(path.as_ref().parent().unwrap()).unwrap();
        symlink(to, path).unwrap();
    }

    // Hugging Face

    /// A file of a revision, its bytes in the repository's blobs.
    pub fn hf_file(&mut self, folder: &str, revision: char, path: &str, bytes: &[u8]) -> PathBuf {
        let model = self.hf_model(folder);
        let name = self.cache.hub.join(folder).join("snapshots").join(commit(revision)).join(path);
        let blob = self.cache.hub.join(folder).join("blobs").join(sha256(bytes));
        if name.symlink_metadata().is_ok() {
            return blob;
        }
        // In the shared store already: then this revision uses that.
        if blob.is_symlink() {
            return self.hf_shared(folder, revision, path, bytes);
        }
        self.cache.file(folder, &commit(revision), path, bytes);
        self.uses(model, &blob, true);
        self.models[model].reads.insert(name);
        blob
    }

    /// The same with its bytes in the shared store.
    pub fn hf_shared(&mut self, folder: &str, revision: char, path: &str, bytes: &[u8]) -> PathBuf {
        let model = self.hf_model(folder);
        let name = self.cache.hub.join(folder).join("snapshots").join(commit(revision)).join(path);
        let blob = self.cache.hub.join(folder).join("blobs").join(sha256(bytes));
        if name.symlink_metadata().is_ok() {
            return name;
        }
        if blob.is_file() && !blob.is_symlink() {
            return self.hf_file(folder, revision, path, bytes);
        }
        let payload = self.cache.shared(folder, &commit(revision), path, bytes);
        self.keep(self.cache.hub.join("blobs/.huggingface-shared-blobs"));
        self.uses(model, &payload, true);
        self.uses(model, payload.with_extension("refs"), false);
        self.models[model].reads.insert(name);
        payload
    }

    pub fn hf_model(&mut self, folder: &str) -> usize {
        let (kind, rest) = folder.split_once("--").unwrap();
        let rest = rest.replace("--", "/");
        let id = if kind == "models" { rest } else { format!("{kind}/{rest}") };
        self.model(StoreKind::Hf, &id)
    }

    pub fn hf_ref(&mut self, folder: &str, name: &str, text: &str) {
        let model = self.hf_model(folder);
        let path = self.cache.hub.join(folder).join("refs").join(name);
        self.put(model, path, text.as_bytes(), false);
    }

    // Ollama

    /// A tag of the older tree, and of the newer one in the form that is asked for.
    pub fn ollama_tag(
        &mut self,
        root: &Path,
        name: &str,
        id: &str,
        config: &[u8],
        layers: &[(&str, &[u8])],
        v2: Option<Form>,
    ) -> usize {
        let store = Ollama(root.to_owned());
        let model = self.model_at(StoreKind::Ollama, root, id);
        let manifest = store.manifest(config, layers);
        for (_, bytes) in layers.iter().chain(&[("config", config)]) {
            let blob = store.blob_path(&sha256(bytes));
            self.uses(model, &blob, true);
            self.models[model].reads.insert(blob);
        }
        match v2 {
            None => {
                let path = store.tag(name, &manifest);
                self.uses(model, &path, false);
                self.models[model].reads.insert(path);
            }
            Some(form) => {
                let path = store.tag_v2(name, &manifest, form);
                self.uses(model, store.blob_path(&sha256(&manifest)), false);
                if form != Form::Symlink {
                    self.uses(model, &path, false);
                }
                self.models[model].reads.insert(path);
            }
        }
        model
    }

    // Truth

    fn status(path: &Path) -> ((u64, u64), u64, u64, u64) {
        let status = fs::symlink_metadata(path).unwrap();
        assert!(status.is_file(), "{path:?}");
        ((status.dev(), status.ino()), status.len(), status.blocks() * 512, status.nlink())
    }

    /// What is true of the models in `set` together. `gone` are deleted already.
    pub fn truth(&self, set: &BTreeSet<usize>, gone: &BTreeSet<usize>) -> Truth {
        let mut truth = Truth::default();
        let (mut sized, mut seen) = (BTreeSet::new(), BTreeSet::new());
        let mut names: BTreeMap<(u64, u64), (u64, u64, u64)> = BTreeMap::new();
        for (path, known) in &self.files {
            let goes = |user: &usize| set.contains(user) || gone.contains(user);
            if fs::symlink_metadata(path).is_err() {
                assert!(known.users.iter().all(|user| gone.contains(user)), "{path:?} is gone and was used");
                continue;
            }
            if known.users.iter().any(|user| set.contains(user)) {
                let (inode, size, disk, _) = Self::status(path);
                if known.content && sized.insert(inode) {
                    truth.size += size;
                }
                if seen.insert(inode) {
                    truth.disk += disk;
                }
            }
            let last = known.users.iter().any(|user| set.contains(user));
            if last && known.users.iter().chain(&known.held).all(goes) {
                let (inode, _, disk, links) = Self::status(path);
                names.entry(inode).or_insert((disk, links, 0)).2 += 1;
            }
        }
        truth.reclaimable = names.values().filter(|(_, links, going)| going >= links).map(|(disk, ..)| disk).sum();
        truth
    }

    /// Whether two rows are of one store or have a file in common.
    pub fn related(&self, first: usize, second: usize) -> bool {
        let inodes = |of: usize| -> BTreeSet<(u64, u64)> {
            let own = self.files.iter().filter(|(_, known)| known.users.contains(&of));
            own.filter(|(path, _)| path.exists()).map(|(path, _)| Self::status(path).0).collect()
        };
        let same_store = self.models[first].root == self.models[second].root;
        same_store || inodes(first).intersection(&inodes(second)).next().is_some()
    }

    /// What every model but those in `gone` reads: by model and path, the bytes, or none where it leads nowhere.
    pub fn readable(&self, gone: &BTreeSet<usize>) -> BTreeMap<(usize, PathBuf), Option<Vec<u8>>> {
        let models = self.models.iter().enumerate().filter(|(at, _)| !gone.contains(at));
        models
            .flat_map(|(at, made)| made.reads.iter().map(move |path| (at, path.clone())))
            .map(|(at, path)| {
                let regular = fs::metadata(&path).is_ok_and(|status| status.is_file());
                // Sparse files would fill the memory.
                let short = fs::metadata(&path).is_ok_and(|status| status.len() < 1 << 22);
                let bytes = regular.then(|| if short { fs::read(&path).unwrap() } else { b"long".to_vec() });
                ((at, path), bytes)
            })
            .collect()
    }

    /// Every name below the stores, but for the locks that a removal leaves.
    pub fn names(&self) -> BTreeSet<PathBuf> {
        let all = super::hf_cache::names(&self.root);
        let is_lock = |path: &PathBuf| path.extension().is_some_and(|end| end == "lock");
        all.into_iter()
            .filter(|path| !is_lock(path))
            .map(|path| path.strip_prefix(&self.root).unwrap().to_owned())
            .collect()
    }
}

/// Something that is put on a random host. Its numbers choose among few names and contents, so that they meet.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    what: u8,
    model: u8,
    name: u8,
    content: u8,
    form: u8,
    /// A file that is there already and gets a second name.
    other: u16,
}

impl proptest::arbitrary::Arbitrary for Step {
    type Parameters = ();
    type Strategy = proptest::strategy::BoxedStrategy<Self>;

    fn arbitrary_with((): ()) -> Self::Strategy {
        use proptest::strategy::Strategy;
        (0..14_u8, 0..3_u8, 0..3_u8, 0..6_u8, 0..4_u8, proptest::num::u16::ANY)
            .prop_map(|(what, model, name, content, form, other)| Self { what, model, name, content, form, other })
            .boxed()
    }
}

fn content(number: u8) -> Vec<u8> {
    match number {
        0 => gguf(20, 1),
        1 => gguf(90, 2),
        2 => noise(70_000, 3),
        3 => b"x".to_vec(),
        4 => Vec::new(),
        _ => gguf(5, 4),
    }
}

impl Host {
    /// A host with `steps` on it.
    pub fn of(steps: &[Step]) -> Self {
        let mut host = Self::new();
        for step in steps {
            host.step(*step);
        }
        host
    }

    fn step(&mut self, step: Step) {
        let Step { what, model, name, content: number, form, other } = step;
        let bytes = content(number);
        let repository = if model == 2 { "datasets--org--m".to_owned() } else { format!("models--org--m{model}") };
        let top = self.cache.hub.join(&repository);
        let revision = char::from(b'1' + form);
        let weights = format!("w{name}-Q8_0.gguf");
        let regular: Vec<PathBuf> = self.files.keys().cloned().collect();
        let to = (!regular.is_empty()).then(|| regular[usize::from(other) % regular.len()].clone());
        let (flat, lm) = (self.store_root(StoreKind::Flat), self.store_root(StoreKind::LmStudio));
        let (ollama, llama) = (self.store_root(StoreKind::Ollama), self.store_root(StoreKind::LlamaCpp));
        match what {
            0 => drop(self.hf_file(&repository, revision, &weights, &bytes)),
            1 => drop(self.hf_shared(&repository, revision, &weights, &bytes)),
            2 => self.hf_ref(&repository, &format!("branch{name}"), &commit(revision)),
            3 => {
                let made = self.hf_model(&repository);
                let names = ["7".repeat(64), format!("{}.incomplete", "8".repeat(64)), "tmp_x".to_owned()];
                self.put(made, top.join("blobs").join(&names[usize::from(name)]), &bytes, false);
            }
            4 => {
                let made = self.hf_model(&repository);
                let path = top.join("snapshots").join(commit(revision)).join(format!("plain{name}.bin"));
                match to.filter(|_| form > 1) {
                    Some(to) => self.hard_link(made, path, &to, true),
                    None => drop(self.put(made, path, &bytes, true)),
                }
            }
            5 | 6 => {
                let second = content(number / 2);
                let layers: [(&str, &[u8]); 2] = [("model", &bytes), ("template", &second)];
                let forms = [None, Some(Form::Symlink), Some(Form::HardLink), Some(Form::Copy)];
                let path = format!("library/m{model}/{name}");
                let id = format!("m{model}:{name}");
                // A name has one manifest; a second one would be another model in its place.
                if self.models.iter().all(|made| made.id != id) {
                    let config = Ollama::config(if form == 0 { "Q8_0" } else { "F16" });
                    self.ollama_tag(&ollama, &path, &id, &config, &layers, forms[usize::from(form)]);
                }
            }
            7 | 8 => {
                let made = self.model(StoreKind::LmStudio, &format!("pub/m{model}"));
                let path = lm.join(format!("pub/m{model}/{weights}"));
                match to.filter(|_| what == 8) {
                    Some(to) => self.hard_link(made, path, &to, true),
                    None => drop(self.put(made, path, &bytes, true)),
                }
                // A row needs something to be there.
                self.put(made, lm.join(format!("pub/m{model}/config.json")), b"{}", true);
            }
            9 => {
                let file = format!("imported-models/uncategorized/u{name}-Q8_0.gguf");
                let made = self.model(StoreKind::LmStudio, &file);
                self.put(made, lm.join(file), &bytes, true);
            }
            10 => {
                let id = format!("o_r_m{name}-Q8_0");
                let made = self.model(StoreKind::LlamaCpp, &id);
                self.put(made, llama.join(format!("{id}.gguf")), &bytes, true);
                self.put(made, llama.join(format!("{id}.gguf.etag")), b"\"x\"", false);
                if form > 0 {
                    let manifest = flat_manifest(&format!("m{name}-Q8_0.gguf"), Some("mmproj.gguf"));
                    self.put(made, llama.join(format!("manifest=o=r=T{name}.json")), &manifest, false);
                    self.put(made, llama.join("o_r_mmproj.gguf"), &gguf(15, 42), true);
                }
            }
            _ => {
                let made = self.model(StoreKind::Flat, &format!("f{model}"));
                let folder = flat.join(format!("f{model}"));
                let (path, is_content) = match form {
                    0 | 1 => (folder.join(&weights), true),
                    2 => (folder.join(format!(".hidden/h{name}")), false),
                    _ => (folder.join(format!(".cache/huggingface/download/{weights}.metadata")), false),
                };
                match to.filter(|_| what == 12) {
                    Some(to) => self.hard_link(made, path, &to, is_content),
                    None => drop(self.put(made, path, &bytes, is_content)),
                }
            }
        }
    }
}

fn gguf(rows: u64, seed: u64) -> Vec<u8> {
    super::stores::small_gguf(7, rows, seed)
}

/// A manifest of llama.cpp's flat cache.
pub fn flat_manifest(weights: &str, companion: Option<&str>) -> Vec<u8> {
    let companion = companion.map_or(String::new(), |name| format!(r#","mmprojFile":{{"rfilename":"{name}"}}"#));
    format!(r#"{{"ggufFile":{{"rfilename":"{weights}"}}{companion}}}"#).into_bytes()
}

/// The host of the issue: all five stores, shared blobs, hard links across stores, sparse partials, damaged and hostile entries.
pub fn made_up() -> Host {
    let mut host = Host::new();
    let outside = host.root.join("outside");
    fs::create_dir_all(&outside).unwrap();
    fs::write(outside.join("x.gguf"), gguf(900, 99)).unwrap();
    let (w, x, big) = (gguf(120, 1), gguf(90, 2), noise(1_200_000, 3));

    // Two revisions share a file, and each has its own.
    let (a, b, c) = ("models--org--a", "models--org--b", "models--org--c");
    let w_blob = host.hf_file(a, '1', "w-Q8_0.gguf", &w);
    host.hf_file(a, '1', "old.json", b"{\"old\":1}");
    host.hf_file(a, '2', "w-Q8_0.gguf", &w);
    host.hf_file(a, '2', "sub/x-Q4_0.gguf", &x);
    host.hf_ref(a, "main", &commit('2'));
    let org_a = host.hf_model(a);
    let hub = host.cache.hub.clone();
    host.put(org_a, hub.join(a).join("blobs").join("7".repeat(64)), &noise(30_000, 7), false);
    host.put_sparse(org_a, hub.join(a).join(format!("blobs/{}.0a1b2c3d.incomplete", "8".repeat(64))), 1 << 30, false);
    host.put(org_a, hub.join(a).join(".no_exist").join(commit('1')).join("gone.json"), b"", false);
    host.put(org_a, hub.join(a).join("trees").join(format!("{}.json", commit('2'))), b"{\"files\":{}}", false);
    // Two repositories share a payload of the shared store; one has the bytes of org/a, too.
    host.hf_shared(b, '3', "big.safetensors", &big);
    host.hf_shared(b, '3', "own.safetensors", &noise(50_000, 4));
    host.hf_file(b, '3', "w-Q8_0.gguf", &w);
    host.hf_ref(b, "main", &commit('3'));
    host.hf_shared(c, '4', "big.safetensors", &big);
    host.hf_shared(c, '5', "big.safetensors", &big);
    host.hf_ref(c, "main", &commit('5'));
    // Without links, with a second name of one file in another row of the same cache.
    let d = "models--org--d";
    let org_d = host.hf_model(d);
    let top = hub.join(d).join("snapshots").join(commit('6'));
    let plain = host.put(org_d, top.join("deep/plain-Q8_0.gguf"), &gguf(60, 6), true);
    host.put(org_d, top.join("config.json"), b"{}", true);
    // Damage of every kind.
    let e = "models--org--e";
    host.hf_file(e, '1', "fine.bin", &noise(20_000, 8));
    let org_e = host.hf_model(e);
    let snapshot = hub.join(e).join("snapshots").join(commit('1'));
    host.link(snapshot.join("dangling.gguf"), "../../blobs/nothing");
    host.link(snapshot.join("loop.gguf"), "loop.gguf");
    host.link(snapshot.join("foreign.gguf"), outside.join("x.gguf"));
    host.link(snapshot.join("other.gguf"), &w_blob);
    host.link(snapshot.join("folder"), "../..");
    pipe(&snapshot.join("pipe.gguf"));
    pipe(&hub.join(e).join("blobs/pipe"));
    host.hf_ref(e, "main", &format!("{}\n", commit('1')));
    host.hf_ref(e, "gone", &commit('9'));
    host.put(org_e, hub.join(e).join("stray").join(hostile("x")), &noise(6000, 9), false);
    host.hf_file("datasets--org--x", '1', "train.parquet", &noise(80_000, 10));
    host.hf_file("spaces--org--x", '1', "app.py", b"print()");
    // A repository with a name of bytes, and one that is a link.
    let mut strange = OsStr::new("models--org--").to_owned();
    strange.push(hostile("m"));
    let id = rbee_hive::model::text::escape(&strange);
    let id = id.strip_prefix("models--").unwrap().replace("--", "/");
    let made = host.model(StoreKind::Hf, &id);
    let etag = sha256(&noise(9000, 11));
    let blob = host.put(made, hub.join(&strange).join("blobs").join(&etag), &noise(9000, 11), true);
    host.models[made].reads.remove(&blob);
    let name = hub.join(&strange).join("snapshots").join(commit('1')).join(hostile("f.gguf"));
    host.link(&name, format!("../../blobs/{etag}"));
    host.models[made].reads.insert(name);
    fs::create_dir_all(outside.join("repo/blobs")).unwrap();
    fs::write(outside.join("repo/blobs/z"), noise(7000, 12)).unwrap();
    host.link(hub.join("models--org--link"), outside.join("repo"));
    host.model(StoreKind::Hf, "org/link");
    fs::create_dir_all(hub.join(".locks").join(a)).unwrap();
    fs::write(hub.join(".locks").join(a).join("x.lock"), b"").unwrap();

    // Ollama: two tags share weights, names in both trees and every form, a second root with damage.
    let ollama = host.store_root(StoreKind::Ollama);
    let weights = gguf(150, 20);
    let config = |n: &str| Ollama::config(n);
    host.ollama_tag(&ollama, "library/llama3/8b", "llama3:8b", &config("Q8_0"), &[("model", &weights)], None);
    let chat: [(&str, &[u8]); 2] = [("model", &weights), ("template", b"chat")];
    host.ollama_tag(&ollama, "library/llama3/chat", "llama3:chat", &config("Q8_0"), &chat, None);
    let both: [(&str, &[u8]); 1] = [("model", &gguf(70, 21))];
    host.ollama_tag(&ollama, "library/both/latest", "both:latest", &config("F16"), &both, None);
    host.ollama_tag(&ollama, "library/both/latest", "both:latest", &config("F16"), &both, Some(Form::HardLink));
    host.ollama_tag(&ollama, "me/new/v2", "me/new:v2", &config("Q4_0"), &[("model", &w)], Some(Form::Symlink));
    host.ollama_tag(
        &ollama,
        "hf.co/org/a/Q8_0",
        "hf.co/org/a:Q8_0",
        &config("Q8_0"),
        &[("model", &gguf(40, 22))],
        Some(Form::Copy),
    );
    fs::write(ollama.join(format!("blobs/sha256-{}-partial", "5".repeat(64))), b"").unwrap();
    let damaged = host.root.join("ollama-damaged");
    host.ollama_tag(&damaged, "library/fine/1", "fine:1", &config("Q8_0"), &[("model", &gguf(30, 23))], None);
    let blobs: Vec<PathBuf> = fs::read_dir(damaged.join("blobs")).unwrap().map(|e| e.unwrap().path()).collect();
    let bad = host.model_at(StoreKind::Ollama, &damaged, "bad:1");
    blobs.into_iter().for_each(|blob| host.hold(blob, bad));
    host.put(bad, damaged.join("manifests/registry.ollama.ai/library/bad/1"), b"{\"layers\":[{", false);

    // LM Studio: hard links to the cache, a link into Ollama, partials, names of bytes, files without a publisher.
    let lm = host.store_root(StoreKind::LmStudio);
    let one = host.model(StoreKind::LmStudio, "pub/repo");
    host.hard_link(one, lm.join("pub/repo/w-Q8_0.gguf"), &w_blob, true);
    host.put(one, lm.join("pub/repo/mmproj-x.gguf"), &gguf(10, 30), true);
    host.put(one, lm.join("pub/repo/downloading_y-Q4_0.gguf.part"), &noise(5000, 31), false);
    pipe(&lm.join("pub/repo/pipe"));
    let two = host.model(StoreKind::LmStudio, "pub/linked");
    host.put(two, lm.join("pub/linked/config.json"), b"{}", true);
    host.link(lm.join("pub/linked/m.gguf"), ollama.join(format!("blobs/sha256-{}", sha256(&weights))));
    host.link(lm.join("pub/linked/loop"), "loop");
    let loose = host.model(StoreKind::LmStudio, "imported-models/uncategorized/solo-Q8_0.gguf");
    host.hard_link(loose, lm.join("imported-models/uncategorized/solo-Q8_0.gguf"), &plain, true);
    let mut folder = lm.join("pub");
    folder.push(hostile("r"));
    let id = rbee_hive::model::text::escape(folder.strip_prefix(&lm).unwrap().as_os_str());
    let strange = host.model(StoreKind::LmStudio, &id);
    host.put(strange, folder.join(hostile("q-Q8_0.gguf")), &gguf(20, 32), true);

    // llama.cpp: two models use one projector; shards; a sidecar; a second name of what another store has.
    let llama = host.store_root(StoreKind::LlamaCpp);
    for (name, tag, seed) in [("m-Q8_0", "Q8_0", 40), ("m-Q4_0", "Q4_0", 41)] {
        let id = format!("o_r_{name}");
        let model = host.model(StoreKind::LlamaCpp, &id);
        host.put(model, llama.join(format!("{id}.gguf")), &gguf(50, seed), true);
        host.put(model, llama.join(format!("{id}.gguf.etag")), b"\"x\"", false);
        let manifest = flat_manifest(&format!("{name}.gguf"), Some("mmproj.gguf"));
        host.put(model, llama.join(format!("manifest=o=r={tag}.json")), &manifest, false);
        host.put(model, llama.join("o_r_mmproj.gguf"), &gguf(15, 42), true);
    }
    let shards = host.model(StoreKind::LlamaCpp, "s-Q8_0");
    for number in 1..=2 {
        host.put(shards, llama.join(format!("s-Q8_0-0000{number}-of-00003.gguf")), &gguf(25, 50 + number), true);
    }
    let second = host.model(StoreKind::LlamaCpp, "second-Q8_0");
    host.hard_link(second, llama.join("second-Q8_0.gguf"), &w_blob, true);

    // Flat folders, with what a person leaves in them.
    let flat = host.store_root(StoreKind::Flat);
    let tiny = host.model(StoreKind::Flat, "tiny");
    host.put(tiny, flat.join("tiny/tiny-Q8_0.gguf"), &gguf(80, 60), true);
    let meta = format!("{}\n{}\n9999999999\n", commit('1'), sha256(&gguf(80, 60)));
    let sidecar = flat.join("tiny/.cache/huggingface/download/tiny-Q8_0.gguf.metadata");
    host.put(tiny, sidecar, meta.as_bytes(), false);
    host.put(tiny, flat.join("tiny/.hidden/notes"), &noise(4000, 61), false);
    let many = host.model(StoreKind::Flat, "many");
    host.put(many, flat.join("many/m-Q4_0.gguf"), &gguf(30, 62), true);
    host.put(many, flat.join("many/m-Q8_0.gguf"), &gguf(40, 63), true);
    host.put(many, flat.join("many/README.md"), b"# many", true);
    let blob = Ollama(ollama.clone()).blob_path(&sha256(&weights));
    host.hard_link(many, flat.join("many/from-ollama-F16.gguf"), &blob, true);
    host.hard_link(many, flat.join("many/again-F16.gguf"), &blob, true);
    let single = host.model(StoreKind::Flat, "single-Q8_0.gguf");
    host.put(single, flat.join("single-Q8_0.gguf"), &gguf(35, 64), true);
    let odd = host.model(StoreKind::Flat, "odd");
    host.put(odd, flat.join("odd/w-Q8_0.gguf"), &w, true);
    pipe(&flat.join("odd/pipe.gguf"));
    host.link(flat.join("odd/loop.gguf"), "loop.gguf");
    host.link(flat.join("odd/away.gguf"), outside.join("x.gguf"));
    host.link(flat.join("odd/up"), "..");
    fs::create_dir_all(flat.join("odd/empty/empty")).unwrap();
    let mut strange = flat.clone();
    strange.push(hostile("f"));
    let id = rbee_hive::model::text::escape(&hostile("f"));
    let made = host.model(StoreKind::Flat, &id);
    host.put(made, strange.join(hostile("z-Q8_0.gguf")), &gguf(22, 65), true);
    host.put_sparse(made, strange.join("hole-Q4_0.gguf"), 1 << 32, true);
    host.link(flat.join("outside"), &outside);
    host.model(StoreKind::Flat, "outside");
    host.link(flat.join("self"), "self");
    host.model(StoreKind::Flat, "self");
    host
}
