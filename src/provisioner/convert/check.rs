//! What a conversion was made from, and whether what came out agrees with it.

use std::fs::File;
use std::path::Path;

use crate::disk::regular;
use crate::format::safetensors::Index;
use crate::format::{Metadata, Structure, read_metadata};
use crate::model::selection::{INDEX, missing_shards};
use crate::model::{FileName, Format, text};

/// Most files of a folder that are looked at.
const MAX_FILES: usize = 65_536;

/// What the source tells of itself.
pub(super) struct Source {
    /// Parameters of all its weights.
    pub(super) parameters: Option<u64>,
    config: Metadata,
}

/// A file of the weights that is missing in a folder with these weights and indexes, by an index or by the names.
fn missing(folder: &Path, names: &[String]) -> Result<Option<String>, String> {
    let mut counted: Vec<&str> = names.iter().map(String::as_str).filter(|name| !name.ends_with(INDEX)).collect();
    for name in names {
        let Some(stem) = name.strip_suffix(INDEX) else { continue };
        if names.iter().any(|other| *other == format!("{stem}.safetensors")) {
            continue;
        }
        let wrong = |why: String| format!("{}: {}", text::printable(name), text::printable(&why));
        let file = regular::open(&folder.join(text::unescape(name))).map_err(|error| wrong(error.to_string()))?;
        let index = Index::read(file).map_err(wrong)?;
        if let Some(gone) = index.files().find(|file| !folder.join(file).is_file()) {
            return Ok(Some(gone.to_owned()));
        }
        counted.retain(|name| FileName::parse(name).stem() != stem);
    }
    Ok(missing_shards(counted).into_iter().next())
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
        let mut names: Vec<String> = Vec::new();
        for entry in entries.flatten().take(MAX_FILES) {
            let name = text::escape(&entry.file_name());
            let is_weights = FileName::parse(&name).is_safetensors();
            if is_weights || name.ends_with(INDEX) {
                names.push(name.clone());
            }
            if !is_weights {
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
        if let Some(missing) = missing(folder, &names)? {
            return Err(format!("{} is missing; download it again", text::printable(&missing)));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_without_all_of_its_weights_is_refused() {
        let scratch = tempfile::tempdir().unwrap();
        let put = |name: &str, bytes: &[u8]| std::fs::write(scratch.path().join(name), bytes).unwrap();
        let header = br#"{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}}"#;
        let weights = [&(header.len() as u64).to_le_bytes()[..], header, &[0; 2]].concat();
        put("config.json", br#"{"model_type":"llama"}"#);
        put("model-1-of-2.safetensors", &weights);
        let refused = || Source::read(scratch.path()).err().unwrap_or_default();
        assert!(refused().starts_with("model-2-of-2.safetensors is missing"), "{}", refused());
        put("model-2-of-2.safetensors", &weights);
        assert_eq!(refused(), "");
        // An index outranks the names.
        let index = |other: &str| format!(r#"{{"weight_map":{{"a":"model-1-of-2.safetensors","b":"{other}"}}}}"#);
        put("model.safetensors.index.json", index("layer.safetensors").as_bytes());
        assert!(refused().starts_with("layer.safetensors is missing"), "{}", refused());
        put("model.safetensors.index.json", index("../x").as_bytes());
        assert!(refused().contains("no plain file name"), "{}", refused());
        std::fs::remove_file(scratch.path().join("model-2-of-2.safetensors")).unwrap();
        put("model.safetensors.index.json", index("model-1-of-2.safetensors").as_bytes());
        assert_eq!(refused(), "");
    }
}
