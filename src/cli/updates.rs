//! `updates`: which models have changed on the hub.

use super::arguments::Updates;
use super::exit::{Exit, Outcome};
use super::output::table::{Align, Table};
use super::session::Session;
use crate::model::{Bytes, text};

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
            Bytes(update.fetch_bytes).to_string(),
        ]);
    }
    session.output.print(&table.render(&session.output))?;
    Ok(Exit::Done)
}
