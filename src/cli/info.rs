//! `info`: everything about one model.

use jiff::Timestamp;
use serde::Serialize;

use super::arguments::Info;
use super::exit::{Exit, Outcome};
use super::list::count;
use super::output::Output;
use super::output::table::{Align, Table};
use super::session::{self, Session, of_page};
use crate::error::Error;
use crate::format::Metadata;
use crate::model::selector::Selector;
use crate::model::size::grouped;
use crate::model::{Bytes, Format, Reference, text, way_out};
use crate::store::fit::{self, FitReport};
use crate::store::flat::ORIGIN_UNKNOWN;
use crate::store::{Details, Part};

/// `info --json`: the row, its files, and what is known beside them.
#[derive(Serialize)]
struct Shown<'a> {
    #[serde(flatten)]
    details: &'a Details,
    /// Whether it fits into the memory of this host; null for what is no model.
    fit: Option<&'a FitReport>,
}

pub(super) async fn run(session: &mut Session, arguments: Info) -> Outcome {
    let (inventory, store_path) = (session.inventory.clone(), session.store_path.clone());
    let provisioner = session.provisioner.clone();
    let (cancel, json) = (session.cancel.clone(), arguments.json);
    let mut conditions = session.settings.fit;
    conditions.context = arguments.context.or(conditions.context);
    conditions.cache_type = arguments.cache_type.unwrap_or(conditions.cache_type);
    let asked = of_page(&provisioner, &arguments.reference);
    let (context, reference) = (arguments.context, asked.clone());
    let (details, signal) = session
        .blocking(move || {
            let target = inventory.find_to_read(&Selector::parse(&asked)?, store_path.as_deref())?;
            let mut details = inventory.details_of(&target)?;
            // Every store is looked at for that, and only programs are told.
            details.model.duplicate = json && inventory.has_copies(&target.model, &cancel);
            let memory = session::memory_probe().read();
            let report = fit::report(&details.model, details.metadata.as_deref(), &details.loads, &memory, &conditions);
            Ok::<_, Error>((details, report))
        })
        .await?;
    if let Some(exit) = signal {
        return Ok(exit);
    }
    let (details, report) = details.map_err(|error| with_the_way_to_the_hub(error, &reference, context))?;
    if arguments.json {
        session.output.json(&Shown { details: &details, fit: report.as_ref() })?;
    } else {
        session.output.print(&text(&details, report.as_ref(), &session.output))?;
    }
    Ok(Exit::Done)
}

/// Of a model that is not here the hub tells whether it would fit.
fn with_the_way_to_the_hub(error: Error, reference: &str, context: Option<u64>) -> Error {
    let Error::ModelNotFound { reference: shown, place } = error else { return error };
    let name = Reference::parse(reference).ok().filter(|reference| reference.repository().is_some());
    let place = name.map_or(place.clone(), |name| {
        let context = context.map(|tokens| format!(" --context {tokens}")).unwrap_or_default();
        let name = text::printable(name.last_part());
        format!("{place}; `llorch-models search --files {name}{context}` tells whether it would fit")
    });
    Error::ModelNotFound { reference: shown, place }
}

/// A part as it was asked for.
fn part_name(part: &Part) -> String {
    match part {
        Part::Whole => String::new(),
        Part::Quantization(label) => label.clone(),
        Part::Revision(revision) => format!("revision {revision}"),
        Part::QuantizationOf { quantization, revision } => format!("{quantization} in revision {revision}"),
        Part::Files(paths) => paths.join(", "),
    }
}

/// A time without fractions of a second, which no decision needs.
fn second(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn text(details: &Details, fit: Option<&FitReport>, output: &Output) -> String {
    let model = &details.model;
    let mut facts: Vec<(&str, String)> = Vec::new();
    let mut fact = |name, value: Option<String>| {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            facts.push((name, value));
        }
    };
    fact("model", Some(model.identity.to_string()));
    fact("part", details.part.as_ref().map(|part| text::printable(&part_name(part))));
    // Without a record the catalog may still tell the repository, by the name of the file.
    let guessed = model.reference.is_some() && model.warnings.iter().any(|warning| warning == ORIGIN_UNKNOWN);
    let by_name = if guessed { " (by the names of its files)" } else { "" };
    fact("reference", model.reference.as_deref().map(|reference| text::printable(reference) + by_name));
    fact("path", Some(text::printable_path(&model.path)));
    fact("format", model.format.map(Format::name).map(str::to_owned));
    fact(
        "quantization",
        Some(model.quantization_line(details.metadata.as_deref().and_then(Metadata::bits_per_weight))),
    );
    fact("architecture", model.architecture.as_deref().map(text::printable));
    fact("parameters", model.parameters_line());
    fact("context", model.context_length.map(|tokens| format!("{} tokens", grouped(tokens))));
    fact("files", model.measured.then(|| model.file_count.to_string()));
    fact("size", Some(model.size(model.size_bytes)));
    fact("on disk", Some(model.size(model.disk_bytes)));
    fact("reclaimable", Some(model.size(model.reclaimable_bytes)));
    fact("owner", model.owner.clone());
    fact("mount", model.mount.as_deref().map(text::printable_path));
    fact("modified", model.modified.map(second));
    fact("used", model.accessed.map(second));
    fact("", details.evidence.access_times.map(|times| times.trust().to_owned()));
    fact("state", Some(model.state().unwrap_or("complete").to_owned()));
    for part in &details.parts {
        let (on_disk, frees) = (Bytes(part.figures.disk_bytes), Bytes(part.figures.reclaimable_bytes));
        fact("part", Some(format!("{}, {on_disk} on disk, frees {frees} alone", part.label())));
    }
    for revision in &details.revisions {
        let refs = if revision.refs.is_empty() { String::new() } else { format!(" ({})", revision.refs.join(", ")) };
        let on_disk = revision.disk_bytes.map(|bytes| format!("{} on disk, ", Bytes(bytes))).unwrap_or_default();
        let frees = Bytes(revision.reclaimable_bytes);
        let name = text::printable(&format!("{}{refs}", revision.commit));
        fact("revision", Some(format!("{name}, {on_disk}frees {frees} alone")));
    }
    for shared in &details.shared {
        let name = text::printable(&shared.path);
        let others = shared.used_by.join(", ");
        fact("shared", Some(format!("{name}, {}, also used by {others}", Bytes(shared.disk_bytes))));
    }
    fact("protected", model.protected.then(|| "by the configuration: no plan takes it".to_owned()));
    if let Some(metadata) = &details.metadata {
        // With one quantization they stand beside it.
        let told = |name: &str| name == "bits/weight" && model.quantization.is_some();
        for (name, value) in metadata.facts().into_iter().filter(|(name, _)| !told(name)) {
            fact(name, Some(value));
        }
    }
    if let Some(report) = fit {
        fact("fit", Some(report.answer()));
        for (name, value) in report.parts() {
            fact(name, Some(value));
        }
    }
    if model.in_use_by.as_ref().is_some_and(Vec::is_empty) {
        fact("in use", Some("not seen".to_owned()));
    }
    fact(
        "",
        details
            .evidence
            .unreadable_processes
            .filter(|number| *number > 0)
            .map(|number| format!("({} of other users could not be looked into)", count(number, "process"))),
    );
    for holder in model.in_use_by.iter().flatten() {
        fact("in use by", Some(format!("{} ({}, {})", holder.pid, holder.user, holder.command)));
    }
    for warning in model.warnings.iter().filter(|warning| !guessed || *warning != ORIGIN_UNKNOWN) {
        fact("warning", Some(warning.clone()));
    }
    if let Some(line) = model.damage.and_then(|damage| way_out(model, damage)) {
        fact("way out", Some(line));
    }
    let width = facts.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let mut out: String = facts.iter().map(|(name, value)| format!("{name:width$}  {value}\n")).collect();
    let mut files = Table::new().flexible("FILE").column("ROLE", Align::Left).column("SIZE", Align::Right);
    for file in &details.files {
        let role = format!("{:?}", file.role).to_lowercase();
        files.row(vec![file.label(), role, Bytes(file.size_bytes).to_string()]);
    }
    if !details.files.is_empty() {
        out.push('\n');
        out.push_str(&files.render(output));
    }
    out
}
