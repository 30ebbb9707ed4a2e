//! One file against what is promised of it.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::hash::{self, HashError, Reading};
use super::{Depth, Expected, Options, Source};
use crate::disk::safe;
use crate::error::{Error, Result};
use crate::format::{Metadata, Structure, read_metadata};
use crate::model::{Algorithm, Digest, FileCheck, FileName, FileStatus, Format, text};
use crate::store::holes::{hole, was_never_written};
use crate::store::remembered::{Bad, Fingerprint};
use crate::store::shards::Told;

const STRUCTURE: &str = "structure";

/// Of a file with more bytes than its tensors take.
const NO_LOADER: &str = "no loader takes safetensors with bytes behind the last tensor";

/// What was found.
pub(super) struct Checked {
    pub(super) check: FileCheck,
    /// What its header says of its set.
    pub(super) split: Option<Told>,
}

/// Checks one file.
pub(super) fn check(root: &Path, expected: &Expected, options: &Options, reading: &Reading<'_>) -> Result<Checked> {
    if reading.cancel.is_cancelled() {
        return Err(Error::Cancelled);
    }
    let mut checked = Checked { check: FileCheck::new(expected.path.clone(), FileStatus::Unreadable), split: None };
    if let Some(why) = &expected.unread {
        checked.check.actual = Some(text::printable(why));
        return Ok(checked);
    }
    match safe::open_below(root, &expected.location) {
        Ok(file) => match Fingerprint::of(&file) {
            Ok(fingerprint) => opened(&file, fingerprint, expected, options, reading, &mut checked)?,
            Err(error) => checked.check.actual = Some(text::printable(&error.to_string())),
        },
        Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            let known = expected.digest.map(|digest| digest.to_string());
            checked.check.status = FileStatus::Missing;
            checked.check.expected = known.or_else(|| expected.size.map(|size| size.to_string()));
        }
        Err(error) => checked.check.actual = Some(text::printable(&error.to_string())),
    }
    if let Some(note) = &expected.note {
        checked.check.say(note);
    }
    checked.check.commit.clone_from(&expected.commit);
    checked.check.revisions.clone_from(&expected.revisions);
    Ok(checked)
}

fn opened(
    file: &File,
    fingerprint: Fingerprint,
    expected: &Expected,
    options: &Options,
    reading: &Reading<'_>,
    checked: &mut Checked,
) -> Result<()> {
    let name = expected.path.rsplit('/').next().unwrap_or(&expected.path);
    let parsed = FileName::parse(name);
    let is_weights = parsed.is_gguf() || parsed.is_safetensors();
    let size = fingerprint.size_bytes;
    if let Some(wanted) = expected.size.filter(|wanted| *wanted != size) {
        options.memory.forget(&fingerprint);
        checked.check.status = if size < wanted { FileStatus::Truncated } else { FileStatus::Extra };
        compared(&mut checked.check, STRUCTURE, Some(wanted.to_string()), size.to_string());
        return Ok(());
    }
    let digest = expected.digest.filter(|_| options.depth != Depth::Quick);
    // With a digest the header matters only for what it says of its set: of a file whose name makes it one of several, or may.
    // What was found right before and is no shard by its name has been asked then.
    let of_set = parsed.shard().is_some() || parsed.is_safetensors() || options.depth != Depth::Changed;
    let header = (is_weights && (digest.is_none() || of_set)).then(|| read_metadata(file, name));
    checked.split = header.as_ref().and_then(|header| header.as_ref().ok()).map(Told::of);
    if let Some(digest) = digest {
        let wrong = content(file, fingerprint, digest, expected, options, reading, &mut checked.check)?;
        if checked.check.status == FileStatus::Corrupt && is_weights {
            length(file, size, expected, &mut checked.check);
        }
        // A line that somebody wrote wrongly into a checksum file says something only while it stands there.
        if let Some(actual) = wrong.filter(|_| expected.source != Some(Source::ChecksumFile)) {
            options.memory.remember_bad(&fingerprint, digest, actual, checked.check.status);
        }
        if let (Some(Ok(told)), FileStatus::Ok) = (&header, checked.check.status)
            && let (Format::Safetensors, Structure::Extra { bytes }) = (told.format, told.structure)
        {
            checked.check.status = FileStatus::Extra;
            compared(&mut checked.check, STRUCTURE, Some(size.saturating_sub(bytes).to_string()), size.to_string());
            checked.check.say(&format!("{NO_LOADER}, though its bytes are those that are promised"));
        }
        return Ok(());
    }
    // A quick look believes what reading found before. What nothing is promised of is as bad as another name of it is.
    if let Some(bad) = options.memory.bad(&fingerprint, &expected.promises()) {
        known_bad(&bad, &mut checked.check);
        if is_weights {
            length(file, size, expected, &mut checked.check);
        }
        return Ok(());
    }
    if !is_weights && expected.size.is_none() && expected.digest.is_none() {
        checked.check.status = FileStatus::NoChecksum;
        return Ok(());
    }
    structure(size, header, expected, options, &mut checked.check);
    let on_disk = file.metadata().ok().filter(|_| is_weights).map(|of| of.blocks().saturating_mul(512));
    if let Some((disk, line)) = on_disk.and_then(|disk| Some((disk, hole(size, disk)?))) {
        checked.check.say(&line);
        if checked.check.status.is_ok() && expected.digest.is_none() && was_never_written(file, size) {
            checked.check.status = FileStatus::Truncated;
            compared(&mut checked.check, STRUCTURE, Some(size.to_string()), disk.to_string());
        } else if checked.check.status == FileStatus::Ok {
            checked.check.status = FileStatus::NoChecksum;
        }
    }
    if !checked.check.status.is_ok() {
        options.memory.forget(&fingerprint);
    }
    Ok(())
}

/// The result of an earlier look at every byte.
fn known_bad(bad: &Bad, check: &mut FileCheck) {
    check.status = bad.status;
    compared(check, bad.promised.algorithm().name(), Some(bad.promised.to_string()), bad.actual.to_string());
    check.say(&format!("found on {}; it has not changed since", bad.since()));
}

fn compared(check: &mut FileCheck, algorithm: &str, expected: Option<String>, actual: String) {
    (check.algorithm, check.expected, check.actual) = (Some(algorithm.to_owned()), expected, Some(actual));
}

/// Compares the length with what the header asks for.
fn structure(
    size: u64,
    header: Option<Result<Metadata, String>>,
    expected: &Expected,
    options: &Options,
    check: &mut FileCheck,
) {
    let mut wrong = |status, wanted: Option<u64>, actual: String| {
        check.status = status;
        compared(check, STRUCTURE, wanted.map(|wanted| wanted.to_string()), actual);
    };
    if size == 0 && header.is_some() {
        return wrong(FileStatus::Truncated, None, "0".to_owned());
    }
    let (structure, whole_only) = match header.transpose() {
        Err(reason) => return wrong(FileStatus::Corrupt, None, text::printable(&reason)),
        Ok(header) => {
            header.map_or((Structure::Whole, false), |told| (told.structure, told.format == Format::Safetensors))
        }
    };
    match structure {
        // A recorded length that is right outranks what a header implies: the publisher may have appended something.
        Structure::Truncated { missing } if expected.size.is_some() => {
            let missing = missing.map_or_else(String::new, |bytes| format!(" by {bytes} bytes"));
            check.say(&format!("it has its recorded length, which is too short for its header{missing}"));
        }
        Structure::Truncated { missing } => {
            let wanted = missing.map(|missing| size.saturating_add(missing));
            return wrong(FileStatus::Truncated, wanted, size.to_string());
        }
        Structure::Extra { bytes } if expected.size.is_none() || whole_only => {
            wrong(FileStatus::Extra, Some(size.saturating_sub(bytes)), size.to_string());
            if whole_only {
                check.say(NO_LOADER);
            } else if expected.digest.is_none() {
                check.padded = true;
                let behind = match bytes {
                    1 => "the 1 byte behind that means".to_owned(),
                    bytes => format!("the {bytes} bytes behind that mean"),
                };
                check.say(&format!("all that its header names is there; {behind} nothing"));
            }
            return;
        }
        Structure::Extra { .. } | Structure::Whole | Structure::Partial => {}
    }
    // Nothing was hashed. That is the whole answer to a quick question if a record said what to compare with.
    let known = options.depth == Depth::Quick && (expected.size.is_some() || expected.digest.is_some());
    check.status = if known { FileStatus::Ok } else { FileStatus::NoChecksum };
    compared(check, STRUCTURE, expected.size.map(|size| size.to_string()), size.to_string());
}

/// Compares the content with what is promised. Gives what was found where that is wrong, and nobody wrote to it meanwhile.
fn content(
    file: &File,
    before: Fingerprint,
    digest: Digest,
    expected: &Expected,
    options: &Options,
    reading: &Reading<'_>,
    check: &mut FileCheck,
) -> Result<Option<Digest>> {
    if options.depth == Depth::Changed
        && let Some(when) = options.memory.good(&before, digest)
    {
        check.status = FileStatus::Ok;
        compared(check, digest.algorithm().name(), Some(digest.to_string()), digest.to_string());
        check.say(&format!("unchanged since it was verified on {}", when.strftime("%Y-%m-%d %H:%M UTC")));
        return Ok(None);
    }
    let mut algorithms: Vec<Algorithm> = vec![digest.algorithm()];
    for promise in &expected.others {
        if !algorithms.contains(&promise.digest.algorithm()) {
            algorithms.push(promise.digest.algorithm());
        }
    }
    let found = match hash::hash(file, &algorithms, before.size_bytes, reading) {
        Ok(found) => found,
        Err(HashError::Cancelled) => return Err(Error::Cancelled),
        Err(HashError::Io(error)) => {
            options.memory.forget(&before);
            check.actual = Some(text::printable(&error.to_string()));
            return Ok(None);
        }
    };
    let is_found = |digest: &Digest| found.contains(digest);
    let equals = expected.others.iter().filter(|promise| expected.source == Some(promise.source));
    let counts = std::iter::once(digest).chain(equals.map(|promise| promise.digest)).find(is_found);
    let actual = found.iter().find(|found| found.algorithm() == digest.algorithm()).copied();
    let shown = counts.or(actual).map_or_else(String::new, |digest| digest.to_string());
    check.status = if counts.is_some() { FileStatus::Ok } else { FileStatus::Corrupt };
    compared(check, digest.algorithm().name(), Some(counts.unwrap_or(digest).to_string()), shown);
    disagreements(expected, digest, &is_found, check);
    let after = Fingerprint::of(file).ok();
    match counts {
        Some(good) if after == Some(before) => options.memory.remember(&before, good),
        _ => options.memory.forget(&before),
    }
    let bytes = |fingerprint: Fingerprint| (fingerprint.size_bytes, fingerprint.modified);
    if after.map(bytes) != Some(bytes(before)) {
        // What was compared is not what lies there now.
        check.status = FileStatus::Unreadable;
        compared(
            check,
            digest.algorithm().name(),
            None,
            "it was written to while it was read; verify it again".to_owned(),
        );
        return Ok(None);
    }
    Ok(if counts.is_none() { actual } else { None })
}

/// Says of weights with a wrong checksum that they are cut or padded, where their header tells.
fn length(file: &File, size: u64, expected: &Expected, check: &mut FileCheck) {
    let name = expected.path.rsplit('/').next().unwrap_or(&expected.path);
    let (status, wanted) = match read_metadata(file, name).map(|header| header.structure) {
        Ok(Structure::Truncated { missing: Some(missing) }) => (FileStatus::Truncated, size.saturating_add(missing)),
        Ok(Structure::Extra { bytes }) => (FileStatus::Extra, size.saturating_sub(bytes)),
        _ => return,
    };
    check.status = status;
    compared(check, STRUCTURE, Some(wanted.to_string()), size.to_string());
}

/// Says which sources promise something else, and whether the file is what they promise.
fn disagreements(expected: &Expected, digest: Digest, is_found: &dyn Fn(&Digest) -> bool, check: &mut FileCheck) {
    let counts = expected.source.map_or("what is known", Source::name);
    for promise in &expected.others {
        let comparable = promise.digest.algorithm() == digest.algorithm();
        match (is_found(&promise.digest), comparable) {
            // Two algorithms that are both right do not disagree.
            (true, false) if check.status == FileStatus::Ok => {}
            (true, _) => check.say(&format!(
                "{} and {counts} do not agree; it is what {} says",
                promise.source.name(),
                promise.source.name()
            )),
            (false, _) => check.say(&format!("{} says {}, which it is not", promise.source.name(), promise.digest)),
        }
    }
}
