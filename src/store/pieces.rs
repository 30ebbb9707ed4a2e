//! Weights that lie here in pieces, which have to be joined before anything loads them.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::headers::Header;
use super::shards::{file_name, folder, join};
use crate::format::{Metadata, Structure};
use crate::model::{Missing, Piece, text};

/// The pieces of one file.
#[derive(Clone, Debug)]
pub(super) struct Pieces {
    /// Path that the joined file would have, escaped.
    pub(super) whole: String,
    /// The places of the pieces in the list that they were found in, in their order.
    pub(super) places: Vec<usize>,
    /// Those that are missing, as far as names tell.
    pub(super) missing: Missing,
    /// Whether the first is here.
    pub(super) begins: bool,
}

/// Whether a path may be that of a piece: what is asked of every file of every row.
pub(super) fn may_be(path: &Path) -> bool {
    let bytes = path.as_os_str().as_encoded_bytes();
    let name = bytes.rsplit(|byte| *byte == b'/').next().unwrap_or(bytes);
    let has_gguf = || {
        name.split(|byte| *byte == b'.').skip(1).any(|part| part.len() >= 4 && part[..4].eq_ignore_ascii_case(b"gguf"))
    };
    // Nearly all names end before.
    name.len() > 10 && !name.ends_with(b".gguf") && has_gguf() && path.to_str().is_some()
}

/// The files of which pieces are among these paths, which are escaped.
pub(super) fn of<'a>(paths: impl Iterator<Item = (usize, &'a str)>) -> Vec<Pieces> {
    type File = (String, (String, String));
    let mut files: BTreeMap<File, Vec<(Piece, usize)>> = BTreeMap::new();
    for (place, path) in paths {
        if let Some(piece) = Piece::parse(file_name(path)) {
            files.entry((folder(path).to_owned(), piece.of_whole())).or_default().push((piece, place));
        }
    }
    let pieces = |((folder, (whole, _)), mut pieces): (File, Vec<(Piece, usize)>)| {
        pieces.sort_by_key(|(piece, _)| piece.number());
        let (names, places): (Vec<Piece>, Vec<usize>) = pieces.into_iter().unzip();
        let missing = Piece::missing(&names);
        // A first piece is not numbered above 1, and nothing before it is missing.
        let first = names.first().map_or(u32::MAX, Piece::number);
        let begins = first <= 1 && missing.ranges().first().is_none_or(|(gone, _)| *gone > first);
        Pieces { whole: join(&folder, &whole), places, missing, begins }
    };
    files.into_iter().map(pieces).collect()
}

/// What the header in the first of several pieces tells, as that of the joined file of so many bytes; `first` is the length of
/// that piece.
pub(super) fn joined(header: &Header, first: u64, bytes: u64) -> Header {
    let told = header.as_ref().map_err(Arc::clone)?;
    let structure = match told.structure {
        Structure::Truncated { missing: Some(missing) } => {
            let need = first.saturating_add(missing);
            match need.checked_sub(bytes).filter(|missing| *missing > 0) {
                Some(missing) => Structure::Truncated { missing: Some(missing) },
                None => Structure::Whole,
            }
        }
        // A header that is cut goes on in the next piece, and is not read there.
        Structure::Truncated { missing: None } => Structure::Partial,
        other => other,
    };
    Ok(Arc::new(Metadata { structure, ..Metadata::clone(told) }))
}

/// What a row says of them.
pub(super) fn line(whole: &str, count: usize) -> String {
    let name = text::printable_path(Path::new(&text::unescape(whole)));
    let (pieces, they) = if count == 1 { ("1 piece", "it is") } else { (&*format!("{count} pieces"), "they are") };
    format!("{name} is here in {pieces}, which nothing loads before {they} joined in one file")
}
