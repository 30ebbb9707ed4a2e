//! The parts of a row with their figures.

use crate::store::parts::QuantizationPart;
use crate::store::{Details, Part, Store};

/// Most parts of each sort whose figures are looked for: each needs a plan of its own.
const MAX: usize = 64;

/// Adds to `details` what each quantization and each revision takes.
pub(super) fn add(store: &dyn Store, details: &mut Details) {
    let id = details.model.identity.id.clone();
    if details.model.quantizations.len() > 1 {
        let labels: Vec<String> =
            details.model.quantizations.iter().take(MAX).map(|label| label.as_str().to_owned()).collect();
        let parts: Vec<Part> = labels.iter().cloned().map(Part::Quantization).collect();
        let figures = store.figures(&id, &parts);
        details.parts = labels
            .into_iter()
            .zip(figures)
            .filter_map(|(quantization, figures)| Some(QuantizationPart { quantization, figures: figures? }))
            .collect();
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
