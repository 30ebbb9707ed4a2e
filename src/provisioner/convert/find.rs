//! Where the converter is.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::Converter;
use crate::config::ConverterSettings;
use crate::model::text;

/// The name of the script in llama.cpp.
const SCRIPT: &str = "convert_hf_to_gguf.py";

/// What to do where there is none.
const WAY_OUT: &str = "get llama.cpp (git clone https://github.com/ggml-org/llama.cpp), install what its converter needs \
    (python3 -m venv llama.cpp/.venv && llama.cpp/.venv/bin/pip install -r \
    llama.cpp/requirements/requirements-convert_hf_to_gguf.txt), and set converter = \"/path/to/llama.cpp\" in config.toml, \
    or put convert_hf_to_gguf.py on PATH";

/// The configured converter, else the one on the search path; else what to do.
pub(super) fn find(settings: &ConverterSettings) -> Result<Converter, String> {
    let script = match &settings.converter {
        Some(named) => {
            let inside = named.join(SCRIPT);
            let script = if named.is_dir() { inside } else { named.clone() };
            if !script.is_file() {
                return Err(format!("there is no {}, which the configuration names; {WAY_OUT}", shown(&script)));
            }
            script
        }
        None => on_path(settings, SCRIPT).ok_or_else(|| format!("no converter is here; {WAY_OUT}"))?,
    };
    let python = match &settings.python {
        Some(python) if !python.is_file() => {
            return Err(format!("there is no {}, which converter_python names", shown(python)));
        }
        Some(python) => Some(python.clone()),
        None => interpreter(settings, &script)?,
    };
    Ok(Converter { python, script })
}

/// The interpreter of the environment beside the script, which is where its modules are; else the script's own choice.
fn interpreter(settings: &ConverterSettings, script: &Path) -> Result<Option<PathBuf>, String> {
    let folder = script.parent().unwrap_or(Path::new("/"));
    let beside = [".venv", "venv"].iter().map(|name| folder.join(name).join("bin/python")).find(|path| path.is_file());
    if beside.is_some() {
        return Ok(beside);
    }
    if is_executable(script) {
        return Ok(None);
    }
    let python = on_path(settings, "python3");
    python
        .map(Some)
        .ok_or_else(|| "no python3 is on PATH; install Python, or set converter_python in config.toml".to_owned())
}

fn on_path(settings: &ConverterSettings, name: &str) -> Option<PathBuf> {
    let search = settings.search.as_deref()?;
    // An empty or relative part would mean wherever the program was started.
    std::env::split_paths(search)
        .filter(|folder| folder.is_absolute())
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
}

fn is_executable(path: &Path) -> bool {
    path.metadata().is_ok_and(|status| status.permissions().mode() & 0o111 != 0)
}

fn shown(path: &Path) -> String {
    text::printable_path(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_named_one_comes_before_the_search_path() {
        let scratch = tempfile::tempdir().unwrap();
        let folder = |name: &str| {
            let folder = scratch.path().join(name);
            std::fs::create_dir(&folder).unwrap();
            let script = folder.join(SCRIPT);
            std::fs::write(&script, "#!/bin/sh\n").unwrap();
            std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
            folder
        };
        let (named, path) = (folder("llama.cpp"), folder("bin"));
        let mut settings =
            ConverterSettings { search: Some(path.clone().into_os_string()), ..ConverterSettings::default() };
        assert_eq!(find(&settings).unwrap(), Converter { python: None, script: path.join(SCRIPT) });
        settings.converter = Some(named.clone());
        assert_eq!(find(&settings).unwrap().script, named.join(SCRIPT));
        std::fs::create_dir_all(named.join(".venv/bin")).unwrap();
        std::fs::write(named.join(".venv/bin/python"), "").unwrap();
        assert_eq!(find(&settings).unwrap().python, Some(named.join(".venv/bin/python")));
        settings.converter = Some(named.join(SCRIPT));
        assert_eq!(find(&settings).unwrap().script, named.join(SCRIPT));
        settings.converter = Some(scratch.path().join("gone"));
        assert!(find(&settings).unwrap_err().contains("which the configuration names"));
        let error = find(&ConverterSettings::default()).unwrap_err();
        assert!(error.contains("git clone") && error.contains("config.toml"), "{error}");
    }
}
