//! Manifests: what a name refers to.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::names::digest;

/// Longest manifest and config that is read.
pub(super) const MAX_JSON: u64 = 4 << 20;
const LIST: &str = "application/vnd.ollama.manifest.list.v2+json";
const OLLAMA_LAYER: &str = "application/vnd.ollama.image.";

/// A manifest, or a list of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Manifest {
    /// What one runnable model is made of.
    Plain(Layers),
    /// Digests of child manifests, each a blob; a child may be absent.
    List(Vec<String>),
}

/// What a manifest names, by digest (64 digits).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Layers {
    /// Every blob, the config's included.
    pub(super) blobs: BTreeMap<String, Layer>,
    /// The config.
    pub(super) config: Option<String>,
    /// The layers with weights, in their order.
    pub(super) weights: Vec<String>,
}

/// One blob as a manifest tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Layer {
    /// `model`, `projector`, `template` and so on: the end of Ollama's own media types; `config` or `other` for the rest.
    pub(super) kind: String,
    /// The length that the manifest claims.
    pub(super) size: Option<u64>,
}

#[derive(Deserialize)]
struct Wire {
    #[serde(rename = "mediaType", default)]
    media_type: String,
    config: Option<WireLayer>,
    layers: Option<Vec<WireLayer>>,
    manifests: Option<Vec<WireLayer>>,
}

#[derive(Deserialize)]
struct WireLayer {
    #[serde(rename = "mediaType", default)]
    media_type: String,
    #[serde(default)]
    digest: String,
    size: Option<i64>,
}

impl WireLayer {
    /// The digits of its digest; `None` when it has none at all.
    fn digits(&self) -> Result<Option<String>, String> {
        if self.digest.is_empty() {
            return Ok(None);
        }
        digest(&self.digest).map(|hex| Some(hex.to_owned())).ok_or_else(|| "it names no proper digest".to_owned())
    }

    fn layer(&self, kind: &str) -> Layer {
        Layer { kind: kind.to_owned(), size: self.size.and_then(|size| u64::try_from(size).ok()).filter(|n| *n > 0) }
    }
}

impl Manifest {
    /// Reads a manifest. Layers of unknown kinds are references like any other.
    ///
    /// # Errors
    /// A line that says what is wrong: its references are then unknown, not none.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let wire: Wire = serde_json::from_slice(bytes).map_err(|_| "it is not the JSON of a manifest".to_owned())?;
        if wire.media_type == LIST {
            let mut children = Vec::new();
            for child in wire.manifests.iter().flatten() {
                let Some(hex) = child.digits()? else { return Err("it lists a manifest without digest".to_owned()) };
                children.push(hex);
            }
            return Ok(Self::List(children));
        }
        let mut layers = Layers::default();
        for layer in wire.layers.iter().flatten() {
            let Some(hex) = layer.digits()? else { continue };
            let kind = layer.media_type.strip_prefix(OLLAMA_LAYER).filter(|kind| is_word(kind)).unwrap_or("other");
            if matches!(kind, "model" | "tensor") {
                layers.weights.push(hex.clone());
            }
            layers.blobs.entry(hex).or_insert_with(|| layer.layer(kind));
        }
        if let Some(config) = wire.config
            && let Some(hex) = config.digits()?
        {
            layers.blobs.entry(hex.clone()).or_insert_with(|| config.layer("config"));
            layers.config = Some(hex);
        }
        if layers.blobs.is_empty() {
            return Err("it names nothing".to_owned());
        }
        Ok(Self::Plain(layers))
    }
}

fn is_word(text: &str) -> bool {
    (1..=20).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_lowercase() || b == b'-')
}

/// What the config blob says, as far as it is shown.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub(super) struct Config {
    /// Architecture.
    pub(super) model_family: Option<String>,
    /// Quantization.
    pub(super) file_type: Option<String>,
    /// `gguf` or `safetensors`.
    pub(super) model_format: Option<String>,
    /// Set for a stub whose weights are elsewhere.
    pub(super) remote_host: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(c: char) -> String {
        c.to_string().repeat(64)
    }

    #[test]
    fn every_layer_is_a_reference() {
        let json = format!(
            r#"{{"schemaVersion":2,"config":{{"digest":"sha256:{}"}},"layers":[{{"mediaType":"{OLLAMA_LAYER}model","digest":"sha256:{}","size":7}},{{"mediaType":"new/kind","digest":"sha256-{}"}}]}}"#,
            hex('a'),
            hex('b'),
            hex('c')
        );
        let Ok(Manifest::Plain(layers)) = Manifest::parse(json.as_bytes()) else { panic!("a plain manifest") };
        let kinds: Vec<_> = layers.blobs.values().map(|layer| (layer.kind.as_str(), layer.size)).collect();
        assert_eq!(kinds, [("config", None), ("model", Some(7)), ("other", None)]);
        assert_eq!((layers.config, layers.weights), (Some(hex('a')), vec![hex('b')]));
    }

    #[test]
    fn a_list_names_children() {
        let json = format!(r#"{{"mediaType":"{LIST}","manifests":[{{"digest":"sha256:{}"}}]}}"#, hex('d'));
        assert_eq!(Manifest::parse(json.as_bytes()), Ok(Manifest::List(vec![hex('d')])));
    }

    #[test]
    fn damage_is_unknown_not_empty() {
        for bytes in [&b""[..], b"{", b"[]", b"{}", br#"{"layers":[{"digest":"sha256:../../x"}]}"#, b"\0\0"] {
            assert!(Manifest::parse(bytes).is_err(), "{bytes:?}");
        }
    }
}
