//! The line at the top: host, models, file systems.

use super::canvas::Canvas;
use super::figures::{counted, path, whole};
use crate::model::memory::Device;
use crate::tui::state::{Layout, State};
use crate::tui::text;
use crate::tui::theme::Role;

pub(super) fn draw(canvas: &mut Canvas<'_>, state: &State, layout: &Layout) {
    let symbols = canvas.look.symbols;
    canvas.rule(layout.header, [symbols.corners[0], symbols.corners[1]]);
    let room = usize::from(layout.header.width).saturating_sub(4);
    let gaps = [format!(" {} ", symbols.horizontal), format!(" {} ", symbols.dot)];
    let parts = choice(state, symbols.dot, symbols.times, room);
    let mut x = canvas.put(layout.header, 1, 0, " ", Role::Text);
    for (at, part) in parts.iter().enumerate() {
        if at > 0 {
            x = canvas.put(layout.header, x, 0, &gaps[usize::from(part.continues)], Role::Border);
        }
        let room = usize::from(layout.header.width.saturating_sub(x + 2));
        x = canvas.put(layout.header, x, 0, &text::cut(&part.text, room, symbols.ellipsis), part.role);
    }
    canvas.put(layout.header, x, 0, " ", Role::Text);
}

#[derive(Clone)]
struct Part {
    text: String,
    role: Role,
    /// Parts with a high rank give way first.
    rank: u8,
    /// Whether it goes on with what the part before is about.
    continues: bool,
    /// Whether it is about GPUs.
    gpus: bool,
}

/// The first of the GPUs' ranks.
const GPUS: u8 = 7;

/// What there is room for: the GPUs one by one, else in one, else not.
fn choice(state: &State, dot: &str, times: &str, room: usize) -> Vec<Part> {
    let all = parts(state, dot, false);
    let one_by_one = gpus(state);
    let count = one_by_one.len();
    let chosen = fitted(all.iter().cloned().chain(one_by_one).collect(), room);
    let shown = chosen.iter().filter(|part| part.gpus).count();
    let chosen = match gpus_in_one(state, times).filter(|_| shown < count) {
        Some(one) => fitted(all.into_iter().chain([one]).collect(), room),
        None => chosen,
    };
    // What is not said of the GPUs in full is said in a word.
    let unknown = state.memory.as_ref().is_some_and(|memory| memory.gpus_unknown);
    if unknown && chosen.len() < 2 { fitted(parts(state, dot, true), room) } else { chosen }
}

/// What matters least goes first; the host's name is cut at last.
fn fitted(mut parts: Vec<Part>, room: usize) -> Vec<Part> {
    while parts.len() > 1 && width(&parts) > room {
        let least = parts.iter().enumerate().max_by_key(|(_, part)| part.rank).map_or(0, |(at, _)| at);
        parts.remove(least);
    }
    parts
}

fn width(parts: &[Part]) -> usize {
    parts.iter().map(|part| text::width(&part.text) + 3).sum::<usize>().saturating_sub(3)
}

fn parts(state: &State, dot: &str, short: bool) -> Vec<Part> {
    let models = &state.models;
    let part = |text: String, role: Role, rank: u8| Part { text, role, rank, continues: false, gpus: false };
    let mut parts = vec![part(text::cut(&state.facts.host, 30, ""), Role::Title, 0)];
    // Nothing is right that is said of fits before somebody knows this.
    if let Some(memory) = state.memory.as_ref().filter(|memory| memory.gpus_unknown) {
        let note = memory.gpu_note.as_deref().filter(|_| !short).unwrap_or("GPUs unknown");
        parts.push(part(text::cut(note, 48, "~"), Role::Warn, 1));
    }
    let count = if models.is_filtered() {
        format!("{} of {}", models.shown().len(), counted(models.len(), "model", "models"))
    } else {
        counted(models.len(), "model", "models")
    };
    parts.push(part(count, Role::Text, 2));
    let disk = format!("{} on disk", whole(models.disk_bytes()));
    parts.push(Part { continues: true, ..part(disk, Role::Text, 4) });
    if state.everyone.shown {
        parts.push(part("all users".to_owned(), Role::Focus, 3));
    }
    if models.is_filtered() && !models.filtering {
        parts.push(part(format!("/{}", text::cut(models.filter.text(), 30, "")), Role::Focus, 3));
    }
    if !models.marks.is_empty() {
        let hidden = match models.hidden_marks() {
            0 => String::new(),
            some => format!(" ({some} hidden)"),
        };
        let text =
            format!("{} marked{hidden} {dot} {}", models.marks.len(), crate::model::Bytes(models.marked_bytes()));
        parts.push(part(text, Role::Mark, 1));
    }
    if let [first, rest @ ..] = models.scan.silent.as_slice() {
        let more = if rest.is_empty() { String::new() } else { format!(" and {} more", rest.len()) };
        let place = path(&first.1, &state.facts.home);
        parts.push(part(format!("{} {place}{more} does not answer", first.0), Role::Warn, 1));
    } else if models.scan.since.is_some() {
        parts.push(part("scanning".to_owned(), Role::Dim, 5));
    }
    for (at, file_system) in (0_u8..).zip(&state.file_systems) {
        let used = file_system.total.saturating_sub(file_system.available);
        let percent = (u128::from(used) * 100 / u128::from(file_system.total.max(1))).min(100);
        let mount = text::cut_middle(&crate::model::text::printable_path(&file_system.mount), 24, "~");
        let text = format!("{mount} {percent}% {dot} {} free", whole(file_system.available));
        let role = if percent >= 95 { Role::Warn } else { Role::Text };
        // The one that downloads go to stays longer than the GPUs, the others do not.
        let rank = if at == 0 { 6 } else { 100_u8.saturating_add(at) };
        parts.push(part(text, role, rank));
    }
    parts
}

/// The GPUs: one by one, or together where there are many.
fn gpus(state: &State) -> Vec<Part> {
    let told = gpus_told(state).into_iter().zip(GPUS..100);
    told.map(|((text, role), rank)| Part { text, role, rank, continues: false, gpus: true }).collect()
}

/// All of them together, in as little room as they take: `8×4090 190 GiB free`.
fn gpus_in_one(state: &State, times: &str) -> Option<Part> {
    let gpus = state.memory.as_ref()?.gpus.as_slice();
    let first = gpus.first()?;
    let name = if gpus.iter().all(|gpu| gpu.name == first.name) { first.model_word() } else { "GPU" };
    let name = text::cut(name, 12, "~");
    let free = || gpus.iter().filter_map(|gpu| gpu.free_bytes);
    // What a process cannot use together is not added up.
    let apart = gpus.iter().any(|gpu| gpu.instance || gpu.unified);
    let free = match (free().max(), apart && gpus.len() > 1) {
        (None, _) => "free unknown".to_owned(),
        (Some(most), true) => format!("up to {} free", whole(most)),
        (Some(_), false) => format!("{} free", whole(free().fold(0, u64::saturating_add))),
    };
    let count = if gpus.len() > 1 { format!("{}{times}", gpus.len()) } else { String::new() };
    let text = format!("{count}{name} {free}");
    Some(Part { text, role: Role::Text, rank: GPUS, continues: false, gpus: true })
}

fn gpus_told(state: &State) -> Vec<(String, Role)> {
    let Some(memory) = &state.memory else { return Vec::new() };
    let shown: Vec<&Device> = memory.gpus.iter().collect();
    let mut parts = Vec::new();
    if let ([first, .., _], true) = (shown.as_slice(), shown.len() > 2) {
        let free: Vec<u64> = shown.iter().filter_map(|gpu| gpu.free_bytes).collect();
        let alike = shown.iter().all(|gpu| gpu.name == first.name && gpu.total_bytes == first.total_bytes);
        let name = if alike { first.short_name() } else { "GPUs" };
        let of = first.total_bytes.filter(|_| alike).map(|bytes| format!(" {}", whole(bytes))).unwrap_or_default();
        let most = free.iter().max().map_or_else(
            || "free unknown".to_owned(),
            |most| match free.iter().min() {
                Some(least) if least != most => format!("{} to {} free", whole(*least), whole(*most)),
                _ => format!("{} free", whole(*most)),
            },
        );
        parts.push((format!("{} {}{of}, {most}", shown.len(), cut(name)), Role::Text));
    } else {
        for gpu in shown {
            let text = match (gpu.total_bytes, gpu.free_bytes) {
                (Some(total), Some(free)) => {
                    let (total, free) = (whole(total), whole(free));
                    let unit = total.rsplit_once(' ').map(|(_, unit)| unit).unwrap_or_default();
                    let free = free.strip_suffix(unit).map_or(free.as_str(), str::trim_end);
                    format!("{} {} {total}, {free} free", gpu.label, cut(gpu.short_name()))
                }
                (Some(total), None) => format!("{} {} {}", gpu.label, cut(gpu.short_name()), whole(total)),
                (None, _) => format!("{} {}, memory unknown", gpu.label, cut(gpu.short_name())),
            };
            parts.push((text, Role::Text));
        }
    }
    let note = memory.gpu_note.as_ref().filter(|_| !memory.gpus_unknown);
    parts.extend(note.map(|note| (text::cut(note, 48, "~"), Role::Warn)));
    parts
}

fn cut(name: &str) -> String {
    text::cut(name, 20, "~")
}
