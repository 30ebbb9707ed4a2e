//! The memory of a host, as it was measured.

use serde::{Deserialize, Serialize};

/// A GPU, or an instance of one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// `GPU0`; an instance of one is `GPU0/1`.
    pub label: String,
    /// The maker's name for it, made printable: `NVIDIA H200`.
    pub name: String,
    /// What tells it from others of its kind, where there is such a thing.
    pub uuid: Option<String>,
    /// Its memory; `None` where the driver does not say.
    pub total_bytes: Option<u64>,
    /// What of it is free now.
    pub free_bytes: Option<u64>,
    /// Memory of the host that an integrated GPU may use, beside its own.
    pub shared_bytes: Option<u64>,
    /// Whether it has no memory of its own: what is told here is the host's memory, which is neither added to that nor to what
    /// another GPU has.
    #[serde(default)]
    pub unified: bool,
    /// Whether it is one of several instances of a GPU. A process uses one instance, so they are never added up.
    pub instance: bool,
    /// Why something is not known, or why it cannot be used.
    pub note: Option<String>,
    /// Whether programs of this user cannot use it, which is known: it counts as one that is not there.
    #[serde(default)]
    pub unusable: bool,
}

impl Device {
    /// Its name without the maker's, for narrow places.
    #[must_use]
    pub fn short_name(&self) -> &str {
        let name = self.name.as_str();
        let name = ["NVIDIA ", "AMD ", "Tesla ", "GeForce ", "Radeon "]
            .iter()
            .fold(name, |name, maker| name.strip_prefix(maker).unwrap_or(name));
        if name.is_empty() { &self.name } else { name }
    }

    /// The word of its name that people say, for still narrower places: `4090`, `H100`, `MI300X`.
    #[must_use]
    pub fn model_word(&self) -> &str {
        let name = ["RTX ", "GTX ", "Quadro ", "Instinct "]
            .iter()
            .fold(self.short_name(), |name, series| name.strip_prefix(series).unwrap_or(name));
        let word = name.split([' ', '-']).next().unwrap_or_default();
        if word.is_empty() { "GPU" } else { word }
    }
}

impl Device {
    /// Takes the host's memory for its own, if it has none.
    pub(crate) fn share(&mut self, ram: Option<Ram>) {
        if self.unified {
            (self.total_bytes, self.free_bytes) =
                ram.map_or((None, None), |ram| (Some(ram.total_bytes), Some(ram.available_bytes)));
        }
    }
}

/// The host's own memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Ram {
    /// All of it; in a container with a limit, that limit.
    pub total_bytes: u64,
    /// What a new process can have without swapping.
    pub available_bytes: u64,
}

/// The memory of a host, as it was measured.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct HostMemory {
    /// The GPUs.
    pub gpus: Vec<Device>,
    /// Why there are none, or why some may be missing.
    pub gpu_note: Option<String>,
    /// Whether there may be GPUs that are not among these: a driver that is here was not heard.
    pub gpus_unknown: bool,
    /// The host's own memory; `None` where it cannot be read.
    pub ram: Option<Ram>,
}

impl HostMemory {
    /// Why it is not known what the GPUs of this host hold; `None` where it is, also of a host that has none.
    #[must_use]
    pub fn unknown_gpus(&self) -> Option<String> {
        if self.gpus_unknown {
            return Some(self.gpu_note.clone().unwrap_or_else(|| "the driver does not answer".to_owned()));
        }
        let silent = |gpu: &&Device| gpu.free_bytes.is_none() && !gpu.unusable;
        let gpu = self.gpus.iter().find(silent)?;
        Some(format!("the free memory of {} is not known", gpu.label))
    }
}
