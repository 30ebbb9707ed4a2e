//! `catalog`: the short names of well-known models.

use serde::Serialize;

use super::arguments::Plain;
use super::exit::{Exit, Outcome};
use super::output::table::{Align, Table};
use super::session::Session;
use crate::model::{Bytes, text};

/// An element of `catalog --json`.
#[derive(Serialize)]
struct Entry {
    alias: String,
    repository: String,
    file: String,
    folder: String,
    size_bytes: u64,
    /// Whether it has to be converted before it can be used.
    conversion: bool,
    installed: bool,
}

pub(super) async fn run(session: &mut Session, arguments: Plain) -> Outcome {
    let provisioner = session.provisioner.clone();
    let (entries, signal) = session
        .blocking(move || {
            let entries = provisioner.catalog().entries().iter().map(|entry| {
                Ok(Entry {
                    alias: entry.alias.clone(),
                    repository: entry.repository.clone(),
                    file: entry.file.clone(),
                    folder: entry.folder.clone(),
                    size_bytes: entry.size_bytes,
                    conversion: entry.conversion.is_some(),
                    installed: provisioner.is_installed(entry)?,
                })
            });
            entries.collect::<crate::Result<Vec<_>>>()
        })
        .await?;
    let entries = entries?;
    if let Some(exit) = signal {
        return Ok(exit);
    }
    if arguments.json {
        session.output.json(&entries)?;
        return Ok(Exit::Done);
    }
    let mut table = Table::new()
        .column("ALIAS", Align::Left)
        .column("REPOSITORY", Align::Left)
        .flexible("FILE")
        .leaves(1)
        .column("SIZE", Align::Right)
        .leaves(3)
        .flexible("NOTE")
        .leaves(2);
    for entry in &entries {
        let mut notes = Vec::new();
        if entry.installed {
            notes.push("installed");
        }
        if entry.conversion {
            notes.push("needs a conversion");
        }
        table.row(vec![
            text::printable(&entry.alias),
            text::printable(&entry.repository),
            text::printable(&entry.file),
            Bytes(entry.size_bytes).to_string(),
            notes.join(", "),
        ]);
    }
    session.output.print(&table.render(&session.output))?;
    Ok(Exit::Done)
}
