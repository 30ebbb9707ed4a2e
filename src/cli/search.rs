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
use crate::model::{Bytes, FileName, Quantization, RemoteFile, RepoPath, text};

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
    quantizations: Vec<Offer>,
}

#[derive(Serialize)]
struct Offer {
    name: String,
    /// Null unless the listing was asked for.
    size_bytes: Option<u64>,
    files: Vec<String>,
}

pub(super) async fn run(session: &mut Session, arguments: Search) -> Outcome {
    let hub = session.provisioner.hub()?;
    let query = SearchQuery { text: arguments.query.join(" "), limit: arguments.limit.into() };
    let files = arguments.files;
    let work = async {
        let hits = hub.search_with_files(&query).await?;
        let hits = hits.into_iter().map(|(hit, paths)| complete(&hub, hit, paths, files));
        Ok::<Vec<_>, crate::Error>(futures_util::stream::iter(hits).buffered(AT_ONCE).collect().await)
    };
    let (hits, signal) = session.ask_hub(work).await;
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
        .column("MODEL", Align::Left)
        .column("DOWNLOADS", Align::Right)
        .leaves(3)
        .column("LIKES", Align::Right)
        .leaves(1)
        .column("UPDATED", Align::Left)
        .leaves(2)
        .column("NOTE", Align::Left)
        .leaves(5)
        .flexible("QUANTIZATIONS")
        .leaves(4);
    for hit in &hits {
        let offers = hit.quantizations.iter();
        table.row(vec![
            text::printable(&hit.id),
            hit.downloads.to_string(),
            hit.likes.to_string(),
            hit.updated.map(|time| time.strftime("%Y-%m-%d").to_string()).unwrap_or_default(),
            if hit.gated { "gated".to_owned() } else { String::new() },
            offers.map(Offer::label).collect::<Vec<_>>().join(", "),
        ]);
    }
    session.output.print(&table.render(&session.output))?;
    Ok(Exit::Done)
}

impl Offer {
    fn label(&self) -> String {
        self.size_bytes.map_or_else(|| self.name.clone(), |bytes| format!("{} {}", self.name, Bytes(bytes)))
    }
}

/// The hit with its quantizations: their names from the search, their sizes from its listing if that is wanted. A
/// repository that shows no listing is still a hit; why comes with it.
async fn complete(hub: &HubClient, hit: SearchHit, paths: Vec<RepoPath>, sizes: bool) -> (Hit, Option<String>) {
    let listed = if sizes { Some(listing(hub, &hit.id).await) } else { None };
    let (files, known, problem) = match listed {
        Some(Ok(files)) => (files, true, None),
        other => {
            let nameless = |path| RemoteFile { path, size: 0, digest: None, blob_id: None, xet_hash: None };
            let problem = other.and_then(Result::err).map(|error| error.to_string());
            (paths.into_iter().map(nameless).collect(), false, problem)
        }
    };
    let quantizations = offers(&files, known);
    let SearchHit { id, downloads, likes, updated, gated, tags, .. } = hit;
    (Hit { id, downloads, likes, updated, gated, tags, quantizations }, problem)
}

async fn listing(hub: &HubClient, id: &str) -> Result<Vec<RemoteFile>> {
    let repository = hub.repository(id, None).await?;
    Ok(hub.listing(&repository).await?.files)
}

fn offers(files: &[RemoteFile], sizes: bool) -> Vec<Offer> {
    let offer = |quantization: Quantization| {
        let files: Vec<&RemoteFile> = files
            .iter()
            .filter(|file| {
                let name = FileName::parse(file.path.file_name());
                name.is_gguf() && name.is_weights() && Quantization::of_path(&file.path).as_ref() == Some(&quantization)
            })
            .collect();
        Offer {
            name: quantization.to_string(),
            size_bytes: sizes.then(|| files.iter().map(|file| file.size).sum()),
            files: files.iter().map(|file| file.path.as_str().to_owned()).collect(),
        }
    };
    selection::quantizations(files).into_iter().map(offer).collect()
}
