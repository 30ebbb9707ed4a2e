//! Deletion as data: what goes, what stays and why. Made in `store/`, run only by `disk/`.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Holder, ModelId, text};

/// A file as the kernel knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Inode {
    /// `st_dev`.
    pub device: u64,
    /// `st_ino`.
    pub inode: u64,
}

/// What a step does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Operation {
    /// Remove a regular file, a symbolic link (never its target) or another non-folder.
    RemoveFile,
    /// Remove a folder that the steps before have emptied; a folder that is not empty stays, which is no failure.
    RemoveFolder,
    /// Remove a payload of the Hugging Face cache's shared blob store, unless a repository still links to it. Runs under
    /// `<name>.lock`; a payload that is still linked stays, which is no failure, and its `.refs` is rewritten to name only those
    /// that do.
    RemoveShared,
    /// Remove `<payload>.refs` of that store, under the lock of its payload, unless the payload is there again, which is no
    /// failure.
    RemoveSharedRefs,
}

impl Operation {
    /// Whether it removes a name that is no folder.
    #[must_use]
    pub fn is_file(self) -> bool {
        self != Self::RemoveFolder
    }
}

/// What tells a file from another one that the kernel gave the same number later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    /// `st_size`.
    pub size_bytes: u64,
    /// `st_mtime`; `None` for a time that no calendar has.
    pub modified: Option<Timestamp>,
}

/// One removal. It names its target so exactly that running it later cannot hit anything else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// What to do.
    pub operation: Operation,
    /// Root of the store; the way from here to the target follows no link.
    #[serde(with = "text::escaped")]
    pub root: PathBuf,
    /// Folder that holds the target, relative to `root`; empty for `root` itself.
    #[serde(with = "text::escaped")]
    pub folder: PathBuf,
    /// Identity that the folder must still have.
    pub parent: Inode,
    /// Name of the target in the folder.
    #[serde(with = "text::escaped")]
    pub name: OsString,
    /// Identity that the target must still have; of the link itself if it is a link.
    pub target: Inode,
    /// What a regular file must still look like; `None` where nobody looked, and for everything else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stamp: Option<Stamp>,
    /// `st_blocks * 512` that this step frees: of a regular file whose last link it removes, else 0.
    pub bytes: u64,
    /// Locks of the programs that write the target, relative to `root`: each that is there is held while the target goes. None
    /// is created, and a path that is not there is no lock.
    #[serde(default, skip_serializing_if = "Vec::is_empty", with = "paths")]
    pub locks: Vec<PathBuf>,
    /// Steps (by index, all earlier) that must have succeeded: names go before the payload that they name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub requires: Vec<usize>,
}

impl Step {
    /// The absolute path of the target.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.root.join(&self.folder).join(&self.name)
    }

    /// Whether it removes one of the small files by which download tools keep account of a model: locks, refs, records, marks, each
    /// in the folder that its tool has for them. What lies in any other dot-folder may be somebody's work, and no file of weight
    /// is bookkeeping wherever it lies.
    #[must_use]
    pub fn is_bookkeeping(&self) -> bool {
        self.operation.is_file()
            && self.bytes <= LIGHT
            && self.stamp.is_none_or(|stamp| stamp.size_bytes <= LIGHT)
            && keeps_account(&self.folder)
    }
}

/// Whether a folder, relative to the root of its store, is one in which download tools keep account.
fn keeps_account(folder: &Path) -> bool {
    let parts: Vec<&[u8]> = folder.iter().map(OsStr::as_encoded_bytes).collect();
    let of_cache = match parts.as_slice() {
        [b".locks", ..] => true,
        [repository, b"refs" | b"trees" | b".no_exist", ..] => {
            [&b"models--"[..], b"datasets--", b"spaces--"].iter().any(|kind| repository.starts_with(kind))
        }
        _ => false,
    };
    let of_folder = |pair: &[&[u8]]| {
        matches!(pair, [b".cache", b"huggingface" | b"llorch-models"] | [b".huggingface", b"download"])
    };
    of_cache || parts.windows(2).any(of_folder)
}

/// Most bytes of a file that is told only as one of many.
const LIGHT: u64 = 1 << 20;
/// As few as this are told one by one.
const FEW: usize = 2;

/// A name that a running server deletes, with what it alone needs, so that the server knows of it. Where it does not answer by
/// then, the steps do the same on the files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ask {
    /// Base address of the server.
    pub server: String,
    /// The model as the server names it.
    pub name: String,
    /// Steps (by index) that remove the name: when they have nothing to remove any more, the server has done it.
    pub names: Vec<usize>,
    /// Every step that the server takes over, those included.
    pub steps: Vec<usize>,
}

/// Something that stays although it lies with what goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// The file or folder.
    #[serde(with = "text::escaped")]
    pub path: PathBuf,
    /// Why: "also used by …".
    pub because: String,
}

/// Something that cannot go, found before anyone confirms.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blocked {
    /// The file or folder.
    #[serde(with = "text::escaped")]
    pub path: PathBuf,
    /// What forbids it, and what would help.
    pub because: String,
}

/// Another row that would lose something; deleting then needs `--force`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Broken {
    /// The row.
    #[serde(flatten)]
    pub model: ModelId,
    /// Its path that links to something that goes.
    #[serde(with = "text::escaped")]
    pub path: PathBuf,
}

/// What a deletion will do. Nothing outside `steps` is ever removed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The rows that were asked for.
    pub models: Vec<ModelId>,
    /// Removals in the order in which they run.
    pub steps: Vec<Step>,
    /// What a server is asked to delete before the steps run.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub asks: Vec<Ask>,
    /// What stays, with the reason.
    pub keep: Vec<Kept>,
    /// What cannot go. A plan with blocked paths runs only for the rest, and only with `--force`.
    pub blocked: Vec<Blocked>,
    /// Other rows that would break.
    pub breaks: Vec<Broken>,
    /// What a person should know besides, a line each: that what was named is no model.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// Processes that hold something that goes: its room returns when they end.
    #[serde(default)]
    pub in_use_by: Vec<Holder>,
    /// Processes that could not be looked into: they may hold it too.
    #[serde(default)]
    pub unreadable_processes: usize,
    /// `st_blocks * 512` over the regular files whose last link goes, each inode once.
    pub expected_bytes: u64,
}

impl Plan {
    /// The removals of bookkeeping that are told as a sum, for they would hide what is worth reading; none where they are few,
    /// or nothing else goes.
    #[must_use]
    pub fn bookkeeping(&self) -> Vec<&Step> {
        let steps: Vec<&Step> = self.steps.iter().filter(|step| step.is_bookkeeping()).collect();
        let files = self.steps.iter().filter(|step| step.operation.is_file()).count();
        if steps.len() <= FEW || steps.len() == files { Vec::new() } else { steps }
    }

    /// Whether who agreed to this plan agreed to `again`, made anew from the same targets: the same goes, stays, breaks and is
    /// forbidden, and no other process holds it.
    #[must_use]
    pub fn covers(&self, again: &Self) -> bool {
        let held = |holder: &Holder| self.in_use_by.iter().any(|known| known.pid == holder.pid);
        self.models == again.models
            && self.steps == again.steps
            && self.asks == again.asks
            && self.keep == again.keep
            && self.blocked == again.blocked
            && self.breaks == again.breaks
            && self.notes == again.notes
            && self.expected_bytes == again.expected_bytes
            && again.in_use_by.iter().all(held)
    }
}

/// A step that did not succeed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The target.
    #[serde(with = "text::escaped")]
    pub path: PathBuf,
    /// The cause.
    pub error: String,
}

/// What running a plan did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeletionReport {
    /// Removed, in order.
    #[serde(with = "paths")]
    pub removed: Vec<PathBuf>,
    /// Already gone when their turn came: another program, or another run of the same plan, has removed them. No failure.
    #[serde(default, skip_serializing_if = "Vec::is_empty", with = "paths")]
    pub gone: Vec<PathBuf>,
    /// Not removed, with the cause.
    pub failed: Vec<Failure>,
    /// `st_blocks * 512` of each inode whose last link was removed, measured at removal.
    pub freed_bytes: u64,
    /// Those of them that a process still keeps open; their room returns when it ends.
    pub held_bytes: u64,
    /// What a person should know besides, a line each: that nothing could be noted in the log.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

impl DeletionReport {
    /// Takes over what another part of the same deletion did after this one.
    pub fn absorb(&mut self, rest: Self) {
        let Self { removed, gone, failed, freed_bytes, held_bytes, notes } = rest;
        self.removed.extend(removed);
        self.gone.extend(gone);
        self.failed.extend(failed);
        self.freed_bytes += freed_bytes;
        self.held_bytes += held_bytes;
        self.notes.extend(notes);
    }
}

mod paths {
    use std::path::PathBuf;

    use serde::{Deserialize, Deserializer, Serializer};

    use super::text;

    pub(super) fn serialize<S: Serializer>(paths: &[PathBuf], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(paths.iter().map(|path| text::escape(path.as_os_str())))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<PathBuf>, D::Error> {
        Ok(Vec::<String>::deserialize(deserializer)?.iter().map(|path| PathBuf::from(text::unescape(path))).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(folder: &str, name: &str, bytes: u64) -> Step {
        Step {
            operation: Operation::RemoveFile,
            root: "/store".into(),
            folder: folder.into(),
            parent: Inode { device: 1, inode: 1 },
            name: name.into(),
            target: Inode { device: 1, inode: 2 },
            stamp: None,
            bytes,
            locks: Vec::new(),
            requires: Vec::new(),
        }
    }

    #[test]
    fn a_report_forgets_nothing_of_its_second_part() {
        let part = |name: &str, bytes| DeletionReport {
            removed: vec![format!("/removed-{name}").into()],
            gone: vec![format!("/gone-{name}").into()],
            failed: vec![Failure { path: format!("/failed-{name}").into(), error: "kept".to_owned() }],
            freed_bytes: bytes,
            held_bytes: bytes / 2,
            notes: vec![format!("note {name}")],
        };
        let mut report = part("a", 20);
        report.absorb(part("b", 2));
        let paths = |kind: &str| ["a", "b"].map(|name| PathBuf::from(format!("/{kind}-{name}")));
        assert_eq!(report.removed, paths("removed"));
        assert_eq!(report.gone, paths("gone"));
        assert_eq!(report.failed.into_iter().map(|failure| failure.path).collect::<Vec<_>>(), paths("failed"));
        assert_eq!((report.freed_bytes, report.held_bytes), (22, 11));
        assert_eq!(report.notes, ["note a", "note b"]);
    }

    #[test]
    fn bookkeeping_is_small_and_known_by_its_place() {
        for (folder, name) in [
            ("m/.cache/huggingface/download", "a.gguf.metadata"),
            ("m/.cache/llorch-models", "source.json"),
            (".locks/models--o--n", "e1.lock"),
            ("models--o--n/refs", "main"),
            ("models--o--n/trees", "c1.json"),
            ("datasets--o--n/.no_exist/c1", "adapter_config.json"),
            ("m/.huggingface/download", "a.gguf.lock"),
        ] {
            assert!(step(folder, name, 4096).is_bookkeeping(), "{folder}/{name}");
        }
        for (folder, name, bytes) in [
            ("m", "a.gguf", 4096),
            ("m/refs", "a.gguf", 4096),
            ("org--m/refs", "thesis.bib", 4096),
            ("m/.notes", "thesis.tex", 4096),
            ("m/.git", "config", 4096),
            ("m/.cache", "x", 4096),
            ("m", "poetry.lock", 4096),
            ("m", "a.metadata", 4096),
            ("models--o--n/snapshots/c1", "config.json", 0),
            ("manifests/registry.ollama.ai/library/m", "latest", 4096),
            ("m/.cache/huggingface/download", "a.gguf.1234.incomplete", 5 << 30),
        ] {
            assert!(!step(folder, name, bytes).is_bookkeeping(), "{folder}/{name}");
        }
    }

    #[test]
    fn few_are_told_one_by_one_and_so_is_what_goes_alone() {
        let marks = |count| vec![step("m/.cache/huggingface", "x", 4096); count];
        let plan = |steps| Plan { steps, ..Plan::default() };
        assert!(plan([marks(2), vec![step("m", "a.gguf", 1)]].concat()).bookkeeping().is_empty());
        assert_eq!(plan([marks(3), vec![step("m", "a.gguf", 1)]].concat()).bookkeeping().len(), 3);
        assert!(plan(marks(5)).bookkeeping().is_empty());
    }
}
