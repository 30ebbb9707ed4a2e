//! Whether a model fits.

use serde::{Serialize, Serializer};

use super::{Device, HostMemory, MARGIN, Need};
use crate::model::Bytes;

/// Where a model fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Verdict {
    /// On one GPU, with room to spare.
    Fits,
    /// On one GPU, but it leaves less free there than programs are used to.
    Tight,
    /// On so many GPUs together.
    Split(usize),
    /// In the host's memory only.
    CpuOnly,
    /// Nowhere.
    No,
    /// That cannot be told.
    Unknown,
}

impl Verdict {
    /// The word for tables.
    #[must_use]
    pub fn word(self) -> String {
        match self {
            Self::Fits => "fits".to_owned(),
            Self::Tight => "tight".to_owned(),
            Self::Split(gpus) => format!("fits {gpus} GPUs"),
            Self::CpuOnly => "CPU only".to_owned(),
            Self::No => "no".to_owned(),
            Self::Unknown => "unknown".to_owned(),
        }
    }
}

impl Serialize for Verdict {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.word())
    }
}

/// Whether a model fits, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fit {
    /// The word.
    pub verdict: Verdict,
    /// The sum that was compared: of one GPU, over all devices of a split, or of the host's memory.
    pub need_bytes: Option<u64>,
    /// What was free where it was compared.
    pub free_bytes: Option<u64>,
    /// The devices that it was compared with.
    pub devices: Vec<String>,
    /// The parts of the sum.
    pub need: Option<Need>,
    /// Why nothing can be told, or what limits what is told.
    pub because: Option<String>,
}

/// Compares what a model needs with what is free now.
#[must_use]
pub fn fit(need: Result<Need, String>, host: &HostMemory) -> Fit {
    let need = match need {
        Ok(need) => need,
        Err(because) => {
            return Fit {
                verdict: Verdict::Unknown,
                need_bytes: None,
                free_bytes: None,
                devices: Vec::new(),
                need: None,
                because: Some(because),
            };
        }
    };
    let mut gpus: Vec<(&Device, u64)> = host.gpus.iter().filter_map(|gpu| Some((gpu, gpu.free_bytes?))).collect();
    // Stable: of equal ones the first is taken first.
    gpus.sort_by_key(|(_, free)| std::cmp::Reverse(*free));
    let found = on_one(&need, &gpus).or_else(|| on_several(&need, &gpus)).or_else(|| on_cpu(&need, host));
    let unknown_gpus = host.gpus.iter().any(|gpu| gpu.free_bytes.is_none());
    let because = match (&found, host.ram) {
        (_, _) if need.at_most => Some("the cache is an upper bound: not every layer may keep all of it".to_owned()),
        (None | Some(Found { verdict: Verdict::CpuOnly, .. }), _) if unknown_gpus => {
            Some("the free memory of some GPUs is not known".to_owned())
        }
        (None | Some(Found { verdict: Verdict::CpuOnly, .. }), _) if host.gpu_note.is_some() => {
            host.gpu_note.as_ref().map(|note| format!("without the GPUs of this host: {note}"))
        }
        (None, None) => Some("the memory of this host is not known".to_owned()),
        _ => None,
    };
    let found = found.unwrap_or_else(|| {
        let nothing_known = gpus.is_empty() && host.ram.is_none();
        let largest = gpus.first();
        let free = largest.map(|(_, free)| *free).or(host.ram.map(|ram| ram.available_bytes));
        Found {
            verdict: if nothing_known { Verdict::Unknown } else { Verdict::No },
            need: largest.map_or(need.cpu_bytes, |(gpu, _)| need.on(gpu)),
            free,
            devices: vec![largest.map_or_else(|| "RAM".to_owned(), |(gpu, _)| gpu.label.clone())],
        }
    });
    Fit {
        verdict: found.verdict,
        need_bytes: Some(found.need),
        free_bytes: found.free,
        devices: found.devices,
        need: Some(need),
        because,
    }
}

struct Found {
    verdict: Verdict,
    need: u64,
    free: Option<u64>,
    devices: Vec<String>,
}

fn on_one(need: &Need, gpus: &[(&Device, u64)]) -> Option<Found> {
    let judge = |(gpu, free): &(&Device, u64)| {
        let needed = need.on(gpu);
        let verdict = match needed {
            bytes if bytes.saturating_add(MARGIN) <= *free => Verdict::Fits,
            bytes if bytes <= *free => Verdict::Tight,
            _ => return None,
        };
        Some(Found { verdict, need: needed, free: Some(*free), devices: vec![gpu.label.clone()] })
    };
    // Of equal verdicts that with the most room.
    gpus.iter().filter_map(judge).min_by_key(|found| found.verdict)
}

impl Need {
    /// The sum on that GPU.
    fn on(&self, gpu: &Device) -> u64 {
        if gpu.unified { self.unified_bytes } else { self.gpu_bytes }
    }
}

/// The smallest number of GPUs that hold it together. Each has an overhead, a compute buffer and a margin of its own; a
/// layer is on one of them as a whole.
fn on_several(need: &Need, gpus: &[(&Device, u64)]) -> Option<Found> {
    let fixed = need.overhead_bytes.saturating_add(need.compute_bytes);
    let movable = need.gpu_bytes.saturating_sub(fixed);
    let whole: Vec<&(&Device, u64)> = gpus.iter().filter(|(gpu, _)| !gpu.instance && !gpu.unified).collect();
    for count in 2..=whole.len() {
        let taken = whole.get(..count).unwrap_or_default();
        let room = taken
            .iter()
            .map(|(_, free)| free.saturating_sub(fixed.saturating_add(MARGIN)))
            .fold(0, u64::saturating_add);
        let more = (count as u64) - 1;
        if movable.saturating_add(need.layer_bytes.saturating_mul(more)) <= room {
            return Some(Found {
                verdict: Verdict::Split(count),
                need: need.gpu_bytes.saturating_add(fixed.saturating_mul(more)),
                free: Some(taken.iter().map(|(_, free)| *free).fold(0, u64::saturating_add)),
                devices: taken.iter().map(|(gpu, _)| gpu.label.clone()).collect(),
            });
        }
    }
    None
}

fn on_cpu(need: &Need, host: &HostMemory) -> Option<Found> {
    let available = host.ram?.available_bytes;
    (need.cpu_bytes <= available).then(|| Found {
        verdict: Verdict::CpuOnly,
        need: need.cpu_bytes,
        free: Some(available),
        devices: vec!["RAM".to_owned()],
    })
}

impl Fit {
    /// The figure beside the word: what it needs.
    #[must_use]
    pub fn figure(&self) -> Option<String> {
        self.need_bytes.map(|bytes| Bytes(bytes).to_string())
    }

    /// Word and figure in one line: `fits, 6.05 GiB`.
    #[must_use]
    pub fn label(&self) -> String {
        match self.figure() {
            Some(figure) => format!("{}, {figure}", self.verdict.word()),
            None => self.verdict.word(),
        }
    }
}
