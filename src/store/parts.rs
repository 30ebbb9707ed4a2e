//! Parts of a row with figures of their own: what each takes, and what deleting it alone would free.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde::Serialize;

use super::verify::Expected;
use crate::model::{Plan, Quantization, text};

/// What a part takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Figures {
    /// `st_size` over its distinct files.
    pub size_bytes: u64,
    /// `st_blocks * 512` over the same.
    pub disk_bytes: u64,
    /// What deleting it alone would free.
    pub reclaimable_bytes: u64,
}

impl Figures {
    /// Of the files that make up a part, and of the plan to delete it: what is kept of them beside them goes with them, and
    /// counts on disk as it does for the row.
    pub(super) fn of(root: &Path, files: &[Expected], plan: &Plan) -> Self {
        let mut distinct = BTreeMap::new();
        let mut add = |path: &Path, is_content: bool| {
            // What is not there takes nothing.
            let Ok(status) = fs::symlink_metadata(path) else { return };
            if status.is_file() {
                let size = if is_content { status.len() } else { 0 };
                distinct.entry((status.dev(), status.ino())).or_insert((size, status.blocks() * 512));
            }
        };
        files.iter().for_each(|file| add(&root.join(&file.location), true));
        plan.steps.iter().for_each(|step| add(&step.path(), false));
        Self {
            size_bytes: distinct.values().map(|(size, _)| size).sum(),
            disk_bytes: distinct.values().map(|(_, disk)| disk).sum(),
            reclaimable_bytes: plan.expected_bytes,
        }
    }
}

/// One quantization of a row that has several.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct QuantizationPart {
    /// What selects it: the label that its name tells.
    pub quantization: String,
    /// What it is by its header, where one was read.
    pub header: Option<Quantization>,
    /// Bits that a parameter of it takes on average.
    pub bits_per_weight: Option<f64>,
    /// What it takes.
    #[serde(flatten)]
    pub figures: Figures,
}

/// A file that other rows of the store use, too: it goes with the last of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SharedFile {
    /// Path inside the model.
    pub path: String,
    /// `st_blocks * 512`.
    pub disk_bytes: u64,
    /// Ids of the others.
    pub used_by: Vec<String>,
}

impl QuantizationPart {
    /// What it is called: by its name, and where its header says something else, by that too.
    #[must_use]
    pub fn label(&self) -> String {
        let mut more: Vec<String> = Vec::new();
        more.extend(self.header.as_ref().filter(|label| label.as_str() != self.quantization).map(ToString::to_string));
        more.extend(self.bits_per_weight.map(|bits| format!("{bits:.2} bits/weight")));
        let more = if more.is_empty() { String::new() } else { format!(" ({})", more.join(", ")) };
        format!("{}{more}", text::printable(&self.quantization))
    }
}
