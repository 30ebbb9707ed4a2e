//! `manifest=<owner>=<repo>=<tag>.json`: what llama.cpp noted of a model from the hub.

use serde::Deserialize;

use crate::model::{Digest, text};

/// A manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Manifest {
    /// `owner/repo`, from its name.
    pub(super) repository: String,
    /// The weights, or their first shard.
    pub(super) weights: File,
    /// The projector.
    pub(super) companion: Option<File>,
}

/// A file that a manifest names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct File {
    /// Its name in the cache, escaped.
    pub(super) name: String,
    pub(super) size: Option<u64>,
    pub(super) digest: Option<Digest>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wire {
    gguf_file: WireFile,
    mmproj_file: Option<WireFile>,
}

#[derive(Deserialize)]
struct WireFile {
    rfilename: String,
    size: Option<u64>,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    sha256: Option<String>,
    size: Option<u64>,
}

impl Manifest {
    /// Reads the manifest named `name`; `None` when it is none: nothing is then known of the files.
    pub(super) fn parse(name: &str, bytes: &[u8]) -> Option<Self> {
        let parts: Vec<&str> = name.strip_suffix(".json")?.split('=').collect();
        let [_, owner, repo, _] = parts[..] else { return None };
        let wire: Wire = serde_json::from_slice(bytes).ok()?;
        let file = |file: WireFile| {
            let lfs = file.lfs.as_ref();
            File {
                name: flat_name(owner, repo, &file.rfilename),
                size: lfs.and_then(|lfs| lfs.size).or(file.size),
                digest: lfs
                    .and_then(|lfs| Digest::parse(lfs.sha256.as_deref()?))
                    .filter(|digest| matches!(digest, Digest::Sha256(_))),
            }
        };
        Some(Self {
            repository: text::printable(&format!("{owner}/{repo}")),
            weights: file(wire.gguf_file),
            companion: wire.mmproj_file.map(file),
        })
    }
}

/// What the file at `path` of a repository is called in the cache.
fn flat_name(owner: &str, repo: &str, path: &str) -> String {
    format!("{owner}_{repo}_{path}").replace('/', "_")
}

/// `org/name` of the address in a sidecar `<file>.json`.
pub(super) fn repository_of_url(bytes: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Sidecar {
        url: String,
    }
    let sidecar: Sidecar = serde_json::from_slice(bytes).ok()?;
    let rest = sidecar.url.strip_prefix("https://")?;
    let mut parts = rest.split('/');
    let hub = parts.next().is_some_and(|host| matches!(host, "huggingface.co" | "hf.co"));
    let (org, name, resolve) = (parts.next()?, parts.next()?, parts.next()?);
    (hub && resolve == "resolve").then(|| text::printable(&format!("{org}/{name}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_have_their_names_in_the_cache() {
        let sha256 = "ab".repeat(32);
        let json = format!(
            r#"{{"ggufFile":{{"rfilename":"Q4/m-00001-of-00002.gguf","size":7,"lfs":{{"sha256":"{sha256}","size":8,"pointerSize":1}}}},
                "mmprojFile":{{"rfilename":"mmproj.gguf"}},"more":1}}"#
        );
        let manifest = Manifest::parse("manifest=o=r=Q4_K_M.json", json.as_bytes()).unwrap();
        assert_eq!(manifest.repository, "o/r");
        assert_eq!(manifest.weights.name, "o_r_Q4_m-00001-of-00002.gguf");
        assert_eq!((manifest.weights.size, manifest.weights.digest), (Some(8), Digest::parse(&sha256)));
        assert_eq!(manifest.companion.unwrap().name, "o_r_mmproj.gguf");
    }

    #[test]
    fn what_is_no_manifest_tells_nothing() {
        let good = br#"{"ggufFile":{"rfilename":"../../m.gguf"}}"#;
        assert_eq!(Manifest::parse("manifest=o=r=t.json", good).unwrap().weights.name, "o_r_.._.._m.gguf");
        for (name, bytes) in [
            ("manifest=o=t.json", &good[..]),
            ("manifest=o=r=t=u.json", good),
            ("manifest=o=r=t.json", b"{}"),
            ("manifest=o=r=t.json", b"\0"),
        ] {
            assert_eq!(Manifest::parse(name, bytes), None, "{name}");
        }
    }

    #[test]
    fn the_address_names_the_repository() {
        let of = |url: &str| repository_of_url(format!(r#"{{"url":"{url}","etag":"x"}}"#).as_bytes());
        assert_eq!(of("https://huggingface.co/o/r/resolve/main/m.gguf").as_deref(), Some("o/r"));
        assert_eq!(of("https://example.com/o/r/resolve/main/m.gguf"), None);
        assert_eq!(of("https://huggingface.co/o"), None);
    }
}
