//! `list`: the models of this host.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde::Serialize;

use super::arguments::List;
use super::exit::{Exit, Outcome};
use super::output::table::{Align, Table};
use super::scan::{self, Scan};
use super::session::{self, Session};
use crate::model::filter::{Filter, last_use};
use crate::model::memory::HostMemory;
use crate::model::{Bytes, Model, ModelId, StoreSummary, text};
use crate::provisioner::{Duplicate, Totals};
use crate::store::Row;
use crate::store::fit::{self, Brief};

/// `list --json`.
#[derive(Serialize)]
struct Listed<'a> {
    models: Vec<Listing<'a>>,
    stores: &'a [StoreSummary],
    totals: Counted,
    /// Files of these models that are in several places of this host.
    duplicates: Vec<Duplicate>,
    /// Processes that could not be looked into; null when nobody looked.
    unreadable_processes: Option<usize>,
    /// What could not be looked at.
    notes: Vec<String>,
}

/// A row, and whether it fits.
#[derive(Serialize)]
struct Listing<'a> {
    #[serde(flatten)]
    model: &'a Model,
    /// Null unless asked for, and for what is no model.
    fit: Option<Brief>,
}

#[derive(Serialize)]
struct Counted {
    disk_bytes: u64,
    models: u64,
}

pub(super) async fn run(session: &mut Session, arguments: List) -> Outcome {
    let asked = arguments.fit || arguments.filter.iter().any(Filter::needs_fits);
    // Both are looked for at once; who does not ask for it waits for no driver.
    let probe = if asked { session::memory_aside() } else { None };
    let (mut scan, signal) = scan::run(session).await?;
    if let Some(exit) = signal {
        return Ok(exit);
    }
    let wait = async move { probe?.await.ok() };
    let (memory, signal) = session.look(wait).await;
    if let Some(exit) = signal {
        return Ok(exit);
    }
    if asked {
        let unknown = memory.as_ref().map_or(Some("nobody tells".to_owned()), HostMemory::unknown_gpus);
        if let Some(unknown) = unknown {
            session.output.say(&format!("llorch-models: what the GPUs hold is not known: {unknown}"));
        }
    }
    let conditions = session.settings.fit;
    let fit = |row: &Row| fit::brief(row, memory.as_ref()?, &conditions);
    let mut duplicates = std::mem::take(&mut scan.duplicates);
    if !arguments.store.is_empty() {
        scan.rows.retain(|row| arguments.store.contains(&row.model.identity.store));
        scan.stores.retain(|store| arguments.store.contains(&store.store));
    }
    if (arguments.in_use || arguments.filter.iter().any(Filter::needs_holders))
        && let Some(exit) = scan::look_for_holders(session, &mut scan).await?
    {
        return Ok(exit);
    }
    let now = Timestamp::now();
    let verdict = |row: &Row| fit(row).map(|fit| fit.verdict);
    let holds = |row: &Row| arguments.filter.iter().all(|filter| filter.matches_on(&row.model, now, || verdict(row)));
    scan.rows.retain(holds);
    scan.rows.sort_by(|a, b| arguments.sort.compare(&a.model, &b.model));
    scan.say_warnings(session);
    let totals: Totals = scan.rows.iter().collect();
    if arguments.json {
        let shown: BTreeSet<&ModelId> = scan.rows.iter().map(|row| &row.model.identity).collect();
        duplicates.retain(|group| group.copies.iter().flat_map(|copy| &copy.models).any(|model| shown.contains(model)));
        session.output.json(&Listed {
            models: scan.rows.iter().map(|row| Listing { model: &row.model, fit: fit(row) }).collect(),
            stores: &scan.stores,
            totals: Counted { disk_bytes: totals.disk_bytes(), models: totals.models() },
            duplicates,
            unreadable_processes: scan.unreadable_processes,
            notes: session.inventory.notes(),
        })?;
        return Ok(Exit::Done);
    }
    if scan.rows.is_empty() {
        let place = text::printable_path(&session.settings.models_dir);
        session.output.say(&if !arguments.filter.is_empty() {
            "no models that the filter lets through".to_owned()
        } else if !arguments.store.is_empty() {
            "no models in stores of this kind".to_owned()
        } else {
            format!("no models in {place}; `llorch-models download tinyllama` fetches one")
        });
        return Ok(Exit::Done);
    }
    let shown = |row: &Row| fit(row).filter(|_| arguments.fit);
    let table = table(&scan, now, &shown).render(&session.output);
    let models = count(scan.rows.len(), "model");
    session.output.print(&format!("{table}\n{models}, {} on disk\n", Bytes(totals.disk_bytes())))?;
    Ok(Exit::Done)
}

fn table(scan: &Scan, now: Timestamp, fit: &dyn Fn(&Row) -> Option<Brief>) -> Table {
    let several = scan.stores.len() > 1;
    let owned = differ(scan.rows.iter().filter_map(|row| row.model.owner.as_deref()));
    let mounted = differ(scan.rows.iter().filter_map(|row| row.model.mount.as_deref()));
    let mut table = Table::new()
        .column("STORE", Align::Left)
        .flexible("NAME")
        .worth(48)
        .column("OWNER", Align::Left)
        .leaves(2)
        .column("MOUNT", Align::Left)
        .leaves(1)
        .flexible("QUANT")
        .leaves(6)
        .column("PARAMS", Align::Right)
        .leaves(3)
        .column("ON DISK", Align::Right)
        .column("USED", Align::Right)
        .leaves(4)
        .column("FITS", Align::Left)
        .column("NEEDS", Align::Right)
        .leaves(4)
        .column("NOTE", Align::Left)
        .leaves(5);
    for row in &scan.rows {
        let model = &row.model;
        let fit = fit(row);
        table.row(vec![
            if several { model.identity.store.name().to_owned() } else { String::new() },
            model.label(),
            model.owner.as_deref().filter(|_| owned).map(text::printable).unwrap_or_default(),
            model.mount.as_deref().filter(|_| mounted).map(text::printable_path).unwrap_or_default(),
            model.quantization_label(),
            model.parameters_label("≥").unwrap_or_default(),
            model.size(model.disk_bytes),
            last_use(model).map(|then| ago(now, then)).unwrap_or_default(),
            fit.as_ref().map(|fit| fit.verdict.word()).unwrap_or_default(),
            fit.and_then(|fit| fit.need_bytes).map(|bytes| Bytes(bytes).to_string()).unwrap_or_default(),
            notes(row).join(", "),
        ]);
    }
    table
}

/// Whether there are two that are not the same: else a column tells nothing.
fn differ<T: PartialEq>(mut values: impl Iterator<Item = T>) -> bool {
    values.next().is_some_and(|first| values.any(|value| value != first))
}

fn notes(row: &Row) -> Vec<String> {
    let (mut notes, model) = (Vec::new(), &row.model);
    if row.metadata.as_ref().is_some_and(|metadata| metadata.adapter.is_some()) {
        notes.push("adapter".to_owned());
    }
    notes.extend(model.state().map(str::to_owned));
    match model.in_use_by.as_deref() {
        Some([holder]) => notes.push(format!("in use by {}", holder.pid)),
        Some([_, ..]) => notes.push("in use".to_owned()),
        _ => {}
    }
    if model.protected {
        notes.push("protected".to_owned());
    }
    if model.duplicate {
        notes.push("duplicate".to_owned());
    }
    if !model.warnings.is_empty() {
        notes.push(count(model.warnings.len(), "warning"));
    }
    notes
}

/// `1 model`, `2 models`, `2 processes`.
pub(super) fn count(number: usize, noun: &str) -> String {
    match number {
        1 => format!("1 {noun}"),
        _ if noun.ends_with('s') => format!("{number} {noun}es"),
        _ => format!("{number} {noun}s"),
    }
}

/// A time as its distance: `now`, `5 m`, `3 h`, `12 d`.
fn ago(now: Timestamp, then: Timestamp) -> String {
    let seconds = now.as_second().saturating_sub(then.as_second()).max(0);
    match seconds {
        0..=59 => "now".to_owned(),
        60..=3599 => format!("{} m", seconds / 60),
        3600..=86_399 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}
