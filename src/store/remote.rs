//! What a model on the hub is, told by the headers of its files alone: what a row of the same files would tell here.

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::beside::{Around, Companion, complete};
use super::fit::fit_of_weights;
use super::headers::Header;
use super::loads::{Loads, Projector};
use super::shards;
use super::surroundings::Warnings;
use super::weights::{Joined, Set, Weights};
use crate::format::{Kind, Metadata};
use crate::model::memory::{Conditions, Fit, HostMemory, Weights as WeightBytes, fit};
use crate::model::{
    FileName, FileStatus, Format, Missing, Model, ModelId, ModelKind, Quantization, RemoteFile, RepoPath, Shard,
    StoreKind, size,
};

/// The files of a model on the hub, as far as they were read.
#[derive(Clone, Copy, Debug)]
pub struct RemoteFiles<'a> {
    /// `org/name`.
    pub repository: &'a str,
    /// The files of its weights.
    pub set: &'a [RemoteFile],
    /// All files of the repository that are weights by their names.
    pub listed: &'a [RepoPath],
    /// Whether the model is a pipeline, whose parts lie in folders of their own.
    pub pipeline: bool,
    /// What the headers told, as far as they were read.
    pub headers: &'a BTreeMap<RepoPath, Header>,
    /// The files that may lie beside the weights and those of their bytes that are here.
    pub beside: &'a BTreeMap<RepoPath, Bytes>,
    /// What a projector beside them would add, where its header was read.
    pub projector: Option<&'a RemoteFile>,
}

/// What is here of a file beside the weights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bytes {
    /// Its length on the hub.
    pub size: u64,
    /// Its first bytes; `None` where none were fetched.
    pub first: Option<Vec<u8>>,
}

/// What is known of a model on the hub.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct RemoteRow {
    /// What a row here would say of its weights.
    pub model: Model,
    /// What their headers tell together.
    pub metadata: Option<Arc<Metadata>>,
    /// What a program would load of them.
    pub loads: Loads,
    /// How many headers of the weights were read.
    pub read: usize,
    /// How many files the weights have.
    pub of: usize,
    /// Bytes of those files.
    pub set_bytes: u64,
    /// Bytes that a projector beside them takes when it is loaded, by its header where that was read.
    pub projector_bytes: Option<u64>,
    /// Parameters as somebody else counted them, where the headers do not tell.
    pub stated: Option<Stated>,
    /// Whether the hub says that it has a chat template, which counts where no header tells.
    pub stated_template: bool,
    /// Whether more of it is being read.
    pub coming: bool,
    /// Why not all headers were read, where no more are coming.
    pub why_partial: Option<String>,
    /// Bytes of files that were fetched for it.
    pub fetched_bytes: u64,
}

/// A number of parameters that no header told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stated {
    /// The number.
    pub parameters: u64,
    /// Who says so: `the hub`, `its index`.
    pub by: &'static str,
}

impl RemoteRow {
    /// The row of these files.
    #[must_use]
    pub fn of(files: &RemoteFiles<'_>) -> Self {
        let set_bytes = files.set.iter().map(|file| file.size).fold(0, u64::saturating_add);
        let identity = ModelId { store: StoreKind::Hf, store_path: PathBuf::new(), id: files.repository.to_owned() };
        let mut model = Model {
            kind: ModelKind::Model,
            reference: Some(files.repository.to_owned()),
            file_count: files.set.len() as u64,
            size_bytes: set_bytes,
            ..Model::new(identity, PathBuf::new())
        };
        let mut warnings = Warnings::default();
        let mut weights = Weights::of(files.pipeline);
        let indexes = files.beside.iter().filter(|(path, _)| shards::is_index(path.file_name().as_ref()));
        for (path, bytes) in indexes {
            if let Some(header) = whole(bytes).map(|bytes| parsed(Companion::Index, bytes, true)) {
                weights.add_index(Path::new(path.as_str()), &header, &mut warnings);
            }
        }
        for (first, set) in sets(files.set) {
            let gguf = FileName::parse(first.path.file_name()).is_gguf();
            let joined = files.join(&set, &mut warnings);
            let numbers: Vec<Shard<'_>> =
                set.iter().filter_map(|file| FileName::parse(file.path.file_name()).shard()).collect();
            let extension = || {
                let extension = Path::new(first.path.as_str()).extension().and_then(OsStr::to_str);
                extension.unwrap_or_default().to_owned()
            };
            let folder = shards::folder(first.path.as_str());
            let set = Set {
                name: &|| shards::join(folder, FileName::parse(first.path.file_name()).stem()),
                named: if gguf { Quantization::of_path(&first.path) } else { None },
                format: Some(if gguf { Format::Gguf } else { Format::Safetensors }),
                missing: &Missing::of_shards(&numbers, extension),
                current: true,
            };
            weights.add(&set, joined, &mut warnings);
        }
        let listed: HashSet<&str> = files.listed.iter().map(RepoPath::as_str).collect();
        let is_there = |path: &str| listed.contains(path);
        // Of two headers only sums are compared here, which tell another file's tensors but not which one is absent.
        weights.compare_indexes(&is_there, &|_, _| Vec::new(), &mut warnings);
        let (metadata, loads) = weights.tell(&mut model, Projector::default());
        model.warnings = warnings.finish();
        let is_read = |file: &&RemoteFile| files.headers.contains_key(&file.path);
        let of_projector = |file: &RemoteFile| {
            let told = files.headers.get(&file.path).and_then(|header| header.as_ref().ok());
            let told = told.filter(|told| told.kind == Kind::Projector);
            told.and_then(|told| told.tensor_bytes).unwrap_or(file.size)
        };
        Self {
            model,
            metadata,
            loads,
            read: files.set.iter().filter(is_read).count(),
            of: files.set.len(),
            set_bytes,
            projector_bytes: files.projector.map(of_projector),
            stated: None,
            stated_template: false,
            coming: false,
            why_partial: None,
            fetched_bytes: 0,
        }
    }

    /// Whether the header of each of its files was read.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.read == self.of
    }

    /// Whether weights of so many bytes fit, of this set or of another quantization in the repository; `with_projector` says
    /// whether a projector is loaded with them.
    #[must_use]
    pub fn fit(&self, bytes: u64, with_projector: bool, host: &HostMemory, conditions: &Conditions) -> Option<Fit> {
        let metadata = self.metadata.as_deref()?;
        if bytes == self.set_bytes && self.model.damage == Some(FileStatus::Missing) {
            return Some(fit(Err("not all of its weights are on the hub".to_owned()), host));
        }
        // What is no weights in its files is about as much in those of another quantization.
        let headers = metadata.tensor_bytes.and_then(|tensors| self.set_bytes.checked_sub(tensors)).unwrap_or(0);
        let extra = self.projector_bytes.filter(|_| with_projector).unwrap_or(0);
        let weights = WeightBytes { bytes: bytes.saturating_sub(headers), extra_bytes: extra };
        fit_of_weights(weights, metadata, host, conditions)
    }

    /// Bits that a parameter takes in weights of so many bytes, of this set or of another quantization; `None` where the number
    /// of parameters is not known.
    #[must_use]
    #[allow(clippy::cast_precision_loss)]
    pub fn bits_per_weight(&self, bytes: u64) -> Option<f64> {
        let metadata = self.metadata.as_deref()?;
        if bytes == self.set_bytes {
            return metadata.bits_per_weight();
        }
        let (tensors, parameters) = (metadata.tensor_bytes?, metadata.parameters.filter(|sum| *sum > 0)?);
        let headers = self.set_bytes.checked_sub(tensors)?;
        Some(bytes.saturating_sub(headers) as f64 * 8.0 / parameters as f64)
    }

    /// What is known of it beside architecture, parameters and context, as [`Metadata::facts`].
    #[must_use]
    pub fn facts(&self) -> Vec<(&'static str, String)> {
        const TEMPLATE: &str = "chat template";
        let mut facts = self.metadata.as_deref().map(Metadata::facts).unwrap_or_default();
        if self.stated_template && !facts.iter().any(|(name, _)| *name == TEMPLATE) {
            facts.push((TEMPLATE, "yes, by the hub".to_owned()));
        }
        facts
    }

    /// Its parameters as people read them, with who says so where that is no header: `70.6B`, `at least 12.3B by 48 of 163
    /// headers`, `70.6B by the hub's count`.
    #[must_use]
    pub fn parameters_line(&self) -> Option<String> {
        if let Some(known) = self.model.parameters {
            return Some(size::parameters(known));
        }
        if let Some(Stated { parameters, by }) = self.stated {
            return Some(format!("{} by the count of {by}", size::parameters(parameters)));
        }
        let bound = self.model.parameters_at_least.filter(|_| !self.is_whole())?;
        Some(format!("at least {} by {} of {} headers", size::parameters(bound), self.read, self.of))
    }
}

impl RemoteFiles<'_> {
    fn join(&self, set: &[&RemoteFile], warnings: &mut Warnings) -> Joined {
        let mut joined = Joined::default();
        for file in set {
            let name = || crate::model::text::printable(file.path.as_str());
            match self.headers.get(&file.path) {
                _ if file.size == 0 => {
                    joined.add_unread(Some((FileStatus::Truncated, format!("{} is empty", name()))), warnings);
                }
                Some(header) => joined.add(header, Path::new(file.path.as_str()), &name, warnings),
                None => joined.add_unread(None, warnings),
            }
        }
        if let (Some(metadata), Some(first)) = (&mut joined.metadata, set.first()) {
            let folder = Path::new(shards::folder(first.path.as_str()));
            complete(self, metadata, folder, &mut |line| warnings.add(&line));
        }
        joined
    }
}

impl Around for RemoteFiles<'_> {
    fn tell(&self, path: &Path, kind: Companion) -> Option<Header> {
        let bytes = self.beside.get(&RepoPath::parse(path.to_str()?).ok()?)?;
        let first = bytes.first.as_deref()?;
        let whole = first.len() as u64 >= bytes.size;
        // The beginning of a file may end anywhere, which is no fault of the file.
        Some(parsed(kind, first, whole)).filter(|header| whole || header.is_ok())
    }

    fn is_there(&self, path: &Path) -> bool {
        let path = path.to_str().and_then(|path| RepoPath::parse(path).ok());
        path.and_then(|path| self.beside.get(&path)).is_some_and(|bytes| bytes.size > 0)
    }
}

fn parsed(kind: Companion, bytes: &[u8], whole: bool) -> Header {
    kind.parse(bytes, whole).map(Arc::new).map_err(Arc::from)
}

/// All bytes of a file, if they are here.
fn whole(bytes: &Bytes) -> Option<&[u8]> {
    bytes.first.as_deref().filter(|first| first.len() as u64 >= bytes.size)
}

/// The sets that the names of these files make, each in the order of its numbers and with its first file.
fn sets(files: &[RemoteFile]) -> Vec<(&RemoteFile, Vec<&RemoteFile>)> {
    type Key<'a> = (&'a str, Option<(&'a str, u32, u8)>, Option<&'a RepoPath>);
    let mut sets: BTreeMap<Key<'_>, Vec<(u32, &RemoteFile)>> = BTreeMap::new();
    for file in files {
        let shard = FileName::parse(file.path.file_name()).shard();
        let number = shard.as_ref().map_or(0, |shard| shard.number);
        let alone = shard.is_none().then_some(&file.path);
        let key = (shards::folder(file.path.as_str()), shard.map(|shard| shard.set()), alone);
        sets.entry(key).or_default().push((number, file));
    }
    let sets = sets.into_values().filter_map(|mut set| {
        set.sort_by_key(|(number, file)| (*number, &file.path));
        let set: Vec<&RemoteFile> = set.into_iter().map(|(_, file)| file).collect();
        Some((*set.first()?, set))
    });
    let mut sets: Vec<_> = sets.collect();
    sets.sort_by_key(|(first, _)| &first.path);
    sets
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str) -> RemoteFile {
        RemoteFile { path: RepoPath::parse(path).unwrap(), size: 100, digest: None, blob_id: None, xet_hash: None }
    }

    fn header(parameters: u64) -> Header {
        Ok(Arc::new(Metadata {
            parameters: Some(parameters),
            tensor_bytes: Some(parameters * 2),
            ..Metadata::unknown(Format::Safetensors)
        }))
    }

    #[test]
    fn what_was_not_read_makes_sums_a_bound() {
        let set: Vec<RemoteFile> =
            (1..=3).map(|number| file(&format!("model-{number:05}-of-00003.safetensors"))).collect();
        let listed: Vec<RepoPath> = set.iter().map(|file| file.path.clone()).collect();
        let mut headers = BTreeMap::new();
        let row = |headers: &BTreeMap<RepoPath, Header>| {
            RemoteRow::of(&RemoteFiles {
                repository: "org/name",
                set: &set,
                listed: &listed,
                pipeline: false,
                headers,
                beside: &BTreeMap::new(),
                projector: None,
            })
        };
        for (at, file) in set.iter().enumerate() {
            headers.insert(file.path.clone(), header(1_000_000));
            let row = row(&headers);
            let line = row.parameters_line().unwrap();
            assert_eq!(row.is_whole(), at == 2);
            assert!(row.model.complete && row.model.warnings.is_empty(), "{:?}", row.model);
            match at {
                2 => assert_eq!((line.as_str(), row.model.parameters), ("3M", Some(3_000_000))),
                _ => assert_eq!(line, format!("at least {}M by {} of 3 headers", at + 1, at + 1)),
            }
        }
    }

    #[test]
    fn shards_that_the_hub_lacks_are_named() {
        let set = [file("model-00001-of-00003.safetensors"), file("model-00003-of-00003.safetensors")];
        let headers = set.iter().map(|file| (file.path.clone(), header(1))).collect();
        let row = RemoteRow::of(&RemoteFiles {
            repository: "org/name",
            set: &set,
            listed: &[],
            pipeline: false,
            headers: &headers,
            beside: &BTreeMap::new(),
            projector: None,
        });
        assert_eq!(row.model.damage, Some(FileStatus::Missing));
        assert!(row.model.warnings[0].contains("model-00002-of-00003.safetensors"), "{:?}", row.model.warnings);
        let fit = row.fit(200, false, &HostMemory::default(), &Conditions::default()).unwrap();
        assert_eq!(fit.because.as_deref(), Some("not all of its weights are on the hub"));
    }
}
