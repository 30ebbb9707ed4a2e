//! `disk-usage`: what the models take, what room there is, and what could come back.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;

use super::arguments::Plain;
use super::exit::{Exit, Outcome};
use super::list::count;
use super::output::Output;
use super::output::table::{Align, Table};
use super::scan::{self, Scan};
use super::session::Session;
use crate::disk::space::{Space, space};
use crate::disk::usage::Usage;
use crate::machine::{self, DeletedFile, Mounts};
use crate::model::{Bytes, ModelId, StoreSummary, text};
use crate::provisioner::{Duplicate, Totals, duplicates};

/// Duplicates that are told to a person one by one.
const TOLD: usize = 10;

/// `disk-usage --json`.
#[derive(Serialize)]
struct DiskUsage {
    /// Length of the models' files.
    total_bytes: u64,
    /// What they take on disk, an inode once.
    disk_bytes: u64,
    models: Vec<ModelUsage>,
    filesystems: Vec<FileSystem>,
    stores: Vec<StoreSummary>,
    /// The same content in several places.
    duplicates: Vec<Duplicate>,
    /// Deleted, and still taking room because a process keeps it open.
    deleted_open: Vec<DeletedFile>,
    /// Processes that may keep more and could not be read.
    unreadable_processes: usize,
}

#[derive(Serialize)]
struct ModelUsage {
    #[serde(flatten)]
    model: ModelId,
    disk_bytes: u64,
}

#[derive(Serialize)]
struct FileSystem {
    #[serde(with = "text::escaped")]
    mount: PathBuf,
    total_bytes: Option<u64>,
    free_bytes: Option<u64>,
    models_bytes: u64,
}

pub(super) async fn run(session: &mut Session, arguments: Plain) -> Outcome {
    let (scan, signal) = scan::run(session).await?;
    if let Some(exit) = signal {
        return Ok(exit);
    }
    scan.say_warnings(session);
    let models_dir = session.settings.models_dir.clone();
    let (usage, signal) = session.blocking(move || measure(scan, models_dir)).await?;
    if let Some(exit) = signal {
        return Ok(exit);
    }
    if arguments.json {
        session.output.json(&usage)?;
        return Ok(Exit::Done);
    }
    session.output.print(&described(&usage, &session.output))?;
    if usage.unreadable_processes > 0 {
        session.output.say(&format!(
            "llorch-models: {} of other users could not be looked into; deleted files that they keep open are not known",
            count(usage.unreadable_processes, "process")
        ));
    }
    Ok(Exit::Done)
}

/// The figures of a scan, with the file systems that the models, the stores and the base folder lie on.
fn measure(scan: Scan, models_dir: PathBuf) -> DiskUsage {
    let Scan { rows, stores, .. } = scan;
    let mounts = Mounts::read();
    let mut used: BTreeMap<PathBuf, (Usage, PathBuf)> = BTreeMap::new();
    let there = stores.iter().map(|store| store.path.clone()).filter(|path| path.is_dir());
    for place in std::iter::once(models_dir.clone()).chain(there) {
        if let Some(mount) = mounts.of(&place) {
            used.entry(mount.path.clone()).or_insert((Usage::default(), place));
        }
    }
    for row in &rows {
        let known = row.model.mount.clone();
        let Some(mount) = known.or_else(|| mounts.of(&row.model.path).map(|mount| mount.path.clone())) else {
            continue;
        };
        used.entry(mount).or_insert_with(|| (Usage::default(), row.model.path.clone())).0.merge(&row.usage);
    }
    let filesystems = used.into_iter().map(|(mount, (usage, inside))| {
        let space: Option<Space> = space(&inside).ok();
        FileSystem {
            mount,
            total_bytes: space.map(|space| space.total),
            free_bytes: space.map(|space| space.available),
            models_bytes: usage.disk_bytes(),
        }
    });
    let models =
        rows.iter().map(|row| ModelUsage { model: row.model.identity.clone(), disk_bytes: row.model.disk_bytes });
    let mut roots: Vec<PathBuf> = stores.iter().map(|store| store.path.clone()).collect();
    roots.push(models_dir);
    let deleted = machine::find_deleted(&roots);
    DiskUsage {
        total_bytes: rows.iter().map(|row| row.model.size_bytes).sum(),
        disk_bytes: rows.iter().collect::<Totals>().disk_bytes(),
        models: models.collect(),
        filesystems: filesystems.collect(),
        duplicates: duplicates(&rows),
        deleted_open: deleted.files,
        unreadable_processes: deleted.unreadable,
        stores,
    }
}

fn described(usage: &DiskUsage, output: &Output) -> String {
    let mut models = Table::new().column("STORE", Align::Left).flexible("NAME").column("ON DISK", Align::Right);
    let several = usage.stores.iter().filter(|store| store.models > 0).count() > 1;
    let mut largest: Vec<&ModelUsage> = usage.models.iter().collect();
    // Stable: equal ones stay sorted by name.
    largest.sort_by_key(|model| std::cmp::Reverse(model.disk_bytes));
    for model in largest {
        let store = if several { model.model.store.name().to_owned() } else { String::new() };
        models.row(vec![store, text::printable(&model.model.id), Bytes(model.disk_bytes).to_string()]);
    }
    let mut stores = Table::new()
        .column("STORE", Align::Left)
        .flexible("PATH")
        .column("MODELS", Align::Right)
        .column("ON DISK", Align::Right);
    for store in usage.stores.iter().filter(|store| store.models > 0 || store.disk_bytes > 0) {
        let path = text::printable_path(&store.path);
        stores.row(vec![
            store.store.name().to_owned(),
            path,
            store.models.to_string(),
            Bytes(store.disk_bytes).to_string(),
        ]);
    }
    let mut systems = Table::new()
        .flexible("FILE SYSTEM")
        .column("MODELS", Align::Right)
        .column("FREE", Align::Right)
        .column("SIZE", Align::Right);
    for system in &usage.filesystems {
        let bytes = |bytes: Option<u64>| bytes.map(|bytes| Bytes(bytes).to_string()).unwrap_or_default();
        systems.row(vec![
            text::printable_path(&system.mount),
            Bytes(system.models_bytes).to_string(),
            bytes(system.free_bytes),
            bytes(system.total_bytes),
        ]);
    }
    let mut out = String::new();
    if !usage.models.is_empty() {
        out.push_str(&models.render(output));
        out.push('\n');
    }
    out.push_str(&format!("{}, {} on disk\n", count(usage.models.len(), "model"), Bytes(usage.disk_bytes)));
    if several {
        out.push('\n');
        out.push_str(&stores.render(output));
    }
    if !usage.filesystems.is_empty() {
        out.push('\n');
        out.push_str(&systems.render(output));
    }
    out.push_str(&copies(&usage.duplicates));
    if !usage.deleted_open.is_empty() {
        let known: u64 = usage.deleted_open.iter().filter_map(|file| file.disk_bytes).sum();
        out.push_str(&format!("\ndeleted, but kept open by a process ({}):\n", Bytes(known)));
    }
    for file in &usage.deleted_open {
        let bytes = file.disk_bytes.map_or_else(|| "unknown".to_owned(), |bytes| Bytes(bytes).to_string());
        out.push_str(&format!("  {bytes:>9}  {}\n", text::printable_path(&file.path)));
        for holder in &file.held_by {
            out.push_str(&format!(
                "             {} ({}): {}\n",
                holder.pid,
                text::printable(&holder.user),
                holder.command
            ));
        }
    }
    out
}

/// The largest duplicates, a block each.
fn copies(duplicates: &[Duplicate]) -> String {
    let mut out = String::new();
    for group in duplicates.iter().take(TOLD) {
        if out.is_empty() {
            out.push_str("\nthe same file in several places:\n");
        }
        let gain = match group.reclaimable_bytes {
            0 if group.is_shared() => "names of one file, which share their bytes".to_owned(),
            0 => "no copy alone would free anything".to_owned(),
            bytes => format!("one copy less frees {}", Bytes(bytes)),
        };
        out.push_str(&format!("  {}: {gain}\n", Bytes(group.size_bytes)));
        for copy in &group.copies {
            let models: Vec<String> = copy.models.iter().map(ToString::to_string).collect();
            out.push_str(&format!("    {}\n      {}\n", models.join(", "), text::printable_path(&copy.path)));
        }
    }
    if duplicates.len() > TOLD {
        out.push_str(&format!("  and {} more; --json has them all\n", duplicates.len() - TOLD));
    }
    out
}
