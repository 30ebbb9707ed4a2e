//! Where the headers of a model on the hub are, and what lies beside them.

use crate::hub::{Repository, Summary};
use crate::model::selection::{INDEX, loaded, projector};
use crate::model::{FileName, Quantization, RemoteFile, RepoPath, Shard};

/// Files beside the weights that are looked at: a pipeline has some in each of its folders.
const MOST_BESIDE: usize = 64;
/// Names of weights that are kept to see what is missing; a repository with more has no set that is worth it.
const MOST_LISTED: usize = 20_000;

/// Where the header of a repository is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteHeader {
    /// `org/name`.
    pub repository: String,
    /// The commit.
    pub commit: String,
    /// The file whose header tells for all quantizations.
    pub file: RemoteFile,
    /// All files of its weights, itself among them, in the order of their names.
    pub set: Vec<RemoteFile>,
    /// The files beside them that tell what their headers do not.
    pub beside: Vec<RemoteFile>,
    /// The projector that would be loaded with them.
    pub projector: Option<RemoteFile>,
    /// All files of the repository that are weights by their names.
    pub listed: Vec<RepoPath>,
    /// Whether it is a pipeline, whose parts lie in folders of their own.
    pub pipeline: bool,
    /// What the hub says of it.
    pub summary: Summary,
}

impl RemoteHeader {
    /// Where the header of a repository with these files is; `None` without weights in a known format.
    #[must_use]
    pub fn of(repository: &Repository, files: &[RemoteFile]) -> Option<Self> {
        let first = |file: &&RemoteFile| {
            let name = FileName::parse(file.path.file_name());
            name.is_weights() && name.shard().is_none_or(|shard| shard.is_first())
        };
        let gguf = files
            .iter()
            .filter(first)
            .filter(|file| FileName::parse(file.path.file_name()).is_gguf())
            // One that names its quantization is a model rather than something beside it.
            .min_by_key(|file| (Quantization::of_path(&file.path).is_none(), file.size));
        let set = safetensors_set(files);
        let safetensors = || set.iter().copied().find(first).or_else(|| set.first().copied());
        let file = gguf.or_else(safetensors)?;
        let is_gguf = gguf.is_some();
        let set: Vec<RemoteFile> = if is_gguf { gguf_set(file, files) } else { set.into_iter().cloned().collect() };
        let is_weights = |file: &&RemoteFile| FileName::parse(file.path.file_name()).is_weights();
        Some(Self {
            repository: repository.id.clone(),
            commit: repository.commit.clone(),
            file: file.clone(),
            beside: beside(&set, files, is_gguf),
            projector: projector(files, file.path.as_str()).filter(|_| is_gguf).cloned(),
            listed: files.iter().filter(is_weights).map(|file| file.path.clone()).take(MOST_LISTED).collect(),
            pipeline: !is_gguf && files.iter().any(|file| file.path.as_str() == "model_index.json"),
            summary: repository.summary.clone(),
            set,
        })
    }

    /// Whether it is the only file of its weights.
    #[must_use]
    pub fn is_alone(&self) -> bool {
        self.set.len() < 2
    }

    /// Bytes of all files of its weights.
    #[must_use]
    pub fn set_bytes(&self) -> u64 {
        self.set.iter().map(|file| file.size).fold(0, u64::saturating_add)
    }
}

/// The files that say of the weights in `set` what their headers do not: those in their folders, and the model card and the
/// licence at the top.
fn beside(set: &[RemoteFile], files: &[RemoteFile], gguf: bool) -> Vec<RemoteFile> {
    let of_weights = |name: &str| {
        let named = matches!(
            name,
            "config.json"
                | "tokenizer.json"
                | "tokenizer_config.json"
                | "chat_template.json"
                | "chat_template.jinja"
                | "adapter_config.json"
                | "hf_quant_config.json"
                | "quantize_config.json"
                | "tokenizer.model"
                | "vocab.json"
                | "merges.txt"
        );
        !gguf && (named || name.ends_with(INDEX))
    };
    let of_model = |name: &str| name == "README.md" || name.starts_with("LICEN") || name == "license.txt";
    let told = |file: &&RemoteFile| {
        let (name, own) = (file.path.file_name(), set.iter().any(|weights| folder(weights) == folder(file)));
        (own && of_weights(name)) || ((own || folder(file).is_empty()) && of_model(name))
    };
    files.iter().filter(told).take(MOST_BESIDE).cloned().collect()
}

/// The shards of the set that a GGUF file belongs to.
fn gguf_set(file: &RemoteFile, files: &[RemoteFile]) -> Vec<RemoteFile> {
    let own = FileName::parse(file.path.file_name());
    let of_set = |other: &&RemoteFile| {
        let name = FileName::parse(other.path.file_name());
        let alike = || name.shard().zip(own.shard()).is_some_and(|(a, b)| a.is_of_set(&b));
        other.path == file.path || (name.is_gguf() && folder(other) == folder(file) && alike())
    };
    files.iter().filter(of_set).cloned().collect()
}

/// The files in safetensors that a loader is given first. An index beside them names them, but has up to 10 MB, so that it is
/// not fetched: where one is, all weights of its folder belong to it, unless the names of some of them count them.
fn safetensors_set(files: &[RemoteFile]) -> Vec<&RemoteFile> {
    let kept = loaded(files.iter().map(|file| file.path.as_str()));
    let mut kept: Vec<&RemoteFile> = files.iter().filter(|file| kept.contains(file.path.as_str())).collect();
    kept.sort_by_key(|file| &file.path);
    let Some(first) = kept.first().copied() else { return Vec::new() };
    if !folder(first).is_empty() && files.iter().any(|file| file.path.as_str() == "model_index.json") {
        // A pipeline loads its parts from all of its folders.
        return kept;
    }
    let stem = |file: &RemoteFile| FileName::parse(file.path.file_name()).stem().to_owned();
    let index = |file: &RemoteFile| {
        let name = file.path.file_name();
        name.strip_suffix(INDEX).filter(|_| folder(file) == folder(first)).map(str::to_owned)
    };
    let here: Vec<&RemoteFile> = kept.iter().copied().filter(|file| folder(file) == folder(first)).collect();
    fn counted(file: &RemoteFile) -> Option<Shard<'_>> {
        FileName::parse(file.path.file_name()).shard()
    }
    let shard = here.iter().find_map(|file| counted(file));
    let indexed: Vec<String> = files.iter().filter_map(index).collect();
    let whole = |index: &String| here.iter().any(|file| counted(file).is_none() && stem(file) == *index);
    match (counted(first), shard) {
        (Some(own), _) => {
            here.into_iter().filter(|file| counted(file).is_some_and(|other| other.is_of_set(&own))).collect()
        }
        (None, Some(shard)) if indexed.iter().any(|index| index == shard.stem) => {
            here.into_iter().filter(|file| counted(file).is_some_and(|other| other.is_of_set(&shard))).collect()
        }
        _ if indexed.iter().any(|index| !whole(index)) => here,
        _ => vec![first],
    }
}

pub(super) fn folder(file: &RemoteFile) -> &str {
    file.path.as_str().rsplit_once('/').map_or("", |(folder, _)| folder)
}
