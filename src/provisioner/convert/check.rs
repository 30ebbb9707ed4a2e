//! What a conversion was made from, and whether what came out agrees with it.

use std::fs::File;
use std::path::Path;

use crate::disk::regular;
use crate::format::{Metadata, Structure, read_metadata};
use crate::model::{FileName, Format, text};

/// Most files of a folder that are looked at.
const MAX_FILES: usize = 65_536;

/// What the source tells of itself.
pub(super) struct Source {
    /// Parameters of all its weights.
    pub(super) parameters: Option<u64>,
    config: Metadata,
}

impl Source {
    pub(super) fn read(folder: &Path) -> Result<Self, String> {
        let open = |name: &Path| regular::open(&folder.join(name)).map_err(|error| error.to_string());
        // The cache of the official client keeps links here, so these are followed.
        let config = open(Path::new("config.json")).and_then(|file| Metadata::of_config(&file));
        let config = config.map_err(|why| format!("its config.json: {}", text::printable(&why)))?;
        let entries = std::fs::read_dir(folder).map_err(|error| format!("its folder cannot be read: {error}"))?;
        let mut parameters = Some(0_u64);
        let mut found = false;
        for entry in entries.flatten().take(MAX_FILES) {
            let name = text::escape(&entry.file_name());
            if !FileName::parse(&name).is_safetensors() {
                continue;
            }
            found = true;
            let header = open(Path::new(&entry.file_name())).and_then(|file| read_metadata(&file, &name));
            let header = header.map_err(|why| format!("{}: {}", text::printable(&name), text::printable(&why)))?;
            if let Structure::Truncated { .. } = header.structure {
                return Err(format!("{} is cut short; download it again", text::printable(&name)));
            }
            parameters = parameters.zip(header.parameters).and_then(|(sum, more)| sum.checked_add(more));
        }
        if !found {
            return Err("there are no safetensors files beside its config.json".to_owned());
        }
        Ok(Self { parameters: parameters.filter(|sum| *sum > 0), config })
    }

    /// Whether a GGUF file can be what this was converted into.
    pub(super) fn agrees(&self, file: &File, name: &str) -> Result<(), String> {
        let made =
            read_metadata(file, name).map_err(|why| format!("what it wrote is no model: {}", text::printable(&why)))?;
        if made.format != Format::Gguf {
            return Err("what it wrote is no GGUF file".to_owned());
        }
        match made.structure {
            Structure::Truncated { missing } => {
                let missing = missing.map_or_else(String::new, |bytes| format!(" by {bytes} bytes"));
                return Err(format!("what it wrote is cut short{missing}"));
            }
            Structure::Extra { bytes } => {
                return Err(format!("what it wrote is {bytes} bytes longer than its header says"));
            }
            Structure::Whole | Structure::Partial => {}
        }
        if made.architecture.is_none() || made.tensors.unwrap_or(0) == 0 {
            return Err("what it wrote has no architecture or no tensors".to_owned());
        }
        let same = |what: &str, of_source: Option<u64>, of_result: Option<u64>| match (of_source, of_result) {
            (Some(source), Some(result)) if source != result => {
                Err(format!("what it wrote has {result} {what}, its source {source}"))
            }
            _ => Ok(()),
        };
        same("layers", self.config.layers, made.layers)?;
        same("as embedding length", self.config.embedding_length, made.embedding_length)?;
        // Converters leave out buffers and write shared tensors twice, and no more.
        if let (Some(source), Some(result)) = (self.parameters, made.parameters)
            && (result < source / 2 || result > source.saturating_mul(2))
        {
            return Err(format!("what it wrote has {result} parameters, its source {source}"));
        }
        Ok(())
    }
}
