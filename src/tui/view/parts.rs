//! The parts of a model in the detail: quantizations, revisions, shared files, files. Each is a line that keys go to.

use super::canvas::Spans;
use super::detail::Page;
use super::figures::counted;
use crate::model::{Bytes, Role as FileRole, StoreKind, text as clean};
use crate::store::{Details, Part};
use crate::tui::state::{Focus, State};
use crate::tui::text;
use crate::tui::theme::Role;

/// Cursor, mark and a figure stand before each part.
const FIGURE: usize = 8;

pub(super) fn draw(page: &mut Page<'_>, state: &State, details: &Details) {
    let dot = page.dot;
    if !details.parts.is_empty() {
        heading(page, &counted(details.parts.len(), "quantization", "quantizations"), true);
        for part in &details.parts {
            let frees = format!("{} {dot} frees {}", part.label(), Bytes(part.figures.reclaimable_bytes));
            line(
                page,
                state,
                part.figures.disk_bytes,
                &frees,
                Role::Text,
                Some(Part::Quantization(part.quantization.clone())),
            );
        }
    }
    if !details.revisions.is_empty() {
        heading(page, &counted(details.revisions.len(), "revision", "revisions"), true);
        for revision in &details.revisions {
            let commit: String = clean::printable(&revision.commit).chars().take(10).collect();
            let refs = clean::printable(&revision.refs.join(" "));
            let refs = if refs.is_empty() { "no ref names it".to_owned() } else { refs };
            let frees = format!("{commit} {dot} frees {} {dot} {refs}", Bytes(revision.reclaimable_bytes));
            let disk = revision.disk_bytes.unwrap_or(revision.reclaimable_bytes);
            line(page, state, disk, &frees, Role::Text, Some(Part::Revision(revision.commit.clone())));
        }
    }
    // A tag goes whole or not at all.
    let single = details.model.identity.store != StoreKind::Ollama;
    if !details.shared.is_empty() {
        heading(page, &counted(details.shared.len(), "shared file", "shared files"), false);
        for file in &details.shared {
            let others = file.used_by.iter().map(|id| clean::printable(id)).collect::<Vec<_>>().join(", ");
            let part = single.then(|| Part::Files(vec![file.path.clone()]));
            line(page, state, file.disk_bytes, &clean::printable(&file.path), Role::Text, part);
            page.say(&format!("{:FIGURE$}   also used by {others}", ""), Role::Dim);
        }
    }
    heading(page, &counted(details.files.len(), "file", "files"), false);
    for file in &details.files {
        let role = match file.role {
            FileRole::Weights | FileRole::Shard => Role::Text,
            _ => Role::Dim,
        };
        let part = single.then(|| Part::Files(vec![file.path.clone()]));
        line(page, state, file.disk_bytes, &file.label(), role, part);
    }
}

fn heading(page: &mut Page<'_>, title: &str, with_figures: bool) {
    page.gap();
    let more = if with_figures { ": on disk, and what deleting one alone frees" } else { "" };
    page.say(title, Role::Title);
    if !more.is_empty()
        && let Some(last) = page.lines.last_mut()
    {
        last.push((text::cut(more, page.width.saturating_sub(text::width(title)), page.ellipsis), Role::Dim));
    }
}

fn line(page: &mut Page<'_>, state: &State, bytes: u64, name: &str, role: Role, part: Option<Part>) {
    let cursor = part.is_some() && state.detail.part == part && state.focus == Focus::Detail;
    let marked = part.as_ref().is_some_and(|part| state.detail.marks.contains(part));
    let size = text::pad_left(&Bytes(bytes).to_string(), FIGURE);
    let name = text::cut_middle(name, page.width.saturating_sub(FIGURE + 3), page.ellipsis);
    let mut spans = Spans::new();
    spans.push((if cursor { ">" } else { " " }.to_owned(), if cursor { Role::Focus } else { Role::Text }));
    spans.push((if marked { "*" } else { " " }.to_owned(), Role::Mark));
    spans.push((format!("{size} "), if cursor { Role::Focus } else { Role::Dim }));
    let role = match (cursor, marked) {
        (true, _) => Role::Focus,
        (_, true) => Role::Mark,
        _ => role,
    };
    spans.push((name, role));
    if let Some(part) = part {
        // A file that stands among the shared ones, too, is one part on two lines: keys go to the first.
        if !page.parts.iter().any(|(_, known)| *known == part) {
            page.parts.push((page.lines.len(), part));
        }
    }
    page.lines.push(spans);
}
