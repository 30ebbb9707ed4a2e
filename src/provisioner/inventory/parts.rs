//! The parts of a row with their figures.

use crate::store::parts::{Figures, QuantizationPart};
use crate::store::{Details, Part, Store};

/// Most parts of each sort whose figures are looked for: each needs a plan of its own.
const MAX: usize = 64;

/// Adds to `details` what each quantization and each revision takes.
pub(super) fn add(store: &dyn Store, details: &mut Details) {
    let id = details.model.identity.id.clone();
    if details.model.selects.len() > 1 {
        let labels: Vec<String> =
            details.model.selects.iter().take(MAX).map(|label| label.as_str().to_owned()).collect();
        let parts: Vec<Part> = labels.iter().cloned().map(Part::Quantization).collect();
        let figures = store.figures(&id, &parts);
        let part = |(quantization, figures): (String, Option<Figures>)| {
            let load = details.loads.quantizations.iter().find(|load| load.quantization.as_str() == quantization);
            Some(QuantizationPart {
                header: load.and_then(|load| load.metadata.quantization.clone()),
                bits_per_weight: load.and_then(|load| load.metadata.bits_per_weight()),
                figures: figures?,
                quantization,
            })
        };
        details.parts = labels.into_iter().zip(figures).filter_map(part).collect();
    }
    let commits: Vec<Part> =
        details.revisions.iter().take(MAX).map(|revision| Part::Revision(revision.commit.clone())).collect();
    if commits.is_empty() {
        return;
    }
    for (revision, figures) in details.revisions.iter_mut().zip(store.figures(&id, &commits)) {
        let Some(figures) = figures else { continue };
        revision.size_bytes = Some(figures.size_bytes);
        revision.disk_bytes = Some(figures.disk_bytes);
        revision.reclaimable_bytes = figures.reclaimable_bytes;
    }
}

/// Replaces the figures in the details of a part by those of that part.
pub(super) fn narrow(store: &dyn Store, part: &Part, details: &mut Details) {
    let id = details.model.identity.id.clone();
    if let Some(Some(figures)) = store.figures(&id, std::slice::from_ref(part)).into_iter().next() {
        let model = &mut details.model;
        model.size_bytes = figures.size_bytes;
        model.disk_bytes = figures.disk_bytes;
        model.reclaimable_bytes = figures.reclaimable_bytes;
        model.file_count = details.files.len() as u64;
    }
    details.revisions.clear();
    let here = |path: &str| details.files.iter().any(|file| file.path == path);
    details.shared.retain(|file| here(&file.path));
    details.part = Some(part.clone());
}
