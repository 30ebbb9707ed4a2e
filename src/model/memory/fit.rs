//! Whether a model fits.

use serde::{Serialize, Serializer};

use super::{Device, HostMemory, MARGIN, Need};
use crate::model::Bytes;
use crate::model::size::grouped;

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
    /// The sum that was compared: of one GPU, over all devices of a split, or of the host's memory. Where the GPUs are not
    /// known, what one of them would need.
    pub need_bytes: Option<u64>,
    /// What was free where it was compared.
    pub free_bytes: Option<u64>,
    /// The devices that it was compared with.
    pub devices: Vec<String>,
    /// The parts of the sum.
    pub need: Option<Need>,
    /// What becomes of what the GPUs cannot hold, when some layers lie there and the rest in the host's memory.
    pub shared: Option<Shared>,
    /// Why nothing can be told, or what limits what is told.
    pub because: Option<String>,
}

/// A model some of whose layers lie on GPUs, the rest in the host's memory: slower than on GPUs alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Shared {
    /// Whether there is room for it.
    pub fits: bool,
    /// The sum over the GPUs and the host's memory.
    pub need_bytes: u64,
    /// What is free there, without what is to stay free on each GPU and what whole layers leave unused.
    pub room_bytes: u64,
    /// The GPUs.
    pub devices: Vec<String>,
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
                shared: None,
                because: Some(because),
            };
        }
    };
    let mut gpus: Vec<(&Device, u64)> = host.gpus.iter().filter_map(|gpu| Some((gpu, gpu.free_bytes?))).collect();
    // Stable: of equal ones the first is taken first.
    gpus.sort_by_key(|(_, free)| std::cmp::Reverse(*free));
    let on_gpus = on_one(&need, &gpus).or_else(|| on_several(&need, &gpus));
    let on_cpu = on_cpu(&need, host);
    let mut because = Vec::new();
    if need.at_most {
        because.push("the cache is an upper bound: not every layer may keep all of it".to_owned());
    }
    if let Some(trained) = need.beyond_training {
        because.push(format!("the model was trained for {} tokens", grouped(trained)));
    }
    // A GPU that nobody could ask may hold it: neither that it runs without one nor that it runs nowhere is known.
    if let (None, Some(unknown)) = (&on_gpus, host.unknown_gpus()) {
        because.push(format!("what the GPUs hold is not known: {unknown}"));
        because.extend(host.ram.map(|_| match &on_cpu {
            Some(_) => "the host's memory alone would do".to_owned(),
            None => "the host's memory alone would not do".to_owned(),
        }));
        return Fit {
            verdict: Verdict::Unknown,
            need_bytes: Some(need.gpu_bytes),
            free_bytes: None,
            devices: Vec::new(),
            need: Some(need),
            shared: None,
            because: Some(because.join("; ")),
        };
    }
    let shared = if on_gpus.is_none() { shared(&need, &gpus, host) } else { None };
    if on_gpus.is_none() {
        let unusable = host.gpus.iter().find(|gpu| gpu.unusable);
        let unusable = unusable.and_then(|gpu| Some(format!("{}: {}", gpu.label, gpu.note.as_ref()?)));
        let note = unusable.or_else(|| host.gpu_note.clone());
        because.extend(note.map(|note| format!("without the GPUs of this host: {note}")));
    }
    let found = on_gpus.or(on_cpu);
    if found.is_none() && host.ram.is_none() {
        because.push("the memory of this host is not known".to_owned());
    }
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
        shared,
        because: (!because.is_empty()).then(|| because.join("; ")),
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

/// Some layers on the GPUs that programs may use together, the rest in the host's memory. `None` where no GPU has room for a
/// layer, or the host's memory is not known.
fn shared(need: &Need, gpus: &[(&Device, u64)], host: &HostMemory) -> Option<Shared> {
    let ram = host.ram?.available_bytes;
    let fixed = need.overhead_bytes.saturating_add(need.compute_bytes);
    let movable = need.gpu_bytes.saturating_sub(fixed);
    // A layer is on one device as a whole, so each may leave room for less than one.
    let room = |free: u64| free.saturating_sub(fixed.saturating_add(MARGIN).saturating_add(need.layer_bytes));
    let whole = || gpus.iter().filter(|(gpu, _)| !gpu.instance && !gpu.unified);
    let mut taken: Vec<(&Device, u64)> =
        whole().map(|(gpu, free)| (*gpu, room(*free))).filter(|(_, room)| *room > 0).collect();
    if whole().next().is_none() {
        // A process uses one instance; the first has the most.
        let instance = gpus.iter().find(|(gpu, _)| gpu.instance);
        taken.extend(instance.map(|(gpu, free)| (*gpu, room(*free))).filter(|(_, room)| *room > 0));
    }
    if taken.is_empty() {
        return None;
    }
    let stays =
        need.host_weights_bytes.saturating_add(need.host_compute_bytes).saturating_add(need.host_overhead_bytes);
    let on_gpus = taken.iter().map(|(_, room)| *room).fold(0, u64::saturating_add);
    let in_ram = ram.saturating_sub(stays);
    Some(Shared {
        fits: stays <= ram && movable <= on_gpus.saturating_add(in_ram),
        need_bytes: movable.saturating_add(stays).saturating_add(fixed.saturating_mul(taken.len() as u64)),
        room_bytes: on_gpus.saturating_add(ram).saturating_add(fixed.saturating_mul(taken.len() as u64)),
        devices: taken.iter().map(|(gpu, _)| gpu.label.clone()).collect(),
    })
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
