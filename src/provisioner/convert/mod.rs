//! Conversion of safetensors to GGUF by llama.cpp's `convert_hf_to_gguf.py`, published like a download.
//!
//! The program runs as a child in a process group of its own, without tokens and without the network, and writes into a
//! staged file. That gets its name when it is whole and agrees with what it was made from. What it was made from stays.

mod check;
mod child;
mod find;

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tokio_util::sync::CancellationToken;

use super::{DownloadPlan, DownloadRequest, Inventory, ModelProvisioner};
use crate::disk::lock::FileLock;
use crate::disk::{publish, regular, safe, space};
use crate::error::{Error, Result};
use crate::hub::CatalogEntry;
use crate::model::selector::Selector;
use crate::model::{Digest, FileName, Reference, RepoPath, StoreKind, text};
use crate::store::flat::staging::{staging_key, staging_paths};
use crate::store::flat::{Record, RecordedFile};
use crate::store::{Details, Store};

/// Takes a line that the converter printed, made printable. It may be called from any thread.
pub type OutputSink = Arc<dyn Fn(&str) + Send + Sync>;

/// Output types that llama.cpp's converter knows.
pub const OUTPUT_TYPES: [&str; 7] = ["f32", "f16", "bf16", "q8_0", "tq1_0", "tq2_0", "auto"];

/// The output type where nothing else is said: no larger than most sources, and every program loads it.
const DEFAULT_TYPE: &str = "f16";

/// What a person asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConvertRequest {
    /// A safetensors model that is here.
    pub reference: String,
    /// One of [`OUTPUT_TYPES`].
    #[serde(default)]
    pub output_type: Option<String>,
    /// Convert also what was converted already, and replace what is in the way.
    #[serde(default)]
    pub force: bool,
}

/// What is converted into what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conversion {
    /// What it is called in messages.
    pub name: String,
    /// The folder with the safetensors, their configuration and their tokenizer.
    pub source: PathBuf,
    /// The folder of the flat store that the result goes to.
    pub folder: PathBuf,
    /// Its name there.
    pub file: RepoPath,
    /// One of [`OUTPUT_TYPES`].
    pub output_type: String,
    /// Where the source came from, as far as it is known.
    pub origin: Option<Origin>,
    /// Replace what is in the way.
    pub force: bool,
}

/// Where a source came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Base address of the hub.
    pub endpoint: String,
    /// `org/name`.
    pub repository: String,
    /// The branch, tag or commit that was asked for.
    pub revision: String,
    /// The commit.
    pub commit: String,
}

/// A published conversion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Converted {
    /// The GGUF file.
    pub path: PathBuf,
    /// Its length.
    pub bytes: u64,
    /// SHA-256 of it.
    pub digest: Option<Digest>,
    /// Whether it was made now, or was there already.
    pub made: bool,
}

impl ModelProvisioner {
    /// The catalog's entry that a request means, if it needs a conversion and the request is for the converted file.
    #[must_use]
    pub fn conversion_of(&self, request: &DownloadRequest) -> Option<&CatalogEntry> {
        let reference = self.reference(&request.reference).ok()?;
        let plain = request.files.is_empty() && reference.quantization().is_none() && reference.file().is_none();
        self.catalog().get(reference.name()).filter(|entry| plain && entry.conversion.is_some())
    }

    /// What is to be done for an entry of the catalog whose source `plan` fetches.
    ///
    /// # Errors
    /// [`Error::UnsafePath`].
    pub fn conversion_of_download(&self, entry: &CatalogEntry, plan: &DownloadPlan) -> Result<Conversion> {
        Ok(Conversion {
            name: entry.alias.clone(),
            source: plan.folder.clone(),
            folder: plan.folder.clone(),
            file: RepoPath::parse(&entry.file)?,
            output_type: entry.conversion.clone().unwrap_or_else(|| DEFAULT_TYPE.to_owned()),
            origin: Some(Origin {
                endpoint: self.hub()?.endpoint().to_owned(),
                repository: plan.repository.id.clone(),
                revision: plan.revision.clone(),
                commit: plan.repository.commit.clone(),
            }),
            force: plan.request.force,
        })
    }

    /// What is to be done for a model that is here. Blocks on the disk.
    ///
    /// # Errors
    /// [`Error::ModelNotFound`], [`Error::Ambiguous`]; [`Error::Conversion`] when it is no safetensors model with its
    /// configuration, or the output type is unknown.
    pub fn conversion_of_model(&self, inventory: &Inventory, request: &ConvertRequest) -> Result<Conversion> {
        let refused = |reason: String| Error::Conversion { what: text::printable(&request.reference), reason };
        let output_type = request.output_type.clone().unwrap_or_else(|| DEFAULT_TYPE.to_owned());
        if !OUTPUT_TYPES.contains(&output_type.as_str()) {
            let known = OUTPUT_TYPES.join(", ");
            return Err(refused(format!("'{}' is no output type; use one of {known}", text::printable(&output_type))));
        }
        let target = inventory.find(&Selector::parse(&request.reference)?, None)?;
        let details = inventory.details(&target.model)?;
        // The model's own, not that of a part of it.
        let configs = details.files.iter().filter(|file| file.absolute.ends_with("config.json"));
        let config = configs.min_by_key(|file| file.absolute.components().count());
        let has_weights = details
            .files
            .iter()
            .any(|file| FileName::parse(file.path.rsplit('/').next().unwrap_or_default()).is_safetensors());
        let Some(source) = config.filter(|_| has_weights).and_then(|config| config.absolute.parent()) else {
            return Err(refused("it has no safetensors with a config.json; only those can be converted".to_owned()));
        };
        let record = Record::read(&details.model.path).ok().flatten();
        let folder = if target.model.store == StoreKind::Flat {
            details.model.path.clone()
        } else {
            let repository = details.model.reference.clone().unwrap_or_else(|| target.model.id.clone());
            self.store().target_folder(&Reference::parse(&repository)?, &repository)?
        };
        let last = folder.file_name().map(text::escape).unwrap_or_default();
        let file = RepoPath::parse(&format!("{last}-{}.gguf", output_type.to_uppercase()))?;
        let recorded = record.map(|record| Origin {
            endpoint: record.endpoint,
            repository: record.repository,
            revision: record.revision,
            commit: record.commit,
        });
        let cached = || self.origin_in_cache(&details, source).filter(|_| target.model.store == StoreKind::Hf);
        let origin = recorded.or_else(cached);
        let name = text::printable(&target.model.id);
        Ok(Conversion { name, source: source.to_owned(), folder, file, output_type, origin, force: request.force })
    }

    /// Where a source in the Hugging Face cache came from: its folder is named after its commit.
    fn origin_in_cache(&self, details: &Details, source: &Path) -> Option<Origin> {
        let commit = source.components().rev().find_map(|part| {
            let name = part.as_os_str().to_str()?;
            details.revisions.iter().find(|revision| revision.commit == name)
        })?;
        Some(Origin {
            endpoint: self.endpoint(),
            repository: details.model.reference.clone()?,
            revision: commit.refs.first().unwrap_or(&commit.commit).clone(),
            commit: commit.commit.clone(),
        })
    }

    /// The converter, as configured or found.
    ///
    /// # Errors
    /// [`Error::ConversionUnavailable`] says what to install and where to name it.
    pub fn converter(&self, conversion: &Conversion) -> Result<Converter> {
        find::find(self.converter_settings()).map_err(|reason| Error::ConversionUnavailable {
            alias: conversion.name.clone(),
            detail: format!("{} to {}", text::printable_path(&conversion.source), conversion.file),
            reason,
        })
    }

    /// [`Self::converter`] for an entry of the catalog, before anything of it is fetched.
    pub(crate) fn converter_of(&self, entry: &CatalogEntry) -> Result<Converter> {
        find::find(self.converter_settings()).map_err(|reason| Error::ConversionUnavailable {
            alias: entry.alias.clone(),
            detail: format!("{} to {}", entry.repository, entry.file),
            reason,
        })
    }

    /// Converts. Blocks until it is done; the result has its name only when it is whole and agrees with its source.
    ///
    /// # Errors
    /// [`Error::ConversionUnavailable`]; [`Error::Conversion`] with what the converter said; [`Error::NoSpace`],
    /// [`Error::Occupied`], [`Error::Locked`], [`Error::Cancelled`]. Nothing is left under the final name then, and the source stays.
    pub fn convert(
        &self,
        conversion: &Conversion,
        output: &OutputSink,
        cancel: &CancellationToken,
    ) -> Result<Converted> {
        let target = conversion.file.below(&conversion.folder);
        if let Some(done) = self.already(conversion, &target)? {
            return Ok(done);
        }
        let converter = self.converter(conversion)?;
        let source = check::Source::read(&conversion.source)
            .map_err(|reason| Error::Conversion { what: conversion.name.clone(), reason })?;
        room(conversion, &source)?;
        let was_there = conversion.folder.symlink_metadata().is_ok();
        let converted = self.staged(conversion, &converter, &source, output, cancel);
        if converted.is_err() && !was_there {
            publish::remove_folder_if_empty(&conversion.folder);
        }
        converted
    }

    /// Converts into a staged file and publishes that.
    fn staged(
        &self,
        conversion: &Conversion,
        converter: &Converter,
        source: &check::Source,
        output: &OutputSink,
        cancel: &CancellationToken,
    ) -> Result<Converted> {
        let target = self.target(conversion)?;
        let origin = conversion.origin.as_ref();
        let parts = [
            origin.map_or("", |origin| origin.endpoint.as_str()),
            origin.map_or("", |origin| origin.repository.as_str()),
            origin.map_or("", |origin| origin.commit.as_str()),
            conversion.file.as_str(),
            "converted",
            conversion.output_type.as_str(),
        ];
        let (staged, journal) = staging_paths(&target, &staging_key(None, &parts));
        let lock = FileLock::try_exclusive(&journal)?
            .ok_or_else(|| Error::Locked { path: target.clone(), holder: FileLock::holder(&journal) })?;
        let made = self.make(conversion, converter, source, &staged, output, cancel);
        let published = made.and_then(|digest| self.publish(conversion, &staged, &target, digest));
        // What is not published is of no use: a converter begins anew.
        let tidied = publish::remove_if_there(&staged).and_then(|()| publish::remove_if_there(&journal));
        drop(lock);
        let converted = published?;
        tidied?;
        Ok(converted)
    }

    fn target(&self, conversion: &Conversion) -> Result<PathBuf> {
        let root = self.store().root();
        match conversion.folder.strip_prefix(root).ok().and_then(Path::to_str) {
            Some(folder) if !folder.is_empty() => {
                safe::prepare_below(root, &RepoPath::parse(&format!("{folder}/{}", conversion.file))?)
            }
            _ => safe::prepare_below(&conversion.folder, &conversion.file),
        }
    }

    /// What an earlier conversion has made.
    fn already(&self, conversion: &Conversion, target: &Path) -> Result<Option<Converted>> {
        let Ok(status) = target.symlink_metadata() else { return Ok(None) };
        if conversion.force && status.is_file() {
            return Ok(None);
        }
        let record = Record::read(&conversion.folder)?;
        let recorded = record.as_ref().and_then(|record| record.file(conversion.file.as_str()));
        match recorded {
            Some(file) if status.is_file() && file.size == status.len() => {
                Ok(Some(Converted { path: target.to_owned(), bytes: file.size, digest: file.digest, made: false }))
            }
            // One of our own that was damaged since.
            Some(_) if status.is_file() => Ok(None),
            // Of a source of unknown origin nothing is recorded.
            None if conversion.origin.is_none() && is_conversion(conversion, target) => {
                Ok(Some(Converted { path: target.to_owned(), bytes: status.len(), digest: None, made: false }))
            }
            _ => {
                let repository = format!("the conversion of {}", conversion.name);
                Err(Error::Occupied { path: target.to_owned(), repository })
            }
        }
    }

    fn make(
        &self,
        conversion: &Conversion,
        converter: &Converter,
        source: &check::Source,
        staged: &Path,
        output: &OutputSink,
        cancel: &CancellationToken,
    ) -> Result<Digest> {
        publish::remove_if_there(staged)?;
        let failed = |reason: String| Error::Conversion { what: conversion.name.clone(), reason };
        child::run(converter, self.converter_settings(), conversion, staged, output, cancel)?;
        let folder = staged.parent().unwrap_or(&conversion.folder);
        let file = Path::new(staged.file_name().unwrap_or_default());
        let opened = safe::open_below(folder, file)
            .map_err(|error| failed(format!("it ended well and wrote no file ({error}); nothing was published")))?;
        source
            .agrees(&opened, conversion.file.file_name())
            .map_err(|reason| failed(format!("{reason}; nothing was published")))?;
        hash(opened, staged, cancel)
    }

    fn publish(&self, conversion: &Conversion, staged: &Path, target: &Path, digest: Digest) -> Result<Converted> {
        let bytes = staged.symlink_metadata().map_err(Error::io("read", staged))?.len();
        publish::publish(staged, target)?;
        if let Some(origin) = &conversion.origin {
            let file = RecordedFile {
                path: conversion.file.clone(),
                size: bytes,
                digest: Some(digest),
                converted: true,
                commit: None,
            };
            Record {
                version: Record::VERSION,
                endpoint: origin.endpoint.clone(),
                repository: origin.repository.clone(),
                revision: origin.revision.clone(),
                commit: origin.commit.clone(),
                files: vec![file],
            }
            .merge(&conversion.folder, &[])?;
        }
        Ok(Converted { path: target.to_owned(), bytes, digest: Some(digest), made: true })
    }
}

/// Whether what lies at `target` can be what this makes.
fn is_conversion(conversion: &Conversion, target: &Path) -> bool {
    let agrees = |source: check::Source| {
        let file = regular::open(target).ok()?;
        source.agrees(&file, conversion.file.file_name()).ok()
    };
    check::Source::read(&conversion.source).ok().and_then(agrees).is_some()
}

/// A converter that can be started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Converter {
    /// The interpreter, unless the script is started by itself.
    pub python: Option<PathBuf>,
    /// `convert_hf_to_gguf.py`, or what stands in for it.
    pub script: PathBuf,
}

/// Refuses to begin what cannot end: a disk that fills up after an hour helps nobody.
fn room(conversion: &Conversion, source: &check::Source) -> Result<()> {
    let bits: u64 = match conversion.output_type.as_str() {
        "f32" => 32,
        "q8_0" => 9,
        "tq1_0" | "tq2_0" => 2,
        _ => 16,
    };
    let needed = source.parameters.unwrap_or(0).saturating_mul(bits) / 8;
    let available = space::space(&conversion.folder)?.available;
    if needed > available {
        return Err(Error::NoSpace { path: conversion.folder.clone(), needed, available, advice: None });
    }
    Ok(())
}

fn hash(mut file: std::fs::File, path: &Path, cancel: &CancellationToken) -> Result<Digest> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 128 << 10];
    loop {
        if cancel.is_cancelled() {
            return Err(Error::Cancelled);
        }
        match file.read(&mut buffer) {
            Ok(0) => return Ok(Digest::Sha256(hash.finalize().into())),
            Ok(length) => hash.update(&buffer[..length]),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Error::io("read", path)(error)),
        }
    }
}
