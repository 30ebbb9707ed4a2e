//! Names and links of the Hugging Face cache, as pure functions.
//!
//! Source of the format: `huggingface_hub` (1.9 to 2.4), whose cache llama.cpp, vLLM and transformers share.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use crate::model::{ModelKind, text};
use crate::store::flat::staging::StagingName;

/// Locks of blobs, and what is unfinished.
pub(super) const LOCKS: &str = ".locks";
/// Top-level folder of the payloads that several repositories share (since 1.32).
pub(super) const SHARED: &str = "blobs";
/// Marks a shared blob store; its content is the layout version.
pub(super) const SHARED_MARKER: &str = ".huggingface-shared-blobs";
/// What an id begins with when it is no model's.
const PREFIXES: [&str; 4] = ["models", "datasets", "spaces", "kernels"];
/// Most folders that lie inside each other in a snapshot.
pub(super) const MAX_DEPTH: usize = 32;

/// Kind and id of a repository folder: `models--org--name` is the model `org/name`, `datasets--x` is `datasets/x`.
pub(super) fn repository(folder: &OsStr) -> Option<(ModelKind, String)> {
    let name = text::escape(folder);
    let (kind, rest) = name.split_once("--")?;
    let rest = (!rest.is_empty()).then(|| rest.replace("--", "/"))?;
    match kind {
        // Two folders never share an id, whatever their names.
        "models" if rest.split_once('/').is_some_and(|(first, _)| PREFIXES.contains(&first)) => {
            Some((ModelKind::Model, format!("models/{rest}")))
        }
        "models" => Some((ModelKind::Model, rest)),
        "datasets" => Some((ModelKind::Dataset, format!("datasets/{rest}"))),
        "spaces" => Some((ModelKind::Space, format!("spaces/{rest}"))),
        "kernels" => Some((ModelKind::Other, format!("kernels/{rest}"))),
        _ => None,
    }
}

/// The folder of an id that [`repository`] gave.
pub(super) fn folder(id: &str) -> OsString {
    let (kind, rest) = match id.split_once('/') {
        Some((kind, rest)) if PREFIXES.contains(&kind) => (kind, rest),
        _ => ("models", id),
    };
    text::unescape(&format!("{kind}--{}", rest.replace('/', "--")))
}

/// Where a link in a repository leads after one hop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// To `blobs/<name>` of the same repository.
    Blob(OsString),
    /// To a payload of the shared store: the two digits and the hash.
    Shared(OsString, OsString),
    /// Anywhere else, as it was written.
    Foreign(PathBuf),
}

/// Resolves the text of a link that lies in `folder` of the repository (relative to it), without touching the disk: the folders on
/// the way are real ones, so `..` means what it says. `repository` is the absolute path, for links that were written absolute.
pub(super) fn resolve(link: &OsStr, folder: &Path, repository: &Path) -> Target {
    let foreign = || Target::Foreign(PathBuf::from(link));
    let written = Path::new(link);
    let relative = if written.is_absolute() {
        match written.strip_prefix(repository) {
            Ok(inside) => inside.to_path_buf(),
            Err(_) => return foreign(),
        }
    } else {
        folder.join(written)
    };
    // Up to two levels above the repository are understood: the cache itself and nothing beyond.
    let mut parts: Vec<&OsStr> = Vec::new();
    let mut above = 0;
    for part in relative.components() {
        match part {
            Component::Normal(name) => parts.push(name),
            Component::CurDir => {}
            Component::ParentDir if parts.pop().is_some() => {}
            Component::ParentDir => above += 1,
            Component::RootDir | Component::Prefix(_) => return foreign(),
        }
    }
    match (above, &parts[..]) {
        (0, [blobs, name]) if *blobs == "blobs" => Target::Blob((*name).to_owned()),
        (1, [blobs, digits, hash]) if *blobs == SHARED && is_shared_payload(digits, hash) => {
            Target::Shared((*digits).to_owned(), (*hash).to_owned())
        }
        _ => foreign(),
    }
}

/// Whether `blobs/<digits>/<hash>` names a payload of the shared store.
pub(super) fn is_shared_payload(digits: &OsStr, hash: &OsStr) -> bool {
    let hash = hash.as_bytes();
    hash.len() == 64
        && hash.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
        && hash.starts_with(digits.as_bytes())
        && digits.len() == 2
}

/// What a name in `blobs/` says about its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BlobName<'a> {
    /// A payload, named by its etag.
    Payload,
    /// An unfinished download of that etag.
    Partial(&'a [u8]),
    /// A lock, a temporary name, something a crash left.
    Leftover,
}

/// Reads a name in `blobs/` of a repository, in the forms of every client that writes there.
pub(super) fn blob_name(name: &OsStr) -> BlobName<'_> {
    let bytes = name.as_bytes();
    match StagingName::parse(name) {
        Some(staged) if staged.journal => return BlobName::Leftover,
        Some(staged) => return BlobName::Partial(&bytes[..staged.target.len()]),
        None => {}
    }
    for suffix in [".downloadInProgress", ".sync.part", ".chunked.part", ".part"] {
        if let Some(etag) = bytes.strip_suffix(suffix.as_bytes()) {
            return BlobName::Partial(etag);
        }
    }
    if let Some(rest) = bytes.strip_suffix(b".incomplete") {
        // Since 1.18 every run adds eight digits of its own.
        let etag = match rest.iter().rposition(|b| *b == b'.') {
            Some(dot) if rest.len() - dot == 9 && rest[dot + 1..].iter().all(u8::is_ascii_hexdigit) => &rest[..dot],
            _ => rest,
        };
        return BlobName::Partial(etag);
    }
    let leftover = bytes.starts_with(b".")
        || bytes.starts_with(b"tmp")
        || [".lock", ".state", ".state.json", ".tmp", ".new", ".old"]
            .iter()
            .any(|suffix| bytes.ends_with(suffix.as_bytes()));
    if leftover { BlobName::Leftover } else { BlobName::Payload }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn folders_and_ids_belong_together() {
        let cases = [
            ("models--org--name", ModelKind::Model, "org/name"),
            ("models--gpt2", ModelKind::Model, "gpt2"),
            ("datasets--org--d", ModelKind::Dataset, "datasets/org/d"),
            ("spaces--org--s", ModelKind::Space, "spaces/org/s"),
            ("datasets--x", ModelKind::Dataset, "datasets/x"),
            ("models--datasets--x", ModelKind::Model, "models/datasets/x"),
            ("models--models--x", ModelKind::Model, "models/models/x"),
            ("models--a---b", ModelKind::Model, "a/-b"),
            ("models--a----b", ModelKind::Model, "a//b"),
        ];
        for (name, kind, id) in cases {
            assert_eq!(repository(OsStr::new(name)), Some((kind, id.to_owned())), "{name}");
            assert_eq!(folder(id), name);
        }
        for name in ["blobs", ".locks", "version.txt", "models--", "models", "other--x"] {
            assert_eq!(repository(OsStr::new(name)), None, "{name}");
        }
    }

    #[test]
    fn links_are_followed_one_hop() {
        let hash = format!("ab{}", "0".repeat(62));
        let at =
            |folder: &str, link: &str| resolve(OsStr::new(link), Path::new(folder), Path::new("/hub/models--o--n"));
        assert_eq!(at("snapshots/c", "../../blobs/e"), Target::Blob("e".into()));
        assert_eq!(at("snapshots/c/sub", "../../../blobs/e"), Target::Blob("e".into()));
        assert_eq!(at("snapshots/c", "/hub/models--o--n/blobs/e"), Target::Blob("e".into()));
        assert_eq!(at("blobs", &format!("../../blobs/ab/{hash}")), Target::Shared("ab".into(), hash.clone().into()));
        for (folder, link) in [
            ("snapshots/c", "../../../models--o--other/blobs/e"),
            ("snapshots/c", "../../blobs"),
            ("snapshots/c", "../../blobs/sub/e"),
            ("snapshots/c", "/etc/passwd"),
            ("snapshots/c", "self"),
            ("blobs", &format!("../../../blobs/ab/{hash}")),
            ("blobs", &format!("../../blobs/cd/{hash}")),
            ("blobs", "../../blobs/ab/short"),
        ] {
            assert!(matches!(at(folder, link), Target::Foreign(_)), "{folder} {link}");
        }
    }

    #[test]
    fn every_clients_partials_are_known() {
        let etag = "a".repeat(64);
        let journal = format!("{etag}.aaaaaaaaaaaaaaaa.llorch.json");
        assert_eq!(blob_name(OsStr::new(&journal)), BlobName::Leftover);
        for suffix in [
            ".aaaaaaaaaaaaaaaa.llorch",
            ".incomplete",
            ".0123abcd.incomplete",
            ".part",
            ".sync.part",
            ".downloadInProgress",
            ".chunked.part",
        ] {
            let name = OsString::from(format!("{etag}{suffix}"));
            assert_eq!(blob_name(&name), BlobName::Partial(etag.as_bytes()), "{suffix}");
        }
        assert_eq!(blob_name(OsStr::new(&etag)), BlobName::Payload);
        assert_eq!(blob_name(OsStr::new("custom-etag")), BlobName::Payload);
        for name in [".x.12345678.shared", "tmp_uuid", "x.lock"] {
            assert_eq!(blob_name(OsStr::new(name)), BlobName::Leftover, "{name}");
        }
    }

    proptest! {
        #[test]
        fn a_link_never_resolves_outside_what_it_names(link in "[./a-z0-9]{0,40}", folder in "snapshots/c(/[a-z])?") {
            if let Target::Blob(name) = resolve(OsStr::new(&link), Path::new(&folder), Path::new("/hub/r")) {
                prop_assert!(!name.as_bytes().contains(&b'/') && name != ".." && name != ".");
            }
        }
    }
}
