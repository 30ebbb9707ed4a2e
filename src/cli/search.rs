//! `search`: models on the hub.

use futures_util::StreamExt;
use jiff::Timestamp;
use serde::Serialize;

use super::arguments::Search;
use super::exit::{Exit, Outcome};
use super::output::table::{Align, Table};
use super::session::Session;
use crate::error::Result;
use crate::hub::{HubClient, SearchHit, SearchQuery};
use crate::model::selection;
use crate::model::{Bytes, FileName, Quantization, RemoteFile, text};

/// Listings that are asked for at once.
const AT_ONCE: usize = 4;

/// An element of `search --json`.
#[derive(Serialize)]
struct Hit {
    id: String,
    downloads: u64,
    likes: u64,
    updated: Option<Timestamp>,
    gated: bool,
    tags: Vec<String>,
    /// Null unless the files were asked for.
    quantizations: Option<Vec<Offer>>,
}

#[derive(Serialize)]
struct Offer {
    name: String,
    size_bytes: u64,
    files: Vec<String>,
}

pub(super) async fn run(session: &mut Session, arguments: Search) -> Outcome {
    let hub = session.provisioner.hub()?;
    let query = SearchQuery { text: arguments.query.join(" "), limit: arguments.limit.into() };
    let files = arguments.files;
    let (hits, signal) = session
        .guard(async {
            let hits = hub.search(&query).await?;
            let hits = hits.into_iter().map(|hit| complete(&hub, hit, files));
            Ok::<Vec<(Hit, Option<String>)>, crate::Error>(
                futures_util::stream::iter(hits).buffered(AT_ONCE).collect().await,
            )
        })
        .await;
    if let Some(exit) = signal {
        return Ok(exit);
    }
    let (hits, problems): (Vec<Hit>, Vec<Option<String>>) = hits?.into_iter().unzip();
    for problem in problems.into_iter().flatten() {
        session.output.say(&format!("llorch-models: {problem}"));
    }
    if arguments.json {
        session.output.json(&hits)?;
        return Ok(Exit::Done);
    }
    if hits.is_empty() {
        session.output.say(&format!("no model of the hub has '{}' in its name", text::printable(&query.text)));
        return Ok(Exit::Done);
    }
    let mut table = Table::new()
        .flexible("MODEL")
        .column("DOWNLOADS", Align::Right)
        .column("LIKES", Align::Right)
        .column("UPDATED", Align::Left)
        .column("NOTE", Align::Left)
        .column("QUANTIZATIONS", Align::Left);
    for hit in &hits {
        let offers = hit.quantizations.iter().flatten();
        table.row(vec![
            text::printable(&hit.id),
            hit.downloads.to_string(),
            hit.likes.to_string(),
            hit.updated.map(|time| time.strftime("%Y-%m-%d").to_string()).unwrap_or_default(),
            if hit.gated { "gated".to_owned() } else { String::new() },
            offers.map(|offer| format!("{} {}", offer.name, Bytes(offer.size_bytes))).collect::<Vec<_>>().join(", "),
        ]);
    }
    session.output.print(&table.render(&session.output))?;
    Ok(Exit::Done)
}

/// The hit, with its files if they are wanted. A repository that shows no files is still a hit; why comes with it.
async fn complete(hub: &HubClient, hit: SearchHit, files: bool) -> (Hit, Option<String>) {
    let mut problem = None;
    let mut quantizations = None;
    if files {
        match offers(hub, &hit.id).await {
            Ok(offers) => quantizations = Some(offers),
            Err(error) => problem = Some(error.to_string()),
        }
    }
    let SearchHit { id, downloads, likes, updated, gated, tags, .. } = hit;
    (Hit { id, downloads, likes, updated, gated, tags, quantizations }, problem)
}

async fn offers(hub: &HubClient, id: &str) -> Result<Vec<Offer>> {
    let repository = hub.repository(id, None).await?;
    let listing = hub.listing(&repository).await?;
    let offer = |quantization: Quantization| {
        let files = listing.files.iter().filter(|file| {
            let name = FileName::parse(file.path.file_name());
            name.is_gguf() && name.is_weights() && Quantization::of_path(&file.path).as_ref() == Some(&quantization)
        });
        let files: Vec<&RemoteFile> = files.collect();
        Offer {
            name: quantization.to_string(),
            size_bytes: files.iter().map(|file| file.size).sum(),
            files: files.iter().map(|file| file.path.as_str().to_owned()).collect(),
        }
    };
    Ok(selection::quantizations(&listing.files).into_iter().map(offer).collect())
}
