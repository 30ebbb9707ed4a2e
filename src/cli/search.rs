//! `search`: models on the hub.

use std::sync::Arc;

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
use crate::model::{Bytes, FileName, Quantization, RemoteFile, RepoPath, size, text};
use crate::provisioner::{Bounds, ModelProvisioner, RemoteHeader};
use crate::store::remote::RemoteRow;

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
    /// What the headers tell beside those; null unless the listing was asked for.
    #[serde(flatten)]
    told: Told,
    quantizations: Vec<Offer>,
}

/// What the headers of one set of a repository's weights tell, and how far they were read.
#[derive(Default, Serialize)]
struct Told {
    /// The sum over the tensors; null where not all headers were read.
    parameters: Option<u64>,
    /// The sum over those headers that were read, where not all were.
    parameters_at_least: Option<u64>,
    /// What others count, where the headers do not tell: scales of quantized weights too, and packed ones as they lie.
    parameters_stated: Option<u64>,
    /// Who counts so: `the hub`, `its index`.
    parameters_stated_by: Option<&'static str>,
    quantization: Option<Quantization>,
    bits_per_weight: Option<f64>,
    /// As in `info --json`.
    metadata: Option<Arc<Metadata>>,
    /// Files of the set, those whose headers were read, and why not all were.
    headers: Option<usize>,
    headers_read: Option<usize>,
    headers_why: Option<String>,
    /// What would be loaded beside the weights.
    projector: Option<Projector>,
    warnings: Vec<String>,
}

#[derive(Serialize)]
struct Projector {
    path: String,
    size_bytes: u64,
    /// What it takes in memory, by its header where that was read.
    loaded_bytes: u64,
}

impl Told {
    fn of(header: &RemoteHeader, row: &RemoteRow) -> Self {
        let projector = header.projector.as_ref().map(|file| Projector {
            path: file.path.as_str().to_owned(),
            size_bytes: file.size,
            loaded_bytes: row.projector_bytes.unwrap_or(file.size),
        });
        Self {
            parameters: row.model.parameters,
            parameters_at_least: row.model.parameters_at_least.filter(|_| row.model.parameters.is_none()),
            parameters_stated: row.stated.map(|stated| stated.parameters),
            parameters_stated_by: row.stated.map(|stated| stated.by),
            quantization: row.model.quantization.clone(),
            bits_per_weight: row.metadata.as_deref().and_then(Metadata::bits_per_weight),
            metadata: row.metadata.clone(),
            headers: Some(row.of),
            headers_read: Some(row.read),
            headers_why: row.why_partial.clone(),
            projector,
            warnings: row.model.warnings.clone(),
        }
    }

    /// What the hub itself says, where no header can be read.
    fn of_summary(header: &RemoteHeader) -> Self {
        let parameters_stated = header.summary.parameters;
        Self { parameters_stated, parameters_stated_by: parameters_stated.map(|_| "the hub"), ..Self::default() }
    }

    /// Parameters in a cell: `8.03B`, `>12.3B`, `~70.6B` by the count of somebody else.
    fn parameters(&self) -> String {
        let known = self.parameters.map(size::parameters);
        let stated = || self.parameters_stated.map(|count| format!("~{}", size::parameters(count)));
        let bound = || self.parameters_at_least.map(|count| format!(">{}", size::parameters(count)));
        known.or_else(stated).or_else(bound).unwrap_or_default()
    }
}

#[derive(Serialize)]
struct Offer {
    name: String,
    /// Null unless the listing was asked for.
    size_bytes: Option<u64>,
    files: Vec<String>,
    /// Bits that a parameter takes, scales included, by a header of the repository; null where that does not tell.
    bits_per_weight: Option<f64>,
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
        .column("PARAMS", Align::Right)
        .leaves(7)
        .column("ARCH", Align::Left)
        .leaves(3)
        .column("CONTEXT", Align::Right)
        .leaves(4)
        .column("DOWNLOADS", Align::Right)
        .leaves(5)
        .column("LIKES", Align::Right)
        .leaves(1)
        .column("UPDATED", Align::Left)
        .leaves(2)
        .column("NOTE", Align::Left)
        .leaves(8)
        .flexible("QUANTIZATIONS")
        .leaves(6);
    for hit in &hits {
        let offers = hit.quantizations.iter();
        table.row(vec![
            text::printable(&hit.id),
            hit.told.parameters(),
            hit.architecture.as_deref().map(text::printable).unwrap_or_default(),
            hit.context_length.map(|tokens| tokens.to_string()).unwrap_or_default(),
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
        told: Told::default(),
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
    match wanted.provisioner.remote_row(&header, &Bounds::GLANCE, |_| {}).await {
        Ok(row) => {
            hit.architecture.clone_from(&row.model.architecture);
            hit.context_length = row.model.context_length;
            hit.told = Told::of(&header, &row);
            if hit.quantizations.is_empty() {
                hit.quantizations.push(unquantized(&header, &row));
            }
            for offer in &mut hit.quantizations {
                let fit = |bytes| row.fit(bytes, false, &wanted.memory, &wanted.conditions);
                offer.fit = offer.size_bytes.and_then(fit);
                offer.bits_per_weight = offer.size_bytes.and_then(|bytes| row.bits_per_weight(bytes));
            }
            (hit, None)
        }
        Err(error) => {
            hit.architecture.clone_from(&header.summary.architecture);
            hit.context_length = header.summary.context_length;
            hit.told = Told::of_summary(&header);
            (hit, Some(error.to_string()))
        }
    }
}

async fn listing(hub: &HubClient, id: &str) -> Result<(Repository, Vec<RemoteFile>)> {
    let repository = hub.repository(id, None).await?;
    let files = hub.listing(&repository).await?.files;
    Ok((repository, files))
}

/// The weights of a repository whose names tell no quantization, under what the header tells.
fn unquantized(header: &RemoteHeader, row: &RemoteRow) -> Offer {
    Offer {
        name: row.model.quantization.as_ref().map_or_else(
            || if header.file.path.as_str().ends_with(".gguf") { "GGUF" } else { "safetensors" }.to_owned(),
            ToString::to_string,
        ),
        size_bytes: Some(header.set_bytes()),
        files: header.set.iter().map(|file| file.path.as_str().to_owned()).collect(),
        bits_per_weight: None,
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
            bits_per_weight: None,
            fit: None,
        }
    };
    selection::quantizations(files).into_iter().map(offer).collect()
}
