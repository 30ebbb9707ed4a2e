//! `disk-usage`: what the models take, and what room there is.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;

use super::arguments::Plain;
use super::exit::{Exit, Outcome};
use super::list::count;
use super::output::table::{Align, Table};
use super::scan::{self, Scan};
use super::session::Session;
use crate::disk::space::{Space, space};
use crate::disk::usage::Usage;
use crate::machine::Mounts;
use crate::model::{Bytes, ModelId, text};
use crate::provisioner::Totals;

/// `disk-usage --json`.
#[derive(Serialize)]
struct DiskUsage {
    /// Length of the models' files.
    total_bytes: u64,
    /// What they take on disk, an inode once.
    disk_bytes: u64,
    models: Vec<ModelUsage>,
    filesystems: Vec<FileSystem>,
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
    let (usage, signal) = session.blocking(move || measure(&scan, models_dir)).await?;
    if let Some(exit) = signal {
        return Ok(exit);
    }
    if arguments.json {
        session.output.json(&usage)?;
        return Ok(Exit::Done);
    }
    let mut models = Table::new().flexible("NAME").column("ON DISK", Align::Right);
    for model in &usage.models {
        models.row(vec![text::printable(&model.model.id), Bytes(model.disk_bytes).to_string()]);
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
        out.push_str(&models.render(&session.output));
        out.push('\n');
    }
    out.push_str(&format!("{}, {} on disk\n", count(usage.models.len(), "model"), Bytes(usage.disk_bytes)));
    if !usage.filesystems.is_empty() {
        out.push('\n');
        out.push_str(&systems.render(&session.output));
    }
    session.output.print(&out)?;
    Ok(Exit::Done)
}

/// The figures of a scan, with the file systems that the models and the base folder lie on.
fn measure(scan: &Scan, models_dir: PathBuf) -> DiskUsage {
    let mounts = Mounts::read();
    let mut used: BTreeMap<PathBuf, (Usage, PathBuf)> = BTreeMap::new();
    if let Some(mount) = mounts.of(&models_dir) {
        used.insert(mount.path.clone(), (Usage::default(), models_dir));
    }
    for row in &scan.rows {
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
        scan.rows.iter().map(|row| ModelUsage { model: row.model.identity.clone(), disk_bytes: row.model.disk_bytes });
    DiskUsage {
        total_bytes: scan.rows.iter().map(|row| row.model.size_bytes).sum(),
        disk_bytes: scan.rows.iter().collect::<Totals>().disk_bytes(),
        models: models.collect(),
        filesystems: filesystems.collect(),
    }
}
