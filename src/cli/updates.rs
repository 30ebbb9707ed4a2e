//! `updates`: which models have changed on the hub.

use super::arguments::Updates;
use super::exit::{Exit, Outcome};
use super::output::table::{Align, Table};
use super::session::Session;
use crate::model::{Bytes, DestinationKind, text};
use crate::provisioner::DownloadRequest;

pub(super) async fn run(session: &mut Session, arguments: Updates) -> Outcome {
    let (provisioner, cancel) = (session.provisioner.clone(), session.cancel.clone());
    let (updates, signal) = session.ask_hub(provisioner.updates(&arguments.reference, &cancel)).await;
    if let Some(exit) = signal {
        return Ok(exit);
    }
    let updates = updates?;
    if arguments.json {
        session.output.json(&updates)?;
        return Ok(Exit::Done);
    }
    if updates.is_empty() {
        session.output.say("nothing has changed on the hub");
        return Ok(Exit::Done);
    }
    let mut table = Table::new()
        .flexible("NAME")
        .column("HERE", Align::Left)
        .column("NOW", Align::Left)
        .column("FILES", Align::Right)
        .column("TO FETCH", Align::Right);
    for update in &updates {
        let short = |commit: &str| text::printable(commit.get(..8).unwrap_or(commit));
        table.row(vec![
            text::printable(&update.model.id),
            short(&update.pinned),
            short(&update.current),
            update.files.len().to_string(),
            match update.fetch_bytes {
                0 => "nothing".to_owned(),
                bytes => Bytes(bytes).to_string(),
            },
        ]);
    }
    session.output.print(&table.render(&session.output))?;
    for update in &updates {
        let line = match &update.request {
            Some(request) => format!("llorch-models {}", command(request, session.settings.destination)),
            None => {
                format!("{}: no download goes there; delete it and fetch it anew", text::printable(&update.model.id))
            }
        };
        session.output.say(&format!("to update: {line}"));
    }
    Ok(Exit::Done)
}

/// A download as a person types it; where downloads go without a word is `default`.
pub(super) fn command(request: &DownloadRequest, default: DestinationKind) -> String {
    let mut line = format!("download {}", quoted(&request.reference));
    for pattern in &request.files {
        line.push_str(&format!(" --file {}", quoted(pattern)));
    }
    if request.to != default {
        line.push_str(match request.to {
            DestinationKind::Flat => " --to flat",
            DestinationKind::Hf => " --to hf",
        });
    }
    if request.force {
        line.push_str(" --force");
    }
    line
}

/// A word as a shell takes it.
pub(super) fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-/+=@:,".contains(c);
    match text::printable(word) {
        word if word.chars().all(plain) => word,
        word => format!("'{}'", word.replace('\'', "'\\''")),
    }
}
