//! Where Ollama's system service keeps its models.

use std::ffi::OsStr;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::disk::regular;
use crate::machine::ollama_servers;

/// Home of the user that Ollama's install script makes.
const DEFAULT: &str = "usr/share/ollama/.ollama/models";
const UNITS: &str = "etc/systemd/system";
/// Longest unit file that is read.
const MAX_UNIT: u64 = 1 << 20;

/// The models folders of the servers on the system whose root folder is `system` (`/`, but for demonstrations and tests): the
/// one that the unit of the service sets with `OLLAMA_MODELS`, the one that it has otherwise, and those of servers that run
/// and whose environment can be read. They need not exist.
#[must_use]
pub fn folders(system: &Path) -> Vec<PathBuf> {
    let running = ollama_servers(&system.join("proc")).into_iter().filter_map(|server| server.environment?.models);
    configured(system).into_iter().chain([system.join(DEFAULT)]).chain(running).collect()
}

/// The models folder that the unit of the service sets.
#[must_use]
pub fn configured(system: &Path) -> Option<PathBuf> {
    let units = system.join(UNITS);
    let mut files = vec![units.join("ollama.service")];
    let mut more: Vec<PathBuf> = std::fs::read_dir(units.join("ollama.service.d"))
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension() == Some(OsStr::new("conf")))
        .collect();
    // Later ones overrule earlier ones, by their names.
    more.sort();
    files.extend(more);
    let set = files.iter().filter_map(|file| read(file)).filter_map(|unit| models_of(&unit)).next_back();
    set.filter(|folder| folder.is_absolute())
}

fn read(file: &Path) -> Option<String> {
    let mut text = String::new();
    regular::open(file).ok()?.take(MAX_UNIT).read_to_string(&mut text).ok()?;
    Some(text)
}

/// The value in the last line such as `Environment="OLLAMA_MODELS=/data/ollama" "OTHER=x"`.
fn models_of(unit: &str) -> Option<PathBuf> {
    let lines = unit.lines().filter_map(|line| line.trim().strip_prefix("Environment=")).rev();
    lines.filter_map(|line| words(line).iter().rev().find_map(|word| value(word))).next().map(PathBuf::from)
}

fn value(word: &str) -> Option<String> {
    let value = word.strip_prefix("OLLAMA_MODELS=")?.trim().trim_matches(['"', '\'']).trim();
    (!value.is_empty()).then(|| value.to_owned())
}

/// Words as systemd reads them: parted by blanks outside of quotes.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut quote = None;
    for c in line.chars() {
        match (quote, c) {
            (None, '"' | '\'') => quote = Some(c),
            (Some(open), c) if c == open => quote = None,
            (None, c) if c.is_whitespace() => words.push(std::mem::take(&mut word)),
            (_, c) => word.push(c),
        }
    }
    words.push(word);
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_setting_counts_and_the_default_is_always_looked_at() {
        let system = tempfile::tempdir().unwrap();
        let default = system.path().join(DEFAULT);
        assert_eq!(folders(system.path()), std::slice::from_ref(&default));
        let units = system.path().join(UNITS);
        std::fs::create_dir_all(units.join("ollama.service.d")).unwrap();
        std::fs::write(units.join("ollama.service"), "[Service]\nEnvironment=\"OLLAMA_MODELS=/first\"\n").unwrap();
        assert_eq!(folders(system.path()), [PathBuf::from("/first"), default.clone()]);
        let over = "[Service]\nEnvironment=\"A=b c\" 'OLLAMA_MODELS=/data/my models'\n#Environment=OLLAMA_MODELS=/no\n";
        std::fs::write(units.join("ollama.service.d/override.conf"), over).unwrap();
        assert_eq!(folders(system.path()), [PathBuf::from("/data/my models"), default.clone()]);
        std::fs::write(units.join("ollama.service.d/z.conf"), "Environment=OLLAMA_MODELS=relative").unwrap();
        assert_eq!(folders(system.path()), [default]);
    }
}
