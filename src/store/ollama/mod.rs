//! Ollama's store: names in two manifest trees, blobs that they share.
//!
//! A row is a tag. What a tag needs is the union over both trees: manifest blobs, the children of lists, configs and layers. A
//! blob that another tag needs is to this store what a second hard link is to the file system. A manifest that cannot be
//! read may need anything: names can still go then, but no blob.

mod guard;
mod manifest;
mod names;
mod plan;
mod read;
mod row;
mod server;
pub mod service;
mod sweep;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use rustix::io::Errno;
use tokio_util::sync::CancellationToken;

use self::read::Contents;
use self::row::Users;
pub use self::server::{Served, Server, Serving};
use super::fingerprint::Fingerprint;
use super::flat::resolved_root;
use super::headers::Headers;
use super::surroundings::Surroundings;
use super::sweep::SweepContext;
use super::verify::{Expected, Source};
use super::{Details, Part, Row, Store, StoreLink, Target};
use crate::disk::deletion::Guard;
use crate::disk::folder::Folder;
use crate::disk::usage::Usage;
use crate::error::{Error, Result};
use crate::model::{Digest, Plan, Reference, StoreKind, StoreSummary, Sweep, text};

/// A models folder of Ollama: the one that holds `manifests` and `blobs`. Clones share the headers that were read.
#[derive(Clone, Debug)]
pub struct OllamaStore {
    root: PathBuf,
    headers: Headers,
    /// How to ask the server that may work on it.
    server: Option<Arc<dyn Server>>,
}

impl OllamaStore {
    /// The store at `root`, which need not exist. Links on the way to `root` are resolved once, here.
    #[must_use]
    pub fn new(root: &Path) -> Self {
        Self { root: resolved_root(root), headers: Headers::default(), server: None }
    }

    /// Uses `headers` as its memory of headers.
    #[must_use]
    pub fn with_headers(self, headers: Headers) -> Self {
        Self { headers, ..self }
    }

    /// Asks `server` for what its plans would have the server itself do.
    #[must_use]
    pub fn with_server(self, server: Arc<dyn Server>) -> Self {
        Self { server: Some(server), ..self }
    }

    /// Everything that is there; `None` when there is no store.
    fn read(&self) -> Result<Option<Contents>> {
        match Folder::open(&self.root).and_then(|folder| Contents::read(&self.root, &folder)) {
            Ok(contents) => Ok(Some(contents)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(Error::io("read", &self.root)(error.into())),
        }
    }

    fn contents(&self, id: &str) -> Result<Contents> {
        self.read()?.ok_or_else(|| self.not_found(id))
    }

    fn not_found(&self, id: &str) -> Error {
        Error::ModelNotFound { reference: text::printable(id), place: text::printable_path(&self.root) }
    }
}

impl Store for OllamaStore {
    fn kind(&self) -> StoreKind {
        StoreKind::Ollama
    }

    fn root(&self) -> &Path {
        &self.root
    }

    fn links(&self) -> Vec<StoreLink> {
        let Ok(Some(contents)) = self.read() else { return Vec::new() };
        let mut links = Vec::new();
        for (at, tag) in contents.rows() {
            let blobs = contents.needs(at).into_iter().filter_map(|hex| contents.blobs.get(hex)).flatten();
            let entries = tag.entries.iter().map(|name| &name.entry).chain(blobs);
            links.extend(
                entries
                    .filter(|entry| entry.link.is_some())
                    .map(|entry| StoreLink { id: tag.id.clone(), path: self.root.join(&entry.path) }),
            );
        }
        links
    }

    fn at_a_glance(&self, missed: &Arc<AtomicBool>) -> Option<Box<dyn Store>> {
        Some(Box::new(self.clone().with_headers(self.headers.at_a_glance(missed))))
    }

    fn scan(&self, sink: &mut dyn FnMut(Row), cancel: &CancellationToken) -> StoreSummary {
        let mut summary = StoreSummary {
            store: StoreKind::Ollama,
            path: self.root.clone(),
            disk_bytes: 0,
            models: 0,
            warnings: Vec::new(),
        };
        let contents = match self.read() {
            Ok(Some(contents)) => contents,
            Ok(None) => return summary,
            Err(error) => {
                summary.warnings.push(error.to_string());
                return summary;
            }
        };
        let users = Users::of(&contents);
        let mut around = Surroundings::default();
        for (at, _) in contents.rows() {
            if cancel.is_cancelled() {
                return summary;
            }
            sink(self.row(&contents, at, &users, &mut around));
            summary.models += 1;
        }
        self.headers.keep();
        let mut usage = Usage::default();
        read::all_files(&contents).values().for_each(|status| usage.add_info(status));
        summary.disk_bytes = usage.disk_bytes();
        for (path, why) in &contents.unread {
            summary.warnings.push(format!("{} is unknown: {why}", text::printable_path(path)));
        }
        summary
    }

    fn fingerprint(&self) -> Fingerprint {
        let mut fingerprint = Fingerprint::default();
        if let Some(root) = fingerprint.top(&self.root) {
            // Hosts, namespaces, models: a folder of tags lies three levels below its tree.
            fingerprint.below(&root, 0);
            for tree in read::TREES {
                if let Ok(tree) = root.folder(tree.as_ref()) {
                    fingerprint.below(&tree, 2);
                }
            }
        }
        fingerprint
    }

    fn details(&self, id: &str) -> Result<Details> {
        let contents = self.contents(id)?;
        let at = contents.row(id).ok_or_else(|| self.not_found(id))?;
        let users = Users::of(&contents);
        let row = self.row(&contents, at, &users, &mut Surroundings::default());
        let files = self.files(&contents, &contents.tags[at]);
        let shared = self.shared(&contents, at);
        Ok(Details { shared, ..Details::new(row.model, files).with_headers(row.metadata, row.loads) })
    }

    fn plan_deletion(&self, targets: &[Target]) -> Result<Plan> {
        self.plan(targets)
    }

    fn guard<'a>(&'a self, plan: &Plan) -> Option<Box<dyn Guard + 'a>> {
        Some(Box::new(guard::NewNames::of(self, plan)))
    }

    fn sweep(&self, context: &SweepContext, cancel: &CancellationToken) -> Sweep {
        self.find_dead(context, cancel)
    }

    /// Names are compared as Ollama compares them: without regard to case, and without a tag it is `latest`.
    fn find(&self, reference: &Reference) -> Result<Option<Target>> {
        let Some(contents) = self.read()? else { return Ok(None) };
        let wanted = reference.text().trim();
        let full = if wanted.rsplit('/').next().is_some_and(|last| last.contains(':')) {
            wanted.to_owned()
        } else {
            format!("{wanted}:latest")
        };
        let exact = contents.row(&full).map(|at| contents.tags[at].id.clone());
        let alike: Vec<&str> =
            contents.rows().map(|(_, tag)| tag.id.as_str()).filter(|id| id.eq_ignore_ascii_case(&full)).collect();
        let id = match (exact, alike.as_slice()) {
            (Some(id), _) => id,
            (None, []) => return Ok(None),
            (None, [only]) => (*only).to_owned(),
            (None, several) => {
                let choices = several.iter().map(|id| format!("ollama:{}", text::printable(id))).collect();
                return Err(Error::Ambiguous { reference: text::printable(wanted), choices });
            }
        };
        Ok(Some(Target { id, part: Part::Whole }))
    }

    /// Every blob is checked against its own name, which is its digest.
    fn expected(&self, target: &Target) -> Result<Vec<Expected>> {
        let contents = self.contents(&target.id)?;
        let at = contents.row(&target.id).ok_or_else(|| self.not_found(&target.id))?;
        self.check_part(&contents, at, &target.part)?;
        let tag = &contents.tags[at];
        if let Some(why) = &tag.unknown {
            let path = tag.entries.first().map_or_else(PathBuf::new, |entry| entry.entry.path.clone());
            let source = std::io::Error::other(why.clone());
            return Err(Error::Io { operation: "read", path: self.root.join(path), source });
        }
        let expect = |kind: &str, hex: &str, size: Option<u64>| Expected {
            path: row::label(kind, hex),
            location: contents.blobs.get(hex).and_then(|entries| entries.first()).map_or_else(
                || Path::new(read::BLOBS).join(format!("sha256-{hex}")),
                |entry| contents.blob_file(hex).unwrap_or(entry).path.clone(),
            ),
            size,
            digest: Digest::parse(hex),
            source: Some(Source::BlobName),
            ..Expected::default()
        };
        let mut expected: Vec<Expected> =
            tag.content.iter().map(|(hex, layer)| expect(&layer.kind, hex, layer.size)).collect();
        // A child that is absent is for another runner.
        let manifests = tag.manifests.iter().filter(|hex| contents.blobs.contains_key(*hex));
        expected.extend(manifests.map(|hex| expect("manifest", hex, None)));
        if expected.is_empty() {
            let path = tag.entries.first().map_or_else(PathBuf::new, |entry| entry.entry.path.clone());
            let path_text = text::escape(path.as_os_str());
            expected.push(Expected { path: path_text, location: path, ..Expected::default() });
        }
        Ok(expected)
    }
}
