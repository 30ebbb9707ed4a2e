//! Stores of other programs, built file by file.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use rbee_hive::format::gguf::{TensorType, Writer};
use sha2::{Digest as _, Sha256};

/// A whole GGUF file of `rows` rows of 256 weights of the type that its number tells; the seed tells files apart.
pub fn small_gguf(file_type: u32, rows: u64, seed: u64) -> Vec<u8> {
    let kind = match file_type {
        1 => TensorType::F16,
        2 => TensorType::Q4_0,
        3 => TensorType::Q4_1,
        7 => TensorType::Q8_0,
        _ => TensorType::Q4_K,
    };
    let mut bytes = Vec::new();
    Writer::new("llama")
        .key("general.file_type", file_type)
        .key("llama.context_length", 2048u32)
        .tensor("token_embd.weight", &[256, rows], kind)
        .write_to(&mut bytes, seed)
        .unwrap();
    bytes
}

pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

pub fn put(path: impl AsRef<Path>, bytes: &[u8]) -> PathBuf {
    let path = path.as_ref();
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
    path.to_owned()
}

/// How a name of the newer tree is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Symlink,
    HardLink,
    Copy,
}

/// Ollama's models folder.
#[derive(Clone, Debug)]
pub struct Ollama(pub PathBuf);

/// A layer: the end of its media type and its bytes.
pub type Layer<'a> = (&'a str, &'a [u8]);

impl Ollama {
    pub fn blob_path(&self, hex: &str) -> PathBuf {
        self.0.join("blobs").join(format!("sha256-{hex}"))
    }

    /// Gives the digits.
    pub fn blob(&self, bytes: &[u8]) -> String {
        let hex = sha256(bytes);
        if !self.blob_path(&hex).exists() {
            put(self.blob_path(&hex), bytes);
        }
        hex
    }

    pub fn config(quantization: &str) -> Vec<u8> {
        format!(r#"{{"model_format":"gguf","model_family":"llama","model_type":"8.0B","file_type":"{quantization}"}}"#)
            .into_bytes()
    }

    /// A plain manifest; its blobs are written.
    pub fn manifest(&self, config: &[u8], layers: &[Layer<'_>]) -> Vec<u8> {
        self.manifest_with(config, layers, &[])
    }

    /// A manifest with more layers that are there already, by their digits.
    pub fn manifest_with(&self, config: &[u8], layers: &[Layer<'_>], more: &[String]) -> Vec<u8> {
        let layer = |kind: &str, bytes: &[u8]| {
            let hex = self.blob(bytes);
            let size = bytes.len();
            format!(r#"{{"mediaType":"application/vnd.ollama.image.{kind}","digest":"sha256:{hex}","size":{size}}}"#)
        };
        let mut all: Vec<String> = layers.iter().map(|(kind, bytes)| layer(kind, bytes)).collect();
        all.extend(more.iter().map(|hex| format!(r#"{{"mediaType":"x/kept","digest":"sha256:{hex}"}}"#)));
        format!(
            r#"{{"schemaVersion":2,"mediaType":"application/vnd.docker.distribution.manifest.v2+json","config":{{"mediaType":"application/vnd.docker.container.image.v1+json","digest":"sha256:{}","size":{}}},"layers":[{}]}}"#,
            self.blob(config),
            config.len(),
            all.join(",")
        )
        .into_bytes()
    }

    pub fn list(children: &[String]) -> Vec<u8> {
        let children: Vec<String> = children
            .iter()
            .map(|hex| format!(r#"{{"digest":"sha256:{hex}","runner":"ggml","format":"gguf"}}"#))
            .collect();
        format!(
            r#"{{"schemaVersion":2,"mediaType":"application/vnd.ollama.manifest.list.v2+json","manifests":[{}]}}"#,
            children.join(",")
        )
        .into_bytes()
    }

    /// A name in the older tree: `library/llama3/8b` or with a host in front.
    pub fn tag(&self, name: &str, manifest: &[u8]) -> PathBuf {
        put(self.0.join("manifests").join(full(name, "registry.ollama.ai")), manifest)
    }

    /// A name in the newer tree.
    pub fn tag_v2(&self, name: &str, manifest: &[u8], form: Form) -> PathBuf {
        let hex = self.blob(manifest);
        let path = self.0.join("manifests-v2").join(full(name, "ollama.com"));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        match form {
            Form::Symlink => symlink(format!("../../../../blobs/sha256-{hex}"), &path).unwrap(),
            Form::HardLink => fs::hard_link(self.blob_path(&hex), &path).unwrap(),
            Form::Copy => fs::write(&path, manifest).unwrap(),
        }
        path
    }
}

fn full(name: &str, host: &str) -> String {
    match name.split('/').count() {
        3 => format!("{host}/{name}"),
        _ => name.to_owned(),
    }
}
