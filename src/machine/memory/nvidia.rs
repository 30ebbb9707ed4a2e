//! NVIDIA's GPUs, through the driver's own library, which is opened while the program runs.

use std::collections::BTreeMap;
use std::path::PathBuf;

use nvml_wrapper::Nvml;
use nvml_wrapper::error::NvmlError;
use serde::{Deserialize, Serialize};

use super::smi;
use crate::model::memory::Device;
use crate::model::text;

/// More GPUs than any host has, and more instances than any GPU.
const MOST: u32 = 64;
/// What a name has room for in the driver, without its end.
const LONGEST_NAME: usize = 95;

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Reading {
    /// The GPUs; their labels are complete.
    pub(super) gpus: Vec<Device>,
    /// How many GPUs these are; one that is divided is several devices.
    pub(super) whole: usize,
    /// Why there are none, or why some may be missing.
    pub(super) note: Option<String>,
    /// Whether the driver itself said that there is none, so that the note leaves nothing open.
    #[serde(default)]
    pub(super) none: bool,
    /// Whether asking again soon is of no use.
    #[serde(skip)]
    pub(super) rest: bool,
}

/// What is known of a driver that has not answered.
pub(super) fn silent() -> Reading {
    Reading { note: Some("the NVIDIA driver does not answer".to_owned()), ..Reading::default() }
}

/// The opened library. It stays open, because opening it takes longer than asking it.
pub(super) struct Nvidia {
    libraries: Vec<PathBuf>,
    programs: Vec<PathBuf>,
    opened: Option<Nvml>,
}

impl Nvidia {
    /// `programs` are asked where the library of an old driver does not tell.
    pub(super) fn new(libraries: Vec<PathBuf>, programs: Vec<PathBuf>) -> Self {
        Self { libraries, programs, opened: None }
    }

    /// The GPUs and their memory now. It may take as long as a sick driver takes.
    pub(super) fn read(&mut self) -> Reading {
        if self.opened.is_none() {
            match open(&self.libraries) {
                Ok(nvml) => self.opened = Some(nvml),
                Err(note) => return Reading { note, ..Reading::default() },
            }
        }
        let Some(nvml) = &self.opened else { return Reading::default() };
        match read(nvml, &self.programs) {
            Ok(reading) => reading,
            Err(error) => {
                // A driver that was taken away or replaced needs a library that is opened anew.
                self.opened = None;
                Reading { note: Some(why(&error)), ..Reading::default() }
            }
        }
    }
}

/// The library; without one there is no driver here, which is nothing to say anything about.
fn open(libraries: &[PathBuf]) -> Result<Nvml, Option<String>> {
    let mut note = None;
    for library in libraries {
        match Nvml::builder().lib_path(library.as_os_str()).init() {
            Ok(nvml) => return Ok(nvml),
            Err(NvmlError::LibloadingError(error)) => {
                let reason = error.to_string();
                let mut source: Option<&(dyn std::error::Error + 'static)> = std::error::Error::source(&error);
                let mut reasons = vec![reason];
                while let Some(inner) = source {
                    reasons.push(inner.to_string());
                    source = inner.source();
                }
                let reason = reasons.join(": ");
                if !reason.contains("No such file") && note.is_none() {
                    note = Some(format!("the NVIDIA driver's library cannot be opened: {}", text::printable(&reason)));
                }
            }
            Err(NvmlError::LibraryNotFound) => {}
            Err(error) => note = Some(why(&error)),
        }
    }
    Err(note)
}

fn read(nvml: &Nvml, programs: &[PathBuf]) -> Result<Reading, NvmlError> {
    let count = nvml.device_count()?.min(MOST);
    let mut reading = Reading::default();
    let mut old = Old { programs, told: None };
    for index in 0..count {
        let label = format!("GPU{index}");
        let device = match nvml.device_by_index(index) {
            Ok(device) => device,
            // The count promised more than the driver knows.
            Err(NvmlError::InvalidArg) => break,
            Err(error) => {
                reading.whole += 1;
                reading.gpus.push(Device {
                    label,
                    name: "NVIDIA GPU".to_owned(),
                    note: Some(why(&error)),
                    unusable: out_of_use(&error),
                    ..Device::default()
                });
                continue;
            }
        };
        reading.whole += 1;
        // Of a GPU that is divided, the instances are what programs can use.
        let divided = device.mig_mode().is_ok_and(|mode| mode.current == 1);
        let before = reading.gpus.len();
        if divided {
            for instance in 0..device.mig_device_count().unwrap_or(0).min(MOST) {
                if let Ok(part) = device.mig_device_by_index(instance) {
                    reading.gpus.push(Device {
                        instance: true,
                        unified: false,
                        ..describe(&part, format!("{label}/{instance}"), &mut old)
                    });
                }
            }
        }
        if reading.gpus.len() == before {
            let mut whole = describe(&device, label, &mut old);
            if divided {
                (whole.free_bytes, whole.unified, whole.unusable) = (None, false, true);
                whole.note = Some("it is divided, and none of its instances is open to this user".to_owned());
            }
            reading.gpus.push(whole);
        }
    }
    if reading.gpus.is_empty() {
        reading.note = Some("the NVIDIA driver knows no GPU".to_owned());
        reading.none = true;
    }
    Ok(reading)
}

/// What `nvidia-smi` tells in the place of an old library, asked once a look.
struct Old<'a> {
    programs: &'a [PathBuf],
    told: Option<BTreeMap<String, (u64, u64)>>,
}

impl Old<'_> {
    fn memory(&mut self, uuid: Option<&str>) -> Option<(u64, u64)> {
        let told = self.told.get_or_insert_with(|| smi::memory(self.programs));
        told.get(uuid?).copied()
    }
}

fn describe(device: &nvml_wrapper::Device<'_>, label: String, old: &mut Old<'_>) -> Device {
    // A name that the driver did not end is read into what lies behind it.
    let name = device.name().map_or_else(
        |_| "NVIDIA GPU".to_owned(),
        |name| text::printable(&name.chars().take(LONGEST_NAME).collect::<String>()),
    );
    let uuid = device.uuid().ok().map(|uuid| text::printable(&uuid));
    let told = device.memory_info();
    let unusable = told.as_ref().is_err_and(out_of_use);
    let unified = matches!(&told, Ok(memory) if memory.total == 0) || matches!(told, Err(NvmlError::NotSupported));
    let (total_bytes, free_bytes, note) = match told {
        _ if unified => (None, None, Some("it has no memory of its own: it shares the host's".to_owned())),
        Ok(memory) => figures(memory.total, memory.free),
        Err(NvmlError::FailedToLoadSymbol(_)) => match old.memory(uuid.as_deref()) {
            Some((total, free)) => figures(total, free),
            None => (None, None, Some("its driver is too old to tell its memory".to_owned())),
        },
        Err(error) => (None, None, Some(why(&error))),
    };
    Device { label, name, uuid, total_bytes, free_bytes, note, unified, unusable, ..Device::default() }
}

/// Whether nothing can use that GPU before it is reset.
fn out_of_use(error: &NvmlError) -> bool {
    matches!(error, NvmlError::GpuLost | NvmlError::ResetRequired)
}

/// All memory and what of it is free, as far as that makes sense.
fn figures(total: u64, free: u64) -> (Option<u64>, Option<u64>, Option<String>) {
    match free {
        free if free <= total => (Some(total), Some(free), None),
        _ => (Some(total), None, Some("its driver says that more is free than there is".to_owned())),
    }
}

/// What a person can do about it.
fn why(error: &NvmlError) -> String {
    match error {
        NvmlError::DriverNotLoaded => "the NVIDIA driver is installed but not loaded".to_owned(),
        NvmlError::LibRmVersionMismatch => {
            "the NVIDIA library and the loaded driver differ; restart the host after the update".to_owned()
        }
        NvmlError::GpuLost => "it is lost; it needs a reset".to_owned(),
        NvmlError::ResetRequired => "it needs a reset".to_owned(),
        NvmlError::NoPermission => "this user may not ask".to_owned(),
        NvmlError::NotSupported => "the NVIDIA driver does not tell".to_owned(),
        error => format!("the NVIDIA driver says: {}", text::printable(&error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_library_there_is_nothing_to_say() {
        let scratch = tempfile::tempdir().unwrap();
        let mut nvidia = Nvidia::new(vec![scratch.path().join("libnvidia-ml.so.1")], Vec::new());
        assert_eq!(nvidia.read(), Reading::default());
        assert_eq!(nvidia.read(), Reading::default());
        assert_eq!(Nvidia::new(Vec::new(), Vec::new()).read(), Reading::default());
    }

    #[test]
    fn a_library_that_is_broken_is_a_reason_and_no_error() {
        let scratch = tempfile::tempdir().unwrap();
        let library = scratch.path().join("libnvidia-ml.so.1");
        for content in [&b""[..], b"\x7fELF no library"] {
            std::fs::write(&library, content).unwrap();
            let reading = Nvidia::new(vec![library.clone()], Vec::new()).read();
            assert!(reading.gpus.is_empty());
            assert!(reading.note.as_deref().is_some_and(|note| note.contains("cannot be opened")), "{reading:?}");
        }
    }
}
