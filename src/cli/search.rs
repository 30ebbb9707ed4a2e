//! `search`: models on the hub.

use std::sync::Arc;

use futures_util::StreamExt;
use jiff::Timestamp;
use serde::Serialize;
use unicode_width::UnicodeWidthStr;

use super::arguments::Search;
use super::exit::{Exit, Outcome};
use super::output::Output;
use super::output::table::{Align, Table};
use super::session::{self, Session};
use crate::error::Result;
use crate::format::Metadata;
use crate::hub::{HubClient, Repository, SearchHit, SearchQuery};
use crate::model::memory::{Conditions, DEFAULT_CONTEXT, Fit, HostMemory};
use crate::model::selection;
use crate::model::size::grouped;
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
        if let Some(unknown) = memory.unknown_gpus() {
            session.output.say(&format!("llorch-models: what the GPUs hold is not known: {unknown}"));
        }
        let mut conditions = session.settings.fit;
        conditions.context = arguments.context.or(conditions.context);
        conditions.cache_type = arguments.cache_type.unwrap_or(conditions.cache_type);
        Some(Wanted { provisioner: session.provisioner.clone(), memory, conditions })
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
    if let Some(wanted) = &wanted {
        session.output.print(&in_full(&hits, &wanted.conditions, &session.output))?;
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
            offers.map(|offer| offer.name.as_str()).collect::<Vec<_>>().join(", "),
        ]);
    }
    session.output.print(&table.render(&session.output))?;
    Ok(Exit::Done)
}

/// Each hit with a line for each of its quantizations, the smallest first.
fn in_full(hits: &[Hit], conditions: &Conditions, output: &Output) -> String {
    let mut table = Table::new()
        .flexible("  QUANT")
        .column("SIZE", Align::Right)
        .column("FITS", Align::Left)
        .column("NEEDS", Align::Right);
    for hit in hits {
        let mut offers: Vec<&Offer> = hit.quantizations.iter().collect();
        offers.sort_by_key(|offer| offer.size_bytes);
        for offer in offers {
            table.row(vec![
                format!("  {}", text::printable(&offer.name)),
                offer.size_bytes.map(|bytes| Bytes(bytes).to_string()).unwrap_or_default(),
                offer.fit.as_ref().map(|fit| fit.verdict.word()).unwrap_or_default(),
                offer.fit.as_ref().and_then(Fit::figure).unwrap_or_default(),
            ]);
        }
    }
    let rendered = table.render(output);
    let mut lines = rendered.lines();
    let mut out = String::new();
    // Without any quantization there are no columns either.
    if hits.iter().any(|hit| !hit.quantizations.is_empty()) {
        out.extend(lines.next().map(|head| format!("{head}\n")));
    }
    for hit in hits {
        out.push_str(&hit.heading(output.width));
        for line in lines.by_ref().take(hit.quantizations.len()) {
            out.push_str(line);
            out.push('\n');
        }
    }
    let context = match conditions.context {
        Some(tokens) => format!("{} tokens of context", grouped(tokens)),
        None => format!(
            "{} tokens of context, or what the model was trained for where that is less; --context asks for another",
            grouped(DEFAULT_CONTEXT)
        ),
    };
    out.push_str(&format!("\nfits are for {context}\n"));
    out
}

impl Hit {
    /// Its name and what is known of all its quantizations, in as many lines as the terminal needs.
    fn heading(&self, width: Option<usize>) -> String {
        let beyond = self.quantizations.iter().find_map(|offer| offer.fit.as_ref()?.need.as_ref()?.beyond_training);
        let trained = match (beyond, self.context_length) {
            (Some(tokens), _) => Some(format!("trained for {} tokens only", grouped(tokens))),
            (None, Some(tokens)) => Some(format!("trained for {} tokens", grouped(tokens))),
            (None, None) => None,
        };
        let facts = [
            Some(self.told.parameters()).filter(|count| !count.is_empty()).map(|count| format!("{count} parameters")),
            self.architecture.as_deref().map(text::printable),
            trained,
            Some(format!("{} downloads", grouped(self.downloads))),
            self.updated.map(|time| time.strftime("%Y-%m-%d").to_string()),
            self.gated.then(|| "gated".to_owned()),
        ];
        let mut out = text::printable(&self.id);
        let mut column = out.width();
        let mut gap = "  ";
        for fact in facts.into_iter().flatten() {
            if width.is_some_and(|width| column + gap.len() + fact.width() + 1 > width) {
                // A comma stays on the line before.
                out.push_str(gap.trim_end());
                out.push_str("\n    ");
                (column, gap) = (4, "");
            }
            out.push_str(gap);
            out.push_str(&fact);
            column += gap.len() + fact.width();
            gap = ", ";
        }
        out.push('\n');
        out
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_heading_takes_the_lines_that_a_terminal_needs() {
        let hit = Hit {
            id: "bartowski/Llama-3.3-70B-Instruct-GGUF".to_owned(),
            downloads: 1_234_567,
            likes: 1,
            updated: Some(Timestamp::UNIX_EPOCH),
            gated: true,
            tags: Vec::new(),
            architecture: Some("llama".to_owned()),
            context_length: Some(131_072),
            told: Told { parameters: Some(70_553_706_576), ..Told::default() },
            quantizations: Vec::new(),
        };
        assert_eq!(hit.heading(None).lines().count(), 1);
        let heading = hit.heading(Some(80));
        assert!(heading.lines().count() > 1 && heading.lines().all(|line| line.width() <= 80), "{heading}");
        let joined = heading.replace("\n    ", " ").replace("GGUF ", "GGUF  ").replace("GGUF   ", "GGUF  ");
        assert_eq!(joined, hit.heading(None));
        for narrow in 1..40 {
            assert!(hit.heading(Some(narrow)).ends_with("gated\n"));
        }
    }
}
