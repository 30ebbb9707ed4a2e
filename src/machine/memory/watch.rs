//! Asking for the memory with a time limit: a sick GPU must hold up nobody.

use std::ffi::OsString;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::helper::Helper;
use super::nvidia::{Nvidia, Reading, silent};
use super::{Roots, ram, sysfs};
use crate::model::memory::HostMemory;

/// How long NVIDIA's driver may take to answer. The first answer wakes GPUs that nobody uses, which takes a second.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long a host without NVIDIA's library, or with one that breaks, is not asked again.
const REST: Duration = Duration::from_secs(60);

/// Reads the memory of this host. Clones share the opened library; nothing is opened before the first question.
#[derive(Clone, Debug)]
pub struct MemoryProbe {
    roots: Arc<Roots>,
    helper: Option<Vec<OsString>>,
    asked: Arc<Mutex<Asked>>,
}

/// What is known of the thread that asks the driver.
#[derive(Debug, Default)]
struct Asked {
    worker: Option<Worker>,
    /// Whether an answer is still to come.
    waiting: bool,
    /// What was found when asking again soon was of no use, and when.
    rest: Option<(Instant, Reading)>,
}

#[derive(Debug)]
struct Worker {
    questions: mpsc::Sender<()>,
    answers: mpsc::Receiver<Reading>,
}

impl Default for MemoryProbe {
    fn default() -> Self {
        Self::new(Roots::default())
    }
}

impl MemoryProbe {
    /// A probe that looks there.
    #[must_use]
    pub fn new(roots: Roots) -> Self {
        Self { roots: Arc::new(roots), helper: None, asked: Arc::default() }
    }

    /// Asks NVIDIA's driver in a process of its own: `command` is a program that answers as [`super::GpuDriver`] does, for
    /// each byte of its standard input with one line, and ends when that closes. Without one the driver is asked on a thread
    /// of this process, which then cannot end before a driver that hangs while its library is opened.
    #[must_use]
    pub fn asking_through(mut self, command: Option<Vec<OsString>>) -> Self {
        self.helper = command;
        self
    }

    /// The memory now. It blocks for a few seconds at most: call it on a blocking thread.
    #[must_use]
    pub fn read(&self) -> HostMemory {
        let (libraries, programs) = (self.roots.nvml.clone(), self.roots.nvidia_smi.clone());
        let helper = self.helper.clone();
        let Reading { mut gpus, whole, note, none, .. } =
            self.nvidia(PATIENCE, move || -> Box<dyn FnMut() -> Reading> {
                if let Some(command) = helper {
                    let mut helper = Helper::new(command);
                    return Box::new(move || helper.read());
                }
                let mut nvidia = Nvidia::new(libraries, programs);
                Box::new(move || nvidia.read())
            });
        for (number, mut card) in (whole..).zip(sysfs::cards(&self.roots)) {
            card.label = format!("GPU{number}");
            gpus.push(card);
        }
        let ram = ram::ram(&self.roots);
        gpus.iter_mut().for_each(|gpu| gpu.share(ram));
        HostMemory { gpus, gpus_unknown: note.is_some() && !none, gpu_note: note, ram }
    }

    /// What the driver answers within `patience`. It is asked on a thread of its own, which stays for the next question; one
    /// that hangs is not asked again before it has answered.
    fn nvidia<F: FnMut() -> Reading>(
        &self,
        patience: Duration,
        driver: impl FnOnce() -> F + Send + 'static,
    ) -> Reading {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, reading)) = asked.rest.as_ref().filter(|(since, _)| since.elapsed() < REST) {
            return reading.clone();
        }
        if asked.worker.is_none() {
            let (questions, asked_for) = mpsc::channel();
            let (told, answers) = mpsc::channel();
            let body = move || {
                let mut read = driver();
                while asked_for.recv().is_ok() {
                    if told.send(read()).is_err() {
                        break;
                    }
                }
            };
            if let Err(error) = std::thread::Builder::new().name("gpus".to_owned()).spawn(body) {
                return Reading {
                    note: Some(format!("no thread to ask the driver with: {error}")),
                    ..Reading::default()
                };
            }
            asked.worker = Some(Worker { questions, answers });
            asked.waiting = false;
        }
        let Some(worker) = &asked.worker else { return silent() };
        if !asked.waiting && worker.questions.send(()).is_err() {
            asked.worker = None;
            return silent();
        }
        // An answer to an earlier question is old by now, but it tells that the driver lives.
        let answer = worker.answers.recv_timeout(patience);
        match answer {
            Ok(reading) => {
                asked.waiting = false;
                if reading.rest || reading == Reading::default() {
                    asked.rest = Some((Instant::now(), reading.clone()));
                    asked.worker = None;
                }
                reading
            }
            Err(RecvTimeoutError::Timeout) => {
                asked.waiting = true;
                silent()
            }
            Err(RecvTimeoutError::Disconnected) => {
                asked.worker = None;
                silent()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::machine::memory::fixtures::below;
    use crate::model::memory::Device;

    #[test]
    fn a_host_that_tells_nothing_is_no_error() {
        let probe = MemoryProbe::new(below(Path::new("/nonexistent")));
        assert_eq!(probe.read(), HostMemory::default());
        assert_eq!(probe.read(), HostMemory::default());
    }

    #[test]
    fn a_driver_that_hangs_is_asked_once_and_believed_when_it_answers() {
        let probe = MemoryProbe::new(below(Path::new("/nonexistent")));
        let (release, gate) = mpsc::channel::<()>();
        let found = || Reading {
            gpus: vec![Device { label: "GPU0".to_owned(), ..Device::default() }],
            whole: 1,
            ..Reading::default()
        };
        let driver = move || {
            move || {
                gate.recv().unwrap();
                found()
            }
        };
        let silent = probe.nvidia(Duration::from_millis(1), driver);
        assert!(silent.note.unwrap().contains("does not answer"));
        let never = || -> fn() -> Reading { panic!("a second thread") };
        assert!(probe.nvidia(Duration::from_millis(1), never).note.is_some());
        release.send(()).unwrap();
        assert_eq!(probe.nvidia(Duration::from_secs(30), never), found());
        // One thread answers every question.
        release.send(()).unwrap();
        assert_eq!(probe.nvidia(Duration::from_secs(30), never), found());
    }

    #[test]
    fn a_driver_that_breaks_is_started_anew() {
        let probe = MemoryProbe::new(below(Path::new("/nonexistent")));
        let broken = || || -> Reading { panic!("the driver broke") };
        assert!(probe.nvidia(Duration::from_secs(30), broken).note.is_some());
        let sound = || || Reading { note: Some("none".to_owned()), ..Reading::default() };
        assert_eq!(probe.nvidia(Duration::from_secs(30), sound).note.as_deref(), Some("none"));
    }
}
