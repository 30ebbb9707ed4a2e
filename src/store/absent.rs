//! Tensors that an index names for files whose headers lack them. Only sums of names are kept of either, so that where these
//! differ the index and the headers are read once more: the index once for all of its files, and nothing of what is known.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::headers::{Header, Headers};
use super::memory::Key;
use crate::disk::folder::Status;
use crate::disk::safe;
use crate::format::Metadata;
use crate::format::safetensors::Index;
use crate::model::Format;

/// Bytes of headers that are read once more of one set; those of the largest models have a few tens of megabytes together.
const MOST_BYTES: u64 = 256 << 20;
/// Tag of what was found out about a file and its index together. See [`Key::tagged`].
const COMPARED: u8 = 0x80;

/// What a file has of the tensors that an index names for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Finding {
    /// All of them.
    All,
    /// Not this one, which is made printable.
    Lacks(String),
    /// More would have to be read than is read of any set.
    TooMuch,
    /// It cannot be read, or nobody waits for it.
    Unknown,
}

/// A file that does not hold exactly what an index names for it.
pub(super) struct Suspect<'a> {
    /// What the index calls it.
    pub(super) name: &'a str,
    /// Where it lies, relative to the root.
    pub(super) location: PathBuf,
    pub(super) status: Status,
}

/// Finds out what each of `suspects`, called as the index calls them, has of what the index names for it.
pub(super) fn find(
    index: &Path,
    suspects: &[(&str, &Path)],
    open: &mut dyn FnMut(&Path) -> Option<File>,
    cancel: &CancellationToken,
) -> Vec<Finding> {
    let names: Vec<&str> = suspects.iter().map(|(name, _)| *name).collect();
    let named = open(index).filter(|_| !names.is_empty()).and_then(|file| Index::tensors_named(file, &names).ok());
    let Some(named) = named else { return vec![Finding::Unknown; suspects.len()] };
    let mut left = MOST_BYTES;
    let mut one = |tensors: &[Box<str>], file: &Path| {
        if cancel.is_cancelled() {
            return None;
        }
        let file = open(file)?;
        let length = file.metadata().ok()?.len();
        Some(match Index::absent(tensors, file, length, &mut left).ok()? {
            None => Finding::TooMuch,
            Some(None) => Finding::All,
            Some(Some(tensor)) => Finding::Lacks(tensor),
        })
    };
    suspects.iter().zip(&named).map(|((_, file), named)| one(named, file).unwrap_or(Finding::Unknown)).collect()
}

/// The same, where all lie below `root`, and what `headers` remember of it is not read.
pub(super) fn find_remembered(
    headers: &Headers,
    root: &Path,
    (index, status): (&Path, &Status),
    suspects: &[Suspect<'_>],
) -> Vec<Finding> {
    let index_key = Key::of(status);
    let keys: Vec<Key> = suspects
        .iter()
        .map(|suspect| Key::of(&suspect.status).tagged(COMPARED).together_with(&index_key, suspect.name))
        .collect();
    let mut findings: Vec<Option<Finding>> = keys.iter().map(|key| headers.known(key).map(known)).collect();
    let open_ones = || suspects.iter().zip(&keys).zip(0..);
    let unknown: Vec<_> = open_ones().filter(|(_, at)| findings.get(*at).is_some_and(Option::is_none)).collect();
    // A first look does not wait for it.
    if unknown.is_empty() || !headers.may_read() {
        return findings.into_iter().map(|finding| finding.unwrap_or(Finding::Unknown)).collect();
    }
    let files: Vec<(&str, &Path)> =
        unknown.iter().map(|((suspect, _), _)| (suspect.name, suspect.location.as_path())).collect();
    let found = find(index, &files, &mut |path| safe::open_below(root, path).ok(), headers.cancel());
    for (((_, key), at), finding) in unknown.into_iter().zip(found) {
        match &finding {
            Finding::All => headers.remember(*key, Ok(Arc::new(Metadata::unknown(Format::Safetensors)))),
            Finding::Lacks(tensor) => headers.remember(*key, Err(tensor.as_str().into())),
            Finding::TooMuch | Finding::Unknown => {}
        }
        if let Some(place) = findings.get_mut(at) {
            *place = Some(finding);
        }
    }
    findings.into_iter().map(|finding| finding.unwrap_or(Finding::Unknown)).collect()
}

/// What is remembered is either nothing, or what is wrong.
fn known(header: Header) -> Finding {
    match header {
        Ok(_) => Finding::All,
        Err(tensor) => Finding::Lacks(tensor.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::disk::folder::Folder;

    fn shard(tensors: &[String]) -> Vec<u8> {
        let entry = |(at, name): (usize, &String)| {
            format!(r#""{name}":{{"dtype":"F16","shape":[1],"data_offsets":[{},{}]}}"#, at * 2, at * 2 + 2)
        };
        let entries: Vec<String> = tensors.iter().enumerate().map(entry).collect();
        let header = format!("{{{}}}", entries.join(","));
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.resize(bytes.len() + 2 * tensors.len(), 1);
        bytes
    }

    /// 20 files with one tensor that the index does not name; the last one lacks one that it does.
    fn set(root: &Path) -> Vec<String> {
        let names: Vec<String> = (0..20).map(|at| format!("s{at}.safetensors")).collect();
        let mut map = Vec::new();
        for (at, name) in names.iter().enumerate() {
            map.push(format!(r#""t{at}":"{name}""#));
            let own = if at == 19 { "other".to_owned() } else { format!("t{at}") };
            std::fs::write(root.join(name), shard(&[own, format!("extra{at}")])).unwrap();
        }
        let index = format!(r#"{{"weight_map":{{{}}}}}"#, map.join(","));
        std::fs::write(root.join("index"), index).unwrap();
        names
    }

    #[test]
    fn the_index_is_read_once_for_all_of_its_files() {
        let scratch = tempfile::tempdir().unwrap();
        let names = set(scratch.path());
        let suspects: Vec<(&str, &Path)> = names.iter().map(|name| (name.as_str(), Path::new(name))).collect();
        let mut opened = Vec::new();
        let cancel = CancellationToken::new();
        let mut open = |path: &Path| {
            opened.push(path.to_owned());
            if opened.len() == 11 {
                cancel.cancel();
            }
            File::open(scratch.path().join(path)).ok()
        };
        let found = find(Path::new("index"), &suspects, &mut open, &CancellationToken::new());
        assert_eq!(found.iter().filter(|finding| **finding == Finding::All).count(), 19);
        assert_eq!(found.last(), Some(&Finding::Lacks("t19".to_owned())));
        assert_eq!(opened.len(), 21);
        assert_eq!(opened.iter().filter(|path| *path == Path::new("index")).count(), 1);
        // Nothing is opened for nothing, and nothing more once nobody waits for it.
        opened.clear();
        let mut open = |path: &Path| {
            opened.push(path.to_owned());
            File::open(scratch.path().join(path)).ok()
        };
        assert_eq!(find(Path::new("index"), &suspects, &mut open, &cancel), vec![Finding::Unknown; 20]);
        assert_eq!(opened.len(), 1);
    }

    #[test]
    fn what_was_compared_is_not_compared_again() {
        let scratch = tempfile::tempdir().unwrap();
        let (root, file) = (scratch.path(), scratch.path().join("cache/headers"));
        let names = set(root);
        let folder = Folder::open(root).unwrap();
        let suspects: Vec<Suspect<'_>> = names
            .iter()
            .map(|name| Suspect { name, location: name.into(), status: folder.status(name.as_ref()).unwrap() })
            .collect();
        let status = folder.status("index".as_ref()).unwrap();
        let look = |headers: &Headers| find_remembered(headers, root, (Path::new("index"), &status), &suspects);
        let missed = Arc::new(AtomicBool::new(false));
        // A first look reads neither, and says that there is more.
        assert_eq!(look(&Headers::default().at_a_glance(&missed)), vec![Finding::Unknown; 20]);
        assert!(missed.load(Ordering::Relaxed));
        let headers = Headers::remembered_in(file.clone());
        let cancelled = CancellationToken::new();
        cancelled.cancel();
        assert_eq!(look(&headers.until(&cancelled)), vec![Finding::Unknown; 20]);
        let found = look(&headers);
        assert_eq!(found.last(), Some(&Finding::Lacks("t19".to_owned())));
        assert_eq!(found.first(), Some(&Finding::All));
        headers.keep();
        // Gone, and still known: nothing is opened. That goes for a first look, too.
        names.iter().for_each(|name| std::fs::remove_file(root.join(name)).unwrap());
        std::fs::remove_file(root.join("index")).unwrap();
        missed.store(false, Ordering::Relaxed);
        let headers = Headers::remembered_in(file);
        assert_eq!(look(&headers.at_a_glance(&missed)), found);
        assert!(!missed.load(Ordering::Relaxed));
        // Under another name, or with another index, it is another comparison.
        let other = Suspect { name: "s1.safetensors", location: "gone".into(), status: suspects[0].status };
        assert_eq!(find_remembered(&headers, root, (Path::new("index"), &status), &[other]), [Finding::Unknown]);
        let index = suspects[0].status;
        assert_eq!(
            find_remembered(&headers, root, (Path::new("index"), &index), &suspects),
            vec![Finding::Unknown; 20]
        );
    }
}
