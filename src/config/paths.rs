//! The folders of this program, and those of the programs whose variables it follows.

use std::ffi::OsStr;
use std::path::PathBuf;

use super::Environment;

/// Folder of this program inside the XDG folders.
const NAME: &str = "llorch-models";

/// Where configuration, state and cache lie, by the XDG base directory specification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    /// Home folder of the user; `/` where none is known.
    pub home: PathBuf,
    /// `$XDG_CONFIG_HOME/llorch-models`: `config.toml`, `catalog.toml`.
    pub config: PathBuf,
    /// `$XDG_STATE_HOME/llorch-models/<hostname>`: queue, log, remembered results.
    pub state: PathBuf,
    /// `$XDG_CACHE_HOME/llorch-models`.
    pub cache: PathBuf,
    /// Base folder of the flat store when nothing else is set: `$XDG_DATA_HOME/llorch-models/models`.
    pub models: PathBuf,
    /// `HF_HOME`, else `$XDG_CACHE_HOME/huggingface`: the folder of the Hugging Face tools.
    pub hf_home: PathBuf,
    /// `HF_HUB_CACHE`, else `HUGGINGFACE_HUB_CACHE`, else `hub` in `HF_HOME`, as the Python client reads them: one that is set
    /// and empty counts, and is relative to the working folder.
    pub hf_hub_cache: PathBuf,
    /// The same as llama.cpp reads it, which skips variables that are empty.
    pub llama_hub_cache: PathBuf,
    /// `HF_TOKEN_PATH`, else `token` in [`Self::hf_home`].
    pub hf_token: PathBuf,
    /// `LLAMA_CACHE`, else `$XDG_CACHE_HOME/llama.cpp`.
    pub llama_cache: PathBuf,
    /// `OLLAMA_MODELS` (quotes and blanks around it taken off), else `~/.ollama/models`.
    pub ollama_models: PathBuf,
    /// The root folder of the system: where services of other users keep their models is relative to it.
    pub system: PathBuf,
}

impl Paths {
    /// The folders for `environment` on the host named `hostname`. XDG variables that are empty or relative are ignored,
    /// as their specification says; the other tools' variables are ignored when empty, but for those of the hub's cache.
    #[must_use]
    pub fn new(environment: &Environment, hostname: &str) -> Self {
        let absolute = |name: &str| environment.raw(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let home = absolute("HOME").unwrap_or_else(|| PathBuf::from("/"));
        let base = |name: &str, default: &str| absolute(name).unwrap_or_else(|| home.join(default));

        let caches = base("XDG_CACHE_HOME", ".cache");
        let hf_home = environment.path("HF_HOME").unwrap_or_else(|| caches.join("huggingface"));
        let hubs = ["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"];
        let llama_hub_cache =
            hubs.iter().find_map(|name| environment.path(name)).unwrap_or_else(|| hf_home.join("hub"));
        let is_empty = |name: &str| environment.raw(name).is_some_and(OsStr::is_empty);
        let set = hubs.iter().find(|name| environment.raw(name).is_some());
        let hf_hub_cache = match set {
            Some(name) if is_empty(name) => PathBuf::from("."),
            None if is_empty("HF_HOME") => PathBuf::from("hub"),
            _ => set.and_then(|name| environment.path(name)).unwrap_or_else(|| hf_home.join("hub")),
        };
        let hf_token = environment.path("HF_TOKEN_PATH").unwrap_or_else(|| hf_home.join("token"));
        let ollama_models = environment
            .text("OLLAMA_MODELS")
            .map(|value| value.trim().trim_matches(['"', '\'']).trim())
            .filter(|value| !value.is_empty())
            .map_or_else(|| home.join(".ollama/models"), PathBuf::from);
        Self {
            config: base("XDG_CONFIG_HOME", ".config").join(NAME),
            state: base("XDG_STATE_HOME", ".local/state").join(NAME).join(folder_name(hostname)),
            cache: caches.join(NAME),
            models: base("XDG_DATA_HOME", ".local/share").join(NAME).join("models"),
            llama_cache: environment.path("LLAMA_CACHE").unwrap_or_else(|| caches.join("llama.cpp")),
            hf_home,
            hf_hub_cache,
            llama_hub_cache,
            hf_token,
            ollama_models,
            system: PathBuf::from("/"),
            home,
        }
    }

    /// The file of remembered results of verifying.
    #[must_use]
    pub fn verified(&self) -> PathBuf {
        self.state.join("verified.json")
    }
}

/// The host name as one folder name: a home folder that several hosts share keeps their states apart.
fn folder_name(hostname: &str) -> String {
    let name: String = hostname
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_') { c } else { '_' })
        .collect();
    if name.trim_matches('.').is_empty() { "localhost".to_owned() } else { name }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn defaults_lie_under_home() {
        let paths = Paths::new(&Environment::from_pairs([("HOME", "/home/alice")]), "gpu01");
        assert_eq!(paths.config, Path::new("/home/alice/.config/llorch-models"));
        assert_eq!(paths.state, Path::new("/home/alice/.local/state/llorch-models/gpu01"));
        assert_eq!(paths.cache, Path::new("/home/alice/.cache/llorch-models"));
        assert_eq!(paths.models, Path::new("/home/alice/.local/share/llorch-models/models"));
        assert_eq!(paths.hf_hub_cache, Path::new("/home/alice/.cache/huggingface/hub"));
        assert_eq!(paths.hf_token, Path::new("/home/alice/.cache/huggingface/token"));
        assert_eq!(paths.ollama_models, Path::new("/home/alice/.ollama/models"));
        assert_eq!(paths.llama_cache, Path::new("/home/alice/.cache/llama.cpp"));
    }

    #[test]
    fn relative_and_empty_xdg_folders_are_ignored() {
        let environment = Environment::from_pairs([
            ("HOME", "/home/alice"),
            ("XDG_CONFIG_HOME", "relative"),
            ("XDG_STATE_HOME", ""),
            ("XDG_DATA_HOME", "/data"),
        ]);
        let paths = Paths::new(&environment, "gpu01");
        assert_eq!(paths.config, Path::new("/home/alice/.config/llorch-models"));
        assert_eq!(paths.state, Path::new("/home/alice/.local/state/llorch-models/gpu01"));
        assert_eq!(paths.models, Path::new("/data/llorch-models/models"));
    }

    #[test]
    fn other_tools_variables_in_their_order() {
        let environment = Environment::from_pairs([
            ("HOME", "/home/alice"),
            ("HF_HOME", "~/hf"),
            ("HUGGINGFACE_HUB_CACHE", "/old"),
            ("OLLAMA_MODELS", " \"/srv/ollama\" "),
            ("LLAMA_CACHE", "/srv/llama"),
        ]);
        let paths = Paths::new(&environment, "gpu01");
        assert_eq!(paths.hf_home, Path::new("/home/alice/hf"));
        assert_eq!(paths.hf_token, Path::new("/home/alice/hf/token"));
        assert_eq!(paths.hf_hub_cache, Path::new("/old"));
        assert_eq!(paths.ollama_models, Path::new("/srv/ollama"));
        assert_eq!(paths.llama_cache, Path::new("/srv/llama"));
    }

    #[test]
    fn empty_variables_of_the_hub_cache_are_what_each_program_makes_of_them() {
        let hubs = |pairs: &[(&str, &str)]| {
            let pairs = [("HOME", "/home/alice")].iter().chain(pairs).copied();
            let paths = Paths::new(&Environment::from_pairs(pairs), "gpu01");
            (paths.hf_hub_cache, paths.llama_hub_cache)
        };
        let default = PathBuf::from("/home/alice/.cache/huggingface/hub");
        assert_eq!(hubs(&[]), (default.clone(), default.clone()));
        assert_eq!(hubs(&[("HF_HUB_CACHE", "")]), (PathBuf::from("."), default.clone()));
        assert_eq!(hubs(&[("HF_HUB_CACHE", ""), ("HUGGINGFACE_HUB_CACHE", "/o")]), (".".into(), "/o".into()));
        assert_eq!(hubs(&[("HF_HOME", "")]), (PathBuf::from("hub"), default.clone()));
        assert_eq!(hubs(&[("HF_HUB_CACHE", "/a"), ("HUGGINGFACE_HUB_CACHE", "")]), ("/a".into(), "/a".into()));
        assert_eq!(hubs(&[("HF_HOME", ""), ("HUGGINGFACE_HUB_CACHE", "/o")]), ("/o".into(), "/o".into()));
    }

    #[test]
    fn a_host_name_is_one_folder() {
        for (hostname, folder) in [("gpu01.lab", "gpu01.lab"), ("../x", ".._x"), ("..", "localhost"), ("", "localhost")]
        {
            let paths = Paths::new(&Environment::from_pairs([("HOME", "/h")]), hostname);
            assert_eq!(paths.state, Path::new("/h/.local/state/llorch-models").join(folder));
        }
    }
}
