//! `search`: models on the hub.

use futures_util::StreamExt;
use jiff::Timestamp;
use serde::Serialize;

use super::arguments::Search;
use super::exit::{Exit, Outcome};
use super::output::table::{Align, Table};
use super::session::{self, Session};
use crate::error::Result;
use crate::format::Metadata;
use crate::hub::{HubClient, Repository, SearchHit, SearchQuery};
use crate::model::memory::{Conditions, Fit, HostMemory, Verdict};
use crate::model::selection;
use crate::model::{Bytes, FileName, Quantization, RemoteFile, RepoPath, text};
use crate::provisioner::{ModelProvisioner, RemoteHeader};
use crate::store::fit::fit_of_choice;

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
    /// Null unless the listing was asked for.
    architecture: Option<String>,
    /// Training context in tokens.
    context_length: Option<u64>,
    quantizations: Vec<Offer>,
}

#[derive(Serialize)]
struct Offer {
    name: String,
    /// Null unless the listing was asked for.
    size_bytes: Option<u64>,
    files: Vec<String>,
    /// Whether it fits this host, by a header of the repository; null unless the listing was asked for.
    fit: Option<Fit>,
}

pub(super) async fn run(session: &mut Session, arguments: Search) -> Outcome {
    let hub = session.provisioner.hub()?;
    let query = SearchQuery { text: arguments.query.join(" "), limit: arguments.limit.into() };
    let wanted = if arguments.files {
        let (memory, signal) = session.blocking(|| session::memory_probe().read()).await?;
        if let Some(exit) = signal {
            return Ok(exit);
        }
        Some(Wanted { provisioner: session.provisioner.clone(), memory, conditions: session.settings.fit })
    } else {
        None
    };
    let work = async {
        let hits = hub.search_with_files(&query).await?;
        let hits = hits.into_iter().map(|(hit, paths)| complete(&hub, hit, paths, wanted.as_ref()));
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
        let mut label = self.name.clone();
        if let Some(bytes) = self.size_bytes {
            label.push_str(&format!(" {}", Bytes(bytes)));
        }
        if let Some(fit) = self.fit.as_ref().filter(|fit| fit.verdict != Verdict::Unknown) {
            label.push_str(&format!(" ({})", fit.verdict.word()));
        }
        label
    }
}

/// What `--files` asks for beside the hits.
struct Wanted {
    provisioner: ModelProvisioner,
    memory: HostMemory,
    conditions: Conditions,
}

/// The hit with its quantizations: their names from the search; if that is wanted, their sizes from its listing and what they
/// need from one header. A repository that shows no listing or no header is still a hit; why comes with it.
async fn complete(
    hub: &HubClient,
    hit: SearchHit,
    paths: Vec<RepoPath>,
    wanted: Option<&Wanted>,
) -> (Hit, Option<String>) {
    let mut hit = Hit {
        id: hit.id,
        downloads: hit.downloads,
        likes: hit.likes,
        updated: hit.updated,
        gated: hit.gated,
        tags: hit.tags,
        architecture: None,
        context_length: None,
        quantizations: Vec::new(),
    };
    let nameless = |path| RemoteFile { path, size: 0, digest: None, blob_id: None, xet_hash: None };
    let named = |paths: Vec<RepoPath>| paths.into_iter().map(nameless).collect::<Vec<_>>();
    let Some(wanted) = wanted else {
        hit.quantizations = offers(&named(paths), false);
        return (hit, None);
    };
    let (repository, files) = match listing(hub, &hit.id).await {
        Ok(listed) => listed,
        Err(error) => {
            hit.quantizations = offers(&named(paths), false);
            return (hit, Some(error.to_string()));
        }
    };
    hit.quantizations = offers(&files, true);
    let Some(header) = RemoteHeader::of(&repository, &files) else { return (hit, None) };
    match wanted.provisioner.remote_metadata(&header).await {
        Ok(metadata) => {
            hit.architecture.clone_from(&metadata.architecture);
            hit.context_length = metadata.context_length;
            if hit.quantizations.is_empty() {
                hit.quantizations.push(unquantized(&header, &metadata));
            }
            for offer in &mut hit.quantizations {
                offer.fit = offer
                    .size_bytes
                    .and_then(|bytes| fit_of_choice(bytes, &metadata, &wanted.memory, &wanted.conditions));
            }
            (hit, None)
        }
        Err(error) => (hit, Some(error.to_string())),
    }
}

async fn listing(hub: &HubClient, id: &str) -> Result<(Repository, Vec<RemoteFile>)> {
    let repository = hub.repository(id, None).await?;
    let files = hub.listing(&repository).await?.files;
    Ok((repository, files))
}

/// The weights of a repository whose names tell no quantization, under what the header tells.
fn unquantized(header: &RemoteHeader, metadata: &Metadata) -> Offer {
    Offer {
        name: metadata.quantization.as_ref().map_or_else(
            || if header.file.path.as_str().ends_with(".gguf") { "GGUF" } else { "safetensors" }.to_owned(),
            ToString::to_string,
        ),
        size_bytes: Some(header.set_bytes()),
        files: header.set.iter().map(|file| file.path.as_str().to_owned()).collect(),
        fit: None,
    }
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
            fit: None,
        }
    };
    selection::quantizations(files).into_iter().map(offer).collect()
}
