//! What would make a set of files from several commits is refused: no loader could tell, and no checksum would.

use std::collections::BTreeSet;
use std::path::Path;

use crate::error::{Error, Result};
use crate::hub::Repository;
use crate::model::{Digest, Quantization, RemoteFile, set_of, text};
use crate::store::flat::Record;
use crate::store::flat::sidecar::Metadata;

/// Refuses to put some parts of a set into a folder that keeps other parts of it from another commit, where they are not the same
/// in both. `listing` is all that the repository has, `chosen` what is to be fetched of it.
pub(super) fn refuse(
    folder: &Path,
    repository: &Repository,
    listing: &[RemoteFile],
    chosen: &[RemoteFile],
) -> Result<()> {
    let sets: BTreeSet<_> = chosen.iter().filter_map(|file| set_of(file.path.as_str())).collect();
    if sets.is_empty() {
        return Ok(());
    }
    let chosen_paths: BTreeSet<_> = chosen.iter().map(|file| &file.path).collect();
    let stays = |file: &&RemoteFile| {
        let of_set = set_of(file.path.as_str()).is_some_and(|set| sets.contains(&set));
        of_set && !chosen_paths.contains(&file.path) && file.path.below(folder).symlink_metadata().is_ok()
    };
    let mut staying = listing.iter().filter(stays).peekable();
    if staying.peek().is_none() {
        return Ok(());
    }
    let record = Record::read(folder)?;
    for file in staying {
        let Some(known) = Known::of(folder, record.as_ref(), file) else { continue };
        let same = match (known.digest, file.digest) {
            (Some(here), Some(there)) => here == there,
            _ => known.commit == repository.commit && known.size.is_none_or(|size| size == file.size),
        };
        if !same {
            let set = set_of(file.path.as_str());
            let part =
                chosen.iter().find(|part| set_of(part.path.as_str()) == set).map_or(&file.path, |part| &part.path);
            // Without it another quantization may be meant.
            let label = Quantization::of_path(part).map(|label| format!(":{}", text::printable(label.as_str())));
            let label = label.unwrap_or_default();
            return Err(Error::MixedSet {
                file: part.to_string(),
                other: file.path.to_string(),
                repository: repository.id.clone(),
                here: text::printable(&known.commit),
                whole: format!("{}{label}@{}", repository.id, repository.commit),
            });
        }
    }
    Ok(())
}

/// What is known of a file that is here.
struct Known {
    size: Option<u64>,
    digest: Option<Digest>,
    commit: String,
}

impl Known {
    /// By the record, or by the sidecar where that tells of another version.
    fn of(folder: &Path, record: Option<&Record>, file: &RemoteFile) -> Option<Self> {
        let recorded = record.and_then(|record| Some((record, record.file(file.path.as_str())?)));
        let sidecar = Metadata::read(folder, &file.path);
        if let Some((sidecar, digest)) = sidecar.and_then(|sidecar| sidecar.digest().map(|digest| (sidecar, digest)))
            && recorded.is_none_or(|(_, known)| known.digest != Some(digest))
        {
            return Some(Self { size: None, digest: Some(digest), commit: sidecar.commit });
        }
        recorded.map(|(record, known)| Self {
            size: Some(known.size),
            digest: known.digest,
            commit: record.commit_of(known).to_owned(),
        })
    }
}
